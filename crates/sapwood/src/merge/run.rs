//! A run in final form: keys of a flush that overlap no segment and go to the last level at once.
//!
//! *Guarantees*: the run's range is reserved in all levels of the keyspace until the install, so
//! nothing comes between. What lies before it in the last level is referenced again unread.
//! *Threads*: the flush's.

use crate::error::Result;
use crate::page::{Block, NodeWriter, PageManager};
use crate::segment::descriptor::{Bounds, TreeRoot};
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::parent_writer::Lowest;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::separator::shortest_separator;
use crate::state::Core;
use crate::state::background::{LEVELS_ALL, Reservation};
use crate::state::dead_list::Dead;
use crate::sync::{Arc, Random};
use crate::types::KeyspaceNumber;

use super::install::{Change, Destination, LevelEdit};
use super::stretch::load_stretch;

/// See the module.
#[derive(Debug)]
pub struct Run {
    keyspace: KeyspaceNumber,
    /// Keys at or above it belong to the run.
    start: Vec<u8>,
    nodes: Option<NodeWriter>,
    writer: Option<SegmentWriter>,
    lowest: Option<Lowest>,
    bounds: Option<Bounds>,
    written: u64,
    destination: Destination,
    filter_seed: u64,
    replaced: KeyRange,
    whole: bool,
    died: Vec<Dead>,
    pages: Arc<PageManager>,
    blocks: Vec<Block>,
    _reservation: Reservation,
}

impl Run {
    /// Begins a run at `key` when nothing lies at or behind it in the keyspace, and when `bytes`,
    /// what follows in the memtable, fill a leaf.
    ///
    /// # Errors
    /// When the last level cannot be read.
    pub fn begin(
        core: &Arc<Core>,
        keyspace: KeyspaceNumber,
        key: &[u8],
        bytes: u64,
    ) -> Result<Option<Run>> {
        if bytes < u64::from(core.options.leaf_pages_bytes()) {
            return Ok(None);
        }
        let behind = KeyRange::new(key, None);
        let is_free = |core: &Core| {
            let state = core.state();
            let composite = crate::segment::descriptor::composite_range(keyspace, &behind);
            state.segments_of(keyspace).all(|segment| {
                let range = if segment.is_young() { &composite } else { &behind };
                segment.bounds.as_ref().is_some_and(|bounds| !bounds.overlaps(range))
            })
        };
        if !is_free(core) {
            return Ok(None);
        }
        // The last lowest parent is taken in, so that parents stay full; it is reserved with the
        // run.
        let Some(start) = last_parent_start(core, keyspace)? else { return Ok(None) };
        let reserved = KeyRange::new(start, None);
        let reservations = &core.background.reservations;
        let Ok(reservation) = reservations.reserve(keyspace, LEVELS_ALL, reserved.clone()) else {
            return Ok(None);
        };
        // Merges that have ended meanwhile may have changed both.
        if !is_free(core)
            || last_parent_start(core, keyspace)?.is_none_or(|now| now < reserved.start)
        {
            return Ok(None);
        }
        Run::open(core, keyspace, key, &reserved, reservation).map(Some)
    }

    fn open(
        core: &Arc<Core>,
        keyspace: KeyspaceNumber,
        key: &[u8],
        reserved: &KeyRange,
        reservation: Reservation,
    ) -> Result<Run> {
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
        let mut nodes = NodeWriter::new(core.pages.clone(), 64);
        let root = last.as_ref().and_then(|last| last.points.clone());
        let mut run = Run {
            keyspace,
            start: key.to_vec(),
            nodes: None,
            writer: None,
            lowest: None,
            bounds: None,
            written: 0,
            destination: match &last {
                Some(last) => Destination::Existing(last.number),
                None => Destination::NewLast(core.new_segment_number()),
            },
            filter_seed: seed,
            replaced: KeyRange::all(),
            whole: true,
            died: Vec::new(),
            pages: core.pages.clone(),
            blocks: Vec::new(),
            _reservation: reservation,
        };
        let mut separator = Vec::new();
        let mut taken = Vec::new();
        if let Some(root) = &root {
            let wanted = KeyRange::new(last_key_of(&last, reserved), None);
            let stretch =
                load_stretch(&core.pages, keyspace, root, &wanted, u64::MAX, &mut |_| Ok(true))?;
            separator.clone_from(&stretch.range.start);
            run.replaced = stretch.range;
            run.whole = stretch.whole;
            run.died = stretch.died;
            taken = stretch.leaves;
        }
        let mut writer = SegmentWriter::new(options, filter, separator);
        for leaf in taken {
            writer.reuse(&mut nodes, leaf)?;
        }
        // Nothing is above the greatest key, so what separates the two separates all.
        let mut separator = key.to_vec();
        if let Some(bounds) = last.as_ref().and_then(|last| last.bounds.as_ref())
            && bounds.greatest.as_slice() < key
        {
            separator.clear();
            shortest_separator(&bounds.greatest, key, &mut separator);
        }
        writer.begin_stretch(&mut nodes, separator)?;
        run.nodes = Some(nodes);
        run.writer = Some(writer);
        Ok(run)
    }

