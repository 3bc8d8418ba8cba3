//! Runs in final form: keys of a flush that overlap no segment and go to the last level at once.
//!
//! One [`Run`] is a lowest parent of the last level with all runs that fall between the entries of
//! its leaves. Leaves that no run falls into are referenced again unread. One that a run falls into
//! is read, and written anew around it; when the run lies behind all its entries, or before them,
//! the leaf stays as it is.
//!
//! *Assumes*: keys come in order and lie in the gaps that were found. *Guarantees*: I2, by count
//! and hash, for the runs and the leaves that are read; I3: the parent's range is reserved in all
//! levels of the keyspace until the install, and its first separator stays. *Threads*: the flush's.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::page::{NodeRef, NodeWriter};
use crate::segment::descriptor::Bounds;
use crate::segment::filter::key_hash;
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::node::{Caching, LeafNode, TreeKind, read_leaf};
use crate::segment::parent_writer::{LeafEntry, Lowest};
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::separator::shortest_separator;
use crate::segment::sorted_block::EntryKind;
use crate::state::Core;
use crate::state::background::Reservation;
use crate::state::dead_list::Dead;
use crate::sync::{Arc, Random};
use crate::types::{Epoch, KeyspaceNumber};

use super::gaps::Place;
use super::install::{Change, Destination, LevelEdit};
use super::promote::{Tally, move_reference};
use super::stretch::{Stretch, load_stretch};

/// What is left of a leaf behind a run becomes a leaf of its own when it holds at least one part in
/// so many of a leaf. So the next run at the same place reads nothing, and no leaf gets tiny.
const REST_PARTS: usize = 3;

/// A leaf of the last level that a run falls into.
#[derive(Debug)]
struct OldLeaf {
    entry: LeafEntry,
    node: LeafNode,
    birth: Epoch,
    /// Entries that were written anew.
    written: usize,
    /// It is written anew, not referenced again.
    is_split: bool,
    /// It is not full; or it is the whole tree, and has no filter and no list to be referenced
    /// with.
    must_split: bool,
    /// A run lies before its first entry.
    is_behind_run: bool,
}

impl OldLeaf {
    fn len(&self) -> usize {
        self.node.view().len()
    }

    fn key(&self, index: usize) -> Result<Vec<u8>> {
        let mut key = Vec::new();
        self.node.view().copy_key(index, &mut key).map_err(|p| self.node.damage(p))?;
        Ok(key)
    }

