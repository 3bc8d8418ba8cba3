use std::cmp::Ordering;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::segment::COMPOSITE_KEY_BYTES_MAX;
use crate::segment::sorted_block_builder::SortedBlockBuilder;

/// Key and number descending, as blocks order them.
type Model = BTreeMap<(Vec<u8>, std::cmp::Reverse<u64>), (EntryKind, Vec<u8>)>;

const BASE: u64 = 1_000;

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        // Few letters, zero among them: equal heads, keys that are beginnings of others.
        4 => vec(0_u8..2, 0..10),
        2 => vec(any::<u8>(), 0..12),
        1 => vec(Just(b'x'), 0..200),
    ]
}

fn kind() -> impl Strategy<Value = EntryKind> {
    prop_oneof![Just(EntryKind::Put), Just(EntryKind::Delete), Just(EntryKind::PutOverflow)]
}

fn model() -> impl Strategy<Value = (bool, Model)> {
    let entry = (key(), BASE..BASE + 400, kind(), vec(any::<u8>(), 0..12));
    (any::<bool>(), key(), vec(entry, 1..40), any::<bool>()).prop_map(
        |(numbered, prefix, entries, long)| {
            let mut model = Model::new();
            for (index, (suffix, number, kind, mut value)) in entries.into_iter().enumerate() {
                let key = [prefix.clone(), suffix].concat();
                if long && index == 0 {
                    value = vec![7; 70_000];
                }
                if kind == EntryKind::Delete {
                    value.clear();
                }
                let number = if numbered { number } else { 0 };
                model.insert((key, std::cmp::Reverse(number)), (kind, value));
            }
            (numbered, model)
        },
    )
}

fn build(numbered: bool, model: &Model) -> (Vec<u8>, bool) {
    let mut builder = SortedBlockBuilder::new(numbered, if numbered { BASE } else { 0 });
    for ((key, number), (kind, value)) in model {
        builder.push(*kind, key, number.0, value);
    }
    let mut out = Vec::new();
    let info = builder.finish(&mut out);
    assert_eq!(info.count, model.len());
    (out, info.wide)
}

fn probes(model: &Model, more: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut probes = more;
    for (key, _) in model.keys() {
        probes.push(key.clone());
        probes.push([&key[..], &[0]].concat());
        probes.push(key[..key.len().saturating_sub(1)].to_vec());
        let mut above = key.clone();
        if let Some(last) = above.last_mut() {
            *last = last.wrapping_add(1);
        }
        probes.push(above);
    }
    probes
}

proptest! {
    #[test]
    fn what_was_built_is_read_back((numbered, model) in model()) {
        let (content, wide) = build(numbered, &model);
        prop_assert_eq!(wide, content.len() > 65_535);
        let block = SortedBlock::parse(&content, numbered, wide).unwrap();
        prop_assert_eq!(block.check(KindSet::POINTS, COMPOSITE_KEY_BYTES_MAX), Ok(()));
        prop_assert_eq!(block.len(), model.len());
        let mut key = Vec::new();
        for (index, ((model_key, number), (kind, value))) in model.iter().enumerate() {
            let entry = block.entry(index).unwrap();
            block.copy_key(index, &mut key).unwrap();
            prop_assert_eq!(&key, model_key);
            prop_assert_eq!(entry.key_len, key.len());
            prop_assert_eq!((entry.kind, entry.number, entry.value), (*kind, number.0, &value[..]));
            prop_assert!(key.starts_with(block.prefix()));
        }
        prop_assert!(block.entry(model.len()).is_err());
    }

    #[test]
    fn searches_agree_with_a_walk_over_all_keys(
        (numbered, model) in model(), more in vec(key(), 0..10), number in BASE - 1..BASE + 401,
    ) {
        let (content, wide) = build(numbered, &model);
        let block = SortedBlock::parse(&content, numbered, wide).unwrap();
        let keys: Vec<_> = model.keys().collect();
        for probe in probes(&model, more) {
            let first = keys.iter().position(|(key, _)| *key >= probe).unwrap_or(keys.len());
            let equal = keys.get(first).is_some_and(|(key, _)| *key == probe);
            prop_assert_eq!(block.lower_bound(&probe), (first, equal));
            if numbered {
                let first = keys
                    .iter()
                    .position(|(key, n)| *key > probe || *key == probe && n.0 <= number)
                    .unwrap_or(keys.len());
                let equal = keys.get(first).is_some_and(|(key, _)| *key == probe);
                prop_assert_eq!(block.lower_bound_at(&probe, number), (first, equal));
            }
            for (index, (key, _)) in keys.iter().enumerate() {
                prop_assert_eq!(block.compare_key(index, &probe), Ok(key.cmp(&probe)));
            }
        }
    }

    #[test]
    fn entries_of_two_blocks_compare_as_their_keys((numbered, a) in model(), (other, b) in model()) {
        let ((content_a, wide_a), (content_b, wide_b)) = (build(numbered, &a), build(other, &b));
        let block_a = SortedBlock::parse(&content_a, numbered, wide_a).unwrap();
        let block_b = SortedBlock::parse(&content_b, other, wide_b).unwrap();
        for (i, (key_a, _)) in a.keys().enumerate() {
            for (j, (key_b, _)) in b.keys().enumerate() {
                let order = SortedBlock::compare_entries((&block_a, i), (&block_b, j));
                prop_assert_eq!(order, Ok(key_a.cmp(key_b)));
            }
            for (j, (key_b, _)) in a.keys().enumerate() {
                let order = SortedBlock::compare_entries((&block_a, i), (&block_a, j));
                prop_assert_eq!(order, Ok(key_a.cmp(key_b)));
            }
        }
    }
}

