//! Writes of one key that depend on what it has.
//!
//! *Guarantees*: each is atomic against every other writer (K1, K2 of
//! `transaction/key_look`). *Threads*: any.

use crate::bytes::Value;
use crate::compare::is_value;
use crate::error::{Error, Result};
use crate::keyspace::{Keyspace, value_of};
use crate::shared::check_key;
use crate::state::Core;
use crate::state::lookup::Found;
use crate::sync::Arc;
use crate::transaction::key_look::KeyLook;
use crate::types::KeyspaceNumber;

/// How often [`Keyspace::try_update`] calls its closure at most. Each further call means that
/// another writer has got through, so that only a crowd that never pauses comes near it.
const UPDATE_ATTEMPTS: u32 = 1000;

impl Keyspace {
    /// Puts a value under a key that has none. True when it did; otherwise the key keeps the value
    /// that it has.
    ///
    /// Of several writers that try at once, one gets true, and the others false once its value is
    /// visible. It costs a [`Keyspace::get`] and, when the value is put, a [`Keyspace::put`].
    ///
    /// # Errors
    /// As [`Keyspace::put`] and [`Keyspace::get`]; the value that is there is not read, however
    /// large.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let seats = db.keyspace("seats")?;
    /// assert!(seats.put_if_absent("7A", "ada")?);
    /// assert!(!seats.put_if_absent("7A", "grace")?);
    /// assert_eq!(seats.get("7A")?.unwrap(), "ada");
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        let value = Some(value.as_ref());
        self.write_if(key.as_ref(), value, |_, _, found| Ok(found.is_none()))
    }

    /// Gives a key the value `new` when it has the value `expected`; `None` means no value:
    /// expected to be absent, or to be deleted. True when the key had what was expected; otherwise
    /// nothing is changed.
    ///
    /// False says that another value was there and visible at some moment of the call. To compute
    /// the new value from the old one, and to try again by itself, there is [`Keyspace::update`].
    ///
    /// # Errors
    /// As [`Keyspace::put`], and [`Keyspace::get`] without its limit: a large value is compared
    /// piece by piece.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let doors = db.keyspace("doors")?;
    /// assert!(doors.compare_and_set("front", None, Some(b"open"))?);
    /// assert!(doors.compare_and_set("front", Some(b"open"), Some(b"shut"))?);
    /// assert!(!doors.compare_and_set("front", Some(b"open"), None)?);
    /// assert_eq!(doors.get("front")?.unwrap(), "shut");
    /// # Ok(())
    /// # }
    /// ```
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool> {
        self.write_if(key.as_ref(), new, |core, number, found| {
            is_value(core, number, found, expected)
        })
    }

    /// Gives a key the value that `change` makes of the one that it has, and returns the new one.
    /// `None` means no value: `change` gets it for an absent key, and returns it to delete one.
    ///
    /// When another writer comes between, `change` is called again with what that one has written,
    /// up to 1000 times in all; so it should have no other effects, and be quick. It may be given a
    /// value whose commit is still on its way to the disk: what is made of it becomes visible after
    /// it. No lock is held while it runs, so it may use the database; when it panics, nothing is
    /// changed.
    ///
    /// # Errors
    /// [`Error::Conflict`] when every attempt was in vain; as [`Keyspace::get`] and
    /// [`Keyspace::put`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let visitors = db.keyspace("visitors")?;
    /// for name in ["ada ", "grace "] {
    ///     let append = |old: Option<&[u8]>| [old.unwrap_or_default(), name.as_bytes()].concat();
    ///     visitors.update("home", |old| Some(append(old)))?;
    /// }
    /// assert_eq!(visitors.get("home")?.unwrap(), "ada grace ");
    /// assert_eq!(visitors.update("home", |_| None)?, None);
    /// assert!(!visitors.contains("home")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Vec<u8>>,
    ) -> Result<Option<Value>> {
        self.try_update(key, |old| Ok(change(old)))
    }

    /// As [`Keyspace::update`], with a `change` that may give up: what it returns as an error is
    /// returned as it is, nothing is changed, and it is not called again. For an error of the
    /// application's own, as when the value is not what it should be, there is
    /// [`Error::application`].
    ///
    /// # Errors
    /// What `change` returns, and as [`Keyspace::update`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::Error;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let visits = db.keyspace("visits")?;
    /// let count = |old: Option<&[u8]>| match old {
    ///     Some(bytes) => bytes.try_into().map(u64::from_le_bytes).map_err(Error::application),
    ///     None => Ok(0),
    /// };
    /// let add = |old: Option<&[u8]>| Ok(Some((count(old)? + 1).to_le_bytes().to_vec()));
    /// for _ in 0..3 {
    ///     visits.try_update("home", add)?;
    /// }
    /// assert_eq!(count(visits.get("home")?.as_deref())?, 3);
    ///
    /// visits.put("home", "no number")?;
    /// assert!(matches!(visits.try_update("home", add), Err(Error::Application(_))));
    /// assert_eq!(visits.get("home")?.unwrap(), "no number");
    /// # Ok(())
    /// # }
    /// ```
    pub fn try_update(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Value>> {
        let key = key.as_ref();
        check_key(key)?;
        for _ in 0..UPDATE_ATTEMPTS {
            let (look, old) = self.read(|core, number| {
                let look = KeyLook::take(core, number, key)?;
                let old = look.find(core)?;
                let old = old.map(|found| value_of(self.shared(), core, number, found));
                Ok((look, old.transpose()?))
            })?;
            let new = change(old.as_deref())?;
            let nothing = old.is_none() && new.is_none();
            let done = self.change(|core, _| match nothing {
                true => look.wait_until_visible(core).map(|()| true),
                false => look.commit(core, new.as_deref(), self.shared().durability),
            })?;
            if done {
                return Ok(new.map(Value::from));
            }
        }
        Err(Error::Conflict)
    }

    /// Writes when `holds` says so of what the key has. A write that came between is another
    /// writer's success, so this ends.
    fn write_if(
        &self,
        key: &[u8],
        new: Option<&[u8]>,
        mut holds: impl FnMut(&Core, KeyspaceNumber, Option<&Found>) -> Result<bool>,
    ) -> Result<bool> {
        check_key(key)?;
        let mut attempt = |core: &Arc<Core>, number| {
            let look = KeyLook::take(core, number, key)?;
            let found = look.find(core)?;
            let held = holds(core, number, found.as_ref())?;
            if !held || (found.is_none() && new.is_none()) {
                return look.wait_until_visible(core).map(|()| Some(held));
            }
            let done = look.commit(core, new, self.shared().durability)?;
            Ok(done.then_some(true))
        };
        loop {
            if let Some(held) = self.change(&mut attempt)? {
                return Ok(held);
            }
        }
    }
}
