//! The newest version of one key.
//!
//! *Guarantees*: the same answer as the merging cursor's. Filters are asked before leaves are read,
//! range tombstones before filters are believed. *Threads*: any; no lock is held across a read.

use std::ops::Range;

use super::core::Core;
use super::snapshot::ReadPoint;
use crate::error::{Result, Structure};
use crate::memtable::Operation;
use crate::page::{Frame, PageManager};
use crate::segment::BlockProblem;
use crate::segment::descriptor::{Segment, TreeRoot, composite_key};
use crate::segment::filter::{LINE_BYTES, Probe, key_hash};
use crate::segment::node::{Caching, LeafNode, ParentNode, TreeKind, read_leaf, read_parent};
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::segment_filter::{outside_piece, read_piece};
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_source::SortedSource;
use crate::sync::Arc;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// A value that was found.
#[derive(Clone, Debug)]
pub enum Found {
    /// The value, copied.
    Copied(Vec<u8>),
    /// The value, where it lies in a frame's content.
    InFrame(Arc<Frame>, Range<usize>),
    /// The value lies in blocks of its own.
    Overflow(OverflowReference),
}

/// What one source says of a key.
#[derive(Debug)]
pub enum Answer {
    /// It does not have it.
    Nothing,
    /// It is deleted.
    Deleted,
    /// It has this value.
    Value(Found),
}

/// Values up to this length are copied; longer ones hold their frame, or share their bytes between
/// clones.
pub const COPY_BYTES_MAX: usize = 1024;

/// The value of `key` at a read point.
///
/// # Errors
/// When a node cannot be read or is damaged.
pub fn get(
    core: &Core,
    point: &ReadPoint,
    keyspace: KeyspaceNumber,
    key: &[u8],
) -> Result<Option<Found>> {
    let seed = core.pages.layout().filter_seed();
    let mut hash = None;
    for slot in &point.memtables {
        for segment in slot.segments() {
            let hash = *hash.get_or_insert_with(|| key_hash(seed, keyspace, key));
            match ask_segment(&core.pages, segment, keyspace, key, hash, point.at)? {
                Answer::Nothing => {}
                Answer::Deleted => return Ok(None),
                Answer::Value(found) => return Ok(Some(found)),
            }
        }
        let version = slot.table.get(keyspace, key, point.at);
        let cover = slot.table.covering_range_delete(keyspace, key, point.at);
        if let Some(version) = version {
            if cover.is_some_and(|number| number > version.sequence) {
                return Ok(None);
            }
            return match version.operation {
                Operation::Put(value) => Ok(Some(Found::Copied(value.to_vec()))),
                Operation::PutOverflow(reference) => {
                    let found = overflow(reference).map_err(|p| p.corruption(Structure::Overflow));
                    Ok(Some(found.map_err(|damage| damage.in_keyspace(keyspace))?))
                }
                Operation::Delete => Ok(None),
            };
        }
        if cover.is_some() {
            return Ok(None);
        }
    }
    let hash = hash.unwrap_or_else(|| key_hash(seed, keyspace, key));
    for segment in point.state.segments_of(keyspace) {
        match ask_segment(&core.pages, segment, keyspace, key, hash, point.at)? {
            Answer::Nothing => {}
            Answer::Deleted => return Ok(None),
            Answer::Value(found) => return Ok(Some(found)),
        }
    }
    Ok(None)
}

fn overflow(reference: &[u8]) -> std::result::Result<Found, BlockProblem> {
    OverflowReference::decode(reference).map(Found::Overflow)
}

