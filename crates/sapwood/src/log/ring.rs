//! Where a position of the log lies in the file.
//!
//! The log is reused in a ring, but described as a line: the blocks from the one that holds the
//! durable cut onward, in the order of use. A new durable state names the next line: the blocks
//! that its cut has passed come again at the end, or are dropped; new ones may follow. So a
//! position means the same place in both lines as far as both reach.
//!
//! *Assumes*: the list comes from a state, so it may be wrong. *Guarantees*: pure arithmetic
//! without overflow; a line never names a page twice unless the state did. *Format*: section 6.2.
//! *Threads*: none.

use crate::error::{Corruption, Result, Structure};
use crate::page::Block;
use crate::types::LogPosition;

/// The blocks of the log in the order of use, as a state names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingList {
    /// The position at which the first block begins.
    pub start: LogPosition,
    /// The blocks; the first one holds the state's cut.
    pub blocks: Vec<Block>,
}

/// A list for the next durable state, and how it differs from the present one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextList {
    /// What the state names.
    pub list: RingList,
    /// Up to here the present list and the next one agree.
    pub agree_until: LogPosition,
    /// Blocks that the next list does not name any more.
    pub dropped: Vec<Block>,
}

#[derive(Clone, Copy, Debug)]
struct Placed {
    start: u64,
    end: u64,
    block: Block,
}

/// A list with its positions worked out.
#[derive(Clone, Debug)]
pub struct Ring {
    placed: Vec<Placed>,
    usable_bytes: u64,
    start: u64,
    end: u64,
}

impl Ring {
    /// Places the blocks of a list, of whose pages `usable_bytes` each are used.
    ///
    /// # Errors
    /// `Corruption` when the list is empty, holds an empty block or a page twice, or its positions
    /// overflow.
    pub fn new(list: &RingList, usable_bytes: u64) -> Result<Ring> {
        let wrong =
            |what: &str| Corruption::new(Structure::State, format!("list of the log: {what}"));
        if list.blocks.is_empty() || list.blocks.iter().any(|block| block.pages == 0) {
            return Err(wrong("it is empty, or a block in it is").into());
        }
        if !list.start.0.is_multiple_of(8) {
            return Err(wrong("its start is not aligned").into());
        }
        if names_a_page_twice(&list.blocks) {
            return Err(wrong("it names a page twice").into());
        }
        let mut end = list.start.0;
        let mut placed = Vec::with_capacity(list.blocks.len());
        for &block in &list.blocks {
            let start = end;
            end = u64::from(block.pages)
                .checked_mul(usable_bytes)
                .and_then(|length| start.checked_add(length))
                .ok_or_else(|| wrong("its end lies behind all positions"))?;
            placed.push(Placed { start, end, block });
        }
        Ok(Ring { placed, usable_bytes, start: list.start.0, end })
    }

    /// The list that it was made from.
    pub fn list(&self) -> RingList {
        let blocks = self.placed.iter().map(|placed| placed.block).collect();
        RingList { start: self.start_position(), blocks }
    }

    /// The blocks in the order of use, each with the position at which it ends.
    pub fn placed_blocks(&self) -> Vec<(Block, LogPosition)> {
        self.placed.iter().map(|placed| (placed.block, LogPosition(placed.end))).collect()
    }

    /// Where the first block begins.
    pub fn start_position(&self) -> LogPosition {
        LogPosition(self.start)
    }

    /// Where the last block ends.
    pub fn end_position(&self) -> LogPosition {
        LogPosition(self.end)
    }

    /// The bytes from `from` to the end.
    pub fn available(&self, from: LogPosition) -> u64 {
        self.end.saturating_sub(from.0)
    }

    /// The block in which `position` lies, and the offset in it.
    pub fn locate(&self, position: LogPosition) -> Option<(Block, u64)> {
        let index = self.placed.partition_point(|placed| placed.end <= position.0);
        let placed = self.placed.get(index)?;
        Some((placed.block, position.0.checked_sub(placed.start)?))
    }

    /// The same, with the number of bytes from there to the end of the block.
    pub fn run_at(&self, position: LogPosition) -> Option<(Block, u64, u64)> {
        let (block, offset) = self.locate(position)?;
        Some((block, offset, u64::from(block.pages) * self.usable_bytes - offset))
    }

