//! Readers and writers go on between the steps of a merge, and inside each.

use std::time::Duration;

use crate::lab::{Lab, builder, key, value};
use sapwood::merge::throttle::make_room_in_log;
use sapwood::state::reserve::{Brings, has_room};
use sapwood::storage::{Operation, OperationKind, SimulatedStorage, Storage};
use sapwood::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, Mutex, Random, channel, thread};
use sapwood::{Database, Durability, Keyspace, Seek};

/// A level, and young segments to be merged into it.
fn load(lab: &mut Lab) {
    lab.create();
    let mut random = Random::from_seed(8);
    for number in 0..700 {
        let bytes = value(&mut random, 120);
        lab.put(0, &key(number), &bytes);
    }
    lab.database.wait_until_idle().unwrap();
    for round in 0..3 {
        for number in 0..40 {
            let bytes = value(&mut random, if number == 3 { 3000 } else { 100 });
            lab.put(0, &key(round + number * 17), &bytes);
        }
        lab.delete(0, &key(round * 3));
        lab.delete_range(0, &key(round * 40), &key(round * 40 + 20));
        lab.database.flush().unwrap();
    }
}

/// What an application does meanwhile, each time with all that may wait or read.
struct Meanwhile {
    database: Database,
    keyspace: Keyspace,
    turn: u64,
    /// Set while something is dropped, by the thread that counts its own operations.
    dropping: Arc<AtomicBool>,
}

impl Meanwhile {
    fn go_on(&mut self) {
        self.turn += 1;
        self.keyspace.get(key(self.turn % 700)).unwrap();
        let snapshot = self.database.snapshot().unwrap();
        let mut cursor = snapshot.cursor(&self.keyspace).unwrap();
        cursor.seek(key(self.turn * 5 % 700), Seek::AtOrAfter).unwrap();
        for _ in 0..3 {
            cursor.next().unwrap();
        }
        self.keyspace.put(b"meanwhile", self.turn.to_be_bytes()).unwrap();
        let seen = self.keyspace.get(b"meanwhile").unwrap().unwrap();
        assert_eq!(seen, self.turn.to_be_bytes()[..]);
        assert!(snapshot.iter(&self.keyspace).unwrap().count() > 300);
        assert!(self.keyspace.iter().unwrap().count() > 300);
        self.dropping.store(true, Ordering::SeqCst);
        drop(snapshot);
        drop(cursor);
        self.dropping.store(false, Ordering::SeqCst);
    }
}

#[test]
fn between_any_two_steps_of_a_merge_reads_commits_snapshots_and_cursors_go_on() {
    let mut lab = Lab::in_memory();
    load(&mut lab);
    let mut meanwhile = Meanwhile {
        database: lab.database.clone(),
        keyspace: lab.keyspaces[0].0.clone(),
        turn: 0,
        dropping: Arc::default(),
    };
    let mut steps = 0;
    loop {
        lab.pause();
        if !lab.database.run_step().unwrap() || steps > 200 {
            break;
        }
        steps += 1;
        if steps < 60 {
            meanwhile.go_on();
            let last = meanwhile.turn.to_be_bytes().to_vec();
            lab.keyspaces[0].1.insert(b"meanwhile".to_vec(), last);
            lab.compare();
            lab.check();
        }
    }
    assert!((20..200).contains(&steps), "{steps} steps");
    lab.check_at_rest();
}

