//! Databases and keyspaces as the commands open them, and keys as they are given.

use std::error::Error;
use std::ops::Bound;
use std::path::Path;

use sapwood::{Database, Keyspace};

use crate::args::{KeyspaceArguments, RangeArguments};
use crate::units;

/// A range of keys.
pub type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Opens a database that is there.
pub fn open(path: &Path, budget_mib: u64) -> sapwood::Result<Database> {
    Database::builder().create(false).memory_budget(budget_mib << 20).open(path)
}

/// Opens a database for reading, and a keyspace in it.
pub fn open_for_reading(at: &KeyspaceArguments) -> sapwood::Result<(Database, Keyspace)> {
    let builder = Database::builder().read_only(true).memory_budget(at.budget << 20);
    let database = builder.open(&at.file)?;
    let keyspace = database.existing_keyspace(&at.keyspace)?;
    Ok((database, keyspace))
}

/// Opens a database for writing, and a keyspace in it, which is made when absent.
pub fn open_for_writing(at: &KeyspaceArguments) -> sapwood::Result<(Database, Keyspace)> {
    let database = open(&at.file, at.budget)?;
    let keyspace = database.keyspace(&at.keyspace)?;
    Ok((database, keyspace))
}

/// Bytes as they are given on the command line.
pub fn given(text: &str, hex: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    if !hex {
        return Ok(text.as_bytes().to_vec());
    }
    units::from_hex(text).ok_or_else(|| format!("{text:?} is not hexadecimal").into())
}

/// The range that was asked for.
pub fn bounds(range: &RangeArguments) -> Result<KeyBounds, Box<dyn Error>> {
    let (start, end) = (range.start.as_deref(), range.end.as_deref());
    bounds_of(start, end, range.prefix.as_deref(), range.hex)
}

/// A range by its ends, or by a prefix.
pub fn bounds_of(
    start: Option<&str>,
    end: Option<&str>,
    prefix: Option<&str>,
    hex: bool,
) -> Result<KeyBounds, Box<dyn Error>> {
    if let Some(prefix) = prefix {
        let prefix = given(prefix, hex)?;
        let mut end = prefix.clone();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Ok((Bound::Included(prefix), Bound::Excluded(end)));
            }
        }
        return Ok((Bound::Included(prefix), Bound::Unbounded));
    }
    let start = match start {
        Some(key) => Bound::Included(given(key, hex)?),
        None => Bound::Unbounded,
    };
    let end = match end {
        Some(key) => Bound::Excluded(given(key, hex)?),
        None => Bound::Unbounded,
    };
    Ok((start, end))
}
