//! Events of damage, and of what the system refuses.

use std::io::ErrorKind;

use crash_lsm::fixtures::run_all_steps;
use sapwood::merge::lists::lists_step;
use sapwood::page::StateLocation;
use sapwood::page::file_header::read_slots;
use sapwood::storage::{FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicBool, Ordering};
use sapwood::sync::{Arc, Clock};
use sapwood::{Compression, Database, Durability, Error, Keyspace, KeyspaceOptions};
use tracing::Level;

use crate::refusing::{REFUSED, refusing};
use crate::{assert_fields, assert_is, builder, events_of, first, only};

/// That of the smallest options.
const PAGE_BYTES: u64 = 1 << 10;

/// Time stands still, so that nothing is merged because writes pause.
fn open(storage: &SimulatedStorage) -> Database {
    builder().clock(Clock::fake().0).open_on(Arc::new(storage.clone())).unwrap()
}

fn plain(database: &Database, name: &str) -> Keyspace {
    let options = KeyspaceOptions::default().compression(Compression::None);
    database.keyspace_with(name, options).unwrap()
}

fn key(number: u32) -> String {
    format!("{number:05}")
}

fn put_all(keyspace: &Keyspace, numbers: impl Iterator<Item = u32>, value: u8) {
    for number in numbers {
        keyspace.put(key(number), [value; 90]).unwrap();
    }
}

/// One bit of the page is another.
fn damage(storage: &SimulatedStorage, page: u64) {
    storage.flip_bit(page * PAGE_BYTES + 200, 3);
}

#[test]
fn a_durable_state_that_cannot_be_read_is_told_and_the_one_before_is_tried() {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    // Their names do not fit into a slot.
    for number in 0..60 {
        database.keyspace(&format!("{number:0100}")).unwrap();
    }
    (0..2).for_each(|_| database.flush().unwrap());
    let killed = storage.kill();
    let slots = read_slots(&killed).unwrap().map(|slot| slot.unwrap());
    let newest = slots.iter().max_by_key(|slot| slot.generation).unwrap();
    let StateLocation::Blocks { blocks, .. } = &newest.state else { panic!("it fits") };
    let page = blocks[0].first.0;
    damage(&killed, page);
    let mut opened = None;
    let events = events_of(|| opened = Some(builder().open_on(Arc::new(killed.clone()))));
    // It can be read, and the log says that another one is newer.
    let error = opened.unwrap().unwrap_err();
    assert!(error.is_corruption() && !error.to_string().contains(" page "), "{error}");
    let told = only(&events, "a durable state cannot be read");
    assert_is(told, "sapwood::open", Level::WARN);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains(&format!("at page {page}: wrong checksum")), "{told:?}");
}

#[test]
fn a_free_map_that_cannot_be_read_is_told_by_a_read_only_open() {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    plain(&database, "a").put("key", "value").unwrap();
    let layout = *database.core().unwrap().pages.layout();
    database.close().unwrap();
    // Both homes of the first region.
    (8192 / PAGE_BYTES..u64::from(layout.fixed_pages(0))).for_each(|page| damage(&storage, page));
    let mut opened = None;
    let read_only = || builder().read_only(true).open_on(Arc::new(storage.clone()));
    let events = events_of(|| opened = Some(read_only().unwrap()));
    let told = only(&events, "a free map cannot be read");
    assert_is(told, "sapwood::open", Level::WARN);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains("damaged free map"), "{told:?}");
    let database = opened.unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.get("key").unwrap().unwrap(), "value");
}

/// A last level and a young segment over it; and the page in which the filter of that lies.
fn with_a_young_filter() -> (SimulatedStorage, u64) {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    let keyspace = plain(&database, "a");
    put_all(&keyspace, (0..900).step_by(3), 1);
    database.wait_until_idle().unwrap();
    put_all(&keyspace, (1..900).step_by(3), 2);
    database.flush().unwrap();
    let state = database.core().unwrap().state();
    assert_eq!(state.young.len(), 1);
    let page = state.young[0].filter.nodes[0].page.0;
    drop(keyspace);
    database.close().unwrap();
    (storage, page)
}

