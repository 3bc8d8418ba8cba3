//! `bench`: loads pairs, reads and scans them, and says how fast that was and what it took.

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sapwood::{Compression, Database, Durability, Keyspace, KeyspaceOptions, WrittenStats};
use serde::Serialize;

use crate::Outcome;
use crate::args::{BenchArguments, CommitKind, Order};
use crate::output::{self, Table, line};
use crate::units;

/// The file's length is looked at once in so many commits.
const LOOK_EVERY: u64 = 64;

/// The series of a clustered load.
const SERIES: u64 = 1000;

#[derive(Serialize)]
struct Results {
    pairs: u64,
    order: Order,
    key_bytes: u64,
    value_bytes: usize,
    batch: u64,
    budget_bytes: u64,
    durability: CommitKind,
    phases: Vec<Phase>,
    /// Until everything that was written is merged.
    settle_seconds: f64,
    peak_memory_bytes: Option<u64>,
    file_peak_bytes: u64,
    file_rest_bytes: u64,
    /// Of keys and values.
    user_bytes: u64,
    written: Written,
    read_bytes: u64,
    write_amplification: f64,
    space_amplification: f64,
    flushes: u64,
    promotions: u64,
    durable_states: u64,
    stalls: u64,
    slowed_seconds: f64,
    cache_hits: u64,
    cache_misses: u64,
    verified: Option<bool>,
}

/// Bytes written to the file until everything is merged, by what they are.
#[derive(Serialize)]
struct Written {
    total: u64,
    log: u64,
    leaves: u64,
    parents: u64,
    filters: u64,
    overflow: u64,
    states: u64,
    /// Leaves, parents and filters.
    segments: u64,
}

impl From<WrittenStats> for Written {
    fn from(written: WrittenStats) -> Written {
        let WrittenStats { log, leaves, parents, filters, overflow, states, .. } = written;
        let (total, segments) = (written.total(), written.segments());
        Written { total, log, leaves, parents, filters, overflow, states, segments }
    }
}

/// One part of the work.
#[derive(Serialize)]
struct Phase {
    name: &'static str,
    operations: u64,
    seconds: f64,
    operations_per_second: f64,
    /// What one call took: a commit, a read; not for scans.
    latency: Option<Latency>,
}

