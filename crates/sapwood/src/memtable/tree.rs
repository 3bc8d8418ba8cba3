//! The tree over the arena: a B+tree that one thread changes while others read it.
//!
//! *Guarantees*: nodes are never freed, moved or merged before the tree is dropped, and entries
//! never leave the tree, so: T1, a leaf's smallest place (its separator) never changes, and is the
//! place of its first entry (of the leftmost leaf: before everything). T2, only a split narrows
//! what a node covers; it holds every node that it changes, from the topmost changed parent down,
//! at an odd version until all are done. T3, every leaf but the first leaf of an empty tree has an
//! entry.
//!
//! Why a reader that restarts on a failed check is right: it takes a child's version *before* it
//! checks that the parent has not changed since the child's number was read. So at the moment of
//! that check no split of the child was under way (T2: the parent would have been odd) and the
//! child covered the target; a later one fails the check of the child. From leaf to leaf it follows
//! `next` as it was at the checked instant: by T1 all that was in between then was in the first
//! leaf.
//! *Threads*: one writer, many readers without locks.

use std::cmp::Ordering as Order;

use super::arena::{Arena, EntryReference};
use super::node::{FANOUT, Inner, Leaf, LeafChunk, NO_NODE, NodeStore, Slot, Target};
use super::pool::ChunkPool;
use super::{KeyspaceNumber, SequenceNumber};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A place that a search asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound<'a> {
    /// The first entry at or after the target.
    AtOrAfter(Target<'a>),
    /// The last entry before the target.
    Before(Target<'a>),
    /// The last entry of all.
    Last,
}

pub(super) struct Tree {
    /// Height above the leaves in the upper half, number of the node in the lower.
    root: AtomicU64,
    inners: NodeStore<Inner>,
    leaves: NodeStore<Leaf>,
    pool: Arc<ChunkPool>,
}

/// What the one writer knows of the tree.
#[derive(Default)]
pub(super) struct TreeWriter {
    inner_count: u32,
    leaf_count: u32,
    /// The inner nodes from the root to the leaf, with the child that was taken in each.
    path: Vec<(u32, usize)>,
    /// Inner nodes that a split is going to use.
    spare: Vec<u32>,
    /// The leaf and the place of the last insert, unless that has split the leaf.
    last: Option<(u32, usize)>,
    /// The last insert came right behind the one before it: so may the next.
    is_ascending: bool,
}

/// A leaf as it was at one instant.
pub(super) struct LeafCopy {
    pub(super) slots: Vec<Slot>,
    next: u32,
    sequence_bound: SequenceNumber,
}

impl LeafCopy {
    pub(super) fn new() -> LeafCopy {
        let slots = Vec::with_capacity(FANOUT);
        LeafCopy { slots, next: NO_NODE, sequence_bound: SequenceNumber(0) }
    }

    /// Copies the leaf; what it holds is torn until the leaf's version has been checked.
    fn fill(&mut self, leaf: &Leaf) {
        self.slots.clear();
        self.slots.extend((0..leaf.slots.count()).map(|index| leaf.slots.load(index)));
        self.next = leaf.next.load(Ordering::Relaxed);
        self.sequence_bound = SequenceNumber(leaf.sequence_bound.load(Ordering::Relaxed));
    }
}

fn pack(height: u32, index: u32) -> u64 {
    u64::from(height) << 32 | u64::from(index)
}

fn unpack(root: u64) -> (u32, u32) {
    ((root >> 32) as u32, root as u32)
}

impl Tree {
    pub(super) fn new(pool: Arc<ChunkPool>) -> (Tree, TreeWriter) {
        let mut writer = TreeWriter::default();
        let leaves = NodeStore::new();
        let root = leaves.allocate(&mut writer.leaf_count, || None);
        let root = AtomicU64::new(pack(0, root));
        (Tree { root, inners: NodeStore::new(), leaves, pool }, writer)
    }

    /// The memory of all nodes.
    pub(super) fn held_bytes(&self) -> usize {
        self.inners.held_bytes() + self.leaves.held_bytes()
    }

    /// The version at or after the target, if it is of the target's key.
    #[inline]
    pub(super) fn get(&self, target: &Target<'_>, arena: &Arena) -> Option<EntryReference> {
        let bound = Bound::AtOrAfter(*target);
        let slot = loop {
            let Some((leaf, version)) = self.find_leaf(&bound, arena) else {
                continue;
            };
            let Some((index, _)) = leaf.slots.search(0, target, arena) else {
                continue;
            };
            let slot = (index < leaf.slots.count()).then(|| leaf.slots.load(index));
            let next = leaf.next.load(Ordering::Relaxed);
            if leaf.version.unchanged(version) {
                break slot.or_else(|| self.first_slot(next));
            }
        }?;
        if slot.head != target.head {
            return None;
        }
        let entry = arena.entry(slot.entry)?;
        (entry.key == target.key).then_some(slot.entry)
    }

    /// The first slot of a leaf that is linked.
    fn first_slot(&self, index: u32) -> Option<Slot> {
        let leaf = self.leaves.get(index)?;
        loop {
            let version = leaf.version.begin_read();
            let slot = leaf.slots.load(0);
            if leaf.version.unchanged(version) {
                return Some(slot);
            }
        }
    }

    /// Copies the leaf in which `bound` lies and gives the index of its place there. It is the
    /// number of slots when the place is the first of the next leaf, and nothing when no entry lies
    /// before the bound.
    pub(super) fn copy(
        &self,
        bound: &Bound<'_>,
        arena: &Arena,
        copy: &mut LeafCopy,
    ) -> Option<usize> {
        loop {
            let Some((leaf, version)) = self.find_leaf(bound, arena) else {
                continue;
            };
            copy.fill(leaf);
            if !leaf.version.unchanged(version) {
                continue;
            }
            let before = |target: &Target<'_>| {
                copy.slots.partition_point(|&slot| {
                    // A checked slot is never torn.
                    target.compare(slot, arena) == Some(Order::Less)
                })
            };
            return match bound {
                Bound::AtOrAfter(target) => Some(before(target)),
                Bound::Before(target) => before(target).checked_sub(1),
                Bound::Last => copy.slots.len().checked_sub(1),
            };
        }
    }

    /// Copies the leaf to the right of `copy` over it; false, and no change, when there is none.
    pub(super) fn copy_next(&self, copy: &mut LeafCopy) -> bool {
        let Some(leaf) = self.leaves.get(copy.next) else {
            return false;
        };
        loop {
            let version = leaf.version.begin_read();
            copy.fill(leaf);
            if leaf.version.unchanged(version) {
                return true;
            }
        }
    }

    /// True when an entry in `[start, end)` has a number above `after`. Leaves that cannot hold one
    /// are passed without a look at their entries.
    pub(super) fn changed_since(
        &self,
        keyspace: KeyspaceNumber,
        (start, end): (&[u8], Option<&[u8]>),
        after: SequenceNumber,
        arena: &Arena,
    ) -> bool {
        let start = Target::new(keyspace, start, SequenceNumber::MAX);
        let end = end.map(|end| Target::new(keyspace, end, SequenceNumber::MAX));
        let inside = |slot: Slot| match &end {
            Some(end) => end.compare(slot, arena) == Some(Order::Less),
            None => slot.head.keyspace() == keyspace,
        };
        let mut copy = LeafCopy::new();
        let mut index = self.copy(&Bound::AtOrAfter(start), arena, &mut copy).unwrap_or_default();
        loop {
            let slots = copy.slots.get(index..).unwrap_or_default();
            if copy.sequence_bound > after {
                let newer = |slot: &Slot| {
                    arena.entry(slot.entry).is_some_and(|entry| entry.sequence > after)
                };
                if slots.iter().take_while(|slot| inside(**slot)).any(newer) {
                    return true;
                }
            }
            let ended = slots.last().is_some_and(|slot| !inside(*slot));
            if ended || !self.copy_next(&mut copy) {
                return false;
            }
            index = 0;
        }
    }

    /// The leaf in which `bound` lies, and its version; nothing when the writer came between.
    #[inline]
    fn find_leaf(&self, bound: &Bound<'_>, arena: &Arena) -> Option<(&Leaf, u64)> {
        let root = self.root.load(Ordering::Acquire);
        let (mut height, mut index) = unpack(root);
        let mut parent: Option<(&Inner, u64)> = None;
        let still_covers = |parent: Option<(&Inner, u64)>| match parent {
            Some((parent, version)) => parent.version.unchanged(version),
            // Acquire in `begin_read`: whoever saw the old root after its split sees the new root.
            None => self.root.load(Ordering::Acquire) == root,
        };
        while height > 0 {
            let inner = self.inners.get(index)?;
            let version = inner.version.begin_read();
            if !still_covers(parent) {
                return None;
            }
            index = inner.child(child_index(inner, bound, arena)?);
            parent = Some((inner, version));
            height -= 1;
        }
        let leaf = self.leaves.get(index)?;
        let version = leaf.version.begin_read();
        still_covers(parent).then_some((leaf, version))
    }

    /// Inserts a slot, or lets it take the place of one that is equal. True when it is one more.
    pub(super) fn insert(
        &self,
        writer: &mut TreeWriter,
        arena: &Arena,
        target: &Target<'_>,
        entry: EntryReference,
    ) -> bool {
        let slot = Slot { head: target.head, entry };
        if let Some((index, place)) = writer.last.filter(|_| writer.is_ascending) {
            writer.is_ascending = self.insert_behind((index, place), arena, target, slot);
            if writer.is_ascending {
                writer.last = Some((index, place + 1));
                return true;
            }
        }
        let bound = Bound::AtOrAfter(*target);
        let (mut height, mut index) = unpack(self.root.load(Ordering::Relaxed));
        writer.path.clear();
        // The writer alone changes nodes, so nothing that it reads is torn or missing.
        while height > 0
            && let Some(inner) = self.inners.get(index)
            && let Some(child) = child_index(inner, &bound, arena)
        {
            writer.path.push((index, child));
            index = inner.child(child);
            height -= 1;
        }
        let Some(leaf) = self.leaves.get(index) else {
            return false;
        };
        let Some((place, equal)) = leaf.slots.search(0, target, arena) else {
            return false;
        };
        if !equal && leaf.slots.is_full() {
            self.split(writer, leaf, place, slot, target.sequence);
            (writer.last, writer.is_ascending) = (None, false);
            return true;
        }
        writer.is_ascending = place > 0 && writer.last == Some((index, place - 1));
        writer.last = Some((index, place));
        leaf.version.begin_write();
        if equal {
            leaf.slots.store(place, slot);
        } else {
            leaf.insert(place, slot, target.sequence);
        }
        leaf.version.end_write();
        !equal
    }

    /// Inserts a slot right behind a place of a leaf, if that is where it belongs and there is
    /// room. So ascending keys are spared the way from the root.
    fn insert_behind(
        &self,
        (index, place): (u32, usize),
        arena: &Arena,
        target: &Target<'_>,
        slot: Slot,
    ) -> bool {
        let Some(leaf) = self.leaves.get(index) else { return false };
        let count = leaf.slots.count();
        let is = |slot: Slot, order: Order| target.compare(slot, arena) == Some(order);
        if leaf.slots.is_full() || place >= count || !is(leaf.slots.load(place), Order::Less) {
            return false;
        }
        let behind = match place + 1 < count {
            true => Some(leaf.slots.load(place + 1)),
            // By T1 and T3 the first slot of the leaf to the right ends what this one covers.
            false => {
                let right = self.leaves.get(leaf.next.load(Ordering::Relaxed));
                right.map(|right| right.slots.load(0))
            }
        };
        if behind.is_some_and(|behind| !is(behind, Order::Greater)) {
            return false;
        }
        leaf.version.begin_write();
        leaf.insert(place + 1, slot, target.sequence);
        leaf.version.end_write();
        true
    }

    /// Splits a full leaf, and every full node above it, to insert a slot.
    fn split(
        &self,
        writer: &mut TreeWriter,
        leaf: &Leaf,
        place: usize,
        slot: Slot,
        sequence: SequenceNumber,
    ) {
        // The nodes that change, bottom up: full ones, and one with room unless the root is full.
        let mut changed: Vec<(&Inner, usize)> = Vec::with_capacity(writer.path.len());
        let mut root_grows = true;
        for (index, child) in writer.path.iter().rev() {
            let Some(inner) = self.inners.get(*index) else {
                return;
            };
            changed.push((inner, *child));
            if !inner.slots.is_full() {
                root_grows = false;
                break;
            }
        }
        // Allocated before any node is odd: readers wait for odd nodes.
        let right_index = self.leaves.allocate(&mut writer.leaf_count, || self.pool.take_leaves());
        let Some(right) = self.leaves.get(right_index) else {
            return;
        };
        while writer.spare.len() <= changed.len() {
            writer.spare.push(self.inners.allocate(&mut writer.inner_count, || None));
        }

        changed.iter().rev().for_each(|(inner, _)| inner.version.begin_write());
        leaf.version.begin_write();
        leaf.split((right_index, right), place, slot, sequence);
        let mut separator = right.slots.load(0);
        let mut child = right_index;
        for (inner, taken) in &changed {
            if !inner.slots.is_full() {
                inner.insert(taken + 1, separator, child);
                break;
            }
            let Some((right_index, right)) = self.spare(writer) else {
                break;
            };
            inner.split(right, taken + 1, separator, child);
            (separator, child) = (right.slots.load(0), right_index);
        }
        if root_grows && let Some((root_index, root)) = self.spare(writer) {
            let (height, old_root) = unpack(self.root.load(Ordering::Relaxed));
            root.adopt(old_root, separator, child);
            self.root.store(pack(height + 1, root_index), Ordering::Release);
        }
        leaf.version.end_write();
        changed.iter().for_each(|(inner, _)| inner.version.end_write());
    }

    fn spare(&self, writer: &mut TreeWriter) -> Option<(u32, &Inner)> {
        let index = writer.spare.pop()?;
        Some((index, self.inners.get(index)?))
    }
}

/// The child of an inner node in which `bound` lies; nothing when a slot is torn.
#[inline]
fn child_index(inner: &Inner, bound: &Bound<'_>, arena: &Arena) -> Option<usize> {
    let after = match bound {
        // An entry at a separator lies to the right of it, what is before it to the left.
        Bound::AtOrAfter(target) => {
            let (index, equal) = inner.slots.search(1, target, arena)?;
            index + usize::from(equal)
        }
        Bound::Before(target) => inner.slots.search(1, target, arena)?.0,
        Bound::Last => inner.slots.count(),
    };
    after.checked_sub(1)
}

impl Drop for Tree {
    fn drop(&mut self) {
        for leaves in self.leaves.drain() {
            let leaves: LeafChunk = leaves;
            self.pool.give_leaves(leaves);
        }
    }
}
