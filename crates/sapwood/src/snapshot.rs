//! An instant that can be read for as long as it is held.

use std::fmt;
use std::ops::RangeBounds;

use crate::bytes::{Key, Value};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::key_bounds::{key_range, prefix_range};
use crate::keyspace::{Keyspace, in_key_order, value_of};
use crate::range::Range;
use crate::scan::{Direction, Scan};
use crate::segment::key_range::KeyRange;
use crate::shared::{Shared, check_key};
use crate::state::lookup::{self, Found};
use crate::state::{Core, SnapshotHold};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// One instant of a whole database: it sees what was committed then, for ever.
///
/// Taking, cloning and dropping one cost the same at any size of the database. What it sees is kept
/// in the file for as long as it or an iterator of it lives, also what was deleted since, and
/// keyspaces that were dropped since.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let rings = db.keyspace("rings")?;
/// rings.put("oak", "99")?;
/// let before = db.snapshot()?;
/// rings.put("oak", "100")?;
/// assert_eq!(before.get(&rings, "oak")?.unwrap(), "99");
/// assert_eq!(rings.get("oak")?.unwrap(), "100");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    shared: Arc<Shared>,
    hold: Arc<SnapshotHold>,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Takes one of this moment.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn take(shared: &Arc<Shared>) -> Result<Snapshot> {
        let hold = shared.read(|core| Ok(Arc::new(SnapshotHold::take(core))))?;
        Ok(Snapshot { shared: shared.clone(), hold })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn hold(&self) -> &Arc<SnapshotHold> {
        &self.hold
    }

    pub(crate) fn scan(&self, keyspace: &Keyspace) -> Result<Scan> {
        self.shared.check_open()?;
        let keyspace = keyspace.number_in(&self.shared)?;
        Ok(Scan::new(&self.shared, keyspace, self.hold.clone()))
    }

    fn find<T>(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        take: impl FnOnce(&Core, KeyspaceNumber, Found) -> Result<T>,
    ) -> Result<Option<T>> {
        check_key(key)?;
        self.shared.read(|core| {
            let number = keyspace.number_in(&self.shared)?;
            // It is held until the value is read.
            let point = self.hold.read_point(core);
            lookup::get(core, &point, number, key)?
                .map(|found| take(core, number, found))
                .transpose()
        })
    }

    /// The number of the last commit that it sees. Of two snapshots, the one with the higher number
    /// sees more.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let before = db.snapshot()?;
    /// fruit.put("fig", "sweet")?;
    /// assert!(before.sequence() < db.snapshot()?.sequence());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn sequence(&self) -> SequenceNumber {
        self.hold.number()
    }

    /// The value of a key.
    ///
    /// # Errors
    /// As [`Keyspace::get`], and [`Error::ForeignKeyspace`](crate::Error::ForeignKeyspace).
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "green")?;
    /// let before = db.snapshot()?;
    /// fruit.put("fig", "ripe")?;
    /// assert_eq!(before.get(&fruit, "fig")?.unwrap(), "green");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.find(keyspace, key.as_ref(), |core, number, found| {
            value_of(&self.shared, core, number, found)
        })
    }

    /// The values of several keys, in the order in which they are asked for: see
    /// [`Keyspace::get_many`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// keyspace.put("b", "1")?;
    /// let snapshot = db.snapshot()?;
    /// assert_eq!(snapshot.get_many(&keyspace, ["a", "b"])?, [None, Some("1".into())]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        keyspace.number_in(&self.shared)?;
        self.shared.check_open()?;
        in_key_order(keys, |key| self.get(keyspace, key))
    }

    /// True when there is an entry with that key. A large value is not read.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let before = db.snapshot()?;
    /// fruit.delete("fig")?;
    /// assert!(before.contains(&fruit, "fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.find(keyspace, key.as_ref(), |_, _, _| Ok(()))?.is_some())
    }

    /// The entries of a range, in order, from both ends.
    ///
    /// # Errors
    /// [`Error::InvalidRange`](crate::Error::InvalidRange), and as [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let before = db.snapshot()?;
    /// fruit.delete("fig")?;
    /// assert_eq!(before.range(&fruit, "b".."p")?.count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn range<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        range: impl RangeBounds<K>,
    ) -> Result<Range> {
        Ok(Range::new(self.scan(keyspace)?, key_range(&range)?))
    }

    /// The entries whose keys begin with a prefix.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let before = db.snapshot()?;
    /// assert_eq!(before.prefix(&fruit, "pl")?.count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(Range::new(self.scan(keyspace)?, prefix_range(prefix.as_ref())))
    }

    /// All entries of a keyspace.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let before = db.snapshot()?;
    /// fruit.delete_range::<&str>(..)?;
    /// assert_eq!(before.iter(&fruit)?.rev().count(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self, keyspace: &Keyspace) -> Result<Range> {
        Ok(Range::new(self.scan(keyspace)?, KeyRange::all()))
    }

    /// The first entry of a keyspace.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let (name, _) = db.snapshot()?.first(&fruit)?.unwrap();
    /// assert_eq!(name, "apple");
    /// # Ok(())
    /// # }
    /// ```
    pub fn first(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace)?.step(Direction::Forward, 1).transpose()
    }

    /// The last entry of a keyspace.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let (name, _) = db.snapshot()?.last(&fruit)?.unwrap();
    /// assert_eq!(name, "plum");
    /// # Ok(())
    /// # }
    /// ```
    pub fn last(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace)?.step(Direction::Backward, 1).transpose()
    }

    /// The exact number of entries in a range. Each is visited.
    ///
    /// # Errors
    /// As [`Snapshot::range`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// assert_eq!(db.snapshot()?.count(&fruit, "b"..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn count<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        range: impl RangeBounds<K>,
    ) -> Result<u64> {
        let range = key_range(&range)?;
        self.scan(keyspace)?.count(&range)
    }

    /// A cursor over a keyspace.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let before = db.snapshot()?;
    /// let mut cursor = before.cursor(&fruit)?;
    /// fruit.delete("apple")?;
    /// assert!(cursor.first()?);
    /// assert_eq!(cursor.key(), Some(&b"apple"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cursor(&self, keyspace: &Keyspace) -> Result<Cursor> {
        Ok(Cursor::new(self.scan(keyspace)?))
    }
}
