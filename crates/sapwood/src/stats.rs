//! What the engine holds and has done, in numbers.

use std::fmt;
use std::time::Duration;

use crate::log::writer::LogCounters;
use crate::merge::debt::Debt;
use crate::page::{MemoryPart, NodeKind, PageCounters};
use crate::segment::descriptor::Segment;
use crate::state::held_snapshots::HeldSnapshot;
use crate::state::open_transactions::KeptFor;
use crate::state::{Core, Levels};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread::ThreadId;
use crate::types::{Epoch, KeyspaceNumber, SequenceNumber};

/// Numbers about a database, as of one moment; counts are since the open. `Display` writes them as
/// a table.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// db.keyspace("a")?.put("key", "value")?;
/// let stats = db.stats()?;
/// assert_eq!(stats.keyspaces.len(), 1);
/// assert!(stats.file_bytes > 0);
/// println!("{stats}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// The newest visible commit.
    pub visible: SequenceNumber,
    /// The number of the current state.
    pub epoch: Epoch,
    /// True when an earlier failure has stopped all writing.
    pub stopped: bool,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of free pages in it.
    pub free_bytes: u64,
    /// Bytes of the longest run of free pages.
    pub longest_free_run_bytes: u64,
    /// Young segments.
    pub young_segments: u64,
    /// Bytes of their pages.
    pub young_bytes: u64,
    /// What each keyspace has below the young segments, by name.
    pub keyspaces: Vec<KeyspaceStats>,
    /// Older states that snapshots, iterators or durable states hold.
    pub held_states: u64,
    /// Bytes of blocks that only those use.
    pub held_bytes: u64,
    /// Bytes of the file that lists of those blocks take, when they are long.
    pub held_list_bytes: u64,
    /// Snapshots that are held, the oldest first: also those of iterators, cursors and
    /// transactions.
    pub snapshots: Vec<SnapshotStats>,
    /// Transactions that are open, the oldest first.
    pub transactions: Vec<TransactionStats>,
    /// The memory budget, in bytes.
    pub memory_budget_bytes: u64,
    /// How it is used.
    pub memory: MemoryStats,
    /// Commits.
    pub commits: u64,
    /// Bytes of keys and values committed.
    pub user_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Promotion steps.
    pub promotions: u64,
    /// States made durable.
    pub durable_states: u64,
    /// How far flushes and merges are behind.
    pub debt: DebtStats,
    /// Waits of writers: for merging, for a flush, for room in the log. One commit may wait more
    /// than once.
    pub stalls: u64,
    /// Time that writers were slowed, in microseconds.
    pub slowed_microseconds: u64,
    /// Bytes of log records that wait to be flushed, and what is not on disk yet.
    pub log: LogStats,
    /// Syncs of the file, and how long they took.
    pub syncs: SyncStats,
    /// Bytes read from the file.
    pub read_bytes: u64,
    /// Bytes written to the file, the log included.
    pub written_bytes: u64,
    /// The same by what they are.
    pub written: WrittenStats,
    /// Nodes found in memory.
    pub cache_hits: u64,
    /// Nodes that were not.
    pub cache_misses: u64,
    /// How many of these were read in place, in the memory map.
    pub nodes_in_place: u64,
}

/// What one keyspace has below the young segments.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// db.flush()?;
/// assert_eq!(db.stats()?.keyspaces[0].name, "fruit");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// Its number, by which [`Corruption`](crate::Corruption) and findings of a check name it.
    pub number: KeyspaceNumber,
    /// Its levels, from the top.
    pub levels: Vec<LevelStats>,
}

/// One level of a keyspace.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// db.compact()?;
/// let stats = db.stats()?;
/// let entries = stats.keyspaces[0].levels.iter().map(|level| level.entries);
/// assert_eq!(entries.sum::<u64>(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// Its segments.
    pub segments: u64,
    /// Their entries, tombstones and what has moved on included.
    pub entries: u64,
    /// Bytes of their pages.
    pub bytes: u64,
}

/// What was written to the file since the open, in bytes.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// db.flush()?;
/// assert!(db.stats()?.written.total() > 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenStats {
    /// Log records. What is synced with the next record, after it was written once, counts twice.
    pub log: u64,
    /// Leaves of segments.
    pub leaves: u64,
    /// Parents of segments, and the lists that stand beside the lowest of them.
    pub parents: u64,
    /// Filters of segments.
    pub filters: u64,
    /// Values that have blocks of their own.
    pub overflow: u64,
    /// Durable states, free maps included.
    pub states: u64,
}

