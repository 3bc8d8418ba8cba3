//! Several writes that are committed together.

use std::fmt;
use std::ops::RangeBounds;

use crate::error::{Error, Result};
use crate::key_bounds::{key_range, prefix_range};
use crate::keyspace::Keyspace;
use crate::options::Durability;
use crate::page::Held;
use crate::shared::{Shared, check_key};
use crate::sync::Arc;
use crate::transaction::batch_writes::BatchWrites;
use crate::transaction::commit::commit_batch;
use crate::types::KeyspaceNumber;

/// Collects writes to any keyspaces of one database and commits them together: all of them become
/// visible at once, and after a crash all are there or none.
///
/// Of each key the last write counts. A batch reads nothing, so it never conflicts; a
/// [`Transaction`](crate::Transaction) reads too. Dropping a batch forgets it.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let by_name = db.keyspace("by name")?;
/// let by_number = db.keyspace("by number")?;
///
/// let mut batch = db.batch();
/// batch.put(&by_name, "helium", "2")?;
/// batch.put(&by_number, "2", "helium")?;
/// assert_eq!(batch.len(), 2);
/// batch.commit()?;
/// assert_eq!(by_number.get("2")?.unwrap(), "helium");
/// # Ok(())
/// # }
/// ```
pub struct Batch {
    shared: Arc<Shared>,
    writes: BatchWrites,
    /// What the writes may take; 0 until it is known.
    bytes_max: usize,
    /// Those that were written to, each once.
    keyspaces: Vec<Keyspace>,
    /// What the writes take; `None` before the first.
    held: Option<Held>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Batch {
    pub(crate) fn new(shared: &Arc<Shared>) -> Batch {
        Batch {
            shared: shared.clone(),
            writes: BatchWrites::default(),
            bytes_max: 0,
            keyspaces: Vec::new(),
            held: None,
        }
    }

    fn write(
        &mut self,
        keyspace: &Keyspace,
        operation: impl FnOnce(&mut BatchWrites, KeyspaceNumber) -> Result<()>,
    ) -> Result<()> {
        let number = keyspace.number_in(&self.shared)?;
        self.shared.check_open()?;
        if !self.keyspaces.iter().any(|known| known.is_same(keyspace)) {
            self.bytes_max = self.shared.read(|core| {
                keyspace.live_in(&self.shared, core)?;
                self.held.get_or_insert_with(|| Held::new(core.pages.budget()));
                Ok(core.memtable_bytes_max())
            })?;
            self.keyspaces.push(keyspace.clone());
        }
        operation(&mut self.writes, number)?;
        let (bytes, limit) = (self.writes.bytes_within(self.bytes_max)?, self.bytes_max);
        if let Some(held) = &mut self.held {
            held.follow(self.writes.memory_bytes());
        }
        if bytes > limit {
            return Err(Error::TransactionTooLarge { bytes: bytes as u64, limit: limit as u64 });
        }
        Ok(())
    }

    /// Adds a put.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`]; [`Error::TransactionTooLarge`] when the batch has grown above a
    /// quarter of the memory budget, and then its commit fails too; [`Error::ForeignKeyspace`],
    /// [`Error::Closed`]; [`Error::KeyspaceDropped`], unless the batch has written to the keyspace
    /// before it was dropped: then the commit fails.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "fig", "sweet")?;
    /// batch.put(&fruit, "fig", "sweeter")?; // the last one counts
    /// batch.commit()?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweeter");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        self.write(keyspace, |writes, number| writes.put(number, key, value))
    }

    /// Adds the delete of a key, whether it is there or not.
    ///
    /// # Errors
    /// As [`Batch::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut batch = db.batch();
    /// batch.delete(&fruit, "fig")?;
    /// batch.commit()?;
    /// assert!(!fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.write(keyspace, |writes, number| writes.delete(number, key))
    }

    /// Adds the delete of all entries of a range: those that are committed when the batch is, and
    /// those that the batch has put before.
    ///
    /// # Errors
    /// [`Error::InvalidRange`], and as [`Batch::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut batch = db.batch();
    /// batch.delete_range(&fruit, "a".."g")?;
    /// batch.put(&fruit, "banana", "green")?; // after the deletion, so it stays
    /// batch.commit()?;
    /// assert_eq!(fruit.count::<&str>(..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_range<K: AsRef<[u8]>>(
        &mut self,
        keyspace: &Keyspace,
        range: impl RangeBounds<K>,
    ) -> Result<()> {
        let range = key_range(&range)?;
        self.write(keyspace, |writes, number| writes.delete_range(number, range))
    }

    /// Adds the delete of all entries whose keys begin with a prefix: those that are committed when
    /// the batch is, and those that the batch has put before.
    ///
    /// # Errors
    /// As [`Batch::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "plum jam", "sweet")?;
    /// batch.delete_prefix(&fruit, "p")?;
    /// batch.put(&fruit, "pear", "green")?; // after the deletion, so it stays
    /// batch.commit()?;
    /// assert_eq!(fruit.count::<&str>(..)?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<()> {
        let range = prefix_range(prefix.as_ref());
        self.write(keyspace, |writes, number| writes.delete_range(number, range))
    }

    /// How many writes would be committed. What a later one made void does not count. Complexity:
    /// O(n).
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "fig", "sweet")?;
    /// assert_eq!(batch.len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// True when nothing would be committed.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// assert!(db.batch().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Commits with the database's default durability.
    ///
    /// # Errors
    /// [`Error::TransactionTooLarge`], [`Error::KeyspaceDropped`], [`Error::Closed`],
    /// [`Error::Stopped`], [`Error::NoSpace`] and others: nothing of the batch is visible then.
    /// After [`Error::Stopped`] or [`Error::Io`] it may be there after the next open, whole.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "fig", "sweet")?;
    /// assert!(!fruit.contains("fig")?);
    /// batch.commit()?;
    /// assert!(fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit(self) -> Result<()> {
        let durability = self.shared.durability;
        self.commit_with(durability)
    }

    /// Commits with the durability given.
    ///
    /// # Errors
    /// As [`Batch::commit`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// use sapwood::Durability;
    ///
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "fig", "sweet")?;
    /// batch.commit_with(Durability::Memory)?;
    /// db.sync()?; // takes it along
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit_with(mut self, durability: Durability) -> Result<()> {
        self.shared.change(|core| match commit_batch(core, &mut self.writes, durability) {
            Err(error @ Error::KeyspaceDropped(_)) => {
                self.keyspaces.iter().try_for_each(|k| k.live_in(&self.shared, core).map(drop))?;
                Err(error)
            }
            result => result.map(drop),
        })
    }
}
