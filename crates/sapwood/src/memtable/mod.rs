//! Floor 4: the memtable, one ordered table in memory for the entries of all keyspaces.
//!
//! Entries order by keyspace number, then key, then sequence number from the newest down; all
//! versions are kept. Their bytes lie in an arena and never move; a B+tree above it holds of each
//! entry its head (keyspace and first bytes of the key) and its place, so that a search seldom
//! touches the entries themselves. Range tombstones lie beside, as fragments.
//!
//! *Assumes* that the caller lets one thread at a time insert (it holds the commit lock), and that
//! it makes sequence numbers visible to readers after it has inserted their entries.
//! *Guarantees*: M1, what one thread inserted before another began a call, the call sees (where
//! something orders the two). M2, bytes that were handed out stay as they are while the memtable
//! lives. M3, a reader takes no lock; it repeats a step when the writer changed the same node.
//! *Threads*: one writer beside any number of readers; the lock inside is only ever tried.

mod arena;
mod cursor;
mod directory;
mod entry;
mod joined;
mod node;
mod numbers;
mod pool;
mod range_deletes;
#[cfg(test)]
mod tests;
mod tree;

pub use cursor::MemtableCursor;
pub use joined::{Joined, JoinedRange};
pub use pool::ChunkPool;
pub use range_deletes::{Fragment, RangeDeletes};

use self::arena::{Arena, ArenaWriter};
use self::node::Target;
use self::range_deletes::Content;
use self::tree::{Tree, TreeWriter};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, ArcSwap, Mutex, MutexGuard};
use crate::types::{KeyspaceNumber, SequenceNumber};

/// What one version of a key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The key has this value.
    Put(&'a [u8]),
    /// The key has a value that lies elsewhere; these bytes say where, and mean nothing here.
    PutOverflow(&'a [u8]),
    /// The key has no value.
    Delete,
}

impl<'a> Operation<'a> {
    /// The value, or what says where it lies; empty for a deletion.
    #[must_use]
    pub fn value(self) -> &'a [u8] {
        match self {
            Operation::Put(value) | Operation::PutOverflow(value) => value,
            Operation::Delete => &[],
        }
    }
}

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version<'a> {
    /// The commit that wrote it.
    pub sequence: SequenceNumber,
    /// What it says.
    pub operation: Operation<'a>,
}

/// See the module.
pub struct Memtable {
    arena: Arena,
    tree: Tree,
    writer: Mutex<Writer>,
    entry_count: AtomicU64,
    /// The lowest number inserted; `u64::MAX` when there is none.
    first_sequence: AtomicU64,
    last_sequence: AtomicU64,
    has_range_deletes: AtomicBool,
    range_deletes: ArcSwap<Content>,
    has_joined: AtomicBool,
    joined: ArcSwap<Joined>,
}

/// What only the writer needs.
struct Writer {
    arena: ArenaWriter,
    tree: TreeWriter,
}

