//! How the file is cut into pages and regions, and every size that follows from that.
//!
//! *Guarantees*: a `Layout` was validated, so that its arithmetic cannot overflow for page numbers
//! below `max_pages`.
//! *Format*: `docs/format.md` sections 1 and 2.

use crate::error::{Error, Result};
use crate::types::PageNumber;

use super::block::Block;

/// The bytes that the two header slots take, whatever the page size.
pub const HEADER_BYTES: u64 = 8192;
/// The smallest number of pages in a region.
pub const REGION_PAGES_MIN: u64 = 64;
/// The largest: the free map's content then still fits a node.
pub const REGION_PAGES_MAX: u64 = 1 << 22;
/// The region size when nothing else is asked for.
pub const REGION_BYTES_DEFAULT: u64 = 128 << 20;
/// Bytes of a node's header.
pub const NODE_HEADER_BYTES: usize = 32;
/// The longest content of a node that is read as one, stored or raw.
pub const NODE_CONTENT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a free map's content before its bits.
pub const FREE_MAP_HEAD_BYTES: usize = 16;
/// Offsets in the file stay below this, so that they fit a signed 64-bit offset.
const FILE_BYTES_MAX: u64 = 1 << 62;

/// The sizes that are fixed when a file is created, with its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a page, a power of two.
    pub page_size: u32,
    /// Bytes at the end of each page that no writer uses.
    pub reserved_bytes: u16,
    /// Bytes of a region, a power of two.
    pub region_bytes: u64,
    /// The file's identity.
    pub identity: [u8; 16],
    seed: u32,
}

