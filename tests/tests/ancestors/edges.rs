//! The ends of a keyspace, and the order of its keys.

use sapwood::Seek;

use super::{in_every_arrangement, keys_backwards, keys_forwards, put, puts};

#[test]
fn a_cursor_on_an_empty_database_is_never_valid() {
    let database = crash_lsm::fixtures::tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut cursor = keyspace.cursor().unwrap();
    assert!(!cursor.valid());
    assert!(!cursor.first().unwrap() && !cursor.valid());
    assert!(!cursor.last().unwrap() && !cursor.valid());
    for mode in [Seek::Equal, Seek::AtOrAfter, Seek::AtOrBefore] {
        assert!(!cursor.seek(b"", mode).unwrap());
        assert!(!cursor.seek(b"x", mode).unwrap());
    }
    assert_eq!(cursor.key(), None);
    assert_eq!(cursor.value_len(), None);
    assert_eq!(cursor.compare_key(b"x"), None);
    assert!(keyspace.iter().unwrap().next().is_none());
    assert!(keyspace.iter().unwrap().next_back().is_none());
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0);
}

#[test]
fn stepping_off_the_first_key_ends_the_cursor() {
    in_every_arrangement(&puts(["a", "b", "c"]), |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.first().unwrap());
        assert!(!cursor.prev().unwrap());
        assert!(!cursor.valid() && cursor.key().is_none());
    });
}

#[test]
fn stepping_off_the_last_key_ends_the_cursor() {
    in_every_arrangement(&puts(["a", "b", "c"]), |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.last().unwrap());
        assert!(!cursor.next().unwrap());
        assert!(!cursor.valid() && cursor.key().is_none());
    });
}

#[test]
fn an_ended_iterator_stays_at_its_end() {
    in_every_arrangement(&puts(["a", "b"]), |_, keyspace, _| {
        let mut range = keyspace.iter().unwrap();
        assert_eq!(range.by_ref().count(), 2);
        for _ in 0..3 {
            assert!(range.next().is_none() && range.next_back().is_none());
        }
    });
}

#[test]
fn an_iterator_used_from_both_ends_gives_each_pair_once() {
    let changes: Vec<_> = (0..200).map(|n| put(format!("{n:03}"), b"v")).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut range = keyspace.iter().unwrap();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        while let Some(pair) = range.next() {
            front.push(pair.unwrap().0.into_vec());
            for _ in 0..2 {
                let Some(pair) = range.next_back() else { break };
                back.push(pair.unwrap().0.into_vec());
            }
        }
        back.reverse();
        front.extend(back);
        let expected: Vec<_> = changes.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(front, expected);
    });
}

#[test]
fn keys_order_by_bytes_in_both_directions() {
    in_every_arrangement(&puts(["8", "10", "20", "9", "1", "", "100"]), |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        let mut expected = vec!["", "1", "10", "100", "20", "8", "9"];
        assert_eq!(keys_forwards(&mut cursor), expected);
        expected.reverse();
        assert_eq!(keys_backwards(&mut cursor), expected);
    });
}

#[test]
fn bytes_order_unsigned_and_the_empty_key_is_a_key() {
    let keys: [&[u8]; 6] = [b"", b"\0", b"\0\0", b"\x7f", b"\x80", b"\xff\xff"];
    let changes: Vec<_> = keys.iter().rev().map(|key| put(key, key)).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        let seen: Vec<_> =
            keyspace.iter().unwrap().map(|pair| pair.unwrap().0.into_vec()).collect();
        assert_eq!(seen, keys.map(<[u8]>::to_vec));
        assert_eq!(keyspace.get(b"").unwrap().as_deref(), Some(&b""[..]));
    });
}

#[test]
fn an_empty_value_is_a_value() {
    let changes = [put("a", ""), put("b", "x"), put("c", "")];
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(keyspace.get("a").unwrap().map(|value| value.len()), Some(0));
        assert!(keyspace.contains("c").unwrap());
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.seek("c", Seek::Equal).unwrap());
        assert_eq!(cursor.value_len(), Some(0));
        assert!(cursor.value().unwrap().is_empty());
        assert_eq!(keys_backwards(&mut cursor), ["c", "b", "a"]);
    });
}

#[test]
fn next_and_prev_and_seeks_to_the_current_key_may_be_mixed() {
    let changes: Vec<_> = (0..500).map(|n| put(format!("{n:05}"), format!("{n}"))).collect();
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.first().unwrap());
        let mut at = 0i32;
        for round in 0..200 {
            let (forwards, backwards) = (1 + round % 7, round % 5);
            for _ in 0..forwards {
                assert!(cursor.next().unwrap());
                at += 1;
            }
            let here = cursor.key().unwrap().to_vec();
            let mode = [Seek::Equal, Seek::AtOrAfter, Seek::AtOrBefore][round as usize % 3];
            assert!(cursor.seek(&here, mode).unwrap());
            assert_eq!(cursor.key(), Some(&here[..]));
            for _ in 0..backwards.min(at) {
                assert!(cursor.prev().unwrap());
                at -= 1;
            }
            assert_eq!(cursor.key().unwrap(), format!("{at:05}").as_bytes());
            assert_eq!(cursor.value().unwrap(), format!("{at}").as_bytes());
            at += 0;
            if at > 490 {
                break;
            }
        }
    });
}
