//! The range tombstones of a memtable, cut into fragments that do not overlap.
//!
//! *Guarantees*: fragments are sorted by keyspace, then start; they do not overlap; each has at
//! least one number, none twice; none is empty. A tombstone costs what it touches of fragments, and
//! not of their numbers: those that had one list of numbers have one again.
//! *Threads*: a [`RangeDeletes`] never changes; adding to it makes another one that shares most of
//! it.

use super::numbers::Numbers;
use super::{KeyspaceNumber, SequenceNumber};
use crate::sync::Arc;

/// Fragments that are copied together when one of them changes.
const BLOCK_FRAGMENTS: usize = 64;
/// Each insertion takes a count for each 64 fragments of the whole.
const STRETCHES_MAX: usize = 64;
/// What an allocation costs beside its content, about: two counts, and what the allocator adds and
/// rounds up.
pub(super) const ALLOCATION_BYTES: usize = 32;

/// A stretch of keys that the same range tombstones cover.
#[derive(Clone, Debug)]
pub struct Fragment {
    keyspace: KeyspaceNumber,
    start: Arc<[u8]>,
    end: Option<Arc<[u8]>>,
    /// The numbers of its tombstones are those from `from` on.
    numbers: Numbers,
    from: usize,
}

impl PartialEq for Fragment {
    fn eq(&self, other: &Fragment) -> bool {
        let place = |of: &Fragment| (of.keyspace, of.start.clone(), of.end.clone());
        place(self) == place(other) && self.sequences().eq(other.sequences())
    }
}

impl Fragment {
    /// The keyspace.
    #[must_use]
    pub fn keyspace(&self) -> KeyspaceNumber {
        self.keyspace
    }

    /// The first key that is covered.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key that is not covered any more; nothing when the rest of the keyspace is.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// The numbers of the tombstones, newest first.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceNumber> {
        (self.from..self.numbers.len()).rev().map_while(|index| self.numbers.get(index))
    }

    /// The highest number.
    #[must_use]
    pub fn newest(&self) -> SequenceNumber {
        self.sequences().next().unwrap_or_default()
    }

    /// The highest number at or below `at`.
    #[must_use]
    pub fn newest_at(&self, at: SequenceNumber) -> Option<SequenceNumber> {
        // All before `low` are at or below `at`, none from `high` on.
        let (mut low, mut high) = (self.from, self.numbers.len());
        while low < high {
            // The newest are asked for most.
            let middle = if high == self.numbers.len() { high - 1 } else { low.midpoint(high) };
            match self.numbers.get(middle) {
                Some(number) if number <= at => low = middle + 1,
                _ => high = middle,
            }
        }
        if low > self.from { self.numbers.get(low - 1) } else { None }
    }

    /// True when all of it lies before this key.
    fn is_before(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        let ends = || self.end.as_deref().is_some_and(|end| end <= key);
        self.keyspace < keyspace || self.keyspace == keyspace && ends()
    }

    /// True when it begins before this end of a range in `keyspace`.
    fn begins_before(&self, keyspace: KeyspaceNumber, end: Option<&[u8]>) -> bool {
        let begins = || end.is_none_or(|end| *self.start < *end);
        self.keyspace < keyspace || self.keyspace == keyspace && begins()
    }

    /// About the memory that it takes, behind another: bounds and numbers that they share count
    /// once.
    fn bytes_behind(&self, before: Option<&Fragment>) -> usize {
        let bound = |key: &Arc<[u8]>| ALLOCATION_BYTES + key.len();
        let end_before = before.and_then(|before| before.end.as_ref());
        let is_shared = end_before.is_some_and(|end| Arc::ptr_eq(end, &self.start));
        let start_bytes = if is_shared { 0 } else { bound(&self.start) };
        let end_bytes = self.end.as_ref().map_or(0, bound);
        // Chunks with none but earlier numbers are a neighbour's, whose list this one once was.
        let chunk_bytes = |of: &Fragment| of.numbers.chunk_bytes(of.from);
        let shared = before.filter(|before| before.numbers.is_same(&self.numbers));
        let own_bytes = chunk_bytes(self).saturating_sub(shared.map_or(0, chunk_bytes));
        let is_own = shared.is_none();
        let list_bytes = if is_own { self.numbers.bytes_beside_chunks() } else { 0 };
        size_of::<Fragment>() + start_bytes + end_bytes + list_bytes + own_bytes
    }

    fn between(&self, start: &Arc<[u8]>, end: Option<&Arc<[u8]>>) -> Fragment {
        Fragment { start: Arc::clone(start), end: end.cloned(), ..self.clone() }
    }
}

