//! Makes a state durable: the seven steps of docs/architecture.md, section 6.
//!
//! *Guarantees*: D1: until "state n is durable" is in the log on disk, nothing that n or the state
//! before it needs is reused. D5: the map that is written for n is what n references, n's own
//! blocks, and the log list noted for n. D7: before the first write after an open, what was opened
//! is made safe. *Threads*: one at a time; commits and merges go on meanwhile.

use std::collections::HashSet;

use super::core::Core;
use super::manifest::{self, Counters, ExactCounters, LogSection, Manifest};
use super::panic_guard::PanicGuard;
use super::reserve::{Brings, has_room, make_room};
use super::state::State;
use crate::error::{Error, Result};
use crate::log::reader::StateNamed;
use crate::log::record::STATE_DURABLE_BYTES;
use crate::log::ring::RingList;
use crate::log::stream::{BlockStream, prepare_blocks};
use crate::log::writer::{AppendError, Positions};
use crate::page::file_header::{INLINE_STATE_BYTES_MAX, STATE_BLOCKS_MAX, write_slot};
use crate::page::{Block, CapturedMaps, HeaderSlot, Layout, StateLocation, StateNeed};
use crate::storage::Storage;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, LockRank, OrderedGuard, OrderedMutex};
use crate::types::{Epoch, LogPosition};

/// The rank of the lock: held across the I/O of a durable state, so nothing that commits wait for
/// is above it.
pub const DURABLE: LockRank = LockRank::new(5, "durable state");

/// How far ahead of the counters the limits in the file lie.
pub const LIMIT_AHEAD: u64 = 1 << 32;
/// The same for keyspace numbers.
pub const KEYSPACE_LIMIT_AHEAD: u32 = 1 << 12;

/// The log's blocks have this many bytes, so that the log can grow, shrink and be reused in parts.
pub const LOG_BLOCK_BYTES: u64 = 256 * 1024;

/// The last durable state and what belongs to it.
#[derive(Debug)]
pub struct Durable {
    inner: OrderedMutex<DurableInner>,
    /// The longest record that found no room in the log, in bytes; the next state brings blocks for
    /// it.
    room_wanted: AtomicU64,
    /// What was replayed was not known to be on disk, and is not in segments yet.
    pub(crate) tail_is_uncertain: AtomicBool,
    /// Everything that comes before the first commit after an open is done.
    pub(crate) writing_has_begun: AtomicBool,
    /// Held while it is done.
    pub(crate) first_write: OrderedMutex<()>,
}

/// The rank of the lock over the first write after an open.
const FIRST_WRITE: LockRank = LockRank::new(4, "first write after an open");

#[derive(Debug)]
pub(crate) struct DurableInner {
    /// Of the slot that names the state.
    pub generation: u64,
    /// The state: a hold like any other.
    pub state: Option<Arc<State>>,
    /// The blocks of the encoded state.
    pub own_blocks: Vec<Block>,
    /// The slot as it was read at open, until it has been written again.
    pub opened: Option<OpenedSlot>,
    /// The limits in the file.
    pub limits: Limits,
    /// Blocks of the log, in the order of use of the last durable state.
    pub log_blocks: Vec<Block>,
    /// Where the log ended behind the record of the last state that was made in a quiet time.
    pub settled_at: Option<LogPosition>,
}

/// A durable state, and whether the log was short then: differs after each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableMark {
    generation: u64,
    settled_at: Option<LogPosition>,
}

/// What an open found.
#[derive(Debug)]
pub(crate) struct OpenedSlot {
    pub slot: HeaderSlot,
    pub epoch: Epoch,
    pub state_is_recorded: bool,
    pub state_named: StateNamed,
    /// See [`is_alone`](crate::page::file_header::is_alone). Asked at the open, so that a disk that
    /// cannot be read hinders no write.
    pub is_alone: bool,
}

/// The limits of numbers that the file promises not to have reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub sequence: u64,
    pub epoch: u64,
    pub keyspace: u32,
    pub segment: u64,
}

