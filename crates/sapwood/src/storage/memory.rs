//! A file that lives in memory: for databases that are not to last, and for tests that count.
//!
//! *Assumes*: nothing.
//! *Guarantees*: reads see every write that returned before them. Nothing outlives the last clone.
//! *Threads*: any; a write excludes reads for as long as its copy takes.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::fmt;
use std::io;

use super::sparse::SparseBytes;
use super::{Advice, Storage, end_of};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, RwLock};

const CHUNK_BYTES: usize = 64 * 1024;

/// A file in memory. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    content: RwLock<SparseBytes<CHUNK_BYTES>>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
}

/// What a [`MemoryStorage`] was asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of `read_at`.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Calls of `write_at` and `write_sync_at`.
    pub writes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Calls of `sync_data` and `write_sync_at`.
    pub syncs: u64,
}

impl MemoryStorage {
    /// An empty file.
    #[must_use]
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// A file that holds `bytes`.
    #[must_use]
    pub fn from_image(bytes: &[u8]) -> MemoryStorage {
        let storage = MemoryStorage::new();
        storage.shared.content.write().write(0, bytes);
        storage
    }

    /// All of its bytes.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.shared.content.read().to_vec()
    }

    /// What was asked for so far, over all clones.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            reads: load(&self.shared.reads),
            read_bytes: load(&self.shared.read_bytes),
            writes: load(&self.shared.writes),
            written_bytes: load(&self.shared.written_bytes),
            syncs: load(&self.shared.syncs),
        }
    }
}

fn count(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Storage for MemoryStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        count(&self.shared.reads, 1);
        self.shared.content.read().read(offset, buffer)?;
        count(&self.shared.read_bytes, buffer.len() as u64);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        end_of(offset, bytes.len() as u64)?;
        count(&self.shared.writes, 1);
        count(&self.shared.written_bytes, bytes.len() as u64);
        self.shared.content.write().write(offset, bytes);
        Ok(())
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(offset, bytes)?;
        self.sync_data()
    }

    fn sync_data(&self) -> io::Result<()> {
        count(&self.shared.syncs, 1);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.shared.content.read().length())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        end_of(length, 0)?;
        self.shared.content.write().set_length(length);
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = end_of(offset, length)?;
        let mut content = self.shared.content.write();
        if length > 0 && end > content.length() {
            content.set_length(end);
        }
        Ok(())
    }

    fn write_back(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn advise(&self, _offset: u64, _length: u64, _advice: Advice) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.shared.content.write().zero(offset, length);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    // No map: its bytes are in memory already, and to keep some of them as they were would take a
    // copy of a whole chunk at the next write, outside of any budget.

    fn name(&self) -> String {
        "memory".to_owned()
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage")
            .field("length", &self.shared.content.read().length())
            .field("counters", &self.counters())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_content_and_the_counters() {
        let storage = MemoryStorage::new();
        let other: Arc<dyn Storage> = Arc::new(storage.clone());
        storage.write_at(70_000, b"abc").unwrap();
        other.write_sync_at(0, b"x").unwrap();
        other.sync_data().unwrap();
        let mut buffer = [0; 3];
        other.read_at(70_000, &mut buffer).unwrap();
        assert_eq!(&buffer, b"abc");
        assert_eq!(other.length().unwrap(), 70_003);
        assert_eq!(
            storage.counters(),
            Counters { reads: 1, read_bytes: 3, writes: 2, written_bytes: 4, syncs: 2 }
        );
    }

    #[test]
    fn reading_over_the_end_is_an_error_that_says_so() {
        let storage = MemoryStorage::from_image(b"four");
        let error = storage.read_at(2, &mut [0; 3]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(error.to_string(), "3 bytes at offset 2 asked for, the file has 4");
    }

    #[test]
    fn offsets_beyond_every_file_are_errors() {
        let storage = MemoryStorage::new();
        let kinds = [
            storage.read_at(u64::MAX, &mut [0]),
            storage.write_at(u64::MAX, b"x"),
            storage.write_sync_at(i64::MAX as u64, b"x"),
            storage.set_length(u64::MAX),
            storage.allocate(u64::MAX - 1, 4),
        ]
        .map(|result| result.unwrap_err().kind());
        assert_eq!(kinds, [io::ErrorKind::InvalidInput; 5]);
        assert_eq!(storage.length().unwrap(), 0);
    }

    #[test]
    fn allocate_extends_and_never_cuts_and_punch_keeps_the_length() {
        let storage = MemoryStorage::from_image(b"0123456789");
        storage.allocate(0, 4).unwrap();
        assert_eq!(storage.length().unwrap(), 10);
        storage.allocate(8, 4).unwrap();
        storage.punch(4, 100).unwrap();
        assert_eq!(storage.image(), b"0123\0\0\0\0\0\0\0\0");
    }
}
