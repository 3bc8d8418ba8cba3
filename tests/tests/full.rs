//! A full device and a file at its limit: nothing acknowledged is lost, deletions and merges go on
//! in the reserve, and when space is free again everything does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crash_lsm::access;
use sapwood::storage::{CrashPlan, MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Builder, Database, Durability, Error, Isolation, Keyspace, Result, Transaction};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

const RESERVE_BYTES: u64 = 1800 << 10;

fn builder() -> Builder {
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0).leaf_bytes(1024);
    let builder = builder.page_size(1024).region_bytes(1 << 20).step_bytes(256 << 10);
    builder.durability(Durability::Buffered).reserve_bytes(RESERVE_BYTES)
}

fn random_value(random: &mut Random, bytes: u64) -> Vec<u8> {
    let mut value = vec![0; bytes as usize];
    random.fill(&mut value);
    value
}

/// Puts, small and large, until there is no space; the error.
fn fill(keyspace: &Keyspace, pairs: &mut Pairs, random: &mut Random) -> Error {
    for n in 0.. {
        assert!(n < 50_000, "it is never full");
        let key = random.next_u64().to_be_bytes();
        let bytes = match random.below(100) {
            0 => 100_000,
            1..=4 => 20_000,
            _ => random.below(2000),
        };
        let value = random_value(random, bytes);
        match keyspace.put(key, &value) {
            Ok(()) => drop(pairs.insert(key.to_vec(), value)),
            Err(error) => return error,
        }
    }
    unreachable!()
}

fn check(keyspace: &Keyspace, pairs: &Pairs, when: &str) {
    let mut found = keyspace.iter().unwrap();
    for (key, value) in pairs {
        let (k, v) = found.next().unwrap_or_else(|| panic!("{when}: a pair is missing")).unwrap();
        assert!(k.as_slice() == key && v.as_slice() == value, "{when}");
    }
    assert!(found.next().is_none(), "{when}: there are more");
}

/// Deletes two thirds of the keys, one by one.
fn delete_most(keyspace: &Keyspace, pairs: &mut Pairs, random: &mut Random) {
    let keys: Vec<Vec<u8>> = pairs.keys().cloned().collect();
    for key in keys {
        if random.below(3) > 0 {
            keyspace.delete(&key).unwrap();
            pairs.remove(&key);
        }
    }
}

/// What must hold when a database is full: see the module.
fn be_full_and_go_on(database: &Database, keyspace: &Keyspace, pairs: &mut Pairs, seed: u64) {
    let mut random = Random::from_seed(seed);
    for round in 0..3 {
        let when = format!("seed {seed}, round {round}");
        let before = pairs.len();
        let error = fill(keyspace, pairs, &mut random);
        assert!(matches!(error, Error::NoSpace { .. }), "{when}: {error}");
        let more = pairs.len() - before;
        assert!(more > 50 || round == 0, "{when}: only {more} fit");
        check(keyspace, pairs, &when);
        delete_most(keyspace, pairs, &mut random);
        check(keyspace, pairs, &when);
        database.wait_until_idle().unwrap();
        check(keyspace, pairs, &when);
        assert_eq!(access::verify(database).unwrap(), None, "{when}");
    }
}

#[test]
fn at_the_limit_of_the_file_writes_fail_deletions_free_space_and_writes_go_on() {
    for (seed, limit) in [(1, 8 << 20), (2, 12 << 20), (3, 9_999_999_u64)] {
        let storage = Arc::new(MemoryStorage::new());
        let database = builder().max_file_bytes(limit).open_on(storage.clone()).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut pairs = Pairs::new();
        let error = fill(&keyspace, &mut pairs, &mut Random::from_seed(seed + 10));
        assert!(error.to_string().contains(&format!("max_file_bytes is {limit}")), "{error}");
        be_full_and_go_on(&database, &keyspace, &mut pairs, seed);
        assert!(storage.length().unwrap() <= limit);
        database.close().unwrap();
        let database = builder().open_on(storage).unwrap();
        check(&database.keyspace("a").unwrap(), &pairs, "after a reopen");
    }
}

