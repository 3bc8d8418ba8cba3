//! What all parts of an open database share.
//!
//! *Guarantees*: after [`Core::stop`] nothing is written, allotted or freed any more; reads go on
//! (C4). *Threads*: any. The order in which locks may be taken is in docs/architecture.md, section
//! 8; debug builds check it.

use std::collections::VecDeque;

use super::background::Background;
use super::backlog::Backlog;
use super::catalogue::Catalogue;
use super::dead_list::{Dead, HeldStates};
use super::durable::{Durable, log_block_pages};
use super::held_snapshots::HeldSnapshots;
use super::log_named::LogNamed;
use super::open_transactions::OpenTransactions;
use super::panic_guard::PanicGuard;
use super::pending_blocks::PendingBlocks;
use super::publish::Publisher;
use super::recent_commits::RecentCommits;
use super::reserve::Reserve;
use super::state::State;
use super::view::{ByReference, Home, MemtableSlot, View};
use crate::error::{Error, Result};
use crate::log::writer::LogWriter;
use crate::memtable::{ChunkPool, Memtable};
use crate::options::Options;
use crate::page::{Block, Charge, MemoryPart, PageManager, StateNeed};
use crate::segment::descriptor::Segment;
use crate::segment::leaf_waste::LeafWaste;
use crate::storage::SyncGate;
#[cfg(feature = "internals")]
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, ArcSwap, Clock, LockRank, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

/// Numbers that commits give out. They change only under the commit order's lock.
#[derive(Debug)]
pub struct CommitNumbers {
    /// The number of the next commit.
    pub next_sequence: AtomicU64,
    /// The number of the next keyspace.
    pub next_keyspace: AtomicU32,
}

/// Counts of what went on, for statistics and tests.
#[derive(Debug, Default)]
pub struct CoreCounters {
    /// Commits.
    pub commits: AtomicU64,
    /// Flushes installed.
    pub flushes: AtomicU64,
    /// Promotion steps installed.
    pub promotions: AtomicU64,
    /// States made durable.
    pub durable_states: AtomicU64,
    /// Bytes of keys and values committed.
    pub user_bytes: AtomicU64,
    /// Times that a commit asked for all that it had read and written.
    pub validations: AtomicU64,
    /// Times that a writer had to wait for a step.
    pub stalls: AtomicU64,
    /// Time that writers were slowed, in microseconds.
    pub slowed_microseconds: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    /// The file.
    pub pages: Arc<PageManager>,
    /// The log.
    pub log: LogWriter,
    /// Time.
    pub clock: Clock,
    /// Syncs of the file: all after it was created or opened.
    pub sync_gate: Arc<SyncGate>,
    pub(crate) options: Options,
    /// What is kept free in the file.
    pub reserve: Reserve,
    /// What entries may waste when they are flushed.
    pub leaf_waste: LeafWaste,
    view: ArcSwap<View>,
    view_swap: OrderedMutex<()>,
    /// The keyspaces as of the newest commit. One that was dropped is unknown here: it would be
    /// copied with each change until its last segment has gone.
    pub catalogue: ArcSwap<Catalogue>,
    /// The number of the commit that made it, or of a later one that is about to make the next.
    catalogue_number: AtomicU64,
    /// The keyspaces as of the newest visible change.
    visible_catalogue: OrderedMutex<VisibleCatalogue>,
    /// Held while a commit gets its place in the order.
    pub commit_order: OrderedMutex<()>,
    /// What it guards.
    pub numbers: CommitNumbers,
    /// Held while a state is built and swapped in.
    pub install_order: OrderedMutex<()>,
    /// The epoch of the next state: not always one more, since an open after a crash skips some. It
    /// changes only under the install lock.
    pub next_epoch: AtomicU64,
    /// The number of the next segment.
    pub next_segment: AtomicU64,
    /// Visibility.
    pub publisher: Publisher,
    /// Dead blocks.
    pub held: HeldStates,
    /// Snapshots.
    pub snapshots: Arc<HeldSnapshots>,
    /// Blocks that the log names.
    pub log_named: LogNamed,
    /// Blocks of pending transactions.
    pub pending: Arc<PendingBlocks>,
    /// Open transactions.
    pub transactions: OpenTransactions,
    /// What the newest commits have changed.
    pub recent: RecentCommits,
    /// The last durable state.
    pub durable: Durable,
    /// Recycled memory of memtables.
    pub pool: Arc<ChunkPool>,
    /// Background work.
    pub background: Background,
    /// Counts.
    pub counters: CoreCounters,
    /// What looks at every install, when a test wants that.
    #[cfg(feature = "internals")]
    pub install_check: Mutex<Option<Box<dyn super::install_check::InstallCheck>>>,
    memtable_charge: OrderedMutex<Charge>,
    stopped: OrderedMutex<Option<Arc<Error>>>,
    is_stopped: AtomicBool,
}

