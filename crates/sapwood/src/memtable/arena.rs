//! Where the bytes of entries lie: chunks that are filled from the front and never change behind
//! it.
//!
//! *Guarantees*: A1, a byte below a chunk's published length was written once, before that length
//! was stored, and is never written again while the chunk lives. A2, nobody is given a byte at or
//! above the published length. A3, bytes between the published and the reserved length belong to
//! the one thread that moved the reserved length there. So a reference that is wrong or torn can
//! lead to wrong bytes, but never to undefined behaviour, and the tables above need no `unsafe`.
//! *Threads*: one appends at a time (a second is refused), any number read without locks.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use super::directory::Directory;
use super::entry::{Entry, HEADER_BYTES, encode_header};
use super::pool::ChunkPool;
use super::{Operation, SequenceNumber};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// The size of the chunks that go back and forth between memtables.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// The first chunk is small, so that a database with little in it costs little.
const FIRST_CHUNK_BYTES: usize = 64 << 10;
/// An entry longer than this gets a chunk of its own, so that no chunk is left half empty for it.
const OWN_CHUNK_BYTES: usize = CHUNK_BYTES / 4;

/// The memory of a chunk, by itself.
pub(super) struct ChunkMemory(Box<[MaybeUninit<UnsafeCell<u8>>]>);

impl ChunkMemory {
    pub(super) fn new(bytes: usize) -> ChunkMemory {
        ChunkMemory(Box::new_uninit_slice(bytes))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Memory that is filled from the front.
#[repr(align(64))]
struct Chunk {
    memory: ChunkMemory,
    /// Up to here some thread has taken the memory to write into it.
    reserved: AtomicUsize,
    /// Up to here the bytes are written, for ever.
    published: AtomicUsize,
}

// SAFETY: the cells are only written by `append` (in a stretch that one thread owns, A3) and only
// read by `published` (below the published length, A1 and A2), so no byte is ever written by one
// thread while another can reach it; `published` carries the writes over with Release and Acquire.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn new(memory: ChunkMemory) -> Chunk {
        Chunk { memory, reserved: AtomicUsize::new(0), published: AtomicUsize::new(0) }
    }

    /// The bytes that are written.
    #[inline]
    fn published(&self) -> &[u8] {
        let length = self.published.load(Ordering::Acquire);
        let first = self.memory.0.as_ptr().cast::<u8>();
        // SAFETY: `length` is at most the length of the memory (`append` stores nothing larger);
        // the bytes below it are written (A1), happened before this Acquire load, and are not
        // written again while `self` is borrowed, because the memory leaves a chunk only by value.
        unsafe { std::slice::from_raw_parts(first, length) }
    }

    /// Writes the parts one after the other and gives the offset of the first; nothing when there
    /// is no room, or while another thread appends.
    fn append(&self, parts: [&[u8]; 3]) -> Option<usize> {
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        // Acquire: what an earlier writer thread wrote must be published again by the store below.
        let start = self.published.load(Ordering::Acquire);
        let end = start.checked_add(bytes)?;
        let target = self.memory.0.get(start..end)?;
        self.reserved.compare_exchange(start, end, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        let mut to = target.as_ptr().cast::<u8>().cast_mut();
        for part in parts {
            // SAFETY: `target` is as long as the parts together, so `to` stays inside it. The
            // exchange went from the published length to `end` and neither length ever shrinks, so
            // these bytes are this thread's alone (A3) and no reader has them (A2); being
            // `UnsafeCell`s, they may be written through a shared reference. `part` cannot
            // overlap them: safe code holds no slice of unpublished bytes.
            unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), to, part.len());
                to = to.add(part.len());
            }
        }
        self.published.store(end, Ordering::Release);
        Some(start)
    }
}

/// Where an entry lies: the chunk in the upper half, the offset in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryReference(pub(super) u64);

/// All the chunks of one memtable.
pub(super) struct Arena {
    chunks: Directory<Chunk>,
    pool: Arc<ChunkPool>,
    held_bytes: AtomicUsize,
}

/// What the one writer knows of the arena.
#[derive(Default)]
pub(super) struct ArenaWriter {
    chunk_count: u32,
    /// The chunk that is being filled, if there is one.
    current: Option<u32>,
}

impl Arena {
    pub(super) fn new(pool: Arc<ChunkPool>) -> Arena {
        Arena { chunks: Directory::new(), pool, held_bytes: AtomicUsize::new(0) }
    }

