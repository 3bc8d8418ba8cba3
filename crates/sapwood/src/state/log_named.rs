//! Blocks that records of the log name: replay would read them.
//!
//! *Guarantees*: E3: a block that a record names is not free before the cut of a durable state has
//! passed the record, whatever else has happened to it. *Threads*: any; one short lock.

use std::collections::{BTreeMap, HashMap};

use super::state::State;
use crate::page::counted::in_map;
use crate::page::{ALLOCATION_BYTES, Block, Charge, MemoryBudget, MemoryPart, StateNeed};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::{LogPosition, PageNumber};

/// The rank of the lock.
pub const LOG_NAMED: LockRank = LockRank::new(46, "blocks that the log names");

/// See the module.
#[derive(Debug)]
pub struct LogNamed {
    named: OrderedMutex<Named>,
    /// Of all blocks that records name.
    pages: AtomicU64,
    /// See [`LogNamed::pass_until`].
    wanted_cut: AtomicU64,
}

#[derive(Debug)]
struct Named {
    /// By the end of the record.
    records: BTreeMap<LogPosition, Vec<Block>>,
    /// Whether the block is needed for nothing else any more.
    blocks: HashMap<PageNumber, bool>,
    /// The states that installed commits by reference, by the cut behind their records: all that
    /// the record names was born in that state, so holding it holds the blocks (P8).
    states: BTreeMap<LogPosition, Arc<State>>,
    /// Blocks that replay found and of which nothing proves that they are on disk, by the end of
    /// the record that names them.
    uncertain: HashMap<PageNumber, LogPosition>,
    charge: Charge,
}

/// What a record takes in memory beside its blocks, in bytes, about.
const RECORD_BYTES: usize = in_map(1, size_of::<(LogPosition, Vec<Block>)>()) + ALLOCATION_BYTES;
/// What an element takes of a `HashMap`, which is between seven sixteenths and seven eighths full.
const fn hashed(element_bytes: usize) -> usize {
    (element_bytes + 1) * 3 / 2
}

impl Named {
    fn note_states(&self) {
        let bytes = self.states.values().map(|state| state.bytes()).fold(0, u64::saturating_add);
        self.charge.budget().need_states(StateNeed::Log, bytes);
    }

    fn recharge(&mut self) {
        let blocks = size_of::<Block>() + hashed(size_of::<(PageNumber, bool)>());
        let uncertain = hashed(size_of::<(PageNumber, LogPosition)>());
        let bytes = self.records.len() * RECORD_BYTES
            + self.blocks.len() * blocks
            + self.uncertain.len() * uncertain;
        self.charge.set(bytes as u64);
    }
}

impl LogNamed {
    /// Nothing is named; what will be counts in the budget.
    pub fn new(budget: &Arc<MemoryBudget>) -> LogNamed {
        let named = Named {
            records: BTreeMap::new(),
            blocks: HashMap::new(),
            states: BTreeMap::new(),
            uncertain: HashMap::new(),
            charge: budget.charge(MemoryPart::Other, 0),
        };
        LogNamed {
            named: OrderedMutex::new(LOG_NAMED, named),
            pages: AtomicU64::new(0),
            wanted_cut: AtomicU64::new(0),
        }
    }

    /// The record that ends at `end` names these blocks.
    pub fn add(&self, end: LogPosition, blocks: &[Block]) {
        if blocks.is_empty() {
            return;
        }
        let mut named = self.named.lock();
        for block in blocks {
            let before = named.blocks.insert(block.first, false);
            assert!(before.is_none(), "a block belongs to one record");
        }
        named.records.entry(end).or_default().extend_from_slice(blocks);
        named.recharge();
        let pages = blocks.iter().map(|block| u64::from(block.pages)).sum();
        self.pages.fetch_add(pages, Ordering::Relaxed);
    }

    /// Pages of the blocks that records behind the cut name.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Until the cut of a durable state has come here, commits make steps of the flush that leads
    /// to it.
    pub fn pass_until(&self, cut: LogPosition) {
        self.wanted_cut.store(cut.0, Ordering::Relaxed);
    }

    /// Commits make no such steps any more.
    pub fn pass_no_more(&self) {
        self.wanted_cut.store(0, Ordering::Relaxed);
    }

    /// Whether commits are to make steps, so that a durable state can pass what is named.
    pub fn is_passing(&self) -> bool {
        self.wanted_cut.load(Ordering::Relaxed) > 0 && self.pages() > 0
    }

    /// Whether a durable state with this cut would pass a record that names blocks.
    pub fn would_pass(&self, cut: LogPosition) -> bool {
        self.named.lock().records.first_key_value().is_some_and(|(end, _)| *end <= cut)
    }

