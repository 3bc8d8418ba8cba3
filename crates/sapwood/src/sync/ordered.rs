//! A mutex with a rank: the order in which locks are taken is written down once, and checked.
//!
//! *Assumes*: that every lock which is held while another is taken goes through this type.
//! *Guarantees*: with debug assertions, a thread that blocks on a lock holds only locks of lower
//! rank, or panics and names both: so no cycle of waiting threads can form. Without them it is a
//! plain mutex.
//! *Threads*: any. A guard stays on the thread that took it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use super::{Condvar, Mutex, MutexGuard};

/// A place in the lock order. Locks are taken in rising rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockRank {
    number: u16,
    name: &'static str,
}

impl LockRank {
    /// The order of commits.
    pub const COMMIT_ORDER: LockRank = LockRank::new(10, "commit order");
    /// The install of a new state, one at a time.
    pub const INSTALL: LockRank = LockRank::new(20, "install");
    /// The log's writer.
    pub const LOG_WRITER: LockRank = LockRank::new(30, "log writer");
    /// The swap of the view that readers take.
    pub const VIEW_SWAP: LockRank = LockRank::new(40, "view swap");
    /// The table of snapshots and holds.
    pub const SNAPSHOTS: LockRank = LockRank::new(50, "snapshots");
    /// The allocator of pages.
    pub const PAGE_ALLOCATOR: LockRank = LockRank::new(60, "page allocator");
    /// One part of the cache.
    pub const CACHE: LockRank = LockRank::new(70, "cache");

    /// A rank; two locks that one thread may hold together need different numbers.
    #[must_use]
    pub const fn new(number: u16, name: &'static str) -> LockRank {
        LockRank { number, name }
    }
}

impl fmt::Display for LockRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.number)
    }
}

#[cfg(test)]
thread_local! {
    static TAKEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How often this thread has asked for an [`OrderedMutex`]: for tests of what a step costs.
#[cfg(test)]
pub fn locks_taken() -> u64 {
    TAKEN.get()
}

/// A mutex that knows its place in the lock order.
pub struct OrderedMutex<T> {
    inner: Mutex<T>,
    #[cfg(any(debug_assertions, feature = "preempt"))]
    rank: LockRank,
}

impl<T> OrderedMutex<T> {
    /// A mutex of the given rank around `value`.
    pub const fn new(rank: LockRank, value: T) -> OrderedMutex<T> {
        #[cfg(not(any(debug_assertions, feature = "preempt")))]
        let _ = rank;
        OrderedMutex {
            inner: Mutex::new(value),
            #[cfg(any(debug_assertions, feature = "preempt"))]
            rank,
        }
    }

    /// Waits for the lock. With debug assertions it panics if the thread holds one of this rank or
    /// a higher one.
    pub fn lock(&self) -> OrderedGuard<'_, T> {
        #[cfg(test)]
        TAKEN.set(TAKEN.get() + 1);
        #[cfg(any(debug_assertions, feature = "preempt"))]
        {
            if held::highest().is_none() {
                super::preempt::point();
            }
            held::assert_may_block_on(self.rank);
        }
        self.guard(self.inner.lock())
    }

    /// Takes the lock if it is free. In any order: what does not wait cannot take part in a
    /// deadlock, and while it is held, `lock` counts it as every other.
    pub fn try_lock(&self) -> Option<OrderedGuard<'_, T>> {
        self.inner.try_lock().map(|inner| self.guard(inner))
    }

    /// The value, without locking: nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }

    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }

    #[cfg_attr(not(any(debug_assertions, feature = "preempt")), allow(clippy::unused_self))]
    fn guard<'a>(&'a self, inner: MutexGuard<'a, T>) -> OrderedGuard<'a, T> {
        OrderedGuard {
            inner,
            #[cfg(any(debug_assertions, feature = "preempt"))]
            entry: held::Entry::new(self.rank),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for OrderedMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Holds an [`OrderedMutex`] until it is dropped.
pub struct OrderedGuard<'a, T> {
    inner: MutexGuard<'a, T>,
    // Dropped after `inner`: for an instant the list names a lock that is free, never the reverse.
    #[cfg(any(debug_assertions, feature = "preempt"))]
    entry: held::Entry,
}

impl<T> OrderedGuard<'_, T> {
    /// Lets the lock go, waits to be notified, and takes it again. With debug assertions it panics
    /// if the thread holds a lock of higher rank, under which it could not take this one again.
    pub fn wait(&mut self, condvar: &Condvar) {
        #[cfg(any(debug_assertions, feature = "preempt"))]
        self.entry.assert_may_wait();
        condvar.wait(&mut self.inner);
    }

    /// The same, for at most `timeout`; true when that ran out.
    pub fn wait_for(&mut self, condvar: &Condvar, timeout: Duration) -> bool {
        #[cfg(any(debug_assertions, feature = "preempt"))]
        self.entry.assert_may_wait();
        condvar.wait_for(&mut self.inner, timeout).timed_out()
    }
}

