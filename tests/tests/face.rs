//! The public face: handles, ranges, cursors, transactions and their errors, against a `BTreeMap`.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "face/transactions.rs"]
mod transactions;
#[path = "face/walks.rs"]
mod walks;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use sapwood::{Database, Durability, Error, Isolation, Keyspace, KeyspaceOptions, Seek, Value};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database in memory that does nothing by itself.
fn open() -> Database {
    Database::builder()
        .memory_budget(8 << 20)
        .merge_threads(0)
        .durability(Durability::Memory)
        .open_in_memory()
        .unwrap()
}

fn key(number: u32) -> Vec<u8> {
    format!("key {number:05}").into_bytes()
}

/// Values of every kind: short, above what is copied, and in blocks of their own.
fn value(number: u32) -> Vec<u8> {
    let length = match number % 50 {
        7 => 1500,
        13 => 40_000,
        _ => number as usize % 30,
    };
    number.to_le_bytes().into_iter().cycle().take(length).collect()
}

/// Entries partly in a level, partly in young segments, partly in the memtable; some deleted.
fn fill(db: &Database, keyspace: &Keyspace) -> Model {
    let mut model = Model::new();
    for number in 0..600 {
        keyspace.put(key(number * 2), value(number)).unwrap();
        model.insert(key(number * 2), value(number));
    }
    db.wait_until_idle().unwrap();
    for number in (0..600).step_by(7) {
        keyspace.put(key(number), value(number + 1)).unwrap();
        model.insert(key(number), value(number + 1));
    }
    keyspace.delete_range(key(300)..key(333)).unwrap();
    model.retain(|k, _| !(key(300)..key(333)).contains(k));
    db.flush().unwrap();
    for number in (0..1300).step_by(11) {
        keyspace.delete(key(number)).unwrap();
        model.remove(&key(number));
    }
    for number in (0..1300).step_by(29) {
        keyspace.put(key(number), value(number + 2)).unwrap();
        model.insert(key(number), value(number + 2));
    }
    model
}

fn pairs(range: sapwood::Range) -> Vec<(Vec<u8>, Vec<u8>)> {
    range.map(|entry| entry.map(|(k, v)| (k.into_vec(), v.into_vec())).unwrap()).collect()
}

fn model_pairs(model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn assert_send_sync<T: Send + Sync>() {}
fn assert_send<T: Send>() {}

/// Asks something of each type, and gives their names.
macro_rules! each {
    ($check:ident: $($name:ident)*) => {{
        $($check::<sapwood::$name>();)*
        [$(stringify!($name)),*]
    }};
}

/// The names that the crate exports.
fn exported() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/sapwood/src/lib.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let statements = text.split("\npub use ").skip(1).map(|rest| rest.split(';').next().unwrap());
    let words = statements.flat_map(|statement| statement.split(|c: char| !c.is_alphanumeric()));
    words.filter(|word| word.starts_with(char::is_uppercase)).map(str::to_owned).collect()
}

#[test]
fn handles_can_be_shared_and_iterators_sent() {
    let shared = each!(assert_send_sync:
        Database Keyspace Snapshot Builder MemoryStorage Mapped Savepoint
        Key Value Error Corruption Structure Problem VerifyReport
        Stats DebtStats KeyspaceStats LevelStats LogStats MemoryStats SnapshotStats SyncStats
        TransactionStats WrittenStats
        Advice Compression Durability Isolation KeyspaceOptions Seek
        Epoch KeyspaceNumber PageNumber SequenceNumber
    );
    // One thread at a time: what they stand on moves.
    let sent = each!(assert_send: Range Keys Cursor Transaction Batch ValueStream);
    assert_send_sync::<Box<dyn sapwood::Storage>>();
    let others = ["Storage", "Progress", "Result"];
    let named = shared.into_iter().chain(sent).chain(others).map(str::to_owned);
    assert_eq!(named.collect::<BTreeSet<_>>(), exported(), "each public type, and no other");
}

