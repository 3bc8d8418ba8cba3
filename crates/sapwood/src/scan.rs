//! Reads one keyspace as of one instant: what ranges, cursors and counts stand on.
//!
//! *Guarantees*: one instant for ever, whatever is flushed or merged meanwhile.
//! *Threads*: one owner each; clones of a [`Scan`] may go elsewhere.

mod entry;
mod source;
#[cfg(test)]
mod tests;
mod walker;

pub(crate) use entry::{Ahead, Entry};
pub(crate) use source::OwnLayer;
pub(crate) use walker::{Direction, From, Limits, SCAN_ENTRIES, Walker};

use crate::bytes::Value;
use crate::error::Result;
use crate::key_bounds::successor;
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::merge_cursor::MergeCursor;
use crate::shared::Shared;
use crate::state::join::join_tombstones;
use crate::state::sources::sources;
use crate::state::{Core, ReadPoint, SnapshotHold};
use crate::sync::Arc;
use crate::transaction::reads::{Reads, Walk};
use crate::types::KeyspaceNumber;

use source::ReadSource;

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
    let mut count = 0;
    while count < max && run.next_live()?.is_some() {
        count += 1;
    }
    run.last().map(|index| cursor.stand_in_run(index)).transpose()?;
    // What the cursor stands on counts in any case.
    Ok(count.max(1))
}