/// What a durable state is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The database goes on.
    Running,
    /// Nothing is written meanwhile: the log gives back what it does not need.
    Idle,
    /// The database closes: counters are exact.
    Closing,
}

/// See [`Durable::hold_own_blocks`].
pub(crate) struct OwnBlocks<'a>(OrderedGuard<'a, DurableInner>);

impl OwnBlocks<'_> {
    /// Those of the log.
    pub fn log(&self) -> Vec<Block> {
        self.0.log_blocks.clone()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Block> {
        self.0.own_blocks.iter().chain(&self.0.log_blocks).copied().collect()
    }
}

impl Durable {
    pub(crate) fn new(inner: DurableInner) -> Durable {
        Durable {
            writing_has_begun: AtomicBool::new(inner.opened.is_none()),
            inner: OrderedMutex::new(DURABLE, inner),
            room_wanted: AtomicU64::new(0),
            tail_is_uncertain: AtomicBool::new(false),
            first_write: OrderedMutex::new(FIRST_WRITE, ()),
        }
    }

    /// A record of so many bytes found no room in the log.
    pub fn want_room(&self, bytes: u64) {
        self.room_wanted.fetch_max(bytes, Ordering::Relaxed);
    }

    /// True when the process has only read so far.
    pub(crate) fn is_untouched(&self) -> bool {
        self.inner.lock().opened.is_some()
    }

    /// Whether the log has blocks behind `ceiling` that new ones must replace.
    pub(crate) fn log_moves(&self, core: &Core) -> bool {
        log_moves(core, &self.inner.lock())
    }

    /// The cut of the last durable state.
    pub fn cut(&self) -> LogPosition {
        self.inner.lock().state.as_ref().map_or(LogPosition(0), |state| state.cut.position)
    }

    /// True when `state` is durable, nothing lies in the log behind its cut, and the log is small.
    pub fn is_settled(&self, state: &Arc<State>, log: &Positions) -> bool {
        let inner = self.inner.lock();
        inner.state.as_ref().is_some_and(|durable| durable.epoch == state.epoch)
            && (inner.settled_at == Some(log.end) || inner.opened.is_some())
    }

    /// True when `state` is the last durable one.
    pub fn holds_current(&self, state: &Arc<State>) -> bool {
        let inner = self.inner.lock();
        inner.state.as_ref().is_some_and(|durable| durable.epoch == state.epoch)
    }

    /// Which durable state is in force.
    pub fn mark(&self) -> DurableMark {
        let inner = self.inner.lock();
        DurableMark { generation: inner.generation, settled_at: inner.settled_at }
    }

    /// Pages of the encoded state.
    pub(crate) fn state_pages(&self) -> u64 {
        pages_of(&self.inner.lock().own_blocks)
    }

    /// The blocks of the log and of the encoded state.
    pub fn own_blocks(&self) -> Vec<Block> {
        self.hold_own_blocks().all()
    }

    /// Holds the blocks of the encoded state and those of the log as they are: no state is made
    /// durable meanwhile, so that nothing of either is on its way into a map, or out of one.
    pub(crate) fn hold_own_blocks(&self) -> OwnBlocks<'_> {
        OwnBlocks(self.inner.lock())
    }

    /// The last durable state.
    pub fn state(&self) -> Option<Arc<State>> {
        self.inner.lock().state.clone()
    }

    /// The generation of the last durable state.
    pub fn generation(&self) -> u64 {
        self.inner.lock().generation
    }
}

