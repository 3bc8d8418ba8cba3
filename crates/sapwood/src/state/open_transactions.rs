//! Open transactions, and what flushes have added since they began: validation looks there.
//!
//! *Guarantees*:
//! - E5: a transaction is listed before its number is chosen; a flush record is kept, with the
//!   blocks that the flush brought into the state, while any listed transaction began before the
//!   flush's last commit.
//! - E6: when too much is kept, of pages or of memory to list them, the oldest transactions are
//!   *given up*: nothing is kept for them from then on, and they cannot be committed any more. One
//!   whose commit has begun is not, so that its validation finds everything.
//!
//! *Threads*: any; one short lock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::dead_list::Dead;
use crate::page::{Charge, MemoryBudget, MemoryPart, NodeRef};
use crate::segment::bounded_ranges::bytes_of;
use crate::segment::descriptor::{KeyspaceShare, Segment, TreeRoot};
use crate::segment::key_range::KeyRanges;
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

/// The rank of the lock.
pub const OPEN_TRANSACTIONS: LockRank = LockRank::new(48, "open transactions");

/// What a flush added.
#[derive(Debug)]
pub struct FlushRecord {
    /// The last commit in it.
    pub last: SequenceNumber,
    /// The state that it made: blocks that were born there are kept.
    pub epoch: Epoch,
    /// The young segments that it made.
    pub young: Vec<Arc<Segment>>,
    /// Runs that went to the last level.
    pub runs: BTreeMap<KeyspaceNumber, FlushedRuns>,
}

/// The runs of one flush in the last level of one keyspace. They carry no numbers there: every key
/// of theirs counts as changed.
#[derive(Debug)]
pub struct FlushedRuns {
    /// Where they lie; no older key lies there.
    pub ranges: KeyRanges,
    /// The tree that the flush made. Only nodes that were born with it may be read: those on the
    /// way to a key of a run are, the next leaf behind its last key may not be.
    pub root: TreeRoot,
}

/// See the module.
#[derive(Debug)]
pub struct OpenTransactions {
    open: OrderedMutex<Open>,
}

#[derive(Debug)]
struct Open {
    next: u64,
    transactions: BTreeMap<u64, OpenTransaction>,
    /// Oldest first: their epochs ascend.
    flushes: Vec<Arc<FlushRecord>>,
    /// Dead blocks that `flushes` brought, by birth: with their deaths.
    held: BTreeMap<Epoch, Vec<(Dead, Epoch)>>,
    held_pages: u64,
    /// What `flushes` and `held` take.
    charge: Charge,
}

/// What a held block takes in memory, in bytes.
const HELD_BYTES: u64 = size_of::<(Dead, Epoch)>() as u64;

impl FlushRecord {
    /// What it takes in memory, in bytes, about. That of its segments counts whole: nobody else may
    /// have them any more.
    fn memory_bytes(&self) -> u64 {
        let of_young = |young: &Arc<Segment>| {
            let keys = young.bounds.as_ref().map_or(0, |b| b.least.len() + b.greatest.len());
            let shares = young.keyspaces.len() * size_of::<KeyspaceShare>();
            size_of::<Segment>() + keys + shares + young.filter.nodes.len() * size_of::<NodeRef>()
        };
        let of_runs = |runs: &FlushedRuns| {
            size_of::<FlushedRuns>() + runs.ranges.iter().map(bytes_of).sum::<usize>()
        };
        let parts = self.young.iter().map(of_young).chain(self.runs.values().map(of_runs));
        (size_of::<FlushRecord>() + parts.sum::<usize>()) as u64
    }
}

#[derive(Debug)]
struct OpenTransaction {
    /// The number that it began with; 0 while it is being chosen.
    began: SequenceNumber,
    /// When, by the clock.
    since: Duration,
    standing: Standing,
}

/// How a transaction stands to the limit on what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its number is being chosen.
    Beginning,
    Open,
    /// It is being validated.
    Committing,
    GivenUp,
}

/// What is kept for one open transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptFor {
    /// The number that it began with.
    pub began: SequenceNumber,
    /// When, by the clock.
    pub since: Duration,
    /// Pages that are kept for its validation; others may need them too.
    pub pages: u64,
    /// It was given up.
    pub given_up: bool,
}

