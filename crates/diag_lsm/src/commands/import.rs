//! `import`: pairs from a folder, a file or standard input.
//!
//! *Guarantees*: the database does not read itself, which grows by what is read: as a source alone
//! it is refused, in a folder it is left out, which is told.

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
use crate::{files, pairs, units, usage};

/// A batch is committed at so many pairs, or so many bytes.
const BATCH_PAIRS: usize = 1000;
const BATCH_BYTES: u64 = 1 << 20;

#[derive(Serialize)]
struct Imported {
    entries: u64,
    bytes_in: u64,
    bytes_on_disk: u64,
    seconds: f64,
    /// Names of the database's own file below the folder.
    left_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<Answers>,
}

/// Gathers pairs into batches.
struct Loader<'a> {
    database: &'a Database,
    /// The database's file.
    file: &'a Path,
    keyspace: &'a Keyspace,
    batch: Batch,
    /// Counted here: the batch would look at all of them to tell.
    batch_pairs: usize,
    batch_bytes: u64,
    entries: u64,
    bytes: u64,
    /// Names of the database's own file.
    left_out: Vec<String>,
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
        self.batch_pairs += 1;
        if self.batch_pairs >= BATCH_PAIRS {
            self.commit()?;
        }
        Ok(())
    }

    /// Puts a file, whose content is not taken into memory when it is long. The database's own is
    /// left out.
    fn push_file(
        &mut self,
        key: &[u8],
        path: &Path,
        bar: &ProgressBar,
    ) -> Result<(), Box<dyn Error>> {
        if files::is_same(path, self.file) {
            let name = path.display().to_string();
            bar.suspend(|| {
                eprintln!("diag_lsm: {name} is the database itself, which is left out");
            });
            self.left_out.push(name);
            return Ok(());
        }
        let told = |error: io::Error| format!("{}: {error}", path.display());
        if fs::metadata(path).map_err(told)?.len() <= self.whole_bytes_max {
            let content = fs::read(path).map_err(told)?;
            bar.inc(content.len() as u64);
            return self.push(key, &content);
        }
        self.push_long(key, bar.wrap_read(fs::File::open(path).map_err(told)?))
    }

    /// Puts a value that is too long for a batch, by itself.
    fn push_long(&mut self, key: &[u8], value: impl Read) -> Result<(), Box<dyn Error>> {
        self.commit()?;
        let bytes = self.keyspace.put_stream(key, value)?;
        self.bytes += key.len() as u64 + bytes;
        self.entries += 1;
        Ok(())
    }

    fn commit(&mut self) -> sapwood::Result<()> {
        let batch = std::mem::replace(&mut self.batch, self.database.batch());
        (self.batch_pairs, self.batch_bytes) = (0, 0);
        // All of it is put on disk at the end.
        batch.commit_with(Durability::Buffered)
    }
}

/// Where pairs come from.
#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    File(Form, fs::File),
    Input(Form),
}

impl Source {
    /// The source of these arguments for a database, when they make sense together.
    fn open(
        form: Option<Form>,
        path: Option<&Path>,
        database: &Path,
    ) -> Result<Source, Box<dyn Error>> {
        let form = form
            .or_else(|| path.and_then(form_of))
            .ok_or_else(|| usage::wrong("--form is needed: folder, lines, tsv, csv or jsonl"));
        let itself = || usage::wrong("the source is the database itself, which is no such text");
        let Some(path) = path else {
            return match form? {
                Form::Folder => Err(usage::wrong("a folder is needed to import files from")),
                _ if files::is_stream_of(&io::stdin(), database) => Err(itself()),
                form => Ok(Source::Input(form)),
            };
        };
        let at = |error| format!("{}: {error}", path.display());
        let is_folder = fs::metadata(path).map_err(at)?.is_dir();
        match form? {
            Form::Folder if is_folder => Ok(Source::Folder(path.to_owned())),
            Form::Folder => Err(usage::wrong(format!("{} is no folder", path.display()))),
            _ if is_folder => {
                let path = path.display();
                Err(usage::wrong(format!("{path} is a folder, which --form folder reads")))
            }
            _ if files::is_same(path, database) => Err(itself()),
            form => Ok(Source::File(form, fs::File::open(path).map_err(at)?)),
        }
    }

    /// How much there is to read; `None` when that is not known.
    fn bytes(&self) -> Option<u64> {
        match self {
            Source::Folder(folder) => files::bytes_below(folder),
            Source::File(_, file) => file.metadata().ok().map(|metadata| metadata.len()),
            Source::Input(_) => None,
        }
    }

    /// Loads all pairs; the bar is told the bytes that were read.
    fn read(self, loader: &mut Loader<'_>, bar: &ProgressBar) -> Result<(), Box<dyn Error>> {
        match self {
            Source::Folder(folder) => {
                files::each_below(&folder, &mut |key, path| loader.push_file(key, path, bar))
            }
            Source::File(form, file) => {
                let mut input = BufReader::new(bar.wrap_read(file));
                pairs::read(form, &mut input, &mut |key, value| loader.push(key, value))
            }
            Source::Input(form) => {
                let mut input = io::stdin().lock();
                pairs::read(form, &mut input, &mut |key, value| loader.push(key, value))
            }
        }
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
    let to = &arguments.to;
    // It is made when it is not there.
    usage::new_name(&to.keyspace).map_err(usage::wrong)?;
    let sources = arguments.cargo_sources.then(cargo_sources::folder).transpose()?;
    let given = arguments.from.as_deref().filter(|path| *path != Path::new("-"));
    let source = Source::open(arguments.form, sources.as_deref().or(given), &to.file)?;
    let database = Database::builder().memory_budget(to.budget << 20).open(&to.file)?;
    let keyspace = database.keyspace(&to.keyspace)?;
    let mut loader = Loader {
        database: &database,
        file: &to.file,
        keyspace: &keyspace,
        batch: database.batch(),
        batch_pairs: 0,
        batch_bytes: 0,
        entries: 0,
        bytes: 0,
        left_out: Vec::new(),
        // A batch may have a quarter of the budget.
        whole_bytes_max: (to.budget << 20) / 8,
    };
    let bar = output::progress_towards(|| source.bytes(), "importing");
    source.read(&mut loader, &bar)?;
    loader.commit()?;
    bar.finish_and_clear();
    let (entries, bytes_in) = (loader.entries, loader.bytes);
    let left_out = std::mem::take(&mut loader.left_out);
    drop(loader);
    drop(keyspace);
    database.flush()?;
    database.close()?;
    let bytes_on_disk = fs::metadata(&to.file)?.len();
    let seconds = began.elapsed().as_secs_f64();
    let answers = sources.map(|_| cargo_sources::ask(to)).transpose()?;
    let imported = Imported { entries, bytes_in, bytes_on_disk, seconds, left_out, answers };
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
