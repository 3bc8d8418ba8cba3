//! Filters of young segments: read at the first need after a reopen, counted, believed only when
//! they are sound.

use std::collections::BTreeMap;

use crash_lsm::setup::Setup;
use sapwood::page::{MemoryPart, NodeKind};
use sapwood::state::Core;
use sapwood::storage::{FaultKind, SimulatedStorage};
use sapwood::sync::{Arc, Clock, Random, thread};
use sapwood::{Database, Durability, Isolation, Keyspace};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of the last level and of the young segments have these remainders by 8; others are absent.
const YOUNG_COUNT: u64 = 3;
const KEYS: u64 = 6400;

fn key(number: u64) -> Vec<u8> {
    format!("{number:08}").into_bytes()
}

/// A file with a last level and young segments over all of it, the newest with a range tombstone;
/// and what it holds.
fn made() -> (Vec<u8>, Map) {
    let storage = SimulatedStorage::new();
    let (database, keyspace) = open(&storage);
    let (mut map, mut random) = (Map::new(), Random::from_seed(5));
    for round in 0..=YOUNG_COUNT {
        for number in (round..KEYS).step_by(8) {
            let mut value = vec![0; 60];
            random.fill(&mut value);
            keyspace.put(key(number), &value).unwrap();
            map.insert(key(number), value);
        }
        if round == YOUNG_COUNT {
            keyspace.delete_range(key(1000)..key(1200)).unwrap();
            map.retain(|at, _| *at < key(1000) || *at >= key(1200));
        }
        database.flush().unwrap();
        if round == 0 {
            database.wait_until_idle().unwrap();
        }
    }
    database.close().unwrap();
    (storage.image(), map)
}

