//! How much merging is due.
//!
//! *Guarantees*: pure arithmetic over a state; the same state gives the same answer.

use crate::state::{Contents, Levels};
use crate::types::KeyspaceNumber;

/// So many young segments are merged at once. Simulated at 64 million random pairs, merging eight
/// at once costs 4.5 bytes for each byte of the user, four 5.8, one 11.1 (log and flush not
/// counted).
pub const YOUNG_MERGE_COUNT: usize = 8;

/// With so many young segments writers are slowed to the pace of merging.
pub const YOUNG_SLOW_COUNT: usize = 20;

/// So many segments may stand in the level above the last before they are promoted.
pub const ABOVE_COUNT_MAX: usize = 4;

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

/// True when young segments are to be merged.
pub fn young_are_due(contents: &Contents, pressure: Pressure) -> bool {
    match pressure {
        Pressure::Writing => contents.young.len() >= YOUNG_MERGE_COUNT,
        Pressure::Quiet => !contents.young.is_empty(),
    }
}

/// True when the segments above the last level of a keyspace are to be promoted. `open`: the one
/// that is still being written, which is no source.
pub fn above_are_due(levels: &Levels, open: Option<u64>, pressure: Pressure) -> bool {
    let complete = above_of(levels).filter(|segment| Some(segment.number) != open).count();
    match pressure {
        Pressure::Writing => complete >= ABOVE_COUNT_MAX,
        Pressure::Quiet => complete > 0,
    }
}

/// The segments above the last level, newest first.
pub fn above_of(
    levels: &Levels,
) -> impl Iterator<Item = &crate::sync::Arc<crate::segment::descriptor::Segment>> {
    let above = levels.levels.len().saturating_sub(1);
    levels.levels.iter().take(above).flatten()
}

/// True when what is merged may go straight to the last level.
pub fn goes_to_last(contents: &Contents, keyspace: KeyspaceNumber, merged_pages: u64) -> bool {
    let Some(levels) = contents.levels_of(keyspace) else { return true };
    if above_of(levels).next().is_some() {
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
}

impl Debt {
    /// The debt of a state and of memtables that take so many bytes, of which one alone may take
    /// `memtable_bytes_max`.
    pub fn of(contents: &Contents, memtable_bytes: usize, memtable_bytes_max: usize) -> Debt {
        let young = contents.young.len().saturating_sub(YOUNG_MERGE_COUNT) as f64
            / (YOUNG_SLOW_COUNT - YOUNG_MERGE_COUNT) as f64;
        // One memtable may always fill, and a second one while it is flushed.
        let memory = (memtable_bytes as f64 / memtable_bytes_max.max(1) as f64 - 1.0).max(0.0);
        Debt { memory, young }
    }

    /// What writers feel of it.
    pub fn felt(self) -> f64 {
        self.memory.max(self.young)
    }
}