/// An immutable set of fragments; a clone costs one count.
#[derive(Clone, Debug, Default)]
pub struct RangeDeletes {
    content: Arc<Content>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Fragments in order; no block is empty.
    blocks: Vec<Arc<[Fragment]>>,
    bytes: usize,
}

impl RangeDeletes {
    pub(super) fn new(content: Arc<Content>) -> RangeDeletes {
        RangeDeletes { content }
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content.blocks.is_empty()
    }

    /// All fragments in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Fragment> {
        self.content.blocks.iter().flat_map(|block| block.iter())
    }

    /// The fragments that share a key with `[start, end)`, in order; no end means that of the
    /// keyspace.
    pub fn overlapping<'a>(
        &'a self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: Option<&'a [u8]>,
    ) -> impl Iterator<Item = &'a Fragment> {
        self.content.overlapping(keyspace, start, end)
    }

    /// The stretches of `[start, end)` over which no tombstone has this number or a higher one;
    /// nothing when they are very many.
    pub(super) fn older_than(
        &self,
        keyspace: KeyspaceNumber,
        (start, end): (&[u8], &[u8]),
        number: SequenceNumber,
    ) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut stretches = Vec::new();
        let mut open = start;
        let fragments = self.overlapping(keyspace, start, Some(end));
        for fragment in fragments.filter(|fragment| fragment.newest() >= number) {
            if *open < *fragment.start {
                stretches.push((open.to_vec(), fragment.start.to_vec()));
            }
            if stretches.len() > STRETCHES_MAX {
                return None;
            }
            match fragment.end() {
                Some(fragment_end) if fragment_end < end => open = fragment_end,
                _ => return Some(stretches),
            }
        }
        stretches.push((open.to_vec(), end.to_vec()));
        Some(stretches)
    }

    /// The highest number at or below `at` of a range tombstone that covers `key`.
    #[must_use]
    pub fn covering(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        at: SequenceNumber,
    ) -> Option<SequenceNumber> {
        self.content.covering(keyspace, key, at)
    }
}

impl Content {
    /// About the memory that the fragments take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The index of the first block that does not lie before this key as a whole.
    fn block_at(&self, keyspace: KeyspaceNumber, key: &[u8]) -> usize {
        let before = |last: &Fragment| last.is_before(keyspace, key);
        self.blocks.partition_point(|block| block.last().is_some_and(before))
    }

