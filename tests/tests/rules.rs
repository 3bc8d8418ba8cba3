//! Rules for correctness, each by the sequence of events that breaks without it. Which rule has
//! which test, and how to see it fail without the rule: docs/testing.md.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "rules/durable.rs"]
mod durable;
#[path = "rules/every_cut.rs"]
mod every_cut;
#[path = "rules/first_write.rs"]
mod first_write;
#[path = "rules/memtable.rs"]
mod memtable;
#[path = "rules/stamps.rs"]
mod stamps;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, FakeClock, Mutex, Random};
use sapwood::{Database, Durability, Error, Isolation, Keyspace, Transaction};

/// A database whose clock stands still, so that nothing is due because writes pause.
fn still(storage: &SimulatedStorage) -> (Database, FakeClock) {
    try_still(storage).unwrap()
}

fn try_still(storage: &SimulatedStorage) -> sapwood::Result<(Database, FakeClock)> {
    let (clock, hand) = Clock::fake();
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    // Whoever validates finds everything, however little the file holds.
    let builder = setup.builder().clock(clock).max_transaction_history_bytes(1 << 30);
    Ok((builder.open_on(Arc::new(storage.clone()))?, hand))
}

fn new() -> (SimulatedStorage, Database, Keyspace) {
    let storage = SimulatedStorage::new();
    let (database, _) = still(&storage);
    let keyspace = database.keyspace("a").unwrap();
    (storage, database, keyspace)
}

fn put_with(keyspace: &Keyspace, database: &Database, key: &str, value: &[u8], how: Durability) {
    let mut batch = database.batch();
    batch.put(keyspace, key, value).unwrap();
    batch.commit_with(how).unwrap();
}

fn numbered(n: u32) -> String {
    format!("{n:06}")
}

fn fill(keyspace: &Keyspace, numbers: impl Iterator<Item = u32>, value: u8) {
    for n in numbers {
        keyspace.put(numbered(n), vec![value; 100]).unwrap();
    }
}

fn text(value: Option<sapwood::Value>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// What is there after each way to lose power, or to be killed, before each operation of `act`.
fn cut_before_each_operation(
    storage: &SimulatedStorage,
    step: u64,
    act: impl FnOnce(),
    check: impl Fn(&SimulatedStorage, &str),
) {
    let done = Arc::default();
    cut_knowing(storage, step, &done, act, |copy, what, _| check(copy, what));
}

/// The same; `check` gets what `done` was at that point.
fn cut_knowing(
    storage: &SimulatedStorage,
    step: u64,
    done: &Arc<AtomicU64>,
    act: impl FnOnce(),
    check: impl Fn(&SimulatedStorage, &str, u64),
) {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of, done) = (Arc::clone(&copies), storage.clone(), Arc::clone(done));
    let first = storage.operations();
    storage.on_operation(Box::new(move |operation| {
        let slot_or_sync =
            operation.kind == OperationKind::Sync || operation.kind == OperationKind::WriteSync;
        let wanted = slot_or_sync || (operation.index - first).is_multiple_of(step);
        if operation.kind == OperationKind::Read || !wanted {
            return;
        }
        for plan in [CrashPlan::KeepNone, CrashPlan::KeepAll, CrashPlan::Random(operation.index)] {
            let copy = of.crash_copy(plan);
            let what = format!("{} {operation:?} {plan:?}", copy.operations());
            into.lock().push((what, copy, done.load(Ordering::SeqCst)));
        }
    }));
    act();
    storage.clear_on_operation();
    let copies = std::mem::take(&mut *copies.lock());
    assert!(!copies.is_empty());
    for (what, copy, done) in copies {
        check(&copy, &what, done);
    }
}