impl Layout {
    /// Checks the sizes against the limits of the format.
    pub fn new(
        page_size: u32,
        reserved_bytes: u16,
        region_bytes: u64,
        identity: [u8; 16],
    ) -> Result<Layout> {
        let invalid = |option, detail: String| Err(Error::InvalidOption { option, detail });
        if !page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_size) {
            return invalid(
                "page_size",
                format!("{page_size} is not a power of two from 1024 to 65536"),
            );
        }
        if !reserved_bytes.is_multiple_of(8) || reserved_bytes > 256 {
            return invalid(
                "reserved_bytes",
                format!("{reserved_bytes} is not a multiple of 8 up to 256"),
            );
        }
        let pages = region_bytes / u64::from(page_size);
        if !region_bytes.is_power_of_two()
            || !(REGION_PAGES_MIN..=REGION_PAGES_MAX).contains(&pages)
        {
            return invalid(
                "region_bytes",
                format!(
                    "{region_bytes} is not a power of two that makes {REGION_PAGES_MIN} to \
                     {REGION_PAGES_MAX} pages of {page_size} bytes"
                ),
            );
        }
        let seed = crc32fast::hash(&identity);
        Ok(Layout { page_size, reserved_bytes, region_bytes, identity, seed })
    }

    /// Bytes of each page that a stream uses.
    pub fn usable_bytes(&self) -> usize {
        self.page_size as usize - usize::from(self.reserved_bytes)
    }

    /// Pages of a whole region.
    pub fn region_pages(&self) -> u32 {
        // At most REGION_PAGES_MAX, as `new` checked.
        (self.region_bytes / u64::from(self.page_size)) as u32
    }

    /// Pages at the start of the file that hold the header slots.
    pub fn header_pages(&self) -> u32 {
        HEADER_BYTES.div_ceil(u64::from(self.page_size)) as u32
    }

    /// Pages of one home of a region's free map.
    pub fn map_home_pages(&self) -> u32 {
        self.pages_for(NODE_HEADER_BYTES + FREE_MAP_HEAD_BYTES + self.region_pages() as usize / 8)
    }

    /// The two homes of a region's free map.
    pub fn map_home(&self, region_index: u64, home: u8) -> Block {
        let pages = self.map_home_pages();
        let header = if region_index == 0 { u64::from(self.header_pages()) } else { 0 };
        let first = self.region_start(region_index).0 + header + u64::from(home) * u64::from(pages);
        Block { first: PageNumber(first), pages }
    }

    /// Pages at a region's start that are never allotted: the header's and both homes.
    pub fn fixed_pages(&self, region_index: u64) -> u32 {
        let header = if region_index == 0 { self.header_pages() } else { 0 };
        header + 2 * self.map_home_pages()
    }

    /// The first page of a region.
    pub fn region_start(&self, region_index: u64) -> PageNumber {
        PageNumber(region_index.saturating_mul(u64::from(self.region_pages())))
    }

    /// The first page of a region that may be allotted.
    pub fn first_allottable(&self, region_index: u64) -> PageNumber {
        let start = self.region_start(region_index);
        PageNumber(start.0 + u64::from(self.fixed_pages(region_index)))
    }

    /// The region that a page lies in.
    pub fn region_of(&self, page: PageNumber) -> u64 {
        page.0 / u64::from(self.region_pages())
    }

    /// How many regions a file of so many pages has, the last one perhaps incomplete: so many
    /// entries a state must have.
    pub fn region_count(&self, file_pages: u64) -> u64 {
        file_pages.div_ceil(u64::from(self.region_pages()))
    }

    /// Where in its region a page lies.
    pub fn index_in_region(&self, page: PageNumber) -> u32 {
        (page.0 % u64::from(self.region_pages())) as u32
    }

    /// The longest block that any region but the first can give.
    pub fn block_pages_max(&self) -> u32 {
        self.region_pages() - self.fixed_pages(1)
    }

    /// Free pages count as room where so many lie side by side, from a multiple of their number on:
    /// 64 KiB, which is as long as nodes of ordinary keys become, and 64 pages at most.
    pub fn window_pages(&self) -> u32 {
        ((64 << 10) / self.page_size.max(1)).clamp(1, 64)
    }

    /// The longest content of a node that finds a place wherever free pages count as room.
    pub fn window_content_bytes(&self) -> usize {
        // At least a page of 1 KiB, with 256 bytes reserved.
        self.window_pages() as usize * self.usable_bytes() - NODE_HEADER_BYTES
    }

    /// The longest content of a node that every region but the first can hold.
    pub fn content_bytes_max(&self) -> usize {
        let stream = self.block_pages_max() as usize * self.usable_bytes();
        stream.saturating_sub(NODE_HEADER_BYTES).min(NODE_CONTENT_BYTES_MAX)
    }

    /// No page number reaches this.
    pub fn max_pages(&self) -> u64 {
        (FILE_BYTES_MAX / u64::from(self.page_size)).min(1 << 48)
    }

    /// What checksums of this file start from.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The first eight bytes of the identity: what the hash of keys for filters starts from.
    pub fn filter_seed(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.identity;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Pages that a stream of so many bytes takes.
    pub fn pages_for(&self, stream_bytes: usize) -> u32 {
        u32::try_from(stream_bytes.div_ceil(self.usable_bytes())).unwrap_or(u32::MAX)
    }

    /// Pages of a node whose stored content has so many bytes.
    pub fn node_pages(&self, stored_bytes: usize) -> u32 {
        self.pages_for(NODE_HEADER_BYTES.saturating_add(stored_bytes))
    }

    /// The most pages that a node which is read as one may have.
    pub fn node_pages_max(&self) -> u32 {
        self.node_pages(NODE_CONTENT_BYTES_MAX)
    }

    /// Bytes of a stream that so many pages hold.
    pub fn stream_bytes(&self, pages: u64) -> u64 {
        pages * self.usable_bytes() as u64
    }

    /// Where a page begins in the file, in bytes.
    pub fn offset_of(&self, page: PageNumber) -> u64 {
        debug_assert!(page.0 <= self.max_pages());
        page.0 * u64::from(self.page_size)
    }

    /// The bytes in the file of so many pages.
    pub fn bytes_of(&self, pages: u32) -> usize {
        pages as usize * self.page_size as usize
    }

    /// Whether a block can be one that was allotted in a file of `file_pages`: inside the file, in
    /// one region, clear of header and homes. For numbers that were read from the file.
    pub fn check_block(&self, block: Block, file_pages: u64) -> std::result::Result<(), String> {
        let end = block.first.0.checked_add(u64::from(block.pages));
        if block.pages == 0 || end.is_none_or(|end| end > file_pages.min(self.max_pages())) {
            return Err(format!(
                "block of {} pages at page {} is not inside the file's {file_pages} pages",
                block.pages, block.first
            ));
        }
        let region_index = self.region_of(block.first);
        if self.region_of(block.last()) != region_index {
            return Err(format!(
                "block of {} pages at page {} crosses the border of region {region_index}",
                block.pages, block.first
            ));
        }
        if block.first < self.first_allottable(region_index) {
            return Err(format!("page {} belongs to the header or to a free map", block.first));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_refused() {
        let id = [7; 16];
        assert!(Layout::new(512, 0, 1 << 20, id).is_err());
        assert!(Layout::new(3000, 0, 1 << 20, id).is_err());
        assert!(Layout::new(1 << 17, 0, 1 << 30, id).is_err());
        assert!(Layout::new(4096, 4, 1 << 27, id).is_err());
        assert!(Layout::new(4096, 264, 1 << 27, id).is_err());
        assert!(Layout::new(4096, 0, 32 * 4096, id).is_err());
        assert!(Layout::new(4096, 0, 3 << 26, id).is_err());
        assert!(Layout::new(1024, 0, 1 << 40, id).is_err());
    }

    #[test]
    fn the_smallest_region_has_room_beside_header_and_homes() {
        for page_size in [1024, 4096, 65536] {
            for reserved in [0, 64, 256] {
                let layout = Layout::new(page_size, reserved, 64 * u64::from(page_size), [1; 16]);
                let layout = layout.unwrap();
                assert_eq!(layout.region_pages(), 64);
                assert_eq!(layout.map_home_pages(), 1);
                assert!(layout.fixed_pages(0) <= 10);
                assert_eq!(layout.map_home(0, 1).end(), layout.first_allottable(0));
                assert_eq!(layout.map_home(3, 1).end(), layout.first_allottable(3));
            }
        }
    }

    #[test]
    fn blocks_from_the_file_are_checked() {
        let layout = Layout::new(1024, 0, 64 * 1024, [1; 16]).unwrap();
        let check = |first, pages| {
            layout.check_block(Block { first: PageNumber(first), pages }, 200).is_ok()
        };
        assert!(check(10, 54));
        assert!(!check(10, 55));
        assert!(!check(9, 1));
        assert!(!check(64, 1));
        assert!(check(66, 1));
        assert!(!check(66, 0));
        assert!(check(194, 6));
        assert!(!check(194, 7));
        assert!(!check(u64::MAX, 2));
        assert!(!check(u64::MAX - 5, 2));
    }

    #[test]
    fn checksums_and_hashes_start_from_the_identity() {
        let identity: [u8; 16] = std::array::from_fn(|i| i as u8);
        let layout = Layout::new(4096, 0, 1 << 27, identity).unwrap();
        assert_eq!(layout.seed(), crc32fast::hash(&identity));
        assert_eq!(layout.filter_seed(), 0x0706_0504_0302_0100);
    }
}
