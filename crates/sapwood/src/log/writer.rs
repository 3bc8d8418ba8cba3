//! Appending records, and making them durable for many committers at once.
//!
//! *Assumes*: records are appended in the commit order; the caller makes a durable state when the
//! log is full. *Guarantees*: L1, L2, L3, L5 of [`super`]. *Format*: section 5. *Threads*: any
//! thread calls anything. One lock (rank "log writer") guards the buffer and the positions; no I/O
//! happens under it. At most one thread writes what the system does not have, and at most one
//! syncs, which may write again what the system has, before what the other writes; whoever needs a
//! sync and finds none under way leads one for everything that was appended until then, the others
//! wait for it.
//!
//! Three positions (in [`super::buffer`]): `durable <= written <= end`. In memory are the bytes
//! from `written` on, and those from `durable` on while they are at most 1 MiB. After an open, what
//! was replayed behind `durable` counts as not yet written: it may lie in the system's cache only,
//! or a write-back of it may have failed unseen. The first write or sync makes it durable as it
//! lies, and never writes it again.
//!
//! The list of blocks changes so:
//!
//! ```text
//! in force --plan_list--> planned --append_state_durable, sync--> recorded --install_list--> in
//! force
//!     ^                      |
//!     +------abandon_list----+
//! ```
//!
//! While a list is planned, ordinary records stay inside what both lists have in common, less the
//! reserve for the record that names the state.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::page::Block;
use crate::sync::{Arc, Condvar, LockRank, OrderedGuard, OrderedMutex, preempt};
use crate::types::{Epoch, LogPosition, SequenceNumber};

use super::buffer::RESERVE_BYTES;
pub use super::buffer::{AppendError, Appended, LogCounters, LogFull};
use super::buffer::{Buffer, Plan, Sealed, ordinary_limit};
use super::reader::ReplayEnd;
use super::record::{
    HEADER_BYTES, NamedBlocks, RecordKind, STATE_DURABLE_BYTES, malformed, state_durable_payload,
};
use super::ring::{NextList, Ring, RingList};
use super::stream::BlockStream;

/// How far ahead of the last record a block must lie to be dropped, in bytes.
const DROP_DISTANCE_BYTES: u64 = 64 * 1024;
/// The longest payload of one record of padding.
const PADDING_BYTES_MAX: u64 = 64 * 1024;

/// Where a writer begins.
#[derive(Clone, Debug)]
pub struct LogStart {
    /// The end of the last record.
    pub position: LogPosition,
    /// The crc field of the last record.
    pub chain: u32,
    /// Up to where the log is known to be on disk.
    pub durable: LogPosition,
    /// Where records of a lost time lie behind `position`.
    pub stale: Vec<LogPosition>,
    /// True when a record names the state whose list is used. When not, that record must come
    /// before any other, since only for it there is room for sure.
    pub state_is_recorded: bool,
}

impl LogStart {
    /// Begins where a replay ended.
    pub fn after_replay(end: ReplayEnd) -> LogStart {
        LogStart {
            position: end.position,
            chain: end.chain,
            durable: end.durable,
            stale: end.stale,
            state_is_recorded: end.state_is_recorded,
        }
    }

    /// The same where nothing will be written: then nothing waits to be, either.
    pub fn to_read(end: ReplayEnd) -> LogStart {
        let (durable, stale) = (end.position, Vec::new());
        LogStart { durable, stale, ..LogStart::after_replay(end) }
    }

    /// Begins a log that has no records.
    pub fn empty(position: LogPosition) -> LogStart {
        LogStart {
            position,
            chain: 0,
            durable: position,
            stale: Vec::new(),
            state_is_recorded: false,
        }
    }
}

/// How far the log has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// The end of the last record appended.
    pub end: LogPosition,
    /// What the operating system has.
    pub written: LogPosition,
    /// What is known to be on disk.
    pub durable: LogPosition,
}

