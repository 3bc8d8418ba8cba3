//! Transactions that are larger than their share of memory: they spill, and commit by reference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "large_transactions/conflicts.rs"]
mod conflicts;
#[path = "large_transactions/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, OperationKind, SimulatedStorage, Storage};
use sapwood::sync::{Arc, Clock, Mutex};
use sapwood::{Database, Durability, Error, Isolation, Keyspace, Result, Transaction};

/// So much a transaction of these tests keeps in memory.
const TRANSACTION_BYTES: u64 = 4 << 10;

fn open(storage: &SimulatedStorage) -> Result<Database> {
    Setup::tiny().builder().transaction_bytes(TRANSACTION_BYTES).open_on(Arc::new(storage.clone()))
}

fn made() -> (SimulatedStorage, Database, Keyspace) {
    let storage = SimulatedStorage::new();
    let database = open(&storage).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    (storage, database, keyspace)
}

fn key(number: u32) -> String {
    format!("{number:06}")
}

/// Puts many keys, far more than the transaction keeps in memory.
fn put_many(
    transaction: &mut Transaction,
    keyspace: &Keyspace,
    keys: std::ops::Range<u32>,
    value: &str,
) {
    for number in keys {
        transaction.put(keyspace, key(number), format!("{value}{number}")).unwrap();
    }
}

fn assert_clean(database: &Database) {
    assert_eq!(access::verify(database).unwrap(), None);
}

fn count(database: &Database) -> u64 {
    database.existing_keyspace("a").unwrap().count::<&[u8]>(..).unwrap()
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn contents(keyspace: &Keyspace) -> Map {
    let pairs = keyspace.iter().unwrap().map(|pair| pair.unwrap());
    pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

fn difference(found: &Map, expected: &Map) -> String {
    let text = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
    let missing = expected.iter().find(|(key, value)| found.get(*key) != Some(value));
    let extra = found.keys().find(|key| !expected.contains_key(*key));
    format!("missing or other: {:?}, extra: {:?}", missing.map(|(k, _)| text(k)), extra.map(text))
}

#[test]
fn a_large_transaction_reads_what_it_spilled_and_commits_whole() {
    let (storage, database, keyspace) = made();
    keyspace.put(key(5), "base").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..3000, "v");
    assert!(!format!("{transaction:?}").contains("pending_segments: 0"), "{transaction:?}");
    assert_clean(&database);
    assert_eq!(transaction.get(&keyspace, key(0)).unwrap().unwrap(), "v0");
    assert_eq!(transaction.get(&keyspace, key(2999)).unwrap().unwrap(), "v2999");
    assert_eq!(transaction.count::<&[u8]>(&keyspace, ..).unwrap(), 3000);
    assert_eq!(count(&database), 1, "nobody else sees it");
    let back: Vec<_> = transaction.iter(&keyspace).unwrap().rev().map(|p| p.unwrap().0).collect();
    assert_eq!(back.len(), 3000);
    assert!(back.is_sorted_by(|a, b| a > b));
    transaction.commit_with(Durability::Sync).unwrap();
    assert_eq!(count(&database), 3000);
    assert_clean(&database);
    let crashed = storage.crash_copy(CrashPlan::KeepNone);
    run_all_steps(&database).unwrap();
    assert_eq!(count(&database), 3000);
    assert_clean(&database);
    drop(database);
    let database = open(&crashed).unwrap();
    assert_eq!(count(&database), 3000);
    assert_eq!(database.keyspace("a").unwrap().get(key(5)).unwrap().unwrap(), "v5");
    assert_clean(&database);
    database.close().unwrap();
    let database = open(&crashed).unwrap();
    assert_eq!(count(&database), 3000);
    assert_clean(&database);
}

/// Commits one large transaction between two small commits with some of the same keys.
fn before_p_and_after(database: &Database, keyspace: &Keyspace, durability: Durability) {
    let commit = |value: &str, durability| {
        let mut batch = database.batch();
        for number in (0..600).step_by(7) {
            batch.put(keyspace, key(number), format!("{value}{number}")).unwrap();
        }
        batch.commit_with(durability).unwrap();
    };
    commit("before", Durability::Buffered);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, keyspace, 0..500, "large");
    transaction.put(keyspace, "value", vec![7; 40_000]).unwrap();
    transaction.delete_range(keyspace, key(100).as_str()..key(120).as_str()).unwrap();
    put_many(&mut transaction, keyspace, 110..115, "again");
    transaction.commit_with(durability).unwrap();
    commit("after", Durability::Memory);
}

