//! The reserve: pages of the file that are kept free, so that a full device or file can be emptied.
//!
//! *Assumes*: pages inside the file are the device's promise (docs/durability.md says where they
//! are not). *Guarantees*: docs/architecture.md, section 6, rules F1 to F9. *Threads*: any; where
//! there is room, commits take no lock for it.

use std::time::Duration;

use super::background::ReservedMark;
use super::core::Core;
use super::dead_list::HeldStats;
use super::durable::{DurableMark, state_pages_max};
use super::state::State;
use super::view::View;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::segment::descriptor::Segment;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::{Epoch, LogPosition};

/// The rank of the lock over the verdict.
const VERDICT: LockRank = LockRank::new(82, "verdict on the reserve");

/// How long a verdict counts at most: what others leave free on the device shows nowhere else.
const VERDICT_LASTS: Duration = Duration::from_secs(1);

/// What a flush takes of leaves that are not full, and for parents and filters.
const FLUSH_LEAVES: u64 = 4;
const FLUSH_REST_BYTES: u64 = 256 << 10;

/// What commits of deletions may have in memory before merges are waited for.
const DELETIONS_BYTES: u64 = 512 << 10;
const DELETIONS_LEAST_BYTES: u64 = 32 << 10;

/// A durable state takes a block of the log at most, what the last one took, and a rest.
const STATE_REST_BYTES: u64 = 64 << 10;

/// The least merge step takes one lowest parent's leaves, 64, and half as many of its sources.
const STEP_LEAVES: u64 = 96;
/// And so much for parents, filters and the path above.
const STEP_REST_BYTES: u64 = 256 << 10;
const STEP_LEAST_REST_BYTES: u64 = 128 << 10;

/// The file at rest keeps one free page for so many of segments: half of the quarter by which it
/// may be longer than a copy.
const AT_REST_SHARE: u64 = 8;

/// What is merged may take so much more than it did, one part in so many: the leaves of the
/// destination need not be as full as those of the sources. Measured: 6 % of what moved.
const GROWTH_PART: u64 = 8;

/// See [`names_much`].
const NAMED_BYTES: u64 = 4 << 20;

/// See [`Reserve::plenty_bytes`].
const PLENTY_BYTES: usize = 2 << 20;
const PLENTY_PART: u64 = 16;

/// What a commit brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brings {
    /// New data: the whole reserve stays.
    #[default]
    Data,
    /// Deletions, or changes of the catalogue: what merges need stays.
    Deletions,
    /// The end of a keyspace, which leaves without merges: what a durable state needs stays.
    Drop,
}

/// The parts of the reserve, in pages: each holds those below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// All of it: commits of data leave so much.
    pub all: u64,
    /// What commits of deletions leave: a merge step and a durable state.
    pub for_merges: u64,
    /// What merge steps leave: a durable state.
    pub for_states: u64,
}

/// Sizes that the reserve follows from.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    page_bytes: u64,
    leaf_bytes: u64,
    log_block_bytes: u64,
    /// `reserve_bytes` of the options.
    asked_bytes: Option<u64>,
    max_file_bytes: u64,
}

impl Sizes {
    fn new(options: &Options, page_size: u32, log_block_pages: u32, max_file_bytes: u64) -> Sizes {
        let page_bytes = u64::from(page_size.max(1));
        Sizes {
            page_bytes,
            leaf_bytes: u64::from(options.leaf_pages_bytes()),
            log_block_bytes: u64::from(log_block_pages) * page_bytes,
            asked_bytes: options.reserve_bytes,
            max_file_bytes,
        }
    }

