//! Reclaim: what is no longer needed is free again, at once, and the file stays small.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::ErrorKind;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::state::durable::{Purpose, make_durable};
use sapwood::storage::{FaultKind, MemoryStorage, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sapwood::sync::thread::spawn;
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Compression, Database, Durability, Error, Isolation, Keyspace, KeyspaceOptions};

fn tiny() -> (Database, Keyspace) {
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let options = KeyspaceOptions::default().compression(Compression::None);
    let keyspace = database.keyspace_with("a", options).unwrap();
    (database, keyspace)
}

fn fill(keyspace: &Keyspace, count: u32, round: u32) {
    let mut random = Random::from_seed(u64::from(round));
    for n in 0..count {
        let mut value = vec![0; 100];
        random.fill(&mut value);
        keyspace.put(format!("{n:06}"), value).unwrap();
    }
}

/// Everything flushed and merged, and nothing held that is not needed.
fn settle(database: &Database) {
    for _ in 0..3 {
        database.flush().unwrap();
        run_all_steps(database).unwrap();
        database.wait_until_idle().unwrap();
    }
}

/// What the data takes, with what is dead and held; without the log.
fn used_bytes(database: &Database) -> u64 {
    let (live, held) = access::live_and_held_bytes(database).unwrap();
    live + held
}

#[test]
fn when_writes_pause_the_log_goes_back_to_its_smallest_size() {
    let (database, keyspace) = tiny();
    let taken = || {
        let stats = database.stats().unwrap();
        stats.file_bytes - stats.free_bytes - used_bytes(&database)
    };
    settle(&database);
    let empty = taken();
    fill(&keyspace, 20_000, 0);
    settle(&database);
    let after = taken();
    assert!(after <= empty + empty / 4, "{empty} bytes at first, {after} after writes paused");
}

#[test]
fn when_all_is_deleted_the_file_is_cut() {
    let (database, keyspace) = tiny();
    settle(&database);
    let empty = database.stats().unwrap().file_bytes;
    fill(&keyspace, 10_000, 0);
    settle(&database);
    let full = database.stats().unwrap().file_bytes;
    keyspace.delete_range::<&str>(..).unwrap();
    settle(&database);
    database.compact().unwrap();
    settle(&database);
    let after = database.stats().unwrap().file_bytes;
    assert!(after <= empty + (full - empty) / 4, "{empty} empty, {full} full, {after} after");
}

