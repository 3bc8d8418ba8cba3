//! A reader of files, written from docs/format.md. The numbers in comments are its sections.
//!
//! It also counts who owns each page, compares that with the free maps, and notes which structures
//! it has met. Slices may panic, since its input is right.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::{Input, crc, u16_at, u32_at, u64_at};
use crate::log::Log;
use crate::tree::{Filters, Segment};

pub type Result<T> = std::result::Result<T, String>;
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// First page and pages.
pub type Blocks = Vec<(u64, u64)>;

/// What a file holds.
#[derive(Default)]
pub struct Contents {
    pub keyspaces: BTreeMap<String, Map>,
    pub node_count: u64,
    pub overflow_count: u64,
    pub log_commit_count: u64,
    /// The structures that were met, by name.
    pub seen: BTreeSet<String>,
}

/// 3.
#[derive(Clone, Copy, Debug)]
pub struct NodeReference {
    pub page: u64,
    pub pages: u64,
    pub stamp: u32,
    pub checksum: u32,
}

impl NodeReference {
    /// As it stands in the state.
    pub fn read(input: &mut Input<'_>) -> NodeReference {
        let (page, pages) = (input.varint(), input.varint());
        NodeReference { page, pages, stamp: input.u32(), checksum: input.u32() }
    }
}

pub struct Node {
    pub height: u8,
    pub flags: u16,
    pub content: Vec<u8>,
}

/// 6.3.
pub struct Keyspace {
    /// None: it was dropped.
    pub name: Option<String>,
    pub has_filter: bool,
    pub map: Map,
}

pub struct File<'a> {
    image: &'a [u8],
    page_bytes: usize,
    usable_bytes: usize,
    region_pages: u64,
    pub seed: u32,
    pub identity_word: u64,
    pub keyspaces: BTreeMap<u64, Keyspace>,
    pub contents: Contents,
    /// What the state says of each used page.
    owners: BTreeMap<u64, &'static str>,
}

