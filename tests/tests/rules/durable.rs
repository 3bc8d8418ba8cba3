//! What must be on disk before what: each rule by every power cut of a short history that breaks
//! without it.

use std::io::ErrorKind;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::page::Block;
use sapwood::storage::{CrashPlan, MemoryStorage, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, Mutex, Random};
use sapwood::{Database, Durability, Error, Isolation, PageNumber};

use crate::every_cut::{Left, every_cut};
use crate::{fill, new, numbered, put_with, still, try_still};

/// What there is in the keyspace, when it is there at all; and the file is sound.
fn keys(database: &Database, what: &str) -> Vec<String> {
    assert_eq!(access::verify(database).unwrap(), None, "{what}");
    let keyspace = database.existing_keyspace("a").unwrap();
    let key = |pair: sapwood::Result<(sapwood::Key, sapwood::Value)>| {
        String::from_utf8(pair.unwrap_or_else(|error| panic!("{what}: {error}")).0.to_vec())
    };
    keyspace.iter().unwrap().map(|pair| key(pair).unwrap()).collect()
}

/// Opens the file and puts one key, on disk.
fn open_and_put(storage: &SimulatedStorage, done: &AtomicU64) {
    let (database, _) = still(storage);
    let keyspace = database.existing_keyspace("a").unwrap();
    put_with(&keyspace, &database, "z", b"v", Durability::Sync);
    done.store(1, Ordering::SeqCst);
    drop((keyspace, database));
}

/// The keys are there, and "z" when its commit has returned.
fn check_open_and_put(left: &Left, before: &[&str]) {
    let (database, _) = try_still(&left.storage).unwrap_or_else(|e| panic!("{}: {e}", left.what));
    let found = keys(&database, &left.what);
    let with_z = found.last().is_some_and(|key| key == "z");
    assert!(with_z || left.done == 0, "{}: a synced commit is gone: {found:?}", left.what);
    assert_eq!(found[..found.len() - usize::from(with_z)], *before, "{}", left.what);
}

/// The slot is on disk, and a record says so. Tearing it would leave the state before, of which the
/// log says that it is not the last.
#[test]
fn a_slot_that_is_on_disk_is_not_torn_by_the_first_write_after_an_open() {
    let (storage, database, keyspace) = new();
    for key in ["1", "2", "3"] {
        put_with(&keyspace, &database, key, b"v", Durability::Sync);
    }
    database.flush().unwrap();
    database.sync().unwrap();
    let storage = storage.crash_with(CrashPlan::KeepNone);
    drop((keyspace, database));
    let done = Arc::default();
    let act = || open_and_put(&storage, &done);
    every_cut(&storage, 16, &done, act, |left| check_open_and_put(left, &["1", "2", "3"]));
}

/// The slot of a state was written and its sync failed: the next process reads it, and it lies
/// nowhere but in the cache. When the log says that this state is durable, it must be.
#[test]
fn a_slot_that_lies_in_the_cache_only_is_on_disk_before_its_record() {
    let (storage, database, keyspace) = new();
    put_with(&keyspace, &database, "1", b"v", Durability::Sync);
    database.flush().unwrap();
    put_with(&keyspace, &database, "2", b"v", Durability::Sync);
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
    let done = Arc::default();
    let act = || open_and_put(&storage, &done);
    every_cut(&storage, 4, &done, act, |left| check_open_and_put(left, &["1", "2"]));
}

/// A device that hands out space late says "no space" at the sync of what it took before: some of
/// it is nowhere then, and the next sync succeeds.
#[test]
fn a_sync_that_finds_no_space_stops_writing() {
    for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
        let (storage, database, keyspace) = new();
        put_with(&keyspace, &database, "1", b"v", Durability::Sync);
        storage.fail_sync_and_drop_cache_with(kind);
        assert!(database.flush().is_err());
        let refused = keyspace.put("2", "v").unwrap_err();
        assert!(matches!(refused, Error::Stopped(_)), "{refused}");
        assert!(database.flush().is_err());
        let left = storage.crash_with(CrashPlan::KeepNone);
        drop((keyspace, database));
        let (database, _) = try_still(&left).unwrap();
        assert_eq!(keys(&database, "after the cut"), ["1"]);
    }
}