/// Prepares the file for the first write after an open (D7). Later calls do nothing. What was
/// replayed is still in the log alone: see `merge::step::begin_writing`.
///
/// # Errors
/// When the file cannot be written: writing has stopped then, unless its directory could not be
/// opened: nothing was written, and the next call tries again.
pub fn claim_file(core: &Core) -> Result<()> {
    core.check_writable()?;
    let mut inner = core.durable.inner.lock();
    let _guard = PanicGuard::new(core, "the first write");
    let DurableInner { opened: Some(opened), generation, .. } = &mut *inner else { return Ok(()) };
    let positions = core.log.positions();
    if positions.durable < positions.end {
        core.durable.tail_is_uncertain.store(true, Ordering::Release);
    }
    let storage = core.pages.storage();
    sync_directory(core)?;
    let slot = slot_to_write(opened);
    let slot_is_safe = slot.as_ref().map_or(Ok(()), |slot| put_slot(core, slot));
    // Before records of a lost time are erased: one may be all that says that a slot is on disk.
    *generation = slot.map_or(*generation, |slot| slot.generation);
    let result = slot_is_safe
        .and_then(|()| core.log.make_tail_durable())
        .and_then(|()| write_length(&**storage))
        .and_then(|()| sync_file(core))
        .and_then(|()| match opened.state_is_recorded {
            true => Ok(()),
            false => core.log.record_state(opened.epoch, *generation).map(|_| ()),
        });
    result.map_err(|error| core.stop(&error))?;
    (opened.state_is_recorded, opened.state_named) = (true, StateNamed::OnDisk);
    // Limits ahead of every number seen come with a state of their own: without it, when there is
    // no space for it, nothing is written yet.
    make_durable_locked(core, &mut inner, Purpose::Running)?;
    inner.opened = None;
    Ok(())
}

/// The slot to write before anything else, so that the state that was opened is on disk whatever
/// happens to the next one's slot.
///
/// A slot that a record names was on disk before the record was written, and so is one beside which
/// the other is torn. It must not be torn itself: what the state before needs may have been used
/// again. Unless the record is sure to be found, that no later open tears the slot, the same state
/// goes into the other one, too. Any other slot may lie in the system's cache only; writing it
/// again may tear it, but then the state before it, whose log names no later one, is whole.
fn slot_to_write(opened: &OpenedSlot) -> Option<HeaderSlot> {
    let slot = opened.slot.clone();
    let is_on_disk = match opened.state_named {
        StateNamed::OnDisk => return None,
        StateNamed::Somewhere => true,
        StateNamed::Nowhere => opened.is_alone,
    };
    let generation = slot.generation + u64::from(is_on_disk);
    Some(HeaderSlot { generation, ..slot })
}

/// Whoever made the file may have died before it came to this, and a power cut take the file's
/// name. A directory that may not be read cannot be synced, and files there could be written
/// before.
fn sync_directory(core: &Core) -> Result<()> {
    use std::io::ErrorKind::{NotFound, PermissionDenied, ResourceBusy};
    let storage = core.pages.storage();
    let Err(cause) = storage.sync_directory() else { return Ok(()) };
    let kind = cause.kind();
    if matches!(kind, NotFound | PermissionDenied) {
        return Ok(());
    }
    let error = Error::io("syncing the directory", storage.name(), cause);
    // Nothing was begun: the next write tries it again.
    Err(if kind == ResourceBusy { error } else { core.stop(&error) })
}

/// Makes the current state durable.
///
/// # Errors
/// `NoSpace` when there is no room for the state, its maps or the log: nothing has changed then.
/// After any other failed write or sync, writing has stopped.
pub fn make_durable(core: &Core, purpose: Purpose) -> Result<()> {
    make_durable_unless(core, purpose, || false)
}

/// The same, unless what it is wanted for has come true while others made one.
///
/// # Errors
/// As [`make_durable`].
pub fn make_durable_unless(
    core: &Core,
    purpose: Purpose,
    is_needless: impl FnOnce() -> bool,
) -> Result<()> {
    claim_file(core)?;
    let mut inner = core.durable.inner.lock();
    match is_needless() {
        true => Ok(()),
        false => make_durable_locked(core, &mut inner, purpose),
    }
}

