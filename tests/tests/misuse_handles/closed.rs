//! Every fallible call of every handle after the close, and closes under open handles.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::hooked::HookedStorage;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Mutex};
use sapwood::{
    Batch, Database, Durability, Error, Isolation, Keyspace, KeyspaceOptions, Result, Seek as To,
    Snapshot, Transaction,
};

use crate::callbacks::within_patience;
use crate::{Bed, assert_closed};

/// The name of a call, and what it gives.
type Call = (&'static str, Result<()>);

fn of_database(database: &Database) -> Vec<Call> {
    let db = || database.clone();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.db");
    let calls = vec![
        ("keyspace", db().keyspace("a").map(drop)),
        ("keyspace_with", db().keyspace_with("b", KeyspaceOptions::default()).map(drop)),
        ("existing_keyspace", db().existing_keyspace("a").map(drop)),
        ("keyspaces", db().keyspaces().map(drop)),
        ("drop_keyspace", db().drop_keyspace("a")),
        ("rename_keyspace", db().rename_keyspace("a", "b")),
        ("snapshot", db().snapshot().map(drop)),
        ("begin", db().begin(Isolation::Snapshot).map(drop)),
        ("transact", db().transact(|_| Ok(()))),
        ("sync", db().sync()),
        ("flush", db().flush()),
        ("wait_until_idle", db().wait_until_idle()),
        ("run_step", db().run_step().map(drop)),
        ("compact", db().compact()),
        ("compact_with", db().compact_with(&mut ())),
        ("compact_to", db().compact_to(&copy, &mut ())),
        ("verify", db().verify(&mut ()).map(drop)),
        ("stats", db().stats().map(drop)),
        ("close", db().close()),
    ];
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no copy was begun");
    calls
}

fn of_keyspace(a: &Keyspace) -> Vec<Call> {
    vec![
        ("options", a.options().map(drop)),
        ("put", a.put("k", "v")),
        ("get", a.get("k").map(drop)),
        ("get_many", a.get_many(["k"]).map(drop)),
        ("contains", a.contains("k").map(drop)),
        ("delete", a.delete("k")),
        ("delete_range", a.delete_range("a".."b")),
        ("delete_prefix", a.delete_prefix("a")),
        ("put_if_absent", a.put_if_absent("k", "v").map(drop)),
        ("compare_and_set", a.compare_and_set("k", None, Some(b"v")).map(drop)),
        ("update", a.update("k", |_| panic!("there is nothing to update")).map(drop)),
        ("try_update", a.try_update("k", |_| panic!("there is nothing to update")).map(drop)),
        ("compact", a.compact("a".."b", &mut ())),
        ("range", a.range("a".."b").map(drop)),
        ("prefix", a.prefix("a").map(drop)),
        ("iter", a.iter().map(drop)),
        ("first", a.first().map(drop)),
        ("last", a.last().map(drop)),
        ("count", a.count("a".."b").map(drop)),
        ("estimate", a.estimate("a".."b").map(drop)),
        ("cursor", a.cursor().map(drop)),
        ("put_stream", a.put_stream("k", &[1; 100_000][..]).map(drop)),
        ("get_stream", a.get_stream("large").map(drop)),
    ]
}

fn of_snapshot(snapshot: &Snapshot, earlier: &Snapshot, a: &Keyspace) -> Vec<Call> {
    vec![
        ("get", snapshot.get(a, "k").map(drop)),
        ("get_many", snapshot.get_many(a, ["k"]).map(drop)),
        ("contains", snapshot.contains(a, "k").map(drop)),
        ("range", snapshot.range(a, "a".."b").map(drop)),
        ("prefix", snapshot.prefix(a, "a").map(drop)),
        ("iter", snapshot.iter(a).map(drop)),
        ("first", snapshot.first(a).map(drop)),
        ("last", snapshot.last(a).map(drop)),
        ("count", snapshot.count(a, "a".."b").map(drop)),
        ("cursor", snapshot.cursor(a).map(drop)),
        ("changed_since", snapshot.changed_since(earlier, a, "a"..).map(drop)),
        ("get_stream", snapshot.get_stream(a, "large").map(drop)),
    ]
}

/// The last two end a transaction each.
fn of_transaction(mut given: Vec<Transaction>, a: &Keyspace) -> Vec<Call> {
    let mut t = given.remove(0);
    let savepoint = t.savepoint();
    let calls = vec![
        ("get", t.get(a, "k").map(drop)),
        ("get_many", t.get_many(a, ["k"]).map(drop)),
        ("contains", t.contains(a, "k").map(drop)),
        ("put", t.put(a, "k", "v")),
        ("delete", t.delete(a, "k")),
        ("delete_range", t.delete_range(a, "a".."b")),
        ("delete_prefix", t.delete_prefix(a, "a")),
        ("range", t.range(a, "a".."b").map(drop)),
        ("prefix", t.prefix(a, "a").map(drop)),
        ("iter", t.iter(a).map(drop)),
        ("first", t.first(a).map(drop)),
        ("last", t.last(a).map(drop)),
        ("count", t.count(a, "a".."b").map(drop)),
        ("cursor", t.cursor(a).map(drop)),
        ("put_stream", t.put_stream(a, "k", &[1; 100_000][..]).map(drop)),
        ("get_stream", t.get_stream(a, "large").map(drop)),
        ("rollback_to", t.rollback_to(&savepoint)),
        ("commit", given.remove(0).commit()),
        ("commit_with", given.remove(0).commit_with(Durability::Sync)),
    ];
    t.rollback();
    calls
}

fn of_batches(mut given: Vec<Batch>, a: &Keyspace) -> Vec<Call> {
    let mut batch = given.remove(0);
    vec![
        ("put", batch.put(a, "k", "v")),
        ("delete", batch.delete(a, "k")),
        ("delete_range", batch.delete_range(a, "a".."b")),
        ("delete_prefix", batch.delete_prefix(a, "a")),
        ("commit", batch.commit()),
        ("commit_with", given.remove(0).commit_with(Durability::Memory)),
    ]
}

/// The names of the public methods that can fail, as the sources have them.
fn fallible(handle: &str) -> BTreeSet<String> {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/sapwood/src");
    let mut names = BTreeSet::new();
    let paths = [
        "database.rs",
        "keyspace.rs",
        "conditional.rs",
        "changed.rs",
        "stream.rs",
        "snapshot.rs",
        "batch.rs",
        "cursor.rs",
        "transaction/transaction.rs",
    ];
    for path in paths {
        let text = std::fs::read_to_string(format!("{sources}/{path}")).unwrap();
        let mut is_of_handle = false;
        let mut rest = text.as_str();
        while let Some((line, after)) = rest.split_once('\n') {
            if line.starts_with("impl") {
                is_of_handle = line == format!("impl {handle} {{");
            }
            if let Some(signature) = line.strip_prefix("    pub fn ").filter(|_| is_of_handle) {
                let name = signature.split(['(', '<']).next().unwrap();
                let head = &rest[..rest.find('{').unwrap()];
                if head.contains("-> Result") && head.contains("self") {
                    names.insert(name.to_owned());
                }
            }
            rest = after;
        }
    }
    names
}

/// Each call gives `Closed`, and none of the handle's is left out.
fn check_all(handle: &str, calls: Vec<Call>) {
    let mut expected = fallible(handle);
    if handle == "Database" {
        // For tools: the parts below.
        expected.remove("core");
    }
    let called: BTreeSet<String> = calls.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(called, expected, "the calls of {handle}");
    for (name, result) in calls {
        assert_closed(&format!("{handle}::{name}"), &result.unwrap_err());
    }
}

#[test]
fn every_call_of_every_handle_gives_closed_after_the_close() {
    let (bed, database, keyspace) = Bed::new();
    database.flush().unwrap();
    let (earlier, snapshot) = (database.snapshot().unwrap(), database.snapshot().unwrap());
    let begin = || {
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.get(&keyspace, "000").unwrap();
        transaction.put(&keyspace, "mine", "v").unwrap();
        transaction
    };
    let (transactions, read_only) = (
        vec![begin(), begin(), begin()],
        (0..3).map(|_| database.begin(Isolation::Snapshot).unwrap()).collect(),
    );
    let batch = || {
        let mut batch = database.batch();
        batch.put(&keyspace, "mine", "v").unwrap();
        batch
    };
    let batches = vec![batch(), batch()];
    let other = database.clone();
    database.close().unwrap();
    check_all("Database", of_database(&other));
    check_all("Keyspace", of_keyspace(&keyspace));
    check_all("Snapshot", of_snapshot(&snapshot, &earlier, &keyspace));
    check_all("Transaction", of_transaction(transactions, &keyspace));
    check_all("Transaction", of_transaction(read_only, &keyspace));
    check_all("Batch", of_batches(batches, &keyspace));
    // What says nothing about the data goes on.
    assert_eq!(keyspace.name(), "a");
    assert!(format!("{other:?} {keyspace:?} {snapshot:?}").contains("open: false"));
    assert_eq!(other.batch().len(), 0);
    bed.check_closed();
}

#[test]
fn cursors_give_closed_after_the_close_and_keep_the_key_they_stand_on() {
    let (bed, database, keyspace) = Bed::new();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.seek("007", To::Equal).unwrap());
    database.close().unwrap();
    assert_eq!(cursor.key(), Some(&b"007"[..]), "what was handed out stays");
    assert_eq!(cursor.value_len(), Some(100));
    assert_eq!(cursor.compare_key(b"008"), Some(std::cmp::Ordering::Less));
    let value = cursor.value().map(drop);
    let calls = vec![
        ("value", value),
        ("next", cursor.next().map(drop)),
        ("prev", cursor.prev().map(drop)),
        ("first", cursor.first().map(drop)),
        ("last", cursor.last().map(drop)),
        ("seek", cursor.seek("k", To::AtOrAfter).map(drop)),
    ];
    check_all("Cursor", calls);
    drop(cursor);
    bed.check_closed();
}

