//! Crash and fault harness for Sapwood: a model, seeded workloads, simulated power cuts.
//!
//! *Assumes*: of the engine only its public face, and the simulated storage below it.
//! *Guarantees*: everything that a run does follows from its seed, so that any failure replays.
//!
//! [`model`] says what a database must hold, [`workload`] draws what is done to it, [`harness`]
//! drives a database and the model side by side and cuts its power, [`setup`] draws the options
//! that it is opened with. [`kill`] kills real processes, [`full`] fills real file systems,
//! [`opening`] measures opens.
//! Tests of whole databases live in `tests/`, one binary a theme.

pub mod access;
pub mod counting;
pub mod fixtures;
pub mod full;
pub mod harness;
pub mod hooked;
pub mod kill;
pub mod model;
pub mod opening;
pub mod setup;
pub mod workload;
