//! Compaction that somebody asked for: what stands above the last level goes there, range by range,
//! while others read and write.
//!
//! One pass over the keys: each step takes, in its range, all young segments and all segments above
//! the last level at once. So what was flushed when the pass came by lies in the last level behind
//! it, and no tombstone that was there is left.
//!
//! *Assumes*: nothing. *Guarantees*: bounded steps, each a promotion like any other (G1 to G4, I2);
//! between them the pass can be cancelled, and nothing is lost of what was done. It ends, however
//! much is written meanwhile. *Threads*: any number beside one another and beside merges.

use std::cmp::Ordering as Order;

use crate::error::{Error, Result};
use crate::segment::descriptor::{Segment, composite_range};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::state::durable::Purpose;
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::KeyspaceNumber;

use super::plan::{Wanted, plan_whole};
use super::promote::{bare_range, promote};
use super::step::{
    LOOK_AGAIN, Step, Turn, begin_writing, flush_all_so_far, free_dead, make_durable_now,
    make_durable_when_due_and_room, step_or_wait, try_step, turn,
};
use super::stretch::pages_in;

/// Is told bytes done and in all; false ends the pass.
type Report<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Compacts a range of one keyspace, or everything.
///
/// # Errors
/// `Cancelled`; or what a step failed with.
pub fn compact(
    core: &Arc<Core>,
    only: Option<(KeyspaceNumber, KeyRange)>,
    report: Report<'_>,
) -> Result<()> {
    core.check_writable()?;
    let mut pass = Pass { core, report, total: 0, done: 0 };
    // How much there is to do is not known before the memtable is in segments.
    pass.check_goes_on()?;
    begin_writing(core)?;
    pass.flush()?;
    let is_whole = only.is_none();
    let ranges = match only {
        Some(one) => vec![one],
        None => keyspaces(&core.state()).map(|keyspace| (keyspace, KeyRange::all())).collect(),
    };
    let mut lengths = Vec::with_capacity(ranges.len());
    for (keyspace, range) in &ranges {
        lengths.push(bytes_above(core, *keyspace, range)?);
    }
    pass.total = lengths.iter().copied().fold(0, u64::saturating_add);
    let mut before = 0;
    for ((keyspace, range), length) in ranges.iter().zip(lengths) {
        pass.keyspace(*keyspace, range, before, length)?;
        before = u64::saturating_add(before, length);
    }
    pass.done = pass.total;
    pass.check_goes_on()?;
    if is_whole { pass.settle() } else { make_durable_now(core, Purpose::Running) }
}

fn keyspaces(state: &State) -> impl Iterator<Item = KeyspaceNumber> {
    let young = state.young.iter().flat_map(|segment| segment.keyspaces.iter());
    let all = young.map(|share| share.keyspace).chain(state.levels.keys().copied());
    all.collect::<std::collections::BTreeSet<_>>().into_iter()
}

/// What stands above the last level, newest first.
fn sources(state: &State, keyspace: KeyspaceNumber) -> Vec<Arc<Segment>> {
    let young = state.young.iter().filter(|segment| segment.share_of(keyspace).is_some());
    let above = state.levels_of(keyspace).into_iter().flat_map(|levels| levels.above());
    young.chain(above).cloned().collect()
}

/// The bytes of a range that do not lie in the last level, about.
fn bytes_above(core: &Core, keyspace: KeyspaceNumber, range: &KeyRange) -> Result<u64> {
    let mut pages: u64 = 0;
    for source in sources(&core.state(), keyspace) {
        let Some(root) = &source.points else { continue };
        let more = match source.is_young() {
            true => {
                let range = composite_range(keyspace, range);
                let many = KeyspaceNumber::MANY;
                pages_in(&core.pages, many, root, &source.promoted, &range)?
            }
            false => pages_in(&core.pages, keyspace, root, &source.promoted, range)?,
        };
        pages = pages.saturating_add(more);
    }
    Ok(pages.saturating_mul(u64::from(core.pages.layout().page_size)))
}

/// The first part of a range that has not moved out of all of the segments.
fn first_gap(
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Option<KeyRange> {
    let starts = sources.iter().filter_map(|source| match source.is_young() {
        true => {
            let wanted = composite_range(keyspace, range);
            let gap = source.promoted.gaps_in(&wanted).into_iter().next()?;
            Some(bare_range(keyspace, &gap).start)
        }
        false => Some(source.promoted.gaps_in(range).into_iter().next()?.start),
    });
    starts.min().map(|start| KeyRange { start, end: range.end.clone() })
}

/// What came of the attempt at one step.
enum Tried {
    /// The range up to this key is done; `None`: to its end.
    UpTo(Option<Vec<u8>>),
    /// Somebody else works there.
    Busy,
    /// There was no room, and now there is more.
    HasRoom,
}

struct Pass<'a> {
    core: &'a Arc<Core>,
    report: Report<'a>,
    total: u64,
    done: u64,
}

