//! Makes a new database in an empty file.
//!
//! *Guarantees*: a crash before the first header slot is on disk leaves a file that counts as new.
//! *Format*: docs/format.md, section 2.

use super::backlog::PromotedLeaves;
use super::catalogue::Catalogue;
use super::core::{CommitNumbers, Core, CoreParts};
use super::dead_list::{HeldStates, ListLimits};
use super::durable::{
    Durable, DurableInner, KEYSPACE_LIMIT_AHEAD, LIMIT_AHEAD, Limits, log_block_pages,
};
use super::log_named::LogNamed;
use super::manifest::{self, Counters, LogSection, Manifest};
use super::pending_blocks::PendingBlocks;
use super::state::{Contents, Cut, State};
use super::view::{MemtableSlot, View};
use crate::error::{Error, Result};
use crate::log::ring::{Ring, RingList};
use crate::log::stream::{BlockStream, prepare_blocks};
use crate::log::writer::{AppendError, LogStart, LogWriter};
use crate::memtable::{ChunkPool, Memtable};
use crate::options::Options;
use crate::page::file_header::{write_making_mark, write_slot};
use crate::page::{
    Block, HeaderSlot, Layout, MemoryBudget, PageManager, PageOptions, StateLocation,
};
use crate::storage::{Storage, SyncGate};
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Arc, Clock, Random};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

/// Makes a database in `storage`, which is empty.
///
/// # Errors
/// When the options do not fit, or the file cannot be written.
pub(crate) fn create(
    storage: Arc<dyn Storage>,
    options: Options,
    clock: Clock,
) -> Result<Arc<Core>> {
    let mut identity = [0; 16];
    Random::from_entropy().fill(&mut identity);
    let layout =
        Layout::new(options.page_size, options.reserved_bytes, options.region_bytes, identity)?;
    let budget = Arc::new(MemoryBudget::of(&options));
    let page_options = PageOptions {
        storage: storage.clone(),
        layout,
        budget: budget.clone(),
        max_file_bytes: options.max_file_bytes,
    };
    write_making_mark(&*storage)?;
    let pages = PageManager::create(page_options, options.stamps_ahead)?;
    if options.memory_map {
        pages.read_in_place();
    }
    let stream = BlockStream::new(storage.clone(), layout.page_size, layout.usable_bytes() as u32);
    let sync_gate = Arc::new(SyncGate::new(clock.clone()));
    let stream = stream.through(&sync_gate);
    let blocks = allocate_log(&pages, options.log_bytes_min)?;
    prepare_blocks(&stream, &blocks)?;
    let list = RingList { start: LogPosition(0), blocks: blocks.clone() };
    let ring = Ring::new(&list, stream.usable_bytes())?;
    let log = LogWriter::open(stream, ring, layout.seed(), LogStart::empty(LogPosition(0)));

    let contents = Contents { epoch: Epoch(1), ..Contents::default() };
    let limits = ListLimits::new(&budget, options.dead_list_bytes);
    let held = HeldStates::new(&budget, limits);
    let state = State::new(contents.clone(), PromotedLeaves::default(), &budget, held.releases());
    let limits = Limits {
        sequence: LIMIT_AHEAD,
        epoch: LIMIT_AHEAD,
        keyspace: KEYSPACE_LIMIT_AHEAD,
        segment: LIMIT_AHEAD,
    };
    let slot = write_first_state((&pages, &sync_gate), contents, limits, &list)?;
    log.record_state(Epoch(1), 1)?;
    // From here on both slots are there: one that cannot be read is damage, and no file that was
    // never complete. The log names the second one, too, before anything is written over the first:
    // what no record names is written again by the next open, with nothing else to fall back on.
    write_slot(&*storage, &sync_gate, &HeaderSlot { generation: 2, ..slot })?;
    match log.plan_list(LogPosition(0), &[], 0) {
        Ok(_) => log.record_state(Epoch(1), 2)?,
        Err(AppendError::Failed(error)) => return Err(error),
        Err(AppendError::Full(_)) => unreachable!("a new log has room for two states"),
    };
    storage
        .sync_directory()
        .map_err(|error| Error::io("syncing the directory", storage.name(), error))?;
    let pool = Arc::new(ChunkPool::new((options.memory_budget / 8) as usize));
    let active = MemtableSlot::new(Memtable::new(pool.clone()), Cut::default(), Epoch(1));
    let durable = DurableInner {
        generation: 2,
        state: Some(state.clone()),
        own_blocks: Vec::new(),
        opened: None,
        limits,
        log_blocks: blocks,
        settled_at: None,
    };
    Ok(Core::new(CoreParts {
        pending: Arc::new(PendingBlocks::new(pages.budget())),
        pages,
        log,
        clock,
        sync_gate,
        options,
        view: View { active, sealed: Vec::new(), state },
        catalogue: Catalogue::default(),
        numbers: CommitNumbers {
            next_sequence: AtomicU64::new(1),
            next_keyspace: AtomicU32::new(1),
        },
        next_epoch: Epoch(2),
        next_segment: 1,
        visible: SequenceNumber(0),
        held,
        log_named: LogNamed::new(&budget),
        durable: Durable::new(durable),
        pool,
        packed: Epoch(0),
    }))
}

/// The number of the first keyspace: 0 is none.
pub const FIRST_KEYSPACE: KeyspaceNumber = KeyspaceNumber(1);

fn allocate_log(pages: &PageManager, bytes: u64) -> Result<Vec<Block>> {
    let layout = pages.layout();
    let block_pages = log_block_pages(layout);
    // With fewer than two blocks the log could not be reused in parts.
    let block_bytes = u64::from(block_pages) * u64::from(layout.page_size);
    let count = bytes.min(1 << 32).div_ceil(block_bytes).max(4);
    let mut blocks = Vec::new();
    for _ in 0..count {
        let block = pages.allocator().allocate(block_pages, 0)?;
        pages.allocator().reference(block);
        blocks.push(block);
    }
    Ok(blocks)
}

/// Writes maps, state and slot of generation 1.
fn write_first_state(
    (pages, gate): (&PageManager, &SyncGate),
    contents: Contents,
    limits: Limits,
    list: &RingList,
) -> Result<HeaderSlot> {
    let storage = pages.storage();
    let captured = pages.allocator().capture(&[]);
    let regions = pages.allocator().write_captured(&captured)?;
    let file_pages = captured.file_pages();
    let manifest = Manifest {
        counters: Counters {
            sequence_limit: limits.sequence,
            epoch_limit: limits.epoch,
            stamp_limit: pages.stamp_limit(),
            keyspace_limit: limits.keyspace,
            segment_limit: limits.segment,
            clean: None,
        },
        log: LogSection {
            durable: LogPosition(0),
            first_position: list.start,
            blocks: list.blocks.clone(),
        },
        regions,
        file_pages,
        packed: Epoch(0),
        contents,
    };
    let encoded = manifest::encode(&manifest);
    let location = StateLocation::Inline(encoded);
    let slot = HeaderSlot::new(pages.layout(), 1, Epoch(1), file_pages, location);
    gate.run(|| storage.sync_data())
        .map_err(|error| Error::io("syncing the file", storage.name(), error))?;
    write_slot(&**storage, gate, &slot)?;
    pages.allocator().captured_durable(captured);
    Ok(slot)
}