/// The one writer of a log.
#[derive(Debug)]
pub struct LogWriter {
    stream: BlockStream,
    seed: u32,
    inner: OrderedMutex<Buffer>,
    /// Told whenever `writing`, `syncing`, `written`, `durable` or `stopped` changes.
    changed: Condvar,
}

impl LogWriter {
    /// Goes on at `start`. `ring` is the list of the state that was opened.
    pub fn open(stream: BlockStream, ring: Ring, seed: u32, start: LogStart) -> LogWriter {
        let (durable, end) = (start.durable.0, start.position.0);
        assert!(durable <= end, "what is on disk ends with the last record");
        let ring = Arc::new(ring);
        let (plan, limit) = if start.state_is_recorded {
            (Plan::InForce, ordinary_limit(&ring))
        } else {
            let agree_until = ring.end_position();
            let (ring, dropped) = (Arc::clone(&ring), Vec::new());
            (Plan::Planned { ring, agree_until: agree_until.0, dropped, recorded: None }, 0)
        };
        let inner = Buffer {
            ring,
            plan,
            limit,
            chunks: VecDeque::new(),
            active: Vec::new(),
            spare: Vec::new(),
            end,
            written: durable,
            durable,
            uncertain: (durable < end).then_some(durable..end),
            chain: start.chain,
            // Nobody knows what the records of the tail named.
            unsynced_blocks_until: end,
            stale: start.stale,
            writing: false,
            syncing: false,
            rewriting: false,
            stopped: None,
            counters: LogCounters::default(),
        };
        LogWriter {
            stream,
            seed,
            inner: OrderedMutex::new(LockRank::LOG_WRITER, inner),
            changed: Condvar::new(),
        }
    }

    /// Erases the records of a lost time and syncs the file, so that what was replayed is on disk
    /// as far as the system knows. It is not written again: most of it is on disk already, and a
    /// power cut could tear it. Nor does any record say that it is there, until [`Self::passed`].
    /// The first write after an open calls it, and takes what was replayed out of the log before
    /// the first commit; any other write or sync that came before would begin with the same.
    pub fn make_tail_durable(&self) -> Result<()> {
        let _exclusive = preempt::exclusive();
        let mut inner = self.inner.lock();
        while inner.writing && inner.check().is_ok() {
            inner.wait(&self.changed);
        }
        inner.check()?;
        if inner.stale.is_empty() && inner.unclaimed_tail().is_none() {
            return Ok(());
        }
        inner.writing = true;
        let mut inner = self.claim_tail(inner)?;
        inner.writing = false;
        self.changed.notify_all();
        Ok(())
    }

    /// Puts a record into the buffer. Called in the commit order. No I/O.
    ///
    /// The payload is `parts`, one after the other.
    pub fn append(
        &self,
        kind: RecordKind,
        sequence: SequenceNumber,
        blocks: NamedBlocks,
        parts: &[&[u8]],
    ) -> std::result::Result<Appended, AppendError> {
        debug_assert_eq!(kind.is_commit(), sequence.0 != 0, "commits have numbers");
        let mut inner = self.inner.lock();
        let limit = inner.limit;
        inner.append(self.seed, limit, kind, sequence, blocks, parts)
    }

    /// Hands everything up to `end` to the operating system: it survives the process's death.
    pub fn write_to(&self, end: LogPosition) -> Result<()> {
        let _exclusive = preempt::exclusive();
        let mut inner = self.inner.lock();
        loop {
            inner.check()?;
            if inner.written >= end.0 {
                return Ok(());
            }
            if !inner.writing {
                break;
            }
            inner.wait(&self.changed);
        }
        inner.writing = true;
        let inner = self.claim_tail(inner)?;
        self.write_rest(inner).map(|_| ())
    }