    /// True when a key belongs to the run.
    pub fn takes(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.nodes.as_ref().map_or(self.written, NodeWriter::written_bytes)
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn push(&mut self, entry: &NewEntry<'_>, overflow: Option<LeafOverflow>) -> Result<()> {
        match (&mut self.writer, &mut self.nodes) {
            (Some(writer), Some(nodes)) => writer.push(nodes, entry, overflow),
            _ => Ok(()),
        }
    }

    /// Writes what is pending.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn end(&mut self) -> Result<()> {
        let (Some(writer), Some(mut nodes)) = (self.writer.take(), self.nodes.take()) else {
            return Ok(());
        };
        self.bounds = writer.key_bounds().map(|(least, greatest)| Bounds {
            least: least.to_vec(),
            greatest: greatest.to_vec(),
            open_end: false,
        });
        self.lowest = Some(writer.finish(&mut nodes, self.whole)?);
        self.written = nodes.written_bytes();
        self.blocks = nodes.finish()?.blocks;
        Ok(())
    }

    /// Adds the run to what the flush installs.
    pub fn add_to(&mut self, change: &mut Change) {
        let Some(lowest) = self.lowest.take() else { return };
        change.written.append(&mut self.blocks);
        change.died.append(&mut self.died);
        if let Some(bounds) = &self.bounds {
            let mut end = bounds.greatest.clone();
            end.push(0);
            change.runs.push((self.keyspace, KeyRange::new(bounds.least.clone(), Some(end))));
        }
        change.edits.push(LevelEdit {
            keyspace: self.keyspace,
            destination: self.destination,
            filter_seed: self.filter_seed,
            replaced: self.replaced.clone(),
            whole: self.whole,
            lowest,
            fragments: Vec::new(),
            bounds: self.bounds.take(),
        });
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Not installed: what was written is free again.
        for block in std::mem::take(&mut self.blocks) {
            self.pages.free(block);
        }
    }
}

/// A key in the last lowest parent: the greatest key is never above the last level's.
fn last_key_of(
    last: &Option<Arc<crate::segment::descriptor::Segment>>,
    reserved: &KeyRange,
) -> Vec<u8> {
    let greatest = last.as_ref().and_then(|last| last.bounds.as_ref()).map(|b| b.greatest.clone());
    greatest.unwrap_or_default().max(reserved.start.clone())
}

/// The separator of the last lowest parent of the last level; empty when there is at most one;
/// `None` when there is no sensible place for a run.
fn last_parent_start(core: &Core, keyspace: KeyspaceNumber) -> Result<Option<Vec<u8>>> {
    let state = core.state();
    let Some(levels) = state.levels_of(keyspace) else { return Ok(Some(Vec::new())) };
    let Some(last) = levels.last() else { return Ok(Some(Vec::new())) };
    let root: &TreeRoot = match &last.points {
        Some(root) if root.height > 0 => root,
        // One leaf would have to be rewritten: the young way does that.
        Some(_) => return Ok(None),
        None => return Ok(Some(Vec::new())),
    };
    if root.height == 1 {
        return Ok(Some(Vec::new()));
    }
    let mut reference = root.reference;
    let mut height = root.height;
    let mut separator = Vec::new();
    while height > 1 {
        let node = crate::segment::node::read_parent(&core.pages, &reference, keyspace, height)?;
        let index = node.view().len() - 1;
        node.view().separator(index, &mut separator).map_err(|p| node.damage(p))?;
        reference = node.child_reference(index)?;
        height -= 1;
    }
    Ok(Some(separator))
}
