//! Walks one tree, and one segment as readers see it.
//!
//! *Assumes*: the tree's blocks are held by whoever holds the state.
//! *Guarantees*: entries come in the tree's order, in both directions; promoted ranges and other
//! keyspaces are skipped. After an error the cursor is invalid.
//!
//! *Threads*: one owner; several cursors may walk one tree.

use std::ops::Range;

use super::descriptor::{Segment, TreeRoot, composite_key};
use super::key_range::{KeyRange, KeyRanges, is_before_end};
use super::node::{Caching, LeafNode, ParentNode, TreeKind, read_leaf, read_parent};
use super::range_tombstone::RangeValue;
use super::sorted_block::{Entry, EntryKind, SortedBlock};
use crate::error::{Result, Structure};
use crate::page::{Frame, PageManager};
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber};

/// A sorted sequence of versions of keys, newest version of a key first.
pub trait SortedSource {
    /// True when the source stands on an entry.
    fn valid(&self) -> bool;
    /// The bare key; empty when not valid.
    fn key(&self) -> &[u8];
    /// The number; 0 where entries carry none.
    fn number(&self) -> u64;
    /// What the entry says.
    fn kind(&self) -> EntryKind;
    /// The entry's value.
    fn value(&self) -> &[u8];
    /// The frame that the value lies in and where, when it may be handed out without a copy.
    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)>;
    /// To the next entry; invalid behind the last.
    fn next(&mut self) -> Result<()>;
    /// To the entry before; invalid before the first.
    fn previous(&mut self) -> Result<()>;
    /// To the newest version of the first key at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// To the last entry before every version of `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// To the last entry.
    fn seek_last(&mut self) -> Result<()>;
    /// True when entries carry numbers, so that a key may have several versions.
    fn numbered(&self) -> bool;
    /// True when there are range tombstones.
    fn has_ranges(&self) -> bool;
    /// The range tombstone over `key` with the highest number at or below `at`.
    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>>;
    /// The entries from where the source stands that lie before `end`, as far as they lie at hand
    /// in one leaf; `None` when the source has no leaves.
    fn run(&self, _end: Option<&[u8]>) -> Option<Run<'_>> {
        None
    }
    /// Stands on an entry of the run that was handed out last.
    fn stand_in_run(&mut self, _index: usize) -> Result<()> {
        Ok(())
    }
}

/// Entries that follow each other in one leaf, in ascending order.
#[derive(Debug)]
pub struct Run<'a> {
    leaf: &'a LeafNode,
    block: SortedBlock<'a>,
    indices: Range<usize>,
    /// Bytes that lead each key in the tree alone.
    lead_bytes: usize,
    /// Versions above it do not exist for the reader.
    at: u64,
    /// The version that decided over its key: those that follow of the same key are hidden.
    decided: Option<Entry<'a>>,
}

impl<'a> Run<'a> {
    /// The same for a reader that sees no versions above `at`.
    #[must_use]
    pub fn at(mut self, at: u64) -> Run<'a> {
        self.at = at;
        self
    }

    /// The next live entry, and its index in the leaf.
    ///
    /// # Errors
    /// When the leaf is damaged.
    #[inline]
    pub fn next_live(&mut self) -> Result<Option<(usize, Entry<'a>)>> {
        for index in self.indices.by_ref() {
            let entry = self.block.entry(index).map_err(|p| self.leaf.damage(p))?;
            if self.block.is_numbered() {
                let hidden = |newer: &Entry<'_>| SortedBlock::same_key(newer, &entry);
                if entry.number > self.at || self.decided.as_ref().is_some_and(hidden) {
                    continue;
                }
                self.decided = Some(entry);
            }
            if entry.kind != EntryKind::Delete {
                return Ok(Some((index, entry)));
            }
        }
        Ok(None)
    }

    /// The pieces of the bare key of one of its entries.
    #[inline]
    pub fn with_key_pieces<T>(&self, entry: &Entry<'_>, join: impl FnOnce([&[u8]; 3]) -> T) -> T {
        self.block.with_key_pieces(entry, self.lead_bytes, join)
    }

    /// The frame that holds the entry's value, and where.
    pub fn value_frame(&self, entry: &Entry<'_>) -> (&'a Arc<Frame>, Range<usize>) {
        (self.leaf.frame(), range_in(self.leaf, entry.value))
    }
}

