//! Many range deletes, in transactions and in memtables, up to their merge: what they take is
//! counted, and what a step holds of them is bounded.

use std::path::Path;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::BUDGET_BYTES_MIN;
use sapwood::memtable::{ChunkPool, Memtable};
use sapwood::sync::{Arc, Clock};
use sapwood::{
    Compression, Database, Durability, Isolation, Keyspace, KeyspaceNumber, KeyspaceOptions,
    SequenceNumber,
};

#[cfg(target_os = "linux")]
use crate::process::{folder, is_alone, memory, peak_bytes};

/// Each takes about 150 bytes of memory: fifteen times the budget in all.
const COUNT: u32 = 400_000;
/// Every so many ranges there is a key of the last level.
const STRIDE: u32 = 8;

#[test]
#[cfg(target_os = "linux")]
fn a_transaction_of_many_range_deletes_stays_within_the_budget_until_all_is_merged() {
    let test = concat!(
        "range_tombstones::a_transaction_of_many_range_deletes_stays_within_the_budget_",
        "until_all_is_merged"
    );
    if is_alone(test) {
        delete_many_ranges(&folder());
    }
}

/// Of each range tombstone only the start was counted, and about half of its allocations: a
/// memtable of long ones took twice its share before it was sealed.
#[test]
#[cfg(target_os = "linux")]
fn a_memtable_counts_what_its_range_tombstones_take() {
    if !is_alone("range_tombstones::a_memtable_counts_what_its_range_tombstones_take") {
        return;
    }
    for (count, length) in [(60_000, 0), (15_000, 1000)] {
        let table = Memtable::new(Arc::new(ChunkPool::new(1 << 20)));
        let (counted_before, taken_before) = (table.bytes() as u64, memory("VmRSS:"));
        for number in 0..count {
            let (start, end) = (long_key(number, 3, length), long_key(number, 6, length));
            let sequence = SequenceNumber(u64::from(number) + 1);
            table.insert_range_delete(KeyspaceNumber(1), &start, Some(&end), sequence);
        }
        let counted = table.bytes() as u64 - counted_before;
        let taken = memory("VmRSS:") - taken_before;
        let said = format!("{counted} counted, {taken} taken, keys of {} bytes", 9 + length);
        println!("{said}");
        assert!((taken * 4 / 5..=taken * 5 / 4).contains(&counted), "{said}");
        // The next one is to take memory of its own.
        std::mem::forget(table);
    }
}

/// A flush made a copy of all range tombstones of the memtable, which nothing counted.
#[test]
#[cfg(target_os = "linux")]
fn a_flush_holds_no_second_copy_of_the_range_tombstones() {
    if !is_alone("range_tombstones::a_flush_holds_no_second_copy_of_the_range_tombstones") {
        return;
    }
    let builder = Database::builder().memory_budget(256 << 20).merge_threads(0);
    let database = builder.durability(Durability::Memory).open(folder().join("database")).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..15_000 {
        keyspace.delete_range(long_key(number, 3, 1000)..long_key(number, 6, 1000)).unwrap();
    }
    assert_eq!(database.stats().unwrap().flushes, 0);
    let memtables = database.stats().unwrap().memory.memtables;
    let before = peak_bytes();
    database.flush().unwrap();
    let flushed = peak_bytes() - before;
    assert_eq!(database.stats().unwrap().flushes, 1);
    let said = format!("{memtables} in memtables, {flushed} more for the flush");
    println!("{said}");
    assert!(flushed < memtables / 4, "{said}");
    assert_eq!(access::verify(&database).unwrap(), None);
}

fn key(number: u32, side: u8) -> [u8; 9] {
    let mut key = [side; 9];
    key[..8].copy_from_slice(&u64::from(number).to_be_bytes());
    key
}

fn long_key(number: u32, side: u8, length: usize) -> Vec<u8> {
    [&key(number, side)[..], &vec![7; length]].concat()
}

fn put(database: &Database, keyspace: &Keyspace) {
    for start in (0..COUNT).step_by(100 * STRIDE as usize) {
        let mut batch = database.batch();
        for number in (start..start + 100 * STRIDE).step_by(STRIDE as usize) {
            batch.put(keyspace, key(number, 5), [7; 1200]).unwrap();
        }
        batch.commit_with(Durability::Memory).unwrap();
    }
}

fn delete_many_ranges(folder: &Path) {
    // Time stands still: writes do not pause.
    let (clock, _hand) = Clock::fake();
    let builder = Database::builder().memory_budget(BUDGET_BYTES_MIN).merge_threads(0);
    let database = builder.clock(clock).open(folder.join("database")).unwrap();
    let plain = KeyspaceOptions::default().compression(Compression::None);
    let keyspace = database.keyspace_with("a", plain).unwrap();
    // So much that what is deleted goes to a level above it first, range tombstones and all.
    put(&database, &keyspace);
    database.wait_until_idle().unwrap();
    let loaded = peak_bytes();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    for number in 0..COUNT {
        transaction.delete_range(&keyspace, key(number, 3)..key(number, 6)).unwrap();
    }
    let written = peak_bytes();
    transaction.commit().unwrap();
    let committed = peak_bytes();
    run_all_steps(&database).unwrap();
    let state = database.core().unwrap().state();
    let above = state.levels.values().flat_map(|levels| levels.above());
    let above = above.map(|segment| segment.entries()).sum::<u64>();
    assert!(above >= u64::from(COUNT), "{above} range tombstones above the last level");
    drop(state);
    database.wait_until_idle().unwrap();
    let merged = peak_bytes();
    let said =
        format!("{loaded} loaded, {written} written, {committed} committed, {merged} merged");
    println!("{said}");
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0);
    assert_eq!(access::verify(&database).unwrap(), None);
    // The load took what the budget has. Both are the most that there was, which the system's
    // allocator makes a few hundred KiB more or less; it was twenty times the budget.
    assert!(merged - loaded < BUDGET_BYTES_MIN / 3, "{said}");
}
