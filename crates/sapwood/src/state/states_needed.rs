//! What the states take in memory that the database itself needs: the current one and the last
//! durable one.
//!
//! *Guarantees*: what the budget is told is no less than what the two take; what they share counts
//! for each. Whatever else keeps states is the application's. *Threads*: any; atomics.

use crate::page::MemoryBudget;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::state::State;

/// See the module.
#[derive(Debug, Default)]
pub struct StatesNeeded {
    current: AtomicU64,
    durable: AtomicU64,
}

impl StatesNeeded {
    /// A state became current.
    pub fn note_current(&self, state: &State, budget: &MemoryBudget) {
        self.current.store(state.bytes(), Ordering::SeqCst);
        self.tell(budget);
    }

    /// A state became durable.
    pub fn note_durable(&self, state: &State, budget: &MemoryBudget) {
        self.durable.store(state.bytes(), Ordering::SeqCst);
        self.tell(budget);
    }

    fn tell(&self, budget: &MemoryBudget) {
        let of = |bytes: &AtomicU64| bytes.load(Ordering::SeqCst);
        budget.set_states_needed(of(&self.current).saturating_add(of(&self.durable)));
    }
}
