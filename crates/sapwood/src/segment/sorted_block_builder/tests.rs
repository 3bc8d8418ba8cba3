use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::segment::sorted_block::{KindSet, SortedBlock};

type Pairs = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

fn pairs() -> impl Strategy<Value = Pairs> {
    let key = prop_oneof![vec(0_u8..3, 0..9), vec(Just(1), 0..300)];
    let value = prop_oneof![8 => vec(any::<u8>(), 0..20), 1 => Just(vec![3; 30_000])];
    (vec(any::<u8>(), 0..9), btree_map(key, value, 1..40)).prop_map(|(prefix, pairs)| {
        pairs.into_iter().map(|(key, value)| ([&prefix[..], &key].concat(), value)).collect()
    })
}

fn read_all(content: &[u8], wide: bool) -> Pairs {
    let block = SortedBlock::parse(content, false, wide).unwrap();
    assert_eq!(block.check(KindSet::POINTS, COMPOSITE_KEY_BYTES_MAX), Ok(()));
    let mut key = Vec::new();
    let pair = |index| {
        block.copy_key(index, &mut key).unwrap();
        (key.clone(), block.entry(index).unwrap().value.to_vec())
    };
    (0..block.len()).map(pair).collect()
}

/// Entries whose suffix is shorter than a head, or longer than a length byte tells, may be estimated
/// too high.
const SLACK_BYTES_PER_ENTRY: usize = 5;

proptest! {
    #[test]
    fn the_estimate_bounds_the_block_from_above_closely(pairs in pairs()) {
        let mut builder = SortedBlockBuilder::new(false, 0);
        for (key, value) in &pairs {
            builder.push(EntryKind::Put, key, 0, value);
            prop_assert_eq!(builder.estimated_bytes(), builder.estimated_bytes_of_first(builder.len()));
        }
        let estimate = builder.estimated_bytes();
        let mut out = Vec::new();
        builder.finish(&mut out);
        prop_assert!(out.len() <= estimate);
        // Near the border a higher estimate also counts wide slots.
        let slack = pairs.len() * SLACK_BYTES_PER_ENTRY;
        let border = if out.len() <= 65_535 && estimate > 65_535 { pairs.len() * 2 } else { 0 };
        prop_assert!(estimate <= out.len() + slack + border);
    }

    #[test]
    fn entries_that_are_not_finished_stay_for_the_next_block(
        pairs in pairs(), share in 0.0_f64..1.0, more in vec(any::<u8>(), 0..5),
    ) {
        let mut builder = SortedBlockBuilder::new(false, 0);
        pairs.iter().for_each(|(key, value)| builder.push(EntryKind::Put, key, 0, value));
        let count = (1 + (pairs.len() as f64 * share) as usize).min(pairs.len());
        let bound = builder.estimated_bytes_of_first(count);
        let mut first = b"lead".to_vec();
        let info = builder.finish_first(count, &mut first);
        prop_assert_eq!(info.count, count);
        prop_assert_eq!(&first[..4], b"lead");
        prop_assert!(first.len() - 4 <= bound);
        let mut all = read_all(&first[4..], info.wide);
        prop_assert_eq!(all.len(), count);
        prop_assert_eq!(builder.len(), pairs.len() - count);
        // The prefix of the rest may be longer or shorter than that of all.
        let last = [&[0xff; 20][..], &more].concat();
        builder.push(EntryKind::Put, &last, 0, b"last");
        prop_assert_eq!(builder.last_key(), Some(&last[..]));
        let estimate = builder.estimated_bytes();
        let mut second = Vec::new();
        let info = builder.finish(&mut second);
        prop_assert!(second.len() <= estimate);
        prop_assert!(builder.is_empty() && builder.first_key().is_none());
        all.append(&mut read_all(&second, info.wide));
        let mut expected = pairs;
        expected.insert(last, b"last".to_vec());
        prop_assert_eq!(all, expected);
    }
}

#[test]
fn the_longest_keys_and_most_entries_fit() {
    let mut builder = SortedBlockBuilder::new(true, 5);
    for last in 0..4 {
        let mut key = vec![9; COMPOSITE_KEY_BYTES_MAX - 1];
        key.push(last);
        builder.push(EntryKind::Put, &key, u64::MAX, b"v");
    }
    let mut out = Vec::new();
    assert!(!builder.finish(&mut out).wide);
    let block = SortedBlock::parse(&out, true, false).unwrap();
    assert_eq!(block.check(KindSet::POINTS, COMPOSITE_KEY_BYTES_MAX), Ok(()));
    assert_eq!(block.prefix().len(), COMPOSITE_KEY_BYTES_MAX - 1);
    assert_eq!(block.entry(3).unwrap().number, u64::MAX);

    builder.reset(false, 0);
    for number in 0..BLOCK_ENTRIES_MAX as u32 {
        builder.push(EntryKind::Delete, &number.to_be_bytes(), 0, b"");
    }
    out.clear();
    let info = builder.finish(&mut out);
    assert!(info.wide);
    let block = SortedBlock::parse(&out, false, true).unwrap();
    assert_eq!(block.check(KindSet::POINTS, 4), Ok(()));
    assert_eq!(block.lower_bound(&54_321_u32.to_be_bytes()), (54_321, true));
}

#[test]
fn the_estimate_is_exact_for_keys_of_one_length() {
    for (numbered, key_bytes) in [(false, 8_usize), (true, 8), (false, 24), (true, 2)] {
        let mut builder = SortedBlockBuilder::new(numbered, 0);
        for index in 0..200_u64 {
            let mut key = vec![7; key_bytes.saturating_sub(8)];
            key.extend_from_slice(&index.to_be_bytes()[8_usize.saturating_sub(key_bytes)..]);
            let number = if numbered { 900 - index } else { 0 };
            builder.push(EntryKind::Put, &key, number, b"a value");
        }
        let (estimate, mut out) = (builder.estimated_bytes(), Vec::new());
        builder.finish(&mut out);
        assert_eq!(out.len(), estimate);
    }
}

#[test]
#[should_panic(expected = "ascending order")]
fn entries_out_of_order_are_a_program_error() {
    let mut builder = SortedBlockBuilder::new(true, 0);
    builder.push(EntryKind::Put, b"k", 5, b"");
    builder.push(EntryKind::Put, b"k", 5, b"");
}

#[test]
fn slots_grow_wide_exactly_beyond_65535_bytes() {
    for (value_bytes, lead_bytes, wide) in
        [(65_000, 0, false), (65_508, 0, false), (65_508, 1, true)]
    {
        let mut builder = SortedBlockBuilder::new(false, 0);
        builder.push(EntryKind::Put, b"aaaa", 0, &vec![1; value_bytes]);
        builder.push(EntryKind::Delete, b"bbbb", 0, b"");
        let mut out = Vec::new();
        let info = builder.finish_first_behind(lead_bytes, 2, &mut out);
        assert_eq!(info.wide, wide, "{value_bytes} {lead_bytes} {}", out.len());
        assert_eq!(read_all_len(&out, wide), 2);
    }
}

fn read_all_len(content: &[u8], wide: bool) -> usize {
    let block = SortedBlock::parse(content, false, wide).unwrap();
    assert_eq!(block.check(KindSet::POINTS, 4), Ok(()));
    block.len()
}
