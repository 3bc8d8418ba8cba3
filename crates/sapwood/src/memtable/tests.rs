//! The memtable against a sorted map, and under a writer with readers beside it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::sync::atomic::AtomicUsize;

type Place = (u32, Vec<u8>, Reverse<u64>);
type Model = BTreeMap<Place, Said>;

/// An operation with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Put(Vec<u8>),
    PutOverflow(Vec<u8>),
    Delete,
}

impl Said {
    fn as_operation(&self) -> Operation<'_> {
        match self {
            Said::Put(value) => Operation::Put(value),
            Said::PutOverflow(reference) => Operation::PutOverflow(reference),
            Said::Delete => Operation::Delete,
        }
    }
}

fn table() -> Arc<Memtable> {
    Arc::new(Memtable::new(Arc::new(ChunkPool::new(8 << 20))))
}

fn insert(table: &Memtable, (keyspace, key, sequence): &Place, said: &Said) {
    let (keyspace, sequence) = (KeyspaceNumber(*keyspace), SequenceNumber(sequence.0));
    table.insert(keyspace, key, sequence, said.as_operation());
}

fn build(entries: &[(Place, Said)]) -> (Arc<Memtable>, Model) {
    let table = table();
    entries.iter().for_each(|(place, said)| insert(&table, place, said));
    (table, entries.iter().cloned().collect())
}

fn at(cursor: &MemtableCursor) -> Option<Place> {
    let place = || (cursor.keyspace().0, cursor.key().to_vec(), Reverse(cursor.sequence().0));
    cursor.valid().then(place)
}

fn seek(cursor: &mut MemtableCursor, (keyspace, key, sequence): &Place) {
    cursor.seek(KeyspaceNumber(*keyspace), key, SequenceNumber(sequence.0));
}

fn seek_before(cursor: &mut MemtableCursor, (keyspace, key, sequence): &Place) {
    cursor.seek_before(KeyspaceNumber(*keyspace), key, SequenceNumber(sequence.0));
}

/// Keys with much in common: equal heads, zero bytes, prefixes of each other, the empty key.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let letters = prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 255]), 0..5);
    (prop::sample::select(vec!["", "a", "common prefix, longer than a head "]), letters)
        .prop_map(|(prefix, letters)| [prefix.as_bytes(), &letters].concat())
}

fn place() -> impl Strategy<Value = Place> {
    let keyspace = prop::sample::select(vec![0, 1, 256, u32::MAX - 1]);
    (keyspace, key(), (1..12u64).prop_map(Reverse))
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        bytes().prop_map(Said::Put),
        bytes().prop_map(Said::PutOverflow),
        Just(Said::Delete)
    ]
}

/// In any order, and in ascending stretches of any length.
fn entries() -> impl Strategy<Value = Vec<(Place, Said)>> {
    let stretch = || {
        let entries = prop::collection::vec((place(), said()), 0..150);
        (entries, any::<bool>()).prop_map(|(mut entries, is_sorted)| {
            if is_sorted {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            entries
        })
    };
    prop::collection::vec(stretch(), 0..10).prop_map(|stretches| stretches.concat())
}

#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Seek(Place),
    SeekBefore(Place),
    Next(usize),
    Previous(usize),
}

