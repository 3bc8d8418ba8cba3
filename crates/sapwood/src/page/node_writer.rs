//! Writes the nodes of a merge or a flush, one behind the other.
//!
//! *Guarantees*: W1: a block is asked for only when there is a node to put into it. W2: dropped
//! without `finish`, the writer has given back every page that it took. W3: one call writes 256 KiB
//! at most.
//! *Threads*: one at a time.

use crate::error::Result;
use crate::sync::Arc;
use crate::types::PageNumber;

use super::block::Block;
use super::block_list::BlockList;
use super::budget::{Charge, MemoryPart};
use super::compress::{CODEC_PLAIN, Codec};
use super::frame::Frame;
use super::layout::Layout;
use super::layout::NODE_HEADER_BYTES;
use super::manager::{PageManager, WRITE_BYTES_MAX, write_in_steps};
use super::node_image::{ContentLengths, NodeSpec, append_node, choose_stored};
use super::node_ref::NodeRef;

const BLOCK_PAGES_MIN: u64 = 64;
const BLOCK_PAGES_MAX: u64 = 1024;

/// What a writer has written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The pages of the nodes, sorted and merged.
    pub blocks: Vec<Block>,
    /// Bytes of whole pages.
    pub bytes: u64,
}

/// A content that was compressed on trial.
#[derive(Debug, Default)]
struct Candidate {
    codec: Codec,
    raw: Vec<u8>,
    stored: Vec<u8>,
    codec_id: u8,
    valid: bool,
}

/// See the module.
#[derive(Debug)]
pub struct NodeWriter {
    manager: Arc<PageManager>,
    /// Pages that are still expected.
    hint_pages: u64,
    /// What is left of the block that is being filled.
    room: Option<Block>,
    used: BlockList,
    /// Whole pages that lie one behind the other from `buffer_page` on.
    buffer: Vec<u8>,
    buffer_page: PageNumber,
    bytes: u64,
    candidate: Candidate,
    charge: Charge,
}

impl NodeWriter {
    /// The manager that it writes through.
    pub fn manager(&self) -> &Arc<PageManager> {
        &self.manager
    }

    /// The layout of the file that it writes to.
    pub fn layout(&self) -> &Layout {
        self.manager.layout()
    }

    /// A writer that expects to fill about `size_hint_pages`.
    pub fn new(manager: Arc<PageManager>, size_hint_pages: u64) -> NodeWriter {
        let charge = manager.budget().charge(MemoryPart::MergeBuffers, 0);
        NodeWriter {
            manager,
            hint_pages: size_hint_pages,
            room: None,
            used: BlockList::new(),
            buffer: Vec::new(),
            buffer_page: PageNumber(0),
            bytes: 0,
            candidate: Candidate::default(),
            charge,
        }
    }

    /// Compresses a content on trial and returns the length that it would be stored with: that of
    /// the content itself unless compression saves a page. An `append` of the same content that
    /// follows does not compress it again.
    pub fn compress_candidate(&mut self, spec: &NodeSpec, content: &[u8]) -> Result<usize> {
        let candidate = &mut self.candidate;
        let (layout, counted_in) = (self.manager.layout(), Some(self.manager.budget()));
        candidate.valid = false;
        candidate.codec_id =
            choose_stored(layout, spec.codec, content, &mut candidate.stored, counted_in)?;
        candidate.codec = spec.codec;
        candidate.raw.clear();
        candidate.raw.extend_from_slice(content);
        candidate.valid = true;
        Ok(if candidate.codec_id == CODEC_PLAIN { content.len() } else { candidate.stored.len() })
    }

    /// The length to which the last candidate was compressed, whether it is worth it or not; `None`
    /// when it was not tried.
    pub fn candidate_compressed_bytes(&self) -> Option<usize> {
        let candidate = &self.candidate;
        (candidate.valid && !candidate.stored.is_empty()).then_some(candidate.stored.len())
    }

    /// Pages that a node takes whose content is stored with so many bytes.
    pub fn node_pages(&self, stored_bytes: usize) -> u32 {
        self.manager.layout().node_pages(stored_bytes)
    }

