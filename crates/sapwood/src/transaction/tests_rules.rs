//! Rules of the engine that only show from inside: what happens between two steps, or while a
//! commit waits for the disk. Each of these tests fails when its rule is taken out
//! (docs/testing.md).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::PendingWrites;
use super::commit::{commit, create_keyspace, drop_keyspace};
use crate::error::{Corruption, Error, Structure};
use crate::merge::debt::Pressure;
use crate::merge::flush;
use crate::merge::passed_over::PassedOver;
use crate::merge::plan::{next_plan, plan_from, take_up_sets};
use crate::merge::promote::{Plan, promote, promote_miscounted};
use crate::merge::ranges::source_fragments;
use crate::merge::step::{self, run_step, wait_until_idle};
use crate::merge::throttle::is_log_behind;
use crate::merge::verify::{Activity, verify_with};
use crate::options::{Durability, Options};
use crate::page::Block;
use crate::segment::key_range::KeyRange;
use crate::segment::merge_cursor::MergeCursor;
use crate::state::background::{LEVEL_ABOVE, LEVEL_LAST};
use crate::state::catalogue::KeyspaceSettings;
use crate::state::damaged::Work;
use crate::state::reserve::owed_pages;
use crate::state::sources::sources;
use crate::state::view::Home;
use crate::state::{Core, SnapshotHold, create, recovery};
use crate::storage::{CrashPlan, OperationKind, SimulatedStorage};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::preempt::set_hook;
use crate::sync::thread::spawn;
use crate::sync::{Arc, Clock, Mutex};
use crate::types::{KeyspaceNumber, PageNumber, SequenceNumber};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) fn planned(core: &Arc<Core>, pressure: Pressure) -> Option<Plan> {
    next_plan(core, pressure, &mut PassedOver::default()).unwrap()
}

pub(super) fn options() -> Options {
    Options {
        memory_budget: 4 << 20,
        page_size: 1024,
        region_bytes: 1 << 20,
        leaf_bytes: 1024,
        step_bytes: 64 << 10,
        log_bytes_min: 1 << 20,
        merge_threads: 0,
        ..Options::default()
    }
}

/// An engine that does nothing by itself: its clock stands still, so writes never pause.
pub(super) struct Engine {
    pub storage: SimulatedStorage,
    pub core: Arc<Core>,
    pub keyspace: KeyspaceNumber,
    pub model: Model,
}

pub(super) fn open(storage: &SimulatedStorage) -> Arc<Core> {
    recovery::open(Arc::new(storage.clone()), options(), Clock::fake().0).unwrap()
}

impl Engine {
    pub fn new() -> Engine {
        let storage = SimulatedStorage::new();
        let core = create::create(Arc::new(storage.clone()), options(), Clock::fake().0).unwrap();
        let settings = KeyspaceSettings::default();
        let keyspace = create_keyspace(&core, "a", settings, Durability::Buffered).unwrap();
        Engine { storage, core, keyspace, model: Model::new() }
    }

    pub fn put(&mut self, keys: impl IntoIterator<Item = u32>, value: &[u8]) {
        let mut writes = PendingWrites::new();
        for number in keys {
            let key = key(number);
            writes.put(self.keyspace, &key, value);
            self.model.insert(key, value.to_vec());
        }
        commit(&self.core, &writes, Durability::Buffered, None).unwrap();
    }

    pub(super) fn delete(&mut self, keys: impl IntoIterator<Item = u32>) {
        let mut writes = PendingWrites::new();
        for number in keys {
            writes.delete(self.keyspace, &key(number));
            self.model.remove(&key(number));
        }
        commit(&self.core, &writes, Durability::Buffered, None).unwrap();
    }

    pub(super) fn delete_from(&mut self, first: u32) {
        let mut writes = PendingWrites::new();
        writes.delete_range(self.keyspace, KeyRange::new(key(first), None));
        self.model.retain(|k, _| *k < key(first));
        commit(&self.core, &writes, Durability::Buffered, None).unwrap();
    }

    pub fn seal(&self) {
        let _order = self.core.commit_order.lock();
        self.core.seal();
    }

    pub fn flush(&self) {
        self.seal();
        step::flush_sealed(&self.core).unwrap();
    }

    /// Puts and flushes a young segment.
    pub fn young(&mut self, keys: impl IntoIterator<Item = u32>, value: &[u8]) {
        self.put(keys, value);
        self.flush();
    }

    pub fn value(&self, number: u32) -> Option<Vec<u8>> {
        read(&self.core, self.keyspace).remove(&key(number))
    }

    /// What can be read is what was written, and the state is sound.
    pub(super) fn check(&self) {
        assert!(read(&self.core, self.keyspace) == self.model, "other content than was written");
        let report = verify_with(&self.core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.unowned_pages, 0);
    }
}

pub(super) fn key(number: u32) -> Vec<u8> {
    format!("key {number:06}").into_bytes()
}

