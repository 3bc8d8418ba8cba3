//! A storage that asks somebody before each operation.
//!
//! *Guarantees*: every call that is not refused goes through unchanged. *Threads*: any; the hook is
//! called by whoever makes the call.

use std::fmt;
use std::io;

use sapwood::storage::{Advice, Mapped, OperationKind, Storage};
use sapwood::sync::Arc;

/// See the module.
pub struct HookedStorage {
    inner: Arc<dyn Storage>,
    hook: Box<Hook>,
}

type Hook = dyn Fn(OperationKind, u64) -> io::Result<()> + Send + Sync;

impl HookedStorage {
    /// Asks `hook` before each operation, of which it is told the kind and the first byte; the
    /// operation fails with what it says.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Storage>,
        hook: impl Fn(OperationKind, u64) -> io::Result<()> + Send + Sync + 'static,
    ) -> HookedStorage {
        HookedStorage { inner, hook: Box::new(hook) }
    }

    /// Calls `before_sync` before each sync, synced writes too.
    #[must_use]
    pub fn before_syncs(
        inner: Arc<dyn Storage>,
        before_sync: impl Fn() + Send + Sync + 'static,
    ) -> HookedStorage {
        HookedStorage::new(inner, move |kind, _| {
            if matches!(kind, OperationKind::Sync | OperationKind::WriteSync) {
                before_sync();
            }
            Ok(())
        })
    }
}

impl fmt::Debug for HookedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookedStorage").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Storage for HookedStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (self.hook)(OperationKind::Read, offset)?;
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.hook)(OperationKind::Write, offset)?;
        self.inner.write_at(offset, bytes)
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (self.hook)(OperationKind::WriteSync, offset)?;
        self.inner.write_sync_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.hook)(OperationKind::Sync, 0)?;
        self.inner.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        (self.hook)(OperationKind::SetLength, length)?;
        self.inner.set_length(length)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        (self.hook)(OperationKind::Allocate, offset)?;
        self.inner.allocate(offset, length)
    }

    fn write_back(&self, offset: u64, length: u64) -> io::Result<()> {
        (self.hook)(OperationKind::WriteBack, offset)?;
        self.inner.write_back(offset, length)
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) -> io::Result<()> {
        self.inner.advise(offset, length, advice)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.punch(offset, length)
    }

    fn sync_directory(&self) -> io::Result<()> {
        (self.hook)(OperationKind::SyncDirectory, 0)?;
        self.inner.sync_directory()
    }

    fn map(&self, offset: u64, length: usize) -> Option<Mapped> {
        self.inner.map(offset, length)
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn is_of_this_process(&self) -> bool {
        self.inner.is_of_this_process()
    }
}
