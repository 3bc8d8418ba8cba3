//! The golden files of format version 1, which are kept in `tests/golden`, and how they are made.
//!
//! *Guarantees*: what a file must hold follows from its history ([`crate::history`]). The file
//! itself differs from one making to the next: its identity, filter seeds and times are its own.

use std::time::Duration;

use crash_lsm::hooked::HookedStorage;
use crash_lsm::model::Change;
use crash_lsm::setup::Setup;
use sapwood::storage::{SimulatedStorage, Storage};
use sapwood::sync::{Arc, Clock, FakeClock, Mutex};
use sapwood::{Builder, Compression, Database, Durability, Isolation, KeyspaceOptions};

use crate::history::{Act, STREAM_BYTES, few_pairs, many_structures, overwritten};
use crate::reader;

/// A golden file.
pub struct Golden {
    /// Its name in `tests/golden`, without the ending.
    pub name: &'static str,
    /// What it is opened with.
    pub setup: fn() -> Setup,
    /// What made it.
    pub history: fn() -> Vec<Act>,
    ending: Ending,
    /// The structures for which it is kept, as the reader names them.
    pub wanted: &'static [&'static str],
}

/// How a history ends.
enum Ending {
    /// As a crash leaves a file that loses nothing.
    Crash,
    Close,
    /// As a crash leaves it while the log moves away from the file's end.
    CrashInShrink,
}

/// Together they hold every structure that the version writes.
pub const FILES: [Golden; 3] = [
    Golden {
        name: "version_1",
        setup: short_pages,
        history: many_structures,
        ending: Ending::Crash,
        wanted: MANY_STRUCTURES,
    },
    Golden {
        name: "version_1_long_pages",
        setup: long_pages,
        history: few_pairs,
        ending: Ending::Close,
        wanted: &[
            "clean close",
            "levels",
            "pages of 65536 bytes",
            "region that is not whole",
            "reserved bytes",
            "state in the slot",
            "streamed value in a young segment",
        ],
    },
    Golden {
        name: "version_1_shrinking",
        setup: ordinary_pages,
        history: overwritten,
        ending: Ending::CrashInShrink,
        wanted: &["how far leaves are packed", "log record of kind 4", "pages of 4096 bytes"],
    },
];

const MANY_STRUCTURES: &[&str] = &[
    "blocks of the log in another order than the file's",
    "bounds with an open end",
    "child older than its parent",
    "compressed chunk",
    "dropped keyspace",
    "entries with numbers",
    "entry of kind 1 in a commit by reference in the log",
    "entry of kind 1 in a commit by reference in the state",
    "entry of kind 1 in a level",
    "entry of kind 1 in a young segment",
    "entry of kind 2 in a commit by reference in the log",
    "entry of kind 2 in a commit by reference in the state",
    "entry of kind 2 in a level",
    "entry of kind 2 in a young segment",
    "entry of kind 3 in a commit by reference in the log",
    "entry of kind 3 in a commit by reference in the state",
    "entry of kind 3 in a level",
    "entry of kind 3 in a young segment",
    "entry of kind 5 in a commit by reference in the log",
    "entry of kind 5 in a commit by reference in the state",
    "entry of kind 5 in a level",
    "entry of kind 5 in a young segment",
    "free map in home 0",
    "free map in home 1",
    "key in a filter",
    "keyspace with compressed leaves",
    "keyspace with compressed values",
    "keyspace with filters",
    "keyspace without compressed leaves",
    "keyspace without compressed values",
    "keyspace without filters",
    "level of several segments",
    "level with points and ranges",
    "level without ranges",
    "levels",
    "log record of kind 1",
    "log record of kind 2",
    "log record of kind 3",
    "log record over the end of a block",
    "lowest parent of points in a level",
    "lowest parent of points in a young segment",
    "lowest parent of ranges in a young segment",
    "node of kind 1, codec 0",
    "node of kind 1, codec 1",
    "node of kind 2, codec 0",
    "node of kind 3, codec 0",
    "node of kind 4, codec 0",
    "node of kind 7, codec 0",
    "node of kind 9, codec 0",
    "node that has moved on",
    "operation 1",
    "operation 2",
    "operation 3",
    "operation 4",
    "operation 5",
    "operation 6",
    "operation 7",
    "pages of 1024 bytes",
    "plain chunk",
    "promoted ranges of a level",
    "promoted ranges of a young segment",
    "range tombstone of several commits",
    "range tombstone without an end",
    "range with an end",
    "range without an end",
    "reserved bytes",
    "root whose first separator is a key",
    "several chunks",
    "several filter pieces of one parent",
    "several levels",
    "several regions",
    "several segments of one log record",
    "several versions of a key",
    "several young segments of one commit",
    "state in a node",
    "streamed value in a commit by reference in the log",
    "streamed value in a commit by reference in the state",
    "streamed value in a level",
    "streamed value in a log record",
    "streamed value in a young segment",
    "table before its chunks",
    "table behind its chunks",
    "upper parent of points in a level",
    "upper parent of points in a young segment",
    "value in several blocks",
    "value older than its leaf",
    "value that may not have been on disk before its log record",
    "value that was on disk before its log record",
    "wide slots",
    "young segment with points and ranges",
    "young segment without points",
    "young segment without ranges",
    "young segments",
];

fn short_pages() -> Setup {
    Setup {
        reserved_bytes: 16,
        region_bytes: 256 << 10,
        durability: Durability::Sync,
        ..Setup::tiny()
    }
}

fn ordinary_pages() -> Setup {
    Setup {
        page_bytes: 4 << 10,
        region_bytes: 1 << 20,
        leaf_bytes: 4 << 10,
        durability: Durability::Sync,
        ..Setup::tiny()
    }
}

