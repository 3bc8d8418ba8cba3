//! The transaction: reads one instant, and its own writes first.

use std::fmt;
use std::ops::RangeBounds;

use super::commit::commit;
use super::commit_by_reference::commit_by_reference;
use super::layers::{Layers, OwnRead, Savepoint};
use super::pending::PendingWrites;
use super::reads::Reads;
use super::validate::Validation;
use super::value_writer::ValueWriter;
use crate::bytes::{Key, Value};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::key_bounds::{key_range, prefix_range};
use crate::keyspace::{Keyspace, in_key_order, value_of};
use crate::merge::step::begin_writing;
use crate::options::{Durability, Isolation};
use crate::range::Range;
use crate::scan::{Direction, OwnLayer, Scan};
use crate::segment::key_range::KeyRange;
use crate::shared::{Shared, check_key};
use crate::state::lookup::{self, Found};
use crate::state::{BlocksHold, Core, ReadPoint, SnapshotHold};
use crate::stream::Hold;
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// Reads one instant of the database and its own writes, and commits these together, unless another
/// commit has come between.
///
/// Which changes of others count is chosen when it [begins](crate::Database::begin): see
/// [`Isolation`]. [`Database::transact`](crate::Database::transact) begins, commits and tries again
/// by itself. A transaction that is dropped, also while a panic unwinds, is rolled back. Iterators
/// and cursors see the writes that were made before they were, and may outlive the transaction.
///
/// # Examples
/// ```
/// use sapwood::Isolation;
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let accounts = db.keyspace("accounts")?;
/// accounts.put("ada", "10")?;
///
/// let mut transaction = db.begin(Isolation::Serializable)?;
/// assert_eq!(transaction.get(&accounts, "ada")?.unwrap(), "10");
/// transaction.put(&accounts, "grace", "5")?;
/// assert_eq!(transaction.get(&accounts, "grace")?.unwrap(), "5");
/// assert_eq!(accounts.get("grace")?, None, "nobody else sees it yet");
///
/// accounts.put("ada", "0")?;
/// let conflict = transaction.commit().unwrap_err();
/// assert!(conflict.is_conflict(), "it has read what was changed meanwhile");
/// # Ok(())
/// # }
/// ```
pub struct Transaction {
    shared: Arc<Shared>,
    hold: Arc<SnapshotHold>,
    writes: Layers,
    /// A write method was called, though perhaps to no effect.
    wrote: bool,
    /// Serializable transactions only.
    reads: Option<Arc<Reads>>,
    /// Its place in the list of open ones.
    name: u64,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("sequence", &self.sequence())
            .field("pending_segments", &self.writes.segment_count())
            .finish_non_exhaustive()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // A closed database keeps no list.
        let _ = self.shared.read(|core| {
            core.end_transaction(self.name);
            // What was written and not committed is free at once, unless a cursor reads it.
            self.writes = Layers::new(core.pages.budget());
            core.collect_released();
            Ok(())
        });
    }
}

impl Transaction {
    /// Begins one at this moment.
    ///
    /// # Errors
    /// `Closed`.
    pub(crate) fn begin(shared: &Arc<Shared>, isolation: Isolation) -> Result<Transaction> {
        shared.read(|core| {
            // Listed before its number is chosen, so that no flush in between is missed (E5).
            let name = core.transactions.begin(core.clock.now());
            let hold = SnapshotHold::take(core);
            core.transactions.began_at(name, hold.number());
            let is_serializable = isolation == Isolation::Serializable;
            let reads = is_serializable.then(|| Arc::new(Reads::new(core.pages.budget())));
            let writes = Layers::new(core.pages.budget());
            let (shared, hold) = (shared.clone(), Arc::new(hold));
            Ok(Transaction { shared, hold, writes, wrote: false, reads, name })
        })
    }

