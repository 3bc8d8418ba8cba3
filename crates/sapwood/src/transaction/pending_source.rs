//! A transaction's own writes to one keyspace, as the newest source of a merging cursor.
//!
//! *Guarantees*: a cursor of a transaction sees the writes that were made before it was opened, and
//! no later ones: it holds the writes of that moment, and who writes on copies them first. Puts are
//! not hidden by the range deletes of the same transaction (N2 of [`super::pending`]), those hide
//! older sources only.
//!
//! *Threads*: one owner.

use std::ops::{Bound, Range};

use super::pending::{KeyspaceWrites, PendingWrite};
use crate::error::Result;
use crate::page::Frame;
use crate::segment::key_range::KeyRange;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_source::{Cover, SortedSource};
use crate::sync::Arc;

/// See the module.
#[derive(Clone, Debug)]
pub struct PendingSource {
    writes: Arc<KeyspaceWrites>,
    position: Position,
}

/// Where a source stands.
#[derive(Clone, Debug, Default)]
struct Position {
    /// The buffer is kept when it stands nowhere.
    key: Vec<u8>,
    /// The entry there: its value, or that it is a delete. The outer `None`: it stands nowhere.
    entry: Option<Option<Arc<[u8]>>>,
}

impl Position {
    fn stand_on(&mut self, found: Option<(&[u8], &PendingWrite)>) {
        self.key.clear();
        self.entry = found.map(|(key, write)| {
            self.key.extend_from_slice(key);
            write.value.clone()
        });
    }
}

impl PendingSource {
    /// A source that stands nowhere.
    pub(super) fn new(writes: Arc<KeyspaceWrites>) -> PendingSource {
        PendingSource { writes, position: Position::default() }
    }
}

impl SortedSource for PendingSource {
    fn valid(&self) -> bool {
        self.position.entry.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.position.key
    }

    fn number(&self) -> u64 {
        0
    }

    fn kind(&self) -> EntryKind {
        match self.position.entry {
            Some(Some(_)) => EntryKind::Put,
            _ => EntryKind::Delete,
        }
    }

    fn value(&self) -> &[u8] {
        self.position.entry.as_ref().and_then(Option::as_deref).unwrap_or_default()
    }

    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        None
    }

    fn next(&mut self) -> Result<()> {
        if self.valid() {
            let from = Bound::Excluded(self.position.key.as_slice());
            self.position.stand_on(self.writes.first_from(from));
        }
        Ok(())
    }

    fn previous(&mut self) -> Result<()> {
        if self.valid() {
            let to = Bound::Excluded(self.position.key.as_slice());
            self.position.stand_on(self.writes.last_to(to));
        }
        Ok(())
    }

    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.position.stand_on(self.writes.first_from(Bound::Included(key)));
        Ok(())
    }

    fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.position.stand_on(self.writes.last_to(Bound::Excluded(key)));
        Ok(())
    }

    fn seek_last(&mut self) -> Result<()> {
        self.position.stand_on(self.writes.last_to(Bound::Unbounded));
        Ok(())
    }

    fn numbered(&self) -> bool {
        false
    }

    fn has_ranges(&self) -> bool {
        !self.writes.ranges.is_empty()
    }

    fn cover(&mut self, key: &[u8], _at: u64) -> Result<Option<Cover>> {
        let range: Option<&KeyRange> = self.writes.ranges.containing(key);
        Ok(range.map(|range| Cover { range: range.clone(), number: 0 }))
    }
}