#[test]
fn what_was_put_is_found_by_every_kind_of_read() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let model = fill(&db, &keyspace);
    for number in 0..1300 {
        let found = keyspace.get(key(number)).unwrap().map(Value::into_vec);
        assert_eq!(found.as_ref(), model.get(&key(number)), "{number}");
        assert_eq!(keyspace.contains(key(number)).unwrap(), found.is_some());
    }
    assert_eq!(pairs(keyspace.iter().unwrap()), model_pairs(&model));
    let mut backward = model_pairs(&model);
    backward.reverse();
    let range: Vec<_> = keyspace.iter().unwrap().rev().map(Result::unwrap).collect();
    let range: Vec<_> = range.into_iter().map(|(k, v)| (k.into_vec(), v.into_vec())).collect();
    assert_eq!(range, backward);
    assert_eq!(keyspace.count::<&str>(..).unwrap(), model.len() as u64);
    let (first, last) = (keyspace.first().unwrap().unwrap(), keyspace.last().unwrap().unwrap());
    assert_eq!(Some((first.0.into_vec(), first.1.into_vec())), model.clone().pop_first());
    assert_eq!(Some((last.0.into_vec(), last.1.into_vec())), model.clone().pop_last());
    let prefix = pairs(keyspace.prefix("key 0012").unwrap());
    let expected: Model = model
        .iter()
        .filter(|(k, _)| k.starts_with(b"key 0012"))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(prefix, model_pairs(&expected));
}

#[test]
fn a_long_scan_goes_on_over_flushes_and_merges() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let model = fill(&db, &keyspace);
    let mut range = keyspace.iter().unwrap();
    let mut back = keyspace.iter().unwrap();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.first().unwrap());
    for (index, (k, v)) in model.iter().enumerate() {
        match index {
            50 => keyspace.delete_prefix("key").unwrap(),
            100 => db.flush().unwrap(),
            200 => db.wait_until_idle().unwrap(),
            _ => {}
        }
        let (key, value) = range.next().unwrap().unwrap();
        assert_eq!((key.as_slice(), value.as_slice()), (k.as_slice(), v.as_slice()));
        assert_eq!(cursor.key(), Some(k.as_slice()));
        assert_eq!(cursor.value_len(), Some(v.len() as u64));
        assert_eq!(cursor.value().unwrap(), *v);
        assert_eq!(cursor.next().unwrap(), index + 1 < model.len());
        assert!(back.next_back().is_some());
    }
    assert!(range.next().is_none() && back.next().is_none() && !cursor.valid());
    assert!(keyspace.first().unwrap().is_none());
}

#[test]
fn every_form_of_range_gives_what_the_model_gives() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let model = fill(&db, &keyspace);
    let bounds = [
        Bound::Unbounded,
        Bound::Included(key(40)),
        Bound::Excluded(key(40)),
        Bound::Included(key(601)),
        Bound::Excluded(key(700)),
        Bound::Included(b"zzz".to_vec()),
    ];
    for start in &bounds {
        for end in &bounds {
            let range = (start.clone(), end.clone());
            let at = |bound: &Bound<Vec<u8>>| match bound {
                Bound::Unbounded => None,
                Bound::Included(key) | Bound::Excluded(key) => Some(key.clone()),
            };
            if let (Some(start), Some(end)) = (at(start), at(end))
                && start > end
            {
                assert!(matches!(keyspace.range(range.clone()), Err(Error::InvalidRange)));
                assert!(matches!(keyspace.count(range.clone()), Err(Error::InvalidRange)));
                assert!(matches!(keyspace.delete_range(range), Err(Error::InvalidRange)));
                continue;
            }
            let empty = at(start).is_some() && at(start) == at(end);
            let expected: Vec<_> = if empty {
                let both = matches!((start, end), (Bound::Included(_), Bound::Included(_)));
                model.iter().filter(|(k, _)| both && Some(*k) == at(start).as_ref()).collect()
            } else {
                model.range(range.clone()).collect()
            };
            let found = pairs(keyspace.range(range.clone()).unwrap());
            assert_eq!(
                found.iter().map(|(k, v)| (k, v)).collect::<Vec<_>>(),
                expected,
                "{range:?}"
            );
            assert_eq!(keyspace.count(range).unwrap(), expected.len() as u64);
        }
    }
}

