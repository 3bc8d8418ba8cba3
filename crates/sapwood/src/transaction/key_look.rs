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
use super::commit::{check_keyspace, commit_if};
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::state::lookup::{self, Found};
use crate::state::view::{MemtableSlot, View};
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
    ///
    /// # Errors
    /// `Stopped`, when the commit that it would have to wait for will never have its place.
    pub fn take(core: &Core, keyspace: KeyspaceNumber, key: &'a [u8]) -> Result<KeyLook<'a>> {
        loop {
            if let Some(look) = KeyLook::try_take(core, keyspace, key) {
                return Ok(look);
            }
            // A commit may have panicked between the two.
            core.check_writable()?;
            std::hint::spin_loop();
        }
    }

    /// `None` while a commit is on its way into the view.
    fn try_take(core: &Core, keyspace: KeyspaceNumber, key: &'a [u8]) -> Option<KeyLook<'a>> {
        let view = core.view();
        let seen = SequenceNumber(core.commit_numbers().0.0 - 1);
        // The view of a commit by reference comes before its number: the look would not count it,
        // and the memtable that takes writes then knows nothing of it.
        let is_ahead = |slot: &Arc<MemtableSlot>| {
            slot.by_reference.as_ref().is_some_and(|commit| commit.number > seen)
        };
        // Otherwise a newer memtable may have some of those commits.
        let is_one_moment = Arc::ptr_eq(&view, &core.view()) && !view.sealed.iter().any(is_ahead);
        is_one_moment.then_some(KeyLook { keyspace, key, view, seen })
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
        check_keyspace(core, self.keyspace)?;
        let active = &self.view.active;
        let is_active = Arc::ptr_eq(&core.view().active, active);
        if !is_active || active.table.key_changed_since(self.keyspace, self.key, self.seen) {
            return Err(Error::Conflict);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::view::ByReference;
    use crate::sync::atomic::Ordering;
    use crate::transaction::tests_rules::Engine;

    /// A look between the two rested on what a commit by reference replaces, and its own commit
    /// found nothing in the new memtable.
    #[test]
    fn a_look_does_not_rest_on_a_view_that_is_ahead_of_the_numbers() {
        let mut engine = Engine::new();
        engine.put([1], b"before");
        let core = &engine.core;
        let order = core.commit_order.lock();
        core.seal();
        let number = core.commit_numbers().0;
        let blocks = core.pending.join(&[]);
        core.put_by_reference(ByReference { number, segments: Vec::new(), blocks });
        assert!(KeyLook::try_take(core, engine.keyspace, b"k").is_none());
        core.numbers.next_sequence.store(number.0 + 1, Ordering::Release);
        drop(order);
        let look = KeyLook::try_take(core, engine.keyspace, b"k").unwrap();
        assert_eq!(look.seen, number);
    }
}
