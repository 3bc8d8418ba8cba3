//! Parents: the children of a part of the key space, and the sidecar of a lowest parent.
//!
//! *Assumes*: nothing about the bytes. *Guarantees*: [`ParentShape::parse`] checks counts against
//! the length; [`Parent::check`] checks separators and every child. On a parent that was not
//! checked every call returns an error or a wrong answer, and none panics.
//!
//! *Format*: docs/format.md, section 4.2. *Threads*: views are plain borrowed values.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::cmp::Ordering;

use super::sorted_block::{BlockShape, EntryKind, KindSet, SortedBlock};
use super::sorted_block_builder::{BlockInfo, SortedBlockBuilder};
use super::{BlockProblem, COMPOSITE_KEY_BYTES_MAX};
use crate::codec::{Reader, put_varint};
use crate::page::NodeRef;
use crate::page::block::PAGES_MAX;
use crate::types::{Epoch, PageNumber};

#[cfg(test)]
mod tests;

/// The most children of a lowest parent.
pub const LOWEST_PARENT_CHILDREN_MAX: usize = 64;
/// The most children of an upper parent.
pub const UPPER_CHILDREN_MAX: usize = 160;

/// What a leaf holds of overflow values takes a MiB in lists at most, and two lists of a parent,
/// side by side, take more than 48 KiB: those of a leaf are fewer than these.
const LISTS_PER_CHILD_MAX: usize = 64;

/// Base page, number of pieces, number of lists.
const FIXED_BYTES: usize = 12;
/// One reference to a part of the sidecar.
const SIDECAR_REFERENCE_BYTES: usize = 16;

const FLAG_BIRTH: u16 = 1;
const FLAG_FILTER: u16 = 2;
const FLAG_DICTIONARY: u16 = 4;
const FLAG_OVERFLOW: u16 = 8;
/// Four bits from here on: see [`Child::unused`].
const UNUSED_SHIFT: u32 = 4;
const UNUSED_MASK: u16 = 15 << UNUSED_SHIFT;
const FLAGS_KNOWN: u16 = FLAG_BIRTH | FLAG_FILTER | FLAG_DICTIONARY | FLAG_OVERFLOW | UNUSED_MASK;

/// What [`Child::unused`] counts in.
pub const UNUSED_PARTS: u64 = 16;

const TOO_FAR_APART: BlockProblem =
    BlockProblem("a parent's nodes lie more than 2^32 pages apart, or are too long");

/// A leaf's part of the filter pieces of its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterSlot {
    /// The index of the piece.
    pub piece: u32,
    /// The leaf's first line in the piece.
    pub first_line: u32,
    /// The number of the leaf's lines.
    pub lines: u32,
}

/// What lies below a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// The child is a leaf.
    Leaf {
        /// The pages of its overflow values.
        overflow_pages: u64,
    },
    /// The child is a parent.
    Parent {
        /// The pages of all nodes below it: leaves, parents, sidecars and overflow.
        pages: u64,
        /// The leaves below it.
        leaves: u64,
        /// Whether there are overflow values below it.
        overflow: bool,
    },
}

/// What a parent says about a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Where it lies.
    pub reference: NodeRef,
    /// The entries below it.
    pub entries: u64,
    /// The tombstones, of points and ranges, below it.
    pub tombstones: u64,
    /// Its birth, when that is older than its parent's.
    pub birth: Option<Epoch>,
    /// What lies below it.
    pub below: Below,
    /// Its filter; only leaves have one.
    pub filter: Option<FilterSlot>,
    /// The dictionary that it was compressed with.
    pub dictionary: Option<u64>,
    /// How many sixteenths of its pages a leaf does not use, rounded down: 15 at most. None of one
    /// into which the next entry did not fit.
    pub unused: u8,
}

impl Child {
    /// True when overflow values lie below the child.
    pub fn has_overflow(&self) -> bool {
        match self.below {
            Below::Leaf { overflow_pages } => overflow_pages > 0,
            Below::Parent { overflow, .. } => overflow,
        }
    }

    fn flags(&self) -> u16 {
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        flag(self.birth.is_some(), FLAG_BIRTH)
            | flag(self.filter.is_some(), FLAG_FILTER)
            | flag(self.dictionary.is_some(), FLAG_DICTIONARY)
            | flag(self.has_overflow(), FLAG_OVERFLOW)
            | (u16::from(self.unused) << UNUSED_SHIFT & UNUSED_MASK)
    }