    /// The memory of all chunks.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// The entry that was appended at this reference; nothing when none can be there.
    #[inline]
    pub(super) fn entry(&self, reference: EntryReference) -> Option<Entry<'_>> {
        let chunk = self.chunks.get((reference.0 >> 32) as u32)?;
        Entry::decode(chunk.published().get(reference.0 as u32 as usize..)?)
    }

    /// Brings the front of an entry into the cache: three lines, which hold most entries. What it
    /// gives is of no meaning, except that computing it loads them.
    #[inline]
    pub(super) fn touch(&self, reference: EntryReference) -> u8 {
        let Some(chunk) = self.chunks.get((reference.0 >> 32) as u32) else {
            return 0;
        };
        let (bytes, offset) = (chunk.published(), reference.0 as u32 as usize);
        [0, 64, 128].iter().fold(0, |all, line| all ^ bytes.get(offset + line).unwrap_or(&0))
    }

    /// Stores an entry.
    pub(super) fn append(
        &self,
        writer: &mut ArenaWriter,
        key: &[u8],
        sequence: SequenceNumber,
        operation: Operation<'_>,
    ) -> EntryReference {
        let (header, value) = encode_header(key, sequence, operation);
        let parts = [header.as_slice(), key, value];
        if let Some(index) = writer.current
            && let Some(offset) = self.chunks.get(index).and_then(|chunk| chunk.append(parts))
        {
            return reference(index, offset);
        }
        let bytes = HEADER_BYTES + key.len() + value.len();
        loop {
            let index = self.add_chunk(writer, bytes);
            // A chunk that was just made for these bytes has room for them.
            if let Some(offset) = self.chunks.get(index).and_then(|chunk| chunk.append(parts)) {
                return reference(index, offset);
            }
        }
    }

    /// Adds a chunk in which `bytes` have room.
    fn add_chunk(&self, writer: &mut ArenaWriter, bytes: usize) -> u32 {
        let index = writer.chunk_count;
        let memory = if bytes > OWN_CHUNK_BYTES {
            ChunkMemory::new(bytes)
        } else if index == 0 && bytes <= FIRST_CHUNK_BYTES {
            ChunkMemory::new(FIRST_CHUNK_BYTES)
        } else {
            self.pool.take_memory().unwrap_or_else(|| ChunkMemory::new(CHUNK_BYTES))
        };
        self.held_bytes.fetch_add(memory.len(), Ordering::Relaxed);
        self.chunks.set(index, Chunk::new(memory));
        writer.chunk_count += 1;
        if bytes <= OWN_CHUNK_BYTES {
            writer.current = Some(index);
        }
        index
    }
}

fn reference(chunk_index: u32, offset: usize) -> EntryReference {
    EntryReference(u64::from(chunk_index) << 32 | offset as u64)
}

impl Drop for Arena {
    fn drop(&mut self) {
        for chunk in self.chunks.drain() {
            self.pool.give_memory(chunk.memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena::new(Arc::new(ChunkPool::new(4 * CHUNK_BYTES)))
    }

    #[test]
    fn a_chunk_takes_parts_until_it_is_full_and_shows_only_what_is_written() {
        let chunk = Chunk::new(ChunkMemory::new(10));
        assert_eq!(chunk.published(), b"");
        assert_eq!(chunk.append([b"ab", b"", b"c"]), Some(0));
        assert_eq!(chunk.append([b"", b"defg", b"h"]), Some(3));
        assert_eq!(chunk.append([b"ijk", b"", b""]), None);
        assert_eq!(chunk.published(), b"abcdefgh");
        assert_eq!(chunk.append([b"ij", b"", b""]), Some(8));
        assert_eq!(chunk.append([b"", b"", b""]), Some(10));
        assert_eq!(chunk.published(), b"abcdefghij");
    }

    #[test]
    fn a_second_writer_is_refused_while_one_appends() {
        let chunk = Chunk::new(ChunkMemory::new(10));
        chunk.reserved.store(4, Ordering::Relaxed);
        assert_eq!(chunk.append([b"ab", b"", b""]), None);
        assert_eq!(chunk.published(), b"");
    }

    #[test]
    fn wrong_references_give_nothing() {
        let arena = arena();
        let mut writer = ArenaWriter::default();
        assert!(arena.entry(EntryReference(0)).is_none());
        let good = arena.append(&mut writer, b"k", SequenceNumber(1), Operation::Put(b"v"));
        assert_eq!(arena.entry(good).map(|entry| entry.key), Some(b"k".as_slice()));
        for wrong in [1, 17, 18, 1 << 31, 1 << 32, u64::MAX] {
            assert!(arena.entry(EntryReference(wrong)).is_none(), "{wrong}");
        }
    }

    #[test]
    fn long_entries_get_chunks_of_their_own_and_leave_the_current_one() {
        let arena = arena();
        let mut writer = ArenaWriter::default();
        let mut put = |value: &[u8]| {
            arena.append(&mut writer, b"k", SequenceNumber(1), Operation::Put(value)).0
        };
        assert_eq!(put(b"a"), 0);
        let long = vec![7; 3 * CHUNK_BYTES];
        assert_eq!(put(&long), 1 << 32);
        assert_eq!(put(b"b"), 18);
        assert_eq!(put(&[1; 64 << 10]), 2 << 32);
        assert_eq!(arena.held_bytes(), FIRST_CHUNK_BYTES + CHUNK_BYTES + long.len() + 17);
        let entry = arena.entry(EntryReference(1 << 32)).unwrap();
        assert_eq!(entry.operation(), Operation::Put(&long));
    }

    #[test]
    fn chunks_go_back_to_the_pool_and_start_empty_again() {
        let pool = Arc::new(ChunkPool::new(CHUNK_BYTES));
        for _ in 0..3 {
            let arena = Arena::new(Arc::clone(&pool));
            let mut writer = ArenaWriter::default();
            for _ in 0..40 {
                let value = [9; 60 << 10];
                arena.append(&mut writer, b"k", SequenceNumber(1), Operation::Put(&value));
            }
            let last = writer.current.unwrap();
            assert!(arena.entry(reference(last, CHUNK_BYTES - 20)).is_none());
            drop(arena);
            assert_eq!(pool.bytes(), CHUNK_BYTES);
        }
    }

    #[test]
    fn readers_beside_a_writer_see_only_whole_bytes() {
        let chunk = Chunk::new(ChunkMemory::new(1 << 16));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < 1 << 16 {
                        let bytes = chunk.published();
                        assert!(bytes.len() >= seen && bytes.len().is_multiple_of(8));
                        for (index, word) in bytes.chunks(8).enumerate().skip(seen / 8) {
                            assert_eq!(word, (index as u64).to_le_bytes());
                        }
                        seen = bytes.len();
                    }
                });
            }
            for index in 0..1u64 << 13 {
                let word = index.to_le_bytes();
                assert!(chunk.append([&word[..3], &word[3..], b""]).is_some());
            }
        });
    }
}
