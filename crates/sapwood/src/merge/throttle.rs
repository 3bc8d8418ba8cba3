//! Slows writers in proportion to merge debt, and makes room where they cannot go on without.
//!
//! *Guarantees*: a writer waits for at most one step at a time; with room there is no wait at all.
//! *Threads*: writers, before they take the commit lock.

use std::time::Duration;

use crate::error::Result;
use crate::state::Core;
use crate::state::durable::{Purpose, make_durable};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

use super::debt::debt;
use super::step::{flush_sealed, run_step};

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
    let max = core.memtable_bytes_max();
    if core.view().active.table.bytes() >= max {
        let _order = core.commit_order.lock();
        if core.view().active.table.bytes() >= max {
            core.seal();
        }
    }
    let owed = debt(&core.state(), core.memtable_bytes(), max);
    if owed >= 1.0 {
        let begun = core.clock.now();
        let waited = wait_for_step(core);
        let micros = core.clock.now().saturating_sub(begun).as_micros() as u64;
        tracing::info!(target: "sapwood::stall", micros, debt = owed, "a commit waited for a step");
        return waited;
    }
    if owed > DEBT_FREE {
        let share = (owed - DEBT_FREE) / (1.0 - DEBT_FREE);
        let slow = SLOW_PER_KIB.mul_f64(share * bytes as f64 / 1024.0).min(SLOW_MAX);
        if core.background.has_threads.load(Ordering::Acquire) {
            let micros = slow.as_micros() as u64;
            core.counters.slowed_microseconds.fetch_add(micros, Ordering::Relaxed);
            tracing::debug!(target: "sapwood::stall", micros, debt = owed, "a commit is slowed");
            core.clock.sleep(slow);
        }
    }
    Ok(())
}

/// Waits until a step has been made, or makes one.
fn wait_for_step(core: &Arc<Core>) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    if !core.background.has_threads.load(Ordering::Acquire) {
        run_step(core)?;
        return Ok(());
    }
    let steps = core.background.steps.load(Ordering::Relaxed);
    let max = core.memtable_bytes_max();
    loop {
        core.check_writable()?;
        let mark = core.background.mark();
        let made = core.background.steps.load(Ordering::Relaxed) != steps;
        let owed = debt(&core.state(), core.memtable_bytes(), max);
        // One step at a time; but memory is a hard bound.
        if owed < 1.0 || (made && core.memtable_bytes() < 2 * max + max / 2) {
            return Ok(());
        }
        core.background.wait_since(mark, Duration::from_millis(20));
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
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        let positions = core.log.positions();
        core.log.write_to(positions.end).map_err(|error| core.stop(&error))?;
        core.publisher.publish(core.log.positions());
        flush_sealed(core)?;
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
