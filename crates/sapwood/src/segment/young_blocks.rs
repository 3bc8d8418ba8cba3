//! All blocks of a young segment of which nothing has been promoted, found by walking it.
//!
//! *Assumes*: nothing of the nodes that are read. *Guarantees*: a block that is met twice is an
//! error, so a walk ends. *Threads*: one owner.

use super::descriptor::{Segment, TreeRoot};
use super::node::{Caching, LeafNode, ParentNode, TreeKind, read_leaf, read_parent};
use super::overflow::verify_value;
use super::overflow_reference::{OverflowList, OverflowReference};
use super::sorted_block::EntryKind;
use crate::error::{Corruption, Result, Structure};
use crate::page::{Block, BlockList, NodeKind, NodeRef, PageManager};
use crate::types::{KeyspaceNumber, PageNumber};

/// How closely a segment is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Parents and what they list are read.
    Parents,
    /// Every node is read and checked, and every value.
    Everything,
}

struct Walk<'a> {
    pages: &'a PageManager,
    look: Look,
    found: &'a mut BlockList,
}

/// Adds the blocks of a segment to `found`.
///
/// # Errors
/// When a node cannot be read or is damaged, or a block is there twice.
pub fn add_blocks(
    pages: &PageManager,
    segment: &Segment,
    look: Look,
    found: &mut BlockList,
) -> Result<()> {
    let mut walk = Walk { pages, look, found };
    for node in &segment.filter.nodes {
        walk.meet(node.block())?;
        if look == Look::Everything {
            pages.read_node_uncached(node, NodeKind::YoungFilter)?;
        }
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

    fn meet_value(&mut self, blocks: &[(PageNumber, u32)]) -> Result<()> {
        blocks.iter().try_for_each(|(first, pages)| self.meet(Block::new(*first, *pages)))
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
            if height > 1 || self.look == Look::Everything {
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
            if self.look == Look::Parents {
                for item in OverflowList::new(frame.content()) {
                    self.meet_value(&item.map_err(|p| node.damage(p))?.blocks)?;
                }
            }
        }
        Ok(())
    }

    /// A leaf that was met already: a root, or one that is to be checked.
    fn leaf(&mut self, reference: &NodeRef, kind: TreeKind) -> Result<()> {
        let many = KeyspaceNumber::MANY;
        let leaf = read_leaf(self.pages, reference, many, kind, Caching::Pass)?;
        for index in 0..leaf.view().len() {
            let entry = leaf.view().entry(index).map_err(|p| leaf.damage(p))?;
            if entry.kind == EntryKind::PutOverflow {
                let value = OverflowReference::decode(entry.value).map_err(|p| leaf.damage(p))?;
                self.meet_value(&value.blocks)?;
                if self.look == Look::Everything {
                    verify_value(self.pages, keyspace_of(&leaf, index)?, &value)?;
                }
            }
        }
        Ok(())
    }
}

/// The keyspace whose number leads a composite key.
fn keyspace_of(leaf: &LeafNode, index: usize) -> Result<KeyspaceNumber> {
    let mut key = Vec::new();
    leaf.view().copy_key(index, &mut key).map_err(|p| leaf.damage(p))?;
    let lead = key.first_chunk::<4>().ok_or_else(|| {
        leaf.damage(super::BlockProblem("a key of a young segment names no keyspace"))
    })?;
    Ok(KeyspaceNumber(u32::from_be_bytes(*lead)))
}
