//! Flushes in final form: runs of keys that nothing overlaps go to the last level at once, wherever
//! they fall, and nobody sees a difference.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::page::{NodeHeader, NodeKind, NodeRef};
use sapwood::segment::node::read_parent;
use sapwood::state::Core;
use sapwood::storage::{CrashPlan, MemoryStorage, OperationKind, SimulatedStorage};
use sapwood::sync::{Arc, Mutex, Random};
use sapwood::{
    Compression, Database, Durability, Error, Isolation, Keyspace, KeyspaceNumber, KeyspaceOptions,
    Snapshot,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

const LEAF_BYTES: usize = 1 << 10;
const VALUE_BYTES: usize = 40;
/// So many pairs of the tests fill three leaves, whatever of them is in the way.
const RUN_PAIRS: u32 = 90;

struct Fixture {
    database: Database,
    keyspace: Keyspace,
    storage: MemoryStorage,
    model: Model,
    random: Random,
}

/// Small regions, so that a file has several, and merges only when they are asked for.
fn setup() -> Setup {
    Setup { region_bytes: 1 << 20, ..Setup::tiny() }
}

fn open(storage: &MemoryStorage) -> (Database, Keyspace) {
    let database = setup().builder().open_on(Arc::new(storage.clone())).unwrap();
    let options = KeyspaceOptions::default().compression(Compression::None);
    let keyspace = database.keyspace_with("a", options).unwrap();
    (database, keyspace)
}

fn key(series: u32, time: u32) -> Vec<u8> {
    format!("{series:04} {time:08}").into_bytes()
}

/// What a flush did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flushed {
    /// Entries that went to the last level.
    last: i64,
    /// Young segments that it made.
    young: i64,
}

impl Fixture {
    fn new() -> Fixture {
        let storage = MemoryStorage::new();
        let (database, keyspace) = open(&storage);
        let random = Random::from_seed(1);
        Fixture { database, keyspace, storage, model: Model::new(), random }
    }

    /// With `series` series of `times` pairs each, in the last level, and nothing else.
    fn with_series(series: u32, times: u32) -> Fixture {
        let mut fixture = Fixture::new();
        for number in 0..series {
            fixture.append(number, 1_000_000..1_000_000 + times);
        }
        fixture.database.compact().unwrap();
        assert_eq!(fixture.last_and_young(), (i64::from(series * times), 0));
        fixture
    }

    fn put(&mut self, key: Vec<u8>) {
        let mut value = vec![0; VALUE_BYTES];
        self.random.fill(&mut value);
        self.keyspace.put(&key, &value).unwrap();
        self.model.insert(key, value);
    }

    fn append(&mut self, series: u32, times: std::ops::Range<u32>) {
        times.for_each(|time| self.put(key(series, time)));
    }

    fn delete_range(&mut self, start: Vec<u8>, end: Vec<u8>) {
        self.keyspace.delete_range(start.clone()..end.clone()).unwrap();
        self.model.retain(|key, _| !(start <= *key && *key < end));
    }

    fn last_and_young(&self) -> (i64, i64) {
        let stats = self.database.stats().unwrap();
        let levels = stats.keyspaces.iter().find(|of| of.name == "a").map(|of| &of.levels);
        let last = levels.and_then(|levels| levels.last()).map_or(0, |level| level.entries);
        (last as i64, stats.young_segments as i64)
    }

    fn flush(&self) -> Flushed {
        let (last, young) = self.last_and_young();
        self.database.flush().unwrap();
        let after = self.last_and_young();
        Flushed { last: after.0 - last, young: after.1 - young }
    }

    fn check(&self) {
        let found = access::collect(self.keyspace.iter().unwrap()).unwrap();
        assert!(same(&found, &self.model), "a scan sees what was written");
        let found = access::collect_back(self.keyspace.iter().unwrap()).unwrap();
        assert!(same(&found, &self.model), "a scan backwards sees what was written");
        for (key, value) in self.model.iter().step_by(7) {
            assert_eq!(self.keyspace.get(key).unwrap().unwrap().as_slice(), value.as_slice());
        }
        assert_eq!(access::verify(&self.database).unwrap(), None);
    }

    fn check_snapshot(&self, snapshot: &Snapshot, model: &Model) {
        let found = access::dump_snapshot(snapshot, &self.keyspace).unwrap();
        assert!(same(&found, model), "a snapshot sees its instant");
    }

