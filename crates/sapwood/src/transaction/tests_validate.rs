//! What is validated outside of the commit lock, and what under it.

use super::PendingWrites;
use super::commit::commit;
use super::tests_rules::{Engine, key};
use super::validate::Validation;
use crate::error::Error;
use crate::merge::step;
use crate::options::Durability;
use crate::segment::key_range::KeyRange;
use crate::state::{Core, SnapshotHold};
use crate::storage::OperationKind;
use crate::sync::Arc;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// While a transaction is validated outside the commit lock, another one commits the same key.
#[test]
fn what_is_committed_during_a_validation_is_seen_by_it() {
    let mut engine = Engine::new();
    engine.put([7], b"first");
    let name = engine.core.transactions.begin(engine.core.clock.now());
    let began = SnapshotHold::take(&engine.core).number();
    engine.core.transactions.began_at(name, began);
    // Validation must read this flush: it has the key, in an older version.
    engine.young([8], b"other");
    let fired = Arc::new(AtomicU32::new(0));
    let (core, count, keyspace) = (engine.core.clone(), fired.clone(), engine.keyspace);
    engine.storage.on_operation(Box::new(move |operation| {
        if operation.kind == OperationKind::Read && count.fetch_add(1, Ordering::AcqRel) == 0 {
            let mut writes = PendingWrites::new();
            writes.put(keyspace, &key(7), b"beside");
            commit(&core, &writes, Durability::Memory, None).unwrap();
        }
    }));
    let mut writes = PendingWrites::new();
    writes.put(engine.keyspace, &key(7), b"mine");
    let validation = Validation { began, reads: None };
    let result = commit(&engine.core, &writes, Durability::Memory, Some(&validation));
    engine.storage.clear_on_operation();
    assert!(fired.load(Ordering::Acquire) > 0, "nothing was read");
    assert!(matches!(result, Err(Error::Conflict)), "{result:?}");
    assert_eq!(engine.value(7).as_deref(), Some(&b"beside"[..]));
    engine.core.end_transaction(name);
}

/// So often others flush while a transaction looks at what they have flushed before.
const FLUSHES: u32 = 3;

/// What others flush during a validation is more than can be looked at while all wait: so it is
/// looked at, too, before the commit takes its place. Nothing is read under the commit lock.
#[test]
fn what_others_flush_during_a_validation_is_read_before_the_commit_lock_is_taken() {
    let engine = Engine::new();
    let name = engine.core.transactions.begin(engine.core.clock.now());
    let began = SnapshotHold::take(&engine.core).number();
    engine.core.transactions.began_at(name, began);
    // On both sides of the key that the transaction puts: of ranges no filter knows, so a look must
    // read them.
    let hide_beside = |core: &Arc<Core>, keyspace, number| {
        let mut writes = PendingWrites::new();
        for start in [number, 900 + number] {
            writes.delete_range(keyspace, KeyRange::new(key(start), Some(key(start + 1))));
        }
        commit(core, &writes, Durability::Memory, None).unwrap();
        let order = core.commit_order.lock();
        core.seal();
        drop(order);
        step::flush_sealed(core).unwrap();
    };
    hide_beside(&engine.core, engine.keyspace, 1);
    let (flushed, under_lock) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let is_busy = AtomicBool::new(false);
    let (core, keyspace) = (engine.core.clone(), engine.keyspace);
    let (flushes, locked) = (flushed.clone(), under_lock.clone());
    engine.storage.on_operation(Box::new(move |operation| {
        if operation.kind != OperationKind::Read || is_busy.swap(true, Ordering::AcqRel) {
            return;
        }
        if core.commit_order.try_lock().is_none() {
            locked.fetch_add(1, Ordering::AcqRel);
        } else if flushes.load(Ordering::Acquire) < FLUSHES {
            let number = flushes.fetch_add(1, Ordering::AcqRel);
            hide_beside(&core, keyspace, 2 + number);
        }
        is_busy.store(false, Ordering::Release);
    }));
    let mut writes = PendingWrites::new();
    writes.put(engine.keyspace, &key(100), b"mine");
    let validation = Validation { began, reads: None };
    let result = commit(&engine.core, &writes, Durability::Memory, Some(&validation));
    engine.storage.clear_on_operation();
    result.unwrap();
    let reads = under_lock.load(Ordering::Acquire);
    assert_eq!(reads, 0, "{reads} reads while all other commits wait");
    assert_eq!(flushed.load(Ordering::Acquire), FLUSHES, "others have flushed less than they may");
    engine.core.end_transaction(name);
}
