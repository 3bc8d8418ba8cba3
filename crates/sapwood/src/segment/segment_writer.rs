//! Builds the leaves and lowest parents of a tree, or of a stretch of one, from sorted entries.
//!
//! *Assumes*: entries come in order; reused leaves come in their place among them.
//! *Guarantees*: every leaf gets the shortest separator; no entries give no tree.
//!
//! *Threads*: one owner.

use super::leaf_writer::{
    LeafOptions, LeafOverflow, LeafWriter, NewEntry, WrittenLeaf, leaf_filter,
};
use super::parent_writer::{LeafEntry, Lowest, ParentWriter};
use super::separator::shortest_separator;
use crate::error::Result;
use crate::page::NodeWriter;

/// How the leaves of a tree are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterOptions {
    /// The segment's seed.
    pub seed: u64,
    /// Bits for each key; 0: no filters.
    pub bits_per_key: u8,
}

/// What went into a writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Entries of new leaves.
    pub entries: u64,
    /// The sum of the hashes of their keys, without regard to order.
    pub hash_sum: u64,
    /// Leaves that were written.
    pub leaves: u64,
    /// Leaves that were reused.
    pub reused_leaves: u64,
    /// Bytes of keys and values of new leaves.
    pub bytes: u64,
}

/// Builds one tree, or a stretch of one.
#[derive(Debug)]
pub struct SegmentWriter {
    filter: FilterOptions,
    leaves: LeafWriter,
    parents: ParentWriter,
    ready: Vec<WrittenLeaf>,
    /// The separator of the next leaf, when the leaf before it is not one of ours.
    separator: Option<Vec<u8>>,
    last_key: Vec<u8>,
    written: Written,
    least: Option<Vec<u8>>,
    greatest: Vec<u8>,
}

impl SegmentWriter {
    /// A writer whose first leaf gets `separator`: the empty key for a whole tree.
    pub fn new(options: LeafOptions, filter: FilterOptions, separator: Vec<u8>) -> SegmentWriter {
        SegmentWriter {
            filter,
            parents: ParentWriter::new(options.keyspace),
            leaves: LeafWriter::new(options),
            ready: Vec::new(),
            separator: Some(separator),
            last_key: Vec::new(),
            written: Written::default(),
            least: None,
            greatest: Vec::new(),
        }
    }

    /// Stored bytes for each 1,024 of leaves, as far as that is known.
    pub fn ratio(&self) -> Option<usize> {
        self.leaves.ratio()
    }

    /// What another writer has learned of entries like these.
    pub fn expect_ratio(&mut self, ratio: usize) {
        self.leaves.expect_ratio(ratio);
    }

    /// See [`LeafWriter::fill_up`].
    pub fn fill_up(&mut self) {
        self.leaves.fill_up();
    }

    /// What has gone in so far.
    pub fn written(&self) -> Written {
        self.written
    }

    /// The least and the greatest key pushed, if any.
    pub fn key_bounds(&self) -> Option<(&[u8], &[u8])> {
        self.least.as_deref().map(|least| (least, self.greatest.as_slice()))
    }

    /// The leaves so far, new and reused.
    pub fn leaf_count(&self) -> usize {
        self.parents.leaf_count()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn push(
        &mut self,
        nodes: &mut NodeWriter,
        entry: &NewEntry<'_>,
        overflow: Option<LeafOverflow>,
    ) -> Result<()> {
        self.written.entries += 1;
        self.written.hash_sum = self.written.hash_sum.wrapping_add(entry.hash);
        self.written.bytes += (entry.key.len() + entry.value.len()) as u64;
        if self.least.is_none() {
            self.least = Some(entry.key.to_vec());
        }
        self.greatest.clear();
        self.greatest.extend_from_slice(entry.key);
        self.leaves.push(nodes, entry, overflow, &mut self.ready)?;
        self.drain_ready(nodes)
    }

    /// Ends the present leaf; the next new leaf gets `separator`, which lies above all keys so far.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn begin_stretch(&mut self, nodes: &mut NodeWriter, separator: Vec<u8>) -> Result<()> {
        self.leaves.finish_stretch(nodes, &mut self.ready)?;
        self.drain_ready(nodes)?;
        // The very first leaf keeps the separator of the whole stretch.
        if self.leaf_count() > 0 {
            self.separator = Some(separator);
        }
        Ok(())
    }

    /// Adds a leaf that is referenced as it is, with its own separator.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn reuse(&mut self, nodes: &mut NodeWriter, mut leaf: LeafEntry) -> Result<()> {
        self.leaves.finish_stretch(nodes, &mut self.ready)?;
        self.drain_ready(nodes)?;
        if self.leaf_count() == 0
            && let Some(first) = self.separator.take()
        {
            leaf.separator = first;
        }
        self.written.reused_leaves += 1;
        self.parents.push(nodes, leaf)
    }

    fn drain_ready(&mut self, nodes: &mut NodeWriter) -> Result<()> {
        for leaf in std::mem::take(&mut self.ready) {
            let separator = match self.separator.take() {
                Some(given) => given,
                None => {
                    let mut separator = Vec::new();
                    shortest_separator(&self.last_key, &leaf.first_key, &mut separator);
                    separator
                }
            };
            let mut filter = Vec::new();
            if self.filter.bits_per_key > 0 && !leaf.hashes.is_empty() {
                leaf_filter(&leaf.hashes, self.filter.seed, self.filter.bits_per_key, &mut filter)?;
            }
            self.written.leaves += 1;
            self.last_key = leaf.last_key;
            let entry = LeafEntry { separator, child: leaf.child, filter, overflow: leaf.overflow };
            self.parents.push(nodes, entry)?;
        }
        Ok(())
    }

    /// Ends the last leaf. True when all leaves would fill less than a third of a parent: then
    /// those of a neighbour may come in, before them by [`SegmentWriter::prepend`] or behind them
    /// by [`SegmentWriter::reuse`].
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn is_under_third(&mut self, nodes: &mut NodeWriter) -> Result<bool> {
        self.leaves.finish_stretch(nodes, &mut self.ready)?;
        self.drain_ready(nodes)?;
        Ok(self.parents.leaf_count() > 0 && self.parents.is_under_third())
    }

    /// Adds leaves before all others, which are under a third of a parent. They are referenced as
    /// they are.
    pub fn prepend(&mut self, leaves: Vec<LeafEntry>) {
        self.written.reused_leaves += leaves.len() as u64;
        self.parents.prepend(leaves);
    }

    /// Writes what is pending. `whole`: nothing else will be in the tree.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn finish(mut self, nodes: &mut NodeWriter, whole: bool) -> Result<Lowest> {
        self.leaves.finish_stretch(nodes, &mut self.ready)?;
        self.drain_ready(nodes)?;
        self.parents.finish(nodes, whole)
    }
}
