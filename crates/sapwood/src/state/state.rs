//! The state: which segments are current. One immutable value, swapped whole.
//!
//! *Guarantees*: a state never changes. While any reference to it lives, none of its blocks is
//! reused; when the last one goes, its epoch is handed to whoever keeps the dead lists (no I/O, no
//! lock that a merge holds).

use std::collections::BTreeMap;

use super::backlog::{Backlog, PromotedLeaves};
use super::catalogue::Catalogue;
use crate::page::counted::in_map;
use crate::page::{ALLOCATION_BYTES, Charge, Counted, MemoryBudget, MemoryPart};
use crate::segment::descriptor::Segment;
use crate::sync::{Arc, channel};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

fn vec_bytes<T>(elements: &Vec<T>) -> usize {
    elements.capacity() * size_of::<T>()
}

/// A strict cut through the order of commits: a state holds all up to it and none after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Cut {
    /// The last commit that the segments hold.
    pub sequence: SequenceNumber,
    /// Where the log goes on behind it.
    pub position: LogPosition,
    /// The checksum field of the record that ends there.
    pub chain: u32,
}

/// The levels of one keyspace, from the top; in each the segments, newest first. The last level has
/// at most one segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Levels {
    /// The last element is the deepest level.
    pub levels: Vec<Vec<Arc<Segment>>>,
    /// What they take in memory, from when a state has them.
    pub counted: Counted,
}

impl Levels {
    /// Levels of these segments.
    pub fn new(levels: Vec<Vec<Arc<Segment>>>) -> Levels {
        Levels { levels, counted: Counted::default() }
    }

    /// Counts what they and their segments take in memory, unless it is counted; returns it.
    fn count(&self, budget: &Arc<MemoryBudget>) -> u64 {
        self.counted.count_with(budget, MemoryPart::States, |()| {
            let of = |level: &Vec<Arc<Segment>>| {
                size_of::<Vec<Arc<Segment>>>() + vec_bytes(level) + ALLOCATION_BYTES
            };
            let own = size_of::<Levels>() + 2 * ALLOCATION_BYTES;
            let segments = self.iter().map(|segment| segment.count(budget)).sum();
            (own + self.levels.iter().map(of).sum::<usize>(), segments)
        })
    }

    /// All segments in order of precedence.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.levels.iter().flatten()
    }

    /// The segments above the last level, in order of precedence.
    pub fn above(&self) -> impl Iterator<Item = &Arc<Segment>> {
        let above = self.levels.len().saturating_sub(1);
        self.levels.iter().take(above).flatten()
    }

    /// True when no segment is left.
    pub fn is_empty(&self) -> bool {
        self.levels.iter().all(Vec::is_empty)
    }

    /// The one segment of the last level.
    pub fn last(&self) -> Option<&Arc<Segment>> {
        self.levels.last().and_then(|level| level.first())
    }
}

/// What a state consists of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// The state's number.
    pub epoch: Epoch,
    /// The keyspaces as of the cut.
    pub catalogue: Arc<Catalogue>,
    /// Young segments, newest first.
    pub young: Vec<Arc<Segment>>,
    /// Levels by keyspace; keyspaces without any are absent.
    pub levels: BTreeMap<KeyspaceNumber, Arc<Levels>>,
    /// Up to where commits are in the segments.
    pub cut: Cut,
}

impl Contents {
    /// Counts what they share with other states, where it is not counted; returns what all of it
    /// takes in memory, in bytes.
    fn count_shared(&self, budget: &Arc<MemoryBudget>) -> u64 {
        let young = self.young.iter().map(|segment| segment.count(budget));
        let levels = self.levels.values().map(|levels| levels.count(budget));
        self.catalogue.count_for(budget, MemoryPart::States)
            + young.sum::<u64>()
            + levels.sum::<u64>()
    }

    /// What is theirs alone, in bytes.
    fn own_bytes(&self) -> usize {
        let element = size_of::<(KeyspaceNumber, Arc<Levels>)>();
        vec_bytes(&self.young) + in_map(self.levels.len(), element)
    }

    /// The levels of a keyspace, if it has any.
    pub fn levels_of(&self, keyspace: KeyspaceNumber) -> Option<&Arc<Levels>> {
        self.levels.get(&keyspace)
    }

    /// All segments, the young ones first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.young.iter().chain(self.levels.values().flat_map(|levels| levels.iter()))
    }

    /// True for a keyspace that is dropped as of the cut, or not known. Older readers hold older
    /// states, in which it is not.
    pub fn is_dropped(&self, keyspace: KeyspaceNumber) -> bool {
        self.catalogue.get(keyspace).is_none_or(|entry| entry.dropped)
    }

    /// All segments that hold data of a keyspace, in order of precedence.
    pub fn segments_of(&self, keyspace: KeyspaceNumber) -> impl Iterator<Item = &Arc<Segment>> {
        let young = self.young.iter().filter(move |young| young.share_of(keyspace).is_some());
        young.chain(self.levels_of(keyspace).into_iter().flat_map(|levels| levels.iter()))
    }
}

/// A state, held as long as a reference to it lives.
#[derive(Debug)]
pub struct State {
    contents: Contents,
    promoted_leaves: PromotedLeaves,
    backlog: Backlog,
    /// What is its own, in memory.
    own: Charge,
    /// What it shares with others takes in memory, in bytes.
    shared_bytes: u64,
    /// Where the epoch goes when the last reference is dropped.
    released: channel::Sender<Epoch>,
}

impl State {
    /// A state that counts in `budget` and whose end is told to `released`; with what of its
    /// segments was promoted so far.
    pub fn new(
        contents: Contents,
        promoted_leaves: PromotedLeaves,
        budget: &Arc<MemoryBudget>,
        released: channel::Sender<Epoch>,
    ) -> Arc<State> {
        let backlog = Backlog::of(&contents, &promoted_leaves);
        let own = size_of::<State>() + contents.own_bytes() + promoted_leaves.bytes();
        let own = budget.charge(MemoryPart::States, own as u64);
        let shared_bytes = contents.count_shared(budget);
        Arc::new(State { contents, promoted_leaves, backlog, own, shared_bytes, released })
    }

    /// What it takes in memory, in bytes, with what it shares with others.
    pub fn bytes(&self) -> u64 {
        self.own.bytes() + self.shared_bytes
    }

    /// What of its segments was promoted since the open.
    pub fn promoted_leaves(&self) -> &PromotedLeaves {
        &self.promoted_leaves
    }

    /// What waits to be merged.
    pub fn backlog(&self) -> Backlog {
        self.backlog
    }
}

impl std::ops::Deref for State {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The receiver is gone when the database is: then nothing is kept any more.
        let _ = self.released.send(self.contents.epoch);
    }
}
