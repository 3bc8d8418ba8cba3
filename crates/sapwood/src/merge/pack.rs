//! Packs leaves in quiet times. A merge writes those leaves anew into which it puts something and
//! leaves the others as they are, so that leaves which lost much, here and there, keep their pages.
//!
//! A *pass* looks at the lowest parents that were born since the last pass, and writes their leaves
//! anew where that takes clearly fewer pages.
//!
//! *Assumes*: nothing is left to merge: each keyspace is one segment. *Guarantees*: it ends: a pass
//! looks at each parent once, and what packing and moving wrote themselves is not looked at, unless
//! something else that nobody has looked at was moved along. A durable state knows how far passes
//! have come. *Threads*: any; one at a time does something.

use crate::error::{Error, Result};
use crate::page::NodeRef;
use crate::segment::coverage::child_range;
use crate::segment::descriptor::TreeRoot;
use crate::segment::key_range::KeyRange;
use crate::segment::node::{ParentNode, read_parent_at};
use crate::segment::parent::UNUSED_PARTS;
use crate::state::Core;
use crate::state::background::{PackPass, ShrinkStage};
use crate::state::durable::Purpose;
use crate::state::reserve::step_pages;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber};

use super::shrink::{is_of_keyspace, move_range};
use super::step::make_durable_now;

/// Leaves are packed where that saves one of so many of their pages.
const SAVED_PART: u128 = 12;

/// How full leaves come out, in thousandths, but for what an entry less leaves.
const FULL_THOUSANDTHS: u128 = 965;

/// So many lowest parents are looked at in one step.
const LOOKS_MAX: usize = 256;

/// One step of a pass. False when nothing is left to look at, a snapshot is held, or another thread
/// is at it.
///
/// # Errors
/// What the step failed with; the pass begins again with what comes next.
pub fn pack(core: &Arc<Core>) -> Result<bool> {
    // What it sees would stay beside what is written.
    if core.snapshots.count() > 0 {
        return Ok(false);
    }
    let epoch = core.state().epoch;
    let mut jobs = core.background.jobs.lock();
    // What is on its way to the front is packed there.
    let is_moving = jobs.shrink.is_out || jobs.shrink.stage != ShrinkStage::Rest;
    let looked = jobs.pack.looked;
    if jobs.pack.is_out || is_moving || looked >= epoch {
        return Ok(false);
    }
    jobs.pack.is_out = true;
    let mut pass = jobs.pack.pass.take().unwrap_or_else(|| PackPass::from(epoch));
    drop(jobs);
    let result = step(core, looked, &mut pass);
    let is_durable = core.durable.holds_current(&core.state());
    let mut jobs = core.background.jobs.lock();
    jobs.pack.is_out = false;
    match result {
        Ok(true) => jobs.pack.pass = Some(pass),
        // What was packed so far leaves room with the next durable state.
        Err(Error::NoSpace { .. }) if !is_durable => {
            jobs.pack.pass = Some(pass);
            drop(jobs);
            make_durable_now(core, Purpose::Idle)?;
            return Ok(true);
        }
        Ok(false) if pass.missed => {}
        // Where there is no room nothing is gained by trying again.
        Ok(false) | Err(Error::NoSpace { .. }) => {
            // What one pass gave up is for the next process, and no later pass looks at it.
            let is_all = jobs.pack.packed == looked && !pass.gave_up && result.is_ok();
            jobs.pack.looked = pass.began;
            if is_all {
                jobs.pack.packed = pass.began;
            }
            jobs.pack.own.forget_up_to(pass.began);
        }
        Err(error) => return Err(error),
    }
    Ok(matches!(result, Ok(true)))
}

/// Whether leaves were written that nobody has looked at: in a file that is opened, too.
pub fn is_due(core: &Core) -> bool {
    let looked = core.background.jobs.lock().pack.looked;
    let state = core.state();
    let mut roots = state.levels.values().filter_map(|levels| levels.last()?.points.as_ref());
    core.snapshots.count() == 0 && roots.any(|root| root.height > 0 && root.birth > looked)
}

/// All leaves are full: whoever has written them put one pair behind the other.
pub fn note_full(core: &Core) {
    core.background.jobs.lock().pack.begin_behind(core.state().epoch);
}

/// Nothing is packed for now: there is no room for the first write after an open.
pub fn give_up(core: &Core) {
    core.background.jobs.lock().pack.looked = core.state().epoch;
}

/// Packs the next leaves, or looks on.
fn step(core: &Arc<Core>, looked: Epoch, pass: &mut PackPass) -> Result<bool> {
    let state = core.state();
    for (number, levels) in state.levels.range(pass.keyspace..) {
        if *number != pass.keyspace {
            (pass.keyspace, pass.from) = (*number, Vec::new());
        }
        let Some(last) = levels.last().filter(|last| last.promoted.is_empty()) else { continue };
        let Some(root) = &last.points else { continue };
        let found = match find_loose(core, *number, root, looked, &pass.from) {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            // Whoever asks for it is told; others need not stay as they are because of this one.
            Err(error) if is_of_keyspace(core, &error) => {
                pass.gave_up |= !matches!(error, Error::Corruption(_));
                continue;
            }
            Err(error) => return Err(error),
        };
        let end = match found {
            Found::Loose(range) => {
                match move_range(core, &state, *number, last, root, &range, None) {
                    Ok(true) => {}
                    Ok(false) => pass.missed = true,
                    Err(error) if is_of_keyspace(core, &error) => {
                        pass.gave_up |= !matches!(error, Error::Corruption(_));
                    }
                    Err(error) => return Err(error),
                }
                range.end
            }
            Found::LookedUpTo(end) => Some(end),
        };
        return Ok(pass.goes_on(end));
    }
    Ok(false)
}

