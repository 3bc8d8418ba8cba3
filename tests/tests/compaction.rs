//! `compact`: in steps, of everything or of a range, with progress, and until it is cancelled.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::hooked::HookedStorage;
use sapwood::segment::key_range::KeyRange;
use sapwood::storage::{MemoryStorage, OperationKind};
use sapwood::sync::atomic::{AtomicBool, Ordering};
use sapwood::sync::{Arc, Clock, FakeClock, Random, channel};
use sapwood::{Database, Durability, Error, Keyspace, Snapshot};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Small steps; the clock stands, so that nothing is merged because writes pause.
fn still() -> (Database, FakeClock) {
    let (clock, hand) = Clock::fake();
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0).leaf_bytes(1024);
    let builder = builder.page_size(1024).region_bytes(1 << 20).step_bytes(64 << 10);
    let builder = builder.durability(Durability::Memory).clock(clock);
    (builder.open_on(Arc::new(MemoryStorage::new())).unwrap(), hand)
}

fn key(n: u64) -> Vec<u8> {
    format!("{n:05}").into_bytes()
}

/// Writes of all kinds to a keyspace and its model.
fn write(keyspace: &Keyspace, pairs: &mut Pairs, random: &mut Random, count: u64) {
    for _ in 0..count {
        let at = random.below(3000);
        match random.below(16) {
            0..=2 => {
                keyspace.delete(key(at)).unwrap();
                pairs.remove(&key(at));
            }
            3 => {
                let end = at + random.below(60);
                keyspace.delete_range(key(at)..key(end)).unwrap();
                pairs.retain(|found, _| *found < key(at) || *found >= key(end));
            }
            kind => {
                let mut value = vec![0; if kind == 4 { 3_000 } else { 60 }];
                random.fill(&mut value);
                keyspace.put(key(at), &value).unwrap();
                pairs.insert(key(at), value);
            }
        }
    }
}

fn read(keyspace: &Keyspace) -> Pairs {
    let pair = |pair: sapwood::Result<(sapwood::Key, sapwood::Value)>| {
        let (key, value) = pair.unwrap();
        (key.to_vec(), value.to_vec())
    };
    keyspace.iter().unwrap().map(pair).collect()
}

