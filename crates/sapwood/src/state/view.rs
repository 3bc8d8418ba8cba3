//! What readers start from: the memtables and the current state, one immutable value swapped whole;
//! and the homes that snapshots share.
//!
//! *Guarantees*: S1 to S3 of docs/architecture.md.
//! *Threads*: readers load the view without a lock; a home's lock is held for a few instructions.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::CatalogueChange;
use super::pending_blocks::BlocksName;
use super::state::{Cut, State};
use crate::memtable::Memtable;
use crate::segment::descriptor::Segment;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, LockRank, OnceLock, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

/// The memtables and the state of one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Takes the writes.
    pub active: Arc<MemtableSlot>,
    /// Sealed and not flushed yet, newest first.
    pub sealed: Vec<Arc<MemtableSlot>>,
    /// The current state.
    pub state: Arc<State>,
}

impl View {
    /// All memtables, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<MemtableSlot>> {
        std::iter::once(&self.active).chain(&self.sealed)
    }
}

/// What a commit by reference has in a memtable's place (P4 of docs/architecture.md).
#[derive(Debug)]
pub struct ByReference {
    /// The commit.
    pub number: SequenceNumber,
    /// Newest first; no entry carries a number.
    pub segments: Vec<Arc<Segment>>,
    /// Their blocks, by their name among those of pending transactions.
    pub blocks: BlocksName,
}

/// A memtable with what belongs to it.
#[derive(Debug)]
pub struct MemtableSlot {
    /// The versions; none in the slot of a commit by reference.
    pub table: Arc<Memtable>,
    /// Instead of versions: what one commit wrote beforehand.
    pub by_reference: Option<ByReference>,
    /// What its snapshots share.
    pub home: Arc<Home>,
    /// Changes of the catalogue that its commits made; in order.
    pub catalogue_changes: OrderedMutex<Vec<CatalogueChange>>,
    /// Set when it is sealed: the cut behind its last commit.
    pub cut: OnceLock<Cut>,
    /// Where the log stood when it began to take writes.
    pub begin: Cut,
    /// No view that has it has an older state (E2).
    pub since: Epoch,
    /// What its flush takes besides.
    pub owes: Owes,
}

/// What the flush of a memtable takes beside the bytes of its entries, and merging after it.
#[derive(Debug)]
pub struct Owes {
    waste_bytes: AtomicU64,
    /// Changes under the commit lock.
    names_bytes: AtomicUsize,
    keyspaces: OrderedMutex<BTreeSet<KeyspaceNumber>>,
    keyspace_count: AtomicU64,
}

impl Default for Owes {
    fn default() -> Owes {
        Owes {
            waste_bytes: AtomicU64::new(0),
            names_bytes: AtomicUsize::new(0),
            keyspaces: OrderedMutex::new(FIRST_KEYSPACES, BTreeSet::new()),
            keyspace_count: AtomicU64::new(0),
        }
    }
}

impl Owes {
    /// What leaves may waste, in bytes.
    pub fn waste_bytes(&self) -> u64 {
        self.waste_bytes.load(Ordering::Relaxed)
    }

    /// What long references to values may take together in one leaf, in bytes.
    pub fn names_bytes(&self) -> usize {
        self.names_bytes.load(Ordering::Relaxed)
    }