/// A value whose record is there and whose blocks are not, as a power cut may leave it.
#[test]
fn a_record_whose_value_was_lost_ends_the_log() {
    let (storage, database, keyspace) = new();
    database.flush().unwrap();
    put_with(&keyspace, &database, "before", b"1", Durability::Sync);
    let mut large = vec![0; 100_000];
    Random::from_seed(1).fill(&mut large);
    put_with(&keyspace, &database, "large", &large, Durability::Buffered);
    put_with(&keyspace, &database, "behind", b"3", Durability::Buffered);
    let left = storage.crash_copy(CrashPlan::KeepAll);
    let image = left.image();
    let at = image.windows(64).position(|bytes| bytes == &large[50_000..50_064]).unwrap();
    left.overwrite(at as u64, &[0; 64]);
    let (database, _) = still(&left);
    let keyspace = database.keyspace("a").unwrap();
    let keys: Vec<_> = keyspace.iter().unwrap().map(|pair| pair.unwrap().0).collect();
    assert_eq!(keys, ["before"]);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn an_idle_keyspace_does_not_pin_the_log() {
    let (_storage, database, keyspace) = new();
    let idle = database.keyspace("idle").unwrap();
    idle.put("k", "v").unwrap();
    let before = database.stats().unwrap().file_bytes;
    for round in 0..30 {
        fill(&keyspace, 0..2000, round);
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
    }
    let after = database.stats().unwrap().file_bytes;
    assert!(after < before + (3 << 20), "{before} bytes at first, {after} after 30 times 200 KB");
    assert_eq!(text(idle.get("k").unwrap()).as_deref(), Some("v"));
}

#[test]
fn a_transaction_that_used_a_dropped_keyspace_is_a_conflict() {
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        for only_reads in [false, true] {
            for flushed in [false, true] {
                let (_storage, database, keyspace) = new();
                let other = database.keyspace("b").unwrap();
                keyspace.put("k", "v").unwrap();
                let mut transaction = database.begin(isolation).unwrap();
                transaction.put(&other, "x", "y").unwrap();
                if only_reads {
                    transaction.get(&keyspace, "k").unwrap();
                } else {
                    transaction.put(&keyspace, "k", "w").unwrap();
                }
                database.drop_keyspace("a").unwrap();
                if flushed {
                    database.compact().unwrap();
                }
                let result = transaction.commit();
                let conflict = !only_reads || isolation == Isolation::Serializable;
                assert_eq!(matches!(result, Err(Error::Conflict)), conflict, "{result:?}");
                assert_eq!(other.contains("x").unwrap(), !conflict);
            }
        }
    }
}

/// A batch is collected before a keyspace goes: small values are encoded at once, large ones and
/// range deletes wait for the commit.
#[test]
fn a_batch_that_wrote_to_a_dropped_keyspace_is_refused() {
    let write: [fn(&mut sapwood::Batch, &Keyspace); 3] = [
        |batch, keyspace| batch.put(keyspace, "k", "v").unwrap(),
        |batch, keyspace| batch.put(keyspace, "k", vec![7; 100_000]).unwrap(),
        |batch, keyspace| batch.delete_range(keyspace, "a".."z").unwrap(),
    ];
    for write in write {
        let (_storage, database, keyspace) = new();
        let other = database.keyspace("b").unwrap();
        let mut batch = database.batch();
        batch.put(&other, "x", "y").unwrap();
        write(&mut batch, &keyspace);
        database.drop_keyspace("a").unwrap();
        let result = batch.commit();
        assert!(matches!(result, Err(Error::KeyspaceDropped(_))), "{result:?}");
        assert!(!other.contains("x").unwrap(), "a part of the batch is there");
        database.compact().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

#[test]
fn a_snapshot_older_than_a_drop_reads_on() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..500, 1);
    database.compact().unwrap();
    keyspace.put("new", "v").unwrap();
    let snapshot = database.snapshot().unwrap();
    let seen = access::dump_snapshot(&snapshot, &keyspace).unwrap();
    assert_eq!(seen.len(), 501);
    let mut cursor = snapshot.iter(&keyspace).unwrap();
    database.drop_keyspace("a").unwrap();
    // The drop is not flushed yet.
    run_all_steps(&database).unwrap();
    assert_eq!(cursor.by_ref().filter(Result::is_ok).count(), 501);
    database.compact().unwrap();
    assert_eq!(database.keyspaces().unwrap(), Vec::<String>::new());
    assert!(matches!(keyspace.get("new"), Err(Error::KeyspaceDropped(_))));
}

