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
    let keys = set.keys().map(|(_, key)| KEY_BYTES + key.len()).sum::<usize>();
    let range_bytes = |range: &KeyRange| range.start.len() + range.end.as_ref().map_or(0, Vec::len);
    keys + set.ranges().map(|(_, range)| RANGE_BYTES + range_bytes(range)).sum::<usize>()
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
            prop_assert_eq!(set.bytes(), counted_bytes(&set));
            prop_assert!(set.bytes() <= budget.max(3 * RANGE_BYTES));
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
    assert!(set.bytes() <= 4000);
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
    assert!(set.bytes() < 200);
}

#[test]
fn a_set_without_budget_covers_whole_keyspaces_and_no_others() {
    let mut set = ReadSet::new(0);
    set.add_key(KEYSPACE, &[b'k'; 500]);
    assert!(set.contains(KEYSPACE, b"") && set.contains(KEYSPACE, &[255; 40]));
    assert!(!set.contains(KeyspaceNumber(2), b""));
    assert_eq!(set.keyspaces().collect::<Vec<_>>(), [KEYSPACE]);
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
        assert!(set.bytes() <= 100_000);
    }
    assert!(read.iter().all(|key| set.contains(KEYSPACE, key)));
    assert!(set.keys().count() + set.ranges().count() > 100, "far more was joined than needed");
}