    /// A commit came whose references may take so much.
    pub fn add_names(&self, bytes: usize) {
        if bytes > 0 {
            self.names_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// How many keyspaces get a first page of their own in a level.
    pub fn keyspace_count(&self) -> u64 {
        self.keyspace_count.load(Ordering::Relaxed)
    }

    /// Entries came that may waste so much.
    pub fn add_waste(&self, bytes: u64) {
        if bytes > 0 {
            self.waste_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Entries came of a keyspace that has nothing in any level.
    pub fn add_keyspace(&self, keyspace: KeyspaceNumber) {
        let mut keyspaces = self.keyspaces.lock();
        keyspaces.insert(keyspace);
        self.keyspace_count.store(keyspaces.len() as u64, Ordering::Relaxed);
    }
}

/// The rank of the locks of homes.
pub const HOME: LockRank = LockRank::new(50, "snapshots of a memtable");
/// The rank of the lock over a memtable's catalogue changes.
pub const CATALOGUE_CHANGES: LockRank = LockRank::new(51, "catalogue changes of a memtable");
/// The rank of the lock over the keyspaces to which a memtable brings the first entries.
const FIRST_KEYSPACES: LockRank = LockRank::new(52, "first keyspaces of a memtable");

impl MemtableSlot {
    /// A slot for an empty memtable that takes writes behind `begin`, for a view with a state that
    /// is no older than `since`.
    pub fn new(table: Memtable, begin: Cut, since: Epoch) -> Arc<MemtableSlot> {
        MemtableSlot::make(table, None, begin, since)
    }

    /// The slot of a commit by reference whose record ends at `cut`. `table` is empty.
    pub fn of_commit(
        table: Memtable,
        commit: ByReference,
        cut: Cut,
        since: Epoch,
    ) -> Arc<MemtableSlot> {
        let slot = MemtableSlot::make(table, Some(commit), cut, since);
        // Never set before: the slot is new.
        let _ = slot.cut.set(cut);
        slot
    }

    fn make(
        table: Memtable,
        by_reference: Option<ByReference>,
        begin: Cut,
        since: Epoch,
    ) -> Arc<MemtableSlot> {
        Arc::new(MemtableSlot {
            table: Arc::new(table),
            by_reference,
            home: Arc::new(Home::default()),
            catalogue_changes: OrderedMutex::new(CATALOGUE_CHANGES, Vec::new()),
            cut: OnceLock::new(),
            begin,
            since,
            owes: Owes::default(),
        })
    }

    /// True when it holds the commit of that number or an older one.
    pub fn reaches(&self, number: SequenceNumber) -> bool {
        self.first_sequence().is_some_and(|first| first <= number)
    }

    /// The number of the first commit with entries.
    pub fn first_sequence(&self) -> Option<SequenceNumber> {
        let by_reference = self.by_reference.as_ref().map(|commit| commit.number);
        by_reference.or_else(|| self.table.first_sequence())
    }

    /// The number of the last commit with entries.
    pub fn last_sequence(&self) -> Option<SequenceNumber> {
        let by_reference = self.by_reference.as_ref().map(|commit| commit.number);
        by_reference.or_else(|| self.table.last_sequence())
    }

    /// Registers a snapshot's number at its home: false when a flush may already have dropped what
    /// the snapshot needs (S2).
    pub fn register(&self, number: SequenceNumber) -> bool {
        // Once the home is closed no commit comes any more: the cut is behind the last one. The
        // table's last number may still rise, when joined tombstones outlive it.
        self.home.register(number, || self.cut.get().map_or(number, |cut| cut.sequence))
    }

    /// True when it has anything to read.
    pub fn has_entries(&self) -> bool {
        self.by_reference.is_some() || !self.table.is_empty()
    }

    /// The segments of a commit by reference, newest first.
    pub fn segments(&self) -> &[Arc<Segment>] {
        self.by_reference.as_ref().map_or(&[], |commit| &commit.segments)
    }

    /// True when it holds nothing, not even a change of the catalogue.
    pub fn is_empty(&self) -> bool {
        !self.has_entries() && self.catalogue_changes.lock().is_empty()
    }
}

/// What all snapshots that belong to one memtable share.
#[derive(Debug)]
pub struct Home {
    registered: OrderedMutex<Registered>,
    /// The state that the memtable's flush installed; set before the view that has it is swapped
    /// in.
    state: OnceLock<Arc<State>>,
}

#[derive(Debug, Default)]
struct Registered {
    /// How many snapshots have each number.
    numbers: BTreeMap<SequenceNumber, usize>,
    /// A flush has taken the numbers.
    closed: bool,
}

impl Default for Home {
    fn default() -> Home {
        Home { registered: OrderedMutex::new(HOME, Registered::default()), state: OnceLock::new() }
    }
}

impl Home {
    /// Registers a snapshot's number: false when a flush may already have dropped what the snapshot
    /// needs (S2). `last` gives the number behind which the memtable has no commit. It is asked
    /// once the home is closed: before the lock is taken commits and the flush may come in between.
    pub fn register(&self, number: SequenceNumber, last: impl FnOnce() -> SequenceNumber) -> bool {
        let mut registered = self.registered.lock();
        if registered.closed && number < last() {
            return false;
        }
        *registered.numbers.entry(number).or_insert(0) += 1;
        true
    }

    /// Ends a registration.
    pub fn unregister(&self, number: SequenceNumber) {
        let mut registered = self.registered.lock();
        if let Some(count) = registered.numbers.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                registered.numbers.remove(&number);
            }
        }
    }

    /// How many different numbers are registered.
    pub fn registered_count(&self) -> usize {
        self.registered.lock().numbers.len()
    }

    /// Takes the registered numbers, ascending; from now on only numbers at or above the memtable's
    /// last are registered.
    pub fn close(&self) -> Vec<SequenceNumber> {
        let mut registered = self.registered.lock();
        registered.closed = true;
        registered.numbers.keys().copied().collect()
    }

    /// Sets the state that holds exactly the commits up to the memtable's last (S1).
    pub fn move_to(&self, state: Arc<State>) {
        // Set once: a memtable is flushed once.
        let set = self.state.set(state);
        assert!(set.is_ok(), "a memtable is flushed once");
    }

    /// The state to read instead of the memtable, once it is flushed.
    pub fn state(&self) -> Option<&Arc<State>> {
        self.state.get()
    }
}
