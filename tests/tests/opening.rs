//! What an open asks of the storage: counted in calls and bytes, so that time plays no part.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::counting::{Calls, CountingStorage};
use crash_lsm::opening::key;
use sapwood::storage::{CrashPlan, MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::{Arc, Random};
use sapwood::{Builder, Database, Durability};

/// The log is given back in blocks of so many bytes: an open reads from its cut, which lies
/// anywhere in the first one, to the end of the last.
const LOG_BLOCK_BYTES: u64 = 256 << 10;

fn builder() -> Builder {
    Database::builder().memory_budget(16 << 20).merge_threads(0)
}

fn put_pairs(database: &Database, pairs: u64) {
    let keyspace = database.keyspace("pairs").unwrap();
    let (mut random, mut value) = (Random::from_seed(1), vec![0; 100]);
    for start in (0..pairs).step_by(500) {
        let mut batch = database.batch();
        for number in start..pairs.min(start + 500) {
            random.fill(&mut value);
            batch.put(&keyspace, key(number), &value).unwrap();
        }
        batch.commit_with(Durability::Buffered).unwrap();
    }
}

/// What an open of a database of so many pairs asks for, after a clean close; and how long its file
/// is.
fn open_after_close(builder: Builder, pairs: u64) -> (Calls, u64) {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder.clone().open_on(storage.clone()).unwrap();
    put_pairs(&database, pairs);
    database.wait_until_idle().unwrap();
    database.close().unwrap();
    let counting = Arc::new(CountingStorage::new(storage.clone()));
    let database = builder.open_on(counting.clone()).unwrap();
    let calls = counting.calls();
    let keyspace = database.existing_keyspace("pairs").unwrap();
    assert_eq!(keyspace.get(key(pairs - 1)).unwrap().unwrap().len(), 100);
    assert!(counting.calls().since(&calls).reads > 0, "nothing had been read of the pairs");
    (calls, storage.length().unwrap())
}

#[test]
fn an_open_reads_the_same_for_two_hundred_thousand_pairs_as_for_ten_thousand() {
    let (few, few_bytes) = open_after_close(builder(), 10_000);
    let (many, many_bytes) = open_after_close(builder(), 200_000);
    assert!(many_bytes > 8 * few_bytes, "{few_bytes} and {many_bytes} bytes of file");
    assert_eq!((many.writes, many.syncs), (0, 0));
    assert!(many.reads <= few.reads + 1, "{few:?}, {many:?}");
    assert!(many.read_bytes <= few.read_bytes + LOG_BLOCK_BYTES, "{few:?}, {many:?}");
    assert!(many.read_bytes < 2 << 20, "{many:?}");
}

/// What does grow: a free map for each region, and its place in the state.
#[test]
fn an_open_reads_one_more_map_for_each_region_and_nothing_else() {
    let region_bytes = 1 << 20;
    let of = |pairs| {
        let (calls, file_bytes) = open_after_close(builder().region_bytes(region_bytes), pairs);
        (calls, file_bytes.div_ceil(region_bytes))
    };
    let (few, few_regions) = of(20_000);
    let (many, many_regions) = of(200_000);
    let more_regions = many_regions - few_regions;
    assert!(more_regions > 10, "{few_regions} and {many_regions} regions");
    let more_reads = many.reads.saturating_sub(few.reads);
    let more_bytes = many.read_bytes.saturating_sub(few.read_bytes);
    assert!((more_regions..=more_regions + 2).contains(&more_reads), "{few:?}, {many:?}");
    // A map of 256 pages fits into one page.
    assert!(more_bytes <= more_regions * 4096 + LOG_BLOCK_BYTES, "{few:?}, {many:?}");
}

#[test]
fn an_open_after_a_kill_reads_the_log_once_and_none_of_the_pairs_before_it() {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    put_pairs(&database, 50_000);
    database.wait_until_idle().unwrap();
    let keyspace = database.existing_keyspace("pairs").unwrap();
    for number in 0..5000u64 {
        let mut batch = database.batch();
        batch.put(&keyspace, key(number), vec![b'v'; 200]).unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
    }
    let left = storage.crash_copy(CrashPlan::KeepAll);
    drop((keyspace, database));
    let counting = Arc::new(CountingStorage::new(Arc::new(left)));
    let database = builder().open_on(counting.clone()).unwrap();
    let calls = counting.calls();
    let log_bytes = database.stats().unwrap().log.unflushed_bytes;
    assert!(log_bytes > 5000 * 200, "{log_bytes} bytes of log");
    assert_eq!((calls.writes, calls.syncs), (0, 0));
    assert!(calls.read_bytes >= log_bytes, "{calls:?}");
    // Besides the log: what an open reads in any case.
    assert!(calls.read_bytes < log_bytes + (2 << 20), "{calls:?}, {log_bytes} bytes of log");
}
