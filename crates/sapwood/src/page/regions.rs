//! The regions of the file in memory: two maps for each, and the choice among free runs.
//!
//! *Guarantees*: those of [`super::allocator`], which holds the lock and does the I/O.

use std::collections::BTreeMap;

use crate::types::PageNumber;

use super::allocator::AllocatorStats;
use super::block::Block;
use super::budget::MAPS_PART;
use super::free_map::FreeMap;
use super::layout::Layout;
use super::region_entry::RegionEntry;

/// The first step by which a file grows; each step is twice the one before.
const GROWTH_BYTES_MIN: u64 = 256 << 10;
/// The largest step.
const GROWTH_BYTES_MAX: u64 = 32 << 20;
/// What a region takes in memory beside the bits of its maps, in bytes: the same in each version,
/// as it decides how long a file may be.
const REGION_BYTES: u64 = 256;
const _: () = assert!(size_of::<Region>() as u64 <= REGION_BYTES);
/// For free pages the file grows by one of so many of its pages at most, or by what is missing.
const LONGER_SHARE: u64 = 8;

/// One region.
#[derive(Debug)]
pub(super) struct Region {
    /// What may not be given out now.
    pub(super) given: FreeMap,
    /// What the running durable state references.
    pub(super) referenced: FreeMap,
    /// `referenced` is not what the home holds.
    pub(super) changed: bool,
    /// Where the last durable state's map lies; `None` for a region that it does not know.
    entry: Option<RegionEntry>,
    /// Where the next search begins, as an index in the region.
    cursor: u32,
    /// Pages of the region that lie inside the file.
    inside: u32,
    /// Free pages of it that lie in whole windows.
    room: Room,
}

impl Region {
    fn new(given: FreeMap, referenced: FreeMap, entry: Option<RegionEntry>) -> Region {
        let changed = entry.is_none();
        Region { given, referenced, changed, entry, cursor: 0, inside: 0, room: Room::default() }
    }

    /// Gives pages out.
    pub(super) fn give(&mut self, first: u32, pages: u32, windows: Windows) {
        self.room = self.room.less(self.room_at(first, pages, windows, self.inside));
        self.given.set(first, pages);
    }

    /// Takes pages back.
    pub(super) fn take_back(&mut self, first: u32, pages: u32, windows: Windows) {
        self.given.clear(first, pages);
        self.room = self.room.and(self.room_at(first, pages, windows, self.inside));
    }

    /// Pages of the free windows that hold one of these pages.
    fn room_at(&self, first: u32, pages: u32, windows: Windows, inside: u32) -> Room {
        let count = |window: u32| {
            let is_free = |at: &u32| at + window <= inside && self.given.all_clear(*at, window);
            let all = (first / window..(first + pages).div_ceil(window)).map(|at| at * window);
            all.filter(is_free).count() as u64 * u64::from(window)
        };
        Room { leaves: count(windows.leaf), long: count(windows.long) }
    }

    /// The file has another length.
    fn set_inside(&mut self, inside: u32, windows: Windows) {
        // A window that reaches over the end of the file is no room: only those behind the nearer
        // end change.
        let (near, far) = (inside.min(self.inside), inside.max(self.inside));
        let between = self.room_at(near, far - near, windows, far);
        self.room = match inside < self.inside {
            true => self.room.less(between),
            false => self.room.and(between),
        };
        self.inside = inside;
    }

    /// Windows have another size.
    fn set_windows(&mut self, windows: Windows) {
        self.room = self.room_at(0, self.inside, windows, self.inside);
    }
}

/// How many pages must lie free side by side, from a multiple of their number on, to count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// For a leaf.
    leaf: u32,
    /// For a long node.
    long: u32,
}

/// Free pages that count.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    leaves: u64,
    long: u64,
}

impl Room {
    fn and(self, other: Room) -> Room {
        Room { leaves: self.leaves + other.leaves, long: self.long + other.long }
    }

    fn less(self, other: Room) -> Room {
        Room { leaves: self.leaves - other.leaves, long: self.long - other.long }
    }

    /// Less than a third of what is written are nodes longer than leaves.
    fn pages(self) -> u64 {
        self.leaves.max(self.long).min(3 * self.long)
    }
}