/// The lists of what is kept for open transactions take this part of the memory budget at most.
const TRANSACTIONS_PART: u64 = 16;

/// The rank of the lock over the cause of a stop.
const STOPPED: LockRank = LockRank::new(80, "cause of a stop");
/// The rank of the lock over the memtables' charge.
const MEMTABLE_CHARGE: LockRank = LockRank::new(66, "charge of memtables");

/// The rank of the lock over the visible catalogue.
const VISIBLE_CATALOGUE: LockRank = LockRank::new(79, "visible catalogue");

#[derive(Debug)]
struct VisibleCatalogue {
    visible: Arc<Catalogue>,
    /// What commits have made of it that were not visible when somebody last looked.
    later: VecDeque<(SequenceNumber, Arc<Catalogue>)>,
}

impl VisibleCatalogue {
    /// Returns what was visible before, to be dropped behind the lock: what it takes is given back
    /// then, of which the cache is told.
    fn advance(&mut self, visible: SequenceNumber) -> Vec<Arc<Catalogue>> {
        let mut before = Vec::new();
        while let Some((_, made)) = self.later.pop_front_if(|(number, _)| *number <= visible) {
            before.push(std::mem::replace(&mut self.visible, made));
        }
        before
    }
}

/// What a core is made of: new or recovered.
#[derive(Debug)]
pub(crate) struct CoreParts {
    pub pages: Arc<PageManager>,
    pub log: LogWriter,
    pub clock: Clock,
    pub sync_gate: Arc<SyncGate>,
    pub options: Options,
    pub view: View,
    pub catalogue: Catalogue,
    pub numbers: CommitNumbers,
    pub next_epoch: Epoch,
    pub next_segment: u64,
    pub visible: SequenceNumber,
    pub held: HeldStates,
    pub log_named: LogNamed,
    pub pending: Arc<PendingBlocks>,
    pub durable: Durable,
    pub pool: Arc<ChunkPool>,
    /// How far leaves are packed.
    pub packed: Epoch,
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Arc<Core> {
        let charge = parts.pages.budget().charge(MemoryPart::Memtables, 0);
        let layout = parts.pages.layout();
        let leaf_pages = parts.options.leaf_pages_bytes() / layout.page_size.max(1);
        parts.pages.allocator().set_leaf_pages(leaf_pages);
        let file_bytes_max = parts.pages.allocator().file_bytes_max();
        let log_block_pages = log_block_pages(layout);
        let reserve =
            Reserve::new(&parts.options, layout.page_size, log_block_pages, file_bytes_max);
        reserve.note_state(&parts.view.state);
        reserve.note_durable(parts.durable.state_pages());
        // The one that was opened is the durable one, too.
        for need in [StateNeed::Current, StateNeed::Durable] {
            parts.pages.budget().need_states(need, parts.view.state.bytes());
        }
        let snapshots = Arc::new(HeldSnapshots::new(parts.pages.budget()));
        let catalogue = Arc::new(parts.catalogue);
        catalogue.count_for(parts.pages.budget(), MemoryPart::Other);
        parts.pages.allocator().set_kept_free(reserve.at_rest());
        let transactions = OpenTransactions::new(parts.pages.budget());
        let recent = RecentCommits::new(parts.pages.budget());
        let leaf_waste = LeafWaste::new(layout, parts.options.leaf_pages_bytes() as usize);
        let background = Background::default();
        background.jobs.lock().pack.begin_behind(parts.packed);
        Arc::new(Core {
            reserve,
            leaf_waste,
            pages: parts.pages,
            log: parts.log,
            clock: parts.clock,
            sync_gate: parts.sync_gate,
            options: parts.options,
            view: ArcSwap::from_pointee(parts.view),
            view_swap: OrderedMutex::new(LockRank::VIEW_SWAP, ()),
            visible_catalogue: OrderedMutex::new(
                VISIBLE_CATALOGUE,
                VisibleCatalogue { visible: catalogue.clone(), later: VecDeque::new() },
            ),
            catalogue_number: AtomicU64::new(0),
            catalogue: ArcSwap::new(catalogue),
            commit_order: OrderedMutex::new(LockRank::COMMIT_ORDER, ()),
            numbers: parts.numbers,
            install_order: OrderedMutex::new(LockRank::INSTALL, ()),
            next_epoch: AtomicU64::new(parts.next_epoch.0),
            next_segment: AtomicU64::new(parts.next_segment),
            publisher: Publisher::new(parts.visible),
            held: parts.held,
            snapshots,
            log_named: parts.log_named,
            pending: parts.pending,
            transactions,
            recent,
            durable: parts.durable,
            pool: parts.pool,
            background,
            counters: CoreCounters::default(),
            #[cfg(feature = "internals")]
            install_check: Mutex::new(None),
            memtable_charge: OrderedMutex::new(MEMTABLE_CHARGE, charge),
            stopped: OrderedMutex::new(STOPPED, None),
            is_stopped: AtomicBool::new(false),
        })
    }

