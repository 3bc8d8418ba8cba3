//! Makes commits visible in their one order.
//!
//! *Guarantees*: C1: `visible` only rises, and a commit is visible only when all before it are and
//! its own wish (written, on disk) is met. *Threads*: any committer publishes what has become due,
//! others' commits included.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::log::writer::Positions;
use crate::options::Durability;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, LockRank, OrderedMutex};
use crate::types::{LogPosition, SequenceNumber};

/// The rank of the queue's lock.
pub const PUBLISH: LockRank = LockRank::new(35, "publish queue");

/// A commit that is in the log's buffer and the memtable.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    number: SequenceNumber,
    end: LogPosition,
    durability: Durability,
}

/// The queue of commits that are not visible yet.
#[derive(Debug)]
pub struct Publisher {
    visible: AtomicU64,
    queue: OrderedMutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    stopped: Option<Arc<Error>>,
}

impl Publisher {
    /// All commits up to `visible` are visible.
    pub fn new(visible: SequenceNumber) -> Publisher {
        Publisher {
            visible: AtomicU64::new(visible.0),
            queue: OrderedMutex::new(PUBLISH, Queue::default()),
            changed: Condvar::new(),
        }
    }

    /// The newest visible commit.
    pub fn visible(&self) -> SequenceNumber {
        SequenceNumber(self.visible.load(Ordering::Acquire))
    }

    /// Puts a commit at the end. Called in the commit order.
    pub fn enqueue(&self, number: SequenceNumber, end: LogPosition, durability: Durability) {
        self.queue.lock().waiting.push_back(Waiting { number, end, durability });
    }

    /// Makes visible what is due, by how far the log has come.
    pub fn publish(&self, log: Positions) {
        let mut queue = self.queue.lock();
        if queue.stopped.is_some() {
            return;
        }
        let mut visible = None;
        while let Some(first) = queue.waiting.front() {
            let due = match first.durability {
                Durability::Memory => true,
                Durability::Buffered => first.end <= log.written,
                Durability::Sync => first.end <= log.durable,
            };
            if !due {
                break;
            }
            visible = Some(first.number);
            queue.waiting.pop_front();
        }
        if let Some(number) = visible {
            self.visible.store(number.0, Ordering::Release);
            self.changed.notify_all();
        }
    }

    /// Waits until a commit is visible.
    ///
    /// # Errors
    /// `Stopped` when writing has stopped before.
    pub fn wait_for(&self, number: SequenceNumber) -> Result<()> {
        if self.visible() >= number {
            return Ok(());
        }
        let mut queue = self.queue.lock();
        while self.visible() < number {
            if let Some(cause) = &queue.stopped {
                return Err(Error::Stopped(cause.clone()));
            }
            queue.wait(&self.changed);
        }
        Ok(())
    }

    /// Nothing becomes visible any more (C4); whoever waits is told.
    pub fn stop(&self, cause: Arc<Error>) {
        let mut queue = self.queue.lock();
        queue.stopped.get_or_insert(cause);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(written: u64, durable: u64) -> Positions {
        Positions {
            end: LogPosition(100),
            written: LogPosition(written),
            durable: LogPosition(durable),
        }
    }

    fn with_three_commits() -> Publisher {
        let publisher = Publisher::new(SequenceNumber(0));
        let waiting = [Durability::Sync, Durability::Memory, Durability::Buffered];
        for (durability, number) in waiting.into_iter().zip(1..) {
            publisher.enqueue(SequenceNumber(number), LogPosition(number * 10), durability);
        }
        publisher
    }

    #[test]
    fn commits_become_visible_in_their_order_and_not_before_their_wish_is_met() {
        let publisher = with_three_commits();
        publisher.publish(positions(20, 0));
        assert_eq!(publisher.visible().0, 0, "the first one is not on disk");
        publisher.publish(positions(20, 10));
        assert_eq!(publisher.visible().0, 2, "the third one is not written");
        publisher.publish(positions(30, 10));
        assert_eq!(publisher.visible().0, 3);
    }

    #[test]
    fn nothing_becomes_visible_after_a_stop() {
        let publisher = with_three_commits();
        publisher.stop(Arc::new(Error::Closed));
        publisher.publish(positions(30, 30));
        assert_eq!(publisher.visible().0, 0);
        assert!(publisher.wait_for(SequenceNumber(1)).is_err());
    }
}
