//! Gathers leaves under lowest parents, with their sidecars.
//!
//! *Assumes*: children come in key order; reused ones bring their filters and overflow lists along.
//! *Guarantees*: no parent has more than 64 children or, with long separators, more bytes than it
//! may; the last two share evenly, so that none is nearly empty beside a full one.
//!
//! *Format*: docs/format.md, sections 4.2 and 4.4. *Threads*: one owner.

use super::KEY_BYTES_MAX;
use super::descriptor::LEAVES_PER_LOWEST_PARENT_MAX;
use super::filter::LINE_BYTES;
use super::leaf_writer::LeafOverflow;
use super::overflow_reference::OverflowListItem;
use super::parent::{Below, Child, FilterSlot, ParentBuilder};
use crate::error::{Result, Structure};
use crate::page::{Codec, FLAG_WIDE_SLOTS, NODE_HEADER_BYTES, NodeKind, NodeSpec, NodeWriter};
use crate::types::KeyspaceNumber;

/// The separators of a parent take at most this much: four of the longest keys and some more.
pub const SEPARATOR_BYTES_MAX: usize = 4 * (KEY_BYTES_MAX + 8) + 4096;

/// Filter lines are checked in pieces of about this size.
const PIECE_BYTES: usize = 4096;

/// A leaf on its way under a lowest parent.
#[derive(Clone, Debug)]
pub struct LeafEntry {
    /// At most the leaf's first key, above all keys before it.
    pub separator: Vec<u8>,
    /// What is said of it; its filter slot is given here.
    pub child: Child,
    /// Its filter's lines.
    pub filter: Vec<u8>,
    /// Its overflow values.
    pub overflow: Vec<LeafOverflow>,
}

/// A parent, or a root, on its way under another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentEntry {
    /// At most its first key, above all keys before it.
    pub separator: Vec<u8>,
    /// What is said of it.
    pub child: Child,
}

/// True when children with separators of such lengths fill less than a third of a parent that may
/// have `count_max` of them: they are packed with a neighbour's.
pub fn is_under_third(lengths: impl Iterator<Item = usize>, count_max: usize) -> bool {
    let (mut count, mut bytes) = (0, 0);
    for length in lengths {
        count += 1;
        bytes += length;
    }
    count * 3 < count_max && bytes * 3 < SEPARATOR_BYTES_MAX
}

/// Cuts children, whose separators have these lengths, into even groups of at most `count_max`: the
/// sizes of the groups. A group's separators take little more than they may, however uneven they
/// are.
pub fn even_groups(lengths: &[usize], count_max: usize) -> Vec<usize> {
    // A child's share of a parent: of its bytes or of its places, whichever is more.
    let weight = |length: &usize| (length * count_max).max(SEPARATOR_BYTES_MAX);
    let total: usize = lengths.iter().map(weight).sum();
    let least = total.div_ceil(SEPARATOR_BYTES_MAX * count_max);
    // A group of one child would be a parent with one child.
    let most = (lengths.len() / 2).max(1);
    let mut groups = Vec::new();
    for group_count in least.clamp(1, most)..=most {
        groups = groups_of(lengths, group_count, total, weight);
        if groups.iter().all(|count| *count <= count_max) {
            break;
        }
    }
    groups
}

/// Cuts children where their weight passes each share of the total; no group has fewer than two.
fn groups_of(
    lengths: &[usize],
    group_count: usize,
    total: usize,
    weight: impl Fn(&usize) -> usize,
) -> Vec<usize> {
    let mut groups = Vec::with_capacity(group_count);
    let (mut end, mut sum) = (0, 0);
    for index in 1..=group_count {
        let start = end;
        let least = start + 2;
        let most = lengths.len() - 2 * (group_count - index).min(lengths.len() / 2);
        while let Some(next) = lengths.get(end).map(&weight) {
            let fits = (sum + next) * group_count <= total * index;
            if index < group_count && end >= least && (!fits || end >= most) {
                break;
            }
            sum += next;
            end += 1;
        }
        groups.push(end - start);
    }
    groups
}

/// Writes lowest parents.
#[derive(Debug)]
pub struct ParentWriter {
    keyspace: KeyspaceNumber,
    pending: Vec<LeafEntry>,
    pending_bytes: usize,
    written: Vec<ParentEntry>,
    leaf_count: usize,
}

impl ParentWriter {
    /// A writer of lowest parents whose nodes name `keyspace`.
    pub fn new(keyspace: KeyspaceNumber) -> ParentWriter {
        ParentWriter {
            keyspace,
            pending: Vec::new(),
            pending_bytes: 0,
            written: Vec::new(),
            leaf_count: 0,
        }
    }

    /// The leaves given so far.
    pub fn leaf_count(&self) -> usize {
        self.leaf_count
    }

    /// Adds a leaf.
    ///
    /// # Errors
    /// When a parent cannot be written.
    pub fn push(&mut self, nodes: &mut NodeWriter, leaf: LeafEntry) -> Result<()> {
        self.pending_bytes += leaf.separator.len();
        self.pending.push(leaf);
        self.leaf_count += 1;
        let full = self.pending.len() >= 2 * LEAVES_PER_LOWEST_PARENT_MAX
            || self.pending_bytes >= 2 * SEPARATOR_BYTES_MAX;
        if full {
            let groups = self.groups();
            self.write_first(nodes, groups.first().copied().unwrap_or(1))?;
        }
        Ok(())
    }

