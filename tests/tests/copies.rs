//! `compact_to`: a clean new file with what one instant shows, or no file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use crash_lsm::access;
use sapwood::storage::{MemoryStorage, Storage};
use sapwood::sync::{Arc, Random};
use sapwood::{Builder, Compression, Database, Durability, Error, Keyspace, KeyspaceOptions};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

fn builder() -> Builder {
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
    builder.durability(Durability::Buffered)
}

fn pairs_of(keyspace: &Keyspace) -> Pairs {
    let pair = |pair: sapwood::Result<(sapwood::Key, sapwood::Value)>| {
        let (key, value) = pair.unwrap();
        (key.to_vec(), value.to_vec())
    };
    keyspace.iter().unwrap().map(pair).collect()
}

fn all_of(database: &Database) -> BTreeMap<String, Pairs> {
    let names = database.keyspaces().unwrap().into_iter();
    names
        .map(|name| {
            let pairs = pairs_of(&database.existing_keyspace(&name).unwrap());
            (name, pairs)
        })
        .collect()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Puts, overwrites, deletes and deletes of ranges, with values of all kinds.
fn load(keyspace: &Keyspace, seed: u64, count: u64) {
    let mut random = Random::from_seed(seed);
    for _ in 0..count {
        let key = format!("{:05}", random.below(count));
        match random.below(20) {
            0..=1 => keyspace.delete(&key).unwrap(),
            2 => {
                let end = format!("{key}3");
                keyspace.delete_range(key.as_str()..end.as_str()).unwrap();
            }
            3 => {
                let bytes = [5_000, 40_000, 100_000][random.below(3) as usize];
                let mut value = vec![0; bytes];
                random.fill(&mut value);
                keyspace.put(&key, value).unwrap();
            }
            _ => keyspace.put(&key, vec![random.below(256) as u8; 120]).unwrap(),
        }
    }
}

/// Several keyspaces, some of it in segments, some in memory.
fn database(storage: Arc<dyn Storage>) -> Database {
    let database = builder().open_on(storage).unwrap();
    let plain = KeyspaceOptions::default().compression(Compression::None).filter_bits(0);
    let first = database.keyspace("first").unwrap();
    let second = database.keyspace_with("second", plain).unwrap();
    database.keyspace("empty").unwrap();
    load(&database.keyspace("dropped").unwrap(), 3, 100);
    for round in 0..3 {
        load(&first, round, 1500);
        load(&second, 10 + round, 1500);
        database.flush().unwrap();
    }
    database.drop_keyspace("dropped").unwrap();
    database.rename_keyspace("second", "renamed").unwrap();
    load(&first, 20, 200);
    database
}

#[test]
fn a_copy_holds_what_was_visible_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let source = database(Arc::new(MemoryStorage::new()));
    let expected = all_of(&source);
    assert_eq!(
        expected.keys().map(String::as_str).collect::<Vec<_>>(),
        ["empty", "first", "renamed"]
    );
    source.compact_to(&path, &mut ()).unwrap();
    assert_eq!(names_in(folder.path()), ["copy"]);
    let copy = builder().open(&path).unwrap();
    assert_eq!(all_of(&copy), expected);
    assert_eq!(access::verify(&copy).unwrap(), None);
    let core = copy.core().unwrap();
    let state = core.state();
    assert!(state.young.is_empty());
    for (keyspace, levels) in &state.levels {
        assert_eq!(levels.iter().count(), 1, "{keyspace}");
        let segment = levels.last().unwrap();
        assert!(segment.ranges.is_none(), "{keyspace}");
        assert_eq!(segment.points.as_ref().unwrap().tombstones, 0, "{keyspace}");
    }
    let settings = |database: &Database| {
        let catalogue = database.core().unwrap().visible_catalogue();
        let mut all: Vec<_> = catalogue
            .iter()
            .filter(|(_, entry)| !entry.dropped)
            .map(|(_, entry)| (entry.name.clone(), entry.settings))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    assert_eq!(settings(&copy), settings(&source));
}

#[test]
fn a_copy_is_no_longer_than_the_file_at_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let storage = Arc::new(MemoryStorage::new());
    let source = database(storage.clone());
    source.compact_to(&path, &mut ()).unwrap();
    source.wait_until_idle().unwrap();
    let (rest, copy) = (storage.length().unwrap(), fs::metadata(&path).unwrap().len());
    assert!(copy <= rest + (256 << 10), "{copy} bytes, and {rest} at rest");
    assert!(rest <= copy + copy / 4 + (256 << 10), "{copy} bytes, and {rest} at rest");
}

