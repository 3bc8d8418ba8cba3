//! The file format, read by code that was written from docs/format.md alone and shares nothing with
//! the engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "format/reader.rs"]
mod reader;

use std::collections::BTreeMap;

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
