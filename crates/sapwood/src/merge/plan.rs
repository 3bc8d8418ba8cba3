//! Chooses what the next promotion step does, and reserves it.
//!
//! *Guarantees*: G1, I3: sources are the oldest young segments or all complete segments of a level;
//! the range is rounded out to whole lowest parents of the destination and reserved. *Threads*: any
//! number beside one another.

use crate::error::{Error, Result};
use crate::segment::descriptor::{Segment, TreeRoot, composite_range};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::state::background::{
    LEVEL_ABOVE, LEVEL_LAST, LEVEL_YOUNG, LEVELS_ALL, Reservation, YoungSet,
};
use crate::state::damaged::{Task, Work};
use crate::state::reserve::{Grant, grant, step_pages, step_pages_with_room};
use crate::state::{Core, State};
use crate::sync::{Arc, Random};
use crate::types::KeyspaceNumber;

use super::debt::{
    ABOVE_COUNT_MAX, Debt, Pressure, YOUNG_DEBT_MAX, YOUNG_MERGE_COUNT, above_are_due,
    goes_to_last, young_are_due,
};
use super::drop_keyspace::is_leaving;
use super::install::Destination;
use super::passed_over::PassedOver;
use super::promote::{Plan, bare_range};
use super::ranges::source_fragments;
use super::stretch::{Stretch, end_after, load_stretch, pages_in};
use super::touched::Touched;

/// What a step holds of range tombstones takes about this part of the memory budget at most.
const RANGES_PART: u64 = 16;
/// They take about so many times in memory what their leaves take in the file.
const RANGES_GROWTH: u64 = 6;

/// The next step to make, if any is due and its range is free, but for what is passed over; and so
/// is what cannot be planned because something cannot be read.
///
/// # Errors
/// When there is no room and no other step can be made; any other failure.
pub fn next_plan(
    core: &Arc<Core>,
    pressure: Pressure,
    passed_over: &mut PassedOver,
) -> Result<Option<Plan>> {
    let mut state = core.state();
    loop {
        if let Some(plan) = plan_from(core, &state, pressure, passed_over)? {
            return Ok(Some(plan));
        }
        // An install that came meanwhile may be all that was in the way, and whoever made it may
        // be gone: nobody else would look again.
        let now = core.state();
        if now.epoch == state.epoch {
            return Ok(None);
        }
        state = now;
    }
}

/// The same, as it follows from a state; `None` too when a later one has changed what the step
/// would build on.
pub(crate) fn plan_from(
    core: &Arc<Core>,
    state: &Arc<State>,
    pressure: Pressure,
    passed_over: &mut PassedOver,
) -> Result<Option<Plan>> {
    // What there is no room for in one keyspace does not hinder another.
    let mut refused = None;
    loop {
        let count = passed_over.len();
        let sets = take_up_sets(core, state, pressure, &passed_over.keyspaces(Work::Young));
        for due in in_order_of_need(core, state, &sets, pressure) {
            let task = due.task();
            if passed_over.has(task) {
                continue;
            }
            let plan = match due {
                Due::Above(keyspace, open) => plan_above(core, state, keyspace, open),
                Due::Young(set, keyspace) => {
                    // In quiet times what stands above goes first, and then all goes straight to
                    // the last level; but not where that is passed over.
                    let waits =
                        pressure == Pressure::Quiet && !passed_over.has((keyspace, Work::Above));
                    plan_young(core, state, set, keyspace, waits)
                }
            };
            match plan {
                Ok(None) => {}
                Ok(plan) => return Ok(plan),
                Err(error @ Error::NoSpace { .. }) => refused = Some(error),
                Err(error) => passed_over.add(core, task, error)?,
            }
        }
        if passed_over.len() == count {
            return refused.map_or(Ok(None), Err);
        }
    }
}

/// What is due in one keyspace.
#[derive(Clone, Copy)]
enum Due<'a> {
    /// The segments above the last level go into it, but for the one that is being written.
    Above(KeyspaceNumber, Option<u64>),
    /// The young segments of a set go down.
    Young(&'a DueSet, KeyspaceNumber),
}

