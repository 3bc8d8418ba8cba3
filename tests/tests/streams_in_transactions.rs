//! Values as streams inside transactions, and the check of the file beside a stream under way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use proptest::prelude::*;
use sapwood::storage::{CrashPlan, SimulatedStorage};
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Durability, Error, Isolation, Keyspace, Transaction, ValueStream};

fn tiny() -> (Database, Keyspace) {
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

/// Pages that are not free, once everything is settled.
fn used_bytes(database: &Database) -> u64 {
    for _ in 0..3 {
        database.flush().unwrap();
        run_all_steps(database).unwrap();
        database.wait_until_idle().unwrap();
    }
    let stats = database.stats().unwrap();
    stats.file_bytes - stats.free_bytes
}

fn assert_clean(database: &Database) {
    assert_eq!(access::verify(database).unwrap(), None);
}

fn value(length: usize, seed: u8) -> Vec<u8> {
    let mut value = vec![0; length];
    Random::from_seed(seed.into()).fill(&mut value);
    value
}

fn whole(stream: Option<ValueStream>) -> Option<Vec<u8>> {
    stream.map(|mut stream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

fn read(transaction: &Transaction, keyspace: &Keyspace, key: &str) -> Option<Vec<u8>> {
    whole(transaction.get_stream(keyspace, key).unwrap())
}

/// A reader that does something each time before it gives some bytes.
struct Doing<F>(usize, F);

impl<F: FnMut(usize) -> io::Result<()>> Read for Doing<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (self.1)(self.0)?;
        let length = buffer.len().min(self.0).min(50_000);
        // What can be compressed away takes no blocks before its end.
        Random::from_seed(self.0 as u64).fill(&mut buffer[..length]);
        self.0 -= length;
        Ok(length)
    }
}

#[test]
fn a_check_beside_a_stream_under_way_finds_an_owner_for_every_page() {
    let (database, keyspace) = tiny();
    let mut checks = 0;
    let check = |_| {
        checks += 1;
        assert_clean(&database);
        Ok(())
    };
    keyspace.put_stream("k", Doing(3_000_000, check)).unwrap();
    assert!(checks > 50);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let check = |_| {
        assert_clean(&database);
        Ok(())
    };
    transaction.put_stream(&keyspace, "k", Doing(3_000_000, check)).unwrap();
    assert_clean(&database);
    drop(transaction);
    assert_clean(&database);
}

#[test]
fn a_streamed_value_is_the_transactions_own_until_its_commit() {
    let (database, keyspace) = tiny();
    keyspace.put_stream("old", &value(200_000, 1)[..]).unwrap();
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let mut transaction = database.begin(isolation).unwrap();
        transaction.put(&keyspace, "before", "1").unwrap();
        let length = transaction.put_stream(&keyspace, "k", &value(300_000, 2)[..]).unwrap();
        assert_eq!(length, 300_000);
        transaction.put_stream(&keyspace, "short", &b"short"[..]).unwrap();
        transaction.put(&keyspace, "behind", "2").unwrap();
        assert!(read(&transaction, &keyspace, "k").unwrap() == value(300_000, 2));
        assert!(*transaction.get(&keyspace, "k").unwrap().unwrap() == value(300_000, 2)[..]);
        assert_eq!(read(&transaction, &keyspace, "short").unwrap(), b"short");
        assert!(read(&transaction, &keyspace, "old").unwrap() == value(200_000, 1));
        assert_eq!(read(&transaction, &keyspace, "nothing"), None);
        assert_eq!(transaction.iter(&keyspace).unwrap().keys().count(), 5);
        assert!(keyspace.get_stream("k").unwrap().is_none());
        let kept = transaction.get_stream(&keyspace, "k").unwrap();
        let old = transaction.get_stream(&keyspace, "old").unwrap();
        transaction.commit().unwrap();
        assert!(whole(keyspace.get_stream("k").unwrap()).unwrap() == value(300_000, 2));
        keyspace.delete_range::<&str>(..).unwrap();
        used_bytes(&database);
        keyspace.put_stream("old", &value(200_000, 1)[..]).unwrap();
        assert!(whole(kept).unwrap() == value(300_000, 2), "a stream sees its instant");
        assert!(whole(old).unwrap() == value(200_000, 1));
        assert_clean(&database);
    }
}

