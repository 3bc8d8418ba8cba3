//! References to values that lie in blocks of their own, and the lists of them beside lowest
//! parents.
//!
//! *Guarantees*: a decoded reference has blocks of at least one page, inside the largest file.
//!
//! *Format*: docs/format.md, sections 4.4 (overflow list) and 4.5 (reference).

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::BlockProblem;
use crate::codec::{Reader, put_varint};
use crate::page::Block;
use crate::types::Epoch;

/// Where an overflow value lies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        Block::encode_list(&self.blocks, out);
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
        Ok(OverflowReference { length, stamp, checksum, table_offset, birth, blocks })
    }

    /// The length of the value at the start of a reference, without reading the rest.
    pub fn decode_length(value: &[u8]) -> Result<u64, BlockProblem> {
        Ok(Reader::new(value).varint()?)
    }

    /// The number of pages in its blocks.
    pub fn pages(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.pages)).fold(0, u64::saturating_add)
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
        Block::encode_list(&self.blocks, out);
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
        OverflowList { reader: Reader::new(content), child_index_least: 0 }
    }

    fn read_item(&mut self) -> Result<OverflowListItem, BlockProblem> {
        let child_index = self.reader.varint_u32()?;
        if child_index < self.child_index_least {
            return Err(BlockProblem("an overflow list is not in the order of leaves"));
        }
        self.child_index_least = child_index;
        let birth = Epoch(self.reader.varint()?);
        let blocks = read_blocks(&mut self.reader)?;
        Ok(OverflowListItem { child_index, birth, blocks })
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

/// Counts what lists beside a lowest parent name: no more than the values of its leaves take, which
/// is no more than lies in the file. So what they name can be held in memory, and whoever reads
/// them comes to an end.
#[derive(Debug)]
pub struct ListedPages {
    left: u64,
}

impl ListedPages {
    /// For a parent whose leaves say that their values have so many pages.
    pub fn new(said_pages: u64, file_pages: u64) -> ListedPages {
        ListedPages { left: said_pages.min(file_pages) }
    }

    /// Counts an item.
    ///
    /// # Errors
    /// When it is too much.
    pub fn take(&mut self, item: &OverflowListItem) -> Result<(), BlockProblem> {
        let pages = item.blocks.iter().map(|block| u64::from(block.pages));
        let left = self.left.checked_sub(pages.fold(0, u64::saturating_add));
        self.left = left.ok_or(BlockProblem("overflow lists name more than the leaves have"))?;
        Ok(())
    }
}

fn read_blocks(reader: &mut Reader<'_>) -> Result<Vec<Block>, BlockProblem> {
    let blocks = Block::decode_list(reader)?;
    if blocks.is_empty() {
        return Err(BlockProblem("an overflow value has no blocks"));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::page::block::PAGES_MAX;
    use crate::types::PageNumber;

    fn blocks() -> impl Strategy<Value = Vec<Block>> {
        let page = prop_oneof![0_u64..300, 0..PAGES_MAX - u64::from(u32::MAX)];
        vec(
            (page.prop_map(PageNumber), 1_u32..).prop_map(|(page, pages)| Block::new(page, pages)),
            1..5,
        )
    }

    fn reference() -> impl Strategy<Value = OverflowReference> {
        (any::<(u64, u32, u32, u64, u64)>(), blocks()).prop_map(
            |((length, stamp, checksum, table_offset, birth), blocks)| {
                let birth = Epoch(birth);
                OverflowReference { length, stamp, checksum, table_offset, birth, blocks }
            },
        )
    }

    fn items() -> impl Strategy<Value = Vec<OverflowListItem>> {
        vec((0_u32..64, any::<u64>(), blocks()), 0..6).prop_map(|mut items| {
            items.sort_by_key(|item| item.0);
            let item = |(child_index, birth, blocks)| OverflowListItem {
                child_index,
                birth: Epoch(birth),
                blocks,
            };
            items.into_iter().map(item).collect()
        })
    }

    proptest! {
        #[test]
        fn references_return_and_no_truncation_is_taken_for_one(reference in reference()) {
            let mut value = Vec::new();
            reference.encode(&mut value);
            prop_assert_eq!(OverflowReference::decode_length(&value), Ok(reference.length));
            for end in 0..value.len() {
                prop_assert!(OverflowReference::decode(&value[..end]).is_err());
            }
            prop_assert_eq!(OverflowReference::decode(&value), Ok(reference));
            value.push(0);
            prop_assert!(OverflowReference::decode(&value).is_err());
        }

        #[test]
        fn lists_return(items in items()) {
            let mut content = Vec::new();
            items.iter().for_each(|item| item.encode(&mut content));
            let read: Result<Vec<_>, _> = OverflowList::new(&content).collect();
            prop_assert_eq!(read, Ok(items));
        }

        #[test]
        fn damaged_references_and_lists_give_errors_or_other_values(
            reference in reference(), items in items(), bit: prop::sample::Index,
        ) {
            let (mut value, mut content) = (Vec::new(), Vec::new());
            reference.encode(&mut value);
            let at = bit.index(value.len() * 8);
            value[at / 8] ^= 1 << (at % 8);
            prop_assert!(OverflowReference::decode(&value) != Ok(reference));
            items.iter().for_each(|item| item.encode(&mut content));
            if !content.is_empty() {
                let at = bit.index(content.len() * 8);
                content[at / 8] ^= 1 << (at % 8);
            }
            for end in 0..=content.len() {
                // The iterator ends, with at most one error, the last.
                let read: Vec<_> = OverflowList::new(&content[..end]).collect();
                prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
            }
        }
    }

    #[test]
    fn impossible_blocks_are_refused_without_a_large_allocation() {
        let decode = |count: u64, page: u64, pages: u64| {
            let mut value = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            for number in [count, page, pages] {
                put_varint(&mut value, number);
            }
            OverflowReference::decode(&value)
        };
        assert_eq!(decode(1, 5, 2).map(|r| r.pages()), Ok(2));
        assert!(decode(1, PAGES_MAX - 2, 2).is_ok());
        for (count, page, pages) in [
            (0, 5, 2),
            (2, 5, 2),
            (u64::MAX, 5, 2),
            (1, 5, 0),
            (1, PAGES_MAX - 1, 2),
            (1, 5, 1 << 32),
        ] {
            assert!(decode(count, page, pages).is_err(), "{count} {page} {pages}");
        }
    }

    #[test]
    fn a_list_out_of_order_is_refused() {
        let mut content = Vec::new();
        for child_index in [3, 2] {
            let blocks = vec![Block::new(PageNumber(1), 1)];
            OverflowListItem { child_index, birth: Epoch(0), blocks }.encode(&mut content);
        }
        let read: Vec<_> = OverflowList::new(&content).collect();
        assert!(matches!(read[..], [Ok(_), Err(_)]));
    }
}