#[test]
fn what_is_newer_than_a_snapshot_is_not_flushed_in_final_form() {
    for first in [true, false] {
        let (_storage, database, keyspace) = new();
        if first {
            // The snapshot belongs to the memtable; else to the state below an empty one.
            keyspace.put("0", "v").unwrap();
        }
        let snapshot = database.snapshot().unwrap();
        fill(&keyspace, 100..200, 1);
        database.flush().unwrap();
        let seen = access::dump_snapshot(&snapshot, &keyspace).unwrap();
        assert_eq!(seen.len(), usize::from(first));
        assert!(snapshot.get(&keyspace, numbered(150)).unwrap().is_none());
        database.compact().unwrap();
        assert_eq!(access::dump_snapshot(&snapshot, &keyspace).unwrap().len(), seen.len());
    }
}

#[test]
fn a_put_behind_a_deleted_range_of_its_memtable_stays() {
    let (_storage, database, keyspace) = new();
    keyspace.delete_range::<&str>(..).unwrap();
    fill(&keyspace, 0..100, 1);
    for _ in 0..2 {
        database.flush().unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 100);
        assert!((0..100).all(|n| keyspace.contains(numbered(n)).unwrap()));
        database.compact().unwrap();
    }
}

/// A range tombstone in a segment above reaches over keys where no point lies.
#[test]
fn a_put_behind_a_deleted_range_of_an_older_segment_stays() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..100, 1);
    database.compact().unwrap();
    keyspace.delete_range(numbered(200)..numbered(900)).unwrap();
    database.flush().unwrap();
    fill(&keyspace, 300..400, 2);
    for _ in 0..2 {
        database.flush().unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 200);
        assert!((300..400).all(|n| keyspace.contains(numbered(n)).unwrap()));
        database.compact().unwrap();
    }
}

#[test]
fn a_put_behind_older_versions_of_its_keys_stays() {
    let (_storage, database, keyspace) = new();
    for value in 1..5 {
        fill(&keyspace, 0..100, value);
        database.flush().unwrap();
        assert!((0..100).all(|n| keyspace.get(numbered(n)).unwrap().unwrap()[0] == value));
    }
    database.compact().unwrap();
    assert!((0..100).all(|n| keyspace.get(numbered(n)).unwrap().unwrap()[0] == 4));
}

#[test]
fn a_sorted_load_is_written_once() {
    let (_storage, database, keyspace) = new();
    for round in 0..5 {
        fill(&keyspace, round * 1000..(round + 1) * 1000, 1);
        database.flush().unwrap();
        let stats = database.stats().unwrap();
        assert_eq!(stats.young_segments, 0, "{stats}");
    }
    database.compact().unwrap();
    assert_eq!(database.stats().unwrap().promotions, 0);
}

