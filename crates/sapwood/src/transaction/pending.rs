//! A transaction's, or a batch's, own writes, until it commits.
//!
//! *Assumes*: keys are within the limit of the format; whoever takes them from the application has
//! checked that.
//! *Guarantees*:
//! - N1: of each key the last operation wins. A range delete takes the earlier operations that it
//!   covers out; what comes after it stands.
//! - N2: where a put and a range delete of one `PendingWrites` meet, the put is the later one. So
//!   the range deletes can be given to the log and the memtable first and with the same number:
//!   they hide nothing of their own commit.
//! - N3: no point delete lies in an own range delete, since that says the same.
//! - N4: what was written is touched: each key that was ever put or deleted is among the touched
//!   keys, or in a touched range.
//! - A source sees the writes made before it was opened, and no later ones. What only sources have
//!   any more counts as held by the application, with values that later writes share.
//!
//! *Threads*: one owner; the sources that it gave out may be elsewhere.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::pending_source::PendingSource;
use super::range_set::{RangeSet, bounds};
use crate::page::{Held, MemoryBudget};
use crate::segment::key_range::KeyRange;
use crate::sync::{Arc, OnceLock};
use crate::types::KeyspaceNumber;

#[cfg(test)]
mod tests;

/// What a point takes beside its bytes: itself in a tree that is two thirds full, and the heap's
/// own share of the key's allocation.
const POINT_BYTES: usize = size_of::<(Box<[u8]>, PendingWrite)>() * 3 / 2 + 16;

/// What a point takes beside its bytes in the log, at most, and in a leaf.
const ENCODED_POINT_BYTES: usize = 16;

/// What a value takes beside its bytes: two counters, and the heap's own share.
const VALUE_BYTES: usize = 32;

/// The newest operation on one key.
#[derive(Clone, Debug)]
pub struct PendingWrite {
    /// The value that was put; `None`: the key was deleted.
    // Shared, so that a copy made for an open cursor copies no values.
    pub value: Option<Arc<[u8]>>,
}

/// The writes to one keyspace.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyspaceWrites {
    points: BTreeMap<Box<[u8]>, PendingWrite>,
    pub(super) ranges: RangeSet,
    point_bytes: usize,
    left: Left,
}

/// Counts writes that their transaction has let go, for as long as sources have them.
#[derive(Debug, Default)]
struct Left(OnceLock<Held>);

