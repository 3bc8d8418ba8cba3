//! Writes that depend on what is there, many keys at once, keys alone, and what has changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::fixtures::{ARRANGEMENTS, KeyChange, arrange, result_of, run_all_steps, tiny};
use crash_lsm::setup::Setup;
use proptest::prelude::*;
use sapwood::storage::{MemoryStorage, OperationKind, SimulatedStorage, Storage};
use sapwood::sync::atomic::{AtomicBool, Ordering};
use sapwood::sync::{Arc, Mutex, Random, channel, thread};
use sapwood::{Database, Durability, Error, Isolation, Keyspace, Snapshot, Value};

fn tiny_keyspace() -> (Database, Keyspace) {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    (database, keyspace)
}

fn count_of(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().unwrap()))
}

/// A value of a few lengths: inline, in a frame, and in blocks of its own.
fn value(kind: u8, seed: u8) -> Vec<u8> {
    vec![seed; [3, 2000, 70_000, 300_000][usize::from(kind % 4)]]
}

#[test]
fn conditional_writes_do_what_a_map_does_wherever_the_keys_lie() {
    for (arrangement, seed) in ARRANGEMENTS.into_iter().zip(1..) {
        let mut random = Random::from_seed(seed);
        let (database, keyspace) = tiny_keyspace();
        let mut changes: Vec<KeyChange> = Vec::new();
        for n in 0..40u8 {
            let kept = !random.one_in(4);
            changes.push((vec![n % 16], kept.then(|| value(random.below(3) as u8, n % 3))));
        }
        arrange(&database, &keyspace, arrangement, &changes).unwrap();
        let mut model = result_of(&changes);
        for n in 0..150 {
            let key = vec![random.below(20) as u8];
            let draw = |random: &mut Random| {
                let (kind, seed) = (random.below(4) as u8, random.below(3) as u8);
                (!random.one_in(4)).then(|| value(kind, seed))
            };
            let old = model.get(&key).map(|value| value.to_vec());
            let new = draw(&mut random);
            let set = match random.below(4) {
                0 => {
                    let put = new.clone().unwrap_or_default();
                    let done = keyspace.put_if_absent(&key, &put).unwrap();
                    assert_eq!(done, old.is_none(), "{arrangement:?}, {n}");
                    done.then_some(Some(put))
                }
                kind @ (1 | 2) => {
                    let expected = if kind == 1 { old.clone() } else { draw(&mut random) };
                    let done = keyspace.compare_and_set(&key, expected.as_deref(), new.as_deref());
                    assert_eq!(done.unwrap(), expected == old, "{arrangement:?}, {n}");
                    (expected == old).then_some(new)
                }
                _ => {
                    let updated = keyspace.update(&key, |found| {
                        assert!(found == old.as_deref(), "{arrangement:?}, {n}");
                        new.clone()
                    });
                    assert!(updated.unwrap().as_deref() == new.as_deref());
                    Some(new)
                }
            };
            match set {
                Some(Some(value)) => drop(model.insert(key, value.into())),
                Some(None) => drop(model.remove(&key)),
                None => {}
            }
            if n % 50 == 49 {
                database.flush().unwrap();
                run_all_steps(&database).unwrap();
            }
        }
        assert!(access::collect(keyspace.iter().unwrap()).unwrap() == model);
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}

/// Many threads, with flushes and merges among them.
fn in_threads(durability: Durability, run: impl Fn(&Keyspace, u64) + Send + Sync + 'static) {
    let setup = Setup { durability, ..Setup::tiny() };
    let database = setup.builder().merge_threads(1).open_in_memory().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let run = Arc::new(run);
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let (keyspace, run) = (keyspace.clone(), run.clone());
            thread::spawn("writer", move || run(&keyspace, n)).unwrap()
        })
        .collect();
    for _ in 0..20 {
        database.flush().unwrap();
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(count_of(keyspace.get("sum").unwrap().as_deref()), 4 * 200);
}

const ALL: [Durability; 3] = [Durability::Sync, Durability::Buffered, Durability::Memory];

