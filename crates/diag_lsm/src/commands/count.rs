//! `count`: the keys of a range.

use std::process::ExitCode;

use serde_json::json;

use crate::Outcome;
use crate::args::RangeArguments;
use crate::{database, output, units};

pub fn run(arguments: &RangeArguments, json: bool) -> Outcome {
    let bounds = database::bounds(arguments)?;
    let (database, keyspace) = database::open_for_reading(&arguments.at)?;
    let count = keyspace.count::<Vec<u8>>(bounds)?;
    database.close()?;
    if json {
        output::json(&json!({ "count": count }))?;
    } else {
        println!("{}", units::count(count));
    }
    Ok(ExitCode::SUCCESS)
}
