//! Many open transactions share their parts of the budget.

use crash_lsm::access;
use crash_lsm::setup::BUDGET_BYTES_MIN;
use sapwood::page::MemoryPart;
use sapwood::sync::Random;
use sapwood::{Database, Isolation, Keyspace, Transaction};

#[cfg(target_os = "linux")]
use super::process::{folder, is_alone, memory};
use super::{LIMIT_BYTES, counted_bytes, open};

const MANY: u32 = 100;

fn begin(database: &Database, count: u32, isolation: Isolation) -> Vec<Transaction> {
    (0..count).map(|_| database.begin(isolation).unwrap()).collect()
}

/// The keys of each transaction lie between those of all others.
fn key(number: u32, of: u32) -> Vec<u8> {
    [number.to_be_bytes(), of.to_be_bytes()].concat()
}

fn value(number: u32, of: u32, length: usize) -> Vec<u8> {
    let mut value = vec![0; length];
    Random::from_seed(u64::from(number) << 32 | u64::from(of)).fill(&mut value);
    value
}

/// Panics when more is counted than may be.
fn check(database: &Database) {
    let counted = counted_bytes(database);
    let stats = || database.stats().unwrap();
    assert!(counted <= LIMIT_BYTES, "{counted} of {BUDGET_BYTES_MIN} bytes: {}", stats());
}

fn pending_bytes(database: &Database) -> u64 {
    database.stats().unwrap().memory.pending_writes
}

