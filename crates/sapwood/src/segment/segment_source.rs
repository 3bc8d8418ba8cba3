//! One segment as readers of one keyspace see it.
//!
//! *Assumes*: the segment's blocks are held by whoever holds the state.
//! *Guarantees*: promoted ranges and other keyspaces are skipped. After an error the source is
//! invalid.
//!
//! *Threads*: one owner; several sources may walk one segment.

use std::ops::Range;

use super::descriptor::{Segment, TreeRoot, composite_key};
use super::key_range::{KeyRange, is_before_end};
use super::leaf_run::LeafRun;
use super::node::{Caching, TreeKind};
use super::range_tombstone::RangeValue;
use super::sorted_block::EntryKind;
use super::sorted_source::{Cover, SortedSource};
use super::tree_cursor::TreeCursor;
use crate::error::{Result, Structure};
use crate::page::{Frame, PageManager};
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber};

/// One segment as a reader of one keyspace sees it.
#[derive(Debug)]
pub struct SegmentSource {
    segment: Arc<Segment>,
    /// The keyspace's number in young segments, where it leads each key.
    lead: Option<KeyspaceNumber>,
    points: Option<TreeCursor>,
    ranges: Option<TreeCursor>,
    scratch: Vec<u8>,
}

/// The bytes that lead a composite key.
const LEAD_BYTES: usize = 4;

impl SegmentSource {
    /// A source over `segment` for `keyspace`.
    pub fn new(
        pages: &Arc<PageManager>,
        segment: &Arc<Segment>,
        keyspace: KeyspaceNumber,
        caching: Caching,
    ) -> SegmentSource {
        let young = segment.is_young();
        let node_keyspace = if young { KeyspaceNumber::MANY } else { keyspace };
        let cursor = |root: &TreeRoot, kind| {
            TreeCursor::new(pages.clone(), root.clone(), node_keyspace, kind, caching)
        };
        SegmentSource {
            lead: young.then_some(keyspace),
            points: segment
                .points
                .as_ref()
                .map(|root| cursor(root, TreeKind::Points).masked(segment.promoted.clone())),
            ranges: segment.ranges.as_ref().map(|root| cursor(root, TreeKind::Ranges)),
            segment: segment.clone(),
            scratch: Vec::new(),
        }
    }

    /// The segment that it walks.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The birth of the leaf that the source stands in.
    ///
    /// # Errors
    /// When a parent is damaged.
    pub fn leaf_birth(&self) -> Result<Epoch> {
        self.points.as_ref().map_or(Ok(Epoch(0)), TreeCursor::leaf_birth)
    }

    fn lead_bytes(&self) -> usize {
        if self.lead.is_some() { LEAD_BYTES } else { 0 }
    }

    /// `key` as the tree has it.
    fn tree_key<'a>(
        lead: Option<KeyspaceNumber>,
        key: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> &'a [u8] {
        match lead {
            None => key,
            Some(keyspace) => {
                composite_key(keyspace, key, scratch);
                scratch
            }
        }
    }

    /// Leaves promoted ranges behind.
    fn skip_promoted(&mut self, forward: bool) -> Result<()> {
        if self.segment.promoted.is_empty() {
            return Ok(());
        }
        let Some(points) = &mut self.points else {
            return Ok(());
        };
        while points.valid() {
            let Some(range) = self.segment.promoted.containing(points.key()) else {
                break;
            };
            match (forward, &range.end) {
                (true, Some(end)) => points.seek(end)?,
                (true, None) => points.invalidate(),
                (false, _) => points.seek_before(&range.start)?,
            }
        }
        Ok(())
    }

    /// The key, as the tree has it, before which a run ends that must end before the bare key
    /// `end`.
    fn run_end(&self, end: Option<&[u8]>) -> Option<Vec<u8>> {
        match (self.lead, end) {
            (None, end) => end.map(<[u8]>::to_vec),
            (Some(keyspace), Some(end)) => {
                let mut tree_key = Vec::new();
                composite_key(keyspace, end, &mut tree_key);
                Some(tree_key)
            }
            (Some(keyspace), None) => Some(keyspace.0.saturating_add(1).to_be_bytes().to_vec()),
        }
    }

    fn in_keyspace(&self) -> bool {
        let Some(points) = &self.points else {
            return false;
        };
        points.valid()
            && self.lead.is_none_or(|keyspace| points.key().starts_with(&keyspace.0.to_be_bytes()))
    }

    /// The fragment of the ranges tree over a key as the tree has it.
    fn fragment_over(&mut self, tree_key: &[u8], at: u64) -> Result<Option<Cover>> {
        let Some(ranges) = &mut self.ranges else {
            return Ok(None);
        };
        ranges.seek(tree_key)?;
        if !ranges.valid() || ranges.key() != tree_key {
            if ranges.valid() {
                ranges.previous()?;
            } else {
                ranges.seek_last()?;
            }
        }
        if !ranges.valid() || ranges.key() > tree_key {
            return Ok(None);
        }
        let base = ranges.base_number();
        let value = RangeValue::decode(ranges.value(), base).map_err(|problem| {
            let damage = match ranges.leaf() {
                Some((leaf, _)) => leaf.damage(problem),
                None => problem.corruption(Structure::Leaf).into(),
            };
            // A leaf of a young segment does not say whose the entry is.
            damage.met_in(self.lead.unwrap_or(KeyspaceNumber::MANY))
        })?;
        if !is_before_end(tree_key, value.end) {
            return Ok(None);
        }
        let number = if base.is_some() { value.newest_at(at) } else { Some(0) };
        let range = KeyRange { start: ranges.key().to_vec(), end: value.end.map(<[u8]>::to_vec) };
        // Where a part was promoted, what lies below may be newer than the fragment.
        let range = match self.segment.promoted.is_empty() {
            true => range,
            false => self.segment.promoted.gap_around(tree_key, &range).unwrap_or(range),
        };
        Ok(number.map(|number| Cover { range, number }))
    }

    /// Cuts the keyspace number off the ends of a range of a young segment.
    fn bare_range(&self, range: KeyRange) -> KeyRange {
        let Some(keyspace) = self.lead else {
            return range;
        };
        let lead = keyspace.0.to_be_bytes();
        let start = range.start.strip_prefix(&lead).map(<[u8]>::to_vec).unwrap_or_default();
        let end = range.end.as_deref().and_then(|end| end.strip_prefix(&lead)).map(<[u8]>::to_vec);
        KeyRange { start, end }
    }
}

