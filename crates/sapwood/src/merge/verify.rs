//! Checks a state completely: every node, order, count, filter, reference and birth, and that the
//! maps give each page exactly one owner.
//!
//! *Assumes*: nothing of the bytes that are read. *Guarantees*: damage is collected, not stopped
//! at; a node that lies in a promoted range is dead and is not read. Nodes come from the file, not
//! from the cache, unless they were not written yet. *Format*: docs/format.md, sections 2.2 and 4.
//! *Threads*: any; the install lock is held while maps are copied, and never across I/O.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod again;
mod blocks;
#[cfg(feature = "internals")]
mod deaths;
#[cfg(feature = "internals")]
mod held;
mod leaf;
mod problem;
mod read;
mod report;
mod sidecar;
mod space;
#[cfg(test)]
mod tests;
mod walk;

// Tests and tools are the only users of some.
#[allow(unused_imports)]
pub use again::{Meanwhile, Newer, NewerState, Newest};
#[allow(unused_imports)]
pub use blocks::{LiveBlock, LiveBlocks, difference, live_blocks, walk_blocks, walk_blocks_with};
#[cfg(feature = "internals")]
#[allow(unused_imports)]
pub use deaths::{DeathCheck, DeathFindings};
#[cfg(feature = "internals")]
#[allow(unused_imports)]
pub use held::{HeldCheck, HeldLook};
#[allow(unused_imports)]
pub use problem::{PROBLEMS_MAX, Problem};
pub use report::VerifyReport;
pub use space::StateOwners;

use crate::error::{Error, Result};
use crate::page::PageManager;
use crate::state::{Contents, Core};

use problem::Problems;
use space::{Moment, charge_sets, check_owners, check_referenced};
use walk::{Walk, WalkCounts, walk_contents};

/// Told how many pages are done and how many there are; false cancels.
pub type Report<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Whether blocks that nobody accounts for are damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// No step, commit or durable state is under way: every page that is given out has an owner.
    Quiet,
    /// Steps may be under way, and what they have written so far has no owner yet.
    Busy,
    /// What the database itself knows of its steps decides.
    Unknown,
}

/// Checks the current state of an open database, which goes on meanwhile.
///
/// # Errors
/// `Cancelled`. Damage is in the report.
pub fn verify(core: &Core, progress: &mut Report<'_>) -> Result<VerifyReport> {
    verify_with(core, Activity::Unknown, progress)
}

/// The same, with what the caller knows of steps under way.
///
/// # Errors
/// `Cancelled`.
pub fn verify_with(
    core: &Core,
    activity: Activity,
    progress: &mut Report<'_>,
) -> Result<VerifyReport> {
    let _charge = charge_sets(&core.pages);
    let moment = Moment::take(core);
    let mut problems = Problems::default();
    let mut counts = walk(&core.pages, &moment.state, true, &mut problems, progress)?;
    let mut report = VerifyReport::new(&core.pages, &moment.state, &counts);
    if let Err(problem) = core.pages.allocator().check_maps() {
        problems.push(Problem::from(&problem));
        report.take(problems);
        return Ok(report);
    }
    let (referenced, log) = (&moment.referenced, &moment.log);
    let live = std::mem::take(&mut counts.live);
    check_referenced(live, referenced, log, counts.unreadable, &mut problems);
    report.referenced_pages = referenced.page_count();
    // Held no longer, so that what has died meanwhile is where it belongs.
    drop(moment);
    let owners = check_owners(core, activity, &mut report.unowned_pages, &mut problems);
    (report.held_pages, report.busy) = owners;
    report.space_checked = true;
    report.take(problems);
    Ok(report)
}

/// Checks a state of a file that is not open as a database: the last durable one. Without `owners`
/// the maps are left out, as when they cannot be read.
///
/// # Errors
/// `Cancelled`. Damage is in the report.
pub fn verify_state(
    pages: &PageManager,
    contents: &Contents,
    owners: Option<&StateOwners>,
    progress: &mut Report<'_>,
) -> Result<VerifyReport> {
    // Nothing is newer than what nobody writes.
    let mut newest = |_| Newer::Same;
    verify_written(pages, contents, owners, 0, &mut newest, progress).map(|(report, _)| report)
}

/// The same beside a process that may write the file: of which generation the state is, and who
/// knows of newer ones. When there is one at the end, the maps are left out.
///
/// # Errors
/// `Cancelled`. Damage is in the report.
pub fn verify_written(
    pages: &PageManager,
    contents: &Contents,
    owners: Option<&StateOwners>,
    generation: u64,
    newest: &mut Newest<'_>,
    progress: &mut Report<'_>,
) -> Result<(VerifyReport, Meanwhile)> {
    let _charge = charge_sets(pages);
    let mut problems = Problems::default();
    let mut ignored = |_: &LiveBlock| {};
    let mut walk = Walk::new(pages, contents, true, &mut problems, progress, &mut ignored);
    walk.newest = Some((generation, newest));
    if let Err(walk::Cancelled) = walk_contents(&mut walk, contents) {
        return Err(Error::Cancelled);
    }
    let moved = !matches!(walk.newer(), Newer::Same);
    let mut counts = walk.counts;
    let unjudged = std::mem::take(&mut counts.unjudged);
    let (replaced, given_up) = (counts.replaced, counts.given_up);
    let meanwhile = Meanwhile { moved, replaced, given_up, unjudged };
    let mut report = VerifyReport::new(pages, contents, &counts);
    if let Some(owners) = owners.filter(|_| !moved) {
        let referenced = pages.allocator().referenced_set();
        let others: Vec<_> = owners.log.iter().chain(&owners.state).copied().collect();
        let live = std::mem::take(&mut counts.live);
        check_referenced(live, &referenced, &others, counts.unreadable, &mut problems);
        report.referenced_pages = referenced.page_count();
        report.space_checked = true;
    }
    report.take(problems);
    Ok((report, meanwhile))
}

fn walk(
    pages: &PageManager,
    contents: &Contents,
    values: bool,
    problems: &mut Problems,
    progress: &mut Report<'_>,
) -> Result<WalkCounts> {
    let mut ignored = |_: &LiveBlock| {};
    let mut walk = Walk::new(pages, contents, values, problems, progress, &mut ignored);
    match walk_contents(&mut walk, contents) {
        Ok(()) => Ok(walk.counts),
        Err(walk::Cancelled) => Err(Error::Cancelled),
    }
}
