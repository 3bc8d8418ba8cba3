//! The numbers that every floor speaks of, each as a type of its own so that none is taken for
//! another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

/// What a file counts (commits, states, segments, write stamps, bytes of the log) stays far below
/// this: adding to it never overflows, and a file that claims more is damaged.
pub const COUNT_MAX: u64 = 1 << 62;

number!(
    /// The number of a page in the file: page `n` begins at byte `n * page_size`.
    PageNumber,
    u64
);
number!(
    /// The number of a state; every node is born in one and dies in another. 0 means none.
    Epoch,
    u64
);
number!(
    /// The place of a commit in the one order of all commits. 0 is before every commit.
    SequenceNumber,
    u64
);
number!(
    /// The number of a keyspace; never used again after the keyspace is dropped.
    KeyspaceNumber,
    u32
);
number!(
    /// A byte position in the log, which counts on over every lap of the ring.
    LogPosition,
    u64
);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl SequenceNumber {
    /// Above every number that a commit can get.
    pub const MAX: SequenceNumber = SequenceNumber(u64::MAX);
}

impl KeyspaceNumber {
    /// What the nodes of a young segment carry, since they hold several keyspaces.
    pub const MANY: KeyspaceNumber = KeyspaceNumber(u32::MAX);
}
