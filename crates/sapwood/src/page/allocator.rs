//! Which pages of the file are whose: gives blocks out, takes them back, and keeps the maps of the
//! durable states.
//!
//! *Assumes*: higher floors decide what is needed; a block is freed when nothing holds it.
//! *Guarantees*: A1: no page is given out twice, and no block crosses a region's border. A2:
//! whatever is referenced is given. A3: header pages and homes are always used. A4: the home that
//! the last durable state names is never written. A5: maps that contradict what is freed or
//! referenced, as those of a damaged file may, are not changed by it; the first such block is kept
//! as damage, and nothing is given out any more.
//! *Format*: `docs/format.md` sections 2.2 and 6.6.
//! *Threads*: any; one lock, held while the file grows or is cut, and for no other I/O.

use crate::error::{Corruption, Error, Result, Structure};
use crate::storage::Storage;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Arc, LockRank, OnceLock, OrderedMutex};
use crate::types::{KeyspaceNumber, PageNumber};

use super::block::Block;
use super::block_list::BlockList;
use super::budget::{Charge, MemoryBudget, MemoryPart};
use super::compress::{CODEC_PLAIN, Codec};
use super::free_map::FreeMap;
use super::layout::Layout;
use super::node_header::NodeKind;
use super::node_image::{ContentLengths, NodeSpec, append_node, verify_node};
use super::page_set::PageSet;
use super::region_entry::RegionEntry;
use super::regions::{Growth, Region, Regions, budget_for_maps};
use super::stamps::{StampCounter, StampUse, take_stamp};

/// Taken under the allocator's own lock; what it counts may shrink the cache.
const CHARGE_RANK: LockRank = LockRank::new(65, "charge of the free maps");

/// What the maps say of pages that are to be referenced and must not be.
const REFERENCED_WRONGLY: &str = "referenced anew, but free or referenced already";

/// What the allocator is made of.
#[derive(Clone, Debug)]
pub struct AllocatorParts {
    /// The sizes of the file.
    pub layout: Layout,
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// Where the write stamps of maps come from.
    pub stamps: Arc<StampCounter>,
    /// Where the maps' memory counts.
    pub budget: Arc<MemoryBudget>,
    /// The file does not grow beyond this.
    pub max_file_bytes: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct Allocator {
    layout: Layout,
    storage: Arc<dyn Storage>,
    stamps: Arc<StampCounter>,
    regions: OrderedMutex<Regions>,
    charge: OrderedMutex<Charge>,
    /// A copy of the number of pages, for checks without the lock.
    file_pages: AtomicU64,
    /// The same of the free pages inside the file that count as room.
    room_pages: AtomicU64,
    max_file_bytes: AtomicU64,
    /// The pages of a file for whose maps the memory budget is enough.
    budget_pages: u64,
    blocks_asked: AtomicU64,
    blocks_returned: AtomicU64,
    pages_asked: AtomicU64,
    pages_returned: AtomicU64,
    damage: OnceLock<Error>,
    has_maps: bool,
}

/// How the file's pages are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocatorStats {
    /// Pages in the file.
    pub file_pages: u64,
    /// Pages that may be given out.
    pub free_pages: u64,
    /// Pages that are given out, header pages and homes included.
    pub given_pages: u64,
    /// Pages that the running durable state references, header pages and homes included.
    pub referenced_pages: u64,
    /// Regions in the file.
    pub region_count: u64,
    /// Runs of free pages.
    pub free_run_count: u64,
    /// Pages of the longest of them.
    pub longest_free_run: u64,
    /// Blocks asked for since the open.
    pub blocks_asked: u64,
    /// Blocks given back since the open.
    pub blocks_returned: u64,
    /// The pages of the blocks asked for.
    pub pages_asked: u64,
    /// The pages of the blocks given back.
    pub pages_returned: u64,
}

