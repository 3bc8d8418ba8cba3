//! Walks one keyspace as of one instant, some entries ahead at a time.
//!
//! *Guarantees*: between calls nothing of a memtable is held, only a few copied entries; what lies
//! in segments alone is walked on without seeking again. One instant for ever, whatever is flushed
//! or merged meanwhile.
//! *Threads*: one owner each; clones of a [`Scan`] may go elsewhere.

mod source;
#[cfg(test)]
mod tests;

pub(crate) use source::OwnLayer;

use std::collections::VecDeque;

use crate::bytes::{Key, Value};
use crate::error::{Error, Result, Structure};
use crate::key_bounds::successor;
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::merge_cursor::MergeCursor;
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::sorted_block::{Entry as LeafEntry, EntryKind};
use crate::segment::sorted_source::Run;
use crate::shared::Shared;
use crate::state::join::join_tombstones;
use crate::state::sources::sources;
use crate::state::{Core, ReadPoint, SnapshotHold};
use crate::sync::Arc;
use crate::transaction::reads::{Reads, Walk};
use crate::types::KeyspaceNumber;

use source::ReadSource;

/// Entries of the first batch; each further one has twice as many.
const BATCH_ENTRIES_FIRST: usize = 4;
/// Entries of the largest batch.
const BATCH_ENTRIES_MAX: usize = 64;
/// A batch ends with the entry that brings its keys and values to this.
const BATCH_BYTES_MAX: usize = 32 << 10;
/// Longer values hold the frame that they lie in.
const COPY_BYTES_MAX: usize = 1024;
/// How many entries are counted before memtables are let go.
const COUNT_ENTRIES_MAX: u64 = 4096;

type Merged = MergeCursor<ReadSource>;

/// One keyspace as of one instant.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    pub shared: Arc<Shared>,
    pub keyspace: KeyspaceNumber,
    pub hold: Arc<SnapshotHold>,
    /// A transaction's own writes of that instant, newest first.
    pub own: Vec<OwnLayer>,
    /// Where a serializable transaction notes what it has read.
    pub reads: Option<Arc<Reads>>,
    /// Values are left out: they come as empty ones.
    pub keys_only: bool,
}

impl Scan {
    /// What was committed at one instant.
    pub fn new(shared: &Arc<Shared>, keyspace: KeyspaceNumber, hold: Arc<SnapshotHold>) -> Scan {
        let shared = shared.clone();
        Scan { shared, keyspace, hold, own: Vec::new(), reads: None, keys_only: false }
    }

    /// A new merging cursor. With memtables it comes with what it reads, which must outlive it:
    /// until they are flushed the snapshot holds no state, and what an install replaces meanwhile
    /// would be free. It is let go at the end of the call. Without memtables the snapshot holds the
    /// state that the cursor reads.
    fn open(&self, core: &Core) -> (Merged, Option<ReadPoint>) {
        let point = self.hold.read_point(core);
        let own = self.own.iter().map(|own| own.open(&core.pages, self.keyspace));
        let committed = sources(&core.pages, &point, self.keyspace);
        let all = own.chain(committed.into_iter().map(ReadSource::Committed)).collect();
        (MergeCursor::new(all, point.at.0), (!point.memtables.is_empty()).then_some(point))
    }

    /// What the cursor has just walked over for nothing need not be walked over again.
    fn join_dead(&self, core: &Core, point: Option<&ReadPoint>, cursor: &Merged) {
        if let Some(point) = point
            && cursor.dead().keys() >= core.options.join_keys_min
            && self.own.is_empty()
        {
            join_tombstones(core, point, self.keyspace, &cursor.dead_borders());
        }
    }

    /// Notes that a range is being read, from its empty beginning on.
    pub fn begin_walk(&self, at: &[u8]) -> Option<Walk> {
        let reads = self.reads.as_ref()?;
        Some(reads.begin_walk(self.keyspace, at))
    }

    /// The value of an entry.
    ///
    /// # Errors
    /// `ValueTooLarge`, `Closed`; or when it cannot be read.
    pub fn value(&self, ahead: &Ahead) -> Result<Value> {
        match ahead {
            Ahead::Value(value) => Ok(value.clone()),
            Ahead::Overflow(reference) => self
                .shared
                .read(|core| self.shared.read_overflow(core, self.keyspace, reference))
                .map(Value::from),
        }
    }

    /// The number of entries in a range.
    ///
    /// # Errors
    /// `Closed`; or when a node cannot be read.
    pub fn count(&self, range: &KeyRange) -> Result<u64> {
        if let Some(reads) = &self.reads {
            reads.add_range(self.keyspace, range);
        }
        let mut count = 0;
        let mut from = range.start.clone();
        let mut open: Option<Merged> = None;
        loop {
            let done = self.shared.read(|core| {
                let (mut cursor, point) = match open.take() {
                    Some(mut cursor) => {
                        cursor.next()?;
                        (cursor, None)
                    }
                    None => {
                        let (mut cursor, point) = self.open(core);
                        cursor.seek(&from)?;
                        (cursor, point)
                    }
                };
                let until = count + COUNT_ENTRIES_MAX;
                while cursor.valid() && is_before_end(cursor.key(), range.end.as_deref()) {
                    count += count_run(&mut cursor, range.end.as_deref(), until - count)?;
                    if count == until {
                        from = successor(cursor.key());
                        open = point.is_none().then_some(cursor);
                        return Ok(false);
                    }
                    cursor.next()?;
                }
                Ok(true)
            })?;
            if done {
                return Ok(count);
            }
        }
    }
}

