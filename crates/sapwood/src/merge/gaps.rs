//! Finds the keys of a flush that may join the last level at once: at least one leaf's worth of
//! entries side by side that no segment overlaps.
//!
//! *Assumes*: the memtable is sealed. *Guarantees*: a node of the last level is read only when a
//! leaf's worth of the memtable lies in its range, so a flush reads no more of them than it writes
//! leaves, whatever the order of its keys. What is found is checked against a state that was taken
//! after its range was reserved. *Threads*: the flush's.

use std::collections::VecDeque;

use crate::error::Result;
use crate::memtable::{Memtable, MemtableCursor, Operation};
use crate::page::NodeRef;
use crate::segment::coverage::child_range;
use crate::segment::descriptor::{Segment, TreeRoot, composite_range};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::node::{Caching, LeafNode, TreeKind, read_leaf_at, read_parent_at};
use crate::segment::overflow::wants_overflow;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::SortedSource;
use crate::state::background::{LEVELS_ALL, Reservation};
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

use super::promote::bare_range;
use super::ranges::visit_fragments;

/// What an overflow reference takes in a leaf, about.
const REFERENCE_BYTES: usize = 40;

/// Where the next keys of a flush go.
#[derive(Debug)]
pub struct Gaps {
    /// In order. Keys in them belong to runs, others to the young segment.
    gaps: VecDeque<KeyRange>,
    /// It is said of keys before it; `None`: of all that follow in the keyspace.
    until: Option<Vec<u8>>,
}

impl Gaps {
    /// Nothing is known yet.
    pub fn unknown() -> Gaps {
        Gaps { gaps: VecDeque::new(), until: Some(Vec::new()) }
    }

    /// All keys before `until` go to the young segment.
    pub fn none_before(until: Option<Vec<u8>>) -> Gaps {
        Gaps { gaps: VecDeque::new(), until }
    }

    /// True when it is known where `key` goes.
    pub fn is_known(&self, key: &[u8]) -> bool {
        is_before_end(key, self.until.as_deref())
    }

    /// True when a key, above those asked for before, belongs to a run.
    pub fn takes(&mut self, key: &[u8]) -> bool {
        while self.gaps.front().is_some_and(|gap| !is_before_end(key, gap.end.as_deref())) {
            self.gaps.pop_front();
        }
        self.gaps.front().is_some_and(|gap| gap.start.as_slice() <= key)
    }
}

/// Which entries of a memtable may go to the last level, where there are no numbers.
#[derive(Debug)]
pub struct Eligible {
    table: Arc<Memtable>,
    /// The least number that a snapshot reads at: what is above it is not for all.
    number_max: SequenceNumber,
}

impl Eligible {
    /// For a sealed memtable, with the numbers of its snapshots.
    pub fn new(table: Arc<Memtable>, registered: &[SequenceNumber]) -> Eligible {
        let number_max = registered.iter().min().copied().unwrap_or(SequenceNumber::MAX);
        Eligible { table, number_max }
    }

    /// True when the newest version of a key may go there: everyone sees it, it is a value, and no
    /// range tombstone of the memtable covers it.
    pub fn takes(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        number: SequenceNumber,
        is_delete: bool,
    ) -> bool {
        let newest = SequenceNumber::MAX;
        number <= self.number_max
            && !is_delete
            && self.table.covering_range_delete(keyspace, key, newest).is_none()
    }
}

/// What may take a run.
#[derive(Debug)]
pub struct Place {
    /// The range of the lowest parent of the last level; all keys when there is none.
    pub range: KeyRange,
    /// The leaf in which the gaps lie.
    pub leaf: Option<(NodeRef, LeafNode)>,
    leaf_range: KeyRange,
    gaps: Vec<KeyRange>,
}

/// A place, or that there is none before a key.
enum Search {
    Found(Place),
    NoneBefore(Option<Vec<u8>>),
}

/// What lies below a tree's root for a key.
enum Descent {
    /// No leaf's worth of the memtable lies in one leaf before this key.
    NotEnoughBefore(Vec<u8>),
    /// One may lie in this leaf.
    Leaf { reference: NodeRef, range: KeyRange, parent_range: KeyRange },
}

/// What a walk over a range of the memtable met.
struct Walk {
    /// The first eligible key.
    first: Option<Vec<u8>>,
    /// The key with which the eligible entries come to a leaf's worth; else the cursor stands
    /// behind the range.
    enough: Option<Vec<u8>>,
}

