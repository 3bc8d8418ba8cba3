//! The page manager: what the floors above use of the file.
//!
//! *Assumes*: whoever frees a block knows that nothing holds it.
//! *Guarantees*: M1: a node that is read has the place, stamp, checksum and kind that its reference
//! says. M2: a node is found in memory only by all of these. M3: usable bytes only are used.
//! *Format*: `docs/format.md` sections 1 to 3.
//! *Threads*: any. Lock order: `write_pass`; then the allocator's or that of the unwritten nodes,
//! never both; then one shard of the cache, which a charge to the budget may take under either.

use crate::error::{Corruption, Error, Result};
use crate::storage::{PIN_BYTES, Storage};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, LockRank, OrderedMutex};
use crate::types::PageNumber;

use super::allocator::{Allocator, AllocatorParts};
use super::block::Block;
use super::budget::MemoryBudget;
use super::cache::Cache;
use super::compress::CODEC_PLAIN;
use super::counters::{Counters, PageCounters};
use super::file_header::StateLocation;
use super::frame::{Frame, NodeBytes};
use super::layout::{Layout, NODE_HEADER_BYTES};
use super::node_header::NodeKind;
use super::node_image::{
    ContentLengths, NodeSpec, append_node, choose_stored, verify_node_counted,
};
use super::node_ref::NodeRef;
use super::region_entry::RegionEntry;
use super::seen::SeenNodes;
use super::stamps::{StampCounter, StampUse, take_stamp};
use super::state_node;
use super::stream::{read_stream, write_stream};
use super::unwritten::{Unwritten, UnwrittenNode};

/// The most bytes that one call writes, so that a commit's write does not wait long behind it.
pub const WRITE_BYTES_MAX: usize = 256 << 10;

/// Held over a pass that writes the unwritten nodes, which gives blocks back at its end.
const WRITE_PASS_RANK: LockRank = LockRank::new(58, "pass over unwritten nodes");

/// What a page manager is made of.
#[derive(Clone, Debug)]
pub struct PageOptions {
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// Its sizes.
    pub layout: Layout,
    /// Where memory counts.
    pub budget: Arc<MemoryBudget>,
    /// The file does not grow beyond this.
    pub max_file_bytes: Option<u64>,
}

/// What a durable state says to the page manager.
#[derive(Clone, Debug)]
pub struct OpenedState {
    /// The file's length in pages: that of the state, or more when the file has grown since.
    pub file_pages: u64,
    /// Its regions.
    pub regions: Vec<RegionEntry>,
    /// The first stamp to give out.
    pub next_stamp: u64,
    /// Where stamps end until the next durable state.
    pub stamp_limit: u64,
}

/// See the module.
#[derive(Debug)]
pub struct PageManager {
    layout: Layout,
    storage: Arc<dyn Storage>,
    budget: Arc<MemoryBudget>,
    stamps: Arc<StampCounter>,
    allocator: Allocator,
    cache: Arc<Cache>,
    seen: SeenNodes,
    unwritten: Unwritten,
    write_pass: OrderedMutex<()>,
    counters: Counters,
    /// Nodes are read in place where the storage offers that.
    reads_in_place: AtomicBool,
}

impl PageManager {
    /// A manager over a new, empty file. Header slots are the caller's to write.
    pub fn create(options: PageOptions, stamp_limit: u64) -> Result<Arc<PageManager>> {
        let file_pages = options.layout.first_allottable(0).0;
        let length = options.layout.offset_of(PageNumber(file_pages));
        options
            .storage
            .set_length(length)
            .map_err(|error| Error::io("making a new file", options.storage.name(), error))?;
        let state = OpenedState { file_pages, regions: Vec::new(), next_stamp: 1, stamp_limit };
        PageManager::open(options, &state)
    }

    /// A manager over a file, as a durable state describes it.
    pub fn open(options: PageOptions, state: &OpenedState) -> Result<Arc<PageManager>> {
        PageManager::over(options, state, |parts| {
            Allocator::open(parts, state.file_pages, &state.regions)
        })
    }

    /// The same for whoever only reads: where the maps cannot be read, without them.
    pub fn open_to_read(options: PageOptions, state: &OpenedState) -> Result<Arc<PageManager>> {
        PageManager::over(options, state, |parts| {
            let opened = Allocator::open(parts.clone(), state.file_pages, &state.regions);
            opened.or_else(|error| match error {
                Error::InvalidOption { .. } => Err(error),
                error => {
                    tracing::warn!(target: "sapwood::open", %error, "a free map cannot be read");
                    Allocator::without_maps(parts, state.file_pages, error)
                }
            })
        })
    }

