//! A set of pages as bits, for checks of a whole file and for very many blocks: what it takes
//! depends on how long the file is, not on how scattered the pages are.

use std::collections::BTreeMap;

use crate::types::PageNumber;

use super::block::Block;
use super::block_list::BlockList;
use super::counted::{ALLOCATION_BYTES, in_map};

const WORD_BITS: u64 = 64;
const CHUNK_WORDS: usize = 512;
/// Pages of one chunk, of which each takes 4 KiB of memory: 128 MiB of a file with pages of 4 KiB.
const CHUNK_PAGES: u64 = CHUNK_WORDS as u64 * WORD_BITS;

type Chunk = [u64; CHUNK_WORDS];

/// What a chunk takes beside its place in the map.
const CHUNK_BYTES: usize = size_of::<Chunk>() + ALLOCATION_BYTES;

/// A set of pages. A block must end before page 2^64.
#[derive(Clone, Debug, Default)]
pub struct PageSet {
    /// By the place in the file; one that is missing has no page.
    chunks: BTreeMap<u64, Box<Chunk>>,
    page_count: u64,
}

impl PageSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> PageSet {
        PageSet { chunks: BTreeMap::new(), page_count: 0 }
    }

    /// What the set takes in memory, in bytes, about.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let places = in_map(self.chunks.len(), size_of::<(u64, Box<Chunk>)>());
        (places + self.chunks.len() * CHUNK_BYTES) as u64
    }

    /// The pages by chunks, in their order: of each the words that have any, with the first page
    /// that a word stands for. Bit `i` of a word is that page's `i`th neighbour.
    pub fn words(&self) -> impl Iterator<Item = impl Iterator<Item = (PageNumber, u64)> + Clone> {
        self.chunks.iter().map(|(&index, chunk)| {
            let first = move |at: u64| PageNumber(index * CHUNK_PAGES + at * WORD_BITS);
            let words = (0..).zip(chunk.iter()).filter(|(_, word)| **word != 0);
            words.map(move |(at, word)| (first(at), *word))
        })
    }

    /// Adds a block, whatever part of it is in the set already.
    pub fn insert_any(&mut self, block: Block) {
        let mut added = 0;
        for (index, from, to) in parts(block) {
            let chunk = self.chunks.entry(index).or_insert_with(|| Box::new([0; CHUNK_WORDS]));
            for_each_word(chunk, from, to, |word, mask| {
                added += u64::from((mask & !*word).count_ones());
                *word |= mask;
            });
        }
        self.page_count += added;
    }

    /// Whether any page of the block is in the set.
    #[must_use]
    pub fn intersects(&self, block: Block) -> bool {
        parts(block).any(|(index, from, to)| {
            self.chunks.get(&index).is_some_and(|chunk| next(chunk, from, |word| word) < to)
        })
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// The pages of this set that are not in the other, as runs: those are few where both should be
    /// the same.
    #[must_use]
    pub fn difference(&self, other: &PageSet) -> BlockList {
        self.runs_where(|index, at, word| word & !other.word(index, at))
    }

    /// The pages of the block that are in the set.
    #[must_use]
    pub fn within(&self, block: Block) -> BlockList {
        let mut only = PageSet::new();
        only.insert_any(block);
        only.runs_where(|index, at, word| word & self.word(index, at))
    }

    fn word(&self, index: u64, at: usize) -> u64 {
        self.chunks.get(&index).and_then(|chunk| chunk.get(at)).copied().unwrap_or(0)
    }

    /// The runs of what `keep` leaves of each word, of which it is told the place.
    fn runs_where(&self, keep: impl Fn(u64, usize, u64) -> u64) -> BlockList {
        let mut list = BlockList::new();
        for (&index, chunk) in &self.chunks {
            let mut kept = **chunk;
            for (at, word) in kept.iter_mut().enumerate() {
                *word = keep(index, at, *word);
            }
            let mut from = 0;
            while from < CHUNK_PAGES {
                let first = next(&kept, from, |word| word);
                from = next(&kept, first, |word| !word);
                // At most a chunk's pages.
                let pages = (from - first) as u32;
                list.insert_any(Block::new(PageNumber(index * CHUNK_PAGES + first), pages));
            }
        }
        list
    }
}