    /// The list for a durable state with this cut. Of the blocks that the cut has passed the first
    /// `drop_count` are dropped, the others move to the back; `append` follows. What is left of
    /// `drop_count` takes blocks from the back that begin at or after `unreached`, a position that
    /// nothing may be written behind before the new list is in force.
    pub fn next_list(
        &self,
        cut: LogPosition,
        append: &[Block],
        drop_count: usize,
        unreached: LogPosition,
    ) -> NextList {
        let passed_count = self.placed.partition_point(|placed| placed.end <= cut.0);
        let (passed, ahead) = self.placed.split_at(passed_count);
        let (gone, moved) = passed.split_at(drop_count.min(passed.len()));
        let droppable = ahead
            .iter()
            .rev()
            .take_while(|placed| placed.start >= unreached.0 && placed.start > cut.0)
            .count();
        let dropped_ahead = droppable.min(drop_count - gone.len());
        let (kept, gone_ahead) = ahead.split_at(ahead.len() - dropped_ahead);
        let start = kept.first().map_or(self.end, |placed| placed.start);
        let block_of = |placed: &Placed| placed.block;
        let blocks = kept.iter().chain(moved).map(block_of).chain(append.iter().copied());
        NextList {
            list: RingList { start: LogPosition(start), blocks: blocks.collect() },
            agree_until: LogPosition(kept.last().map_or(self.end, |placed| placed.end)),
            dropped: gone.iter().chain(gone_ahead).map(block_of).collect(),
        }
    }
}

/// A list that did would make a small file look like a log of any length.
fn names_a_page_twice(blocks: &[Block]) -> bool {
    let mut sorted = blocks.to_vec();
    sorted.sort_unstable_by_key(|block| block.first);
    let ends = sorted.iter().map(|block| block.first.0.saturating_add(u64::from(block.pages)));
    ends.zip(sorted.iter().skip(1)).any(|(end, next)| end > next.first.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PageNumber;
    use proptest::prelude::*;

    const USABLE: u64 = 1000;

    fn ring(start: u64, sizes: &[u32]) -> Ring {
        let blocks = sizes
            .iter()
            .enumerate()
            .map(|(index, &pages)| Block { first: PageNumber(index as u64 * 100), pages });
        let list = RingList { start: LogPosition(start), blocks: blocks.collect() };
        Ring::new(&list, USABLE).unwrap()
    }

    /// The page in which a position lies, and the offset there, found byte by byte.
    fn page_of(ring: &Ring, position: u64) -> Option<(u64, u64)> {
        let (block, offset) = ring.locate(LogPosition(position))?;
        assert!(offset < u64::from(block.pages) * USABLE);
        Some((block.first.0 + offset / USABLE, offset % USABLE))
    }

    proptest! {
        #[test]
        fn the_next_list_agrees_with_the_present_one_and_names_each_block_once(
            start in 0u64..100,
            sizes in prop::collection::vec(1u32..6, 1..7),
            cut_part in 0u64..1000,
            reached_part in 0u64..1000,
            drop_count in 0usize..8,
            append in 0u32..3,
        ) {
            let ring = ring(start * 8, &sizes);
            let length = ring.available(ring.start_position()) / 8;
            let cut = LogPosition(start * 8 + length * cut_part / 1000 * 8);
            let reached = LogPosition(cut.0 + (ring.available(cut) / 8) * reached_part / 1000 * 8);
            let new = (append > 0).then_some(Block { first: PageNumber(5000), pages: append });
            let next = ring.next_list(cut, new.as_slice(), drop_count, reached);
            // Every block is somewhere, and nowhere twice.
            let mut named = next.list.blocks.clone();
            named.extend(&next.dropped);
            named.sort_by_key(|block| block.first);
            let mut all = ring.list().blocks;
            all.extend(new);
            prop_assert_eq!(named, all);
            prop_assert!(next.dropped.len() <= drop_count);
            // What lies between the cut and what was reached stays where it is.
            prop_assert!(next.agree_until >= reached && next.agree_until <= ring.end_position());
            let after = Ring::new(&next.list, USABLE).unwrap();
            prop_assert!(after.start_position() <= cut);
            let (first, last) = (cut.0, next.agree_until.0);
            for position in (first..last).step_by(500).chain([last - 1]) {
                prop_assert_eq!(page_of(&ring, position), page_of(&after, position));
            }
            prop_assert!(page_of(&after, after.end_position().0).is_none());
            prop_assert!(page_of(&after, after.start_position().0.wrapping_sub(1)).is_none());
        }
    }
}
