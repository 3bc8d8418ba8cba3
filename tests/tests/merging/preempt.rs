//! Something comes in the middle of everything that merging and reading do: at each place in turn
//! where another thread could have been faster.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::failures::Prepared;
use crate::lab::{Lab, key, value};
use sapwood::storage::SimulatedStorage;
use sapwood::sync::atomic::Ordering;
use sapwood::sync::preempt::set_hook;
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Keyspace};

/// What is interrupted; the number makes one time differ from another.
type Work = fn(&mut Lab, u64);
/// What comes in the middle of it.
type Meanwhile = fn(&Between);

/// What the interruption has at hand.
struct Between {
    database: Database,
    keyspace: Keyspace,
    /// What it has put.
    puts: RefCell<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Between {
    fn put(&self, key: Vec<u8>, value: &[u8]) {
        self.keyspace.put(&key, value).unwrap();
        self.puts.borrow_mut().push((key, value.to_vec()));
    }
}

fn one_step(between: &Between) {
    between.database.run_step().unwrap();
}

fn all_steps(between: &Between) {
    for _ in 0..50 {
        if !between.database.run_step().unwrap() {
            break;
        }
    }
}

/// A flush that finds a gap in the last level puts a run there.
fn a_run_is_flushed(between: &Between) {
    for number in 0..60u8 {
        let key = [key(450), vec![number]].concat();
        between.put(key, &[number; 40]);
    }
    let core = between.database.core().unwrap();
    let order = core.commit_order.lock();
    core.seal();
    drop(order);
    // The flush and nothing else.
    for _ in 0..20 {
        if core.view().sealed.is_empty() {
            break;
        }
        between.database.run_step().unwrap();
    }
}

/// What others have merged away is free, and other nodes are written there.
fn pages_are_used_again(between: &Between) {
    let core = between.database.core().unwrap();
    if core.background.jobs.lock().flush_is_out {
        // It would wait for what it interrupts.
        return;
    }
    for round in 0..2u8 {
        all_steps(between);
        between.database.flush().unwrap();
        for number in 0..150u8 {
            between.put([key(5000), vec![number]].concat(), &[round; 1000]);
        }
        between.database.flush().unwrap();
    }
    // What was read before the pages changed hands would hide that they have.
    core.pages.cache().clear();
}

fn old_snapshots_go(between: &Between) {
    let snapshot = between.database.snapshot().unwrap();
    between.put(key(3), b"newer");
    all_steps(between);
    assert!(snapshot.iter(&between.keyspace).unwrap().count() > 300);
    drop(snapshot);
    all_steps(between);
}

/// Two keyspaces with some lowest parents each, so that a merge takes several steps, and young
/// segments over both.
fn prepare() -> Prepared {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    *lab.core.install_check.lock() = None;
    let mut random = Random::from_seed(4);
    for index in 0..2 {
        lab.create();
        for number in (0..3000).step_by(1 + index * 2) {
            let bytes = value(&mut random, 120);
            lab.put(index, &key(number), &bytes);
        }
    }
    lab.database.wait_until_idle().unwrap();
    for round in 0..3 {
        for number in (round..3000).step_by(40) {
            let bytes = value(&mut random, 100);
            lab.put(0, &key(number), &bytes);
            if round != 1 {
                lab.put(1, &key(number), &bytes);
            }
        }
        lab.delete(0, &key(round * 100 + 5));
        lab.delete_range(1, &key(round * 250 + 130), &key(round * 250 + 260));
        lab.database.flush().unwrap();
    }
    let maps = lab.keyspaces.iter().map(|(keyspace, map)| (keyspace.name(), map.clone()));
    let maps = maps.collect();
    let Lab { database, core, .. } = lab;
    drop(core);
    database.close().unwrap();
    Prepared { image: storage.image(), maps, has_reserve: true }
}

/// Does `work` with `meanwhile` at the `nth` place; false when there are not so many.
fn interrupt(prepared: &Prepared, nth: u64, work: Work, meanwhile: Meanwhile) -> bool {
    let storage = SimulatedStorage::from_image(prepared.image.clone());
    let mut lab = prepared.open(&storage);
    let between = Rc::new(Between {
        database: lab.database.clone(),
        keyspace: lab.keyspaces[0].0.clone(),
        puts: RefCell::default(),
    });
    let (points, is_inside) = (Rc::new(Cell::new(0)), Cell::new(false));
    let (of_hook, counted) = (between.clone(), points.clone());
    set_hook(Some(Rc::new(move || {
        if is_inside.get() {
            return;
        }
        counted.set(counted.get() + 1);
        if counted.get() == nth {
            is_inside.set(true);
            meanwhile(&of_hook);
            is_inside.set(false);
        }
    })));
    work(&mut lab, nth);
    drop(set_hook(None));
    let puts = between.puts.take();
    drop(between);
    lab.keyspaces[0].1.extend(puts);
    lab.compare();
    lab.check();
    lab.database.wait_until_idle().unwrap();
    lab.compare();
    lab.check_at_rest();
    points.get() >= nth
}

/// Interrupts `work` at so many of its places.
fn interrupt_at_many(work: Work, meanwhile: Meanwhile, count: u64) {
    let prepared = prepare();
    let (mut places, mut nth) = (0, 1);
    // How many there are, about.
    while interrupt(&prepared, nth, work, meanwhile) {
        places = nth;
        nth *= 2;
    }
    assert!(places >= 16, "{places} places");
    let mut random = Random::from_seed(count);
    for _ in 0..count {
        interrupt(&prepared, 1 + random.below(places * 2), work, meanwhile);
    }
}

fn merge(lab: &mut Lab, _: u64) {
    lab.pause();
    lab.database.wait_until_idle().unwrap();
}

/// A compaction of what is merged in part.
fn compact(lab: &mut Lab, number: u64) {
    lab.pause();
    for _ in 0..number % 20 {
        lab.database.run_step().unwrap();
    }
    lab.put(0, &key(number % 3000), b"after some steps");
    lab.database.compact().unwrap();
}

fn scan(lab: &mut Lab, _: u64) {
    let snapshot = lab.database.snapshot().unwrap();
    for (keyspace, map) in &lab.keyspaces {
        let mut expected = map.iter();
        for pair in snapshot.iter(keyspace).unwrap() {
            let (key, value) = pair.unwrap();
            let (k, v) = expected.next().unwrap();
            assert!(key.as_ref() == k.as_slice() && value.as_ref() == v.as_slice());
        }
        assert!(expected.next().is_none());
        assert_eq!(snapshot.iter(keyspace).unwrap().rev().count(), map.len());
    }
}

#[test]
fn one_step_in_the_middle_of_merging() {
    interrupt_at_many(merge, one_step, 120);
}

#[test]
fn all_steps_in_the_middle_of_merging() {
    interrupt_at_many(merge, all_steps, 120);
}

#[test]
fn a_flush_of_a_run_in_the_middle_of_merging() {
    interrupt_at_many(merge, a_run_is_flushed, 120);
}

#[test]
fn pages_are_used_again_in_the_middle_of_merging() {
    interrupt_at_many(merge, pages_are_used_again, 120);
}

#[test]
fn snapshots_in_the_middle_of_merging() {
    interrupt_at_many(merge, old_snapshots_go, 80);
}

#[test]
fn all_steps_in_the_middle_of_a_compaction() {
    interrupt_at_many(compact, all_steps, 120);
}

/// Of the young segments that a compaction merges, some have nothing left of its keyspace; a step
/// in another keyspace takes the rest of them, and they are gone.
#[test]
fn sources_that_have_nothing_left_may_go_in_the_middle_of_a_compaction() {
    let mut nth = 1;
    loop {
        let mut lab = Lab::in_memory();
        lab.create();
        lab.create();
        for round in 0..2 {
            for index in 0..2 {
                lab.put(index, &key(round), b"value");
            }
            lab.database.flush().unwrap();
        }
        lab.pause();
        // The first step merges the first keyspace's part of both.
        while lab.core.state().levels.is_empty() {
            assert!(lab.database.run_step().unwrap());
        }
        assert!(!lab.core.state().young.is_empty(), "the other keyspace's part is there");
        lab.put(0, &key(2), b"value");
        let (database, places) = (lab.database.clone(), Rc::new(Cell::new(0)));
        let counted = places.clone();
        set_hook(Some(Rc::new(move || {
            counted.set(counted.get() + 1);
            if counted.get() == nth {
                for _ in 0..20 {
                    database.run_step().unwrap();
                }
            }
        })));
        let compacted = lab.database.compact();
        drop(set_hook(None));
        compacted.unwrap();
        lab.compare();
        lab.check_at_rest();
        if places.get() < nth {
            break;
        }
        nth += 1;
    }
    assert!(nth > 50, "{nth} places");
}

#[test]
fn a_flush_of_a_run_in_the_middle_of_a_compaction() {
    interrupt_at_many(compact, a_run_is_flushed, 120);
}

#[test]
fn all_steps_in_the_middle_of_a_scan() {
    interrupt_at_many(scan, all_steps, 80);
}

#[test]
fn a_flush_ends_though_others_fill_one_memtable_after_the_other() {
    let database = Database::builder().merge_threads(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("k", "before").unwrap();
    let (sealed, inside) = (Rc::new(Cell::new(0)), Cell::new(false));
    let (counted, of_hook, other) = (sealed.clone(), database.clone(), keyspace.clone());
    let last_step = Cell::new(u64::MAX);
    let before = set_hook(Some(Rc::new(move || {
        if inside.replace(true) {
            return;
        }
        let core = of_hook.core().unwrap();
        // One is sealed for each that is flushed.
        let step = core.background.flush_steps.load(Ordering::Relaxed);
        let is_flushing = core.background.jobs.lock().flush_is_out;
        if is_flushing && counted.get() < 100 && last_step.replace(step) != step {
            other.put("other", "value").unwrap();
            let order = core.commit_order.lock();
            core.seal();
            drop(order);
            counted.set(counted.get() + 1);
        }
        inside.set(false);
    })));
    assert!(before.is_none());
    database.flush().unwrap();
    set_hook(None);
    assert!((1..100).contains(&sealed.get()), "{} memtables later", sealed.get());
    database.wait_until_idle().unwrap();
}