/// How far the file is used: see [`Allocator::extent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Pages in the file.
    pub file_pages: u64,
    /// The page behind the last one given out.
    pub used_end: u64,
    /// Pages that are given out, header pages and homes included.
    pub given_pages: u64,
}

impl AllocatorStats {
    /// How scattered the free pages are: 0 when they are one run, near 1 when all are crumbs.
    pub fn fragmentation(&self) -> f64 {
        if self.free_pages == 0 {
            return 0.0;
        }
        1.0 - self.longest_free_run as f64 / self.free_pages as f64
    }
}

/// The maps of one durable state in the making: see [`Allocator::capture`].
#[derive(Debug)]
pub struct CapturedMaps {
    file_pages: u64,
    /// All regions at the capture, with the homes of the state before.
    entries: Vec<Option<RegionEntry>>,
    free_pages: Vec<u64>,
    changed: Vec<FreeMap>,
    written: OnceLock<Vec<RegionEntry>>,
    _charge: Charge,
}

impl CapturedMaps {
    /// The file's length in pages at the capture.
    pub fn file_pages(&self) -> u64 {
        self.file_pages
    }

    /// How many maps will be written.
    pub fn changed_count(&self) -> usize {
        self.changed.len()
    }
}

/// The file's maps take more than their part of the memory budget.
fn beyond_budget(layout: &Layout, storage: &dyn Storage, file_pages: u64) -> Error {
    let bytes = file_pages.saturating_mul(u64::from(layout.page_size));
    let detail = format!(
        "the free maps of {}, which has {bytes} bytes, take more than an eighth of it; \
         set it to {} at least",
        storage.name(),
        budget_for_maps(layout, file_pages)
    );
    Error::InvalidOption { option: "memory_budget", detail }
}

impl Allocator {
    /// Without maps, for whoever only reads: nothing is ever given out, and what is in use is not
    /// known. `problem` is why the maps cannot be read.
    pub fn without_maps(
        parts: AllocatorParts,
        file_pages: u64,
        problem: Error,
    ) -> Result<Allocator> {
        let allocator = Allocator::open(parts, file_pages, &[])?;
        Ok(Allocator { damage: problem.into(), has_maps: false, ..allocator })
    }

    /// Reads the maps that a state names; what it references is given out already. `file_pages` may
    /// be more than the state says, when the file has grown since.
    ///
    /// # Errors
    /// `InvalidOption` that names the memory budget which is enough, when the maps of so long a
    /// file take more than their part of this one; when a map is damaged or cannot be read.
    pub fn open(
        parts: AllocatorParts,
        file_pages: u64,
        entries: &[RegionEntry],
    ) -> Result<Allocator> {
        let AllocatorParts { layout, storage, stamps, budget, max_file_bytes } = parts;
        if file_pages < layout.first_allottable(0).0 {
            let detail = format!("a file of {file_pages} pages has no room for its free map");
            return Err(Corruption::new(Structure::FileHeader, detail).into());
        }
        let max_pages = max_file_bytes.map(|bytes| bytes / u64::from(layout.page_size));
        let mut regions = Regions::new(layout, max_pages, budget.maps_bytes_max());
        if file_pages > regions.budget_pages() {
            return Err(beyond_budget(&layout, &*storage, file_pages));
        }
        for (entry, region_index) in entries.iter().zip(0..) {
            let place = (region_index, file_pages);
            let (referenced, end) = read_map(&layout, &*storage, place, entry)?;
            if u64::from(end) + layout.region_start(region_index).0 > file_pages {
                return Err(Corruption::new(
                    Structure::FreeMap,
                    format!("it uses pages beyond the file's {file_pages}"),
                )
                .at_page(entry.node_ref(&layout, region_index).page)
                .into());
            }
            regions.push_opened(referenced, *entry);
        }
        regions.set_opened_length(file_pages);
        let charge = budget.charge(MemoryPart::FreeMaps, regions.weight_bytes());
        let file_pages = AtomicU64::new(regions.file_pages());
        let room_pages = AtomicU64::new(regions.room_pages());
        let budget_pages = regions.budget_pages();
        Ok(Allocator {
            layout,
            storage,
            stamps,
            regions: OrderedMutex::new(LockRank::PAGE_ALLOCATOR, regions),
            charge: OrderedMutex::new(CHARGE_RANK, charge),
            file_pages,
            room_pages,
            max_file_bytes: AtomicU64::new(max_file_bytes.unwrap_or(u64::MAX)),
            budget_pages,
            blocks_asked: AtomicU64::new(0),
            blocks_returned: AtomicU64::new(0),
            pages_asked: AtomicU64::new(0),
            pages_returned: AtomicU64::new(0),
            damage: OnceLock::new(),
            has_maps: true,
        })
    }

