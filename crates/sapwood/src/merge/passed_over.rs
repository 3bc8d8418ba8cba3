//! What a step does not do, because something cannot be read there.
//!
//! *Guarantees*: what cannot be read in one keyspace hinders nothing in another: the step goes on
//! with what else is due. *Threads*: the step's.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::state::Core;
use crate::state::damaged::{Met, Task, Work};
use crate::sync::atomic::Ordering;
use crate::types::KeyspaceNumber;

/// See the module.
#[derive(Debug, Default)]
pub struct PassedOver {
    tasks: Vec<Task>,
    failed: Option<Error>,
}

impl PassedOver {
    /// What rests after a failure, unless somebody waits for all to be merged.
    pub fn of(core: &Core) -> PassedOver {
        let waits = core.background.drain.load(Ordering::Acquire) > 0;
        let now = if waits { Duration::MAX } else { core.clock.now() };
        PassedOver { tasks: core.background.damaged.resting(now), failed: None }
    }

    /// A task has failed: it is passed over from now on, when the error is of it alone.
    ///
    /// # Errors
    /// The error, when it is of more than that.
    pub fn add(&mut self, core: &Core, task: Task, error: Error) -> Result<()> {
        let note = || core.background.damaged.note(task, &error, core.clock.now());
        if core.has_stopped() || note() == Met::NotOfTask {
            return Err(error);
        }
        tell_passed_over(&error);
        self.tasks.push(task);
        self.failed.get_or_insert(error);
        Ok(())
    }

    /// Whether a task is passed over.
    pub fn has(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// How many are.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Keyspaces in which such work is passed over.
    pub fn keyspaces(&self, work: Work) -> Vec<KeyspaceNumber> {
        let tasks = self.tasks.iter().filter(|(_, of)| *of == work);
        tasks.map(|(keyspace, _)| *keyspace).collect()
    }

    /// The first failure of this step.
    pub fn failed(self) -> Option<Error> {
        self.failed
    }
}

/// Something is left out that cannot be read.
pub(super) fn tell_passed_over(error: &Error) {
    tracing::warn!(target: "sapwood::failure", %error, "a step was passed over");
}
