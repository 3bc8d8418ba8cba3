//! Damage: whatever bytes of a file are wrong, opening and reading give right data or an error
//! that names where it lies; never a panic, never wrong data.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crash_lsm::access;
use crash_lsm::fixtures::{run_all_steps, write};
use crash_lsm::model::State;
use crash_lsm::setup::Setup;
use sapwood::merge::verify::{Problem, walk_blocks};
use sapwood::page::NodeKind;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::{Arc, Random};
use sapwood::{
    Corruption, Database, Durability, Error, Isolation, Key, Keyspace, Result, Structure, Value,
};

/// A file with levels, young segments, range tombstones, overflow values, a filter and a log, and
/// what it holds.
fn made(closed: bool) -> (Vec<u8>, State) {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let other = database.keyspace("other").unwrap();
    let changes = |from: u32, step: usize| -> Vec<_> {
        (from..from + 300)
            .step_by(step)
            .map(|n| (format!("{n:05}").into_bytes(), Some(format!("value {n}").into_bytes())))
            .collect()
    };
    write(&database, &keyspace, &changes(0, 1)).unwrap();
    database.flush().unwrap();
    run_all_steps(&database).unwrap();
    write(&database, &keyspace, &changes(100, 2)).unwrap();
    keyspace.put("large", vec![b'l'; 9000]).unwrap();
    keyspace.delete_range("00020".."00030").unwrap();
    database.flush().unwrap();
    write(&database, &other, &changes(500, 5)).unwrap();
    keyspace.delete("00150").unwrap();
    database.sync().unwrap();
    let state = access::dump(&database).unwrap();
    if closed {
        database.close().unwrap();
        return (storage.image(), state);
    }
    let image = storage.image();
    drop(database);
    (image, state)
}

/// Opens and reads everything: right, or an error.
fn read(image: Vec<u8>) -> Result<(State, State)> {
    let storage = SimulatedStorage::from_image(image);
    let database = Setup::tiny().open_on(Arc::new(storage))?;
    let forwards = access::dump(&database)?;
    let backwards = access::dump_back(&database)?;
    Ok((forwards, backwards))
}

/// What damage came to.
#[derive(Default)]
struct Outcomes {
    right: u64,
    errors: u64,
}

impl Outcomes {
    fn check(&mut self, image: Vec<u8>, expected: &[&State], what: &str) {
        let result = catch_unwind(AssertUnwindSafe(|| read(image)));
        let Ok(result) = result else { panic!("{what}: a panic") };
        match result {
            Ok((forwards, backwards)) => {
                let is_right = expected.iter().any(|state| {
                    forwards.difference(state).is_none() && backwards.difference(state).is_none()
                });
                assert!(is_right, "{what}: wrong data: {:?}", forwards.difference(expected[0]));
                self.right += 1;
            }
            Err(error) => {
                if let Error::Corruption(corruption) = &error {
                    assert!(is_placed(corruption), "{what}: {error}");
                    assert!(corruption.file.is_some(), "{what}: {error}");
                }
                self.errors += 1;
            }
        }
    }
}

/// Nodes have a page. The state may lie in the header, and the log is where the state says.
fn is_placed(corruption: &Corruption) -> bool {
    matches!(corruption.structure, Structure::FileHeader | Structure::State | Structure::Log)
        || corruption.page.is_some()
}

/// Which bits are tried: some of each byte that is not zero, and a sample of the others.
fn bits(image: &[u8], random: &mut Random, one_in: u64) -> Vec<(usize, u8)> {
    let mut bits = Vec::new();
    for (offset, &byte) in image.iter().enumerate() {
        let rare = if byte == 0 { one_in * 20 } else { one_in };
        if random.one_in(rare) {
            bits.push((offset, random.below(8) as u8));
        }
    }
    bits
}

