//! Transactions: what they read, when they conflict, and how they end.

use sapwood::{Database, Durability, Error, Isolation, Keyspace, Seek, Value};

use crate::{fill, key, model_pairs, open, pairs};

#[test]
fn a_transaction_reads_its_own_writes_over_its_instant() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let mut model = fill(&db, &keyspace);
    let mut transaction = db.begin(Isolation::Snapshot).unwrap();
    keyspace.put("other", "later").unwrap();
    let before = transaction.iter(&keyspace).unwrap();
    let old = model.clone();
    transaction.delete_range(&keyspace, key(100)..key(200)).unwrap();
    model.retain(|k, _| !(key(100)..key(200)).contains(k));
    for number in (90..210).step_by(3) {
        transaction.put(&keyspace, key(number), "own").unwrap();
        model.insert(key(number), b"own".to_vec());
    }
    for number in (90..210).step_by(6) {
        transaction.delete(&keyspace, key(number)).unwrap();
        model.remove(&key(number));
    }
    assert_eq!(pairs(transaction.iter(&keyspace).unwrap()), model_pairs(&model));
    assert_eq!(pairs(before), model_pairs(&old), "an iterator sees no later write");
    let mut backward = pairs(transaction.iter(&keyspace).unwrap());
    backward.reverse();
    let reversed: Vec<_> = transaction.iter(&keyspace).unwrap().rev().map(Result::unwrap).collect();
    assert!(reversed.iter().map(|(k, _)| k.to_vec()).eq(backward.iter().map(|(k, _)| k.clone())));
    assert_eq!(transaction.count::<&str>(&keyspace, ..).unwrap(), model.len() as u64);
    for number in 80..220 {
        let found = transaction.get(&keyspace, key(number)).unwrap().map(Value::into_vec);
        assert_eq!(found.as_ref(), model.get(&key(number)));
        assert_eq!(transaction.contains(&keyspace, key(number)).unwrap(), found.is_some());
    }
    let mut cursor = transaction.cursor(&keyspace).unwrap();
    assert!(cursor.seek(key(93), Seek::Equal).unwrap());
    transaction.commit().unwrap();
    assert_eq!(cursor.value().unwrap(), "own", "a cursor may outlive its transaction");
    assert!(cursor.next().unwrap());
    model.insert(b"other".to_vec(), b"later".to_vec());
    assert_eq!(pairs(keyspace.iter().unwrap()), model_pairs(&model));
}

#[test]
fn the_first_committer_of_a_key_wins() {
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        let db = open();
        let keyspace = db.keyspace("a").unwrap();
        let mut first = db.begin(isolation).unwrap();
        let mut second = db.begin(isolation).unwrap();
        let mut third = db.begin(isolation).unwrap();
        first.put(&keyspace, "k", "1").unwrap();
        second.put(&keyspace, "k", "2").unwrap();
        third.delete_range(&keyspace, "j".."l").unwrap();
        first.commit().unwrap();
        db.flush().unwrap();
        let error = second.commit().unwrap_err();
        assert!(error.is_conflict());
        assert!(third.commit().unwrap_err().is_conflict());
        assert_eq!(keyspace.get("k").unwrap().unwrap(), "1");
    }
}

#[test]
fn only_serializable_transactions_mind_what_they_read() {
    type Read = fn(&sapwood::Transaction, &Keyspace);
    // Each reads something that the other commit changes: it puts "m".
    let reads: [(&str, Read); 9] = [
        ("get of an absent key", |t, k| assert!(t.get(k, "m").unwrap().is_none())),
        ("contains", |t, k| assert!(!t.contains(k, "m").unwrap())),
        ("an empty range", |t, k| assert!(t.range(k, "l".."n").unwrap().next().is_none())),
        ("a scan past it", |t, k| assert_eq!(t.range(k, "b"..).unwrap().count(), 1)),
        ("a backward scan past it", |t, k| assert_eq!(t.range(k, "b"..).unwrap().rev().count(), 1)),
        ("last", |t, k| assert_eq!(t.last(k).unwrap().unwrap().0, "z")),
        ("count", |t, k| assert_eq!(t.count::<&str>(k, ..).unwrap(), 2)),
        ("a cursor's step over it", |t, k| {
            let mut cursor = t.cursor(k).unwrap();
            assert!(cursor.first().unwrap() && cursor.next().unwrap());
        }),
        ("a cursor's seek", |t, k| {
            assert!(t.cursor(k).unwrap().seek("m", Seek::AtOrBefore).unwrap());
        }),
    ];
    for (name, read) in reads {
        for isolation in [Isolation::Snapshot, Isolation::Serializable] {
            let db = open();
            let keyspace = db.keyspace("a").unwrap();
            keyspace.put("a", "").unwrap();
            keyspace.put("z", "").unwrap();
            let mut transaction = db.begin(isolation).unwrap();
            read(&transaction, &keyspace);
            transaction.put(&keyspace, "own", "").unwrap();
            keyspace.put("m", "").unwrap();
            let conflict = transaction.commit().is_err_and(|error| error.is_conflict());
            // `last` does not read what lies before.
            let expected = isolation == Isolation::Serializable && name != "last";
            assert_eq!(conflict, expected, "{name}, {isolation:?}");
        }
    }
}