#[test]
fn a_hundred_open_transactions_with_large_writes_stay_within_the_budget() {
    const ROUNDS: u32 = 240;
    let (database, keyspace) = open();
    let mut transactions = begin(&database, MANY, Isolation::Snapshot);
    let mut most = 0;
    for round in 0..ROUNDS {
        for (transaction, of) in transactions.iter_mut().zip(0..) {
            transaction.put(&keyspace, key(round, of), value(round, of, 400)).unwrap();
        }
        check(&database);
        most = most.max(pending_bytes(&database));
    }
    // The eighth, and a step for each: nearly all of it is in use.
    let limit = BUDGET_BYTES_MIN / 8;
    assert!(most > limit * 3 / 4, "{most} of {limit} bytes");
    assert!(most < limit + u64::from(MANY) * 4096, "{most} of {limit} bytes");
    for (transaction, of) in transactions.iter().zip(0..) {
        let own = transaction.get(&keyspace, key(ROUNDS / 3, of)).unwrap().unwrap();
        assert_eq!(own, value(ROUNDS / 3, of, 400));
        assert_eq!(transaction.count::<&[u8]>(&keyspace, ..).unwrap(), u64::from(ROUNDS));
    }
    for (transaction, of) in transactions.into_iter().zip(0..) {
        match of % 3 {
            0 => transaction.commit().unwrap(),
            _ => transaction.rollback(),
        }
        check(&database);
    }
    assert_eq!(pending_bytes(&database), 0);
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), u64::from(MANY.div_ceil(3) * ROUNDS));
    for (pair, index) in keyspace.iter().unwrap().zip(0..) {
        let (round, of) = (index / MANY.div_ceil(3), index % MANY.div_ceil(3) * 3);
        assert_eq!(pair.unwrap(), (key(round, of).into(), value(round, of, 400).into()));
    }
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// Each is a large part of the budget by itself, and no second write comes to spill the first.
#[test]
fn one_large_value_in_each_of_many_open_transactions_stays_within_the_budget() {
    const LENGTH: usize = 300_000;
    let (database, keyspace) = open();
    let mut transactions = begin(&database, 40, Isolation::Snapshot);
    for (transaction, of) in transactions.iter_mut().zip(0..) {
        transaction.put(&keyspace, key(0, of), value(0, of, LENGTH)).unwrap();
        check(&database);
    }
    for (transaction, of) in transactions.into_iter().zip(0..) {
        assert_eq!(transaction.get(&keyspace, key(0, of)).unwrap().unwrap().len(), LENGTH);
        transaction.commit().unwrap();
        check(&database);
        assert_eq!(keyspace.get(key(0, of)).unwrap().unwrap(), value(0, of, LENGTH));
    }
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn one_transaction_alone_keeps_a_sixteenth_in_memory_and_less_beside_others() {
    let (database, keyspace) = open();
    let most_of = |count: u32| {
        let mut transactions = begin(&database, count, Isolation::Snapshot);
        let most = (0..3000).map(|number| {
            for transaction in &mut transactions {
                transaction.put(&keyspace, key(number, 0), [7; 400]).unwrap();
            }
            pending_bytes(&database)
        });
        most.max().unwrap()
    };
    let one = most_of(1);
    assert!(one.abs_diff(BUDGET_BYTES_MIN / 16) < 8192, "{one}");
    // What is left for the next is as much as each of them has.
    let two = most_of(2);
    assert!(two > one && two < BUDGET_BYTES_MIN / 8 * 4 / 5, "{two}");
}

#[test]
fn a_hundred_serializable_transactions_with_large_read_sets_stay_within_the_budget() {
    const ROUNDS: u32 = 600;
    let (database, keyspace) = open();
    let other = database.keyspace("b").unwrap();
    for number in 0..2000 {
        keyspace.put(key(number, 0), "v").unwrap();
    }
    let long_key = |number: u32, of: u32| {
        let mut key = key(number.wrapping_mul(0x9e37_79b1), of);
        key.resize(200, b'k');
        key
    };
    let mut transactions = begin(&database, MANY, Isolation::Serializable);
    let mut most = 0;
    for round in 0..ROUNDS {
        for (transaction, of) in transactions.iter().zip(0..) {
            transaction.get(&keyspace, long_key(round, of)).unwrap();
        }
        check(&database);
        most = most.max(database.stats().unwrap().memory.read_sets);
    }
    let limit = BUDGET_BYTES_MIN / 8;
    assert!(most > limit / 2, "{most} of {limit} bytes");
    assert!(most < limit + u64::from(MANY) * 4096, "{most} of {limit} bytes");
    // Whatever was joined, what was read is known.
    for (transaction, of) in transactions.iter_mut().zip(0..) {
        transaction.put(&other, key(0, of), "v").unwrap();
    }
    for of in (0..MANY).step_by(2) {
        keyspace.put(long_key(of * 7 % ROUNDS, of), "changed").unwrap();
    }
    for (transaction, of) in transactions.into_iter().zip(0..) {
        let result = transaction.commit();
        assert!(of % 2 == 1 || result.is_err_and(|error| error.is_conflict()), "{of}");
    }
    assert_eq!(database.stats().unwrap().memory.read_sets, 0);
}

/// Of a keyspace with one key or range its trees take most.
#[test]
#[cfg(target_os = "linux")]
fn what_read_sets_of_many_keyspaces_take_is_what_the_process_takes() {
    let me = "open_transactions::what_read_sets_of_many_keyspaces_take_is_what_the_process_takes";
    if !is_alone(me) {
        return;
    }
    let builder = Database::builder().memory_budget(512 << 20).merge_threads(0);
    let database = builder.open(folder().join("database")).unwrap();
    let keyspaces: Vec<Keyspace> =
        (0..400).map(|number| database.keyspace(&format!("k{number}")).unwrap()).collect();
    let transactions = begin(&database, 100, Isolation::Serializable);
    let counted = || database.stats().unwrap().memory.read_sets;
    for is_scan in [false, true] {
        let (counted_before, taken_before) = (counted(), memory("RssAnon:"));
        for transaction in &transactions {
            for keyspace in &keyspaces {
                match is_scan {
                    false => drop(transaction.get(keyspace, "a key").unwrap()),
                    true => assert!(transaction.iter(keyspace).unwrap().next().is_none()),
                }
            }
        }
        let (counted, taken) = (counted() - counted_before, memory("RssAnon:") - taken_before);
        println!("scans {is_scan}: {counted} counted, {taken} taken");
        assert!((taken * 4 / 5..=taken * 4 / 3).contains(&counted), "{counted} of {taken}");
    }
}

/// What a read set takes for each keyspace was counted, and in no bound: this took 9 MB of 4 MiB.
#[test]
fn transactions_that_read_very_many_keyspaces_stay_within_the_budget() {
    const KEYSPACES: u32 = 300;
    let (database, _) = open();
    let keyspaces: Vec<Keyspace> =
        (0..KEYSPACES).map(|number| database.keyspace(&format!("k{number}")).unwrap()).collect();
    let mut transactions = begin(&database, MANY, Isolation::Serializable);
    for keyspace in &keyspaces {
        for transaction in &transactions {
            transaction.get(keyspace, "k").unwrap();
        }
        check(&database);
        let read_sets = database.stats().unwrap().memory.read_sets;
        let limit = BUDGET_BYTES_MIN / 8 + u64::from(MANY) * 4096;
        assert!(read_sets < limit, "{read_sets} of {limit} bytes");
    }
    // A commit in any keyspace may have changed what they have read; without one nothing has.
    let last = transactions.pop().unwrap();
    let mut writer = transactions.pop().unwrap();
    writer.put(&keyspaces[0], "k", "v").unwrap();
    writer.commit().unwrap();
    for (mut transaction, keyspace) in transactions.into_iter().zip(&keyspaces) {
        transaction.put(keyspace, "other", "v").unwrap();
        assert!(transaction.commit().unwrap_err().is_conflict());
    }
    // What has written nothing has its place at its snapshot.
    last.commit().unwrap();
    assert_eq!(database.stats().unwrap().memory.read_sets, 0);
}

#[test]
fn a_thousand_small_open_transactions_are_counted() {
    const COUNT: u32 = 1000;
    let (database, keyspace) = open();
    let mut transactions = begin(&database, COUNT, Isolation::Serializable);
    for (transaction, of) in transactions.iter_mut().zip(0..) {
        transaction.get(&keyspace, key(1, of)).unwrap();
        transaction.put(&keyspace, key(0, of), [7; 100]).unwrap();
    }
    let memory = || database.stats().unwrap().memory;
    let (pending, reads) = (memory().pending_writes, memory().read_sets);
    let count = u64::from(COUNT);
    assert!((count * 108..count * 4096).contains(&pending), "{pending} bytes are counted");
    assert!((count * 8..count * 4096).contains(&reads), "{reads} bytes are counted");
    transactions.truncate(1);
    assert_eq!((memory().pending_writes, memory().read_sets), (pending / count, reads / count));
    transactions.pop().unwrap().commit().unwrap();
    assert_eq!((memory().pending_writes, memory().read_sets), (0, 0));
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 1);
}

