//! What an open finds after every way to end: recovery that is itself interrupted, many times over.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::model::State;
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, OperationKind, SimulatedStorage};
use sapwood::sync::{Arc, Mutex, Random};
use sapwood::{Database, Durability, Isolation};

#[path = "recovery/crafted.rs"]
mod crafted;

fn open(storage: &SimulatedStorage) -> Database {
    Setup::tiny().open_on(Arc::new(storage.clone())).unwrap()
}

fn content(storage: &SimulatedStorage) -> State {
    let database = open(storage);
    let state = access::dump(&database).unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
    state
}

/// What a kill would leave before each changing operation of `act`.
fn copies(storage: &SimulatedStorage, act: impl FnOnce()) -> Vec<SimulatedStorage> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (Arc::clone(&copies), storage.clone());
    storage.on_operation(Box::new(move |_| into.lock().push(of.crash_copy(CrashPlan::KeepAll))));
    act();
    storage.clear_on_operation();
    std::mem::take(&mut *copies.lock())
}

fn with_log() -> (SimulatedStorage, State) {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..200u32 {
        let mut batch = database.batch();
        batch.put(&keyspace, format!("{n:04}"), vec![b'v'; (n % 90) as usize]).unwrap();
        if n % 40 == 7 {
            batch.put(&keyspace, format!("large {n}"), vec![b'l'; 20_000]).unwrap();
        }
        batch.commit_with(Durability::Sync).unwrap();
        if n == 100 {
            database.flush().unwrap();
        }
    }
    keyspace.delete_range("0050".."0060").unwrap();
    database.rename_keyspace("a", "b").unwrap();
    database.keyspace("c").unwrap();
    database.sync().unwrap();
    let state = access::dump(&database).unwrap();
    let left = storage.crash_with(CrashPlan::KeepNone);
    drop(database);
    (left, state)
}

#[test]
fn the_log_is_replayed_whole_with_its_catalogue_and_large_values() {
    let (storage, state) = with_log();
    assert_eq!(content(&storage).difference(&state), None);
}

#[test]
fn an_open_interrupted_at_each_of_its_operations_finds_the_same_the_next_time() {
    let (storage, state) = with_log();
    let first = copies(&storage, || drop(open(&storage)));
    assert!(!first.is_empty());
    for copy in first {
        assert_eq!(content(&copy).difference(&state), None);
    }
}

#[test]
fn opens_interrupted_twice_over_find_the_same() {
    let (storage, state) = with_log();
    let first = copies(&storage, || drop(open(&storage)));
    for copy in first.iter().step_by(first.len() / 4 + 1) {
        let second = copies(copy, || drop(open(copy)));
        for copy in second.iter().step_by(second.len() / 6 + 1) {
            assert_eq!(content(copy).difference(&state), None);
        }
    }
}

/// The making of a file was refused for ever where a torn write had left anything in its place.
#[test]
fn a_making_that_is_cut_short_anywhere_is_begun_again() {
    let storage = SimulatedStorage::new();
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (before, under_way) = (Arc::clone(&copies), Arc::clone(&copies));
    let (of, of_under_way) = (storage.clone(), storage.clone());
    let crash = |of: &SimulatedStorage| -> Vec<SimulatedStorage> {
        (0..100).map(|seed| of.crash_copy(CrashPlan::Random(seed))).collect()
    };
    storage.on_operation(Box::new(move |_| before.lock().extend(crash(&of))));
    storage.on_synced_write(Box::new(move |_| under_way.lock().extend(crash(&of_under_way))));
    let database = open(&storage);
    storage.clear_on_operation();
    drop(database);
    let copies = std::mem::take(&mut *copies.lock());
    assert!(copies.len() > 1_000, "{} crashes", copies.len());
    for copy in copies {
        let database = open(&copy);
        database.keyspace("a").unwrap().put("key", "value").unwrap();
        database.close().unwrap();
        let database = open(&copy);
        let value = database.keyspace("a").unwrap().get("key").unwrap();
        assert_eq!(value.as_deref(), Some(&b"value"[..]));
    }
}

/// The second making left what the first had torn, and a power cut tore its own mark: then neither
/// a making nor a slot was there, and the file was refused for ever.
#[test]
fn a_making_that_is_cut_short_twice_is_begun_again() {
    let storage = SimulatedStorage::new();
    for first in makings(&storage) {
        for second in makings(&first) {
            open(&second).keyspace("a").unwrap().put("key", "value").unwrap();
        }
    }
}

