//! The one way into the database: a commit gets its place in the order, reaches the log and the
//! memtable, and becomes visible.
//!
//! *Guarantees*: C1, C2: under the commit lock a commit is validated against what came since the
//! unlocked validation, gets its number, its record and its entries in the memtable; outside it
//! waits for the disk as far as its durability asks. A commit that returns is visible. A commit
//! that fails after its record was appended is there whole or not at all after the next open.
//! *Format*: docs/format.md, section 5. *Threads*: any.

use super::batch_writes::{BatchWrites, Collected};
use super::pending::{PendingOperation, PendingWrites};
use super::validate::{Validation, validate};
use super::validator::Validator;
use super::value_writer::{Owned, ValueWriter, WrittenValue};
use crate::error::{Error, Result};
use crate::log::buffer::DIRECT_BYTES_MAX;
use crate::log::operation::CommitEncoder;
use crate::log::record::{NamedBlocks, RecordKind};
use crate::log::writer::AppendError;
use crate::merge::step::{begin_writing, sync};
use crate::merge::throttle::{
    admit, admit_ahead, before_commit, before_commit_of_value, check_held_up, is_log_behind,
    is_memory_full, make_room_in_log, wait_for_memory,
};
use crate::merge::versions::{blocks_named, note_names, seal_before_too_many};
use crate::options::Durability;
use crate::page::{Block, Charge, MemoryPart};
use crate::segment::overflow::{blocks_of, write_value};
use crate::state::Core;
use crate::state::apply::{self, Target, waste_of};
use crate::state::catalogue::{Catalogue, CatalogueChange, KeyspaceSettings};
use crate::state::keyspaces_fit::check_keyspaces_fit;
use crate::state::manifest::encode_settings;
use crate::state::panic_guard::PanicGuard;
use crate::state::reserve::{Brings, has_room};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::{KeyspaceNumber, LogPosition, SequenceNumber};

/// Values from this length on are written once, at the commit, and the log carries their
/// references.
pub const OVERFLOW_AT_COMMIT_BYTES: usize = 64 * 1024;

/// What a change of the catalogue is asked to bring.
const CATALOGUE_BYTES: usize = 256;

/// How often a commit makes room in the log in vain before it gives up.
pub(super) const ROOM_ATTEMPTS: u32 = 6;

/// A commit that needs only its place.
#[derive(Debug, Default)]
struct Prepared {
    encoder: CommitEncoder,
    /// Blocks of values that were written for it.
    blocks: Vec<Block>,
    /// What gives them back, until the record names them.
    owned: Option<Owned>,
    names_unsynced: bool,
    changes: Vec<CatalogueChange>,
    /// What it brings, if that is more or less than its operations say.
    brings: Option<Brings>,
    /// Copies of its operations that are in memory until it has ended.
    copies: Option<Charge>,
}

impl Prepared {
    /// What the blocks take that its record names.
    fn named_bytes(&self, core: &Core) -> usize {
        let pages: u64 = self.blocks.iter().map(|block| u64::from(block.pages)).sum();
        pages.saturating_mul(u64::from(core.pages.layout().page_size)) as usize
    }

    /// Counts a copy of the operations, unless it is small.
    fn count_copy(&mut self, core: &Core) {
        let bytes = self.encoder.encoded_bytes() as u64;
        if bytes > DIRECT_BYTES_MAX {
            let none = || core.pages.budget().charge(MemoryPart::Other, 0);
            self.copies.get_or_insert_with(none).add(bytes);
        }
    }
}