    /// The file's length in pages.
    pub fn file_pages(&self) -> u64 {
        self.file_pages.load(Ordering::Acquire)
    }

    /// A block of exactly `pages` for one node, out of a run of `hint_pages` if there is one.
    pub fn allocate(&self, pages: u32, hint_pages: u32) -> Result<Block> {
        self.take(pages, pages, hint_pages, 0)
    }

    /// A block of at least `min_pages` and at most `wanted_pages`: the longest that free runs
    /// inside the file give in steps of one half, else new pages at its end.
    pub fn allocate_block(&self, min_pages: u32, wanted_pages: u32) -> Result<Block> {
        self.take(min_pages, wanted_pages.max(min_pages), wanted_pages, 0)
    }

    /// The same, of which at least `kept` free pages of the file are left.
    pub fn allocate_block_beside(
        &self,
        kept: u64,
        min_pages: u32,
        wanted_pages: u32,
    ) -> Result<Block> {
        self.take(min_pages, wanted_pages.max(min_pages), wanted_pages, kept)
    }

    fn take(&self, min_pages: u32, most_pages: u32, hint_pages: u32, kept: u64) -> Result<Block> {
        assert!(min_pages > 0, "a block has at least one page");
        if min_pages > self.layout.block_pages_max() {
            return Err(Error::InvalidOption {
                option: "region_bytes",
                detail: format!(
                    "a node of {min_pages} pages does not fit a region of {} bytes",
                    self.layout.region_bytes
                ),
            });
        }
        self.check_sound()?;
        let mut regions = self.regions.lock();
        let wanted = kept.saturating_add(u64::from(min_pages));
        let most_pages = match kept {
            0 => most_pages,
            _ => {
                self.lengthen(&mut regions, wanted)?;
                let beside = regions.room_pages().saturating_sub(kept);
                most_pages.min(u32::try_from(beside).unwrap_or(u32::MAX)).max(min_pages)
            }
        };
        let hint_pages = hint_pages.min(most_pages);
        let block = match regions.take_free(min_pages, most_pages, hint_pages) {
            Some(block) => block,
            None => {
                self.grow(&mut regions, min_pages, most_pages)?;
                regions
                    .take_new(min_pages, most_pages)
                    .ok_or_else(|| self.no_space(min_pages.into()))?
            }
        };
        self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
        drop(regions);
        self.blocks_asked.fetch_add(1, Ordering::Relaxed);
        self.pages_asked.fetch_add(u64::from(block.pages), Ordering::Relaxed);
        Ok(block)
    }

    /// Makes the file longer until its end has a run of `min_pages`, better `wanted_pages`.
    fn grow(&self, regions: &mut Regions, min_pages: u32, wanted_pages: u32) -> Result<()> {
        let Some(growth) = regions.plan_growth(min_pages, wanted_pages) else {
            return Err(self.no_space(min_pages.into()));
        };
        self.extend(regions, &growth)
    }