    fn reopen(self) -> Fixture {
        let Fixture { database, keyspace, storage, model, random } = self;
        drop(keyspace);
        database.close().unwrap();
        let (database, keyspace) = open(&storage);
        Fixture { database, keyspace, storage, model, random }
    }

    /// Bytes of the last level, after all is merged.
    fn bytes(&self) -> u64 {
        let stats = self.database.stats().unwrap();
        stats.keyspaces[0].levels.iter().map(|level| level.bytes).sum()
    }
}

fn same(found: &BTreeMap<Vec<u8>, Arc<[u8]>>, model: &Model) -> bool {
    found.len() == model.len()
        && found.iter().zip(model).all(|(a, b)| a.0 == b.0 && a.1.as_ref() == b.1.as_slice())
}

#[test]
fn series_that_grow_side_by_side_go_to_the_last_level_at_once() {
    let mut fixture = Fixture::with_series(20, RUN_PAIRS);
    let mut time = 1_000_000 + RUN_PAIRS;
    for _ in 0..5 {
        for at in time..time + RUN_PAIRS {
            (0..20).for_each(|series| fixture.put(key(series, at)));
        }
        time += RUN_PAIRS;
        assert_eq!(fixture.flush(), Flushed { last: i64::from(20 * RUN_PAIRS), young: 0 });
        fixture.check();
    }
    fixture.reopen().check();
}

#[test]
fn keys_in_descending_order_go_to_the_last_level_at_once() {
    let mut fixture = Fixture::with_series(3, RUN_PAIRS);
    for round in 0..5 {
        let start = 999_000 - round * RUN_PAIRS;
        (start..start + RUN_PAIRS).rev().for_each(|time| fixture.put(key(0, time)));
        (start..start + RUN_PAIRS).rev().for_each(|time| fixture.put(key(2, time)));
        assert_eq!(fixture.flush(), Flushed { last: i64::from(2 * RUN_PAIRS), young: 0 });
        fixture.check();
    }
}

#[test]
fn a_tree_of_one_leaf_takes_runs_before_inside_and_behind() {
    let mut fixture = Fixture::new();
    [key(3, 5), key(3, 6), key(5, 5)].into_iter().for_each(|key| fixture.put(key));
    fixture.database.compact().unwrap();
    for series in [4, 2, 6] {
        fixture.append(series, 0..RUN_PAIRS);
        assert_eq!(fixture.flush(), Flushed { last: i64::from(RUN_PAIRS), young: 0 });
        fixture.check();
    }
}

/// The headers of all leaves below a node.
fn leaves(
    core: &Core,
    keyspace: KeyspaceNumber,
    node: &NodeRef,
    height: u8,
    found: &mut Vec<NodeHeader>,
) {
    if height == 0 {
        let frame = core.pages.read_node_uncached(node, NodeKind::Leaf).unwrap();
        found.push(*frame.header());
        return;
    }
    let parent = read_parent(&core.pages, node, keyspace, height).unwrap();
    for index in 0..parent.view().len() {
        let child = parent.child_reference(index).unwrap();
        leaves(core, keyspace, &child, height - 1, found);
    }
}

/// All leaves of the last level are in its form: what is more than a page is compressed. Their
/// bytes as stored, and as they are read.
fn compressed_bytes(database: &Database) -> (u64, u64) {
    let core = database.core().unwrap();
    let (mut found, state) = (Vec::new(), core.state());
    for (keyspace, levels) in &state.levels {
        assert_eq!(levels.iter().count(), 1, "it lies in the last level alone");
        let root = levels.last().and_then(|last| last.points.clone()).unwrap();
        leaves(&core, *keyspace, &root.reference, root.height, &mut found);
    }
    let page_bytes = core.pages.layout().page_size;
    for leaf in &found {
        let saves_nothing = leaf.raw_bytes <= page_bytes;
        assert!(leaf.codec_id() != 0 || saves_nothing, "a leaf is not compressed: {leaf:?}");
    }
    let sum = |bytes: fn(&NodeHeader) -> u32| -> u64 {
        found.iter().map(|leaf| u64::from(bytes(leaf))).sum()
    };
    (sum(|leaf| leaf.stored_bytes), sum(|leaf| leaf.raw_bytes))
}