/// Commits writes.
///
/// # Errors
/// `Conflict`, `TransactionTooLarge`, `KeyspaceDropped`, `NoSpace`: nothing is committed.
/// `Stopped`: it is not known whether it will be there after the next open.
pub fn commit(
    core: &Arc<Core>,
    writes: &PendingWrites,
    durability: Durability,
    validation: Option<&Validation<'_>>,
) -> Result<SequenceNumber> {
    if writes.is_empty() {
        // It takes no number, so its place is where it is validated: once is enough.
        if let Some(validation) = validation {
            validate(core, writes, validation, validation.began)?;
        }
        return commit_nothing(core, durability);
    }
    begin(core, writes.bytes(), writes.encoded_bytes(), brings(writes.has_data()))?;
    let mut prepared = prepare(core, writes, durability)?;
    let mut validator = validation.map(|found| Validator::new(core, Some(writes), found));
    let mut check = |core: &Core, _: &mut Prepared| match validation {
        // A drop is a range tombstone over the keyspace's number, so validation has seen it.
        Some(_) => writes.keyspaces().try_for_each(|keyspace| check_held_up(core, keyspace)),
        None => writes.keyspaces().try_for_each(|keyspace| check_keyspace(core, keyspace)),
    };
    let placed = place(core, &mut prepared, durability, validator.as_mut(), &mut check)?;
    // Others need not list what they change any more while this one waits for the disk.
    drop(validator);
    conclude(core, writes.bytes() as u64, durability, placed)
}

/// Ends a commit that has its place.
fn conclude(
    core: &Arc<Core>,
    user_bytes: u64,
    durability: Durability,
    placed: Placed,
) -> Result<SequenceNumber> {
    core.counters.user_bytes.fetch_add(user_bytes, Ordering::Relaxed);
    finish(core, placed, durability)
}

/// Under the commit lock.
///
/// # Errors
/// `KeyspaceDropped`, or why nothing more may be written to it.
pub(super) fn check_keyspace(core: &Core, keyspace: KeyspaceNumber) -> Result<()> {
    let catalogue = core.catalogue.load();
    match catalogue.get(keyspace).filter(|entry| !entry.dropped) {
        Some(_) => check_held_up(core, keyspace),
        None => Err(Error::KeyspaceDropped(keyspace.to_string())),
    }
}

/// Commits what a batch has collected.
///
/// # Errors
/// As [`commit`] without a validation.
pub fn commit_batch(
    core: &Arc<Core>,
    writes: &mut BatchWrites,
    durability: Durability,
) -> Result<SequenceNumber> {
    match writes.collected() {
        Collected::Pending(pending) => commit(core, pending, durability, None),
        Collected::Encoded { encoder, keyspaces, bytes } => {
            commit_encoded(core, encoder, keyspaces, bytes, durability)
        }
    }
}

/// The same when `check`, which runs under the commit lock, lets it pass. Something is written, and
/// the check looks for the keyspaces.
///
/// # Errors
/// As [`commit`], and what `check` returns.
pub fn commit_if(
    core: &Arc<Core>,
    writes: &mut BatchWrites,
    durability: Durability,
    check: &dyn Fn(&Core) -> Result<()>,
) -> Result<SequenceNumber> {
    let bytes = writes.bytes_within(usize::MAX)?;
    begin(core, bytes, writes.encoded_bytes(), brings(writes.has_data()))?;
    let mut prepared = match writes.collected() {
        Collected::Pending(pending) => prepare(core, pending, durability)?,
        Collected::Encoded { encoder, .. } => Prepared { encoder, ..Prepared::default() },
    };
    let mut check = |core: &Core, _: &mut Prepared| check(core);
    let placed = place(core, &mut prepared, durability, None, &mut check)?;
    conclude(core, bytes as u64, durability, placed)
}

/// A commit without operations has no record, but makes what came before it as durable as any
/// other.
fn commit_nothing(core: &Arc<Core>, durability: Durability) -> Result<SequenceNumber> {
    match durability {
        Durability::Sync => sync(core)?,
        Durability::Buffered => {
            if core.log.positions().written < core.log.positions().end {
                // After an open that may be what was replayed (D7).
                begin_writing(core)?;
            }
            core.write_log_to(core.log.positions().end)?;
            core.publisher.publish(core.log.positions());
            core.background.note_commit(core.clock.now(), true);
        }
        Durability::Memory => {}
    }
    Ok(core.visible())
}