/// Looks ahead in a memtable.
#[derive(Debug)]
pub struct Finder {
    eligible: Eligible,
    cursor: MemtableCursor,
    key: Vec<u8>,
    /// The key with which a leaf's worth was reached, from an earlier key on.
    enough: Option<(KeyspaceNumber, Vec<u8>)>,
    leaf_bytes: usize,
    usable_bytes: usize,
}

/// What a [`Finder`] found.
#[derive(Debug)]
pub struct Finding {
    /// Where keys go.
    pub gaps: Gaps,
    /// Where a run begins that is not open yet, with its reservation.
    pub begins: Option<(Place, Reservation)>,
    /// The leaf in which a run that is open goes on.
    pub leaf: Option<(NodeRef, LeafNode)>,
}

impl Finding {
    fn none_before(until: Option<Vec<u8>>) -> Finding {
        Finding { gaps: Gaps::none_before(until), begins: None, leaf: None }
    }
}

impl Finder {
    /// Over the entries of a memtable.
    pub fn new(core: &Core, eligible: Eligible) -> Finder {
        Finder {
            cursor: eligible.table.cursor(),
            eligible,
            key: Vec::new(),
            enough: None,
            leaf_bytes: core.options.leaf_pages_bytes() as usize,
            usable_bytes: core.pages.layout().usable_bytes(),
        }
    }

    /// See [`Eligible::takes`].
    pub fn eligible(&self) -> &Eligible {
        &self.eligible
    }