    /// Bytes of keys and values that are not written yet.
    fn bytes_left(&self) -> Result<usize> {
        let view = self.node.view();
        let mut bytes = 0;
        for index in self.written..view.len() {
            let entry = view.entry(index).map_err(|p| self.node.damage(p))?;
            bytes += self.key(index)?.len() + entry.value.len();
        }
        Ok(bytes)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Run {
    core: Arc<Core>,
    keyspace: KeyspaceNumber,
    /// Of the lowest parent.
    range: KeyRange,
    whole: bool,
    lone_leaf: bool,
    destination: Destination,
    filter_seed: u64,
    writer: Option<SegmentWriter>,
    /// Leaves of the parent that were not come to yet.
    leaves: VecDeque<LeafEntry>,
    leaf: Option<OldLeaf>,
    /// The leaf in which the gaps lie was read already.
    at_hand: Option<(NodeRef, LeafNode)>,
    has_begun: bool,
    last_key: Vec<u8>,
    /// What keys came, with nothing of the leaves between them.
    ranges: Vec<KeyRange>,
    is_in_range: bool,
    /// What came, and what the leaves hold that are written anew.
    read: Tally,
    lowest: Option<Lowest>,
    bounds: Option<Bounds>,
    died: Vec<Dead>,
    _reservation: Reservation,
}

impl Run {
    /// Begins a run at a place that is reserved; `None` when the place is not as it was when it was
    /// found: the separator at its end goes with the last leaves behind it.
    ///
    /// # Errors
    /// When the last level cannot be read.
    pub fn begin(
        core: &Arc<Core>,
        keyspace: KeyspaceNumber,
        place: Place,
        reservation: Reservation,
    ) -> Result<Option<Run>> {
        let state = core.state();
        let last = state.levels_of(keyspace).and_then(|levels| levels.last()).cloned();
        let settings = core.catalogue.load().settings(keyspace);
        let seed =
            last.as_ref().map_or_else(|| Random::from_entropy().next_u64(), |s| s.filter.seed);
        let options = LeafOptions {
            leaf_bytes: core.options.leaf_pages_bytes() as usize,
            codec: settings.codec,
            base_number: None,
            keyspace,
        };
        let filter = FilterOptions { seed, bits_per_key: settings.filter_bits };
        let mut stretch = match last.as_ref().and_then(|last| last.points.as_ref()) {
            Some(root) => {
                let mut first = place.range.start.clone();
                first.push(0);
                let wanted = KeyRange::new(place.range.start.clone(), Some(first));
                load_stretch(&core.pages, keyspace, root, &wanted, 1, &mut |_| Ok(true))?
            }
            None => Stretch {
                range: KeyRange::all(),
                whole: true,
                leaves: Vec::new(),
                died: Vec::new(),
                lone_leaf: false,
            },
        };
        if stretch.range != place.range {
            return Ok(None);
        }
        // Keys below the first separator belong to the first leaf.
        if let Some(first) = stretch.leaves.first_mut() {
            first.separator.clone_from(&stretch.range.start);
        }
        let mut writer = SegmentWriter::new(options, filter, stretch.range.start.clone());
        // The next run at the same place reads the last leaf anyway.
        writer.fill_up();
        Ok(Some(Run {
            core: core.clone(),
            keyspace,
            writer: Some(writer),
            range: stretch.range,
            whole: stretch.whole,
            lone_leaf: stretch.lone_leaf,
            destination: match &last {
                Some(last) => Destination::Existing(last.number),
                None => Destination::NewLast(core.new_segment_number()),
            },
            filter_seed: seed,
            leaves: stretch.leaves.into(),
            leaf: None,
            at_hand: place.leaf,
            has_begun: false,
            last_key: Vec::new(),
            ranges: Vec::new(),
            is_in_range: false,
            read: Tally::default(),
            lowest: None,
            bounds: None,
            died: stretch.died,
            _reservation: reservation,
        }))
    }

    /// Stored bytes for each 1,024 of leaves, once they are known from others.
    pub fn expect_ratio(&mut self, ratio: usize) {
        if let Some(writer) = self.writer.as_mut().filter(|writer| writer.ratio().is_none()) {
            writer.expect_ratio(ratio);
        }
    }

    /// The range of its lowest parent.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Gives the run a leaf that was read already.
    pub fn has_at_hand(&mut self, leaf: Option<(NodeRef, LeafNode)>) {
        self.at_hand = leaf.or(self.at_hand.take());
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// When a node cannot be read or written.
    pub fn push(
        &mut self,
        nodes: &mut NodeWriter,
        entry: &NewEntry<'_>,
        overflow: Option<LeafOverflow>,
    ) -> Result<()> {
        self.go_to(nodes, entry.key)?;
        if let Some(writer) = &mut self.writer {
            writer.push(nodes, entry, overflow)?;
        }
        self.read.add(entry.hash);
        self.last_key.clear();
        self.last_key.extend_from_slice(entry.key);
        match self.ranges.last_mut().and_then(|range| range.end.as_mut()) {
            Some(end) if self.is_in_range => {
                end.clear();
                end.extend_from_slice(entry.key);
                end.push(0);
            }
            _ => self.ranges.push(KeyRange::new(entry.key, Some([entry.key, &[0]].concat()))),
        }
        self.is_in_range = true;
        Ok(())
    }

    /// Writes what lies before `key` in the last level.
    fn go_to(&mut self, nodes: &mut NodeWriter, key: &[u8]) -> Result<()> {
        let is_behind =
            |leaf: Option<&LeafEntry>| leaf.is_some_and(|leaf| leaf.separator.as_slice() <= key);
        if !self.has_begun || is_behind(self.leaves.front()) {
            self.finish_leaf(nodes)?;
            while is_behind(self.leaves.get(1)) {
                self.reuse_next(nodes)?;
            }
            self.enter_leaf()?;
            self.has_begun = true;
        }
        let Some(mut leaf) = self.leaf.take() else { return Ok(()) };
        let (index, _) = leaf.node.view().lower_bound(key);
        if !leaf.is_split && index == leaf.len() && !leaf.must_split {
            let last = leaf.key(index.saturating_sub(1))?;
            self.reuse(nodes, leaf)?;
            let mut separator = Vec::new();
            shortest_separator(&last, key, &mut separator);
            return self.begin_stretch(nodes, separator);
        }
        if !leaf.is_split && !leaf.is_behind_run {
            self.begin_stretch(nodes, leaf.entry.separator.clone())?;
        }
        leaf.is_behind_run = true;
        if !leaf.is_split && (index > 0 || leaf.must_split) {
            leaf.is_split = true;
            self.tally(&leaf)?;
            let (block, birth) = (leaf.entry.child.reference.block(), leaf.birth);
            self.died.push(Dead::node(block, birth));
        }
        if leaf.is_split {
            self.write_old(nodes, &mut leaf, index)?;
        }
        self.leaf = Some(leaf);
        Ok(())
    }

    /// Counts all entries of a leaf, whatever will be written of them.
    fn tally(&mut self, leaf: &OldLeaf) -> Result<()> {
        let seed = self.core.pages.layout().filter_seed();
        for index in 0..leaf.len() {
            self.read.add(key_hash(seed, self.keyspace, &leaf.key(index)?));
        }
        Ok(())
    }

    /// Counts an entry that never came.
    #[cfg(test)]
    pub(crate) fn miscount(&mut self) {
        self.read.add(1);
    }

    /// The next leaf is the one that a run falls into.
    fn enter_leaf(&mut self) -> Result<()> {
        let Some(entry) = self.leaves.pop_front() else { return Ok(()) };
        let reference = entry.child.reference;
        let node = match self.at_hand.take() {
            Some((at_hand, node)) if at_hand == reference => node,
            _ => {
                let (kind, how) = (TreeKind::Points, Caching::Pass);
                read_leaf(&self.core.pages, &reference, self.keyspace, kind, how)?
            }
        };
        let next = self.leaves.front().map(|next| next.separator.as_slice());
        node.check_range(&entry.separator, next.or(self.range.end.as_deref()))?;
        let birth = entry.child.birth.unwrap_or(Epoch(0));
        let header = node.frame().header();
        // A short leaf is stored plain when compression saves no page: it tells no ratio.
        if header.stored_bytes < header.raw_bytes {
            let ratio = u64::from(header.stored_bytes) * 1024 / u64::from(header.raw_bytes);
            self.expect_ratio(ratio as usize);
        }
        // One that is not full is read already: the run fills it.
        let leaf_bytes = u64::from(self.core.options.leaf_pages_bytes());
        let must_split = self.lone_leaf || u64::from(header.stored_bytes) * 4 < leaf_bytes * 3;
        let (written, is_split, is_behind_run) = (0, false, false);
        self.leaf =
            Some(OldLeaf { entry, node, birth, written, is_split, must_split, is_behind_run });
        Ok(())
    }

    /// What follows in the leaf that a run fell into.
    fn finish_leaf(&mut self, nodes: &mut NodeWriter) -> Result<()> {
        let Some(mut leaf) = self.leaf.take() else { return Ok(()) };
        if !leaf.is_split {
            return self.reuse(nodes, leaf);
        }
        let leaf_bytes = self.core.options.leaf_pages_bytes() as usize;
        if leaf.written < leaf.len() && leaf.bytes_left()? >= leaf_bytes / REST_PARTS {
            let mut separator = Vec::new();
            shortest_separator(&self.last_key, &leaf.key(leaf.written)?, &mut separator);
            self.begin_stretch(nodes, separator)?;
        }
        let end = leaf.len();
        self.write_old(nodes, &mut leaf, end)
    }

    fn begin_stretch(&mut self, nodes: &mut NodeWriter, separator: Vec<u8>) -> Result<()> {
        match &mut self.writer {
            Some(writer) => writer.begin_stretch(nodes, separator),
            None => Ok(()),
        }
    }

    /// References a leaf again that was read.
    fn reuse(&mut self, nodes: &mut NodeWriter, leaf: OldLeaf) -> Result<()> {
        let mut entry = leaf.entry.clone();
        if leaf.is_behind_run {
            entry.separator.clear();
            shortest_separator(&self.last_key, &leaf.key(0)?, &mut entry.separator);
        }
        self.is_in_range = false;
        match &mut self.writer {
            Some(writer) => writer.reuse(nodes, entry),
            None => Ok(()),
        }
    }

    /// References the next leaf again.
    fn reuse_next(&mut self, nodes: &mut NodeWriter) -> Result<()> {
        self.is_in_range = false;
        match (self.leaves.pop_front(), &mut self.writer) {
            (Some(leaf), Some(writer)) => writer.reuse(nodes, leaf),
            _ => Ok(()),
        }
    }

    /// Writes the entries of a leaf anew, up to one of them.
    fn write_old(&mut self, nodes: &mut NodeWriter, leaf: &mut OldLeaf, end: usize) -> Result<()> {
        let seed = self.core.pages.layout().filter_seed();
        let view = leaf.node.view();
        while leaf.written < end {
            let found = view.entry(leaf.written).map_err(|p| leaf.node.damage(p))?;
            self.last_key = leaf.key(leaf.written)?;
            let mut moved = Vec::new();
            let overflow = match found.kind {
                EntryKind::PutOverflow => {
                    Some(move_reference(found.value, leaf.birth, &mut moved)?)
                }
                _ => None,
            };
            let value = if overflow.is_some() { moved.as_slice() } else { found.value };
            let hash = key_hash(seed, self.keyspace, &self.last_key);
            let key = &self.last_key;
            let entry = NewEntry { kind: found.kind, key, number: 0, value, hash };
            if let Some(writer) = &mut self.writer {
                writer.push(nodes, &entry, overflow)?;
            }
            leaf.written += 1;
            self.is_in_range = false;
        }
        Ok(())
    }

    /// Writes what is pending.
    ///
    /// # Errors
    /// When a node cannot be written, or what was written does not add up.
    pub fn end(&mut self, nodes: &mut NodeWriter) -> Result<()> {
        self.finish_leaf(nodes)?;
        while !self.leaves.is_empty() {
            self.reuse_next(nodes)?;
        }
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let written = writer.written();
        let out = Tally { entries: written.entries, hash_sum: written.hash_sum };
        if out != self.read {
            let (entries, out) = (self.read.entries, out.entries);
            let text = format!("{entries} entries were read, {out} written");
            return Err(mismatch(&self.core, self.keyspace, &text));
        }
        self.bounds = writer.key_bounds().map(|(least, greatest)| Bounds {
            least: least.to_vec(),
            greatest: greatest.to_vec(),
            open_end: false,
        });
        self.lowest = Some(writer.finish(nodes, self.whole)?);
        Ok(())
    }

    /// Adds the run to what the flush installs.
    pub fn add_to(&mut self, change: &mut Change) {
        let Some(lowest) = self.lowest.take() else { return };
        change.died.append(&mut self.died);
        change.runs.extend(self.ranges.drain(..).map(|range| (self.keyspace, range)));
        change.edits.push(LevelEdit {
            keyspace: self.keyspace,
            destination: self.destination,
            filter_seed: self.filter_seed,
            replaced: self.range.clone(),
            whole: self.whole,
            lowest,
            fragments: Vec::new(),
            bounds: self.bounds.take(),
        });
    }
}

fn mismatch(core: &Core, keyspace: KeyspaceNumber, what: &str) -> Error {
    let detail = format!("a flush into keyspace {keyspace}: {what}");
    Error::MergeMismatch { epoch: core.state().epoch, detail }
}
