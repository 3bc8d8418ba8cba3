//! Which nodes long walks have read lately without keeping them in the cache.
//!
//! *Guarantees*: a node that was never met is taken for one that was only when the mark of another
//! node is in its slot and equal, which costs a place in the cache and nothing else. Marks of many
//! nodes drive each other out, so that walks over much more than the cache holds keep little of it.
//! *Threads*: any, without a lock.

use super::budget::{Charge, MemoryBudget, MemoryPart};
use super::node_ref::NodeRef;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Arc, OnceLock};

/// A mark for so many bytes of the budget. Leaves have about four times as much in memory: of as
/// many as could be cached, four in five have a mark for themselves.
const BUDGET_BYTES_A_MARK: u64 = 8 << 10;
const MARKS_MIN: u64 = 64;
const MARKS_MAX: u64 = 1 << 16;

/// Marks of nodes, each at the one place that its page gives it.
#[derive(Debug)]
pub struct SeenNodes {
    budget: Arc<MemoryBudget>,
    /// Made when it is first needed, since most databases of a process are never walked through.
    marks: OnceLock<(Box<[AtomicU32]>, Charge)>,
}

impl SeenNodes {
    /// No node was met yet.
    pub fn new(budget: Arc<MemoryBudget>) -> SeenNodes {
        SeenNodes { budget, marks: OnceLock::new() }
    }

    /// True when the node was met before; then it is forgotten. Otherwise it is remembered for a
    /// while.
    pub fn meet(&self, node: &NodeRef) -> bool {
        let (marks, _) = self.marks.get_or_init(|| {
            let count = (self.budget.total() / BUDGET_BYTES_A_MARK).clamp(MARKS_MIN, MARKS_MAX);
            let marks: Box<[AtomicU32]> = (0..count).map(|_| AtomicU32::new(0)).collect();
            let bytes = size_of_val(&*marks) as u64;
            (marks, self.budget.charge(MemoryPart::Other, bytes))
        });
        // Checksums are as good as random; zero says that there is no mark.
        let mark = node.checksum.max(1);
        let place = u64::from(node.stamp) ^ node.page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let Some(slot) = marks.get((place % marks.len() as u64) as usize) else {
            return false;
        };
        let met = slot.swap(mark, Ordering::Relaxed) == mark;
        if met {
            slot.store(0, Ordering::Relaxed);
        }
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PageNumber;

    fn node(n: u32) -> NodeRef {
        let checksum = n.wrapping_mul(0x9e37_79b9);
        NodeRef { page: PageNumber(u64::from(n) * 4), pages: 4, stamp: n, checksum }
    }

    #[test]
    fn a_node_is_known_when_it_is_met_again_and_then_forgotten() {
        let budget = Arc::new(MemoryBudget::new(4 << 20));
        let seen = SeenNodes::new(Arc::clone(&budget));
        assert_eq!(budget.used(), 0, "nothing is taken before it is needed");
        assert!(!seen.meet(&node(1)));
        assert!(seen.meet(&node(1)));
        assert!(!seen.meet(&node(1)));
        assert!(!seen.meet(&NodeRef { checksum: 77, ..node(1) }), "another node in its place");
        assert_eq!(budget.used(), 4 * 512);
        drop(seen);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn most_of_what_the_cache_could_hold_is_known_again_and_little_of_much_more() {
        let seen = SeenNodes::new(Arc::new(MemoryBudget::new(16 << 20)));
        let known = |count: u32| {
            for n in 0..count {
                seen.meet(&node(n));
            }
            (0..count).filter(|n| seen.meet(&node(*n))).count() as u32
        };
        assert!(known(500) > 300);
        assert!(known(50_000) < 1_000);
    }
}