    /// Makes the file longer.
    fn extend(&self, regions: &mut Regions, growth: &Growth) -> Result<()> {
        let before = regions.file_pages();
        // When the device is nearly full a smaller step may still do.
        let mut result = Ok(());
        for to_pages in [growth.wanted_end, growth.least_end] {
            let offset = before * u64::from(self.layout.page_size);
            let length = (to_pages - before) * u64::from(self.layout.page_size);
            result = self.storage.allocate(offset, length).map_err(|error| {
                Error::io(format!("growing by {length} bytes"), self.storage.name(), error)
            });
            match &result {
                Ok(()) => {
                    regions.extend_to(to_pages);
                    self.file_pages.store(to_pages, Ordering::Release);
                    self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
                    self.charge.lock().set(regions.weight_bytes());
                    break;
                }
                Err(error) if !error.is_no_space() => break,
                Err(_) => {}
            }
        }
        result
    }

    /// Free pages inside the file where a leaf has room, as far as there is room for long nodes,
    /// too: a third of them must lie in runs of 64 KiB.
    pub fn room_pages(&self) -> u64 {
        self.room_pages.load(Ordering::Relaxed)
    }

    /// What [`Allocator::room_pages`] must be: counted anew.
    #[cfg(test)]
    pub(super) fn counted_room_pages(&self) -> u64 {
        let regions = self.regions.lock();
        regions.room_before(regions.file_pages())
    }

    /// Makes the file longer until it has so many free pages, which the device has then promised.
    ///
    /// # Errors
    /// `NoSpace` when the device, or `max_file_bytes`, does not allow it. The file may be longer
    /// then, but not by enough.
    pub fn ensure_free(&self, pages: u64) -> Result<()> {
        if self.room_pages() >= pages {
            return Ok(());
        }
        self.check_sound()?;
        self.lengthen(&mut self.regions.lock(), pages)
    }

    fn lengthen(&self, regions: &mut Regions, pages: u64) -> Result<()> {
        loop {
            let missing = pages.saturating_sub(regions.room_pages());
            if missing == 0 {
                return Ok(());
            }
            let Some(growth) = regions.plan_longer(missing) else {
                return Err(self.no_space(missing));
            };
            self.extend(regions, &growth)?;
        }
    }

    /// How many pages a leaf takes.
    pub fn set_leaf_pages(&self, pages: u32) {
        let mut regions = self.regions.lock();
        regions.set_leaf_pages(pages);
        self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
    }

    /// From now on short runs are used up first, or no longer, as is said when it is changed.
    pub fn set_short(&self, is_short: impl FnOnce() -> bool) {
        let mut regions = self.regions.lock();
        regions.set_short(is_short());
    }

    /// So many free pages stay in the file when it is cut.
    pub fn set_kept_free(&self, pages: u64) {
        self.regions.lock().set_kept_free(pages);
    }

    /// Where [`Allocator::shrink_to_used`] would cut the file.
    pub fn cut_end(&self) -> u64 {
        self.regions.lock().cut_end()
    }

    fn no_space(&self, pages: u64) -> Error {
        Error::NoSpace {
            operation: format!("allotting {pages} pages; {}", self.why_no_longer()),
            file: self.storage.name(),
        }
    }

    /// How long the file may be, in bytes, where the device has room.
    pub fn file_bytes_max(&self) -> u64 {
        self.max_file_bytes.load(Ordering::Relaxed).min(self.budget_bytes())
    }

    fn budget_bytes(&self) -> u64 {
        self.budget_pages.saturating_mul(u64::from(self.layout.page_size))
    }

    /// What keeps the file from growing.
    fn why_no_longer(&self) -> String {
        let max_file_bytes = self.max_file_bytes.load(Ordering::Relaxed);
        let with_budget = self.budget_bytes();
        if max_file_bytes <= with_budget {
            return format!("max_file_bytes is {max_file_bytes}");
        }
        match self.budget_pages < self.layout.max_pages() {
            true => {
                format!("for a file of more than {with_budget} bytes set a larger memory_budget")
            }
            false => "no file can be longer".to_owned(),
        }
    }