impl Due<'_> {
    fn task(self) -> Task {
        match self {
            Due::Above(keyspace, _) => (keyspace, Work::Above),
            Due::Young(_, keyspace) => (keyspace, Work::Young),
        }
    }
}

/// All that is due. While writes go on, what is owed most comes first: a long merge of one level
/// does not let the others grow until writers must be stopped; young segments before all, when
/// writers are stopped for them. When they pause, the level above comes first: it makes room for
/// what comes down.
fn in_order_of_need<'a>(
    core: &Core,
    state: &State,
    sets: &'a [DueSet],
    pressure: Pressure,
) -> Vec<Due<'a>> {
    let mut due = Vec::new();
    for (keyspace, levels) in &state.levels {
        let open = open_above(core, *keyspace);
        if above_are_due(levels, open, pressure) {
            let complete = levels.above().filter(|segment| Some(segment.number) != open);
            due.push((
                state.promoted_leaves().left_of(complete) / ABOVE_COUNT_MAX as f64,
                Due::Above(*keyspace, open),
            ));
        }
    }
    let is_too_young = Debt::of(core.backlog(), 0, 1).young >= YOUNG_DEBT_MAX;
    let young = core.background.damaged.backlog_of(state).0.young;
    let young_need = if is_too_young { f64::INFINITY } else { young / YOUNG_MERGE_COUNT as f64 };
    for set in sets {
        due.extend(set.due.iter().map(|keyspace| (young_need, Due::Young(set, *keyspace))));
    }
    if pressure == Pressure::Writing {
        due.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    }
    due.into_iter().map(|(_, due)| due).collect()
}

/// The segment above the last level that is still being written. Whose share of one set is gone may
/// be in a newer one.
fn open_above(core: &Core, keyspace: KeyspaceNumber) -> Option<u64> {
    let jobs = core.background.jobs.lock();
    let above = jobs.young_sets.iter().rev().flat_map(|set| &set.above);
    let mut of_keyspace = above.filter(|(of, _)| *of == keyspace);
    of_keyspace.next().map(|(_, number)| *number)
}

/// A [`YoungSet`] as it is in a state, and what is due of it.
pub(crate) struct DueSet {
    /// Newest first.
    pub(crate) members: Vec<Arc<Segment>>,
    /// The keyspaces whose turn it is: those of the oldest member that has some to go on with.
    pub(crate) due: Vec<KeyspaceNumber>,
}

impl DueSet {
    /// Adds the keyspaces of which the set has something.
    fn add_left_to(&self, keyspaces: &mut Vec<KeyspaceNumber>) {
        for young in &self.members {
            let shares = young.keyspaces.iter().map(|share| share.keyspace);
            keyspaces.extend(shares.filter(|keyspace| young.has_left_of(*keyspace)));
        }
        keyspaces.sort_unstable();
        keyspaces.dedup();
    }
}

