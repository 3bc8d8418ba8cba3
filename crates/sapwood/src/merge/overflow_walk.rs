//! The overflow values of a whole tree, found through parents and sidecars: leaves are read only
//! where a promoted range ends inside one, or where a tree is one leaf.

use crate::error::Result;
use crate::page::{Block, NodeRef, PageManager};
use crate::segment::coverage::child_range;
use crate::segment::descriptor::TreeRoot;
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::node::{Caching, TreeKind, read_leaf_at, read_parent_at};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::sorted_block::EntryKind;
use crate::state::dead_list::Dead;
use crate::types::{Epoch, KeyspaceNumber};

struct Walk<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    before: &'a KeyRanges,
    after: &'a KeyRanges,
    found: Vec<Dead>,
}

/// The blocks of the overflow values of a level's tree whose keys lie in `after` and not in
/// `before`, with their births.
///
/// # Errors
/// When a node cannot be read.
pub fn overflow_blocks(
    pages: &PageManager,
    root: &TreeRoot,
    keyspace: KeyspaceNumber,
    before: &KeyRanges,
    after: &KeyRanges,
) -> Result<Vec<Dead>> {
    let mut walk = Walk { pages, keyspace, before, after, found: Vec::new() };
    walk.visit(&root.reference, root.height, root.birth, &KeyRange::all())?;
    Ok(walk.found)
}

impl Walk<'_> {
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
        if height == 0 {
            return self.read_leaf(reference, birth, range);
        }
        let node = read_parent_at(self.pages, reference, self.keyspace, height, range)?;
        let parent = node.view();
        let mut listed = Vec::new();
        if height == 1 {
            node.visit_overflow(self.pages, &mut |item| {
                listed.push(item);
                Ok(true)
            })?;
        }
        for index in 0..parent.len() {
            let child = parent.child(index).map_err(|p| node.damage(p))?;
            if !child.has_overflow() {
                continue;
            }
            let child_birth = child.birth.unwrap_or(birth);
            let below = child_range(&node, index, range)?;
            if height > 1 || self.before.overlaps(&below) || !self.after.covers(&below) {
                self.visit(&child.reference, height - 1, child_birth, &below)?;
                continue;
            }
            for item in listed.iter().filter(|item| item.child_index as usize == index) {
                self.push(&item.blocks, item.birth, child_birth);
            }
        }
        Ok(())
    }

    fn read_leaf(&mut self, reference: &NodeRef, birth: Epoch, range: &KeyRange) -> Result<()> {
        let (keyspace, kind, how) = (self.keyspace, TreeKind::Points, Caching::Pass);
        let leaf = read_leaf_at(self.pages, reference, keyspace, kind, how, range)?;
        let block = leaf.view();
        let mut key = Vec::new();
        for index in 0..block.len() {
            let entry = block.entry(index).map_err(|p| leaf.damage(p))?;
            if entry.kind != EntryKind::PutOverflow {
                continue;
            }
            block.copy_key(index, &mut key).map_err(|p| leaf.damage(p))?;
            if self.after.contains(&key) && !self.before.contains(&key) {
                let value = OverflowReference::decode(entry.value).map_err(|p| leaf.damage(p))?;
                self.push(&value.blocks, value.birth, birth);
            }
        }
        Ok(())
    }

    fn push(&mut self, blocks: &[Block], birth: Epoch, leaf_birth: Epoch) {
        let birth = if birth.0 == 0 { leaf_birth } else { birth };
        self.found.extend(blocks.iter().map(|&block| Dead::value(block, birth)));
    }
}
