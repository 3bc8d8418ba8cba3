//! Turns the oldest sealed memtable into segments, in steps.
//!
//! *Guarantees*: S3: of each key the newest version stays, and what registered snapshots see. A run
//! of keys that overlaps no segment goes to the last level at once, in its final form; the rest
//! becomes one young segment. A flush that fails gives everything back and can be made again.
//! *Threads*: one flush at a time; it takes no lock that commits wait for, but the view's at its
//! install.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::error::{Error, Result, Structure};
use crate::memtable::{MemtableCursor, Operation};
use crate::page::{Block, Charge, Codec, Counted, MemoryPart, NodeWriter};
use crate::segment::descriptor::{Bounds, KeyspaceShare, Segment, composite_key, composite_range};
use crate::segment::filter::{self, LINE_BYTES, key_hash, lines_for};
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::overflow::{OverflowReader, blocks_of, wants_overflow, write_value};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::overflow_writer::OverflowWriter;
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::Fragment;
use crate::segment::segment_filter::SegmentFilter;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_edit::TreeEdit;
use crate::state::Core;
use crate::state::background::Job;
use crate::state::damaged::{Met, Work};
use crate::state::dead_list::Dead;
use crate::state::view::MemtableSlot;
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Random};
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

use super::gaps::{Eligible, Finder, Gaps};
use super::install::{Change, install};
use super::passed_over::tell_passed_over;
use super::ranges::{push_fragments, ranges_writer};
use super::run::Run;
use super::versions::{RoomInLeaf, is_seen, numbers_seen};

/// Filter bits for each key of a young segment.
const YOUNG_FILTER_BITS: u8 = 10;

/// What a version takes in the memtable beside its key and value, in bytes, at least. One that
/// nobody sees counts for that in a step, so that a flush makes no more steps than the memtable has
/// bytes for.
const PASSED_BYTES: u64 = 16;

/// For this part of what goes from a memtable no commits are let in.
const KEPT_PART: u64 = 8;

/// A flush in progress.
#[derive(Debug)]
pub struct FlushJob {
    slot: Arc<MemtableSlot>,
    cursor: MemtableCursor,
    /// Registered snapshots, ascending.
    registered: Vec<SequenceNumber>,
    /// What a step takes beside its nodes: the blocks of values that it writes, and versions that
    /// nobody sees, of which nothing is written.
    beside_bytes: u64,
    /// What has gone from the memtable, in bytes.
    taken_bytes: u64,
    /// What commits were let in for, of that.
    paid_bytes: u64,
    /// `None` once everything is written.
    nodes: Option<NodeWriter>,
    writer: Option<SegmentWriter>,
    filter_seed: u64,
    /// Hashes of the keys in the young segment.
    hashes: Vec<u64>,
    shares: Vec<KeyspaceShare>,
    change: Change,
    /// Where keys go, in the keyspace where the cursor stands.
    gaps: Gaps,
    finder: Finder,
    gaps_of: Option<KeyspaceNumber>,
    /// The keyspaces that runs were begun in.
    runs_of: Vec<KeyspaceNumber>,
    /// The run that is being written.
    run: Option<Run>,
    finished_runs: Vec<Run>,
    /// Of all runs.
    run_nodes: Option<NodeWriter>,
    /// The first key of the young segment, composite.
    least: Option<Vec<u8>>,
    /// The last key of the young segment so far, composite.
    composite: Vec<u8>,
    current: Current,
    /// Of the values of the current key, and of the hashes for the filter.
    charge: Charge,
}

/// One key with the versions that the flush keeps, newest first. Its buffers serve key after key,
/// so that an entry costs no allocation.
#[derive(Debug, Default)]
struct Current {
    keyspace: KeyspaceNumber,
    key: Vec<u8>,
    versions: Vec<KeptVersion>,
    /// The values of all versions, one behind the other.
    values: Vec<u8>,
}

/// One version of a key.
#[derive(Clone, Copy, Debug)]
struct KeptVersion {
    number: SequenceNumber,
    kind: EntryKind,
    /// Where its value ends in `Current::values`; it begins where the one before ends.
    value_end: usize,
}

impl Current {
    fn begin(&mut self, cursor: &MemtableCursor) {
        self.keyspace = cursor.keyspace();
        self.key.clear();
        self.key.extend_from_slice(cursor.key());
        self.versions.clear();
        self.values.clear();
    }

