//! Ranges trees: read whole, and written anew.
//!
//! *Format*: docs/format.md, section 4.3.

use crate::error::{Result, Structure};
use crate::page::{Codec, NodeWriter, PageManager};
use crate::segment::descriptor::{Segment, TreeRoot, composite_range};
use crate::segment::key_range::KeyRange;
use crate::segment::leaf_writer::{LeafOptions, NewEntry};
use crate::segment::node::{Caching, TreeKind};
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::{Fragment, RangeValue, clip, encode_value, union_ranges};
use crate::segment::segment_cursor::TreeCursor;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

use super::promote::bare_range;

/// All fragments of a ranges tree, or those that may reach into `within`, in order.
///
/// # Errors
/// When a node cannot be read or is damaged.
pub fn read_fragments(
    pages: &Arc<PageManager>,
    root: &TreeRoot,
    keyspace: KeyspaceNumber,
    within: Option<&KeyRange>,
) -> Result<Vec<Fragment>> {
    let mut fragments = Vec::new();
    visit_fragments(pages, root, keyspace, within, &mut |fragment| {
        fragments.push(fragment);
        true
    })?;
    Ok(fragments)
}

/// Hands out the fragments of a ranges tree, or those that may reach into `within`, in order, until
/// `visit` says false.
///
/// # Errors
/// When a node cannot be read or is damaged.
pub fn visit_fragments(
    pages: &Arc<PageManager>,
    root: &TreeRoot,
    keyspace: KeyspaceNumber,
    within: Option<&KeyRange>,
    visit: &mut dyn FnMut(Fragment) -> bool,
) -> Result<()> {
    let mut cursor =
        TreeCursor::new(pages.clone(), root.clone(), keyspace, TreeKind::Ranges, Caching::Keep);
    match within {
        None => cursor.seek_first()?,
        Some(range) => {
            // The fragment before the start may reach into the range.
            cursor.seek_before(&range.start)?;
            if !cursor.valid() {
                cursor.seek_first()?;
            }
        }
    }
    while cursor.valid() {
        let behind =
            within.and_then(|range| range.end.as_deref()).is_some_and(|end| cursor.key() >= end);
        if behind {
            break;
        }
        let value = RangeValue::decode(cursor.value(), cursor.base_number())
            .map_err(|problem| problem.corruption(Structure::Leaf))?;
        let fragment = Fragment {
            start: cursor.key().to_vec(),
            end: value.end.map(<[u8]>::to_vec),
            numbers: value.numbers().collect(),
        };
        if !visit(fragment) {
            break;
        }
        cursor.next()?;
    }
    Ok(())
}

/// The range tombstones of a promotion's sources with bare keys, without numbers, cut to the range
/// and to what was not promoted before.
///
/// # Errors
/// As [`read_fragments`].
pub fn source_fragments(
    pages: &Arc<PageManager>,
    keyspace: KeyspaceNumber,
    sources: &[Arc<Segment>],
    range: &KeyRange,
) -> Result<Vec<Fragment>> {
    let mut lists: Vec<Vec<Fragment>> = Vec::new();
    for segment in sources {
        let Some(root) = &segment.ranges else { continue };
        let young = segment.is_young();
        let (named, within) = match young {
            true => (KeyspaceNumber::MANY, composite_range(keyspace, range)),
            false => (keyspace, range.clone()),
        };
        let mut list = Vec::new();
        for fragment in read_fragments(pages, root, named, Some(&within))? {
            let whole = KeyRange::new(fragment.start.clone(), fragment.end.clone());
            let Some(inside) = whole.intersection(&within) else { continue };
            for gap in segment.promoted.gaps_in(&inside) {
                let bare = if young { bare_range(keyspace, &gap) } else { gap };
                let piece = Fragment { start: bare.start, end: bare.end, numbers: Vec::new() };
                list.extend(clip(&piece, &range.start, range.end.as_deref()));
            }
        }
        lists.push(list);
    }
    let lists: Vec<&[Fragment]> = lists.iter().map(Vec::as_slice).collect();
    Ok(union_ranges(&lists))
}

/// Writes a ranges tree of fragments in order; with `base_number` they carry numbers.
///
/// # Errors
/// When a node cannot be written.
pub fn write_ranges_tree(
    nodes: &mut NodeWriter,
    keyspace: KeyspaceNumber,
    base_number: Option<u64>,
    leaf_bytes: usize,
    fragments: &[Fragment],
) -> Result<Lowest> {
    let options = LeafOptions { leaf_bytes, codec: Codec::Plain, base_number, keyspace };
    let filter = FilterOptions { seed: 0, bits_per_key: 0 };
    let mut writer = SegmentWriter::new(options, filter, Vec::new());
    let mut value = Vec::new();
    for fragment in fragments {
        value.clear();
        let numbers = if base_number.is_some() { fragment.numbers.as_slice() } else { &[] };
        encode_value(fragment.end.as_deref(), base_number, numbers, &mut value);
        let entry = NewEntry {
            kind: EntryKind::RangeDelete,
            key: &fragment.start,
            number: numbers.first().copied().unwrap_or(0),
            value: &value,
            hash: 0,
        };
        writer.push(nodes, &entry, None)?;
    }
    writer.finish(nodes, true)
}
