//! A reader of files, written from docs/format.md. The numbers in comments are its sections.
//!
//! It reads plain nodes only; slices may panic, since its input is right.

use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, String>;
type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a file holds.
#[derive(Default)]
pub struct Contents {
    pub keyspaces: BTreeMap<String, Map>,
    pub node_count: u64,
    pub overflow_count: u64,
    pub log_commit_count: u64,
}

/// 1: CRC-32 as in zlib, going on from `start`.
fn crc(start: u32, bytes: &[u8]) -> u32 {
    let mut sum = !start;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads forwards.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        head
    }
    fn u8(&mut self) -> u8 {
        self.bytes(1)[0]
    }
    fn u16(&mut self) -> u16 {
        u16_at(self.bytes(2), 0)
    }
    fn u32(&mut self) -> u32 {
        u32_at(self.bytes(4), 0)
    }
    fn u64(&mut self) -> u64 {
        u64_at(self.bytes(8), 0)
    }
    fn varint(&mut self) -> u64 {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let byte = self.u8();
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                assert!(byte != 0 || shift == 0, "a varint longer than it must be");
                return number;
            }
            shift += 7;
        }
    }
    fn sized(&mut self) -> &'a [u8] {
        let length = self.varint() as usize;
        self.bytes(length)
    }
    fn blocks(&mut self) -> Vec<(u64, u64)> {
        let count = self.varint();
        (0..count).map(|_| (self.varint(), self.varint())).collect()
    }
}

#[derive(Clone, Copy, Debug)]
struct NodeReference {
    page: u64,
    pages: u64,
    stamp: u32,
    checksum: u32,
}

struct Node {
    height: u8,
    flags: u16,
    content: Vec<u8>,
}

struct Entry {
    kind: u8,
    key: Vec<u8>,
    number: u64,
    value: Vec<u8>,
}

/// One thing that a segment says, with its number (0 in levels).
enum Event {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Range(Vec<u8>, Option<Vec<u8>>),
}

struct File<'a> {
    image: &'a [u8],
    page_bytes: usize,
    usable_bytes: usize,
    seed: u32,
    contents: Contents,
}

/// 2.1: the slots, the newest of which counts.
pub fn read(image: &[u8]) -> Result<Contents> {
    let slots = [slot(image, 0), slot(image, 1)];
    let newest = slots.into_iter().flatten().max_by_key(|unit| u64_at(unit, 16));
    let unit = newest.ok_or("no slot counts")?;
    let page_bytes = u32_at(unit, 40) as usize;
    let mut file = File {
        image,
        page_bytes,
        usable_bytes: page_bytes - u16_at(unit, 44) as usize,
        seed: crc(0, &unit[24..40]),
        contents: Contents::default(),
    };
    for feature in [56, 64, 72] {
        assert_eq!(u64_at(unit, feature), 0, "version 1 uses no features");
    }
    let state = file.state_bytes(unit)?;
    file.state(&state)?;
    Ok(file.contents)
}

fn slot(image: &[u8], number: usize) -> Option<&[u8]> {
    let unit = image.get(number * 4096..(number + 1) * 4096)?;
    let mut copy = unit.to_vec();
    copy[8..12].fill(0);
    let counts = unit[..8] == *b"Sapwood\n"
        && u32_at(unit, 8) == crc(0, &copy)
        && u32_at(unit, 12) == 1
        && usize::from(u16_at(unit, 46)) == number
        && u64_at(unit, 16) % 2 == number as u64;
    counts.then_some(unit)
}

