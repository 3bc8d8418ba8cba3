//! Slows writers in proportion to merge debt, and makes room where they cannot go on without.
//!
//! *Guarantees*: with room there is no wait at all. A writer waits for at most one step, or, when
//! it brings more than a step takes away, or all who write bring more together, for as many steps
//! as take that away; for flushes and for promotions each. So memtables take at most what three of
//! them may: two, and what is brought while the flush of the older one, which then runs step by
//! step, comes to its end; and what waits to be merged is bounded however much one commit brings,
//! and however many there are. The same holds where large values that the log names would make the
//! file longer: until a durable state has passed them, each commit makes its step of the flush.
//! Where the log is full of what the last durable state has not, a writer waits for the next one,
//! which is made once for all who wait: that is the device's time, and no step. Only where the file
//! cannot grow, memtables are flushed for that, one after the other, until there is room.
//! *Threads*: writers, before they take the commit lock.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::log::buffer::DIRECT_BYTES_MAX;
use crate::state::Core;
use crate::state::durable::{Purpose, make_durable, make_durable_unless};
use crate::state::reserve::{
    Brings, Grant, Standing, flush_bytes, has_room, is_hopeless, make_room, names_much,
    note_hopeless, promise, set_short,
};
use crate::state::toll::Toll;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::KeyspaceNumber;

use super::adopt;
use super::debt::{Debt, YOUNG_DEBT_MAX};
use super::step::{
    LOOK_AGAIN, Turn, flush_for_log, flush_step, free_dead, make_durable_if,
    make_durable_when_due_and_room, merging_step_or_wait, seal_when_quiet, step_or_wait,
};

/// Below this debt writers are not slowed.
const DEBT_FREE: f64 = 0.5;
/// What a writer waits for each KiB at full debt: about what merging takes for it.
const SLOW_PER_KIB: Duration = Duration::from_micros(25);
/// The longest that one commit is slowed.
const SLOW_MAX: Duration = Duration::from_millis(20);

/// A commit of at most this part of a step waits for one step, as long as promotions pay for all.
/// Merging writes about so many bytes for each that is committed, see
/// [`super::debt::YOUNG_MERGE_COUNT`].
const FREE_PART: u64 = 4;
/// A promotion pays for this part of its bytes. Small memtables above a longer last level took
/// seven bytes of promotions for each that was committed; there may be worse.
const PAID_PART: u64 = 16;

/// So many memtables' worth of memory may be taken.
pub(super) const MEMTABLES_MAX: usize = 3;

/// The log's memory takes this part of the budget before the next large record waits: one that
/// takes a quarter of it, as it may, fits beside three memtables and what else there is.
const LOG_BUFFER_PART: u64 = 16;

/// So much must wait in memory for a flush to be worth while when space is short.
const RELIEF_BYTES_MIN: usize = 256 << 10;

/// So often at most it is looked again when nothing could be done for room and others had come in
/// between.
const LOOKS_MAX: u32 = 16;

/// So often a record that finds no room has the log grow for it before anything is flushed: others
/// may take what it has grown by.
const GROWTHS_MAX: u32 = 2;

/// Called before a commit of `bytes` in memory, which are about `encoded_bytes` in the file.
///
/// # Errors
/// `NoSpace` when the reserve must not be used for it; or when a step that it had to wait for
/// failed.
pub fn before_commit(
    core: &Arc<Core>,
    bytes: usize,
    encoded_bytes: usize,
    brings: Brings,
) -> Result<()> {
    let has_waited = flush_what_is_named(core, brings, encoded_bytes)?;
    admit(core, brings, encoded_bytes)?;
    pay_debt(core, bytes as u64, bytes as u64, has_waited)
}

/// The same for a value that was written already, in blocks of `named_bytes`.
///
/// # Errors
/// As [`before_commit`].
pub fn before_commit_of_value(core: &Arc<Core>, bytes: usize, named_bytes: usize) -> Result<()> {
    let has_waited = flush_what_is_named(core, Brings::Data, bytes.saturating_add(named_bytes))?;
    admit(core, Brings::Data, bytes)?;
    pay_debt(core, bytes as u64, bytes as u64, has_waited)
}

