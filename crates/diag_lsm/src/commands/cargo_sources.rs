//! `import --cargo-sources`: data that every machine has which built this, and questions to it.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sapwood::{Database, Seek};
use serde::Serialize;

use crate::args::KeyspaceArguments;
use crate::output::line;
use crate::units;

/// What was asked, and how long the answers took.
#[derive(Serialize)]
pub struct Answers {
    packages: u64,
    packages_seconds: f64,
    rust_files: u64,
    rust_files_seconds: f64,
    largest_file: String,
    largest_bytes: u64,
    reads: u64,
    reads_seconds: f64,
}

/// Where Cargo keeps the sources that it has fetched.
pub fn folder() -> Result<PathBuf, Box<dyn Error>> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let folder = home.ok_or("there is no home folder")?.join("registry").join("src");
    if !folder.is_dir() {
        return Err(format!("{} is no folder; run `cargo fetch` first", folder.display()).into());
    }
    Ok(folder)
}

/// Opens the database again, and asks.
pub fn ask(at: &KeyspaceArguments) -> sapwood::Result<Answers> {
    let database =
        Database::builder().create(false).memory_budget(at.budget << 20).open(&at.file)?;
    let files = database.existing_keyspace(&at.keyspace)?;

    let began = Instant::now();
    let mut packages = BTreeSet::new();
    let mut cursor = files.cursor()?;
    let mut found = cursor.first()?;
    while let Some(package) = cursor.key().filter(|_| found).and_then(package) {
        // One seek leads behind all files of the package: '0' follows '/'.
        let behind = [package, b"0"].concat();
        packages.insert(package.to_vec());
        found = cursor.seek(behind, Seek::AtOrAfter)?;
    }
    let packages_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let (mut rust_files, mut largest_file, mut largest_bytes) = (0, Vec::new(), 0);
    found = cursor.first()?;
    while found {
        let (key, bytes) = (cursor.key().unwrap_or_default(), cursor.value_len().unwrap_or(0));
        rust_files += u64::from(key.ends_with(b".rs"));
        if bytes > largest_bytes {
            (largest_file, largest_bytes) = (key.to_vec(), bytes);
        }
        found = cursor.next()?;
    }
    let rust_files_seconds = began.elapsed().as_secs_f64();

    let began = Instant::now();
    let mut reads = 0;
    for package in &packages {
        let manifest = [package.as_slice(), b"/Cargo.toml"].concat();
        reads += u64::from(files.get(manifest)?.is_some());
    }
    let reads_seconds = began.elapsed().as_secs_f64();
    drop(cursor);
    database.close()?;
    Ok(Answers {
        packages: packages.len() as u64,
        packages_seconds,
        rust_files,
        rust_files_seconds,
        largest_file: units::key(&largest_file),
        largest_bytes,
        reads,
        reads_seconds,
    })
}

/// The registry and the package of a path.
fn package(path: &[u8]) -> Option<&[u8]> {
    let mut slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    path.get(..slashes.nth(1)?.0)
}

/// Prints the answers.
pub fn print(out: &mut impl Write, answers: &Answers) -> io::Result<()> {
    let time = |seconds| units::time(Duration::from_secs_f64(seconds));
    let Answers { packages, rust_files, reads, .. } = answers;
    let packages =
        format!("{} (one seek each, {})", units::count(*packages), time(answers.packages_seconds));
    line(out, "packages", packages)?;
    let rust_files = format!(
        "{} (every key seen, {})",
        units::count(*rust_files),
        time(answers.rust_files_seconds)
    );
    line(out, "Rust files", rust_files)?;
    let largest = format!("{} ({})", answers.largest_file, units::bytes(answers.largest_bytes));
    line(out, "largest file", largest)?;
    let reads = format!("{} in {}", units::count(*reads), time(answers.reads_seconds));
    line(out, "Cargo.toml read", reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_the_first_two_parts_of_a_path() {
        assert_eq!(package(b"index/zstd-1.0.0/src/lib.rs"), Some(&b"index/zstd-1.0.0"[..]));
        assert_eq!(package(b"index/file"), None);
        assert_eq!(package(b""), None);
    }
}
