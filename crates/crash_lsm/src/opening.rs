//! What an open reads, and how long it takes: after a clean close, and after a kill with a long log.
//!
//! *Assumes*: the file lies in the system's cache, since it was just written: what is measured is
//! the engine and not the device. *Guarantees*: nothing but the open is counted and timed.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sapwood::storage::{FileOpenOptions, FileStorage};
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Database, Durability, Keyspace};
use serde::Serialize;

use crate::counting::{Calls, CountingStorage};

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// How often each open is timed; the least counts, since other work of the machine only adds.
const REPEATS: usize = 5;
/// The memory budget of what is loaded and closed cleanly.
const BUDGET_BYTES: u64 = 256 << 20;
/// The name of the keyspace.
const KEYSPACE: &str = "pairs";

/// One open, as it was counted and timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Opened {
    /// Pairs in the database.
    pub pairs: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Pairs a commit; 0 where it is of no account.
    pub pairs_a_commit: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Bytes of the log that were replayed.
    pub log_bytes: u64,
    /// What the open asked of the storage.
    pub open: Calls,
    /// What the first read of a key asked of it, behind the open.
    pub first_get: Calls,
    /// The pairs were there, as far as that was looked at.
    pub found: bool,
    /// Microseconds that the open took: the least of five.
    pub microseconds: u64,
    /// Microseconds of those that a processor worked for it: the least of five; only on Linux.
    pub processor_microseconds: Option<u64>,
    /// The longest time that it may take, in microseconds; none is set for a clean close.
    pub microseconds_max: Option<u64>,
}

/// The key of a pair: spread, and the same in every run.
#[must_use]
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let (spread, rest) = key.split_at_mut(8);
    spread.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    rest.copy_from_slice(&number.to_be_bytes());
    key
}

fn put_some(
    database: &Database,
    keyspace: &Keyspace,
    numbers: std::ops::Range<u64>,
    value: &mut [u8],
    random: &mut Random,
) -> sapwood::Result<()> {
    let mut batch = database.batch();
    for number in numbers {
        random.fill(value);
        batch.put(keyspace, key(number), &*value)?;
    }
    batch.commit_with(Durability::Buffered)
}

/// Loads pairs into a new file and closes it; `progress` gets the number of pairs now and then.
///
/// # Errors
/// Those of the writes.
pub fn load(
    path: &Path,
    pairs: u64,
    value_bytes: usize,
    progress: &mut dyn FnMut(u64),
) -> sapwood::Result<()> {
    let database = Database::builder().memory_budget(BUDGET_BYTES).open(path)?;
    let keyspace = database.keyspace(KEYSPACE)?;
    let (mut random, mut value) = (Random::from_seed(1), vec![0; value_bytes]);
    let mut at = 0;
    while at < pairs {
        let end = pairs.min(at + 500);
        put_some(&database, &keyspace, at..end, &mut value, &mut random)?;
        at = end;
        if at.is_multiple_of(100_000) {
            progress(at);
        }
    }
    database.wait_until_idle()?;
    database.close()
}

/// What the process that is killed does: it fills the log of a new file, so that nothing is flushed,
/// says how many pairs there are, and waits.
///
/// # Errors
/// Those of the writes.
pub fn fill_log(path: &Path, log_bytes: u64, value_bytes: u64, batch: u64) -> sapwood::Result<()> {
    let database = Database::builder().memory_budget(budget_for(log_bytes)).merge_threads(0);
    let database = database.open(path)?;
    let keyspace = database.keyspace(KEYSPACE)?;
    let (mut random, mut value) = (Random::from_seed(1), vec![0; value_bytes as usize]);
    let mut pairs = 0;
    while database.stats()?.log.unflushed_bytes < log_bytes {
        // The statistics cost more than a small commit.
        let end = pairs + 10_000;
        while pairs < end {
            let next = end.min(pairs + batch.max(1));
            put_some(&database, &keyspace, pairs..next, &mut value, &mut random)?;
            pairs = next;
        }
    }
    println!("{pairs}");
    let flushed = io::stdout().flush();
    flushed.map_err(|error| sapwood::Error::io("saying so", "standard output", error))?;
    Clock::real().sleep(Duration::from_secs(3600));
    Ok(())
}

/// A budget of which the memtables take so little that nothing is sealed.
fn budget_for(log_bytes: u64) -> u64 {
    (log_bytes * 16).max(BUDGET_BYTES)
}