/// What the three commits leave, so many of them.
fn after_commits(count: usize) -> Map {
    let mut map = Map::new();
    let mut put = |number: u32, value: &str| {
        map.insert(key(number).into_bytes(), format!("{value}{number}").into_bytes());
    };
    if count > 0 {
        (0..600).step_by(7).for_each(|number| put(number, "before"));
    }
    if count > 1 {
        (0..500).for_each(|number| put(number, "large"));
        (110..115).for_each(|number| put(number, "again"));
        for number in (100..110).chain(115..120) {
            map.remove(key(number).as_bytes());
        }
        map.insert(b"value".to_vec(), vec![7; 40_000]);
    }
    if count > 2 {
        let mut put = |number: u32, value: &str| {
            map.insert(key(number).into_bytes(), format!("{value}{number}").into_bytes());
        };
        (0..600).step_by(7).for_each(|number| put(number, "after"));
    }
    map
}

#[test]
fn a_crash_at_any_operation_leaves_a_prefix_of_the_commits_and_leaks_nothing() {
    let expected: Vec<Map> = (0..4).map(after_commits).collect();
    let mut met = [false; 4];
    for (index, durability) in
        [Durability::Sync, Durability::Buffered, Durability::Memory].into_iter().enumerate()
    {
        let (storage, database, keyspace) = made();
        let copies = Arc::new(Mutex::new(Vec::new()));
        let (into, of) = (copies.clone(), storage.clone());
        storage.on_operation(Box::new(move |operation| {
            let mut copies = into.lock();
            if operation.kind == OperationKind::Read {
                return;
            }
            // Spills make many writes, of which a few will do.
            if operation.kind == OperationKind::Write && !operation.index.is_multiple_of(5) {
                return;
            }
            for plan in
                [CrashPlan::KeepNone, CrashPlan::KeepAll, CrashPlan::Random(operation.index)]
            {
                copies.push((operation.index, of.crash_copy(plan)));
            }
        }));
        before_p_and_after(&database, &keyspace, durability);
        let acknowledged = if durability == Durability::Sync { 2 } else { 0 };
        let from = storage.operations();
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
        storage.clear_on_operation();
        drop((keyspace, database));
        for (operation, copy) in std::mem::take(&mut *copies.lock()) {
            let name = format!("{index}, operation {operation}");
            let least = if operation >= from { acknowledged } else { 0 };
            let found = opened_twice(&copy, &name);
            let place = expected.iter().position(|map| *map == found);
            let place =
                place.unwrap_or_else(|| panic!("{name}: {}", difference(&found, &expected[3])));
            assert!(place >= least, "{name}: {place} commits");
            met[place] = true;
        }
    }
    assert_eq!(met, [true; 4], "each prefix is met");
}

/// The content after an open, after a kill and another open, and after a clean close: always the
/// same.
fn opened_twice(storage: &SimulatedStorage, name: &str) -> Map {
    let database = open(storage).unwrap_or_else(|error| panic!("{name}: {error}"));
    let look = |database: &Database| {
        assert_eq!(access::verify(database).unwrap(), None, "{name}");
        contents(&database.keyspace("a").unwrap())
    };
    let found = look(&database);
    database.run_step().unwrap();
    let killed = storage.kill();
    drop(database);
    let database = open(&killed).unwrap();
    assert!(look(&database) == found, "{name}: after a kill");
    run_all_steps(&database).unwrap();
    assert!(look(&database) == found, "{name}: merged");
    database.close().unwrap();
    let database = open(&killed).unwrap();
    assert!(look(&database) == found, "{name}: after a close");
    found
}