/// Commits operations that name no blocks and change no catalogue, and of which the later takes the
/// place of the earlier on the same key.
fn commit_encoded(
    core: &Arc<Core>,
    encoder: CommitEncoder,
    keyspaces: &[KeyspaceNumber],
    bytes: usize,
    durability: Durability,
) -> Result<SequenceNumber> {
    if encoder.operation_count() == 0 {
        return commit_nothing(core, durability);
    }
    begin(core, bytes, encoder.encoded_bytes(), brings(encoder.has_data()))?;
    let mut prepared = Prepared { encoder, ..Prepared::default() };
    let mut check = |core: &Core, _: &mut Prepared| {
        keyspaces.iter().try_for_each(|keyspace| check_keyspace(core, *keyspace))
    };
    let placed = place(core, &mut prepared, durability, None, &mut check)?;
    conclude(core, bytes as u64, durability, placed)
}

/// Commits a put of a value that was written already.
///
/// # Errors
/// As [`commit`]; the value's blocks are given back then.
pub fn commit_value(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    key: &[u8],
    value: ValueWriter,
    durability: Durability,
) -> Result<SequenceNumber> {
    commit_written(core, keyspace, key, value.finish()?, durability)
}

/// The same of one that has ended.
pub(super) fn commit_written(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    key: &[u8],
    value: WrittenValue,
    durability: Durability,
) -> Result<SequenceNumber> {
    let (reference, owned) = value.into_parts();
    let blocks = blocks_of(&reference).collect();
    let mut prepared = Prepared { blocks, owned: Some(owned), ..Prepared::default() };
    let mut encoded = Vec::new();
    reference.encode(&mut encoded);
    prepared.encoder.put_overflow(keyspace, key, &encoded);
    sync_values(core, &mut prepared, durability)?;
    let bytes = key.len() + encoded.len();
    before_commit_of_value(core, bytes, prepared.named_bytes(core))?;
    let mut check = |core: &Core, _: &mut Prepared| check_keyspace(core, keyspace);
    let placed = place(core, &mut prepared, durability, None, &mut check)?;
    conclude(core, key.len() as u64 + reference.length, durability, placed)
}

/// What comes before each commit of writes, which take so many bytes of memory, and of the file.
fn begin(core: &Arc<Core>, bytes: usize, encoded_bytes: usize, brings: Brings) -> Result<()> {
    core.check_writable()?;
    begin_writing(core)?;
    let limit = core.memtable_bytes_max();
    if bytes > limit {
        let (bytes, limit) = (bytes as u64, limit as u64);
        return Err(Error::TransactionTooLarge { bytes, limit });
    }
    before_commit(core, bytes, encoded_bytes, brings)
}

fn brings(has_data: bool) -> Brings {
    if has_data { Brings::Data } else { Brings::Deletions }
}

/// The longest name of a keyspace that is taken, in bytes: every name is in memory, and in every
/// durable state. A file may hold longer ones.
const NAME_BYTES_MAX: usize = 1024;

/// # Errors
/// `NameTooLong`.
fn check_name(name: &str) -> Result<()> {
    let (length, limit) = (name.len(), NAME_BYTES_MAX);
    if length > limit { Err(Error::NameTooLong { length, limit }) } else { Ok(()) }
}

/// Makes a keyspace of that name.
///
/// # Errors
/// `KeyspaceExists`, `NameTooLong`; or as [`commit`].
pub fn create_keyspace(
    core: &Arc<Core>,
    name: &str,
    settings: KeyspaceSettings,
    durability: Durability,
) -> Result<KeyspaceNumber> {
    check_name(name)?;
    let mut given = KeyspaceNumber(0);
    change_catalogue(core, durability, Brings::Data, &mut |catalogue| {
        if catalogue.find(name).is_some() {
            return Err(Error::KeyspaceExists(name.to_owned()));
        }
        check_keyspaces_fit(core, catalogue, 1, name.len())?;
        given = core.commit_numbers().1;
        if given == KeyspaceNumber::MANY {
            return Err(Error::NoSpace {
                operation: "the number of one keyspace more".into(),
                file: core.pages.storage().name(),
            });
        }
        Ok(CatalogueChange::Create(given, name.to_owned(), settings))
    })?;
    Ok(given)
}

