//! A piece of a dead list that goes to the file when lists are long.
//!
//! *Assumes*: nothing of bytes that were read. *Guarantees*: what is decoded is what was encoded,
//! groups by age with their blocks in the order of the file, or an error; no page is named twice.
//! *Format*: docs/format.md, section 4.6.

use crate::codec::{Read, ReadProblem, Reader, put_varint};
use crate::page::block::PAGES_MAX;
use crate::page::{Block, NodeRef};
use crate::sync::Arc;
use crate::types::{Epoch, PageNumber};

/// The fewest bytes that an encoded block takes: the gap before it, and its pages.
const ENCODED_BYTES_MIN: usize = 2;
/// The fewest of a group: its age, the number of its blocks, and one block.
const GROUP_BYTES_MIN: usize = 2 + ENCODED_BYTES_MIN;

/// Names a piece for as long as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceName(pub(super) u64);

/// The blocks of one part in a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The newest hold that was older than their births when the piece was cut; `None`: none was.
    pub born_after: Option<Epoch>,
    /// In the order of the file; at least one.
    pub blocks: Vec<Block>,
}

/// Where the blocks of a piece are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PieceContent {
    /// In memory: it was not written yet.
    Memory(Arc<Vec<Group>>),
    /// In a node, which no durable state references (E7).
    Written(NodeRef),
}

/// Some blocks of a list.
#[derive(Debug)]
pub(super) struct Piece {
    /// The hold whose list it was cut from.
    pub list: Epoch,
    /// The newest group's `born_after`.
    pub newest: Option<Epoch>,
    pub content: PieceContent,
    pub blocks: u64,
    pub pages: u64,
    /// Somebody writes it, or reads it back.
    pub is_out: bool,
}

impl Piece {
    /// About what a piece takes beside blocks in memory.
    pub const OWN_BYTES: usize = 3 * size_of::<(PieceName, Piece)>() / 2;

    /// Of groups by age.
    pub fn new(list: Epoch, groups: Vec<Group>) -> Piece {
        let blocks = || groups.iter().flat_map(|group| &group.blocks);
        Piece {
            list,
            newest: groups.last().and_then(|group| group.born_after),
            blocks: blocks().count() as u64,
            pages: blocks().map(|block| u64::from(block.pages)).sum(),
            content: PieceContent::Memory(Arc::new(groups)),
            is_out: false,
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let content = match &self.content {
            PieceContent::Memory(groups) => {
                let blocks: usize = groups.iter().map(|group| group.blocks.capacity()).sum();
                groups.capacity() * size_of::<Group>() + blocks * size_of::<Block>()
            }
            PieceContent::Written(_) => 0,
        };
        Piece::OWN_BYTES + content
    }
}

/// Encodes groups, oldest first. The blocks of each lie in the order of the file, and none overlap.
pub fn encode_piece(groups: &[Group]) -> Vec<u8> {
    let blocks: usize = groups.iter().map(|group| group.blocks.len()).sum();
    let mut out = Vec::with_capacity(blocks * 4 + groups.len() * 8 + 8);
    put_varint(&mut out, groups.len() as u64);
    for group in groups {
        debug_assert!(group.born_after != Some(Epoch(0)), "the first state is 1");
        put_varint(&mut out, group.born_after.map_or(0, |epoch| epoch.0));
        put_varint(&mut out, group.blocks.len() as u64);
        let mut end = 0;
        for block in &group.blocks {
            debug_assert!(block.first.0 >= end, "no page dies twice");
            put_varint(&mut out, block.first.0.saturating_sub(end));
            put_varint(&mut out, u64::from(block.pages));
            end = block.end().0;
        }
    }
    out
}

/// The groups of an encoded piece.
pub fn decode_piece(bytes: &[u8]) -> Read<Vec<Group>> {
    let mut reader = Reader::new(bytes);
    let count = reader.varint_count(GROUP_BYTES_MIN)?;
    let mut groups: Vec<Group> = Vec::with_capacity(count);
    for _ in 0..count {
        let born_after = match reader.varint()? {
            0 => None,
            epoch => Some(Epoch(epoch)),
        };
        let blocks = read_blocks(&mut reader)?;
        let is_younger = groups.last().is_none_or(|last| last.born_after < born_after);
        if blocks.is_empty() || !is_younger {
            return Err(ReadProblem::OutOfRange);
        }
        groups.push(Group { born_after, blocks });
    }
    reader.finish()?;
    if !are_apart(&groups) {
        return Err(ReadProblem::OutOfRange);
    }
    Ok(groups)
}

fn read_blocks(reader: &mut Reader<'_>) -> Read<Vec<Block>> {
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
    Ok(blocks)
}

/// No page is in two groups: it would be freed twice.
fn are_apart(groups: &[Group]) -> bool {
    let mut all: Vec<Block> = groups.iter().flat_map(|group| &group.blocks).copied().collect();
    all.sort_unstable();
    all.iter().zip(all.iter().skip(1)).all(|(one, next)| one.end() <= next.first)
}
