//! `put`: sets the value of a key.

use std::io::Read;
use std::process::ExitCode;

use serde_json::json;

use crate::Outcome;
use crate::args::PutArguments;
use crate::{database, output, units, usage};

pub fn run(arguments: &PutArguments, json: bool) -> Outcome {
    // It is made when it is not there.
    usage::new_name(&arguments.at.keyspace).map_err(usage::wrong)?;
    let key = database::given_key(&arguments.key, arguments.hex)?;
    let value = match &arguments.value {
        Some(value) => database::given(value, arguments.hex)?,
        None => {
            let mut value = Vec::new();
            std::io::stdin().lock().read_to_end(&mut value)?;
            value
        }
    };
    let (database, keyspace) = database::open_for_writing(&arguments.at)?;
    keyspace.put(&key, &value)?;
    database.close()?;
    if json {
        output::json(&json!({ "key_bytes": key.len(), "value_bytes": value.len() }))?;
    } else {
        println!("put a value of {}", units::bytes(value.len() as u64));
    }
    Ok(ExitCode::SUCCESS)
}
