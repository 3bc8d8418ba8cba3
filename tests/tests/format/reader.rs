//! A reader of files, written from docs/format.md: header, pages, nodes and overflow values. The
//! numbers in comments are its sections.
//!
//! It also counts who owns each page, compares that with the free maps, and notes which structures
//! it has met. Slices may panic, since its input is right.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::{Input, crc, u16_at, u32_at, u64_at};

pub type Result<T> = std::result::Result<T, String>;
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
pub type Numbers = BTreeMap<Vec<u8>, u64>;
/// First page and pages.
pub type Blocks = Vec<(u64, u64)>;

/// What a file holds.
#[derive(Default)]
pub struct Contents {
    pub keyspaces: BTreeMap<String, Map>,
    /// By keyspace and key: the commit that put the pair. Levels do not say it.
    pub numbers: BTreeMap<String, Numbers>,
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

/// 3: of a node over several blocks.
struct Head {
    stamp: u32,
    checksum: u32,
    /// Its content: the state, or the table of an overflow value.
    table: Vec<u8>,
}

/// 4.5.
pub struct Value {
    pub bytes: Vec<u8>,
    /// 0: it was born with the leaf.
    pub birth: u64,
    pub blocks: Blocks,
    /// The table lies behind the chunks.
    pub is_streamed: bool,
}

/// 6.3.
pub struct Keyspace {
    /// None: it was dropped.
    pub name: Option<String>,
    pub has_filter: bool,
    pub map: Map,
    pub numbers: Numbers,
}

pub struct File<'a> {
    image: &'a [u8],
    pub page_bytes: usize,
    pub usable_bytes: usize,
    pub region_pages: u64,
    pub seed: u32,
    pub identity_word: u64,
    pub keyspaces: BTreeMap<u64, Keyspace>,
    pub contents: Contents,
    /// What the state says of each used page.
    pub owners: BTreeMap<u64, &'static str>,
}

