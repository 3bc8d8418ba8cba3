//! The file format, read by code that was written from docs/format.md alone and shares nothing with
//! the engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "format/bytes.rs"]
mod bytes;
#[path = "format/golden.rs"]
mod golden;
#[path = "format/log.rs"]
mod log;
#[path = "format/reader.rs"]
mod reader;
#[path = "format/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::fs;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::model::State;
use crash_lsm::setup::Setup;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::{Arc, Random};
use sapwood::{Compression, Database, Durability, KeyspaceOptions};

fn plain() -> KeyspaceOptions {
    KeyspaceOptions::default().compression(Compression::None).value_compression(Compression::None)
}

fn setups() -> Vec<Setup> {
    let tiny = Setup::tiny();
    vec![
        tiny,
        Setup { reserved_bytes: 64, ..tiny },
        Setup { page_bytes: 4096, leaf_bytes: 8192, region_bytes: 1 << 20, ..tiny },
        Setup {
            page_bytes: 16_384,
            reserved_bytes: 256,
            region_bytes: 4 << 20,
            leaf_bytes: 1,
            ..tiny
        },
    ]
}

/// Random changes with flushes and steps between them.
fn fill(database: &Database, seed: u64) {
    let keyspaces: Vec<_> =
        ["one", "two"].map(|name| database.keyspace_with(name, plain()).unwrap()).into();
    let mut random = Random::from_seed(seed);
    for round in 0..60u64 {
        let mut batch = database.batch();
        for _ in 0..40 {
            let keyspace = &keyspaces[random.below(2) as usize];
            let key = format!("a shared prefix/{:04}", random.below(1500));
            match random.below(12) {
                0 => {
                    let end = format!("{key}~");
                    batch.delete_range(keyspace, key.as_str()..end.as_str()).unwrap();
                }
                1 | 2 => batch.delete(keyspace, key).unwrap(),
                3 if round % 10 == 3 => {
                    let mut value = vec![0; 3000 + random.below(300_000) as usize / 4];
                    random.fill(&mut value);
                    batch.put(keyspace, key, value).unwrap();
                }
                _ => batch.put(keyspace, key, format!("{round}")).unwrap(),
            }
        }
        batch.put(&keyspaces[0], vec![b'x'; (round * 200) as usize], "long key").unwrap();
        batch.commit_with(Durability::Buffered).unwrap();
        if random.one_in(6) {
            database.flush().unwrap();
        }
        if random.one_in(12) {
            run_all_steps(database).unwrap();
        }
    }
}

fn compare(read: &reader::Contents, expected: &State) {
    let expected: BTreeMap<&str, BTreeMap<&[u8], &[u8]>> = expected
        .keyspaces
        .iter()
        .map(|(name, map)| {
            (name.as_str(), map.iter().map(|(key, value)| (&key[..], &value[..])).collect())
        })
        .collect();
    let names: Vec<_> = read.keyspaces.keys().map(String::as_str).collect();
    assert_eq!(names, expected.keys().copied().collect::<Vec<_>>());
    for (name, map) in &read.keyspaces {
        let seen: BTreeMap<&[u8], &[u8]> =
            map.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert!(seen == expected[name.as_str()], "keyspace {name:?} is read otherwise");
    }
}

#[test]
fn a_closed_file_is_read_by_the_document_alone() {
    for (number, setup) in setups().into_iter().enumerate() {
        let storage = SimulatedStorage::new();
        let database = setup.open_on(Arc::new(storage.clone())).unwrap();
        fill(&database, number as u64);
        let expected = access::dump(&database).unwrap();
        database.close().unwrap();
        let read =
            reader::read(&storage.image()).unwrap_or_else(|text| panic!("{setup:?}: {text}"));
        assert!(read.node_count > 10 && read.overflow_count > 0, "{setup:?}");
        assert_eq!(read.log_commit_count, 0, "a clean close leaves nothing to replay");
        compare(&read, &expected);
    }
}

#[test]
fn a_compacted_file_is_read_by_the_document_alone() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    fill(&database, 9);
    database.compact().unwrap();
    let expected = access::dump(&database).unwrap();
    database.close().unwrap();
    let read = reader::read(&storage.image()).unwrap();
    compare(&read, &expected);
}

#[test]
fn the_log_of_a_file_that_was_not_closed_is_read_by_the_document_alone() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace_with("one", plain()).unwrap();
    database.flush().unwrap();
    for n in 0..50u32 {
        let mut batch = database.batch();
        batch.put(&keyspace, format!("{n}"), vec![b'v'; (n * 7) as usize]).unwrap();
        batch.commit_with(Durability::Sync).unwrap();
    }
    let image = storage.image();
    drop(database);
    let read = reader::read(&image).unwrap();
    assert_eq!(read.log_commit_count, 50);
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/version_1.zst");

fn golden_image() -> Vec<u8> {
    zstd::bulk::decompress(&fs::read(GOLDEN).unwrap(), 64 << 20).unwrap()
}

/// The independent reader finds the pairs; and the structures, for which the file is kept.
fn check_golden(image: &[u8]) {
    let read = reader::read(image).unwrap();
    compare(&read, &golden::expected());
    let lacking: Vec<_> = WANTED.iter().filter(|what| !read.seen.contains(**what)).collect();
    assert!(lacking.is_empty(), "it lacks {lacking:?}, has {:?}", read.seen);
}

/// What the golden file has.
const WANTED: [&str; 42] = [
    "compressed chunk",
    "dropped keyspace",
    "entries with numbers",
    "entry of kind 1",
    "entry of kind 2",
    "entry of kind 3",
    "entry of kind 5",
    "free map in home 0",
    "free map in home 1",
    "key in a filter",
    "levels",
    "log record of kind 1",
    "log record of kind 3",
    "log record whose blocks were on disk",
    "lowest parent",
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
    "plain chunk",
    "promoted ranges",
    "range with an end",
    "range without an end",
    "reserved bytes",
    "several chunks",
    "several levels",
    "several versions of a key",
    "state in a node",
    "upper parent",
    "wide slots",
    "young segments",
];

#[test]
fn the_golden_file_holds_what_its_history_says() {
    check_golden(&golden_image());
}

#[test]
fn a_golden_file_made_now_holds_the_same() {
    check_golden(&golden::make());
}

#[test]
fn the_engine_reads_verifies_and_writes_the_golden_file() {
    let storage = SimulatedStorage::from_image(golden_image());
    let expected = golden::expected();
    let database = golden::setup().open_on(Arc::new(storage.clone())).unwrap();
    // As it was opened, and after everything was merged.
    for round in 0..2 {
        for state in [access::dump(&database).unwrap(), access::dump_back(&database).unwrap()] {
            assert_eq!(state.difference(&expected), None, "round {round}");
        }
        let report = database.verify(&mut ()).unwrap();
        assert!(report.is_clean(), "round {round}: {report}");
        database.compact().unwrap();
    }
    database.close().unwrap();
    compare(&reader::read(&storage.image()).unwrap(), &expected);
}

/// Makes the golden file anew. Nothing but a change of its history asks for that: the file of a
/// version that was released is never replaced (docs/format.md, section 7).
#[test]
#[ignore = "it writes to the source tree"]
fn write_the_golden_file() {
    let image = golden::make();
    check_golden(&image);
    fs::write(GOLDEN, zstd::bulk::compress(&image, 19).unwrap()).unwrap();
}
