//! The bytes of the log that are in memory, and how far each kind of keeping has come.
//!
//! *Assumes*: its user holds the lock of [`super::writer`]. *Guarantees*: L2 and L3 of [`super`]
//! for what is appended; no I/O. *Format*: section 5. *Threads*: whoever holds the lock.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::page::Block;
use crate::sync::Arc;
use crate::types::{LogPosition, SequenceNumber};

use super::record::{
    HEADER_BYTES, NamedBlocks, RecordHead, RecordKind, encode_record, record_bytes,
};
use super::ring::Ring;

/// The longest stretch that one data-synced write covers, and what stays in memory for it, in
/// bytes.
pub const DIRECT_BYTES_MAX: u64 = 1 << 20;
/// The room that ordinary records leave, in bytes: a state's record and one padding.
pub const RESERVE_BYTES: u64 = 64 + HEADER_BYTES as u64;

/// A record is in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it begins.
    pub position: LogPosition,
    /// Where it ends: what a committer asks to have written or synced.
    pub end: LogPosition,
    /// True when so much is buffered that somebody must now write it, whatever the durability.
    pub buffer_is_full: bool,
}

/// The log has no room for a record: a durable state makes some, or brings more blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFull {
    /// The room that is needed, in bytes.
    pub needed: u64,
    /// The room that there is, in bytes.
    pub available: u64,
}

/// Why nothing was appended.
#[derive(Debug)]
pub enum AppendError {
    /// There is no room.
    Full(LogFull),
    /// The log has stopped, or the record can never be written.
    Failed(Error),
}

impl From<Error> for AppendError {
    fn from(error: Error) -> AppendError {
        AppendError::Failed(error)
    }
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Records appended.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Bytes handed to the storage, those that were written again included.
    pub written_bytes: u64,
    /// Syncs by a data-synced write.
    pub direct_syncs: u64,
    /// Syncs by a data sync of the file.
    pub full_syncs: u64,
    /// Records that syncs covered; by the number of syncs, the average group.
    pub synced_records: u64,
    /// The largest group that one sync covered.
    pub largest_group: u64,
}

/// A run of the log's bytes that does not change any more.
#[derive(Debug)]
pub struct Chunk {
    pub start: u64,
    pub bytes: Vec<u8>,
}

impl Chunk {
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// What is to become of the list of blocks.
#[derive(Debug)]
pub enum Plan {
    /// The list of the last durable state is in force, and a record on disk says so.
    InForce,
    /// A new list was given out. `recorded` is the end of the record that names its state.
    Planned { ring: Arc<Ring>, agree_until: u64, dropped: Vec<Block>, recorded: Option<u64> },
}

/// The log's bytes in memory, its positions and its list of blocks.
#[derive(Debug)]
pub struct Buffer {
    pub ring: Arc<Ring>,
    pub plan: Plan,
    /// Ordinary records end here at the latest.
    pub limit: u64,
    /// Chunks without gaps up to the start of `active`; borders lie at `written` and `durable`.
    /// What was replayed is in none: it is made durable as it lies (D7).
    pub chunks: VecDeque<Arc<Chunk>>,
    /// What was appended since the last chunk was closed.
    pub active: Vec<u8>,
    /// Memory to be used for the next `active`.
    pub spare: Vec<u8>,
    pub end: u64,
    pub written: u64,
    pub durable: u64,
    /// What an open replayed and did not know to be on disk, until a cut has passed it. A sync
    /// proves nothing of it: one that failed before the open may have left it in the cache alone.
    pub uncertain: Option<std::ops::Range<u64>>,
    /// The crc field of the last record.
    pub chain: u32,
    /// Up to here records may name blocks that only a data sync of the file makes durable.
    pub unsynced_blocks_until: u64,
    /// Records of a lost time that are to be erased before anything is written.
    pub stale: Vec<LogPosition>,
    /// A thread is handing bytes to the storage.
    pub writing: bool,
    /// A thread leads a sync.
    pub syncing: bool,
    /// The sync under way writes bytes again that the operating system has: until it ends, a power
    /// cut may tear them, whatever another sync of the file has brought to the disk before.
    pub rewriting: bool,
    /// The failure after which nothing is written any more.
    pub stopped: Option<Arc<Error>>,
    pub counters: LogCounters,
}

/// How much had been appended at an instant.
#[derive(Clone, Copy, Debug)]
pub struct Sealed {
    pub end: u64,
    pub records: u64,
}

impl Buffer {
    pub fn check(&self) -> Result<()> {
        match &self.stopped {
            Some(cause) => Err(Error::Stopped(Arc::clone(cause))),
            None => Ok(()),
        }
    }