    pub(super) fn overlapping<'a>(
        &'a self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: Option<&'a [u8]>,
    ) -> impl Iterator<Item = &'a Fragment> {
        let blocks = self.blocks.get(self.block_at(keyspace, start)..).unwrap_or_default();
        let skipped = blocks
            .first()
            .map_or(0, |block| block.partition_point(|each| each.is_before(keyspace, start)));
        // An empty range (its end at or before its start) may stand inside a fragment.
        let empty = end.is_some_and(|end| end <= start);
        blocks
            .iter()
            .flat_map(|block| block.iter())
            .skip(skipped)
            .take_while(move |each| !empty && each.begins_before(keyspace, end))
    }

    pub(super) fn covering(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        at: SequenceNumber,
    ) -> Option<SequenceNumber> {
        let block = self.blocks.get(self.block_at(keyspace, key))?;
        let index = block.partition_point(|each| each.is_before(keyspace, key));
        let fragment = block.get(index)?;
        if fragment.keyspace != keyspace || *fragment.start > *key {
            return None;
        }
        fragment.newest_at(at)
    }

    /// The same with one tombstone more over `[start, end)`, which is not empty. Complexity: what
    /// it overlaps, and one count for each 64 fragments of the whole; where a higher number lies
    /// already, a copy of all numbers there for each fragment.
    pub(super) fn with(
        &self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: Option<&[u8]>,
        sequence: SequenceNumber,
    ) -> Content {
        let begins = |first: &Fragment| first.begins_before(keyspace, end);
        let from = self.block_at(keyspace, start);
        let to = self.blocks.partition_point(|block| block.first().is_some_and(begins));
        // A fragment between two blocks goes to the left one (the first, if there is none).
        let from = if from < to { from } else { from.saturating_sub(1) };
        let to = to.max(from + 1).min(self.blocks.len());
        let touched = self.blocks.get(from..to).unwrap_or_default();
        let old: Vec<&Fragment> = touched.iter().flat_map(|block| block.iter()).collect();
        let new = cover(&old, keyspace, start, end, sequence);
        let before = from.checked_sub(1).and_then(|index| self.blocks.get(index)?.last());
        let behind = self.blocks.get(to).and_then(|block| block.first());
        let removed_bytes = bytes_between(before, old.iter().copied(), behind);
        let added_bytes = bytes_between(before, new.iter(), behind);

        let mut blocks = Vec::with_capacity(self.blocks.len() + new.len() / BLOCK_FRAGMENTS + 1);
        blocks.extend(self.blocks.iter().take(from).cloned());
        // Even halves, so that a full block is not followed by crumbs.
        let count = new.len().div_ceil(BLOCK_FRAGMENTS);
        blocks.extend(new.chunks(new.len().div_ceil(count)).map(Arc::from));
        blocks.extend(self.blocks.iter().skip(to).cloned());
        Content { blocks, bytes: self.bytes + added_bytes - removed_bytes }
    }
}

/// The bytes of neighbouring fragments and of the one behind them.
fn bytes_between<'a>(
    mut before: Option<&'a Fragment>,
    fragments: impl Iterator<Item = &'a Fragment>,
    behind: Option<&'a Fragment>,
) -> usize {
    let mut bytes = 0;
    for fragment in fragments.chain(behind) {
        bytes += fragment.bytes_behind(before);
        before = Some(fragment);
    }
    bytes
}

/// Gives fragments another number.
struct Adding {
    sequence: SequenceNumber,
    /// A list that had the number added last, with what it was before, and how many of its numbers
    /// it had that no fragment with it has.
    last: Option<(Numbers, Numbers, usize)>,
}

impl Adding {
    /// The fragment with the number among its own. `rest` are it and those behind it that get the
    /// number too.
    fn to(&mut self, mut fragment: Fragment, rest: &[&Fragment]) -> Fragment {
        let (sequence, newest) = (self.sequence, fragment.newest());
        if sequence > newest {
            // One that comes behind fragments with a higher number was not among the rest then.
            let known = self.last.take().filter(|(old, _, left_out)| {
                old.is_same(&fragment.numbers) && *left_out <= fragment.from
            });
            let (old, new, left_out) = known.unwrap_or_else(|| {
                let old = fragment.numbers;
                let with_it = rest.iter().take_while(|each| each.numbers.is_same(&old));
                let unneeded = with_it.map(|each| each.from).min().unwrap_or(0);
                let new = old.with(sequence, unneeded);
                let left_out = old.left_out(unneeded);
                (old, new, left_out)
            });
            fragment.numbers = new.clone();
            fragment.from -= left_out;
            self.last = Some((old, new, left_out));
        } else if fragment.newest_at(sequence) != Some(sequence) {
            let mut numbers: Vec<SequenceNumber> = fragment.sequences().collect();
            numbers.push(sequence);
            numbers.sort_unstable();
            (fragment.numbers, fragment.from) = (Numbers::of(&numbers), 0);
        }
        fragment
    }
}

