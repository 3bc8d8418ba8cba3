//! Cuts sorted entries into leaves and writes them.
//!
//! *Assumes*: entries come in the order of a sorted block. *Guarantees*: each leaf but a lone one
//! is at least about half full or, at the end of a stretch, fills about half a page. The stored
//! size is aimed at with the compression ratio of the leaves written before; a leaf that misses
//! its pages is cut again. The versions of one key stay in one leaf, however large it grows: so the
//! range between two separators holds all versions of its keys.
//!
//! *Format*: docs/format.md, sections 3 and 4.1. *Threads*: one owner.

use super::filter;
use super::parent::{Below, Child, UNUSED_PARTS};
use super::sorted_block::EntryKind;
use super::sorted_block_builder::SortedBlockBuilder;
use crate::error::Result;
use crate::page::{
    Block, Codec, FLAG_NUMBERS, FLAG_WIDE_SLOTS, NODE_HEADER_BYTES, NodeKind, NodeSpec, NodeWriter,
};
use crate::types::{Epoch, KeyspaceNumber};

/// The largest content of a leaf of several entries, in bytes: slots stay narrow.
const LEAF_RAW_BYTES_MAX: usize = 65_000;

/// How full a compressed leaf is meant to be, in thousandths: the room is for a worse ratio.
const AIM_THOUSANDTHS: usize = 965;

/// What the leaves of one tree have in common.
#[derive(Clone, Debug)]
pub struct LeafOptions {
    /// What a leaf may take on disk, in bytes: a multiple of the page size.
    pub leaf_bytes: usize,
    /// How leaves are stored.
    pub codec: Codec,
    /// The base number, when entries carry numbers.
    pub base_number: Option<u64>,
    /// The keyspace that leaves name.
    pub keyspace: KeyspaceNumber,
}

/// An entry on its way into a leaf.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    /// What it says.
    pub kind: EntryKind,
    /// Its key, composite in young segments.
    pub key: &'a [u8],
    /// Its number; 0 where entries carry none.
    pub number: u64,
    /// Its value.
    pub value: &'a [u8],
    /// The hash of its bare key.
    pub hash: u64,
}

/// An overflow value that an entry of a leaf refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafOverflow {
    /// The state it was born in; 0: with the leaf.
    pub birth: Epoch,
    /// Its blocks.
    pub blocks: Vec<Block>,
}

/// A leaf that was written, with what its parent has to know.
#[derive(Clone, Debug)]
pub struct WrittenLeaf {
    /// Its first key.
    pub first_key: Vec<u8>,
    /// Its last key.
    pub last_key: Vec<u8>,
    /// What the parent says of it, without a filter.
    pub child: Child,
    /// Its overflow values.
    pub overflow: Vec<LeafOverflow>,
    /// The hashes of its keys.
    pub hashes: Vec<u64>,
}

/// Cuts entries into leaves.
#[derive(Debug)]
pub struct LeafWriter {
    options: LeafOptions,
    builder: SortedBlockBuilder,
    hashes: Vec<u64>,
    /// The index of the entry that each belongs to.
    overflow: Vec<(usize, LeafOverflow)>,
    tombstones: Vec<bool>,
    /// Stored bytes for each 1,024 of content, as seen in the leaves before; `None`: not known yet.
    ratio: Option<usize>,
    /// See [`LeafWriter::fill_up`].
    fills_up: bool,
    content: Vec<u8>,
}

impl LeafWriter {
    /// A writer of leaves of one kind.
    pub fn new(options: LeafOptions) -> LeafWriter {
        let builder = SortedBlockBuilder::new(
            options.base_number.is_some(),
            options.base_number.unwrap_or(0),
        );
        LeafWriter {
            options,
            builder,
            hashes: Vec::new(),
            overflow: Vec::new(),
            tombstones: Vec::new(),
            ratio: None,
            fills_up: false,
            content: Vec::new(),
        }
    }

    /// Stored bytes for each 1,024 of content, as far as that is known.
    pub fn ratio(&self) -> Option<usize> {
        self.ratio
    }

    /// What another writer has learned of entries like these.
    pub fn expect_ratio(&mut self, ratio: usize) {
        self.ratio = Some(ratio);
    }

    /// From now on all leaves of a stretch but its last are full, however little is left for that
    /// one: whoever comes next fills it up.
    pub fn fill_up(&mut self) {
        self.fills_up = true;
    }

    /// True when every entry given so far is in a leaf.
    pub fn is_empty(&self) -> bool {
        self.builder.is_empty()
    }