/// 2.1: the slots, the newest of which counts.
pub fn read(image: &[u8]) -> Result<Contents> {
    let slots = [slot(image, 0)?, slot(image, 1)?];
    if let [Some(one), Some(other)] = slots {
        assert_eq!(one[24..46], other[24..46], "identity, page size and reserved bytes");
        assert_eq!(one[48..56], other[48..56], "region_bytes");
    }
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
    file.saw(format!("pages of {page_bytes} bytes"));
    if reserved_bytes > 0 {
        file.saw("reserved bytes");
    }
    assert!((64..=4_194_304).contains(&file.region_pages));
    assert!(u64_at(unit, 80) * page_bytes as u64 <= image.len() as u64, "the file was cut");
    for feature in [56, 64, 72] {
        assert_eq!(u64_at(unit, feature), 0, "version 1 uses no features");
    }
    let state = file.state_bytes(unit)?;
    file.state(&state)?;
    for keyspace in file.keyspaces.into_values() {
        if let Some(name) = keyspace.name {
            file.contents.numbers.insert(name.clone(), keyspace.numbers);
            file.contents.keyspaces.insert(name, keyspace.map);
        }
    }
    Ok(file.contents)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// One that counts. A slot of another version forbids any use of the file.
fn slot(image: &[u8], number: usize) -> Result<Option<&[u8]>> {
    let Some(unit) = image.get(number * 4096..(number + 1) * 4096) else { return Ok(None) };
    let mut copy = unit.to_vec();
    copy[8..12].fill(0);
    if unit[..8] != *b"Sapwood\n" || u32_at(unit, 8) != crc(0, &copy) {
        return Ok(None);
    }
    match u32_at(unit, 12) {
        1 => {}
        version => return Err(format!("slot {number} is of version {version}")),
    }
    let own_number = usize::from(u16_at(unit, 46));
    if own_number != number || u64_at(unit, 16) % 2 != number as u64 {
        return Ok(None);
    }
    let block_count = usize::from(u16_at(unit, 104));
    let blocks: Vec<_> = unit[112..256].chunks(16).collect();
    assert!(is_zero(&unit[106..108]) && blocks.iter().all(|block| is_zero(&block[12..])));
    assert!(blocks[block_count..].iter().all(|block| is_zero(block)));
    assert!(block_count > 0 || is_zero(&unit[108..112]), "a stamp of no node");
    assert!(block_count == 0 || is_zero(&unit[256..]), "two states");
    Ok(Some(unit))
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
            assert!(is_zero(&unit[256 + length..]), "the rest of the slot");
            unit[256..256 + length].to_vec()
        } else {
            self.saw("state in a node");
            let blocks: Vec<_> = (0..block_count)
                .map(|n| (u64_at(unit, 112 + 16 * n), u64::from(u32_at(unit, 120 + 16 * n))))
                .collect();
            for &(first, pages) in &blocks {
                self.own(first, pages, "the state")?;
            }
            if block_count > 1 {
                self.saw("state in several blocks");
            }
            let stream = self.stream(&blocks);
            let head = self.head_over_blocks(&stream, 6, blocks[0].0, None)?;
            assert_eq!(head.stamp, u32_at(unit, 108), "its stamp");
            assert_eq!(head.table.len(), length, "its length");
            // Pages behind it may hold anything.
            let end = (32 + length).next_multiple_of(self.usable_bytes);
            assert!(is_zero(&stream[32 + length..end]));
            head.table
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
                assert!(is_zero(reserved), "reserved bytes of page {page}");
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
            && (stream[1] == 0 || kind == 2)
            && u32_at(&stream, 4) == sum
            && sum == reference.checksum
            && u32_at(&stream, 16) == reference.stamp
            && u64_at(&stream, 8) == reference.page
            && u32_at(&stream, 20) == number
            && (32 + stored).div_ceil(self.usable_bytes) as u64 == reference.pages
            && is_zero(&stream[32 + stored..]);
        if !is_right {
            return Err(format!("the node at {reference:?} is not what its reference says"));
        }
        let flags = u16_at(&stream, 2);
        assert_eq!(flags & !0b101_1111, 0, "other flags are zero");
        let raw_length = u32_at(&stream, 28) as usize;
        assert!(stored.max(raw_length) <= 1_048_576, "content that is too long");
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

    /// 3: header and content of a node over several blocks, at the start of a stream.
    fn head_over_blocks(
        &self,
        stream: &[u8],
        kind: u8,
        page: u64,
        keyspace: Option<u64>,
    ) -> Result<Head> {
        let length = u32_at(stream, 24) as usize;
        let mut summed = stream[..32 + length].to_vec();
        summed[4..8].fill(0);
        let checksum = crc(self.seed, &summed);
        let number = keyspace.map_or(u32::MAX, |number| number as u32);
        let is_right = (stream[0], stream[1], u16_at(stream, 2)) == (kind, 0, 0)
            && u32_at(stream, 4) == checksum
            && u64_at(stream, 8) == page
            && u32_at(stream, 20) == number
            && u32_at(stream, 28) as usize == length;
        if !is_right {
            return Err(format!("no node of kind {kind} that begins on page {page}"));
        }
        Ok(Head { stamp: u32_at(stream, 16), checksum, table: summed[32..].to_vec() })
    }

    /// 4.5.
    pub fn overflow(&mut self, reference: &[u8], keyspace: u64) -> Result<Value> {
        self.contents.overflow_count += 1;
        let mut input = Input(reference);
        let length = input.varint() as usize;
        let (stamp, checksum) = (input.u32(), input.u32());
        let (offset, birth) = (input.varint() as usize, input.varint());
        let blocks = input.blocks();
        assert!(input.0.is_empty());
        let stream = self.stream(&blocks);
        let head = self.head_over_blocks(&stream[offset..], 5, blocks[0].0, Some(keyspace))?;
        if (head.stamp, head.checksum) != (stamp, checksum) {
            return Err("an overflow value is not what its reference says".to_owned());
        }
        assert_eq!(head.table.len(), 8 * length.div_ceil(131_072));
        let head_end = offset + 32 + head.table.len();
        let begin = if offset == 0 { head_end } else { 0 };
        let (bytes, end) = self.chunks(&stream, begin, &head, length)?;
        assert!(offset == 0 || end == offset, "the header follows the chunks");
        let end = end.max(head_end);
        assert!(is_zero(&stream[end..]) && stream.len() - end < self.usable_bytes);
        self.saw(if offset == 0 { "table before its chunks" } else { "table behind its chunks" });
        if blocks.len() > 1 {
            self.saw("value in several blocks");
        }
        if birth > 0 {
            self.saw("value older than its leaf");
        }
        Ok(Value { bytes, birth, blocks, is_streamed: offset > 0 })
    }

    /// 4.5: the value, and where its last chunk ends.
    fn chunks(
        &mut self,
        stream: &[u8],
        mut at: usize,
        head: &Head,
        length: usize,
    ) -> Result<(Vec<u8>, usize)> {
        let mut result = Vec::new();
        for (index, part) in head.table.chunks(8).enumerate() {
            let (stored, sum) = (u32_at(part, 0), u32_at(part, 4));
            let (is_compressed, stored) = (stored >> 31 == 1, stored & (u32::MAX >> 1));
            let chunk = &stream[at..at + stored as usize];
            let mut start = head.stamp.to_le_bytes().to_vec();
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
        Ok((result, at))
    }
}
