//! What is dead in the current state but still held by an older one.
//!
//! A held state is one that was replaced and is still referenced. Each has a list of the blocks
//! that died after it. When a hold ends, its list passes to the next older hold, less what was born
//! after that one: the rest is free (as ZFS does with its dead lists; Bonwick and Moore, "ZFS: The
//! Last Word in File Systems", dead lists of snapshots).
//!
//! *Guarantees*: E1: a block with birth `b` and death `d` that is not free is in the list of the
//! newest held state `h` with `b <= h < d`. *Threads*: ends of holds arrive over a channel, so that
//! dropping a state takes no lock.

use std::collections::BTreeMap;

use crate::page::{Block, Charge, MemoryBudget, MemoryPart};
use crate::sync::{Arc, LockRank, OrderedMutex, channel};
use crate::types::Epoch;

/// A block that a state no longer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The block.
    pub block: Block,
    /// The state that it was born in; 0: it never was in one.
    pub birth: Epoch,
}

/// The rank of the lock over the held states.
pub const DEAD_LISTS: LockRank = LockRank::new(45, "dead lists");

/// How many bytes and pages the lists hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldStats {
    /// States that are held.
    pub states: u64,
    /// Dead blocks in their lists.
    pub blocks: u64,
    /// The pages of those blocks.
    pub pages: u64,
}

/// All held states with their dead lists.
#[derive(Debug)]
pub struct HeldStates {
    held: OrderedMutex<Held>,
    released: channel::Receiver<Epoch>,
    releases: channel::Sender<Epoch>,
}

#[derive(Debug)]
struct Held {
    lists: BTreeMap<Epoch, Vec<Dead>>,
    charge: Charge,
}

impl Held {
    /// Puts a dead block where it belongs, or says that it is free.
    fn dispose(&mut self, dead: Dead, death: Epoch) -> Option<Block> {
        match self.lists.range_mut(..death).next_back() {
            Some((epoch, list)) if *epoch >= dead.birth => {
                list.push(dead);
                None
            }
            _ => Some(dead.block),
        }
    }

    fn recharge(&mut self) {
        let bytes =
            self.lists.values().map(|list| list.capacity() * size_of::<Dead>()).sum::<usize>();
        self.charge.set(bytes as u64);
    }
}