/// Does everything that can be done with a block; the results do not matter.
fn use_all(content: &[u8], numbered: bool, wide: bool) -> bool {
    let Ok(block) = SortedBlock::parse(content, numbered, wide) else {
        return false;
    };
    let mut out = Vec::new();
    for index in 0..block.len().min(300) {
        let _ = block.entry(index);
        let _ = block.copy_key(index, &mut out);
        let _ = block.compare_key(index, b"prefix-bb");
        let _ = SortedBlock::compare_entries((&block, index), (&block, block.len() / 2));
    }
    for probe in [&b""[..], b"prefix", b"prefix-", b"prefix-b", b"prefix-bbbbb", b"prefix-z", b"q"]
    {
        assert!(block.lower_bound(probe).0 <= block.len());
        assert!(block.lower_bound_at(probe, BASE + 5).0 <= block.len());
    }
    block.check(KindSet::POINTS, COMPOSITE_KEY_BYTES_MAX).is_ok()
}

fn small_model(numbered: bool) -> Model {
    let keys = ["prefix-", "prefix-a", "prefix-bbbb", "prefix-bbbbb", "prefix-bbbbcc", "prefix-z"];
    let mut model = Model::new();
    for (index, key) in keys.iter().enumerate() {
        for version in 0..if numbered { 2 } else { 1 } {
            let number = if numbered { BASE + index as u64 * 50 + version } else { 0 };
            let entry = match index % 3 {
                0 => (EntryKind::Delete, Vec::new()),
                1 => (EntryKind::Put, vec![index as u8; index * 50]),
                _ => (EntryKind::PutOverflow, vec![1, 2, 3]),
            };
            model.insert((key.as_bytes().to_vec(), std::cmp::Reverse(number)), entry);
        }
    }
    model
}

#[test]
fn no_truncation_is_taken_for_a_block() {
    for numbered in [false, true] {
        let (content, wide) = build(numbered, &small_model(numbered));
        assert!(use_all(&content, numbered, wide));
        for end in 0..content.len() {
            assert!(SortedBlock::parse(&content[..end], numbered, wide).is_err(), "cut at {end}");
        }
        let longer = [&content[..], &[0]].concat();
        assert!(SortedBlock::parse(&longer, numbered, wide).is_err());
    }
}

#[test]
fn flipped_bits_and_wrong_flags_never_panic() {
    let mut noticed = 0;
    for numbered in [false, true] {
        let (content, wide) = build(numbered, &small_model(numbered));
        for bit in 0..content.len() * 8 {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            noticed += usize::from(!use_all(&damaged, numbered, wide));
        }
        for (numbered, wide) in [(false, false), (false, true), (true, false), (true, true)] {
            use_all(&content, numbered, wide);
        }
    }
    assert!(noticed > 500, "only {noticed} flipped bits were noticed");
}

