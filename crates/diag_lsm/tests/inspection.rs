//! What the commands that look say of a sound file: one that is in use, one that a killed process
//! has left.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{KEYS, killed, owners, run, text, used};
use serde_json::Value;

/// Runs a command that must succeed, as JSON.
fn good(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_file_in_use_is_looked_at_without_its_lock_and_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("used.db");
    let (database, keyspace) = used(&path);
    let file = path.display().to_string();
    let before = fs::read(&path).unwrap();
    let info = good(&["info", &file]);
    assert_eq!(info["closed_cleanly"], false);
    assert_eq!(good(&["segments", &file])[0]["entries"], KEYS + 3);
    assert_eq!(good(&["tree", &file])[0]["depths"][0]["unreadable"], 0);
    assert_eq!(good(&["page", &file, "0"])["what"], "header slots");
    assert_eq!(good(&["space", &file])["problems"].as_array().unwrap().len(), 0);
    assert!(good(&["log", &file])["record_count"].as_u64().unwrap() >= 50);
    assert_eq!(good(&["verify", &file])["clean"], true);
    assert!(fs::read(&path).unwrap() == before, "looking has changed the file");
    for command in ["put", "compact"] {
        let arguments = [command, &file, "a", "b"];
        let output = run(if command == "put" { &arguments } else { &arguments[..2] });
        assert_eq!(output.status.code(), Some(1));
        let errors = text(&output.stderr);
        assert!(errors.contains("used.db is in use by another process"), "{errors}");
    }
    keyspace.put("more", "v").unwrap();
    drop(keyspace);
    database.close().unwrap();
}

#[test]
fn the_records_of_a_killed_process_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let file = killed(folder.path()).display().to_string();
    let log = good(&["log", &file]);
    let records = log["records"].as_array().unwrap();
    let commits: Vec<&Value> = records.iter().filter(|r| r["kind"] == "commit").collect();
    assert_eq!(commits.len(), 50);
    assert!(commits.iter().all(|record| record["operations"] == 1));
    let numbers: Vec<u64> = commits.iter().map(|r| r["sequence"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    let few = good(&["log", &file, "--limit", "3"]);
    assert_eq!(few["records"].as_array().unwrap().len(), 3);
    assert_eq!(few["record_count"], log["record_count"]);
    let printed = text(&run(&["log", &file]).stdout);
    assert!(printed.contains("1 put"), "{printed}");
    // What only the log has is found by those that open the file.
    assert_eq!(good(&["count", &file, "--prefix", "late"])["count"], 50);
    let scanned = run(&["scan", &file, "--prefix", "late 0000", "--reverse", "--keys-only"]);
    assert_eq!(text(&scanned.stdout).lines().next(), Some("late 00009"));
    assert_eq!(text(&scanned.stdout).lines().count(), 10);
}

#[test]
fn first_pages_of_every_kind_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let file = killed(folder.path()).display().to_string();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for (page, owner) in owners(&file).into_iter().enumerate() {
        if !['l', 'p', 'f', 'o', 'H'].contains(&owner) {
            continue;
        }
        let page = good(&["page", &file, &page.to_string()]);
        assert!(page["problem"].is_null(), "{page}");
        let what = page["what"].as_str().unwrap().to_owned();
        let lines = page["line_count"].as_u64().unwrap();
        if what == "leaf" || what == "parent" {
            assert!(lines > 0, "{page}");
        }
        *kinds.entry(what).or_default() += lines;
    }
    // Each key stands in one leaf, and each leaf in a parent.
    assert_eq!(kinds["leaf"], u64::from(KEYS) + 3);
    let segments = good(&["segments", &file]);
    assert!(kinds["parent"] >= segments[0]["leaves"].as_u64().unwrap());
    for kind in ["header slots", "free map", "filter piece", "overflow value"] {
        assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
    }
}