    fn over(
        options: PageOptions,
        state: &OpenedState,
        open_allocator: impl FnOnce(AllocatorParts) -> Result<Allocator>,
    ) -> Result<Arc<PageManager>> {
        let PageOptions { storage, layout, budget, max_file_bytes } = options;
        let stamps = Arc::new(StampCounter::new(state.next_stamp, state.stamp_limit));
        let allocator = open_allocator(AllocatorParts {
            layout,
            storage: Arc::clone(&storage),
            stamps: Arc::clone(&stamps),
            budget: Arc::clone(&budget),
            max_file_bytes,
        })?;
        let cache = Arc::new(Cache::new(Arc::clone(&budget)));
        let seen = SeenNodes::new(Arc::clone(&budget));
        let told = Arc::downgrade(&cache);
        budget.set_listener(Box::new(move |capacity| {
            if let Some(cache) = told.upgrade() {
                cache.set_capacity(capacity);
            }
        }));
        let unwritten = Unwritten::new(&budget);
        Ok(Arc::new(PageManager {
            layout,
            storage,
            budget,
            stamps,
            allocator,
            cache,
            seen,
            unwritten,
            write_pass: OrderedMutex::new(WRITE_PASS_RANK, ()),
            counters: Counters::default(),
            reads_in_place: AtomicBool::new(false),
        }))
    }

    /// From now on nodes are read in place where the storage offers that.
    pub fn read_in_place(&self) {
        self.reads_in_place.store(true, Ordering::Relaxed);
    }

    /// The file's sizes.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Where memory counts.
    pub fn budget(&self) -> &Arc<MemoryBudget> {
        &self.budget
    }

    /// Who gives blocks out. Blocks that hold nodes go back by [`PageManager::free`].
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// The cache of nodes.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The next write stamp for a node or a value.
    ///
    /// # Errors
    /// `NoSpace` when there is none before the next durable state.
    pub fn next_stamp(&self) -> Result<u32> {
        take_stamp(&self.stamps, StampUse::Node, &*self.storage)
    }

    /// True when a state should be made durable soon, so that write stamps do not run out.
    pub fn stamps_are_low(&self) -> bool {
        self.stamps.are_low()
    }

    /// The stamp that comes next, all bits of it: what a clean close remembers.
    pub fn stamp_counter(&self) -> u64 {
        self.stamps.value()
    }

    /// Where stamps end until [`PageManager::set_stamp_limit`].
    pub fn stamp_limit(&self) -> u64 {
        self.stamps.limit()
    }

    /// Raises the limit of stamps, once a durable state that names it is on disk.
    pub fn set_stamp_limit(&self, limit: u64) {
        self.stamps.set_limit(limit);
    }

    /// The node that a reference names, from memory or from the file.
    pub fn read_node(&self, reference: &NodeRef, kind: NodeKind) -> Result<Arc<Frame>> {
        let frame = match self.find_in_memory(reference, kind)? {
            Some((frame, true)) => return Ok(frame),
            Some((frame, false)) => frame,
            None => Arc::new(self.read_from_file(reference, kind)?),
        };
        self.cache.insert(Arc::clone(&frame));
        Ok(frame)
    }

    /// The same for long walks: a node that is not in memory takes a place in the cache when it is
    /// met for the second time only. One walk over everything leaves the cache to what is read
    /// again and again, and uses the same memory for one node after the other.
    pub fn read_node_in_passing(&self, reference: &NodeRef, kind: NodeKind) -> Result<Arc<Frame>> {
        if let Some((frame, _)) = self.find_in_memory(reference, kind)? {
            return Ok(frame);
        }
        let frame = Arc::new(self.read_from_file(reference, kind)?);
        // What lies in the file takes next to nothing, and is not checked again while it is kept.
        if frame.is_in_place() || self.seen.meet(reference) {
            self.cache.insert(Arc::clone(&frame));
        } else {
            frame.count_as_held(&self.budget);
        }
        Ok(frame)
    }

    /// The same without taking a place in the cache: for merges, which read each node once.
    pub fn read_node_uncached(&self, reference: &NodeRef, kind: NodeKind) -> Result<Arc<Frame>> {
        match self.find_in_memory(reference, kind)? {
            Some((frame, _)) => Ok(frame),
            None => Ok(Arc::new(self.read_from_file(reference, kind)?)),
        }
    }

