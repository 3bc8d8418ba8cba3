//! Puts what a step made into the next state: one install at a time, in memory.
//!
//! *Assumes*: I3: reservations exclude each other, so the separators that a step was planned with
//! still exist. *Guarantees*: I1, E1; after an error nothing has changed and every block of the
//! step is free again. *Threads*: under the install lock; readers and commits go on, and see the
//! next view at once.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::page::{Block, Charge, Counted, PageSet, StateNeed};
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::{Bounds, Segment, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::parent_writer::{Lowest, ParentEntry};
use crate::segment::range_tombstone::Fragment;
use crate::segment::segment_filter::SegmentFilter;
use crate::segment::tree_edit::{Replacement, TreeChange, TreeEdit};
use crate::state::background::Reservation;
use crate::state::catalogue::Catalogue;
use crate::state::dead_list::Dead;
use crate::state::open_transactions::{FlushRecord, FlushedRuns};
use crate::state::view::{MemtableSlot, View};
use crate::state::{Contents, Core, Cut, Levels, PromotedLeaves, State};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::{Epoch, KeyspaceNumber};

use super::add_ranges::RangesEdit;
use super::drop_keyspace::Leaving;

/// Which segment an edit changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// One that is in the state.
    Existing(u64),
    /// A new one, of that number, first in the top level of those above the last.
    NewAbove(u64),
    /// A new one, of that number, the one of the last level.
    NewLast(u64),
}

impl Destination {
    /// The segment's number.
    pub fn number(self) -> u64 {
        match self {
            Destination::Existing(number)
            | Destination::NewAbove(number)
            | Destination::NewLast(number) => number,
        }
    }
}

/// "The lowest parents between these separators are replaced by these."
#[derive(Debug)]
pub struct LevelEdit {
    /// The keyspace.
    pub keyspace: KeyspaceNumber,
    /// The segment.
    pub destination: Destination,
    /// The seed of its filters, when it is new.
    pub filter_seed: u64,
    /// The separators of the lowest parents that are replaced lie in here; all of them when the
    /// tree is replaced whole.
    pub replaced: KeyRange,
    /// The tree is replaced whole.
    pub whole: bool,
    /// What comes in their place.
    pub lowest: Lowest,
    /// Range tombstones to add, in order, cut to the step's range, without numbers.
    pub fragments: Vec<Fragment>,
    /// Where the new keys lie.
    pub bounds: Option<Bounds>,
}

/// All that a step changes.
#[derive(Debug, Default)]
pub struct Change {
    /// Blocks that the step wrote: free again when the install fails.
    pub written: Vec<Block>,
    /// Blocks that were there before and come into the state now: overflow values that commits
    /// wrote.
    pub adopted: Vec<Block>,
    /// The same as pages: of a commit by reference, which may have millions.
    pub adopted_pages: PageSet,
    /// What dies, apart from upper parents of edited trees and nodes of promoted ranges.
    pub died: Vec<Dead>,
    /// A new young segment.
    pub young: Option<Segment>,
    /// Edits of levels.
    pub edits: Vec<LevelEdit>,
    /// What has moved out of segments, in the keys of their trees.
    pub promoted: Vec<(u64, KeyRange)>,
    /// The memtable that was flushed, with its cut.
    pub flushed: Option<(Arc<MemtableSlot>, Cut)>,
    /// The runs of the flush that went to the last level.
    pub runs: Vec<(KeyspaceNumber, KeyRange)>,
    /// A new cut: nothing but padding and records of states lies between it and the present one.
    pub cut: Option<Cut>,
    /// What leaves of a dropped keyspace.
    pub dropped: Option<Leaving>,
    /// What the step reserved beside its plan; held until the install is done.
    pub reserved: Option<Reservation>,
    /// What the step holds in memory until then.
    pub held: Option<Charge>,
}

/// The next state in the making.
struct Making<'a> {
    core: &'a Core,
    contents: Contents,
    promoted_leaves: PromotedLeaves,
    /// Blocks that the next state has and the present one has not.
    born: Vec<Block>,
    /// Those of them that the install itself has allotted.
    made: Vec<Block>,
    died: Vec<Dead>,
}

