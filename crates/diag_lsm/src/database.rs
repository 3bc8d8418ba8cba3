//! Databases and keyspaces as the commands open them, and keys as they are given.

use std::error::Error;
use std::ops::Bound;
use std::path::Path;

use sapwood::{Database, Keyspace};

use crate::args::{KeyspaceArguments, RangeArguments};
use crate::{units, usage};

/// A range of keys.
pub type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Opens a database that is there.
pub fn open(path: &Path, budget_mib: u64) -> sapwood::Result<Database> {
    Database::builder().create(false).memory_budget(budget_mib << 20).open(path)
}

/// Opens a database that is there, and writes nothing.
pub fn open_read_only(path: &Path, budget_mib: u64) -> sapwood::Result<Database> {
    Database::builder().read_only(true).memory_budget(budget_mib << 20).open(path)
}

/// Opens a database for reading, and a keyspace in it.
pub fn open_for_reading(at: &KeyspaceArguments) -> sapwood::Result<(Database, Keyspace)> {
    let database = open_read_only(&at.file, at.budget)?;
    let keyspace = database.existing_keyspace(&at.keyspace)?;
    Ok((database, keyspace))
}

/// The same past a damaged log: what was committed since the last durable state is left out then.
/// With the number of such problems, each told on standard error.
pub fn open_past_damage(at: &KeyspaceArguments) -> sapwood::Result<(Database, Keyspace, u64)> {
    match open_for_reading(at) {
        Err(error @ sapwood::Error::Corruption(_)) => {
            let builder = Database::builder().read_only(true).without_log(true);
            let database = builder.memory_budget(at.budget << 20).open(&at.file);
            // Damage of anything else is met again.
            let Ok(database) = database else { return Err(error) };
            let keyspace = database.existing_keyspace(&at.keyspace)?;
            eprintln!("diag_lsm: {error}");
            eprintln!("diag_lsm: what was committed since the last durable state is left out");
            Ok((database, keyspace, 1))
        }
        opened => opened.map(|(database, keyspace)| (database, keyspace, 0)),
    }
}

/// Opens a database for writing, and a keyspace in it, which is made when absent.
pub fn open_for_writing(at: &KeyspaceArguments) -> sapwood::Result<(Database, Keyspace)> {
    let database = open(&at.file, at.budget)?;
    let keyspace = database.keyspace(&at.keyspace)?;
    Ok((database, keyspace))
}

/// About how many pairs a range has, for progress; `None` when what would tell cannot be read:
/// whoever walks the range finds and tells what is wrong there.
pub fn expected(keyspace: &Keyspace, bounds: &KeyBounds) -> Option<u64> {
    keyspace.estimate::<Vec<u8>>(bounds.clone()).ok()
}

/// Bytes as they are given on the command line.
pub fn given(text: &str, hex: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    if !hex {
        return Ok(text.as_bytes().to_vec());
    }
    units::from_hex(text).ok_or_else(|| usage::wrong(format!("{text:?} is not hexadecimal")))
}

/// A key as it is given on the command line.
pub fn given_key(text: &str, hex: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let key = given(text, hex)?;
    usage::key(&key).map_err(usage::wrong)?;
    Ok(key)
}

/// The range that was asked for. Its ends may be longer than a key.
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
    let given = |key: Option<&str>| key.map(|key| given(key, hex)).transpose();
    let (start, end) = (given(start)?, given(end)?);
    if end.is_some() && start > end {
        return Err(usage::wrong("the range's --start lies after its --end"));
    }
    let start = start.map_or(Bound::Unbounded, Bound::Included);
    Ok((start, end.map_or(Bound::Unbounded, Bound::Excluded)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sapwood::page::NodeKind;

    use super::*;
    use crate::file::DurableFile;

    #[test]
    fn what_cannot_be_estimated_is_not_expected() {
        const PAGE_BYTES: usize = 1024;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data.db");
        let builder = Database::builder().page_size(PAGE_BYTES as u32).leaf_bytes(1024);
        let database = builder.merge_threads(0).open(&file).unwrap();
        let keyspace = database.keyspace("default").unwrap();
        let mut batch = database.batch();
        for number in 0..2000 {
            batch.put(&keyspace, format!("key {number:04}"), format!("{number:0>100}")).unwrap();
        }
        batch.commit().unwrap();
        database.flush().unwrap();
        database.compact().unwrap();
        drop(keyspace);
        database.close().unwrap();

        let bounds = bounds_of(Some("key 0100"), Some("key 0300"), None, false).unwrap();
        let at = KeyspaceArguments { file, keyspace: "default".into(), budget: 8 };
        let expected = || {
            let (database, keyspace) = open_for_reading(&at).unwrap();
            let expected = expected(&keyspace, &bounds);
            database.close().unwrap();
            expected
        };
        let about = expected().unwrap();
        assert!((150..300).contains(&about), "{about}");
        let mut bytes = fs::read(&at.file).unwrap();
        let blocks = DurableFile::open(&at.file).unwrap().live_blocks().unwrap();
        let parents = blocks.values().filter(|live| live.what == NodeKind::Parent);
        parents.for_each(|live| bytes[live.block.first.0 as usize * PAGE_BYTES + 60] ^= 0x10);
        fs::write(&at.file, bytes).unwrap();
        assert_eq!(expected(), None);
    }
}