#[test]
fn the_estimate_is_near_and_exact_for_what_is_whole() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    for number in 0..5000 {
        keyspace.put(key(number), [7; 40]).unwrap();
    }
    for flushed in [false, true] {
        if flushed {
            db.wait_until_idle().unwrap();
            assert_eq!(keyspace.estimate::<&str>(..).unwrap(), 5000);
        }
        let estimate = keyspace.estimate(key(1000)..key(3000)).unwrap();
        assert!((1500..=3000).contains(&estimate), "{estimate}, flushed: {flushed}");
        assert_eq!(keyspace.estimate(key(9000)..).unwrap(), 0);
        assert_eq!(keyspace.estimate(key(5)..key(5)).unwrap(), 0);
    }
}

#[test]
fn a_snapshot_sees_one_instant_whatever_comes() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let model = fill(&db, &keyspace);
    let snapshot = db.snapshot().unwrap();
    let copy = snapshot.clone();
    keyspace.delete_range::<&str>(..).unwrap();
    keyspace.put("new", "x").unwrap();
    for step in 0..4 {
        assert_eq!(pairs(snapshot.iter(&keyspace).unwrap()), model_pairs(&model), "step {step}");
        assert_eq!(snapshot.count::<&str>(&keyspace, ..).unwrap(), model.len() as u64);
        for number in 0..1300 {
            let found = copy.get(&keyspace, key(number)).unwrap().map(Value::into_vec);
            assert_eq!(found.as_ref(), model.get(&key(number)), "{number} at step {step}");
        }
        assert!(!snapshot.contains(&keyspace, "new").unwrap());
        match step {
            0 => db.flush().unwrap(),
            1 => db.wait_until_idle().unwrap(),
            _ => {
                db.drop_keyspace(&keyspace.name())
                    .or_else(|e| match e {
                        Error::UnknownKeyspace(_) => Ok(()),
                        e => Err(e),
                    })
                    .unwrap();
                db.wait_until_idle().unwrap();
            }
        }
    }
    assert!(db.snapshot().unwrap().sequence() > snapshot.sequence());
    assert!(matches!(keyspace.get("new"), Err(Error::KeyspaceDropped(name)) if name == "a"));
}

#[test]
fn an_iterator_that_ends_stays_ended() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    keyspace.put("a", "1").unwrap();
    let mut range = keyspace.iter().unwrap();
    assert!(range.next_back().is_some());
    keyspace.put("b", "2").unwrap();
    for _ in 0..3 {
        assert!(range.next().is_none() && range.next_back().is_none());
    }
}

/// Older versions lie below what leaves first: none of them comes up again.
#[test]
fn a_snapshot_behind_a_drop_sees_nothing_of_the_keyspace_whatever_has_left() {
    let db = Database::builder().merge_threads(0).open_in_memory().unwrap();
    let keyspace = db.keyspace("a").unwrap();
    for value in ["old", "new"] {
        for n in 0..2_000_u32 {
            keyspace.put(n.to_be_bytes(), value).unwrap();
        }
        db.flush().unwrap();
        if value == "old" {
            db.compact().unwrap();
        }
    }
    db.drop_keyspace("a").unwrap();
    loop {
        let snapshot = db.snapshot().unwrap();
        assert_eq!(snapshot.get(&keyspace, 7_u32.to_be_bytes()).unwrap(), None);
        let transaction = db.begin(Isolation::Snapshot).unwrap();
        assert_eq!(transaction.get(&keyspace, 8_u32.to_be_bytes()).unwrap(), None);
        drop((snapshot, transaction));
        db.flush().unwrap();
        if !db.run_step().unwrap() {
            break;
        }
    }
}

