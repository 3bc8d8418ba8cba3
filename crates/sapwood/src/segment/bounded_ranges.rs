//! A set of ranges of keys that takes no more memory than it may.
//!
//! *Threads*: one owner.

use super::key_range::{KeyRange, KeyRanges};

/// The set is full; what it holds is not all of what was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// See the module.
#[derive(Clone, Debug)]
pub struct BoundedRanges {
    ranges: KeyRanges,
    /// At least what they take. What is joined with another range leaves its bytes here until they
    /// are counted again.
    bytes: usize,
    bytes_max: usize,
}

impl BoundedRanges {
    /// A set that becomes full when it takes somewhere between half of that many bytes and all.
    pub fn new(bytes_max: usize) -> BoundedRanges {
        BoundedRanges { ranges: KeyRanges::new(), bytes: 0, bytes_max }
    }

    /// What it may take.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Adds a range, joining what it overlaps or touches. Complexity: that of
    /// [`KeyRanges::insert`], and now and then a look at all.
    ///
    /// # Errors
    /// When it is full now.
    pub fn insert(&mut self, range: KeyRange) -> Result<(), TooMany> {
        self.bytes += bytes_of(&range);
        self.ranges.insert(range);
        if self.bytes > self.bytes_max {
            self.bytes = self.ranges.iter().map(bytes_of).sum();
            if self.bytes > self.bytes_max / 2 {
                return Err(TooMany);
            }
        }
        Ok(())
    }

    /// The ranges.
    pub fn into_ranges(self) -> KeyRanges {
        self.ranges
    }
}

/// What a range takes in memory, in bytes.
pub fn bytes_of(keys: &KeyRange) -> usize {
    size_of::<KeyRange>() + keys.start.capacity() + keys.end.as_ref().map_or(0, Vec::capacity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u32, to: u32) -> KeyRange {
        KeyRange::new(from.to_be_bytes(), Some(to.to_be_bytes().to_vec()))
    }

    #[test]
    fn ranges_that_lie_apart_fill_it() {
        let one = bytes_of(&range(0, 1));
        let mut ranges = BoundedRanges::new(10 * one);
        let added = (0..100).take_while(|at| ranges.insert(range(at * 2, at * 2 + 1)).is_ok());
        assert_eq!(added.count(), 10);
        let mut long = BoundedRanges::new(10 * one);
        assert_eq!(long.insert(KeyRange::new(vec![1; 20 * one], None)), Err(TooMany));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut ranges = BoundedRanges::new(4 * bytes_of(&range(0, 1)));
        for at in 0..10_000 {
            assert_eq!(ranges.insert(range(at, at + 1)), Ok(()));
        }
        assert!(ranges.into_ranges().iter().eq([&range(0, 10_000)]));
    }
}
