//! What a walk over one keyspace merges: a transaction's own layers, and what was committed.
//!
//! *Threads*: one owner each; layers may be shared.

use crate::page::PageManager;
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::sorted_source_of_variants;
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

sorted_source_of_variants!(ReadSource { Own, Pending, Committed });