#[test]
fn iterators_give_closed_once_and_end() {
    let (bed, database, keyspace) = Bed::new();
    let snapshot = database.snapshot().unwrap();
    let transaction = database.begin(Isolation::Serializable).unwrap();
    let all = |_| {
        vec![
            keyspace.iter().unwrap(),
            snapshot.iter(&keyspace).unwrap(),
            transaction.iter(&keyspace).unwrap(),
        ]
    };
    let (mut fresh, mut begun, mut backward, mut keys) = (all(0), all(1), all(2), all(3));
    begun.iter_mut().for_each(|range| assert!(range.next().unwrap().is_ok()));
    backward.iter_mut().for_each(|range| assert!(range.next_back().unwrap().is_ok()));
    database.close().unwrap();
    for range in fresh.iter_mut().chain(&mut begun) {
        assert_closed("next", &range.next().unwrap().unwrap_err());
        assert!(range.next().is_none() && range.next_back().is_none());
    }
    for range in &mut backward {
        assert_closed("next_back", &range.next_back().unwrap().unwrap_err());
        assert!(range.next().is_none() && range.next_back().is_none());
    }
    for range in keys.drain(..) {
        let mut keys = range.keys();
        assert_closed("keys", &keys.next_back().unwrap().unwrap_err());
        assert!(keys.next().is_none());
    }
    transaction.rollback();
    bed.check_closed();
}