/// Leaves move unread once they are in the last level: one that was laid down there as memtables
/// are flushed otherwise, not compressed, would stay so for ever.
#[test]
fn what_goes_to_the_last_level_of_a_compressed_keyspace_is_compressed_there() {
    for sorted in [true, false] {
        let setup = Setup { leaf_bytes: 4 << 10, ..setup() };
        let database = setup.builder().open_in_memory().unwrap();
        let options = KeyspaceOptions::default().compression(Compression::Zstd(1));
        let keyspace = database.keyspace_with("a", options).unwrap();
        let mut brought = 0;
        for number in 0..6000_u32 {
            let place = if sorted { number } else { number.wrapping_mul(0x9e37_79b1) };
            let value = format!("{number:0>100}");
            keyspace.put(place.to_be_bytes(), &value).unwrap();
            brought += 4 + value.len() as u64;
            if number % 1000 == 999 {
                database.flush().unwrap();
                let young = database.stats().unwrap().young_segments;
                assert!(!sorted || young == 0, "{young} young segments");
            }
        }
        if !sorted {
            database.compact().unwrap();
        }
        let (stored, raw) = compressed_bytes(&database);
        assert!(raw >= brought, "{raw} bytes in leaves, {brought} were brought");
        assert!(stored * 4 < raw, "sorted {sorted}: {stored} bytes are stored, {raw} are read");
        assert_eq!(database.stats().unwrap().promotions > 0, !sorted);
    }
}

#[test]
fn less_than_a_leaf_between_two_keys_goes_to_the_young_segment_and_makes_no_leaves() {
    let mut fixture = Fixture::with_series(40, RUN_PAIRS);
    let before = fixture.bytes();
    for series in 0..40 {
        fixture.append(series, 2_000_000..2_000_010);
        fixture.append(series, 500_000..500_003);
    }
    assert_eq!(fixture.flush(), Flushed { last: 0, young: 1 });
    assert_eq!(fixture.bytes(), before);
    fixture.check();
}

#[test]
fn a_flush_may_have_runs_and_a_young_segment() {
    let mut fixture = Fixture::with_series(10, RUN_PAIRS);
    fixture.append(2, 2_000_000..2_000_000 + RUN_PAIRS);
    fixture.append(3, 2_000_000..2_000_004);
    fixture.append(5, 1_000_000..1_000_000 + RUN_PAIRS);
    fixture.append(7, 2_000_000..2_000_000 + RUN_PAIRS);
    assert_eq!(fixture.flush(), Flushed { last: i64::from(2 * RUN_PAIRS), young: 1 });
    fixture.check();
    // What is young lies apart from the next runs of the same series, and of others.
    fixture.append(3, 2_000_010..2_000_010 + RUN_PAIRS);
    fixture.append(4, 2_000_000..2_000_000 + RUN_PAIRS);
    assert_eq!(fixture.flush(), Flushed { last: i64::from(2 * RUN_PAIRS), young: 0 });
    fixture.check();
    fixture.database.compact().unwrap();
    fixture.check();
}

#[test]
fn many_rounds_of_runs_of_one_leaf_keep_leaves_and_parents_full() {
    let pairs = (LEAF_BYTES / (VALUE_BYTES + 13)) as u32 + 1;
    let mut fixture = Fixture::with_series(30, pairs);
    for round in 0..12 {
        let from = 2_000_000 + round * pairs;
        (0..30).for_each(|series| fixture.append(series, from..from + pairs));
        assert_eq!(fixture.flush().young, 0);
    }
    fixture.check();
    let taken = fixture.bytes();
    let user: usize = fixture.model.iter().map(|(key, value)| key.len() + value.len()).sum();
    // A fresh build takes 1.2 times what was put; a leaf that misses a page takes two.
    assert!(taken < user as u64 * 2, "{taken} bytes for {user} of the user");
}

#[test]
fn a_key_of_a_young_segment_keeps_a_run_away() {
    let mut fixture = Fixture::with_series(5, RUN_PAIRS);
    fixture.append(2, 2_000_010..2_000_011);
    assert_eq!(fixture.flush(), Flushed { last: 0, young: 1 });
    // The old one lies inside.
    fixture.append(2, 2_000_000..2_000_020);
    assert_eq!(fixture.flush(), Flushed { last: 0, young: 1 });
    fixture.check();
    fixture.database.compact().unwrap();
    fixture.check();
}

