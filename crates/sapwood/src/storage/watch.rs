//! Whether the open file is still the one that was opened, and this process the one that opened it.
//!
//! *Assumes*: it is told of every change of length that goes through the handle.
//! *Guarantees*: a file that was deleted, replaced under its name, or cut by somebody else, is seen
//! by the next look; so is a process that was forked from the one that opened the file.
//! What was renamed or has a second name is not taken for deleted. *Threads*: any.

use std::fs::Metadata;
use std::io;

use super::platform;
use crate::sync::atomic::{AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub(super) struct Watch {
    /// Who opened the file.
    pub(super) process: u32,
    /// The file is that long at least, unless somebody else has cut it.
    length_min: AtomicU64,
    /// How often this process has cut it.
    cuts: AtomicU64,
}

impl Watch {
    pub(super) fn new(length: u64) -> Watch {
        let process = std::process::id();
        Watch { process, length_min: AtomicU64::new(length), cuts: AtomicU64::new(0) }
    }

    /// False in a process that was forked from the one that opened the file.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// # Errors
    /// When another process has opened the file.
    pub(super) fn check_process(&self) -> io::Result<()> {
        match self.is_of_this_process() {
            true => Ok(()),
            false => refuse(&format!(
                "process {} opened the file, and this one was forked from it, so it may not \
                 write; fork before opening",
                self.process
            )),
        }
    }

    /// Asks for what is said of the file now. Other threads may make it longer or shorter
    /// meanwhile: what is expected is what held before the answer, unless they have cut it since.
    ///
    /// # Errors
    /// When the file is not what was opened and written; or what the question gives.
    pub(super) fn check_file(&self, ask: impl Fn() -> io::Result<Metadata>) -> io::Result<()> {
        loop {
            let cuts = self.cuts.load(Ordering::Acquire);
            let expected = self.length_min.load(Ordering::Acquire);
            let now = ask()?;
            if self.cuts.load(Ordering::Acquire) == cuts {
                return Watch::check(&now, expected);
            }
        }
    }

    fn check(now: &Metadata, expected: u64) -> io::Result<()> {
        if platform::is_nameless(now) {
            return refuse(
                "the file was deleted or replaced while it was open, so nothing written to it \
                 would be found again; close the database and see what is there now",
            );
        }
        let length = now.len();
        if length < expected {
            return refuse(&format!(
                "somebody else cut the file while it was open: it has {length} bytes and had \
                 {expected}; close the database and restore the file from a copy"
            ));
        }
        Ok(())
    }

    /// The file reaches to `end` at least.
    pub(super) fn reaches(&self, end: u64) {
        self.length_min.fetch_max(end, Ordering::AcqRel);
    }

    /// The file gets this length. Said before it is cut, and after it was extended.
    pub(super) fn has_length(&self, length: u64) {
        self.length_min.store(length, Ordering::Release);
        self.cuts.fetch_add(1, Ordering::AcqRel);
    }
}

fn refuse(detail: &str) -> io::Result<()> {
    Err(io::Error::other(detail.to_owned()))
}
