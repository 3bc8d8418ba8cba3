//! Bad input and bad surroundings: a clear error whose text is tested, and nothing lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};

use crash_lsm::access;
use crash_lsm::fixtures::{run_all_steps, tiny};
use crash_lsm::setup::Setup;
use sapwood::state::recovery::{ReadState, read_newest_state};
use sapwood::storage::{FileStorage, MemoryStorage, SimulatedStorage};
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Durability, Error, Isolation, KeyspaceOptions, Result};
use tempfile::TempDir;

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.db");
    (directory, path)
}

fn open(path: &Path) -> Result<Database> {
    Setup::tiny().builder().open(path)
}

fn made(path: &Path) {
    let database = open(path).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..200 {
        keyspace.put(format!("{n:03}"), "value").unwrap();
    }
    database.close().unwrap();
}

fn check_nothing_lost(path: &Path) {
    let database = open(path).unwrap();
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 200);
}

/// The text of an error names all of `words`.
fn assert_says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{text:?} does not say {word:?}");
    }
}

fn rewrite_slots(path: &Path, change: impl Fn(&mut [u8])) {
    let mut bytes = fs::read(path).unwrap();
    for slot in 0..2 {
        let unit = &mut bytes[slot * 4096..(slot + 1) * 4096];
        change(unit);
        unit[8..12].fill(0);
        let sum = crc32(unit);
        unit[8..12].copy_from_slice(&sum.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

#[test]
fn a_file_of_something_else_is_named_and_left_as_it_is() {
    let (_directory, path) = directory();
    let mut disk_image = vec![0; 32 << 10];
    disk_image.extend_from_slice(b"\x01CD001");
    disk_image.resize(3 << 20, 5);
    let letter = b"This is a letter.".to_vec();
    let short = b"note".to_vec();
    // What begins with zeros has been taken for a database of which the making was cut short.
    // Four bytes have been taken for a mark of which the write was torn.
    let zeros = [vec![0; 1], vec![0; 8], vec![0; 4096], vec![0; 64 << 10]];
    let others = [letter, short, vec![7; 100_000], vec![b'x'; 4096], disk_image];
    for content in others.into_iter().chain(zeros) {
        fs::write(&path, &content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, Error::NotADatabase(_)), "{error:?}");
        assert_says(&error, &["test.db", "not a Sapwood database"]);
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

/// A database whose first 8 KiB were zeroed was taken for one of which the making was cut short,
/// and a new one was made over it.
#[test]
fn a_database_that_has_lost_both_slots_is_left_as_it_is() {
    let (_directory, path) = directory();
    made(&path);
    let whole = fs::read(&path).unwrap();
    for (first, second) in [(0, 0), (0, b'?'), (b'?', 0)] {
        let mut content = whole.clone();
        content[..4096].fill(first);
        content[4096..8192].fill(second);
        fs::write(&path, &content).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, Error::NotADatabase(_)), "{error:?}");
        assert!(fs::read(&path).unwrap() == content, "{first} {second}");
    }
    fs::write(&path, whole).unwrap();
    check_nothing_lost(&path);
}

#[test]
fn a_file_of_a_newer_format_says_which_and_what_to_do() {
    let (_directory, path) = directory();
    made(&path);
    let before = fs::read(&path).unwrap();
    rewrite_slots(&path, |unit| unit[12..16].copy_from_slice(&9u32.to_le_bytes()));
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::UnsupportedVersion { found: 9, supported: 1, .. }), "{error:?}");
    assert_says(&error, &["test.db", "version 9", "newer library"]);
    fs::write(&path, before).unwrap();
    check_nothing_lost(&path);
}

/// Where the feature words lie in a slot: may be ignored, may be read, must be known.
const FEATURE_WORDS: [usize; 3] = [56, 64, 72];

fn word_at(unit: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(unit[offset..offset + 8].try_into().unwrap())
}

fn feature_words(path: &Path) -> Vec<[u64; 3]> {
    let bytes = fs::read(path).unwrap();
    let of = |slot: usize| FEATURE_WORDS.map(|offset| word_at(&bytes[slot * 4096..], offset));
    vec![of(0), of(1)]
}

/// A made file with these bits set in one feature word of both slots.
fn made_with_features(path: &Path, offset: usize, bits: u64) {
    let _ = fs::remove_file(path);
    made(path);
    rewrite_slots(path, |unit| unit[offset..offset + 8].copy_from_slice(&bits.to_le_bytes()));
}

