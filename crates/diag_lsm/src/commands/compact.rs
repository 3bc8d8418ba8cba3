//! `compact`: everything into one segment for each keyspace.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use crate::Outcome;
use crate::{database, output, units};

#[derive(Serialize)]
struct Compacted {
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
}

pub fn run(path: &Path, json: bool) -> Outcome {
    let bytes_before = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let began = Instant::now();
    let database = database::open(path, 256)?;
    database.flush()?;
    database.compact()?;
    database.close()?;
    let took = began.elapsed();
    let bytes_after = std::fs::metadata(path)?.len();
    if json {
        output::json(&Compacted { bytes_before, bytes_after, seconds: took.as_secs_f64() })?;
    } else {
        let (before, after) = (units::bytes(bytes_before), units::bytes(bytes_after));
        println!("{before} before, {after} after, in {}", units::time(took));
    }
    Ok(ExitCode::SUCCESS)
}