impl WrittenStats {
    fn gather(pages: &PageCounters, log: &LogCounters) -> WrittenStats {
        let mut written = WrittenStats {
            log: log.written_bytes,
            overflow: pages.stream_bytes_written,
            ..WrittenStats::default()
        };
        for (kind, bytes) in NodeKind::ALL.iter().zip(pages.node_bytes_written) {
            let part = match kind {
                NodeKind::Leaf => &mut written.leaves,
                NodeKind::Parent | NodeKind::OverflowList | NodeKind::Dictionary => {
                    &mut written.parents
                }
                NodeKind::FilterPiece | NodeKind::YoungFilter => &mut written.filters,
                NodeKind::OverflowValue => &mut written.overflow,
                NodeKind::State | NodeKind::FreeMap | NodeKind::SpilledList => &mut written.states,
            };
            *part += bytes;
        }
        written
    }

    /// Leaves, parents and filters: what flushes and merges have written.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// db.flush()?;
    /// assert!(db.stats()?.written.segments() > 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.leaves + self.parents + self.filters
    }

    /// All of it.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// let written = db.stats()?.written;
    /// assert!(written.total() >= written.segments());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn total(&self) -> u64 {
        self.log + self.segments() + self.overflow + self.states
    }
}

/// One open transaction.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let transaction = db.begin(sapwood::Isolation::Serializable)?;
/// for open in db.stats()?.transactions {
///     println!("since {:?}: {} bytes are kept", open.age, open.kept_bytes);
/// }
/// # drop(transaction);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionStats {
    /// The last commit that it sees.
    pub sequence: SequenceNumber,
    /// How long ago it began.
    pub age: Duration,
    /// Bytes of the file that are kept for its commit to look for conflicts in, and are dead but
    /// for that. Transactions that began later may need a part of them too.
    pub kept_bytes: u64,
    /// So much was kept that it was let go: its commit will fail with
    /// [`Error::Conflict`](crate::Error::Conflict). See
    /// [`Builder::max_transaction_history_bytes`](crate::Builder::max_transaction_history_bytes).
    pub given_up: bool,
}

/// One snapshot that is held, by whoever took it or by an iterator, cursor or transaction.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let snapshot = db.snapshot()?;
/// for held in db.stats()?.snapshots {
///     println!("for {:?}, by {:?}: keeps {} bytes", held.age, held.thread, held.alone_bytes);
/// }
/// # drop(snapshot);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotStats {
    /// The last commit that it sees.
    pub sequence: SequenceNumber,
    /// How long ago it was taken.
    pub age: Duration,
    /// The thread that took it.
    pub thread: ThreadId,
    /// Bytes of the file that it alone keeps: they would be free if it went and nothing else did.
    /// What several keep together is in [`Stats::held_bytes`] only.
    pub alone_bytes: u64,
}

/// How the memory budget is used, and what the application holds beside it, in bytes.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// assert!(db.stats()?.memory.memtables > 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryStats {
    /// Memtables, with those that wait for their flush, and memory kept for the next ones.
    pub memtables: u64,
    /// Cached nodes.
    pub cache: u64,
    /// Of those the parents, and the filters beside them: they are pinned, as long as they take no
    /// more than half of what the cache may have.
    pub pinned_parents: u64,
    /// Filters that stay in memory.
    pub filters: u64,
    /// Buffers of merges, and of values that are written as streams.
    pub merge_buffers: u64,
    /// Compression contexts. All databases of a process share them: each counts for the one that
    /// used it last.
    pub compression: u64,
    /// Free maps.
    pub free_maps: u64,
    /// What serializable transactions have read.
    pub read_sets: u64,
    /// Writes of open transactions that lie in memory.
    pub pending_writes: u64,
    /// Lists of dead blocks.
    pub dead_lists: u64,
    /// States: what they know of keyspaces and segments. What snapshots, cursors and transactions
    /// keep of older ones counts for the application.
    pub states: u64,
    /// Everything else, such as what is listed of the newest commits while large transactions are
    /// validated.
    pub other: u64,
    /// No part of the budget: what handles of the application keep in memory. Nodes that the cache
    /// has let go, or never had, and values, iterators or cursors still hold; entries that
    /// iterators and cursors have read ahead, and writes that those of a transaction see and the
    /// transaction itself has let go; pieces of values that are read as streams; the writes of
    /// batches; and what states that the database no longer needs know of keyspaces and segments.
    /// Copies that were handed out are the application's alone, and are not known here: keys, and
    /// values that are short or lie in blocks of their own.
    pub held_by_application: u64,
}