/// How long the file is to become, in pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// With the step that the file's history asks for.
    pub(super) wanted_end: u64,
    /// With what is needed now.
    pub(super) least_end: u64,
}

/// What a region takes in memory, in bytes.
fn region_weight(layout: &Layout) -> u64 {
    REGION_BYTES + 2 * FreeMap::words_bytes(layout.region_pages())
}

/// The pages of a file whose maps take so many bytes at most: one region is within any.
fn pages_within(layout: &Layout, maps_bytes_max: u64) -> u64 {
    let regions = (maps_bytes_max / region_weight(layout)).max(1);
    regions.saturating_mul(u64::from(layout.region_pages()))
}

/// The memory budget, in whole MiB, that is enough for the maps of a file of so many pages.
pub fn budget_for_maps(layout: &Layout, file_pages: u64) -> u64 {
    let regions = file_pages.div_ceil(u64::from(layout.region_pages()));
    let bytes = regions.saturating_mul(region_weight(layout)).saturating_mul(MAPS_PART);
    bytes.checked_next_multiple_of(1 << 20).unwrap_or(u64::MAX)
}

#[derive(Debug)]
pub(super) struct Regions {
    layout: Layout,
    regions: Vec<Region>,
    file_pages: u64,
    /// The file grows no further: what the options say, and what the memory budget has maps for.
    max_pages: u64,
    budget_pages: u64,
    growth_bytes: u64,
    capturing: bool,
    /// Runs below it are taken first; `None`: any run will do.
    ceiling: Option<u64>,
    /// Free pages in whole windows.
    room: Room,
    windows: Windows,
    /// Windows are left alone while there are shorter runs.
    is_short: bool,
    /// So many free pages stay in the file when it is cut.
    kept_free: u64,
    /// Homes of regions that were given up: the last durable state may name them still, so that a
    /// region which comes back must not write there.
    retired: BTreeMap<u64, RegionEntry>,
}

impl Regions {
    /// For a file of at most `max_pages`, with maps of at most so many bytes.
    pub(super) fn new(layout: Layout, max_pages: Option<u64>, maps_bytes_max: u64) -> Regions {
        let mut regions = Regions {
            layout,
            regions: Vec::new(),
            file_pages: 0,
            max_pages: 0,
            budget_pages: pages_within(&layout, maps_bytes_max),
            growth_bytes: GROWTH_BYTES_MIN,
            capturing: false,
            ceiling: None,
            room: Room::default(),
            windows: Windows { leaf: 1, long: layout.window_pages() },
            is_short: false,
            kept_free: 0,
            retired: BTreeMap::new(),
        };
        regions.set_max_pages(max_pages);
        regions
    }

    /// From now on free runs below this page are taken first.
    pub(super) fn set_ceiling(&mut self, ceiling: Option<u64>) {
        self.ceiling = ceiling;
    }

    pub(super) fn ceiling(&self) -> Option<u64> {
        self.ceiling
    }

    /// The page behind the last one given out; and how many are given out.
    pub(super) fn extent(&self) -> (u64, u64) {
        let layout = &self.layout;
        let used = self.regions.iter().map(|region| u64::from(region.given.used())).sum();
        let ends = (0..).zip(&self.regions).filter_map(|(index, region)| {
            let end = region.given.used_end();
            // A region with nothing but its own homes can go.
            let in_use = index == 0 || end > layout.fixed_pages(index);
            in_use.then(|| layout.region_start(index).0 + u64::from(end))
        });
        (ends.last().unwrap_or(0), used)
    }

    pub(super) fn set_max_pages(&mut self, max_pages: Option<u64>) {
        let most = self.layout.max_pages().min(self.budget_pages);
        self.max_pages = max_pages.unwrap_or(u64::MAX).min(most);
    }

    /// The pages of a file for whose maps the memory budget is enough.
    pub(super) fn budget_pages(&self) -> u64 {
        self.budget_pages
    }

    /// Adds a region as the state that was opened has it.
    pub(super) fn push_opened(&mut self, referenced: FreeMap, entry: RegionEntry) {
        self.regions.push(Region::new(referenced.clone(), referenced, Some(entry)));
    }

