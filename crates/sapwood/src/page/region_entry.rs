//! What a state says of a region: which home its map is in, and what that node must say.
//!
//! *Format*: `docs/format.md` section 6.6.

use crate::codec::{Read, ReadProblem, Reader, put_varint};

use super::layout::Layout;
use super::node_ref::NodeRef;

/// One region, as a state names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionEntry {
    /// 0 or 1.
    pub home: u8,
    /// The write stamp of the map's node.
    pub stamp: u32,
    /// Its checksum.
    pub checksum: u32,
    /// Free pages inside the file.
    pub free_pages: u64,
}

impl RegionEntry {
    /// The fewest bytes that an encoded entry takes.
    pub const ENCODED_BYTES_MIN: usize = 10;

    /// Appends the entry as it stands in the state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.home);
        out.extend_from_slice(&self.stamp.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
        put_varint(out, self.free_pages);
    }

    /// Takes an entry from the reader.
    pub fn decode(reader: &mut Reader<'_>) -> Read<RegionEntry> {
        let home = reader.u8()?;
        let (stamp, checksum) = (reader.u32()?, reader.u32()?);
        let free_pages = reader.varint()?;
        if home > 1 {
            return Err(ReadProblem::OutOfRange);
        }
        Ok(RegionEntry { home, stamp, checksum, free_pages })
    }

    /// The reference to the map's node.
    pub fn node_ref(&self, layout: &Layout, region_index: u64) -> NodeRef {
        let home = layout.map_home(region_index, self.home);
        let RegionEntry { stamp, checksum, .. } = *self;
        NodeRef { page: home.first, pages: home.pages, stamp, checksum }
    }
}
