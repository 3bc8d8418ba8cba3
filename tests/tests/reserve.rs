//! The rules of the reserve, one by one (docs/architecture.md, section 6): what each keeps, and
//! that what it is kept for then goes on. Time stands still, and nobody works but the test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "reserve/default_sizes.rs"]
mod default_sizes;
#[path = "reserve/grants.rs"]
mod grants;
#[path = "reserve/pieces.rs"]
mod pieces;
#[path = "reserve/waits.rs"]
mod waits;

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;
use std::time::Duration;

use crash_lsm::access;
use sapwood::segment::key_range::KeyRange;
use sapwood::state::Core;
use sapwood::state::background::LEVELS_ALL;
use sapwood::state::reserve::{Brings, make_room};
use sapwood::storage::{CrashPlan, SimulatedStorage, Storage};
use sapwood::sync::atomic::Ordering;
use sapwood::sync::preempt::set_hook;
use sapwood::sync::{Arc, Clock, FakeClock, Random};
use sapwood::{Database, Durability, Error, Keyspace};

const PAGE_BYTES: u64 = 1 << 10;
const RESERVE_PAGES: u64 = 1800;
const FILE_BYTES: u64 = 8 << 20;

/// A database on a device of [`FILE_BYTES`].
struct Full {
    database: Database,
    keyspace: Keyspace,
    core: Arc<Core>,
    storage: SimulatedStorage,
    random: Random,
    keys: Vec<Vec<u8>>,
    hand: FakeClock,
}

impl Full {
    fn new(seed: u64) -> Full {
        let storage = SimulatedStorage::new();
        let full = Full::open(storage, Random::from_seed(seed), Vec::new());
        full.storage.set_capacity(FILE_BYTES);
        full
    }

    /// The process ends without a word, and another one opens the file.
    fn crash_and_open(self) -> Full {
        let storage = self.storage.crash_with(CrashPlan::KeepAll);
        let (random, keys) = (self.random, self.keys);
        drop((self.keyspace, self.core, self.database));
        Full::open(storage, random, keys)
    }

    fn open(storage: SimulatedStorage, random: Random, keys: Vec<Vec<u8>>) -> Full {
        let (clock, hand) = Clock::fake();
        let builder = Database::builder().memory_budget(8 << 20).merge_threads(0).clock(clock);
        let builder = builder.page_size(1 << 10).leaf_bytes(1 << 10).region_bytes(1 << 20);
        let builder = builder.step_bytes(256 << 10).durability(Durability::Buffered);
        let builder = builder.reserve_bytes(RESERVE_PAGES * PAGE_BYTES);
        let database = builder.open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let core = database.core().unwrap();
        Full { database, keyspace, core, storage, random, keys, hand }
    }

    fn room(&self) -> u64 {
        self.core.pages.allocator().room_pages()
    }

    fn value(&mut self, bytes: u64) -> Vec<u8> {
        let mut value = vec![0; bytes as usize];
        self.random.fill(&mut value);
        value
    }

    /// Puts random keys until there is no space; how many bytes of values there were.
    fn fill(&mut self) -> u64 {
        let mut bytes = 0;
        for _ in 0..100_000 {
            let key = self.random.next_u64().to_be_bytes();
            let value_bytes = self.random.below(1500);
            let value = self.value(value_bytes);
            match self.keyspace.put(key, &value) {
                Ok(()) => self.keys.push(key.to_vec()),
                Err(Error::NoSpace { .. }) => return bytes,
                Err(error) => panic!("{error}"),
            }
            bytes += value_bytes;
        }
        panic!("it is never full");
    }

    /// Deletes keys from the end of those that were put.
    fn delete(&mut self, count: usize) {
        for key in self.keys.split_off(self.keys.len() - count) {
            self.keyspace.delete(&key).unwrap();
        }
    }

