//! A set of keys, held as ranges in a tree, for those who add ranges in any order and in any
//! number.
//!
//! [`crate::segment::key_range::KeyRanges`] says the same in a vector, where each insertion moves
//! what lies behind it: right for a few ranges, not for the hundreds of thousands that one
//! transaction may delete or read.
//!
//! *Guarantees*: the ranges ascend, are not empty, and neither overlap nor touch; `bytes` is the
//! sum over them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds};

use crate::segment::key_range::{KeyRange, compare_ends, is_before_end};

/// What a range takes beside its keys: itself in a tree that is two thirds full, and the heap's own
/// share of two allocations.
pub(super) const RANGE_BYTES: usize = size_of::<KeyRange>() * 3 / 2 + 2 * 16;

/// A range that is ordered, and found, by its start.
#[derive(Clone, Debug)]
struct ByStart(KeyRange);

impl Borrow<[u8]> for ByStart {
    fn borrow(&self) -> &[u8] {
        &self.0.start
    }
}

impl PartialEq for ByStart {
    fn eq(&self, other: &ByStart) -> bool {
        self.0.start == other.0.start
    }
}

impl Eq for ByStart {}

impl PartialOrd for ByStart {
    fn partial_cmp(&self, other: &ByStart) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByStart {
    fn cmp(&self, other: &ByStart) -> Ordering {
        self.0.start.cmp(&other.0.start)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct RangeSet {
    ranges: BTreeSet<ByStart>,
    bytes: usize,
}

/// The range as trees of boxed keys take it. It must not be empty.
pub(super) fn bounds(range: &KeyRange) -> impl RangeBounds<Box<[u8]>> + use<> {
    let boxed = |key: &[u8]| Box::<[u8]>::from(key);
    let end = range.end.as_deref().map_or(Bound::Unbounded, |end| Bound::Excluded(boxed(end)));
    (Bound::Included(boxed(&range.start)), end)
}

fn bytes_of(range: &KeyRange) -> usize {
    RANGE_BYTES + range.start.len() + range.end.as_ref().map_or(0, Vec::len)
}

impl RangeSet {
    /// The set of no keys.
    #[must_use]
    pub fn new() -> RangeSet {
        RangeSet::default()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &KeyRange> + ExactSizeIterator {
        self.ranges.iter().map(|range| &range.0)
    }

    /// The ranges in order, by value.
    pub fn into_ranges(self) -> impl Iterator<Item = KeyRange> {
        self.ranges.into_iter().map(|range| range.0)
    }

    /// How many ranges it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// True when it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How much memory it takes; an estimate.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The range that holds `key`, if one does.
    #[must_use]
    pub fn containing(&self, key: &[u8]) -> Option<&KeyRange> {
        self.last_starting_in(Bound::Included(key))
            .filter(|range| is_before_end(key, range.end.as_deref()))
    }

    /// True when one of the ranges holds `key`.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.containing(key).is_some()
    }

    /// True when it holds every key of `range`.
    #[must_use]
    pub fn covers(&self, range: &KeyRange) -> bool {
        range.is_empty() || self.containing(&range.start).is_some_and(|found| found.covers(range))
    }

    /// True when it holds a key of `range`.
    #[must_use]
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        // All others that start before its end have ended before the last of them.
        let bound = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        !range.is_empty()
            && self
                .last_starting_in(bound)
                .is_some_and(|last| is_before_end(&range.start, last.end.as_deref()))
    }

    /// Adds a range, joined with what it overlaps or touches.
    pub fn insert(&mut self, range: KeyRange) {
        if self.covers(&range) {
            return;
        }
        let mut joined = range;
        while let Some(old) = self.take_last_meeting(&joined) {
            joined.start = joined.start.min(old.start);
            if compare_ends(old.end.as_deref(), joined.end.as_deref()).is_gt() {
                joined.end = old.end;
            }
        }
        self.push(joined);
    }

    /// Adds a range that neither overlaps nor touches any that is there.
    fn push(&mut self, range: KeyRange) {
        self.bytes += bytes_of(&range);
        let added = self.ranges.insert(ByStart(range));
        debug_assert!(added, "a range was there already");
    }

    /// The last range whose start is at or below the bound.
    fn last_starting_in(&self, bound: Bound<&[u8]>) -> Option<&KeyRange> {
        let up_to: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Unbounded, bound);
        self.ranges.range::<[u8], _>(up_to).next_back().map(|range| &range.0)
    }

    /// Takes out the last range that overlaps or touches `range`.
    fn take_last_meeting(&mut self, range: &KeyRange) -> Option<KeyRange> {
        let bound = range.end.as_deref().map_or(Bound::Unbounded, Bound::Included);
        let last = self.last_starting_in(bound)?;
        // All ranges before it end before it starts: when it ends too early, so do they.
        if last.end.as_ref().is_some_and(|end| *end < range.start) {
            return None;
        }
        let start = last.start.clone();
        let taken = self.ranges.take(start.as_slice())?.0;
        self.bytes -= bytes_of(&taken);
        Some(taken)
    }
}

impl FromIterator<KeyRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = KeyRange>>(ranges: I) -> RangeSet {
        let mut set = RangeSet::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::key_range::KeyRanges;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        (0u8..20, 0u8..8).prop_map(|(start, length)| {
            KeyRange::new([start], (length < 7).then(|| vec![start + length]))
        })
    }

    proptest! {
        #[test]
        fn it_says_what_the_vector_of_ranges_says(
            ranges in prop::collection::vec(range(), 0..12), probe in range()
        ) {
            let set: RangeSet = ranges.iter().cloned().collect();
            let model: KeyRanges = ranges.iter().cloned().collect();
            prop_assert!(set.iter().eq(model.iter()), "{:?} instead of {:?}", set, model);
            prop_assert_eq!(set.bytes(), set.iter().map(bytes_of).sum::<usize>());
            prop_assert_eq!(set.covers(&probe), probe.is_empty() || model.covers(&probe));
            let overlaps = model.iter().any(|range| range.overlaps(&probe));
            prop_assert_eq!(set.overlaps(&probe), !probe.is_empty() && overlaps);
            for key in 0u8..30 {
                prop_assert_eq!(set.containing(&[key]), model.containing(&[key]));
            }
        }
    }

    #[test]
    fn an_empty_range_adds_nothing() {
        let set: RangeSet = [KeyRange::new(*b"b", Some(b"a".to_vec()))].into_iter().collect();
        assert!(set.is_empty());
        assert_eq!(set.bytes(), 0);
    }
}
