//! What handles of the application keep in memory is shown, for as long as they do.

use std::io::{self, Read};

use crash_lsm::setup::{BUDGET_BYTES_MIN, Setup};
use sapwood::sync::Random;
use sapwood::{Database, Isolation, Keyspace, KeyspaceOptions, Value};

use super::{LIMIT_BYTES, counted_bytes};

const COUNT: u32 = 3000;
/// A value that lies in its leaf and is not copied out of it.
const LENGTH: usize = 2000;

/// All of it in levels, three to a leaf, and more than the cache takes.
fn made() -> (Database, Keyspace) {
    let setup =
        Setup { page_bytes: 4096, leaf_bytes: 8192, region_bytes: 8 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let options = KeyspaceOptions::default().compression(sapwood::Compression::None);
    let keyspace = database.keyspace_with("a", options).unwrap();
    for number in 0..COUNT {
        keyspace.put(number.to_be_bytes(), value(number)).unwrap();
    }
    database.compact().unwrap();
    (database, keyspace)
}

fn value(number: u32) -> Vec<u8> {
    let mut value = vec![0; LENGTH];
    Random::from_seed(number.into()).fill(&mut value);
    value
}

fn held(database: &Database) -> u64 {
    database.stats().unwrap().memory.held_by_application
}

/// What so many snapshots, cursors or transactions take before they have read anything, at most.
fn listed(count: usize) -> usize {
    count * 300 + (4 << 10)
}

/// What is held, at least the first and at most the second.
#[track_caller]
fn assert_held(database: &Database, least: usize, most: usize) {
    let held = held(database);
    assert!((least as u64..=most as u64).contains(&held), "{held}, not {least} to {most}");
    let counted = counted_bytes(database);
    assert!(counted <= LIMIT_BYTES, "{counted} of {BUDGET_BYTES_MIN} bytes are counted");
}

fn check(values: &[Value]) {
    for (found, number) in values.iter().zip(0..) {
        assert_eq!(*found, value(number));
    }
}

const ALL_BYTES: usize = COUNT as usize * LENGTH;

#[test]
fn values_hold_the_nodes_that_the_cache_has_let_go() {
    let (database, keyspace) = made();
    let get = |number: u32| keyspace.get(number.to_be_bytes()).unwrap().unwrap();
    let few: Vec<_> = (0..100).map(get).collect();
    assert_eq!(held(&database), 0, "the cache has them");
    let values: Vec<_> = (0..COUNT).map(get).collect();
    let cached = database.stats().unwrap().memory.cache as usize;
    assert!(cached > ALL_BYTES / 8, "{cached} bytes");
    // What both have counts for the cache.
    assert_held(&database, ALL_BYTES - cached, ALL_BYTES * 2 - cached);
    database.core().unwrap().pages.cache().clear();
    assert_held(&database, ALL_BYTES, ALL_BYTES * 2);
    check(&values);
    check(&few);
    drop(values);
    assert_held(&database, 100 * LENGTH, 100 * LENGTH * 2);
    drop(few);
    assert_eq!(held(&database), 0);
}

#[test]
fn values_of_a_walk_hold_nodes_that_were_never_cached() {
    let (database, keyspace) = made();
    database.core().unwrap().pages.cache().clear();
    let values: Vec<_> = keyspace.iter().unwrap().map(|pair| pair.unwrap().1).collect();
    let cached = database.stats().unwrap().memory.cache as usize;
    assert!(cached < ALL_BYTES / 8, "{cached} bytes");
    assert_held(&database, ALL_BYTES - cached, ALL_BYTES * 2);
    check(&values);
    drop(values);
    assert_eq!(held(&database), 0);
    // What nobody keeps is held for as long as the walk stands there.
    let mut walk = keyspace.iter().unwrap();
    for number in 0..COUNT {
        assert_eq!(walk.next().unwrap().unwrap().1, value(number));
        assert_held(&database, 0, 20_000);
    }
    drop(walk);
    assert_eq!(held(&database), 0);
}

/// A freed block's nodes leave the cache, whoever reads them.
#[test]
fn values_outlive_their_block_and_still_count() {
    let (database, keyspace) = made();
    let values: Vec<_> =
        (0..30).map(|number: u32| keyspace.get(number.to_be_bytes()).unwrap().unwrap()).collect();
    assert_eq!(held(&database), 0);
    keyspace.delete_range::<&[u8]>(..).unwrap();
    database.compact().unwrap();
    database.wait_until_idle().unwrap();
    assert_held(&database, 30 * LENGTH, 30 * LENGTH * 2);
    check(&values);
    drop(values);
    assert_eq!(held(&database), 0);
}

#[test]
fn what_cursors_and_iterators_have_read_ahead_is_held() {
    let setup = Setup { region_bytes: 8 << 20, budget_bytes: 16 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..500_u32 {
        keyspace.put(number.to_be_bytes(), [7; 300]).unwrap();
    }
    // All of it lies in the memtable, of which entries are copied.
    assert_eq!(database.stats().unwrap().flushes, 0);
    let mut cursors: Vec<_> = (0..50).map(|_| keyspace.cursor().unwrap()).collect();
    assert_held(&database, 1, listed(50));
    for cursor in &mut cursors {
        assert!(cursor.first().unwrap());
    }
    assert_held(&database, 50 * 4 * 300, 50 * 4096);
    for cursor in &mut cursors {
        (0..200).for_each(|_| assert!(cursor.next().unwrap()));
    }
    assert_held(&database, 50 * 64 * 300, 50 * 64 * 500);
    cursors.truncate(10);
    assert_held(&database, 10 * 64 * 300, 10 * 64 * 500);
    drop(cursors);
    assert_eq!(held(&database), 0);
    let mut ranges: Vec<_> = (0..50).map(|_| keyspace.iter().unwrap()).collect();
    for range in &mut ranges {
        assert_eq!(range.by_ref().take(50).count(), 50);
        assert!(range.next_back().is_some());
    }
    assert_held(&database, 50 * 32 * 300, 50 * 80 * 500);
    // One that has ended holds nothing.
    ranges.iter_mut().for_each(|range| assert_eq!(range.count(), 449));
    assert!(held(&database) <= listed(50) as u64);
}

/// The transaction goes on with a copy, spills, or ends: what iterators see stays.
#[test]
fn writes_that_a_transaction_has_let_go_are_held_by_its_iterators() {
    let setup = Setup { transaction_bytes: Some(100_000), ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let count = |range: sapwood::Range| range.inspect(|pair| assert!(pair.is_ok())).count();
    for number in 0..100_u32 {
        transaction.put(&keyspace, number.to_be_bytes(), [7; 400]).unwrap();
    }
    let mut ranges: Vec<_> = (0..10).map(|_| transaction.iter(&keyspace).unwrap()).collect();
    // The writes are the transaction's.
    assert_held(&database, 1, listed(11));
    transaction.put(&keyspace, "more", "v").unwrap();
    assert_held(&database, 40_000, 60_000);
    // A second put copies nothing.
    transaction.put(&keyspace, "more", "w").unwrap();
    assert_held(&database, 40_000, 60_000);
    let later = transaction.iter(&keyspace).unwrap();
    for number in 100..500_u32 {
        transaction.put(&keyspace, number.to_be_bytes(), [7; 400]).unwrap();
    }
    assert_held(&database, 80_000, 120_000);
    assert_eq!(count(ranges.pop().unwrap()), 100);
    drop(ranges);
    assert_held(&database, 40_000, 60_000);
    assert_eq!(count(later), 101);
    assert!(held(&database) <= listed(1) as u64);
    let last = transaction.iter(&keyspace).unwrap();
    assert!(held(&database) <= listed(2) as u64);
    transaction.rollback();
    let spilled = database.stats().unwrap().memory.pending_writes;
    assert_eq!(spilled, 0);
    assert!(held(&database) > 2 << 10, "what was not spilled");
    assert_eq!(count(last), 501);
    assert_eq!(held(&database), 0);
}

/// Looks at the database in the middle of the value that it gives.
struct Looks<'a> {
    database: &'a Database,
    left: usize,
    most: u64,
}

impl Read for Looks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.most = self.most.max(self.database.stats().unwrap().memory.merge_buffers);
        let count = buffer.len().min(self.left);
        buffer[..count].fill(7);
        self.left -= count;
        Ok(count)
    }
}

