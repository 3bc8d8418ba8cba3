//! What a serializable transaction has read: keys, present or absent, and ranges.
//!
//! *Guarantees*: whatever was added is covered for ever (R1). Beyond its budget the set covers more
//! than was added: neighbours are joined into ranges that hold what lies between them too, and
//! where nothing is left to join, all of the database counts as read. So a conflict can be found
//! where there is none, and none is missed. It never takes more than its budget.
//!
//! *Threads*: one owner.

use std::borrow::Borrow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::mem;

use super::range_set::{RANGE_BYTES, RangeSet, bounds};
use crate::page::counted::{first_leaf, in_map};
use crate::segment::key_range::KeyRange;
use crate::types::KeyspaceNumber;

#[cfg(test)]
mod tests;

/// What a key takes beside its bytes: itself in a tree that is two thirds full, and the heap's own
/// share.
const KEY_BYTES: usize = size_of::<Box<[u8]>>() * 3 / 2 + 16;

/// Common prefixes of neighbours that are longer count as this long.
const COMMON_BYTES_MAX: usize = 255;

/// See the module.
#[derive(Debug)]
pub struct ReadSet {
    keyspaces: BTreeMap<KeyspaceNumber, KeyspaceReads>,
    memory_bytes: usize,
    budget_bytes: usize,
    /// All of every keyspace counts as read, and none is kept.
    is_everything: bool,
}

/// What was read of one keyspace. No key lies in a range.
#[derive(Debug, Default)]
struct KeyspaceReads {
    keys: BTreeSet<Box<[u8]>>,
    key_bytes: usize,
    ranges: RangeSet,
}

/// What a keyspace takes for its place in the map, in bytes, about.
const PLACE_BYTES: usize = in_map(1, size_of::<(KeyspaceNumber, KeyspaceReads)>());
/// What its keys take beside their sum: where they are few, their tree's only leaf.
const KEYS_BYTES: usize = first_leaf(size_of::<Box<[u8]>>());
/// The same for its ranges.
const RANGES_BYTES: usize = first_leaf(size_of::<KeyRange>());
/// A keyspace that is read whole. Who takes no more has nothing that is worth joining.
const WHOLE_BYTES: usize = PLACE_BYTES + RANGES_BYTES + RANGE_BYTES;

impl KeyspaceReads {
    fn memory_bytes(&self) -> usize {
        let keys_bytes = if self.keys.is_empty() { 0 } else { KEYS_BYTES };
        let ranges_bytes = if self.ranges.is_empty() { 0 } else { RANGES_BYTES };
        PLACE_BYTES + keys_bytes + self.key_bytes + ranges_bytes + self.ranges.bytes()
    }

    fn count(&self) -> usize {
        self.keys.len() + self.ranges.len()
    }

    fn add_key(&mut self, key: &[u8]) {
        if !self.keys.contains(key) && !self.ranges.contains(key) {
            self.push_key(key.into());
        }
    }

    fn push_key(&mut self, key: Box<[u8]>) {
        self.key_bytes += KEY_BYTES + key.len();
        self.keys.insert(key);
    }

    fn add_range(&mut self, range: &KeyRange) {
        if self.ranges.covers(range) {
            return;
        }
        let removed = self.keys.extract_if(bounds(range), |_| true);
        self.key_bytes -= removed.map(|key| KEY_BYTES + key.len()).sum::<usize>();
        if self.keys.is_empty() {
            // A tree that has become empty keeps a leaf.
            self.keys = BTreeSet::new();
        }
        self.ranges.insert(range.clone());
    }

    /// Joins about half of all neighbours, those first that have the longest prefixes in common:
    /// what lies between them is likely to be the least.
    fn join_neighbours(&mut self) {
        let mut by_common = [0usize; COMMON_BYTES_MAX + 1];
        let mut before: Option<Item<&Box<[u8]>, &KeyRange>> = None;
        for item in InOrder::new(self.keys.iter(), self.ranges.iter()) {
            if let Some(before) = before
                && let Some(count) = by_common.get_mut(common_bytes(before.last(), item.start()))
            {
                *count += 1;
            }
            before = Some(item);
        }
        let mut joins = Joins::half_of(&by_common);

        let old = mem::take(self);
        let mut open: Option<Item<Box<[u8]>, KeyRange>> = None;
        for item in InOrder::new(old.keys.into_iter(), old.ranges.into_ranges()) {
            open = Some(match open.take() {
                Some(before) if joins.wants(common_bytes(before.last(), item.start())) => {
                    Item::Range(before.joined_with(item))
                }
                before => {
                    self.close(before);
                    item
                }
            });
        }
        self.close(open);
    }