/// Called before a commit whose `bytes` lie in segments already.
///
/// # Errors
/// As [`before_commit`].
pub fn before_commit_by_reference(core: &Arc<Core>, bytes: u64) -> Result<()> {
    admit(core, Brings::Deletions, 0)?;
    pay_debt(core, 0, bytes, false)
}

/// Waits as debt asks whoever brings so many bytes to memtables and to segments, and may have
/// waited for the flush already.
fn pay_debt(core: &Arc<Core>, to_memory: u64, to_segments: u64, has_waited: bool) -> Result<()> {
    seal_when_full(core);
    let owed = debt_of(core);
    if owed.felt() >= 1.0 {
        let begun = core.clock.now();
        // Each by itself: who fills memtables fast would never wait for merging otherwise.
        let mut waited = Ok(());
        if owed.of_merging() >= 1.0 {
            waited = wait_for_merging(core, to_segments);
        }
        if waited.is_ok() && !has_waited && debt_of(core).memory >= 1.0 {
            waited = wait_for_flush(core, &core.background.flush_toll, to_memory, &|| false);
        }
        tell_waited(core, begun, owed);
        return waited;
    }
    let slow = slowed_by(owed.felt(), to_segments);
    if !slow.is_zero() && core.background.has_threads.load(Ordering::Acquire) {
        let micros = slow.as_micros() as u64;
        core.counters.slowed_microseconds.fetch_add(micros, Ordering::Relaxed);
        let debt = owed.felt();
        tracing::debug!(target: "sapwood::stall", micros, debt, "a commit is slowed");
        core.clock.sleep(slow);
    }
    Ok(())
}

fn tell_waited(core: &Core, begun: Duration, owed: Debt) {
    let micros = core.clock.now().saturating_sub(begun).as_micros() as u64;
    let debt = owed.felt();
    tracing::info!(target: "sapwood::stall", micros, debt, "a commit waited for a step");
}

/// Where the file would have to grow soon for values that the log names, and that are owed twice
/// until then: steps of the flush behind which a durable state passes them, as many as take away
/// what is brought. True when there was one. Not all at once: what else lies in memory may take a
/// flush of many steps. Since each commit makes its step, no more comes meanwhile than was looked
/// ahead for, and what is named stays bounded.
fn flush_what_is_named(core: &Arc<Core>, brings: Brings, bytes: usize) -> Result<bool> {
    if !is_named_due(core, brings, bytes) {
        return Ok(false);
    }
    let (begun, owed) = (core.clock.now(), debt_of(core));
    let steps = || core.background.flush_steps.load(Ordering::Acquire);
    let before = steps();
    // Without space for a step it is for the question of room to say what becomes of the commit;
    // and where the flush fails otherwise, for debt: as long as there is room nobody need fail.
    if let Err(error) = try_flush_what_is_named(core, brings, bytes) {
        core.log_named.pass_no_more();
        core.check_writable()?;
        if !error.is_no_space() {
            core.background.fail_beside(&error);
        }
    }
    let has_stepped = steps() > before;
    if has_stepped {
        tell_waited(core, begun, owed);
    }
    Ok(has_stepped)
}

fn try_flush_what_is_named(core: &Arc<Core>, brings: Brings, bytes: usize) -> Result<()> {
    core.check_writable()?;
    // What others have flushed is free behind a durable state, which is the device's time.
    pass_what_is_named(core)?;
    if !is_named_due(core, brings, bytes) {
        return Ok(());
    }
    let has_sealed = || !core.view().sealed.is_empty();
    let sealed_cut = || core.view().sealed.first()?.cut.get().map(|cut| cut.position);
    // What is sealed already may lie before all that is named.
    let passes = || sealed_cut().is_some_and(|cut| core.log_named.would_pass(cut));
    if !passes() {
        let _order = core.commit_order.lock();
        if !passes() {
            core.seal();
        }
    }
    // Not further than where it began, or it would never end where memtables keep coming.
    if !core.log_named.is_passing()
        && let Some(cut) = sealed_cut().filter(|cut| *cut > core.durable.cut())
    {
        core.log_named.pass_until(cut);
    }
    let is_due = || has_sealed() && is_named_due(core, brings, bytes);
    wait_for_flush(core, &core.background.named_toll, bytes as u64, &is_due)?;
    pass_what_is_named(core)
}