/// The error of an operating system's kind carries that of the database.
fn carried(error: &std::io::Error) -> &Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).expect("it carries an error")
}

#[test]
fn streams_carry_closed_after_the_close() {
    let (bed, database, keyspace) = Bed::new();
    keyspace.put("short", "value").unwrap();
    database.flush().unwrap();
    let snapshot = database.snapshot().unwrap();
    let transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut streams = vec![
        keyspace.get_stream("short").unwrap().unwrap(),
        keyspace.get_stream("large").unwrap().unwrap(),
        snapshot.get_stream(&keyspace, "large").unwrap().unwrap(),
        transaction.get_stream(&keyspace, "large").unwrap().unwrap(),
    ];
    streams.iter_mut().for_each(|stream| stream.read_exact(&mut [0]).unwrap());
    database.close().unwrap();
    for stream in &mut streams {
        assert_closed("read", carried(&stream.read(&mut [0; 10]).unwrap_err()));
        stream.seek(SeekFrom::Start(0)).unwrap();
        assert_closed("read again", carried(&stream.read_to_end(&mut Vec::new()).unwrap_err()));
        assert!(!stream.is_empty());
    }
    bed.check_closed();
}

/// Handles of all kinds, large uncommitted writes among them, go after the database in any order.
#[test]
fn a_close_under_open_handles_leaves_a_sound_file_whichever_is_dropped_first() {
    for round in 0..8 {
        let (bed, database, keyspace) = Bed::new();
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        let savepoint = transaction.savepoint();
        transaction.put_stream(&keyspace, "own", &[7; 300_000][..]).unwrap();
        let mut handles: Vec<Box<dyn std::any::Any>> = vec![
            Box::new(transaction.get_stream(&keyspace, "own").unwrap()),
            Box::new(transaction.cursor(&keyspace).unwrap()),
            Box::new(keyspace.get_stream("large").unwrap()),
            Box::new(keyspace.iter().unwrap()),
            Box::new(database.snapshot().unwrap()),
            Box::new(database.batch()),
            Box::new(savepoint),
            Box::new(transaction),
        ];
        if round % 2 == 0 {
            database.close().unwrap();
        } else {
            drop(database);
        }
        handles.rotate_left(round);
        handles.into_iter().for_each(drop);
        bed.check_closed();
        assert_closed("put", &keyspace.put("k", "v").unwrap_err());
    }
}

