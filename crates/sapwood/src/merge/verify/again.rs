//! A file that another process writes while its last durable state is walked: what a newer state
//! says of the pieces that could not be read.
//!
//! *Assumes*: what a durable state references is not written over before a newer one is durable,
//! and stays as it is as long as each newer one references it, too. *Guarantees*: so a piece that
//! could not be read is damaged exactly if a state references it that was read after that; if none
//! does, what the newer state has in its place is walked instead, and no further than there.

use super::problem::{PROBLEMS_MAX, Problem};
use super::walk::{Cancelled, Walk, WalkCounts, Walked, walk_trees};
use crate::page::{NodeRef, PageManager};
use crate::segment::descriptor::Segment;
use crate::segment::key_range::KeyRange;
use crate::state::Contents;
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, PageNumber};

use super::walk::Tree;

/// So many states, each newer than the one before, are asked for one piece.
const STATES_MAX: usize = 10;

/// A newer state of a file, as it can be read.
#[derive(Debug)]
pub struct NewerState {
    /// The generation of the slot that names it.
    pub generation: u64,
    /// For reading its nodes.
    pub pages: Arc<PageManager>,
    /// What it says.
    pub contents: Contents,
}

/// What there is instead of a state.
#[derive(Clone, Debug)]
pub enum Newer {
    /// Nothing: it is the newest durable one.
    Same,
    /// This.
    State(Arc<NewerState>),
    /// One that was replaced before it could be read.
    TooFast,
}

/// Tells the newest durable state, when it is not of this generation.
pub type Newest<'a> = dyn FnMut(u64) -> Newer + 'a;

/// What came between the beginning and the end of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meanwhile {
    /// A newer state was made durable, so that nothing was compared with the free maps.
    pub moved: bool,
    /// Pieces that were written over. What newer states have in their place was looked at.
    pub replaced: u64,
    /// Of those, the ones of which what took their place was replaced again and again.
    pub given_up: u64,
    /// What is wrong with those, if it is not only that they were replaced; the first of them.
    pub unjudged: Vec<Problem>,
}

/// What tells a piece of a file from all others that ever lay there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A node.
    Node(NodeRef),
    /// A value in blocks of its own.
    Value { page: PageNumber, stamp: u32, checksum: u32 },
}

/// A piece that could not be read.
#[derive(Clone, Debug)]
pub struct Suspect {
    pub piece: Piece,
    /// What it is if a newer state references it.
    pub problem: Problem,
}

impl Walk<'_> {
    /// What an older state has found out about a piece that this one references, too.
    pub fn known_problem(&self, piece: &Piece) -> Option<Problem> {
        self.known.iter().find(|known| known.piece == *piece).map(|known| known.problem.clone())
    }

    /// What there is instead of the state that is walked.
    pub fn newer(&mut self) -> Newer {
        match &mut self.newest {
            None => Newer::Same,
            Some((generation, newest)) => newest(*generation),
        }
    }

    /// Walks what a newer state has in `range` of a tree, in which there are suspects.
    pub fn again(&mut self, tree: &Tree<'_>, range: &KeyRange) -> Walked {
        let wanted = tree.wanted.and_then(|wanted| wanted.intersection(range));
        let (number, range) = (tree.segment.number, wanted.as_ref().unwrap_or(range));
        self.in_newer(&mut |walk, contents| {
            match find(contents, tree.keyspace, number) {
                // What it had was merged into others, or dropped.
                None => Ok(()),
                Some(segment) => walk_trees(walk, segment, tree.keyspace, range),
            }
        })
    }

    /// Looks for a value that is a suspect: under its key, which may have moved to a deeper level.
    pub fn again_value(&mut self, tree: &Tree<'_>, key: &[u8], keyspace: KeyspaceNumber) -> Walked {
        let is_young = tree.segment.is_young();
        let bare = if is_young { key.get(4..).unwrap_or_default() } else { key };
        let (stored, bare) = (KeyRange::of_key(key), KeyRange::of_key(bare));
        let number = tree.segment.number;
        self.in_newer(&mut |walk, contents| {
            if let Some(young) = find(contents, KeyspaceNumber::MANY, number).filter(|_| is_young) {
                walk_trees(walk, young, KeyspaceNumber::MANY, &stored)?;
            }
            let levels = contents.levels_of(keyspace).into_iter();
            let mut segments = levels.flat_map(|levels| levels.iter());
            segments.try_for_each(|segment| walk_trees(walk, segment, keyspace, &bare))
        })
    }

    /// Looks for nodes of a young segment's filter that are suspects.
    pub fn again_filter(&mut self, number: u64) -> Walked {
        self.in_newer(&mut |walk, contents| {
            let segment = find(contents, KeyspaceNumber::MANY, number);
            for node in segment.iter().flat_map(|segment| &segment.filter.nodes) {
                if let Some(problem) = walk.known_problem(&Piece::Node(*node)) {
                    walk.counts.unreadable += 1;
                    walk.problems.push(problem);
                }
            }
            Ok(())
        })
    }

    /// Hands the suspects to a walk of the newest state.
    fn in_newer(&mut self, visit: &mut dyn FnMut(&mut Walk<'_>, &Contents) -> Walked) -> Walked {
        let suspects = std::mem::take(&mut self.suspects);
        self.counts.replaced += suspects.len() as u64;
        let newer = if self.states >= STATES_MAX { Newer::TooFast } else { self.newer() };
        let (Newer::State(state), Some((_, newest))) = (newer, &mut self.newest) else {
            self.counts.given_up += 1;
            self.counts.add_unjudged(suspects.into_iter().map(|suspect| suspect.problem));
            return Ok(());
        };
        let mut known = self.known.clone();
        known.extend(suspects);
        let (done, total) = (self.pages_done.min(self.pages_total), self.pages_total);
        let progress = &mut self.progress;
        let mut as_before = |_, _| progress(done, total);
        let mut ignored = |_: &super::blocks::LiveBlock| {};
        let mut walk = Walk::new(
            &state.pages,
            &state.contents,
            self.values,
            self.problems,
            &mut as_before,
            &mut ignored,
        );
        walk.newest = Some((state.generation, &mut **newest));
        (walk.known, walk.states) = (known, self.states + 1);
        let outcome: Result<(), Cancelled> = visit(&mut walk, &state.contents);
        let counts = walk.counts;
        self.counts.add(&counts);
        outcome
    }
}

impl WalkCounts {
    /// Adds what a walk of a newer state has met; what is in use there is not added.
    fn add(&mut self, other: &WalkCounts) {
        self.nodes += other.nodes;
        self.leaves += other.leaves;
        self.entries += other.entries;
        self.overflow_values += other.overflow_values;
        self.bytes_read += other.bytes_read;
        self.unreadable += other.unreadable;
        self.replaced += other.replaced;
        self.given_up += other.given_up;
        self.add_unjudged(other.unjudged.iter().cloned());
    }

    fn add_unjudged(&mut self, problems: impl Iterator<Item = Problem>) {
        let room = PROBLEMS_MAX.saturating_sub(self.unjudged.len());
        self.unjudged.extend(problems.take(room));
    }
}

fn find(contents: &Contents, keyspace: KeyspaceNumber, number: u64) -> Option<&Arc<Segment>> {
    let levels = contents.levels_of(keyspace).into_iter().flat_map(|levels| levels.iter());
    let young = contents.young.iter().filter(|_| keyspace == KeyspaceNumber::MANY);
    young.chain(levels).find(|segment| segment.number == number)
}