/// Writes something else to every page of the file that may be given out.
fn overwrite_what_is_free(database: &Database, storage: &SimulatedStorage) {
    let core = database.core().unwrap();
    let (allocator, layout) = (core.pages.allocator(), core.pages.layout());
    storage.set_capacity(storage.length().unwrap());
    let mut taken = Vec::new();
    while let Ok(block) = allocator.allocate(1, 0) {
        storage.write_at(layout.offset_of(block.first), &[0xa5; 64]).unwrap();
        taken.push(block);
    }
    storage.set_capacity(u64::MAX);
    taken.into_iter().for_each(|block| core.pages.free(block));
}

#[test]
fn what_a_record_names_is_not_used_again_before_a_durable_state_has_passed_it() {
    let storage = SimulatedStorage::new();
    let (clock, hand) = Clock::fake();
    let builder = Setup::tiny().builder().transaction_bytes(TRANSACTION_BYTES);
    let builder = builder.step_bytes(64 << 10).clock(clock);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..12_000, "large");
    transaction.commit_with(Durability::Sync).unwrap();
    let before = database.stats().unwrap();
    // In quiet times it is adopted and merged away, and what that leaves free is used for the next
    // steps.
    hand.advance(Duration::from_secs(5));
    let mut merged = 0;
    while database.run_step().unwrap() {
        let stats = database.stats().unwrap();
        if stats.durable_states > before.durable_states {
            break;
        }
        merged = stats.promotions - before.promotions;
        overwrite_what_is_free(&database, &storage);
        let database = open(&storage.crash_copy(CrashPlan::KeepAll)).unwrap();
        assert_eq!(count(&database), 12_000, "after {merged} promotions");
        assert_clean(&database);
    }
    assert!(merged > 2, "little was merged before the durable state");
    assert_clean(&database);
}

#[test]
fn a_killed_process_leaves_the_upper_parents_of_a_commit_that_was_not_synced() {
    for durability in [Durability::Buffered, Durability::Memory] {
        let (storage, database, keyspace) = made();
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        put_many(&mut transaction, &keyspace, 0..20_000, "large");
        transaction.commit_with(durability).unwrap();
        keyspace.put("later", "buffered").unwrap();
        let killed = storage.kill();
        drop(database);
        let database = open(&killed).unwrap();
        assert_eq!(count(&database), 20_001);
        assert_clean(&database);
    }
}

/// Without the maps of the regions that the file has.
fn used_bytes(database: &Database) -> u64 {
    let stats = database.stats().unwrap();
    let core = database.core().unwrap();
    let layout = core.pages.layout();
    let page_bytes = u64::from(layout.page_size);
    let regions = layout.region_count(stats.file_bytes / page_bytes);
    let maps: u64 = (0..regions).map(|index| u64::from(layout.fixed_pages(index))).sum();
    stats.file_bytes - stats.free_bytes - maps * page_bytes
}

