//! What was looked at in one state, or at one number, and is used after others have gone on.

use super::PendingWrites;
use super::commit::{commit, create_keyspace};
use super::tests_rules::{Engine, above_count, key, open, planned, read, with_a_large_last_level};
use crate::merge::debt::Pressure;
use crate::merge::passed_over::PassedOver;
use crate::merge::plan::plan_from;
use crate::merge::promote::{Plan, promote};
use crate::merge::step::{begin_writing, flush_sealed, wait_until_idle};
use crate::merge::verify::{Activity, verify_with};
use crate::options::Durability;
use crate::segment::bounded_ranges::BoundedRanges;
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::node::read_parent;
use crate::segment::tree_diff::add_differing;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::damaged::Work;
use crate::state::join::join_tombstones;
use crate::state::{ReadPoint, State};
use crate::storage::{CrashPlan, OperationKind};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, Mutex};

/// A thread looks at the state while a segment above the last level is being written; before it
/// plans anything, the rest of that segment is there.
#[test]
fn a_segment_that_has_grown_since_it_was_looked_at_is_no_source() {
    let mut engine = with_a_large_last_level();
    // The same keys in each, so that the first step leaves a segment that is short: all that it
    // holds then may go in one step.
    for round in 0..8 {
        engine.young((1_000..1_040).chain(9_000..9_020), &[round + 2; 200]);
    }
    let core = engine.core.clone();
    let mut before: Option<Arc<State>> = None;
    while let Some(plan) = planned(&core, Pressure::Writing) {
        if above_count(&engine) == 1 {
            before.get_or_insert(core.state());
        }
        promote(&core, plan).unwrap();
    }
    let before = before.expect("one step wrote it all");
    assert!(core.state().young.is_empty());
    let mut passed_over = PassedOver::default();
    while let Some(plan) = plan_from(&core, &before, Pressure::Quiet, &mut passed_over).unwrap() {
        promote(&core, plan).unwrap();
        engine.check();
    }
    drop(before);
    wait_until_idle(&core).unwrap();
    engine.check();
}

/// A thread looks at the state while nothing stands above the last level; before it plans anything,
/// the set of that time has gone above it, and the next set is taken up.
#[test]
fn what_is_newer_than_a_segment_above_does_not_go_below_it() {
    let mut engine = with_a_large_last_level();
    for _ in 0..8 {
        engine.young([100, 200], b"old");
    }
    for _ in 0..8 {
        engine.young(0..600, &[7; 60]);
    }
    let core = engine.core.clone();
    let before = core.state();
    while core.state().young.len() > 8 {
        promote(&core, planned(&core, Pressure::Writing).unwrap()).unwrap();
    }
    assert_eq!(above_count(&engine), 1);
    drop(planned(&core, Pressure::Writing).expect("the next set is due"));
    let mut passed_over = PassedOver::default();
    if let Some(plan) = plan_from(&core, &before, Pressure::Writing, &mut passed_over).unwrap() {
        promote(&core, plan).unwrap();
    }
    engine.check();
    drop(before);
    wait_until_idle(&core).unwrap();
    engine.check();
}

/// Of many threads one or another has always a step of the level above under way.
#[test]
fn a_set_begins_its_segment_beside_a_step_of_the_level_above() {
    let mut engine = with_a_large_last_level();
    let core = engine.core.clone();
    for round in 0..5 {
        for _ in 0..8 {
            engine.young((1_000..1_040).chain(9_000..9_020), &[round + 2; 200]);
        }
        while round < 4 && !core.state().young.is_empty() {
            promote(&core, planned(&core, Pressure::Writing).unwrap()).unwrap();
        }
    }
    assert_eq!(above_count(&engine), 4);
    let mut plans = Vec::new();
    while let Some(plan) = planned(&core, Pressure::Writing) {
        plans.push(plan);
    }
    let has = |work| plans.iter().any(|plan: &Plan| plan.task().1 == work);
    assert!(has(Work::Above) && has(Work::Young), "{} plans", plans.len());
    for plan in plans.into_iter().rev() {
        promote(&core, plan).unwrap();
        engine.check();
    }
    wait_until_idle(&core).unwrap();
    engine.check();
}

/// A thread has looked for the newest number; before it registers, another commit has come that
/// writes no entry, a scan has joined tombstones at its number, and the flush has begun.
#[test]
fn a_snapshot_that_joined_tombstones_overtake_is_taken_again() {
    let mut engine = Engine::new();
    engine.young(0..200, b"old");
    engine.delete(0..200);
    let core = engine.core.clone();
    let number = core.visible();
    create_keyspace(&core, "b", KeyspaceSettings::default(), Durability::Buffered).unwrap();
    join_tombstones(&core, &ReadPoint::latest(&core), engine.keyspace, &[key(0), key(150)]);
    engine.seal();
    let slot = core.view().sealed.last().unwrap().clone();
    assert!(slot.table.joined().is_some_and(|joined| !joined.ranges().is_empty()));
    assert!(slot.home.close().is_empty());
    assert!(slot.reaches(number) && !slot.register(number), "it would see what the flush drops");
    slot.table.keep_joined();
    assert!(!slot.register(number) && slot.register(core.visible()));
}

