//! How far a commit has been validated, on its way to its place.
//!
//! *Assumes*: it is dropped when no ordered lock is held.
//! *Guarantees*: C6: who uses much looks through all of it outside of the commit lock alone. What
//! comes after such a look is asked for by what the commits between have changed, outside and then
//! under the lock, and under it only when that is little. Only who has looked again and again, and
//! has met too much each time, asks for more under the lock, so that every commit ends.
//! *Threads*: the committer's.

use super::pending::PendingWrites;
use super::read_set::ReadSet;
use super::validate::{LOOKS_MAX, Validation, has_much_since, validate, validate_reads};
use crate::error::{Error, Result};
use crate::log::operation::LogOperation;
use crate::segment::key_range::KeyRange;
use crate::state::Core;
use crate::state::recent_commits::{Changed, Listener};
use crate::sync::atomic::Ordering;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// So many keys and ranges may be asked for under the commit lock.
pub(super) const FEW: u64 = 256;

/// So many commits are taken out of the list at once: others cannot add to it meanwhile.
const TAKEN_MAX: usize = 256;

/// See the module.
#[derive(Debug)]
pub struct Validator<'a> {
    core: &'a Core,
    /// `None`: they are validated apart.
    writes: Option<&'a PendingWrites>,
    validation: &'a Validation<'a>,
    /// No commit up to this one has changed what is used.
    validated: SequenceNumber,
    /// Who uses little goes without: asking for all of it again costs no more.
    listener: Option<Listener<'a>>,
    /// How often it looks again because much has come.
    looks_left: u32,
    /// How often it looks through all that is used because what has come is not listed.
    gaps_left: u32,
}

/// What has come since somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// It may be asked for under the commit lock.
    Little,
    Much,
    /// It is not listed: all that is used would be asked for.
    Unlisted,
}

impl<'a> Validator<'a> {
    /// Nothing is validated yet. The commit lock is not held.
    pub fn new(
        core: &'a Core,
        writes: Option<&'a PendingWrites>,
        validation: &'a Validation<'a>,
    ) -> Validator<'a> {
        let (reads, written) = (validation.reads, writes.map_or(0, PendingWrites::len));
        // A range may hold very many keys.
        let has_ranges = reads.is_some_and(|reads| reads.ranges().next().is_some())
            || writes.is_some_and(|writes| writes.touched_ranges().next().is_some());
        let count = reads.map_or(0, ReadSet::len) + written;
        let uses_much = writes.is_none() || has_ranges || count as u64 > FEW;
        Validator {
            core,
            writes,
            validation,
            validated: validation.began,
            listener: uses_much.then(|| core.recent.listen()),
            looks_left: LOOKS_MAX,
            gaps_left: LOOKS_MAX,
        }
    }

    /// Looks at what came until now, again while what came meanwhile is much. Outside of the commit
    /// lock.
    ///
    /// # Errors
    /// `Conflict`; or a node that cannot be read.
    pub fn look_ahead(&mut self) -> Result<()> {
        self.look()?;
        while self.looks_again() {
            self.look()?;
        }
        if self.listener.is_some() {
            self.core.recent.recharge();
        }
        Ok(())
    }

    /// Looks at what came until now, under the commit lock: nothing can follow. False: it is much,
    /// and [`Validator::look_ahead`] comes first.
    ///
    /// # Errors
    /// As [`Validator::look_ahead`].
    pub fn check(&mut self) -> Result<bool> {
        if self.looks_again() {
            return Ok(false);
        }
        self.look().map(|()| true)
    }

    /// True when what has come is too much for the commit lock, and it has not looked again too
    /// often because of that. Each reason has a count of its own: looks at what is listed cost
    /// little, and use up none of those that keep a look through everything out of the lock.
    fn looks_again(&mut self) -> bool {
        let left = match self.came() {
            Came::Little => return false,
            Came::Much => &mut self.looks_left,
            Came::Unlisted => &mut self.gaps_left,
        };
        let looks = *left > 0;
        *left = left.saturating_sub(1);
        looks
    }

    fn came(&self) -> Came {
        let last = self.core.last_placed();
        if self.listener.is_none() {
            let is_much = self.validated < last && has_much_since(self.core, self.validated);
            return if is_much { Came::Much } else { Came::Little };
        }
        match self.core.recent.count_between(self.validated, last, FEW + 1) {
            None => Came::Unlisted,
            Some(count) if count > FEW => Came::Much,
            Some(_) => Came::Little,
        }
    }

    fn look(&mut self) -> Result<()> {
        let last = self.core.last_placed();
        if self.listener.is_some() {
            self.look_at_listed(last)?;
        }
        // Nothing is left of what was listed.
        if self.validated < last {
            self.look_at_all()?;
            self.validated = last;
        }
        Ok(())
    }

    /// Asks for all that is used whether anything has changed it.
    fn look_at_all(&self) -> Result<()> {
        self.core.counters.validations.fetch_add(1, Ordering::Relaxed);
        match self.writes {
            Some(writes) => validate(self.core, writes, self.validation, self.validated),
            None => validate_reads(self.core, self.validation.reads, self.validated),
        }
    }

    /// Goes on over the commits up to `last`, as far as what they have changed is listed.
    fn look_at_listed(&mut self, last: SequenceNumber) -> Result<()> {
        while self.validated < last {
            let commits = self.core.recent.between(self.validated, last, TAKEN_MAX);
            let Some(commits) = commits.filter(|commits| !commits.is_empty()) else { break };
            for changed in &commits {
                self.look_at(changed)?;
                self.validated = changed.number;
            }
        }
        Ok(())
    }

    fn look_at(&self, changed: &Changed) -> Result<()> {
        for operation in changed.operations() {
            let is_used = match operation? {
                LogOperation::Delete { keyspace, key } => self.uses_key(keyspace, key),
                LogOperation::DeleteRange { keyspace, start, end } => {
                    self.uses_range(keyspace, &KeyRange::new(start, end.map(<[u8]>::to_vec)))
                }
                LogOperation::DropKeyspace { keyspace } => {
                    self.uses_range(keyspace, &KeyRange::all())
                }
                // Nothing else is listed.
                _ => true,
            };
            if is_used {
                return Err(Error::Conflict);
            }
        }
        Ok(())
    }

    fn uses_key(&self, keyspace: KeyspaceNumber, key: &[u8]) -> bool {
        self.validation.reads.is_some_and(|reads| reads.contains(keyspace, key))
            || self.writes.is_some_and(|writes| writes.touches_key(keyspace, key))
    }

    fn uses_range(&self, keyspace: KeyspaceNumber, range: &KeyRange) -> bool {
        self.validation.reads.is_some_and(|reads| reads.overlaps(keyspace, range))
            || self.writes.is_some_and(|writes| writes.touches_range(keyspace, range))
    }
}
