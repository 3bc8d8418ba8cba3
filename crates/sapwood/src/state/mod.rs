//! Floor 5: which segments are current, what readers and durable states still hold, and how a state
//! becomes durable and is found again.
//!
//! docs/architecture.md, sections 3, 5, 6 and 7, has the invariants that are cited here by number.

pub mod catalogue;
pub mod state;
