//! One promotion step: merges a range of some segments into a deeper level.
//!
//! *Assumes*: the plan's range is reserved; the sources are in order of precedence and all newer
//! than the destination (G1). *Guarantees*: I2: entries in = entries out + entries dropped, by
//! count and by hash. Leaves of the destination that nothing overlaps are referenced again unread.
//! A step that fails gives everything back. *Threads*: any number of steps beside one another.

use crate::error::{Error, Result, Structure};
use crate::page::{Block, Charge, Codec, MemoryPart, NodeWriter, PageManager};
use crate::segment::descriptor::{Bounds, Segment};
use crate::segment::filter::key_hash;
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::merge_cursor::key_head;
use crate::segment::node::{Caching, LeafNode, TreeKind, read_leaf};
use crate::segment::overflow::{OverflowReader, blocks_of};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::overflow_writer::OverflowWriter;
use crate::segment::parent_writer::LeafEntry;
use crate::segment::range_tombstone::Fragment;
use crate::segment::segment_source::SegmentSource;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_source::SortedSource;
use crate::state::background::{LEVEL_ABOVE, LEVEL_LAST, Reservation};
use crate::state::damaged::{Task, Work};
use crate::state::dead_list::Dead;
use crate::state::reserve::{Grant, grant_copy, step_pages};
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

use super::install::{Change, Destination, LevelEdit, install};
use super::ranges::source_fragments;
use super::stretch::{Side, Stretch, lowest_beside};
use super::throttle::paid_by_promotion;

/// What one step does.
#[derive(Debug)]
pub struct Plan {
    /// The keyspace.
    pub keyspace: KeyspaceNumber,
    /// Newest first; each may hold keys of the range.
    pub sources: Vec<Arc<Segment>>,
    /// What moves.
    pub range: KeyRange,
    /// It takes no more of its sources, as far as that is known.
    pub taken_pages_max: u64,
    /// Where to.
    pub destination: Destination,
    /// The seed of its filters.
    pub filter_seed: u64,
    /// The lowest parents of the destination that hold the range; `None` when it has no tree yet.
    pub stretch: Option<Stretch>,
    /// Nothing lies below the destination: tombstones go.
    pub is_last: bool,
    /// The keyspace is dropped: nothing of it is kept.
    pub dropped: bool,
    /// Leaves and values that reach behind this page are written anew: the file is to be cut there.
    pub evacuate_from: Option<PageNumber>,
    /// Held until the install is done.
    pub reservation: Reservation,
    /// The pages that it may take.
    pub grant: Grant,
    /// The state that the sources are of. Cursors over them read on behind the range, where nothing
    /// is reserved: what others promote there must not be used again meanwhile.
    pub state: Arc<State>,
}

impl Plan {
    /// All leaves of the stretch are written anew: for that alone, or since there is little room.
    fn packs(&self) -> bool {
        let is_asked = self.sources.is_empty() || self.grant.is_tight();
        is_asked && self.evacuate_from.is_none()
    }

    /// What it is, unless it is a part of a compaction.
    pub fn task(&self) -> Task {
        let from_young = self.sources.iter().any(|source| source.is_young());
        (self.keyspace, if from_young { Work::Young } else { Work::Above })
    }
}

/// Makes a step and installs it.
///
/// # Errors
/// When a node cannot be read or written, or what comes out does not add up: nothing is changed
/// then.
pub fn promote(core: &Arc<Core>, plan: Plan) -> Result<()> {
    let keyspace = plan.keyspace;
    let mut step = Step::new(core, &plan)?;
    let fragments = step.run()?;
    let (entries, dropped) = (step.read.entries, step.dropped.entries);
    let change = step.into_change(fragments)?;
    let pages: u64 = change.written.iter().map(|block| u64::from(block.pages)).sum();
    let page_bytes = u64::from(core.pages.layout().page_size);
    // Of many small keyspaces each step takes little, which pays for little.
    let bytes_of = |source: &Arc<Segment>| match source.share_of(keyspace) {
        Some(share) => share.bytes,
        None => source.pages().saturating_mul(page_bytes),
    };
    let held = plan.sources.iter().map(bytes_of).fold(0, u64::saturating_add);
    let held = held.min(plan.taken_pages_max.saturating_mul(page_bytes));
    // All is read; what dies now need not wait for this step.
    drop(plan.state);
    install(core, change)?;
    tracing::debug!(
        target: "sapwood::merge",
        %keyspace,
        sources = plan.sources.len(),
        entries,
        dropped,
        pages,
        "a range was promoted"
    );
    core.counters.promotions.fetch_add(1, Ordering::Relaxed);
    let bytes = held.saturating_add(pages.saturating_mul(page_bytes));
    core.background.merge_toll.pay(paid_by_promotion(core, bytes));
    Ok(())
}