    /// A node that is in memory, and whether it is in the cache.
    fn find_in_memory(
        &self,
        reference: &NodeRef,
        kind: NodeKind,
    ) -> Result<Option<(Arc<Frame>, bool)>> {
        let found = match self.cache.get(reference) {
            Some(frame) => Some((frame, true)),
            None => self.unwritten.get(reference).map(|frame| (frame, false)),
        };
        match found {
            Some((frame, _)) if frame.header().kind != kind => {
                let detail = format!("it is a {}", frame.header().kind.structure());
                let corruption = Corruption::new(kind.structure(), detail);
                Err(corruption.at_page(reference.page).into())
            }
            found => Ok(found),
        }
    }

    fn read_from_file(&self, reference: &NodeRef, kind: NodeKind) -> Result<Frame> {
        let damaged = |detail| Corruption::new(kind.structure(), detail).at_page(reference.page);
        let file_pages = self.allocator.file_pages();
        self.layout.check_block(reference.block(), file_pages).map_err(damaged)?;
        if reference.pages > self.layout.node_pages_max() {
            return Err(damaged(format!("no node has {} pages", reference.pages)).into());
        }
        let length = self.layout.bytes_of(reference.pages);
        let offset = self.layout.offset_of(reference.page);
        if self.reads_in_place.load(Ordering::Relaxed)
            && let Some(mapped) = self.storage.map(offset, length)
        {
            self.counters.node_read_in_place(kind);
            let bytes = NodeBytes::InPlace(mapped);
            return verify_node_counted(&self.layout, reference, kind, bytes, Some(&self.budget));
        }
        let mut bytes = vec![0; length];
        self.storage.read_at(offset, &mut bytes).map_err(|error| {
            let operation = format!("reading {} bytes at offset {offset}", bytes.len());
            Error::io(operation, self.storage.name(), error)
        })?;
        self.counters.node_read(kind, bytes.len());
        verify_node_counted(&self.layout, reference, kind, bytes, Some(&self.budget))
    }