#[test]
fn pieces_of_values_that_are_read_or_written_as_streams_are_counted() {
    const PIECE: usize = 128 << 10;
    let (database, keyspace) = made();
    let mut looks = Looks { database: &database, left: 10 * PIECE, most: 0 };
    keyspace.put_stream("long", &mut looks).unwrap();
    // Being written it is the engine's: a piece, another as long in which it is compressed or on
    // its way to the file, and little beside.
    let few = PIECE as u64..2 * PIECE as u64 + 4096;
    assert!(few.contains(&looks.most), "{} bytes", looks.most);
    assert_eq!(database.stats().unwrap().memory.merge_buffers, 0);
    let mut streams: Vec<_> =
        (0..20).map(|_| keyspace.get_stream("long").unwrap().unwrap()).collect();
    assert_held(&database, 20, 20 * 4096);
    for stream in &mut streams {
        let mut bytes = [0; 3];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 3]);
    }
    assert_held(&database, 20 * PIECE, 20 * (PIECE + 8192));
    for stream in &mut streams {
        assert_eq!(io::copy(stream, &mut io::sink()).unwrap(), 10 * PIECE as u64 - 3);
    }
    assert_held(&database, 20 * PIECE, 20 * (PIECE + 8192));
    drop(streams);
    assert_eq!(held(&database), 0);
}

#[test]
fn the_writes_of_batches_are_held_until_their_commit() {
    let (database, keyspace) = made();
    let mut batches: Vec<_> = (0..100).map(|_| database.batch()).collect();
    assert_eq!(held(&database), 0);
    for batch in &mut batches {
        (0..20_u32).for_each(|key| batch.put(&keyspace, key.to_be_bytes(), [7; 500]).unwrap());
    }
    // Buffers grow to the double.
    assert_held(&database, 100 * 10_000, 100 * 25_000);
    for batch in &mut batches[..50] {
        batch.delete_range(&keyspace, [9_u8; 4]..[10; 4]).unwrap();
    }
    assert_held(&database, 100 * 10_000, 100 * 25_000);
    batches.truncate(1);
    assert_held(&database, 10_000, 25_000);
    batches.pop().unwrap().commit().unwrap();
    assert_eq!(held(&database), 0);
}

#[test]
fn nothing_counts_as_held_that_the_engine_keeps_itself() {
    let setup = Setup { region_bytes: 8 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let pages = database.core().unwrap().pages.clone();
    let mut unwritten = 0;
    for number in 0..20_000_u32 {
        keyspace.put(number.wrapping_mul(0x9e37_79b1).to_be_bytes(), [7; 200]).unwrap();
        if number % 500 == 0 {
            database.run_step().unwrap();
            // Upper parents that are not written yet are out of the cache, and in memory.
            unwritten = unwritten.max(pages.unwritten_count());
            pages.cache().clear();
            assert_eq!(held(&database), 0, "{number}");
        }
    }
    assert!(unwritten > 0);
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 20_000);
    assert_eq!(held(&database), 0);
}