    /// Appends the child's value, with zero in place of its page.
    fn encode_without_page(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.reference.pages as u16).to_le_bytes());
        out.extend_from_slice(&self.flags().to_le_bytes());
        out.extend_from_slice(&self.reference.stamp.to_le_bytes());
        out.extend_from_slice(&self.reference.checksum.to_le_bytes());
        put_varint(out, self.entries);
        put_varint(out, self.tombstones);
        if let Some(birth) = self.birth {
            put_varint(out, birth.0);
        }
        match self.below {
            Below::Leaf { overflow_pages } => put_varint(out, overflow_pages),
            Below::Parent { pages, leaves, .. } => {
                put_varint(out, pages);
                put_varint(out, leaves);
            }
        }
        if let Some(filter) = self.filter {
            put_varint(out, u64::from(filter.piece));
            put_varint(out, u64::from(filter.first_line));
            put_varint(out, u64::from(filter.lines));
        }
        if let Some(dictionary) = self.dictionary {
            put_varint(out, dictionary);
        }
    }

    fn decode(value: &[u8], base_page: u64, lowest: bool) -> Result<Child, BlockProblem> {
        let mut reader = Reader::new(value);
        let page_delta = reader.u32()?;
        let pages = reader.u16()?;
        let flags = reader.u16()?;
        let reference = NodeRef {
            page: page_at(base_page, page_delta, pages)?,
            pages: u32::from(pages),
            stamp: reader.u32()?,
            checksum: reader.u32()?,
        };
        let unused = ((flags & UNUSED_MASK) >> UNUSED_SHIFT) as u8;
        if flags & !FLAGS_KNOWN != 0 || unused != 0 && !lowest {
            return Err(BlockProblem("a child has unknown flags"));
        }
        let entries = reader.varint()?;
        let tombstones = reader.varint()?;
        let birth = if flags & FLAG_BIRTH != 0 { Some(Epoch(reader.varint()?)) } else { None };
        let overflow = flags & FLAG_OVERFLOW != 0;
        let below = if lowest {
            Below::Leaf { overflow_pages: reader.varint()? }
        } else {
            Below::Parent { pages: reader.varint()?, leaves: reader.varint()?, overflow }
        };
        let filter = match flags & FLAG_FILTER {
            0 => None,
            _ => Some(FilterSlot {
                piece: reader.varint_u32()?,
                first_line: reader.varint_u32()?,
                lines: reader.varint_u32()?,
            }),
        };
        let dictionary = if flags & FLAG_DICTIONARY != 0 { Some(reader.varint()?) } else { None };
        reader.finish()?;
        let child =
            Child { reference, entries, tombstones, birth, below, filter, dictionary, unused };
        if child.has_overflow() != overflow {
            return Err(BlockProblem("a leaf's overflow flag and its overflow pages differ"));
        }
        Ok(child)
    }
}

/// The page at a distance from the base page, when a node of that many pages there is in a file.
#[inline]
fn page_at(base_page: u64, delta: u32, pages: u16) -> Result<PageNumber, BlockProblem> {
    let page = base_page.saturating_add(u64::from(delta));
    if pages == 0 || page.saturating_add(u64::from(pages)) > PAGES_MAX {
        return Err(BlockProblem("a node that a parent names lies outside every file"));
    }
    Ok(PageNumber(page))
}

/// The lengths that a parent's header gives, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParentShape {
    base_page: u64,
    piece_count: u16,
    list_count: u16,
    lowest: bool,
    block: BlockShape,
}

impl ParentShape {
    /// Reads the header of a parent of that height that fills `content`, and checks that it does.
    pub fn parse(content: &[u8], height: u8, wide: bool) -> Result<ParentShape, BlockProblem> {
        let lowest = match height {
            0 => return Err(BlockProblem("a parent's height is zero")),
            height => height == 1,
        };
        let mut reader = Reader::new(content);
        let base_page = reader.u64()?;
        let piece_count = reader.u16()?;
        let list_count = reader.u16()?;
        if !lowest && (piece_count, list_count) != (0, 0) {
            return Err(BlockProblem("an upper parent has a sidecar"));
        }
        let references = usize::from(piece_count).saturating_add(usize::from(list_count));
        reader.bytes(references.saturating_mul(SIDECAR_REFERENCE_BYTES))?;
        let block = BlockShape::parse(reader.rest(), false, wide)?;
        Ok(ParentShape { base_page, piece_count, list_count, lowest, block })
    }

