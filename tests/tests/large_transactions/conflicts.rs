//! Large transactions beside others that use the same keys.

use crash_lsm::fixtures::run_all_steps;
use sapwood::{Isolation, Transaction};

use crate::{assert_clean, count, key, made, put_many};

/// A large transaction beside another one, whatever comes between: who is second has a conflict.
#[test]
fn the_first_committer_wins_between_large_and_small_transactions() {
    for steps in [0, 1, 2, 3, 1000] {
        for (first_is_large, second_is_large) in [(true, false), (false, true), (true, true)] {
            for isolation in [Isolation::Snapshot, Isolation::Serializable] {
                let (_storage, database, keyspace) = made();
                let fill =
                    |transaction: &mut Transaction, large: bool, touch: &str, offset: u32| {
                        transaction.put(&keyspace, touch, "touched").unwrap();
                        if large {
                            put_many(transaction, &keyspace, offset..offset + 300, "x");
                        }
                    };
                let mut first = database.begin(isolation).unwrap();
                let mut second = database.begin(isolation).unwrap();
                let mut third = database.begin(isolation).unwrap();
                fill(&mut first, first_is_large, "same", 0);
                fill(&mut second, second_is_large, "same", 1000);
                fill(&mut third, second_is_large, "another", 2000);
                first.commit().unwrap();
                for _ in 0..steps {
                    if !database.run_step().unwrap() {
                        break;
                    }
                }
                let error = second.commit().unwrap_err();
                assert!(error.is_conflict(), "{steps}: {error}");
                third.commit().unwrap();
                assert_clean(&database);
            }
        }
    }
}

#[test]
fn ranges_deletes_and_reads_conflict_with_large_transactions() {
    for steps in [0, 2, 1000] {
        let (_storage, database, keyspace) = made();
        for number in 0..50 {
            keyspace.put(key(number), "base").unwrap();
        }
        let mut deletes = database.begin(Isolation::Snapshot).unwrap();
        deletes.delete_range(&keyspace, key(400).as_str()..key(420).as_str()).unwrap();
        let reads = database.begin(Isolation::Serializable).unwrap();
        assert_eq!(reads.get(&keyspace, key(405)).unwrap(), None);
        let ranges = database.begin(Isolation::Serializable).unwrap();
        let empty = key(400)..key(420);
        assert_eq!(ranges.count(&keyspace, empty.clone()).unwrap(), 0);
        let mut large_deletes = database.begin(Isolation::Snapshot).unwrap();
        put_many(&mut large_deletes, &keyspace, 3000..3300, "x");
        large_deletes.delete_range(&keyspace, empty).unwrap();

        let mut large = database.begin(Isolation::Snapshot).unwrap();
        put_many(&mut large, &keyspace, 300..800, "x");
        large.commit().unwrap();
        for _ in 0..steps {
            if !database.run_step().unwrap() {
                break;
            }
        }
        assert!(deletes.commit().unwrap_err().is_conflict());
        assert!(large_deletes.commit().unwrap_err().is_conflict());
        for mut reader in [reads, ranges] {
            reader.put(&keyspace, "elsewhere", "").unwrap();
            assert!(reader.commit().unwrap_err().is_conflict(), "{steps}");
        }
        assert_eq!(count(&database), 550);
        assert_clean(&database);
    }
}

#[test]
fn a_serializable_large_transaction_conflicts_with_a_change_of_what_it_read() {
    let (_storage, database, keyspace) = made();
    let mut large = database.begin(Isolation::Serializable).unwrap();
    assert_eq!(large.get(&keyspace, "absent").unwrap(), None);
    put_many(&mut large, &keyspace, 0..500, "x");
    keyspace.put("absent", "here").unwrap();
    assert!(large.commit().unwrap_err().is_conflict());
    assert_eq!(count(&database), 1);
    assert_clean(&database);
}

#[test]
fn a_keyspace_dropped_meanwhile_is_a_conflict_also_when_all_was_spilled() {
    let (_storage, database, keyspace) = made();
    let other = database.keyspace("b").unwrap();
    let mut large = database.begin(Isolation::Snapshot).unwrap();
    put_many(&mut large, &other, 0..300, "x");
    put_many(&mut large, &keyspace, 0..3000, "x");
    database.drop_keyspace("b").unwrap();
    assert!(large.commit().unwrap_err().is_conflict());
    assert_eq!(count(&database), 0);
    run_all_steps(&database).unwrap();
    assert_clean(&database);
}
