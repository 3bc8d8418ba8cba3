use std::collections::BTreeMap;

use super::*;
use crate::segment::merge_cursor::MergeCursor;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_source::SortedSource;
use proptest::prelude::*;

const KEYSPACES: u32 = 2;
const KEYS: u8 = 16;

#[derive(Clone, Debug)]
enum Operation {
    Put(u8, Vec<u8>),
    Delete(u8),
    DeleteRange(KeyRange),
}

type Step = (KeyspaceNumber, Operation);

/// The map of each keyspace after the commits, by applying every operation where it stands.
type Model = BTreeMap<(KeyspaceNumber, Vec<u8>), Vec<u8>>;

fn step() -> impl Strategy<Value = Step> {
    let range = (0..KEYS, 0..8u8)
        .prop_map(|(start, len)| KeyRange::new([start], (len < 7).then(|| vec![start + len])));
    let operation = prop_oneof![
        4 => (0..KEYS, prop::collection::vec(any::<u8>(), 0..4))
            .prop_map(|(key, value)| Operation::Put(key, value)),
        2 => (0..KEYS).prop_map(Operation::Delete),
        1 => range.prop_map(Operation::DeleteRange),
    ];
    ((1..=KEYSPACES).prop_map(KeyspaceNumber), operation)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..40)
}

/// A committed state in which every key has a value, so that each deletion shows.
fn full() -> Model {
    (1..=KEYSPACES)
        .flat_map(|number| (0..KEYS).map(move |key| (KeyspaceNumber(number), key)))
        .map(|(keyspace, key)| ((keyspace, vec![key]), b"old".to_vec()))
        .collect()
}

fn apply_to_model(model: &mut Model, (keyspace, operation): &Step) {
    match operation {
        Operation::Put(key, value) => {
            model.insert((*keyspace, vec![*key]), value.clone());
        }
        Operation::Delete(key) => {
            model.remove(&(*keyspace, vec![*key]));
        }
        Operation::DeleteRange(range) => {
            model.retain(|(number, key), _| number != keyspace || !range.contains(key));
        }
    }
}

fn apply(writes: &mut PendingWrites, (keyspace, operation): &Step) {
    match operation {
        Operation::Put(key, value) => writes.put(*keyspace, &[*key], value),
        Operation::Delete(key) => writes.delete(*keyspace, &[*key]),
        Operation::DeleteRange(range) => writes.delete_range(*keyspace, range.clone()),
    }
}

fn written(steps: &[Step]) -> PendingWrites {
    let mut writes = PendingWrites::new();
    steps.iter().for_each(|step| apply(&mut writes, step));
    writes
}

fn after(steps: &[Step]) -> Model {
    let mut model = full();
    steps.iter().for_each(|step| apply_to_model(&mut model, step));
    model
}

fn counted_bytes(writes: &PendingWrites) -> usize {
    let points = writes.points().map(|(_, key, write)| bytes_of(key, write)).sum::<usize>();
    points + writes.keyspaces.values().map(|writes| writes.ranges.bytes()).sum::<usize>()
}