/// Whether a commit of so many bytes should wait for a step since values are owed twice. Once the
/// file would have to grow for what comes while they are flushed, every commit does until a durable
/// state has passed them: the file may have grown meanwhile, and by much at once, and what others
/// bring besides takes the room that they would leave.
fn is_named_due(core: &Core, brings: Brings, bytes: usize) -> bool {
    if !core.reserve.is_kept() {
        return false;
    }
    core.log_named.is_passing()
        || names_much(core) && !has_room(core, brings, bytes_while_flushed(core, bytes))
}

/// What comes until all that lies in memory is flushed, if each commit brings so many bytes and
/// makes its step: twice, as it is written and owed.
fn bytes_while_flushed(core: &Core, bytes: usize) -> usize {
    let step = usize::try_from(core.options.step_bytes).unwrap_or(usize::MAX).max(1);
    let written = usize::try_from(flush_bytes(core)).unwrap_or(usize::MAX);
    let steps = written / step + 2 + adopt::steps_ahead(core);
    bytes.saturating_add(steps.saturating_mul(bytes.min(step))).saturating_mul(2)
}

/// Makes a state durable when it passes blocks that the log names.
fn pass_what_is_named(core: &Core) -> Result<()> {
    make_durable_if(core, || core.log_named.would_pass(core.state().cut.position))
}

/// How long a commit of `bytes` waits at a debt below the full one, at which it waits for steps.
fn slowed_by(debt: f64, bytes: u64) -> Duration {
    let share = ((debt - DEBT_FREE) / (1.0 - DEBT_FREE)).clamp(0.0, 1.0);
    SLOW_PER_KIB.mul_f64(share * bytes as f64 / 1024.0).min(SLOW_MAX)
}

/// Makes room for a commit, if only by what is due anyway: flushes, merges, a durable state, a
/// shorter log. It is refused when nothing of that can be done and nobody is at it (F5).
///
/// # Errors
/// `NoSpace` when there is none: nothing was promised.
pub fn admit(core: &Arc<Core>, brings: Brings, bytes: usize) -> Result<()> {
    let refusal = make_room_unless_full(core, brings, bytes)?;
    if let Some(refusal) = refusal {
        // A snapshot may hold all: then thousands of deletions are refused, one after the other.
        if is_hopeless(core) {
            return Err(refusal);
        }
    } else {
        // Not at the first hole: what is short now would be short again with the next commit.
        let ahead = bytes.saturating_add(core.reserve.plenty_bytes());
        let was_short = brings == Brings::Data && core.reserve.is_short();
        if was_short && make_room_unless_full(core, brings, ahead)?.is_none() {
            set_short(core, false);
        }
        return Ok(());
    }
    set_short(core, true);
    core.background.notify();
    // Not only for one deletion: each would make a step of its own.
    let ahead = match brings {
        Brings::Data => bytes,
        Brings::Deletions | Brings::Drop => bytes.saturating_add(RELIEF_BYTES_MIN),
    };
    let mut looks = 0;
    while looks < LOOKS_MAX {
        let before = Standing::of(core);
        if relieve(core)? {
            if has_room(core, brings, ahead) {
                return Ok(());
            }
        } else if before.is_some() && Standing::of(core) == before {
            break;
        } else {
            // Others were at work, or something has come back since it was looked at.
            looks += 1;
        }
    }
    note_hopeless(core);
    make_room_unless_full(core, brings, bytes)?.map_or(Ok(()), Err)
}