    /// The view of this moment.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The newest visible commit.
    pub fn visible(&self) -> SequenceNumber {
        self.publisher.visible()
    }

    /// The keyspaces as of the newest visible commit.
    pub fn visible_catalogue(&self) -> Arc<Catalogue> {
        let mut catalogue = self.visible_catalogue.lock();
        let before = catalogue.advance(self.visible());
        let visible = catalogue.visible.clone();
        drop(catalogue);
        drop(before);
        visible
    }

    /// The keyspaces that handles lead to: as of the newest commit, and after writing
    /// stopped as of the newest visible one, since the others failed.
    pub fn current_catalogue(&self) -> Arc<Catalogue> {
        if self.has_stopped() { self.visible_catalogue() } else { self.catalogue.load_full() }
    }

    /// A commit changes the catalogue. The commit order's lock is held.
    pub fn set_catalogue(&self, number: SequenceNumber, catalogue: Catalogue) {
        let catalogue = Arc::new(catalogue);
        catalogue.count_for(self.pages.budget(), MemoryPart::Other);
        let mut visible = self.visible_catalogue.lock();
        let before = visible.advance(self.visible());
        visible.later.push_back((number, catalogue.clone()));
        drop(visible);
        drop(before);
        // First, so that whoever has the new catalogue finds a number that is not too low.
        self.catalogue_number.store(number.0, Ordering::Release);
        self.catalogue.store(catalogue);
    }

    /// Waits until the newest change of the catalogue is visible: what was seen of it before can be
    /// told then (K4).
    ///
    /// # Errors
    /// `Stopped`: it will never be.
    pub fn wait_for_catalogue(&self) -> Result<()> {
        let number = self.catalogue_number.load(Ordering::Acquire);
        self.publisher.wait_for(SequenceNumber(number))
    }

    /// Swaps in a view made from the present one.
    pub fn change_view(&self, change: impl FnOnce(&View) -> View) {
        let _swap = self.view_swap.lock();
        let next = change(&self.view.load());
        self.view.store(Arc::new(next));
    }

    /// Bytes that one memtable may take before it is sealed: a quarter of the budget.
    pub fn memtable_bytes_max(&self) -> usize {
        (self.options.memory_budget / 4) as usize
    }