/// Installs a change; returns the new state.
///
/// # Errors
/// When no page can be had, or a parent cannot be read. The step's blocks are free then, and it can
/// be made again.
pub fn install(core: &Core, mut change: Change) -> Result<Arc<State>> {
    core.collect_released();
    let order = core.install_order.lock();
    if let Err(error) = core.check_writable() {
        drop(order);
        return Err(error);
    }
    let epoch = Epoch(core.next_epoch.load(Ordering::Relaxed));
    let base = core.state();
    let mut contents = (**base).clone();
    contents.epoch = epoch;
    let mut making = Making {
        core,
        contents,
        promoted_leaves: base.promoted_leaves().clone(),
        born: Vec::new(),
        made: Vec::new(),
        died: std::mem::take(&mut change.died),
    };
    if let Err(error) = making.apply(&mut change, epoch) {
        for block in making.made.iter().chain(&change.written) {
            core.pages.free(*block);
        }
        return Err(error);
    }
    making.born.extend(change.written.iter().chain(&change.adopted));
    core.next_epoch.store(epoch.0 + 1, Ordering::Relaxed);
    #[cfg(feature = "internals")]
    making.check_before(&base, &change);
    let state = making.swap_in(&base, &change, epoch);
    core.reserve.note_state(&state);
    core.pages.budget().need_states(StateNeed::Current, state.bytes());
    core.pages.allocator().set_kept_free(core.reserve.at_rest());
    #[cfg(feature = "internals")]
    if let Some(check) = &mut *core.install_check.lock() {
        check.after(core);
    }
    drop(order);
    drop(base);
    core.limit_transactions();
    core.collect_released();
    core.charge_memtables();
    Ok(state)
}

