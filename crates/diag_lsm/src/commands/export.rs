//! `export`: all pairs of a keyspace that can be read, to a folder, a file or standard output. Exit
//! status 1 when some could not. Standard output has the pairs alone, so that `import` can read
//! them from there; how many they were goes to standard error then.
//!
//! *Guarantees*: the database's own file is never written, nor replaced under any of its names.

use std::error::Error;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::Outcome;
use crate::args::{ExportArguments, Form};
use crate::salvage::{self, Found, Walk};
use crate::{database, files, output, pairs, units, usage};

#[derive(Serialize)]
struct Exported {
    entries: u64,
    bytes: u64,
    problems: u64,
}

pub fn run(arguments: &ExportArguments, json: bool) -> Outcome {
    let target = arguments.to.as_deref().filter(|path| *path != Path::new("-"));
    let form = form(arguments, target, json)?;
    let (database, keyspace, before) = database::open_past_damage(&arguments.from)?;
    let mut exported = Exported { entries: 0, bytes: 0, problems: 0 };
    let mut out: Box<dyn Write> = match (form, target) {
        (Form::Folder, Some(folder)) => {
            fs::create_dir_all(folder).map_err(|error| told(folder, &error))?;
            Box::new(io::sink())
        }
        (_, Some(path)) => {
            let file = fs::File::create(path).map_err(|error| told(path, &error))?;
            Box::new(BufWriter::new(file))
        }
        (_, None) => Box::new(output::out()),
    };
    let bounds = (Bound::Unbounded, Bound::Unbounded);
    let expected = || database::expected(&keyspace, &bounds);
    let bar = output::progress_towards(expected, "exporting");
    let path = &arguments.from.file;
    let walk = Walk { path, keyspace: &keyspace, bounds: &bounds, reverse: false, values: true };
    exported.problems = before
        + walk.run(&mut |key, value| {
            let Some(mut value) = value else { return Ok(true) };
            match (form, target) {
                (Form::Folder, Some(folder)) => write_file(path, folder, key, &mut value)?,
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
    let entries = units::count(exported.entries);
    match (json, target) {
        (true, Some(_)) => output::json(&exported)?,
        // Messages may stand beside it: a line can be told from them.
        (true, None) => eprintln!("{}", serde_json::to_string(&exported)?),
        (false, Some(_)) => println!("{entries} pairs, {}", units::bytes(exported.bytes)),
        (false, None) => eprintln!("{entries} pairs, {}", units::bytes(exported.bytes)),
    }
    Ok(salvage::status(exported.problems))
}

/// The form to write, when the arguments make sense together.
fn form(
    arguments: &ExportArguments,
    target: Option<&Path>,
    json: bool,
) -> Result<Form, Box<dyn Error>> {
    let form = arguments.form.or_else(|| target.and_then(super::import::form_of));
    let form = form.unwrap_or(if json && target.is_none() { Form::Jsonl } else { Form::Tsv });
    if form == Form::Folder && target.is_none() {
        return Err(usage::wrong("a folder is needed to export files to"));
    }
    let database = &arguments.from.file;
    let is_itself = match target {
        Some(target) => files::is_same(target, database),
        None => files::is_stream_of(&io::stdout(), database),
    };
    if is_itself {
        return Err(usage::wrong("the target is the database itself, which is not replaced"));
    }
    Ok(form)
}

/// An error with the file that it is about.
fn told(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Writes a file named by a key, which must not lead out of the folder, nor to the database.
fn write_file(
    database: &Path,
    folder: &Path,
    key: &[u8],
    value: &mut Found,
) -> Result<(), Box<dyn Error>> {
    let Some(name) = files::path_of(key) else {
        return Err(format!("the key {:?} is no path of a file", units::key(key)).into());
    };
    let path = folder.join(name);
    if files::is_same(&path, database) {
        let (key, path) = (units::key(key), path.display());
        let why = "the database itself, which is not replaced: export to another folder";
        return Err(format!("the file of the key {key:?} would be {path}, {why}").into());
    }
    let at = |error: io::Error| told(&path, &error);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at)?;
    }
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

/// A new file in the folder of `path`: what is there already, whatever it is, is not opened.
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
