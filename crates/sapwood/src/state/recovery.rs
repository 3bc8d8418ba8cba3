//! Finds the newest durable state in a file and replays the log behind its cut.
//!
//! *Guarantees*: nothing is written, so recovery can be interrupted anywhere and begun again with
//! the same result. Everything that was read is checked; damage is an error that names its place.
//! *Format*: docs/format.md, sections 2, 5 and 6. *Threads*: one, before anything else runs.

use std::path::PathBuf;

use super::backlog::PromotedLeaves;
use super::catalogue::Catalogue;
use super::core::{CommitNumbers, Core, CoreParts};
use super::dead_list::{HeldStates, ListLimits};
use super::durable::{Durable, DurableInner, Limits, OpenedSlot};
use super::keyspaces_fit::check_memory_of;
use super::log_named::LogNamed;
use super::manifest::{self, Manifest};
use super::pending_blocks::PendingBlocks;
use super::replay::Replayed;
use super::state::{Cut, State};
use super::view::{MemtableSlot, View};
use crate::error::{Corruption, Error, Result, Structure};
use crate::log::reader::{ReplayEnd, ReplayStart, replay};
use crate::log::record::Record;
use crate::log::ring::{Ring, RingList};
use crate::log::stream::BlockStream;
use crate::log::writer::{LogStart, LogWriter};
use crate::memtable::{ChunkPool, Memtable};
use crate::options::Options;
use crate::page::file_header::{is_alone, newest_first, read_slots};
use crate::page::state_node::read_state;
use crate::page::{
    Block, HeaderSlot, Layout, MemoryBudget, OpenedState, PageManager, PageOptions, StateLocation,
};
use crate::storage::{Storage, SyncGate};
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Arc, Clock};
use crate::types::{COUNT_MAX, Epoch, KeyspaceNumber, SequenceNumber};

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
    manifest.check_counters(COUNT_MAX)?;
    Ok(ReadState { slot, layout, manifest })
}

/// What may have been counted when a file is opened for writing. What is written then counts on
/// from there, and whoever only reads it must accept it, however long that goes on.
const COUNTED_MAX: u64 = COUNT_MAX / 2;

/// Refuses a state, for writing, that leaves too little to count on. The one before does not take
/// its place: this one can be read.
fn check_headroom(read: &ReadState, options: &Options) -> Result<()> {
    if options.read_only {
        return Ok(());
    }
    read.manifest.check_counters(COUNTED_MAX)?;
    check_counted(Structure::FileHeader, "generations", read.slot.generation)
}

/// The same of what the log adds to the state.
fn check_headroom_behind(last: &Cut, options: &Options) -> Result<()> {
    match options.read_only {
        true => Ok(()),
        false => check_counted(Structure::Log, "sequence numbers", last.sequence.0),
    }
}

fn check_counted(structure: Structure, name: &str, reached: u64) -> Result<()> {
    match reached > COUNTED_MAX {
        true => Err(Corruption::new(structure, format!("{name} have reached {reached}")).into()),
        false => Ok(()),
    }
}

/// Opens the database in `storage`.
///
/// # Errors
/// As [`read_newest_state`]; and damage of the log, or, unless it is opened to read, of a free map,
/// or counters that are so high that they must be damaged.
pub(crate) fn open(storage: Arc<dyn Storage>, options: Options, clock: Clock) -> Result<Arc<Core>> {
    let read = read_newest_state(&*storage, options.read_only)?;
    check_headroom(&read, &options)?;
    let budget = Arc::new(MemoryBudget::of(&options));
    let pages = open_pages(&storage, &read, &budget, &options)?;
    let own_blocks = own_blocks(&read.slot);
    for block in &own_blocks {
        check_known(&pages, *block, "its free map does not know the state's own blocks")?;
        // They are this state's own and no part of what the next one references.
        if pages.allocator().check_maps().is_ok() {
            pages.allocator().dereference(*block);
        }
    }
    let stream =
        BlockStream::new(storage.clone(), read.layout.page_size, read.layout.usable_bytes() as u32);
    let pool = Arc::new(ChunkPool::new((options.memory_budget / 8) as usize));
    let cut = read.manifest.contents.cut;
    let mut replayed = Replayed::new(&pages, &pool, &options, &read.manifest);
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
    let mut visit = |record: &Record<'_>| replayed.visit(record);
    let end = match options.without_log {
        true => ReplayEnd::without_log(&start),
        false => replay(&stream, &start, &mut visit)?,
    };
    // Where the log lies is written over, whatever is there.
    for block in list.blocks.iter().filter(|_| !options.without_log) {
        check_known(&pages, *block, "its free map does not know the log's blocks")?;
    }
    replayed.insert_buffered();
    replayed.check_memory(&*storage)?;
    let Replayed { catalogue, slots, log_named, pending, last, keyspace_most, .. } = replayed;
    check_headroom_behind(&last, &options)?;
    check_memory_of(&catalogue, &options)?;
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
        stamp_limit: next_stamp.saturating_add(options.stamps_ahead),
    };
    let pages = match options.read_only {
        true => PageManager::open_to_read(page_options, &opened)?,
        false => PageManager::open(page_options, &opened)?,
    };
    if options.memory_map {
        pages.read_in_place();
    }
    Ok(pages)
}

/// Checks a block that a state names beside its segments: its free maps, unless they cannot be
/// read, say that it is in use.
fn check_known(pages: &PageManager, block: Block, if_not: &str) -> Result<()> {
    pages.check_block(block).map_err(|detail| Corruption::new(Structure::State, detail))?;
    let allocator = pages.allocator();
    if allocator.check_maps().is_ok() && !allocator.is_referenced(block) {
        return Err(Corruption::new(Structure::FreeMap, if_not).at_page(block.first).into());
    }
    Ok(())
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
    let (contents, budget) = (read.manifest.contents, &assembly.budget);
    let state = State::new(contents, PromotedLeaves::default(), budget, held.releases());
    let ring = Ring::new(&assembly.list, assembly.stream.usable_bytes())?;
    let (state_is_recorded, state_named) = (end.state_is_recorded, end.state_named);
    let is_alone = is_alone(&**pages.storage(), &read.slot)?;
    let is_unsynced = end.durable < last.position;
    assembly.log_named.known_durable(end.durable);
    let start = match assembly.options.read_only {
        true => LogStart::to_read(end),
        false => LogStart::after_replay(end),
    };
    let sync_gate = Arc::new(SyncGate::new(assembly.clock.clone()));
    let stream = assembly.stream.through(&sync_gate);
    let log = LogWriter::open(stream, ring, read.layout.seed(), start);
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
        .unwrap_or_else(|| MemtableSlot::new(Memtable::new(assembly.pool.clone()), last, epoch));
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
        opened: Some(OpenedSlot {
            epoch: read.slot.epoch,
            slot: read.slot,
            state_is_recorded,
            state_named,
            is_alone,
        }),
        log_blocks: assembly.list.blocks,
        settled_at: None,
    };
    let visible = last.sequence.max(SequenceNumber(next_sequence.saturating_sub(1)));
    let core = Core::new(CoreParts {
        pages,
        log,
        clock: assembly.clock,
        sync_gate,
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
        packed: read.manifest.packed,
    });
    core.charge_memtables();
    if is_unsynced && !core.options.read_only {
        // The process that was to sync it is gone.
        core.background.note_commit(core.clock.now(), true);
    }
    Ok(core)
}