    /// The parent in `content`, which must be the bytes that the shape was parsed from.
    #[inline]
    pub fn view<'a>(&self, content: &'a [u8]) -> Parent<'a> {
        let sidecar = content.get(FIXED_BYTES..).unwrap_or_default();
        let pieces = usize::from(self.piece_count).saturating_mul(SIDECAR_REFERENCE_BYTES);
        let (pieces, behind) = sidecar.split_at_checked(pieces).unwrap_or_default();
        let lists = usize::from(self.list_count).saturating_mul(SIDECAR_REFERENCE_BYTES);
        let (lists, behind) = behind.split_at_checked(lists).unwrap_or_default();
        Parent {
            base_page: self.base_page,
            lowest: self.lowest,
            pieces: pieces.as_chunks().0,
            lists: lists.as_chunks().0,
            block: self.block.view(behind),
        }
    }
}

/// A view of a parent.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'a> {
    base_page: u64,
    lowest: bool,
    pieces: &'a [[u8; SIDECAR_REFERENCE_BYTES]],
    lists: &'a [[u8; SIDECAR_REFERENCE_BYTES]],
    block: SortedBlock<'a>,
}

impl<'a> Parent<'a> {
    /// Parses the parent of that height that fills `content`.
    pub fn parse(content: &'a [u8], height: u8, wide: bool) -> Result<Parent<'a>, BlockProblem> {
        Ok(ParentShape::parse(content, height, wide)?.view(content))
    }

    /// The number of children.
    #[inline]
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// True when there are no children, which no parsed parent is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The separators, as a sorted block.
    #[inline]
    pub fn block(&self) -> &SortedBlock<'a> {
        &self.block
    }

    /// The child that holds `key`: the one with the last separator at or below it; the first when
    /// `key` is below all.
    #[inline]
    pub fn child_for(&self, key: &[u8]) -> usize {
        let (index, equal) = self.block.lower_bound(key);
        if equal { index } else { index.saturating_sub(1) }
    }

    /// All that the parent says about a child.
    pub fn child(&self, index: usize) -> Result<Child, BlockProblem> {
        let entry = self.block.entry(index)?;
        if entry.kind != EntryKind::Child {
            return Err(BlockProblem("a parent's entry is not a child"));
        }
        Child::decode(entry.value, self.base_page, self.lowest)
    }

    /// Where a child lies, without the rest.
    #[inline]
    pub fn child_reference(&self, index: usize) -> Result<NodeRef, BlockProblem> {
        let mut reader = Reader::new(self.block.entry(index)?.value);
        let (delta, pages, _flags) = (reader.u32()?, reader.u16()?, reader.u16()?);
        Ok(NodeRef {
            page: page_at(self.base_page, delta, pages)?,
            pages: u32::from(pages),
            stamp: reader.u32()?,
            checksum: reader.u32()?,
        })
    }

    /// Puts the separator at `index` into `out`.
    pub fn separator(&self, index: usize, out: &mut Vec<u8>) -> Result<(), BlockProblem> {
        self.block.copy_key(index, out)
    }

    /// How the separator at `index` stands to `key`.
    pub fn compare_separator(&self, index: usize, key: &[u8]) -> Result<Ordering, BlockProblem> {
        self.block.compare_key(index, key)
    }

