//! Behaviours that an ordered store must have, each against content that lies in memory, in one
//! segment, in several that overlap, in levels, and in one compacted segment; forwards and
//! backwards where that means something.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "ancestors/bulk.rs"]
mod bulk;
#[path = "ancestors/edges.rs"]
mod edges;
#[path = "ancestors/seeks.rs"]
mod seeks;
#[path = "ancestors/sizes.rs"]
mod sizes;
#[path = "ancestors/tombstones.rs"]
mod tombstones;

use crash_lsm::access;
use crash_lsm::fixtures::{ARRANGEMENTS, Arrangement, KeyChange, arrange, result_of, tiny};
use crash_lsm::model::Map;
use crash_lsm::setup::Setup;
use sapwood::segment::descriptor::Segment;
use sapwood::sync::Clock;
use sapwood::{Cursor, Database, Keyspace};

/// Calls `check` with the changes made in every arrangement.
fn in_every_arrangement(changes: &[KeyChange], check: impl Fn(&Database, &Keyspace, Arrangement)) {
    for arrangement in ARRANGEMENTS {
        let database = tiny().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        arrange(&database, &keyspace, arrangement, changes).unwrap();
        assert_eq!(
            access::collect(keyspace.iter().unwrap()).unwrap(),
            result_of(changes),
            "{arrangement:?}"
        );
        check(&database, &keyspace, arrangement);
        database.close().unwrap();
    }
}

/// Young segments, segments above the last level, and those of the last.
fn shape_of(database: &Database) -> (usize, usize, usize) {
    let state = database.core().unwrap().state();
    let all = state.levels.values().map(|levels| levels.iter().count()).sum::<usize>();
    let last = state.levels.values().filter(|levels| levels.last().is_some()).count();
    (state.young.len(), all - last, last)
}

/// What the other tests rely on.
#[test]
fn every_arrangement_lies_as_it_says() {
    let small = puts(["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]);
    let large: Vec<_> = (0..500).map(|n| put(format!("{n:04}"), [7; 90])).collect();
    for changes in [small, large] {
        for arrangement in ARRANGEMENTS {
            // Time stands still, so that writes never pause.
            let builder = Setup::tiny().builder().clock(Clock::fake().0);
            let database = builder.open_in_memory().unwrap();
            let keyspace = database.keyspace("a").unwrap();
            arrange(&database, &keyspace, arrangement, &changes).unwrap();
            let expected = match arrangement {
                Arrangement::Memory => (0, 0, 0),
                Arrangement::OneSegment => (1, 0, 0),
                Arrangement::YoungSegments => (3, 0, 0),
                Arrangement::Levels => (2, 1, 1),
                Arrangement::Compacted => (0, 0, 1),
            };
            assert_eq!(shape_of(&database), expected, "{arrangement:?}");
            let state = database.core().unwrap().state();
            let bounds = |index: usize| {
                let young: &Segment = &state.young[index];
                young.bounds.clone().unwrap()
            };
            for (one, two) in [(0, 1), (1, 2)] {
                if two < state.young.len() {
                    let (one, two) = (bounds(one), bounds(two));
                    assert!(one.least < two.greatest && two.least < one.greatest);
                }
            }
            check_content(&keyspace, &result_of(&changes));
        }
    }
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> KeyChange {
    (key.as_ref().to_vec(), Some(value.as_ref().to_vec()))
}

fn delete(key: impl AsRef<[u8]>) -> KeyChange {
    (key.as_ref().to_vec(), None)
}

fn puts<const N: usize>(keys: [&str; N]) -> Vec<KeyChange> {
    keys.iter().map(|key| put(key, format!("value of {key}"))).collect()
}

/// The keys that a cursor gives from its first to its last.
fn keys_forwards(cursor: &mut Cursor) -> Vec<String> {
    let mut keys = Vec::new();
    let mut valid = cursor.first().unwrap();
    while valid {
        keys.push(String::from_utf8_lossy(cursor.key().unwrap()).into_owned());
        valid = cursor.next().unwrap();
    }
    assert!(!cursor.valid() && cursor.key().is_none());
    keys
}

fn keys_backwards(cursor: &mut Cursor) -> Vec<String> {
    let mut keys = Vec::new();
    let mut valid = cursor.last().unwrap();
    while valid {
        keys.push(String::from_utf8_lossy(cursor.key().unwrap()).into_owned());
        valid = cursor.prev().unwrap();
    }
    assert!(!cursor.valid() && cursor.key().is_none());
    keys
}

/// Reads a keyspace in every way there is, and compares.
fn check_content(keyspace: &Keyspace, expected: &Map) {
    assert_eq!(&access::collect(keyspace.iter().unwrap()).unwrap(), expected);
    assert_eq!(&access::collect_back(keyspace.iter().unwrap()).unwrap(), expected);
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), expected.len() as u64);
    for (key, value) in expected {
        assert_eq!(keyspace.get(key).unwrap().as_deref(), Some(&**value));
    }
    let first = keyspace.first().unwrap().map(|(key, _)| key.into_vec());
    assert_eq!(first.as_ref(), expected.keys().next());
    let last = keyspace.last().unwrap().map(|(key, _)| key.into_vec());
    assert_eq!(last.as_ref(), expected.keys().next_back());
}