fn spilled(database: &Database, keyspace: &Keyspace) -> Transaction {
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    for number in 0..3000 {
        transaction.put(keyspace, key(number, 1), value(number, 1, 300)).unwrap();
    }
    transaction
}

#[test]
fn a_transaction_has_filters_only_as_long_as_there_is_room_for_them() {
    let (database, keyspace) = open();
    let budget = database.core().unwrap().pages.budget().clone();
    let filters = || budget.part(MemoryPart::Filters);
    let with_room = spilled(&database, &keyspace);
    assert!(filters() > 2000, "{} bytes", filters());
    with_room.rollback();
    let room = budget.charge(MemoryPart::Filters, BUDGET_BYTES_MIN / 8);
    let transaction = spilled(&database, &keyspace);
    assert_eq!(filters(), BUDGET_BYTES_MIN / 8);
    let check = |get: &dyn Fn(Vec<u8>) -> Option<sapwood::Value>| {
        for number in (0..3000).step_by(7) {
            assert_eq!(get(key(number, 1)).unwrap(), value(number, 1, 300));
            assert_eq!(get(key(number, 2)), None);
        }
    };
    check(&|key| transaction.get(&keyspace, key).unwrap());
    transaction.commit().unwrap();
    check(&|key| keyspace.get(key).unwrap());
    assert_eq!(filters(), BUDGET_BYTES_MIN / 8);
    drop(room);
    check(&|key| keyspace.get(key).unwrap());
    assert_eq!(filters(), 0, "none was built, so that none can be read");
    assert_eq!(access::verify(&database).unwrap(), None);
}
