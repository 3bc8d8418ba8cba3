//! Transactions of many range deletes, up to their merge: what a step holds of range tombstones is
//! bounded.

use std::fs;
use std::path::Path;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::BUDGET_BYTES_MIN;
use sapwood::sync::Clock;
use sapwood::{Compression, Database, Durability, Isolation, Keyspace, KeyspaceOptions};

/// The folder of the database, in the process whose memory is looked at.
const FOLDER: &str = "SAPWOOD_TEST_RANGES_IN";
/// Each takes about 150 bytes of memory: fifteen times the budget in all.
const COUNT: u32 = 400_000;
/// Every so many ranges there is a key of the last level.
const STRIDE: u32 = 8;

/// In a process of its own, whose peak is that of this alone.
#[test]
#[cfg(target_os = "linux")]
fn a_transaction_of_many_range_deletes_stays_within_the_budget_until_all_is_merged() {
    let test = "range_tombstones::\
                a_transaction_of_many_range_deletes_stays_within_the_budget_until_all_is_merged";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return delete_many_ranges(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", test, "--test-threads", "1", "--nocapture"]);
    let output = other.env(FOLDER, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn key(number: u32, side: u8) -> [u8; 9] {
    let mut key = [side; 9];
    key[..8].copy_from_slice(&u64::from(number).to_be_bytes());
    key
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
    // The load took what the budget has.
    assert!(merged - loaded < BUDGET_BYTES_MIN / 5, "{said}");
}

/// The most memory that this process has had resident.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}
