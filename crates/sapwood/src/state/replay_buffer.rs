//! Puts what is replayed in the order of keys before it goes into a memtable.
//!
//! Keys in random order each meet a leaf of the memtable that is not in the processor's cache; in
//! the order of keys several that follow each other meet the same one. At an open nobody waits for
//! the single record, so there is time to sort.
//!
//! *Guarantees*: each memtable gets the same versions of the same keys; those of one key in the
//! order of the log. *Threads*: one.

use crate::memtable::{Memtable, Operation};
use crate::segment::merge_cursor::key_head;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// The part of the memory budget that may wait here, and the most that helps.
const BUDGET_PARTS: u64 = 8;
const BYTES_MAX: u64 = 24 << 20;
/// A longer value goes to the memtable at once: copying it twice costs more than is won. (Measured
/// with 200 MiB of values of 1,000 bytes: 140 ms without the second copy, 210 with it.)
const VALUE_BYTES_MAX: usize = 512;

/// One operation, whose key and value lie one behind the other in the buffer.
#[derive(Clone, Copy)]
struct Buffered {
    keyspace: KeyspaceNumber,
    kind: Kind,
    /// The first bytes of the key, zero-filled.
    head: u64,
    start: u32,
    /// How many came before it: an empty key without a value begins where the next one does.
    order: u32,
    key_bytes: u32,
    value_bytes: u32,
    sequence: SequenceNumber,
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    PutOverflow,
    Delete,
}

/// Operations that a memtable is to get.
pub(super) struct ReplayBuffer {
    bytes_max: usize,
    bytes: Vec<u8>,
    operations: Vec<Buffered>,
}

impl ReplayBuffer {
    /// An empty buffer for a memory budget of so many bytes.
    pub fn new(budget: u64) -> ReplayBuffer {
        let bytes_max = (budget / BUDGET_PARTS).min(BYTES_MAX) as usize;
        ReplayBuffer { bytes_max, bytes: Vec::new(), operations: Vec::new() }
    }