    /// Bytes of its writes that a transaction keeps in memory: a quarter of a memtable.
    pub fn transaction_bytes_max(&self) -> usize {
        let bytes = self.options.transaction_bytes.unwrap_or(self.options.memory_budget / 16);
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes of all memtables that are not flushed.
    pub fn memtable_bytes(&self) -> usize {
        self.view().memtables().map(|slot| slot.table.bytes()).sum()
    }

    /// What waits to be merged and can be, with the segments of commits by reference that wait to
    /// come into the state.
    pub fn backlog(&self) -> Backlog {
        let view = self.view();
        let waiting: usize = view.sealed.iter().map(|slot| slot.segments().len()).sum();
        let backlog = self.background.damaged.backlog_of(&view.state).0;
        Backlog { young: backlog.young + waiting as f64, ..backlog }
    }

    /// Tells the budget what the memtables take.
    pub fn charge_memtables(&self) {
        let mut charge = self.memtable_charge.lock();
        // Under the lock: an older sum would replace a newer one.
        charge.set((self.memtable_bytes() + self.pool.bytes()) as u64);
    }

    /// The numbers of the next commit and of the next keyspace.
    pub fn commit_numbers(&self) -> (SequenceNumber, KeyspaceNumber) {
        let sequence = self.numbers.next_sequence.load(Ordering::Acquire);
        let keyspace = self.numbers.next_keyspace.load(Ordering::Acquire);
        (SequenceNumber(sequence), KeyspaceNumber(keyspace))
    }

    /// The number of the last commit that has its place.
    pub fn last_placed(&self) -> SequenceNumber {
        SequenceNumber(self.commit_numbers().0.0 - 1)
    }

    /// Seals the active memtable, unless it is empty. The commit order's lock is held.
    pub fn seal(&self) {
        let view = self.view();
        if view.active.is_empty() {
            return;
        }
        let (position, chain) = self.log.cut_here();
        let sequence = self.last_placed();
        let cut = super::state::Cut { sequence, position, chain };
        let set = view.active.cut.set(cut);
        assert!(set.is_ok(), "a memtable is sealed once");
        let since = view.state.epoch;
        let active = MemtableSlot::new(Memtable::new(self.pool.clone()), cut, since);
        self.change_view(|view| {
            let mut sealed = Vec::with_capacity(view.sealed.len() + 1);
            sealed.push(view.active.clone());
            sealed.extend_from_slice(&view.sealed);
            View { active: active.clone(), sealed, state: view.state.clone() }
        });
    }

    /// Puts the slot of a commit by reference in front of the sealed memtables. Its record is the
    /// last in the log, the active memtable is empty, and the commit order's lock is held.
    pub fn put_by_reference(&self, commit: ByReference) -> Arc<Home> {
        let (position, chain) = self.log.cut_here();
        let cut = super::state::Cut { sequence: commit.number, position, chain };
        let since = self.state().epoch;
        let slot = MemtableSlot::of_commit(Memtable::new(self.pool.clone()), commit, cut, since);
        let active = MemtableSlot::new(Memtable::new(self.pool.clone()), cut, since);
        self.change_view(|view| {
            assert!(view.active.is_empty(), "what came before is sealed");
            let mut sealed = Vec::with_capacity(view.sealed.len() + 1);
            sealed.push(slot.clone());
            sealed.extend_from_slice(&view.sealed);
            View { active: active.clone(), sealed, state: view.state.clone() }
        });
        slot.home.clone()
    }

    /// Stops all writing for good. The first cause is kept.
    pub fn stop(&self, cause: &Error) -> Error {
        let mut stopped = self.stopped.lock();
        let is_first = stopped.is_none();
        let cause = match cause {
            // What stopped a part says the same of itself.
            Error::Stopped(cause) => (**cause).clone(),
            cause => cause.clone().in_file(|| self.pages.storage().name()),
        };
        let first = stopped.get_or_insert_with(|| Arc::new(cause.clone())).clone();
        self.is_stopped.store(true, Ordering::Release);
        drop(stopped);
        self.publisher.stop(first.clone());
        self.background.notify();
        self.log.stop(first.clone());
        // Last: whoever listens is the application's, and may panic, or wait for others.
        if is_first {
            tracing::error!(target: "sapwood::failure", %cause, "writing stopped");
        }
        Error::Stopped(first)
    }

    /// Hands the log up to `end` to the system.
    ///
    /// # Errors
    /// When that fails: writing has stopped.
    pub fn write_log_to(&self, end: LogPosition) -> Result<()> {
        let _guard = PanicGuard::new(self, "a write of the log");
        self.log.write_to(end).map_err(|error| self.stop(&error))
    }

    /// Puts the log up to `end` on disk.
    ///
    /// # Errors
    /// When that fails: writing has stopped.
    pub fn sync_log_to(&self, end: LogPosition) -> Result<()> {
        let _guard = PanicGuard::new(self, "a sync of the log");
        self.log.sync_to(end).map_err(|error| self.stop(&error))
    }

    /// Syncs the file. What a failure means is for the caller to say.
    pub fn sync_file(&self) -> std::io::Result<()> {
        self.sync_gate.run(|| self.pages.storage().sync_data())
    }

    /// The error that writing gives, if it has stopped.
    ///
    /// # Errors
    /// `Stopped`, `ReadOnly`.
    pub fn check_writable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        if !self.is_stopped.load(Ordering::Acquire) {
            let sound = self.pages.allocator().check_sound().and_then(|()| self.log.check());
            return sound.map_err(|error| self.stop(&error));
        }
        match &*self.stopped.lock() {
            Some(cause) => Err(Error::Stopped(cause.clone())),
            None => Ok(()),
        }
    }

