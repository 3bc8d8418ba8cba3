//! All live blocks of a state, computed from its leaves: for showing whose each page is, and for
//! tests that compare it with what installs say was born and died.

use std::collections::BTreeMap;

use super::problem::Problems;
use super::walk::{Walk, walk_contents};
use crate::error::{Corruption, Error, Result, Structure};
use crate::page::{Block, BlockList, NodeKind, PageManager};
use crate::state::Contents;
use crate::types::{Epoch, PageNumber};

/// A block that a state uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveBlock {
    /// The block.
    pub block: Block,
    /// The state that it was born in.
    pub birth: Epoch,
    /// What lies in it.
    pub what: NodeKind,
}

/// Live blocks by their first page.
pub type LiveBlocks = BTreeMap<PageNumber, LiveBlock>;

/// All blocks that a state's segments use, with their births. It takes memory in proportion to the
/// state.
///
/// # Errors
/// The first problem that the walk meets; overflow values are not read.
pub fn walk_blocks(pages: &PageManager, contents: &Contents) -> Result<LiveBlocks> {
    walk_blocks_with(pages, contents, &mut |_, _| true)
}

/// [`walk_blocks`], which tells `progress` the pages that it has passed, and of how many; it ends
/// when that gives false.
///
/// # Errors
/// As [`walk_blocks`], and [`Error::Cancelled`].
pub fn walk_blocks_with(
    pages: &PageManager,
    contents: &Contents,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<LiveBlocks> {
    let mut blocks = LiveBlocks::new();
    let mut problems = Problems::default();
    let mut found = |live: &LiveBlock| {
        blocks.insert(live.block.first, *live);
    };
    let mut walk = Walk::new(pages, contents, false, &mut problems, progress, &mut found);
    walk_contents(&mut walk, contents).map_err(|_| Error::Cancelled)?;
    match problems.list.into_iter().next() {
        None => Ok(blocks),
        Some(problem) => {
            let structure = problem.structure.unwrap_or(Structure::State);
            let mut corruption = Corruption::new(structure, problem.text);
            corruption.page = problem.page;
            corruption.keyspace = problem.keyspace;
            Err(corruption.into())
        }
    }
}

/// The pages of all blocks that a state's segments use.
///
/// # Errors
/// As [`walk_blocks`].
pub fn live_blocks(pages: &PageManager, contents: &Contents) -> Result<BlockList> {
    let mut list = BlockList::new();
    for live in walk_blocks(pages, contents)?.values() {
        list.insert_any(live.block);
    }
    Ok(list)
}

/// What `before` has and `after` has not, in the order of the file. A block that is in both with
/// another birth or length counts as gone.
#[must_use]
pub fn difference(before: &LiveBlocks, after: &LiveBlocks) -> Vec<LiveBlock> {
    before.values().filter(|live| after.get(&live.block.first) != Some(live)).copied().collect()
}
