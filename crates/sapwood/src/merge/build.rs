//! Builds the last level of a keyspace bottom-up, from sorted pairs.
//!
//! *Assumes*: the state knows the keyspace, which has no segment, and nobody else works on it; keys
//! ascend. The database is thrown away when a call fails. *Guarantees*: one segment without
//! tombstones, whose nodes are full and lie in the order of their keys. Memory does not grow with
//! the keyspace: the tree is installed in parts. *Threads*: one owner.

use crate::error::Result;
use crate::page::{BlockList, NodeWriter};
use crate::segment::descriptor::Bounds;
use crate::segment::filter::key_hash;
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::overflow::{blocks_of, wants_overflow, write_value};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::overflow_writer::OverflowWriter;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::separator::shortest_separator;
use crate::segment::sorted_block::EntryKind;
use crate::state::Core;
use crate::state::catalogue::KeyspaceSettings;
use crate::sync::{Arc, Random};
use crate::types::KeyspaceNumber;

use super::install::{Change, Destination, LevelEdit, install};

/// The leaves of one part: enough for several lowest parents, so that a part comes behind those
/// before it and replaces none.
const PART_LEAVES: usize = 1 << 14;

/// Nodes are written in blocks of so many pages. What is not used of the last one is a gap in the
/// file, since values come to lie behind it.
const NODE_BLOCK_PAGES: u64 = 64;

/// See the module.
#[derive(Debug)]
pub struct LevelBuilder {
    core: Arc<Core>,
    keyspace: KeyspaceNumber,
    settings: KeyspaceSettings,
    destination: Destination,
    filter_seed: u64,
    part: Part,
    part_leaves: usize,
    parts: u64,
    last_key: Vec<u8>,
}

/// What is not installed yet.
#[derive(Debug)]
struct Part {
    /// Where it begins, once that is known.
    separator: Option<Vec<u8>>,
    nodes: NodeWriter,
    writer: Option<SegmentWriter>,
    /// Blocks of values: written one behind the other, they are few runs.
    values: BlockList,
}

impl Part {
    fn new(core: &Core, separator: Option<Vec<u8>>) -> Part {
        let nodes = NodeWriter::new(core.pages.clone(), NODE_BLOCK_PAGES);
        Part { separator, nodes, writer: None, values: BlockList::new() }
    }
}

impl LevelBuilder {
    /// A builder of the last level of `keyspace`.
    pub fn new(core: &Arc<Core>, keyspace: KeyspaceNumber) -> LevelBuilder {
        LevelBuilder {
            core: core.clone(),
            keyspace,
            settings: core.catalogue.load().settings(keyspace),
            destination: Destination::NewLast(core.new_segment_number()),
            filter_seed: Random::from_entropy().next_u64(),
            part: Part::new(core, Some(Vec::new())),
            part_leaves: PART_LEAVES,
            parts: 0,
            last_key: Vec::new(),
        }
    }

    /// Installs the tree after so many leaves each, at least two lowest parents.
    #[cfg(test)]
    pub(crate) fn part_leaves(mut self, leaves: usize) -> LevelBuilder {
        self.part_leaves = leaves;
        self
    }

    /// How many runs of pages are kept in memory for values that were pushed since the last part.
    #[cfg(test)]
    pub(crate) fn value_runs(&self) -> usize {
        self.part.values.run_count()
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let pages = &self.core.pages;
        if wants_overflow(value.len(), pages.layout().usable_bytes()) {
            let codec = self.settings.value_codec;
            let reference = write_value(pages, self.keyspace, codec, value)?;
            return self.push_reference(key, reference);
        }
        self.push_entry(key, EntryKind::Put, value, None)
    }

    /// Where a value is written that does not fit into memory.
    pub fn value_writer(&self) -> OverflowWriter {
        OverflowWriter::new(&self.core.pages, self.keyspace, self.settings.value_codec)
    }

    /// Adds an entry whose value [`LevelBuilder::value_writer`] has written.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn push_reference(&mut self, key: &[u8], reference: OverflowReference) -> Result<()> {
        let mut encoded = Vec::new();
        reference.encode(&mut encoded);
        blocks_of(&reference).for_each(|block| self.part.values.insert(block));
        let overflow = LeafOverflow { birth: reference.birth, blocks: reference.blocks };
        self.push_entry(key, EntryKind::PutOverflow, &encoded, Some(overflow))
    }

    fn push_entry(
        &mut self,
        key: &[u8],
        kind: EntryKind,
        value: &[u8],
        overflow: Option<LeafOverflow>,
    ) -> Result<()> {
        let filter_bits = self.settings.filter_bits;
        let Part { separator, nodes, writer, .. } = &mut self.part;
        let writer = writer.get_or_insert_with(|| {
            let separator = separator.get_or_insert_with(|| {
                let mut between = Vec::new();
                shortest_separator(&self.last_key, key, &mut between);
                between
            });
            let options = LeafOptions {
                leaf_bytes: self.core.options.leaf_pages_bytes() as usize,
                codec: self.settings.codec,
                base_number: None,
                keyspace: self.keyspace,
            };
            let filter = FilterOptions { seed: self.filter_seed, bits_per_key: filter_bits };
            SegmentWriter::new(options, filter, separator.clone())
        });
        let hash = key_hash(self.core.pages.layout().filter_seed(), self.keyspace, key);
        writer.push(nodes, &NewEntry { kind, key, number: 0, value, hash }, overflow)?;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        if writer.leaf_count() >= self.part_leaves {
            self.install_part()?;
        }
        Ok(())
    }

    fn install_part(&mut self) -> Result<()> {
        let part = std::mem::replace(&mut self.part, Part::new(&self.core, None));
        let Part { separator, mut nodes, writer: Some(writer), values } = part else {
            return Ok(());
        };
        let bounds = writer.key_bounds().map(|(least, greatest)| Bounds {
            least: least.to_vec(),
            greatest: greatest.to_vec(),
            open_end: false,
        });
        let is_first = self.parts == 0;
        // One leaf needs no parent when nothing else will come.
        let whole = is_first && writer.leaf_count() < self.part_leaves;
        let lowest = writer.finish(&mut nodes, whole)?;
        let mut written = nodes.finish()?.blocks;
        written.extend(values.iter());
        let edit = LevelEdit {
            keyspace: self.keyspace,
            destination: self.destination,
            filter_seed: self.filter_seed,
            replaced: KeyRange { start: separator.unwrap_or_default(), end: None },
            whole: is_first,
            lowest,
            fragments: Vec::new(),
            bounds,
        };
        install(&self.core, Change { written, edits: vec![edit], ..Change::default() })?;
        self.destination = Destination::Existing(self.destination.number());
        self.parts += 1;
        Ok(())
    }

    /// Installs what is left. No entries make no segment.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.install_part()
    }
}
