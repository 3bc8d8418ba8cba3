//! Random operations beside a model: a million of them, on the smallest pages, leaves, regions and
//! budget, and on options drawn at random; reopened at random, with other options.
//!
//! A failure prints its seed: `Plan { seed, .. }` in the test that failed shows it again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crash_lsm::harness::{Plan, Totals, run};
use crash_lsm::setup::Setup;
use crash_lsm::workload::Shape;

/// How many operations all tests of this file make at least, together.
const OPERATIONS_MIN: u64 = 1_000_000;
/// The same number of operations for each of the tests.
const TEST_COUNT: u64 = 5;

/// Runs seeds until there were enough operations.
fn run_many(first_seed: u64, plan: impl Fn(u64) -> Plan) {
    let mut totals = Totals::default();
    let mut seed = first_seed;
    while totals.operations < OPERATIONS_MIN / TEST_COUNT {
        match run(plan(seed)) {
            Ok(run) => totals.add(&run),
            Err(failure) => panic!("{failure}"),
        }
        seed += 1;
    }
    println!("{totals}");
    assert!(totals.commits_sync + totals.commits_buffered > 0 && totals.closes > 0);
}

fn plan(seed: u64, steps: u64) -> Plan {
    Plan {
        seed,
        lives: 3,
        steps,
        end_bits: 16,
        crashes: false,
        creation: false,
        faults: false,
        trace: false,
        // One in two seeds, at each 16th lock.
        preempt_one_in: if seed.is_multiple_of(2) { 16 } else { 0 },
        setup: None,
        shape: None,
    }
}

const TINY_SHAPE: Shape = Shape {
    key_space: 1000,
    large_value_one_in: 0,
    value_bytes_max: 0,
    changes_max: 60,
    keyspaces_max: 3,
    heavy: true,
};

#[test]
fn tiny_pages_leaves_regions_and_budget_agree_with_the_model() {
    let setup = Setup { region_bytes: 256 << 10, ..Setup::tiny() };
    run_many(1_000, |seed| Plan {
        setup: Some(setup),
        shape: Some(TINY_SHAPE),
        ..plan(seed, 2000)
    });
}

/// The simulated disk panics when anything is written to what is being read in place.
#[test]
fn nodes_that_are_read_in_place_agree_with_the_model() {
    let setup = Setup { region_bytes: 256 << 10, memory_map: true, ..Setup::tiny() };
    run_many(6_001, |seed| Plan {
        setup: Some(setup),
        shape: Some(TINY_SHAPE),
        ..plan(seed, 2000)
    });
}

#[test]
fn options_drawn_at_random_agree_with_the_model() {
    run_many(2_000, |seed| plan(seed, 700));
}

#[test]
fn few_keys_written_over_and_over_agree_with_the_model() {
    let shape = Shape { key_space: 12, changes_max: 30, keyspaces_max: 2, ..TINY_SHAPE };
    run_many(3_000, |seed| Plan { shape: Some(shape), ..plan(seed, 1500) });
}

#[test]
fn many_keys_with_large_values_agree_with_the_model() {
    let shape = Shape {
        key_space: 20_000,
        large_value_one_in: 400,
        value_bytes_max: 100 << 10,
        changes_max: 200,
        heavy: false,
        ..TINY_SHAPE
    };
    run_many(4_000, |seed| Plan { shape: Some(shape), ..plan(seed, 300) });
}