/// What a reader gets that writes nothing.
fn read_only(path: &Path) -> Result<ReadState> {
    read_newest_state(&FileStorage::open_unlocked_read_only(path)?, true)
}

fn assert_unknown<T: std::fmt::Debug>(result: Result<T>, expected: u64, allowed: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::UnknownFeature { bits, .. } if bits == expected),
        "{error:?}, not {expected:#x}"
    );
    assert_says(&error, &["test.db", &format!("unknown features {expected:#x}"), allowed]);
    assert_says(&error, &["use a newer library"]);
}

#[test]
fn a_file_of_this_version_sets_no_feature() {
    let (_directory, path) = directory();
    made(&path);
    assert_eq!(feature_words(&path), [[0; 3]; 2]);
}

#[test]
fn an_unknown_feature_that_must_be_known_forbids_reading_and_writing() {
    let (_directory, path) = directory();
    for bits in (0..64).step_by(9).map(|bit| 1 << bit).chain([u64::MAX]) {
        made_with_features(&path, 72, bits);
        let before = fs::read(&path).unwrap();
        assert_unknown(open(&path), bits, "neither read nor written");
        assert_unknown(read_only(&path), bits, "neither read nor written");
        let opened = Database::builder().read_only(true).open(&path);
        assert_unknown(opened, bits, "neither read nor written");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn an_unknown_feature_that_may_be_read_forbids_writing_alone() {
    let (_directory, path) = directory();
    for bits in (0..64).step_by(9).map(|bit| 1 << bit).chain([u64::MAX]) {
        made_with_features(&path, 64, bits);
        let before = fs::read(&path).unwrap();
        assert_unknown(open(&path), bits, "read but not written");
        let read = read_only(&path).unwrap();
        assert_eq!(read.slot.features_read_only, bits);
        let database = Database::builder().read_only(true).open(&path).unwrap();
        let keyspace = database.existing_keyspace("a").unwrap();
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 200);
        assert!(matches!(keyspace.put("k", "v"), Err(Error::ReadOnly)));
        database.close().unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

/// Who does not know a feature does not keep up what it stands for: its bit goes with the first
/// state that is written, and stays when nothing is.
#[test]
fn an_unknown_feature_that_may_be_ignored_forbids_nothing_and_goes_with_the_next_state() {
    let (_directory, path) = directory();
    for bits in [1, 1 << 63, u64::MAX] {
        made_with_features(&path, 56, bits);
        assert_eq!(read_only(&path).unwrap().slot.features_ignorable, bits);
        check_nothing_lost(&path);
        assert_eq!(feature_words(&path), [[bits, 0, 0]; 2], "it was only read");
        let database = open(&path).unwrap();
        database.existing_keyspace("a").unwrap().put("000", "another").unwrap();
        database.close().unwrap();
        assert_eq!(feature_words(&path), [[0; 3]; 2]);
        check_nothing_lost(&path);
    }
}

/// The older state would open, without the commits that came after it.
#[test]
fn an_unknown_feature_of_the_newest_state_is_not_evaded_by_taking_the_older_one() {
    let (_directory, path) = directory();
    for (offset, allowed) in [(64, "read but not written"), (72, "neither read nor written")] {
        let _ = fs::remove_file(&path);
        made(&path);
        let generations = |bytes: &[u8]| [16, 4096 + 16].map(|offset| word_at(bytes, offset));
        let newest = generations(&fs::read(&path).unwrap()).into_iter().max().unwrap();
        rewrite_slots(&path, |unit| unit[offset] = 4 * u8::from(word_at(unit, 16) == newest));
        assert_unknown(open(&path), 4, allowed);
    }
}

#[test]
fn options_that_were_fixed_when_the_file_was_made_must_be_the_same() {
    let (_directory, path) = directory();
    made(&path);
    for (builder, option) in [
        (Database::builder().page_size(8192), "page_size"),
        (Database::builder().reserved_bytes(64), "reserved_bytes"),
        (Database::builder().region_bytes(1 << 20), "region_bytes"),
    ] {
        match builder.open(&path) {
            Err(error) => {
                assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
                assert_says(&error, &[option]);
            }
            Ok(_) => panic!("{option} was taken though the file has another"),
        }
    }
    check_nothing_lost(&path);
}

#[test]
fn options_that_were_never_set_are_taken_from_the_file() {
    let (_directory, path) = directory();
    made(&path);
    let database = Database::open(&path).unwrap();
    assert_eq!(database.existing_keyspace("a").unwrap().count::<&str>(..).unwrap(), 200);
}

#[test]
fn options_out_of_range_say_what_is_allowed() {
    let (_directory, path) = directory();
    let builder = Database::builder;
    for (builder, words) in [
        (builder().page_size(1000), ["page_size", "power of two"]),
        (builder().page_size(1 << 17), ["page_size", "65536"]),
        (builder().reserved_bytes(7), ["reserved_bytes", "multiple of 8"]),
        (builder().memory_budget(1000), ["memory_budget", "4194304"]),
        (builder().leaf_bytes(0), ["leaf_bytes", "1 to 65536"]),
        (builder().merge_threads(1000), ["merge_threads", "64"]),
        (builder().region_bytes(12345), ["region_bytes", "power of two"]),
    ] {
        let error = builder.open(&path).unwrap_err();
        assert_says(&error, &words);
        assert!(!path.exists(), "{error}");
    }
}

#[test]
fn a_small_region_takes_the_longest_keys_or_is_refused_and_leaves_no_file() {
    for region_bytes in [64 << 10, 128 << 10, 256 << 10] {
        let (_directory, path) = directory();
        match Setup::tiny().builder().region_bytes(region_bytes).open(&path) {
            Err(error) => {
                assert_says(&error, &["region_bytes"]);
                assert!(!path.exists(), "{region_bytes}");
            }
            Ok(database) => {
                let keyspace = database.keyspace("a").unwrap();
                for n in 0..40u32 {
                    let mut key = vec![b'k'; 16_384];
                    key[16_380..].copy_from_slice(&n.to_be_bytes());
                    keyspace.put(key, "v").unwrap();
                }
                database.flush().unwrap();
                run_all_steps(&database).unwrap();
                database.compact().unwrap();
                assert_eq!(keyspace.count::<&str>(..).unwrap(), 40, "{region_bytes}");
            }
        }
    }
}

#[test]
fn a_directory_is_no_database() {
    let (directory, _) = directory();
    let error = open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::NotAFile { .. }), "{error:?}");
    assert_says(&error, &["directory"]);
}

#[test]
fn a_file_that_is_not_there_is_made_only_when_asked_for() {
    let (_directory, path) = directory();
    let error = Database::builder().create(false).open(&path).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error:?}");
    assert_says(&error, &["test.db", "does not exist", "create(true)"]);
    assert!(!path.exists());
    assert!(Database::builder().read_only(true).open(&path).is_err());
    assert!(!path.exists());
}

