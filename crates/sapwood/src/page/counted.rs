//! Values that many may share, counted in the budget once, for as long as one of them has it.
//!
//! *Guarantees*: a value counts from when it is first asked to, and as often as it may be asked
//! again it counts once; a copy is another value. *Threads*: any.

use std::ops::Deref;
#[cfg(test)]
use std::ops::DerefMut;

use super::budget::{Charge, MemoryBudget, MemoryPart};
use crate::sync::{Arc, OnceLock};

/// What the system's allocator takes beside a piece of memory, in bytes, about.
pub const ALLOCATION_BYTES: usize = 16;

/// What so many elements take in a `BTreeMap`, in bytes, about: its nodes are two thirds full.
pub const fn in_map(count: usize, element_bytes: usize) -> usize {
    let bytes = count * element_bytes;
    bytes + bytes / 2 + bytes / 8
}

/// What the first leaf of a `BTreeMap` takes, in bytes, about, however few elements it has.
pub const fn first_leaf(element_bytes: usize) -> usize {
    11 * element_bytes + 16 + ALLOCATION_BYTES
}

/// A value, with what it counts for.
#[derive(Debug, Default)]
pub struct Counted<T = ()> {
    value: T,
    counted: OnceLock<(Charge, u64)>,
}

impl<T> Counted<T> {
    /// A value that does not count yet.
    pub fn new(value: T) -> Counted<T> {
        Counted { value, counted: OnceLock::new() }
    }

    /// Counts it for a part of the budget, unless it is counted; returns what it counts for.
    pub fn count(
        &self,
        budget: &Arc<MemoryBudget>,
        part: MemoryPart,
        bytes: impl FnOnce(&T) -> usize,
    ) -> u64 {
        self.count_with(budget, part, |value| (bytes(value), 0))
    }

    /// The same with what belongs to it and counts by itself: the second of the two numbers, in
    /// bytes, which is asked for once.
    pub fn count_with(
        &self,
        budget: &Arc<MemoryBudget>,
        part: MemoryPart,
        bytes: impl FnOnce(&T) -> (usize, u64),
    ) -> u64 {
        let count = || {
            let (own, beside) = bytes(&self.value);
            (budget.charge(part, own as u64), beside)
        };
        let (own, beside) = self.counted.get_or_init(count);
        own.bytes().saturating_add(*beside)
    }
}

impl<T: Eq> Eq for Counted<T> {}

impl<T> Deref for Counted<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// What is changed does not count until it is asked to again.
#[cfg(test)]
impl<T> DerefMut for Counted<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.counted.take();
        &mut self.value
    }
}

impl<T: Clone> Clone for Counted<T> {
    fn clone(&self) -> Counted<T> {
        Counted::new(self.value.clone())
    }
}

/// What it counts for says nothing of the value.
impl<T: PartialEq> PartialEq for Counted<T> {
    fn eq(&self, other: &Counted<T>) -> bool {
        self.value == other.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_share_counts_once_and_a_copy_counts_by_itself() {
        let budget = Arc::new(MemoryBudget::new(1 << 20));
        let count = |value: &Counted<Vec<u8>>| value.count(&budget, MemoryPart::Other, Vec::len);
        let value = Arc::new(Counted::new(vec![0; 100]));
        let shared = value.clone();
        assert_eq!((count(&value), count(&shared)), (100, 100));
        assert_eq!(budget.part(MemoryPart::Other), 100);
        let copy = (*value).clone();
        assert_eq!(budget.part(MemoryPart::Other), 100);
        assert_eq!((count(&copy), copy == *value), (100, true));
        drop(value);
        assert_eq!(budget.part(MemoryPart::Other), 200);
        drop((shared, copy));
        assert_eq!(budget.part(MemoryPart::Other), 0);
    }
}
