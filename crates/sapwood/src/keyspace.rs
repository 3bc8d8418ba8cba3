//! The handle of one keyspace.

use std::fmt;
use std::ops::RangeBounds;

use crate::bytes::{Key, Value};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::estimate;
use crate::key_bounds::{key_range, prefix_range};
use crate::options::{Compression, KeyspaceOptions};
use crate::page::Codec;
use crate::progress::Progress;
use crate::range::Range;
use crate::scan::{Direction, Scan};
use crate::segment::key_range::KeyRange;
use crate::shared::{Shared, check_key};
use crate::state::catalogue::{Catalogue, KeyspaceSettings};
use crate::state::lookup::{self, Found};
use crate::state::{Core, ReadPoint, SnapshotHold};
use crate::sync::Arc;
use crate::transaction::batch_writes::BatchWrites;
use crate::transaction::commit::commit_batch;
use crate::types::KeyspaceNumber;

/// A named, independent ordered map inside a [`Database`](crate::Database).
///
/// Handles are cheap to clone and may be used from any thread. Each call by itself is a transaction
/// of one: a read sees the newest commit, a write is committed with the database's default
/// durability when it returns. A handle follows its keyspace when that is renamed, and gives
/// [`Error::KeyspaceDropped`] once it is dropped, [`Error::Closed`] once the database is closed.
/// Handles do not keep a database open: that does a [`Database`](crate::Database) alone.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let users = db.keyspace("users")?;
/// users.put("ada", "countess")?;
/// users.put("grace", "admiral")?;
/// assert_eq!(users.get("ada")?.unwrap(), "countess");
/// users.delete("ada")?;
/// assert_eq!(users.get("ada")?, None);
/// assert_eq!(users.iter()?.count(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Keyspace {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    number: KeyspaceNumber,
    /// The name at opening.
    name: String,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Keyspace");
        out.field("number", &self.handle.number).field("name", &self.name()).finish()
    }
}

fn compression(codec: Codec) -> Compression {
    match codec {
        Codec::Plain => Compression::None,
        Codec::Zstd { level } => Compression::Zstd(level),
    }
}

fn options_of(settings: KeyspaceSettings) -> KeyspaceOptions {
    KeyspaceOptions {
        compression: compression(settings.codec),
        value_compression: compression(settings.value_codec),
        filter_bits: settings.filter_bits,
    }
}

/// The value that a lookup found.
pub(crate) fn value_of(
    shared: &Shared,
    core: &Core,
    keyspace: KeyspaceNumber,
    found: Found,
) -> Result<Value> {
    Ok(match found {
        Found::Copied(bytes) => Value::from(bytes),
        Found::InFrame(frame, range) => Value::from_frame(frame, range),
        Found::Overflow(reference) => {
            Value::from(shared.read_overflow(core, keyspace, &reference)?)
        }
    })
}

/// Looks keys up in ascending order, each once, and answers in the order given.
pub(crate) fn in_key_order<K: AsRef<[u8]>>(
    keys: impl IntoIterator<Item = K>,
    mut find: impl FnMut(&[u8]) -> Result<Option<Value>>,
) -> Result<Vec<Option<Value>>> {
    let keys: Vec<K> = keys.into_iter().collect();
    keys.iter().try_for_each(|key| check_key(key.as_ref()))?;
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by_key(|index| keys[*index].as_ref());
    let mut values = vec![None; keys.len()];
    let mut before: Option<usize> = None;
    for index in order {
        let key = keys[index].as_ref();
        values[index] = match before.filter(|before| keys[*before].as_ref() == key) {
            Some(before) => values[before].clone(),
            None => find(key)?,
        };
        before = Some(index);
    }
    Ok(values)
}

/// So many keys are looked up at one read point.
const POINT_KEYS: usize = 256;

/// The newest commit, for as many keys as a call asks for. A read point holds memtables, and those
/// that are flushed meanwhile count for no part of the budget: few keys are done with before that
/// matters; for more a snapshot is registered, and the point taken anew from time to time.
struct Moment {
    hold: Option<SnapshotHold>,
    point: ReadPoint,
    /// How many keys it serves yet, if there is a hold.
    left: usize,
}

impl Moment {
    fn latest(core: &Core, key_count: usize) -> Moment {
        let hold = (key_count > POINT_KEYS).then(|| SnapshotHold::take(core));
        let latest = || ReadPoint::latest(core);
        let point = hold.as_ref().map_or_else(latest, |hold| hold.read_point(core));
        Moment { hold, point, left: POINT_KEYS }
    }