#[test]
fn overwriting_the_same_keys_over_and_over_does_not_grow_the_file_without_end() {
    let (database, keyspace) = tiny();
    fill(&keyspace, 3000, 0);
    settle(&database);
    let once = database.stats().unwrap().file_bytes;
    for round in 1..15 {
        fill(&keyspace, 3000, round);
        settle(&database);
    }
    let many = database.stats().unwrap().file_bytes;
    assert!(many <= once * 3, "{once} bytes after one round, {many} after 15");
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn deleting_everything_gives_its_space_back() {
    let (database, keyspace) = tiny();
    let empty = used_bytes(&database);
    fill(&keyspace, 5000, 0);
    settle(&database);
    let full = used_bytes(&database);
    assert!(full > empty + 500_000);
    keyspace.delete_range::<&str>(..).unwrap();
    settle(&database);
    database.compact().unwrap();
    settle(&database);
    let after = used_bytes(&database);
    assert!(after <= empty + (full - empty) / 20, "{empty} empty, {full} full, {after} after");
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_dropped_keyspace_gives_its_space_back() {
    let (database, keyspace) = tiny();
    let empty = used_bytes(&database);
    fill(&keyspace, 5000, 0);
    for n in 0..20 {
        keyspace.put(format!("large {n}"), vec![n; 40_000]).unwrap();
    }
    settle(&database);
    let full = used_bytes(&database);
    drop(keyspace);
    database.drop_keyspace("a").unwrap();
    settle(&database);
    let after = used_bytes(&database);
    assert!(after <= empty + (full - empty) / 20, "{empty} empty, {full} full, {after} after");
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_held_snapshot_keeps_its_blocks_and_gives_them_back_when_it_goes() {
    let (database, keyspace) = tiny();
    fill(&keyspace, 2000, 0);
    settle(&database);
    let before = access::dump(&database).unwrap();
    let alone = used_bytes(&database);
    let snapshot = database.snapshot().unwrap();
    fill(&keyspace, 2000, 1);
    settle(&database);
    database.compact().unwrap();
    settle(&database);
    let held = database.stats().unwrap();
    assert!(held.held_states > 0 && held.held_bytes > 100_000, "{held}");
    let seen = access::dump_snapshot(&snapshot, &keyspace).unwrap();
    assert!(seen == before.keyspaces["a"]);
    drop(snapshot);
    settle(&database);
    let after = used_bytes(&database);
    assert!(after < alone + alone / 2, "{alone} bytes before, {after} after the snapshot went");
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// An old snapshot must not keep blocks that were born and died after it.
#[test]
fn an_old_snapshot_does_not_keep_younger_dead_blocks() {
    let (database, keyspace) = tiny();
    fill(&keyspace, 2000, 0);
    settle(&database);
    let snapshot = database.snapshot().unwrap();
    for round in 1..4 {
        fill(&keyspace, 2000, round);
        settle(&database);
    }
    let early = used_bytes(&database);
    for round in 4..16 {
        fill(&keyspace, 2000, round);
        settle(&database);
    }
    let late = used_bytes(&database);
    assert!(late < early + early / 3, "{early} bytes after 4 rounds, {late} after 16");
    assert_eq!(access::dump_snapshot(&snapshot, &keyspace).unwrap().len(), 2000);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn overwritten_large_values_give_their_blocks_back() {
    let (database, keyspace) = tiny();
    let mut random = Random::from_seed(1);
    let mut value = vec![0; 100_000];
    let mut put_all = |count: u32| {
        for n in 0..count {
            random.fill(&mut value);
            keyspace.put(format!("{}", n % 5), &value).unwrap();
            if n % 5 == 4 {
                settle(&database);
            }
        }
        database.compact().unwrap();
        settle(&database);
        used_bytes(&database)
    };
    let once = put_all(5);
    let many = put_all(60);
    assert!(many < once + once / 2, "{once} bytes after one round, {many} after more");
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn what_was_free_at_the_close_is_free_at_the_open() {
    let storage = Arc::new(MemoryStorage::new());
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let database = setup.open_on(Arc::clone(&storage) as _).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    fill(&keyspace, 3000, 0);
    settle(&database);
    keyspace.delete_range("001000"..).unwrap();
    settle(&database);
    drop(keyspace);
    database.close().unwrap();
    let mut sizes = Vec::new();
    for _ in 0..5 {
        let database = setup.open_on(Arc::clone(&storage) as _).unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
        sizes.push(used_bytes(&database));
        database.close().unwrap();
    }
    assert!(sizes.windows(2).all(|two| two[1] <= two[0] + 16 * 1024), "{sizes:?}");
}

#[test]
fn at_rest_each_key_range_lies_in_one_segment() {
    let (database, keyspace) = tiny();
    for round in 0..5 {
        fill(&keyspace, 500, round);
        settle(&database);
    }
    let stats = database.stats().unwrap();
    let levels: u64 =
        stats.keyspaces.iter().flat_map(|of| &of.levels).map(|level| level.segments).sum();
    assert_eq!(stats.young_segments + levels, 1, "{stats}");
}

/// At rest the file is at most 1.25 times what the same content takes when it is written anew.
#[test]
fn at_rest_the_space_in_use_is_close_to_that_of_a_fresh_build() {
    let (database, keyspace) = tiny();
    let mut random = Random::from_seed(2);
    for _ in 0..20_000 {
        let n = random.below(4000);
        let mut value = vec![0; 100];
        random.fill(&mut value);
        keyspace.put(format!("{n:06}"), value).unwrap();
    }
    settle(&database);
    let at_rest = used_bytes(&database);
    let (fresh, other) = tiny();
    for pair in keyspace.iter().unwrap() {
        let (key, value) = pair.unwrap();
        other.put(key, value).unwrap();
    }
    settle(&fresh);
    fresh.compact().unwrap();
    settle(&fresh);
    let least = used_bytes(&fresh);
    assert!(at_rest as f64 <= least as f64 * 1.25, "{at_rest} bytes at rest, {least} fresh");
}

/// A durable state that fails for want of space takes back what its log list has changed in the
/// map. Who looks at the map meanwhile must not take that for the log that is in force.
#[test]
fn a_check_beside_a_durable_state_that_finds_no_space_reports_nothing() {
    let storage = SimulatedStorage::new();
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
    let database = builder.clock(Clock::fake().0).open_on(Arc::new(storage.clone())).unwrap();
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    let core = database.core().unwrap();
    let real = Clock::real();
    core.durable.want_room(3 << 20);
    make_durable(&core, Purpose::Running).unwrap();
    database.flush().unwrap();
    for _ in 0..20 {
        let install = core.install_order.lock();
        let beside = database.clone();
        let check = spawn("check", move || access::verify(&beside).unwrap()).unwrap();
        // Time to ask for the log's blocks, and to wait for the lock.
        real.sleep(Duration::from_millis(5));
        storage.fail_at(FaultKind::Write, 1, true, ErrorKind::StorageFull);
        let slow = real.clone();
        storage.on_operation(Box::new(move |operation| {
            if operation.kind == OperationKind::Write {
                slow.sleep(Duration::from_millis(20));
            }
        }));
        drop(install);
        assert!(make_durable(&core, Purpose::Idle).unwrap_err().is_no_space());
        storage.clear_on_operation();
        assert_eq!(check.join().unwrap(), None);
    }
}

/// What the commit had written was in no list until its record named it, so a check that met the
/// sync of a slow device took it for leaked.
#[test]
fn a_check_beside_the_commit_of_large_values_finds_an_owner_for_every_page() {
    let storage = SimulatedStorage::new();
    let setup = Setup { durability: Durability::Sync, ..Setup::tiny() };
    let database = setup.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let (checks, is_checking) = (Arc::new(AtomicU32::new(0)), AtomicBool::new(false));
    let (count, of) = (checks.clone(), database.clone());
    storage.on_operation(Box::new(move |operation| {
        let kinds = [OperationKind::Write, OperationKind::Sync, OperationKind::WriteSync];
        if !kinds.contains(&operation.kind) || is_checking.swap(true, Ordering::SeqCst) {
            return;
        }
        let report = of.verify(&mut ()).unwrap();
        assert_eq!(report.problem_count, 0, "beside {operation:?}: {report:?}");
        count.fetch_add(1, Ordering::SeqCst);
        is_checking.store(false, Ordering::SeqCst);
    }));
    let mut random = Random::from_seed(3);
    let mut value = vec![0; 200_000];
    random.fill(&mut value);
    keyspace.put("k", &value).unwrap();
    keyspace.put_stream("streamed", &value[..]).unwrap();
    let mut batch = database.batch();
    batch.put(&keyspace, "k", &value).unwrap();
    batch.put(&keyspace, "l", &value).unwrap();
    batch.commit().unwrap();
    storage.clear_on_operation();
    assert!(checks.load(Ordering::SeqCst) > 6);
    assert_eq!(access::verify(&database).unwrap(), None);
    // What is refused under the commit lock gives all of them back.
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    transaction.put(&keyspace, "k", &value).unwrap();
    keyspace.put("k", "v").unwrap();
    assert!(matches!(transaction.commit(), Err(Error::Conflict)));
    assert_eq!(access::verify(&database).unwrap(), None);
    let mut batch = database.batch();
    batch.put(&keyspace, "k", &value).unwrap();
    batch.put(&keyspace, "l", &value).unwrap();
    database.drop_keyspace("a").unwrap();
    assert!(matches!(batch.commit(), Err(Error::KeyspaceDropped(_))));
    assert_eq!(access::verify(&database).unwrap(), None);
    assert!(database.core().unwrap().pending.blocks().is_empty());
}