#[test]
fn no_update_of_many_threads_is_lost() {
    for durability in ALL {
        in_threads(durability, |keyspace, _| {
            for _ in 0..200 {
                let add = |old: Option<&[u8]>| Some((count_of(old) + 1).to_le_bytes().to_vec());
                keyspace.update("sum", add).unwrap();
            }
        });
    }
}

#[test]
fn of_many_threads_one_puts_what_is_absent_and_one_sets_what_it_expects() {
    for durability in ALL {
        in_threads(durability, |keyspace, n| {
            for round in 0..800u64 {
                // Each round is one thread's at most; what it says it has set is counted apart.
                let key = round.to_be_bytes();
                if !keyspace.put_if_absent(key, n.to_le_bytes()).unwrap() {
                    assert!(keyspace.contains(key).unwrap(), "false was said of what is visible");
                    continue;
                }
                loop {
                    let old = keyspace.get("sum").unwrap();
                    let new = (count_of(old.as_deref()) + 1).to_le_bytes();
                    if keyspace.compare_and_set("sum", old.as_deref(), Some(&new)).unwrap() {
                        break;
                    }
                }
            }
        });
    }
}

#[test]
fn an_update_is_made_again_on_top_of_what_came_between() {
    let (database, keyspace) = tiny_keyspace();
    type Between = fn(&Database, &Keyspace);
    let between: [Between; 4] = [
        |_, keyspace| keyspace.put("k", "other").unwrap(),
        |_, keyspace| keyspace.delete_range("a".."z").unwrap(),
        |database, keyspace| {
            keyspace.put("k", "other").unwrap();
            database.flush().unwrap();
            database.compact().unwrap();
        },
        |database, keyspace| {
            let mut large = database.begin(Isolation::Snapshot).unwrap();
            for n in 0..4000 {
                large.put(keyspace, format!("large {n}"), [1; 500]).unwrap();
            }
            large.put(keyspace, "k", "other").unwrap();
            large.commit().unwrap();
        },
    ];
    for (between, n) in between.into_iter().zip(0..) {
        keyspace.put("k", "old").unwrap();
        let mut seen = Vec::new();
        let made = keyspace.update("k", |old| {
            seen.push(old.map(<[u8]>::to_vec));
            if seen.len() == 1 {
                between(&database, &keyspace);
            }
            Some(b"new".to_vec())
        });
        assert_eq!(made.unwrap().unwrap(), "new");
        let other = (n != 1).then(|| b"other".to_vec());
        assert_eq!(seen, [Some(b"old".to_vec()), other], "between {n}");
        assert_eq!(keyspace.get("k").unwrap().unwrap(), "new");
    }
}

#[test]
fn an_update_that_never_gets_through_is_a_conflict_and_changes_nothing() {
    let (_database, keyspace) = tiny_keyspace();
    let mut calls = 0u32;
    let result = keyspace.update("k", |_| {
        calls += 1;
        keyspace.put("k", calls.to_string()).unwrap();
        Some(b"mine".to_vec())
    });
    assert!(matches!(result, Err(Error::Conflict)), "{result:?}");
    assert_eq!(keyspace.get("k").unwrap().unwrap(), calls.to_string().as_str());
    let caught = catch_unwind(AssertUnwindSafe(|| keyspace.update("k", |_| panic!("on purpose"))));
    assert!(caught.is_err());
    assert!(keyspace.compare_and_set("k", Some(calls.to_string().as_bytes()), None).unwrap());
}

