//! What a path may lead to, and what others may do to the file while it is open.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Random};
use sapwood::{Builder, Database, Durability, Error, Keyspace, Result};
use tempfile::TempDir;

/// The pairs of a database that [`made`] has made.
const PAIRS: u32 = 2000;

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    (directory, path)
}

fn builder() -> Builder {
    Setup::tiny().builder()
}

fn value(number: u32) -> Vec<u8> {
    let mut value = vec![0; 400];
    Random::from_seed(u64::from(number)).fill(&mut value);
    value
}

fn made(path: &Path) {
    let database = builder().open(path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..PAIRS {
        keyspace.put(number.to_be_bytes(), value(number)).unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
    database.close().unwrap();
}

fn check_sound(path: &Path) {
    let database = builder().open(path).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    for number in 0..PAIRS {
        assert_eq!(keyspace.get(number.to_be_bytes()).unwrap().unwrap(), value(number));
    }
    assert_eq!(access::verify(&database).unwrap(), None);
    database.close().unwrap();
}

fn assert_says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

#[test]
fn a_link_opens_what_it_names_and_both_names_exclude_each_other() {
    let (directory, path) = directory();
    let (link, second) = (directory.path().join("link"), directory.path().join("second"));
    symlink("test.db", &link).unwrap();
    symlink("link", &second).unwrap();
    // Through the link the file that it names is made.
    let database = builder().open(&second).unwrap();
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    for (builder, path) in
        [(builder(), &path), (builder(), &link), (builder().read_only(true), &path)]
    {
        let error = builder.open(path).unwrap_err();
        assert!(matches!(&error, Error::Locked { file, .. } if file == path), "{error:?}");
    }
    database.close().unwrap();
    let database = builder().open(&path).unwrap();
    assert!(matches!(builder().open(&second), Err(Error::Locked { .. })));
    assert!(database.existing_keyspace("a").unwrap().contains("k").unwrap());
    assert_eq!(access::verify(&database).unwrap(), None);
    assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
}

#[test]
fn a_link_to_nothing_or_to_itself_is_an_error() {
    let (directory, path) = directory();
    symlink(&path, &path).unwrap();
    let error = builder().open(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert_says(&error, &["opening the file failed on", "test.db"]);
    let link = directory.path().join("link");
    symlink("absent", &link).unwrap();
    for builder in [builder().create(false), builder().read_only(true)] {
        let error = builder.open(&link).unwrap_err();
        assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    }
    symlink("no/such/directory", directory.path().join("far")).unwrap();
    let error = builder().open(directory.path().join("far")).unwrap_err();
    assert_says(&error, &["its directory does not exist"]);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "nothing was made");
}

#[test]
fn what_is_no_regular_file_is_named() {
    let (directory, _) = directory();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = directory.path().join("link");
    symlink(directory.path(), &link).unwrap();
    for (path, what) in [
        (&pipe, "a named pipe"),
        (&socket, "a socket"),
        (&link, "a directory"),
        (&PathBuf::from("/dev/null"), "a character device"),
    ] {
        for builder in [builder(), builder().create(false), builder().read_only(true)] {
            let error = builder.open(path).unwrap_err();
            assert!(matches!(error, Error::NotAFile { .. }), "{error:?}");
            assert_says(&error, &[what, "not a regular file; give the path of the file itself"]);
        }
    }
}

/// Writing has stopped with `words`, for good, and a close says so.
fn check_stopped(database: Database, keyspace: &Keyspace, words: &[&str]) {
    for result in [
        keyspace.put("more", "v"),
        keyspace.delete("more"),
        database.sync(),
        database.flush(),
        database.compact(),
        database.keyspace("b").map(drop),
        database.close(),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Stopped(_)), "{error:?}");
        let said = error.to_string().matches("writing stopped").count();
        assert_eq!(said, 1, "{error}");
        assert_says(&error, words);
    }
}