#[test]
fn a_run_in_final_form_is_seen_by_validation() {
    let uses: [fn(&mut Transaction, &Keyspace, &str); 4] = [
        |transaction, keyspace, key| assert!(!transaction.contains(keyspace, key).unwrap()),
        |transaction, keyspace, key| {
            let range = key.to_owned()..format!("{key}!");
            assert_eq!(transaction.range(keyspace, range).unwrap().count(), 0);
        },
        |transaction, keyspace, key| transaction.put(keyspace, key, "mine").unwrap(),
        |transaction, keyspace, key| {
            transaction.put(keyspace, key, "mine").unwrap();
            // It spills.
            for n in 0..3000 {
                transaction.put(keyspace, format!("z{n}"), vec![1; 200]).unwrap();
            }
        },
    ];
    // In the run, between two of its keys, behind it.
    for (key, conflict) in [("000150", true), ("000150+", false), ("000900", false)] {
        for (way, use_key) in uses.iter().enumerate() {
            let (_storage, database, keyspace) = new();
            let mut transaction = database.begin(Isolation::Serializable).unwrap();
            use_key(&mut transaction, &keyspace, key);
            transaction.put(&keyspace, "z", "1").unwrap();
            fill(&keyspace, 100..200, 1);
            database.flush().unwrap();
            let stats = database.stats().unwrap();
            assert_eq!(stats.young_segments, 0, "it is a run in final form");
            let has_spilled = !format!("{transaction:?}").contains("pending_segments: 0");
            assert_eq!(has_spilled, way == 3, "{transaction:?}");
            let result = transaction.commit();
            assert_eq!(matches!(result, Err(Error::Conflict)), conflict, "{key} {way}: {result:?}");
        }
    }
}

/// The leaves of a run in final form are merged away while a transaction is open that began before
/// it.
#[test]
fn what_validation_reads_of_a_run_is_not_written_over() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..1000, 1);
    database.compact().unwrap();
    let begin = |key: &str| {
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        assert!(!transaction.contains(&keyspace, key).unwrap());
        transaction.put(&keyspace, format!("z{key}"), "1").unwrap();
        transaction
    };
    let [of_run, between] = ["001150", "001150+"].map(begin);
    fill(&keyspace, 1000..1300, 1);
    database.flush().unwrap();
    assert_eq!(database.stats().unwrap().young_segments, 0, "it is a run in final form");
    for round in 2..8 {
        fill(&keyspace, (0..1300).filter(|n| *n != 1150), round);
        database.flush().unwrap();
        database.compact().unwrap();
    }
    assert!(matches!(of_run.commit(), Err(Error::Conflict)));
    between.commit().unwrap();
    database.compact().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// The leaf behind a run is older than the run: it dies, and nobody keeps it. A transaction that
/// has spilled, and lies between the run's keys, is compared with all of them.
#[test]
fn validation_reads_nothing_behind_the_last_key_of_a_run() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, (0..1000).chain(2000..3000), 1);
    database.compact().unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    transaction.put(&keyspace, "001500+", "mine").unwrap();
    for n in 0..3000 {
        transaction.put(&keyspace, format!("z{n}"), vec![1; 200]).unwrap();
    }
    assert!(!format!("{transaction:?}").contains("pending_segments: 0"), "{transaction:?}");
    // The leaves behind are younger than the transaction.
    let overwrite_behind = |value| {
        fill(&keyspace, 2000..3000, value);
        database.flush().unwrap();
        database.compact().unwrap();
    };
    overwrite_behind(2);
    fill(&keyspace, 1000..2000, 1);
    database.flush().unwrap();
    assert_eq!(database.stats().unwrap().young_segments, 0, "it is a run in final form");
    (3..8).for_each(overwrite_behind);
    database.core().unwrap().pages.cache().clear();
    transaction.commit().unwrap();
    database.compact().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// What was flushed since a transaction began is merged away, and its pages would be used again.
#[test]
fn what_validation_reads_is_not_written_over() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..2000, 1);
    database.compact().unwrap();
    let transactions: Vec<_> = (0..2)
        .map(|n| {
            let mut transaction = database.begin(Isolation::Serializable).unwrap();
            let key = if n == 0 { numbered(1001) } else { numbered(1002) };
            transaction.contains(&keyspace, key).unwrap();
            transaction.put(&keyspace, format!("z{n}"), "1").unwrap();
            transaction
        })
        .collect();
    fill(&keyspace, (0..2000).filter(|n| *n != 1002), 2);
    database.flush().unwrap();
    database.compact().unwrap();
    for round in 3..8 {
        fill(&keyspace, (0..2000).filter(|n| *n != 1002), round);
        database.flush().unwrap();
        database.compact().unwrap();
    }
    let results: Vec<_> = transactions.into_iter().map(|one| one.commit()).collect();
    assert!(matches!(results[0], Err(Error::Conflict)), "{:?}", results[0]);
    assert!(results[1].is_ok(), "{:?}", results[1]);
    database.compact().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// put k@10, snapshot@15, delete range@20, in one memtable.
