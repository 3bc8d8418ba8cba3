//! Values that lie in blocks of their own: writing, reading by chunks, checking.
//!
//! *Assumes*: a reference comes from a verified node or record; what it says is not trusted.
//! *Guarantees*: no byte of a value is handed out whose chunk does not match the table, or whose
//! table does not match the reference. No more is read or allotted than blocks and chunks justify.
//! *Format*: docs/format.md, section 4.5. *Threads*: any; a reader is one thread's.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

use super::overflow_reference::OverflowReference;
use crate::codec::Reader;
use crate::error::{Corruption, Error, Result, Structure};
use crate::page::compress::{CODEC_ZSTD, DecompressProblem, compress, decompress};
use crate::page::layout::NODE_HEADER_BYTES;
use crate::page::node_image::node_checksum;
use crate::page::stream::stream_capacity;
use crate::page::{Block, Codec, Layout, NodeHeader, NodeKind, PageManager};
use crate::types::{Epoch, KeyspaceNumber};

/// A value is cut into chunks of so many bytes; the last may be shorter.
pub const CHUNK_BYTES: usize = 128 << 10;
/// From this length on a value goes to overflow whatever is wasted.
pub const OVERFLOW_BYTES_ALWAYS: usize = 32 << 10;

/// The most bytes of the file that one call writes, so that nobody's sync waits long for them.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// Blocks shorter than this are not taken while longer ones can be had, in pages.
const SHORT_BLOCK_PAGES: u32 = 16;
/// Bytes of a chunk's entry in the table.
const TABLE_ENTRY_BYTES: u64 = 8;
/// The bit of a stored length that says that the chunk is compressed.
pub(super) const COMPRESSED: u32 = 1 << 31;

const CHUNK_BYTES_U64: u64 = CHUNK_BYTES as u64;

/// Bytes of the header and table of a value of `length` bytes.
fn head_bytes(length: u64) -> u64 {
    let table = length.div_ceil(CHUNK_BYTES_U64).saturating_mul(TABLE_ENTRY_BYTES);
    table.saturating_add(NODE_HEADER_BYTES as u64)
}

/// True when a value of `value_bytes` bytes is better kept in blocks of its own, of whose pages
/// `usable_bytes` are used each: when that wastes at most an eighth of its length, and always from
/// [`OVERFLOW_BYTES_ALWAYS`] on.
pub fn wants_overflow(value_bytes: usize, usable_bytes: usize) -> bool {
    let length = value_bytes as u64;
    let usable = usable_bytes.max(1) as u64;
    let pages = length.saturating_add(head_bytes(length)).div_ceil(usable);
    let waste = pages.saturating_mul(usable).saturating_sub(length);
    value_bytes >= OVERFLOW_BYTES_ALWAYS || waste <= length / 8
}

/// The blocks of a value, in the order of the stream.
pub fn blocks_of(reference: &OverflowReference) -> impl Iterator<Item = Block> {
    reference.blocks.iter().copied()
}

/// The crc of a stored chunk.
pub(super) fn chunk_crc(layout: &Layout, stamp: u32, chunk_index: u32, stored: &[u8]) -> u32 {
    let mut place = crc32fast::Hasher::new_with_initial(layout.seed());
    place.update(&stamp.to_le_bytes());
    place.update(&chunk_index.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(place.finalize());
    hasher.update(stored);
    hasher.finalize()
}

/// A chunk as it will be stored.
struct StoredChunk<'a> {
    bytes: std::borrow::Cow<'a, [u8]>,
    compressed: bool,
}