/// Nobody puts anything again, and nobody waits for quiet: what steps find to do is all that is
/// done.
#[test]
fn a_file_that_was_full_shrinks_when_it_was_emptied_and_nobody_writes_again() {
    let storage = Arc::new(MemoryStorage::new());
    let (clock, hand) = Clock::fake();
    let builder = builder().clock(clock).max_file_bytes(8 << 20);
    let database = builder.open_on(storage.clone()).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut pairs = Pairs::new();
    let error = fill(&keyspace, &mut pairs, &mut Random::from_seed(20));
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let full = storage.length().unwrap();
    keyspace.delete_range::<&[u8]>(..).unwrap();
    hand.advance(Duration::from_secs(60));
    let mut steps = 0;
    while database.run_step().unwrap() {
        steps += 1;
        assert!(steps < 10_000, "it never comes to rest");
    }
    let rest = storage.length().unwrap();
    assert!(rest < full / 2, "{rest} of {full} bytes are left");
    assert!(!database.core().unwrap().reserve.is_short());
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// The same with the default options in small files, of which the reserve is most, or where more is
/// left than there is plenty beside: space may stay short, and the file is short all the same.
#[test]
fn a_small_file_that_was_full_rests_at_little_more_than_what_is_left_in_it() {
    for (limit, left_bytes) in [(4 << 20, 0), (8 << 20, 2 << 20), (16 << 20, 5 << 20_u64)] {
        for scattered in [false, true] {
            let at = format!("{left_bytes} of {limit} bytes are left, scattered: {scattered}");
            let storage = Arc::new(MemoryStorage::new());
            let (clock, hand) = Clock::fake();
            let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
            let builder = builder.durability(Durability::Buffered).max_file_bytes(limit);
            let database = builder.clock(clock).open_on(storage.clone()).unwrap();
            let keyspace = database.keyspace("a").unwrap();
            let mut pairs = Pairs::new();
            let error = fill(&keyspace, &mut pairs, &mut Random::from_seed(21));
            assert!(matches!(error, Error::NoSpace { .. }), "{at}: {error}");
            let held = |pairs: &Pairs| pairs.values().map(Vec::len).sum::<usize>() as u64;
            let mut random = Random::from_seed(22);
            while held(&pairs) > left_bytes {
                let key = match scattered {
                    true => {
                        let next = pairs.range(random.next_u64().to_be_bytes().to_vec()..).next();
                        next.or_else(|| pairs.first_key_value()).unwrap().0.clone()
                    }
                    false => pairs.first_key_value().unwrap().0.clone(),
                };
                keyspace.delete(&key).unwrap();
                pairs.remove(&key);
            }
            hand.advance(Duration::from_secs(60));
            let mut steps = 0;
            while database.run_step().unwrap() {
                steps += 1;
                assert!(steps < 10_000, "{at}: it never comes to rest");
            }
            check(&keyspace, &pairs, &at);
            let report = database.verify(&mut ()).unwrap();
            assert!(report.is_clean(), "{at}: {report}");
            let live = report.live_pages * u64::from(report.page_size);
            let rest = storage.length().unwrap();
            println!("{at}: {live} live, {rest} in the file");
            assert!(rest <= live + live / 4 + (2 << 20), "{at}: {live} live, {rest} in the file");
        }
    }
}

#[test]
fn a_full_device_is_emptied_and_filled_again_and_a_crash_loses_nothing() {
    for seed in 0..3 {
        let storage = SimulatedStorage::new();
        let database = builder().open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        storage.set_capacity((6 << 20) + seed * 777_777);
        let mut pairs = Pairs::new();
        be_full_and_go_on(&database, &keyspace, &mut pairs, seed);
        let _ = fill(&keyspace, &mut pairs, &mut Random::from_seed(seed));
        database.sync().unwrap();
        let crashed = storage.crash_copy(CrashPlan::KeepNone);
        let database = builder().open_on(Arc::new(crashed)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        check(&keyspace, &pairs, "after a crash");
        delete_most(&keyspace, &mut pairs, &mut Random::from_seed(seed));
        database.wait_until_idle().unwrap();
        keyspace.put("k", vec![1; 30_000]).unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

/// The device is full from one moment on, wherever that falls.
#[test]
fn a_device_that_is_full_at_any_moment_loses_nothing() {
    for at in (0..60).map(|n| n * 13) {
        let storage = SimulatedStorage::new();
        let database = builder().open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(at);
        let mut pairs = Pairs::new();
        for n in 0..800 {
            if n == at {
                storage.set_capacity(storage.length().unwrap());
            }
            let key = random.below(600).to_be_bytes();
            let length = random.below(3000);
            let value = random_value(&mut random, length);
            match keyspace.put(key, &value) {
                Ok(()) => drop(pairs.insert(key.to_vec(), value)),
                Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{at}: {error}"),
            }
            if n % 90 == 17 {
                match database.wait_until_idle() {
                    Ok(()) | Err(Error::NoSpace { .. }) => {}
                    Err(error) => panic!("{at}: {error}"),
                }
            }
        }
        check(&keyspace, &pairs, &format!("full from {at} on"));
        if at > 0 {
            delete_most(&keyspace, &mut pairs, &mut random);
            database.wait_until_idle().unwrap();
        }
        check(&keyspace, &pairs, &format!("full from {at} on, deleted"));
        assert_eq!(access::verify(&database).unwrap(), None, "{at}");
        storage.set_capacity(u64::MAX);
        keyspace.put("k", "v").unwrap();
        pairs.insert(b"k".to_vec(), b"v".to_vec());
        database.close().unwrap();
        let database = builder().open_on(Arc::new(storage)).unwrap();
        check(&database.keyspace("a").unwrap(), &pairs, &format!("full from {at} on, reopened"));
    }
}

/// F3: the file that is closed keeps its reserve, so that it can be emptied by who opens it on a
/// device that has become full meanwhile.
#[test]
fn a_file_that_was_closed_has_its_reserve_still() {
    let storage = SimulatedStorage::new();
    let mut pairs = Pairs::new();
    let mut random = Random::from_seed(4);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..2000_u64 {
        let value = random_value(&mut random, 1000);
        keyspace.put(n.to_be_bytes(), &value).unwrap();
        pairs.insert(n.to_be_bytes().to_vec(), value);
    }
    database.wait_until_idle().unwrap();
    database.close().unwrap();
    storage.set_capacity(storage.length().unwrap());
    let database = builder().open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    delete_most(&keyspace, &mut pairs, &mut random);
    database.wait_until_idle().unwrap();
    keyspace.put("k", vec![1; 500_000]).unwrap();
    check_without(&keyspace, &pairs, b"k");
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// F3: with the option unset a small file at rest keeps an eighth of its segments, which is less
/// than deletions need. When others have filled the device since, these are refused, by the error
/// that says so; nothing is lost, and they go on as soon as there is space.
#[test]
fn a_small_file_with_default_options_may_refuse_deletions_once_others_have_filled_the_device() {
    for closed in [true, false] {
        let storage = SimulatedStorage::new();
        let open = || {
            let builder = Database::builder().merge_threads(0).durability(Durability::Buffered);
            let database = builder.open_on(Arc::new(storage.clone())).unwrap();
            let keyspace = database.keyspace("a").unwrap();
            (database, keyspace)
        };
        let (mut pairs, mut random) = (Pairs::new(), Random::from_seed(5));
        let (mut database, mut keyspace) = open();
        for n in 0..2000_u64 {
            let value = random_value(&mut random, 1000);
            keyspace.put(n.to_be_bytes(), &value).unwrap();
            pairs.insert(n.to_be_bytes().to_vec(), value);
        }
        database.wait_until_idle().unwrap();
        if closed {
            drop(keyspace);
            database.close().unwrap();
            storage.set_capacity(storage.length().unwrap());
            (database, keyspace) = open();
        }
        storage.set_capacity(storage.length().unwrap());
        let keys: Vec<Vec<u8>> = pairs.keys().cloned().collect();
        let error = keyspace.delete(&keys[0]).unwrap_err();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert!(error.to_string().contains("no space"), "{error}");
        check(&keyspace, &pairs, "refused");
        // As much as a log of a few blocks and a reserve take.
        storage.set_capacity(storage.length().unwrap() + (4 << 20));
        for key in keys.iter().step_by(2) {
            keyspace.delete(key).unwrap();
            pairs.remove(key);
        }
        database.wait_until_idle().unwrap();
        check(&keyspace, &pairs, "deleted");
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

fn check_without(keyspace: &Keyspace, pairs: &Pairs, key: &[u8]) {
    let mut pairs = pairs.clone();
    pairs.insert(key.to_vec(), keyspace.get(key).unwrap().unwrap().to_vec());
    check(keyspace, &pairs, "with one more");
}

/// F1 for what is written before the commit: streams, and transactions larger than memory.
#[test]
fn streams_and_large_transactions_leave_the_reserve_alone() {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder().max_file_bytes(10 << 20).open_on(storage).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(8);
    let core = database.core().unwrap();
    let reserve_pages = RESERVE_BYTES / 1024;
    let large = random_value(&mut random, 20 << 20);
    let error = keyspace.put_stream("large", large.as_slice()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(core.pages.allocator().room_pages() >= reserve_pages);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let error = (0..20_000_u64).find_map(|n| {
        let value = random_value(&mut random, 1000);
        transaction.put(&keyspace, n.to_be_bytes(), value).err()
    });
    let error = match error {
        Some(error) => {
            drop(transaction);
            error
        }
        None => transaction.commit().unwrap_err(),
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    database.run_step().unwrap();
    let free = core.pages.allocator().room_pages();
    assert!(free >= reserve_pages / 2, "{free} of {reserve_pages} pages are left");
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0);
    keyspace.put("small", "v").unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

fn put_and_spill(transaction: &mut Transaction, keyspace: &Keyspace) -> Result<()> {
    transaction.put(keyspace, "put", [1; 5000])?;
    transaction.delete(keyspace, "absent")
}

/// It spills often enough for its pending segments to be merged: what holds deletions alone goes on
/// in the reserve, and what there is no room to merge is merged later. They asked for room as data
/// does, and were refused for ever.
#[test]
fn a_large_transaction_of_deletions_frees_space_at_the_limit_of_the_file() {
    for has_put in [false, true] {
        let storage = Arc::new(MemoryStorage::new());
        let database = builder().max_file_bytes(8 << 20).transaction_bytes(4096);
        let database = database.open_on(storage.clone()).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut pairs = Pairs::new();
        let mut random = Random::from_seed(5);
        fill(&keyspace, &mut pairs, &mut random);
        let mut keys: Vec<Vec<u8>> = pairs.keys().step_by(2).cloned().collect();
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        while has_put && put_and_spill(&mut transaction, &keyspace).is_err() {
            transaction.rollback();
            for key in keys.drain(..10) {
                keyspace.delete(&key).unwrap();
                pairs.remove(&key);
            }
            database.wait_until_idle().unwrap();
            transaction = database.begin(Isolation::Snapshot).unwrap();
        }
        for key in &keys {
            transaction.delete(&keyspace, key).unwrap();
            pairs.remove(key);
        }
        transaction.commit().unwrap();
        if has_put {
            pairs.insert(b"put".to_vec(), vec![1; 5000]);
        }
        check(&keyspace, &pairs, "many are deleted");
        database.wait_until_idle().unwrap();
        let before = pairs.len();
        fill(&keyspace, &mut pairs, &mut random);
        let more = pairs.len() - before;
        assert!(more > keys.len() / 3, "only {more} fit where {} were", keys.len());
        check(&keyspace, &pairs, "and others put");
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

/// Threads work, writers wait for them, and nobody waits for ever.
#[test]
fn writers_beside_merge_threads_get_the_error_and_go_on() {
    let storage = Arc::new(MemoryStorage::new());
    let threads = builder().merge_threads(2).max_file_bytes(8 << 20);
    let database = threads.open_on(storage).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    be_full_and_go_on(&database, &keyspace, &mut Pairs::new(), 5);
}

/// F5: with so many young segments a commit waits for a step; it has its place in the log, whether
/// the step finds space or not.
#[test]
fn a_commit_is_not_refused_because_the_step_that_it_waits_for_finds_no_space() {
    let storage = SimulatedStorage::new();
    let database = builder().reserve_bytes(0).open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(3);
    let mut pairs = Pairs::new();
    // The first flush finds nothing below, and is no young segment.
    for n in 0..21_u64 {
        for key in 0..50_u64 {
            let key = (key * 100 + n).to_be_bytes();
            let value = random_value(&mut random, 1000);
            keyspace.put(key, &value).unwrap();
            pairs.insert(key.to_vec(), value);
        }
        database.flush().unwrap();
    }
    assert_eq!(database.stats().unwrap().young_segments, 20);
    storage.set_capacity(storage.length().unwrap());
    let core = database.core().unwrap();
    let allocator = core.pages.allocator();
    let taken: Vec<_> = std::iter::from_fn(|| allocator.allocate(1, 0).ok()).collect();
    assert!(matches!(database.run_step(), Err(Error::NoSpace { .. })));
    for n in 0..10_u64 {
        let key = (n * 100).to_be_bytes();
        keyspace.delete(key).unwrap();
        pairs.remove(&key[..]);
    }
    check(&keyspace, &pairs, "beside a step that found no space");
    taken.into_iter().for_each(|block| core.pages.free(block));
    storage.set_capacity(u64::MAX);
    database.wait_until_idle().unwrap();
    check(&keyspace, &pairs, "merged");
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// The device has no page more, and what merges have replaced belongs to the last durable state
/// still: the next one frees it.
#[test]
fn a_flush_or_a_close_that_finds_no_room_frees_what_has_died() {
    for what in ["flush", "close"] {
        let storage = Arc::new(MemoryStorage::new());
        let database = builder().max_file_bytes(16 << 20).open_on(storage.clone()).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(3);
        let mut put = |pairs: &mut Pairs, count: u64| {
            for n in 0..count {
                let (key, value) = (n.to_be_bytes(), random_value(&mut random, 700));
                keyspace.put(key, &value).unwrap();
                pairs.insert(key.to_vec(), value);
            }
        };
        let mut pairs = Pairs::new();
        put(&mut pairs, 3_000);
        database.compact().unwrap();
        put(&mut pairs, 3_000);
        database.flush().unwrap();
        let mut far = |done: u64, total: u64| done * 4 < total * 3 || total == 0;
        assert!(matches!(database.compact_with(&mut far), Err(Error::Cancelled)));
        put(&mut pairs, 300);
        let core = database.core().unwrap();
        while core.pages.allocator().allocate(1, 0).is_ok() {}
        drop(core);
        let done = if what == "flush" { database.flush() } else { database.clone().close() };
        done.unwrap_or_else(|error| panic!("{what}: {error}"));
        if what == "flush" {
            check(&keyspace, &pairs, what);
        }
        drop((keyspace, database));
        let database = builder().open_on(storage).unwrap();
        check(&database.existing_keyspace("a").unwrap(), &pairs, what);
        assert_eq!(access::verify(&database).unwrap(), None, "{what}");
    }
}
