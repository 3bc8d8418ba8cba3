use super::*;
use crate::merge::debt::Pressure;
use crate::merge::passed_over::PassedOver;
use crate::merge::plan::next_plan;
use crate::merge::promote::promote;
use crate::state::durable::{Purpose, make_durable};
use crate::{Database, Durability};

fn shared_of(keyspace: &crate::Keyspace) -> Arc<Shared> {
    keyspace.shared().clone()
}

/// Leaves and parents that merges replace while the cursor is open must wait for it: the snapshot
/// itself holds no state as long as its memtable is not flushed.
#[test]
fn a_cursor_over_memtables_comes_with_a_hold_on_the_state_that_it_reads() {
    let builder = Database::builder().merge_threads(0).memory_budget(4 << 20).page_size(1024);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for round in 0..3_u8 {
        for n in 0..2000_u32 {
            keyspace.put(format!("{:05}", n * 3 + u32::from(round)), [round; 40]).unwrap();
        }
        database.flush().unwrap();
    }
    let mut batch = database.batch();
    batch.put(&keyspace, "zzz", "in memory").unwrap();
    batch.commit_with(Durability::Buffered).unwrap();
    let shared = shared_of(&keyspace);
    let core = shared.read(|core| Ok(core.clone())).unwrap();
    let number = keyspace.number_in(&shared).unwrap();
    let scan = Scan::new(&shared, number, Arc::new(SnapshotHold::take(&core)));
    let before = core.state().epoch;
    let (mut cursor, point) = scan.open(&core);
    assert!(point.is_some(), "the memtable is not flushed");
    cursor.seek_first().unwrap();
    // Everything but the memtable is merged, made durable twice over, and its place used again.
    let pressure = Pressure::Quiet;
    while let Some(plan) = next_plan(&core, pressure, &mut PassedOver::default()).unwrap() {
        promote(&core, plan).unwrap();
    }
    for _ in 0..2 {
        make_durable(&core, Purpose::Running).unwrap();
    }
    assert!(core.state().epoch > before, "nothing was merged");
    core.collect_released();
    assert!(core.held.stats().pages > 0, "the state that is read is not held");
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next().unwrap();
    }
    assert_eq!(count, 6001);
    drop((cursor, point));
    core.collect_released();
    assert_eq!(core.held.stats().pages, 0);
}

fn scan_of(keyspace: &crate::Keyspace) -> (Arc<Core>, Scan) {
    let shared = shared_of(keyspace);
    let core = shared.read(|core| Ok(core.clone())).unwrap();
    let hold = Arc::new(SnapshotHold::take(&core));
    let number = keyspace.number_in(&shared).unwrap();
    (core, Scan { hold, keyspace: number, shared, own: Vec::new(), reads: None, keys_only: false })
}

/// How many dead keys the first look at either end walks over.
fn dead_at_the_ends(keyspace: &crate::Keyspace) -> [u64; 2] {
    let (core, scan) = scan_of(keyspace);
    let (mut cursor, _point) = scan.open(&core);
    cursor.seek_first().unwrap();
    let first = cursor.dead().keys();
    cursor.seek_last().unwrap();
    [first, cursor.dead().keys()]
}

#[test]
fn a_queue_s_ends_are_found_without_walking_over_what_was_taken() {
    for flushes in [false, true] {
        let builder = Database::builder().merge_threads(0).memory_budget(16 << 20);
        let database = builder.open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        for n in 0..20_000_u32 {
            keyspace.put(n.to_be_bytes(), "task").unwrap();
        }
        if flushes {
            database.flush().unwrap();
        }
        for n in 0..8_000_u32 {
            let (key, _) = keyspace.first().unwrap().unwrap();
            assert_eq!(*key, n.to_be_bytes());
            keyspace.delete(&key).unwrap();
            let (key, _) = keyspace.last().unwrap().unwrap();
            assert_eq!(*key, (19_999 - n).to_be_bytes());
            keyspace.delete(&key).unwrap();
            if flushes && n % 1_000 == 500 {
                database.flush().unwrap();
            }
            if n % 500 == 0 {
                let dead = dead_at_the_ends(&keyspace);
                assert!(dead.iter().all(|keys| *keys <= 2 * 64), "{dead:?} at {n}");
            }
        }
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 4_000);
    }
}