/// The sets of young segments, oldest first; the next one is taken up when it is due: when all of
/// the one before is gone, or when all that is left of it is of keyspaces that are passed over, or
/// dropped and leaving. The others go on then, while those stay in the older set, so that nothing
/// newer of theirs moves before it (G1).
pub(crate) fn take_up_sets(
    core: &Core,
    state: &State,
    pressure: Pressure,
    passed_over: &[KeyspaceNumber],
) -> Vec<DueSet> {
    // Of a dropped keyspace nothing is due before its levels have left, which they may never.
    let leaving = state.levels.keys().copied().filter(|keyspace| is_leaving(state, *keyspace));
    let passed_over: Vec<KeyspaceNumber> = passed_over.iter().copied().chain(leaving).collect();
    let passed_over = passed_over.as_slice();
    let mut jobs = core.background.jobs.lock();
    let sets = &mut jobs.young_sets;
    // Others may have come further than the state that is looked at: their sets are theirs.
    let now = core.state();
    let is_there = |set: &YoungSet| now.young.iter().any(|y| set.members.contains(&y.number));
    sets.retain(is_there);
    let mut waiting = Vec::new();
    let mut all = Vec::new();
    let mut is_stuck = true;
    let may_be_stuck = !passed_over.is_empty() || sets.len() > 1;
    for set in sets.iter_mut() {
        let is_member = |young: &&Arc<Segment>| set.members.contains(&young.number);
        let members: Vec<Arc<Segment>> = state.young.iter().filter(is_member).cloned().collect();
        let due_set = due_set(members, &waiting, passed_over);
        is_stuck &= due_set.due.is_empty();
        if may_be_stuck {
            // What is complete, as things stand by now, may be merged on.
            let members_now = now.young.iter().filter(is_member);
            let has_more = |keyspace| members_now.clone().any(|young| young.has_left_of(keyspace));
            set.above.retain(|(keyspace, _)| has_more(*keyspace));
            due_set.add_left_to(&mut waiting);
        }
        all.push(due_set);
    }
    let is_taken = |young: &Segment| sets.iter().any(|set| set.members.contains(&young.number));
    let mut free: Vec<Arc<Segment>> =
        state.young.iter().filter(|young| !is_taken(young)).cloned().collect();
    // Of the next ones, too, there may be nothing left but what cannot be merged.
    while (all.is_empty() || is_stuck && !passed_over.is_empty())
        && young_are_due(free.len(), pressure)
    {
        let members = free.split_off(free.len().saturating_sub(YOUNG_MERGE_COUNT));
        let numbers = members.iter().map(|segment| segment.number).collect();
        sets.push(YoungSet { members: numbers, above: Vec::new() });
        let due_set = due_set(members, &waiting, passed_over);
        is_stuck = due_set.due.is_empty();
        due_set.add_left_to(&mut waiting);
        all.push(due_set);
    }
    all
}

/// A set with what is due of it. `waiting`: keyspaces that an older set has something of.
fn due_set(
    members: Vec<Arc<Segment>>,
    waiting: &[KeyspaceNumber],
    passed_over: &[KeyspaceNumber],
) -> DueSet {
    let is_held_up = |keyspace| waiting.contains(&keyspace) || passed_over.contains(&keyspace);
    let due_of = |young: &Arc<Segment>| {
        let shares = young.keyspaces.iter().map(|share| share.keyspace);
        shares.filter(|of| !is_held_up(*of) && young.has_left_of(*of)).collect::<Vec<_>>()
    };
    let mut due = members.iter().rev().map(due_of);
    let due = due.find(|due| !due.is_empty()).unwrap_or_default();
    DueSet { members, due }
}

/// Where a step's data goes, and what stands there.
struct Target {
    destination: Destination,
    segment: Option<Arc<Segment>>,
    filter_seed: u64,
    is_last: bool,
    levels: u8,
}

fn target_last(core: &Core, state: &State, keyspace: KeyspaceNumber, levels: u8) -> Target {
    let last = state.levels_of(keyspace).and_then(|levels| levels.last()).cloned();
    Target {
        destination: match &last {
            Some(last) => Destination::Existing(last.number),
            None => Destination::NewLast(core.new_segment_number()),
        },
        filter_seed: seed_of(last.as_ref()),
        segment: last,
        is_last: true,
        levels,
    }
}

fn seed_of(segment: Option<&Arc<Segment>>) -> u64 {
    segment.map_or_else(|| Random::from_entropy().next_u64(), |segment| segment.filter.seed)
}

/// A new segment above the last level, the same one for all steps of the set that has a member;
/// `None` when the set is gone.
fn target_above(
    core: &Core,
    state: &State,
    keyspace: KeyspaceNumber,
    member: u64,
) -> Option<Target> {
    let mut jobs = core.background.jobs.lock();
    let set = jobs.young_sets.iter_mut().find(|set| set.members.contains(&member))?;
    let above = &mut set.above;
    let number = match above.iter().find(|(of, _)| *of == keyspace) {
        Some((_, number)) => *number,
        None => {
            let number = core.new_segment_number();
            above.push((keyspace, number));
            number
        }
    };
    drop(jobs);
    let segment = state
        .levels_of(keyspace)
        .and_then(|levels| levels.above().find(|segment| segment.number == number))
        .cloned();
    Some(Target {
        destination: Destination::NewAbove(number),
        filter_seed: seed_of(segment.as_ref()),
        segment,
        is_last: false,
        levels: LEVEL_YOUNG | LEVEL_ABOVE,
    })
}