pub(super) fn read(core: &Arc<Core>, keyspace: KeyspaceNumber) -> Model {
    let point = SnapshotHold::take(core).read_point(core);
    let mut cursor = MergeCursor::new(sources(&core.pages, &point, keyspace), point.at.0);
    cursor.seek_first().unwrap();
    let mut found = Model::new();
    while cursor.valid() {
        found.insert(cursor.key().to_vec(), cursor.value().to_vec());
        cursor.next().unwrap();
    }
    found
}

/// While a synced commit is on its way to the disk, its memtable is sealed and a flush is tried.
#[test]
fn a_memtable_is_not_flushed_before_its_last_commit_is_visible() {
    let mut engine = Engine::new();
    engine.put([1], b"97");
    let tried = Arc::new(AtomicU32::new(0));
    let (core, count) = (engine.core.clone(), tried.clone());
    engine.storage.on_operation(Box::new(move |operation| {
        if operation.kind != OperationKind::WriteSync || count.load(Ordering::Acquire) > 0 {
            return;
        }
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        assert!(flush::begin(&core).is_none(), "the newest commit waits for the disk");
        count.fetch_add(1, Ordering::AcqRel);
    }));
    let mut writes = PendingWrites::new();
    writes.put(engine.keyspace, &key(1), b"99");
    commit(&engine.core, &writes, Durability::Sync, None).unwrap();
    engine.storage.clear_on_operation();
    assert_eq!(tried.load(Ordering::Acquire), 1);
    assert!(flush::begin(&engine.core).is_some());
}