/// A path gave `NotADatabase`, which says that something else is there, and a storage `NotFound`.
#[test]
fn an_empty_file_counts_as_none_however_it_is_opened() {
    let (_directory, path) = directory();
    fs::write(&path, []).unwrap();
    for builder in [Database::builder().create(false), Database::builder().read_only(true)] {
        let on_path = builder.clone().open(&path).unwrap_err();
        assert!(matches!(&on_path, Error::NotFound(named) if *named == path), "{on_path:?}");
        assert_says(&on_path, &["test.db", "nothing is in it yet", "create(true)"]);
        let on_storage = builder.open_on(Arc::new(MemoryStorage::new())).unwrap_err();
        assert!(matches!(on_storage, Error::NotFound(_)), "{on_storage:?}");
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    }
    open(&path).unwrap().close().unwrap();
    assert!(Database::builder().create(false).open(&path).is_ok());
}

#[test]
fn a_second_opener_is_refused_and_the_first_goes_on() {
    let (_directory, path) = directory();
    let database = open(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    assert_says(&error, &["test.db", "in use"]);
    database.keyspace("a").unwrap().put("k", "v").unwrap();
    database.close().unwrap();
    drop(open(&path).unwrap());
    drop(open(&path).unwrap());
}

#[test]
fn nothing_stays_beside_the_file_after_a_clean_close() {
    let (directory, path) = directory();
    made(&path);
    let names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["test.db"]);
}