fn pages_of(dead: &[(Dead, Epoch)]) -> u64 {
    dead.iter().map(|(dead, _)| u64::from(dead.block.pages)).sum()
}

impl Open {
    /// The number before which nothing is kept; `None`: nobody needs anything.
    fn least(&self) -> Option<SequenceNumber> {
        let open = self.transactions.values();
        open.filter(|open| open.standing != Standing::GivenUp).map(|open| open.began).min()
    }

    /// Lets go of the records that nobody needs; returns the dead blocks that they have kept, with
    /// their deaths.
    fn release(&mut self) -> Vec<(Dead, Epoch)> {
        let least = self.least();
        let (mut released, mut bytes) = (Vec::new(), 0);
        let flushes = std::mem::take(&mut self.flushes);
        for record in flushes {
            if least.is_some_and(|least| least < record.last) {
                self.flushes.push(record);
            } else {
                bytes += record.memory_bytes();
                released.extend(self.held.remove(&record.epoch).unwrap_or_default());
            }
        }
        self.held_pages -= pages_of(&released);
        bytes += released.len() as u64 * HELD_BYTES;
        self.charge.set(self.charge.bytes().saturating_sub(bytes));
        released
    }

    /// The transaction to give up next. None, when another that stays needs as much.
    fn oldest(&mut self) -> Option<&mut OpenTransaction> {
        let least = self.least()?;
        let needs_all =
            |open: &OpenTransaction| open.standing != Standing::GivenUp && open.began == least;
        let stays = |open: &OpenTransaction| needs_all(open) && open.standing != Standing::Open;
        if self.transactions.values().any(stays) {
            return None;
        }
        self.transactions.values_mut().find(|open| needs_all(open))
    }
}