#[test]
fn memtables_are_flushed_in_the_order_of_sealing() {
    let mut engine = Engine::new();
    engine.put([1], b"old");
    engine.seal();
    engine.put([1], b"new");
    engine.seal();
    step::flush_sealed(&engine.core).unwrap();
    let state = engine.core.state();
    let firsts: Vec<_> = state.young.iter().map(|young| young.sequences.unwrap().0).collect();
    assert!(firsts.len() == 2 && firsts[0] > firsts[1], "{firsts:?}");
    assert_eq!(engine.value(1).as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_hundred_snapshots_hold_no_memtable_after_its_flush() {
    let mut engine = Engine::new();
    let mut holds = Vec::new();
    let mut tables = Vec::new();
    for n in 0..100 {
        engine.put([n], b"value");
        holds.push(SnapshotHold::take(&engine.core));
        if n % 10 == 9 {
            tables.push(Arc::downgrade(&engine.core.view().active.table));
            engine.flush();
        }
    }
    assert!(tables.iter().all(|table| table.upgrade().is_none()), "a flushed memtable is held");
    for (hold, n) in holds.iter().zip(0..) {
        let point = hold.read_point(&engine.core);
        assert!(point.memtables.is_empty());
        let mut cursor =
            MergeCursor::new(sources(&engine.core.pages, &point, engine.keyspace), point.at.0);
        cursor.seek_last().unwrap();
        assert_eq!(cursor.key(), key(n));
    }
}

#[test]
fn a_number_below_the_last_is_not_registered_once_the_flush_has_begun() {
    let home = Home::default();
    assert!(home.register(SequenceNumber(97), || unreachable!("it may still rise")));
    assert_eq!(home.close(), [SequenceNumber(97)]);
    assert!(!home.register(SequenceNumber(99), || SequenceNumber(100)));
    assert!(home.register(SequenceNumber(100), || SequenceNumber(100)));
}

/// A thread takes a snapshot; between its look at the newest memtable and the registration another
/// one writes, and the memtable is flushed.
#[test]
fn a_snapshot_that_a_flush_overtakes_sees_no_later_commit() {
    let mut engine = Engine::new();
    engine.put([1], b"before");
    let (core, keyspace) = (engine.core.clone(), engine.keyspace);
    let done = Rc::new(Cell::new(false));
    let seen = done.clone();
    set_hook(Some(Rc::new(move || {
        if seen.replace(true) {
            return;
        }
        let mut writes = PendingWrites::new();
        writes.put(keyspace, &key(1), b"after");
        commit(&core, &writes, Durability::Buffered, None).unwrap();
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        step::flush_sealed(&core).unwrap();
    })));
    let hold = SnapshotHold::take(&engine.core);
    set_hook(None);
    assert!(done.get(), "nothing came in between");
    let point = hold.read_point(&engine.core);
    let mut cursor = MergeCursor::new(sources(&engine.core.pages, &point, keyspace), point.at.0);
    cursor.seek_first().unwrap();
    let wanted: &[u8] = if hold.number() == engine.core.visible() { b"after" } else { b"before" };
    assert!(cursor.valid() && cursor.value() == wanted, "of another instant");
}

/// A last level of many lowest parents, under young segments whose entries are larger.
pub(super) fn with_many_parents() -> Engine {
    let mut engine = Engine::new();
    for start in (0..12_000).step_by(2000) {
        engine.put(start..start + 2000, &[1; 30]);
    }
    engine.flush();
    wait_until_idle(&engine.core).unwrap();
    for round in 0..6 {
        engine.young((0..12_000).skip(round).step_by(16), &[round as u8 + 2; 300]);
    }
    engine
}

#[test]
fn two_promotions_side_by_side_keep_out_of_each_others_range() {
    let engine = with_many_parents();
    let mut plans = Vec::new();
    while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
        plans.push(plan);
        assert!(plans.len() < 1000, "the same range is planned again and again");
    }
    assert!(plans.len() > 1, "only {} promotions side by side", plans.len());
    // The later ones first, so that none is installed over the root that it was planned with.
    while let Some(plan) = plans.pop() {
        promote(&engine.core, plan).unwrap();
    }
    engine.check();
    wait_until_idle(&engine.core).unwrap();
    engine.check();
}

/// A last level of many lowest parents, under a few keys for each.
fn with_few_keys_above() -> Engine {
    let mut engine = Engine::new();
    for start in (0..12_000).step_by(2000) {
        engine.put(start..start + 2000, &[1; 30]);
    }
    engine.flush();
    wait_until_idle(&engine.core).unwrap();
    for round in 0..6 {
        engine.young((0..12_000).skip(round).step_by(100), &[round as u8 + 2; 450]);
    }
    engine
}

/// A step's cursors go on behind its range. What lies there was promoted by others meanwhile, and
/// durable states have let go of it.
#[test]
fn a_step_reads_on_behind_its_range_where_others_have_promoted() {
    let all_plans = |engine: &Engine| -> Vec<_> {
        std::iter::from_fn(|| planned(&engine.core, Pressure::Quiet)).collect()
    };
    // Where one step ends and another begins.
    let mut borders = Vec::new();
    for pair in all_plans(&with_few_keys_above()).windows(2) {
        if pair[0].range.end.as_ref() == Some(&pair[1].range.start) {
            let digits = String::from_utf8_lossy(&pair[1].range.start[4..]).into_owned();
            borders.push(format!("{digits:0<6}").parse::<u32>().unwrap());
        }
    }
    assert!(!borders.is_empty(), "no two steps touch");
    let mut tried = 0;
    loop {
        let mut engine = with_few_keys_above();
        // A leaf for each key: one ends at each border, and the next has one key.
        let keys = borders.iter().flat_map(|border| border - 1..border + 2);
        engine.young(keys, &[9; 800]);
        let mut plans = all_plans(&engine);
        if tried == plans.len() {
            break;
        }
        let plan = plans.swap_remove(tried);
        plans.into_iter().for_each(|plan| promote(&engine.core, plan).unwrap());
        for _ in 0..2 {
            step::flush(&engine.core).unwrap();
        }
        // Whatever is free holds something else by now.
        let allocator = engine.core.pages.allocator();
        for page in (0..allocator.file_pages()).map(PageNumber) {
            if !allocator.is_given(Block::new(page, 1)) {
                engine.storage.overwrite(page.0 * 1024, &[0xaa; 1024]);
            }
        }
        engine.core.pages.cache().clear();
        promote(&engine.core, plan).unwrap_or_else(|error| panic!("step {tried}: {error}"));
        engine.check();
        tried += 1;
    }
}

/// All that lies beside a promotion is deleted and merged away before it installs.
#[test]
fn a_promotion_installs_into_what_others_have_left_of_the_tree() {
    for left in [0..0, 0..1] {
        let mut engine = with_many_parents();
        engine.delete_from(0);
        engine.young(left, b"left");
        let first = planned(&engine.core, Pressure::Quiet).unwrap();
        while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
            promote(&engine.core, plan).unwrap();
        }
        promote(&engine.core, first).unwrap();
        engine.check();
        wait_until_idle(&engine.core).unwrap();
        engine.check();
    }
}

#[test]
fn a_run_keeps_out_of_the_range_of_a_promotion() {
    let mut engine = with_many_parents();
    let mut plans = Vec::new();
    while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
        plans.push(plan);
    }
    let last = plans.pop().unwrap();
    drop(plans);
    assert!(last.stretch.as_ref().is_some_and(|stretch| stretch.range.end.is_none()));
    // Behind all keys: it would take in the last lowest parent, which the promotion replaces.
    engine.young(20_000..20_200, &[9; 30]);
    promote(&engine.core, last).unwrap();
    engine.check();
    wait_until_idle(&engine.core).unwrap();
    engine.check();
}

fn last_entries(engine: &Engine) -> u64 {
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).and_then(|levels| levels.last()).cloned();
    last.and_then(|last| last.points.as_ref().map(|root| root.entries)).unwrap_or(0)
}

