//! Blocks that no state references yet: of pending transactions, of commits by reference until
//! their install, and of values that are being written as they come.
//!
//! *Guarantees*: P3 of docs/architecture.md: each set of blocks stands here from the moment at
//! which it is complete until it is given back or a state references it. *Threads*: any; one short
//! lock. Ends of holds arrive over a channel, so that dropping a cursor takes no lock.

use std::collections::BTreeMap;
use std::mem;

use crate::page::{Block, BlockList, Charge, MemoryBudget, MemoryPart};
use crate::sync::{Arc, LockRank, OrderedMutex, channel};

/// The rank of the lock.
pub const PENDING_BLOCKS: LockRank = LockRank::new(47, "blocks of pending transactions");

/// Names some blocks for as long as they are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlocksName(u64);

/// See the module.
#[derive(Debug)]
pub struct PendingBlocks {
    sets: OrderedMutex<Sets>,
    released: channel::Receiver<BlocksName>,
    releases: channel::Sender<BlocksName>,
}

#[derive(Debug)]
struct Sets {
    next: u64,
    sets: BTreeMap<BlocksName, SharedBlocks>,
    /// What their lists take.
    bytes: u64,
    charge: Charge,
}

/// The blocks of one pending segment.
#[derive(Clone, Debug, Default)]
struct Set {
    nodes: Vec<Block>,
    /// Of values that lie outside the leaves.
    values: Vec<Block>,
}

impl Set {
    fn bytes(&self) -> u64 {
        ((self.nodes.capacity() + self.values.capacity()) * size_of::<Block>()) as u64
    }
}

/// The blocks that have one name: of one pending segment, or of all segments of a commit by
/// reference. There may be very many, so whoever looks at them shares them.
#[derive(Clone, Debug, Default)]
pub struct SharedBlocks(Vec<Arc<Set>>);

impl SharedBlocks {
    /// How many there are. Complexity: O(number of sets).
    pub fn count(&self) -> usize {
        self.0.iter().map(|set| set.nodes.len() + set.values.len()).sum()
    }

    /// They, in no order, but always in the same.
    pub fn iter(&self) -> impl Iterator<Item = Block> + '_ {
        self.iter_from(0)
    }

    /// The same, without the first so many. Complexity: O(number of sets) before the first one.
    pub fn iter_from(&self, mut skipped: usize) -> impl Iterator<Item = Block> + '_ {
        self.0.iter().flat_map(|set| [&set.nodes, &set.values]).flat_map(move |list| {
            let rest = list.get(skipped..).unwrap_or_default();
            skipped -= list.len() - rest.len();
            rest.iter().copied()
        })
    }

    /// True when no holder tells that it has ended: nodes have one, values have none.
    fn is_unread(&self) -> bool {
        self.0.iter().all(|set| set.nodes.is_empty())
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|set| set.bytes()).sum()
    }
}

impl From<Set> for SharedBlocks {
    fn from(set: Set) -> SharedBlocks {
        SharedBlocks(vec![Arc::new(set)])
    }
}

impl Sets {
    fn put(&mut self, set: SharedBlocks) -> BlocksName {
        self.next += 1;
        let name = BlocksName(self.next);
        self.recharge(0, set.bytes());
        self.sets.insert(name, set);
        name
    }

    fn take(&mut self, name: BlocksName) -> SharedBlocks {
        let set = self.sets.remove(&name).unwrap_or_default();
        self.recharge(set.bytes(), 0);
        set
    }

    /// Puts other values in place of those of a set that is here; returns the old ones, so that
    /// they go where nobody waits.
    fn replace_values(&mut self, name: BlocksName, values: Vec<Block>) -> Option<Vec<Block>> {
        let named = self.sets.get_mut(&name)?;
        let before = named.bytes();
        let set = named.0.first_mut().map(Arc::make_mut)?;
        let old = mem::replace(&mut set.values, values);
        let after = named.bytes();
        self.recharge(before, after);
        Some(old)
    }

    /// So much that was counted is so much now.
    fn recharge(&mut self, before: u64, after: u64) {
        self.bytes = (self.bytes + after).saturating_sub(before);
        self.charge.set(self.bytes);
    }
}