#[test]
fn writers_go_on_and_the_copy_shows_the_instant_of_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let source = database(Arc::new(MemoryStorage::new()));
    let expected = all_of(&source);
    let writer = source.keyspace("first").unwrap();
    let mut round = 100;
    source
        .compact_to(&path, &mut |_: u64, _: u64| {
            round += 1;
            load(&writer, round, 300);
            source.keyspace(&format!("made {round}")).unwrap();
            source.flush().unwrap();
            source.wait_until_idle().unwrap();
            true
        })
        .unwrap();
    assert!(round > 105, "{round}");
    assert_ne!(all_of(&source), expected);
    assert_eq!(all_of(&builder().open(&path).unwrap()), expected);
    assert_eq!(access::verify(&source).unwrap(), None);
}

#[test]
fn progress_ascends_to_its_total_and_a_cancelled_copy_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let source = database(Arc::new(MemoryStorage::new()));
    let mut reports = Vec::new();
    let mut note = |done: u64, total: u64| {
        reports.push((done, total));
        true
    };
    source.compact_to(&path, &mut note).unwrap();
    assert!(reports.len() > 5, "{reports:?}");
    assert!(reports.is_sorted(), "{reports:?}");
    let (done, total) = *reports.last().unwrap();
    assert!(done == total && reports.iter().all(|report| report.1 == total), "{reports:?}");
    fs::remove_file(&path).unwrap();
    for at in 0..reports.len() {
        let mut left = at;
        let cancelled = source.compact_to(&path, &mut |_: u64, _: u64| {
            let goes_on = left > 0;
            left = left.saturating_sub(1);
            goes_on
        });
        assert!(matches!(cancelled, Err(Error::Cancelled)), "at {at}: {cancelled:?}");
        assert!(names_in(folder.path()).is_empty(), "at {at}");
    }
}

#[test]
fn what_is_there_already_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("there");
    fs::write(&path, b"something").unwrap();
    let source = database(Arc::new(MemoryStorage::new()));
    let error = source.compact_to(&path, &mut ()).unwrap_err();
    assert!(matches!(error, Error::AlreadyExists(_)), "{error:?}");
    assert!(error.to_string().contains("there exists already"), "{error}");
    assert!(source.compact_to(folder.path(), &mut ()).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"something");
    assert_eq!(names_in(folder.path()), ["there"]);
}

#[test]
fn a_value_larger_than_the_budget_is_copied_piece_by_piece() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let source = builder().open_in_memory().unwrap();
    let keyspace = source.keyspace("a").unwrap();
    let mut value = vec![0; 20 << 20];
    Random::from_seed(1).fill(&mut value);
    keyspace.put_stream("large", value.as_slice()).unwrap();
    let mut reports = 0;
    source
        .compact_to(&path, &mut |_: u64, _: u64| {
            reports += 1;
            true
        })
        .unwrap();
    assert!(reports > 20, "{reports}");
    let copy = builder().open(&path).unwrap();
    let mut read = Vec::new();
    let keyspace = copy.keyspace("a").unwrap();
    keyspace.get_stream("large").unwrap().unwrap().read_to_end(&mut read).unwrap();
    assert!(read == value);
    assert_eq!(access::verify(&copy).unwrap(), None);
}

