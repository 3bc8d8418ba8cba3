//! The flush of a commit by reference: its segments are written already and come into the state.
//!
//! *Guarantees*: P5 of docs/architecture.md: it takes its turn among the memtables, and is not in a
//! state before it is visible. *Threads*: as for a flush.

use crate::error::Result;
use crate::page::{Block, MemoryPart};
use crate::state::Core;
use crate::state::background::Job;
use crate::state::view::MemtableSlot;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

use super::install::{Change, install};

/// See the module.
#[derive(Debug)]
pub struct AdoptJob {
    slot: Arc<MemtableSlot>,
}

/// Begins the adoption of the oldest slot, when it is one of a commit by reference that is visible.
pub fn begin(core: &Core) -> Option<AdoptJob> {
    let view = core.view();
    let slot = view.sealed.last()?;
    let commit = slot.by_reference.as_ref()?;
    (commit.number <= core.visible()).then(|| AdoptJob { slot: slot.clone() })
}

impl Job for AdoptJob {
    fn step(&mut self, core: &Arc<Core>) -> Result<bool> {
        let (Some(commit), Some(cut)) = (&self.slot.by_reference, self.slot.cut.get()) else {
            return Ok(true);
        };
        let adopted = core.pending.of(commit.blocks);
        // This list, and that of what is born with the state.
        let bytes = 2 * adopted.len() * size_of::<Block>();
        let held = Some(core.pages.budget().charge(MemoryPart::MergeBuffers, bytes as u64));
        let flushed = Some((self.slot.clone(), *cut));
        install(core, Change { adopted, flushed, held, ..Change::default() })?;
        let number = commit.number;
        tracing::debug!(target: "sapwood::flush", %number, "a large transaction was adopted");
        core.counters.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
