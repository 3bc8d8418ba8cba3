//! Pending segments: what a transaction has written and memory does not hold any more.
//!
//! *Assumes*: entries come in the order of keyspaces and keys, each key once, and no put lies under
//! an own range delete that is newer (N1 to N3 of [`super::pending`]).
//! *Guarantees*: P1, P3 of docs/architecture.md: the segment is of the young kind, its leaves carry
//! no numbers; its blocks stand in the list of pending ones until the last holder has gone.
//! *Format*: docs/format.md, section 4. *Threads*: one writer; holders anywhere.

use super::pending::PendingWrites;
use super::value_writer::ValueWriter;
use crate::error::Result;
use crate::merge::step::make_durable_when_due_and_room;
use crate::merge::throttle::admit_ahead;
use crate::page::{Block, Charge, Codec, Counted, NodeWriter};
use crate::segment::descriptor::{
    Bounds, KeyspaceShare, Segment, TreeRoot, composite_key, composite_range,
};
use crate::segment::filter::{FilterLines, LINE_BYTES, key_hash, lines_for};
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::overflow::{blocks_of, wants_overflow, write_value};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::Fragment;
use crate::segment::segment_filter::{SegmentFilter, room_for_filter};
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_edit::TreeEdit;
use crate::state::Core;
use crate::state::background::Running;
use crate::state::pending_blocks::BlocksName;
use crate::state::reserve::{Brings, Grant};
use crate::state::view::Home;
use crate::sync::{Arc, OnceLock, Random, channel};
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

use crate::merge::ranges::{push_fragments, ranges_writer};

/// Filter bits for each key.
const FILTER_BITS: u8 = 10;
/// A filter takes at most this part of the memory budget; a segment with more keys has none, and so
/// has one for whose filter there is no room beside the others.
const FILTER_PART: u64 = 32;
/// After so many entries each it is asked whether a durable state is due.
const LOOK_AFTER_ENTRIES: u64 = 256;

/// See the module. The transaction and its cursors share it.
#[derive(Debug)]
pub struct PendingSegment {
    segment: Arc<Segment>,
    blocks: BlocksName,
    /// How many merges of pending segments went into it, one on top of the other.
    tier: u8,
    releases: channel::Sender<BlocksName>,
    /// Where it was committed to: the home, once that has a state, holds the blocks for whoever
    /// reads here.
    home: OnceLock<Arc<Home>>,
    /// What it was merged into: that has its values now, and whoever reads here needs them.
    merged: OnceLock<Arc<PendingSegment>>,
}

impl Drop for PendingSegment {
    fn drop(&mut self) {
        // The receiver is gone when the database is. After a commit the name means nothing.
        let _ = self.releases.send(self.blocks);
    }
}

impl PendingSegment {
    /// What it holds. Its number is that of no commit yet.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The name of its blocks.
    pub fn blocks(&self) -> BlocksName {
        self.blocks
    }

    /// How many merges went into it.
    pub fn tier(&self) -> u8 {
        self.tier
    }

    /// It was merged with others.
    pub fn merged_into(&self, merged: &Arc<PendingSegment>) {
        // Set once: only the transaction merges, and then forgets it.
        let _ = self.merged.set(merged.clone());
    }

    /// It was committed, and belongs to whoever has that home.
    pub fn committed_to(&self, home: &Arc<Home>) {
        // Set once: a segment is committed once.
        let _ = self.home.set(home.clone());
    }
}

/// Writes a pending segment. Dropped before its end it gives everything back.
#[derive(Debug)]
pub struct PendingWriter<'a> {
    core: &'a Core,
    nodes: Option<NodeWriter>,
    writer: Option<SegmentWriter>,
    filter_seed: u64,
    /// Counted for as long as it is made.
    filter: Option<(FilterLines, Charge)>,
    shares: Vec<KeyspaceShare>,
    bounds: Option<Bounds>,
    /// Of the range deletes, which come before everything else.
    ranges: Option<SegmentWriter>,
    /// Upper parents.
    made: Vec<Block>,
    /// Values that were written on the way.
    values: Vec<Block>,
    composite: Vec<u8>,
    pushed: u64,
    _running: Running<'a>,
    /// What it may take.
    _grant: Grant,
}

impl Drop for PendingWriter<'_> {
    fn drop(&mut self) {
        for block in self.values.drain(..).chain(self.made.drain(..)) {
            self.core.free(block);
        }
    }
}