fn a_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        4 => place().prop_map(Move::Seek),
        4 => place().prop_map(Move::SeekBefore),
        6 => (1..90usize).prop_map(Move::Next),
        6 => (1..90usize).prop_map(Move::Previous),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_walk_in_either_direction_meets_what_a_sorted_map_holds(entries in entries()) {
        let (table, model) = build(&entries);
        prop_assert_eq!(table.entry_count(), model.len() as u64);
        let mut cursor = table.cursor();
        cursor.first();
        for (place, said) in &model {
            prop_assert_eq!(at(&cursor), Some(place.clone()));
            prop_assert_eq!(cursor.operation(), said.as_operation());
            cursor.next();
        }
        prop_assert!(!cursor.valid());
        for place in model.keys().rev() {
            cursor.previous();
            prop_assert_eq!(at(&cursor), Some(place.clone()));
        }
        cursor.previous();
        prop_assert!(!cursor.valid());
        cursor.last();
        prop_assert_eq!(at(&cursor), model.keys().next_back().cloned());
    }

    #[test]
    fn seeks_and_mixed_steps_agree_with_a_sorted_map(
        entries in entries(),
        moves in prop::collection::vec(a_move(), 1..60),
    ) {
        let (table, model) = build(&entries);
        let places: Vec<&Place> = model.keys().collect();
        let mut cursor = table.cursor();
        cursor.first();
        // One more than the index, so that 0 is before the first.
        let mut expected = 1;
        for a_move in moves {
            match &a_move {
                Move::First => (cursor.first(), expected = 1).0,
                Move::Last => (cursor.last(), expected = places.len()).0,
                Move::Seek(to) => {
                    seek(&mut cursor, to);
                    expected = places.partition_point(|place| *place < to) + 1;
                }
                Move::SeekBefore(to) => {
                    seek_before(&mut cursor, to);
                    expected = places.partition_point(|place| *place < to);
                }
                Move::Next(count) => {
                    (0..*count).for_each(|_| cursor.next());
                    expected = (expected + count).min(places.len() + 1);
                }
                Move::Previous(count) => {
                    (0..*count).for_each(|_| cursor.previous());
                    expected = expected.saturating_sub(*count);
                }
            }
            let place = expected.checked_sub(1).and_then(|index| places.get(index).copied());
            prop_assert_eq!(at(&cursor), place.cloned(), "{:?}", a_move);
        }
    }

    #[test]
    fn get_gives_the_newest_version_at_or_below_a_number(
        entries in entries(),
        asked in prop::collection::vec(place(), 200),
    ) {
        let (table, model) = build(&entries);
        for (keyspace, key, sequence) in asked.into_iter().chain(model.keys().cloned()) {
            let oldest = (keyspace, key.clone(), Reverse(0));
            let first = model.range((keyspace, key.clone(), sequence)..=oldest).next();
            let expected = first.map(|((_, _, Reverse(sequence)), said)| Version {
                sequence: SequenceNumber(*sequence),
                operation: said.as_operation(),
            });
            let found = table.get(KeyspaceNumber(keyspace), &key, SequenceNumber(sequence.0));
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn changed_since_sees_exactly_the_newer_versions_in_the_range(
        entries in entries(),
        asked in prop::collection::vec((place(), prop::option::weighted(0.8, key())), 100),
    ) {
        let (table, model) = build(&entries);
        for ((keyspace, start, Reverse(after)), end) in asked {
            let newer = |range_end: Option<&[u8]>| {
                model.keys().any(|(of, key, Reverse(sequence))| {
                    *of == keyspace
                        && *key >= start
                        && range_end.is_none_or(|end| key.as_slice() < end)
                        && *sequence > after
                })
            };
            let (of, after) = (KeyspaceNumber(keyspace), SequenceNumber(after));
            let changed = table.changed_since(of, &start, end.as_deref(), after);
            prop_assert_eq!(changed, newer(end.as_deref()));
            let key_end = [start.as_slice(), &[0]].concat();
            prop_assert_eq!(table.key_changed_since(of, &start, after), newer(Some(&key_end)));
        }
    }
}

/// Numbers below `count`, each once, in an order that looks random.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |index| index * 7919 % count)
}

#[test]
fn memtables_and_cursors_go_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Memtable>();
    shared::<ChunkPool>();
    shared::<RangeDeletes>();
    sent::<MemtableCursor>();
}