/// Of two runs one falls where a promotion is at work.
#[test]
fn a_run_in_a_reserved_range_goes_to_the_young_segment_and_another_beside_it_does_not() {
    let mut engine = with_many_parents();
    wait_until_idle(&engine.core).unwrap();
    // As a promotion into the last level does.
    let levels = LEVEL_ABOVE | LEVEL_LAST;
    let held = KeyRange::new(Vec::new(), Some(key(100)));
    let reservations = &engine.core.background.reservations;
    let promotion = reservations.reserve(engine.keyspace, levels, held).unwrap();
    let entries = last_entries(&engine);
    // Between the first two keys, which the promotion holds, and behind all.
    let inside: Vec<Vec<u8>> = (0..100).map(|n: u32| [key(1), vec![n as u8]].concat()).collect();
    let mut writes = PendingWrites::new();
    for key in &inside {
        writes.put(engine.keyspace, key, &[8; 30]);
        engine.model.insert(key.clone(), vec![8; 30]);
    }
    commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
    engine.put(20_000..20_200, &[9; 30]);
    engine.flush();
    assert_eq!(last_entries(&engine), entries + 200, "the run behind all keys, and no other");
    let young = engine.core.state().young.first().cloned().unwrap();
    assert_eq!(young.points.as_ref().unwrap().entries, 100);
    engine.check();
    drop(promotion);
    wait_until_idle(&engine.core).unwrap();
    let entries = last_entries(&engine);
    engine.put(30_000..30_200, &[9; 30]);
    engine.flush();
    assert_eq!((last_entries(&engine), engine.core.state().young.len()), (entries + 200, 0));
    engine.check();
}

/// Where a step's range ends, its cursors go on to the next leaf, which another step has promoted,
/// and of which the pages are used again.
#[test]
fn what_a_promotion_reads_behind_its_range_is_not_used_again_meanwhile() {
    let mut engine = with_many_parents();
    let first = planned(&engine.core, Pressure::Quiet).unwrap();
    let mut others = Vec::new();
    while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
        others.push(plan);
    }
    assert!(!others.is_empty(), "no promotion beside the first");
    while let Some(plan) = others.pop() {
        promote(&engine.core, plan).unwrap();
    }
    for round in 0..3 {
        step::flush(&engine.core).unwrap();
        engine.young((20_000..30_000).step_by(5), &[round; 300]);
    }
    promote(&engine.core, first).unwrap();
    engine.check();
    wait_until_idle(&engine.core).unwrap();
    engine.check();
}

/// Keys between the first two of `with_many_parents`, as a flush of their own.
fn flush_a_run(engine: &mut Engine) {
    let mut writes = PendingWrites::new();
    for n in 0..100 {
        let key = [key(1), vec![n]].concat();
        writes.put(engine.keyspace, &key, &[8; 30]);
        engine.model.insert(key, vec![8; 30]);
    }
    commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
    let young = engine.core.state().young.len();
    engine.flush();
    assert_eq!(engine.core.state().young.len(), young, "all of it went to the last level");
}

/// A thread looks at the state; before it looks again, or reserves anything, the flush of another
/// changes the tree that the first is about to change.
#[test]
fn a_promotion_planned_in_an_older_state_does_not_undo_what_a_flush_has_installed() {
    let mut engine = with_many_parents();
    let before = engine.core.state();
    flush_a_run(&mut engine);
    if let Some(plan) =
        plan_from(&engine.core, &before, Pressure::Quiet, &mut PassedOver::default()).unwrap()
    {
        promote(&engine.core, plan).unwrap();
    }
    engine.check();
    drop(before);
    wait_until_idle(&engine.core).unwrap();
    engine.check();
}

/// The flush comes while the other thread reads the tree; afterwards nobody else looks for a step.
#[test]
fn a_plan_that_a_flush_has_overtaken_is_made_again() {
    let mut engine = with_many_parents();
    step::flush(&engine.core).unwrap();
    engine.storage = engine.storage.crash_copy(CrashPlan::KeepAll);
    engine.core = open(&engine.storage);
    step::begin_writing(&engine.core).unwrap();
    let (core, keyspace) = (engine.core.clone(), engine.keyspace);
    let fired = Arc::new(AtomicU32::new(0));
    let count = fired.clone();
    engine.storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::Read && count.fetch_add(1, Ordering::AcqRel) == 0 {
            let mut writes = PendingWrites::new();
            for n in 0..100 {
                writes.put(keyspace, &[key(1), vec![n]].concat(), &[8; 30]);
            }
            commit(&core, &writes, Durability::Buffered, None).unwrap();
            let order = core.commit_order.lock();
            core.seal();
            drop(order);
            step::flush_sealed(&core).unwrap();
        }
    }));
    let plan = planned(&engine.core, Pressure::Quiet);
    engine.storage.clear_on_operation();
    assert!(fired.load(Ordering::Acquire) > 0, "nothing was read");
    let run = (0..100).map(|n| ([key(1), vec![n]].concat(), vec![8; 30]));
    engine.model.extend(run);
    promote(&engine.core, plan.expect("all is still to be merged")).unwrap();
    engine.check();
}

/// A last level that is so much larger than what comes that a level above it is used.
pub(super) fn with_a_large_last_level() -> Engine {
    let mut engine = Engine::new();
    for start in (0..12_000).step_by(2000) {
        engine.put(start..start + 2000, &[1; 60]);
    }
    engine.flush();
    wait_until_idle(&engine.core).unwrap();
    engine
}

