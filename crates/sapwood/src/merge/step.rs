//! What is due, and one bounded step of it. These functions own no thread: merge threads call them,
//! and so does whoever must wait when there are none.
//!
//! *Guarantees*: after a failed step everything is as before and the step can be made again; a
//! failed write or sync stops writing (C4). *Threads*: any number beside one another.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::state::background::Job;
use crate::state::durable::{Purpose, claim_file, make_durable, make_durable_unless};
use crate::state::manifest::YOUNG_COUNT_MAX;
use crate::state::panic_guard::PanicGuard;
use crate::state::reserve::{Brings, has_room, set_short};
use crate::state::{Core, Cut};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::SequenceNumber;

use super::adopt;
use super::debt::Pressure;
use super::drop_keyspace::drop_keyspace_step;
use super::flush;
use super::install::{Change, install};
use super::lists::lists_step;
use super::pack::{self, pack};
use super::passed_over::PassedOver;
use super::plan::next_plan;
use super::promote::promote;
use super::shrink;
use super::tell::tell;
use super::throttle::MEMTABLES_MAX;

/// A state is made durable when so much was written to segments since the last one.
const DURABLE_EVERY_BYTES: u64 = 64 << 20;

/// Writes pause when none came for so long.
const QUIET_AFTER: Duration = Duration::from_millis(500);

/// How long a waiter sleeps before it looks again by itself.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What came of the attempt at one step.
#[derive(Debug)]
pub(super) enum Step {
    /// One was made.
    Made,
    /// Nothing is due that could be done now.
    Nothing,
    /// Nothing but what has just failed in keyspaces of which something cannot be read.
    HeldUp(Error),
}

impl Step {
    /// The same for somebody to whom what cannot be read elsewhere is nothing.
    pub(super) fn unless_held_up(self) -> Step {
        if let Step::HeldUp(_) = self { Step::Nothing } else { self }
    }
}

/// One step of anything that is due; false when nothing is.
///
/// # Errors
/// What the step failed with.
pub fn run_step(core: &Arc<Core>) -> Result<bool> {
    match try_step(core)? {
        Step::Made => Ok(true),
        Step::Nothing => Ok(false),
        Step::HeldUp(error) => Err(error),
    }
}

/// The same, for somebody whom what cannot be read in some keyspace need not concern.
///
/// # Errors
/// What the step failed with.
pub(super) fn try_step(core: &Arc<Core>) -> Result<Step> {
    run_first(core, step_in_order)
}

/// The same, but merging comes first, for somebody who waits for that.
pub(super) fn try_merging_step(core: &Arc<Core>) -> Result<Step> {
    run_first(core, |core, passed_over| {
        core.collect_released();
        begin_writing(core)?;
        shrink::interrupt(core);
        Ok(timed_sync(core)?
            || merge_step(core, pressure(core), passed_over)?
            || step_in_order(core, passed_over)?)
    })
}

/// One step, as `choose` finds it.
fn run_first(
    core: &Arc<Core>,
    choose: impl FnOnce(&Arc<Core>, &mut PassedOver) -> Result<bool>,
) -> Result<Step> {
    if core.has_stopped() || core.options.read_only {
        core.collect_released();
        return match core.has_stopped() {
            true => core.check_writable().map(|()| Step::Nothing),
            false => Ok(Step::Nothing),
        };
    }
    let failures = core.background.failure_count();
    let (running, is_alone) = core.background.begin_step();
    // Ends before that when the step panics: nobody sees rest before writing has stopped.
    let guard = PanicGuard::new(core, "a step of merging");
    let mut passed_over = PassedOver::of(core);
    let result = raise_limits(core)
        .and_then(|()| choose(core, &mut passed_over))
        .or_else(|error| free_dead(core, error));
    let failed = passed_over.failed();
    // Whoever sees nobody at work sees what came of this.
    match &result {
        Ok(true) => {
            core.background.count_step();
            core.background.succeed(failures);
        }
        // What another thread works on may fail yet.
        Ok(false) if is_alone => core.background.succeed(failures),
        Ok(false) => {}
        Err(error) => core.background.fail(error),
    }
    // Told behind the step, which whoever waits for one may go on with.
    if result.is_ok() {
        failed.iter().for_each(|error| core.background.fail_beside(error));
    }
    drop((running, guard));
    if !matches!(result, Ok(false)) {
        core.background.notify();
    }
    Ok(match (result?, failed) {
        (true, _) => Step::Made,
        (false, None) => Step::Nothing,
        (false, Some(error)) => Step::HeldUp(error),
    })
}