/// A kill leaves what it had begun in the system's cache, and the power fails in the next making:
/// then the lengths of both were on their way to the disk, and any of them came last.
#[test]
fn a_making_behind_one_that_was_killed_is_begun_again() {
    let mut kills = 0;
    loop {
        let storage = SimulatedStorage::new();
        let killed = Arc::new(Mutex::new(None));
        let (of, kept, at) = (storage.clone(), Arc::clone(&killed), kills);
        storage.on_operation(Box::new(move |operation| {
            if operation.index == at {
                *kept.lock() = Some(of.kill());
            }
        }));
        let opened = Setup::tiny().open_on(Arc::new(storage.clone()));
        storage.clear_on_operation();
        let Some(storage) = killed.lock().take() else { break };
        drop(opened);
        kills += 1;
        let copies = Arc::new(Mutex::new(Vec::new()));
        let (before, of) = (Arc::clone(&copies), storage.clone());
        storage.on_operation(Box::new(move |operation| {
            let seeds = (0..4).map(|seed| 100 * operation.index + seed);
            before.lock().extend(seeds.map(|seed| of.crash_copy(CrashPlan::Random(seed))));
        }));
        drop(open(&storage));
        storage.clear_on_operation();
        for copy in std::mem::take(&mut *copies.lock()) {
            open(&copy).keyspace("a").unwrap().put("key", "value").unwrap();
        }
    }
    assert!(kills > 10, "{kills} kills");
}

/// What power cuts leave while the file is opened: between two syncs all or nothing of the writes;
/// in the middle of each synced write also its first bytes, and zeros or garbage behind them.
fn makings(storage: &SimulatedStorage) -> Vec<SimulatedStorage> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (before, of) = (copies.clone(), storage.clone());
    storage.on_operation(Box::new(move |operation| {
        if matches!(operation.kind, OperationKind::Sync | OperationKind::WriteSync) {
            let plans = [CrashPlan::KeepNone, CrashPlan::KeepPrefix(1), CrashPlan::KeepAll];
            before.lock().extend(plans.map(|plan| of.crash_copy(plan)));
        }
    }));
    let (under_way, of) = (copies.clone(), storage.clone());
    storage.on_synced_write(Box::new(move |operation| {
        for (kept, filling) in [(0, 0), (0, 0xa5), (512, 0), (512, 0xa5)] {
            let torn = of.crash_copy(CrashPlan::KeepAll);
            let rest = operation.length.saturating_sub(kept) as usize;
            torn.overwrite(operation.offset + kept, &vec![filling; rest]);
            under_way.lock().push(torn);
        }
    }));
    drop(open(storage));
    storage.clear_on_operation();
    std::mem::take(&mut *copies.lock())
}

#[test]
fn fifty_kills_in_a_row_lose_nothing() {
    let mut storage = SimulatedStorage::new();
    let mut random = Random::from_seed(1);
    for round in 0..50u64 {
        let database = open(&storage);
        let keyspace = database.keyspace("a").unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), round);
        let mut batch = database.batch();
        batch.put(&keyspace, format!("{round}"), vec![b'v'; random.below(3000) as usize]).unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
        match random.below(4) {
            0 => database.flush().unwrap(),
            1 => run_all_steps(&database).unwrap(),
            _ => {}
        }
        storage = storage.kill();
        drop(database);
    }
}

#[test]
fn numbers_are_never_given_out_twice_over_crashes() {
    let mut storage = SimulatedStorage::new();
    let mut last = None;
    for round in 0..20u64 {
        let database = open(&storage);
        let keyspace = database.keyspace("a").unwrap();
        for n in 0..5 {
            keyspace.put(format!("{n}"), format!("{round}")).unwrap();
            let now = database.snapshot().unwrap().sequence();
            assert!(Some(now) > last, "round {round}");
            last = Some(now);
        }
        storage = storage.crash_with(CrashPlan::Random(round));
        drop(database);
    }
}

#[test]
fn a_transaction_that_was_open_at_the_crash_leaves_nothing_and_leaks_nothing() {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("k", "v").unwrap();
    database.flush().unwrap();
    let mut transaction = database.begin(Isolation::Serializable).unwrap();
    for n in 0..100 {
        transaction.put(&keyspace, format!("{n}"), vec![b'x'; 5000]).unwrap();
    }
    let left = storage.crash_with(CrashPlan::KeepAll);
    drop((transaction, keyspace, database));
    let state = content(&left);
    assert_eq!(state.keyspaces["a"].len(), 1);
}

#[test]
fn a_snapshot_that_was_held_at_the_crash_leaks_nothing() {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    let keyspace = database.keyspace("a").unwrap();
    for round in 0..4 {
        for n in 0..200 {
            keyspace.put(format!("{n:03}"), format!("{round} {n}")).unwrap();
        }
        let snapshot = database.snapshot().unwrap();
        database.compact().unwrap();
        std::mem::forget(snapshot);
    }
    let left = storage.crash_copy(CrashPlan::KeepNone);
    assert_eq!(content(&left).keyspaces["a"].len(), 200);
}