    fn scan(&self, keyspace: &Keyspace) -> Result<Scan> {
        self.shared.check_open()?;
        let keyspace = keyspace.number_in(&self.shared)?;
        let (own, reads) = (self.writes.sources(keyspace), self.reads.clone());
        Ok(Scan { own, reads, ..Scan::new(&self.shared, keyspace, self.hold.clone()) })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What keeps a value that was found from reuse.
    pub(crate) fn stream_hold(&self, keyspace: KeyspaceNumber, blocks: Option<BlocksHold>) -> Hold {
        let mut own = self.writes.sources(keyspace);
        own.retain(|layer| matches!(layer, OwnLayer::Segment(_)));
        Hold { _committed: self.hold.clone(), _blocks: blocks, _own: own }
    }

    /// Puts a value that was written already.
    pub(crate) fn put_value(
        &mut self,
        keyspace: &Keyspace,
        key: &[u8],
        value: ValueWriter,
    ) -> Result<()> {
        let (writes, wrote) = (&mut self.writes, &mut self.wrote);
        // It writes to the file, so that a close waits for it.
        self.shared.change(|core| {
            let number = keyspace.live_in(&self.shared, core)?;
            *wrote = true;
            writes.put_value(core, number, key, value)
        })
    }

    pub(crate) fn find<T>(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        own: impl FnOnce(&[u8]) -> T,
        committed: impl FnOnce(&Core, KeyspaceNumber, Found, Option<&ReadPoint>) -> Result<T>,
    ) -> Result<Option<T>> {
        check_key(key)?;
        self.shared.read(|core| {
            let number = keyspace.number_in(&self.shared)?;
            match self.writes.get(core, number, key)? {
                Some(OwnRead::Value(value)) => return Ok(Some(own(value))),
                Some(OwnRead::Found(found)) => {
                    return committed(core, number, found, None).map(Some);
                }
                Some(OwnRead::Deleted) => return Ok(None),
                None => {}
            }
            if let Some(reads) = &self.reads {
                reads.add_key(number, key);
            }
            let point = self.hold.read_point(core);
            let found = lookup::get(core, &point, number, key)?;
            found.map(|found| committed(core, number, found, Some(&point))).transpose()
        })
    }

    fn write(
        &mut self,
        keyspace: &Keyspace,
        operation: impl FnOnce(&mut PendingWrites, KeyspaceNumber),
    ) -> Result<()> {
        if self.shared.read(|core| Ok(self.writes.is_full(core)))? {
            self.spill()?;
        }
        let (writes, wrote) = (&mut self.writes, &mut self.wrote);
        let is_over = self.shared.read(|core| {
            if core.options.read_only {
                return Err(Error::ReadOnly);
            }
            let number = keyspace.live_in(&self.shared, core)?;
            *wrote = true;
            operation(writes.top(), number);
            Ok(writes.recharge())
        })?;
        if is_over {
            // It is written, whatever comes of this: what cannot be spilled is in memory still, and
            // the next write, or the commit, meets the error.
            let _ = self.spill();
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let writes = &mut self.writes;
        // It writes to the file, so that a close waits for it.
        self.shared.change(|core| {
            begin_writing(core)?;
            writes.spill(core)
        })
    }

    /// The number of the last commit that it sees.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// fruit.put("fig", "sweet")?;
    /// assert!(transaction.sequence() < db.snapshot()?.sequence());
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
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// assert_eq!(transaction.get(&fruit, "fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let value = |core: &Core, number, found, _: Option<&ReadPoint>| {
            value_of(&self.shared, core, number, found)
        };
        self.find(keyspace, key.as_ref(), |own| Value::from(own), value)
    }

