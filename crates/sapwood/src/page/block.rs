//! A run of adjacent pages.

use crate::codec::{Read, ReadProblem, Reader, put_varint};
use crate::types::PageNumber;

/// Pages at or above this number are in no file.
pub const PAGES_MAX: u64 = 1 << 48;

/// A run of adjacent pages, ordered by its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The first page.
    pub first: PageNumber,
    /// How many pages; a block that is in use has at least one.
    pub pages: u32,
}

impl Block {
    /// The fewest bytes that an encoded block takes.
    pub const ENCODED_BYTES_MIN: usize = 2;

    /// `pages` pages from `first` on.
    pub const fn new(first: PageNumber, pages: u32) -> Block {
        Block { first, pages }
    }

    /// The page after the last one.
    pub const fn end(self) -> PageNumber {
        PageNumber(self.first.0.saturating_add(self.pages as u64))
    }

    /// The last page; the first one when the block is empty.
    pub const fn last(self) -> PageNumber {
        PageNumber(self.first.0.saturating_add((self.pages as u64).saturating_sub(1)))
    }

    /// Appends the block as lists of blocks name it.
    pub fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.first.0);
        put_varint(out, u64::from(self.pages));
    }

    /// Takes a block from the reader: at least one page, inside the largest file.
    pub fn decode(reader: &mut Reader<'_>) -> Read<Block> {
        let block = Block::new(PageNumber(reader.varint()?), reader.varint_u32()?);
        if block.pages == 0 || block.end().0 > PAGES_MAX {
            return Err(ReadProblem::OutOfRange);
        }
        Ok(block)
    }

    /// Appends the number of blocks, then each.
    pub fn encode_list(blocks: &[Block], out: &mut Vec<u8>) {
        put_varint(out, blocks.len() as u64);
        blocks.iter().for_each(|block| block.encode(out));
    }

    /// Takes a list of blocks from the reader.
    pub fn decode_list(reader: &mut Reader<'_>) -> Read<Vec<Block>> {
        let count = reader.varint_count(Block::ENCODED_BYTES_MIN)?;
        let mut blocks = Vec::with_capacity(count);
        for _ in 0..count {
            blocks.push(Block::decode(reader)?);
        }
        Ok(blocks)
    }

    /// Whether the page is one of the block's.
    pub fn contains(self, page: PageNumber) -> bool {
        self.first <= page && page < self.end()
    }

    /// Whether the two have a page in common.
    pub fn overlaps(self, other: Block) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}