    fn pages(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.page_bytes)
    }

    /// What a flush takes beside what it writes.
    fn flush_rest_bytes(&self) -> u64 {
        FLUSH_LEAVES * self.leaf_bytes + FLUSH_REST_BYTES
    }

    /// What a merge step takes that reads so many bytes of sources and destination.
    fn step_bytes(read_bytes: u64) -> u64 {
        read_bytes + read_bytes / 8 + Sizes::step_rest_bytes(read_bytes)
    }

    /// The most that a step may read that takes so many bytes.
    fn read_bytes_within(step_bytes: u64) -> u64 {
        let long = step_bytes.saturating_sub(STEP_REST_BYTES) / 9 * 8;
        let short = step_bytes.saturating_sub(STEP_LEAST_REST_BYTES) / 10 * 8;
        // The rest of a step is the lesser of the two, and so it reads the more.
        long.max(short)
    }

    fn step_rest_bytes(read_bytes: u64) -> u64 {
        (STEP_LEAST_REST_BYTES + read_bytes / 8).min(STEP_REST_BYTES)
    }

    /// The least step is one lowest parent and a part of its sources, or all that there is. As much
    /// again as its rest is for what several steps leave behind before the first source is gone:
    /// leaves of which a part has moved on, and what is made for the part that has.
    fn least_step_bytes(&self, tree_bytes: u64) -> u64 {
        let read_bytes = tree_bytes.min(STEP_LEAVES * self.leaf_bytes);
        Sizes::step_bytes(read_bytes) + Sizes::step_rest_bytes(read_bytes)
    }

    /// The reserve beside trees of so many bytes, of which so many are to be merged yet, when the
    /// last durable state took so many.
    fn parts(&self, tree_bytes: u64, unmerged_bytes: u64, state_bytes: u64) -> Parts {
        let states = self.log_block_bytes + 2 * state_bytes + STATE_REST_BYTES;
        let merges = states + self.least_step_bytes(tree_bytes);
        let deletions = DELETIONS_BYTES.min(DELETIONS_LEAST_BYTES + tree_bytes / 4);
        let flush = self.flush_rest_bytes() + deletions;
        let all = self.asked_bytes.unwrap_or(merges + flush);
        let all = all.min(self.max_file_bytes / 2);
        // Where there is less than they need, all parts are smaller.
        let (merges, states) = match all < merges + flush {
            true => (merges.min(all - flush.min(all / 4)), states.min(all / 4)),
            false => (merges, states),
        };
        let growth = match self.asked_bytes {
            Some(_) => 0,
            None => (unmerged_bytes / GROWTH_PART).min(self.max_file_bytes / 2 - all),
        };
        Parts {
            all: self.pages(all + growth),
            for_merges: self.pages(merges + growth),
            for_states: self.pages(states),
        }
    }
}

/// What of the reserve changes while the database is open.
#[derive(Debug)]
pub struct Reserve {
    sizes: Sizes,
    /// Pages of all segments of the current state.
    tree_pages: AtomicU64,
    /// Those of them that stand above the last levels.
    unmerged_pages: AtomicU64,
    /// Pages of the last durable state.
    state_pages: AtomicU64,
    /// Keyspaces of which young segments have something, and no level, at most.
    young_alone: AtomicU64,
    /// Pages that steps may still take: see [`Grant`].
    granted: Arc<AtomicU64>,
    /// A commit, or a step, found no room, and none has found any since.
    is_short: AtomicBool,
    /// How things stood when nothing could be done for more room, and when that was.
    verdict: OrderedMutex<Option<(Standing, Duration)>>,
}

/// All that decides whether more room can be made: while it is as it was, the answer is, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    epoch: Epoch,
    durable: DurableMark,
    log_end: LogPosition,
    held: HeldStats,
    reserved: ReservedMark,
    file_pages: u64,
    room_pages: u64,
}

impl Standing {
    /// `None` while steps are under way.
    pub fn of(core: &Core) -> Option<Standing> {
        core.collect_released();
        let is_rest = core.background.running.load(Ordering::Acquire) == 0;
        let allocator = core.pages.allocator();
        (is_rest && !core.reserve.has_grants()).then(|| Standing {
            epoch: core.state().epoch,
            durable: core.durable.mark(),
            log_end: core.log.positions().end,
            held: core.held.stats(),
            reserved: core.background.reservations.mark(),
            file_pages: allocator.file_pages(),
            room_pages: allocator.room_pages(),
        })
    }
}

/// Nothing could be done for more room, and nothing has changed since (F5).
pub fn is_hopeless(core: &Core) -> bool {
    let Some((then, at)) = *core.reserve.verdict.lock() else { return false };
    core.clock.now().saturating_sub(at) < VERDICT_LASTS && Standing::of(core) == Some(then)
}

