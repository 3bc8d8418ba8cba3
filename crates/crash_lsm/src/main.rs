//! The command `crash_lsm`: runs seeds of the crash harness and says what they found.
//!
//! Exit status: 0 when nothing was found, 1 when something was, 2 for wrong usage.

use std::process::ExitCode;

use clap::Parser;
use crash_lsm::harness::{Plan, Totals, run};

/// Runs random workloads on a simulated disk, cuts its power, and compares what is left.
#[derive(Debug, Parser)]
#[command(name = "crash_lsm")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; `--seeds 1 --from S` replays one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Go on after a finding.
    #[arg(long)]
    keep_going: bool,
    /// Print every step.
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (mut totals, mut findings) = (Totals::default(), 0u64);
    for count in 0..arguments.seeds {
        let seed = arguments.from.wrapping_add(count);
        match run(Plan { trace: arguments.trace, ..Plan::of_seed(seed) }) {
            Ok(run) => totals.add(&run),
            Err(failure) => {
                println!("FOUND {failure}");
                findings += 1;
                if !arguments.keep_going {
                    break;
                }
            }
        }
        if (count + 1).is_multiple_of(100) {
            println!("up to seed {seed}: {totals}");
        }
    }
    println!("{totals}; {findings} findings");
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
