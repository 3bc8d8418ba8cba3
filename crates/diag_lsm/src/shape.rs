//! The shape of a tree: what lies at each depth, seen from its parents and from some of its leaves.

use std::sync::Arc;

use indicatif::ProgressBar;
use sapwood::page::{NodeKind, NodeRef, PageManager};
use sapwood::segment::coverage::child_range;
use sapwood::segment::descriptor::TreeRoot;
use sapwood::segment::key_range::{KeyRange, KeyRanges};
use sapwood::segment::node::read_parent_at;
use serde::Serialize;

use crate::file::PlacedSegment;
use crate::units;

/// Of so many leaves the fill is looked at.
const LEAF_SAMPLE: u64 = 256;

/// What lies at one depth.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Depth {
    /// 0 for leaves.
    pub height: u8,
    /// Nodes that live.
    pub nodes: u64,
    /// Their pages.
    pub pages: u64,
    /// Children, of parents; entries, of leaves.
    pub children: u64,
    /// The fewest of one node.
    pub children_min: u64,
    /// The most of one node.
    pub children_max: u64,
    /// Pages of sidecars.
    pub sidecar_pages: u64,
    /// Bytes of separators.
    pub separator_bytes: u64,
    /// Bytes that the nodes looked at use of their pages.
    pub used_bytes: u64,
    /// What those nodes could use.
    pub usable_bytes: u64,
    /// Nodes in promoted ranges, which are dead.
    pub dead: u64,
    /// Nodes that cannot be read, and why the first one cannot.
    pub unreadable: u64,
    /// The first error.
    pub first_error: Option<String>,
}

impl Depth {
    fn add(&mut self, pages: u32, children: u64) {
        self.children_min =
            if self.nodes == 0 { children } else { self.children_min.min(children) };
        self.children_max = self.children_max.max(children);
        self.nodes += 1;
        self.pages += u64::from(pages);
        // A parent may say any number of what lies below it.
        self.children = self.children.saturating_add(children);
    }

    fn fail(&mut self, error: &sapwood::Error) {
        self.unreadable += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }
}

struct Search<'a> {
    pages: &'a Arc<PageManager>,
    root: &'a TreeRoot,
    promoted: &'a KeyRanges,
    depths: Vec<Depth>,
    leaf_step: u64,
    leaf_index: u64,
    bar: &'a ProgressBar,
}

/// The leaves of all trees of these segments, dead ones too.
pub fn leaf_count(segments: &[PlacedSegment]) -> u64 {
    let trees = |(_, _, segment): &PlacedSegment| {
        units::sum(segment.points.iter().chain(&segment.ranges).map(|tree| tree.leaves))
    };
    units::sum(segments.iter().map(trees))
}

/// The depths of a tree, from its root; `bar` counts its leaves.
pub fn shape(
    pages: &Arc<PageManager>,
    root: &TreeRoot,
    keyspace: Option<u32>,
    promoted: &KeyRanges,
    bar: &ProgressBar,
) -> Vec<Depth> {
    let depths = (0..=root.height).rev().map(|height| Depth { height, ..Depth::default() });
    let leaf_step = (root.leaves / LEAF_SAMPLE).max(1);
    let depths = depths.collect();
    let mut search = Search { pages, root, promoted, depths, leaf_step, leaf_index: 0, bar };
    search.visit(&root.reference, root.height, root.entries, keyspace, &KeyRange::all());
    search.depths
}

impl Search<'_> {
    fn depth(&mut self, height: u8) -> &mut Depth {
        let index = usize::from(self.root.height - height);
        &mut self.depths[index]
    }

    fn visit(
        &mut self,
        reference: &NodeRef,
        height: u8,
        entries: u64,
        keyspace: Option<u32>,
        range: &KeyRange,
    ) {
        if self.promoted.covers(range) {
            self.depth(height).dead += 1;
            return;
        }
        if height == 0 {
            self.leaf(reference, entries);
            return;
        }
        if let Err(error) = self.parent(reference, height, keyspace, range) {
            self.depth(height).fail(&error);
        }
    }

    fn leaf(&mut self, reference: &NodeRef, entries: u64) {
        self.depth(0).add(reference.pages, entries);
        self.leaf_index += 1;
        self.bar.inc(1);
        if !(self.leaf_index - 1).is_multiple_of(self.leaf_step) {
            return;
        }
        match self.pages.read_node_uncached(reference, NodeKind::Leaf) {
            Ok(frame) => self.used(0, reference, frame.header().stored_bytes),
            Err(error) => self.depth(0).fail(&error),
        }
    }

    fn used(&mut self, height: u8, reference: &NodeRef, stored_bytes: u32) {
        let usable = self.pages.layout().usable_bytes() as u64 * u64::from(reference.pages);
        let depth = self.depth(height);
        depth.usable_bytes += usable;
        depth.used_bytes += u64::from(stored_bytes) + sapwood::page::NODE_HEADER_BYTES as u64;
    }

    fn parent(
        &mut self,
        reference: &NodeRef,
        height: u8,
        keyspace: Option<u32>,
        range: &KeyRange,
    ) -> sapwood::Result<()> {
        // The number cannot be named here, but the node's own header says it too.
        let frame = self.pages.read_node_uncached(reference, NodeKind::Parent)?;
        let named = frame.header().keyspace;
        if named.0 != keyspace.unwrap_or(u32::MAX) {
            let detail = format!("it is of keyspace {named}");
            let damage = sapwood::Corruption::new(sapwood::Structure::Parent, detail);
            return Err(damage.at_page(reference.page).into());
        }
        let node = read_parent_at(self.pages, reference, named, height, range)?;
        let parent = node.view();
        self.used(height, reference, frame.header().stored_bytes);
        let depth = self.depth(height);
        depth.add(reference.pages, parent.len() as u64);
        for list in [parent.pieces(), parent.overflow_lists()] {
            let pages = (0..list.len()).filter_map(|index| list.get(index).ok());
            depth.sidecar_pages += pages.map(|piece| u64::from(piece.pages)).sum::<u64>();
        }
        for index in 0..parent.len() {
            let child = parent.child(index).map_err(|problem| node.damage(problem))?;
            let below = child_range(&node, index, range)?;
            self.depth(height).separator_bytes += below.start.len() as u64;
            self.visit(&child.reference, height - 1, child.entries, keyspace, &below);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a damaged file says of its nodes' children made the sum overflow.
    #[test]
    fn children_are_summed_up_whatever_a_file_says_of_them() {
        let mut depth = Depth::default();
        for children in [7, u64::MAX, u64::MAX - 1] {
            depth.add(1, children);
        }
        assert_eq!((depth.nodes, depth.pages, depth.children), (3, 3, u64::MAX));
        assert_eq!((depth.children_min, depth.children_max), (7, u64::MAX));
    }
}
