//! `delete`: deletes a key.

use std::process::ExitCode;

use serde_json::json;

use crate::Outcome;
use crate::args::KeyArguments;
use crate::{database, output};

pub fn run(arguments: &KeyArguments, json: bool) -> Outcome {
    let key = database::given_key(&arguments.key, arguments.hex)?;
    let database = database::open(&arguments.at.file, arguments.at.budget)?;
    let keyspace = database.existing_keyspace(&arguments.at.keyspace)?;
    let was_there = keyspace.contains(&key)?;
    if was_there {
        keyspace.delete(&key)?;
    }
    database.close()?;
    if json {
        output::json(&json!({ "was_there": was_there }))?;
    } else {
        println!("{}", if was_there { "deleted" } else { "there was no such key" });
    }
    Ok(ExitCode::SUCCESS)
}