/// Commits lie in the cache, and the sync that was to bring them to the disk has failed. They are
/// replayed after the death of the process; a synced commit behind them needs them.
#[test]
fn a_synced_commit_does_not_follow_records_that_the_cache_alone_holds() {
    for direct in [true, false] {
        let (storage, database, keyspace) = new();
        put_with(&keyspace, &database, "1", b"v", Durability::Sync);
        for key in ["2", "3", "4"] {
            put_with(&keyspace, &database, key, b"v", Durability::Buffered);
        }
        storage.fail_sync_and_drop_cache();
        let failed = if direct { database.sync() } else { database.flush() };
        assert!(failed.is_err());
        let storage = storage.kill();
        drop((keyspace, database));
        let done = Arc::default();
        let act = || open_and_put(&storage, &done);
        every_cut(&storage, 4, &done, act, |left| {
            let (database, _) = try_still(&left.storage).unwrap();
            let found = keys(&database, &left.what);
            let all = ["1", "2", "3", "4", "z"];
            assert_eq!(found, all[..found.len()], "{}", left.what);
            let least = if left.done > 0 { 5 } else { 1 };
            assert!(found.len() >= least, "{}: {found:?} of {least}", left.what);
        });
    }
}

/// Has what is free in front of a page in use, and the lowest free pages behind it used next.
fn take_pages_below(database: &Database, page: PageNumber) {
    let core = database.core().unwrap();
    let pages = core.pages.allocator();
    pages.set_ceiling(Some(PageNumber(1 << 20)));
    loop {
        let block = pages.allocate(1, 0).unwrap();
        if block.first >= page {
            core.pages.free(block);
            break;
        }
    }
}

/// A merge leaves all that the durable state has, and the next flush is written where nothing is in
/// use.
#[test]
fn what_the_durable_state_needs_is_not_used_again() {
    let storage = SimulatedStorage::new();
    let (database, clock) = still(&storage);
    let keyspace = database.keyspace("a").unwrap();
    for value in [1, 2] {
        fill(&keyspace, 0..60, value);
        database.flush().unwrap();
    }
    clock.advance(Duration::from_millis(600));
    let first = first_young_root(&database);
    take_pages_below(&database, first);
    let act = || {
        while !database.core().unwrap().state().young.is_empty() {
            assert!(database.run_step().unwrap());
        }
        take_pages_below(&database, first);
        let mut batch = database.batch();
        (0..60).for_each(|n| batch.put(&keyspace, numbered(n), [3; 100]).unwrap());
        batch.commit().unwrap();
        flush_alone(&database);
    };
    every_cut(&storage, 2, &Arc::default(), act, |left| {
        let (database, _) = still(&left.storage);
        assert_eq!(keys(&database, &left.what).len(), 60, "{}", left.what);
        let keyspace = database.existing_keyspace("a").unwrap();
        let found = keyspace.get(numbered(0)).unwrap().unwrap()[0];
        assert!((2..=3).contains(&found), "{}: {found}", left.what);
    });
}

/// The lowest root of the young segments.
fn first_young_root(database: &Database) -> PageNumber {
    let state = database.core().unwrap().state();
    let roots = state.young.iter().filter_map(|young| young.points.as_ref());
    roots.map(|root| root.reference.page).min().unwrap()
}

