//! Floor 5: which segments are current, what readers and durable states still hold, and how a state
//! becomes durable and is found again.
//!
//! docs/architecture.md, sections 3, 5, 6 and 7, has the invariants that are cited here by number.

pub mod apply;
pub mod background;
pub mod backlog;
pub mod by_reference;
pub mod catalogue;
pub mod core;
pub mod create;
pub mod damaged;
pub mod dead_list;
pub mod durable;
mod epoch_set;
pub mod held_snapshots;
#[cfg(feature = "internals")]
pub mod install_check;
pub mod join;
pub(crate) mod keyspaces_fit;
pub mod log_named;
pub mod lookup;
pub mod manifest;
pub mod open_transactions;
pub mod panic_guard;
pub mod pending_blocks;
pub mod publish;
pub mod recent_commits;
pub mod recovery;
mod replay;
mod replay_buffer;
pub mod reserve;
pub mod snapshot;
pub mod sources;
pub mod state;
pub mod toll;
pub mod view;

pub use self::backlog::{Backlog, PromotedLeaves};
pub use self::core::Core;
pub use self::snapshot::{BlocksHold, ReadPoint, SnapshotHold};
pub use self::state::{Contents, Cut, Levels, State};
