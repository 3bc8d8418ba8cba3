//! One budget for all the memory that the engine takes.
//!
//! *Guarantees*: the cache gets what the other parts leave, and a sixteenth of the total at least;
//! of a total that is not large it also leaves what the process takes beside what is counted.
//! *Threads*: any; counters are atomics. The listener runs on one thread at a time, whose charge
//! set it off, and nobody waits for it. What it has heard last is right but for small moves, once
//! no charge is under way.

use std::fmt;

use crate::options::Options;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, OnceLock};

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum MemoryPart {
    /// Memtables, sealed ones included.
    Memtables,
    /// Cached nodes.
    Cache,
    /// Filters that stay in memory.
    Filters,
    /// Buffers of merges, and of values that are written as streams.
    MergeBuffers,
    /// Compression contexts, which the databases of a process share: those that this one used last.
    Compression,
    /// Free maps.
    FreeMaps,
    /// Read sets of transactions.
    ReadSets,
    /// Writes of open transactions that lie in memory.
    PendingWrites,
    /// Dead lists.
    DeadLists,
    /// States: what they know of keyspaces and segments. Of those that the database itself needs;
    /// what older ones keep besides is held by the application.
    States,
    /// Nodes that were not written yet, and whatever else there is.
    Other,
}

impl MemoryPart {
    /// Every part.
    pub const ALL: [MemoryPart; 11] = [
        MemoryPart::Memtables,
        MemoryPart::Cache,
        MemoryPart::Filters,
        MemoryPart::MergeBuffers,
        MemoryPart::Compression,
        MemoryPart::FreeMaps,
        MemoryPart::ReadSets,
        MemoryPart::PendingWrites,
        MemoryPart::DeadLists,
        MemoryPart::States,
        MemoryPart::Other,
    ];
}

/// What the database itself needs states for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum StateNeed {
    /// One is current.
    Current,
    /// One is the last durable one.
    Durable,
    /// One is being made durable.
    Making,
    /// The log names what some have brought.
    Log,
}

/// What a process takes beside what is counted: its own pages, stacks, and above all what the
/// system's allocator keeps, thread by thread, of memory that was given back. Measured with reads
/// and writes by turns, beside two merge threads: 21 to 36 MiB with budgets of 16 to 160 MiB, their
/// compression contexts included, which were not counted then.
const PROCESS_BYTES: u64 = 40 << 20;
/// A smaller total is for many databases in one process, which share that.
const SHARED_BELOW_BYTES: u64 = 32 << 20;

/// What the cache leaves of `total` so that the process stays within a fifth above it, from twice
/// that on.
fn left_for_process(total: u64) -> u64 {
    let wanted = PROCESS_BYTES.saturating_sub(total / 5);
    wanted.min(total.saturating_sub(SHARED_BELOW_BYTES) / 2).min(total / 4)
}

type Listener = Box<dyn Fn(u64) + Send + Sync>;

/// The budget: a total, and what each part uses of it, in bytes.
pub struct MemoryBudget {
    total: AtomicU64,
    parts: [AtomicU64; MemoryPart::ALL.len()],
    /// What all parts but the cache used when the listener ran last.
    told: AtomicU64,
    /// How many wanted the listener to run since somebody began to run it; none when nobody does.
    to_tell: AtomicU64,
    listener: OnceLock<Listener>,
    /// See [`MemoryBudget::held_by_application`].
    held: AtomicU64,
    /// See [`MemoryBudget::need_states`].
    states_needed: [AtomicU64; 4],
    maps_bytes_max: u64,
}

/// The part of a budget that free maps may take: beside them a state in the making takes half as
/// much, and a check one and a half times.
pub const MAPS_PART: u64 = 8;

impl MemoryBudget {
    /// A budget of `total` bytes of which nothing is used.
    pub fn new(total: u64) -> MemoryBudget {
        MemoryBudget {
            total: AtomicU64::new(total),
            parts: Default::default(),
            told: AtomicU64::new(0),
            to_tell: AtomicU64::new(0),
            listener: OnceLock::new(),
            held: AtomicU64::new(0),
            states_needed: Default::default(),
            maps_bytes_max: total / MAPS_PART,
        }
    }