    /// Makes everything up to `end` durable, together with whoever else waits for that.
    pub fn sync_to(&self, end: LogPosition) -> Result<()> {
        let _exclusive = preempt::exclusive();
        let mut inner = self.inner.lock();
        loop {
            // It stays there, whatever has failed since.
            if inner.durable >= end.0 {
                return Ok(());
            }
            inner.check()?;
            if !inner.syncing {
                break;
            }
            inner.wait(&self.changed);
        }
        inner.syncing = true;
        // Who writes may have panicked: then the log is stopped, and it stays at that.
        while inner.writing && inner.check().is_ok() {
            inner.wait(&self.changed);
        }
        if let Err(error) = inner.check() {
            inner.syncing = false;
            return Err(error);
        }
        inner.writing = true;
        let mut inner = match self.claim_tail(inner) {
            Ok(inner) => inner,
            Err(error) => return Err(self.give_up_sync(error)),
        };
        inner.seal();
        if inner.direct_sync_will_do() { self.direct_sync(inner) } else { self.full_sync(inner) }
    }

    /// Says that a data sync of the file succeeded that began when the operating system had
    /// everything up to `written` (from [`LogWriter::positions`]).
    pub fn note_file_synced(&self, written: LogPosition) {
        let mut inner = self.inner.lock();
        assert!(written.0 <= inner.written, "only what was written can have been synced");
        if inner.rewriting || inner.stopped.is_some() {
            // The sync that is at it says so for all when it ends; one that has failed may have
            // torn what it wrote again, or lost what this one was to bring to the disk.
            return;
        }
        inner.became_durable(written.0);
        self.changed.notify_all();
    }

    /// Writes nothing more, because something failed elsewhere in the file.
    pub fn stop(&self, cause: Arc<Error>) {
        self.inner.lock().stop(cause);
        self.changed.notify_all();
    }

    /// The failure that stopped the log, if one did.
    pub fn check(&self) -> Result<()> {
        self.inner.lock().check()
    }

    /// How far the log has come.
    pub fn positions(&self) -> Positions {
        let inner = self.inner.lock();
        Positions {
            end: LogPosition(inner.end),
            written: LogPosition(inner.written),
            durable: LogPosition(inner.durable),
        }
    }

    /// What lies in memory alone, in bytes: the operating system does not have it yet.
    pub fn unwritten_bytes(&self) -> u64 {
        let inner = self.inner.lock();
        inner.end - inner.written
    }

    /// The end of the last record and its crc field: what a state with its cut here names.
    pub fn cut_here(&self) -> (LogPosition, u32) {
        let inner = self.inner.lock();
        (LogPosition(inner.end), inner.chain)
    }

    /// The blocks of the list in force in the order of use, each with the position at which it
    /// ends.
    pub fn placed_blocks(&self) -> Vec<(Block, LogPosition)> {
        let inner = self.inner.lock();
        inner.ring.placed_blocks()
    }

    /// Fills the log with a record that says nothing, so that it goes on at or behind `position`;
    /// false when there is no room.
    ///
    /// # Errors
    /// When the log has stopped.
    pub fn pad_to(&self, position: LogPosition) -> Result<bool> {
        loop {
            let end = self.positions().end.0;
            if end >= position.0 {
                return Ok(true);
            }
            let bytes = (position.0 - end).clamp(1, PADDING_BYTES_MAX) as usize;
            let (kind, none) = (RecordKind::Padding, SequenceNumber(0));
            match self.append(kind, none, NamedBlocks::None, &[&vec![0; bytes]]) {
                Ok(_) => {}
                Err(AppendError::Full(_)) => return Ok(false),
                Err(AppendError::Failed(error)) => return Err(error),
            }
        }
    }

    /// Up to where a state may say that the log is on disk: less than what was synced, while there
    /// is replayed log of which a sync proves nothing.
    pub fn claimed_durable(&self) -> LogPosition {
        LogPosition(self.inner.lock().claimed())
    }