/// The log.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// # for name in ["apple", "fig", "plum"] {
/// #     fruit.put(name, "ripe")?;
/// # }
/// println!("{:?}", db.stats()?.log);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Bytes of records behind the cut of the current state.
    pub unflushed_bytes: u64,
    /// Bytes that are not known to be on disk yet.
    pub unsynced_bytes: u64,
    /// Bytes that can be appended before space must be made.
    pub available_bytes: u64,
}

/// How far flushes and merges are behind: each part is 0 when they keep up, and 1 when they are as
/// far behind as they may be.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// let debt = db.stats()?.debt;
/// assert_eq!(debt.felt, 0.0, "nothing was written yet");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct DebtStats {
    /// Memtables that wait for their flush.
    pub memory: f64,
    /// Young segments that wait to be merged.
    pub young: f64,
    /// Segments above the last level that wait to be merged into it.
    pub above: f64,
    /// The largest of these, which is what writers feel: above one half their commits are slowed
    /// (with merge threads), from 1 on they wait for steps.
    pub felt: f64,
}

impl DebtStats {
    fn gather(core: &Core) -> DebtStats {
        let (bytes, bytes_max) = (core.memtable_bytes(), core.memtable_bytes_max());
        let debt = Debt::of(core.backlog(), bytes, bytes_max);
        let Debt { memory, young, above } = debt;
        DebtStats { memory, young, above, felt: debt.felt() }
    }
}

/// Syncs of the file, calls that wait for the device: of the log, which commits may share, of
/// large values and transactions, and of durable states.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// # let fruit = db.keyspace("fruit")?;
/// let before = db.stats()?.syncs.count;
/// fruit.put("fig", "sweet")?;
/// let syncs = db.stats()?.syncs;
/// assert!(syncs.count > before);
/// assert!(syncs.longest_microseconds <= syncs.microseconds);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncStats {
    /// How many there were.
    pub count: u64,
    /// How long they took together, in microseconds.
    pub microseconds: u64,
    /// How long the longest took, in microseconds.
    pub longest_microseconds: u64,
}

impl SyncStats {
    fn gather(core: &Core) -> SyncStats {
        let counts = core.sync_gate.counts();
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        SyncStats {
            count: counts.count,
            microseconds: microseconds(counts.total),
            longest_microseconds: microseconds(counts.longest),
        }
    }
}

fn level(level: &[Arc<Segment>], page_bytes: u64) -> LevelStats {
    LevelStats {
        segments: level.len() as u64,
        entries: level.iter().map(|segment| segment.entries()).sum(),
        // What a state says of pages is no more than numbers hold; of bytes it may be.
        bytes: level.iter().map(|segment| segment.pages()).sum::<u64>().saturating_mul(page_bytes),
    }
}

fn levels(levels: &Levels, page_bytes: u64) -> Vec<LevelStats> {
    levels.levels.iter().map(|segments| level(segments, page_bytes)).collect()
}

impl Stats {
    pub(crate) fn gather(core: &Core) -> Stats {
        // Of what has ended nothing is to be seen.
        core.collect_released();
        let mut stats = Stats {
            visible: core.visible(),
            stopped: core.has_stopped(),
            memory_budget_bytes: core.pages.budget().total(),
            ..Stats::default()
        };
        stats.gather_state(core);
        stats.gather_file(core);
        stats.gather_counters(core);
        stats.gather_memory(core);
        stats
    }

