//! The map of one region: one bit for each page.
//!
//! *Guarantees*: F1: a bit is set only when it was clear, and cleared only when it was set;
//! anything else is a program error. F2: `used` is the number of set bits. F3: no run of clear bits
//! is longer than `longest_free_bound`.
//! *Format*: `docs/format.md` section 2.2.

use crate::codec::{ReadProblem, Reader};

use super::layout::{FREE_MAP_HEAD_BYTES, REGION_PAGES_MAX};

const WORD_BITS: u32 = 64;

/// Which pages of a region are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeMap {
    region_index: u64,
    page_count: u32,
    used: u32,
    longest_free_bound: u32,
    words: Vec<u64>,
}

impl FreeMap {
    /// A region in which only the first `fixed` pages are used.
    pub fn new(region_index: u64, page_count: u32, fixed: u32) -> FreeMap {
        assert!(page_count.is_multiple_of(WORD_BITS) && fixed <= page_count);
        let words = vec![0; (page_count / WORD_BITS) as usize];
        let longest_free_bound = page_count;
        let mut map = FreeMap { region_index, page_count, used: 0, longest_free_bound, words };
        map.set(0, fixed);
        map
    }

    /// How many pages the region has.
    pub fn page_count(&self) -> u32 {
        self.page_count
    }

    /// The region's number.
    pub fn region_index(&self) -> u64 {
        self.region_index
    }

    /// How many pages are used.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// No run of free pages is longer than this.
    pub fn longest_free_bound(&self) -> u32 {
        self.longest_free_bound
    }

    /// What the map takes in memory, in bytes.
    pub fn weight_bytes(&self) -> u64 {
        size_of::<FreeMap>() as u64 + FreeMap::words_bytes(self.page_count)
    }

    /// What the bits of so many pages take of that.
    pub fn words_bytes(page_count: u32) -> u64 {
        u64::from(page_count).div_ceil(64) * 8
    }

    /// Marks pages as used that were free.
    pub fn set(&mut self, first: u32, pages: u32) {
        let region_index = self.region_index;
        self.for_each_word(first, pages, |word, mask| {
            assert!(*word & mask == 0, "a page of region {region_index} is given out twice");
            *word |= mask;
        });
        self.used += pages;
    }

    /// Marks pages as free that were used.
    pub fn clear(&mut self, first: u32, pages: u32) {
        let region_index = self.region_index;
        self.for_each_word(first, pages, |word, mask| {
            assert!(*word & mask == mask, "a page of region {region_index} is freed twice");
            *word &= !mask;
        });
        self.used -= pages;
        let run = self.next_used(first + pages) - self.run_start(first);
        self.longest_free_bound = self.longest_free_bound.max(run);
    }

    /// The bits of 64 pages, of which `first` is the first; behind the region none is set.
    pub fn word(&self, first: u32) -> u64 {
        self.words.get((first / WORD_BITS) as usize).copied().unwrap_or(0)
    }

    /// Marks those of 64 pages as used that have a bit, and were free.
    pub fn set_word(&mut self, first: u32, bits: u64) {
        if let Some(word) = self.words.get_mut((first / WORD_BITS) as usize) {
            assert!(*word & bits == 0, "a page of region {} is given out twice", self.region_index);
            *word |= bits;
            self.used += bits.count_ones();
        }
    }

    /// Whether every one of the pages is used.
    pub fn all_set(&self, first: u32, pages: u32) -> bool {
        self.next_free(first) >= first + pages
    }

    /// Whether every one of the pages is free.
    pub fn all_clear(&self, first: u32, pages: u32) -> bool {
        self.next_used(first) >= first + pages
    }