/// Cuts a value into chunks and compresses them, if that saves a page of the whole.
fn store_chunks<'a>(
    pages: &PageManager,
    codec: Codec,
    value: &'a [u8],
) -> Result<Vec<StoredChunk<'a>>> {
    let (layout, counted_in) = (pages.layout(), Some(pages.budget()));
    let plain = |chunk: &'a [u8]| StoredChunk { bytes: chunk.into(), compressed: false };
    let mut chunks = Vec::new();
    let mut stored_bytes = 0_usize;
    for raw in value.chunks(CHUNK_BYTES) {
        let mut out = Vec::new();
        // Reading a chunk that hardly shrinks costs more than its place: a whole one must save a
        // page by itself.
        let room = if raw.len() < CHUNK_BYTES { 1 } else { layout.usable_bytes() };
        let shrinks = compress(codec, raw, &mut out, counted_in)?
            && out.len().saturating_add(room) <= raw.len();
        let chunk = match shrinks {
            true => {
                out.shrink_to_fit();
                StoredChunk { bytes: out.into(), compressed: true }
            }
            false => plain(raw),
        };
        stored_bytes = stored_bytes.saturating_add(chunk.bytes.len());
        chunks.push(chunk);
    }
    let head = usize::try_from(head_bytes(value.len() as u64)).unwrap_or(usize::MAX);
    let pages = |content: usize| layout.pages_for(head.saturating_add(content));
    if pages(stored_bytes) < pages(value.len()) {
        return Ok(chunks);
    }
    Ok(value.chunks(CHUNK_BYTES).map(plain).collect())
}

/// Blocks that go back when they are dropped before they are kept.
struct Taken<'a> {
    pages: &'a PageManager,
    blocks: Vec<Block>,
}

impl Taken<'_> {
    fn keep(mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.blocks.drain(..).for_each(|block| self.pages.free(block));
    }
}

/// What names a block takes half of that at most: two varints.
const BLOCK_BYTES: usize = 32;

/// The most blocks that a value may lie in: what names them is half of what a node holds.
pub(super) fn blocks_max(layout: &Layout) -> usize {
    layout.content_bytes_max().checked_div(BLOCK_BYTES).unwrap_or(0).max(1)
}

/// What is free lies in more pieces than a value may have.
pub(super) fn too_many_pieces(pages: &PageManager) -> Error {
    let operation = "a value in as many pieces as are free".into();
    Error::NoSpace { operation, file: pages.storage().name() }
}

