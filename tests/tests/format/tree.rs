//! Segments, written from docs/format.md. The numbers in comments are its sections.

use crate::bytes::{Input, filter_has};
use crate::reader::{Blocks, Event, File, NodeReference, Result};

/// From a key to before another, or to the end of all.
type Range = (Vec<u8>, Option<Vec<u8>>);

struct Entry {
    kind: u8,
    key: Vec<u8>,
    number: u64,
    value: Vec<u8>,
}

/// 6.4.
struct Root {
    reference: NodeReference,
    height: u8,
    entries: u64,
    tombstones: u64,
    pages: u64,
    leaves: u64,
}

/// 6.4.
pub struct Segment {
    points: Option<Root>,
    ranges: Option<Root>,
    seed: u64,
    filter_nodes: Vec<NodeReference>,
    promoted: Vec<Range>,
}

/// 4.4: where the filters of a segment are.
pub enum Filters {
    InLeaves,
    OfSegment(Vec<u8>),
    None,
}

/// What lies below a node.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    entries: u64,
    tombstones: u64,
    pages: u64,
    leaves: u64,
}

/// 4.2: a child, as its parent has it.
struct Child {
    reference: NodeReference,
    sums: Sums,
    filter: Option<(usize, usize, usize)>,
    has_overflow: bool,
}

struct Walk<'a> {
    segment: &'a Segment,
    /// `None` in young segments.
    keyspace: Option<u64>,
    filters: &'a Filters,
    is_points: bool,
    events: Vec<(u64, Event)>,
}

fn root(input: &mut Input<'_>) -> Root {
    let (reference, height) = (NodeReference::read(input), input.u8());
    let _birth = input.varint();
    let (entries, tombstones) = (input.varint(), input.varint());
    let (pages, leaves) = (input.varint(), input.varint());
    Root { reference, height, entries, tombstones, pages, leaves }
}

impl Segment {
    /// 6.4.
    pub fn read(input: &mut Input<'_>) -> Segment {
        input.varint();
        let flags = input.u8();
        assert_eq!(flags & !0xf, 0);
        let points = (flags & 1 != 0).then(|| root(input));
        let ranges = (flags & 2 != 0).then(|| root(input));
        let filter_kind = input.varint();
        let seed = input.u64();
        let filter_nodes: Vec<_> =
            (0..input.varint()).map(|_| NodeReference::read(input)).collect();
        assert!(filter_kind == 1 || filter_nodes.is_empty());
        if flags & 4 != 0 {
            let (least, greatest) = (input.sized(), input.sized());
            assert!(least <= greatest || flags & 8 != 0);
        }
        let (first, last) = (input.varint(), input.varint());
        assert!(first <= last);
        let promoted = (0..input.varint())
            .map(|_| {
                let has_end = input.u8() & 1 != 0;
                let start = input.sized().to_vec();
                (start, has_end.then(|| input.sized().to_vec()))
            })
            .collect();
        for _ in 0..input.varint() {
            for _ in 0..3 {
                input.varint();
            }
        }
        Segment { points, ranges, seed, filter_nodes, promoted }
    }

    /// 4.4: the lines of a young segment.
    pub fn young_filter(&self, file: &mut File<'_>) -> Result<Filters> {
        let mut lines = Vec::new();
        for &node in &self.filter_nodes {
            file.own(node.page, node.pages, "a young segment's filter")?;
            lines.extend(file.node(node, 9, None)?.content);
        }
        Ok(if lines.is_empty() { Filters::None } else { Filters::OfSegment(lines) })
    }