    /// Gives pages back; they may be given out again at once.
    pub fn free(&self, block: Block) {
        let is_dead = |region: &Region, first, pages| {
            region.given.all_set(first, pages) && region.referenced.all_clear(first, pages)
        };
        let windows = self.regions.lock().windows();
        let freed = self.change(
            block,
            "freed, but free or still referenced",
            is_dead,
            |region, first, pages| {
                region.take_back(first, pages, windows);
            },
        );
        if freed {
            self.blocks_returned.fetch_add(1, Ordering::Relaxed);
            self.pages_returned.fetch_add(u64::from(block.pages), Ordering::Relaxed);
        }
    }

    /// Changes the maps for a block of which every part is as it must be; otherwise notes damage.
    /// What a damaged file says cannot be told from an error of the program here, and both must
    /// stop writing before anything is overwritten.
    fn change(
        &self,
        block: Block,
        what: &str,
        must_be: impl Fn(&Region, u32, u32) -> bool,
        act: impl FnMut(&mut Region, u32, u32),
    ) -> bool {
        let mut regions = self.regions.lock();
        let is_right = regions.all_parts(block, must_be);
        if is_right {
            regions.each_part(block, act);
            self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
        } else {
            self.note_damage(block, what);
        }
        is_right
    }

    /// A block is to be referenced twice: the maps of a damaged file may have led to that.
    pub fn note_twice(&self, block: Block) {
        self.note_damage(block, REFERENCED_WRONGLY);
    }

    /// The maps say otherwise of a block than what is to happen to it.
    fn note_damage(&self, block: Block, what: &str) {
        let detail = format!("{} pages are {what} by its region's map", block.pages);
        let damage = Corruption::new(Structure::FreeMap, detail).at_page(block.first);
        let _ = self.damage.set(damage.into());
    }

    /// Fails when the maps have contradicted what was done (A5): nothing may be written then.
    ///
    /// # Errors
    /// `Corruption` with the first page of the first such block; or why there are no maps.
    pub fn check_sound(&self) -> Result<()> {
        self.damage.get().map_or(Ok(()), |damage| Err(damage.clone()))
    }

    /// Whether the maps of the state that was opened could be read. Without them all pages count as
    /// free, and none is given out.
    ///
    /// # Errors
    /// Why not.
    pub fn check_maps(&self) -> Result<()> {
        if self.has_maps { Ok(()) } else { self.check_sound() }
    }

    /// Whether a block can be one that was allotted.
    pub fn may_be_allotted(&self, block: Block) -> bool {
        self.regions.lock().all_parts(block, |_, _, _| true)
    }

    /// The running durable state references the pages from now on.
    pub fn reference(&self, block: Block) {
        let is_new = |region: &Region, first, pages| {
            region.given.all_set(first, pages) && region.referenced.all_clear(first, pages)
        };
        self.change(block, REFERENCED_WRONGLY, is_new, |region, first, pages| {
            region.referenced.set(first, pages);
            region.changed = true;
        });
    }

    /// The same for very many pages: the lock is taken for each chunk of the set, and 64 pages cost
    /// as much as one.
    pub fn reference_all(&self, pages: &PageSet) {
        for words in pages.words() {
            let mut regions = self.regions.lock();
            let wrong = words.clone().find_map(|(first, bits)| {
                let free_or_referenced = match regions.region_of_word(first) {
                    Some((region, at)) => !region.given.word(at) | region.referenced.word(at),
                    None => u64::MAX,
                };
                let wrong = bits & free_or_referenced;
                (wrong != 0).then(|| first.0 + u64::from(wrong.trailing_zeros()))
            });
            if let Some(page) = wrong {
                self.note_damage(Block::new(PageNumber(page), 1), REFERENCED_WRONGLY);
                return;
            }
            for (first, bits) in words {
                if let Some((region, at)) = regions.region_of_word(first) {
                    region.referenced.set_word(at, bits);
                    region.changed = true;
                }
            }
        }
    }

