//! What the steps of flushes and merges hold in memory, and that the budget knows of it.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use super::PendingWrites;
use super::commit::{commit, create_keyspace};
use super::tests_rules::{Engine, options, planned, promote_above, with_a_large_last_level};
use crate::merge::debt::Pressure;
use crate::merge::flush;
use crate::merge::promote::{Plan, promote};
use crate::merge::ranges::source_fragments;
use crate::merge::step::close;
use crate::options::{Durability, Options};
use crate::page::MemoryPart;
use crate::segment::key_range::KeyRange;
use crate::state::background::Job;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::{Core, create, recovery};
use crate::storage::{CrashPlan, SimulatedStorage};
use crate::sync::preempt::set_hook;
use crate::sync::{Arc, Clock};

/// Deletes ranges that lie before the first key, and flushes them.
fn delete_ranges(engine: &Engine, ranges: Range<u32>) {
    let border = |n: u32| n.to_be_bytes()[1..].to_vec();
    let mut writes = PendingWrites::new();
    for n in ranges {
        let range = KeyRange::new(border(n * 2), Some(border(n * 2 + 1)));
        writes.delete_range(engine.keyspace, range);
    }
    commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
    engine.flush();
}

/// What the range tombstones take that a step holds.
fn ranges_bytes(core: &Core, plan: &Plan) -> u64 {
    let fragments = source_fragments(&core.pages, plan.keyspace, &plan.sources, &plan.range);
    fragments.unwrap().map(|fragment| fragment.unwrap().memory_bytes() as u64).sum()
}

fn merge_buffers(core: &Core) -> u64 {
    core.pages.budget().part(MemoryPart::MergeBuffers)
}

#[test]
fn steps_of_many_threads_hold_no_more_range_tombstones_together_than_those_of_few() {
    let mut engine = with_a_large_last_level();
    for part in 0..8 {
        delete_ranges(&engine, part * 600..(part + 1) * 600);
    }
    promote_above(&engine, 1);
    close(&engine.core).unwrap();
    let storage = engine.storage.clone();
    let mut most_of = |merge_threads: usize| {
        let options = Options { merge_threads, ..options() };
        // Nobody starts the threads here: it is planned as if there were so many.
        let storage = Arc::new(storage.crash_copy(CrashPlan::KeepNone));
        engine.core = recovery::open(storage, options, Clock::fake().0).unwrap();
        let mut most = 0;
        while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
            most = most.max(ranges_bytes(&engine.core, &plan));
            promote(&engine.core, plan).unwrap();
        }
        engine.check();
        most
    };
    for threads in [1, 2, 4, 16] {
        let (most, all) = (most_of(threads), options().memory_budget / 8);
        assert!(most > 0 && most * threads as u64 <= all, "{threads} threads: {most} bytes each");
    }
}

#[test]
fn the_hashes_that_a_flush_keeps_for_its_filter_are_counted() {
    let storage = SimulatedStorage::new();
    let options = Options { memory_budget: 64 << 20, ..options() };
    let core = create::create(Arc::new(storage.clone()), options, Clock::fake().0).unwrap();
    let settings = KeyspaceSettings::default();
    let keyspace = create_keyspace(&core, "a", settings, Durability::Buffered).unwrap();
    let mut engine = Engine { storage, core, keyspace, model: Default::default() };
    let core = engine.core.clone();
    let count = 100_000;
    // Tombstones: puts would go to the last level, which has filters of its own.
    (0..count).step_by(2000).for_each(|first| engine.delete(first..first + 2000));
    engine.seal();
    let mut job = flush::begin(&core).unwrap();
    let mut most = 0;
    while !job.step(&core).unwrap() {
        most = most.max(merge_buffers(&core));
    }
    let least = u64::from(count) * 8 / 10 * 9;
    assert!(most >= least, "{most} bytes are counted, and the hashes take {least}");
    drop(job);
    assert_eq!(merge_buffers(&core), 0);
}

/// They go into the state with the install, which may have to wait for others.
#[test]
fn the_range_tombstones_of_a_step_are_counted_until_its_install() {
    let engine = with_a_large_last_level();
    for part in 0..8 {
        delete_ranges(&engine, part * 100..(part + 1) * 100);
    }
    let core = engine.core.clone();
    let plan = planned(&core, Pressure::Writing).unwrap();
    let held = ranges_bytes(&core, &plan);
    assert!(!plan.is_last && held > 40_000, "{held} bytes");
    let (before, last) = (core.state().epoch, Rc::new(Cell::new(0)));
    let (seen, other) = (last.clone(), core.clone());
    // The last of these points is right before the lock under which it is installed.
    set_hook(Some(Rc::new(move || {
        if other.state().epoch == before {
            seen.set(merge_buffers(&other));
        }
    })));
    promote(&core, plan).unwrap();
    set_hook(None);
    assert!(core.state().epoch > before);
    assert!(last.get() >= held, "{} bytes are counted, and {held} are held", last.get());
    assert_eq!(merge_buffers(&core), 0);
}