/// Where a value of a leaf lies in its content.
fn range_in(leaf: &LeafNode, value: &[u8]) -> Range<usize> {
    // The value is a part of the content, so the distance of the two is its offset.
    let start = value.as_ptr().addr().wrapping_sub(leaf.frame().content().as_ptr().addr());
    let start = if value.is_empty() { 0 } else { start };
    start..start + value.len()
}

/// A range tombstone that covers a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// What it covers.
    pub range: KeyRange,
    /// Its number; 0 where entries carry none.
    pub number: u64,
}

/// Walks all entries of one tree.
#[derive(Debug)]
pub struct TreeCursor {
    pages: Arc<PageManager>,
    root: TreeRoot,
    keyspace: KeyspaceNumber,
    kind: TreeKind,
    caching: Caching,
    /// Ranges that hold nothing any more: nodes that lie in them whole are dead and never read.
    masked: Arc<KeyRanges>,
    /// From the root down: each parent with the index of the child that is open.
    path: Vec<(ParentNode, usize)>,
    leaf: Option<LeafNode>,
    index: usize,
    entry: Option<Position>,
    key: Vec<u8>,
}

/// The entry that a cursor stands on.
#[derive(Clone, Debug)]
struct Position {
    kind: EntryKind,
    number: u64,
    /// Where the value lies in the leaf's content.
    value: Range<usize>,
}

impl TreeCursor {
    /// A cursor that stands nowhere.
    pub fn new(
        pages: Arc<PageManager>,
        root: TreeRoot,
        keyspace: KeyspaceNumber,
        kind: TreeKind,
        caching: Caching,
    ) -> TreeCursor {
        TreeCursor {
            pages,
            root,
            keyspace,
            kind,
            caching,
            masked: Arc::default(),
            path: Vec::new(),
            leaf: None,
            index: 0,
            entry: None,
            key: Vec::new(),
        }
    }

    /// The same, which never reads a node that lies whole in one of these ranges. It may still
    /// stand on entries in them.
    #[must_use]
    pub fn masked(mut self, ranges: Arc<KeyRanges>) -> TreeCursor {
        self.masked = ranges;
        self
    }

    /// True when the cursor stands on an entry.
    pub fn valid(&self) -> bool {
        self.entry.is_some()
    }

    /// The key where it stands, as the tree has it.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The number of the entry.
    pub fn number(&self) -> u64 {
        self.entry.as_ref().map_or(0, |entry| entry.number)
    }

    /// The number that numbers of the open leaf are relative to; `None` when it has none.
    pub fn base_number(&self) -> Option<u64> {
        let block = self.leaf.as_ref()?.view();
        block.is_numbered().then(|| block.base_number())
    }

    /// What the entry says.
    pub fn kind(&self) -> EntryKind {
        self.entry.as_ref().map_or(EntryKind::Delete, |entry| entry.kind)
    }

    /// The value of the entry.
    pub fn value(&self) -> &[u8] {
        self.value_frame().and_then(|(frame, range)| frame.content().get(range)).unwrap_or(&[])
    }

