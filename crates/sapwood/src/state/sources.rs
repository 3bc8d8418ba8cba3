//! The sources that a merging cursor joins for one keyspace: memtables and segments.
//!
//! *Guarantees*: in order of precedence, newest first.
//! *Threads*: one owner each.

use std::ops::Range;

use super::snapshot::ReadPoint;
use crate::error::Result;
use crate::memtable::{Joined, Memtable, MemtableCursor, Operation};
use crate::page::{Frame, PageManager};
use crate::segment::key_range::KeyRange;
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_source::{Cover, SortedSource, sorted_source_of_variants};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// A memtable as a reader of one keyspace sees it.
#[derive(Debug)]
pub struct MemtableSource {
    table: Arc<Memtable>,
    cursor: MemtableCursor,
    keyspace: KeyspaceNumber,
}

impl MemtableSource {
    /// A source over `table` for `keyspace`.
    pub fn new(table: &Arc<Memtable>, keyspace: KeyspaceNumber) -> MemtableSource {
        MemtableSource { cursor: table.cursor(), table: table.clone(), keyspace }
    }
}

impl SortedSource for MemtableSource {
    fn valid(&self) -> bool {
        self.cursor.valid() && self.cursor.keyspace() == self.keyspace
    }

    fn key(&self) -> &[u8] {
        self.cursor.key()
    }

    fn number(&self) -> u64 {
        self.cursor.sequence().0
    }

    fn kind(&self) -> EntryKind {
        match self.cursor.operation() {
            Operation::Put(_) => EntryKind::Put,
            Operation::PutOverflow(_) => EntryKind::PutOverflow,
            Operation::Delete => EntryKind::Delete,
        }
    }

    fn value(&self) -> &[u8] {
        self.cursor.operation().value()
    }

    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        None
    }

    fn next(&mut self) -> Result<()> {
        self.cursor.next();
        Ok(())
    }

    fn previous(&mut self) -> Result<()> {
        self.cursor.previous();
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.cursor.seek(self.keyspace, key, SequenceNumber::MAX);
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.cursor.seek_before(self.keyspace, key, SequenceNumber::MAX);
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        let next = KeyspaceNumber(self.keyspace.0.saturating_add(1));
        self.cursor.seek_before(next, &[], SequenceNumber::MAX);
        Ok(())
    }

    fn numbered(&self) -> bool {
        true
    }

    fn has_ranges(&self) -> bool {
        self.table.has_range_deletes()
    }

    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>> {
        let at = SequenceNumber(at);
        let Some(number) = self.table.covering_range_delete(self.keyspace, key, at) else {
            return Ok(None);
        };
        let end = key.iter().copied().chain([0]).collect::<Vec<u8>>();
        let deletes = self.table.range_deletes();
        let range = deletes
            .overlapping(self.keyspace, key, Some(&end))
            .next()
            .map(|fragment| KeyRange::new(fragment.start(), fragment.end().map(<[u8]>::to_vec)));
        let range = range.unwrap_or_else(|| KeyRange::new(key, Some(end)));
        Ok(Some(Cover { range, number: number.0 }))
    }
}

/// The joined tombstones of a memtable: no entries, and ranges that hide what lies in the memtable
/// and below.
#[derive(Debug)]
pub struct JoinedSource {
    joined: Arc<Joined>,
    keyspace: KeyspaceNumber,
}

impl SortedSource for JoinedSource {
    fn valid(&self) -> bool {
        false
    }

    fn key(&self) -> &[u8] {
        &[]
    }

    fn number(&self) -> u64 {
        0
    }

    fn kind(&self) -> EntryKind {
        EntryKind::Delete
    }

    fn value(&self) -> &[u8] {
        &[]
    }

    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        None
    }

    fn next(&mut self) -> Result<()> {
        Ok(())
    }

    fn previous(&mut self) -> Result<()> {
        Ok(())
    }

    fn seek(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn seek_before(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        Ok(())
    }

    fn numbered(&self) -> bool {
        true
    }

    fn has_ranges(&self) -> bool {
        true
    }

    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>> {
        let found = self.joined.covering(self.keyspace, key, SequenceNumber(at));
        Ok(found.map(|found| Cover {
            range: KeyRange::new(&*found.start, Some(found.end.to_vec())),
            number: found.number.0,
        }))
    }
}

/// A memtable, its joined tombstones, or a segment.
#[derive(Debug)]
pub enum Source {
    /// What is joined in the memtable that comes next.
    Joined(JoinedSource),
    /// A memtable.
    Memtable(MemtableSource),
    /// A segment.
    Segment(Box<SegmentSource>),
}

/// The sources of one keyspace at a read point, newest first.
pub fn sources(
    pages: &Arc<PageManager>,
    point: &ReadPoint,
    keyspace: KeyspaceNumber,
) -> Vec<Source> {
    let segment = |segment| {
        Source::Segment(Box::new(SegmentSource::new(pages, segment, keyspace, Caching::Keep)))
    };
    let mut sources = Vec::new();
    for slot in point.memtables.iter().filter(|slot| slot.has_entries()) {
        let of_keyspace = slot.segments().iter().filter(|s| s.share_of(keyspace).is_some());
        sources.extend(of_keyspace.map(segment));
        if !slot.table.is_empty() {
            // The read point's number was visible before: J1 holds for it.
            let joined = slot.table.joined().filter(|joined| joined.any_for(keyspace, point.at));
            sources.extend(joined.map(|joined| Source::Joined(JoinedSource { joined, keyspace })));
            sources.push(Source::Memtable(MemtableSource::new(&slot.table, keyspace)));
        }
    }
    sources.extend(point.state.segments_of(keyspace).map(segment));
    sources
}

sorted_source_of_variants!(Source { Joined, Memtable, Segment });