#[test]
fn a_deleted_range_hides_what_a_snapshot_keeps_in_its_segment() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..50, 1);
    let snapshot = database.snapshot().unwrap();
    keyspace.delete_range(numbered(10)..numbered(40)).unwrap();
    let other = database.snapshot().unwrap();
    keyspace.delete_range(numbered(20)..numbered(45)).unwrap();
    let check = |what: &str| {
        for n in 0..50u32 {
            let key = numbered(n);
            assert_eq!(keyspace.contains(&key).unwrap(), !(10..45).contains(&n), "{what}: {n}");
            let seen = other.get(&keyspace, &key).unwrap().is_some();
            assert_eq!(seen, !(10..40).contains(&n), "{what}: {n} between the two");
            assert!(snapshot.get(&keyspace, &key).unwrap().is_some(), "{what}: {n} before");
        }
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 15, "{what}");
        assert_eq!(keyspace.iter().unwrap().rev().count(), 15, "{what}");
        assert_eq!(other.iter(&keyspace).unwrap().count(), 20, "{what}");
        assert_eq!(snapshot.iter(&keyspace).unwrap().count(), 50, "{what}");
    };
    check("in memory");
    database.flush().unwrap();
    check("flushed");
    database.compact().unwrap();
    check("merged");
}

/// Six rounds of writes, flushes, merges and durable states; each ends its commits with one on
/// disk, and counts itself done.
fn six_rounds(database: &Database, keyspace: &Keyspace, done: &AtomicU64) {
    for round in 1..7u8 {
        fill(keyspace, (0..300).step_by(usize::from(round)), round);
        put_with(keyspace, database, "round", &[round], Durability::Sync);
        done.store(u64::from(round), Ordering::SeqCst);
        database.flush().unwrap();
        if round % 2 == 0 {
            database.compact().unwrap();
        }
    }
}

/// What was done is there, and nothing half.
fn check_rounds(database: &Database, what: &str, done: u64) -> u8 {
    assert_eq!(access::verify(database).unwrap(), None, "{what}");
    let keyspace = database.keyspace("a").unwrap();
    let round = keyspace.get("round").unwrap().map_or(0, |value| value[0]);
    assert!(u64::from(round) >= done, "{what}: round {round} of {done} is there");
    for n in 0..300u32 {
        let last = (1..=round).rev().find(|r| n.is_multiple_of(u32::from(*r))).unwrap_or(0);
        let found = keyspace.get(numbered(n)).unwrap().unwrap()[0];
        let next = round + 1;
        let may_be_next = n.is_multiple_of(u32::from(next)) && found == next;
        assert!(found == last || may_be_next, "{what}: {n} is {found}, not {last}");
    }
    round
}

#[test]
fn a_power_cut_at_any_point_of_flushes_and_merges_loses_nothing() {
    let (storage, database, keyspace) = new();
    fill(&keyspace, 0..300, 0);
    database.flush().unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let act = || six_rounds(&database, &keyspace, &done);
    cut_knowing(&storage, 40, &done, act, |copy, what, done| {
        let (database, _) = still(copy);
        let round = check_rounds(&database, what, done);
        // Going on from there is possible.
        let keyspace = database.keyspace("a").unwrap();
        put_with(&keyspace, &database, "round", &[round], Durability::Sync);
        database.flush().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None, "{what}");
    });
    assert_eq!(done.load(Ordering::SeqCst), 6);
}

