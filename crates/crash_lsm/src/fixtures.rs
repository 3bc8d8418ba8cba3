//! Databases that tests begin with.
//!
//! *Guarantees*: without merge threads, so that nothing happens between two calls.

use std::sync::Arc;

use sapwood::{Database, Keyspace, Result};

use crate::model::Map;
use crate::setup::Setup;

/// Where the content of a keyspace lies, below the public face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// All of it in memory.
    Memory,
    /// Flushed once.
    OneSegment,
    /// Flushed in three pieces that overlap, and not merged.
    YoungSegments,
    /// In pieces again, the older ones merged, the last in memory.
    Levels,
    /// In one segment.
    Compacted,
}

/// All arrangements.
pub const ARRANGEMENTS: [Arrangement; 5] = [
    Arrangement::Memory,
    Arrangement::OneSegment,
    Arrangement::YoungSegments,
    Arrangement::Levels,
    Arrangement::Compacted,
];

/// A change of one key: a value, or its end.
pub type KeyChange = (Vec<u8>, Option<Vec<u8>>);

/// A database in memory with the smallest options.
///
/// # Errors
/// Those of the open.
pub fn tiny() -> Result<Database> {
    Setup::tiny().builder().open_in_memory()
}

/// Runs steps until nothing is due.
///
/// # Errors
/// Those of the steps.
pub fn run_all_steps(database: &Database) -> Result<()> {
    while database.run_step()? {}
    Ok(())
}

/// Makes changes so that their result lies as asked for.
///
/// # Errors
/// Those of the writes.
pub fn arrange(
    database: &Database,
    keyspace: &Keyspace,
    arrangement: Arrangement,
    changes: &[KeyChange],
) -> Result<()> {
    match arrangement {
        Arrangement::Memory => write(database, keyspace, changes),
        Arrangement::OneSegment => {
            write(database, keyspace, changes)?;
            database.flush()
        }
        Arrangement::YoungSegments => pieces(changes, 3).try_for_each(|piece| {
            write(database, keyspace, piece)?;
            database.flush()
        }),
        Arrangement::Levels => {
            let count = pieces(changes, 5).count();
            for (index, piece) in pieces(changes, 5).enumerate() {
                write(database, keyspace, piece)?;
                if index + 1 < count {
                    database.flush()?;
                }
                if index + 2 < count {
                    run_all_steps(database)?;
                }
            }
            Ok(())
        }
        Arrangement::Compacted => {
            write(database, keyspace, changes)?;
            database.flush()?;
            database.compact()
        }
    }
}

fn pieces(changes: &[KeyChange], count: usize) -> impl Iterator<Item = &[KeyChange]> {
    changes.chunks(changes.len().div_ceil(count).max(1))
}

/// Commits changes, a few hundred a batch.
///
/// # Errors
/// Those of the commits.
pub fn write(database: &Database, keyspace: &Keyspace, changes: &[KeyChange]) -> Result<()> {
    for some in changes.chunks(256) {
        let mut batch = database.batch();
        for (key, value) in some {
            match value {
                Some(value) => batch.put(keyspace, key, value)?,
                None => batch.delete(keyspace, key)?,
            }
        }
        batch.commit()?;
    }
    Ok(())
}

/// What is there after such changes.
#[must_use]
pub fn result_of(changes: &[KeyChange]) -> Map {
    let mut map = Map::new();
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key.clone(), Arc::from(value.as_slice())),
            None => map.remove(key),
        };
    }
    map
}
