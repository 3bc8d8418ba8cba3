//! A piece of a dead list that goes to the file when lists are long.
//!
//! *Assumes*: nothing of bytes that were read. *Guarantees*: what is decoded is what was encoded,
//! in the order of the file, or an error.
//! *Format*: docs/format.md, section 4.6.

use crate::codec::{Read, ReadProblem, Reader, put_varint};
use crate::page::block::PAGES_MAX;
use crate::page::{Block, NodeRef};
use crate::sync::Arc;
use crate::types::PageNumber;

/// The fewest bytes that an encoded block takes: the gap before it, and its pages.
const ENCODED_BYTES_MIN: usize = 2;

/// Names a piece for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName(pub(super) u64);

/// Where the blocks of a piece are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceContent {
    /// In memory: it was not written yet.
    Memory(Arc<Vec<Block>>),
    /// In a node, which no durable state references (E7).
    Written(NodeRef),
}

/// Some blocks of a list.
#[derive(Debug)]
pub(super) struct Piece {
    pub content: PieceContent,
    pub blocks: u64,
    pub pages: u64,
    /// Somebody writes it, or reads it back.
    pub is_out: bool,
}

impl Piece {
    /// About what a piece takes beside blocks in memory.
    pub const OWN_BYTES: usize = 3 * size_of::<(PieceName, Piece)>() / 2;

    pub fn memory_bytes(&self) -> usize {
        let blocks = match &self.content {
            PieceContent::Memory(blocks) => blocks.capacity() * size_of::<Block>(),
            PieceContent::Written(_) => 0,
        };
        Piece::OWN_BYTES + blocks
    }
}

/// Encodes blocks, which lie in the order of the file and do not overlap.
pub fn encode_piece(blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() * 4 + 8);
    put_varint(&mut out, blocks.len() as u64);
    let mut end = 0;
    for block in blocks {
        debug_assert!(block.first.0 >= end, "no page dies twice");
        put_varint(&mut out, block.first.0.saturating_sub(end));
        put_varint(&mut out, u64::from(block.pages));
        end = block.end().0;
    }
    out
}

/// The blocks of an encoded piece.
pub fn decode_piece(bytes: &[u8]) -> Read<Vec<Block>> {
    let mut reader = Reader::new(bytes);
    let count = reader.varint_count(ENCODED_BYTES_MIN)?;
    let mut blocks = Vec::with_capacity(count);
    let mut end = 0u64;
    for _ in 0..count {
        let first = end.checked_add(reader.varint()?).ok_or(ReadProblem::OutOfRange)?;
        let block = Block::new(PageNumber(first), reader.varint_u32()?);
        end = block.end().0;
        if block.pages == 0 || end > PAGES_MAX {
            return Err(ReadProblem::OutOfRange);
        }
        blocks.push(block);
    }
    reader.finish()?;
    Ok(blocks)
}