fn read_at(snapshot: &Snapshot, keyspace: &Keyspace) -> Pairs {
    let pairs = snapshot.iter(keyspace).unwrap().map(Result::unwrap);
    pairs.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Young segments, and levels, with tombstones in them.
fn loaded() -> (Database, Keyspace, Pairs) {
    let (database, _) = still();
    let keyspace = database.keyspace("a").unwrap();
    let (mut pairs, mut random) = (Pairs::new(), Random::from_seed(7));
    for _ in 0..5 {
        write(&keyspace, &mut pairs, &mut random, 1500);
        database.flush().unwrap();
    }
    (database, keyspace, pairs)
}

/// What stands above the last level; and tombstones anywhere.
fn above(database: &Database) -> (usize, u64) {
    let state = database.core().unwrap().state();
    let levels = state.levels.values().map(|levels| levels.iter().count().saturating_sub(1));
    let all: Vec<_> =
        state.young.iter().chain(state.levels.values().flat_map(|levels| levels.iter())).collect();
    let points = all.iter().filter_map(|s| s.points.as_ref()).map(|root| root.tombstones);
    let ranges = all.iter().filter_map(|s| s.ranges.as_ref()).map(|root| root.entries);
    (state.young.len() + levels.sum::<usize>(), points.chain(ranges).sum())
}

#[test]
fn everything_comes_into_one_segment_without_tombstones_in_many_steps() {
    let (database, keyspace, pairs) = loaded();
    let (segments, tombstones) = above(&database);
    assert!(segments > 3 && tombstones > 100, "{segments} segments, {tombstones} tombstones");
    let mut reports = Vec::new();
    let mut note = |done: u64, total: u64| {
        reports.push((done, total));
        true
    };
    database.compact_with(&mut note).unwrap();
    assert_eq!(above(&database), (0, 0));
    assert_eq!(read(&keyspace), pairs);
    assert_eq!(access::verify(&database).unwrap(), None);
    assert!(reports.is_sorted_by_key(|report| report.0), "{reports:?}");
    let (done, total) = *reports.last().unwrap();
    assert!(done == total && total > 200_000, "{reports:?}");
    let between = reports.iter().filter(|report| report.0 > 0 && report.0 < total).count();
    assert!(between >= 5, "{reports:?}");
}

#[test]
fn a_pass_that_is_cancelled_anywhere_loses_nothing_and_can_be_made_again() {
    for at in [0_u32, 1, 2, 3, 5, 8, 13, 21, 34] {
        let (database, keyspace, pairs) = loaded();
        let mut left = at;
        let cancelled = database.compact_with(&mut |_: u64, _: u64| {
            let goes_on = left > 0;
            left = left.saturating_sub(1);
            goes_on
        });
        assert!(matches!(cancelled, Err(Error::Cancelled)) || left > 0, "at {at}");
        assert_eq!(read(&keyspace), pairs, "at {at}");
        assert_eq!(access::verify(&database).unwrap(), None, "at {at}");
        database.compact().unwrap();
        assert_eq!(above(&database), (0, 0), "at {at}");
        assert_eq!(read(&keyspace), pairs, "at {at}");
    }
}

#[test]
fn a_range_is_compacted_and_the_rest_is_left() {
    let (database, keyspace, pairs) = loaded();
    let other = database.keyspace("b").unwrap();
    let mut others = Pairs::new();
    for seed in 1..3 {
        write(&other, &mut others, &mut Random::from_seed(seed), 1000);
        database.flush().unwrap();
    }
    let snapshot = database.snapshot().unwrap();
    let mut most = (0, 0);
    let mut note = |done: u64, total: u64| {
        most = (done, total);
        true
    };
    keyspace.compact(key(1000)..key(2000), &mut note).unwrap();
    assert!(most.0 == most.1 && most.1 > 0, "{most:?}");
    let state = database.core().unwrap().state();
    let number = state.catalogue.find("a").unwrap().0;
    let wanted = KeyRange::new(key(1000), Some(key(2000)));
    let composite = sapwood::segment::descriptor::composite_range(number, &wanted);
    let whole = sapwood::segment::descriptor::composite_range(number, &KeyRange::all());
    let of_it: Vec<_> =
        state.young.iter().filter(|young| young.share_of(number).is_some()).collect();
    assert!(!of_it.is_empty());
    for young in of_it {
        assert!(young.promoted.covers(&composite), "{:?}", young.promoted);
        assert!(!young.promoted.covers(&whole), "{:?}", young.promoted);
    }
    let others_number = state.catalogue.find("b").unwrap().0;
    let all = sapwood::segment::descriptor::composite_range(others_number, &KeyRange::all());
    assert!(state.young.iter().any(|young| young.share_of(others_number).is_some()));
    assert!(!state.young.iter().any(|young| young.promoted.overlaps(&all)), "it was merged too");
    assert!(most.1 < 2 * 1000 * 1000, "{most:?}");
    assert_eq!(read(&keyspace), pairs);
    assert_eq!(read(&other), others);
    assert_eq!(read_at(&snapshot, &keyspace), pairs);
    assert_eq!(access::verify(&database).unwrap(), None);
    let epoch = database.core().unwrap().state().epoch;
    keyspace.compact(key(1000)..key(2000), &mut ()).unwrap();
    assert_eq!(database.core().unwrap().state().epoch, epoch, "nothing was left to do");
}

/// Without a reserve a step holds no part of it by which others would know of it.
#[test]
fn whoever_waits_for_rest_waits_for_the_steps_of_a_compaction() {
    let is_armed = Arc::new(AtomicBool::new(false));
    let was_early = Arc::new(AtomicBool::new(false));
    let (says, is_told) = channel::bounded(1);
    let (ends, has_ended) = channel::bounded(1);
    let (armed, early) = (Arc::clone(&is_armed), Arc::clone(&was_early));
    let storage = HookedStorage::new(Arc::new(MemoryStorage::new()), move |kind, _| {
        if kind == OperationKind::Write && armed.swap(false, Ordering::AcqRel) {
            says.send(()).unwrap();
            // Whoever does not wait has ended long before.
            let answer = has_ended.recv_timeout(Duration::from_millis(300));
            early.store(answer.is_ok(), Ordering::Release);
        }
        Ok(())
    });
    let builder = Database::builder().merge_threads(0).reserve_bytes(0);
    let builder = builder.durability(Durability::Memory).clock(Clock::fake().0);
    let database = builder.open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for round in 0..3 {
        for n in 0..200 {
            keyspace.put(key(n), [round; 60]).unwrap();
        }
        database.flush().unwrap();
    }
    is_armed.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            is_told.recv().unwrap();
            database.wait_until_idle().unwrap();
            ends.send(()).unwrap();
        });
        keyspace.compact::<&[u8]>(.., &mut ()).unwrap();
    });
    assert!(!was_early.load(Ordering::Acquire), "it has not waited");
    assert_eq!(above(&database), (0, 0));
}

