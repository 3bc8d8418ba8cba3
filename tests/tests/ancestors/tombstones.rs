//! Deletes: of what is there, of what is not, of ranges; and what cursors make of them.

use crash_lsm::fixtures::{ARRANGEMENTS, Arrangement, KeyChange, arrange, result_of, tiny};
use sapwood::Seek;

use super::{
    check_content, delete, in_every_arrangement, keys_backwards, keys_forwards, put, puts,
};

#[test]
fn deleting_what_is_not_there_changes_nothing() {
    let mut changes = puts(["a", "b", "c"]);
    changes.extend(["0", "aa", "d", ""].map(delete));
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert_eq!(keys_forwards(&mut cursor), ["a", "b", "c"]);
        assert_eq!(keys_backwards(&mut cursor), ["c", "b", "a"]);
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 3);
    });
}

#[test]
fn deleting_from_an_empty_database_leaves_it_empty() {
    in_every_arrangement(&["a", "b", "c"].map(delete), |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert!(keys_forwards(&mut cursor).is_empty());
        assert!(keys_backwards(&mut cursor).is_empty());
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 0);
    });
}

#[test]
fn each_of_four_keys_can_be_the_one_that_is_deleted() {
    for gone in ["a", "b", "c", "d"] {
        let mut changes = puts(["a", "b", "c", "d"]);
        changes.push(delete(gone));
        in_every_arrangement(&changes, |_, keyspace, _| {
            check_content(keyspace, &result_of(&changes));
            let mut cursor = keyspace.cursor().unwrap();
            assert_eq!(keys_forwards(&mut cursor).len(), 3);
            assert_eq!(keys_backwards(&mut cursor).len(), 3);
        });
    }
}

#[test]
fn scans_and_seeks_slide_past_a_tombstone() {
    let mut changes = puts(["a", "b", "c", "d", "e"]);
    changes.push(delete("c"));
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert_eq!(keys_forwards(&mut cursor), ["a", "b", "d", "e"]);
        assert_eq!(keys_backwards(&mut cursor), ["e", "d", "b", "a"]);
        assert!(!cursor.seek("c", Seek::Equal).unwrap());
        assert!(cursor.seek("c", Seek::AtOrBefore).unwrap());
        assert_eq!(cursor.key(), Some(&b"b"[..]));
        assert!(cursor.next().unwrap());
        assert_eq!(cursor.key(), Some(&b"d"[..]));
        assert!(cursor.seek("c", Seek::AtOrAfter).unwrap());
        assert_eq!(cursor.key(), Some(&b"d"[..]));
        assert!(cursor.prev().unwrap());
        assert_eq!(cursor.key(), Some(&b"b"[..]));
    });
}

#[test]
fn tombstones_at_both_ends_hide_the_first_and_the_last_key() {
    let mut changes = puts(["a", "b", "c"]);
    changes.extend(["a", "c"].map(delete));
    in_every_arrangement(&changes, |_, keyspace, _| {
        assert_eq!(keyspace.first().unwrap().unwrap().0, b"b");
        assert_eq!(keyspace.last().unwrap().unwrap().0, b"b");
        let mut cursor = keyspace.cursor().unwrap();
        assert!(!cursor.seek("a", Seek::AtOrBefore).unwrap());
        assert!(!cursor.seek("c", Seek::AtOrAfter).unwrap());
    });
}

#[test]
fn a_long_run_of_tombstones_is_passed_in_both_directions() {
    let mut changes: Vec<KeyChange> = (0..3000).map(|n| put(format!("{n:05}"), "v")).collect();
    changes.extend((1..2999).map(|n| delete(format!("{n:05}"))));
    in_every_arrangement(&changes, |_, keyspace, _| {
        let mut cursor = keyspace.cursor().unwrap();
        assert_eq!(keys_forwards(&mut cursor), ["00000", "02999"]);
        assert_eq!(keys_backwards(&mut cursor), ["02999", "00000"]);
        assert!(cursor.seek("01500", Seek::AtOrAfter).unwrap());
        assert_eq!(cursor.key(), Some(&b"02999"[..]));
    });
}

