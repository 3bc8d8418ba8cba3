//! The writes of a batch: encoded for the log as they come, for as long as that says the same.
//!
//! *Assumes*: keys are within the limit of the format.
//! *Guarantees*:
//! - E1: puts and point deletes are encoded in the order in which they were given. Of one key the
//!   last counts: the memtable lets one that comes later with the same number take the place of the
//!   earlier, at the commit and at its replay.
//! - E2: a range delete hides only older commits, and a large value is written to blocks of its
//!   own, so both, and what is too much as it was given, go through [`PendingWrites`].
//!
//! *Format*: docs/format.md, section 5. *Threads*: one owner.

use std::collections::HashSet;

use super::commit::OVERFLOW_AT_COMMIT_BYTES;
use super::pending::{PendingWrites, point_bytes};
use crate::error::Result;
use crate::log::operation::{CommitEncoder, LogOperation};
use crate::segment::key_range::KeyRange;
use crate::types::KeyspaceNumber;

/// See the module.
#[derive(Debug, Default)]
pub struct BatchWrites {
    encoder: CommitEncoder,
    /// The keyspaces of what is encoded, each once.
    keyspaces: Vec<KeyspaceNumber>,
    /// As much as the same writes would take as pending ones.
    bytes: usize,
    /// Once it is there, nothing is encoded.
    pending: Option<PendingWrites>,
}

/// What there is to commit.
#[derive(Debug)]
pub enum Collected<'a> {
    /// Operations as the log carries them.
    Encoded {
        /// The operations.
        encoder: CommitEncoder,
        /// The keyspaces that they write to.
        keyspaces: &'a [KeyspaceNumber],
        /// How much memory they take.
        bytes: usize,
    },
    /// Writes that are to be encoded.
    Pending(&'a PendingWrites),
}

