//! A real process on a real file, killed while four threads commit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::kill::{Commit, value_of};
use sapwood::sync::Random;
use sapwood::{Database, Durability};

const THREADS: u64 = 4;
const ROUNDS: u64 = 20;

/// A file of its own, gone when the test has gone well.
fn path() -> PathBuf {
    std::env::temp_dir().join(format!("sapwood kill {}.db", std::process::id()))
}

/// Starts the process, lets it work for some milliseconds, kills it, and gives what it had
/// acknowledged by then.
fn round(path: &PathBuf, seed: u64) -> Vec<Commit> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kill_target"))
        .arg(path)
        .args([THREADS.to_string(), seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let milliseconds = 20 + Random::from_seed(seed).below(150);
    let reader = std::thread::spawn(move || {
        let (mut commits, mut line) = (Vec::new(), String::new());
        while output.read_line(&mut line).unwrap() > 0 {
            // What was cut off in the middle was acknowledged, but by whom is not known.
            if let Some(whole) = line.strip_suffix('\n') {
                commits.push(Commit::parse(whole).unwrap());
            }
            line.clear();
        }
        commits
    });
    std::thread::sleep(Duration::from_millis(milliseconds));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn every_acknowledged_commit_but_those_in_memory_survives_twenty_kills() {
    let path = path();
    let _ = std::fs::remove_file(&path);
    let mut must: BTreeMap<u64, u64> = BTreeMap::new();
    let mut count = 0;
    for seed in 0..ROUNDS {
        let commits = round(&path, seed);
        count += commits.len();
        // The order is one: what was written took along all that its own thread did before.
        for commit in &commits {
            if commit.durability != Durability::Memory {
                must.insert(commit.thread, commit.key + 1);
            }
        }
        check(&path, &must, seed);
    }
    assert!(count > 1000, "only {count} commits in all rounds");
    std::fs::remove_file(&path).unwrap();
}

fn check(path: &PathBuf, must: &BTreeMap<u64, u64>, seed: u64) {
    if !path.exists() {
        assert!(must.is_empty());
        return;
    }
    let database = Database::builder().memory_budget(8 << 20).merge_threads(0).open(path);
    let database = database.unwrap_or_else(|error| panic!("round {seed}: {error}"));
    assert_eq!(access::verify(&database).unwrap(), None, "round {seed}");
    let common = database.keyspace("common").unwrap();
    let mut in_all = 0;
    for thread in 0..THREADS {
        let keyspace = database.keyspace(&format!("thread {thread}")).unwrap();
        let mut next = 0;
        for pair in keyspace.iter().unwrap() {
            let (key, value) = pair.unwrap();
            assert_eq!(Commit::key_of(&key), next, "round {seed}: a hole");
            assert!(value == value_of(thread, next)[..], "round {seed}: a wrong value");
            let commit = Commit { thread, key: next, durability: Durability::Sync };
            assert!(common.contains(commit.common_key()).unwrap(), "round {seed}: half a commit");
            next += 1;
        }
        let least = must.get(&thread).copied().unwrap_or_default();
        assert!(next >= least, "round {seed}: thread {thread} has {next}, must have {least}");
        in_all += next;
    }
    assert_eq!(common.count::<&[u8]>(..).unwrap(), in_all, "round {seed}: half a commit");
    database.close().unwrap();
}
