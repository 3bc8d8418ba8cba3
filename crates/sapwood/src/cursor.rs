//! The cursor: it moves over the entries of a keyspace, both ways.

use std::cmp::Ordering;
use std::fmt;

use crate::bytes::Value;
use crate::error::Result;
use crate::key_bounds::{shortened, successor};
use crate::scan::{Direction, Entry, From, Limits, SCAN_ENTRIES, Scan, Walker};
use crate::transaction::reads::Walk;

/// Which entry a [`Cursor`] looks for.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// use sapwood::Seek;
///
/// let mut cursor = fruit.cursor()?;
/// assert!(cursor.seek("b", Seek::AtOrAfter)?);
/// assert_eq!(cursor.key(), Some(&b"fig"[..]));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seek {
    /// The entry with this key.
    Equal,
    /// The first entry whose key is this one or lies behind it.
    AtOrAfter,
    /// The last entry whose key is this one or lies before it.
    AtOrBefore,
}

/// Moves over the entries of a keyspace; next and previous may be mixed freely.
///
/// It sees the instant at which it was made (or that of its snapshot or transaction). A new cursor
/// stands nowhere, and so does one that has gone beyond the first or last entry, or met an error:
/// then [`Cursor::next`] and [`Cursor::prev`] return false, and [`Cursor::first`], [`Cursor::last`]
/// or [`Cursor::seek`] begin anew. Large values are read only when [`Cursor::value`] asks for them.
/// While it lives, it keeps the file open, even after a close.
///
/// # Examples
/// ```
/// use sapwood::Seek;
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let years = db.keyspace("years")?;
/// for year in ["1492", "1789", "1815"] {
///     years.put(year, "")?;
/// }
///
/// let mut cursor = years.cursor()?;
/// assert!(cursor.seek("1500", Seek::AtOrAfter)?);
/// assert_eq!(cursor.key(), Some(&b"1789"[..]));
/// assert!(cursor.prev()?);
/// assert_eq!(cursor.key(), Some(&b"1492"[..]));
/// assert!(!cursor.prev()?, "there is none before it");
/// assert!(!cursor.valid());
/// # Ok(())
/// # }
/// ```
pub struct Cursor {
    walker: Walker,
    /// Where it stands in the walker's batch.
    index: Option<usize>,
    /// What a serializable transaction has passed since the last seek.
    walk: Option<Walk>,
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("valid", &self.valid()).finish_non_exhaustive()
    }
}

impl Cursor {
    pub(crate) fn new(scan: Scan) -> Cursor {
        Cursor { walker: Walker::new(scan), index: None, walk: None }
    }

    fn entry(&self) -> Option<&Entry> {
        self.walker.batch.get(self.index?)
    }

    /// Fetches from somewhere and stands on the first entry that comes.
    fn begin(&mut self, from: From<'_>, entries: usize) -> Result<bool> {
        self.index = None;
        self.walker.begin(from, entries, Limits::NONE)?;
        self.index = (!self.walker.batch.is_empty()).then_some(0);
        Ok(self.valid())
    }

    /// Notes where the cursor has come to, for a serializable transaction.
    fn note(&self, direction: Direction) {
        match (&self.walk, self.entry(), direction) {
            (None, ..) => {}
            (Some(walk), Some(entry), _) => walk.reach(&entry.key),
            (Some(walk), None, Direction::Forward) => walk.reach_end(None),
            (Some(walk), None, Direction::Backward) => walk.reach_start(&[]),
        }
    }