/// Counts the entry on which the cursor stands, and as many behind it as are at hand, up to `max`;
/// the cursor stands on the last of them then.
fn count_run(cursor: &mut Merged, end: Option<&[u8]>, max: u64) -> Result<u64> {
    let Some(mut run) = cursor.run(end) else {
        return Ok(1);
    };
    let (mut count, mut last) = (0, None);
    while count < max
        && let Some((index, _)) = run.next_live()?
    {
        count += 1;
        last = Some(index);
    }
    last.map(|index| cursor.stand_in_run(index)).transpose()?;
    // What the cursor stands on counts in any case.
    Ok(count.max(1))
}

/// The value of an entry that was read ahead.
#[derive(Clone, Debug)]
pub(crate) enum Ahead {
    Value(Value),
    /// It is read when it is asked for.
    // Rare, and large.
    Overflow(Box<OverflowReference>),
}

impl Ahead {
    fn overflow(reference: &[u8]) -> Result<Ahead> {
        let reference = OverflowReference::decode(reference);
        let reference = reference.map_err(|p| Error::from(p.corruption(Structure::Overflow)))?;
        Ok(Ahead::Overflow(Box::new(reference)))
    }

    /// The value's length, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Ahead::Value(value) => value.len() as u64,
            Ahead::Overflow(reference) => reference.length,
        }
    }
}

/// An entry that was read ahead.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Key,
    pub value: Ahead,
}

impl Entry {
    fn copy(cursor: &Merged, keys_only: bool) -> Result<Entry> {
        let value = match cursor.kind() {
            _ if keys_only => Ahead::Value(Value::default()),
            EntryKind::PutOverflow => Ahead::overflow(cursor.value())?,
            _ => match cursor.value_frame() {
                Some((frame, range)) if range.len() > COPY_BYTES_MAX => {
                    Ahead::Value(Value::from_frame(frame.clone(), range))
                }
                _ => Ahead::Value(Value::from(cursor.value())),
            },
        };
        Ok(Entry { key: Key::from(cursor.key()), value })
    }

    #[inline]
    fn from_run(run: &Run<'_>, entry: &LeafEntry<'_>, keys_only: bool) -> Result<Entry> {
        let value = if keys_only {
            Ahead::Value(Value::default())
        } else if entry.kind == EntryKind::PutOverflow {
            Ahead::overflow(entry.value)?
        } else if entry.value.len() > COPY_BYTES_MAX {
            let (frame, range) = run.value_frame(entry);
            Ahead::Value(Value::from_frame(frame.clone(), range))
        } else {
            Ahead::Value(Value::from(entry.value))
        };
        Ok(Entry { key: run.with_key_pieces(entry, Key::join), value })
    }

    fn bytes(&self) -> usize {
        let value = match &self.value {
            Ahead::Value(value) => value.len(),
            Ahead::Overflow(_) => 0,
        };
        self.key.len() + value
    }
}

/// Which way a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Forward,
    Backward,
}

