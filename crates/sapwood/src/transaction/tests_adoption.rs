//! How a state takes up a large transaction that has been committed.

use super::commit_by_reference::commit_by_reference;
use super::layers::Layers;
use super::tests_rules::{Engine, key, open, read};
use super::validate::Validation;
use super::value_writer::ValueWriter;
use crate::merge::step::{run_step, sync, wait_until_idle};
use crate::merge::verify::{Activity, verify_with};
use crate::options::Durability;
use crate::page::Block;
use crate::state::reserve::{Brings, has_room};
use crate::storage::CrashPlan;
use crate::sync::atomic::Ordering;
use crate::sync::{Random, locks_taken};

fn commit(engine: &Engine, mut layers: Layers) {
    let validation = Validation { began: engine.core.last_placed(), reads: None };
    commit_by_reference(&engine.core, &mut layers, Durability::Buffered, &validation).unwrap();
}

/// Each block took the allocator's lock once, while the install lock was held: whoever waits for a
/// step waited for all of them.
#[test]
fn no_step_that_takes_up_a_transaction_takes_longer_for_more_blocks() {
    let locks_for = |count: usize| {
        let engine = Engine::new();
        let core = &engine.core;
        let allocator = core.pages.allocator();
        let layers = of_many_blocks(&engine, count);
        let name = layers.segments().next().unwrap().blocks();
        let blocks: Vec<Block> = core.pending.of(name).iter().collect();
        assert!(blocks.len() >= count);
        commit(&engine, layers);
        let mut most = 0;
        while core.view().sealed.iter().any(|slot| slot.by_reference.is_some()) {
            let before = locks_taken();
            assert!(run_step(core).unwrap());
            most = most.max(locks_taken() - before);
        }
        assert!(core.pending.blocks().is_empty());
        assert!(blocks.iter().all(|block| allocator.is_referenced(*block)));
        allocator.check_sound().unwrap();
        most
    };
    let (few, many) = (locks_for(10), locks_for(10_000));
    assert!(many < few + 20, "{few} locks in a step for 10 blocks, {many} for 10,000");
}

/// A transaction that has put as many values, in blocks that have no neighbours.
fn of_many_blocks(engine: &Engine, count: usize) -> Layers {
    let core = &engine.core;
    let allocator = core.pages.allocator();
    let pages: Vec<_> = (0..2 * count).map(|_| allocator.allocate(1, 1).unwrap()).collect();
    let scattered: Vec<Block> = pages.into_iter().step_by(2).collect();
    let mut layers = Layers::new(core.pages.budget());
    layers.top().put(engine.keyspace, b"k", b"v");
    layers.spill(core).unwrap();
    core.pending.set_values(layers.segments().next().unwrap().blocks(), &scattered);
    layers
}

/// Each commit of a large value makes one step, and until the adoption before it has ended no
/// durable state passes what the log names. Commits that looked ahead for the steps of memtables
/// alone began too late, and the file grew meanwhile for what was owed twice.
#[test]
fn commits_of_large_values_look_ahead_for_the_steps_of_an_adoption() {
    let mut engine = Engine::new();
    let core = engine.core.clone();
    let mut random = Random::from_seed(1);
    let mut value = vec![0; 64 << 10];
    let mut numbers = 0..;
    let named_pages = || core.log_named.pages();
    let steps = 20;
    commit(&engine, of_many_blocks(&engine, steps * 16));
    core.pages.allocator().ensure_free(24 << 10).unwrap();
    while named_pages() <= 5 << 10 {
        random.fill(&mut value);
        engine.put(numbers.next(), &value);
    }
    // For more than comes meanwhile.
    while has_room(&core, Brings::Data, 5 << 20) {
        core.pages.allocator().allocate(16, 16).unwrap();
    }
    let flush_steps = || core.background.flush_steps.load(Ordering::Relaxed);
    let (file_pages, before) = (core.pages.allocator().file_pages(), flush_steps());
    loop {
        let (named, made) = (named_pages(), flush_steps());
        random.fill(&mut value);
        engine.put(numbers.next(), &value);
        assert!(flush_steps() <= made + 1, "a commit waited for more than one step");
        if named_pages() < named {
            break;
        }
    }
    assert!(flush_steps() - before > steps as u64, "it was not taken up step by step");
    let grown = core.pages.allocator().file_pages() - file_pages;
    assert_eq!(grown, 0, "the file has grown by so many pages");
}

/// Only a damaged file gives a page to two: its maps said that it was free, and a merge gave it
/// back while a transaction had it.
#[test]
fn a_transaction_that_has_a_page_twice_is_damage_and_nothing_is_allotted_any_more() {
    let engine = Engine::new();
    let core = &engine.core;
    let block = core.pages.allocator().allocate(3, 3).unwrap();
    let mut layers = Layers::new(core.pages.budget());
    layers.top().put(engine.keyspace, b"k", b"v");
    layers.spill(core).unwrap();
    let name = layers.segments().next().unwrap().blocks();
    core.pending.set_values(name, &[block, Block::new(block.last(), 1)]);
    commit(&engine, layers);
    let error = (0..10).find_map(|_| run_step(core).err()).unwrap();
    assert!(error.is_corruption(), "{error}");
    assert!(core.view().sealed.iter().any(|slot| slot.by_reference.is_some()));
    assert!(core.pages.allocator().allocate(1, 1).unwrap_err().is_corruption());
}

/// Nothing of the state is touched before the last step, so it does not matter after which one the
/// process ends.
#[test]
fn a_crash_between_the_steps_of_an_adoption_leaves_it_to_the_next_open() {
    let mut was_adopted = false;
    for steps in 0.. {
        let engine = Engine::new();
        let core = &engine.core;
        let mut random = Random::from_seed(1);
        let mut layers = Layers::new(core.pages.budget());
        for number in 0..400 {
            let mut value = ValueWriter::begin(core, engine.keyspace).unwrap();
            let mut bytes = [0; 3000];
            random.fill(&mut bytes);
            value.push(&bytes).unwrap();
            layers.put_value(core, engine.keyspace, &key(number), value).unwrap();
        }
        commit(&engine, layers);
        sync(core).unwrap();
        for _ in 0..steps {
            run_step(core).unwrap();
        }
        let is_adopted = core.pending.blocks().is_empty();
        assert!(steps > 2 || !is_adopted, "it takes several steps");
        let core = open(&engine.storage.crash_copy(CrashPlan::KeepNone));
        assert_eq!(read(&core, engine.keyspace).len(), 400, "after {steps} steps");
        wait_until_idle(&core).unwrap();
        assert_eq!(read(&core, engine.keyspace).len(), 400, "after {steps} steps");
        let report = verify_with(&core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean() && report.unowned_pages == 0, "{report}");
        if was_adopted {
            break;
        }
        was_adopted = is_adopted;
    }
}
