//! Keyspaces in which background work has met what it cannot read, and what it could not do there.
//!
//! *Guarantees*: what cannot be merged in these keyspaces counts for those alone who write to them:
//! nobody else waits for it. What is known here is forgotten when the same work succeeds there, and
//! when the database is closed. *Threads*: any; while nothing is damaged, each question is a load.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backlog::Backlog;
use super::state::State;
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{LockRank, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber};

/// The rank of the lock over what is known.
const DAMAGED: LockRank = LockRank::new(83, "damaged keyspaces");

/// Work that reads what lies in a keyspace. The flush's comes first: all others are merging's, and
/// stand side by side ([`Damaged::error_of`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A flush puts a run into the last level. Without it all goes to a young segment.
    Run,
    /// Its share of young segments goes down.
    Young,
    /// What stands above the last level goes into it.
    Above,
    /// It was dropped, and its levels leave.
    Leaving,
}

/// Some work in one keyspace.
pub type Task = (KeyspaceNumber, Work);

/// What came of noting a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It says nothing of the task alone, or not yet.
    NotOfTask,
    /// The task has failed before.
    Known,
    /// It had not failed before.
    New,
}

/// After a failure a task rests for so long, each time twice as long as before: what is done in it
/// until it fails is done in vain.
const REST_MIN: Duration = Duration::from_millis(200);
const REST_MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Damaged {
    is_any: AtomicBool,
    known: OrderedMutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    failures: BTreeMap<Task, Failure>,
    /// The system has refused to read there, once.
    refused: BTreeSet<Task>,
    /// The backlog of a state, once it was asked for.
    backlog: Option<(Epoch, (Backlog, Backlog))>,
}

#[derive(Debug)]
struct Failure {
    error: Error,
    rest: Duration,
    rests_until: Duration,
}

impl Default for Damaged {
    fn default() -> Damaged {
        let known = OrderedMutex::new(DAMAGED, Known::default());
        Damaged { is_any: AtomicBool::new(false), known }
    }
}

impl Damaged {
    /// A task has failed: what is of it alone is known from now on, and it rests. What the system
    /// refuses may go the next time: it is of the task when it refuses again.
    pub fn note(&self, task: Task, error: &Error, now: Duration) -> Met {
        let is_refusal = matches!(error, Error::Io { .. });
        if !is_refusal && !error.is_corruption() {
            return Met::NotOfTask;
        }
        let mut known = self.known.lock();
        self.is_any.store(true, Ordering::Release);
        let before = known.failures.remove(&task);
        let is_new = before.is_none();
        if is_new && is_refusal && known.refused.insert(task) {
            return Met::NotOfTask;
        }
        let rest = before.map_or(REST_MIN, |before| (before.rest * 2).min(REST_MAX));
        let failure = Failure { error: error.clone(), rest, rests_until: now + rest };
        known.failures.insert(task, failure);
        if is_new {
            known.backlog = None;
        }
        if is_new { Met::New } else { Met::Known }
    }

    /// A task has succeeded.
    pub fn forget(&self, task: Task) {
        if !self.is_any() {
            return;
        }
        let mut known = self.known.lock();
        known.refused.remove(&task);
        if known.failures.remove(&task).is_some() {
            known.backlog = None;
        }
        let is_any = !known.failures.is_empty() || !known.refused.is_empty();
        self.is_any.store(is_any, Ordering::Release);
    }

    /// The tasks that are not tried now.
    pub fn resting(&self, now: Duration) -> Vec<Task> {
        if !self.is_any() {
            return Vec::new();
        }
        let known = self.known.lock();
        let resting = known.failures.iter().filter(|(_, failure)| now < failure.rests_until);
        resting.map(|(task, _)| *task).collect()
    }

    /// Whether anything is known.
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    /// Whether a task has failed.
    pub fn has(&self, task: Task) -> bool {
        self.is_any() && self.known.lock().failures.contains_key(&task)
    }

    /// A keyspace is gone, or all of it is in the last level.
    pub fn forget_all_of(&self, keyspace: KeyspaceNumber) {
        [Work::Run, Work::Young, Work::Above, Work::Leaving]
            .into_iter()
            .for_each(|work| self.forget((keyspace, work)));
    }

    /// Why some keyspace cannot be merged on, if there is one.
    pub fn any_error(&self) -> Option<Error> {
        let known = self.known.lock();
        let mut merging = known.failures.iter().filter(|((_, work), _)| *work != Work::Run);
        merging.next().map(|(_, failure)| failure.error.clone())
    }

    /// Why a keyspace cannot be merged on, if it cannot.
    pub fn error_of(&self, keyspace: KeyspaceNumber) -> Option<Error> {
        if !self.is_any() {
            return None;
        }
        let known = self.known.lock();
        let merging = (keyspace, Work::Young)..=(keyspace, Work::Leaving);
        known.failures.range(merging).next().map(|(_, failure)| failure.error.clone())
    }

    /// What waits in a state to be merged, but for what cannot be; and that.
    pub fn backlog_of(&self, state: &State) -> (Backlog, Backlog) {
        if !self.is_any() {
            return (state.backlog(), Backlog::default());
        }
        let mut known = self.known.lock();
        if let Some((epoch, parts)) = known.backlog
            && epoch == state.epoch
        {
            return parts;
        }
        let merging = known.failures.keys().filter(|(_, work)| *work != Work::Run);
        let held_up: BTreeSet<KeyspaceNumber> = merging.map(|(keyspace, _)| *keyspace).collect();
        let parts = Backlog::in_parts(state, state.promoted_leaves(), &held_up);
        known.backlog = Some((state.epoch, parts));
        parts
    }
}