    /// Sets the length after all regions of the state are in. What the file has beyond them is used
    /// as far as it makes sense: a region needs both homes.
    pub(super) fn set_opened_length(&mut self, file_pages: u64) {
        let known = self.regions.len() as u64;
        let last_index = file_pages.saturating_sub(1) / u64::from(self.layout.region_pages());
        let whole = last_index < known || file_pages >= self.layout.first_allottable(last_index).0;
        let usable = if whole { file_pages } else { self.layout.region_start(last_index).0 };
        self.extend_to(usable);
    }

    pub(super) fn file_pages(&self) -> u64 {
        self.file_pages
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.regions.len() as u64 * region_weight(&self.layout)
    }

    /// Sets the file's length, and adds the regions that it now has.
    pub(super) fn extend_to(&mut self, file_pages: u64) {
        self.file_pages = file_pages;
        let page_count = self.layout.region_pages();
        while (self.regions.len() as u64) < file_pages.div_ceil(u64::from(page_count)) {
            let region_index = self.regions.len() as u64;
            let map = FreeMap::new(region_index, page_count, self.layout.fixed_pages(region_index));
            let entry = self.retired.remove(&region_index);
            self.regions.push(Region { changed: true, ..Region::new(map.clone(), map, entry) });
        }
        self.count_room();
    }

    /// After the file's length has changed.
    fn count_room(&mut self) {
        let windows = self.windows;
        for index in 0..self.regions.len() {
            let inside = self.inside(index as u64);
            if let Some(region) = self.regions.get_mut(index).filter(|r| r.inside != inside) {
                region.set_inside(inside, windows);
            }
        }
        self.sum_room();
    }

    fn sum_room(&mut self) {
        self.room = self.regions.iter().fold(Room::default(), |room, region| room.and(region.room));
    }

    /// How many pages of a region lie inside the file.
    fn inside(&self, region_index: u64) -> u32 {
        let rest = self.file_pages.saturating_sub(self.layout.region_start(region_index).0);
        // At most a region's pages.
        rest.min(u64::from(self.layout.region_pages())) as u32
    }

    /// Gives out free pages inside the file: from the lowest region that has a run of `hint_pages`,
    /// else half of that, and so on down to `min_pages`; at most `most_pages` of the run.
    pub(super) fn take_free(
        &mut self,
        min_pages: u32,
        most_pages: u32,
        hint_pages: u32,
    ) -> Option<Block> {
        let target = hint_pages.clamp(min_pages, self.layout.block_pages_max().max(min_pages));
        // What is to move to the front must not go into the crumbs of the tail.
        if self.is_short
            && self.ceiling.is_none()
            && let Some(block) = self.take_crumb(min_pages, most_pages)
        {
            return Some(block);
        }
        // What moves to the front takes the first hole that will do: long runs close as well as
        // short ones, but nothing else would fill the short ones.
        let low = self.ceiling.and_then(|end| self.take_run(end, min_pages, most_pages));
        low.or_else(|| self.take_below(self.file_pages, target, min_pages, most_pages))
    }

    /// Takes pages that are no part of a long window.
    fn take_crumb(&mut self, min_pages: u32, most_pages: u32) -> Option<Block> {
        let (windows, window) = (self.windows, self.windows.long);
        for region_index in 0..self.regions.len() as u64 {
            let start = self.layout.region_start(region_index).0;
            let inside = self.inside(region_index);
            let Some(region) = self.regions.get_mut(region_index as usize) else { continue };
            let mut first = region.given.next_free(0);
            while first < inside {
                let end = region.given.next_used(first).min(inside);
                // What lies before the first whole window, and behind the last.
                let (low, high) = (first.next_multiple_of(window), end / window * window);
                let parts =
                    if low < high { [(first, low), (high, end)] } else { [(first, end); 2] };
                if let Some((at, to)) = parts.into_iter().find(|(at, to)| to - at >= min_pages) {
                    let pages = (to - at).min(most_pages);
                    let before = region.room;
                    region.give(at, pages, windows);
                    self.room = self.room.less(before).and(region.room);
                    return Some(Block::new(PageNumber(start + u64::from(at)), pages));
                }
                first = region.given.next_free(end);
            }
        }
        None
    }

    fn take_below(
        &mut self,
        end: u64,
        mut target: u32,
        min_pages: u32,
        most_pages: u32,
    ) -> Option<Block> {
        loop {
            if let Some(block) = self.take_run(end, target, most_pages) {
                return Some(block);
            }
            if target == min_pages {
                return None;
            }
            target = (target / 2).max(min_pages);
        }
    }

