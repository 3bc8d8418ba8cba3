//! Where two snapshots may see different content, without reading what both see.
//!
//! A key has the same value in both when each source of one that may hold it is a source of the
//! other, too, with the same precedence, and holds nothing of it that only one of them sees. So
//! what is left are: the keys of memtables and young segments that only one has, or that hold
//! commits behind the older snapshot; and the leaves that only one of two segments of a level has.
//! What was promoted out of a level in one of them only needs no look: it changed leaves of the
//! next level, or nothing.
//!
//! *Assumes*: both snapshots are held. *Guarantees*: outside of the ranges they see the same.

use crate::error::Result;
use crate::memtable::Memtable;
use crate::scan::Scan;
use crate::segment::descriptor::Segment;
use crate::segment::key_range::{KeyRange, KeyRanges, is_before_end};
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::SortedSource;
use crate::segment::tree_diff::differing_ranges;
use crate::state::sources::MemtableSource;
use crate::state::{Core, ReadPoint};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// So many ranges, or nodes of one height, are looked at apart; with more, reading everything is
/// not much dearer.
const RANGES_MAX: usize = 4096;

/// See the module.
pub(super) struct Differing<'a> {
    core: &'a Core,
    keyspace: KeyspaceNumber,
    /// The number of the older snapshot.
    older: SequenceNumber,
    range: &'a KeyRange,
    found: KeyRanges,
}

/// Nothing: too much differs, or it cannot be told apart.
struct Everything;

type Outcome = Result<std::result::Result<(), Everything>>;