#[test]
fn a_key_that_is_too_long_is_refused_with_both_lengths() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let long = vec![b'k'; 16_385];
    let longest = vec![b'k'; 16_384];
    let error = keyspace.put(&long, "v").unwrap_err();
    assert!(matches!(error, Error::KeyTooLong { length: 16_385, limit: 16_384 }), "{error:?}");
    assert_says(&error, &["16385", "16384"]);
    assert!(keyspace.delete(&long).is_err());
    keyspace.put(&longest, "v").unwrap();
    assert_eq!(keyspace.get(&longest).unwrap().unwrap(), b"v");
    assert!(matches!(keyspace.get(&long), Ok(None) | Err(Error::KeyTooLong { .. })));
    let mut batch = database.batch();
    batch.put(&keyspace, "other", "v").unwrap();
    assert!(batch.put(&keyspace, &long, "v").is_err());
    drop(batch);
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 1);
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    assert!(transaction.put(&keyspace, &long, "v").is_err());
}

#[test]
fn keyspaces_that_are_not_there_or_are_there_already_are_named() {
    let database = tiny().unwrap();
    let error = database.existing_keyspace("none").unwrap_err();
    assert!(matches!(error, Error::UnknownKeyspace(_)), "{error:?}");
    assert_says(&error, &["\"none\""]);
    assert!(matches!(database.drop_keyspace("none"), Err(Error::UnknownKeyspace(_))));
    assert!(matches!(database.rename_keyspace("none", "b"), Err(Error::UnknownKeyspace(_))));
    database.keyspace("a").unwrap();
    database.keyspace("b").unwrap();
    assert!(matches!(database.rename_keyspace("a", "b"), Err(Error::KeyspaceExists(_))));
    assert_eq!(database.keyspaces().unwrap(), ["a", "b"]);
    let error =
        database.keyspace_with("c", KeyspaceOptions::default().filter_bits(200)).unwrap_err();
    assert_says(&error, &["filter_bits", "32"]);
    assert_eq!(database.keyspaces().unwrap(), ["a", "b"]);
}

#[test]
fn the_handle_of_a_dropped_keyspace_says_so_and_one_made_anew_is_empty() {
    let database = tiny().unwrap();
    let old = database.keyspace("a").unwrap();
    old.put("k", "v").unwrap();
    database.drop_keyspace("a").unwrap();
    for result in [old.put("k", "v"), old.delete("k"), old.get("k").map(drop)] {
        assert!(matches!(result, Err(Error::KeyspaceDropped(_))), "{result:?}");
    }
    let new = database.keyspace("a").unwrap();
    assert!(new.first().unwrap().is_none());
    assert!(matches!(old.get("k"), Err(Error::KeyspaceDropped(_))));
    new.put("k", "new").unwrap();
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    assert_eq!(new.get("k").unwrap().unwrap(), b"new");
}

#[test]
fn a_keyspace_of_another_database_is_refused() {
    let (one, two) = (tiny().unwrap(), tiny().unwrap());
    let foreign = two.keyspace("a").unwrap();
    one.keyspace("a").unwrap();
    let mut batch = one.batch();
    let put = batch.put(&foreign, "k", "v");
    let result = put.and_then(|()| batch.commit());
    assert!(matches!(result, Err(Error::ForeignKeyspace(_))), "{result:?}");
    let snapshot = one.snapshot().unwrap();
    assert!(matches!(snapshot.get(&foreign, "k"), Err(Error::ForeignKeyspace(_))));
}

#[test]
fn a_closed_database_says_so_everywhere_and_what_was_handed_out_stays() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("k", vec![b'v'; 20_000]).unwrap();
    database.flush().unwrap();
    let value = keyspace.get("k").unwrap().unwrap();
    let snapshot = database.snapshot().unwrap();
    let other = database.clone();
    database.close().unwrap();
    for result in [
        keyspace.put("k", "v"),
        keyspace.get("k").map(drop),
        keyspace.iter().map(drop),
        snapshot.get(&keyspace, "k").map(drop),
        other.flush(),
        other.sync(),
        other.snapshot().map(drop),
        other.keyspaces().map(drop),
        other.begin(Isolation::Snapshot).map(drop),
        other.close(),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Closed), "{error:?}");
        assert_says(&error, &["closed"]);
    }
    assert_eq!(value.len(), 20_000);
}