/// Nothing can be done for more room.
pub fn note_hopeless(core: &Core) {
    let standing = Standing::of(core).map(|standing| (standing, core.clock.now()));
    *core.reserve.verdict.lock() = standing;
}

impl Reserve {
    /// For a file of at most `max_file_bytes`.
    pub(crate) fn new(
        options: &Options,
        page_size: u32,
        log_block_pages: u32,
        max_file_bytes: u64,
    ) -> Reserve {
        Reserve {
            sizes: Sizes::new(options, page_size, log_block_pages, max_file_bytes),
            tree_pages: AtomicU64::new(0),
            unmerged_pages: AtomicU64::new(0),
            state_pages: AtomicU64::new(0),
            young_alone: AtomicU64::new(0),
            granted: Arc::default(),
            is_short: AtomicBool::new(false),
            verdict: OrderedMutex::new(VERDICT, None),
        }
    }

    /// False when nothing is kept, and nothing is asked.
    pub fn is_kept(&self) -> bool {
        self.sizes.asked_bytes != Some(0)
    }

    /// A commit or a step found no room: merges go on as if somebody waited, and flushes write no
    /// more than they must (F7).
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Steps hold pages that they have not written yet, or have given back.
    pub(crate) fn has_grants(&self) -> bool {
        self.granted.load(Ordering::Acquire) > 0
    }

    /// Space is short until there is room for so many bytes: of a short file a part.
    pub fn plenty_bytes(&self) -> usize {
        let part = self.sizes.max_file_bytes / PLENTY_PART;
        PLENTY_BYTES.min(usize::try_from(part).unwrap_or(usize::MAX))
    }

    fn parts(&self, more_pages: u64) -> Parts {
        if !self.is_kept() {
            return Parts::default();
        }
        let tree_pages = self.tree_pages.load(Ordering::Relaxed).saturating_add(more_pages);
        let unmerged_pages = self.unmerged_pages.load(Ordering::Relaxed).saturating_add(more_pages);
        let state_pages = self.state_pages.load(Ordering::Relaxed);
        let bytes = |pages: u64| pages.saturating_mul(self.sizes.page_bytes).min(u64::MAX / 16);
        self.sizes.parts(bytes(tree_pages), bytes(unmerged_pages), bytes(state_pages))
    }

    /// What the file at rest has free (F3): the whole reserve, but unless the options ask for it no
    /// more than the file may be longer than a copy.
    pub(crate) fn at_rest(&self) -> u64 {
        let all = self.parts(0).all;
        let share = self.tree_pages.load(Ordering::Relaxed) / AT_REST_SHARE;
        if self.sizes.asked_bytes.is_some() { all } else { all.min(share) }
    }

    /// A state became current.
    pub(crate) fn note_state(&self, state: &State) {
        let levels = state.levels.values().flat_map(|levels| levels.iter());
        let pages = state.young.iter().chain(levels).map(|segment| segment.pages());
        let pages = pages.fold(0, u64::saturating_add);
        self.tree_pages.store(pages, Ordering::Relaxed);
        let above = state.levels.values().flat_map(|levels| levels.above());
        let promoted = state.promoted_leaves();
        let left = |segment: &Arc<Segment>| segment.pages() as f64 * promoted.part_left(segment);
        let unmerged = state.young.iter().chain(above).map(left).sum::<f64>();
        self.unmerged_pages.store(unmerged as u64, Ordering::Relaxed);
        // At most so many: states come often, and shares may be many.
        let shares = state.young.iter().map(|segment| segment.keyspaces.len()).sum::<usize>();
        let without_level = state.catalogue.count().saturating_sub(state.levels.len());
        self.young_alone.store(shares.min(without_level) as u64, Ordering::Relaxed);
    }

    /// A state became durable, in so many pages.
    pub(crate) fn note_durable(&self, pages: u64) {
        self.state_pages.store(pages, Ordering::Relaxed);
    }
}