    /// A commit by reference, whose record ends at `end` or before, is in a state from `state` on.
    pub fn hold_state(&self, end: LogPosition, state: Arc<State>) {
        let mut named = self.named.lock();
        named.states.insert(end, state);
        named.note_states();
    }

    /// A record that was replayed and ends at `end` names these blocks, which were not on disk when
    /// it was written.
    pub fn add_uncertain(&self, end: LogPosition, blocks: &[Block]) {
        let mut named = self.named.lock();
        named.uncertain.extend(blocks.iter().map(|block| (block.first, end)));
        named.recharge();
    }

    /// The log, with the blocks that it names, is on disk up to `durable`.
    pub fn known_durable(&self, durable: LogPosition) {
        let mut named = self.named.lock();
        named.uncertain.retain(|_, end| *end > durable);
        named.recharge();
    }

    /// True when what was read of the block may lie in the system's cache alone. A sync proves
    /// nothing of it: it has to be written anew, elsewhere.
    pub fn is_uncertain(&self, block: Block) -> bool {
        self.named.lock().uncertain.contains_key(&block.first)
    }

    /// Asks whether a block that nothing else needs may be given back now; if not, it is given back
    /// by [`LogNamed::passed`].
    pub fn may_free(&self, block: Block) -> bool {
        let mut named = self.named.lock();
        match named.blocks.get_mut(&block.first) {
            Some(dead) => {
                *dead = true;
                false
            }
            None => true,
        }
    }

    /// The cut of a durable state lies at `cut`: returns the blocks that nothing needs any more.
    pub fn passed(&self, cut: LogPosition) -> Vec<Block> {
        let mut named = self.named.lock();
        let behind = LogPosition(cut.0.saturating_add(1));
        let later = named.records.split_off(&behind);
        let passed = std::mem::replace(&mut named.records, later);
        let later = named.states.split_off(&behind);
        let states = std::mem::replace(&mut named.states, later);
        named.note_states();
        let mut free = Vec::new();
        for block in passed.into_values().flatten() {
            self.pages.fetch_sub(u64::from(block.pages), Ordering::Relaxed);
            named.uncertain.remove(&block.first);
            if named.blocks.remove(&block.first) == Some(true) {
                free.push(block);
            }
        }
        named.recharge();
        drop(named);
        drop(states);
        if self.wanted_cut.load(Ordering::Relaxed) <= cut.0 {
            self.pass_no_more();
        }
        free
    }

    /// Every block that is held so, and nothing else needs.
    pub fn dead_blocks(&self) -> Vec<Block> {
        let named = self.named.lock();
        let dead = |block: &&Block| named.blocks.get(&block.first) == Some(&true);
        named.records.values().flatten().filter(dead).copied().collect()
    }

    /// Every block that is held so.
    pub fn blocks(&self) -> Vec<Block> {
        self.named.lock().records.values().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_free_only_when_it_is_dead_and_its_record_is_passed() {
        let budget = Arc::new(MemoryBudget::new(1 << 20));
        let named = LogNamed::new(&budget);
        let block = |n: u64| Block::new(PageNumber(n), 2);
        named.add(LogPosition(100), &[block(10), block(20)]);
        named.add(LogPosition(200), &[block(30)]);
        named.add_uncertain(LogPosition(100), &[block(10)]);
        named.add_uncertain(LogPosition(200), &[block(30)]);
        named.known_durable(LogPosition(100));
        assert!(!named.is_uncertain(block(10)) && !named.is_uncertain(block(20)));
        assert!(named.is_uncertain(block(30)));
        assert!(named.may_free(block(40)), "never named");
        assert!((200..500).contains(&budget.part(MemoryPart::Other)));
        assert!(!named.may_free(block(10)));
        assert!(!named.may_free(block(30)));
        assert_eq!(named.passed(LogPosition(99)), vec![]);
        assert!(!named.would_pass(LogPosition(99)) && named.would_pass(LogPosition(100)));
        named.pass_until(LogPosition(150));
        assert!(named.is_passing());
        assert_eq!(named.passed(LogPosition(100)), vec![block(10)]);
        assert!(named.may_free(block(20)), "its record is passed");
        assert_eq!(named.dead_blocks(), vec![block(30)]);
        assert!(named.is_passing(), "the cut has not come there");
        assert_eq!(named.passed(LogPosition(150)), vec![]);
        assert!(!named.is_passing());
        assert_eq!(named.passed(LogPosition(500)), vec![block(30)]);
        assert!(!named.is_uncertain(block(30)), "its record is passed");
        assert_eq!(budget.part(MemoryPart::Other), 0);
    }
}