#[test]
fn a_range_tombstone_keeps_runs_away_wherever_it_lies() {
    // In the same memtable, before the keys: it has no number in the last level to be newer than.
    let mut fixture = Fixture::with_series(5, RUN_PAIRS);
    fixture.delete_range(key(2, 1_900_000), key(2, 2_000_045));
    fixture.append(2, 2_000_000..2_000_000 + RUN_PAIRS);
    assert_eq!(fixture.flush(), Flushed { last: i64::from(RUN_PAIRS - 45), young: 1 });
    fixture.check();
    // In a young segment.
    fixture.append(2, 1_910_000..1_910_000 + RUN_PAIRS);
    assert_eq!(fixture.flush(), Flushed { last: 0, young: 1 });
    fixture.check();
    // Merged away: the place is free again.
    fixture.database.compact().unwrap();
    fixture.append(2, 1_950_000..1_950_000 + RUN_PAIRS);
    assert_eq!(fixture.flush(), Flushed { last: i64::from(RUN_PAIRS), young: 0 });
    fixture.check();
}

#[test]
fn what_a_snapshot_must_not_see_keeps_out_of_the_last_level() {
    let mut fixture = Fixture::with_series(5, RUN_PAIRS);
    fixture.append(1, 2_000_000..2_000_000 + RUN_PAIRS);
    let (snapshot, model) = (fixture.database.snapshot().unwrap(), fixture.model.clone());
    fixture.append(3, 2_000_000..2_000_000 + RUN_PAIRS);
    fixture.put(key(1, 2_000_010));
    // Series 1 but for the key that has changed; of series 3 nothing.
    assert_eq!(fixture.flush(), Flushed { last: i64::from(RUN_PAIRS - 1), young: 1 });
    fixture.check_snapshot(&snapshot, &model);
    fixture.check();
    // A snapshot of an empty memtable sees nothing that comes into it.
    let (empty, then) = (fixture.database.snapshot().unwrap(), fixture.model.clone());
    fixture.append(4, 2_000_000..2_000_000 + RUN_PAIRS);
    fixture.flush();
    fixture.check_snapshot(&empty, &then);
    fixture.database.compact().unwrap();
    fixture.check_snapshot(&empty, &then);
    fixture.check_snapshot(&snapshot, &model);
    fixture.check();
}

#[test]
fn deletes_inside_a_run_stay_above_it() {
    let mut fixture = Fixture::with_series(5, RUN_PAIRS);
    fixture.append(1, 2_000_000..2_000_000 + RUN_PAIRS);
    fixture.keyspace.delete(key(1, 2_000_030)).unwrap();
    fixture.model.remove(&key(1, 2_000_030));
    assert_eq!(fixture.flush(), Flushed { last: i64::from(RUN_PAIRS - 1), young: 1 });
    fixture.check();
    fixture.database.compact().unwrap();
    fixture.check();
}

#[test]
fn a_transaction_sees_a_conflict_with_a_run_and_none_between_two() {
    let mut fixture = Fixture::with_series(9, RUN_PAIRS);
    let begin = |touched: Vec<u8>| {
        let mut transaction = fixture.database.begin(Isolation::Serializable).unwrap();
        assert!(transaction.get(&fixture.keyspace, &touched).unwrap().is_none());
        transaction.put(&fixture.keyspace, key(8, 5_000_000), b"").unwrap();
        transaction
    };
    let inside = begin(key(2, 2_000_010));
    let between = begin(key(3, 3_000_000));
    (2..=4).step_by(2).for_each(|series| {
        fixture.append(series, 2_000_000..2_000_000 + RUN_PAIRS);
    });
    assert_eq!(fixture.flush(), Flushed { last: i64::from(2 * RUN_PAIRS), young: 0 });
    assert!(matches!(inside.commit(), Err(Error::Conflict)));
    between.commit().unwrap();
}

