//! `compact`: everything, or a range, into one segment for each keyspace; or into a new file.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use indicatif::ProgressBar;
use sapwood::Database;
use serde::Serialize;

use crate::Outcome;
use crate::args::CompactArguments;
use crate::database::KeyBounds;
use crate::{database, output, units};

#[derive(Serialize)]
struct Compacted {
    bytes_before: u64,
    bytes_after: u64,
    seconds: f64,
}

fn length(path: &Path) -> std::io::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

pub fn run(arguments: &CompactArguments, json: bool) -> Outcome {
    let path = &arguments.file;
    let CompactArguments { start, end, prefix, hex, .. } = arguments;
    let (start, end) = (start.as_deref(), end.as_deref());
    let bounds = database::bounds_of(start, end, prefix.as_deref(), *hex)?;
    let bytes_before = length(path).unwrap_or(0);
    let began = Instant::now();
    // What is copied is left as it is, log and all; readers may have it open meanwhile.
    let database = match &arguments.to {
        Some(_) => database::open_read_only(path, arguments.budget)?,
        None => database::open(path, arguments.budget)?,
    };
    let bar = output::progress(0, "compacting");
    compact(&database, arguments, bounds, &bar)?;
    bar.finish_and_clear();
    database.close()?;
    let took = began.elapsed();
    let bytes_after = length(arguments.to.as_ref().unwrap_or(path))?;
    if json {
        output::json(&Compacted { bytes_before, bytes_after, seconds: took.as_secs_f64() })?;
    } else {
        let (before, after) = (units::bytes(bytes_before), units::bytes(bytes_after));
        println!("{before} before, {after} after, in {}", units::time(took));
    }
    Ok(ExitCode::SUCCESS)
}

fn compact(
    database: &Database,
    arguments: &CompactArguments,
    bounds: KeyBounds,
    bar: &ProgressBar,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut progress = |done: u64, total: u64| {
        bar.set_length(total);
        bar.set_position(done);
        true
    };
    if let Some(to) = &arguments.to {
        return Ok(database.compact_to(to, &mut progress)?);
    }
    let Some(name) = &arguments.keyspace else {
        return Ok(database.compact_with(&mut progress)?);
    };
    let keyspace = database.existing_keyspace(name)?;
    Ok(keyspace.compact::<Vec<u8>>(bounds, &mut progress)?)
}