/// Drops the keyspace that has that name when the commit has its place, with all that it holds.
///
/// # Errors
/// `UnknownKeyspace`; or as [`commit`].
pub fn drop_keyspace(core: &Arc<Core>, name: &str, durability: Durability) -> Result<()> {
    change_catalogue(core, durability, Brings::Drop, &mut |catalogue| {
        Ok(CatalogueChange::Drop(number_of(catalogue, name)?))
    })
}

/// # Errors
/// `UnknownKeyspace`.
fn number_of(catalogue: &Catalogue, name: &str) -> Result<KeyspaceNumber> {
    let found = catalogue.find(name).map(|(number, _)| number);
    found.ok_or_else(|| Error::UnknownKeyspace(name.to_owned()))
}

/// Gives the keyspace that has the old name when the commit has its place a new one.
///
/// # Errors
/// `UnknownKeyspace`, `KeyspaceExists`, `NameTooLong`; or as [`commit`].
pub fn rename_keyspace(
    core: &Arc<Core>,
    old: &str,
    new: &str,
    durability: Durability,
) -> Result<()> {
    check_name(new)?;
    change_catalogue(core, durability, Brings::Deletions, &mut |catalogue| {
        let number = number_of(catalogue, old)?;
        if catalogue.find(new).is_some_and(|(found, _)| found != number) {
            return Err(Error::KeyspaceExists(new.to_owned()));
        }
        match new.len().saturating_sub(old.len()) {
            0 => {}
            longer => check_keyspaces_fit(core, catalogue, 0, longer)?,
        }
        Ok(CatalogueChange::Rename(number, new.to_owned()))
    })
}

fn change_catalogue(
    core: &Arc<Core>,
    durability: Durability,
    brings: Brings,
    choose: &mut dyn FnMut(&Catalogue) -> Result<CatalogueChange>,
) -> Result<()> {
    core.check_writable()?;
    begin_writing(core)?;
    before_commit(core, CATALOGUE_BYTES, CATALOGUE_BYTES, brings)?;
    let mut prepared = Prepared { brings: Some(brings), ..Prepared::default() };
    let placed = place(core, &mut prepared, durability, None, &mut |core, prepared| {
        let change = choose(&core.catalogue.load())?;
        prepared.encoder.clear();
        match &change {
            CatalogueChange::Create(number, name, settings) => {
                prepared.encoder.create_keyspace(*number, name, &encode_settings(settings));
            }
            CatalogueChange::Drop(number) => prepared.encoder.drop_keyspace(*number),
            CatalogueChange::Rename(number, name) => {
                prepared.encoder.rename_keyspace(*number, name);
            }
        }
        prepared.changes = vec![change];
        Ok(())
    })?;
    finish(core, placed, durability).map(drop)
}

/// Encodes the writes; large values are written to blocks of their own.
fn prepare(core: &Arc<Core>, writes: &PendingWrites, durability: Durability) -> Result<Prepared> {
    let _guard = PanicGuard::new(core, "a commit");
    let mut prepared = Prepared::default();
    let large = writes.large_bytes(OVERFLOW_AT_COMMIT_BYTES);
    let _room = (large > 0).then(|| admit_ahead(core, Brings::Data, large)).transpose()?;
    // While a value is written it has no owner.
    let running = (large > 0).then(|| core.background.begin_running());
    for (keyspace, operation) in writes.operations() {
        match operation {
            PendingOperation::DeleteRange(range) => {
                let (start, end) = (&range.start, range.end.as_deref());
                prepared.encoder.delete_range(keyspace, start, end);
            }
            PendingOperation::Delete { key } => prepared.encoder.delete(keyspace, key),
            PendingOperation::Put { key, value } if value.len() < OVERFLOW_AT_COMMIT_BYTES => {
                prepared.encoder.put(keyspace, key, value);
            }
            PendingOperation::Put { key, value } => {
                let reference = write_large(core, keyspace, value, &mut prepared)?;
                prepared.encoder.put_overflow(keyspace, key, &reference);
            }
        }
    }
    drop(running);
    prepared.count_copy(core);
    sync_values(core, &mut prepared, durability)?;
    Ok(prepared)
}

