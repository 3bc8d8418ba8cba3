//! Where the sources of a promotion touch its destination: lowest parents between two such places
//! are neither read nor written.
//!
//! *Assumes*: it is asked from lower to higher keys. *Guarantees*: a place is a key of a source, or
//! one that a range tombstone of a source reaches, that was not promoted before.

use crate::error::Result;
use crate::page::PageManager;
use crate::segment::descriptor::Segment;
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::SortedSource;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

use super::ranges::first_source_fragment;

/// See the module.
#[derive(Debug)]
pub struct Touched<'a> {
    pages: &'a Arc<PageManager>,
    keyspace: KeyspaceNumber,
    segments: &'a [Arc<Segment>],
    sources: Vec<SegmentSource>,
    has_begun: bool,
}

impl<'a> Touched<'a> {
    /// The places that the keys and range tombstones of a keyspace in these segments touch.
    pub fn new(
        pages: &'a Arc<PageManager>,
        keyspace: KeyspaceNumber,
        segments: &'a [Arc<Segment>],
    ) -> Touched<'a> {
        // The step reads the same leaves next.
        let source = |segment| SegmentSource::new(pages, segment, keyspace, Caching::Keep);
        let sources = segments.iter().map(source).collect();
        Touched { pages, keyspace, segments, sources, has_begun: false }
    }

    /// The first place in a range; `None` when nothing in it is touched.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn first_in(&mut self, range: &KeyRange) -> Result<Option<Vec<u8>>> {
        let mut first: Option<Vec<u8>> = None;
        for source in &mut self.sources {
            if !self.has_begun || (source.valid() && source.key() < range.start.as_slice()) {
                source.seek(&range.start)?;
            }
            let nearest = first.as_deref().or(range.end.as_deref());
            if source.valid() && is_before_end(source.key(), nearest) {
                first = Some(source.key().to_vec());
            }
        }
        self.has_begun = true;
        let before = KeyRange::new(range.start.clone(), first.clone().or(range.end.clone()));
        if before.is_empty() {
            return Ok(first);
        }
        let cover = first_source_fragment(self.pages, self.keyspace, self.segments, &before)?;
        Ok(cover.or(first))
    }
}
