//! Walks on through a keyspace, some entries ahead at a time.
//!
//! *Guarantees*: between calls nothing of a memtable is held, only a few copied entries or the rest
//! of one leaf; what lies in segments alone is walked on without seeking again.
//! *Threads*: one owner.

use std::collections::VecDeque;

use super::{Ahead, Entry, Merged, Scan};
use crate::bytes::{Key, Value};
use crate::error::Result;
use crate::key_bounds::successor;
use crate::page::Held;
use crate::segment::key_range::is_before_end;
use crate::segment::leaf_run::LeafRun;
use crate::state::lookup::COPY_BYTES_MAX;
use crate::state::{BlocksHold, Core, ReadPoint};

/// Entries of the first batch; each further one has twice as many.
const BATCH_ENTRIES_FIRST: usize = 4;
/// Entries of the largest batch.
const BATCH_ENTRIES_MAX: usize = 64;
/// A batch ends with the entry that brings its keys and values to this.
const BATCH_BYTES_MAX: usize = 32 << 10;

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

/// Fetches entries in the direction that was asked for last: by batches of copies, or by runs.
#[derive(Debug)]
pub(crate) struct Walker {
    /// Entries in the order of the walk.
    pub batch: VecDeque<Entry>,
    pub direction: Direction,
    /// No entry lies behind what was fetched.
    pub exhausted: bool,
    /// Whether runs are kept as they are, in place of batches, for [`Walker::pop`].
    by_runs: bool,
    /// What comes first; beside it the batch is empty.
    run: Option<LeafRun>,
    /// Stands on the last entry of the batch as it was fetched, or in the run. It holds no
    /// memtable.
    open: Option<Merged>,
    /// The key of that entry.
    last: Vec<u8>,
    batch_entries: usize,
    /// What the largest batch took.
    held: Option<Held>,
    // What follows is dropped last: nodes that are read in place must not outlive what holds them.
    /// What holds the blocks that the batch or the run names, where the snapshot holds no state:
    /// before the flush of its memtables values may be copied elsewhere.
    blocks: Option<BlocksHold>,
    /// Where it walks, and the snapshot that it walks over.
    pub scan: Scan,
}

impl Walker {
    /// A walker that has not begun.
    pub fn new(scan: Scan) -> Walker {
        Walker {
            scan,
            batch: VecDeque::new(),
            direction: Direction::Forward,
            exhausted: true,
            by_runs: false,
            run: None,
            open: None,
            blocks: None,
            last: Vec::new(),
            batch_entries: BATCH_ENTRIES_FIRST,
            held: None,
        }
    }

    /// The same, which hands out what [`Walker::pop`] asks for, and that alone: the batch does not
    /// have it all.
    pub fn by_runs(mut self) -> Walker {
        self.by_runs = true;
        self
    }

    /// Takes the next entry of a run if it is a plain pair: the shortest way, since its parts pass
    /// through nothing else.
    #[inline]
    pub fn pop_pair(&mut self) -> Option<(Key, Value)> {
        let live = self.run.as_mut()?.next_short(COPY_BYTES_MAX)?;
        Some((live.with_key_pieces(Key::join), Value::from(live.entry.value)))
    }

    /// Takes the next of the entries that were fetched.
    ///
    /// # Errors
    /// When the leaf is damaged. Then nothing lies ahead.
    #[inline]
    pub fn pop(&mut self) -> Option<Result<Entry>> {
        if let Some(run) = &mut self.run {
            let keys_only = self.scan.keys_only;
            let entry = run
                .next_live()
                .and_then(|live| live.map(|live| Entry::from_run(&live, keys_only)).transpose());
            match entry.transpose() {
                None => {}
                Some(Err(error)) => {
                    self.end();
                    return Some(self.scan.shared.fail(error));
                }
                some => return some,
            }
        }
        self.batch.pop_front().map(Ok)
    }

    /// The next entry, fetched if need be; `None` behind the last within the limits.
    ///
    /// # Errors
    /// As [`Walker::begin`].
    pub fn next(&mut self, limits: Limits<'_>) -> Result<Option<Entry>> {
        if let Some(entry) = self.pop() {
            return entry.map(Some);
        }
        self.go_on(limits)?;
        self.pop().transpose()
    }

