//! The workloads, each run in a process of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::engines::{self, Engine, Settings, Wish};
use crate::pairs::{self, Random};
use crate::{Outcome, Sizes};

const BATCH_PAIRS: usize = 1_000;

/// What is measured. The order is the report's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// All pairs in the order of their keys, in batches of 1,000, buffered, then one sync.
    SortedLoad,
    /// The same pairs in random order.
    RandomLoad,
    /// Commits of one pair, each on disk before the next.
    DurableOne,
    /// The same from four threads at once.
    DurableFour,
    /// Random keys that are there, all in one snapshot.
    ReadPresent,
    /// Random keys that are not.
    ReadAbsent,
    /// All pairs in order; every byte is added up.
    Scan,
}

impl Workload {
    /// The database that the workload runs on: a folder that the parent gives each engine and
    /// round.
    pub const fn database(self) -> &'static str {
        match self {
            Workload::SortedLoad => "sorted",
            Workload::RandomLoad
            | Workload::ReadPresent
            | Workload::ReadAbsent
            | Workload::Scan => "random",
            Workload::DurableOne => "durable-one",
            Workload::DurableFour => "durable-four",
        }
    }

    pub const fn is_load(self) -> bool {
        matches!(self, Workload::SortedLoad | Workload::RandomLoad)
    }

    const fn wish(self) -> Wish {
        match self {
            Workload::DurableOne | Workload::DurableFour => Wish::Durable,
            _ => Wish::Buffered,
        }
    }
}

/// What the child is told.
#[derive(Args)]
pub struct One {
    #[arg(long)]
    pub engine: engines::Name,
    #[arg(long)]
    pub workload: Workload,
    /// The folder of the database.
    #[arg(long)]
    pub at: PathBuf,
    #[command(flatten)]
    pub sizes: Sizes,
}

/// What the child says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Pairs loaded, commits made, keys looked up or pairs seen.
    pub operations: u64,
    /// The time for them alone: not for opening, settling and closing.
    pub seconds: f64,
    /// The time until the engine had nothing more to do after a load.
    pub settle_seconds: f64,
    /// The most memory that the process had resident, mapped files included; 0 where it is unknown.
    pub resident_bytes_max: u64,
}

pub fn run_and_print(one: &One) -> Outcome<()> {
    println!("{}", serde_json::to_string(&run(one)?)?);
    Ok(())
}

pub fn run(one: &One) -> Outcome<Measured> {
    let settings = Settings { memory_bytes: one.sizes.memory_mib << 20, wish: one.workload.wish() };
    let engine = engines::open(one.engine, &one.at, settings)?;
    let (operations, time) = measure(engine.as_ref(), one.workload, &one.sizes)?;
    let settling = Instant::now();
    if one.workload.is_load() {
        engine.settle()?;
    }
    let settle_seconds = settling.elapsed().as_secs_f64();
    engine.close()?;
    Ok(Measured {
        operations,
        seconds: time.as_secs_f64(),
        settle_seconds,
        resident_bytes_max: resident_bytes_max(),
    })
}

fn measure(engine: &dyn Engine, workload: Workload, sizes: &Sizes) -> Outcome<(u64, Duration)> {
    match workload {
        Workload::SortedLoad => {
            let mut numbers: Vec<u64> = (0..sizes.pairs).map(pairs::present).collect();
            numbers.sort_unstable();
            load(engine, numbers.into_iter())
        }
        Workload::RandomLoad => load(engine, (0..sizes.pairs).map(pairs::present)),
        Workload::DurableOne => commit_durably(engine, 1, sizes.commits),
        Workload::DurableFour => commit_durably(engine, 4, sizes.commits),
        Workload::ReadPresent => read(engine, sizes, true),
        Workload::ReadAbsent => read(engine, sizes, false),
        Workload::Scan => scan(engine, sizes.pairs),
    }
}

/// Only the commits and the last sync are timed, not the making of the pairs.
fn load(engine: &dyn Engine, numbers: impl Iterator<Item = u64>) -> Outcome<(u64, Duration)> {
    with_timed_sync(engine, || {
        let mut time = Duration::ZERO;
        let mut pair_count = 0;
        let mut numbers = numbers.peekable();
        while numbers.peek().is_some() {
            let batch: Vec<_> = numbers
                .by_ref()
                .take(BATCH_PAIRS)
                .map(|number| (pairs::key(number), pairs::value(number)))
                .collect();
            let start = Instant::now();
            engine.commit(&batch)?;
            time += start.elapsed();
            pair_count += batch.len() as u64;
        }
        let start = Instant::now();
        engine.sync()?;
        Ok((pair_count, time + start.elapsed()))
    })
}