impl<'a> PendingWriter<'a> {
    /// A writer of at most `key_count` keys that take about `bytes`.
    ///
    /// # Errors
    /// `NoSpace` when there is no room for them.
    pub fn new(
        core: &'a Arc<Core>,
        brings: Brings,
        key_count: u64,
        bytes: usize,
    ) -> Result<PendingWriter<'a>> {
        let grant = admit_ahead(core, brings, bytes)?;
        let options = LeafOptions {
            leaf_bytes: core.options.leaf_pages_bytes() as usize,
            codec: Codec::Plain,
            base_number: None,
            keyspace: KeyspaceNumber::MANY,
        };
        let no_filter = FilterOptions { seed: 0, bits_per_key: 0 };
        let filter_seed = Random::from_entropy().next_u64();
        let line_count = lines_for(key_count, FILTER_BITS);
        let filter_bytes = u64::from(line_count) * LINE_BYTES as u64;
        let fits = filter_bytes <= core.options.memory_budget / FILTER_PART;
        let room = fits.then(|| room_for_filter(core.pages.budget(), filter_bytes)).flatten();
        let filter = room.map(|charge| (FilterLines::new(filter_seed, line_count), charge));
        let hint = bytes as u64 / u64::from(core.pages.layout().page_size);
        Ok(PendingWriter {
            core,
            nodes: Some(NodeWriter::new(core.pages.clone(), hint.max(64))),
            writer: Some(SegmentWriter::new(options, no_filter, Vec::new())),
            filter_seed,
            filter,
            shares: Vec::new(),
            bounds: None,
            ranges: None,
            made: Vec::new(),
            values: Vec::new(),
            composite: Vec::new(),
            pushed: 0,
            _running: core.background.begin_running(),
            _grant: grant,
        })
    }

    /// Adds a put or a delete; a large value goes to blocks of its own.
    ///
    /// # Errors
    /// When a node or a value cannot be written.
    pub fn write(
        &mut self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        let Some(value) = value else {
            return self.push(keyspace, key, EntryKind::Delete, &[], None);
        };
        if !wants_overflow(value.len(), self.core.pages.layout().usable_bytes()) {
            return self.push(keyspace, key, EntryKind::Put, value, None);
        }
        let codec = self.core.catalogue.load().settings(keyspace).value_codec;
        let reference = write_value(&self.core.pages, keyspace, codec, value)?;
        self.write_overflow(keyspace, key, reference)
    }

    /// Adds a put of a value that lies in blocks of its own, which belong to the segment from now
    /// on.
    fn write_overflow(
        &mut self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        reference: OverflowReference,
    ) -> Result<()> {
        self.values.extend(blocks_of(&reference));
        let mut encoded = Vec::new();
        reference.encode(&mut encoded);
        let overflow = LeafOverflow { birth: reference.birth, blocks: reference.blocks };
        self.push(keyspace, key, EntryKind::PutOverflow, &encoded, Some(overflow))
    }

    /// Adds an entry as it is; the blocks of its value belong to another segment still.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn push(
        &mut self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        kind: EntryKind,
        value: &[u8],
        overflow: Option<LeafOverflow>,
    ) -> Result<()> {
        let hash = key_hash(self.core.pages.layout().filter_seed(), keyspace, key);
        if let Some((filter, _)) = &mut self.filter {
            filter.add(hash);
        }
        composite_key(keyspace, key, &mut self.composite);
        let entry = NewEntry { kind, key: &self.composite, number: 0, value, hash };
        if let (Some(writer), Some(nodes)) = (&mut self.writer, &mut self.nodes) {
            writer.push(nodes, &entry, overflow)?;
        }
        self.share(keyspace, (key.len() + value.len()) as u64);
        self.pushed += 1;
        // One segment may take as long as there is room in the file.
        let is_long = self.pushed.is_multiple_of(LOOK_AFTER_ENTRIES);
        if is_long { make_durable_when_due_and_room(self.core) } else { Ok(()) }
    }

    /// Adds a range delete; they come in order, and overlap nowhere.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn delete_range(&mut self, keyspace: KeyspaceNumber, range: &KeyRange) -> Result<()> {
        let KeyRange { start, end } = composite_range(keyspace, range);
        self.share(keyspace, (range.start.len() + 16) as u64);
        let fragment = Fragment { start, end, numbers: Vec::new() };
        let leaf_bytes = self.core.options.leaf_pages_bytes() as usize;
        let new = || ranges_writer(KeyspaceNumber::MANY, None, leaf_bytes, Vec::new());
        let ranges = self.ranges.get_or_insert_with(new);
        if let Some(nodes) = &mut self.nodes {
            push_fragments(ranges, nodes, None, std::slice::from_ref(&fragment))?;
        }
        let Fragment { start, end, .. } = fragment;
        self.widen(Bounds { least: start, greatest: end.unwrap_or_default(), open_end: false });
        Ok(())
    }

    fn widen(&mut self, bounds: Bounds) {
        self.bounds = Some(match &self.bounds {
            Some(old) => old.union(&bounds),
            None => bounds,
        });
    }

    fn share(&mut self, keyspace: KeyspaceNumber, bytes: u64) {
        let place = self.shares.binary_search_by_key(&keyspace, |share| share.keyspace);
        let index = place.unwrap_or_else(|index| {
            self.shares.insert(index, KeyspaceShare { keyspace, entries: 0, bytes: 0 });
            index
        });
        if let Some(share) = self.shares.get_mut(index) {
            share.entries += 1;
            share.bytes += bytes;
        }
    }

    /// Writes what is left; `None` when nothing was added. `merged`: the segments whose entries
    /// were pushed, with the blocks of values that were not.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn finish(
        mut self,
        tier: u8,
        merged: &[(BlocksName, Vec<Block>)],
    ) -> Result<Option<Arc<PendingSegment>>> {
        let (Some(mut nodes), Some(writer)) = (self.nodes.take(), self.writer.take()) else {
            return Ok(None);
        };
        if self.shares.is_empty() {
            return Ok(None);
        }
        if let Some((least, greatest)) = writer.key_bounds() {
            let (least, greatest) = (least.to_vec(), greatest.to_vec());
            self.widen(Bounds { least, greatest, open_end: false });
        }
        let points = writer.finish(&mut nodes, true)?;
        let points = self.built(points)?;
        let ranges = match self.ranges.take() {
            Some(writer) => {
                let lowest = writer.finish(&mut nodes, true)?;
                self.built(lowest)?
            }
            None => None,
        };
        let filter = self.write_filter(&mut nodes, points.is_some())?;
        let segment = Segment {
            number: self.core.new_segment_number(),
            points,
            ranges,
            filter,
            bounds: self.bounds.take(),
            sequences: Some((SequenceNumber(0), SequenceNumber(0))),
            promoted: Arc::default(),
            keyspaces: Arc::new(Counted::new(std::mem::take(&mut self.shares))),
            counted: Counted::default(),
        };
        let mut written = nodes.finish()?.blocks;
        written.append(&mut self.made);
        let pending = &self.core.pending;
        let blocks = match merged {
            [] => pending.add(written, std::mem::take(&mut self.values)),
            merged => pending.merged(merged, written),
        };
        // Until a state has it, it is the application's, whose transaction this is.
        segment.count(self.core.pages.budget());
        Ok(Some(Arc::new(PendingSegment {
            segment: Arc::new(segment),
            blocks,
            tier,
            releases: pending.releases(),
            home: OnceLock::new(),
            merged: OnceLock::new(),
        })))
    }

    fn built(&mut self, lowest: Lowest) -> Result<Option<TreeRoot>> {
        // It gets its epoch when a commit has been installed.
        let many = KeyspaceNumber::MANY;
        let change = TreeEdit::new(&self.core.pages, many, Epoch(0)).build(lowest)?;
        self.made.extend_from_slice(&change.born);
        Ok(change.root)
    }

    fn write_filter(&mut self, nodes: &mut NodeWriter, any: bool) -> Result<SegmentFilter> {
        let Some((built, charge)) = self.filter.take().filter(|_| any) else {
            return Ok(SegmentFilter::new(self.filter_seed, Vec::new()));
        };
        // It is counted anew, if there is room for it among those that stay.
        drop(charge);
        SegmentFilter::write(nodes, self.filter_seed, built.into_lines())
    }
}

