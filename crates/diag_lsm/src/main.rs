//! `diag_lsm`: looks inside a Sapwood database file, loads it, checks it and measures it.
//!
//! *Guarantees*: `info`, `segments`, `tree`, `page`, `space`, `log` and `verify` read the last
//! durable state, without the lock; `get`, `scan`, `count`, `export` and `compact --to` open the
//! file read-only, with the shared lock, so that they are refused beside a process that writes it.
//! None of these writes to it; but for `compact --to`, and `get` where the log is damaged, they go
//! past what cannot be read, and say so.
//! Exit status 0: done; 1: an error, something could not be read, or `verify` found something;
//! 2: wrong usage, of which nothing was opened or made.

// The tool reads other files than databases, and measures time; the library does neither.
#![allow(clippy::disallowed_methods)]

mod args;
mod commands;
mod database;
mod file;
mod files;
mod output;
mod pairs;
mod salvage;
mod shape;
mod told;
mod units;
mod usage;
mod whole;

use std::process::ExitCode;

use clap::Parser;

/// The exit status of wrong usage: the one that what parses the arguments has too.
const WRONG_USAGE: u8 = 2;

/// What a command gives: its exit status, or a message.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    match commands::run(&arguments) {
        Ok(status) => status,
        // Whoever reads our output has seen enough.
        Err(error) if output::is_broken_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("diag_lsm: {}", told::text(&*error));
            let is_usage = error.is::<usage::WrongUsage>();
            if is_usage { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}
