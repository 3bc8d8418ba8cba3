//! Many keyspaces in one file: written at random, reopened, half of them dropped under a snapshot.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::{Arc, Clock, Random, thread};
use sapwood::{Compression, Database, Durability, Error, Keyspace, KeyspaceOptions, Result};

const COUNT: usize = 300;
const COMMITS: usize = 1500;

/// See `opening.rs`.
const LOG_BLOCK_BYTES: u64 = 256 << 10;

type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

fn setup() -> Setup {
    Setup { page_bytes: 1 << 12, region_bytes: 1 << 20, ..Setup::tiny() }
}

fn name(number: usize) -> String {
    format!("keyspace {number:03}")
}

/// Makes the keyspaces of these numbers and writes to them at random, several in each commit; a
/// flush now and then, so that segments hold many of them.
fn write(database: &Database, numbers: &[usize], commits: usize) -> Contents {
    let mut random = Random::from_seed(7);
    let keyspaces: Vec<Keyspace> =
        numbers.iter().map(|number| database.keyspace(&name(*number)).unwrap()).collect();
    let mut contents: Contents =
        numbers.iter().map(|number| (name(*number), BTreeMap::new())).collect();
    for commit in 0..commits {
        let mut batch = database.batch();
        for _ in 0..10 {
            let keyspace = &keyspaces[random.below(keyspaces.len() as u64) as usize];
            let key = format!("{:02}", random.below(40)).into_bytes();
            let mut value = vec![0; 100];
            random.fill(&mut value);
            let map = contents.get_mut(&keyspace.name()).unwrap();
            if random.one_in(8) {
                batch.delete(keyspace, &key).unwrap();
                map.remove(&key);
            } else {
                batch.put(keyspace, &key, &value).unwrap();
                map.insert(key, value);
            }
        }
        batch.commit().unwrap();
        if commit % 400 == 399 {
            database.flush().unwrap();
        }
    }
    contents
}

fn read(iterator: sapwood::Range) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let own = |pair: Result<(sapwood::Key, sapwood::Value)>| {
        let (key, value) = pair.unwrap();
        (key.to_vec(), value.to_vec())
    };
    iterator.map(own).collect()
}

fn check(database: &Database, expected: &Contents) {
    let mut names = database.keyspaces().unwrap();
    names.sort();
    assert!(names.iter().eq(expected.keys()), "{names:?}");
    for (name, map) in expected {
        let keyspace = database.existing_keyspace(name).unwrap();
        assert!(read(keyspace.iter().unwrap()) == *map, "{name}");
    }
    assert_eq!(access::verify(database).unwrap(), None);
}

fn used_bytes(database: &Database) -> u64 {
    for _ in 0..3 {
        database.flush().unwrap();
        run_all_steps(database).unwrap();
        database.wait_until_idle().unwrap();
    }
    let stats = database.stats().unwrap();
    stats.file_bytes - stats.free_bytes
}

fn assert_within_budget(database: &Database) {
    let stats = database.stats().unwrap();
    let memory = &stats.memory;
    let sum = memory.memtables + memory.cache + memory.filters + memory.merge_buffers;
    let sum = sum + memory.free_maps + memory.read_sets + memory.pending_writes;
    let sum = sum + memory.compression;
    let sum = sum + memory.dead_lists + memory.states + memory.other;
    assert!(sum <= stats.memory_budget_bytes, "{sum} bytes: {stats}");
}