    /// The frame of the value, and where it lies in its content.
    pub fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        let (leaf, entry) = (self.leaf.as_ref()?, self.entry.as_ref()?);
        Some((leaf.frame(), entry.value.clone()))
    }

    /// The birth of the leaf that is open.
    ///
    /// # Errors
    /// When a parent is damaged.
    pub fn leaf_birth(&self) -> Result<Epoch> {
        let mut birth = self.root.birth;
        for (parent, index) in &self.path {
            let child = parent.view().child(*index).map_err(|p| parent.damage(p))?;
            birth = child.birth.unwrap_or(birth);
        }
        Ok(birth)
    }

    fn invalidate(&mut self) {
        self.entry = None;
        self.leaf = None;
        self.path.clear();
        self.key.clear();
    }

    /// Opens the child at `index` of the last parent of the path, and below it the edge that
    /// `last` says; the leaf is open afterwards.
    fn descend(&mut self, choose: impl Fn(&ParentNode) -> Result<usize>) -> Result<()> {
        let (mut reference, mut height) = match self.path.last() {
            None => (self.root.reference, self.root.height),
            Some((parent, index)) => (parent.child_reference(*index)?, parent.height() - 1),
        };
        while height > 0 {
            let parent = read_parent(&self.pages, &reference, self.keyspace, height)?;
            let index = choose(&parent)?;
            reference = parent.child_reference(index)?;
            self.path.push((parent, index));
            height -= 1;
        }
        let leaf = read_leaf(&self.pages, &reference, self.keyspace, self.kind, self.caching)?;
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Reads the entry at `index` of the open leaf.
    fn load(&mut self) -> Result<()> {
        let Some(leaf) = &self.leaf else {
            return Ok(());
        };
        let block = leaf.view();
        let entry = block.entry(self.index).map_err(|p| leaf.damage(p))?;
        block.copy_key_of(&entry, &mut self.key);
        let value = range_in(leaf, entry.value);
        self.entry = Some(Position { kind: entry.kind, number: entry.number, value });
        Ok(())
    }

    /// Opens the next leaf and stands before its first entry; false when there is none.
    fn open_next(&mut self) -> Result<bool> {
        while let Some((parent, index)) = self.path.last_mut() {
            if *index + 1 >= parent.view().len() {
                self.path.pop();
                continue;
            }
            if !self.masked.is_empty() {
                let mut separator = Vec::new();
                let view = parent.view();
                view.separator(*index + 1, &mut separator).map_err(|p| parent.damage(p))?;
                if let Some(range) = self.masked.containing(&separator) {
                    let Some(end) = range.end.clone() else { return Ok(false) };
                    return self.open_at(&end).map(|()| true);
                }
            }
            *index += 1;
            self.descend(|_| Ok(0))?;
            self.index = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens the leaf before and stands behind its last entry; false when there is none.
    fn open_previous(&mut self) -> Result<bool> {
        while let Some((parent, index)) = self.path.last() {
            if *index == 0 {
                self.path.pop();
                continue;
            }
            if !self.masked.is_empty() {
                let mut separator = Vec::new();
                parent.view().separator(*index, &mut separator).map_err(|p| parent.damage(p))?;
                if let Some(start) = self.masked_before(&separator) {
                    return self.open_before(&start);
                }
            }
            if let Some((_, index)) = self.path.last_mut() {
                *index -= 1;
            }
            self.descend(|parent| Ok(parent.view().len().saturating_sub(1)))?;
            self.index = self.leaf_len();
            return Ok(true);
        }
        Ok(false)
    }

    /// The start of the masked range that holds what comes right before `key`, if one does.
    fn masked_before(&self, key: &[u8]) -> Option<Vec<u8>> {
        let range = self.masked.ending_at_or_after(key)?;
        (range.start.as_slice() < key).then(|| range.start.clone())
    }

    /// Opens the leaf that holds `key`, which is not masked, and stands at its lower bound.
    fn open_at(&mut self, key: &[u8]) -> Result<()> {
        if let Some(index) = self.bound_in_open_leaf(key) {
            self.index = index;
            return Ok(());
        }
        self.path.clear();
        self.leaf = None;
        self.descend(|parent| Ok(parent.view().child_for(key)))?;
        self.index = self.leaf.as_ref().map_or(0, |leaf| leaf.view().lower_bound(key).0);
        Ok(())
    }

    /// Opens the leaf that holds what comes right before `key`, leaving masked ranges out, and
    /// stands at the lower bound of `key`; false when there is none.
    fn open_before(&mut self, key: &[u8]) -> Result<bool> {
        if let Some(start) = self.masked_before(key) {
            return self.open_before(&start);
        }
        if key.is_empty() {
            return Ok(false);
        }
        if let Some(index) = self.bound_in_open_leaf(key) {
            self.index = index;
            return Ok(true);
        }
        self.path.clear();
        self.leaf = None;
        self.descend(|parent| {
            let index = parent.view().child_for(key);
            let order = parent.view().compare_separator(index, key);
            let equal = order.map_err(|p| parent.damage(p))?.is_eq();
            Ok(if equal { index.saturating_sub(1) } else { index })
        })?;
        self.index = self.leaf.as_ref().map_or(0, |leaf| leaf.view().lower_bound(key).0);
        Ok(true)
    }

    fn leaf_len(&self) -> usize {
        self.leaf.as_ref().map_or(0, |leaf| leaf.view().len())
    }

    /// Stands on the entry at `index`, or on the first of the next leaf.
    fn settle_forward(&mut self) -> Result<()> {
        while self.index >= self.leaf_len() {
            if !self.open_next()? {
                self.invalidate();
                return Ok(());
            }
        }
        self.load()
    }

    /// Stands on the entry before `index`, or on the last of the leaf before.
    fn settle_backward(&mut self) -> Result<()> {
        while self.index == 0 {
            if !self.open_previous()? {
                self.invalidate();
                return Ok(());
            }
        }
        self.index -= 1;
        self.load()
    }

    fn guarded(&mut self, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = run(self);
        if result.is_err() {
            self.invalidate();
        }
        result
    }

    /// To the next entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn next(&mut self) -> Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        self.guarded(|this| {
            this.index += 1;
            this.settle_forward()
        })
    }

    /// To the entry before.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn previous(&mut self) -> Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        self.guarded(Self::settle_backward)
    }

    /// To the first entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_first(&mut self) -> Result<()> {
        self.seek(&[])
    }

    /// To the last entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_last(&mut self) -> Result<()> {
        self.guarded(|this| {
            this.invalidate();
            if let Some(start) = this.masked.open_ended() {
                return match this.open_before(&start)? {
                    true => this.settle_backward(),
                    false => {
                        this.invalidate();
                        Ok(())
                    }
                };
            }
            this.descend(|parent| Ok(parent.view().len().saturating_sub(1)))?;
            this.index = this.leaf_len();
            this.settle_backward()
        })
    }

    /// The lower bound of `key` in the open leaf, when the leaf certainly holds the place.
    fn bound_in_open_leaf(&self, key: &[u8]) -> Option<usize> {
        let block = self.leaf.as_ref()?.view();
        let last = block.len().checked_sub(1)?;
        let first_not_above = block.compare_key(0, key).ok()?.is_le();
        (first_not_above && block.compare_key(last, key).ok()?.is_ge())
            .then(|| block.lower_bound(key).0)
    }

    /// To the first entry at or after `key`: its newest version.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| {
            let masked = this.masked.containing(key).map(|range| range.end.clone());
            match masked {
                None => this.open_at(key)?,
                Some(Some(end)) => this.open_at(&end)?,
                Some(None) => {
                    this.invalidate();
                    return Ok(());
                }
            }
            this.settle_forward()
        })
    }

    /// To the last entry before all versions of `key`.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| match this.open_before(key)? {
            true => this.settle_backward(),
            false => {
                this.invalidate();
                Ok(())
            }
        })
    }
}

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
        let value =
            RangeValue::decode(ranges.value(), base).map_err(|p| p.corruption(Structure::Leaf))?;
        if !is_before_end(tree_key, value.end) {
            return Ok(None);
        }
        let number = if base.is_some() { value.newest_at(at) } else { Some(0) };
        let range = KeyRange { start: ranges.key().to_vec(), end: value.end.map(<[u8]>::to_vec) };
        // Where a part was promoted, what lies below may be newer than the fragment.
        let range = match self.segment.promoted.is_empty() {
            true => range,
            false => {
                let gaps = self.segment.promoted.gaps_in(&range);
                gaps.into_iter().find(|gap| gap.contains(tree_key)).unwrap_or(range)
            }
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

    fn run(&self, end: Option<&[u8]>) -> Option<Run<'_>> {
        let points = self.points.as_ref().filter(|_| self.in_keyspace())?;
        let leaf = points.leaf.as_ref()?;
        let block = leaf.view();
        let mut indices = points.index..block.len();
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
        let lead_bytes = self.lead_bytes();
        Some(Run { leaf, block, indices, lead_bytes, at: u64::MAX, decided: None })
    }

    fn stand_in_run(&mut self, index: usize) -> Result<()> {
        match &mut self.points {
            Some(points) => points.guarded(|points| {
                points.index = index;
                points.load()
            }),
            None => Ok(()),
        }
    }
}