#[test]
fn an_empty_memtable_has_nothing_to_say() {
    let table = table();
    assert!(table.is_empty());
    assert_eq!((table.first_sequence(), table.last_sequence()), (None, None));
    assert_eq!(table.get(KeyspaceNumber(0), b"", SequenceNumber::MAX), None);
    assert!(!table.changed_since(KeyspaceNumber(0), b"", None, SequenceNumber(0)));
    let mut cursor = table.cursor();
    assert!(!cursor.valid());
    cursor.next();
    cursor.previous();
    cursor.previous();
    cursor.next();
    assert!(!cursor.valid());
    cursor.first();
    assert!(!cursor.valid());
    cursor.last();
    assert!(!cursor.valid());
    assert!(table.bytes() < 64 << 10, "{}", table.bytes());
}

#[test]
fn a_key_comes_before_itself_with_a_zero_byte_behind() {
    let entries: Vec<(Place, Said)> = [b"a\0".as_slice(), b"", b"a", b"\0", b"a\0\0", b"b"]
        .iter()
        .map(|key| ((7, key.to_vec(), Reverse(3)), Said::Delete))
        .collect();
    let (table, _) = build(&entries);
    let mut cursor = table.cursor();
    cursor.seek(KeyspaceNumber(7), b"a", SequenceNumber::MAX);
    assert_eq!(cursor.key(), b"a");
    cursor.next();
    assert_eq!(cursor.key(), b"a\0");
    cursor.next();
    assert_eq!(cursor.key(), b"a\0\0");
    cursor.seek(KeyspaceNumber(7), b"a\0\0\0", SequenceNumber::MAX);
    assert_eq!(cursor.key(), b"b");
    cursor.first();
    assert_eq!(cursor.key(), b"");
    cursor.next();
    assert_eq!(cursor.key(), b"\0");
}

#[test]
fn large_trees_grow_in_any_order_of_arrival() {
    const COUNT: u64 = 60_000;
    let ascending: Vec<u64> = (0..COUNT).collect();
    let descending: Vec<u64> = (0..COUNT).rev().collect();
    for order in [ascending, descending, scattered(COUNT).collect()] {
        let table = table();
        for number in &order {
            let key = number.to_be_bytes();
            table.insert(KeyspaceNumber(1), &key, SequenceNumber(number + 1), Operation::Put(&key));
        }
        let mut cursor = table.cursor();
        cursor.first();
        for number in 0..COUNT {
            assert_eq!(cursor.key(), number.to_be_bytes());
            cursor.next();
        }
        assert!(!cursor.valid());
        for number in (0..COUNT).step_by(7) {
            let key = number.to_be_bytes();
            let version = table.get(KeyspaceNumber(1), &key, SequenceNumber::MAX).unwrap();
            assert_eq!(version.operation, Operation::Put(&key));
        }
        assert_eq!(table.first_sequence(), Some(SequenceNumber(1)));
        assert_eq!(table.last_sequence(), Some(SequenceNumber(COUNT)));
    }
}

#[test]
fn ascending_keys_leave_full_nodes() {
    let table = table();
    for number in 0..64 * 1024u64 {
        let key = number.to_be_bytes();
        table.insert(KeyspaceNumber(1), &key, SequenceNumber(1), Operation::Delete);
    }
    let entry_bytes = 64 * 1024 * (16 + 8);
    let node_bytes = table.bytes() - entry_bytes;
    // 24 bytes for each slot, the nodes' own fields, and what the last chunks have left.
    assert!(node_bytes < 64 * 1024 * 26 + (1 << 20) + (200 << 10), "{node_bytes}");
}

#[test]
fn the_same_version_inserted_again_takes_the_place_of_the_first() {
    let table = table();
    for value in [b"first".as_slice(), b"second"] {
        table.insert(KeyspaceNumber(1), b"k", SequenceNumber(5), Operation::Put(value));
    }
    let version = table.get(KeyspaceNumber(1), b"k", SequenceNumber(5)).unwrap();
    assert_eq!(version.operation, Operation::Put(b"second"));
    assert_eq!(table.entry_count(), 1);
}