    /// Writes what is pending and returns all parents; or, when there was one leaf in all and they
    /// are to be the `whole` tree, that leaf.
    ///
    /// # Errors
    /// When a parent cannot be written.
    pub fn finish(mut self, nodes: &mut NodeWriter, whole: bool) -> Result<Lowest> {
        if whole
            && self.leaf_count == 1
            && let Some(leaf) = self.pending.pop()
        {
            return Ok(Lowest::Leaf(leaf));
        }
        if !self.pending.is_empty() {
            for group in self.groups() {
                self.write_first(nodes, group)?;
            }
        }
        Ok(Lowest::Parents(self.written))
    }

    fn groups(&self) -> Vec<usize> {
        let lengths: Vec<usize> = self.pending.iter().map(|leaf| leaf.separator.len()).collect();
        even_groups(&lengths, LEAVES_PER_LOWEST_PARENT_MAX)
    }

    /// True when all leaves so far would fill less than a third of one parent.
    pub fn is_under_third(&self) -> bool {
        let lengths = self.pending.iter().map(|leaf| leaf.separator.len());
        self.written.is_empty() && is_under_third(lengths, LEAVES_PER_LOWEST_PARENT_MAX)
    }

    /// Puts leaves before all others. No parent is written yet.
    pub fn prepend(&mut self, leaves: Vec<LeafEntry>) {
        assert!(self.written.is_empty(), "leaves come before those of a parent that is written");
        self.pending_bytes += leaves.iter().map(|leaf| leaf.separator.len()).sum::<usize>();
        self.leaf_count += leaves.len();
        self.pending.splice(0..0, leaves);
    }

    fn write_first(&mut self, nodes: &mut NodeWriter, count: usize) -> Result<()> {
        let group: Vec<LeafEntry> = self.pending.drain(..count).collect();
        self.pending_bytes -= group.iter().map(|leaf| leaf.separator.len()).sum::<usize>();
        let parent = write_lowest_parent(nodes, self.keyspace, &group)?;
        self.written.push(parent);
        Ok(())
    }
}

/// What a [`ParentWriter`] made.
#[derive(Clone, Debug)]
pub enum Lowest {
    /// One leaf was given: it needs no parent.
    Leaf(LeafEntry),
    /// The lowest parents in order; empty when no leaf was given.
    Parents(Vec<ParentEntry>),
}

/// Writes one lowest parent with its sidecar.
///
/// # Errors
/// When a node cannot be written.
pub fn write_lowest_parent(
    nodes: &mut NodeWriter,
    keyspace: KeyspaceNumber,
    leaves: &[LeafEntry],
) -> Result<ParentEntry> {
    let mut builder = ParentBuilder::new(1);
    let mut sidecar_pages = 0;
    let slots = write_filter_pieces(nodes, keyspace, leaves, &mut builder, &mut sidecar_pages)?;
    write_overflow_lists(nodes, keyspace, leaves, &mut builder, &mut sidecar_pages)?;
    for (leaf, slot) in leaves.iter().zip(slots) {
        builder.push(&leaf.separator, &Child { filter: slot, ..leaf.child });
    }
    let mut content = Vec::new();
    let info = builder.finish(&mut content).map_err(|p| p.corruption(Structure::Parent))?;
    let spec = parent_spec(1, keyspace, info.wide);
    // Parents are read soon: the next step and every lookup pass through them.
    let reference = nodes.append(&spec, &content, true)?;
    // What is said of leaves that are reused comes from a file.
    let sum = |part: fn(&Child) -> u64| {
        leaves.iter().map(|leaf| part(&leaf.child)).fold(0, u64::saturating_add)
    };
    let overflow_pages = sum(overflow_pages);
    let leaf_pages = sum(|child| u64::from(child.reference.pages));
    Ok(ParentEntry {
        separator: leaves.first().map(|leaf| leaf.separator.clone()).unwrap_or_default(),
        child: Child {
            reference,
            entries: sum(|child| child.entries),
            tombstones: sum(|child| child.tombstones),
            birth: None,
            below: Below::Parent {
                pages: overflow_pages.saturating_add(leaf_pages + sidecar_pages),
                leaves: leaves.len() as u64,
                overflow: overflow_pages > 0,
            },
            filter: None,
            dictionary: None,
            unused: 0,
        },
    })
}

/// The pages of a leaf's overflow values.
pub fn overflow_pages(child: &Child) -> u64 {
    match child.below {
        Below::Leaf { overflow_pages } => overflow_pages,
        Below::Parent { .. } => 0,
    }
}

/// How a parent's node is written.
pub fn parent_spec(height: u8, keyspace: KeyspaceNumber, wide: bool) -> NodeSpec {
    let bits = if wide { FLAG_WIDE_SLOTS } else { 0 };
    NodeSpec { kind: NodeKind::Parent, height, flags: bits, keyspace, codec: Codec::Plain }
}