/// Makes the file's length part of what the next sync writes. A sync that failed before the open
/// may have left in the system's memory alone that the file had grown, and nobody would write it:
/// the next state would count on pages that a power cut takes away.
fn write_length(storage: &dyn Storage) -> Result<()> {
    let failed = |error| Error::io("writing the file's length", storage.name(), error);
    let length = storage.length().map_err(failed)?;
    match storage.set_length(length.saturating_add(1)).map_err(failed) {
        Ok(()) => {}
        // A system that has no room for a longer file writes no length anew.
        Err(error) if error.is_no_space() => return Ok(()),
        Err(error) => return Err(error),
    }
    match storage.set_length(length) {
        // What is read in place just before the end looks as if it lay behind it (M2): the byte
        // stays until the file is cut or grows.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        result => result.map_err(failed),
    }
}

fn pages_of(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| u64::from(block.pages)).sum()
}

fn sync_file(core: &Core) -> Result<()> {
    let failed = |error| Error::io("syncing the file", core.pages.storage().name(), error);
    core.sync_file().map_err(failed)
}

fn put_slot(core: &Core, slot: &HeaderSlot) -> Result<()> {
    write_slot(&**core.pages.storage(), &core.sync_gate, slot)
}

/// A state on its way to the disk.
struct Making {
    state: Arc<State>,
    /// How far leaves are packed of which it knows.
    packed: Epoch,
    captured: CapturedMaps,
    list: RingList,
    own_blocks: Vec<Block>,
    /// New blocks of the log.
    appended: Vec<Block>,
    /// What the list has that the one before had not, and the other way round.
    listed: Vec<Block>,
    delisted: Vec<Block>,
}

fn make_durable_locked(core: &Core, inner: &mut DurableInner, purpose: Purpose) -> Result<()> {
    let _guard = PanicGuard::new(core, "making a state durable");
    core.check_writable()?;
    let making = begin(core, inner, purpose)?;
    let need = |bytes| core.pages.budget().need_states(StateNeed::Making, bytes);
    need(making.state.bytes());
    let generation = inner.generation + 1;
    let limits = next_limits(core);
    let written = write(core, &making, generation, limits, purpose);
    let Written { slot, log_written, stamp_limit } = match written {
        Ok(written) => written,
        Err(error) => {
            undo(core, making);
            need(0);
            // A failed sync says that what is on disk is not known.
            return Err(match &error {
                Error::NoSpace { .. } => error,
                _ => core.stop(&error),
            });
        }
    };
    core.log.note_file_synced(log_written);
    let named = put_slot(core, &slot).and_then(|()| core.log.record_state(slot.epoch, generation));
    let dropped = named.map_err(|error| core.stop(&error))?;
    core.log.passed(making.state.cut.position);
    finish(core, inner, making, generation, limits, dropped);
    need(0);
    if purpose == Purpose::Closing {
        // The same state in the other slot, so that damage to either loses nothing (D9).
        let copy = HeaderSlot { generation: generation + 1, ..slot };
        put_slot(core, &copy).map_err(|error| core.stop(&error))?;
        inner.generation += 1;
    }
    inner.settled_at = (purpose != Purpose::Running).then(|| core.log.positions().end);
    core.pages.set_stamp_limit(stamp_limit);
    core.counters.durable_states.fetch_add(1, Ordering::Relaxed);
    let epoch = inner.state.as_ref().map_or(Epoch(0), |state| state.epoch);
    tracing::debug!(target: "sapwood::durable", generation, %epoch, "state is durable");
    Ok(())
}

