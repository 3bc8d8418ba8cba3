//! Puts the operations of a commit into a memtable: the same for a commit and for its replay.
//!
//! *Assumes*: the operations are normalised: a range tombstone never covers a put of its own commit
//! that should stay, since both carry one number and a range tombstone hides only lower ones.
//! *Threads*: under the commit order's lock, or alone at open.

use super::catalogue::{Catalogue, CatalogueChange};
use super::manifest::decode_settings;
use super::state::Contents;
use super::view::MemtableSlot;
use crate::error::{Result, Structure};
use crate::log::operation::{LogOperation, Operations};
use crate::memtable::Operation;
use crate::page::Block;
use crate::segment::leaf_waste::LeafWaste;
use crate::segment::overflow_reference::OverflowReference;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// What a commit's operations did besides entries.
#[derive(Debug, Default)]
pub struct Applied {
    /// The overflow values that they name.
    pub named: Vec<(KeyspaceNumber, OverflowReference)>,
    /// Changes of the catalogue.
    pub changes: Vec<CatalogueChange>,
}

impl Applied {
    /// The blocks of the named values.
    pub fn named_blocks(&self) -> Vec<Block> {
        let blocks = self.named.iter().flat_map(|(_, reference)| &reference.blocks);
        blocks.copied().collect()
    }
}

/// What operations name and change, without putting them anywhere.
///
/// # Errors
/// `Corruption` when they cannot be decoded.
pub fn inspect(operations: Operations<'_>) -> Result<Applied> {
    let mut applied = Applied::default();
    for operation in operations {
        match operation? {
            LogOperation::PutOverflow { keyspace, reference, .. } => {
                let reference = OverflowReference::decode(reference)
                    .map_err(|problem| problem.corruption(Structure::Log))?;
                applied.named.push((keyspace, reference));
            }
            LogOperation::CreateKeyspace { keyspace, name, options } => {
                let settings = decode_settings(options)?;
                applied.changes.push(CatalogueChange::Create(keyspace, name.to_owned(), settings));
            }
            LogOperation::DropKeyspace { keyspace } => {
                applied.changes.push(CatalogueChange::Drop(keyspace));
            }
            LogOperation::RenameKeyspace { keyspace, name } => {
                applied.changes.push(CatalogueChange::Rename(keyspace, name.to_owned()));
            }
            LogOperation::Put { .. }
            | LogOperation::Delete { .. }
            | LogOperation::DeleteRange { .. } => {}
        }
    }
    Ok(applied)
}

/// Where operations go.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The memtable.
    pub slot: &'a MemtableSlot,
    /// The state that it stands above.
    pub contents: &'a Contents,
    /// What its entries may waste when they are flushed.
    pub waste: &'a LeafWaste,
}

/// Inserts operations into a memtable under one number: range tombstones at once, versions of keys
/// through `insert`, which may have them wait.
///
/// # Errors
/// `Corruption` when they cannot be decoded; what [`inspect`] has seen can.
pub fn insert(
    target: Target<'_>,
    number: SequenceNumber,
    operations: Operations<'_>,
    insert: &mut impl FnMut(KeyspaceNumber, &[u8], Operation<'_>),
) -> Result<()> {
    let Target { slot, contents, waste } = target;
    let (table, short_bytes) = (&slot.table, waste.short_bytes());
    let (mut wasted, mut last) = (0, None);
    let mut insert = |keyspace: KeyspaceNumber, key: &[u8], operation: Operation<'_>| {
        if last.replace(keyspace) != Some(keyspace) && !contents.levels.contains_key(&keyspace) {
            slot.owes.add_keyspace(keyspace);
        }
        insert(keyspace, key, operation);
    };
    let mut deleted: Vec<Range<'_>> = Vec::new();
    for operation in operations {
        match operation? {
            LogOperation::Put { keyspace, key, value } => {
                if key.len() + value.len() > short_bytes {
                    wasted += waste.of(key.len(), value.len());
                }
                insert(keyspace, key, Operation::Put(value));
            }
            LogOperation::Delete { keyspace, key } => {
                insert(keyspace, key, Operation::Delete);
            }
            LogOperation::PutOverflow { keyspace, key, reference } => {
                insert(keyspace, key, Operation::PutOverflow(reference));
            }
            LogOperation::DeleteRange { keyspace, start, end } => {
                deleted.push((keyspace, start, end));
            }
            LogOperation::DropKeyspace { keyspace } => deleted.push((keyspace, &[], None)),
            LogOperation::CreateKeyspace { .. } | LogOperation::RenameKeyspace { .. } => {}
        }
    }
    join_neighbours(&mut deleted);
    for (keyspace, start, end) in deleted {
        table.insert_range_delete(keyspace, start, end, number);
    }
    slot.owes.add_waste(wasted);
    Ok(())
}