#[test]
fn half_of_many_keyspaces_dropped_under_a_snapshot_give_their_space_back_when_it_goes() {
    let all: Vec<usize> = (0..COUNT).collect();
    let storage = SimulatedStorage::new();
    let open = |storage: &SimulatedStorage| setup().open_on(Arc::new(storage.clone())).unwrap();
    let database = open(&storage);
    let mut contents = write(&database, &all, COMMITS);
    assert_within_budget(&database);
    check(&database, &contents);
    database.close().unwrap();
    let database = open(&storage);
    check(&database, &contents);
    let full = used_bytes(&database);

    let snapshot = database.snapshot().unwrap();
    let dropped: Vec<(Keyspace, _)> = all
        .iter()
        .filter(|number| *number % 2 == 0)
        .map(|number| {
            let keyspace = database.existing_keyspace(&name(*number)).unwrap();
            database.drop_keyspace(&name(*number)).unwrap();
            (keyspace, contents.remove(&name(*number)).unwrap())
        })
        .collect();
    let held = used_bytes(&database);
    assert!(held > full * 9 / 10, "{full} bytes, {held} under the snapshot");
    for (keyspace, map) in &dropped {
        assert!(read(snapshot.iter(keyspace).unwrap()) == *map, "{keyspace:?}");
        assert!(keyspace.get("00").is_err());
    }
    check(&database, &contents);
    // A crash now takes the snapshot with it, and leaves nothing of what it held.
    database.sync().unwrap();
    let crashed = open(&storage.crash_copy(CrashPlan::KeepNone));
    check(&crashed, &contents);
    let after_crash = used_bytes(&crashed);
    drop(snapshot);
    let after = used_bytes(&database);
    check(&database, &contents);
    assert_within_budget(&database);

    // What only ever held the other half.
    let fresh = setup().open_on(Arc::new(MemoryStorage::new())).unwrap();
    for (name, map) in &contents {
        let keyspace = fresh.keyspace(name).unwrap();
        map.iter().for_each(|(key, value)| keyspace.put(key, value).unwrap());
    }
    let alone = used_bytes(&fresh);
    // What the snapshot held lay before the log: there may be no room for that in front, and
    // between what is left no run for one of the log's blocks.
    let log_block_bytes = 256 << 10;
    let length = |database: &Database| database.stats().unwrap().file_bytes;
    for (database, used) in [(&database, after), (&crashed, after_crash)] {
        assert!(used <= alone * 5 / 4, "{alone} bytes alone, {used} after the drops");
        let (long, short) = (length(database), length(&fresh));
        let limit = short * 4 / 3 + log_block_bytes;
        assert!(long <= limit, "{short} bytes of file alone, {long} after the drops");
    }
    database.close().unwrap();
    check(&open(&storage), &contents);
}

/// The catalogue is read, and no entry.
#[test]
fn an_open_of_many_keyspaces_reads_little_more_than_one_of_few() {
    let bytes = |count: usize| {
        let storage = Arc::new(MemoryStorage::new());
        let database = setup().open_on(storage.clone()).unwrap();
        let numbers: Vec<usize> = (0..count).collect();
        write(&database, &numbers, 800);
        used_bytes(&database);
        database.close().unwrap();
        let counting = Arc::new(CountingStorage::new(storage.clone()));
        let database = setup().open_on(counting.clone()).unwrap();
        let calls = counting.calls();
        assert_eq!(database.keyspaces().unwrap().len(), count);
        assert_eq!((calls.writes, calls.syncs), (0, 0));
        (calls.read_bytes, storage.length().unwrap())
    };
    let ((few, few_file), (many, many_file)) = (bytes(3), bytes(COUNT));
    assert!(many_file > few_file, "{few_file} and {many_file} bytes of file");
    // For each its name, options, level and segment with bounds; and the log is given back in
    // blocks.
    let more = COUNT as u64 * 256 + LOG_BLOCK_BYTES;
    assert!(many <= few + more, "{few} bytes for 3 keyspaces, {many} for {COUNT}");
}

