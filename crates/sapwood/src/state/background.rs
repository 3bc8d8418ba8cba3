//! What background steps share: who works on which range, the flush in progress, and how threads
//! wake one another.
//!
//! *Guarantees*: I3: two reservations that share a level and a keyspace never overlap.
//! *Threads*: any; short locks.

use std::fmt::Debug;
use std::time::Duration;

use super::core::Core;
use super::damaged::Damaged;
use super::epoch_set::EpochSet;
use super::toll::Toll;
use crate::error::{Error, Result};
use crate::segment::key_range::KeyRange;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, LockRank, Mutex, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber};

/// The rank of the lock over reservations.
pub const RESERVATIONS: LockRank = LockRank::new(25, "reservations");
/// The rank of the lock over jobs that take several steps.
pub const JOBS: LockRank = LockRank::new(24, "jobs");

/// The young segments, as a bit of a set of levels.
pub const LEVEL_YOUNG: u8 = 1;
/// The level above the last.
pub const LEVEL_ABOVE: u8 = 2;
/// The last level.
pub const LEVEL_LAST: u8 = 4;
/// All of them.
pub const LEVELS_ALL: u8 = LEVEL_YOUNG | LEVEL_ABOVE | LEVEL_LAST;

/// A job of several steps, kept between them.
pub trait Job: Debug + Send {
    /// One bounded step; true when the job is done.
    fn step(&mut self, core: &Arc<Core>) -> Result<bool>;
}

#[derive(Debug)]
struct Reserved {
    name: u64,
    keyspace: KeyspaceNumber,
    levels: u8,
    range: KeyRange,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    reserved: Vec<Reserved>,
}

/// See [`Reservations::mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReservedMark {
    count: usize,
    /// The sum of their names, each of which is given once.
    names: u64,
}

/// Ranges that steps work on.
#[derive(Debug)]
pub struct Reservations {
    table: OrderedMutex<Table>,
}

/// A reserved range; it ends when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    reservations: Arc<Reservations>,
    name: u64,
}

impl Default for Reservations {
    fn default() -> Reservations {
        Reservations { table: OrderedMutex::new(RESERVATIONS, Table::default()) }
    }
}

impl Reservations {
    /// Reserves a range in a set of levels; or gives a range that is in the way.
    ///
    /// # Errors
    /// The conflicting range.
    pub fn reserve(
        self: &Arc<Self>,
        keyspace: KeyspaceNumber,
        levels: u8,
        range: KeyRange,
    ) -> std::result::Result<Reservation, KeyRange> {
        self.reserve_unless(None, keyspace, levels, range)
    }

    /// Reserves a range beside, or inside, what the caller has reserved already.
    ///
    /// # Errors
    /// As [`Reservations::reserve`].
    pub fn reserve_beside(
        self: &Arc<Self>,
        own: &Reservation,
        keyspace: KeyspaceNumber,
        levels: u8,
        range: KeyRange,
    ) -> std::result::Result<Reservation, KeyRange> {
        self.reserve_unless(Some(own.name), keyspace, levels, range)
    }

    fn reserve_unless(
        self: &Arc<Self>,
        own: Option<u64>,
        keyspace: KeyspaceNumber,
        levels: u8,
        range: KeyRange,
    ) -> std::result::Result<Reservation, KeyRange> {
        let mut table = self.table.lock();
        let in_the_way = table.reserved.iter().find(|other| {
            Some(other.name) != own
                && other.keyspace == keyspace
                && other.levels & levels != 0
                && other.range.overlaps(&range)
        });
        if let Some(other) = in_the_way {
            return Err(other.range.clone());
        }
        table.next += 1;
        let name = table.next;
        table.reserved.push(Reserved { name, keyspace, levels, range });
        Ok(Reservation { reservations: self.clone(), name })
    }

    /// Which ranges are reserved: differs when one of them has ended, or another has come.
    pub fn mark(&self) -> ReservedMark {
        let table = self.table.lock();
        let names = table.reserved.iter().map(|reserved| reserved.name);
        ReservedMark { count: table.reserved.len(), names: names.fold(0, u64::wrapping_add) }
    }

    /// True when nothing is reserved.
    pub fn is_empty(&self) -> bool {
        self.table.lock().reserved.is_empty()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reservations.table.lock().reserved.retain(|reserved| reserved.name != self.name);
    }
}

/// Young segments that are being merged together, and where to.
#[derive(Clone, Debug, Default)]
pub struct YoungSet {
    /// Their numbers; the oldest segments of the state that are in no older set.
    pub members: Vec<u64>,
    /// The new segment above the last level, by keyspace.
    pub above: Vec<(KeyspaceNumber, u64)>,
}

/// What is done in quiet times to make the file smaller.
#[derive(Debug, Default)]
pub struct Shrink {
    /// What comes next.
    pub stage: ShrinkStage,
    /// A thread is at it.
    pub is_out: bool,
    /// A round that began here did not help: the epoch, the file's length and its used pages at its
    /// end.
    pub tried: Option<(Epoch, u64, u64)>,
    /// The file's length when the round began.
    pub began_pages: u64,
    /// What could not be read in the round: the keyspaces that it lies in stay where they are.
    pub damage: Option<Error>,
    /// In the round before, what the system refused was all that was in the way.
    pub was_refused: bool,
}