proptest! {
    #[test]
    fn normalised_operations_give_what_all_operations_give(steps in steps()) {
        let writes = written(&steps);
        let mut result = full();
        let mut count = 0;
        let mut points_began = false;
        for (keyspace, operation) in writes.operations() {
            count += 1;
            points_began |= !matches!(operation, PendingOperation::DeleteRange(_));
            let operation = match operation {
                PendingOperation::DeleteRange(range) => {
                    prop_assert!(!points_began, "a range delete comes behind a point");
                    Operation::DeleteRange(range.clone())
                }
                PendingOperation::Put { key, value } => Operation::Put(key[0], value.to_vec()),
                PendingOperation::Delete { key } => {
                    let mut ranges = writes.touched_ranges();
                    let said_twice = ranges.any(|(n, range)| n == keyspace && range.contains(key));
                    prop_assert!(!said_twice, "a point delete lies in a range delete");
                    Operation::Delete(key[0])
                }
            };
            apply_to_model(&mut result, &(keyspace, operation));
        }
        prop_assert_eq!(result, after(&steps));
        prop_assert_eq!(writes.len(), count);
        prop_assert_eq!(writes.is_empty(), count == 0);
        prop_assert_eq!(writes.bytes(), counted_bytes(&writes));
    }

    #[test]
    fn reads_of_own_writes_say_what_the_operations_left(steps in steps()) {
        let (writes, model) = (written(&steps), after(&steps));
        for key in full().into_keys() {
            let touched = steps.iter().any(|(keyspace, operation)| {
                *keyspace == key.0 && match operation {
                    Operation::Put(k, _) | Operation::Delete(k) => key.1 == [*k],
                    Operation::DeleteRange(range) => range.contains(&key.1),
                }
            });
            let expected = match model.get(&key) {
                _ if !touched => None,
                Some(value) => Some(PendingRead::Value(value)),
                None => Some(PendingRead::Deleted),
            };
            prop_assert_eq!(writes.get(key.0, &key.1), expected);
            let is_named = writes.touched_keys().any(|(n, k)| n == key.0 && k == key.1)
                || writes.touched_ranges().any(|(n, r)| n == key.0 && r.contains(&key.1));
            prop_assert_eq!(is_named, touched);
        }
        let mut used: Vec<_> = steps
            .iter()
            .filter(|(_, o)| !matches!(o, Operation::DeleteRange(range) if range.is_empty()))
            .map(|(keyspace, _)| *keyspace)
            .collect();
        used.sort();
        used.dedup();
        prop_assert_eq!(writes.keyspaces().collect::<Vec<_>>(), used);
    }

    #[test]
    fn a_source_steps_as_its_points_lie_and_keeps_what_it_saw(
        before in steps(), later in steps(),
        moves in prop::collection::vec((0u8..5, 0..KEYS), 0..40)
    ) {
        let keyspace = KeyspaceNumber(1);
        let mut writes = written(&before);
        let Some(mut source) = writes.source(keyspace) else { return Ok(()) };
        let model: Vec<(Vec<u8>, Option<Vec<u8>>)> = writes
            .points()
            .filter(|(number, ..)| *number == keyspace)
            .map(|(_, key, write)| (key.to_vec(), write.value.as_deref().map(<[u8]>::to_vec)))
            .collect();
        let covers: Vec<_> = (0..KEYS).map(|key| source.cover(&[key], 9).unwrap()).collect();
        let mut later = later.iter();
        let mut place: Option<usize> = None;
        for (step, key) in moves {
            if let Some(step) = later.next() {
                apply(&mut writes, step);
            }
            let bound = model.partition_point(|(k, _)| k.as_slice() < [key].as_slice());
            place = match step {
                0 => { source.next().unwrap(); place.map(|place| place + 1) }
                1 => { source.previous().unwrap(); place.and_then(|place| place.checked_sub(1)) }
                2 => { source.seek(&[key]).unwrap(); Some(bound) }
                3 => { source.seek_before(&[key]).unwrap(); bound.checked_sub(1) }
                _ => { source.seek_last().unwrap(); model.len().checked_sub(1) }
            }
            .filter(|place| *place < model.len());
            prop_assert_eq!(source.valid(), place.is_some());
            let Some((key, value)) = place.and_then(|place| model.get(place)) else {
                prop_assert!(source.key().is_empty() && source.value().is_empty());
                continue;
            };
            prop_assert_eq!(source.key(), key);
            prop_assert_eq!(source.value(), value.as_deref().unwrap_or_default());
            prop_assert_eq!(source.kind() == EntryKind::Put, value.is_some());
        }
        let covers_now: Vec<_> = (0..KEYS).map(|key| source.cover(&[key], 9).unwrap()).collect();
        prop_assert_eq!(covers_now, covers);
    }

    #[test]
    fn a_merging_cursor_shows_own_writes_over_older_ones(
        committed in steps(), own in steps(),
        moves in prop::collection::vec((0u8..4, 0..KEYS), 1..30)
    ) {
        let keyspace = KeyspaceNumber(1);
        let (below, above) = (written(&committed), written(&own));
        let sources = [&above, &below].into_iter().filter_map(|writes| writes.source(keyspace));
        let mut cursor = MergeCursor::new(sources.collect(), 100);
        let mut model = Model::new();
        committed.iter().chain(&own).for_each(|step| apply_to_model(&mut model, step));
        let model: Vec<_> = model.into_iter().filter(|((n, _), _)| *n == keyspace).collect();
        let mut place: Option<usize> = None;
        for (step, key) in moves {
            let bound = model.partition_point(|((_, k), _)| k.as_slice() < [key].as_slice());
            place = match step {
                0 => { cursor.next().unwrap(); place.map(|place| place + 1) }
                1 => { cursor.previous().unwrap(); place.and_then(|place| place.checked_sub(1)) }
                2 => { cursor.seek(&[key]).unwrap(); Some(bound) }
                _ => { cursor.seek_last().unwrap(); model.len().checked_sub(1) }
            }
            .filter(|place| *place < model.len());
            prop_assert_eq!(cursor.valid(), place.is_some());
            if let Some(((_, key), value)) = place.and_then(|place| model.get(place)) {
                prop_assert_eq!(cursor.key(), key);
                prop_assert_eq!(cursor.value(), value);
            }
        }
    }
}

#[test]
fn a_put_after_a_range_delete_wins_and_one_before_does_not() {
    let keyspace = KeyspaceNumber(1);
    let mut writes = PendingWrites::new();
    writes.put(keyspace, b"before", b"1");
    writes.delete_range(keyspace, KeyRange::all());
    writes.put(keyspace, b"later", b"2");
    assert_eq!(writes.get(keyspace, b"before"), Some(PendingRead::Deleted));
    assert_eq!(writes.get(keyspace, b"later"), Some(PendingRead::Value(b"2")));
    assert_eq!(writes.get(KeyspaceNumber(2), b"later"), None);
    assert_eq!(writes.len(), 2);
}

#[test]
fn writes_after_a_source_was_dropped_copy_nothing() {
    let keyspace = KeyspaceNumber(1);
    let mut writes = PendingWrites::new();
    writes.put(keyspace, b"a", b"1");
    let address = |writes: &PendingWrites| Arc::as_ptr(&writes.keyspaces[&keyspace]);
    let first = address(&writes);
    drop(writes.source(keyspace));
    writes.put(keyspace, b"b", b"2");
    assert_eq!(address(&writes), first);
    let held = writes.source(keyspace);
    writes.put(keyspace, b"c", b"3");
    assert_ne!(address(&writes), first);
    drop(held);
}
