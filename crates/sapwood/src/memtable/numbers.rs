//! Lists of numbers that rise, which share what they have in common.
//!
//! *Guarantees*: a list never changes; one more number makes another list, that costs a short copy
//! however long the list is. *Threads*: any.

use super::SequenceNumber;
use super::range_deletes::ALLOCATION_BYTES;
use crate::sync::Arc;

/// Numbers that are shared together.
pub(super) const CHUNK_NUMBERS: usize = 64;

/// A list of numbers, ascending. A clone costs two counts.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// Chunks of [`CHUNK_NUMBERS`].
    full: Arc<[Arc<[SequenceNumber]>]>,
    /// The numbers behind them: at least one, and a chunk at most.
    tail: Arc<[SequenceNumber]>,
}

impl Numbers {
    /// A list of these numbers, which ascend; there is at least one.
    pub(super) fn of(numbers: &[SequenceNumber]) -> Numbers {
        let tail_count = match numbers.len() % CHUNK_NUMBERS {
            0 => numbers.len().min(CHUNK_NUMBERS),
            count => count,
        };
        let (full, tail) = numbers.split_at(numbers.len() - tail_count);
        let full = full.chunks(CHUNK_NUMBERS).map(Arc::from).collect();
        Numbers { full, tail: Arc::from(tail) }
    }

    /// The same with a number more, above all others, and without those of the first so many that
    /// lie in chunks of their own.
    pub(super) fn with(&self, number: SequenceNumber, unneeded: usize) -> Numbers {
        let kept = self.full.get(unneeded / CHUNK_NUMBERS..).unwrap_or_default();
        if self.tail.len() == CHUNK_NUMBERS {
            let full = kept.iter().chain([&self.tail]).cloned().collect();
            return Numbers { full, tail: Arc::from([number]) };
        }
        let is_whole = kept.len() == self.full.len();
        let full = if is_whole { Arc::clone(&self.full) } else { Arc::from(kept) };
        let tail = self.tail.iter().copied().chain([number]).collect();
        Numbers { full, tail }
    }

    /// How many numbers [`Numbers::with`] leaves out of the first so many.
    pub(super) fn left_out(&self, unneeded: usize) -> usize {
        (unneeded / CHUNK_NUMBERS).min(self.full.len()) * CHUNK_NUMBERS
    }

    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK_NUMBERS + self.tail.len()
    }

    /// About the memory that the list takes beside its chunks, in bytes.
    pub(super) fn bytes_beside_chunks(&self) -> usize {
        ALLOCATION_BYTES + size_of_val(&*self.full)
    }

    /// About the memory of the chunks that hold the numbers from this one on, in bytes.
    pub(super) fn chunk_bytes(&self, from: usize) -> usize {
        let full = self.full.len().saturating_sub(from / CHUNK_NUMBERS);
        let numbers = full * CHUNK_NUMBERS + self.tail.len();
        (full + 1) * ALLOCATION_BYTES + numbers * size_of::<SequenceNumber>()
    }

    /// The allocations that it shares or has for itself, each with what is counted for one.
    #[cfg(test)]
    pub(super) fn allocations(&self) -> impl Iterator<Item = (*const u8, usize)> {
        let chunks = self.full.iter().chain([&self.tail]);
        let chunks = chunks.map(|chunk| (chunk.as_ptr().cast(), size_of_val(&**chunk)));
        let list = (self.full.as_ptr().cast(), size_of_val(&*self.full));
        chunks.chain([list]).map(|(place, bytes)| (place, ALLOCATION_BYTES + bytes))
    }

    pub(super) fn get(&self, index: usize) -> Option<SequenceNumber> {
        match self.full.get(index / CHUNK_NUMBERS) {
            Some(chunk) => chunk.get(index % CHUNK_NUMBERS).copied(),
            None => self.tail.get(index - self.full.len() * CHUNK_NUMBERS).copied(),
        }
    }

    /// True when both are one list.
    pub(super) fn is_same(&self, other: &Numbers) -> bool {
        Arc::ptr_eq(&self.tail, &other.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_grow_are_like_those_that_are_made_whole_and_leave_the_shorter_ones() {
        let number = |index: usize| SequenceNumber(index as u64 * 3 + 5);
        let mut grown = vec![Numbers::of(&[number(0)])];
        for index in 1..4 * CHUNK_NUMBERS {
            let longer = grown[index - 1].with(number(index), 0);
            assert!(longer.is_same(&longer.clone()) && !longer.is_same(&grown[index - 1]));
            grown.push(longer);
        }
        for (list, count) in grown.iter().zip(1..) {
            let numbers: Vec<_> = (0..count).map(number).collect();
            for list in [list, &Numbers::of(&numbers)] {
                assert_eq!(list.len(), count);
                assert!(!list.tail.is_empty() && list.tail.len() <= CHUNK_NUMBERS);
                let found: Vec<_> = (0..count + 70).filter_map(|index| list.get(index)).collect();
                assert_eq!(found, numbers);
            }
        }
    }

    #[test]
    fn what_is_not_needed_is_left_out_by_chunks() {
        let number = |index: usize| SequenceNumber(index as u64 + 1);
        for count in [1, 63, 64, 65, 127, 128, 129, 300] {
            let all: Vec<_> = (0..=count).map(number).collect();
            let list = Numbers::of(&all[..count]);
            for unneeded in 0..count {
                let longer = list.with(number(count), unneeded);
                let left_out = list.left_out(unneeded);
                assert!(left_out <= unneeded && left_out + CHUNK_NUMBERS > unneeded);
                let found: Vec<_> = (0..count + 1).filter_map(|index| longer.get(index)).collect();
                assert_eq!(found, all[left_out..]);
                let held: usize = longer.allocations().map(|(_, bytes)| bytes).sum();
                assert_eq!(longer.bytes_beside_chunks() + longer.chunk_bytes(0), held);
            }
        }
    }
}