/// What one segment says of a key whose hash is known.
///
/// # Errors
/// When a node cannot be read or is damaged.
pub fn ask_segment(
    pages: &Arc<PageManager>,
    segment: &Arc<Segment>,
    keyspace: KeyspaceNumber,
    key: &[u8],
    hash: u64,
    at: SequenceNumber,
) -> Result<Answer> {
    let young = segment.is_young();
    if young && segment.share_of(keyspace).is_none() {
        return Ok(Answer::Nothing);
    }
    let mut composite = Vec::new();
    let tree_key = if young {
        composite_key(keyspace, key, &mut composite);
        composite.as_slice()
    } else {
        key
    };
    if segment.promoted.contains(tree_key) {
        return Ok(Answer::Nothing);
    }
    let cover = match &segment.ranges {
        None => None,
        Some(_) => SegmentSource::new(pages, segment, keyspace, Caching::Keep).cover(key, at.0)?,
    };
    let found = match &segment.points {
        Some(root) if !segment.filter.denies(pages, hash) => {
            let node_keyspace = if young { KeyspaceNumber::MANY } else { keyspace };
            let probe = (!young).then(|| Probe::new(segment.filter.seed, hash));
            find(pages, root, node_keyspace, tree_key, probe)?
        }
        _ => None,
    };
    let Some((leaf, first)) = found else {
        return Ok(if cover.is_some() { Answer::Deleted } else { Answer::Nothing });
    };
    let block = leaf.view();
    for index in first..block.len() {
        if index > first && block.compare_key(index, tree_key).map_err(|p| leaf.damage(p))?.is_ne()
        {
            break;
        }
        let entry = block.entry(index).map_err(|p| leaf.damage(p))?;
        if entry.number > at.0 {
            continue;
        }
        if cover.as_ref().is_some_and(|cover| cover.number > entry.number) {
            return Ok(Answer::Deleted);
        }
        return match entry.kind {
            EntryKind::Put => Ok(Answer::Value(value_in(&leaf, entry.value))),
            EntryKind::PutOverflow => {
                // A leaf of a young segment does not say whose the entry is.
                let found = overflow(entry.value);
                found.map(Answer::Value).map_err(|p| leaf.damage(p).met_in(keyspace))
            }
            _ => Ok(Answer::Deleted),
        };
    }
    Ok(if cover.is_some() { Answer::Deleted } else { Answer::Nothing })
}

fn value_in(leaf: &LeafNode, value: &[u8]) -> Found {
    if value.len() <= COPY_BYTES_MAX {
        return Found::Copied(value.to_vec());
    }
    let frame = leaf.frame();
    let start = value.as_ptr().addr().wrapping_sub(frame.content().as_ptr().addr());
    Found::InFrame(frame.clone(), start..start + value.len())
}

/// The leaf that has `key` and the index of its first version.
fn find(
    pages: &PageManager,
    root: &TreeRoot,
    keyspace: KeyspaceNumber,
    key: &[u8],
    probe: Option<Probe>,
) -> Result<Option<(LeafNode, usize)>> {
    let mut reference = root.reference;
    let mut height = root.height;
    while height > 0 {
        let parent = read_parent(pages, &reference, keyspace, height)?;
        let index = parent.view().child_for(key);
        if height == 1
            && let Some(probe) = probe
            && !leaf_may_contain(pages, &parent, keyspace, index, probe)?
        {
            return Ok(None);
        }
        reference = parent.child_reference(index)?;
        height -= 1;
    }
    let leaf = read_leaf(pages, &reference, keyspace, TreeKind::Points, Caching::Keep)?;
    let (index, equal) = leaf.view().lower_bound(key);
    Ok(equal.then_some((leaf, index)))
}

/// Asks the filter of one leaf; a leaf without one may contain everything.
fn leaf_may_contain(
    pages: &PageManager,
    parent: &ParentNode,
    keyspace: KeyspaceNumber,
    index: usize,
    probe: Probe,
) -> Result<bool> {
    let child = parent.view().child(index).map_err(|p| parent.damage(p))?;
    let Some(slot) = child.filter else { return Ok(true) };
    let frame = read_piece(pages, parent, slot, keyspace)?;
    let line_index = u64::from(slot.first_line) + u64::from(probe.line_index(slot.lines));
    let start = line_index as usize * LINE_BYTES;
    let line = frame.content().get(start..).and_then(|rest| rest.first_chunk::<LINE_BYTES>());
    line.map(|line| probe.is_in(line)).ok_or_else(|| outside_piece(&frame, keyspace))
}
