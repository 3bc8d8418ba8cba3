//! The command `crash_lsm`: runs seeds of the crash harness and says what they found; kills real
//! processes; measures what an open costs.
//!
//! Exit status: 0 when nothing was found, 1 when something was, 2 for wrong usage.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use crash_lsm::full::{self, FullRound};
use crash_lsm::harness::{Plan, Totals, run};
use crash_lsm::kill::{self, KillTotals};
use crash_lsm::opening::{self, LongLog, Opened};
use sapwood::sync::Clock;
use serde::Serialize;

/// Runs random workloads on a simulated disk, cuts its power, and compares what is left.
#[derive(Debug, Parser)]
#[command(name = "crash_lsm", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    seeds: Seeds,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills a real process in the middle of its commits, reopens, compares; round after round.
    Kill(Kill),
    /// Fills a file system until writes fail, kills, opens, deletes, fills again, in rounds.
    Full(Full),
    /// The process that `full` kills.
    #[command(hide = true)]
    FullTarget { file: PathBuf, round: u64, seed: u64 },
    /// Measures what an open reads and how long it takes, after a clean close and after a kill.
    Open(Open),
    /// The process that `kill` kills.
    #[command(hide = true)]
    KillTarget { file: PathBuf, threads: u64, seed: u64 },
    /// The process that `open` kills.
    #[command(hide = true)]
    LogTarget { file: PathBuf, log_bytes: u64, value_bytes: u64, batch: u64 },
}