impl File<'_> {
    fn state_bytes(&mut self, unit: &[u8]) -> Result<Vec<u8>> {
        let (length, sum) = (u32_at(unit, 96) as usize, u32_at(unit, 100));
        let block_count = u16_at(unit, 104) as usize;
        let state = if block_count == 0 {
            unit[256..256 + length].to_vec()
        } else {
            let blocks: Vec<_> = (0..block_count)
                .map(|n| (u64_at(unit, 112 + 16 * n), u64::from(u32_at(unit, 120 + 16 * n))))
                .collect();
            let stream = self.stream(&blocks);
            assert_eq!(stream[0], 6, "the kind of a state node");
            assert_eq!(u32_at(&stream, 16), u32_at(unit, 108), "its stamp");
            assert_eq!(u32_at(&stream, 24) as usize, length, "its length");
            stream[32..32 + length].to_vec()
        };
        if crc(self.seed, &state) == sum || crc(0, &state) == sum {
            Ok(state)
        } else {
            Err("the state's checksum is wrong".to_owned())
        }
    }

    /// 1: the stream over the pages of blocks.
    fn stream(&self, blocks: &[(u64, u64)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for &(first, pages) in blocks {
            for page in first..first + pages {
                let at = page as usize * self.page_bytes;
                stream.extend_from_slice(&self.image[at..at + self.usable_bytes]);
            }
        }
        stream
    }

    /// 3.
    fn node(&mut self, reference: NodeReference, keyspace: Option<u32>) -> Result<Node> {
        self.contents.node_count += 1;
        let stream = self.stream(&[(reference.page, reference.pages)]);
        let stored = u32_at(&stream, 24) as usize;
        let mut summed = stream[..32 + stored].to_vec();
        summed[4..8].fill(0);
        let sum = crc(self.seed, &summed);
        let is_right = u32_at(&stream, 4) == sum
            && sum == reference.checksum
            && u32_at(&stream, 16) == reference.stamp
            && u64_at(&stream, 8) == reference.page
            && keyspace.is_none_or(|number| u32_at(&stream, 20) == number)
            && stream[32 + stored..].iter().all(|&byte| byte == 0);
        if !is_right {
            return Err(format!("the node at {reference:?} is not what its reference says"));
        }
        let flags = u16_at(&stream, 2);
        if flags & 0xf != 0 || u32_at(&stream, 28) as usize != stored {
            return Err("a compressed node, which this reader does not read".to_owned());
        }
        Ok(Node { height: stream[1], flags, content: stream[32..32 + stored].to_vec() })
    }

    /// 4: all entries of the leaves of a tree.
    fn tree(
        &mut self,
        root: NodeReference,
        keyspace: Option<u32>,
        into: &mut Vec<Entry>,
    ) -> Result<()> {
        let node = self.node(root, keyspace)?;
        if node.height == 0 {
            into.extend(sorted_block(&node.content, node.flags));
            return Ok(());
        }
        let mut input = Input(&node.content);
        let base = input.u64();
        let sidecar_count = input.u16() + input.u16();
        input.bytes(16 * usize::from(sidecar_count));
        for child in sorted_block(input.0, node.flags) {
            assert_eq!(child.kind, 4, "the entries of a parent are children");
            let mut value = Input(&child.value);
            let page = base + u64::from(value.u32());
            let pages = u64::from(value.u16());
            value.u16();
            let (stamp, checksum) = (value.u32(), value.u32());
            let first = into.len();
            self.tree(NodeReference { page, pages, stamp, checksum }, keyspace, into)?;
            let key = &into[first].key;
            assert!(child.key <= *key, "a key below its separator");
        }
        Ok(())
    }

    /// 4.5.
    fn overflow(&mut self, value: &[u8]) -> Result<Vec<u8>> {
        self.contents.overflow_count += 1;
        let mut input = Input(value);
        let length = input.varint() as usize;
        let (stamp, checksum) = (input.u32(), input.u32());
        let header = input.varint() as usize;
        input.varint();
        let blocks = input.blocks();
        let stream = self.stream(&blocks);
        let table_length = u32_at(&stream, header + 24) as usize;
        let mut summed = stream[header..header + 32 + table_length].to_vec();
        summed[4..8].fill(0);
        if crc(self.seed, &summed) != checksum || u32_at(&stream, header + 16) != stamp {
            return Err("an overflow value is not what its reference says".to_owned());
        }
        let mut at = if header == 0 { 32 + table_length } else { 0 };
        let mut result = Vec::new();
        for (index, part) in summed[32..].chunks(8).enumerate() {
            let (stored, sum) = (u32_at(part, 0), u32_at(part, 4));
            assert_eq!(stored >> 31, 0, "a compressed chunk, which this reader does not read");
            let chunk = &stream[at..at + stored as usize];
            let mut start = stamp.to_le_bytes().to_vec();
            start.extend((index as u32).to_le_bytes());
            assert_eq!(crc(crc(self.seed, &start), chunk), sum, "chunk {index}");
            result.extend_from_slice(chunk);
            at += stored as usize;
        }
        assert_eq!(result.len(), length);
        Ok(result)
    }

    /// 6.
    fn state(&mut self, state: &[u8]) -> Result<()> {
        let mut sections = BTreeMap::new();
        let (mut input, mut last) = (Input(state), 0);
        while !input.0.is_empty() {
            let tag = input.u8();
            assert!(tag > last, "tags rise");
            last = tag;
            sections.insert(tag, input.sized());
        }
        let names = keyspaces(sections[&3]);
        let mut maps: BTreeMap<u64, Map> =
            names.keys().map(|&number| (number, Map::new())).collect();
        // From the oldest to the newest: levels from the deepest, in each from the oldest.
        if let Some(levels) = sections.get(&5) {
            self.levels(levels, &mut maps)?;
        }
        if let Some(young) = sections.get(&4) {
            self.young(young, &mut maps)?;
        }
        self.log(sections[&2]);
        for (number, name) in names {
            self.contents.keyspaces.insert(name, maps.remove(&number).unwrap_or_default());
        }
        Ok(())
    }

    /// 6.5.
    fn levels(&mut self, section: &[u8], maps: &mut BTreeMap<u64, Map>) -> Result<()> {
        let mut input = Input(section);
        for _ in 0..input.varint() {
            let number = input.varint();
            let mut in_order = Vec::new();
            for _ in 0..input.varint() {
                for _ in 0..input.varint() {
                    in_order.push(segment(&mut input));
                }
            }
            for segment in in_order.iter().rev() {
                let events = self.events(segment, Some(number as u32))?;
                let Some(map) = maps.get_mut(&number) else { continue };
                for (_, event) in events {
                    apply(map, event);
                }
            }
        }
        Ok(())
    }

    /// 6.4. Keys are composite.
    fn young(&mut self, section: &[u8], maps: &mut BTreeMap<u64, Map>) -> Result<()> {
        let mut input = Input(section);
        let count = input.varint();
        let segments: Vec<_> = (0..count).map(|_| segment(&mut input)).collect();
        for segment in segments.iter().rev() {
            for (_, event) in self.events(segment, None)? {
                let split = |key: &[u8]| {
                    (u64::from(u32::from_be_bytes(key[..4].try_into().unwrap())), key[4..].to_vec())
                };
                let (number, event) = match event {
                    Event::Put(key, value) => {
                        let (number, key) = split(&key);
                        (number, Event::Put(key, value))
                    }
                    Event::Delete(key) => {
                        let (number, key) = split(&key);
                        (number, Event::Delete(key))
                    }
                    Event::Range(start, end) => {
                        let (number, start) = split(&start);
                        // The end of a keyspace is the next keyspace's number alone.
                        let end = end.map(|end| split(&end)).filter(|(other, _)| *other == number);
                        (number, Event::Range(start, end.map(|(_, end)| end)))
                    }
                };
                if let Some(map) = maps.get_mut(&number) {
                    apply(map, event);
                }
            }
        }
        Ok(())
    }

    /// What a segment says, in the order in which it counts: by number, ranges before points; and
    /// nothing of what has moved on.
    fn events(&mut self, segment: &Segment, keyspace: Option<u32>) -> Result<Vec<(u64, Event)>> {
        let mut events = Vec::new();
        if let Some(ranges) = segment.ranges {
            let mut entries = Vec::new();
            self.tree(ranges, keyspace, &mut entries)?;
            for entry in entries {
                assert_eq!(entry.kind, 5);
                let mut value = Input(&entry.value);
                let has_no_end = value.u8() & 1 != 0;
                let end = value.sized().to_vec();
                let end = (!has_no_end).then_some(end);
                for (start, end) in segment.unpromoted(entry.key, end) {
                    events.push((entry.number, Event::Range(start, end)));
                }
            }
        }
        if let Some(points) = segment.points {
            let mut entries = Vec::new();
            self.tree(points, keyspace, &mut entries)?;
            for entry in entries {
                if segment.is_promoted(&entry.key) {
                    continue;
                }
                let event = match entry.kind {
                    1 => Event::Put(entry.key, entry.value),
                    2 => Event::Delete(entry.key),
                    3 => Event::Put(entry.key, self.overflow(&entry.value)?),
                    kind => return Err(format!("an entry of kind {kind}")),
                };
                events.push((entry.number, event));
            }
        }
        // Stable: of one number, ranges stay before points.
        events.sort_by_key(|(number, _)| *number);
        Ok(events)
    }

    /// 5: counts the commits that follow the cut.
    fn log(&mut self, section: &[u8]) {
        let mut input = Input(section);
        let cut = input.varint();
        let mut before = input.u32();
        input.varint();
        let first = input.varint();
        let stream = self.stream(&input.blocks());
        let mut at = (cut - first) as usize;
        let mut position = cut;
        while at + 40 <= stream.len() {
            let length = u32_at(&stream, at + 4) as usize;
            if !(40..=stream.len() - at).contains(&length) {
                break;
            }
            let record = &stream[at..at + length];
            let is_next = crc(self.seed, &record[4..]) == u32_at(record, 0)
                && u64_at(record, 8) == position
                && u32_at(record, 16) == before;
            if !is_next {
                break;
            }
            self.contents.log_commit_count += u64::from(record[20] == 1);
            before = u32_at(record, 0);
            at += length;
            position += length as u64;
        }
    }
}

