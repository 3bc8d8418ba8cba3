//! `get`: the value of a key.

use std::io::Write;
use std::process::ExitCode;

use crate::Outcome;
use crate::args::KeyArguments;
use crate::pairs::JsonPair;
use crate::{database, output, salvage};

pub fn run(arguments: &KeyArguments, json: bool) -> Outcome {
    let key = database::given_key(&arguments.key, arguments.hex)?;
    let (database, keyspace) = database::open_for_reading(&arguments.at)?;
    let Some(mut value) = salvage::find(&keyspace, &key)? else {
        if json {
            output::json(&serde_json::Value::Null)?;
        }
        eprintln!("diag_lsm: there is no such key");
        return Ok(ExitCode::FAILURE);
    };
    if json {
        output::json(&JsonPair::new(&key, Some(&value.bytes()?)))?;
    } else {
        let mut out = output::out();
        value.write_to(&mut out)?;
        writeln!(out)?;
        out.flush()?;
    }
    drop(value);
    database.close()?;
    Ok(ExitCode::SUCCESS)
}