/// It is a database of its own, with a budget, maps and keyspaces: the source's cache gives way to
/// them for as long as it is made.
#[test]
fn what_a_copy_takes_counts_for_its_source_while_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let source = builder().memory_budget(64 << 20).open_in_memory().unwrap();
    for number in 0..100 {
        let keyspace = source.keyspace(&format!("keyspace {number}")).unwrap();
        keyspace.put("key", vec![7; 2000]).unwrap();
    }
    source.flush().unwrap();
    let counted = || {
        let memory = source.stats().unwrap().memory;
        [memory.merge_buffers, memory.free_maps, memory.other]
    };
    for is_cancelled in [false, true] {
        let (before, mut reports) = (counted(), 0);
        let result = source.compact_to(
            folder.path().join(format!("copy {is_cancelled}")),
            &mut |done: u64, total: u64| {
                reports += 1;
                if done < total {
                    let [buffers, maps, other] = counted();
                    assert!(buffers >= before[0] + (4 << 20), "{buffers} bytes of buffers");
                    assert!(maps > before[1], "{maps} bytes of maps");
                    assert!(other > before[2] + 100 * 50, "{other} bytes of keyspaces");
                }
                !is_cancelled
            },
        );
        assert_eq!(result.is_err(), is_cancelled, "{result:?}");
        assert!(reports > 0);
        assert_eq!(counted(), before);
    }
}

/// In the other process: where it may work.
#[cfg(target_os = "linux")]
const FOLDER: &str = "SAPWOOD_COPIES_FOLDER";
#[cfg(target_os = "linux")]
const LONG_BYTES: u64 = 48 << 20;

/// In a process of its own, whose peak is that of this alone.
#[test]
#[cfg(target_os = "linux")]
fn a_long_value_is_put_copied_and_read_in_less_memory_than_it_has_bytes() {
    let test = "a_long_value_is_put_copied_and_read_in_less_memory_than_it_has_bytes";
    if let Some(folder) = std::env::var_os(FOLDER) {
        return put_copy_and_read(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", test, "--test-threads", "1"]).env(FOLDER, folder.path());
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed") && names_in(folder.path()).len() == 2, "{said}");
}

#[cfg(target_os = "linux")]
fn put_copy_and_read(folder: &Path) {
    let source = builder().open(folder.join("source")).unwrap();
    let plain = KeyspaceOptions::default().value_compression(Compression::None);
    let keyspace = source.keyspace_with("a", plain).unwrap();
    keyspace.put_stream("long", std::io::repeat(7).take(LONG_BYTES)).unwrap();
    let path = folder.join("copy");
    source.compact_to(&path, &mut ()).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > LONG_BYTES);
    let copy = builder().open(&path).unwrap();
    let mut long = copy.keyspace("a").unwrap().get_stream("long").unwrap().unwrap();
    assert_eq!(std::io::copy(&mut long, &mut std::io::sink()).unwrap(), LONG_BYTES);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    assert!(peak_kib << 10 < LONG_BYTES / 2, "{peak_kib} KiB");
}

#[test]
fn damage_of_the_source_is_an_error_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy");
    let storage = Arc::new(MemoryStorage::new());
    let source = database(storage.clone());
    source.wait_until_idle().unwrap();
    let leaf = {
        let core = source.core().unwrap();
        let state = core.state();
        let (_, levels) = state.levels.iter().next().unwrap();
        levels.last().unwrap().points.as_ref().unwrap().reference.page
    };
    source.close().unwrap();
    let source = builder().open_on(storage.clone()).unwrap();
    storage.write_at(leaf.0 * 4096 + 100, &[0x55; 64]).unwrap();
    let error = source.compact_to(&path, &mut ()).unwrap_err();
    assert!(error.is_corruption(), "{error:?}");
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn a_copy_of_a_closed_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = database(Arc::new(MemoryStorage::new()));
    let other = source.clone();
    source.close().unwrap();
    let error = other.compact_to(folder.path().join("copy"), &mut ()).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error:?}");
    assert!(names_in(folder.path()).is_empty());
}