    /// The values of several keys, in the order in which they are asked for: see
    /// [`Keyspace::get_many`].
    ///
    /// # Errors
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&keyspace, "b", "1")?;
    /// assert_eq!(transaction.get_many(&keyspace, ["a", "b"])?, [None, Some("1".into())]);
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
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// fruit.put("fig", "sweet")?; // after it began
    /// assert!(!transaction.contains(&fruit, "fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.find(keyspace, key.as_ref(), |_| (), |_, _, _, _| Ok(()))?.is_some())
    }

    /// Puts a value under a key, in place of the one that it had.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`](crate::Error::KeyTooLong);
    /// [`Error::ForeignKeyspace`](crate::Error::ForeignKeyspace),
    /// [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped),
    /// [`Error::ReadOnly`](crate::Error::ReadOnly),
    /// [`Error::Closed`](crate::Error::Closed); and, since writes above a sixteenth of the memory
    /// budget (less beside other transactions) go to the file,
    /// [`Error::NoSpace`](crate::Error::NoSpace) and others that come from there: what was written
    /// before is still there then.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// transaction.commit()?;
    /// assert!(fruit.contains("fig")?);
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

    /// Deletes a key, whether it is there or not.
    ///
    /// # Errors
    /// As [`Transaction::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.delete(&fruit, "fig")?;
    /// assert!(!transaction.contains(&fruit, "fig")?);
    /// assert!(fruit.contains("fig")?); // not before the commit
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.write(keyspace, |writes, number| writes.delete(number, key))
    }

    /// Deletes all entries of a range. Its commit conflicts with every other one that wrote to the
    /// range meanwhile.
    ///
    /// # Errors
    /// [`Error::InvalidRange`](crate::Error::InvalidRange), and as [`Transaction::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.delete_range(&fruit, "a".."g")?;
    /// transaction.commit()?;
    /// assert_eq!(fruit.count::<&str>(..)?, 1);
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

    /// Deletes all entries whose keys begin with a prefix.
    ///
    /// # Errors
    /// As [`Transaction::delete_range`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.delete_prefix(&fruit, "p")?;
    /// transaction.commit()?;
    /// assert_eq!(fruit.count::<&str>(..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_prefix(&mut self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<()> {
        let range = prefix_range(prefix.as_ref());
        self.write(keyspace, |writes, number| writes.delete_range(number, range))
    }

    /// The entries of a range, in order, from both ends. A serializable transaction has read what
    /// the iterator has passed, the gaps between entries included.
    ///
    /// # Errors
    /// [`Error::InvalidRange`](crate::Error::InvalidRange), and as [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "banana", "green")?;
    /// assert_eq!(transaction.range(&fruit, "b".."g")?.count(), 2);
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
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// assert_eq!(transaction.prefix(&fruit, "f")?.count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(Range::new(self.scan(keyspace)?, prefix_range(prefix.as_ref())))
    }

    /// All entries of a keyspace.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// for pair in transaction.iter(&fruit)? {
    ///     let (name, state) = pair?;
    ///     println!("{name:?} is {state:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self, keyspace: &Keyspace) -> Result<Range> {
        Ok(Range::new(self.scan(keyspace)?, KeyRange::all()))
    }

    /// The first entry of a keyspace.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.delete(&fruit, "apple")?;
    /// assert_eq!(transaction.first(&fruit)?.unwrap().0, "fig");
    /// # Ok(())
    /// # }
    /// ```
    pub fn first(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace)?.step(Direction::Forward, 1).transpose()
    }

    /// The last entry of a keyspace.
    ///
    /// # Errors
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "quince", "hard")?;
    /// assert_eq!(transaction.last(&fruit)?.unwrap().0, "quince");
    /// # Ok(())
    /// # }
    /// ```
    pub fn last(&self, keyspace: &Keyspace) -> Result<Option<(Key, Value)>> {
        self.iter(keyspace)?.step(Direction::Backward, 1).transpose()
    }

    /// The exact number of entries in a range, all of which counts as read.
    ///
    /// # Errors
    /// As [`Transaction::range`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.delete(&fruit, "fig")?;
    /// assert_eq!(transaction.count::<&str>(&fruit, ..)?, 2);
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
    /// As [`Transaction::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "banana", "green")?;
    /// let mut cursor = transaction.cursor(&fruit)?;
    /// assert!(cursor.first()? && cursor.next()?);
    /// assert_eq!(cursor.key(), Some(&b"banana"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn cursor(&self, keyspace: &Keyspace) -> Result<Cursor> {
        Ok(Cursor::new(self.scan(keyspace)?))
    }

    /// Commits with the database's default durability.
    ///
    /// A transaction of which no write method was called has read one instant, which is its place
    /// in the order of commits: it never conflicts, and makes nothing durable. One that called any
    /// is a writing one, also when its writes come to nothing (the deletion of an empty range): it
    /// is validated, and makes what was committed before it as durable as it asks for.
    ///
    /// # Errors
    /// [`Error::Conflict`](crate::Error::Conflict) when another commit has changed what this one
    /// wrote or, when it is serializable, read; or when so much was committed since it began that
    /// nobody can tell: see
    /// [`Builder::max_transaction_history_bytes`](crate::Builder::max_transaction_history_bytes);
    /// [`Error::Closed`](crate::Error::Closed), [`Error::Stopped`](crate::Error::Stopped),
    /// [`Error::NoSpace`](crate::Error::NoSpace) and others. Nothing of it is visible then; after
    /// `Stopped` or `Io` it may be there after the next open, whole.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// fruit.put("fig", "sour")?; // somebody else is first
    /// assert!(matches!(transaction.commit(), Err(sapwood::Error::Conflict)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit(self) -> Result<()> {
        let durability = self.shared.durability;
        self.commit_with(durability)
    }

    /// Commits with the durability given.
    ///
    /// A transaction of which no write method was called makes nothing durable, whatever is asked:
    /// [`Database::sync`](crate::Database::sync) does.
    ///
    /// # Errors
    /// As [`Transaction::commit`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// transaction.commit_with(sapwood::Durability::Buffered)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit_with(mut self, durability: Durability) -> Result<()> {
        let writes = &mut self.writes;
        if !self.wrote {
            return self.shared.read(|_| Ok(()));
        }
        self.shared.change(|core| {
            if !core.transactions.begin_commit(self.name) {
                return Err(Error::Conflict);
            }
            let reads = self.reads.as_ref().map(|reads| reads.take());
            let validation = Validation { began: self.hold.number(), reads: reads.as_ref() };
            let fits = writes.memory_bytes() <= core.memtable_bytes_max();
            let committed = match fits && !writes.has_segments() {
                true => commit(core, &writes.take_memory(), durability, Some(&validation)),
                false => commit_by_reference(core, writes, durability, &validation),
            };
            committed.map(drop)
        })
    }

    /// A place among its writes that [`Transaction::rollback_to`] goes back to.
    ///
    /// It costs little, and a little for each later read while it is held.
    ///
    /// # Examples
    /// ```
    /// use sapwood::Isolation;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// let mut transaction = db.begin(Isolation::Snapshot)?;
    /// transaction.put(&keyspace, "key", "first")?;
    /// let savepoint = transaction.savepoint();
    /// transaction.put(&keyspace, "key", "second")?;
    /// transaction.rollback_to(&savepoint)?;
    /// transaction.commit()?;
    /// assert_eq!(keyspace.get("key")?.unwrap(), "first");
    /// # Ok(())
    /// # }
    /// ```
    pub fn savepoint(&mut self) -> Savepoint {
        self.writes.savepoint()
    }

    /// Forgets what was written since a savepoint, which can be used again; those made since are
    /// void. Iterators and cursors still see what they saw. What was read still counts as read.
    ///
    /// # Errors
    /// [`Error::InvalidSavepoint`](crate::Error::InvalidSavepoint) for one of another transaction,
    /// or one that is void; [`Error::Closed`](crate::Error::Closed).
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// let savepoint = transaction.savepoint();
    /// transaction.put(&fruit, "fig", "sour")?;
    /// transaction.rollback_to(&savepoint)?;
    /// assert_eq!(transaction.get(&fruit, "fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        let writes = &mut self.writes;
        self.shared.read(|core| {
            writes.rollback_to(savepoint)?;
            core.collect_released();
            Ok(())
        })
    }

    /// Forgets its writes. Dropping it does the same.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// transaction.rollback();
    /// assert!(!fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rollback(self) {}
}
