//! Whether two snapshots see the same content.
//!
//! *Guarantees*: contents count, not commits: what was written and put back has not changed.
//! *Threads*: any.

mod differing;

use std::ops::RangeBounds;

use crate::compare::{is_overflow, is_same_overflow};
use crate::error::Result;
use crate::key_bounds::key_range;
use crate::keyspace::Keyspace;
use crate::scan::{Ahead, Entry, From, Limits, SCAN_ENTRIES, Scan, Walker};
use crate::segment::key_range::KeyRange;
use crate::snapshot::Snapshot;
use crate::state::Core;
use crate::types::SequenceNumber;

use differing::Differing;

impl Snapshot {
    /// True when a range has other content in this snapshot than in an earlier one.
    ///
    /// Keys and values are compared: what was deleted and put back as it was has not changed. So a
    /// writer can prepare something from a snapshot, at any length and without a transaction, and
    /// see then whether what it has read still holds.
    ///
    /// It costs about what was written to the range since: nodes that both snapshots see are not
    /// read. Where range tombstones were written, or more than a few thousand keys, it costs as
    /// much as reading the range in both snapshots, up to the first difference. The order of the
    /// two snapshots does not matter.
    ///
    /// # Errors
    /// [`Error::InvalidRange`](crate::Error::InvalidRange) when its start lies after its end,
    /// [`Error::ForeignKeyspace`](crate::Error::ForeignKeyspace) when keyspace or snapshot belong
    /// to another database; or when a node cannot be read or is damaged.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let prices = db.keyspace("prices")?;
    /// prices.put("apple", "30")?;
    /// let before = db.snapshot()?;
    /// prices.put("pear", "40")?;
    /// let after = db.snapshot()?;
    /// assert!(after.changed_since(&before, &prices, "p"..)?);
    /// assert!(!after.changed_since(&before, &prices, .."p")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn changed_since<K: AsRef<[u8]>>(
        &self,
        earlier: &Snapshot,
        keyspace: &Keyspace,
        range: impl RangeBounds<K>,
    ) -> Result<bool> {
        let range = key_range(&range)?;
        let (ours, theirs) = (self.scan(keyspace)?, earlier.scan(keyspace)?);
        if range.is_empty() || self.sequence() == earlier.sequence() {
            return Ok(false);
        }
        let (older, newer) = match self.sequence() > earlier.sequence() {
            true => (earlier.sequence(), &ours),
            false => (self.sequence(), &theirs),
        };
        if newer.shared.read(|core| Ok(is_untouched(core, newer, older, &range)))? {
            return Ok(false);
        }
        let scans = (&ours, &theirs);
        match ours.shared.read(|core| Differing::find(core, scans, older, &range))? {
            None => differ(&ours, &theirs, &range),
            Some(ranges) => {
                for range in ranges.iter() {
                    if differ(&ours, &theirs, range)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }
}

/// True when nothing was written to the range behind `older`, as far as memory can tell: all
/// commits since lie in memtables, and none of them in the range.
fn is_untouched(core: &Core, newer: &Scan, older: SequenceNumber, range: &KeyRange) -> bool {
    let point = newer.hold.read_point(core);
    let (keyspace, end) = (newer.keyspace, range.end.as_deref());
    point.state.cut.sequence <= older
        && point.memtables.iter().all(|slot| {
            let by_reference = slot.by_reference.as_ref().filter(|commit| commit.number > older);
            let mut segments = by_reference.into_iter().flat_map(|commit| &commit.segments);
            segments.all(|segment| segment.share_of(keyspace).is_none())
                && !slot.table.changed_since(keyspace, &range.start, end, older)
        })
}

/// Walks both, side by side, to the first difference.
fn differ(a: &Scan, b: &Scan, range: &KeyRange) -> Result<bool> {
    let (mut a, mut b) = (Walk::begin(a, range)?, Walk::begin(b, range)?);
    loop {
        match (a.next()?, b.next()?) {
            (None, None) => return Ok(false),
            (Some(ours), Some(theirs)) if ours.key == theirs.key => {
                if !is_same(&a.walker.scan, &ours.value, &theirs.value)? {
                    return Ok(true);
                }
            }
            _ => return Ok(true),
        }
    }
}

/// A walk over a range, forward.
struct Walk<'a> {
    walker: Walker,
    limits: Limits<'a>,
}

impl<'a> Walk<'a> {
    fn begin(scan: &Scan, range: &'a KeyRange) -> Result<Walk<'a>> {
        let limits = Limits { start: &range.start, end: range.end.as_deref() };
        let mut walker = Walker::new(scan.clone()).by_runs();
        walker.begin(From::At(&range.start), SCAN_ENTRIES, limits)?;
        Ok(Walk { walker, limits })
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        self.walker.next(self.limits)
    }
}

fn is_same(scan: &Scan, a: &Ahead, b: &Ahead) -> Result<bool> {
    let Scan { shared, keyspace, .. } = scan;
    match (a, b) {
        (Ahead::Value(a), Ahead::Value(b)) => Ok(a == b),
        (Ahead::Overflow(a), Ahead::Overflow(b)) => {
            shared.read(|core| is_same_overflow(core, *keyspace, a, b))
        }
        (Ahead::Overflow(reference), Ahead::Value(value))
        | (Ahead::Value(value), Ahead::Overflow(reference)) => {
            shared.read(|core| is_overflow(core, *keyspace, reference, value))
        }
    }
}
