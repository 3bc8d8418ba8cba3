//! `scan`: the pairs of a range; in JSON an object to a line.

use std::io::Write;
use std::process::ExitCode;

use sapwood::{Key, Value};

use crate::Outcome;
use crate::args::ScanArguments;
use crate::pairs::JsonPair;
use crate::{database, output, units};

pub fn run(arguments: &ScanArguments, json: bool) -> Outcome {
    let bounds = database::bounds(&arguments.range)?;
    let (database, keyspace) = database::open_for_reading(&arguments.range.at)?;
    let mut range = keyspace.range::<Vec<u8>>(bounds)?;
    let mut out = output::out();
    for _ in 0..arguments.limit.unwrap_or(usize::MAX) {
        let next = if arguments.reverse { range.next_back() } else { range.next() };
        let Some(pair) = next else { break };
        let (key, value): (Key, Value) = pair?;
        let value = (!arguments.keys_only).then_some(&*value);
        if json {
            serde_json::to_writer(&mut out, &JsonPair::new(&key, value))?;
            writeln!(out)?;
        } else {
            match value {
                Some(value) => writeln!(out, "{}\t{}", units::key(&key), units::key(value))?,
                None => writeln!(out, "{}", units::key(&key))?,
            }
        }
    }
    out.flush()?;
    drop(range);
    database.close()?;
    Ok(ExitCode::SUCCESS)
}
