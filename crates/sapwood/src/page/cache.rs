//! The cache of verified nodes.
//!
//! *Guarantees*: a frame is found only by page, stamp and checksum together; the bytes held stay
//! within the capacity. A frame that is larger than a shard's part of it is not kept. What somebody
//! else still holds when it goes counts as held by the application.
//! *Threads*: any. A hit costs one short lock of one shard and one clone of an `Arc`.
//!
//! Each shard has two queues that are walked as clocks: a frame enters unused, a hit marks it (up
//! to `USES_MAX` times), and the hand gives a marked frame another round for each mark. A scan's
//! frames are never marked and go first. Nodes that lead to others (parents, and the filters beside
//! them) have a queue of their own and are pinned: none of them goes while they take at most
//! `PINNED_PART` of the capacity, so that a lookup whose leaf is not here reads that leaf alone.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::PageNumber;

use super::block::Block;
use super::budget::{MemoryBudget, MemoryPart};
use super::frame::Frame;
use super::node_header::NodeKind;
use super::node_ref::NodeRef;

const SHARDS_MAX: u64 = 32;
/// A shard for so much of the budget, so that the smallest caches hold large nodes too.
const SHARD_BUDGET_BYTES: u64 = 1 << 20;
const USES_MAX: u8 = 3;
/// The part of the capacity, as a divisor, that pinned frames may take before they give way.
const PINNED_PART: u64 = 2;
/// What the allocator loses between blocks of many sizes that come and go counts as this part of
/// them, as a divisor. (A process with a budget of 64 MiB peaked 6 MiB higher with arenas for each
/// thread than with one for all.)
const ALLOCATOR_PART: u64 = 16;
/// What a cached frame takes beside itself: map entry, queue entry, shared counts.
const ENTRY_BYTES: u64 = 96;

/// Page numbers are spread by one multiplication.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(value ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
}

#[derive(Debug)]
struct Entry {
    frame: Arc<Frame>,
    weight: u64,
    uses: u8,
    /// Which of its queue's entries for this page is the living one.
    ticket: u64,
    pinned: bool,
}

/// Frames in the order in which the hand comes to them.
#[derive(Debug, Default)]
struct Clock {
    /// Pages and tickets; those whose entry is gone or has another ticket count for nothing.
    queue: VecDeque<(u64, u64)>,
    frame_count: usize,
    used_bytes: u64,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<u64, Entry, BuildHasherDefault<PageHasher>>,
    pinned: Clock,
    others: Clock,
    next_ticket: u64,
}

/// True for what leads to other nodes.
fn is_pinned(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::Parent | NodeKind::FilterPiece)
}

/// A block of more pages is looked for among the frames, and not page by page: values are long, and
/// seldom in the cache.
const PAGES_ONE_BY_ONE: u64 = 2048;

impl Shard {
    fn used_bytes(&self) -> u64 {
        self.pinned.used_bytes + self.others.used_bytes
    }

    fn clock(&mut self, pinned: bool) -> &mut Clock {
        if pinned { &mut self.pinned } else { &mut self.others }
    }

    fn take(&mut self, page: u64) -> Option<Arc<Frame>> {
        let entry = self.entries.remove(&page)?;
        let Shard { entries, pinned, others, .. } = self;
        let clock = if entry.pinned { pinned } else { others };
        clock.used_bytes -= entry.weight;
        clock.frame_count -= 1;
        // Entries of the queue whose frame is gone are dropped when they would outnumber the rest.
        if clock.queue.len() > 2 * clock.frame_count + 64 {
            clock.queue.retain(|(page, ticket)| {
                entries.get(page).is_some_and(|entry| entry.ticket == *ticket)
            });
        }
        Some(entry.frame)
    }

    fn put(&mut self, frame: Arc<Frame>, weight: u64) -> Option<Arc<Frame>> {
        let page = frame.page().0;
        let replaced = self.take(page);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let pinned = is_pinned(frame.header().kind);
        self.entries.insert(page, Entry { frame, weight, uses: 0, ticket, pinned });
        let clock = self.clock(pinned);
        clock.queue.push_back((page, ticket));
        clock.frame_count += 1;
        clock.used_bytes += weight;
        replaced
    }

    /// Takes frames out until no more than `capacity` is used; they are dropped by the caller,
    /// outside the lock. `whole` is what the shard may use when nothing is to come.
    fn shrink(&mut self, capacity: u64, whole: u64, gone: &mut Vec<Arc<Frame>>) {
        while self.used_bytes() > capacity {
            let over = self.pinned.used_bytes > whole / PINNED_PART;
            let from_pinned = over || self.others.frame_count == 0;
            let Some((page, ticket)) = self.clock(from_pinned).queue.pop_front() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&page) else {
                continue;
            };
            if entry.ticket != ticket {
                continue;
            }
            if entry.uses > 0 {
                entry.uses -= 1;
                self.clock(from_pinned).queue.push_back((page, ticket));
            } else {
                gone.extend(self.take(page));
            }
        }
    }
}

/// The cache: see the module.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[OrderedMutex<Shard>]>,
    capacity: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    budget: Arc<MemoryBudget>,
}