#[test]
fn what_is_put_again_after_its_delete_is_there() {
    let mut changes = puts(["a", "b", "c"]);
    changes.extend([delete("b"), put("b", "again"), delete("c"), put("c", "again"), delete("c")]);
    in_every_arrangement(&changes, |_, keyspace, _| {
        check_content(keyspace, &result_of(&changes));
        assert_eq!(keyspace.get("b").unwrap().unwrap(), b"again");
        assert_eq!(keyspace.get("c").unwrap(), None);
    });
}

#[test]
fn overwriting_leaves_an_open_cursor_with_what_it_saw() {
    for arrangement in ARRANGEMENTS {
        let database = tiny().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let old: Vec<_> = (0..300).map(|n| put(format!("{n:03}"), "old")).collect();
        arrange(&database, &keyspace, arrangement, &old).unwrap();
        let mut before = keyspace.cursor().unwrap();
        assert!(before.first().unwrap());
        let new: Vec<_> =
            (0..300)
                .map(|n| {
                    if n % 3 == 0 {
                        delete(format!("{n:03}"))
                    } else {
                        put(format!("{n:03}"), "new")
                    }
                })
                .collect();
        arrange(&database, &keyspace, Arrangement::Levels, &new).unwrap();
        database.compact().unwrap();
        let mut count = 0;
        loop {
            assert_eq!(before.value().unwrap(), b"old", "{arrangement:?}");
            count += 1;
            if !before.next().unwrap() {
                break;
            }
        }
        assert_eq!(count, 300, "{arrangement:?}");
        drop(before);
        let after: Vec<_> = keyspace.iter().unwrap().map(|pair| pair.unwrap().1).collect();
        assert_eq!(after.len(), 200);
        assert!(after.iter().all(|value| *value == b"new"));
    }
}

#[test]
fn a_deleted_range_hides_what_is_older_and_nothing_that_is_newer() {
    for before in ARRANGEMENTS {
        for after in ARRANGEMENTS {
            let database = tiny().unwrap();
            let keyspace = database.keyspace("a").unwrap();
            let mut changes: Vec<_> = (0..400).map(|n| put(format!("{n:03}"), "old")).collect();
            arrange(&database, &keyspace, before, &changes).unwrap();
            keyspace.delete_range("100".."300").unwrap();
            changes.retain(|(key, _)| !(&b"100"[..]..&b"300"[..]).contains(&key.as_slice()));
            let newer = ["100", "150", "299"].map(|key| put(key, "new"));
            arrange(&database, &keyspace, after, &newer).unwrap();
            changes.extend(newer);
            check_content(&keyspace, &result_of(&changes));
            let mut cursor = keyspace.cursor().unwrap();
            assert!(cursor.seek("101", Seek::AtOrAfter).unwrap());
            assert_eq!(cursor.key(), Some(&b"150"[..]), "{before:?} {after:?}");
            assert!(cursor.seek("298", Seek::AtOrBefore).unwrap());
            assert_eq!(cursor.key(), Some(&b"150"[..]), "{before:?} {after:?}");
            database.compact().unwrap();
            check_content(&keyspace, &result_of(&changes));
        }
    }
}

#[test]
fn a_deleted_prefix_of_highest_bytes_reaches_to_the_end() {
    let keys: [&[u8]; 4] = [b"\xfe\xff", b"\xff", b"\xff\x00", b"\xff\xff\xff"];
    let changes: Vec<_> = keys.iter().map(|key| put(key, "v")).collect();
    in_every_arrangement(&changes, |database, keyspace, _| {
        keyspace.delete_prefix(b"\xff").unwrap();
        assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 1);
        database.flush().unwrap();
        assert_eq!(keyspace.last().unwrap().unwrap().0, b"\xfe\xff");
    });
}
