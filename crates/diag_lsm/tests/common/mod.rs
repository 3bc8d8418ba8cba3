//! A database to look into, and the built command.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sapwood::{Compression, Database, Durability, Keyspace, KeyspaceOptions};
use serde_json::Value;

pub const PAGE_BYTES: usize = 1024;
pub const KEYS: u32 = 3000;

/// A database of some thousand pairs in one level, some large, and of fifty in the log only. It is
/// still in use.
pub fn used(path: &Path) -> (Database, Keyspace) {
    let builder = Database::builder().page_size(PAGE_BYTES as u32).leaf_bytes(1024);
    let database = builder.region_bytes(4 << 20).merge_threads(0).open(path).unwrap();
    let plain = Compression::None;
    let plain = KeyspaceOptions::default().compression(plain).value_compression(plain);
    let keyspace = database.keyspace_with("default", plain).unwrap();
    let mut batch = database.batch();
    for number in 0..KEYS {
        batch.put(&keyspace, format!("key {number:05}"), format!("{number:0>100}")).unwrap();
    }
    for number in 0..3u8 {
        batch.put(&keyspace, format!("large {number}"), vec![number; 20_000]).unwrap();
    }
    batch.commit().unwrap();
    database.flush().unwrap();
    database.compact().unwrap();
    database.wait_until_idle().unwrap();
    database.sync().unwrap();
    for number in 0..50 {
        let mut batch = database.batch();
        batch.put(&keyspace, format!("late {number:05}"), "in the log").unwrap();
        batch.commit_with(Durability::Sync).unwrap();
    }
    (database, keyspace)
}

/// The file of such a database as a killed process leaves it.
pub fn killed(folder: &Path) -> PathBuf {
    let (path, copy) = (folder.join("made.db"), folder.join("data.db"));
    let (database, keyspace) = used(&path);
    fs::copy(&path, &copy).unwrap();
    drop(keyspace);
    database.close().unwrap();
    copy
}

pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diag_lsm")).args(arguments).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whose each page is, as `space` draws it.
pub fn owners(file: &str) -> Vec<char> {
    let output = run(&["space", file, "--json", "--width", "512"]);
    let space: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(space["pages_per_character"], 1, "the file is too large for this test");
    let regions = space["regions"].as_array().unwrap();
    regions.iter().flat_map(|region| region.as_str().unwrap().chars()).collect()
}
