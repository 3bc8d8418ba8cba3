//! Whether another commit has changed what a transaction uses.
//!
//! *Guarantees*: the first committer of a key wins; with a read set, a change of anything read,
//! absent keys and empty ranges included, is a conflict. False conflicts are possible (joined
//! ranges, up to everything there is; keys of a run that were put before the transaction began); a
//! missed one is not.
//! *Threads*: the committer's; first outside the commit lock, then under it for what came since
//! (see [`super::validator`]).

use super::layers::Layers;
use super::pending::PendingWrites;
use super::pending_merge::{split, split_range};
use super::read_set::ReadSet;
use crate::error::{Error, Result};
use crate::memtable::Memtable;
use crate::merge::ranges::Fragments;
use crate::segment::descriptor::{Segment, TreeRoot, composite_key, composite_range};
use crate::segment::filter::key_hash;
use crate::segment::key_range::KeyRange;
use crate::segment::node::{Caching, TreeKind};
use crate::segment::range_tombstone::RangeValue;
use crate::segment::tree_cursor::TreeCursor;
use crate::state::Core;
use crate::state::open_transactions::{FlushRecord, FlushedRuns};
use crate::state::view::{MemtableSlot, View};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// How often a commit looks outside of the commit lock because much has come since it looked.
pub const LOOKS_MAX: u32 = 8;

/// What a transaction is validated against.
#[derive(Clone, Copy, Debug)]
pub struct Validation<'a> {
    /// The number of its snapshot.
    pub began: SequenceNumber,
    /// What it has read, when that counts.
    pub reads: Option<&'a ReadSet>,
}

/// What has come after a commit: memtables, commits by reference, and flushes.
struct Changes<'a> {
    core: &'a Core,
    view: Arc<View>,
    flushes: Vec<Arc<FlushRecord>>,
    after: SequenceNumber,
}

