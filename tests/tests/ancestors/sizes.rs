//! Keys and values of all sizes.

use crash_lsm::fixtures::{Arrangement, arrange, result_of, run_all_steps};
use crash_lsm::setup::Setup;
use sapwood::sync::Random;

use super::{check_content, in_every_arrangement, keys_forwards, put};

fn value_of(length: usize) -> Vec<u8> {
    let mut value = vec![0; length];
    Random::from_seed(length as u64).fill(&mut value);
    value
}

#[test]
fn values_from_nothing_to_a_mebibyte_are_read_back_byte_for_byte() {
    let mut lengths = Vec::new();
    let mut length = 0usize;
    while length <= 1 << 20 {
        lengths.push(length);
        length += 1 + length / 9;
    }
    lengths.extend([1023, 1024, 1025, 4095, 4096, 131_071, 131_072, 131_073, 1 << 20]);
    let setup = Setup { region_bytes: 4 << 20, budget_bytes: 32 << 20, ..Setup::tiny() };
    for arrangement in [Arrangement::Memory, Arrangement::OneSegment, Arrangement::Levels] {
        let database = setup.builder().open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let changes: Vec<_> =
            lengths.iter().map(|&length| put(format!("{length:08}"), value_of(length))).collect();
        for some in changes.chunks(16) {
            arrange(&database, &keyspace, arrangement, some).unwrap();
        }
        for &length in &lengths {
            let value = keyspace.get(format!("{length:08}")).unwrap().unwrap();
            assert!(value == value_of(length), "{length} bytes, {arrangement:?}");
        }
        let mut cursor = keyspace.cursor().unwrap();
        let mut valid = cursor.last().unwrap();
        while valid {
            let length: u64 = std::str::from_utf8(cursor.key().unwrap()).unwrap().parse().unwrap();
            assert_eq!(cursor.value_len(), Some(length));
            valid = cursor.prev().unwrap();
        }
    }
}

#[test]
fn one_large_value_among_small_ones_is_read_back() {
    let changes = [put("a", "small"), put("b", value_of(100_000)), put("c", "small")];
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 3);
        assert!(keyspace.get("b").unwrap().unwrap() == value_of(100_000));
        check_content(keyspace, &result_of(&changes));
    });
}

#[test]
fn long_shared_prefixes_are_kept_apart() {
    let prefix =
        "a prefix that all of these keys have in common, and which is quite long/".repeat(4);
    let changes: Vec<_> =
        (0..3000).map(|n| put(format!("{prefix}{n:06}"), format!("{n}"))).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(keyspace.prefix(&prefix).unwrap().count(), 3000);
        assert_eq!(keyspace.prefix(format!("{prefix}0001")).unwrap().count(), 100);
        assert_eq!(keyspace.prefix(format!("{prefix}x")).unwrap().count(), 0);
        assert_eq!(keyspace.get(format!("{prefix}001234")).unwrap().unwrap(), b"1234");
        assert_eq!(keyspace.get(&prefix[..prefix.len() - 1]).unwrap(), None);
    });
}

#[test]
fn levels_of_the_longest_keys_hold_at_every_page_size_with_reserved_bytes() {
    for shift in 10..=16 {
        let page_bytes = 1u32 << shift;
        for reserved_bytes in [0, 8, 256] {
            let setup = Setup {
                page_bytes,
                reserved_bytes,
                leaf_bytes: page_bytes,
                region_bytes: (u64::from(page_bytes) * 128).max(1 << 20),
                ..Setup::tiny()
            };
            let database = setup.builder().open_in_memory().unwrap();
            let keyspace = database.keyspace("a").unwrap();
            let changes: Vec<_> = (0..60u32)
                .map(|n| {
                    let mut key = vec![b'k'; 16_384];
                    let at = if n % 2 == 0 { 16_380 } else { 0 };
                    key[at..at + 4].copy_from_slice(&n.to_be_bytes());
                    put(key, format!("{n}"))
                })
                .collect();
            arrange(&database, &keyspace, Arrangement::Levels, &changes).unwrap();
            database.flush().unwrap();
            run_all_steps(&database).unwrap();
            check_content(&keyspace, &result_of(&changes));
            database.compact().unwrap();
            check_content(&keyspace, &result_of(&changes));
        }
    }
}

#[test]
fn keys_and_values_of_odd_sizes_are_kept() {
    let mut random = Random::from_seed(1);
    let changes: Vec<_> = (0..1500)
        .map(|n: u32| {
            let mut key =
                vec![0; 1 + random.below(if n.is_multiple_of(20) { 1000 } else { 100 }) as usize];
            random.fill(&mut key);
            key.extend_from_slice(&n.to_be_bytes());
            let mut value =
                vec![0; random.below(if n.is_multiple_of(30) { 10_000 } else { 300 }) as usize];
            random.fill(&mut value);
            put(key, value)
        })
        .collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        check_content(keyspace, &result_of(&changes));
    });
}

#[test]
fn a_keyspace_of_long_keys_can_be_scanned_by_cursor() {
    let changes: Vec<_> =
        (0..40).map(|n| put(format!("{n:02}{}", "x".repeat(5000)), "v")).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        let keys = keys_forwards(&mut keyspace.cursor().unwrap());
        assert_eq!(keys.len(), 40);
        assert!(keys.is_sorted());
    });
}