    /// The first run of at least `pages` free pages that lies in `from..limit`.
    pub fn find_run(&mut self, pages: u32, from: u32, limit: u32) -> Option<u32> {
        if pages > self.longest_free_bound {
            return None;
        }
        let (mut start, mut longest) = (self.next_free(from), 0);
        while start < limit {
            let end = self.next_used(start).min(limit);
            if end - start >= pages {
                return Some(start);
            }
            longest = longest.max(end - start);
            start = self.next_free(end);
        }
        if from == 0 && limit == self.page_count {
            // The whole region was seen, so this is exact.
            self.longest_free_bound = longest;
        }
        None
    }

    /// How many free pages there are from `first` on, counted up to `most`.
    pub fn free_run_at(&self, first: u32, most: u32) -> u32 {
        self.next_used(first).saturating_sub(first).min(most)
    }

    /// The first used page from `from` on; the number of pages when there is none.
    pub fn next_used(&self, from: u32) -> u32 {
        self.next_bit(from, |word| word)
    }

    /// The first free page from `from` on; the number of pages when there is none.
    pub fn next_free(&self, from: u32) -> u32 {
        self.next_bit(from, |word| !word)
    }

    /// The page after the last used one; 0 when none is.
    pub fn used_end(&self) -> u32 {
        let last = self.words.iter().enumerate().rfind(|(_, word)| **word != 0);
        last.map_or(0, |(word_index, word)| {
            word_index as u32 * WORD_BITS + WORD_BITS - word.leading_zeros()
        })
    }