    /// To the first entry. False when there is none.
    ///
    /// # Errors
    /// [`Error::Closed`](crate::Error::Closed); or when a node cannot be read or is damaged.
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
    /// assert!(cursor.first()?);
    /// assert_eq!(cursor.key(), Some(&b"apple"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn first(&mut self) -> Result<bool> {
        self.walk = self.walker.scan.begin_walk(&[]);
        let valid = self.begin(From::At(&[]), SCAN_ENTRIES)?;
        self.note(Direction::Forward);
        Ok(valid)
    }

    /// To the last entry. False when there is none.
    ///
    /// # Errors
    /// As [`Cursor::first`].
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
    /// assert!(cursor.last()?);
    /// assert_eq!(cursor.key(), Some(&b"plum"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn last(&mut self) -> Result<bool> {
        let valid = self.begin(From::End, SCAN_ENTRIES)?;
        let at = self.entry().map(|entry| entry.key.clone()).unwrap_or_default();
        self.walk = self.walker.scan.begin_walk(&at);
        if let Some(walk) = &self.walk {
            walk.reach_end(None);
        }
        Ok(valid)
    }

    /// To the entry that `seek` describes. False when there is none: then the cursor stands
    /// nowhere.
    ///
    /// # Errors
    /// As [`Cursor::first`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::Seek;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let fruit = db.keyspace("fruit")?;
    /// fruit.put("apple", "red")?;
    /// let mut cursor = fruit.cursor()?;
    /// assert!(cursor.seek("apple", Seek::Equal)?);
    /// assert!(!cursor.seek("banana", Seek::Equal)?);
    /// assert!(cursor.seek("banana", Seek::AtOrBefore)?);
    /// assert_eq!(cursor.value()?, "red");
    /// # Ok(())
    /// # }
    /// ```
    pub fn seek(&mut self, key: impl AsRef<[u8]>, seek: Seek) -> Result<bool> {
        let key = key.as_ref();
        self.walk = self.walker.scan.begin_walk(key);
        match seek {
            Seek::Equal => {
                self.begin_at(key, 1)?;
                if self.entry().is_none_or(|entry| entry.key != *key) {
                    self.index = None;
                }
                if let Some(walk) = &self.walk {
                    walk.reach(key);
                }
            }
            Seek::AtOrAfter => {
                self.begin_at(key, SCAN_ENTRIES)?;
                self.note(Direction::Forward);
            }
            Seek::AtOrBefore => {
                let from = shortened(successor(key));
                self.begin(from.as_deref().map_or(From::End, From::Before), SCAN_ENTRIES)?;
                if let Some(walk) = &self.walk {
                    walk.reach(key);
                }
                self.note(Direction::Backward);
            }
        }
        Ok(self.valid())
    }

    fn begin_at(&mut self, key: &[u8], entries: usize) -> Result<bool> {
        if let Some(key) = shortened(key.to_vec()) {
            return self.begin(From::At(&key), entries);
        }
        self.index = None;
        self.walker.end();
        self.walker.scan.shared.check_open()?;
        Ok(false)
    }

    /// To the next entry. False behind the last one, and when the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::first`].
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
    /// assert!(cursor.first()? && cursor.next()?);
    /// assert_eq!(cursor.key(), Some(&b"fig"[..]));
    /// assert!(cursor.next()?);
    /// assert!(!cursor.next()?);
    /// # Ok(())
    /// # }
    /// ```
    // It is no iterator: it lends its entries, and goes both ways.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<bool> {
        self.step(Direction::Forward)
    }

    /// To the entry before. False before the first one, and when the cursor stands nowhere.
    ///
    /// # Errors
    /// As [`Cursor::first`].
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
    /// assert!(cursor.last()? && cursor.prev()?);
    /// assert_eq!(cursor.key(), Some(&b"fig"[..]));
    /// assert!(cursor.next()?); // both ways in turn
    /// assert_eq!(cursor.key(), Some(&b"plum"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn prev(&mut self) -> Result<bool> {
        self.step(Direction::Backward)
    }

    fn step(&mut self, direction: Direction) -> Result<bool> {
        let index = self.index.take();
        self.walker.scan.shared.check_open()?;
        let Some(index) = index else { return Ok(false) };
        let onward = self.walker.direction == direction;
        let near = if onward { Some(index + 1) } else { index.checked_sub(1) };
        self.index = near.filter(|near| *near < self.walker.batch.len());
        if self.index.is_none() {
            if onward {
                self.walker.go_on(Limits::NONE)?;
                self.index = (!self.walker.batch.is_empty()).then_some(0);
            } else if let Some(entry) = self.walker.batch.get(index) {
                let key = entry.key.clone();
                match direction {
                    Direction::Forward => {
                        self.begin(From::At(&successor(&key)), SCAN_ENTRIES)?;
                    }
                    Direction::Backward => {
                        self.begin(From::Before(&key), SCAN_ENTRIES)?;
                    }
                }
            }
        }
        self.note(direction);
        Ok(self.valid())
    }

    /// True when the cursor stands on an entry.
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
    /// assert!(!cursor.valid());
    /// cursor.first()?;
    /// assert!(cursor.valid());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn valid(&self) -> bool {
        self.entry().is_some()
    }

    /// The key of the entry; `None` when the cursor stands nowhere.
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
    /// assert_eq!(cursor.key(), None);
    /// cursor.last()?;
    /// assert_eq!(cursor.key(), Some(&b"plum"[..]));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.entry().map(|entry| entry.key.as_slice())
    }

    /// The value of the entry; empty when the cursor stands nowhere. A large value is read now.
    ///
    /// # Errors
    /// [`Error::ValueTooLarge`](crate::Error::ValueTooLarge) for a value above an eighth of the
    /// memory budget, and as [`Cursor::first`]. The cursor stays where it is.
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
    /// cursor.first()?;
    /// assert_eq!(cursor.value()?, "ripe");
    /// # Ok(())
    /// # }
    /// ```
    pub fn value(&self) -> Result<Value> {
        self.walker.scan.shared.check_open()?;
        match self.entry() {
            Some(entry) => self.walker.scan.value(&entry.value),
            None => Ok(Value::default()),
        }
    }

    /// The length of the value, in bytes, without reading it; `None` when the cursor stands
    /// nowhere.
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
    /// cursor.first()?;
    /// assert_eq!(cursor.value_len(), Some(4));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn value_len(&self) -> Option<u64> {
        self.entry().map(|entry| entry.value.len())
    }

    /// How the key of the entry stands to other bytes; `None` when the cursor stands nowhere.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let letters = db.keyspace("letters")?;
    /// letters.put("b", "")?;
    /// let mut cursor = letters.cursor()?;
    /// cursor.first()?;
    /// assert_eq!(cursor.compare_key(b"c"), Some(std::cmp::Ordering::Less));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn compare_key(&self, bytes: &[u8]) -> Option<Ordering> {
        self.entry().map(|entry| entry.key.as_slice().cmp(bytes))
    }
}
