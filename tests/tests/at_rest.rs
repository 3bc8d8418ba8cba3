//! The file at rest beside a clean copy of what it holds: at most a quarter longer, whatever was
//! done to it before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::access;
use sapwood::storage::{MemoryStorage, Storage};
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Durability, Keyspace};

/// Pairs of each load: enough that header, maps and the smallest log count for little.
const PAIRS: u64 = 150_000;

fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(random: &mut Random) -> [u8; 100] {
    let mut value = [b'v'; 100];
    random.fill(&mut value[..50]);
    value
}

fn put(keyspace: &Keyspace, random: &mut Random, number: u64) {
    keyspace.put(key(number), value(random)).unwrap();
}

/// Does something to a new database, waits until it is at rest, and compares.
fn compare(what: &str, act: impl FnOnce(&Database, &Keyspace, &mut Random)) {
    let storage = Arc::new(MemoryStorage::new());
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
    let database = builder.durability(Durability::Memory).open_on(Arc::clone(&storage) as _);
    let database = database.unwrap();
    let keyspace = database.keyspace("a").unwrap();
    act(&database, &keyspace, &mut Random::from_seed(11));
    compare_at_rest(what, &database, || storage.length().unwrap());
}

fn compare_at_rest(what: &str, database: &Database, length: impl FnOnce() -> u64) {
    database.wait_until_idle().unwrap();
    assert_eq!(access::verify(database).unwrap(), None, "{what}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    database.compact_to(&path, &mut ()).unwrap();
    let (at_rest, copy) = (length(), path.metadata().unwrap().len());
    println!("{what}: {at_rest} bytes at rest, {copy} in a copy");
    assert!(at_rest * 4 <= copy * 5, "{what}: {at_rest} bytes at rest, {copy} in a copy");
}

#[test]
fn after_a_load_in_random_order() {
    compare("random", |_, keyspace, random| {
        (0..PAIRS).for_each(|number| put(keyspace, random, number));
    });
}

#[test]
fn after_everything_was_overwritten_ten_times() {
    compare("overwritten", |_, keyspace, random| {
        for _ in 0..10 {
            (0..PAIRS / 2).for_each(|number| put(keyspace, random, number));
        }
    });
}

#[test]
fn after_nine_tenths_were_deleted_one_by_one() {
    compare("deleted", |database, keyspace, random| {
        (0..PAIRS * 5).for_each(|number| put(keyspace, random, number));
        database.wait_until_idle().unwrap();
        for number in (0..PAIRS * 5).filter(|number| number % 10 != 0) {
            keyspace.delete(key(number)).unwrap();
        }
    });
}

#[test]
fn after_nine_tenths_were_deleted_by_ranges() {
    compare("ranges deleted", |database, keyspace, random| {
        (0..PAIRS * 5).for_each(|number| put(keyspace, random, number));
        database.wait_until_idle().unwrap();
        for tenth in 0..10 {
            let from = |part: u64| (u64::MAX / 100 * (tenth * 10 + part)).to_be_bytes();
            keyspace.delete_range(from(1)..from(10)).unwrap();
        }
    });
}

/// A little comes to everywhere, again and again, with a pause after each: no merge gets much.
#[test]
fn after_many_small_loads_with_pauses() {
    compare("small loads", |database, keyspace, random| {
        (0..PAIRS).for_each(|number| put(keyspace, random, number));
        for round in 0..20 {
            database.wait_until_idle().unwrap();
            let first = PAIRS + round * PAIRS / 100;
            (first..first + PAIRS / 100).for_each(|number| put(keyspace, random, number));
        }
    });
}

/// Loads pairs in the order of their keys, and then deletes some in rounds, with a pause after
/// each.
fn delete_in_rounds(what: &str, rounds: u64, goes: impl Fn(u64, u64) -> bool) {
    compare(what, |database, keyspace, random| {
        let key = |number: u64| number.to_be_bytes();
        for number in 0..PAIRS {
            keyspace.put(key(number), value(random)).unwrap();
        }
        for round in 0..rounds {
            database.wait_until_idle().unwrap();
            for number in (0..PAIRS).filter(|number| goes(round, *number)) {
                keyspace.delete(key(number)).unwrap();
            }
        }
    });
}

/// Each round takes two fifths of every eighth leaf or so, and leaves its neighbours as they are.
#[test]
fn after_parts_of_a_leaf_here_and_there_were_deleted_with_pauses() {
    delete_in_rounds("parts of leaves deleted", 8, |round, number| {
        number / 70 % 8 == round && number % 70 < 28
    });
}

/// Nearly all of every second leaf, and then nearly all of the others.
#[test]
fn after_nearly_all_of_each_leaf_was_deleted_with_pauses() {
    delete_in_rounds("leaves nearly emptied", 4, |round, number| {
        number / 70 % 4 == round && number % 70 != 7
    });
}

/// The same, and the file is closed before it comes to rest: the next process goes on where this
/// one was. `by_crash` without a close.
fn packs_after_a_reopen(by_crash: bool) {
    let open = |storage: &Arc<MemoryStorage>| {
        let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
        builder.durability(Durability::Buffered).open_on(Arc::clone(storage) as _).unwrap()
    };
    let mut storage = Arc::new(MemoryStorage::new());
    let mut random = Random::from_seed(11);
    let mut database = open(&storage);
    let mut keyspace = database.keyspace("a").unwrap();
    for number in 0..PAIRS {
        keyspace.put(number.to_be_bytes(), value(&mut random)).unwrap();
    }
    for round in 0..8 {
        database.wait_until_idle().unwrap();
        // A snapshot is in the way of packing, not of merging.
        let snapshot = database.snapshot().unwrap();
        for number in (0..PAIRS).filter(|n| n / 70 % 8 == round && n % 70 < 28) {
            keyspace.delete(number.to_be_bytes()).unwrap();
        }
        database.wait_until_idle().unwrap();
        drop(snapshot);
        if by_crash {
            database.flush().unwrap();
            storage = Arc::new(MemoryStorage::from_image(&storage.image()));
        } else {
            database.close().unwrap();
        }
        drop(keyspace);
        database = open(&storage);
        keyspace = database.keyspace("a").unwrap();
    }
    compare_at_rest("reopened", &database, || storage.length().unwrap());
}

#[test]
fn what_was_not_packed_before_a_close_is_packed_after_the_open() {
    packs_after_a_reopen(false);
}

#[test]
fn what_was_not_packed_before_a_crash_is_packed_after_the_open() {
    packs_after_a_reopen(true);
}

/// What was looked at is not looked at again: an open of a file at rest, or of a copy, in which all
/// leaves are full, writes nothing.
#[test]
fn a_file_at_rest_and_a_copy_are_not_written_by_an_open() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("database"), folder.path().join("copy"));
    let open = |path| Database::builder().memory_budget(8 << 20).merge_threads(0).open(path);
    let database = open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(11);
    for number in 0..PAIRS / 5 {
        keyspace.put(number.to_be_bytes(), value(&mut random)).unwrap();
    }
    database.wait_until_idle().unwrap();
    for number in (0..PAIRS / 5).filter(|n| n / 70 % 8 == 3 && n % 70 < 28) {
        keyspace.delete(number.to_be_bytes()).unwrap();
    }
    database.wait_until_idle().unwrap();
    database.compact_to(&copy, &mut ()).unwrap();
    database.close().unwrap();
    for path in [&path, &copy] {
        let before = std::fs::read(path).unwrap();
        let database = open(path).unwrap();
        database.wait_until_idle().unwrap();
        database.close().unwrap();
        assert!(std::fs::read(path).unwrap() == before, "{} was written", path.display());
    }
}

