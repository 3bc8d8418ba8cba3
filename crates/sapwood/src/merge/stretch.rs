//! A stretch of a level's tree: whole lowest parents, taken apart into their leaves.
//!
//! *Guarantees*: what is taken apart is complete: each leaf brings its filter and its overflow
//! values, so that it can be referenced again without being read. What is taken up so is bounded
//! by the pages that were asked for, since a parent with more below it than is said of it above is
//! damage, and by those of the file.

use crate::error::{Error, Result, Structure};
use crate::page::{ALLOCATION_BYTES, Block, NodeRef, PageManager};
use crate::segment::BlockProblem;
use crate::segment::coverage::{child_range, push_sidecar_blocks};
use crate::segment::descriptor::TreeRoot;
use crate::segment::filter::LINE_BYTES;
use crate::segment::key_range::{KeyRange, KeyRanges, is_before_end};
use crate::segment::leaf_writer::LeafOverflow;
use crate::segment::node::{ParentNode, read_parent_at};
use crate::segment::parent::{Below, Child};
use crate::segment::parent_writer::LeafEntry;
use crate::segment::segment_filter::{outside_piece, read_piece};
use crate::segment::tree_edit::pages_below;
use crate::state::dead_list::Dead;
use crate::types::{Epoch, KeyspaceNumber};

/// What the blocks of a value of its own take, in bytes, about: most lie in one or two.
const VALUE_BYTES: usize = 2 * size_of::<Block>() + ALLOCATION_BYTES;

/// Whole lowest parents of one tree, in order.
#[derive(Debug)]
pub struct Stretch {
    /// From the first parent's separator to the next one behind the last.
    pub range: KeyRange,
    /// It is the whole tree.
    pub whole: bool,
    /// The leaves; births are spelled out.
    pub leaves: Vec<LeafEntry>,
    /// The parents and their sidecars: dead once they are replaced.
    pub died: Vec<Dead>,
    /// The tree is one leaf, without a parent: it has no filter and no list, so it must be
    /// rewritten.
    pub lone_leaf: bool,
}

impl Stretch {
    /// What it takes in memory, in bytes, about.
    pub fn memory_bytes(&self) -> u64 {
        let leaf = |leaf: &LeafEntry| {
            let of_values = leaf.overflow.len() * (size_of::<LeafOverflow>() + VALUE_BYTES);
            let heap = leaf.separator.len() + leaf.filter.len() + 2 * ALLOCATION_BYTES;
            size_of::<LeafEntry>() + heap + of_values
        };
        let leaves = self.leaves.iter().map(leaf).sum::<usize>();
        (leaves + self.died.len() * size_of::<Dead>()) as u64
    }

    /// Pages of the leaves, and of the parents with their sidecars: what takes their place takes
    /// about as much.
    pub fn pages(&self) -> u64 {
        let leaves = self.leaves.iter().map(|leaf| leaf.child.reference.block());
        pages_of(leaves.chain(self.died.iter().map(|dead| dead.block)))
    }
}

/// A lowest parent on the way down.
#[derive(Debug, PartialEq, Eq)]
pub struct LowestParent {
    reference: NodeRef,
    birth: Epoch,
    /// From its separator to the next parent's.
    pub range: KeyRange,
    pages: u64,
}

struct Collect<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    /// What is asked for.
    wanted: &'a KeyRange,
    /// Collecting ends behind the parent with which this is reached.
    pages_max: u64,
    /// Collecting ends before a parent, but the first, of which this says no.
    goes_on: &'a mut dyn FnMut(&KeyRange) -> Result<bool>,
    has_ended: bool,
    collected: u64,
    parents: Vec<LowestParent>,
}

impl Collect<'_> {
    fn visit(&mut self, child: &Child, height: u8, birth: Epoch, range: KeyRange) -> Result<()> {
        if !range.overlaps(self.wanted) && !(range.contains(&self.wanted.start)) {
            return Ok(());
        }
        if self.has_ended || self.collected >= self.pages_max && !self.parents.is_empty() {
            return Ok(());
        }
        let reference = child.reference;
        if height == 1 {
            if !self.parents.is_empty() && !(self.goes_on)(&range)? {
                self.has_ended = true;
                return Ok(());
            }
            // Each is read whole, also one of which is said that nothing lies below.
            let pages = pages_below(child).max(u64::from(reference.pages));
            self.collected = self.collected.saturating_add(pages);
            self.parents.push(LowestParent { reference, birth, range, pages });
            return Ok(());
        }
        let node = read_parent_at(self.pages, &reference, self.keyspace, height, &range)?;
        let parent = node.view();
        // Children that end before the range are passed without being decoded.
        let first = parent.child_for(&self.wanted.start);
        for index in first..parent.len() {
            let below = child_range(&node, index, &range)?;
            if !is_before_end(&below.start, self.wanted.end.as_deref()) && index > first {
                break;
            }
            let child = parent.child(index).map_err(|p| node.damage(p))?;
            let child_birth = child.birth.unwrap_or(birth);
            self.visit(&child, height - 1, child_birth, below)?;
        }
        Ok(())
    }
}