/// A commit that makes, fills or drops one is no larger for all the others.
#[test]
fn the_log_takes_the_same_for_one_keyspace_of_many_as_for_one_of_few() {
    let log_bytes = |count: usize| {
        let builder = setup().builder().durability(Durability::Memory);
        let database = builder.open_in_memory().unwrap();
        for number in 0..count {
            database.keyspace(&name(number)).unwrap();
        }
        database.flush().unwrap();
        let before = database.stats().unwrap().log.unflushed_bytes;
        let keyspace = database.keyspace("one more").unwrap();
        keyspace.put("key", "value").unwrap();
        database.drop_keyspace("one more").unwrap();
        database.stats().unwrap().log.unflushed_bytes - before
    };
    assert!(log_bytes(COUNT) <= log_bytes(3) + 8);
}

/// Their names alone are longer than what one region has room for; and there is a bound to that,
/// which is met when a keyspace is made and not when the state is to be written.
#[test]
fn a_state_longer_than_a_region_is_durable_and_more_than_states_may_have_is_refused() {
    let builder = || {
        let builder = Database::builder().page_size(1024).region_bytes(128 << 10);
        builder.memory_budget(8 << 20).merge_threads(0).durability(Durability::Memory)
    };
    let storage = Arc::new(MemoryStorage::new());
    let long = |n: usize| format!("{n:01000}");
    let database = builder().open_on(storage.clone()).unwrap();
    for n in 0..130 {
        database.keyspace(&long(n)).unwrap().put("k", n.to_be_bytes()).unwrap();
    }
    database.flush().unwrap();
    database.close().unwrap();
    let database = builder().open_on(storage.clone()).unwrap();
    let refused = (130..).find_map(|n| match database.keyspace(&long(n)) {
        Ok(keyspace) => keyspace.put("k", n.to_be_bytes()).err().map(|error| (n, error)),
        Err(error) => Some((n, error)),
    });
    let (count, error) = refused.unwrap();
    assert!(matches!(error, Error::InvalidOption { option: "region_bytes", .. }), "{error}");
    assert!(count > 300, "only {count} keyspaces");
    assert!(database.rename_keyspace(&long(0), "short").is_ok());
    database.compact().unwrap();
    database.close().unwrap();
    let database = builder().open_on(storage.clone()).unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
    assert_eq!(database.keyspaces().unwrap().len(), count);
    for n in 1..20 {
        database.drop_keyspace(&long(n)).unwrap();
    }
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    for n in 0..10 {
        database.keyspace(&long(count + n)).unwrap().put("k", "v").unwrap();
    }
    database.close().unwrap();
    let database = builder().open_on(storage).unwrap();
    assert_eq!(database.keyspaces().unwrap().len(), count - 19 + 10);
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// The bounds of a segment are two keys, which may be long: of ever more keyspaces with such keys
/// the state grows until data is refused; what was taken is flushed and merged, and deleted again.
#[test]
fn data_is_refused_before_a_state_is_too_long_to_be_written() {
    let builder = || {
        let builder = Database::builder().page_size(1024).region_bytes(128 << 10);
        builder.memory_budget(8 << 20).merge_threads(0).durability(Durability::Memory)
    };
    let storage = Arc::new(MemoryStorage::new());
    let database = builder().open_on(storage.clone()).unwrap();
    let write = |n: usize| -> Result<()> {
        let keyspace = database.keyspace(&name(n))?;
        for first in ["a", "b"] {
            keyspace.put([first.repeat(16_000).as_bytes(), b"k"].concat(), "v")?;
        }
        Ok(())
    };
    let refused = (0..100).find_map(|n| {
        let refused = write(n).err().map(|error| (n, error));
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
        refused
    });
    let (count, error) = refused.unwrap();
    assert!(error.is_no_space() && error.to_string().contains("a state that names"), "{error}");
    assert!(count > 15, "only {count} keyspaces");
    for n in 0..5 {
        database.drop_keyspace(&name(n)).unwrap();
    }
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    write(count + 1).unwrap();
    database.clone().close().unwrap();
    let database = builder().open_on(storage).unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// The name was looked up before the commit had its place: "logs" was renamed meanwhile, and what
/// was dropped, or renamed again, was "archive".
#[test]
fn of_two_changes_of_one_name_one_finds_it() {
    type Change = fn(&Database) -> Result<()>;
    let second: [Change; 2] = [
        |database| database.drop_keyspace("logs"),
        |database| database.rename_keyspace("logs", "b"),
    ];
    for change in second {
        for round in 0..8 {
            let database = setup().builder().open_in_memory().unwrap();
            let keyspace = database.keyspace("logs").unwrap();
            keyspace.put("k", "v").unwrap();
            let core = database.core().unwrap();
            // Both have asked for the name, and wait for their place.
            let order = core.commit_order.lock();
            let spawn = |change: Change| {
                let database = database.clone();
                let thread = thread::spawn("changes", move || change(&database)).unwrap();
                Clock::real().sleep(Duration::from_millis(20));
                thread
            };
            let first = spawn(|database| database.rename_keyspace("logs", "archive"));
            let second = spawn(change);
            drop(order);
            let (first, second) = (first.join().unwrap(), second.join().unwrap());
            assert!(first.is_ok() != second.is_ok(), "{round}: {first:?}, {second:?}");
            let failed = first.as_ref().err().or(second.as_ref().err());
            assert!(matches!(failed, Some(Error::UnknownKeyspace(name)) if name == "logs"));
            if first.is_ok() {
                assert_eq!(database.keyspaces().unwrap(), ["archive"]);
                assert_eq!(keyspace.get("k").unwrap().unwrap(), "v");
            }
        }
    }
}

/// Each was kept in memory until the next open, and copied with every later change.
#[test]
fn what_was_dropped_takes_no_memory() {
    const TEMPORARY: usize = 1000;
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let database = setup().open_on(storage.clone()).unwrap();
    let stays = database.keyspace("stays").unwrap();
    stays.put("k", "v").unwrap();
    let count = |database: &Database| {
        let core = database.core().unwrap();
        let (now, state) = (core.catalogue.load_full(), core.state().catalogue.clone());
        [now.iter().count(), core.visible_catalogue().iter().count(), state.iter().count()]
    };
    let mut handles = Vec::new();
    for number in 0..TEMPORARY {
        let temporary = database.keyspace("t").unwrap();
        if number % 100 == 0 {
            temporary.put("k", "v").unwrap();
            handles.push(temporary);
        }
        database.drop_keyspace("t").unwrap();
    }
    assert_eq!(count(&database)[..2], [1, 1], "before a flush");
    database.flush().unwrap();
    database.wait_until_idle().unwrap();
    assert_eq!(count(&database), [1, 1, 1]);
    for handle in &handles {
        assert!(matches!(handle.get("k"), Err(Error::KeyspaceDropped(_))));
        assert!(matches!(handle.put("k", "v"), Err(Error::KeyspaceDropped(_))));
        assert!(matches!(handle.put_if_absent("k", "v"), Err(Error::KeyspaceDropped(_))));
        assert_eq!(handle.name(), "t");
        let mut batch = database.batch();
        assert!(matches!(batch.put(handle, "k", "v"), Err(Error::KeyspaceDropped(_))));
    }
    let again = database.keyspace("t").unwrap();
    assert_eq!(again.count::<&[u8]>(..).unwrap(), 0);
    again.put("k", "new").unwrap();
    assert!(handles[0].get("k").is_err(), "its number is not given out again");
    assert_eq!(access::verify(&database).unwrap(), None);
    // Dropped, and not merged: it is in the state that is opened.
    database.drop_keyspace("t").unwrap();
    drop((handles, again, stays));
    database.close().unwrap();
    let database = setup().open_on(storage).unwrap();
    assert_eq!(count(&database)[..2], [1, 1], "after an open");
    assert_eq!(database.keyspaces().unwrap(), ["stays"]);
    database.wait_until_idle().unwrap();
    assert_eq!(count(&database), [1, 1, 1]);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn options_are_read_back_after_a_rename_an_open_and_a_copy() {
    let default = KeyspaceOptions::default();
    let options = [
        ("default", default),
        ("plain", default.compression(Compression::None).filter_bits(0)),
        ("plain values", default.value_compression(Compression::None).filter_bits(32)),
        (
            "small",
            default.compression(Compression::Zstd(22)).value_compression(Compression::Zstd(3)),
        ),
    ];
    let check = |database: &Database| {
        for (name, options) in options {
            let keyspace = database.existing_keyspace(name).unwrap();
            assert_eq!(keyspace.options().unwrap(), options, "{name}");
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    let open = |path| Database::builder().memory_budget(8 << 20).merge_threads(0).open(path);
    let database = open(&path).unwrap();
    for (name, options) in options {
        let keyspace = database.keyspace_with("draft", options).unwrap();
        assert_eq!(keyspace.options().unwrap(), options, "{name}");
        // One that is there keeps its own.
        let again = database.keyspace_with("draft", default.filter_bits(7)).unwrap();
        assert_eq!(again.options().unwrap(), options, "{name}");
        database.rename_keyspace("draft", name).unwrap();
        assert_eq!(keyspace.options().unwrap(), options, "{name}");
    }
    database.compact_to(&copy, &mut ()).unwrap();
    let dropped = database.keyspace("dropped").unwrap();
    database.drop_keyspace("dropped").unwrap();
    assert!(matches!(dropped.options(), Err(Error::KeyspaceDropped(name)) if name == "dropped"));
    database.close().unwrap();
    for path in [&path, &copy] {
        check(&open(path).unwrap());
    }
}

/// What is known of keyspaces is in memory, so the budget bounds how many there are: the same for
/// whoever makes one and for whoever opens a file that has them.
#[test]
fn there_are_no_more_keyspaces_than_the_budget_has_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    let open = |budget_mib: u64| {
        let builder = Database::builder().memory_budget(budget_mib << 20).merge_threads(0);
        builder.durability(Durability::Memory).open(&path)
    };
    let refused = |error: Error| match error {
        Error::InvalidOption { option: "memory_budget", detail } => detail,
        error => panic!("{error}"),
    };
    let long = |number: usize| format!("{number:01024}");
    let database = open(4).unwrap();
    let made = (0..2000).map(|number| database.keyspace(&long(number)));
    let (count, refusal) = made.enumerate().find(|(_, made)| made.is_err()).unwrap();
    let error = refusal.unwrap_err();
    // 3 KiB each of 4 MiB.
    assert!((1300..1400).contains(&count), "{count}");
    assert!(refused(error).contains("drop some, or open with"), "{count}");
    for number in 0..2 {
        database.drop_keyspace(&long(number)).unwrap();
    }
    database.wait_until_idle().unwrap();
    let short = database.keyspace("short").unwrap();
    short.put("key", "value").unwrap();
    database.keyspace(&long(0)).unwrap();
    database.rename_keyspace("short", "still short").unwrap();
    database.keyspace(&long(1)).unwrap_err();
    database.close().unwrap();

    // What was taken is taken again; what is more than that takes a larger budget to open.
    open(4).unwrap().close().unwrap();
    let database = open(48).unwrap();
    for number in count..count + 200 {
        database.keyspace(&long(number)).unwrap();
    }
    let copy = folder.path().join("copy");
    database.compact_to(&copy, &mut ()).unwrap();
    database.close().unwrap();
    let detail = refused(open(4).unwrap_err());
    let enough = detail.split_whitespace().rev().find_map(|word| word.parse::<u64>().ok()).unwrap();
    let builder = Database::builder().memory_budget(enough).merge_threads(0);
    assert_eq!(builder.open(&path).unwrap().keyspaces().unwrap().len(), count + 200);
    let builder = Database::builder().memory_budget(enough - (1 << 20)).merge_threads(0);
    refused(builder.open(&copy).unwrap_err());
}
