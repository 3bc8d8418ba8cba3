//! Streams over blocks: the usable bytes of their pages, one after another.
//!
//! *Assumes*: a block that is written to belongs to the caller.
//! *Guarantees*: reserved bytes are written as zeros only; one call of the storage for each run of pages.
//! *Format*: `docs/format.md` section 1.

use crate::error::{Error, Result};
use crate::storage::Storage;

use super::block::Block;
use super::layout::Layout;

/// The most bytes that are gathered for one read when pages have reserved bytes.
const GATHER_BYTES_MAX: usize = 256 << 10;

/// A part of a stream that lies in one block.
struct Piece {
    block: Block,
    /// Where in the block's stream it begins.
    from: u64,
    length: usize,
}

/// Cuts `length` bytes from `offset` on into the parts that lie in one block each. `None` when the
/// blocks do not hold so much.
fn pieces(layout: &Layout, blocks: &[Block], offset: u64, length: usize) -> Option<Vec<Piece>> {
    let (mut skip, mut rest, mut all) = (offset, length, Vec::new());
    for block in blocks {
        if rest == 0 {
            break;
        }
        let capacity = layout.stream_bytes(u64::from(block.pages));
        if skip >= capacity {
            skip -= capacity;
            continue;
        }
        let here = usize::try_from(capacity - skip).unwrap_or(usize::MAX).min(rest);
        all.push(Piece { block: *block, from: skip, length: here });
        skip = 0;
        rest -= here;
    }
    (rest == 0).then_some(all)
}

/// Where in the file the byte at `from` of a block's stream lies.
fn file_offset(layout: &Layout, block: Block, from: u64) -> u64 {
    let usable = layout.usable_bytes() as u64;
    layout.offset_of(block.first) + from / usable * u64::from(layout.page_size) + from % usable
}

/// Bytes of a stream that the blocks hold.
pub fn stream_capacity(layout: &Layout, blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| layout.stream_bytes(u64::from(block.pages))).sum()
}

/// Writes `bytes` at `offset` of the stream over `blocks`, which must have room for them.
pub fn write_stream(
    layout: &Layout,
    storage: &dyn Storage,
    blocks: &[Block],
    offset: u64,
    bytes: &[u8],
    sync: bool,
) -> Result<()> {
    let pieces = pieces(layout, blocks, offset, bytes.len());
    assert!(pieces.is_some(), "{} bytes at {offset} do not fit the blocks", bytes.len());
    let mut rest = bytes;
    let mut gathered = Vec::new();
    for piece in pieces.unwrap_or_default() {
        let (now, later) = rest.split_at_checked(piece.length).unwrap_or((rest, &[]));
        rest = later;
        let image = if layout.reserved_bytes == 0 {
            now
        } else {
            gathered.clear();
            spread(layout, piece.from, now, &mut gathered);
            &gathered
        };
        let at = file_offset(layout, piece.block, piece.from);
        let written = match sync {
            true => storage.write_sync_at(at, image),
            false => storage.write_at(at, image),
        };
        written.map_err(|error| {
            let operation = format!("writing {} bytes at offset {at}", image.len());
            Error::io(operation, storage.name(), error)
        })?;
    }
    Ok(())
}

/// Puts the reserved bytes, as zeros, between the pages of a part that begins at `from`.
fn spread(layout: &Layout, from: u64, mut part: &[u8], out: &mut Vec<u8>) {
    let mut room = layout.usable_bytes() - (from % layout.usable_bytes() as u64) as usize;
    while !part.is_empty() {
        if room == 0 {
            out.resize(out.len() + usize::from(layout.reserved_bytes), 0);
            room = layout.usable_bytes();
        }
        let (now, later) = part.split_at_checked(room).unwrap_or((part, &[]));
        out.extend_from_slice(now);
        room -= now.len();
        part = later;
    }
}

/// Fills `buffer` from `offset` of the stream over `blocks`.
pub fn read_stream(
    layout: &Layout,
    storage: &dyn Storage,
    blocks: &[Block],
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let failed = |at: u64, length: usize, error| {
        Error::io(format!("reading {length} bytes at offset {at}"), storage.name(), error)
    };
    let Some(pieces) = pieces(layout, blocks, offset, buffer.len()) else {
        let error = std::io::ErrorKind::UnexpectedEof.into();
        let operation = format!("reading {} bytes at {offset} of a stream", buffer.len());
        return Err(Error::io(operation, storage.name(), error));
    };
    let mut rest = buffer;
    for piece in pieces {
        let Some((mut target, later)) = rest.split_at_mut_checked(piece.length) else {
            break;
        };
        rest = later;
        if layout.reserved_bytes == 0 {
            let at = file_offset(layout, piece.block, piece.from);
            storage.read_at(at, target).map_err(|error| failed(at, piece.length, error))?;
            continue;
        }
        let mut from = piece.from;
        while !target.is_empty() {
            let length = target.len().min(GATHER_BYTES_MAX);
            let Some((now, later)) = target.split_at_mut_checked(length) else {
                break;
            };
            let at = file_offset(layout, piece.block, from);
            let end = file_offset(layout, piece.block, from + length as u64 - 1) + 1;
            let mut image = vec![0; (end - at) as usize];
            storage.read_at(at, &mut image).map_err(|error| failed(at, image.len(), error))?;
            gather(layout, from, &image, now);
            from += length as u64;
            target = later;
        }
    }
    Ok(())
}

/// Takes the reserved bytes out of what was read from `from` on.
fn gather(layout: &Layout, from: u64, mut image: &[u8], mut target: &mut [u8]) {
    let mut room = layout.usable_bytes() - (from % layout.usable_bytes() as u64) as usize;
    while !target.is_empty() {
        let length = room.min(target.len());
        let Some((now, later)) = std::mem::take(&mut target).split_at_mut_checked(length) else {
            return;
        };
        let Some(source) = image.get(..length) else {
            return;
        };
        now.copy_from_slice(source);
        image = image.get(length + usize::from(layout.reserved_bytes)..).unwrap_or_default();
        room = layout.usable_bytes();
        target = later;
    }
}
