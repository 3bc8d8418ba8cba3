//! Values as streams: whole, exact in space, and never more than a piece of them in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A reader stands beside what it is made for.
#![allow(clippy::items_after_statements)]

use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crash_lsm::access;
use crash_lsm::counting::CountingStorage;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use proptest::prelude::*;
use sapwood::storage::{CrashPlan, MemoryStorage, SimulatedStorage};
use sapwood::sync::{Arc, Random};
use sapwood::{Compression, Database, Durability, Error, Keyspace, KeyspaceOptions};

/// What a value is cut into.
const CHUNK: usize = 128 << 10;

fn tiny() -> (Database, Keyspace) {
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let database = setup.builder().open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    (database, keyspace)
}

fn settle(database: &Database) {
    for _ in 0..3 {
        database.flush().unwrap();
        run_all_steps(database).unwrap();
        database.wait_until_idle().unwrap();
    }
}

/// Half of it can be compressed away, and each place has bytes of its own.
fn value(length: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::from_seed(seed);
    let mut value = vec![0; length];
    for (index, piece) in value.chunks_mut(64).enumerate() {
        if index % 2 == 0 {
            random.fill(piece);
        } else {
            piece.fill(index as u8);
        }
    }
    value
}

/// Gives pieces of odd lengths.
struct Odd<'a>(&'a [u8], usize);

impl Read for Odd<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 % 4093 + 7;
        let length = self.1.min(buffer.len());
        self.0.read(&mut buffer[..length])
    }
}

fn read_whole(keyspace: &Keyspace, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    keyspace.get_stream(key).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Pages that are not free, once everything is settled.
fn used_bytes(database: &Database) -> u64 {
    settle(database);
    let stats = database.stats().unwrap();
    stats.file_bytes - stats.free_bytes
}

#[test]
fn values_of_lengths_around_every_border_come_back_as_streams_and_whole() {
    let (database, keyspace) = tiny();
    let limit = database.stats().unwrap().memory_budget_bytes / 8;
    let lengths = [0, 1, 1000, 65_535, 65_536, 65_537, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK];
    for codec in [Compression::None, Compression::Zstd(1)] {
        let name = format!("{codec:?}");
        let options = KeyspaceOptions::default().value_compression(codec);
        let keyspace = database.keyspace_with(&name, options).unwrap();
        for (length, seed) in lengths.into_iter().chain([3 * CHUNK + 17]).zip(0..) {
            let expected = value(length, seed);
            let key = length.to_string();
            assert_eq!(keyspace.put_stream(&key, Odd(&expected, 0)).unwrap(), length as u64);
            for _ in 0..2 {
                assert!(read_whole(&keyspace, &key) == expected, "{length} bytes, {codec:?}");
                if length as u64 <= limit {
                    assert!(*keyspace.get(&key).unwrap().unwrap() == expected[..]);
                }
                settle(&database);
            }
        }
    }
    assert!(keyspace.get_stream("nothing").unwrap().is_none());
    assert_eq!(access::verify(&database).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn seeks_and_reads_agree_with_a_cursor_over_bytes(
        length in 0usize..600_000,
        moves in prop::collection::vec((0u8..3, any::<i64>(), 0usize..200_000), 1..20),
    ) {
        let (_database, keyspace) = tiny();
        let expected = value(length, 3);
        keyspace.put_stream("k", &expected[..]).unwrap();
        let mut stream = keyspace.get_stream("k").unwrap().unwrap();
        let mut model = io::Cursor::new(&expected[..]);
        prop_assert_eq!(stream.len(), length as u64);
        for (kind, distance, count) in moves {
            let span = length as i64 + 100;
            let to = match kind {
                0 => SeekFrom::Start(distance.rem_euclid(span) as u64),
                1 => SeekFrom::End(distance % span),
                _ => SeekFrom::Current(distance % span),
            };
            let (found, wanted) = (stream.seek(to), model.seek(to));
            prop_assert_eq!(found.is_ok(), wanted.is_ok());
            if let (Ok(found), Ok(wanted)) = (found, wanted) {
                prop_assert_eq!(found, wanted);
            }
            let (mut found, mut wanted) = (Vec::new(), Vec::new());
            Read::by_ref(&mut stream).take(count as u64).read_to_end(&mut found).unwrap();
            Read::by_ref(&mut model).take(count as u64).read_to_end(&mut wanted).unwrap();
            prop_assert!(found == wanted);
        }
    }
}

/// Far larger than what the cache may have: nothing of it is there.
#[test]
fn a_seek_into_a_long_value_reads_its_table_and_the_one_chunk_and_no_more() {
    const LENGTH: usize = 80 * CHUNK + 1000;
    // A header and an entry for each chunk: docs/format.md, section 4.5.
    const TABLE_BYTES: u64 = 32 + 8 * 81;
    for codec in [Compression::None, Compression::Zstd(1)] {
        let storage = Arc::new(CountingStorage::new(Arc::new(MemoryStorage::new())));
        let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
        let database = setup.builder().open_on(storage.clone()).unwrap();
        let options = KeyspaceOptions::default().value_compression(codec);
        let keyspace = database.keyspace_with("a", options).unwrap();
        let expected = value(LENGTH, 7);
        keyspace.put_stream("long", &expected[..]).unwrap();
        database.flush().unwrap();
        // The nodes on the way to the key are at hand.
        assert!(keyspace.contains("long").unwrap());
        let start = storage.calls();
        let since = || storage.calls().since(&start);
        let mut stream = keyspace.get_stream("long").unwrap().unwrap();
        assert_eq!((since().reads, since().read_bytes), (1, TABLE_BYTES), "{codec:?}");
        let middle = 40 * CHUNK + CHUNK / 2;
        stream.seek(SeekFrom::Start(middle as u64)).unwrap();
        assert_eq!(since().reads, 1, "a seek alone reads nothing");
        let mut piece = [0; 100];
        stream.read_exact(&mut piece).unwrap();
        assert_eq!(piece, expected[middle..middle + 100]);
        let (chunk, chunk_bytes) = (CHUNK as u64, since().read_bytes - TABLE_BYTES);
        match codec {
            Compression::None => assert_eq!(chunk_bytes, chunk),
            _ => assert!(
                chunk_bytes > chunk / 4 && chunk_bytes < chunk * 3 / 4,
                "half can be compressed away: {chunk_bytes} bytes"
            ),
        }
        // To and fro in the same chunk.
        let calls = since();
        for to in [40 * CHUNK, 41 * CHUNK - 100] {
            stream.seek(SeekFrom::Start(to as u64)).unwrap();
            stream.read_exact(&mut piece).unwrap();
            assert_eq!(piece, expected[to..to + 100]);
        }
        assert_eq!(since(), calls, "{codec:?}");
        // Across a border it is the next chunk besides.
        stream.read_exact(&mut piece).unwrap();
        let next_bytes = since().read_bytes - calls.read_bytes;
        assert!(next_bytes > 0 && next_bytes <= chunk, "{next_bytes} bytes");
    }
}

#[test]
fn a_value_that_is_too_large_for_get_names_get_stream() {
    let (database, keyspace) = tiny();
    let limit = database.stats().unwrap().memory_budget_bytes / 8;
    let length = limit as usize + 1;
    keyspace.put_stream("k", &value(length, 1)[..]).unwrap();
    let error = keyspace.get("k").unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { .. }), "{error}");
    assert!(error.to_string().contains("get_stream"), "{error}");
    assert!(read_whole(&keyspace, "k") == value(length, 1));
}

