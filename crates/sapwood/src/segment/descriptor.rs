//! What a state knows of a segment: its trees, bounds, filter, and what has been promoted out of
//! it.
//!
//! *Guarantees*: a [`Segment`] never changes; a state that differs in one has a new one.

use crate::page::{ALLOCATION_BYTES, Counted, MemoryBudget, MemoryPart, NodeRef};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::segment_filter::SegmentFilter;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

/// The most children of a lowest parent: its sidecar is rewritten when one leaf changes.
pub const LEAVES_PER_LOWEST_PARENT_MAX: usize = 64;

/// The root of one B-tree, with sums over all that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeRoot {
    /// Where the root lies and how it is recognised.
    pub reference: NodeRef,
    /// 0 when the root is a leaf.
    pub height: u8,
    /// The state that the root was born in.
    pub birth: Epoch,
    /// Entries, tombstones included.
    pub entries: u64,
    /// Point and range tombstones.
    pub tombstones: u64,
    /// Pages of all its nodes, sidecars and overflow values.
    pub pages: u64,
    /// Its leaves.
    pub leaves: u64,
}

/// The least and the greatest key of a segment, range tombstones included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// No key lies below it.
    pub least: Vec<u8>,
    /// No key lies above it. For a range tombstone its end counts.
    pub greatest: Vec<u8>,
    /// A range tombstone reaches to the end of all keys, whatever `greatest` says.
    pub open_end: bool,
}

impl Bounds {
    /// True when a key of `range` may lie within.
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        let after_end = range.end.as_ref().is_some_and(|end| *end <= self.least);
        let before_start = !self.open_end && self.greatest < range.start;
        !after_end && !before_start
    }

    /// The least bounds that hold both.
    #[must_use]
    pub fn union(&self, other: &Bounds) -> Bounds {
        Bounds {
            least: self.least.clone().min(other.least.clone()),
            greatest: self.greatest.clone().max(other.greatest.clone()),
            open_end: self.open_end || other.open_end,
        }
    }
}

/// What a young segment holds of one keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceShare {
    /// The keyspace.
    pub keyspace: KeyspaceNumber,
    /// Entries, range tombstones included.
    pub entries: u64,
    /// Bytes of keys and values, before compression.
    pub bytes: u64,
}

/// One segment of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// Names the segment for as long as it lives; never used again.
    pub number: u64,
    /// Puts and point tombstones.
    pub points: Option<TreeRoot>,
    /// Range tombstones.
    pub ranges: Option<TreeRoot>,
    /// The filter's kind, seed and, in young segments, its nodes.
    pub filter: SegmentFilter,
    /// Where its keys lie; `None` when unknown.
    pub bounds: Option<Bounds>,
    /// The first and the last sequence number: young segments only.
    pub sequences: Option<(SequenceNumber, SequenceNumber)>,
    /// What has moved to deeper levels: readers skip it here.
    pub promoted: Arc<KeyRanges>,
    /// Young segments only, by keyspace number.
    pub keyspaces: Arc<Counted<Vec<KeyspaceShare>>>,
    /// What it takes in memory, from when a state has it.
    pub counted: Counted,
}

impl Segment {
    /// Counts what it takes in memory, unless it is counted; returns it, with what it shares.
    pub fn count(&self, budget: &Arc<MemoryBudget>) -> u64 {
        let states = MemoryPart::States;
        let shares = |shares: &Vec<KeyspaceShare>| {
            shares.capacity() * size_of::<KeyspaceShare>() + 2 * ALLOCATION_BYTES
        };
        self.keyspaces.count(budget, states, shares)
            + self.counted.count(budget, states, |()| self.own_bytes())
    }

    /// What it takes in memory, but for its shares. What has been promoted counts for each value
    /// of one segment, though several may share it.
    fn own_bytes(&self) -> usize {
        let key = |key: &[u8]| key.len() + ALLOCATION_BYTES;
        let bounds = self.bounds.as_ref().map_or(0, |b| key(&b.least) + key(&b.greatest));
        let promoted = self.promoted.iter().map(|range| {
            size_of::<KeyRange>() + key(&range.start) + range.end.as_deref().map_or(0, key)
        });
        let promoted = promoted.sum::<usize>();
        size_of::<Segment>() + 2 * ALLOCATION_BYTES + bounds + promoted + self.filter.own_bytes()
    }

    /// True for a segment that was flushed and not merged yet.
    pub fn is_young(&self) -> bool {
        self.sequences.is_some()
    }

    /// Pages of both trees and of the filter.
    pub fn pages(&self) -> u64 {
        let trees = self.points.iter().chain(&self.ranges).map(|tree| tree.pages);
        let filter = self.filter.nodes.iter().map(|node| u64::from(node.pages));
        trees.chain(filter).fold(0, u64::saturating_add)
    }

    /// Entries of both trees, those in promoted ranges included.
    pub fn entries(&self) -> u64 {
        let trees = self.points.iter().chain(&self.ranges);
        trees.map(|tree| tree.entries).fold(0, u64::saturating_add)
    }

    /// True when it may hold a key of `range` that readers must see here.
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        self.bounds.as_ref().is_none_or(|bounds| bounds.overlaps(range))
            && !self.promoted.covers(range)
    }

    /// What it holds of `keyspace`: young segments only.
    pub fn share_of(&self, keyspace: KeyspaceNumber) -> Option<&KeyspaceShare> {
        let index = self.keyspaces.binary_search_by_key(&keyspace, |share| share.keyspace).ok()?;
        self.keyspaces.get(index)
    }

    /// What moves out of a young segment when `range` of a keyspace does: at the edges of the
    /// keyspace it reaches to the next one that the segment holds, so that no leaf between two
    /// keyspaces is left behind.
    pub fn moving_range(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> KeyRange {
        let mut composite = composite_range(keyspace, range);
        let index = self.keyspaces.partition_point(|share| share.keyspace < keyspace);
        if range.start.is_empty() && index == 0 {
            composite.start.clear();
        }
        if range.end.is_none() {
            let is_here = self.keyspaces.get(index).is_some_and(|s| s.keyspace == keyspace);
            let next = self.keyspaces.get(if is_here { index + 1 } else { index });
            composite.end = next.map(|share| share.keyspace.0.to_be_bytes().to_vec());
        }
        composite
    }

    /// Whether a young segment holds something of a keyspace that has not moved on.
    pub fn has_left_of(&self, keyspace: KeyspaceNumber) -> bool {
        self.share_of(keyspace).is_some()
            && !self.promoted.covers(&self.moving_range(keyspace, &KeyRange::all()))
    }
}

/// The key under which a young segment keeps `key` of `keyspace`.
pub fn composite_key(keyspace: KeyspaceNumber, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&keyspace.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// The range of composite keys that holds `range` of `keyspace`.
pub fn composite_range(keyspace: KeyspaceNumber, range: &KeyRange) -> KeyRange {
    let mut start = Vec::with_capacity(4 + range.start.len());
    composite_key(keyspace, &range.start, &mut start);
    let mut end = Vec::new();
    match &range.end {
        Some(key) => composite_key(keyspace, key, &mut end),
        // Number u32::MAX is never given to a keyspace.
        None => end.extend_from_slice(&keyspace.0.saturating_add(1).to_be_bytes()),
    }
    KeyRange { start, end: Some(end) }
}
