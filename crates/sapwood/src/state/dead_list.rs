//! What is dead in the current state but still held by an older one.
//!
//! A held state is one that was replaced and is still referenced. Each has a list of the blocks
//! that died after it. When a hold ends, its list passes to the next older hold, less what was born
//! after that one: the rest is free (as ZFS does with its dead lists; Bonwick and Moore, "ZFS: The
//! Last Word in File Systems", dead lists of snapshots). Each list is kept in parts, one for each
//! older hold after which something in it was born, so that whole parts pass on, and births need
//! not be kept.
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

/// Blocks of one list that were born after the same held state and not after the next one.
#[derive(Debug, Default)]
struct Part {
    blocks: Vec<Block>,
    pages: u64,
}

impl Part {
    fn push(&mut self, block: Block) {
        self.blocks.push(block);
        self.pages += u64::from(block.pages);
    }

    fn append(&mut self, mut other: Part) {
        if self.blocks.len() < other.blocks.len() {
            std::mem::swap(&mut self.blocks, &mut other.blocks);
        }
        self.blocks.append(&mut other.blocks);
        self.pages += other.pages;
    }

    fn memory_bytes(&self) -> usize {
        PART_BYTES + self.blocks.capacity() * size_of::<Block>()
    }
}

/// About what a part takes beside its blocks, in bytes.
const PART_BYTES: usize = 2 * size_of::<(Option<Epoch>, Part)>();

/// Parts by the newest hold that is older than their births; `None`: there is none.
type DeadList = BTreeMap<Option<Epoch>, Part>;

#[derive(Debug)]
struct Held {
    lists: BTreeMap<Epoch, DeadList>,
    charge: Charge,
}

impl Held {
    /// The newest hold before a state.
    fn before(&self, epoch: Epoch) -> Option<Epoch> {
        self.lists.range(..epoch).next_back().map(|(epoch, _)| *epoch)
    }

    /// Puts a dead block where it belongs, or says that it is free.
    fn dispose(&mut self, dead: Dead, death: Epoch) -> Option<Block> {
        let born_after = self.before(dead.birth);
        match self.lists.range_mut(..death).next_back() {
            Some((epoch, list)) if *epoch >= dead.birth => {
                list.entry(born_after).or_default().push(dead.block);
                None
            }
            _ => Some(dead.block),
        }
    }

    /// A hold has ended: its list passes on. What is free is added to `free`.
    fn end(&mut self, epoch: Epoch, free: &mut Vec<Block>) {
        // A state that was never replaced is the current one of a database that closes.
        let Some(list) = self.lists.remove(&epoch) else { return };
        let older = self.before(epoch);
        for (born_after, part) in list {
            match older.and_then(|older| self.lists.get_mut(&older)) {
                // It lived when the older one was current.
                Some(list) if born_after != older => {
                    list.entry(born_after).or_default().append(part);
                }
                _ => free.extend(part.blocks),
            }
        }
        // What was born after the hold that has ended was born after the one before it.
        for list in self.lists.range_mut(epoch..).map(|(_, list)| list) {
            if let Some(part) = list.remove(&Some(epoch)) {
                list.entry(older).or_default().append(part);
            }
        }
    }

    fn recharge(&mut self) {
        let parts = self.lists.values().flat_map(BTreeMap::values);
        self.charge.set(parts.map(Part::memory_bytes).sum::<usize>() as u64);
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
        let mut list = DeadList::new();
        for dead in died {
            list.entry(held.before(dead.birth)).or_default().push(dead.block);
        }
        held.lists.insert(replaced, list);
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
            held.end(epoch, &mut free);
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
        let held = self.held.lock();
        let parts = held.lists.values().flat_map(BTreeMap::values);
        parts.flat_map(|part| part.blocks.iter().copied()).collect()
    }

    /// How much is held.
    pub fn stats(&self) -> HeldStats {
        let held = self.held.lock();
        let parts = || held.lists.values().flat_map(BTreeMap::values);
        HeldStats {
            states: held.lists.len() as u64,
            blocks: parts().map(|part| part.blocks.len() as u64).sum(),
            pages: parts().map(|part| part.pages).sum(),
        }
    }

    /// The pages that would be free if the hold on one state, and no other, ended.
    pub fn pages_alone(&self, epoch: Epoch) -> u64 {
        let held = self.held.lock();
        let part = held.lists.get(&epoch).and_then(|list| list.get(&held.before(epoch)));
        part.map_or(0, |part| part.pages)
    }
}

#[cfg(test)]
mod tests;