    fn close(&mut self, item: Option<Item<Box<[u8]>, KeyRange>>) {
        match item {
            Some(Item::Key(key)) => self.push_key(key),
            Some(Item::Range(range)) => self.ranges.insert(range),
            None => {}
        }
    }
}

impl ReadSet {
    /// Nothing was read. From `budget_bytes` on, neighbours are joined.
    #[must_use]
    pub fn new(budget_bytes: usize) -> ReadSet {
        ReadSet { keyspaces: BTreeMap::new(), memory_bytes: 0, budget_bytes, is_everything: false }
    }

    /// A key was read, whether it was there or not. Complexity: O(log n), amortised.
    pub fn add_key(&mut self, keyspace: KeyspaceNumber, key: &[u8]) {
        self.change(keyspace, |reads| reads.add_key(key));
    }

    /// All keys of a range were read, whether there were any or not. Complexity: O(log n),
    /// amortised, and what the range covers of what was added before.
    pub fn add_range(&mut self, keyspace: KeyspaceNumber, range: &KeyRange) {
        if !range.is_empty() {
            self.change(keyspace, |reads| reads.add_range(range));
        }
    }

    /// Adds to one keyspace, and keeps the sum below the budget.
    fn change(&mut self, keyspace: KeyspaceNumber, add: impl FnOnce(&mut KeyspaceReads)) {
        if self.is_everything {
            return;
        }
        let reads = match self.keyspaces.entry(keyspace) {
            Entry::Occupied(entry) => {
                let reads = entry.into_mut();
                self.memory_bytes -= reads.memory_bytes();
                reads
            }
            Entry::Vacant(entry) => entry.insert(KeyspaceReads::default()),
        };
        add(reads);
        self.memory_bytes += reads.memory_bytes();
        self.keep_to_budget();
    }

    /// From now on neighbours are joined from so many bytes on.
    pub fn set_budget(&mut self, budget_bytes: usize) {
        self.budget_bytes = budget_bytes;
        self.keep_to_budget();
    }

    /// Joins until a quarter of the budget is free again, so that the work is done once for many
    /// additions; where that is not enough, everything counts as read.
    fn keep_to_budget(&mut self) {
        if self.memory_bytes <= self.budget_bytes {
            return;
        }
        let least = self.budget_bytes / 4 * 3;
        self.join_down_to(least);
        if self.memory_bytes > least {
            self.keyspaces.clear();
            self.memory_bytes = 0;
            self.is_everything = true;
        }
    }

    /// Joins where most is, again and again. A keyspace of which nothing is left to join counts as
    /// read whole.
    fn join_down_to(&mut self, least_bytes: usize) {
        loop {
            let sizes = self.keyspaces.values().map(KeyspaceReads::memory_bytes);
            let largest = sizes.max().unwrap_or(0);
            if largest <= WHOLE_BYTES {
                return;
            }
            let is_large = |reads: &&mut KeyspaceReads| {
                reads.memory_bytes() > WHOLE_BYTES && 2 * reads.memory_bytes() >= largest
            };
            for reads in self.keyspaces.values_mut().filter(is_large) {
                if self.memory_bytes <= least_bytes {
                    return;
                }
                self.memory_bytes -= reads.memory_bytes();
                // Leaves fewer keys and ranges, or one range that takes no more than any.
                if reads.count() > 1 {
                    reads.join_neighbours();
                } else {
                    reads.add_range(&KeyRange::all());
                }
                self.memory_bytes += reads.memory_bytes();
            }
        }
    }

