//! What the engine tells `tracing`: each event is in the table of `docs/options.md`, and comes when
//! that says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "events/collector.rs"]
mod collector;
#[path = "events/faults.rs"]
mod faults;
#[path = "events/listing.rs"]
mod listing;
#[cfg(target_os = "linux")]
#[path = "events/mapping.rs"]
mod mapping;
#[path = "events/refusing.rs"]
mod refusing;
#[path = "events/threads.rs"]
mod threads;

use std::time::Duration;

use collector::{Collector, Event};
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, FaultKind, SimulatedStorage};
use sapwood::sync::{Arc, Clock, Mutex, thread};
use sapwood::{Builder, Database, Durability, Isolation};
use tracing::span;

fn root(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

fn builder() -> Builder {
    Setup::tiny().builder()
}

/// Runs something, and returns what this thread was told.
fn events_of(run: impl FnOnce()) -> Vec<Event> {
    let collector = Collector::default();
    let events = collector.events.clone();
    tracing::subscriber::with_default(collector, run);
    let events = events.lock();
    events.clone()
}

/// The one event with this message.
fn only<'a>(events: &'a [Event], message: &str) -> &'a Event {
    let found: Vec<_> = events.iter().filter(|event| event.message == message).collect();
    assert_eq!(found.len(), 1, "{message}: {events:#?}");
    found[0]
}

/// The first event with this message.
fn first<'a>(events: &'a [Event], message: &str) -> &'a Event {
    let found = events.iter().find(|event| event.message == message);
    found.unwrap_or_else(|| panic!("{message}: {events:#?}"))
}

fn assert_is(event: &Event, target: &str, level: tracing::Level) {
    assert_eq!((event.target.as_str(), event.level), (target, level), "{event:?}");
}

/// It has these fields, in the order of their names, and no other.
fn assert_fields(event: &Event, names: &[&str]) {
    assert!(event.fields.keys().eq(names), "not {names:?}: {event:?}");
}

