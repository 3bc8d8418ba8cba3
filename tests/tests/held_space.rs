//! What snapshots hold: no page more and no page less than the trees that they read, at once free
//! when they go, and known to `stats`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::fixtures::run_all_steps;
use sapwood::merge::lists::lists_step;
use sapwood::merge::verify::{Activity, HeldCheck, HeldLook, verify_with};
use sapwood::state::Core;
use sapwood::state::dead_list::{HeldStats, ListLimits};
use sapwood::storage::{FaultKind, MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::{Arc, Clock, FakeClock, Random, thread};
use sapwood::{
    Builder, Compression, Database, Durability, Error, Keyspace, KeyspaceOptions, Snapshot,
};
use std::time::Duration;

const BUDGET_BYTES: u64 = 4 << 20;

struct Lab {
    database: Database,
    core: Arc<Core>,
    keyspace: Keyspace,
    hand: FakeClock,
    random: Random,
    check: HeldCheck,
    /// What dead lists may take of memory; `None`: what they are given.
    list_bytes: Option<u64>,
}

#[derive(Clone, Copy)]
enum Merging {
    None,
    WhatIsDue,
    All,
}

fn builder() -> (Builder, FakeClock) {
    let (clock, hand) = Clock::fake();
    let builder = Database::builder()
        .page_size(1 << 10)
        .region_bytes(1 << 20)
        .leaf_bytes(1 << 10)
        .memory_budget(BUDGET_BYTES)
        .step_bytes(64 << 10)
        .log_bytes_min(64 << 10)
        .durability(Durability::Memory)
        .merge_threads(0)
        .clock(clock);
    (builder, hand)
}

impl Lab {
    fn new(seed: u64) -> Lab {
        Lab::on(Arc::new(MemoryStorage::new()), seed, None)
    }

    fn on(storage: Arc<dyn Storage>, seed: u64, list_bytes: Option<u64>) -> Lab {
        Lab::with(builder(), storage, seed, list_bytes)
    }

    fn with(
        (mut builder, hand): (Builder, FakeClock),
        storage: Arc<dyn Storage>,
        seed: u64,
        list_bytes: Option<u64>,
    ) -> Lab {
        if let Some(bytes) = list_bytes {
            builder = builder.dead_list_bytes(bytes);
        }
        let database = builder.open_on(storage).unwrap();
        let core = database.core().unwrap();
        let options = KeyspaceOptions::default().compression(Compression::None);
        let keyspace = database.keyspace_with("a", options).unwrap();
        let random = Random::from_seed(seed);
        Lab { database, core, keyspace, hand, random, check: HeldCheck::default(), list_bytes }
    }

    fn put(&mut self, number: u64, bytes: usize) {
        let mut value = vec![0; bytes];
        self.random.fill(&mut value);
        self.keyspace.put(format!("{number:08}"), value).unwrap();
    }

    /// Everything is flushed, and none, some or all of it merged.
    fn flush(&mut self, merging: Merging) {
        self.database.flush().unwrap();
        match merging {
            Merging::None => {}
            Merging::WhatIsDue => run_all_steps(&self.database).unwrap(),
            Merging::All => self.database.wait_until_idle().unwrap(),
        }
        // What merging replaced is held by the durable state, which is to be the current one.
        self.database.flush().unwrap();
    }

    /// Compares what is held with the trees.
    fn look(&mut self) -> HeldLook {
        let look = self.check.look(&self.core).unwrap();
        assert!(look.problems.is_empty(), "{:?}", look.problems);
        let stats = self.database.stats().unwrap();
        let page_bytes = u64::from(self.core.pages.layout().page_size);
        let alone: Vec<u64> = stats.snapshots.iter().map(|held| held.alone_bytes).collect();
        let expected: Vec<u64> = look.alone_pages.iter().map(|pages| pages * page_bytes).collect();
        assert_eq!(alone, expected);
        assert_eq!(stats.held_bytes, look.held_pages * page_bytes);
        let used = self.core.pages.budget().used();
        assert!(used * 5 <= BUDGET_BYTES * 6, "{used} bytes of memory are in use");
        let share = self.list_bytes.unwrap_or(BUDGET_BYTES / 16);
        // What stays of each hold, and of each piece; and a list that the last flush brought is not
        // written yet.
        let pieces = stats.held_list_bytes / page_bytes;
        let least = look.alone_pages.len() as u64 * 1100;
        let most = share.max(least) + pieces * 150 + (32 << 10);
        assert!(stats.memory.dead_lists <= most, "{} of {most}", stats.memory.dead_lists);
        look
    }

    fn check_owners(&self) {
        let report = verify_with(&self.core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.unowned_pages, 0);
    }

    fn at_rest(&mut self) -> u64 {
        self.hand.advance(Duration::from_secs(2));
        self.database.wait_until_idle().unwrap();
        self.check_owners();
        self.database.stats().unwrap().file_bytes
    }
}

/// So many keys of ten thousand are overwritten between two of them.
fn release_a_hundred_snapshots(lab: &mut Lab, overwritten: u64) -> u64 {
    (0..10_000).for_each(|number| lab.put(number, 40));
    let before = lab.at_rest();
    let mut snapshots: Vec<Snapshot> = Vec::new();
    let mut list_bytes = 0;
    for round in 0..100 {
        for _ in 0..overwritten {
            let number = lab.random.below(10_000);
            lab.put(number, 40);
        }
        snapshots.push(lab.database.snapshot().unwrap());
        lab.hand.advance(Duration::from_millis(1));
        lab.flush([Merging::None, Merging::WhatIsDue, Merging::All, Merging::All][round % 4]);
        if round % 10 == 9 {
            lab.look();
        }
    }
    let full = lab.look();
    list_bytes = list_bytes.max(lab.database.stats().unwrap().held_list_bytes);
    assert!(full.held_pages > full.live_pages * overwritten / 50, "{full:?}");
    assert!(full.alone_pages.iter().filter(|pages| **pages > 0).count() >= 20, "{full:?}");
    let mut held = full.held_pages;
    while !snapshots.is_empty() {
        let index = lab.random.below(snapshots.len() as u64) as usize;
        let expected = held - lab.check.look(&lab.core).unwrap().alone_pages[index];
        let read = lab.core.pages.counters();
        drop(snapshots.remove(index));
        lab.core.collect_released();
        assert_eq!(lab.core.pages.counters(), read, "the end of a hold reads nothing");
        run_all_steps(&lab.database).unwrap();
        held = lab.look().held_pages;
        assert_eq!(held, expected, "what it alone kept is free, and nothing else");
        if snapshots.len().is_multiple_of(10) {
            lab.check_owners();
            lab.flush(Merging::All);
            held = lab.look().held_pages;
        }
    }
    assert_eq!(lab.core.held.stats().pages, 0);
    let after = lab.at_rest();
    let most = before + before / 10 + (256 << 10);
    assert!(after <= most, "{before} bytes before, {after} after");
    list_bytes
}

#[test]
fn a_hundred_snapshots_released_in_random_order_hold_what_their_trees_use() {
    let mut lab = Lab::on(Arc::new(MemoryStorage::new()), 1, Some(1 << 20));
    assert_eq!(release_a_hundred_snapshots(&mut lab, 1000), 0, "the lists are short");
}

#[test]
fn lists_that_go_to_the_file_hold_the_same_and_leave_memory_and_come_back() {
    let mut lab = Lab::on(Arc::new(MemoryStorage::new()), 1, Some(2000));
    let list_bytes = release_a_hundred_snapshots(&mut lab, 1000);
    assert!(list_bytes > 50 << 10, "only {list_bytes} bytes of lists were written");
    assert_eq!(lab.database.stats().unwrap().held_list_bytes, 0);
}

/// Nearly all holds end at once: what comes back of the lists and is still held goes to the file
/// again, piece by piece.
#[test]
fn lists_that_come_back_all_at_once_stay_near_their_share() {
    let mut lab = Lab::on(Arc::new(MemoryStorage::new()), 1, Some(2000));
    (0..40_000).for_each(|number| lab.put(number, 60));
    lab.at_rest();
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for _ in 0..40 {
        for _ in 0..400 {
            let number = lab.random.below(40_000);
            lab.put(number, 60);
        }
        snapshots.push(lab.database.snapshot().unwrap());
        lab.hand.advance(Duration::from_millis(1));
        lab.flush(Merging::All);
    }
    let kept = [snapshots.remove(39), snapshots.remove(20), snapshots.remove(0)];
    drop(snapshots);
    let memory = || lab.database.stats().unwrap().memory.dead_lists;
    lab.core.collect_released();
    let (first, mut most) = (memory(), 0);
    while lab.database.run_step().unwrap() {
        most = most.max(memory());
    }
    assert!(most <= first + 4000, "{most} bytes, {first} at first");
    lab.look();
    drop(kept);
    lab.at_rest();
}

/// What dies between two snapshots was born after many others.
#[test]
fn lists_of_many_short_parts_stay_within_their_share_and_come_back() {
    let mut lab = Lab::on(Arc::new(MemoryStorage::new()), 1, Some(2000));
    let list_bytes = release_a_hundred_snapshots(&mut lab, 100);
    assert!(list_bytes > 20 << 10, "only {list_bytes} bytes of lists were written");
    assert_eq!(lab.database.stats().unwrap().held_list_bytes, 0);
}

#[test]
fn keys_overwritten_over_and_over_under_one_snapshot_give_everything_back() {
    let mut lab = Lab::new(2);
    (0..1000).for_each(|number| lab.put(number, 100));
    let before = lab.at_rest();
    let snapshot = lab.database.snapshot().unwrap();
    let mut most = 0;
    for round in 0..60 {
        (0..1000).for_each(|number| lab.put(number, 100));
        lab.flush(Merging::All);
        let look = lab.look();
        most = most.max(look.held_pages);
        assert!(look.held_pages <= 200, "round {round}: {} pages are held", look.held_pages);
    }
    assert!(most > 100, "the snapshot holds {most} pages");
    let alone = lab.database.stats().unwrap().snapshots[0].alone_bytes;
    assert_eq!(alone, lab.core.held.stats().pages << 10);
    drop(snapshot);
    assert_eq!(lab.look().held_pages, 0);
    let after = lab.at_rest();
    assert!(after <= before, "{before} bytes before, {after} after");
}

#[test]
fn held_snapshots_are_listed_by_age_with_their_threads_and_what_each_alone_keeps() {
    let mut lab = Lab::new(3);
    (0..2000).for_each(|number| lab.put(number, 100));
    lab.flush(Merging::All);
    let first = lab.database.snapshot().unwrap();
    lab.hand.advance(Duration::from_secs(5));
    let same = lab.database.snapshot().unwrap();
    let stats = lab.database.stats().unwrap();
    let ages: Vec<u64> = stats.snapshots.iter().map(|held| held.age.as_secs()).collect();
    assert_eq!(ages, [5, 0]);
    assert!(stats.snapshots.iter().all(|held| held.thread == thread::current_id()));
    assert_eq!(stats.snapshots[0].sequence, first.sequence());
    (0..2000).for_each(|number| lab.put(number, 100));
    lab.flush(Merging::All);
    let both = lab.look();
    assert_eq!(both.alone_pages, [0, 0], "neither alone keeps what both hold");
    assert!(both.held_pages > 200, "{both:?}");
    drop(same);
    let one = lab.look();
    assert_eq!(one.alone_pages, [one.held_pages]);
    let keyspace = lab.keyspace.clone();
    let other = thread::spawn("other", move || keyspace.iter().unwrap()).unwrap();
    let held_by_other = other.join().unwrap();
    let stats = lab.database.stats().unwrap();
    assert_eq!(stats.snapshots.len(), 2, "an iterator holds one too");
    assert_ne!(stats.snapshots[1].thread, thread::current_id());
    drop((first, held_by_other));
    let stats = lab.database.stats().unwrap();
    assert!(stats.snapshots.is_empty() && stats.held_bytes == 0, "{stats}");
}

/// Lists that are long and still in memory, under a snapshot, on a disk that can fail.
fn long_lists(seed: u64) -> (Lab, SimulatedStorage, Snapshot) {
    long_lists_with(builder(), seed)
}

fn long_lists_with(builder: (Builder, FakeClock), seed: u64) -> (Lab, SimulatedStorage, Snapshot) {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::with(builder, Arc::new(storage.clone()), seed, None);
    (0..5000).for_each(|number| lab.put(number, 100));
    lab.flush(Merging::All);
    let snapshot = lab.database.snapshot().unwrap();
    lab.database.flush().unwrap();
    (0..5000).for_each(|number| lab.put(number, 100));
    lab.database.flush().unwrap();
    lab.database.compact().unwrap();
    lab.database.flush().unwrap();
    assert!(lab.database.stats().unwrap().held_bytes > 500 << 10);
    assert_eq!(lab.database.stats().unwrap().held_list_bytes, 0);
    let limits = ListLimits::new(lab.core.pages.budget(), Some(4000));
    lab.core.held.set_limits(limits);
    lab.list_bytes = Some(4000);
    (lab, storage, snapshot)
}

/// Lets each step at the lists fail once; returns how many did.
fn fail_each_step(lab: &mut Lab, storage: &SimulatedStorage, kind: FaultKind) -> u64 {
    let mut failed = 0;
    loop {
        let before = lab.core.held.stats();
        storage.fail_at(kind, 1, true, std::io::ErrorKind::Other);
        match lists_step(&lab.core) {
            Ok(done) => {
                storage.clear_faults();
                assert!(!done, "nothing failed");
                return failed;
            }
            Err(error) => assert!(matches!(error, Error::Io { .. }), "{error}"),
        }
        storage.clear_faults();
        assert!(!lab.core.has_stopped(), "a list is no reason to stop writing");
        assert_eq!(lab.core.held.stats(), before);
        assert!(lab.check.look(&lab.core).unwrap().problems.is_empty() || kind == FaultKind::Read);
        lab.check_owners();
        assert!(lists_step(&lab.core).unwrap());
        lab.check_owners();
        failed += 1;
    }
}

#[test]
fn every_write_and_read_of_a_list_may_fail_and_is_made_again() {
    let (mut lab, storage, snapshot) = long_lists(5);
    let writes = fail_each_step(&mut lab, &storage, FaultKind::Write);
    assert!(writes > 0);
    let look = lab.look();
    assert!(look.held_pages > 500, "{look:?}");
    assert!(lab.core.held.stats().list_pages > 0);
    drop(snapshot);
    lab.core.collect_released();
    assert!(lab.core.held.stats().pages > 0, "it waits to be read");
    let reads = fail_each_step(&mut lab, &storage, FaultKind::Read);
    assert_eq!(reads, writes, "each piece is read back once");
    assert_eq!(lab.core.held.stats(), HeldStats::default());
    assert_eq!(lab.look().held_pages, 0);
}

#[test]
fn a_list_that_cannot_be_written_hinders_no_other_step() {
    // Commits are taken on the full device, which the reserve would refuse.
    let (builder, hand) = builder();
    let (mut lab, storage, snapshot) = long_lists_with((builder.reserve_bytes(0), hand), 6);
    storage.fail_at(FaultKind::Write, 1, true, std::io::ErrorKind::Other);
    assert!(lab.database.run_step().is_err(), "nothing else is due");
    storage.clear_faults();
    // What an I/O error does to the first write, a full device does to all.
    let length = lab.core.pages.allocator().file_pages();
    lab.core.pages.allocator().set_max_file_bytes(Some(length << 10));
    (0..300).for_each(|number| lab.put(number, 100));
    lab.core.pages.allocator().set_max_file_bytes(None);
    lab.flush(Merging::WhatIsDue);
    assert!(lab.core.held.stats().list_pages > 0);
    drop(snapshot);
    lab.flush(Merging::All);
    assert_eq!(lab.look().held_pages, 0);
    lab.check_owners();
}

#[test]
fn the_timed_sync_waits_for_no_list() {
    let (lab, _storage, _snapshot) = long_lists(10);
    let mut batch = lab.database.batch();
    batch.put(&lab.keyspace, "last", "value").unwrap();
    batch.commit_with(Durability::Buffered).unwrap();
    lab.hand.advance(Duration::from_secs(2));
    assert!(lab.database.run_step().unwrap());
    let positions = lab.core.log.positions();
    assert_eq!(positions.durable, positions.end);
    assert_eq!(lab.core.held.stats().list_pages, 0);
    assert!(lab.database.run_step().unwrap());
    assert!(lab.core.held.stats().list_pages > 0, "it was due, too");
}

#[test]
fn what_a_list_in_the_file_names_is_free_though_another_list_finds_no_room() {
    let (mut lab, storage, first) = long_lists(9);
    while lists_step(&lab.core).unwrap() {}
    assert!(lab.core.held.stats().list_pages > 0);
    let budget = lab.core.pages.budget().clone();
    lab.core.held.set_limits(ListLimits::new(&budget, None));
    let second = lab.database.snapshot().unwrap();
    (0..5000).for_each(|number| lab.put(number, 100));
    lab.database.flush().unwrap();
    lab.database.compact().unwrap();
    lab.database.flush().unwrap();
    // The device is full: the second list has to stay in memory.
    lab.core.held.set_limits(ListLimits::new(&budget, Some(4000)));
    storage.fail_at(FaultKind::Write, 1, false, std::io::ErrorKind::StorageFull);
    assert!(matches!(lists_step(&lab.core), Err(Error::NoSpace { .. })));
    drop(first);
    for _ in 0..100 {
        let _ = lab.database.run_step();
    }
    assert_eq!(lab.core.held.stats().list_pages, 0, "the first list is read back");
    storage.clear_faults();
    lab.look();
    lab.check_owners();
    drop(second);
    lab.flush(Merging::All);
    assert_eq!(lab.look().held_pages, 0);
}

#[test]
fn a_crash_with_written_lists_leaks_nothing() {
    for (seed, ends) in [(7, false), (8, true)] {
        let (mut lab, storage, snapshot) = long_lists(seed);
        while lists_step(&lab.core).unwrap() {}
        assert!(lab.core.held.stats().list_pages > 0);
        lab.database.flush().unwrap();
        let mut snapshot = Some(snapshot);
        if ends {
            // They wait to be read back.
            snapshot = None;
            lab.core.collect_released();
            assert!(lab.core.held.stats().list_pages > 0);
        }
        let live = lab.check.look(&lab.core).unwrap().live_pages;
        let mut random = Random::from_seed(seed);
        for crashed in [storage.kill(), storage.crash(&mut random)] {
            let mut opened = Lab::on(Arc::new(crashed), seed, Some(4000));
            opened.check_owners();
            let look = opened.look();
            assert_eq!((look.live_pages, look.held_pages), (live, 0));
            assert_eq!(opened.keyspace.iter().unwrap().count(), 5000);
        }
        drop(snapshot);
    }
}

#[test]
fn a_damaged_list_is_named_and_its_pages_are_free_at_the_next_open() {
    let (lab, storage, snapshot) = long_lists(9);
    while lists_step(&lab.core).unwrap() {}
    lab.database.flush().unwrap();
    let node = lab.core.held.blocks().written[0];
    storage.flip_bit((node.page.0 << 10) + 100, 3);
    drop(snapshot);
    lab.core.collect_released();
    let mut damaged = 0;
    loop {
        match lists_step(&lab.core) {
            Ok(false) => break,
            Ok(true) => {}
            Err(Error::Corruption(corruption)) => {
                assert_eq!(corruption.page, Some(node.page));
                damaged += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(damaged, 1, "it is tried once");
    let report = verify_with(&lab.core, Activity::Quiet, &mut |_, _| true).unwrap();
    let texts: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|text| text.contains("a list of dead blocks")), "{texts:?}");
    let killed = storage.kill();
    drop(lab);
    let mut opened = Lab::on(Arc::new(killed), 9, None);
    opened.check_owners();
    assert_eq!(opened.look().held_pages, 0);
}
