//! The memory budget: the parts that the engine counts stay within it, whatever is done.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "memory/held_by_application.rs"]
mod held_by_application;
#[path = "memory/many_keys.rs"]
mod many_keys;
#[path = "memory/open_transactions.rs"]
mod open_transactions;
#[path = "memory/process.rs"]
#[cfg(target_os = "linux")]
mod process;
#[path = "memory/range_tombstones.rs"]
mod range_tombstones;
#[path = "memory/states.rs"]
mod states;
#[path = "memory/young_filters.rs"]
mod young_filters;

use crash_lsm::setup::{BUDGET_BYTES_MIN, Setup};
use sapwood::page::NodeKind;
use sapwood::sync::Random;
use sapwood::{Compression, Database, Durability, Isolation, Keyspace, KeyspaceOptions};

fn open() -> (Database, Keyspace) {
    let setup = Setup { region_bytes: 8 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

fn counted_bytes(database: &Database) -> u64 {
    let memory = database.stats().unwrap().memory;
    memory.memtables
        + memory.cache
        + memory.filters
        + memory.merge_buffers
        + memory.compression
        + memory.free_maps
        + memory.read_sets
        + memory.pending_writes
        + memory.dead_lists
        + memory.states
        + memory.other
}

/// The budget, and a fifth of it on top.
const LIMIT_BYTES: u64 = BUDGET_BYTES_MIN + BUDGET_BYTES_MIN / 5;

#[test]
fn writing_ten_times_the_budget_stays_within_it() {
    let (database, keyspace) = open();
    let mut random = Random::from_seed(1);
    let (mut most, mut written, mut then) = (0, 0, String::new());
    while written < 10 * BUDGET_BYTES_MIN {
        let mut batch = database.batch();
        for _ in 0..50 {
            let mut value = vec![0; 200 + random.below(400) as usize];
            random.fill(&mut value);
            written += value.len() as u64;
            batch.put(&keyspace, random.next_u64().to_be_bytes(), value).unwrap();
        }
        batch.commit_with(Durability::Memory).unwrap();
        let now = counted_bytes(&database);
        if now > most {
            (most, then) = (now, format!("{:?}", database.stats().unwrap().memory));
        }
    }
    assert!(most <= LIMIT_BYTES, "{most} of {BUDGET_BYTES_MIN} bytes: {then}");
}

#[test]
fn scans_gets_snapshots_and_cursors_stay_within_the_budget() {
    let (database, keyspace) = open();
    let mut random = Random::from_seed(2);
    for _ in 0..30_000 {
        keyspace.put(random.next_u64().to_be_bytes(), vec![b'v'; 300]).unwrap();
    }
    let snapshots: Vec<_> = (0..100)
        .map(|n: u64| {
            keyspace.put(n.to_be_bytes(), "v").unwrap();
            database.snapshot().unwrap()
        })
        .collect();
    let mut cursors: Vec<_> = (0..50).map(|_| keyspace.cursor().unwrap()).collect();
    let mut most = 0;
    for cursor in &mut cursors {
        cursor.first().unwrap();
        for _ in 0..500 {
            cursor.next().unwrap();
        }
        most = most.max(counted_bytes(&database));
    }
    assert_eq!(keyspace.iter().unwrap().count(), 30_100);
    for _ in 0..2000 {
        keyspace.get(random.next_u64().to_be_bytes()).unwrap();
    }
    most = most.max(counted_bytes(&database));
    assert!(
        most <= LIMIT_BYTES,
        "{most} of {BUDGET_BYTES_MIN} bytes: {}",
        database.stats().unwrap()
    );
    drop(snapshots);
}

#[test]
fn read_sets_of_serializable_transactions_stay_within_the_budget() {
    let (database, keyspace) = open();
    for n in 0..20_000u64 {
        keyspace.put(n.to_be_bytes(), "v").unwrap();
    }
    let mut random = Random::from_seed(3);
    let transaction = database.begin(Isolation::Serializable).unwrap();
    let mut most = 0;
    for round in 0..60_000u64 {
        let mut key = random.next_u64().to_be_bytes().to_vec();
        key.resize(200, b'k');
        transaction.get(&keyspace, &key).unwrap();
        if round % 5000 == 0 {
            most = most.max(counted_bytes(&database));
        }
    }
    most = most.max(counted_bytes(&database));
    transaction.rollback();
    assert!(most <= LIMIT_BYTES, "{most} of {BUDGET_BYTES_MIN} bytes");
}

#[test]
fn a_transaction_larger_than_the_budget_is_committed_whole() {
    const COUNT: u64 = 20_000;
    let (database, keyspace) = open();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut most = 0;
    for number in 0..COUNT {
        transaction.put(&keyspace, number.to_be_bytes(), vec![b'v'; 1000]).unwrap();
        if number % 100 == 0 {
            most = most.max(counted_bytes(&database));
        }
    }
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0);
    transaction.commit().unwrap();
    most = most.max(counted_bytes(&database));
    assert!(most <= LIMIT_BYTES, "{most} of {BUDGET_BYTES_MIN} bytes");
    for (pair, number) in keyspace.iter().unwrap().zip(0..) {
        assert_eq!(
            pair.unwrap(),
            (u64::to_be_bytes(number).as_slice().into(), vec![b'v'; 1000].into())
        );
    }
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), COUNT);
}