#[test]
fn handles_of_dropped_and_renamed_keyspaces() {
    let db = open();
    let keyspace = db.keyspace("old").unwrap();
    let other = db.keyspace("other").unwrap();
    keyspace.put("k", "v").unwrap();
    let again = db.existing_keyspace("old").unwrap();
    db.rename_keyspace("old", "new").unwrap();
    assert_eq!((keyspace.name(), again.name()), ("new".into(), "new".into()));
    assert_eq!(again.get("k").unwrap().unwrap(), "v");
    assert_eq!(db.keyspaces().unwrap(), ["new", "other"]);
    assert!(
        matches!(db.rename_keyspace("new", "other"), Err(Error::KeyspaceExists(n)) if n == "other")
    );
    assert!(matches!(db.rename_keyspace("old", "x"), Err(Error::UnknownKeyspace(n)) if n == "old"));
    assert!(matches!(db.existing_keyspace("old"), Err(Error::UnknownKeyspace(_))));

    let mut batch = db.batch();
    batch.put(&keyspace, "k", "w").unwrap();
    batch.put(&other, "k", "w").unwrap();
    db.drop_keyspace("new").unwrap();
    assert!(matches!(batch.commit(), Err(Error::KeyspaceDropped(name)) if name == "old"));
    assert_eq!(other.get("k").unwrap(), None, "nothing of the batch is there");
    let error = keyspace.put("k", "v").unwrap_err();
    assert_eq!(error.to_string(), "keyspace \"old\" was dropped");
    assert!(matches!(keyspace.iter(), Err(Error::KeyspaceDropped(_))));
    assert!(matches!(db.drop_keyspace("new"), Err(Error::UnknownKeyspace(_))));
    let fresh = db.keyspace("new").unwrap();
    assert_eq!(fresh.get("k").unwrap(), None);
    assert!(matches!(again.get("k"), Err(Error::KeyspaceDropped(_))));
}

#[test]
fn keyspaces_keep_their_entries_apart() {
    let db = open();
    let names = ["a", "b", "c"];
    let keyspaces: Vec<_> = names.iter().map(|name| db.keyspace(name).unwrap()).collect();
    for (keyspace, number) in keyspaces.iter().zip(0_u32..) {
        for entry in 0..100 {
            keyspace.put(key(entry), (entry + number).to_le_bytes()).unwrap();
        }
    }
    keyspaces[1].delete_range::<&str>(..).unwrap();
    for step in 0..3 {
        assert_eq!(keyspaces[0].iter().unwrap().count(), 100);
        assert_eq!(keyspaces[1].iter().unwrap().rev().count(), 0);
        assert_eq!(keyspaces[2].last().unwrap().unwrap().1, 101_u32.to_le_bytes());
        assert_eq!(keyspaces[0].last().unwrap().unwrap().1, 99_u32.to_le_bytes(), "step {step}");
        if step == 0 { db.flush().unwrap() } else { db.wait_until_idle().unwrap() }
    }
}

#[test]
fn handles_of_another_database_are_refused() {
    let (db, other) = (open(), open());
    let (keyspace, foreign) = (db.keyspace("mine").unwrap(), other.keyspace("theirs").unwrap());
    let refused = |error: Error| {
        assert_eq!(error.to_string(), "keyspace \"theirs\" belongs to another database");
    };
    let mut batch = db.batch();
    refused(batch.put(&foreign, "k", "v").unwrap_err());
    refused(batch.delete(&foreign, "k").unwrap_err());
    assert!(batch.is_empty());
    let snapshot = db.snapshot().unwrap();
    refused(snapshot.get(&foreign, "k").unwrap_err());
    refused(snapshot.iter(&foreign).unwrap_err());
    refused(snapshot.cursor(&foreign).unwrap_err());
    let mut transaction = db.begin(Isolation::Snapshot).unwrap();
    refused(transaction.put(&foreign, "k", "v").unwrap_err());
    refused(transaction.get(&foreign, "k").unwrap_err());
    refused(transaction.range(&foreign, "a"..).unwrap_err());
    transaction.put(&keyspace, "k", "v").unwrap();
    transaction.commit().unwrap();
}

