//! Sapwood: an embedded, ordered key-value database in one file.
//!
//! Keys and values are bytes; keys order as unsigned bytes. The database is an LSM-tree whose
//! segments are immutable B-trees: writes go to a log and to memory, are flushed as young segments,
//! and merges carry them inward. Readers never wait for writers or merges.
//!
//! # Quick start
//! ```
//! use sapwood::{Database, Durability};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("garden.sapwood");
//! // One file; it is made when there is none.
//! let db = Database::open(&path)?;
//!
//! // A keyspace is an ordered map of its own.
//! let plants = db.keyspace("plants")?;
//! plants.put("fern", "shade")?;
//! plants.put("rose", "sun")?;
//! assert_eq!(plants.get("rose")?.unwrap(), "sun");
//!
//! // Ranges go both ways.
//! for entry in plants.range("a".."s")?.rev() {
//!     let (name, place) = entry?;
//!     println!("{name:?} likes {place:?}");
//! }
//!
//! // Writes to several keyspaces become visible, and durable, together.
//! let places = db.keyspace("places")?;
//! let mut batch = db.batch();
//! batch.put(&plants, "moss", "shade")?;
//! batch.put(&places, "shade", "north wall")?;
//! batch.commit_with(Durability::Sync)?;
//!
//! // A snapshot sees one instant for ever.
//! let before = db.snapshot()?;
//! plants.delete("fern")?;
//! assert!(before.contains(&plants, "fern")?);
//!
//! // A transaction reads, writes, and is tried again when others come between.
//! let count = db.transact(|transaction| {
//!     let count = transaction.count(&plants, "a"..)?;
//!     transaction.put(&places, "count", count.to_string())?;
//!     Ok(count)
//! })?;
//! assert_eq!(count, 2);
//!
//! // Dropping the last handle closes too, but cannot report what fails.
//! db.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//! - Each commit chooses its [`Durability`]; the default, [`Durability::Sync`], is on disk when it
//!   returns.
//! - [`Isolation`] says what makes a transaction fail with [`Error::Conflict`].
//! - All memory is under one budget, 256 MiB unless [`Builder::memory_budget`] says otherwise.
//! - Keys have at most 16,384 bytes. The writes of one batch take at most a quarter of the memory
//!   budget, those of a transaction what the file takes; a value above an eighth of the budget is
//!   read as a stream. All options stand in `docs/options.md`, all limits in `docs/limits.md`.
//! - Flushes and merges run in threads of their own, or in the application's with
//!   [`Builder::merge_threads`] 0 and [`Database::run_step`].
//! - [`Stats`] tells what the engine does; the same goes to `tracing`.

// The floors, from the bottom: sync, storage, page, segment, log and memtable, state and merge,
// transaction and the public face. A lower floor never imports a higher one; a test reads the
// imports and says so.

#![deny(missing_docs)]

mod batch;
mod builder;
mod bytes;
mod changed;
mod compare;
mod conditional;
mod copy;
mod cursor;
mod database;
mod error;
mod estimate;
mod key_bounds;
mod keyspace;
mod options;
mod progress;
mod range;
mod scan;
mod shared;
mod snapshot;
mod stats;
mod stream;
mod types;

// Below the public face items are public inside the crate; tools reach them by a feature.
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod codec;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod codec;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod log;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod log;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod memtable;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod memtable;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod merge;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod merge;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod page;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod page;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod segment;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod segment;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod state;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod state;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod storage;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod storage;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod sync;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod sync;
#[cfg(feature = "internals")]
#[allow(missing_docs)]
pub mod transaction;
#[cfg(not(feature = "internals"))]
#[allow(missing_docs, dead_code)]
mod transaction;

pub use batch::Batch;
pub use builder::Builder;
pub use bytes::{Key, Value};
pub use cursor::{Cursor, Seek};
pub use database::Database;
pub use error::{Corruption, Error, Result, Structure};
pub use keyspace::Keyspace;
pub use merge::verify::{Problem, VerifyReport};
pub use options::{Compression, Durability, Isolation, KeyspaceOptions};
pub use progress::Progress;
pub use range::{Keys, Range};
pub use snapshot::Snapshot;
pub use stats::{
    DebtStats, KeyspaceStats, LevelStats, LogStats, MemoryStats, SnapshotStats, Stats, SyncStats,
    TransactionStats, WrittenStats,
};
pub use storage::{Advice, Mapped, MemoryStorage, Storage};
pub use stream::ValueStream;
pub use transaction::{Savepoint, Transaction};
pub use types::{Epoch, KeyspaceNumber, PageNumber, SequenceNumber};