    /// The running durable state does not reference the pages any more.
    pub fn dereference(&self, block: Block) {
        let is_old = |region: &Region, first, pages| region.referenced.all_set(first, pages);
        self.change(
            block,
            "not needed any more, but not referenced",
            is_old,
            |region, first, pages| {
                region.referenced.clear(first, pages);
                region.changed = true;
            },
        );
    }

    /// Marks a block as given out that the log names. It must be inside the file and free.
    pub fn claim(&self, block: Block) -> Result<()> {
        let damaged = |detail: String| Corruption::new(Structure::Log, detail).at_page(block.first);
        let mut regions = self.regions.lock();
        self.layout.check_block(block, regions.file_pages()).map_err(damaged)?;
        let (mut taken, windows) = (false, regions.windows());
        regions.each_part(block, |region, first, pages| {
            taken = !region.given.all_clear(first, pages);
            if !taken {
                region.give(first, pages, windows);
            }
        });
        self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
        if taken {
            return Err(damaged(format!(
                "a record names {} pages of which some are in use already",
                block.pages
            ))
            .into());
        }
        Ok(())
    }

    /// Copies the maps that changed since the last capture, with the new state's own blocks set in
    /// the copies. Those regions count as changed again at the next capture, since the running maps
    /// do not have these blocks. One capture at a time.
    pub fn capture(&self, extra: &[Block]) -> CapturedMaps {
        let mut regions = self.regions.lock();
        regions.begin_capture();
        for block in extra {
            regions.each_part(*block, |region, first, pages| {
                assert!(region.given.all_set(first, pages), "{block:?} was not given out");
            });
        }
        let mut copies = regions.copy_changed(extra);
        for copy in &mut copies {
            let start = self.layout.region_start(copy.region_index());
            for block in extra {
                if self.layout.region_of(block.first) == copy.region_index() {
                    copy.set((block.first.0 - start.0) as u32, block.pages);
                }
            }
        }
        let (entries, free_pages) = regions.entries();
        let weight_bytes = copies.iter().map(FreeMap::weight_bytes).sum();
        let charge = self.charge.lock().budget().charge(MemoryPart::FreeMaps, weight_bytes);
        CapturedMaps {
            file_pages: regions.file_pages(),
            entries,
            free_pages: copies.iter().fold(free_pages, |mut all, copy| {
                if let Some(free) = all.get_mut(copy.region_index() as usize) {
                    *free = regions.free_inside_file(copy);
                }
                all
            }),
            changed: copies,
            written: OnceLock::new(),
            _charge: charge,
        }
    }

    /// Writes each captured map to the home that the last durable state does not name; the caller
    /// syncs. Returns what the new state says of every region.
    pub fn write_captured(&self, captured: &CapturedMaps) -> Result<Vec<RegionEntry>> {
        let mut entries = captured.entries.clone();
        let mut image = Vec::new();
        for map in &captured.changed {
            let region_index = map.region_index();
            let Some(entry) = entries.get_mut(region_index as usize) else {
                continue;
            };
            let home = entry.map_or(0, |entry| 1 - entry.home);
            *entry = Some(self.write_map(map, home, &mut image)?);
        }
        let all = entries
            .into_iter()
            .zip(&captured.free_pages)
            .map(|(entry, &free_pages)| entry.map(|entry| RegionEntry { free_pages, ..entry }))
            .collect::<Option<Vec<_>>>();
        // A region without a home counts as changed, so it has just got one.
        assert!(all.is_some(), "a region was captured without a map");
        let all = all.unwrap_or_default();
        assert!(captured.written.set(all.clone()).is_ok(), "a capture is written once");
        Ok(all)
    }

