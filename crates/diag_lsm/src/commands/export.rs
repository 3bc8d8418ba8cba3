//! `export`: all pairs of a keyspace that can be read, to a folder, a file or standard output. Exit
//! status 1 when some could not.

use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

use crate::Outcome;
use crate::args::{ExportArguments, Form};
use crate::salvage::{self, Found, Walk};
use crate::{database, output, pairs, units};

#[derive(Serialize)]
struct Exported {
    entries: u64,
    bytes: u64,
    problems: u64,
}

pub fn run(arguments: &ExportArguments, json: bool) -> Outcome {
    let target = arguments.to.as_deref().filter(|path| *path != Path::new("-"));
    let form = arguments.form.or_else(|| target.and_then(super::import::form_of));
    let form = form.unwrap_or(Form::Tsv);
    let (database, keyspace) = database::open_for_reading(&arguments.from)?;
    let mut exported = Exported { entries: 0, bytes: 0, problems: 0 };
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
    let walk = Walk {
        path: &arguments.from.file,
        keyspace: &keyspace,
        bounds: &(Bound::Unbounded, Bound::Unbounded),
        reverse: false,
        values: true,
    };
    exported.problems = walk.run(&mut |key, value| {
        let Some(mut value) = value else { return Ok(true) };
        match (form, target) {
            (Form::Folder, Some(folder)) => write_file(folder, key, &mut value)?,
            _ => pairs::write(form, &mut out, key, &value.bytes()?)?,
        }
        exported.entries += 1;
        exported.bytes += key.len() as u64 + value.length();
        bar.inc(1);
        Ok(true)
    })?;
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
    Ok(salvage::status(exported.problems))
}

/// Writes a file named by a key, which must not lead out of the folder.
fn write_file(folder: &Path, key: &[u8], value: &mut Found) -> Result<(), Box<dyn Error>> {
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
    let at = |error| format!("{}: {error}", path.display());
    let (part, mut file) = new_beside(&path).map_err(at)?;
    let written = value.write_to(&mut file).map_err(Box::from);
    drop(file);
    let written = written.and_then(|()| Ok(fs::rename(&part, &path).map_err(at)?));
    if written.is_err() {
        // A part of a value is none, and what an earlier export wrote there is better.
        let _ = fs::remove_file(&part);
    }
    written
}

/// A new file in the folder of `path`.
fn new_beside(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut number = 0_u32;
    loop {
        let part = path.with_file_name(format!(".sapwood-{number}.part"));
        match fs::File::create_new(&part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            created => return Ok((part, created?)),
        }
    }
}