    fn is_at(&self, cursor: &MemtableCursor) -> bool {
        cursor.valid() && cursor.keyspace() == self.keyspace && cursor.key() == self.key
    }

    fn keep(&mut self, number: SequenceNumber, kind: EntryKind, value: &[u8]) {
        self.values.extend_from_slice(value);
        self.versions.push(KeptVersion { number, kind, value_end: self.values.len() });
    }

    /// The versions with their values, newest first.
    fn versions(&self) -> impl Iterator<Item = (&KeptVersion, &[u8])> {
        let mut rest = self.values.as_slice();
        let mut begin = 0;
        self.versions.iter().map(move |version| {
            let (value, behind) = rest.split_at(version.value_end - begin);
            (rest, begin) = (behind, version.value_end);
            (version, value)
        })
    }
}

/// Begins the flush of the oldest sealed memtable, if its last commit is visible (C3).
pub fn begin(core: &Core) -> Option<FlushJob> {
    let view = core.view();
    // A commit by reference is adopted instead: see `adopt`.
    let slot = view.sealed.last().filter(|slot| slot.by_reference.is_none())?.clone();
    let cut = *slot.cut.get()?;
    if cut.sequence > core.visible() {
        return None;
    }
    let registered = slot.home.close();
    // To a transaction that began before, a range would look like a change; the tombstones under it
    // are not. Those that begin from now on began behind all of the memtable.
    if !core.transactions.any_before(cut.sequence) {
        slot.table.keep_joined();
    }
    let mut cursor = slot.table.cursor();
    cursor.first();
    let nodes = NodeWriter::new(core.pages.clone(), 64);
    let base_number = slot.table.first_sequence().map_or(0, |first| first.0);
    let options = LeafOptions {
        leaf_bytes: core.options.leaf_pages_bytes() as usize,
        codec: Codec::Plain,
        base_number: Some(base_number),
        keyspace: KeyspaceNumber::MANY,
    };
    let filter = FilterOptions { seed: 0, bits_per_key: 0 };
    let finder = Finder::new(core, Eligible::new(slot.table.clone(), &registered));
    Some(FlushJob {
        cursor,
        registered,
        beside_bytes: 0,
        taken_bytes: 0,
        paid_bytes: 0,
        nodes: Some(nodes),
        writer: Some(SegmentWriter::new(options, filter, Vec::new())),
        filter_seed: Random::from_entropy().next_u64(),
        hashes: Vec::new(),
        shares: Vec::new(),
        change: Change { flushed: Some((slot.clone(), cut)), ..Change::default() },
        gaps: Gaps::none_before(None),
        finder,
        gaps_of: None,
        runs_of: Vec::new(),
        run: None,
        finished_runs: Vec::new(),
        run_nodes: Some(NodeWriter::new(core.pages.clone(), 64)),
        least: None,
        composite: Vec::new(),
        current: Current::default(),
        charge: core.pages.budget().charge(MemoryPart::MergeBuffers, 0),
        slot,
    })
}

/// A flush in whose last run one more entry is counted than came.
#[cfg(test)]
pub(crate) fn flush_miscounted(core: &Arc<Core>) -> Result<()> {
    let Some(mut job) = begin(core) else { return Ok(()) };
    while job.cursor.valid() {
        job.flush_key(core)?;
    }
    job.run.iter_mut().for_each(Run::miscount);
    job.finish(core)
}

impl Job for FlushJob {
    fn step(&mut self, core: &Arc<Core>) -> Result<bool> {
        let error = match self.try_step(core) {
            Ok(done) => {
                self.pay(core);
                return Ok(done);
            }
            Err(error) => error,
        };
        if leave_out_runs(core, self.where_unreadable(), &error)
            && let Some(anew) = begin(core)
        {
            let paid_bytes = self.paid_bytes;
            *self = anew;
            self.paid_bytes = paid_bytes;
            return Ok(false);
        }
        Err(error)
    }
}

/// From now on flushes make no runs in keyspaces whose last level could not be read: all goes to
/// young segments, and neither what is there nor other keyspaces wait for it. False when that does
/// not help.
fn leave_out_runs(core: &Core, keyspaces: BTreeSet<KeyspaceNumber>, error: &Error) -> bool {
    if core.has_stopped() {
        return false;
    }
    let (damaged, now) = (&core.background.damaged, core.clock.now());
    let met = keyspaces.into_iter().map(|keyspace| damaged.note((keyspace, Work::Run), error, now));
    let helps = met.filter(|met| *met == Met::New).count() > 0;
    if helps {
        tell_passed_over(error);
    }
    helps
}

