//! The encoded state when it is too long for a header slot: a node over a few blocks.
//!
//! *Format*: `docs/format.md` sections 2.1 and 3.

use crate::error::{Corruption, Error, Result, Structure};
use crate::storage::Storage;
use crate::types::{KeyspaceNumber, PageNumber};

use super::block::Block;
use super::file_header::{HeaderSlot, StateLocation};
use super::layout::{Layout, NODE_HEADER_BYTES};
use super::node_header::{NodeHeader, NodeKind};
use super::node_image::node_checksum;
use super::stream::{read_stream, stream_capacity, write_stream};

/// Writes an encoded state to `blocks`, which must hold it with a node header; the caller syncs.
/// Returns what the slot says of it.
pub fn write_state(
    layout: &Layout,
    storage: &dyn Storage,
    blocks: &[Block],
    stamp: u32,
    state: &[u8],
) -> Result<StateLocation> {
    let page = blocks.first().map_or(PageNumber(0), |block| block.first);
    assert!(u32::try_from(state.len()).is_ok(), "a state is shorter than 4 GiB");
    let length = state.len() as u32;
    let header = NodeHeader {
        kind: NodeKind::State,
        height: 0,
        flags: 0,
        page,
        stamp,
        keyspace: KeyspaceNumber::MANY,
        stored_bytes: length,
        raw_bytes: length,
    };
    let mut stream = Vec::with_capacity(NODE_HEADER_BYTES + state.len());
    stream.extend_from_slice(&header.encode(node_checksum(layout, &header, state)));
    stream.extend_from_slice(state);
    // The rest of the last page is zero.
    stream.resize(layout.stream_bytes(u64::from(layout.pages_for(stream.len()))) as usize, 0);
    write_stream(layout, storage, blocks, 0, &stream, false)?;
    let checksum = crc32fast::hash(state);
    Ok(StateLocation::Blocks { length, checksum, stamp, blocks: blocks.to_vec() })
}

/// The encoded state that a slot names, verified.
pub fn read_state(layout: &Layout, storage: &dyn Storage, slot: &HeaderSlot) -> Result<Vec<u8>> {
    let (length, checksum, stamp, blocks) = match &slot.state {
        StateLocation::Inline(state) => return Ok(state.clone()),
        StateLocation::Blocks { length, checksum, stamp, blocks } => {
            (*length, *checksum, *stamp, blocks)
        }
    };
    let first = blocks.first().map_or(PageNumber(0), |block| block.first);
    let damaged = |detail: String| -> Error {
        Corruption::new(Structure::State, detail).at_page(first).into()
    };
    for block in blocks {
        layout.check_block(*block, slot.file_pages).map_err(damaged)?;
    }
    let stream_bytes = NODE_HEADER_BYTES as u64 + u64::from(length);
    let file_bytes = storage
        .length()
        .map_err(|error| Error::io("asking for the length", storage.name(), error))?;
    // The file must be long enough before memory is taken for what it claims to hold.
    if stream_bytes > stream_capacity(layout, blocks) || stream_bytes > file_bytes {
        return Err(damaged(format!("{length} bytes do not fit its blocks")));
    }
    let mut head = [0; NODE_HEADER_BYTES];
    read_stream(layout, storage, blocks, 0, &mut head)?;
    let (header, own_checksum) = NodeHeader::decode(&head)?;
    let expected = (NodeKind::State, first, stamp, length, 0);
    let found = (header.kind, header.page, header.stamp, header.stored_bytes, header.codec_id());
    if found != expected {
        return Err(damaged("the node is another one than the slot names".into()));
    }
    let mut state = vec![0; length as usize];
    read_stream(layout, storage, blocks, NODE_HEADER_BYTES as u64, &mut state)?;
    if crc32fast::hash(&state) != checksum || node_checksum(layout, &header, &state) != own_checksum
    {
        return Err(damaged("wrong checksum".into()));
    }
    Ok(state)
}
