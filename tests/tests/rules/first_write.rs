//! What the first write after an open must bring to the disk before it relies on it.

use std::io::{Error as IoError, ErrorKind};

use crash_lsm::hooked::HookedStorage;
use sapwood::state::durable::{Purpose, make_durable};
use sapwood::sync::atomic::AtomicBool;

use super::*;

/// Two slots of 4 KiB.
const SLOTS_END: u64 = 8192;

/// As after the death of the process in the middle of the next synced write to a slot: the slot
/// lies in the cache alone.
fn killed_in_a_slot(storage: &SimulatedStorage, act: impl FnOnce()) -> SimulatedStorage {
    let killed = Arc::new(Mutex::new(None));
    let (into, of) = (killed.clone(), storage.clone());
    storage.on_synced_write(Box::new(move |operation| {
        if operation.offset < SLOTS_END {
            into.lock().get_or_insert_with(|| of.kill());
        }
    }));
    act();
    let killed = killed.lock().take();
    killed.unwrap()
}

fn seal(database: &Database) {
    let core = database.core().unwrap();
    let order = core.commit_order.lock();
    core.seal();
    drop(order);
}

/// A state holds commits that were never in the log, and the process died as its slot was being
/// written. The next one reads them, nothing lies in the log behind them, and a sync had nothing to
/// do: a power cut took what it had said was on disk.
#[test]
fn a_sync_brings_the_slot_to_the_disk_that_the_open_has_found() {
    for empty_commit in [false, true] {
        let (storage, database, keyspace) = new();
        put_with(&keyspace, &database, "0", b"v", Durability::Sync);
        database.flush().unwrap();
        put_with(&keyspace, &database, "1", b"v", Durability::Memory);
        seal(&database);
        let core = database.core().unwrap();
        while !core.view().sealed.is_empty() {
            assert!(database.run_step().unwrap());
        }
        let left = killed_in_a_slot(&storage, || {
            assert!(make_durable(&core, Purpose::Running).is_err());
        });
        drop((core, keyspace, database));
        let (database, _) = still(&left);
        assert!(database.existing_keyspace("a").unwrap().contains("1").unwrap());
        match empty_commit {
            true => database.batch().commit_with(Durability::Sync).unwrap(),
            false => database.sync().unwrap(),
        }
        let cut = left.crash_copy(CrashPlan::KeepNone);
        drop(database);
        let (database, _) = still(&cut);
        let keyspace = database.existing_keyspace("a").unwrap();
        assert!(keyspace.contains("1").unwrap(), "what was synced is gone");
    }
}

/// Whoever made the file died before it synced the directory, and nobody did so afterwards: a power
/// cut could take the name of a file with synced commits.
#[test]
fn the_first_write_after_an_open_syncs_the_directory() {
    let (storage, database, keyspace) = new();
    let storage = storage.kill();
    drop((keyspace, database));
    let (database, _) = still(&storage);
    let keyspace = database.existing_keyspace("a").unwrap();
    storage.start_trace();
    for (key, syncs) in [("1", 1), ("2", 0)] {
        put_with(&keyspace, &database, key, b"v", Durability::Sync);
        let trace = storage.take_trace();
        let is_sync = |kind| kind == OperationKind::SyncDirectory;
        assert_eq!(trace.iter().filter(|entry| is_sync(entry.kind)).count(), syncs, "{key}");
    }
}

/// A directory that may be written to, or passed through, and not read cannot be synced.
#[test]
fn a_directory_that_may_not_be_read_hinders_no_write_and_one_that_fails_does() {
    let refused = [ErrorKind::PermissionDenied, ErrorKind::NotFound];
    for kind in refused.into_iter().chain([ErrorKind::Other]) {
        let (storage, database, keyspace) = new();
        let storage = storage.kill();
        drop((keyspace, database));
        let hook = move |asked, _| match asked == OperationKind::SyncDirectory {
            true => Err(IoError::from(kind)),
            false => Ok(()),
        };
        let hooked = HookedStorage::new(Arc::new(storage), hook);
        let database = Setup::tiny().builder().region_bytes(1 << 20).open_on(Arc::new(hooked));
        let database = database.unwrap();
        let put = database.existing_keyspace("a").unwrap().put("1", "v");
        assert_eq!(put.is_ok(), refused.contains(&kind), "{kind}: {put:?}");
    }
}

/// The process had no descriptor left to open it with: nothing has failed that the next write
/// cannot do.
#[test]
fn a_directory_that_cannot_be_opened_for_a_while_hinders_writes_for_so_long() {
    let (storage, database, keyspace) = new();
    let storage = storage.kill();
    drop((keyspace, database));
    let is_first = AtomicBool::new(true);
    let hook = move |asked, _| match asked == OperationKind::SyncDirectory {
        true if is_first.swap(false, Ordering::Relaxed) => {
            Err(IoError::from(ErrorKind::ResourceBusy))
        }
        _ => Ok(()),
    };
    let hooked = HookedStorage::new(Arc::new(storage), hook);
    let builder = Setup::tiny().builder().region_bytes(1 << 20);
    let database = builder.open_on(Arc::new(hooked)).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    let error = keyspace.put("1", "v").unwrap_err();
    assert!(error.to_string().contains("syncing the directory"), "{error}");
    keyspace.put("1", "v").unwrap();
}

