//! Merges several pending segments of one transaction into one.
//!
//! *Assumes*: no savepoint that somebody holds lies between them.
//! *Guarantees*: the result says of every key what they said together; what they were merged from
//! still says it, for cursors that hold it. *Threads*: the transaction's owner.

use super::pending_segment::{PendingSegment, PendingWriter};
use crate::error::{Error, Result, Structure};
use crate::merge::ranges::Fragments;
use crate::page::Block;
use crate::segment::BlockProblem;
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::leaf_writer::LeafOverflow;
use crate::segment::node::{Caching, TreeKind};
use crate::segment::overflow::blocks_of;
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::range_tombstone::{Fragment, Union};
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_cursor::TreeCursor;
use crate::state::Core;
use crate::state::reserve::Brings;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// One segment on its way into the result.
struct Input {
    cursor: Option<TreeCursor>,
    ranges: Option<Fragments>,
    /// The first fragment that does not end before the key that is merged.
    fragment: Option<Fragment>,
    /// Blocks of values that the result has not.
    dropped: Vec<Block>,
}

impl Input {
    fn new(core: &Core, pending: &PendingSegment) -> Result<Input> {
        let (segment, many) = (pending.segment(), KeyspaceNumber::MANY);
        let mut ranges = ranges_of(core, pending)?;
        let fragment = ranges.as_mut().and_then(Iterator::next).transpose()?;
        let mut cursor = segment.points.as_ref().map(|root| {
            let kind = TreeKind::Points;
            TreeCursor::new(core.pages.clone(), root.clone(), many, kind, Caching::Pass)
        });
        cursor.as_mut().map(TreeCursor::seek_first).transpose()?;
        Ok(Input { cursor, ranges, fragment, dropped: Vec::new() })
    }

    fn here(&self) -> Option<&TreeCursor> {
        self.cursor.as_ref().filter(|cursor| cursor.valid())
    }

    /// True when a range delete covers the key. Keys come in their order.
    fn covers(&mut self, key: &[u8]) -> Result<bool> {
        while let Some(fragment) = &self.fragment {
            if is_before_end(key, fragment.end.as_deref()) {
                return Ok(fragment.start.as_slice() <= key);
            }
            self.fragment = self.ranges.as_mut().and_then(Iterator::next).transpose()?;
        }
        Ok(false)
    }

    /// The entry where it stands is hidden.
    fn drop_entry(&mut self) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        if cursor.kind() == EntryKind::PutOverflow {
            self.dropped.extend(blocks_of(&decode(cursor.value())?));
        }
        cursor.next()
    }

    /// The entry where it stands goes into the result.
    fn keep_entry(&mut self, writer: &mut PendingWriter<'_>) -> Result<()> {
        let Some(cursor) = &mut self.cursor else { return Ok(()) };
        let (keyspace, key) = split(cursor.key())?;
        let overflow = match cursor.kind() {
            EntryKind::PutOverflow => {
                let OverflowReference { birth, blocks, .. } = decode(cursor.value())?;
                Some(LeafOverflow { birth, blocks })
            }
            _ => None,
        };
        writer.push(keyspace, key, cursor.kind(), cursor.value(), overflow)?;
        cursor.next()
    }
}

fn ranges_of(core: &Core, pending: &PendingSegment) -> Result<Option<Fragments>> {
    let Some(root) = &pending.segment().ranges else { return Ok(None) };
    Fragments::new(&core.pages, root, KeyspaceNumber::MANY, None, Caching::Pass).map(Some)
}

fn decode(value: &[u8]) -> Result<OverflowReference> {
    let decoded = OverflowReference::decode(value);
    decoded.map_err(|problem| Error::from(problem.corruption(Structure::Overflow)))
}

/// A composite key as keyspace and bare key.
pub fn split(key: &[u8]) -> Result<(KeyspaceNumber, &[u8])> {
    match key.split_first_chunk::<4>() {
        Some((lead, key)) => Ok((KeyspaceNumber(u32::from_be_bytes(*lead)), key)),
        None => {
            let problem = BlockProblem("a key of a young segment names no keyspace");
            Err(problem.corruption(Structure::Leaf).into())
        }
    }
}

