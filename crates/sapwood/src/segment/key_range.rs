//! Half-open ranges of keys, and sorted sets of them.
//!
//! *Guarantees*: a [`KeyRanges`] is sorted, its ranges are disjoint and do not touch.

use std::cmp::Ordering;

/// The keys `k` with `start <= k` and, where there is an end, `k < end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key after the range; `None` when it reaches to the end of all keys.
    pub end: Option<Vec<u8>>,
}

/// Compares two ends, where `None` lies behind every key.
pub fn compare_ends(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    }
}

/// True when `key` lies before `end`.
pub fn is_before_end(key: &[u8], end: Option<&[u8]>) -> bool {
    end.is_none_or(|end| key < end)
}

/// The first key after all that start with `prefix`; `None` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

impl KeyRange {
    /// All keys.
    pub fn all() -> KeyRange {
        KeyRange { start: Vec::new(), end: None }
    }

    /// From `start` to before `end`.
    pub fn new(start: impl Into<Vec<u8>>, end: Option<Vec<u8>>) -> KeyRange {
        KeyRange { start: start.into(), end }
    }

    /// This key alone.
    pub fn of_key(key: &[u8]) -> KeyRange {
        let mut end = key.to_vec();
        end.push(0);
        KeyRange { start: key.to_vec(), end: Some(end) }
    }

    /// All keys with this prefix.
    pub fn of_prefix(prefix: &[u8]) -> KeyRange {
        KeyRange { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    /// True when no key lies in it.
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// True when `key` lies in it.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && is_before_end(key, self.end.as_deref())
    }

    /// True when some key lies in both.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        is_before_end(&self.start, other.end.as_deref())
            && is_before_end(&other.start, self.end.as_deref())
            && !self.is_empty()
            && !other.is_empty()
    }

    /// True when no key behind `key` lies in it.
    pub fn ends_behind(&self, key: &[u8]) -> bool {
        let is_next = |end: &Vec<u8>| end.strip_prefix(key) == Some(&[0]);
        self.end.as_ref().is_some_and(|end| end.as_slice() <= key || is_next(end))
    }

    /// True when every key of `other` lies in it.
    pub fn covers(&self, other: &KeyRange) -> bool {
        self.start <= other.start
            && compare_ends(other.end.as_deref(), self.end.as_deref()) != Ordering::Greater
    }

    /// The keys that lie in both, if any.
    pub fn intersection(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = self.start.clone().max(other.start.clone());
        let end = match compare_ends(self.end.as_deref(), other.end.as_deref()) {
            Ordering::Greater => other.end.clone(),
            _ => self.end.clone(),
        };
        let range = KeyRange { start, end };
        (!range.is_empty()).then_some(range)
    }
}

/// A sorted set of ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRanges {
    ranges: Vec<KeyRange>,
}

