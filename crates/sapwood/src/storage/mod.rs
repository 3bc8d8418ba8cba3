//! Floor 1: the file, behind a trait.
//!
//! *Assumes*: nothing of what the bytes mean.
//! *Guarantees*: an acknowledged `sync_data` or `write_sync_at` is on disk as far as the platform
//! can promise it; everything else may be lost, torn at 512 bytes or reordered by a crash.

// The floors above open one kind; tests and tools are the only users of the others.
#![allow(unused_imports)]

mod file;
mod map;
mod memory;
mod new_file;
mod platform;
mod simulated;
mod sparse;
mod sync_gate;
mod watch;

use std::fmt::Debug;
use std::io;

pub use file::{FileOpenOptions, FileStorage};
pub use map::{Mapped, PIN_BYTES};
pub use memory::{Counters, MemoryStorage};
pub use new_file::NewFile;
pub use simulated::{CrashPlan, FaultKind, Operation, OperationKind, SimulatedStorage, TraceEntry};
pub use sync_gate::{SyncCounts, SyncGate};

/// The end of `length` bytes at `offset`; an error where no file can have such bytes.
fn end_of(offset: u64, length: u64) -> io::Result<u64> {
    match offset.checked_add(length) {
        // The system's offsets are signed.
        Some(end) if i64::try_from(end).is_ok() => Ok(end),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{length} bytes at offset {offset} lie beyond the largest file"),
        )),
    }
}

/// What will be done with a part of the file, so that the system can prepare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be read once, in order.
    Sequential,
    /// It will be read here and there.
    Random,
    /// It will be read soon.
    WillNeed,
    /// It will not be read soon.
    DontNeed,
}

/// One file. Every call may come from any thread at any time, merge threads included, with locks of
/// the database held: an implementation neither uses the database that stands on it nor drops
/// handles of it. Only in merge threads the last [`Database`](crate::Database) may go; another
/// thread closes it then.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Fills `buffer` from `offset`; `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, growing the file where needed. They survive the
    /// process's death.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// The same, and on disk when it returns; only these bytes are promised, no other dirty ones.
    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Puts everything written so far, and the file's length, on disk.
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Cuts the file, or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Reserves space on the device for a part of the file, extending it where needed.
    fn allocate(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Asks the system to begin writing back a part of the file. A hint.
    fn write_back(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Says how a part of the file will be used. A hint.
    fn advise(&self, offset: u64, length: u64, advice: Advice) -> io::Result<()>;
    /// Gives the device's space behind a part of the file back; it then reads as zeros. A hint.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes the file's own directory entry durable. After `NotFound`, `PermissionDenied` and
    /// `ResourceBusy` nothing was begun: the directory could not be opened, which may be otherwise
    /// another time.
    fn sync_directory(&self) -> io::Result<()>;
    /// Bytes in place, for as long as what is returned is held; `None` when they have to be read.
    /// Whoever asks sees to it that nobody writes there meanwhile. While it is held, `set_length`
    /// does not cut it off: it fails with `ResourceBusy`.
    fn map(&self, _offset: u64, _length: usize) -> Option<Mapped> {
        None
    }
    /// The file's name, for messages.
    fn name(&self) -> String;
    /// False in a process that was forked from the one that opened the file. There nothing is
    /// written, and closing only lets go: the file and its lock are the other's.
    fn is_of_this_process(&self) -> bool {
        true
    }
}
