//! Writes a value whose length is not known beforehand into blocks of its own, piece by piece.
//!
//! *Assumes*: the pages may be written to; the caller syncs.
//! *Guarantees*: holds one chunk and one write's bytes in memory, whatever the value's length. What
//! is not finished gives its blocks back when it is dropped, after an error too.
//! *Format*: docs/format.md, section 4.5: the table lies behind the chunks. *Threads*: one owner.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::overflow::{CHUNK_BYTES, COMPRESSED, blocks_max, chunk_crc, too_many_pieces};
use super::overflow_reference::OverflowReference;
use crate::error::{Error, Result};
use crate::page::compress::compress;
use crate::page::layout::NODE_HEADER_BYTES;
use crate::page::node_image::node_checksum;
use crate::page::stream::stream_capacity;
use crate::page::{Block, Charge, Codec, MemoryPart, NodeHeader, NodeKind, PageManager};
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

/// The most bytes of the file that one call writes, so that nobody's sync waits long for them.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// The first block, in bytes; each further one is as long as all before it.
const FIRST_BLOCK_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct OverflowWriter {
    pages: Arc<PageManager>,
    keyspace: KeyspaceNumber,
    codec: Codec,
    /// Taken for the first chunk.
    stamp: Option<u32>,
    /// In the order of the stream.
    blocks: Vec<Block>,
    /// So many pages of the file stay free.
    kept_free: u64,
    /// The length of the first block, in pages.
    first_pages: u64,
    /// What the blocks hold, in bytes of the stream.
    capacity: u64,
    table: Vec<u8>,
    chunk_count: u32,
    /// The value's length so far.
    length: u64,
    /// Bytes of a chunk that is not full.
    chunk: Vec<u8>,
    compressed: Vec<u8>,
    /// Whole pages and a rest that are not written yet, and where they begin in the stream.
    buffer: Vec<u8>,
    offset: u64,
    charge: Charge,
}

impl OverflowWriter {
    /// A writer of a value of `keyspace`.
    pub fn new(pages: &Arc<PageManager>, keyspace: KeyspaceNumber, codec: Codec) -> OverflowWriter {
        let page_size = u64::from(pages.layout().page_size);
        OverflowWriter {
            first_pages: FIRST_BLOCK_BYTES.checked_div(page_size).unwrap_or(1),
            kept_free: 0,
            stamp: None,
            pages: pages.clone(),
            keyspace,
            codec,
            blocks: Vec::new(),
            capacity: 0,
            table: Vec::new(),
            chunk_count: 0,
            length: 0,
            chunk: Vec::new(),
            compressed: Vec::new(),
            buffer: Vec::new(),
            offset: 0,
            charge: pages.budget().charge(MemoryPart::MergeBuffers, 0),
        }
    }

    /// The value will take about so many pages: they are taken in one piece where there is one.
    #[must_use]
    pub fn expect_pages(mut self, pages: u64) -> OverflowWriter {
        self.first_pages = pages.max(1);
        self
    }

    /// From now on it leaves so many pages of the file free.
    pub fn leave_free(&mut self, pages: u64) {
        self.kept_free = pages;
    }

    /// The length of what was pushed, in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True before the first byte.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What it has written to and will write to.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Gives up; its blocks are the caller's now.
    pub fn into_blocks(mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }

    /// Adds bytes to the value's end.
    ///
    /// # Errors
    /// When no pages can be had, or a write fails; then nothing more can be done with it.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.length = self.length.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() >= CHUNK_BYTES {
                self.end_chunk()?;
            }
        }
        let buffers = [&self.chunk, &self.compressed, &self.buffer, &self.table];
        let bytes: usize = buffers.iter().map(|buffer| buffer.capacity()).sum();
        self.charge.set(bytes as u64);
        Ok(())
    }

    /// Writes what is left and the table. The value has at least one byte; its reference has no
    /// birth yet, and its blocks are the caller's now.
    ///
    /// # Errors
    /// As [`OverflowWriter::push`].
    pub fn finish(mut self) -> Result<OverflowReference> {
        assert!(self.length > 0, "a value of no bytes needs no blocks");
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        let stamp = self.take_stamp()?;
        let table_offset = self.offset.saturating_add(self.buffer.len() as u64);
        let table_bytes = u32::try_from(self.table.len()).map_err(|_| self.too_large())?;
        // The header names the first block's page, which the chunks have taken already unless they
        // are all in the buffer still.
        self.make_room(table_offset.saturating_add(NODE_HEADER_BYTES as u64))?;
        let header = NodeHeader {
            kind: NodeKind::OverflowValue,
            height: 0,
            flags: 0,
            page: self.blocks.first().map(|block| block.first).unwrap_or_default(),
            stamp,
            keyspace: self.keyspace,
            stored_bytes: table_bytes,
            raw_bytes: table_bytes,
        };
        let checksum = node_checksum(self.pages.layout(), &header, &self.table);
        self.store(&header.encode(checksum))?;
        let table = std::mem::take(&mut self.table);
        self.store(&table)?;
        let usable = self.pages.layout().usable_bytes();
        let whole = self.buffer.len().next_multiple_of(usable);
        self.buffer.resize(whole, 0);
        self.write()?;
        self.trim();
        let blocks = std::mem::take(&mut self.blocks);
        let length = self.length;
        Ok(OverflowReference { length, stamp, checksum, table_offset, birth: Epoch(0), blocks })
    }

    fn take_stamp(&mut self) -> Result<u32> {
        let stamp = self.stamp.map_or_else(|| self.pages.next_stamp(), Ok)?;
        self.stamp = Some(stamp);
        Ok(stamp)
    }

    fn end_chunk(&mut self) -> Result<()> {
        let stamp = self.take_stamp()?;
        let raw = std::mem::take(&mut self.chunk);
        let mut compressed = std::mem::take(&mut self.compressed);
        compressed.clear();
        // Reading a chunk that hardly shrinks costs more than the place that it saves.
        let worth = self.pages.layout().usable_bytes();
        let counted_in = Some(self.pages.budget());
        let shrinks = compress(self.codec, &raw, &mut compressed, counted_in)?
            && compressed.len().saturating_add(worth) <= raw.len();
        let (stored, flag) = if shrinks { (&compressed, COMPRESSED) } else { (&raw, 0) };
        // At most CHUNK_BYTES, so that bit 31 is free.
        self.table.extend_from_slice(&(stored.len() as u32 | flag).to_le_bytes());
        let crc = chunk_crc(self.pages.layout(), stamp, self.chunk_count, stored);
        self.table.extend_from_slice(&crc.to_le_bytes());
        self.chunk_count = self.chunk_count.checked_add(1).ok_or_else(|| self.too_large())?;
        self.store(stored)?;
        (self.chunk, self.compressed) = (raw, compressed);
        self.chunk.clear();
        Ok(())
    }

    /// Adds bytes to the stream.
    fn store(&mut self, mut bytes: &[u8]) -> Result<()> {
        let layout = self.pages.layout();
        let piece_pages = WRITE_BYTES_MAX.checked_div(layout.page_size as usize).unwrap_or(1);
        let piece_bytes = layout.usable_bytes().saturating_mul(piece_pages.max(1));
        while !bytes.is_empty() {
            let room = piece_bytes.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= piece_bytes {
                self.write()?;
            }
        }
        Ok(())
    }

    /// Writes the buffer, which is whole pages.
    fn write(&mut self) -> Result<()> {
        let end = self.offset.saturating_add(self.buffer.len() as u64);
        self.make_room(end)?;
        self.pages.write_stream(&self.blocks, self.offset, &self.buffer, false)?;
        self.offset = end;
        self.buffer.clear();
        Ok(())
    }

    /// Takes blocks until the stream can reach `end`.
    fn make_room(&mut self, end: u64) -> Result<()> {
        let layout = *self.pages.layout();
        while let Some(missing) = end.checked_sub(self.capacity).filter(|bytes| *bytes > 0) {
            if self.blocks.len() >= blocks_max(&layout) {
                return Err(too_many_pieces(&self.pages));
            }
            let missing = layout.pages_for(usize::try_from(missing).unwrap_or(0));
            let so_far = self.blocks.iter().map(|block| u64::from(block.pages)).sum::<u64>();
            let wanted = so_far.max(self.first_pages).max(u64::from(missing));
            let wanted = wanted.min(u64::from(layout.block_pages_max())) as u32;
            let block = self.take_block(wanted)?;
            self.blocks.push(block);
            self.capacity = stream_capacity(&layout, &self.blocks);
        }
        Ok(())
    }

    /// A block of about `wanted` pages: shorter ones when the file cannot grow any more.
    fn take_block(&self, wanted: u32) -> Result<Block> {
        let mut least = wanted.div_ceil(4);
        loop {
            let allocator = self.pages.allocator();
            match allocator.allocate_block_beside(self.kept_free, least, wanted) {
                Err(error) if error.is_no_space() && least > 1 => least = least.div_ceil(2),
                result => return result,
            }
        }
    }

    /// Gives the pages back that lie behind the end of the stream.
    fn trim(&mut self) {
        let usable = self.pages.layout().usable_bytes() as u64;
        let mut needed = self.offset.div_ceil(usable.max(1));
        let mut kept = Vec::new();
        for block in self.blocks.drain(..) {
            let here = u32::try_from(needed.min(u64::from(block.pages))).unwrap_or(block.pages);
            needed = needed.saturating_sub(u64::from(here));
            if here > 0 {
                kept.push(Block { first: block.first, pages: here });
            }
            if let Some(rest) = block.pages.checked_sub(here).filter(|rest| *rest > 0) {
                let first = block.first.0.saturating_add(u64::from(here));
                self.pages.free(Block { first: PageNumber(first), pages: rest });
            }
        }
        self.blocks = kept;
    }

    fn too_large(&self) -> Error {
        let limit = self.pages.layout().stream_bytes(u64::from(u32::MAX));
        Error::ValueTooLarge { length: self.length, limit, instead: "several values" }
    }
}

impl Drop for OverflowWriter {
    fn drop(&mut self) {
        self.blocks.drain(..).for_each(|block| self.pages.free(block));
    }
}