impl Making<'_> {
    fn apply(&mut self, change: &mut Change, epoch: Epoch) -> Result<()> {
        // Edits of one tree are made in one go: its upper parents are rewritten once.
        let mut edits = std::mem::take(&mut change.edits).into_iter().peekable();
        while let Some(first) = edits.next() {
            let (keyspace, destination) = (first.keyspace, first.destination);
            let mut group = vec![first];
            let is_same =
                |edit: &LevelEdit| edit.keyspace == keyspace && edit.destination == destination;
            while let Some(next) = edits.next_if(is_same) {
                group.push(next);
            }
            self.edit(group, epoch)?;
        }
        for (number, range) in &change.promoted {
            self.promote(*number, range)?;
        }
        if let Some(young) = change.young.take() {
            self.contents.young.insert(0, Arc::new(born_at(young, epoch)));
        }
        if let Some((slot, _)) = &change.flushed {
            let adopted = slot.segments().iter().map(|s| Arc::new(born_at((**s).clone(), epoch)));
            self.contents.young.splice(0..0, adopted);
        }
        if let Some((slot, cut)) = &change.flushed {
            let changes = slot.catalogue_changes.lock();
            // Whoever holds states shares it, as long as no keyspace comes or goes.
            if !changes.is_empty() {
                let mut catalogue: Catalogue = (*self.contents.catalogue).clone();
                changes.iter().for_each(|change| catalogue.apply(change));
                self.contents.catalogue = Arc::new(catalogue);
            }
            drop(changes);
            self.contents.cut = *cut;
        }
        if let Some(cut) = change.cut {
            self.contents.cut = cut;
        }
        if let Some(leaving) = change.dropped.take() {
            self.leave(leaving)?;
        }
        self.contents.levels.retain(|_, levels| !levels.is_empty());
        self.forget_dropped_keyspaces();
        Ok(())
    }

    /// A dropped keyspace of which nothing is left needs no entry any more.
    fn forget_dropped_keyspaces(&mut self) {
        let contents = &self.contents;
        let gone: Vec<KeyspaceNumber> = contents
            .catalogue
            .iter()
            .filter(|(number, entry)| {
                entry.dropped && contents.segments_of(*number).next().is_none()
            })
            .map(|(number, _)| number)
            .collect();
        if !gone.is_empty() {
            let mut catalogue: Catalogue = (*self.contents.catalogue).clone();
            for number in gone {
                catalogue.remove(number);
                self.core.background.damaged.forget_all_of(number);
            }
            self.contents.catalogue = Arc::new(catalogue);
        }
    }

    /// Makes edits of one segment, in the order of their keys.
    fn edit(&mut self, mut edits: Vec<LevelEdit>, epoch: Epoch) -> Result<()> {
        let Some(first) = edits.first() else { return Ok(()) };
        let keyspace = first.keyspace;
        let mut levels: Levels =
            self.contents.levels_of(keyspace).map(|levels| (**levels).clone()).unwrap_or_default();
        let number = place_destination(&mut levels, first);
        let slot = levels.levels.iter_mut().flatten().find(|segment| segment.number == number);
        let Some(slot) = slot else {
            return Err(mismatch(epoch, "the destination of a promotion is gone"));
        };
        let mut segment: Segment = (**slot).clone();
        let mut fragments = Vec::new();
        for edit in &mut edits {
            fragments.append(&mut edit.fragments);
            segment.bounds = match (segment.bounds.take(), edit.bounds.take()) {
                (Some(old), Some(new)) => Some(old.union(&new)),
                (old, new) => old.or(new),
            };
        }
        if !fragments.is_empty() {
            self.add_fragments(&mut segment, keyspace, &fragments, epoch)?;
        }
        let tree = TreeEdit::new(&self.core.pages, keyspace, epoch);
        let change = match &segment.points {
            Some(root) if !edits.iter().any(|edit| edit.whole) => {
                tree.replace_all(root, edits.into_iter().map(replacement_of).collect())?
            }
            Some(root) => tree.rebuild(root, whole_of(edits))?,
            None => tree.build(whole_of(edits))?,
        };
        segment.points = self.take_tree_change(change);
        let empty = segment.points.is_none() && segment.ranges.is_none();
        *slot = Arc::new(segment);
        if empty {
            remove_segment(&mut levels, number);
            self.promoted_leaves.forget(number);
        }
        self.contents.levels.insert(keyspace, Arc::new(levels));
        Ok(())
    }

    fn take_tree_change(&mut self, change: TreeChange) -> Option<TreeRoot> {
        self.died.extend(change.died.iter().map(|(block, birth)| Dead::node(*block, *birth)));
        self.born.extend_from_slice(&change.born);
        self.made.extend_from_slice(&change.born);
        change.root
    }

    /// Adds range tombstones to a segment of a level, against its ranges tree of this moment (G3).
    fn add_fragments(
        &mut self,
        segment: &mut Segment,
        keyspace: KeyspaceNumber,
        fragments: &[Fragment],
        epoch: Epoch,
    ) -> Result<()> {
        let leaf_bytes = self.core.options.leaf_pages_bytes() as usize;
        let edit = RangesEdit { pages: &self.core.pages, keyspace, leaf_bytes, epoch };
        let change = edit.add(segment.ranges.as_ref(), fragments)?;
        self.born.extend_from_slice(&change.written);
        self.made.extend_from_slice(&change.written);
        self.died.extend(change.died);
        segment.ranges = self.take_tree_change(change.tree);
        Ok(())
    }

    /// Notes that a range has moved out of a segment; what lay in it alone dies.
    fn promote(&mut self, number: u64, range: &KeyRange) -> Result<()> {
        let young = self.contents.young.iter().position(|segment| segment.number == number);
        let keyspace = match young {
            Some(_) => KeyspaceNumber::MANY,
            None => self.keyspace_of(number)?,
        };
        let Some(segment) = self.find(number) else {
            return Err(mismatch(self.contents.epoch, "the source of a promotion is gone"));
        };
        let mut promoted = (*segment.promoted).clone();
        promoted.insert(range.clone());
        let mut died = Vec::new();
        let pages = &self.core.pages;
        if let Some(root) = &segment.points {
            let covered = newly_covered(pages, keyspace, root, &segment.promoted, &promoted)?;
            died.extend(covered.nodes);
            self.promoted_leaves.add(number, covered.leaf_count);
        }
        let gone = promoted.covers(&KeyRange::all());
        if gone {
            // Range tombstones reach over the borders of leaves, so their tree goes as one.
            let all: KeyRanges = [KeyRange::all()].into_iter().collect();
            if let Some(root) = &segment.ranges {
                let covered = newly_covered(pages, keyspace, root, &KeyRanges::new(), &all)?;
                died.extend(covered.nodes);
            }
            let birth = segment.points.iter().chain(&segment.ranges).map(|root| root.birth).min();
            let birth = birth.unwrap_or(Epoch(0));
            died.extend(segment.filter.nodes.iter().map(|node| (node.block(), birth)));
        }
        self.died.extend(died.iter().map(|(block, birth)| Dead::node(*block, *birth)));
        let next = Segment { promoted: Arc::new(promoted), ..(*segment).clone() };
        self.put(number, (!gone).then(|| Arc::new(next)));
        Ok(())
    }

    fn find(&self, number: u64) -> Option<Arc<Segment>> {
        let levels = self.contents.levels.values().flat_map(|levels| levels.iter());
        self.contents.young.iter().chain(levels).find(|segment| segment.number == number).cloned()
    }

    fn keyspace_of(&self, number: u64) -> Result<KeyspaceNumber> {
        let mut levels = self.contents.levels.iter();
        levels
            .find(|(_, levels)| levels.iter().any(|segment| segment.number == number))
            .map(|(keyspace, _)| *keyspace)
            .ok_or_else(|| mismatch(self.contents.epoch, "the source of a promotion is gone"))
    }

    /// Puts another value in a segment's place, or takes it out.
    fn put(&mut self, number: u64, segment: Option<Arc<Segment>>) {
        if segment.is_none() {
            self.promoted_leaves.forget(number);
        }
        if let Some(index) = self.contents.young.iter().position(|young| young.number == number) {
            match segment {
                Some(segment) => self.contents.young[index] = segment,
                None => {
                    self.contents.young.remove(index);
                }
            }
            return;
        }
        let Ok(keyspace) = self.keyspace_of(number) else { return };
        let Some(levels) = self.contents.levels.get(&keyspace) else { return };
        let mut levels: Levels = (**levels).clone();
        match segment {
            Some(segment) => {
                let slot = levels.levels.iter_mut().flatten().find(|s| s.number == number);
                if let Some(slot) = slot {
                    *slot = segment;
                }
            }
            None => remove_segment(&mut levels, number),
        }
        self.contents.levels.insert(keyspace, Arc::new(levels));
    }

    /// A part of a segment of a dropped keyspace leaves, with what lay in it (G7, G8).
    fn leave(&mut self, leaving: Leaving) -> Result<()> {
        let Some(segment) = self.find(leaving.segment) else {
            return Err(mismatch(self.contents.epoch, "a segment of a dropped keyspace is gone"));
        };
        let mut promoted = (*segment.promoted).clone();
        promoted.insert(leaving.range);
        self.promoted_leaves.add(leaving.segment, leaving.leaf_count);
        let gone = promoted.covers(&KeyRange::all());
        let next = Segment { promoted: Arc::new(promoted), ..(*segment).clone() };
        self.put(leaving.segment, (!gone).then(|| Arc::new(next)));
        self.died.extend(leaving.died);
        Ok(())
    }

    /// Shows what is about to happen to whoever checks installs.
    #[cfg(feature = "internals")]
    fn check_before(&self, base: &Arc<State>, change: &Change) {
        if let Some(check) = &mut *self.core.install_check.lock() {
            let adopted = change.adopted_pages.difference(&PageSet::new());
            let born: Vec<Block> = self.born.iter().copied().chain(adopted.iter()).collect();
            check.before(
                self.core,
                &crate::state::install_check::Installing {
                    base,
                    next: &self.contents,
                    born: &born,
                    died: self.died.clone(),
                    flushed: change.flushed.as_ref().map(|(slot, _)| &**slot),
                },
            );
        }
    }

    /// Everything that cannot fail: the dead find their lists, the maps their bits, the view is
    /// swapped.
    fn swap_in(self, base: &Arc<State>, change: &Change, epoch: Epoch) -> Arc<State> {
        let Making { core, contents, promoted_leaves, born, mut died, .. } = self;
        let allocator = core.pages.allocator();
        for block in &born {
            allocator.reference(*block);
        }
        allocator.reference_all(&change.adopted_pages);
        // A value that never was in a state was never referenced by one; and whoever can read it
        // has the memtable, with a state that is no older than that (E2).
        let since = change.flushed.as_ref().map_or(Epoch(0), |(slot, _)| slot.since);
        for dead in &mut died {
            match dead.birth {
                Epoch(0) => dead.birth = since,
                _ => allocator.dereference(dead.block),
            }
        }
        let state =
            State::new(contents, promoted_leaves, core.pages.budget(), core.held.releases());
        // A transaction that ends meanwhile gives back what is taken here (E1).
        core.held.replaced(base.epoch, || {
            core.transactions.hold(&mut died, epoch);
            died
        });
        if let Some((slot, cut)) = &change.flushed {
            let added = state.young.len().saturating_sub(base.young.len());
            let young = state.young.iter().take(added).cloned().collect();
            let runs = flushed_runs(&change.runs, &state);
            let last = cut.sequence;
            core.transactions.flushed(FlushRecord { last, epoch, young, runs });
            if let Some(commit) = &slot.by_reference {
                // A state references them from now on, and the log names them.
                core.pending.take(commit.blocks);
                core.log_named.hold_state(cut.position, state.clone());
            }
            slot.home.move_to(state.clone());
        }
        core.change_view(|view| View {
            active: view.active.clone(),
            sealed: match &change.flushed {
                None => view.sealed.clone(),
                Some((slot, _)) => {
                    let others = view.sealed.iter().filter(|other| !Arc::ptr_eq(other, slot));
                    others.cloned().collect()
                }
            },
            state: state.clone(),
        });
        state
    }
}

