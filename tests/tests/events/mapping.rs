//! A part of the file that the system does not map: in a process of its own, which may have less
//! memory, addresses included, than such a part takes.

use std::path::Path;
use std::process::Command;

use tracing::Level;

use crate::{assert_fields, assert_is, builder, events_of, first};

/// In the other process: where the file is.
const FILE: &str = "SAPWOOD_EVENTS_FILE";
/// Less than a part of the file, which has 64 MiB, and far more than the test needs.
const MEMORY_KIB: u32 = 60 << 10;
const PAIRS: u32 = 300;

#[test]
fn a_part_of_the_file_that_cannot_be_mapped_is_told_and_read() {
    if let Some(path) = std::env::var_os(FILE) {
        return read_without_map(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let database = builder().open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..PAIRS {
        keyspace.put(number.to_be_bytes(), [7; 50]).unwrap();
    }
    database.compact().unwrap();
    drop(keyspace);
    database.close().unwrap();
    // What the file is longer than its pages is a hole.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(65 << 20).unwrap();
    drop(file);
    let test = "mapping::a_part_of_the_file_that_cannot_be_mapped_is_told_and_read";
    let script = format!("ulimit -v {MEMORY_KIB} && exec \"$0\" --exact {test} --test-threads 1");
    let mut other = Command::new("sh");
    other.arg("-c").arg(script).arg(std::env::current_exe().unwrap()).env(FILE, &path);
    // There is no memory for one.
    other.env("RUST_BACKTRACE", "0");
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn read_without_map(path: &Path) {
    let database = builder().memory_map(true).open(path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let events = events_of(|| {
        assert_eq!(keyspace.get(7_u32.to_be_bytes()).unwrap().unwrap(), [7; 50]);
    });
    let told = first(&events, "a part of the file cannot be mapped");
    assert_is(told, "sapwood::storage", Level::DEBUG);
    assert_fields(told, &["error"]);
    assert!(told.fields["error"].contains("memory"), "{told:?}");
    assert_eq!(keyspace.iter().unwrap().count(), PAIRS as usize);
}
