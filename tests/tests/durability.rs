//! What survives which ending, commit by commit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::harness::{Plan, Totals, run};
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU32, Ordering};
use sapwood::sync::{Arc, Clock, Mutex, Random, channel, thread};
use sapwood::{Database, Durability, Error, Isolation, Result};

/// Shorter than the quiet after which a memtable is flushed, which would do the same.
const INTERVAL: Duration = Duration::from_millis(200);

fn open(storage: &SimulatedStorage) -> Result<Database> {
    Setup::tiny().open_on(Arc::new(storage.clone()))
}

fn commit(database: &Database, key: &str, durability: Durability) -> Result<()> {
    let keyspace = database.keyspace("a")?;
    let mut batch = database.batch();
    batch.put(&keyspace, key, key)?;
    batch.commit_with(durability)
}

/// The keys that are there; none when the keyspace is not.
fn keys(storage: &SimulatedStorage) -> Vec<String> {
    let database = open(storage).unwrap();
    let state = access::dump(&database).unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
    let map = state.keyspaces.get("a").cloned().unwrap_or_default();
    map.into_keys().map(|key| String::from_utf8(key).unwrap()).collect()
}

/// A made file with the keyspace in it, all of it on disk.
fn made() -> (SimulatedStorage, Database) {
    let storage = SimulatedStorage::new();
    let database = open(&storage).unwrap();
    database.keyspace("a").unwrap();
    database.flush().unwrap();
    (storage, database)
}

#[test]
fn a_synced_commit_survives_a_power_cut_that_loses_all_it_can() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Sync).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1"]);
    drop(database);
}

#[test]
fn a_synced_commit_takes_all_earlier_ones_with_it() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Memory).unwrap();
    commit(&database, "2", Durability::Buffered).unwrap();
    commit(&database, "3", Durability::Memory).unwrap();
    commit(&database, "4", Durability::Sync).unwrap();
    commit(&database, "5", Durability::Memory).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "2", "3", "4"]);
    drop(database);
}

#[test]
fn a_buffered_commit_survives_a_kill_and_may_be_lost_by_a_power_cut() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Memory).unwrap();
    commit(&database, "2", Durability::Buffered).unwrap();
    commit(&database, "3", Durability::Memory).unwrap();
    assert!(keys(&storage.crash_copy(CrashPlan::KeepNone)).is_empty());
    assert_eq!(keys(&storage.kill()), ["1", "2"]);
    drop(database);
}

/// Whatever becomes of that, what was committed beside it survives a kill, and the next sync takes
/// it along.
#[test]
fn a_buffered_commit_does_not_wait_for_a_sync_of_those_before_it() {
    let (storage, database) = made();
    let names = |round: u32| [0, 1, 2].map(|n| format!("{round} beside {n}"));
    let (ask, asked) = channel::unbounded::<u32>();
    let (answer, answered) = channel::unbounded::<()>();
    let beside = database.clone();
    let helper = thread::spawn("beside", move || {
        while let Ok(round) = asked.recv() {
            names(round).iter().for_each(|key| {
                commit(&beside, key, Durability::Buffered).unwrap();
            });
            answer.send(()).unwrap();
        }
    });
    let (round, met) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (at, into, of) = (round.clone(), met.clone(), storage.clone());
    let (ask, answered) = (Mutex::new(Some(ask)), Mutex::new(answered));
    let waiting = Arc::new(AtomicU32::new(0));
    let hung = waiting.clone();
    storage.on_synced_write(Box::new(move |_| {
        let at = at.load(Ordering::SeqCst);
        let mut ask = ask.lock();
        if ask.as_ref().is_none_or(|ask| ask.send(at).is_err()) {
            return;
        }
        if answered.lock().recv_timeout(Duration::from_secs(20)).is_err() {
            hung.fetch_add(1, Ordering::SeqCst);
            *ask = None;
        }
        into.lock().push((at, of.crash_copy(CrashPlan::KeepAll)));
    }));
    for number in 1..6 {
        round.store(number, Ordering::SeqCst);
        commit(&database, &format!("{number} before"), Durability::Buffered).unwrap();
        database.sync().unwrap();
    }
    storage.clear_on_operation();
    helper.unwrap().join().unwrap();
    assert_eq!(waiting.load(Ordering::SeqCst), 0, "a commit waited for the device");
    let met = std::mem::take(&mut *met.lock());
    assert_eq!(met.len(), 5);
    for (round, killed) in met {
        let there = keys(&killed);
        let before = (1..=round).map(|n| format!("{n} before"));
        for key in before.chain((1..=round).flat_map(names)) {
            assert!(there.contains(&key), "{key} is lost in round {round}");
        }
    }
    commit(&database, "last", Durability::Sync).unwrap();
    let there = keys(&storage.crash_copy(CrashPlan::KeepNone));
    assert_eq!(there.len(), 5 * 4 + 1);
}