impl PendingBlocks {
    /// No blocks; the lists count against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>) -> PendingBlocks {
        let charge = budget.charge(MemoryPart::Other, 0);
        let sets = Sets { next: 0, sets: BTreeMap::new(), bytes: 0, charge };
        let (releases, released) = channel::unbounded();
        PendingBlocks { sets: OrderedMutex::new(PENDING_BLOCKS, sets), released, releases }
    }

    /// Where the end of a set's last holder is told. Of a set that is gone it means nothing.
    pub fn releases(&self) -> channel::Sender<BlocksName> {
        self.releases.clone()
    }

    /// The sets whose holders have ended: their blocks are free.
    pub fn collect(&self) -> Vec<Block> {
        let mut free = Vec::new();
        while let Ok(name) = self.released.try_recv() {
            free.extend(self.take(name).iter());
        }
        free
    }

    /// Adds the blocks of nodes, and of values, that belong together.
    pub fn add(&self, nodes: Vec<Block>, values: Vec<Block>) -> BlocksName {
        let set = Set { nodes, values }.into();
        self.sets.lock().put(set)
    }

    /// The blocks of values of a set are these from now on.
    pub fn set_values(&self, name: BlocksName, values: &[Block]) {
        let values = values.to_vec();
        let old = self.sets.lock().replace_values(name, values);
        drop(old);
    }

    /// Takes blocks away: the caller gives them back, or has made a state reference them.
    pub fn take(&self, name: BlocksName) -> SharedBlocks {
        self.sets.lock().take(name)
    }

    /// Takes everything away that nobody reads: values whose commit never came. Nodes have holders,
    /// whose end is told by [`PendingBlocks::releases`].
    pub fn take_unread(&self) -> Vec<Block> {
        let mut sets = self.sets.lock();
        let unread = sets.sets.extract_if(.., |_, named| named.is_unread());
        let unread: Vec<SharedBlocks> = unread.map(|(_, named)| named).collect();
        sets.recharge(unread.iter().map(SharedBlocks::bytes).sum(), 0);
        drop(sets);
        unread.iter().flat_map(SharedBlocks::iter).collect()
    }

    /// Makes one set of several, whose values do not change any more.
    /// Complexity: O(number of sets), however many blocks they have.
    pub fn join(&self, names: &[BlocksName]) -> BlocksName {
        let mut sets = self.sets.lock();
        let joined = names.iter().flat_map(|name| sets.take(*name).0).collect();
        sets.put(SharedBlocks(joined))
    }

    /// Several sets were merged into new nodes: their values belong to the new set, but for those
    /// that were dropped, which stay with the set that they were dropped from.
    pub fn merged(&self, from: &[(BlocksName, Vec<Block>)], nodes: Vec<Block>) -> BlocksName {
        let mut values = Vec::new();
        for (name, dropped) in from {
            // Worked out without the lock, which commits wait for: nobody but their transaction,
            // which is here, changes the values of these sets.
            let of_set = self.of(*name);
            let (mut all, mut gone) = (BlockList::new(), BlockList::new());
            let of_values = of_set.0.iter().flat_map(|set| &set.values);
            of_values.for_each(|block| all.insert_any(*block));
            dropped.iter().for_each(|block| gone.insert_any(*block));
            values.extend(all.difference(&gone).iter());
        }
        let left: Vec<_> = from.iter().map(|(name, dropped)| (*name, dropped.clone())).collect();
        let merged = Set { nodes, values }.into();
        let mut sets = self.sets.lock();
        let old: Vec<_> =
            left.into_iter().map(|(name, dropped)| sets.replace_values(name, dropped)).collect();
        let name = sets.put(merged);
        drop(sets);
        drop(old);
        name
    }

    /// The blocks of a set.
    pub fn of(&self, name: BlocksName) -> SharedBlocks {
        self.sets.lock().sets.get(&name).cloned().unwrap_or_default()
    }

    /// Pages of the nodes of a set: values that lie outside the leaves are not counted.
    pub fn node_pages(&self, name: BlocksName) -> u64 {
        let named = self.of(name);
        let nodes = named.0.iter().flat_map(|set| &set.nodes);
        nodes.map(|block| u64::from(block.pages)).sum()
    }

    /// Every block that is here.
    pub fn blocks(&self) -> Vec<Block> {
        let all: Vec<SharedBlocks> = self.sets.lock().sets.values().cloned().collect();
        all.iter().flat_map(SharedBlocks::iter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PageNumber;

    fn block(first: u64, pages: u32) -> Block {
        Block::new(PageNumber(first), pages)
    }

    /// The sum was made anew over all sets at each change.
    #[test]
    fn the_lists_are_charged_for_as_long_as_they_are_here() {
        let budget = Arc::new(MemoryBudget::new(1 << 20));
        let pending = PendingBlocks::new(&budget);
        let charged = || pending.sets.lock().bytes / size_of::<Block>() as u64;
        let list = |count: usize| vec![block(1, 1); count];
        let (first, second) = (pending.add(list(3), list(4)), pending.add(list(5), Vec::new()));
        assert_eq!(charged(), 12);
        pending.set_values(first, &list(2));
        assert_eq!(charged(), 10);
        let joined = pending.join(&[first, second]);
        assert_eq!(charged(), 10);
        pending.add(Vec::new(), list(6));
        pending.take(joined);
        assert_eq!(charged(), 6);
        assert_eq!(pending.take_unread().len(), 6);
        pending.take(joined);
        assert_eq!(charged(), 0);
    }

    #[test]
    fn values_move_to_the_merged_set_and_dropped_ones_stay_where_they_were() {
        let pending = PendingBlocks::new(&Arc::new(MemoryBudget::new(1 << 20)));
        let first = pending.add(vec![block(1, 1)], vec![block(10, 5), block(20, 5)]);
        let second = pending.add(vec![block(2, 1)], vec![block(30, 5)]);
        let from = [(first, vec![block(20, 5)]), (second, Vec::new())];
        let merged = pending.merged(&from, vec![block(3, 2)]);
        let of = |name| pending.of(name).iter().collect::<Vec<_>>();
        assert_eq!(of(merged), [block(3, 2), block(10, 5), block(30, 5)]);
        assert_eq!(pending.node_pages(merged), 2);
        pending.releases().send(first).unwrap();
        pending.releases().send(second).unwrap();
        assert_eq!(pending.collect(), [block(1, 1), block(20, 5), block(2, 1)]);
        let joined = pending.join(&[merged]);
        pending.releases().send(merged).unwrap();
        assert!(pending.collect().is_empty(), "they belong to another set now");
        assert_eq!(pending.take(joined).iter().count(), 3);
        assert!(pending.blocks().is_empty());
    }
}
