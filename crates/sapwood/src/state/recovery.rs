//! Finds the newest durable state in a file and replays the log behind its cut.
//!
//! *Guarantees*: nothing is written, so recovery can be interrupted anywhere and begun again with
//! the same result. Everything that was read is checked; damage is an error that names its place.
//! *Format*: docs/format.md, sections 2, 5 and 6. *Threads*: one, before anything else runs.

use std::path::PathBuf;

use super::apply;
use super::by_reference;
use super::catalogue::Catalogue;
use super::core::{CommitNumbers, Core, CoreParts};
use super::dead_list::{HeldStates, ListLimits};
use super::durable::{Durable, DurableInner, Limits, OpenedSlot, STAMP_LIMIT_AHEAD};
use super::log_named::LogNamed;
use super::manifest::{self, Manifest};
use super::pending_blocks::PendingBlocks;
use super::state::{Cut, State};
use super::view::{ByReference, MemtableSlot, View};
use crate::error::{Corruption, Error, Result, Structure};
use crate::log::operation::operations;
use crate::log::reader::{ReplayEnd, ReplayStart, Visit, replay, replay_to_read};
use crate::log::record::{Record, RecordKind};
use crate::log::ring::{Ring, RingList};
use crate::log::stream::BlockStream;
use crate::log::writer::{LogStart, LogWriter};
use crate::memtable::{ChunkPool, Memtable};
use crate::options::Options;
use crate::page::file_header::{newest_first, read_slots};
use crate::page::state_node::read_state;
use crate::page::{
    Block, HeaderSlot, Layout, MemoryBudget, OpenedState, PageManager, PageOptions, StateLocation,
};
use crate::segment::overflow::verify_value;
use crate::storage::Storage;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Arc, Clock};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

/// A durable state as it was read.
#[derive(Debug)]
pub struct ReadState {
    /// The slot that names it.
    pub slot: HeaderSlot,
    /// The sizes that the slot gives.
    pub layout: Layout,
    /// What it says.
    pub manifest: Manifest,
}

