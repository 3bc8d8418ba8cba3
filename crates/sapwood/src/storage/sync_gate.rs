//! The gate that every sync of a file goes through: what it says holds beside the failures of
//! others.
//!
//! The system tells a failed sync once, to one of those that run at the time, and takes the pages
//! that it could not write for clean: another one, which was to bring the same bytes to the disk,
//! says that all is well (fsync(2); Rebello et al., "Can Applications Recover from fsync
//! Failures?", ATC 2020). So here a sync is well only if none has failed that ended before it, and
//! one that has ended in the system, but not yet here, may have: the gate waits for those.
//!
//! *Guarantees*: after a failure none is well any more. Each sync counts, one that fails too.
//! *Assumes*: a sync does not wait for another thread that waits here.
//! *Threads*: any; each sync takes a lock three times, and looks twice at the clock.

use std::io;
use std::time::Duration;

use crate::sync::thread::{ThreadId, current_id};
use crate::sync::{Clock, Condvar, Mutex};

/// See the module.
#[derive(Debug)]
pub struct SyncGate {
    clock: Clock,
    inner: Mutex<Inner>,
    /// One has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// Those that have begun and not ended, in the order in which they began.
    under_way: Vec<Ticket>,
    /// How many have begun.
    begun: u64,
    /// How the first that was not well ended.
    failure: Option<Failure>,
    counts: SyncCounts,
}

/// A sync: the how manyth it is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    number: u64,
    thread: ThreadId,
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCounts {
    /// Syncs, and writes that were synced.
    pub count: u64,
    /// How long they took together.
    pub total: Duration,
    /// How long the longest took.
    pub longest: Duration,
}

/// How a sync ended that was not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Failed,
    Panicked,
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::other(match self {
            Failure::Failed => "another sync of the file has failed",
            Failure::Panicked => "another sync of the file has panicked",
        })
    }
}

/// A sync under way.
struct UnderWay<'a> {
    gate: &'a SyncGate,
    ticket: Ticket,
    begun: Duration,
    /// What it is until it comes back: it panics.
    failure: Option<Failure>,
}

impl SyncGate {
    /// Counts from now on, by this clock.
    pub fn new(clock: Clock) -> SyncGate {
        SyncGate { clock, inner: Mutex::default(), ended: Condvar::new() }
    }

    /// Runs a sync, or a write that is synced.
    ///
    /// # Errors
    /// When it fails, or another has failed that this one cannot tell of.
    pub fn run(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.run_unsettled(sync)?;
        self.settle()
    }

    /// The same without the wait for others: what it says counts once [`SyncGate::settle`] has said
    /// the same.
    ///
    /// # Errors
    /// When it fails.
    pub fn run_unsettled(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut under_way = self.begin();
        let result = sync();
        under_way.failure = result.as_ref().err().map(|_| Failure::Failed);
        result
    }

    /// Waits for those that have begun by now.
    ///
    /// # Errors
    /// When one has failed, of these or before.
    pub fn settle(&self) -> io::Result<()> {
        let thread = current_id();
        let mut inner = self.inner.lock();
        let begun = inner.begun;
        // A thread's own, outside of this one, ends only when this one has.
        let is_awaited = |other: &Ticket| other.number < begun && other.thread != thread;
        while inner.failure.is_none() && inner.under_way.iter().any(is_awaited) {
            self.ended.wait(&mut inner);
        }
        inner.failure.map_or(Ok(()), |failure| Err(failure.error()))
    }

    fn begin(&self) -> UnderWay<'_> {
        let begun = self.clock.now();
        let mut inner = self.inner.lock();
        let ticket = Ticket { number: inner.begun, thread: current_id() };
        inner.begun += 1;
        inner.under_way.push(ticket);
        UnderWay { gate: self, ticket, begun, failure: Some(Failure::Panicked) }
    }

    /// What was counted so far.
    pub fn counts(&self) -> SyncCounts {
        self.inner.lock().counts
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let took = self.gate.clock.now().saturating_sub(self.begun);
        let mut inner = self.gate.inner.lock();
        inner.under_way.retain(|other| *other != self.ticket);
        inner.failure = inner.failure.or(self.failure);
        inner.counts.count += 1;
        inner.counts.total += took;
        inner.counts.longest = inner.counts.longest.max(took);
        self.gate.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, channel, thread};

    fn failed() -> io::Error {
        io::Error::other("the disk is gone")
    }

    #[test]
    fn each_sync_counts_with_its_time_and_the_longest_is_kept() {
        let (clock, hand) = Clock::fake();
        let gate = SyncGate::new(clock);
        for milliseconds in [3, 7, 5] {
            let took = Duration::from_millis(milliseconds);
            let sync = || {
                hand.advance(took);
                Ok(())
            };
            gate.run(sync).unwrap();
            hand.advance(Duration::from_secs(1));
        }
        let (total, longest) = (Duration::from_millis(15), Duration::from_millis(7));
        assert_eq!(gate.counts(), SyncCounts { count: 3, total, longest });
    }

    #[test]
    fn after_a_failure_none_is_well() {
        let gate = SyncGate::new(Clock::real());
        assert!(gate.run(|| Ok(())).is_ok());
        assert_eq!(gate.run(|| Err(failed())).unwrap_err().to_string(), failed().to_string());
        let error = gate.run(|| Ok(())).unwrap_err().to_string();
        assert!(error.contains("another sync of the file has failed"), "{error}");
        assert_eq!(gate.counts().count, 3);
    }

    #[test]
    fn one_that_panics_has_failed_and_nobody_waits_for_it() {
        let gate = SyncGate::new(Clock::real());
        let panics = || gate.run(|| panic!("in the storage"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
        let error = gate.run(|| Ok(())).unwrap_err().to_string();
        assert!(error.contains("another sync of the file has panicked"), "{error}");
    }

    #[test]
    fn one_inside_of_another_of_its_thread_does_not_wait_for_that() {
        let gate = SyncGate::new(Clock::real());
        assert!(gate.run(|| gate.run(|| Ok(()))).is_ok());
    }

    /// The system has told the other one, which has not come back yet.
    #[test]
    fn one_that_has_begun_before_is_waited_for() {
        for other_fails in [false, true] {
            let gate = Arc::new(SyncGate::new(Clock::real()));
            let (begun, has_begun) = channel::bounded(0);
            let (go, may_go) = channel::bounded::<()>(0);
            let other = gate.clone();
            let other = thread::spawn("other sync", move || {
                other.run(|| {
                    begun.send(()).unwrap();
                    may_go.recv().unwrap();
                    if other_fails { Err(failed()) } else { Ok(()) }
                })
            });
            let other = other.unwrap();
            has_begun.recv().unwrap();
            let (one, ended) = (gate.clone(), channel::bounded(1));
            let sender = ended.0;
            let one = thread::spawn("one sync", move || sender.send(one.run(|| Ok(())).is_ok()));
            let one = one.unwrap();
            // It has ended in the system once both have been counted as begun, and none waits.
            while gate.counts().count == 0 {
                thread::yield_now();
            }
            for _ in 0..1000 {
                assert!(ended.1.try_recv().is_err(), "it does not know yet");
                thread::yield_now();
            }
            go.send(()).unwrap();
            assert_eq!(other.join().unwrap().is_err(), other_fails);
            one.join().unwrap().unwrap();
            assert_eq!(ended.1.recv(), Ok(!other_fails));
        }
    }
}