fn plan_young(
    core: &Arc<Core>,
    state: &Arc<State>,
    set: &DueSet,
    keyspace: KeyspaceNumber,
    waits_for_above: bool,
) -> Result<Option<Plan>> {
    let shares = set.members.iter().filter(|member| member.share_of(keyspace).is_some());
    let merged_pages = shares.clone().map(|segment| segment.pages()).fold(0, u64::saturating_add);
    let sources: Vec<Arc<Segment>> =
        shares.filter(|member| member.has_left_of(keyspace)).cloned().collect();
    let Some(oldest) = sources.last() else { return Ok(None) };
    let has_above = state.levels_of(keyspace).is_some_and(|levels| levels.above().next().is_some());
    if has_above && waits_for_above && open_above(core, keyspace).is_none() {
        return Ok(None);
    }
    let current = core.state();
    let dropped = current.is_dropped(keyspace);
    if dropped && is_leaving(&current, keyspace) {
        // Its levels go first: parts of them are dead already.
        return Ok(None);
    }
    let target = if dropped || goes_to_last(state, keyspace, merged_pages) {
        target_last(core, state, keyspace, LEVELS_ALL)
    } else {
        let Some(target) = target_above(core, state, keyspace, oldest.number) else {
            return Ok(None);
        };
        target
    };
    let whole = oldest.moving_range(keyspace, &KeyRange::all());
    let gaps = oldest.promoted.gaps_in(&whole);
    let gaps = gaps.iter().map(|gap| trim_to(keyspace, gap)).collect::<Vec<_>>();
    plan_in_gaps(core, &sources, keyspace, &gaps, &target, dropped)
}

/// A gap of composite keys as a range of one keyspace's keys.
fn trim_to(keyspace: KeyspaceNumber, gap: &KeyRange) -> KeyRange {
    let whole = composite_range(keyspace, &KeyRange::all());
    match gap.intersection(&whole) {
        Some(inside) => bare_range(keyspace, &inside),
        None => KeyRange::all(),
    }
}

fn plan_above(
    core: &Arc<Core>,
    state: &Arc<State>,
    keyspace: KeyspaceNumber,
    open: Option<u64>,
) -> Result<Option<Plan>> {
    let Some(levels) = state.levels_of(keyspace) else { return Ok(None) };
    if is_leaving(&core.state(), keyspace) {
        return Ok(None);
    }
    let sources: Vec<Arc<Segment>> =
        levels.above().filter(|segment| Some(segment.number) != open).cloned().collect();
    let Some(oldest) = sources.last() else { return Ok(None) };
    let target = target_last(core, state, keyspace, LEVEL_ABOVE | LEVEL_LAST);
    let gaps = oldest.promoted.gaps_in(&KeyRange::all());
    plan_in_gaps(core, &sources, keyspace, &gaps, &target, false)
}

/// What a compaction wants to move.
pub(super) struct Wanted {
    pub keyspace: KeyspaceNumber,
    pub range: KeyRange,
}

/// A step that moves everything above the last level in the first part of a range there. `sources`:
/// all young segments and all above the last level that hold some of the keyspace, newest first.
/// `None` when somebody else works there.
///
/// # Errors
/// When a parent cannot be read.
pub(super) fn plan_whole(
    core: &Arc<Core>,
    state: &Arc<State>,
    sources: &[Arc<Segment>],
    wanted: &Wanted,
) -> Result<Option<Plan>> {
    let keyspace = wanted.keyspace;
    // One that is still being written is no source (G1): its set is merged first. The state was
    // taken before this question, so that one that is in it and begun since is found.
    let open = open_above(core, keyspace);
    if open.is_some_and(|open| sources.iter().any(|source| source.number == open)) {
        return Ok(None);
    }
    let target = target_last(core, state, keyspace, LEVELS_ALL);
    let Ok(found) = try_range(core, sources, keyspace, &wanted.range, &target)? else {
        return Ok(None);
    };
    Ok(confirm(core, sources, keyspace, found, &target, false))
}

