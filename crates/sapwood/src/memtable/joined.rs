//! Joined tombstones of a memtable: ranges in which, as a scan has seen, nothing lives.
//!
//! A queue's consumer deletes from the front and looks at the front again: without these ranges
//! each look walks over all that was deleted before. They say nothing that the entries do not say:
//! they are in no log record, and may be forgotten at any time.
//!
//! *Guarantees*: J1, of a range with number `n` no reader of this memtable at `n` or above sees an
//! entry, neither here nor in anything older: at `n` nothing lived in it, and a put into it cuts it
//! before the put can be seen. J2, ranges do not overlap or touch within a keyspace, are few,
//! and their bounds are no longer than keys.
//! *Threads*: a [`Joined`] never changes; the memtable's writer swaps in another one.

use super::{KeyspaceNumber, SequenceNumber};
use crate::segment::KEY_BYTES_MAX;
use crate::sync::Arc;

/// As many are kept at most: a put that falls into one copies all of them.
const RANGES_MAX: usize = 64;

/// A range in which nothing lives for readers at its number or above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedRange {
    /// The keyspace.
    pub keyspace: KeyspaceNumber,
    /// The first key of it.
    pub start: Arc<[u8]>,
    /// The first key behind it.
    pub end: Arc<[u8]>,
    /// The last commit that whoever walked it could see.
    pub number: SequenceNumber,
}

impl JoinedRange {
    fn place(&self) -> (KeyspaceNumber, &[u8]) {
        (self.keyspace, &self.start)
    }

    fn contains(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        self.keyspace == keyspace && *self.start <= *key && *key < *self.end
    }

    fn bytes(&self) -> usize {
        size_of::<JoinedRange>() + self.start.len() + self.end.len() + 32
    }
}

/// An immutable set of such ranges; a clone costs one count.
#[derive(Clone, Debug, Default)]
pub struct Joined {
    /// In order.
    ranges: Arc<[JoinedRange]>,
}

impl Joined {
    /// All of them, in order.
    #[must_use]
    pub fn ranges(&self) -> &[JoinedRange] {
        &self.ranges
    }

    /// True when there is one in the keyspace that counts for a reader at `at`.
    #[must_use]
    pub fn any_for(&self, keyspace: KeyspaceNumber, at: SequenceNumber) -> bool {
        self.ranges.iter().any(|range| range.keyspace == keyspace && range.number <= at)
    }

    /// The one that a key lies in, if it counts for a reader at `at`.
    #[must_use]
    pub fn covering(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        at: SequenceNumber,
    ) -> Option<&JoinedRange> {
        let index = self.ranges.partition_point(|range| range.place() <= (keyspace, key));
        let range = self.ranges.get(index.checked_sub(1)?)?;
        (range.contains(keyspace, key) && range.number <= at).then_some(range)
    }

