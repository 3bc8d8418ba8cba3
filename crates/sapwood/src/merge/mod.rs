//! Floor 5: flushes, promotions and everything else that makes the next state, in bounded steps
//! that own no thread.
//!
//! docs/architecture.md, sections 4 to 6 and 9, has the invariants that are cited here by number.

pub mod add_ranges;
pub mod adopt;
pub mod build;
pub mod compact;
pub mod debt;
pub mod drop_keyspace;
pub mod flush;
pub mod gaps;
pub mod install;
pub mod lists;
pub mod overflow_walk;
pub mod pack;
pub mod passed_over;
pub mod plan;
pub mod promote;
pub mod ranges;
pub mod run;
pub mod shrink;
pub mod step;
pub mod stretch;
pub mod tell;
pub mod throttle;
pub mod touched;
pub mod verify;
pub mod versions;
pub mod worker;
