//! All that a transaction has written, in layers: memory, and pending segments.
//!
//! *Guarantees*: P1, P2 of docs/architecture.md. Above its share of what all transactions may keep
//! in memory it spills ([`crate::page::share`]); layers are joined only where no savepoint that
//! somebody holds lies between them. A write that fails for want of space has changed nothing.
//! *Threads*: one owner; sources that it gave out anywhere.

use super::pending::{PendingRead, PendingWrites};
use super::pending_merge::merge;
use super::pending_segment::{PendingSegment, of_value, spill};
use super::value_writer::ValueWriter;
use crate::error::{Error, Result};
use crate::page::share::LEAST_BYTES;
use crate::page::{MemoryBudget, MemoryPart, Share};
use crate::scan::OwnLayer;
use crate::segment::filter::key_hash;
use crate::segment::key_range::KeyRange;
use crate::state::Core;
use crate::state::by_reference::SEGMENTS_MAX;
use crate::state::lookup::{Answer, Found, ask_segment};
use crate::sync::{Arc, Weak};
use crate::types::{KeyspaceNumber, SequenceNumber};

/// So many pending segments of one tier are merged into one.
pub const MERGE_COUNT: usize = 8;
const _: () = assert!(MERGE_COUNT <= SEGMENTS_MAX, "a commit's segments are no more than may be");
/// At most so many are merged at once.
const MERGE_COUNT_MAX: usize = 16;

/// Without room to merge them there are at most so many.
const UNMERGED_COUNT_MAX: usize = 64;

/// A place among a transaction's writes that it can go back to.
///
/// Made by [`Transaction::savepoint`](crate::Transaction::savepoint). Dropping the last clone
/// gives the place up, which makes the transaction's later reads cheaper; its writes stay.
#[derive(Clone, Debug)]
pub struct Savepoint {
    held: Arc<u64>,
}

#[derive(Debug)]
struct Layer {
    /// Rises from layer to layer.
    serial: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Memory(PendingWrites),
    Segment(Arc<PendingSegment>),
}

/// See the module.
#[derive(Debug)]
pub struct Layers {
    /// Oldest first.
    below: Vec<Layer>,
    /// Takes the writes.
    top: PendingWrites,
    /// The serial of `top`.
    serial: u64,
    /// Oldest first: the serial of the first layer behind each.
    savepoints: Vec<(u64, Weak<u64>)>,
    /// What memory layers below the top take, in bytes.
    below_bytes: usize,
    share: Share,
}

/// What a transaction's own writes say of a key.
#[derive(Debug)]
pub enum OwnRead<'a> {
    /// This value, from memory.
    Value(&'a [u8]),
    /// A value in a pending segment.
    Found(Found),
    /// The key is deleted.
    Deleted,
}

