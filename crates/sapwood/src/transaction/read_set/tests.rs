use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(1);

/// What a test reads: keys of up to three letters, and ranges between them.
#[derive(Clone, Debug)]
enum Read {
    Key(KeyspaceNumber, Vec<u8>),
    Range(KeyspaceNumber, KeyRange),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(b'a'..b'g', 0..4)
}

fn read() -> impl Strategy<Value = Read> {
    let keyspace = (1u32..4).prop_map(KeyspaceNumber);
    let range = (key(), prop::option::weighted(0.9, key())).prop_map(|(a, b)| match b {
        Some(b) => KeyRange::new(a.clone().min(b.clone()), Some(a.max(b))),
        None => KeyRange::new(a, None),
    });
    prop_oneof![
        6 => (keyspace.clone(), key()).prop_map(|(keyspace, key)| Read::Key(keyspace, key)),
        1 => (keyspace, range).prop_map(|(keyspace, range)| Read::Range(keyspace, range)),
    ]
}

fn add(set: &mut ReadSet, read: &Read) {
    match read {
        Read::Key(keyspace, key) => set.add_key(*keyspace, key),
        Read::Range(keyspace, range) => set.add_range(*keyspace, range),
    }
}

/// What the iterators hand out must say it, since validation sees nothing else.
fn covers(set: &ReadSet, read: &Read) -> bool {
    match read {
        _ if set.is_everything() => true,
        Read::Key(keyspace, key) => {
            set.keys().any(|found| found == (*keyspace, key.as_slice()))
                || set.ranges().any(|(number, range)| number == *keyspace && range.contains(key))
        }
        Read::Range(keyspace, range) => {
            range.is_empty()
                || set.ranges().any(|(number, found)| number == *keyspace && found.covers(range))
        }
    }
}

fn counted_bytes(set: &ReadSet) -> usize {
    let of_keys: BTreeSet<_> = set.keys().map(|(number, _)| number).collect();
    let of_ranges: BTreeSet<_> = set.ranges().map(|(number, _)| number).collect();
    let keys = set.keys().map(|(_, key)| KEY_BYTES + key.len()).sum::<usize>();
    let range_bytes = |range: &KeyRange| range.start.len() + range.end.as_ref().map_or(0, Vec::len);
    let ranges = set.ranges().map(|(_, range)| RANGE_BYTES + range_bytes(range)).sum::<usize>();
    let places = of_keys.union(&of_ranges).count() * PLACE_BYTES;
    places + of_keys.len() * KEYS_BYTES + keys + of_ranges.len() * RANGES_BYTES + ranges
}

proptest! {
    #[test]
    fn whatever_was_read_stays_covered_within_any_budget(
        reads in prop::collection::vec(read(), 0..80), budget in 0usize..6000
    ) {
        let mut set = ReadSet::new(budget);
        for (index, read) in reads.iter().enumerate() {
            add(&mut set, read);
            for earlier in &reads[..=index] {
                prop_assert!(covers(&set, earlier), "{:?} is gone after {:?}", earlier, read);
            }
            prop_assert_eq!(set.memory_bytes(), counted_bytes(&set));
            prop_assert!(set.memory_bytes() <= budget);
            let kept = set.keys().count() + set.ranges().count();
            prop_assert!(!set.is_everything() || kept == 0);
        }
        for (keyspace, key) in set.keys() {
            let in_range = set.ranges().any(|(n, range)| n == keyspace && range.contains(key));
            prop_assert!(!in_range, "a key lies in a range");
            prop_assert!(set.contains(keyspace, key));
        }
    }

    #[test]
    fn within_its_budget_the_set_covers_nothing_else(
        reads in prop::collection::vec(read(), 0..40), probe in key()
    ) {
        let mut set = ReadSet::new(usize::MAX);
        reads.iter().for_each(|read| add(&mut set, read));
        for number in 1..4 {
            let keyspace = KeyspaceNumber(number);
            let was_read = reads.iter().any(|read| match read {
                Read::Key(number, key) => *number == keyspace && *key == probe,
                Read::Range(number, range) => *number == keyspace && range.contains(&probe),
            });
            prop_assert_eq!(set.contains(keyspace, &probe), was_read);
        }
    }
}

