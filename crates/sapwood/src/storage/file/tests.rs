//! The real file: what it stores, and how it refuses to open.

use std::cell::Cell;
use std::fs;
use std::process::Command;

use super::*;
use crate::sync::{Arc, thread};

const CREATE: FileOpenOptions = FileOpenOptions { create: true, read_only: false };
const EXISTING: FileOpenOptions = FileOpenOptions { create: false, read_only: false };
const READ_ONLY: FileOpenOptions = FileOpenOptions { create: false, read_only: true };

fn new_file() -> (tempfile::TempDir, PathBuf, FileStorage) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.sapwood");
    let (storage, created) = FileStorage::open(&path, &CREATE).unwrap();
    assert!(created);
    (directory, path, storage)
}

fn read(storage: &dyn Storage, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; length];
    storage.read_at(offset, &mut buffer).unwrap();
    buffer
}

/// A read-only file system cannot be mounted here; what the system says of one can be said.
#[test]
fn what_must_not_be_written_is_refused_with_the_way_to_read_it() {
    let system = |kind| io::Error::new(kind, "the system's words");
    for kind in [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied] {
        let error = open_error(Path::new("a/b.sapwood"), true, explain_refusal(system(kind)));
        let expected = "opening the file failed on a/b.sapwood: the system's words; with \
                        read_only(true) it may be readable";
        assert_eq!(error.to_string(), expected);
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == kind), "{error:?}");
    }
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull, io::ErrorKind::NotFound] {
        let error = explain_refusal(system(kind));
        assert_eq!((error.kind(), error.to_string()), (kind, "the system's words".to_owned()));
    }
    // The kind by which this system names it.
    #[cfg(target_os = "linux")]
    assert_eq!(io::Error::from_raw_os_error(30).kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn bytes_come_back_after_a_reopen() {
    let (_directory, path, storage) = new_file();
    storage.write_at(3, b"plain").unwrap();
    storage.write_sync_at(8, b"synced").unwrap();
    storage.sync_data().unwrap();
    storage.sync_directory().unwrap();
    assert_eq!(storage.length().unwrap(), 14);
    drop(storage);

    let (storage, created) = FileStorage::open(&path, &CREATE).unwrap();
    assert!(!created, "it holds bytes");
    assert_eq!(read(&storage, 0, 14), b"\0\0\0plainsynced");
    assert_eq!(storage.name(), path.display().to_string());
}

#[test]
fn file_left_empty_by_its_maker_counts_as_new() {
    let (_directory, path, storage) = new_file();
    drop(storage);
    assert!(FileStorage::open(&path, &CREATE).unwrap().1);
    assert!(!FileStorage::open(&path, &EXISTING).unwrap().1, "it was not to be made");
}

#[test]
fn synced_write_of_many_bytes_stores_all_of_them() {
    let (_directory, _path, storage) = new_file();
    let large: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    storage.write_sync_at(10, &large).unwrap();
    assert_eq!(read(&storage, 10, large.len()), large);
}

#[test]
#[cfg(target_os = "linux")]
fn synced_write_without_the_call_stores_the_same() {
    let (_directory, path, mut storage) = new_file();
    storage.data_synced_write = DataSyncedWrite::without();
    storage.write_sync_at(2, b"bytes").unwrap();
    drop(storage);
    assert_eq!(fs::read(&path).unwrap(), b"\0\0bytes");
}

#[test]
fn reading_over_the_end_is_unexpected_eof() {
    let (_directory, _path, storage) = new_file();
    storage.write_at(0, b"four").unwrap();
    let error = storage.read_at(2, &mut [0; 3]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn offsets_beyond_every_file_are_errors() {
    let (_directory, _path, storage) = new_file();
    let kinds = [
        storage.read_at(u64::MAX, &mut [0]),
        storage.write_at(u64::MAX, b"x"),
        storage.write_sync_at(i64::MAX as u64, b"x"),
        storage.set_length(u64::MAX),
        storage.allocate(u64::MAX - 1, 4),
        storage.punch(u64::MAX - 1, 4),
        storage.advise(u64::MAX - 1, 4, Advice::WillNeed),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [io::ErrorKind::InvalidInput; 7]);
    assert_eq!(storage.length().unwrap(), 0);
}

#[test]
fn allocate_extends_with_zeros_and_never_cuts() {
    let (_directory, _path, storage) = new_file();
    storage.write_at(0, b"0123456789").unwrap();
    storage.allocate(0, 4).unwrap();
    assert_eq!(storage.length().unwrap(), 10);
    storage.allocate(8, 100_000).unwrap();
    assert_eq!(storage.length().unwrap(), 100_008);
    assert_eq!(read(&storage, 0, 12), b"0123456789\0\0");
    storage.allocate(500_000, 0).unwrap();
    assert_eq!(storage.length().unwrap(), 100_008);
    storage.set_length(4).unwrap();
    storage.set_length(6).unwrap();
    assert_eq!(read(&storage, 0, 6), b"0123\0\0");
}

#[test]
fn hints_leave_the_rest_of_the_content_alone() {
    let (_directory, _path, storage) = new_file();
    let bytes = vec![7; 64 * 1024];
    storage.write_at(0, &bytes).unwrap();
    storage.sync_data().unwrap();
    for advice in [Advice::Sequential, Advice::Random, Advice::WillNeed, Advice::DontNeed] {
        storage.advise(4096, 8192, advice).unwrap();
        storage.advise(0, 0, advice).unwrap();
    }
    storage.write_back(0, 4096).unwrap();
    assert_eq!(read(&storage, 0, bytes.len()), bytes);
    storage.punch(16_384, 16_384).unwrap();
    storage.punch(0, 0).unwrap();
    assert_eq!(storage.length().unwrap(), 64 * 1024);
    assert_eq!(read(&storage, 0, 16_384), bytes[..16_384]);
    assert_eq!(read(&storage, 32_768, 32_768), bytes[32_768..]);
    if cfg!(target_os = "linux") {
        assert_eq!(read(&storage, 16_384, 16_384), vec![0; 16_384]);
    }
}

#[test]
fn threads_write_and_read_at_their_own_positions() {
    let (_directory, _path, storage) = new_file();
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let workers: Vec<_> = (0..4_u8)
        .map(|worker| {
            let storage = Arc::clone(&storage);
            let work = move || {
                for round in 0..100_u64 {
                    let offset = (round * 4 + u64::from(worker)) * 100;
                    storage.write_at(offset, &[worker; 100]).unwrap();
                    assert_eq!(read(&*storage, offset, 100), [worker; 100]);
                }
            };
            thread::spawn("sapwood-test", work).unwrap()
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(storage.length().unwrap(), 40_000);
}

#[test]
fn absent_file_is_not_made_unless_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("absent");
    for options in [EXISTING, READ_ONLY, FileOpenOptions { create: true, read_only: true }] {
        let error = FileStorage::open(&path, &options).unwrap_err();
        assert!(matches!(&error, Error::NotFound(named) if *named == path), "{error}");
        let advice = "does not exist, or nothing is in it yet; open it with create(true) to make \
                      a new database";
        assert_eq!(error.to_string(), format!("{} {advice}", path.display()));
    }
    assert!(matches!(FileStorage::open_unlocked_read_only(&path), Err(Error::NotFound(_))));
    assert!(!path.exists());
}

#[test]
fn missing_directory_is_named_as_the_cause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no").join("file");
    let error = FileStorage::open(&path, &CREATE).unwrap_err();
    let expected =
        format!("creating the file failed on {}: its directory does not exist", path.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for options in [CREATE, EXISTING, READ_ONLY] {
        let error = FileStorage::open(directory.path(), &options).unwrap_err();
        assert!(matches!(error, Error::NotAFile { .. }), "{error}");
        let advice = "this is a directory, not a regular file; give the path of the file itself";
        assert_eq!(error.to_string(), format!("{}: {advice}", directory.path().display()));
    }
}

#[test]
#[cfg(unix)]
fn pipe_and_device_are_refused_without_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for options in [CREATE, EXISTING, READ_ONLY] {
        let error = FileStorage::open(&pipe, &options).unwrap_err();
        assert!(error.to_string().contains("a named pipe, not a regular file"), "{error}");
        let error = FileStorage::open("/dev/null", &options).unwrap_err();
        assert!(error.to_string().contains("a character device, not a regular file"), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn missing_permission_is_an_error_with_the_cause() {
    use std::os::unix::fs::PermissionsExt;

    let (_directory, path, storage) = new_file();
    drop(storage);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let error = match FileStorage::open(&path, &EXISTING) {
        Err(error) => error,
        // The superuser may open everything, so only the meaning of the refusal can be shown.
        Ok(_) => open_error(&path, false, io::ErrorKind::PermissionDenied.into()),
    };
    let Error::Io { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::PermissionDenied);
    let start = format!("opening the file failed on {}: ", path.display());
    assert!(error.to_string().to_lowercase().contains("permission denied"), "{error}");
    assert!(error.to_string().starts_with(&start), "{error}");
}

fn assert_in_use(error: &Error, path: &Path, by: &str) {
    let Error::Locked { file, open_for } = error else { panic!("{error}") };
    assert_eq!((file.as_path(), *open_for), (path, by));
    let advice =
        format!("is in use by another process or handle, which has it open {by}; close that first");
    assert_eq!(error.to_string(), format!("{} {advice}", path.display()));
}

#[test]
fn second_handle_is_refused_within_one_process() {
    let (_directory, path, storage) = new_file();
    for options in [CREATE, EXISTING, READ_ONLY] {
        let error = FileStorage::open(&path, &options).unwrap_err();
        assert_in_use(&error, &path, "for writing");
    }
    drop(storage);
    FileStorage::open(&path, &EXISTING).unwrap();
}

#[test]
fn readers_share_the_file_and_keep_writers_out() {
    let (_directory, path, storage) = new_file();
    storage.write_at(0, b"seen").unwrap();
    drop(storage);
    let (first, _) = FileStorage::open(&path, &READ_ONLY).unwrap();
    let (second, _) = FileStorage::open(&path, &READ_ONLY).unwrap();
    assert_eq!(read(&first, 0, 4), read(&second, 0, 4));
    assert_in_use(&FileStorage::open(&path, &EXISTING).unwrap_err(), &path, "read-only");
    drop(first);
    assert_in_use(&FileStorage::open(&path, &EXISTING).unwrap_err(), &path, "read-only");
    drop(second);
    FileStorage::open(&path, &EXISTING).unwrap();
}

#[test]
fn read_only_handle_refuses_every_change() {
    let (_directory, path, storage) = new_file();
    storage.write_at(0, b"kept").unwrap();
    drop(storage);
    let (storage, _) = FileStorage::open(&path, &READ_ONLY).unwrap();
    let kinds = [
        storage.write_at(0, b"x"),
        storage.write_sync_at(0, b"x"),
        storage.set_length(0),
        storage.allocate(0, 100),
        storage.punch(0, 4),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [io::ErrorKind::PermissionDenied; 5]);
    assert_eq!(fs::read(&path).unwrap(), b"kept");
}

#[test]
#[cfg(unix)]
fn unlocked_reader_sees_the_living_file() {
    let (_directory, path, storage) = new_file();
    let reader = FileStorage::open_unlocked_read_only(&path).unwrap();
    storage.write_at(0, b"alive").unwrap();
    assert_eq!(read(&reader, 0, 5), b"alive");
    assert!(FileStorage::open(&path, &EXISTING).is_err(), "the writer keeps its lock");
}

#[test]
#[cfg(unix)]
fn link_is_followed_to_the_file_and_its_directory() {
    let (directory, path, storage) = new_file();
    drop(storage);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let (storage, _) = FileStorage::open(&link, &EXISTING).unwrap();
    assert_eq!(storage.directory, directory.path().canonicalize().unwrap());
    assert!(matches!(FileStorage::open(&path, &EXISTING), Err(Error::Locked { .. })));
    assert_eq!(directory_of(Path::new("no-such-file")), PathBuf::from("."));
}

const CHILD_PATH: &str = "SAPWOOD_TEST_CHILD_PATH";

#[test]
fn second_process_is_refused() {
    let (_directory, path, storage) = new_file();
    let child_says = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "storage::file::tests::open_as_a_second_process", "--nocapture"])
            .env(CHILD_PATH, &path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = child_says();
    assert!(refused.contains("is in use by another process"), "{refused}");
    drop(storage);
    let opened = child_says();
    assert!(opened.contains("opened in the child"), "{opened}");
}

/// The other half of the test above; on its own it does nothing.
#[test]
fn open_as_a_second_process() {
    let Some(path) = std::env::var_os(CHILD_PATH) else {
        return;
    };
    match FileStorage::open(path, &EXISTING) {
        Ok(_) => println!("opened in the child"),
        Err(error) => println!("{error}"),
    }
}

/// Every call that changes the file, or promises something of it.
fn changes(storage: &FileStorage) -> Vec<io::Result<()>> {
    vec![
        storage.write_sync_at(0, b"x"),
        storage.sync_data(),
        storage.set_length(1 << 20),
        storage.allocate(0, 1 << 20),
    ]
}

fn assert_all_say(results: Vec<io::Result<()>>, words: &str) {
    for result in results {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(words), "{text:?} does not say {words:?}");
    }
}

#[test]
fn a_process_that_was_forked_may_read_and_change_nothing() {
    let (_directory, path, mut storage) = new_file();
    storage.write_at(0, b"kept").unwrap();
    assert!(storage.is_of_this_process());
    // As the copy in a forked process: what was remembered at the open is another's number.
    storage.watch.process = std::process::id() + 1;
    assert!(!storage.is_of_this_process());
    let mut results = changes(&storage);
    results.extend([storage.write_at(0, b"x"), storage.punch(0, 4)]);
    assert_all_say(results, "this one was forked from it, so it may not write");
    assert_eq!(read(&storage, 0, 4), b"kept");
    assert_eq!(fs::read(&path).unwrap(), b"kept");
}

#[test]
#[cfg(unix)]
fn a_file_that_was_deleted_or_replaced_takes_no_changes() {
    let (directory, path, storage) = new_file();
    storage.write_at(0, b"kept").unwrap();
    fs::hard_link(&path, directory.path().join("second name")).unwrap();
    fs::rename(&path, directory.path().join("moved")).unwrap();
    storage.sync_data().unwrap();
    fs::remove_file(directory.path().join("second name")).unwrap();
    storage.sync_data().unwrap();
    fs::write(&path, b"other").unwrap();
    fs::rename(&path, directory.path().join("moved")).unwrap();
    assert_all_say(changes(&storage), "deleted or replaced while it was open");
    assert_eq!(read(&storage, 0, 4), b"kept");
}

#[test]
#[allow(clippy::disallowed_methods)] // somebody else is no storage
fn a_file_that_somebody_else_cut_takes_no_changes() {
    let (_directory, path, storage) = new_file();
    storage.allocate(0, 10_000).unwrap();
    storage.write_at(9_000, &[7; 2000]).unwrap();
    storage.set_length(8_000).unwrap();
    storage.write_sync_at(7_999, b"xyz").unwrap();
    let outside = OpenOptions::new().write(true).open(&path).unwrap();
    outside.set_len(8_001).unwrap();
    let words = "somebody else cut the file while it was open: it has 8001 bytes and had 8002;";
    assert_all_say(changes(&storage), words);
    assert_eq!(outside.metadata().unwrap().len(), 8_001);
    let error = storage.read_at(8_000, &mut [0; 2]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(error.to_string(), "the file has only 8001 bytes");
    // Longer is no harm.
    outside.set_len(9_000).unwrap();
    storage.sync_data().unwrap();
}

/// One thread looks at the file while another makes it longer, or shorter: that is nobody else.
#[test]
fn a_change_of_length_of_its_own_is_not_taken_for_somebody_elses() {
    let changes: [fn(&FileStorage); 3] = [
        |storage| storage.allocate(0, 10_000).unwrap(),
        |storage| storage.set_length(5_000).unwrap(),
        |storage| {
            storage.set_length(5_000).unwrap();
            storage.allocate(0, 20_000).unwrap();
        },
    ];
    for change in changes {
        for is_before in [true, false] {
            let (_directory, _path, storage) = new_file();
            storage.set_length(8_000).unwrap();
            let has_asked = Cell::new(false);
            let ask = || {
                let is_first = !has_asked.replace(true);
                if is_first && is_before {
                    change(&storage);
                }
                let now = storage.file.metadata();
                if is_first && !is_before {
                    change(&storage);
                }
                now
            };
            storage.watch.check_file(ask).unwrap();
        }
    }
}
