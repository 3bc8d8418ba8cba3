//! What snapshots hold: no page more and no page less than the trees that they read, at once free
//! when they go, and known to `stats`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::fixtures::run_all_steps;
use sapwood::merge::verify::{Activity, HeldCheck, HeldLook, verify_with};
use sapwood::state::Core;
use sapwood::sync::{Arc, Clock, FakeClock, Random, thread};
use sapwood::{Builder, Compression, Database, Durability, Keyspace, KeyspaceOptions, Snapshot};
use std::time::Duration;

const BUDGET_BYTES: u64 = 4 << 20;

struct Lab {
    database: Database,
    core: Arc<Core>,
    keyspace: Keyspace,
    hand: FakeClock,
    random: Random,
    check: HeldCheck,
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
        let (builder, hand) = builder();
        let database = builder.open_in_memory().unwrap();
        let core = database.core().unwrap();
        let options = KeyspaceOptions::default().compression(Compression::None);
        let keyspace = database.keyspace_with("a", options).unwrap();
        let random = Random::from_seed(seed);
        Lab { database, core, keyspace, hand, random, check: HeldCheck::default() }
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

#[test]
fn a_hundred_snapshots_released_in_random_order_hold_what_their_trees_use() {
    let mut lab = Lab::new(1);
    (0..10_000).for_each(|number| lab.put(number, 40));
    let before = lab.at_rest();
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for round in 0..100 {
        for _ in 0..1000 {
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
    assert!(full.held_pages > 20 * full.live_pages, "{full:?}");
    assert!(full.alone_pages.iter().filter(|pages| **pages > 0).count() >= 20, "{full:?}");
    let mut held = full.held_pages;
    while !snapshots.is_empty() {
        let index = lab.random.below(snapshots.len() as u64) as usize;
        let expected = held - lab.check.look(&lab.core).unwrap().alone_pages[index];
        drop(snapshots.remove(index));
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
    assert!(after <= before + before / 8, "{before} bytes before, {after} after");
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
