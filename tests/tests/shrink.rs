//! The file at rest: it is little longer than what it holds, and a power cut while it shrinks loses
//! nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::hooked::HookedStorage;
use sapwood::state::durable::{Purpose, make_durable};
use sapwood::storage::{CrashPlan, MemoryStorage, OperationKind, SimulatedStorage, Storage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, Mutex, Random};
use sapwood::{
    Builder, Compression, Database, Durability, Error, Keyspace, KeyspaceOptions, PageNumber,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Header, maps, and the smallest log.
const CONSTANT_BYTES: u64 = 2 << 20;

fn builder(budget_bytes: u64) -> Builder {
    Database::builder()
        .memory_budget(budget_bytes)
        .merge_threads(0)
        .durability(Durability::Buffered)
}

/// Pairs in random order; values half of which can be compressed.
fn load(keyspace: &Keyspace, model: &mut Model, count: u64, seed: u64) {
    let mut random = Random::from_seed(seed);
    for _ in 0..count {
        let key = (random.below(count).wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes();
        let mut value = vec![0; 100];
        random.fill(&mut value[..50]);
        keyspace.put(key, &value).unwrap();
        model.insert(key.to_vec(), value);
    }
}

fn live_bytes(database: &Database) -> u64 {
    let report = database.verify(&mut ()).unwrap();
    report.live_pages * u64::from(report.page_size)
}

fn assert_small(database: &Database, storage: &dyn Storage, when: &str) {
    database.wait_until_idle().unwrap();
    assert_eq!(access::verify(database).unwrap(), None, "{when}");
    let (live, length) = (live_bytes(database), storage.length().unwrap());
    println!("{when}: {live} live, {length} in the file");
    assert!(length <= live + live / 4 + CONSTANT_BYTES, "{when}: {live} live, {length} in all");
}

fn assert_holds(keyspace: &Keyspace, model: &Model) {
    let mut pairs = keyspace.iter().unwrap();
    for (key, value) in model {
        let (k, v) = pairs.next().unwrap().unwrap();
        assert!(k.as_slice() == key && v.as_slice() == value);
    }
    assert!(pairs.next().is_none());
}

#[test]
fn at_rest_the_file_is_little_longer_than_what_it_holds() {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut model = Model::new();
    load(&keyspace, &mut model, 60_000, 1);
    assert_small(&database, &*storage, "after the load");
    for round in 2..5 {
        load(&keyspace, &mut model, 60_000, round);
    }
    assert_small(&database, &*storage, "after overwriting");
    assert_holds(&keyspace, &model);
    let mut random = Random::from_seed(9);
    for key in model.keys().cloned().collect::<Vec<_>>() {
        if !random.one_in(10) {
            keyspace.delete(&key).unwrap();
            model.remove(&key);
        }
    }
    assert_small(&database, &*storage, "after deleting");
    // Nothing is done again at rest.
    let states = database.stats().unwrap().durable_states;
    assert!(!database.run_step().unwrap());
    database.wait_until_idle().unwrap();
    assert_eq!(database.stats().unwrap().durable_states, states);
    drop(keyspace);
    database.close().unwrap();
    let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
    assert_holds(&database.existing_keyspace("a").unwrap(), &model);
    assert_small(&database, &*storage, "after opening again");
}

#[test]
fn large_values_in_the_tail_move_too() {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut model = Model::new();
    let mut random = Random::from_seed(3);
    for n in 0..400_u32 {
        let mut value = vec![0; 30_000 + (n as usize % 7) * 9000];
        random.fill(&mut value);
        keyspace.put(n.to_be_bytes(), &value).unwrap();
        model.insert(n.to_be_bytes().to_vec(), value);
    }
    database.wait_until_idle().unwrap();
    for n in 0..360_u32 {
        keyspace.delete(n.to_be_bytes()).unwrap();
        model.remove(n.to_be_bytes().as_slice());
    }
    assert_small(&database, &*storage, "after deleting large values");
    assert_holds(&keyspace, &model);
}

/// A tree of one leaf has no list of its values, and the leaf itself may lie before them.
#[test]
fn large_values_of_a_lone_leaf_in_the_tail_move_too() {
    let storage = Arc::new(MemoryStorage::new());
    // It stands still, so that nothing moves before somebody waits for that.
    let builder = builder(16 << 20).clock(Clock::fake().0);
    let database = builder.open_on(Arc::clone(&storage) as _).unwrap();
    let (many, few) = (database.keyspace("many").unwrap(), database.keyspace("few").unwrap());
    let mut random = Random::from_seed(6);
    let mut value = vec![0; 1 << 20];
    for n in 0..20_u32 {
        random.fill(&mut value);
        many.put(n.to_be_bytes(), &value).unwrap();
    }
    let steps = || {
        database.flush().unwrap();
        while database.run_step().unwrap() {}
        make_durable(&database.core().unwrap(), Purpose::Running).unwrap();
    };
    steps();
    few.put("large", &value).unwrap();
    steps();
    drop(many);
    database.drop_keyspace("many").unwrap();
    steps();
    let core = database.core().unwrap();
    core.pages.allocator().set_ceiling(Some(PageNumber(2000)));
    for n in 0..4_u32 {
        few.put(n.to_be_bytes(), "small").unwrap();
        steps();
    }
    core.pages.allocator().set_ceiling(None);
    let state = core.state();
    let leaf = state.levels.values().last().unwrap().last().unwrap().points.clone().unwrap();
    assert!(leaf.height == 0 && leaf.reference.page.0 < 2000, "{leaf:?}");
    drop(state);
    assert_small(&database, &*storage, "one leaf is left, and its value");
    assert!(few.get("large").unwrap().unwrap() == value.as_slice());
}

/// What moves is written again: as the keyspace says of values, not of leaves.
#[test]
fn values_that_move_stay_compressed_or_plain_as_their_keyspace_says() {
    let default = KeyspaceOptions::default();
    let plain = Compression::None;
    for (options, is_compressed) in
        [(default.compression(plain), true), (default.value_compression(plain), false)]
    {
        let storage = Arc::new(MemoryStorage::new());
        let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
        let keyspace = database.keyspace_with("a", options).unwrap();
        let mut model = Model::new();
        let mut random = Random::from_seed(8);
        for n in 0..300_u32 {
            let mut value = vec![0; 100_000];
            random.fill(&mut value[..20_000]);
            keyspace.put(n.to_be_bytes(), &value).unwrap();
            model.insert(n.to_be_bytes().to_vec(), value);
        }
        database.wait_until_idle().unwrap();
        let each = live_bytes(&database) / 300;
        for n in 0..270_u32 {
            keyspace.delete(n.to_be_bytes()).unwrap();
            model.remove(n.to_be_bytes().as_slice());
        }
        let before = storage.length().unwrap();
        assert_small(&database, &*storage, "after deleting values");
        assert!(storage.length().unwrap() < before / 2, "nothing has moved");
        let now = live_bytes(&database) / 30;
        assert_eq!(each < 50_000, is_compressed, "{each} bytes each");
        assert!(now < each + each / 4 && each < now + now / 4, "{each} bytes each, {now} now");
        assert_holds(&keyspace, &model);
    }
}

/// A device that refuses to read a place goes on refusing: what lies there stays, and what others
/// have in the tail moves.
#[test]
fn what_the_device_refuses_to_read_keeps_neither_others_nor_rest_away() {
    let memory = Arc::new(MemoryStorage::new());
    let open = |storage: Arc<dyn Storage>| {
        let (clock, hand) = Clock::fake();
        (builder(16 << 20).clock(clock).open_on(storage).unwrap(), hand)
    };
    let (database, _) = open(Arc::clone(&memory) as _);
    let mut model = Model::new();
    for (name, count) in [("first", 60_000), ("refused", 20_000), ("moved", 40_000)] {
        model.clear();
        load(&database.keyspace(name).unwrap(), &mut model, count, 9);
        database.wait_until_idle().unwrap();
    }
    let state = database.core().unwrap().state();
    let levels = state.levels.values().nth(1).unwrap();
    let root = levels.last().unwrap().points.as_ref().unwrap().reference.page.0;
    drop(state);
    database.close().unwrap();
    let before = memory.length().unwrap();
    let refused = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&refused);
    let storage = HookedStorage::new(Arc::clone(&memory) as _, move |kind, offset| {
        if kind == OperationKind::Read && offset == root * 4096 {
            counted.fetch_add(1, Ordering::Relaxed);
            return Err(std::io::ErrorKind::Other.into());
        }
        Ok(())
    });
    let (database, hand) = open(Arc::new(storage));
    database.existing_keyspace("first").unwrap().delete_range::<&[u8]>(..).unwrap();
    hand.advance(Duration::from_secs(60));
    let (mut errors, mut rests, mut steps) = (0, 0, 0);
    while rests < 20 {
        match database.run_step() {
            Ok(true) => steps += 1,
            Ok(false) => rests += 1,
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "{error}");
                errors += 1;
            }
        }
        hand.advance(Duration::from_secs(1));
        assert!(steps < 10_000 && errors < 10, "{steps} steps, {errors} errors: it never rests");
    }
    assert!(errors > 0 && refused.load(Ordering::Relaxed) > 0, "nothing was refused");
    let rest = memory.length().unwrap();
    assert!(rest < before * 4 / 5, "{rest} of {before} bytes are left");
    assert_holds(&database.existing_keyspace("moved").unwrap(), &model);
}

