//! Targets for the parsers of the floors beside the segments: header, free map, node, log, state.

use sapwood::codec::Reader;
use sapwood::log::LogPosition;
use sapwood::log::operation::operations as decode_operations;
use sapwood::log::reader::{ReplayStart, Visit, replay};
use sapwood::log::record::{NamedBlocks, RawHeader, Record, RecordHead, RecordKind, encode_record};
use sapwood::log::ring::RingList;
use sapwood::log::stream::BlockStream;
use sapwood::page::free_map::FreeMap;
use sapwood::page::node_image::{append_pages, node_checksum, verify_node};
use sapwood::page::{Block, HeaderSlot, Layout, NodeHeader, NodeKind, NodeRef};
use sapwood::state::manifest;
use sapwood::storage::{MemoryStorage, Storage};
use sapwood::sync::Arc;
use sapwood::{PageNumber, SequenceNumber};

const PAGE_BYTES: u32 = 1024;

fn layout(reserved_bytes: u16) -> Option<Layout> {
    Layout::new(PAGE_BYTES, reserved_bytes, 1 << 17, [7; 16]).ok()
}

/// A header slot, as it is; and with the checksums put right, so that its fields are looked at.
pub fn header_slot(bytes: &[u8]) {
    let check = |unit: &[u8]| {
        let Ok(slot) = HeaderSlot::decode(unit) else { return };
        assert_eq!(slot.encode()[..], unit[..4096], "a slot has two forms");
        assert!(slot.layout().is_ok());
    };
    check(bytes);
    // The fields, laid over a slot that is all zero but for mark and version.
    let mut unit = vec![0; 4096];
    unit[..8].copy_from_slice(b"Sapwood\n");
    unit[12..16].copy_from_slice(&1u32.to_le_bytes());
    let rest = &mut unit[16..];
    let length = bytes.len().min(rest.len());
    rest[..length].copy_from_slice(&bytes[..length]);
    let state_bytes = u32::from_le_bytes([unit[96], unit[97], unit[98], unit[99]]) as usize;
    if let Some(state) = unit.get(256..256 + state_bytes.min(4096)) {
        let sum = crc32fast::hash(state);
        unit[100..104].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc32fast::hash(&unit);
    unit[8..12].copy_from_slice(&sum.to_le_bytes());
    check(&unit);
}

/// The content of a free map.
pub fn free_map(bytes: &[u8]) {
    let Ok(map) = FreeMap::decode(bytes) else { return };
    assert_eq!(map.encode(), bytes, "a map has two forms");
    let used: u32 = map.used_runs().map(|(_, pages)| pages).sum();
    assert_eq!(used, map.used());
}

/// The pages of a node, read as each kind; the first two bytes choose reserved bytes and kind. As
/// they are; and with header and checksum put right, so that the content is decompressed.
pub fn node(bytes: &[u8]) {
    let [reserved, number, rest @ ..] = bytes else { return };
    let kinds = [
        NodeKind::Leaf,
        NodeKind::Parent,
        NodeKind::FilterPiece,
        NodeKind::OverflowList,
        NodeKind::FreeMap,
        NodeKind::YoungFilter,
    ];
    let kind = kinds[usize::from(*number) % kinds.len()];
    let Some(layout) = layout(u16::from(reserved % 5) * 8) else { return };
    let pages = rest.len().div_ceil(PAGE_BYTES as usize).max(1) as u32;
    let mut image = rest.to_vec();
    image.resize(layout.bytes_of(pages), 0);
    let page = PageNumber(40);
    let found = NodeHeader::decode(&image);
    if let Ok((header, checksum)) = &found {
        let reference = NodeRef { page, pages, stamp: header.stamp, checksum: *checksum };
        let _ = verify_node(&layout, &reference, kind, image);
    }
    // The same bytes as flags, raw length and content.
    let [flags, raw_a, raw_b, content @ ..] = rest else { return };
    let Ok(stored_bytes) = u32::try_from(content.len()) else { return };
    let header = NodeHeader {
        kind,
        height: u8::from(kind == NodeKind::Parent),
        flags: u16::from(*flags),
        page,
        stamp: 3,
        keyspace: sapwood::KeyspaceNumber(1),
        stored_bytes,
        raw_bytes: u32::from(u16::from_le_bytes([*raw_a, *raw_b])),
    };
    let checksum = node_checksum(&layout, &header, content);
    let mut image = Vec::new();
    append_pages(&layout, &header.encode(checksum), content, &mut image);
    let pages = layout.node_pages(content.len());
    let reference = NodeRef { page, pages, stamp: 3, checksum };
    if let Ok(frame) = verify_node(&layout, &reference, kind, image) {
        assert_eq!(frame.content().len(), header.raw_bytes as usize);
    }
}

/// A record of the log; and a log whose blocks hold the bytes, as they are and as the payloads of
/// records with right checksums.
pub fn log(bytes: &[u8]) {
    if let Ok(header) = RawHeader::read(bytes)
        && let Ok(record) = Record::decode(&header, bytes)
    {
        let _ = (record.state_durable(), record.commit_time());
    }
    replay_over(bytes);
    let mut framed = Vec::new();
    let (mut chain, mut sequence) = (0, 0);
    for part in bytes.chunks(50) {
        let kinds = [
            RecordKind::Commit,
            RecordKind::CommitByReference,
            RecordKind::StateDurable,
            RecordKind::Padding,
            RecordKind::Opened,
        ];
        let kind = kinds[usize::from(part[0]) % kinds.len()];
        sequence += u64::from(kind.is_commit());
        let head = RecordHead {
            position: LogPosition(framed.len() as u64),
            chain,
            kind,
            blocks: if part[0] & 8 == 0 { NamedBlocks::None } else { NamedBlocks::OnDisk },
            durable: LogPosition(0),
            sequence: SequenceNumber(if kind.is_commit() { sequence } else { 0 }),
        };
        chain = encode_record(&mut framed, SEED, &head, &[&part[1..]]).unwrap_or(chain);
    }
    // A bit of a record is turned after the fact, so that breaks are met too.
    if let [.., last] = bytes
        && last % 3 == 0
        && !framed.is_empty()
    {
        let at = usize::from(*last) * 31 % framed.len();
        framed[at] ^= 1;
    }
    replay_over(&framed);
}

const SEED: u32 = 0x1234_5678;

fn replay_over(bytes: &[u8]) {
    let usable_bytes = PAGE_BYTES - 8;
    let pages = (bytes.len() as u32).div_ceil(usable_bytes).max(1);
    let mut image = vec![0; 8 * PAGE_BYTES as usize];
    for part in bytes.chunks(usable_bytes as usize) {
        image.extend_from_slice(part);
        image.resize(image.len().next_multiple_of(PAGE_BYTES as usize), 0);
    }
    image.resize((8 + pages as usize) * PAGE_BYTES as usize, 0);
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::from_image(&image));
    let stream = BlockStream::new(storage, PAGE_BYTES, usable_bytes);
    let start = ReplayStart {
        generation: 1 << 40,
        list: RingList { start: LogPosition(0), blocks: vec![Block::new(PageNumber(8), pages)] },
        cut: LogPosition(0),
        chain: 0,
        durable: LogPosition(0),
        sequence: SequenceNumber(0),
        seed: SEED,
    };
    let _ = replay(&stream, &start, &mut |record| {
        if record.kind.is_commit() {
            operations(record.payload);
        }
        Ok(Visit::Continue)
    });
}

/// The payload of a commit.
pub fn operations(bytes: &[u8]) {
    if let Ok(found) = decode_operations(bytes) {
        assert!(found.count() <= bytes.len());
    }
}

/// An encoded state; a segment's descriptor; the options of a keyspace.
pub fn state(bytes: &[u8]) {
    if let Ok(manifest) = manifest::decode(bytes, 1 << 20) {
        // Sections that may be skipped are not kept.
        let again = manifest::encode(&manifest);
        assert_eq!(manifest::decode(&again, 1 << 20).ok(), Some(manifest));
    }
    let _ = manifest::decode_segment(&mut Reader::new(bytes), 1 << 20);
    let _ = manifest::decode_settings(bytes);
}