    /// Makes a batch of what is left of a run; from now on everything is fetched by batches.
    ///
    /// # Errors
    /// As [`Walker::pop`].
    pub fn batches_from_now_on(&mut self) -> Result<()> {
        self.by_runs = false;
        // Beside a run the batch is empty.
        let mut left = VecDeque::new();
        while self.run.is_some()
            && let Some(entry) = self.pop()
        {
            left.push_back(entry?);
        }
        self.leave_run().or_else(|error| self.scan.shared.fail(error))?;
        self.batch.extend(left);
        let shared = self.scan.shared.clone();
        shared.read(|core| {
            self.count_batch(core);
            Ok(())
        })
    }

    /// Counts what the batch takes, if it is the largest so far.
    fn count_batch(&mut self, core: &Core) {
        if self.batch.capacity() > 0 {
            let places = self.batch.capacity() * size_of::<Entry>();
            let bytes = places + self.batch.iter().map(Entry::boxed_bytes).sum::<usize>();
            self.held.get_or_insert_with(|| Held::new(core.pages.budget())).follow_up(bytes);
        }
    }

    /// Lets the run go; the cursor stands on the entry of it that was handed out last.
    fn leave_run(&mut self) -> Result<()> {
        let Some(run) = self.run.take() else {
            return Ok(());
        };
        if let (Some(cursor), Some(index)) = (&mut self.open, run.last()) {
            cursor.stand_in_run(index)?;
        }
        if let Some(key) = run.last_key()? {
            self.last = key;
        }
        Ok(())
    }

    /// The key of the last entry of the batch as it was fetched, unless it was the last of all.
    pub fn last(&self) -> &[u8] {
        &self.last
    }

    /// Lets everything go that was fetched; nothing lies ahead.
    pub fn end(&mut self) {
        self.batch.clear();
        self.run = None;
        self.open = None;
        self.blocks = None;
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
        self.run = None;
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
            walker.leave_run()?;
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
        let filled = self.fill(core, cursor, point, limits);
        self.blocks = point.filter(|_| self.names_blocks()).map(ReadPoint::hold_blocks);
        self.count_batch(core);
        match (filled, self.batch.back()) {
            (Err(_), Some(entry)) => {
                self.last.clear();
                self.last.extend_from_slice(&entry.key);
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// Whether something that was fetched may be read later, where it lies in the file.
    fn names_blocks(&self) -> bool {
        let is_elsewhere = |entry: &Entry| matches!(entry.value, Ahead::Overflow(_));
        self.run.is_some() || self.batch.iter().any(is_elsewhere)
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
            if self.by_runs && self.batch.is_empty() && self.keep_run(&cursor, point, limits) {
                self.last.clear();
                self.last.extend_from_slice(cursor.key());
                self.open = point.is_none().then_some(cursor);
                return Ok(());
            }
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
    /// Keeps the entries from where the cursor stands that lie in one leaf and can be handed out as
    /// they are. False when it can give no such entries, or none that may be kept.
    fn keep_run(&mut self, cursor: &Merged, point: Option<&ReadPoint>, limits: Limits<'_>) -> bool {
        // Beside memtables the snapshot holds no state, and so nothing in the file's place (F1).
        let may_keep = |run: &LeafRun| point.is_none() || !run.is_in_place();
        self.run = match self.direction {
            Direction::Forward => cursor.run(limits.end).filter(may_keep),
            Direction::Backward => None,
        };
        self.run.is_some()
    }

    /// Adds such entries to the batch; the cursor stands on the last of them then.
    fn take_run(
        &mut self,
        cursor: &mut Merged,
        limits: Limits<'_>,
        bytes: &mut usize,
    ) -> Result<bool> {
        let Some(mut run) = cursor.run(limits.end) else {
            return Ok(false);
        };
        while self.batch.len() < self.batch_entries && *bytes < BATCH_BYTES_MAX {
            let Some(live) = run.next_live()? else { break };
            let entry = Entry::from_run(&live, self.scan.keys_only)?;
            *bytes += entry.bytes();
            self.batch.push_back(entry);
        }
        run.last().map(|index| cursor.stand_in_run(index)).transpose()?;
        Ok(run.last().is_some())
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
