//! Memory that one memtable gave back and the next one takes, without a trip to the allocator.
//!
//! *Guarantees* that at most the given number of bytes waits here.
//! *Threads*: any; the lock is held for a push or a pop.

use super::arena::{ChunkMemory, FIRST_CHUNK_BYTES};
use super::node::{Leaf, LeafChunk, NODES_PER_CHUNK};
use crate::sync::Mutex;

/// A chunk takes this part of the pool, between the first chunk of an arena and `CHUNK_BYTES_MAX`.
/// The pool keeps half of a memtable, so a sixteenth of one at most is empty when it is sealed.
const CHUNK_PART: usize = 8;
/// From here on larger chunks spare nothing.
const CHUNK_BYTES_MAX: usize = 1 << 20;
const LEAF_CHUNK_BYTES: usize = NODES_PER_CHUNK * size_of::<Leaf>();

/// A bounded stock of chunks of full size.
pub struct ChunkPool {
    limit_bytes: usize,
    chunk_bytes: usize,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    memories: Vec<ChunkMemory>,
    leaf_chunks: Vec<LeafChunk>,
}

impl std::fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkPool").field("limit_bytes", &self.limit_bytes).finish_non_exhaustive()
    }
}

impl ChunkPool {
    /// An empty pool that keeps at most `limit_bytes`; what comes beyond goes to the allocator.
    #[must_use]
    pub fn new(limit_bytes: usize) -> ChunkPool {
        let part = (limit_bytes / CHUNK_PART).clamp(FIRST_CHUNK_BYTES, CHUNK_BYTES_MAX);
        ChunkPool { limit_bytes, chunk_bytes: 1 << part.ilog2(), stock: Mutex::default() }
    }

    /// The size of an arena's chunks, but for its first and those of long entries: a power of two.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// The memory that waits here now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes_of(&self.stock.lock())
    }

    fn bytes_of(&self, stock: &Stock) -> usize {
        stock.memories.len() * self.chunk_bytes + stock.leaf_chunks.len() * LEAF_CHUNK_BYTES
    }

    pub(super) fn take_memory(&self) -> Option<ChunkMemory> {
        self.stock.lock().memories.pop()
    }

    pub(super) fn give_memory(&self, memory: ChunkMemory) {
        // What has no room is dropped after the lock.
        let mut stock = self.stock.lock();
        let fits = self.bytes_of(&stock) + self.chunk_bytes <= self.limit_bytes;
        if memory.len() == self.chunk_bytes && fits {
            stock.memories.push(memory);
        }
    }

    pub(super) fn take_leaves(&self) -> Option<LeafChunk> {
        self.stock.lock().leaf_chunks.pop()
    }

    pub(super) fn give_leaves(&self, leaves: LeafChunk) {
        let mut stock = self.stock.lock();
        let fits = self.bytes_of(&stock) + LEAF_CHUNK_BYTES <= self.limit_bytes;
        if leaves.len() == NODES_PER_CHUNK && fits {
            stock.leaf_chunks.push(leaves);
        }
    }
}