/// After a step that found no space: what only the last durable state needs is free with the next
/// (F6), and the step can be tried again. The error when that is done already.
pub(super) fn free_dead(core: &Arc<Core>, error: Error) -> Result<bool> {
    if !matches!(error, Error::NoSpace { .. }) || !core.reserve.is_kept() {
        return Err(error);
    }
    set_short(core, true);
    if core.durable.holds_current(&core.state()) {
        return Err(error);
    }
    make_durable_now(core, Purpose::Running)?;
    core.collect_released();
    Ok(true)
}

/// Does what must come before the first write after an open (D7); later calls cost one load.
///
/// What was replayed without being known to be on disk goes to segments before any commit is taken:
/// a power cut after that commit then loses nothing before it, and no byte of the log that may be
/// on disk is written over.
///
/// # Errors
/// What failed; nothing was committed then.
pub fn begin_writing(core: &Arc<Core>) -> Result<()> {
    if core.durable.writing_has_begun.load(Ordering::Acquire) {
        return Ok(());
    }
    let _first = core.durable.first_write.lock();
    if core.durable.writing_has_begun.load(Ordering::Acquire) {
        return Ok(());
    }
    claim_file(core)?;
    if core.durable.tail_is_uncertain.load(Ordering::Acquire) {
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        flush_sealed(core).or_else(|error| {
            shorten_log(core, error)?;
            flush_sealed(core)
        })?;
        cut_behind_all(core)?;
        // Not one that others have begun before.
        make_durable(core, Purpose::Running)?;
        note_durable(core);
    }
    core.durable.writing_has_begun.store(true, Ordering::Release);
    Ok(())
}

/// Moves the cut behind all records when no memtable waits: the last ones may be no commits.
///
/// # Errors
/// When the state cannot be installed.
pub(super) fn cut_behind_all(core: &Arc<Core>) -> Result<()> {
    let _order = core.commit_order.lock();
    let view = core.view();
    let (position, chain) = core.log.cut_here();
    if !view.active.is_empty() || !view.sealed.is_empty() || view.state.cut.position >= position {
        return Ok(());
    }
    let sequence = SequenceNumber(core.commit_numbers().0.0 - 1);
    let cut = Cut { sequence, position, chain };
    let installed = install(core, Change { cut: Some(cut), ..Change::default() })?;
    // It brings no leaves.
    core.background.jobs.lock().pack.own.insert(installed.epoch);
    Ok(())
}

/// After a flush that found no space: a log that has grown gives back what it does not need.
///
/// # Errors
/// The error when it has done so already; or as [`make_durable`].
fn shorten_log(core: &Core, error: Error) -> Result<()> {
    if !error.is_no_space() || core.durable.is_settled(&core.state(), &core.log.positions()) {
        return Err(error);
    }
    make_durable(core, Purpose::Idle)
}

/// Flushes what an open has replayed when it is more than memtables may take: the budget that left
/// the log may have been larger. What fails is told only: reading goes on without.
pub fn fit_into_memory(core: &Arc<Core>) {
    let most = core.memtable_bytes_max().saturating_mul(MEMTABLES_MAX);
    if core.options.read_only || core.memtable_bytes() <= most {
        return;
    }
    let flushed = begin_writing(core).and_then(|()| {
        seal_when_quiet(core);
        flush_sealed(core)
    });
    if let Err(error) = flushed {
        tracing::warn!(target: "sapwood::failure", %error, "flushing what was replayed failed");
    }
    core.charge_memtables();
}