/// Takes blocks of `pages_wanted` pages together: one where that can be, else few.
fn take_blocks(pages: &PageManager, pages_wanted: u32) -> Result<Taken<'_>> {
    let longest = pages.layout().block_pages_max();
    let mut taken = Taken { pages, blocks: Vec::new() };
    let mut left = pages_wanted;
    // Halved when the file cannot grow any more and has short free runs only.
    let mut least = u32::MAX;
    while left > 0 {
        if taken.blocks.len() >= blocks_max(pages.layout()) {
            return Err(too_many_pieces(pages));
        }
        let wanted = left.min(longest);
        let least_now = least.min(wanted.div_ceil(4).max(SHORT_BLOCK_PAGES)).min(wanted);
        match pages.allocator().allocate_block(least_now, wanted) {
            Ok(block) => {
                taken.blocks.push(block);
                left = left.saturating_sub(block.pages);
            }
            Err(error) if error.is_no_space() && least_now > 1 => least = least_now.div_ceil(2),
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

/// Writes a stream from its start in calls of whole pages.
struct StreamOut<'a> {
    pages: &'a PageManager,
    blocks: &'a [Block],
    buffer: Vec<u8>,
    piece_bytes: usize,
    offset: u64,
}

impl<'a> StreamOut<'a> {
    fn new(pages: &'a PageManager, blocks: &'a [Block], stream_bytes: usize) -> StreamOut<'a> {
        let layout = pages.layout();
        let piece_pages = WRITE_BYTES_MAX.checked_div(layout.page_size as usize).unwrap_or(1);
        let piece_bytes = layout.usable_bytes().saturating_mul(piece_pages.max(1));
        let buffer = Vec::with_capacity(piece_bytes.min(stream_bytes));
        StreamOut { pages, blocks, buffer, piece_bytes, offset: 0 }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.piece_bytes.saturating_sub(self.buffer.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() >= self.piece_bytes {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.pages.write_stream(self.blocks, self.offset, &self.buffer, false)?;
            self.offset = self.offset.saturating_add(self.buffer.len() as u64);
            self.buffer.clear();
        }
        Ok(())
    }

    /// Fills the last page with zeros and writes what is left.
    fn finish(mut self) -> Result<()> {
        let usable = self.pages.layout().usable_bytes();
        let whole = self.buffer.len().next_multiple_of(usable);
        self.buffer.resize(whole, 0);
        self.write()
    }
}

/// Writes a value into blocks of its own; the caller syncs. The reference has no birth yet. After
/// an error no block is kept.
///
/// # Errors
/// When no pages can be had, or a write fails.
pub fn write_value(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    codec: Codec,
    value: &[u8],
) -> Result<OverflowReference> {
    let layout = pages.layout();
    let length = value.len() as u64;
    let too_large = || Error::ValueTooLarge {
        length,
        limit: layout.stream_bytes(u64::from(u32::MAX)),
        instead: "several values",
    };
    let chunks = store_chunks(pages, codec, value)?;
    let stamp = pages.next_stamp()?;
    let mut table = Vec::new();
    let mut stored_bytes = 0_usize;
    for (chunk, chunk_index) in chunks.iter().zip(0..) {
        // At most CHUNK_BYTES, so that bit 31 is free.
        let flag = if chunk.compressed { COMPRESSED } else { 0 };
        table.extend_from_slice(&(chunk.bytes.len() as u32 | flag).to_le_bytes());
        let crc = chunk_crc(layout, stamp, chunk_index, &chunk.bytes);
        table.extend_from_slice(&crc.to_le_bytes());
        stored_bytes = stored_bytes.saturating_add(chunk.bytes.len());
    }
    let table_bytes = u32::try_from(table.len()).map_err(|_| too_large())?;
    let head = NODE_HEADER_BYTES.saturating_add(table.len());
    let stream_bytes = head.saturating_add(stored_bytes);
    let page_count = layout.pages_for(stream_bytes);
    if page_count == u32::MAX {
        return Err(too_large());
    }
    let taken = take_blocks(pages, page_count)?;
    let first = taken.blocks.first().map(|block| block.first).unwrap_or_default();
    let header = NodeHeader {
        kind: NodeKind::OverflowValue,
        height: 0,
        flags: 0,
        page: first,
        stamp,
        keyspace,
        stored_bytes: table_bytes,
        raw_bytes: table_bytes,
    };
    let checksum = node_checksum(layout, &header, &table);
    let mut out =
        StreamOut::new(pages, &taken.blocks, stream_bytes.saturating_add(layout.usable_bytes()));
    out.push(&header.encode(checksum))?;
    out.push(&table)?;
    for chunk in &chunks {
        out.push(&chunk.bytes)?;
    }
    out.finish()?;
    let blocks = taken.keep();
    Ok(OverflowReference { length, stamp, checksum, table_offset: 0, birth: Epoch(0), blocks })
}

/// One chunk, as the table tells.
#[derive(Clone, Copy, Debug)]
struct ChunkPlace {
    /// Where it begins in the stream.
    offset: u64,
    stored_bytes: usize,
    raw_bytes: usize,
    compressed: bool,
    crc: u32,
}

/// An open overflow value. `P` is a [`PageManager`], shared or borrowed.
pub struct OverflowReader<P> {
    pages: P,
    keyspace: KeyspaceNumber,
    blocks: Vec<Block>,
    length: u64,
    stamp: u32,
    chunks: Vec<ChunkPlace>,
    /// Where header, table and chunks end in the stream.
    content_end: u64,
}

fn damage_in(blocks: &[Block], keyspace: KeyspaceNumber, detail: impl Into<String>) -> Error {
    let corruption = Corruption::new(Structure::Overflow, detail).in_keyspace(keyspace);
    match blocks.first() {
        Some(block) => corruption.at_page(block.first).into(),
        None => corruption.into(),
    }
}

impl<P: Deref<Target = PageManager>> OverflowReader<P> {
    /// Reads and checks the header and the table of a value.
    ///
    /// # Errors
    /// When they cannot be read, or do not fit the reference.
    pub fn open(
        pages: P,
        keyspace: KeyspaceNumber,
        reference: &OverflowReference,
    ) -> Result<OverflowReader<P>> {
        let blocks: Vec<Block> = blocks_of(reference).collect();
        let damaged = |detail: String| damage_in(&blocks, keyspace, detail);
        blocks.iter().try_for_each(|block| pages.check_block(*block)).map_err(damaged)?;
        let layout = pages.layout();
        // Blocks that share pages could make the value seem longer than the file.
        if reference.pages() > pages.allocator().file_pages() {
            return Err(damaged(format!("{} pages are more than the file's", reference.pages())));
        }
        let capacity = stream_capacity(layout, &blocks);
        let head_bytes = head_bytes(reference.length);
        let head_end = reference.table_offset.checked_add(head_bytes);
        let (true, Ok(head_bytes)) =
            (head_end.is_some_and(|end| end <= capacity), usize::try_from(head_bytes))
        else {
            return Err(damaged(format!(
                "{} bytes with the table at {} do not fit {} pages",
                reference.length,
                reference.table_offset,
                reference.pages()
            )));
        };
        let mut head = vec![0; head_bytes];
        pages.read_stream(&blocks, reference.table_offset, &mut head)?;
        let table = check_head(layout, keyspace, &blocks, reference, &head).map_err(damaged)?;
        let (start, end) = match reference.table_offset {
            0 => (head_bytes as u64, capacity),
            offset => (0, offset),
        };
        let (chunks, chunks_end) =
            place_chunks(reference.length, table, start, end).map_err(damaged)?;
        let content_end = chunks_end.max(head_end.unwrap_or_default());
        let (length, stamp) = (reference.length, reference.stamp);
        Ok(OverflowReader { pages, keyspace, blocks, length, stamp, chunks, content_end })
    }

    /// The value's length, in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True when the value has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How many chunks there are: each but the last has [`CHUNK_BYTES`].
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// What it takes of memory itself, in bytes.
    pub fn memory_bytes(&self) -> usize {
        let chunks = self.chunks.capacity().saturating_mul(size_of::<ChunkPlace>());
        let blocks = self.blocks.capacity().saturating_mul(size_of::<Block>());
        chunks.saturating_add(blocks)
    }

    /// Reads and checks one chunk; empty behind the last one.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read_chunk(&self, chunk_index: usize) -> Result<Vec<u8>> {
        let Some(place) = self.chunks.get(chunk_index) else { return Ok(Vec::new()) };
        let damaged = |detail: String| {
            damage_in(&self.blocks, self.keyspace, format!("chunk {chunk_index}: {detail}"))
        };
        let mut stored = vec![0; place.stored_bytes];
        self.pages.read_stream(&self.blocks, place.offset, &mut stored)?;
        // The table's length fits 32 bits, and so does the index.
        let crc = chunk_crc(self.pages.layout(), self.stamp, chunk_index as u32, &stored);
        if crc != place.crc {
            return Err(damaged(format!("checksum is {crc:#010x}, not {:#010x}", place.crc)));
        }
        if !place.compressed {
            return Ok(stored);
        }
        let counted_in = Some(self.pages.budget());
        let raw = decompress(CODEC_ZSTD, &stored, place.raw_bytes, counted_in);
        raw.map_err(|problem| match problem {
            DecompressProblem::Malformed(detail) => damaged(detail),
            DecompressProblem::UnknownCodec(id) => damaged(format!("unknown codec {id}")),
            DecompressProblem::NotBuilt => DecompressProblem::not_built(),
        })
    }

    /// Checks that its last page ends in zeros, and is its last.
    fn check_end(&self) -> Result<()> {
        let layout = self.pages.layout();
        let behind = stream_capacity(layout, &self.blocks).saturating_sub(self.content_end);
        let behind = usize::try_from(behind).unwrap_or(usize::MAX);
        if behind >= layout.usable_bytes() {
            let detail = format!("{behind} bytes lie behind its content, a page or more");
            return Err(damage_in(&self.blocks, self.keyspace, detail));
        }
        let mut end = vec![0; behind];
        self.pages.read_stream(&self.blocks, self.content_end, &mut end)?;
        match end.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => {
                let detail = "its last page does not end in zeros";
                Err(damage_in(&self.blocks, self.keyspace, detail))
            }
        }
    }

    /// Reads and checks the whole value.
    ///
    /// # Errors
    /// When it has more than `limit` bytes, cannot be read, or is damaged.
    pub fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        let too_large =
            || Error::ValueTooLarge { length: self.length, limit, instead: "get_stream" };
        if self.length > limit {
            return Err(too_large());
        }
        let length = usize::try_from(self.length).map_err(|_| too_large())?;
        let mut value = self.read_chunk(0)?;
        value.reserve_exact(length.saturating_sub(value.len()));
        for chunk_index in 1..self.chunks.len() {
            value.extend_from_slice(&self.read_chunk(chunk_index)?);
        }
        Ok(value)
    }
}

