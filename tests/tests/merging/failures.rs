//! Every read, write and growth of a merge or flush fails once: all is given back, and the same is
//! done again.

use crate::lab::{Lab, Map, builder, key, value};
use sapwood::merge::verify::DeathCheck;
use sapwood::state::State;
use sapwood::storage::{FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Random};
use sapwood::{Error, KeyspaceNumber};

/// A file with a last level, young segments, values in blocks of their own, tombstones of both
/// kinds, and a keyspace that is dropped but not merged away.
pub struct Prepared {
    pub image: Vec<u8>,
    pub maps: Vec<(String, Map)>,
    /// Without it nothing but what is done makes the file grow.
    pub has_reserve: bool,
}

fn prepare() -> Prepared {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    let mut random = Random::from_seed(3);
    lab.create();
    lab.create();
    lab.create();
    for number in 0..900 {
        let bytes = value(&mut random, 100);
        lab.put(0, &key(number), &bytes);
    }
    for number in 0..3 {
        let bytes = value(&mut random, 5000);
        lab.put(0, &key(number * 300), &bytes);
        lab.put(2, &key(number), &bytes);
    }
    lab.database.wait_until_idle().unwrap();
    for round in 0..3 {
        for number in 0..12 {
            let bytes = value(&mut random, if number == 7 { 4000 } else { 90 });
            lab.put(0, &key(round * 200 + number * 60), &bytes);
            lab.put(1, &key(number), &bytes);
        }
        lab.delete(0, &key(round * 100 + 5));
        lab.delete_range(0, &key(round * 250 + 130), &key(round * 250 + 260));
        lab.database.flush().unwrap();
    }
    let (dropped, _) = lab.keyspaces.remove(2);
    lab.database.drop_keyspace(&dropped.name()).unwrap();
    let maps = lab.keyspaces.iter().map(|(keyspace, map)| (keyspace.name(), map.clone()));
    let maps = maps.collect();
    let Lab { database, core, .. } = lab;
    drop(core);
    database.close().unwrap();
    Prepared { image: storage.image(), maps, has_reserve: true }
}

impl Prepared {
    /// Opened, and written to: what an open does before its first write is over.
    pub fn open(&self, storage: &SimulatedStorage) -> Lab {
        let (builder, hand) = builder();
        let builder = if self.has_reserve { builder } else { builder.reserve_bytes(0) };
        let mut lab = Lab::open_with((builder, hand), Arc::new(storage.clone()));
        for (name, map) in &self.maps {
            let keyspace = lab.database.existing_keyspace(name).unwrap();
            lab.keyspaces.push((keyspace, map.clone()));
        }
        // The check of installs reads, and its reads would fail instead.
        *lab.core.install_check.lock() = None;
        lab.put(1, b"first", b"write");
        lab.database.flush().unwrap();
        lab
    }
}

/// What is done with a fault in it.
type Work = fn(&Lab) -> sapwood::Result<()>;

fn merge(lab: &Lab) -> sapwood::Result<()> {
    lab.database.wait_until_idle()
}

fn flush(lab: &Lab) -> sapwood::Result<()> {
    lab.database.flush()
}

