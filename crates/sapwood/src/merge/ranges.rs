//! Ranges trees: their fragments read, and written.
//!
//! *Format*: docs/format.md, section 4.3.

use crate::error::{Result, Structure};
use crate::page::{Codec, NodeWriter, PageManager};
use crate::segment::descriptor::{Segment, TreeRoot, composite_range};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::segment::leaf_writer::{LeafOptions, NewEntry};
use crate::segment::node::{Caching, TreeKind};
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::{Fragment, RangeValue, Union, clip, encode_value};
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_cursor::TreeCursor;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

use super::promote::bare_range;

/// The fragments of a ranges tree in order, read as they are asked for: a leaf of them is held.
#[derive(Debug)]
pub struct Fragments {
    cursor: TreeCursor,
    /// None that begins here or behind is handed out.
    end: Option<Vec<u8>>,
    has_begun: bool,
}

impl Fragments {
    /// All fragments of a tree, or those that may reach into `within`.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn new(
        pages: &Arc<PageManager>,
        root: &TreeRoot,
        keyspace: KeyspaceNumber,
        within: Option<&KeyRange>,
        caching: Caching,
    ) -> Result<Fragments> {
        let kind = TreeKind::Ranges;
        let mut cursor = TreeCursor::new(pages.clone(), root.clone(), keyspace, kind, caching);
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
        let end = within.and_then(|range| range.end.clone());
        Ok(Fragments { cursor, end, has_begun: false })
    }

    fn next_fragment(&mut self) -> Result<Option<Fragment>> {
        if std::mem::replace(&mut self.has_begun, true) && self.cursor.valid() {
            self.cursor.next()?;
        }
        let cursor = &self.cursor;
        if !cursor.valid() || !is_before_end(cursor.key(), self.end.as_deref()) {
            return Ok(None);
        }
        let value = RangeValue::decode(cursor.value(), cursor.base_number())
            .map_err(|problem| problem.corruption(Structure::Leaf))?;
        Ok(Some(Fragment {
            start: cursor.key().to_vec(),
            end: value.end.map(<[u8]>::to_vec),
            numbers: value.numbers().collect(),
        }))
    }
}

impl Iterator for Fragments {
    type Item = Result<Fragment>;

    fn next(&mut self) -> Option<Result<Fragment>> {
        self.next_fragment().transpose()
    }
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
    for fragment in Fragments::new(pages, root, keyspace, within, Caching::Keep)? {
        if !visit(fragment?) {
            break;
        }
    }
    Ok(())
}

/// The range tombstones of a promotion's sources with bare keys, without numbers, cut to the range
/// and to what was not promoted before; they are disjoint and ascend. They are read as they are
/// asked for, a leaf of each source at a time.
///
/// # Errors
/// When a node cannot be read or is damaged; so of each.
pub fn source_fragments(
    pages: &Arc<PageManager>,
    keyspace: KeyspaceNumber,
    sources: &[Arc<Segment>],
    range: &KeyRange,
) -> Result<impl Iterator<Item = Result<Fragment>>> {
    let mut streams = Vec::with_capacity(sources.len());
    for segment in sources {
        let Some(root) = &segment.ranges else { continue };
        let (named, within) = names_of(segment, keyspace, range);
        let fragments = Fragments::new(pages, root, named, Some(&within), Caching::Keep)?;
        streams.push(fragments.flat_map(move |fragment| {
            let pieces = |fragment| pieces_of(fragment, segment, keyspace, range, &within);
            // One error, or all pieces of one fragment.
            match fragment {
                Ok(fragment) => pieces(fragment).into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(error)],
            }
        }));
    }
    Ok(Union::new(streams.into_iter()))
}

/// Where the first of the [`source_fragments`] begins; no more is read than it takes to find it.
///
/// # Errors
/// As [`visit_fragments`].
pub fn first_source_fragment(
    pages: &Arc<PageManager>,
    keyspace: KeyspaceNumber,
    sources: &[Arc<Segment>],
    range: &KeyRange,
) -> Result<Option<Vec<u8>>> {
    let mut first: Option<Vec<u8>> = None;
    for segment in sources {
        let Some(root) = &segment.ranges else { continue };
        let (named, within) = names_of(segment, keyspace, range);
        visit_fragments(pages, root, named, Some(&within), &mut |fragment| {
            let pieces = pieces_of(fragment, segment, keyspace, range, &within);
            let Some(piece) = pieces.into_iter().next() else { return true };
            if first.as_ref().is_none_or(|first| piece.start < *first) {
                first = Some(piece.start);
            }
            false
        })?;
    }
    Ok(first)
}

/// What the nodes of a source's trees name, and a range as its trees have it.
fn names_of(
    segment: &Segment,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
) -> (KeyspaceNumber, KeyRange) {
    match segment.is_young() {
        true => (KeyspaceNumber::MANY, composite_range(keyspace, range)),
        false => (keyspace, range.clone()),
    }
}

/// The pieces of a source's fragment that lie in a range, or `within` as its trees have it, and
/// were not promoted; bare, and without numbers.
fn pieces_of(
    fragment: Fragment,
    segment: &Segment,
    keyspace: KeyspaceNumber,
    range: &KeyRange,
    within: &KeyRange,
) -> Vec<Fragment> {
    let whole = KeyRange::new(fragment.start, fragment.end);
    let Some(inside) = whole.intersection(within) else { return Vec::new() };
    let bare = |gap| if segment.is_young() { bare_range(keyspace, &gap) } else { gap };
    let gaps = segment.promoted.gaps_in(&inside).into_iter().map(bare);
    let pieces = gaps.filter_map(|bare| {
        let piece = Fragment { start: bare.start, end: bare.end, numbers: Vec::new() };
        clip(&piece, &range.start, range.end.as_deref())
    });
    pieces.collect()
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
    let mut writer = ranges_writer(keyspace, base_number, leaf_bytes, Vec::new());
    push_fragments(&mut writer, nodes, base_number, fragments)?;
    writer.finish(nodes, true)
}

/// A writer of a ranges tree, or of a stretch of one that begins with `separator`.
pub fn ranges_writer(
    keyspace: KeyspaceNumber,
    base_number: Option<u64>,
    leaf_bytes: usize,
    separator: Vec<u8>,
) -> SegmentWriter {
    let options = LeafOptions { leaf_bytes, codec: Codec::Plain, base_number, keyspace };
    SegmentWriter::new(options, FilterOptions { seed: 0, bits_per_key: 0 }, separator)
}

/// Adds fragments in order.
///
/// # Errors
/// When a node cannot be written.
pub fn push_fragments(
    writer: &mut SegmentWriter,
    nodes: &mut NodeWriter,
    base_number: Option<u64>,
    fragments: &[Fragment],
) -> Result<()> {
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
    Ok(())
}