/// Where the runs of a flush lie in the state that it made.
fn flushed_runs(
    runs: &[(KeyspaceNumber, KeyRange)],
    state: &State,
) -> BTreeMap<KeyspaceNumber, FlushedRuns> {
    let mut flushed = BTreeMap::<_, FlushedRuns>::new();
    for (keyspace, range) in runs {
        let last = state.levels_of(*keyspace).and_then(|levels| levels.last());
        let root = last.and_then(|last| last.points.clone());
        assert!(root.is_some(), "a run lies in the last level of the state that it made");
        let Some(root) = root else { continue };
        let new = || FlushedRuns { ranges: KeyRanges::new(), root };
        flushed.entry(*keyspace).or_insert_with(new).ranges.insert(range.clone());
    }
    flushed
}

fn mismatch(epoch: Epoch, detail: &str) -> Error {
    Error::MergeMismatch { epoch, detail: detail.to_owned() }
}

/// A segment whose trees were written before the epoch was known.
fn born_at(segment: Segment, epoch: Epoch) -> Segment {
    let birth = |root: Option<TreeRoot>| root.map(|root| TreeRoot { birth: epoch, ..root });
    Segment { points: birth(segment.points), ranges: birth(segment.ranges), ..segment }
}

fn parents_of(lowest: Lowest) -> Vec<ParentEntry> {
    match lowest {
        Lowest::Parents(parents) => parents,
        // A stretch of a tree is made of parents, whatever their number of children.
        Lowest::Leaf(_) => unreachable!("a lone leaf is made for a whole tree only"),
    }
}