#[test]
fn a_rollback_gives_the_blocks_back_at_once_and_a_savepoint_those_behind_it() {
    let (_storage, database, keyspace) = made();
    put_base(&database, &keyspace);
    let before = used_bytes(&database);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..2000, "kept");
    let savepoint = transaction.savepoint();
    let at_savepoint = {
        transaction.put(&keyspace, "more", "more").unwrap();
        transaction.rollback_to(&savepoint).unwrap();
        used_bytes(&database)
    };
    put_many(&mut transaction, &keyspace, 1000..9000, "void");
    assert!(used_bytes(&database) > at_savepoint + (50 << 10));
    transaction.rollback_to(&savepoint).unwrap();
    // What lay in memory at the savepoint may have been spilled since.
    assert!(used_bytes(&database) <= at_savepoint + (32 << 10));
    assert_eq!(transaction.get(&keyspace, key(1500)).unwrap().unwrap(), "kept1500");
    assert_eq!(transaction.count::<&[u8]>(&keyspace, ..).unwrap(), 2001);
    assert_clean(&database);
    let iterator = transaction.iter(&keyspace).unwrap();
    transaction.rollback();
    assert!(used_bytes(&database) > before, "an iterator still reads");
    assert_eq!(iterator.count(), 2001);
    database.run_step().unwrap();
    assert_eq!(used_bytes(&database), before);
    assert_clean(&database);
}

fn put_base(database: &Database, keyspace: &Keyspace) {
    keyspace.put("0", "0").unwrap();
    database.flush().unwrap();
    run_all_steps(database).unwrap();
}

#[test]
fn the_data_of_a_large_transaction_does_not_go_through_the_log() {
    let (_storage, database, keyspace) = made();
    let before = database.stats().unwrap().written;
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    for number in 0..2000 {
        transaction.put(&keyspace, key(number), vec![1; 500]).unwrap();
    }
    transaction.commit_with(Durability::Sync).unwrap();
    let after = database.stats().unwrap().written;
    assert!(after.log - before.log < 16 << 10, "{before:?} {after:?}");
    assert!(after.leaves - before.leaves >= 1_000_000);
}

/// With the options that users have: three memtables and more, whose data would not fit the log at
/// its smallest length either.
#[test]
fn the_log_names_a_transaction_of_several_memtables_in_one_short_record() {
    let storage = SimulatedStorage::new();
    let builder = || Setup::tiny().builder();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let core = database.core().unwrap();
    let value = |number: u32| vec![number as u8; 1000];
    let (many, memtable_bytes) = (4000, core.memtable_bytes_max() as u64);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let before = (database.stats().unwrap(), core.log.counters());
    for number in 0..many {
        transaction.put(&keyspace, key(number), value(number)).unwrap();
    }
    assert_eq!(core.log.counters(), before.1, "nothing goes to the log before the commit");
    transaction.commit_with(Durability::Sync).unwrap();
    let after = (database.stats().unwrap(), core.log.counters());
    let brought = after.0.user_bytes - before.0.user_bytes;
    assert!(brought > 3 * memtable_bytes, "{brought} bytes, {memtable_bytes} in a memtable");
    assert_eq!(after.1.records - before.1.records, 1);
    assert!(after.1.record_bytes - before.1.record_bytes < 1 << 10, "{:?}", after.1);
    // The record was written, with a block or two of the log at most around it.
    let written = after.0.written.log - before.0.written.log;
    assert!(written > 0 && written < 8 << 10, "{written} bytes of log");
    assert!(after.0.log.unflushed_bytes - before.0.log.unflushed_bytes < 1 << 10);
    assert!(core.memtable_bytes() < memtable_bytes as usize / 2, "nor through memtables");
    // The same in a log: far more.
    let before = database.stats().unwrap().written.log;
    for number in 0..100 {
        keyspace.put(key(number), value(number)).unwrap();
    }
    database.sync().unwrap();
    assert!(database.stats().unwrap().written.log - before > 100_000);
    // What the record names is all there after a power cut.
    let crashed = builder().open_on(Arc::new(storage.crash_copy(CrashPlan::KeepNone))).unwrap();
    let keyspace = crashed.existing_keyspace("a").unwrap();
    let pairs = keyspace.iter().unwrap().map(Result::unwrap).zip(0..);
    let count = pairs
        .inspect(|((k, v), n)| assert!(*k == key(*n).as_str() && v[..] == value(*n)[..], "{n}"))
        .count();
    assert_eq!(count, many as usize);
}

