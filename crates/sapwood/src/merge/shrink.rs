//! Makes the file smaller in quiet times: what lies in its tail moves to the front, and the tail is
//! cut off.
//!
//! One round: nodes and values above a *ceiling* are written anew below it, the log leaves the
//! tail, the free end is given up, two durable states say so, and the file is cut.
//!
//! *Assumes*: nothing is left to merge: each keyspace is one segment. *Guarantees*: the file is cut
//! only when both header slots name its new length; so a crash at any point opens. It ends: a round
//! that did not help is not made again before something has changed. *Threads*: any; one at a time
//! does something.

use crate::error::{Error, Result};
use crate::page::{Block, NodeRef};
use crate::segment::coverage::child_range;
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::key_range::KeyRange;
use crate::segment::node::{Caching, ParentNode, TreeKind, read_leaf_at, read_parent_at};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::parent::Child;
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_edit::pages_below;
use crate::state::background::{LEVELS_ALL, ShrinkStage};
use crate::state::durable::{Purpose, log_block_pages, log_must_pass, moved_log_block_pages};
use crate::state::reserve::{grant_to_move, moved_pages_with_room, step_pages};
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, LogPosition, PageNumber};

use super::install::Destination;
use super::promote::{Plan, evacuate};
use super::step::{cut_behind_all, make_durable_now, sync};
use super::stretch::load_stretch;

/// So much may lie free in a file at rest, beside a tenth of what is used.
const SLACK_BYTES: u64 = 256 << 10;

/// So many durable states are made in a row to have the log's last blocks below the ceiling.
const LOG_MOVES_MAX: usize = 4;

/// The file is cut when so much would be saved, or a twentieth of it.
const SAVING_BYTES: u64 = 1 << 20;

/// Nothing is left to merge: the state becomes durable, the log and the file small. False when they
/// are.
///
/// # Errors
/// What a step failed with.
pub fn settle(core: &Arc<Core>) -> Result<bool> {
    let mut jobs = core.background.jobs.lock();
    if jobs.shrink.is_out || jobs.pack.is_out {
        return Ok(false);
    }
    jobs.shrink.is_out = true;
    let stage = std::mem::take(&mut jobs.shrink.stage);
    drop(jobs);
    let result = settle_from(core, stage);
    let mut jobs = core.background.jobs.lock();
    jobs.shrink.is_out = false;
    let (stage, done) = match result {
        Ok((stage, done)) => (stage, Ok(done)),
        Err(error) => (ShrinkStage::Rest, Err(error)),
    };
    if stage == ShrinkStage::Rest {
        core.pages.allocator().set_ceiling(None);
    }
    jobs.shrink.stage = stage;
    done
}

/// What can be merged has been: the state becomes durable, and the log small. False when they are.
///
/// # Errors
/// When the state cannot be made durable.
pub fn rest(core: &Core) -> Result<bool> {
    interrupt(core);
    let is_settled = core.durable.is_settled(&core.state(), &core.log.positions());
    if !is_settled {
        make_durable_now(core, Purpose::Idle)?;
    }
    Ok(!is_settled)
}

/// Writes go on: what has begun is left as it is.
pub fn interrupt(core: &Core) {
    let mut jobs = core.background.jobs.lock();
    if !jobs.shrink.is_out && jobs.shrink.stage != ShrinkStage::Rest {
        jobs.shrink.stage = ShrinkStage::Rest;
        core.pages.allocator().set_ceiling(None);
    }
}