    /// The runs of used pages, as first page and number of pages.
    pub fn used_runs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next_used(from);
            from = self.next_free(first);
            (first < self.page_count).then(|| (first, from - first))
        })
    }

    /// The content of the map's node.
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(FREE_MAP_HEAD_BYTES + self.words.len() * 8);
        content.extend_from_slice(&self.region_index.to_le_bytes());
        content.extend_from_slice(&self.page_count.to_le_bytes());
        content.extend_from_slice(&self.used.to_le_bytes());
        for word in &self.words {
            // Bit i mod 8 of byte i / 8 is bit i mod 64 of a little-endian word.
            content.extend_from_slice(&word.to_le_bytes());
        }
        content
    }

    /// The map in a node's content; the error says what is wrong.
    pub fn decode(content: &[u8]) -> Result<FreeMap, String> {
        let mut reader = Reader::new(content);
        let head = (|| Ok::<_, ReadProblem>((reader.u64()?, reader.u32()?, reader.u32()?)))();
        let Ok((region_index, page_count, used)) = head else {
            return Err("shorter than its head".into());
        };
        if page_count == 0
            || !page_count.is_multiple_of(WORD_BITS)
            || u64::from(page_count) > REGION_PAGES_MAX
            || reader.remaining() != page_count as usize / 8
        {
            return Err(format!(
                "a map of {page_count} pages cannot have {} bytes of bits",
                reader.remaining()
            ));
        }
        let mut words = Vec::with_capacity((page_count / WORD_BITS) as usize);
        while let Ok(word) = reader.u64() {
            words.push(word);
        }
        let counted: u32 = words.iter().map(|word| word.count_ones()).sum();
        if counted != used {
            return Err(format!("{counted} bits are set, it says {used}"));
        }
        Ok(FreeMap { region_index, page_count, used, longest_free_bound: page_count, words })
    }

    fn next_bit(&self, from: u32, look: impl Fn(u64) -> u64) -> u32 {
        if from >= self.page_count {
            return self.page_count;
        }
        let (first_word, shift) = ((from / WORD_BITS) as usize, from % WORD_BITS);
        let mut mask = u64::MAX << shift;
        for (word_index, &word) in self.words.iter().enumerate().skip(first_word) {
            let bits = look(word) & mask;
            if bits != 0 {
                return word_index as u32 * WORD_BITS + bits.trailing_zeros();
            }
            mask = u64::MAX;
        }
        self.page_count
    }

    /// The first page of the free run that `page` lies in.
    fn run_start(&self, page: u32) -> u32 {
        let (page_word, bit) = ((page / WORD_BITS) as usize, page % WORD_BITS);
        let mut mask = (1u64 << bit) - 1;
        let before = self.words.iter().enumerate().take(page_word + 1).rev();
        for (word_index, &word) in before {
            let bits = word & mask;
            if bits != 0 {
                return word_index as u32 * WORD_BITS + WORD_BITS - bits.leading_zeros();
            }
            mask = u64::MAX;
        }
        0
    }

    fn for_each_word(&mut self, first: u32, pages: u32, mut act: impl FnMut(&mut u64, u64)) {
        let end = u64::from(first) + u64::from(pages);
        assert!(end <= u64::from(self.page_count), "pages beyond region {}", self.region_index);
        let (mut at, end) = (first, end as u32);
        while at < end {
            let bit = at % WORD_BITS;
            let count = (WORD_BITS - bit).min(end - at);
            let mask = (u64::MAX >> (WORD_BITS - count)) << bit;
            if let Some(word) = self.words.get_mut((at / WORD_BITS) as usize) {
                act(word, mask);
            }
            at += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model_run(model: &[bool], pages: u32, from: u32, limit: u32) -> Option<u32> {
        (from..limit).find(|&start| {
            start + pages <= limit && (start..start + pages).all(|page| !model[page as usize])
        })
    }

    proptest! {
        #[test]
        fn behaves_as_an_array_of_bools(
            operations in prop::collection::vec((0u32..192, 1u32..80, 0u32..192), 1..120),
        ) {
            let mut map = FreeMap::new(3, 192, 2);
            let mut model = vec![false; 192];
            model[..2].fill(true);
            for (first, pages, from) in operations {
                let pages = pages.min(192 - first);
                let part = &mut model[first as usize..(first + pages) as usize];
                let (set, clear) = (part.iter().all(|&bit| bit), part.iter().all(|&bit| !bit));
                prop_assert_eq!(map.all_set(first, pages), set);
                prop_assert_eq!(map.all_clear(first, pages), clear);
                if clear {
                    map.set(first, pages);
                    part.fill(true);
                } else if set && first >= 2 {
                    map.clear(first, pages);
                    part.fill(false);
                }
                for (from, limit) in [(0, 192), (from, 192), (0, from)] {
                    prop_assert_eq!(
                        map.find_run(pages, from, limit), model_run(&model, pages, from, limit));
                }
                prop_assert_eq!(map.used() as usize, model.iter().filter(|&&bit| bit).count());
                prop_assert_eq!(
                    map.used_end() as usize,
                    model.iter().rposition(|&bit| bit).map_or(0, |index| index + 1),
                );
                let covered: u32 = map.used_runs().map(|(_, pages)| pages).sum();
                prop_assert_eq!(covered, map.used());
                let decoded = FreeMap::decode(&map.encode()).unwrap();
                prop_assert_eq!(&decoded.words, &map.words);
            }
        }
    }

    #[test]
    fn bits_lie_where_the_format_says() {
        let mut map = FreeMap::new(7, 64, 0);
        map.set(9, 2);
        let content = map.encode();
        assert_eq!(&content[..8], &7u64.to_le_bytes());
        assert_eq!(&content[8..16], &[64, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(&content[16..], &[0, 0b110, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn damaged_contents_are_errors() {
        let mut map = FreeMap::new(7, 128, 3);
        map.set(100, 20);
        let content = map.encode();
        for length in 0..content.len() {
            assert!(FreeMap::decode(&content[..length]).is_err());
        }
        // The region's number is the caller's to check; any other bit shows here.
        for bit in 64..content.len() * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FreeMap::decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    #[should_panic(expected = "given out twice")]
    fn setting_a_set_bit_is_a_program_error() {
        FreeMap::new(0, 64, 2).set(1, 2);
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn clearing_a_clear_bit_is_a_program_error() {
        FreeMap::new(0, 64, 2).clear(1, 2);
    }
}