    /// What it holds in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.ranges.iter().map(JoinedRange::bytes).sum()
    }

    /// The parts of `[start, end)` that lie in no range, in order.
    pub(super) fn gaps<'a>(
        &'a self,
        keyspace: KeyspaceNumber,
        start: &'a [u8],
        end: &'a [u8],
    ) -> Vec<(&'a [u8], &'a [u8])> {
        let mut gaps = Vec::new();
        let mut at = start;
        for range in self.ranges.iter().filter(|range| range.keyspace == keyspace) {
            if *range.end <= *at || *range.start >= *end {
                continue;
            }
            if *range.start > *at {
                gaps.push((at, &*range.start));
            }
            at = &range.end;
        }
        if at < end {
            gaps.push((at, end));
        }
        gaps
    }

    /// With one range more; those that it overlaps or touches become one with it, at the highest of
    /// their numbers: what nobody sees at one number nobody sees above it. Nothing when there are
    /// too many.
    pub(super) fn with(
        &self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: &[u8],
        number: SequenceNumber,
    ) -> Option<Joined> {
        let (start, end) = (Arc::from(start), Arc::from(end));
        let mut joined = JoinedRange { keyspace, start, end, number };
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        for range in self.ranges.iter() {
            let apart = range.keyspace != keyspace
                || *range.end < *joined.start
                || *joined.end < *range.start;
            if apart {
                ranges.push(range.clone());
                continue;
            }
            if *range.start < *joined.start {
                joined.start = Arc::clone(&range.start);
            }
            if *range.end > *joined.end {
                joined.end = Arc::clone(&range.end);
            }
            joined.number = joined.number.max(range.number);
        }
        let index = ranges.partition_point(|range| range.place() < joined.place());
        ranges.insert(index, joined);
        (ranges.len() <= RANGES_MAX).then(|| Joined { ranges: ranges.into() })
    }

    /// Cut at a key that is about to live; nothing when it lies in no range.
    pub(super) fn without(&self, keyspace: KeyspaceNumber, key: &[u8]) -> Option<Joined> {
        let index = self.ranges.iter().position(|range| range.contains(keyspace, key))?;
        let mut ranges = self.ranges.to_vec();
        let cut = ranges.remove(index);
        let behind: Arc<[u8]> = key.iter().copied().chain([0]).collect();
        let is_bound = behind.len() <= KEY_BYTES_MAX && *behind < *cut.end;
        if is_bound && ranges.len() + 1 < RANGES_MAX {
            ranges.insert(index, JoinedRange { start: behind, ..cut.clone() });
        }
        if *cut.start < *key {
            ranges.insert(index, JoinedRange { end: Arc::from(key), ..cut });
        }
        Some(Joined { ranges: ranges.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::sync::Random;

    const A: KeyspaceNumber = KeyspaceNumber(1);

    fn shown(joined: &Joined) -> Vec<(u32, String, String, u64)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let show = |r: &JoinedRange| (r.keyspace.0, text(&r.start), text(&r.end), r.number.0);
        joined.ranges().iter().map(show).collect()
    }

    fn with(joined: &Joined, start: &str, end: &str, number: u64) -> Joined {
        joined.with(A, start.as_bytes(), end.as_bytes(), SequenceNumber(number)).unwrap()
    }

    #[test]
    fn ranges_that_touch_become_one_with_the_highest_number() {
        let joined = with(&with(&Joined::default(), "a", "c", 5), "e", "g", 3);
        assert_eq!(joined.ranges().len(), 2);
        assert_eq!(shown(&with(&joined, "c", "e", 4)), [(1, "a".into(), "g".into(), 5)]);
        let other = joined.with(KeyspaceNumber(2), b"c", b"e", SequenceNumber(4)).unwrap();
        assert_eq!(other.ranges().len(), 3, "keyspaces stay apart");
    }

    #[test]
    fn a_range_counts_from_its_number_on() {
        let joined = with(&Joined::default(), "a", "c", 5);
        let covers = |key: &str, at| joined.covering(A, key.as_bytes(), SequenceNumber(at));
        assert!(covers("a", 5).is_some() && covers("bzz", 9).is_some());
        assert!(covers("a", 4).is_none() && covers("c", 9).is_none() && covers("", 9).is_none());
        assert!(joined.any_for(A, SequenceNumber(5)) && !joined.any_for(A, SequenceNumber(4)));
        assert!(!joined.any_for(KeyspaceNumber(2), SequenceNumber(9)));
    }

    #[test]
    fn gaps_are_what_no_range_holds() {
        let joined = with(&with(&Joined::default(), "b", "d", 5), "f", "h", 3);
        let gaps = |start: &'static str, end: &'static str| -> Vec<String> {
            let gaps = joined.gaps(A, start.as_bytes(), end.as_bytes());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            gaps.iter().map(|(start, end)| format!("{}-{}", text(start), text(end))).collect()
        };
        assert_eq!(gaps("a", "z"), ["a-b", "d-f", "h-z"]);
        assert_eq!(gaps("c", "g"), ["d-f"]);
        assert!(gaps("b", "d").is_empty());
        assert_eq!(gaps("i", "j"), ["i-j"]);
    }

    #[test]
    fn random_ranges_and_puts_match_a_map_of_keys() {
        let mut random = Random::from_seed(4);
        let mut joined = Joined::default();
        let mut model: BTreeMap<u8, u64> = BTreeMap::new();
        for number in 1..20_000_u64 {
            let at = random.below(200) as u8;
            if random.below(3) == 0 {
                let end = at + 1 + random.below(20) as u8;
                let Some(more) = joined.with(A, &[at], &[end], SequenceNumber(number)) else {
                    continue;
                };
                joined = more;
                model.extend((at..end).map(|key| (key, number)));
            } else if let Some(less) = joined.without(A, &[at]) {
                joined = less;
                model.remove(&at);
            }
            for key in 0..=u8::MAX {
                let found = joined.covering(A, &[key], SequenceNumber::MAX);
                match model.get(&key) {
                    // A cut of a full set forgets what lies behind the key.
                    None => assert!(found.is_none(), "{key} at {number}"),
                    Some(least) => assert!(found.is_none_or(|range| range.number.0 >= *least)),
                }
                if found.is_none() {
                    model.remove(&key);
                }
            }
            let ranges = joined.ranges();
            assert!(ranges.len() <= RANGES_MAX);
            assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
