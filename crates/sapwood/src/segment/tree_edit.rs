//! Replaces lowest parents of a tree and rebuilds the path above them, in memory.
//!
//! *Assumes*: the replaced range begins and ends at separators of lowest parents.
//! *Guarantees*: all leaves stay at one depth; no upper parent has one child (a root gives way to
//! it); an upper parent under a third full takes a neighbour's children in, whoever's child that
//! is. Nodes made here are unwritten.
//!
//! *Format*: docs/format.md, section 4.2. *Threads*: under the install lock, one tree at a time.

use std::collections::VecDeque;

use super::BlockProblem;
use super::descriptor::TreeRoot;
use super::key_range::{compare_ends, is_before_end};
use super::node::{ParentNode, read_parent};
use super::parent::{Below, Child, ParentBuilder, UPPER_CHILDREN_MAX};
use super::parent_writer::{Lowest, ParentEntry, even_groups, is_under_third, parent_spec};
use crate::error::{Result, Structure};
use crate::page::{Block, NodeRef, PageManager};
use crate::types::{Epoch, KeyspaceNumber};

#[cfg(test)]
mod tests;

/// What an edit did to the upper parents of a tree. Leaves and lowest parents are the caller's.
#[derive(Debug, Default)]
pub struct TreeChange {
    /// The new root; `None` when nothing is left.
    pub root: Option<TreeRoot>,
    /// Upper parents that the new tree does not use, with their births.
    pub died: Vec<(Block, Epoch)>,
    /// Upper parents that the new tree uses and the old one did not.
    pub born: Vec<Block>,
}

/// "The lowest parents whose separators lie from `start` to before `end` are replaced by these."
#[derive(Debug)]
pub struct Replacement {
    /// The separator of the first one that goes.
    pub start: Vec<u8>,
    /// The separator of the first one behind that stays; `None`: all go.
    pub end: Option<Vec<u8>>,
    /// What comes in their place.
    pub new: Vec<ParentEntry>,
}

/// Edits one tree at one install.
#[derive(Debug)]
pub struct TreeEdit<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    /// The epoch of the install.
    epoch: Epoch,
    change: TreeChange,
}