#[derive(Debug, Args)]
struct Seeds {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; `--seeds 1 --from S` replays one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run until so many power cuts were made, a third of them after a kill, a reopen and one
    /// synced commit; in runs of several short lives.
    #[arg(long, conflicts_with = "seeds")]
    cuts: Option<u64>,
    /// With --cuts: only the run of the first seed.
    #[arg(long, requires = "cuts")]
    once: bool,
    /// Go on after a finding.
    #[arg(long)]
    keep_going: bool,
    /// Print every step.
    #[arg(long)]
    trace: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Kill {
    /// How often a process is killed.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Threads that commit.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// What commits and times follow from.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The database file, which must not be there, and is removed when nothing was found.
    #[arg(long, default_value = "target/crash_lsm kill.db")]
    file: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Full {
    /// How often it is filled.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// What is written follows from it.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A folder on a small file system, all of which is filled.
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Open {
    /// Numbers of pairs to open after a clean close, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1000000,10000000")]
    pairs: Vec<u64>,
    /// Lengths of the log, in MiB, to open after a kill, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "200,800")]
    log_mib: Vec<u64>,
    /// Folder of the files; they are removed.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        None => run_seeds(&arguments.seeds),
        Some(Command::Kill(kill)) => run_kills(&kill),
        Some(Command::Full(full)) => run_full(&full),
        Some(Command::FullTarget { file, round, seed }) => {
            full::fill_and_park(&file, round, seed).map(|()| true)
        }
        Some(Command::Open(open)) => run_opens(&open),
        Some(Command::KillTarget { file, threads, seed }) => {
            kill::commit_for_ever(&file, threads, seed).map(|()| true).map_err(text)
        }
        Some(Command::LogTarget { file, log_bytes, value_bytes, batch }) => {
            opening::fill_log(&file, log_bytes, value_bytes, batch).map(|()| true).map_err(text)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("crash_lsm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// What seeds gave.
#[derive(Debug, Serialize)]
struct SeedReport {
    #[serde(flatten)]
    totals: Totals,
    first_seed: u64,
    last_seed: u64,
    seconds: f64,
    findings: Vec<String>,
}

/// True when nothing was found.
fn run_seeds(arguments: &Seeds) -> Result<bool, String> {
    let clock = Clock::real();
    let mut progress = Progress::new(&clock);
    let mut totals = Totals::default();
    let (mut findings, mut seed) = (Vec::new(), arguments.from);
    loop {
        let plan = match arguments.cuts {
            Some(_) => Plan::of_cuts(seed),
            None => Plan::of_seed(seed),
        };
        match run(Plan { trace: arguments.trace, ..plan }) {
            Ok(run) => totals.add(&run),
            Err(failure) => {
                eprintln!("FOUND {failure}");
                findings.push(failure.to_string());
            }
        }
        let ran = seed.wrapping_sub(arguments.from) + 1;
        let is_done = match arguments.cuts {
            Some(_) if arguments.once => true,
            Some(cuts) => totals.has_cuts(cuts),
            None => ran >= arguments.seeds,
        };
        if is_done || (!findings.is_empty() && !arguments.keep_going) {
            break;
        }
        progress.show(&|| format!("{ran} runs, {} power cuts", totals.power_cuts));
        seed = seed.wrapping_add(1);
    }
    progress.end();
    let seconds = clock.now().as_secs_f64();
    let first_seed = arguments.from;
    let report = SeedReport { totals, first_seed, last_seed: seed, seconds, findings };
    if arguments.json {
        print_json(&report)?;
    } else {
        let mut lines: Vec<_> =
            totals.counts().map(|(name, count)| (name, count.to_string())).to_vec();
        lines.push(("seeds", format!("{first_seed} to {seed}")));
        lines.push(("time", format!("{seconds:.1} s")));
        lines.push(("findings", report.findings.len().to_string()));
        print_lines(&lines)?;
    }
    Ok(report.findings.is_empty())
}

/// What kills gave.
#[derive(Debug, Serialize)]
struct KillReport {
    #[serde(flatten)]
    totals: KillTotals,
    threads: u64,
    seed: u64,
    seconds: f64,
    findings: Vec<String>,
}

fn run_kills(arguments: &Kill) -> Result<bool, String> {
    if arguments.file.exists() {
        return Err(format!("{} is there already", arguments.file.display()));
    }
    let clock = Clock::real();
    let plan = kill::Plan {
        program: std::env::current_exe().map_err(text)?,
        arguments: vec!["kill-target".to_owned()],
        file: arguments.file.clone(),
        rounds: arguments.rounds,
        threads: arguments.threads,
        seed: arguments.seed,
    };
    let mut progress = Progress::new(&clock);
    let mut totals = KillTotals::default();
    let outcome = kill::run(&plan, &mut |so_far| {
        totals = *so_far;
        progress.show(&|| format!("{} of {} rounds", so_far.rounds, plan.rounds));
    });
    progress.end();
    let seconds = clock.now().as_secs_f64();
    let findings: Vec<String> = outcome.err().into_iter().collect();
    for finding in &findings {
        eprintln!("FOUND {finding}; the file is {}", plan.file.display());
    }
    if findings.is_empty() {
        std::fs::remove_file(&plan.file).map_err(text)?;
    }
    let (threads, seed) = (plan.threads, plan.seed);
    let report = KillReport { totals, threads, seed, seconds, findings };
    if arguments.json {
        print_json(&report)?;
    } else {
        let mut lines: Vec<_> =
            totals.counts().map(|(name, count)| (name, count.to_string())).to_vec();
        lines.push(("threads", threads.to_string()));
        lines.push(("seed", seed.to_string()));
        lines.push(("time", format!("{seconds:.1} s")));
        lines.push(("findings", report.findings.len().to_string()));
        print_lines(&lines)?;
    }
    Ok(report.findings.is_empty())
}

/// True when nothing was found.
fn run_full(arguments: &Full) -> Result<bool, String> {
    let file = arguments.dir.join("crash_lsm full.db");
    if file.exists() {
        return Err(format!("{} is there already", file.display()));
    }
    let plan = full::Plan {
        program: std::env::current_exe().map_err(text)?,
        arguments: vec!["full-target".to_owned()],
        file,
        rounds: arguments.rounds,
        seed: arguments.seed,
    };
    let mut rounds = Vec::new();
    if !arguments.json {
        println!(
            "round  moment                file MiB  data MiB   pairs  deleted  held  again MiB  \
                ms  slowest  stalled"
        );
    }
    let outcome = full::run(&plan, &mut |shown: &FullRound| {
        rounds.push(shown.clone());
        if !arguments.json {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (file, data) = (mib(shown.file_bytes), mib(shown.data_bytes));
            let again = mib(shown.again_bytes);
            let FullRound { round, moment, pairs, deleted, held, milliseconds, .. } = shown;
            let FullRound { slowest_deletion: slowest, stalled, .. } = shown;
            let mut out = io::stdout().lock();
            writeln!(
                out,
                "{round:>5}  {moment:<20}  {file:>8.1}  {data:>8.1}  {pairs:>6}  {deleted:>7}  \
                 {held:>4}  {again:>9.1}  {milliseconds:>5}  {slowest:>7}  {stalled:>7}"
            )
            .map_err(text)?;
        }
        Ok(())
    });
    match &outcome {
        Ok(()) => std::fs::remove_file(&plan.file).map_err(text)?,
        Err(finding) => eprintln!("FOUND {finding}; the file is {}", plan.file.display()),
    }
    if arguments.json {
        print_json(&rounds)?;
    }
    Ok(outcome.is_ok())
}

/// Bytes of a value and pairs a commit, of which logs consist.
const LOGS: [(u64, u64); 4] = [(100, 1), (100, 100), (8, 100), (1000, 1)];

fn run_opens(arguments: &Open) -> Result<bool, String> {
    let clock = Clock::real();
    let mut progress = Progress::new(&clock);
    let mut all = Vec::new();
    for &pairs in &arguments.pairs {
        let file = fresh(arguments, "close")?;
        let opened = opening::after_close(&file, pairs, 100, &mut |loaded| {
            progress.show(&|| format!("{loaded} of {pairs} pairs"));
        });
        std::fs::remove_file(&file).map_err(text)?;
        all.push(opened?);
    }
    for &log_mib in &arguments.log_mib {
        for (value_bytes, batch) in LOGS {
            progress.show(&|| format!("a log of {log_mib} MiB, values of {value_bytes} bytes"));
            let file = fresh(arguments, "kill")?;
            let log = LongLog {
                program: std::env::current_exe().map_err(text)?,
                arguments: vec!["log-target".to_owned()],
                log_bytes: log_mib << 20,
                value_bytes,
                batch,
            };
            let opened = opening::after_kill(&file, &log);
            std::fs::remove_file(&file).map_err(text)?;
            all.push(opened?);
        }
    }
    progress.end();
    if arguments.json {
        print_json(&all)?;
    } else {
        print_opens(&all)?;
    }
    Ok(!all.iter().any(Opened::is_wrong))
}

fn fresh(arguments: &Open, name: &str) -> Result<PathBuf, String> {
    let file = arguments.dir.join(format!("crash_lsm open {name}.db"));
    match file.exists() {
        true => Err(format!("{} is there already", file.display())),
        false => Ok(file),
    }
}

fn print_opens(all: &[Opened]) -> Result<(), String> {
    let ms = |microseconds: u64| format!("{:.2}", microseconds as f64 / 1000.0);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let heads = "pairs|value|a commit|file MiB|log MiB|reads|read KiB|writes|ms|processor ms|\
        at most|ns a pair";
    let mut rows = vec![heads.split('|').map(str::to_owned).collect::<Vec<_>>()];
    for opened in all {
        let after_kill = opened.microseconds_max.is_some();
        let or_none = |shown: String| if after_kill { shown } else { "-".to_owned() };
        let processor = opened.processor_microseconds;
        let taken = processor.unwrap_or(opened.microseconds);
        let nanoseconds = taken as f64 * 1000.0 / opened.pairs.max(1) as f64;
        rows.push(vec![
            opened.pairs.to_string(),
            opened.value_bytes.to_string(),
            or_none(opened.pairs_a_commit.to_string()),
            mib(opened.file_bytes),
            mib(opened.log_bytes),
            opened.open.reads.to_string(),
            (opened.open.read_bytes >> 10).to_string(),
            opened.open.writes.to_string(),
            ms(opened.microseconds),
            processor.map_or("-".to_owned(), ms),
            opened.microseconds_max.map_or("-".to_owned(), |most| (most / 1000).to_string()),
            or_none(format!("{nanoseconds:.0}")),
        ]);
    }
    let mut out = io::stdout().lock();
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len))
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(String::len).max())
        .map(Option::unwrap_or_default)
        .collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ")).map_err(text)?;
    }
    writeln!(out, "reads, writes, time: of the open alone, the least of five, from the cache")
        .map_err(text)
}

/// Names and what belongs to them, in two columns.
fn print_lines(lines: &[(&str, String)]) -> Result<(), String> {
    let name_width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let width = lines.iter().map(|(_, shown)| shown.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for (name, shown) in lines {
        writeln!(out, "{name:<name_width$}  {shown:>width$}").map_err(text)?;
    }
    Ok(())
}

fn print_json(report: &impl Serialize) -> Result<(), String> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report).map_err(text)?;
    writeln!(out).map_err(text)
}

/// A line on the standard error that says how far a long work has come: twice a second on a
/// terminal, every ten seconds elsewhere.
struct Progress<'a> {
    clock: &'a Clock,
    shown_at: Duration,
    is_terminal: bool,
}

impl<'a> Progress<'a> {
    fn new(clock: &'a Clock) -> Progress<'a> {
        Progress { clock, shown_at: clock.now(), is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, line: &dyn Fn() -> String) {
        let pause = Duration::from_millis(if self.is_terminal { 500 } else { 10_000 });
        if self.clock.now() - self.shown_at < pause {
            return;
        }
        self.shown_at = self.clock.now();
        let (before, after) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{before}{}{after}", line());
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