impl Pass<'_> {
    fn check_goes_on(&mut self) -> Result<()> {
        match (self.report)(self.done, self.total) {
            true => Ok(()),
            false => Err(Error::Cancelled),
        }
    }

    /// Brings what is in memory now into segments.
    fn flush(&mut self) -> Result<()> {
        let core = self.core;
        flush_all_so_far(core, &mut || self.check_goes_on())
    }

    fn keyspace(
        &mut self,
        keyspace: KeyspaceNumber,
        range: &KeyRange,
        before: u64,
        length: u64,
    ) -> Result<()> {
        let mut rest = range.clone();
        loop {
            self.core.check_writable()?;
            let mark = self.core.background.mark();
            let mut tried = Tried::Busy;
            let turn = turn(self.core, |core| {
                make_durable_when_due_and_room(core)?;
                tried = self.step_with_room(keyspace, &rest)?;
                // Without threads nobody else would go on with what stands in the way.
                Ok(match tried {
                    Tried::Busy => try_step(core)?.unless_held_up(),
                    _ => Step::Made,
                })
            })?;
            match (turn, tried) {
                (Turn::Made, Tried::UpTo(None)) => {
                    if *range == KeyRange::all() {
                        self.core.background.damaged.forget_all_of(keyspace);
                    }
                    return Ok(());
                }
                (Turn::Made, Tried::UpTo(Some(end))) => {
                    self.core.background.step_ended();
                    rest.start = end;
                }
                (Turn::Made | Turn::Waited(_), _) => {}
                (Turn::Nothing(None), _) => match self.core.background.damaged.error_of(keyspace) {
                    // What stands in the way may stand there for as long as the file is open.
                    Some(error) => return Err(error),
                    None => self.core.background.wait_since(mark, LOOK_AGAIN),
                },
                (Turn::Nothing(Some(error)), _) => return Err(error),
            }
            // Others write meanwhile, so that there may be more than there was.
            let left = bytes_above(self.core, keyspace, &rest)?;
            self.done = self.done.max(before.saturating_add(length.saturating_sub(left)));
            self.check_goes_on()?;
        }
    }

    /// The same as [`Pass::step`]; where that finds no room it can be made again after the durable
    /// state that frees what died.
    fn step_with_room(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> Result<Tried> {
        let made = self.step(keyspace, range);
        made.or_else(|error| free_dead(self.core, error).map(|_| Tried::HasRoom))
    }

    /// Promotes the start of a range, as much as one step may.
    fn step(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> Result<Tried> {
        let core = self.core;
        // Whoever waits for merging is not to find nobody at it.
        let _running = core.background.begin_running();
        let state = core.state();
        if state.is_dropped(keyspace) {
            // It goes as a whole.
            return Ok(Tried::UpTo(None));
        }
        let sources = sources(&state, keyspace);
        let Some(gap) = first_gap(&sources, keyspace, range) else {
            return Ok(Tried::UpTo(None));
        };
        let wanted = Wanted { keyspace, range: gap };
        let Some(plan) = plan_whole(core, &state, &sources, &wanted)? else {
            return Ok(Tried::Busy);
        };
        let end = plan.range.end.clone();
        promote(core, plan)?;
        Ok(Tried::UpTo(match compare_to_end(end.as_deref(), range) {
            Order::Less => end,
            _ => None,
        }))
    }

    /// Merges what else there is, and makes the state durable and the file small; but not for ever
    /// while others write.
    fn settle(&mut self) -> Result<()> {
        let commits = self.core.counters.commits.load(Ordering::Relaxed);
        let _draining = self.core.background.begin_draining();
        self.settle_until(commits)
    }

    fn settle_until(&mut self, commits: u64) -> Result<()> {
        while self.core.counters.commits.load(Ordering::Relaxed) == commits {
            self.core.check_writable()?;
            match step_or_wait(self.core)? {
                Turn::Made => self.check_goes_on()?,
                Turn::Waited(_) => {}
                Turn::Nothing(Some(error)) => return Err(error),
                Turn::Nothing(None) => {
                    return self.core.background.failure().map_or(Ok(()), Err);
                }
            }
        }
        make_durable_now(self.core, Purpose::Running)
    }
}

fn compare_to_end(end: Option<&[u8]>, range: &KeyRange) -> Order {
    match end {
        Some(end) if is_before_end(end, range.end.as_deref()) => Order::Less,
        _ => Order::Equal,
    }
}