#[test]
fn a_long_dead_stretch_is_joined_by_the_first_look_and_a_put_into_it_is_seen() {
    let builder = Database::builder().merge_threads(0).memory_budget(16 << 20);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..20_000_u32 {
        keyspace.put(n.to_be_bytes(), "x").unwrap();
    }
    let before = database.snapshot().unwrap();
    for n in 10..19_990_u32 {
        keyspace.delete(n.to_be_bytes()).unwrap();
    }
    assert_eq!(keyspace.range(10_u32.to_be_bytes()..).unwrap().count(), 10);
    let joined = |keyspace: &crate::Keyspace| {
        let (core, _) = scan_of(keyspace);
        core.view().active.table.joined().map_or(0, |joined| joined.ranges().len())
    };
    assert_eq!(joined(&keyspace), 1);
    assert_eq!(before.range::<&[u8]>(&keyspace, ..).unwrap().count(), 20_000);
    keyspace.put(5_000_u32.to_be_bytes(), "again").unwrap();
    assert_eq!(joined(&keyspace), 2);
    let found = keyspace.range(10_u32.to_be_bytes()..).unwrap().next().unwrap().unwrap();
    assert_eq!((&*found.0, &*found.1), (&5_000_u32.to_be_bytes()[..], &b"again"[..]));
    let found = keyspace.range(..5_001_u32.to_be_bytes()).unwrap().next_back().unwrap().unwrap();
    assert_eq!(*found.0, 5_000_u32.to_be_bytes());
    database.flush().unwrap();
    assert_eq!(before.range::<&[u8]>(&keyspace, ..).unwrap().count(), 20_000);
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 21);
}

#[test]
fn a_scan_of_a_transaction_s_own_deletions_joins_nothing() {
    let database = Database::builder().merge_threads(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..1_000_u32 {
        keyspace.put(n.to_be_bytes(), "x").unwrap();
    }
    let mut transaction = database.begin(crate::Isolation::Snapshot).unwrap();
    for n in 0..900_u32 {
        transaction.delete(&keyspace, n.to_be_bytes()).unwrap();
    }
    assert_eq!(transaction.range::<&[u8]>(&keyspace, ..).unwrap().count(), 100);
    transaction.rollback();
    assert_eq!(keyspace.iter().unwrap().count(), 1_000);
}

/// What is joined is no change: a transaction that began before it commits, also when a flush comes
/// in between.
#[test]
fn joining_conflicts_with_nobody() {
    for flush in [false, true] {
        let database = Database::builder().merge_threads(0).open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        for n in 0..1_000_u32 {
            keyspace.put(n.to_be_bytes(), "x").unwrap();
        }
        for n in 100..800_u32 {
            keyspace.delete(n.to_be_bytes()).unwrap();
        }
        let mut early = database.begin(crate::Isolation::Serializable).unwrap();
        assert!(early.get(&keyspace, 200_u32.to_be_bytes()).unwrap().is_none());
        // One commit more, so that what is joined has a number above the transaction's.
        keyspace.put("elsewhere", "x").unwrap();
        assert_eq!(keyspace.range(100_u32.to_be_bytes()..).unwrap().count(), 201);
        if flush {
            database.flush().unwrap();
        }
        early.put(&keyspace, 300_u32.to_be_bytes(), "y").unwrap();
        early.commit().unwrap();
        assert_eq!(&*keyspace.get(300_u32.to_be_bytes()).unwrap().unwrap(), b"y");
    }
}

#[test]
fn nothing_is_joined_where_something_was_inserted_since() {
    let database = Database::builder().merge_threads(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..1_000_u32 {
        keyspace.put(n.to_be_bytes(), "x").unwrap();
        keyspace.delete(n.to_be_bytes()).unwrap();
    }
    let (core, scan) = scan_of(&keyspace);
    let (mut cursor, point) = scan.open(&core);
    cursor.seek_first().unwrap();
    assert_eq!(cursor.dead().keys(), 1_000);
    keyspace.put(500_u32.to_be_bytes(), "y").unwrap();
    scan.join_dead(&core, point.as_ref(), &cursor);
    assert_eq!(keyspace.iter().unwrap().count(), 1);
}

#[test]
fn joined_ranges_end_where_keys_may() {
    let builder = Database::builder().merge_threads(0).join_keys_min(1);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let longest = vec![5; crate::segment::KEY_BYTES_MAX];
    for key in [&[4][..], &longest, &[6], &[7]] {
        keyspace.put(key, "x").unwrap();
        keyspace.delete(key).unwrap();
    }
    // Forward and backward, and a cut by the longest key.
    assert!(keyspace.first().unwrap().is_none() && keyspace.last().unwrap().is_none());
    keyspace.put(&longest, "y").unwrap();
    assert_eq!(keyspace.iter().unwrap().count(), 1);
    assert!(keyspace.prefix([6]).unwrap().next_back().is_none());
    keyspace.delete(&longest).unwrap();
    assert!(keyspace.range(&longest[..]..).unwrap().next_back().is_none());
    database.flush().unwrap();
    assert!(keyspace.first().unwrap().is_none());
}