#[test]
fn an_inverted_range_is_an_error_and_an_empty_one_is_not() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("m", "v").unwrap();
    let error = keyspace.range("z".."a").unwrap_err();
    assert!(matches!(error, Error::InvalidRange), "{error:?}");
    assert_says(&error, &["start lies after its end"]);
    assert!(matches!(keyspace.delete_range("z".."a"), Err(Error::InvalidRange)));
    assert!(matches!(keyspace.count("z".."a"), Err(Error::InvalidRange)));
    assert!(matches!(database.batch().delete_range(&keyspace, "z".."a"), Err(Error::InvalidRange)));
    assert_eq!(keyspace.range("m".."m").unwrap().count(), 0);
    keyspace.delete_range("m".."m").unwrap();
    assert_eq!(keyspace.count("m"..="m").unwrap(), 1);
}

#[test]
fn errors_hold_neither_keys_nor_values() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let secret = "secret".repeat(3000);
    let error = keyspace.put(&secret, &secret).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"));
}

/// No space left: the write fails and says so, nothing acknowledged is lost, reads and deletes go
/// on, and with more space everything goes on.
#[test]
fn a_full_disk_loses_nothing_and_work_goes_on_when_there_is_space_again() {
    let storage = SimulatedStorage::new();
    let setup = Setup { region_bytes: 256 << 10, ..Setup::tiny() };
    let database = setup.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    storage.set_capacity(6 << 20);
    let mut random = Random::from_seed(1);
    let mut acknowledged = Vec::new();
    let error = loop {
        let key = format!("{:06}", acknowledged.len());
        let mut value = vec![0; 3000];
        random.fill(&mut value);
        let mut batch = database.batch();
        batch.put(&keyspace, &key, &value).unwrap();
        match batch.commit_with(Durability::Buffered) {
            Ok(()) => acknowledged.push((key, value)),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 10_000, "the disk is never full");
    };
    assert!(error.is_no_space(), "{error}");
    assert_says(&error, &["no space left"]);
    for (key, value) in acknowledged.iter().step_by(97) {
        assert_eq!(keyspace.get(key).unwrap().unwrap(), value[..]);
    }
    storage.set_capacity(u64::MAX);
    keyspace.delete_range("000100"..).unwrap();
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 100);
    for n in 0..200 {
        keyspace.put(format!("new {n:03}"), vec![b'v'; 2000]).unwrap();
    }
    keyspace.put("last", "v").unwrap();
    let before = access::dump(&database).unwrap();
    database.close().unwrap();
    let database =
        setup.open_on(Arc::new(storage.crash_copy(sapwood::storage::CrashPlan::KeepNone)));
    let database = database.unwrap();
    assert_eq!(access::dump(&database).unwrap().difference(&before), None);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_truncated_file_is_an_error_and_not_a_smaller_database() {
    let (_directory, path) = directory();
    made(&path);
    let whole = fs::read(&path).unwrap();
    let mut damaged = 0;
    for length in (0..whole.len()).step_by(1024).skip(1) {
        fs::write(&path, &whole[..length]).unwrap();
        let read = open(&path).and_then(|database| {
            let keyspace = database.existing_keyspace("a")?;
            access::collect(keyspace.iter()?)
        });
        match read {
            Err(error @ Error::NotADatabase(_)) => {
                assert_says(&error, &["test.db", "not a Sapwood"]);
            }
            Err(error) => {
                assert!(error.is_corruption(), "{length} of {} bytes: {error:?}", whole.len());
                assert_says(&error, &["damaged", "copy the file away", "diag_lsm verify"]);
                damaged += 1;
            }
            Ok(map) => assert_eq!(map.len(), 200, "{length} of {} bytes", whole.len()),
        }
    }
    assert!(damaged > 5, "{damaged} lengths gave an error");
    fs::write(&path, whole).unwrap();
    check_nothing_lost(&path);
}