fn settle_from(core: &Arc<Core>, stage: ShrinkStage) -> Result<(ShrinkStage, bool)> {
    if let ShrinkStage::Nodes(keyspace, from) = stage {
        // Without a durable state between the steps, unless there is little room: the ceiling
        // leaves room for all.
        return match move_nodes(core, keyspace, from.clone())? {
            Moved::UpTo(keyspace, from) => Ok((ShrinkStage::Nodes(keyspace, from), true)),
            Moved::All => Ok((ShrinkStage::Log, true)),
            // What was moved so far leaves holes.
            Moved::NoRoom if !core.durable.holds_current(&core.state()) => {
                make_durable_now(core, Purpose::Idle)?;
                Ok((ShrinkStage::Nodes(keyspace, from), true))
            }
            Moved::NoRoom => raise_ceiling(core),
        };
    }
    if !core.durable.is_settled(&core.state(), &core.log.positions()) {
        make_durable_now(core, Purpose::Idle)?;
        return Ok((stage, true));
    }
    match stage {
        ShrinkStage::Log => {
            move_log(core)?;
            if core.durable.log_moves(core) {
                // There is no room for it below. Each further durable state would bring new blocks
                // for it into the tail; one without a ceiling gives up those that it has too many.
                let before = core.pages.allocator().ceiling();
                core.pages.allocator().set_ceiling(None);
                make_durable_now(core, Purpose::Idle)?;
                if let Some(ceiling) = higher_ceiling(core, before)? {
                    core.pages.allocator().set_ceiling(Some(ceiling));
                    return Ok((ShrinkStage::Log, true));
                }
                // Nor will there be in a shorter file.
                core.background.jobs.lock().shrink.began_pages = 0;
            }
            Ok((ShrinkStage::Cut, true))
        }
        ShrinkStage::Cut => cut(core).map(|()| (ShrinkStage::Rest, true)),
        _ => begin(core),
    }
}

/// The file's length in pages, the page behind the last one in use, and the used pages.
fn extent(core: &Core) -> Result<(u64, u64, u64)> {
    let storage = core.pages.storage();
    let length = storage
        .length()
        .map_err(|error| Error::io("asking for the length", storage.name(), error))?;
    let extent = core.pages.allocator().extent();
    // It is longer than the allocator knows when an earlier cut was interrupted.
    let pages = length / u64::from(core.pages.layout().page_size);
    // What the reserve needs stays.
    let cut_end = core.pages.allocator().cut_end().max(extent.used_end);
    Ok((pages.max(extent.file_pages), cut_end, extent.given_pages))
}

fn is_worthwhile(core: &Core, from: u64, to: u64) -> bool {
    let page_size = u64::from(core.pages.layout().page_size);
    from.saturating_sub(to) >= (SAVING_BYTES / page_size).min(from / 20).max(1)
}

fn begin(core: &Core) -> Result<(ShrinkStage, bool)> {
    let view = core.view();
    if !view.active.is_empty() || !view.sealed.is_empty() {
        // Another thread flushes: before its install the log cannot be cut.
        return Ok((ShrinkStage::Rest, false));
    }
    let (file, used_end, given) = extent(core)?;
    let slack = SLACK_BYTES / u64::from(core.pages.layout().page_size);
    let ceiling = given + given / 10 + slack;
    let epoch = core.state().epoch;
    let mut jobs = core.background.jobs.lock();
    jobs.shrink.began_pages = file;
    jobs.shrink.damage = None;
    // A round may leave some pages more in use or fewer than the one before.
    let tried = jobs.shrink.tried.is_some_and(|(of, length, used)| {
        (of, length) == (epoch, file) && !is_worthwhile(core, used, given)
    });
    drop(jobs);
    if tried {
        return Ok((ShrinkStage::Rest, false));
    }
    if !is_worthwhile(core, file, ceiling.min(used_end)) {
        let lone =
            log_block_at_the_end(core).filter(|block| is_worthwhile(core, file, block.first.0));
        return Ok(match lone {
            Some(block) => {
                core.pages.allocator().set_ceiling(Some(block.first));
                (ShrinkStage::Log, true)
            }
            None => (ShrinkStage::Rest, false),
        });
    }
    if used_end <= ceiling {
        return Ok((ShrinkStage::Cut, true));
    }
    core.pages.allocator().set_ceiling(Some(PageNumber(ceiling)));
    Ok((ShrinkStage::Nodes(KeyspaceNumber(0), Vec::new()), true))
}

/// A block of the log that is the last thing in the file, when there is a hole for it before: of a
/// small file it is much, and it fits without any slack.
fn log_block_at_the_end(core: &Core) -> Option<Block> {
    let allocator = core.pages.allocator();
    let end = allocator.extent().used_end;
    let blocks = core.log.placed_blocks();
    let (block, _) = blocks.into_iter().find(|(block, _)| block.end().0 == end)?;
    let pages = moved_log_block_pages(block.pages.max(log_block_pages(core.pages.layout())));
    allocator.has_place_before(block.first, pages).then_some(block)
}