    fn take_run(&mut self, end: u64, least_pages: u32, most_pages: u32) -> Option<Block> {
        let windows = self.windows;
        for region_index in 0..self.regions.len() as u64 {
            let below = end.saturating_sub(self.layout.region_start(region_index).0);
            // At most a region's pages.
            let limit = u64::from(self.inside(region_index)).min(below) as u32;
            let packing = self.ceiling.is_some();
            let Some(region) = self.regions.get_mut(region_index as usize) else {
                continue;
            };
            let cursor = if packing { 0 } else { region.cursor };
            let found = region.given.find_run(least_pages, cursor, limit);
            let found = found.or_else(|| region.given.find_run(least_pages, 0, limit));
            if let Some(first) = found {
                let pages = region.given.free_run_at(first, most_pages.min(limit - first));
                let before = region.room;
                region.give(first, pages, windows);
                self.room = self.room.less(before).and(region.room);
                region.cursor = first + pages;
                let start = self.layout.region_start(region_index).0;
                return Some(Block::new(PageNumber(start + u64::from(first)), pages));
            }
        }
        None
    }

    /// Whether so many pages side by side are free before a page.
    pub(super) fn has_run_before(&mut self, end: u64, pages: u32) -> bool {
        (0..self.regions.len() as u64).any(|region_index| {
            let below = end.saturating_sub(self.layout.region_start(region_index).0);
            // At most a region's pages.
            let limit = u64::from(self.inside(region_index)).min(below) as u32;
            let region = self.regions.get_mut(region_index as usize);
            region.is_some_and(|region| region.given.find_run(pages, 0, limit).is_some())
        })
    }

    /// Gives out pages at the end of a file that has just grown.
    pub(super) fn take_new(&mut self, min_pages: u32, most_pages: u32) -> Option<Block> {
        self.take_free(min_pages, most_pages, most_pages)
    }

    /// How far the file must grow so that its last region ends with a run of `min_pages` or more.
    /// `None` when it may not.
    pub(super) fn plan_growth(&mut self, min_pages: u32, wanted_pages: u32) -> Option<Growth> {
        let region_pages = u64::from(self.layout.region_pages());
        let last_index = (self.regions.len() as u64).saturating_sub(1);
        let border = (last_index + 1) * region_pages;
        // Free pages at the file's end count.
        let tail = self.regions.last().map_or(0, |region| {
            let inside = self.inside(last_index);
            u64::from(inside.saturating_sub(region.given.used_end()))
        });
        let start = self.file_pages - tail;
        let (first, border) = if start + u64::from(min_pages) <= border {
            (start, border)
        } else {
            let next = self.layout.first_allottable(last_index + 1).0;
            (next, border + region_pages)
        };
        let least_end = first + u64::from(min_pages);
        if least_end > self.max_pages {
            return None;
        }
        let step_pages = (self.growth_bytes / u64::from(self.layout.page_size)).max(1);
        self.growth_bytes = (self.growth_bytes * 2).min(GROWTH_BYTES_MAX);
        let wanted_end = (first + u64::from(wanted_pages))
            .max(self.file_pages + step_pages)
            .min(border)
            .min(self.max_pages);
        Some(Growth { wanted_end: wanted_end.max(least_end), least_end })
    }

    /// How far the file must grow to have `missing` more free pages, or as many of them as its last
    /// region, or else the next one, has room for. `None` when it may not.
    pub(super) fn plan_longer(&mut self, missing: u64) -> Option<Growth> {
        let region_pages = u64::from(self.layout.region_pages());
        let border = self.file_pages.next_multiple_of(region_pages);
        let (first, border) = if self.file_pages < border {
            (self.file_pages, border)
        } else {
            let next = self.file_pages / region_pages;
            (self.layout.first_allottable(next).0, border + region_pages)
        };
        let least_end = (first + missing).min(border).min(self.max_pages);
        if least_end <= first {
            return None;
        }
        // What is kept free is no reason for a file that is long beside what it holds.
        let share = self.file_pages / LONGER_SHARE;
        let step_pages = self.growth_bytes / u64::from(self.layout.page_size);
        if step_pages <= share {
            self.growth_bytes = (self.growth_bytes * 2).min(GROWTH_BYTES_MAX);
        }
        let wanted_end = (self.file_pages + step_pages.min(share)).min(border).min(self.max_pages);
        Some(Growth { wanted_end: wanted_end.max(least_end), least_end })
    }

