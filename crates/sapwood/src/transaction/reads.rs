//! What a serializable transaction has read, while its iterators and cursors still read on.
//!
//! *Guarantees*: a range counts as read from the moment at which an entry of it is handed out, with
//! all that was passed on the way, and not before.
//! *Threads*: any; one short lock.

use super::read_set::ReadSet;
use crate::page::{MemoryBudget, MemoryPart, Share};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::sync::{Arc, Mutex};
use crate::types::KeyspaceNumber;

use std::collections::BTreeMap;

/// See the module.
#[derive(Debug)]
pub struct Reads {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    set: ReadSet,
    /// What each open walk has passed, by its name.
    walks: BTreeMap<u64, (KeyspaceNumber, KeyRange)>,
    last_walk: u64,
    share: Share,
}

impl Inner {
    fn recharge(&mut self) {
        if self.share.follow(self.set.memory_bytes()) {
            self.set.set_budget(self.share.allowed_bytes());
            self.share.follow(self.set.memory_bytes());
        }
    }
}

impl Reads {
    /// Nothing was read. The set takes its share of what `budget` has for those of all
    /// transactions.
    pub fn new(budget: &Arc<MemoryBudget>) -> Reads {
        let share = Share::new(budget, MemoryPart::ReadSets);
        let set = ReadSet::new(share.allowed_bytes());
        let walks = BTreeMap::new();
        Reads { inner: Mutex::new(Inner { set, walks, last_walk: 0, share }) }
    }

    /// A key was read, whether it was there or not.
    pub fn add_key(&self, keyspace: KeyspaceNumber, key: &[u8]) {
        let mut inner = self.inner.lock();
        inner.set.add_key(keyspace, key);
        inner.recharge();
    }

    /// A range was read.
    pub fn add_range(&self, keyspace: KeyspaceNumber, range: &KeyRange) {
        let mut inner = self.inner.lock();
        inner.set.add_range(keyspace, range);
        inner.recharge();
    }

    /// Begins a walk at a key that was not read yet.
    pub fn begin_walk(self: &Arc<Self>, keyspace: KeyspaceNumber, at: &[u8]) -> Walk {
        let mut inner = self.inner.lock();
        inner.last_walk += 1;
        let name = inner.last_walk;
        inner.walks.insert(name, (keyspace, KeyRange::new(at, Some(at.to_vec()))));
        Walk { reads: Arc::clone(self), name }
    }

    /// Everything that was read until now.
    pub fn take(&self) -> ReadSet {
        let mut inner = self.inner.lock();
        let empty = ReadSet::new(inner.share.allowed_bytes());
        let mut set = std::mem::replace(&mut inner.set, empty);
        for (keyspace, range) in inner.walks.values() {
            set.add_range(*keyspace, range);
        }
        set
    }
}

/// A range that is being read and grows. Dropping it ends the walk; what was read stays so.
#[derive(Debug)]
pub struct Walk {
    reads: Arc<Reads>,
    name: u64,
}

impl Walk {
    fn change(&self, change: impl FnOnce(&mut KeyRange)) {
        if let Some((_, range)) = self.reads.inner.lock().walks.get_mut(&self.name) {
            change(range);
        }
    }

    /// The walk has come to a key, and passed all between.
    pub fn reach(&self, key: &[u8]) {
        self.change(|range| {
            if key < range.start.as_slice() {
                range.start.clear();
                range.start.extend_from_slice(key);
            }
            if !is_before_end(key, range.end.as_deref())
                && let Some(end) = &mut range.end
            {
                end.clear();
                end.extend_from_slice(key);
                end.push(0);
            }
        });
    }

    /// The walk has gone forward to the end of what it walks, and found nothing more.
    pub fn reach_end(&self, limit: Option<&[u8]>) {
        self.change(|range| match limit {
            None => range.end = None,
            Some(limit) if !is_before_end(limit, range.end.as_deref()) => {
                range.end = Some(limit.to_vec());
            }
            Some(_) => {}
        });
    }

    /// The same, backward.
    pub fn reach_start(&self, limit: &[u8]) {
        self.change(|range| {
            if limit < range.start.as_slice() {
                range.start = limit.to_vec();
            }
        });
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        let inner = &mut *self.reads.inner.lock();
        if let Some((keyspace, range)) = inner.walks.remove(&self.name) {
            inner.set.add_range(keyspace, &range);
            inner.recharge();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYSPACE: KeyspaceNumber = KeyspaceNumber(1);

    fn reads() -> Arc<Reads> {
        Arc::new(Reads::new(&Arc::new(MemoryBudget::new(1 << 20))))
    }

    #[test]
    fn an_open_walk_counts_as_far_as_it_has_come() {
        let reads = reads();
        let walk = reads.begin_walk(KEYSPACE, b"b");
        assert!(!reads.take().contains(KEYSPACE, b"b"), "nothing was handed out yet");
        walk.reach(b"d");
        let set = reads.take();
        assert!(set.contains(KEYSPACE, b"b") && set.contains(KEYSPACE, b"d"));
        assert!(!set.contains(KEYSPACE, b"d\0") && !set.contains(KEYSPACE, b"a"));
        walk.reach(b"a");
        walk.reach_end(None);
        drop(walk);
        let set = reads.take();
        assert!(set.contains(KEYSPACE, b"a") && set.contains(KEYSPACE, b"z"));
        assert!(!set.contains(KEYSPACE, b"A"));
    }

    #[test]
    fn a_backward_walk_reads_the_keys_that_it_passes_and_not_where_it_began() {
        let reads = reads();
        let walk = reads.begin_walk(KEYSPACE, b"m");
        walk.reach(b"k");
        let set = reads.take();
        assert!(set.contains(KEYSPACE, b"k") && set.contains(KEYSPACE, b"l"));
        assert!(!set.contains(KEYSPACE, b"m") && !set.contains(KEYSPACE, b"j"));
        walk.reach_start(b"a");
        assert!(reads.take().contains(KEYSPACE, b"b"));
    }
}