/// Step 1: holds the current state, plans the log's next list, captures the maps.
fn begin(core: &Core, inner: &DurableInner, purpose: Purpose) -> Result<Making> {
    let appended = new_log_blocks(core, inner, purpose)?;
    let _install = core.install_order.lock();
    let state = core.state();
    let drop_count = log_blocks_to_drop(core, inner, &state, purpose);
    let list = match core.log.plan_list(state.cut.position, &appended, drop_count) {
        Ok(list) => list,
        Err(error) => {
            free_log_blocks(core, &appended);
            return Err(match error {
                AppendError::Failed(error) => core.stop(&error),
                AppendError::Full(full) => Error::NoSpace {
                    operation: format!("{} bytes of the log", full.needed),
                    file: core.pages.storage().name(),
                },
            });
        }
    };
    let estimate = encoded_bytes_bound(core, &state, &list);
    let own_blocks = match allocate_state_blocks(core, estimate) {
        Ok(blocks) => blocks,
        Err(error) => {
            core.log.abandon_list();
            free_log_blocks(core, &appended);
            return Err(error);
        }
    };
    // The maps are to show the list of this state, not the one in force (D5).
    let allocator = core.pages.allocator();
    let (listed, delisted) = list_difference(inner, &list);
    for block in &listed {
        allocator.reference(*block);
    }
    for block in &delisted {
        allocator.dereference(*block);
    }
    let captured = allocator.capture(&own_blocks);
    // Now: a pass that ends later may have packed leaves that are loose in this state.
    let packed = core.background.jobs.lock().pack.packed_in(state.epoch);
    Ok(Making { state, packed, captured, list, own_blocks, appended, listed, delisted })
}

/// Blocks that a list has and the list of the last durable state has not, and the other way round.
fn list_difference(inner: &DurableInner, list: &RingList) -> (Vec<Block>, Vec<Block>) {
    let lacking = |some: &[Block], of: &[Block]| {
        let some: HashSet<&Block> = some.iter().collect();
        of.iter().filter(|block| !some.contains(block)).copied().collect()
    };
    let (old, new) = (&inner.log_blocks, &list.blocks);
    (lacking(old, new), lacking(new, old))
}

/// New blocks for the log, filled with zeros, when it is getting full.
fn new_log_blocks(core: &Core, inner: &DurableInner, purpose: Purpose) -> Result<Vec<Block>> {
    let layout = core.pages.layout();
    let stream = BlockStream::new(
        core.pages.storage().clone(),
        layout.page_size,
        layout.usable_bytes() as u32,
    );
    let block_bytes = stream.usable_bytes() * u64::from(log_block_pages(layout));
    let total: u64 =
        inner.log_blocks.iter().map(|b| u64::from(b.pages) * stream.usable_bytes()).sum();
    let log_max = core.options.memory_budget / 2;
    let mut most = usize::MAX;
    let wanted = match purpose {
        // What is behind the cut comes back; grow when more than half of the log is in use.
        Purpose::Running if core.log.available() < total / 2 && total < log_max => {
            total.min(log_max - total).max(block_bytes)
        }
        Purpose::Idle if log_moves(core, inner) => {
            most = log_shift(core, inner).map_or(0, |shift| shift.lacking);
            (most as u64).saturating_mul(block_bytes)
        }
        _ => 0,
    };
    // A record longer than all room gets what it lacks, however long the log is already.
    let room = core.durable.room_wanted.swap(0, Ordering::Relaxed);
    let lacking = match room {
        0 => 0,
        _ => (room + block_bytes).saturating_sub(core.log.available()),
    };
    // Without so much it could not be made, or the record that waits would wait on: that comes at
    // any rate. What more is wanted leaves the reserve alone.
    let has_place = core.log.available() >= 4 * STATE_DURABLE_BYTES;
    let needed = lacking.max(u64::from(!has_place));
    let mut blocks = Vec::new();
    // One durable state brings at most a step's worth, so that zeros are not written for long, but
    // the smallest log at once: it could not leave the tail by parts.
    let at_once_max = match purpose {
        Purpose::Idle => wanted,
        _ => core.options.step_bytes.max(block_bytes),
    };
    let brought = wanted.min(at_once_max);
    let mut got = 0;
    // Blocks that move may be a little shorter than those in whose place they come.
    while got < needed || got < brought && blocks.len() < most {
        if got >= needed && !leaves_the_reserve(core, purpose, block_bytes as usize) {
            break;
        }
        match take_log_block(core) {
            Ok(block) => {
                got += u64::from(block.pages) * stream.usable_bytes();
                blocks.push(block);
            }
            Err(error) if blocks.is_empty() && !has_place => return Err(error),
            // The log goes on with what it has.
            Err(_) => break,
        }
    }
    if let Err(error) = prepare_blocks(&stream, &blocks) {
        free_log_blocks(core, &blocks);
        return Err(error);
    }
    Ok(blocks)
}

