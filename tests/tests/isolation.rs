//! What transactions and snapshots are protected from.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::fixtures::{ARRANGEMENTS, arrange, run_all_steps, tiny};
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Random, thread};
use sapwood::{Database, Error, Isolation, Keyspace, Transaction};

const BOTH: [Isolation; 2] = [Isolation::Snapshot, Isolation::Serializable];

/// A database whose keys a to e hold "0", in memory or flushed or merged.
fn in_every_arrangement(check: impl Fn(&Database, &Keyspace)) {
    for arrangement in ARRANGEMENTS {
        let database = tiny().unwrap();
        let keyspace = database.keyspace("k").unwrap();
        let changes: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|key| (key.as_bytes().to_vec(), Some(b"0".to_vec())))
            .to_vec();
        arrange(&database, &keyspace, arrangement, &changes).unwrap();
        check(&database, &keyspace);
    }
}

/// What may happen to a commit between its making and the validation of another.
fn settle(database: &Database, how: u32) {
    match how {
        0 => {}
        1 => database.flush().unwrap(),
        2 => {
            database.flush().unwrap();
            run_all_steps(database).unwrap();
        }
        _ => {
            database.flush().unwrap();
            database.compact().unwrap();
        }
    }
}

fn text(value: Option<sapwood::Value>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

fn is_conflict(result: sapwood::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(Error::Conflict) => true,
        Err(error) => panic!("{error}"),
    }
}

/// Begins a transaction, runs `first` in it, commits `between` beside it, runs `last` and commits.
/// True when that was a conflict, and the same wherever the commit beside it lies by then.
fn conflicts(
    isolation: Isolation,
    first: impl Fn(&mut Transaction, &Keyspace),
    between: impl Fn(&Keyspace),
    last: impl Fn(&mut Transaction, &Keyspace),
) -> bool {
    let answers = std::cell::RefCell::new(Vec::new());
    for how in 0..4 {
        in_every_arrangement(|database, keyspace| {
            let mut transaction = database.begin(isolation).unwrap();
            first(&mut transaction, keyspace);
            between(keyspace);
            settle(database, how);
            last(&mut transaction, keyspace);
            answers.borrow_mut().push(is_conflict(transaction.commit()));
        });
    }
    let answers = answers.into_inner();
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{isolation:?}: {answers:?}");
    answers[0]
}

#[test]
fn the_first_committer_of_a_key_wins() {
    for isolation in BOTH {
        let put = |key: &'static str| {
            conflicts(
                isolation,
                |_, _| {},
                |keyspace| keyspace.put("a", "1").unwrap(),
                move |transaction, keyspace| transaction.put(keyspace, key, "2").unwrap(),
            )
        };
        assert!(put("a"));
        assert!(!put("b"));
    }
}

#[test]
fn a_delete_beside_a_put_of_the_same_key_is_a_conflict() {
    for isolation in BOTH {
        assert!(conflicts(
            isolation,
            |_, _| {},
            |keyspace| keyspace.delete("a").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "a", "2").unwrap(),
        ));
        assert!(conflicts(
            isolation,
            |_, _| {},
            |keyspace| keyspace.put("a", "1").unwrap(),
            |transaction, keyspace| transaction.delete(keyspace, "a").unwrap(),
        ));
    }
}

#[test]
fn a_deleted_range_beside_a_write_inside_it_is_a_conflict() {
    for isolation in BOTH {
        assert!(conflicts(
            isolation,
            |_, _| {},
            |keyspace| keyspace.delete_range("b".."d").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "c", "2").unwrap(),
        ));
        assert!(conflicts(
            isolation,
            |_, _| {},
            |keyspace| keyspace.put("c", "1").unwrap(),
            |transaction, keyspace| transaction.delete_range(keyspace, "b".."d").unwrap(),
        ));
        assert!(!conflicts(
            isolation,
            |_, _| {},
            |keyspace| keyspace.put("d", "1").unwrap(),
            |transaction, keyspace| transaction.delete_range(keyspace, "b".."d").unwrap(),
        ));
    }
}