/// The power goes at any operation of a flush that has runs in many places, and a young segment
/// beside them: what was on disk before stays, and no page is lost.
#[test]
fn a_power_cut_at_any_point_of_a_flush_with_runs_loses_nothing_and_leaks_nothing() {
    let storage = SimulatedStorage::new();
    let database = setup().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut model = Model::new();
    let mut put = |series: u32, times: std::ops::Range<u32>| {
        let mut batch = database.batch();
        for time in times {
            let value = vec![series as u8; VALUE_BYTES];
            batch.put(&keyspace, key(series, time), &value).unwrap();
            model.insert(key(series, time), value);
        }
        batch.commit_with(Durability::Sync).unwrap();
    };
    (0..20).for_each(|series| put(series, 1_000_000..1_000_000 + RUN_PAIRS));
    database.compact().unwrap();
    (0..20).step_by(2).for_each(|series| put(series, 2_000_000..2_000_000 + RUN_PAIRS));
    (1..20).step_by(6).for_each(|series| put(series, 2_000_000..2_000_003));
    put(7, 500_000..500_000 + RUN_PAIRS);
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (Arc::clone(&copies), storage.clone());
    storage.on_operation(Box::new(move |operation| {
        if operation.kind != OperationKind::Read {
            for plan in [CrashPlan::KeepNone, CrashPlan::Random(operation.index)] {
                into.lock().push((operation.index, of.crash_copy(plan)));
            }
        }
    }));
    let entries = |database: &Database| {
        let stats = database.stats().unwrap();
        stats.keyspaces[0].levels.last().unwrap().entries
    };
    let before = entries(&database);
    database.flush().unwrap();
    storage.clear_on_operation();
    assert_eq!(entries(&database) - before, u64::from(11 * RUN_PAIRS), "eleven runs");
    assert_eq!(database.stats().unwrap().young_segments, 1);
    let copies = std::mem::take(&mut *copies.lock());
    assert!(copies.len() > 20, "only {} points", copies.len());
    for (index, copy) in copies {
        let database = setup().open_on(Arc::new(copy)).unwrap();
        let keyspace = database.existing_keyspace("a").unwrap();
        let found = access::collect(keyspace.iter().unwrap()).unwrap();
        assert!(same(&found, &model), "cut before operation {index}");
        // It counts each page's owners.
        assert_eq!(access::verify(&database).unwrap(), None, "cut before operation {index}");
        database.compact().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None, "cut before operation {index}");
    }
}

/// Appends, overwrites, deletes, snapshots, flushes, merges and reopens in random order.
fn random_history(seed: u64) -> i64 {
    let mut fixture = Fixture::new();
    let mut random = Random::from_seed(seed);
    let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
    let (mut ends, mut in_runs) = ([1_000_000; 12], 0);
    for _ in 0..150 {
        let series = random.below(12) as u32;
        match random.below(22) {
            0..8 => {
                let count = 1 + random.below(u64::from(RUN_PAIRS)) as u32;
                let end = &mut ends[series as usize];
                let from = if random.one_in(4) { 2_000_000 - *end - count } else { *end };
                *end += count;
                fixture.append(series, from..from + count);
            }
            8..10 => {
                let first = key(series, 999_900 + random.below(300) as u32);
                let keys = fixture.model.range(first..).map(|(key, _)| key.clone());
                let some: Vec<_> = keys.step_by(3).take(1 + random.below(40) as usize).collect();
                some.into_iter().for_each(|key| fixture.put(key));
            }
            10 => {
                let start = 999_000 + random.below(2000) as u32;
                let end = start + random.below(300) as u32 + 1;
                let last = series + random.below(2) as u32;
                let (start, end) = (key(series, start), key(last, end));
                if start < end {
                    fixture.delete_range(start, end);
                }
            }
            11 => {
                let first = key(series, 1_000_000);
                let keys = fixture.model.range(first..).map(|(key, _)| key.clone());
                let some: Vec<_> = keys.step_by(5).take(9).collect();
                for key in some {
                    fixture.keyspace.delete(&key).unwrap();
                    fixture.model.remove(&key);
                }
            }
            12 => snapshots.push((fixture.database.snapshot().unwrap(), fixture.model.clone())),
            13 => drop(snapshots.pop()),
            14..18 => in_runs += fixture.flush().last.max(0),
            18 | 19 => {
                for _ in 0..random.below(4) {
                    fixture.database.run_step().unwrap();
                }
            }
            20 => fixture.database.compact().unwrap(),
            _ => {
                snapshots.clear();
                fixture = fixture.reopen();
            }
        }
        if random.one_in(12) {
            fixture.check();
            snapshots.iter().for_each(|(at, model)| fixture.check_snapshot(at, model));
        }
    }
    run_all_steps(&fixture.database).unwrap();
    snapshots.clear();
    fixture.database.compact().unwrap();
    fixture.check();
    in_runs
}

#[test]
fn random_histories_of_series_agree_with_the_model() {
    let in_runs: i64 = (0..12).map(random_history).sum();
    assert!(in_runs > 1000, "{in_runs} entries went to the last level at once");
}
