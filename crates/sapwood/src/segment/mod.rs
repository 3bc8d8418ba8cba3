//! Floor 3: segments, the immutable B-trees that hold what was flushed and merged.
//!
//! The codecs below turn bytes into nodes and back, with search: [`sorted_block`] is the one layout
//! of leaves and of the tail of parents, [`parent`] names children, [`filter`],
//! [`overflow_reference`] and [`range_tombstone`] are what stands beside or inside entries.
//!
//! *Format*: docs/format.md, section 4.

pub mod bounded_ranges;
pub mod coverage;
pub mod descriptor;
pub mod filter;
pub mod key_range;
pub mod leaf_run;
pub mod leaf_waste;
pub mod leaf_writer;
pub mod merge_cursor;
pub mod node;
pub mod overflow;
pub mod overflow_reference;
pub mod overflow_writer;
pub mod parent;
pub mod parent_writer;
pub mod range_tombstone;
pub mod segment_filter;
pub mod segment_source;
pub mod segment_writer;
pub mod separator;
pub mod sorted_block;
pub mod sorted_block_builder;
pub mod sorted_source;
pub mod tree_cursor;
pub mod tree_diff;
pub mod tree_edit;
pub mod young_blocks;

use std::fmt;

use crate::codec::ReadProblem;
use crate::error::{Corruption, Structure};

/// The longest key, in bytes; composite keys of young segments have four more.
pub const KEY_BYTES_MAX: usize = 16_384;

/// The longest composite key, in bytes.
pub const COMPOSITE_KEY_BYTES_MAX: usize = KEY_BYTES_MAX + 4;

/// What is wrong with the bytes of a node. It does not know where the node lies: whoever read it
/// adds that with [`BlockProblem::corruption`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockProblem(pub &'static str);

impl BlockProblem {
    /// The problem as damage in `structure`.
    pub fn corruption(self, structure: Structure) -> Corruption {
        Corruption::new(structure, self.0)
    }
}

impl From<ReadProblem> for BlockProblem {
    #[inline]
    fn from(problem: ReadProblem) -> BlockProblem {
        BlockProblem(problem.text())
    }
}

impl fmt::Display for BlockProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
