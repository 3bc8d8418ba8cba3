//! A segment's descriptor as bytes, in the state and in commits by reference.
//!
//! *Format*: docs/format.md, section 6.4.

use super::input::{Input, Parsed, Problem};
use crate::codec::{Reader, put_length_prefixed, put_varint};
use crate::error::Result;
use crate::page::{Counted, NodeRef};
use crate::segment::descriptor::{Bounds, KeyspaceShare, Segment, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::segment_filter::SegmentFilter;
use crate::sync::Arc;
use crate::types::{Epoch, SequenceNumber};

const HAS_POINTS: u8 = 1 << 0;
const HAS_RANGES: u8 = 1 << 1;
const HAS_BOUNDS: u8 = 1 << 2;
const OPEN_END: u8 = 1 << 3;
const FLAGS_KNOWN: u8 = HAS_POINTS | HAS_RANGES | HAS_BOUNDS | OPEN_END;

const RANGE_HAS_END: u8 = 1 << 0;

const FILTER_NONE: u64 = 0;
const FILTER_BLOCKED_BLOOM: u64 = 1;

/// Bytes of a tree: reference, height, five varints.
const TREE_BYTES_MIN: usize = NodeRef::ENCODED_BYTES_MIN + 6;
/// The fewest bytes of a segment: number, flags, one tree, filter, three counts and a pair.
pub(super) const SEGMENT_BYTES_MIN: usize = 2 + TREE_BYTES_MIN + 10 + 4;
/// The fewest bytes of a promoted range: flags and a length.
const RANGE_BYTES_MIN: usize = 2;
/// The fewest bytes of a keyspace's share: three varints.
const SHARE_BYTES_MIN: usize = 3;

/// Sums over all segments of a state stay below this, so that nobody's arithmetic overflows.
const SUM_MAX: u64 = 1 << 62;

/// Appends a segment's descriptor.
pub fn encode_segment(segment: &Segment, out: &mut Vec<u8>) {
    put_varint(out, segment.number);
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let bounds = segment.bounds.as_ref();
    out.push(
        flag(segment.points.is_some(), HAS_POINTS)
            | flag(segment.ranges.is_some(), HAS_RANGES)
            | flag(bounds.is_some(), HAS_BOUNDS)
            | flag(bounds.is_some_and(|bounds| bounds.open_end), OPEN_END),
    );
    segment.points.iter().chain(&segment.ranges).for_each(|tree| put_tree(tree, out));
    put_varint(out, FILTER_BLOCKED_BLOOM);
    out.extend_from_slice(&segment.filter.seed.to_le_bytes());
    put_varint(out, segment.filter.nodes.len() as u64);
    segment.filter.nodes.iter().for_each(|node| node.encode(out));
    if let Some(bounds) = bounds {
        put_length_prefixed(out, &bounds.least);
        put_length_prefixed(out, &bounds.greatest);
    }
    let (first, last) = segment.sequences.unwrap_or_default();
    put_varint(out, first.0);
    put_varint(out, last.0);
    put_varint(out, segment.promoted.len() as u64);
    for range in segment.promoted.iter() {
        out.push(flag(range.end.is_some(), RANGE_HAS_END));
        put_length_prefixed(out, &range.start);
        if let Some(end) = &range.end {
            put_length_prefixed(out, end);
        }
    }
    put_varint(out, segment.keyspaces.len() as u64);
    for share in segment.keyspaces.iter() {
        put_varint(out, u64::from(share.keyspace.0));
        put_varint(out, share.entries);
        put_varint(out, share.bytes);
    }
}

fn put_tree(tree: &TreeRoot, out: &mut Vec<u8>) {
    tree.reference.encode(out);
    out.push(tree.height);
    for number in [tree.birth.0, tree.entries, tree.tombstones, tree.pages, tree.leaves] {
        put_varint(out, number);
    }
}

/// Takes a segment's descriptor from the reader, in a file of `page_count` pages.
///
/// # Errors
/// `Corruption` of the state, with what is wrong; the reader then stands anywhere.
pub fn decode_segment(reader: &mut Reader<'_>, page_count: u64) -> Result<Segment> {
    let mut input = Input::over(*reader, page_count);
    let segment = read(&mut input).and_then(|segment| {
        check_sums([&segment].into_iter())?;
        Ok(segment)
    });
    *reader = input.into_reader();
    segment.map_err(Problem::into_error)
}

pub(super) fn read(input: &mut Input<'_>) -> Parsed<Segment> {
    let number = input.varint("a segment's number")?;
    read_body(number, input)
        .map_err(|Problem(detail)| Problem(format!("segment {number}: {detail}")))
}

fn read_body(number: u64, input: &mut Input<'_>) -> Parsed<Segment> {
    let flags = input.u8("its flags")?;
    if flags & !FLAGS_KNOWN != 0 || flags & (HAS_BOUNDS | OPEN_END) == OPEN_END {
        return Err(Problem(format!("flags {flags:#x} are none of a segment's")));
    }
    if flags & (HAS_POINTS | HAS_RANGES) == 0 {
        return Err(Problem("it has neither tree".into()));
    }
    let mut tree = |bit: u8| match flags & bit {
        0 => Ok(None),
        _ => read_tree(input).map(Some),
    };
    let points = tree(HAS_POINTS)?;
    let ranges = tree(HAS_RANGES)?;
    let filter = read_filter(input)?;
    let bounds = match flags & HAS_BOUNDS {
        0 => None,
        _ => Some(read_bounds(flags & OPEN_END != 0, input)?),
    };
    let sequences = read_sequences(input)?;
    let promoted = Arc::new(read_promoted(input)?);
    // Whoever promotes the last of it takes it out; nobody would do so later.
    if promoted.covers(&KeyRange::all()) {
        return Err(Problem("nothing is left of it".into()));
    }
    let keyspaces = Arc::new(Counted::new(read_shares(input)?));
    let counted = Counted::default();
    Ok(Segment { number, points, ranges, filter, bounds, sequences, promoted, keyspaces, counted })
}

fn read_tree(input: &mut Input<'_>) -> Parsed<TreeRoot> {
    let tree = TreeRoot {
        reference: input.node("a root")?,
        height: input.u8("a root's height")?,
        birth: Epoch(input.varint("a root's birth")?),
        entries: input.varint("a tree's entries")?,
        tombstones: input.varint("a tree's tombstones")?,
        pages: input.varint("a tree's pages")?,
        leaves: input.varint("a tree's leaves")?,
    };
    if tree.tombstones > tree.entries || tree.leaves > tree.pages {
        return Err(Problem(format!(
            "{} tombstones of {} entries in {} leaves of {} pages cannot be",
            tree.tombstones, tree.entries, tree.leaves, tree.pages
        )));
    }
    Ok(tree)
}

fn read_filter(input: &mut Input<'_>) -> Parsed<SegmentFilter> {
    let kind = input.varint("the filter's kind")?;
    let seed = input.u64("the filter's seed")?;
    let count = input.count("the number of filter nodes", NodeRef::ENCODED_BYTES_MIN)?;
    if kind > FILTER_BLOCKED_BLOOM || (kind == FILTER_NONE && count > 0) {
        return Err(Problem(format!("a filter of kind {kind} and {count} nodes is unknown")));
    }
    let mut nodes = Vec::with_capacity(count);
    let mut pages = 0_u64;
    for _ in 0..count {
        let node = input.node("a filter node")?;
        pages = pages.saturating_add(u64::from(node.pages));
        nodes.push(node);
    }
    input.check_pages("a filter of nodes that lie side by side", 0, pages)?;
    Ok(SegmentFilter::new(seed, nodes))
}

fn read_bounds(open_end: bool, input: &mut Input<'_>) -> Parsed<Bounds> {
    let least = input.key("the least key")?;
    let greatest = input.key("the greatest key")?;
    // What a segment with an open end names as its greatest key may be anything.
    if !open_end && greatest < least {
        return Err(Problem("its greatest key lies before its least".into()));
    }
    Ok(Bounds { least, greatest, open_end })
}

fn read_sequences(input: &mut Input<'_>) -> Parsed<Option<(SequenceNumber, SequenceNumber)>> {
    let first = SequenceNumber(input.varint("the first sequence number")?);
    let last = SequenceNumber(input.varint("the last sequence number")?);
    match (first.0, last.0) {
        (0, 0) => Ok(None),
        (1.., _) if first <= last => Ok(Some((first, last))),
        _ => Err(Problem(format!("its sequence numbers are {first} to {last}"))),
    }
}

fn read_promoted(input: &mut Input<'_>) -> Parsed<KeyRanges> {
    let count = input.count("the number of promoted ranges", RANGE_BYTES_MIN)?;
    let mut promoted = KeyRanges::new();
    // The end of the last range, which is open when there is none.
    let mut last_end = Some(Vec::new());
    for _ in 0..count {
        let flags = input.u8("a promoted range's flags")?;
        if flags & !RANGE_HAS_END != 0 {
            return Err(Problem(format!("flags {flags:#x} are none of a promoted range's")));
        }
        let start = input.key("the start of a promoted range")?;
        let end = match flags & RANGE_HAS_END {
            0 => None,
            _ => Some(input.key("the end of a promoted range")?),
        };
        let range = KeyRange { start, end };
        if range.is_empty() || last_end.is_none_or(|end| range.start < end) {
            return Err(Problem("its promoted ranges are not in order".into()));
        }
        last_end = range.end.clone();
        promoted.insert(range);
    }
    Ok(promoted)
}

fn read_shares(input: &mut Input<'_>) -> Parsed<Vec<KeyspaceShare>> {
    let count = input.count("the number of its keyspaces", SHARE_BYTES_MIN)?;
    let mut shares = Vec::with_capacity(count);
    let mut last = None;
    for _ in 0..count {
        shares.push(KeyspaceShare {
            keyspace: input.keyspace_after(&mut last)?,
            entries: input.varint("a keyspace's entries")?,
            bytes: input.varint("a keyspace's bytes")?,
        });
    }
    Ok(shares)
}

/// Whether entries, pages and bytes can be summed up over all segments.
pub(super) fn check_sums<'a>(segments: impl Iterator<Item = &'a Segment>) -> Parsed<()> {
    let (mut entries, mut pages, mut share_entries, mut bytes) = (0, 0, 0, 0);
    let add = |sum: &mut u64, more: u64| {
        *sum = sum.saturating_add(more);
        *sum <= SUM_MAX
    };
    for segment in segments {
        let trees = segment.points.iter().chain(&segment.ranges);
        let fits = trees.fold(true, |fits, tree| {
            fits & add(&mut entries, tree.entries) & add(&mut pages, tree.pages)
        });
        let fits = segment
            .filter
            .nodes
            .iter()
            .fold(fits, |fits, node| fits & add(&mut pages, u64::from(node.pages)));
        let fits = segment.keyspaces.iter().fold(fits, |fits, share| {
            fits & add(&mut bytes, share.bytes) & add(&mut share_entries, share.entries)
        });
        if !fits {
            return Err(Problem(format!(
                "sums up to segment {} are beyond all files",
                segment.number
            )));
        }
    }
    Ok(())
}