/// How many operations of a kind the work takes when nothing fails.
fn count(prepared: &Prepared, begin: fn(&mut Lab), work: Work, kind: OperationKind) -> u64 {
    let storage = SimulatedStorage::from_image(prepared.image.clone());
    let mut lab = prepared.open(&storage);
    begin(&mut lab);
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    storage.on_operation(Box::new(move |operation| {
        if operation.kind == kind {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }));
    work(&lab).unwrap();
    storage.clear_on_operation();
    count.load(Ordering::Relaxed)
}

/// Lets each operation of a kind fail in turn; returns how many did, and how often writing stopped.
fn fail_each(
    prepared: &Prepared,
    begin: fn(&mut Lab),
    work: Work,
    (counted, kind): (OperationKind, FaultKind),
) -> (u64, u64) {
    let total = count(prepared, begin, work, counted);
    let (mut failed, mut stopped) = (0, 0);
    for nth in 1..=total {
        let storage = SimulatedStorage::from_image(prepared.image.clone());
        let mut lab = prepared.open(&storage);
        begin(&mut lab);
        storage.fail_at(kind, nth, true, std::io::ErrorKind::Other);
        let result = work(&lab);
        storage.clear_faults();
        if let Err(error) = result {
            failed += 1;
            assert!(matches!(error, Error::Io { .. } | Error::Stopped(_)), "{nth}: {error}");
            lab.compare();
            if lab.core.has_stopped() {
                stopped += 1;
                assert!(matches!(lab.database.flush(), Err(Error::Stopped(_))), "{nth}");
                lab = reopened(lab, &storage);
            } else {
                let findings = DeathCheck::start(&lab.core);
                lab.findings = findings;
            }
        }
        work(&lab).unwrap();
        lab.compare();
        lab.database.wait_until_idle().unwrap();
        lab.compare();
        lab.check_at_rest();
    }
    (failed, stopped)
}

/// The process ends, and the file is opened again.
fn reopened(lab: Lab, storage: &SimulatedStorage) -> Lab {
    let maps: Vec<(String, Map)> =
        lab.keyspaces.iter().map(|(keyspace, map)| (keyspace.name(), map.clone())).collect();
    let killed = storage.kill();
    drop(lab);
    let mut lab = Lab::open_on(Arc::new(killed));
    for (name, map) in maps {
        let keyspace = lab.database.existing_keyspace(&name).unwrap();
        lab.keyspaces.push((keyspace, map));
    }
    lab.compare();
    lab
}

const READS: (OperationKind, FaultKind) = (OperationKind::Read, FaultKind::Read);
const WRITES: (OperationKind, FaultKind) = (OperationKind::Write, FaultKind::Write);
const SYNCS: (OperationKind, FaultKind) = (OperationKind::Sync, FaultKind::Sync);

fn nothing(_: &mut Lab) {}

#[test]
fn a_merge_of_which_any_read_fails_leaks_nothing_and_is_made_again() {
    let (failed, stopped) = fail_each(&prepare(), nothing, merge, READS);
    assert!(failed > 30, "{failed} reads failed");
    assert_eq!(stopped, 0, "a read that fails is no reason to stop writing");
}

#[test]
fn a_merge_of_which_any_write_fails_leaks_nothing_and_is_made_again() {
    let (failed, stopped) = fail_each(&prepare(), nothing, merge, WRITES);
    assert!(failed > 4, "{failed} writes failed");
    // The others are writes of a durable state: what is on disk is not known then.
    assert!(stopped < failed, "writing stopped {stopped} times of {failed}");
}

#[test]
fn a_merge_of_which_any_sync_fails_stops_and_opens_again_with_everything() {
    let (failed, stopped) = fail_each(&prepare(), nothing, merge, SYNCS);
    assert!(failed > 0);
    assert_eq!(failed, stopped, "what is on disk after a failed sync is not known");
}

/// Something of everything waits in memory.
fn fill_memory(lab: &mut Lab) {
    let mut random = Random::from_seed(4);
    for number in 0..150 {
        let bytes = value(&mut random, if number % 50 == 7 { 4000 } else { 90 });
        lab.put(0, &key(number * 6), &bytes);
        // Behind all others: a run in final form.
        lab.put(1, format!("run {number:05}").as_bytes(), &bytes);
    }
    let bytes = value(&mut random, 70_000);
    lab.put(0, &key(3), &bytes);
    lab.put(0, &key(3), b"short");
    lab.put(0, &key(4), &bytes);
    lab.delete(0, &key(10));
}

#[test]
fn a_flush_of_which_any_read_or_write_fails_leaks_nothing_and_is_made_again() {
    let prepared = prepare();
    let (failed, stopped) = fail_each(&prepared, fill_memory, flush, WRITES);
    assert!(failed > 8 && stopped < failed, "{failed} writes failed, {stopped} stopped");
    let (_, stopped) = fail_each(&prepared, fill_memory, flush, READS);
    assert_eq!(stopped, 0);
    let (failed, stopped) = fail_each(&prepared, fill_memory, flush, SYNCS);
    assert!(failed > 0 && stopped == failed);
}

/// The file has no free page, so that it must grow.
fn fill_memory_and_file(lab: &mut Lab) {
    fill_memory(lab);
    let allocator = lab.core.pages.allocator();
    while allocator.stats().free_pages > 0 {
        lab.taken.push(allocator.allocate(1, 0).unwrap());
    }
}

#[test]
fn a_flush_and_a_merge_that_cannot_grow_the_file_leak_nothing_and_are_made_again() {
    let prepared = Prepared { has_reserve: false, ..prepare() };
    for work in [flush as Work, merge] {
        let total = count(&prepared, fill_memory_and_file, work, OperationKind::Allocate);
        assert!(total > 0);
        for nth in 1..=total {
            let storage = SimulatedStorage::from_image(prepared.image.clone());
            let mut lab = prepared.open(&storage);
            fill_memory_and_file(&mut lab);
            storage.fail_at(FaultKind::Allocate, nth, true, std::io::ErrorKind::Other);
            let error = work(&lab).unwrap_err();
            storage.clear_faults();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert!(!lab.core.has_stopped(), "{nth}: {error}");
            lab.findings = DeathCheck::start(&lab.core);
            work(&lab).unwrap();
            lab.compare();
            lab.taken.drain(..).for_each(|block| lab.core.pages.free(block));
            lab.database.wait_until_idle().unwrap();
            lab.compare();
            lab.check_at_rest();
        }
    }
}

/// The last level of a keyspace: where its root lies, its entries, and its height.
fn last_of(state: &State, keyspace: KeyspaceNumber) -> (u64, u64, u8) {
    let last = state.levels_of(keyspace).and_then(|levels| levels.last()).unwrap();
    let root = last.points.as_ref().unwrap();
    (root.reference.page.0, root.entries, root.height)
}

/// One parent and one leaf are damaged, and a parent of a keyspace that is dropped.
#[test]
fn what_cannot_be_read_in_one_keyspace_hinders_no_other() {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    let mut random = Random::from_seed(8);
    let numbers: Vec<KeyspaceNumber> = (0..4)
        .map(|index| {
            lab.create();
            for number in 0..[300, 3, 300, 300][index] {
                let bytes = value(&mut random, 90);
                lab.put(index, &key(number), &bytes);
            }
            lab.database.wait_until_idle().unwrap();
            *lab.core.state().levels.keys().next_back().unwrap()
        })
        .collect();
    let state = lab.core.state();
    let lasts: Vec<_> = numbers.iter().map(|number| last_of(&state, *number)).collect();
    assert!(lasts[0].2 > 0 && lasts[1].2 == 0 && lasts[2].2 > 0, "{lasts:?}");
    let page_bytes = u64::from(lab.core.pages.layout().page_size);
    let names: Vec<_> = lab.keyspaces.iter().map(|(keyspace, _)| keyspace.name()).collect();
    drop(state);
    let Lab { database, core, keyspaces, .. } = lab;
    drop((core, keyspaces));
    database.close().unwrap();

    let storage = SimulatedStorage::from_image(storage.image());
    lasts[..3].iter().for_each(|(page, ..)| storage.flip_bit(page * page_bytes + 100, 3));
    let lab = Lab::open_on(Arc::new(storage));
    *lab.core.install_check.lock() = None;
    for name in [&names[0], &names[1], &names[3]] {
        let keyspace = lab.database.existing_keyspace(name).unwrap();
        // Each between two that are there, but for the second.
        let between = |number| [key(number), b"+".to_vec()].concat();
        (0..10).for_each(|number| keyspace.put(between(number), "new").unwrap());
    }
    lab.database.drop_keyspace(&names[2]).unwrap();
    lab.database.flush().unwrap();
    lab.pause();
    let error = lab.database.wait_until_idle().unwrap_err();
    assert!(error.is_corruption(), "{error}");
    let state = lab.core.state();
    let entries_of = |number: KeyspaceNumber| {
        let levels = state.levels_of(number).unwrap();
        levels.iter().map(|segment| segment.entries()).sum::<u64>()
    };
    assert_eq!(entries_of(numbers[3]), lasts[3].1 + 10, "the sound one is merged");
    assert_eq!(entries_of(numbers[1]), lasts[1].1, "and what is damaged stays as it is");
    assert_eq!(entries_of(numbers[2]), lasts[2].1);
}