proptest! {
    #[test]
    fn arbitrary_bytes_behind_a_right_header_never_panic(
        heap in vec(prop_oneof![0_u8..8, any::<u8>()], 0..120), count in 1_u16..8,
        prefix in 0_u16..8, numbered: bool, wide: bool,
    ) {
        let fixed = usize::from(count) * if wide { 8 } else { 6 } + usize::from(prefix);
        let heap_bytes = heap.len().saturating_sub(fixed);
        let mut content = [count.to_le_bytes(), prefix.to_le_bytes()].concat();
        content.extend_from_slice(&(heap_bytes as u32).to_le_bytes());
        if numbered {
            content.extend_from_slice(&[0xff; 8]);
        }
        content.extend_from_slice(&heap);
        if heap.len() >= fixed {
            prop_assert!(SortedBlock::parse(&content, numbered, wide).is_ok());
        }
        use_all(&content, numbered, wide);
    }
}

/// Builds narrow blocks by hand: suffixes without prefix, each with its bytes in the heap.
fn by_hand(entries: &[(u32, u16, &[u8])], heap_bytes: usize) -> Vec<u8> {
    let mut content = (entries.len() as u16).to_le_bytes().to_vec();
    content.extend_from_slice(&[0, 0]);
    content.extend_from_slice(&(heap_bytes as u32).to_le_bytes());
    entries.iter().for_each(|(head, _, _)| content.extend_from_slice(&head.to_le_bytes()));
    entries.iter().for_each(|(_, slot, _)| content.extend_from_slice(&slot.to_le_bytes()));
    entries.iter().for_each(|(_, _, bytes)| content.extend_from_slice(bytes));
    content
}

#[test]
fn check_names_each_kind_of_damage() {
    let check = |entries: &[(u32, u16, &[u8])], key_bytes_max| {
        let heap_bytes = entries.iter().map(|(_, _, bytes)| bytes.len()).sum();
        let content = by_hand(entries, heap_bytes);
        let block = SortedBlock::parse(&content, false, false).unwrap();
        block.check(KindSet::POINTS, key_bytes_max).map_err(|problem| problem.0)
    };
    let (a, b) = (0x6100_0000, 0x6200_0000);
    assert_eq!(check(&[(a, 0, &[2, 1]), (b, 2, &[1, 1, 1, 9])], 8), Ok(()));
    for (entries, part) in [
        (&[(b, 0, &[2, 1][..]), (a, 2, &[2, 1])][..], "order"),
        (&[(a, 0, &[2, 1]), (a, 2, &[2, 1])], "order"),
        (&[(a, 0, &[2, 2]), (a, 2, &[2, 1])], "order"),
        (&[(a, 0, &[2, 1]), (b, 0, &[2, 1])], "gap"),
        (&[(a, 0, &[2, 1, 0]), (b, 3, &[2, 1])], "gap"),
        (&[(a, 0, &[2, 1]), (b, 2, &[2, 1, 0])], "follow"),
        (&[(a, 0, &[2, 0])], "zeros"),
        (&[(a, 0, &[4, 1, 0])], "belong"),
        (&[(a, 0, &[6, 1, 0])], "unknown"),
        (&[(a, 0, &[2, 9, 0, 0, 0, 0, 0])], "longer"),
        (&[(a, 0, &[1, 1, 2, 0])], "beyond"),
        (&[(a, 0, &[1, 0x81, 0, 0])], "shortest"),
    ] {
        let problem = check(entries, 8).unwrap_err();
        assert!(problem.contains(part), "{problem} instead of {part}");
    }
}

#[test]
fn keys_that_differ_by_trailing_zeros_are_told_apart() {
    let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"\0\0\0\0", b"\0\0\0\0\0", b"a", b"a\0"];
    let mut builder = SortedBlockBuilder::new(false, 0);
    keys.iter().for_each(|key| builder.push(EntryKind::Put, key, 0, b"v"));
    let mut content = Vec::new();
    builder.finish(&mut content);
    let block = SortedBlock::parse(&content, false, false).unwrap();
    assert_eq!(block.check(KindSet::POINTS, 5), Ok(()));
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(block.lower_bound(key), (index, true));
    }
    assert_eq!(block.lower_bound(b"\0\0\0"), (3, false));
    assert_eq!(block.compare_key(3, b"\0\0\0"), Ok(Ordering::Greater));
}

#[test]
fn a_shape_over_other_bytes_sees_nothing() {
    let (content, wide) = build(false, &small_model(false));
    let shape = BlockShape::parse(&content, false, wide).unwrap();
    assert_eq!(shape.view(&content).len(), 6);
    for end in 0..content.len() {
        assert!(shape.view(&content[..end]).is_empty());
    }
}