/// Pages that a step may take; what it has not taken is nobody else's meanwhile.
#[derive(Debug)]
pub struct Grant {
    granted: Arc<AtomicU64>,
    all: u64,
    left: AtomicU64,
    is_tight: bool,
    /// The file could not grow so far that nothing of the reserve would have been taken.
    file_is_full: bool,
}

impl Grant {
    /// The step takes of the reserve: it is to write no more than it replaces (F6).
    pub fn is_tight(&self) -> bool {
        self.is_tight
    }

    /// How many pages it is worth while to ask for at once: no more than are granted, so that what
    /// others were promised is not held even for a moment.
    pub fn at_once(&self, wanted: u64) -> u64 {
        if self.all == 0 { wanted } else { wanted.min(self.all) }
    }

    /// So many pages have been taken.
    pub fn taken(&self, pages: u64) {
        let left = self.all.saturating_sub(pages);
        let before = self.left.swap(left, Ordering::AcqRel);
        self.granted.fetch_sub(before.saturating_sub(left), Ordering::AcqRel);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.taken(self.all);
    }
}

/// From now on space is short, or no longer: see [`Reserve::is_short`].
pub fn set_short(core: &Core, is_short: bool) {
    let now = &core.reserve.is_short;
    if now.swap(is_short, Ordering::AcqRel) != is_short {
        // Of two who change it the later one may be told first: what is told is what holds then.
        core.pages.allocator().set_short(|| now.load(Ordering::Acquire));
    }
}

fn pages_of(core: &Core, bytes: u64) -> u64 {
    bytes.div_ceil(u64::from(core.pages.layout().page_size))
}

/// What memtables will take when they are flushed, in pages: leaves are not filled to the last
/// byte, values of their own are rounded up, and every flush writes some nodes that are not full.
pub(crate) fn owed_pages(core: &Core) -> u64 {
    let held = core.memtable_bytes() as u64;
    // Memory is taken in chunks; the log knows what is in them. An entry takes more in a leaf than
    // in a record, but not three times as much.
    let logged = core.log.positions().end.0.saturating_sub(core.state().cut.position.0);
    let bytes = in_leaves(held).min(logged.saturating_mul(3));
    // After a crash the flush would write them anew: nothing proves that they are on disk.
    let named = core.log_named.pages();
    pages_of(core, bytes + core.reserve.sizes.flush_rest_bytes())
        + named
        + beside_pages(core, &core.view())
}

/// What memtables that take so many bytes take in leaves, at most.
fn in_leaves(held: u64) -> u64 {
    held + held / 4
}

/// What flushes write of all that lies in memory now, in bytes, beside what each writes at least.
pub fn flush_bytes(core: &Core) -> u64 {
    let wasted = core.view().memtables().map(|slot| slot.owes.waste_bytes()).sum::<u64>();
    in_leaves(core.memtable_bytes() as u64) + wasted
}

/// The least that the flush of a memtable writes: a leaf, a filter, and a leaf of range tombstones.
const FLUSH_PAGES_LEAST: u64 = 3;

/// What flushes waste in leaves, what each writes at least, and the first pages of keyspaces that
/// have none in any level.
fn beside_pages(core: &Core, view: &View) -> u64 {
    let (mut wasted, mut keyspaces) = (0, core.reserve.young_alone.load(Ordering::Relaxed));
    for slot in view.memtables() {
        wasted += slot.owes.waste_bytes();
        keyspaces += slot.owes.keyspace_count();
    }
    // What flushes write besides is counted once elsewhere.
    let written = view.sealed.iter().filter(|slot| slot.by_reference.is_none()).count() as u64;
    pages_of(core, wasted) + keyspaces + written * FLUSH_PAGES_LEAST
}

/// Values that records name are owed twice until their flush: so much of them that a flush is
/// better than a longer file.
pub fn names_much(core: &Core) -> bool {
    let allocator = core.pages.allocator();
    core.log_named.pages() > pages_of(core, NAMED_BYTES).max(allocator.file_pages() / 16)
}

