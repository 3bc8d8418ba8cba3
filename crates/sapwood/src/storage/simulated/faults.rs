//! Which operations of a simulated disk fail, and how.

use std::io;

use super::{FaultKind, OperationKind};

/// The failures that are still to come.
#[derive(Debug, Default)]
pub(super) struct Faults {
    list: Vec<Fault>,
    drop_cache: Option<io::ErrorKind>,
}

#[derive(Debug)]
struct Fault {
    kind: FaultKind,
    /// How many operations that match still succeed.
    spared: u64,
    once: bool,
    error: io::ErrorKind,
}

/// What becomes of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Succeed,
    Fail(io::ErrorKind),
    /// A sync fails and loses what it was to sync.
    DropCache(io::ErrorKind),
}

impl Verdict {
    pub(super) fn into_result(self) -> io::Result<()> {
        match self {
            Verdict::Succeed => Ok(()),
            Verdict::Fail(kind) | Verdict::DropCache(kind) => Err(error(kind)),
        }
    }
}

pub(super) fn error(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "simulated disk: failure asked for by the test")
}

impl FaultKind {
    fn matches(self, operation: OperationKind) -> bool {
        use OperationKind::{Allocate, Read, SetLength, Sync, SyncDirectory, Write, WriteSync};
        match self {
            FaultKind::Read => operation == Read,
            FaultKind::Write => matches!(operation, Write | WriteSync),
            FaultKind::Sync => matches!(operation, Sync | SyncDirectory | WriteSync),
            FaultKind::SetLength => operation == SetLength,
            FaultKind::Allocate => operation == Allocate,
            FaultKind::Any => true,
        }
    }
}

impl Faults {
    pub(super) fn add(&mut self, kind: FaultKind, nth: u64, once: bool, error: io::ErrorKind) {
        self.list.push(Fault { kind, spared: nth.saturating_sub(1), once, error });
    }

    pub(super) fn drop_cache_at_next_sync(&mut self, error: io::ErrorKind) {
        self.drop_cache = Some(error);
    }

    /// Counts one operation in every fault that it matches, and says what the first that is due
    /// makes of it.
    pub(super) fn judge(&mut self, operation: OperationKind) -> Verdict {
        let mut due = None;
        self.list.retain_mut(|fault| {
            if !fault.kind.matches(operation) {
                return true;
            }
            if fault.spared > 0 {
                fault.spared -= 1;
                return true;
            }
            due = due.or(Some(fault.error));
            !fault.once
        });
        let syncs = matches!(operation, OperationKind::Sync | OperationKind::WriteSync);
        match due {
            Some(error) => Verdict::Fail(error),
            None if syncs => self.drop_cache.take().map_or(Verdict::Succeed, Verdict::DropCache),
            None => Verdict::Succeed,
        }
    }
}