#[test]
fn a_scan_has_read_what_it_passed_and_no_more() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    for number in 0..20 {
        keyspace.put(key(number * 10), "").unwrap();
    }
    // The iterator has handed out 0, 10 and 20.
    for (changed, conflicts) in [(5, true), (20, true), (21, false), (30, false), (195, false)] {
        for open in [false, true] {
            let mut transaction = db.begin(Isolation::Serializable).unwrap();
            let mut range = transaction.range(&keyspace, key(0)..key(200)).unwrap();
            assert_eq!(range.by_ref().take(3).count(), 3);
            let kept = open.then_some(range);
            transaction.put(&keyspace, "own", "").unwrap();
            keyspace.put(key(changed), "x").unwrap();
            let result = transaction.commit();
            assert_eq!(result.is_err(), conflicts, "{changed}, open: {open}");
            drop(kept);
            if changed % 10 != 0 {
                keyspace.delete(key(changed)).unwrap();
            }
        }
    }
}

#[test]
fn transact_retries_conflicts_and_gives_up_in_the_end() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let mut runs = 0;
    let result = db.transact(|transaction| {
        runs += 1;
        transaction.get(&keyspace, "k")?;
        if runs < 4 {
            keyspace.put("k", "another")?;
        }
        transaction.put(&keyspace, "k", "mine")?;
        Ok(runs)
    });
    assert_eq!(result.unwrap(), 4);
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "mine");

    let mut runs = 0;
    let result = db.transact(|transaction| {
        runs += 1;
        keyspace.put("k", "another")?;
        transaction.put(&keyspace, "k", "mine")
    });
    assert!(result.unwrap_err().is_conflict());
    assert_eq!(runs, 16);

    let mut runs = 0;
    let error = db.transact(|transaction| {
        runs += 1;
        transaction.put(&keyspace, "k", "never")?;
        Err::<(), _>(Error::Cancelled)
    });
    assert!(matches!(error, Err(Error::Cancelled)));
    assert_eq!((runs, keyspace.get("k").unwrap().unwrap()), (1, "another".into()));
}

/// An error of the application's own.
#[derive(Debug, PartialEq, Eq)]
struct OutOfStock {
    left: u32,
}

impl std::fmt::Display for OutOfStock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} are left", self.left)
    }
}

impl std::error::Error for OutOfStock {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&std::fmt::Error)
    }
}

#[test]
fn transact_gives_up_with_an_error_of_the_application() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let mut runs = 0;
    let result = db.transact(|transaction| {
        runs += 1;
        transaction.put(&keyspace, "k", "never")?;
        Err::<(), _>(Error::application(OutOfStock { left: 7 }))
    });
    let error = result.unwrap_err();
    assert_eq!((runs, keyspace.get("k").unwrap()), (1, None));
    assert_eq!(error.to_string(), "7 are left");
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<std::fmt::Error>().is_some(), "the source is that of the cause");
    let Error::Application(own) = error.clone() else { panic!("{error:?}") };
    assert_eq!(own.downcast_ref(), Some(&OutOfStock { left: 7 }));

    // What is wrapped says nothing to the database: this one is not retried.
    let result = db.transact(|_| {
        runs += 1;
        Err::<(), _>(Error::application(Error::Conflict))
    });
    let error = result.unwrap_err();
    assert_eq!(runs, 2);
    assert!(!error.is_conflict() && !error.is_no_space() && !error.is_corruption());
    let Error::Application(own) = error else { panic!("{error:?}") };
    assert!(own.downcast_ref().is_some_and(Error::is_conflict));
}

#[test]
fn a_panic_rolls_back_and_the_database_goes_on() {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        db.transact(|transaction| -> sapwood::Result<()> {
            transaction.put(&keyspace, "k", "never")?;
            panic!("as planned");
        })
    }));
    assert!(panicked.is_err());
    let mut rolled_back = db.begin(Isolation::Serializable).unwrap();
    rolled_back.put(&keyspace, "k", "never").unwrap();
    rolled_back.rollback();
    assert_eq!(keyspace.get("k").unwrap(), None);
    keyspace.put("k", "v").unwrap();
    db.wait_until_idle().unwrap();
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "v");
}

#[test]
fn threads_add_up_what_they_count_together() {
    let db = Database::builder().memory_budget(8 << 20).durability(Durability::Buffered);
    let db = db.open_in_memory().unwrap();
    let keyspace = db.keyspace("a").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let add = || {
                        db.transact(|transaction| {
                            let sum = transaction.get(&keyspace, "sum")?;
                            let sum =
                                sum.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap()));
                            transaction.put(&keyspace, "sum", (sum + 1).to_le_bytes())
                        })
                    };
                    while add().is_err_and(|error| error.is_conflict()) {}
                }
            });
        }
    });
    assert_eq!(keyspace.get("sum").unwrap().unwrap(), 200_u64.to_le_bytes());
    db.close().unwrap();
}