    /// What the options ask for, of which nothing is used.
    pub(crate) fn of(options: &Options) -> MemoryBudget {
        let budget = MemoryBudget::new(options.memory_budget);
        let maps_bytes_max = options.maps_bytes.unwrap_or(budget.maps_bytes_max);
        MemoryBudget { maps_bytes_max, ..budget }
    }

    /// What free maps may take, in bytes: it bounds how long the file may be.
    pub fn maps_bytes_max(&self) -> u64 {
        self.maps_bytes_max
    }

    /// The total, in bytes.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Changes the total.
    pub fn set_total(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
        self.tell();
    }

    /// What all parts use, in bytes.
    pub fn used(&self) -> u64 {
        MemoryPart::ALL.into_iter().map(|part| self.part(part)).sum()
    }

    /// What one part uses, in bytes.
    pub fn part(&self, part: MemoryPart) -> u64 {
        let counted = self.counter(part).load(Ordering::SeqCst);
        match part {
            MemoryPart::States => counted.min(self.states_needed()),
            _ => counted,
        }
    }

    /// The states that the database itself needs for something take so many bytes. What is counted
    /// beyond the sum of all needs is held by the application, whose snapshots, cursors and
    /// transactions have it, or for a moment by a step. What two needs share counts for both.
    pub fn need_states(&self, need: StateNeed, bytes: u64) {
        let [first, rest @ ..] = &self.states_needed;
        rest.get((need as usize).wrapping_sub(1)).unwrap_or(first).store(bytes, Ordering::SeqCst);
        self.tell_if_moved();
    }

    fn states_needed(&self) -> u64 {
        let needs = self.states_needed.iter().map(|bytes| bytes.load(Ordering::SeqCst));
        needs.fold(0, u64::saturating_add)
    }

    /// What the cache may use: the total less the other parts and what the process needs besides, a
    /// sixteenth of it at least.
    pub fn cache_capacity(&self) -> u64 {
        self.capacity_beside(self.beside_cache())
    }

    fn capacity_beside(&self, others: u64) -> u64 {
        let total = self.total();
        // What is left for the process has room for them.
        let contexts = self.part(MemoryPart::Compression);
        let others = others.saturating_sub(contexts);
        let left = total.saturating_sub(others + left_for_process(total).max(contexts));
        left.max(total / 16)
    }

    /// Counts `bytes` more for a part.
    pub fn add(&self, part: MemoryPart, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.counter(part).fetch_add(bytes, Ordering::SeqCst);
        if part != MemoryPart::Cache {
            self.tell_if_moved();
        }
    }

