//! About how many entries a range has.
//!
//! *Guarantees*: it reads parents at the edges of the range only, and of each memtable a bounded
//! number of entries.

use crate::error::Result;
use crate::memtable::Memtable;
use crate::page::{NodeRef, PageManager};
use crate::segment::coverage::child_range;
use crate::segment::descriptor::{Segment, composite_range};
use crate::segment::key_range::{KeyRange, KeyRanges, is_before_end};
use crate::segment::node::read_parent_at;
use crate::state::{Core, ReadPoint};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// How many entries of a memtable are looked at.
const MEMTABLE_ENTRIES_MAX: u64 = 1000;

/// See the module.
///
/// # Errors
/// When a parent cannot be read.
pub(crate) fn estimate(
    core: &Core,
    point: &ReadPoint,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<u64> {
    if range.is_empty() {
        return Ok(0);
    }
    let memtables = point.memtables.iter();
    let mut sum = memtables.map(|slot| in_memtable(&slot.table, keyspace, range)).sum::<u64>();
    let by_reference = point.memtables.iter().flat_map(|slot| slot.segments());
    let by_reference = by_reference.filter(|segment| segment.share_of(keyspace).is_some());
    for segment in by_reference.chain(point.state.segments_of(keyspace)) {
        sum = sum.saturating_add(in_segment(&core.pages, segment, keyspace, range)?);
    }
    Ok(sum)
}

fn in_memtable(table: &Arc<Memtable>, keyspace: KeyspaceNumber, range: &KeyRange) -> u64 {
    let mut cursor = table.cursor();
    cursor.seek(keyspace, &range.start, SequenceNumber::MAX);
    let mut count = 0;
    while cursor.valid()
        && cursor.keyspace() == keyspace
        && is_before_end(cursor.key(), range.end.as_deref())
    {
        count += 1;
        if count == MEMTABLE_ENTRIES_MAX {
            // Of what was not seen, half may lie in the range.
            return count.midpoint(table.entry_count().max(count));
        }
        cursor.next();
    }
    count
}

fn in_segment(
    pages: &PageManager,
    segment: &Segment,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<u64> {
    let Some(root) = &segment.points else { return Ok(0) };
    if let Some(share) = segment.share_of(keyspace)
        && *range == KeyRange::all()
        && segment.promoted.is_empty()
    {
        return Ok(share.entries);
    }
    let (range, node_keyspace) = match segment.is_young() {
        true => (composite_range(keyspace, range), KeyspaceNumber::MANY),
        false => (range.clone(), keyspace),
    };
    // A young segment's trees hold several keyspaces.
    let bounds = segment.bounds.as_ref().filter(|_| !segment.is_young());
    let whole = bounds.map_or_else(KeyRange::all, |bounds| {
        // The greatest key lies in it.
        let end = (!bounds.open_end).then(|| crate::key_bounds::successor(&bounds.greatest));
        KeyRange { start: bounds.least.clone(), end }
    });
    let promoted = &segment.promoted;
    let search = Search { pages, keyspace: node_keyspace, range: &range, promoted, whole };
    let entries = root.entries.saturating_sub(root.tombstones);
    search.visit(&root.reference, root.height, entries, &KeyRange::all())
}

struct Search<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    range: &'a KeyRange,
    promoted: &'a KeyRanges,
    /// Where the keys of the tree lie.
    whole: KeyRange,
}

impl Search<'_> {
    /// The entries in the range below the node at `place` that has so many in all.
    fn visit(&self, node: &NodeRef, height: u8, entries: u64, place: &KeyRange) -> Result<u64> {
        let Some(own) = place.intersection(&self.whole) else { return Ok(0) };
        if !own.overlaps(self.range) || self.promoted.covers(&own) {
            return Ok(0);
        }
        if self.range.covers(&own) && !self.promoted.overlaps(&own) {
            return Ok(entries);
        }
        if height == 0 {
            return Ok(entries.div_ceil(2));
        }
        let parent = read_parent_at(self.pages, node, self.keyspace, height, place)?;
        let mut sum: u64 = 0;
        for index in parent.view().child_for(&self.range.start)..parent.view().len() {
            let child_range = child_range(&parent, index, place)?;
            if !is_before_end(&child_range.start, self.range.end.as_deref()) {
                break;
            }
            let child = parent.view().child(index).map_err(|p| parent.damage(p))?;
            let entries = child.entries.saturating_sub(child.tombstones);
            let below = self.visit(&child.reference, height - 1, entries, &child_range)?;
            sum = sum.saturating_add(below);
        }
        Ok(sum)
    }
}
