//! Dead lists go to the file when they take much memory, and come back when holds have ended: one
//! piece each way in a step.
//!
//! *Guarantees*: E7, E8 of docs/architecture.md. After an error the lists are as before, and the
//! step can be made again. *Threads*: any number beside one another.

use crate::error::{Corruption, Error, Result, Structure};
use crate::page::{Block, Codec, NodeKind, NodeRef, NodeSpec, NodeWriter, PageManager};
use crate::state::Core;
use crate::state::dead_list::{DeadBlocks, Group, PieceContent, decode_piece, encode_piece};
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

const SPEC: NodeSpec = NodeSpec {
    kind: NodeKind::SpilledList,
    height: 0,
    flags: 0,
    keyspace: KeyspaceNumber::MANY,
    codec: Codec::Plain,
};

/// Reads one piece of a list back, and writes one, where they are due.
///
/// # Errors
/// When it cannot be written or read. It is tried again at another step, unless it is damaged: then
/// what it names is free again at the next open.
pub fn lists_step(core: &Core) -> Result<bool> {
    // What comes back makes room, perhaps for what is to be written, and may itself be too much to
    // stay. Neither hinders the other.
    let read = read_back(core);
    let written = write_out(core);
    match read {
        Ok(true) => Ok(true),
        _ => Ok(written? || read?),
    }
}

fn write_out(core: &Core) -> Result<bool> {
    let Some(piece) = core.held.begin_writing() else { return Ok(false) };
    let PieceContent::Memory(groups) = &piece.content else { return Ok(false) };
    let written = write_piece(core, groups);
    match written {
        Ok(node) => core.held.written(piece.name, node),
        Err(_) => core.held.not_done(piece.name),
    }
    written.map(|_| true)
}

fn read_back(core: &Core) -> Result<bool> {
    let Some(piece) = core.held.begin_reading() else { return Ok(false) };
    let (groups, node) = match &piece.content {
        PieceContent::Memory(groups) => (Ok(Arc::clone(groups)), None),
        PieceContent::Written(node) => {
            (read_piece(&core.pages, node).map(Arc::new), Some(node.block()))
        }
    };
    let groups = groups.inspect_err(|error| match error {
        // Its pages are lost to this process: the piece stays, so that a check names it.
        Error::Corruption(_) => core.held.set_aside(piece.name, error),
        _ => core.held.not_done(piece.name),
    })?;
    let Some(free) = core.held.given_back(piece.name, &groups) else { return Ok(false) };
    free.into_iter().chain(node).for_each(|block| core.free(block));
    Ok(true)
}

fn write_piece(core: &Core, groups: &[Group]) -> Result<NodeRef> {
    let content = encode_piece(groups);
    let pages = core.pages.layout().node_pages(content.len());
    let mut writer = NodeWriter::new(core.pages.clone(), u64::from(pages));
    let node = writer.append(&SPEC, &content, false)?;
    // No state references it: a crash frees it, with what it names (E7).
    writer.finish()?;
    Ok(node)
}

fn read_piece(pages: &PageManager, node: &NodeRef) -> Result<Vec<Group>> {
    let frame = pages.read_node_uncached(node, NodeKind::SpilledList)?;
    let damaged =
        |detail: String| Error::from(Corruption::new(Structure::State, detail).at_page(node.page));
    let groups = decode_piece(frame.content()).map_err(|p| damaged(p.text().to_owned()))?;
    for block in groups.iter().flat_map(|group| &group.blocks) {
        pages.check_block(*block).map_err(damaged)?;
    }
    Ok(groups)
}

/// Hands out every dead block that is not free yet, with the nodes of lists, as of the moment at
/// which `dead` was taken: first those in memory, then those of one list after the other.
///
/// # Errors
/// When a list cannot be read.
pub fn visit_dead_blocks(
    pages: &PageManager,
    dead: &DeadBlocks,
    mut visit: impl FnMut(Block),
) -> Result<()> {
    dead.blocks.iter().for_each(|block| visit(*block));
    for node in &dead.written {
        let groups = read_piece(pages, node)?;
        groups.into_iter().flat_map(|group| group.blocks).for_each(&mut visit);
    }
    Ok(())
}