/// A list of dead blocks that cannot be written or read hinders nothing else.
fn step_in_order(core: &Arc<Core>, passed_over: &mut PassedOver) -> Result<bool> {
    core.collect_released();
    // It has a time at which it is due, and lists may be long.
    if timed_sync(core)? {
        return Ok(true);
    }
    let lists = lists_step(core);
    match lists {
        Ok(true) => Ok(true),
        _ => Ok(other_step(core, passed_over)? || lists?),
    }
}

fn other_step(core: &Arc<Core>, passed_over: &mut PassedOver) -> Result<bool> {
    if !core.view().sealed.is_empty() {
        begin_writing(core)?;
        if flush_or_make_place(core, passed_over)? {
            return Ok(true);
        }
    }
    if !durable_is_due(core) {
        return later_step(core, passed_over);
    }
    match make_durable_now(core, Purpose::Running) {
        // Merges may make room for it.
        Err(error @ Error::NoSpace { .. }) => match later_step(core, passed_over)? {
            true => Ok(true),
            false => Err(error),
        },
        result => result.map(|()| true),
    }
}

/// A step of the flush. Where it has found no place, merges come first: they may make one.
fn flush_or_make_place(core: &Arc<Core>, passed_over: &mut PassedOver) -> Result<bool> {
    let has_place = &core.background.flush_has_place;
    let mut refused = None;
    if has_place.load(Ordering::Relaxed) {
        match flush_step(core) {
            Err(error @ Error::NoSpace { .. }) if core.reserve.is_kept() => {
                set_short(core, true);
                has_place.store(false, Ordering::Relaxed);
                refused = Some(error);
            }
            flushed => return flushed,
        }
    }
    if merge_step(core, pressure(core), passed_over)? {
        return Ok(true);
    }
    let flushed = refused.map_or_else(|| flush_step(core), Err)?;
    has_place.store(true, Ordering::Relaxed);
    Ok(flushed)
}

fn later_step(core: &Arc<Core>, passed_over: &mut PassedOver) -> Result<bool> {
    let pressure = pressure(core);
    // While space is short and writes come nothing is moved, either.
    let paused = is_paused(core);
    if !paused {
        shrink::interrupt(core);
    }
    // Tiny segments would only take more of it.
    if paused && core.view().sealed.is_empty() && seal_when_quiet(core) {
        return Ok(true);
    }
    if core.durable.is_untouched() && !has_merge_work(core, pressure) {
        if !paused || !pack::is_due(core) {
            return Ok(false);
        }
        // Who only reads need not be told that there is no room for more than that.
        if let Err(Error::NoSpace { .. }) = begin_writing(core) {
            pack::give_up(core);
            return Ok(false);
        }
    }
    begin_writing(core)?;
    if merge_step(core, pressure, passed_over)? {
        return Ok(true);
    }
    if !paused || !core.background.reservations.is_empty() {
        return Ok(false);
    }
    let is_short = core.reserve.is_short() && is_quiet_alone(core);
    if is_short && has_room(core, Brings::Data, core.reserve.plenty_bytes()) {
        // Nobody may come who finds that out by writing.
        set_short(core, false);
    }
    // What waits and cannot be merged would be in the way of moving the rest.
    let settled = match passed_over.is_empty() {
        true if !is_short && pack(core)? => Ok(true),
        true => shrink::settle(core),
        false => shrink::rest(core),
    };
    match settled {
        // There is nothing else that could make room.
        Err(Error::NoSpace { .. }) if is_short => Ok(false),
        settled => settled,
    }
}

/// One step of what leaves or goes down.
fn merge_step(core: &Arc<Core>, pressure: Pressure, passed_over: &mut PassedOver) -> Result<bool> {
    if drop_keyspace_step(core, passed_over)? {
        return Ok(true);
    }
    while let Some(plan) = next_plan(core, pressure, passed_over)? {
        let task = plan.task();
        match promote(core, plan) {
            Ok(()) => {
                core.background.damaged.forget(task);
                return Ok(true);
            }
            Err(error) => passed_over.add(core, task, error)?,
        }
    }
    Ok(false)
}