    /// Finds where `key`, and some that follow it, go. `open`: the range of the run in progress.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn find(
        &mut self,
        core: &Core,
        keyspace: KeyspaceNumber,
        key: &[u8],
        open: Option<&KeyRange>,
    ) -> Result<Finding> {
        let mut reservation: Option<(KeyRange, Reservation)> = None;
        loop {
            // After the reservation: what is seen now in its range stays until the install.
            let state = core.state();
            let place = match self.search(core, &state, keyspace, key)? {
                Search::Found(place) => place,
                Search::NoneBefore(until) => return Ok(Finding::none_before(until)),
            };
            let reserved = reservation.as_ref().map(|(range, _)| range);
            if open == Some(&place.range) || reserved == Some(&place.range) {
                let gaps = self.free_gaps(core, &state, keyspace, &place)?;
                if gaps.gaps.is_empty() || open == Some(&place.range) {
                    return Ok(Finding { gaps, begins: None, leaf: place.leaf });
                }
                let begins = reservation.map(|(_, reservation)| (place, reservation));
                return Ok(Finding { gaps, begins, leaf: None });
            }
            // A second try would mean that merges change the place as fast as it is looked at.
            let range = place.range;
            let wanted = core.background.reservations.reserve(keyspace, LEVELS_ALL, range.clone());
            match wanted {
                Ok(wanted) if reservation.is_none() => reservation = Some((range, wanted)),
                _ => return Ok(Finding::none_before(range.end)),
            }
        }
    }

    /// Goes down the last level as long as a leaf's worth of the memtable, from `key` on, lies in
    /// one child.
    fn search(
        &mut self,
        core: &Core,
        state: &State,
        keyspace: KeyspaceNumber,
        key: &[u8],
    ) -> Result<Search> {
        let all = KeyRange::all();
        // From an earlier key on a leaf's worth came not later: only where that would do is it
        // counted again.
        let mut is_counted = false;
        if self.enough.as_ref().is_none_or(|(of, _)| *of != keyspace) {
            is_counted = true;
            if !self.count_enough(keyspace, key) {
                return Ok(Search::NoneBefore(None));
            }
        }
        let last = state.levels_of(keyspace).and_then(|levels| levels.last());
        let Some(root) = last.and_then(|last| last.points.as_ref()) else {
            let mut place = Place { range: all.clone(), leaf: None, leaf_range: all, gaps: vec![] };
            place.gaps = self.gaps_in(keyspace, key, &place)?;
            return Ok(found(place));
        };
        let mut descent = self.descend(core, keyspace, root, key)?;
        if matches!(descent, Descent::Leaf { .. }) && !is_counted {
            if !self.count_enough(keyspace, key) {
                return Ok(Search::NoneBefore(None));
            }
            descent = self.descend(core, keyspace, root, key)?;
        }
        let (reference, leaf_range, range) = match descent {
            Descent::Leaf { reference, range, parent_range } => (reference, range, parent_range),
            Descent::NotEnoughBefore(until) => return Ok(Search::NoneBefore(Some(until))),
        };
        let (kind, how) = (TreeKind::Points, Caching::Pass);
        let leaf = read_leaf_at(&core.pages, &reference, keyspace, kind, how, &leaf_range)?;
        let mut place = Place { range, leaf: Some((reference, leaf)), leaf_range, gaps: vec![] };
        place.gaps = self.gaps_in(keyspace, key, &place)?;
        Ok(found(place))
    }

    /// Goes down to the leaf of a key, while the leaf's worth that was counted lies in one child.
    fn descend(
        &self,
        core: &Core,
        keyspace: KeyspaceNumber,
        root: &TreeRoot,
        key: &[u8],
    ) -> Result<Descent> {
        let mut reference = root.reference;
        let mut range = KeyRange::all();
        let mut parent_range = KeyRange::all();
        for height in (1..=root.height).rev() {
            let node = read_parent_at(&core.pages, &reference, keyspace, height, &range)?;
            let index = node.view().child_for(key);
            let below = child_range(&node, index, &range)?;
            if let Some((_, enough)) = &self.enough
                && !is_before_end(enough, below.end.as_deref())
            {
                // No child before the one that has the last of these keys has them all.
                let last = child_range(&node, node.view().child_for(enough), &range)?;
                return Ok(Descent::NotEnoughBefore(last.start));
            }
            reference = node.child_reference(index)?;
            parent_range = std::mem::replace(&mut range, below);
        }
        Ok(Descent::Leaf { reference, range, parent_range })
    }

    /// Counts a leaf's worth from `key` on; false when the keyspace ends before.
    fn count_enough(&mut self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        let enough = self.enough_in(keyspace, &KeyRange::new(key, None));
        self.enough = enough.map(|enough| (keyspace, enough));
        self.enough.is_some()
    }

    /// The stretches between the entries of a leaf, from `key` on, in which a leaf's worth lies.
    fn gaps_in(
        &mut self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        place: &Place,
    ) -> Result<Vec<KeyRange>> {
        let mut gaps = Vec::new();
        let mut from = key.to_vec();
        loop {
            let mut end = place.leaf_range.end.clone();
            let mut is_there = false;
            if let Some((_, leaf)) = &place.leaf {
                let (index, equal) = leaf.view().lower_bound(&from);
                is_there = equal;
                if !equal && index < leaf.view().len() {
                    let mut next = Vec::new();
                    leaf.view().copy_key(index, &mut next).map_err(|p| leaf.damage(p))?;
                    end = Some(next);
                }
            }
            // On to the next key of the memtable behind the gap.
            if is_there {
                self.cursor.seek(keyspace, &after(&from), SequenceNumber::MAX);
            } else {
                let gap = KeyRange::new(std::mem::take(&mut from), end);
                let walk = self.walk(keyspace, &gap);
                if let (Some(_), Some(first)) = (walk.enough, walk.first) {
                    gaps.push(KeyRange { start: first, end: gap.end.clone() });
                    let Some(end) = &gap.end else { return Ok(gaps) };
                    self.cursor.seek(keyspace, end, SequenceNumber::MAX);
                }
            }
            let is_more = self.cursor.valid()
                && self.cursor.keyspace() == keyspace
                && is_before_end(self.cursor.key(), place.leaf_range.end.as_deref());
            if !is_more {
                return Ok(gaps);
            }
            from.clear();
            from.extend_from_slice(self.cursor.key());
        }
    }

    /// What is left of a place's gaps beside the other segments of the keyspace.
    fn free_gaps(
        &mut self,
        core: &Core,
        state: &State,
        keyspace: KeyspaceNumber,
        place: &Place,
    ) -> Result<Gaps> {
        let mut free = Gaps::none_before(place.leaf_range.end.clone());
        for gap in &place.gaps {
            let Some(limit) = first_held(core, state, keyspace, gap)? else {
                free.gaps.push_back(gap.clone());
                continue;
            };
            // The rest is looked at again: from what is in the way on, or a leaf's worth later, so
            // that there are never more looks than leaves.
            let before = KeyRange::new(gap.start.clone(), Some(limit.clone()));
            free.until = if self.enough_in(keyspace, &before).is_some() {
                free.gaps.push_back(before);
                Some(limit)
            } else {
                self.enough_in(keyspace, gap).map(|key| after(&key))
            };
            break;
        }
        Ok(free)
    }

    /// The key of the memtable with which the eligible entries of a range fill a leaf.
    fn enough_in(&mut self, keyspace: KeyspaceNumber, range: &KeyRange) -> Option<Vec<u8>> {
        self.walk(keyspace, range).enough
    }

    /// Goes over a range until its eligible entries fill a leaf.
    fn walk(&mut self, keyspace: KeyspaceNumber, range: &KeyRange) -> Walk {
        let Finder { eligible, cursor, key, usable_bytes, leaf_bytes, .. } = self;
        let mut bytes = 0;
        let mut first = None;
        cursor.seek(keyspace, &range.start, SequenceNumber::MAX);
        while cursor.valid()
            && cursor.keyspace() == keyspace
            && is_before_end(cursor.key(), range.end.as_deref())
        {
            let value_bytes = match cursor.operation() {
                Operation::Put(value) if !wants_overflow(value.len(), *usable_bytes) => {
                    Some(value.len())
                }
                Operation::Put(_) | Operation::PutOverflow(_) => Some(REFERENCE_BYTES),
                Operation::Delete => None,
            };
            if let Some(value_bytes) = value_bytes
                && eligible.takes(keyspace, cursor.key(), cursor.sequence(), false)
            {
                bytes += cursor.key().len() + value_bytes;
                if first.is_none() {
                    first = Some(cursor.key().to_vec());
                }
                if bytes >= *leaf_bytes {
                    return Walk { first, enough: Some(cursor.key().to_vec()) };
                }
            }
            // Past the older versions of the key.
            key.clear();
            key.extend_from_slice(cursor.key());
            cursor.next();
            while cursor.valid() && cursor.keyspace() == keyspace && cursor.key() == *key {
                cursor.next();
            }
        }
        Walk { first, enough: None }
    }
}