impl std::fmt::Debug for Memtable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memtable")
            .field("entry_count", &self.entry_count())
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl Memtable {
    /// An empty memtable that takes its chunks from the pool, and leaves them there when dropped.
    #[must_use]
    pub fn new(pool: Arc<ChunkPool>) -> Memtable {
        let (tree, tree_writer) = Tree::new(Arc::clone(&pool));
        Memtable {
            arena: Arena::new(pool),
            tree,
            writer: Mutex::new(Writer { arena: ArenaWriter::default(), tree: tree_writer }),
            entry_count: AtomicU64::new(0),
            first_sequence: AtomicU64::new(u64::MAX),
            last_sequence: AtomicU64::new(0),
            has_range_deletes: AtomicBool::new(false),
            range_deletes: ArcSwap::default(),
            has_joined: AtomicBool::new(false),
            joined: ArcSwap::default(),
        }
    }

    /// Inserts one version of a key. The same version inserted again takes the place of the first;
    /// the bytes of that stay in memory.
    pub fn insert(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        sequence: SequenceNumber,
        operation: Operation<'_>,
    ) {
        let writer = &mut *self.writer();
        self.count_sequence(sequence);
        if operation != Operation::Delete {
            self.cut_joined(keyspace, key);
        }
        let target = Target::new(keyspace, key, sequence);
        let entry = self.arena.append(&mut writer.arena, key, sequence, operation);
        if self.tree.insert(&mut writer.tree, &self.arena, &target, entry) {
            self.entry_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Inserts a range tombstone over `[start, end)`, or to the end of the keyspace. A range that
    /// holds no key is left out.
    pub fn insert_range_delete(
        &self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: Option<&[u8]>,
        sequence: SequenceNumber,
    ) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let _writer = self.writer();
        self.count_sequence(sequence);
        let content = self.range_deletes.load().with(keyspace, start, end, sequence);
        self.range_deletes.store(Arc::new(content));
        self.has_range_deletes.store(true, Ordering::Release);
    }

    /// Nothing lives in `[start, end)` for a reader at `at`, as it has seen by walking all of it:
    /// notes that, unless something was inserted there since. The caller holds the commit lock,
    /// this is the memtable that takes writes, and it holds a commit at or below `at`. Complexity:
    /// what was inserted there since.
    pub fn join(
        &self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: &[u8],
        at: SequenceNumber,
    ) -> bool {
        let joined = self.joined.load();
        let is_new =
            |(start, end): &(&[u8], &[u8])| self.changed_since(keyspace, start, Some(end), at);
        if start >= end || joined.gaps(keyspace, start, end).iter().any(is_new) {
            return false;
        }
        let Some(more) = joined.with(keyspace, start, end, at) else { return false };
        self.joined.store(Arc::new(more));
        self.has_joined.store(true, Ordering::Release);
        true
    }

    /// Before a put can be seen: nothing says any more that its key is dead (J1).
    fn cut_joined(&self, keyspace: KeyspaceNumber, key: &[u8]) {
        // Only the writer sets it.
        if self.has_joined.load(Ordering::Relaxed)
            && let Some(less) = self.joined.load().without(keyspace, key)
        {
            self.has_joined.store(!less.ranges().is_empty(), Ordering::Release);
            self.joined.store(Arc::new(less));
        }
    }

    /// Joined tombstones of this moment: for a reader whose number was visible before it asks.
    #[must_use]
    pub fn joined(&self) -> Option<Arc<Joined>> {
        self.has_joined.load(Ordering::Acquire).then(|| self.joined.load_full())
    }

    /// Makes range tombstones of the joined ones, so that they outlive the memtable. Nothing is
    /// inserted any more. Nobody may need to know what changed before their numbers, which they
    /// would pass for a change. Where newer range tombstones lie already they are forgotten: what
    /// they stand for is there, and a number that comes late has no place in shared lists.
    pub fn keep_joined(&self) {
        let Some(joined) = self.joined() else { return };
        for range in joined.ranges() {
            let JoinedRange { keyspace, start, end, number } = range;
            let older = self.range_deletes().older_than(*keyspace, (start, end), *number);
            for (start, end) in older.into_iter().flatten() {
                self.insert_range_delete(*keyspace, &start, Some(&end), *number);
            }
        }
        self.has_joined.store(false, Ordering::Release);
        self.joined.store(Arc::default());
    }

    /// The writer's state. Waiting for it would hide that two threads insert at once.
    fn writer(&self) -> MutexGuard<'_, Writer> {
        let writer = self.writer.try_lock();
        debug_assert!(writer.is_some(), "two threads insert at once");
        writer.unwrap_or_else(|| self.writer.lock())
    }

    fn count_sequence(&self, sequence: SequenceNumber) {
        // Before the entry can be seen, so that `changed_since` may rely on it.
        self.first_sequence.fetch_min(sequence.0, Ordering::Relaxed);
        self.last_sequence.fetch_max(sequence.0, Ordering::Release);
    }

    /// The memory that is held, in chunks and nodes, filled or not, and in range tombstones.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let range_bytes =
            if self.has_range_deletes() { self.range_deletes.load().bytes() } else { 0 };
        let joined_bytes = self.joined().map_or(0, |joined| joined.bytes());
        self.arena.held_bytes() + self.tree.held_bytes() + range_bytes + joined_bytes
    }

    /// The number of versions of keys; range tombstones are not counted.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// The lowest sequence number inserted, those of range tombstones included.
    #[must_use]
    pub fn first_sequence(&self) -> Option<SequenceNumber> {
        let first = self.first_sequence.load(Ordering::Relaxed);
        (!self.is_empty()).then_some(SequenceNumber(first))
    }

    /// The highest sequence number inserted, those of range tombstones included.
    #[must_use]
    pub fn last_sequence(&self) -> Option<SequenceNumber> {
        let last = self.last_sequence.load(Ordering::Acquire);
        (!self.is_empty()).then_some(SequenceNumber(last))
    }

    /// True when nothing was inserted, no range tombstone either.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entry_count() == 0 && !self.has_range_deletes()
    }

    /// The newest version of `key` with a number at or below `at`. Range tombstones are not asked.
    #[must_use]
    pub fn get(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        at: SequenceNumber,
    ) -> Option<Version<'_>> {
        let reference = self.tree.get(&Target::new(keyspace, key, at), &self.arena)?;
        let entry = self.arena.entry(reference)?;
        Some(Version { sequence: entry.sequence, operation: entry.operation() })
    }

    /// The highest number at or below `at` of a range tombstone that covers `key`.
    #[must_use]
    pub fn covering_range_delete(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        at: SequenceNumber,
    ) -> Option<SequenceNumber> {
        if !self.has_range_deletes() {
            return None;
        }
        self.range_deletes.load().covering(keyspace, key, at)
    }

    /// True when a range tombstone was inserted.
    #[must_use]
    pub fn has_range_deletes(&self) -> bool {
        self.has_range_deletes.load(Ordering::Acquire)
    }

    /// The range tombstones of this moment.
    #[must_use]
    pub fn range_deletes(&self) -> RangeDeletes {
        RangeDeletes::new(self.range_deletes.load_full())
    }

    /// True when a version above `after` of a key in `[start, end)`, or a range tombstone above
    /// `after` over one, was inserted; no end means that of the keyspace. Complexity: what lies in
    /// the range, in leaves that hold numbers above `after`.
    #[must_use]
    pub fn changed_since(
        &self,
        keyspace: KeyspaceNumber,
        start: &[u8],
        end: Option<&[u8]>,
        after: SequenceNumber,
    ) -> bool {
        if self.last_sequence.load(Ordering::Acquire) <= after.0 {
            return false;
        }
        let range = (start, end);
        self.tree.changed_since(keyspace, range, after, &self.arena)
            || self.has_range_deletes()
                && self.range_deletes.load().changed_since(keyspace, range, after)
    }

    /// The same for one key.
    #[must_use]
    pub fn key_changed_since(
        &self,
        keyspace: KeyspaceNumber,
        key: &[u8],
        after: SequenceNumber,
    ) -> bool {
        if self.last_sequence.load(Ordering::Acquire) <= after.0 {
            return false;
        }
        let newest = self.get(keyspace, key, SequenceNumber::MAX);
        newest.is_some_and(|version| version.sequence > after)
            || self
                .covering_range_delete(keyspace, key, SequenceNumber::MAX)
                .is_some_and(|sequence| sequence > after)
    }

    /// A cursor over all versions of all keys; it has no place yet.
    #[must_use]
    pub fn cursor(self: &Arc<Self>) -> MemtableCursor {
        MemtableCursor::new(Arc::clone(self))
    }
}