/// Whether merging would have anything to do: an open that nobody writes to stays as it is.
fn has_merge_work(core: &Core, pressure: Pressure) -> bool {
    let state = core.state();
    let has_above = || state.levels.values().any(|levels| levels.above().next().is_some());
    super::debt::young_are_due(state.young.len(), pressure)
        || pressure == Pressure::Quiet && has_above()
}

/// What is asked of merging now.
pub fn pressure(core: &Core) -> Pressure {
    if core.reserve.is_short() || is_paused(core) { Pressure::Quiet } else { Pressure::Writing }
}

/// Writes pause, or somebody waits for quiet.
fn is_paused(core: &Core) -> bool {
    core.background.drain.load(Ordering::Acquire) > 0 || is_quiet(core)
}

/// Nobody waits for quiet.
fn is_quiet_alone(core: &Core) -> bool {
    core.background.drain.load(Ordering::Acquire) == 0
}

fn is_quiet(core: &Core) -> bool {
    let last = Duration::from_micros(core.background.last_commit.load(Ordering::Relaxed));
    core.clock.now().saturating_sub(last) >= QUIET_AFTER
}

/// How long no timed sync will be due: what is left of the interval of the commit that has waited
/// longest, and all of it when none waits.
pub(super) fn until_timed_sync(core: &Core) -> Duration {
    let interval = core.options.sync_interval;
    match core.background.unsynced_since.load(Ordering::Relaxed) {
        0 => interval,
        since => (Duration::from_micros(since - 1) + interval).saturating_sub(core.clock.now()),
    }
}

/// Syncs the log when a commit has waited for the interval.
///
/// # Errors
/// When the sync fails: writing has stopped.
pub fn timed_sync(core: &Arc<Core>) -> Result<bool> {
    if !until_timed_sync(core).is_zero() {
        return Ok(false);
    }
    let unsynced_since = &core.background.unsynced_since;
    let noted = unsynced_since.swap(0, Ordering::Relaxed);
    let synced = sync(core);
    if synced.is_err() && !core.has_stopped() {
        // It is due still: what hindered it (no space to make the first write in) may pass.
        unsynced_since.store(noted, Ordering::Relaxed);
    }
    synced.map(|()| true)
}

/// Puts every commit made so far on disk.
///
/// # Errors
/// When the sync fails: writing has stopped.
pub fn sync(core: &Arc<Core>) -> Result<()> {
    core.check_writable()?;
    // The state that an open has found may lie in the system's cache alone, with commits that no
    // log has (D7).
    begin_writing(core)?;
    let positions = core.log.positions();
    if positions.end == positions.durable {
        return Ok(());
    }
    core.sync_log_to(positions.end)?;
    core.publisher.publish(core.log.positions());
    Ok(())
}

/// One step of the flush of the oldest sealed memtable; false when it cannot be made now.
pub(super) fn flush_step(core: &Arc<Core>) -> Result<bool> {
    // Whoever waits for others counts those who flush for themselves, too; before the flush is out,
    // so that nobody finds it out and nobody at work.
    let _running = core.background.begin_running();
    raise_limits(core)?;
    if is_young_full(core) {
        // Where merging could not keep up at all: a state has no place for one more.
        let mut passed_over = PassedOver::default();
        let made = merge_step(core, Pressure::Quiet, &mut passed_over)?;
        return match passed_over.failed() {
            Some(error) if !made => Err(error),
            _ => Ok(made),
        };
    }
    let mut jobs = core.background.jobs.lock();
    if jobs.flush_is_out {
        return Ok(false);
    }
    let job = jobs.flush.take();
    jobs.flush_is_out = true;
    drop(jobs);
    let guard = PanicGuard::new(core, "a flush");
    let mut out = FlushOut { core, kept: None, guard: Some(guard) };
    let job = match job {
        Some(job) => Some(job),
        None => match adopt::begin(core) {
            Some(job) => Some(Box::new(job) as _),
            None => flush::begin(core).map(|job| Box::new(job) as _),
        },
    };
    let Some(mut job) = job else { return Ok(false) };
    let done = job.step(core)?;
    out.kept = (!done).then_some(job);
    drop(out);
    core.background.named_toll.pay(core.options.step_bytes);
    core.background.flush_steps.fetch_add(1, Ordering::AcqRel);
    Ok(true)
}

