//! The histories of the golden files.
//!
//! *Guarantees*: a history is the same on every machine, so that what its file must hold, and the
//! numbers of its commits, can be worked out again without the file.

use std::ops::Bound;

use crash_lsm::model::{Change, State};
use sapwood::sync::{Arc, Random};

/// One act of a history.
pub enum Act {
    /// One commit, synced; before it one for each change of the catalogue.
    Commit(Vec<Change>),
    /// One commit that nothing was synced for yet.
    Buffered(Vec<Change>),
    /// One put of a value that comes as a stream.
    Stream(Change),
    /// One transaction with a stream in its midst: its data does not go through the log.
    Large(Vec<Change>),
    /// A snapshot is held from here on until the next flush has ended.
    Hold,
    Flush,
    /// Merges as long as writes go on: until nothing is due.
    MergeWhileWriting,
    /// So many steps while writes go on.
    StepsWhileWriting(u32),
    /// Writes pause, and so many steps are made.
    PauseFor(u32),
    /// Writes pause until nothing is left to do.
    Settle,
    Compact,
}

/// Values of a transaction from this length on come as streams.
pub const STREAM_BYTES: usize = 100_000;

/// What the file holds.
pub fn expected(history: &[Act]) -> State {
    let mut state = State::default();
    history.iter().for_each(|act| state.apply_all(act.changes()));
    state
}

/// The number of the commit that put each pair, in eight bytes in the place of its value; and the
/// number of the last commit.
pub fn numbers(history: &[Act]) -> (State, u64) {
    let (mut state, mut last) = (State::default(), 0_u64);
    for act in history {
        let is_of_catalogue = |change: &&Change| {
            matches!(change, Change::Create(_) | Change::Drop(_) | Change::Rename { .. })
        };
        let of_catalogue = act.changes().iter().filter(is_of_catalogue).count();
        last += of_catalogue as u64 + u64::from(of_catalogue < act.changes().len());
        for change in act.changes() {
            let mut change = change.clone();
            if let Change::Put { value, .. } = &mut change {
                *value = Arc::from(last.to_le_bytes().as_slice());
            }
            state.apply(&change);
        }
    }
    (state, last)
}

impl Act {
    fn changes(&self) -> &[Change] {
        match self {
            Act::Commit(changes) | Act::Buffered(changes) | Act::Large(changes) => changes,
            Act::Stream(change) => std::slice::from_ref(change),
            _ => &[],
        }
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
    let names =
        ["plain", "packed", "without filters", "long keys", "short-lived", "first name", "front"];
    let mut acts = vec![Act::Commit(names.map(|name| Change::Create(name.into())).into())];
    for from in (0..6000).step_by(1000) {
        let few = |name: &str, step: usize| -> Vec<Change> {
            (from..from + 1000).step_by(step).map(|n| put(name, key(n), value(n, 20))).collect()
        };
        acts.push(Act::Commit(few("plain", 1)));
        acts.push(Act::Commit([few("packed", 2), few("without filters", 4)].concat()));
        acts.push(Act::Commit([few("short-lived", 20), few("first name", 50)].concat()));
    }
    acts.push(Act::Stream(put("plain", key(1500), value(1500, 300_000))));
    acts.push(Act::Stream(put("packed", key(1500), value(1500, 200_000))));
    for (n, bytes) in [(10, 3000), (1010, 140_000), (2011, 5000), (5999, 2500)] {
        acts.push(Act::Commit(vec![
            put("plain", key(n), value(n, bytes)),
            put("packed", key(n), value(n, bytes)),
        ]));
    }
    // One to a leaf, so that the first lowest parent holds the first 64.
    let ones = (0..300).map(|n| put("front", key(n), value(n, 800)));
    acts.push(Act::Commit(ones.collect()));
    // Separators as long as keys may be, of which four are more than a narrow node holds.
    for lead in 0..6_u8 {
        let long = |last: u8| [vec![b'a' + lead; 16_383], vec![last]].concat();
        let changes = (0..5).map(|last| put("long keys", long(last), value(9, 600)));
        acts.push(Act::Commit(changes.collect()));
    }
    acts.push(Act::Compact);
    let first_64 = delete_range("front", "", Some(&format!("{}/", key(63))));
    acts.push(Act::Commit(vec![first_64]));
    acts.extend([Act::Flush, Act::Settle]);
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
                delete_range("plain", &key(6400), None),
            ]));
        }
        acts.push(Act::Flush);
    }
    acts
}