/// Time stands still, so that nothing is merged because writes pause.
fn open(storage: &SimulatedStorage) -> (Database, Keyspace) {
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let builder = setup.builder().durability(Durability::Memory).clock(Clock::fake().0);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

fn reopened(image: &[u8]) -> (SimulatedStorage, Database, Keyspace, Arc<Core>) {
    let storage = SimulatedStorage::from_image(image.to_vec());
    let (database, keyspace) = open(&storage);
    let core = database.core().unwrap();
    assert!(core.state().young.len() as u64 >= YOUNG_COUNT);
    (storage, database, keyspace, core)
}

fn read_count(core: &Core, kind: NodeKind) -> u64 {
    core.pages.counters().nodes_read[kind.index()]
}

fn filter_bytes(core: &Core) -> u64 {
    core.pages.budget().part(MemoryPart::Filters)
}

/// Ten bits for each of the keys, rounded up to lines.
fn expected_bytes(core: &Core) -> std::ops::Range<u64> {
    let state = core.state();
    let points = state.young.iter().filter_map(|young| young.points.as_ref());
    let least = points.map(|root| root.entries * 10 / 8).sum::<u64>();
    least..least + state.young.len() as u64 * 64
}

/// What [`at_hand`] says when all filters are in memory, or none.
fn all(core: &Core, at_hand: bool) -> Vec<bool> {
    vec![at_hand; core.state().young.len()]
}

fn at_hand(core: &Core) -> Vec<bool> {
    core.state().young.iter().map(|young| young.filter.is_at_hand()).collect()
}

fn ask_all(keyspace: &Keyspace, map: &Map, step: usize) {
    for number in (0..KEYS + 8).step_by(step) {
        let found = keyspace.get(key(number)).unwrap().map(|value| value.to_vec());
        assert_eq!(found.as_ref(), map.get(&key(number)), "key {number}");
    }
}

#[test]
fn absent_keys_are_answered_without_leaves_after_a_reopen() {
    let (image, map) = made();
    let (_, _database, keyspace, core) = reopened(&image);
    assert_eq!(filter_bytes(&core), 0);
    let nodes: usize = core.state().young.iter().map(|young| young.filter.nodes.len()).sum();
    let leaves = read_count(&core, NodeKind::Leaf);
    // Of few enough keys a hundredth passes each filter.
    for number in (0..KEYS).step_by(11).filter(|number| number % 8 > YOUNG_COUNT) {
        assert_eq!(keyspace.get(key(number)).unwrap(), None);
    }
    let leaves = read_count(&core, NodeKind::Leaf) - leaves;
    let state = core.state();
    let there = state.young.iter().filter_map(|young| young.points.as_ref());
    let there = there.map(|root| root.leaves).sum::<u64>();
    assert!(there > 150 && leaves < 40, "{leaves} of {there} leaves were read");
    assert_eq!(read_count(&core, NodeKind::YoungFilter), nodes as u64);
    let counted = filter_bytes(&core);
    assert!(expected_bytes(&core).contains(&counted), "{counted} bytes");
    ask_all(&keyspace, &map, 1);
    assert_eq!(read_count(&core, NodeKind::YoungFilter), nodes as u64, "they are read once");
    assert_eq!(filter_bytes(&core), counted);
}

#[test]
fn threads_that_ask_at_once_agree_and_keep_one_copy_of_each_filter() {
    let (image, map) = made();
    let map = Arc::new(map);
    let (_, _database, keyspace, core) = reopened(&image);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (keyspace, map) = (keyspace.clone(), map.clone());
            thread::spawn("reader", move || ask_all(&keyspace, &map, 7)).unwrap()
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(at_hand(&core), all(&core, true));
    let counted = filter_bytes(&core);
    assert!(expected_bytes(&core).contains(&counted), "{counted} bytes");
}

#[test]
fn a_flipped_bit_in_a_filter_changes_no_answer_and_is_met_once() {
    let (image, map) = made();
    let nodes: Vec<_> = {
        let (_, _database, _, core) = reopened(&image);
        let layout = core.pages.layout();
        let state = core.state();
        let nodes = state.young.iter().map(|young| young.filter.nodes[0]);
        nodes.map(|node| layout.offset_of(node.page)).collect()
    };
    let mut random = Random::from_seed(8);
    for (which, offset) in nodes.into_iter().enumerate() {
        for round in 0..6 {
            let mut damaged = image.clone();
            let byte = if round == 0 { 0 } else { random.below(900) };
            damaged[(offset + byte) as usize] ^= 1 << random.below(8);
            let (_, _database, keyspace, core) = reopened(&damaged);
            ask_all(&keyspace, &map, 3);
            let mut expected = all(&core, true);
            expected[which] = false;
            assert_eq!(at_hand(&core), expected, "byte {byte} of filter {which}");
            let read = read_count(&core, NodeKind::YoungFilter);
            ask_all(&keyspace, &map, 5);
            assert_eq!(read_count(&core, NodeKind::YoungFilter), read, "it is read again");
        }
    }
}

#[test]
fn a_filter_that_could_not_be_read_is_asked_for_again() {
    let (image, map) = made();
    for nth in 1..12 {
        let (storage, _database, keyspace, core) = reopened(&image);
        storage.fail_at(FaultKind::Read, nth, true, std::io::ErrorKind::Other);
        // It may have been another node that could not be read.
        if let Ok(value) = keyspace.get(key(8)) {
            assert_eq!(value.map(|v| v.to_vec()).as_ref(), map.get(&key(8)), "read {nth} failed");
        }
        storage.clear_faults();
        ask_all(&keyspace, &map, 9);
        assert_eq!(at_hand(&core), all(&core, true), "read {nth} failed");
    }
    let (storage, _database, keyspace, core) = reopened(&image);
    // All reads fail but those of what is in memory.
    storage.fail_at(FaultKind::Read, 1, false, std::io::ErrorKind::Other);
    assert!(keyspace.get(key(8)).is_err(), "the tree is searched, and cannot be read");
    assert_eq!((at_hand(&core), filter_bytes(&core)), (all(&core, false), 0));
    storage.clear_faults();
    ask_all(&keyspace, &map, 9);
    assert_eq!(at_hand(&core), all(&core, true));
}

#[test]
fn a_failed_read_of_a_filter_is_no_error_of_the_lookup() {
    let (image, map) = made();
    let (storage, _database, keyspace, core) = reopened(&image);
    // Everything but filters is in memory afterwards.
    let budget = core.pages.budget();
    let room = budget.charge(MemoryPart::Filters, budget.total() / 8);
    ask_all(&keyspace, &map, 1);
    assert_eq!(read_count(&core, NodeKind::YoungFilter), 0, "there is no room for them");
    assert_eq!(at_hand(&core), all(&core, false));
    drop(room);
    storage.fail_at(FaultKind::Read, 1, false, std::io::ErrorKind::Other);
    ask_all(&keyspace, &map, 1);
    assert_eq!((at_hand(&core), filter_bytes(&core)), (all(&core, false), 0));
    storage.clear_faults();
    ask_all(&keyspace, &map, 1);
    assert_eq!(at_hand(&core), all(&core, true));
}

#[test]
fn the_budget_is_given_back_when_the_last_reader_of_a_dead_segment_is_gone() {
    let (image, map) = made();
    let (_, database, keyspace, core) = reopened(&image);
    ask_all(&keyspace, &map, 50);
    let counted = filter_bytes(&core);
    assert!(counted > 0);
    let snapshot = database.snapshot().unwrap();
    database.wait_until_idle().unwrap();
    assert!(core.state().young.is_empty());
    assert_eq!(filter_bytes(&core), counted, "the snapshot's state has the segments");
    drop(snapshot);
    // What was let go of is collected with the next piece of work.
    database.run_step().unwrap();
    assert_eq!(filter_bytes(&core), 0);
    ask_all(&keyspace, &map, 1);
    // A flush counts its filter, and gives it back when it is merged.
    for number in (0..KEYS).step_by(3) {
        keyspace.put(key(number), b"new").unwrap();
    }
    database.flush().unwrap();
    assert!(filter_bytes(&core) >= (KEYS / 3) * 10 / 8);
    database.wait_until_idle().unwrap();
    assert_eq!(filter_bytes(&core), 0);
}

#[test]
fn filters_of_transactions_larger_than_memory_are_counted_and_given_back() {
    let storage = SimulatedStorage::new();
    let setup = Setup { region_bytes: 1 << 20, transaction_bytes: Some(4096), ..Setup::tiny() };
    let database = setup.builder().open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let core = database.core().unwrap();
    for commits in [false, true] {
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        for number in 0..KEYS {
            transaction.put(&keyspace, key(number), b"value").unwrap();
        }
        let counted = filter_bytes(&core);
        // Ten bits for each key that was spilled, which are nearly all.
        assert!(counted > KEYS * 9 / 8, "{counted} bytes");
        for number in (0..KEYS).step_by(11) {
            assert!(transaction.get(&keyspace, key(number)).unwrap().is_some());
        }
        if commits {
            transaction.commit().unwrap();
            let after = filter_bytes(&core);
            assert!(after > KEYS * 9 / 8, "{after} of {counted} bytes: the database has them now");
            database.flush().unwrap();
            database.wait_until_idle().unwrap();
        } else {
            transaction.rollback();
        }
        assert_eq!(filter_bytes(&core), 0);
    }
}

/// A node of a filter had 128 KiB and a header, which no region of 128 KiB takes: such a memtable
/// could never be flushed, and no database with one be closed.
#[test]
fn a_long_filter_fits_the_smallest_regions() {
    const KEYS: u32 = 108_000;
    let builder = Database::builder().memory_budget(128 << 20).merge_threads(0);
    let builder = builder.page_size(1024).region_bytes(128 << 10).durability(Durability::Memory);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for value in [b"old", b"new"] {
        let mut batch = database.batch();
        for number in 0..KEYS {
            batch.put(&keyspace, number.to_be_bytes(), value).unwrap();
        }
        batch.commit().unwrap();
        database.flush().unwrap();
    }
    let core = database.core().unwrap();
    let state = core.state();
    let filter = &state.young.first().unwrap().filter;
    assert!(filter.nodes.len() > 4, "{} nodes", filter.nodes.len());
    for number in (0..KEYS).step_by(997) {
        assert_eq!(keyspace.get(number.to_be_bytes()).unwrap().unwrap(), "new");
    }
    assert!(keyspace.get("absent").unwrap().is_none());
    drop(state);
    assert_eq!(crash_lsm::access::verify(&database).unwrap(), None);
    database.close().unwrap();
}