#[test]
fn a_flipped_bit_of_a_closed_file_gives_right_data_or_an_error() {
    let (image, state) = made(true);
    let mut random = Random::from_seed(1);
    let mut outcomes = Outcomes::default();
    for (offset, bit) in bits(&image, &mut random, 40) {
        let mut damaged = image.clone();
        damaged[offset] ^= 1 << bit;
        outcomes.check(damaged, &[&state], &format!("byte {offset}, bit {bit}"));
    }
    assert!(
        outcomes.errors > 100 && outcomes.right > 50,
        "{}, {}",
        outcomes.errors,
        outcomes.right
    );
}

#[test]
fn every_bit_of_both_header_slots_may_flip() {
    let (image, state) = made(true);
    let mut outcomes = Outcomes::default();
    for offset in (0..8192).filter(|&offset| image[offset] != 0 || offset % 64 == 0) {
        let mut damaged = image.clone();
        damaged[offset] ^= 1 << (offset % 8);
        outcomes.check(damaged, &[&state], &format!("byte {offset}"));
    }
    // A clean close writes the same state twice, so one slot is enough.
    assert_eq!(outcomes.errors, 0);
}

/// After a crash, damage to the last record of the log cannot be told from a torn write: then the
/// content without it is right as well. Nothing else is.
#[test]
fn a_flipped_bit_of_a_file_that_was_not_closed_gives_right_data_or_an_error() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    database.flush().unwrap();
    let mut states = vec![access::dump(&database).unwrap()];
    for n in 0..20 {
        let mut batch = database.batch();
        batch.put(&keyspace, format!("{n:02}"), vec![b'v'; 30]).unwrap();
        batch.commit_with(Durability::Sync).unwrap();
        states.push(access::dump(&database).unwrap());
    }
    let image = storage.image();
    drop(database);
    let last_two: Vec<&State> = states.iter().rev().take(2).collect();
    let mut random = Random::from_seed(2);
    let mut outcomes = Outcomes::default();
    for (offset, bit) in bits(&image, &mut random, 4) {
        let mut damaged = image.clone();
        damaged[offset] ^= 1 << bit;
        outcomes.check(damaged, &last_two, &format!("byte {offset}, bit {bit}"));
    }
    assert!(outcomes.errors > 50 && outcomes.right > 50, "{}, {}", outcomes.errors, outcomes.right);
}

#[test]
fn a_page_that_is_zeroed_swapped_or_filled_gives_right_data_or_an_error() {
    let (image, state) = made(true);
    let page = Setup::tiny().page_bytes as usize;
    let count = image.len() / page;
    let mut random = Random::from_seed(3);
    let mut outcomes = Outcomes::default();
    let used: Vec<_> = (8..count)
        .filter(|n| image[n * page..(n + 1) * page].iter().any(|&byte| byte != 0))
        .collect();
    for &n in used.iter().take(120) {
        let mut zeroed = image.clone();
        zeroed[n * page..(n + 1) * page].fill(0);
        outcomes.check(zeroed, &[&state], &format!("page {n} zeroed"));
        let mut filled = image.clone();
        random.fill(&mut filled[n * page..(n + 1) * page]);
        outcomes.check(filled, &[&state], &format!("page {n} filled"));
        let other = used[random.below(used.len() as u64) as usize];
        let mut swapped = image.clone();
        swapped.copy_within(other * page..(other + 1) * page, n * page);
        outcomes.check(swapped, &[&state], &format!("page {other} in place of {n}"));
    }
    assert!(outcomes.errors > 50, "{}", outcomes.errors);
}

#[test]
fn a_page_of_an_older_file_in_its_old_place_is_seen() {
    let (older, _) = made(true);
    let storage = SimulatedStorage::from_image(older.clone());
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..300 {
        keyspace.put(format!("{n:05}"), "newer").unwrap();
    }
    database.compact().unwrap();
    let state = access::dump(&database).unwrap();
    database.close().unwrap();
    let newer = storage.image();
    let page = Setup::tiny().page_bytes as usize;
    let mut outcomes = Outcomes::default();
    for n in 8..older.len().min(newer.len()) / page {
        let mut mixed = newer.clone();
        mixed[n * page..(n + 1) * page].copy_from_slice(&older[n * page..(n + 1) * page]);
        outcomes.check(mixed, &[&state], &format!("page {n} as it was"));
    }
    assert!(outcomes.errors > 0 && outcomes.right > 0);
}

