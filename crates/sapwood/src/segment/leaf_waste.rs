//! What the leaves of a flush may waste, bounded entry by entry.
//!
//! *Guarantees*: entries in any order take in plain leaves, and in blocks of their own, at most
//! their bytes, a seventh of them, and what [`LeafWaste::of`] says of each. A leaf ends where the
//! next entry has no place. Where that is short, the leaf is full but for an eighth. Where it is
//! long, what the leaf wastes is less than that entry, and less than a page, and counts for that
//! entry. *Source*: the argument is that of next-fit bin packing (D. S. Johnson, "Near-optimal bin
//! packing algorithms", 1973, section 2). *Threads*: none of its own.

use super::overflow::wants_overflow;
use crate::page::{Layout, NODE_HEADER_BYTES};

/// What a leaf has of an entry beside its key and value, at most: a slot, two lengths, a number.
const ENTRY_BYTES: usize = 24;

/// The sizes that it follows from.
#[derive(Clone, Copy, Debug)]
pub struct LeafWaste {
    page_bytes: usize,
    usable_bytes: usize,
    leaf_bytes: usize,
    short_bytes: usize,
}

impl LeafWaste {
    /// For leaves of at most so many bytes, header included.
    pub fn new(layout: &Layout, leaf_bytes: usize) -> LeafWaste {
        let page_bytes = layout.page_size as usize;
        let leaf_bytes = leaf_bytes.max(page_bytes) - NODE_HEADER_BYTES;
        let short_bytes = (leaf_bytes / 8).min(page_bytes / 2);
        LeafWaste { page_bytes, usable_bytes: layout.usable_bytes(), leaf_bytes, short_bytes }
    }

    /// Entries of at most so many bytes of key and value waste nothing themselves.
    pub fn short_bytes(&self) -> usize {
        self.short_bytes - ENTRY_BYTES.min(self.short_bytes)
    }

    /// What an entry of so many bytes may waste, in bytes.
    pub fn of(&self, key_bytes: usize, value_bytes: usize) -> u64 {
        if key_bytes + value_bytes <= self.short_bytes() {
            return 0;
        }
        let entry_bytes = key_bytes + value_bytes + ENTRY_BYTES;
        let own_pages = |bytes: usize| {
            bytes.div_ceil(self.usable_bytes.max(1)).saturating_mul(self.page_bytes) - bytes
        };
        let waste = if wants_overflow(value_bytes, self.usable_bytes) {
            own_pages(value_bytes + NODE_HEADER_BYTES) + NODE_HEADER_BYTES
        } else if entry_bytes <= self.leaf_bytes {
            (entry_bytes + NODE_HEADER_BYTES).min(self.page_bytes)
        } else {
            // And the leaf that ends before it.
            own_pages(entry_bytes + NODE_HEADER_BYTES) + self.page_bytes
        };
        waste as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY_BYTES: usize = 8;

    /// The pages of leaves, each ended by what has no place in it, and of values of their own.
    fn packed(waste: &LeafWaste, values: &[usize]) -> u64 {
        let pages_of = |bytes: usize| (bytes + NODE_HEADER_BYTES).div_ceil(waste.usable_bytes);
        let (mut pages, mut filled) = (0, 0);
        for value_bytes in values {
            let is_own = wants_overflow(*value_bytes, waste.usable_bytes);
            if is_own {
                pages += pages_of(value_bytes + 8 * value_bytes.div_ceil(32 << 10));
            }
            let entry_bytes = KEY_BYTES + if is_own { 16 } else { *value_bytes } + ENTRY_BYTES;
            if filled > 0 && filled + entry_bytes > waste.leaf_bytes {
                pages += pages_of(filled);
                filled = 0;
            }
            filled += entry_bytes;
        }
        (pages + pages_of(filled)) as u64 * waste.page_bytes as u64
    }

    proptest! {
        #[test]
        fn what_leaves_take_is_within_the_bound(
            page_bits in 10_u32..=16,
            leaf_factor in 0_u32..=4,
            lengths in proptest::collection::vec(1_usize..30_000, 1..6),
            order in proptest::collection::vec(0_usize..6, 1..300),
        ) {
            let layout = Layout::new(1 << page_bits, 0, 256 << page_bits, [7; 16]).unwrap();
            let leaf_bytes = (1_usize << (page_bits + leaf_factor)).min(1 << 16);
            let waste = LeafWaste::new(&layout, leaf_bytes);
            let values: Vec<usize> = order.iter().map(|n| lengths[n % lengths.len()]).collect();
            let bytes: usize = values.iter().map(|value| KEY_BYTES + value + ENTRY_BYTES).sum();
            let more: u64 = values.iter().map(|value| waste.of(KEY_BYTES, *value)).sum();
            // The last leaf may be short.
            let last = leaf_bytes.max(1 << page_bits);
            let bound = (bytes * 8 / 7 + last) as u64 + more;
            let taken = packed(&waste, &values);
            prop_assert!(taken <= bound, "{} bytes of at most {}", taken, bound);
        }
    }
}
