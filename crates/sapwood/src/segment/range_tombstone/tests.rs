use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_block_builder::SortedBlockBuilder;

/// Keys of the model: all strings of at most two letters, in order.
fn all_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![vec![]];
    for a in 0..6_u8 {
        keys.push(vec![a]);
        keys.extend((0..3).map(|b| vec![a, b]));
    }
    keys
}

fn bounded_key() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(all_keys())
}

/// Disjoint ascending fragments, of which some touch.
fn source(numbered: bool) -> impl Strategy<Value = Vec<Fragment>> {
    let numbers = vec(0_u64..8, 1..4);
    (vec(bounded_key(), 0..9), vec((any::<bool>(), numbers), 9), any::<bool>()).prop_map(
        move |(mut keys, covers, open)| {
            keys.sort();
            keys.dedup();
            let mut fragments = Vec::new();
            for (index, (covered, mut numbers)) in covers.into_iter().enumerate().take(keys.len()) {
                let end = keys.get(index + 1).cloned();
                if !covered || (end.is_none() && !open) {
                    continue;
                }
                numbers.sort_by(|a, b| b.cmp(a));
                numbers.dedup();
                let numbers = if numbered { numbers } else { Vec::new() };
                fragments.push(Fragment { start: keys[index].clone(), end, numbers });
            }
            fragments
        },
    )
}

fn sources(numbered: bool) -> impl Strategy<Value = Vec<Vec<Fragment>>> {
    vec(source(numbered), 0..5)
}

fn numbers_at(fragments: &[Fragment], key: &[u8]) -> Option<Vec<u64>> {
    let covering: Vec<_> = fragments.iter().filter(|f| f.covers(key)).collect();
    let mut numbers: Vec<u64> = covering.iter().flat_map(|f| f.numbers.clone()).collect();
    numbers.sort_by(|a, b| b.cmp(a));
    numbers.dedup();
    (!covering.is_empty()).then_some(numbers)
}

fn assert_canonical(fragments: &[Fragment]) {
    assert!(fragments.iter().all(|f| !f.is_empty() && f.numbers.is_sorted_by(|a, b| a > b)));
    for pair in fragments.windows(2) {
        let end = pair[0].end.as_ref().expect("only the last has no end");
        assert!(*end <= pair[1].start);
        assert!(*end < pair[1].start || pair[0].numbers != pair[1].numbers);
    }
}

proptest! {
    #[test]
    fn merged_fragments_cover_each_key_with_the_numbers_of_all_sources(sources in sources(true)) {
        let borrowed: Vec<&[Fragment]> = sources.iter().map(Vec::as_slice).collect();
        let merged = merge_fragments(&borrowed);
        assert_canonical(&merged);
        let all = sources.concat();
        for key in all_keys() {
            prop_assert_eq!(numbers_at(&merged, &key), numbers_at(&all, &key));
        }
    }

    #[test]
    fn the_union_covers_what_any_source_covers(sources in sources(true)) {
        let borrowed: Vec<&[Fragment]> = sources.iter().map(Vec::as_slice).collect();
        let merged = union_ranges(&borrowed);
        assert_canonical(&merged);
        for key in all_keys() {
            let expected = sources.concat().iter().any(|f| f.covers(&key));
            prop_assert_eq!(merged.iter().any(|f| f.covers(&key)), expected);
        }
    }

    #[test]
    fn a_sweep_names_for_each_stretch_the_covering_sources_by_rank(sources in sources(false)) {
        let borrowed: Vec<&[Fragment]> = sources.iter().map(Vec::as_slice).collect();
        let mut stretches: Vec<(Fragment, Vec<usize>)> = Vec::new();
        sweep(&borrowed, |start, end, covers| {
            let stretch =
                Fragment { start: start.to_vec(), end: end.map(<[u8]>::to_vec), numbers: vec![] };
            stretches.push((stretch, covers.iter().map(|cover| cover.rank).collect()));
        });
        for key in all_keys() {
            let ranks: Vec<usize> = (0..sources.len())
                .filter(|rank| sources[*rank].iter().any(|f| f.covers(&key)))
                .collect();
            let found: Vec<_> = stretches.iter().filter(|(f, _)| f.covers(&key)).collect();
            prop_assert!(found.len() <= 1);
            let found = found.first().map(|(_, ranks)| ranks.clone()).unwrap_or_default();
            prop_assert_eq!(found, ranks);
        }
    }

    #[test]
    fn a_sweep_over_fragments_in_any_order_ends(
        sources in vec(vec((bounded_key(), prop::option::of(bounded_key())), 0..6), 0..4),
    ) {
        let fragment = |(start, end)| Fragment { start, end, numbers: vec![1] };
        let sources: Vec<Vec<Fragment>> =
            sources.into_iter().map(|s| s.into_iter().map(fragment).collect()).collect();
        let borrowed: Vec<&[Fragment]> = sources.iter().map(Vec::as_slice).collect();
        assert_canonical(&merge_fragments(&borrowed));
    }

    #[test]
    fn a_clipped_fragment_covers_what_both_cover(
        fragment in (bounded_key(), prop::option::of(bounded_key())),
        start in bounded_key(), end in prop::option::of(bounded_key()),
    ) {
        let fragment = Fragment { start: fragment.0, end: fragment.1, numbers: vec![4, 2] };
        let range = Fragment { start, end, numbers: vec![] };
        let clipped = clip(&fragment, &range.start, range.end.as_deref());
        if let Some(clipped) = &clipped {
            prop_assert!(!clipped.is_empty());
            prop_assert_eq!(&clipped.numbers, &fragment.numbers);
        }
        for key in all_keys() {
            let expected = fragment.covers(&key) && range.covers(&key);
            prop_assert_eq!(clipped.as_ref().is_some_and(|c| c.covers(&key)), expected);
        }
    }

    #[test]
    fn values_return_and_no_truncation_is_taken_for_one(
        end in prop::option::of(vec(any::<u8>(), 0..9)), mut numbers in vec(any::<u64>(), 1..5),
        numbered: bool,
    ) {
        numbers.sort_by(|a, b| b.cmp(a));
        numbers.dedup();
        let base_number = numbered.then_some(*numbers.last().unwrap());
        let numbers = if numbered { numbers } else { Vec::new() };
        let mut value = Vec::new();
        encode_value(end.as_deref(), base_number, &numbers, &mut value);
        let range = RangeValue::decode(&value, base_number).unwrap();
        prop_assert_eq!(range.end, end.as_deref());
        prop_assert_eq!(range.numbers().collect::<Vec<_>>(), numbers.clone());
        for number in &numbers {
            prop_assert_eq!(range.newest_at(*number), Some(*number));
            let below = numbers.iter().copied().find(|n| n < number);
            prop_assert_eq!(number.checked_sub(1).and_then(|n| range.newest_at(n)), below);
        }
        for end in 0..value.len() {
            prop_assert!(RangeValue::decode(&value[..end], base_number).is_err());
        }
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = RangeValue::decode(&damaged, base_number) {
                let same = read.end == end.as_deref() && read.numbers().eq(numbers.iter().copied());
                prop_assert!(!same);
            }
        }
    }
}

