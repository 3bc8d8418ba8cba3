//! Where two trees of one keyspace differ: the ranges of keys below the leaves that only one of
//! them has.
//!
//! *Assumes*: the blocks of both trees are held, but for those that lie whole in the masked ranges
//! of their tree, which hold nothing any more. *Guarantees*: outside of the ranges, and of what is
//! masked in one of them, both trees have the same entries. Nodes that both have are not read, nor
//! what lies below them; nor is what is masked.
//! *Threads*: any.

use std::collections::HashSet;

use super::descriptor::TreeRoot;
use super::key_range::{KeyRange, KeyRanges};
use super::node::read_parent;
use crate::error::Result;
use crate::page::{NodeRef, PageManager};
use crate::types::KeyspaceNumber;

/// The nodes of one height of a tree that the other tree does not have, each with the keys that may
/// lie below it.
struct Side<'a> {
    nodes: Vec<(KeyRange, NodeRef)>,
    height: u8,
    masked: &'a KeyRanges,
}

/// The root of a tree, if there is one, and the ranges in which it holds nothing any more.
pub type Tree<'a> = (Option<&'a TreeRoot>, &'a KeyRanges);

impl<'a> Side<'a> {
    fn new((root, masked): Tree<'a>) -> Side<'a> {
        let nodes = root.map(|root| (KeyRange::all(), root.reference)).into_iter().collect();
        Side { nodes, height: root.map_or(0, |root| root.height), masked }
    }

    /// Puts the children that reach into `range` in place of the nodes, which are parents.
    fn descend(
        &mut self,
        pages: &PageManager,
        keyspace: KeyspaceNumber,
        range: &KeyRange,
    ) -> Result<()> {
        let mut children = Vec::new();
        for (keys, reference) in &self.nodes {
            if self.masked.covers(keys) {
                continue;
            }
            let parent = read_parent(pages, reference, keyspace, self.height)?;
            let view = parent.view();
            let mut start = keys.start.clone();
            for index in 0..view.len() {
                let mut end = keys.end.clone();
                if index + 1 < view.len() {
                    let next = end.insert(Vec::new());
                    view.separator(index + 1, next).map_err(|p| parent.damage(p))?;
                }
                let next_start = end.clone().unwrap_or_default();
                let below = KeyRange { start: std::mem::replace(&mut start, next_start), end };
                if below.overlaps(range) {
                    children.push((below, parent.child_reference(index)?));
                }
            }
        }
        self.nodes = children;
        self.height -= 1;
        Ok(())
    }

    fn leave_out(&mut self, shared: &HashSet<(u64, u32, u32)>) {
        let is_masked = |keys: &KeyRange| self.masked.covers(keys);
        self.nodes.retain(|(keys, node)| !shared.contains(&name(node)) && !is_masked(keys));
    }
}

/// What tells a node from every other that was ever written.
fn name(node: &NodeRef) -> (u64, u32, u32) {
    (node.page.0, node.stamp, node.checksum)
}

/// The ranges, within `range`, below leaves of either tree that the other does not have; `None`
/// when more than `nodes_max` nodes of one height differ. Complexity: the nodes that differ.
///
/// # Errors
/// When a parent cannot be read.
pub fn differing_ranges(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    (a, b): (Tree<'_>, Tree<'_>),
    range: &KeyRange,
    nodes_max: usize,
) -> Result<Option<KeyRanges>> {
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    loop {
        if a.height == b.height {
            let of = |side: &Side| side.nodes.iter().map(|(_, node)| name(node)).collect();
            let (of_a, of_b): (HashSet<_>, HashSet<_>) = (of(&a), of(&b));
            let shared = &of_a & &of_b;
            a.leave_out(&shared);
            b.leave_out(&shared);
            if a.height == 0 {
                break;
            }
        }
        if a.nodes.len() + b.nodes.len() > nodes_max {
            return Ok(None);
        }
        let height = a.height.max(b.height);
        for side in [&mut a, &mut b] {
            if side.height == height {
                side.descend(pages, keyspace, range)?;
            }
        }
    }
    let mut ranges = KeyRanges::new();
    for (keys, _) in a.nodes.iter().chain(&b.nodes) {
        keys.intersection(range).into_iter().for_each(|keys| ranges.insert(keys));
    }
    Ok(Some(ranges))
}
