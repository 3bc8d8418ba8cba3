//! Adds range tombstones to the ranges tree of a level's segment: what they do not touch is neither
//! read nor written.
//!
//! *Assumes*: the tree is that of the moment, and stays until the edit is installed: under the
//! install lock (G3). *Guarantees*: the tree then covers what it covered and what was added, with
//! as few fragments as possible where it was rewritten; I1, for lowest parents too. After an error
//! every block is given back.
//!
//! *Format*: docs/format.md, section 4.3. *Threads*: under the install lock, one tree at a time.

use crate::error::{Result, Structure};
use crate::page::{Block, NodeWriter, PageManager};
use crate::segment::BlockProblem;
use crate::segment::descriptor::TreeRoot;
use crate::segment::key_range::{KeyRange, compare_ends, is_before_end};
use crate::segment::node::{Caching, TreeKind, read_leaf_at};
use crate::segment::parent_writer::{LeafEntry, Lowest};
use crate::segment::range_tombstone::{Fragment, RangeValue, union_ranges};
use crate::segment::segment_writer::SegmentWriter;
use crate::segment::tree_edit::{TreeChange, TreeEdit};
use crate::state::dead_list::Dead;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber};

use super::ranges::{push_fragments, ranges_writer, visit_fragments, write_ranges_tree};
use super::stretch::{Side, Stretch, load_stretch, lowest_beside};

/// What an edit did to a ranges tree.
#[derive(Debug, Default)]
pub struct RangesChange {
    /// Its upper parents, and the new root.
    pub tree: TreeChange,
    /// Leaves and lowest parents that were written.
    pub written: Vec<Block>,
    /// Leaves and lowest parents that the new tree does not use.
    pub died: Vec<Dead>,
}

/// The ranges tree of a level's segment, or that there is none yet.
#[derive(Debug)]
pub struct RangesEdit<'a> {
    /// Where it lies.
    pub pages: &'a Arc<PageManager>,
    /// What its nodes name.
    pub keyspace: KeyspaceNumber,
    /// Bytes of a leaf.
    pub leaf_bytes: usize,
    /// The epoch of the install.
    pub epoch: Epoch,
}

/// The lowest parents of a stretch, written anew.
struct Rewritten {
    lowest: Lowest,
    /// The separators of the lowest parents that go lie in here.
    replaced: KeyRange,
    died: Vec<Dead>,
}