/// The merging thread stands still inside each of its operations of some kinds, until another
/// thread has done everything that an application does.
fn stand_still(durability: Durability, stands_at: fn(OperationKind) -> bool) {
    let storage = SimulatedStorage::new();
    let (builder, hand) = builder();
    let builder = builder.durability(durability);
    let mut lab = Lab::of(builder.open_on(Arc::new(storage.clone())).unwrap(), hand);
    load(&mut lab);
    *lab.core.install_check.lock() = None;
    let merging = thread::current_id();
    let dropping = Arc::new(AtomicBool::new(false));
    let mut meanwhile = Meanwhile {
        database: lab.database.clone(),
        keyspace: lab.keyspaces[0].0.clone(),
        turn: 0,
        dropping: dropping.clone(),
    };
    let (ask, asked) = channel::unbounded::<()>();
    let (answer, answered) = channel::unbounded::<u64>();
    let helper = thread::spawn("meanwhile", move || {
        while asked.recv().is_ok() {
            meanwhile.go_on();
            if answer.send(meanwhile.turn).is_err() {
                break;
            }
        }
    });
    let (stood_still, hung) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let io_of_drops = Arc::new(AtomicU64::new(0));
    let callback = {
        let (stood_still, hung) = (stood_still.clone(), hung.clone());
        let (io_of_drops, answered) = (io_of_drops.clone(), Mutex::new(answered));
        let ask = Mutex::new(Some(ask));
        move |operation: &Operation| {
            if thread::current_id() != merging {
                if dropping.load(Ordering::SeqCst) {
                    io_of_drops.fetch_add(1, Ordering::SeqCst);
                }
                return;
            }
            if !stands_at(operation.kind) {
                return;
            }
            let mut ask = ask.lock();
            if ask.as_ref().is_some_and(|ask| ask.send(()).is_ok()) {
                stood_still.fetch_add(1, Ordering::SeqCst);
                if answered.lock().recv_timeout(Duration::from_secs(30)).is_err() {
                    // It waits for what this thread holds: let it go, and say so.
                    hung.fetch_add(1, Ordering::SeqCst);
                    *ask = None;
                }
            }
        }
    };
    storage.on_operation(Box::new(callback));
    for _ in 0..300 {
        lab.pause();
        if !lab.database.run_step().unwrap() || hung.load(Ordering::SeqCst) > 0 {
            break;
        }
        // What was written meanwhile is merged too: it need not be for ever.
        if stood_still.load(Ordering::SeqCst) > 250 {
            break;
        }
    }
    storage.clear_on_operation();
    helper.unwrap().join().unwrap();
    assert_eq!(hung.load(Ordering::SeqCst), 0, "something waited for a lock that a merge holds");
    assert_eq!(io_of_drops.load(Ordering::SeqCst), 0, "a drop did I/O");
    let stood_still = stood_still.load(Ordering::SeqCst);
    assert!(stood_still > 100, "it stood still {stood_still} times only");
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

#[test]
fn no_commit_waits_for_more_than_one_step() {
    let mut lab = Lab::in_memory();
    *lab.core.install_check.lock() = None;
    lab.create();
    let mut random = Random::from_seed(9);
    let keyspace = lab.keyspaces[0].0.clone();
    let flushes = || lab.core.background.flush_steps.load(Ordering::Relaxed);
    let others = || lab.core.background.steps.load(Ordering::Relaxed) - flushes();
    let (mut most, mut waited) = ((0, 0), 0);
    for turn in 0..40_000u64 {
        // Large ones by turns, each less than a step pays for; no step of the application's own.
        let bytes = if turn % 8000 < 400 { 3500 } else { 200 };
        let bytes = value(&mut random, bytes);
        let before = (flushes(), others());
        keyspace.put(key(random.below(1_000_000)), bytes).unwrap();
        let made = (flushes() - before.0, others() - before.1);
        most = (made.0.max(most.0), made.1.max(most.1));
        waited += u64::from(made != (0, 0));
    }
    assert!(waited > 50, "{waited} commits waited");
    assert_eq!(most, (1, 1), "a commit waited for more than one step of a flush, or of merging");
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

/// Large values are written at their commit, and owed again until a durable state has passed their
/// records. That the file need not grow for them is no reason to flush all in one commit.
#[test]
fn no_commit_beside_large_values_waits_for_more_than_one_step() {
    let (builder, hand) = builder();
    let builder = builder.memory_budget(32 << 20).step_bytes(128 << 10);
    let mut lab = Lab::of(builder.open_in_memory().unwrap(), hand);
    *lab.core.install_check.lock() = None;
    lab.create();
    let mut random = Random::from_seed(11);
    let keyspace = lab.keyspaces[0].0.clone();
    let steps = || lab.core.background.flush_steps.load(Ordering::Relaxed);
    let named = || lab.core.log_named.pages() << 10;
    let (mut most, mut waited, mut most_named, mut times_passed) = (0, 0, 0, 0);
    for turn in 0..400u64 {
        let large = value(&mut random, 64 << 10);
        for small in 0..40 {
            let (before, named_before) = (steps(), named());
            match small {
                0 => keyspace.put(key(turn % 20), &large).unwrap(),
                _ => keyspace.put(key(random.below(1_000_000)), &large[..200]).unwrap(),
            }
            let made = steps() - before;
            most = most.max(made);
            waited += u64::from(made > 0);
            times_passed += u64::from(named() < named_before);
            most_named = most_named.max(named());
        }
    }
    assert_eq!(most, 1, "a commit waited for {most} steps");
    assert!(waited > 30, "{waited} commits waited");
    assert!(times_passed > 3, "{times_passed} durable states have passed what the log names");
    assert!(most_named < 6 << 20, "records named {most_named} bytes");
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

/// Commits of so many values of `value_bytes`, at full debt and without threads: the most steps of
/// a flush that one waits for.
fn most_steps(page_bytes: u32, value_bytes: usize, count: u64) -> u64 {
    let (builder, _) = builder();
    let builder = builder.page_size(page_bytes).leaf_bytes(page_bytes.max(8 << 10));
    let builder = builder.region_bytes(16 << 20).memory_budget(64 << 20).step_bytes(256 << 10);
    let database = builder.open_in_memory().unwrap();
    let (keyspace, core) = (database.keyspace("a").unwrap(), database.core().unwrap());
    let steps = || core.background.flush_steps.load(Ordering::Relaxed);
    let mut random = Random::from_seed(21);
    let (mut most, mut waited) = (0, 0);
    for turn in 0..(100 << 20) / (value_bytes as u64 * count) {
        let mut batch = database.batch();
        for number in turn * count..(turn + 1) * count {
            batch.put(&keyspace, key(number), value(&mut random, value_bytes)).unwrap();
        }
        let before = steps();
        batch.commit().unwrap();
        most = most.max(steps() - before);
        waited += u64::from(steps() > before);
    }
    assert!(waited > 50, "{waited} commits waited");
    most
}

/// Their flush writes twice what they take in memory, so it makes as many more steps. Each lets in
/// a little less than goes with it, and no commit waits for what others were let in for nothing.
#[test]
fn no_commit_of_values_that_waste_half_of_their_pages_waits_for_more_than_its_own_steps() {
    // A step takes four away.
    for (count, own) in [(1, 1), (3, 1), (6, 2), (30, 10)] {
        let most = most_steps(64 << 10, 33 << 10, count);
        assert!(most <= own, "a commit of {count} values waited for {most} steps");
    }
}

/// A leaf may have no place for one more of them, and has: a step takes away what it writes.
#[test]
fn no_commit_of_values_that_might_waste_a_page_waits_for_what_they_do_not_waste() {
    let most = most_steps(4 << 10, 1100, 160);
    assert_eq!(most, 1, "a commit of less than three quarters of a step waited for {most}");
}

/// The log of a small database is shorter than the record, and the file may grow.
#[test]
fn a_record_longer_than_the_log_waits_for_no_more_than_one_step() {
    let mut lab = Lab::in_memory();
    lab.create();
    let mut random = Random::from_seed(12);
    for number in 0..2000 {
        let bytes = value(&mut random, 200);
        lab.put(0, &key(number), &bytes);
    }
    let steps = || lab.core.background.flush_steps.load(Ordering::Relaxed);
    let keyspace = lab.keyspaces[0].0.clone();
    let mut batch = lab.database.batch();
    for number in 0..200 {
        batch.put(&keyspace, key(number), value(&mut random, 4000)).unwrap();
    }
    let (before, length) = (steps(), lab.core.log.placed_blocks().len());
    batch.commit().unwrap();
    assert!(lab.core.log.placed_blocks().len() > length, "the log had room for it");
    assert!(steps() - before <= 1, "it waited for {} steps", steps() - before);
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
}

/// Where the file cannot grow what the log holds must go to segments, but no more of it than makes
/// the room that is needed.
#[test]
fn where_the_log_cannot_grow_the_oldest_memtables_alone_are_flushed_for_it() {
    let storage = SimulatedStorage::new();
    let (builder, hand) = builder();
    let builder = builder.memory_budget(32 << 20);
    let mut lab = Lab::open_with((builder, hand), Arc::new(storage.clone()));
    lab.create();
    let mut random = Random::from_seed(13);
    for turn in 0..3 {
        for number in 0..1500 {
            let bytes = value(&mut random, 200);
            lab.put(0, &key(turn * 1500 + number), &bytes);
        }
        let _order = lab.core.commit_order.lock();
        lab.core.seal();
    }
    storage.set_capacity(storage.length().unwrap());
    let needed = || lab.core.log.available() + 1;
    for number in 4500.. {
        if !has_room(&lab.core, Brings::Data, 2 * needed() as usize) {
            break;
        }
        let (keyspace, map) = &mut lab.keyspaces[0];
        let bytes = value(&mut random, 200);
        keyspace.put(key(number), &bytes).unwrap();
        map.insert(key(number), bytes);
    }
    let needed = needed();
    assert_eq!(lab.core.view().sealed.len(), 3);
    // The first time the log was to grow.
    assert!(make_room_in_log(&lab.core, 1, needed, Brings::Data).unwrap());
    assert_eq!(lab.core.view().sealed.len(), 2, "others than the oldest were flushed");
    storage.set_capacity(u64::MAX);
    lab.database.wait_until_idle().unwrap();
    lab.compare();
    lab.check_at_rest();
}

/// The threads are behind: none of them gets to run. A commit at full debt then makes one step of
/// the flush itself, and goes on.
#[test]
fn a_commit_that_finds_merge_threads_behind_makes_one_step_of_the_flush() {
    let builder = builder().0.clock(Clock::real());
    let database = builder.open_on(Arc::new(SimulatedStorage::new())).unwrap();
    let core = database.core().unwrap();
    let keyspace = database.keyspace("k").unwrap();
    core.background.has_threads.store(true, Ordering::SeqCst);
    let steps = || core.background.flush_steps.load(Ordering::SeqCst);
    let mut random = Random::from_seed(10);
    let (mut most, mut waited) = (0, 0);
    for _ in 0..2500 {
        let bytes = value(&mut random, 200);
        let before = steps();
        keyspace.put(key(random.below(1_000_000)), bytes).unwrap();
        let made = steps() - before;
        most = most.max(made);
        waited += u64::from(made > 0);
    }
    assert!(waited > 5, "{waited} commits waited");
    assert_eq!(most, 1, "a commit waited for {most} steps");
    core.background.has_threads.store(false, Ordering::SeqCst);
    database.wait_until_idle().unwrap();
    drop((keyspace, core));
    database.close().unwrap();
}

#[test]
fn inside_any_operation_of_a_merge_reads_commits_snapshots_and_cursors_go_on() {
    stand_still(Durability::Memory, |_| true);
}

/// Such a commit waits for what the log writes, whoever does that, and for nothing else.
#[test]
fn inside_any_read_of_a_merge_commits_that_reach_the_file_go_on_too() {
    stand_still(Durability::Buffered, |kind| kind == OperationKind::Read);
}

/// Merging cannot go on: every read fails for good.
fn stopped_merging(threads: usize) {
    let storage = SimulatedStorage::new();
    let mut lab = Lab::open_on(Arc::new(storage.clone()));
    load(&mut lab);
    let Lab { database, core, keyspaces, .. } = lab;
    let name = keyspaces[0].0.name();
    drop((keyspaces, core));
    database.close().unwrap();
    let (builder, _hand) = builder();
    let storage = SimulatedStorage::from_image(storage.image());
    let database = builder.merge_threads(threads).open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.existing_keyspace(&name).unwrap();
    storage.fail_at(sapwood::storage::FaultKind::Read, 1, false, std::io::ErrorKind::Other);
    keyspace.put("k", "v").unwrap();
    for _ in 0..3 {
        let error = database.wait_until_idle().unwrap_err();
        assert!(error.to_string().contains("asked for by the test"), "{error}");
    }
    // Writing goes on.
    keyspace.put("k", "w").unwrap();
    drop(keyspace);
    let error = database.close().unwrap_err();
    assert!(error.to_string().contains("asked for by the test"), "{error}");
    // All that was committed is there, and can be merged.
    storage.clear_faults();
    let (builder, hand) = crate::lab::builder();
    let lab = Lab::of(builder.open_on(Arc::new(storage.kill())).unwrap(), hand);
    let keyspace = lab.database.existing_keyspace(&name).unwrap();
    assert_eq!(keyspace.get("k").unwrap().unwrap(), "w");
    lab.database.wait_until_idle().unwrap();
    lab.check_at_rest();
    drop(keyspace);
    let Lab { database, core, .. } = lab;
    drop(core);
    database.close().unwrap();
}

#[test]
fn when_merging_has_stopped_waiting_and_closing_give_the_error() {
    stopped_merging(0);
}

#[test]
fn when_the_merging_of_threads_has_stopped_waiting_and_closing_give_the_error() {
    stopped_merging(2);
}

/// A commit at full debt waits for a step; when none succeeds it gives the reason.
#[test]
fn when_merging_has_stopped_a_commit_at_full_debt_gives_the_error() {
    for threads in [0, 1] {
        let storage = SimulatedStorage::new();
        let mut lab = Lab::open_on(Arc::new(storage.clone()));
        load(&mut lab);
        let Lab { database, core, keyspaces, .. } = lab;
        let name = keyspaces[0].0.name();
        drop((keyspaces, core));
        database.close().unwrap();
        let (builder, _hand) = builder();
        let storage = SimulatedStorage::from_image(storage.image());
        let database = builder.merge_threads(threads).open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.existing_keyspace(&name).unwrap();
        storage.fail_at(sapwood::storage::FaultKind::Read, 1, false, std::io::ErrorKind::Other);
        let core = database.core().unwrap();
        while core.state().young.len() < sapwood::merge::debt::YOUNG_SLOW_COUNT {
            keyspace.put("k", "v").unwrap();
            database.flush().unwrap();
        }
        let failures = core.background.failure_count();
        let (done, of_writer) = (Arc::new(AtomicBool::new(false)), keyspace.clone());
        let told = done.clone();
        let writer = thread::spawn("writer", move || {
            let result = of_writer.put("k", "w");
            told.store(true, Ordering::SeqCst);
            result
        });
        let writer = writer.unwrap();
        while !done.load(Ordering::SeqCst) {
            if core.background.failure_count() - failures > 20 {
                // It is let out, so that the test can end.
                storage.clear_faults();
            }
            Clock::real().sleep(Duration::from_millis(1));
        }
        let error = writer.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("asked for by the test"), "{error}");
        // Once merging goes on, so does writing.
        storage.clear_faults();
        database.wait_until_idle().unwrap();
        keyspace.put("k", "x").unwrap();
        assert_eq!(keyspace.get("k").unwrap().unwrap(), "x");
        drop((keyspace, core));
        database.close().unwrap();
    }
}
