//! Sapwood alone, at its limits: what its promises name a figure for.
//!
//! `benches limits` runs each case in turn and prints what it saw; memory is the process's peak
//! while the case ran, as the system counts it (Linux only). A figure that was promised is printed
//! with its bound, and one beyond it fails the command, unless counts were divided.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use sapwood::{Builder, Database, Durability, Keyspace};
use serde::{Deserialize, Serialize};

mod at_rest;
mod held;
mod large;

use crate::Outcome;
use crate::pairs::Random;

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// The first live key of a queue from whose front a million entries were taken.
    Queue,
    /// A range delete over everything: its own time and bytes, and how soon the space is back.
    Ranges,
    /// A value of a gibibyte in and out.
    Stream,
    /// A transaction far larger than memory, with other committers beside it.
    Transaction,
    /// The same, rolled back to its middle.
    Savepoint,
    /// The same, killed in its middle.
    Killed,
    /// What `killed` kills.
    #[value(hide = true)]
    Victim,
    /// What empty databases cost.
    Empty,
    /// A thousand keyspaces written at random, reopened, half of them dropped under a snapshot.
    Keyspaces,
    /// A hundred snapshots of a database under random writes, released in random order.
    Snapshots,
    /// A few keys, overwritten over and over under one snapshot.
    Overwrites,
    /// Nine tenths deleted: the file at rest beside what `compact_to` writes.
    Deleted,
    /// The same after everything was overwritten ten times.
    Overwritten,
}

#[derive(Args)]
pub struct Limits {
    /// The cases, separated by commas. [default: all]
    #[arg(long, value_delimiter = ',')]
    cases: Vec<Case>,
    /// All counts are divided by this.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    divisor: u64,
    /// Where the databases are put; they are removed.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Prints JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize, Serialize)]
struct Figure {
    case: String,
    what: String,
    value: f64,
    unit: String,
    bound: Option<Bound>,
}

/// What a figure must keep to.
#[derive(Clone, Copy, Deserialize, Serialize)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    /// A figure that is not to be had keeps to nothing.
    fn keeps_its_bound(&self) -> bool {
        match self.bound {
            None => true,
            Some(Bound::AtMost(most)) => self.value <= most,
            Some(Bound::AtLeast(least)) => self.value >= least,
        }
    }
}

struct Run {
    dir: tempfile::TempDir,
    divisor: u64,
    figures: Vec<Figure>,
}

/// Runs the cases, each in a process of its own, and prints what they saw.
pub fn run(limits: &Limits) -> Outcome<()> {
    let figures = match limits.cases.as_slice() {
        [case] => run_case(*case, limits)?,
        cases => {
            let cases = if cases.is_empty() { Case::value_variants() } else { cases };
            let mut figures = Vec::new();
            for case in cases.iter().filter(|case| **case != Case::Victim) {
                figures.extend(run_process(*case, limits)?);
            }
            figures
        }
    };
    if limits.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        figures.iter().for_each(print);
    }
    let broken: Vec<&str> = figures
        .iter()
        .filter(|figure| !figure.keeps_its_bound())
        .map(|figure| figure.what.as_str())
        .collect();
    // Whoever asked for one case as JSON judges for itself.
    let is_judged = limits.divisor == 1 && !limits.json;
    match broken.is_empty() || !is_judged {
        true => Ok(()),
        false => Err(format!("beyond their bounds: {}", broken.join("; ")).into()),
    }
}

