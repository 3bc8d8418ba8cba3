//! What a walk over one keyspace merges: a transaction's own layers, and what was committed.
//!
//! *Threads*: one owner each; layers may be shared.

use std::ops::Range as Indices;

use crate::error::Result;
use crate::page::{Frame, PageManager};
use crate::segment::node::Caching;
use crate::segment::segment_cursor::{Cover, Run, SegmentSource, SortedSource};
use crate::segment::sorted_block::EntryKind;
use crate::state::sources::Source;
use crate::sync::Arc;
use crate::transaction::PendingSource;
use crate::transaction::pending_segment::PendingSegment;
use crate::types::KeyspaceNumber;

/// A transaction's own writes in memory, its pending segments, or what was committed.
#[derive(Debug)]
pub(super) enum ReadSource {
    Own(PendingSource),
    Pending(Box<SegmentSource>),
    Committed(Source),
}

/// A layer of a transaction's own writes to one keyspace.
#[derive(Clone, Debug)]
pub(crate) enum OwnLayer {
    Memory(PendingSource),
    Segment(Arc<PendingSegment>),
}

impl OwnLayer {
    pub(super) fn open(&self, pages: &Arc<PageManager>, keyspace: KeyspaceNumber) -> ReadSource {
        match self {
            OwnLayer::Memory(source) => ReadSource::Own(source.clone()),
            OwnLayer::Segment(pending) => {
                let how = Caching::Keep;
                let source = SegmentSource::new(pages, pending.segment(), keyspace, how);
                ReadSource::Pending(Box::new(source))
            }
        }
    }
}

macro_rules! each {
    ($self:expr, $source:ident => $call:expr) => {
        match $self {
            ReadSource::Own($source) => $call,
            ReadSource::Pending($source) => $call,
            ReadSource::Committed($source) => $call,
        }
    };
}

impl SortedSource for ReadSource {
    fn valid(&self) -> bool {
        each!(self, source => source.valid())
    }

    fn key(&self) -> &[u8] {
        each!(self, source => source.key())
    }

    fn number(&self) -> u64 {
        each!(self, source => source.number())
    }

    fn kind(&self) -> EntryKind {
        each!(self, source => source.kind())
    }

    fn value(&self) -> &[u8] {
        each!(self, source => source.value())
    }

    fn value_frame(&self) -> Option<(&Arc<Frame>, Indices<usize>)> {
        each!(self, source => source.value_frame())
    }

    fn next(&mut self) -> Result<()> {
        each!(self, source => source.next())
    }

    fn previous(&mut self) -> Result<()> {
        each!(self, source => source.previous())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        each!(self, source => source.seek(key))
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        each!(self, source => source.seek_before(key))
    }

    fn seek_last(&mut self) -> Result<()> {
        each!(self, source => source.seek_last())
    }

    fn numbered(&self) -> bool {
        each!(self, source => source.numbered())
    }

    fn has_ranges(&self) -> bool {
        each!(self, source => source.has_ranges())
    }

    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>> {
        each!(self, source => source.cover(key, at))
    }

    fn run(&self, end: Option<&[u8]>) -> Option<Run<'_>> {
        each!(self, source => source.run(end))
    }

    fn stand_in_run(&mut self, index: usize) -> Result<()> {
        each!(self, source => source.stand_in_run(index))
    }
}
