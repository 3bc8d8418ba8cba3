//! A list that only grows, whose items never move, and that any thread reads without a lock.
//!
//! *Assumes* that indices are given out densely from zero.
//! *Guarantees* that an item, once set, stays where it is until the list is dropped.
//! *Threads*: any number of readers beside whoever sets items.

use crate::sync::OnceLock;

/// Items in the first bucket; each further bucket holds twice as many as the one before.
const FIRST_BUCKET_COUNT: u64 = 16;
/// Enough buckets for every `u32` index but the last sixteen.
const BUCKET_COUNT: usize = 28;

type Bucket<T> = OnceLock<Box<[OnceLock<T>]>>;

pub(super) struct Directory<T> {
    buckets: [Bucket<T>; BUCKET_COUNT],
}

/// The bucket of an index, and the place in it.
fn place(index: u32) -> (usize, usize) {
    let shifted = u64::from(index) + FIRST_BUCKET_COUNT;
    let bucket = shifted.ilog2() - FIRST_BUCKET_COUNT.ilog2();
    (bucket as usize, (shifted - (FIRST_BUCKET_COUNT << bucket)) as usize)
}

impl<T> Directory<T> {
    pub(super) fn new() -> Directory<T> {
        Directory { buckets: [const { OnceLock::new() }; BUCKET_COUNT] }
    }

    /// The item at `index`, if one was set there.
    #[inline]
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        let (bucket, offset) = place(index);
        self.buckets.get(bucket)?.get()?.get(offset)?.get()
    }

    /// Sets the item at `index`; one that is there already stays.
    pub(super) fn set(&self, index: u32, item: T) {
        let (bucket, offset) = place(index);
        let items = self.buckets[bucket]
            .get_or_init(|| (0..FIRST_BUCKET_COUNT << bucket).map(|_| OnceLock::new()).collect());
        let fresh = items[offset].set(item).is_ok();
        debug_assert!(fresh, "item {index} was set twice");
    }

    /// Takes every item out, in order of index.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.buckets
            .iter_mut()
            .filter_map(OnceLock::take)
            .flat_map(|items| items.into_iter().filter_map(OnceLock::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_has_a_place_of_its_own() {
        let places: Vec<_> = (0..200).map(place).collect();
        assert_eq!(places[0], (0, 0));
        assert_eq!(places[15], (0, 15));
        assert_eq!(places[16], (1, 0));
        assert_eq!(places[48], (2, 0));
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(place(u32::MAX - 16), (27, (16 << 27) - 1));
    }

    #[test]
    fn items_are_found_where_they_were_set_and_drain_in_order() {
        let mut directory = Directory::new();
        for index in 0..100 {
            assert_eq!(directory.get(index), None);
            directory.set(index, index * 3);
        }
        assert_eq!(directory.get(77), Some(&231));
        assert_eq!(directory.get(100), None);
        assert_eq!(directory.get(u32::MAX), None);
        assert_eq!(
            directory.drain().collect::<Vec<_>>(),
            (0..100).map(|i| i * 3).collect::<Vec<_>>()
        );
        assert_eq!(directory.get(0), None);
    }
}