/// Where a walk begins, and so which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From<'a> {
    /// Forward from the first entry at or behind a key.
    At(&'a [u8]),
    /// Backward from the last entry before a key.
    Before(&'a [u8]),
    /// Backward from the last entry.
    End,
}

/// Fetches entries by batches, in the direction that was asked for last.
#[derive(Debug)]
pub(crate) struct Walker {
    pub scan: Scan,
    /// Entries in the order of the walk.
    pub batch: VecDeque<Entry>,
    pub direction: Direction,
    /// No entry lies behind the batch.
    pub exhausted: bool,
    /// Stands on the last entry of the batch as it was fetched. It holds no memtable.
    open: Option<Merged>,
    /// The key of that entry.
    last: Vec<u8>,
    batch_entries: usize,
}

impl Walker {
    /// A walker that has not begun.
    pub fn new(scan: Scan) -> Walker {
        Walker {
            scan,
            batch: VecDeque::new(),
            direction: Direction::Forward,
            exhausted: true,
            open: None,
            last: Vec::new(),
            batch_entries: BATCH_ENTRIES_FIRST,
        }
    }

    /// The key of the last entry of the batch as it was fetched, unless it was the last of all.
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Lets everything go that was fetched; nothing lies ahead.
    pub fn end(&mut self) {
        self.batch.clear();
        self.open = None;
        self.exhausted = true;
    }

    /// Begins anew somewhere. `limits`: nothing outside is fetched.
    ///
    /// # Errors
    /// `Closed`; or when a node cannot be read. Then nothing lies ahead.
    pub fn begin(&mut self, from: From<'_>, entries: usize, limits: Limits<'_>) -> Result<()> {
        self.batch_entries = entries;
        self.direction = match from {
            From::At(_) => Direction::Forward,
            From::Before(_) | From::End => Direction::Backward,
        };
        self.guarded(|walker, core| {
            let (mut cursor, point) = match walker.open.take() {
                Some(cursor) => (cursor, None),
                None => walker.scan.open(core),
            };
            match from {
                From::At(key) => cursor.seek(key)?,
                From::Before(key) => cursor.seek_before(key)?,
                From::End => cursor.seek_last()?,
            }
            walker.take(core, cursor, point.as_ref(), limits)
        })
    }

    /// Fetches the entries behind the batch, in place of it.
    ///
    /// # Errors
    /// As [`Walker::begin`].
    pub fn go_on(&mut self, limits: Limits<'_>) -> Result<()> {
        if self.exhausted {
            self.end();
            return self.scan.shared.check_open();
        }
        self.batch_entries = (self.batch_entries * 2).clamp(BATCH_ENTRIES_FIRST, BATCH_ENTRIES_MAX);
        self.guarded(|walker, core| {
            let (cursor, point) = match (walker.open.take(), walker.direction) {
                (Some(mut cursor), Direction::Forward) => {
                    cursor.next()?;
                    (cursor, None)
                }
                (Some(mut cursor), Direction::Backward) => {
                    cursor.previous()?;
                    (cursor, None)
                }
                (None, direction) => {
                    let (mut cursor, point) = walker.scan.open(core);
                    match direction {
                        Direction::Forward => cursor.seek(&successor(&walker.last))?,
                        Direction::Backward => cursor.seek_before(&walker.last)?,
                    }
                    (cursor, point)
                }
            };
            walker.take(core, cursor, point.as_ref(), limits)
        })
    }

    fn guarded(&mut self, run: impl FnOnce(&mut Walker, &Core) -> Result<()>) -> Result<()> {
        self.batch.clear();
        let shared = self.scan.shared.clone();
        let result = shared.read(|core| run(self, core));
        if result.is_err() {
            self.end();
        }
        result
    }

    /// Fills the batch from where the cursor stands. What was read before an error is handed out
    /// first: the batch behind it meets the error again.
    fn take(
        &mut self,
        core: &Core,
        cursor: Merged,
        point: Option<&ReadPoint>,
        limits: Limits<'_>,
    ) -> Result<()> {
        match (self.fill(core, cursor, point, limits), self.batch.back()) {
            (Err(_), Some(entry)) => {
                self.last.clear();
                self.last.extend_from_slice(&entry.key);
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// With memtables there is a `point`, and the cursor is let go.
    fn fill(
        &mut self,
        core: &Core,
        mut cursor: Merged,
        point: Option<&ReadPoint>,
        limits: Limits<'_>,
    ) -> Result<()> {
        let mut bytes = 0;
        self.exhausted = false;
        self.scan.join_dead(core, point, &cursor);
        while cursor.valid() && limits.hold(cursor.key()) {
            if self.direction == Direction::Backward
                || !self.take_run(&mut cursor, limits, &mut bytes)?
            {
                let entry = Entry::copy(&cursor, self.scan.keys_only)?;
                bytes += entry.bytes();
                self.batch.push_back(entry);
            }
            if self.batch.len() >= self.batch_entries || bytes >= BATCH_BYTES_MAX {
                self.last.clear();
                self.last.extend_from_slice(cursor.key());
                self.open = point.is_none().then_some(cursor);
                return Ok(());
            }
            match self.direction {
                Direction::Forward => cursor.next()?,
                Direction::Backward => cursor.previous()?,
            }
            self.scan.join_dead(core, point, &cursor);
        }
        self.exhausted = true;
        // A cursor seeks again and again: what its sources have read is worth keeping.
        self.open = point.is_none().then_some(cursor);
        Ok(())
    }
}

impl Walker {
    /// Adds the entries from where the cursor stands that lie in one leaf and can be handed out as
    /// they are; the cursor stands on the last of them then. False when it can give no such
    /// entries.
    fn take_run(
        &mut self,
        cursor: &mut Merged,
        limits: Limits<'_>,
        bytes: &mut usize,
    ) -> Result<bool> {
        let Some(mut run) = cursor.run(limits.end) else {
            return Ok(false);
        };
        let mut last = None;
        while self.batch.len() < self.batch_entries && *bytes < BATCH_BYTES_MAX {
            let Some((index, entry)) = run.next_live()? else { break };
            let entry = Entry::from_run(&run, &entry, self.scan.keys_only)?;
            *bytes += entry.bytes();
            self.batch.push_back(entry);
            last = Some(index);
        }
        last.map(|index| cursor.stand_in_run(index)).transpose()?;
        Ok(last.is_some())
    }
}

/// What is fetched at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits<'a> {
    pub start: &'a [u8],
    pub end: Option<&'a [u8]>,
}

impl Limits<'_> {
    pub const NONE: Limits<'static> = Limits { start: &[], end: None };

    fn hold(&self, key: &[u8]) -> bool {
        key >= self.start && is_before_end(key, self.end)
    }
}

/// Entries of the first batch of a scan.
pub(crate) const SCAN_ENTRIES: usize = BATCH_ENTRIES_FIRST;