/// The stages of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ShrinkStage {
    /// Nothing has begun.
    #[default]
    Rest,
    /// Nodes in the tail are moved: those of this keyspace from this key on, then the next
    /// keyspaces'.
    Nodes(KeyspaceNumber, Vec<u8>),
    /// The log leaves the tail.
    Log,
    /// The file is cut.
    Cut,
}

/// How far leaves are packed.
#[derive(Debug, Default)]
pub struct Pack {
    /// Lowest parents that were born by then were looked at, or could not be, or not be packed.
    pub looked: Epoch,
    /// Those were looked at, and packed where there was something to pack, but for what is damaged
    /// and what lies behind it in its keyspace: what the file says.
    pub packed: Epoch,
    /// The states behind that one which packing or moving leaves has installed: what was born with
    /// them need not be looked at.
    pub own: EpochSet,
    /// The pass that has begun, between its steps.
    pub pass: Option<PackPass>,
    /// A thread is at it.
    pub is_out: bool,
}

impl Pack {
    /// What was born by this state is packed; nothing later was looked at.
    pub fn begin_behind(&mut self, packed: Epoch) {
        *self = Pack { looked: packed, packed, ..Pack::default() };
    }

    /// How far leaves are packed of which a state knows that is being made durable and is the
    /// current one: a pass that has ended has seen all of it that is as old.
    pub fn packed_in(&self, state: Epoch) -> Epoch {
        let is_all = self.pass.is_none() && !self.is_out && self.packed == self.looked;
        if is_all && self.has_looked(state) { state } else { self.packed }
    }

    /// True when everything that was born by this state was looked at, or need not be.
    pub fn has_looked(&self, epoch: Epoch) -> bool {
        epoch.0.saturating_sub(self.looked.0) == self.own.count()
    }
}

/// A pass over all trees.
#[derive(Clone, Debug)]
pub struct PackPass {
    /// The state at its beginning.
    pub began: Epoch,
    /// Others were at work where something could be packed.
    pub missed: bool,
    /// There was no room for something, or the system refused to read it: the next process may have
    /// more luck.
    pub gave_up: bool,
    /// It goes on with this keyspace, from this key on.
    pub keyspace: KeyspaceNumber,
    /// See `keyspace`.
    pub from: Vec<u8>,
}

impl PackPass {
    /// One that begins now.
    pub fn from(epoch: Epoch) -> PackPass {
        let (keyspace, from) = (KeyspaceNumber(0), Vec::new());
        PackPass { began: epoch, missed: false, gave_up: false, keyspace, from }
    }

    /// Goes on behind what ends here; false when that is the end of all.
    pub fn goes_on(&mut self, end: Option<Vec<u8>>) -> bool {
        match (end, self.keyspace.0.checked_add(1)) {
            (Some(end), _) => self.from = end,
            (None, Some(next)) => {
                (self.keyspace, self.from) = (KeyspaceNumber(next), Vec::new());
            }
            (None, None) => return false,
        }
        true
    }
}

/// Jobs and sets that outlive a step.
#[derive(Debug, Default)]
pub struct Jobs {
    /// The flush in progress, between its steps.
    pub flush: Option<Box<dyn Job>>,
    /// A thread has taken the flush out and is stepping it.
    pub flush_is_out: bool,
    /// Oldest first. There is one; another only when nothing that is left of it can be read.
    pub young_sets: Vec<YoungSet>,
    /// How far the file has been made smaller.
    pub shrink: Shrink,
    /// How far leaves are packed.
    pub pack: Pack,
}

/// The rank of the lock over the cause.
const FAILURE: LockRank = LockRank::new(81, "failure of merging");

