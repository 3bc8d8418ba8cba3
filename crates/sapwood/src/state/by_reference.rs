//! What the record of a commit by reference says, and its adoption at replay.
//!
//! *Guarantees*: P8, P9 of docs/architecture.md. *Format*: docs/format.md, sections 5 and 6.4.
//! *Threads*: none of its own.

use super::manifest::{decode_segment, encode_segment};
use crate::error::{Corruption, Error, Result, Structure};
use crate::page::{Block, BlockList, PageManager, Reader, put_varint};
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::young_blocks::{Look, add_blocks};
use crate::sync::Arc;
use crate::types::{Epoch, SequenceNumber};

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
pub fn decode(payload: &[u8], number: SequenceNumber, file_pages: u64) -> Result<Vec<Segment>> {
    let mut reader = Reader::new(payload);
    let cut_off = || damaged("ends too early");
    reader.u64().ok_or_else(cut_off)?;
    let count = reader.varint().ok_or_else(cut_off)?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let segment = decode_segment(&mut reader, file_pages)?;
        let roots = segment.points.iter().chain(&segment.ranges);
        let is_fresh = segment.promoted.is_empty() && roots.clone().all(|root| root.birth.0 == 0);
        if !is_fresh || segment.sequences.is_some() || segment.keyspaces.is_empty() {
            return Err(damaged("names a segment that is none of a transaction's"));
        }
        segments.push(numbered(&segment, number));
    }
    let operations = reader.varint().ok_or_else(cut_off)?;
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

/// True when every node and value of the segments is right.
///
/// # Errors
/// When one cannot be read at all, so that it is not known.
pub fn are_whole(pages: &PageManager, segments: &[Segment]) -> Result<bool> {
    let mut found = BlockList::new();
    for segment in segments {
        match add_blocks(pages, segment, Look::Everything, &mut found) {
            Err(Error::Corruption(_)) => return Ok(false),
            looked => looked?,
        }
    }
    Ok(true)
}

/// Claims the blocks of the segments; returns them.
///
/// # Errors
/// When a parent is damaged, or a block is in use already.
pub fn claim(pages: &PageManager, segments: &[Segment]) -> Result<Vec<Block>> {
    let mut found = BlockList::new();
    for segment in segments {
        add_blocks(pages, segment, Look::Parents, &mut found)?;
    }
    let blocks: Vec<Block> = found.iter().collect();
    for block in &blocks {
        pages.allocator().claim(*block)?;
    }
    Ok(blocks)
}