    /// Where to look up one key more.
    fn for_next(&mut self, core: &Core) -> &ReadPoint {
        if let Some(hold) = &self.hold {
            if self.left == 0 {
                (self.point, self.left) = (hold.read_point(core), POINT_KEYS);
            }
            self.left -= 1;
        }
        &self.point
    }
}

impl Keyspace {
    pub(crate) fn new(shared: &Arc<Shared>, number: KeyspaceNumber, name: &str) -> Keyspace {
        let handle = Handle { shared: shared.clone(), number, name: name.to_owned() };
        Keyspace { handle: Arc::new(handle) }
    }

    /// Its number, when it is of that database.
    ///
    /// # Errors
    /// `ForeignKeyspace`.
    pub(crate) fn number_in(&self, shared: &Arc<Shared>) -> Result<KeyspaceNumber> {
        if !Arc::ptr_eq(shared, &self.handle.shared) {
            return Err(Error::ForeignKeyspace(self.handle.name.clone()));
        }
        Ok(self.handle.number)
    }

    /// The same, when it was not dropped either.
    ///
    /// # Errors
    /// `ForeignKeyspace`, `KeyspaceDropped`.
    pub(crate) fn live_in(&self, shared: &Arc<Shared>, core: &Core) -> Result<KeyspaceNumber> {
        self.number_in(shared)?;
        self.live(core)
    }

    fn live(&self, core: &Core) -> Result<KeyspaceNumber> {
        let number = self.handle.number;
        let has = |catalogue: &Catalogue| catalogue.get(number).is_some_and(|e| !e.dropped);
        // A drop that waits for the disk may fail. Until it is visible the keyspace is there, and
        // who writes to it waits for that drop at its commit (K4).
        if has(&core.current_catalogue()) || has(&core.visible_catalogue()) {
            return Ok(number);
        }
        Err(self.dropped())
    }

    /// True for two handles that were opened as one keyspace.
    pub(crate) fn is_same(&self, other: &Keyspace) -> bool {
        self.handle.number == other.handle.number
    }

    fn dropped(&self) -> Error {
        Error::KeyspaceDropped(self.handle.name.clone())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    pub(crate) fn read<T>(
        &self,
        run: impl FnOnce(&Core, KeyspaceNumber) -> Result<T>,
    ) -> Result<T> {
        self.handle.shared.read(|core| run(core, self.live(core)?))
    }

    /// Runs a call that changes the file.
    pub(crate) fn change<T>(
        &self,
        run: impl FnOnce(&Arc<Core>, KeyspaceNumber) -> Result<T>,
    ) -> Result<T> {
        self.handle.shared.change(|core| match run(core, self.live(core)?) {
            Err(Error::KeyspaceDropped(_)) => Err(self.dropped()),
            result => result,
        })
    }

    /// The newest commit, as one instant.
    fn scan(&self) -> Result<Scan> {
        self.read(|core, keyspace| {
            Ok(Scan::new(self.shared(), keyspace, Arc::new(SnapshotHold::take(core))))
        })
    }

    /// Commits one operation.
    fn write(
        &self,
        operation: impl FnOnce(&mut BatchWrites, KeyspaceNumber) -> Result<()>,
    ) -> Result<()> {
        self.change(|core, number| {
            let mut writes = BatchWrites::default();
            operation(&mut writes, number)?;
            commit_batch(core, &mut writes, self.handle.shared.durability).map(drop)
        })
    }

    /// Its name: the one that it has now, or had at opening once it is dropped or the database
    /// closed.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// assert_eq!(fruit.name(), "fruit");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn name(&self) -> String {
        let Handle { shared, number, name } = &*self.handle;
        let current = shared.read(|core| {
            let catalogue = core.visible_catalogue();
            Ok(catalogue.get(*number).filter(|entry| !entry.dropped).map(|e| e.name.clone()))
        });
        current.ok().flatten().unwrap_or_else(|| name.clone())
    }