fn write_filter_pieces(
    nodes: &mut NodeWriter,
    keyspace: KeyspaceNumber,
    leaves: &[LeafEntry],
    builder: &mut ParentBuilder,
    sidecar_pages: &mut u64,
) -> Result<Vec<Option<FilterSlot>>> {
    let layout = nodes.layout();
    let pages = PIECE_BYTES.div_ceil(layout.page_size as usize);
    let piece_bytes_max = pages * layout.usable_bytes() - NODE_HEADER_BYTES;
    let spec = NodeSpec {
        kind: NodeKind::FilterPiece,
        height: 0,
        flags: 0,
        keyspace,
        codec: Codec::Plain,
    };
    let mut slots = Vec::with_capacity(leaves.len());
    let mut piece: Vec<u8> = Vec::with_capacity(piece_bytes_max);
    let mut piece_index = 0;
    for leaf in leaves {
        if leaf.filter.is_empty() {
            slots.push(None);
            continue;
        }
        if !piece.is_empty() && piece.len() + leaf.filter.len() > piece_bytes_max {
            let reference = nodes.append(&spec, &piece, false)?;
            *sidecar_pages += u64::from(reference.pages);
            builder.push_piece(reference);
            piece.clear();
            piece_index += 1;
        }
        slots.push(Some(FilterSlot {
            piece: piece_index,
            first_line: (piece.len() / LINE_BYTES) as u32,
            lines: (leaf.filter.len() / LINE_BYTES) as u32,
        }));
        piece.extend_from_slice(&leaf.filter);
    }
    if !piece.is_empty() {
        let reference = nodes.append(&spec, &piece, false)?;
        *sidecar_pages += u64::from(reference.pages);
        builder.push_piece(reference);
    }
    Ok(slots)
}

/// Writes what the leaves have of overflow values, in lists that are no longer than a window: a
/// device that is full has no place for longer ones. The values of one leaf may lie in two of them.
fn write_overflow_lists(
    nodes: &mut NodeWriter,
    keyspace: KeyspaceNumber,
    leaves: &[LeafEntry],
    builder: &mut ParentBuilder,
    sidecar_pages: &mut u64,
) -> Result<()> {
    let spec = NodeSpec {
        kind: NodeKind::OverflowList,
        height: 0,
        flags: 0,
        keyspace,
        codec: Codec::Plain,
    };
    let list_bytes_max = nodes.layout().window_content_bytes();
    let mut write = |content: &[u8]| -> Result<()> {
        if !content.is_empty() {
            let reference = nodes.append(&spec, content, false)?;
            *sidecar_pages += u64::from(reference.pages);
            builder.push_overflow_list(reference);
        }
        Ok(())
    };
    let mut content = Vec::new();
    for (index, leaf) in leaves.iter().enumerate() {
        for overflow in &leaf.overflow {
            // A value born with its leaf keeps that meaning when the leaf is reused: the leaf's
            // birth is then written in the parent.
            let item = OverflowListItem {
                child_index: index as u32,
                birth: overflow.birth,
                blocks: overflow.blocks.clone(),
            };
            let before = content.len();
            item.encode(&mut content);
            if content.len() > list_bytes_max {
                write(content.get(..before).unwrap_or_default())?;
                content.drain(..before);
            }
        }
    }
    write(&content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_even_and_none_holds_one_child_or_too_many() {
        for count in 1..400 {
            for length in [0, 1000, KEY_BYTES_MAX] {
                let groups = even_groups(&vec![length; count], LEAVES_PER_LOWEST_PARENT_MAX);
                assert_eq!(groups.iter().sum::<usize>(), count);
                let (least, most) = (groups.iter().min().unwrap(), groups.iter().max().unwrap());
                assert!(most - least <= 2 && *most <= LEAVES_PER_LOWEST_PARENT_MAX);
                assert!(*least >= 2 || count == 1, "{count} of {length}: {groups:?}");
                assert!(length > 0 || most - least <= 1);
            }
        }
    }

    /// Forty long separators side by side among short ones once came into parents of a quarter of a
    /// megabyte, which the smallest regions cannot hold.
    #[test]
    fn long_separators_side_by_side_do_not_come_into_one_group() {
        for (short_before, long, short_after) in [(60, 40, 60), (0, 40, 120), (1, 3, 1), (0, 9, 0)]
        {
            let mut lengths = vec![10; short_before];
            lengths.extend(vec![KEY_BYTES_MAX; long]);
            lengths.extend(vec![10; short_after]);
            for count_max in [LEAVES_PER_LOWEST_PARENT_MAX, 160] {
                let groups = even_groups(&lengths, count_max);
                assert_eq!(groups.iter().sum::<usize>(), lengths.len());
                let mut rest = lengths.as_slice();
                for count in groups {
                    assert!((2..=count_max).contains(&count));
                    let (group, others) = rest.split_at(count);
                    let bytes: usize = group.iter().sum();
                    assert!(bytes <= SEPARATOR_BYTES_MAX + KEY_BYTES_MAX, "{bytes} in one parent");
                    rest = others;
                }
            }
        }
    }
}
