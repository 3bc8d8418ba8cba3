//! Slows writers in proportion to merge debt, and makes room where they cannot go on without.
//!
//! *Guarantees*: with room there is no wait at all. A writer waits for at most one step, or, when
//! it brings more than a step takes away, for one step for each step's worth that it brings. So
//! memtables take at most what three of them may: two, and what is brought while the flush of the
//! older one, which then runs step by step, comes to its end.
//! *Threads*: writers, before they take the commit lock.

use std::time::Duration;

use crate::error::Result;
use crate::state::Core;
use crate::state::durable::{Purpose, make_durable};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

use super::debt::Debt;
use super::step::{LOOK_AGAIN, flush_all_so_far, flush_step, run_step};

/// Below this debt writers are not slowed.
const DEBT_FREE: f64 = 0.5;
/// What a writer waits for each KiB at full debt: about what merging takes for it.
const SLOW_PER_KIB: Duration = Duration::from_micros(25);
/// The longest that one commit is slowed.
const SLOW_MAX: Duration = Duration::from_millis(20);

/// Called before a commit of `bytes`.
///
/// # Errors
/// When a step that it had to wait for failed.
pub fn before_commit(core: &Arc<Core>, bytes: usize) -> Result<()> {
    seal_when_full(core);
    let owed = debt_of(core);
    if owed.felt() >= 1.0 {
        let begun = core.clock.now();
        let waited = match owed.memory >= 1.0 {
            true => wait_for_flush(core, bytes as u64),
            false => wait_for_step(core),
        };
        let micros = core.clock.now().saturating_sub(begun).as_micros() as u64;
        let owed = owed.felt();
        tracing::info!(target: "sapwood::stall", micros, debt = owed, "a commit waited for a step");
        return waited;
    }
    if owed.felt() > DEBT_FREE {
        let share = (owed.felt() - DEBT_FREE) / (1.0 - DEBT_FREE);
        let slow = SLOW_PER_KIB.mul_f64(share * bytes as f64 / 1024.0).min(SLOW_MAX);
        if core.background.has_threads.load(Ordering::Acquire) {
            let micros = slow.as_micros() as u64;
            core.counters.slowed_microseconds.fetch_add(micros, Ordering::Relaxed);
            let debt = owed.felt();
            tracing::debug!(target: "sapwood::stall", micros, debt, "a commit is slowed");
            core.clock.sleep(slow);
        }
    }
    Ok(())
}

/// Waits until any step has ended, or makes one when there are no threads. When one fails instead,
/// so does the commit: none might succeed for as long as it waits.
fn wait_for_step(core: &Arc<Core>) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    if !core.background.has_threads.load(Ordering::Acquire) {
        run_step(core)?;
        return Ok(());
    }
    let steps = core.background.steps.load(Ordering::Acquire);
    let failures = core.background.failure_count();
    loop {
        core.check_writable()?;
        let mark = core.background.mark();
        if core.background.steps.load(Ordering::Acquire) != steps || debt_of(core).felt() < 1.0 {
            return Ok(());
        }
        if core.background.failure_count() != failures
            && let Some(error) = core.background.failure()
        {
            return Err(error);
        }
        core.background.wait_since(mark, LOOK_AGAIN);
    }
}

/// Waits for steps of the flush, as many as `bytes` are worth; makes one where nobody is at it.
fn wait_for_flush(core: &Arc<Core>, bytes: u64) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    let worth = 1 + bytes / core.options.step_bytes.max(1);
    let flush_steps = || core.background.flush_steps.load(Ordering::Acquire);
    let enough = flush_steps() + worth;
    loop {
        core.check_writable()?;
        let mark = core.background.mark();
        // What merging owes besides is not what it waits for: no flush would pay that.
        if flush_steps() >= enough || debt_of(core).memory < 1.0 {
            return Ok(());
        }
        // Several who came at once may have filled it again.
        seal_when_full(core);
        match flush_step(core)? {
            true => core.background.step_ended(),
            // Another thread is at it, or its last commit is on its way to the disk.
            false => core.background.wait_since(mark, LOOK_AGAIN),
        }
    }
}

fn debt_of(core: &Core) -> Debt {
    Debt::of(&core.state(), core.memtable_bytes(), core.memtable_bytes_max())
}

fn seal_when_full(core: &Core) {
    let is_full = || core.view().active.table.bytes() >= core.memtable_bytes_max();
    if is_full() {
        let _order = core.commit_order.lock();
        if is_full() {
            core.seal();
        }
    }
}

/// Makes room in the log, after a record found none.
///
/// # Errors
/// When the state cannot be made durable.
pub fn make_room_in_log(core: &Arc<Core>, attempt: u32, needed: u64) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    let begun = core.clock.now();
    if attempt > 0 {
        // Growing was not enough: what the log holds must go to segments.
        flush_all_so_far(core, &mut || Ok(()))?;
        core.durable.want_room(needed);
    }
    make_durable(core, Purpose::Running)?;
    core.background.step_ended();
    let micros = core.clock.now().saturating_sub(begun).as_micros() as u64;
    tracing::info!(
        target: "sapwood::stall",
        micros,
        bytes = needed,
        "a commit waited for room in the log"
    );
    Ok(())
}