/// A promotion in which one more entry is counted as read than was.
#[cfg(test)]
pub(crate) fn promote_miscounted(core: &Arc<Core>, plan: Plan) -> Result<()> {
    let mut step = Step::new(core, &plan)?;
    let fragments = step.run()?;
    step.read.add(1);
    install(core, step.into_change(fragments)?).map(|_| ())
}

/// Makes a step that moves nodes below the plan's page; returns the state that it has installed, or
/// `None`, and nothing has changed, when there is no room for them.
///
/// # Errors
/// As [`promote`].
pub fn evacuate(core: &Arc<Core>, plan: Plan) -> Result<Option<Epoch>> {
    let mut step = Step::new(core, &plan)?;
    let fragments = step.run()?;
    let change = step.into_change(fragments)?;
    let pages = |block: &Block| u64::from(block.pages);
    let high = change.written.iter().filter(|block| is_high(**block, plan.evacuate_from));
    let (high, all): (u64, u64) = (high.map(pages).sum(), change.written.iter().map(pages).sum());
    if high > all / 4 {
        for block in change.written {
            core.pages.free(block);
        }
        return Ok(None);
    }
    drop(plan.state);
    Ok(Some(install(core, change)?.epoch))
}

fn is_high(block: Block, ceiling: Option<PageNumber>) -> bool {
    ceiling.is_some_and(|ceiling| block.end() > ceiling)
}

/// Blocks of values that a step has copied: free again unless they are taken over.
struct Copied {
    pages: Arc<PageManager>,
    blocks: Vec<Block>,
    /// How many pages these have.
    page_count: u64,
}

impl Drop for Copied {
    fn drop(&mut self) {
        for block in std::mem::take(&mut self.blocks) {
            self.pages.free(block);
        }
    }
}

/// Entries counted on their way, with the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) entries: u64,
    pub(super) hash_sum: u64,
}

impl Tally {
    pub(super) fn add(&mut self, hash: u64) {
        self.entries = self.entries.saturating_add(1);
        self.hash_sum = self.hash_sum.wrapping_add(hash);
    }
}

struct Step<'a> {
    core: &'a Arc<Core>,
    plan: &'a Plan,
    sources: Vec<SegmentSource>,
    heads: Vec<u64>,
    any_ranges: bool,
    nodes: NodeWriter,
    writer: SegmentWriter,
    file_seed: u64,
    key: Vec<u8>,
    read: Tally,
    dropped: Tally,
    died: Vec<Dead>,
    value_codec: Codec,
    copied: Copied,
    /// The separators of the lowest parents that are replaced lie in here.
    replaced: KeyRange,
    /// A neighbour of the stretch that comes in.
    reserved: Option<Reservation>,
    /// What is held of the sources' range tombstones and of the destination's leaves, which the
    /// plan bounds.
    held: Charge,
}