    /// Whether a block lies inside the file and clear of header and homes, and every part of it
    /// that lies in one region is as asked.
    pub(super) fn all_parts(
        &self,
        block: Block,
        is_right: impl Fn(&Region, u32, u32) -> bool,
    ) -> bool {
        if block.end().0 > self.file_pages {
            return false;
        }
        let (mut at, end) = (block.first, block.end());
        while at < end {
            let region_index = self.layout.region_of(at);
            let first = self.layout.index_in_region(at);
            let pages = u64::from(self.layout.region_pages() - first).min(end.0 - at.0) as u32;
            let region = self.regions.get(region_index as usize);
            if first < self.layout.fixed_pages(region_index)
                || region.is_none_or(|region| !is_right(region, first, pages))
            {
                return false;
            }
            at = PageNumber(at.0 + u64::from(pages));
        }
        true
    }

    /// Acts on each part of a block that lies in one region.
    pub(super) fn each_part(&mut self, block: Block, mut act: impl FnMut(&mut Region, u32, u32)) {
        assert!(
            block.end().0 <= self.file_pages,
            "{block:?} is beyond the file's {} pages",
            self.file_pages
        );
        let (mut at, end) = (block.first, block.end());
        while at < end {
            let region_index = self.layout.region_of(at);
            let first = self.layout.index_in_region(at);
            let pages = u64::from(self.layout.region_pages() - first).min(end.0 - at.0) as u32;
            assert!(
                first >= self.layout.fixed_pages(region_index),
                "{block:?} covers header pages or homes"
            );
            if let Some(region) = self.regions.get_mut(region_index as usize) {
                let before = region.room;
                act(region, first, pages);
                self.room = self.room.less(before).and(region.room);
            }
            at = PageNumber(at.0 + u64::from(pages));
        }
    }

    /// Of 64 pages from a multiple of 64 on: the region that they lie in, and the first one's place
    /// in it. A region's pages are a multiple of 64, so they lie in one.
    pub(super) fn region_of_word(&mut self, first: PageNumber) -> Option<(&mut Region, u32)> {
        let at = self.layout.index_in_region(first);
        let region_index = usize::try_from(self.layout.region_of(first)).ok()?;
        self.regions.get_mut(region_index).map(|region| (region, at))
    }

    pub(super) fn begin_capture(&mut self) {
        assert!(!self.capturing, "one capture at a time");
        self.capturing = true;
    }

    /// Copies of the changed maps, those of `extra`'s regions included, which stay marked as
    /// changed.
    pub(super) fn copy_changed(&mut self, extra: &[Block]) -> Vec<FreeMap> {
        let layout = self.layout;
        let mut copies = Vec::new();
        for region in &mut self.regions {
            let region_index = region.referenced.region_index();
            let own = extra.iter().any(|block| layout.region_of(block.first) == region_index);
            if region.changed || own {
                copies.push(region.referenced.clone());
            }
            region.changed = own;
        }
        copies
    }

    /// What the last durable state says of each region, and the free pages that the running one has
    /// in it.
    pub(super) fn entries(&self) -> (Vec<Option<RegionEntry>>, Vec<u64>) {
        let entries = self.regions.iter().map(|region| region.entry).collect();
        let free =
            self.regions.iter().map(|region| self.free_inside_file(&region.referenced)).collect();
        (entries, free)
    }

    pub(super) fn free_inside_file(&self, map: &FreeMap) -> u64 {
        u64::from(self.inside(map.region_index()).saturating_sub(map.used()))
    }

    pub(super) fn end_capture_durable(&mut self, written: &[RegionEntry]) {
        assert!(self.capturing, "no capture is under way");
        self.capturing = false;
        for (region, entry) in self.regions.iter_mut().zip(written) {
            region.entry = Some(*entry);
        }
    }

    pub(super) fn end_capture_failed(&mut self, changed: impl Iterator<Item = u64>) {
        assert!(self.capturing, "no capture is under way");
        self.capturing = false;
        for region_index in changed {
            if let Some(region) = self.regions.get_mut(region_index as usize) {
                region.changed = true;
            }
        }
    }