    /// Writes a node, compressed when that saves a page. With `insert_into_cache` it can be read at
    /// once; any other only after `finish`.
    pub fn append(
        &mut self,
        spec: &NodeSpec,
        content: &[u8],
        insert_into_cache: bool,
    ) -> Result<NodeRef> {
        let known = self.candidate.valid
            && self.candidate.codec == spec.codec
            && self.candidate.raw == content;
        if !known {
            self.compress_candidate(spec, content)?;
        }
        // Taken out for the time of the call, so that its buffers serve the next node too.
        let mut candidate = std::mem::take(&mut self.candidate);
        let codec_id = candidate.codec_id;
        let stored = if codec_id == CODEC_PLAIN { content } else { &candidate.stored };
        let raw = insert_into_cache.then_some(content);
        let result = self.place(spec, codec_id, stored, content.len(), raw);
        candidate.valid = false;
        self.candidate = candidate;
        result
    }

    /// Writes a node whose content is compressed already with the spec's codec, or plain.
    pub fn append_stored(
        &mut self,
        spec: &NodeSpec,
        stored: &[u8],
        raw_bytes: usize,
    ) -> Result<NodeRef> {
        assert!(
            spec.codec.id() != CODEC_PLAIN || stored.len() == raw_bytes,
            "a plain content has one length"
        );
        self.place(spec, spec.codec.id(), stored, raw_bytes, None)
    }

    fn place(
        &mut self,
        spec: &NodeSpec,
        codec_id: u8,
        stored: &[u8],
        raw_bytes: usize,
        cached_content: Option<&[u8]>,
    ) -> Result<NodeRef> {
        let layout = *self.manager.layout();
        let pages = layout.node_pages(stored.len());
        let stamp = self.manager.next_stamp()?;
        let block = self.take_pages(pages)?;
        if block.first.0 != self.buffer_end() || self.buffer.len() >= WRITE_BYTES_MAX {
            self.flush()?;
        }
        if self.buffer.is_empty() {
            self.buffer_page = block.first;
        }
        let lengths = ContentLengths { stored_bytes: stored.len(), raw_bytes };
        let header = spec.header(block.first, stamp, codec_id, lengths);
        let reference = append_node(&layout, &header, stored, &mut self.buffer);
        debug_assert_eq!(reference.block(), block);
        self.bytes += layout.bytes_of(pages) as u64;
        self.manager.count_node_written(spec.kind, layout.bytes_of(pages));
        self.charge.set(
            (self.buffer.capacity()
                + self.candidate.raw.capacity()
                + self.candidate.stored.capacity()) as u64,
        );
        if let Some(content) = cached_content {
            let frame = Frame::new(reference, header, content.to_vec(), 0);
            self.manager.cache().insert(Arc::new(frame));
        }
        Ok(reference)
    }

    /// Takes pages from the block at hand, or from a new one.
    fn take_pages(&mut self, pages: u32) -> Result<Block> {
        let fits = self.room.is_some_and(|room| room.pages >= pages);
        if !fits {
            self.give_back_room();
            // At most BLOCK_PAGES_MAX.
            let wanted = self.hint_pages.clamp(BLOCK_PAGES_MIN, BLOCK_PAGES_MAX) as u32;
            let block = self.manager.allocator().allocate_block(pages, wanted.max(pages))?;
            self.room = Some(block);
        }
        let room = self.room.unwrap_or(Block::new(PageNumber(0), 0));
        assert!(room.pages >= pages, "a block is shorter than was asked for");
        let taken = Block::new(room.first, pages);
        self.room = (room.pages > pages).then(|| Block::new(taken.end(), room.pages - pages));
        self.used.insert(taken);
        self.hint_pages = self.hint_pages.saturating_sub(u64::from(pages));
        Ok(taken)
    }

    /// The page behind those in the buffer.
    fn buffer_end(&self) -> u64 {
        let page_size = self.manager.layout().page_size as usize;
        self.buffer_page.0 + (self.buffer.len() / page_size) as u64
    }

    fn flush(&mut self) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let offset = self.manager.layout().offset_of(self.buffer_page);
        write_in_steps(&**self.manager.storage(), offset, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn give_back_room(&mut self) {
        if let Some(room) = self.room.take() {
            self.manager.free(room);
        }
    }

    /// Bytes of whole pages written so far.
    pub fn written_bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that each node takes beside its content.
    pub const fn overhead_bytes() -> usize {
        NODE_HEADER_BYTES
    }

    /// Writes what is in the buffer, and gives back the pages that were not used. The caller syncs.
    pub fn finish(mut self) -> Result<Written> {
        self.flush()?;
        self.give_back_room();
        let blocks = self.used.iter().collect();
        self.used.clear();
        Ok(Written { blocks, bytes: self.bytes })
    }
}

impl Drop for NodeWriter {
    fn drop(&mut self) {
        self.give_back_room();
        let used = std::mem::take(&mut self.used);
        for block in used.iter() {
            self.manager.free(block);
        }
    }
}
