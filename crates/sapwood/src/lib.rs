//! Sapwood: an embedded, ordered key-value database in one file.
//!
//! The floors, from the bottom: [`sync`], [`storage`], [`page`], [`segment`], [`log`] and
//! [`memtable`], [`state`] and [`merge`], [`transaction`] and the public face. A lower floor never
//! imports a higher one; a test reads the imports and says so.

#![deny(missing_docs)]

mod batch;
mod builder;
mod bytes;
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
mod types;

// Below the public face items are public inside the crate; tools reach them by a feature.
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
pub use options::{Compression, Durability, Isolation, KeyspaceOptions};
pub use progress::Progress;
pub use range::Range;
pub use snapshot::Snapshot;
pub use stats::{KeyspaceStats, LevelStats, LogStats, MemoryStats, Stats};
pub use transaction::Transaction;
pub use types::{Epoch, KeyspaceNumber, PageNumber, SequenceNumber};
