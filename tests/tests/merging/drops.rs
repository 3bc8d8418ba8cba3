//! A dropped keyspace leaves in bounded steps, whatever comes between them.

use crate::lab::{Lab, key, value};
use sapwood::Error;
use sapwood::merge::debt::Pressure;
use sapwood::merge::drop_keyspace::drop_keyspace_step;
use sapwood::merge::passed_over::PassedOver;
use sapwood::merge::plan::next_plan;
use sapwood::merge::promote::promote;
use sapwood::merge::verify::{Activity, DeathCheck, verify_with};
use sapwood::storage::{CrashPlan, FaultKind, SimulatedStorage};
use sapwood::sync::{Arc, Random};

/// Pages that a step gives back, about: eight times what a promotion writes.
const STEP_PAGES: u64 = 8 * 64;

/// A keyspace with a last level, something above it that was promoted in part, values in blocks of
/// their own and range tombstones; and another one beside it.
fn fill(lab: &mut Lab, pairs: u64) {
    let mut random = Random::from_seed(1);
    lab.create();
    lab.create();
    for number in 0..pairs {
        let bytes = if number % 400 == 7 { 5000 } else { 60 };
        let bytes = value(&mut random, bytes);
        lab.put(0, &key(number), &bytes);
        if number % 50 == 0 {
            lab.put(1, &key(number), &bytes);
        }
    }
    lab.database.flush().unwrap();
    lab.database.wait_until_idle().unwrap();
    for round in 0..8 {
        for number in 0..pairs / 40 {
            let bytes = if number % 90 == 3 { 4000 } else { 60 };
            let bytes = value(&mut random, bytes);
            lab.put(0, &key(number * 40 + round), &bytes);
        }
        lab.delete_range(0, &key(round * 100 + 11), &key(round * 100 + 30));
        lab.database.flush().unwrap();
    }
    // Some of it stays above, some has moved on.
    for _ in 0..6 {
        lab.database.run_step().unwrap();
    }
    lab.database.flush().unwrap();
}

/// The flush makes the drop part of a state; no step is made.
fn drop_first(lab: &mut Lab) {
    let (dropped, _) = lab.keyspaces.remove(0);
    lab.database.drop_keyspace(&dropped.name()).unwrap();
    lab.database.flush().unwrap();
}

fn is_leaving(lab: &Lab) -> bool {
    let state = lab.core.state();
    state.levels.keys().any(|number| state.catalogue.get(*number).is_none_or(|of| of.dropped))
}

/// Steps until the keyspace is gone: how many, the most nodes that one asked for, and the most
/// blocks that died in one.
fn leave(lab: &Lab) -> (u64, u64, u64) {
    let (mut steps, mut most_asked, mut most_died) = (0, 0, 0);
    let asked = || {
        let counters = lab.core.pages.counters();
        counters.cache_hits + counters.cache_misses
    };
    let died = || lab.findings.lock().died.iter().sum::<u64>();
    while is_leaving(lab) {
        // The check of installs walks whole states.
        let findings = lab.core.install_check.lock().take();
        let before = asked();
        if steps % 2 == 0 {
            assert!(lab.database.run_step().unwrap());
            most_asked = most_asked.max(asked() - before);
            *lab.core.install_check.lock() = findings;
        } else {
            *lab.core.install_check.lock() = findings;
            let before = died();
            assert!(lab.database.run_step().unwrap());
            most_died = most_died.max(died() - before);
        }
        steps += 1;
        lab.check();
    }
    (steps, most_asked, most_died)
}

#[test]
fn a_dropped_keyspace_leaves_in_bounded_steps_with_and_without_a_snapshot() {
    for held in [false, true] {
        let mut lab = Lab::in_memory();
        fill(&mut lab, 24_000);
        let (keyspace, map) = lab.keyspaces[0].clone();
        let snapshot = held.then(|| lab.database.snapshot().unwrap());
        let levels: u64 = lab.database.stats().unwrap().keyspaces[0]
            .levels
            .iter()
            .map(|level| level.segments)
            .sum();
        assert!(levels > 1, "something lies above the last level");
        drop_first(&mut lab);
        let used = lab.core.pages.allocator().referenced_list().page_count();
        let (steps, most_asked, most_died) = leave(&lab);
        assert!(steps > 4, "{steps} steps");
        // At each border one lowest parent more than was asked for.
        assert!(most_died < 2 * STEP_PAGES, "{most_died} blocks died in one step");
        assert!(most_asked < STEP_PAGES / 4, "{most_asked} nodes were asked for in one step");
        let left = lab.core.pages.allocator().referenced_list().page_count();
        assert!(left * 3 < used, "{used} pages before, {left} after");
        if let Some(snapshot) = snapshot {
            assert!(lab.core.held.stats().pages > used / 3, "the snapshot holds it");
            let pairs = snapshot.iter(&keyspace).unwrap().map(Result::unwrap);
            let pairs = pairs.map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert!(pairs.eq(map), "the snapshot reads it");
        }
        lab.compare();
        lab.database.wait_until_idle().unwrap();
        lab.database.flush().unwrap();
        lab.check_at_rest();
        assert_eq!(lab.core.held.stats().pages, 0);
    }
}