#[test]
fn a_memory_commit_is_visible_at_once_and_a_sync_takes_it_along() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Memory).unwrap();
    assert!(database.keyspace("a").unwrap().contains("1").unwrap());
    assert!(keys(&storage.crash_copy(CrashPlan::KeepAll)).is_empty());
    database.sync().unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1"]);
    commit(&database, "2", Durability::Memory).unwrap();
    database.flush().unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "2"]);
}

#[test]
fn a_buffered_commit_is_on_disk_when_the_interval_has_passed_and_its_step_was_run() {
    let storage = SimulatedStorage::new();
    let (clock, hand) = Clock::fake();
    let builder = Setup::tiny().builder().clock(clock).sync_interval(INTERVAL);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    database.keyspace("a").unwrap();
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    commit(&database, "1", Durability::Buffered).unwrap();
    hand.advance(Duration::from_millis(100));
    run_all_steps(&database).unwrap();
    assert!(keys(&storage.crash_copy(CrashPlan::KeepNone)).is_empty());
    hand.advance(INTERVAL - Duration::from_millis(100));
    run_all_steps(&database).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1"]);
}

/// The process that was to sync them is gone: the next one does it, also when it only reads.
#[test]
fn what_a_killed_process_left_unsynced_is_on_disk_when_the_interval_has_passed_after_the_open() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Buffered).unwrap();
    commit(&database, "2", Durability::Buffered).unwrap();
    let storage = storage.kill();
    drop(database);
    let (clock, hand) = Clock::fake();
    let builder = Setup::tiny().builder().clock(clock).sync_interval(INTERVAL);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    hand.advance(INTERVAL - Duration::from_millis(1));
    run_all_steps(&database).unwrap();
    assert!(keys(&storage.crash_copy(CrashPlan::KeepNone)).is_empty());
    hand.advance(Duration::from_millis(1));
    run_all_steps(&database).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "2"]);
    drop(database);
}

/// A commit of `Buffered` is one also when it changes nothing: what it took along is synced in
/// time.
#[test]
fn a_memory_commit_that_an_empty_buffered_one_took_along_is_on_disk_after_the_interval() {
    let storage = SimulatedStorage::new();
    let (clock, hand) = Clock::fake();
    let builder = Setup::tiny().builder().clock(clock).sync_interval(INTERVAL);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    database.keyspace("a").unwrap();
    database.flush().unwrap();
    hand.advance(INTERVAL);
    run_all_steps(&database).unwrap();
    commit(&database, "1", Durability::Memory).unwrap();
    database.batch().commit_with(Durability::Buffered).unwrap();
    hand.advance(INTERVAL);
    assert!(database.run_step().unwrap());
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1"]);
}

#[test]
fn after_a_kill_one_synced_commit_takes_along_what_was_only_replayed() {
    let (storage, database) = made();
    for key in ["5", "6", "7", "8", "9"] {
        commit(&database, key, Durability::Buffered).unwrap();
    }
    let storage = storage.kill();
    drop(database);
    let database = open(&storage).unwrap();
    commit(&database, "z", Durability::Sync).unwrap();
    let left = storage.crash_copy(CrashPlan::KeepNone);
    assert_eq!(keys(&left), ["5", "6", "7", "8", "9", "z"]);
    drop(database);
}

/// A commit is one also when it changes nothing: what came before it is as durable as it asks for.
#[test]
fn a_synced_commit_whose_writes_come_to_nothing_takes_all_earlier_ones_with_it() {
    let (storage, database) = made();
    let keyspace = database.existing_keyspace("a").unwrap();
    commit(&database, "1", Durability::Memory).unwrap();
    commit(&database, "2", Durability::Buffered).unwrap();
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let mut transaction = database.begin(isolation).unwrap();
        transaction.delete_range(&keyspace, "m".."m").unwrap();
        transaction.commit_with(Durability::Sync).unwrap();
        assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "2"]);
    }
    commit(&database, "3", Durability::Memory).unwrap();
    database.batch().commit_with(Durability::Buffered).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepAll)), ["1", "2", "3"]);
    database.batch().commit_with(Durability::Sync).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "2", "3"]);
}