impl KeyRanges {
    /// The set of no keys.
    pub fn new() -> KeyRanges {
        KeyRanges::default()
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = &KeyRange> {
        self.ranges.iter()
    }

    /// How many ranges it takes.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// True when it holds no key.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The index of the first range that ends after `key`.
    fn first_ending_after(&self, key: &[u8]) -> usize {
        self.ranges.partition_point(|range| !is_before_end(key, range.end.as_deref()))
    }

    /// The first range that ends at `key` or behind it.
    pub fn ending_at_or_after(&self, key: &[u8]) -> Option<&KeyRange> {
        let index =
            self.ranges.partition_point(|range| range.end.as_deref().is_some_and(|end| end < key));
        self.ranges.get(index)
    }

    /// The start of the range that reaches to the end of all keys, if there is one.
    pub fn open_ended(&self) -> Option<Vec<u8>> {
        self.ranges.last().filter(|range| range.end.is_none()).map(|range| range.start.clone())
    }

    /// The range that holds `key`, if one does.
    pub fn containing(&self, key: &[u8]) -> Option<&KeyRange> {
        self.ranges.get(self.first_ending_after(key)).filter(|range| range.start.as_slice() <= key)
    }

    /// True when one of its ranges holds `key`.
    pub fn contains(&self, key: &[u8]) -> bool {
        !self.ranges.is_empty() && self.containing(key).is_some()
    }

    /// True when it holds every key of `range`.
    pub fn covers(&self, range: &KeyRange) -> bool {
        self.containing(&range.start).is_some_and(|found| found.covers(range))
    }

    /// True when it holds some key of `range`.
    pub fn overlaps(&self, range: &KeyRange) -> bool {
        self.ranges.get(self.first_ending_after(&range.start)).is_some_and(|r| r.overlaps(range))
    }

    /// Its ranges that some key of `range` lies in, in order.
    pub fn overlapping(&self, range: &KeyRange) -> impl Iterator<Item = &KeyRange> {
        let from = self.first_ending_after(&range.start);
        self.ranges.iter().skip(from).take_while(|own| own.overlaps(range))
    }

    /// Adds a range, joining what it overlaps or touches.
    pub fn insert(&mut self, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        // Ranges that end exactly at the new start touch it and are joined too.
        let from = self
            .ranges
            .partition_point(|r| r.end.as_deref().is_some_and(|end| end < range.start.as_slice()));
        let to = self
            .ranges
            .partition_point(|r| range.end.as_deref().is_none_or(|end| r.start.as_slice() <= end));
        let mut joined = range;
        for old in self.ranges.drain(from..to.max(from)) {
            joined.start = joined.start.min(old.start);
            if compare_ends(old.end.as_deref(), joined.end.as_deref()) == Ordering::Greater {
                joined.end = old.end;
            }
        }
        self.ranges.insert(from, joined);
    }

    /// The part of `range` around `key` that it does not hold; `None` when it holds `key`. Of all
    /// its ranges two are looked at.
    pub fn gap_around(&self, key: &[u8], range: &KeyRange) -> Option<KeyRange> {
        let behind = self.first_ending_after(key);
        let next = self.ranges.get(behind).map(|held| held.start.as_slice());
        let before = behind.checked_sub(1).and_then(|before| self.ranges.get(before));
        let start = before.and_then(|held| held.end.clone()).unwrap_or_default();
        let gap = KeyRange { start, end: next.map(<[u8]>::to_vec) };
        gap.intersection(range).filter(|gap| gap.contains(key))
    }

    /// The parts of `range` that it does not hold, in order.
    pub fn gaps_in(&self, range: &KeyRange) -> Vec<KeyRange> {
        let mut gaps = Vec::new();
        let mut start = range.start.clone();
        for held in self.ranges.iter().skip(self.first_ending_after(&range.start)) {
            if !held.overlaps(range) {
                break;
            }
            if start < held.start {
                gaps.push(KeyRange { start, end: Some(held.start.clone()) });
            }
            match &held.end {
                Some(end) => start = end.clone(),
                None => return gaps,
            }
        }
        let last = KeyRange { start, end: range.end.clone() };
        if !last.is_empty() {
            gaps.push(last);
        }
        gaps
    }
}

impl FromIterator<KeyRange> for KeyRanges {
    fn from_iter<I: IntoIterator<Item = KeyRange>>(ranges: I) -> KeyRanges {
        let mut set = KeyRanges::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        (0u8..20, 0u8..22).prop_map(|(a, b)| {
            let end = if b >= 20 { None } else { Some(vec![a.max(b)]) };
            KeyRange { start: vec![a.min(b)], end }
        })
    }

    fn holds(ranges: &[KeyRange], key: &[u8]) -> bool {
        ranges.iter().any(|r| r.contains(key))
    }

    proptest! {
        #[test]
        fn a_set_of_ranges_holds_what_its_ranges_hold(
            ranges in prop::collection::vec(range(), 0..12), probe in range()
        ) {
            let set: KeyRanges = ranges.iter().cloned().collect();
            let mut covered = true;
            let mut touched = false;
            let gaps = set.gaps_in(&probe);
            for key in 0u8..24 {
                let key = [key];
                prop_assert_eq!(set.contains(&key), holds(&ranges, &key));
                let around = gaps.iter().find(|gap| gap.contains(&key));
                prop_assert_eq!(set.gap_around(&key, &probe), around.cloned());
                if probe.contains(&key) {
                    covered &= holds(&ranges, &key);
                    touched |= holds(&ranges, &key);
                }
                prop_assert_eq!(
                    holds(&gaps, &key), probe.contains(&key) && !holds(&ranges, &key)
                );
            }
            if !probe.is_empty() {
                if set.covers(&probe) { prop_assert!(covered); }
                prop_assert_eq!(set.overlaps(&probe), touched);
            }
            for pair in set.ranges.windows(2) {
                prop_assert!(pair[0].end.as_ref().unwrap() < &pair[1].start);
            }
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_lacks_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