#[test]
fn a_crash_between_two_steps_of_a_drop_goes_on_where_it_was() {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    fill(&mut lab, 12_000);
    drop_first(&mut lab);
    let mut crashes = 0;
    let mut ends = Vec::new();
    while is_leaving(&lab) {
        lab.database.flush().unwrap();
        let plans = [CrashPlan::KeepAll, CrashPlan::KeepNone];
        for crashed in plans.map(|plan| storage.crash_copy(plan)) {
            let mut opened = Lab::open_on(Arc::new(crashed));
            opened.check_at_rest();
            assert!(is_leaving(&opened), "what had left is still gone, what had not is there");
            let (name, map) = (lab.keyspaces[0].0.name(), lab.keyspaces[0].1.clone());
            let keyspace = opened.database.existing_keyspace(&name).unwrap();
            opened.keyspaces.push((keyspace, map));
            opened.compare();
            opened.put(0, b"after", b"the crash");
            opened.database.wait_until_idle().unwrap();
            opened.database.flush().unwrap();
            opened.compare();
            opened.check_at_rest();
            assert!(!is_leaving(&opened));
            ends.push(opened.core.pages.allocator().referenced_list().page_count());
        }
        crashes += 1;
        assert!(lab.database.run_step().unwrap());
    }
    assert!(crashes > 2, "{crashes} crashes");
    let (least, most) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(most - least <= most / 4, "{ends:?} pages are left");
}

#[test]
fn every_read_of_a_drop_may_fail_and_the_step_is_made_again() {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    fill(&mut lab, 4000);
    drop_first(&mut lab);
    let (name, map) = (lab.keyspaces[0].0.name(), lab.keyspaces[0].1.clone());
    let image = storage.image();
    drop(lab);
    let mut failed = 0;
    for nth in 1.. {
        let storage = SimulatedStorage::from_image(image.clone());
        let mut lab = Lab::open_on(Arc::new(storage.clone()));
        let keyspace = lab.database.existing_keyspace(&name).unwrap();
        lab.keyspaces.push((keyspace, map.clone()));
        *lab.core.install_check.lock() = None;
        lab.put(0, b"first", b"write");
        lab.database.flush().unwrap();
        storage.fail_at(FaultKind::Read, nth, true, std::io::ErrorKind::Other);
        let mut error = None;
        while error.is_none() && is_leaving(&lab) {
            error = lab.database.run_step().err();
        }
        storage.clear_faults();
        let Some(error) = error else { break };
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(is_leaving(&lab) && !lab.core.has_stopped());
        failed += 1;
        let report = verify_with(&lab.core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report}");
        lab.findings = DeathCheck::start(&lab.core);
        lab.database.wait_until_idle().unwrap();
        lab.database.flush().unwrap();
        lab.compare();
        lab.check_at_rest();
    }
    assert!(failed > 5, "{failed} reads failed");
}

#[test]
fn nothing_is_promoted_into_levels_that_are_leaving() {
    let mut lab = Lab::in_memory();
    fill(&mut lab, 12_000);
    for round in 0..4 {
        for number in 0..60 {
            lab.put(0, &key(number * 200 + round), b"young");
            lab.put(1, &key(number * 200 + round), b"young");
        }
        lab.database.flush().unwrap();
    }
    let state = lab.core.state();
    let dropped = state.levels.keys().copied().next().unwrap();
    drop(state);
    drop_first(&mut lab);
    while is_leaving(&lab) {
        while let Some(plan) =
            next_plan(&lab.core, Pressure::Quiet, &mut PassedOver::default()).unwrap()
        {
            assert_ne!(plan.keyspace, dropped, "what has left may hold anything");
            promote(&lab.core, plan).unwrap();
        }
        let young = &lab.core.state().young;
        assert!(young.iter().any(|of| of.share_of(dropped).is_some()), "some would be due");
        assert!(drop_keyspace_step(&lab.core, &mut PassedOver::default()).unwrap());
        lab.check();
    }
    lab.database.wait_until_idle().unwrap();
    lab.compare();
    lab.database.flush().unwrap();
    lab.check_at_rest();
    let state = lab.core.state();
    assert!(state.segments_of(dropped).next().is_none(), "young entries went then");
}
