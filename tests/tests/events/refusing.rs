//! A storage that refuses what the test says, call by call.

use std::fmt;
use std::io;

use sapwood::storage::{Advice, OperationKind, SimulatedStorage, Storage};

/// What a refused call says.
pub const REFUSED: &str = "the test refuses it";

type Refuses = dyn Fn(OperationKind) -> Option<io::ErrorKind> + Send + Sync;

/// See the module.
pub struct RefusingStorage {
    inner: SimulatedStorage,
    refuses: Box<Refuses>,
}

impl RefusingStorage {
    /// `refuses` is asked before each call, by the thread that makes it.
    pub fn new(
        inner: &SimulatedStorage,
        refuses: impl Fn(OperationKind) -> Option<io::ErrorKind> + Send + Sync + 'static,
    ) -> RefusingStorage {
        RefusingStorage { inner: inner.clone(), refuses: Box::new(refuses) }
    }

    fn ask(&self, kind: OperationKind) -> io::Result<()> {
        match (self.refuses)(kind) {
            Some(error) => Err(io::Error::new(error, REFUSED)),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RefusingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusingStorage").finish_non_exhaustive()
    }
}

impl Storage for RefusingStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.ask(OperationKind::Read)?;
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.ask(OperationKind::Write)?;
        self.inner.write_at(offset, bytes)
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.ask(OperationKind::WriteSync)?;
        self.inner.write_sync_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.ask(OperationKind::Sync)?;
        self.inner.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.inner.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.ask(OperationKind::SetLength)?;
        self.inner.set_length(length)
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.ask(OperationKind::Allocate)?;
        self.inner.allocate(offset, length)
    }

    fn write_back(&self, offset: u64, length: u64) -> io::Result<()> {
        self.ask(OperationKind::WriteBack)?;
        self.inner.write_back(offset, length)
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) -> io::Result<()> {
        self.inner.advise(offset, length, advice)
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.punch(offset, length)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn name(&self) -> String {
        self.inner.name()
    }
}