    /// What the segment says, in the order in which it counts: by number, ranges before points; and
    /// nothing of what has moved on.
    pub fn events(
        &self,
        file: &mut File<'_>,
        keyspace: Option<u64>,
        filters: &Filters,
    ) -> Result<Vec<(u64, Event)>> {
        if !self.promoted.is_empty() {
            file.saw("promoted ranges");
        }
        let mut events = Vec::new();
        for (root, is_points) in [(&self.ranges, false), (&self.points, true)] {
            let Some(root) = root else { continue };
            let mut walk = Walk { segment: self, keyspace, filters, is_points, events: Vec::new() };
            let all = (Vec::new(), None);
            walk.root(file, root, &all)?;
            events.append(&mut walk.events);
        }
        // Stable: of one number, ranges stay before points.
        events.sort_by_key(|(number, _)| *number);
        Ok(events)
    }

    fn is_promoted(&self, key: &[u8]) -> bool {
        self.promoted.iter().any(|(start, end)| {
            start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice())
        })
    }

    /// Whether a whole range has moved on.
    fn has_moved(&self, range: &Range) -> bool {
        self.promoted.iter().any(|(start, end)| {
            let reaches = match (end, &range.1) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(other)) => end >= other,
            };
            *start <= range.0 && reaches
        })
    }

    /// The parts of a range that have not moved on.
    fn unpromoted(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> Vec<Range> {
        let mut parts = vec![(start, end)];
        for (from, to) in &self.promoted {
            let mut left = Vec::new();
            for (start, end) in parts {
                let before_end = match &end {
                    Some(end) if end < from => end.clone(),
                    _ => from.clone(),
                };
                if start < before_end {
                    left.push((start.clone(), Some(before_end)));
                }
                if let Some(to) = to {
                    let start = start.max(to.clone());
                    if end.as_ref().is_none_or(|end| start < *end) {
                        left.push((start, end));
                    }
                }
            }
            parts = left;
        }
        parts
    }
}