/// The range of composite keys of a fragment as keyspace and range of bare keys.
pub fn split_range(start: &[u8], end: Option<&[u8]>) -> Result<(KeyspaceNumber, KeyRange)> {
    let (keyspace, start) = split(start)?;
    // The end of a keyspace is the next one's number alone.
    let end = end.and_then(|end| end.strip_prefix(&keyspace.0.to_be_bytes()));
    Ok((keyspace, KeyRange::new(start, end.map(<[u8]>::to_vec))))
}

/// What pending segments bring: deletions, when they hold nothing else.
pub fn brings_of<'a>(mut segments: impl Iterator<Item = &'a Arc<PendingSegment>>) -> Brings {
    let has_data = |pending: &Arc<PendingSegment>| {
        pending.segment().points.as_ref().is_some_and(|root| root.entries > root.tombstones)
    };
    if segments.any(has_data) { Brings::Data } else { Brings::Deletions }
}

/// Merges segments, newest first.
///
/// # Errors
/// When a node cannot be read or written: nothing has changed then.
pub fn merge(
    core: &Arc<Core>,
    newest_first: &[Arc<PendingSegment>],
) -> Result<Arc<PendingSegment>> {
    let entries = newest_first.iter().map(|pending| pending.segment().entries()).sum();
    // Values that lie outside the leaves stay where they are.
    let names = newest_first.iter().map(|pending| pending.blocks());
    let pages =
        names.fold(0, |pages: u64, name| pages.saturating_add(core.pending.node_pages(name)));
    let bytes = pages.saturating_mul(u64::from(core.pages.layout().page_size));
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let brings = brings_of(newest_first.iter());
    let mut writer = PendingWriter::new(core, brings, entries, bytes)?;
    let mut inputs = Vec::with_capacity(newest_first.len());
    for pending in newest_first {
        inputs.push(Input::new(core, pending)?);
    }
    // Of however many range deletes a leaf of each segment is held.
    let streams = newest_first.iter().map(|pending| ranges_of(core, pending));
    let streams = streams.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
    for fragment in Union::new(streams.into_iter()) {
        // Fragments that touch at the border of two keyspaces were joined.
        add_fragment(&mut writer, &fragment?)?;
    }
    let mut key = Vec::new();
    loop {
        let least = inputs.iter().filter_map(|input| input.here().map(TreeCursor::key)).min();
        let Some(least) = least else { break };
        key.clear();
        key.extend_from_slice(least);
        let mut decided = false;
        for input in &mut inputs {
            if input.here().is_some_and(|cursor| cursor.key() == key) {
                match decided {
                    true => input.drop_entry()?,
                    false => input.keep_entry(&mut writer)?,
                }
                decided = true;
            }
            // It hides what is older, and nothing of its own layer.
            decided = decided || input.covers(&key)?;
        }
    }
    let tier = newest_first.iter().map(|pending| pending.tier()).max().unwrap_or(0);
    let names = newest_first.iter().map(|pending| pending.blocks());
    let merged: Vec<_> = names.zip(inputs.into_iter().map(|input| input.dropped)).collect();
    match writer.finish(tier.saturating_add(1), &merged)? {
        Some(pending) => {
            newest_first.iter().for_each(|from| from.merged_into(&pending));
            Ok(pending)
        }
        // What hides something stays, so something is left of segments that hold something.
        None => {
            Err(BlockProblem("pending segments hold nothing").corruption(Structure::Leaf).into())
        }
    }
}

/// Adds a fragment of composite keys, cut at the borders of keyspaces.
fn add_fragment(writer: &mut PendingWriter<'_>, fragment: &Fragment) -> Result<()> {
    let mut start = fragment.start.clone();
    loop {
        let (keyspace, range) = split_range(&start, fragment.end.as_deref())?;
        writer.delete_range(keyspace, &range)?;
        let next = keyspace.0.saturating_add(1).to_be_bytes();
        let goes_on =
            range.end.is_none() && fragment.end.as_deref().is_some_and(|end| next.as_slice() < end);
        if !goes_on {
            return Ok(());
        }
        start = next.to_vec();
    }
}