/// Adds one tombstone to neighbouring fragments.
fn cover(
    old: &[&Fragment],
    keyspace: KeyspaceNumber,
    start: &[u8],
    end: Option<&[u8]>,
    sequence: SequenceNumber,
) -> Vec<Fragment> {
    let first = old.partition_point(|each| each.is_before(keyspace, start));
    let after = old.partition_point(|each| each.begins_before(keyspace, end));
    let alone = Fragment {
        keyspace,
        start: Arc::from(start),
        end: end.map(Arc::from),
        numbers: Numbers::of(&[sequence]),
        from: 0,
    };
    let mut adding = Adding { sequence, last: None };
    let mut new: Vec<Fragment> = Vec::with_capacity(old.len() + 2);
    new.extend(old[..first].iter().map(|each| (*each).clone()));
    // What is not yet covered begins here; nothing when all is.
    let mut open = Some(Arc::clone(&alone.start));
    for (index, each) in old[first..after].iter().enumerate() {
        let Some(position) = open.take() else { break };
        if *each.start < *position {
            new.push(each.between(&each.start, Some(&position)));
        } else if position < each.start {
            new.push(alone.between(&position, Some(&each.start)));
        }
        let from = if *each.start < *position { &position } else { &each.start };
        let sticks_out = match (&each.end, end) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(each_end), Some(end)) => **each_end > *end,
        };
        let to = if sticks_out { &alone.end } else { &each.end };
        let rest = &old[first + index..after];
        new.push(adding.to(each.between(from, to.as_ref()), rest));
        if sticks_out && let Some(to) = to {
            new.push(each.between(to, each.end.as_ref()));
        } else if each.end.as_deref() != end {
            open.clone_from(&each.end);
        }
    }
    if let Some(position) = open {
        new.push(alone.between(&position, alone.end.as_ref()));
    }
    // What was not covered has the number at the end of a list of its neighbours, which tombstones
    // to come may cover with it: so they go on with one list.
    if let Some((_, list, _)) = &adding.last {
        for each in new.iter_mut().filter(|each| each.numbers.is_same(&alone.numbers)) {
            (each.numbers, each.from) = (list.clone(), list.len() - 1);
        }
    }
    new.extend(old[after..].iter().map(|each| (*each).clone()));
    new
}

impl Content {
    /// True when a tombstone above `after` shares a key with `[start, end)`.
    pub(super) fn changed_since(
        &self,
        keyspace: KeyspaceNumber,
        (start, end): (&[u8], Option<&[u8]>),
        after: SequenceNumber,
    ) -> bool {
        self.overlapping(keyspace, start, end).any(|fragment| fragment.newest() > after)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::numbers::CHUNK_NUMBERS;
    use super::*;

    type Tombstone = (u32, Vec<u8>, Option<Vec<u8>>, u64);

    fn build(tombstones: &[Tombstone]) -> RangeDeletes {
        let mut content = Content::default();
        for (keyspace, start, end, sequence) in tombstones {
            let (keyspace, sequence) = (KeyspaceNumber(*keyspace), SequenceNumber(*sequence));
            content = content.with(keyspace, start, end.as_deref(), sequence);
        }
        RangeDeletes::new(Arc::new(content))
    }

    /// What a linear look at all tombstones says.
    fn naive(tombstones: &[Tombstone], keyspace: u32, key: &[u8], at: u64) -> Option<u64> {
        tombstones
            .iter()
            .filter(|(of, start, end, sequence)| {
                let ends_after = end.as_deref().is_none_or(|end| key < end);
                *of == keyspace && start.as_slice() <= key && ends_after && *sequence <= at
            })
            .map(|(.., sequence)| *sequence)
            .max()
    }

    fn check_shape(deletes: &RangeDeletes) {
        let all: Vec<_> = deletes.iter().collect();
        for fragment in &all {
            assert!(fragment.end().is_none_or(|end| fragment.start() < end));
            let numbers: Vec<_> = fragment.sequences().collect();
            assert!(!numbers.is_empty() && numbers.windows(2).all(|pair| pair[0] > pair[1]));
        }
        for pair in all.windows(2) {
            assert!(pair[0].is_before(pair[1].keyspace(), pair[1].start()), "{pair:?}");
        }
        assert!(deletes.content.blocks.iter().all(|block| !block.is_empty()));
        assert!(deletes.content.blocks.iter().all(|block| block.len() <= BLOCK_FRAGMENTS));
        let bytes = bytes_between(None, all.iter().copied(), None);
        assert_eq!(deletes.content.bytes, bytes);
        assert!(held_bytes(deletes) <= bytes, "{} of {bytes}", held_bytes(deletes));
    }

    /// What the fragments keep from being given back, each allocation once.
    fn held_bytes(deletes: &RangeDeletes) -> usize {
        let mut held = std::collections::BTreeMap::new();
        for fragment in deletes.iter() {
            let bounds = [Some(&fragment.start), fragment.end.as_ref()];
            let bounds = bounds.into_iter().flatten();
            held.extend(bounds.map(|key| (key.as_ptr(), ALLOCATION_BYTES + key.len())));
            held.extend(fragment.numbers.allocations());
        }
        held.values().sum::<usize>() + deletes.iter().count() * size_of::<Fragment>()
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0..4u8, 0..4)
    }