impl<'a> TreeEdit<'a> {
    /// An edit of a tree of `keyspace`, installed with `epoch`.
    pub fn new(pages: &'a PageManager, keyspace: KeyspaceNumber, epoch: Epoch) -> TreeEdit<'a> {
        TreeEdit { pages, keyspace, epoch, change: TreeChange::default() }
    }

    /// Makes a tree of what a step wrote.
    ///
    /// # Errors
    /// When no page can be had for an upper parent.
    pub fn build(self, lowest: Lowest) -> Result<TreeChange> {
        match lowest {
            Lowest::Leaf(leaf) => {
                let child = Child { filter: None, ..leaf.child };
                self.finish(vec![ParentEntry { separator: leaf.separator, child }], 0)
            }
            Lowest::Parents(parents) => self.finish(parents, 1),
        }
    }

    /// Makes several replacements, which ascend and lie apart from one another. Those below one
    /// upper parent are made in one go.
    ///
    /// # Errors
    /// As [`TreeEdit::replace`].
    pub fn replace_all(
        mut self,
        root: &TreeRoot,
        replacements: Vec<Replacement>,
    ) -> Result<TreeChange> {
        let mut root = root.clone();
        let mut rest: VecDeque<Replacement> = replacements.into();
        while let Some(next) = rest.pop_front() {
            let result = self.joined(&root, next, &mut rest);
            let next = self.or_undo(result)?;
            let (pages, keyspace, epoch) = (self.pages, self.keyspace, self.epoch);
            let edit = TreeEdit { pages, keyspace, epoch, change: self.change };
            let change = edit.replace(&root, &next.start, next.end.as_deref(), next.new)?;
            match &change.root {
                Some(made) if !rest.is_empty() => root = made.clone(),
                _ => return Ok(change),
            }
            self = TreeEdit { pages, keyspace, epoch, change };
        }
        Ok(self.change)
    }

    /// A replacement with those that follow below the same upper parent, and what lies between.
    fn joined(
        &self,
        root: &TreeRoot,
        first: Replacement,
        rest: &mut VecDeque<Replacement>,
    ) -> Result<Replacement> {
        let (mut reference, mut birth) = (root.reference, root.birth);
        let mut above: Option<Vec<u8>> = None;
        for height in (3..=root.height).rev() {
            let node = read_parent(self.pages, &reference, self.keyspace, height)?;
            let entries = entries_of(&node, birth)?;
            let after = entries.partition_point(|entry| entry.separator <= first.start);
            above = entries.get(after).map(|entry| entry.separator.clone()).or(above);
            let Some(entry) = entries.get(after.saturating_sub(1)) else { return Ok(first) };
            (reference, birth) = (entry.child.reference, entry.child.birth.unwrap_or(birth));
        }
        let is_inside =
            |one: &Replacement| compare_ends(one.end.as_deref(), above.as_deref()).is_le();
        if root.height < 2 || !is_inside(&first) || !rest.front().is_some_and(is_inside) {
            return Ok(first);
        }
        let node = read_parent(self.pages, &reference, self.keyspace, 2)?;
        let entries = entries_of(&node, birth)?;
        let mut all = first;
        while let Some(next) = rest.pop_front_if(|next| is_inside(next)) {
            let stay = entries.iter().filter(|entry| {
                !is_before_end(&entry.separator, all.end.as_deref()) && entry.separator < next.start
            });
            all.new.extend(stay.cloned());
            all.new.extend(next.new);
            all.end = next.end;
        }
        Ok(all)
    }

    /// Replaces the lowest parents of `root` whose separators lie from `start` to before `end`.
    ///
    /// # Errors
    /// When an upper parent cannot be read, or no page can be had for one. What was allotted is
    /// then given back.
    pub fn replace(
        mut self,
        root: &TreeRoot,
        start: &[u8],
        end: Option<&[u8]>,
        new: Vec<ParentEntry>,
    ) -> Result<TreeChange> {
        if root.height < 2 {
            // Others have taken away all but this one lowest parent since the step was planned.
            return self.build(Lowest::Parents(new));
        }
        let result = self.edited_children(root, start, end, new);
        let children = self.or_undo(result)?;
        self.finish(children, root.height - 1)
    }

    /// Replaces all lowest parents of `root`.
    ///
    /// # Errors
    /// As [`TreeEdit::replace`].
    pub fn rebuild(mut self, root: &TreeRoot, lowest: Lowest) -> Result<TreeChange> {
        if root.height < 2 {
            return self.build(lowest);
        }
        let mut parents = self.open(&root.reference, root.birth, root.height)?;
        for height in (2..root.height).rev() {
            let mut below = Vec::new();
            for parent in &parents {
                below.extend(self.open_entry(parent, root.birth, height)?);
            }
            parents = below;
        }
        self.build(lowest)
    }

    fn or_undo<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            for block in &self.change.born {
                self.pages.free(*block);
            }
        }
        result
    }

    /// The children of the root after the edit. All nodes on the path die.
    fn edited_children(
        &mut self,
        root: &TreeRoot,
        start: &[u8],
        end: Option<&[u8]>,
        new: Vec<ParentEntry>,
    ) -> Result<Vec<ParentEntry>> {
        let mut path = self.open_path(root, start, end)?;
        let mut new = new;
        for depth in (0..path.len()).rev() {
            let row = &mut path[depth];
            row.children.splice(row.first..row.last, new);
            if depth == 0 {
                break;
            }
            // Too few for a parent of their own: a neighbour's children come in.
            while is_too_small(&path[depth].children) && self.take_neighbour(&mut path, depth)? {}
            let row = &mut path[depth];
            new = self.pack(std::mem::take(&mut row.children), row.height)?;
        }
        Ok(path.swap_remove(0).children)
    }

    /// The nodes that hold the range, one row for each height down to 2.
    fn open_path(&mut self, root: &TreeRoot, start: &[u8], end: Option<&[u8]>) -> Result<Vec<Row>> {
        let mut height = root.height;
        let mut children = self.open(&root.reference, root.birth, height)?;
        let mut path = Vec::with_capacity(usize::from(height));
        loop {
            let last = children.partition_point(|child| is_before_end(&child.separator, end));
            if height == 2 {
                let first = children.partition_point(|child| child.separator.as_slice() < start);
                path.push(Row { height, children, first, last: last.max(first) });
                return Ok(path);
            }
            // The children that hold some of the range; the one before holds the start.
            let after_start = children.partition_point(|child| child.separator.as_slice() <= start);
            let first = after_start.saturating_sub(1);
            let last = last.max(first + 1);
            let mut below = Vec::new();
            for child in children.get(first..last).unwrap_or_default() {
                below.extend(self.open_entry(child, root.birth, height - 1)?);
            }
            path.push(Row { height, children, first, last });
            (height, children) = (height - 1, below);
        }
    }

    /// Takes the node beside those of a row in; false when there is none.
    fn take_neighbour(&mut self, path: &mut [Row], depth: usize) -> Result<bool> {
        let (above, here) = path.split_at_mut(depth);
        let (Some(up), Some(row)) = (above.last_mut(), here.first_mut()) else { return Ok(false) };
        if let Some(entry) = up.children.get(up.last) {
            row.children.extend(self.open_entry(entry, Epoch(0), row.height)?);
            up.last += 1;
            return Ok(true);
        }
        if let Some(before) = up.first.checked_sub(1)
            && let Some(entry) = up.children.get(before)
        {
            row.prepend(self.open_entry(entry, Epoch(0), row.height)?);
            up.first = before;
            return Ok(true);
        }
        // The neighbour is another parent's child.
        if !self.take_neighbour(path, depth - 1)? {
            return Ok(false);
        }
        self.take_neighbour(path, depth)
    }

    fn open_entry(
        &mut self,
        entry: &ParentEntry,
        birth: Epoch,
        height: u8,
    ) -> Result<Vec<ParentEntry>> {
        // Births are spelled out.
        self.open(&entry.child.reference, entry.child.birth.unwrap_or(birth), height)
    }

    /// The children of an upper parent, which dies.
    fn open(&mut self, reference: &NodeRef, birth: Epoch, height: u8) -> Result<Vec<ParentEntry>> {
        let node = read_parent(self.pages, reference, self.keyspace, height)?;
        self.retire(reference.block(), birth);
        entries_of(&node, birth)
    }

    /// A node is not used any more; one that this edit has made itself is free at once.
    fn retire(&mut self, block: Block, birth: Epoch) {
        let own = match birth == self.epoch {
            true => self.change.born.iter().position(|born| *born == block),
            false => None,
        };
        match own {
            Some(index) => {
                self.change.born.swap_remove(index);
                self.pages.free(block);
            }
            None => self.change.died.push((block, birth)),
        }
    }

    fn read_child(&self, entry: &ParentEntry, height: u8) -> Result<ParentNode> {
        read_parent(self.pages, &entry.child.reference, self.keyspace, height)
    }

    /// Puts children under as few upper parents of `height` as hold them.
    fn pack(&mut self, children: Vec<ParentEntry>, height: u8) -> Result<Vec<ParentEntry>> {
        if children.is_empty() {
            return Ok(Vec::new());
        }
        let lengths: Vec<usize> = children.iter().map(|child| child.separator.len()).collect();
        let mut rest = children.as_slice();
        let mut parents = Vec::new();
        for count in even_groups(&lengths, UPPER_CHILDREN_MAX) {
            let (group, others) = rest.split_at(count);
            parents.push(self.make_parent(group, height)?);
            rest = others;
        }
        Ok(parents)
    }

    fn make_parent(&mut self, children: &[ParentEntry], height: u8) -> Result<ParentEntry> {
        // What was read may belong to other places than the one that it was read for.
        if !children.is_sorted_by(|a, b| a.separator < b.separator) {
            let problem = BlockProblem("parents of one tree hold the same keys");
            return Err(problem.corruption(Structure::Parent).into());
        }
        let mut builder = ParentBuilder::new(height);
        for entry in children {
            builder.push(&entry.separator, &entry.child);
        }
        let mut content = Vec::new();
        let info = builder.finish(&mut content).map_err(|p| p.corruption(Structure::Parent))?;
        let spec = parent_spec(height, self.keyspace, info.wide);
        let reference = self.pages.put_unwritten(&spec, &content)?;
        self.change.born.push(reference.block());
        let sum = |part: fn(&Child) -> u64| {
            let parts = children.iter().map(|entry| part(&entry.child));
            parts.fold(0, u64::saturating_add)
        };
        Ok(ParentEntry {
            separator: children.first().map(|entry| entry.separator.clone()).unwrap_or_default(),
            child: Child {
                reference,
                entries: sum(|child| child.entries),
                tombstones: sum(|child| child.tombstones),
                birth: None,
                below: Below::Parent {
                    pages: sum(pages_with_itself),
                    leaves: sum(leaves_below),
                    overflow: children.iter().any(|entry| entry.child.has_overflow()),
                },
                filter: None,
                dictionary: None,
                unused: 0,
            },
        })
    }

    /// Builds the levels above `children`, which have `height`.
    fn finish(mut self, mut children: Vec<ParentEntry>, mut height: u8) -> Result<TreeChange> {
        while children.len() > 1 {
            height += 1;
            let result = self.pack(children, height);
            children = self.or_undo(result)?;
        }
        match children.pop() {
            None => Ok(self.change),
            Some(root) => self.finish_with_root(root, height),
        }
    }

    fn finish_with_root(mut self, mut root: ParentEntry, mut height: u8) -> Result<TreeChange> {
        // A root with an only child gives way to it. Lowest parents never have one.
        while height >= 2 {
            let result = self.read_child(&root, height);
            let node = self.or_undo(result)?;
            if node.view().len() > 1 {
                break;
            }
            let birth = root.child.birth.unwrap_or(self.epoch);
            let block = node.reference().block();
            self.retire(block, birth);
            let result = entries_of(&node, birth);
            match self.or_undo(result)?.pop() {
                Some(child) => root = child,
                None => break,
            }
            height -= 1;
        }
        Ok(self.finish_at(root, height))
    }

    fn finish_at(mut self, root: ParentEntry, height: u8) -> TreeChange {
        self.change.root = Some(TreeRoot {
            reference: root.child.reference,
            height,
            birth: root.child.birth.unwrap_or(self.epoch),
            entries: root.child.entries,
            tombstones: root.child.tombstones,
            pages: pages_with_itself(&root.child),
            leaves: leaves_below(&root.child),
        });
        self.change
    }
}

