//! A run of adjacent pages.

use crate::types::PageNumber;

/// A run of adjacent pages, ordered by its first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The first page.
    pub first: PageNumber,
    /// How many pages; a block that is in use has at least one.
    pub pages: u32,
}

impl Block {
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

    /// Whether the page is one of the block's.
    pub fn contains(self, page: PageNumber) -> bool {
        self.first <= page && page < self.end()
    }

    /// Whether the two have a page in common.
    pub fn overlaps(self, other: Block) -> bool {
        self.first < other.end() && other.first < self.end()
    }
}