/// Loads a file, closes it, and measures its open.
///
/// # Errors
/// Those of the database.
pub fn after_close(
    path: &Path,
    pairs: u64,
    value_bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Opened, String> {
    load(path, pairs, value_bytes as usize, progress).map_err(|error| error.to_string())?;
    measure(path, BUDGET_BYTES, Opened::of(pairs, value_bytes, 0))
}

/// A long log.
#[derive(Clone, Debug)]
pub struct LongLog {
    /// The program that is started: it calls [`fill_log`] with what follows `arguments`.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Pairs a commit.
    pub batch: u64,
}

/// Has a process fill the log of a new file, kills it, and measures the open.
///
/// # Errors
/// Why that could not be done.
pub fn after_kill(path: &Path, log: &LongLog) -> Result<Opened, String> {
    let numbers = [log.log_bytes, log.value_bytes, log.batch].map(|number| number.to_string());
    let mut child = Command::new(&log.program)
        .args(&log.arguments)
        .arg(path)
        .args(numbers)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting {}: {error}", log.program.display()))?;
    let pairs = read_pairs(&mut child);
    let killed = child.kill().and_then(|()| child.wait());
    killed.map_err(|error| format!("killing the process: {error}"))?;
    let opened = Opened::of(pairs?, log.value_bytes, log.batch);
    let mut opened = measure(path, budget_for(log.log_bytes), opened)?;
    // One second for 200 MiB of log with values of 100 bytes, one microsecond an entry otherwise.
    opened.microseconds_max = Some(match log.value_bytes {
        100 => opened.log_bytes * 1_000_000 / (200 << 20),
        _ => opened.pairs,
    });
    Ok(opened)
}

fn read_pairs(child: &mut Child) -> Result<u64, String> {
    let mut line = String::new();
    let output = child.stdout.take().ok_or("the process has no output")?;
    BufReader::new(output).read_line(&mut line).map_err(|error| error.to_string())?;
    line.trim().parse().map_err(|_| format!("the process says {line:?} and no number of pairs"))
}

impl Opened {
    fn of(pairs: u64, value_bytes: u64, pairs_a_commit: u64) -> Opened {
        Opened {
            pairs,
            value_bytes,
            pairs_a_commit,
            file_bytes: 0,
            log_bytes: 0,
            open: Calls::default(),
            first_get: Calls::default(),
            found: false,
            microseconds: 0,
            processor_microseconds: None,
            microseconds_max: None,
        }
    }

    /// True when the pairs were not there, or a time is set and was not kept.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        // The rest of the time the processors worked for others.
        let taken = self.processor_microseconds.unwrap_or(self.microseconds);
        !self.found || self.microseconds_max.is_some_and(|most| taken > most)
    }
}

/// Opens a file several times, and writes nothing.
fn measure(path: &Path, budget_bytes: u64, mut opened: Opened) -> Result<Opened, String> {
    let (mut times, mut processor_times) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        let taken = open_once(path, budget_bytes, &mut opened);
        let (time, processor_time) =
            taken.map_err(|error| format!("opening {}: {error}", path.display()))?;
        times.push(time);
        processor_times.extend(processor_time);
    }
    opened.processor_microseconds =
        processor_times.iter().min().map(|time| time.as_micros() as u64);
    opened.microseconds = times.iter().min().map_or(0, |time| time.as_micros() as u64);
    Ok(opened)
}

/// How long a processor has worked for this thread, where the system tells: Linux does, first of all
/// in this file.
fn processor_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(told.split(' ').next()?.parse().ok()?))
}

/// Gives the time that the open took, and how long a processor worked for it.
fn open_once(
    path: &Path,
    budget_bytes: u64,
    opened: &mut Opened,
) -> sapwood::Result<(Duration, Option<Duration>)> {
    let file_options = FileOpenOptions { create: false, read_only: false };
    let (file, _) = FileStorage::open(path, &file_options)?;
    let storage = Arc::new(CountingStorage::new(Arc::new(file)));
    let builder = Database::builder().memory_budget(budget_bytes).merge_threads(0);
    let before = processor_time();
    let clock = Clock::real();
    let database = builder.create(false).open_on(storage.clone())?;
    let time = clock.now();
    let processor_time = processor_time().and_then(|after| after.checked_sub(before?));
    opened.open = storage.calls();
    let keyspace = database.existing_keyspace(KEYSPACE)?;
    let found = keyspace.get(key(opened.pairs / 2))?;
    opened.first_get = storage.calls().since(&opened.open);
    let stats = database.stats()?;
    opened.log_bytes = stats.log.unflushed_bytes;
    opened.file_bytes = stats.file_bytes;
    opened.found = found.is_some_and(|value| value.len() as u64 == opened.value_bytes)
        && !keyspace.contains(key(opened.pairs))?;
    // The next open is to find the same log again.
    storage.freeze();
    drop((keyspace, database));
    Ok((time, processor_time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_is_measured_and_changes_nothing() {
        let file = std::env::temp_dir().join(format!("sapwood opening {}.db", std::process::id()));
        let _ = std::fs::remove_file(&file);
        let first = after_close(&file, 1000, 100, &mut |_| ()).unwrap();
        let before = std::fs::read(&file).unwrap();
        let again = measure(&file, BUDGET_BYTES, Opened::of(1000, 100, 0)).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), before);
        std::fs::remove_file(&file).unwrap();
        assert!(first.found && again.found && !first.is_wrong());
        assert_eq!(first.open, again.open);
        assert!(first.open.reads > 0 && first.open.writes == 0, "{first:?}");
        assert!(first.first_get.reads > 0, "{first:?}");
    }
}