#[test]
fn a_large_transaction_stays_within_its_share_of_memory() {
    let storage = SimulatedStorage::new();
    let setup =
        Setup { page_bytes: 4096, leaf_bytes: 4096, region_bytes: 4 << 20, ..Setup::tiny() };
    let database = setup.open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut most = 0;
    for number in 0..60_000u32 {
        let value = [number as u8; 200];
        transaction.put(&keyspace, number.wrapping_mul(0x9e37_79b1).to_be_bytes(), value).unwrap();
        if number % 500 == 0 {
            let stats = database.stats().unwrap();
            let memory = stats.memory;
            most = most.max(memory.pending_writes + memory.other + memory.merge_buffers);
        }
    }
    assert!(most < (4 << 20) / 4, "{most} bytes");
    transaction.commit().unwrap();
    assert_eq!(count(&database), 60_000);
    assert_clean(&database);
}

/// How many pending segments it says that it has.
fn segments_of(transaction: &Transaction) -> u64 {
    let text = format!("{transaction:?}");
    let (_, count) = text.split_once("pending_segments: ").unwrap();
    let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// P2: as many are left as the digits of the number of spills say, to the base of eight. So a
/// transaction's reads ask few segments, however much it has written.
#[test]
fn eight_pending_segments_of_one_size_become_one() {
    let (_storage, database, keyspace) = made();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let (mut spills, mut before) = (0, 0);
    for number in 0..12_000u32 {
        let key = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
        transaction.put(&keyspace, key, [number as u8; 200]).unwrap();
        let count = segments_of(&transaction);
        // A spill adds one, or has eight of a size become one, and of several sizes at once.
        if count != before {
            (spills, before) = (spills + 1, count);
            let digits = (0..8).map(|tier| spills >> (3 * tier) & 7);
            assert_eq!(count, digits.sum::<u64>(), "after {spills} spills");
        }
    }
    assert!(spills > 512, "{spills} spills");
    assert_eq!(transaction.count::<&[u8]>(&keyspace, ..).unwrap(), 12_000);
    transaction.commit().unwrap();
    assert_eq!(count(&database), 12_000);
    assert_clean(&database);
}

#[test]
fn no_space_in_a_spill_is_an_error_and_the_transaction_can_go_on_or_be_dropped() {
    let (storage, database, keyspace) = made();
    keyspace.put("kept", "kept").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let length = database.stats().unwrap().file_bytes;
    storage.set_capacity(length + (64 << 10));
    let mut written = Map::new();
    let error = (0..100_000).find_map(|number| {
        let value = vec![b'v'; 200];
        match transaction.put(&keyspace, key(number), &value) {
            Ok(()) => drop(written.insert(key(number).into_bytes(), value)),
            Err(error) => return Some(error),
        }
        None
    });
    assert!(error.unwrap().is_no_space());
    written.insert(b"kept".to_vec(), b"kept".to_vec());
    let found = transaction.iter(&keyspace).unwrap().map(|pair| pair.unwrap());
    assert!(found.map(|(key, value)| (key.to_vec(), value.to_vec())).collect::<Map>() == written);
    assert_clean(&database);
    drop(transaction);
    assert_clean(&database);
    storage.set_capacity(u64::MAX);
    keyspace.put("later", "later").unwrap();
    assert_eq!(count(&database), 2);
    assert_clean(&database);
}

#[test]
fn a_database_closes_under_a_large_transaction_and_keeps_nothing_of_it() {
    let (storage, database, keyspace) = made();
    put_base(&database, &keyspace);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..5000, "void");
    let length = database.stats().unwrap().file_bytes;
    database.close().unwrap();
    assert!(matches!(transaction.put(&keyspace, "k", "v"), Err(Error::Closed)));
    assert!(matches!(transaction.commit(), Err(Error::Closed)));
    let database = open(&storage).unwrap();
    assert!(database.stats().unwrap().file_bytes < length);
    assert_eq!(count(&database), 1);
    assert_clean(&database);
}

