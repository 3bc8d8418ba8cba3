//! Entries that follow each other in one leaf and that one source alone decides over: they can be
//! handed out one after the other without asking the sources again.
//!
//! *Assumes*: nothing newer, in any source, lies between the first and the last. *Guarantees*: of
//! each key the newest version that the reader may see, unless it is deleted, in ascending order.
//! The run holds the leaf's frame and nothing else.
//!
//! *Threads*: one owner.

use std::ops::Range;

use super::node::LeafNode;
use super::sorted_block::{Entry, EntryKind, SortedBlock};
use super::sorted_source::range_in;
use crate::error::Result;
use crate::page::Frame;
use crate::sync::Arc;

/// The rest of a run.
#[derive(Debug)]
pub struct LeafRun {
    leaf: LeafNode,
    indices: Range<usize>,
    /// Bytes that lead each key in the tree alone.
    lead_bytes: usize,
    /// Versions above it do not exist for the reader.
    at: u64,
    /// The version that decided over its key: those that follow of the same key are hidden.
    decided: Option<usize>,
    last: Option<usize>,
}

/// An entry of a run, where it lies.
#[derive(Debug)]
pub struct LiveEntry<'a> {
    /// What the leaf says.
    pub entry: Entry<'a>,
    leaf: &'a LeafNode,
    block: SortedBlock<'a>,
    lead_bytes: usize,
}

impl LeafRun {
    /// The entries of `leaf` with these indices, whose keys begin with so many bytes that are not
    /// the reader's.
    pub fn new(leaf: &LeafNode, indices: Range<usize>, lead_bytes: usize) -> LeafRun {
        let leaf = leaf.clone();
        LeafRun { leaf, indices, lead_bytes, at: u64::MAX, decided: None, last: None }
    }

    /// The same for a reader that sees no versions above `at`.
    #[must_use]
    pub fn at(mut self, at: u64) -> LeafRun {
        self.at = at;
        self
    }

    /// The next live entry.
    ///
    /// # Errors
    /// When the leaf is damaged.
    #[inline]
    pub fn next_live(&mut self) -> Result<Option<LiveEntry<'_>>> {
        let LeafRun { leaf, indices, lead_bytes, at, decided, last } = self;
        let block = leaf.view();
        for index in indices {
            let entry = block.entry(index).map_err(|p| leaf.damage(p))?;
            if block.is_numbered() {
                if entry.number > *at {
                    continue;
                }
                if let Some(newer) = decided.replace(index) {
                    let newer = block.entry(newer).map_err(|p| leaf.damage(p))?;
                    if SortedBlock::same_key(&newer, &entry) {
                        continue;
                    }
                }
            }
            if entry.kind != EntryKind::Delete {
                *last = Some(index);
                return Ok(Some(LiveEntry { entry, leaf, block, lead_bytes: *lead_bytes }));
            }
        }
        Ok(None)
    }

    /// The next entry, if it is a pair whose value lies in the leaf and has at most so many bytes,
    /// and the leaf has one version of each key: what most walks meet. Otherwise nothing changes.
    #[inline]
    pub fn next_short(&mut self, value_bytes_max: usize) -> Option<LiveEntry<'_>> {
        let LeafRun { leaf, indices, lead_bytes, last, .. } = self;
        let index = indices.start;
        let block = leaf.view();
        if block.is_numbered() || index >= indices.end {
            return None;
        }
        let entry = block.entry(index).ok()?;
        if entry.kind != EntryKind::Put || entry.value.len() > value_bytes_max {
            return None;
        }
        indices.start += 1;
        *last = Some(index);
        Some(LiveEntry { entry, leaf, block, lead_bytes: *lead_bytes })
    }

    /// Where the entry that was handed out last lies in its leaf.
    pub fn last(&self) -> Option<usize> {
        self.last
    }

    /// The bare key of that entry.
    ///
    /// # Errors
    /// When the leaf is damaged.
    pub fn last_key(&self) -> Result<Option<Vec<u8>>> {
        let Some(last) = self.last else { return Ok(None) };
        let mut key = Vec::new();
        self.leaf.view().copy_key(last, &mut key).map_err(|p| self.leaf.damage(p))?;
        key.drain(..self.lead_bytes.min(key.len()));
        Ok(Some(key))
    }

    /// True when the leaf lies in the file itself: then the run must not outlive the state.
    pub fn is_in_place(&self) -> bool {
        self.leaf.frame().is_in_place()
    }
}

impl<'a> LiveEntry<'a> {
    /// What `join` makes of the pieces of the bare key.
    #[inline]
    pub fn with_key_pieces<T>(&self, join: impl FnOnce([&[u8]; 3]) -> T) -> T {
        self.block.with_key_pieces(&self.entry, self.lead_bytes, join)
    }

    /// The frame that holds the value, and where.
    pub fn value_frame(&self) -> (&'a Arc<Frame>, Range<usize>) {
        (self.leaf.frame(), range_in(self.leaf, self.entry.value))
    }
}