/// The holes below the ceiling do not take what lies above it: the next try asks for half as much.
fn raise_ceiling(core: &Core) -> Result<(ShrinkStage, bool)> {
    let (_, used_end, _) = extent(core)?;
    let allocator = core.pages.allocator();
    let before = allocator.ceiling().map_or(used_end, |page| page.0);
    let ceiling = u64::midpoint(before, used_end);
    if ceiling <= before || !is_worthwhile(core, used_end, ceiling) {
        return Ok((ShrinkStage::Log, true));
    }
    allocator.set_ceiling(Some(PageNumber(ceiling)));
    Ok((ShrinkStage::Nodes(KeyspaceNumber(0), Vec::new()), true))
}

/// The same for the log. Each is higher than the one before by half of what is still worth while.
fn higher_ceiling(core: &Core, before: Option<PageNumber>) -> Result<Option<PageNumber>> {
    let began_pages = core.background.jobs.lock().shrink.began_pages;
    let end = extent(core)?.1.min(began_pages);
    let before = before.map_or(end, |page| page.0);
    let ceiling = u64::midpoint(before, end);
    let is_higher = ceiling > before && is_worthwhile(core, end, ceiling);
    Ok(is_higher.then_some(PageNumber(ceiling)))
}

/// How far a step of moving nodes came.
enum Moved {
    /// It goes on here.
    UpTo(KeyspaceNumber, Vec<u8>),
    /// Nothing is left above the ceiling that can be moved.
    All,
    /// There is no room below it, or others work there.
    NoRoom,
}

/// Gives up the free end of the file, in both slots, and cuts it.
fn cut(core: &Core) -> Result<()> {
    let (before, used_end, _) = extent(core)?;
    if is_worthwhile(core, before, used_end) {
        if core.pages.allocator().shrink_to_used().is_none() {
            // Somebody else was making a state durable, perhaps.
            make_durable_now(core, Purpose::Idle)?;
            core.pages.allocator().shrink_to_used();
        }
        make_durable_now(core, Purpose::Idle)?;
        make_durable_now(core, Purpose::Idle)?;
        core.pages.cut_file().map_err(|error| core.stop(&error))?;
    }
    let (after, _, given) = extent(core)?;
    let epoch = core.state().epoch;
    let mut jobs = core.background.jobs.lock();
    let damage = jobs.shrink.damage.take();
    // What the system refuses may go the next time; not again and again.
    let is_refusal = damage.as_ref().is_some_and(|error| !error.is_corruption());
    let was_refused = std::mem::replace(&mut jobs.shrink.was_refused, is_refusal);
    let goes_again = is_refusal && !was_refused;
    // The round itself may have made the file longer for a while.
    let has_helped = damage.is_none() && is_worthwhile(core, jobs.shrink.began_pages, after);
    if !has_helped && !goes_again {
        jobs.shrink.tried = Some((epoch, after, given));
    }
    damage.map_or(Ok(()), Err)
}

/// Has the log leave the tail: new blocks come behind the present ones, records that say nothing
/// lead over to them, and a new cut lets go of those before.
fn move_log(core: &Arc<Core>) -> Result<()> {
    // What one state lets go of may be the room that the next one needs.
    for _ in 0..LOG_MOVES_MAX {
        if core.durable.log_moves(core) {
            make_durable_now(core, Purpose::Idle)?;
        }
    }
    if core.durable.log_moves(core) {
        // There was no room below.
        return Ok(());
    }
    match log_must_pass(core) {
        Some(position) => advance_cut(core, position),
        None => Ok(()),
    }
}

fn advance_cut(core: &Arc<Core>, position: LogPosition) -> Result<()> {
    let order = core.commit_order.lock();
    let view = core.view();
    let is_idle = view.active.is_empty() && view.sealed.is_empty();
    if !is_idle || !core.log.pad_to(position).map_err(|error| core.stop(&error))? {
        return Ok(());
    }
    drop(order);
    sync(core)?;
    cut_behind_all(core)
}