#[test]
fn snapshots_before_at_and_after_a_large_commit_see_their_instant_for_ever() {
    let (_storage, database, keyspace) = made();
    let (before_map, at_map, after_map) = (after_commits(1), after_commits(2), after_commits(3));
    let mut batch = database.batch();
    for (key, value) in &before_map {
        batch.put(&keyspace, key, value).unwrap();
    }
    batch.commit().unwrap();
    let before = database.snapshot().unwrap();
    let mut large = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut large, &keyspace, 0..500, "large");
    large.put(&keyspace, "value", vec![7; 40_000]).unwrap();
    large.delete_range(&keyspace, key(100).as_str()..key(120).as_str()).unwrap();
    put_many(&mut large, &keyspace, 110..115, "again");
    let own = large.iter(&keyspace).unwrap();
    large.commit().unwrap();
    let at = database.snapshot().unwrap();
    assert!(at.sequence() > before.sequence());
    for number in (0..600).step_by(7) {
        keyspace.put(key(number), format!("after{number}")).unwrap();
    }
    let after = database.snapshot().unwrap();
    let look = |snapshot: &sapwood::Snapshot| access::dump_snapshot(snapshot, &keyspace).unwrap();
    let same = |found: crash_lsm::model::Map, map: &Map| {
        found.iter().map(|(k, v)| (k.clone(), v.to_vec())).collect::<Map>() == *map
    };
    loop {
        assert!(same(look(&before), &before_map));
        assert!(same(look(&at), &at_map));
        assert!(same(look(&after), &after_map));
        assert!(contents(&keyspace) == after_map);
        assert_clean(&database);
        if !database.run_step().unwrap() {
            break;
        }
    }
    // What is free now is used again under the iterator.
    for number in 0..3000 {
        keyspace.put(format!("x{number}"), [1; 90]).unwrap();
    }
    run_all_steps(&database).unwrap();
    let own: Map = own.map(|p| p.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect();
    assert!(own == at_map, "{}", difference(&own, &at_map));
    drop((before, at, after));
    run_all_steps(&database).unwrap();
    assert_clean(&database);
}

/// A cursor of the transaction outlives its commit. All that was committed is deleted and merged
/// away, nobody else reads it, and what is free holds something else.
#[test]
fn an_iterator_of_a_large_transaction_reads_on_when_what_it_brought_was_merged_away() {
    let (storage, database, keyspace) = made();
    let mut large = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut large, &keyspace, 0..3000, "large");
    let own = large.iter(&keyspace).unwrap();
    large.commit().unwrap();
    database.flush().unwrap();
    keyspace.delete_range::<&[u8]>(..).unwrap();
    database.compact().unwrap();
    for _ in 0..2 {
        database.flush().unwrap();
    }
    database.core().unwrap().collect_released();
    overwrite_what_is_free(&database, &storage);
    database.core().unwrap().pages.cache().clear();
    let found: Vec<_> = own.map(|pair| pair.unwrap()).collect();
    assert_eq!(found.len(), 3000);
    for ((k, v), number) in found.iter().zip(0..) {
        assert!(*k == key(number).as_str() && *v == format!("large{number}").as_str(), "{number}");
    }
    drop(found);
    database.flush().unwrap();
    assert_eq!(count(&database), 0);
    assert_clean(&database);
}

/// Until its record is on disk nobody sees anything of it.
#[test]
fn a_large_commit_that_waits_for_the_disk_is_not_seen() {
    let (storage, database, keyspace) = made();
    keyspace.put(key(7), "before").unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (into, reader) = (seen.clone(), keyspace.clone());
    let look = move |_: &sapwood::storage::Operation| {
        let value = reader.get(key(7)).unwrap().map(|value| value.to_vec());
        let many = reader.range(key(100)..key(200)).unwrap().count();
        into.lock().push((value, many));
    };
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..500, "large");
    storage.on_synced_write(Box::new(look));
    transaction.commit_with(Durability::Sync).unwrap();
    storage.clear_on_operation();
    let seen = std::mem::take(&mut *seen.lock());
    assert!(!seen.is_empty(), "no record was written");
    assert!(seen.iter().all(|seen| *seen == (Some(b"before".to_vec()), 0)), "{seen:?}");
    assert_eq!(keyspace.get(key(7)).unwrap().unwrap(), "large7");
    assert_eq!(keyspace.range(key(100)..key(200)).unwrap().count(), 100);
    assert_clean(&database);
}

