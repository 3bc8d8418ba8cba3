//! Draws what is done to a database.
//!
//! *Guarantees*: the steps follow from the seed and from the content that they are drawn for, and
//! are all valid: whatever error one of them gives is a finding.

use std::ops::Bound;
use std::sync::Arc;

use sapwood::sync::Random;
use sapwood::{Durability, Isolation, Seek};

use crate::model::{Change, KeyRange, State, prefix_range};
use crate::setup::draw_durability;

/// A commit that holds so many bytes gets no more changes: the smallest budget allows 1 MiB.
const COMMIT_BYTES: usize = 512 << 10;

/// How the changes of one commit reach the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// One batch.
    Batch,
    /// A transaction with nothing beside it.
    Transaction(Isolation),
}

/// One step of a workload.
#[derive(Clone, Debug)]
pub enum Step {
    /// Commits changes of keys.
    Commit {
        /// The changes, in order.
        changes: Vec<Change>,
        /// What the commit asks for.
        durability: Durability,
        /// What carries it.
        via: Via,
    },
    /// A transaction during which another commit happens.
    Overlapping {
        /// The transaction's isolation.
        isolation: Isolation,
        /// The keyspace in which it reads one range, first of all.
        keyspace: String,
        /// What it reads.
        read: KeyRange,
        /// What it writes.
        changes: Vec<Change>,
        /// What is committed between its beginning and its own commit.
        between: Vec<Change>,
        /// What both ask for.
        durability: Durability,
    },
    /// Makes, drops or renames a keyspace.
    Catalogue(Change),
    /// Reads a few keys.
    Get {
        /// The keyspace.
        keyspace: String,
        /// The keys.
        keys: Vec<Vec<u8>>,
    },
    /// Reads a range.
    Scan {
        /// The keyspace.
        keyspace: String,
        /// The range.
        range: KeyRange,
        /// Whether from its end.
        backwards: bool,
        /// How many pairs at most.
        limit: usize,
    },
    /// Moves a cursor about.
    Walk {
        /// The keyspace.
        keyspace: String,
        /// Its moves.
        moves: Vec<Move>,
    },
    /// Takes a snapshot and keeps it.
    TakeSnapshot,
    /// Reads one of the snapshots that are kept.
    ReadSnapshot(usize),
    /// Lets one of them go.
    DropSnapshot(usize),
    /// `sync`
    Sync,
    /// `flush`
    Flush,
    /// A few calls of `run_step`.
    RunSteps(u64),
    /// `run_step` until nothing is due.
    RunAllSteps,
    /// So many milliseconds pass.
    PassTime(u64),
    /// More than the sync interval passes, and what is due then is done.
    PassInterval,
    /// `compact`
    Compact,
    /// `verify`
    Verify,
    /// Reads everything, both ways.
    ReadAll,
    /// Closes the database and opens it again with other options.
    Reopen,
}

impl Step {
    /// How many operations it stands for.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        let count = match self {
            Step::Commit { changes, .. } => changes.len(),
            Step::Overlapping { changes, between, .. } => changes.len() + between.len() + 2,
            Step::Get { keys, .. } => keys.len(),
            Step::Walk { moves, .. } => moves.len(),
            _ => 1,
        };
        count as u64
    }
}

/// One move of a cursor.
#[derive(Clone, Debug)]
pub enum Move {
    /// To the first key.
    First,
    /// To the last key.
    Last,
    /// To the next key.
    Next,
    /// To the key before.
    Prev,
    /// To a key.
    Seek(Vec<u8>, Seek),
    /// To the key at which it stands.
    SeekHere(Seek),
}

/// What steps are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many different keys of each kind there are.
    pub key_space: u64,
    /// One of so many values is large, up to `value_bytes_max`; 0: none is.
    pub large_value_one_in: u64,
    /// The longest value.
    pub value_bytes_max: u64,
    /// The longest run of changes in a commit.
    pub changes_max: u64,
    /// How many keyspaces there are at most.
    pub keyspaces_max: usize,
    /// Whether whole compactions and checks are drawn, which take long.
    pub heavy: bool,
}