impl<T> Deref for OrderedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for OrderedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: fmt::Debug> fmt::Debug for OrderedGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The ranks that each thread holds.
#[cfg(any(debug_assertions, feature = "preempt"))]
mod held {
    use std::cell::RefCell;

    use super::LockRank;

    thread_local! {
        static HELD: RefCell<Vec<LockRank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn assert_may_block_on(rank: LockRank) {
        if let Some(highest) = highest() {
            assert!(
                highest.number < rank.number,
                "lock order: {rank} asked for while {highest} is held"
            );
        }
    }

    pub(super) fn highest() -> Option<LockRank> {
        // The list is gone only while its thread ends; nothing is checked then.
        HELD.try_with(|held| held.borrow().iter().max().copied()).ok().flatten()
    }

    /// One held lock; gone from the list when dropped.
    pub(super) struct Entry(LockRank);

    impl Entry {
        pub(super) fn new(rank: LockRank) -> Entry {
            let _ = HELD.try_with(|held| held.borrow_mut().push(rank));
            Entry(rank)
        }

        pub(super) fn assert_may_wait(&self) {
            if let Some(highest) = highest() {
                assert!(
                    highest.number <= self.0.number,
                    "lock order: waiting with {} while {highest} is held",
                    self.0
                );
            }
        }
    }

    impl Drop for Entry {
        fn drop(&mut self) {
            // Guards may be dropped in any order, so the entry need not be the last.
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(index) = held.iter().rposition(|rank| *rank == self.0) {
                    held.remove(index);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, thread};

    fn pair() -> (OrderedMutex<u32>, OrderedMutex<u32>) {
        (OrderedMutex::new(LockRank::INSTALL, 1), OrderedMutex::new(LockRank::CACHE, 2))
    }

    #[test]
    fn rising_order_is_allowed_and_guards_may_be_dropped_in_any_order() {
        let (low, high) = pair();
        let first = low.lock();
        let mut second = high.lock();
        *second += *first;
        drop(first);
        drop(second);
        assert_eq!(*high.lock(), 3);
        assert_eq!(*low.lock(), 1, "taken after the higher one was dropped");
        assert_eq!(high.into_inner(), 3);
    }

    #[test]
    #[cfg(any(debug_assertions, feature = "preempt"))]
    #[should_panic(expected = "lock order: install (20) asked for while cache (70) is held")]
    fn falling_order_panics_and_names_both_locks() {
        let (low, high) = pair();
        let _second = high.lock();
        let _first = low.lock();
    }

    #[test]
    #[cfg(any(debug_assertions, feature = "preempt"))]
    #[should_panic(expected = "lock order: cache (70) asked for while cache (70) is held")]
    fn two_locks_of_one_rank_are_refused() {
        let (first, second) = (pair().1, pair().1);
        let _first = first.lock();
        let _second = second.lock();
    }

    #[test]
    #[cfg(any(debug_assertions, feature = "preempt"))]
    fn panicking_thread_leaves_an_empty_list() {
        let (low, high) = pair();
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _second = high.lock();
            let _first = low.lock();
        }));
        assert!(refused.is_err());
        let _first = low.lock();
        let _second = high.lock();
    }

    #[test]
    fn try_lock_may_go_against_the_order() {
        let (low, high) = pair();
        let _second = high.lock();
        assert!(low.try_lock().is_some());
        assert!(high.try_lock().is_none(), "held already");
    }

    #[test]
    #[cfg(any(debug_assertions, feature = "preempt"))]
    #[should_panic(expected = "lock order: view swap (40) asked for while cache (70) is held")]
    fn lock_taken_by_try_lock_counts_for_the_next_lock() {
        let (low, high) = pair();
        let middle = OrderedMutex::new(LockRank::VIEW_SWAP, ());
        let _second = high.try_lock();
        let _first = low.try_lock();
        let _middle = middle.lock();
    }

    #[test]
    #[cfg(any(debug_assertions, feature = "preempt"))]
    #[should_panic(expected = "lock order: waiting with install (20) while cache (70) is held")]
    fn waiting_under_a_higher_lock_is_refused() {
        let (low, high) = pair();
        let mut first = low.lock();
        let _second = high.lock();
        first.wait_for(&Condvar::new(), Duration::from_millis(1));
    }

    #[test]
    fn waiting_lets_the_lock_go_and_takes_it_again() {
        let shared = Arc::new((pair().0, Condvar::new()));
        let other = Arc::clone(&shared);
        let mut guard = shared.0.lock();
        let handle = thread::spawn("sapwood-test", move || {
            *other.0.lock() = 9;
            other.1.notify_one();
        })
        .unwrap();
        while *guard != 9 {
            guard.wait(&shared.1);
        }
        assert!(guard.wait_for(&shared.1, Duration::from_millis(1)), "nobody notifies any more");
        drop(guard);
        handle.join().unwrap();
    }
}