    /// True when writing has stopped.
    pub fn has_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire) || self.pages.allocator().check_sound().is_err()
    }

    /// Gives a block back that no state needs; the log may still hold it.
    pub fn free(&self, block: Block) {
        // E4: what is on disk is not known, so nothing may be overwritten.
        if !self.has_stopped() && self.log_named.may_free(block) {
            self.pages.free(block);
        }
    }

    /// Gives back what holds that have ended kept.
    pub fn collect_released(&self) {
        for block in self.held.collect().into_iter().chain(self.pending.collect()) {
            self.free(block);
        }
    }

    /// Ends a transaction, and with it what was kept for its validation.
    pub fn end_transaction(&self, name: u64) {
        for (dead, death) in self.transactions.end(name) {
            self.dispose(dead, death);
        }
    }

    /// Gives up the transactions for which too much is kept (E6): above the option's limit, or an
    /// eighth of the file, but not less than a memtable.
    pub fn limit_transactions(&self) {
        let page_bytes = u64::from(self.pages.layout().page_size);
        let pages_max = match self.options.max_transaction_history_bytes {
            Some(bytes) => bytes / page_bytes,
            None => {
                let memtable_pages = self.memtable_bytes_max() as u64 / page_bytes;
                (self.pages.allocator().file_pages() / 8).max(memtable_pages)
            }
        };
        let bytes_max = self.options.memory_budget / TRANSACTIONS_PART;
        for (dead, death) in self.transactions.limit(pages_max, bytes_max) {
            self.dispose(dead, death);
        }
    }

    /// Puts blocks that died with the install of `death` where they belong.
    pub fn dispose(&self, dead: Dead, death: Epoch) {
        if let Some(block) = self.held.dispose(dead, death) {
            self.free(block);
        }
    }

    /// A number for a new segment.
    pub fn new_segment_number(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    /// The current state.
    pub fn state(&self) -> Arc<State> {
        self.view().state.clone()
    }

    /// A segment of the current state by its number.
    pub fn find_segment(state: &State, number: u64) -> Option<Arc<Segment>> {
        let levels = state.levels.values().flat_map(|levels| levels.iter());
        state.young.iter().chain(levels).find(|segment| segment.number == number).cloned()
    }
}