/// Runs `load` while another thread syncs every second, unless the engine does that itself: so each
/// engine bounds in the same way what a power cut would lose.
fn with_timed_sync<T>(engine: &dyn Engine, load: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    if engine.syncs_by_itself() {
        return load();
    }
    thread::scope(|scope| {
        let (stop, stopped) = mpsc::channel::<()>();
        let syncing = scope.spawn(move || -> Outcome<()> {
            while stopped.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                engine.sync()?;
            }
            Ok(())
        });
        let loaded = load();
        drop(stop);
        syncing.join().map_err(|_| "the syncing thread panicked")??;
        loaded
    })
}

/// The threads take the pairs in turn, so that together they commit exactly `commit_count`.
fn commit_durably(
    engine: &dyn Engine,
    thread_count: u64,
    commit_count: u64,
) -> Outcome<(u64, Duration)> {
    let next = AtomicU64::new(0);
    let start = Instant::now();
    thread::scope(|scope| -> Outcome<()> {
        let committing: Vec<_> = (0..thread_count)
            .map(|_| {
                scope.spawn(|| -> Outcome<()> {
                    loop {
                        let pair_index = next.fetch_add(1, Ordering::Relaxed);
                        if pair_index >= commit_count {
                            return Ok(());
                        }
                        let number = pairs::present(pair_index);
                        engine.commit(&[(pairs::key(number), pairs::value(number))])?;
                    }
                })
            })
            .collect();
        for thread in committing {
            thread.join().map_err(|_| "a committing thread panicked")??;
        }
        Ok(())
    })?;
    let time = start.elapsed();
    check("pairs after the commits", commit_count, count(engine)?)?;
    Ok((commit_count, time))
}

fn read(engine: &dyn Engine, sizes: &Sizes, present: bool) -> Outcome<(u64, Duration)> {
    let mut reader = engine.reader()?;
    let mut random = Random::new(0x5ead);
    let (mut found_count, mut found_bytes) = (0, 0);
    let start = Instant::now();
    for _ in 0..sizes.reads {
        let index = random.below(sizes.pairs);
        let number = if present { pairs::present(index) } else { pairs::absent(index) };
        let found = reader.get(&pairs::key(number), &mut |value| {
            found_bytes += value.len() as u64;
        })?;
        found_count += u64::from(found);
    }
    let time = start.elapsed();
    let expected = if present { sizes.reads } else { 0 };
    check("keys found", expected, found_count)?;
    check("bytes found", expected * pairs::VALUE_BYTES as u64, found_bytes)?;
    Ok((sizes.reads, time))
}

fn scan(engine: &dyn Engine, pair_count: u64) -> Outcome<(u64, Duration)> {
    let (mut seen_count, mut sum) = (0, 0);
    let start = Instant::now();
    engine.reader()?.scan(&mut |key, value| {
        seen_count += 1;
        sum += pairs::sum(key) + pairs::sum(value);
    })?;
    let time = start.elapsed();
    check("pairs seen", pair_count, seen_count)?;
    check("sum of all bytes", pairs::sum_of_all(pair_count), sum)?;
    Ok((pair_count, time))
}

fn count(engine: &dyn Engine) -> Outcome<u64> {
    let mut seen_count = 0;
    engine.reader()?.scan(&mut |_, _| seen_count += 1)?;
    Ok(seen_count)
}

/// A fast answer that is wrong is no answer.
fn check(what: &str, expected: u64, found: u64) -> Outcome<()> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}: expected {expected}, found {found}").into())
}

fn resident_bytes_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The space that a folder takes on the device: what is reserved and what is sparse count as they
/// are.
pub fn disk_bytes(dir: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { allotted(&metadata) };
    }
    Ok(bytes)
}

#[cfg(unix)]
fn allotted(metadata: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.blocks() * 512
}

#[cfg(not(unix))]
fn allotted(metadata: &std::fs::Metadata) -> u64 {
    metadata.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOADS: [Workload; 7] = [
        Workload::SortedLoad,
        Workload::RandomLoad,
        Workload::DurableOne,
        Workload::DurableFour,
        Workload::ReadPresent,
        Workload::ReadAbsent,
        Workload::Scan,
    ];

    #[test]
    fn every_engine_gives_the_right_answers_in_every_workload() {
        let sizes = Sizes { pairs: 2_500, reads: 500, commits: 20, memory_mib: 64 };
        for engine in engines::compiled() {
            let dir = tempfile::tempdir().unwrap();
            for workload in WORKLOADS {
                let at = dir.path().join(workload.database());
                std::fs::create_dir_all(&at).unwrap();
                let one = One { engine, workload, at: at.clone(), sizes: sizes.clone() };
                let measured = run(&one).unwrap();
                assert!(measured.operations > 0, "{engine:?} {workload:?}");
                assert!(measured.seconds > 0.0, "{engine:?} {workload:?}");
                assert!(disk_bytes(&at).unwrap() > 0, "{engine:?} {workload:?}");
            }
        }
    }

    #[test]
    fn a_wrong_answer_is_an_error() {
        check("pairs", 3, 3).unwrap();
        assert!(check("pairs", 3, 4).is_err());
    }
}
