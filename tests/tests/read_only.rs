//! Databases that are opened read-only: everything can be read, and not a byte is written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]
// A macro stands beside what it is made for.
#![allow(clippy::items_after_statements)]

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::fixtures::{ARRANGEMENTS, KeyChange, arrange, run_all_steps};
use crash_lsm::model::State;
use crash_lsm::setup::Setup;
use sapwood::storage::{MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::atomic::Ordering;
use sapwood::sync::{Arc, Random};
use sapwood::{Builder, Database, Durability, Error, Isolation, Keyspace, Result};

fn reader() -> Builder {
    Database::builder().read_only(true).memory_budget(8 << 20)
}

/// Opens for reading on a storage that counts, and gives that too.
fn open_counting(builder: Builder, inner: Arc<dyn Storage>) -> (Database, Arc<CountingStorage>) {
    let storage = Arc::new(CountingStorage::new(inner));
    storage.freeze();
    (builder.open_on(storage.clone()).unwrap(), storage)
}

fn changes(random: &mut Random) -> Vec<KeyChange> {
    let one = |random: &mut Random| {
        let key = format!("{:03}", random.below(300)).into_bytes();
        let length = if random.one_in(20) { 5000 } else { random.below(60) as usize };
        let mut value = vec![0; length];
        random.fill(&mut value);
        (key, (!random.one_in(4)).then_some(value))
    };
    (0..600).map(|_| one(random)).collect()
}

/// What a process leaves that is killed: data wherever it may lie, and a log to replay, with
/// commits by reference, range deletes, large values and a dropped keyspace in it.
fn left_behind(random: &mut Random, case: usize) -> (SimulatedStorage, State) {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let arrangement = ARRANGEMENTS[case % ARRANGEMENTS.len()];
    arrange(&database, &keyspace, arrangement, &changes(random)).unwrap();
    if case >= ARRANGEMENTS.len() {
        let dropped = database.keyspace("dropped").unwrap();
        dropped.put("k", "v").unwrap();
        keyspace.delete_range("100".."120").unwrap();
        keyspace.put("large", vec![3; 200_000]).unwrap();
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        transaction.put_stream(&keyspace, "stream", io::repeat(5).take(300_000)).unwrap();
        transaction.put(&keyspace, "beside", "it").unwrap();
        transaction.commit().unwrap();
        database.drop_keyspace("dropped").unwrap();
        keyspace.put("last", "one").unwrap();
    }
    database.sync().unwrap();
    let state = access::dump(&database).unwrap();
    (storage.kill(), state)
}

#[test]
fn a_read_only_database_shows_what_a_writer_would_and_asks_for_no_write() {
    let mut random = Random::from_seed(7);
    for case in 0..2 * ARRANGEMENTS.len() {
        let (left, expected) = left_behind(&mut random, case);
        let before = left.image();
        let (database, storage) = open_counting(reader(), Arc::new(left.clone()));
        assert_eq!(access::dump(&database).unwrap(), expected, "{case}");
        assert_eq!(access::dump_back(&database).unwrap(), expected, "{case}");
        assert_eq!(access::verify(&database).unwrap(), None, "{case}");
        read_in_every_way(&database, &expected);
        refuse_in_every_way(&database);
        assert_eq!(access::dump(&database).unwrap(), expected, "{case}");
        database.close().unwrap();
        assert_eq!(storage.changes(), 0, "{case}: a change was asked for");
        assert!(left.image() == before, "{case}: bytes have changed");
        // And a writer finds what it would have found without the reader.
        let database = Setup::tiny().open_on(Arc::new(left)).unwrap();
        assert_eq!(access::dump(&database).unwrap(), expected, "{case}");
    }
}

fn read_in_every_way(database: &Database, expected: &State) {
    let keyspace = database.keyspace("a").unwrap();
    let map = &expected.keyspaces["a"];
    let snapshot = database.snapshot().unwrap();
    assert_eq!(&access::dump_snapshot(&snapshot, &keyspace).unwrap(), map);
    let mut cursor = keyspace.cursor().unwrap();
    let mut valid = cursor.first().unwrap();
    let mut count = 0;
    while valid {
        count += 1;
        valid = cursor.next().unwrap();
    }
    assert_eq!(count, map.len());
    for (key, value) in map {
        let mut bytes = Vec::new();
        keyspace.get_stream(key).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == **value);
    }
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let mut transaction = database.begin(isolation).unwrap();
        assert_eq!(&access::collect(transaction.iter(&keyspace).unwrap()).unwrap(), map);
        let _ = transaction.savepoint();
        transaction.commit_with(Durability::Sync).unwrap();
    }
    let counted = database.transact(|transaction| transaction.count::<&str>(&keyspace, ..));
    assert_eq!(counted.unwrap(), map.len() as u64);
    database.begin(Isolation::Serializable).unwrap().rollback();
    let stats = database.stats().unwrap();
    assert_eq!((stats.written_bytes, stats.commits, stats.flushes), (0, 0, 0));
    assert!(!database.run_step().unwrap());
    database.wait_until_idle().unwrap();

    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("copy.db");
    database.compact_to(&copy, &mut ()).unwrap();
    let copy = Database::open(copy).unwrap();
    assert_eq!(&access::dump(&copy).unwrap(), expected);
    assert_eq!(access::verify(&copy).unwrap(), None);
}

