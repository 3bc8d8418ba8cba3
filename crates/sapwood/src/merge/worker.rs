//! The threads that run steps.
//!
//! *Guarantees*: stopping joins every thread; a step that fails is tried again after a pause, and
//! its error is kept for whoever waits. *Threads*: as many as the options say, and one for timed
//! syncs, so that no merge delays them.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::state::Core;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{JoinHandle, ThreadId, spawn};
use crate::sync::{Arc, Mutex};

use super::step::{Step, timed_sync, try_step, until_timed_sync, wait_out};

/// How long a thread sleeps when nothing is due: timed work is looked at as often.
const PAUSE: Duration = Duration::from_millis(100);
/// How long after a failed step the next one is tried.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    core: Arc<Core>,
    stop: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Workers {
    /// Starts as many threads as the options say.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(core: &Arc<Core>) -> Result<Workers> {
        let workers = Workers {
            core: core.clone(),
            stop: Arc::new(AtomicBool::new(false)),
            threads: Mutex::new(Vec::new()),
        };
        let count = if core.options.read_only { 0 } else { core.options.merge_threads };
        core.background.has_threads.store(count > 0, Ordering::Release);
        if count == 0 {
            return Ok(workers);
        }
        for index in 0..count {
            workers.start_thread(&format!("sapwood-merge-{index}"), merge_loop)?;
        }
        workers.start_thread("sapwood-sync", sync_loop)?;
        Ok(workers)
    }

    fn start_thread(&self, name: &str, body: fn(&Arc<Core>, &AtomicBool)) -> Result<()> {
        let (core, stop) = (self.core.clone(), self.stop.clone());
        let thread = spawn(name, move || body(&core, &stop));
        let thread = thread.map_err(|error| {
            self.stop();
            Error::io("starting a thread", self.core.pages.storage().name(), error)
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Which threads they are.
    pub fn thread_ids(&self) -> Vec<ThreadId> {
        self.threads.lock().iter().map(|thread| thread.thread().id()).collect()
    }

    /// Stops and joins every thread. A thread that ends the last reference to its own database is
    /// not joined by itself.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if !self.core.pages.storage().is_of_this_process() {
            // A fork has none of the threads, and would wait for them for ever.
            return std::mem::forget(std::mem::take(&mut *self.threads.lock()));
        }
        self.core.background.notify();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() != crate::sync::thread::current_id() && thread.join().is_err() {
                tracing::error!(target: "sapwood::failure", "a merge thread panicked");
            }
        }
        self.core.background.has_threads.store(false, Ordering::Release);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

fn merge_loop(core: &Arc<Core>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let mark = core.background.mark();
        let is_stopped = || stop.load(Ordering::Acquire);
        match try_step(core) {
            Ok(Step::Made) => {}
            Ok(Step::Nothing) => core.background.wait_since(mark, PAUSE),
            // It was told.
            Ok(Step::HeldUp(_)) => wait_out(core, PAUSE_AFTER_FAILURE, is_stopped),
            Err(error) => {
                let error = error.in_file(|| core.pages.storage().name());
                tracing::warn!(target: "sapwood::failure", %error, "a step failed");
                wait_out(core, PAUSE_AFTER_FAILURE, is_stopped);
            }
        }
    }
}

/// A commit wakes nobody: who sleeps so long at most finds it before its interval has passed, and
/// then sleeps until that has.
fn pause_before_sync(core: &Core, outcome: &Result<bool>) -> Duration {
    match outcome {
        Ok(_) => until_timed_sync(core).min(PAUSE),
        Err(_) => core.options.sync_interval.min(PAUSE),
    }
}

fn sync_loop(core: &Arc<Core>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let outcome = timed_sync(core);
        if let Err(error) = &outcome {
            tracing::warn!(target: "sapwood::failure", %error, "a timed sync failed");
        }
        let mark = core.background.mark();
        core.background.wait_since(mark, pause_before_sync(core, &outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::state::create;
    use crate::storage::SimulatedStorage;
    use crate::sync::Clock;

    /// Whenever a commit comes, its sync begins when the interval has passed, and not a pause
    /// later.
    #[test]
    fn a_timed_sync_is_begun_as_soon_as_its_interval_has_passed() {
        for interval in [1, 30, 100, 1_000, 1_050].map(Duration::from_millis) {
            for phase in [0, 1, 29, 60, 99].map(Duration::from_millis) {
                let options =
                    Options { merge_threads: 0, sync_interval: interval, ..Options::default() };
                let (clock, time) = Clock::fake();
                let storage = Arc::new(SimulatedStorage::new());
                let core = create::create(storage, options, clock).unwrap();
                let pause = pause_before_sync(&core, &timed_sync(&core));
                // The commit comes while the thread sleeps.
                let before = phase.min(pause);
                time.advance(before);
                core.background.note_commit(core.clock.now(), true);
                let mut waited = pause - before;
                time.advance(waited);
                loop {
                    let outcome = timed_sync(&core);
                    if matches!(outcome, Ok(true)) {
                        break;
                    }
                    let pause = pause_before_sync(&core, &outcome);
                    time.advance(pause);
                    waited += pause;
                }
                assert_eq!(waited, interval, "a commit {before:?} after a look");
            }
        }
    }

    #[test]
    fn a_sync_that_fails_is_not_tried_again_at_once() {
        let options = Options { merge_threads: 0, ..Options::default() };
        let core =
            create::create(Arc::new(SimulatedStorage::new()), options, Clock::fake().0).unwrap();
        let failed = Err(Error::Closed);
        assert_eq!(pause_before_sync(&core, &failed), PAUSE);
    }
}
