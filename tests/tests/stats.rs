//! What `stats` says of debt, waiting writers and syncs, beside what is known from elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::time::Duration;

use crash_lsm::hooked::HookedStorage;
use sapwood::storage::MemoryStorage;
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Builder, Database, Durability, Isolation, Stats};

fn builder() -> Builder {
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
    builder.region_bytes(1 << 20).durability(Durability::Memory)
}

/// What the line of this name in the table says.
fn row<'a>(text: &'a str, name: &str) -> &'a str {
    let mut found = text.lines().filter(|line| line.get(..24).is_some_and(|n| n.trim() == name));
    let line = found.next().unwrap_or_else(|| panic!("no {name:?} in\n{text}"));
    line[24..].trim()
}

/// Each sync takes its own time, by the clock that the database goes by.
#[test]
fn every_sync_of_log_values_and_states_counts_with_its_time() {
    let (clock, hand) = Clock::fake();
    let syncs = Arc::new(AtomicU64::new(0));
    let told = syncs.clone();
    let storage =
        Arc::new(HookedStorage::before_syncs(Arc::new(MemoryStorage::new()), move || {
            let number = told.fetch_add(1, Ordering::SeqCst);
            hand.advance(Duration::from_micros(time_of(number)));
        }));
    for is_reopened in [false, true] {
        let database = builder().clock(clock.clone()).open_on(storage.clone()).unwrap();
        // Creation syncs before there is a database.
        let before = database.stats().unwrap().syncs;
        let (first, mut last) = (syncs.load(Ordering::SeqCst), 0);
        let mut check = |stats: Stats| {
            let now = syncs.load(Ordering::SeqCst);
            assert!(now > last, "{stats}");
            last = now;
            let times: Vec<u64> = (first..now).map(time_of).collect();
            let longest = times.iter().copied().max().unwrap();
            assert_eq!(stats.syncs.count - before.count, times.len() as u64, "{is_reopened}");
            assert_eq!(stats.syncs.microseconds - before.microseconds, times.iter().sum::<u64>());
            assert_eq!(stats.syncs.longest_microseconds, longest.max(before.longest_microseconds));
            let text = stats.to_string();
            assert_eq!(row(&text, "syncs"), stats.syncs.count.to_string());
            assert_eq!(row(&text, "microseconds"), stats.syncs.microseconds.to_string());
            assert_eq!(row(&text, "of the longest"), stats.syncs.longest_microseconds.to_string());
        };
        let keyspace = database.keyspace("a").unwrap();
        for length in [10, 10_000, 600_000] {
            let mut batch = database.batch();
            batch.put(&keyspace, "k", vec![7; length]).unwrap();
            batch.commit_with(Durability::Sync).unwrap();
            check(database.stats().unwrap());
        }
        // Its writes do not fit in memory, and its commit names them.
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        for number in 0..400_u32 {
            transaction.put(&keyspace, number.to_be_bytes(), vec![7; 1000]).unwrap();
        }
        transaction.commit().unwrap();
        check(database.stats().unwrap());
        database.flush().unwrap();
        check(database.stats().unwrap());
        database.close().unwrap();
    }
}

/// Not in order, so that neither the first nor the last is the longest.
fn time_of(number: u64) -> u64 {
    100 + number * 37 % 101
}

#[test]
fn debt_grows_with_memtables_and_young_segments_and_is_shown() {
    let database = builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(1);
    let mut put = |bytes: usize| keyspace.put(random.next_u64().to_be_bytes(), vec![7; bytes]);
    let debt = || database.stats().unwrap().debt;
    assert_eq!((debt().memory, debt().young, debt().above, debt().felt), (0.0, 0.0, 0.0, 0.0));
    for count in 1..=14 {
        (0..10).for_each(|_| put(10).unwrap());
        database.flush().unwrap();
        assert_eq!(database.stats().unwrap().young_segments, count);
        assert_eq!(debt().young, if count < 8 { 0.0 } else { (count - 8) as f64 / 12.0 });
        assert_eq!(debt().felt, debt().young);
    }
    assert_eq!((debt().memory, debt().felt), (0.0, 0.5));
    // A memtable may take a quarter of the budget, and a second one as much.
    while debt().felt < 0.7 {
        put(1000).unwrap();
    }
    let stats = database.stats().unwrap();
    let held = database.core().unwrap().memtable_bytes() as f64 / f64::from(1 << 20);
    assert!(held > 1.7, "{held}");
    assert_eq!((stats.debt.memory, stats.debt.felt), (held - 1.0, held - 1.0));
    let text = stats.to_string();
    assert_eq!(row(&text, "debt"), format!("{:.1} %", stats.debt.felt * 100.0));
    assert_eq!(row(&text, "young"), "50.0 %");
    assert_eq!(row(&text, "memory"), row(&text, "debt"));
    assert_eq!(row(&text, "above"), "0.0 %");
    database.wait_until_idle().unwrap();
    assert_eq!(debt().felt, 0.0);
}

/// While merging is behind, and threads are at it, commits wait: `stats` shows for how long, by the
/// clock that the database goes by.
#[test]
fn the_time_for_which_writers_were_slowed_is_shown() {
    let (clock, _hand) = Clock::fake();
    let database = builder().clock(clock.clone()).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(1);
    let mut put = |bytes: usize| keyspace.put(random.next_u64().to_be_bytes(), vec![7; bytes]);
    for _ in 0..16 {
        (0..10).for_each(|_| put(10).unwrap());
        database.flush().unwrap();
    }
    let slowed = || database.stats().unwrap().slowed_microseconds;
    let debt = database.stats().unwrap().debt.felt;
    assert!((0.6..0.7).contains(&debt), "{debt}");
    put(10_000).unwrap();
    assert_eq!((slowed(), clock.now()), (0, Duration::ZERO), "nobody merges meanwhile");
    let core = database.core().unwrap();
    core.background.has_threads.store(true, Ordering::SeqCst);
    let mut known = 0;
    for bytes in [1000, 30_000, 3000] {
        let before = clock.now();
        put(bytes).unwrap();
        let slept = (clock.now() - before).as_micros() as u64;
        assert!(slept > 0, "a commit of {bytes} bytes was not slowed");
        assert_eq!(slowed(), known + slept, "{bytes} bytes");
        known += slept;
    }
    core.background.has_threads.store(false, Ordering::SeqCst);
    let text = database.stats().unwrap().to_string();
    assert_eq!(row(&text, "slowed, microseconds"), known.to_string());
}
