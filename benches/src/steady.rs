//! Sapwood alone, written to for a long time at nine tenths of the rate that it can sustain.
//!
//! `benches steady` loads a database, measures the rate at which it takes commits in random order
//! when nothing holds them back, and then sends them by a timetable at a part of that rate. The
//! latency of a commit counts from the moment at which the timetable had it, so that a pause is
//! paid by all that had to wait for it, and none is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use sapwood::{Database, Durability, Keyspace};

use crate::Outcome;
use crate::pairs::{Random, key, present, value};
use crate::plot::{self, Panel};

#[derive(Args)]
pub struct Steady {
    /// Pairs in the database; all are loaded before, and overwritten at random.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Puts in each commit.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// How long the sustained rate is measured, in seconds; the first third does not count.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    peak_seconds: u64,
    /// The sustained rate of an earlier run, in puts a second. Where the machine's speed changes,
    /// nine tenths of a good minute are more than a bad one has: the lower rate of the two counts.
    #[arg(long)]
    sustained_before: Option<f64>,
    /// How long commits are sent by the timetable, in seconds.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The part of the sustained rate at which they are sent.
    #[arg(long, default_value_t = 0.9)]
    part: f64,
    /// Memory budget, in MiB.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// Where the database is put; it is removed.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Where the plots go, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// What was seen in one second.
#[derive(Clone, Copy, Default)]
struct Second {
    puts: u64,
    worst: Duration,
    memory_bytes: u64,
    file_bytes: u64,
}

struct Load<'a> {
    database: &'a Database,
    keyspace: &'a Keyspace,
    random: Random,
    pairs: u64,
    batch: u64,
}

impl Load<'_> {
    fn commit(&mut self) -> Outcome<()> {
        let mut batch = self.database.batch();
        for _ in 0..self.batch {
            let number = present(self.random.below(self.pairs));
            // A new value each time.
            let fresh = self.random.next();
            batch.put(self.keyspace, key(number), value(fresh))?;
        }
        batch.commit_with(Durability::Buffered)?;
        Ok(())
    }
}

/// Runs it and prints what it saw.
pub fn run(steady: &Steady) -> Outcome<()> {
    let dir = tempfile::TempDir::new_in(&steady.dir)?;
    let path = dir.path().join("steady.sapwood");
    let database = Database::builder().memory_budget(steady.memory_mib << 20).open(&path)?;
    let keyspace = database.keyspace("pairs")?;
    let (pairs, batch) = (steady.pairs, steady.batch);
    for first in (0..pairs).step_by(1000) {
        let mut batch = database.batch();
        for index in first..(first + 1000).min(pairs) {
            let number = present(index);
            batch.put(&keyspace, key(number), value(number))?;
        }
        batch.commit_with(Durability::Buffered)?;
    }
    let random = Random::new(7);
    let mut load = Load { database: &database, keyspace: &keyspace, random, pairs, batch };
    let rate = sustained_rate(&mut load, Duration::from_secs(steady.peak_seconds))?;
    println!("{:<28} {:>12.0} puts/s", "sustained rate", rate * batch as f64);
    let before = steady.sustained_before.map(|puts| puts / batch as f64);
    if let Some(before) = before {
        println!("{:<28} {:>12.0} puts/s", "sustained before", before * batch as f64);
    }
    let wanted = before.map_or(rate, |before| before.min(rate)) * steady.part;
    println!("{:<28} {:>12.0} puts/s", "sent by the timetable", wanted * batch as f64);
    let (mut latencies, seconds) = by_timetable(&mut load, wanted, steady.seconds, &path)?;
    latencies.sort_unstable();
    print(&latencies, &seconds, &database)?;
    if let Some(plot) = &steady.plot {
        fs::write(plot, drawing(steady, &seconds))?;
    }
    drop(keyspace);
    database.close()?;
    Ok(())
}

/// Commits a second when each follows the last at once. The first third does not count: what
/// merging owes grows in it, and nobody pays yet.
fn sustained_rate(load: &mut Load<'_>, time: Duration) -> Outcome<f64> {
    rate_for(load, time / 3)?;
    rate_for(load, time - time / 3)
}