    fn write_map(&self, map: &FreeMap, home: u8, image: &mut Vec<u8>) -> Result<RegionEntry> {
        let content = map.encode();
        let spec = NodeSpec {
            kind: NodeKind::FreeMap,
            height: 0,
            flags: 0,
            keyspace: KeyspaceNumber::MANY,
            codec: Codec::Plain,
        };
        let page = self.layout.map_home(map.region_index(), home).first;
        let lengths = ContentLengths { stored_bytes: content.len(), raw_bytes: content.len() };
        let stamp = take_stamp(&self.stamps, StampUse::DurableState, &*self.storage)?;
        let header = spec.header(page, stamp, CODEC_PLAIN, lengths);
        image.clear();
        let reference = append_node(&self.layout, &header, &content, image);
        self.storage
            .write_at(self.layout.offset_of(page), image)
            .map_err(|error| Error::io("writing a free map", self.storage.name(), error))?;
        Ok(RegionEntry {
            home,
            stamp: reference.stamp,
            checksum: reference.checksum,
            free_pages: 0,
        })
    }

    /// The state that the capture was made for is on disk: its homes are the ones to keep now.
    pub fn captured_durable(&self, captured: CapturedMaps) {
        let written = captured.written.into_inner();
        assert!(written.is_some(), "a capture became durable without having been written");
        self.regions.lock().end_capture_durable(&written.unwrap_or_default());
    }

    /// The state that the capture was made for will not be: its maps count as changed still.
    pub fn captured_failed(&self, captured: CapturedMaps) {
        let changed = captured.changed.iter().map(FreeMap::region_index);
        self.regions.lock().end_capture_failed(changed);
    }

    /// Gives up the pages behind the last one given out, so that nothing is allotted there any
    /// more; returns the file's new length in pages. `None` when there are none, or a capture is
    /// under way. The file itself is cut by [`Allocator::cut_file`], once a durable state has this
    /// length.
    pub fn shrink_to_used(&self) -> Option<u64> {
        let mut regions = self.regions.lock();
        let file_pages = regions.shrink_to_used()?;
        self.file_pages.store(file_pages, Ordering::Release);
        self.room_pages.store(regions.room_pages(), Ordering::Relaxed);
        self.charge.lock().set(regions.weight_bytes());
        Some(file_pages)
    }

