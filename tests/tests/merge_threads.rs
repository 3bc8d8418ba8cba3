//! Merge threads beside one another and beside writers: what is planned in one state is done in a
//! later one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use crash_lsm::access;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Mutex, Random, thread};
use sapwood::{Database, Durability};

/// Small leaves and steps, so that flushes and promotions of two threads meet in one tree often.
#[test]
fn threads_that_flush_and_promote_in_one_tree_lose_nothing_and_find_no_damage() {
    for seed in 0..3 {
        let builder = Database::builder().memory_budget(4 << 20).merge_threads(2).leaf_bytes(1024);
        let builder = builder.page_size(1024).region_bytes(1 << 20).step_bytes(256 << 10);
        let builder = builder.durability(Durability::Buffered);
        let database = builder.open_on(Arc::new(MemoryStorage::new())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(seed);
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for round in 0..2 {
            for _ in 0..8000 {
                let key = random.next_u64().to_be_bytes();
                let mut value = vec![0; random.below(2000) as usize];
                random.fill(&mut value);
                keyspace.put(key, &value).unwrap();
                pairs.insert(key.to_vec(), value);
            }
            let keys: Vec<Vec<u8>> = pairs.keys().cloned().collect();
            for key in keys.iter().filter(|_| random.below(3) > 0) {
                keyspace.delete(key).unwrap();
                pairs.remove(key);
            }
            database.wait_until_idle().unwrap();
            let mut found = keyspace.iter().unwrap();
            for (key, value) in &pairs {
                let (k, v) = found.next().expect("a pair is missing").unwrap();
                assert!(k.as_slice() == key && v.as_slice() == value, "seed {seed}, round {round}");
            }
            assert!(found.next().is_none(), "seed {seed}, round {round}: there are more");
            assert_eq!(access::verify(&database).unwrap(), None, "seed {seed}, round {round}");
        }
    }
}

/// What the debt was at its worst.
#[derive(Default)]
struct Worst {
    memory: f64,
    young: f64,
}

/// Writers that commit as much at once as they may, each as often; returns the worst debt.
fn write_beside_one_another(database: &Database, writers: u64, commits: u64, puts: u64) -> Worst {
    let worst = Arc::new(Mutex::new(Worst::default()));
    let threads: Vec<_> = (0..writers)
        .map(|writer| {
            let (database, worst) = (database.clone(), worst.clone());
            thread::spawn("writer", move || {
                let keyspace = database.keyspace("a").unwrap();
                let mut random = Random::from_seed(writer);
                for _ in 0..commits {
                    let mut batch = database.batch();
                    for _ in 0..puts {
                        let mut value = vec![0; 1000];
                        random.fill(&mut value);
                        batch.put(&keyspace, random.next_u64().to_be_bytes(), value).unwrap();
                    }
                    batch.commit().unwrap();
                    let debt = database.stats().unwrap().debt;
                    let mut worst = worst.lock();
                    worst.memory = worst.memory.max(debt.memory);
                    worst.young = worst.young.max(debt.young);
                }
            })
            .unwrap()
        })
        .collect();
    threads.into_iter().for_each(|writer| writer.join().unwrap());
    Arc::into_inner(worst).unwrap().into_inner()
}

fn small(merge_threads: usize, budget: u64) -> Database {
    let builder = Database::builder().memory_budget(budget).merge_threads(merge_threads);
    let builder = builder.page_size(1024).region_bytes(8 << 20).step_bytes(64 << 10);
    let builder = builder.durability(Durability::Buffered);
    let database = builder.open_in_memory().unwrap();
    database.keyspace("a").unwrap();
    database
}

/// Each step lets in what it takes away, however many wait for it.
#[test]
fn what_waits_to_be_merged_is_bounded_however_many_bring_much() {
    for merge_threads in [1, 0] {
        let database = small(merge_threads, 4 << 20);
        // Beside what the debt allows, what was in memory when it was reached.
        let worst = write_beside_one_another(&database, 8, 20, 250);
        assert!(worst.young < 3.0, "{merge_threads} threads: {}", worst.young);
        database.wait_until_idle().unwrap();
        assert_eq!(database.keyspace("a").unwrap().count::<&[u8]>(..).unwrap(), 8 * 20 * 250);
    }
}

/// There was room for one when all of them were let in.
#[test]
fn memtables_are_bounded_however_many_bring_much_at_once() {
    for merge_threads in [1, 0] {
        let database = small(merge_threads, 32 << 20);
        let worst = write_beside_one_another(&database, 12, 2, 4000);
        // Three memtables, and what the last of them takes more than its bytes were.
        assert!(worst.memory < 2.5, "{merge_threads} threads: {}", worst.memory);
    }
}

/// A durable state makes room for one of them, and others take it: that is no failure.
#[test]
fn many_who_find_no_room_in_the_log_at_once_are_all_let_in() {
    let database = small(1, 4 << 20);
    write_beside_one_another(&database, 16, 3, 850);
    assert_eq!(database.keyspace("a").unwrap().count::<&[u8]>(..).unwrap(), 16 * 3 * 850);
}

/// Each commit makes or awaits a step until a durable state has passed what the log names.
#[test]
fn what_the_log_names_is_bounded_however_many_bring_large_values() {
    for merge_threads in [2, 0] {
        let database = small(merge_threads, 16 << 20);
        let core = database.core().unwrap();
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let (core, database) = (core.clone(), database.clone());
                thread::spawn("writer", move || {
                    let keyspace = database.keyspace("a").unwrap();
                    let mut random = Random::from_seed(writer);
                    let (mut value, mut most_named) = (vec![0; 128 << 10], 0);
                    for turn in 0..150u64 {
                        random.fill(&mut value);
                        keyspace.put([writer as u8, turn as u8 % 4], &value).unwrap();
                        for _ in 0..60 {
                            let key = random.next_u64().to_be_bytes();
                            keyspace.put(key, &value[..200]).unwrap();
                        }
                        most_named = most_named.max(core.log_named.pages() * 1024);
                    }
                    most_named
                })
                .unwrap()
            })
            .collect();
        let most_named = writers.into_iter().map(|writer| writer.join().unwrap()).max().unwrap();
        // From 4 MiB on they wait; beside that, what memtables take while they are flushed.
        assert!(most_named < 16 << 20, "{merge_threads} threads: {most_named} bytes");
        database.wait_until_idle().unwrap();
        let count = database.keyspace("a").unwrap().count::<&[u8]>(..).unwrap();
        assert_eq!(count, 4 * 4 + 4 * 150 * 60);
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}
