//! Whether another commit has changed what a transaction uses.
//!
//! *Guarantees*: the first committer of a key wins; with a read set, a change of anything read,
//! absent keys and empty ranges included, is a conflict. False conflicts are possible (joined
//! ranges, runs known by their bounds only); a missed one is not. *Threads*: the committer's; first
//! outside the commit lock, then under it for what came since.

use super::pending::PendingWrites;
use super::read_set::ReadSet;
use crate::error::{Error, Result};
use crate::segment::descriptor::{Segment, composite_key, composite_range};
use crate::segment::filter::key_hash;
use crate::segment::key_range::KeyRange;
use crate::segment::node::{Caching, TreeKind};
use crate::segment::range_tombstone::RangeValue;
use crate::segment::segment_cursor::TreeCursor;
use crate::state::Core;
use crate::state::open_transactions::FlushRecord;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// What a transaction is validated against.
#[derive(Clone, Copy, Debug)]
pub struct Validation<'a> {
    /// The number of its snapshot.
    pub began: SequenceNumber,
    /// What it has read, when that counts.
    pub reads: Option<&'a ReadSet>,
}

/// Looks for commits after `after`.
///
/// # Errors
/// `Conflict`; or a node that cannot be read.
pub fn validate(
    core: &Core,
    writes: &PendingWrites,
    validation: &Validation<'_>,
    after: SequenceNumber,
) -> Result<()> {
    // The view first: what is flushed between the two looks is then in both, never in neither.
    let view = core.view();
    let flushes = core.transactions.flushes_after(after);
    let mut hit = false;
    let key_changed = |keyspace: KeyspaceNumber, key: &[u8]| -> Result<bool> {
        if view.memtables().any(|slot| slot.table.key_changed_since(keyspace, key, after)) {
            return Ok(true);
        }
        for flush in &flushes {
            if flush_changed_key(core, flush, keyspace, key, after)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for (keyspace, key) in writes.touched_keys() {
        hit = hit || key_changed(keyspace, key)?;
    }
    if let Some(reads) = validation.reads {
        for (keyspace, key) in reads.keys() {
            hit = hit || key_changed(keyspace, key)?;
        }
    }
    let range_changed = |keyspace: KeyspaceNumber, range: &KeyRange| -> Result<bool> {
        let (start, end) = (range.start.as_slice(), range.end.as_deref());
        if view.memtables().any(|slot| slot.table.changed_since(keyspace, start, end, after)) {
            return Ok(true);
        }
        for flush in &flushes {
            if flush_changed_range(core, flush, keyspace, range, after)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    for (keyspace, range) in writes.touched_ranges() {
        hit = hit || range_changed(keyspace, range)?;
    }
    if let Some(reads) = validation.reads {
        for (keyspace, range) in reads.ranges() {
            hit = hit || range_changed(keyspace, range)?;
        }
    }
    if hit { Err(Error::Conflict) } else { Ok(()) }
}

fn flush_changed_key(
    core: &Core,
    flush: &FlushRecord,
    keyspace: KeyspaceNumber,
    key: &[u8],
    after: SequenceNumber,
) -> Result<bool> {
    if flush.key_in_run(keyspace, key) {
        return Ok(true);
    }
    let Some(young) = &flush.young else { return Ok(false) };
    if young.ranges.is_none() {
        let hash = key_hash(core.pages.layout().filter_seed(), keyspace, key);
        if young.filter.may_contain(hash) == Some(false) {
            return Ok(false);
        }
    }
    let mut start = Vec::new();
    composite_key(keyspace, key, &mut start);
    let mut end = start.clone();
    end.push(0);
    young_changed(core, young, &KeyRange::new(start, Some(end)), after)
}

fn flush_changed_range(
    core: &Core,
    flush: &FlushRecord,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
    after: SequenceNumber,
) -> Result<bool> {
    if flush.range_in_run(keyspace, range) {
        return Ok(true);
    }
    match &flush.young {
        Some(young) => young_changed(core, young, &composite_range(keyspace, range), after),
        None => Ok(false),
    }
}

/// True when a young segment has a version or a range tombstone above `after` in a range of
/// composite keys. What was promoted out of it counts still: its blocks are held for this.
fn young_changed(
    core: &Core,
    young: &Segment,
    range: &KeyRange,
    after: SequenceNumber,
) -> Result<bool> {
    let many = KeyspaceNumber::MANY;
    if let Some(root) = &young.points {
        let mut cursor = TreeCursor::new(
            core.pages.clone(),
            root.clone(),
            many,
            TreeKind::Points,
            Caching::Keep,
        );
        cursor.seek(&range.start)?;
        while cursor.valid() && range.contains(cursor.key()) {
            if cursor.number() > after.0 {
                return Ok(true);
            }
            cursor.next()?;
        }
    }
    let Some(root) = &young.ranges else { return Ok(false) };
    let mut cursor =
        TreeCursor::new(core.pages.clone(), root.clone(), many, TreeKind::Ranges, Caching::Keep);
    cursor.seek_before(&range.start)?;
    if !cursor.valid() {
        cursor.seek_first()?;
    }
    while cursor.valid() {
        let value = RangeValue::decode(cursor.value(), Some(cursor.base_number()))
            .map_err(|problem| problem.corruption(crate::error::Structure::Leaf))?;
        let fragment = KeyRange::new(cursor.key(), value.end.map(<[u8]>::to_vec));
        if range.end.as_ref().is_some_and(|end| fragment.start >= *end) {
            break;
        }
        if fragment.overlaps(range) && value.numbers().any(|number| number > after.0) {
            return Ok(true);
        }
        cursor.next()?;
    }
    Ok(false)
}