/// Whether what the oldest sealed memtable brings would be too many young segments for a state.
fn is_young_full(core: &Core) -> bool {
    let view = core.view();
    let brings = view.sealed.last().map_or(0, |slot| slot.segments().len().max(1));
    view.state.young.len() + brings > YOUNG_COUNT_MAX
}

/// The one flush that is under way, while a thread works at it.
struct FlushOut<'a> {
    core: &'a Core,
    kept: Option<Box<dyn Job>>,
    guard: Option<PanicGuard<'a>>,
}

impl Drop for FlushOut<'_> {
    fn drop(&mut self) {
        // Before another thread can begin it anew.
        drop(self.guard.take());
        let mut jobs = self.core.background.jobs.lock();
        jobs.flush = self.kept.take();
        jobs.flush_is_out = false;
    }
}

fn durable_is_due(core: &Core) -> bool {
    let written = core.pages.counters().bytes_written();
    let since = written.saturating_sub(core.background.bytes_at_durable.load(Ordering::Relaxed));
    // What is flushed is owed again after a crash until it is durable, and merges may have made it
    // smaller by then, and others taken what came free: see F6.
    let may_matter =
        core.log.available() < core.options.log_bytes_min / 2 || core.reserve.is_short();
    since >= DURABLE_EVERY_BYTES || may_matter && core.durable.cut() < core.state().cut.position
}

/// Makes a state durable when write stamps are running low (D3): between two parts of whatever
/// takes many.
fn raise_limits(core: &Core) -> Result<()> {
    unless_full(make_durable_if(core, || core.pages.stamps_are_low()))
}

/// Makes a state durable when one is due and no thread sees to it: between two parts of a call that
/// goes on writing.
///
/// # Errors
/// As [`make_durable`].
pub fn make_durable_when_due(core: &Core) -> Result<()> {
    make_durable_if(core, || {
        let has_threads = core.background.has_threads.load(Ordering::Acquire);
        core.pages.stamps_are_low() || !has_threads && durable_is_due(core)
    })
}

/// The same, for a call that goes on without where there is no room for one: what follows may make
/// some, and stamps that have run out are an error of whoever takes one.
///
/// # Errors
/// As [`make_durable`], but for `NoSpace`.
pub fn make_durable_when_due_and_room(core: &Core) -> Result<()> {
    unless_full(make_durable_when_due(core))
}

fn unless_full(result: Result<()>) -> Result<()> {
    match result {
        Err(Error::NoSpace { .. }) => Ok(()),
        result => result,
    }
}

/// Makes a state durable when one is due, unless others have done so meanwhile. Nobody is told, so
/// that locks may be held.
///
/// # Errors
/// As [`make_durable`].
pub(super) fn make_durable_if(core: &Core, is_due: impl FnOnce() -> bool) -> Result<()> {
    let made = || core.counters.durable_states.load(Ordering::Relaxed);
    let before = made();
    if !is_due() {
        return Ok(());
    }
    make_durable_unless(core, Purpose::Running, || made() != before)?;
    note_durable(core);
    Ok(())
}

pub(super) fn make_durable_now(core: &Core, purpose: Purpose) -> Result<()> {
    make_durable(core, purpose)?;
    note_durable(core);
    tell(core);
    Ok(())
}

fn note_durable(core: &Core) {
    let written = core.pages.counters().bytes_written();
    core.background.bytes_at_durable.store(written, Ordering::Relaxed);
}

/// Seals what waits in memory, so that it is flushed.
pub(super) fn seal_when_quiet(core: &Core) -> bool {
    if core.view().active.is_empty() {
        return false;
    }
    let _order = core.commit_order.lock();
    core.seal();
    true
}

/// Waits until nothing is left to do: memtables flushed, each key range in one segment, the state
/// durable.
///
/// # Errors
/// The error with which merging has stopped.
pub fn wait_until_idle(core: &Arc<Core>) -> Result<()> {
    let _draining = core.background.begin_draining();
    drain(core)
}