/// A transaction whose segments are what comes before its stream, the stream, and what comes
/// behind it: the later ones change what the earlier ones say.
fn large(keyspaces: [&str; 3], first: u64, count: u64) -> Vec<Change> {
    let [plain, packed, other] = keyspaces;
    let mut changes =
        vec![delete_range(plain, &key(first + count), Some(&key(first + count + 40)))];
    changes.extend((first..first + count).map(|n| put(plain, key(n), value(n, 60))));
    changes.extend([
        delete(packed, key(first)),
        put(packed, key(first + 2), value(first, 3000)),
        put(plain, key(first + 6), value(first, 2600)),
        put(packed, key(first + 4), value(first, STREAM_BYTES + 40_000)),
        // Of this commit's own, too: they lie in an older segment.
        delete_range(plain, &key(first + 10), Some(&key(first + 20))),
        delete_range(other, &key(first), None),
        put(plain, key(first + 12), "behind the range"),
        put(plain, key(first + 1), "the second time"),
        delete(plain, key(first + 2)),
    ]);
    changes
}

/// A large commit in the state, between flushes that name the same keys.
fn around_a_large_commit() -> Vec<Act> {
    let few = |of: &str, numbers: [u64; 4]| -> Vec<Change> {
        numbers.map(|n| put("plain", key(n), of)).into()
    };
    let ranges = (0..100).map(|n| {
        let start = key(2200 + 3 * n);
        delete_range("packed", &start, Some(&format!("{start}/")))
    });
    vec![
        Act::Hold,
        Act::Commit(few("before", [4000, 4001, 4011, 4012])),
        Act::Stream(put("plain", key(4300), value(4300, STREAM_BYTES))),
        Act::Flush,
        Act::Large(large(["plain", "packed", "first name"], 4000, 200)),
        Act::Flush,
        Act::Hold,
        Act::Commit(few("behind", [4004, 4013, 4100, 4210])),
        Act::Commit(vec![delete_range("plain", &key(4150), Some(&key(4160)))]),
        // So that a range tombstone keeps the numbers of both commits.
        Act::Hold,
        Act::Commit(vec![
            delete("plain", key(4005)),
            delete_range("plain", &key(4155), Some(&key(4170))),
            delete_range("packed", &key(4002), Some(&key(4003))),
        ]),
        Act::Flush,
        // Ranges alone, in several leaves.
        Act::Hold,
        Act::Commit(ranges.collect()),
        Act::Flush,
    ]
}

/// What only the log holds: every operation, and a large commit.
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
        Act::Buffered(vec![put("packed", key(6), value(6, 70_000))]),
        Act::Stream(put("plain", key(8), value(8, 140_000))),
        Act::Commit(vec![put("plain", key(5011), "before"), put("plain", key(5500), "before")]),
        Act::Large(large(["plain", "packed", "second name"], 5000, 900)),
        Act::Commit(vec![put("plain", key(5013), "behind"), put("plain", key(5600), "behind")]),
        // Together longer than a block of the log.
        Act::Commit(vec![put("late", "c", value(1, 50_000))]),
        Act::Commit(vec![put("late", "d", value(2, 50_000))]),
        Act::Commit(vec![Change::Create("brief".into())]),
        Act::Commit(vec![Change::Drop("brief".into()), put("late", "", "the empty key")]),
    ]
}

/// Of the file with nearly all structures.
pub fn many_structures() -> Vec<Act> {
    let mut acts = base();
    for seed in [1, 4] {
        acts.extend(flushes(seed, 8));
        acts.push(Act::MergeWhileWriting);
    }
    acts.extend(flushes(2, 3));
    acts.push(Act::PauseFor(2));
    acts.push(Act::Commit(vec![Change::Drop("short-lived".into())]));
    acts.extend(flushes(3, 5));
    acts.push(Act::StepsWhileWriting(2));
    acts.extend(around_a_large_commit());
    acts.extend(tail());
    acts
}

/// Of the file with the longest pages: little, but something of each kind.
pub fn few_pairs() -> Vec<Act> {
    let names = ["plain", "packed", "first name"];
    let few = (0..300).map(|n| put(names[n as usize % 3], key(n), value(n, 40))).collect();
    vec![
        Act::Commit(names.map(|name| Change::Create(name.into())).into()),
        Act::Commit(few),
        Act::Compact,
        Act::Large(large(names, 50, 100)),
        Act::Stream(put("plain", key(500), value(500, STREAM_BYTES))),
        Act::Commit(vec![
            put("packed", key(501), value(501, 90_000)),
            delete_range("plain", &key(10), Some(&key(30))),
            Change::Rename { old: "first name".into(), new: "second name".into() },
        ]),
    ]
}

/// Of the file that is cut: a little, overwritten so often that the log has become long.
pub fn overwritten() -> Vec<Act> {
    let overwrite = |round: u64| {
        Act::Commit((0..500).map(|n| put("plain", key(n), value(round, 20))).collect())
    };
    let mut acts = vec![Act::Commit(vec![Change::Create("plain".into())]), overwrite(0)];
    acts.extend([Act::Flush, Act::Settle]);
    acts.extend((1..120).map(overwrite));
    acts
}