/// A power cut at each operation of the first write after an open, with the pending writes torn in
/// several ways. Also one that has nothing to say may be that.
#[test]
fn a_power_cut_during_the_first_write_after_an_open_loses_no_synced_commit() {
    let first_writes: [fn(&Database); 3] = [
        |database| commit(database, "4", Durability::Sync).unwrap(),
        |database| database.batch().commit_with(Durability::Buffered).unwrap(),
        |database| {
            let keyspace = database.existing_keyspace("a").unwrap();
            let mut transaction = database.begin(Isolation::Serializable).unwrap();
            transaction.delete_range(&keyspace, "m".."m").unwrap();
            transaction.commit_with(Durability::Buffered).unwrap();
        },
    ];
    for (index, first_write) in first_writes.into_iter().enumerate() {
        let (storage, database) = made();
        let keyspace = database.keyspace("a").unwrap();
        for key in ["1", "2", "3"] {
            let mut batch = database.batch();
            batch.put(&keyspace, key, vec![b'v'; 3000]).unwrap();
            batch.commit_with(Durability::Sync).unwrap();
        }
        let storage = storage.crash_with(CrashPlan::KeepNone);
        drop((keyspace, database));
        let copies = copies_of_each_operation(&storage, 16, || {
            let database = open(&storage).unwrap();
            first_write(&database);
            // Copies are taken before each operation: one more comes after the last of those.
            database.sync().unwrap();
            drop(database);
        });
        for (operation, seed, copy) in copies {
            let mut found = keys(&copy);
            found.retain(|key| key != "4");
            assert_eq!(found, ["1", "2", "3"], "write {index}, operation {operation}, seed {seed}");
        }
    }
}

/// A sync that failed has left commits in the cache, marked clean: the next process reads them, and
/// no sync brings them to the disk any more. So nothing may say that they are there, and a synced
/// commit is acknowledged only when they have been written anew.
#[test]
fn a_commit_after_a_failed_sync_and_a_kill_relies_on_nothing_that_the_cache_holds() {
    // The large values lie in blocks of their own, which the log names.
    for (earlier, value_bytes) in [(1, 10), (3, 1000), (1, 70_000), (2, 100_000)] {
        let (storage, database) = made();
        commit(&database, "1", Durability::Sync).unwrap();
        for n in 0..earlier {
            let mut batch = database.batch();
            let keyspace = database.existing_keyspace("a").unwrap();
            batch.put(&keyspace, format!("lost {n}"), vec![n as u8; value_bytes]).unwrap();
            batch.commit_with(Durability::Buffered).unwrap();
        }
        storage.fail_sync_and_drop_cache();
        assert!(database.flush().is_err());
        let storage = storage.kill();
        drop(database);
        let copies = copies_of_each_operation(&storage, 4, || {
            let database = open(&storage).unwrap();
            commit(&database, "z", Durability::Sync).unwrap();
            drop(database);
        });
        assert!(copies.len() > 20);
        for (operation, seed, copy) in copies {
            let found = keys(&copy);
            assert_eq!(found[0], "1", "operation {operation}, seed {seed}");
            let expected = if found.contains(&"z".to_owned()) { 2 + earlier } else { 1 };
            assert!(found.len() >= expected, "operation {operation}, seed {seed}: {found:?}");
        }
    }
}

/// The record that names a state is in the cache alone, and no commit lies behind it that would be
/// flushed. What is committed after the next open would lie behind bytes that nobody ever writes.
#[test]
fn a_commit_behind_the_lost_record_of_a_state_is_there_after_a_power_cut() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Sync).unwrap();
    let (of, log_from) = (storage.clone(), 2 * 4096);
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::WriteSync && operation.offset >= log_from {
            of.fail_sync_and_drop_cache();
        }
    }));
    assert!(database.flush().is_err());
    storage.clear_on_operation();
    let storage = storage.kill();
    drop(database);
    let database = open(&storage).unwrap();
    commit(&database, "z", Durability::Sync).unwrap();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1", "z"]);
}

/// The nodes of a state are in the cache when another thread's sync fails: the system tells that
/// once, and the state's own sync says that all is well.
#[test]
fn a_state_beside_which_a_sync_has_failed_gets_no_slot() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Sync).unwrap();
    let (of, beside, begun) = (storage.clone(), database.clone(), AtomicU32::new(0));
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::Sync && begun.fetch_add(1, Ordering::Relaxed) == 0 {
            of.fail_sync_and_drop_cache();
            let beside = beside.clone();
            let large = thread::spawn("large", move || {
                let keyspace = beside.existing_keyspace("a")?;
                let mut batch = beside.batch();
                batch.put(&keyspace, "2", vec![2; 70_000])?;
                batch.commit_with(Durability::Sync)
            });
            assert!(large.unwrap().join().unwrap().is_err());
        }
    }));
    assert!(database.flush().is_err());
    storage.clear_on_operation();
    assert_eq!(keys(&storage.crash_copy(CrashPlan::KeepNone)), ["1"]);
}