#[test]
fn a_damaged_filter_is_told_once() {
    let (storage, page) = with_a_young_filter();
    damage(&storage, page);
    let database = open(&storage);
    let keyspace = database.keyspace("a").unwrap();
    let events = events_of(|| {
        for number in 0..90 {
            assert_eq!(keyspace.contains(key(number)).unwrap(), number % 3 < 2);
        }
    });
    let told = only(&events, "a damaged filter: its segment is searched");
    assert_is(told, "sapwood::filter", Level::WARN);
    assert_fields(told, &["corruption"]);
    assert!(told.fields["corruption"].contains(&format!("page {page}")), "{told:?}");
}

#[test]
fn a_filter_that_is_not_read_is_told_whenever_it_is_tried() {
    let (storage, _) = with_a_young_filter();
    let database = open(&storage);
    let keyspace = database.keyspace("a").unwrap();
    let get = || {
        storage.fail_at(FaultKind::Read, 1, true, ErrorKind::Other);
        // The filter is the first thing that is read.
        assert!(!keyspace.contains(key(2)).unwrap());
        storage.clear_faults();
    };
    let events = events_of(|| (0..2).for_each(|_| get()));
    assert_eq!(events.len(), 2, "{events:#?}");
    for told in &events {
        assert_eq!(told.message, "a filter was not read: its segment is searched");
        assert_is(told, "sapwood::filter", Level::DEBUG);
        assert_fields(told, &["error"]);
        assert!(told.fields["error"].contains("reading"), "{told:?}");
    }
}

#[test]
fn write_back_that_is_refused_is_told_and_no_error() {
    let storage = SimulatedStorage::new();
    let hooked = refusing(&storage, |kind| {
        (kind == OperationKind::WriteBack).then_some(ErrorKind::Unsupported)
    });
    let database = builder().open_on(Arc::new(hooked)).unwrap();
    let keyspace = plain(&database, "a");
    put_all(&keyspace, 0..300, 1);
    let events = events_of(|| database.flush().unwrap());
    let told = first(&events, "write-back was refused; the sync will do it");
    assert_is(told, "sapwood::storage", Level::DEBUG);
    assert_fields(told, &["error"]);
    assert_eq!(told.fields["error"], REFUSED);
    drop(keyspace);
    database.close().unwrap();
    assert_eq!(open(&storage).keyspace("a").unwrap().count::<&str>(..).unwrap(), 300);
}

#[test]
fn a_file_that_cannot_be_cut_now_is_told_and_the_close_succeeds() {
    let storage = SimulatedStorage::new();
    // Its length is set when the file is made, too.
    let closes = Arc::new(AtomicBool::new(false));
    let is_closing = closes.clone();
    let hooked = refusing(&storage, move |kind| {
        let refused = kind == OperationKind::SetLength && is_closing.load(Ordering::Relaxed);
        refused.then_some(ErrorKind::ResourceBusy)
    });
    let database = builder().clock(Clock::fake().0).open_on(Arc::new(hooked)).unwrap();
    let keyspace = plain(&database, "a");
    put_all(&keyspace, 0..3000, 1);
    database.flush().unwrap();
    let snapshot = database.snapshot().unwrap();
    keyspace.delete_range::<&str>(..).unwrap();
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    drop((snapshot, keyspace));
    let length = storage.image().len();
    closes.store(true, Ordering::Relaxed);
    let events = events_of(|| database.close().unwrap());
    let told = only(&events, "the file is not cut now");
    assert_is(told, "sapwood::storage", Level::DEBUG);
    assert_fields(told, &["error"]);
    assert_eq!(told.fields["error"], REFUSED);
    assert_eq!(storage.image().len(), length);
    assert_eq!(open(&storage).keyspace("a").unwrap().count::<&str>(..).unwrap(), 0);
}

