//! A dropped keyspace leaves in bounded steps: range by range, out of one segment after the other.
//!
//! *Guarantees*: G7, G8: a step reads the parents of a bounded part of a segment, outside the
//! install lock; what has left counts as promoted, so that a crash goes on where it was, and
//! nobody frees it twice. *Threads*: any; one at a time for each keyspace, which is reserved whole.

use crate::error::Result;
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::Segment;
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::state::background::LEVELS_ALL;
use crate::state::damaged::Work;
use crate::state::dead_list::Dead;
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

use super::install::{Change, install};
use super::overflow_walk::overflow_blocks;
use super::passed_over::PassedOver;
use super::stretch::end_after;

/// A step takes so many times the pages that a promotion writes, since it reads parents alone.
const STEPS_AT_ONCE: u64 = 8;

/// A range of a segment of a dropped keyspace that leaves, with what dies in it.
#[derive(Debug)]
pub struct Leaving {
    /// The segment's number.
    pub segment: u64,
    /// Nothing of it was promoted before.
    pub range: KeyRange,
    /// All that lay in it alone.
    pub died: Vec<Dead>,
    /// The leaves among that.
    pub leaf_count: u64,
}

/// True when a keyspace has been dropped, and its levels are still leaving: no promotion may come
/// into them.
pub fn is_leaving(state: &State, keyspace: KeyspaceNumber) -> bool {
    state.is_dropped(keyspace) && state.levels_of(keyspace).is_some()
}

/// One step; false when no keyspace leaves, or somebody works in each that does. In none that is
/// passed over, and those in which something cannot be read are.
///
/// # Errors
/// Any other. It can be made again.
pub fn drop_keyspace_step(core: &Arc<Core>, passed_over: &mut PassedOver) -> Result<bool> {
    let state = core.state();
    for keyspace in state.levels.keys().copied().filter(|number| state.is_dropped(*number)) {
        let task = (keyspace, Work::Leaving);
        if passed_over.has(task) {
            continue;
        }
        match leave(core, keyspace) {
            Ok(true) => {
                core.background.damaged.forget(task);
                return Ok(true);
            }
            Ok(false) => {}
            Err(error) => passed_over.add(core, task, error)?,
        }
    }
    Ok(false)
}

/// One step in one keyspace.
fn leave(core: &Arc<Core>, keyspace: KeyspaceNumber) -> Result<bool> {
    let reservations = &core.background.reservations;
    let Ok(reservation) = reservations.reserve(keyspace, LEVELS_ALL, KeyRange::all()) else {
        return Ok(false);
    };
    // From here on nobody else changes its levels.
    let state = core.state();
    let first = state.levels_of(keyspace).and_then(|levels| levels.iter().next());
    let Some(segment) = first else { return Ok(true) };
    let leaving = next_range(core, keyspace, segment)?;
    drop(state);
    install(core, Change { dropped: Some(leaving), ..Change::default() })?;
    drop(reservation);
    Ok(true)
}

/// The next range of a segment to leave.
fn next_range(core: &Core, keyspace: KeyspaceNumber, segment: &Segment) -> Result<Leaving> {
    let (pages, before) = (&core.pages, &*segment.promoted);
    let gap = before.gaps_in(&KeyRange::all()).into_iter().next().unwrap_or_else(KeyRange::all);
    let page_size = u64::from(pages.layout().page_size);
    let pages_max = (core.options.step_bytes / page_size).max(8) * STEPS_AT_ONCE;
    let end = match &segment.points {
        Some(root) => end_after(pages, keyspace, root, before, &gap, pages_max)?,
        None => None,
    };
    let range = KeyRange { start: gap.start, end: end.or(gap.end) };
    let mut after = before.clone();
    after.insert(range.clone());
    let (mut died, mut leaf_count) = (Vec::new(), 0);
    if let Some(root) = &segment.points {
        died.extend(overflow_blocks(pages, root, keyspace, before, &after)?);
        let covered = newly_covered(pages, keyspace, root, before, &after)?;
        leaf_count = covered.leaf_count;
        died.extend(covered.nodes.into_iter().map(|(block, birth)| Dead::node(block, birth)));
    }
    if after.covers(&KeyRange::all())
        && let Some(root) = &segment.ranges
    {
        // Range tombstones reach over the borders of leaves, so their tree goes as one.
        let covered = newly_covered(pages, keyspace, root, &KeyRanges::new(), &after)?;
        died.extend(covered.nodes.into_iter().map(|(block, birth)| Dead::node(block, birth)));
    }
    Ok(Leaving { segment: segment.number, range, died, leaf_count })
}