    fn gather_state(&mut self, core: &Core) {
        let page_bytes = u64::from(core.pages.layout().page_size);
        let state = core.state();
        self.epoch = state.epoch;
        let young = level(&state.young, page_bytes);
        (self.young_segments, self.young_bytes) = (young.segments, young.bytes);
        let catalogue = core.visible_catalogue();
        let live = catalogue.iter().filter(|(_, entry)| !entry.dropped);
        self.keyspaces = live
            .map(|(number, entry)| KeyspaceStats {
                name: entry.name.clone(),
                number,
                levels: state.levels_of(number).map_or_else(Vec::new, |l| levels(l, page_bytes)),
            })
            .collect();
        self.keyspaces.sort_by(|a, b| a.name.cmp(&b.name));
        let log = core.log.positions();
        self.log = LogStats {
            unflushed_bytes: log.end.0.saturating_sub(state.cut.position.0),
            unsynced_bytes: log.end.0.saturating_sub(log.durable.0),
            available_bytes: core.log.available(),
        };
    }

    fn gather_file(&mut self, core: &Core) {
        let page_bytes = u64::from(core.pages.layout().page_size);
        let allocator = core.pages.allocator().stats();
        self.file_bytes = allocator.file_pages * page_bytes;
        self.free_bytes = allocator.free_pages * page_bytes;
        self.longest_free_run_bytes = allocator.longest_free_run * page_bytes;
        let held = core.held.stats();
        self.held_states = held.states;
        self.held_bytes = held.pages * page_bytes;
        self.held_list_bytes = held.list_pages * page_bytes;
        let now = core.clock.now();
        let snapshot = |held: HeldSnapshot| SnapshotStats {
            sequence: held.number,
            age: now.saturating_sub(held.since),
            thread: held.by,
            alone_bytes: held.pages_alone * page_bytes,
        };
        self.snapshots = core.snapshots.held(core).into_iter().map(snapshot).collect();
        let transaction = |kept: KeptFor| TransactionStats {
            sequence: kept.began,
            age: now.saturating_sub(kept.since),
            kept_bytes: kept.pages * page_bytes,
            given_up: kept.given_up,
        };
        self.transactions = core.transactions.kept().into_iter().map(transaction).collect();
        let pages = core.pages.counters();
        self.read_bytes = pages.bytes_read;
        self.written = WrittenStats::gather(&pages, &core.log.counters());
        self.written_bytes = self.written.total();
        self.cache_hits = pages.cache_hits;
        self.cache_misses = pages.cache_misses;
        self.nodes_in_place = pages.nodes_in_place;
    }

    fn gather_counters(&mut self, core: &Core) {
        let counters = &core.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.commits = load(&counters.commits);
        self.user_bytes = load(&counters.user_bytes);
        self.flushes = load(&counters.flushes);
        self.promotions = load(&counters.promotions);
        self.durable_states = load(&counters.durable_states);
        self.stalls = load(&counters.stalls);
        self.slowed_microseconds = load(&counters.slowed_microseconds);
        self.debt = DebtStats::gather(core);
        self.syncs = SyncStats::gather(core);
    }

    fn gather_memory(&mut self, core: &Core) {
        let part = |part| core.pages.budget().part(part);
        self.memory = MemoryStats {
            memtables: (core.memtable_bytes() + core.pool.bytes()) as u64,
            cache: part(MemoryPart::Cache),
            pinned_parents: core.pages.cache().pinned(),
            filters: part(MemoryPart::Filters),
            merge_buffers: part(MemoryPart::MergeBuffers),
            compression: part(MemoryPart::Compression),
            free_maps: part(MemoryPart::FreeMaps),
            read_sets: part(MemoryPart::ReadSets),
            pending_writes: part(MemoryPart::PendingWrites),
            dead_lists: part(MemoryPart::DeadLists),
            states: part(MemoryPart::States),
            other: part(MemoryPart::Other),
            held_by_application: core.pages.budget().held_by_application(),
        };
    }

