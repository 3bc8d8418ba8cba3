//! Ranges turned round.

use sapwood::{Error, Isolation};

use crate::Bed;

#[test]
fn every_call_that_takes_a_range_refuses_one_whose_start_lies_after_its_end() {
    let (bed, database, keyspace) = Bed::new();
    let snapshot = database.snapshot().unwrap();
    let mut transaction = database.begin(Isolation::Serializable).unwrap();
    let mut batch = database.batch();
    let a = &keyspace;
    let calls = [
        ("Keyspace::range", a.range("b".."a").map(drop)),
        ("Keyspace::range, inclusive", a.range("b"..="a").map(drop)),
        ("Keyspace::count", a.count("b".."a").map(drop)),
        ("Keyspace::estimate", a.estimate("b".."a").map(drop)),
        ("Keyspace::delete_range", a.delete_range("b".."a")),
        ("Keyspace::compact", a.compact("b".."a", &mut ())),
        ("Snapshot::range", snapshot.range(a, "b".."a").map(drop)),
        ("Snapshot::count", snapshot.count(a, "b".."a").map(drop)),
        ("Snapshot::changed_since", snapshot.changed_since(&snapshot, a, "b".."a").map(drop)),
        ("Transaction::range", transaction.range(a, "b".."a").map(drop)),
        ("Transaction::count", transaction.count(a, "b".."a").map(drop)),
        ("Transaction::delete_range", transaction.delete_range(a, "b".."a")),
        ("Batch::delete_range", batch.delete_range(a, "b".."a")),
    ];
    for (name, result) in calls {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::InvalidRange), "{name}: {error:?}");
        assert_eq!(error.to_string(), "the range's start lies after its end", "{name}");
    }
    assert!(batch.is_empty(), "what was refused is not in it");
    batch.commit().unwrap();
    transaction.commit().unwrap();
    drop(snapshot);
    bed.check(database);
}

#[test]
fn empty_ranges_are_no_error_and_hold_nothing() {
    let (bed, database, keyspace) = Bed::new();
    use std::ops::Bound::Excluded;
    let between = || (Excluded("000"), Excluded("001"));
    let nothing = || (Excluded("000"), Excluded("000"));
    assert_eq!(keyspace.range("000".."000").unwrap().count(), 0);
    assert_eq!(keyspace.range::<&str>(between()).unwrap().count(), 0);
    assert_eq!(keyspace.count::<&str>(nothing()).unwrap(), 0);
    assert_eq!(keyspace.estimate("000".."000").unwrap(), 0);
    keyspace.delete_range("000".."000").unwrap();
    keyspace.delete_range::<&str>(between()).unwrap();
    keyspace.compact("000".."000", &mut ()).unwrap();
    let mut batch = database.batch();
    batch.delete_range(&keyspace, "000".."000").unwrap();
    batch.commit().unwrap();
    bed.check(database);
}