/// Writes a pending segment of one put, whose value was written as it came.
///
/// # Errors
/// As [`spill`].
pub fn of_value(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    key: &[u8],
    value: ValueWriter,
) -> Result<Option<Arc<PendingSegment>>> {
    let mut writer = PendingWriter::new(core, Brings::Data, 1, 0)?;
    writer.write_overflow(keyspace, key, value.finish()?.into_reference())?;
    writer.finish(0, &[])
}

/// Writes what is in memory as a pending segment; `None` when that is nothing.
///
/// # Errors
/// `NoSpace`, or when a node cannot be written: everything is given back then.
pub fn spill(core: &Arc<Core>, writes: &PendingWrites) -> Result<Option<Arc<PendingSegment>>> {
    let brings = if writes.has_data() { Brings::Data } else { Brings::Deletions };
    let points = writes.points();
    let wasted = points.map(|(_, key, write)| match &write.value {
        Some(value) => core.leaf_waste.of(key.len(), value.len()),
        None => 0,
    });
    let bytes = writes.encoded_bytes() + wasted.sum::<u64>() as usize;
    let mut writer = PendingWriter::new(core, brings, writes.len() as u64, bytes)?;
    for (keyspace, range) in writes.touched_ranges() {
        writer.delete_range(keyspace, range)?;
    }
    for (keyspace, key, write) in writes.points() {
        writer.write(keyspace, key, write.value.as_deref())?;
    }
    writer.finish(0, &[])
}