impl SortedSource for SegmentSource {
    fn valid(&self) -> bool {
        self.in_keyspace()
    }

    fn key(&self) -> &[u8] {
        let key = self.points.as_ref().map_or(&[][..], TreeCursor::key);
        key.get(self.lead_bytes()..).unwrap_or_default()
    }

    fn number(&self) -> u64 {
        self.points.as_ref().map_or(0, TreeCursor::number)
    }

    fn kind(&self) -> EntryKind {
        self.points.as_ref().map_or(EntryKind::Delete, TreeCursor::kind)
    }

    fn value(&self) -> &[u8] {
        self.points.as_ref().map_or(&[], TreeCursor::value)
    }

    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        self.points.as_ref()?.value_frame()
    }

    fn next(&mut self) -> Result<()> {
        if let Some(points) = &mut self.points {
            points.next()?;
        }
        self.skip_promoted(true)
    }

    fn previous(&mut self) -> Result<()> {
        if let Some(points) = &mut self.points {
            points.previous()?;
        }
        self.skip_promoted(false)
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        if let Some(points) = &mut self.points {
            points.seek(Self::tree_key(self.lead, key, &mut self.scratch))?;
        }
        self.skip_promoted(true)
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        if let Some(points) = &mut self.points {
            points.seek_before(Self::tree_key(self.lead, key, &mut self.scratch))?;
        }
        self.skip_promoted(false)
    }

    fn seek_last(&mut self) -> Result<()> {
        if let Some(points) = &mut self.points {
            match self.lead {
                None => points.seek_last()?,
                Some(keyspace) => {
                    points.seek_before(&keyspace.0.saturating_add(1).to_be_bytes())?;
                }
            }
        }
        self.skip_promoted(false)
    }

    fn numbered(&self) -> bool {
        self.lead.is_some()
    }

    fn has_ranges(&self) -> bool {
        self.ranges.is_some()
    }

    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>> {
        if self.ranges.is_none() {
            return Ok(None);
        }
        let mut tree_key = std::mem::take(&mut self.scratch);
        match self.lead {
            Some(keyspace) => composite_key(keyspace, key, &mut tree_key),
            None => {
                tree_key.clear();
                tree_key.extend_from_slice(key);
            }
        }
        // What was promoted covers nothing here any more.
        let promoted = self.segment.promoted.contains(&tree_key);
        let found = if promoted { Ok(None) } else { self.fragment_over(&tree_key, at) };
        self.scratch = tree_key;
        Ok(found?.map(|cover| Cover { range: self.bare_range(cover.range), ..cover }))
    }

    fn run(&self, end: Option<&[u8]>) -> Option<LeafRun> {
        let points = self.points.as_ref().filter(|_| self.in_keyspace())?;
        let (leaf, index) = points.leaf()?;
        let block = leaf.view();
        let mut indices = index..block.len();
        let mut end_before = |key: &[u8]| {
            indices.end = indices.end.min(block.lower_bound(key).0);
        };
        if let Some(end) = self.run_end(end) {
            end_before(&end);
        }
        if !self.segment.promoted.is_empty() {
            // The source stands in none of the ranges, so the next one begins behind it.
            let mut behind = points.key().to_vec();
            behind.push(0);
            if let Some(range) = self.segment.promoted.ending_at_or_after(&behind) {
                end_before(&range.start);
            }
        }
        Some(LeafRun::new(leaf, indices, self.lead_bytes()))
    }

    fn stand_in_run(&mut self, index: usize) -> Result<()> {
        match &mut self.points {
            Some(points) => points.stand_at(index),
            None => Ok(()),
        }
    }
}