#[test]
fn a_file_cut_at_any_page_gives_right_data_or_an_error() {
    for closed in [true, false] {
        let (image, state) = made(closed);
        let mut outcomes = Outcomes::default();
        for length in (0..image.len()).step_by(512) {
            if length == 0 {
                continue;
            }
            outcomes.check(image[..length].to_vec(), &[&state], &format!("cut at {length}"));
        }
        assert!(outcomes.errors > 0);
    }
}

#[test]
fn a_file_with_bytes_behind_its_end_is_read() {
    let (mut image, state) = made(true);
    image.extend(vec![0xa5; 5000]);
    let mut outcomes = Outcomes::default();
    outcomes.check(image, &[&state], "bytes behind the end");
}

/// One damaged leaf spoils what lies in it; the rest can be read, and merges do not spread it.
#[test]
fn damage_in_one_place_leaves_the_other_keys_readable() {
    let (image, state) = made(true);
    let expected = &state.keyspaces["a"];
    let mut random = Random::from_seed(4);
    let (mut right, mut wrong) = (0u64, 0u64);
    for _ in 0..40 {
        let offset = 8192 + random.below(image.len() as u64 - 8192) as usize;
        let mut damaged = image.clone();
        damaged[offset] ^= 0x10;
        let storage = SimulatedStorage::from_image(damaged);
        let Ok(database) = Setup::tiny().open_on(Arc::new(storage)) else { continue };
        let keyspace = database.existing_keyspace("a").unwrap();
        for (key, value) in expected {
            match keyspace.get(key) {
                Ok(found) => {
                    assert_eq!(found.as_deref(), Some(&**value), "byte {offset}");
                    right += 1;
                }
                Err(Error::Corruption(_)) => wrong += 1,
                Err(error) => panic!("byte {offset}: {error}"),
            }
        }
    }
    assert!(right > wrong, "{right} keys read, {wrong} not");
}

/// An iterator gives all that lies before the damage, and then the error, once.
#[test]
fn scans_from_both_ends_give_everything_but_the_damaged_leaf() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(6);
    for n in 0..500 {
        let mut value = [0; 50];
        random.fill(&mut value);
        keyspace.put(format!("{n:04}"), value).unwrap();
    }
    database.flush().unwrap();
    database.compact().unwrap();
    drop(keyspace);
    database.close().unwrap();
    let image = storage.image();
    let open = |image| Setup::tiny().open_on(Arc::new(SimulatedStorage::from_image(image)));
    let core = open(image.clone()).unwrap().core().unwrap();
    let blocks = walk_blocks(&core.pages, &core.state()).unwrap();
    drop(core);
    let leaves: Vec<u64> = blocks
        .values()
        .filter(|live| live.what == NodeKind::Leaf)
        .map(|live| live.block.first.0)
        .collect();
    assert!(leaves.len() > 10, "{leaves:?}");
    for leaf in &leaves {
        let mut damaged = image.clone();
        damaged[*leaf as usize * 1024 + 100] ^= 1;
        let database = open(damaged).unwrap();
        let keyspace = database.existing_keyspace("a").unwrap();
        let taken = |pairs: &mut dyn Iterator<Item = Result<(Key, Value)>>| {
            let mut keys = Vec::new();
            loop {
                match pairs.next() {
                    Some(Ok((key, _))) => keys.push(key.into_vec()),
                    Some(Err(error)) => {
                        let text = error.to_string();
                        assert!(text.contains(&format!("damaged leaf at page {leaf}")), "{text}");
                        assert!(text.contains("of keyspace"), "{text}");
                        assert!(text.contains("diag_lsm verify"), "{text}");
                        assert!(pairs.next().is_none());
                        return keys;
                    }
                    None => panic!("the damage of page {leaf} was not seen"),
                }
            }
        };
        let before = taken(&mut keyspace.iter().unwrap());
        let behind = taken(&mut keyspace.iter().unwrap().rev());
        let lost = 500 - before.len() - behind.len();
        // All leaves are of about one size.
        assert!((1..=2 * 500 / leaves.len()).contains(&lost), "page {leaf}: {lost} keys lost");
        assert!(before.iter().all(|key| keyspace.get(key).is_ok()));
    }
}