impl<P> fmt::Debug for OverflowReader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverflowReader")
            .field("keyspace", &self.keyspace)
            .field("blocks", &self.blocks)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// Checks the header against the reference, and the checksum of both; returns the table.
fn check_head<'a>(
    layout: &Layout,
    keyspace: KeyspaceNumber,
    blocks: &[Block],
    reference: &OverflowReference,
    head: &'a [u8],
) -> std::result::Result<&'a [u8], String> {
    let (header, checksum) = NodeHeader::decode(head).map_err(|corruption| corruption.detail)?;
    let table = head.get(NODE_HEADER_BYTES..).unwrap_or_default();
    if header.kind != NodeKind::OverflowValue || header.flags != 0 {
        return Err(format!("it is a {}, flags {:#x}", header.kind.structure(), header.flags));
    }
    if header.stored_bytes as usize != table.len() {
        let (found, length) = (header.stored_bytes, reference.length);
        return Err(format!("a table of {found} bytes does not fit a value of {length}"));
    }
    let computed = node_checksum(layout, &header, table);
    if computed != checksum {
        return Err(format!("checksum is {computed:#010x}, it says {checksum:#010x}"));
    }
    if checksum != reference.checksum || header.stamp != reference.stamp {
        return Err(format!(
            "another write of this place: stamp {} and checksum {checksum:#010x}, \
             expected {} and {:#010x}",
            header.stamp, reference.stamp, reference.checksum
        ));
    }
    if blocks.first().is_none_or(|block| block.first != header.page) {
        return Err(format!("it says that its place is page {}", header.page));
    }
    if header.keyspace != keyspace {
        return Err(format!("it says that it is of keyspace {}", header.keyspace));
    }
    Ok(table)
}

