//! Walks one tree.
//!
//! *Assumes*: the tree's blocks are held by whoever holds the state.
//! *Guarantees*: entries come in the tree's order, in both directions; promoted ranges are skipped.
//! After an error the cursor is invalid.
//!
//! *Threads*: one owner; several cursors may walk one tree.

use std::ops::Range;

use super::descriptor::TreeRoot;
use super::key_range::KeyRanges;
use super::node::{Border, Caching, LeafNode, ParentNode, TreeKind, read_leaf, read_parent};
use super::sorted_block::EntryKind;
use super::sorted_source::range_in;
use crate::error::Result;
use crate::page::{Frame, PageManager};
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber};

/// A walk is a long one from so many leaves on.
const LEAVES_OF_A_LONG_WALK: u32 = 4;

/// Walks all entries of one tree.
#[derive(Debug)]
pub struct TreeCursor {
    pages: Arc<PageManager>,
    root: TreeRoot,
    keyspace: KeyspaceNumber,
    kind: TreeKind,
    caching: Caching,
    /// Ranges that hold nothing any more: nodes that lie in them whole are dead and never read.
    masked: Arc<KeyRanges>,
    /// From the root down: each parent with the index of the child that is open.
    path: Vec<(ParentNode, usize)>,
    leaf: Option<LeafNode>,
    /// Leaves opened one after the other since the last seek.
    leaves_walked: u32,
    index: usize,
    entry: Option<Position>,
    key: Vec<u8>,
}

/// The entry that a cursor stands on.
#[derive(Clone, Debug)]
struct Position {
    kind: EntryKind,
    number: u64,
    /// Where the value lies in the leaf's content.
    value: Range<usize>,
}

impl TreeCursor {
    /// A cursor that stands nowhere.
    pub fn new(
        pages: Arc<PageManager>,
        root: TreeRoot,
        keyspace: KeyspaceNumber,
        kind: TreeKind,
        caching: Caching,
    ) -> TreeCursor {
        TreeCursor {
            pages,
            root,
            keyspace,
            kind,
            caching,
            masked: Arc::default(),
            path: Vec::new(),
            leaf: None,
            leaves_walked: 0,
            index: 0,
            entry: None,
            key: Vec::new(),
        }
    }

    /// The same, which never reads a node that lies whole in one of these ranges. It may still
    /// stand on entries in them.
    #[must_use]
    pub fn masked(mut self, ranges: Arc<KeyRanges>) -> TreeCursor {
        self.masked = ranges;
        self
    }

    /// True when the cursor stands on an entry.
    pub fn valid(&self) -> bool {
        self.entry.is_some()
    }

    /// The key where it stands, as the tree has it.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The number of the entry.
    pub fn number(&self) -> u64 {
        self.entry.as_ref().map_or(0, |entry| entry.number)
    }

    /// The number that numbers of the open leaf are relative to; `None` when it has none.
    pub fn base_number(&self) -> Option<u64> {
        let block = self.leaf.as_ref()?.view();
        block.is_numbered().then(|| block.base_number())
    }

    /// What the entry says.
    pub fn kind(&self) -> EntryKind {
        self.entry.as_ref().map_or(EntryKind::Delete, |entry| entry.kind)
    }

    /// The value of the entry.
    pub fn value(&self) -> &[u8] {
        self.value_frame().and_then(|(frame, range)| frame.content().get(range)).unwrap_or(&[])
    }

