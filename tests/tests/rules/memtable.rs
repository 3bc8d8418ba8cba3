//! What a memtable holds of several keyspaces and of several deletions: a flush is one cut through
//! all of it.

use crash_lsm::access;
use crash_lsm::setup::Setup;
use sapwood::memtable::JoinedRange;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock};
use sapwood::{Durability, Key, Keyspace, Result, Snapshot, Value};

use crate::every_cut::every_cut;
use crate::{new, numbered, try_still};

fn keys(pairs: impl Iterator<Item = Result<(Key, Value)>>) -> Vec<String> {
    pairs.map(|pair| String::from_utf8(pair.unwrap().0.to_vec()).unwrap()).collect()
}

/// Commits that write to two keyspaces, no log record of which need be on disk, and a flush between
/// them. Were one keyspace flushed without the other, the state would hold half of each.
#[test]
fn a_power_cut_leaves_a_commit_to_two_keyspaces_whole_or_takes_all_of_it() {
    for durability in [Durability::Memory, Durability::Buffered] {
        let (storage, database, keyspace) = new();
        let other = database.keyspace("b").unwrap();
        database.flush().unwrap();
        let flushed = Arc::new(AtomicU64::new(0));
        let act = || {
            for n in 0..4 {
                let mut batch = database.batch();
                batch.put(&keyspace, numbered(n), "x").unwrap();
                batch.put(&other, numbered(n), "y").unwrap();
                batch.commit_with(durability).unwrap();
                if n == 1 || n == 3 {
                    database.flush().unwrap();
                    flushed.store(u64::from(n) + 1, Ordering::SeqCst);
                }
            }
        };
        let mut met = [0; 5];
        every_cut(&storage, 2, &flushed, act, |left| {
            let (database, _) = try_still(&left.storage).unwrap();
            let of = |name| keys(database.existing_keyspace(name).unwrap().iter().unwrap());
            let (x, y) = (of("a"), of("b"));
            assert_eq!(x, y, "half a commit has survived, {durability:?}, {}", left.what);
            let all: Vec<String> = (0..4).map(numbered).collect();
            assert_eq!(x, all[..x.len()], "{durability:?}, {}", left.what);
            assert!(x.len() as u64 >= left.done, "{durability:?}, {}: {x:?}", left.what);
            assert_eq!(access::verify(&database).unwrap(), None, "{}", left.what);
            met[x.len()] += 1;
        });
        assert!(met[0] > 0 && met[2] > 0 && met[4] > 0, "{met:?}");
    }
}

/// What the snapshot between the two deletions sees, and what everybody else does.
fn check(snapshot: &Snapshot, keyspace: &Keyspace, what: &str) {
    let seen = || snapshot.iter(keyspace).unwrap();
    assert_eq!(keys(seen()), ["b", "c"], "{what}, the snapshot");
    assert_eq!(keys(seen().rev()), ["c", "b"], "{what}, the snapshot backwards");
    assert!(!snapshot.contains(keyspace, "a").unwrap(), "{what}: a is back for the snapshot");
    assert!(snapshot.contains(keyspace, "b").unwrap(), "{what}: b is gone for the snapshot");
    assert_eq!(keys(keyspace.iter().unwrap()), ["c"], "{what}");
    assert!(!keyspace.contains("a").unwrap() && !keyspace.contains("b").unwrap(), "{what}");
}

/// delete a@40, snapshot@50, delete b@60, and scans that walk over the deleted keys: one at the end
/// over both, and sometimes one of the snapshot's before it. What lies below the deletions is in
/// the same memtable, or in the last level, by a flush or a merge.
#[test]
fn a_snapshot_between_two_deletions_that_are_joined_sees_the_first_and_not_the_second() {
    for below in [2, 1, 0] {
        for the_snapshot_scans in [false, true] {
            let setup = Setup { join_keys_min: 1, region_bytes: 1 << 20, ..Setup::tiny() };
            let builder = setup.builder().clock(Clock::fake().0);
            let database = builder.open_on(Arc::new(SimulatedStorage::new())).unwrap();
            let keyspace = database.keyspace("a").unwrap();
            ["a", "b", "c"].iter().for_each(|key| keyspace.put(key, "v").unwrap());
            match below {
                0 => {}
                1 => database.flush().unwrap(),
                _ => database.compact().unwrap(),
            }
            keyspace.delete("a").unwrap();
            let snapshot = database.snapshot().unwrap();
            if the_snapshot_scans {
                assert_eq!(keys(snapshot.iter(&keyspace).unwrap()), ["b", "c"]);
            }
            keyspace.delete("b").unwrap();
            assert_eq!(keys(keyspace.iter().unwrap()), ["c"]);
            let joined = database.core().unwrap().view().active.table.joined().unwrap();
            let (a, b) = (&b"a"[..], &b"b"[..]);
            let over_both = |range: &&JoinedRange| &*range.start <= a && &*range.end > b;
            let ranges: Vec<&JoinedRange> = joined.ranges().iter().filter(over_both).collect();
            assert_eq!(ranges.len(), 1, "nothing is joined over both: {joined:?}");
            let what = format!("{below} {the_snapshot_scans}");
            check(&snapshot, &keyspace, &format!("{what}: in memory"));
            database.flush().unwrap();
            check(&snapshot, &keyspace, &format!("{what}: flushed"));
            database.compact().unwrap();
            check(&snapshot, &keyspace, &format!("{what}: merged"));
            drop(snapshot);
            assert_eq!(access::verify(&database).unwrap(), None, "{what}");
        }
    }
}
