//! A look at one key, on which a commit can rest: for writes that depend on what is there.
//!
//! *Guarantees*:
//! - K1: what was seen is the key's value right before the commit that rests on it: under the
//!   commit lock nobody has written to the key since, or the commit is not made. The look counts
//!   commits that have their place and wait for the disk; whoever rests on one becomes visible
//!   behind it (C1 of docs/architecture.md), and is lost with it.
//! - K2: an answer without a commit is given when what was seen is visible.
//!
//! The look keeps the view, and so the memtable that took writes then. While that is still the one
//! that takes them, everything since lies in it, and one question to it is the whole validation; no
//! flush record is needed. When it was sealed meanwhile, one looks again.
//!
//! *Threads*: any.

use super::batch_writes::BatchWrites;
use super::commit::commit_if;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::state::lookup::{self, Found};
use crate::state::view::View;
use crate::state::{Core, ReadPoint};
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// See the module.
#[derive(Debug)]
pub struct KeyLook<'a> {
    keyspace: KeyspaceNumber,
    key: &'a [u8],
    view: Arc<View>,
    /// The last commit that it counts; the view has it.
    seen: SequenceNumber,
}

impl<'a> KeyLook<'a> {
    /// Looks at this moment.
    pub fn take(core: &Core, keyspace: KeyspaceNumber, key: &'a [u8]) -> KeyLook<'a> {
        loop {
            let view = core.view();
            let seen = SequenceNumber(core.commit_numbers().0.0 - 1);
            // Otherwise a newer memtable may have some of those commits.
            if Arc::ptr_eq(&view, &core.view()) {
                return KeyLook { keyspace, key, view, seen };
            }
        }
    }

    /// What the key has.
    ///
    /// # Errors
    /// When a node cannot be read or is damaged.
    pub fn find(&self, core: &Core) -> Result<Option<Found>> {
        let point = ReadPoint::of_view(&self.view, self.seen);
        lookup::get(core, &point, self.keyspace, self.key)
    }

    /// Waits until what was seen is visible, so that it can be told (K2).
    ///
    /// # Errors
    /// `Stopped`: it will never be.
    pub fn wait_until_visible(&self, core: &Core) -> Result<()> {
        let visible = core.visible();
        let is_newer = self.view.memtables().any(|slot| match &slot.by_reference {
            Some(commit) => commit.number > visible,
            None => slot.table.key_changed_since(self.keyspace, self.key, visible),
        });
        if is_newer { core.publisher.wait_for(self.seen) } else { Ok(()) }
    }

    /// Commits a put, or a delete, unless somebody has written to the key since the look: then it
    /// returns false. It may do so without such a write too.
    ///
    /// # Errors
    /// As for any commit.
    pub fn commit(
        &self,
        core: &Arc<Core>,
        value: Option<&[u8]>,
        durability: Durability,
    ) -> Result<bool> {
        let mut writes = BatchWrites::default();
        match value {
            Some(value) => writes.put(self.keyspace, self.key, value)?,
            None => writes.delete(self.keyspace, self.key)?,
        }
        match commit_if(core, &mut writes, durability, &|core| self.check(core)) {
            Ok(_) => Ok(true),
            Err(Error::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// K1. The commit lock is held.
    fn check(&self, core: &Core) -> Result<()> {
        match core.catalogue.load().get(self.keyspace) {
            Some(entry) if !entry.dropped => {}
            _ => return Err(Error::KeyspaceDropped(self.keyspace.to_string())),
        }
        let active = &self.view.active;
        let is_active = Arc::ptr_eq(&core.view().active, active);
        if !is_active || active.table.key_changed_since(self.keyspace, self.key, self.seen) {
            return Err(Error::Conflict);
        }
        Ok(())
    }
}
