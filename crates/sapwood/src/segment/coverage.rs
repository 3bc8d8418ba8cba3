//! Which nodes of a segment die when a further range of it has been promoted.
//!
//! *Assumes*: nodes whose ranges lie in the ranges promoted before are dead already.
//! *Guarantees*: each node is reported in exactly one step, the one after which no key of its own
//! range is left; siblings that still hold keys are never reported.

use super::descriptor::TreeRoot;
use super::key_range::{KeyRange, KeyRanges};
use super::node::{ParentNode, read_parent_at};
use super::parent::{Below, Child};
use crate::error::Result;
use crate::page::{Block, NodeRef, PageManager};
use crate::types::{Epoch, KeyspaceNumber};

/// The search for one tree.
#[derive(Debug)]
struct Search<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    before: &'a KeyRanges,
    after: &'a KeyRanges,
    covered: Covered,
}

/// What a further promotion covers of a tree.
#[derive(Debug, Default)]
pub struct Covered {
    /// The nodes, with their births; sidecars among them.
    pub nodes: Vec<(Block, Epoch)>,
    /// How many of them are leaves.
    pub leaf_count: u64,
}

/// The nodes of a tree whose ranges lie in `after` and not in `before`.
///
/// # Errors
/// When a parent cannot be read.
pub fn newly_covered(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    before: &KeyRanges,
    after: &KeyRanges,
) -> Result<Covered> {
    let mut search = Search { pages, keyspace, before, after, covered: Covered::default() };
    search.visit(&root.reference, root.height, root.birth, &KeyRange::all())?;
    Ok(search.covered)
}

/// The range of a parent's child: from its separator to the next one.
pub fn child_range(node: &ParentNode, index: usize, own: &KeyRange) -> Result<KeyRange> {
    let parent = node.view();
    let mut start = own.start.clone();
    if index > 0 {
        start.clear();
        parent.separator(index, &mut start).map_err(|p| node.damage(p))?;
    }
    let mut end = own.end.clone();
    if index + 1 < parent.len() {
        let mut next = Vec::new();
        parent.separator(index + 1, &mut next).map_err(|p| node.damage(p))?;
        end = Some(next);
    }
    Ok(KeyRange { start, end })
}

impl Search<'_> {
    fn visit(
        &mut self,
        reference: &NodeRef,
        height: u8,
        birth: Epoch,
        range: &KeyRange,
    ) -> Result<()> {
        if self.before.covers(range) || !self.after.overlaps(range) {
            return Ok(());
        }
        let dies = self.after.covers(range);
        if dies {
            self.covered.nodes.push((reference.block(), birth));
            self.covered.leaf_count += u64::from(height == 0);
        }
        if height == 0 {
            return Ok(());
        }
        let node = read_parent_at(self.pages, reference, self.keyspace, height, range)?;
        if dies && height == 1 {
            self.push_sidecar(&node, birth)?;
        }
        let count = node.view().len();
        for index in 0..count {
            let child: Child = node.view().child(index).map_err(|p| node.damage(p))?;
            let child_range = child_range(&node, index, range)?;
            let child_birth = child.birth.unwrap_or(birth);
            debug_assert_eq!(matches!(child.below, Below::Leaf { .. }), height == 1);
            self.visit(&child.reference, height - 1, child_birth, &child_range)?;
        }
        Ok(())
    }

    fn push_sidecar(&mut self, node: &ParentNode, birth: Epoch) -> Result<()> {
        push_sidecar_blocks(node, birth, &mut self.covered.nodes)
    }
}

/// Adds the blocks of a lowest parent's sidecar: they are born and die with the parent.
pub fn push_sidecar_blocks(
    node: &ParentNode,
    birth: Epoch,
    out: &mut Vec<(Block, Epoch)>,
) -> Result<()> {
    let parent = node.view();
    for list in [parent.pieces(), parent.overflow_lists()] {
        for index in 0..list.len() {
            let reference: NodeRef = list.get(index).map_err(|p| node.damage(p))?;
            out.push((reference.block(), birth));
        }
    }
    Ok(())
}