#[test]
fn the_longest_entries_fit() {
    let table = table();
    let (key, value) = (vec![3; 16 << 10], vec![4; 64 << 10]);
    for sequence in 1..50 {
        let put = Operation::Put(&value);
        table.insert(KeyspaceNumber(1), &key, SequenceNumber(sequence), put);
    }
    let version = table.get(KeyspaceNumber(1), &key, SequenceNumber(20)).unwrap();
    assert_eq!(version.operation, Operation::Put(&value));
    assert_eq!(version.sequence, SequenceNumber(20));
}

#[test]
fn range_tombstones_count_for_changes_and_numbers_but_not_for_get() {
    let table = table();
    let keyspace = KeyspaceNumber(4);
    table.insert(keyspace, b"k", SequenceNumber(5), Operation::Put(b"v"));
    assert!(!table.has_range_deletes() && table.range_deletes().is_empty());
    assert_eq!(table.covering_range_delete(keyspace, b"k", SequenceNumber::MAX), None);
    table.insert_range_delete(keyspace, b"x", Some(b"x"), SequenceNumber(8));
    assert!(!table.has_range_deletes(), "an empty range covers nothing");
    let before = table.range_deletes();
    let bytes = table.bytes();
    table.insert_range_delete(keyspace, b"a", Some(b"m"), SequenceNumber(9));
    table.insert_range_delete(keyspace, b"c", None, SequenceNumber(3));
    assert!(table.has_range_deletes() && table.bytes() > bytes);
    assert!(before.is_empty(), "what was handed out does not change");
    let covering = |key, at| table.covering_range_delete(keyspace, key, SequenceNumber(at));
    assert_eq!(covering(b"k".as_slice(), 20), Some(SequenceNumber(9)));
    assert_eq!(covering(b"k", 8), Some(SequenceNumber(3)));
    assert_eq!(covering(b"k", 2), None);
    assert_eq!(covering(b"b", 8), None);
    assert_eq!(covering(b"zzz", 20), Some(SequenceNumber(3)));
    assert_eq!(table.covering_range_delete(KeyspaceNumber(5), b"k", SequenceNumber::MAX), None);
    assert_eq!(table.first_sequence(), Some(SequenceNumber(3)));
    assert_eq!(table.last_sequence(), Some(SequenceNumber(9)));
    assert!(table.get(keyspace, b"k", SequenceNumber::MAX).is_some());
    assert!(table.changed_since(keyspace, b"l", Some(b"z"), SequenceNumber(8)));
    assert!(!table.changed_since(keyspace, b"m", Some(b"z"), SequenceNumber(8)));
    assert!(table.key_changed_since(keyspace, b"absent", SequenceNumber(8)));
    assert!(!table.key_changed_since(keyspace, b"z", SequenceNumber(8)));
    assert_eq!(table.entry_count(), 1);
}

#[test]
fn chunks_and_nodes_come_from_the_memtable_that_was_dropped() {
    let pool = Arc::new(ChunkPool::new(16 << 20));
    let fill = || {
        let table = Memtable::new(Arc::clone(&pool));
        for number in scattered(20_000) {
            let key = number.to_be_bytes();
            let put = Operation::Put(&[0; 100]);
            table.insert(KeyspaceNumber(1), &key, SequenceNumber(1), put);
        }
        (table.bytes(), pool.bytes())
    };
    let (bytes, waiting) = fill();
    assert_eq!(waiting, 0);
    let stock = pool.bytes();
    assert!(stock > bytes / 2 && stock < bytes, "{stock} of {bytes}");
    assert_eq!(fill(), (bytes, 0), "the second memtable uses up the stock");
    assert_eq!(pool.bytes(), stock);
}