/// Why merging has stopped.
#[derive(Debug, Default)]
struct Failure {
    /// Of the last step, if it failed, or something beside it.
    last: Option<Error>,
    /// Of the last step that failed.
    of_step: Option<Error>,
    count: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Background {
    /// Ranges that steps work on.
    pub reservations: Arc<Reservations>,
    /// Jobs between their steps.
    pub jobs: OrderedMutex<Jobs>,
    /// Threads run the steps; without any, whoever must wait runs them.
    pub has_threads: AtomicBool,
    /// Steps that are running now.
    pub running: AtomicU64,
    /// Steps that were run.
    pub steps: AtomicU64,
    /// Those of them that were a flush's.
    pub flush_steps: AtomicU64,
    /// The last step of a flush was not refused for lack of space.
    pub flush_has_place: AtomicBool,
    /// What commits bring to memtables at full debt, and flushes take away.
    pub flush_toll: Toll,
    /// What the log names for commits that wait to have it passed, and steps of the flush let in.
    pub named_toll: Toll,
    /// What commits bring to segments at full debt, and promotions take away.
    pub merge_toll: Toll,
    /// Somebody waits for quiet: merges go on until each range lies in one segment.
    pub drain: AtomicU64,
    /// When the last commit was made, in microseconds of the clock.
    pub last_commit: AtomicU64,
    /// When the oldest commit that waits for a timed sync was made, in microseconds plus one; 0:
    /// none.
    pub unsynced_since: AtomicU64,
    /// Bytes written to segments when the last state was made durable.
    pub bytes_at_durable: AtomicU64,
    /// Where it cannot go on.
    pub damaged: Damaged,
    failure: OrderedMutex<Failure>,
    generation: Mutex<u64>,
    changed: Condvar,
}

impl Default for Background {
    fn default() -> Background {
        Background {
            reservations: Arc::default(),
            jobs: OrderedMutex::new(JOBS, Jobs::default()),
            has_threads: AtomicBool::new(false),
            running: AtomicU64::new(0),
            steps: AtomicU64::new(0),
            flush_steps: AtomicU64::new(0),
            flush_has_place: AtomicBool::new(true),
            flush_toll: Toll::default(),
            named_toll: Toll::default(),
            merge_toll: Toll::default(),
            drain: AtomicU64::new(0),
            last_commit: AtomicU64::new(0),
            unsynced_since: AtomicU64::new(0),
            bytes_at_durable: AtomicU64::new(0),
            damaged: Damaged::default(),
            failure: OrderedMutex::new(FAILURE, Failure::default()),
            generation: Mutex::new(0),
            changed: Condvar::new(),
        }
    }
}

/// Counts as background work for as long as blocks have no owner yet.
#[derive(Debug)]
pub struct Running<'a>(&'a Background);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Somebody waits until all is merged, for as long as this lives; so also when what it waits in
/// panics.
#[derive(Debug)]
pub struct Draining<'a>(&'a Background);

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        self.0.drain.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Background {
    /// Merges go on as if nobody wrote, until the answer is dropped.
    pub fn begin_draining(&self) -> Draining<'_> {
        self.drain.fetch_add(1, Ordering::AcqRel);
        Draining(self)
    }

    /// Something runs that takes blocks, until the answer is dropped.
    pub fn begin_running(&self) -> Running<'_> {
        self.begin_step().0
    }

    /// The same, and whether nothing else runs.
    pub fn begin_step(&self) -> (Running<'_>, bool) {
        let is_alone = self.running.fetch_add(1, Ordering::AcqRel) == 0;
        (Running(self), is_alone)
    }

    /// Something changed that others may wait for: a commit, a step's end, a stop.
    pub fn notify(&self) {
        *self.generation.lock() += 1;
        self.changed.notify_all();
    }

    /// A mark for [`Background::wait_since`].
    pub fn mark(&self) -> u64 {
        *self.generation.lock()
    }

    /// Waits until something has changed since the mark, at most this long.
    pub fn wait_since(&self, mark: u64, at_most: Duration) {
        let mut generation = self.generation.lock();
        if *generation == mark {
            self.changed.wait_for(&mut generation, at_most);
        }
    }

    /// A step was made: whoever waits for one looks again.
    pub fn step_ended(&self) {
        self.count_step();
        self.notify();
    }

    /// A step was made; those who wait are told later.
    pub fn count_step(&self) {
        self.steps.fetch_add(1, Ordering::AcqRel);
    }

    /// A step failed: whoever waits for quiet is told.
    pub fn fail(&self, error: &Error) {
        let mut failure = self.failure.lock();
        failure.count += 1;
        failure.last = Some(error.clone());
        failure.of_step = Some(error.clone());
        drop(failure);
        self.notify();
    }

    /// Something failed in a keyspace, which holds up nothing else: only whoever waits for quiet is
    /// told.
    pub fn fail_beside(&self, error: &Error) {
        self.failure.lock().last = Some(error.clone());
        self.notify();
    }

    /// The failure of the last step that failed, when there were more than so many.
    pub fn failure_since(&self, failure_count: u64) -> Option<Error> {
        let failure = self.failure.lock();
        failure.of_step.clone().filter(|_| failure.count != failure_count)
    }

    /// The failure of the last step, if it failed.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().last.clone()
    }

    /// How many steps have failed.
    pub fn failure_count(&self) -> u64 {
        self.failure.lock().count
    }

    /// A step succeeded that began after so many failures: what failed since is not forgotten.
    pub fn succeed(&self, failure_count: u64) {
        let mut failure = self.failure.lock();
        if failure.count == failure_count && failure.last.is_some() {
            failure.last = None;
        }
    }

    /// A commit was made at this time.
    pub fn note_commit(&self, now: Duration, waits_for_sync: bool) {
        let now = now.as_micros() as u64;
        self.last_commit.store(now, Ordering::Relaxed);
        if waits_for_sync && self.unsynced_since.load(Ordering::Relaxed) == 0 {
            self.unsynced_since.store(now + 1, Ordering::Relaxed);
        }
    }
}
