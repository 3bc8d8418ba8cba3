//! The engine below the public face, driven step by step against a model.

use std::collections::BTreeMap;

use super::commit::{commit, create_keyspace};
use super::{PendingWrites, ReadSet};
use crate::merge::step::{close, run_step, sync, wait_until_idle};
use crate::options::{Durability, Options};
use crate::segment::coverage::newly_covered;
use crate::segment::key_range::KeyRange;
use crate::segment::merge_cursor::MergeCursor;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::lookup::{Found, get};
use crate::state::sources::sources;
use crate::state::{Core, ReadPoint, SnapshotHold, create, recovery};
use crate::storage::SimulatedStorage;
use crate::sync::{Arc, Clock, Random};
use crate::types::KeyspaceNumber;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn tiny() -> Options {
    Options {
        memory_budget: 1 << 20,
        page_size: 1024,
        region_bytes: 1 << 20,
        leaf_bytes: 2048,
        step_bytes: 64 << 10,
        log_bytes_min: 256 << 10,
        merge_threads: 0,
        ..Options::default()
    }
}

fn value_of(core: &Core, keyspace: KeyspaceNumber, found: Found) -> Vec<u8> {
    match found {
        Found::Copied(value) => value,
        Found::InFrame(frame, range) => frame.content()[range].to_vec(),
        Found::Overflow(reference) => {
            let reader =
                crate::segment::overflow::OverflowReader::open(&*core.pages, keyspace, &reference);
            reader.unwrap().read_all(1 << 30).unwrap()
        }
    }
}

fn check(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    hold: &SnapshotHold,
    model: &Model,
    seed: u64,
) {
    let point = hold.read_point(core);
    let mut cursor = MergeCursor::new(sources(&core.pages, &point, keyspace), point.at.0);
    cursor.seek_first().unwrap();
    let mut expected = model.iter();
    while cursor.valid() {
        let (key, _) = expected.next().unwrap_or_else(|| panic!("seed {seed}: an extra key"));
        assert_eq!(cursor.key(), key, "seed {seed}: forward");
        cursor.next().unwrap();
    }
    assert_eq!(expected.next(), None, "seed {seed}: a key is missing");
    cursor.seek_last().unwrap();
    let mut expected = model.iter().rev();
    while cursor.valid() {
        assert_eq!(Some(cursor.key()), expected.next().map(|e| &e.0[..]), "seed {seed}: backward");
        cursor.previous().unwrap();
    }
    assert_eq!(expected.next(), None, "seed {seed}: a key is missing going backward");
    for (key, value) in model {
        let found = get(core, &point, keyspace, key).unwrap();
        let found = found.map(|found| value_of(core, keyspace, found));
        assert_eq!(found.as_ref(), Some(value), "seed {seed}: get");
    }
}

fn random_key(random: &mut Random, space: u64) -> Vec<u8> {
    format!("key{:05}", random.below(space)).into_bytes()
}

#[test]
fn random_writes_merges_snapshots_and_reopens_match_a_model() {
    for seed in 0..40 {
        run_seed(seed);
    }
}

