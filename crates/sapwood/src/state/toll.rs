//! What writers bring while background work is as far behind as it may be, and what its steps have
//! paid for: so that all of them together bring no more than is taken away.
//!
//! *Guarantees*: whoever brings bytes learns when steps have paid for them and for all that was
//! brought before; what was paid while nobody brought anything is of no use to anybody later.
//! *Threads*: any.

use crate::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub struct Toll {
    brought: AtomicU64,
    paid: AtomicU64,
}

/// What must be paid until its holder goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Toll {
    /// Somebody brings so many bytes.
    pub fn bring(&self, bytes: u64) -> Ticket {
        self.brought.fetch_max(self.paid.load(Ordering::Acquire), Ordering::AcqRel);
        let before = self.brought.fetch_add(bytes, Ordering::AcqRel);
        Ticket(before.saturating_add(bytes))
    }

    /// A step has taken away so many bytes.
    pub fn pay(&self, bytes: u64) {
        self.paid.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Whether all up to a ticket is paid for, but for so many bytes.
    pub fn is_paid(&self, ticket: Ticket, but_for: u64) -> bool {
        self.paid.load(Ordering::Acquire).saturating_add(but_for) >= ticket.0
    }

    /// What was brought up to a ticket may stay: the work is not behind any more.
    pub fn forgive(&self, ticket: Ticket) {
        self.paid.fetch_max(ticket.0, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_bring_at_once_wait_for_what_they_bring_together() {
        let toll = Toll::default();
        let tickets = [40, 30, 30].map(|bytes| toll.bring(bytes));
        let paid_for = |toll: &Toll| tickets.map(|ticket| toll.is_paid(ticket, 0));
        assert_eq!(paid_for(&toll), [false, false, false]);
        toll.pay(50);
        assert_eq!(paid_for(&toll), [true, false, false]);
        assert!(toll.is_paid(tickets[1], 20) && !toll.is_paid(tickets[2], 49));
        toll.pay(50);
        assert_eq!(paid_for(&toll), [true, true, true]);
    }

    #[test]
    fn what_was_paid_before_is_of_no_use_and_what_is_forgiven_is_not_owed() {
        let toll = Toll::default();
        toll.pay(1000);
        let first = toll.bring(10);
        assert!(!toll.is_paid(first, 0));
        let second = toll.bring(500);
        toll.forgive(second);
        assert!(toll.is_paid(first, 0) && toll.is_paid(second, 0));
        let third = toll.bring(5);
        assert!(!toll.is_paid(third, 4));
        toll.pay(5);
        assert!(toll.is_paid(third, 0));
    }
}