/// A heap that others have used would hide what a case takes.
fn run_process(case: Case, limits: &Limits) -> Outcome<Vec<Figure>> {
    let name = case.to_possible_value().ok_or("a case without a name")?;
    let mut child = std::process::Command::new(std::env::current_exe()?);
    child.args(["limits", "--json", "--cases", name.get_name()]);
    child.arg("--divisor").arg(limits.divisor.to_string());
    child.arg("--dir").arg(&limits.dir);
    let output = child.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{}: {}", name.get_name(), output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn run_case(case: Case, limits: &Limits) -> Outcome<Vec<Figure>> {
    let dir = tempfile::Builder::new().prefix("limits").tempdir_in(&limits.dir)?;
    let mut run = Run { dir, divisor: limits.divisor, figures: Vec::new() };
    match case {
        Case::Queue => run.queue()?,
        Case::Ranges => run.ranges()?,
        Case::Stream => run.stream()?,
        Case::Transaction => run.transaction()?,
        Case::Savepoint => run.savepoint()?,
        Case::Killed => run.killed()?,
        Case::Victim => return run.victim(&limits.dir),
        Case::Empty => run.empty()?,
        Case::Keyspaces => run.keyspaces()?,
        Case::Snapshots => run.snapshots()?,
        Case::Overwrites => run.overwrites()?,
        Case::Deleted => run.deleted()?,
        Case::Overwritten => run.overwritten()?,
    }
    Ok(run.figures)
}

/// What an idle database with the smallest budget and no threads may take of memory.
const SMALL_MIB: f64 = 0.25;

fn print(figure: &Figure) {
    let Figure { case, what, value, unit, bound } = figure;
    let bound = match bound {
        None => String::new(),
        Some(Bound::AtMost(most)) => format!("at most {}", shown(*most, unit)),
        Some(Bound::AtLeast(least)) => format!("at least {}", shown(*least, unit)),
    };
    let value = shown(*value, unit);
    let line = format!("{case:<12} {what:<58} {value:>12} {unit:<6} {bound}");
    println!("{}", line.trim_end());
}

/// A number with as many decimals as it deserves: without a unit are counts, and ratios near 1.
fn shown(number: f64, unit: &str) -> String {
    let decimals = match (unit.is_empty(), number.fract() == 0.0) {
        (true, true) => 0,
        (true, false) => 2,
        (false, _) => 1,
    };
    format!("{number:.decimals$}")
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Forgets the process's peak so far.
fn reset_peak() {
    // Where this is not to be had the peak is that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The peak and the present size of the process in memory, in MiB.
fn resident_mib() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(f64::NAN) / 1024.0
    };
    (of("VmHWM:"), of("VmRSS:"))
}