/// Moves some nodes that lie above the ceiling.
fn move_nodes(core: &Arc<Core>, keyspace: KeyspaceNumber, from: Vec<u8>) -> Result<Moved> {
    let Some(ceiling) = core.pages.allocator().ceiling() else { return Ok(Moved::All) };
    let state = core.state();
    let mut from = from;
    for (number, levels) in state.levels.range(keyspace..) {
        if *number != keyspace {
            from.clear();
        }
        let Some(last) = levels.last() else { continue };
        let Some(root) = &last.points else { continue };
        if !last.promoted.is_empty() {
            // It is leaving: what has left may hold anything.
            continue;
        }
        match move_high(core, &state, *number, last, root, &from, ceiling) {
            Ok(None) => {}
            Ok(Some(moved)) => return Ok(moved),
            // Others need not stay where they are because of this one.
            Err(error) if is_of_keyspace(core, &error) => {
                core.background.jobs.lock().shrink.damage.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Moved::All)
}

/// Something of a keyspace cannot be read, or its copy not be written, and writing goes on.
pub(super) fn is_of_keyspace(core: &Core, error: &Error) -> bool {
    error.is_corruption() || matches!(error, Error::Io { .. }) && !core.has_stopped()
}

/// The same in one keyspace, from a key on; `None` when nothing of it lies there. Where there is
/// little room, steps are small ones, down to one lowest parent.
fn move_high(
    core: &Arc<Core>,
    state: &Arc<State>,
    keyspace: KeyspaceNumber,
    last: &Arc<Segment>,
    root: &TreeRoot,
    from: &[u8],
    ceiling: PageNumber,
) -> Result<Option<Moved>> {
    let mut pages_max = step_pages(core);
    let next = loop {
        let found = find_high(core, keyspace, root, ceiling, from, pages_max)?;
        let Some(range) = found else { return Ok(None) };
        match move_range(core, state, keyspace, last, root, &range, Some(ceiling)) {
            Ok(true) => break range.end,
            Ok(false) => return Ok(Some(Moved::NoRoom)),
            Err(Error::NoSpace { .. }) if pages_max > 1 => {
                pages_max = (pages_max / 2).min(moved_pages_with_room(core)).max(1);
            }
            Err(Error::NoSpace { .. }) => return Ok(Some(Moved::NoRoom)),
            Err(error) => return Err(error),
        }
    };
    Ok(Some(match (next, keyspace.0.checked_add(1)) {
        (Some(end), _) => Moved::UpTo(keyspace, end),
        (None, Some(next)) => Moved::UpTo(KeyspaceNumber(next), Vec::new()),
        (None, None) => Moved::All,
    }))
}

/// Writes the leaves of a range anew: those that lie above the ceiling, or all of them when there
/// is none. False when there is no room below it, or others work there.
///
/// # Errors
/// `NoSpace` when there is no room for a step of this size; and what it failed with.
pub(super) fn move_range(
    core: &Arc<Core>,
    state: &Arc<State>,
    keyspace: KeyspaceNumber,
    last: &Arc<Segment>,
    root: &TreeRoot,
    range: &KeyRange,
    ceiling: Option<PageNumber>,
) -> Result<bool> {
    let stretch = load_stretch(&core.pages, keyspace, root, range, u64::MAX, &mut |_| Ok(true))?;
    let reserved = stretch.range.clone();
    let reservations = &core.background.reservations;
    let Ok(reservation) = reservations.reserve(keyspace, LEVELS_ALL, reserved) else {
        return Ok(false);
    };
    let now = core.state();
    let same_tree = now.epoch == state.epoch
        || Core::find_segment(&now, last.number)
            .is_some_and(|now| now.points == last.points && now.promoted == last.promoted);
    if !same_tree {
        return Ok(false);
    }
    let Some(grant) = grant_to_move(core, stretch.pages())? else { return Ok(false) };
    let plan = Plan {
        grant,
        keyspace,
        sources: Vec::new(),
        range: stretch.range.clone(),
        destination: Destination::Existing(last.number),
        filter_seed: last.filter.seed,
        stretch: Some(stretch),
        is_last: true,
        dropped: false,
        taken_pages_max: 0,
        evacuate_from: ceiling,
        reservation,
        state: now,
    };
    // Room for values is looked for one by one: a smaller step may have it.
    let before = plan.state.epoch;
    let installed = evacuate(core, plan)?;
    let pack = &mut core.background.jobs.lock().pack;
    // What was moved beside leaves that nobody has looked at is looked at with them.
    if ceiling.is_none() || pack.has_looked(before) {
        installed.into_iter().for_each(|epoch| pack.own.insert(epoch));
    }
    Ok(installed.is_some())
}

/// The search for lowest parents with something above the ceiling.
struct Search<'a> {
    core: &'a Core,
    keyspace: KeyspaceNumber,
    ceiling: PageNumber,
    from: &'a [u8],
    pages_max: u64,
    /// An upper parent on the way lies above: any lowest parent below it will do, since its path is
    /// made anew.
    upper: bool,
    found: Option<KeyRange>,
    pages: u64,
    done: bool,
}

/// The first run of lowest parents from a key on that have something above the ceiling: no more
/// than one behind so many pages.
fn find_high(
    core: &Core,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    ceiling: PageNumber,
    from: &[u8],
    pages_max: u64,
) -> Result<Option<KeyRange>> {
    if root.height == 0 {
        let is_high = from.is_empty()
            && (root.reference.block().end() > ceiling
                || lone_leaf_has_high_values(core, keyspace, root, ceiling)?);
        return Ok(is_high.then(KeyRange::all));
    }
    let (upper, found, pages, done) = (false, None, 0, false);
    let mut search = Search { core, keyspace, ceiling, from, pages_max, upper, found, pages, done };
    search.visit(&root.reference, root.height, root.pages, &KeyRange::all())?;
    Ok(search.found)
}

/// Of a tree of one leaf no list says where its values lie.
fn lone_leaf_has_high_values(
    core: &Core,
    keyspace: KeyspaceNumber,
    root: &TreeRoot,
    ceiling: PageNumber,
) -> Result<bool> {
    if root.pages <= u64::from(root.reference.pages) {
        return Ok(false);
    }
    let (kind, how, all) = (TreeKind::Points, Caching::Pass, KeyRange::all());
    let leaf = read_leaf_at(&core.pages, &root.reference, keyspace, kind, how, &all)?;
    let block = leaf.view();
    for index in 0..block.len() {
        let entry = block.entry(index).map_err(|p| leaf.damage(p))?;
        if entry.kind != EntryKind::PutOverflow {
            continue;
        }
        let value = OverflowReference::decode(entry.value).map_err(|p| leaf.damage(p))?;
        if value.blocks.iter().any(|block| block.end() > ceiling) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Search<'_> {
    fn visit(
        &mut self,
        reference: &NodeRef,
        height: u8,
        pages: u64,
        range: &KeyRange,
    ) -> Result<()> {
        if height == 1 {
            return self.visit_lowest(reference, pages, range);
        }
        self.upper |= self.is_high(reference);
        let node = read_parent_at(&self.core.pages, reference, self.keyspace, height, range)?;
        let parent = node.view();
        for index in parent.child_for(self.from)..parent.len() {
            let child: Child = parent.child(index).map_err(|p| node.damage(p))?;
            let below = child_range(&node, index, range)?;
            self.visit(&child.reference, height - 1, pages_below(&child), &below)?;
            if self.done {
                break;
            }
        }
        Ok(())
    }

    fn visit_lowest(&mut self, reference: &NodeRef, pages: u64, range: &KeyRange) -> Result<()> {
        let wanted = std::mem::take(&mut self.upper) || self.is_wanted(reference, range)?;
        match &mut self.found {
            Some(_) if !wanted => self.done = true,
            None if !wanted => {}
            Some(found) => found.end.clone_from(&range.end),
            None => self.found = Some(range.clone()),
        }
        if wanted {
            self.pages = self.pages.saturating_add(pages);
            self.done = self.pages >= self.pages_max;
        }
        Ok(())
    }

    fn is_high(&self, reference: &NodeRef) -> bool {
        reference.block().end() > self.ceiling
    }

    /// True when a lowest parent, or anything that it names, lies above the ceiling.
    fn is_wanted(&self, reference: &NodeRef, range: &KeyRange) -> Result<bool> {
        if self.is_high(reference) {
            return Ok(true);
        }
        let node = read_parent_at(&self.core.pages, reference, self.keyspace, 1, range)?;
        let parent = node.view();
        for list in [parent.pieces(), parent.overflow_lists()] {
            for index in 0..list.len() {
                if self.is_high(&list.get(index).map_err(|p| node.damage(p))?) {
                    return Ok(true);
                }
            }
        }
        for index in 0..parent.len() {
            let child = parent.child(index).map_err(|p| node.damage(p))?;
            if self.is_high(&child.reference) {
                return Ok(true);
            }
        }
        self.has_high_values(&node)
    }

    fn has_high_values(&self, node: &ParentNode) -> Result<bool> {
        let mut is_high = false;
        node.visit_overflow(&self.core.pages, &mut |item| {
            is_high = item.blocks.iter().any(|block| block.end() > self.ceiling);
            Ok(!is_high)
        })?;
        Ok(is_high)
    }
}
