//! References to values that lie in blocks of their own, and the lists of them beside lowest parents.
//!
//! *Guarantees*: a decoded reference has blocks of at least one page, inside the largest file.
//!
//! *Format*: docs/format.md, sections 4.4 (overflow list) and 4.5 (reference).

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use super::BlockProblem;
use super::bytes::{Reader, put_varint};
use crate::types::{Epoch, PageNumber};

/// Pages at or above this number are in no file.
pub(super) const PAGES_MAX: u64 = 1 << 48;

/// A run of pages: the first, and their number.
pub type Block = (PageNumber, u32);

/// Where an overflow value lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverflowReference {
    /// The length of the value, in bytes.
    pub length: u64,
    /// The write stamp of its node.
    pub stamp: u32,
    /// The checksum of its header and table.
    pub checksum: u32,
    /// Where the node header begins in the stream over the blocks, in bytes.
    pub table_offset: u64,
    /// The epoch of its birth; 0: it was born with the leaf that names it.
    pub birth: Epoch,
    /// Its blocks, in the order of the stream.
    pub blocks: Vec<Block>,
}

impl OverflowReference {
    /// Appends the reference to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.length);
        out.extend_from_slice(&self.stamp.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        put_varint(out, self.table_offset);
        put_varint(out, self.birth.0);
        put_blocks(&self.blocks, out);
    }

    /// Reads the reference that fills `value`.
    pub fn decode(value: &[u8]) -> Result<OverflowReference, BlockProblem> {
        let mut reader = Reader::new(value);
        let length = reader.varint()?;
        let stamp = reader.u32()?;
        let checksum = reader.u32()?;
        let table_offset = reader.varint()?;
        let birth = Epoch(reader.varint()?);
        let blocks = read_blocks(&mut reader)?;
        reader.finish()?;
        Ok(OverflowReference {
            length,
            stamp,
            checksum,
            table_offset,
            birth,
            blocks,
        })
    }

    /// The length of the value at the start of a reference, without reading the rest.
    pub fn decode_length(value: &[u8]) -> Result<u64, BlockProblem> {
        Reader::new(value).varint()
    }

    /// The number of pages in its blocks.
    pub fn pages(&self) -> u64 {
        self.blocks
            .iter()
            .map(|(_, pages)| u64::from(*pages))
            .fold(0, u64::saturating_add)
    }
}

/// One overflow value in the list beside a lowest parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverflowListItem {
    /// The index of the leaf in its parent.
    pub child_index: u32,
    /// The epoch of the value's birth; 0: it was born with its leaf.
    pub birth: Epoch,
    /// Its blocks.
    pub blocks: Vec<Block>,
}

impl OverflowListItem {
    /// Appends the item to the content of an overflow list. Items come in the order of leaves.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.child_index));
        put_varint(out, self.birth.0);
        put_blocks(&self.blocks, out);
    }
}

/// The items of an overflow list; it ends after the first error.
#[derive(Clone, Debug)]
pub struct OverflowList<'a> {
    reader: Reader<'a>,
    child_index_least: u32,
}

impl<'a> OverflowList<'a> {
    /// The items in `content`.
    pub fn new(content: &'a [u8]) -> OverflowList<'a> {
        OverflowList {
            reader: Reader::new(content),
            child_index_least: 0,
        }
    }

    fn read_item(&mut self) -> Result<OverflowListItem, BlockProblem> {
        let child_index = self.reader.varint_u32()?;
        if child_index < self.child_index_least {
            return Err(BlockProblem(
                "an overflow list is not in the order of leaves",
            ));
        }
        self.child_index_least = child_index;
        let birth = Epoch(self.reader.varint()?);
        let blocks = read_blocks(&mut self.reader)?;
        Ok(OverflowListItem {
            child_index,
            birth,
            blocks,
        })
    }
}

impl Iterator for OverflowList<'_> {
    type Item = Result<OverflowListItem, BlockProblem>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.is_empty() {
            return None;
        }
        let item = self.read_item();
        if item.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(item)
    }
}

fn put_blocks(blocks: &[Block], out: &mut Vec<u8>) {
    put_varint(out, blocks.len() as u64);
    for (page, pages) in blocks {
        put_varint(out, page.0);
        put_varint(out, u64::from(*pages));
    }
}

fn read_blocks(reader: &mut Reader<'_>) -> Result<Vec<Block>, BlockProblem> {
    let count = reader.varint_length()?;
    // A block takes at least two bytes, so that the allocation stays within the input's size.
    if count == 0 || count > reader.rest().len() / 2 {
        return Err(BlockProblem(
            "the number of an overflow value's blocks is impossible",
        ));
    }
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        let page = reader.varint()?;
        let pages = reader.varint_u32()?;
        if pages == 0 || page.saturating_add(u64::from(pages)) > PAGES_MAX {
            return Err(BlockProblem(
                "an overflow value's block lies outside every file",
            ));
        }
        blocks.push((PageNumber(page), pages));
    }
    Ok(blocks)
}