#[test]
fn a_read_that_another_commit_changed_conflicts_only_when_serializable() {
    for isolation in BOTH {
        let conflict = conflicts(
            isolation,
            |transaction, keyspace| {
                assert_eq!(text(transaction.get(keyspace, "a").unwrap()).as_deref(), Some("0"));
            },
            |keyspace| keyspace.put("a", "1").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "z", "2").unwrap(),
        );
        assert_eq!(conflict, isolation == Isolation::Serializable);
    }
}

#[test]
fn a_deleted_key_that_was_read_conflicts_even_when_its_tombstone_is_merged_away() {
    for isolation in BOTH {
        let conflict = conflicts(
            isolation,
            |transaction, keyspace| assert!(transaction.contains(keyspace, "a").unwrap()),
            |keyspace| keyspace.delete("a").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "z", "2").unwrap(),
        );
        assert_eq!(conflict, isolation == Isolation::Serializable);
    }
}

#[test]
fn an_absent_key_that_was_read_and_then_made_conflicts_when_serializable() {
    for isolation in BOTH {
        let conflict = conflicts(
            isolation,
            |transaction, keyspace| assert!(transaction.get(keyspace, "bb").unwrap().is_none()),
            |keyspace| keyspace.put("bb", "1").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "z", "2").unwrap(),
        );
        assert_eq!(conflict, isolation == Isolation::Serializable);
    }
}

#[test]
fn a_range_that_was_empty_and_then_filled_conflicts_when_serializable() {
    for isolation in BOTH {
        let conflict = conflicts(
            isolation,
            |transaction, keyspace| {
                assert_eq!(transaction.range(keyspace, "p".."q").unwrap().count(), 0);
            },
            |keyspace| keyspace.put("pp", "1").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "z", "2").unwrap(),
        );
        assert_eq!(conflict, isolation == Isolation::Serializable);
    }
}

#[test]
fn a_write_beside_a_range_that_was_read_is_no_conflict() {
    for isolation in BOTH {
        assert!(!conflicts(
            isolation,
            |transaction, keyspace| {
                assert_eq!(transaction.range(keyspace, "a".."c").unwrap().count(), 2);
            },
            |keyspace| keyspace.put("c", "1").unwrap(),
            |transaction, keyspace| transaction.put(keyspace, "z", "2").unwrap(),
        ));
    }
}

#[test]
fn a_transaction_that_only_reads_never_conflicts_when_it_is_rolled_back() {
    in_every_arrangement(|database, keyspace| {
        let transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.get(keyspace, "a").unwrap();
        keyspace.put("a", "1").unwrap();
        assert_eq!(text(transaction.get(keyspace, "a").unwrap()).as_deref(), Some("0"));
        transaction.rollback();
        assert_eq!(text(keyspace.get("a").unwrap()).as_deref(), Some("1"));
    });
}

#[test]
fn a_commit_is_validated_once_a_write_method_was_called_and_never_after_reads_alone() {
    let read = |transaction: &mut Transaction, keyspace: &Keyspace| {
        transaction.get(keyspace, "b").unwrap();
        assert_eq!(transaction.range(keyspace, "x".."y").unwrap().count(), 0);
    };
    let delete_nothing = |transaction: &mut Transaction, keyspace: &Keyspace| {
        transaction.delete_range(keyspace, "m".."m").unwrap();
    };
    for changed in ["b", "x1"] {
        let change = |keyspace: &Keyspace| keyspace.put(changed, "1").unwrap();
        assert!(conflicts(Isolation::Serializable, read, change, delete_nothing));
        assert!(!conflicts(Isolation::Snapshot, read, change, delete_nothing));
        for isolation in BOTH {
            assert!(!conflicts(isolation, read, change, |_, _| ()));
        }
    }
}

#[test]
fn a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_commit() {
    in_every_arrangement(|database, keyspace| {
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        transaction.put(keyspace, "b", "own").unwrap();
        transaction.delete(keyspace, "c").unwrap();
        transaction.delete_range(keyspace, "d"..).unwrap();
        transaction.put(keyspace, "ee", "own").unwrap();
        let keys: Vec<_> = transaction
            .range::<&str>(keyspace, ..)
            .unwrap()
            .map(|pair| String::from_utf8(pair.unwrap().0.into_vec()).unwrap())
            .collect();
        assert_eq!(keys, ["a", "b", "ee"]);
        let mut cursor = transaction.cursor(keyspace).unwrap();
        assert!(cursor.last().unwrap());
        assert_eq!(cursor.key(), Some(&b"ee"[..]));
        assert!(cursor.prev().unwrap());
        assert_eq!(cursor.value().unwrap(), b"own");
        drop(cursor);
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 5);
        transaction.commit().unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 3);
    });
}