impl Clone for Left {
    /// What is copied is the transaction's.
    fn clone(&self) -> Left {
        Left::default()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct PendingWrites {
    /// No entry is without writes.
    // Copied when it is written to while a source holds it.
    keyspaces: BTreeMap<KeyspaceNumber, Arc<KeyspaceWrites>>,
    bytes: usize,
    count: usize,
    /// Where counts what sources are left with.
    budget: Option<Arc<MemoryBudget>>,
}

impl Drop for PendingWrites {
    fn drop(&mut self) {
        self.keyspaces.values().for_each(|writes| self.leave(writes));
    }
}

/// What a transaction's own writes say of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingRead<'a> {
    /// The key has this value.
    Value(&'a [u8]),
    /// The key is deleted, by itself or with a range.
    Deleted,
}

/// One of the operations that a commit consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingOperation<'a> {
    /// All that older commits left in the range goes.
    DeleteRange(&'a KeyRange),
    /// The key gets this value.
    Put {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// The key goes.
    Delete {
        /// The key.
        key: &'a [u8],
    },
}

fn bytes_of(key: &[u8], write: &PendingWrite) -> usize {
    point_bytes(key, write.value.as_deref())
}

/// How much memory a put, or a delete, takes among pending writes.
pub(super) fn point_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    POINT_BYTES + key.len() + value.map_or(0, |value| VALUE_BYTES + value.len())
}

/// What a keyspace takes beside its operations, in bytes, about: its place in the map, the shared
/// value, and a node of points, of which they fill a part.
const KEYSPACE_BYTES: usize = size_of::<KeyspaceWrites>() + 480;

impl KeyspaceWrites {
    fn bytes(&self) -> usize {
        self.point_bytes + self.ranges.bytes()
    }

    fn count(&self) -> usize {
        self.points.len() + self.ranges.len()
    }

    /// Only sources have them from now on.
    fn leave(&self, budget: &Arc<MemoryBudget>) {
        let mut held = Held::new(budget);
        held.follow(self.bytes());
        // It may be left already.
        let _ = self.left.0.set(held);
    }

    fn write(&mut self, key: &[u8], write: PendingWrite) {
        self.point_bytes += bytes_of(key, &write);
        if let Some(old) = self.points.get_mut(key) {
            let replaced = std::mem::replace(old, write);
            self.point_bytes -= bytes_of(key, &replaced);
        } else {
            self.points.insert(key.into(), write);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((key, write)) = self.points.remove_entry(key) {
            self.point_bytes -= bytes_of(&key, &write);
        }
    }

    /// `range` holds some key.
    fn delete_range(&mut self, range: KeyRange) {
        let removed = self.points.extract_if(bounds(&range), |_, _| true);
        self.point_bytes -= removed.map(|(key, write)| bytes_of(&key, &write)).sum::<usize>();
        self.ranges.insert(range);
    }

    /// The first entry at or behind the bound.
    pub(super) fn first_from(&self, from: Bound<&[u8]>) -> Option<(&[u8], &PendingWrite)> {
        let mut found = self.points.range::<[u8], _>((from, Bound::Unbounded));
        found.next().map(|(key, write)| (&**key, write))
    }

    /// The last entry at or before the bound.
    pub(super) fn last_to(&self, to: Bound<&[u8]>) -> Option<(&[u8], &PendingWrite)> {
        let mut found = self.points.range::<[u8], _>((Bound::Unbounded, to));
        found.next_back().map(|(key, write)| (&**key, write))
    }

    fn read(&self, key: &[u8]) -> Option<PendingRead<'_>> {
        match self.points.get(key) {
            Some(PendingWrite { value: Some(value) }) => Some(PendingRead::Value(value)),
            Some(PendingWrite { value: None }) => Some(PendingRead::Deleted),
            None => self.ranges.contains(key).then_some(PendingRead::Deleted),
        }
    }
}

impl PendingWrites {
    /// No writes.
    #[must_use]
    pub fn new() -> PendingWrites {
        PendingWrites::default()
    }

    /// No writes; what sources of them are left with counts as held by the application.
    #[must_use]
    pub fn counted_in(budget: &Arc<MemoryBudget>) -> PendingWrites {
        let mut writes = PendingWrites::default();
        writes.budget = Some(Arc::clone(budget));
        writes
    }

    /// The transaction lets these go.
    fn leave(&self, writes: &Arc<KeyspaceWrites>) {
        if Arc::strong_count(writes) > 1
            && let Some(budget) = &self.budget
        {
            writes.leave(budget);
        }
    }

    /// Puts a value. Complexity: O(log n), and a copy of the keyspace's keys when a source of it
    /// that was opened since the last write is still held.
    pub fn put(&mut self, keyspace: KeyspaceNumber, key: &[u8], value: &[u8]) {
        let value = Some(value.into());
        self.change(keyspace, |writes| writes.write(key, PendingWrite { value }));
    }

    /// Deletes a key, whether it is there or not. Complexity: as for a put.
    pub fn delete(&mut self, keyspace: KeyspaceNumber, key: &[u8]) {
        self.change(keyspace, |writes| {
            if writes.ranges.contains(key) {
                writes.remove(key);
            } else {
                writes.write(key, PendingWrite { value: None });
            }
        });
    }

    /// Deletes all keys of a range; one that is empty does nothing. Complexity: as for a put, and
    /// what the range covers of these writes.
    pub fn delete_range(&mut self, keyspace: KeyspaceNumber, range: KeyRange) {
        if range.is_empty() {
            return;
        }
        self.change(keyspace, |writes| writes.delete_range(range));
    }

    /// Adds later writes, which were made without regard to these.
    pub fn absorb(&mut self, later: PendingWrites) {
        for (&keyspace, later) in &later.keyspaces {
            for range in later.ranges.iter() {
                self.delete_range(keyspace, range.clone());
            }
            for (key, write) in &later.points {
                match &write.value {
                    None => self.delete(keyspace, key),
                    Some(value) => self.change(keyspace, |writes| {
                        writes.write(key, PendingWrite { value: Some(value.clone()) });
                    }),
                }
            }
        }
    }

    /// Makes one operation, and keeps the sums.
    fn change(&mut self, keyspace: KeyspaceNumber, operation: impl FnOnce(&mut KeyspaceWrites)) {
        let writes = self.keyspaces.entry(keyspace).or_default();
        let is_copied = Arc::strong_count(writes) > 1;
        if is_copied && let Some(budget) = &self.budget {
            writes.leave(budget);
        }
        let writes = Arc::make_mut(writes);
        if is_copied {
            // The last source may have gone meanwhile, and nothing was copied.
            writes.left = Left::default();
        }
        self.bytes -= writes.bytes();
        self.count -= writes.count();
        operation(writes);
        self.bytes += writes.bytes();
        self.count += writes.count();
    }

    /// What these writes say of a key; `None`: nothing, so that what was committed counts.
    #[must_use]
    pub fn get(&self, keyspace: KeyspaceNumber, key: &[u8]) -> Option<PendingRead<'_>> {
        self.keyspaces.get(&keyspace)?.read(key)
    }

    /// How many operations the commit consists of; those that were overtaken are not among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory the writes take; an estimate, without the copies that sources hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same with what each keyspace takes beside its operations.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.keyspaces.len() * KEYSPACE_BYTES
    }

