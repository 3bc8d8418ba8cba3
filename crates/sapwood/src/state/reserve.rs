//! The reserve: pages of the file that are kept free, so that a full device or file can be emptied.
//!
//! *Assumes*: pages inside the file are the device's promise (docs/durability.md says where they
//! are not). *Guarantees*: docs/architecture.md, section 6, rules F1 to F7. *Threads*: any; one
//! atomic load when there is room.

use super::core::Core;
use crate::error::{Error, Result};
use crate::options::{Options, RESERVE_STATE_BYTES};

/// What a flush takes of leaves that are not full, and for parents and filters.
const FLUSH_LEAVES: u64 = 4;
const FLUSH_REST_BYTES: u64 = 64 << 10;

/// What a commit brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brings {
    /// New data: the whole reserve stays.
    #[default]
    Data,
    /// Deletions, or changes of the catalogue: what merges need stays.
    Deletions,
}

/// The parts of the reserve, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserve {
    /// All of it: commits of data leave so much. 0: there is none, and nothing is asked.
    pub all: u64,
    /// What commits of deletions leave: a merge step and a durable state.
    pub for_merges: u64,
    /// What merge steps leave: a durable state.
    pub for_states: u64,
}

impl Reserve {
    pub(crate) fn new(options: &Options, page_size: u32) -> Reserve {
        let pages = |bytes: u64| bytes.div_ceil(u64::from(page_size.max(1)));
        let bytes = options.reserve_bytes();
        let step = options.least_step_bytes();
        Reserve {
            all: pages(bytes),
            // A file that is limited to a few MiB has a smaller one: all parts shrink with it.
            for_merges: pages((RESERVE_STATE_BYTES + step).min(bytes / 4 * 3)),
            for_states: pages(RESERVE_STATE_BYTES.min(bytes / 4)),
        }
    }
}

fn pages_of(core: &Core, bytes: u64) -> u64 {
    bytes.div_ceil(u64::from(core.pages.layout().page_size))
}

/// What memtables will take when they are flushed, in pages: leaves are not filled to the last
/// byte, values of their own are rounded up, and every flush writes some nodes that are not full.
fn owed_pages(core: &Core) -> u64 {
    let held = core.memtable_bytes() as u64;
    // Memory is taken in chunks; the log knows what is in them. An entry takes more in a leaf than
    // in a record, but not three times as much.
    let logged = core.log.positions().end.0.saturating_sub(core.state().cut.position.0);
    let bytes = (held + held / 4).min(logged.saturating_mul(3));
    let leaves = FLUSH_LEAVES * u64::from(core.options.leaf_pages_bytes());
    pages_of(core, bytes + leaves + FLUSH_REST_BYTES)
}

/// The free pages with which a commit of so many bytes may go on.
fn wanted_pages(core: &Core, brings: Brings, bytes: usize) -> u64 {
    let kept = match brings {
        Brings::Data => core.reserve.all,
        Brings::Deletions => core.reserve.for_merges,
    };
    let bytes = bytes as u64;
    owed_pages(core) + kept + pages_of(core, bytes + bytes / 4)
}

/// Whether a commit of so many bytes leaves what it must (F1, F2), as the file is.
pub fn has_room(core: &Core, brings: Brings, bytes: usize) -> bool {
    core.reserve.all == 0
        || core.pages.allocator().free_pages() >= wanted_pages(core, brings, bytes)
}

/// The same; the file grows where it must.
///
/// # Errors
/// `NoSpace`: nothing was promised.
pub fn make_room(core: &Core, brings: Brings, bytes: usize) -> Result<()> {
    if core.reserve.all == 0 {
        return Ok(());
    }
    core.pages.allocator().ensure_free(wanted_pages(core, brings, bytes))
}

/// The free pages that whoever writes a value for a commit of data leaves.
pub fn kept_by_data(core: &Core) -> u64 {
    if core.reserve.all == 0 { 0 } else { wanted_pages(core, Brings::Data, 0) }
}

/// How many pages a merge step may read of its sources, and of its destination (F4).
///
/// # Errors
/// `NoSpace` when there is no room for the least step.
pub fn step_pages(core: &Core) -> Result<u64> {
    let page_size = u64::from(core.pages.layout().page_size);
    let full = (core.options.step_bytes / page_size).max(8);
    if core.reserve.all == 0 {
        return Ok(full);
    }
    let kept = owed_pages(core) + core.reserve.for_states;
    let allocator = core.pages.allocator();
    let refused = match allocator.ensure_free(kept + 3 * full) {
        Ok(()) => return Ok(full),
        Err(error @ Error::NoSpace { .. }) => error,
        Err(error) => return Err(error),
    };
    let room = allocator.free_pages().saturating_sub(kept);
    if room < core.reserve.for_merges - core.reserve.for_states {
        return Err(refused);
    }
    Ok((room / 3).clamp(8, full))
}
