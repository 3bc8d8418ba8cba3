//! Memory that one memtable gave back and the next one takes, without a trip to the allocator.
//!
//! *Guarantees* that at most the given number of bytes waits here.
//! *Threads*: any; the lock is held for a push or a pop.

use super::arena::{CHUNK_BYTES, ChunkMemory};
use super::node::{Leaf, LeafChunk, NODES_PER_CHUNK};
use crate::sync::Mutex;

const LEAF_CHUNK_BYTES: usize = NODES_PER_CHUNK * size_of::<Leaf>();

/// A bounded stock of chunks of full size.
pub struct ChunkPool {
    limit_bytes: usize,
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    memories: Vec<ChunkMemory>,
    leaf_chunks: Vec<LeafChunk>,
}

impl Stock {
    fn bytes(&self) -> usize {
        self.memories.len() * CHUNK_BYTES + self.leaf_chunks.len() * LEAF_CHUNK_BYTES
    }
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
        ChunkPool { limit_bytes, stock: Mutex::default() }
    }

    /// The memory that waits here now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.stock.lock().bytes()
    }

    pub(super) fn take_memory(&self) -> Option<ChunkMemory> {
        self.stock.lock().memories.pop()
    }

    pub(super) fn give_memory(&self, memory: ChunkMemory) {
        // What has no room is dropped after the lock.
        let mut stock = self.stock.lock();
        if memory.len() == CHUNK_BYTES && stock.bytes() + CHUNK_BYTES <= self.limit_bytes {
            stock.memories.push(memory);
        }
    }

    pub(super) fn take_leaves(&self) -> Option<LeafChunk> {
        self.stock.lock().leaf_chunks.pop()
    }

    pub(super) fn give_leaves(&self, leaves: LeafChunk) {
        let mut stock = self.stock.lock();
        let fits = stock.bytes() + LEAF_CHUNK_BYTES <= self.limit_bytes;
        if leaves.len() == NODES_PER_CHUNK && fits {
            stock.leaf_chunks.push(leaves);
        }
    }
}