#[test]
fn a_rolled_back_or_dropped_transaction_leaves_nothing() {
    in_every_arrangement(|database, keyspace| {
        let before = access::dump(database).unwrap();
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        transaction.put(keyspace, "x", "1").unwrap();
        transaction.rollback();
        let mut transaction = database.begin(Isolation::Serializable).unwrap();
        transaction.delete_range::<&str>(keyspace, ..).unwrap();
        drop(transaction);
        assert_eq!(access::dump(database).unwrap(), before);
    });
}

#[test]
fn write_skew_is_possible_under_snapshot_isolation_and_not_under_serializable() {
    for isolation in BOTH {
        in_every_arrangement(|database, keyspace| {
            let mut one = database.begin(isolation).unwrap();
            let mut two = database.begin(isolation).unwrap();
            for transaction in [&mut one, &mut two] {
                transaction.get(keyspace, "a").unwrap();
                transaction.get(keyspace, "b").unwrap();
            }
            one.delete(keyspace, "a").unwrap();
            two.delete(keyspace, "b").unwrap();
            assert!(!is_conflict(one.commit()));
            assert_eq!(is_conflict(two.commit()), isolation == Isolation::Serializable);
        });
    }
}

#[test]
fn a_snapshot_sees_one_instant_through_flushes_merges_and_compaction() {
    in_every_arrangement(|database, keyspace| {
        let mut snapshots = Vec::new();
        for round in 0..20u32 {
            snapshots.push((database.snapshot().unwrap(), access::dump(database).unwrap()));
            keyspace.put("a", format!("{round}")).unwrap();
            keyspace.put(format!("new {round}"), "v").unwrap();
            match round % 4 {
                0 => keyspace.delete("b").unwrap(),
                1 => keyspace.delete_range("b".."d").unwrap(),
                2 => keyspace.put("c", format!("{round}")).unwrap(),
                _ => keyspace.delete_prefix("new 1").unwrap(),
            }
            settle(database, round % 5);
        }
        for (number, (snapshot, state)) in snapshots.iter().enumerate() {
            let seen = access::dump_snapshot(snapshot, keyspace).unwrap();
            assert!(seen == state.keyspaces["k"], "snapshot {number}");
            for (key, value) in &state.keyspaces["k"] {
                assert_eq!(snapshot.get(keyspace, key).unwrap().as_deref(), Some(&**value));
            }
            let back = access::collect_back(snapshot.iter(keyspace).unwrap()).unwrap();
            assert!(back == state.keyspaces["k"], "snapshot {number}, backwards");
        }
        assert!(snapshots.windows(2).all(|two| two[0].0.sequence() < two[1].0.sequence()));
    });
}