    /// How much memory the set takes, in bytes; an estimate. Never more than the budget.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// True when every key of every keyspace counts as read: any commit is a conflict.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.is_everything
    }

    /// True when nothing was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keyspaces.is_empty() && !self.is_everything
    }

    /// How many keys and ranges it takes; none when it is everything.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keyspaces.values().map(KeyspaceReads::count).sum()
    }

    /// The keys, by keyspace and key. No key lies in one of the ranges. None when it is everything.
    pub fn keys(&self) -> impl Iterator<Item = (KeyspaceNumber, &[u8])> {
        self.keyspaces
            .iter()
            .flat_map(|(number, reads)| reads.keys.iter().map(|key| (*number, &**key)))
    }

    /// The ranges, by keyspace and key; they neither overlap nor touch. None when it is everything.
    pub fn ranges(&self) -> impl Iterator<Item = (KeyspaceNumber, &KeyRange)> {
        self.keyspaces
            .iter()
            .flat_map(|(number, reads)| reads.ranges.iter().map(|range| (*number, range)))
    }

    /// True when the set covers `key`.
    #[must_use]
    pub fn contains(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        let reads = self.keyspaces.get(&keyspace);
        self.is_everything
            || reads.is_some_and(|reads| reads.keys.contains(key) || reads.ranges.contains(key))
    }

    /// True when the set covers a key of `range`.
    #[must_use]
    pub fn overlaps(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> bool {
        let reads = self.keyspaces.get(&keyspace);
        let overlaps = |reads: &KeyspaceReads| {
            reads.keys.range(bounds(range)).next().is_some() || reads.ranges.overlaps(range)
        };
        !range.is_empty() && (self.is_everything || reads.is_some_and(overlaps))
    }
}

/// How many bytes two keys begin with in common, as far as it counts.
fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take(COMMON_BYTES_MAX).take_while(|(a, b)| a == b).count()
}

/// Which neighbours to join: all that have more than `above` bytes in common, and of those that
/// have exactly as many, `share` out of `of`, spread evenly.
#[derive(Debug)]
struct Joins {
    above: usize,
    share: usize,
    of: usize,
    error: usize,
}

impl Joins {
    /// About half of the pairs that were counted by how much they have in common, and at least one.
    fn half_of(by_common: &[usize]) -> Joins {
        let mut left = by_common.iter().sum::<usize>().div_ceil(2);
        for (above, count) in by_common.iter().enumerate().rev() {
            if left <= *count {
                return Joins { above, share: left, of: *count, error: 0 };
            }
            left -= count;
        }
        Joins { above: 0, share: 1, of: 1, error: 0 }
    }

    fn wants(&mut self, common: usize) -> bool {
        if common != self.above {
            return common > self.above;
        }
        self.error += self.share;
        let wanted = self.error >= self.of;
        if wanted {
            self.error -= self.of;
        }
        wanted
    }
}

/// A key or a range, owned or borrowed.
#[derive(Debug)]
enum Item<K, R> {
    Key(K),
    Range(R),
}

impl<K: AsRef<[u8]>, R: Borrow<KeyRange>> Item<K, R> {
    fn start(&self) -> &[u8] {
        match self {
            Item::Key(key) => key.as_ref(),
            Item::Range(range) => &range.borrow().start,
        }
    }

    /// The key, or where the range ends; empty for a range without end, since nothing comes behind.
    fn last(&self) -> &[u8] {
        match self {
            Item::Key(key) => key.as_ref(),
            Item::Range(range) => range.borrow().end.as_deref().unwrap_or_default(),
        }
    }
}

impl Item<Box<[u8]>, KeyRange> {
    /// The range over both and what lies between; `next` lies behind.
    fn joined_with(self, next: Self) -> KeyRange {
        let start = match self {
            Item::Key(key) => key.into_vec(),
            Item::Range(range) => range.start,
        };
        let end = match next {
            Item::Key(key) => Some([&*key, &[0]].concat()),
            Item::Range(range) => range.end,
        };
        KeyRange { start, end }
    }
}

/// Keys and ranges in one order.
struct InOrder<K: Iterator, R: Iterator> {
    keys: Peekable<K>,
    ranges: Peekable<R>,
}

impl<K: Iterator, R: Iterator> InOrder<K, R> {
    fn new(keys: K, ranges: R) -> InOrder<K, R> {
        InOrder { keys: keys.peekable(), ranges: ranges.peekable() }
    }
}

impl<K, R> Iterator for InOrder<K, R>
where
    K: Iterator<Item: AsRef<[u8]>>,
    R: Iterator<Item: Borrow<KeyRange>>,
{
    type Item = Item<K::Item, R::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let key_is_first = match (self.keys.peek(), self.ranges.peek()) {
            (Some(key), Some(range)) => key.as_ref() < range.borrow().start.as_slice(),
            (key, _) => key.is_some(),
        };
        if key_is_first {
            self.keys.next().map(Item::Key)
        } else {
            self.ranges.next().map(Item::Range)
        }
    }
}