#[test]
fn a_cursor_keeps_order_and_misses_nothing_while_entries_arrive_around_it() {
    let table = table();
    let key = |number: u64| number.to_be_bytes();
    let put = |number: u64| {
        table.insert(KeyspaceNumber(1), &key(number), SequenceNumber(1), Operation::Delete);
    };
    (0..1000).for_each(|number| put(number * 100));
    let mut cursor = table.cursor();
    cursor.first();
    let mut fresh = scattered(99_999).filter(|number| !number.is_multiple_of(100));
    let (mut last, mut found) = (None, 0);
    while cursor.valid() {
        let number = u64::from_be_bytes(cursor.key().try_into().unwrap());
        assert!(last < Some(number));
        found += u64::from(number.is_multiple_of(100));
        last = Some(number);
        fresh.by_ref().take(5).for_each(put);
        cursor.next();
    }
    assert_eq!(found, 1000);
    cursor.last();
    let (mut last, mut found) = (u64::MAX, 0);
    while cursor.valid() {
        let number = u64::from_be_bytes(cursor.key().try_into().unwrap());
        assert!(number < last);
        found += u64::from(number.is_multiple_of(100));
        last = number;
        fresh.by_ref().take(5).for_each(put);
        cursor.previous();
    }
    assert_eq!(found, 1000);
}

/// What one reader of the stress test checks, over and over: all that was inserted before it began
/// is there, in order, with its value.
fn check_prefix(table: &Arc<Memtable>, inserted: &AtomicUsize, order: &[u64], round: usize) {
    let keyspace = KeyspaceNumber(1);
    let count = inserted.load(Ordering::Acquire);
    for index in (0..count).rev().step_by(97).take(50) {
        let key = order[index].to_be_bytes();
        let version = table.get(keyspace, &key, SequenceNumber::MAX).unwrap();
        assert_eq!(version.sequence.0, index as u64 + 1);
        assert_eq!(version.operation, Operation::Put(&key));
        assert!(table.key_changed_since(keyspace, &key, SequenceNumber(index as u64)));
    }
    let from = if round.is_multiple_of(4) { 0 } else { order[round * 31 % order.len()] };
    let mut cursor = table.cursor();
    let forwards = round.is_multiple_of(2);
    match forwards {
        true => cursor.seek(keyspace, &from.to_be_bytes(), SequenceNumber::MAX),
        false => cursor.seek_before(keyspace, &from.to_be_bytes(), SequenceNumber::MAX),
    }
    let (mut seen, mut last) = (0, None);
    while cursor.valid() {
        let number = u64::from_be_bytes(cursor.key().try_into().unwrap());
        let in_order = last.is_none_or(|last| if forwards { last < number } else { number < last });
        assert!(in_order, "{number} after {last:?}");
        assert_eq!(cursor.operation(), Operation::Put(&number.to_be_bytes()));
        last = Some(number);
        seen += usize::from(cursor.sequence().0 <= count as u64);
        if forwards {
            cursor.next();
        } else {
            cursor.previous();
        }
    }
    let on_this_side = |number: &&u64| {
        if forwards { **number >= from } else { **number < from }
    };
    assert_eq!(seen, order[..count].iter().filter(on_this_side).count());
}

#[test]
fn readers_beside_the_writer_see_sorted_and_complete_prefixes() {
    const COUNT: u64 = 60_000;
    for order in [scattered(COUNT).collect::<Vec<_>>(), (0..COUNT).rev().collect()] {
        let table = table();
        let inserted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (table, inserted, order) = (&table, &inserted, &order);
                scope.spawn(move || {
                    let mut round = reader;
                    while inserted.load(Ordering::Acquire) < order.len() {
                        check_prefix(table, inserted, order, round);
                        round += 1;
                    }
                    check_prefix(table, inserted, order, round);
                });
            }
            for (index, number) in order.iter().enumerate() {
                let (key, sequence) = (number.to_be_bytes(), SequenceNumber(index as u64 + 1));
                table.insert(KeyspaceNumber(1), &key, sequence, Operation::Put(&key));
                inserted.store(index + 1, Ordering::Release);
            }
        });
    }
}

