//! The file of format version 1 that is kept in `tests/golden`: the history that made it.
//!
//! *Guarantees*: the history is the same on every machine, so that what the file must hold can be
//! worked out again without the file. The file itself differs from one making to the next: its
//! identity, filter seeds and times are its own.

use std::ops::Bound;
use std::time::Duration;

use crash_lsm::model::{Change, State};
use crash_lsm::setup::Setup;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Compression, Database, Durability, KeyspaceOptions};

/// One act of the history.
enum Act {
    /// One commit, synced.
    Commit(Vec<Change>),
    /// A snapshot is held from here on until the next flush has ended.
    Hold,
    Flush,
    /// Merges as long as writes go on: until nothing is due.
    MergeWhileWriting,
    /// Writes pause, and so many steps are made.
    PauseFor(u32),
    Compact,
}

fn options(name: &str) -> KeyspaceOptions {
    let options = KeyspaceOptions::default();
    match name {
        "plain" | "long keys" => {
            options.compression(Compression::None).value_compression(Compression::None)
        }
        "without filters" => options.compression(Compression::Zstd(3)).filter_bits(0),
        _ => options.compression(Compression::Zstd(1)).value_compression(Compression::Zstd(1)),
    }
}

fn put(keyspace: &str, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    let value = Arc::from(value.into());
    Change::Put { keyspace: keyspace.into(), key: key.into(), value }
}

fn delete(keyspace: &str, key: String) -> Change {
    Change::Delete { keyspace: keyspace.into(), key: key.into() }
}

fn delete_range(keyspace: &str, start: &str, end: Option<&str>) -> Change {
    let end = end.map_or(Bound::Unbounded, |end| Bound::Excluded(end.into()));
    let range = (Bound::Included(start.into()), end);
    Change::DeleteRange { keyspace: keyspace.into(), range }
}

fn key(n: u64) -> String {
    format!("key/{n:05}")
}

/// A value that grows with `n`, and of which a compressor makes little.
fn value(n: u64, bytes: usize) -> Vec<u8> {
    format!("value {n:04}, ").into_bytes().into_iter().cycle().take(bytes).collect()
}

/// Many keys: a tree with upper parents. And large values.
fn base() -> Vec<Act> {
    let names = ["plain", "packed", "without filters", "long keys", "short-lived", "first name"];
    let mut acts = vec![Act::Commit(names.map(|name| Change::Create(name.into())).into())];
    for from in (0..6000).step_by(1000) {
        let few = |name: &str, step: usize| -> Vec<Change> {
            (from..from + 1000).step_by(step).map(|n| put(name, key(n), value(n, 20))).collect()
        };
        acts.push(Act::Commit(few("plain", 1)));
        acts.push(Act::Commit([few("packed", 2), few("without filters", 4)].concat()));
        acts.push(Act::Commit([few("short-lived", 20), few("first name", 50)].concat()));
    }
    for (n, bytes) in [(10, 3000), (1010, 140_000), (2011, 5000), (5999, 2500)] {
        acts.push(Act::Commit(vec![
            put("plain", key(n), value(n, bytes)),
            put("packed", key(n), value(n, bytes)),
        ]));
    }
    // Separators as long as keys may be, of which four are more than a narrow node holds.
    for lead in 0..6_u8 {
        let long = |last: u8| [vec![b'a' + lead; 16_383], vec![last]].concat();
        let changes = (0..5).map(|last| put("long keys", long(last), value(9, 600)));
        acts.push(Act::Commit(changes.collect()));
    }
    acts.push(Act::Compact);
    acts
}

