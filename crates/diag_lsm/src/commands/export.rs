//! `export`: all pairs of a keyspace, to a folder, a file or standard output.

use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use serde::Serialize;

use crate::Outcome;
use crate::args::{ExportArguments, Form};
use crate::{database, output, pairs, units};

#[derive(Serialize)]
struct Exported {
    entries: u64,
    bytes: u64,
}

pub fn run(arguments: &ExportArguments, json: bool) -> Outcome {
    let target = arguments.to.as_deref().filter(|path| *path != Path::new("-"));
    let form = arguments.form.or_else(|| target.and_then(super::import::form_of));
    let form = form.unwrap_or(Form::Tsv);
    let (database, keyspace) = database::open_for_reading(&arguments.from)?;
    let mut exported = Exported { entries: 0, bytes: 0 };
    let mut out: Box<dyn Write> = match (form, target) {
        (Form::Folder, None) => return Err("a folder is needed to export files to".into()),
        (Form::Folder, Some(folder)) => {
            fs::create_dir_all(folder)?;
            Box::new(io::sink())
        }
        (_, Some(path)) => Box::new(BufWriter::new(fs::File::create(path)?)),
        (_, None) => Box::new(output::out()),
    };
    let bar = output::progress(keyspace.estimate::<Vec<u8>>(..)?, "exporting");
    for pair in keyspace.iter()? {
        let (key, value) = pair?;
        match (form, target) {
            (Form::Folder, Some(folder)) => write_file(folder, &key, &value)?,
            _ => pairs::write(form, &mut out, &key, &value)?,
        }
        exported.entries += 1;
        exported.bytes += (key.len() + value.len()) as u64;
        bar.inc(1);
    }
    out.flush()?;
    drop(out);
    bar.finish_and_clear();
    database.close()?;
    // Standard output has the pairs.
    let entries = units::count(exported.entries);
    match (json, target) {
        (true, Some(_)) => output::json(&exported)?,
        (false, Some(_)) => println!("{entries} pairs, {}", units::bytes(exported.bytes)),
        (_, None) => eprintln!("{entries} pairs, {}", units::bytes(exported.bytes)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file named by a key, which must not lead out of the folder.
fn write_file(folder: &Path, key: &[u8], value: &[u8]) -> Result<(), Box<dyn Error>> {
    let name = std::str::from_utf8(key).ok().map(PathBuf::from);
    let inside = |path: &PathBuf| {
        path.components().next().is_some()
            && path.components().all(|part| matches!(part, Component::Normal(_)))
    };
    let Some(name) = name.filter(inside) else {
        return Err(format!("the key {:?} is no path of a file", units::key(key)).into());
    };
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, value).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(())
}