/// Whether a block of the log may come that nothing needs yet. One that comes for another when the
/// file is to be cut must not make it longer.
fn leaves_the_reserve(core: &Core, purpose: Purpose, bytes: usize) -> bool {
    match purpose {
        Purpose::Running => make_room(core, Brings::Data, bytes).is_ok(),
        _ => !core.reserve.is_short() || has_room(core, Brings::Data, bytes),
    }
}

/// A block for the log; a shorter one where a full file has no run of that length, or where it is
/// to lie before the end that the file will have.
fn take_log_block(core: &Core) -> Result<Block> {
    let layout = core.pages.layout();
    let wanted = log_block_pages(layout);
    let is_moving = core.pages.allocator().ceiling().is_some();
    let mut least = if is_moving { moved_log_block_pages(wanted) } else { wanted };
    loop {
        match core.pages.allocator().allocate_block(least, wanted) {
            Err(error) if error.is_no_space() && least > layout.window_pages() => {
                least = (least / 2).max(layout.window_pages());
            }
            result => return result,
        }
    }
}

/// What a block of so many pages has at least when it moves to the front: a hole of just its length
/// may have lost a page.
pub(crate) fn moved_log_block_pages(pages: u32) -> u32 {
    pages - pages / 8
}

/// Pages of one block of the log.
pub(crate) fn log_block_pages(layout: &Layout) -> u32 {
    let wanted = (LOG_BLOCK_BYTES / u64::from(layout.page_size)).clamp(1, 64) as u32;
    wanted.min(layout.block_pages_max()).max(1)
}

fn log_blocks_to_drop(core: &Core, inner: &DurableInner, state: &State, purpose: Purpose) -> usize {
    if purpose == Purpose::Running {
        return 0;
    }
    if let Some(ceiling) = core.pages.allocator().ceiling().filter(|_| purpose == Purpose::Idle) {
        let is_high = |block: &Block| block.end() > ceiling;
        if let Some(shift) = log_shift(core, inner) {
            // What is low stays: there need not be room below the ceiling for two logs.
            return shift.high_behind;
        }
        // After that the high ones are those in front, which go once the cut has passed them.
        let placed = core.log.placed_blocks();
        if placed.iter().any(|(block, _)| is_high(block)) {
            let passed = placed.iter().take_while(|(_, end)| *end <= state.cut.position);
            return passed.take_while(|(block, _)| is_high(block)).count();
        }
    }
    inner.log_blocks.len().saturating_sub(log_blocks_least(core))
}

/// The number of blocks to which the log goes back in quiet times.
fn log_blocks_least(core: &Core) -> usize {
    let layout = core.pages.layout();
    let pages = core.options.log_bytes_min / u64::from(layout.page_size);
    pages.div_ceil(u64::from(log_block_pages(layout))).max(2) as usize
}

/// How the log leaves the part of the file that is to go: its last blocks are to lie below.
struct LogShift {
    /// Blocks in the tail that come last in the log: nothing is in them yet.
    high_behind: usize,
    /// So many new ones must come.
    lacking: usize,
}

/// `None` when as many of the log's last blocks as it needs lie below the ceiling.
fn log_shift(core: &Core, inner: &DurableInner) -> Option<LogShift> {
    let ceiling = core.pages.allocator().ceiling()?;
    let is_low = |block: &&Block| block.end() <= ceiling;
    let high_behind = inner.log_blocks.iter().rev().take_while(|block| !is_low(block)).count();
    let low = inner.log_blocks.iter().rev().skip(high_behind).take_while(is_low).count();
    let lacking = log_blocks_least(core).saturating_sub(low);
    let is_all_low = low == inner.log_blocks.len();
    (!is_all_low && (lacking > 0 || high_behind > 0)).then_some(LogShift { high_behind, lacking })
}