impl HeldStates {
    /// No held states; the lists count against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>) -> HeldStates {
        let (releases, released) = channel::unbounded();
        let charge = budget.charge(MemoryPart::DeadLists, 0);
        let held = Held { lists: BTreeMap::new(), charge };
        HeldStates { held: OrderedMutex::new(DEAD_LISTS, held), released, releases }
    }

    /// Where states tell that their last reference is gone.
    pub fn releases(&self) -> channel::Sender<Epoch> {
        self.releases.clone()
    }

    /// State `replaced` gives way to the next one; `died` is what the next one no longer uses. It
    /// is called before anyone can see the next state.
    pub fn replaced(&self, replaced: Epoch, died: Vec<Dead>) {
        let mut held = self.held.lock();
        let newest = held.lists.keys().next_back().copied();
        assert!(newest.is_none_or(|epoch| epoch < replaced), "states are replaced in their order");
        debug_assert!(died.iter().all(|dead| dead.birth <= replaced), "what dies was there");
        held.lists.insert(replaced, died);
        held.recharge();
    }

    /// Adds a block that died with the install of `death`, at any later time. It is returned when
    /// it is free.
    pub fn dispose(&self, dead: Dead, death: Epoch) -> Option<Block> {
        self.held.lock().dispose(dead, death)
    }

    /// Takes note of the holds that have ended; returns the blocks that are free now.
    pub fn collect(&self) -> Vec<Block> {
        if self.released.is_empty() {
            return Vec::new();
        }
        let mut held = self.held.lock();
        let mut free = Vec::new();
        while let Ok(epoch) = self.released.try_recv() {
            // A state that was never replaced is the current one of a database that closes.
            let Some(list) = held.lists.remove(&epoch) else { continue };
            for dead in list {
                // It died after this hold, so the next older one is where to look.
                free.extend(held.dispose(dead, epoch));
            }
        }
        held.recharge();
        free
    }

    /// The epochs that are held, oldest first.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.held.lock().lists.keys().copied().collect()
    }

    /// Every dead block that is still held.
    pub fn blocks(&self) -> Vec<Block> {
        self.held.lock().lists.values().flatten().map(|dead| dead.block).collect()
    }

    /// How much is held.
    pub fn stats(&self) -> HeldStats {
        let held = self.held.lock();
        let blocks = || held.lists.values().flatten();
        HeldStats {
            states: held.lists.len() as u64,
            blocks: blocks().count() as u64,
            pages: blocks().map(|dead| u64::from(dead.block.pages)).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PageNumber;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn block(number: u64) -> Block {
        Block::new(PageNumber(number), 1)
    }

    fn states() -> HeldStates {
        HeldStates::new(&Arc::new(MemoryBudget::new(1 << 20)))
    }

    #[test]
    fn an_old_hold_does_not_keep_younger_dead_blocks() {
        let held = states();
        held.replaced(Epoch(5), Vec::new());
        held.replaced(Epoch(6), vec![Dead { block: block(1), birth: Epoch(3) }]);
        held.replaced(Epoch(7), vec![Dead { block: block(2), birth: Epoch(7) }]);
        held.releases().send(Epoch(7)).unwrap();
        assert_eq!(held.collect(), vec![block(2)], "no older state had it");
        held.releases().send(Epoch(6)).unwrap();
        assert_eq!(held.collect(), vec![], "state 5 still uses block 1");
        held.releases().send(Epoch(5)).unwrap();
        assert_eq!(held.collect(), vec![block(1)]);
    }

    #[test]
    fn a_block_that_never_was_in_a_state_waits_for_every_reader_of_its_memtable() {
        let held = states();
        held.replaced(Epoch(5), vec![Dead { block: block(1), birth: Epoch(0) }]);
        assert!(held.collect().is_empty());
        held.releases().send(Epoch(5)).unwrap();
        assert_eq!(held.collect(), vec![block(1)]);
    }

    #[test]
    fn a_late_death_goes_to_the_hold_that_needs_it() {
        let held = states();
        for epoch in 3..9 {
            held.replaced(Epoch(epoch), Vec::new());
        }
        let dead = Dead { block: block(1), birth: Epoch(4) };
        assert_eq!(held.dispose(dead, Epoch(6)), None);
        for (epoch, free) in [(8, 0), (5, 0), (3, 0), (4, 1)] {
            held.releases().send(Epoch(epoch)).unwrap();
            assert_eq!(held.collect().len(), free, "after the end of {epoch}");
        }
        assert_eq!(held.dispose(dead, Epoch(4)), Some(block(1)), "born and dead between holds");
    }

    proptest! {
        /// Blocks are born and die at random; holds end in random order. After each end exactly
        /// those blocks are free that no remaining hold lies within the life of.
        #[test]
        fn blocks_are_free_exactly_when_no_hold_needs_them(
            lives in prop::collection::vec((1u64..20, 1u64..10), 1..60),
            order in Just((1u64..30).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let held = states();
            let lives: Vec<(u64, u64)> = lives.into_iter().map(|(b, l)| (b, b + l)).collect();
            for epoch in 1u64..30 {
                let died = lives.iter().enumerate().filter(|(_, life)| life.1 == epoch + 1);
                let died = died.map(|(i, life)| Dead {
                    block: block(i as u64), birth: Epoch(life.0),
                });
                held.replaced(Epoch(epoch), died.collect());
            }
            let mut holds: BTreeSet<u64> = (1..30).collect();
            let mut free = BTreeSet::new();
            for epoch in order {
                holds.remove(&epoch);
                held.releases().send(Epoch(epoch)).unwrap();
                for freed in held.collect() {
                    prop_assert!(free.insert(freed.first.0), "freed twice");
                }
                for (i, (birth, death)) in lives.iter().enumerate() {
                    let needed = holds.range(*birth..*death).next().is_some();
                    prop_assert_eq!(free.contains(&(i as u64)), !needed);
                }
            }
        }
    }
}