    pub fn stop(&mut self, cause: Arc<Error>) {
        if self.stopped.is_none() {
            self.stopped = Some(cause);
        }
    }

    /// Up to where records and states may say that the log is on disk.
    pub fn claimed(&self) -> u64 {
        match &self.uncertain {
            Some(uncertain) => self.durable.min(uncertain.start),
            None => self.durable,
        }
    }

    /// The end of what an open replayed, while it has not been made durable as it lies.
    pub fn unclaimed_tail(&self) -> Option<u64> {
        self.uncertain.as_ref().map(|tail| tail.end).filter(|end| self.written < *end)
    }

    pub fn append(
        &mut self,
        seed: u32,
        limit: u64,
        kind: RecordKind,
        sequence: SequenceNumber,
        blocks: NamedBlocks,
        parts: &[&[u8]],
    ) -> std::result::Result<Appended, AppendError> {
        self.check()?;
        let payload_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        let too_large = || {
            let (bytes, limit) = (payload_bytes as u64, u64::from(u32::MAX) - RESERVE_BYTES);
            AppendError::Failed(Error::TransactionTooLarge { bytes, limit })
        };
        let needed = u64::from(record_bytes(payload_bytes).ok_or_else(too_large)?);
        let available = limit.saturating_sub(self.end);
        if needed > available {
            return Err(AppendError::Full(LogFull { needed, available }));
        }
        let position = LogPosition(self.end);
        let durable = LogPosition(self.claimed());
        let head = RecordHead { position, chain: self.chain, kind, blocks, durable, sequence };
        self.chain = encode_record(&mut self.active, seed, &head, parts).ok_or_else(too_large)?;
        self.end += needed;
        if blocks == NamedBlocks::Unsynced {
            self.unsynced_blocks_until = self.end;
        }
        self.counters.records += 1;
        self.counters.record_bytes += needed;
        Ok(Appended {
            position,
            end: LogPosition(self.end),
            buffer_is_full: self.end - self.written >= DIRECT_BYTES_MAX,
        })
    }

    /// Turns what was appended into a chunk, so that it can be written while more is appended.
    pub fn seal(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let next = std::mem::take(&mut self.spare);
        let bytes = std::mem::replace(&mut self.active, next);
        let start = self.end - bytes.len() as u64;
        self.chunks.push_back(Arc::new(Chunk { start, bytes }));
    }

    pub fn sealed(&self) -> Sealed {
        Sealed { end: self.end, records: self.counters.records }
    }

    pub fn chunks_from(&self, position: u64) -> Vec<Arc<Chunk>> {
        self.chunks.iter().filter(|chunk| chunk.start >= position).map(Arc::clone).collect()
    }

    /// True when a data-synced write of what is in memory makes everything durable.
    pub fn direct_sync_will_do(&self) -> bool {
        self.chunks.front().is_some_and(|first| first.start == self.durable)
            && self.end - self.durable <= DIRECT_BYTES_MAX
            && self.unsynced_blocks_until <= self.durable
    }

    pub fn was_written(&mut self, end: u64) {
        self.written = self.written.max(end);
        if self.end - self.durable > DIRECT_BYTES_MAX {
            self.forget_until(self.written);
        }
    }

    pub fn became_durable(&mut self, end: u64) {
        self.durable = self.durable.max(end);
        self.forget_until(self.durable);
    }

    pub fn forget_until(&mut self, position: u64) {
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= position) {
            let chunk = self.chunks.pop_front().and_then(Arc::into_inner);
            if let Some(Chunk { mut bytes, .. }) = chunk
                && bytes.capacity() > self.spare.capacity()
                && bytes.capacity() as u64 <= DIRECT_BYTES_MAX
            {
                bytes.clear();
                self.spare = bytes;
            }
        }
    }
}

pub fn ordinary_limit(ring: &Ring) -> u64 {
    ring.end_position().0.saturating_sub(RESERVE_BYTES)
}