impl FlushJob {
    fn try_step(&mut self, core: &Arc<Core>) -> Result<bool> {
        let done = self.written_bytes() + self.beside_bytes;
        while self.cursor.valid() {
            self.flush_key(core)?;
            if self.written_bytes() + self.beside_bytes - done >= core.options.step_bytes {
                return Ok(false);
            }
        }
        self.finish(core)?;
        Ok(true)
    }

    /// Lets in commits of a little less than has gone from the memtable: so the steps of a flush,
    /// however many they are, let in less than goes with it, and memory falls until nobody need
    /// wait.
    fn pay(&mut self, core: &Core) {
        let pays = self.taken_bytes - self.taken_bytes / KEPT_PART;
        core.background.flush_toll.pay(pays.saturating_sub(self.paid_bytes));
        self.paid_bytes = self.paid_bytes.max(pays);
    }

    /// The keyspace in which something could not be read; at the end of all runs, which install
    /// together, all that have one. What a node says of its keyspace is not asked: it is damaged.
    fn where_unreadable(&self) -> BTreeSet<KeyspaceNumber> {
        let runs_of = if self.cursor.valid() { &[] } else { self.runs_of.as_slice() };
        runs_of.iter().copied().chain(self.gaps_of).collect()
    }
}

impl Drop for FlushJob {
    fn drop(&mut self) {
        // Node writers give back what they wrote themselves; overflow values are not theirs.
        if let (Some(nodes), Some(_)) = (&self.nodes, &self.writer) {
            for block in &self.change.written {
                nodes.manager().free(*block);
            }
        }
    }
}

impl FlushJob {
    fn written_bytes(&self) -> u64 {
        let writers = self.nodes.iter().chain(&self.run_nodes);
        writers.map(NodeWriter::written_bytes).sum()
    }

    /// Takes all versions of the key where the cursor stands.
    fn flush_key(&mut self, core: &Arc<Core>) -> Result<()> {
        let mut current = std::mem::take(&mut self.current);
        let result = self.take_versions(&mut current);
        self.charge.set(current.values.capacity() as u64 + self.hash_bytes());
        let values = self.change.written.len();
        let result = result.and_then(|()| self.place_key(core, &current));
        let new = self.change.written.iter().skip(values);
        let pages: u64 = new.map(|block| u64::from(block.pages)).sum();
        self.beside_bytes += pages * u64::from(core.pages.layout().page_size);
        self.current = current;
        result
    }

    fn place_key(&mut self, core: &Arc<Core>, current: &Current) -> Result<()> {
        let (keyspace, key) = (current.keyspace, current.key.as_slice());
        if self.gaps_of != Some(keyspace) {
            self.end_run()?;
            self.gaps_of = Some(keyspace);
            let dropped = core.catalogue.load().get(keyspace).is_none_or(|entry| entry.dropped);
            // A run takes parents and leaves beside it, for which nothing is kept (F7).
            let is_left_out = core.background.damaged.has((keyspace, Work::Run));
            let no_runs = dropped || core.reserve.is_short() || is_left_out;
            self.gaps = if no_runs { Gaps::none_before(None) } else { Gaps::unknown() };
        }
        let Some((version, value)) = current.versions().next() else { return Ok(()) };
        if !self.gaps.is_known(key) {
            self.find_gaps(core, keyspace, key)?;
        }
        let is_delete = version.kind == EntryKind::Delete;
        let in_run = current.versions.len() == 1
            && self.gaps.takes(key)
            && self.finder.eligible().takes(keyspace, key, version.number, is_delete);
        match (&mut self.run, &mut self.run_nodes) {
            (Some(run), Some(nodes)) if in_run => {
                let hash = key_hash(core.pages.layout().filter_seed(), keyspace, key);
                let is_apart = wants_blocks(core, version.kind, value);
                let kind = version.kind;
                let placed = place(core, keyspace, kind, value, is_apart, &mut self.change)?;
                let (kind, value) = (placed.kind, &placed.value);
                let entry = NewEntry { kind, key, number: 0, value, hash };
                run.push(nodes, &entry, placed.overflow)
            }
            _ => self.push_young(core, current),
        }
    }