impl Layers {
    /// Nothing was written; what memory takes counts against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>) -> Layers {
        Layers {
            below: Vec::new(),
            top: PendingWrites::counted_in(budget),
            serial: 0,
            savepoints: Vec::new(),
            below_bytes: 0,
            share: Share::new(budget, MemoryPart::PendingWrites),
        }
    }

    /// The writes in memory that new ones are added to.
    pub fn top(&mut self) -> &mut PendingWrites {
        &mut self.top
    }

    /// True when part of it lies in pending segments.
    pub fn has_segments(&self) -> bool {
        self.below.iter().any(|layer| matches!(layer.content, Content::Segment(_)))
    }

    /// How many pending segments there are.
    pub fn segment_count(&self) -> usize {
        let segment = |layer: &&Layer| matches!(layer.content, Content::Segment(_));
        self.below.iter().filter(segment).count()
    }

    /// Bytes of all that lies in memory.
    pub fn memory_bytes(&self) -> usize {
        self.below_bytes + self.top.memory_bytes()
    }

    /// True when memory is to be spilled before the next write: a quarter of a memtable, or what
    /// the other open transactions leave.
    pub fn is_full(&self, core: &Core) -> bool {
        self.memory_bytes() >= core.transaction_bytes_max().min(self.share.allowed_bytes())
    }

    /// Counts the memory that is in use. True when it should be spilled at once: all open
    /// transactions together have more than there is for them, and this one more than the least.
    pub fn recharge(&mut self) -> bool {
        let bytes = self.memory_bytes();
        self.share.follow(bytes) && bytes as u64 >= LEAST_BYTES && self.share.are_all_over()
    }

    /// True when somebody holds a savepoint between two layers; the older has the serial `older`.
    fn is_border(&self, older: u64, newer: u64) -> bool {
        let between = |serial: u64| older < serial && serial <= newer;
        self.savepoints.iter().any(|(serial, held)| between(*serial) && held.strong_count() > 0)
    }

    fn forget_savepoints(&mut self) {
        self.savepoints.retain(|(_, held)| held.strong_count() > 0);
    }

    fn take_top(&mut self) -> PendingWrites {
        let empty = PendingWrites::counted_in(self.share.budget());
        std::mem::replace(&mut self.top, empty)
    }

    /// Puts the top below, joined with the memory layer under it where that is allowed.
    fn close_top(&mut self) {
        self.forget_savepoints();
        let top = self.take_top();
        if !top.is_empty() {
            let last = self.below.last().map_or(0, |layer| layer.serial);
            let joins = !self.is_border(last, self.serial);
            match self.below.last_mut() {
                Some(Layer { content: Content::Memory(writes), serial }) if joins => {
                    writes.absorb(top);
                    *serial = self.serial;
                }
                _ => self.below.push(Layer { serial: self.serial, content: Content::Memory(top) }),
            }
        }
        self.count_below();
        self.serial += 1;
    }

    fn count_below(&mut self) {
        let bytes = self.below.iter().map(|layer| match &layer.content {
            Content::Memory(writes) => writes.memory_bytes(),
            Content::Segment(_) => 0,
        });
        self.below_bytes = bytes.sum();
    }

    /// A place to go back to.
    pub fn savepoint(&mut self) -> Savepoint {
        self.close_top();
        let held = Arc::new(self.serial);
        self.savepoints.push((self.serial, Arc::downgrade(&held)));
        Savepoint { held }
    }

    /// Forgets what was written behind a savepoint; those made behind it are void.
    ///
    /// # Errors
    /// `InvalidSavepoint` when it is void, or another transaction's.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        let same = |held: &Weak<u64>| std::ptr::eq(held.as_ptr(), &*savepoint.held);
        let index = self.savepoints.iter().position(|(_, held)| same(held));
        let Some(index) = index else { return Err(Error::InvalidSavepoint) };
        let serial = *savepoint.held;
        self.savepoints.truncate(index + 1);
        self.below.retain(|layer| layer.serial < serial);
        drop(self.take_top());
        self.count_below();
        self.recharge();
        Ok(())
    }

    /// Puts all that lies in memory into pending segments, and merges these where there are many.
    ///
    /// # Errors
    /// `NoSpace` and others: what was not spilled is in memory still.
    pub fn spill(&mut self, core: &Arc<Core>) -> Result<()> {
        self.close_top();
        self.join_memory();
        self.below.retain(|layer| match &layer.content {
            Content::Memory(writes) => !writes.is_empty(),
            Content::Segment(_) => true,
        });
        for index in 0..self.below.len() {
            let Content::Memory(writes) = &self.below[index].content else { continue };
            if let Some(segment) = spill(core, writes)? {
                self.below[index].content = Content::Segment(segment);
            }
        }
        self.count_below();
        self.recharge();
        while let Some(first) = self.full_tier() {
            match self.merge_at(core, first, MERGE_COUNT) {
                // What was spilled is there: they can be merged another time.
                Err(Error::NoSpace { .. }) if self.segment_count() < UNMERGED_COUNT_MAX => break,
                merged => merged?,
            }
        }
        Ok(())
    }

    /// Puts a value that was written as it came: it is a pending segment of its own.
    ///
    /// # Errors
    /// As [`Layers::spill`]; the value is not put then.
    pub fn put_value(
        &mut self,
        core: &Arc<Core>,
        keyspace: KeyspaceNumber,
        key: &[u8],
        value: ValueWriter,
    ) -> Result<()> {
        if self.below.len() >= MERGE_COUNT {
            self.spill(core)?;
        }
        if let Some(segment) = of_value(core, keyspace, key, value)? {
            self.close_top();
            self.below.push(Layer { serial: self.serial, content: Content::Segment(segment) });
            self.serial += 1;
        }
        Ok(())
    }

    /// Joins memory layers that savepoints once held apart.
    fn join_memory(&mut self) {
        let below = std::mem::take(&mut self.below);
        for layer in below {
            let joins = match (self.below.last(), &layer.content) {
                (Some(Layer { serial, content: Content::Memory(_) }), Content::Memory(_)) => {
                    !self.is_border(*serial, layer.serial)
                }
                _ => false,
            };
            match (self.below.last_mut(), layer) {
                (
                    Some(Layer { serial, content: Content::Memory(older) }),
                    Layer { serial: newer_serial, content: Content::Memory(newer) },
                ) if joins => {
                    older.absorb(newer);
                    *serial = newer_serial;
                }
                (_, layer) => self.below.push(layer),
            }
        }
    }

    /// The index of the first of enough neighbours of one tier that no savepoint holds apart.
    fn full_tier(&self) -> Option<usize> {
        let (mut first, mut before) = (0, None);
        for (index, layer) in self.below.iter().enumerate() {
            let Content::Segment(segment) = &layer.content else {
                before = None;
                continue;
            };
            let follows = before.is_some_and(|(tier, serial)| {
                tier == segment.tier() && !self.is_border(serial, layer.serial)
            });
            if !follows {
                first = index;
            }
            before = Some((segment.tier(), layer.serial));
            if index + 1 - first >= MERGE_COUNT {
                return Some(first);
            }
        }
        None
    }

    /// Merges `count` segments from an index on.
    fn merge_at(&mut self, core: &Arc<Core>, first: usize, count: usize) -> Result<()> {
        let layers = &self.below[first..first + count];
        let segments = layers.iter().rev().filter_map(|layer| match &layer.content {
            Content::Segment(segment) => Some(segment.clone()),
            Content::Memory(_) => None,
        });
        let segments: Vec<_> = segments.collect();
        let serial = layers.last().map_or(0, |layer| layer.serial);
        let merged = merge(core, &segments)?;
        let layer = Layer { serial, content: Content::Segment(merged) };
        self.below.splice(first..first + count, [layer]);
        drop(segments);
        // What nobody reads any more is free at once.
        core.collect_released();
        Ok(())
    }

    /// All writes as segments, newest first and few, on their way to a commit. No savepoint counts
    /// any more.
    ///
    /// # Errors
    /// As [`Layers::spill`].
    pub fn take_segments(&mut self, core: &Arc<Core>) -> Result<Vec<Arc<PendingSegment>>> {
        self.savepoints.clear();
        self.spill(core)?;
        while self.below.len() > MERGE_COUNT {
            // The newest are the smallest.
            let count = (self.below.len() + 1 - MERGE_COUNT).min(MERGE_COUNT_MAX);
            self.merge_at(core, self.below.len() - count, count)?;
        }
        Ok(self.segments().cloned().collect())
    }

    /// All writes, when they lie in memory alone.
    pub fn take_memory(&mut self) -> PendingWrites {
        self.savepoints.clear();
        self.close_top();
        self.join_memory();
        match self.below.pop() {
            Some(Layer { content: Content::Memory(writes), .. }) if self.below.is_empty() => writes,
            _ => PendingWrites::new(),
        }
    }

    /// The pending segments, newest first.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<PendingSegment>> {
        self.below.iter().rev().filter_map(|layer| match &layer.content {
            Content::Segment(segment) => Some(segment),
            Content::Memory(_) => None,
        })
    }

    /// The keyspaces that were written to; some more than once.
    pub fn keyspaces(&self) -> Vec<KeyspaceNumber> {
        let mut keyspaces: Vec<_> = self.top.keyspaces().collect();
        for layer in &self.below {
            match &layer.content {
                Content::Memory(writes) => keyspaces.extend(writes.keyspaces()),
                Content::Segment(pending) => {
                    let shares = pending.segment().keyspaces.iter();
                    keyspaces.extend(shares.map(|share| share.keyspace));
                }
            }
        }
        keyspaces
    }

    /// What these writes say of a key; `None`: nothing, so that what was committed counts.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn get(
        &self,
        core: &Core,
        keyspace: KeyspaceNumber,
        key: &[u8],
    ) -> Result<Option<OwnRead<'_>>> {
        if let Some(read) = in_memory(&self.top, keyspace, key) {
            return Ok(Some(read));
        }
        let mut hash = None;
        for layer in self.below.iter().rev() {
            let segment = match &layer.content {
                Content::Memory(writes) => match in_memory(writes, keyspace, key) {
                    Some(read) => return Ok(Some(read)),
                    None => continue,
                },
                Content::Segment(pending) => pending.segment(),
            };
            let seed = core.pages.layout().filter_seed();
            let hash = *hash.get_or_insert_with(|| key_hash(seed, keyspace, key));
            match ask_segment(&core.pages, segment, keyspace, key, hash, SequenceNumber::MAX)? {
                Answer::Nothing => {}
                Answer::Deleted => return Ok(Some(OwnRead::Deleted)),
                Answer::Value(found) => return Ok(Some(OwnRead::Found(found))),
            }
        }
        Ok(None)
    }

    /// The layers of one keyspace as they are now, newest first.
    pub(crate) fn sources(&self, keyspace: KeyspaceNumber) -> Vec<OwnLayer> {
        let mut sources: Vec<_> =
            self.top.source(keyspace).map(OwnLayer::Memory).into_iter().collect();
        for layer in self.below.iter().rev() {
            match &layer.content {
                Content::Memory(writes) => {
                    sources.extend(writes.source(keyspace).map(OwnLayer::Memory));
                }
                Content::Segment(pending) if pending.segment().share_of(keyspace).is_some() => {
                    sources.push(OwnLayer::Segment(pending.clone()));
                }
                Content::Segment(_) => {}
            }
        }
        sources
    }

    /// True when a key, or a range that holds it, was written in a pending segment. Memory is not
    /// asked: a commit by reference has nothing there.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn touches_key(&self, core: &Core, keyspace: KeyspaceNumber, key: &[u8]) -> Result<bool> {
        let hash = key_hash(core.pages.layout().filter_seed(), keyspace, key);
        for pending in self.segments() {
            let (segment, at) = (pending.segment(), SequenceNumber::MAX);
            let answer = ask_segment(&core.pages, segment, keyspace, key, hash, at)?;
            if !matches!(answer, Answer::Nothing) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True when anything in a range was written in a pending segment.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn touches_range(
        &self,
        core: &Core,
        keyspace: KeyspaceNumber,
        range: &KeyRange,
    ) -> Result<bool> {
        for pending in self.segments() {
            if super::validate::segment_touches(core, pending.segment(), keyspace, range)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn in_memory<'a>(
    writes: &'a PendingWrites,
    keyspace: KeyspaceNumber,
    key: &[u8],
) -> Option<OwnRead<'a>> {
    match writes.get(keyspace, key)? {
        PendingRead::Value(value) => Some(OwnRead::Value(value)),
        PendingRead::Deleted => Some(OwnRead::Deleted),
    }
}