/// The free pages with which a commit of so many bytes may go on, beside `owed`.
fn wanted_beside(core: &Core, owed: u64, brings: Brings, bytes: usize) -> u64 {
    let own = data_pages(core, bytes);
    // What the flush takes besides is no data that merges read.
    let rest = pages_of(core, core.reserve.sizes.flush_rest_bytes());
    let parts = core.reserve.parts(owed.saturating_sub(rest) + own);
    let kept = match brings {
        Brings::Data => parts.all,
        Brings::Deletions => parts.for_merges,
        Brings::Drop => parts.for_states,
    };
    owed + own + kept + core.reserve.granted.load(Ordering::Acquire)
}

fn wanted_pages(core: &Core, brings: Brings, bytes: usize) -> u64 {
    wanted_beside(core, owed_pages(core), brings, bytes)
}

/// The last durable state has most of the pages that any may have: what is new would make the next
/// one longer (F8).
fn is_state_long(core: &Core) -> bool {
    let pages = core.reserve.state_pages.load(Ordering::Relaxed);
    pages > state_pages_max(core.pages.layout()) / 4 * 3
}

/// Whether a commit of so many bytes leaves what it must (F1, F2, F8), as the file is.
pub fn has_room(core: &Core, brings: Brings, bytes: usize) -> bool {
    if !core.reserve.is_kept() {
        return true;
    }
    if brings == Brings::Data && is_state_long(core) {
        return false;
    }
    // The most that can be owed is known without the log's lock.
    let (held, beside) = {
        // Not held for longer: what its state alone needs may be all that can come free.
        let view = core.view();
        let held = view.memtables().map(|slot| slot.table.bytes() as u64).sum::<u64>();
        (held, beside_pages(core, &view))
    };
    let most = pages_of(core, in_leaves(held) + core.reserve.sizes.flush_rest_bytes())
        + core.log_named.pages()
        + beside;
    let is_free = |wanted| core.pages.allocator().room_pages() >= wanted;
    // Room is looked at last: what a flush or a step has taken is owed, or granted, until it ends.
    is_free(wanted_beside(core, most, brings, bytes)) || is_free(wanted_pages(core, brings, bytes))
}

/// The same; the file grows where it must.
///
/// # Errors
/// `NoSpace`: nothing was promised.
pub fn make_room(core: &Core, brings: Brings, bytes: usize) -> Result<()> {
    if has_room(core, brings, bytes) {
        return Ok(());
    }
    if brings == Brings::Data && is_state_long(core) {
        return Err(Error::NoSpace {
            operation: "a state that names still more keyspaces, segments or regions".into(),
            file: core.pages.storage().name(),
        });
    }
    core.pages.allocator().ensure_free(wanted_pages(core, brings, bytes))
}

/// The free pages that whoever writes a value for a commit of data leaves.
pub fn kept_by_data(core: &Core) -> u64 {
    if core.reserve.is_kept() { wanted_pages(core, Brings::Data, 0) } else { 0 }
}

/// Pages for writing so many bytes before their commit takes its place (F1); `None` when others
/// have taken the room that there was.
pub fn promise(core: &Core, brings: Brings, bytes: usize) -> Option<Grant> {
    let _order = core.commit_order.lock();
    has_room(core, brings, bytes).then(|| {
        let pages = if core.reserve.is_kept() { data_pages(core, bytes) } else { 0 };
        new_grant(core, pages)
    })
}

/// What data of so many bytes takes.
fn data_pages(core: &Core, bytes: usize) -> u64 {
    let bytes = bytes as u64;
    pages_of(core, bytes + bytes / 4)
}

fn new_grant(core: &Core, pages: u64) -> Grant {
    let granted = &core.reserve.granted;
    granted.fetch_add(pages, Ordering::AcqRel);
    Grant {
        granted: granted.clone(),
        all: pages,
        left: AtomicU64::new(pages),
        is_tight: false,
        file_is_full: false,
    }
}

/// The free pages that are left when what is owed, granted to steps and kept for durable states is
/// taken off.
fn room_for_steps(core: &Core) -> u64 {
    let kept = owed_pages(core) + core.reserve.parts(0).for_states;
    let granted = core.reserve.granted.load(Ordering::Acquire);
    core.pages.allocator().room_pages().saturating_sub(kept + granted)
}