#[test]
fn what_is_rolled_back_is_free_again() {
    let (database, keyspace) = tiny();
    keyspace.put("k", "old").unwrap();
    let before = used_bytes(&database);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    transaction.put_stream(&keyspace, "k", &value(300_000, 2)[..]).unwrap();
    let savepoint = transaction.savepoint();
    let with_one = used_bytes(&database);
    assert!(with_one > before + 200_000);
    for n in 0..30 {
        transaction.put_stream(&keyspace, format!("{n}"), &value(100_000, n)[..]).unwrap();
        transaction.put(&keyspace, format!("small {n}"), "x").unwrap();
    }
    for n in 0..30 {
        let found = read(&transaction, &keyspace, &n.to_string()).unwrap();
        assert!(found == value(100_000, n), "{n}");
    }
    transaction.rollback_to(&savepoint).unwrap();
    assert!(used_bytes(&database) <= with_one);
    assert_clean(&database);
    assert_eq!(read(&transaction, &keyspace, "3"), None);
    assert!(read(&transaction, &keyspace, "k").unwrap() == value(300_000, 2));
    transaction.rollback();
    assert!(used_bytes(&database) <= before);
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "old");
    assert_clean(&database);
}

#[test]
fn a_reader_that_fails_or_panics_leaves_the_transaction_as_it_was() {
    let (database, keyspace) = tiny();
    let before = used_bytes(&database);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    transaction.put(&keyspace, "own", "1").unwrap();
    for left in [0, 950_000] {
        let fail = |rest| match rest <= left {
            true => Err(io::Error::other("the reader fails")),
            false => Ok(()),
        };
        let error = transaction.put_stream(&keyspace, "own", Doing(1_000_000, fail)).unwrap_err();
        assert!(error.to_string().contains("the reader fails"), "{error}");
        let panics = |rest| {
            assert!(rest > left, "the reader gives up");
            Ok(())
        };
        let caught = catch_unwind(AssertUnwindSafe(|| {
            transaction.put_stream(&keyspace, "own", Doing(1_000_000, panics))
        }));
        assert!(caught.is_err());
        assert_eq!(read(&transaction, &keyspace, "own").unwrap(), b"1");
        assert_clean(&database);
    }
    assert!(used_bytes(&database) <= before);
    transaction.commit().unwrap();
    assert_eq!(keyspace.get("own").unwrap().unwrap(), "1");
}

#[test]
fn transact_rolls_streams_back_after_an_error_or_a_panic_and_the_database_goes_on() {
    let (database, keyspace) = tiny();
    keyspace.put("k", "old").unwrap();
    let before = used_bytes(&database);
    for panics in [false, true] {
        let run = || {
            database.transact(|transaction| {
                for n in 0..2000 {
                    transaction.put(&keyspace, format!("{n}"), [1; 500])?;
                }
                transaction.put_stream(&keyspace, "k", &value(500_000, 1)[..])?;
                assert!(!panics, "as planned");
                Err::<(), _>(Error::Cancelled)
            })
        };
        let caught = catch_unwind(AssertUnwindSafe(run));
        assert_eq!(caught.is_err(), panics);
        assert!(matches!(caught, Err(_) | Ok(Err(Error::Cancelled))));
        assert_eq!(database.stats().unwrap().transactions, []);
        assert_clean(&database);
        assert!(used_bytes(&database) <= before);
    }
    let put = |transaction: &mut Transaction| transaction.put_stream(&keyspace, "k", &b"new"[..]);
    database.transact(put).unwrap();
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "new");
}

#[test]
fn transactions_one_in_another_are_two_transactions() {
    let (database, keyspace) = tiny();
    let mut runs = 0;
    let result = database.transact(|outer| {
        runs += 1;
        outer.put(&keyspace, "outer", "1")?;
        database.transact(|inner| {
            assert_eq!(inner.get(&keyspace, "outer")?, None, "it does not see the outer one");
            inner.put(&keyspace, "inner", runs.to_string())
        })?;
        outer.get(&keyspace, "inner")
    });
    assert!(result.unwrap_err().is_conflict(), "the inner one changes what the outer one reads");
    assert_eq!(keyspace.get("inner").unwrap().unwrap(), runs.to_string().as_str());
    assert_eq!((runs, keyspace.get("outer").unwrap()), (16, None));
}

#[test]
fn a_close_inside_gives_closed_and_leaks_nothing() {
    let storage = SimulatedStorage::new();
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let open = || setup.builder().open_on(Arc::new(storage.clone())).unwrap();
    let database = open();
    let keyspace = database.keyspace("a").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    transaction.put_stream(&keyspace, "k", &value(300_000, 1)[..]).unwrap();
    let mut kept = transaction.get_stream(&keyspace, "k").unwrap().unwrap();
    let other = database.clone();
    let mut database = Some(database);
    let closing = |_| match database.take() {
        Some(database) => database.close().map_err(io::Error::other),
        None => Ok(()),
    };
    let error = transaction.put_stream(&keyspace, "l", Doing(1_000_000, closing)).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    let closed = |error: Error| assert!(matches!(error, Error::Closed), "{error}");
    closed(transaction.put_stream(&keyspace, "l", &b"short"[..]).unwrap_err());
    closed(transaction.get_stream(&keyspace, "k").unwrap_err());
    assert!(kept.read(&mut [0; 10]).unwrap_err().to_string().contains("closed"));
    closed(transaction.commit().unwrap_err());
    drop(kept);
    let database = open();
    assert_clean(&database);
    closed(other.transact(|_| Ok(())).unwrap_err());
    let keyspace = database.keyspace("a").unwrap();
    let mut again = Some(database);
    let result = other.transact(|_| Ok(again.take()));
    closed(result.unwrap_err());
    let database = again.unwrap();
    let mut closing = Some(database.clone());
    let error = database.transact(|transaction| {
        closing.take().unwrap().close()?;
        transaction.put(&keyspace, "k", "v")
    });
    closed(error.unwrap_err());
}