fn long_pages() -> Setup {
    Setup {
        page_bytes: 64 << 10,
        reserved_bytes: 256,
        region_bytes: 4 << 20,
        durability: Durability::Sync,
        ..Setup::tiny()
    }
}

fn options(name: &str) -> KeyspaceOptions {
    let options = KeyspaceOptions::default();
    match name {
        // Filters in several pieces.
        "plain" => options
            .compression(Compression::None)
            .value_compression(Compression::None)
            .filter_bits(20),
        "long keys" => options.compression(Compression::None).value_compression(Compression::None),
        "without filters" => options.compression(Compression::Zstd(3)).filter_bits(0),
        _ => options.compression(Compression::Zstd(1)).value_compression(Compression::Zstd(1)),
    }
}

fn put_in_transaction(database: &Database, changes: &[Change]) {
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let of = |name: &String| database.existing_keyspace(name).unwrap();
    for change in changes {
        match change {
            Change::Put { keyspace, key, value } if value.len() >= STREAM_BYTES => {
                transaction.put_stream(&of(keyspace), key, &**value).unwrap();
            }
            Change::Put { keyspace, key, value } => {
                transaction.put(&of(keyspace), key, value).unwrap();
            }
            Change::Delete { keyspace, key } => transaction.delete(&of(keyspace), key).unwrap(),
            Change::DeleteRange { keyspace, range } => {
                transaction.delete_range(&of(keyspace), range.clone()).unwrap();
            }
            Change::Create(_) | Change::Drop(_) | Change::Rename { .. } => unreachable!(),
        }
    }
    transaction.commit_with(Durability::Sync).unwrap();
}

fn commit(database: &Database, changes: &[Change], durability: Durability) {
    let mut batch = database.batch();
    for change in changes {
        let own = |name: &String| database.existing_keyspace(name).unwrap();
        match change {
            Change::Put { keyspace, key, value } => batch.put(&own(keyspace), key, value).unwrap(),
            Change::Delete { keyspace, key } => batch.delete(&own(keyspace), key).unwrap(),
            Change::DeleteRange { keyspace, range } => {
                batch.delete_range(&own(keyspace), range.clone()).unwrap();
            }
            Change::Create(name) => drop(database.keyspace_with(name, options(name)).unwrap()),
            Change::Drop(name) => database.drop_keyspace(name).unwrap(),
            Change::Rename { old, new } => database.rename_keyspace(old, new).unwrap(),
        }
    }
    batch.commit_with(durability).unwrap();
}

fn make_steps(database: &Database, count: u32) {
    for _ in 0..count {
        assert!(database.run_step().unwrap(), "nothing is left to merge");
    }
}

fn run(database: &Database, clock: &FakeClock, history: Vec<Act>) {
    let mut held = Vec::new();
    for act in history {
        match act {
            Act::Commit(changes) => commit(database, &changes, Durability::Sync),
            Act::Buffered(changes) => commit(database, &changes, Durability::Buffered),
            Act::Large(changes) => put_in_transaction(database, &changes),
            Act::Stream(Change::Put { keyspace, key, value }) => {
                let keyspace = database.existing_keyspace(&keyspace).unwrap();
                keyspace.put_stream(key, &*value).unwrap();
            }
            Act::Stream(_) => unreachable!(),
            Act::Hold => held.push(database.snapshot().unwrap()),
            Act::Flush => {
                database.flush().unwrap();
                held.clear();
            }
            Act::MergeWhileWriting => while database.run_step().unwrap() {},
            Act::StepsWhileWriting(steps) => make_steps(database, steps),
            Act::PauseFor(steps) => {
                clock.advance(Duration::from_secs(5));
                make_steps(database, steps);
            }
            Act::Settle => {
                clock.advance(Duration::from_secs(5));
                while database.run_step().unwrap() {}
            }
            Act::Compact => database.compact().unwrap(),
        }
    }
}

impl Golden {
    /// Makes the file anew.
    pub fn make(&self) -> Vec<u8> {
        let (clock, fake) = Clock::fake();
        let storage = SimulatedStorage::new();
        let images = Images::default();
        let database = self.builder().clock(clock).open_on(watched(&storage, &images)).unwrap();
        run(&database, &fake, (self.history)());
        let last = database.snapshot().unwrap().sequence().0;
        assert_eq!(last, crate::history::numbers(&(self.history)()).1, "commits are numbered so");
        match self.ending {
            Ending::Crash => {
                let image = storage.image();
                drop(database);
                image
            }
            Ending::Close => {
                database.close().unwrap();
                storage.image()
            }
            Ending::CrashInShrink => {
                *images.lock() = Some(Vec::new());
                fake.advance(Duration::from_secs(5));
                while database.run_step().unwrap() {}
                let images = images.lock().take().unwrap_or_default();
                let shows = |image: &Vec<u8>| {
                    reader::read(image).is_ok_and(|read| read.seen.contains("log record of kind 4"))
                };
                images.into_iter().find(shows).expect("the log moves")
            }
        }
    }

    fn builder(&self) -> Builder {
        (self.setup)().builder().step_bytes(64 << 10)
    }
}

/// Of a file, one after the other; none while nobody wants them.
type Images = Arc<Mutex<Option<Vec<Vec<u8>>>>>;

/// The storage; before each sync its image is added to the list, if there is one.
fn watched(storage: &SimulatedStorage, images: &Images) -> Arc<dyn Storage> {
    let (inner, images) = (storage.clone(), images.clone());
    let add = move || {
        if let Some(images) = &mut *images.lock() {
            images.push(inner.image());
        }
    };
    Arc::new(HookedStorage::before_syncs(Arc::new(storage.clone()), add))
}
