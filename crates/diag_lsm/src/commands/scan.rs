//! `scan`: the pairs of a range; in JSON an object to a line. Exit status 1 when something could
//! not be read.

use std::io::{self, IsTerminal, Write};

use indicatif::ProgressBar;

use crate::Outcome;
use crate::args::ScanArguments;
use crate::pairs::JsonPair;
use crate::salvage::{self, Found, Walk};
use crate::{database, output, units};

pub fn run(arguments: &ScanArguments, json: bool) -> Outcome {
    let bounds = database::bounds(&arguments.range)?;
    let (database, keyspace, before) = database::open_past_damage(&arguments.range.at)?;
    let walk = Walk {
        path: &arguments.range.at.file,
        keyspace: &keyspace,
        bounds: &bounds,
        reverse: arguments.reverse,
        values: !arguments.keys_only,
    };
    let mut out = output::out();
    let limit = arguments.limit.unwrap_or(usize::MAX);
    // On a terminal the pairs themselves show how far it is.
    let bar = if io::stdout().is_terminal() {
        ProgressBar::hidden()
    } else {
        let expected = || database::expected(&keyspace, &bounds);
        output::progress_towards(|| Some(expected()?.min(limit as u64)), "scanning")
    };
    let mut count = 0;
    let mut visit = |key: &[u8], mut value: Option<Found>| {
        let value = value.as_mut().map(Found::bytes).transpose()?;
        if json {
            serde_json::to_writer(&mut out, &JsonPair::new(key, value.as_deref()))?;
            writeln!(out)?;
        } else {
            match value {
                Some(value) => writeln!(out, "{}\t{}", units::key(key), units::key(&value))?,
                None => writeln!(out, "{}", units::key(key))?,
            }
        }
        count += 1;
        bar.inc(1);
        Ok(count < limit)
    };
    let problems = if limit == 0 { 0 } else { walk.run(&mut visit)? };
    out.flush()?;
    bar.finish_and_clear();
    database.close()?;
    Ok(salvage::status(before + problems))
}