#[test]
fn after_a_close_every_call_says_so_and_values_stay() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let large = value(13);
    keyspace.put("k", "v").unwrap();
    keyspace.put("l", &large).unwrap();
    keyspace.put("m", "w").unwrap();
    let (small, whole) = (keyspace.get("k").unwrap().unwrap(), keyspace.get("l").unwrap().unwrap());
    let snapshot = db.snapshot().unwrap();
    let mut range = keyspace.iter().unwrap();
    let (first, _) = range.next().unwrap().unwrap();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.first().unwrap());
    let mut transaction = db.begin(Isolation::Serializable).unwrap();
    transaction.put(&keyspace, "n", "x").unwrap();
    let mut batch = db.batch();
    batch.put(&keyspace, "n", "x").unwrap();
    let other = db.clone();
    db.close().unwrap();

    let closed = |error: Error| assert_eq!(error.to_string(), "the database is closed");
    closed(other.keyspace("a").unwrap_err());
    closed(other.keyspaces().unwrap_err());
    closed(other.snapshot().unwrap_err());
    closed(other.begin(Isolation::Snapshot).unwrap_err());
    closed(other.transact(|_| Ok(())).unwrap_err());
    closed(other.sync().unwrap_err());
    closed(other.flush().unwrap_err());
    closed(other.run_step().unwrap_err());
    closed(other.stats().unwrap_err());
    closed(keyspace.get("k").unwrap_err());
    closed(keyspace.put("k", "v").unwrap_err());
    closed(keyspace.count::<&str>(..).unwrap_err());
    closed(keyspace.cursor().unwrap_err());
    closed(snapshot.get(&keyspace, "k").unwrap_err());
    closed(range.next().unwrap().unwrap_err());
    assert!(range.next().is_none(), "it ends after an error");
    closed(cursor.next().unwrap_err());
    assert!(!cursor.valid());
    closed(cursor.first().unwrap_err());
    closed(transaction.get(&keyspace, "k").unwrap_err());
    closed(transaction.commit().unwrap_err());
    closed(batch.commit().unwrap_err());
    closed(other.close().unwrap_err());
    assert_eq!((first, small, whole), ("k".into(), "v".into(), large.into()));
    assert_eq!(keyspace.name(), "a");
}

#[test]
fn dropping_the_last_handle_closes_and_lets_the_file_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let db = Database::open(&path).unwrap();
    let keyspace = db.keyspace("a").unwrap();
    keyspace.put("k", "v").unwrap();
    let snapshot = db.snapshot().unwrap();
    let twin = db.clone();
    drop(db);
    assert!(matches!(Database::open(&path), Err(Error::Locked { .. })));
    keyspace.put("l", "w").unwrap();
    drop(twin);
    assert!(matches!(keyspace.get("k"), Err(Error::Closed)));
    assert!(matches!(snapshot.get(&keyspace, "k"), Err(Error::Closed)));

    let db = Database::open(&path).unwrap();
    let again = db.existing_keyspace("a").unwrap();
    assert_eq!(
        pairs(again.iter().unwrap()),
        [(b"k".to_vec(), b"v".to_vec()), (b"l".to_vec(), b"w".to_vec())]
    );
    assert!(matches!(db.batch().put(&keyspace, "k", "x"), Err(Error::ForeignKeyspace(_))));
    db.close().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "one file");
}