/// Beside the power cut the newest state cannot be read. When the log names it, that is damage;
/// else the state before is whole, with its log.
#[test]
fn nothing_of_the_state_before_is_used_again_before_the_log_names_the_new_one() {
    let storage = SimulatedStorage::new();
    let (database, clock) = still(&storage);
    let keyspace = database.keyspace("a").unwrap();
    for value in [1, 2] {
        fill(&keyspace, 0..60, value);
        database.flush().unwrap();
    }
    clock.advance(Duration::from_secs(2));
    let core = database.core().unwrap();
    let first = first_young_root(&database);
    take_pages_below(&database, first);
    let done = Arc::new(AtomicU64::new(2));
    let (mut opened, mut refused) = (0, 0);
    let act = || {
        // The merge leaves all that the state before has.
        while !core.state().young.is_empty() {
            assert!(database.run_step().unwrap());
        }
        database.flush().unwrap();
        // The next flush is written there.
        take_pages_below(&database, first);
        fill(&keyspace, 0..60, 3);
        database.flush().unwrap();
        done.store(3, Ordering::SeqCst);
    };
    every_cut(&storage, 0, &done, act, |left| {
        for slot in 0..2 {
            let damaged = left.storage.crash_copy(CrashPlan::KeepAll);
            damaged.overwrite(slot * 4096, &[0xff; 4096]);
            let what = format!("{}, without slot {slot}", left.what);
            let database = match try_still(&damaged) {
                Ok((database, _)) => database,
                Err(Error::Corruption(_)) => {
                    refused += 1;
                    continue;
                }
                Err(error) => panic!("{what}: {error}"),
            };
            opened += 1;
            assert_eq!(access::verify(&database).unwrap(), None, "{what}");
            let keyspace = database.existing_keyspace("a").unwrap();
            for n in 0..60 {
                let found = u64::from(keyspace.get(numbered(n)).unwrap().unwrap()[0]);
                assert!((left.done..=left.done + 1).contains(&found), "{what}: {n} is {found}");
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

/// Seals the memtable and flushes it, without a durable state.
fn flush_alone(database: &Database) {
    let core = database.core().unwrap();
    let order = core.commit_order.lock();
    core.seal();
    drop(order);
    while !core.view().sealed.is_empty() {
        assert!(database.run_step().unwrap());
    }
}

/// A large value is flushed, written over and merged away, all since the last durable state. The
/// log behind that one's cut names it still, and what wrote over it may not be on disk.
#[test]
fn a_value_that_died_since_the_durable_state_is_kept_while_the_log_names_it() {
    let storage = SimulatedStorage::new();
    let (database, clock) = still(&storage);
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let core = database.core().unwrap();
    let mut large = vec![0; 100_000];
    Random::from_seed(1).fill(&mut large);
    put_with(&keyspace, &database, "k", &large, Durability::Sync);
    let (cut, named) = (core.durable.cut(), core.log_named.blocks());
    flush_alone(&database);
    put_with(&keyspace, &database, "k", b"small", Durability::Buffered);
    flush_alone(&database);
    // Writes pause, but no sync is due yet.
    clock.advance(Duration::from_millis(600));
    while !core.state().young.is_empty() {
        assert!(database.run_step().unwrap());
    }
    core.collect_released();
    assert_eq!((core.durable.cut(), core.log_named.blocks()), (cut, named.clone()));
    take_pages_below(&database, named[0].first);
    let act = || {
        let mut batch = database.batch();
        (0..200).for_each(|n| batch.put(&keyspace, numbered(n), [1; 100]).unwrap());
        batch.commit().unwrap();
        flush_alone(&database);
    };
    every_cut(&storage, 2, &Arc::default(), act, |left| {
        let (database, _) = still(&left.storage);
        let keyspace = database.existing_keyspace("a").unwrap();
        let found = keyspace.get("k").unwrap_or_else(|e| panic!("{}: {e}", left.what)).unwrap();
        assert!(found == large[..] || found == "small", "{}: {} bytes", left.what, found.len());
        keys(&database, &left.what);
    });
}

/// A lookup has found a large value in the memtable; before it reads it, the value is written over
/// and dropped by a flush, and what is free holds something else.
#[test]
fn a_value_that_dies_in_a_flush_is_kept_for_who_reads_the_memtable() {
    let large = {
        let mut large = vec![0; 100_000];
        Random::from_seed(1).fill(&mut large);
        large
    };
    for nth in 1.. {
        let (storage, database, keyspace) = new();
        put_with(&keyspace, &database, "k", &large, Durability::Buffered);
        let reads = Arc::new(AtomicU64::new(0));
        let (of_hook, counted, other) = (database.clone(), Arc::clone(&reads), keyspace.clone());
        let disk = storage.clone();
        storage.on_operation(Box::new(move |operation| {
            let is_read = operation.kind == OperationKind::Read;
            if !is_read || counted.fetch_add(1, Ordering::SeqCst) + 1 != nth {
                return;
            }
            put_with(&other, &of_hook, "k", b"small", Durability::Buffered);
            flush_alone(&of_hook);
            let core = of_hook.core().unwrap();
            let pages = core.pages.allocator();
            for page in (0..pages.file_pages()).map(PageNumber) {
                if !pages.is_given(Block::new(page, 1)) {
                    disk.overwrite(page.0 * 1024, &[0xaa; 1024]);
                }
            }
        }));
        let found = keyspace.get("k");
        storage.clear_on_operation();
        let found = found.unwrap_or_else(|error| panic!("read {nth}: {error}")).unwrap();
        assert!(found == large[..] || found == "small", "read {nth}: {} bytes", found.len());
        if reads.load(Ordering::SeqCst) < nth {
            assert!(nth > 1, "nothing was read");
            break;
        }
    }
}

/// What died in a memtable was kept for every snapshot, also for those from before all of it: a
/// long one, beside a large value that is overwritten again and again, filled the disk. Now a
/// snapshot keeps what died in the memtable that it was taken beside, and in the next one.
#[test]
fn what_dies_in_a_memtable_is_not_kept_for_an_older_snapshot() {
    let (_storage, database, keyspace) = new();
    put_with(&keyspace, &database, "k", b"small", Durability::Buffered);
    database.flush().unwrap();
    let snapshot = database.snapshot().unwrap();
    let mut large = vec![0; 100_000];
    Random::from_seed(1).fill(&mut large);
    let given = |database: &Database| {
        let core = database.core().unwrap();
        core.collect_released();
        core.pages.allocator().extent().given_pages
    };
    for memtable in ["first", "second"] {
        put_with(&keyspace, &database, memtable, b"v", Durability::Buffered);
        database.flush().unwrap();
    }
    let before = given(&database);
    for _ in 0..3 {
        for _ in 0..20 {
            put_with(&keyspace, &database, "k", &large, Durability::Buffered);
        }
        database.flush().unwrap();
    }
    // The values that were flushed are of states, which the snapshot is older than: they go with
    // the next durable states.
    for _ in 0..4 {
        run_all_steps(&database).unwrap();
        put_with(&keyspace, &database, "another", b"v", Durability::Buffered);
        database.flush().unwrap();
    }
    let kept = given(&database) - before;
    assert!((98..2 * 98).contains(&kept), "{kept} pages for one value of 98");
    assert_eq!(snapshot.get(&keyspace, "k").unwrap().unwrap(), "small");
}

/// Power failed between the slot of a state and its record. The next open takes that state, and its
/// first write uses what the one before has left; then the slot cannot be read.
#[test]
fn a_state_without_a_record_is_named_before_anything_is_used_again() {
    let storage = SimulatedStorage::new();
    let (database, clock) = still(&storage);
    let keyspace = database.keyspace("a").unwrap();
    // So many that a state lies in blocks of its own, which the first write after an open makes.
    for n in 0..40 {
        database.keyspace(&format!("{n} {}", "name ".repeat(20))).unwrap();
    }
    for value in [1, 2] {
        fill(&keyspace, 0..60, value);
        database.flush().unwrap();
    }
    clock.advance(Duration::from_millis(600));
    let first = first_young_root(&database);
    while !database.core().unwrap().state().young.is_empty() {
        assert!(database.run_step().unwrap());
    }
    let (left, of) = (Arc::new(Mutex::new(None)), storage.clone());
    let (into, is_slot_written) = (Arc::clone(&left), AtomicU64::new(0));
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::WriteSync && operation.offset < 8192 {
            is_slot_written.store(1, Ordering::SeqCst);
        } else if is_slot_written.swap(0, Ordering::SeqCst) == 1 {
            *into.lock() = Some(of.crash_copy(CrashPlan::KeepAll));
        }
    }));
    database.flush().unwrap();
    storage.clear_on_operation();
    let storage = left.lock().take().unwrap();
    let act = || {
        let (database, _) = still(&storage);
        take_pages_below(&database, first);
        let keyspace = database.existing_keyspace("a").unwrap();
        put_with(&keyspace, &database, "z", b"v", Durability::Sync);
    };
    let (mut opened, mut refused) = (0, 0);
    every_cut(&storage, 0, &Arc::default(), act, |left| {
        for slot in 0..2 {
            let damaged = left.storage.crash_copy(CrashPlan::KeepAll);
            damaged.overwrite(slot * 4096, &[0xff; 4096]);
            let what = format!("{}, without slot {slot}", left.what);
            match try_still(&damaged) {
                Ok((database, _)) => {
                    opened += 1;
                    assert!((60..62).contains(&keys(&database, &what).len()), "{what}");
                }
                Err(Error::Corruption(_)) => refused += 1,
                Err(error) => panic!("{what}: {error}"),
            }
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused");
}

/// At the close the end of the file is free, whole regions with their maps. No slot that a power
/// cut may leave names anything behind the cut.
#[test]
fn a_close_cuts_nothing_off_that_a_slot_on_disk_names() {
    let (storage, database, keyspace) = new();
    put_with(&keyspace, &database, "1", b"v", Durability::Sync);
    database.flush().unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut random = Random::from_seed(5);
    for n in 0..150 {
        let value: Vec<u8> = (0..30_000).map(|_| random.below(256) as u8).collect();
        transaction.put(&keyspace, format!("spilled {n}"), value).unwrap();
    }
    transaction.rollback();
    put_with(&keyspace, &database, "2", b"v", Durability::Sync);
    // So that the durable state knows the length that the file has.
    database.flush().unwrap();
    let before = storage.image().len();
    drop(keyspace);
    let done = Arc::default();
    every_cut(
        &storage,
        4,
        &done,
        || database.close().unwrap(),
        |left| {
            let opened = try_still(&left.storage).unwrap_or_else(|e| panic!("{}: {e}", left.what));
            assert_eq!(keys(&opened.0, &left.what), ["1", "2"], "{}", left.what);
        },
    );
    let after = storage.image().len();
    assert!(after + (2 << 20) < before, "{before} bytes, and {after} after the close");
}

/// Each step of a load installs a state, and few of these become durable: only those that the log
/// asks for. No commit here asks for a sync, so that the storage sees those of states alone.
#[test]
fn a_load_of_many_steps_makes_few_durable_states() {
    let storage = Arc::new(CountingStorage::new(Arc::new(MemoryStorage::new())));
    let setup = Setup { region_bytes: 1 << 20, durability: Durability::Memory, ..Setup::tiny() };
    let builder = setup.builder().step_bytes(64 << 10).clock(Clock::fake().0);
    let database = builder.open_on(storage.clone()).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(2);
    let before = (database.stats().unwrap().durable_states, storage.calls().syncs);
    let mut steps = 0;
    for _ in 0..200 {
        let mut batch = database.batch();
        for _ in 0..100 {
            let mut value = [0; 1000];
            random.fill(&mut value);
            batch.put(&keyspace, random.next_u64().to_be_bytes(), value).unwrap();
        }
        batch.commit().unwrap();
        while database.run_step().unwrap() {
            steps += 1;
        }
    }
    let states = database.stats().unwrap().durable_states - before.0;
    let syncs = storage.calls().syncs - before.1;
    assert!(steps > 500, "only {steps} steps");
    assert!(states > 0 && states * 20 < steps, "{states} durable states in {steps} steps");
    assert!(syncs * 4 < steps, "{syncs} syncs in {steps} steps");
}