    /// One page as it lies in the file, reserved bytes included; nothing is verified.
    pub fn read_page_raw(&self, page: PageNumber) -> Result<Vec<u8>> {
        let failed = |error| Error::io(format!("reading page {page}"), self.storage.name(), error);
        let length = self.storage.length().map_err(failed)?;
        if page.0 >= length / u64::from(self.layout.page_size) {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut bytes = vec![0; self.layout.page_size as usize];
        self.storage.read_at(self.layout.offset_of(page), &mut bytes).map_err(failed)?;
        self.counters.stream_read(bytes.len());
        Ok(bytes)
    }

    /// Keeps a node in memory, with a place in the file, until a durable state needs it written or
    /// it is freed.
    pub fn put_unwritten(&self, spec: &NodeSpec, content: &[u8]) -> Result<NodeRef> {
        let mut scratch = Vec::new();
        let counted_in = Some(&self.budget);
        let codec_id = choose_stored(&self.layout, spec.codec, content, &mut scratch, counted_in)?;
        let stored = if codec_id == CODEC_PLAIN { content } else { &scratch };
        let pages = self.layout.node_pages(stored.len());
        let stamp = self.next_stamp()?;
        let block = self.allocator.allocate(pages, pages)?;
        let lengths = ContentLengths { stored_bytes: stored.len(), raw_bytes: content.len() };
        let header = spec.header(block.first, stamp, codec_id, lengths);
        let mut image = Vec::new();
        let reference = append_node(&self.layout, &header, stored, &mut image);
        let frame = Frame::new(reference, header, content.to_vec(), 0).counted_elsewhere();
        let frame = Arc::new(frame);
        self.unwritten.put(UnwrittenNode { frame: Arc::clone(&frame), image: Arc::new(image) });
        self.cache.insert(frame);
        Ok(reference)
    }

    /// How many nodes are kept in memory unwritten.
    pub fn unwritten_count(&self) -> usize {
        self.unwritten.count()
    }

    /// The first pages of the nodes that are kept in memory unwritten.
    pub fn unwritten_pages(&self) -> Vec<PageNumber> {
        self.unwritten.pages()
    }

    /// Writes all nodes that were not written yet, and forgets them but for the cache; the caller
    /// syncs. Returns how many there were. After an error all of them are still kept.
    pub fn write_unwritten(&self) -> Result<u64> {
        let _one_pass = self.write_pass.lock();
        let nodes = self.unwritten.begin_writing();
        let mut result = Ok(());
        for node in &nodes {
            result = self.write_node_image(node.frame.page(), &node.image);
            if result.is_err() {
                break;
            }
            self.counters.node_written(node.frame.header().kind, node.image.len());
        }
        let written: &[UnwrittenNode] = if result.is_ok() { &nodes } else { &[] };
        for block in self.unwritten.end_writing(written) {
            self.free(block);
        }
        result.map(|()| nodes.len() as u64)
    }

    fn write_node_image(&self, page: PageNumber, image: &[u8]) -> Result<()> {
        write_in_steps(&*self.storage, self.layout.offset_of(page), image)
    }

    /// Gives a block back, and forgets the nodes in memory that begin in it.
    pub fn free(&self, block: Block) {
        // Once the maps are not to be believed nothing is given out again: whatever a damaged file
        // names is not looked for page by page.
        if self.allocator.check_maps().is_ok() && self.allocator.check_sound().is_err() {
            return;
        }
        // A damaged file may name more pages than there are.
        if self.allocator.may_be_allotted(block) {
            self.cache.remove_in(block);
        }
        if self.unwritten.forget(block) {
            self.allocator.free(block);
        }
    }

    /// Cuts the file at its length in pages, if it is longer. Where nodes are read in place, and
    /// one is in use there, the file stays as it is.
    pub fn cut_file(&self) -> Result<()> {
        if self.reads_in_place.load(Ordering::Relaxed) {
            // What is cached just before the end would look as if it were in use behind it (M2).
            let end = self.allocator.file_pages();
            let pages = PIN_BYTES / u64::from(self.layout.page_size);
            (end.saturating_sub(pages)..end).for_each(|page| self.cache.remove(PageNumber(page)));
        }
        self.allocator.cut_file()
    }

    /// Writes `bytes` at `offset` of the stream over `blocks`; with `sync` they are on disk
    /// afterwards.
    pub fn write_stream(
        &self,
        blocks: &[Block],
        offset: u64,
        bytes: &[u8],
        sync: bool,
    ) -> Result<()> {
        self.counters.stream_written(bytes.len());
        write_stream(&self.layout, &*self.storage, blocks, offset, bytes, sync)
    }

    /// Fills `buffer` from `offset` of the stream over `blocks`. Blocks whose numbers came from the
    /// file are checked with [`PageManager::check_block`] before.
    pub fn read_stream(&self, blocks: &[Block], offset: u64, buffer: &mut [u8]) -> Result<()> {
        for block in blocks {
            if block.end().0 > self.layout.max_pages() {
                let error = std::io::ErrorKind::UnexpectedEof.into();
                let operation = format!("reading page {}", block.first);
                return Err(Error::io(operation, self.storage.name(), error));
            }
        }
        self.counters.stream_read(buffer.len());
        read_stream(&self.layout, &*self.storage, blocks, offset, buffer)
    }

    /// Whether a block whose numbers came from the file can be one; the error says why not.
    pub fn check_block(&self, block: Block) -> std::result::Result<(), String> {
        self.layout.check_block(block, self.allocator.file_pages())
    }

    /// The pages of the file.
    pub fn file_pages(&self) -> u64 {
        self.allocator.file_pages()
    }

    /// Writes an encoded state as a node over `blocks`; the caller syncs.
    pub fn write_state(&self, blocks: &[Block], state: &[u8]) -> Result<StateLocation> {
        self.counters.node_written(NodeKind::State, NODE_HEADER_BYTES + state.len());
        let stamp = take_stamp(&self.stamps, StampUse::DurableState, &*self.storage)?;
        state_node::write_state(&self.layout, &*self.storage, blocks, stamp, state)
    }

    /// What was read and written since the open.
    pub fn counters(&self) -> PageCounters {
        PageCounters {
            cache_hits: self.cache.hits(),
            cache_misses: self.cache.misses(),
            ..self.counters.snapshot()
        }
    }

    pub(super) fn count_node_written(&self, kind: NodeKind, bytes: usize) {
        self.counters.node_written(kind, bytes);
    }
}

/// Writes in calls of bounded length, and has the system begin to write back what they wrote.
pub(super) fn write_in_steps(storage: &dyn Storage, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut at = offset;
    for part in bytes.chunks(WRITE_BYTES_MAX) {
        storage.write_at(at, part).map_err(|error| {
            let operation = format!("writing {} bytes at offset {at}", part.len());
            Error::io(operation, storage.name(), error)
        })?;
        if let Err(error) = storage.write_back(at, part.len() as u64) {
            tracing::debug!(
                target: "sapwood::storage",
                %error,
                "write-back was refused; the sync will do it"
            );
        }
        at += part.len() as u64;
    }
    Ok(())
}