#[test]
fn creation_open_recovery_and_close_are_told_with_the_file_and_what_was_replayed() {
    let storage = SimulatedStorage::new();
    let created = events_of(|| {
        let database = builder().open_on(Arc::new(storage.clone())).unwrap();
        database.keyspace("a").unwrap().put("k", "v").unwrap();
        database.close().unwrap();
    });
    assert_is(only(&created, "database created"), "sapwood::open", tracing::Level::INFO);
    assert!(created[0].fields.contains_key("file"), "{created:?}");
    let closed = only(&created, "database closed");
    assert_is(closed, "sapwood::open", tracing::Level::INFO);
    assert_eq!(created.last().unwrap().message, closed.message);

    let reopened = events_of(|| {
        let database = builder().open_on(Arc::new(storage.clone())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        for number in 0..5 {
            keyspace.put(format!("{number}"), "v").unwrap();
        }
        database.sync().unwrap();
    });
    let opened = only(&reopened, "database opened");
    assert_is(opened, "sapwood::open", tracing::Level::INFO);
    assert_eq!(opened.number("replayed_commits"), 0, "after a clean close: {opened:?}");
}

#[test]
fn an_open_after_a_crash_tells_how_many_commits_it_replayed() {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    for number in 0..5 {
        keyspace.put(format!("{number}"), "v").unwrap();
    }
    database.sync().unwrap();
    let crashed = Arc::new(storage.crash_copy(CrashPlan::KeepNone));
    let events = events_of(|| drop(builder().open_on(crashed).unwrap()));
    let opened = only(&events, "database opened");
    assert_eq!(opened.number("replayed_commits"), 5);
    assert!(opened.number("replayed_bytes") > 0);
}

#[test]
fn a_flush_a_merge_and_a_durable_state_are_told_once_each() {
    let database = builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..300 {
        keyspace.put(format!("{number:03}"), vec![b'v'; 50]).unwrap();
    }
    let events = events_of(|| database.flush().unwrap());
    let flushed = only(&events, "a memtable was flushed");
    assert_is(flushed, "sapwood::flush", tracing::Level::DEBUG);
    assert_eq!(flushed.number("up_to"), 301, "the last commit in it");
    assert!(flushed.number("pages") > 0);
    let durable = only(&events, "state is durable");
    assert_is(durable, "sapwood::durable", tracing::Level::DEBUG);
    assert!(durable.number("generation") > 0);

    for number in (0..300).step_by(50) {
        keyspace.put(format!("{number:03}"), "changed").unwrap();
    }
    database.flush().unwrap();
    let events = events_of(|| database.compact().unwrap());
    let promoted = only(&events, "a range was promoted");
    assert_is(promoted, "sapwood::merge", tracing::Level::DEBUG);
    assert!(promoted.number("entries") > promoted.number("dropped"), "{promoted:?}");
    assert!(promoted.number("pages") > 0 && promoted.number("sources") > 0, "{promoted:?}");

    let events = events_of(|| {
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        transaction.put_stream(&keyspace, "large", &[7; 300_000][..]).unwrap();
        transaction.commit().unwrap();
        database.flush().unwrap();
    });
    let adopted = only(&events, "a large transaction was adopted");
    assert_is(adopted, "sapwood::flush", tracing::Level::DEBUG);
    assert_eq!(adopted.number("number"), database.snapshot().unwrap().sequence().0);
}

/// With each durable state that a step makes: who holds which snapshot since when, and the numbers
/// that `stats` shows.
#[test]
fn held_snapshots_and_how_the_database_stands_are_told_with_a_durable_state() {
    let (clock, hand) = Clock::fake();
    let database = builder().clock(clock).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let change = |round: u8| {
        for number in 0..300 {
            keyspace.put(format!("{number:03}"), vec![round; 50]).unwrap();
        }
        database.flush().unwrap();
        database.compact().unwrap();
    };
    change(0);
    let first = database.snapshot().unwrap();
    change(1);
    hand.advance(Duration::from_secs(5));
    let others: Vec<_> = (0..19).map(|_| database.snapshot().unwrap()).collect();
    change(2);
    hand.advance(Duration::from_secs(2));
    let events = events_of(|| database.flush().unwrap());
    let stats = database.stats().unwrap();
    let told: Vec<_> = events.iter().filter(|e| e.message == "a snapshot is held").collect();
    assert_eq!(told.len(), 16, "the oldest: {told:#?}");
    for (event, expected) in told.iter().zip(&stats.snapshots) {
        assert_is(event, "sapwood::snapshot", tracing::Level::DEBUG);
        assert_eq!(event.number("sequence"), expected.sequence.0);
        assert_eq!(u128::from(event.number("micros")), expected.age.as_micros());
        assert_eq!(event.number("alone_bytes"), expected.alone_bytes);
        assert_eq!(event.fields["thread"], format!("{:?}", thread::current_id()));
    }
    assert_eq!(told[0].number("sequence"), first.sequence().0);
    assert_eq!(told[0].number("micros"), 7_000_000);
    assert!(told[0].number("alone_bytes") > 10_000, "{told:#?}");
    assert_eq!(told[1].number("alone_bytes"), 0, "the other nineteen keep the same");

    let stands = only(&events, "how the database stands");
    assert_is(stands, "sapwood::stats", tracing::Level::DEBUG);
    let expected = [
        ("snapshots", 20),
        ("held_bytes", stats.held_bytes),
        ("cache_hits", stats.cache_hits),
        ("cache_misses", stats.cache_misses),
        ("unflushed_bytes", stats.log.unflushed_bytes),
        ("unsynced_bytes", stats.log.unsynced_bytes),
        ("available_bytes", stats.log.available_bytes),
        ("syncs", stats.syncs.count),
        ("micros", stats.syncs.microseconds),
        ("longest_micros", stats.syncs.longest_microseconds),
    ];
    for (name, number) in expected {
        assert_eq!(stands.number(name), number, "{name}");
    }
    let debt = |name: &str| stands.fields[name].parse::<f64>().unwrap();
    let parts = [debt("debt"), debt("memory"), debt("young"), debt("above")];
    let shown = stats.debt;
    assert_eq!(parts, [shown.felt, shown.memory, shown.young, shown.above]);
    drop((first, others));
    let events = events_of(|| {
        keyspace.put("k", "v").unwrap();
        database.flush().unwrap();
    });
    assert!(!events.iter().any(|event| event.message == "a snapshot is held"), "{events:#?}");
    assert_eq!(only(&events, "how the database stands").number("held_bytes"), 0);
}

/// Without merge threads, and without steps of its own, an application runs into its debt.
#[test]
fn a_commit_that_waits_for_merging_tells_how_long() {
    let database = builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let stalls = || database.stats().unwrap().stalls;
    let mut events = Vec::new();
    for number in 0..40_000_u32 {
        events = events_of(|| keyspace.put(number.to_le_bytes(), vec![b'v'; 1000]).unwrap());
        if events.iter().any(|event| event.message == "a commit waited for a step") {
            break;
        }
    }
    assert!(stalls() > 0);
    let waited = only(&events, "a commit waited for a step");
    assert_is(waited, "sapwood::stall", tracing::Level::INFO);
    assert!(waited.fields.contains_key("micros"), "{waited:?}");
    let debt: f64 = waited.fields["debt"].parse().unwrap();
    assert!(debt >= 1.0, "{waited:?}");
}

#[test]
fn a_commit_that_waits_for_room_in_the_log_says_so() {
    let database = builder().log_bytes_min(256 << 10).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut events = Vec::new();
    for number in 0..10_000_u32 {
        events = events_of(|| keyspace.put(number.to_le_bytes(), vec![b'v'; 1000]).unwrap());
        if events.iter().any(|event| event.message == "a commit waited for room in the log") {
            break;
        }
    }
    let waited = only(&events, "a commit waited for room in the log");
    assert_is(waited, "sapwood::stall", tracing::Level::INFO);
    assert!(waited.number("bytes") >= 1000, "{waited:?}");
}

#[test]
fn the_end_of_writing_is_told_once_with_its_cause() {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("k", "v").unwrap();
    let events = events_of(|| {
        storage.fail_at(FaultKind::Sync, 1, true, std::io::ErrorKind::Other);
        let mut batch = database.batch();
        batch.put(&keyspace, "k", "w").unwrap();
        batch.commit_with(Durability::Sync).unwrap_err();
        keyspace.put("k", "w").unwrap_err();
        database.flush().unwrap_err();
    });
    let stopped = only(&events, "writing stopped");
    assert_is(stopped, "sapwood::failure", tracing::Level::ERROR);
    assert!(stopped.fields["cause"].contains("failed on"), "{stopped:?}");
    let events = events_of(|| drop(database));
    let failed = only(&events, "closing a dropped database failed");
    assert_is(failed, "sapwood::failure", tracing::Level::ERROR);
}

/// What of the engine had ended when the end of writing was told.
#[derive(Default)]
struct AtTheStop {
    database: Mutex<Option<Database>>,
    log_had_stopped: Arc<Mutex<Vec<bool>>>,
}

impl tracing::Subscriber for AtTheStop {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "sapwood::failure" && metadata.is_event()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        if let Some(database) = self.database.lock().take() {
            let has_stopped = database.core().unwrap().log.check().is_err();
            self.log_had_stopped.lock().push(has_stopped);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Whoever listens may wait for a commit of another thread, or panic: commits then waited for ever.
#[test]
fn all_has_stopped_when_the_end_of_writing_is_told() {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    let subscriber = AtTheStop::default();
    *subscriber.database.lock() = Some(database.clone());
    let log_had_stopped = subscriber.log_had_stopped.clone();
    tracing::subscriber::with_default(subscriber, || {
        storage.fail_at(FaultKind::Sync, 1, true, std::io::ErrorKind::Other);
        database.flush().unwrap_err();
    });
    assert_eq!(*log_had_stopped.lock(), [true]);
}

#[test]
fn a_transaction_that_is_given_up_is_told() {
    let database = builder().max_transaction_history_bytes(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let transaction = database.begin(Isolation::Serializable).unwrap();
    let events = events_of(|| {
        for round in 0..3 {
            for number in 0..300 {
                keyspace.put(format!("{number:03}"), vec![round; 50]).unwrap();
            }
            database.flush().unwrap();
            database.compact().unwrap();
        }
        run_all_steps(&database).unwrap();
    });
    let message = "too much is kept for a transaction: it is given up";
    assert_is(only(&events, message), "sapwood::transaction", tracing::Level::WARN);
    drop(transaction);
}