/// The first state after the making of a file is torn, and so is what the next open writes first.
#[test]
fn two_power_cuts_in_a_new_file_leave_a_slot_that_can_be_read() {
    let storage = SimulatedStorage::new();
    let database = open(&storage).unwrap();
    commit(&database, "1", Durability::Sync).unwrap();
    let first = torn_copies(&storage, 4096, 16, || database.flush().unwrap());
    assert!(!first.is_empty());
    for (seed, torn) in first {
        let database = open(&torn).unwrap();
        for (then, copy) in torn_copies(&torn, 0, 64, || commit(&database, "z", SYNC).unwrap()) {
            assert_eq!(keys(&copy)[0], "1", "seeds {seed} and {then}");
        }
    }
}

const SYNC: Durability = Durability::Sync;

/// What power cuts would leave in the middle of each synced write at `offset` while `act` runs.
fn torn_copies(
    storage: &SimulatedStorage,
    offset: u64,
    seeds: u64,
    act: impl FnOnce(),
) -> Vec<(u64, SimulatedStorage)> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (copies.clone(), storage.clone());
    storage.on_synced_write(Box::new(move |operation| {
        if operation.offset == offset {
            let torn = (0..seeds).map(|seed| (seed, of.crash_copy(CrashPlan::Random(seed))));
            into.lock().extend(torn);
        }
    }));
    act();
    storage.clear_on_operation();
    std::mem::take(&mut *copies.lock())
}

/// The sync that failed was to write that the file had grown.
#[test]
fn a_length_that_a_failed_sync_lost_is_written_again() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Sync).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    // What a transaction has spilled makes the file longer, and nobody needs it after the kill.
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut random = Random::from_seed(5);
    for n in 0..200 {
        let value: Vec<u8> = (0..30_000).map(|_| random.below(256) as u8).collect();
        transaction.put(&keyspace, format!("spilled {n}"), value).unwrap();
    }
    let durable = storage.crash_copy(CrashPlan::KeepNone).image().len();
    assert!(storage.image().len() > durable, "the file has not grown");
    storage.fail_sync_and_drop_cache();
    assert!(database.flush().is_err() || database.sync().is_err());
    let storage = storage.kill();
    drop((transaction, keyspace, database));
    let copies = copies_of_each_operation(&storage, 2, || {
        let database = open(&storage).unwrap();
        commit(&database, "z", Durability::Sync).unwrap();
        drop(database);
    });
    for (operation, seed, copy) in copies {
        let opened = open(&copy).unwrap_or_else(|e| panic!("{operation}, seed {seed}: {e}"));
        assert_eq!(access::verify(&opened).unwrap(), None, "{operation}, seed {seed}");
    }
}

/// What a power cut would leave before each changing operation of `act`, for several seeds.
fn copies_of_each_operation(
    storage: &SimulatedStorage,
    seeds: u64,
    act: impl FnOnce(),
) -> Vec<(u64, u64, SimulatedStorage)> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (Arc::clone(&copies), storage.clone());
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::Read {
            return;
        }
        for seed in 0..seeds {
            let plan = CrashPlan::Random(operation.index * 100 + seed);
            into.lock().push((operation.index, seed, of.crash_copy(plan)));
        }
    }));
    act();
    storage.clear_on_operation();

    std::mem::take(&mut *copies.lock())
}

#[test]
fn a_power_cut_while_a_database_is_made_leaves_what_can_be_opened_or_made_again() {
    let storage = SimulatedStorage::new();
    let copies = copies_of_each_operation(&storage, 4, || {
        open(&storage).unwrap().close().unwrap();
    });
    for (operation, seed, copy) in copies {
        let opened = open(&copy).map(|database| database.keyspaces().unwrap());
        match opened {
            Ok(names) => assert!(names.is_empty()),
            Err(error) => panic!("operation {operation}, seed {seed}: {error}"),
        }
    }
}

