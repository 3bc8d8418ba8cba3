//! Nodes that are read in place: the same answers, the same checks, and nothing that is changed or
//! cut off under a reader. The histories of `model.rs` and `durability.rs` read in place, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crash_lsm::access;
use crash_lsm::fixtures::{ARRANGEMENTS, KeyChange, arrange, result_of, run_all_steps};
use crash_lsm::setup::Setup;
use sapwood::storage::{MemoryStorage, SimulatedStorage, Storage};
use sapwood::sync::preempt::set_hook;
use sapwood::sync::{Arc, Random};
use sapwood::{Compression, Database, Durability, Isolation, Keyspace, KeyspaceOptions, Seek};
use tempfile::TempDir;

fn setup() -> Setup {
    Setup { region_bytes: 1 << 20, memory_map: true, ..Setup::tiny() }
}

fn plain() -> KeyspaceOptions {
    KeyspaceOptions::default().compression(Compression::None).value_compression(Compression::None)
}

fn in_place(database: &Database) -> u64 {
    database.stats().unwrap().nodes_in_place
}

fn changes(random: &mut Random, count: u64) -> Vec<KeyChange> {
    let one = |random: &mut Random| {
        let key = format!("{:05}", random.below(2 * count)).into_bytes();
        let mut value = vec![0; random.below(300) as usize];
        random.fill(&mut value);
        (key, (!random.one_in(5)).then_some(value))
    };
    (0..count).map(|_| one(random)).collect()
}

fn file() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    (directory, path)
}

/// Empties the cache, so that nodes come from the file.
fn forget(database: &Database) {
    database.core().unwrap().pages.cache().clear();
}

/// The first write after an open writes the file's length anew, which was refused where something
/// had been read in place in its last MiB: writing stopped, in this process and in the next.
#[test]
fn what_is_read_in_place_before_the_first_write_does_not_hinder_it() {
    let (_directory, path) = file();
    for round in 0..3u32 {
        let database = setup().builder().open(&path).unwrap();
        let keyspace = match round {
            0 => database.keyspace_with("a", plain()).unwrap(),
            _ => database.existing_keyspace("a").unwrap(),
        };
        let mut held = keyspace.iter().unwrap();
        assert_eq!(held.by_ref().take(3).count(), if round == 0 { 0 } else { 3 });
        assert_eq!(keyspace.iter().unwrap().count() as u32, 500 * round);
        assert!(round == 0 || in_place(&database) > 0);
        for number in 0..500 {
            keyspace.put(format!("{number:05} {round}"), [1; 100]).unwrap();
        }
        drop(held);
        database.close().unwrap();
    }
}

#[test]
fn what_is_read_in_place_is_what_was_written_wherever_it_lies() {
    let mut random = Random::from_seed(1);
    for arrangement in ARRANGEMENTS {
        for options in [plain(), KeyspaceOptions::default()] {
            let (_directory, path) = file();
            let changes = changes(&mut random, 1500);
            let database = setup().builder().open(&path).unwrap();
            let keyspace = database.keyspace_with("a", options).unwrap();
            arrange(&database, &keyspace, arrangement, &changes).unwrap();
            let expected = result_of(&changes);
            forget(&database);
            assert_eq!(access::collect(keyspace.iter().unwrap()).unwrap(), expected);
            assert_eq!(access::collect_back(keyspace.iter().unwrap()).unwrap(), expected);
            for (key, value) in &expected {
                assert_eq!(keyspace.get(key).unwrap().unwrap(), **value);
            }
            database.close().unwrap();
            for builder in [setup().builder(), setup().builder().read_only(true)] {
                let database = builder.open(&path).unwrap();
                let keyspace = database.keyspace("a").unwrap();
                assert_eq!(access::collect(keyspace.iter().unwrap()).unwrap(), expected);
                assert_eq!(access::verify(&database).unwrap(), None);
                if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
                    assert!(in_place(&database) > 0, "{arrangement:?}");
                }
                database.close().unwrap();
            }
        }
    }
}

#[test]
fn where_there_is_no_map_and_without_the_option_nodes_are_read() {
    let simulated: Arc<dyn Storage> = Arc::new(SimulatedStorage::new());
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for (storage, memory_map, expected) in
        [(simulated.clone(), true, true), (simulated, false, false), (memory, true, false)]
    {
        let setup = Setup { memory_map, ..setup() };
        let database = setup.open_on(storage).unwrap();
        let keyspace = database.keyspace_with("a", plain()).unwrap();
        for number in 0..500u32 {
            keyspace.put(number.to_be_bytes(), [7; 100]).unwrap();
        }
        database.flush().unwrap();
        forget(&database);
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 500);
        assert_eq!(in_place(&database) > 0, expected, "{memory_map}");
        database.close().unwrap();
    }
}

