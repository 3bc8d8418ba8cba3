//! Stops writing when work that others wait for panics.
//!
//! *Guarantees*: nobody waits for ever for what the work would have done: a commit before theirs, a
//! write of the log, a step. Reads go on.

use super::core::Core;
use crate::error::Error;
use crate::sync::thread;

/// Stands for the work, as long as it runs.
#[derive(Debug)]
pub struct PanicGuard<'a> {
    core: &'a Core,
    work: &'static str,
    /// The thread unwinds already: it closes the database on its way out.
    unwinds_anyway: bool,
}

impl<'a> PanicGuard<'a> {
    /// The work begins. `work` says what it is, for the error.
    pub fn new(core: &'a Core, work: &'static str) -> PanicGuard<'a> {
        PanicGuard { core, work, unwinds_anyway: thread::is_panicking() }
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::is_panicking() && !self.unwinds_anyway {
            let (work, epoch) = (self.work, self.core.state().epoch);
            self.core.stop(&Error::WorkPanicked { work, epoch });
        }
    }
}