/// Upper parents of one height, side by side, that are made anew.
#[derive(Debug)]
struct Row {
    height: u8,
    /// The children of all of them.
    children: Vec<ParentEntry>,
    /// Those of the children that are made anew themselves.
    first: usize,
    last: usize,
}

impl Row {
    fn prepend(&mut self, children: Vec<ParentEntry>) {
        self.first += children.len();
        self.last += children.len();
        self.children.splice(0..0, children);
    }
}

fn is_too_small(children: &[ParentEntry]) -> bool {
    let lengths = children.iter().map(|child| child.separator.len());
    !children.is_empty() && is_under_third(lengths, UPPER_CHILDREN_MAX)
}

/// The pages of everything below a child, its overflow values included.
pub fn pages_below(child: &Child) -> u64 {
    match child.below {
        Below::Leaf { overflow_pages } => overflow_pages,
        Below::Parent { pages, .. } => pages,
    }
}

/// The same, with its own. What comes from a file may be any number.
fn pages_with_itself(child: &Child) -> u64 {
    u64::from(child.reference.pages).saturating_add(pages_below(child))
}

/// The leaves below a child; a leaf counts itself.
pub fn leaves_below(child: &Child) -> u64 {
    match child.below {
        Below::Leaf { .. } => 1,
        Below::Parent { leaves, .. } => leaves,
    }
}

/// The children of a parent born in `birth`, each with its own birth spelled out.
pub fn entries_of(node: &ParentNode, birth: Epoch) -> Result<Vec<ParentEntry>> {
    let parent = node.view();
    let mut entries = Vec::with_capacity(parent.len());
    for index in 0..parent.len() {
        let mut separator = Vec::new();
        parent.separator(index, &mut separator).map_err(|p| node.damage(p))?;
        let mut child = parent.child(index).map_err(|p| node.damage(p))?;
        child.birth = Some(child.birth.unwrap_or(birth));
        entries.push(ParentEntry { separator, child });
    }
    Ok(entries)
}