/// Beside the power cut one of the slots cannot be read: the other state has all that was
/// committed, or the log says that there is a newer one.
#[test]
fn a_power_cut_and_an_unreadable_slot_lose_nothing_unsaid() {
    let (storage, database, keyspace) = new();
    fill(&keyspace, 0..300, 0);
    database.flush().unwrap();
    let done = Arc::new(AtomicU64::new(0));
    let act = || six_rounds(&database, &keyspace, &done);
    let (opened, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    cut_knowing(&storage, 40, &done, act, |copy, what, done| {
        for slot in 0..2u64 {
            let damaged = copy.crash_copy(CrashPlan::KeepAll);
            damaged.overwrite(slot * 4096, &[0xff; 4096]);
            match try_still(&damaged) {
                Ok((database, _)) => {
                    check_rounds(&database, &format!("{what}, without slot {slot}"), done);
                    opened.fetch_add(1, Ordering::SeqCst);
                }
                Err(Error::Corruption(_)) => {
                    refused.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => panic!("{what}, without slot {slot}: {error}"),
            }
        }
    });
    let (opened, refused) = (opened.into_inner(), refused.into_inner());
    assert!(opened > refused && refused > 0, "{opened} opened, {refused} refused");
}

#[test]
fn either_slot_of_a_closed_file_opens_it() {
    let (storage, database, keyspace) = new();
    fill(&keyspace, 0..500, 1);
    drop(keyspace);
    database.close().unwrap();
    for slot in 0..2u64 {
        let copy = storage.crash_copy(CrashPlan::KeepAll);
        copy.overwrite(slot * 4096, &[0xff; 4096]);
        let (database, _) = still(&copy);
        let keyspace = database.existing_keyspace("a").unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 500, "without slot {slot}");
    }
}

#[test]
fn a_power_cut_at_any_point_of_a_close_loses_nothing() {
    let (storage, database, keyspace) = new();
    fill(&keyspace, 0..3000, 1);
    database.compact().unwrap();
    keyspace.delete_range(numbered(500)..).unwrap();
    put_with(&keyspace, &database, "z", b"1", Durability::Sync);
    drop(keyspace);
    let act = || database.close().unwrap();
    cut_before_each_operation(&storage, 1, act, |copy, what| {
        let (database, _) = still(copy);
        assert_eq!(access::verify(&database).unwrap(), None, "{what}");
        let keyspace = database.existing_keyspace("a").unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 501, "{what}");
    });
}

/// Three large values whose bytes nothing compresses.
fn large_values() -> Vec<(String, Vec<u8>)> {
    let mut random = Random::from_seed(3);
    let mut value = |n| {
        let mut bytes = vec![0; 100_000];
        random.fill(&mut bytes);
        (format!("large {n}"), bytes)
    };
    (0..3).map(&mut value).collect()
}

fn has_large_values(keyspace: &Keyspace) -> bool {
    large_values().iter().all(|(key, value)| keyspace.get(key).unwrap().unwrap() == value[..])
}