fn refuse_in_every_way(database: &Database) {
    let keyspace = database.keyspace("a").unwrap();
    let mut batch = database.batch();
    let batched = batch.put(&keyspace, "k", "v").and_then(|()| batch.commit());
    let in_transaction = |write: &dyn Fn(&mut sapwood::Transaction) -> Result<()>| {
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        let refused = write(&mut transaction);
        transaction.commit().unwrap();
        refused
    };
    let fresh = || keyspace.put_if_absent("none", "v").map(drop);
    let there = || keyspace.put_if_absent("last", "v").map(drop);
    let results = [
        ("put", keyspace.put("k", "v")),
        ("delete", keyspace.delete("k")),
        ("delete_range", keyspace.delete_range("a".."b")),
        ("delete_prefix", keyspace.delete_prefix("a")),
        ("put_stream", keyspace.put_stream("k", &b"v"[..]).map(drop)),
        ("put_if_absent", fresh()),
        ("put_if_absent of what is there", there()),
        ("compare_and_set", keyspace.compare_and_set("k", None, Some(b"v")).map(drop)),
        ("update", keyspace.update("k", |_| Some(vec![1])).map(drop)),
        ("try_update", keyspace.try_update("k", |_| Ok(Some(vec![1]))).map(drop)),
        ("batch", batched),
        ("empty batch", database.batch().commit_with(Durability::Buffered)),
        ("put in a transaction", in_transaction(&|t| t.put(&keyspace, "k", "v"))),
        ("delete in a transaction", in_transaction(&|t| t.delete(&keyspace, "k"))),
        ("delete_range in a transaction", {
            in_transaction(&|t| t.delete_range(&keyspace, "k".."l"))
        }),
        ("delete_prefix in a transaction", in_transaction(&|t| t.delete_prefix(&keyspace, "k"))),
        ("put_stream in a transaction", {
            in_transaction(&|t| t.put_stream(&keyspace, "k", &b"v"[..]).map(drop))
        }),
        ("transact", database.transact(|t| t.put(&keyspace, "k", "v"))),
        ("keyspace that is not there", database.keyspace("none").map(drop)),
        ("drop_keyspace", database.drop_keyspace("a")),
        ("rename_keyspace", database.rename_keyspace("a", "b")),
        ("sync", database.sync()),
        ("flush", database.flush()),
        ("compact", database.compact()),
        ("compact a range", keyspace.compact("a".."b", &mut ())),
    ];
    for (call, result) in results {
        let Err(error) = result else { panic!("{call} was taken") };
        assert!(matches!(error, Error::ReadOnly), "{call}: {error:?}");
        let text = "the database was opened read-only, and this call would write; \
                    open it without read_only(true) to write";
        assert_eq!(error.to_string(), text);
    }
    assert_eq!(database.keyspaces().unwrap(), ["a"]);
}

/// Dead keys are walked over again and again, since joining them would grow the memtable.
#[test]
fn scans_of_a_read_only_database_join_nothing() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..2000 {
        keyspace.put(format!("{number:04}"), "v").unwrap();
        keyspace.delete(format!("{number:04}")).unwrap();
    }
    database.sync().unwrap();
    let (database, _) = open_counting(reader().join_keys_min(2), Arc::new(storage.kill()));
    let keyspace = database.keyspace("a").unwrap();
    let before = database.stats().unwrap().memory.memtables;
    assert!(before > 0, "what was replayed counts");
    for _ in 0..3 {
        assert!(keyspace.first().unwrap().is_none());
    }
    let core = database.core().unwrap();
    core.charge_memtables();
    assert_eq!(database.stats().unwrap().memory.memtables, before);
}

/// A log of `bytes` that nothing has flushed, as a writer with a large budget leaves it.
fn long_log(bytes: u64) -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    let builder = Database::builder().memory_budget(64 << 20).merge_threads(0);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..bytes / 1024 {
        let mut batch = database.batch();
        batch.put(&keyspace, number.to_be_bytes(), [7; 1000]).unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
    }
    storage.kill()
}