/// Keys go at random, a few of each leaf at a time.
#[test]
fn after_random_keys_were_deleted_with_pauses() {
    delete_in_rounds("random keys deleted", 20, |round, number| {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 & 63 == round
    });
}

/// The same with values that are compressed to a half: what is left of a leaf takes as many pages
/// plain, and fewer beside others.
#[test]
fn after_parts_of_leaves_that_are_compressed_were_deleted_with_pauses() {
    compare("parts of compressed leaves deleted", |database, keyspace, random| {
        let key = |number: u64| number.to_be_bytes();
        for number in 0..PAIRS {
            let mut value = [b'v'; 300];
            random.fill(&mut value[..130]);
            keyspace.put(key(number), value).unwrap();
        }
        for round in 0..8 {
            database.wait_until_idle().unwrap();
            for number in (0..PAIRS).filter(|n| n / 70 % 8 == round && n % 35 < 17) {
                keyspace.delete(key(number)).unwrap();
            }
        }
    });
}

/// Of values of 2,600 bytes three fit into a leaf, which is nearly full, and of 2,200 bytes, too,
/// which is not: neither is written anew because a few others are.
#[test]
fn leaves_that_cannot_be_fuller_are_left_as_they_are() {
    for bytes in [[2_200; 10], [2_600; 10], [100, 5_000, 100, 100, 100, 100, 100, 5_000, 100, 100]]
    {
        let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
        let database = builder.durability(Durability::Memory).open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(3);
        let mut put = |number: u64| {
            let mut value = vec![0; bytes[(number / 7 % 10) as usize]];
            random.fill(&mut value);
            keyspace.put(key(number), value).unwrap();
        };
        (0..10_000).for_each(&mut put);
        database.wait_until_idle().unwrap();
        let written = || database.stats().unwrap().written.total();
        let file = database.stats().unwrap().file_bytes;
        let before = written();
        database.wait_until_idle().unwrap();
        assert_eq!(written(), before, "at rest nothing is written");
        (0..10_000).step_by(500).for_each(&mut put);
        database.wait_until_idle().unwrap();
        let more = written() - before;
        println!("{bytes:?}: {more} bytes of {file}");
        assert!(more < file / 16 * 3, "{more} bytes were written for 20 pairs, of {file}");
    }
}

#[test]
fn after_values_of_every_size_were_written_over() {
    compare("values of every size", |_, keyspace, random| {
        for _ in 0..6 {
            for number in 0..2_000 {
                let mut value = vec![0; random.below(20_000) as usize];
                random.fill(&mut value);
                keyspace.put(key(number), value).unwrap();
            }
        }
    });
}

/// The promise is for the default settings: the budget, the threads, a file; and here everything
/// fits into memory before it is flushed.
#[test]
fn with_the_default_options_on_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let database = Database::open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(12);
    let mut load = |from: u64, to: u64| {
        for first in (from..to).step_by(1000) {
            let mut batch = database.batch();
            for number in first..first + 1000 {
                batch.put(&keyspace, key(number), value(&mut random)).unwrap();
            }
            // A sync of each would be most of the time.
            batch.commit_with(Durability::Memory).unwrap();
        }
        database.flush().unwrap();
    };
    load(0, PAIRS);
    load(PAIRS / 2, PAIRS + PAIRS / 3);
    load(0, PAIRS / 3);
    keyspace.delete_range([0x40].as_slice()..[0x80].as_slice()).unwrap();
    compare_at_rest("default options", &database, || path.metadata().unwrap().len());
    database.close().unwrap();
}
