//! Who is reading what in place, so that no write changes it unseen.
//!
//! *Assumes*: whoever reads in place was given a copy, so a mistake harms nobody but is found here.
//! *Guarantees*: M1 and M2 hold, or the operation that breaks them panics or is refused.
//! *Threads*: any; a short lock, and nothing is done under it.

use std::collections::BTreeMap;
use std::io;

use crate::storage::PIN_BYTES;
use crate::sync::{Arc, Mutex};

/// The ranges that are being read in place: first byte and end, by a number of their own.
#[derive(Debug, Default)]
pub(super) struct InPlace {
    ranges: Mutex<Ranges>,
}

#[derive(Debug, Default)]
struct Ranges {
    next: u64,
    held: BTreeMap<u64, (u64, u64)>,
}

/// One of the ranges, until it is dropped.
pub(super) struct Held {
    of: Arc<InPlace>,
    number: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.ranges.lock().held.remove(&self.number);
    }
}

impl InPlace {
    pub(super) fn hold(self: &Arc<Self>, offset: u64, length: u64) -> Held {
        let mut ranges = self.ranges.lock();
        let number = ranges.next;
        ranges.next += 1;
        ranges.held.insert(number, (offset, offset.saturating_add(length)));
        Held { of: Arc::clone(self), number }
    }

    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.ranges.lock().held.values().any(|(first, last)| *first < end && start < *last)
    }

    /// Something is about to be written.
    pub(super) fn assert_unused(&self, offset: u64, length: u64) {
        assert!(
            !self.overlaps(offset, offset.saturating_add(length)),
            "{length} bytes at {offset} are written while somebody reads them in place"
        );
    }

    /// The file is about to have this length. As in a file that is mapped, what ends in the same
    /// piece of it as the new end counts as cut off.
    pub(super) fn check_cut(&self, length: u64) -> io::Result<()> {
        match self.overlaps(length / PIN_BYTES * PIN_BYTES, u64::MAX) {
            true => Err(io::ErrorKind::ResourceBusy.into()),
            false => Ok(()),
        }
    }
}