/// Room for what is written before its commit takes its place.
///
/// # Errors
/// As [`admit`].
pub fn admit_ahead(core: &Arc<Core>, brings: Brings, bytes: usize) -> Result<Grant> {
    make_durable_when_due_and_room(core)?;
    loop {
        admit(core, brings, bytes)?;
        if let Some(grant) = promise(core, brings, bytes) {
            return Ok(grant);
        }
    }
}

/// The refusal, if there is no room.
fn make_room_unless_full(core: &Core, brings: Brings, bytes: usize) -> Result<Option<Error>> {
    match make_room(core, brings, bytes) {
        Ok(()) => Ok(None),
        Err(error @ Error::NoSpace { .. }) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// Does one thing by which space may come back, or waits for somebody who is at one; false when
/// there is none, or the step that was due found no space itself.
fn relieve(core: &Arc<Core>) -> Result<bool> {
    core.check_writable()?;
    core.collect_released();
    // Not one for each commit of others: each flush writes some pages, however little it has.
    let may_seal = || core.view().sealed.len() < MEMTABLES_MAX;
    if core.memtable_bytes() >= RELIEF_BYTES_MIN && may_seal() && seal_when_quiet(core) {
        return Ok(true);
    }
    let mark = core.background.mark();
    match step_or_wait(core)? {
        Turn::Made | Turn::Waited(None) => return Ok(true),
        Turn::Waited(Some(_)) => return Ok(false),
        // Nor does it help to wait for what cannot be read.
        Turn::Nothing(_) => {}
    }
    if flush_waits(core) {
        core.background.wait_since(mark, LOOK_AGAIN);
        return Ok(true);
    }
    // What only the last durable state needs is free with the next; and what lies in memory may
    // delete what takes most.
    let is_durable = core.durable.holds_current(&core.state());
    if !is_durable && done_unless_full(make_durable(core, Purpose::Running))? {
        return Ok(true);
    }
    if may_seal() && seal_when_quiet(core) {
        return Ok(true);
    }
    // The log has grown with what was written, and goes back to its least length.
    let is_small = core.durable.is_settled(&core.state(), &core.log.positions());
    Ok(!is_small && done_unless_full(make_durable(core, Purpose::Idle))?)
}

/// A memtable is sealed of which a commit is not visible yet: its own committer is at it.
fn flush_waits(core: &Core) -> bool {
    let view = core.view();
    let cut = view.sealed.last().and_then(|slot| slot.cut.get());
    cut.is_some_and(|cut| cut.sequence > core.visible())
}

/// False when it found no space.
fn done_unless_full<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(Error::NoSpace { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until any step has ended, and until promotions have paid for what is brought beyond one;
/// or makes them when there are no threads. When one fails instead, so does the commit: none might
/// succeed for as long as it waits. But what has been admitted is not refused because a step found
/// no space (F5), and does not wait for the next try.
fn wait_for_merging(core: &Arc<Core>, bytes: u64) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    let free = core.options.step_bytes / FREE_PART;
    let toll = &core.background.merge_toll;
    let ticket = toll.bring(bytes);
    let steps = core.background.steps.load(Ordering::Acquire);
    let failures = core.background.failure_count();
    loop {
        core.check_writable()?;
        let mark = core.background.mark();
        let has_stepped = core.background.steps.load(Ordering::Acquire) != steps;
        let owed = debt_of(core);
        if has_stepped && toll.is_paid(ticket, free) && owed.young < YOUNG_DEBT_MAX {
            return Ok(());
        }
        let outcome = if owed.of_merging() < 1.0 {
            Some(Ok(()))
        } else if core.background.has_threads.load(Ordering::Acquire) {
            wait_for_threads(core, mark, failures)
        } else {
            merge_for_room(core)
        };
        if let Some(outcome) = outcome {
            toll.forgive(ticket);
            // What failed may concern one keyspace, whose backlog is nobody else's from now on.
            return if debt_of(core).of_merging() < 1.0 { Ok(()) } else { outcome };
        }
    }
}

/// Whether a commit may bring more to a keyspace; asked under the commit lock. Where merging cannot
/// go on, nobody waits for what waits there: so there is no more of it than would stop writers
/// elsewhere.
///
/// # Errors
/// Why the keyspace cannot be merged.
pub fn check_held_up(core: &Core, keyspace: KeyspaceNumber) -> Result<()> {
    let damaged = &core.background.damaged;
    let Some(error) = damaged.error_of(keyspace) else { return Ok(()) };
    let (_, held_up) = damaged.backlog_of(&core.state());
    if Debt::of(held_up, 0, 1).of_merging() >= 1.0 { Err(error) } else { Ok(()) }
}

/// Waits for the merge threads; how the commit goes on when they cannot help it.
fn wait_for_threads(core: &Core, mark: u64, failures: u64) -> Option<Result<()>> {
    if let Some(Error::NoSpace { .. }) = core.background.failure() {
        return Some(Ok(()));
    }
    let failed = core.background.failure_since(failures);
    if failed.is_none() {
        core.background.wait_since(mark, LOOK_AGAIN);
    }
    failed.map(Err)
}

/// Makes a step; how the commit goes on when none can be made.
fn merge_for_room(core: &Arc<Core>) -> Option<Result<()>> {
    match merging_step_or_wait(core) {
        Ok(Turn::Made | Turn::Waited(None)) => None,
        Ok(Turn::Nothing(_) | Turn::Waited(Some(_))) => Some(Ok(())),
        Err(error) => Some(Err(error)),
    }
}

/// What a promotion pays for, in bytes of commits, that may have taken away or written so many
/// bytes; more than a step is meant to take pay for no more. It is less than merging takes away in
/// the end, so that debt falls until nobody need pay.
pub(super) fn paid_by_promotion(core: &Core, bytes: u64) -> u64 {
    bytes.min(core.options.step_bytes) / PAID_PART
}

/// Waits for steps of the flush, as many as take away what is brought, while memtables take too
/// much or it is due for another reason; makes one where nobody is at it.
fn wait_for_flush(
    core: &Arc<Core>,
    toll: &Toll,
    bytes: u64,
    is_due: &dyn Fn() -> bool,
) -> Result<()> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    let flush_steps = || core.background.flush_steps.load(Ordering::Acquire);
    let begun = flush_steps();
    let ticket = toll.bring(bytes);
    loop {
        core.check_writable()?;
        let mark = core.background.mark();
        if flush_steps() > begun && toll.is_paid(ticket, core.options.step_bytes) {
            return Ok(());
        }
        // What merging owes besides is not what it waits for: no flush would pay that.
        if debt_of(core).memory < 1.0 && !is_due() {
            toll.forgive(ticket);
            return Ok(());
        }
        // Several who came at once may have filled it again.
        seal_when_full(core);
        let made = flush_step(core).or_else(|error| free_dead(core, error));
        match made.inspect_err(|_| toll.forgive(ticket))? {
            true => core.background.step_ended(),
            // Another thread is at it, or its last commit is on its way to the disk.
            false => core.background.wait_since(mark, LOOK_AGAIN),
        }
    }
}

fn debt_of(core: &Core) -> Debt {
    Debt::of(core.backlog(), core.memtable_bytes(), core.memtable_bytes_max())
}

/// Whether a commit of so many bytes would take memtables beyond what three of them may have.
/// Several who were let in at once may have filled what there was. Asked under the commit lock.
pub fn is_memory_full(core: &Core, bytes: usize) -> bool {
    let held = core.memtable_bytes();
    held.saturating_add(bytes) > core.memtable_bytes_max().saturating_mul(MEMTABLES_MAX)
        && held > core.memtable_bytes_max()
}

/// Whether a record of so many bytes would lie in memory beside too many that the system does not
/// have yet. Who brings little has waited for its own before: only large ones pile up. Asked under
/// the commit lock.
pub fn is_log_behind(core: &Core, bytes: usize) -> bool {
    let few = DIRECT_BYTES_MAX.max(core.options.memory_budget / LOG_BUFFER_PART);
    bytes as u64 > DIRECT_BYTES_MAX
        && match core.log.unwritten_bytes() {
            // Small commits are always on their way: it would wait for as long as they come.
            0..=DIRECT_BYTES_MAX => false,
            unwritten => unwritten.saturating_add(bytes as u64) > few,
        }
}

/// Waits until flushes have made room for a commit of so many bytes.
///
/// # Errors
/// When a flush fails.
pub fn wait_for_memory(core: &Arc<Core>, bytes: usize) -> Result<()> {
    seal_when_full(core);
    wait_for_flush(core, &core.background.flush_toll, bytes as u64, &|| false)
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

/// Makes room in the log, after a record found none. False when there is none still, or others have
/// taken it already: so many times in vain is `attempt`.
///
/// # Errors
/// `NoSpace`, when the reserve would have to be used for it; or when the state cannot be made
/// durable.
pub fn make_room_in_log(
    core: &Arc<Core>,
    attempt: u32,
    needed: u64,
    brings: Brings,
) -> Result<bool> {
    core.counters.stalls.fetch_add(1, Ordering::Relaxed);
    let begun = core.clock.now();
    let wanted = match attempt {
        0 => 0,
        _ => make_place_in_log(core, attempt, needed, brings)?,
    };
    // Others may have waited for the same: whoever comes first makes room for all that fits.
    make_durable_unless(core, Purpose::Running, || {
        let has_room = core.log.available() >= needed;
        if !has_room {
            core.durable.want_room(wanted);
        }
        has_room
    })?;
    // No step: whoever waits for one waits for merging.
    core.background.notify();
    let micros = core.clock.now().saturating_sub(begun).as_micros() as u64;
    tracing::info!(
        target: "sapwood::stall",
        micros,
        bytes = needed,
        "a commit waited for room in the log"
    );
    Ok(core.log.available() >= needed)
}

/// Sees to it that the log may grow by so many bytes, or has them already, after a durable state
/// alone was not enough. Returns by how many it should grow.
fn make_place_in_log(core: &Arc<Core>, attempt: u32, needed: u64, brings: Brings) -> Result<u64> {
    // The record's place in the log and, later, what it brings.
    let brought = |bytes: u64| usize::try_from(bytes.saturating_mul(2)).unwrap_or(usize::MAX);
    // Nobody brings more than memtables take, so the log need not hold more than a few of them.
    let held = core.log.positions().end.0.saturating_sub(core.state().cut.position.0);
    let is_short = held.saturating_add(needed) <= core.options.memory_budget;
    if attempt <= GROWTHS_MAX && is_short {
        // Not for each small record by itself: each growth takes a durable state. But what merges
        // need is not for more than the record.
        let ahead = if brings == Brings::Data { core.options.step_bytes } else { 0 };
        for bytes in [needed.max(ahead), needed] {
            if make_room_unless_full(core, brings, brought(bytes))?.is_none() {
                return Ok(bytes);
            }
        }
    }
    // The file does not grow for it: what the log holds must go to segments.
    flush_for_log(core, needed)?;
    if core.log.available() < needed {
        admit(core, brings, brought(needed))?;
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_slowed_in_proportion_to_debt_and_to_what_it_brings() {
        assert!([0.0, 0.3, DEBT_FREE].iter().all(|debt| slowed_by(*debt, 1 << 20).is_zero()));
        let (little, much) = (slowed_by(0.6, 100 << 10), slowed_by(0.8, 100 << 10));
        let micros = |slow: Duration| slow.as_micros() as i64;
        assert!((micros(little) - 500).abs() <= 1, "a fifth of 25 us for each KiB: {little:?}");
        assert!((micros(much) - 3 * micros(little)).abs() <= 3, "{much:?}");
        assert!((micros(slowed_by(0.8, 10 << 10)) * 10 - micros(much)).abs() <= 10);
        assert_eq!(slowed_by(0.99, 1 << 30), SLOW_MAX);
    }
}
