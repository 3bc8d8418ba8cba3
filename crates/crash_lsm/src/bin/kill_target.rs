//! A process to be killed: commits from several threads into a file, and says on its standard
//! output what was acknowledged, before the next commit.
//!
//! `kill_target FILE THREADS SEED`. Each thread has a keyspace of its own, `thread N`, and puts the
//! keys 0, 1, 2.. (8 bytes, big-endian) with values that follow from thread and key, two keyspaces
//! a commit. A line is `N KEY D`, with D `s`, `b` or `m` for the durability.

use std::io::{self, Write};
use std::process::ExitCode;

use crash_lsm::kill::{Commit, value_of};
use sapwood::sync::{Random, thread};
use sapwood::{Database, Durability};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, threads, seed] = arguments.as_slice() else {
        eprintln!("usage: kill_target FILE THREADS SEED");
        return ExitCode::from(2);
    };
    let (Ok(threads), Ok(seed)) = (threads.parse(), seed.parse()) else {
        eprintln!("THREADS and SEED are numbers");
        return ExitCode::from(2);
    };
    match run(file, threads, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(file: &str, threads: u64, seed: u64) -> sapwood::Result<()> {
    let database = Database::builder().memory_budget(8 << 20).merge_threads(1).open(file)?;
    let mut running = Vec::new();
    for thread in 0..threads {
        let database = database.clone();
        let spawned = thread::spawn(&format!("committer {thread}"), move || {
            commit_for_ever(&database, thread, seed ^ thread)
        });
        running.push(spawned.map_err(|error| sapwood::Error::io("spawn", file, error))?);
    }
    for thread in running {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => return Err(sapwood::Error::Cancelled),
        }
    }
    Ok(())
}

fn commit_for_ever(database: &Database, thread: u64, seed: u64) -> sapwood::Result<()> {
    let own = database.keyspace(&format!("thread {thread}"))?;
    let common = database.keyspace("common")?;
    let mut random = Random::from_seed(seed);
    let mut key = own.last()?.map_or(0, |(key, _)| Commit::key_of(&key) + 1);
    loop {
        let durability = match random.below(8) {
            0 => Durability::Sync,
            1..=3 => Durability::Memory,
            _ => Durability::Buffered,
        };
        let commit = Commit { thread, key, durability };
        let value = value_of(thread, key);
        let mut batch = database.batch();
        batch.put(&own, key.to_be_bytes(), &value)?;
        batch.put(&common, commit.common_key(), &value)?;
        batch.commit_with(durability)?;
        // One write a line, so that lines of several threads do not mix.
        let line = format!("{commit}\n");
        let written = io::stdout().lock().write_all(line.as_bytes());
        if written.and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
        key += 1;
    }
}
