//! Walks with cursors and ranges, beside a model that walks the same way.

use std::cmp::Ordering;
use std::ops::Bound;

use proptest::prelude::*;
use sapwood::{Database, Keyspace, Seek};

use crate::{Model, key, open, value};

/// A walk over a database and a model at once.
#[derive(Clone, Debug)]
enum Move {
    First,
    Last,
    Next,
    Prev,
    Seek(u32, Seek),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let kinds = prop_oneof![Just(Seek::Equal), Just(Seek::AtOrAfter), Just(Seek::AtOrBefore)];
    let one = prop_oneof![
        1 => Just(Move::First),
        1 => Just(Move::Last),
        20 => Just(Move::Next),
        20 => Just(Move::Prev),
        3 => (0..130_u32, kinds).prop_map(|(number, kind)| Move::Seek(number, kind)),
    ];
    // Runs, so that batches end in the middle of one.
    prop::collection::vec((one, 1..30_usize), 1..40)
        .prop_map(|runs| runs.into_iter().flat_map(|(one, count)| vec![one; count]).collect())
}

fn moved(model: &Model, at: Option<&Vec<u8>>, one: &Move) -> Option<Vec<u8>> {
    let found = match one {
        Move::First => model.keys().next(),
        Move::Last => model.keys().next_back(),
        Move::Next => {
            model.range((Bound::Excluded(at?.clone()), Bound::Unbounded)).next().map(|e| e.0)
        }
        Move::Prev => model.range(..at?.clone()).next_back().map(|e| e.0),
        Move::Seek(number, Seek::Equal) => model.get_key_value(&key(*number)).map(|e| e.0),
        Move::Seek(number, Seek::AtOrAfter) => model.range(key(*number)..).next().map(|e| e.0),
        Move::Seek(number, Seek::AtOrBefore) => {
            model.range(..=key(*number)).next_back().map(|e| e.0)
        }
    };
    found.cloned()
}

/// What of the entries lies where.
#[derive(Clone, Debug)]
struct Layers {
    operations: Vec<(u32, u8)>,
    flush_at: usize,
    merge_at: usize,
}

fn layers() -> impl Strategy<Value = Layers> {
    (prop::collection::vec((0..120_u32, 0..10_u8), 0..200), 0..200_usize, 0..200_usize)
        .prop_map(|(operations, flush_at, merge_at)| Layers { operations, flush_at, merge_at })
}

fn build(layers: &Layers) -> (Database, Keyspace, Model) {
    let db = open();
    let keyspace = db.keyspace("a").unwrap();
    let mut model = Model::new();
    for (index, (number, kind)) in layers.operations.iter().enumerate() {
        match kind {
            0 => {
                keyspace.delete_range(key(*number)..key(number + 9)).unwrap();
                model.retain(|k, _| !(key(*number)..key(number + 9)).contains(k));
            }
            1 | 2 => {
                keyspace.delete(key(*number)).unwrap();
                model.remove(&key(*number));
            }
            _ => {
                let value = value(*number + index as u32);
                keyspace.put(key(*number), &value).unwrap();
                model.insert(key(*number), value);
            }
        }
        if index == layers.merge_at {
            db.wait_until_idle().unwrap();
        } else if index == layers.flush_at {
            db.flush().unwrap();
        }
    }
    (db, keyspace, model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_cursor_moves_like_the_model(
        layers in layers(), moves in moves(), flush_after in 0..400_usize
    ) {
        let (db, keyspace, model) = build(&layers);
        let mut cursor = keyspace.cursor().unwrap();
        let mut at: Option<Vec<u8>> = None;
        for (index, one) in moves.iter().enumerate() {
            if index == flush_after {
                keyspace.delete_range::<&str>(..).unwrap();
                db.flush().unwrap();
            }
            at = moved(&model, at.as_ref(), one);
            let valid = match one {
                Move::First => cursor.first(),
                Move::Last => cursor.last(),
                Move::Next => cursor.next(),
                Move::Prev => cursor.prev(),
                Move::Seek(number, seek) => cursor.seek(key(*number), *seek),
            };
            prop_assert_eq!(valid.unwrap(), at.is_some());
            prop_assert_eq!(cursor.key(), at.as_deref());
            prop_assert_eq!(cursor.valid(), at.is_some());
            let value = at.as_ref().map(|key| &model[key]);
            prop_assert_eq!(cursor.value_len(), value.map(|v| v.len() as u64));
            prop_assert_eq!(cursor.value().unwrap().to_vec(), value.cloned().unwrap_or_default());
            let order = at.as_ref().map(|at| at.as_slice().cmp(&b"key 00060"[..]));
            prop_assert_eq!(cursor.compare_key(b"key 00060"), order);
            prop_assert!(order != Some(Ordering::Equal) || cursor.key() == Some(b"key 00060"));
        }
    }

    #[test]
    fn the_ends_of_a_range_meet(
        layers in layers(), start in 0..130_u32, length in 0..130_u32,
        from_front in 0..130_usize, from_back in prop::collection::vec(any::<bool>(), 200)
    ) {
        let (_db, keyspace, model) = build(&layers);
        let (start, end) = (key(start), key(start + length));
        let mut expected = model.range(start.clone()..end.clone());
        let mut range = keyspace.range(start..end).unwrap();
        // As long as one end alone is used it takes another way.
        let from_back = std::iter::repeat_n(false, from_front).chain(from_back);
        for from_back in from_back {
            let (found, wanted) = match from_back {
                true => (range.next_back(), expected.next_back()),
                false => (range.next(), expected.next()),
            };
            let found = found.map(Result::unwrap).map(|(k, v)| (k.into_vec(), v.into_vec()));
            prop_assert_eq!(found.as_ref().map(|(k, v)| (k, v)), wanted);
        }
        prop_assert!(range.next().is_none());
    }
}
