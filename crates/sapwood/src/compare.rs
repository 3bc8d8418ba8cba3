//! Whether two values are equal, without holding more of a large one than a chunk.
//!
//! *Assumes*: what is compared is held, so that the blocks of neither are used again.
//! *Threads*: any.

use crate::error::Result;
use crate::segment::overflow::{CHUNK_BYTES, OverflowReader};
use crate::segment::overflow_reference::OverflowReference;
use crate::state::Core;
use crate::state::lookup::Found;
use crate::types::KeyspaceNumber;

/// True when what a lookup found is these bytes.
///
/// # Errors
/// When a value cannot be read or is damaged.
pub(crate) fn is_value(
    core: &Core,
    keyspace: KeyspaceNumber,
    found: Option<&Found>,
    bytes: Option<&[u8]>,
) -> Result<bool> {
    match (found, bytes) {
        (None, None) => Ok(true),
        (Some(Found::Copied(found)), Some(bytes)) => Ok(found == bytes),
        (Some(Found::InFrame(frame, range)), Some(bytes)) => {
            Ok(frame.content().get(range.clone()) == Some(bytes))
        }
        (Some(Found::Overflow(reference)), Some(bytes)) => {
            is_overflow(core, keyspace, reference, bytes)
        }
        _ => Ok(false),
    }
}

/// True when a value in blocks of its own is these bytes.
///
/// # Errors
/// As [`is_value`].
pub(crate) fn is_overflow(
    core: &Core,
    keyspace: KeyspaceNumber,
    reference: &OverflowReference,
    bytes: &[u8],
) -> Result<bool> {
    if reference.length != bytes.len() as u64 {
        return Ok(false);
    }
    let reader = OverflowReader::open(&*core.pages, keyspace, reference)?;
    for (index, chunk) in bytes.chunks(CHUNK_BYTES).enumerate() {
        if reader.read_chunk(index)? != chunk {
            return Ok(false);
        }
    }
    Ok(true)
}

/// True when two values in blocks of their own are equal. What lies in the same blocks is not read.
///
/// # Errors
/// As [`is_value`].
pub(crate) fn is_same_overflow(
    core: &Core,
    keyspace: KeyspaceNumber,
    a: &OverflowReference,
    b: &OverflowReference,
) -> Result<bool> {
    if a.length != b.length {
        return Ok(false);
    }
    // The one birth is given later than the other.
    if a.stamp == b.stamp && a.checksum == b.checksum && a.blocks == b.blocks {
        return Ok(true);
    }
    let open = |reference| OverflowReader::open(&*core.pages, keyspace, reference);
    let (a, b) = (open(a)?, open(b)?);
    for index in 0..a.chunk_count() {
        if a.read_chunk(index)? != b.read_chunk(index)? {
            return Ok(false);
        }
    }
    Ok(true)
}
