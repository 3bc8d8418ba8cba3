//! What of a state waits to be merged, in whole segments.
//!
//! *Guarantees*: a segment counts less with every step that promotes a part of it, so that the
//! backlog falls while a merge goes on and not all at once at its end: whoever is slowed by it is
//! slowed evenly. What was promoted before an open counts until its segment is gone.

use std::collections::{BTreeMap, BTreeSet};

use super::state::Contents;
use crate::page::counted::in_map;
use crate::segment::descriptor::Segment;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// How many leaves of a segment, by its number, lay whole in what has been promoted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromotedLeaves(BTreeMap<u64, u64>);

impl PromotedLeaves {
    /// What they take in memory, in bytes.
    pub fn bytes(&self) -> usize {
        in_map(self.0.len(), size_of::<(u64, u64)>())
    }

    /// More of a segment was promoted.
    pub fn add(&mut self, segment: u64, leaf_count: u64) {
        *self.0.entry(segment).or_default() += leaf_count;
    }

    /// A segment is gone.
    pub fn forget(&mut self, segment: u64) {
        self.0.remove(&segment);
    }

    /// Which part of a segment is left, by leaves: more than 0, and 1 before the first step.
    pub fn part_left(&self, segment: &Segment) -> f64 {
        let promoted = self.0.get(&segment.number).copied().unwrap_or(0);
        let leaves = segment.points.as_ref().map_or(1, |root| root.leaves.max(1));
        leaves.saturating_sub(promoted).max(1) as f64 / leaves as f64
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
    /// Segments above the last level, of the keyspace that has most of them. Those of a dropped one
    /// leave without being merged.
    pub above: f64,
}

impl Backlog {
    /// The backlog of a state; it looks at every keyspace.
    pub fn of(contents: &Contents, promoted: &PromotedLeaves) -> Backlog {
        Backlog::in_parts(contents, promoted, &BTreeSet::new()).0
    }

    /// The backlog that merging can take away, and that of keyspaces in which it is held up. There
    /// a segment counts whole: nothing takes it away.
    pub fn in_parts(
        contents: &Contents,
        promoted: &PromotedLeaves,
        held_up: &BTreeSet<KeyspaceNumber>,
    ) -> (Backlog, Backlog) {
        let (mut goes_on, mut stays) = (Backlog::default(), Backlog::default());
        for young in &contents.young {
            let mut shares = young.keyspaces.iter().map(|share| share.keyspace);
            let has_more = |of| !held_up.contains(&of) && young.has_left_of(of);
            if held_up.is_empty() || shares.any(has_more) {
                goes_on.young += promoted.part_left(young);
            } else {
                stays.young += 1.0;
            }
        }
        for (keyspace, levels) in &contents.levels {
            let part = if held_up.contains(keyspace) { &mut stays } else { &mut goes_on };
            if !contents.is_dropped(*keyspace) {
                part.above = part.above.max(promoted.left_of(levels.above()));
            }
        }
        (goes_on, stays)
    }
}