#[test]
fn a_snapshot_that_needs_tombstones_keeps_its_state() {
    let (database, keyspace, mut pairs) = loaded();
    let snapshot = database.snapshot().unwrap();
    let before = pairs.clone();
    for n in 500..900 {
        keyspace.delete(key(n)).unwrap();
        pairs.remove(&key(n));
    }
    keyspace.delete_range(key(1500)..).unwrap();
    pairs.retain(|found, _| *found < key(1500));
    database.compact().unwrap();
    assert_eq!(above(&database), (0, 0));
    assert_eq!(read(&keyspace), pairs);
    assert_eq!(read_at(&snapshot, &keyspace), before);
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// Ranges are compacted between steps of merges that are under way, also while a segment above the
/// last level is being written.
#[test]
fn ranges_may_be_compacted_between_the_steps_of_merges() {
    let mut met_open = 0;
    for seed in 0..4 {
        let (database, hand) = still();
        let mut random = Random::from_seed(seed);
        let names = ["a", "b"];
        let keyspaces = names.map(|name| database.keyspace(name).unwrap());
        let mut models = [Pairs::new(), Pairs::new()];
        // Behind the keys that are written: a large last level, so that there is one above it.
        for n in 3000..4000 {
            let mut value = vec![0; 1800];
            random.fill(&mut value);
            keyspaces[0].put(key(n), &value).unwrap();
            models[0].insert(key(n), value);
        }
        database.compact().unwrap();
        let mut kept: Vec<(Snapshot, [Pairs; 2])> = Vec::new();
        for _ in 0..60 {
            let which = random.below(2) as usize;
            match random.below(10) {
                0..=4 => {
                    write(&keyspaces[which], &mut models[which], &mut random, 250);
                    database.flush().unwrap();
                }
                5..=6 => {
                    for _ in 0..random.below(4) {
                        database.run_step().unwrap();
                    }
                }
                7..=8 => {
                    let core = database.core().unwrap();
                    let jobs = core.background.jobs.lock();
                    met_open += jobs.young_sets.iter().map(|set| set.above.len()).sum::<usize>();
                    drop(jobs);
                    let (start, length) = (random.below(3000), random.below(2000));
                    let mut left = random.below(6);
                    let _ = keyspaces[which].compact(
                        key(start)..key(start + length),
                        &mut |_: u64, _: u64| {
                            left += 1;
                            left != 5
                        },
                    );
                }
                _ if random.one_in(3) => {
                    hand.advance(Duration::from_secs(1));
                    database.wait_until_idle().unwrap();
                }
                _ if kept.len() < 3 => kept.push((database.snapshot().unwrap(), models.clone())),
                _ => drop(kept.remove(random.below(3) as usize)),
            }
            for (snapshot, then) in &kept {
                assert_eq!(&read_at(snapshot, &keyspaces[0]), &then[0], "seed {seed}");
            }
            assert_eq!(read(&keyspaces[which]), models[which], "seed {seed}");
        }
        assert_eq!(access::verify(&database).unwrap(), None, "seed {seed}");
        for (snapshot, then) in &kept {
            assert_eq!(&read_at(snapshot, &keyspaces[1]), &then[1], "seed {seed}");
        }
        drop(kept);
        database.compact().unwrap();
        assert_eq!(above(&database), (0, 0), "seed {seed}");
        assert_eq!(read(&keyspaces[0]), models[0], "seed {seed}");
        assert_eq!(read(&keyspaces[1]), models[1], "seed {seed}");
        assert_eq!(access::verify(&database).unwrap(), None, "seed {seed}");
    }
    assert!(met_open > 5, "a segment above was open {met_open} times");
}

#[test]
fn a_pass_ends_though_others_write_all_the_time() {
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(2);
    let builder = builder.step_bytes(64 << 10).durability(Durability::Memory);
    let database = builder.open_on(Arc::new(MemoryStorage::new())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(3);
    let mut pairs = Pairs::new();
    write(&keyspace, &mut pairs, &mut random, 20_000);
    let (writer, mut rounds) = (keyspace.clone(), 0);
    database
        .compact_with(&mut |_: u64, _: u64| {
            rounds += 1;
            write(&writer, &mut pairs, &mut random, 100);
            true
        })
        .unwrap();
    assert!(rounds > 3);
    assert_eq!(read(&keyspace), pairs);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_keyspace_that_was_dropped_is_not_compacted() {
    let (database, keyspace, _) = loaded();
    database.drop_keyspace("a").unwrap();
    let error = keyspace.compact::<&[u8]>(.., &mut ()).unwrap_err();
    assert!(matches!(error, Error::KeyspaceDropped(_)), "{error:?}");
    database.compact().unwrap();
    assert_eq!(above(&database), (0, 0));
    database.close().unwrap();
    assert!(matches!(keyspace.compact::<&[u8]>(.., &mut ()), Err(Error::Closed)));
}

/// The last level and what was overwritten of it fill three quarters of the file, and what dies by
/// the steps would fill the rest: only a durable state frees it.
#[test]
fn a_compaction_that_finds_no_room_frees_what_has_died() {
    for threads in [0, 2] {
        let builder = Database::builder().memory_budget(8 << 20).merge_threads(threads);
        let builder = builder.max_file_bytes(24 << 20).durability(Durability::Memory);
        let database = builder.open_on(Arc::new(MemoryStorage::new())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(9);
        let mut put = |n: u64| {
            let mut value = vec![0; 1000];
            random.fill(&mut value);
            keyspace.put(key(n), &value).unwrap();
        };
        (0..12_000).for_each(&mut put);
        database.compact().unwrap();
        (0..6_000).for_each(|n| put(n * 7_919 % 12_000));
        database.flush().unwrap();
        database.compact().unwrap_or_else(|error| panic!("with {threads} threads: {error}"));
        assert_eq!(above(&database).0, 0, "with {threads} threads");
        assert_eq!(keyspace.iter().unwrap().map(Result::unwrap).count(), 12_000);
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}