/// Values of a `Sync` commit are on disk before the record takes its place, so that no other
/// committer waits for them.
fn sync_values(core: &Core, prepared: &mut Prepared, durability: Durability) -> Result<()> {
    prepared.names_unsynced = !prepared.blocks.is_empty();
    if prepared.names_unsynced && durability == Durability::Sync {
        let storage = core.pages.storage();
        let synced = core.sync_file();
        let failed = |error| Error::io("syncing values", storage.name(), error);
        synced.map_err(|error| core.stop(&failed(error)))?;
        prepared.names_unsynced = false;
    }
    Ok(())
}

fn write_large(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    value: &[u8],
    prepared: &mut Prepared,
) -> Result<Vec<u8>> {
    let codec = core.catalogue.load().settings(keyspace).value_codec;
    let reference = write_value(&core.pages, keyspace, codec, value)?;
    prepared.blocks.extend(blocks_of(&reference));
    let owned = prepared.owned.get_or_insert_with(|| Owned::new(core, Vec::new()));
    owned.set(&prepared.blocks);
    let mut encoded = Vec::new();
    reference.encode(&mut encoded);
    Ok(encoded)
}

/// A commit that has its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub number: SequenceNumber,
    /// Where its record ends.
    pub end: LogPosition,
    pub buffer_is_full: bool,
}

/// Gives a commit its place: number, record, entries. Both checks run under the commit lock; each
/// time before that is taken, the validator looks ahead.
fn place(
    core: &Arc<Core>,
    prepared: &mut Prepared,
    durability: Durability,
    mut validator: Option<&mut Validator<'_>>,
    check: &mut dyn FnMut(&Core, &mut Prepared) -> Result<()>,
) -> Result<Placed> {
    let mut in_vain = 0;
    // The log has one until it is written.
    prepared.count_copy(core);
    let wasted = match prepared.encoder.longest_put() > core.leaf_waste.short_bytes() {
        true => waste_of(prepared.encoder.operations(), &core.leaf_waste),
        false => 0,
    };
    while in_vain < ROOM_ATTEMPTS {
        if let Some(validator) = &mut validator {
            validator.look_ahead()?;
        }
        let order = core.commit_order.lock();
        let _guard = PanicGuard::new(core, "a commit");
        core.check_writable()?;
        if let Some(validator) = &mut validator
            && !validator.check()?
        {
            continue;
        }
        if let Err(error) = check(core, prepared) {
            drop(order);
            return Err(settled(core, error));
        }
        // Others may have taken the room that was there before the lock; as often as that happens,
        // they go on.
        let brought = prepared.brings.unwrap_or_else(|| brings(prepared.encoder.has_data()));
        // Values that were written already are owed again: see `names_much`.
        let named = prepared.named_bytes(core);
        let bytes = prepared.encoder.encoded_bytes() + named + wasted as usize;
        if !has_room(core, brought, bytes) {
            drop(order);
            admit(core, brought, bytes)?;
            continue;
        }
        let to_memory = prepared.encoder.encoded_bytes();
        if is_memory_full(core, to_memory) {
            drop(order);
            wait_for_memory(core, to_memory)?;
            continue;
        }
        if is_log_behind(core, to_memory) {
            drop(order);
            core.write_log_to(core.log.positions().end)?;
            continue;
        }
        let (written, longest_put) = (prepared.blocks.len(), prepared.encoder.longest_put());
        let blocks = blocks_named(core, written, longest_put);
        seal_before_too_many(core, blocks);
        let number = core.commit_numbers().0;
        let named = match (prepared.blocks.is_empty(), prepared.names_unsynced) {
            (true, _) => NamedBlocks::None,
            (false, true) => NamedBlocks::Unsynced,
            (false, false) => NamedBlocks::OnDisk,
        };
        let head = prepared.encoder.head(core.clock.wall_milliseconds());
        let parts = [head.as_slice(), prepared.encoder.encoded_operations()];
        match core.log.append(RecordKind::Commit, number, named, &parts) {
            Ok(appended) => {
                insert(core, prepared, number)?;
                note_names(core, blocks);
                core.log_named.add(appended.end, &prepared.blocks);
                // Under the lock, so that no flush has them referenced before.
                prepared.owned.take().into_iter().for_each(Owned::release);
                core.publisher.enqueue(number, appended.end, durability);
                drop(order);
                let buffer_is_full = appended.buffer_is_full;
                return Ok(Placed { number, end: appended.end, buffer_is_full });
            }
            Err(AppendError::Failed(error)) => return Err(error),
            Err(AppendError::Full(full)) => {
                drop(order);
                let has_room = make_room_in_log(core, in_vain, full.needed, brought)?;
                in_vain += u32::from(!has_room);
            }
        }
    }
    Err(Error::NoSpace {
        operation: format!("{} bytes of the log", prepared.encoder.encoded_bytes()),
        file: core.pages.storage().name(),
    })
}