impl Cache {
    /// An empty cache of the capacity that the budget leaves, which counts there.
    pub fn new(budget: Arc<MemoryBudget>) -> Cache {
        let shard_count = (budget.total() / SHARD_BUDGET_BYTES).clamp(1, SHARDS_MAX);
        Cache {
            shards: (0..shard_count)
                .map(|_| OrderedMutex::new(LockRank::CACHE, Shard::default()))
                .collect(),
            capacity: AtomicU64::new(budget.cache_capacity()),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            budget,
        }
    }

    /// The frame of exactly this node, if it is here.
    pub fn get(&self, reference: &NodeRef) -> Option<Arc<Frame>> {
        let found = {
            let mut shard = self.shard(reference.page.0)?.lock();
            shard.entries.get_mut(&reference.page.0).and_then(|entry| {
                (entry.frame.reference() == *reference).then(|| {
                    entry.uses = (entry.uses + 1).min(USES_MAX);
                    Arc::clone(&entry.frame)
                })
            })
        };
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Puts a frame in, in the place of any other of the same page. It was not in before, unless it
    /// counts elsewhere.
    pub fn insert(&self, frame: Arc<Frame>) {
        let bytes = frame.weight_bytes() as u64;
        let weight = bytes + bytes / ALLOCATOR_PART + ENTRY_BYTES;
        let capacity = self.shard_capacity();
        if weight > capacity {
            self.remove(frame.page());
            return self.let_go([frame]);
        }
        let mut gone = Vec::new();
        let Some(shard) = self.shard(frame.page().0) else { return };
        let mut shard = shard.lock();
        let before = shard.used_bytes();
        // Room is made first, so that a new frame is not the first to go.
        shard.shrink(capacity.saturating_sub(weight), capacity, &mut gone);
        gone.extend(shard.put(frame, weight));
        let after = shard.used_bytes();
        // Under the lock, so that no other thread takes off what was not yet added.
        self.account(before, after);
        drop(shard);
        self.let_go(gone);
    }

    /// Frames that it does not have any more, or will not have: whoever else has them holds them
    /// now.
    fn let_go(&self, gone: impl IntoIterator<Item = Arc<Frame>>) {
        for frame in gone {
            // Nobody comes to have a frame that is out of the cache but from one who has it.
            if Arc::strong_count(&frame) > 1 {
                frame.count_as_held(&self.budget);
            }
        }
    }

    /// Takes out whatever frame begins at this page.
    pub fn remove(&self, page: PageNumber) {
        let Some(shard) = self.shard(page.0) else { return };
        let mut shard = shard.lock();
        let before = shard.used_bytes();
        let gone = shard.take(page.0);
        let after = shard.used_bytes();
        self.account(before, after);
        drop(shard);
        self.let_go(gone);
    }

    /// Takes out all frames that begin in a block. Complexity: of the pages of the block, or of the
    /// frames that there are, whichever are fewer, about.
    pub fn remove_in(&self, block: Block) {
        let pages = block.first.0..block.end().0;
        if pages.end - pages.start <= PAGES_ONE_BY_ONE {
            pages.for_each(|page| self.remove(PageNumber(page)));
            return;
        }
        for shard in &*self.shards {
            let mut shard = shard.lock();
            let within: Vec<u64> =
                shard.entries.keys().filter(|page| pages.contains(page)).copied().collect();
            let before = shard.used_bytes();
            let gone: Vec<_> = within.into_iter().filter_map(|page| shard.take(page)).collect();
            let after = shard.used_bytes();
            self.account(before, after);
            drop(shard);
            self.let_go(gone);
        }
    }

    /// Takes everything out.
    pub fn clear(&self) {
        self.shrink_all(0);
    }

    /// The capacity, in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Changes the capacity, and takes out at once what does not fit any more.
    pub fn set_capacity(&self, bytes: u64) {
        let before = self.capacity.swap(bytes, Ordering::Relaxed);
        if bytes < before {
            self.shrink_all(self.shard_capacity());
        }
    }

    /// What the frames take, in bytes.
    pub fn used(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().used_bytes()).sum()
    }

    /// What pinned frames take of that, in bytes.
    pub fn pinned(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().pinned.used_bytes).sum()
    }

    /// How often a node was found.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How often a node was not found.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }

    fn shrink_all(&self, shard_capacity: u64) {
        for shard in self.shards.iter() {
            let mut gone = Vec::new();
            let mut shard = shard.lock();
            let before = shard.used_bytes();
            shard.shrink(shard_capacity, shard_capacity, &mut gone);
            let after = shard.used_bytes();
            self.account(before, after);
            drop(shard);
            self.let_go(gone);
        }
    }

    fn account(&self, before: u64, after: u64) {
        if after > before {
            self.budget.add(MemoryPart::Cache, after - before);
        } else if before > after {
            self.budget.sub(MemoryPart::Cache, before - after);
        }
    }

    fn shard_capacity(&self) -> u64 {
        self.capacity() / self.shards.len() as u64
    }

    /// There is a shard for every page.
    fn shard(&self, page: u64) -> Option<&OrderedMutex<Shard>> {
        let mut hasher = PageHasher::default();
        hasher.write_u64(page);
        // The map's buckets go by other bits of the hash than the shards.
        let shard_index = (hasher.finish() >> 32) as usize % self.shards.len();
        self.shards.get(shard_index)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.clear();
    }
}