fn ordered(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(random: &mut Random) -> [u8; 100] {
    let mut value = [b'v'; 100];
    for piece in value[..48].chunks_exact_mut(8) {
        piece.copy_from_slice(&random.next().to_le_bytes());
    }
    value
}

fn load(database: &Database, keyspace: &Keyspace, count: u64) -> Outcome<()> {
    let mut random = Random::new(1);
    for first in (0..count).step_by(1000) {
        let mut batch = database.batch();
        for number in first..count.min(first + 1000) {
            batch.put(keyspace, ordered(number), value(&mut random))?;
        }
        batch.commit_with(Durability::Buffered)?;
    }
    Ok(())
}

impl Run {
    fn note(&mut self, case: &str, what: impl Into<String>, value: f64, unit: &str) {
        let (case, unit) = (case.to_owned(), unit.to_owned());
        self.figures.push(Figure { case, what: what.into(), value, unit, bound: None });
    }

    /// What was noted last must keep to this.
    fn bound(&mut self, bound: Bound) {
        if let Some(figure) = self.figures.last_mut() {
            figure.bound = Some(bound);
        }
    }

    fn open(&self, name: &str, builder: Builder) -> Outcome<(Database, Keyspace, PathBuf)> {
        let path = self.dir.path().join(name);
        let database = builder.open(&path)?;
        let keyspace = database.keyspace("limits")?;
        Ok((database, keyspace, path))
    }

    fn file_mib(&self, name: &str) -> Outcome<f64> {
        Ok(mib(std::fs::metadata(self.dir.path().join(name))?.len()))
    }

    fn queue(&mut self) -> Outcome<()> {
        let taken = 1_000_000 / self.divisor;
        for threads in [2, 0] {
            let name = format!("queue-{threads}");
            let builder = Database::builder().merge_threads(threads);
            let (database, keyspace, _) = self.open(&name, builder)?;
            load(&database, &keyspace, taken + 10_000)?;
            let begin = Instant::now();
            for number in 0..taken {
                let first = keyspace.first()?.map(|(key, _)| key.to_vec());
                if first.as_deref() != Some(&ordered(number)) {
                    return Err(format!("the queue's front is {first:?}").into());
                }
                let mut batch = database.batch();
                batch.delete(&keyspace, ordered(number))?;
                batch.commit_with(Durability::Memory)?;
            }
            let each = micros(begin.elapsed()) / taken as f64;
            let mut looks: Vec<f64> = Vec::new();
            for _ in 0..1001 {
                let begin = Instant::now();
                keyspace.first()?;
                looks.push(micros(begin.elapsed()));
            }
            looks.sort_by(f64::total_cmp);
            let merges = if threads == 0 { "no merge threads" } else { "merge threads" };
            let front = format!("look at the front behind {taken} deletions, {merges}");
            self.note("queue", format!("look and delete, {merges}"), each, "us");
            self.note("queue", front, looks[500], "us");
            self.bound(Bound::AtMost(50.0));
            self.note("queue", "the longest of 1001 looks", looks[1000], "us");
            database.close()?;
        }
        Ok(())
    }

    fn ranges(&mut self) -> Outcome<()> {
        let count = 10_000_000 / self.divisor;
        let (database, keyspace, path) = self.open("ranges", Database::builder())?;
        load(&database, &keyspace, count)?;
        database.wait_until_idle()?;
        let (full, before) = (std::fs::metadata(&path)?.len(), database.stats()?.written_bytes);
        let begin = Instant::now();
        keyspace.delete_range(ordered(0)..ordered(count))?;
        let delete = begin.elapsed();
        let written = database.stats()?.written_bytes - before;
        let begin = Instant::now();
        database.wait_until_idle()?;
        let back = begin.elapsed();
        let all_written = database.stats()?.written_bytes - before;
        self.note("ranges", format!("delete_range over {count} pairs"), micros(delete), "us");
        self.note("ranges", "bytes written by it", written as f64, "bytes");
        self.note("ranges", "until the space is back", micros(back) / 1e3, "ms");
        self.note("ranges", "bytes written until then", mib(all_written), "MiB");
        self.note("ranges", "the file before", mib(full), "MiB");
        self.note("ranges", "the file afterwards", mib(std::fs::metadata(&path)?.len()), "MiB");
        Ok(database.close()?)
    }

    fn stream(&mut self) -> Outcome<()> {
        let length = (1 << 30) / self.divisor;
        let raw = self.raw_speed(length)?;
        let (database, keyspace, _) = self.open("stream", Database::builder())?;
        reset_peak();
        let (_, empty) = resident_mib();
        let begin = Instant::now();
        keyspace.put_stream("large", Noise { random: Random::new(3), left: length })?;
        let write = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let mut stream = keyspace.get_stream("large")?.ok_or("the value is gone")?;
        let mut buffer = vec![0; 128 << 10];
        let mut read_bytes = 0;
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            read_bytes += count as u64;
        }
        let read = begin.elapsed().as_secs_f64();
        if read_bytes != length {
            return Err(format!("{read_bytes} bytes of {length} came back").into());
        }
        stream.seek(SeekFrom::Start(length / 2))?;
        let begin = Instant::now();
        stream.read_exact(&mut buffer[..100])?;
        let seek = micros(begin.elapsed());
        let (peak, _) = resident_mib();
        let before = database.stats()?.written_bytes;
        load(&database, &keyspace, 100_000 / self.divisor)?;
        database.compact()?;
        let merged = database.stats()?.written_bytes - before;
        self.note("stream", "value", mib(length), "MiB");
        self.note("stream", "plain file, written and synced", mib(length) / raw.0, "MiB/s");
        self.note("stream", "plain file, read from the cache", mib(length) / raw.1, "MiB/s");
        self.note("stream", "value in, synced", mib(length) / write, "MiB/s");
        self.bound(Bound::AtLeast(mib(length) / raw.0 / 2.0));
        self.note("stream", "value out, from the cache", mib(length) / read, "MiB/s");
        self.bound(Bound::AtLeast(mib(length) / raw.1 / 2.0));
        self.note("stream", "100 bytes of its middle", seek, "us");
        self.note("stream", "peak memory above the empty database's", peak - empty, "MiB");
        self.bound(Bound::AtMost(16.0));
        self.note("stream", "written by merging its keyspace", mib(merged), "MiB");
        // The other pairs and the log, and none of the value.
        self.bound(Bound::AtMost(mib(length) / 16.0));
        Ok(database.close()?)
    }

    /// Seconds for a file of that length to be written and synced, and read again.
    fn raw_speed(&self, length: u64) -> Outcome<(f64, f64)> {
        let path = self.dir.path().join("plain");
        let mut noise = Noise { random: Random::new(3), left: length };
        let mut file = std::fs::File::create(&path)?;
        let mut buffer = vec![0; 256 << 10];
        let begin = Instant::now();
        loop {
            let count = noise.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count])?;
        }
        file.sync_data()?;
        let write = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        let mut file = std::fs::File::open(&path)?;
        while file.read(&mut buffer)? > 0 {}
        let read = begin.elapsed().as_secs_f64();
        std::fs::remove_file(&path)?;
        Ok((write, read))
    }

    fn empty(&mut self) -> Outcome<()> {
        let count = (1000 / self.divisor).max(1);
        let file = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len());
        let (database, _, path) = self.open("empty", Database::builder())?;
        database.close()?;
        self.note("empty", "an empty file", mib(file(&path)?), "MiB");
        self.bound(Bound::AtMost(3.0));
        reset_peak();
        let (_, before) = resident_mib();
        let mut open = Vec::new();
        for number in 0..count {
            let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
            let (database, keyspace, _) = self.open(&format!("small-{number}"), builder)?;
            keyspace.put("key", "value")?;
            open.push(database);
        }
        let (_, after) = resident_mib();
        self.note("empty", format!("memory of {count} small databases"), after - before, "MiB");
        self.bound(Bound::AtMost(count as f64 * SMALL_MIB));
        open.into_iter().try_for_each(|database| Ok(database.close()?))
    }

    fn keyspaces(&mut self) -> Outcome<()> {
        let (count, puts) = ((1000 / self.divisor).max(10), 5_000_000 / self.divisor);
        let name = |number: u64| format!("keyspace {number:04}");
        let path = self.dir.path().join("keyspaces");
        reset_peak();
        let database = Database::builder().durability(Durability::Memory).open(&path)?;
        let begin = Instant::now();
        let made: Result<Vec<_>, _> = (0..count).map(|n| database.keyspace(&name(n))).collect();
        let keyspaces = made?;
        database.sync()?;
        self.note("keyspaces", format!("making {count}"), micros(begin.elapsed()) / 1e3, "ms");
        let (mut random, mut unflushed) = (Random::new(5), 0);
        let begin = Instant::now();
        for number in 0..puts / 100 {
            let mut batch = database.batch();
            for _ in 0..100 {
                let keyspace = &keyspaces[(random.next() % count) as usize];
                batch.put(keyspace, ordered(random.next()), value(&mut random))?;
            }
            batch.commit_with(Durability::Buffered)?;
            // A look at the figures of a thousand keyspaces takes its time.
            if number % 100 == 0 {
                unflushed = unflushed.max(database.stats()?.log.unflushed_bytes);
            }
        }
        let write = begin.elapsed().as_secs_f64();
        let (peak, _) = resident_mib();
        let begin = Instant::now();
        database.wait_until_idle()?;
        let settle = begin.elapsed().as_secs_f64();
        let what = format!("{puts} puts at random over all, 100 a batch");
        self.note("keyspaces", what, puts as f64 / write / 1e3, "k/s");
        self.note("keyspaces", "peak memory (budget 256 MiB)", peak, "MiB");
        self.bound(Bound::AtMost(1.2 * 256.0));
        self.note("keyspaces", "the most in the log and not in segments", mib(unflushed), "MiB");
        self.note("keyspaces", "until all is merged", settle, "s");
        drop(keyspaces);
        database.close()?;
        self.keyspaces_reopened(&path, count, puts)
    }

    fn keyspaces_reopened(&mut self, path: &Path, count: u64, puts: u64) -> Outcome<()> {
        let file = || std::fs::metadata(path).map(|metadata| mib(metadata.len()));
        let used = |database: &Database| -> Outcome<f64> {
            database.wait_until_idle()?;
            let stats = database.stats()?;
            Ok(mib(stats.file_bytes - stats.free_bytes))
        };
        let sum = |database: &Database, names: &[String]| -> Outcome<u64> {
            let counts = names.iter().map(|name| database.keyspace(name)?.count::<&[u8]>(..));
            Ok(counts.sum::<Result<u64, _>>()?)
        };
        self.note("keyspaces", "the file", file()?, "MiB");
        let begin = Instant::now();
        let database = Database::open(path)?;
        self.note("keyspaces", "open", micros(begin.elapsed()) / 1e3, "ms");
        let names = database.keyspaces()?;
        if names.len() as u64 != count || sum(&database, &names)? != puts {
            return Err("keyspaces or entries are missing".into());
        }
        self.note("keyspaces", "in use", used(&database)?, "MiB");
        let snapshot = database.snapshot()?;
        let (dropped, kept) = names.split_at(names.len() / 2);
        let handles: Result<Vec<_>, _> =
            dropped.iter().map(|name| database.keyspace(name)).collect();
        let begin = Instant::now();
        dropped.iter().try_for_each(|name| database.drop_keyspace(name))?;
        let each = micros(begin.elapsed()) / dropped.len() as f64;
        self.note("keyspaces", "dropping half of them, each on disk", each, "us");
        self.note("keyspaces", "in use, under a snapshot", used(&database)?, "MiB");
        let seen =
            handles?.iter().map(|k| snapshot.count::<&[u8]>(k, ..)).sum::<Result<u64, _>>()?;
        let left = sum(&database, kept)?;
        if seen + left != puts {
            return Err(format!("the snapshot sees {seen} entries, {left} are left").into());
        }
        drop(snapshot);
        let begin = Instant::now();
        let in_use = used(&database)?;
        let back = micros(begin.elapsed()) / 1e3;
        self.note("keyspaces", "in use when the snapshot has gone", in_use, "MiB");
        self.note("keyspaces", "until then", back, "ms");
        let problems = database.verify(&mut ())?.problem_count;
        self.note("keyspaces", "problems that verify finds", problems as f64, "");
        self.bound(Bound::AtMost(0.0));
        database.close()?;
        self.note("keyspaces", "the file after a close", file()?, "MiB");
        let begin = Instant::now();
        let database = Database::open(path)?;
        self.note("keyspaces", "open with half of them", micros(begin.elapsed()) / 1e3, "ms");
        Ok(database.close()?)
    }
}

/// Bytes that no compression makes smaller.
struct Noise {
    random: Random,
    left: u64,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.left.min(buffer.len() as u64) as usize;
        for piece in buffer[..count].chunks_mut(8) {
            piece.copy_from_slice(&self.random.next().to_le_bytes()[..piece.len()]);
        }
        self.left -= count as u64;
        Ok(count)
    }
}