    /// The last key given that is not in a leaf yet.
    pub fn last_pending_key(&self) -> Option<&[u8]> {
        self.builder.last_key()
    }

    /// The bytes of content that fill a leaf, by what is known of the compression ratio.
    fn content_bytes_aim(&self, nodes: &NodeWriter) -> usize {
        let stored = self.stored_bytes_max(nodes);
        let raw = match self.options.codec {
            Codec::Plain => stored,
            _ => {
                let ratio = self.ratio.unwrap_or(1024).max(16);
                stored.saturating_mul(AIM_THOUSANDTHS) / 1000 * 1024 / ratio
            }
        };
        raw.min(LEAF_RAW_BYTES_MAX)
    }

    /// The stored content that fits into the pages of a leaf.
    fn stored_bytes_max(&self, nodes: &NodeWriter) -> usize {
        let layout = nodes.layout();
        let pages = (self.options.leaf_bytes / layout.page_size as usize).max(1);
        pages * layout.usable_bytes() - NODE_HEADER_BYTES
    }

    /// Adds an entry; leaves that are full go to `out`. `overflow` names the blocks of an entry of
    /// kind [`EntryKind::PutOverflow`].
    ///
    /// # Errors
    /// When a leaf cannot be written.
    pub fn push(
        &mut self,
        nodes: &mut NodeWriter,
        entry: &NewEntry<'_>,
        overflow: Option<LeafOverflow>,
        out: &mut Vec<WrittenLeaf>,
    ) -> Result<()> {
        if let Some(overflow) = overflow {
            self.overflow.push((self.builder.len(), overflow));
        }
        self.builder.push(entry.kind, entry.key, entry.number, entry.value);
        self.hashes.push(entry.hash);
        self.tombstones.push(matches!(entry.kind, EntryKind::Delete | EntryKind::RangeDelete));
        // Twice a leaf is kept, so that the last two of a stretch can share evenly.
        let aim = self.content_bytes_aim(nodes);
        if self.builder.estimated_bytes() >= aim * 2 {
            let count = self.count_for(aim);
            // All that is pending may be versions of one key: then more must come first.
            if count < self.builder.len() {
                self.write_first(nodes, count, aim, true, out)?;
            }
        }
        Ok(())
    }

    /// Writes all that is pending, as one leaf or evenly as several.
    ///
    /// # Errors
    /// When a leaf cannot be written.
    pub fn finish_stretch(
        &mut self,
        nodes: &mut NodeWriter,
        out: &mut Vec<WrittenLeaf>,
    ) -> Result<()> {
        while !self.builder.is_empty() {
            let aim = self.content_bytes_aim(nodes);
            let pending = self.builder.estimated_bytes();
            let leaves = pending.div_ceil(aim).max(1);
            let (count, is_full) = match leaves {
                1 => (self.builder.len(), false),
                _ if self.fills_up || self.rest_fills_a_page(nodes, pending, aim) => {
                    (self.count_for(aim), true)
                }
                _ => (self.count_for(pending.div_ceil(leaves)), false),
            };
            self.write_first(nodes, count, aim, is_full, out)?;
        }
        Ok(())
    }

    /// True when a full leaf and a rest take fewer pages than leaves that share evenly, and the
    /// rest is no tiny leaf.
    fn rest_fills_a_page(&self, nodes: &NodeWriter, pending: usize, aim: usize) -> bool {
        let pages = (self.options.leaf_bytes / nodes.layout().page_size as usize).max(1);
        let page_bytes = aim / pages;
        let rest = pending % aim;
        rest * 2 >= page_bytes && rest <= page_bytes * (pages - 1)
    }