/// Reads the newest durable state that can be read.
///
/// # Errors
/// `NotADatabase`, `UnsupportedVersion`, `UnknownFeature`, or the damage of the newest state when
/// the one before cannot be read either.
pub fn read_newest_state(storage: &dyn Storage, read_only: bool) -> Result<ReadState> {
    let mut first_error = None;
    for slot in newest_first(read_slots(storage)?, &storage.name())? {
        match read_slot_state(storage, slot, read_only) {
            Ok(found) => return Ok(found),
            Err(error @ Error::Corruption(_)) => {
                tracing::warn!(target: "sapwood::open", %error, "a durable state cannot be read");
                first_error.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(first_error.unwrap_or_else(|| Error::NotADatabase(PathBuf::from(storage.name()))))
}

fn read_slot_state(storage: &dyn Storage, slot: HeaderSlot, read_only: bool) -> Result<ReadState> {
    slot.check_features(&storage.name(), read_only)?;
    let layout = slot.layout()?;
    let length = storage
        .length()
        .map_err(|error| Error::io("asking for the length", storage.name(), error))?;
    slot.check_length(length)?;
    let file_pages = length / u64::from(layout.page_size);
    let encoded = read_state(&layout, storage, &slot)?;
    let manifest = manifest::decode(&encoded, file_pages)?;
    Ok(ReadState { slot, layout, manifest })
}

/// Opens the database in `storage`.
///
/// # Errors
/// As [`read_newest_state`]; and damage of a free map or of the log.
pub(crate) fn open(storage: Arc<dyn Storage>, options: Options, clock: Clock) -> Result<Arc<Core>> {
    let read = read_newest_state(&*storage, options.read_only)?;
    let budget = Arc::new(MemoryBudget::new(options.memory_budget));
    let pages = open_pages(&storage, &read, &budget, &options)?;
    let own_blocks = own_blocks(&read.slot);
    for block in &own_blocks {
        // They are this state's own and no part of what the next one references.
        pages.check_block(*block).map_err(|detail| Corruption::new(Structure::State, detail))?;
        if !pages.allocator().is_referenced(*block) {
            let detail = "its free map does not know the state's own blocks";
            return Err(Corruption::new(Structure::FreeMap, detail).at_page(block.first).into());
        }
        pages.allocator().dereference(*block);
    }
    let stream =
        BlockStream::new(storage.clone(), read.layout.page_size, read.layout.usable_bytes() as u32);
    let pool = Arc::new(ChunkPool::new((options.memory_budget / 8) as usize));
    let cut = read.manifest.contents.cut;
    let memory = ReplayMemory::new(&options);
    // What is never flushed lies in one memtable best: each further one costs chunks of its own.
    let bytes_max = if options.read_only { memory.bytes_max } else { options.memory_budget / 4 };
    let mut replayed = Replayed {
        pages: &pages,
        pool: &pool,
        bytes_max: bytes_max as usize,
        memory,
        catalogue: (*read.manifest.contents.catalogue).clone(),
        slots: vec![MemtableSlot::new(Memtable::new(pool.clone()), cut)],
        log_named: LogNamed::default(),
        pending: Arc::new(PendingBlocks::new(&budget)),
        last: cut,
        durable: read.manifest.log.durable,
        keyspace_most: KeyspaceNumber(0),
    };
    let list = ring_list(&read.manifest);
    let start = ReplayStart {
        generation: read.slot.generation,
        list: list.clone(),
        cut: cut.position,
        chain: cut.chain,
        durable: read.manifest.log.durable,
        sequence: cut.sequence,
        seed: read.layout.seed(),
    };
    let end = match options.read_only {
        true => replay_to_read(&stream, &start, &mut |record| replayed.visit(record))?,
        false => replay(&stream, &start, &mut |record| replayed.visit(record))?,
    };
    replayed.check_memory(&*storage)?;
    let Replayed { catalogue, slots, log_named, pending, last, keyspace_most, .. } = replayed;
    tracing::info!(
        target: "sapwood::open",
        file = %storage.name(),
        generation = read.slot.generation,
        replayed_commits = last.sequence.0.saturating_sub(cut.sequence.0),
        replayed_bytes = end.position.0.saturating_sub(cut.position.0),
        "database opened"
    );
    assemble(Assembly {
        read,
        pages: pages.clone(),
        pool: pool.clone(),
        budget,
        options,
        clock,
        own_blocks,
        stream,
        list,
        end,
        catalogue,
        slots,
        log_named,
        pending,
        last,
        keyspace_most,
    })
}

fn open_pages(
    storage: &Arc<dyn Storage>,
    read: &ReadState,
    budget: &Arc<MemoryBudget>,
    options: &Options,
) -> Result<Arc<PageManager>> {
    let length = storage
        .length()
        .map_err(|error| Error::io("asking for the length", storage.name(), error))?;
    let counters = &read.manifest.counters;
    let next_stamp = counters.clean.map_or(counters.stamp_limit, |clean| clean.next_stamp);
    let page_options = PageOptions {
        storage: storage.clone(),
        layout: read.layout,
        budget: budget.clone(),
        max_file_bytes: options.max_file_bytes,
    };
    let opened = OpenedState {
        // What a record names may lie behind what the state knew (D10).
        file_pages: read.manifest.file_pages.max(length / u64::from(read.layout.page_size)),
        regions: read.manifest.regions.clone(),
        next_stamp,
        stamp_limit: next_stamp.saturating_add(STAMP_LIMIT_AHEAD),
    };
    let pages = PageManager::open(page_options, &opened)?;
    if options.memory_map {
        pages.read_in_place();
    }
    Ok(pages)
}

fn own_blocks(slot: &HeaderSlot) -> Vec<Block> {
    match &slot.state {
        StateLocation::Inline(_) => Vec::new(),
        StateLocation::Blocks { blocks, .. } => blocks.clone(),
    }
}

fn ring_list(manifest: &Manifest) -> RingList {
    RingList { start: manifest.log.first_position, blocks: manifest.log.blocks.clone() }
}

/// The parts of the memory budget that replay may take when nothing can be flushed (O3).
const REPLAY_BUDGET_PARTS: (u64, u64) = (3, 4);

/// What replay has taken of the memory budget.
struct ReplayMemory {
    /// What memtables may take together; no limit where they can be flushed.
    bytes_max: u64,
    /// What those before the active one take.
    sealed_bytes: u64,
    /// More is needed: replay goes on only to learn how much.
    only_counts: bool,
}

impl ReplayMemory {
    fn new(options: &Options) -> ReplayMemory {
        let (some, all) = REPLAY_BUDGET_PARTS;
        let bytes_max = match options.read_only {
            true => options.memory_budget / all * some,
            false => u64::MAX,
        };
        ReplayMemory { bytes_max, sealed_bytes: 0, only_counts: false }
    }

    /// The budget of which `bytes` are what replay may take, in whole MiB.
    fn budget_for(bytes: u64) -> u64 {
        let (some, all) = REPLAY_BUDGET_PARTS;
        (bytes.div_ceil(some).saturating_mul(all)).next_multiple_of(1 << 20)
    }
}

/// What replay has built so far.
struct Replayed<'a> {
    pages: &'a Arc<PageManager>,
    pool: &'a Arc<ChunkPool>,
    /// A memtable is sealed when it has grown to this.
    bytes_max: usize,
    memory: ReplayMemory,
    catalogue: Catalogue,
    /// Oldest first; the last one is active.
    slots: Vec<Arc<MemtableSlot>>,
    log_named: LogNamed,
    pending: Arc<PendingBlocks>,
    /// Behind the last commit.
    last: Cut,
    /// Up to where the log is known to be on disk.
    durable: LogPosition,
    keyspace_most: KeyspaceNumber,
}

impl Replayed<'_> {
    fn visit(&mut self, record: &Record<'_>) -> Result<Visit> {
        self.durable = self.durable.max(record.durable);
        match record.kind {
            RecordKind::Commit => self.commit(record),
            RecordKind::CommitByReference => self.commit_by_reference(record),
            RecordKind::StateDurable | RecordKind::Padding | RecordKind::Opened => {
                Ok(Visit::Continue)
            }
        }
    }

    fn commit(&mut self, record: &Record<'_>) -> Result<Visit> {
        let applied = apply::inspect(operations(record.payload)?)?;
        let named = applied.named_blocks();
        // What was on disk before its record need not be read; the rest may have been lost with the
        // power.
        if !record.blocks_on_disk && record.end > self.durable {
            for (keyspace, reference) in &applied.named {
                // What cannot be read at all may be whole: only damage ends the log.
                match verify_value(self.pages, *keyspace, reference) {
                    Err(Error::Corruption(_)) => return Ok(Visit::EndsLog),
                    checked => checked?,
                }
            }
        }
        for block in &named {
            self.pages.allocator().claim(*block)?;
        }
        self.log_named.add(record.end, &named);
        if !record.blocks_on_disk {
            self.log_named.add_uncertain(record.end, &named);
        }
        for change in &applied.changes {
            if let super::catalogue::CatalogueChange::Create(number, ..) = change {
                self.keyspace_most = self.keyspace_most.max(*number);
            }
        }
        let slot = match self.slots.last() {
            Some(slot) if slot.table.bytes() < self.bytes_max => slot.clone(),
            _ => self.seal(),
        };
        let operations = operations(record.payload)?;
        apply::insert(&slot, &mut self.catalogue, record.sequence, operations, &applied.changes)?;
        self.last = Cut { sequence: record.sequence, position: record.end, chain: record.crc };
        if self.memory.sealed_bytes + slot.table.bytes() as u64 > self.memory.bytes_max {
            self.memory.only_counts = true;
        }
        Ok(Visit::Continue)
    }

    /// # Errors
    /// When what was replayed takes more memory than it may.
    fn check_memory(&self, storage: &dyn Storage) -> Result<()> {
        if !self.memory.only_counts {
            return Ok(());
        }
        let active = self.slots.last().map_or(0, |slot| slot.table.bytes() as u64);
        let bytes = self.memory.sealed_bytes + active;
        let detail = format!(
            "the log of {} takes {bytes} bytes of memory when it is replayed, and a read-only open \
             keeps all of them there; set it to {} at least, or open the file once for writing",
            storage.name(),
            ReplayMemory::budget_for(bytes)
        );
        Err(Error::InvalidOption { option: "memory_budget", detail })
    }

    /// Adopts what a transaction wrote beforehand, in its place between the memtables (P9).
    fn commit_by_reference(&mut self, record: &Record<'_>) -> Result<Visit> {
        let file_pages = self.pages.allocator().file_pages();
        let segments = by_reference::decode(record, file_pages)?;
        let blocks = self.pending.add(by_reference::claim(self.pages, &segments)?, Vec::new());
        match self.slots.last() {
            Some(last) if last.is_empty() => drop(self.slots.pop()),
            Some(last) => {
                // Never set before, as in `seal`.
                let _ = last.cut.set(self.last);
                self.memory.sealed_bytes += last.table.bytes() as u64;
            }
            None => {}
        }
        self.last = Cut { sequence: record.sequence, position: record.end, chain: record.crc };
        let segments = segments.into_iter().map(Arc::new).collect();
        let commit = ByReference { number: record.sequence, segments, blocks };
        let table = || Memtable::new(self.pool.clone());
        self.slots.push(MemtableSlot::of_commit(table(), commit, self.last));
        self.slots.push(MemtableSlot::new(table(), self.last));
        Ok(Visit::Continue)
    }

    fn seal(&mut self) -> Arc<MemtableSlot> {
        if let Some(full) = self.slots.last() {
            // Never set before: only here, once for each.
            let _ = full.cut.set(self.last);
            self.memory.sealed_bytes += full.table.bytes() as u64;
        }
        if self.memory.only_counts {
            self.slots.clear();
        }
        let slot = MemtableSlot::new(Memtable::new(self.pool.clone()), self.last);
        self.slots.push(slot.clone());
        slot
    }
}

/// Everything that an open has gathered.
struct Assembly {
    read: ReadState,
    pages: Arc<PageManager>,
    pool: Arc<ChunkPool>,
    budget: Arc<MemoryBudget>,
    options: Options,
    clock: Clock,
    own_blocks: Vec<Block>,
    stream: BlockStream,
    list: RingList,
    end: ReplayEnd,
    catalogue: Catalogue,
    slots: Vec<Arc<MemtableSlot>>,
    log_named: LogNamed,
    pending: Arc<PendingBlocks>,
    last: Cut,
    keyspace_most: KeyspaceNumber,
}

fn assemble(assembly: Assembly) -> Result<Arc<Core>> {
    let Assembly { read, pages, end, mut slots, last, .. } = assembly;
    let counters = read.manifest.counters;
    let clean = counters.clean;
    let limits = ListLimits::new(&assembly.budget, assembly.options.dead_list_bytes);
    let held = HeldStates::new(&assembly.budget, limits);
    let epoch = read.manifest.contents.epoch;
    let state = State::new(read.manifest.contents, held.releases());
    let ring = Ring::new(&assembly.list, assembly.stream.usable_bytes())?;
    let state_is_recorded = end.state_is_recorded;
    let is_unsynced = end.durable < last.position;
    assembly.log_named.known_durable(end.durable);
    let start = match assembly.options.read_only {
        true => LogStart::to_read(end),
        false => LogStart::after_replay(end),
    };
    let log = LogWriter::open(assembly.stream, ring, read.layout.seed(), start);
    // D8: at the limit, or exactly on after a clean close, and behind everything replayed.
    let next_sequence = clean
        .map_or(counters.sequence_limit, |clean| clean.last_sequence.saturating_add(1))
        .max(last.sequence.0.saturating_add(1))
        .max(1);
    let next_keyspace = clean
        .map_or(counters.keyspace_limit, |clean| clean.next_keyspace)
        .max(assembly.keyspace_most.0.saturating_add(1));
    let next_segment = clean.map_or(counters.segment_limit, |clean| clean.next_segment);
    let next_epoch = if clean.is_some() { epoch.next() } else { Epoch(counters.epoch_limit) };
    let active = slots
        .pop()
        .unwrap_or_else(|| MemtableSlot::new(Memtable::new(assembly.pool.clone()), last));
    slots.reverse();
    let durable = DurableInner {
        generation: read.slot.generation,
        state: Some(state.clone()),
        own_blocks: assembly.own_blocks,
        limits: Limits {
            sequence: counters.sequence_limit,
            epoch: counters.epoch_limit,
            keyspace: counters.keyspace_limit,
            segment: counters.segment_limit,
        },
        opened: Some(OpenedSlot { epoch: read.slot.epoch, slot: read.slot, state_is_recorded }),
        log_blocks: assembly.list.blocks,
        settled_at: None,
    };
    let visible = last.sequence.max(SequenceNumber(next_sequence.saturating_sub(1)));
    let core = Core::new(CoreParts {
        pages,
        log,
        clock: assembly.clock,
        options: assembly.options,
        view: View { active, sealed: slots, state },
        catalogue: assembly.catalogue,
        numbers: CommitNumbers {
            next_sequence: AtomicU64::new(next_sequence),
            next_keyspace: AtomicU32::new(next_keyspace),
        },
        next_epoch,
        next_segment,
        visible,
        held,
        log_named: assembly.log_named,
        pending: assembly.pending,
        durable: Durable::new(durable),
        pool: assembly.pool,
    });
    core.charge_memtables();
    if is_unsynced && !core.options.read_only {
        // The process that was to sync it is gone.
        core.background.note_commit(core.clock.now(), true);
    }
    Ok(core)
}
