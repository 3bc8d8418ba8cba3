//! The state: which segments are current. One immutable value, swapped whole.
//!
//! *Guarantees*: a state never changes. While any reference to it lives, none of its blocks is
//! reused; when the last one goes, its epoch is handed to whoever keeps the dead lists (no I/O, no
//! lock that a merge holds).

use std::collections::BTreeMap;

use super::backlog::{Backlog, PromotedLeaves};
use super::catalogue::Catalogue;
use crate::segment::descriptor::Segment;
use crate::sync::{Arc, channel};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

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
}

impl Levels {
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
    /// Where the epoch goes when the last reference is dropped.
    released: channel::Sender<Epoch>,
}

impl State {
    /// A state whose end is told to `released`; with what of its segments was promoted so far.
    pub fn new(
        contents: Contents,
        promoted_leaves: PromotedLeaves,
        released: channel::Sender<Epoch>,
    ) -> Arc<State> {
        let backlog = Backlog::of(&contents, &promoted_leaves);
        Arc::new(State { contents, promoted_leaves, backlog, released })
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