#[test]
fn neighbours_with_much_in_common_are_joined_first() {
    let mut set = ReadSet::new(4000);
    for group in [b'a', b'm', b'z'] {
        for last in 0..40u8 {
            set.add_key(KEYSPACE, &[group, b'-', b'-', last]);
        }
    }
    assert!(set.memory_bytes() <= 4000);
    for between in [b"b".as_slice(), b"l", b"m", b"n", b"y"] {
        assert!(!set.contains(KEYSPACE, between), "{between:?} was never near what was read");
    }
    assert!(set.ranges().count() > 0);
}

#[test]
fn a_scan_that_goes_on_stays_one_range() {
    let mut set = ReadSet::new(1 << 20);
    let mut start = Vec::new();
    for step in 0..1000u32 {
        let end = step.to_be_bytes().to_vec();
        set.add_range(KEYSPACE, &KeyRange::new(start, Some(end.clone())));
        start = end;
    }
    assert_eq!(set.ranges().count(), 1);
    assert!(set.memory_bytes() < 200 + WHOLE_BYTES);
}

#[test]
fn a_set_with_room_for_one_range_covers_the_whole_keyspace_and_no_other() {
    let mut set = ReadSet::new(2 * WHOLE_BYTES);
    set.add_key(KEYSPACE, &[b'k'; 5000]);
    assert!(set.contains(KEYSPACE, b"") && set.contains(KEYSPACE, &[255; 40]));
    assert!(!set.is_everything() && !set.contains(KeyspaceNumber(2), b""));
}

/// The fixed part of each keyspace was in no budget: a thousand transactions that each read a
/// thousand keyspaces took 310 MB of any.
#[test]
fn of_more_keyspaces_than_the_budget_has_room_for_everything_counts_as_read() {
    let mut set = ReadSet::new(64 << 10);
    assert!(set.is_empty() && !set.contains(KEYSPACE, b"k"));
    let mut number = 0;
    while !set.is_everything() {
        number += 1;
        set.add_key(KeyspaceNumber(number), b"k");
        assert!(set.contains(KeyspaceNumber(number), b"k") && !set.is_empty());
        assert!(set.memory_bytes() <= 64 << 10);
    }
    assert!(number > 100, "there was room for more than {number} keyspaces");
    assert_eq!((set.memory_bytes(), set.len()), (0, 0));
    let all = KeyRange::all();
    assert!(set.contains(KeyspaceNumber(9_999), b"") && set.overlaps(KeyspaceNumber(9_999), &all));
    assert!(!set.overlaps(KEYSPACE, &KeyRange::new(b"a", Some(b"a".to_vec()))), "no key");
    assert!(!set.is_empty());
    set.add_key(KEYSPACE, b"more");
    set.add_range(KEYSPACE, &all);
    assert_eq!(set.memory_bytes(), 0);
}

#[test]
fn many_keyspaces_are_joined_a_little_each_and_none_is_read_whole() {
    let mut set = ReadSet::new(usize::MAX);
    for number in 0..2_000 {
        for key in 0..64u8 {
            set.add_key(KeyspaceNumber(number), &[key; 8]);
        }
    }
    let before = set.memory_bytes();
    set.set_budget(before - 1);
    assert!(set.memory_bytes() <= before / 4 * 3 && set.memory_bytes() > before / 2);
    for number in 0..2_000 {
        let keyspace = KeyspaceNumber(number);
        assert!((0..64u8).all(|key| set.contains(keyspace, &[key; 8])));
        assert!(!set.contains(keyspace, b"") && !set.contains(keyspace, &[99]));
    }
}

#[test]
fn many_keys_in_random_order_stay_in_the_budget_without_joining_far_too_much() {
    let mut random = crate::sync::Random::from_seed(7);
    let mut set = ReadSet::new(100_000);
    let mut read = BTreeSet::new();
    for _ in 0..100_000 {
        let key = random.next_u64().to_be_bytes();
        set.add_key(KEYSPACE, &key);
        read.insert(key);
        assert!(set.memory_bytes() <= 100_000);
    }
    assert!(read.iter().all(|key| set.contains(KEYSPACE, key)));
    assert!(set.keys().count() + set.ranges().count() > 100, "far more was joined than needed");
}