fn open_to_read(image: Vec<u8>, without_log: bool) -> Result<Database> {
    let builder = Setup::tiny().builder().read_only(true).without_log(without_log);
    builder.open_on(Arc::new(SimulatedStorage::from_image(image)))
}

fn damaged_structure(result: Result<Database>) -> Option<Structure> {
    match result {
        Err(Error::Corruption(corruption)) => Some(corruption.structure),
        _ => None,
    }
}

/// Reading needs no map.
#[test]
fn a_file_with_a_damaged_map_is_read_whole_and_copied() {
    let (image, state) = made(true);
    let folder = tempfile::tempdir().unwrap();
    let mut maps = 0;
    for offset in (8192 + 40..image.len()).step_by(1024) {
        let mut damaged = image.clone();
        damaged[offset] ^= 4;
        let open = Setup::tiny().open_on(Arc::new(SimulatedStorage::from_image(damaged.clone())));
        if damaged_structure(open) != Some(Structure::FreeMap) {
            continue;
        }
        maps += 1;
        let database = open_to_read(damaged, false).unwrap();
        assert_eq!(access::dump(&database).unwrap().difference(&state), None);
        let report = database.verify(&mut |_, _| true).unwrap();
        let maps_alone = |problem: &Problem| problem.structure == Some(Structure::FreeMap);
        assert!(report.problems.len() == 1 && report.problems.iter().all(maps_alone), "{report}");
        assert!(!report.space_checked);
        let copy = folder.path().join(maps.to_string());
        database.compact_to(&copy, &mut |_, _| true).unwrap();
        let copy = Database::open(copy).unwrap();
        assert_eq!(access::dump(&copy).unwrap().difference(&state), None);
    }
    assert!(maps > 0);
}

/// What a damaged log hides is lost; what lies in segments is not.
#[test]
fn a_file_with_a_damaged_log_is_read_up_to_its_last_durable_state() {
    let storage = SimulatedStorage::new();
    let database = Setup::tiny().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("in a segment", "one").unwrap();
    database.flush().unwrap();
    let durable = access::dump(&database).unwrap();
    for n in 0..20 {
        let mut batch = database.batch();
        batch.put(&keyspace, format!("{n:02}"), vec![b'v'; 30]).unwrap();
        batch.commit_with(Durability::Sync).unwrap();
    }
    let image = storage.image();
    drop(database);
    let mut logs = 0;
    for offset in (8192..image.len()).filter(|offset| image[*offset] == b'v') {
        let mut damaged = image.clone();
        damaged[offset] ^= 4;
        if damaged_structure(open_to_read(damaged.clone(), false)) != Some(Structure::Log) {
            continue;
        }
        logs += 1;
        let database = open_to_read(damaged, true).unwrap();
        assert_eq!(access::dump(&database).unwrap().difference(&durable), None);
        assert_eq!(access::verify(&database).unwrap(), None);
    }
    assert!(logs > 100, "{logs}");
}

#[test]
fn the_log_is_left_out_for_reading_alone() {
    let refused = Database::builder().without_log(true).open_in_memory();
    let Err(Error::InvalidOption { option, detail }) = refused else { panic!("it was opened") };
    assert_eq!(option, "without_log");
    assert!(detail.contains("read_only(true)"), "{detail}");
}