impl Shape {
    /// Draws a shape.
    pub fn draw(random: &mut Random) -> Shape {
        Shape {
            key_space: 4 << (2 * random.below(5)),
            large_value_one_in: [0, 10, 40, 200][random.below(4) as usize],
            value_bytes_max: 200 << 10,
            changes_max: 1 + random.below(40),
            keyspaces_max: 1 + random.below(5) as usize,
            heavy: true,
        }
    }
}

/// The source of steps.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    shape: Shape,
    /// Goes into every value, so that no two are the same.
    value_count: u64,
}

impl Workload {
    /// A source that follows from the seed.
    #[must_use]
    pub fn new(seed: u64, shape: Shape) -> Workload {
        Workload { random: Random::from_seed(seed), shape, value_count: 0 }
    }

    /// The next step for a database that holds `state`, with so many snapshots kept.
    pub fn next_step(&mut self, state: &State, snapshot_count: usize) -> Step {
        let Some(keyspace) = self.pick_keyspace(state) else {
            return Step::Catalogue(Change::Create(self.keyspace_name()));
        };
        match self.random.below(100) {
            0..=44 => self.commit(state),
            45..=49 => self.overlapping(state, keyspace),
            50..=52 => Step::Catalogue(self.catalogue_change(state)),
            53..=59 => Step::Get { keys: (0..4).map(|_| self.key()).collect(), keyspace },
            60..=66 => self.scan(keyspace),
            67..=72 => self.walk(keyspace),
            73..=75 if snapshot_count < 6 => Step::TakeSnapshot,
            73..=77 if snapshot_count > 0 => Step::ReadSnapshot(self.index(snapshot_count)),
            78 | 79 if snapshot_count > 0 => Step::DropSnapshot(self.index(snapshot_count)),
            73..=81 => Step::Sync,
            82..=85 => Step::Flush,
            86..=92 => Step::RunSteps(1 + self.random.below(20)),
            93 => match self.random.below(4) {
                0 => Step::PassInterval,
                1 | 2 => Step::PassTime(1 + self.random.below(1500)),
                _ => Step::RunAllSteps,
            },
            94 if self.shape.heavy && self.random.one_in(4) => Step::Compact,
            95 if self.shape.heavy => Step::Verify,
            96 if self.shape.heavy => Step::ReadAll,
            97 if self.random.one_in(3) => Step::Reopen,
            _ => self.commit(state),
        }
    }

    fn index(&mut self, count: usize) -> usize {
        self.random.below(count as u64) as usize
    }

    fn pick_keyspace(&mut self, state: &State) -> Option<String> {
        let count = state.keyspaces.len();
        if count == 0 {
            return None;
        }
        let index = self.index(count);
        state.keyspaces.keys().nth(index).cloned()
    }

    fn keyspace_name(&mut self) -> String {
        format!("keyspace {}", self.random.below(12))
    }

    fn catalogue_change(&mut self, state: &State) -> Change {
        let name = self.keyspace_name();
        let Some(old) = self.pick_keyspace(state) else {
            return Change::Create(name);
        };
        let is_free = !state.keyspaces.contains_key(&name);
        let has_room = state.keyspaces.len() < self.shape.keyspaces_max;
        match self.random.below(4) {
            0 | 1 if is_free && has_room => Change::Create(name),
            2 if is_free => Change::Rename { old, new: name },
            _ if !has_room || self.random.one_in(3) => Change::Drop(old),
            _ => Change::Create(name),
        }
    }

    fn commit(&mut self, state: &State) -> Step {
        let via = match self.random.below(6) {
            0 => Via::Transaction(Isolation::Snapshot),
            1 => Via::Transaction(Isolation::Serializable),
            _ => Via::Batch,
        };
        let count = 1 + self.random.below(self.shape.changes_max);
        let mut bytes = 0;
        let drawn = (0..count).map_while(|_| {
            let change = if bytes < COMMIT_BYTES { self.change(state) } else { None };
            bytes += change.as_ref().map_or(0, Change::bytes);
            change
        });
        let changes = drawn.collect();
        Step::Commit { changes, durability: draw_durability(&mut self.random), via }
    }