    /// Looks where the next keys go, and begins a run when they fall into another lowest parent of
    /// the last level.
    fn find_gaps(&mut self, core: &Arc<Core>, keyspace: KeyspaceNumber, key: &[u8]) -> Result<()> {
        if self.run.as_ref().is_some_and(|run| !run.range().contains(key)) {
            self.end_run()?;
        }
        let open = self.run.as_ref().map(Run::range);
        let finding = self.finder.find(core, keyspace, key, open)?;
        self.gaps = finding.gaps;
        if let Some((place, reservation)) = finding.begins {
            self.end_run()?;
            let until = place.range.end.clone();
            self.run = Run::begin(core, keyspace, place, reservation)?;
            if self.run.is_none() {
                self.gaps = Gaps::none_before(until);
            } else if self.runs_of.last() != Some(&keyspace) {
                self.runs_of.push(keyspace);
            }
        } else if let Some(run) = &mut self.run {
            run.has_at_hand(finding.leaf);
        }
        Ok(())
    }

    /// The versions to keep, newest first; the overflow values of the others die.
    fn take_versions(&mut self, current: &mut Current) -> Result<()> {
        let table = &self.slot.table;
        current.begin(&self.cursor);
        let mut newer = None;
        while current.is_at(&self.cursor) {
            let number = self.cursor.sequence();
            let operation = self.cursor.operation();
            self.taken_bytes += PASSED_BYTES + (current.key.len() + operation.value().len()) as u64;
            let is_hidden = |at: SequenceNumber| {
                let cover = table.covering_range_delete(current.keyspace, &current.key, at);
                cover.is_some_and(|cover| cover > number)
            };
            let is_seen = is_seen(number, newer, &self.registered, is_hidden);
            if is_seen {
                match operation {
                    Operation::Put(value) => current.keep(number, EntryKind::Put, value),
                    Operation::PutOverflow(value) => {
                        current.keep(number, EntryKind::PutOverflow, value);
                    }
                    Operation::Delete => current.keep(number, EntryKind::Delete, b""),
                }
            } else if let Operation::PutOverflow(reference) = operation {
                let reference = decode_reference(reference)?;
                let died = blocks_of(&reference).map(|block| Dead::value(block, Epoch(0)));
                self.change.died.extend(died);
            }
            self.beside_bytes += if is_seen { 0 } else { PASSED_BYTES };
            newer = Some(number);
            self.cursor.next();
        }
        Ok(())
    }

    fn push_young(&mut self, core: &Core, current: &Current) -> Result<()> {
        let (keyspace, key) = (current.keyspace, current.key.as_slice());
        let hash = key_hash(core.pages.layout().filter_seed(), keyspace, key);
        composite_key(keyspace, key, &mut self.composite);
        if self.least.is_none() {
            self.least = Some(self.composite.clone());
        }
        if self.hashes.last() != Some(&hash) {
            self.hashes.push(hash);
        }
        let mut room = RoomInLeaf::new(core.pages.layout());
        for (version, value) in current.versions() {
            let is_apart = wants_blocks(core, version.kind, value)
                || version.kind == EntryKind::Put && !room.takes(value.len());
            let placed = place(core, keyspace, version.kind, value, is_apart, &mut self.change)?;
            self.share(keyspace, (key.len() + placed.value.len()) as u64);
            let entry = NewEntry {
                kind: placed.kind,
                key: &self.composite,
                number: version.number.0,
                value: &placed.value,
                hash,
            };
            if let (Some(writer), Some(nodes)) = (&mut self.writer, &mut self.nodes) {
                writer.push(nodes, &entry, placed.overflow)?;
            }
        }
        Ok(())
    }

    fn share(&mut self, keyspace: KeyspaceNumber, bytes: u64) {
        let place = self.shares.binary_search_by_key(&keyspace, |share| share.keyspace);
        let index = place.unwrap_or_else(|index| {
            self.shares.insert(index, KeyspaceShare { keyspace, entries: 0, bytes: 0 });
            index
        });
        if let Some(share) = self.shares.get_mut(index) {
            share.entries += 1;
            share.bytes += bytes;
        }
    }

    fn end_run(&mut self) -> Result<()> {
        if let (Some(mut run), Some(nodes)) = (self.run.take(), &mut self.run_nodes) {
            run.end(nodes)?;
            self.finished_runs.push(run);
        }
        Ok(())
    }

