//! What starts a merge, and what does not; what tombstones become; which blocks new nodes go to.

use crate::lab::{Lab, key, value};
use sapwood::KeyspaceNumber;
use sapwood::merge::debt::{ABOVE_COUNT_MAX, Debt, YOUNG_MERGE_COUNT, YOUNG_SLOW_COUNT};
use sapwood::merge::verify::live_blocks;
use sapwood::state::State;
use sapwood::sync::atomic::Ordering;
use sapwood::sync::{Arc, Random};

struct Levels {
    lab: Lab,
    random: Random,
}

impl Levels {
    /// One keyspace whose last level is large beside what comes.
    fn new() -> Levels {
        Levels::of(Lab::in_memory())
    }

    fn of(mut lab: Lab) -> Levels {
        lab.create();
        let mut levels = Levels { lab, random: Random::from_seed(6) };
        levels.put(0..6000, 100);
        levels.lab.database.wait_until_idle().unwrap();
        assert_eq!(levels.counts(), (0, 0, 1));
        levels
    }

    fn put(&mut self, numbers: std::ops::Range<u64>, bytes: usize) {
        for number in numbers {
            let bytes = value(&mut self.random, bytes);
            self.lab.put(0, &key(number), &bytes);
        }
    }

    /// One more young segment.
    fn flush_some(&mut self) {
        let start = self.random.below(6000);
        self.put(start..start + 10, 100);
        self.lab.database.flush().unwrap();
    }

    fn state(&self) -> Arc<State> {
        self.lab.core.state()
    }

    fn number(&self) -> KeyspaceNumber {
        *self.state().levels.keys().next().unwrap()
    }

    /// Young segments, segments above the last level, and those of the last.
    fn counts(&self) -> (usize, usize, usize) {
        let state = self.state();
        let levels = state.levels.values().next();
        let all = levels.map_or(0, |levels| levels.iter().count());
        let last = levels.map_or(0, |levels| usize::from(levels.last().is_some()));
        (state.young.len(), all - last, last)
    }

    fn promotions(&self) -> u64 {
        self.lab.core.counters.promotions.load(Ordering::Relaxed)
    }

    /// Runs steps while writes go on; returns the promotions.
    fn run(&self) -> u64 {
        let before = self.promotions();
        self.lab.run_all();
        self.promotions() - before
    }
}

#[test]
fn as_many_young_segments_as_the_debt_asks_for_start_one_merge_and_one_fewer_starts_none() {
    let mut levels = Levels::new();
    for count in 1..YOUNG_MERGE_COUNT {
        levels.flush_some();
        assert_eq!(levels.run(), 0, "{count} young segments");
        assert_eq!(levels.counts(), (count, 0, 1));
    }
    levels.flush_some();
    assert!(levels.run() > 0);
    assert_eq!(levels.counts(), (0, 1, 1), "all of them, into one segment");
    assert_eq!(levels.run(), 0, "and then all is quiet");
    levels.lab.compare();
    levels.lab.check_at_rest();
}

#[test]
fn debt_grows_with_what_is_owed_and_is_none_while_merging_keeps_up() {
    let mut levels = Levels::new();
    let mut least = 0.0;
    for count in 1..=YOUNG_SLOW_COUNT {
        levels.flush_some();
        assert_eq!(levels.counts(), (count, 0, 1), "a flush makes no other step");
        let owed = Debt::of(levels.state().backlog(), 0, 1000).felt();
        assert_eq!(owed == 0.0, count <= YOUNG_MERGE_COUNT, "{count} young segments: {owed}");
        assert!(owed > least || owed == 0.0, "{count} young segments: {owed} after {least}");
        assert_eq!(owed >= 1.0, count >= YOUNG_SLOW_COUNT, "{count} young segments: {owed}");
        least = owed;
    }
    levels.run();
    let of_memory = |bytes| Debt::of(levels.state().backlog(), bytes, 1000).felt();
    assert_eq!(of_memory(1000), 0.0, "one memtable may fill");
    assert!(of_memory(1200) > 0.0 && of_memory(1600) > of_memory(1200));
    assert!(of_memory(2000) >= 1.0, "and one more while it is flushed");
}

