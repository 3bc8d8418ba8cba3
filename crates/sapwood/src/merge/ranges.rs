//! Ranges trees: read whole, and written anew.
//!
//! *Format*: docs/format.md, section 4.3.

use crate::error::{Result, Structure};
use crate::page::{Codec, NodeWriter, PageManager};
use crate::segment::descriptor::TreeRoot;
use crate::segment::leaf_writer::{LeafOptions, NewEntry};
use crate::segment::node::{Caching, TreeKind};
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::{Fragment, RangeValue, encode_value};
use crate::segment::segment_cursor::TreeCursor;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// All fragments of a ranges tree, or those that may reach into `within`, in order.
///
/// # Errors
/// When a node cannot be read or is damaged.
pub fn read_fragments(
    pages: &Arc<PageManager>,
    root: &TreeRoot,
    keyspace: KeyspaceNumber,
    within: Option<&crate::segment::key_range::KeyRange>,
) -> Result<Vec<Fragment>> {
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
    let mut fragments = Vec::new();
    while cursor.valid() {
        let behind =
            within.and_then(|range| range.end.as_deref()).is_some_and(|end| cursor.key() >= end);
        if behind {
            break;
        }
        let value = RangeValue::decode(cursor.value(), cursor.base_number())
            .map_err(|problem| problem.corruption(Structure::Leaf))?;
        fragments.push(Fragment {
            start: cursor.key().to_vec(),
            end: value.end.map(<[u8]>::to_vec),
            numbers: value.numbers().collect(),
        });
        cursor.next()?;
    }
    Ok(fragments)
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
