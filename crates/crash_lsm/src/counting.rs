//! A storage that counts what is asked of the one behind it.
//!
//! *Guarantees*: every call goes through unchanged, until [`CountingStorage::freeze`]: from then on
//! whatever would change the file fails. *Threads*: any.

use std::io;

use sapwood::storage::{Advice, Mapped, Storage};
use sapwood::sync::Arc;
use sapwood::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use serde::Serialize;

/// Calls and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// Reads.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Writes, synced ones too.
    pub writes: u64,
    /// Syncs, synced writes too.
    pub syncs: u64,
}

impl Calls {
    /// What came since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Calls) -> Calls {
        Calls {
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            syncs: self.syncs - earlier.syncs,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct CountingStorage {
    inner: Arc<dyn Storage>,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    syncs: AtomicU64,
    changes: AtomicU64,
    frozen: AtomicBool,
    forked: AtomicBool,
}

impl CountingStorage {
    /// Counts from now on.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> CountingStorage {
        CountingStorage {
            inner,
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            frozen: AtomicBool::new(false),
            forked: AtomicBool::new(false),
        }
    }

    /// From now on the file stays as it is, and writes fail.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// From now on it says what a file says in a process that was forked from the one that opened
    /// it.
    pub fn fork(&self) {
        self.forked.store(true, Ordering::Relaxed);
        self.freeze();
    }

    /// How often anything but a read, the length or a hint on reading was asked for.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn check_may_change(&self) -> io::Result<()> {
        add(&self.changes, 1);
        match self.frozen.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is to stay")),
            false => Ok(()),
        }
    }

    /// What was asked for so far.
    #[must_use]
    pub fn calls(&self) -> Calls {
        Calls {
            reads: self.reads.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Storage for CountingStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        add(&self.reads, 1);
        add(&self.read_bytes, buffer.len() as u64);
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        add(&self.writes, 1);
        self.check_may_change()?;
        self.inner.write_at(offset, bytes)
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        add(&self.writes, 1);
        add(&self.syncs, 1);
        self.check_may_change()?;
        self.inner.write_sync_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        add(&self.syncs, 1);
        add(&self.changes, 1);
        self.inner.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.check_may_change()?;
        self.inner.set_length(length)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_may_change()?;
        self.inner.allocate(offset, length)
    }

    fn write_back(&self, offset: u64, length: u64) -> io::Result<()> {
        add(&self.changes, 1);
        self.inner.write_back(offset, length)
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) -> io::Result<()> {
        self.inner.advise(offset, length, advice)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_may_change()?;
        self.inner.punch(offset, length)
    }

    fn sync_directory(&self) -> io::Result<()> {
        add(&self.changes, 1);
        self.inner.sync_directory()
    }

    fn map(&self, offset: u64, length: usize) -> Option<Mapped> {
        self.inner.map(offset, length)
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn is_of_this_process(&self) -> bool {
        !self.forked.load(Ordering::Relaxed)
    }
}