/// What a look at some lowest parents found.
enum Found {
    /// Those of this range could take clearly fewer pages.
    Loose(KeyRange),
    /// Nothing before this key.
    LookedUpTo(Vec<u8>),
}

/// The search for lowest parents with loose leaves.
struct Search<'a> {
    core: &'a Core,
    keyspace: KeyspaceNumber,
    looked: Epoch,
    from: &'a [u8],
    pages_max: u64,
    found: Option<KeyRange>,
    pages: u64,
    looks: usize,
    /// Where it ended before the tree does.
    end: Option<Vec<u8>>,
    done: bool,
}

/// The first run of lowest parents from a key on, born after `looked`, whose leaves could take
/// clearly fewer pages: no more than one behind a step's pages.
fn find_loose(
    core: &Core,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    looked: Epoch,
    from: &[u8],
) -> Result<Option<Found>> {
    if root.height == 0 {
        return Ok(None);
    }
    let pages_max = step_pages(core);
    let (found, pages, looks, end, done) = (None, 0, 0, None, false);
    let mut search =
        Search { core, keyspace, looked, from, pages_max, found, pages, looks, end, done };
    search.visit(&root.reference, root.height, root.birth, &KeyRange::all())?;
    Ok(match (search.found, search.end) {
        (Some(range), _) => Some(Found::Loose(range)),
        (None, Some(end)) => Some(Found::LookedUpTo(end)),
        (None, None) => None,
    })
}

impl Search<'_> {
    fn visit(
        &mut self,
        reference: &NodeRef,
        height: u8,
        birth: Epoch,
        range: &KeyRange,
    ) -> Result<()> {
        // Whatever lies below is as old at least.
        if birth <= self.looked {
            self.done = self.found.is_some();
            return Ok(());
        }
        let node = read_parent_at(&self.core.pages, reference, self.keyspace, height, range)?;
        if height == 1 {
            return self.look_at(&node, birth, range);
        }
        let parent = node.view();
        for index in parent.child_for(self.from)..parent.len() {
            let child = parent.child(index).map_err(|p| node.damage(p))?;
            let below = child_range(&node, index, range)?;
            self.visit(&child.reference, height - 1, child.birth.unwrap_or(birth), &below)?;
            if self.done {
                break;
            }
        }
        Ok(())
    }

    fn look_at(&mut self, node: &ParentNode, birth: Epoch, range: &KeyRange) -> Result<()> {
        let is_own = self.core.background.jobs.lock().pack.own.contains(birth);
        let pages = if is_own { None } else { loose_pages(self.core, node)? };
        self.looks += 1;
        match (&mut self.found, pages) {
            (Some(_), None) => self.done = true,
            (None, None) => {
                self.done = self.looks >= LOOKS_MAX;
                self.end.clone_from(&range.end);
            }
            (found, Some(pages)) => {
                match found {
                    Some(found) => found.end.clone_from(&range.end),
                    None => *found = Some(range.clone()),
                }
                self.pages = self.pages.saturating_add(pages);
                self.done = self.pages >= self.pages_max;
            }
        }
        if !self.done {
            self.end = None;
        }
        Ok(())
    }
}

/// The pages of the leaves of a lowest parent, if they could take clearly fewer.
fn loose_pages(core: &Core, node: &ParentNode) -> Result<Option<u64>> {
    let parts = 2 * UNUSED_PARTS;
    let (mut pages, mut entries, mut used) = (0u64, 0u64, 0u64);
    for index in 0..node.view().len() {
        let child = node.view().child(index).map_err(|p| node.damage(p))?;
        let own = u64::from(child.reference.pages);
        pages = pages.saturating_add(own);
        entries = entries.saturating_add(child.entries);
        // What is not used is rounded down, so it is half a part more on the average.
        used = used.saturating_add(own * (parts - 2 * u64::from(child.unused) - 1));
    }
    let page_size = u64::from(core.pages.layout().page_size);
    let leaf_pages = u128::from((u64::from(core.options.leaf_pages_bytes()) / page_size).max(1));
    let (all, entries, used) = (u128::from(pages), u128::from(entries), u128::from(used));
    let full = leaf_pages * u128::from(parts) * FULL_THOUSANDTHS / 1000;
    // Leaves end between entries: of long ones few fit.
    let per_leaf = entries * full / used.max(1);
    if per_leaf == 0 {
        return Ok(None);
    }
    let leaves = entries.div_ceil(per_leaf);
    let is_loose = leaves * leaf_pages * SAVED_PART <= all * (SAVED_PART - 1);
    Ok(is_loose.then_some(pages))
}