    /// A state is durable whose cut is this: what lies before it is not needed any more.
    pub fn passed(&self, cut: LogPosition) {
        let mut inner = self.inner.lock();
        if inner.uncertain.as_ref().is_some_and(|uncertain| uncertain.end <= cut.0) {
            inner.uncertain = None;
        }
    }

    /// The room that ordinary records have left, in bytes.
    pub fn available(&self) -> u64 {
        let inner = self.inner.lock();
        inner.limit.saturating_sub(inner.end)
    }

    /// What the log has done since it was opened.
    pub fn counters(&self) -> LogCounters {
        self.inner.lock().counters
    }

    /// Makes the list for a durable state with this cut: `append` are new blocks, filled with
    /// zeros; `drop_count` blocks are to be given back, passed ones first, then such as lie well
    /// ahead of the last record. From here on records stay where both lists agree.
    ///
    /// # Errors
    /// `Full` when the next list would have no room for the records of this state and the one
    /// after it: `append` must bring blocks. `Failed` when the log has stopped.
    pub fn plan_list(
        &self,
        cut: LogPosition,
        append: &[Block],
        drop_count: usize,
    ) -> std::result::Result<RingList, AppendError> {
        let mut inner = self.inner.lock();
        inner.check()?;
        assert!(matches!(inner.plan, Plan::InForce), "one list at a time is planned");
        assert!(cut.0 <= inner.end, "a cut lies at the end of a record");
        let unreached = LogPosition(inner.end.saturating_add(DROP_DISTANCE_BYTES));
        let next = inner.ring.next_list(cut, append, drop_count, unreached);
        let NextList { list, agree_until, dropped } = next;
        let ring = Arc::new(Ring::new(&list, self.stream.usable_bytes())?);
        let agree_until = agree_until.0;
        // Behind this state's record there must be room for the next one's.
        let next_end = ring.end_position().0.saturating_sub(STATE_DURABLE_BYTES);
        let limit = agree_until.min(next_end).saturating_sub(RESERVE_BYTES);
        if inner.end > limit {
            return Err(AppendError::Full(LogFull { needed: inner.end - limit, available: 0 }));
        }
        inner.limit = limit;
        inner.plan = Plan::Planned { ring, agree_until, dropped, recorded: None };
        Ok(list)
    }

    /// Gives a planned list up: its state has not become durable and never will.
    pub fn abandon_list(&self) {
        let mut inner = self.inner.lock();
        assert!(matches!(inner.plan, Plan::Planned { recorded: None, .. }), "a list is planned");
        assert_ne!(inner.limit, 0, "a state that was opened is durable already");
        inner.limit = ordinary_limit(&inner.ring);
        inner.plan = Plan::InForce;
    }

    /// Appends the record that names the state with the planned list, after its slot is on disk.
    pub fn append_state_durable(
        &self,
        epoch: Epoch,
        generation: u64,
    ) -> std::result::Result<Appended, AppendError> {
        let mut inner = self.inner.lock();
        let limit = match &inner.plan {
            Plan::Planned { agree_until, recorded: None, .. } => *agree_until,
            _ => return Err(malformed(LogPosition(inner.end), "no state is planned").into()),
        };
        let payload = state_durable_payload(epoch, generation);
        let (kind, none) = (RecordKind::StateDurable, SequenceNumber(0));
        let appended =
            inner.append(self.seed, limit, kind, none, NamedBlocks::None, &[&payload])?;
        if let Plan::Planned { recorded, .. } = &mut inner.plan {
            *recorded = Some(appended.end.0);
        }
        Ok(appended)
    }

    /// Puts the planned list in force, once the record that names its state is durable. Gives the
    /// blocks that were dropped: they are free now.
    pub fn install_list(&self) -> Vec<Block> {
        let mut inner = self.inner.lock();
        let durable = inner.durable;
        match std::mem::replace(&mut inner.plan, Plan::InForce) {
            Plan::Planned { ring, dropped, recorded: Some(end), .. } if end <= durable => {
                inner.limit = ordinary_limit(&ring);
                inner.ring = ring;
                dropped
            }
            _ => unreachable!("a list comes into force when a durable record names its state"),
        }
    }