#[test]
fn a_reader_that_meets_the_first_split_finds_what_moved() {
    // Sixty entries fit the first leaf; ten more in front split it, and the last key moves.
    const TABLES: usize = 500;
    let put = |table: &Memtable, number: u64| {
        let key = number.to_be_bytes();
        table.insert(KeyspaceNumber(1), &key, SequenceNumber(1), Operation::Delete);
    };
    let tables: Vec<_> = (0..TABLES).map(|_| table()).collect();
    tables.iter().for_each(|table| (100..160).for_each(|number| put(table, number)));
    let current = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Some(table) = tables.get(current.load(Ordering::Acquire)) {
                let key = 159u64.to_be_bytes();
                assert!(table.get(KeyspaceNumber(1), &key, SequenceNumber::MAX).is_some());
            }
        });
        for (index, table) in tables.iter().enumerate() {
            current.store(index, Ordering::Release);
            (0..10).rev().for_each(|number| put(table, number));
        }
        current.store(TABLES, Ordering::Release);
    });
}

/// A queue that is trimmed by range deletions after a scan over dead keys: its fragments have one
/// list of numbers, in which the number of the scan has no place.
#[test]
fn what_was_joined_before_ranges_were_deleted_takes_no_memory_at_the_flush() {
    let table = table();
    let keyspace = KeyspaceNumber(1);
    let key = |number: u32| number.to_be_bytes();
    table.insert(keyspace, &key(0), SequenceNumber(1), Operation::Delete);
    assert!(table.join(keyspace, &key(0), &key(90_000), SequenceNumber(1)));
    let count = 1000;
    for number in 1..=count {
        let sequence = SequenceNumber(u64::from(number) + 1);
        table.insert_range_delete(keyspace, &key(0), Some(&key(number * 5)), sequence);
    }
    let before = table.bytes();
    table.keep_joined();
    assert!(table.bytes() < before + 1000, "{before} bytes before, {} behind", table.bytes());
    let covering =
        |number| table.covering_range_delete(keyspace, &key(number), SequenceNumber::MAX);
    assert_eq!(covering(7), Some(SequenceNumber(u64::from(count) + 1)));
    assert_eq!(covering(count * 5), Some(SequenceNumber(1)), "where no newer one lies it is kept");
    assert_eq!(covering(90_000), None);
}

proptest! {
    #[test]
    fn what_is_kept_of_joined_ranges_hides_no_less_than_they_did(
        deleted in prop::collection::vec((0..30u8, 1..12u8), 0..20),
        joined in prop::collection::vec((0..30u8, 1..20u8, 1..20u64), 0..4),
    ) {
        let (table, keyspace) = (table(), KeyspaceNumber(1));
        table.insert(keyspace, b"x", SequenceNumber(1), Operation::Delete);
        for (index, (start, length)) in (0u64..).zip(&deleted) {
            for (from, more, number) in joined.iter().filter(|joined| joined.2 == index + 1) {
                let end = from + more;
                table.join(keyspace, &[*from], &[end], SequenceNumber(*number));
            }
            let sequence = SequenceNumber(index + 2);
            table.insert_range_delete(keyspace, &[*start], Some(&[start + length]), sequence);
        }
        let covering = |key: u8| {
            table.covering_range_delete(keyspace, &[key], SequenceNumber::MAX)
        };
        let before: Vec<_> = (0..60).map(covering).collect();
        let joined = table.joined();
        let joined: Vec<_> = joined.iter().flat_map(|joined| joined.ranges()).collect();
        table.keep_joined();
        for (key, before) in (0..60).zip(before) {
            let has_key = |range: &&&JoinedRange| {
                *range.start <= [key][..] && *range.end > [key][..]
            };
            let of_joined = joined.iter().filter(has_key).map(|range| range.number).max();
            prop_assert_eq!(covering(key), before.max(of_joined));
        }
    }
}
