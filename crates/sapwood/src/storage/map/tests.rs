//! The map of a real file, where there is one: what it shows, and what it keeps from being cut.

#![cfg(all(target_pointer_width = "64", target_os = "linux"))]

use std::path::PathBuf;

use super::*;
use crate::storage::{FileOpenOptions, FileStorage, Storage};

fn new_file(length: u64) -> (tempfile::TempDir, PathBuf, Arc<FileStorage>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.sapwood");
    let options = FileOpenOptions { create: true, read_only: false };
    let (storage, _) = FileStorage::open(&path, &options).unwrap();
    storage.set_length(length).unwrap();
    (directory, path, Arc::new(storage))
}

#[test]
fn a_map_shows_what_is_written_before_and_after() {
    let (_directory, _path, storage) = new_file(100_000);
    storage.write_at(5000, b"first").unwrap();
    let mapped = storage.map(5000, 5).unwrap();
    assert_eq!(&*mapped, b"first");
    // Beside it.
    storage.write_at(5005, b"next").unwrap();
    assert_eq!(&*storage.map(5003, 6).unwrap(), b"stnext");
    drop(storage);
    assert_eq!(&*mapped, b"first", "it outlives the handle");
}

#[test]
fn growth_is_followed_and_what_is_not_there_is_not_handed_out() {
    let (_directory, _path, storage) = new_file(10_000);
    assert_eq!(storage.map(9_990, 10).unwrap().len(), 10);
    for (offset, length) in [(9_990, 11), (10_000, 1), (u64::MAX, 1), (u64::MAX - 5, 10), (5, 0)] {
        assert!(storage.map(offset, length).is_none(), "{length} bytes at {offset}");
    }
    let old = storage.map(0, 10).unwrap();
    storage.write_at(10_000, b"grown").unwrap();
    assert_eq!(&*storage.map(10_000, 5).unwrap(), b"grown");
    assert_eq!(&*old, &[0; 10]);
    // Into the next piece and beyond.
    let far = 3 * PIECE_BYTES + 77;
    storage.write_at(far, b"far").unwrap();
    assert_eq!(&*storage.map(far, 3).unwrap(), b"far");
    assert_eq!(storage.map(2 * PIECE_BYTES - 4, 4).unwrap().len(), 4);
    assert!(storage.map(2 * PIECE_BYTES - 4, 5).is_none(), "it crosses a border");
}

#[test]
fn nothing_is_cut_off_that_is_in_use() {
    let (_directory, path, storage) = new_file(8 * PIN_BYTES);
    let length = || std::fs::metadata(&path).unwrap().len();
    let low = storage.map(10, 10).unwrap();
    let high = storage.map(5 * PIN_BYTES + 10, 10).unwrap();
    let error = storage.set_length(5 * PIN_BYTES).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    // A pin is for its whole MiB.
    assert!(storage.set_length(5 * PIN_BYTES + 20).is_err());
    assert_eq!(length(), 8 * PIN_BYTES);
    assert_eq!(&*high, &[0; 10]);
    assert!(storage.map(7 * PIN_BYTES, 10).is_some(), "nothing has changed");
    storage.set_length(6 * PIN_BYTES).unwrap();
    assert_eq!(length(), 6 * PIN_BYTES);
    assert_eq!(&*high, &[0; 10]);
    assert!(storage.map(6 * PIN_BYTES, 1).is_none());
    drop(high);
    storage.set_length(PIN_BYTES).unwrap();
    assert_eq!(length(), PIN_BYTES);
    assert_eq!(&*low, &[0; 10]);
    drop(low);
    storage.set_length(0).unwrap();
    // What comes back is another map.
    storage.write_at(20, b"again").unwrap();
    assert_eq!(&*storage.map(20, 5).unwrap(), b"again");
}

/// A look behind the end of the file would end the process.
#[test]
fn threads_that_read_while_the_file_is_cut_and_grows_are_never_behind_its_end() {
    let (_directory, _path, storage) = new_file(0);
    let (stop, found) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let readers: Vec<_> = (0..3u64)
        .map(|reader| {
            let (storage, stop, found) = (storage.clone(), stop.clone(), found.clone());
            let read = move || {
                let mut random = crate::sync::Random::from_seed(reader);
                while stop.load(Ordering::Relaxed) == 0 {
                    let page = random.below(16 * PIN_BYTES / 4096);
                    if let Some(mapped) = storage.map(page * 4096, 4096) {
                        assert!(mapped.iter().all(|byte| *byte == 0));
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                }
            };
            crate::sync::thread::spawn("sapwood-test", read).unwrap()
        })
        .collect();
    let mut random = crate::sync::Random::from_seed(9);
    let (mut cuts, mut busy) = (0, 0);
    // However little the readers are let run.
    while cuts < 3000 || busy == 0 || found.load(Ordering::Relaxed) == 0 {
        match storage.set_length(random.below(16 * PIN_BYTES)) {
            Ok(()) => cuts += 1,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
                busy += 1;
            }
        }
    }
    stop.store(1, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}
