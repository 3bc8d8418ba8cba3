//! F5: when a commit is refused, when it waits, and what a refusal costs.

use std::cell::Cell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use sapwood::page::Block;
use sapwood::state::background::{LEVELS_ALL, Reservation};
use sapwood::state::durable::{Purpose, make_durable};
use sapwood::state::reserve::{
    Brings, Standing, grant, has_room, make_room, note_hopeless, set_short,
};
use sapwood::storage::{FaultKind, Storage};
use sapwood::sync::atomic::Ordering;
use sapwood::sync::preempt::set_hook;
use sapwood::{Error, Result};

use crate::Full;
use sapwood::segment::key_range::KeyRange;

/// Deletes a key that is not there, and brings more than it frees.
fn delete_absent(full: &Full, n: u64) -> Result<()> {
    full.keyspace.delete([n.to_be_bytes().as_slice(), &[9; 200]].concat())
}

/// Somebody works at all levels of all keys.
fn reserve_all(full: &Full) -> Reservation {
    let number = *full.core.state().levels.keys().next().unwrap();
    full.core.background.reservations.reserve(number, LEVELS_ALL, KeyRange::all()).unwrap()
}

/// Deletes until it is refused; the number of deletions.
fn delete_until_refused(full: &Full) -> u64 {
    for n in 0..50_000 {
        match delete_absent(full, n) {
            Ok(()) => {}
            Err(Error::NoSpace { .. }) => return n,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("deletions have room without end");
}

/// Full of data and of deletions, in a range where somebody works.
fn full_of_deletions(seed: u64) -> (Full, Reservation) {
    let mut full = Full::new(seed);
    full.fill();
    full.database.flush().unwrap();
    let reserved = reserve_all(&full);
    delete_until_refused(&full);
    (full, reserved)
}

/// At this point of the work `act` is done by somebody else; how many points there were. Who waits
/// meanwhile looks again at once.
fn with_at<T>(
    full: &Full,
    at: u64,
    act: impl FnOnce() + 'static,
    work: impl FnOnce() -> T,
) -> (T, u64) {
    let (act, points) = (Cell::new(Some(act)), Rc::new(Cell::new(0)));
    let (core, counted) = (full.core.clone(), points.clone());
    let before = set_hook(Some(Rc::new(move || {
        let point = counted.replace(counted.get() + 1);
        if point == at
            && let Some(act) = act.take()
        {
            act();
        }
        core.background.notify();
    })));
    let result = work();
    set_hook(before);
    (result, points.get())
}

fn points_of<T>(full: &Full, work: impl FnOnce() -> T) -> u64 {
    with_at(full, u64::MAX, || (), work).1
}

#[test]
fn a_deletion_waits_as_long_as_another_is_at_work() {
    let (mut full, reserved) = full_of_deletions(21);
    // The verdict was that nothing can be done: that does not count while somebody is at work.
    let background = &full.core.background;
    background.running.fetch_add(1, Ordering::AcqRel);
    let core = full.core.clone();
    let end = move || {
        drop(reserved);
        core.background.running.fetch_sub(1, Ordering::AcqRel);
        core.background.step_ended();
    };
    let at = 20_000;
    let (outcome, points) = with_at(&full, at, end, || delete_absent(&full, 0));
    outcome.unwrap();
    assert!(points > at, "it did not wait");
    full.check();
}

/// The same for a grant, out of which nothing has been taken yet.
#[test]
fn a_deletion_waits_as_long_as_another_holds_a_grant() {
    let mut full = Full::new(22);
    full.fill();
    full.database.flush().unwrap();
    // All that steps may take.
    let is_granted = |pages: &u64| matches!(grant(&full.core, *pages), Ok(Some(_)));
    let most = (1..4000).rev().find(is_granted).unwrap();
    let held = grant(&full.core, most).unwrap().unwrap();
    let at = 20_000;
    let mut held = Some(held);
    for n in 0..10_000 {
        let held_here = Rc::new(Cell::new(held.take()));
        let ended = held_here.clone();
        let end = move || drop(ended.take());
        let (outcome, points) = with_at(&full, at, end, || delete_absent(&full, n));
        outcome.unwrap();
        if points > at {
            return full.check();
        }
        held = held_here.take();
    }
    panic!("no deletion has waited");
}

/// Four who wait at once, and what they wait for ends: nobody is refused, whoever comes first.
#[test]
fn all_who_wait_at_once_get_on() {
    let (mut full, reserved) = full_of_deletions(26);
    let core = full.core.clone();
    core.background.running.fetch_add(1, Ordering::AcqRel);
    let (points, waiting) = (Cell::new(0), Rc::new(Cell::new(1_u64)));
    let (others, keyspace) = (waiting.clone(), full.keyspace.clone());
    let reserved = Cell::new(Some(reserved));
    let before = set_hook(Some(Rc::new(move || {
        let point = points.replace(points.get() + 1);
        core.background.notify();
        // Another waits for room, too; but not inside a step, for which it would wait.
        let is_between = core.background.running.load(Ordering::Acquire) == 1;
        if point > 3000 * others.get() && others.get() < 4 && is_between {
            others.set(others.get() + 1);
            let key = [others.get().to_be_bytes().as_slice(), &[9; 200]].concat();
            keyspace.delete(key).unwrap();
        }
        if point > 20_000
            && let Some(reserved) = reserved.take()
        {
            drop(reserved);
            core.background.running.fetch_sub(1, Ordering::AcqRel);
            core.background.step_ended();
        }
    })));
    let outcome = delete_absent(&full, 0);
    set_hook(before);
    outcome.unwrap();
    assert_eq!(waiting.get(), 4);
    full.check();
}

/// Takes what is free beside what a commit of data leaves, and is not durable, or of the log.
fn leave_no_room(full: &Full) -> Vec<Block> {
    full.storage.set_capacity(full.storage.length().unwrap());
    let allocator = full.core.pages.allocator();
    let mut taken = Vec::new();
    while has_room(&full.core, Brings::Data, 200) {
        taken.push(allocator.allocate(1, 0).unwrap());
    }
    taken
}

/// What only the last durable state needs is free with the next: nothing is flushed for it.
#[test]
fn a_durable_state_is_made_for_room_before_what_little_waits_is_flushed() {
    let mut full = Full::new(27);
    full.fill();
    full.delete(1500);
    full.database.flush().unwrap();
    full.run_steps();
    let key = full.keys[0].clone();
    // More than a block by which the log may grow.
    let held = full.core.held.stats().pages;
    assert!(held > 400, "{held} pages wait for a durable state");
    full.storage.set_capacity(u64::MAX);
    full.keyspace.put(&key, "first").unwrap();
    let taken = leave_no_room(&full);
    let flush_steps = full.core.background.flush_steps.load(Ordering::Acquire);
    let generation = full.core.durable.generation();
    full.keyspace.put(&key, "second").unwrap();
    assert!(full.core.durable.generation() > generation);
    assert_eq!(full.core.background.flush_steps.load(Ordering::Acquire), flush_steps);
    taken.into_iter().for_each(|block| full.core.pages.free(block));
    full.check();
}

/// Half empty, with a log that has grown, and with how many blocks it had before.
fn with_a_long_log(seed: u64) -> (Full, usize) {
    let mut full = Full::new(seed);
    full.fill();
    full.delete(1500);
    full.database.wait_until_idle().unwrap();
    let least = full.core.log.placed_blocks().len();
    let value = full.value(1000);
    for n in 0..700_u64 {
        full.keyspace.put((n << 32).to_be_bytes(), &value).unwrap();
        full.keys.push((n << 32).to_be_bytes().to_vec());
    }
    make_durable(&full.core, Purpose::Running).unwrap();
    full.database.flush().unwrap();
    full.run_steps();
    make_durable(&full.core, Purpose::Running).unwrap();
    assert!(full.core.log.placed_blocks().len() > least, "the log has not grown");
    (full, least)
}

/// When nothing else is left, the log gives up what it has grown by.
#[test]
fn the_log_gives_its_blocks_back_for_room() {
    let (mut full, least) = with_a_long_log(28);
    let taken = leave_no_room(&full);
    let key = full.keys[0].clone();
    full.keyspace.put(&key, "second").unwrap();
    assert_eq!(full.core.log.placed_blocks().len(), least);
    taken.into_iter().for_each(|block| full.core.pages.free(block));
    full.check();
}

/// The same for what comes before the first commit after a crash, when nothing else could give
/// anything back.
#[test]
fn the_log_gives_its_blocks_back_for_the_first_write_after_a_crash() {
    let (mut full, least) = with_a_long_log(29);
    full.storage.set_capacity(u64::MAX);
    let value = full.value(1000);
    for key in full.keys.iter().take(100) {
        full.keyspace.put(key, &value).unwrap();
    }
    let mut full = full.crash_and_open();
    full.storage.set_capacity(full.storage.length().unwrap());
    let core = full.core.clone();
    assert!(core.log.placed_blocks().len() > least, "the log is short already");
    let free = || core.pages.allocator().allocate(1, 0).ok();
    let mut taken: Vec<Block> = std::iter::from_fn(free).collect();
    // The limits of a first state, and that by which the log gets shorter.
    taken.drain(..8).for_each(|block| core.pages.free(block));
    full.database.flush().unwrap();
    assert_eq!(core.log.placed_blocks().len(), least);
    taken.into_iter().for_each(|block| core.pages.free(block));
    full.check();
}

#[test]
fn a_refusal_is_not_looked_into_again_for_a_second_and_then_it_is() {
    let (full, reserved) = full_of_deletions(23);
    let refused = || points_of(&full, || delete_absent(&full, 0).unwrap_err());
    let again = refused();
    full.hand.advance(Duration::from_secs(2));
    let looked = refused();
    let again_after = refused();
    assert!(looked > 2 * again, "{again} and {looked} locks");
    assert_eq!(again, again_after);
    drop(reserved);
}

/// A range that is free again may be all that was lacking.
#[test]
fn a_refusal_does_not_outlast_the_work_that_was_in_the_way() {
    let (mut full, reserved) = full_of_deletions(24);
    delete_absent(&full, 0).unwrap_err();
    drop(reserved);
    delete_absent(&full, 0).unwrap();
    full.check();
}

/// Wherever in the look of a deletion the work ends that was in the way.
#[test]
fn what_comes_in_the_middle_of_a_look_is_seen() {
    let (mut full, mut reserved) = full_of_deletions(25);
    let mut sampled = 0;
    for round in 0..12 {
        let mut all = 0;
        // The same each time, but the first.
        for _ in 0..2 {
            full.hand.advance(Duration::from_secs(2));
            all = points_of(&full, || delete_absent(&full, 0).unwrap_err());
        }
        // What comes behind the last look.
        let core = full.core.clone();
        let tail = points_of(&full, || {
            let _ = Standing::of(&core);
            note_hopeless(&core);
            make_room(&core, Brings::Deletions, 1000).unwrap_err()
        });
        assert!(all > 2 * tail);
        let at = round * (all - tail) / 11;
        full.hand.advance(Duration::from_secs(2));
        let end = move || drop(reserved);
        let (outcome, _) = with_at(&full, at, end, || delete_absent(&full, 0));
        assert!(outcome.is_ok(), "round {round}, point {at} of {all}: {outcome:?}");
        sampled += 1;
        reserved = reserve_all(&full);
        delete_until_refused(&full);
    }
    assert_eq!(sampled, 12);
    drop(reserved);
    full.check();
}

/// Takes every page that is free: no step finds room, and no durable state either.
fn take_all(full: &Full) -> Vec<Block> {
    full.storage.set_capacity(full.storage.length().unwrap());
    let allocator = full.core.pages.allocator();
    std::iter::from_fn(|| allocator.allocate(1, 0).ok()).collect()
}

/// Waits for rest, for which a step is to fail at first: `act` comes between its end and the look
/// around of who made it, as another thread might.
fn wait_beside(full: &Full, act: impl Fn() + 'static) {
    let (core, failures) = (full.core.clone(), full.core.background.failure_count());
    let (is_inside, has_come) = (Cell::new(false), Rc::new(Cell::new(false)));
    let comes = has_come.clone();
    let before = set_hook(Some(Rc::new(move || {
        if comes.get() || is_inside.replace(true) {
            return;
        }
        let is_over = core.background.running.load(Ordering::Acquire) == 0;
        if is_over && core.background.failure_count() > failures {
            comes.set(true);
            act();
        }
        is_inside.set(false);
    })));
    let waited = full.database.wait_until_idle();
    set_hook(before);
    assert!(has_come.get(), "no step has failed");
    waited.unwrap();
    assert!(full.core.state().young.is_empty());
}

/// A step finds no space; before who made it looks around, another thread has had space come back,
/// and a state is durable. That was no step, and nobody is at work any more: whoever waited for
/// merging was told that there is no space, when there was.
#[test]
fn a_durable_state_that_others_make_beside_a_failed_step_is_looked_at() {
    let mut full = Full::new(29);
    for _ in 0..3 {
        for _ in 0..300 {
            let (key, value) = (full.random.next_u64().to_be_bytes(), full.value(500));
            full.keyspace.put(key, value).unwrap();
            full.keys.push(key.to_vec());
        }
        full.database.flush().unwrap();
    }
    assert!(full.core.state().young.len() > 1, "nothing is to be merged");
    let taken = Cell::new(take_all(&full));
    let core = full.core.clone();
    wait_beside(&full, move || {
        taken.take().into_iter().for_each(|block| core.pages.free(block));
        make_durable(&core, Purpose::Running).unwrap();
    });
    full.check();
}

/// The same when another thread has held a state while it looked for something to do, and has let
/// go of it: what that alone needed is free, and no durable state had to be made for it.
#[test]
fn what_comes_free_beside_a_failed_step_is_looked_at() {
    let mut full = Full::new(31);
    full.storage.set_capacity(16 << 20);
    let flush_three = |full: &mut Full| {
        for _ in 0..900 {
            let (key, value) = (full.random.next_u64().to_be_bytes(), full.value(500));
            full.keyspace.put(key, value).unwrap();
            full.keys.push(key.to_vec());
            if full.keys.len().is_multiple_of(300) {
                full.database.flush().unwrap();
            }
        }
    };
    (0..3).for_each(|_| flush_three(&mut full));
    let held = Cell::new(Some(full.core.state()));
    full.database.wait_until_idle().unwrap();
    flush_three(&mut full);
    assert!(full.core.state().young.len() > 1 && full.core.held.stats().pages > 0);
    let taken = take_all(&full);
    wait_beside(&full, move || drop(held.take()));
    taken.into_iter().for_each(|block| full.core.pages.free(block));
    full.check();
}

/// What a flush has no place for is not waited for: merges go on, and may make one.
#[test]
fn a_step_is_made_behind_a_flush_that_has_no_place() {
    let mut full = Full::new(30);
    full.fill();
    full.delete(1000);
    full.storage.set_capacity(u64::MAX);
    full.database.flush().unwrap();
    assert!(!full.core.state().young.is_empty());
    full.delete(10);
    let order = full.core.commit_order.lock();
    full.core.seal();
    drop(order);
    make_durable(&full.core, Purpose::Running).unwrap();
    let promotions = || full.core.counters.promotions.load(Ordering::Relaxed);
    let before = promotions();
    full.storage.fail_at(FaultKind::Write, 1, true, ErrorKind::StorageFull);
    assert!(full.database.run_step().unwrap());
    assert!(promotions() > before, "nothing was merged");
    assert!(!full.core.view().sealed.is_empty(), "the flush has found a place");
    full.database.wait_until_idle().unwrap();
    assert!(full.core.view().sealed.is_empty());
    full.check();
}

/// Until it is durable, what was flushed is owed again after a crash: merges must not have made it
/// shorter by then, and others taken what came free.
#[test]
fn what_was_flushed_while_space_is_short_is_durable_before_it_is_merged() {
    let mut full = Full::new(34);
    full.fill();
    full.delete(200);
    full.storage.set_capacity(u64::MAX);
    let order = full.core.commit_order.lock();
    full.core.seal();
    drop(order);
    set_short(&full.core, true);
    let promotions = || full.core.counters.promotions.load(Ordering::Relaxed);
    while !full.core.view().sealed.is_empty() {
        assert!(full.database.run_step().unwrap());
    }
    let (flushed, before) = (full.core.state().cut.position, promotions());
    assert!(full.core.durable.cut() < flushed);
    assert!(full.database.run_step().unwrap());
    assert_eq!((full.core.durable.cut(), promotions()), (flushed, before));
    full.database.wait_until_idle().unwrap();
    full.check();
}