impl<'a> Step<'a> {
    fn new(core: &'a Arc<Core>, plan: &'a Plan) -> Result<Step<'a>> {
        let mut sources = Vec::with_capacity(plan.sources.len());
        for segment in &plan.sources {
            let mut source = SegmentSource::new(&core.pages, segment, plan.keyspace, Caching::Pass);
            source.seek(&plan.range.start)?;
            sources.push(source);
        }
        let settings = core.catalogue.load().settings(plan.keyspace);
        let options = LeafOptions {
            leaf_bytes: core.options.leaf_pages_bytes() as usize,
            codec: settings.codec,
            base_number: None,
            keyspace: plan.keyspace,
        };
        let filter = FilterOptions { seed: plan.filter_seed, bits_per_key: settings.filter_bits };
        let separator =
            plan.stretch.as_ref().map(|stretch| stretch.range.start.clone()).unwrap_or_default();
        let hint = core.options.step_bytes / u64::from(core.pages.layout().page_size);
        let stretch = plan.stretch.as_ref();
        let heads = sources.iter().map(|source| key_head(source.key())).collect();
        Ok(Step {
            core,
            plan,
            heads,
            any_ranges: sources.iter().any(SortedSource::has_ranges),
            sources,
            nodes: NodeWriter::new(core.pages.clone(), plan.grant.at_once(hint)),
            writer: SegmentWriter::new(options, filter, separator),
            file_seed: core.pages.layout().filter_seed(),
            key: Vec::new(),
            read: Tally::default(),
            dropped: Tally::default(),
            died: Vec::new(),
            value_codec: settings.value_codec,
            copied: Copied { pages: core.pages.clone(), blocks: Vec::new(), page_count: 0 },
            replaced: stretch.map_or_else(KeyRange::all, |stretch| stretch.range.clone()),
            reserved: None,
            held: core
                .pages
                .budget()
                .charge(MemoryPart::MergeBuffers, stretch.map_or(0, Stretch::memory_bytes)),
        })
    }

    /// Merges the range; returns the range tombstones that go along.
    fn run(&mut self) -> Result<Vec<Fragment>> {
        let (plan, pages) = (self.plan, &self.core.pages);
        let fragments = source_fragments(pages, plan.keyspace, &plan.sources, &plan.range)?;
        let fragments = fragments.collect::<Result<Vec<Fragment>>>()?;
        self.held.add(fragments.iter().map(|f| f.memory_bytes() as u64).sum());
        match &self.plan.stretch {
            None => self.merge_up_to(self.plan.range.end.as_deref(), None)?,
            Some(stretch) => {
                // The range is marked as promoted: all of it must lie in what is merged here.
                if self.next_key_before(Some(&stretch.range.start)) {
                    return Err(self.mismatch("a key lies before the parents it goes to"));
                }
                self.merge_stretch(stretch, &fragments)?;
                if self.next_key_before(None) {
                    return Err(self.mismatch("a key lies behind the parents it goes to"));
                }
                if self.replaced != KeyRange::all() {
                    self.pack_with_neighbour()?;
                }
            }
        }
        Ok(fragments)
    }

    fn mismatch(&self, what: &str) -> Error {
        let (epoch, keyspace) = (self.core.state().epoch, self.plan.keyspace);
        Error::MergeMismatch { epoch, detail: format!("{what}, in keyspace {keyspace}") }
    }

    /// Too few leaves for a parent of their own: those of a neighbour come in, if no other step
    /// works on it (G4).
    fn pack_with_neighbour(&mut self) -> Result<()> {
        if !self.writer.is_under_third(&mut self.nodes)? {
            return Ok(());
        }
        if let Some(end) = self.replaced.end.clone()
            && let Some(behind) = self.reserve_neighbour(&end, Side::Behind)?
        {
            for leaf in behind.leaves {
                self.writer.reuse(&mut self.nodes, leaf)?;
            }
            self.died.extend(behind.died);
            self.replaced.end = behind.range.end;
            return Ok(());
        }
        let start = self.replaced.start.clone();
        if let Some(before) = self.reserve_neighbour(&start, Side::Before)? {
            self.writer.prepend(before.leaves);
            self.died.extend(before.died);
            self.replaced.start = before.range.start;
        }
        Ok(())
    }

    /// The lowest parent of the destination beside a border of the stretch, reserved.
    fn reserve_neighbour(&mut self, border: &[u8], side: Side) -> Result<Option<Stretch>> {
        let (pages, keyspace) = (&self.core.pages, self.plan.keyspace);
        let number = self.plan.destination.number();
        let find = || {
            let state = self.core.state();
            let segment = Core::find_segment(&state, number);
            match segment.as_ref().and_then(|segment| segment.points.as_ref()) {
                Some(root) => lowest_beside(pages, keyspace, root, border, side),
                None => Ok(None),
            }
        };
        let Some(found) = find()? else { return Ok(None) };
        let level = if self.plan.is_last { LEVEL_LAST } else { LEVEL_ABOVE };
        let reservations = &self.core.background.reservations;
        let own = &self.plan.reservation;
        let reserved = reservations.reserve_beside(own, keyspace, level, found.range.clone());
        let Ok(reservation) = reserved else { return Ok(None) };
        // An install may have come between the look and the reservation.
        if find()?.as_ref() != Some(&found) {
            return Ok(None);
        }
        let stretch = found.into_stretch(pages, keyspace)?;
        self.reserved = Some(reservation);
        Ok(Some(stretch))
    }

    fn merge_stretch(&mut self, stretch: &Stretch, fragments: &[Fragment]) -> Result<()> {
        // The writer begins with a stretch of its own.
        let mut reused_before = false;
        for (index, leaf) in stretch.leaves.iter().enumerate() {
            let end = match stretch.leaves.get(index + 1) {
                Some(next) => Some(next.separator.as_slice()),
                None => stretch.range.end.as_deref(),
            };
            // Keys below the first separator belong to the first leaf.
            let start = if index == 0 { stretch.range.start.as_slice() } else { &leaf.separator };
            let overlapped = stretch.lone_leaf
                || self.plan.dropped
                || self.plan.packs()
                || self.leaves_tail(leaf)
                || self.next_key_before(end)
                || reach_into(fragments, start, end);
            if !overlapped {
                self.writer.reuse(&mut self.nodes, leaf.clone())?;
                reused_before = true;
                continue;
            }
            if reused_before {
                self.writer.begin_stretch(&mut self.nodes, leaf.separator.clone())?;
                reused_before = false;
            }
            // Of a lone leaf nothing says which values it has.
            match !stretch.lone_leaf && self.covers_whole(fragments, start, end) {
                true => self.drop_leaf(leaf, end)?,
                false => self.merge_leaf(leaf, start, end)?,
            }
        }
        Ok(())
    }

    /// True when a range tombstone of the sources hides all that a leaf may hold. The destination
    /// is older than all of them (G1).
    fn covers_whole(&self, fragments: &[Fragment], start: &[u8], end: Option<&[u8]>) -> bool {
        // Asked for each leaf that is overlapped: nothing is copied.
        let covers = |from: &[u8], to: Option<&[u8]>| {
            from <= start && to.is_none_or(|to| end.is_some_and(|end| end <= to))
        };
        // They are disjoint, and those that touch are one: only one can.
        let behind = fragments.partition_point(|fragment| fragment.start.as_slice() <= start);
        let last = behind.checked_sub(1).and_then(|last| fragments.get(last));
        last.is_some_and(|fragment| covers(&fragment.start, fragment.end.as_deref()))
            && covers(&self.plan.range.start, self.plan.range.end.as_deref())
    }

    /// Drops a leaf unread, by what its parent and its overflow list say of it; newer keys of the
    /// sources take its place.
    fn drop_leaf(&mut self, entry: &LeafEntry, end: Option<&[u8]>) -> Result<()> {
        let leaf_birth = entry.child.birth.unwrap_or(Epoch(0));
        self.died.push(Dead::node(entry.child.reference.block(), leaf_birth));
        for value in &entry.overflow {
            let birth = if value.birth.0 == 0 { leaf_birth } else { value.birth };
            self.died.extend(value.blocks.iter().map(|block| Dead::value(*block, birth)));
        }
        let entries = entry.child.entries;
        self.read.entries = self.read.entries.saturating_add(entries);
        self.dropped.entries = self.dropped.entries.saturating_add(entries);
        self.merge_up_to(end, None)?;
        self.tell_grant();
        Ok(())
    }

    /// What is written so far is taken of what was granted.
    fn tell_grant(&self) {
        let page_bytes = u64::from(self.core.pages.layout().page_size);
        self.plan.grant.taken(self.nodes.written_bytes() / page_bytes);
    }

    /// True when a leaf, or a value of it, lies where the file is to be cut.
    fn leaves_tail(&self, leaf: &LeafEntry) -> bool {
        let ceiling = self.plan.evacuate_from;
        let mut values = leaf.overflow.iter().flat_map(|value| &value.blocks);
        ceiling.is_some()
            && (is_high(leaf.child.reference.block(), ceiling)
                || values.any(|block| is_high(*block, ceiling)))
    }

    /// A copy of a value that lies where the file is to be cut. Once as much as a step has been
    /// copied, no more is when somebody writes: then the file is to grow, and the step to end.
    fn copy_value(
        &mut self,
        value: &[u8],
        birth: Epoch,
        out: &mut Vec<u8>,
    ) -> Result<Option<LeafOverflow>> {
        if self.plan.evacuate_from.is_none() {
            return Ok(None);
        }
        let reference = decode(value)?;
        let is_in_tail = blocks_of(&reference).any(|b| is_high(b, self.plan.evacuate_from));
        if !is_in_tail {
            return Ok(None);
        }
        let (pages, keyspace) = (&self.core.pages, self.plan.keyspace);
        self.copied.page_count = self.copied.page_count.saturating_add(reference.pages());
        let is_long = self.copied.page_count > step_pages(self.core);
        let Some(_room) = grant_copy(self.core, reference.pages())? else {
            let (operation, file) = ("moving a value towards the front".into(), pages.storage());
            return Err(Error::NoSpace { operation, file: file.name() });
        };
        let reader = OverflowReader::open(&**pages, keyspace, &reference)?;
        let writer = OverflowWriter::new(pages, keyspace, self.value_codec);
        let mut writer = writer.expect_pages(reference.pages());
        for chunk_index in 0..reader.chunk_count() {
            if is_long && !self.core.view().active.is_empty() {
                return Ok(None);
            }
            writer.push(&reader.read_chunk(chunk_index)?)?;
        }
        let copy = writer.finish()?;
        self.copied.blocks.extend(blocks_of(&copy));
        drop_value(value, birth, &mut self.died)?;
        copy.encode(out);
        Ok(Some(LeafOverflow { birth: copy.birth, blocks: copy.blocks }))
    }

    /// True when a source has a key of the range before `end`.
    fn next_key_before(&self, end: Option<&[u8]>) -> bool {
        self.sources.iter().any(|source| {
            source.valid()
                && is_before_end(source.key(), end)
                && is_before_end(source.key(), self.plan.range.end.as_deref())
        })
    }

    fn merge_leaf(&mut self, entry: &LeafEntry, start: &[u8], end: Option<&[u8]>) -> Result<()> {
        let birth = entry.child.birth.unwrap_or(Epoch(0));
        let (keyspace, kind) = (self.plan.keyspace, TreeKind::Points);
        let leaf =
            read_leaf(&self.core.pages, &entry.child.reference, keyspace, kind, Caching::Pass)?;
        leaf.check_range(start, end)?;
        self.died.push(Dead::node(entry.child.reference.block(), birth));
        let mut below = Below { leaf, birth, index: 0, key: Vec::new() };
        below.load()?;
        let end = match (end, self.plan.range.end.as_deref()) {
            (Some(end), Some(last)) => Some(end.min(last)),
            (end, last) => end.or(last),
        };
        self.merge_up_to(end, Some(&mut below))?;
        // What lies in the leaf behind the range stays as it is.
        while below.valid() {
            self.key.clear();
            self.key.extend_from_slice(&below.key);
            self.take_below(&mut below)?;
        }
        self.tell_grant();
        Ok(())
    }

    /// Merges all keys before `end`, those of a leaf of the destination included.
    fn merge_up_to(&mut self, end: Option<&[u8]>, mut below: Option<&mut Below>) -> Result<()> {
        loop {
            let front = self.front();
            let front = front.filter(|index| is_before_end(self.sources[*index].key(), end));
            let below_next = below.as_deref().is_some_and(Below::valid);
            self.key.clear();
            match (front, below.as_deref()) {
                (None, Some(leaf)) if below_next => self.key.extend_from_slice(&leaf.key),
                (Some(index), Some(leaf))
                    if below_next && leaf.key.as_slice() < self.sources[index].key() =>
                {
                    self.key.extend_from_slice(&leaf.key);
                }
                (Some(index), _) => self.key.extend_from_slice(self.sources[index].key()),
                (None, _) => return Ok(()),
            }
            if front.is_none() && !is_before_end(&self.key, end) {
                return Ok(());
            }
            self.merge_key(below.as_deref_mut())?;
        }
    }

    /// The source with the least key, the newest among equals.
    fn front(&self) -> Option<usize> {
        let mut front: Option<usize> = None;
        for index in 0..self.sources.len() {
            if !self.sources[index].valid() {
                continue;
            }
            let less = front.is_none_or(|best| {
                let order = self.heads[index].cmp(&self.heads[best]);
                order.then_with(|| self.sources[index].key().cmp(self.sources[best].key())).is_lt()
            });
            if less {
                front = Some(index);
            }
        }
        front
    }

    /// Merges all versions of the current key: the newest one that no range tombstone hides stays.
    fn merge_key(&mut self, below: Option<&mut Below>) -> Result<()> {
        let hash = key_hash(self.file_seed, self.plan.keyspace, &self.key);
        let mut decided = self.plan.dropped;
        for index in 0..self.sources.len() {
            let here = self.sources[index].valid() && self.sources[index].key() == self.key;
            if !decided {
                let cover = match self.any_ranges && self.sources[index].has_ranges() {
                    true => self.sources[index].cover(&self.key, u64::MAX)?,
                    false => None,
                };
                let number = self.sources[index].number();
                let hidden = cover.is_some_and(|cover| !here || cover.number > number);
                decided = here || hidden;
                if here && !hidden {
                    self.keep_from(index, hash)?;
                    self.sources[index].next()?;
                }
            }
            if here {
                self.drop_versions(index, hash)?;
                self.heads[index] = key_head(self.sources[index].key());
            }
        }
        match below {
            Some(below) if below.valid() && below.key == self.key => {
                if decided {
                    self.drop_below(below, hash)
                } else {
                    self.take_below(below)
                }
            }
            _ => Ok(()),
        }
    }

    /// Keeps the version on which a source stands.
    fn keep_from(&mut self, index: usize, hash: u64) -> Result<()> {
        let source = &self.sources[index];
        self.read.add(hash);
        let kind = source.kind();
        if kind == EntryKind::Delete && self.plan.is_last {
            self.dropped.add(hash);
            return Ok(());
        }
        let mut moved = Vec::new();
        let overflow = match kind {
            EntryKind::PutOverflow => {
                let birth = source.leaf_birth()?;
                Some(move_reference(source.value(), birth, &mut moved)?)
            }
            _ => None,
        };
        let value = if overflow.is_some() { moved.as_slice() } else { source.value() };
        let entry = NewEntry { kind, key: &self.key, number: 0, value, hash };
        self.writer.push(&mut self.nodes, &entry, overflow)
    }

    /// Drops what is left of the current key in a source.
    fn drop_versions(&mut self, index: usize, hash: u64) -> Result<()> {
        while self.sources[index].valid() && self.sources[index].key() == self.key {
            let source = &self.sources[index];
            self.read.add(hash);
            self.dropped.add(hash);
            if source.kind() == EntryKind::PutOverflow {
                let birth = source.leaf_birth()?;
                drop_value(source.value(), birth, &mut self.died)?;
            }
            self.sources[index].next()?;
        }
        Ok(())
    }

    fn take_below(&mut self, below: &mut Below) -> Result<()> {
        let hash = key_hash(self.file_seed, self.plan.keyspace, &self.key);
        self.read.add(hash);
        let block = below.leaf.view();
        let found = block.entry(below.index).map_err(|p| below.leaf.damage(p))?;
        if found.kind == EntryKind::Delete && self.plan.is_last {
            self.dropped.add(hash);
            return below.advance();
        }
        let mut moved = Vec::new();
        let overflow = match found.kind {
            EntryKind::PutOverflow => {
                let copy = self.copy_value(found.value, below.birth, &mut moved)?;
                match copy {
                    Some(copy) => Some(copy),
                    None => Some(move_reference(found.value, below.birth, &mut moved)?),
                }
            }
            _ => None,
        };
        let value = if overflow.is_some() { moved.as_slice() } else { found.value };
        let entry = NewEntry { kind: found.kind, key: &self.key, number: 0, value, hash };
        self.writer.push(&mut self.nodes, &entry, overflow)?;
        below.advance()
    }

    fn drop_below(&mut self, below: &mut Below, hash: u64) -> Result<()> {
        self.read.add(hash);
        self.dropped.add(hash);
        let block = below.leaf.view();
        let found = block.entry(below.index).map_err(|p| below.leaf.damage(p))?;
        if found.kind == EntryKind::PutOverflow {
            drop_value(found.value, below.birth, &mut self.died)?;
        }
        below.advance()
    }

    fn into_change(self, fragments: Vec<Fragment>) -> Result<Change> {
        let Step { core, plan, mut nodes, writer, read, dropped, mut died, mut copied, .. } = self;
        let (replaced, reserved, held) = (self.replaced, self.reserved, Some(self.held));
        let written = writer.written();
        let out = Tally { entries: written.entries, hash_sum: written.hash_sum };
        let sum = Tally {
            entries: out.entries.saturating_add(dropped.entries),
            hash_sum: out.hash_sum.wrapping_add(dropped.hash_sum),
        };
        if sum != read {
            return Err(Error::MergeMismatch {
                epoch: core.state().epoch,
                detail: format!(
                    "{} entries were read in keyspace {}, {} written and {} dropped",
                    read.entries, plan.keyspace, out.entries, dropped.entries
                ),
            });
        }
        let mut bounds = writer.key_bounds().map(|(least, greatest)| Bounds {
            least: least.to_vec(),
            greatest: greatest.to_vec(),
            open_end: false,
        });
        let fragments = if plan.is_last || plan.dropped { Vec::new() } else { fragments };
        for fragment in &fragments {
            let reach = Bounds {
                least: fragment.start.clone(),
                greatest: fragment.end.clone().unwrap_or_default().max(fragment.start.clone()),
                open_end: fragment.end.is_none(),
            };
            bounds = Some(bounds.map_or(reach.clone(), |bounds| bounds.union(&reach)));
        }
        let whole = replaced == KeyRange::all();
        let lowest = writer.finish(&mut nodes, whole)?;
        let mut blocks: Vec<Block> = nodes.finish()?.blocks;
        blocks.append(&mut copied.blocks);
        if let Some(stretch) = &plan.stretch {
            died.extend_from_slice(&stretch.died);
        }
        // A source from which all of the range had moved on before is not held by it: a step in
        // another keyspace may have taken what else it had, and with it the segment.
        let promoted = plan.sources.iter().filter_map(|segment| {
            let range = match segment.is_young() {
                true => segment.moving_range(plan.keyspace, &plan.range),
                false => plan.range.clone(),
            };
            (!segment.promoted.covers(&range)).then_some((segment.number, range))
        });
        Ok(Change {
            written: blocks,
            died,
            promoted: promoted.collect(),
            edits: vec![LevelEdit {
                keyspace: plan.keyspace,
                destination: plan.destination,
                filter_seed: plan.filter_seed,
                replaced,
                whole,
                lowest,
                fragments,
                bounds,
            }],
            reserved,
            held,
            ..Change::default()
        })
    }
}