/// All calls of reading that meet what is damaged, but for those that are made of others.
fn calls_that_read(database: &Database, keyspace: &Keyspace, copy: &Path) -> Vec<Result<()>> {
    let all = |pairs: &mut dyn Iterator<Item = Result<(Key, Value)>>| {
        for pair in pairs {
            pair?;
        }
        Ok(())
    };
    let snapshot = database.snapshot().unwrap();
    let transaction = database.begin(Isolation::Serializable).unwrap();
    let mut cursor = keyspace.cursor().unwrap();
    let streamed = keyspace.get_stream("large").and_then(|stream| {
        let result = stream.unwrap().read_to_end(&mut Vec::new());
        result.map(drop).map_err(|error| match error.downcast::<Error>() {
            Ok(error) => error,
            Err(error) => panic!("{error}"),
        })
    });
    vec![
        keyspace.get("large").map(drop),
        keyspace.get_many(["large"]).map(drop),
        all(&mut keyspace.iter().unwrap()),
        all(&mut keyspace.iter().unwrap().rev()),
        cursor.last().and_then(|_| cursor.value()).map(drop),
        snapshot.get(keyspace, "large").map(drop),
        transaction.get(keyspace, "large").map(drop),
        all(&mut transaction.iter(keyspace).unwrap()),
        keyspace.update("large", |_| None).map(drop),
        streamed,
        database.compact_to(copy, &mut ()),
    ]
}

#[test]
fn damage_names_the_file_and_a_keyspace_that_can_be_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hurt.sapwood");
    let open = || Database::builder().memory_budget(8 << 20).merge_threads(0).open(&path).unwrap();
    let database = open();
    for name in ["dropped", "whole"] {
        database.keyspace(name).unwrap();
    }
    let keyspace = database.keyspace("hurt").unwrap();
    keyspace.put("key", "value").unwrap();
    keyspace.put("large", vec![b'l'; 100_000]).unwrap();
    database.drop_keyspace("dropped").unwrap();
    database.compact().unwrap();
    database.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    for damaged in [NodeKind::Leaf, NodeKind::OverflowValue] {
        std::fs::write(&path, &image).unwrap();
        let database = open();
        let core = database.core().unwrap();
        let number = database.existing_keyspace("hurt").unwrap().number();
        let blocks = walk_blocks(&core.pages, &core.state()).unwrap();
        drop((core, database));
        let mut bytes = image.clone();
        for live in blocks.values().filter(|live| live.what == damaged) {
            bytes[live.block.first.0 as usize * 4096 + 20] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
        let database = open();
        let keyspace = database.existing_keyspace("hurt").unwrap();
        let calls = calls_that_read(&database, &keyspace, &folder.path().join("copy"));
        for (result, index) in calls.into_iter().zip(0..) {
            let Err(Error::Corruption(damage)) = &result else {
                panic!("{damaged:?}, {index}: {result:?}")
            };
            assert_eq!(damage.file.as_deref(), Some(&*path), "{index}: {damage}");
            assert_eq!(damage.keyspace, Some(number), "{index}: {damage}");
            let place = format!(" of keyspace {number} in {}: ", path.display());
            assert!(result.unwrap_err().to_string().contains(&place), "{index}");
        }
        let stats = database.stats().unwrap();
        let named = stats.keyspaces.iter().find(|keyspace| keyspace.number == number);
        assert_eq!(named.unwrap().name, "hurt");
        assert!(stats.to_string().contains(&format!("keyspace \"hurt\", number {number}")));
        assert_ne!(database.existing_keyspace("whole").unwrap().number(), number);
    }
}

#[test]
fn random_bytes_are_no_database() {
    let mut random = Random::from_seed(5);
    for length in [1usize, 100, 4096, 8192, 100_000] {
        let mut image = vec![0; length];
        random.fill(&mut image);
        assert!(read(image).is_err());
    }
}
