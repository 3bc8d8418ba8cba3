//! Values in blocks of their own: who may still read one that was copied elsewhere, and what is
//! merged around them without asking for their room.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;

use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, MemoryStorage, SimulatedStorage};
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Durability, Isolation, Keyspace, Seek, ValueStream};

const LENGTH: usize = 300 << 10;

fn value(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Random::from_seed(seed).fill(&mut bytes);
    bytes
}

/// A database whose log names a value that may not be on disk: the first write copies it.
fn killed_with_a_value() -> (Setup, SimulatedStorage) {
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let storage = SimulatedStorage::new();
    let database = setup.open_on(Arc::new(storage.clone())).unwrap();
    let batch_of = |database: &Database| {
        let keyspace = database.keyspace("a").unwrap();
        database.flush().unwrap();
        let mut batch = database.batch();
        batch.put(&keyspace, "k", value(1, LENGTH)).unwrap();
        batch.put(&keyspace, "l", "short").unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
    };
    batch_of(&database);
    let killed = storage.crash_copy(CrashPlan::KeepAll);
    drop(database);
    (setup, killed)
}

/// Makes use of every block that is free.
fn use_up(database: &Database, keyspace: &Keyspace) {
    for round in 0..12 {
        keyspace.put("first", "write").unwrap();
        keyspace.put_stream(format!("m {round}"), &value(round, LENGTH)[..]).unwrap();
        database.flush().unwrap();
        while database.run_step().unwrap() {}
    }
}

/// A stream beside a memtable held no state, so that nothing held the blocks that the first write
/// after a crash copies the value out of.
#[test]
fn a_stream_reads_on_where_the_value_lay_when_it_was_opened() {
    type Open = fn(&Database, &Keyspace) -> ValueStream;
    let kinds: [Open; 3] = [
        |_, keyspace| keyspace.get_stream("k").unwrap().unwrap(),
        |database, keyspace| {
            let snapshot = database.snapshot().unwrap();
            snapshot.get_stream(keyspace, "k").unwrap().unwrap()
        },
        |database, keyspace| {
            let transaction = database.begin(Isolation::Snapshot).unwrap();
            transaction.get_stream(keyspace, "k").unwrap().unwrap()
        },
    ];
    // Each alone: what one of them holds would hide what another does not.
    for open in kinds {
        let (setup, storage) = killed_with_a_value();
        let database = setup.open_on(Arc::new(storage)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut stream = open(&database, &keyspace);
        use_up(&database, &keyspace);
        let mut read = Vec::new();
        stream.read_to_end(&mut read).unwrap();
        assert!(read == value(1, LENGTH));
    }
}

/// The same for what iterators and cursors have read ahead.
#[test]
fn what_was_read_ahead_is_read_where_it_lay() {
    let opened = || {
        let (setup, storage) = killed_with_a_value();
        let database = setup.open_on(Arc::new(storage)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        (database, keyspace)
    };
    let (database, keyspace) = opened();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.seek("k", Seek::AtOrAfter).unwrap());
    use_up(&database, &keyspace);
    assert!(cursor.value().unwrap() == value(1, LENGTH));

    let (database, keyspace) = opened();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(cursor.last().unwrap());
    use_up(&database, &keyspace);
    assert!(cursor.prev().unwrap());
    assert!(cursor.value().unwrap() == value(1, LENGTH));

    let (database, keyspace) = opened();
    let mut range = keyspace.iter().unwrap();
    assert_eq!(range.next_back().unwrap().unwrap().0, "l");
    use_up(&database, &keyspace);
    assert!(range.next().unwrap().unwrap().1 == value(1, LENGTH));
}

/// What a walk held goes with it: the blocks are free when nobody reads any more.
#[test]
fn what_a_stream_held_is_free_when_it_goes() {
    let (setup, storage) = killed_with_a_value();
    let database = setup.open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let stream = keyspace.get_stream("k").unwrap().unwrap();
    keyspace.put("first", "write").unwrap();
    let used = || {
        database.flush().unwrap();
        database.wait_until_idle().unwrap();
        let stats = database.stats().unwrap();
        stats.file_bytes - stats.free_bytes
    };
    let held = used();
    drop(stream);
    let after = used();
    assert!(after + (LENGTH as u64) <= held, "{held} held, {after} after");
}

/// Eight segments with a value each were merged only where there was room for all eight values
/// once more, though none of them is copied.
#[test]
fn a_transaction_of_long_values_needs_room_for_them_once() {
    let long = 640 << 10;
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
    let builder = builder.page_size(1024).region_bytes(1 << 20).max_file_bytes(9 << 20);
    let database = builder.open_on(Arc::new(MemoryStorage::new())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    for seed in 0..9 {
        let key = format!("k {seed}");
        transaction.put_stream(&keyspace, key, &value(seed, long)[..]).unwrap();
    }
    transaction.commit().unwrap();
    for seed in 0..9 {
        let mut read = Vec::new();
        let mut stream = keyspace.get_stream(format!("k {seed}")).unwrap().unwrap();
        stream.read_to_end(&mut read).unwrap();
        assert!(read == value(seed, long), "{seed}");
    }
}

/// A tree of one leaf has no list of the leaf's values: dropped unread, they belonged to nobody.
#[test]
fn values_of_a_lone_leaf_are_free_when_a_range_delete_covers_it() {
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for seed in 0..5 {
        keyspace.put_stream(format!("k {seed}"), &value(seed, LENGTH)[..]).unwrap();
    }
    database.wait_until_idle().unwrap();
    let state = database.core().unwrap().state();
    let last = state.levels.values().next().unwrap().last().unwrap().points.clone().unwrap();
    assert_eq!(last.height, 0, "it is no lone leaf");
    drop(state);
    let used = || {
        let stats = database.stats().unwrap();
        stats.file_bytes - stats.free_bytes
    };
    let before = used();
    keyspace.delete_range::<&[u8]>(..).unwrap();
    database.flush().unwrap();
    database.wait_until_idle().unwrap();
    database.flush().unwrap();
    assert!(used() + 5 * LENGTH as u64 <= before, "{} of {before} bytes", used());
    let report = database.verify(&mut ()).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.unowned_pages, 0);
}
