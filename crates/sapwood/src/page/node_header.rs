//! The header at the start of every node.
//!
//! *Format*: `docs/format.md` section 3.

use crate::codec::{Read, Reader};
use crate::error::{Corruption, Structure};
use crate::types::{KeyspaceNumber, PageNumber};

use super::layout::NODE_HEADER_BYTES;

/// What a node is. Zero is no kind, so that a page of zeros is never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NodeKind {
    /// Height 0 of a segment.
    Leaf = 1,
    /// A greater height.
    Parent = 2,
    /// A piece of a lowest parent's filters.
    FilterPiece = 3,
    /// A lowest parent's list of overflow values.
    OverflowList = 4,
    /// The head of an overflow value.
    OverflowValue = 5,
    /// An encoded state.
    State = 6,
    /// A region's free map.
    FreeMap = 7,
    /// A compression dictionary.
    Dictionary = 8,
    /// A part of the filter over a young segment.
    YoungFilter = 9,
    /// A list that did not fit the state.
    SpilledList = 10,
}

impl NodeKind {
    /// Every kind, in the order of their numbers from 1.
    pub const ALL: [NodeKind; 10] = [
        NodeKind::Leaf,
        NodeKind::Parent,
        NodeKind::FilterPiece,
        NodeKind::OverflowList,
        NodeKind::OverflowValue,
        NodeKind::State,
        NodeKind::FreeMap,
        NodeKind::Dictionary,
        NodeKind::YoungFilter,
        NodeKind::SpilledList,
    ];

    /// The kind of a number.
    pub fn from_number(number: u8) -> Option<NodeKind> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// Its place in [`NodeKind::ALL`].
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// What an error about it speaks of.
    pub fn structure(self) -> Structure {
        match self {
            NodeKind::Leaf => Structure::Leaf,
            NodeKind::Parent => Structure::Parent,
            NodeKind::FilterPiece | NodeKind::OverflowList => Structure::Sidecar,
            NodeKind::OverflowValue => Structure::Overflow,
            NodeKind::State | NodeKind::SpilledList => Structure::State,
            NodeKind::FreeMap => Structure::FreeMap,
            NodeKind::Dictionary => Structure::Dictionary,
            NodeKind::YoungFilter => Structure::Filter,
        }
    }
}

/// Bits of the flags that hold the codec.
pub const FLAG_CODEC_MASK: u16 = 0x000f;
/// Entries carry numbers.
pub const FLAG_NUMBERS: u16 = 1 << 4;
/// Spare: nothing sets it yet.
pub const FLAG_SPARE: u16 = 1 << 5;
/// Slots are four bytes wide.
pub const FLAG_WIDE_SLOTS: u16 = 1 << 6;
/// All flags that mean anything.
pub const FLAGS_KNOWN: u16 = FLAG_CODEC_MASK | FLAG_NUMBERS | FLAG_SPARE | FLAG_WIDE_SLOTS;

/// The header of a node, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHeader {
    /// What the node is.
    pub kind: NodeKind,
    /// 0 for a leaf, its children's height + 1 for a parent, 0 elsewhere.
    pub height: u8,
    /// Codec and flags.
    pub flags: u16,
    /// The node's own first page.
    pub page: PageNumber,
    /// The write stamp.
    pub stamp: u32,
    /// The keyspace, or [`KeyspaceNumber::MANY`].
    pub keyspace: KeyspaceNumber,
    /// Bytes of content as stored.
    pub stored_bytes: u32,
    /// Bytes of content after decompression.
    pub raw_bytes: u32,
}

impl NodeHeader {
    /// The number of the codec that the content is stored with.
    pub fn codec_id(&self) -> u8 {
        (self.flags & FLAG_CODEC_MASK) as u8
    }

    /// The header's bytes with the given checksum.
    pub fn encode(&self, checksum: u32) -> [u8; NODE_HEADER_BYTES] {
        let mut bytes = [0; NODE_HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[1] = self.height;
        bytes[2..4].copy_from_slice(&self.flags.to_le_bytes());
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.page.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.stamp.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.keyspace.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.stored_bytes.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, and the checksum in it, which is not checked here.
    pub fn decode(bytes: &[u8]) -> Result<(NodeHeader, u32), Corruption> {
        Self::parse(&mut Reader::new(bytes)).unwrap_or_else(|_| {
            Err(Corruption::new(Structure::Leaf, "the node is shorter than its header"))
        })
    }

    fn parse(reader: &mut Reader<'_>) -> Read<Result<(NodeHeader, u32), Corruption>> {
        let (number, height, flags) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (checksum, page) = (reader.u32()?, PageNumber(reader.u64()?));
        let (stamp, keyspace) = (reader.u32()?, KeyspaceNumber(reader.u32()?));
        let (stored_bytes, raw_bytes) = (reader.u32()?, reader.u32()?);
        let Some(kind) = NodeKind::from_number(number) else {
            let detail = format!("kind {number} is no kind of node");
            return Ok(Err(Corruption::new(Structure::Leaf, detail)));
        };
        let damaged = |detail| Ok(Err(Corruption::new(kind.structure(), detail)));
        if flags & !FLAGS_KNOWN != 0 {
            return damaged(format!("unknown flags {:#x}", flags & !FLAGS_KNOWN));
        }
        if (kind == NodeKind::Parent) != (height > 0) {
            return damaged(format!("height {height} does not fit its kind"));
        }
        let header =
            NodeHeader { kind, height, flags, page, stamp, keyspace, stored_bytes, raw_bytes };
        if header.codec_id() == 0 && stored_bytes != raw_bytes {
            return damaged(format!("plain content of {stored_bytes} bytes says {raw_bytes}"));
        }
        Ok(Ok((header, checksum)))
    }
}