impl Walk<'_> {
    fn root(&mut self, file: &mut File<'_>, root: &Root, all: &Range) -> Result<()> {
        let own_pages = root.reference.pages;
        let sums = Sums {
            entries: root.entries,
            tombstones: root.tombstones,
            pages: root.pages - own_pages,
            leaves: root.leaves,
        };
        let child = Child { reference: root.reference, sums, filter: None, has_overflow: true };
        if root.height == 0 {
            return self.leaf(file, &child, all, None, None);
        }
        self.parent(file, &child, root.height, all, None)
    }

    /// 4.2.
    fn parent(
        &mut self,
        file: &mut File<'_>,
        own: &Child,
        height: u8,
        range: &Range,
        separator: Option<&[u8]>,
    ) -> Result<()> {
        file.own(own.reference.page, own.reference.pages, "a parent")?;
        let node = file.node(own.reference, 2, self.keyspace)?;
        assert_eq!(node.height, height);
        file.saw(if height > 1 { "upper parent" } else { "lowest parent" });
        let mut input = Input(&node.content);
        let base = input.u64();
        let (piece_count, list_count) = (input.u16(), input.u16());
        let mut references = |count: u16| -> Vec<NodeReference> {
            (0..count)
                .map(|_| {
                    let (page, pages) = (base + u64::from(input.u32()), u64::from(input.u16()));
                    assert_eq!(input.u16(), 0);
                    NodeReference { page, pages, stamp: input.u32(), checksum: input.u32() }
                })
                .collect()
        };
        let (pieces, lists) = (references(piece_count), references(list_count));
        assert!(height == 1 || pieces.is_empty() && lists.is_empty());
        let mut sums = Sums::default();
        let mut filters = Vec::new();
        let mut values: Vec<(u64, Blocks)> = Vec::new();
        for piece in pieces {
            file.own(piece.page, piece.pages, "a filter piece")?;
            sums.pages += piece.pages;
            filters.push(file.node(piece, 3, self.keyspace)?.content);
        }
        for list in lists {
            file.own(list.page, list.pages, "an overflow list")?;
            sums.pages += list.pages;
            let content = file.node(list, 4, self.keyspace)?.content;
            let mut items = Input(&content);
            while !items.0.is_empty() {
                let child_index = items.varint();
                items.varint();
                values.push((child_index, items.blocks()));
            }
        }
        let children = sorted_block(file, input.0, node.flags);
        assert!(height > 1 || children.len() <= 64);
        if let Some(separator) = separator {
            assert_eq!(children[0].key, separator, "a node's first separator is its own");
        }
        for (index, entry) in children.iter().enumerate() {
            assert_eq!(entry.kind, 4, "the entries of a parent are children");
            let child = read_child(base, &entry.value, height);
            sums.entries += child.sums.entries;
            sums.tombstones += child.sums.tombstones;
            sums.pages += child.reference.pages + child.sums.pages;
            sums.leaves += child.sums.leaves;
            let start = if index == 0 { range.0.clone() } else { entry.key.clone() };
            let end = children.get(index + 1).map(|next| next.key.clone());
            let below = (start, end.or_else(|| range.1.clone()));
            if self.is_points && self.segment.has_moved(&below) {
                file.saw("node that has moved on");
                continue;
            }
            if height > 1 {
                self.parent(file, &child, height - 1, &below, Some(&entry.key))?;
                continue;
            }
            let lines = child.filter.map(|(piece, first, count)| {
                filters[piece][first * 64..(first + count) * 64].to_vec()
            });
            let listed: Vec<_> = values
                .iter()
                .filter(|(child_index, _)| *child_index == index as u64)
                .map(|(_, blocks)| blocks.clone())
                .collect();
            self.leaf(file, &child, &below, lines.as_deref(), Some(&listed))?;
        }
        assert_eq!(sums, own.sums, "the sums of a parent");
        Ok(())
    }

    fn leaf(
        &mut self,
        file: &mut File<'_>,
        own: &Child,
        range: &Range,
        lines: Option<&[u8]>,
        listed: Option<&[Blocks]>,
    ) -> Result<()> {
        file.own(own.reference.page, own.reference.pages, "a leaf")?;
        let node = file.node(own.reference, 1, self.keyspace)?;
        assert_eq!(node.height, 0);
        let mut sums = Sums { leaves: 1, ..Sums::default() };
        let mut values = Vec::new();
        for entry in sorted_block(file, &node.content, node.flags) {
            file.saw(format!("entry of kind {}", entry.kind));
            let is_below = range.1.as_ref().is_none_or(|end| entry.key < *end);
            assert!(range.0 <= entry.key && is_below, "a key outside its leaf's range");
            sums.entries += 1;
            sums.tombstones += u64::from(entry.kind == 2 || entry.kind == 5);
            if !self.is_points {
                self.range(&entry);
                continue;
            }
            self.check_filters(file, lines, &entry.key);
            let has_moved = self.segment.is_promoted(&entry.key);
            let event = match entry.kind {
                1 => Event::Put(entry.key, entry.value),
                2 => Event::Delete(entry.key),
                3 => {
                    let mut input = Input(&entry.value);
                    input.varint();
                    input.u64();
                    input.varint();
                    input.varint();
                    let blocks = input.blocks();
                    sums.pages += blocks.iter().map(|block| block.1).sum::<u64>();
                    values.push(blocks);
                    if has_moved {
                        continue;
                    }
                    let (value, blocks) = file.overflow(&entry.value)?;
                    for (first, pages) in blocks {
                        file.own(first, pages, "an overflow value")?;
                    }
                    Event::Put(entry.key, value)
                }
                kind => return Err(format!("an entry of kind {kind}")),
            };
            if !has_moved {
                self.events.push((entry.number, event));
            }
        }
        assert_eq!(sums, own.sums, "the sums of a leaf");
        assert!(own.has_overflow || values.is_empty());
        if let Some(listed) = listed {
            assert_eq!(values, listed, "an overflow list");
        }
        Ok(())
    }

    /// 4.3.
    fn range(&mut self, entry: &Entry) {
        assert_eq!(entry.kind, 5);
        let mut value = Input(&entry.value);
        let has_no_end = value.u8() & 1 != 0;
        let end = value.sized().to_vec();
        assert!(!has_no_end || end.is_empty());
        for (start, end) in self.segment.unpromoted(entry.key.clone(), (!has_no_end).then_some(end))
        {
            self.events.push((entry.number, Event::Range(start, end)));
        }
    }

    fn check_filters(&self, file: &mut File<'_>, lines: Option<&[u8]>, key: &[u8]) {
        let has = |lines: &[u8], number: u64, key: &[u8]| {
            filter_has(lines, file.identity_word, self.segment.seed, number as u32, key)
        };
        let is_there = match (self.filters, lines, self.keyspace) {
            (Filters::InLeaves, Some(lines), Some(number)) => has(lines, number, key),
            (Filters::OfSegment(lines), _, _) => {
                let number = u64::from(u32::from_be_bytes(key[..4].try_into().unwrap()));
                let is_in = file.keyspaces.get(&number).is_some_and(|own| own.has_filter);
                !is_in || has(lines, number, &key[4..])
            }
            _ => return,
        };
        assert!(is_there, "a filter denies a key");
        file.saw("key in a filter");
    }
}