    /// The frame of the value, and where it lies in its content.
    pub fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        let (leaf, entry) = (self.leaf.as_ref()?, self.entry.as_ref()?);
        Some((leaf.frame(), entry.value.clone()))
    }

    /// The birth of the leaf that is open.
    ///
    /// # Errors
    /// When a parent is damaged.
    pub fn leaf_birth(&self) -> Result<Epoch> {
        let mut birth = self.root.birth;
        for (parent, index) in &self.path {
            let child = parent.view().child(*index).map_err(|p| parent.damage(p))?;
            birth = child.birth.unwrap_or(birth);
        }
        Ok(birth)
    }

    /// Stands nowhere from now on.
    pub(super) fn invalidate(&mut self) {
        self.entry = None;
        self.leaf = None;
        self.leaves_walked = 0;
        self.path.clear();
        self.key.clear();
    }

    /// Opens the child at `index` of the last parent of the path, and below it the one that
    /// `choose` says of each parent; the leaf is open afterwards. Nodes that reach out of the place
    /// that those above give them could lead a walk over the same leaves for ever, and a seek to
    /// what lies on the wrong side of its key.
    fn descend(&mut self, choose: impl Fn(&ParentNode) -> Result<usize>) -> Result<()> {
        let (mut reference, mut height) = match self.path.last() {
            None => (self.root.reference, self.root.height),
            Some((parent, index)) => (parent.child_reference(*index)?, parent.height() - 1),
        };
        while height > 0 {
            let parent = read_parent(&self.pages, &reference, self.keyspace, height)?;
            let (start, end) = place(&self.path);
            parent.check_between(start, end)?;
            let index = choose(&parent)?;
            reference = parent.child_reference(index)?;
            self.path.push((parent, index));
            height -= 1;
        }
        let caching = match self.caching {
            Caching::Keep if self.leaves_walked >= LEAVES_OF_A_LONG_WALK => Caching::InPassing,
            caching => caching,
        };
        let leaf = read_leaf(&self.pages, &reference, self.keyspace, self.kind, caching)?;
        let (start, end) = place(&self.path);
        leaf.check_between(start, end)?;
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Reads the entry at `index` of the open leaf.
    fn load(&mut self) -> Result<()> {
        let Some(leaf) = &self.leaf else {
            return Ok(());
        };
        let block = leaf.view();
        let entry = block.entry(self.index).map_err(|p| leaf.damage(p))?;
        block.copy_key_of(&entry, &mut self.key);
        let value = range_in(leaf, entry.value);
        self.entry = Some(Position { kind: entry.kind, number: entry.number, value });
        Ok(())
    }

    /// Opens the next leaf and stands before its first entry; false when there is none.
    fn open_next(&mut self) -> Result<bool> {
        while let Some((parent, index)) = self.path.last_mut() {
            if *index + 1 >= parent.view().len() {
                self.path.pop();
                continue;
            }
            if !self.masked.is_empty() {
                let mut separator = Vec::new();
                let view = parent.view();
                view.separator(*index + 1, &mut separator).map_err(|p| parent.damage(p))?;
                if let Some(range) = self.masked.containing(&separator) {
                    let Some(end) = range.end.clone() else { return Ok(false) };
                    return self.open_at(&end).map(|()| true);
                }
            }
            *index += 1;
            self.leaves_walked = self.leaves_walked.saturating_add(1);
            self.descend(|_| Ok(0))?;
            self.index = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// Opens the leaf before and stands behind its last entry; false when there is none.
    fn open_previous(&mut self) -> Result<bool> {
        while let Some((parent, index)) = self.path.last() {
            if *index == 0 {
                self.path.pop();
                continue;
            }
            if !self.masked.is_empty() {
                let mut separator = Vec::new();
                parent.view().separator(*index, &mut separator).map_err(|p| parent.damage(p))?;
                if let Some(start) = self.masked_before(&separator) {
                    return self.open_before(&start);
                }
            }
            if let Some((_, index)) = self.path.last_mut() {
                *index -= 1;
            }
            self.leaves_walked = self.leaves_walked.saturating_add(1);
            self.descend(|parent| Ok(parent.view().len().saturating_sub(1)))?;
            self.index = self.leaf_len();
            return Ok(true);
        }
        Ok(false)
    }

    /// The start of the masked range that holds what comes right before `key`, if one does.
    fn masked_before(&self, key: &[u8]) -> Option<Vec<u8>> {
        let range = self.masked.ending_at_or_after(key)?;
        (range.start.as_slice() < key).then(|| range.start.clone())
    }

    /// Opens the leaf that holds `key`, which is not masked, and stands at its lower bound.
    fn open_at(&mut self, key: &[u8]) -> Result<()> {
        if let Some(index) = self.bound_in_open_leaf(key) {
            self.index = index;
            return Ok(());
        }
        self.path.clear();
        self.leaf = None;
        self.leaves_walked = 0;
        self.descend(|parent| Ok(parent.view().child_for(key)))?;
        self.index = self.leaf.as_ref().map_or(0, |leaf| leaf.view().lower_bound(key).0);
        Ok(())
    }

    /// Opens the leaf that holds what comes right before `key`, leaving masked ranges out, and
    /// stands at the lower bound of `key`; false when there is none.
    fn open_before(&mut self, key: &[u8]) -> Result<bool> {
        if let Some(start) = self.masked_before(key) {
            return self.open_before(&start);
        }
        if key.is_empty() {
            return Ok(false);
        }
        if let Some(index) = self.bound_in_open_leaf(key) {
            self.index = index;
            return Ok(true);
        }
        self.path.clear();
        self.leaf = None;
        self.leaves_walked = 0;
        self.descend(|parent| {
            let index = parent.view().child_for(key);
            let order = parent.view().compare_separator(index, key);
            let equal = order.map_err(|p| parent.damage(p))?.is_eq();
            Ok(if equal { index.saturating_sub(1) } else { index })
        })?;
        self.index = self.leaf.as_ref().map_or(0, |leaf| leaf.view().lower_bound(key).0);
        Ok(true)
    }

    fn leaf_len(&self) -> usize {
        self.leaf.as_ref().map_or(0, |leaf| leaf.view().len())
    }

    /// Stands on the entry at `index`, or on the first of the next leaf.
    fn settle_forward(&mut self) -> Result<()> {
        while self.index >= self.leaf_len() {
            if !self.open_next()? {
                self.invalidate();
                return Ok(());
            }
        }
        self.load()
    }

    /// Stands on the entry before `index`, or on the last of the leaf before.
    fn settle_backward(&mut self) -> Result<()> {
        while self.index == 0 {
            if !self.open_previous()? {
                self.invalidate();
                return Ok(());
            }
        }
        self.index -= 1;
        self.load()
    }

    /// The open leaf, and the index in it of the entry that the cursor stands on.
    pub(super) fn leaf(&self) -> Option<(&LeafNode, usize)> {
        self.leaf.as_ref().map(|leaf| (leaf, self.index))
    }

    /// Stands on another entry of the open leaf.
    ///
    /// # Errors
    /// When the leaf has none there, or is damaged.
    pub(super) fn stand_at(&mut self, index: usize) -> Result<()> {
        self.guarded(|this| {
            this.index = index;
            this.load()
        })
    }

    fn guarded(&mut self, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = run(self);
        if result.is_err() {
            self.invalidate();
        }
        result
    }

    /// To the next entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn next(&mut self) -> Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        self.guarded(|this| {
            this.index += 1;
            this.settle_forward()
        })
    }

    /// To the entry before.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn previous(&mut self) -> Result<()> {
        if self.entry.is_none() {
            return Ok(());
        }
        self.guarded(Self::settle_backward)
    }

    /// To the first entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_first(&mut self) -> Result<()> {
        self.seek(&[])
    }

    /// To the last entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_last(&mut self) -> Result<()> {
        self.guarded(|this| {
            this.invalidate();
            if let Some(start) = this.masked.open_ended() {
                return match this.open_before(&start)? {
                    true => this.settle_backward(),
                    false => {
                        this.invalidate();
                        Ok(())
                    }
                };
            }
            this.descend(|parent| Ok(parent.view().len().saturating_sub(1)))?;
            this.index = this.leaf_len();
            this.settle_backward()
        })
    }

    /// The lower bound of `key` in the open leaf, when the leaf certainly holds the place.
    fn bound_in_open_leaf(&self, key: &[u8]) -> Option<usize> {
        let block = self.leaf.as_ref()?.view();
        let last = block.len().checked_sub(1)?;
        let first_not_above = block.compare_key(0, key).ok()?.is_le();
        (first_not_above && block.compare_key(last, key).ok()?.is_ge())
            .then(|| block.lower_bound(key).0)
    }

    /// To the first entry at or after `key`: its newest version.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| {
            let masked = this.masked.containing(key).map(|range| range.end.clone());
            match masked {
                None => this.open_at(key)?,
                Some(Some(end)) => this.open_at(&end)?,
                Some(None) => {
                    this.invalidate();
                    return Ok(());
                }
            }
            this.settle_forward()
        })
    }

    /// To the last entry before all versions of `key`.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| match this.open_before(key)? {
            true => this.settle_backward(),
            false => {
                this.invalidate();
                Ok(())
            }
        })
    }
}

/// The separators between which the path leaves a node its keys. What begins the tree, and what
/// ends it, has none there.
fn place(path: &[(ParentNode, usize)]) -> (Option<Border<'_>>, Option<Border<'_>>) {
    let is_first = path.iter().all(|(_, index)| *index == 0);
    let start = path.last().filter(|_| !is_first);
    let mut above = path.iter().rev();
    let end = above.find(|(parent, index)| index + 1 < parent.view().len());
    (
        start.map(|(parent, index)| Border::Separator(parent, *index)),
        end.map(|(parent, index)| Border::Separator(parent, index + 1)),
    )
}