/// The lowest parents of a tree that hold keys of `wanted`, from its start on: as many as it takes
/// to have `pages_max` pages below them, or up to one that `goes_on` does not want; at least one.
///
/// # Errors
/// When a node cannot be read.
pub fn load_stretch(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    wanted: &KeyRange,
    pages_max: u64,
    goes_on: &mut dyn FnMut(&KeyRange) -> Result<bool>,
) -> Result<Stretch> {
    let child = child_of_root(root);
    if root.height == 0 {
        let separator = Vec::new();
        let leaf = LeafEntry { separator, child, filter: Vec::new(), overflow: Vec::new() };
        return Ok(Stretch {
            range: KeyRange::all(),
            whole: true,
            leaves: vec![leaf],
            died: Vec::new(),
            lone_leaf: true,
        });
    }
    let mut collect = Collect {
        pages,
        keyspace,
        wanted,
        pages_max,
        goes_on,
        has_ended: false,
        collected: 0,
        parents: Vec::new(),
    };
    collect.visit(&child, root.height, root.birth, KeyRange::all())?;
    let mut stretch = Stretch {
        range: KeyRange::all(),
        whole: root.height == 1,
        leaves: Vec::new(),
        died: Vec::new(),
        lone_leaf: false,
    };
    if let (Some(first), Some(last)) = (collect.parents.first(), collect.parents.last()) {
        stretch.range = KeyRange { start: first.range.start.clone(), end: last.range.end.clone() };
    }
    let mut taken: u64 = 0;
    for parent in &collect.parents {
        let more = take_apart(pages, keyspace, parent, &mut stretch)?;
        taken = taken.saturating_add(more.max(u64::from(parent.reference.pages)));
        if taken > pages.file_pages() {
            return Err(damaged(parent, keyspace, "parents side by side name more than the file"));
        }
    }
    Ok(stretch)
}

fn damaged(parent: &LowestParent, keyspace: KeyspaceNumber, says: &'static str) -> Error {
    let damage = BlockProblem(says).corruption(Structure::Parent).at_page(parent.reference.page);
    damage.in_keyspace(keyspace).into()
}

fn child_of_root(root: &TreeRoot) -> Child {
    let below = match root.height {
        0 => Below::Leaf {
            overflow_pages: root.pages.saturating_sub(u64::from(root.reference.pages)),
        },
        _ => Below::Parent {
            pages: root.pages.saturating_sub(u64::from(root.reference.pages)),
            leaves: root.leaves,
            overflow: true,
        },
    };
    Child {
        reference: root.reference,
        entries: root.entries,
        tombstones: root.tombstones,
        birth: Some(root.birth),
        below,
        filter: None,
        dictionary: None,
        unused: 0,
    }
}

/// Adds a parent's leaves to a stretch; returns the pages below the parent, those beside it
/// included.
fn take_apart(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    parent: &LowestParent,
    stretch: &mut Stretch,
) -> Result<u64> {
    let node = read_parent_at(pages, &parent.reference, keyspace, 1, &parent.range)?;
    stretch.died.push(Dead::node(parent.reference.block(), parent.birth));
    let mut beside = Vec::new();
    push_sidecar_blocks(&node, parent.birth, &mut beside)?;
    let mut below = pages_of(beside.iter().map(|(block, _)| *block));
    stretch.died.extend(beside.into_iter().map(|(block, birth)| Dead::node(block, birth)));
    let view = node.view();
    let mut overflow = overflow_of_leaves(pages, &node)?;
    for index in 0..view.len() {
        let mut separator = Vec::new();
        view.separator(index, &mut separator).map_err(|p| node.damage(p))?;
        let child = view.child(index).map_err(|p| node.damage(p))?;
        let filter = filter_of_leaf(pages, keyspace, &node, &child)?;
        let birth = child.birth.unwrap_or(parent.birth);
        let overflow = overflow.get_mut(index).map(std::mem::take).unwrap_or_default();
        let values = overflow.iter().flat_map(|value| value.blocks.iter().copied());
        below = below.saturating_add(pages_of(values.chain([child.reference.block()])));
        // Whoever asked for this parent has counted what is said of it above.
        if below > parent.pages {
            return Err(damaged(parent, keyspace, "it names more pages than is said of it"));
        }
        let child = Child { birth: Some(birth), filter: None, ..child };
        stretch.leaves.push(LeafEntry { separator, child, filter, overflow });
    }
    Ok(below)
}

fn pages_of(blocks: impl Iterator<Item = Block>) -> u64 {
    blocks.map(|block| u64::from(block.pages)).fold(0, u64::saturating_add)
}

fn overflow_of_leaves(pages: &PageManager, node: &ParentNode) -> Result<Vec<Vec<LeafOverflow>>> {
    let mut overflow = vec![Vec::new(); node.view().len()];
    node.visit_overflow(pages, &mut |item| {
        let leaf = overflow.get_mut(item.child_index as usize).ok_or_else(|| {
            node.damage(BlockProblem("an overflow list names a leaf that is not there"))
        })?;
        leaf.push(LeafOverflow { birth: item.birth, blocks: item.blocks });
        Ok(true)
    })?;
    Ok(overflow)
}