/// What is said of the keyspaces as of the newest commit is said when that is visible (K4).
fn settled(core: &Core, error: Error) -> Error {
    match error {
        Error::KeyspaceDropped(_) | Error::KeyspaceExists(_) | Error::UnknownKeyspace(_) => {
            core.wait_for_catalogue().err().unwrap_or(error)
        }
        error => error,
    }
}

/// Puts a commit's entries into the memtable, and its changes into the catalogue. The commit lock
/// is held.
fn insert(core: &Core, prepared: &Prepared, number: SequenceNumber) -> Result<()> {
    let view = core.view();
    let operations = prepared.encoder.operations();
    let changes = &prepared.changes;
    let (slot, table) = (&*view.active, &view.active.table);
    let target = Target { slot, contents: &view.state, waste: &core.leaf_waste };
    let inserted = apply::insert(target, number, operations, &mut |keyspace, key, operation| {
        table.insert(keyspace, key, number, operation);
    });
    // What was just encoded can be decoded; if not, memory is damaged and nothing more may be
    // written.
    inserted.map_err(|error| core.stop(&error))?;
    if !changes.is_empty() {
        let mut catalogue = (**core.catalogue.load()).clone();
        apply::note(&view.active, &mut catalogue, changes);
        core.set_catalogue(number, catalogue);
        for change in changes {
            if let CatalogueChange::Create(number, ..) = change {
                core.numbers.next_keyspace.store(number.0 + 1, Ordering::Release);
            }
        }
    }
    // Before the number is given out: whoever sees that counts on what is listed.
    let listed = core.recent.add(number, prepared.encoder.operations());
    listed.map_err(|error| core.stop(&error))?;
    core.numbers.next_sequence.store(number.0 + 1, Ordering::Release);
    Ok(())
}

/// Brings the log as far as the durability asks, and waits until the commit is visible.
pub(super) fn finish(
    core: &Arc<Core>,
    placed: Placed,
    durability: Durability,
) -> Result<SequenceNumber> {
    let brought = match durability {
        Durability::Sync => core.sync_log_to(placed.end),
        Durability::Buffered => core.write_log_to(placed.end),
        Durability::Memory if placed.buffer_is_full => core.write_log_to(placed.end),
        Durability::Memory => Ok(()),
    };
    // After a stop nothing becomes visible any more. What somebody has published before had what it
    // wished for, so it is committed, whatever has failed since (C5).
    if core.visible() < placed.number {
        brought?;
    }
    core.publisher.publish(core.log.positions());
    core.publisher.wait_for(placed.number)?;
    core.background.note_commit(core.clock.now(), durability == Durability::Buffered);
    core.counters.commits.fetch_add(1, Ordering::Relaxed);
    core.charge_memtables();
    Ok(placed.number)
}