    fn overlapping(&mut self, state: &State, keyspace: String) -> Step {
        let isolation =
            if self.random.one_in(2) { Isolation::Snapshot } else { Isolation::Serializable };
        let mut some = |limit| {
            let count = 1 + self.random.below(limit);
            (0..count).filter_map(|_| self.change(state)).collect::<Vec<_>>()
        };
        let (changes, between) = (some(4), some(4));
        let read = self.range();
        let durability = draw_durability(&mut self.random);
        Step::Overlapping { isolation, keyspace, read, changes, between, durability }
    }

    /// Draws a change of keys; `None` when there is no keyspace.
    pub fn change(&mut self, state: &State) -> Option<Change> {
        let keyspace = self.pick_keyspace(state)?;
        Some(match self.random.below(20) {
            0..=13 => Change::Put { keyspace, key: self.key(), value: self.value() },
            14..=18 => Change::Delete { keyspace, key: self.key() },
            _ => Change::DeleteRange { keyspace, range: self.range() },
        })
    }

    fn scan(&mut self, keyspace: String) -> Step {
        let limit = if self.random.one_in(4) { usize::MAX } else { self.random.below(60) as usize };
        Step::Scan { keyspace, range: self.range(), backwards: self.random.one_in(2), limit }
    }

    fn walk(&mut self, keyspace: String) -> Step {
        let count = 1 + self.random.below(30);
        Step::Walk { keyspace, moves: (0..count).map(|_| self.cursor_move()).collect() }
    }

    fn cursor_move(&mut self) -> Move {
        let mode = match self.random.below(3) {
            0 => Seek::Equal,
            1 => Seek::AtOrAfter,
            _ => Seek::AtOrBefore,
        };
        match self.random.below(20) {
            0 => Move::First,
            1 => Move::Last,
            2..=9 => Move::Next,
            10..=15 => Move::Prev,
            16 => Move::SeekHere(mode),
            _ => Move::Seek(self.key(), mode),
        }
    }

    /// Draws a key: short ones of a small space, ones with a long shared prefix, random bytes, and
    /// seldom one of the longest.
    pub fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(self.shape.key_space);
        match self.random.below(40) {
            0 => self.bytes(8),
            1 if number.is_multiple_of(8) => {
                let mut key = vec![b'l'; 1000 + (number % 3) as usize * 7692];
                key.extend_from_slice(&number.to_be_bytes());
                key.truncate(16_384);
                key
            }
            2..=14 => {
                let prefix = "a shared prefix that is long enough to fill a head many times over/";
                format!("{prefix}{number:08}").into_bytes()
            }
            15..=19 => number.to_be_bytes().to_vec(),
            _ => format!("{number}").into_bytes(),
        }
    }

    /// Draws a value. No two are the same, except very short ones.
    pub fn value(&mut self) -> Arc<[u8]> {
        self.value_count += 1;
        let large = self.shape.large_value_one_in;
        let length = match self.random.below(20) {
            _ if large > 0 && self.random.one_in(large) => {
                self.random.below(self.shape.value_bytes_max + 1)
            }
            0 => 0,
            1..=15 => self.random.below(64),
            16..=18 => self.random.below(700),
            _ => self.random.below(5000),
        };
        let mut value = format!("{}:", self.value_count).into_bytes();
        if self.random.one_in(2) {
            value.resize(length as usize, b'v');
        } else {
            let filled = value.len().min(length as usize);
            value.resize(length as usize, 0);
            if let Some(rest) = value.get_mut(filled..) {
                self.random.fill(rest);
            }
        }
        value.into()
    }

    fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.random.below(length_max + 1) as usize];
        self.random.fill(&mut bytes);
        bytes
    }

    /// Draws a range whose start does not lie after its end.
    pub fn range(&mut self) -> KeyRange {
        let (mut start, mut end) = (self.key(), self.key());
        if start > end {
            std::mem::swap(&mut start, &mut end);
        }
        match self.random.below(12) {
            0 => (Bound::Unbounded, Bound::Excluded(end)),
            1 => (Bound::Included(start), Bound::Unbounded),
            2 => (Bound::Excluded(start), Bound::Included(end)),
            3 => (Bound::Included(start), Bound::Included(end)),
            4 if self.random.one_in(4) => (Bound::Unbounded, Bound::Unbounded),
            5 => prefix_range(start.get(..1).unwrap_or_default()),
            _ => (Bound::Included(start), Bound::Excluded(end)),
        }
    }
}