/// 4.1.
fn sorted_block(content: &[u8], flags: u16) -> Vec<Entry> {
    let (has_numbers, is_wide) = (flags & 1 << 4 != 0, flags & 1 << 6 != 0);
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
        }
        entries.push(Entry { kind, key, number, value });
    }
    entries
}

/// 6.3: the names of the living keyspaces.
fn keyspaces(section: &[u8]) -> BTreeMap<u64, String> {
    let mut input = Input(section);
    let mut names = BTreeMap::new();
    for _ in 0..input.varint() {
        let number = input.varint();
        let name = String::from_utf8(input.sized().to_vec()).unwrap();
        input.sized();
        if input.u8() == 0 {
            names.insert(number, name);
        }
    }
    names
}

struct Segment {
    points: Option<NodeReference>,
    ranges: Option<NodeReference>,
    promoted: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

fn node_reference(input: &mut Input<'_>) -> NodeReference {
    let (page, pages) = (input.varint(), input.varint());
    NodeReference { page, pages, stamp: input.u32(), checksum: input.u32() }
}

/// 6.4.
fn segment(input: &mut Input<'_>) -> Segment {
    input.varint();
    let flags = input.u8();
    let mut tree = |is_there: bool| {
        is_there.then(|| {
            let reference = node_reference(input);
            input.u8();
            for _ in 0..5 {
                input.varint();
            }
            reference
        })
    };
    let (points, ranges) = (tree(flags & 1 != 0), tree(flags & 2 != 0));
    input.varint();
    input.u64();
    for _ in 0..input.varint() {
        node_reference(input);
    }
    if flags & 4 != 0 {
        input.sized();
        input.sized();
    }
    input.varint();
    input.varint();
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
    Segment { points, ranges, promoted }
}

impl Segment {
    fn is_promoted(&self, key: &[u8]) -> bool {
        self.promoted.iter().any(|(start, end)| {
            start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice())
        })
    }

    /// The parts of a range that have not moved on.
    fn unpromoted(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
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

fn apply(map: &mut Map, event: Event) {
    match event {
        Event::Put(key, value) => {
            map.insert(key, value);
        }
        Event::Delete(key) => {
            map.remove(&key);
        }
        Event::Range(start, end) => {
            map.retain(|key, _| *key < start || end.as_ref().is_some_and(|end| key >= end));
        }
    }
}