fn found(place: Place) -> Search {
    match place.gaps.is_empty() {
        true => Search::NoneBefore(place.leaf_range.end),
        false => Search::Found(place),
    }
}

/// The first key after `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut after = key.to_vec();
    after.push(0);
    after
}

/// The first key of a range that a segment other than the last level's holds, or has a range
/// tombstone over.
fn first_held(
    core: &Core,
    state: &State,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<Option<Vec<u8>>> {
    let last = state.levels_of(keyspace).and_then(|levels| levels.last());
    let last = last.map(|segment| segment.number);
    let mut range = range.clone();
    let mut held = None;
    for segment in state.segments_of(keyspace) {
        if Some(segment.number) == last {
            continue;
        }
        if let Some(key) = first_held_by(core, segment, keyspace, &range)? {
            range.end = Some(key.clone());
            held = Some(key);
        }
    }
    Ok(held)
}

fn first_held_by(
    core: &Core,
    segment: &Arc<Segment>,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> Result<Option<Vec<u8>>> {
    let young = segment.is_young();
    let in_tree = if young { composite_range(keyspace, range) } else { range.clone() };
    if !segment.overlaps(&in_tree) {
        return Ok(None);
    }
    let mut source = SegmentSource::new(&core.pages, segment, keyspace, Caching::Keep);
    source.seek(&range.start)?;
    let is_held = source.valid() && is_before_end(source.key(), range.end.as_deref());
    let mut held = is_held.then(|| source.key().to_vec());
    let Some(root) = &segment.ranges else { return Ok(held) };
    let root: &TreeRoot = root;
    let node_keyspace = if young { KeyspaceNumber::MANY } else { keyspace };
    visit_fragments(&core.pages, root, node_keyspace, Some(&in_tree), &mut |fragment| {
        let whole = KeyRange::new(fragment.start, fragment.end);
        let inside = whole.intersection(&in_tree);
        let left = inside.and_then(|inside| segment.promoted.gaps_in(&inside).into_iter().next());
        let Some(left) = left else { return true };
        let start = if young { bare_range(keyspace, &left).start } else { left.start };
        if is_before_end(&start, held.as_deref()) {
            held = Some(start);
        }
        false
    })?;
    Ok(held)
}
