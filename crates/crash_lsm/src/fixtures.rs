//! Databases that tests begin with.
//!
//! *Guarantees*: without merge threads, so that nothing happens between two calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use sapwood::merge::debt::YOUNG_MERGE_COUNT;
use sapwood::sync::Random;
use sapwood::{Database, Keyspace, Result};

use crate::model::Map;
use crate::setup::Setup;

/// Where the content of a keyspace lies, below the public face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// All of it in memory.
    Memory,
    /// In one young segment.
    OneSegment,
    /// In three young segments that overlap: neighbouring keys lie in different ones, and so do the
    /// changes of one key.
    YoungSegments,
    /// In the last level, in a segment above it, in two young segments and in memory, dealt out in
    /// the same way.
    Levels,
    /// In one segment of the last level.
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
        Arrangement::OneSegment => young_segment(database, keyspace, changes),
        Arrangement::YoungSegments => {
            let pieces = pieces(changes, 3);
            pieces.iter().try_for_each(|piece| young_segment(database, keyspace, piece))
        }
        Arrangement::Levels => levels(database, keyspace, changes),
        Arrangement::Compacted => {
            write(database, keyspace, changes)?;
            database.flush()?;
            database.compact()
        }
    }
}

/// With a kibibyte each, more than the young segments of a small test by far.
const FILLER_COUNT: usize = 200;

/// No test's own keys begin so.
const FILLER: [u8; 24] = [u8::MAX; 24];

fn filler(number: usize) -> Vec<u8> {
    [&FILLER[..], &number.to_be_bytes()[..]].concat()
}

/// Deals changes out to pieces: the keys in turn, and each further change of a key to the piece
/// behind that of the change before.
fn pieces(changes: &[KeyChange], count: usize) -> Vec<Vec<KeyChange>> {
    let mut pieces = vec![Vec::new(); count];
    let mut last: BTreeMap<&[u8], usize> = BTreeMap::new();
    for change in changes {
        let next = last.len() % count;
        let piece = match last.get(&*change.0) {
            Some(piece) => (piece + 1).min(count - 1),
            None => next,
        };
        last.insert(&change.0, piece);
        pieces[piece].push(change.clone());
    }
    pieces
}

/// Writes and flushes. A snapshot from before the changes keeps them from the last level, where a
/// flush would write what falls between its keys.
fn young_segment(database: &Database, keyspace: &Keyspace, changes: &[KeyChange]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    keyspace.delete(filler(0))?;
    let before = database.snapshot()?;
    write(database, keyspace, changes)?;
    database.flush()?;
    drop(before);
    Ok(())
}

/// A level above the last one is made only where the last one is large: the filler is what makes it
/// so, and is deleted again.
fn levels(database: &Database, keyspace: &Keyspace, changes: &[KeyChange]) -> Result<()> {
    // The pieces for the last level, the segment above it, two young segments and the memory.
    let pieces = pieces(changes, 1 + YOUNG_MERGE_COUNT + 3);
    let mut pieces = pieces.iter();
    let mut next = || pieces.next().map_or(&[][..], Vec::as_slice);
    let mut random = Random::from_seed(0);
    for number in 0..FILLER_COUNT {
        let mut value = vec![0; 1000];
        random.fill(&mut value);
        keyspace.put(filler(number), value)?;
    }
    write(database, keyspace, next())?;
    database.flush()?;
    database.compact()?;
    keyspace.delete_prefix(FILLER)?;
    for number in 0..YOUNG_MERGE_COUNT {
        keyspace.delete(filler(number))?;
        write(database, keyspace, next())?;
        database.flush()?;
    }
    run_all_steps(database)?;
    young_segment(database, keyspace, next())?;
    young_segment(database, keyspace, next())?;
    write(database, keyspace, next())
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
