//! `get_many` of many keys beside a writer: one moment, whatever happens meanwhile, and memtables
//! that are flushed leave memory before it ends.

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::state::view::MemtableSlot;
use sapwood::storage::{OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sapwood::sync::{Arc, Mutex, Random, Weak};
use sapwood::{Database, Durability, Keyspace, Value};

const KEYS: u32 = 4000;
/// The writer is at it once in so many reads.
const READS: u32 = 20;

fn made() -> (SimulatedStorage, Arc<Database>, Keyspace) {
    let storage = SimulatedStorage::new();
    let builder = Setup { region_bytes: 1 << 20, ..Setup::tiny() }.builder();
    let builder = builder.durability(Durability::Memory);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..KEYS {
        keyspace.put(key(number), [b'1'; 100]).unwrap();
    }
    database.compact().unwrap();
    // In a sealed memtable, if it is not flushed before, and in the one that takes writes.
    for number in (0..KEYS).step_by(3) {
        keyspace.put(key(number), [b'2'; 90]).unwrap();
    }
    keyspace.delete_range(key(100)..key(200)).unwrap();
    (storage, Arc::new(database), keyspace)
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// What the writer did and saw, in the middle of reads.
#[derive(Debug, Default)]
struct Seen {
    rounds: u32,
    /// All memtables that there were.
    memtables: Vec<Weak<MemtableSlot>>,
    /// How many of them were in memory, round by round, but those of the moment.
    held: Vec<usize>,
    /// How many snapshots were registered, round by round.
    snapshots: Vec<usize>,
}

/// Overwrites and deletes what is being read, and flushes and merges; at the end it drops the
/// keyspace.
struct Writer {
    database: Arc<Database>,
    keyspace: Keyspace,
    random: Mutex<Random>,
    seen: Mutex<Seen>,
    drop_in_round: u32,
}

impl Writer {
    fn round(&self) {
        let core = self.database.core().unwrap();
        let mut seen = self.seen.lock();
        seen.rounds += 1;
        let view = core.view();
        seen.memtables.extend(view.memtables().map(Arc::downgrade));
        drop(view);
        let random = &mut *self.random.lock();
        if seen.rounds == self.drop_in_round {
            self.database.drop_keyspace("a").unwrap();
        } else if seen.rounds < self.drop_in_round {
            for _ in 0..50 {
                let number = random.below(u64::from(KEYS)) as u32;
                self.keyspace.put(key(number), [b'3'; 110]).unwrap();
            }
            let number = random.below(u64::from(KEYS)) as u32;
            self.keyspace.delete_range(key(number)..key(number + 30)).unwrap();
            self.keyspace.delete(key(number / 2)).unwrap();
        }
        self.database.flush().unwrap();
        run_all_steps(&self.database).unwrap();
        let view = core.view();
        let is_of_view =
            |slot: &Arc<MemtableSlot>| view.memtables().any(|of| Arc::ptr_eq(of, slot));
        let slots = seen.memtables.iter().filter_map(Weak::upgrade);
        let held = slots.filter(|slot| !is_of_view(slot)).count();
        seen.held.push(held);
        seen.snapshots.push(core.snapshots.count());
    }
}

/// Looks keys up with nothing in the cache and the writer at it between reads, and what it saw.
fn get_beside_writer(
    (storage, database, keyspace): &(SimulatedStorage, Arc<Database>, Keyspace),
    keys: &[[u8; 4]],
    drop_in_round: u32,
) -> (Vec<Option<Value>>, Seen) {
    let writer = Arc::new(Writer {
        database: database.clone(),
        keyspace: keyspace.clone(),
        random: Mutex::new(Random::from_seed(3)),
        seen: Mutex::default(),
        drop_in_round,
    });
    database.core().unwrap().pages.cache().clear();
    let (beside, reads, is_writing) = (writer.clone(), AtomicU32::new(0), AtomicBool::new(false));
    storage.on_operation(Box::new(move |operation| {
        // What the writer reads itself is not counted.
        if operation.kind != OperationKind::Read || is_writing.swap(true, Ordering::Relaxed) {
            return;
        }
        if reads.fetch_add(1, Ordering::Relaxed) % READS == READS - 1 {
            beside.round();
        }
        is_writing.store(false, Ordering::Relaxed);
    }));
    let found = keyspace.get_many(keys).unwrap();
    storage.clear_on_operation();
    let seen = std::mem::take(&mut *writer.seen.lock());
    (found, seen)
}

fn expected(keyspace: &Keyspace, keys: &[[u8; 4]]) -> Vec<Option<Value>> {
    keys.iter().map(|key| keyspace.get(key).unwrap()).collect()
}

/// One read point served the whole call: its memtables stayed in memory to the end, which no part
/// of the budget counted.
#[test]
fn many_keys_are_read_as_of_one_moment_and_flushed_memtables_are_let_go_meanwhile() {
    for drop_in_round in [5, u32::MAX] {
        let made = made();
        let (_, database, keyspace) = &made;
        let mut keys: Vec<_> = (0..KEYS + 50).map(key).collect();
        // In no order, and some of them twice.
        Random::from_seed(7).shuffle(&mut keys);
        keys.extend_from_within(..300);
        let expected = expected(keyspace, &keys);
        let count_of = |value: Option<&[u8]>| {
            expected.iter().filter(|found| found.as_deref() == value).count()
        };
        let counts = [Some(&[b'1'; 100][..]), Some(&[b'2'; 90]), None].map(count_of);
        assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
        let (found, seen) = get_beside_writer(&made, &keys, drop_in_round);
        assert!(found == expected);
        assert!(seen.rounds >= 8, "{seen:?}");
        // Those that were there at the beginning are let go a few hundred keys later.
        assert!(seen.held[0] > 0, "{:?}", seen.held);
        assert!(seen.held[4..].iter().all(|held| *held == 0), "{:?}", seen.held);
        assert!(seen.snapshots.iter().all(|count| *count == 1), "{:?}", seen.snapshots);
        assert_eq!(database.stats().unwrap().snapshots.len(), 0);
        run_all_steps(database).unwrap();
        assert_eq!(access::verify(database).unwrap(), None);
    }
}

#[test]
fn few_keys_are_read_as_of_one_moment_without_a_snapshot() {
    let made = made();
    let (_, database, keyspace) = &made;
    let keys: Vec<_> = (0..KEYS).step_by(16).map(key).collect();
    let expected = expected(keyspace, &keys);
    let (found, seen) = get_beside_writer(&made, &keys, u32::MAX);
    assert!(found == expected);
    assert!(seen.rounds >= 5, "{seen:?}");
    assert!(seen.snapshots.iter().all(|count| *count == 0), "{:?}", seen.snapshots);
    assert_eq!(access::verify(database).unwrap(), None);
}