#[test]
fn debt_falls_with_every_step_of_a_merge_and_not_at_its_end() {
    let mut levels = Levels::new();
    for _ in 0..YOUNG_MERGE_COUNT {
        for index in 0..300 {
            levels.put(index * 20..index * 20 + 1, 100);
        }
        levels.lab.database.flush().unwrap();
    }
    let mut left = levels.state().backlog().young;
    assert_eq!(left, YOUNG_MERGE_COUNT as f64);
    let mut promotions = levels.promotions();
    let mut falls = Vec::new();
    while levels.lab.database.run_step().unwrap() {
        let now = levels.state().backlog().young;
        assert!(now <= left);
        if levels.promotions() > promotions {
            falls.push(left - now);
        }
        (left, promotions) = (now, levels.promotions());
    }
    assert_eq!(left, 0.0);
    assert!(falls.len() > 4, "{falls:?}");
    let most = falls.iter().copied().fold(0.0, f64::max);
    assert!(most < YOUNG_MERGE_COUNT as f64 / 2.0, "no step pays most of it: {falls:?}");
    levels.lab.check_at_rest();
}

#[test]
fn what_is_owed_most_is_merged_first() {
    let mut levels = Levels::new();
    let flush_many = |levels: &mut Levels, count| {
        for _ in 0..count {
            for index in 0..100 {
                levels.put(index * 60..index * 60 + 1, 100);
            }
            levels.lab.database.flush().unwrap();
        }
    };
    for _ in 0..ABOVE_COUNT_MAX {
        flush_many(&mut levels, YOUNG_MERGE_COUNT);
        while levels.counts().0 > 0 {
            assert!(levels.lab.database.run_step().unwrap());
        }
    }
    assert_eq!(levels.counts(), (0, ABOVE_COUNT_MAX, 1));
    flush_many(&mut levels, YOUNG_MERGE_COUNT + YOUNG_MERGE_COUNT / 2);
    let (mut of_young, mut of_above) = (0, 0);
    // Not counted: the one that the young segments go into.
    let complete: Vec<_> = levels.state().levels[&levels.number()].above().cloned().collect();
    let need = |levels: &Levels| {
        let state = levels.state();
        let above = state.promoted_leaves().left_of(complete.iter());
        (state.backlog().young / YOUNG_MERGE_COUNT as f64, above / ABOVE_COUNT_MAX as f64)
    };
    // Until the set is gone: too few are left then for another.
    while levels.counts().0 >= YOUNG_MERGE_COUNT {
        let before = (need(&levels), levels.promotions());
        assert!(levels.lab.database.run_step().unwrap());
        let after = need(&levels);
        if levels.promotions() == before.1 {
            continue;
        }
        let (young, above) = before.0;
        if after.0 < young {
            of_young += 1;
            assert!(young >= above, "{before:?} {after:?}");
        } else {
            of_above += 1;
            assert!(above >= young, "{before:?} {after:?}");
        }
    }
    assert!(of_young > 0 && of_above > 0, "{of_young} {of_above}");
    levels.lab.pause();
    levels.lab.run_all();
    levels.lab.compare();
    levels.lab.check_at_rest();
}

#[test]
fn a_promotion_alone_starts_no_other_enough_of_them_do_and_then_all_is_quiet() {
    let mut levels = Levels::new();
    for above in 1..ABOVE_COUNT_MAX {
        for _ in 0..YOUNG_MERGE_COUNT {
            levels.flush_some();
        }
        let before = levels.state().levels[&levels.number()].last().unwrap().clone();
        assert!(levels.run() > 0);
        assert_eq!(levels.counts(), (0, above, 1), "a level within its limit stays as it is");
        let after = levels.state().levels[&levels.number()].last().unwrap().clone();
        assert!(Arc::ptr_eq(&before, &after), "the last level was not touched");
        assert_eq!(levels.run(), 0);
    }
    for _ in 0..YOUNG_MERGE_COUNT {
        levels.flush_some();
    }
    levels.run();
    // The fourth segment is complete when the next merge begins.
    let (_, above, _) = levels.counts();
    if above > 0 {
        for _ in 0..YOUNG_MERGE_COUNT {
            levels.flush_some();
        }
        levels.run();
    }
    assert!(levels.counts().1 <= 1, "{:?}", levels.counts());
    assert_eq!(levels.run(), 0);
    levels.lab.compare();
    levels.lab.pause();
    levels.lab.run_all();
    assert_eq!(levels.counts(), (0, 0, 1), "when writes pause each range lies in one segment");
    assert_eq!(levels.run(), 0);
    levels.lab.compare();
    levels.lab.check_at_rest();
}

