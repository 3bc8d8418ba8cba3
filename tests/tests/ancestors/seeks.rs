//! Where seeks land: on the key, beside it, before the first and behind the last.

use std::cmp::Ordering;

use sapwood::{Keyspace, Seek};

use super::{in_every_arrangement, put, puts};

fn seek(keyspace: &Keyspace, key: impl AsRef<[u8]>, mode: Seek) -> Option<String> {
    let mut cursor = keyspace.cursor().unwrap();
    let valid = cursor.seek(key, mode).unwrap();
    assert_eq!(valid, cursor.valid());
    cursor.key().map(|key| String::from_utf8_lossy(key).into_owned())
}

#[test]
fn a_seek_to_a_key_that_is_there_finds_it_in_every_mode() {
    in_every_arrangement(&puts(["a", "c", "e", "g"]), |_, keyspace, _| {
        for key in ["a", "c", "e", "g"] {
            for mode in [Seek::Equal, Seek::AtOrAfter, Seek::AtOrBefore] {
                assert_eq!(seek(keyspace, key, mode).as_deref(), Some(key));
            }
        }
    });
}

#[test]
fn a_seek_between_two_keys_finds_the_neighbour_or_nothing() {
    in_every_arrangement(&puts(["a", "c", "e", "g"]), |_, keyspace, _| {
        for (key, before, after) in [("b", "a", "c"), ("cc", "c", "e"), ("f", "e", "g")] {
            assert_eq!(seek(keyspace, key, Seek::Equal), None);
            assert_eq!(seek(keyspace, key, Seek::AtOrAfter).as_deref(), Some(after));
            assert_eq!(seek(keyspace, key, Seek::AtOrBefore).as_deref(), Some(before));
        }
    });
}

#[test]
fn a_seek_before_the_first_key_finds_it_only_from_below() {
    in_every_arrangement(&puts(["b", "d", "f"]), |_, keyspace, _| {
        for key in ["", "a", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert_eq!(seek(keyspace, key, Seek::AtOrBefore), None);
            assert_eq!(seek(keyspace, key, Seek::Equal), None);
            assert_eq!(seek(keyspace, key, Seek::AtOrAfter).as_deref(), Some("b"));
        }
    });
}

#[test]
fn a_seek_behind_the_last_key_finds_it_only_from_above() {
    in_every_arrangement(&puts(["b", "d", "f"]), |_, keyspace, _| {
        for key in [&b"g"[..], b"f\0", b"\xff\xff\xff\xff\xff"] {
            assert_eq!(seek(keyspace, key, Seek::AtOrAfter), None);
            assert_eq!(seek(keyspace, key, Seek::Equal), None);
            assert_eq!(seek(keyspace, key, Seek::AtOrBefore).as_deref(), Some("f"));
        }
    });
}

#[test]
fn a_seek_over_segments_of_keys_of_different_widths_finds_the_exact_key() {
    let narrow = (0..100).map(|n| put(format!("{n:03}"), "narrow"));
    let wide = (0..100).map(|n| put(format!("{n:05}"), "wide"));
    let changes: Vec<_> = narrow.chain(wide).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(seek(keyspace, "00001", Seek::Equal).as_deref(), Some("00001"));
        assert_eq!(seek(keyspace, "001", Seek::Equal).as_deref(), Some("001"));
        assert_eq!(seek(keyspace, "0001", Seek::Equal), None);
        assert_eq!(seek(keyspace, "0001", Seek::AtOrAfter).as_deref(), Some("00010"));
        assert_eq!(seek(keyspace, "0001", Seek::AtOrBefore).as_deref(), Some("00009"));
    });
}

#[test]
fn multiples_of_four_and_seven_have_the_right_neighbours_around_a_gap() {
    let fours = (0..2500).map(|n| n * 4);
    let sevens = (0..1428).map(|n| n * 7);
    let changes: Vec<_> = fours.chain(sevens).map(|n| put(format!("{n:05}"), "v")).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(seek(keyspace, "02330", Seek::Equal), None);
        assert_eq!(seek(keyspace, "02330", Seek::AtOrBefore).as_deref(), Some("02328"));
        assert_eq!(seek(keyspace, "02330", Seek::AtOrAfter).as_deref(), Some("02331"));
    });
}

#[test]
fn every_gap_among_ten_thousand_keys_has_its_exact_neighbours() {
    let changes: Vec<_> = (0..10_000).map(|n| put(format!("{:06}", n * 2), "v")).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        for n in (1..19_998).step_by(2).step_by(7) {
            let (key, before, after) =
                (format!("{n:06}"), format!("{:06}", n - 1), format!("{:06}", n + 1));
            assert!(!cursor.seek(&key, Seek::Equal).unwrap());
            assert!(cursor.seek(&key, Seek::AtOrBefore).unwrap());
            assert_eq!(cursor.key(), Some(before.as_bytes()));
            assert!(cursor.next().unwrap());
            assert_eq!(cursor.key(), Some(after.as_bytes()));
            assert!(cursor.seek(&key, Seek::AtOrAfter).unwrap());
            assert_eq!(cursor.key(), Some(after.as_bytes()));
            assert!(cursor.prev().unwrap());
            assert_eq!(cursor.key(), Some(before.as_bytes()));
        }
    });
}

#[test]
fn compare_key_says_where_the_cursor_stands() {
    in_every_arrangement(&puts(["b", "d"]), |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.seek("d", Seek::Equal).unwrap());
        assert_eq!(cursor.compare_key(b"c"), Some(Ordering::Greater));
        assert_eq!(cursor.compare_key(b"d"), Some(Ordering::Equal));
        assert_eq!(cursor.compare_key(b"d\0"), Some(Ordering::Less));
    });
}