/// 4.2.
fn read_child(base: u64, value: &[u8], height: u8) -> Child {
    let mut value = Input(value);
    let (page, pages) = (base + u64::from(value.u32()), u64::from(value.u16()));
    let flags = value.u16();
    let (stamp, checksum) = (value.u32(), value.u32());
    let (entries, tombstones) = (value.varint(), value.varint());
    if flags & 1 != 0 {
        value.varint();
    }
    let below = value.varint();
    let leaves = if height > 1 { value.varint() } else { 1 };
    let filter = (flags & 2 != 0)
        .then(|| (value.varint() as usize, value.varint() as usize, value.varint() as usize));
    assert!(flags & !0b1011 == 0 && value.0.is_empty());
    Child {
        reference: NodeReference { page, pages, stamp, checksum },
        sums: Sums { entries, tombstones, pages: below, leaves },
        filter,
        has_overflow: flags & 8 != 0,
    }
}

/// 4.1.
fn sorted_block(file: &mut File<'_>, content: &[u8], flags: u16) -> Vec<Entry> {
    let (has_numbers, is_wide) = (flags & 1 << 4 != 0, flags & 1 << 6 != 0);
    if has_numbers {
        file.saw("entries with numbers");
    }
    if is_wide {
        file.saw("wide slots");
    }
    let mut input = Input(content);
    let count = usize::from(input.u16());
    let prefix_length = usize::from(input.u16());
    let heap_length = input.u32() as usize;
    let base = if has_numbers { input.u64() } else { 0 };
    let heads: Vec<u32> = (0..count).map(|_| input.u32()).collect();
    let slots: Vec<usize> = (0..count)
        .map(|_| if is_wide { input.u32() as usize } else { usize::from(input.u16()) })
        .collect();
    let prefix = input.bytes(prefix_length);
    let heap = input.bytes(heap_length);
    assert!(input.0.is_empty(), "bytes behind the heap");
    let mut entries: Vec<Entry> = Vec::new();
    for (head, slot) in heads.into_iter().zip(slots) {
        let mut entry = Input(&heap[slot..]);
        let kind = entry.u8();
        let suffix_length = entry.varint() as usize;
        let number = if has_numbers { base + entry.varint() } else { 0 };
        let value_length = if kind == 2 { 0 } else { entry.varint() as usize };
        let mut key = prefix.to_vec();
        key.extend_from_slice(&head.to_be_bytes()[..suffix_length.min(4)]);
        key.extend_from_slice(entry.bytes(suffix_length.saturating_sub(4)));
        let value = entry.bytes(value_length).to_vec();
        if let Some(last) = entries.last() {
            assert!(last.key < key || (has_numbers && last.key == key && last.number > number));
            if last.key == key {
                file.saw("several versions of a key");
            }
        }
        entries.push(Entry { kind, key, number, value });
    }
    entries
}