#[test]
fn a_log_that_does_not_fit_the_budget_names_the_budget_that_is_enough() {
    let left = long_log(8 << 20);
    let before = left.image();
    let open = |budget: u64| {
        let builder = Database::builder().read_only(true).memory_budget(budget);
        builder.open_on(Arc::new(left.clone()))
    };
    let error = open(4 << 20).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "memory_budget", .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("option memory_budget: the log of simulated takes "), "{text}");
    assert!(text.ends_with(" at least, or open the file once for writing"), "{text}");
    let named = text.split("set it to ").nth(1).unwrap().split(' ').next().unwrap();
    let named: u64 = named.parse().unwrap();
    assert!((8 << 20..20 << 20).contains(&named), "{named}");

    let database = open(named).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 8 << 10);
    let memory = database.stats().unwrap().memory;
    assert!((8 << 20..named).contains(&memory.memtables), "{memory:?}");
    drop(database);
    // What is named is not much more than what is needed.
    assert!(open(named / 2).is_err());
    // One that writes can flush, whatever its budget.
    assert!(left.image() == before);
    let writer = Database::builder().memory_budget(4 << 20).merge_threads(0);
    let database = writer.open_on(Arc::new(left.clone())).unwrap();
    let memory = database.stats().unwrap().memory;
    assert!(memory.memtables <= 3 << 20, "flushed before it is handed out: {memory:?}");
    assert_eq!(database.keyspace("a").unwrap().count::<&str>(..).unwrap(), 8 << 10);
    database.flush().unwrap();
    database.close().unwrap();
    let database = open(4 << 20).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 8 << 10);
}

fn made(path: &Path) -> Keyspace {
    let database = Setup::tiny().builder().open(path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..200 {
        keyspace.put(format!("{number:03}"), "value").unwrap();
    }
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    database.close().unwrap();
    keyspace
}

fn count(database: &Database) -> u64 {
    database.existing_keyspace("a").unwrap().count::<&str>(..).unwrap()
}

#[test]
fn a_file_that_was_opened_read_only_is_the_same_to_the_byte_and_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    made(&path);
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).unwrap();
    let before = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    // The defaults have threads: none is started.
    let database = Database::builder().read_only(true).open(&path).unwrap();
    let core = database.core().unwrap();
    assert!(!core.background.has_threads.load(Ordering::Acquire));
    drop(core);
    assert_eq!(count(&database), 200);
    assert!(matches!(database.flush(), Err(Error::ReadOnly)));
    database.close().unwrap();
    let after = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
    assert!(before == after);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

/// Files that the system lets nobody write: one that is marked so, and, since that keeps nobody out
/// who may do everything, one of the kernel's own, where there is one.
#[test]
fn a_file_that_the_system_keeps_from_being_written_is_refused_with_the_way_to_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let marked = directory.path().join("test.db");
    made(&marked);
    let mut permissions = fs::metadata(&marked).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&marked, permissions).unwrap();
    let of_the_kernel = Path::new("/sys/kernel/notes");
    let mut refused = 0;
    for path in [&marked, of_the_kernel] {
        let by_the_system = fs::OpenOptions::new().read(true).write(true).open(path);
        let Err(system) = by_the_system else { continue };
        let kinds = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
        if !kinds.contains(&system.kind()) {
            continue;
        }
        refused += 1;
        for builder in [Database::builder(), Database::builder().create(false)] {
            let error = builder.open(path).unwrap_err();
            let text = format!(
                "opening the file failed on {}: {system}; with read_only(true) it may be readable",
                path.display()
            );
            assert_eq!(error.to_string(), text);
            let Error::Io { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), system.kind());
        }
    }
    assert!(refused > 0 || !of_the_kernel.exists(), "everything can be written here");
    // And so it is.
    assert_eq!(count(&reader().open(&marked).unwrap()), 200);
}

#[test]
fn readers_share_a_file_and_a_writer_and_readers_exclude_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    made(&path);
    let refused = |result: Result<Database>, by: &str| {
        let error = result.unwrap_err();
        let text = format!(
            "{} is in use by another process or handle, which has it open {by}; close that first",
            path.display()
        );
        assert!(matches!(error, Error::Locked { .. }), "{error:?}");
        assert_eq!(error.to_string(), text);
    };
    let first = reader().open(&path).unwrap();
    let second = reader().open(&path).unwrap();
    assert_eq!((count(&first), count(&second)), (200, 200));
    refused(Database::open(&path), "read-only");
    first.close().unwrap();
    refused(Database::open(&path), "read-only");
    drop(second);
    let writer = Database::open(&path).unwrap();
    refused(reader().open(&path), "for writing");
    refused(Database::open(&path), "for writing");
    writer.existing_keyspace("a").unwrap().put("more", "").unwrap();
    writer.close().unwrap();
    assert_eq!(count(&reader().open(&path).unwrap()), 201);
}

#[test]
fn a_read_only_open_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    for builder in [reader(), reader().create(true)] {
        assert!(matches!(builder.open(&path), Err(Error::NotFound(_))));
        assert!(!path.exists());
    }
    // As a process leaves it that was killed while it made the file.
    fs::write(&path, []).unwrap();
    let error = reader().open(&path).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);

    let storage = MemoryStorage::new();
    let opened = reader().create(true).open_on(Arc::new(storage.clone()));
    assert!(matches!(opened, Err(Error::NotFound(_))));
    assert_eq!(storage.counters().writes, 0);
    let error = reader().open_in_memory().unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "read_only", .. }), "{error:?}");
}