fn replacement_of(edit: LevelEdit) -> Replacement {
    let KeyRange { start, end } = edit.replaced;
    Replacement { start, end, new: parents_of(edit.lowest) }
}

/// What a tree that is replaced whole, or that was not there, is made of.
fn whole_of(mut edits: Vec<LevelEdit>) -> Lowest {
    match edits.pop() {
        Some(edit) if edits.is_empty() => edit.lowest,
        last => {
            let edits = edits.into_iter().chain(last);
            Lowest::Parents(edits.flat_map(|edit| parents_of(edit.lowest)).collect())
        }
    }
}

/// The number of the segment that an edit changes; a new one is put in its place.
fn place_destination(levels: &mut Levels, edit: &LevelEdit) -> u64 {
    let new = |number| {
        Arc::new(Segment {
            number,
            points: None,
            ranges: None,
            filter: SegmentFilter::new(edit.filter_seed, Vec::new()),
            bounds: None,
            sequences: None,
            promoted: Arc::new(KeyRanges::new()),
            keyspaces: Arc::default(),
            counted: Counted::default(),
        })
    };
    let present = |levels: &Levels, number| levels.iter().any(|segment| segment.number == number);
    match edit.destination {
        Destination::Existing(number) => number,
        Destination::NewLast(number) => {
            if !present(levels, number) {
                match levels.levels.last_mut() {
                    Some(last) => last.push(new(number)),
                    None => levels.levels.push(vec![new(number)]),
                }
            }
            number
        }
        Destination::NewAbove(number) => {
            if !present(levels, number) {
                // Above the last level also where nothing is left there.
                while levels.levels.len() < 2 {
                    levels.levels.insert(0, Vec::new());
                }
                if let Some(first) = levels.levels.first_mut() {
                    first.insert(0, new(number));
                }
            }
            number
        }
    }
}

/// Takes a segment out; levels above the last that are empty go too.
fn remove_segment(levels: &mut Levels, number: u64) {
    for level in &mut levels.levels {
        level.retain(|segment| segment.number != number);
    }
    let last = levels.levels.pop();
    levels.levels.retain(|level| !level.is_empty());
    levels.levels.extend(last);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::key_range::KeyRange;

    /// A step that was planned above a last level installs when nothing of the keyspace is left.
    /// What it keeps for those below, tombstones above all, must not lie in a last level.
    #[test]
    fn what_goes_above_a_last_level_that_has_gone_is_not_the_last() {
        let edit = |destination| LevelEdit {
            keyspace: KeyspaceNumber(1),
            destination,
            filter_seed: 0,
            replaced: KeyRange::all(),
            whole: true,
            lowest: Lowest::Parents(Vec::new()),
            fragments: Vec::new(),
            bounds: None,
        };
        let mut levels = Levels::default();
        place_destination(&mut levels, &edit(Destination::NewAbove(7)));
        assert!(levels.last().is_none());
        assert_eq!(levels.above().map(|segment| segment.number).collect::<Vec<_>>(), [7]);
        place_destination(&mut levels, &edit(Destination::NewLast(8)));
        assert_eq!(levels.last().map(|segment| segment.number), Some(8));
        assert_eq!(levels.above().map(|segment| segment.number).collect::<Vec<_>>(), [7]);
    }
}