#[test]
fn values_against_the_rules_are_refused() {
    for (value, base_number) in [
        (&[2_u8, 0][..], None),
        (&[1, 1, 9], None),
        (&[0, 1, 9, 0], None),
        (&[0, 0, 0], Some(5)),
        (&[0, 0, 2, 3, 3], Some(5)),
        (&[0, 0, 2, 3, 4], Some(5)),
        (&[0, 0, 1, 1], Some(u64::MAX)),
        (&[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1], Some(5)),
    ] {
        assert!(RangeValue::decode(value, base_number).is_err(), "{value:?}");
    }
    assert!(RangeValue::decode(&[0, 0, 2, 4, 3], Some(5)).is_ok());
}

/// A leaf of fragments, each with its first number as the entry's unless another is given.
fn leaf(fragments: &[Fragment], entry_number: Option<u64>) -> Vec<u8> {
    let numbered = fragments.iter().any(|fragment| !fragment.numbers.is_empty());
    let mut builder = SortedBlockBuilder::new(numbered, 0);
    for fragment in fragments {
        let mut value = Vec::new();
        let base_number = numbered.then_some(0);
        encode_value(fragment.end.as_deref(), base_number, &fragment.numbers, &mut value);
        let number = entry_number.or(fragment.numbers.first().copied()).unwrap_or(0);
        builder.push(EntryKind::RangeDelete, &fragment.start, number, &value);
    }
    let mut content = Vec::new();
    builder.finish(&mut content);
    content
}

proptest! {
    #[test]
    fn a_leaf_of_disjoint_fragments_passes_its_check(
        (numbered, fragments) in any::<bool>().prop_flat_map(|n| (Just(n), source(n))),
    ) {
        prop_assume!(!fragments.is_empty());
        let content = leaf(&fragments, None);
        let block = SortedBlock::parse(&content, numbered, false).unwrap();
        prop_assert_eq!(check_leaf(&block), Ok(()));
    }
}

#[test]
fn a_leaf_of_wrong_fragments_fails_its_check() {
    let fragment = |start: &[u8], end: Option<&[u8]>| Fragment {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
        numbers: vec![7, 3],
    };
    let problem = |fragments: &[Fragment], entry_number| {
        let content = leaf(fragments, entry_number);
        check_leaf(&SortedBlock::parse(&content, true, false).unwrap()).unwrap_err().0
    };
    let (ab, ac) = (fragment(b"a", Some(b"b")), fragment(b"a", Some(b"c")));
    assert!(problem(&[ab], Some(6)).contains("highest number"));
    assert!(problem(&[fragment(b"a", Some(b"a"))], None).contains("nothing"));
    assert!(problem(&[fragment(b"b", Some(b"a"))], None).contains("nothing"));
    assert!(problem(&[ac, fragment(b"b", None)], None).contains("overlap"));
    assert!(problem(&[fragment(b"a", None), fragment(b"b", None)], None).contains("overlap"));
}

/// A range tombstone's end may become the key with which the next one begins.
#[test]
fn an_end_is_no_longer_than_a_key() {
    let decoded = |length: usize| {
        let mut value = Vec::new();
        encode_value(Some(&vec![7; length]), None, &[], &mut value);
        RangeValue::decode(&value, None).map(|range| range.end.map(<[u8]>::len))
    };
    assert_eq!(decoded(COMPOSITE_KEY_BYTES_MAX), Ok(Some(COMPOSITE_KEY_BYTES_MAX)));
    assert!(decoded(COMPOSITE_KEY_BYTES_MAX + 1).is_err());
}