#[test]
fn taking_and_dropping_a_snapshot_does_no_io_at_any_size() {
    for pairs in [10u32, 20_000] {
        let storage = Arc::new(CountingStorage::new(Arc::new(MemoryStorage::new())));
        let database = Setup::tiny().open_on(storage.clone()).unwrap();
        let keyspace = database.keyspace("k").unwrap();
        for number in 0..pairs {
            keyspace.put(number.to_be_bytes(), [7; 100]).unwrap();
        }
        // With a state alone, and with a memtable before it.
        for late in [false, true] {
            if late {
                keyspace.put("late", "v").unwrap();
            } else {
                database.wait_until_idle().unwrap();
            }
            let before = storage.calls();
            let snapshots: Vec<_> = (0..100).map(|_| database.snapshot().unwrap()).collect();
            assert_eq!(snapshots[99].sequence(), snapshots[0].sequence());
            drop(snapshots);
            assert_eq!(storage.calls(), before, "{pairs} pairs");
        }
        assert!(keyspace.get(0u32.to_be_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all_in_all_its_keyspaces() {
    let database = tiny().unwrap();
    let keyspaces: Arc<Vec<_>> =
        Arc::new((0..3).map(|n| database.keyspace(&format!("{n}")).unwrap()).collect());
    let writer = {
        let (database, keyspaces) = (database.clone(), Arc::clone(&keyspaces));
        thread::spawn("writer", move || {
            for round in 0..1000u64 {
                let mut batch = database.batch();
                for keyspace in keyspaces.iter() {
                    batch.put(keyspace, "k", round.to_be_bytes()).unwrap();
                }
                batch.commit_with(sapwood::Durability::Memory).unwrap();
                if round % 100 == 0 {
                    database.flush().unwrap();
                }
            }
        })
        .unwrap()
    };
    while !writer.is_finished() {
        let snapshot = database.snapshot().unwrap();
        let seen: Vec<_> =
            keyspaces.iter().map(|keyspace| snapshot.get(keyspace, "k").unwrap()).collect();
        assert!(seen.iter().all(|value| *value == seen[0]));
    }
    writer.join().unwrap();
}

#[test]
fn transact_retries_until_each_of_four_threads_has_counted() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    keyspace.put("count", 0u64.to_be_bytes()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            thread::spawn(&format!("counter {number}"), move || {
                let mut done = 0;
                while done < 50 {
                    let counted = database.transact(|transaction| {
                        let value = transaction.get(&keyspace, "count")?.unwrap();
                        let count = u64::from_be_bytes(value[..].try_into().unwrap());
                        transaction.put(&keyspace, "count", (count + 1).to_be_bytes())
                    });
                    match counted {
                        Ok(()) => done += 1,
                        Err(error) => assert!(error.is_conflict(), "{error}"),
                    }
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(keyspace.get("count").unwrap().unwrap(), 200u64.to_be_bytes());
}

/// Each transaction reads two counters and raises one; serially, a counter's value is the number of
/// commits that raised it, and each commit saw the state just before it.
#[test]
fn serializable_transactions_of_several_threads_have_one_order() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    for n in 0..4 {
        keyspace.put(format!("{n}"), 0u64.to_be_bytes()).unwrap();
    }
    let number =
        |value: Option<sapwood::Value>| u64::from_be_bytes(value.unwrap()[..].try_into().unwrap());
    let threads: Vec<_> = (0..4u64)
        .map(|seed| {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            thread::spawn(&format!("committer {seed}"), move || {
                let mut random = Random::from_seed(seed);
                let mut seen = Vec::new();
                for _ in 0..200 {
                    let (a, b) = (random.below(4), random.below(4));
                    let mut transaction = database.begin(Isolation::Serializable).unwrap();
                    let x = number(transaction.get(&keyspace, format!("{a}")).unwrap());
                    let y = number(transaction.get(&keyspace, format!("{b}")).unwrap());
                    transaction.put(&keyspace, format!("{a}"), (x + 1).to_be_bytes()).unwrap();
                    if !is_conflict(transaction.commit()) {
                        seen.push((a, x, b, y));
                    }
                }
                seen
            })
            .unwrap()
        })
        .collect();
    let seen: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    for n in 0..4u64 {
        let mut raised: Vec<_> =
            seen.iter().filter(|(a, ..)| *a == n).map(|(_, x, ..)| *x).collect();
        raised.sort_unstable();
        assert!(raised.iter().copied().eq(0..raised.len() as u64), "an update of {n} was lost");
        let last = number(keyspace.get(format!("{n}")).unwrap());
        assert_eq!(last, raised.len() as u64);
    }
    assert!(has_one_order(&seen), "the commits have no serial order");
}

/// Whether the graph of what came before what, from the values that were read, has no cycle.
fn has_one_order(commits: &[(u64, u64, u64, u64)]) -> bool {
    use std::collections::BTreeMap;
    // Edges: a commit that read counter b at y comes before the one that raised b from y, and
    // after the one that raised it to y.
    let raiser: BTreeMap<(u64, u64), usize> =
        commits.iter().enumerate().map(|(index, (a, x, ..))| ((*a, *x), index)).collect();
    let mut after = vec![Vec::new(); commits.len()];
    let mut before_count = vec![0; commits.len()];
    let mut edge = |from: usize, to: usize| {
        if from != to {
            after[from].push(to);
            before_count[to] += 1;
        }
    };
    for (index, (a, x, b, y)) in commits.iter().enumerate() {
        for (counter, value) in [(*a, *x), (*b, *y)] {
            if let Some(&next) = raiser.get(&(counter, value)) {
                edge(index, next);
            }
            if value > 0
                && let Some(&last) = raiser.get(&(counter, value - 1))
            {
                edge(last, index);
            }
        }
    }
    let mut ready: Vec<_> = (0..commits.len()).filter(|&index| before_count[index] == 0).collect();
    let mut done = 0;
    while let Some(index) = ready.pop() {
        done += 1;
        for &next in &after[index] {
            before_count[next] -= 1;
            if before_count[next] == 0 {
                ready.push(next);
            }
        }
    }
    done == commits.len()
}

fn kept(database: &Database) -> Vec<(u64, bool)> {
    let stats = database.stats().unwrap();
    let stats = stats.transactions.iter();
    stats.map(|transaction| (transaction.kept_bytes, transaction.given_up)).collect()
}

/// Overwrites the same keys, and merges what that leaves.
fn overwrite(database: &Database, keyspace: &Keyspace, round: u32) {
    for n in 0..100 {
        keyspace.put(format!("other {n}"), format!("{round:0500}")).unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
}

#[test]
fn what_is_kept_for_a_transaction_is_shown_and_goes_with_it() {
    let (clock, hand) = sapwood::sync::Clock::fake();
    let database = Setup::tiny().builder().clock(clock).open_in_memory().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    keyspace.put("own", "1").unwrap();
    overwrite(&database, &keyspace, 0);
    let mut older = database.begin(Isolation::Snapshot).unwrap();
    hand.advance(Duration::from_secs(5));
    overwrite(&database, &keyspace, 1);
    let younger = database.begin(Isolation::Snapshot).unwrap();
    let all = kept(&database);
    assert!(all[0].0 > 50_000, "{all:?}: the whole of the flush");
    assert_eq!(all[1..], [(0, false)]);
    let before = database.stats().unwrap();
    assert!(before.transactions[0].age >= Duration::from_secs(5));
    assert_eq!(before.transactions[1].sequence, younger.sequence());
    assert!(before.to_string().contains("open transactions"));
    older.put(&keyspace, "own", "2").unwrap();
    older.commit().unwrap();
    assert_eq!(kept(&database), [(0, false)]);
    drop(younger);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn when_too_much_is_kept_the_oldest_transactions_conflict_and_it_is_free_at_once() {
    let limit = 100_000;
    let builder = Setup::tiny().builder().max_transaction_history_bytes(limit);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    keyspace.put("own", "1").unwrap();
    overwrite(&database, &keyspace, 0);
    let mut oldest = database.begin(Isolation::Snapshot).unwrap();
    oldest.put(&keyspace, "own", "2").unwrap();
    let reader = database.begin(Isolation::Serializable).unwrap();
    assert_eq!(reader.get(&keyspace, "own").unwrap().unwrap(), "1");
    for round in 1..6 {
        overwrite(&database, &keyspace, round);
        let kept = kept(&database);
        assert!(kept.iter().all(|(bytes, _)| *bytes <= limit), "round {round}: {kept:?}");
        assert_eq!(kept[0].1, kept[0].0 == 0, "round {round}: {kept:?}");
    }
    assert_eq!(kept(&database), [(0, true); 2]);
    let mut young = database.begin(Isolation::Snapshot).unwrap();
    young.put(&keyspace, "own", "3").unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
    let seen = oldest.get(&keyspace, "other 7").unwrap().unwrap();
    assert_eq!(seen, format!("{:0500}", 0).as_str(), "it reads on");
    assert!(is_conflict(oldest.commit()), "nobody can tell what has changed");
    reader.commit().unwrap();
    young.commit().unwrap();
    assert_eq!(keyspace.get("own").unwrap().unwrap(), "3");
    assert_eq!(kept(&database), []);
    assert_eq!(access::verify(&database).unwrap(), None);
}
