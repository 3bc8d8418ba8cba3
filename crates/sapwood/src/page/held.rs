//! What the application holds of the engine's memory: shown beside the budget, and no part of it.
//!
//! *Guarantees*: what is counted is given back when its holder goes. Nothing is refused, and
//! nothing gives way. *Threads*: one owner for each holder; the sum is an atomic.

use super::budget::MemoryBudget;
use super::share::in_steps;
use crate::sync::Arc;

/// Bytes of one handle of the application, counted in steps until it is dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl Held {
    /// Nothing is held yet.
    pub fn new(budget: &Arc<MemoryBudget>) -> Held {
        Held { budget: Arc::clone(budget), bytes: 0 }
    }

    /// Counts so many bytes from now on, in steps.
    #[inline]
    pub fn follow(&mut self, bytes: usize) {
        if let Some(counted) = in_steps(self.bytes, bytes as u64) {
            self.budget.hold(counted);
            self.budget.let_go(self.bytes);
            self.bytes = counted;
        }
    }

    /// The same, unless more was counted before.
    #[inline]
    pub fn follow_up(&mut self, bytes: usize) {
        if bytes as u64 > self.bytes {
            self.follow(bytes);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.let_go(self.bytes);
    }
}
