//! Sapwood beside its peers: the same pairs, the same durability, the same memory, in turn.
//!
//! `benches quick` runs every workload on every engine, several rounds, and prints medians. Each
//! measurement is a process of its own, so that no engine inherits another's heap or threads.
//!
//! Whatever an engine's documents recommend for a workload is set in its adapter, in `engines`;
//! calls for bulk loading that only some of them have are not used.

// Here time is what is measured: the fake clock of the engine would be in the way.
#![allow(clippy::disallowed_methods)]

mod compare;
mod engines;
#[cfg(feature = "sapwood")]
mod limits;
mod pairs;
#[cfg(feature = "sapwood")]
mod plot;
mod report;
#[cfg(feature = "sapwood")]
mod steady;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

/// Any failure ends a measurement: there is nothing to go on with.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(name = "benches", about = "Sapwood beside its peers", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every workload on every engine, several rounds, interleaved.
    Quick(Quick),
    /// Sapwood alone, at its limits: queues, range deletes, streams, large transactions.
    #[cfg(feature = "sapwood")]
    Limits(limits::Limits),
    /// Sapwood alone, written to for an hour at nine tenths of what it sustains.
    #[cfg(feature = "sapwood")]
    Steady(steady::Steady),
    /// One workload on one engine, in this process; the result goes to stdout as JSON.
    #[command(hide = true)]
    One(workload::One),
}

/// The sizes that parent and child must agree on.
#[derive(Args, Clone, Debug, Serialize)]
pub struct Sizes {
    /// Pairs in each loaded database.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Point reads in each read workload.
    #[arg(long, default_value_t = 500_000)]
    reads: u64,
    /// Durable commits in each commit workload.
    #[arg(long, default_value_t = 1_000)]
    commits: u64,
    /// Memory budget of each engine, in MiB. LMDB has none: it uses the system's page cache.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
}

#[derive(Args)]
struct Quick {
    #[command(flatten)]
    sizes: Sizes,
    /// The engines, separated by commas. [default: all that were compiled in]
    #[arg(long, value_delimiter = ',')]
    engines: Vec<engines::Name>,
    /// The workloads, separated by commas; what they read is loaded in any case. [default: all]
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<workload::Workload>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Where the databases are put: the device there is what is measured. They are removed.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Prints the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Quick(quick) => run_quick(&quick),
        #[cfg(feature = "sapwood")]
        Command::Limits(limits) => limits::run(&limits),
        #[cfg(feature = "sapwood")]
        Command::Steady(steady) => steady::run(&steady),
        Command::One(one) => workload::run_and_print(&one),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_quick(quick: &Quick) -> Outcome<()> {
    let engines =
        if quick.engines.is_empty() { engines::compiled() } else { quick.engines.clone() };
    let plan = compare::Plan {
        sizes: quick.sizes.clone(),
        engines,
        workloads: quick.workloads.clone(),
        rounds: quick.rounds,
        dir: quick.dir.clone(),
    };
    let rows = report::rows(&compare::run(&plan)?, &plan.engines);
    if quick.json {
        println!("{}", report::json(&plan, &rows)?);
    } else {
        print!("{}", report::table(&plan, &rows));
    }
    Ok(())
}