/// A storage of the application's own is called in merge threads, in the middle of steps. There
/// nothing can be closed: a thread would wait for itself.
#[test]
fn the_last_handle_dropped_in_a_merge_thread_closes_when_the_step_has_ended() {
    for thread_name in ["sapwood-merge-0", "sapwood-merge-1", "sapwood-sync"] {
        within_patience(move || {
            let last: Arc<Mutex<Option<Database>>> = Arc::default();
            let inside = last.clone();
            let memory = Arc::new(MemoryStorage::new());
            let storage = Arc::new(HookedStorage::before_syncs(memory.clone(), move || {
                if std::thread::current().name() == Some(thread_name) {
                    let database = inside.lock().take();
                    drop(database);
                }
            }));
            let builder = Setup { durability: Durability::Buffered, ..Setup::tiny() }.builder();
            let builder = builder.merge_threads(2).sync_interval(Duration::from_millis(1));
            let database = builder.clone().open_on(storage.clone()).unwrap();
            let keyspace = database.keyspace("a").unwrap();
            *last.lock() = Some(database);
            let mut count = 0_u32;
            let refused = loop {
                match keyspace.put(count.to_be_bytes(), [7; 500]) {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert_closed(thread_name, &refused);
            assert!(last.lock().is_none());
            // Whoever closes lets go of the file at the end.
            while Arc::strong_count(&storage) > 1 {
                std::thread::yield_now();
            }
            let database = builder.open_on(memory).unwrap();
            let keyspace = database.existing_keyspace("a").unwrap();
            assert_eq!(keyspace.count(..count.to_be_bytes()).unwrap(), u64::from(count));
            assert_eq!(access::verify(&database).unwrap(), None);
            database.close().unwrap();
        });
    }
}