#[test]
fn an_update_that_gives_up_changes_nothing_and_gives_the_error_back() {
    let (_database, keyspace) = tiny_keyspace();
    keyspace.put("k", "not eight").unwrap();
    let mut calls = 0u32;
    let mut add = |old: Option<&[u8]>| {
        calls += 1;
        let old: [u8; 8] = match old {
            Some(old) => old.try_into().map_err(Error::application)?,
            None => [0; 8],
        };
        Ok(Some((u64::from_le_bytes(old) + 1).to_le_bytes().to_vec()))
    };
    let result = keyspace.try_update("k", &mut add);
    let Err(Error::Application(own)) = result else { panic!("{result:?}") };
    assert!(own.downcast_ref::<std::array::TryFromSliceError>().is_some(), "{own}");
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "not eight");
    assert_eq!(count_of(keyspace.try_update("new", &mut add).unwrap().as_deref()), 1);
    assert_eq!(count_of(keyspace.try_update("new", &mut add).unwrap().as_deref()), 2);
    assert_eq!(calls, 3);
    // A conflict that the closure met elsewhere is its own answer, too: it is not called again.
    let result = keyspace.try_update("new", |_| Err(Error::Conflict));
    assert!(result.unwrap_err().is_conflict());
    assert_eq!(count_of(keyspace.get("new").unwrap().as_deref()), 2);
}

/// K2: the key is there in memory, and its commit is on the way to the disk, where it never comes.
/// Whoever was told that it is there would have been told of what never was.
#[test]
fn an_answer_that_commits_nothing_waits_for_what_it_rests_on() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    keyspace.put("before", "v").unwrap();
    database.flush().unwrap();
    let (tell, told) = channel::unbounded();
    let (of, other, is_asked) = (storage.clone(), keyspace.clone(), AtomicBool::new(false));
    let (answers, asking) = (Mutex::new(told.clone()), Arc::new(Mutex::new(None)));
    let asked = Arc::clone(&asking);
    storage.on_operation(Box::new(move |operation| {
        let is_log = operation.kind == OperationKind::WriteSync && operation.offset >= 8192;
        if !is_log || is_asked.swap(true, Ordering::SeqCst) {
            return;
        }
        let (other, tell) = (other.clone(), tell.clone());
        let ask = move || tell.send(other.put_if_absent("k", "other")).unwrap();
        *asked.lock() = Some(thread::spawn("asks", ask).unwrap());
        // Long enough for an answer that does not wait; one that waits is not there yet.
        let early = answers.lock().recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "it has not waited: {early:?}");
        of.fail_sync_and_drop_cache();
    }));
    let mut batch = database.batch();
    batch.put(&keyspace, "k", "v").unwrap();
    let committed = batch.commit_with(Durability::Sync);
    storage.clear_on_operation();
    assert!(matches!(committed, Err(Error::Stopped(_))), "{committed:?}");
    let answer = told.recv().unwrap();
    assert!(matches!(answer, Err(Error::Stopped(_))), "{answer:?}");
    asking.lock().take().unwrap().join().unwrap();
    assert_eq!(keyspace.get("k").unwrap(), None);
}

/// The other commit has its place, and its sync takes longer than all attempts would.
#[test]
fn a_transaction_is_not_tried_in_vain_against_a_commit_that_waits_for_the_disk() {
    let storage = SimulatedStorage::new();
    let setup = Setup { durability: Durability::Sync, ..Setup::tiny() };
    let database = setup.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    keyspace.put("k", 1_u64.to_le_bytes()).unwrap();
    let (tell, told) = channel::unbounded();
    let (other, of_database) = (keyspace.clone(), database.clone());
    let (answers, asking) = (Mutex::new(told.clone()), Arc::new(Mutex::new(None)));
    let (asked, is_asked) = (Arc::clone(&asking), AtomicBool::new(false));
    storage.on_operation(Box::new(move |operation| {
        let is_log = operation.kind == OperationKind::WriteSync && operation.offset >= 8192;
        if !is_log || is_asked.swap(true, Ordering::SeqCst) {
            return;
        }
        let (database, other, tell) = (of_database.clone(), other.clone(), tell.clone());
        let add = move || {
            let added = database.transact(|transaction| {
                let count = count_of(transaction.get(&other, "k")?.as_deref()) + 1;
                transaction.put(&other, "k", count.to_le_bytes())
            });
            tell.send(added).unwrap();
        };
        *asked.lock() = Some(thread::spawn("adds", add).unwrap());
        let early = answers.lock().recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "it has not waited: {early:?}");
    }));
    keyspace.put("k", 10_u64.to_le_bytes()).unwrap();
    told.recv().unwrap().unwrap();
    asking.lock().take().unwrap().join().unwrap();
    storage.clear_on_operation();
    assert_eq!(count_of(keyspace.get("k").unwrap().as_deref()), 11);
}

