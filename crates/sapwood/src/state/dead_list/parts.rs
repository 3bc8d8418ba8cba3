//! The parts of one dead list, and what of them goes into a piece.
//!
//! *Guarantees*: each cut leaves less in memory, unless the limits allow pieces of a few blocks. A
//! mixed piece is never due as soon as it is cut (E8).

use super::ListLimits;
use super::piece::{Group, Piece, PieceName};
use crate::page::Block;
use crate::types::Epoch;
use std::collections::BTreeMap;

/// Blocks of one list that were born after the same held state and not after the next one.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// Those that are in no piece.
    pub blocks: Vec<Block>,
    pub pieces: Vec<PieceName>,
    /// Of the pieces too.
    pub block_count: u64,
    pub pages: u64,
}

impl Part {
    pub fn push(&mut self, block: Block) {
        self.blocks.push(block);
        self.block_count += 1;
        self.pages += u64::from(block.pages);
    }

    pub fn extend(&mut self, blocks: &[Block]) {
        if self.blocks.is_empty() {
            self.blocks.reserve_exact(blocks.len());
        }
        blocks.iter().for_each(|block| self.push(*block));
    }

    pub fn append(&mut self, mut other: Part) {
        if self.blocks.len() < other.blocks.len() {
            std::mem::swap(&mut self.blocks, &mut other.blocks);
        }
        self.blocks.append(&mut other.blocks);
        self.pieces.append(&mut other.pieces);
        self.block_count += other.block_count;
        self.pages += other.pages;
    }

    pub fn block_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }

    /// Takes some blocks out for a piece, in the order of the file.
    pub fn cut(&mut self, blocks_max: usize) -> Vec<Block> {
        let rest = self.blocks.len().saturating_sub(blocks_max);
        let mut blocks = match rest {
            0 => std::mem::take(&mut self.blocks),
            _ => self.blocks.split_off(rest),
        };
        self.blocks.shrink_to(2 * rest);
        blocks.shrink_to_fit();
        blocks.sort_unstable();
        blocks
    }

    pub fn memory_bytes(&self) -> usize {
        PART_BYTES + self.block_bytes() + self.pieces.capacity() * size_of::<PieceName>()
    }

    /// One with pieces stays: it passes on without them being read.
    fn may_be_mixed(&self, limits: &ListLimits) -> bool {
        self.pieces.is_empty() && !self.blocks.is_empty() && self.blocks.len() < limits.long()
    }
}

/// About what a part takes beside its blocks, in bytes.
const PART_BYTES: usize = 3 * size_of::<(Option<Epoch>, Part)>() / 2;

/// The parts that a mixed piece is cut from take at least so many times what it takes itself.
const MIXED_TIMES_MIN: usize = 4;

/// What died after one hold.
#[derive(Debug, Default)]
pub(super) struct DeadList {
    /// By the newest hold that is older than their births; `None`: there is none.
    pub parts: BTreeMap<Option<Epoch>, Part>,
    /// Pieces of several parts, which are here no more. None of them is due.
    pub mixed: Vec<PieceName>,
}

/// Short parts of a list that could go into one piece: those up to `newest`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    pub list: Epoch,
    newest: Option<Epoch>,
    /// What they take in memory.
    pub bytes: usize,
}

impl DeadList {
    pub fn part(&mut self, born_after: Option<Epoch>) -> &mut Part {
        self.parts.entry(born_after).or_default()
    }

    pub fn memory_bytes(&self) -> usize {
        self.parts.values().map(Part::memory_bytes).sum::<usize>()
            + self.mixed.capacity() * size_of::<PieceName>()
    }

    /// The short parts that may be mixed, oldest first: never that of the hold `before` the list's,
    /// with which the piece would be due at once.
    fn short(
        &self,
        before: Option<Epoch>,
        limits: &ListLimits,
    ) -> impl Iterator<Item = (Option<Epoch>, &Part)> {
        let parts = self.parts.range(..before).map(|(born_after, part)| (*born_after, part));
        parts.filter(|(_, part)| part.may_be_mixed(limits))
    }

    /// The short parts but for the newest eighth, if that makes memory clearly less. With those a
    /// piece would be due soon; that more stay would make more pieces, and fewer blocks are hardly
    /// read.
    pub fn mix(&self, list: Epoch, before: Option<Epoch>, limits: &ListLimits) -> Option<Mix> {
        let count = self.short(before, limits).count();
        if count == 0 {
            return None;
        }
        let mut mix = Mix { list, newest: None, bytes: 0 };
        let (mut parts, mut blocks) = (0, 0);
        for (born_after, part) in self.short(before, limits).take(count - (count / 8).max(1)) {
            blocks += part.blocks.len();
            if blocks > *limits.piece_blocks.end() {
                break;
            }
            parts += 1;
            mix.newest = born_after;
            mix.bytes += part.memory_bytes();
        }
        (parts > 1 && mix.bytes >= MIXED_TIMES_MIN * Piece::OWN_BYTES).then_some(mix)
    }

    /// Takes the parts of a mix out.
    pub fn cut(&mut self, mix: Mix, limits: &ListLimits) -> Vec<Group> {
        let parts = self.parts.range(..=mix.newest);
        let parts = parts.filter(|(_, part)| part.may_be_mixed(limits));
        let keys: Vec<Option<Epoch>> = parts.map(|(born_after, _)| *born_after).collect();
        let take = |born_after| {
            let mut part = self.parts.remove(&born_after)?;
            Some(Group { born_after, blocks: part.cut(usize::MAX) })
        };
        keys.into_iter().filter_map(take).collect()
    }
}