/// The values are on disk and in the log only, also in pages that no state knows of yet.
#[test]
fn values_that_only_the_log_names_are_found_and_not_written_over() {
    for durability in [Durability::Buffered, Durability::Sync] {
        let (storage, database, keyspace) = new();
        database.flush().unwrap();
        let known = database.stats().unwrap().file_bytes;
        for (key, value) in large_values() {
            put_with(&keyspace, &database, &key, &value, durability);
        }
        let mut random = Random::from_seed(9);
        let mut more = 0;
        while database.stats().unwrap().file_bytes == known {
            let mut value = vec![0; 100_000];
            random.fill(&mut value);
            put_with(&keyspace, &database, &format!("more {more}"), &value, durability);
            more += 1;
        }
        let (database, _) = still(&storage.kill());
        let keyspace = database.existing_keyspace("a").unwrap();
        assert!(has_large_values(&keyspace));
        for round in 0..3 {
            fill(&keyspace, 0..2000, round);
            assert!(has_large_values(&keyspace));
            database.flush().unwrap();
        }
        assert!(has_large_values(&keyspace));
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

/// Many keyspaces make a state that lies in blocks of its own; much in the log makes it grow.
#[test]
fn states_in_their_own_blocks_and_changes_of_the_log_leak_nothing() {
    let (storage, database, keyspace) = new();
    let mut file_bytes = 0;
    for round in 0..6u8 {
        for n in 0..40 {
            database.keyspace(&format!("{round} {n} {}", "name ".repeat(10))).unwrap();
        }
        fill(&keyspace, 0..6000, round);
        database.flush().unwrap();
        for plan in [CrashPlan::KeepNone, CrashPlan::KeepAll] {
            let (copy, _) = still(&storage.crash_copy(plan));
            assert_eq!(access::verify(&copy).unwrap(), None, "round {round}");
            let keyspace = copy.existing_keyspace("a").unwrap();
            assert_eq!(keyspace.count::<&str>(..).unwrap(), 6000);
        }
        file_bytes = database.stats().unwrap().file_bytes;
    }
    assert!(file_bytes > 0);
}

/// The slot of a state was written and its sync failed: it is read again after the death of the
/// process, and lies nowhere but in the cache.
#[test]
fn a_slot_that_lies_in_the_cache_only_is_written_again() {
    let (storage, database, keyspace) = new();
    fill(&keyspace, 0..2000, 1);
    database.flush().unwrap();
    fill(&keyspace, 0..2000, 2);
    database.sync().unwrap();
    let of = storage.clone();
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::WriteSync && operation.offset < 8192 {
            of.fail_sync_and_drop_cache();
        }
    }));
    assert!(database.flush().is_err());
    storage.clear_on_operation();
    let storage = storage.kill();
    drop((keyspace, database));
    let (database, _) = still(&storage);
    let keyspace = database.existing_keyspace("a").unwrap();
    for round in 3..6 {
        fill(&keyspace, 0..2000, round);
        put_with(&keyspace, &database, "last", &[round], Durability::Sync);
        run_all_steps(&database).unwrap();
        let (copy, _) = still(&storage.crash_copy(CrashPlan::KeepNone));
        let found = copy.existing_keyspace("a").unwrap();
        assert_eq!(found.get("last").unwrap().unwrap(), [round][..]);
        assert_eq!(found.count::<&str>(..).unwrap(), 2001);
        assert_eq!(access::verify(&copy).unwrap(), None);
    }
}

/// Commits lie in the cache, the write-back of which has failed; then the process dies.
#[test]
fn what_was_replayed_from_a_cache_that_lost_it_is_on_disk_after_the_next_sync() {
    let (storage, database, keyspace) = new();
    database.flush().unwrap();
    for n in 5..10 {
        put_with(&keyspace, &database, &format!("{n}"), b"v", Durability::Buffered);
    }
    storage.fail_sync_and_drop_cache();
    assert!(database.sync().is_err());
    let storage = storage.kill();
    drop((keyspace, database));
    let (database, _) = still(&storage);
    let keyspace = database.existing_keyspace("a").unwrap();
    let found = keyspace.count::<&str>(..).unwrap();
    put_with(&keyspace, &database, "z", b"v", Durability::Sync);
    let (copy, _) = still(&storage.crash_copy(CrashPlan::KeepNone));
    let left = copy.existing_keyspace("a").unwrap().count::<&str>(..).unwrap();
    assert_eq!((found, left), (5, 6));
}

#[test]
fn a_deleted_range_hides_what_lies_below() {
    let (_storage, database, keyspace) = new();
    fill(&keyspace, 0..2000, 1);
    database.compact().unwrap();
    keyspace.delete_range(numbered(10)..numbered(1990)).unwrap();
    keyspace.put("z", "v").unwrap();
    for what in ["in memory", "flushed", "merged"] {
        let found = (0..2000).filter(|n| keyspace.contains(numbered(*n)).unwrap()).count();
        assert_eq!((found, keyspace.count::<&str>(..).unwrap()), (20, 21), "{what}");
        if what == "in memory" {
            database.flush().unwrap();
        } else {
            database.compact().unwrap();
        }
    }
}