    /// How many of the first entries fill a block of that many bytes: at least one.
    fn count_for(&self, content_bytes: usize) -> usize {
        let (mut fits, mut too_many) = (1, self.builder.len() + 1);
        while fits + 1 < too_many {
            let middle = usize::midpoint(fits, too_many);
            if self.builder.estimated_bytes_of_first(middle) <= content_bytes {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        self.at_key_boundary(fits)
    }

    /// The nearest count at or below `count`, else above it, at which a key begins.
    fn at_key_boundary(&self, count: usize) -> usize {
        let begins = |at: usize| {
            at == self.builder.len() || self.builder.key(at) != self.builder.key(at - 1)
        };
        if self.options.base_number.is_none() || begins(count) {
            return count;
        }
        let below = (1..count).rev().find(|at| begins(*at));
        below.or_else(|| (count..=self.builder.len()).find(|at| begins(*at))).unwrap_or(count)
    }

    /// Writes a leaf of the first entries: of `count` of them, or fewer where these do not fit. It
    /// `is_full` when the next one was not to fit.
    fn write_first(
        &mut self,
        nodes: &mut NodeWriter,
        count: usize,
        aim: usize,
        is_full: bool,
        out: &mut Vec<WrittenLeaf>,
    ) -> Result<()> {
        let stored_max = self.stored_bytes_max(nodes);
        let mut count = count;
        let mut attempts = 0;
        let (info, stored) = loop {
            self.content.clear();
            let info = self.builder.write_first(count, &mut self.content);
            let spec = self.spec(info.wide);
            let stored = nodes.compress_candidate(&spec, &self.content)?;
            let raw = self.content.len().max(1);
            // A leaf that compression does not save a page of tells the ratio all the same.
            let compressed = nodes.candidate_compressed_bytes().unwrap_or(raw);
            let seen = compressed * 1024 / raw;
            // Only leaves of some size tell a ratio.
            if raw * 2 >= aim {
                self.ratio = Some(self.ratio.map_or(seen, |before| (before * 3 + seen) / 4));
            }
            attempts += 1;
            if stored <= stored_max || count <= 1 || attempts > 4 {
                break (info, stored);
            }
            self.ratio = Some(self.ratio.unwrap_or(0).max(seen));
            let fitting = count * stored_max / stored * AIM_THOUSANDTHS / 1000;
            let fewer = self.at_key_boundary(fitting.clamp(1, count - 1));
            if fewer >= count {
                break (info, stored);
            }
            count = fewer;
        };
        let spec = self.spec(info.wide);
        let reference = nodes.append(&spec, &self.content, false)?;
        // What is stored plain, since that takes no more pages, would be compressed beside more.
        let taken = nodes.candidate_compressed_bytes().unwrap_or(stored).min(stored);
        let pages_bytes = reference.pages as usize * nodes.layout().usable_bytes();
        let unused = if is_full { 0 } else { unused_parts(pages_bytes, taken) };
        let first_key = self.builder.key(0).to_vec();
        let last_key = self.builder.key(count - 1).to_vec();
        self.builder.discard_first(count);
        let overflow = self.take_overflow(count);
        let tombstones = self.tombstones.drain(..count).filter(|is| *is).count() as u64;
        let pages = overflow.iter().flat_map(|o| &o.blocks).map(|b| u64::from(b.pages)).sum();
        let child = Child {
            reference,
            entries: count as u64,
            tombstones,
            birth: None,
            below: Below::Leaf { overflow_pages: pages },
            filter: None,
            dictionary: None,
            unused,
        };
        let hashes = self.hashes.drain(..count).collect();
        out.push(WrittenLeaf { first_key, last_key, child, overflow, hashes });
        Ok(())
    }

    fn take_overflow(&mut self, count: usize) -> Vec<LeafOverflow> {
        let split = self.overflow.partition_point(|(index, _)| *index < count);
        let taken = self.overflow.drain(..split).map(|(_, overflow)| overflow).collect();
        for (index, _) in &mut self.overflow {
            *index -= count;
        }
        taken
    }

    fn spec(&self, wide: bool) -> NodeSpec {
        let mut bits = 0;
        if self.options.base_number.is_some() {
            bits |= FLAG_NUMBERS;
        }
        if wide {
            bits |= FLAG_WIDE_SLOTS;
        }
        NodeSpec {
            kind: NodeKind::Leaf,
            height: 0,
            flags: bits,
            keyspace: self.options.keyspace,
            codec: self.options.codec,
        }
    }
}

/// The filter lines of a leaf, appended to `out`; the number of lines.
///
/// # Errors
/// When the filter denies one of its keys: memory is damaged.
pub fn leaf_filter(hashes: &[u64], seed: u64, bits_per_key: u8, out: &mut Vec<u8>) -> Result<u32> {
    let lines = filter::lines_for(hashes.len() as u64, bits_per_key);
    filter::build(hashes, seed, lines, out)
        .map_err(|problem| problem.corruption(crate::error::Structure::Filter))?;
    Ok(lines)
}

/// See [`Child::unused`]: of a leaf that takes so many bytes of its pages.
fn unused_parts(pages_bytes: usize, taken: usize) -> u8 {
    let unused = pages_bytes.saturating_sub(NODE_HEADER_BYTES + taken);
    (unused * UNUSED_PARTS as usize / pages_bytes.max(1)).min(15) as u8
}