    /// The memory of what waits here.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.operations.len() * size_of::<Buffered>()
    }

    /// Takes up an operation for `table`, which gets everything when the buffer is full.
    pub fn add(
        &mut self,
        table: &Memtable,
        keyspace: KeyspaceNumber,
        key: &[u8],
        sequence: SequenceNumber,
        operation: Operation<'_>,
    ) {
        let (kind, value) = match operation {
            Operation::Put(value) => (Kind::Put, value),
            Operation::PutOverflow(reference) => (Kind::PutOverflow, reference),
            Operation::Delete => (Kind::Delete, &[][..]),
        };
        // A commit may write a key twice, and then the last counts: what waits may not come later.
        let waits = self.operations.last().is_some_and(|last| last.sequence == sequence);
        let is_long = value.len() > VALUE_BYTES_MAX && !waits;
        let more_bytes = key.len() + value.len() + size_of::<Buffered>();
        if !is_long && self.bytes() + more_bytes > self.bytes_max {
            self.insert_all(table);
        }
        let places = [self.bytes.len(), self.operations.len(), key.len(), value.len()];
        let [Ok(start), Ok(order), Ok(key_bytes), Ok(value_bytes)] = places.map(u32::try_from)
        else {
            self.insert_all(table);
            return table.insert(keyspace, key, sequence, operation);
        };
        if is_long {
            return table.insert(keyspace, key, sequence, operation);
        }
        let head = key_head(key);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        self.operations.push(Buffered {
            keyspace,
            kind,
            head,
            start,
            order,
            key_bytes,
            value_bytes,
            sequence,
        });
    }

    /// Gives everything that waits to `table`.
    pub fn insert_all(&mut self, table: &Memtable) {
        let ReplayBuffer { bytes, operations, .. } = self;
        let parts = |one: &Buffered| {
            let rest = bytes.get(one.start as usize..).unwrap_or_default();
            let (key, rest) = rest.split_at_checked(one.key_bytes as usize).unwrap_or_default();
            (key, rest.get(..one.value_bytes as usize).unwrap_or_default())
        };
        operations.sort_unstable_by(|a, b| {
            let by_head = (a.keyspace, a.head).cmp(&(b.keyspace, b.head));
            by_head.then_with(|| (parts(a).0, a.order).cmp(&(parts(b).0, b.order)))
        });
        for one in operations.drain(..) {
            let (key, value) = parts(&one);
            let operation = match one.kind {
                Kind::Put => Operation::Put(value),
                Kind::PutOverflow => Operation::PutOverflow(value),
                Kind::Delete => Operation::Delete,
            };
            table.insert(one.keyspace, key, one.sequence, operation);
        }
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memtable::ChunkPool;
    use crate::sync::{Arc, Random};

    fn table() -> Arc<Memtable> {
        Arc::new(Memtable::new(Arc::new(ChunkPool::new(0))))
    }

    /// Keyspace, key, number and value.
    type Versions = Vec<(u32, Vec<u8>, u64, Option<Vec<u8>>)>;

    fn content(table: &Arc<Memtable>) -> Versions {
        let mut cursor = table.cursor();
        cursor.first();
        let mut content = Vec::new();
        while cursor.valid() {
            let value = match cursor.operation() {
                Operation::Put(value) => Some(value.to_vec()),
                _ => None,
            };
            content.push((cursor.keyspace().0, cursor.key().to_vec(), cursor.sequence().0, value));
            cursor.next();
        }
        content
    }

    /// Neither takes a byte of the buffer; other keys in random order lie around them.
    #[test]
    fn of_an_empty_key_that_a_commit_writes_twice_the_last_counts() {
        let (keyspace, number) = (KeyspaceNumber(1), SequenceNumber(1));
        for seed in 0..100 {
            let mut random = Random::from_seed(seed);
            let (plain, sorted) = (table(), table());
            let mut buffer = ReplayBuffer::new(1 << 20);
            let mut add = |key: &[u8], operation| {
                plain.insert(keyspace, key, number, operation);
                buffer.add(&sorted, keyspace, key, number, operation);
            };
            for _ in 0..random.below(60) {
                add(&random.next_u64().to_be_bytes(), Operation::Delete);
            }
            add(b"", Operation::Delete);
            add(b"", Operation::Put(b""));
            for _ in 0..random.below(60) {
                add(&random.next_u64().to_be_bytes(), Operation::Delete);
            }
            buffer.insert_all(&sorted);
            assert_eq!(content(&sorted), content(&plain), "seed {seed}");
        }
    }

    proptest! {
        /// Keys with much in common, often written twice in one commit, with values short and long.
        #[test]
        fn a_memtable_gets_what_it_would_have_got_in_the_order_of_the_log(
            operations in prop::collection::vec(
                (1..3_u32, "[ab]{0,12}", 0..3_u64, prop::option::of(0..900_usize)), 0..300,
            ),
            budget in 0..200_000_u64,
        ) {
            let (plain, sorted) = (table(), table());
            let mut buffer = ReplayBuffer::new(budget);
            let mut sequence = 1;
            for (index, (keyspace, key, step, value)) in operations.iter().enumerate() {
                sequence += step;
                let value = value.map(|length| vec![index as u8; length]);
                let operation = value.as_deref().map_or(Operation::Delete, Operation::Put);
                let (keyspace, number) = (KeyspaceNumber(*keyspace), SequenceNumber(sequence));
                plain.insert(keyspace, key.as_bytes(), number, operation);
                buffer.add(&sorted, keyspace, key.as_bytes(), number, operation);
                prop_assert!(buffer.bytes() as u64 <= budget / BUDGET_PARTS + 1000);
            }
            buffer.insert_all(&sorted);
            prop_assert_eq!(buffer.bytes(), 0);
            prop_assert_eq!(content(&sorted), content(&plain));
        }
    }
}