/// Makes all promotions that are due while writes go on, and sees that they went above the last
/// level.
pub(super) fn promote_above(engine: &Engine, segments: usize) {
    while let Some(plan) = planned(&engine.core, Pressure::Writing) {
        promote(&engine.core, plan).unwrap();
    }
    assert!(engine.core.state().young.is_empty());
    assert_eq!(above_count(engine), segments, "segments above the last one");
    engine.check();
}

pub(super) fn above_count(engine: &Engine) -> usize {
    engine.core.state().levels_of(engine.keyspace).unwrap().iter().count() - 1
}

/// Makes the promotions of quiet times one by one, with a look at the content after each.
fn promote_to_the_last(engine: &Engine) {
    let mut made = 0;
    while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
        promote(&engine.core, plan).unwrap();
        made += 1;
        engine.check();
    }
    assert!(made > 0 && above_count(engine) == 0);
}

/// Two segments above the last level hold the same key, the newer one with the newer value.
#[test]
fn an_older_segment_of_a_level_goes_along_with_a_newer_one() {
    let mut engine = with_a_large_last_level();
    for (value, above) in [(b"old", 1), (b"new", 2)] {
        for _ in 0..8 {
            engine.young([100, 200], value);
        }
        promote_above(&engine, above);
    }
    promote_to_the_last(&engine);
}

#[test]
fn a_tombstone_above_the_last_level_stays() {
    let mut engine = with_a_large_last_level();
    for round in 0..8 {
        engine.delete([100 + round, 200]);
        engine.flush();
    }
    promote_above(&engine, 1);
    promote_to_the_last(&engine);
}

/// Several steps carry pieces of one range tombstone into one segment.
#[test]
fn range_tombstones_of_several_steps_come_together() {
    let mut engine = with_a_large_last_level();
    engine.delete_from(10);
    engine.flush();
    for round in 1..8 {
        engine.young((0..12_000).skip(round).step_by(100), &[round as u8; 60]);
    }
    let before = engine.core.state().epoch;
    promote_above(&engine, 1);
    assert!(engine.core.state().epoch.0 > before.0 + 1, "one step did it all");
    promote_to_the_last(&engine);
}

#[test]
fn a_segment_that_is_still_being_written_is_no_source() {
    let mut engine = with_a_large_last_level();
    for round in 0..8 {
        engine.young((0..12_000).skip(round).step_by(100), &[round as u8; 60]);
    }
    let plan = planned(&engine.core, Pressure::Writing).unwrap();
    promote(&engine.core, plan).unwrap();
    assert!(above_count(&engine) == 1 && !engine.core.state().young.is_empty());
    let plan = planned(&engine.core, Pressure::Quiet).unwrap();
    assert!(plan.sources.iter().all(|source| source.is_young()));
    drop(plan);
    promote_above(&engine, 1);
    promote_to_the_last(&engine);
}

/// A value in blocks of its own is overwritten and flushed away while its record is still to be
/// replayed; what comes then must not lie there.
#[test]
fn a_value_that_replay_would_meet_again_is_not_written_over() {
    for reopen in [false, true] {
        let mut engine = Engine::new();
        step::flush(&engine.core).unwrap();
        let mut writes = PendingWrites::new();
        let byte = |n: u32| (n.wrapping_mul(n / 7 + 3) >> 3) as u8;
        let large: Vec<u8> = (0..100_000).map(byte).collect();
        writes.put(engine.keyspace, &key(1), &large);
        commit(&engine.core, &writes, Durability::Sync, None).unwrap();
        if reopen {
            engine.storage = engine.storage.kill();
            engine.core = open(&engine.storage);
        }
        let named = engine.core.log_named.blocks();
        assert!(!named.is_empty());
        engine.put([1], b"small");
        engine.flush();
        // The first commit after an open makes durable what was replayed: nothing is named then.
        assert!(reopen || engine.core.log_named.blocks() == named);
        for round in 0..4 {
            engine.young(100..1500, &[round; 200]);
            // Until the cut of a durable state has passed the record.
            for block in engine.core.log_named.blocks() {
                let is_given = engine.core.pages.allocator().is_given(block);
                assert!(is_given, "{block:?} is still named");
            }
        }
        let core = open(&engine.storage.crash_copy(CrashPlan::KeepAll));
        assert!(read(&core, engine.keyspace) == engine.model, "other content after the replay");
    }
}

#[test]
fn a_dropped_keyspace_waits_for_the_promotion_in_it() {
    let engine = with_many_parents();
    let plan = planned(&engine.core, Pressure::Quiet).unwrap();
    drop_keyspace(&engine.core, "a", Durability::Buffered).unwrap();
    engine.flush();
    while run_step(&engine.core).unwrap() {}
    assert!(engine.core.state().levels_of(engine.keyspace).is_some(), "a step works there");
    promote(&engine.core, plan).unwrap();
    wait_until_idle(&engine.core).unwrap();
    assert!(engine.core.state().segments_of(engine.keyspace).next().is_none());
    let report = verify_with(&engine.core, Activity::Quiet, &mut |_, _| true).unwrap();
    assert!(report.is_clean() && report.unowned_pages == 0, "{report}");
}