    fn rows(&self) -> [(&'static str, u64); 51] {
        let memory = &self.memory;
        // What the oldest one needs is all that is kept.
        let kept_bytes = self.transactions.iter().map(|transaction| transaction.kept_bytes);
        let alone_bytes = self.snapshots.iter().map(|snapshot| snapshot.alone_bytes);
        let oldest = self.snapshots.first().map_or(0, |snapshot| snapshot.age.as_secs());
        [
            ("newest commit", self.visible.0),
            ("current state", self.epoch.0),
            ("file, bytes", self.file_bytes),
            ("  free", self.free_bytes),
            ("  longest free run", self.longest_free_run_bytes),
            ("young segments", self.young_segments),
            ("  bytes", self.young_bytes),
            ("held states", self.held_states),
            ("  bytes", self.held_bytes),
            ("  bytes of their lists", self.held_list_bytes),
            ("held snapshots", self.snapshots.len() as u64),
            ("  seconds of the oldest", oldest),
            ("  bytes one alone keeps", alone_bytes.max().unwrap_or(0)),
            ("open transactions", self.transactions.len() as u64),
            ("  bytes kept for them", kept_bytes.max().unwrap_or(0)),
            ("memory budget, bytes", self.memory_budget_bytes),
            ("  memtables", memory.memtables),
            ("  cache", memory.cache),
            ("    pinned parents", memory.pinned_parents),
            ("  filters", memory.filters),
            ("  merge buffers", memory.merge_buffers),
            ("  compression", memory.compression),
            ("  free maps", memory.free_maps),
            ("  read sets", memory.read_sets),
            ("  pending writes", memory.pending_writes),
            ("  dead lists", memory.dead_lists),
            ("  states", memory.states),
            ("  other", memory.other),
            ("held by application", memory.held_by_application),
            ("commits", self.commits),
            ("  bytes", self.user_bytes),
            ("flushes", self.flushes),
            ("promotion steps", self.promotions),
            ("durable states", self.durable_states),
            ("stalls", self.stalls),
            ("slowed, microseconds", self.slowed_microseconds),
            ("log, bytes to flush", self.log.unflushed_bytes),
            ("  to sync", self.log.unsynced_bytes),
            ("  available", self.log.available_bytes),
            ("syncs", self.syncs.count),
            ("  microseconds", self.syncs.microseconds),
            ("  of the longest", self.syncs.longest_microseconds),
            ("bytes read", self.read_bytes),
            ("nodes read in place", self.nodes_in_place),
            ("bytes written", self.written_bytes),
            ("  log", self.written.log),
            ("  leaves", self.written.leaves),
            ("  parents", self.written.parents),
            ("  filters", self.written.filters),
            ("  overflow", self.written.overflow),
            ("  states", self.written.states),
        ]
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, number) in self.rows() {
            writeln!(f, "{name:<24}{number:>20}")?;
        }
        let asked = self.cache_hits + self.cache_misses;
        let share = if asked == 0 { 0.0 } else { self.cache_hits as f64 * 100.0 / asked as f64 };
        writeln!(f, "{:<24}{share:>18.1} %", "cache hits")?;
        let DebtStats { memory, young, above, felt } = self.debt;
        let parts = [("debt", felt), ("  memory", memory), ("  young", young), ("  above", above)];
        for (name, part) in parts {
            writeln!(f, "{name:<24}{:>18.1} %", part * 100.0)?;
        }
        for keyspace in &self.keyspaces {
            writeln!(f, "keyspace {:?}, number {}", keyspace.name, keyspace.number)?;
            for (level, index) in keyspace.levels.iter().zip(1..) {
                let name = format!("  level {index}, {} segments", level.segments);
                let LevelStats { entries, bytes, .. } = level;
                writeln!(f, "{name:<24}{bytes:>20} bytes {entries:>20} entries")?;
            }
        }
        if self.stopped {
            writeln!(f, "writing has stopped after a failure")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Counted, NodeRef};
    use crate::segment::descriptor::TreeRoot;
    use crate::segment::segment_filter::SegmentFilter;
    use crate::types::PageNumber;

    /// A file may say of a segment that it has as many pages as a number holds.
    #[test]
    fn bytes_of_segments_are_as_many_as_a_number_holds_at_most() {
        let root = |pages| TreeRoot {
            reference: NodeRef { page: PageNumber(9), pages: 1, stamp: 0, checksum: 0 },
            height: 1,
            birth: Epoch(1),
            entries: 5,
            tombstones: 0,
            pages,
            leaves: 1,
        };
        let segment = |pages| {
            Arc::new(Segment {
                number: 1,
                points: Some(root(pages)),
                ranges: None,
                filter: SegmentFilter::new(1, Vec::new()),
                bounds: None,
                sequences: None,
                promoted: Arc::default(),
                keyspaces: Arc::default(),
                counted: Counted::default(),
            })
        };
        let of = |pages| level(&[segment(pages), segment(pages)], 4096);
        assert_eq!((of(3).bytes, of(3).entries), (6 * 4096, 10));
        assert_eq!(of(1 << 61).bytes, u64::MAX);
    }
}