#[test]
fn after_a_close_conditional_writes_many_keys_and_streams_say_closed() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("k", "v").unwrap();
    let earlier = database.snapshot().unwrap();
    keyspace.put("l", "w").unwrap();
    let snapshot = database.snapshot().unwrap();
    let mut keys = keyspace.iter().unwrap().keys();
    assert_eq!(keys.next().unwrap().unwrap(), "k");
    let mut transaction = database.begin(Isolation::Serializable).unwrap();
    let calls = keyspace.clone();
    let mut database = Some(database);
    let result = keyspace.update("k", |_| {
        // From inside: what was looked at is of no use then.
        if let Some(database) = database.take() {
            database.close().unwrap();
        }
        assert!(calls.get("k").is_err());
        Some(Vec::new())
    });
    let closed = |error: Error| assert_eq!(error.to_string(), "the database is closed");
    closed(result.unwrap_err());
    closed(keyspace.update("k", |_| panic!("there is nothing to update")).unwrap_err());
    closed(keyspace.put_if_absent("k", "v").unwrap_err());
    closed(keyspace.compare_and_set("k", Some(b"v"), None).unwrap_err());
    closed(keyspace.get_many(["k"]).unwrap_err());
    closed(snapshot.get_many(&keyspace, ["k"]).unwrap_err());
    closed(snapshot.changed_since(&earlier, &keyspace, "a"..).unwrap_err());
    closed(keys.next().unwrap().unwrap_err());
    assert!(keys.next().is_none(), "it ends after an error");
    closed(transaction.get_many(&keyspace, ["k"]).unwrap_err());
    closed(transaction.put_stream(&keyspace, "k", &b"short"[..]).unwrap_err());
    closed(transaction.get_stream(&keyspace, "k").unwrap_err());
}

#[test]
fn keys_that_are_too_long_and_keyspaces_of_others_are_refused_by_every_newer_call() {
    let (database, other) = (tiny().unwrap(), tiny().unwrap());
    let keyspace = database.keyspace("a").unwrap();
    let foreign = other.keyspace("a").unwrap();
    let long = vec![1; 20_000];
    let refused = |error: Error| assert_says(&error, &["20000", "16384"]);
    refused(keyspace.put_if_absent(&long, "v").unwrap_err());
    refused(keyspace.compare_and_set(&long, None, None).unwrap_err());
    refused(keyspace.update(&long, |_| None).unwrap_err());
    refused(keyspace.get_many([&long]).unwrap_err());
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    refused(transaction.put_stream(&keyspace, &long, &b"v"[..]).unwrap_err());
    refused(transaction.get_stream(&keyspace, &long).unwrap_err());
    let is_foreign = |error: Error| assert!(matches!(error, Error::ForeignKeyspace(_)), "{error}");
    is_foreign(transaction.put_stream(&foreign, "k", &b"v"[..]).unwrap_err());
    is_foreign(transaction.get_stream(&foreign, "k").unwrap_err());
    is_foreign(transaction.get_many(&foreign, ["k"]).unwrap_err());
    let snapshot = database.snapshot().unwrap();
    is_foreign(snapshot.get_many(&foreign, ["k"]).unwrap_err());
    is_foreign(snapshot.changed_since(&snapshot, &foreign, "a"..).unwrap_err());
    database.drop_keyspace("a").unwrap();
    let dropped = |error: Error| assert!(matches!(error, Error::KeyspaceDropped(_)), "{error}");
    dropped(keyspace.put_if_absent("k", "v").unwrap_err());
    dropped(keyspace.update("k", |_| None).unwrap_err());
    dropped(keyspace.get_many(["k"]).unwrap_err());
    dropped(transaction.put_stream(&keyspace, "k", &vec![1; 100_000][..]).unwrap_err());
}

#[test]
fn a_savepoint_of_another_transaction_or_rolled_back_is_refused_and_changes_nothing() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut transaction = database.begin(Isolation::Snapshot).unwrap();
    let mut other = database.begin(Isolation::Snapshot).unwrap();
    let first = transaction.savepoint();
    transaction.put(&keyspace, "k", "v").unwrap();
    let second = transaction.savepoint();
    let foreign = other.savepoint();
    let refused = |result: Result<()>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::InvalidSavepoint), "{error:?}");
        let expected =
            "the savepoint belongs to another transaction, or was rolled back; take a new one";
        assert_eq!(error.to_string(), expected);
    };
    refused(transaction.rollback_to(&foreign));
    refused(other.rollback_to(&second));
    assert_eq!(transaction.get(&keyspace, "k").unwrap().unwrap(), "v");
    transaction.rollback_to(&first).unwrap();
    refused(transaction.rollback_to(&second));
    assert!(transaction.get(&keyspace, "k").unwrap().is_none());
    transaction.rollback_to(&first).unwrap();
    transaction.put(&keyspace, "l", "w").unwrap();
    transaction.commit().unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 1);
}