    /// The filter pieces of the sidecar.
    pub fn pieces(&self) -> SidecarReferences<'a> {
        SidecarReferences { base_page: self.base_page, references: self.pieces }
    }

    /// The overflow lists of the sidecar.
    pub fn overflow_lists(&self) -> SidecarReferences<'a> {
        SidecarReferences { base_page: self.base_page, references: self.lists }
    }

    /// Checks the separators and their order, every child and the sidecar.
    pub fn check(&self) -> Result<(), BlockProblem> {
        self.block.check(KindSet::CHILDREN, COMPOSITE_KEY_BYTES_MAX)?;
        if self.lowest && self.len() > LOWEST_PARENT_CHILDREN_MAX {
            return Err(BlockProblem("a lowest parent has more than 64 children"));
        }
        if self.len() > UPPER_CHILDREN_MAX {
            return Err(BlockProblem("an upper parent has more than 160 children"));
        }
        let mut page_least = self.check_sidecar()?;
        let mut lines_end = (0, 0);
        for index in 0..self.len() {
            let child = self.child(index)?;
            page_least = page_least.min(child.reference.page.0);
            if let Some(slot) = child.filter {
                lines_end = self.check_slot(slot, lines_end)?;
            }
            if child.has_overflow() && self.lowest && self.lists.is_empty() {
                return Err(BlockProblem("a leaf has overflow values, but its parent no list"));
            }
        }
        if page_least != self.base_page {
            return Err(BlockProblem("a parent's base page is not the least that it refers to"));
        }
        Ok(())
    }

    /// Checks that a leaf's filter lies behind those of the leaves before it, which end in a piece
    /// before a line: whoever takes all of them takes each line once. Where it ends itself.
    fn check_slot(&self, slot: FilterSlot, end: (u32, u64)) -> Result<(u32, u64), BlockProblem> {
        if !self.lowest {
            return Err(BlockProblem("a parent has a filter of its own"));
        }
        if slot.piece as usize >= self.pieces.len() {
            return Err(BlockProblem("a leaf names a filter piece that is not there"));
        }
        if slot.lines == 0 {
            return Err(BlockProblem("a leaf's filter has no lines"));
        }
        let first_line = u64::from(slot.first_line);
        if (slot.piece, first_line) < end {
            return Err(BlockProblem("leaves' filters lie one over the other, or out of order"));
        }
        Ok((slot.piece, first_line.saturating_add(u64::from(slot.lines))))
    }

    /// Checks that what stands beside the parent is not too much for its children, and that
    /// nothing of it is there twice: whoever reads it all reads no more than lies in the file. The
    /// least page of it.
    fn check_sidecar(&self) -> Result<u64, BlockProblem> {
        if self.pieces.len() > self.len() {
            return Err(BlockProblem("a parent has more filter pieces than children"));
        }
        if self.lists.len() > self.len().saturating_mul(LISTS_PER_CHILD_MAX) {
            return Err(BlockProblem("a parent has too many overflow lists for its children"));
        }
        let mut blocks = Vec::with_capacity(self.pieces.len().saturating_add(self.lists.len()));
        for references in [self.pieces(), self.overflow_lists()] {
            for index in 0..references.len() {
                blocks.push(references.get(index)?.block());
            }
        }
        blocks.sort_unstable_by_key(|block| block.first);
        if !blocks.is_sorted_by(|a, b| a.end() <= b.first) {
            return Err(BlockProblem("nodes beside a parent lie one over the other"));
        }
        Ok(blocks.first().map_or(u64::MAX, |block| block.first.0))
    }

    /// The pages of overflow values that the leaves are said to have.
    pub fn overflow_pages(&self) -> Result<u64, BlockProblem> {
        let mut pages: u64 = 0;
        for index in 0..self.len() {
            if let Below::Leaf { overflow_pages } = self.child(index)?.below {
                pages = pages.saturating_add(overflow_pages);
            }
        }
        Ok(pages)
    }
}

/// The references to the filter pieces, or to the overflow lists, of a sidecar.
#[derive(Clone, Copy, Debug)]
pub struct SidecarReferences<'a> {
    base_page: u64,
    references: &'a [[u8; SIDECAR_REFERENCE_BYTES]],
}

impl SidecarReferences<'_> {
    /// The number of references.
    pub fn len(&self) -> usize {
        self.references.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.references.is_empty()
    }

    /// The reference at `index`.
    pub fn get(&self, index: usize) -> Result<NodeRef, BlockProblem> {
        let bytes =
            self.references.get(index).ok_or(BlockProblem("a sidecar index is too high"))?;
        let mut reader = Reader::new(bytes);
        let (delta, pages, zero) = (reader.u32()?, reader.u16()?, reader.u16()?);
        if zero != 0 {
            return Err(BlockProblem("a sidecar reference has bits that must be zero"));
        }
        Ok(NodeRef {
            page: page_at(self.base_page, delta, pages)?,
            pages: u32::from(pages),
            stamp: reader.u32()?,
            checksum: reader.u32()?,
        })
    }
}

/// Builds one parent after the other.
#[derive(Debug)]
pub struct ParentBuilder {
    height: u8,
    block: SortedBlockBuilder,
    child_pages: Vec<u64>,
    pieces: Vec<NodeRef>,
    lists: Vec<NodeRef>,
    /// The longest of all nodes that are referred to, in pages.
    pages_most: u32,
    value: Vec<u8>,
}

impl ParentBuilder {
    /// A builder of parents of that height, at least 1.
    pub fn new(height: u8) -> ParentBuilder {
        assert!(height > 0, "a parent's height is at least 1");
        ParentBuilder {
            height,
            block: SortedBlockBuilder::new(false, 0),
            child_pages: Vec::new(),
            pieces: Vec::new(),
            lists: Vec::new(),
            pages_most: 0,
            value: Vec::new(),
        }
    }