impl Differing<'_> {
    /// The ranges within `range` in which the scans may see different content; `None` when they are
    /// too many, or range tombstones are among what differs.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn find(
        core: &Core,
        (a, b): (&Scan, &Scan),
        older: SequenceNumber,
        range: &KeyRange,
    ) -> Result<Option<KeyRanges>> {
        let points = (a.hold.read_point(core), b.hold.read_point(core));
        let (keyspace, found) = (a.keyspace, KeyRanges::new());
        let mut differing = Differing { core, keyspace, older, range, found };
        for (one, other) in [(&points.0, &points.1), (&points.1, &points.0)] {
            if differing.add_numbered(one, other)?.is_err() {
                return Ok(None);
            }
        }
        let told_apart = differing.add_levels(&points.0, &points.1)?;
        Ok(told_apart.is_ok().then_some(differing.found))
    }

    /// What has numbers, of `one` alone or with commits behind the older snapshot.
    fn add_numbered(&mut self, one: &ReadPoint, other: &ReadPoint) -> Outcome {
        for slot in &one.memtables {
            let is_in_both = other.memtables.iter().any(|of| Arc::ptr_eq(of, slot));
            let (start, end) = (self.range.start.as_slice(), self.range.end.as_deref());
            let is_same =
                is_in_both && !slot.table.changed_since(self.keyspace, start, end, self.older);
            if !is_same && self.add_memtable(&slot.table)?.is_err() {
                return Ok(Err(Everything));
            }
            // Of a commit by reference a snapshot sees all, or it does not have the slot.
            for segment in slot.segments().iter().filter(|_| !is_in_both) {
                if self.add_segment(segment)?.is_err() {
                    return Ok(Err(Everything));
                }
            }
        }
        for segment in &one.state.young {
            // What was flushed may hold versions that the older snapshot does not see.
            let is_older = segment.sequences.is_some_and(|(_, last)| last <= self.older);
            let is_same = is_older && other.state.young.iter().any(|of| is_equal(of, segment));
            if !is_same && self.add_segment(segment)?.is_err() {
                return Ok(Err(Everything));
            }
        }
        Ok(Ok(()))
    }

    fn add_memtable(&mut self, table: &Arc<Memtable>) -> Outcome {
        let deletes = table.range_deletes();
        let (start, end) = (self.range.start.as_slice(), self.range.end.as_deref());
        if deletes.overlapping(self.keyspace, start, end).next().is_some() {
            return Ok(Err(Everything));
        }
        self.add_keys(MemtableSource::new(table, self.keyspace))
    }

    fn add_segment(&mut self, segment: &Arc<Segment>) -> Outcome {
        if segment.share_of(self.keyspace).is_none() {
            return Ok(Ok(()));
        }
        if segment.ranges.is_some() {
            return Ok(Err(Everything));
        }
        let pages = &self.core.pages;
        self.add_keys(SegmentSource::new(pages, segment, self.keyspace, Caching::Keep))
    }

    /// The keys of a source, tombstones included.
    fn add_keys(&mut self, mut source: impl SortedSource) -> Outcome {
        source.seek(&self.range.start)?;
        while source.valid() && is_before_end(source.key(), self.range.end.as_deref()) {
            let (start, mut end) = (source.key().to_vec(), source.key().to_vec());
            end.push(0);
            if self.add(KeyRange { start, end: Some(end) }).is_err() {
                return Ok(Err(Everything));
            }
            source.next()?;
        }
        Ok(Ok(()))
    }

    fn add(&mut self, range: KeyRange) -> std::result::Result<(), Everything> {
        self.found.insert(range);
        if self.found.len() > RANGES_MAX { Err(Everything) } else { Ok(()) }
    }

    fn add_levels(&mut self, a: &ReadPoint, b: &ReadPoint) -> Outcome {
        let levels = |point: &ReadPoint| {
            let levels = point.state.levels_of(self.keyspace);
            levels.map(|levels| levels.levels.clone()).unwrap_or_default()
        };
        let (a, b) = (levels(a), levels(b));
        for level in 0..a.len().max(b.len()) {
            let of = |levels: &[Vec<Arc<Segment>>]| levels.get(level).cloned().unwrap_or_default();
            if self.add_level(&of(&a), &of(&b))?.is_err() {
                return Ok(Err(Everything));
            }
        }
        Ok(Ok(()))
    }

    fn add_level(&mut self, a: &[Arc<Segment>], b: &[Arc<Segment>]) -> Outcome {
        let alone = |one: &[Arc<Segment>], other: &[Arc<Segment>]| {
            let alone = one.iter().filter(|segment| !other.iter().any(|of| is_equal(of, segment)));
            alone.cloned().map(Some).collect::<Vec<_>>()
        };
        let pairs: Vec<_> = match a.len() == b.len() {
            // Those at the same place grew out of each other, most likely.
            true => a.iter().cloned().map(Some).zip(b.iter().cloned().map(Some)).collect(),
            false => {
                let (a, b) = (alone(a, b), alone(b, a));
                let against_none = a.into_iter().map(|segment| (segment, None));
                against_none.chain(b.into_iter().map(|segment| (None, segment))).collect()
            }
        };
        for (a, b) in pairs {
            if self.add_pair(a.as_deref(), b.as_deref())?.is_err() {
                return Ok(Err(Everything));
            }
        }
        Ok(Ok(()))
    }

    /// What two segments at one place in the order of precedence do not share.
    fn add_pair(&mut self, a: Option<&Segment>, b: Option<&Segment>) -> Outcome {
        if a.and_then(|a| a.ranges.as_ref()) != b.and_then(|b| b.ranges.as_ref()) {
            return Ok(Err(Everything));
        }
        let roots = (a.and_then(|a| a.points.as_ref()), b.and_then(|b| b.points.as_ref()));
        let pages = &self.core.pages;
        let found = differing_ranges(pages, self.keyspace, roots, self.range, RANGES_MAX)?;
        let Some(found) = found else { return Ok(Err(Everything)) };
        for range in found.iter() {
            if self.add(range.clone()).is_err() {
                return Ok(Err(Everything));
            }
        }
        Ok(Ok(()))
    }
}

/// True when two segments hold the same for readers.
fn is_equal(a: &Arc<Segment>, b: &Arc<Segment>) -> bool {
    let held = |of: &Segment| (of.points.clone(), of.ranges.clone(), of.promoted.clone());
    Arc::ptr_eq(a, b) || a.number == b.number && held(a) == held(b)
}