fn drain(core: &Arc<Core>) -> Result<()> {
    loop {
        core.check_writable()?;
        match step_or_wait(core)? {
            Turn::Made | Turn::Waited(_) => {}
            Turn::Nothing(Some(error)) => return Err(error),
            Turn::Nothing(None) => return core.background.failure().map_or(Ok(()), Err),
        }
    }
}

/// What came of a turn of somebody who waits for steps.
pub(super) enum Turn {
    /// A step was made.
    Made,
    /// Others were at work, or have ended since; with what refused the step that was tried.
    Waited(Option<Error>),
    /// Nothing can be done, and nobody is at work: nothing, or this, is in the way.
    Nothing(Option<Error>),
}

/// Makes a step, or waits for those of others: what they hold may be all that is in the way.
///
/// # Errors
/// What the step failed with, other than `NoSpace`.
pub(super) fn step_or_wait(core: &Arc<Core>) -> Result<Turn> {
    turn(core, try_step)
}

/// The same, but merging comes first.
///
/// # Errors
/// As [`step_or_wait`].
pub(super) fn merging_step_or_wait(core: &Arc<Core>) -> Result<Turn> {
    turn(core, try_merging_step)
}

/// A turn of whoever makes such a step, when that can be made.
///
/// # Errors
/// As [`step_or_wait`].
pub(super) fn turn(core: &Arc<Core>, run: impl FnOnce(&Arc<Core>) -> Result<Step>) -> Result<Turn> {
    core.collect_released();
    let mark = core.background.mark();
    let steps = core.background.steps.load(Ordering::Acquire);
    let (durable, held) = (core.durable.mark(), core.held.stats());
    let refused = match run(core) {
        Ok(Step::Made) => return Ok(Turn::Made),
        Ok(Step::Nothing) => None,
        Ok(Step::HeldUp(error)) | Err(error @ Error::NoSpace { .. }) => Some(error),
        Err(error) => return Err(error),
    };
    let has_grants = core.reserve.has_grants();
    if core.background.running.load(Ordering::Acquire) > 0 || has_grants {
        match refused {
            Some(_) => wait_out(core, LOOK_AGAIN, || core.has_stopped()),
            None => core.background.wait_since(mark, LOOK_AGAIN),
        }
        // A grant ends, and gives back what it does not use; a step may fail again and again.
        return Ok(Turn::Waited(refused.filter(|error| error.is_no_space() && !has_grants)));
    }
    // A step that another thread has made meanwhile may have left something to do that could not
    // be done beside it; a durable state may have given space back, and so may the end of one that
    // found nothing to do, but held a state while it looked.
    let nothing_made =
        core.background.steps.load(Ordering::Acquire) == steps && core.durable.mark() == durable;
    core.collect_released();
    let is_as_before = nothing_made && core.held.stats() == held;
    Ok(if is_as_before { Turn::Nothing(refused) } else { Turn::Waited(refused) })
}

/// Waits for all of a pause after a failure, unless it is ended: what others tell meanwhile may be
/// failures of their own, and two who wait would keep one another awake.
pub(super) fn wait_out(core: &Core, pause: Duration, is_ended: impl Fn() -> bool) {
    let until = core.clock.now() + pause;
    loop {
        let mark = core.background.mark();
        let left = until.saturating_sub(core.clock.now());
        if left.is_zero() || is_ended() {
            return;
        }
        core.background.wait_since(mark, left);
        // A clock may stand still.
        if core.background.mark() == mark {
            return;
        }
    }
}

/// Flushes every memtable and makes the state durable.
///
/// # Errors
/// What a step failed with.
pub fn flush(core: &Arc<Core>) -> Result<()> {
    core.check_writable()?;
    begin_writing(core)?;
    flush_all_so_far(core, &mut || Ok(()))?;
    make_durable_now(core, Purpose::Running)
}

/// Brings every commit made so far into segments, and no later one that others make meanwhile.
/// `goes_on` is asked between steps.
///
/// # Errors
/// What a step failed with, or what `goes_on` says.
pub(super) fn flush_all_so_far(
    core: &Arc<Core>,
    goes_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let order = core.commit_order.lock();
    core.seal();
    let last = SequenceNumber(core.commit_numbers().0.0 - 1);
    drop(order);
    show_all_so_far(core)?;
    flush_up_to(core, last, goes_on)
}