fn filter_of_leaf(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    node: &ParentNode,
    child: &Child,
) -> Result<Vec<u8>> {
    let Some(slot) = child.filter else { return Ok(Vec::new()) };
    let frame = read_piece(pages, node, slot, keyspace)?;
    let start = slot.first_line as usize * LINE_BYTES;
    let end = start + slot.lines as usize * LINE_BYTES;
    let lines = frame.content().get(start..end).map(<[u8]>::to_vec);
    lines.ok_or_else(|| outside_piece(&frame, keyspace))
}

/// On which side of a border between two lowest parents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that ends there.
    Before,
    /// The one that begins there.
    Behind,
}

/// The lowest parent beside a border; `None` when there is none, or no border.
///
/// # Errors
/// When a parent cannot be read.
pub fn lowest_beside(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    border: &[u8],
    side: Side,
) -> Result<Option<LowestParent>> {
    if root.height < 2 {
        return Ok(None);
    }
    let (mut reference, mut birth, mut range) = (root.reference, root.birth, KeyRange::all());
    let mut below = 0;
    for height in (2..=root.height).rev() {
        let node = read_parent_at(pages, &reference, keyspace, height, &range)?;
        let mut index = node.view().child_for(border);
        let mut found = child_range(&node, index, &range)?;
        if side == Side::Before && found.start.as_slice() >= border {
            let Some(before) = index.checked_sub(1) else { return Ok(None) };
            index = before;
            found = child_range(&node, index, &range)?;
        }
        let child = node.view().child(index).map_err(|p| node.damage(p))?;
        (reference, birth) = (child.reference, child.birth.unwrap_or(birth));
        (range, below) = (found, pages_below(&child));
    }
    let is_there = match side {
        Side::Before => range.end.as_deref() == Some(border),
        Side::Behind => range.start == border,
    };
    Ok(is_there.then_some(LowestParent { reference, birth, range, pages: below }))
}

impl LowestParent {
    /// Takes it apart.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn into_stretch(self, pages: &PageManager, keyspace: KeyspaceNumber) -> Result<Stretch> {
        let mut stretch = Stretch {
            range: self.range.clone(),
            whole: false,
            leaves: Vec::new(),
            died: Vec::new(),
            lone_leaf: false,
        };
        take_apart(pages, keyspace, &self, &mut stretch)?;
        Ok(stretch)
    }
}

/// What measures a tree from a key on.
struct Measure<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    wanted: &'a KeyRange,
    /// Ranges that hold nothing any more: nodes that lie in them whole are dead.
    masked: &'a KeyRanges,
    left: u64,
    found: Option<Vec<u8>>,
}

/// A key of a tree behind about `pages_max` pages from the start of `wanted` on: the separator at
/// which they are reached; `None` when the range, or the tree, ends before. Nodes in `masked`
/// ranges are neither read nor counted.
///
/// # Errors
/// When a parent cannot be read.
pub fn end_after(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    masked: &KeyRanges,
    wanted: &KeyRange,
    pages_max: u64,
) -> Result<Option<Vec<u8>>> {
    let mut measure = Measure { pages, keyspace, wanted, masked, left: pages_max, found: None };
    measure.visit(&root.reference, root.height, &KeyRange::all())?;
    Ok(measure.found)
}

/// The pages of a tree in a range, about: without what lies in `masked` ranges, and without upper
/// parents.
///
/// # Errors
/// When a parent cannot be read.
pub fn pages_in(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    masked: &KeyRanges,
    wanted: &KeyRange,
) -> Result<u64> {
    if root.height == 0 {
        return Ok(if masked.covers(wanted) { 0 } else { root.pages });
    }
    let left = u64::MAX;
    let mut measure = Measure { pages, keyspace, wanted, masked, left, found: None };
    measure.visit(&root.reference, root.height, &KeyRange::all())?;
    Ok(left - measure.left)
}

impl Measure<'_> {
    fn visit(&mut self, reference: &NodeRef, height: u8, range: &KeyRange) -> Result<()> {
        if height == 0 {
            return Ok(());
        }
        let node = read_parent_at(self.pages, reference, self.keyspace, height, range)?;
        let parent = node.view();
        let first = parent.child_for(&self.wanted.start);
        for index in first..parent.len() {
            let below = child_range(&node, index, range)?;
            if !is_before_end(&below.start, self.wanted.end.as_deref()) {
                return Ok(());
            }
            if self.masked.covers(&below) {
                continue;
            }
            if self.left == 0 && below.start > self.wanted.start {
                self.found = Some(below.start);
                return Ok(());
            }
            let child = parent.child(index).map_err(|p| node.damage(p))?;
            let inside = below.start >= self.wanted.start && !self.masked.overlaps(&below);
            let pages = u64::from(child.reference.pages).saturating_add(pages_below(&child));
            if height > 1 && (pages > self.left || !inside) {
                self.visit(&child.reference, height - 1, &below)?;
                if self.found.is_some() {
                    return Ok(());
                }
            } else {
                self.left = self.left.saturating_sub(pages);
            }
        }
        Ok(())
    }
}