/// The first range in the gaps that is free, planned.
fn plan_in_gaps(
    core: &Arc<Core>,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    gaps: &[KeyRange],
    target: &Target,
    dropped: bool,
) -> Result<Option<Plan>> {
    for gap in gaps {
        let mut start = gap.start.clone();
        // Each turn goes on behind a range that another step has reserved.
        for _ in 0..64 {
            let wanted = KeyRange::new(start.clone(), gap.end.clone());
            if wanted.is_empty() {
                break;
            }
            match try_range(core, sources, keyspace, &wanted, target)? {
                Ok(found) => {
                    return Ok(confirm(core, sources, keyspace, found, target, dropped));
                }
                Err(in_the_way) => match in_the_way.end {
                    Some(end) if start < end => start = end,
                    _ => break,
                },
            }
        }
    }
    Ok(None)
}

struct Found {
    range: KeyRange,
    taken_pages_max: u64,
    stretch: Option<Stretch>,
    reservation: Reservation,
    grant: Grant,
}

/// Bounds a step at the start of `wanted`, and reserves it; or says what is in the way. A step for
/// which there is no room is bounded again, by the room that there is, down to one page (F4).
fn try_range(
    core: &Arc<Core>,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    wanted: &KeyRange,
    target: &Target,
) -> Result<std::result::Result<Found, KeyRange>> {
    let mut most = step_pages(core);
    loop {
        match try_range_within(core, sources, keyspace, wanted, target, most) {
            // One lowest parent of the destination may be most of what it takes.
            Err(Error::NoSpace { .. }) if most > 1 => {
                most = (most / 2).min(step_pages_with_room(core)).max(1);
            }
            result => return result,
        }
    }
}

fn try_range_within(
    core: &Arc<Core>,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    wanted: &KeyRange,
    target: &Target,
    step_pages: u64,
) -> Result<std::result::Result<Found, KeyRange>> {
    let mut end = wanted.end.clone();
    let each = (step_pages / sources.len().max(1) as u64).max(1);
    for source in sources {
        let Some(root) = &source.points else { continue };
        let found = end_in(core, source, keyspace, root, wanted, each)?;
        end = end_before(&end, found, wanted);
    }
    let has_ranges = sources.iter().any(|source| source.ranges.is_some());
    if has_ranges {
        let within = KeyRange { end, ..wanted.clone() };
        end = end_by_ranges(core, sources, keyspace, &within, step_pages)?;
    }
    let mut range = KeyRange::new(wanted.start.clone(), end);
    let root = target.segment.as_ref().and_then(|segment| segment.points.as_ref());
    let (stretch, reserved, levels) = match root {
        Some(root) => {
            let stretch = touched_stretch(core, sources, keyspace, root, &mut range, step_pages)?;
            let reserved = union(&range, &stretch.range);
            (Some(stretch), reserved, target.levels)
        }
        // What becomes a segment above the last level is nobody's source yet, and has no neighbour:
        // whoever promotes those that are complete there does not keep it out.
        None if !target.is_last => (None, KeyRange::all(), LEVEL_YOUNG),
        None => (None, KeyRange::all(), target.levels),
    };
    let reservations = &core.background.reservations;
    let reservation = match reservations.reserve(keyspace, levels, reserved) {
        Ok(reservation) => reservation,
        Err(in_the_way) => return Ok(Err(in_the_way)),
    };
    let read = each.saturating_mul(sources.len() as u64);
    let ranges_read = if has_ranges { ranges_pages(core).min(step_pages) } else { 0 };
    let read = read
        .saturating_add(ranges_read)
        .min(sources.iter().map(|source| source.pages()).fold(0, u64::saturating_add));
    let replaced = stretch.as_ref().map_or(0, Stretch::pages);
    let taken_pages_max = match has_ranges {
        true => pages_of_sources(core, sources, keyspace, &range)?,
        false => u64::MAX,
    };
    Ok(match grant(core, read.saturating_add(replaced))? {
        Some(grant) => Ok(Found { range, taken_pages_max, stretch, reservation, grant }),
        // Other steps have the room: nothing can be done before they end.
        None => Err(KeyRange::all()),
    })
}

