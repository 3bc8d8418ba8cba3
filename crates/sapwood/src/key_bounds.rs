//! Turns what applications give as ranges into half-open ranges of keys.
//!
//! *Guarantees*: no bound is longer than a key may be; the range holds the same keys.

use std::ops::{Bound, RangeBounds};

use crate::error::{Error, Result};
use crate::segment::KEY_BYTES_MAX;
use crate::segment::key_range::{KeyRange, prefix_end};

/// The first key that lies behind `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// A bound that no key reaches the length of, as one that is short enough; `None`: behind all keys.
pub(crate) fn shortened(bound: Vec<u8>) -> Option<Vec<u8>> {
    match bound.get(..KEY_BYTES_MAX) {
        // No key is longer, so what lies behind these bytes does not begin with them.
        Some(head) if head.len() < bound.len() => prefix_end(head),
        _ => Some(bound),
    }
}

/// The keys from `start` to before `end`, where `None` as the start lies behind all keys.
fn half_open(start: Option<Vec<u8>>, end: Option<Vec<u8>>) -> KeyRange {
    match (start, end) {
        (Some(start), end) if end.as_ref().is_none_or(|end| start < *end) => {
            KeyRange { start, end }
        }
        (start, _) => KeyRange {
            end: Some(start.clone().unwrap_or_default()),
            start: start.unwrap_or_default(),
        },
    }
}

/// The range as the engine takes it.
///
/// # Errors
/// `InvalidRange` when the start lies after the end.
pub(crate) fn key_range<K: AsRef<[u8]>>(range: &impl RangeBounds<K>) -> Result<KeyRange> {
    let (start, end) = (range.start_bound(), range.end_bound());
    if let (
        Bound::Included(start) | Bound::Excluded(start),
        Bound::Included(end) | Bound::Excluded(end),
    ) = (start, end)
        && start.as_ref() > end.as_ref()
    {
        return Err(Error::InvalidRange);
    }
    let start = match start {
        Bound::Included(key) => shortened(key.as_ref().to_vec()),
        Bound::Excluded(key) => shortened(successor(key.as_ref())),
        Bound::Unbounded => Some(Vec::new()),
    };
    let end = match end {
        Bound::Included(key) => shortened(successor(key.as_ref())),
        Bound::Excluded(key) => shortened(key.as_ref().to_vec()),
        Bound::Unbounded => None,
    };
    Ok(half_open(start, end))
}

/// All keys with a prefix.
pub(crate) fn prefix_range(prefix: &[u8]) -> KeyRange {
    if prefix.len() > KEY_BYTES_MAX {
        return half_open(None, None);
    }
    KeyRange::of_prefix(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: Option<&str>) -> KeyRange {
        KeyRange { start: start.into(), end: end.map(Into::into) }
    }

    #[test]
    fn every_kind_of_bound_gives_the_half_open_range() {
        assert_eq!(key_range(&("a".."b")).unwrap(), range("a", Some("b")));
        assert_eq!(key_range(&("a"..="b")).unwrap(), range("a", Some("b\0")));
        assert_eq!(key_range(&("a"..)).unwrap(), range("a", None));
        assert_eq!(key_range(&(.."b")).unwrap(), range("", Some("b")));
        assert_eq!(key_range::<&str>(&..).unwrap(), KeyRange::all());
        let after = (Bound::Excluded("a"), Bound::Unbounded);
        assert_eq!(key_range::<&str>(&after).unwrap(), range("a\0", None));
    }

    #[test]
    fn an_inverted_range_is_an_error_and_an_empty_one_is_not() {
        #[allow(clippy::reversed_empty_ranges)]
        let inverted = "b".."a";
        assert!(matches!(key_range(&inverted), Err(Error::InvalidRange)));
        assert!(key_range(&("a".."a")).unwrap().is_empty());
        let neither = (Bound::Excluded("a"), Bound::Excluded("a"));
        assert!(key_range::<&str>(&neither).unwrap().is_empty());
    }

    #[test]
    fn a_bound_that_is_too_long_is_cut_without_a_change_of_meaning() {
        let longest = vec![7; KEY_BYTES_MAX];
        let longer = successor(&longest);
        let mut next = longest.clone();
        next[KEY_BYTES_MAX - 1] = 8;
        let from = key_range(&(longer.clone()..)).unwrap();
        assert_eq!(from, KeyRange { start: next.clone(), end: None });
        let to = key_range(&(..longer)).unwrap();
        assert!(to.contains(&longest) && !to.contains(&next));
        let to = key_range(&(..=longest.clone())).unwrap();
        assert!(to.contains(&longest) && !to.contains(&next));
        let last = vec![0xff; KEY_BYTES_MAX + 1];
        assert!(key_range(&(last.clone()..)).unwrap().is_empty());
        assert_eq!(key_range(&(..last)).unwrap(), KeyRange::all());
        assert!(prefix_range(&vec![1; KEY_BYTES_MAX + 1]).is_empty());
    }
}
