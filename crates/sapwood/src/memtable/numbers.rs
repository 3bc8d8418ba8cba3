//! Lists of numbers that rise, which share what they have in common.
//!
//! *Guarantees*: a list never changes; one more number makes another list, that costs a short copy
//! however long the list is. *Threads*: any.

use super::SequenceNumber;
use crate::sync::Arc;

/// Numbers that are shared together.
const CHUNK_NUMBERS: usize = 64;

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

    /// The same with a number more, above all others.
    pub(super) fn with(&self, number: SequenceNumber) -> Numbers {
        if self.tail.len() < CHUNK_NUMBERS {
            let tail = self.tail.iter().copied().chain([number]).collect();
            return Numbers { full: Arc::clone(&self.full), tail };
        }
        let full = self.full.iter().chain([&self.tail]).cloned().collect();
        Numbers { full, tail: Arc::from([number]) }
    }

    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK_NUMBERS + self.tail.len()
    }

    /// How many numbers it shares with no other list that is longer.
    pub(super) fn tail_len(&self) -> usize {
        self.tail.len()
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
            let longer = grown[index - 1].with(number(index));
            assert!(longer.is_same(&longer.clone()) && !longer.is_same(&grown[index - 1]));
            grown.push(longer);
        }
        for (list, count) in grown.iter().zip(1..) {
            let numbers: Vec<_> = (0..count).map(number).collect();
            for list in [list, &Numbers::of(&numbers)] {
                assert_eq!(list.len(), count);
                assert!(list.tail_len() > 0 && list.tail_len() <= CHUNK_NUMBERS);
                let found: Vec<_> = (0..count + 70).filter_map(|index| list.get(index)).collect();
                assert_eq!(found, numbers);
            }
        }
    }
}