/// How many pages a step may read of its sources, and of its destination: the most, and what there
/// is room for if that is less (F4).
pub fn step_pages(core: &Core) -> u64 {
    (core.options.step_bytes / u64::from(core.pages.layout().page_size)).max(8)
}

/// The same, as there is room for it: a third of what such a step may read, since the stretch of
/// the destination comes besides.
pub fn step_pages_with_room(core: &Core) -> u64 {
    let page_bytes = u64::from(core.pages.layout().page_size);
    let read_bytes = Sizes::read_bytes_within(room_for_steps(core).saturating_mul(page_bytes));
    (read_bytes / page_bytes / 3).clamp(1, step_pages(core))
}

/// The most pages that a step may read which moves nodes only, as there is room for it.
pub fn moved_pages_with_room(core: &Core) -> u64 {
    let page_bytes = u64::from(core.pages.layout().page_size);
    let read_bytes = Sizes::read_bytes_within(room_for_steps(core).saturating_mul(page_bytes));
    (read_bytes / page_bytes).clamp(1, step_pages(core))
}

/// Pages for a step that reads at most so many (F4); `None` when others hold what it would need.
///
/// # Errors
/// `NoSpace` when nobody does, and there is not so much room.
pub fn grant(core: &Core, read_pages: u64) -> Result<Option<Grant>> {
    let granted = grant_to_move(core, read_pages)?;
    // Others may have been given the room that the file has grown by; it may grow again.
    if granted.as_ref().is_some_and(|grant| grant.is_tight && grant.file_is_full) {
        set_short(core, true);
    }
    Ok(granted)
}

/// Pages for a value that is copied beside what was granted; `None` when there is not so much room.
///
/// # Errors
/// When the file cannot grow for another reason.
pub fn grant_copy(core: &Core, pages: u64) -> Result<Option<Grant>> {
    if !core.reserve.is_kept() {
        return Ok(Some(new_grant(core, 0)));
    }
    let allocator = core.pages.allocator();
    let lacking = pages.saturating_sub(room_for_steps(core));
    match allocator.ensure_free(allocator.room_pages() + lacking) {
        Ok(()) | Err(Error::NoSpace { .. }) => {}
        Err(error) => return Err(error),
    }
    let _order = core.commit_order.lock();
    Ok((room_for_steps(core) >= pages).then(|| new_grant(core, pages)))
}