fn run_seed(seed: u64) {
    let mut random = Random::from_seed(seed);
    let storage = SimulatedStorage::new();
    let clock = || Clock::fake().0;
    let mut core = create::create(Arc::new(storage.clone()), tiny(), clock()).unwrap();
    let settings = KeyspaceSettings::default();
    let keyspace = create_keyspace(&core, "a", settings, Durability::Buffered).unwrap();
    let other = create_keyspace(&core, "b", settings, Durability::Buffered).unwrap();
    let mut model = Model::new();
    let mut snapshots: Vec<(SnapshotHold, Model)> = Vec::new();
    let space = 1 + random.below(3000);
    for round in 0..120 {
        let mut writes = PendingWrites::new();
        for _ in 0..random.below(60) {
            let key = random_key(&mut random, space);
            match random.below(20) {
                0..=2 => {
                    writes.delete(keyspace, &key);
                    model.remove(&key);
                }
                3 if random.one_in(4) => {
                    let end = random_key(&mut random, space).max(key.clone());
                    model.retain(|k, _| *k < key || *k >= end);
                    writes.delete_range(keyspace, KeyRange::new(key, Some(end)));
                }
                n => {
                    let length = if n == 4 { random.below(5000) } else { random.below(120) };
                    let length = if random.one_in(400) { 70_000 } else { length };
                    let mut value = vec![0; length as usize];
                    random.fill(&mut value);
                    writes.put(keyspace, &key, &value);
                    writes.put(other, &key, b"x");
                    model.insert(key, value);
                }
            }
        }
        let durability = match random.below(8) {
            0 => Durability::Sync,
            1..=4 => Durability::Buffered,
            _ => Durability::Memory,
        };
        commit(&core, &writes, durability, None).unwrap();
        for _ in 0..random.below(4) {
            run_step(&core).unwrap();
            all_is_referenced(&core, &format!("seed {seed}, round {round}, after a step"));
        }
        all_is_referenced(&core, &format!("seed {seed}, round {round}"));
        if random.one_in(12) {
            snapshots.push((SnapshotHold::take(&core), model.clone()));
        }
        if snapshots.len() > 3 {
            let index = random.below(snapshots.len() as u64) as usize;
            let (hold, then) = snapshots.swap_remove(index);
            check(&core, keyspace, &hold, &then, seed);
        }
        if random.one_in(40) {
            for (hold, then) in snapshots.drain(..) {
                check(&core, keyspace, &hold, &then, seed);
            }
            if random.one_in(2) {
                close(&core).unwrap();
            } else {
                sync(&core).unwrap();
            }
            drop(core);
            core = recovery::open(Arc::new(storage.clone()), tiny(), clock()).unwrap();
        }
        if round % 30 == 29 {
            check(&core, keyspace, &SnapshotHold::take(&core), &model, seed);
        }
    }
    for (hold, then) in snapshots.drain(..) {
        check(&core, keyspace, &hold, &then, seed);
    }
    wait_until_idle(&core).unwrap();
    check(&core, keyspace, &SnapshotHold::take(&core), &model, seed);
    let state = core.state();
    assert!(state.young.is_empty(), "seed {seed}: quiet means no young segments");
    for levels in state.levels.values() {
        assert_eq!(levels.iter().count(), 1, "seed {seed}: one segment for each keyspace");
    }
    drop(state);
    nothing_leaks(&core, seed);
    let _ = ReadSet::new(1024);
    let _ = ReadPoint::latest(&core);
}

/// Every node of the current state is given out and referenced.
fn all_is_referenced(core: &Arc<Core>, what: &str) {
    let state = core.state();
    let all = [KeyRange::all()].into_iter().collect();
    let mut seen = crate::page::BlockList::new();
    let mut look = |keyspace, segment: &crate::segment::descriptor::Segment| {
        for (root, promoted) in segment
            .points
            .iter()
            .map(|root| (root, (*segment.promoted).clone()))
            .chain(segment.ranges.iter().map(|root| (root, Default::default())))
        {
            let nodes = newly_covered(&core.pages, keyspace, root, &promoted, &all).unwrap();
            for (block, birth) in nodes.nodes {
                assert!(
                    core.pages.allocator().is_referenced(block),
                    "{what}: {block:?} born {birth} of segment {} of {keyspace}",
                    segment.number
                );
                seen.insert(block);
            }
        }
    };
    for young in &state.young {
        look(KeyspaceNumber::MANY, young);
    }
    for (keyspace, levels) in &state.levels {
        for segment in levels.iter() {
            look(*keyspace, segment);
        }
    }
}

/// With nothing held, what is given out is what the current state references, and the state's own
/// blocks.
fn nothing_leaks(core: &Arc<Core>, seed: u64) {
    core.collect_released();
    let given = core.pages.allocator().given_list();
    let referenced = core.pages.allocator().referenced_list();
    let mut rest = given.difference(&referenced);
    for block in core.durable.own_blocks() {
        rest.remove_any(block);
    }
    for block in core.held.blocks().blocks.into_iter().chain(core.log_named.blocks()) {
        rest.remove_any(block);
    }
    assert!(rest.is_empty(), "seed {seed}: leaked {rest:?}");
}

/// The number that young segments have for their nodes was given out, and the one after it
/// overflowed.
#[test]
fn when_the_numbers_of_keyspaces_have_run_out_no_more_are_made() {
    let storage = Arc::new(SimulatedStorage::new());
    let core = create::create(storage, tiny(), Clock::fake().0).unwrap();
    let create = |name| create_keyspace(&core, name, KeyspaceSettings::default(), Durability::Sync);
    core.numbers.next_keyspace.store(u32::MAX - 1, crate::sync::atomic::Ordering::Release);
    assert_eq!(create("the last").unwrap(), KeyspaceNumber(u32::MAX - 1));
    assert!(matches!(create("one more"), Err(crate::error::Error::NoSpace { .. })));
    close(&core).unwrap();
}
