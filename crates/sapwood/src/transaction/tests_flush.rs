//! What one step of a flush may take, and what one of its leaves.

use super::PendingWrites;
use super::commit::{commit, commit_written, create_keyspace};
use super::tests_rules::{key, options, read};
use super::value_writer::WrittenValue;
use crate::merge::{flush, step};
use crate::options::{Durability, Options};
use crate::segment::key_range::KeyRange;
use crate::state::background::Job;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::reserve::flush_bytes;
use crate::state::{Core, SnapshotHold, create};
use crate::storage::SimulatedStorage;
use crate::sync::{Arc, Clock, Random};
use crate::types::KeyspaceNumber;

fn made(options: Options) -> (Arc<Core>, KeyspaceNumber) {
    let storage = Arc::new(SimulatedStorage::new());
    let core = create::create(storage, options, Clock::fake().0).unwrap();
    let settings = KeyspaceSettings::default();
    let keyspace = create_keyspace(&core, "a", settings, Durability::Buffered).unwrap();
    (core, keyspace)
}

fn seal(core: &Core) {
    let _order = core.commit_order.lock();
    core.seal();
}

/// Nothing is written of keys that a range deletion hides, so what was written ends no step.
#[test]
fn a_flush_of_what_nobody_sees_is_made_in_steps() {
    let (core, keyspace) = made(Options { memory_budget: 64 << 20, ..options() });
    let mut writes = PendingWrites::new();
    (0..30_000).for_each(|number| writes.put(keyspace, &key(number), b""));
    commit(&core, &writes, Durability::Buffered, None).unwrap();
    let mut writes = PendingWrites::new();
    writes.delete_range(keyspace, KeyRange::new(Vec::new(), None));
    commit(&core, &writes, Durability::Buffered, None).unwrap();
    seal(&core);
    let mut job = flush::begin(&core).unwrap();
    let mut steps = 1;
    while !job.step(&core).unwrap() {
        steps += 1;
    }
    assert!(steps >= 5, "{steps} steps");
    assert!(read(&core, keyspace).is_empty());
}

/// Values of this length lie in the memtable, and in blocks of their own from their flush on: what
/// is written of them are no nodes.
#[test]
fn a_flush_of_values_that_go_to_blocks_is_made_in_steps() {
    let (core, keyspace) = made(Options { memory_budget: 64 << 20, ..options() });
    let mut random = Random::from_seed(1);
    let mut value = vec![0; 40 << 10];
    let mut writes = PendingWrites::new();
    for number in 0..20 {
        random.fill(&mut value);
        writes.put(keyspace, &key(number), &value);
    }
    commit(&core, &writes, Durability::Buffered, None).unwrap();
    // Each of the pages of one may lie alone: first page and count, which differ by little at best.
    let names = core.view().active.owes.names_bytes();
    assert!(names >= 40 * 2, "{names} bytes for the longest reference");
    seal(&core);
    let mut job = flush::begin(&core).unwrap();
    let mut steps = 1;
    while !job.step(&core).unwrap() {
        steps += 1;
    }
    let least = 20 * value.len() as u64 / core.options.step_bytes / 2;
    assert!(least > 4 && steps >= least, "{steps} steps");
    assert_eq!(read(&core, keyspace).len(), 20);
}

/// Values of half a page: what is looked ahead for is what the flush writes, waste and all.
#[test]
fn a_flush_writes_no_more_than_is_looked_ahead_for() {
    let options = Options {
        page_size: 64 << 10,
        region_bytes: 16 << 20,
        memory_budget: 64 << 20,
        ..options()
    };
    let (core, keyspace) = made(options);
    let mut random = Random::from_seed(2);
    let mut value = vec![0; 33 << 10];
    let mut writes = PendingWrites::new();
    for number in 0..100 {
        random.fill(&mut value);
        writes.put(keyspace, &key(number), &value);
    }
    commit(&core, &writes, Durability::Buffered, None).unwrap();
    let (expected, before) = (flush_bytes(&core), core.pages.counters().bytes_written());
    seal(&core);
    step::flush_sealed(&core).unwrap();
    let written = core.pages.counters().bytes_written() - before;
    assert!(written > 100 * (64 << 10), "{written} bytes");
    assert!((written..written * 3 / 2).contains(&expected), "{written} bytes of {expected}");
}

/// Where single pages are free and nothing else, a leaf has room for few references to values.
#[test]
fn versions_with_long_references_fit_a_leaf() {
    let options = Options { region_bytes: 128 << 10, memory_budget: 64 << 20, ..options() };
    let (core, keyspace) = made(options);
    let allocator = core.pages.allocator();
    // Where there is room, the values that the log names cause no flush before.
    allocator.ensure_free(1 << 20).unwrap();
    let mut holds = Vec::new();
    for _ in 0..60 {
        let pages: Vec<_> = (0..6000).map(|_| allocator.allocate(1, 1).unwrap()).collect();
        let value = WrittenValue::in_blocks(&core, pages.into_iter().step_by(2).collect());
        commit_written(&core, keyspace, b"key", value, Durability::Memory).unwrap();
        holds.push(SnapshotHold::take(&core));
    }
    seal(&core);
    step::flush_sealed(&core).unwrap();
    assert!(core.state().young.len() > 1);
}
