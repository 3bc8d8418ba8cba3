//! Shows that merges are right: over whole databases with the smallest options, whose steps the
//! test runs itself, and over trees alone.

mod between;
mod deaths;
mod failures;
mod lab;
mod shape;
mod triggers;
