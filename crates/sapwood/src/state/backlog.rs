//! What of a state waits to be merged, in whole segments.
//!
//! *Guarantees*: a segment counts less with every step that moves a part of it, so that the backlog
//! falls while a merge goes on and not all at once at its end: whoever is slowed by it is slowed
//! evenly. What had moved before an open counts until its segment is gone.

use std::collections::BTreeMap;

use super::state::Contents;
use crate::segment::descriptor::Segment;
use crate::sync::Arc;

/// How many pages of a segment, by its number, died as ranges of it were promoted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MovedPages(BTreeMap<u64, u64>);

impl MovedPages {
    /// More of a segment has moved.
    pub fn add(&mut self, segment: u64, pages: u64) {
        *self.0.entry(segment).or_default() += pages;
    }

    /// A segment is gone.
    pub fn forget(&mut self, segment: u64) {
        self.0.remove(&segment);
    }

    /// Which part of a segment is left, by pages: more than 0, and 1 before the first step.
    pub fn part_left(&self, segment: &Segment) -> f64 {
        let moved = self.0.get(&segment.number).copied().unwrap_or(0);
        let pages = segment.pages().max(1);
        pages.saturating_sub(moved).max(1) as f64 / pages as f64
    }

    /// How many whole segments are left of some.
    pub fn left_of<'a>(&self, segments: impl Iterator<Item = &'a Arc<Segment>>) -> f64 {
        segments.fold(0.0, |left, segment| left + self.part_left(segment))
    }
}

/// What waits to be merged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Young segments.
    pub young: f64,
    /// Segments above the last level, of the keyspace that has most of them.
    pub above: f64,
}

impl Backlog {
    /// The backlog of a state; it looks at every keyspace.
    pub fn of(contents: &Contents, moved: &MovedPages) -> Backlog {
        let above = contents.levels.values().map(|levels| moved.left_of(levels.above()));
        Backlog { young: moved.left_of(contents.young.iter()), above: above.fold(0.0, f64::max) }
    }
}