impl BatchWrites {
    /// Puts a value.
    ///
    /// # Errors
    /// As [`BatchWrites::delete_range`].
    pub fn put(&mut self, keyspace: KeyspaceNumber, key: &[u8], value: &[u8]) -> Result<()> {
        if self.pending.is_none() && value.len() < OVERFLOW_AT_COMMIT_BYTES {
            self.note(keyspace, point_bytes(key, Some(value)));
            self.encoder.put(keyspace, key, value);
        } else {
            self.as_pending()?.put(keyspace, key, value);
        }
        Ok(())
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As [`BatchWrites::delete_range`].
    pub fn delete(&mut self, keyspace: KeyspaceNumber, key: &[u8]) -> Result<()> {
        if self.pending.is_none() {
            self.note(keyspace, point_bytes(key, None));
            self.encoder.delete(keyspace, key);
        } else {
            self.as_pending()?.delete(keyspace, key);
        }
        Ok(())
    }

    /// Deletes all keys of a range.
    ///
    /// # Errors
    /// When what was encoded cannot be decoded: memory is damaged.
    pub fn delete_range(&mut self, keyspace: KeyspaceNumber, range: KeyRange) -> Result<()> {
        self.as_pending()?.delete_range(keyspace, range);
        Ok(())
    }

    fn note(&mut self, keyspace: KeyspaceNumber, bytes: usize) {
        self.bytes += bytes;
        if self.keyspaces.last() != Some(&keyspace) && !self.keyspaces.contains(&keyspace) {
            self.keyspaces.push(keyspace);
        }
    }

    /// The writes as pending ones, which hold each key once.
    fn as_pending(&mut self) -> Result<&mut PendingWrites> {
        if self.pending.is_none() {
            let mut pending = PendingWrites::new();
            for operation in self.encoder.operations() {
                match operation? {
                    LogOperation::Put { keyspace, key, value } => pending.put(keyspace, key, value),
                    LogOperation::Delete { keyspace, key } => pending.delete(keyspace, key),
                    // Nothing else is encoded here.
                    _ => {}
                }
            }
            self.pending = Some(pending);
            self.encoder = CommitEncoder::new();
        }
        Ok(self.pending.get_or_insert_default())
    }

    /// How much memory the writes take, as small as it can be made when it is above `limit`.
    ///
    /// # Errors
    /// As [`BatchWrites::delete_range`].
    pub fn bytes_within(&mut self, limit: usize) -> Result<usize> {
        match &self.pending {
            Some(pending) => Ok(pending.bytes()),
            None if self.bytes <= limit => Ok(self.bytes),
            None => Ok(self.as_pending()?.bytes()),
        }
    }

    /// How many bytes they take in the log, about, and in leaves.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        match &self.pending {
            Some(pending) => pending.encoded_bytes(),
            None => self.encoder.encoded_bytes(),
        }
    }

    /// How much memory they take as they are.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match &self.pending {
            Some(pending) => pending.bytes(),
            None => self.encoder.memory_bytes(),
        }
    }

    /// How many writes would be committed. Complexity: O(n).
    #[must_use]
    pub fn len(&self) -> usize {
        if let Some(pending) = &self.pending {
            return pending.len();
        }
        let operations = self.encoder.operations().map_while(|operation| operation.ok());
        let keys = operations.filter_map(|operation| match operation {
            LogOperation::Put { keyspace, key, .. } | LogOperation::Delete { keyspace, key } => {
                Some((keyspace.0, key))
            }
            _ => None,
        });
        keys.collect::<HashSet<_>>().len()
    }

    /// True when nothing would be committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.pending {
            Some(pending) => pending.is_empty(),
            None => self.encoder.operation_count() == 0,
        }
    }

    /// Whether there is a put among them.
    pub fn has_data(&self) -> bool {
        match &self.pending {
            Some(pending) => pending.has_data(),
            None => self.encoder.has_data(),
        }
    }

    /// Hands over what there is to commit.
    pub fn collected(&mut self) -> Collected<'_> {
        match &self.pending {
            Some(pending) => Collected::Pending(pending),
            None => Collected::Encoded {
                encoder: std::mem::take(&mut self.encoder),
                keyspaces: &self.keyspaces,
                bytes: self.bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);

    #[test]
    fn of_one_key_the_last_write_counts_and_counts_once() {
        let mut writes = BatchWrites::default();
        assert!(writes.is_empty());
        writes.put(KEYSPACE, b"a", b"1").unwrap();
        writes.delete(KEYSPACE, b"b").unwrap();
        writes.put(KEYSPACE, b"a", b"2").unwrap();
        assert_eq!(writes.len(), 2);
        assert!(matches!(writes.collected(), Collected::Encoded { keyspaces: [KEYSPACE], .. }));
    }

    #[test]
    fn a_range_delete_takes_out_what_was_given_before_it_and_leaves_what_comes_behind() {
        let mut writes = BatchWrites::default();
        writes.put(KEYSPACE, b"a", b"1").unwrap();
        writes.put(KEYSPACE, b"b", b"1").unwrap();
        writes.delete_range(KEYSPACE, KeyRange::new("a", Some("c".into()))).unwrap();
        writes.put(KEYSPACE, b"b", b"2").unwrap();
        let Collected::Pending(pending) = writes.collected() else {
            panic!("a range delete was encoded as it came");
        };
        assert_eq!(pending.points().map(|(_, key, _)| key).collect::<Vec<_>>(), [b"b"]);
        assert_eq!(pending.touched_ranges().count(), 1);
    }

    #[test]
    fn a_large_value_and_too_much_of_one_key_are_not_encoded_as_they_come() {
        let mut writes = BatchWrites::default();
        writes.put(KEYSPACE, b"a", &vec![1; OVERFLOW_AT_COMMIT_BYTES]).unwrap();
        assert!(matches!(writes.collected(), Collected::Pending(_)));
        let mut writes = BatchWrites::default();
        for _ in 0..100 {
            writes.put(KEYSPACE, b"a", &[1; 100]).unwrap();
        }
        let given = writes.bytes_within(usize::MAX).unwrap();
        assert!(writes.bytes_within(1000).unwrap() * 90 < given);
        assert_eq!(writes.len(), 1);
    }
}
