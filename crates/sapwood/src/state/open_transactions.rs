//! Open transactions, and what flushes have added since they began: validation looks there.
//!
//! *Guarantees*: E5: a transaction is listed before its number is chosen; a flush record is kept,
//! with the blocks of its young segment, while any listed transaction began before the flush's last
//! commit. *Threads*: any; one short lock.

use std::collections::BTreeMap;

use super::dead_list::Dead;
use crate::segment::descriptor::Segment;
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

/// The rank of the lock.
pub const OPEN_TRANSACTIONS: LockRank = LockRank::new(48, "open transactions");

/// What a flush added.
#[derive(Debug)]
pub struct FlushRecord {
    /// The last commit in it.
    pub last: SequenceNumber,
    /// The young segment, if the flush made one.
    pub young: Option<Arc<Segment>>,
    /// Runs that went to the last level, where they carry no numbers: every key in them counts as
    /// changed.
    pub runs: BTreeMap<KeyspaceNumber, KeyRanges>,
}

impl FlushRecord {
    /// True when a key lies in a run.
    pub fn key_in_run(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        self.runs.get(&keyspace).is_some_and(|runs| runs.contains(key))
    }

    /// True when some key of a range lies in a run.
    pub fn range_in_run(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> bool {
        self.runs.get(&keyspace).is_some_and(|runs| runs.overlaps(range))
    }
}

/// See the module.
#[derive(Debug)]
pub struct OpenTransactions {
    open: OrderedMutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// The number that each began with; 0 while it is being chosen.
    transactions: BTreeMap<u64, SequenceNumber>,
    /// Oldest first.
    flushes: Vec<Arc<FlushRecord>>,
    /// Dead blocks of the young segments in `flushes`, by segment: with their deaths.
    held: BTreeMap<u64, Vec<(Dead, Epoch)>>,
}

impl Default for OpenTransactions {
    fn default() -> OpenTransactions {
        OpenTransactions { open: OrderedMutex::new(OPEN_TRANSACTIONS, Open::default()) }
    }
}

impl OpenTransactions {
    /// Lists a transaction whose number is about to be chosen.
    pub fn begin(&self) -> u64 {
        let mut open = self.open.lock();
        open.next += 1;
        let name = open.next;
        open.transactions.insert(name, SequenceNumber(0));
        name
    }

    /// The number is chosen.
    pub fn began_at(&self, name: u64, number: SequenceNumber) {
        self.open.lock().transactions.insert(name, number);
    }

    /// Ends a transaction. Returns the dead blocks that were held for validation alone, with their
    /// deaths.
    pub fn end(&self, name: u64) -> Vec<(Dead, Epoch)> {
        let mut open = self.open.lock();
        open.transactions.remove(&name);
        let least = open.transactions.values().min().copied();
        let mut released = Vec::new();
        let flushes = std::mem::take(&mut open.flushes);
        for record in flushes {
            if least.is_some_and(|least| least < record.last) {
                open.flushes.push(record);
            } else if let Some(young) = &record.young {
                released.extend(open.held.remove(&young.number).unwrap_or_default());
            }
        }
        released
    }

    /// True when any transaction is open.
    pub fn any(&self) -> bool {
        !self.open.lock().transactions.is_empty()
    }

    /// True when any is open that began before `number`, or is just beginning.
    pub fn any_before(&self, number: SequenceNumber) -> bool {
        self.open.lock().transactions.values().any(|began| *began < number)
    }

    /// Keeps a flush's record if any transaction may need it.
    pub fn flushed(&self, record: FlushRecord) {
        let mut open = self.open.lock();
        if open.transactions.values().any(|number| *number < record.last) {
            open.flushes.push(Arc::new(record));
        }
    }

    /// Offers the dead blocks of a young segment: true when they are kept here.
    pub fn hold(&self, segment: u64, dead: &[Dead], death: Epoch) -> bool {
        let mut open = self.open.lock();
        let kept = open.flushes.iter().filter_map(|record| record.young.as_ref());
        if !kept.map(|young| young.number).any(|number| number == segment) {
            return false;
        }
        open.held.entry(segment).or_default().extend(dead.iter().map(|dead| (*dead, death)));
        true
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

    fn flush(last: u64) -> FlushRecord {
        FlushRecord { last: SequenceNumber(last), young: None, runs: BTreeMap::new() }
    }

    #[test]
    fn a_flush_is_kept_for_a_transaction_whose_number_is_being_chosen() {
        let open = OpenTransactions::default();
        let name = open.begin();
        open.flushed(flush(5));
        open.began_at(name, SequenceNumber(3));
        assert_eq!(open.flushes_after(SequenceNumber(3)).len(), 1);
    }

    #[test]
    fn a_flush_is_kept_until_the_last_transaction_that_began_before_it_ends() {
        let open = OpenTransactions::default();
        let [older, younger] = [3, 4].map(|number| {
            let name = open.begin();
            open.began_at(name, SequenceNumber(number));
            name
        });
        open.flushed(flush(5));
        open.end(younger);
        assert_eq!(open.flushes_after(SequenceNumber(3)).len(), 1);
        open.end(older);
        assert!(open.flushes_after(SequenceNumber(3)).is_empty());
    }
}
