//! How many keyspaces there may be: each is in memory and in every durable state.
//!
//! *Guarantees*: what was taken is taken again by an open with the same budget, since nothing but
//! the number of keyspaces and their names is counted. *Threads*: any.

use super::catalogue::{Catalogue, KeyspaceEntry};
use super::core::Core;
use super::durable::state_pages_max;
use crate::error::{Error, Result};
use crate::options::Options;

/// What a state takes in the file for a keyspace beside its name, about: options, a segment, and
/// its shares of young ones.
const KEYSPACE_BYTES: usize = 256;
/// And in memory, for the current state and the last durable one together.
const KEYSPACE_MEMORY_BYTES: usize = 1024;

/// Keyspaces take so much of the budget at most, each with one segment; with the most that they may
/// have above their last level they take half of it.
const BUDGET_PART: u64 = 8;
/// So much may always be taken: budgets that are less than that by far are exceeded in any case.
const ALWAYS_BYTES: u64 = 4 << 20;

/// How many keyspaces, and how long all their names are.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    count: usize,
    name_bytes: usize,
}

impl Known {
    fn of<'a>(entries: impl Iterator<Item = &'a KeyspaceEntry>) -> Known {
        entries.fold(Known::default(), |known, entry| known.and(1, entry.name.len()))
    }

    fn and(self, count: usize, name_bytes: usize) -> Known {
        Known { count: self.count + count, name_bytes: self.name_bytes + name_bytes }
    }

    fn file_bytes(self) -> u64 {
        (self.count * KEYSPACE_BYTES + self.name_bytes) as u64
    }

    /// A name lies in two catalogues, and, while keyspaces come and go, in as many more.
    fn memory_bytes(self) -> u64 {
        (self.count * KEYSPACE_MEMORY_BYTES + 2 * self.name_bytes) as u64
    }
}

/// What is known of keyspaces may take so many bytes of memory.
pub(crate) fn memory_bytes_max(options: &Options) -> u64 {
    options.keyspaces_bytes.unwrap_or((options.memory_budget / BUDGET_PART).max(ALWAYS_BYTES))
}

/// What the keyspaces of a catalogue are expected to take in memory, in bytes.
pub(crate) fn memory_bytes(catalogue: &Catalogue) -> u64 {
    Known::of(catalogue.iter().map(|(_, entry)| entry)).memory_bytes()
}

/// Looks whether memory, and every durable state, would have a place for the keyspaces, so many
/// more, and names that are so much longer. In the file what they hold may take as much again.
///
/// # Errors
/// `InvalidOption`: the budget is too small for them, or regions are.
pub fn check_keyspaces_fit(
    core: &Core,
    catalogue: &Catalogue,
    more: usize,
    name_bytes: usize,
) -> Result<()> {
    let layout = core.pages.layout();
    // States name dropped ones, too, until all of them has left.
    let state = core.state();
    let leaving = state.catalogue.iter().filter(|(number, _)| catalogue.get(*number).is_none());
    let known = Known::of(catalogue.iter().chain(leaving).map(|(_, entry)| entry));
    let known = known.and(more, name_bytes);
    check_memory(known, &core.options)?;
    if known.file_bytes() <= layout.stream_bytes(state_pages_max(layout)) / 2 {
        return Ok(());
    }
    let count = catalogue.count();
    Err(Error::InvalidOption {
        option: "region_bytes",
        detail: format!(
            "with {} bytes to a region a state has no room for more than these {count} \
             keyspaces; drop some, give them shorter names, or make a file with larger regions",
            layout.region_bytes
        ),
    })
}

/// Looks whether memory has a place for the keyspaces of a file.
///
/// # Errors
/// `InvalidOption` that names the budget which is enough.
pub(crate) fn check_memory_of(catalogue: &Catalogue, options: &Options) -> Result<()> {
    check_memory(Known::of(catalogue.iter().map(|(_, entry)| entry)), options)
}

fn check_memory(known: Known, options: &Options) -> Result<()> {
    let bytes = known.memory_bytes();
    if bytes <= memory_bytes_max(options) {
        return Ok(());
    }
    let detail = format!(
        "what is known of {} keyspaces takes {bytes} bytes, more than their part of it; drop some, \
         or open with {} at least",
        known.count,
        bytes.saturating_mul(BUDGET_PART)
    );
    Err(Error::InvalidOption { option: "memory_budget", detail })
}
