//! The trees of segments, written from docs/format.md. The numbers in comments are its sections.

use crate::bytes::{Input, filter_has};
use crate::reader::{Blocks, File, NodeReference, Result};
use crate::segment::{Filters, Range, Root, Segment};
use crate::state::Event;

/// 4.1.
pub struct Entry {
    kind: u8,
    key: Vec<u8>,
    /// None: entries of its node carry none.
    pub number: Option<u64>,
    /// What numbers in its node are more than.
    base: u64,
    value: Vec<u8>,
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

/// 4.2.
#[derive(Default)]
struct Sidecar {
    filters: Vec<Vec<u8>>,
    /// By the index of the child: birth and blocks.
    values: Vec<(u64, (u64, Blocks))>,
}

/// A walk over one tree of a segment.
pub struct Walk<'a> {
    segment: &'a Segment,
    /// `None` in young segments.
    keyspace: Option<u64>,
    filters: &'a Filters,
    is_points: bool,
    /// What its entries say, with the numbers of their commits.
    pub events: Vec<(u64, Event)>,
    /// 4.3: where the last fragment ends; `Some(None)`: at the end of all keys.
    fragment_end: Option<Option<Vec<u8>>>,
}

impl<'a> Walk<'a> {
    pub fn new(
        segment: &'a Segment,
        keyspace: Option<u64>,
        filters: &'a Filters,
        is_points: bool,
    ) -> Walk<'a> {
        let (events, fragment_end) = (Vec::new(), None);
        Walk { segment, keyspace, filters, is_points, events, fragment_end }
    }

    pub fn root(&mut self, file: &mut File<'_>, root: &Root) -> Result<()> {
        let all = &(Vec::new(), None);
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
        let which = if height > 1 { "upper" } else { "lowest" };
        let of = if self.is_points { "points" } else { "ranges" };
        let place = if self.keyspace.is_some() { "a level" } else { "a young segment" };
        file.saw(format!("{which} parent of {of} in {place}"));
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
        let (Sidecar { filters, values }, mut sums) = self.sidecar(file, pieces, lists)?;
        let children = sorted_block(file, input.0, node.flags);
        assert!(height > 1 || children.len() <= 64);
        match separator {
            Some(separator) => {
                assert_eq!(children[0].key, separator, "a node's first separator is its own");
            }
            None if children[0].key.is_empty() => {}
            None => file.saw("root whose first separator is a key"),
        }
        for (index, entry) in children.iter().enumerate() {
            assert_eq!(entry.kind, 4, "the entries of a parent are children");
            let child = read_child(file, base, &entry.value, height);
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
                .map(|(_, value)| value.clone())
                .collect();
            self.leaf(file, &child, &below, lines.as_deref(), Some(&listed))?;
        }
        assert_eq!(sums, own.sums, "the sums of a parent");
        Ok(())
    }

    /// 4.2, 4.4: what stands beside a lowest parent, and its pages.
    fn sidecar(
        &self,
        file: &mut File<'_>,
        pieces: Vec<NodeReference>,
        lists: Vec<NodeReference>,
    ) -> Result<(Sidecar, Sums)> {
        let (mut sidecar, mut sums) = (Sidecar::default(), Sums::default());
        if pieces.len() > 1 {
            file.saw("several filter pieces of one parent");
        }
        for piece in pieces {
            file.own(piece.page, piece.pages, "a filter piece")?;
            sums.pages += piece.pages;
            sidecar.filters.push(file.node(piece, 3, self.keyspace)?.content);
        }
        for list in lists {
            file.own(list.page, list.pages, "an overflow list")?;
            sums.pages += list.pages;
            let content = file.node(list, 4, self.keyspace)?.content;
            let mut items = Input(&content);
            while !items.0.is_empty() {
                let (child_index, birth) = (items.varint(), items.varint());
                sidecar.values.push((child_index, (birth, items.blocks())));
            }
        }
        Ok((sidecar, sums))
    }

    fn leaf(
        &mut self,
        file: &mut File<'_>,
        own: &Child,
        range: &Range,
        lines: Option<&[u8]>,
        listed: Option<&[(u64, Blocks)]>,
    ) -> Result<()> {
        file.own(own.reference.page, own.reference.pages, "a leaf")?;
        let node = file.node(own.reference, 1, self.keyspace)?;
        assert_eq!(node.height, 0);
        let mut sums = Sums { leaves: 1, ..Sums::default() };
        let mut values = Vec::new();
        for entry in sorted_block(file, &node.content, node.flags) {
            let place = self.segment.name_of(&entry);
            file.saw(format!("entry of kind {} in {place}", entry.kind));
            let number = self.segment.number_of(&entry)?;
            let is_below = range.1.as_ref().is_none_or(|end| entry.key < *end);
            assert!(range.0 <= entry.key && is_below, "a key outside its leaf's range");
            sums.entries += 1;
            sums.tombstones += u64::from(entry.kind == 2 || entry.kind == 5);
            if !self.is_points {
                self.range(file, &entry, number);
                continue;
            }
            assert!(self.segment.is_in_bounds(&entry.key, Some(&entry.key)));
            self.check_filters(file, lines, &entry.key);
            let has_moved = self.segment.is_promoted(&entry.key);
            let event = match entry.kind {
                1 => Event::Put(entry.key, entry.value),
                2 => Event::Delete(entry.key),
                3 => {
                    let (birth, blocks) = birth_and_blocks(&entry.value);
                    sums.pages += blocks.iter().map(|block| block.1).sum::<u64>();
                    values.push((birth, blocks));
                    if has_moved {
                        continue;
                    }
                    let of = self.keyspace.unwrap_or_else(|| keyspace_of(&entry.key));
                    let value = file.overflow(&entry.value, of)?;
                    if value.is_streamed {
                        file.saw(format!("streamed value in {place}"));
                    }
                    for (first, pages) in value.blocks {
                        file.own(first, pages, "an overflow value")?;
                    }
                    Event::Put(entry.key, value.bytes)
                }
                kind => return Err(format!("an entry of kind {kind}")),
            };
            if !has_moved {
                self.events.push((number, event));
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
    fn range(&mut self, file: &mut File<'_>, entry: &Entry, number: u64) {
        assert_eq!(entry.kind, 5);
        let mut value = Input(&entry.value);
        let flags = value.u8();
        assert!(flags < 2);
        let end = value.sized().to_vec();
        let end = match flags {
            0 => Some(end),
            _ => {
                assert!(end.is_empty());
                file.saw("range tombstone without an end");
                None
            }
        };
        if let Some(highest) = entry.number {
            let numbers: Vec<_> =
                (0..value.varint()).map(|_| entry.base + value.varint()).collect();
            assert!(numbers[0] == highest && numbers.is_sorted_by(|one, other| one > other));
            if numbers.len() > 1 {
                file.saw("range tombstone of several commits");
            }
        }
        assert!(value.0.is_empty());
        assert!(end.as_ref().is_none_or(|end| entry.key < *end), "a range that holds no key");
        assert!(self.segment.is_in_bounds(&entry.key, end.as_deref()));
        let before = self.fragment_end.replace(end.clone());
        let overlaps = before.is_some_and(|before| before.is_none_or(|before| before > entry.key));
        assert!(!overlaps, "fragments overlap");
        for (start, end) in self.segment.unpromoted(entry.key.clone(), end) {
            self.events.push((number, Event::Range(start, end)));
        }
    }

    fn check_filters(&self, file: &mut File<'_>, lines: Option<&[u8]>, key: &[u8]) {
        let has = |lines: &[u8], number: u64, key: &[u8]| {
            filter_has(lines, file.identity_word, self.segment.seed, number as u32, key)
        };
        let is_there = match (self.filters, lines, self.keyspace) {
            (Filters::InLeaves, Some(lines), Some(number)) => has(lines, number, key),
            (Filters::OfSegment(lines), _, _) => {
                let number = keyspace_of(key);
                let is_in = file.keyspaces.get(&number).is_some_and(|own| own.has_filter);
                !is_in || has(lines, number, &key[4..])
            }
            _ => return,
        };
        assert!(is_there, "a filter denies a key");
        file.saw("key in a filter");
    }
}

/// 4: of a composite key.
fn keyspace_of(key: &[u8]) -> u64 {
    u64::from(u32::from_be_bytes(key[..4].try_into().unwrap()))
}

/// 4.5: of a reference.
fn birth_and_blocks(reference: &[u8]) -> (u64, Blocks) {
    let mut input = Input(reference);
    // Its length; stamp and checksum; where the header is.
    input.varint();
    input.u64();
    input.varint();
    (input.varint(), input.blocks())
}

/// 4.2.
fn read_child(file: &mut File<'_>, base: u64, value: &[u8], height: u8) -> Child {
    let mut value = Input(value);
    let (page, pages) = (base + u64::from(value.u32()), u64::from(value.u16()));
    let flags = value.u16();
    let (stamp, checksum) = (value.u32(), value.u32());
    let (entries, tombstones) = (value.varint(), value.varint());
    if flags & 1 != 0 {
        value.varint();
        file.saw("child older than its parent");
    }
    let below = value.varint();
    let leaves = if height > 1 { value.varint() } else { 1 };
    let filter = (flags & 2 != 0)
        .then(|| (value.varint() as usize, value.varint() as usize, value.varint() as usize));
    // How much of its pages a leaf leaves unused is said of leaves alone.
    let known = if height > 1 { 0b1011 } else { 0b1111_1011 };
    assert!(flags & !known == 0 && value.0.is_empty());
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
        let number = has_numbers.then(|| base + entry.varint());
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
        entries.push(Entry { kind, key, number, base, value });
    }
    entries
}