/// A leaf of the destination that is merged.
struct Below {
    leaf: LeafNode,
    birth: Epoch,
    index: usize,
    key: Vec<u8>,
}

impl Below {
    fn valid(&self) -> bool {
        self.index < self.leaf.view().len()
    }

    fn load(&mut self) -> Result<()> {
        if self.valid() {
            let copied = self.leaf.view().copy_key(self.index, &mut self.key);
            copied.map_err(|p| self.leaf.damage(p))?;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<()> {
        self.index += 1;
        self.load()
    }
}

/// True when one of disjoint fragments, which ascend, reaches into a range.
fn reach_into(fragments: &[Fragment], start: &[u8], end: Option<&[u8]>) -> bool {
    let ends_before = |fragment: &Fragment| !is_before_end(start, fragment.end.as_deref());
    let first = fragments.get(fragments.partition_point(ends_before));
    first.is_some_and(|fragment| is_before_end(&fragment.start, end))
}

fn decode(value: &[u8]) -> Result<OverflowReference> {
    OverflowReference::decode(value)
        .map_err(|problem| problem.corruption(Structure::Overflow).into())
}

/// A reference as the next leaf holds it: with its birth spelled out.
///
/// # Errors
/// When it cannot be decoded.
pub fn move_reference(value: &[u8], leaf_birth: Epoch, out: &mut Vec<u8>) -> Result<LeafOverflow> {
    let mut reference = decode(value)?;
    if reference.birth.0 == 0 {
        reference.birth = leaf_birth;
    }
    reference.encode(out);
    Ok(LeafOverflow { birth: reference.birth, blocks: reference.blocks })
}

fn drop_value(value: &[u8], leaf_birth: Epoch, died: &mut Vec<Dead>) -> Result<()> {
    let reference = decode(value)?;
    let birth = if reference.birth.0 == 0 { leaf_birth } else { reference.birth };
    died.extend(reference.blocks.into_iter().map(|block| Dead::value(block, birth)));
    Ok(())
}

/// A range of composite keys of one keyspace, without the keyspace's number.
pub fn bare_range(keyspace: KeyspaceNumber, range: &KeyRange) -> KeyRange {
    let lead = keyspace.0.to_be_bytes();
    let bare = |key: &[u8]| key.strip_prefix(&lead).map(<[u8]>::to_vec);
    KeyRange {
        start: bare(&range.start).unwrap_or_default(),
        end: range.end.as_deref().and_then(bare),
    }
}