/// Where the chunks lie from `start` to at most `end` of the stream, and where they end.
fn place_chunks(
    length: u64,
    table: &[u8],
    start: u64,
    end: u64,
) -> std::result::Result<(Vec<ChunkPlace>, u64), String> {
    let mut table = Reader::new(table);
    let mut chunks = Vec::with_capacity(table.remaining().div_ceil(TABLE_ENTRY_BYTES as usize));
    let (mut offset, mut left) = (start, length);
    while left > 0 {
        let (Ok(stored), Ok(crc)) = (table.u32(), table.u32()) else {
            return Err("its table is too short".into());
        };
        let raw_bytes = left.min(CHUNK_BYTES_U64) as usize;
        let compressed = stored & COMPRESSED != 0;
        let stored_bytes = (stored & !COMPRESSED) as usize;
        let fits = match compressed {
            true => (1..raw_bytes).contains(&stored_bytes),
            false => stored_bytes == raw_bytes,
        };
        if !fits {
            let chunk_index = chunks.len();
            return Err(format!(
                "chunk {chunk_index} of {raw_bytes} bytes is stored in {stored:#x}"
            ));
        }
        chunks.push(ChunkPlace { offset, stored_bytes, raw_bytes, compressed, crc });
        offset = offset.saturating_add(stored_bytes as u64);
        left = left.saturating_sub(raw_bytes as u64);
    }
    match offset <= end && table.is_empty() {
        true => Ok((chunks, offset)),
        false => Err(format!("its chunks reach to {offset}, beyond {end}")),
    }
}

/// Reads every chunk of a value and checks it, and what lies behind them in the last page.
///
/// # Errors
/// When something cannot be read or is damaged.
pub fn verify_value(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    reference: &OverflowReference,
) -> Result<()> {
    let reader = OverflowReader::open(pages, keyspace, reference)?;
    (0..reader.chunk_count()).try_for_each(|index| reader.read_chunk(index).map(drop))?;
    reader.check_end()
}