#[test]
fn a_stream_goes_on_while_its_key_is_overwritten_deleted_and_merged_away() {
    let (database, keyspace) = tiny();
    let before = used_bytes(&database);
    let expected = value(700_000, 1);
    for flushed in [false, true] {
        keyspace.put_stream("k", &expected[..]).unwrap();
        if flushed {
            settle(&database);
        }
        let mut stream = keyspace.get_stream("k").unwrap().unwrap();
        let mut start = vec![0; 1000];
        stream.read_exact(&mut start).unwrap();
        keyspace.put_stream("k", &value(700_000, 2)[..]).unwrap();
        settle(&database);
        keyspace.delete("k").unwrap();
        settle(&database);
        // What is free now is used again.
        keyspace.put_stream("other", &value(900_000, 3)[..]).unwrap();
        settle(&database);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!([start, rest].concat() == expected, "flushed: {flushed}");
        keyspace.delete("other").unwrap();
    }
    assert!(used_bytes(&database) <= before + (64 << 10));
}

#[test]
fn a_reader_that_fails_or_panics_puts_nothing_and_gives_all_space_back() {
    struct Bad(u64, bool);
    impl Read for Bad {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                assert!(!self.1, "the reader gives up");
                return Err(io::Error::other("the reader fails"));
            }
            let length = buffer.len().min(self.0 as usize);
            self.0 -= length as u64;
            Ok(length)
        }
    }
    let (database, keyspace) = tiny();
    keyspace.put("k", "old").unwrap();
    let before = used_bytes(&database);
    for length in [0, 10, 65_536, 1_000_000] {
        let error = keyspace.put_stream("k", Bad(length, false)).unwrap_err();
        assert!(error.to_string().contains("the reader fails"), "{error}");
        let caught = catch_unwind(AssertUnwindSafe(|| keyspace.put_stream("k", Bad(length, true))));
        assert!(caught.is_err());
        assert_eq!(keyspace.get("k").unwrap().unwrap(), "old");
    }
    assert!(used_bytes(&database) <= before);
    assert_eq!(access::verify(&database).unwrap(), None);
    keyspace.put_stream("k", &value(100_000, 1)[..]).unwrap();
    assert!(read_whole(&keyspace, "k") == value(100_000, 1));
}

