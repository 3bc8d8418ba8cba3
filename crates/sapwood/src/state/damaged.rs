//! Keyspaces in which background work has met what it cannot read, and what it could not do there.
//!
//! *Guarantees*: what cannot be merged in these keyspaces counts for those alone who write to them:
//! nobody else waits for it. What is known here is forgotten when the same work succeeds there, and
//! when the database is closed. *Threads*: any; while nothing is damaged, each question is a load.

use std::collections::{BTreeMap, BTreeSet};

use super::backlog::Backlog;
use super::state::State;
use crate::error::Error;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{LockRank, OrderedMutex};
use crate::types::{Epoch, KeyspaceNumber};

/// The rank of the lock over what is known.
const DAMAGED: LockRank = LockRank::new(83, "damaged keyspaces");

/// Work that reads what lies in a keyspace.
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

/// See the module.
#[derive(Debug)]
pub struct Damaged {
    is_any: AtomicBool,
    known: OrderedMutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    errors: BTreeMap<(KeyspaceNumber, Work), Error>,
    /// The backlog of a state, once it was asked for.
    backlog: Option<(Epoch, (Backlog, Backlog))>,
}

impl Default for Damaged {
    fn default() -> Damaged {
        let known = OrderedMutex::new(DAMAGED, Known::default());
        Damaged { is_any: AtomicBool::new(false), known }
    }
}

impl Damaged {
    /// Such work has failed in a keyspace; true when that was not known.
    pub fn add(&self, keyspace: KeyspaceNumber, work: Work, error: &Error) -> bool {
        let mut known = self.known.lock();
        let is_new = known.errors.insert((keyspace, work), error.clone()).is_none();
        if is_new {
            known.backlog = None;
            self.is_any.store(true, Ordering::Release);
        }
        is_new
    }

    /// Such work has succeeded in a keyspace.
    pub fn forget(&self, keyspace: KeyspaceNumber, work: Work) {
        if !self.is_any() {
            return;
        }
        let mut known = self.known.lock();
        if known.errors.remove(&(keyspace, work)).is_some() {
            known.backlog = None;
            self.is_any.store(!known.errors.is_empty(), Ordering::Release);
        }
    }

    /// Whether anything is known.
    pub fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    /// Whether such work has failed in a keyspace.
    pub fn has(&self, keyspace: KeyspaceNumber, work: Work) -> bool {
        self.is_any() && self.known.lock().errors.contains_key(&(keyspace, work))
    }

    /// What is known of some keyspace, if anything is.
    pub fn any_error(&self) -> Option<Error> {
        self.known.lock().errors.values().next().cloned()
    }

    /// Why a keyspace cannot be merged on, if it cannot.
    pub fn error_of(&self, keyspace: KeyspaceNumber) -> Option<Error> {
        if !self.is_any() {
            return None;
        }
        let known = self.known.lock();
        let merging = (keyspace, Work::Young)..=(keyspace, Work::Leaving);
        known.errors.range(merging).next().map(|(_, error)| error.clone())
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
        let merging = known.errors.keys().filter(|(_, work)| *work != Work::Run);
        let held_up: BTreeSet<KeyspaceNumber> = merging.map(|(keyspace, _)| *keyspace).collect();
        let parts = Backlog::in_parts(state, state.promoted_leaves(), &held_up);
        known.backlog = Some((state.epoch, parts));
        parts
    }
}