/// What others were told beside a change of the keyspaces that waits for the disk, and fails.
#[test]
fn answers_about_keyspaces_wait_for_the_change_that_they_rest_on() {
    type Ask = fn(&Database, &Keyspace) -> Result<String, Error>;
    type Change = fn(&Database) -> Result<(), Error>;
    let drop_k: Change = |database| database.drop_keyspace("k");
    let create: Change = |database| database.keyspace("new").map(drop);
    let rename: Change = |database| database.rename_keyspace("k", "new");
    let cases: [(&str, Change, Ask); 6] = [
        ("put", drop_k, |_, k| k.put("k", "v").map(|()| String::new())),
        ("drop", drop_k, |database, _| database.drop_keyspace("k").map(|()| String::new())),
        ("keyspace", create, |database, _| Ok(database.keyspace("new")?.name())),
        ("rename to", create, |database, _| {
            database.rename_keyspace("k", "new").map(|()| String::new())
        }),
        ("keyspace new", rename, |database, _| Ok(database.keyspace("new")?.name())),
        ("rename from", rename, |database, _| {
            database.rename_keyspace("k", "other").map(|()| String::new())
        }),
    ];
    for (what, change, ask) in cases {
        for fails in [true, false] {
            let storage = SimulatedStorage::new();
            let setup = Setup { durability: Durability::Sync, ..Setup::tiny() };
            let database = setup.open_on(Arc::new(storage.clone())).unwrap();
            let keyspace = database.keyspace("k").unwrap();
            keyspace.put("before", "v").unwrap();
            database.flush().unwrap();
            let (tell, told) = channel::unbounded();
            let (of, other) = (storage.clone(), keyspace.clone());
            let (of_database, is_asked) = (database.clone(), AtomicBool::new(false));
            let (answers, asking) = (Mutex::new(told.clone()), Arc::new(Mutex::new(None)));
            let asked = Arc::clone(&asking);
            storage.on_operation(Box::new(move |operation| {
                let is_log = operation.kind == OperationKind::WriteSync && operation.offset >= 8192;
                if !is_log || is_asked.swap(true, Ordering::SeqCst) {
                    return;
                }
                // Readers go on with what is visible, and wait for nothing.
                assert_eq!(other.get("before").unwrap().unwrap(), "v");
                assert_eq!(of_database.keyspaces().unwrap(), ["k"]);
                assert_eq!(of_database.existing_keyspace("k").unwrap().name(), "k");
                assert!(of_database.existing_keyspace("new").is_err());
                let (database, other, tell) = (of_database.clone(), other.clone(), tell.clone());
                let ask = move || tell.send(ask(&database, &other)).unwrap();
                *asked.lock() = Some(thread::spawn("asks", ask).unwrap());
                let early = answers.lock().recv_timeout(Duration::from_millis(100));
                assert!(early.is_err(), "{what} has not waited: {early:?}");
                if fails {
                    of.fail_sync_and_drop_cache();
                }
            }));
            let changed = change(&database);
            storage.clear_on_operation();
            assert_eq!(changed.is_err(), fails, "{changed:?}");
            let answer = told.recv().unwrap();
            asking.lock().take().unwrap().join().unwrap();
            if !fails {
                continue;
            }
            assert_eq!(database.keyspaces().unwrap(), ["k"], "{what}");
            assert_eq!(keyspace.get("before").unwrap().unwrap(), "v", "{what}");
            match answer {
                Err(Error::Stopped(_)) => {}
                Ok(name) => assert_eq!((what, &*name), ("existing", "k")),
                Err(Error::UnknownKeyspace(name)) => {
                    assert_eq!((what, &*name), ("existing new", "new"));
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
}

#[test]
fn conditional_writes_survive_a_reopen_and_take_earlier_ones_with_them() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let setup = Setup { durability: Durability::Memory, ..Setup::tiny() };
    let database = setup.builder().open_on(storage.clone()).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    assert!(keyspace.put_if_absent("a", value(3, 1)).unwrap());
    assert!(keyspace.compare_and_set("a", Some(&value(3, 1)), Some(&value(2, 2))).unwrap());
    assert!(!keyspace.compare_and_set("a", Some(&value(2, 3)), None).unwrap());
    assert_eq!(access::verify(&database).unwrap(), None);
    database.close().unwrap();
    let database = setup.builder().open_on(storage).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    assert!(*keyspace.get("a").unwrap().unwrap() == value(2, 2)[..]);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn many_keys_are_answered_in_the_order_asked_as_single_ones_are() {
    for (arrangement, seed) in ARRANGEMENTS.into_iter().zip(1..) {
        let mut random = Random::from_seed(seed);
        let (database, keyspace) = tiny_keyspace();
        let changes: Vec<KeyChange> = (0..300u16)
            .map(|n| {
                let new = (!random.one_in(4))
                    .then(|| value(if n % 60 == 0 { 2 } else { (n % 2) as u8 }, n as u8));
                (random.below(200).to_be_bytes().to_vec(), new)
            })
            .collect();
        arrange(&database, &keyspace, arrangement, &changes).unwrap();
        let keys: Vec<_> = (0..300).map(|_| random.below(220).to_be_bytes()).collect();
        let snapshot = database.snapshot().unwrap();
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.put(&keyspace, keys[7], "own").unwrap();
        transaction.delete(&keyspace, keys[8]).unwrap();
        let one_by_one = |get: &dyn Fn(&[u8; 8]) -> Option<Value>| -> Vec<Option<Value>> {
            keys.iter().map(get).collect()
        };
        let expected = one_by_one(&|key| keyspace.get(key).unwrap());
        assert!(expected.iter().any(Option::is_some) && expected.iter().any(Option::is_none));
        assert!(keyspace.get_many(&keys).unwrap() == expected);
        assert!(snapshot.get_many(&keyspace, &keys).unwrap() == expected);
        let own = one_by_one(&|key| transaction.get(&keyspace, key).unwrap());
        assert!(own[7].as_deref() == Some(b"own") || keys[7] == keys[8]);
        assert!(transaction.get_many(&keyspace, &keys).unwrap() == own);
        keyspace.delete_range::<&str>(..).unwrap();
        assert!(keyspace.get_many(&keys).unwrap().iter().all(Option::is_none));
        assert!(snapshot.get_many(&keyspace, &keys).unwrap() == expected);
        assert!(transaction.commit().unwrap_err().is_conflict(), "what was asked for was read");
    }
    let (_database, keyspace) = tiny_keyspace();
    assert!(keyspace.get_many::<&str>([]).unwrap().is_empty());
    let long = vec![1; 20_000];
    let error = keyspace.get_many([&[1][..], &long]).unwrap_err();
    assert!(matches!(error, Error::KeyTooLong { length: 20_000, .. }), "{error:?}");
}

/// Where the file is read when nothing is in the cache.
fn reads_of(database: &Database, storage: &SimulatedStorage, work: impl FnOnce()) -> BTreeSet<u64> {
    database.core().unwrap().pages.cache().clear();
    storage.start_trace();
    work();
    let trace = storage.take_trace().into_iter();
    trace.filter(|entry| entry.kind == OperationKind::Read).map(|entry| entry.offset).collect()
}

#[test]
fn keys_come_from_both_ends_and_no_value_is_read() {
    for arrangement in ARRANGEMENTS {
        let storage = SimulatedStorage::new();
        let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("k").unwrap();
        let changes: Vec<KeyChange> = (0..60u8)
            .map(|n| {
                (vec![n % 40], (n % 7 != 0).then(|| value(if n % 20 == 3 { 2 } else { n % 2 }, n)))
            })
            .collect();
        arrange(&database, &keyspace, arrangement, &changes).unwrap();
        let expected: Vec<_> = result_of(&changes).into_keys().collect();
        let all = |keys: sapwood::Keys| -> Vec<Vec<u8>> {
            keys.map(|key| key.unwrap().to_vec()).collect()
        };
        let of_keys = reads_of(&database, &storage, || {
            assert_eq!(all(keyspace.iter().unwrap().keys()), expected, "{arrangement:?}");
        });
        let of_pairs = reads_of(&database, &storage, || {
            assert!(keyspace.iter().unwrap().all(|pair| pair.is_ok()));
        });
        // Each large value lies in blocks of its own.
        let large = result_of(&changes).values().filter(|value| value.len() >= 70_000).count();
        let of_values = of_pairs.difference(&of_keys).count();
        let reads = format!("{arrangement:?}: {of_keys:?}, {of_pairs:?}");
        assert!(large > 0 && of_values >= large, "{reads}");
        let backward = keyspace.iter().unwrap().keys().rev();
        let backward: Vec<_> = backward.map(|key| key.unwrap().to_vec()).collect();
        assert!(backward.iter().rev().eq(&expected), "{arrangement:?}");
        // Begun with values, ended without, and met from the other side.
        let mut range = keyspace.range([3]..).unwrap();
        let from = expected.iter().position(|key| key[0] >= 3).unwrap();
        assert_eq!(*range.next().unwrap().unwrap().0, expected[from][..]);
        let mut keys = range.keys();
        assert_eq!(*keys.next_back().unwrap().unwrap(), expected[expected.len() - 1][..]);
        assert_eq!(all(keys), expected[from + 1..expected.len() - 1]);
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.put(&keyspace, [200], "own").unwrap();
        let own = all(transaction.iter(&keyspace).unwrap().keys());
        assert_eq!(own.len(), expected.len() + 1);
    }
}

#[test]
fn keys_of_values_above_the_limit_can_be_walked() {
    let (database, keyspace) = tiny_keyspace();
    let length = database.stats().unwrap().memory_budget_bytes / 8 + 1;
    keyspace.put_stream("large", std::io::Read::take(std::io::repeat(7), length)).unwrap();
    assert!(keyspace.iter().unwrap().next().unwrap().is_err());
    assert_eq!(keyspace.iter().unwrap().keys().next().unwrap().unwrap(), "large");
}

/// What one step of a history does.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8, u8),
    DeleteRange(u8, u8),
    Flush,
    Merge,
    Compact,
    ByReference(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..24, 0u8..3, 0u8..2).prop_map(|(key, kind, seed)| Step::Put(key, kind, seed)),
        2 => (0u8..24, 1u8..6).prop_map(|(start, length)| Step::DeleteRange(start, length)),
        2 => Just(Step::Flush),
        1 => Just(Step::Merge),
        1 => Just(Step::Compact),
        1 => (0u8..24).prop_map(Step::ByReference),
    ]
}

fn run(database: &Database, keyspace: &Keyspace, step: &Step) {
    match step {
        Step::Put(key, kind, seed) => keyspace.put([*key], value(*kind, *seed)).unwrap(),
        Step::DeleteRange(start, length) => {
            keyspace.delete_range([*start]..[start + length]).unwrap();
        }
        Step::Flush => database.flush().unwrap(),
        Step::Merge => run_all_steps(database).unwrap(),
        Step::Compact => database.compact().unwrap(),
        Step::ByReference(key) => {
            let mut transaction = database.begin(Isolation::Snapshot).unwrap();
            for n in 0..5 {
                transaction.put(keyspace, [*key + n], value(1, n)).unwrap();
            }
            transaction.commit().unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_snapshot_has_changed_since_another_exactly_where_contents_differ(
        mut steps in prop::collection::vec(step(), 1..40), range in (0u8..24, 0u8..24),
        range_deletes in prop::bool::weighted(0.3)
    ) {
        // With them everything is compared; without, what was written since.
        steps.retain(|step| range_deletes || !matches!(step, Step::DeleteRange(..)));
        let setup = Setup { transaction_bytes: Some(1), ..Setup::tiny() };
        let database = setup.builder().open_in_memory().unwrap();
        let keyspace = database.keyspace("k").unwrap();
        let mut snapshots: Vec<Snapshot> = vec![database.snapshot().unwrap()];
        for (step, n) in steps.iter().zip(1..) {
            run(&database, &keyspace, step);
            if n % 5 == 0 {
                snapshots.push(database.snapshot().unwrap());
            }
        }
        snapshots.push(database.snapshot().unwrap());
        let (start, end) = ([range.0.min(range.1)], [range.0.max(range.1)]);
        let contents: Vec<_> = snapshots
            .iter()
            .map(|snapshot| snapshot.range(&keyspace, start..end).unwrap())
            .map(|range| access::collect(range).unwrap())
            .collect();
        for (ours, our_content) in snapshots.iter().zip(&contents) {
            for (theirs, their_content) in snapshots.iter().zip(&contents) {
                let changed = ours.changed_since(theirs, &keyspace, start..end).unwrap();
                prop_assert_eq!(changed, our_content != their_content);
            }
        }
    }
}

#[test]
fn what_was_put_back_has_not_changed_and_other_keyspaces_do_not_count() {
    let (database, keyspace) = tiny_keyspace();
    let other = database.keyspace("other").unwrap();
    keyspace.put("a", value(3, 1)).unwrap();
    let before = database.snapshot().unwrap();
    keyspace.delete("a").unwrap();
    other.put("a", "1").unwrap();
    let between = database.snapshot().unwrap();
    keyspace.put("a", value(3, 1)).unwrap();
    database.flush().unwrap();
    database.compact().unwrap();
    let after = database.snapshot().unwrap();
    assert!(between.changed_since(&before, &keyspace, "a"..).unwrap());
    assert!(after.changed_since(&between, &keyspace, "a"..).unwrap());
    assert!(!after.changed_since(&before, &keyspace, "a"..).unwrap());
    assert!(after.changed_since(&before, &other, "a"..).unwrap());
    assert!(!after.changed_since(&before, &other, "b"..).unwrap());
    let other = tiny().unwrap();
    let foreign = other.snapshot().unwrap();
    let error = after.changed_since(&foreign, &keyspace, "a"..).unwrap_err();
    assert!(matches!(error, Error::ForeignKeyspace(_)), "{error:?}");
    let error = after.changed_since(&before, &keyspace, "b".."a").unwrap_err();
    assert!(matches!(error, Error::InvalidRange), "{error:?}");
}

/// Everything is put back as it was, so that the whole range must be looked at to know that.
#[test]
fn comparing_snapshots_reads_what_was_written_since_and_not_what_both_see() {
    let (database, keyspace) = tiny_keyspace();
    let key = |number: u32| number.to_be_bytes();
    let pages = database.core().unwrap().pages.clone();
    for number in 0..20_000 {
        keyspace.put(key(number), value(0, number as u8)).unwrap();
    }
    database.compact().unwrap();
    let nodes_read = |look: &dyn Fn()| {
        pages.cache().clear();
        let before = pages.counters().nodes_read.iter().sum::<u64>();
        look();
        pages.counters().nodes_read.iter().sum::<u64>() - before
    };
    let all = nodes_read(&|| assert_eq!(keyspace.iter().unwrap().count(), 20_000));
    let before = database.snapshot().unwrap();
    let write = |numbers: &[u32], seed: u8| {
        for number in numbers {
            keyspace.put(key(*number), value(0, *number as u8 + seed)).unwrap();
        }
        database.flush().unwrap();
    };
    let numbers = [17, 18, 5_000, 9_000, 19_999];
    write(&numbers, 1);
    let between = database.snapshot().unwrap();
    write(&numbers, 0);
    let in_young_segments = database.snapshot().unwrap();
    run_all_steps(&database).unwrap();
    let merged = database.snapshot().unwrap();
    for after in [&in_young_segments, &merged] {
        let read = nodes_read(&|| {
            assert!(!after.changed_since(&before, &keyspace, key(0)..).unwrap());
        });
        assert!(read < all / 20, "{read} nodes, when a walk over everything reads {all}");
    }
    assert!(merged.changed_since(&between, &keyspace, key(0)..).unwrap());
    assert!(!merged.changed_since(&between, &keyspace, key(19)..key(5_000)).unwrap());
}

/// A compaction leaves nothing of the last level. What it took out of the level above, which stays,
/// has changed no leaf that anybody could look at.
#[test]
fn what_was_deleted_is_seen_when_only_a_level_above_is_left() {
    let (database, keyspace) = tiny_keyspace();
    let key = |number: u32| number.to_be_bytes();
    for number in 0..20_000 {
        keyspace.put(key(number), value(0, number as u8)).unwrap();
    }
    database.compact().unwrap();
    for seed in 0..8 {
        for number in [30_000, 40_000] {
            keyspace.put(key(number), value(0, seed)).unwrap();
        }
        database.flush().unwrap();
    }
    run_all_steps(&database).unwrap();
    let before = database.snapshot().unwrap();
    let deleted: Vec<u32> = (0..20_000).chain([30_000]).collect();
    for numbers in deleted.chunks(2_000) {
        let mut batch = database.batch();
        numbers.iter().for_each(|number| batch.delete(&keyspace, key(*number)).unwrap());
        batch.commit().unwrap();
    }
    keyspace.compact(key(0)..=key(30_000), &mut |_, _| true).unwrap();
    let state = database.core().unwrap().state();
    for levels in state.levels.values() {
        assert!(
            levels.last().is_none() && levels.above().count() == 1,
            "{} levels",
            levels.levels.len()
        );
    }
    let after = database.snapshot().unwrap();
    let only = key(30_000)..=key(30_000);
    assert!(before.get(&keyspace, key(30_000)).unwrap().is_some());
    assert!(after.get(&keyspace, key(30_000)).unwrap().is_none());
    assert!(after.changed_since(&before, &keyspace, only).unwrap());
    let other = key(40_000)..=key(40_000);
    assert!(!after.changed_since(&before, &keyspace, other).unwrap());
}

/// Levels are counted from the last one: one that comes or goes above it makes no difference to
/// those below. Counted from the top, the long last level of one state was compared with the new
/// level of the other.
#[test]
fn a_level_that_came_or_went_between_snapshots_is_read_and_not_those_below_it() {
    let (database, keyspace) = tiny_keyspace();
    let key = |number: u32| number.to_be_bytes();
    let pages = database.core().unwrap().pages.clone();
    for number in 0..20_000 {
        keyspace.put(key(number), value(0, number as u8)).unwrap();
    }
    database.compact().unwrap();
    let nodes_read = |look: &dyn Fn()| {
        pages.cache().clear();
        let before = pages.counters().nodes_read.iter().sum::<u64>();
        look();
        pages.counters().nodes_read.iter().sum::<u64>() - before
    };
    let all = nodes_read(&|| assert_eq!(keyspace.iter().unwrap().count(), 20_000));
    let one_level = database.snapshot().unwrap();
    // Everything is as it was in the end, so that all that differs must be looked at to know that.
    for seed in [1, 2, 3, 4, 5, 6, 7, 0] {
        for number in [17, 18, 5_000, 9_000, 19_999] {
            keyspace.put(key(number), value(0, number as u8 + seed)).unwrap();
        }
        database.flush().unwrap();
    }
    let levels = || {
        let state = database.core().unwrap().state();
        state.levels.values().map(|levels| levels.levels.len()).sum::<usize>()
    };
    run_all_steps(&database).unwrap();
    assert_eq!(levels(), 2);
    let two_levels = database.snapshot().unwrap();
    database.wait_until_idle().unwrap();
    assert_eq!(levels(), 1);
    let one_again = database.snapshot().unwrap();
    for (after, before) in [(&two_levels, &one_level), (&one_again, &two_levels)] {
        let read = nodes_read(&|| {
            assert!(!after.changed_since(before, &keyspace, key(0)..).unwrap());
        });
        assert!(read < all / 20, "{read} nodes, when a walk over everything reads {all}");
    }
}