/// Only what is decompressed, and nodes with reserved bytes, take room in the cache.
#[test]
fn nodes_in_place_take_next_to_nothing_of_the_budget() {
    let used = |memory_map: bool, reserved_bytes: u16| {
        let (_directory, path) = file();
        let setup = Setup { memory_map, reserved_bytes, ..setup() };
        let database = setup.builder().open(&path).unwrap();
        let keyspace = database.keyspace_with("a", plain()).unwrap();
        for number in 0..5000u32 {
            keyspace.put(number.to_be_bytes(), [7; 100]).unwrap();
        }
        database.flush().unwrap();
        database.compact().unwrap();
        forget(&database);
        for number in 0..5000u32 {
            assert_eq!(keyspace.get(number.to_be_bytes()).unwrap().unwrap(), [7; 100]);
        }
        let stats = database.stats().unwrap();
        (stats.memory.cache, stats.cache_misses)
    };
    let ((read, _), (mapped, misses), (reserved, _)) =
        (used(false, 0), used(true, 0), used(true, 64));
    assert!(read > 400_000 && reserved > 400_000, "{read} {reserved}");
    if cfg!(all(target_os = "linux", target_pointer_width = "64")) {
        assert!(mapped < read / 3, "{mapped} of {read}");
        // They are in the cache, so that each is checked once.
        assert!(misses < 3000, "{misses}");
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// As with reads: what is damaged is an error with its page, and the rest is right.
#[test]
fn a_flipped_bit_is_seen_in_place() {
    let (_directory, path) = file();
    let database = setup().builder().open(&path).unwrap();
    let keyspace = database.keyspace_with("a", plain()).unwrap();
    for number in 0..1000u32 {
        keyspace.put(number.to_be_bytes(), number.to_le_bytes().repeat(20)).unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
    database.close().unwrap();
    // In the middle of a value, which lies in one leaf.
    let value = 500u32.to_le_bytes().repeat(20);
    let bytes = fs::read(&path).unwrap();
    let found = bytes.windows(value.len()).rposition(|window| window == value).unwrap();
    flip(&path, found + 40);
    let database = setup().builder().open(&path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut bad = 0;
    for number in 0..1000u32 {
        match keyspace.get(number.to_be_bytes()) {
            Ok(found) => assert_eq!(found.unwrap(), number.to_le_bytes().repeat(20)),
            Err(error) => {
                bad += 1;
                assert!(error.is_corruption(), "{error}");
                let text = error.to_string();
                assert!(text.contains("leaf at page ") && text.contains("checksum"), "{text}");
            }
        }
    }
    assert!((1..100).contains(&bad), "{bad} keys were lost");
}

/// Long enough that it would keep its frame, and of a length that goes to no blocks of its own.
const VALUE_BYTES: usize = 1400;

fn filled(database: &Database, keyspace: &Keyspace, rounds: u32) {
    for round in 0..rounds {
        for number in 0..400u32 {
            let mut value = vec![round as u8; VALUE_BYTES];
            value[..4].copy_from_slice(&number.to_le_bytes());
            keyspace.put(number.to_be_bytes(), value).unwrap();
        }
        database.flush().unwrap();
        run_all_steps(database).unwrap();
    }
}

/// Values of a length that would otherwise keep their frame: the blocks under them are used again,
/// and the file is cut, while they are held.
#[test]
fn values_that_were_handed_out_are_copies_and_keep_nothing_back() {
    let storage = SimulatedStorage::new();
    let (_directory, path) = file();
    for on_disk in [false, true] {
        // Leaves in which such values lie themselves.
        let builder = Setup { leaf_bytes: 16 << 10, ..setup() }.builder();
        let database = match on_disk {
            true => builder.open(&path).unwrap(),
            false => builder.open_on(Arc::new(storage.clone())).unwrap(),
        };
        let keyspace = database.keyspace_with("a", plain()).unwrap();
        filled(&database, &keyspace, 1);
        forget(&database);
        let read = |number: u32| keyspace.get(number.to_be_bytes()).unwrap().unwrap();
        let values: Vec<_> = (0..400).map(read).collect();
        assert!(in_place(&database) > 0 || !cfg!(target_os = "linux"));
        filled(&database, &keyspace, 6);
        let full = database.stats().unwrap().file_bytes;
        keyspace.delete_range::<&str>(..).unwrap();
        database.flush().unwrap();
        database.wait_until_idle().unwrap();
        database.close().unwrap();
        for (number, value) in (0..400u32).zip(&values) {
            assert_eq!((&value[..4], value[VALUE_BYTES - 1]), (&number.to_le_bytes()[..], 0));
        }
        let length = match on_disk {
            true => fs::metadata(&path).unwrap().len(),
            false => storage.length().unwrap(),
        };
        assert!(length < full / 2, "{length} of {full}: the file was not cut");
    }
}

/// How long a file is when it is at rest, and when it is closed, beside nodes that are cached.
fn lengths_beside_a_cache(memory_map: bool) -> (u64, u64) {
    let (_directory, path) = file();
    let database = Setup { memory_map, ..setup() }.builder().open(&path).unwrap();
    let kept = database.keyspace_with("kept", plain()).unwrap();
    let keyspace = database.keyspace_with("a", plain()).unwrap();
    let check_kept = || {
        for number in 0..100u32 {
            assert_eq!(kept.get(number.to_be_bytes()).unwrap().unwrap(), [9; 50]);
        }
    };
    for number in 0..100u32 {
        kept.put(number.to_be_bytes(), [9; 50]).unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
    filled(&database, &keyspace, 1);
    keyspace.delete_range::<&str>(..).unwrap();
    database.flush().unwrap();
    forget(&database);
    check_kept();
    database.wait_until_idle().unwrap();
    let at_rest = fs::metadata(&path).unwrap().len();
    check_kept();
    keyspace.put("k", "v").unwrap();
    database.close().unwrap();
    let closed = fs::metadata(&path).unwrap().len();
    assert!(at_rest.max(closed) < 2 << 20, "{at_rest} {closed}: the kept keys lie elsewhere");
    (at_rest, closed)
}

/// What the cache holds in place lies in the MiB in which the file is to end.
#[test]
fn what_is_cached_in_place_does_not_keep_the_file_long() {
    assert_eq!(lengths_beside_a_cache(true), lengths_beside_a_cache(false));
}

/// A cursor holds nodes in place, behind which the file would be cut: it is cut later, or not
/// there, and the cursor reads on.
#[test]
fn cursors_and_snapshots_read_on_in_place_while_the_file_shrinks() {
    let (_directory, path) = file();
    let database = setup().builder().open(&path).unwrap();
    let keyspace = database.keyspace_with("a", plain()).unwrap();
    filled(&database, &keyspace, 4);
    let mut cursors = Vec::new();
    for start in (0..400u32).step_by(40) {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.seek(start.to_be_bytes(), Seek::AtOrAfter).unwrap());
        cursors.push((start, cursor));
    }
    let snapshot = database.snapshot().unwrap();
    keyspace.delete_range::<&str>(..).unwrap();
    database.flush().unwrap();
    database.wait_until_idle().unwrap();
    for (start, cursor) in &mut cursors {
        for number in *start..400 {
            assert_eq!(cursor.key().unwrap(), number.to_be_bytes());
            assert_eq!(cursor.value().unwrap()[VALUE_BYTES - 1], 3);
            assert_eq!(cursor.next().unwrap(), number < 399);
        }
    }
    assert_eq!(snapshot.count::<&str>(&keyspace, ..).unwrap(), 400);
    let transaction = database.begin(Isolation::Serializable).unwrap();
    let mut open = snapshot.iter(&keyspace).unwrap();
    assert!(open.next().is_some());
    drop(snapshot);
    database.wait_until_idle().unwrap();
    // An iterator that outlives the database holds its node, and the close does not wait for it.
    database.close().unwrap();
    assert!(open.next().is_none_or(|next| next.is_err()) || open.any(|next| next.is_err()));
    drop((open, transaction, cursors));
    let database = setup().builder().open(&path).unwrap();
    assert_eq!(database.keyspace("a").unwrap().count::<&str>(..).unwrap(), 0);
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// A walk let go of its snapshot before the leaf that it read in place: in between the leaf's pages
/// could be used again.
#[test]
fn what_a_walk_reads_in_place_goes_before_what_holds_it() {
    let storage = SimulatedStorage::new();
    let builder = Database::builder().memory_budget(4 << 20).merge_threads(0).memory_map(true);
    let builder = builder.page_size(1024).region_bytes(1 << 20).durability(Durability::Memory);
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let plain = KeyspaceOptions::default().compression(Compression::None);
    let keyspace = database.keyspace_with("a", plain).unwrap();
    let write = move |value: u8| {
        let mut batch = database.batch();
        for number in 0..2000_u32 {
            batch.put(&keyspace, number.to_be_bytes(), [value; 60]).unwrap();
        }
        batch.commit().unwrap();
        database.flush().unwrap();
        database.wait_until_idle().unwrap();
        (database.clone(), keyspace.clone())
    };
    let (database, keyspace) = write(1);
    let mut range = keyspace.iter().unwrap();
    range.next().unwrap().unwrap();
    write(2);
    let (is_inside, rounds) = (Cell::new(false), Rc::new(Cell::new(0)));
    let made = rounds.clone();
    let before = set_hook(Some(Rc::new(move || {
        if made.get() < 3 && !is_inside.replace(true) {
            write(made.get() + 3);
            made.set(made.get() + 1);
            is_inside.set(false);
        }
    })));
    drop(range);
    set_hook(before);
    assert!(rounds.get() > 0, "nothing came between");
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 2000);
    drop(database);
}