/// [`grant`] for a step that makes the file shorter: that it takes of the reserve says nothing of
/// what others will find.
///
/// # Errors
/// As [`grant`].
pub fn grant_to_move(core: &Core, read_pages: u64) -> Result<Option<Grant>> {
    let page_bytes = u64::from(core.pages.layout().page_size);
    let pages = match core.reserve.is_kept() {
        true => pages_of(core, Sizes::step_bytes(read_pages.saturating_mul(page_bytes))),
        false => 0,
    };
    if pages == 0 {
        return Ok(Some(new_grant(core, 0)));
    }
    let allocator = core.pages.allocator();
    let parts = core.reserve.parts(0);
    let with_reserve = pages + parts.all - parts.for_states;
    let lacking = with_reserve.saturating_sub(room_for_steps(core));
    let refused = match allocator.ensure_free(allocator.room_pages() + lacking) {
        Ok(()) => None,
        Err(error @ Error::NoSpace { .. }) => Some(error),
        Err(error) => return Err(error),
    };
    // No commit is between the question whether there is room and its place in the memtable.
    let order = core.commit_order.lock();
    // Nobody else is granted anything now. Looked at before the room: whoever ends between the two
    // looks would leave room that was not seen.
    let had_grants = core.reserve.has_grants();
    if room_for_steps(core) >= pages {
        let is_tight = room_for_steps(core) < with_reserve;
        let mut grant = new_grant(core, pages);
        grant.is_tight = is_tight;
        grant.file_is_full = refused.is_some();
        return Ok(Some(grant));
    }
    drop(order);
    match refused {
        Some(error) if !had_grants => Err(error),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::durable::LOG_BLOCK_BYTES;

    fn sizes(options: &Options, page_size: u32) -> Sizes {
        let max_file_bytes = options.max_file_bytes.unwrap_or(u64::MAX);
        Sizes::new(options, page_size, 256 * 1024 / page_size, max_file_bytes)
    }

    #[test]
    fn the_reserve_grows_with_what_lies_in_the_file_up_to_the_least_that_may_be_asked_for() {
        let options = Options::default();
        let sizes = sizes(&options, options.page_size);
        let all = |tree_bytes| sizes.parts(tree_bytes, 0, 0).all * sizes.page_bytes;
        assert!(all(0) < 1 << 20, "{} bytes beside nothing", all(0));
        let mut before = 0;
        for tree_bytes in (0..40).map(|power| 1 << power) {
            assert!(all(tree_bytes) >= before);
            assert!(
                all(tree_bytes) <= all(0) + tree_bytes * 13 / 8 + sizes.page_bytes,
                "{tree_bytes}"
            );
            before = all(tree_bytes);
        }
        // The rest beside a step of short leaves is a little less than beside one of long leaves.
        let least = options.least_reserve_bytes();
        assert!(before <= least && least - before <= 64 << 10, "{before} and {least}");
    }

    #[test]
    fn what_a_step_may_read_is_the_most_that_its_room_allows() {
        for step_bytes in (0..4000).map(|n| n * 1237) {
            let read_bytes = Sizes::read_bytes_within(step_bytes);
            if read_bytes > 0 {
                assert!(Sizes::step_bytes(read_bytes) <= step_bytes, "{step_bytes}");
            }
            assert!(Sizes::step_bytes(read_bytes + 64) > step_bytes, "{step_bytes}");
        }
    }

    #[test]
    fn what_is_to_be_merged_has_room_to_grow_unless_the_reserve_was_said() {
        let default = sizes(&Options::default(), 4096);
        let merged = default.parts(64 << 20, 0, 0);
        let unmerged = default.parts(64 << 20, 16 << 20, 0);
        assert_eq!(unmerged.all - merged.all, (2 << 20) / 4096);
        assert_eq!(unmerged.for_merges - merged.for_merges, (2 << 20) / 4096);
        assert_eq!(unmerged.for_states, merged.for_states);

        let said = Options { reserve_bytes: Some(8 << 20), ..Options::default() };
        let said = sizes(&said, 4096);
        assert_eq!(said.parts(64 << 20, 16 << 20, 0), said.parts(64 << 20, 0, 0));

        let short = Options { max_file_bytes: Some(8 << 20), ..Options::default() };
        let all = sizes(&short, 4096).parts(6 << 20, 1 << 30, 0).all;
        assert_eq!(all * 4096, 4 << 20, "no more than half of the file");
    }

    /// A state is as long as there are keyspaces, and the next one has its place beside it.
    #[test]
    fn what_merges_leave_is_enough_for_the_next_state_however_long_that_is() {
        let sizes = sizes(&Options::default(), 4096);
        for state_bytes in [0, 1 << 20, 16 << 20, 1 << 30] {
            let parts = sizes.parts(1 << 30, 0, state_bytes);
            assert!(parts.for_states * 4096 >= 2 * state_bytes + LOG_BLOCK_BYTES);
            assert!(parts.for_merges > parts.for_states && parts.all > parts.for_merges);
        }
    }

    /// What a step is granted for all that there is, is what deletions leave for it.
    #[test]
    fn the_least_step_fits_between_what_deletions_and_what_merges_leave() {
        for leaf_bytes in [1024, 8192, 65_536] {
            let options = Options { leaf_bytes, page_size: 1024, ..Options::default() };
            let sizes = sizes(&options, 1024);
            for tree_bytes in (0..40).map(|power| 1 << power) {
                let parts = sizes.parts(tree_bytes, 0, 0);
                let read = tree_bytes.min(STEP_LEAVES * u64::from(leaf_bytes));
                let granted = Sizes::step_bytes(read).div_ceil(1024);
                assert!(parts.for_merges - parts.for_states >= granted);
                assert!(parts.all > parts.for_merges);
            }
        }
    }
}
