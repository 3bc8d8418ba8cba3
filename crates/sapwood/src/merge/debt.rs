//! How much merging is due.
//!
//! *Guarantees*: pure arithmetic over a state; the same state gives the same answer.

use crate::state::{Backlog, Contents, Levels};
use crate::types::KeyspaceNumber;

/// So many young segments are merged at once. Simulated at 64 million random pairs, merging eight
/// at once costs 4.5 bytes for each byte of the user, four 5.8, one 11.1 (log and flush not
/// counted).
pub const YOUNG_MERGE_COUNT: usize = 8;

/// With so many young segments, the parts of those that are being merged counted, writers are
/// slowed to the pace of merging.
pub const YOUNG_SLOW_COUNT: usize = 20;

/// From this debt of young segments on they are merged before anything else, and a commit waits
/// until there is less, however many steps that takes. What is paid for counts bytes, and debt
/// counts segments: where each commit brings a tiny one (`flush` after each; large transactions of
/// little data), bytes alone bound nothing.
pub const YOUNG_DEBT_MAX: f64 = 4.0;

/// So many segments may stand in the level above the last before they are promoted.
pub const ABOVE_COUNT_MAX: usize = 4;

/// With so many of them writers are slowed to the pace of merging. Those that were there when a
/// merge began, and as many that came meanwhile, are within what is allowed.
pub const ABOVE_SLOW_COUNT: usize = 3 * ABOVE_COUNT_MAX;

/// Young segments go straight to the last level while it is at most this many times as large as
/// what is merged into it: rewriting it then costs no more than a level between would.
pub const DIRECT_RATIO: u64 = 4;

/// What is asked of merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Writes go on: as much as the debt asks for.
    Writing,
    /// Writes pause, or somebody waits: until each key range lies in one segment.
    Quiet,
}

/// True when so many young segments are to be merged.
pub fn young_are_due(count: usize, pressure: Pressure) -> bool {
    match pressure {
        Pressure::Writing => count >= YOUNG_MERGE_COUNT,
        Pressure::Quiet => count > 0,
    }
}

/// True when the segments above the last level of a keyspace are to be promoted. `open`: the one
/// that is still being written, which is no source.
pub fn above_are_due(levels: &Levels, open: Option<u64>, pressure: Pressure) -> bool {
    let complete = levels.above().filter(|segment| Some(segment.number) != open).count();
    match pressure {
        Pressure::Writing => complete >= ABOVE_COUNT_MAX,
        Pressure::Quiet => complete > 0,
    }
}

/// True when what is merged may go straight to the last level.
pub fn goes_to_last(contents: &Contents, keyspace: KeyspaceNumber, merged_pages: u64) -> bool {
    let Some(levels) = contents.levels_of(keyspace) else { return true };
    if levels.above().next().is_some() {
        return false;
    }
    levels.last().is_none_or(|last| last.pages() <= merged_pages.saturating_mul(DIRECT_RATIO))
}

/// How far merging is behind what it may be: 0 when it keeps up, 1 when it is as far behind as it
/// may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Debt {
    /// Memtables that wait for their flush.
    pub memory: f64,
    /// Young segments that wait to be merged.
    pub young: f64,
    /// Segments above the last level that wait to be merged into it.
    pub above: f64,
}

impl Debt {
    /// The debt of a backlog and of memtables that take so many bytes, of which one alone may take
    /// `memtable_bytes_max`.
    pub fn of(backlog: Backlog, memtable_bytes: usize, memtable_bytes_max: usize) -> Debt {
        let part = |count: f64, free: usize, full: usize| {
            (count - free as f64).max(0.0) / (full - free) as f64
        };
        let young = part(backlog.young, YOUNG_MERGE_COUNT, YOUNG_SLOW_COUNT);
        let above = part(backlog.above, ABOVE_COUNT_MAX, ABOVE_SLOW_COUNT);
        // One memtable may always fill, and a second one while it is flushed.
        let memory = (memtable_bytes as f64 / memtable_bytes_max.max(1) as f64 - 1.0).max(0.0);
        Debt { memory, young, above }
    }

    /// What promotions would pay.
    pub fn of_merging(self) -> f64 {
        self.young.max(self.above)
    }

    /// What writers feel of it.
    pub fn felt(self) -> f64 {
        self.memory.max(self.of_merging())
    }
}