/// At the greatest length that the system allows, the length cannot be written anew.
#[test]
fn a_file_that_cannot_be_longer_takes_the_first_write_after_an_open() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
        let (storage, database, keyspace) = new();
        put_with(&keyspace, &database, "1", b"v", Durability::Sync);
        let storage = storage.kill();
        drop((keyspace, database));
        let (database, _) = still(&storage);
        storage.fail_at(FaultKind::SetLength, 1, false, kind);
        storage.fail_at(FaultKind::Allocate, 1, false, kind);
        let keyspace = database.existing_keyspace("a").unwrap();
        let mut puts = (0..100).map(|n| keyspace.put(numbered(n), vec![2; 200_000]));
        let refused = puts.find_map(Result::err).unwrap();
        assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
        keyspace.delete("1").unwrap();
        database.sync().unwrap();
    }
}

/// What a power cut leaves in the middle of each write of a slot while a key is put: the slot is
/// torn, and all else there.
fn torn_slots(storage: &SimulatedStorage) -> Vec<(u64, SimulatedStorage)> {
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (copies.clone(), storage.clone());
    storage.on_synced_write(Box::new(move |operation| {
        if operation.offset < SLOTS_END {
            let torn = of.crash_copy(CrashPlan::KeepAll);
            torn.overwrite(operation.offset, &[0; 512]);
            into.lock().push((operation.offset, torn));
        }
    }));
    let (database, _) = still(storage);
    let keyspace = database.existing_keyspace("a").unwrap();
    put_with(&keyspace, &database, "y", b"v", Durability::Sync);
    storage.clear_on_operation();
    drop((keyspace, database));
    let copies = std::mem::take(&mut *copies.lock());
    assert!(!copies.is_empty());
    copies
}

/// After `fails`, which must leave something in the cache alone, and the death of the process: a
/// power cut anywhere in the first write of the next one, and another in the middle of each slot
/// that the one after it writes.
fn two_cuts(fails: impl Fn(&SimulatedStorage, &Database, &Keyspace)) {
    let storage = killed_after(&fails);
    let act = || {
        let (database, _) = still(&storage);
        let keyspace = database.existing_keyspace("a").unwrap();
        put_with(&keyspace, &database, "z", b"v", Durability::Sync);
        drop((keyspace, database));
    };
    cut_before_each_operation(&storage, 1, act, |copy, what| {
        if !what.contains("Random") {
            check_torn_slots(copy, what);
        }
    });
    for (slot, copy) in torn_slots(&killed_after(&fails)) {
        check_torn_slots(&copy, &format!("in the slot at {slot}"));
    }
}

fn killed_after(fails: impl Fn(&SimulatedStorage, &Database, &Keyspace)) -> SimulatedStorage {
    let (storage, database, keyspace) = new();
    // So that the state has no room in its slot.
    for n in 0..120 {
        database.keyspace(&format!("a keyspace with a rather long name, {n}")).unwrap();
    }
    put_with(&keyspace, &database, "1", b"v", Durability::Sync);
    database.flush().unwrap();
    database.sync().unwrap();
    let core = database.core().unwrap();
    let own_blocks = core.durable.own_blocks().len();
    assert!(own_blocks > core.log.placed_blocks().len(), "the state lies in its slot");
    fails(&storage, &database, &keyspace);
    storage.clear_on_operation();
    storage.kill()
}

fn check_torn_slots(left: &SimulatedStorage, what: &str) {
    for (slot, torn) in torn_slots(left) {
        let what = format!("{what}, then in the slot at {slot}");
        let database = match try_still(&torn) {
            Ok((database, _)) => database,
            Err(error) => panic!("{what}: {error}"),
        };
        let keyspace = database.existing_keyspace("a").unwrap();
        assert!(keyspace.contains("1").unwrap(), "{what}");
        assert_eq!(access::verify(&database).unwrap(), None, "{what}");
    }
}

/// A commit lies in the cache alone, behind the record of the opened state. The record of the next
/// one, behind that commit, is not reached after a power cut, though what the opened state needed
/// has been used again: its slot must not be torn.
#[test]
fn a_slot_whose_record_lies_behind_a_lost_one_is_not_torn() {
    two_cuts(|storage, database, keyspace| {
        put_with(keyspace, database, "2", b"v", Durability::Buffered);
        storage.fail_sync_and_drop_cache();
        assert!(database.sync().is_err());
    });
}

/// The record that names the opened state lies in the cache alone, and the maps of the next one are
/// written where the state before it has its own.
#[test]
fn a_slot_whose_record_lies_in_the_cache_alone_is_not_torn() {
    two_cuts(|storage, database, keyspace| {
        put_with(keyspace, database, "2", b"v", Durability::Sync);
        let of = storage.clone();
        storage.on_operation(Box::new(move |operation| {
            if operation.kind == OperationKind::WriteSync && operation.offset >= SLOTS_END {
                of.fail_sync_and_drop_cache();
            }
        }));
        assert!(database.flush().is_err());
    });
}