    /// Cuts the file at its length in pages, if it is longer, and nothing is in use there.
    pub fn cut_file(&self) -> Result<()> {
        // Under the lock, so that the file does not grow between the question and the cut.
        let regions = self.regions.lock();
        let length = regions.file_pages() * u64::from(self.layout.page_size);
        let failed = |error| Error::io("cutting the file", self.storage.name(), error);
        if self.storage.length().map_err(failed)? > length {
            match self.storage.set_length(length) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    tracing::debug!(target: "sapwood::storage", %error, "the file is not cut now");
                }
                result => result.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// From now on free runs that begin below this page are taken first, so that the file can be
    /// cut there; `None`: any run will do.
    pub fn set_ceiling(&self, ceiling: Option<PageNumber>) {
        self.regions.lock().set_ceiling(ceiling.map(|page| page.0));
    }

    /// See [`Allocator::set_ceiling`].
    pub fn ceiling(&self) -> Option<PageNumber> {
        self.regions.lock().ceiling().map(PageNumber)
    }

    /// Whether a block of so many pages would have a place before a page.
    pub fn has_place_before(&self, end: PageNumber, pages: u32) -> bool {
        self.regions.lock().has_run_before(end.0, pages)
    }

    /// How far the file is used, and how much of it.
    pub fn extent(&self) -> Extent {
        let regions = self.regions.lock();
        let (used_end, given_pages) = regions.extent();
        Extent { file_pages: regions.file_pages(), used_end, given_pages }
    }

    /// Whether the block can be one of this file and every page of it is given out. Numbers that
    /// came from the file may be asked about.
    pub fn is_given(&self, block: Block) -> bool {
        self.all_set(block, |region| &region.given)
    }

    /// The same of what the running durable state references.
    pub fn is_referenced(&self, block: Block) -> bool {
        self.all_set(block, |region| &region.referenced)
    }

    fn all_set(&self, block: Block, map: impl Fn(&Region) -> &FreeMap) -> bool {
        let mut regions = self.regions.lock();
        if self.layout.check_block(block, regions.file_pages()).is_err() {
            return false;
        }
        let mut all = true;
        regions.each_part(block, |region, first, pages| {
            all &= map(region).all_set(first, pages);
        });
        all
    }

    /// All pages that are given out, header pages and homes left out.
    pub fn given_list(&self) -> BlockList {
        let mut list = BlockList::new();
        self.regions.lock().each_used(|region| &region.given, |block| list.insert(block));
        list
    }

    /// [`Allocator::given_list`] as bits.
    pub fn given_set(&self) -> PageSet {
        let mut set = PageSet::new();
        self.regions.lock().each_used(|region| &region.given, |block| set.insert_any(block));
        set
    }

    /// All pages that the running durable state references, header pages and homes left out.
    pub fn referenced_list(&self) -> BlockList {
        let mut list = BlockList::new();
        self.regions.lock().each_used(|region| &region.referenced, |block| list.insert(block));
        list
    }

    /// [`Allocator::referenced_list`] as bits.
    pub fn referenced_set(&self) -> PageSet {
        let mut set = PageSet::new();
        self.regions.lock().each_used(|region| &region.referenced, |block| set.insert_any(block));
        set
    }

    /// Changes the limit of the file's length.
    pub fn set_max_file_bytes(&self, max_file_bytes: Option<u64>) {
        let max_pages = max_file_bytes.map(|bytes| bytes / u64::from(self.layout.page_size));
        self.max_file_bytes.store(max_file_bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        self.regions.lock().set_max_pages(max_pages);
    }

    /// How the file's pages are used; walks all maps.
    pub fn stats(&self) -> AllocatorStats {
        let mut stats = self.regions.lock().stats();
        stats.blocks_asked = self.blocks_asked.load(Ordering::Relaxed);
        stats.blocks_returned = self.blocks_returned.load(Ordering::Relaxed);
        stats.pages_asked = self.pages_asked.load(Ordering::Relaxed);
        stats.pages_returned = self.pages_returned.load(Ordering::Relaxed);
        stats
    }
}

/// Reads a region's map from the home that `entry` names, in a file of so many pages; returns the
/// end of its used pages too.
fn read_map(
    layout: &Layout,
    storage: &dyn Storage,
    (region_index, file_pages): (u64, u64),
    entry: &RegionEntry,
) -> Result<(FreeMap, u32)> {
    let reference = entry.node_ref(layout, region_index);
    let damaged = |detail: String| -> Error {
        Corruption::new(Structure::FreeMap, detail).at_page(reference.page).into()
    };
    if entry.home > 1 || reference.block().end().0 > file_pages {
        return Err(damaged("no region can lie there".into()));
    }
    let mut bytes = vec![0; layout.bytes_of(reference.pages)];
    storage.read_at(layout.offset_of(reference.page), &mut bytes).map_err(|error| {
        Error::io(format!("reading the free map of region {region_index}"), storage.name(), error)
    })?;
    let frame = verify_node(layout, &reference, NodeKind::FreeMap, bytes)?;
    let map = FreeMap::decode(frame.content()).map_err(damaged)?;
    if map.region_index() != region_index || map.page_count() != layout.region_pages() {
        return Err(damaged(format!("it is the map of region {}", map.region_index())));
    }
    if !map.all_set(0, layout.fixed_pages(region_index)) {
        return Err(damaged("header pages or homes are free in it".into()));
    }
    let end = map.used_end();
    Ok((map, end))
}
