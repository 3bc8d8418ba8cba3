//! Write stamps are there however much one call writes: a durable state in between raises their
//! limit.

use crash_lsm::access;
use sapwood::storage::{MemoryStorage, OperationKind, SimulatedStorage};
use sapwood::sync::{Arc, Clock, Mutex, Random};
use sapwood::{Builder, Database, Durability, Isolation, Keyspace};

/// So many may be given out before the next durable state.
const AHEAD: u64 = 2_000;

/// Nothing runs by itself, nodes are small, and a state is durable before as few of them as here.
fn builder() -> Builder {
    let builder =
        Database::builder().memory_budget(4 << 20).merge_threads(0).clock(Clock::fake().0);
    let builder = builder.page_size(1024).leaf_bytes(1024).region_bytes(1 << 20);
    builder.step_bytes(64 << 10).stamps_ahead(AHEAD).durability(Durability::Memory)
}

fn open(builder: &Builder) -> (Database, Keyspace) {
    let database = builder.clone().open_on(Arc::new(MemoryStorage::new())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

/// Takes about half of its length even when it is compressed.
fn value(random: &mut Random, length: usize) -> Vec<u8> {
    let mut value = vec![0; length];
    random.fill(&mut value);
    value
}

/// Puts so many pairs in no order, each with a leaf or blocks of its own, nearly.
fn load(keyspace: &Keyspace, count: usize, seed: u64) {
    let mut random = Random::from_seed(seed);
    for n in 0..count {
        let length = if n % 4 == 0 { 2_000 } else { 600 };
        keyspace.put(random.next_u64().to_be_bytes(), value(&mut random, length)).unwrap();
    }
}

fn stamps(database: &Database) -> u64 {
    database.core().unwrap().pages.stamp_counter()
}

fn check(database: &Database, keyspace: &Keyspace, count: usize) {
    assert_eq!(access::verify(database).unwrap(), None);
    assert_eq!(keyspace.iter().unwrap().map(Result::unwrap).count(), count);
}

#[test]
fn a_copy_of_more_nodes_than_there_are_stamps_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let storage = Arc::new(MemoryStorage::new());
    let database = builder().stamps_ahead(1 << 20).open_on(storage.clone()).unwrap();
    load(&database.keyspace("a").unwrap(), 6_000, 1);
    database.close().unwrap();
    let database = builder().open_on(storage).unwrap();
    database.compact_to(&path, &mut ()).unwrap();
    let copy = builder().open(&path).unwrap();
    let copied = copy.existing_keyspace("a").unwrap();
    assert!(stamps(&copy) > 2 * AHEAD, "only {} nodes", stamps(&copy));
    check(&copy, &copied, 6_000);
}

#[test]
fn a_transaction_of_more_nodes_than_there_are_stamps_is_committed() {
    let (database, keyspace) = open(&builder().transaction_bytes(64 << 10));
    let mut random = Random::from_seed(2);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let before = stamps(&database);
    for _ in 0..6_000 {
        let (key, value) = (random.next_u64().to_be_bytes(), value(&mut random, 600));
        transaction.put(&keyspace, key, value).unwrap();
    }
    transaction.commit().unwrap();
    let written = stamps(&database) - before;
    assert!(written > 2 * AHEAD, "only {written} nodes");
    check(&database, &keyspace, 6_000);
}

/// The merge of pending segments is one call, however long they are.
#[test]
fn one_merge_of_a_transactions_segments_takes_more_stamps_than_there_are() {
    let (database, keyspace) = open(&builder().memory_budget(64 << 20).transaction_bytes(1 << 20));
    let mut random = Random::from_seed(3);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    // Eight segments of the first tier, each of fewer nodes than that, and their merge.
    for _ in 0..13_000 {
        let (key, value) = (random.next_u64().to_be_bytes(), value(&mut random, 600));
        transaction.put(&keyspace, key, value).unwrap();
    }
    transaction.commit().unwrap();
    check(&database, &keyspace, 13_000);
}

#[test]
fn a_compaction_of_more_nodes_than_there_are_stamps_ends() {
    let (database, keyspace) = open(&builder());
    for seed in 0..6 {
        load(&keyspace, 1_000, 10 + seed);
        database.flush().unwrap();
    }
    let before = stamps(&database);
    database.compact().unwrap();
    // None of its steps found them used up.
    assert!(!database.core().unwrap().reserve.is_short());
    let written = stamps(&database) - before;
    assert!(written > 2 * AHEAD, "only {written} nodes");
    check(&database, &keyspace, 6_000);
}

#[test]
fn a_flush_of_more_nodes_than_there_are_stamps_ends() {
    let (database, keyspace) = open(&builder().memory_budget(64 << 20));
    load(&keyspace, 8_000, 4);
    let before = stamps(&database);
    database.flush().unwrap();
    let written = stamps(&database) - before;
    assert!(written > 2 * AHEAD, "only {written} nodes");
    check(&database, &keyspace, 8_000);
}

/// Their values are written at once, and the memtable and the log hold next to nothing of them.
#[test]
fn more_commits_of_large_values_than_there_are_stamps_are_made() {
    let (database, keyspace) = open(&builder().memory_budget(64 << 20));
    let before = stamps(&database);
    for n in 0..3 * AHEAD {
        keyspace.put((n % 10).to_be_bytes(), vec![0; 64 << 10]).unwrap();
    }
    for n in 0..AHEAD {
        let key = (n % 10).to_be_bytes();
        keyspace.put_stream(key, &mut vec![1; 64 << 10].as_slice()).unwrap();
    }
    let written = stamps(&database) - before;
    assert!(written > 3 * AHEAD, "only {written} nodes");
    database.flush().unwrap();
    check(&database, &keyspace, 10);
}

/// A crash before the slot is on disk opens the state before, and goes on from its limit.
#[test]
fn no_stamp_behind_the_limit_on_disk_is_given_out() {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    load(&keyspace, 100, 5);
    let core = database.core().unwrap();
    let before = core.pages.stamp_limit();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (seen.clone(), core.clone());
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::WriteSync && operation.offset < 8192 {
            into.lock().push(of.pages.stamp_limit());
        }
    }));
    database.flush().unwrap();
    storage.clear_on_operation();
    assert_eq!(*seen.lock(), [before]);
    assert!(core.pages.stamp_limit() > before);
}
