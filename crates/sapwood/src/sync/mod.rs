//! Floor 0: locks, atomics, threads, channels, clock and randomness.
//!
//! Nothing else in the crate names those directly, so that a test can put a scheduler, a fake clock
//! and a seed in their place.

pub use arc_swap::{ArcSwap, ArcSwapOption, Guard};
pub use crossbeam_channel as channel;
pub use parking_lot::{
    Condvar, MappedRwLockReadGuard, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
pub use std::sync::atomic;
pub use std::sync::{Arc, OnceLock, Weak};
