//! The counter of write stamps.
//!
//! *Guarantees*: no stamp is given out twice while the limit on disk lies ahead of the counter. A
//! part of them is kept for durable states, which alone raise the limit.

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::sync::atomic::{AtomicU64, Ordering};

/// This part of the stamps that a durable state brings is left to the next one.
const KEPT_PART: u64 = 8;
/// They are running low when less than this part is left.
const LOW_PART: u64 = 2;

/// What a stamp is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampUse {
    /// A node or a value.
    Node,
    /// A free map, or a state.
    DurableState,
}

/// The next stamp of a file.
///
/// # Errors
/// `NoSpace` when those for such a use are used up.
pub fn take_stamp(stamps: &StampCounter, wanted_for: StampUse, file: &dyn Storage) -> Result<u32> {
    stamps.next_stamp(wanted_for).ok_or_else(|| Error::NoSpace {
        operation: "a write stamp, before the next durable state".into(),
        file: file.name(),
    })
}

/// Counts write stamps up to a limit that a durable state names.
#[derive(Debug)]
pub struct StampCounter {
    next: AtomicU64,
    limit: AtomicU64,
    /// How many a durable state brings.
    brought: u64,
}

impl StampCounter {
    /// Gives out `next` first, and nothing from `limit` on. Each durable state raises the limit by
    /// about as many as there are now.
    pub fn new(next: u64, limit: u64) -> StampCounter {
        let brought = limit.saturating_sub(next);
        StampCounter { next: AtomicU64::new(next), limit: AtomicU64::new(limit), brought }
    }

    /// The next stamp, as nodes carry it; `None` when those for such a use are used up.
    pub fn next_stamp(&self, wanted_for: StampUse) -> Option<u32> {
        let limit = self.limit.load(Ordering::Acquire);
        let end = match wanted_for {
            StampUse::Node => limit.saturating_sub(self.brought / KEPT_PART),
            StampUse::DurableState => limit,
        };
        let following = |next: u64| (next < end).then(|| next.saturating_add(1));
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following);
        // Modulo 2^32, as the format says.
        taken.ok().map(|stamp| stamp as u32)
    }

    /// True when the next durable state should be made soon.
    pub fn are_low(&self) -> bool {
        self.limit().saturating_sub(self.value()) < self.brought / LOW_PART
    }

    /// The stamp that comes next, all bits of it.
    pub fn value(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Where stamps end until the next durable state.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Raises the limit, once a durable state that names it is on disk.
    pub fn set_limit(&self, limit: u64) {
        self.limit.fetch_max(limit, Ordering::Release);
    }
}
