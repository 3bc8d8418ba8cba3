//! Reads of a whole database, in the model's words.
//!
//! *Guarantees*: a dump that is returned was read forwards and backwards, and both agree.

use std::ops::Bound;
use std::sync::Arc;

use sapwood::{Database, Key, Keyspace, Range, Result, Snapshot, Value};

use crate::model::{Change, KeyRange, Map, State};

/// Every key of a keyspace.
pub const EVERYTHING: (Bound<Vec<u8>>, Bound<Vec<u8>>) = (Bound::Unbounded, Bound::Unbounded);

/// Reads a range to its end.
///
/// # Errors
/// The first one that the range gives.
pub fn collect(range: Range) -> Result<Map> {
    range.map(|pair| pair.map(own)).collect()
}

/// Reads a range from its end to its beginning.
///
/// # Errors
/// The first one that the range gives.
pub fn collect_back(range: Range) -> Result<Map> {
    range.rev().map(|pair| pair.map(own)).collect()
}

fn own((key, value): (Key, Value)) -> (Vec<u8>, Arc<[u8]>) {
    (key.as_slice().to_vec(), Arc::from(value.as_slice()))
}

/// The content of a database, read forwards, with the names that it lists.
///
/// # Errors
/// Those of the reads.
pub fn dump(database: &Database) -> Result<State> {
    let mut state = State::default();
    for name in database.keyspaces()? {
        let keyspace = database.existing_keyspace(&name)?;
        state.keyspaces.insert(name, collect(keyspace.iter()?)?);
    }
    Ok(state)
}

/// The content of a database, read backwards.
///
/// # Errors
/// Those of the reads.
pub fn dump_back(database: &Database) -> Result<State> {
    let mut state = State::default();
    for name in database.keyspaces()? {
        let keyspace = database.existing_keyspace(&name)?;
        state.keyspaces.insert(name, collect_back(keyspace.iter()?)?);
    }
    Ok(state)
}

/// What a snapshot sees of one keyspace, forwards.
///
/// # Errors
/// Those of the reads.
pub fn dump_snapshot(snapshot: &Snapshot, keyspace: &Keyspace) -> Result<Map> {
    collect(snapshot.iter(keyspace)?)
}

/// What something that takes writes can do; batches and transactions do.
pub trait Writes {
    /// Puts a value.
    ///
    /// # Errors
    /// Those of the write.
    fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()>;
    /// Deletes a key.
    ///
    /// # Errors
    /// Those of the write.
    fn delete(&mut self, keyspace: &Keyspace, key: &[u8]) -> Result<()>;
    /// Deletes a range.
    ///
    /// # Errors
    /// Those of the write.
    fn delete_range(&mut self, keyspace: &Keyspace, range: &KeyRange) -> Result<()>;

    /// Makes a change of keys; one of the catalogue is no part of a batch, and does nothing.
    ///
    /// # Errors
    /// Those of the write.
    fn change(&mut self, keyspace: &Keyspace, change: &Change) -> Result<()> {
        match change {
            Change::Put { key, value, .. } => self.put(keyspace, key, value),
            Change::Delete { key, .. } => self.delete(keyspace, key),
            Change::DeleteRange { range, .. } => self.delete_range(keyspace, range),
            Change::Create(_) | Change::Drop(_) | Change::Rename { .. } => Ok(()),
        }
    }
}

macro_rules! writes {
    ($of:ty) => {
        impl Writes for $of {
            fn put(&mut self, keyspace: &Keyspace, key: &[u8], value: &[u8]) -> Result<()> {
                <$of>::put(self, keyspace, key, value)
            }
            fn delete(&mut self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
                <$of>::delete(self, keyspace, key)
            }
            fn delete_range(&mut self, keyspace: &Keyspace, range: &KeyRange) -> Result<()> {
                <$of>::delete_range(self, keyspace, range.clone())
            }
        }
    };
}

writes!(sapwood::Batch);
writes!(sapwood::Transaction);

/// What a report finds fault with, leaks included; `None` when it is clean.
#[must_use]
pub fn verify_finding(report: &sapwood::VerifyReport) -> Option<String> {
    let first = report.problems.first().map(ToString::to_string).unwrap_or_default();
    (report.problem_count > 0)
        .then(|| format!("{} problems, the first: {first}", report.problem_count))
}

/// Checks a database that is open and at rest: nothing may be wrong, and no page without owner.
///
/// # Errors
/// Those of the check.
pub fn verify(database: &Database) -> Result<Option<String>> {
    let report = database.verify(&mut ())?;
    if report.unowned_pages > 0 {
        return Ok(Some(format!("{} pages have no owner", report.unowned_pages)));
    }
    Ok(verify_finding(&report))
}

/// Bytes of the pages that the current state uses, and of those that are dead and held; the log,
/// maps and header are in neither.
///
/// # Errors
/// Those of the check.
pub fn live_and_held_bytes(database: &Database) -> Result<(u64, u64)> {
    let report = database.verify(&mut ())?;
    let page_bytes = u64::from(report.page_size);
    Ok((report.live_pages * page_bytes, report.held_pages * page_bytes))
}