#[test]
fn a_committed_stream_survives_a_power_cut() {
    let storage = SimulatedStorage::new();
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let builder = || setup.builder().durability(Durability::Sync);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..4u8 {
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.put_stream(&keyspace, n.to_string(), &value(150_000, n)[..]).unwrap();
        transaction.put(&keyspace, format!("small {n}"), "x").unwrap();
        transaction.commit().unwrap();
    }
    let mut open = database.begin(Isolation::Snapshot).unwrap();
    open.put_stream(&keyspace, "never", &value(150_000, 9)[..]).unwrap();
    for seed in 0..8 {
        let copy = storage.crash_copy(CrashPlan::Random(seed));
        let database = builder().open_on(Arc::new(copy)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        for n in 0..4 {
            let found = whole(keyspace.get_stream(n.to_string()).unwrap()).unwrap();
            assert!(found == value(150_000, n), "{n}, seed {seed}");
        }
        assert_eq!(keyspace.iter().unwrap().keys().count(), 8);
        assert_clean(&database);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Stream(u8, u8),
    Delete(u8),
    DeleteRange(u8, u8),
    Savepoint,
    RollbackTo(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..9, any::<u8>()).prop_map(|(key, seed)| Step::Put(key, seed)),
        4 => (0u8..9, any::<u8>()).prop_map(|(key, seed)| Step::Stream(key, seed)),
        1 => (0u8..9).prop_map(Step::Delete),
        1 => (0u8..9, 1u8..4).prop_map(|(key, length)| Step::DeleteRange(key, length)),
        2 => Just(Step::Savepoint),
        1 => any::<usize>().prop_map(Step::RollbackTo),
        1 => Just(Step::Flush),
    ]
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(range: sapwood::Range) -> Map {
    range.map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_transaction_of_streams_and_savepoints_does_what_a_map_does(
        steps in prop::collection::vec(step(), 1..40), commits in any::<bool>()
    ) {
        let (database, keyspace) = tiny();
        keyspace.put([1], "old").unwrap();
        let before = used_bytes(&database);
        let old = content(keyspace.iter().unwrap());
        let mut map = old.clone();
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        let mut savepoints = Vec::new();
        for step in steps {
            match step {
                Step::Put(key, seed) => {
                    transaction.put(&keyspace, [key], value(100, seed)).unwrap();
                    map.insert(vec![key], value(100, seed));
                }
                Step::Stream(key, seed) => {
                    let value = value(70_000, seed);
                    transaction.put_stream(&keyspace, [key], &value[..]).unwrap();
                    map.insert(vec![key], value);
                }
                Step::Delete(key) => {
                    transaction.delete(&keyspace, [key]).unwrap();
                    map.remove(&vec![key]);
                }
                Step::DeleteRange(key, length) => {
                    transaction.delete_range(&keyspace, [key]..[key + length]).unwrap();
                    map.retain(|k, _| !(key..key + length).contains(&k[0]));
                }
                Step::Savepoint => savepoints.push((transaction.savepoint(), map.clone())),
                Step::RollbackTo(index) if !savepoints.is_empty() => {
                    let index = index % savepoints.len();
                    savepoints.truncate(index + 1);
                    let (savepoint, then) = &savepoints[index];
                    transaction.rollback_to(savepoint).unwrap();
                    map.clone_from(then);
                }
                Step::RollbackTo(_) => {}
                Step::Flush => database.flush().unwrap(),
            }
            prop_assert!(content(transaction.iter(&keyspace).unwrap()) == map);
        }
        prop_assert_eq!(access::verify(&database).unwrap(), None);
        if commits {
            transaction.commit().unwrap();
            prop_assert!(content(keyspace.iter().unwrap()) == map);
            keyspace.delete_range::<&[u8]>(..).unwrap();
            prop_assert!(used_bytes(&database) <= before);
        } else {
            drop(transaction);
            prop_assert!(content(keyspace.iter().unwrap()) == old);
            prop_assert!(used_bytes(&database) <= before);
        }
        prop_assert_eq!(access::verify(&database).unwrap(), None);
    }
}
