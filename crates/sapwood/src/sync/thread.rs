//! Threads, each with a name that shows in a debugger and in panics.
//!
//! *Assumes*: nothing.
//! *Guarantees*: a thread that the system refuses is an error, not a panic.

use std::io;
use std::time::Duration;

pub use std::thread::{JoinHandle, ThreadId, available_parallelism, yield_now};

/// Starts a thread named `name`.
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// The number of the calling thread.
#[must_use]
pub fn current_id() -> ThreadId {
    std::thread::current().id()
}

/// True while the calling thread unwinds from a panic.
#[must_use]
pub fn is_panicking() -> bool {
    std::thread::panicking()
}

// Sleeping goes through `Clock`, so that a test need not wait.
#[allow(clippy::disallowed_methods)]
pub(super) fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spawned_thread_carries_its_name_and_returns_its_value() {
        let handle = spawn("sapwood-test", || {
            (std::thread::current().name().map(str::to_owned), current_id())
        })
        .unwrap();
        let (name, id) = handle.join().unwrap();
        assert_eq!(name.as_deref(), Some("sapwood-test"));
        assert_ne!(id, current_id());
    }
}
