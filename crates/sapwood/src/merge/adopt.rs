//! The flush of a commit by reference: its segments are written already and come into the state.
//!
//! *Guarantees*: P5 of docs/architecture.md: it takes its turn among the memtables, and is not in a
//! state before it is visible. *Threads*: as for a flush.

use std::mem;

use crate::error::Result;
use crate::page::{Charge, MemoryPart, PageSet};
use crate::state::Core;
use crate::state::background::Job;
use crate::state::pending_blocks::SharedBlocks;
use crate::state::view::MemtableSlot;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

use super::install::{Change, install};

/// So many blocks are noted in one step; tests meet several steps of few blocks.
const STEP_BLOCKS: usize = if cfg!(test) { 16 } else { 1 << 16 };

/// See the module.
#[derive(Debug)]
pub struct AdoptJob {
    slot: Arc<MemtableSlot>,
    blocks: SharedBlocks,
    /// How many of the blocks are in `pages`.
    noted: usize,
    pages: PageSet,
    charge: Charge,
}

/// Begins the adoption of the oldest slot, when it is one of a commit by reference that is visible.
pub fn begin(core: &Core) -> Option<AdoptJob> {
    let view = core.view();
    let slot = view.sealed.last()?;
    let commit = slot.by_reference.as_ref()?;
    (commit.number <= core.visible()).then(|| AdoptJob {
        slot: slot.clone(),
        blocks: core.pending.of(commit.blocks),
        noted: 0,
        pages: PageSet::new(),
        charge: core.pages.budget().charge(MemoryPart::MergeBuffers, 0),
    })
}

/// How many steps the adoptions take that wait for their turn.
pub fn steps_ahead(core: &Core) -> usize {
    let view = core.view();
    let commits = view.sealed.iter().filter_map(|slot| slot.by_reference.as_ref());
    commits.map(|commit| core.pending.of(commit.blocks).count() / STEP_BLOCKS + 1).sum()
}

impl AdoptJob {
    /// Notes the pages of some more blocks; true when there are none.
    ///
    /// # Errors
    /// `Corruption` when two blocks have a page in common, after which nothing is allotted (A5).
    fn note_pages(&mut self, core: &Core) -> Result<bool> {
        let before = self.noted;
        for block in self.blocks.iter_from(before).take(STEP_BLOCKS) {
            let pages = self.pages.page_count() + u64::from(block.pages);
            self.pages.insert_any(block);
            if self.pages.page_count() != pages {
                core.pages.allocator().note_twice(block);
                core.pages.allocator().check_sound()?;
            }
            self.noted += 1;
        }
        self.charge.set(self.pages.memory_bytes());
        Ok(self.noted - before < STEP_BLOCKS)
    }
}

impl Job for AdoptJob {
    fn step(&mut self, core: &Arc<Core>) -> Result<bool> {
        let (Some(commit), Some(cut)) = (&self.slot.by_reference, self.slot.cut.get()) else {
            return Ok(true);
        };
        let (number, cut) = (commit.number, *cut);
        // No memtable has what it takes up, but nobody waits for more of it than one step.
        let toll = &core.background.flush_toll;
        if !self.note_pages(core)? {
            toll.pay(core.options.step_bytes);
            return Ok(false);
        }
        let adopted_pages = mem::take(&mut self.pages);
        let flushed = Some((self.slot.clone(), cut));
        install(core, Change { adopted_pages, flushed, ..Change::default() })?;
        toll.pay(core.options.step_bytes);
        tracing::debug!(target: "sapwood::flush", %number, "a large transaction was adopted");
        core.counters.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}
