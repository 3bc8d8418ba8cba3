//! Shows that merges are right: over whole databases with the smallest options, whose steps the
//! test runs itself, and over trees alone.

mod deaths;
mod lab;
mod shape;
