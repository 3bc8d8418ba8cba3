//! A step that panics stops writing; what was committed is there at the next open, and nobody
//! waits for a step that will not come.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::lab::{Lab, builder, key, value};
use sapwood::storage::{Operation, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, Random, thread};
use sapwood::{Database, Durability, Error, Keyspace};

fn assert_holds(keyspace: &Keyspace, newest: &BTreeMap<u64, Vec<u8>>) {
    for (number, bytes) in newest {
        assert_eq!(keyspace.get(key(*number)).unwrap().unwrap(), bytes[..], "{number}");
    }
}

/// Merge threads panic in operations of this kind while the application writes.
fn panic_in(kind: OperationKind) {
    let storage = SimulatedStorage::new();
    let builder = builder().0.durability(Durability::Buffered).clock(Clock::real());
    let database = builder.merge_threads(2).open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    let mut random = Random::from_seed(1);
    for number in 0..3000 {
        keyspace.put(key(number), value(&mut random, 100)).unwrap();
    }
    database.wait_until_idle().unwrap();
    let application = thread::current_id();
    storage.on_operation(Box::new(move |operation: &Operation| {
        if operation.kind == kind && thread::current_id() != application {
            panic!("asked for by the test");
        }
    }));
    let mut acknowledged = Vec::new();
    let (error, failed) = loop {
        let number = random.below(10_000);
        let bytes = value(&mut random, 100);
        match keyspace.put(key(number), &bytes) {
            Ok(_) => acknowledged.push((number, bytes)),
            Err(error) => break (error, (number, bytes)),
        }
        assert!(acknowledged.len() < 1_000_000, "nothing panicked");
    };
    let says = error.to_string();
    assert!(matches!(error, Error::Stopped(_)) && says.contains("panicked at state"), "{says}");
    assert!(keyspace.put("k", "v").is_err());
    let mut newest: BTreeMap<u64, Vec<u8>> = acknowledged.into_iter().collect();
    assert_holds(&keyspace, &newest);
    drop(keyspace);
    let error = database.wait_until_idle().unwrap_err();
    assert!(error.to_string().contains("panicked at state"), "{error}");
    let error = database.close().unwrap_err();
    assert!(error.to_string().contains("panicked at state"), "{error}");
    storage.clear_on_operation();
    let lab = Lab::open_on(Arc::new(storage.kill()));
    let keyspace = lab.database.existing_keyspace("k").unwrap();
    // The put that failed had its place, and its record may have reached the file.
    let (number, bytes) = failed;
    if keyspace.get(key(number)).unwrap().is_some_and(|found| found == bytes[..]) {
        newest.insert(number, bytes);
    }
    assert_holds(&keyspace, &newest);
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

#[test]
fn a_merge_thread_that_panics_while_it_writes_stops_writing_and_loses_nothing() {
    panic_in(OperationKind::Write);
}

#[test]
fn a_merge_thread_that_panics_while_it_reads_stops_writing_and_loses_nothing() {
    panic_in(OperationKind::Read);
}

/// The thread unwinds while the database is closed, and the flush of the close is no panic.
#[test]
fn a_database_that_is_dropped_by_a_panic_is_closed_as_ever() {
    let storage = SimulatedStorage::new();
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database: Database = builder().0.open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("k").unwrap();
        for number in 0..2000 {
            keyspace.put(key(number), "v").unwrap();
        }
        panic!("asked for by the test");
    }));
    assert!(opened.is_err());
    // Commits of `Memory` survive a clean close only.
    let lab = Lab::open_on(Arc::new(storage.kill()));
    let keyspace = lab.database.existing_keyspace("k").unwrap();
    assert_eq!(keyspace.iter().unwrap().count(), 2000);
    lab.check_at_rest();
}

/// Of three threads that commit one panics in an operation on the file, the first of this kind that
/// comes `after` others: the others are told, nobody waits for ever, and what was acknowledged is
/// there.
fn panic_in_a_commit(kind: OperationKind, after: u64, value_bytes: usize) {
    let storage = SimulatedStorage::new();
    let database = builder().0.merge_threads(0).open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("k").unwrap();
    database.sync().unwrap();
    let seen = AtomicU64::new(0);
    storage.on_operation(Box::new(move |operation: &Operation| {
        if operation.kind == kind && seen.fetch_add(1, Ordering::Relaxed) == after {
            panic!("asked for by the test");
        }
    }));
    let commit = |number: u64| {
        let mut batch = database.batch();
        batch.put(&keyspace, number.to_be_bytes(), vec![7; value_bytes])?;
        let durability =
            if number.is_multiple_of(2) { Durability::Sync } else { Durability::Buffered };
        batch.commit_with(durability)
    };
    let commit = &commit;
    let committers: Vec<(Vec<u64>, Option<Error>)> = std::thread::scope(|scope| {
        let spawn = |thread: u64| {
            scope.spawn(move || {
                let mut acknowledged = Vec::new();
                for number in (0..).map(|n| n * 3 + thread) {
                    match catch_unwind(AssertUnwindSafe(|| commit(number))) {
                        Ok(Ok(())) => acknowledged.push(number),
                        Ok(Err(error)) => return (acknowledged, Some(error)),
                        Err(_) => return (acknowledged, None),
                    }
                }
                unreachable!("numbers do not end")
            })
        };
        let running: Vec<_> = (0..3).map(spawn).collect();
        running.into_iter().map(|running| running.join().unwrap()).collect()
    });
    let errors: Vec<_> = committers.iter().filter_map(|(_, error)| error.as_ref()).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    // Who waits for a sync hears of its panic before writing has stopped for it.
    let says_why = |says: &str| {
        says.contains("panicked at state") || says.contains("another sync of the file has panicked")
    };
    for error in errors {
        let says = error.to_string();
        assert!(matches!(error, Error::Stopped(_)) && says_why(&says), "{says}");
    }
    drop(keyspace);
    let says = database.close().unwrap_err().to_string();
    assert!(says_why(&says), "{says}");
    storage.clear_on_operation();
    let lab = Lab::open_on(Arc::new(storage.kill()));
    let keyspace = lab.database.existing_keyspace("k").unwrap();
    for number in committers.iter().flat_map(|(acknowledged, _)| acknowledged) {
        let found = keyspace.get(number.to_be_bytes()).unwrap().unwrap();
        assert_eq!(found.len(), value_bytes, "{number}");
    }
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

#[test]
fn a_commit_that_panics_while_it_writes_leaves_nobody_waiting() {
    for after in [0, 1, 2, 3, 10, 40] {
        panic_in_a_commit(OperationKind::Write, after, 100);
        panic_in_a_commit(OperationKind::WriteSync, after, 100);
        // Values in blocks of their own: these are synced before the commit takes its place.
        panic_in_a_commit(OperationKind::Write, after, 300_000);
        panic_in_a_commit(OperationKind::Sync, after, 300_000);
    }
}