/// 2.1: the slots, the newest of which counts.
pub fn read(image: &[u8]) -> Result<Contents> {
    let slots = [slot(image, 0), slot(image, 1)];
    let newest = slots.into_iter().flatten().max_by_key(|unit| u64_at(unit, 16));
    let unit = newest.ok_or("no slot counts")?;
    let page_bytes = u32_at(unit, 40) as usize;
    let reserved_bytes = u16_at(unit, 44) as usize;
    let mut file = File {
        image,
        page_bytes,
        usable_bytes: page_bytes - reserved_bytes,
        region_pages: u64_at(unit, 48) / page_bytes as u64,
        seed: crc(0, &unit[24..40]),
        identity_word: u64_at(unit, 24),
        keyspaces: BTreeMap::new(),
        contents: Contents::default(),
        owners: BTreeMap::new(),
    };
    if reserved_bytes > 0 {
        file.saw("reserved bytes");
    }
    for feature in [56, 64, 72] {
        assert_eq!(u64_at(unit, feature), 0, "version 1 uses no features");
    }
    let state = file.state_bytes(unit)?;
    file.state(&state)?;
    for keyspace in file.keyspaces.into_values() {
        if let Some(name) = keyspace.name {
            file.contents.keyspaces.insert(name, keyspace.map);
        }
    }
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
    pub fn saw(&mut self, what: impl Into<String>) {
        self.contents.seen.insert(what.into());
    }

    /// Each page has one owner.
    pub fn own(&mut self, first: u64, pages: u64, what: &'static str) -> Result<()> {
        for page in first..first + pages {
            if let Some(other) = self.owners.insert(page, what) {
                return Err(format!("page {page} is of {what} and of {other}"));
            }
        }
        Ok(())
    }

    fn state_bytes(&mut self, unit: &[u8]) -> Result<Vec<u8>> {
        let (length, sum) = (u32_at(unit, 96) as usize, u32_at(unit, 100));
        let block_count = u16_at(unit, 104) as usize;
        let state = if block_count == 0 {
            self.saw("state in the slot");
            assert!(unit[256 + length..].iter().all(|&byte| byte == 0));
            unit[256..256 + length].to_vec()
        } else {
            self.saw("state in a node");
            let blocks: Vec<_> = (0..block_count)
                .map(|n| (u64_at(unit, 112 + 16 * n), u64::from(u32_at(unit, 120 + 16 * n))))
                .collect();
            for &(first, pages) in &blocks {
                self.own(first, pages, "the state")?;
            }
            let stream = self.stream(&blocks);
            let mut summed = stream[..32 + length].to_vec();
            summed[4..8].fill(0);
            assert_eq!(u32_at(&stream, 4), crc(self.seed, &summed), "its checksum");
            assert_eq!(stream[0], 6, "the kind of a state node");
            assert_eq!(u32_at(&stream, 16), u32_at(unit, 108), "its stamp");
            assert_eq!(u32_at(&stream, 24) as usize, length, "its length");
            stream[32..32 + length].to_vec()
        };
        if crc(0, &state) == sum { Ok(state) } else { Err("the state's checksum is wrong".into()) }
    }

    /// 1: the stream over the pages of blocks.
    pub fn stream(&self, blocks: &[(u64, u64)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for &(first, pages) in blocks {
            for page in first..first + pages {
                let at = page as usize * self.page_bytes;
                let (used, reserved) =
                    self.image[at..at + self.page_bytes].split_at(self.usable_bytes);
                assert!(reserved.iter().all(|&byte| byte == 0), "reserved bytes of page {page}");
                stream.extend_from_slice(used);
            }
        }
        stream
    }

    /// 3.
    pub fn node(
        &mut self,
        reference: NodeReference,
        kind: u8,
        keyspace: Option<u64>,
    ) -> Result<Node> {
        self.contents.node_count += 1;
        let stream = self.stream(&[(reference.page, reference.pages)]);
        let stored = u32_at(&stream, 24) as usize;
        let mut summed = stream[..32 + stored].to_vec();
        summed[4..8].fill(0);
        let sum = crc(self.seed, &summed);
        let number = keyspace.map_or(u32::MAX, |number| number as u32);
        let is_right = stream[0] == kind
            && u32_at(&stream, 4) == sum
            && sum == reference.checksum
            && u32_at(&stream, 16) == reference.stamp
            && u64_at(&stream, 8) == reference.page
            && u32_at(&stream, 20) == number
            && stream[32 + stored..].iter().all(|&byte| byte == 0);
        if !is_right {
            return Err(format!("the node at {reference:?} is not what its reference says"));
        }
        let flags = u16_at(&stream, 2);
        assert_eq!(flags & !0b101_1111, 0, "other flags are zero");
        let raw_length = u32_at(&stream, 28) as usize;
        let content = stream[32..32 + stored].to_vec();
        let content = match flags & 0xf {
            0 => content,
            1 => zstd::bulk::decompress(&content, raw_length).map_err(|e| e.to_string())?,
            codec => return Err(format!("codec {codec}")),
        };
        assert_eq!(content.len(), raw_length);
        self.saw(format!("node of kind {kind}, codec {}", flags & 0xf));
        Ok(Node { height: stream[1], flags, content })
    }

    /// 4.5: the value, and its blocks.
    pub fn overflow(&mut self, value: &[u8]) -> Result<(Vec<u8>, Blocks)> {
        self.contents.overflow_count += 1;
        let mut input = Input(value);
        let length = input.varint() as usize;
        let (stamp, checksum) = (input.u32(), input.u32());
        let header = input.varint() as usize;
        input.varint();
        let blocks = input.blocks();
        let stream = self.stream(&blocks);
        assert_eq!(stream[header], 5);
        assert_eq!(u64_at(&stream, header + 8), blocks[0].0, "the page of its header");
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
            let (is_compressed, stored) = (stored >> 31 == 1, stored & (u32::MAX >> 1));
            let chunk = &stream[at..at + stored as usize];
            let mut start = stamp.to_le_bytes().to_vec();
            start.extend((index as u32).to_le_bytes());
            assert_eq!(crc(crc(self.seed, &start), chunk), sum, "chunk {index}");
            if is_compressed {
                let raw_length = (length - result.len()).min(131_072);
                let raw = zstd::bulk::decompress(chunk, raw_length).map_err(|e| e.to_string())?;
                result.extend_from_slice(&raw);
                self.saw("compressed chunk");
            } else {
                result.extend_from_slice(chunk);
                self.saw("plain chunk");
            }
            if index > 0 {
                self.saw("several chunks");
            }
            at += stored as usize;
        }
        assert_eq!(result.len(), length);
        Ok((result, blocks))
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
        assert_eq!(sections.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        self.counters(sections[&1]);
        self.catalogue(sections[&3]);
        // From the oldest to the newest: levels from the deepest, in each from the oldest.
        self.levels(sections[&5])?;
        self.young(sections[&4])?;
        let log = Log::read(sections[&2]);
        for &(first, pages) in &log.blocks {
            self.own(first, pages, "the log")?;
        }
        self.regions(sections[&6])?;
        log.replay(self)
    }

    /// 6.1.
    fn counters(&mut self, section: &[u8]) {
        let mut input = Input(section);
        let (epoch, sequence) = (input.varint(), input.varint());
        let limits: Vec<u64> = (0..5).map(|_| input.varint()).collect();
        assert!(sequence <= limits[0] && epoch <= limits[1]);
        if input.u8() == 1 {
            self.saw("clean close");
            assert!(sequence <= input.varint());
            let next: Vec<u64> = (0..3).map(|_| input.varint()).collect();
            assert!(next.iter().zip(&limits[2..]).all(|(next, limit)| next <= limit));
        }
        assert!(input.0.is_empty());
    }

    /// 6.3.
    fn catalogue(&mut self, section: &[u8]) {
        let mut input = Input(section);
        for _ in 0..input.varint() {
            let number = input.varint();
            let name = String::from_utf8(input.sized().to_vec()).unwrap();
            let has_filter = has_filter(input.sized());
            let is_dropped = input.u8() == 1;
            if is_dropped {
                self.saw("dropped keyspace");
            }
            let name = (!is_dropped).then_some(name);
            self.keyspaces.insert(number, Keyspace { name, has_filter, map: Map::new() });
        }
        assert!(input.0.is_empty());
    }

    /// 6.5.
    fn levels(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        for _ in 0..input.varint() {
            let number = input.varint();
            let mut in_order = Vec::new();
            let mut used_levels = 0;
            for _ in 0..input.varint() {
                let count = input.varint();
                used_levels += u64::from(count > 0);
                in_order.extend((0..count).map(|_| Segment::read(&mut input)));
            }
            if used_levels > 1 {
                self.saw("several levels");
            }
            self.saw("levels");
            for segment in in_order.iter().rev() {
                for (_, event) in segment.events(self, Some(number), &Filters::InLeaves)? {
                    self.apply(number, event);
                }
            }
        }
        assert!(input.0.is_empty());
        Ok(())
    }

    /// 6.4. Keys are composite.
    fn young(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        let count = input.varint();
        let segments: Vec<_> = (0..count).map(|_| Segment::read(&mut input)).collect();
        assert!(input.0.is_empty());
        for segment in segments.iter().rev() {
            self.saw("young segments");
            let filter = segment.young_filter(self)?;
            for (_, event) in segment.events(self, None, &filter)? {
                let (number, event) = event.into_bare();
                self.apply(number, event);
            }
        }
        Ok(())
    }

    pub fn apply(&mut self, number: u64, event: Event) {
        let Some(keyspace) = self.keyspaces.get_mut(&number) else { return };
        let map = &mut keyspace.map;
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

    /// 6.6 and 2.2: the maps say what the state uses, and nothing else.
    fn regions(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        let file_pages = input.varint();
        let count = input.varint();
        let in_region = self.region_pages;
        assert_eq!(count, file_pages.div_ceil(in_region));
        let home_pages = (32 + 16 + in_region / 8).div_ceil(self.usable_bytes as u64);
        for region in 0..count {
            let home = input.u8();
            let (stamp, checksum, free) = (input.u32(), input.u32(), input.varint());
            let start = region * in_region;
            let header_pages =
                if region == 0 { 8192_u64.div_ceil(self.page_bytes as u64) } else { 0 };
            self.own(start, header_pages, "the header")?;
            self.own(start + header_pages, 2 * home_pages, "a free map's homes")?;
            let page = start + header_pages + u64::from(home) * home_pages;
            let reference = NodeReference { page, pages: home_pages, stamp, checksum };
            let content = self.node(reference, 7, None)?.content;
            self.saw(format!("free map in home {home}"));
            let head = (u64_at(&content, 0), u64::from(u32_at(&content, 8)));
            assert_eq!(head, (region, in_region));
            let is_used = |page: u64| content[16 + (page / 8) as usize] >> (page % 8) & 1 == 1;
            let used = (0..in_region).filter(|&page| is_used(page)).count() as u64;
            assert_eq!(used, u64::from(u32_at(&content, 12)));
            for page in 0..in_region {
                let owner = self.owners.get(&(start + page));
                if is_used(page) != owner.is_some() {
                    return Err(format!("page {}: {owner:?}, and the map", start + page));
                }
            }
            assert_eq!(free, in_region.min(file_pages - start) - used);
        }
        assert!(input.0.is_empty());
        Ok(())
    }
}

/// 6.3: whether the options ask for filters.
pub fn has_filter(options: &[u8]) -> bool {
    options[2] > 0
}

/// One thing that a segment or a commit says.
pub enum Event {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Range(Vec<u8>, Option<Vec<u8>>),
}

impl Event {
    /// 4: the keyspace in front of its keys, and the rest.
    fn into_bare(self) -> (u64, Event) {
        let split = |key: &[u8]| {
            (u64::from(u32::from_be_bytes(key[..4].try_into().unwrap())), key[4..].to_vec())
        };
        match self {
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
        }
    }
}
