//! Events of merge threads, told by the thread that has met what they tell.

use std::io::ErrorKind;
use std::time::Duration;

use sapwood::storage::{Operation, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicBool, Ordering};
use sapwood::sync::{Arc, Mutex, Random};
use sapwood::{Builder, Database, Durability};
use tracing::Level;

use crate::collector::{Collector, Event};
use crate::refusing::{REFUSED, refusing};
use crate::{assert_fields, assert_is, events_of, only};

const MERGING: &str = "sapwood-merge-0";
const SYNCING: &str = "sapwood-sync";

fn builder() -> Builder {
    Database::builder().memory_budget(4 << 20).merge_threads(1).durability(Durability::Memory)
}

fn is_thread(name: &str) -> bool {
    std::thread::current().name() == Some(name)
}

type Events = Arc<Mutex<Vec<Event>>>;

/// What the thread of this name has told with this message.
fn told_by(events: &Events, thread: &str, message: &str) -> Option<Event> {
    let events = events.lock();
    events.iter().find(|event| event.thread == thread && event.message == message).cloned()
}

/// What threads tell goes to the subscriber of the process: the only test here that has one.
#[test]
fn slowed_commits_failed_steps_and_failed_timed_syncs_are_told() {
    let collector = Collector::default();
    let events = collector.events.clone();
    tracing::subscriber::set_global_default(collector).unwrap();
    slowed_commits(&events);
    failed_steps(&events);
    failed_timed_syncs(&events);
}

fn slowed_commits(events: &Events) {
    let database = builder().open_on(Arc::new(SimulatedStorage::new())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let has = |message: &str| events.lock().iter().any(|event| event.message == message);
    // Until merging falls behind.
    let mut random = Random::from_seed(1);
    let mut puts = 0;
    while !has("a commit is slowed") {
        puts += 1;
        assert!(puts < 200_000, "no commit is ever slowed");
        keyspace.put(random.next_u64().to_be_bytes(), vec![b'v'; 3000]).unwrap();
    }
    let events = events.lock();
    let slowed = events.iter().find(|event| event.message == "a commit is slowed").unwrap();
    assert_is(slowed, "sapwood::stall", Level::DEBUG);
    assert_fields(slowed, &["debt", "micros"]);
    let debt: f64 = slowed.fields["debt"].parse().unwrap();
    assert!(debt > 0.0 && debt < 1.0 && slowed.number("micros") > 0, "{slowed:?}");
}

/// A step that cannot write has changed nothing, and is made again.
fn failed_steps(events: &Events) {
    let is_refusing = Arc::new(AtomicBool::new(false));
    let refuses = is_refusing.clone();
    let storage = refusing(&SimulatedStorage::new(), move |kind| {
        let refused = refuses.load(Ordering::Relaxed) && kind == OperationKind::Write;
        (refused && is_thread(MERGING)).then_some(ErrorKind::Other)
    });
    let database = builder().open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    // What must come before the first write is done.
    database.flush().unwrap();
    is_refusing.store(true, Ordering::Relaxed);
    let mut number = 0_u32;
    let failed = loop {
        if let Some(failed) = told_by(events, MERGING, "a step failed") {
            break failed;
        }
        if number < 1500 {
            keyspace.put(number.to_be_bytes(), [7; 1000]).unwrap();
            number += 1;
        }
        std::thread::yield_now();
    };
    assert_is(&failed, "sapwood::failure", Level::WARN);
    assert_fields(&failed, &["error"]);
    assert!(failed.fields["error"].contains(REFUSED), "{failed:?}");
    is_refusing.store(false, Ordering::Relaxed);
    database.wait_until_idle().unwrap();
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), u64::from(number));
    assert!(told_by(events, SYNCING, "a timed sync failed").is_none());
}

/// Whichever thread comes first makes the sync: that of the merge thread succeeds.
fn failed_timed_syncs(events: &Events) {
    let storage = refusing(&SimulatedStorage::new(), |kind| {
        let is_sync = matches!(kind, OperationKind::Sync | OperationKind::WriteSync);
        (is_sync && is_thread(SYNCING)).then_some(ErrorKind::Other)
    });
    let builder = builder().durability(Durability::Buffered);
    let builder = builder.sync_interval(Duration::from_millis(5));
    let database = builder.open_on(Arc::new(storage)).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let failed = loop {
        if let Some(failed) = told_by(events, SYNCING, "a timed sync failed") {
            break failed;
        }
        let _ = keyspace.put("k", "v");
        std::thread::yield_now();
    };
    assert_is(&failed, "sapwood::failure", Level::WARN);
    assert_fields(&failed, &["error"]);
    assert!(failed.fields["error"].contains(REFUSED), "{failed:?}");
}

#[test]
fn a_merge_thread_that_panicked_is_told_at_the_close() {
    let storage = SimulatedStorage::new();
    storage.on_operation(Box::new(|operation: &Operation| {
        if operation.kind == OperationKind::Write && is_thread(MERGING) {
            panic!("asked for by the test");
        }
    }));
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let numbers = 0..1_000_000_u32;
    let refused = numbers.map(|n| keyspace.put(n.to_be_bytes(), [7; 1000])).find_map(Result::err);
    assert!(refused.unwrap().to_string().contains("panicked"));
    drop(keyspace);
    let events = events_of(|| {
        database.close().unwrap_err();
    });
    let told = only(&events, "a merge thread panicked");
    assert_is(told, "sapwood::failure", Level::ERROR);
    assert_fields(told, &[]);
    storage.clear_on_operation();
}
