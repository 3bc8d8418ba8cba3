//! `create`: a new database.

use std::process::ExitCode;

use sapwood::{Compression, Database, KeyspaceOptions};
use serde::Serialize;

use crate::Outcome;
use crate::args::CreateArguments;
use crate::{output, units};

#[derive(Serialize)]
struct Created {
    file: String,
    bytes: u64,
    page_size: u32,
    keyspaces: Vec<String>,
}

pub fn run(arguments: &CreateArguments, json: bool) -> Outcome {
    let path = &arguments.file;
    if path.exists() && std::fs::metadata(path)?.len() > 0 {
        return Err(format!("{} exists already", path.display()).into());
    }
    let database = Database::builder()
        .page_size(arguments.page_size)
        .reserved_bytes(arguments.reserved_bytes)
        .open(path)?;
    let compression = match arguments.compression {
        0 => Compression::None,
        level => Compression::Zstd(level),
    };
    let options = KeyspaceOptions::default()
        .compression(compression)
        .value_compression(compression)
        .filter_bits(arguments.filter_bits);
    for name in &arguments.keyspace {
        database.keyspace_with(name, options)?;
    }
    database.close()?;
    let created = Created {
        file: path.display().to_string(),
        bytes: std::fs::metadata(path)?.len(),
        page_size: arguments.page_size,
        keyspaces: arguments.keyspace.clone(),
    };
    if json {
        output::json(&created)?;
    } else {
        let keyspaces = created.keyspaces.join(", ");
        println!("made {} ({}), keyspaces: {keyspaces}", created.file, units::bytes(created.bytes));
    }
    Ok(ExitCode::SUCCESS)
}