    /// Writes what is left and installs everything.
    fn finish(&mut self, core: &Arc<Core>) -> Result<()> {
        self.end_run()?;
        if let Err(error) = self.finish_nodes(core) {
            for block in std::mem::take(&mut self.change.written) {
                core.pages.free(block);
            }
            return Err(error);
        }
        let mut runs = std::mem::take(&mut self.finished_runs);
        for run in &mut runs {
            run.add_to(&mut self.change);
        }
        let change = std::mem::take(&mut self.change);
        let pages: u64 = change.written.iter().map(|block| u64::from(block.pages)).sum();
        install(core, change)?;
        let (runs_count, up_to) = (runs.len(), self.slot.last_sequence().unwrap_or_default());
        // Their ranges were reserved until now.
        drop(runs);
        tracing::debug!(
            target: "sapwood::flush",
            %up_to,
            pages,
            runs = runs_count,
            "a memtable was flushed"
        );
        core.counters.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn finish_nodes(&mut self, core: &Arc<Core>) -> Result<()> {
        let (nodes, writer) = (self.nodes.take(), self.writer.take());
        let (Some(mut nodes), Some(writer), Some(run_nodes)) =
            (nodes, writer, self.run_nodes.take())
        else {
            return Ok(());
        };
        self.change.young = self.young_segment(core, &mut nodes, writer)?;
        for nodes in [nodes, run_nodes] {
            self.change.written.extend(nodes.finish()?.blocks);
        }
        Ok(())
    }

    fn young_segment(
        &mut self,
        core: &Core,
        nodes: &mut NodeWriter,
        writer: SegmentWriter,
    ) -> Result<Option<Segment>> {
        let has_ranges = self.slot.table.has_range_deletes();
        if writer.written().entries == 0 && !has_ranges {
            return Ok(None);
        }
        let Some(cut) = self.slot.cut.get().copied() else { return Ok(None) };
        let first = self.slot.table.first_sequence().unwrap_or(cut.sequence);
        let many = KeyspaceNumber::MANY;
        // The trees get their epoch at the install.
        let epoch = Epoch(0);
        let lowest = writer.finish(nodes, true)?;
        let points = self.built(TreeEdit::new(&core.pages, many, epoch).build(lowest)?);
        let greatest = std::mem::take(&mut self.composite);
        let mut bounds = self.least.take().map(|least| Bounds { least, greatest, open_end: false });
        let ranges = if has_ranges {
            let leaf_bytes = core.options.leaf_pages_bytes() as usize;
            let lowest = self.write_ranges(nodes, first, leaf_bytes, &mut bounds)?;
            self.built(TreeEdit::new(&core.pages, many, epoch).build(lowest)?)
        } else {
            None
        };
        let filter = self.write_filter(nodes)?;
        Ok(Some(Segment {
            number: core.new_segment_number(),
            points,
            ranges,
            filter,
            bounds,
            sequences: Some((first, cut.sequence)),
            promoted: Arc::default(),
            keyspaces: Arc::new(Counted::new(std::mem::take(&mut self.shares))),
            counted: Counted::default(),
        }))
    }

    fn built(
        &mut self,
        change: crate::segment::tree_edit::TreeChange,
    ) -> Option<crate::segment::descriptor::TreeRoot> {
        self.change.written.extend_from_slice(&change.born);
        change.root
    }

    /// Writes the memtable's range tombstones with composite keys, which count for their keyspaces'
    /// shares and for the bounds of the young segment. One is held at a time: all of them may take
    /// as much as the memtable does.
    fn write_ranges(
        &mut self,
        nodes: &mut NodeWriter,
        first: SequenceNumber,
        leaf_bytes: usize,
        bounds: &mut Option<Bounds>,
    ) -> Result<Lowest> {
        let base = Some(first.0);
        let mut writer = ranges_writer(KeyspaceNumber::MANY, base, leaf_bytes, Vec::new());
        // The last one, until what comes next does not go on with it.
        let mut open: Option<(KeyspaceNumber, Fragment)> = None;
        for fragment in self.slot.table.range_deletes().iter() {
            let keyspace = fragment.keyspace();
            let range = KeyRange::new(fragment.start(), fragment.end().map(<[u8]>::to_vec));
            let KeyRange { start, end } = composite_range(keyspace, &range);
            let greatest = end.clone().unwrap_or_default();
            let own = Bounds { least: start.clone(), greatest, open_end: false };
            *bounds = Some(bounds.take().map_or_else(|| own.clone(), |all| all.union(&own)));
            let numbers = numbers_seen(fragment, &self.registered);
            match &mut open {
                Some((of, before)) if *of == keyspace && before.goes_on_in(&start, &numbers) => {
                    before.end = end;
                }
                _ => {
                    self.share(keyspace, (range.start.len() + 16) as u64);
                    let next = (keyspace, Fragment { start, end, numbers });
                    if let Some((_, done)) = open.replace(next) {
                        push_fragments(&mut writer, nodes, base, &[done])?;
                    }
                }
            }
        }
        if let Some((_, last)) = open {
            push_fragments(&mut writer, nodes, base, &[last])?;
        }
        writer.finish(nodes, true)
    }

    fn hash_bytes(&self) -> u64 {
        (self.hashes.capacity() * size_of::<u64>()) as u64
    }

    fn write_filter(&mut self, nodes: &mut NodeWriter) -> Result<SegmentFilter> {
        if self.hashes.is_empty() {
            return Ok(SegmentFilter::new(self.filter_seed, Vec::new()));
        }
        let line_count = lines_for(self.hashes.len() as u64, YOUNG_FILTER_BITS);
        self.charge.set(self.hash_bytes() + u64::from(line_count) * LINE_BYTES as u64);
        let mut lines = Vec::new();
        filter::build(&self.hashes, self.filter_seed, line_count, &mut lines)
            .map_err(|problem| problem.corruption(Structure::Filter))?;
        SegmentFilter::write(nodes, self.filter_seed, lines)
    }
}

fn decode_reference(bytes: &[u8]) -> Result<OverflowReference> {
    OverflowReference::decode(bytes)
        .map_err(|problem| Error::from(problem.corruption(Structure::Overflow)))
}

/// What a version becomes in a leaf.
struct PlacedValue<'a> {
    kind: EntryKind,
    value: Cow<'a, [u8]>,
    overflow: Option<LeafOverflow>,
}

