//! Many range deletes over the same keys in one memtable: what of their numbers nobody can tell
//! apart is neither copied under the commit lock nor written by the flush.

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use sapwood::merge::ranges::visit_fragments;
use sapwood::segment::range_tombstone::Fragment;
use sapwood::{Database, Durability, Keyspace, KeyspaceNumber, Snapshot};

fn open() -> (Database, Keyspace) {
    let builder = Database::builder().memory_budget(256 << 20).durability(Durability::Memory);
    let database = builder.merge_threads(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// The range tombstones of all young segments.
fn fragments(database: &Database) -> Vec<Fragment> {
    let core = database.core().unwrap();
    let mut found = Vec::new();
    for segment in &core.state().young {
        let Some(root) = &segment.ranges else { continue };
        visit_fragments(&core.pages, root, KeyspaceNumber::MANY, None, &mut |fragment| {
            found.push(fragment);
            true
        })
        .unwrap();
    }
    found
}

/// Puts a hundred keys, then deletes from the front on, each time a little more, and puts behind
/// it; each snapshot sees what was there when it was taken.
fn delete_more_and_more(deletes: u32, snapshot_at: &[u32]) {
    let (database, keyspace) = open();
    let keys = deletes / 10;
    for number in 0..keys {
        keyspace.put(key(number * 10), "there").unwrap();
    }
    let mut snapshots: Vec<(u32, Snapshot)> = Vec::new();
    for number in 0..deletes {
        keyspace.delete_range(..key(number)).unwrap();
        if snapshot_at.contains(&number) {
            snapshots.push((number, database.snapshot().unwrap()));
        }
    }
    let bytes = database.core().unwrap().view().active.table.bytes();
    assert!(bytes < 2 << 20, "{bytes} bytes");
    let check = |what: &str| {
        for (deleted, snapshot) in &snapshots {
            let left = (0..keys).filter(|number| number * 10 >= *deleted);
            let found = snapshot.iter(&keyspace).unwrap().map(|pair| pair.unwrap().0.to_vec());
            let expected = left.map(|number| key(number * 10).to_vec());
            assert!(found.eq(expected), "{what}: the snapshot after {deleted}");
        }
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0, "{what}");
        assert_eq!(access::verify(&database).unwrap(), None, "{what}");
    };
    check("in memory");
    database.flush().unwrap();
    let found = fragments(&database);
    let numbers: usize = found.iter().map(|fragment| fragment.numbers.len()).sum();
    // What no snapshot tells apart is one fragment with one number.
    let most = snapshots.len() + 1;
    assert!(found.len() <= most && numbers <= most * most, "{} with {numbers}", found.len());
    check("flushed");
    run_all_steps(&database).unwrap();
    database.compact().unwrap();
    check("compacted");
}

/// Each of the parts kept the numbers of all deletes over it: 4,000 deletes took 64 MiB of memory,
/// and the flush wrote eight million numbers.
#[test]
fn nested_range_deletes_take_little_memory_and_leave_one_fragment() {
    delete_more_and_more(4000, &[]);
}

#[test]
fn snapshots_between_nested_range_deletes_see_what_was_there() {
    delete_more_and_more(1000, &[0, 10, 11, 500, 501, 755, 998]);
}

/// A fragment's numbers, all of them, once were more than a node may have.
#[test]
fn many_deletes_of_one_range_leave_one_number() {
    let (database, keyspace) = open();
    keyspace.put("m", "before").unwrap();
    let before = database.snapshot().unwrap();
    let mut between = None;
    for number in 0..20_000 {
        keyspace.delete_range("a".."z").unwrap();
        if number == 10_000 {
            keyspace.put("m", "between").unwrap();
            between = Some(database.snapshot().unwrap());
        }
    }
    let between = between.unwrap();
    let check = || {
        assert_eq!(&*before.get(&keyspace, "m").unwrap().unwrap(), b"before");
        assert_eq!(&*between.get(&keyspace, "m").unwrap().unwrap(), b"between");
        assert!(keyspace.get("m").unwrap().is_none());
        assert_eq!(access::verify(&database).unwrap(), None);
    };
    check();
    database.flush().unwrap();
    let found = fragments(&database);
    let counts: Vec<usize> = found.iter().map(|fragment| fragment.numbers.len()).collect();
    // The newest, and the one that hides the first version from the second snapshot.
    assert_eq!(counts, [2]);
    check();
    database.compact().unwrap();
    check();
}

/// Two keyspaces whose fragments touch in composite keys stay two fragments.
#[test]
fn fragments_of_neighbouring_keyspaces_are_not_joined() {
    let (database, a) = open();
    let b = database.keyspace("b").unwrap();
    a.put("k", "1").unwrap();
    b.put("k", "2").unwrap();
    let mut batch = database.batch();
    batch.delete_range::<&str>(&a, ..).unwrap();
    batch.delete_range(&b, .."j").unwrap();
    batch.commit().unwrap();
    database.flush().unwrap();
    assert_eq!(fragments(&database).len(), 2);
    assert!(a.get("k").unwrap().is_none() && b.get("k").unwrap().is_some());
    assert_eq!(access::verify(&database).unwrap(), None);
}
