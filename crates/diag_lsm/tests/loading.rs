//! Pairs into a database and out of it: from files, folders and standard input, in each form.

// Helpers outside the test functions may fail as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Runs a command that gets these bytes on standard input.
fn run(arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_diag_lsm"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// The same for a command that must succeed: what it prints.
fn good(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let output = run(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
    output.stdout
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// All pairs of a database, as text.
fn pairs_of(file: &str) -> Vec<(String, String)> {
    let lines = String::from_utf8(good(&["scan", file, "--json"], b"")).unwrap();
    let pair = |line: &str| {
        let pair: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| pair[name].as_str().unwrap().to_owned();
        (text("key"), text("value"))
    };
    lines.lines().map(pair).collect()
}

#[test]
fn each_form_is_read_from_standard_input_and_from_a_file() {
    let long = ("tab\tkey".to_owned(), "line\n\"break\"".to_owned());
    let both = vec![("a".to_owned(), "1,2".to_owned()), long];
    let keys = vec![("a".to_owned(), String::new()), ("b,\tc".to_owned(), String::new())];
    let json = "{\"key\":\"a\",\"value\":\"1,2\"}\n\
                {\"key_hex\":\"746162096b6579\",\"value\":\"line\\n\\\"break\\\"\"}\n";
    for (form, extension, text, expected) in [
        ("lines", "txt", "a\nb,\tc\r\n", &keys),
        ("tsv", "tsv", "a\t1,2\ntab\\tkey\tline\\n\"break\"", &both),
        ("csv", "csv", "a,\"1,2\"\r\ntab\tkey,\"line\n\"\"break\"\"\"\r\n", &both),
        ("jsonl", "jsonl", json, &both),
        ("jsonl", "ndjson", json, &both),
    ] {
        let folder = Folder::new();
        let (first, second, third) = (folder.name("1"), folder.name("2"), folder.name("3"));
        let source = folder.name(&format!("pairs.{extension}"));
        fs::write(&source, text).unwrap();
        let imported = good(&["import", &first, &source, "--json"], b"");
        let imported: Value = serde_json::from_slice(&imported).unwrap();
        assert_eq!(imported["entries"], 2, "{form}");
        let bytes: usize = expected.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert_eq!(imported["bytes_in"], bytes, "{form}");
        good(&["import", &second, "--form", form], text.as_bytes());
        good(&["import", &third, "-", "--form", form], text.as_bytes());
        for file in [&first, &second, &third] {
            assert_eq!(pairs_of(file), *expected, "{form} into {file}");
        }
    }
}

#[test]
fn a_value_comes_from_standard_input_as_it_is() {
    let folder = Folder::new();
    let file = folder.name("data.db");
    good(&["create", &file], b"");
    let value = b"two\nlines\xff\0\n";
    good(&["put", &file, "key"], value);
    assert_eq!(good(&["get", &file, "key"], b""), [value.as_slice(), b"\n"].concat());
    // Of what is given in hexadecimal, the key is all that there is.
    let put = good(&["put", &file, "00ff", "--hex", "--json"], b"abc");
    let put: Value = serde_json::from_slice(&put).unwrap();
    assert_eq!((&put["key_bytes"], &put["value_bytes"]), (&2.into(), &3.into()));
    assert_eq!(good(&["get", &file, "00ff", "--hex"], b""), b"abc\n");
    good(&["put", &file, "empty"], b"");
    assert_eq!(good(&["get", &file, "empty"], b""), b"\n");
}

/// It was TSV whatever was asked for, and its summary was text.
#[test]
fn an_export_to_standard_output_is_in_the_form_that_was_asked_for() {
    let folder = Folder::new();
    let (file, copy) = (folder.name("data.db"), folder.name("copy.db"));
    good(&["import", &file, "--form", "tsv"], b"a\t1\nb\\t\t2\\n\n\xff\t\xfe\n");
    let lines = "{\"key\":\"a\",\"value\":\"1\"}\n{\"key\":\"b\\t\",\"value\":\"2\\n\"}\n\
                 {\"key_hex\":\"ff\",\"value_hex\":\"fe\"}\n";
    let tsv = b"a\t1\nb\\t\t2\\n\n\xff\t\xfe\n".as_slice();
    for (arguments, expected) in [
        (&["--json"][..], lines.as_bytes()),
        (&["-", "--json"], lines.as_bytes()),
        (&["--json", "--form", "jsonl"], lines.as_bytes()),
        (&["--json", "--form", "tsv"], tsv),
        (&["--json", "--form", "lines"], b"a\nb\t\n\xff\n"),
        (&["--form", "jsonl"], lines.as_bytes()),
        (&[], tsv),
    ] {
        let output = run(&[&["export", &file], arguments].concat(), b"");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stdout == expected, "{arguments:?}: {:?}", output.stdout);
        let told = String::from_utf8(output.stderr).unwrap();
        if arguments.contains(&"--json") {
            assert_eq!(told.lines().count(), 1, "{arguments:?}: {told}");
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!((&told["entries"], &told["bytes"]), (&3.into(), &8.into()));
            assert_eq!(told["problems"], 0);
        } else {
            assert_eq!(told, "3 pairs, 8 B\n");
        }
    }
    let exported = good(&["export", &file, "--json"], b"");
    good(&["import", &copy, "--form", "jsonl"], &exported);
    assert_eq!(good(&["scan", &copy], b""), good(&["scan", &file], b""));
    // To a file the summary is what is printed.
    let out = folder.name("out");
    let summary = good(&["export", &file, &out, "--json"], b"");
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!(summary["entries"], 3);
    assert!(fs::read(&out).unwrap() == tsv);
}

/// Of two names that were no text and alike, one was lost: both became one key.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_no_text_are_keys_of_their_own() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = Folder::new();
    let names: [&[u8]; 4] = [b"a\xfe", b"a\xff", b"b\xff/c", "grün".as_bytes()];
    fs::create_dir_all(folder.path("in").join(OsStr::from_bytes(b"b\xff"))).unwrap();
    for name in names {
        fs::write(folder.path("in").join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (from, to, file) = (folder.name("in"), folder.name("out"), folder.name("data.db"));
    good(&["import", &file, &from], b"");
    assert_eq!(good(&["count", &file], b""), b"4\n");
    let scanned = good(&["scan", &file, "--keys-only"], b"");
    assert_eq!(scanned, b"a\\xfe\na\\xff\nb\\xff/c\ngr\\xc3\\xbcn\n");
    assert_eq!(good(&["get", &file, "61ff", "--hex"], b""), b"a\xff\n");
    good(&["export", &file, &to, "--form", "folder"], b"");
    for name in names {
        assert_eq!(fs::read(folder.path("out").join(OsStr::from_bytes(name))).unwrap(), name);
    }
}

/// Of `a/b` and `a//b` one was lost.
#[test]
fn a_key_that_is_another_ones_path_or_none_is_not_exported_as_a_file() {
    for key in ["a//b", "a/", "../a", "/a", "a/./b", ""] {
        let folder = Folder::new();
        let (file, to) = (folder.name("data.db"), folder.name("out"));
        good(&["create", &file], b"");
        good(&["put", &file, key, "value"], b"");
        let output = run(&["export", &file, &to, "--form", "folder"], b"");
        assert_eq!(output.status.code(), Some(1), "{key}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(&format!("the key {key:?} is no path")), "{errors}");
        assert_eq!(fs::read_dir(folder.path("out")).unwrap().count(), 0, "{key}");
        assert!(!folder.path("a").exists());
    }
}
