//! What the record of a commit by reference says, and its adoption at replay.
//!
//! *Guarantees*: P8, P9 of docs/architecture.md. *Format*: docs/format.md, sections 5 and 6.4.
//! *Threads*: none of its own.

use super::manifest::{decode_segment, encode_segment};
use crate::codec::{Reader, put_varint};
use crate::error::{Corruption, Error, Result, Structure};
use crate::log::record::Record;
use crate::page::{Block, BlockList, PageManager};
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::young_blocks::add_blocks;
use crate::sync::Arc;
use crate::types::{Epoch, SequenceNumber};

/// The most segments that a commit by reference may name: a part of what a state has room for.
pub const SEGMENTS_MAX: usize = 64;

/// The payload of the record of a commit at `commit_time` (milliseconds since 1970).
pub fn encode(commit_time: u64, segments: &[Arc<Segment>]) -> Vec<u8> {
    let mut payload = commit_time.to_le_bytes().to_vec();
    put_varint(&mut payload, segments.len() as u64);
    for segment in segments {
        // Their numbers are void: the record has the one that counts.
        let bare = Segment { sequences: None, ..(**segment).clone() };
        encode_segment(&bare, &mut payload);
    }
    // No operations beside the segments.
    put_varint(&mut payload, 0);
    payload
}

fn damaged(detail: &str) -> Error {
    Corruption::new(Structure::Log, format!("a commit by reference {detail}")).into()
}

/// The segments that a record names, newest first, with the number of their commit.
///
/// # Errors
/// `Corruption` for what no writer of version 1 writes.
pub fn decode(record: &Record<'_>, file_pages: u64) -> Result<Vec<Segment>> {
    if !record.blocks_on_disk {
        return Err(damaged("does not say that its segments were on disk before it"));
    }
    let mut reader = Reader::new(record.payload);
    let cut_off = |_| damaged("ends too early");
    reader.u64().map_err(cut_off)?;
    let count = reader.varint().map_err(cut_off)?;
    if count > SEGMENTS_MAX as u64 {
        return Err(damaged("names too many segments"));
    }
    let mut segments = Vec::new();
    for _ in 0..count {
        let segment = decode_segment(&mut reader, file_pages)?;
        let roots = segment.points.iter().chain(&segment.ranges);
        let is_fresh = segment.promoted.is_empty() && roots.clone().all(|root| root.birth.0 == 0);
        if !is_fresh || segment.sequences.is_some() || segment.keyspaces.is_empty() {
            return Err(damaged("names a segment that is none of a transaction's"));
        }
        segments.push(numbered(&segment, record.sequence));
    }
    let operations = reader.varint().map_err(cut_off)?;
    if operations != 0 || reader.remaining() != 0 || segments.is_empty() {
        return Err(damaged("has operations, or no segments"));
    }
    Ok(segments)
}

/// The segment with the number of the commit that it belongs to.
#[must_use]
pub fn numbered(segment: &Segment, number: SequenceNumber) -> Segment {
    let unborn = |root: &Option<TreeRoot>| {
        root.as_ref().map(|root| TreeRoot { birth: Epoch(0), ..root.clone() })
    };
    Segment {
        sequences: Some((number, number)),
        points: unborn(&segment.points),
        ranges: unborn(&segment.ranges),
        ..segment.clone()
    }
}

/// Claims the blocks of the segments; returns them.
///
/// # Errors
/// When a parent is damaged, or a block is in use already.
pub fn claim(pages: &PageManager, segments: &[Segment]) -> Result<Vec<Block>> {
    let mut found = BlockList::new();
    for segment in segments {
        add_blocks(pages, segment, &mut found)?;
    }
    let blocks: Vec<Block> = found.iter().collect();
    for block in &blocks {
        pages.allocator().claim(*block)?;
    }
    Ok(blocks)
}