/// Where a step ends that takes about so many pages of one tree of a source from the start of
/// `wanted` on; `None` when the tree has fewer there.
fn end_in(
    core: &Core,
    source: &Segment,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    wanted: &KeyRange,
    pages_max: u64,
) -> Result<Option<Vec<u8>>> {
    let (pages, promoted) = (&core.pages, &source.promoted);
    if !source.is_young() {
        return end_after(pages, keyspace, root, promoted, wanted, pages_max);
    }
    let wanted = composite_range(keyspace, wanted);
    let found = end_after(pages, KeyspaceNumber::MANY, root, promoted, &wanted, pages_max)?;
    let lead = keyspace.0.to_be_bytes();
    Ok(found.and_then(|key| key.strip_prefix(&lead).map(<[u8]>::to_vec)))
}

/// The lesser of an end and one that was found behind the start of `wanted`.
fn end_before(end: &Option<Vec<u8>>, found: Option<Vec<u8>>, wanted: &KeyRange) -> Option<Vec<u8>> {
    let found = found.filter(|found| *found > wanted.start);
    found.filter(|found| is_before_end(found, end.as_deref())).or_else(|| end.clone())
}

/// Where a step ends that takes no more range tombstones than a step may hold, of which it holds
/// all until its install: one leaf of each source at least; the end of `wanted` when there are not
/// so many.
fn end_by_ranges(
    core: &Core,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    wanted: &KeyRange,
    pages_max: u64,
) -> Result<Option<Vec<u8>>> {
    let most = ranges_pages(core).min(pages_max);
    let trees = || sources.iter().filter_map(|of| of.ranges.as_ref().map(|root| (of, root)));
    // Of most transactions the segments lie one behind the other: then one of them may take it all.
    let mut each = most;
    loop {
        let mut end = wanted.end.clone();
        for (source, root) in trees() {
            let found = end_in(core, source, keyspace, root, wanted, each)?;
            end = end_before(&end, found, wanted);
        }
        let range = KeyRange::new(wanted.start.clone(), end);
        let mut pages = 0;
        for (source, root) in trees() {
            let more = pages_of_tree(core, source, keyspace, root, &range)?;
            pages = u64::saturating_add(pages, more);
        }
        if pages <= most || each <= 1 {
            return end_by_memory(core, sources, keyspace, range);
        }
        each /= 2;
    }
}

/// The same by what they take in memory: of short keys without numbers a leaf holds very many.
fn end_by_memory(
    core: &Core,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    range: KeyRange,
) -> Result<Option<Vec<u8>>> {
    let mut left = ranges_bytes(core);
    for fragment in source_fragments(&core.pages, keyspace, sources, &range)? {
        let fragment = fragment?;
        match left.checked_sub(fragment.memory_bytes() as u64) {
            Some(less) => left = less,
            None if fragment.start > range.start => return Ok(Some(fragment.start)),
            None => left = 0,
        }
    }
    Ok(range.end)
}

/// The pages of one tree of a source in a range, about.
fn pages_of_tree(
    core: &Core,
    source: &Segment,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    range: &KeyRange,
) -> Result<u64> {
    let (named, range) = match source.is_young() {
        true => (KeyspaceNumber::MANY, composite_range(keyspace, range)),
        false => (keyspace, range.clone()),
    };
    // Of a tree that lies elsewhere its first or its last leaf would count.
    if !source.overlaps(&range) {
        return Ok(0);
    }
    pages_in(&core.pages, named, root, &source.promoted, &range)
}