    /// The height of the parents that it builds.
    pub fn height(&self) -> u8 {
        self.height
    }

    /// The number of children.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// True when there are no children.
    pub fn is_empty(&self) -> bool {
        self.block.is_empty()
    }

    /// The first separator, if there is one.
    pub fn first_separator(&self) -> Option<&[u8]> {
        self.block.first_key()
    }

    /// Adds a child; separators ascend. The child's kind must fit the height.
    pub fn push(&mut self, separator: &[u8], child: &Child) {
        let lowest = self.height == 1;
        let is_leaf = matches!(child.below, Below::Leaf { .. });
        assert!(lowest == is_leaf, "a child's kind does not fit its parent's height");
        assert!(lowest || child.filter.is_none(), "only leaves have filters");
        assert!(
            !lowest || self.len() < LOWEST_PARENT_CHILDREN_MAX,
            "a lowest parent has at most 64 children"
        );
        self.value.clear();
        child.encode_without_page(&mut self.value);
        self.block.push(EntryKind::Child, separator, 0, &self.value);
        self.child_pages.push(child.reference.page.0);
        self.pages_most = self.pages_most.max(child.reference.pages);
    }

    /// Adds a filter piece to the sidecar; returns its index.
    pub fn push_piece(&mut self, piece: NodeRef) -> u32 {
        assert!(self.height == 1, "only lowest parents have a sidecar");
        self.pages_most = self.pages_most.max(piece.pages);
        self.pieces.push(piece);
        (self.pieces.len() as u32).saturating_sub(1)
    }

    /// Adds an overflow list to the sidecar.
    pub fn push_overflow_list(&mut self, list: NodeRef) {
        assert!(self.height == 1, "only lowest parents have a sidecar");
        self.pages_most = self.pages_most.max(list.pages);
        self.lists.push(list);
    }

    /// An upper bound of the content's length, in O(1).
    pub fn estimated_bytes(&self) -> usize {
        let references = self.pieces.len().saturating_add(self.lists.len());
        references
            .saturating_mul(SIDECAR_REFERENCE_BYTES)
            .saturating_add(FIXED_BYTES)
            .saturating_add(self.block.estimated_bytes())
            // The block alone may take its slots as narrow where the whole content may not.
            .saturating_add(self.len().saturating_mul(2))
    }

    /// Drops everything, keeping the buffers.
    pub fn clear(&mut self) {
        self.block.clear();
        self.child_pages.clear();
        self.pieces.clear();
        self.lists.clear();
        self.pages_most = 0;
    }

    /// Appends the parent's content to `out` and makes the builder empty. There must be a child.
    ///
    /// # Errors
    /// When the nodes lie too far apart, or one is too long, for one parent: nothing is changed
    /// then.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<BlockInfo, BlockProblem> {
        let references = self.pieces.iter().chain(&self.lists);
        let pages = || references.clone().map(|r| r.page.0).chain(self.child_pages.iter().copied());
        let base_page = pages().min().unwrap_or(0);
        let span = pages().max().unwrap_or(0).saturating_sub(base_page);
        let counts = (u16::try_from(self.pieces.len()), u16::try_from(self.lists.len()));
        let (Ok(piece_count), Ok(list_count)) = counts else {
            return Err(TOO_FAR_APART);
        };
        if span > u64::from(u32::MAX) || self.pages_most > u32::from(u16::MAX) {
            return Err(TOO_FAR_APART);
        }
        let delta = |page: u64| (page.saturating_sub(base_page) as u32).to_le_bytes();
        let start = out.len();
        out.extend_from_slice(&base_page.to_le_bytes());
        out.extend_from_slice(&piece_count.to_le_bytes());
        out.extend_from_slice(&list_count.to_le_bytes());
        for reference in references {
            out.extend_from_slice(&delta(reference.page.0));
            out.extend_from_slice(&(reference.pages as u16).to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&reference.stamp.to_le_bytes());
            out.extend_from_slice(&reference.checksum.to_le_bytes());
        }
        for (index, page) in self.child_pages.iter().enumerate() {
            if let Some(place) = self.block.value_mut(index).first_chunk_mut() {
                *place = delta(*page);
            }
        }
        let lead_bytes = out.len().saturating_sub(start);
        let info = self.block.finish_first_behind(lead_bytes, self.block.len(), out);
        self.clear();
        Ok(info)
    }
}