#[test]
fn a_reader_may_use_the_database_that_it_writes_to() {
    let (database, keyspace) = tiny();
    let expected = value(500_000, 1);
    keyspace.put_stream("from", &expected[..]).unwrap();
    struct Busy<'a>(sapwood::ValueStream, &'a Keyspace, u32);
    impl Read for Busy<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 += 1;
            self.1.put(format!("beside {}", self.2), "x").map_err(io::Error::other)?;
            self.0.read(buffer)
        }
    }
    let from = keyspace.get_stream("from").unwrap().unwrap();
    keyspace.put_stream("to", Busy(from, &keyspace, 0)).unwrap();
    settle(&database);
    assert!(read_whole(&keyspace, "to") == expected);
    assert!(keyspace.prefix("beside").unwrap().count() > 3);
}

#[test]
fn merges_move_streamed_values_by_reference() {
    let (database, keyspace) = tiny();
    for n in 0..20 {
        keyspace.put_stream(format!("large {n:02}"), &value(300_000, n)[..]).unwrap();
    }
    let written = database.stats().unwrap().written.overflow;
    for round in 0..5 {
        for n in 0..2000 {
            keyspace.put(format!("{n:05}"), [round; 50]).unwrap();
        }
        keyspace.put(format!("large {round:02} and more"), "small").unwrap();
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
    }
    assert_eq!(database.stats().unwrap().written.overflow, written);
    database.compact().unwrap();
    // When the file is made smaller, what lies in its tail moves.
    let moved = database.stats().unwrap().written.overflow - written;
    assert!(moved <= written / 4, "{moved} of {written} bytes were moved");
    for n in 0..20 {
        assert!(read_whole(&keyspace, &format!("large {n:02}")) == value(300_000, n));
    }
}

#[test]
fn deleting_streamed_values_gives_back_exactly_what_they_took() {
    let (database, keyspace) = tiny();
    keyspace.put("stays", "here").unwrap();
    let before = used_bytes(&database);
    for n in 0..10 {
        keyspace.put_stream(format!("{n}"), &value(100_000 * (n + 1), 5)[..]).unwrap();
    }
    let full = used_bytes(&database);
    assert!(full > before + 2_000_000, "{before} bytes before, {full} with the values");
    for n in 0..5 {
        keyspace.delete(format!("{n}")).unwrap();
    }
    keyspace.delete_range("5"..="9").unwrap();
    assert!(used_bytes(&database) <= before);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_stream_that_runs_into_a_close_gives_closed() {
    let (database, keyspace) = tiny();
    keyspace.put_stream("k", &value(500_000, 1)[..]).unwrap();
    let mut stream = keyspace.get_stream("k").unwrap().unwrap();
    let mut start = vec![0; 10];
    stream.read_exact(&mut start).unwrap();
    struct Closing(Option<Database>);
    impl Read for Closing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if let Some(database) = self.0.take() {
                database.close().unwrap();
            }
            Ok(buffer.len())
        }
    }
    let error = keyspace.put_stream("k", Closing(Some(database))).unwrap_err();
    assert!(matches!(error, Error::Closed), "{error}");
    let error = stream.read(&mut start).unwrap_err();
    assert!(error.to_string().contains("closed"), "{error}");
    assert!(matches!(keyspace.get_stream("k"), Err(Error::Closed)));
}

#[test]
fn a_keyspace_dropped_meanwhile_takes_no_stream() {
    let (database, keyspace) = tiny();
    struct Dropping<'a>(&'a Database, u32);
    impl Read for Dropping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 == 5 {
                self.0.drop_keyspace("a").map_err(io::Error::other)?;
            }
            Ok(if self.1 < 40 { buffer.len().min(30_000) } else { 0 })
        }
    }
    let error = keyspace.put_stream("k", Dropping(&database, 0)).unwrap_err();
    assert!(matches!(error, Error::KeyspaceDropped(_)), "{error}");
    settle(&database);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn a_streamed_value_survives_a_reopen_and_a_synced_one_a_power_cut() {
    let storage = SimulatedStorage::new();
    let setup = Setup { region_bytes: 1 << 20, ..Setup::tiny() };
    let builder = || setup.builder().durability(Durability::Sync);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..4 {
        keyspace.put_stream(format!("{n}"), &value(150_000 + n, n as u64)[..]).unwrap();
    }
    for seed in 0..8 {
        let copy = storage.crash_copy(CrashPlan::Random(seed));
        let database = builder().open_on(Arc::new(copy)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        for n in 0..4 {
            assert!(read_whole(&keyspace, &format!("{n}")) == value(150_000 + n, n as u64));
        }
        assert_eq!(access::verify(&database).unwrap(), None);
    }
}
