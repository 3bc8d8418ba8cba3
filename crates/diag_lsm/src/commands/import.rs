//! `import`: pairs from a folder, a file or standard input.

use std::error::Error;
use std::fs;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use sapwood::{Batch, Database, Durability, Keyspace};
use serde::Serialize;

use crate::Outcome;
use crate::args::{Form, ImportArguments};
use crate::commands::cargo_sources::{self, Answers};
use crate::output::{self, line};
use crate::{pairs, units};

/// A batch is committed at so many pairs, or so many bytes.
const BATCH_PAIRS: usize = 1000;
const BATCH_BYTES: u64 = 1 << 20;

#[derive(Serialize)]
struct Imported {
    entries: u64,
    bytes_in: u64,
    bytes_on_disk: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Answers>,
}

/// Gathers pairs into batches.
struct Loader<'a> {
    database: &'a Database,
    keyspace: &'a Keyspace,
    batch: Batch,
    batch_bytes: u64,
    entries: u64,
    bytes: u64,
    bar: ProgressBar,
    /// Longer values are put as streams.
    whole_bytes_max: u64,
}

impl Loader<'_> {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), Box<dyn Error>> {
        if value.len() as u64 > self.whole_bytes_max {
            return self.push_long(key, value);
        }
        let bytes = (key.len() + value.len()) as u64;
        // One that does not fit goes alone.
        if self.batch_bytes + bytes > BATCH_BYTES {
            self.commit()?;
        }
        self.batch.put(self.keyspace, key, value)?;
        self.batch_bytes += bytes;
        self.bytes += bytes;
        self.entries += 1;
        if self.batch.len() >= BATCH_PAIRS {
            self.commit()?;
        }
        Ok(())
    }

    /// Puts a file, whose content is not taken into memory when it is long.
    fn push_file(&mut self, key: &[u8], path: &Path) -> Result<(), Box<dyn Error>> {
        let told = |error: io::Error| format!("{}: {error}", path.display());
        if fs::metadata(path).map_err(told)?.len() <= self.whole_bytes_max {
            return self.push(key, &fs::read(path).map_err(told)?);
        }
        self.push_long(key, fs::File::open(path).map_err(told)?)
    }

    /// Puts a value that is too long for a batch, by itself.
    fn push_long(&mut self, key: &[u8], value: impl Read) -> Result<(), Box<dyn Error>> {
        self.commit()?;
        let bytes = self.keyspace.put_stream(key, value)?;
        self.bytes += key.len() as u64 + bytes;
        self.entries += 1;
        self.bar.set_position(self.bytes);
        Ok(())
    }

    fn commit(&mut self) -> sapwood::Result<()> {
        let batch = std::mem::replace(&mut self.batch, self.database.batch());
        self.batch_bytes = 0;
        self.bar.set_position(self.bytes);
        // All of it is put on disk at the end.
        batch.commit_with(Durability::Buffered)
    }
}

/// The form that a name tells.
pub fn form_of(path: &Path) -> Option<Form> {
    if path.is_dir() {
        return Some(Form::Folder);
    }
    match path.extension()?.to_str()? {
        "tsv" => Some(Form::Tsv),
        "csv" => Some(Form::Csv),
        "jsonl" | "ndjson" => Some(Form::Jsonl),
        "txt" => Some(Form::Lines),
        _ => None,
    }
}

pub fn run(arguments: &ImportArguments, json: bool) -> Outcome {
    let began = Instant::now();
    let sources = arguments.cargo_sources.then(cargo_sources::folder).transpose()?;
    let given = arguments.from.as_deref().filter(|path| *path != Path::new("-"));
    let source = sources.as_deref().or(given);
    let form = arguments.form.or_else(|| source.and_then(form_of));
    let form = form.ok_or("--form is needed: folder, lines, tsv, csv or jsonl")?;
    let total = match (form, source) {
        (Form::Folder, Some(path)) if !path.is_dir() => {
            return Err(format!("{} is no folder", path.display()).into());
        }
        (_, Some(path)) => {
            let metadata = fs::metadata(path);
            metadata.map_err(|error| format!("{}: {error}", path.display()))?.len()
        }
        (_, None) => 0,
    };
    let to = &arguments.to;
    let database = Database::builder().memory_budget(to.budget << 20).open(&to.file)?;
    let keyspace = database.keyspace(&to.keyspace)?;
    let mut loader = Loader {
        database: &database,
        keyspace: &keyspace,
        batch: database.batch(),
        batch_bytes: 0,
        entries: 0,
        bytes: 0,
        bar: output::progress(total, "importing"),
        // A batch may have a quarter of the budget.
        whole_bytes_max: (to.budget << 20) / 8,
    };
    match (form, source) {
        (Form::Folder, Some(folder)) => folder_files(&mut loader, folder)?,
        (Form::Folder, None) => return Err("a folder is needed to import files from".into()),
        (_, Some(path)) => {
            let mut input = BufReader::new(fs::File::open(path)?);
            pairs::read(form, &mut input, &mut |key, value| loader.push(key, value))?;
        }
        (_, None) => {
            let mut input = io::stdin().lock();
            pairs::read(form, &mut input, &mut |key, value| loader.push(key, value))?;
        }
    }
    loader.commit()?;
    loader.bar.finish_and_clear();
    let (entries, bytes_in) = (loader.entries, loader.bytes);
    drop(loader);
    drop(keyspace);
    database.flush()?;
    database.close()?;
    let bytes_on_disk = fs::metadata(&to.file)?.len();
    let seconds = began.elapsed().as_secs_f64();
    let answers = sources.map(|_| cargo_sources::ask(to)).transpose()?;
    let imported = Imported { entries, bytes_in, bytes_on_disk, seconds, answers };
    if json {
        output::json(&imported)?;
    } else {
        print(&imported, &to.file)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(imported: &Imported, path: &Path) -> io::Result<()> {
    let mut out = output::out();
    line(&mut out, "entries", units::count(imported.entries))?;
    line(&mut out, "bytes in", units::bytes(imported.bytes_in))?;
    line(&mut out, "bytes on disk", units::bytes(imported.bytes_on_disk))?;
    line(&mut out, "time", units::time(Duration::from_secs_f64(imported.seconds)))?;
    if let Some(answers) = &imported.answers {
        cargo_sources::print(&mut out, answers)?;
    }
    let file = path.display();
    line(&mut out, "next", format!("diag_lsm scan {file} --limit 10; diag_lsm info {file}"))
}

/// Every regular file below a folder: its path there, with slashes, is the key.
fn folder_files(loader: &mut Loader<'_>, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut waiting: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        let mut entries = fs::read_dir(&next)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Links are not followed: they may lead in a circle.
            let kind = entry.file_type()?;
            let path = entry.path();
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(folder)?;
                let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
                loader.push_file(parts.join("/").as_bytes(), &path)?;
            }
        }
    }
    Ok(())
}