/// True when blocks of the log lie in the part of the file that is to go, and new ones must come in
/// their place, or nothing need come.
fn log_moves(core: &Core, inner: &DurableInner) -> bool {
    log_shift(core, inner).is_some()
}

/// The position behind the last block of the log that lies above the allocator's ceiling, when the
/// log has still to leave it.
pub(crate) fn log_must_pass(core: &Core) -> Option<LogPosition> {
    let ceiling = core.pages.allocator().ceiling()?;
    let blocks = core.log.placed_blocks();
    blocks.iter().rev().find(|(block, _)| block.end() > ceiling).map(|(_, end)| *end)
}

fn free_log_blocks(core: &Core, blocks: &[Block]) {
    blocks.iter().for_each(|block| core.pages.free(*block));
}

/// The most pages that an encoded state may have.
pub(crate) fn state_pages_max(layout: &Layout) -> u64 {
    STATE_BLOCKS_MAX as u64 * u64::from(layout.block_pages_max())
}

fn allocate_state_blocks(core: &Core, bytes: usize) -> Result<Vec<Block>> {
    if bytes <= INLINE_STATE_BYTES_MAX {
        return Ok(Vec::new());
    }
    let (allocator, layout) = (core.pages.allocator(), core.pages.layout());
    let too_long = || Error::NoSpace {
        operation: format!("a state of {bytes} bytes in {STATE_BLOCKS_MAX} blocks"),
        file: core.pages.storage().name(),
    };
    let mut missing = layout.node_pages(bytes);
    if u64::from(missing) > state_pages_max(layout) {
        // Until merges have made it shorter.
        core.reserve.note_durable(u64::from(missing));
        return Err(too_long());
    }
    // A block lies in one region, and a state may take several.
    let mut least = missing.min(layout.block_pages_max());
    let mut blocks: Vec<Block> = Vec::new();
    while missing > 0 {
        match allocator.allocate_block(least.min(missing), missing) {
            Ok(block) => {
                missing -= block.pages;
                blocks.push(block);
            }
            // In a full file the free pages may be crumbs.
            Err(error) if error.is_no_space() && least > 1 => {
                least = least.div_ceil(2);
                continue;
            }
            Err(error) => {
                blocks.drain(..).for_each(|block| core.pages.free(block));
                return Err(error);
            }
        }
        if missing > 0 && blocks.len() == STATE_BLOCKS_MAX {
            blocks.drain(..).for_each(|block| core.pages.free(block));
            return Err(too_long());
        }
    }
    Ok(blocks)
}

/// A bound of the encoded length: the maps' entries are not known yet.
fn encoded_bytes_bound(core: &Core, state: &State, list: &RingList) -> usize {
    let manifest = Manifest {
        contents: (**state).clone(),
        counters: counters(core, next_limits(core), Purpose::Closing),
        log: log_section(core, state, list),
        regions: Vec::new(),
        file_pages: u64::MAX >> 16,
        packed: state.epoch,
    };
    // An entry is a home, two words and a varint; one region may still be added.
    let regions = core.pages.allocator().stats().region_count as usize + 2;
    manifest::encode(&manifest).len() + regions * 24 + 64
}

fn counters(core: &Core, limits: Limits, purpose: Purpose) -> Counters {
    let (next_sequence, next_keyspace) = core.commit_numbers();
    Counters {
        sequence_limit: limits.sequence,
        epoch_limit: limits.epoch,
        stamp_limit: core.pages.stamp_counter().saturating_add(core.options.stamps_ahead),
        keyspace_limit: limits.keyspace,
        segment_limit: limits.segment,
        clean: (purpose == Purpose::Closing).then(|| ExactCounters {
            last_sequence: next_sequence.0 - 1,
            next_stamp: core.pages.stamp_counter() + 1024,
            next_keyspace: next_keyspace.0,
            next_segment: core.next_segment.load(Ordering::Relaxed),
        }),
    }
}

