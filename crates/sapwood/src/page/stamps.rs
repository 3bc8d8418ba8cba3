//! The counter of write stamps.
//!
//! *Guarantees*: no stamp is given out twice while the limit on disk lies ahead of the counter.

use crate::sync::atomic::{AtomicU64, Ordering};

/// Counts write stamps up to a limit that a durable state names.
#[derive(Debug)]
pub struct StampCounter {
    next: AtomicU64,
    limit: AtomicU64,
}

impl StampCounter {
    /// Gives out `next` first, and nothing from `limit` on.
    pub fn new(next: u64, limit: u64) -> StampCounter {
        StampCounter { next: AtomicU64::new(next), limit: AtomicU64::new(limit) }
    }

    /// The next stamp, as nodes carry it.
    pub fn next_stamp(&self) -> u32 {
        let stamp = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(
            stamp < self.limit.load(Ordering::Acquire),
            "write stamps are used up: a durable state must raise their limit in time"
        );
        // Modulo 2^32, as the format says.
        stamp as u32
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