    /// How many bytes they take in the log, about, and in leaves.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.count * (POINT_BYTES - ENCODED_POINT_BYTES))
    }

    /// The keyspaces that were written to, in order.
    pub fn keyspaces(&self) -> impl Iterator<Item = KeyspaceNumber> {
        self.keyspaces.keys().copied()
    }

    /// Bytes of the values that are at least so long.
    pub fn large_bytes(&self, least: usize) -> usize {
        let values = self.points().filter_map(|(_, _, write)| write.value.as_deref());
        values.map(<[u8]>::len).filter(|bytes| *bytes >= least).sum()
    }

    /// Whether there is a put among them.
    pub fn has_data(&self) -> bool {
        self.points().any(|(_, _, write)| write.value.is_some())
    }

    /// The operations that the commit consists of: first the range deletes, then the points, each
    /// by keyspace and key. They give the same result in this order, and with one number for all
    /// (N2).
    pub fn operations(&self) -> impl Iterator<Item = (KeyspaceNumber, PendingOperation<'_>)> {
        let ranges = self.touched_ranges();
        let ranges = ranges.map(|(number, range)| (number, PendingOperation::DeleteRange(range)));
        let points = self.points().map(|(number, key, write)| {
            let operation = match &write.value {
                Some(value) => PendingOperation::Put { key, value },
                None => PendingOperation::Delete { key },
            };
            (number, operation)
        });
        ranges.chain(points)
    }

    /// The newest operation on each key, by keyspace and key.
    pub fn points(&self) -> impl Iterator<Item = (KeyspaceNumber, &[u8], &PendingWrite)> {
        self.keyspaces.iter().flat_map(|(number, writes)| {
            writes.points.iter().map(|(key, write)| (*number, &**key, write))
        })
    }

    /// The keys that were put or deleted by themselves, by keyspace and key.
    pub fn touched_keys(&self) -> impl Iterator<Item = (KeyspaceNumber, &[u8])> {
        self.points().map(|(number, key, _)| (number, key))
    }

    /// The ranges that were deleted, joined, by keyspace and key.
    pub fn touched_ranges(&self) -> impl Iterator<Item = (KeyspaceNumber, &KeyRange)> {
        self.keyspaces
            .iter()
            .flat_map(|(number, writes)| writes.ranges.iter().map(|range| (*number, range)))
    }

    /// True when a key was put or deleted, by itself or with a range.
    #[must_use]
    pub fn touches_key(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        self.get(keyspace, key).is_some()
    }

    /// True when anything in a range was put or deleted.
    #[must_use]
    pub fn touches_range(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> bool {
        !range.is_empty()
            && self.keyspaces.get(&keyspace).is_some_and(|writes| {
                writes.points.range(bounds(range)).next().is_some() || writes.ranges.overlaps(range)
            })
    }

    /// A source over the writes to one keyspace as they are now; `None` when there are none.
    #[must_use]
    pub fn source(&self, keyspace: KeyspaceNumber) -> Option<PendingSource> {
        self.keyspaces.get(&keyspace).map(|writes| PendingSource::new(Arc::clone(writes)))
    }
}