#[test]
fn numbers_of_keyspaces_are_not_used_again_after_a_crash() {
    let mut engine = Engine::new();
    engine.put([1], b"old");
    drop_keyspace(&engine.core, "a", Durability::Buffered).unwrap();
    wait_until_idle(&engine.core).unwrap();
    step::flush(&engine.core).unwrap();
    assert!(engine.core.state().catalogue.get(engine.keyspace).is_none(), "it is forgotten");
    let core = open(&engine.storage.crash_copy(CrashPlan::KeepNone));
    let settings = KeyspaceSettings::default();
    let next = create_keyspace(&core, "b", settings, Durability::Buffered).unwrap();
    assert!(next > engine.keyspace, "{next} after {}", engine.keyspace);
}

/// What was given out since the last durable state is known to nobody after a power cut.
#[test]
fn every_counter_starts_at_its_limit_after_a_crash() {
    let mut engine = Engine::new();
    engine.put(0..100, b"1");
    step::flush(&engine.core).unwrap();
    let states = engine.core.counters.durable_states.load(Ordering::Relaxed);
    for _ in 0..3 {
        engine.young(0..100, b"2");
    }
    assert_eq!(engine.core.counters.durable_states.load(Ordering::Relaxed), states);
    let counters = |core: &Core| {
        let epoch = core.next_epoch.load(Ordering::Relaxed);
        let segment = core.next_segment.load(Ordering::Relaxed);
        [core.commit_numbers().0.0, epoch, segment, core.pages.stamp_counter()]
    };
    let before = counters(&engine.core);
    let after = counters(&open(&engine.storage.crash_copy(CrashPlan::KeepNone)));
    for (before, after) in before.iter().zip(&after) {
        assert!(after >= before, "{before} was given out, and the next is {after}");
    }
    assert!(after.iter().zip(&before).all(|(after, before)| after >= before));
}

/// After a stop a block that is given back stays given out: it may be needed by what is on disk.
#[test]
fn after_a_stop_nothing_is_freed() {
    let mut engine = Engine::new();
    engine.young(0..1000, b"1");
    let hold = SnapshotHold::take(&engine.core);
    step::flush(&engine.core).unwrap();
    wait_until_idle(&engine.core).unwrap();
    let block = engine.core.pages.allocator().allocate(1, 0).unwrap();
    engine.core.stop(&Error::Closed);
    engine.core.free(block);
    assert!(engine.core.pages.allocator().is_given(block));
    drop(hold);
    let given = engine.core.pages.allocator().given_list();
    engine.core.collect_released();
    assert_eq!(engine.core.pages.allocator().given_list(), given);
}

#[test]
fn a_merge_that_does_not_add_up_is_not_installed() {
    let engine = with_many_parents();
    let before = engine.core.state().epoch;
    let given = engine.core.pages.allocator().given_list();
    let plan = planned(&engine.core, Pressure::Quiet).unwrap();
    let error = promote_miscounted(&engine.core, plan).unwrap_err();
    assert!(matches!(error, Error::MergeMismatch { .. }), "{error}");
    assert_eq!(engine.core.state().epoch, before);
    assert_eq!(engine.core.pages.allocator().given_list(), given);
    wait_until_idle(&engine.core).unwrap();
    engine.check();
}

/// What a plan's parents do not hold would be marked as promoted and never be read.
#[test]
fn a_promotion_that_leaves_keys_beside_its_parents_is_not_installed() {
    for is_behind in [false, true] {
        let engine = with_many_parents();
        let (before, given) =
            (engine.core.state().epoch, engine.core.pages.allocator().given_list());
        let mut plan = planned(&engine.core, Pressure::Quiet).unwrap();
        let stretch = plan.stretch.as_mut().unwrap();
        let inside = stretch.leaves.iter().rposition(|leaf| plan.range.contains(&leaf.separator));
        let middle = inside.unwrap() / 2;
        let border = stretch.leaves[middle].separator.clone();
        if is_behind {
            stretch.leaves.truncate(middle);
            stretch.range.end = Some(border);
        } else {
            stretch.leaves.drain(..middle);
            stretch.range.start = border;
        }
        let error = promote(&engine.core, plan).unwrap_err();
        let Error::MergeMismatch { detail, .. } = &error else { panic!("{error}") };
        let place = if is_behind { "behind" } else { "before" };
        assert!(detail.contains(place), "{detail}");
        assert_eq!(engine.core.state().epoch, before);
        assert_eq!(engine.core.pages.allocator().given_list(), given);
        wait_until_idle(&engine.core).unwrap();
        engine.check();
    }
}