    /// The three steps that follow when a state's slot is on disk: names it in the log, makes that
    /// durable, and puts its list in force. Gives the blocks that are free now.
    pub fn record_state(&self, epoch: Epoch, generation: u64) -> Result<Vec<Block>> {
        let appended = match self.append_state_durable(epoch, generation) {
            Ok(appended) => appended,
            Err(AppendError::Failed(error)) => return Err(error),
            Err(AppendError::Full(_)) => {
                let end = self.positions().end;
                return Err(malformed(end, "the list has no room to name its state"));
            }
        };
        self.sync_to(appended.end)?;
        Ok(self.install_list())
    }

    /// Erases records of a lost time, and has that on disk before anything else is written. Else
    /// one of them could follow a new record that happens to be the very one that it followed, as
    /// the record that names a state may be: it would be back after the next open, and was not
    /// there after this one. The caller has set `writing`.
    fn erase_stale<'a>(
        &'a self,
        mut inner: OrderedGuard<'a, Buffer>,
    ) -> Result<OrderedGuard<'a, Buffer>> {
        if inner.stale.is_empty() {
            return Ok(inner);
        }
        let stale = std::mem::take(&mut inner.stale);
        let ring = Arc::clone(&inner.ring);
        drop(inner);
        let erase = |position: &LogPosition| self.put(&ring, position.0, &[0; HEADER_BYTES], false);
        let outcome = stale.iter().try_for_each(erase).and_then(|()| self.stream.sync_data());
        let mut inner = self.inner.lock();
        if let Err(error) = outcome {
            inner.stop(Arc::new(error));
        }
        if let Err(error) = inner.check() {
            inner.writing = false;
            self.changed.notify_all();
            return Err(error);
        }
        Ok(inner)
    }

    /// What must come before anything is written: erases records of a lost time, and makes what was
    /// replayed durable as it lies (D7). The caller has set `writing`.
    fn claim_tail<'a>(
        &'a self,
        inner: OrderedGuard<'a, Buffer>,
    ) -> Result<OrderedGuard<'a, Buffer>> {
        let inner = self.erase_stale(inner)?;
        let Some(tail_end) = inner.unclaimed_tail() else { return Ok(inner) };
        drop(inner);
        let outcome = self.stream.sync_data();
        let mut inner = self.inner.lock();
        match outcome {
            Ok(()) if inner.stopped.is_none() => {
                inner.written = inner.written.max(tail_end);
                inner.became_durable(tail_end);
            }
            // The failure that has stopped it may be that of what this sync was to write.
            Ok(()) => {}
            Err(error) => inner.stop(Arc::new(error)),
        }
        if let Err(error) = inner.check() {
            inner.writing = false;
            self.changed.notify_all();
            return Err(error);
        }
        Ok(inner)
    }

    /// Lets others see that this thread's sync has failed.
    fn give_up_sync(&self, error: Error) -> Error {
        self.inner.lock().syncing = false;
        self.changed.notify_all();
        error
    }

    /// Writes what the operating system does not have yet. The caller has set `writing`.
    /// Gives the lock back, and up to where everything is written.
    fn write_rest<'a>(
        &'a self,
        mut inner: OrderedGuard<'a, Buffer>,
    ) -> Result<(OrderedGuard<'a, Buffer>, Sealed)> {
        inner.seal();
        let sealed = inner.sealed();
        let from = inner.written;
        let chunks = inner.chunks_from(from);
        let ring = Arc::clone(&inner.ring);
        drop(inner);
        let outcome =
            chunks.iter().try_for_each(|chunk| self.put(&ring, chunk.start, &chunk.bytes, false));
        drop(chunks);
        let mut inner = self.inner.lock();
        inner.writing = false;
        match outcome {
            Ok(()) => {
                inner.counters.written_bytes += sealed.end - from;
                inner.was_written(sealed.end);
            }
            Err(error) => inner.stop(Arc::new(error)),
        }
        self.changed.notify_all();
        inner.check()?;
        Ok((inner, sealed))
    }

    /// One data-synced write from the durable position on. `writing` and `syncing` are set.
    fn direct_sync(&self, mut inner: OrderedGuard<'_, Buffer>) -> Result<()> {
        let sealed = inner.sealed();
        let from = inner.durable;
        let chunks = inner.chunks_from(from);
        let ring = Arc::clone(&inner.ring);
        // The system has these bytes already, and what others write lies behind them: who only
        // hands over need not wait for the device.
        let is_written = inner.written >= sealed.end;
        inner.rewriting = from < inner.written;
        if is_written {
            inner.writing = false;
            self.changed.notify_all();
        }
        drop(inner);
        let outcome = match &chunks[..] {
            [] => Ok(()),
            [chunk] => self.put(&ring, chunk.start, &chunk.bytes, true),
            [first, ..] => {
                let parts = chunks.iter().map(|chunk| &chunk.bytes[..]).collect::<Vec<_>>();
                self.put(&ring, first.start, &parts.concat(), true)
            }
        };
        drop(chunks);
        let mut inner = self.inner.lock();
        if !is_written {
            inner.writing = false;
        }
        if outcome.is_err() {
            return self.end_sync(inner, sealed, outcome);
        }
        inner.counters.direct_syncs += 1;
        inner.counters.written_bytes += sealed.end - from;
        inner.was_written(sealed.end);
        self.changed.notify_all();
        drop(inner);
        // Nor need they wait for other syncs of the file.
        let settled = self.stream.settle();
        self.end_sync(self.inner.lock(), sealed, settled)
    }

    /// Writes the rest and syncs the file. `writing` and `syncing` are set.
    fn full_sync(&self, inner: OrderedGuard<'_, Buffer>) -> Result<()> {
        let (inner, sealed) = match self.write_rest(inner) {
            Ok(written) => written,
            Err(error) => return Err(self.give_up_sync(error)),
        };
        // Others may write on meanwhile: what they write is simply not counted.
        drop(inner);
        let outcome = self.stream.sync_data();
        let mut inner = self.inner.lock();
        inner.counters.full_syncs += u64::from(outcome.is_ok());
        self.end_sync(inner, sealed, outcome)
    }

    fn end_sync(
        &self,
        mut inner: OrderedGuard<'_, Buffer>,
        sealed: Sealed,
        outcome: Result<()>,
    ) -> Result<()> {
        inner.syncing = false;
        inner.rewriting = false;
        match outcome {
            Ok(()) if inner.stopped.is_none() => {
                inner.became_durable(sealed.end);
                let group = sealed.records.saturating_sub(inner.counters.synced_records);
                inner.counters.synced_records += group;
                inner.counters.largest_group = inner.counters.largest_group.max(group);
            }
            Ok(()) => {}
            Err(error) => inner.stop(Arc::new(error)),
        }
        self.changed.notify_all();
        inner.check()
    }

    /// Writes bytes of the log, block by block.
    fn put(&self, ring: &Ring, start: u64, mut bytes: &[u8], sync: bool) -> Result<()> {
        let mut position = LogPosition(start);
        while !bytes.is_empty() {
            let (block, offset, room) =
                ring.run_at(position).ok_or_else(|| malformed(position, "no block holds it"))?;
            let (part, rest) = bytes.split_at(room.min(bytes.len() as u64) as usize);
            if sync {
                self.stream.write_sync(block, offset, part)?;
            } else {
                self.stream.write(block, offset, part)?;
            }
            position.0 += part.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}
