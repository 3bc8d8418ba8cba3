//! Many versions of one key that snapshots see: they lie in one leaf of the young segment until
//! its first promotion, and a leaf must have a place in a node.

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use sapwood::sync::Random;
use sapwood::{Compression, Database, KeyspaceOptions, Snapshot};

struct Case {
    page_bytes: u32,
    region_bytes: u64,
    value_bytes: usize,
    versions: u32,
    key_bytes: usize,
}

impl Case {
    fn open(&self) -> Database {
        let builder = Database::builder().page_size(self.page_bytes).leaf_bytes(self.page_bytes);
        let builder = builder.region_bytes(self.region_bytes).memory_budget(64 << 20);
        builder.merge_threads(0).open_in_memory().unwrap()
    }

    fn value(&self, version: u32) -> Vec<u8> {
        let mut value = vec![0; self.value_bytes];
        Random::from_seed(u64::from(version)).fill(&mut value);
        value
    }

    /// Puts a key again and again, each time with a snapshot, between two other keys; then all goes
    /// down to the last level, and the snapshots go.
    fn run(&self) {
        let database = self.open();
        let options = KeyspaceOptions::default().compression(Compression::None);
        let keyspace = database.keyspace_with("a", options).unwrap();
        let key = vec![b'k'; self.key_bytes];
        for other in ["a", "z"] {
            keyspace.put(other, "beside").unwrap();
        }
        let mut snapshots: Vec<Snapshot> = Vec::new();
        for version in 0..self.versions {
            keyspace.put(&key, self.value(version)).unwrap();
            snapshots.push(database.snapshot().unwrap());
        }
        let check = |what: &str| {
            for (snapshot, version) in snapshots.iter().zip(0..) {
                let seen = snapshot.get(&keyspace, &key).unwrap().unwrap();
                assert!(*seen == *self.value(version), "{what}: version {version}");
            }
            let newest = keyspace.get(&key).unwrap().unwrap();
            assert!(*newest == *self.value(self.versions - 1), "{what}");
            assert_eq!(keyspace.count::<&str>(..).unwrap(), 3, "{what}");
            assert_eq!(access::verify(&database).unwrap(), None, "{what}");
        };
        database.flush().unwrap();
        check("flushed");
        run_all_steps(&database).unwrap();
        database.wait_until_idle().unwrap();
        check("at rest");
        database.compact().unwrap();
        check("compacted");
        snapshots.clear();
        keyspace.put("c", "another").unwrap();
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
        database.wait_until_idle().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None, "without snapshots");
        let (live, held) = access::live_and_held_bytes(&database).unwrap();
        let expected = self.value_bytes + self.key_bytes + 16 * self.page_bytes as usize;
        assert!(live + held < expected as u64, "{live} bytes live and {held} held");
    }
}

/// Values that stay in leaves because blocks of their own would waste too much came together in a
/// leaf of more than a MiB: the flush panicked, and so did the one after the next open.
#[test]
fn sixty_versions_of_a_long_value_beside_snapshots_are_flushed() {
    let case = Case {
        page_bytes: 4096,
        region_bytes: 128 << 20,
        value_bytes: 21_700,
        versions: 60,
        key_bytes: 1,
    };
    case.run();
}

#[test]
fn thousands_of_versions_of_a_short_value_beside_snapshots_are_flushed() {
    let case = Case {
        page_bytes: 4096,
        region_bytes: 128 << 20,
        value_bytes: 300,
        versions: 5000,
        key_bytes: 20,
    };
    case.run();
}

/// A leaf must lie in one region, and a node of the smallest ones is shorter than others.
#[test]
fn many_versions_beside_snapshots_fit_the_smallest_regions() {
    for (value_bytes, versions) in [(7_200, 60), (300, 4000), (3, 3000)] {
        for key_bytes in [1, 16_384] {
            let region_bytes = 128 << 10;
            Case { page_bytes: 1024, region_bytes, value_bytes, versions, key_bytes }.run();
        }
    }
}

/// Each version that a snapshot sees takes a place in one leaf, however short its value: a memtable
/// is sealed when so many numbers are registered beside it that one of its keys might not fit.
#[test]
fn a_memtable_is_sealed_when_too_many_snapshots_are_registered_beside_it() {
    let case =
        Case { page_bytes: 4096, region_bytes: 1 << 20, value_bytes: 1, versions: 0, key_bytes: 1 };
    let database = case.open();
    let keyspace = database.keyspace("a").unwrap();
    let core = database.core().unwrap();
    let sealed = || core.view().sealed.len();
    // A snapshot that goes again leaves nothing.
    for version in 0..10_000u32 {
        keyspace.put("k", version.to_le_bytes()).unwrap();
        drop(database.snapshot().unwrap());
    }
    assert_eq!(sealed(), 0);
    let mut snapshots = Vec::new();
    for version in 0..10_000u32 {
        keyspace.put("k", version.to_le_bytes()).unwrap();
        snapshots.push(database.snapshot().unwrap());
    }
    assert!((2..=3).contains(&sealed()), "{} memtables are sealed", sealed());
    for (snapshot, version) in snapshots.iter().zip(0u32..) {
        let seen = snapshot.get(&keyspace, "k").unwrap().unwrap();
        assert_eq!(*seen, version.to_le_bytes());
    }
}
