//! Points at which a test may let something else be done first, as if another thread had been
//! faster.
//!
//! A test sets a hook for its thread; the hook is called before the thread takes an
//! [`OrderedMutex`](super::OrderedMutex) while it holds none, which is where another thread could
//! have come in between. So one thread can play several, and the same seed gives the same history.
//!
//! *Assumes*: that what the hook does never waits for what the interrupted thread is about to do.
//! *Guarantees*: no call while an ordered lock is held, inside [`exclusive`], or while the thread
//! unwinds. Without debug assertions and without the feature `preempt` nothing of it is there.
//! *Threads*: each has a hook of its own.

/// Keeps the hook from being called until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Exclusive {
    _private: (),
}

/// Marks a stretch in which others wait for this thread by something else than a lock.
pub fn exclusive() -> Exclusive {
    #[cfg(any(debug_assertions, feature = "preempt"))]
    hook::pause(true);
    Exclusive { _private: () }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        #[cfg(any(debug_assertions, feature = "preempt"))]
        hook::pause(false);
    }
}

#[cfg(any(debug_assertions, feature = "preempt"))]
pub(super) use hook::point;
#[cfg(any(debug_assertions, feature = "preempt"))]
pub use hook::{Hook, set_hook};

#[cfg(any(debug_assertions, feature = "preempt"))]
mod hook {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// What is done meanwhile. It may be called while it runs: what it does has points too.
    pub type Hook = Rc<dyn Fn()>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        static PAUSES: Cell<u32> = const { Cell::new(0) };
    }

    /// Sets the hook of this thread, or takes it away; gives the one before.
    pub fn set_hook(hook: Option<Hook>) -> Option<Hook> {
        HOOK.with(|of_thread| of_thread.replace(hook))
    }

    pub(super) fn pause(more: bool) {
        // The count is gone only while its thread ends; there are no points then.
        let _ = PAUSES.try_with(|pauses| {
            let change = if more { 1 } else { u32::MAX };
            pauses.set(pauses.get().wrapping_add(change));
        });
    }

    /// Calls the hook, if there is one and it may be called here.
    pub fn point() {
        let hook = HOOK.try_with(|hook| hook.borrow().clone()).ok().flatten();
        let Some(hook) = hook else { return };
        let paused = PAUSES.try_with(Cell::get).is_ok_and(|pauses| pauses > 0);
        if !paused && !crate::sync::thread::is_panicking() {
            hook();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::sync::{LockRank, OrderedMutex};

    #[test]
    fn the_hook_is_called_before_a_first_lock_and_nowhere_else() {
        let (low, high) =
            (OrderedMutex::new(LockRank::INSTALL, ()), OrderedMutex::new(LockRank::CACHE, ()));
        let calls = Rc::new(Cell::new(0));
        let counted = calls.clone();
        let before = set_hook(Some(Rc::new(move || counted.set(counted.get() + 1))));
        assert!(before.is_none());
        let first = low.lock();
        assert_eq!(calls.get(), 1);
        drop(high.lock());
        assert_eq!(calls.get(), 1, "a lock was held");
        drop(first);
        let alone = exclusive();
        drop(high.lock());
        assert_eq!(calls.get(), 1, "others wait for this thread");
        drop(alone);
        drop(high.lock());
        assert_eq!(calls.get(), 2);
        set_hook(None);
        drop(high.lock());
        assert_eq!(calls.get(), 2);
    }
}