    /// From now on so many free pages are left in the file when it is cut.
    pub(super) fn set_kept_free(&mut self, pages: u64) {
        self.kept_free = pages;
    }

    /// From now on windows are left alone while there are shorter runs, or no longer.
    pub(super) fn set_short(&mut self, is_short: bool) {
        self.is_short = is_short;
    }

    /// Free pages inside the file that count as room.
    pub(super) fn room_pages(&self) -> u64 {
        self.room.pages()
    }

    pub(super) fn windows(&self) -> Windows {
        self.windows
    }

    /// How many pages a leaf takes, at most the whole of a long window.
    pub(super) fn set_leaf_pages(&mut self, pages: u32) {
        self.windows.leaf = pages.clamp(1, self.windows.long);
        let windows = self.windows;
        self.regions.iter_mut().for_each(|region| region.set_windows(windows));
        self.sum_room();
    }

    /// The room that a file of so many pages would have.
    pub(super) fn room_before(&self, end: u64) -> u64 {
        let room = |(region, region_index): (&Region, u64)| {
            let inside = end.saturating_sub(self.layout.region_start(region_index).0);
            let inside = inside.min(u64::from(self.layout.region_pages())) as u32;
            region.room_at(0, inside, self.windows, inside)
        };
        self.regions.iter().zip(0..).map(room).fold(Room::default(), Room::and).pages()
    }

    /// Where the file can be cut: behind the last page given out and the free pages that are to
    /// stay, without regions that have nothing but their own homes.
    pub(super) fn cut_end(&self) -> u64 {
        let (used_end, _) = self.extent();
        let first_end = self.layout.first_allottable(0).0;
        let mut end = used_end.max(first_end).min(self.file_pages);
        loop {
            let missing = self.kept_free.saturating_sub(self.room_before(end));
            if missing == 0 || end == self.file_pages {
                break;
            }
            end = (end + missing).min(self.file_pages);
        }
        let last_index = end.saturating_sub(1) / u64::from(self.layout.region_pages());
        let is_homes = last_index > 0 && end <= self.layout.first_allottable(last_index).0;
        if is_homes { self.layout.region_start(last_index).0 } else { end }
    }

    /// See [`super::allocator::Allocator::shrink_to_used`].
    pub(super) fn shrink_to_used(&mut self) -> Option<u64> {
        let end = self.cut_end();
        if self.capturing || end >= self.file_pages {
            return None;
        }
        let regions = end.div_ceil(u64::from(self.layout.region_pages()));
        for region in self.regions.drain(regions as usize..) {
            if let Some(entry) = region.entry {
                self.retired.insert(region.referenced.region_index(), entry);
            }
        }
        self.file_pages = end;
        self.count_room();
        self.growth_bytes = GROWTH_BYTES_MIN;
        Some(end)
    }

    /// Hands out what a map has as used in each region, header pages and homes left out.
    pub(super) fn each_used(
        &self,
        map: impl Fn(&Region) -> &FreeMap,
        mut visit: impl FnMut(Block),
    ) {
        for (region, region_index) in self.regions.iter().zip(0..) {
            let start = self.layout.region_start(region_index).0;
            let fixed = self.layout.fixed_pages(region_index);
            for (first, pages) in map(region).used_runs() {
                let left_out = fixed.saturating_sub(first).min(pages);
                let first = PageNumber(start + u64::from(first + left_out));
                visit(Block::new(first, pages - left_out));
            }
        }
    }

    pub(super) fn stats(&self) -> AllocatorStats {
        let mut stats = AllocatorStats {
            file_pages: self.file_pages,
            region_count: self.regions.len() as u64,
            ..AllocatorStats::default()
        };
        for (region, region_index) in self.regions.iter().zip(0..) {
            let inside = self.inside(region_index);
            stats.given_pages += u64::from(region.given.used());
            stats.referenced_pages += u64::from(region.referenced.used());
            stats.free_pages += self.free_inside_file(&region.given);
            let mut at = region.given.next_free(0);
            while at < inside {
                let run = region.given.free_run_at(at, inside - at);
                stats.free_run_count += 1;
                stats.longest_free_run = stats.longest_free_run.max(u64::from(run));
                at = region.given.next_free(at + run);
            }
        }
        stats
    }
}
