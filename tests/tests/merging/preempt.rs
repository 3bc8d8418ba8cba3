//! Something comes in the middle of everything that merging and reading do: at each place in turn
//! where another thread could have been faster.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::failures::{Prepared, prepare};
use crate::lab::{Lab, key};
use sapwood::merge::verify::DeathCheck;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::preempt::set_hook;
use sapwood::{Database, Keyspace};

/// What is interrupted.
type Work = fn(&Lab);
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
    all_steps(between);
}

fn old_snapshots_go(between: &Between) {
    let snapshot = between.database.snapshot().unwrap();
    between.put(key(3), b"newer");
    all_steps(between);
    assert!(snapshot.iter(&between.keyspace).unwrap().count() > 300);
    drop(snapshot);
    all_steps(between);
}

/// Does `work` with `meanwhile` at the `nth` place; false when there are not so many.
fn interrupt(prepared: &Prepared, nth: u64, work: Work, meanwhile: Meanwhile) -> bool {
    let storage = SimulatedStorage::from_image(prepared.image.clone());
    let mut lab = prepared.open(&storage);
    let findings = DeathCheck::start(&lab.core);
    lab.findings = findings;
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
    work(&lab);
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

/// Interrupts `work` at so many of its places, evenly chosen.
fn interrupt_at_many(work: Work, meanwhile: Meanwhile, count: u64) {
    let prepared = prepare();
    let (mut places, mut step) = (0, 1);
    // How many there are.
    while interrupt(&prepared, step, work, meanwhile) {
        places = step;
        step *= 2;
    }
    assert!(places >= 16, "{places} places");
    let stride = (places * 2 / count).max(1);
    let mut nth = 1;
    while interrupt(&prepared, nth, work, meanwhile) {
        nth += stride;
    }
}

fn merge(lab: &Lab) {
    lab.pause();
    lab.database.wait_until_idle().unwrap();
}

fn compact(lab: &Lab) {
    lab.database.compact().unwrap();
}

fn scan(lab: &Lab) {
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
fn snapshots_in_the_middle_of_merging() {
    interrupt_at_many(merge, old_snapshots_go, 80);
}

#[test]
fn one_step_in_the_middle_of_a_compaction() {
    interrupt_at_many(compact, one_step, 120);
}

#[test]
fn a_flush_of_a_run_in_the_middle_of_a_compaction() {
    interrupt_at_many(compact, a_run_is_flushed, 120);
}

#[test]
fn all_steps_in_the_middle_of_a_scan() {
    interrupt_at_many(scan, all_steps, 80);
}
