//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

use crate::lexer;

/// The engine's sources, from the root of the repository.
pub const ENGINE: &str = "crates/sapwood/src";

/// Folders with nothing of ours in them.
const SKIPPED: [&str; 4] = ["target", ".git", "corpus", "artifacts"];

/// One file of Rust.
pub struct Source {
    /// From the root of the repository, with `/` on every platform.
    pub path: String,
    pub text: String,
    /// The text with comments and literals blanked, line by line.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: lexer::code(text) }
    }

    /// The first line, from 1, of the test module that ends the file; 1 in a file of tests.
    pub fn tests_from(&self) -> usize {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if name == "tests.rs" || self.path.starts_with("tests/") || self.path.contains("/tests/") {
            return 1;
        }
        let lines: Vec<&str> = self.code.lines().collect();
        let opens = |line: &str| line.trim_start().starts_with("mod ") && line.ends_with('{');
        lines
            .windows(2)
            .position(|pair| pair[0].trim() == "#[cfg(test)]" && opens(pair[1]))
            .map_or(usize::MAX, |index| index + 1)
    }

    /// The modules from the root of its crate down to this file: empty for `lib.rs`.
    pub fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix(ENGINE).unwrap_or(&self.path);
        let inside = inside.trim_start_matches('/').trim_end_matches(".rs");
        let mut parts: Vec<String> = inside.split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        parts
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn exists(path: &str) -> bool {
    root().join(path).exists()
}

pub fn read(path: &str) -> String {
    let read = fs::read_to_string(root().join(path));
    read.unwrap_or_else(|error| unreadable(path, &error.to_string()))
}

/// All files of Rust below a folder, in the order of their paths.
pub fn rust_files(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), folder, &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no file of Rust in {folder}: this test would show nothing");
    paths.iter().map(|path| Source::new(path, &read(path))).collect()
}

/// The names of the files in a folder that end so, without that ending, in order.
pub fn names(folder: &str, ending: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder));
    let entries = entries.unwrap_or_else(|error| unreadable(folder, &error.to_string()));
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(ending)?.to_owned())).collect();
    names.sort();
    assert!(!names.is_empty(), "no {ending} in {folder}: this test would show nothing");
    names
}

fn walk(at: &Path, path: &str, paths: &mut Vec<String>) {
    let entries = fs::read_dir(at).unwrap_or_else(|error| unreadable(path, &error.to_string()));
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
        if entry.path().is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                walk(&entry.path(), &below, paths);
            }
        } else if name.ends_with(".rs") {
            paths.push(below);
        }
    }
}

#[allow(clippy::panic, reason = "a tree that cannot be read is not tidy")]
fn unreadable<T>(path: &str, error: &str) -> T {
    panic!("{path} cannot be read: {error}")
}

#[test]
fn a_file_knows_its_module_and_where_its_tests_begin() {
    let module = |path: &str| Source::new(path, "").module().join("::");
    assert_eq!(module("crates/sapwood/src/page/cache.rs"), "page::cache");
    assert_eq!(module("crates/sapwood/src/page/mod.rs"), "page");
    assert_eq!(module("crates/sapwood/src/lib.rs"), "");

    let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(Source::new("crates/sapwood/src/a.rs", text).tests_from(), 3);
    assert_eq!(Source::new("crates/sapwood/src/a/tests.rs", text).tests_from(), 1);
    assert_eq!(Source::new("crates/sapwood/src/a.rs", "mod tests;").tests_from(), usize::MAX);
}