/// The pages of all trees of sources in a range, about.
fn pages_of_sources(
    core: &Core,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<u64> {
    let mut pages = 0;
    for source in sources {
        for root in source.points.iter().chain(&source.ranges) {
            let more = pages_of_tree(core, source, keyspace, root, range)?;
            pages = u64::saturating_add(pages, more);
        }
    }
    Ok(pages)
}

/// How many pages of range tombstones a step may take.
fn ranges_pages(core: &Core) -> u64 {
    let page_bytes = u64::from(core.pages.layout().page_size);
    (ranges_bytes(core) / RANGES_GROWTH / page_bytes).max(1)
}

/// How many bytes of memory the range tombstones of a step may take: with many threads less, so
/// that all of them together take an eighth of the budget.
fn ranges_bytes(core: &Core) -> u64 {
    let pairs = core.options.merge_threads.div_ceil(2).max(1) as u64;
    core.options.memory_budget / RANGES_PART / pairs
}

/// The lowest parents of the destination, side by side, that the sources touch first in a range;
/// what else is in the range then is touched by nothing, so that it moves along.
fn touched_stretch(
    core: &Core,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    range: &mut KeyRange,
    pages_max: u64,
) -> Result<Stretch> {
    let mut touched = Touched::new(&core.pages, keyspace, sources);
    let first = touched.first_in(range)?.unwrap_or_else(|| range.start.clone());
    let wanted = KeyRange::new(first, range.end.clone());
    let mut is_touched = |parent: &KeyRange| match parent.intersection(&wanted) {
        Some(inside) => Ok(touched.first_in(&inside)?.is_some()),
        None => Ok(false),
    };
    let stretch = load_stretch(&core.pages, keyspace, root, &wanted, pages_max, &mut is_touched)?;
    if let Some(reached) = &stretch.range.end
        && is_before_end(reached, range.end.as_deref())
        && *reached > range.start
        && touched.first_in(&KeyRange::new(reached.clone(), range.end.clone()))?.is_some()
    {
        range.end = Some(reached.clone());
    }
    Ok(stretch)
}

/// The least range that holds both.
fn union(a: &KeyRange, b: &KeyRange) -> KeyRange {
    let end = match (&a.end, &b.end) {
        (Some(a), Some(b)) => Some(a.max(b).clone()),
        _ => None,
    };
    KeyRange { start: a.start.clone().min(b.start.clone()), end }
}

/// Makes the plan, now that its range is reserved; unless an install that came since the state was
/// taken in which sources, target and stretch were found has changed one of their trees. Epochs say
/// nothing here: what was looked at may be older than any state of which the epoch is known.
fn confirm(
    core: &Arc<Core>,
    sources: &[Arc<Segment>],
    keyspace: KeyspaceNumber,
    found: Found,
    target: &Target,
    dropped: bool,
) -> Option<Plan> {
    let state = core.state();
    // It may have been dropped since, and a part of its levels may have left (G8).
    if state.is_dropped(keyspace) != dropped || is_leaving(&state, keyspace) {
        return None;
    }
    let current: Option<Vec<Arc<Segment>>> =
        sources.iter().map(|segment| Core::find_segment(&state, segment.number)).collect();
    let current = current?;
    let destination = Core::find_segment(&state, target.destination.number());
    let same_tree = match (&destination, &target.segment) {
        // A destination has no promoted ranges (G1): what came into it would be hidden.
        (Some(now), Some(then)) => now.points == then.points && now.promoted == then.promoted,
        (None, None) => true,
        _ => false,
    };
    let last_came = target.is_last
        && target.segment.is_none()
        && state.levels_of(keyspace).is_some_and(|levels| levels.last().is_some());
    // What is above the last level by now, and is not taken along, is older than young segments.
    let from_young = sources.iter().any(|source| source.is_young());
    let is_source = |above: &Segment| sources.iter().any(|source| source.number == above.number);
    let above_came = from_young
        && target.is_last
        && state
            .levels_of(keyspace)
            .is_some_and(|levels| levels.above().any(|above| !is_source(above)));
    if last_came || above_came || !same_tree {
        return None;
    }
    // Range and stretch were made for what they held then. One above the last level may have grown
    // since under its number: what came would be marked as promoted unread.
    let is_as_it_was = |(now, then): (&Arc<Segment>, &Arc<Segment>)| {
        now.points == then.points && now.ranges == then.ranges && now.promoted == then.promoted
    };
    if !current.iter().zip(sources).all(is_as_it_was) {
        return None;
    }
    Some(Plan {
        keyspace,
        sources: current,
        range: found.range,
        taken_pages_max: found.taken_pages_max,
        destination: target.destination,
        filter_seed: target.filter_seed,
        stretch: found.stretch,
        is_last: target.is_last,
        dropped,
        evacuate_from: None,
        reservation: found.reservation,
        grant: found.grant,
        state,
    })
}