fn next_limits(core: &Core) -> Limits {
    let (sequence, keyspace) = core.commit_numbers();
    Limits {
        sequence: sequence.0.saturating_add(LIMIT_AHEAD),
        epoch: core.next_epoch.load(Ordering::Relaxed).saturating_add(LIMIT_AHEAD),
        keyspace: keyspace.0.saturating_add(KEYSPACE_LIMIT_AHEAD),
        segment: core.next_segment.load(Ordering::Relaxed).saturating_add(LIMIT_AHEAD),
    }
}

fn log_section(core: &Core, state: &State, list: &RingList) -> LogSection {
    LogSection {
        durable: core.log.claimed_durable().max(state.cut.position),
        first_position: list.start,
        blocks: list.blocks.clone(),
    }
}

/// What steps 3 and 4 lead to.
struct Written {
    /// The slot to write.
    slot: HeaderSlot,
    /// So far the operating system had the log before the sync.
    log_written: LogPosition,
    /// Counts when the slot is on disk.
    stamp_limit: u64,
}

/// Steps 3 and 4.
fn write(
    core: &Core,
    making: &Making,
    generation: u64,
    limits: Limits,
    purpose: Purpose,
) -> Result<Written> {
    core.pages.write_unwritten()?;
    let regions = core.pages.allocator().write_captured(&making.captured)?;
    let counters = counters(core, limits, purpose);
    let stamp_limit = counters.stamp_limit;
    let manifest = Manifest {
        contents: (**making.state).clone(),
        counters,
        log: log_section(core, &making.state, &making.list),
        regions,
        file_pages: making.captured.file_pages(),
        packed: making.packed,
    };
    let encoded = manifest::encode(&manifest);
    let location = if making.own_blocks.is_empty() {
        assert!(
            encoded.len() <= INLINE_STATE_BYTES_MAX,
            "the bound of the state's length is a bound"
        );
        StateLocation::Inline(encoded)
    } else {
        core.pages.write_state(&making.own_blocks, &encoded)?
    };
    let slot = HeaderSlot::new(
        core.pages.layout(),
        generation,
        making.state.epoch,
        making.captured.file_pages(),
        location,
    );
    let log_written = core.log.positions().written;
    // Whatever it says, "no space" too: what it was to bring to the disk may be in no cache any
    // more, and the next sync would say that all is well.
    sync_file(core).map_err(|error| core.stop(&error))?;
    Ok(Written { slot, log_written, stamp_limit })
}

fn undo(core: &Core, making: Making) {
    let allocator = core.pages.allocator();
    allocator.captured_failed(making.captured);
    core.log.abandon_list();
    for block in making.listed {
        allocator.dereference(block);
    }
    for block in making.delisted {
        allocator.reference(block);
    }
    if core.has_stopped() {
        return;
    }
    free_log_blocks(core, &making.appended);
    for block in making.own_blocks {
        core.pages.free(block);
    }
}

/// Step 7: what the state before needed alone is given back.
fn finish(
    core: &Core,
    inner: &mut DurableInner,
    making: Making,
    generation: u64,
    limits: Limits,
    dropped: Vec<Block>,
) {
    let cut = making.state.cut.position;
    core.pages.allocator().captured_durable(making.captured);
    inner.generation = generation;
    inner.limits = limits;
    inner.log_blocks = making.list.blocks;
    core.reserve.note_durable(pages_of(&making.own_blocks));
    core.pages.allocator().set_kept_free(core.reserve.at_rest());
    let former_blocks = std::mem::replace(&mut inner.own_blocks, making.own_blocks);
    core.pages.budget().need_states(StateNeed::Durable, making.state.bytes());
    inner.state = Some(making.state);
    for block in former_blocks {
        core.pages.free(block);
    }
    free_log_blocks(core, &dropped);
    for block in core.log_named.passed(cut) {
        core.pages.free(block);
    }
    core.collect_released();
}