    /// Steps, until nothing is left to do or there is no space.
    fn run_steps(&self) {
        for _ in 0..100_000 {
            match self.database.run_step() {
                Ok(true) => {}
                Ok(false) | Err(Error::NoSpace { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("there is always something to do");
    }

    /// Pages of all segments.
    fn tree_pages(&self) -> u64 {
        let state = self.core.state();
        let levels = state.levels.values().flat_map(|levels| levels.levels.iter().flatten());
        state.young.iter().chain(levels).map(|segment| segment.pages()).sum()
    }

    fn steps(&self) -> u64 {
        self.core.background.steps.load(Ordering::Acquire)
    }

    fn check(&mut self) {
        self.keys.sort();
        let found = self.keyspace.iter().unwrap().map(|pair| pair.unwrap().0.to_vec());
        assert!(found.eq(self.keys.iter().cloned()), "the keys are not those that were left");
        assert_eq!(access::verify(&self.database).unwrap(), None);
    }
}

/// F1.
#[test]
fn puts_leave_the_whole_reserve_to_deletions_and_merges() {
    let mut full = Full::new(1);
    assert!(full.fill() > FILE_BYTES / 4);
    full.database.flush().unwrap();
    let room = full.room();
    // Merges on the way to the refusal may take some, and the state that the flush made durable may
    // be larger than the one before.
    assert!(room >= RESERVE_PAGES - 128, "{room} pages are left");
    full.check();
}

/// F1: what waits in memory takes more when it is flushed, by what is left free behind entries of
/// about half a leaf, and behind values in pages of their own.
#[test]
fn entries_of_every_length_leave_the_whole_reserve() {
    for bytes in [100, 260, 300, 400, 520, 530, 700, 1030, 1100, 2100, 5000] {
        let mut full = Full::new(bytes);
        let value = full.value(bytes);
        // Up to where the next few would find the device full.
        for n in 0..200_000_u64 {
            if make_room(&full.core, Brings::Data, 16 << 10).is_err() {
                break;
            }
            full.keyspace.put(n.to_be_bytes(), &value).unwrap();
        }
        let waiting = full.core.memtable_bytes();
        assert!(waiting > 100_000, "{bytes}: only {waiting} bytes wait for the flush");
        full.database.flush().unwrap();
        let room = full.room();
        assert!(room >= RESERVE_PAGES - 32, "{bytes}: {room} pages are left");
    }
}

/// What reads the value of a stream, and looks at the free pages meanwhile.
struct Watching {
    core: Arc<Core>,
    random: Random,
    left_bytes: u64,
    least_room: u64,
}

impl Read for Watching {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.least_room = self.least_room.min(self.core.pages.allocator().room_pages());
        let bytes = buffer.len().min(4096).min(self.left_bytes as usize);
        self.left_bytes -= bytes as u64;
        self.random.fill(&mut buffer[..bytes]);
        Ok(bytes)
    }
}

/// F1: a value that is written before its commit leaves the reserve at each moment, not only when
/// it is refused.
#[test]
fn a_stream_leaves_the_whole_reserve_while_it_is_written() {
    let mut full = Full::new(2);
    full.fill();
    full.delete(full.keys.len() / 2);
    full.database.wait_until_idle().unwrap();
    let core = full.core.clone();
    let mut value = Watching {
        core,
        random: Random::from_seed(2),
        left_bytes: 2 * FILE_BYTES,
        least_room: u64::MAX,
    };
    let error = full.keyspace.put_stream("stream", &mut value).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert!(value.left_bytes < 2 * FILE_BYTES - (1 << 20), "it was refused at once");
    let least = value.least_room;
    assert!(least >= RESERVE_PAGES, "{least} pages were left while it was written");
    full.check();
}

/// F1: others take the room between the question of a commit and its place.
#[test]
fn commits_that_meet_do_not_take_the_same_room() {
    let mut refused = 0;
    for point in 0..12 {
        let mut full = Full::new(3);
        full.fill();
        full.delete(2000);
        full.database.wait_until_idle().unwrap();
        let mut batch = full.database.batch();
        for n in 0..1000_u64 {
            let value = full.value(900);
            batch.put(&full.keyspace, n.to_be_bytes(), value).unwrap();
        }
        let (keyspace, value, core) = (full.keyspace.clone(), full.value(900), full.core.clone());
        let (number, left) = (core.commit_numbers().0, Cell::new(point));
        let before = set_hook(Some(Rc::new(move || {
            left.set(left.get() - 1);
            // As long as it has not its own place, and no step is under way for which they would
            // wait.
            let is_rest = core.background.running.load(Ordering::Acquire) == 0;
            if left.get() == -1 && is_rest && core.commit_numbers().0 == number {
                for m in 1..20_000_u64 {
                    if keyspace.put((m << 16).to_be_bytes(), &value).is_err() {
                        break;
                    }
                }
            }
        })));
        let outcome = batch.commit();
        set_hook(before);
        refused += u64::from(outcome.is_err());
        full.database.flush().unwrap();
        let room = full.room();
        assert!(room >= RESERVE_PAGES - 32, "point {point}: {room} pages are left");
    }
    assert!((1..12).contains(&refused), "{refused} commits were refused");
}

/// F2: while no merge can be made, because others are at work there, deletions go on as long as a
/// step has room besides, and no longer.
#[test]
fn deletions_leave_room_for_the_step_that_frees_space() {
    let mut full = Full::new(4);
    full.fill();
    full.database.flush().unwrap();
    let reservations = full.core.background.reservations.clone();
    let number = *full.core.state().levels.keys().next().unwrap();
    let reserved = reservations.reserve(number, LEVELS_ALL, KeyRange::all()).unwrap();
    // Long keys, that are not there: they bring more than they free.
    let mut deleted = 0;
    let error = (0..50_000_u64).find_map(|n| {
        let key = [n.to_be_bytes().as_slice(), &[9; 200]].concat();
        let error = full.keyspace.delete(key).err();
        deleted += u64::from(error.is_none());
        error
    });
    assert!(matches!(error, Some(Error::NoSpace { .. })), "{error:?}");
    assert!(deleted > 500, "only {deleted} deletions had their place");
    drop(reserved);
    full.database.wait_until_idle().unwrap();
    full.delete(500);
    full.check();
    // What is free lies scattered, until nodes are moved.
    full.database.wait_until_idle().unwrap();
    assert!(full.fill() > 100_000);
    full.check();
}

/// F4: beside a snapshot that holds what merges replace, they stop before they take what the
/// memtable needs.
#[test]
fn merges_leave_room_for_the_flush_of_what_was_taken() {
    let mut full = Full::new(5);
    full.fill();
    full.delete(full.keys.len() / 3);
    full.database.flush().unwrap();
    let snapshot = full.database.snapshot().unwrap();
    for n in 0..1000_u64 {
        let key = [n.to_be_bytes().as_slice(), &[9; 200]].concat();
        full.keyspace.delete(key).unwrap();
    }
    let waiting = full.core.memtable_bytes();
    assert!(waiting > 300_000, "{waiting} bytes wait for the flush");
    full.run_steps();
    full.run_steps();
    assert_eq!(full.core.memtable_bytes(), waiting, "nothing of it was flushed");
    full.database.flush().unwrap();
    drop(snapshot);
    full.database.wait_until_idle().unwrap();
    full.check();
}

/// F5: nobody calls a step; the deletions make those that they need, and so do the puts.
#[test]
fn commits_make_the_steps_that_give_them_room() {
    let mut full = Full::new(6);
    let first = full.fill();
    for _ in 0..3 {
        full.delete(full.keys.len() * 9 / 10);
        let more = full.fill();
        assert!(more > first / 2, "{more} bytes fitted in, {first} when it was empty");
    }
    full.check();
}

/// F5: a deletion that finds no room makes some for those behind it, too; also when they come
/// slowly, so that each finds quiet.
#[test]
fn one_wait_makes_room_for_many_deletions() {
    let mut full = Full::new(7);
    full.fill();
    full.database.flush().unwrap();
    let flushes = || full.core.background.flush_steps.load(Ordering::Acquire);
    let (flushes_before, steps_before) = (flushes(), full.steps());
    let count = 8000_u64;
    for n in 0..count {
        let key = [n.to_be_bytes().as_slice(), &[9; 200]].concat();
        full.keyspace.delete(key).unwrap();
        full.hand.advance(Duration::from_secs(1));
    }
    let (flushes, steps) = (flushes() - flushes_before, full.steps() - steps_before);
    assert!(flushes < count / 100, "{flushes} steps of flushes for {count} deletions");
    assert!(steps < count / 12, "{steps} steps for {count} deletions");
    full.check();
}

/// F6: merges go on when all that is free waits for a durable state.
#[test]
fn a_step_without_room_has_a_state_made_durable_and_goes_on() {
    let mut full = Full::new(8);
    full.fill();
    full.delete(full.keys.len() / 2);
    full.database.wait_until_idle().unwrap();
    full.check();
}

/// F6: a small key into each second leaf splits it, if it is not written anew with the others.
#[test]
fn a_step_in_the_reserve_takes_no_more_than_it_must() {
    let mut full = Full::new(9);
    full.storage.set_capacity(u64::MAX);
    let value = full.value(80);
    let count = 30_000_u64;
    for n in 0..count {
        full.keyspace.put((n * 2).to_be_bytes(), &value).unwrap();
        full.keys.push((n * 2).to_be_bytes().to_vec());
    }
    full.database.wait_until_idle().unwrap();
    let before = full.tree_pages();
    assert!(before > 2 * RESERVE_PAGES - 400, "{before} pages are not much beside the reserve");
    // One for each second leaf, so that the others stay if they may.
    for n in (0..count).step_by(18) {
        let key = (n * 2 + 1).to_be_bytes();
        full.keyspace.put(key, [1; 20]).unwrap();
        full.keys.push(key.to_vec());
    }
    full.storage.set_capacity(full.storage.length().unwrap());
    full.database.wait_until_idle().unwrap();
    let pages = full.tree_pages();
    // Twice what the keys and values are.
    let brought = 2 * (count / 18) * 28 / PAGE_BYTES;
    assert!(pages <= before + brought, "{pages} pages, {before} before");
    full.check();
}

/// Deletions under a snapshot that holds all go on as long as the reserve lasts, each in a bounded
/// number of steps; when it is gone the space is back.
#[test]
fn deletions_beside_a_snapshot_that_holds_all_go_through_and_their_space_comes_back() {
    let mut full = Full::new(10);
    let first = full.fill();
    let snapshot = full.database.snapshot().unwrap();
    let count = full.keys.len();
    let kept = full.keys.clone();
    let mut most = 0;
    for _ in 0..count {
        let before = full.steps();
        full.delete(1);
        most = most.max(full.steps() - before);
    }
    // Merges of all that there is, once.
    assert!(most < 2 * FILE_BYTES / (256 << 10), "{most} steps for one deletion");
    assert_eq!(full.keyspace.count::<&[u8]>(..).unwrap(), 0);
    assert_eq!(snapshot.count::<&[u8]>(&full.keyspace, ..).unwrap(), kept.len() as u64);
    drop(snapshot);
    full.database.wait_until_idle().unwrap();
    full.check();
    let again = full.fill();
    assert!(again > first * 3 / 4, "{again} bytes fitted in, {first} when it was empty");
    full.check();
    assert!(full.storage.length().unwrap() <= FILE_BYTES);
}

/// The reserve follows from what lies in the file: with default options, too, little is little.
#[test]
fn a_small_database_is_a_small_file() {
    let storage = SimulatedStorage::new();
    let database = Database::builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let below = |most: u64, when| {
        let length = storage.length().unwrap();
        assert!(length < most, "{length} bytes, {when}");
    };
    below(3 << 20, "empty");
    for n in 0..1000_u64 {
        keyspace.put(n.to_be_bytes(), [7; 100]).unwrap();
    }
    // The memtable, its flush, and what merging that would take.
    below(4 << 20, "written");
    database.wait_until_idle().unwrap();
    below(2 << 20, "idle");
    database.close().unwrap();
    below(3 << 19, "closed");
}