#[test]
fn compression_contexts_count_for_a_database_that_uses_them() {
    let counted = |compression| {
        let setup = Setup { leaf_bytes: 8192, region_bytes: 8 << 20, ..Setup::tiny() };
        let database = setup.builder().open_in_memory().unwrap();
        let options = KeyspaceOptions::default().compression(compression);
        let keyspace = database.keyspace_with("a", options).unwrap();
        for number in 0..2000_u32 {
            keyspace.put(number.to_be_bytes(), [7; 50]).unwrap();
        }
        database.compact().unwrap();
        // A database of another test may use the same contexts in between.
        let bytes = (0..500_u32).map(|number| {
            database.core().unwrap().pages.cache().clear();
            assert!(keyspace.get(number.to_be_bytes()).unwrap().is_some());
            database.stats().unwrap().memory.compression
        });
        bytes.max().unwrap()
    };
    assert_eq!(counted(Compression::None), 0);
    let bytes = counted(Compression::Zstd(1));
    assert!(bytes > 10_000, "{bytes} bytes");
}

/// Walks once over everything must not drive out what is read again and again.
#[test]
fn one_walk_over_everything_takes_little_of_the_cache_and_a_second_keeps_what_it_meets() {
    let builder = Database::builder().merge_threads(0).memory_budget(BUDGET_BYTES_MIN);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(5);
    for number in 0..8_000_u32 {
        let mut value = vec![0; 100];
        random.fill(&mut value);
        keyspace.put(number.to_be_bytes(), value).unwrap();
    }
    database.compact().unwrap();
    let cached_bytes = || database.stats().unwrap().memory.cache;
    let cache = |walk: &dyn Fn() -> usize| {
        database.core().unwrap().pages.cache().clear();
        let first = (walk(), cached_bytes());
        (first, (walk(), cached_bytes()))
    };
    let forward = || keyspace.iter().unwrap().map(Result::unwrap).count();
    let backward = || keyspace.iter().unwrap().rev().map(Result::unwrap).count();
    let count = || usize::try_from(keyspace.count::<&[u8]>(..).unwrap()).unwrap();
    for walk in [&forward as &dyn Fn() -> usize, &backward, &count] {
        let ((first, little), (second, much)) = cache(walk);
        assert_eq!((first, second), (8_000, 8_000));
        assert!(little < 200_000 && much > 500_000, "{little} and {much} bytes are cached");
    }
    // Short walks keep what they read, as gets do.
    database.core().unwrap().pages.cache().clear();
    for number in (0..8_000_u32).step_by(50) {
        assert_eq!(keyspace.range(number.to_be_bytes()..).unwrap().take(3).count(), 3);
    }
    assert!(cached_bytes() > 500_000, "{} bytes are cached", cached_bytes());
}

/// What leads to leaves stays, however many leaves are read between two uses of it.
#[test]
fn a_lookup_reads_its_leaf_alone_while_parents_take_less_than_half_of_the_cache() {
    let (database, keyspace) = open();
    let mut random = Random::from_seed(6);
    for number in 0..40_000_u32 {
        let mut value = vec![0; 200];
        random.fill(&mut value);
        keyspace.put(number.to_be_bytes(), value).unwrap();
    }
    database.compact().unwrap();
    let pages = database.core().unwrap().pages.clone();
    let read = || {
        let of = |kind: NodeKind| pages.counters().nodes_read[kind.index()];
        (of(NodeKind::Leaf), of(NodeKind::Parent) + of(NodeKind::FilterPiece))
    };
    // In the order of keys: all leaves lie between two uses of a lowest parent.
    let look_at_all = || {
        for number in (0..40_000_u32).step_by(4) {
            assert!(keyspace.get(number.to_be_bytes()).unwrap().is_some());
        }
    };
    look_at_all();
    let before = read();
    look_at_all();
    let (leaves, others) = (read().0 - before.0, read().1 - before.1);
    assert!(leaves > 5_000, "the leaves do not fit: {leaves}");
    assert_eq!(others, 0);
    let memory = database.stats().unwrap().memory;
    assert!(memory.pinned_parents > 0 && memory.pinned_parents < memory.cache / 2, "{memory:?}");
}