    /// Its number in the file, by which [`Corruption`](crate::Corruption) and the findings of
    /// [`Database::verify`](crate::Database::verify) name it. It stays when the keyspace is
    /// renamed, and none gets it again once it is dropped.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// let fruit = db.keyspace("fruit")?;
    /// let nuts = db.keyspace("nuts")?;
    /// assert_ne!(fruit.number(), nuts.number());
    /// assert_eq!(db.stats()?.keyspaces[0].number, fruit.number());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn number(&self) -> KeyspaceNumber {
        self.handle.number
    }

    /// The options that it was created with.
    ///
    /// # Errors
    /// [`Error::KeyspaceDropped`], [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::KeyspaceOptions;
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// let by_range = db.keyspace_with("by_range", KeyspaceOptions::default().filter_bits(0))?;
    /// assert_eq!(by_range.options()?.filter_bits, 0);
    /// // One that exists keeps its own.
    /// let again = db.keyspace("by_range")?;
    /// assert_eq!(again.options()?, by_range.options()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn options(&self) -> Result<KeyspaceOptions> {
        self.read(|core, number| {
            let of = |catalogue: &Catalogue| catalogue.get(number).map(|entry| entry.settings);
            let settings = of(&core.visible_catalogue()).or_else(|| of(&core.current_catalogue()));
            settings.map(options_of).ok_or_else(|| self.dropped())
        })
    }

    /// Puts a value under a key, in place of the one that it had.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`] for a key of more than 16,384 bytes, [`Error::TransactionTooLarge`]
    /// for a key and value of more than a quarter of the memory budget; [`Error::Stopped`],
    /// [`Error::NoSpace`] and others when it cannot be committed.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// fruit.put(b"\x00\xff", vec![1, 2, 3])?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        self.write(|writes, number| writes.put(number, key, value))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`Error::KeyTooLong`]; [`Error::ValueTooLarge`] for a value above an eighth of the memory
    /// budget; or when a node cannot be read or is damaged.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// assert!(fruit.get("fig")?.is_none());
    /// fruit.put("fig", "sweet")?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        check_key(key)?;
        self.read(|core, number| {
            let point = ReadPoint::latest(core);
            let found = lookup::get(core, &point, number, key)?;
            found.map(|found| value_of(&self.handle.shared, core, number, found)).transpose()
        })
    }

    /// The values of several keys as of one moment, in the order in which they are asked for; a key
    /// may be asked for twice.
    ///
    /// The keys are looked up in their own order, so that neighbours find in memory what the first
    /// of them had to read.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let legs = db.keyspace("legs")?;
    /// legs.put("spider", "8")?;
    /// legs.put("ant", "6")?;
    /// let found = legs.get_many(["spider", "snake", "ant"])?;
    /// assert_eq!(found, [Some("8".into()), None, Some("6".into())]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Value>>> {
        // The application's own code: it may close the database, or use it.
        let keys: Vec<K> = keys.into_iter().collect();
        self.read(|core, number| {
            let mut moment = Moment::latest(core, keys.len());
            in_key_order(keys, |key| {
                let found = lookup::get(core, moment.for_next(core), number, key)?;
                found.map(|found| value_of(self.shared(), core, number, found)).transpose()
            })
        })
    }

    /// True when there is an entry with that key. A large value is not read.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// assert!(fruit.contains("fig")?);
    /// assert!(!fruit.contains("lemon")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        check_key(key)?;
        self.read(|core, number| {
            Ok(lookup::get(core, &ReadPoint::latest(core), number, key)?.is_some())
        })
    }

    /// Deletes a key, whether it is there or not.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// fruit.delete("fig")?;
    /// fruit.delete("lemon")?; // it was not there
    /// assert!(!fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.write(|writes, number| writes.delete(number, key))
    }

    /// Deletes all entries of a range. It costs no more than a put, however many there are.
    ///
    /// # Errors
    /// [`Error::InvalidRange`] when its start lies after its end, and as [`Keyspace::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let days = db.keyspace("days")?;
    /// for day in ["2024-01-31", "2024-02-01", "2024-02-29", "2024-03-01"] {
    ///     days.put(day, "")?;
    /// }
    /// days.delete_range("2024-02".."2024-03")?;
    /// assert_eq!(days.count("2024"..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<()> {
        let range = key_range(&range)?;
        self.write(|writes, number| writes.delete_range(number, range))
    }

    /// Deletes all entries whose keys begin with a prefix.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// fruit.put("fig leaf", "green")?;
    /// fruit.delete_prefix("fig")?;
    /// assert_eq!(fruit.count::<&str>(..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<()> {
        let range = prefix_range(prefix.as_ref());
        self.write(|writes, number| writes.delete_range(number, range))
    }

    /// Merges a range of keys into one segment, without tombstones; otherwise as
    /// [`Database::compact_with`](crate::Database::compact_with).
    ///
    /// # Errors
    /// [`Error::InvalidRange`] when its start lies after its end; [`Error::Cancelled`] when
    /// `progress` asks for that; and as [`Database::flush`](crate::Database::flush).
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// keyspace.put("key", "value")?;
    /// // Goes on as long as this says true.
    /// keyspace.compact("a".."z", &mut |done, all| done <= all)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact<K: AsRef<[u8]>>(
        &self,
        range: impl RangeBounds<K>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let range = key_range(&range)?;
        let shared = &self.handle.shared;
        let number = shared.read(|core| self.live(core))?;
        shared.compact(Some((number, range)), progress)
    }

    /// The entries of a range, in order, from both ends. For all entries there is
    /// [`Keyspace::iter`].
    ///
    /// # Errors
    /// [`Error::InvalidRange`] when its start lies after its end, and as [`Keyspace::iter`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let squares = db.keyspace("squares")?;
    /// for number in 0..100_u32 {
    ///     squares.put(number.to_be_bytes(), (number * number).to_be_bytes())?;
    /// }
    /// let mut sum = 0;
    /// for entry in squares.range(10_u32.to_be_bytes()..13_u32.to_be_bytes())? {
    ///     let (_, square) = entry?;
    ///     sum += u32::from_be_bytes(square[..].try_into().unwrap());
    /// }
    /// assert_eq!(sum, 100 + 121 + 144);
    /// # Ok(())
    /// # }
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<Range> {
        Ok(Range::new(self.scan()?, key_range(&range)?))
    }

    /// The entries whose keys begin with a prefix.
    ///
    /// # Errors
    /// As [`Keyspace::iter`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// fruit.put("fig leaf", "green")?;
    /// assert_eq!(fruit.prefix("fig")?.count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(Range::new(self.scan()?, prefix_range(prefix.as_ref())))
    }

    /// All entries.
    ///
    /// # Errors
    /// [`Error::KeyspaceDropped`], [`Error::Closed`]. What cannot be read is met on the way: the
    /// iterator gives errors as [`Keyspace::get`] does, and ends.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// for pair in fruit.iter()? {
    ///     let (name, state) = pair?;
    ///     println!("{name:?} is {state:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> Result<Range> {
        Ok(Range::new(self.scan()?, KeyRange::all()))
    }

    /// The first entry.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let (name, _) = fruit.first()?.unwrap();
    /// assert_eq!(name, "apple");
    /// # Ok(())
    /// # }
    /// ```
    pub fn first(&self) -> Result<Option<(Key, Value)>> {
        self.iter()?.step(Direction::Forward, 1).transpose()
    }

    /// The last entry.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let (name, _) = fruit.last()?.unwrap();
    /// assert_eq!(name, "plum");
    /// # Ok(())
    /// # }
    /// ```
    pub fn last(&self) -> Result<Option<(Key, Value)>> {
        self.iter()?.step(Direction::Backward, 1).transpose()
    }

    /// The exact number of entries in a range. Each is visited; for a quick guess there is
    /// [`Keyspace::estimate`].
    ///
    /// # Errors
    /// [`Error::InvalidRange`], and as [`Keyspace::get`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// assert_eq!(fruit.count("b"..)?, 2);
    /// assert_eq!(fruit.count::<&str>(..)?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn count<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        let range = key_range(&range)?;
        self.scan()?.count(&range)
    }

    /// About how many entries a range has, without visiting them.
    ///
    /// The sum of what the parents of each segment say of their children; what lies at the edges of
    /// the range counts half. Keys that were overwritten or deleted count until they are merged
    /// away, so it tends to be high.
    ///
    /// # Errors
    /// As [`Keyspace::count`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let few = db.keyspace("few")?;
    /// few.put("a", "")?;
    /// few.put("b", "")?;
    /// assert_eq!(few.estimate("a"..)?, 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn estimate<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Result<u64> {
        let range = key_range(&range)?;
        self.read(|core, number| estimate::estimate(core, &ReadPoint::latest(core), number, &range))
    }

    /// A cursor that sees this moment.
    ///
    /// # Errors
    /// [`Error::KeyspaceDropped`], [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// let mut cursor = fruit.cursor()?;
    /// let mut names = Vec::new();
    /// let mut valid = cursor.last()?;
    /// while valid {
    ///     names.extend(cursor.key().map(<[u8]>::to_vec));
    ///     valid = cursor.prev()?;
    /// }
    /// assert_eq!(names, [&b"plum"[..], b"fig", b"apple"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn cursor(&self) -> Result<Cursor> {
        Ok(Cursor::new(self.scan()?))
    }
}