#[test]
fn a_value_much_longer_than_a_step_moves_where_there_is_room_for_all_of_it() {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder(16 << 20).step_bytes(256 << 10).open_on(Arc::clone(&storage) as _);
    let database = database.unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut model = Model::new();
    load(&keyspace, &mut model, 80_000, 4);
    let mut value = vec![0; 2 << 20];
    Random::from_seed(5).fill(&mut value);
    keyspace.put_stream("long", value.as_slice()).unwrap();
    database.wait_until_idle().unwrap();
    keyspace.delete_range::<&[u8]>(.."long".as_bytes()).unwrap();
    keyspace.delete_range::<&[u8]>("longer".as_bytes()..).unwrap();
    assert_small(&database, &*storage, "the long value alone is left");
    let mut read = Vec::new();
    let mut stream = keyspace.get_stream("long").unwrap().unwrap();
    std::io::Read::read_to_end(&mut stream, &mut read).unwrap();
    assert!(read == value, "it was moved, and is another now");
}

#[test]
fn a_file_is_cut_at_the_close() {
    let storage = Arc::new(MemoryStorage::new());
    let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    load(&keyspace, &mut Model::new(), 30_000, 1);
    database.wait_until_idle().unwrap();
    keyspace.delete_range::<&str>(..).unwrap();
    database.flush().unwrap();
    let before = storage.length().unwrap();
    drop(keyspace);
    database.close().unwrap();
    let after = storage.length().unwrap();
    println!("{before} bytes before the close, {after} after it");
    assert!(after < before / 4 * 3, "{before} bytes before the close, {after} after it");
    let database = builder(16 << 20).open_on(Arc::clone(&storage) as _).unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// Many series that grow side by side leave leaves that are not full, and holes that are too
/// small for any leaf, wherever flushes go to the last level at once.
#[test]
fn series_rest_in_little_more_than_the_same_pairs_in_order() {
    let at_rest = |in_order: bool| {
        let storage = Arc::new(MemoryStorage::new());
        let database = builder(12 << 20).open_on(Arc::clone(&storage) as _).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let (series, times) = (190_u64, 900_u64);
        let mut random = Random::from_seed(5);
        for number in 0..series * times {
            let (of, time) = match in_order {
                true => (number / times, number % times),
                false => (number % series, number / series),
            };
            let mut value = vec![b'v'; 100];
            random.fill(&mut value[..50]);
            keyspace.put([of.to_be_bytes(), time.to_be_bytes()].concat(), &value).unwrap();
        }
        database.wait_until_idle().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
        // Nothing is done again at rest.
        let states = database.stats().unwrap().durable_states;
        database.wait_until_idle().unwrap();
        assert_eq!(database.stats().unwrap().durable_states, states);
        (storage.length().unwrap(), live_bytes(&database))
    };
    let (sorted, sorted_live) = at_rest(true);
    let (length, live) = at_rest(false);
    println!("series: {live} live in {length}; in order: {sorted_live} live in {sorted}");
    assert!(live * 100 <= sorted_live * 115, "{live} bytes live, {sorted_live} in order");
    assert!(length * 4 <= sorted * 5, "{length} bytes at rest, {sorted} in order");
}

/// Every operation on the file from the first step at rest on is one after which the power may go.
#[test]
fn a_power_cut_at_any_point_of_the_shrinking_loses_nothing() {
    let storage = SimulatedStorage::new();
    let options = || builder(4 << 20).page_size(1024).log_bytes_min(64 << 10).step_bytes(64 << 10);
    let database = options().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut model = Model::new();
    for round in 0..3 {
        load(&keyspace, &mut model, 5000, round);
        database.flush().unwrap();
    }
    let kept: Model = model.iter().step_by(10).map(|(k, v)| (k.clone(), v.clone())).collect();
    for key in model.keys().filter(|key| !kept.contains_key(*key)) {
        keyspace.delete(key).unwrap();
    }
    database.flush().unwrap();
    let before = storage.length().unwrap();
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (handle, into) = (storage.clone(), Arc::clone(&copies));
    storage.on_operation(Box::new(move |operation| {
        if !matches!(operation.kind, OperationKind::Read) {
            let mut copies = into.lock();
            let plan = match operation.index % 4 {
                0 => CrashPlan::KeepNone,
                1 => CrashPlan::KeepAll,
                _ => CrashPlan::Random(operation.index),
            };
            copies.push((operation.index, handle.crash_copy(plan)));
        }
    }));
    database.wait_until_idle().unwrap();
    storage.clear_on_operation();
    assert!(storage.length().unwrap() < before);
    let copies = std::mem::take(&mut *copies.lock());
    println!("{} points, {before} bytes before, {} after", copies.len(), storage.length().unwrap());
    for (index, copy) in copies {
        let database = options().open_on(Arc::new(copy.clone())).unwrap();
        let keyspace = database.existing_keyspace("a").unwrap();
        assert_holds(&keyspace, &kept);
        assert_eq!(access::verify(&database).unwrap(), None, "cut before operation {index}");
        // It goes on from there.
        if index % 8 == 0 {
            keyspace.put("new", "pair").unwrap();
            database.wait_until_idle().unwrap();
            assert_eq!(access::verify(&database).unwrap(), None, "cut before operation {index}");
        }
    }
}

/// A few keys, overwritten until the log is long; then the log is most of what the file holds, and
/// there is no room for two of them below the ceiling.
#[test]
fn a_long_log_of_a_small_database_leaves_the_tail() {
    for rounds in [150, 400, 650] {
        let builder = Database::builder().memory_budget(16 << 20).merge_threads(0);
        let database = builder.durability(Durability::Memory).open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let overwrite = |round: u64| {
            let mut batch = database.batch();
            for number in 0..1000u64 {
                let value = (round << 20 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                batch.put(&keyspace, number.to_be_bytes(), value.to_le_bytes()).unwrap();
            }
            batch.commit().unwrap();
        };
        overwrite(0);
        database.wait_until_idle().unwrap();
        let before = database.stats().unwrap().file_bytes;
        (1..rounds).for_each(overwrite);
        let full = database.stats().unwrap().file_bytes;
        assert!(full > 4 * before, "{before} bytes, then {full}");
        database.wait_until_idle().unwrap();
        let after = database.stats().unwrap().file_bytes;
        let most = before + before / 10 + (256 << 10);
        assert!(after <= most, "{rounds} rounds: {before} bytes before, {after} after");
    }
}

/// The log's last block came to lie behind everything, with a hole for it before: of a file of a
/// megabyte that was a fifth, and less than the slack that a round needs.
#[test]
fn a_small_file_is_as_long_as_before_when_the_snapshot_of_its_overwrites_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.db");
    let length = || std::fs::metadata(&path).unwrap().len();
    let database = Database::open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(6);
    let mut overwrite = || {
        let mut batch = database.batch();
        for number in 0..1000_u64 {
            let mut value = [b'v'; 100];
            random.fill(&mut value[..8]);
            batch.put(&keyspace, format!("{number:016}"), value).unwrap();
        }
        batch.commit_with(Durability::Buffered).unwrap();
    };
    overwrite();
    database.wait_until_idle().unwrap();
    let before = length();
    let snapshot = database.snapshot().unwrap();
    (0..100).for_each(|_| overwrite());
    database.wait_until_idle().unwrap();
    drop(snapshot);
    database.wait_until_idle().unwrap();
    let after = length();
    assert!(after <= before + before / 16, "{before} bytes before, {after} after");
    assert_eq!(access::verify(&database).unwrap(), None);
    database.close().unwrap();
    assert!(length() <= after);
}