impl OpenTransactions {
    /// None; what is kept for them counts against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>) -> OpenTransactions {
        let open = Open {
            next: 0,
            transactions: BTreeMap::new(),
            flushes: Vec::new(),
            held: BTreeMap::new(),
            held_pages: 0,
            charge: budget.charge(MemoryPart::Other, 0),
        };
        OpenTransactions { open: OrderedMutex::new(OPEN_TRANSACTIONS, open) }
    }

    /// Lists a transaction whose number is about to be chosen. `now` is the clock's time.
    pub fn begin(&self, now: Duration) -> u64 {
        let mut open = self.open.lock();
        open.next += 1;
        let name = open.next;
        let (began, since, standing) = (SequenceNumber(0), now, Standing::Beginning);
        open.transactions.insert(name, OpenTransaction { began, since, standing });
        name
    }

    /// The number is chosen.
    pub fn began_at(&self, name: u64, number: SequenceNumber) {
        if let Some(open) = self.open.lock().transactions.get_mut(&name) {
            (open.began, open.standing) = (number, Standing::Open);
        }
    }

    /// It is about to be validated, and is not given up any more. False when it was already.
    pub fn begin_commit(&self, name: u64) -> bool {
        match self.open.lock().transactions.get_mut(&name) {
            Some(open) if open.standing != Standing::GivenUp => {
                open.standing = Standing::Committing;
                true
            }
            _ => false,
        }
    }

    /// Ends a transaction. Returns the dead blocks that were held for validation alone, with their
    /// deaths.
    pub fn end(&self, name: u64) -> Vec<(Dead, Epoch)> {
        let mut open = self.open.lock();
        open.transactions.remove(&name);
        open.release()
    }

    /// Gives up transactions, the oldest first, until no more than `pages_max` pages are kept, and
    /// no more than `bytes_max` bytes of memory list them, or one flush alone (E6). Returns what
    /// [`OpenTransactions::end`] does.
    pub fn limit(&self, pages_max: u64, bytes_max: u64) -> Vec<(Dead, Epoch)> {
        let mut open = self.open.lock();
        let mut released = Vec::new();
        // One record is as long as its flush made it: nobody who begins anew would fare better.
        let is_too_long = |open: &Open| open.flushes.len() > 1 && open.charge.bytes() > bytes_max;
        while open.held_pages > pages_max || is_too_long(&open) {
            let pages = open.held_pages;
            let Some(oldest) = open.oldest() else { break };
            oldest.standing = Standing::GivenUp;
            let number = oldest.began;
            tracing::warn!(
                target: "sapwood::transaction",
                %number,
                pages,
                "too much is kept for a transaction: it is given up"
            );
            released.extend(open.release());
        }
        released
    }

    /// What is kept for each open transaction, oldest first.
    pub fn kept(&self) -> Vec<KeptFor> {
        let open = self.open.lock();
        // Of each flush and all that came after it: each block is looked at once, however many
        // transactions there are.
        let (mut pages, mut since) = (0_u64, Vec::with_capacity(open.flushes.len()));
        for record in open.flushes.iter().rev() {
            pages += open.held.get(&record.epoch).map_or(0, |held| pages_of(held));
            since.push((record.last, pages));
        }
        since.reverse();
        let pages_since = |began: SequenceNumber| -> u64 {
            let first = since.partition_point(|(last, _)| *last <= began);
            since.get(first).map_or(0, |(_, pages)| *pages)
        };
        let kept = open.transactions.values().map(|of| {
            let given_up = of.standing == Standing::GivenUp;
            let pages = if given_up { 0 } else { pages_since(of.began) };
            KeptFor { began: of.began, since: of.since, pages, given_up }
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|kept| kept.since);
        kept
    }

    /// True when any is open that began before `number`, or is just beginning.
    pub fn any_before(&self, number: SequenceNumber) -> bool {
        self.open.lock().transactions.values().any(|open| open.began < number)
    }

    /// Keeps a flush's record if any transaction may need it.
    pub fn flushed(&self, record: FlushRecord) {
        let mut open = self.open.lock();
        if open.least().is_some_and(|least| least < record.last) {
            let bytes = open.charge.bytes() + record.memory_bytes();
            open.charge.set(bytes);
            open.flushes.push(Arc::new(record));
        }
    }

    /// Takes, of blocks that die at `death`, the nodes that a kept flush brought.
    pub fn hold(&self, dead: &mut Vec<Dead>, death: Epoch) {
        let mut open = self.open.lock();
        let Open { flushes, held, held_pages, charge, .. } = &mut *open;
        if flushes.is_empty() {
            return;
        }
        let before = dead.len();
        dead.retain(|dead| {
            let index = flushes.binary_search_by_key(&dead.birth, |record| record.epoch);
            // No value is read for it.
            let is_kept = index.is_ok() && !dead.is_value;
            if is_kept {
                *held_pages += u64::from(dead.block.pages);
                held.entry(dead.birth).or_default().push((*dead, death));
            }
            !is_kept
        });
        let taken = (before - dead.len()) as u64;
        charge.set(charge.bytes() + taken * HELD_BYTES);
    }

    /// What flushes have added that may hold commits after `number`, oldest first.
    pub fn flushes_after(&self, number: SequenceNumber) -> Vec<Arc<FlushRecord>> {
        let open = self.open.lock();
        open.flushes.iter().filter(|record| record.last > number).cloned().collect()
    }

    /// Every dead block that is held for validation.
    pub fn held_blocks(&self) -> Vec<Dead> {
        self.open.lock().held.values().flatten().map(|(dead, _)| *dead).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Block;
    use crate::types::PageNumber;

    fn none_open() -> OpenTransactions {
        OpenTransactions::new(&Arc::new(MemoryBudget::new(1 << 20)))
    }

    /// A flush that made the state of the number that its last commit has.
    fn flush(last: u64) -> FlushRecord {
        let (young, runs) = (Vec::new(), BTreeMap::new());
        FlushRecord { last: SequenceNumber(last), epoch: Epoch(last), young, runs }
    }

    /// A flush of which `pages` pages have died.
    fn merged(open: &OpenTransactions, last: u64, pages: u32) {
        open.flushed(flush(last));
        let block = |page| Block::new(PageNumber(page), pages);
        let of_flush = Dead::node(block(last * 100), Epoch(last));
        let older = Dead::node(block(last * 100 + 50), Epoch(1));
        let mut dead = vec![of_flush, older];
        open.hold(&mut dead, Epoch(last + 1));
        assert!(!dead.contains(&of_flush) && dead.contains(&older));
    }

    fn begun(open: &OpenTransactions, number: u64) -> u64 {
        let name = open.begin(Duration::from_secs(number));
        open.began_at(name, SequenceNumber(number));
        name
    }

    #[test]
    fn a_flush_is_kept_for_a_transaction_whose_number_is_being_chosen() {
        let open = none_open();
        let name = open.begin(Duration::ZERO);
        open.flushed(flush(5));
        open.began_at(name, SequenceNumber(3));
        assert_eq!(open.flushes_after(SequenceNumber(3)).len(), 1);
    }

    #[test]
    fn a_flush_is_kept_until_the_last_transaction_that_began_before_it_ends() {
        let open = none_open();
        let [older, younger] = [3, 4].map(|number| begun(&open, number));
        open.flushed(flush(5));
        open.end(younger);
        assert_eq!(open.flushes_after(SequenceNumber(3)).len(), 1);
        open.end(older);
        assert!(open.flushes_after(SequenceNumber(3)).is_empty());
    }

    #[test]
    fn above_the_limit_the_oldest_are_given_up_and_what_only_they_need_is_let_go() {
        let open = none_open();
        let [oldest, middle] = [3, 5].map(|number| begun(&open, number));
        merged(&open, 5, 10);
        merged(&open, 7, 20);
        let youngest = begun(&open, 7);
        assert_eq!(open.kept().iter().map(|kept| kept.pages).collect::<Vec<_>>(), [30, 20, 0]);
        assert!(open.limit(30, u64::MAX).is_empty());
        let released = open.limit(29, u64::MAX);
        assert_eq!(released.len(), 1);
        assert_eq!(released[0].0.block.pages, 10);
        assert_eq!(open.kept().iter().map(|kept| kept.pages).collect::<Vec<_>>(), [0, 20, 0]);
        assert!(!open.begin_commit(oldest), "it was given up");
        assert!(open.begin_commit(middle));
        assert!(open.limit(0, u64::MAX).is_empty(), "it is being validated");
        assert!(open.end(oldest).is_empty(), "nothing was kept for it any more");
        assert_eq!(open.end(middle).len(), 1);
        assert!(open.held_blocks().is_empty());
        assert!(open.begin_commit(youngest));
    }

    #[test]
    fn nobody_is_given_up_beside_another_that_stays_and_needs_as_much() {
        let open = none_open();
        let [idle, committing] = [3, 3].map(|number| begun(&open, number));
        merged(&open, 5, 10);
        assert!(open.begin_commit(committing));
        assert!(open.limit(0, u64::MAX).is_empty());
        open.end(committing);
        assert!(open.begin_commit(idle), "it would have been given up for nothing");
    }

    #[test]
    fn values_are_not_kept() {
        let open = none_open();
        begun(&open, 3);
        open.flushed(flush(5));
        let value = Dead::value(Block::new(PageNumber(7), 1), Epoch(5));
        let mut dead = vec![value];
        open.hold(&mut dead, Epoch(6));
        assert_eq!(dead, [value]);
        assert!(open.held_blocks().is_empty());
    }

    #[test]
    fn a_transaction_whose_number_is_being_chosen_is_not_given_up_and_keeps_all() {
        let open = none_open();
        begun(&open, 3);
        let beginning = open.begin(Duration::ZERO);
        merged(&open, 5, 10);
        assert!(open.limit(0, u64::MAX).is_empty());
        open.began_at(beginning, SequenceNumber(5));
        assert_eq!(open.limit(0, u64::MAX).len(), 1);
        assert!(open.begin_commit(beginning), "nothing was kept for it");
    }

    #[test]
    fn what_is_kept_counts_and_above_the_limit_of_memory_the_oldest_is_given_up() {
        let budget = Arc::new(MemoryBudget::new(1 << 20));
        let open = OpenTransactions::new(&budget);
        let counted = || budget.part(MemoryPart::Other);
        let oldest = begun(&open, 1);
        for last in 2..100 {
            merged(&open, last, 1);
            // Of one flush alone whoever begins anew would have as much.
            assert!(last > 2 || open.limit(u64::MAX, 0).is_empty());
        }
        assert!(counted() > 97 * HELD_BYTES);
        let youngest = begun(&open, 99);
        assert!(open.limit(u64::MAX, counted()).is_empty());
        assert_eq!(open.limit(u64::MAX, counted() - 1).len(), 98);
        assert_eq!(counted(), 0);
        assert!(!open.begin_commit(oldest) && open.begin_commit(youngest));
        open.end(oldest);
    }
}
