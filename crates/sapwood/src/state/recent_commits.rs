//! What the newest commits have changed, for commits that are being validated.
//!
//! A commit that has used much looks through all of it once, outside of the commit lock. What came
//! meanwhile it asks for here: that costs what came, not what was used.
//!
//! *Assumes*: commits are added under the commit lock, before their number counts as given out.
//! *Guarantees*: C6: an answer names every key and range that the commits asked for have changed,
//! or there is none. A commit that was not added (one by reference, one that is too long, one that
//! found nobody validating) leaves a gap in the numbers: what is older is forgotten then, and
//! nobody is answered across it. So is what is oldest when the list is full.
//!
//! *Threads*: any; a short lock. While nobody validates, a commit loads one atomic. Those who
//! validate tell the budget what the list takes, so that no commit makes room under its lock.

use std::collections::VecDeque;

use crate::error::Result;
use crate::log::operation::{CommitEncoder, LogOperation, Operations};
use crate::page::{Charge, MemoryBudget, MemoryPart};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::SequenceNumber;

/// The list takes this part of the memory budget at most.
const PART: u64 = 64;

/// But so many bytes in any case: a look that has to be made again costs more.
const LEAST_BYTES: u64 = 64 << 10;
/// And no more than this: who finds a gap frees all of them under the commit lock.
const MOST_BYTES: u64 = 4 << 20;
/// Whoever looks at them takes out so many bytes at once.
const TAKEN_BYTES: u64 = 64 << 10;

/// The rank of the lock over the charge.
const CHARGE: LockRank = LockRank::new(36, "charge of recent commits");
/// The rank of the lock over the list.
const RECENT_COMMITS: LockRank = LockRank::new(37, "recent commits");

/// What one commit has changed.
#[derive(Debug)]
pub struct Changed {
    /// Its number.
    pub number: SequenceNumber,
    /// A deletion for each key or range, and drops of keyspaces as they are: no values.
    keys: CommitEncoder,
}

impl Changed {
    /// The keys and ranges of `operations`; `None` when they take more than `bytes_max`.
    fn of(
        number: SequenceNumber,
        operations: Operations<'_>,
        bytes_max: u64,
    ) -> Result<Option<Changed>> {
        let mut keys = CommitEncoder::new();
        for operation in operations {
            match operation? {
                LogOperation::Put { keyspace, key, .. }
                | LogOperation::PutOverflow { keyspace, key, .. }
                | LogOperation::Delete { keyspace, key } => keys.delete(keyspace, key),
                LogOperation::DeleteRange { keyspace, start, end } => {
                    keys.delete_range(keyspace, start, end);
                }
                LogOperation::DropKeyspace { keyspace } => keys.drop_keyspace(keyspace),
                LogOperation::CreateKeyspace { .. } | LogOperation::RenameKeyspace { .. } => {}
            }
            if keys.encoded_bytes() as u64 > bytes_max {
                return Ok(None);
            }
        }
        Ok(Some(Changed { number, keys }))
    }

    /// How many keys and ranges there are.
    pub fn count(&self) -> u64 {
        self.keys.operation_count()
    }

    /// They, as deletions; ranges may be empty.
    pub fn operations(&self) -> Operations<'_> {
        self.keys.operations()
    }

    /// What it takes in memory, in bytes, with its place in the list and two counters.
    fn bytes(&self) -> u64 {
        let beside = size_of::<Changed>() + size_of::<Arc<Changed>>() + 2 * size_of::<usize>();
        (beside + self.keys.memory_bytes()) as u64
    }
}

/// See the module.
#[derive(Debug)]
pub struct RecentCommits {
    /// How many validate; it changes under the lock.
    listeners: AtomicUsize,
    list: OrderedMutex<List>,
    charge: OrderedMutex<Charge>,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct List {
    /// Their numbers ascend by one.
    commits: VecDeque<Arc<Changed>>,
    bytes: u64,
}

impl List {
    /// Forgets all; returns it, so that it may be dropped where nobody waits.
    fn clear(&mut self) -> VecDeque<Arc<Changed>> {
        self.bytes = 0;
        std::mem::take(&mut self.commits)
    }