fn rate_for(load: &mut Load<'_>, time: Duration) -> Outcome<f64> {
    let begun = Instant::now();
    let mut commits = 0_u64;
    while begun.elapsed() < time {
        load.commit()?;
        commits += 1;
    }
    Ok(commits as f64 / begun.elapsed().as_secs_f64())
}

/// Sends so many commits a second; their latencies in microseconds, and what each second saw.
fn by_timetable(
    load: &mut Load<'_>,
    rate: f64,
    seconds: u64,
    path: &Path,
) -> Outcome<(Vec<u32>, Vec<Second>)> {
    let begun = Instant::now();
    let count = (rate * seconds as f64) as u64;
    let (mut latencies, mut all) = (Vec::with_capacity(count as usize), Vec::new());
    let mut second = Second::default();
    for index in 0..count {
        let due = Duration::from_secs_f64(index as f64 / rate);
        let early = due.saturating_sub(begun.elapsed());
        // It is longer than asked for, which counts; to wait awake would take a processor from
        // merging.
        if !early.is_zero() {
            std::thread::sleep(early);
        }
        load.commit()?;
        let latency = begun.elapsed() - due;
        latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        second.puts += load.batch;
        second.worst = second.worst.max(latency);
        if begun.elapsed().as_secs() > all.len() as u64 {
            second.memory_bytes = resident_bytes();
            second.file_bytes = fs::metadata(path)?.len();
            all.push(std::mem::take(&mut second));
            if all.len() % 60 == 0 {
                eprintln!("{:>6} s of {seconds}, {:>8} ms behind", all.len(), latency.as_millis());
            }
        }
    }
    Ok((latencies, all))
}

/// The process's memory as the system counts it; 0 where it does not say.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn print(latencies: &[u32], seconds: &[Second], database: &Database) -> Outcome<()> {
    let at = |part: f64| {
        let index = ((latencies.len() as f64 * part) as usize).min(latencies.len().max(1) - 1);
        f64::from(latencies.get(index).copied().unwrap_or(0)) / 1000.0
    };
    for (name, part) in
        [("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("longest", 1.0)]
    {
        println!("{:<28} {:>12.3} ms", format!("commit, {name}"), at(part));
    }
    let mut worst: Vec<Duration> = seconds.iter().map(|second| second.worst).collect();
    worst.sort_unstable();
    let longest =
        worst.iter().rev().take(5).map(|worst| format!("{:.1}", worst.as_secs_f64() * 1e3));
    println!(
        "{:<28} {:>12} ms",
        "worst of the worst seconds",
        longest.collect::<Vec<_>>().join(" ")
    );
    let most = |of: fn(&Second) -> u64| seconds.iter().map(of).max().unwrap_or(0) >> 20;
    println!("{:<28} {:>12} MiB", "most memory", most(|second| second.memory_bytes));
    println!("{:<28} {:>12} MiB", "largest file", most(|second| second.file_bytes));
    let stats = database.stats()?;
    println!("{:<28} {:>12}", "commits that waited", stats.stalls);
    println!("{:<28} {:>12.1} s", "slowed", stats.slowed_microseconds as f64 / 1e6);
    Ok(())
}

fn drawing(steady: &Steady, seconds: &[Second]) -> String {
    let series = |of: fn(&Second) -> f64| seconds.iter().map(of).collect::<Vec<f64>>();
    let heading = format!(
        "{} pairs overwritten at random, {} a commit, at {} of the sustained rate, budget {} MiB",
        steady.pairs, steady.batch, steady.part, steady.memory_mib
    );
    let limit = 1.2 * steady.memory_mib as f64;
    plot::svg(
        &heading,
        &[
            Panel {
                title: "throughput",
                unit: "puts/s",
                values: series(|second| second.puts as f64),
                limit: None,
                logarithmic: false,
            },
            Panel {
                title: "slowest commit of each second",
                unit: "ms",
                values: series(|second| second.worst.as_secs_f64() * 1e3),
                limit: None,
                logarithmic: true,
            },
            Panel {
                title: "memory",
                unit: "MiB",
                values: series(|second| second.memory_bytes as f64 / f64::from(1 << 20)),
                limit: Some(("1.2 times the budget", limit)),
                logarithmic: false,
            },
            Panel {
                title: "file",
                unit: "MiB",
                values: series(|second| second.file_bytes as f64 / f64::from(1 << 20)),
                limit: None,
                logarithmic: false,
            },
        ],
    )
}
