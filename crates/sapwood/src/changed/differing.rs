//! Where two snapshots may see different content, without reading what both see.
//!
//! A key has the same value in both when each source of one that may hold it is a source of the
//! other, too, with the same precedence, and holds nothing of it that only one of them sees. So
//! what is left are: the keys of memtables and young segments that only one has, or that hold
//! commits behind the older snapshot; those of a level's segment that only one has; and, of a
//! segment that both have, the leaves that only one of them knows.
//! What was promoted out of a level in one of them only needs no look where both have the same last
//! level: it changed leaves of that, or nothing. Where one of them has none, or another, nothing
//! tells what went into it, or went away.
//!
//! *Assumes*: both snapshots are held. *Guarantees*: outside of the ranges they see the same.

use crate::error::Result;
use crate::memtable::Memtable;
use crate::scan::Scan;
use crate::segment::bounded_ranges::{BoundedRanges, TooMany};
use crate::segment::descriptor::Segment;
use crate::segment::key_range::{KeyRange, KeyRanges, is_before_end};
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::SortedSource;
use crate::segment::tree_diff::add_differing;
use crate::state::sources::MemtableSource;
use crate::state::{Core, ReadPoint};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// What the ranges, or the nodes of one height, that are looked at apart may take, in bytes: some
/// thousands. With more, reading everything is not much dearer.
const RANGES_BYTES_MAX: usize = 1 << 20;

/// See the module.
pub(super) struct Differing<'a> {
    core: &'a Core,
    keyspace: KeyspaceNumber,
    /// The number of the older snapshot.
    older: SequenceNumber,
    range: &'a KeyRange,
    found: BoundedRanges,
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
        let (keyspace, found) = (a.keyspace, BoundedRanges::new(RANGES_BYTES_MAX));
        let mut differing = Differing { core, keyspace, older, range, found };
        for (one, other) in [(&points.0, &points.1), (&points.1, &points.0)] {
            if differing.add_numbered(one, other)?.is_err() {
                return Ok(None);
            }
        }
        let told_apart = differing.add_levels(&points.0, &points.1)?;
        Ok(told_apart.is_ok().then(|| differing.found.into_ranges()))
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
        self.found.insert(range).map_err(|TooMany| Everything)
    }

    fn add_levels(&mut self, a: &ReadPoint, b: &ReadPoint) -> Outcome {
        let segments = |point: &ReadPoint| {
            let levels = point.state.levels_of(self.keyspace);
            levels.map(|levels| levels.iter().cloned().collect::<Vec<_>>()).unwrap_or_default()
        };
        let last = |point: &ReadPoint| {
            let levels = point.state.levels_of(self.keyspace);
            levels.and_then(|levels| levels.last()).map(|last| last.number)
        };
        let has_same_last = last(a).is_some() && last(a) == last(b);
        let (a, b) = (segments(a), segments(b));
        // Levels and segments come and go above the last one, but no segment changes its level, nor
        // its place beside another; while it is there it keeps its number.
        let partner = |of: &Arc<Segment>, others: &[Arc<Segment>]| {
            others.iter().find(|other| other.number == of.number).cloned()
        };
        for segment in &a {
            let added = match partner(segment, &b) {
                Some(other) if is_equal(segment, &other) => continue,
                Some(other) if !has_same_last && segment.promoted != other.promoted => {
                    return Ok(Err(Everything));
                }
                Some(other) => self.add_pair(segment, &other)?,
                None => self.add_alone(segment)?,
            };
            if added.is_err() {
                return Ok(Err(Everything));
            }
        }
        for segment in b.iter().filter(|segment| partner(segment, &a).is_none()) {
            if self.add_alone(segment)?.is_err() {
                return Ok(Err(Everything));
            }
        }
        Ok(Ok(()))
    }

    /// What one segment has grown by, or lost, between two states.
    fn add_pair(&mut self, a: &Segment, b: &Segment) -> Outcome {
        if a.ranges != b.ranges {
            return Ok(Err(Everything));
        }
        let pages = &self.core.pages;
        let trees = ((a.points.as_ref(), &*a.promoted), (b.points.as_ref(), &*b.promoted));
        let added = add_differing(pages, self.keyspace, trees, self.range, &mut self.found)?;
        Ok(added.map_err(|TooMany| Everything))
    }

    /// A segment that one state has and the other has not: its keys, since its leaves may be few
    /// and hold keys from far apart; where they are too many, all between its first and its last.
    fn add_alone(&mut self, segment: &Arc<Segment>) -> Outcome {
        if segment.ranges.is_some() {
            return Ok(Err(Everything));
        }
        let found = self.found.clone();
        let pages = &self.core.pages;
        let keys = SegmentSource::new(pages, segment, self.keyspace, Caching::Keep);
        if self.add_keys(keys)?.is_ok() {
            return Ok(Ok(()));
        }
        self.found = found;
        let Some(bounds) = &segment.bounds else { return Ok(Err(Everything)) };
        let mut end = bounds.greatest.clone();
        end.push(0);
        let between = KeyRange::new(bounds.least.clone(), Some(end)).intersection(self.range);
        Ok(between.map_or(Ok(()), |between| self.add(between)))
    }
}

/// True when two segments hold the same for readers.
fn is_equal(a: &Arc<Segment>, b: &Arc<Segment>) -> bool {
    let held = |of: &Segment| (of.points.clone(), of.ranges.clone(), of.promoted.clone());
    Arc::ptr_eq(a, b) || a.number == b.number && held(a) == held(b)
}