#[test]
fn a_flush_whose_runs_do_not_add_up_is_not_installed() {
    let mut engine = with_many_parents();
    wait_until_idle(&engine.core).unwrap();
    // Behind all keys, and so into the last leaf.
    engine.put(20_000..20_200, &[9; 30]);
    engine.seal();
    let before = engine.core.state().epoch;
    let given = engine.core.pages.allocator().given_list();
    let error = flush::flush_miscounted(&engine.core).unwrap_err();
    assert!(matches!(error, Error::MergeMismatch { .. }), "{error}");
    assert_eq!(engine.core.state().epoch, before);
    assert_eq!(engine.core.pages.allocator().given_list(), given);
    step::flush_sealed(&engine.core).unwrap();
    assert_eq!(engine.core.state().young.len(), 0);
    engine.check();
}

/// When nothing that is left of a set can be read, the other keyspaces go on with a newer one; what
/// that has of the first keyspace waits until the older set is gone (G1).
#[test]
fn a_keyspace_that_is_left_behind_waits_in_its_older_set() {
    let mut engine = Engine::new();
    let settings = KeyspaceSettings::default();
    let core = engine.core.clone();
    let broken = engine.keyspace;
    let sound = create_keyspace(&core, "b", settings, Durability::Buffered).unwrap();
    let young = |engine: &mut Engine| {
        for number in 0..8 {
            engine.put([number], b"of the first");
            let mut writes = PendingWrites::new();
            writes.put(sound, &key(number), b"of the second");
            commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
            engine.flush();
        }
    };
    young(&mut engine);
    let sets = |passed_over: &[KeyspaceNumber]| {
        let sets = take_up_sets(&core, &core.state(), Pressure::Writing, passed_over);
        sets.into_iter().map(|set| (set.members.len(), set.due)).collect::<Vec<_>>()
    };
    let merge_sound = || {
        let mut passed_over = PassedOver::default();
        let damage = Corruption::new(Structure::Leaf, "a leaf of the test").into();
        passed_over.add(&core, (broken, Work::Young), damage).unwrap();
        while let Some(plan) = next_plan(&core, Pressure::Writing, &mut passed_over).unwrap() {
            assert_eq!(plan.keyspace, sound);
            promote(&core, plan).unwrap();
        }
    };
    assert_eq!(sets(&[]), [(8, vec![broken, sound])]);
    merge_sound();
    assert_eq!(sets(&[broken]), [(8, vec![])], "there is nothing for another set yet");
    young(&mut engine);
    assert_eq!(sets(&[]), [(8, vec![broken])], "and none begins while nothing is passed over");
    assert_eq!(sets(&[broken]), [(8, vec![]), (8, vec![sound])]);
    assert_eq!(sets(&[]), [(8, vec![broken]), (8, vec![sound])]);
    merge_sound();
    let numbers = |set: usize| {
        let sets = take_up_sets(&core, &core.state(), Pressure::Writing, &[]);
        sets.get(set).map(|set| set.members.iter().map(|young| young.number).collect::<Vec<_>>())
    };
    let older = numbers(0).unwrap();
    while numbers(0).as_ref() == Some(&older) {
        let plan = planned(&core, Pressure::Writing).unwrap();
        assert!(plan.sources.iter().all(|source| older.contains(&source.number)));
        promote(&core, plan).unwrap();
    }
    wait_until_idle(&core).unwrap();
    engine.check();
}

/// The levels of one keyspace cannot be merged into its last one. In quiet times they came first,
/// so that its share of the oldest young segments stayed, and with it everything of all others.
#[test]
fn where_levels_cannot_go_down_young_segments_go_above_them_in_quiet_times_too() {
    let mut engine = with_many_parents();
    let core = engine.core.clone();
    let other = create_keyspace(&core, "b", KeyspaceSettings::default(), Durability::Buffered);
    let other = other.unwrap();
    wait_until_idle(&core).unwrap();
    for round in 0..8 {
        engine.young((0..12_000).skip(round).step_by(1000), &[9; 30]);
    }
    while let Some(plan) = planned(&core, Pressure::Writing) {
        promote(&core, plan).unwrap();
    }
    let levels = |core: &Core| core.state().levels_of(engine.keyspace).unwrap().levels.len();
    assert!(levels(&core) > 1, "nothing stands above the last level");
    engine.young(std::iter::once(5), &[7; 30]);
    let mut writes = PendingWrites::new();
    writes.put(other, b"k", b"of the other");
    commit(&core, &writes, Durability::Buffered, None).unwrap();
    engine.flush();
    let mut passed_over = PassedOver::default();
    let damage = Corruption::new(Structure::Leaf, "a leaf of the test").into();
    passed_over.add(&core, (engine.keyspace, Work::Above), damage).unwrap();
    while let Some(plan) = next_plan(&core, Pressure::Quiet, &mut passed_over).unwrap() {
        promote(&core, plan).unwrap();
    }
    assert_eq!(core.state().young.len(), 0, "what waits above holds up all");
    wait_until_idle(&core).unwrap();
    engine.check();
}