#[test]
fn options_that_are_fixed_are_compared_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let build = || Database::builder().memory_budget(8 << 20);
    assert!(matches!(build().create(false).open(&path), Err(Error::NotFound(_))));
    let db = build().page_size(8192).reserved_bytes(16).region_bytes(1 << 20).open(&path).unwrap();
    let keyspace = db.keyspace("a").unwrap();
    keyspace.put("k", "v").unwrap();
    db.close().unwrap();

    let refused = |error: Error, expected: &str| assert_eq!(error.to_string(), expected);
    refused(
        build().page_size(4096).open(&path).unwrap_err(),
        "option page_size: 4096 was asked for, but the file was created with 8192, which is fixed; \
         leave the option out",
    );
    let error = build().reserved_bytes(0).open(&path).unwrap_err();
    assert!(error.to_string().contains("reserved_bytes: 0 was asked for"), "{error}");
    let error = build().region_bytes(2 << 20).open(&path).unwrap_err();
    assert!(error.to_string().contains("created with 1048576"), "{error}");
    let error = build().page_size(1000).open(&path).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "page_size", .. }));
    let error = build().read_only(true).open_in_memory().unwrap_err();
    assert!(matches!(error, Error::InvalidOption { option: "read_only", .. }));

    let db = build().create(false).open(&path).unwrap();
    assert_eq!(db.keyspace("a").unwrap().get("k").unwrap().unwrap(), "v");
    db.close().unwrap();
    let db = build().page_size(8192).reserved_bytes(16).open(&path).unwrap();
    assert_eq!(db.keyspaces().unwrap(), ["a"]);
}

#[test]
fn a_keyspace_keeps_the_options_that_it_was_created_with() {
    let db = open();
    let wrong = KeyspaceOptions::default().filter_bits(200);
    assert!(matches!(db.keyspace_with("a", wrong), Err(Error::InvalidOption { .. })));
    db.keyspace_with("a", KeyspaceOptions::default().filter_bits(0)).unwrap();
    let again = db.keyspace_with("a", KeyspaceOptions::default()).unwrap();
    again.put("", "the empty key is a key").unwrap();
    assert_eq!(again.first().unwrap().unwrap().0, "");
}

#[test]
fn keys_and_values_that_are_too_large_are_refused() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let longest = vec![1; 16_384];
    keyspace.put(&longest, "v").unwrap();
    assert_eq!(keyspace.get(&longest).unwrap().unwrap(), "v");
    let longer = vec![1; 16_385];
    let error = keyspace.put(&longer, "v").unwrap_err();
    assert_eq!(error.to_string(), "a key of 16385 bytes is too long: the limit is 16384");
    assert!(matches!(keyspace.get(&longer), Err(Error::KeyTooLong { .. })));
    assert!(matches!(keyspace.delete(&longer), Err(Error::KeyTooLong { .. })));
    assert_eq!(keyspace.range(longest.clone()..=longest.clone()).unwrap().count(), 1);
    assert_eq!(keyspace.range(longer.clone()..).unwrap().count(), 0);
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.seek(&longer, Seek::AtOrBefore).unwrap());
    assert!(!cursor.seek(&longer, Seek::AtOrAfter).unwrap());
    assert!(!cursor.seek(&longer, Seek::Equal).unwrap());
    keyspace.delete_range(..=longest.clone()).unwrap();
    assert_eq!(keyspace.iter().unwrap().count(), 0);

    // An eighth of the budget is 1 MiB, a quarter 2 MiB.
    let large = vec![9; 1_500_000];
    keyspace.put("large", &large).unwrap();
    keyspace.put("small", "v").unwrap();
    let error = keyspace.get("large").unwrap_err();
    assert!(error.to_string().contains("get_stream"), "{error}");
    assert!(matches!(error, Error::ValueTooLarge { length: 1_500_000, limit: 1_048_576, .. }));
    assert!(keyspace.contains("large").unwrap());
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.first().unwrap());
    assert_eq!(cursor.value_len(), Some(1_500_000));
    assert!(matches!(cursor.value(), Err(Error::ValueTooLarge { .. })));
    assert!(cursor.next().unwrap());
    assert_eq!(cursor.value().unwrap(), "v");
    let mut range = keyspace.iter().unwrap();
    assert!(matches!(range.next(), Some(Err(Error::ValueTooLarge { .. }))));
    assert!(range.next().is_none());
    let error = keyspace.put("huge", vec![9; 3_000_000]).unwrap_err();
    assert!(matches!(error, Error::TransactionTooLarge { .. }), "{error}");
    let mut batch = db.batch();
    for number in 0..2 {
        batch.put(&keyspace, key(number), vec![1; 900_000]).unwrap();
    }
    let error = batch.put(&keyspace, "more", vec![1; 900_000]).unwrap_err();
    assert!(matches!(error, Error::TransactionTooLarge { limit: 2_097_152, .. }), "{error}");
    assert!(matches!(batch.commit(), Err(Error::TransactionTooLarge { .. })));
}