/// Something is committed with each durability; the last one finds out at the latest.
fn commits(database: &Database, keyspace: &Keyspace) -> Result<()> {
    for durability in [Durability::Memory, Durability::Buffered, Durability::Sync] {
        let mut batch = database.batch();
        batch.put(keyspace, "new", "value")?;
        batch.commit_with(durability)?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_deleted_while_it_is_open_is_read_and_not_written() {
    let (_directory, path) = directory();
    made(&path);
    let database = builder().open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("before", "v").unwrap();
    fs::remove_file(&path).unwrap();
    let error = commits(&database, &keyspace).unwrap_err();
    assert!(matches!(error, Error::Stopped(_)), "{error:?}");
    assert_says(&error, &["test.db", "deleted or replaced while it was open"]);
    assert_eq!(keyspace.get(7u32.to_be_bytes()).unwrap().unwrap(), value(7));
    // What was committed in memory before is visible, too.
    assert_eq!(keyspace.iter().unwrap().map(Result::unwrap).count(), PAIRS as usize + 2);
    check_stopped(database, &keyspace, &["deleted or replaced"]);
    assert!(!path.exists());
}

#[test]
fn a_file_that_is_replaced_while_it_is_open_is_not_written_and_neither_is_the_new_one() {
    let (directory, path) = directory();
    made(&path);
    let other = directory.path().join("other.db");
    fs::copy(&path, &other).unwrap();
    let bytes = fs::read(&other).unwrap();
    let database = builder().open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("before", "v").unwrap();
    fs::rename(&other, &path).unwrap();
    let error = commits(&database, &keyspace).unwrap_err();
    assert_says(&error, &["test.db", "deleted or replaced while it was open"]);
    assert_eq!(keyspace.get(7u32.to_be_bytes()).unwrap().unwrap(), value(7));
    check_stopped(database, &keyspace, &["deleted or replaced"]);
    assert!(fs::read(&path).unwrap() == bytes);
    check_sound(&path);
}

/// What was cut off is an error that names its place, and the rest is read.
#[test]
fn a_file_that_is_cut_while_it_is_open_gives_errors_with_places_and_is_not_written() {
    let (directory, path) = directory();
    made(&path);
    let copy = directory.path().join("copy.db");
    fs::copy(&path, &copy).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    for cut in [0, 1, 4096, 8192, length / 3, length - 4096] {
        fs::copy(&copy, &path).unwrap();
        let database = builder().open(&path).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        keyspace.put("before", "v").unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let (mut good, mut bad) = (0, 0);
        for number in 0..PAIRS {
            match keyspace.get(number.to_be_bytes()) {
                Ok(found) => {
                    good += 1;
                    assert_eq!(found.unwrap(), value(number));
                }
                Err(error) => {
                    bad += 1;
                    let only = format!("the file has only {cut} bytes");
                    assert_says(&error, &["reading", "at offset", "test.db", &only]);
                }
            }
        }
        assert!(bad > 0 || cut == length - 4096, "cut at {cut}: {good} were read");
        // Each step of a scan is right, or an error.
        for pair in keyspace.iter().unwrap().take(2 * PAIRS as usize) {
            if let Ok((key, found)) = pair
                && key != "before"
            {
                let number = u32::from_be_bytes(key[..].try_into().unwrap());
                assert_eq!(found, value(number));
            }
        }
        // The last page may be one that is kept free.
        let is_seen = database.verify(&mut ()).map_or(true, |report| report.problem_count > 0);
        assert!(is_seen || cut == length - 4096, "cut at {cut}");
        let error = commits(&database, &keyspace).unwrap_err();
        let words = ["somebody else cut the file while it was open", "restore the file"];
        assert_says(&error, &words);
        check_stopped(database, &keyspace, &words);
        // What is left opens or is refused, and the copy is what it was.
        if let Err(error) = builder().create(false).open(&path) {
            let text = error.to_string();
            assert!(text.contains("cut") || text.contains("not a Sapwood database"), "{text}");
        }
    }
    check_sound(&copy);
}

/// Before the first write nothing stops for good, and no write is taken either.
#[test]
fn a_file_that_is_gone_before_the_first_write_takes_none() {
    let (_directory, path) = directory();
    made(&path);
    let database = builder().open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    fs::remove_file(&path).unwrap();
    for _ in 0..2 {
        let results = [keyspace.put("k", "v"), database.flush(), database.keyspace("b").map(drop)];
        for result in results {
            assert_says(&result.unwrap_err(), &["test.db", "deleted or replaced"]);
        }
    }
    assert!(!keyspace.contains("k").unwrap());
    database.close().unwrap();
}

/// Forking takes `unsafe` code, so a storage says here what a file says in a forked process; that
/// the file says it is shown beside its code.
#[test]
fn in_a_forked_process_a_database_writes_nothing_and_its_close_waits_for_nobody() {
    for threads in [0, 2] {
        let memory = MemoryStorage::new();
        let storage = Arc::new(CountingStorage::new(Arc::new(memory.clone())));
        // The file need not grow for what stays in memory.
        let builder_of = builder().merge_threads(threads).reserve_bytes(0);
        let database = builder_of.open_on(storage.clone()).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        keyspace.put("k", "v").unwrap();
        database.flush().unwrap();
        database.wait_until_idle().unwrap();
        storage.fork();
        let before = memory.image();
        assert_eq!(keyspace.get("k").unwrap().unwrap(), "v");
        let mut batch = database.batch();
        batch.put(&keyspace, "only in memory", "v").unwrap();
        batch.commit_with(Durability::Memory).unwrap();
        let error = database.close().unwrap_err();
        assert!(matches!(error, Error::OtherProcess(_)), "{error:?}");
        assert_says(&error, &["opened by another process", "forked", "fork before opening"]);
        assert!(matches!(keyspace.get("k"), Err(Error::Closed)));
        assert!(memory.image() == before);
        let database = builder().open_on(Arc::new(memory)).unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
        assert_eq!(database.keyspace("a").unwrap().get("k").unwrap().unwrap(), "v");
    }
}

/// Dropping the handles is no different from closing.
#[test]
fn in_a_forked_process_a_dropped_database_writes_nothing() {
    let memory = MemoryStorage::new();
    let storage = Arc::new(CountingStorage::new(Arc::new(memory.clone())));
    let database = builder().open_on(storage.clone()).unwrap();
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    storage.fork();
    let before = (memory.image(), storage.changes());
    drop(database);
    assert!((memory.image(), storage.changes()) == before);
}
