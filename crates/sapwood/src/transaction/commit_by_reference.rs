//! The commit of a transaction that has spilled: its record names segments, and its data never goes
//! through the log.
//!
//! *Guarantees*: P4, P8, P10, P11 of docs/architecture.md. *Format*: docs/format.md, section 5.
//! *Threads*: any.

use super::commit::{Placed, ROOM_ATTEMPTS, finish};
use super::layers::Layers;
use super::pending_merge::brings_of;
use super::pending_segment::PendingSegment;
use super::validate::{LOOKS_MAX, Validation, has_much_since, validate_pending};
use super::validator::Validator;
use crate::error::{Error, Result};
use crate::log::record::{NamedBlocks, RecordKind};
use crate::log::writer::AppendError;
use crate::merge::step::begin_writing;
use crate::merge::throttle::{before_commit_by_reference, check_held_up, make_room_in_log};
use crate::options::Durability;
use crate::state::Core;
use crate::state::by_reference::{encode, numbered};
use crate::state::panic_guard::PanicGuard;
use crate::state::view::ByReference;
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::types::SequenceNumber;

/// Commits all that a transaction has written.
///
/// # Errors
/// `Conflict`, `NoSpace` and others: nothing is committed. `Stopped`: it is not known whether it
/// will be there after the next open.
pub fn commit_by_reference(
    core: &Arc<Core>,
    writes: &mut Layers,
    durability: Durability,
    validation: &Validation<'_>,
) -> Result<SequenceNumber> {
    core.check_writable()?;
    begin_writing(core)?;
    before_commit_by_reference(core, bytes_of(writes.segments()))?;
    let segments = writes.take_segments(core)?;
    // Upper parents are in memory until here; the record names roots.
    core.pages.write_unwritten()?;
    // Whatever its durability: a sync after the next open would prove nothing of them, and under a
    // record of which they are no part nobody could write them anew. Before the commit takes its
    // place, so that no other committer waits for it.
    let storage = core.pages.storage();
    let failed = |error| Error::io("syncing a transaction", storage.name(), error);
    core.sync_file().map_err(|error| core.stop(&failed(error)))?;
    let bytes = bytes_of(segments.iter());
    let placed = place(core, writes, &segments, durability, validation)?;
    core.counters.user_bytes.fetch_add(bytes, Ordering::Relaxed);
    finish(core, placed, durability)
}

fn bytes_of<'a>(segments: impl Iterator<Item = &'a Arc<PendingSegment>>) -> u64 {
    let shares = segments.flat_map(|pending| pending.segment().keyspaces.iter());
    shares.map(|share| share.bytes).sum()
}

/// Validates, and gives the commit its place: number, record, slot.
fn place(
    core: &Arc<Core>,
    writes: &Layers,
    segments: &[Arc<PendingSegment>],
    durability: Durability,
    validation: &Validation<'_>,
) -> Result<Placed> {
    let mut validated = validation.began;
    let (mut looks, mut in_vain) = (0, 0);
    let has_read = validation.reads.is_some_and(|reads| !reads.is_empty());
    let mut reads = has_read.then(|| Validator::new(core, None, validation));
    loop {
        // First: then what is little for it is little for the writes, too.
        reads.as_mut().map_or(Ok(()), Validator::look_ahead)?;
        let seen = seal_what_came(core)?;
        validate_pending(core, writes, validated)?;
        validated = validated.max(seen);
        let order = core.commit_order.lock();
        let _guard = PanicGuard::new(core, "a commit");
        core.check_writable()?;
        check_keyspaces(core, writes)?;
        if looks < LOOKS_MAX && has_much_since(core, validated) {
            looks += 1;
            continue;
        }
        if !reads.as_mut().map_or(Ok(true), Validator::check)? {
            continue;
        }
        validate_pending(core, writes, validated)?;
        // The cut of what came before lies before the record.
        core.seal();
        let number = core.commit_numbers().0;
        let of_commit =
            segments.iter().map(|pending| Arc::new(numbered(pending.segment(), number))).collect();
        let commit = |blocks| ByReference { number, segments: of_commit, blocks };
        let payload = encode(
            core.clock.wall_milliseconds(),
            &segments.iter().map(|pending| pending.segment().clone()).collect::<Vec<_>>(),
        );
        match core.log.append(
            RecordKind::CommitByReference,
            number,
            NamedBlocks::OnDisk,
            &[&payload],
        ) {
            Ok(appended) => {
                let names: Vec<_> = segments.iter().map(|pending| pending.blocks()).collect();
                let home = core.put_by_reference(commit(core.pending.join(&names)));
                segments.iter().for_each(|pending| pending.committed_to(&home));
                core.numbers.next_sequence.store(number.0 + 1, Ordering::Release);
                core.publisher.enqueue(number, appended.end, durability);
                drop(order);
                let buffer_is_full = appended.buffer_is_full;
                return Ok(Placed { number, end: appended.end, buffer_is_full });
            }
            Err(AppendError::Failed(error)) => return Err(error),
            Err(AppendError::Full(full)) => {
                drop(order);
                if in_vain == ROOM_ATTEMPTS {
                    let operation = format!("{} bytes of the log", payload.len());
                    let file = core.pages.storage().name();
                    return Err(Error::NoSpace { operation, file });
                }
                let brings = brings_of(segments.iter());
                let has_room = make_room_in_log(core, in_vain, full.needed, brings)?;
                in_vain += u32::from(!has_room);
            }
        }
    }
}

/// Seals the active memtable, as the commit would in any case: what comes later lies by itself, and
/// is little to walk under the lock. Returns the last commit that is sealed.
fn seal_what_came(core: &Core) -> Result<SequenceNumber> {
    let _order = core.commit_order.lock();
    core.check_writable()?;
    core.seal();
    Ok(core.last_placed())
}

fn check_keyspaces(core: &Core, writes: &Layers) -> Result<()> {
    let catalogue = core.catalogue.load();
    let dropped = |number| catalogue.get(number).is_none_or(|entry| entry.dropped);
    for keyspace in writes.keyspaces() {
        if dropped(keyspace) {
            return Err(Error::Conflict);
        }
        check_held_up(core, keyspace)?;
    }
    Ok(())
}