/// Flushes that overlap, with tombstones of both kinds and several versions of a key.
fn flushes(seed: u64, count: u64) -> Vec<Act> {
    let mut random = Random::from_seed(seed);
    let mut acts = Vec::new();
    for round in 0..count {
        for part in 0..2 {
            let mut changes = Vec::new();
            for _ in 0..12 {
                let (n, name) = (random.below(6500), ["plain", "packed"][random.below(2) as usize]);
                changes.push(match random.below(5) {
                    0 => delete(name, key(n)),
                    1 => delete_range(name, &key(n), Some(&key(n + 5))),
                    _ => put(name, key(n), value(round, 30)),
                });
            }
            changes.push(put("plain", key(77), value(round * 2 + part, 12)));
            changes.push(put("without filters", key(round * 2 + part), "again"));
            acts.extend([Act::Commit(changes), Act::Hold]);
        }
        if round % 3 == 1 {
            let n = 3000 + round;
            acts.push(Act::Commit(vec![
                put("plain", key(n), value(n, 2600)),
                put("packed", key(n), value(n, 4000)),
                delete_range("first name", &key(5000 - 100 * round), None),
            ]));
        }
        acts.push(Act::Flush);
    }
    acts
}

/// What only the log holds: every operation.
fn tail() -> Vec<Act> {
    vec![
        Act::Commit(vec![
            Change::Create("late".into()),
            Change::Rename { old: "first name".into(), new: "second name".into() },
        ]),
        Act::Commit(vec![
            put("late", "a", "1"),
            put("late", "b", "2"),
            put("packed", key(4), value(4, 140_000)),
            delete("plain", key(5)),
            delete_range("plain", &key(100), Some(&key(120))),
            delete_range("packed", &key(5900), None),
        ]),
        Act::Commit(vec![Change::Create("brief".into())]),
        Act::Commit(vec![Change::Drop("brief".into()), put("late", "", "the empty key")]),
    ]
}

fn history() -> Vec<Act> {
    let mut acts = base();
    acts.extend(flushes(1, 10));
    acts.push(Act::MergeWhileWriting);
    acts.extend(flushes(2, 3));
    acts.push(Act::PauseFor(2));
    acts.push(Act::Commit(vec![Change::Drop("short-lived".into())]));
    acts.extend(flushes(3, 2));
    acts.extend(tail());
    acts
}

/// What the file holds.
pub fn expected() -> State {
    let mut state = State::default();
    for act in history() {
        if let Act::Commit(changes) = act {
            state.apply_all(&changes);
        }
    }
    state
}

fn commit(database: &Database, changes: &[Change]) {
    let mut batch = database.batch();
    for change in changes {
        let own = |name: &String| database.existing_keyspace(name).unwrap();
        match change {
            Change::Put { keyspace, key, value } => batch.put(&own(keyspace), key, value).unwrap(),
            Change::Delete { keyspace, key } => batch.delete(&own(keyspace), key).unwrap(),
            Change::DeleteRange { keyspace, range } => {
                batch.delete_range(&own(keyspace), range.clone()).unwrap();
            }
            Change::Create(name) => drop(database.keyspace_with(name, options(name)).unwrap()),
            Change::Drop(name) => database.drop_keyspace(name).unwrap(),
            Change::Rename { old, new } => database.rename_keyspace(old, new).unwrap(),
        }
    }
    batch.commit_with(Durability::Sync).unwrap();
}

/// What the file is opened with.
pub fn setup() -> Setup {
    Setup {
        reserved_bytes: 16,
        region_bytes: 256 << 10,
        durability: Durability::Sync,
        ..Setup::tiny()
    }
}

/// Makes the file anew: as a crash would leave it that loses nothing.
pub fn make() -> Vec<u8> {
    let (clock, fake) = Clock::fake();
    let storage = SimulatedStorage::new();
    let builder = setup().builder().clock(clock).step_bytes(64 << 10);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let mut held = Vec::new();
    for act in history() {
        match act {
            Act::Commit(changes) => commit(&database, &changes),
            Act::Hold => held.push(database.snapshot().unwrap()),
            Act::Flush => {
                database.flush().unwrap();
                held.clear();
            }
            Act::MergeWhileWriting => while database.run_step().unwrap() {},
            Act::PauseFor(steps) => {
                fake.advance(Duration::from_secs(5));
                for _ in 0..steps {
                    assert!(database.run_step().unwrap(), "nothing is left to merge");
                }
            }
            Act::Compact => database.compact().unwrap(),
        }
    }
    let image = storage.image();
    drop(database);
    image
}