/// A keyspace, and a range of its keys.
type Range<'a> = (KeyspaceNumber, &'a [u8], Option<&'a [u8]>);

/// Sorts ranges, and makes one of those that touch. They say the same under one number, and each
/// that covered others would cost as much as all of those.
fn join_neighbours(ranges: &mut Vec<Range<'_>>) {
    ranges.retain(|(_, start, end)| end.is_none_or(|end| *start < end));
    ranges.sort_unstable();
    ranges.dedup_by(|next, (keyspace, _, end)| {
        let joins = next.0 == *keyspace && end.is_none_or(|end| next.1 <= end);
        if joins {
            *end = end.and_then(|end| next.2.map(|next| end.max(next)));
        }
        joins
    });
}

/// What the leaves may waste that are made of operations, in bytes. What cannot be decoded wastes
/// nothing.
pub fn waste_of(operations: Operations<'_>, waste: &LeafWaste) -> u64 {
    let of = |operation: LogOperation<'_>| match operation {
        LogOperation::Put { key, value, .. } => waste.of(key.len(), value.len()),
        _ => 0,
    };
    operations.map_while(Result::ok).map(of).sum()
}

/// Makes the changes of the catalogue of the newest commit, and notes them with the memtable. What
/// is dropped is forgotten there at once: only states keep it until nothing of it is left.
pub fn note(slot: &MemtableSlot, catalogue: &mut Catalogue, changes: &[CatalogueChange]) {
    if changes.is_empty() {
        return;
    }
    for change in changes {
        catalogue.apply(change);
        if let CatalogueChange::Drop(number) = change {
            catalogue.remove(*number);
        }
    }
    slot.catalogue_changes.lock().extend_from_slice(changes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::operation::CommitEncoder;
    use crate::memtable::{ChunkPool, Memtable};
    use crate::page::Layout;
    use crate::state::Cut;
    use crate::sync::Arc;
    use crate::types::Epoch;

    /// Each wide range went over all fragments of the narrow ones, so that a log of a few MiB took
    /// hours to replay.
    #[test]
    fn ranges_of_one_commit_that_touch_are_one_range() {
        let (first, second) = (KeyspaceNumber(1), KeyspaceNumber(2));
        let mut encoder = CommitEncoder::new();
        for start in [b"c", b"a", b"k", b"b"] {
            encoder.delete_range(first, start, Some(&[start[0] + 1]));
        }
        encoder.delete_range(first, b"x", Some(b"w"));
        encoder.delete_range(first, b"m", None);
        encoder.delete_range(first, b"n", Some(b"o"));
        encoder.drop_keyspace(second);
        encoder.delete_range(second, b"a", Some(b"b"));
        let layout = Layout::new(4096, 0, 1 << 20, [0; 16]).unwrap();
        let table = Memtable::new(Arc::new(ChunkPool::new(1 << 20)));
        let slot = MemtableSlot::new(table, Cut::default(), Epoch(1));
        let contents = Contents::default();
        let waste = LeafWaste::new(&layout, 8192);
        let target = Target { slot: &slot, contents: &contents, waste: &waste };
        insert(target, SequenceNumber(5), encoder.operations(), &mut |_, _, _| {}).unwrap();
        let deletes = slot.table.range_deletes();
        let found: Vec<Range<'_>> =
            deletes.iter().map(|f| (f.keyspace(), f.start(), f.end())).collect();
        let expected: [Range<'_>; 4] = [
            (first, b"a", Some(b"d")),
            (first, b"k", Some(b"l")),
            (first, b"m", None),
            (second, b"", None),
        ];
        assert_eq!(found, expected);
    }
}