/// While the system takes one large record, whoever brings another waits outside the log's memory.
#[test]
fn large_records_do_not_pile_up_in_the_memory_of_the_log() {
    let (storage, region_bytes) = (SimulatedStorage::new(), 32 << 20);
    let log_bytes_min = 24 << 20;
    let options = Options { memory_budget: 64 << 20, region_bytes, log_bytes_min, ..options() };
    let core = create::create(Arc::new(storage.clone()), options, Clock::fake().0).unwrap();
    let settings = KeyspaceSettings::default();
    let keyspace = create_keyspace(&core, "a", settings, Durability::Buffered).unwrap();
    let put_large = move |core: &Arc<Core>, first: u32| {
        let mut writes = PendingWrites::new();
        (first..first + RECORD_PUTS).for_each(|n| writes.put(keyspace, &key(n), &[7; 4000]));
        commit(core, &writes, Durability::Buffered, None).unwrap();
    };
    let (others, begun) = (Arc::new(Mutex::new(Vec::new())), AtomicU32::new(0));
    let most = Arc::new(AtomicU64::new(0));
    let (inner, threads, seen) = (core.clone(), others.clone(), most.clone());
    storage.on_operation(Box::new(move |operation| {
        if operation.kind != OperationKind::Write || operation.length < PIECE_BYTES_MIN {
            return;
        }
        if begun.fetch_add(1, Ordering::Relaxed) == 0 {
            for first in [RECORD_PUTS, 2 * RECORD_PUTS] {
                let core = inner.clone();
                let other = spawn("other", move || put_large(&core, first)).unwrap();
                threads.lock().push(other);
            }
            // Time to come as far as they can.
            Clock::real().sleep(Duration::from_millis(300));
        }
        seen.fetch_max(inner.log.unwritten_bytes(), Ordering::Relaxed);
    }));
    put_large(&core, 0);
    others.lock().drain(..).for_each(|other| other.join().unwrap());
    storage.clear_on_operation();
    let most = most.load(Ordering::Relaxed);
    assert!((RECORD_BYTES_MIN..2 * RECORD_BYTES_MIN).contains(&most), "{most} bytes at once");
    assert_eq!(read(&core, keyspace).len(), 3 * RECORD_PUTS as usize);
}

/// Small commits are always on their way: one that brings much would wait for as long as they come.
#[test]
fn a_large_record_does_not_wait_for_small_ones() {
    let mut engine = Engine::new();
    engine.put([1], &[1; 30]);
    let mut writes = PendingWrites::new();
    writes.put(engine.keyspace, b"k", &[2; 1000]);
    commit(&engine.core, &writes, Durability::Memory, None).unwrap();
    assert!(engine.core.log.unwritten_bytes() > 0);
    assert!(!is_log_behind(&engine.core, 2 << 20));
}

/// Writes from this length on are pieces of large records.
const PIECE_BYTES_MIN: u64 = 16 << 10;
/// What one large record holds, and about how many bytes that are at least.
const RECORD_PUTS: u32 = 1_250;
const RECORD_BYTES_MIN: u64 = RECORD_PUTS as u64 * 4000;

/// Short range tombstones without numbers take more than six times as much in memory as in leaves.
#[test]
fn a_step_takes_no_more_range_tombstones_than_its_part_of_the_budget_holds() {
    let engine = with_a_large_last_level();
    // All of them lie before the first key.
    let border = |n: u32| n.to_be_bytes()[1..].to_vec();
    for part in 0..8 {
        let mut writes = PendingWrites::new();
        for n in part * 600..(part + 1) * 600 {
            let range = KeyRange::new(border(n * 2), Some(border(n * 2 + 1)));
            writes.delete_range(engine.keyspace, range);
        }
        commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
        engine.flush();
    }
    promote_above(&engine, 1);
    let bytes_max = options().memory_budget as usize / 16 + 10_000;
    let mut steps = 0;
    while let Some(plan) = planned(&engine.core, Pressure::Quiet) {
        let (pages, sources) = (&engine.core.pages, &plan.sources);
        let fragments = source_fragments(pages, engine.keyspace, sources, &plan.range).unwrap();
        let bytes = fragments.map(|fragment| fragment.unwrap().memory_bytes()).sum::<usize>();
        assert!(bytes <= bytes_max, "{bytes} bytes in one step");
        promote(&engine.core, plan).unwrap();
        steps += 1;
    }
    assert!(steps > 1, "{steps} steps");
    engine.check();
}

/// On a full device the flushes of many small memtables took the whole reserve.
#[test]
fn each_memtable_that_waits_is_owed_what_its_flush_writes_at_least() {
    let owed = |seals: bool| {
        let mut engine = Engine::new();
        for n in 0..10 {
            engine.put([n], b"v");
            if seals {
                engine.seal();
            }
        }
        owed_pages(&engine.core)
    };
    let (together, apart) = (owed(false), owed(true));
    assert!(apart >= together + 27, "{apart} pages, and {together} for one memtable");
}