impl FromIterator<Block> for PageSet {
    fn from_iter<I: IntoIterator<Item = Block>>(blocks: I) -> PageSet {
        let mut set = PageSet::new();
        blocks.into_iter().for_each(|block| set.insert_any(block));
        set
    }
}

/// The chunks that a block lies in, each with the first page in it and the one behind the last.
fn parts(block: Block) -> impl Iterator<Item = (u64, u64, u64)> {
    let (first, end) = (block.first.0, block.end().0);
    (first / CHUNK_PAGES..end.div_ceil(CHUNK_PAGES)).map(move |index| {
        let start = index * CHUNK_PAGES;
        (index, first.saturating_sub(start), (end - start).min(CHUNK_PAGES))
    })
}

/// Hands out each word of a chunk that has some of the pages from one to another, with a mask of
/// these.
fn for_each_word(chunk: &mut Chunk, from: u64, to: u64, mut change: impl FnMut(&mut u64, u64)) {
    let (first, last) = (from / WORD_BITS, to.div_ceil(WORD_BITS));
    let words = chunk.iter_mut().zip(0..).skip(first as usize);
    for (word, at) in words.take_while(|(_, at)| *at < last) {
        let start = at * WORD_BITS;
        let low = from.saturating_sub(start).min(WORD_BITS);
        let high = (to - start).min(WORD_BITS);
        let below = |bits: u64| if bits == WORD_BITS { u64::MAX } else { (1 << bits) - 1 };
        change(word, below(high) & !below(low));
    }
}

/// The first page from `from` on of which `look` leaves the bit; the number of pages when there is
/// none.
fn next(chunk: &Chunk, from: u64, look: impl Fn(u64) -> u64) -> u64 {
    let mut mask = u64::MAX << (from % WORD_BITS);
    for (word, at) in chunk.iter().zip(0..).skip((from / WORD_BITS) as usize) {
        let bits = look(*word) & mask;
        if bits != 0 {
            return at * WORD_BITS + u64::from(bits.trailing_zeros());
        }
        mask = u64::MAX;
    }
    CHUNK_PAGES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks() -> impl Strategy<Value = Vec<Block>> {
        // Around the ends of words and chunks.
        let first = prop_oneof![0..200_u64, CHUNK_PAGES - 100..CHUNK_PAGES + 100];
        let pages = prop_oneof![0..3_u32, 60..70_u32, Just(CHUNK_PAGES as u32 * 2)];
        let block = (first, pages).prop_map(|(first, pages)| Block::new(PageNumber(first), pages));
        prop::collection::vec(block, 0..20)
    }

    fn both(blocks: &[Block]) -> (PageSet, BlockList) {
        let mut list = BlockList::new();
        blocks.iter().for_each(|block| list.insert_any(*block));
        (blocks.iter().copied().collect(), list)
    }

    proptest! {
        #[test]
        fn behaves_as_a_list_of_blocks(a in blocks(), b in blocks()) {
            let ((x, of_x), (y, of_y)) = (both(&a), both(&b));
            prop_assert_eq!(x.page_count(), of_x.page_count());
            prop_assert_eq!(x.difference(&PageSet::new()), of_x.clone());
            prop_assert_eq!(x.difference(&y), of_x.difference(&of_y));
            for block in b {
                prop_assert_eq!(x.intersects(block), of_x.intersects(block));
                let all: BlockList = [block].into_iter().collect();
                let outside = all.difference(&of_x);
                prop_assert_eq!(x.within(block), all.difference(&outside));
            }
        }
    }

    #[test]
    fn pages_far_apart_take_a_chunk_each() {
        let far = Block::new(PageNumber(1 << 47), 3);
        let set: PageSet = [Block::new(PageNumber(7), 1), far].into_iter().collect();
        assert_eq!((set.chunks.len(), set.page_count()), (2, 4));
        assert!(set.intersects(far) && !set.intersects(Block::new(far.end(), 1)));
    }
}