/// The separator of the last lowest parent of the last level.
fn last_separator(engine: &Engine) -> Vec<u8> {
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap().clone();
    let root = last.points.as_ref().unwrap();
    let (mut reference, mut separator) = (root.reference, Vec::new());
    for height in (2..=root.height).rev() {
        let parent = read_parent(&engine.core.pages, &reference, engine.keyspace, height).unwrap();
        let index = parent.view().len() - 1;
        parent.view().separator(index, &mut separator).unwrap();
        reference = parent.child_reference(index).unwrap();
    }
    separator
}

/// A flush has found and reserved a lowest parent for a run; before the run begins, a promotion has
/// taken away all leaves behind it, and with them the separator at its end.
#[test]
fn a_run_whose_place_loses_its_end_goes_to_the_young_segment() {
    let mut engine = Engine::new();
    // Two lowest parents, the first with more below it than one step moves.
    engine.put(0..60, &[1; 3_000]);
    engine.young(60..1_500, &[1; 60]);
    wait_until_idle(&engine.core).unwrap();
    let border = last_separator(&engine);
    engine.put([5], b"in the first one");
    let mut writes = PendingWrites::new();
    writes.delete_range(engine.keyspace, KeyRange::new(border.clone(), None));
    commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
    engine.model.retain(|key, _| *key < border);
    engine.flush();
    let image = engine.storage.crash_copy(CrashPlan::KeepAll);
    let last = engine.model.keys().next_back().unwrap().clone();
    let before_last = engine.model.keys().rev().nth(1).unwrap().clone();
    let run = (0..100).map(|n| ([&before_last[..], &[0, n]].concat(), vec![8; 30]));
    engine.model.extend(run.clone());
    assert!(engine.model.last_key_value().is_some_and(|(key, _)| *key == last));

    let (mut went_to_the_last, mut went_young) = (0, 0);
    for nth in 0..12 {
        engine.storage = image.crash_copy(CrashPlan::KeepAll);
        engine.core = open(&engine.storage);
        let core = engine.core.clone();
        begin_writing(&core).unwrap();
        let plan = loop {
            let plan = planned(&core, Pressure::Quiet).expect("it goes to the last level");
            if plan.is_last && plan.range.start == border {
                break plan;
            }
            promote(&core, plan).unwrap();
        };
        let mut writes = PendingWrites::new();
        run.clone().for_each(|(key, value)| writes.put(engine.keyspace, &key, &value));
        commit(&core, &writes, Durability::Buffered, None).unwrap();
        engine.seal();
        let (plan, reads) = (Arc::new(Mutex::new(Some(plan))), AtomicU32::new(0));
        let (of_flush, in_flush) = (core.clone(), plan.clone());
        engine.storage.on_operation(Box::new(move |operation| {
            if operation.kind == OperationKind::Read
                && reads.fetch_add(1, Ordering::Relaxed) == nth
                && let Some(plan) = in_flush.lock().take()
            {
                promote(&of_flush, plan).unwrap();
            }
        }));
        flush_sealed(&core).unwrap();
        engine.storage.clear_on_operation();
        if plan.lock().is_some() {
            // The flush reads no more than that.
            break;
        }
        match core.state().young.is_empty() {
            true => went_to_the_last += 1,
            false => went_young += 1,
        }
        // Values of several pages are read as what names them.
        assert!(read(&core, engine.keyspace).keys().eq(engine.model.keys()));
        let report = verify_with(&core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean() && report.unowned_pages == 0, "{report}");
    }
    assert!(went_to_the_last > 0 && went_young > 0, "{went_to_the_last} and {went_young}");
}

/// What differs between two trees is kept in so many bytes, and no more is looked for then.
#[test]
fn too_much_that_differs_is_told_before_it_is_kept() {
    let engine = with_a_large_last_level();
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap();
    let (root, none, all) = (last.points.as_ref(), KeyRanges::new(), KeyRange::all());
    for (bytes_max, is_enough) in [(1 << 20, true), (400, false)] {
        let mut found = BoundedRanges::new(bytes_max);
        let trees = ((None, &none), (root, &none));
        let pages = &engine.core.pages;
        let added = add_differing(pages, engine.keyspace, trees, &all, &mut found).unwrap();
        assert_eq!(added.is_ok(), is_enough);
        let found = found.into_ranges();
        assert!(found.iter().eq(is_enough.then_some(&all)));
    }
}