    /// Counts `bytes` fewer for a part.
    pub fn sub(&self, part: MemoryPart, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.counter(part).fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "{part:?} gives back more than it took");
        if part != MemoryPart::Cache {
            self.tell_if_moved();
        }
    }

    /// Counts `bytes` for a part until the guard is dropped.
    pub fn charge(self: &Arc<Self>, part: MemoryPart, bytes: u64) -> Charge {
        self.add(part, bytes);
        Charge { budget: Arc::clone(self), part, bytes }
    }

    /// The same if the part then has `part_max` bytes at most, and the cache keeps what is always
    /// left to it.
    pub fn charge_if_room(
        self: &Arc<Self>,
        part: MemoryPart,
        bytes: u64,
        part_max: u64,
    ) -> Option<Charge> {
        let total = self.total();
        if self.beside_cache().saturating_add(bytes) > total - total / 16 {
            return None;
        }
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= part_max);
        let counter = self.counter(part);
        counter.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).ok()?;
        self.tell_if_moved();
        Some(Charge { budget: Arc::clone(self), part, bytes })
    }

    /// What the application holds beside the budget, in bytes: [`super::held`], frames that the
    /// cache does not have, and what only states know that the database no longer needs.
    pub fn held_by_application(&self) -> u64 {
        let states = self.counter(MemoryPart::States).load(Ordering::SeqCst);
        let older = states.saturating_sub(self.states_needed());
        self.held.load(Ordering::Relaxed) + older
    }

    pub(super) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn let_go(&self, bytes: u64) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Whom to tell the cache's capacity when it has moved. The first call counts.
    pub(super) fn set_listener(&self, listener: Listener) {
        // A second manager over one budget shares the first one's cache share.
        let _ = self.listener.set(listener);
    }

    fn counter(&self, part: MemoryPart) -> &AtomicU64 {
        let [first, rest @ ..] = &self.parts;
        rest.get((part as usize).wrapping_sub(1)).unwrap_or(first)
    }

    fn beside_cache(&self) -> u64 {
        let parts = MemoryPart::ALL.into_iter().filter(|part| *part != MemoryPart::Cache);
        parts.map(|part| self.part(part)).sum()
    }

    /// Small moves are let pass, so that a charge costs little.
    fn has_moved(&self) -> bool {
        let moved = self.beside_cache().abs_diff(self.told.load(Ordering::SeqCst));
        moved > self.total() / 128
    }

    fn tell_if_moved(&self) {
        if self.has_moved() {
            self.tell();
        }
    }

    /// Runs the listener, or leaves it to the thread that is at it: what is told by two in turn
    /// might be told in the wrong order, and the older capacity would stay.
    ///
    /// Whoever charges changes its part before it looks at `told`; here `told` is set before the
    /// parts are looked at. In one order of all these, one of both sees what the other has done.
    fn tell(&self) {
        let Some(listener) = self.listener.get() else { return };
        if self.to_tell.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        loop {
            let heard = self.to_tell.load(Ordering::SeqCst);
            let others = self.beside_cache();
            self.told.store(others, Ordering::SeqCst);
            listener(self.capacity_beside(others));
            if self.has_moved() {
                continue;
            }
            let ends =
                self.to_tell.compare_exchange(heard, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            if ends {
                return;
            }
        }
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("MemoryBudget");
        out.field("total", &self.total()).field("parts", &self.parts);
        out.finish_non_exhaustive()
    }
}

/// Bytes counted for a part of the budget until this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<MemoryBudget>,
    part: MemoryPart,
    bytes: u64,
}

impl Charge {
    /// What is counted, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What all charges for the same part come to, in bytes.
    pub(super) fn bytes_of_all(&self) -> u64 {
        self.budget.part(self.part)
    }