/// What a large commit wrote is on disk before its record, whatever it asked for: so damage is
/// damage, and never taken for a commit that the power took away.
#[test]
fn damage_in_a_large_commit_is_reported_and_does_not_end_the_log() {
    let (storage, database, keyspace) = made();
    keyspace.put("first", "first").unwrap();
    database.sync().unwrap();
    let before = storage.image();
    let mut large = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut large, &keyspace, 0..3000, "x");
    large.commit_with(Durability::Buffered).unwrap();
    let after = storage.image();
    let page = |image: &[u8], index: usize| image.chunks(1024).nth(index).map(<[u8]>::to_vec);
    let written = (0..after.len() / 1024).filter(|n| page(&before, *n) != page(&after, *n));
    let (mut whole, mut of_the_log, mut reported) = (0, 0, 0);
    for index in written {
        let killed = storage.kill();
        killed.overwrite(index as u64 * 1024, &[0; 1024]);
        let entries = open(&killed).and_then(|opened| {
            let keyspace = opened.existing_keyspace("a")?;
            keyspace.iter()?.map(|entry| entry.map(drop)).collect::<Result<Vec<()>>>()
        });
        match entries.map(|entries| entries.len()) {
            // Pages of spills that were merged, and are free again, may hold anything.
            Ok(3001) => whole += 1,
            Ok(0 | 1) => of_the_log += 1,
            Ok(other) => panic!("page {index}: {other} entries"),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                reported += 1;
            }
        }
    }
    let found = format!("{whole} whole, {of_the_log} of the log, {reported} reported");
    assert!(reported > 40 && of_the_log <= 2, "{found}");
    drop(database);
}

/// Its blocks were free as soon as the database closed, and the states that a close makes durable
/// may be written there: under a run that is read in place, or a lookup of another thread.
#[test]
fn a_close_leaves_the_blocks_that_somebody_may_still_read() {
    let storage = SimulatedStorage::new();
    let builder = Setup::tiny().builder().transaction_bytes(TRANSACTION_BYTES).memory_map(true);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut transaction, &keyspace, 0..5000, "void");
    let mut iterator = transaction.iter(&keyspace).unwrap();
    iterator.next().unwrap().unwrap();
    let rolled_back = {
        let mut other = database.begin(Isolation::Snapshot).unwrap();
        put_many(&mut other, &keyspace, 0..500, "void");
        database.core().unwrap().pending.blocks().len()
    };
    let core = database.core().unwrap();
    database.close().unwrap();
    let blocks = core.pending.blocks();
    assert!(!blocks.is_empty() && blocks.len() < rolled_back, "what nobody holds has gone");
    let given = core.pages.allocator().given_list();
    assert!(blocks.iter().all(|block| given.contains(*block)));
    assert!(matches!(iterator.next(), Some(Err(Error::Closed))));
    assert!(matches!(transaction.get(&keyspace, key(1)), Err(Error::Closed)));
    drop((iterator, transaction, keyspace, core));
    // No durable map knows them.
    let database = open(&storage).unwrap();
    assert!(database.core().unwrap().pending.blocks().is_empty());
    assert_eq!(count(&database), 0);
    assert_clean(&database);
    let length = database.stats().unwrap().file_bytes;
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    database.close().unwrap();
    assert!(open(&storage).unwrap().stats().unwrap().file_bytes < length);
}
