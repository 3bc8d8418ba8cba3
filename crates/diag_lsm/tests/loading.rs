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

/// The same for one that must fail with this status and leave the database as it is: what it says.
fn refused(arguments: &[&str], status: i32, file: &str) -> String {
    let before = fs::read(file).unwrap();
    let output = run(arguments, b"");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
    assert!(fs::read(file).unwrap() == before, "{arguments:?} has changed the database");
    errors
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

/// A key that was the name of the database's own file was renamed over it.
#[test]
fn an_export_into_the_folder_of_the_database_does_not_replace_it() {
    let names: &[&str] = if cfg!(unix) { &["films", "hard", "soft", "a/soft"] } else { &["films"] };
    for name in names {
        let folder = Folder::new();
        let (file, here) = (folder.name("films"), folder.name("."));
        good(&["create", &file], b"");
        good(&["put", &file, name, "value"], b"");
        fs::create_dir(folder.path("a")).unwrap();
        #[cfg(unix)]
        {
            fs::hard_link(&file, folder.path("hard")).unwrap();
            std::os::unix::fs::symlink(&file, folder.path("soft")).unwrap();
            std::os::unix::fs::symlink("../films", folder.path("a/soft")).unwrap();
        }
        let before = fs::read(&file).unwrap();
        let errors = refused(&["export", &file, &here, "--form", "folder"], 1, &file);
        assert!(errors.contains(&format!("the file of the key {name:?}")), "{name}: {errors}");
        assert!(errors.contains("the database itself"), "{name}: {errors}");
        assert!(fs::read(folder.path(name)).unwrap() == before, "{name} is another file now");
        let left = fs::read_dir(folder.path(".")).unwrap().count();
        assert_eq!(left, if cfg!(unix) { 4 } else { 2 }, "{name}: a part is left");
        // Elsewhere it is a file as any other.
        good(&["export", &file, &folder.name("out"), "--form", "folder"], b"");
        assert_eq!(fs::read(folder.path("out").join(name)).unwrap(), b"value");
    }
}

/// A file is written under a name that no other has.
#[test]
fn an_export_beside_a_database_with_the_name_of_a_part_leaves_it_alone() {
    let folder = Folder::new();
    let (file, here) = (folder.name(".sapwood-0.part"), folder.name("."));
    good(&["create", &file], b"");
    good(&["put", &file, "key", "value"], b"");
    let before = fs::read(&file).unwrap();
    good(&["export", &file, &here, "--form", "folder"], b"");
    assert!(fs::read(&file).unwrap() == before);
    assert_eq!(fs::read(folder.path("key")).unwrap(), b"value");
    assert_eq!(fs::read_dir(folder.path(".")).unwrap().count(), 2);
}

/// A link was not seen to be the database, which was cut to nothing; and what was appended to it
/// was nothing that it holds.
#[cfg(unix)]
#[test]
fn an_export_onto_the_database_under_another_name_is_refused() {
    let folder = Folder::new();
    let file = folder.name("films");
    good(&["create", &file], b"");
    good(&["put", &file, "key", "value"], b"");
    fs::hard_link(&file, folder.path("hard")).unwrap();
    std::os::unix::fs::symlink(&file, folder.path("soft")).unwrap();
    for name in ["films", "hard", "soft"] {
        let errors = refused(&["export", &file, &folder.name(name), "--form", "tsv"], 2, &file);
        assert!(errors.contains("the database itself"), "{name}: {errors}");
    }
    let before = fs::read(&file).unwrap();
    #[allow(clippy::disallowed_methods)]
    let onto = fs::OpenOptions::new().append(true).open(&file).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_diag_lsm"));
    let output = command.args(["export", &file]).stdout(onto).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(fs::read(&file).unwrap() == before, "pairs were appended to the database");
    assert_eq!(good(&["get", &file, "key"], b""), b"value\n");
}

/// A folder with the database in it was imported with the database's own file, which grew as it was
/// read: when it was large, without end.
#[test]
fn an_import_of_the_folder_of_the_database_leaves_it_out() {
    let folder = Folder::new();
    let (file, here) = (folder.name("data.db"), folder.name("."));
    good(&["create", &file], b"");
    fs::create_dir(folder.path("in")).unwrap();
    fs::write(folder.path("a"), "1").unwrap();
    fs::write(folder.path("in/b"), "2").unwrap();
    #[cfg(unix)]
    fs::hard_link(&file, folder.path("in/link")).unwrap();
    let names = if cfg!(unix) { 2 } else { 1 };
    let expected = [("a".to_owned(), "1".to_owned()), ("in/b".to_owned(), "2".to_owned())];
    for is_new in [false, true] {
        if is_new {
            fs::remove_file(&file).unwrap();
            #[cfg(unix)]
            fs::remove_file(folder.path("in/link")).unwrap();
        }
        let output = run(&["import", &file, &here, "--json"], b"");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{errors}");
        let imported: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(imported["entries"], 2, "{imported}");
        let left_out = imported["left_out"].as_array().unwrap();
        assert_eq!(left_out.len(), if is_new { 1 } else { names }, "{imported}");
        for name in left_out {
            let told = format!("{} is the database itself", name.as_str().unwrap());
            assert!(errors.contains(&told), "{errors}");
        }
        assert_eq!(pairs_of(&file), expected);
    }
    // Another database's file is a file as any other.
    let other = folder.name("other.db");
    let imported = good(&["import", &other, &here, "--json"], b"");
    let imported: Value = serde_json::from_slice(&imported).unwrap();
    assert_eq!(imported["entries"], 3, "{imported}");
    assert_eq!(imported["left_out"].as_array().unwrap().len(), 1, "{imported}");
}

/// It was read as text while it was written.
#[cfg(unix)]
#[test]
fn an_import_of_the_database_into_itself_is_refused() {
    let folder = Folder::new();
    let file = folder.name("data.db");
    good(&["create", &file], b"");
    fs::hard_link(&file, folder.path("hard")).unwrap();
    std::os::unix::fs::symlink(&file, folder.path("soft")).unwrap();
    for name in ["data.db", "hard", "soft"] {
        let errors = refused(&["import", &file, &folder.name(name), "--form", "lines"], 2, &file);
        assert!(errors.contains("the database itself"), "{name}: {errors}");
    }
    let before = fs::read(&file).unwrap();
    for more in [&["--form", "lines"][..], &["-", "--form", "tsv"]] {
        #[allow(clippy::disallowed_methods)]
        let from = fs::File::open(&file).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_diag_lsm"));
        let output = command.args(["import", &file]).args(more).stdin(from).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains("the database itself"), "{errors}");
        assert!(fs::read(&file).unwrap() == before);
    }
}