    fn tombstone() -> impl Strategy<Value = Tombstone> {
        let bounds = (key(), prop::option::weighted(0.9, key()));
        (0..3u32, bounds, 1..40u64).prop_filter_map("empty range", |(keyspace, range, sequence)| {
            let (start, end) = range;
            end.as_ref().is_none_or(|end| start < *end).then_some((keyspace, start, end, sequence))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn covering_agrees_with_a_list_of_tombstones(
            tombstones in prop::collection::vec(tombstone(), 0..60),
            keys in prop::collection::vec((0..4u32, key(), 0..45u64), 40),
        ) {
            let deletes = build(&tombstones);
            check_shape(&deletes);
            for (keyspace, key, at) in keys {
                let found = deletes.covering(KeyspaceNumber(keyspace), &key, SequenceNumber(at));
                let expected = naive(&tombstones, keyspace, &key, at);
                prop_assert_eq!(found.map(|sequence| sequence.0), expected);
            }
        }

        #[test]
        fn overlapping_gives_exactly_the_fragments_that_share_a_key(
            tombstones in prop::collection::vec(tombstone(), 0..40),
            (keyspace, start, end, after) in tombstone(),
        ) {
            let deletes = build(&tombstones);
            let keyspace = KeyspaceNumber(keyspace);
            let shares = |each: &&Fragment| {
                each.keyspace() == keyspace
                    && each.end().is_none_or(|fragment_end| start.as_slice() < fragment_end)
                    && end.as_deref().is_none_or(|end| each.start() < end)
            };
            let expected: Vec<_> = deletes.iter().filter(shares).collect();
            let found: Vec<_> = deletes.overlapping(keyspace, &start, end.as_deref()).collect();
            prop_assert_eq!(&found, &expected);
            let range = (start.as_slice(), end.as_deref());
            let changed = deletes.content.changed_since(keyspace, range, SequenceNumber(after));
            prop_assert_eq!(changed, expected.iter().any(|each| each.newest().0 > after));
        }
    }

    #[test]
    fn many_disjoint_ranges_fill_blocks_in_any_order_of_arrival() {
        let name = |index: u32| index.to_be_bytes().to_vec();
        for step in [1, 7, 999] {
            let tombstones: Vec<Tombstone> = (0..1000)
                .map(|index| index * step % 1000)
                .map(|index| (5, name(index * 2), Some(name(index * 2 + 1)), 9))
                .collect();
            let deletes = build(&tombstones);
            check_shape(&deletes);
            assert_eq!(deletes.iter().count(), 1000);
            assert!(deletes.content.blocks.len() <= 60, "{}", deletes.content.blocks.len());
            let covering =
                |key| deletes.covering(KeyspaceNumber(5), &name(key), SequenceNumber::MAX);
            assert_eq!(covering(500), Some(SequenceNumber(9)));
            assert_eq!(covering(501), None);
        }
    }

    #[test]
    fn a_range_over_everything_gives_each_fragment_its_number_and_fills_the_gaps() {
        let tombstones = [
            (1, b"b".to_vec(), Some(b"c".to_vec()), 5),
            (1, b"e".to_vec(), None, 6),
            (2, b"".to_vec(), None, 7),
            (1, b"".to_vec(), None, 9),
        ];
        let deletes = build(&tombstones);
        let seen: Vec<_> = deletes
            .iter()
            .map(|each| (each.keyspace().0, each.start(), each.end(), each.sequences().count()))
            .collect();
        let expected = [
            (1, b"".as_slice(), Some(b"b".as_slice()), 1),
            (1, b"b", Some(b"c"), 2),
            (1, b"c", Some(b"e"), 1),
            (1, b"e", None, 2),
            (2, b"", None, 1),
        ];
        assert_eq!(seen, expected);
    }

    /// Ranges that reach further to the left, each followed by many over what they have in common:
    /// what comes first of a longer list is nobody's but its neighbour's.
    #[test]
    fn lists_that_go_on_from_a_neighbours_take_what_they_count() {
        let mut content = Content::default();
        let mut number = 0;
        let mut add = |start: u32, end: &[u8]| {
            number += 1;
            let start = start.to_be_bytes();
            content = content.with(KeyspaceNumber(1), &start, Some(end), SequenceNumber(number));
            content.clone()
        };
        for reaches in (0..60).rev() {
            add(reaches, b"z");
            for _ in 0..165 {
                add(u32::from_be_bytes(*b"yyyy"), b"z");
            }
            for shorter in 1..4 {
                add(reaches + shorter, b"z");
            }
        }
        check_shape(&RangeDeletes::new(Arc::new(add(1000, b"z"))));
        let all = RangeDeletes::new(Arc::new(add(0, b"z")));
        check_shape(&all);
        let fragments: Vec<_> = all.iter().collect();
        for with_one_list in fragments.chunk_by(|a, b| a.numbers.is_same(&b.numbers)) {
            let unneeded = with_one_list.iter().map(|each| each.from).min().unwrap_or(0);
            assert!(unneeded < CHUNK_NUMBERS, "{unneeded} numbers that nobody needs");
        }
    }

    /// What a scan has joined comes behind tombstones with higher numbers, which may lie between
    /// two parts of one list.
    #[test]
    fn a_number_that_comes_late_goes_to_every_part_of_a_list() {
        let range = |start: &str, end: &str, number| {
            (1, start.as_bytes().to_vec(), Some(end.as_bytes().to_vec()), number)
        };
        let mut tombstones: Vec<_> = (1..=100).map(|number| range("n", "z", number)).collect();
        tombstones.push(range("a", "z", 101));
        tombstones.push(range("l", "o", 103));
        tombstones.push(range("b", "y", 102));
        let deletes = build(&tombstones);
        check_shape(&deletes);
        for key in [b"a", b"b", b"l", b"n", b"o", b"x", b"y", b"z"] {
            for at in 90..110 {
                let found = deletes.covering(KeyspaceNumber(1), key, SequenceNumber(at));
                assert_eq!(found.map(|number| number.0), naive(&tombstones, 1, key, at));
            }
        }
    }

    #[test]
    fn an_empty_range_shares_no_key() {
        let deletes = build(&[(1, b"a".to_vec(), Some(b"z".to_vec()), 5)]);
        assert_eq!(deletes.overlapping(KeyspaceNumber(1), b"b", Some(b"b")).count(), 0);
    }
}