impl RangesEdit<'_> {
    /// Adds fragments, of which there is one at least, in order and without numbers.
    ///
    /// # Errors
    /// When a node cannot be read or written.
    pub fn add(&self, root: Option<&TreeRoot>, fragments: &[Fragment]) -> Result<RangesChange> {
        let mut nodes = NodeWriter::new(self.pages.clone(), 1);
        let rewritten = match root {
            Some(root) => self.rewrite(&mut nodes, root, fragments)?,
            None => Rewritten {
                lowest: write_ranges_tree(
                    &mut nodes,
                    self.keyspace,
                    None,
                    self.leaf_bytes,
                    fragments,
                )?,
                replaced: KeyRange::all(),
                died: Vec::new(),
            },
        };
        let written = nodes.finish()?.blocks;
        let Rewritten { lowest, replaced, died } = rewritten;
        let edit = TreeEdit::new(self.pages, self.keyspace, self.epoch);
        let tree = match (root, lowest) {
            (None, lowest) => edit.build(lowest),
            (Some(root), Lowest::Parents(new)) if replaced != KeyRange::all() => {
                edit.replace(root, &replaced.start, replaced.end.as_deref(), new)
            }
            (Some(root), lowest) => edit.rebuild(root, lowest),
        };
        match tree {
            Ok(tree) => Ok(RangesChange { tree, written, died }),
            Err(error) => {
                written.iter().for_each(|block| self.pages.free(*block));
                Err(error)
            }
        }
    }

    fn rewrite(
        &self,
        nodes: &mut NodeWriter,
        root: &TreeRoot,
        fragments: &[Fragment],
    ) -> Result<Rewritten> {
        let window = self.window(root, fragments)?;
        let mut all = |_: &KeyRange| Ok(true);
        let (pages, keyspace) = (self.pages, self.keyspace);
        let stretch = load_stretch(pages, keyspace, root, &window, u64::MAX, &mut all)?;
        let Stretch { range, leaves, mut died, .. } = stretch;
        // Keys below the first separator belong to the first leaf.
        let behind_start = leaves.partition_point(|leaf| leaf.separator <= window.start);
        let first = behind_start.saturating_sub(1);
        let end = window.end.as_deref();
        let last = leaves.partition_point(|leaf| is_before_end(&leaf.separator, end));
        let last = last.max(first + 1).min(leaves.len());
        let mut old = Vec::new();
        for index in first..last {
            let leaf = &leaves[index];
            let start = if index == 0 { range.start.clone() } else { leaf.separator.clone() };
            let next = leaves.get(index + 1).map(|next| next.separator.clone());
            self.read_leaf(leaf, &KeyRange::new(start, next.or(range.end.clone())), &mut old)?;
            let (block, birth) = (leaf.child.reference.block(), leaf.child.birth);
            died.push(Dead::node(block, birth.unwrap_or(root.birth)));
        }
        let mut writer = ranges_writer(keyspace, None, self.leaf_bytes, range.start.clone());
        let Some(touched) = leaves.get(first).map(|leaf| leaf.separator.clone()) else {
            let problem = BlockProblem("a lowest parent has no leaves");
            return Err(problem.corruption(Structure::Parent).in_keyspace(keyspace).into());
        };
        let mut leaves = leaves.into_iter();
        for leaf in leaves.by_ref().take(first) {
            writer.reuse(nodes, leaf)?;
        }
        writer.begin_stretch(nodes, touched)?;
        push_fragments(&mut writer, nodes, None, &union_ranges(&[fragments, &old]))?;
        for leaf in leaves.skip(last - first) {
            writer.reuse(nodes, leaf)?;
        }
        let mut replaced = range;
        if replaced != KeyRange::all() && writer.is_under_third(nodes)? {
            self.take_neighbour(nodes, root, &mut writer, &mut replaced, &mut died)?;
        }
        let lowest = writer.finish(nodes, replaced == KeyRange::all())?;
        Ok(Rewritten { lowest, replaced, died })
    }

    /// Where fragments begin that may be touched: from the first one's start, or that of the one
    /// before when that ends there, to the last one's end.
    fn window(&self, root: &TreeRoot, fragments: &[Fragment]) -> Result<KeyRange> {
        let start = fragments.first().map(|first| first.start.as_slice()).unwrap_or_default();
        let mut window = KeyRange::new(start, Some(start.to_vec()));
        if let Some(last) = fragments.last() {
            // One that begins where the last one ends touches it.
            window.end = last.end.as_ref().map(|end| [end, &[0][..]].concat());
        }
        let place = KeyRange::new(start, Some([start, &[0]].concat()));
        visit_fragments(self.pages, root, self.keyspace, Some(&place), &mut |before| {
            let ends_before = compare_ends(before.end.as_deref(), Some(start)).is_lt();
            if before.start < window.start && !ends_before {
                window.start = before.start;
            }
            false
        })?;
        Ok(window)
    }

    /// Adds what a leaf holds to `fragments`.
    fn read_leaf(
        &self,
        entry: &LeafEntry,
        range: &KeyRange,
        fragments: &mut Vec<Fragment>,
    ) -> Result<()> {
        let (reference, kind, how) = (&entry.child.reference, TreeKind::Ranges, Caching::Pass);
        let leaf = read_leaf_at(self.pages, reference, self.keyspace, kind, how, range)?;
        let block = leaf.view();
        for index in 0..block.len() {
            let mut start = Vec::new();
            block.copy_key(index, &mut start).map_err(|p| leaf.damage(p))?;
            let found = block.entry(index).map_err(|p| leaf.damage(p))?;
            let value = RangeValue::decode(found.value, None).map_err(|p| leaf.damage(p))?;
            let end = value.end.map(<[u8]>::to_vec);
            fragments.push(Fragment { start, end, numbers: Vec::new() });
        }
        Ok(())
    }

    /// Too few leaves for a parent of their own: those of a neighbour come in. No step works on it:
    /// only installs edit the tree.
    fn take_neighbour(
        &self,
        nodes: &mut NodeWriter,
        root: &TreeRoot,
        writer: &mut SegmentWriter,
        replaced: &mut KeyRange,
        died: &mut Vec<Dead>,
    ) -> Result<()> {
        let beside = |border: &[u8], side| match lowest_beside(
            self.pages,
            self.keyspace,
            root,
            border,
            side,
        )? {
            Some(found) => found.into_stretch(self.pages, self.keyspace).map(Some),
            None => Ok(None),
        };
        if let Some(end) = replaced.end.clone()
            && let Some(behind) = beside(&end, Side::Behind)?
        {
            for leaf in behind.leaves {
                writer.reuse(nodes, leaf)?;
            }
            died.extend(behind.died);
            replaced.end = behind.range.end;
        } else if let Some(before) = beside(&replaced.start, Side::Before)? {
            writer.prepend(before.leaves);
            died.extend(before.died);
            replaced.start = before.range.start;
        }
        Ok(())
    }
}
