//! Floor 4: the log, which makes a small commit durable.
//!
//! *Assumes*: the storage keeps what it says ([`crate::storage`]); whoever commits appends records
//! in the commit order; blocks that a record names were written before the record is appended.
//! *Guarantees*, cited by number in assertions and tests:
//! - L1: the durable position never passes a byte that a crash could still take away.
//! - L2: the log writes only inside the list of the last durable state that a record names.
//! - L3: the record that names a durable state always fits into that list.
//! - L4: replay gives back the records that were appended, in order, up to a point at or behind the
//!   highest position known to be durable, or it reports damage.
//! - L5: after a failed write or sync nothing more is written, and every caller learns the cause.
//!
//! *Format*: sections 5 and 6.2. *Threads*: [`writer`] says which.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod buffer;
pub mod operation;
mod prefix_sums;
pub mod reader;
pub mod record;
pub mod ring;
pub mod stream;
pub mod writer;

#[cfg(test)]
mod tests;

// Tools cannot name it otherwise.
#[cfg(feature = "internals")]
pub use crate::types::LogPosition;
