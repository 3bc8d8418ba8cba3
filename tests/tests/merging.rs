//! Merges are right: over whole databases with the smallest options, whose steps the test runs
//! itself, and over trees alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "merging/between.rs"]
mod between;
#[path = "merging/deaths.rs"]
mod deaths;
#[path = "merging/drops.rs"]
mod drops;
#[path = "merging/failures.rs"]
mod failures;
#[path = "merging/lab.rs"]
mod lab;
#[path = "merging/long_lists.rs"]
mod long_lists;
#[path = "merging/many_versions.rs"]
mod many_versions;
#[path = "merging/nested_deletes.rs"]
mod nested_deletes;
#[path = "merging/panics.rs"]
mod panics;
#[path = "merging/preempt.rs"]
mod preempt;
#[path = "merging/ranges.rs"]
mod ranges;
#[path = "merging/shape.rs"]
mod shape;
#[path = "merging/triggers.rs"]
mod triggers;
#[path = "merging/wide_deletes.rs"]
mod wide_deletes;
