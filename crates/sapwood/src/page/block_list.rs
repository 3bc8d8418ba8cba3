//! A set of pages, kept as sorted runs that are as long as they can be.
//!
//! *Guarantees*: no two runs touch or overlap.

use std::collections::BTreeMap;

use crate::types::PageNumber;

use super::block::Block;

/// A set of pages as sorted and merged runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockList {
    /// First page of a run, and the page after its last.
    runs: BTreeMap<u64, u64>,
    page_count: u64,
}

impl BlockList {
    /// The empty set.
    pub const fn new() -> BlockList {
        BlockList { runs: BTreeMap::new(), page_count: 0 }
    }

    /// Adds a block of which no page is in the set.
    pub fn insert(&mut self, block: Block) {
        assert!(!self.intersects(block), "{block:?} is in the list already");
        self.add_run(block.first.0, block.end().0);
    }

    /// Adds a block, whatever part of it is in the set already.
    pub fn insert_any(&mut self, block: Block) {
        self.add_run(block.first.0, block.end().0);
    }

    /// Takes out a block of which every page is in the set.
    pub fn remove(&mut self, block: Block) {
        assert!(self.contains(block), "{block:?} is not in the list");
        self.cut_run(block.first.0, block.end().0);
    }

    /// Takes out whatever part of the block is in the set.
    pub fn remove_any(&mut self, block: Block) {
        self.cut_run(block.first.0, block.end().0);
    }

    /// Whether every page of the block is in the set.
    pub fn contains(&self, block: Block) -> bool {
        let run = self.runs.range(..=block.first.0).next_back();
        block.pages == 0 || run.is_some_and(|(_, &end)| end >= block.end().0)
    }

    /// Whether the page is in the set.
    pub fn contains_page(&self, page: PageNumber) -> bool {
        self.contains(Block::new(page, 1))
    }

    /// Whether any page of the block is in the set.
    pub fn intersects(&self, block: Block) -> bool {
        let run = self.runs.range(..block.end().0).next_back();
        block.pages > 0 && run.is_some_and(|(_, &end)| end > block.first.0)
    }

    /// The runs in order; one of more than `u32::MAX` pages comes in pieces.
    pub fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        self.runs.iter().flat_map(|(&first, &end)| {
            let step = u64::from(u32::MAX);
            let pieces = (end - first).div_ceil(step);
            (0..pieces).map(move |piece_index| {
                let piece_first = first + piece_index * step;
                // At most u32::MAX by the choice of the step.
                Block::new(PageNumber(piece_first), (end - piece_first).min(step) as u32)
            })
        })
    }

    /// Every page of either.
    #[must_use]
    pub fn union(&self, other: &BlockList) -> BlockList {
        let (large, small) =
            if self.runs.len() < other.runs.len() { (other, self) } else { (self, other) };
        let mut all = large.clone();
        for (&first, &end) in &small.runs {
            all.add_run(first, end);
        }
        all
    }

    /// The pages of this set that are not in the other.
    #[must_use]
    pub fn difference(&self, other: &BlockList) -> BlockList {
        let mut rest = self.clone();
        for (&first, &end) in &other.runs {
            rest.cut_run(first, end);
        }
        rest
    }

    /// How many pages are in the set.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// How many runs there are.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no page in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.page_count = 0;
    }

    /// About how much memory the set takes, in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.runs.len() * 24
    }

    fn add_run(&mut self, mut first: u64, mut end: u64) {
        if first >= end {
            return;
        }
        // Runs that touch the new one lie at or before its end; take them in from the back.
        while let Some((&other_first, &other_end)) = self.runs.range(..=end).next_back() {
            if other_end < first {
                break;
            }
            self.runs.remove(&other_first);
            self.page_count -= other_end - other_first;
            first = first.min(other_first);
            end = end.max(other_end);
        }
        self.runs.insert(first, end);
        self.page_count += end - first;
    }

    fn cut_run(&mut self, first: u64, end: u64) {
        if first >= end {
            return;
        }
        while let Some((&other_first, &other_end)) = self.runs.range(..end).next_back() {
            if other_end <= first {
                break;
            }
            self.runs.remove(&other_first);
            self.page_count -= other_end.min(end) - other_first.max(first);
            if other_end > end {
                self.runs.insert(end, other_end);
            }
            if other_first < first {
                self.runs.insert(other_first, first);
                break;
            }
        }
    }
}

impl FromIterator<Block> for BlockList {
    fn from_iter<I: IntoIterator<Item = Block>>(blocks: I) -> BlockList {
        let mut list = BlockList::new();
        for block in blocks {
            list.insert(block);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model_runs(model: &BTreeSet<u64>) -> Vec<Block> {
        let mut runs: Vec<Block> = Vec::new();
        for &page in model {
            match runs.last_mut() {
                Some(run) if run.end().0 == page => run.pages += 1,
                _ => runs.push(Block::new(PageNumber(page), 1)),
            }
        }
        runs
    }

    fn list_of(model: &BTreeSet<u64>) -> BlockList {
        model_runs(model).into_iter().collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_pages(
            operations in prop::collection::vec((any::<bool>(), 0u64..80, 0u32..12), 1..80),
        ) {
            let mut list = BlockList::new();
            let mut model = BTreeSet::new();
            for (add, first, pages) in operations {
                let block = Block::new(PageNumber(first), pages);
                let range = first..first + u64::from(pages);
                let all = range.clone().all(|page| model.contains(&page));
                let any = range.clone().any(|page| model.contains(&page));
                prop_assert_eq!(list.contains(block), all);
                prop_assert_eq!(list.intersects(block), any);
                if add {
                    if any { list.insert_any(block) } else { list.insert(block) }
                    model.extend(range);
                } else {
                    if all { list.remove(block) } else { list.remove_any(block) }
                    model.retain(|page| !range.contains(page));
                }
                prop_assert_eq!(list.page_count(), model.len() as u64);
                prop_assert_eq!(list.iter().collect::<Vec<_>>(), model_runs(&model));
            }
        }

        #[test]
        fn union_and_difference_are_those_of_sets(
            a in prop::collection::btree_set(0u64..100, 0..60),
            b in prop::collection::btree_set(0u64..100, 0..60),
        ) {
            let (x, y) = (list_of(&a), list_of(&b));
            prop_assert_eq!(x.union(&y), list_of(&a.union(&b).copied().collect()));
            prop_assert_eq!(x.difference(&y), list_of(&a.difference(&b).copied().collect()));
        }
    }

    #[test]
    fn a_run_longer_than_a_block_comes_in_pieces() {
        let mut list = BlockList::new();
        list.insert(Block::new(PageNumber(5), u32::MAX));
        list.insert(Block::new(PageNumber(5 + u64::from(u32::MAX)), 3));
        assert_eq!(list.run_count(), 1);
        let pieces: Vec<_> = list.iter().collect();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[1], Block::new(PageNumber(5 + u64::from(u32::MAX)), 3));
    }

    #[test]
    #[should_panic(expected = "is in the list already")]
    fn inserting_a_page_twice_is_a_program_error() {
        let mut list = BlockList::new();
        list.insert(Block::new(PageNumber(5), 4));
        list.insert(Block::new(PageNumber(8), 1));
    }
}