#[test]
fn a_batch_is_visible_whole_and_its_last_write_counts() {
    let db = open();
    let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
    a.put("gone", "x").unwrap();
    let mut batch = db.batch();
    batch.put(&a, "k", "1").unwrap();
    batch.put(&a, "k", "2").unwrap();
    batch.put(&b, "k", "3").unwrap();
    batch.delete_range(&a, "g".."h").unwrap();
    batch.put(&a, "gate", "open").unwrap();
    assert_eq!(batch.len(), 4);
    let before = db.snapshot().unwrap();
    batch.commit_with(Durability::Sync).unwrap();
    assert_eq!(a.get("k").unwrap().unwrap(), "2");
    assert_eq!(b.get("k").unwrap().unwrap(), "3");
    assert_eq!(a.get("gone").unwrap(), None);
    assert_eq!(a.get("gate").unwrap().unwrap(), "open");
    assert_eq!(before.iter(&a).unwrap().count() + before.iter(&b).unwrap().count(), 1);
    db.batch().commit().unwrap();
}

#[test]
fn a_batch_deletes_by_prefix_what_is_committed_and_what_it_has_put_before() {
    let db = open();
    let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
    for name in ["fig", "fig leaf", "fi", "fih", "\u{ff}"] {
        a.put(name, "old").unwrap();
        b.put(name, "old").unwrap();
    }
    for key in [&b"\xff"[..], b"\xff\xff", b"\xfe\xff"] {
        a.put(key, "old").unwrap();
    }
    let mut batch = db.batch();
    batch.put(&a, "fig jam", "never").unwrap();
    batch.delete_prefix(&a, "fig").unwrap();
    batch.put(&a, "fig tree", "new").unwrap();
    // Nothing comes behind these.
    batch.delete_prefix(&a, b"\xff").unwrap();
    assert_eq!(batch.len(), 3);
    let other = open().keyspace("a").unwrap();
    assert!(matches!(batch.delete_prefix(&other, "f"), Err(Error::ForeignKeyspace(_))));
    a.put("fig late", "before the commit").unwrap();
    batch.commit().unwrap();
    let keys: Vec<_> = pairs(a.iter().unwrap()).into_iter().map(|(key, _)| key).collect();
    let left = [&b"fi"[..], b"fig tree", b"fih", "\u{ff}".as_bytes(), b"\xfe\xff"];
    assert_eq!(keys, left);
    assert_eq!(b.count::<&str>(..).unwrap(), 5);
    let mut batch = db.batch();
    batch.delete_prefix(&b, "").unwrap();
    batch.commit().unwrap();
    assert_eq!(b.count::<&str>(..).unwrap(), 0, "every key begins with nothing");
}

#[test]
fn stats_count_and_print() {
    let db = open();
    let keyspace = db.keyspace("trees").unwrap();
    fill(&db, &keyspace);
    db.wait_until_idle().unwrap();
    let stats = db.stats().unwrap();
    assert!(stats.commits > 600 && stats.flushes >= 2 && stats.durable_states >= 1);
    assert_eq!(stats.keyspaces[0].name, "trees");
    assert_eq!(stats.keyspaces[0].levels.iter().map(|l| l.segments).sum::<u64>(), 1);
    assert_eq!(stats.young_segments, 0);
    assert!(stats.memory.cache > 0 && stats.file_bytes > stats.free_bytes);
    let text = stats.to_string();
    assert!(text.contains("keyspace \"trees\"") && text.lines().count() > 30, "{text}");
    assert!(!stats.stopped);
}