impl<'a> Changes<'a> {
    fn new(core: &'a Core, after: SequenceNumber) -> Changes<'a> {
        // The view first: what is flushed between the two looks is then in both, never in neither.
        let view = core.view();
        let flushes = core.transactions.flushes_after(after);
        Changes { core, view, flushes, after }
    }

    /// The slots that hold commits after `after`.
    fn slots(&self) -> impl Iterator<Item = &Arc<MemtableSlot>> {
        let after = self.after;
        self.view.memtables().filter(move |slot| slot.last_sequence().is_some_and(|n| n > after))
    }

    fn key_changed(&self, keyspace: KeyspaceNumber, key: &[u8]) -> Result<bool> {
        let (core, after) = (self.core, self.after);
        for slot in self.slots() {
            if slot.table.key_changed_since(keyspace, key, after) {
                return Ok(true);
            }
            for segment in slot.segments() {
                if young_changed_key(core, segment, keyspace, key, after)? {
                    return Ok(true);
                }
            }
        }
        for flush in &self.flushes {
            if flush_changed_key(core, flush, keyspace, key, after)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn range_changed(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> Result<bool> {
        let (core, after) = (self.core, self.after);
        let (start, end) = (range.start.as_slice(), range.end.as_deref());
        let composite = composite_range(keyspace, range);
        for slot in self.slots() {
            if slot.table.changed_since(keyspace, start, end, after) {
                return Ok(true);
            }
            for segment in slot.segments() {
                if young_changed(core, segment, &composite, after)? {
                    return Ok(true);
                }
            }
        }
        for flush in &self.flushes {
            if flush_changed_range(core, flush, keyspace, range, after)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn reads_changed(&self, reads: Option<&ReadSet>) -> Result<bool> {
        let Some(reads) = reads else { return Ok(false) };
        if reads.is_everything() {
            return Ok(self.slots().next().is_some() || !self.flushes.is_empty());
        }
        for (keyspace, key) in reads.keys() {
            if self.key_changed(keyspace, key)? {
                return Ok(true);
            }
        }
        for (keyspace, range) in reads.ranges() {
            if self.range_changed(keyspace, range)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Walks all that has changed, and looks for it among what a transaction has spilled.
    fn touch(&self, writes: &Layers) -> Result<bool> {
        for slot in self.slots() {
            if self.table_touches(&slot.table, writes)? {
                return Ok(true);
            }
            for segment in slot.segments() {
                if self.young_touches(segment, writes)? {
                    return Ok(true);
                }
            }
        }
        for flush in &self.flushes {
            for (keyspace, runs) in &flush.runs {
                if self.runs_touch(*keyspace, runs, writes)? {
                    return Ok(true);
                }
            }
            for young in &flush.young {
                if self.young_touches(young, writes)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn table_touches(&self, table: &Arc<Memtable>, writes: &Layers) -> Result<bool> {
        let mut cursor = table.cursor();
        cursor.first();
        while cursor.valid() {
            if cursor.sequence() > self.after
                && writes.touches_key(self.core, cursor.keyspace(), cursor.key())?
            {
                return Ok(true);
            }
            cursor.next();
        }
        for fragment in table.range_deletes().iter() {
            let range = KeyRange::new(fragment.start(), fragment.end().map(<[u8]>::to_vec));
            if fragment.newest() > self.after
                && writes.touches_range(self.core, fragment.keyspace(), &range)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same for runs that went to the last level.
    fn runs_touch(
        &self,
        keyspace: KeyspaceNumber,
        runs: &FlushedRuns,
        writes: &Layers,
    ) -> Result<bool> {
        let mut cursor = run_cursor(self.core, keyspace, runs);
        for run in runs.ranges.iter() {
            if !writes.touches_range(self.core, keyspace, run)? {
                continue;
            }
            cursor.seek(&run.start)?;
            while cursor.valid() && run.contains(cursor.key()) {
                if writes.touches_key(self.core, keyspace, cursor.key())? {
                    return Ok(true);
                }
                // Behind its last key lie nodes that nobody may hold any more.
                if run.ends_behind(cursor.key()) {
                    break;
                }
                cursor.next()?;
            }
        }
        Ok(false)
    }

    /// The same for what a young segment holds.
    fn young_touches(&self, young: &Segment, writes: &Layers) -> Result<bool> {
        let (core, after) = (self.core, self.after);
        if let Some(root) = &young.points {
            let mut cursor = young_cursor(core, root, TreeKind::Points);
            cursor.seek_first()?;
            while cursor.valid() {
                let (keyspace, key) = split(cursor.key())?;
                if counts(cursor.base_number(), cursor.number(), after)
                    && writes.touches_key(core, keyspace, key)?
                {
                    return Ok(true);
                }
                cursor.next()?;
            }
        }
        let Some(root) = &young.ranges else { return Ok(false) };
        let many = KeyspaceNumber::MANY;
        for fragment in Fragments::new(&core.pages, root, many, None, Caching::Pass)? {
            let fragment = fragment?;
            let counts = fragment.numbers.is_empty()
                || fragment.numbers.iter().any(|number| *number > after.0);
            let (keyspace, range) = split_range(&fragment.start, fragment.end.as_deref())?;
            if counts && writes.touches_range(core, keyspace, &range)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether an entry came after `after`. Without numbers it belongs to a commit by reference, which
/// did: nobody looks at those that did not.
fn counts(base: Option<u64>, number: u64, after: SequenceNumber) -> bool {
    base.is_none() || number > after.0
}

fn conflict_if(changed: bool) -> Result<()> {
    if changed { Err(Error::Conflict) } else { Ok(()) }
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
    let changes = Changes::new(core, after);
    for (keyspace, key) in writes.touched_keys() {
        conflict_if(changes.key_changed(keyspace, key)?)?;
    }
    for (keyspace, range) in writes.touched_ranges() {
        conflict_if(changes.range_changed(keyspace, range)?)?;
    }
    conflict_if(changes.reads_changed(validation.reads)?)
}

/// The same for what was read alone.
///
/// # Errors
/// As [`validate`].
pub fn validate_reads(core: &Core, reads: Option<&ReadSet>, after: SequenceNumber) -> Result<()> {
    conflict_if(Changes::new(core, after).reads_changed(reads)?)
}

/// The same for what a transaction has spilled: what came after `after` is walked, since there is
/// less of it.
///
/// # Errors
/// As [`validate`].
pub fn validate_pending(core: &Core, writes: &Layers, after: SequenceNumber) -> Result<()> {
    conflict_if(Changes::new(core, after).touch(writes)?)
}

/// True when so much came after `after` that it is not to be looked at under the commit lock: more
/// than lies in the memtable that takes writes.
pub fn has_much_since(core: &Core, after: SequenceNumber) -> bool {
    let changes = Changes::new(core, after);
    let is_active = |slot: &&Arc<MemtableSlot>| Arc::ptr_eq(slot, &changes.view.active);
    changes.slots().any(|slot| !is_active(&slot)) || !changes.flushes.is_empty()
}

/// True when a pending segment has anything in a range.
///
/// # Errors
/// When a node cannot be read.
pub fn segment_touches(
    core: &Core,
    segment: &Segment,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<bool> {
    if segment.share_of(keyspace).is_none() {
        return Ok(false);
    }
    young_changed(core, segment, &composite_range(keyspace, range), SequenceNumber(0))
}

fn young_cursor(core: &Core, root: &TreeRoot, kind: TreeKind) -> TreeCursor {
    TreeCursor::new(core.pages.clone(), root.clone(), KeyspaceNumber::MANY, kind, Caching::Keep)
}

fn run_cursor(core: &Core, keyspace: KeyspaceNumber, runs: &FlushedRuns) -> TreeCursor {
    let (pages, root) = (core.pages.clone(), runs.root.clone());
    TreeCursor::new(pages, root, keyspace, TreeKind::Points, Caching::Keep)
}

/// True when a run has a key in a range. A seek inside a run meets a key of it, so nothing is read
/// but nodes that the flush wrote.
fn run_changed(
    core: &Core,
    flush: &FlushRecord,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<bool> {
    let Some(runs) = flush.runs.get(&keyspace) else { return Ok(false) };
    for run in runs.ranges.overlapping(range) {
        let Some(common) = run.intersection(range) else { continue };
        let mut cursor = run_cursor(core, keyspace, runs);
        cursor.seek(&common.start)?;
        if cursor.valid() && common.contains(cursor.key()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn flush_changed_key(
    core: &Core,
    flush: &FlushRecord,
    keyspace: KeyspaceNumber,
    key: &[u8],
    after: SequenceNumber,
) -> Result<bool> {
    if run_changed(core, flush, keyspace, &KeyRange::of_key(key))? {
        return Ok(true);
    }
    for young in &flush.young {
        if young_changed_key(core, young, keyspace, key, after)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn young_changed_key(
    core: &Core,
    young: &Segment,
    keyspace: KeyspaceNumber,
    key: &[u8],
    after: SequenceNumber,
) -> Result<bool> {
    if young.ranges.is_none() {
        let hash = key_hash(core.pages.layout().filter_seed(), keyspace, key);
        // Nothing is read for it: this may be under the commit lock.
        if young.filter.denies_at_hand(hash) {
            return Ok(false);
        }
    }
    let mut composite = Vec::new();
    composite_key(keyspace, key, &mut composite);
    young_changed(core, young, &KeyRange::of_key(&composite), after)
}

fn flush_changed_range(
    core: &Core,
    flush: &FlushRecord,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
    after: SequenceNumber,
) -> Result<bool> {
    if run_changed(core, flush, keyspace, range)? {
        return Ok(true);
    }
    let composite = composite_range(keyspace, range);
    for young in &flush.young {
        if young_changed(core, young, &composite, after)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when a young segment has a version or a range tombstone above `after` in a range of
/// composite keys. What was promoted out of it counts still: its blocks are held for this.
fn young_changed(
    core: &Core,
    young: &Segment,
    range: &KeyRange,
    after: SequenceNumber,
) -> Result<bool> {
    if let Some(root) = &young.points {
        let mut cursor = young_cursor(core, root, TreeKind::Points);
        cursor.seek(&range.start)?;
        while cursor.valid() && range.contains(cursor.key()) {
            if counts(cursor.base_number(), cursor.number(), after) {
                return Ok(true);
            }
            cursor.next()?;
        }
    }
    let Some(root) = &young.ranges else { return Ok(false) };
    let mut cursor = young_cursor(core, root, TreeKind::Ranges);
    cursor.seek_before(&range.start)?;
    if !cursor.valid() {
        cursor.seek_first()?;
    }
    while cursor.valid() {
        let value = RangeValue::decode(cursor.value(), cursor.base_number())
            .map_err(|problem| problem.corruption(crate::error::Structure::Leaf))?;
        let fragment = KeyRange::new(cursor.key(), value.end.map(<[u8]>::to_vec));
        if range.end.as_ref().is_some_and(|end| fragment.start >= *end) {
            break;
        }
        let base = cursor.base_number();
        let is_newer = base.is_none() || value.numbers().any(|number| number > after.0);
        if fragment.overlaps(range) && is_newer {
            return Ok(true);
        }
        cursor.next()?;
    }
    Ok(false)
}
