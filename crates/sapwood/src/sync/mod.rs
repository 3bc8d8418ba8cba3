//! Floor 0: locks, atomics, threads, channels, clock and randomness.
//!
//! Nothing else in the crate names those directly, so that a test can put a scheduler, a fake clock
//! and a seed in their place.
//!
//! *Assumes*: nothing.
//! *Guarantees*: in builds with debug assertions, no thread waits for an [`OrderedMutex`] of a rank
//! that is not above those that it holds.

// The floors above use what they need of it; a test or a tool may be the only user of the rest.
#![allow(unused_imports)]

mod clock;
mod ordered;
pub mod preempt;
mod random;
pub mod thread;

pub use arc_swap::{ArcSwap, ArcSwapOption, Guard};
pub use clock::{Clock, FakeClock};
pub use crossbeam_channel as channel;
#[cfg(test)]
pub use ordered::locks_taken;
pub use ordered::{LockRank, OrderedGuard, OrderedMutex};
pub use parking_lot::{
    Condvar, MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub use random::Random;
pub use std::sync::atomic;
pub use std::sync::{Arc, OnceLock, Weak};
