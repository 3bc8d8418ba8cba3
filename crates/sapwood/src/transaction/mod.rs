//! Floor 6: what a transaction has written and read, until it commits.
//!
//! *Assumes*: one owner for each transaction; cursors of it may live in other threads.

pub mod batch_writes;
pub mod commit;
pub mod commit_by_reference;
pub mod key_look;
pub mod layers;
pub mod pending;
pub mod pending_merge;
pub mod pending_segment;
pub mod pending_source;
pub mod range_set;
pub mod read_set;
pub mod reads;
#[allow(clippy::module_inception)]
mod transaction;
pub mod validate;
pub mod validator;
pub mod value_writer;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_adoption;
#[cfg(test)]
mod tests_build;
#[cfg(test)]
mod tests_flush;
#[cfg(test)]
mod tests_hostile;
#[cfg(test)]
mod tests_memory;
#[cfg(test)]
mod tests_overtaken;
#[cfg(test)]
mod tests_rules;
#[cfg(test)]
mod tests_validate;
#[cfg(test)]
mod tests_validator;
#[cfg(test)]
mod tests_verify;

// The commit and the public face use the rest of them.
pub use layers::Savepoint;
#[allow(unused_imports)]
pub use pending::{PendingOperation, PendingRead, PendingWrite, PendingWrites};
#[allow(unused_imports)]
pub use pending_source::PendingSource;
#[allow(unused_imports)]
pub use range_set::RangeSet;
#[allow(unused_imports)]
pub use read_set::ReadSet;
pub use transaction::Transaction;