/// True when a value is too large for a leaf.
fn wants_blocks(core: &Core, kind: EntryKind, value: &[u8]) -> bool {
    kind == EntryKind::Put && wants_overflow(value.len(), core.pages.layout().usable_bytes())
}

/// Places a value: in its leaf or, when it is to lie apart, in blocks of its own.
fn place<'a>(
    core: &Core,
    keyspace: KeyspaceNumber,
    kind: EntryKind,
    value: &'a [u8],
    is_apart: bool,
    change: &mut Change,
) -> Result<PlacedValue<'a>> {
    let reference = match kind {
        EntryKind::PutOverflow => {
            let reference = decode_reference(value)?;
            let is_uncertain = |block| core.log_named.is_uncertain(block);
            let must_move = blocks_of(&reference).any(is_uncertain);
            if must_move {
                write_anew(core, keyspace, &reference, change)?
            } else {
                change.adopted.extend(blocks_of(&reference));
                reference
            }
        }
        EntryKind::Put if is_apart => {
            let codec = core.catalogue.load().settings(keyspace).value_codec;
            let reference = write_value(&core.pages, keyspace, codec, value)?;
            change.written.extend(blocks_of(&reference));
            reference
        }
        kind => return Ok(PlacedValue { kind, value: Cow::Borrowed(value), overflow: None }),
    };
    let mut value = Vec::new();
    reference.encode(&mut value);
    let overflow = LeafOverflow { birth: reference.birth, blocks: reference.blocks };
    let (kind, value) = (EntryKind::PutOverflow, Cow::Owned(value));
    Ok(PlacedValue { kind, value, overflow: Some(overflow) })
}

/// Copies a value to other blocks, piece by piece; the ones that it lay in die.
fn write_anew(
    core: &Core,
    keyspace: KeyspaceNumber,
    old: &OverflowReference,
    change: &mut Change,
) -> Result<OverflowReference> {
    let codec = core.catalogue.load().settings(keyspace).value_codec;
    let reader = OverflowReader::open(&*core.pages, keyspace, old)?;
    let mut writer = OverflowWriter::new(&core.pages, keyspace, codec);
    for chunk_index in 0..reader.chunk_count() {
        writer.push(&reader.read_chunk(chunk_index)?)?;
    }
    let reference = writer.finish()?;
    change.written.extend(blocks_of(&reference));
    change.died.extend(blocks_of(old).map(|block| Dead::value(block, Epoch(0))));
    Ok(reference)
}

/// Every block that a step wrote; tests compare it with what an install references.
pub fn written_blocks(change: &Change) -> impl Iterator<Item = Block> + '_ {
    change.written.iter().copied()
}