#[test]
fn tombstones_are_kept_above_and_dropped_at_the_bottom() {
    let mut levels = Levels::new();
    for round in 0..YOUNG_MERGE_COUNT as u64 {
        for number in 0..5 {
            levels.lab.delete(0, &key(round * 300 + number));
        }
        levels.lab.delete_range(0, &key(round * 300 + 50), &key(round * 300 + 60));
        levels.lab.database.flush().unwrap();
    }
    levels.run();
    assert_eq!(levels.counts(), (0, 1, 1));
    let state = levels.state();
    let of = |index: usize| levels.state().levels[&levels.number()].iter().nth(index).cloned();
    let above = of(0).unwrap();
    assert_eq!(above.points.as_ref().unwrap().tombstones, 5 * YOUNG_MERGE_COUNT as u64);
    assert_eq!(above.ranges.as_ref().unwrap().entries, YOUNG_MERGE_COUNT as u64);
    drop(state);
    levels.lab.compare();
    levels.lab.pause();
    levels.lab.run_all();
    assert_eq!(levels.counts(), (0, 0, 1));
    let last = of(0).unwrap();
    let points = last.points.as_ref().unwrap();
    assert_eq!((points.tombstones, last.ranges.is_none()), (0, true));
    assert_eq!(points.entries, levels.lab.keyspaces[0].1.len() as u64);
    levels.lab.compare();
    levels.lab.check_at_rest();
}

#[test]
fn after_merges_new_nodes_go_into_freed_blocks_before_the_file_grows() {
    let mut levels = Levels::of(Lab::without_reserve());
    for _ in 0..3 {
        levels.put(0..6000, 100);
        levels.lab.database.wait_until_idle().unwrap();
    }
    let mut reused = 0;
    for round in 0..12 {
        let before = levels.lab.core.pages.allocator().stats();
        levels.put(round * 400..round * 400 + 300, 100);
        levels.lab.database.flush().unwrap();
        let after = levels.lab.core.pages.allocator().stats();
        let asked = after.pages_asked - before.pages_asked;
        if before.free_pages > 4 * asked && before.longest_free_run > 64 {
            reused += asked;
            assert_eq!(after.file_pages, before.file_pages, "{asked} pages, {before:?}");
        }
        levels.lab.run_all();
    }
    assert!(reused > 100, "{reused} pages were asked for while many were free");
    levels.lab.check();
}

/// Pages asked for = pages of new nodes and values that the state references + pages given back.
#[test]
fn pages_that_writers_ask_for_are_referenced_or_given_back() {
    let mut levels = Levels::new();
    let (mut flushes, mut promotions, mut given_back) = (0, 0, 0);
    for round in 0..40u64 {
        for number in 0..12 {
            let bytes = value(&mut levels.random, if number == 5 { 3500 } else { 120 });
            levels.lab.put(0, &key(round * 130 + number * 9), &bytes);
        }
        let bytes = value(&mut levels.random, 70_000);
        levels.lab.put(0, &key(round * 7), &bytes);
        if round % 3 == 0 {
            levels.lab.put(0, &key(round * 7), b"short");
            levels.lab.delete_range(0, &key(round * 20), &key(round * 20 + 90));
            (0..40).for_each(|n| {
                levels.lab.put(0, format!("z {round:04} {n:04}").as_bytes(), &[7; 90]);
            });
        }
        if round % 10 == 9 {
            levels.lab.pause();
        }
        let core = levels.lab.core.clone();
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        loop {
            // What dies is held, so that nothing but writers gives pages back.
            let held = levels.state();
            core.collect_released();
            let before = core.pages.allocator().stats();
            let given = core.pages.allocator().given_list();
            let counters = || {
                let load = |count: &sapwood::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
                let counters = &core.counters;
                (
                    load(&counters.flushes),
                    load(&counters.promotions),
                    load(&counters.durable_states),
                )
            };
            let counted = counters();
            if !levels.lab.database.run_step().unwrap() {
                break;
            }
            let after = core.pages.allocator().stats();
            let now = counters();
            let was_flush = now.0 > counted.0;
            let was_promotion = now.1 > counted.1;
            if now.2 > counted.2 || !(was_flush || was_promotion) {
                continue;
            }
            let live = live_blocks(&core.pages, &levels.state()).unwrap();
            let asked = after.pages_asked - before.pages_asked;
            let returned = after.pages_returned - before.pages_returned;
            let referenced = live.difference(&given).page_count();
            assert_eq!(asked, referenced + returned, "round {round}");
            flushes += u64::from(was_flush);
            promotions += u64::from(was_promotion);
            given_back += returned;
            drop(held);
        }
    }
    assert!(flushes >= 40 && promotions >= 40, "{flushes} flushes, {promotions} promotions");
    assert!(given_back > 0, "tails of blocks are given back");
    levels.lab.compare();
    levels.lab.check();
}
