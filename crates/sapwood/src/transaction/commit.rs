//! A stand-in for the commit: in memory only, without log and waiting.

use super::pending::{PendingOperation, PendingWrites};
use super::read_set::ReadSet;
use crate::error::{Error, Result};
use crate::memtable::Operation;
use crate::options::Durability;
use crate::segment::overflow::{wants_overflow, write_value};
use crate::state::Core;
use crate::state::catalogue::{CatalogueChange, KeyspaceSettings};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::{KeyspaceNumber, LogPosition, SequenceNumber};

/// What a commit is checked against.
#[derive(Debug)]
pub struct Validation<'a> {
    /// The last commit that the transaction saw.
    pub began: SequenceNumber,
    /// What it read, when that counts.
    pub reads: Option<&'a ReadSet>,
}

fn validate(core: &Core, writes: &PendingWrites, validation: &Validation<'_>) -> Result<()> {
    let view = core.view();
    let after = validation.began;
    for slot in view.memtables() {
        let table = &slot.table;
        let key_changed = |(keyspace, key): (KeyspaceNumber, &[u8])| {
            table.key_changed_since(keyspace, key, after)
        };
        let range_changed = |keyspace, range: &crate::segment::key_range::KeyRange| {
            table.changed_since(keyspace, &range.start, range.end.as_deref(), after)
        };
        let conflict = writes.touched_keys().any(key_changed)
            || writes.touched_ranges().any(|(number, range)| range_changed(number, range))
            || validation.reads.is_some_and(|reads| {
                reads.keys().any(key_changed)
                    || reads.ranges().any(|(number, range)| range_changed(number, range))
            });
        if conflict {
            return Err(Error::Conflict);
        }
    }
    Ok(())
}

/// Commits.
pub fn commit(
    core: &Arc<Core>,
    writes: &PendingWrites,
    changes: &[CatalogueChange],
    _durability: Durability,
    validation: Option<Validation<'_>>,
) -> Result<SequenceNumber> {
    if writes.is_empty() && changes.is_empty() {
        return Ok(core.visible());
    }
    core.check_writable()?;
    let _order = core.commit_order.lock();
    if let Some(validation) = &validation {
        validate(core, writes, validation)?;
    }
    let number = SequenceNumber(core.numbers.next_sequence.fetch_add(1, Ordering::AcqRel));
    let slot = core.view().active.clone();
    for (keyspace, operation) in writes.operations() {
        match operation {
            PendingOperation::DeleteRange(range) => {
                let end = range.end.as_deref();
                slot.table.insert_range_delete(keyspace, &range.start, end, number);
            }
            PendingOperation::Put { key, value }
                if wants_overflow(value.len(), core.pages.layout().usable_bytes()) =>
            {
                let settings = core.catalogue.load().settings(keyspace);
                let codec = settings.value_codec;
                let reference = write_value(&core.pages, KeyspaceNumber::MANY, codec, value)?;
                let mut encoded = Vec::new();
                reference.encode(&mut encoded);
                slot.table.insert(keyspace, key, number, Operation::PutOverflow(&encoded));
            }
            PendingOperation::Put { key, value } => {
                slot.table.insert(keyspace, key, number, Operation::Put(value));
            }
            PendingOperation::Delete { key } => {
                slot.table.insert(keyspace, key, number, Operation::Delete);
            }
        }
    }
    let mut catalogue = (**core.catalogue.load()).clone();
    for change in changes {
        catalogue.apply(change);
        if let CatalogueChange::Drop(keyspace) = change {
            slot.table.insert_range_delete(*keyspace, &[], None, number);
        }
    }
    core.catalogue.store(Arc::new(catalogue));
    slot.catalogue_changes.lock().extend_from_slice(changes);
    core.publisher.enqueue(number, LogPosition(0), Durability::Memory);
    core.publisher.publish(core.log.positions());
    core.counters.commits.fetch_add(1, Ordering::Relaxed);
    Ok(number)
}

fn change(core: &Arc<Core>, change: CatalogueChange) -> Result<()> {
    commit(core, &PendingWrites::new(), &[change], Durability::Sync, None).map(drop)
}

/// Creates a keyspace.
pub fn create_keyspace(
    core: &Arc<Core>,
    name: &str,
    settings: KeyspaceSettings,
) -> Result<KeyspaceNumber> {
    if core.catalogue.load().find(name).is_some() {
        return Err(Error::KeyspaceExists(name.to_owned()));
    }
    let number = KeyspaceNumber(core.numbers.next_keyspace.fetch_add(1, Ordering::AcqRel));
    change(core, CatalogueChange::Create(number, name.to_owned(), settings))?;
    Ok(number)
}

/// Drops a keyspace.
pub fn drop_keyspace(core: &Arc<Core>, number: KeyspaceNumber) -> Result<()> {
    change(core, CatalogueChange::Drop(number))
}

/// Renames a keyspace.
pub fn rename_keyspace(core: &Arc<Core>, number: KeyspaceNumber, new: &str) -> Result<()> {
    if core.catalogue.load().find(new).is_some() {
        return Err(Error::KeyspaceExists(new.to_owned()));
    }
    change(core, CatalogueChange::Rename(number, new.to_owned()))
}
