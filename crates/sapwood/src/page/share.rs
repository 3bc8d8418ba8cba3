//! What each of many users may take of a part of the budget, so that all of them keep within it.
//!
//! *Assumes*: a user that has more than it may take gives memory back before it takes more.
//! *Guarantees*: users who do so take an eighth of the budget together at most, but for the least
//! that each has in any case and what one of them takes in one go. One user alone gets a sixteenth;
//! each may have as much as is left for all, so that there is always something left for the next.
//! *Threads*: one owner for each share; any number of shares.

use super::budget::{Charge, MemoryBudget, MemoryPart};
use crate::sync::Arc;

/// The part of the total, as a divisor, that all users of one part of the budget take together.
/// Two memtables take half of the total, filters an eighth, dead lists and the cache a sixteenth
/// each: what is left is one such part for writes and one for reads.
const ALL_PART: u64 = 8;

/// Whoever has less is asked for nothing, so that each can go on whatever the others take.
pub const LEAST_BYTES: u64 = 4 << 10;

/// Bytes count in steps, rounded up, so that counting costs little. What a user takes beside its
/// bytes, above all nodes of trees that are nearly empty, is about as much as is counted too many.
const STEP_BYTES: u64 = 2 << 10;

/// What is to be counted for `bytes`; `None` when what is counted already will do.
pub(super) fn in_steps(counted: u64, bytes: u64) -> Option<u64> {
    let is_close = bytes <= counted && counted - bytes < 2 * STEP_BYTES;
    let fits = is_close && (bytes > 0) == (counted > 0);
    (!fits).then(|| bytes.checked_next_multiple_of(STEP_BYTES).unwrap_or(bytes))
}

/// See the module.
#[derive(Debug)]
pub struct Share {
    charge: Charge,
    allowed_bytes: u64,
}

impl Share {
    /// A share of which nothing is used.
    pub fn new(budget: &Arc<MemoryBudget>, part: MemoryPart) -> Share {
        let allowed_bytes = budget.total() / ALL_PART / 2;
        Share { charge: budget.charge(part, 0), allowed_bytes }
    }

    /// Counts so many bytes, in steps. True when the next step has begun: then what it may take is
    /// another too.
    #[inline]
    pub fn follow(&mut self, bytes: usize) -> bool {
        let Some(counted) = in_steps(self.charge.bytes(), bytes as u64) else {
            return false;
        };
        self.charge.set(counted);
        let others = self.charge.bytes_of_all().saturating_sub(counted);
        // No more than what it leaves to the others.
        let allowed = self.bytes_for_all().saturating_sub(others) / 2;
        self.allowed_bytes = allowed.max(LEAST_BYTES);
        true
    }

    /// The budget that it is a share of.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        self.charge.budget()
    }

    /// What it may take, as of the last step.
    pub fn allowed_bytes(&self) -> usize {
        usize::try_from(self.allowed_bytes).unwrap_or(usize::MAX)
    }

    /// True when all together have more than there is for them.
    pub fn are_all_over(&self) -> bool {
        self.charge.bytes_of_all() > self.bytes_for_all()
    }

    fn bytes_for_all(&self) -> u64 {
        self.budget().total() / ALL_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 16 << 20;

    fn share(budget: &Arc<MemoryBudget>) -> Share {
        Share::new(budget, MemoryPart::PendingWrites)
    }

    /// Takes until it has what it may take.
    fn fill(share: &mut Share) -> usize {
        let mut bytes = 0;
        while bytes < share.allowed_bytes() {
            bytes += 1000;
            share.follow(bytes);
        }
        bytes
    }

    #[test]
    fn one_alone_gets_a_sixteenth_and_many_an_eighth_together() {
        let budget = Arc::new(MemoryBudget::new(TOTAL));
        let mut first = share(&budget);
        let alone = fill(&mut first) as u64;
        assert!(alone.abs_diff(TOTAL / 16) < 4000, "{alone}");
        let mut others: Vec<_> = (0..300).map(|_| share(&budget)).collect();
        let second = fill(&mut others[0]) as u64;
        assert!(second.abs_diff(TOTAL / 32) < 4000, "{second}");
        for other in &mut others {
            assert!(fill(other) as u64 >= LEAST_BYTES);
        }
        // A kilobyte, rounded up to a step, above the least.
        let used = budget.part(MemoryPart::PendingWrites);
        let least = 300 * (LEAST_BYTES + STEP_BYTES);
        assert!(used <= TOTAL / 8 + least, "{used}");
        assert!(used > TOTAL / 8 && first.are_all_over());
        drop(others);
        assert!(!first.are_all_over());
        first.follow(0);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn those_who_go_on_side_by_side_get_about_the_same() {
        let budget = Arc::new(MemoryBudget::new(TOTAL));
        let mut shares: Vec<_> = (0..31).map(|_| (share(&budget), 0)).collect();
        for _ in 0..3000 {
            for (share, bytes) in &mut shares {
                *bytes = if *bytes >= share.allowed_bytes() { 0 } else { *bytes + 500 };
                share.follow(*bytes);
            }
            let used = budget.used();
            assert!(used <= TOTAL / 8 + 31 * 2 * STEP_BYTES, "{used}");
        }
        let allowed = shares.iter().map(|(share, _)| share.allowed_bytes());
        assert!(allowed.min().is_some_and(|least| least > 24 << 10));
    }

    #[test]
    fn bytes_count_in_steps_and_never_fewer_than_they_are() {
        let budget = Arc::new(MemoryBudget::new(TOTAL));
        let mut share = share(&budget);
        assert!(!share.follow(0) && share.follow(1) && !share.follow(2048));
        assert_eq!(budget.used(), 2048);
        assert!(share.follow(2049) && !share.follow(1), "up and down costs nothing");
        assert_eq!(budget.used(), 4096);
        assert!(share.follow(100_000) && share.follow(90_000));
        assert_eq!(budget.used(), 90_112);
        assert!(share.follow(0));
        assert_eq!(budget.used(), 0);
    }
}