    fn push(&mut self, changed: Changed, bytes_max: u64) {
        self.bytes += changed.bytes();
        self.commits.push_back(Arc::new(changed));
        while self.bytes > bytes_max
            && let Some(oldest) = self.commits.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    /// The place of the first commit after `after`; `None` when not all of those up to `last` are
    /// there.
    fn place_after(&self, after: SequenceNumber, last: SequenceNumber) -> Option<usize> {
        let (first, newest) = (self.commits.front()?.number, self.commits.back()?.number);
        if newest < last {
            return None;
        }
        (after.0 + 1).checked_sub(first.0).and_then(|place| usize::try_from(place).ok())
    }
}

/// Commits are added for as long as one of these is held.
#[derive(Debug)]
pub struct Listener<'a> {
    recent: &'a RecentCommits,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut list = self.recent.list.lock();
        let is_last = self.recent.listeners.fetch_sub(1, Ordering::AcqRel) == 1;
        let forgotten = is_last.then(|| list.clear());
        drop(list);
        drop(forgotten);
        self.recent.recharge();
    }
}

impl RecentCommits {
    /// None; what is listed counts against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>) -> RecentCommits {
        RecentCommits {
            listeners: AtomicUsize::new(0),
            list: OrderedMutex::new(RECENT_COMMITS, List::default()),
            charge: OrderedMutex::new(CHARGE, budget.charge(MemoryPart::Other, 0)),
            bytes_max: (budget.total() / PART).clamp(LEAST_BYTES, MOST_BYTES),
        }
    }

    /// From now on commits are added.
    pub fn listen(&self) -> Listener<'_> {
        let _list = self.list.lock();
        self.listeners.fetch_add(1, Ordering::AcqRel);
        Listener { recent: self }
    }

    /// Tells the budget what the list takes.
    pub fn recharge(&self) {
        let mut charge = self.charge.lock();
        let bytes = self.list.lock().bytes;
        charge.set(bytes);
    }

    /// A commit takes its place. The commit lock is held, and its number is not given out yet.
    ///
    /// # Errors
    /// When the operations cannot be decoded.
    pub fn add(&self, number: SequenceNumber, operations: Operations<'_>) -> Result<()> {
        if self.listeners.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let Some(changed) = Changed::of(number, operations, self.bytes_max)? else {
            return Ok(());
        };
        let mut list = self.list.lock();
        if self.listeners.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let follows = list.commits.back().is_none_or(|last| last.number.0 + 1 == number.0);
        let forgotten = (!follows).then(|| list.clear());
        list.push(changed, self.bytes_max);
        drop(list);
        drop(forgotten);
        Ok(())
    }

    /// How many keys and ranges the commits after `after` up to `last` have changed, as far as
    /// `enough`; `None` when that is not known. `last` has its place.
    pub fn count_between(
        &self,
        after: SequenceNumber,
        last: SequenceNumber,
        enough: u64,
    ) -> Option<u64> {
        if after >= last {
            return Some(0);
        }
        let list = self.list.lock();
        let place = list.place_after(after, last)?;
        let mut count = 0;
        for changed in list.commits.iter().skip(place) {
            // A commit counts beside what it changes: many that change nothing cost something, too.
            count += 1 + changed.count();
            if count >= enough || changed.number >= last {
                break;
            }
        }
        Some(count)
    }

    /// The first of the commits after `after` up to `last`, at most `count_max`, and no more than
    /// take little memory, but one; `None` when not all of them are there. `last` has its place.
    pub fn between(
        &self,
        after: SequenceNumber,
        last: SequenceNumber,
        count_max: usize,
    ) -> Option<Vec<Arc<Changed>>> {
        if after >= last {
            return Some(Vec::new());
        }
        let list = self.list.lock();
        let place = list.place_after(after, last)?;
        let mut left = TAKEN_BYTES;
        let commits = list.commits.iter().skip(place).take(count_max);
        let fit = commits.take_while(|changed| {
            let is_taken = left > 0 && changed.number <= last;
            left = left.saturating_sub(changed.bytes());
            is_taken
        });
        Some(fit.cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::KeyspaceNumber;

    fn number(number: u64) -> SequenceNumber {
        SequenceNumber(number)
    }

    /// Adds a commit that puts one key.
    fn add(recent: &RecentCommits, of: u64, key: &[u8]) {
        let mut encoder = CommitEncoder::new();
        encoder.put(KeyspaceNumber(1), key, b"not kept");
        recent.add(number(of), encoder.operations()).unwrap();
    }

    fn numbers(recent: &RecentCommits, after: u64, last: u64) -> Option<Vec<u64>> {
        let found = recent.between(number(after), number(last), usize::MAX)?;
        Some(found.iter().map(|changed| changed.number.0).collect())
    }

    fn recent() -> (Arc<MemoryBudget>, RecentCommits) {
        let budget = Arc::new(MemoryBudget::new(1 << 20));
        let recent = RecentCommits::new(&budget);
        (budget, recent)
    }

    #[test]
    fn what_came_is_there_while_somebody_listens_and_for_those_numbers_alone() {
        let (budget, recent) = recent();
        add(&recent, 4, b"nobody listens");
        let first = recent.listen();
        assert_eq!(numbers(&recent, 4, 4), Some(vec![]));
        assert_eq!(numbers(&recent, 3, 4), None);
        (5..9).for_each(|of| add(&recent, of, b"k"));
        assert_eq!(numbers(&recent, 4, 8), Some(vec![5, 6, 7, 8]));
        assert_eq!(numbers(&recent, 6, 7), Some(vec![7]));
        assert_eq!(numbers(&recent, 3, 8), None, "the fourth was not added");
        assert_eq!(numbers(&recent, 4, 9), None, "the ninth was not added");
        assert_eq!(budget.used(), 0, "a commit makes no room");
        let few = recent.between(number(4), number(8), 2).unwrap();
        assert_eq!(few.iter().map(|changed| changed.number.0).collect::<Vec<_>>(), [5, 6]);
        assert_eq!(recent.count_between(number(4), number(8), 100), Some(8));
        assert_eq!(recent.count_between(number(4), number(8), 3), Some(4));
        assert_eq!(recent.count_between(number(3), number(8), 3), None);
        let second = recent.listen();
        drop(first);
        assert_eq!(numbers(&recent, 4, 8), Some(vec![5, 6, 7, 8]), "the second listens still");
        assert!(budget.part(MemoryPart::Other) > 0);
        drop(second);
        assert_eq!(budget.used(), 0);
        let _third = recent.listen();
        assert_eq!(numbers(&recent, 4, 8), None);
    }

    #[test]
    fn nobody_is_answered_across_a_commit_that_was_not_added() {
        let (_, recent) = recent();
        let _listener = recent.listen();
        for of in [5, 6, 8, 9] {
            add(&recent, of, b"k");
        }
        assert_eq!(numbers(&recent, 4, 9), None, "the seventh is not there");
        assert_eq!(numbers(&recent, 6, 9), None);
        assert_eq!(numbers(&recent, 7, 9), Some(vec![8, 9]));
    }

    #[test]
    fn above_the_bound_the_oldest_go_and_what_is_too_long_leaves_a_gap() {
        let (budget, recent) = recent();
        let _listener = recent.listen();
        (1..=100).for_each(|of| add(&recent, of, &[7; 1000]));
        assert_eq!(numbers(&recent, 0, 100), None);
        let kept = numbers(&recent, 80, 100).unwrap();
        assert_eq!(kept, (81..=100).collect::<Vec<_>>());
        recent.recharge();
        assert!(budget.part(MemoryPart::Other) <= LEAST_BYTES);
        let mut encoder = CommitEncoder::new();
        (0u8..100).for_each(|of| encoder.delete(KeyspaceNumber(1), &[of; 1000]));
        recent.add(number(101), encoder.operations()).unwrap();
        assert_eq!(numbers(&recent, 100, 101), None);
        add(&recent, 102, b"k");
        assert_eq!(numbers(&recent, 100, 102), None);
        assert_eq!(numbers(&recent, 101, 102), Some(vec![102]));
    }

    #[test]
    fn keys_ranges_and_drops_are_listed_and_no_values() {
        let (_, recent) = recent();
        let _listener = recent.listen();
        let [first, second] = [1, 2].map(KeyspaceNumber);
        let mut encoder = CommitEncoder::new();
        encoder.put(first, b"put", b"value");
        encoder.put_overflow(first, b"large", b"reference");
        encoder.delete(second, b"deleted");
        encoder.delete_range(second, b"a", Some(b"b"));
        encoder.create_keyspace(second, "name", b"");
        encoder.rename_keyspace(second, "other");
        encoder.drop_keyspace(first);
        recent.add(number(1), encoder.operations()).unwrap();
        let found = recent.between(number(0), number(1), 1).unwrap();
        let found: Vec<_> = found[0].operations().map(Result::unwrap).collect();
        let expected = [
            LogOperation::Delete { keyspace: first, key: b"put" },
            LogOperation::Delete { keyspace: first, key: b"large" },
            LogOperation::Delete { keyspace: second, key: b"deleted" },
            LogOperation::DeleteRange { keyspace: second, start: b"a", end: Some(b"b") },
            LogOperation::DropKeyspace { keyspace: first },
        ];
        assert_eq!(found, expected);
    }
}