#[test]
fn a_damaged_list_of_dead_blocks_is_told() {
    let storage = SimulatedStorage::new();
    let builder = builder().clock(Clock::fake().0).dead_list_bytes(64);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = plain(&database, "a");
    let change = |value| {
        put_all(&keyspace, 0..3000, value);
        database.flush().unwrap();
        database.compact().unwrap();
        database.flush().unwrap();
    };
    change(1);
    let snapshot = database.snapshot().unwrap();
    change(2);
    let core = database.core().unwrap();
    while lists_step(&core).unwrap() {}
    let page = core.held.blocks().written[0].page.0;
    damage(&storage, page);
    let events = events_of(|| {
        drop(snapshot);
        core.collect_released();
        let mut damaged = 0;
        loop {
            match lists_step(&core) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    assert!(error.is_corruption(), "{error}");
                    damaged += 1;
                }
            }
        }
        assert_eq!(damaged, 1);
    });
    let told = only(&events, "a list of dead blocks is damaged; an open frees what it names");
    assert_is(told, "sapwood::storage", Level::ERROR);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains(&format!("page {page}")), "{told:?}");
}

/// Somebody has removed it already. (Where files that are open cannot be removed, nobody has.)
#[test]
#[cfg(unix)]
fn an_incomplete_copy_that_cannot_be_removed_is_told_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let database = builder().open_in_memory().unwrap();
    put_all(&plain(&database, "a"), 0..300, 1);
    let mut removed = Vec::new();
    let events = events_of(|| {
        let copied = database.compact_to(&path, &mut |_: u64, _: u64| {
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                let entry = entry.unwrap().path();
                std::fs::remove_file(&entry).unwrap();
                removed.push(entry.display().to_string());
            }
            false
        });
        assert!(matches!(copied, Err(Error::Cancelled)), "{copied:?}");
    });
    let told = only(&events, "an incomplete file could not be removed");
    assert_is(told, "sapwood::storage", Level::WARN);
    assert_fields(told, &["error", "file"]);
    assert_eq!(removed, [told.fields["file"].as_str()]);
}

#[test]
fn a_step_that_is_passed_over_is_told_with_what_cannot_be_read() {
    let storage = SimulatedStorage::new();
    let database = open(&storage);
    let damaged = plain(&database, "a");
    put_all(&damaged, (0..900).step_by(2), 1);
    database.wait_until_idle().unwrap();
    let page = {
        let state = database.core().unwrap().state();
        let last = state.levels.values().next().unwrap().last().unwrap();
        last.points.as_ref().unwrap().reference.page.0
    };
    put_all(&plain(&database, "b"), (0..900).step_by(2), 1);
    database.wait_until_idle().unwrap();
    drop(damaged);
    database.close().unwrap();
    damage(&storage, page);
    let database = open(&storage);
    for name in ["a", "b"] {
        put_all(&database.keyspace(name).unwrap(), (1..900).step_by(40), 2);
    }
    database.flush().unwrap();
    let events = events_of(|| {
        let error = database.wait_until_idle().unwrap_err();
        assert!(error.is_corruption(), "{error}");
    });
    let told = first(&events, "a step was passed over");
    assert_is(told, "sapwood::failure", Level::WARN);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains(&format!("page {page}")), "{told:?}");
}

#[test]
fn a_replayed_log_that_cannot_be_flushed_is_told_and_can_be_read() {
    let storage = SimulatedStorage::new();
    let builder = || Database::builder().merge_threads(0);
    let database = builder().memory_budget(64 << 20).open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..8u32 << 10 {
        let mut batch = database.batch();
        batch.put(&keyspace, number.to_be_bytes(), [7; 1000]).unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
    }
    let killed = storage.kill();
    drop((keyspace, database));
    killed.fail_at(FaultKind::Write, 1, false, ErrorKind::Other);
    let events = events_of(|| {
        let opened = builder().memory_budget(4 << 20).open_on(Arc::new(killed.clone())).unwrap();
        assert_eq!(opened.keyspace("a").unwrap().count::<&str>(..).unwrap(), 8 << 10);
    });
    let told = only(&events, "flushing what was replayed failed");
    assert_is(told, "sapwood::failure", Level::WARN);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains("failed on"), "{told:?}");
}