/// Of all calls of a phase, in microseconds.
#[derive(Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Phase {
    fn new(name: &'static str, operations: u64, took: Duration, mut calls: Vec<Duration>) -> Phase {
        calls.sort_unstable();
        let at = |share: f64| {
            let index = (calls.len() as f64 * share) as usize;
            calls.get(index.min(calls.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        let micros = |duration: Duration| (duration.as_secs_f64() * 1e7).round() / 10.0;
        let latency = (!calls.is_empty()).then(|| Latency {
            p50: micros(at(0.5)),
            p99: micros(at(0.99)),
            p999: micros(at(0.999)),
            max: micros(at(1.0)),
        });
        let seconds = took.as_secs_f64();
        let operations_per_second = (operations as f64 / seconds.max(1e-9)).round();
        Phase { name, operations, seconds, operations_per_second, latency }
    }
}

/// A bijection of 64 bits (the finalizer of SplitMix64): keys at random places, each once.
fn scatter(index: u64) -> u64 {
    let mut mixed = index.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The index that [`scatter`] sends to this number: the same steps backwards, each multiplied by
/// the inverse of its factor.
fn gather(number: u64) -> u64 {
    let mut mixed = number ^ (number >> 31) ^ (number >> 62);
    mixed = mixed.wrapping_mul(0x3196_42b2_d24d_8ec3);
    mixed = mixed ^ (mixed >> 27) ^ (mixed >> 54);
    mixed = mixed.wrapping_mul(0x96de_1b17_3f11_9089);
    mixed = mixed ^ (mixed >> 30) ^ (mixed >> 60);
    mixed.wrapping_sub(0x9e37_79b9_7f4a_7c15)
}

fn fill_key(arguments: &BenchArguments, index: u64, key: &mut Vec<u8>) {
    let number = match arguments.order {
        Order::Random | Order::Ascending => scatter(index),
        Order::Sorted => index,
        Order::Descending => u64::MAX - index,
        Order::Clustered => ((index % SERIES) << 40) | (index / SERIES),
    };
    key.clear();
    key.extend_from_slice(&number.to_be_bytes());
    key.resize(arguments.key_bytes as usize, b'k');
}

/// A value of which about half compresses.
fn fill_value(arguments: &BenchArguments, index: u64, value: &mut Vec<u8>) {
    value.clear();
    let mut state = scatter(index ^ 0x5555);
    while value.len() < arguments.value_bytes {
        state = scatter(state);
        value.extend_from_slice(&state.to_be_bytes());
        value.extend_from_slice(b"sapwood ");
    }
    value.truncate(arguments.value_bytes);
}

pub fn run(arguments: &BenchArguments, json: bool) -> Outcome {
    let path = &arguments.file;
    // What is removed in the end is what was made here.
    fs::File::create_new(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => format!("{} exists already", path.display()),
        _ => format!("{}: {error}", path.display()),
    })?;
    let outcome = measure(arguments, json);
    if arguments.keep {
        return outcome;
    }
    let removed = fs::remove_file(path);
    // Of two errors the first says why there is no measurement.
    let status = outcome?;
    removed.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(status)
}

fn measure(arguments: &BenchArguments, json: bool) -> Outcome {
    let path = &arguments.file;
    let database = Database::builder()
        .memory_budget(arguments.budget << 20)
        .page_size(arguments.page_size)
        .memory_map(arguments.memory_map)
        .open(path)?;
    let mut options = KeyspaceOptions::default();
    if arguments.plain {
        options = options.compression(Compression::None).value_compression(Compression::None);
    }
    let keyspace = database.keyspace_with("default", options)?;
    let mut results = load(arguments, &database, &keyspace)?;
    results.phases.push(read(arguments, &keyspace)?);
    results.phases.push(scan(arguments, &keyspace)?);
    let stats = database.stats()?;
    (results.cache_hits, results.cache_misses) = (stats.cache_hits, stats.cache_misses);
    results.read_bytes = stats.read_bytes;
    drop(keyspace);
    database.close()?;
    results.file_rest_bytes = length(path);
    let user = results.user_bytes.max(1) as f64;
    results.space_amplification = results.file_rest_bytes as f64 / user;
    results.peak_memory_bytes = peak_memory();
    if json && !arguments.verify {
        output::json(&results)?;
    } else if !arguments.verify {
        print(&results)?;
    }
    let mut status = ExitCode::SUCCESS;
    if arguments.verify {
        let problems = super::verify::problems(path)?;
        results.verified = Some(problems.is_empty());
        if json {
            output::json(&results)?;
        } else {
            print(&results)?;
        }
        for problem in &problems {
            eprintln!("diag_lsm: {problem}");
            status = ExitCode::FAILURE;
        }
    }
    Ok(status)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Which pair is written when.
enum Indices {
    InOrder,
    /// Their keys' numbers, sorted.
    Sorted(Vec<u64>),
}

impl Indices {
    fn new(arguments: &BenchArguments) -> Indices {
        if arguments.order != Order::Ascending {
            return Indices::InOrder;
        }
        let mut numbers = (0..arguments.count).map(scatter).collect::<Vec<_>>();
        numbers.sort_unstable();
        Indices::Sorted(numbers)
    }

    fn at(&self, place: u64) -> u64 {
        match self {
            Indices::InOrder => place,
            Indices::Sorted(numbers) => {
                numbers.get(place as usize).map_or(place, |number| gather(*number))
            }
        }
    }
}

fn load(
    arguments: &BenchArguments,
    database: &Database,
    keyspace: &Keyspace,
) -> Result<Results, Box<dyn Error>> {
    let durability = match arguments.durability {
        CommitKind::Sync => Durability::Sync,
        CommitKind::Buffered => Durability::Buffered,
        CommitKind::Memory => Durability::Memory,
    };
    let bar = output::progress(arguments.count, "loading");
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut calls = Vec::new();
    let mut file_peak_bytes = 0;
    let indices = Indices::new(arguments);
    let began = Instant::now();
    let mut next = 0;
    while next < arguments.count {
        let mut batch = database.batch();
        let end = (next + arguments.batch).min(arguments.count);
        for index in (next..end).map(|place| indices.at(place)) {
            fill_key(arguments, index, &mut key);
            fill_value(arguments, index, &mut value);
            batch.put(keyspace, &key, &value)?;
        }
        let at = Instant::now();
        batch.commit_with(durability)?;
        calls.push(at.elapsed());
        next = end;
        if (calls.len() as u64).is_multiple_of(LOOK_EVERY) {
            file_peak_bytes = file_peak_bytes.max(length(&arguments.file));
            bar.set_position(next);
        }
    }
    let took = began.elapsed();
    bar.finish_and_clear();
    file_peak_bytes = file_peak_bytes.max(length(&arguments.file));
    let began = Instant::now();
    database.flush()?;
    database.wait_until_idle()?;
    let settle_seconds = began.elapsed().as_secs_f64();
    let stats = database.stats()?;
    file_peak_bytes = file_peak_bytes.max(stats.file_bytes);
    let user_bytes = arguments.count * (arguments.key_bytes + arguments.value_bytes as u64);
    Ok(Results {
        pairs: arguments.count,
        order: arguments.order,
        key_bytes: arguments.key_bytes,
        value_bytes: arguments.value_bytes,
        batch: arguments.batch,
        budget_bytes: arguments.budget << 20,
        durability: arguments.durability,
        phases: vec![Phase::new("load", arguments.count, took, calls)],
        settle_seconds,
        peak_memory_bytes: None,
        file_peak_bytes,
        file_rest_bytes: 0,
        user_bytes,
        written: stats.written.into(),
        read_bytes: 0,
        write_amplification: stats.written_bytes as f64 / user_bytes.max(1) as f64,
        space_amplification: 0.0,
        flushes: stats.flushes,
        promotions: stats.promotions,
        durable_states: stats.durable_states,
        stalls: stats.stalls,
        slowed_seconds: stats.slowed_microseconds as f64 / 1e6,
        cache_hits: 0,
        cache_misses: 0,
        verified: None,
    })
}

/// Point reads of random keys that are there.
fn read(arguments: &BenchArguments, keyspace: &Keyspace) -> Result<Phase, Box<dyn Error>> {
    let bar = output::progress(arguments.reads, "reading");
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut calls = Vec::new();
    let began = Instant::now();
    for number in 0..arguments.reads {
        let index = scatter(number ^ 0x1234_5678) % arguments.count.max(1);
        fill_key(arguments, index, &mut key);
        let at = Instant::now();
        let found = keyspace.get(&key)?;
        calls.push(at.elapsed());
        fill_value(arguments, index, &mut value);
        if found.as_deref() != Some(value.as_slice()) {
            return Err(format!("pair {index} is not what was written").into());
        }
        if number.is_multiple_of(1024) {
            bar.set_position(number);
        }
    }
    let took = calls.iter().sum::<Duration>().min(began.elapsed());
    bar.finish_and_clear();
    Ok(Phase::new("read", arguments.reads, took, calls))
}

fn scan(arguments: &BenchArguments, keyspace: &Keyspace) -> Result<Phase, Box<dyn Error>> {
    let began = Instant::now();
    let mut scanned = 0;
    for pair in keyspace.iter()?.take(usize::try_from(arguments.scan)?) {
        let (_key, _value) = pair?;
        scanned += 1;
    }
    if scanned != arguments.count.min(arguments.scan) {
        return Err(format!("{scanned} pairs were scanned of {}", arguments.count).into());
    }
    Ok(Phase::new("scan", scanned, began.elapsed(), Vec::new()))
}

/// The most memory that this process has had resident; known on Linux only.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn print(results: &Results) -> std::io::Result<()> {
    let mut out = output::out();
    let mut table =
        Table::new(1, &["", "operations", "time", "per second", "p50", "p99", "p99.9", "max"]);
    for phase in &results.phases {
        let micros = |of: fn(&Latency) -> f64| {
            let latency = phase.latency.as_ref();
            latency.map_or("-".into(), |l| units::time(Duration::from_secs_f64(of(l) / 1e6)))
        };
        table.row(vec![
            phase.name.to_owned(),
            units::count(phase.operations),
            units::time(Duration::from_secs_f64(phase.seconds)),
            units::count(phase.operations_per_second as u64),
            micros(|latency| latency.p50),
            micros(|latency| latency.p99),
            micros(|latency| latency.p999),
            micros(|latency| latency.max),
        ]);
    }
    table.print(&mut out)?;
    let batch = units::count(results.batch);
    writeln!(out, "(latencies of the load are those of commits of {batch} pairs)\n")?;
    line(&mut out, "settled in", units::time(Duration::from_secs_f64(results.settle_seconds)))?;
    let peak = results.peak_memory_bytes.map_or("unknown".into(), units::bytes);
    let budget = units::bytes(results.budget_bytes);
    line(&mut out, "peak memory", format!("{peak} (budget {budget})"))?;
    line(&mut out, "user bytes", units::bytes(results.user_bytes))?;
    let amplification = format!("{:.2} for each user byte", results.write_amplification);
    let written = &results.written;
    line(&mut out, "written", format!("{}, {amplification}", units::bytes(written.total)))?;
    line(&mut out, "  to the log", units::bytes(written.log))?;
    let rest = units::percent(written.segments, results.file_rest_bytes);
    let segments = units::bytes(written.segments);
    line(&mut out, "  to segments", format!("{segments}, {rest} of the file at rest"))?;
    line(&mut out, "  to overflow", units::bytes(written.overflow))?;
    line(&mut out, "  to states", units::bytes(written.states))?;
    line(&mut out, "file, peak", units::bytes(results.file_peak_bytes))?;
    let rest = units::bytes(results.file_rest_bytes);
    line(
        &mut out,
        "file, at rest",
        format!("{rest}, {:.2} for each user byte", results.space_amplification),
    )?;
    line(&mut out, "flushes", units::count(results.flushes))?;
    line(&mut out, "promotions", units::count(results.promotions))?;
    line(&mut out, "durable states", units::count(results.durable_states))?;
    line(&mut out, "stalls", units::count(results.stalls))?;
    line(&mut out, "slowed", units::time(Duration::from_secs_f64(results.slowed_seconds)))?;
    let (hits, all) = (results.cache_hits, results.cache_hits + results.cache_misses);
    line(&mut out, "found in cache", units::percent(hits, all))?;
    if let Some(sound) = results.verified {
        line(&mut out, "verified", if sound { "nothing is wrong" } else { "problems" })?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_numbers_are_gathered_again() {
        for index in (0..1000).chain([u64::MAX, u64::MAX / 3, 1 << 63]) {
            assert_eq!(gather(scatter(index)), index);
        }
    }
}