    /// The budget that it counts in.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Counts so many bytes from now on.
    pub fn set(&mut self, bytes: u64) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.budget.add(self.part, bytes - before);
        } else {
            self.budget.sub(self.part, before - bytes);
        }
    }

    /// Counts so many bytes more.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.bytes + bytes);
    }

    /// Counts so many bytes fewer.
    pub fn sub(&mut self, bytes: u64) {
        self.set(self.bytes.saturating_sub(bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.sub(self.part, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_total_that_is_not_large_the_cache_leaves_what_the_process_needs() {
        let left_mib = |mib: u64| mib - (MemoryBudget::new(mib << 20).cache_capacity() >> 20);
        assert_eq!([1, 4, 31].map(left_mib), [0, 0, 0]);
        assert_eq!([32, 48, 64, 128, 200, 1024].map(left_mib), [0, 8, 16, 15, 0, 0]);
    }

    #[test]
    fn what_is_left_for_the_process_has_room_for_compression_contexts() {
        let budget = Arc::new(MemoryBudget::new(64 << 20));
        let mut contexts = budget.charge(MemoryPart::Compression, 3 << 20);
        assert_eq!(budget.cache_capacity(), 48 << 20);
        contexts.set(20 << 20);
        assert_eq!(budget.cache_capacity(), 44 << 20);
        let large = Arc::new(MemoryBudget::new(1 << 30));
        let _contexts = large.charge(MemoryPart::Compression, 3 << 20);
        assert_eq!(large.cache_capacity(), 1021 << 20);
    }

    #[test]
    fn every_part_has_a_counter_of_its_own() {
        let budget = Arc::new(MemoryBudget::new(1000));
        budget.need_states(StateNeed::Current, u64::MAX);
        let charges: Vec<_> = MemoryPart::ALL
            .into_iter()
            .enumerate()
            .map(|(index, part)| budget.charge(part, 1 << index))
            .collect();
        for (index, part) in MemoryPart::ALL.into_iter().enumerate() {
            assert_eq!(budget.part(part), 1 << index);
        }
        assert_eq!(budget.used(), (1 << MemoryPart::ALL.len()) - 1);
        drop(charges);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_cache_gets_what_the_others_leave_but_never_nothing() {
        let budget = Arc::new(MemoryBudget::new(1600));
        let mut charge = budget.charge(MemoryPart::Memtables, 600);
        budget.add(MemoryPart::Cache, 900);
        assert_eq!(budget.cache_capacity(), 1000);
        charge.set(5000);
        assert_eq!(budget.cache_capacity(), 100);
        charge.sub(4900);
        assert_eq!(budget.cache_capacity(), 1500);
    }

    #[test]
    fn what_states_take_that_are_not_needed_is_held_by_the_application() {
        let budget = Arc::new(MemoryBudget::new(1600));
        let mut states = budget.charge(MemoryPart::States, 300);
        budget.need_states(StateNeed::Current, 300);
        budget.need_states(StateNeed::Log, 200);
        let taken = || (budget.part(MemoryPart::States), budget.held_by_application());
        assert_eq!((taken(), budget.cache_capacity()), ((300, 0), 1300));
        states.set(900);
        assert_eq!((taken(), budget.cache_capacity()), ((500, 400), 1100));
        budget.need_states(StateNeed::Log, 0);
        budget.need_states(StateNeed::Current, 100);
        assert_eq!((taken(), budget.used(), budget.cache_capacity()), ((100, 800), 100, 1500));
    }

    #[test]
    fn what_has_no_room_is_not_counted() {
        let budget = Arc::new(MemoryBudget::new(1600));
        let filters = |bytes| budget.charge_if_room(MemoryPart::Filters, bytes, 200);
        let first = filters(150).unwrap();
        assert!(filters(51).is_none() && filters(u64::MAX).is_none());
        assert_eq!(budget.used(), 150);
        drop(first);
        // What the cache has gives way; what the others have does not.
        budget.add(MemoryPart::Cache, 1600);
        let others = budget.charge(MemoryPart::Memtables, 1400);
        assert!(filters(101).is_none());
        assert_eq!(filters(100).unwrap().bytes(), 100);
        assert_eq!(budget.part(MemoryPart::Filters), 0);
        drop(others);
    }

    /// As if other threads did so.
    #[test]
    fn the_listener_hears_of_what_moves_while_it_runs() {
        let budget = Arc::new(MemoryBudget::new(1280));
        let heard = Arc::new(AtomicU64::new(0));
        let (told, other) = (Arc::clone(&heard), Arc::clone(&budget));
        budget.set_listener(Box::new(move |capacity| {
            if told.load(Ordering::Relaxed) == 0 {
                other.sub(MemoryPart::Other, 95);
            }
            told.store(capacity, Ordering::Relaxed);
        }));
        budget.add(MemoryPart::Other, 100);
        assert_eq!(heard.load(Ordering::Relaxed), 1275);
        let budget = Arc::new(MemoryBudget::new(1280));
        let (told, other) = (Arc::clone(&heard), Arc::clone(&budget));
        budget.set_listener(Box::new(move |capacity| {
            if other.total() == 1280 {
                other.set_total(640);
            }
            told.store(capacity, Ordering::Relaxed);
        }));
        budget.add(MemoryPart::Other, 100);
        assert_eq!(heard.load(Ordering::Relaxed), 540);
    }

    #[test]
    fn the_listener_hears_of_large_moves() {
        let budget = Arc::new(MemoryBudget::new(1280));
        let heard = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&heard);
        budget.set_listener(Box::new(move |capacity| told.store(capacity, Ordering::Relaxed)));
        budget.add(MemoryPart::Other, 5);
        assert_eq!(heard.load(Ordering::Relaxed), 0);
        budget.add(MemoryPart::Other, 6);
        assert_eq!(heard.load(Ordering::Relaxed), 1269);
    }
}
