//! All blocks of a young segment of which nothing has been promoted, found by walking it.
//!
//! *Assumes*: nothing of the nodes that are read. *Guarantees*: a block that is met twice is an
//! error, so a walk ends. *Threads*: one owner.

use super::descriptor::{Segment, TreeRoot};
use super::node::{Caching, ParentNode, TreeKind, read_leaf, read_parent};
use super::overflow_reference::{OverflowList, OverflowReference};
use super::sorted_block::EntryKind;
use crate::error::{Corruption, Result, Structure};
use crate::page::{Block, BlockList, NodeKind, NodeRef, PageManager};
use crate::types::KeyspaceNumber;

struct Walk<'a> {
    pages: &'a PageManager,
    found: &'a mut BlockList,
}

/// Adds the blocks of a segment to `found`: parents and what they list are read, and no leaf below.
///
/// # Errors
/// When a node cannot be read or is damaged, or a block is there twice.
pub fn add_blocks(pages: &PageManager, segment: &Segment, found: &mut BlockList) -> Result<()> {
    let mut walk = Walk { pages, found };
    for node in &segment.filter.nodes {
        walk.meet(node.block())?;
    }
    let trees = [(&segment.points, TreeKind::Points), (&segment.ranges, TreeKind::Ranges)];
    for (root, kind) in trees {
        if let Some(TreeRoot { reference, height, .. }) = root {
            walk.visit(reference, *height, kind)?;
        }
    }
    Ok(())
}

impl Walk<'_> {
    fn meet(&mut self, block: Block) -> Result<()> {
        let damaged = |detail| Corruption::new(Structure::Log, detail).at_page(block.first);
        self.pages.check_block(block).map_err(damaged)?;
        if self.found.intersects(block) {
            let detail = format!("{} pages of a commit are used twice", block.pages);
            return Err(damaged(detail).into());
        }
        self.found.insert(block);
        Ok(())
    }

    fn meet_value(&mut self, blocks: &[Block]) -> Result<()> {
        blocks.iter().try_for_each(|block| self.meet(*block))
    }

    fn visit(&mut self, reference: &NodeRef, height: u8, kind: TreeKind) -> Result<()> {
        self.meet(reference.block())?;
        if height == 0 {
            return self.leaf(reference, kind);
        }
        let node = read_parent(self.pages, reference, KeyspaceNumber::MANY, height)?;
        if height == 1 {
            self.sidecar(&node)?;
        }
        let parent = node.view();
        for index in 0..parent.len() {
            let child = node.child_reference(index)?;
            if height > 1 {
                self.visit(&child, height - 1, kind)?;
            } else {
                self.meet(child.block())?;
            }
        }
        Ok(())
    }

    fn sidecar(&mut self, node: &ParentNode) -> Result<()> {
        let parent = node.view();
        for index in 0..parent.pieces().len() {
            let piece = parent.pieces().get(index).map_err(|p| node.damage(p))?;
            self.meet(piece.block())?;
        }
        for index in 0..parent.overflow_lists().len() {
            let list = parent.overflow_lists().get(index).map_err(|p| node.damage(p))?;
            self.meet(list.block())?;
            let frame = self.pages.read_node(&list, NodeKind::OverflowList)?;
            for item in OverflowList::new(frame.content()) {
                self.meet_value(&item.map_err(|p| node.damage(p))?.blocks)?;
            }
        }
        Ok(())
    }

    /// A leaf that is a root, and was met.
    fn leaf(&mut self, reference: &NodeRef, kind: TreeKind) -> Result<()> {
        let many = KeyspaceNumber::MANY;
        let leaf = read_leaf(self.pages, reference, many, kind, Caching::Pass)?;
        for index in 0..leaf.view().len() {
            let entry = leaf.view().entry(index).map_err(|p| leaf.damage(p))?;
            if entry.kind == EntryKind::PutOverflow {
                let value = OverflowReference::decode(entry.value).map_err(|p| leaf.damage(p))?;
                self.meet_value(&value.blocks)?;
            }
        }
        Ok(())
    }
}
