//! How often, and how long, the file was synced, and whether that has failed.
//!
//! *Guarantees*: each sync that goes through here counts, one that fails too. *Threads*: any; two
//! looks at the clock and three atomic operations for each sync.

use std::time::Duration;

use crate::sync::Clock;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub struct SyncTimes {
    clock: Clock,
    count: AtomicU64,
    total_nanoseconds: AtomicU64,
    longest_nanoseconds: AtomicU64,
    has_failed: AtomicBool,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCounts {
    /// Syncs, and writes that were synced.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
}

impl SyncTimes {
    /// Counts from now on, by this clock.
    pub fn new(clock: Clock) -> SyncTimes {
        let [count, total_nanoseconds, longest_nanoseconds] = [0; 3].map(AtomicU64::new);
        let has_failed = AtomicBool::new(false);
        SyncTimes { clock, count, total_nanoseconds, longest_nanoseconds, has_failed }
    }

    /// Runs a sync, and counts it.
    pub fn count<T, E>(&self, sync: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = self.clock.now();
        let result = sync();
        if result.is_err() {
            self.has_failed.store(true, Ordering::SeqCst);
        }
        let took = self.clock.now().saturating_sub(begun);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.total_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        self.longest_nanoseconds.fetch_max(nanoseconds, Ordering::Relaxed);
        result
    }

    /// True once a sync has failed. The system tells that once: of what that sync was to bring to
    /// the disk, one that comes later, or has run beside it, says that all is well.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// What was counted so far.
    pub fn counts(&self) -> SyncCounts {
        let duration = |counter: &AtomicU64| Duration::from_nanos(counter.load(Ordering::Relaxed));
        SyncCounts {
            count: self.count.load(Ordering::Relaxed),
            total: duration(&self.total_nanoseconds),
            longest: duration(&self.longest_nanoseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sync_counts_with_its_time_and_the_longest_is_kept() {
        let (clock, hand) = Clock::fake();
        let times = SyncTimes::new(clock);
        for milliseconds in [3, 7, 5] {
            let took = Duration::from_millis(milliseconds);
            let result = times.count(|| {
                hand.advance(took);
                Err::<(), _>(milliseconds)
            });
            assert_eq!(result, Err(milliseconds), "what it returns goes through");
            assert!(times.has_failed());
            hand.advance(Duration::from_secs(1));
        }
        let (total, longest) = (Duration::from_millis(15), Duration::from_millis(7));
        assert_eq!(times.counts(), SyncCounts { count: 3, total, longest });
    }
}