/// Brings commits made so far into segments, the oldest memtable first, until the log has room for
/// `needed` bytes, or all of them are there.
///
/// # Errors
/// What a step failed with, or a durable state.
pub(super) fn flush_for_log(core: &Arc<Core>, needed: u64) -> Result<()> {
    let has_room = || core.log.available() >= needed;
    let last = SequenceNumber(core.commit_numbers().0.0 - 1);
    show_all_so_far(core)?;
    while core.state().cut.sequence < last && !has_room() {
        if core.view().sealed.is_empty() && !seal_when_quiet(core) {
            return Ok(());
        }
        let view = core.view();
        let oldest = view.sealed.last().and_then(|slot| slot.cut.get()).map(|cut| cut.sequence);
        drop(view);
        // Another thread may have flushed it meanwhile.
        let Some(oldest) = oldest else { continue };
        flush_up_to(core, oldest, &mut || Ok(()))?;
        make_durable_unless(core, Purpose::Running, has_room)?;
    }
    Ok(())
}

/// Buffered and in-flight commits become visible by their own committers; those that wait for a
/// sync here.
fn show_all_so_far(core: &Core) -> Result<()> {
    let positions = core.log.positions();
    core.write_log_to(positions.end)?;
    core.publisher.publish(core.log.positions());
    Ok(())
}

fn flush_up_to(
    core: &Arc<Core>,
    last: SequenceNumber,
    goes_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let made = || core.counters.durable_states.load(Ordering::Relaxed);
    while core.state().cut.sequence < last && !core.view().sealed.is_empty() {
        core.check_writable()?;
        let (mark, before) = (core.background.mark(), made());
        match flush_step(core) {
            Ok(true) => core.background.step_ended(),
            Ok(false) => core.background.wait_since(mark, LOOK_AGAIN),
            // Nothing has died before the first write, in which locks are held besides.
            Err(error) if !core.durable.writing_has_begun.load(Ordering::Acquire) => {
                return Err(error);
            }
            // Others have just freed what had died.
            Err(Error::NoSpace { .. }) if made() != before => {}
            Err(error) => drop(free_dead(core, error)?),
        }
        goes_on()?;
    }
    Ok(())
}

/// Flushes every sealed memtable, while nobody else commits.
///
/// # Errors
/// What a step failed with.
pub fn flush_sealed(core: &Arc<Core>) -> Result<()> {
    flush_up_to(core, SequenceNumber::MAX, &mut || Ok(()))
}

/// Flushes, and leaves the file as a clean close does. Steps of other threads have ended.
///
/// # Errors
/// What failed; the file is then as after a crash at this point. When merging had stopped, its
/// error, after a clean close.
pub fn close(core: &Arc<Core>) -> Result<()> {
    if core.options.read_only
        || core.durable.is_untouched()
            && core.view().active.is_empty()
            && core.view().sealed.is_empty()
    {
        return Ok(());
    }
    match core.check_writable() {
        Ok(()) => {}
        Err(Error::Stopped(cause)) => return Err(Error::Stopped(cause)),
        Err(error) => return Err(error),
    }
    begin_writing(core)?;
    let order = core.commit_order.lock();
    core.seal();
    drop(order);
    sync(core)?;
    flush_sealed(core)?;
    // No call that writes runs any more, and open transactions find the database closed. But a
    // lookup may be under way, or an iterator hold a run in place: what has a holder still is left
    // alone (P12). No durable state references it, so the next open finds it free.
    for block in core.pending.take_unread() {
        core.free(block);
    }
    core.collect_released();
    // What only the durable state before needed is given up, and with it the end of the file.
    make_durable_now(core, Purpose::Idle)?;
    core.pages.allocator().shrink_to_used();
    make_durable_now(core, Purpose::Closing)?;
    core.pages.cut_file().map_err(|error| core.stop(&error))?;
    // All is on disk, but not merged as it should be.
    core.background.failure().or_else(|| core.background.damaged.any_error()).map_or(Ok(()), Err)
}