#[test]
fn after_a_failed_sync_writes_are_refused_with_the_cause_and_reads_go_on() {
    let (storage, database) = made();
    commit(&database, "1", Durability::Sync).unwrap();
    storage.fail_sync_and_drop_cache();
    let failed = commit(&database, "2", Durability::Sync);
    assert!(failed.is_err());
    for _ in 0..2 {
        let error = commit(&database, "3", Durability::Buffered).unwrap_err();
        assert!(matches!(error, Error::Stopped(_)), "{error}");
        assert!(error.to_string().contains("reopen"), "{error}");
    }
    assert!(database.flush().is_err());
    let keyspace = database.existing_keyspace("a").unwrap();
    assert!(keyspace.contains("1").unwrap());
    assert!(!keyspace.contains("2").unwrap());
    assert!(!keyspace.contains("3").unwrap());
    let storage = storage.crash_with(CrashPlan::KeepAll);
    drop(database);
    let found = keys(&storage);
    assert!(found == ["1"] || found == ["1", "2"], "{found:?}");
}

#[test]
fn a_write_that_fails_part_way_leaves_the_commit_whole_or_not_at_all() {
    for nth in 1..12 {
        let (storage, database) = made();
        storage.set_seed(nth);
        storage.fail_at(FaultKind::Write, nth, true, std::io::ErrorKind::Other);
        let mut acknowledged = 0;
        for n in 0..20 {
            match commit(&database, &format!("{n:02}"), Durability::Sync) {
                Ok(()) => acknowledged = n + 1,
                Err(_) => break,
            }
        }
        let storage = storage.crash_with(CrashPlan::Random(nth));
        drop(database);
        let found = keys(&storage);
        assert!((acknowledged..=acknowledged + 1).contains(&found.len()), "{nth}: {found:?}");
    }
}

/// Random workloads with kills and power cuts; `crash_lsm --seeds 1 --from S --trace` shows one
/// again.
#[test]
fn random_crashes_lose_nothing_that_had_to_survive() {
    let mut totals = Totals::default();
    let mut found = Vec::new();
    for seed in 100_000..100_150 {
        let plan = Plan { creation: false, faults: false, ..Plan::of_seed(seed) };
        match run(plan) {
            Ok(run) => totals.add(&run),
            Err(failure) => found.push(failure.to_string()),
        }
    }
    assert!(found.is_empty(), "{} of 150 seeds: {found:#?}", found.len());
    assert!(totals.kills > 0 && totals.power_cuts > 0 && totals.copies > 100, "{totals}");
}

#[test]
fn random_failures_of_writes_and_syncs_lose_nothing_that_had_to_survive() {
    let mut totals = Totals::default();
    let mut found = Vec::new();
    for seed in 200_000..200_150 {
        let plan = Plan { creation: false, faults: true, ..Plan::of_seed(seed) };
        match run(plan) {
            Ok(run) => totals.add(&run),
            Err(failure) => found.push(failure.to_string()),
        }
    }
    assert!(found.is_empty(), "{} of 150 seeds: {found:#?}", found.len());
    assert!(totals.failed_writes > 0, "{totals}");
}

/// The record of a `Memory` commit fills the log's buffer, so its thread writes that. A commit
/// before it made it visible meanwhile; then the write failed, and `Stopped` was said of what all
/// saw.
#[test]
fn what_has_become_visible_was_committed_whatever_fails_afterwards() {
    let storage = SimulatedStorage::new();
    let builder = Database::builder().memory_budget(64 << 20).merge_threads(0);
    let builder = builder.durability(Durability::Memory);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let (core, failed) = (database.core().unwrap(), Arc::new(AtomicU32::new(0)));
    let (of, count) = (storage.clone(), failed.clone());
    storage.on_operation(Box::new(move |operation| {
        if operation.kind != OperationKind::Write {
            return;
        }
        let log = core.log.positions();
        if log.end.0 - log.written.0 >= 1 << 20 {
            count.fetch_add(1, Ordering::SeqCst);
            // As the end of any other commit does.
            core.publisher.publish(log);
            of.fail_at(FaultKind::Write, 1, true, std::io::ErrorKind::Other);
        }
    }));
    let mut done = Vec::new();
    while failed.load(Ordering::SeqCst) == 0 {
        done.push(keyspace.put(format!("{}", done.len()), vec![7; 50_000]).is_ok());
    }
    storage.clear_on_operation();
    assert!(done.len() > 10 && failed.load(Ordering::SeqCst) == 1);
    for (number, done) in done.into_iter().enumerate() {
        let visible = keyspace.contains(format!("{number}")).unwrap();
        assert_eq!(visible, done, "{number} is visible, or not, against what its commit said");
    }
    assert!(matches!(keyspace.put("after", "v"), Err(Error::Stopped(_))));
}
