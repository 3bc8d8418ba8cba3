//! A look at every install, for tests: what is about to change, before anyone can see it.
//!
//! *Threads*: called under the install lock.

use std::fmt::Debug;

use super::core::Core;
use super::dead_list::Dead;
use super::state::Contents;
use super::view::MemtableSlot;
use crate::page::Block;

/// One install, just before it happens.
#[derive(Debug)]
pub struct Installing<'a> {
    /// The state that is replaced.
    pub base: &'a Contents,
    /// The one that takes its place.
    pub next: &'a Contents,
    /// Blocks that the install says are born; neighbours may be joined.
    pub born: &'a [Block],
    /// What the install says dies; a birth of 0: it never was in a state.
    pub died: Vec<Dead>,
    /// The memtable whose flush it is.
    pub flushed: Option<&'a MemtableSlot>,
}

/// Looks at installs.
pub trait InstallCheck: Debug + Send {
    /// Everything is written, nothing is swapped in.
    fn before(&mut self, core: &Core, installing: &Installing<'_>);
    /// The next state is current, and the dead are where they belong.
    fn after(&mut self, core: &Core);
}
