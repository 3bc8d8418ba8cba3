//! A durable state as bytes.
//!
//! *Assumes*: nothing of bytes that are decoded; whoever reads them has checked their checksum.
//! *Guarantees*: what was encoded comes back equal. Decoding reads nothing beyond the end,
//! allocates no more than a small multiple of its input, and checks all that the types promise:
//! order of numbers and ranges, pages inside the file, sums that fit 64 bits.
//! *Format*: docs/format.md, section 6. *Threads*: none.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod input;
mod segment;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use input::{Input, Parsed, Problem};
// Replay of the log uses the decoders.
#[allow(unused_imports)]
pub use segment::{decode_segment, encode_segment};
#[allow(unused_imports)]
pub use settings::{decode_settings, encode_settings};

use super::catalogue::{Catalogue, KeyspaceEntry};
use super::state::{Contents, Cut, Levels};
use crate::codec::{put_length_prefixed, put_varint};
use crate::error::Result;
use crate::page::{Block, RegionEntry};
use crate::segment::descriptor::Segment;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, LogPosition, SequenceNumber};

/// The most young segments that a state may have.
pub const YOUNG_COUNT_MAX: usize = 4096;
/// The most levels that a keyspace may have.
pub const LEVEL_COUNT_MAX: usize = 64;
/// The most segments that a keyspace may have in its levels; merging begins long before.
pub const LEVELS_SEGMENT_COUNT_MAX: usize = 4096;

const TAG_COUNTERS: u8 = 1;
const TAG_LOG: u8 = 2;
const TAG_KEYSPACES: u8 = 3;
const TAG_YOUNG: u8 = 4;
const TAG_LEVELS: u8 = 5;
const TAG_REGIONS: u8 = 6;
/// From here on a reader may skip what it does not know.
const TAG_OPTIONAL: u8 = 128;
const TAG_PACKED: u8 = 129;

/// The fewest bytes of a keyspace: number, name's length, options with their length, flag.
const KEYSPACE_BYTES_MIN: usize = 9;
/// The fewest bytes of a keyspace's levels: number and count.
const LEVELS_BYTES_MIN: usize = 2;

/// All that a durable state says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// The state.
    pub contents: Contents,
    /// Where numbers go on.
    pub counters: Counters,
    /// The log, whose cut is that of the state.
    pub log: LogSection,
    /// The regions in their order.
    pub regions: Vec<RegionEntry>,
    /// The file's length in pages.
    pub file_pages: u64,
    /// What was born by this state lies in leaves that were looked at for packing.
    pub packed: Epoch,
}

/// Numbers below the limits may have been given out; an open after a crash starts at the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of sequence numbers.
    pub sequence_limit: u64,
    /// Of epochs.
    pub epoch_limit: u64,
    /// Of write stamps, all 64 bits of them.
    pub stamp_limit: u64,
    /// Of keyspace numbers.
    pub keyspace_limit: u32,
    /// Of segment numbers.
    pub segment_limit: u64,
    /// Where exactly the numbers stood; only a clean close knows.
    pub clean: Option<ExactCounters>,
}

/// Where the numbers stood at a clean close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactCounters {
    /// The last commit.
    pub last_sequence: u64,
    /// The next write stamp, all 64 bits of it.
    pub next_stamp: u64,
    /// The next keyspace's number.
    pub next_keyspace: u32,
    /// The next segment's number.
    pub next_segment: u64,
}

impl Manifest {
    /// Refuses counters above `most`: with little more they would overflow when the database goes
    /// on from them.
    ///
    /// # Errors
    /// `Corruption` of the state.
    pub fn check_counters(&self, most: u64) -> Result<()> {
        let counters = [
            ("sequence numbers", self.counters.sequence_limit),
            ("epochs", self.counters.epoch_limit),
            ("stamps", self.counters.stamp_limit),
            ("segments", self.counters.segment_limit),
            ("the log's positions", self.contents.cut.position.max(self.log.durable).0),
        ];
        match counters.into_iter().find(|(_, reached)| *reached > most) {
            None => Ok(()),
            Some((name, reached)) => {
                Err(Problem(format!("{name} have reached {reached}")).into_error())
            }
        }
    }
}

/// What a state knows of the log beside its cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSection {
    /// Up to here the log is on disk.
    pub durable: LogPosition,
    /// Where the first block begins.
    pub first_position: LogPosition,
    /// The log's blocks in the order of use; the first holds the cut.
    pub blocks: Vec<Block>,
}

/// The bytes of a durable state.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let contents = &manifest.contents;
    assert!(contents.young.len() <= YOUNG_COUNT_MAX, "{} young segments", contents.young.len());
    for levels in contents.levels.values() {
        assert!(levels.levels.len() <= LEVEL_COUNT_MAX, "{} levels", levels.levels.len());
    }
    let bytes = encode_sections(manifest);
    debug_assert!(
        decode(&bytes, u64::MAX).is_ok_and(|read| read == *manifest),
        "a state does not come back: {:?}",
        decode(&bytes, u64::MAX).err()
    );
    bytes
}

fn encode_sections(manifest: &Manifest) -> Vec<u8> {
    let contents = &manifest.contents;
    let mut out = Vec::new();
    put_section(&mut out, TAG_COUNTERS, |out| {
        put_counters(contents, &manifest.counters, out);
    });
    put_section(&mut out, TAG_LOG, |out| put_log(&contents.cut, &manifest.log, out));
    put_section(&mut out, TAG_KEYSPACES, |out| put_catalogue(&contents.catalogue, out));
    put_section(&mut out, TAG_YOUNG, |out| put_segments(&contents.young, out));
    put_section(&mut out, TAG_LEVELS, |out| {
        put_varint(out, contents.levels.len() as u64);
        for (keyspace, levels) in &contents.levels {
            put_varint(out, u64::from(keyspace.0));
            put_varint(out, levels.levels.len() as u64);
            levels.levels.iter().for_each(|level| put_segments(level, out));
        }
    });
    put_section(&mut out, TAG_REGIONS, |out| {
        put_varint(out, manifest.file_pages);
        put_varint(out, manifest.regions.len() as u64);
        manifest.regions.iter().for_each(|region| region.encode(out));
    });
    if manifest.packed > Epoch(0) {
        put_section(&mut out, TAG_PACKED, |out| put_varint(out, manifest.packed.0));
    }
    out
}

fn put_section(out: &mut Vec<u8>, tag: u8, put: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    put(&mut content);
    out.push(tag);
    put_length_prefixed(out, &content);
}

fn put_segments(segments: &[Arc<Segment>], out: &mut Vec<u8>) {
    put_varint(out, segments.len() as u64);
    segments.iter().for_each(|segment| encode_segment(segment, out));
}

fn put_counters(contents: &Contents, counters: &Counters, out: &mut Vec<u8>) {
    put_varint(out, contents.epoch.0);
    put_varint(out, contents.cut.sequence.0);
    put_varint(out, counters.sequence_limit);
    put_varint(out, counters.epoch_limit);
    put_varint(out, counters.stamp_limit);
    put_varint(out, u64::from(counters.keyspace_limit));
    put_varint(out, counters.segment_limit);
    out.push(u8::from(counters.clean.is_some()));
    if let Some(exact) = &counters.clean {
        put_varint(out, exact.last_sequence);
        put_varint(out, exact.next_stamp);
        put_varint(out, u64::from(exact.next_keyspace));
        put_varint(out, exact.next_segment);
    }
}

fn put_log(cut: &Cut, log: &LogSection, out: &mut Vec<u8>) {
    put_varint(out, cut.position.0);
    out.extend_from_slice(&cut.chain.to_le_bytes());
    put_varint(out, log.durable.0);
    put_varint(out, log.first_position.0);
    Block::encode_list(&log.blocks, out);
}

fn put_catalogue(catalogue: &Catalogue, out: &mut Vec<u8>) {
    put_varint(out, catalogue.iter().count() as u64);
    for (number, entry) in catalogue.iter() {
        put_varint(out, u64::from(number.0));
        put_length_prefixed(out, entry.name.as_bytes());
        put_length_prefixed(out, &encode_settings(&entry.settings));
        out.push(u8::from(entry.dropped));
    }
}

/// The state that was encoded as `bytes`, in a file of `page_count` pages.
///
/// # Errors
/// `Corruption` of the state, with what is wrong.
pub fn decode(bytes: &[u8], page_count: u64) -> Result<Manifest> {
    decode_sections(bytes, page_count).map_err(Problem::into_error)
}

/// What is in the sections, as far as they were met.
#[derive(Default)]
struct Sections {
    counters: Option<(Epoch, SequenceNumber, Counters)>,
    log: Option<(Cut, LogSection)>,
    catalogue: Option<Catalogue>,
    young: Option<Vec<Arc<Segment>>>,
    levels: Option<BTreeMap<KeyspaceNumber, Arc<Levels>>>,
    regions: Option<(u64, Vec<RegionEntry>)>,
    packed: Epoch,
}

fn decode_sections(bytes: &[u8], page_count: u64) -> Parsed<Manifest> {
    let mut input = Input::new(bytes, page_count);
    let mut found = Sections::default();
    let mut last_tag = 0;
    while !input.is_empty() {
        let tag = input.u8("a section's tag")?;
        if tag <= last_tag {
            return Err(Problem(format!("section {tag} follows section {last_tag}")));
        }
        last_tag = tag;
        let content = input.bytes("a section")?;
        found.read(tag, Input::new(content, page_count)).map_err(|Problem(detail)| {
            Problem(format!("section {tag} of {} bytes: {detail}", content.len()))
        })?;
    }
    found.join()
}

impl Sections {
    fn read(&mut self, tag: u8, mut input: Input<'_>) -> Parsed<()> {
        match tag {
            TAG_COUNTERS => self.counters = Some(read_counters(&mut input)?),
            TAG_LOG => self.log = Some(read_log(&mut input)?),
            TAG_KEYSPACES => self.catalogue = Some(read_catalogue(&mut input)?),
            TAG_YOUNG => self.young = Some(read_young(&mut input)?),
            TAG_LEVELS => self.levels = Some(read_levels(&mut input)?),
            TAG_REGIONS => self.regions = Some(read_regions(&mut input)?),
            TAG_PACKED => self.packed = Epoch(input.varint("how far leaves are packed")?),
            TAG_OPTIONAL.. => return Ok(()),
            _ => return Err(Problem("its tag is unknown".into())),
        }
        input.end("the last field")
    }

    fn join(self) -> Parsed<Manifest> {
        let missing = |name| Problem(format!("it has no section of {name}"));
        let (epoch, sequence, counters) = self.counters.ok_or_else(|| missing("counters"))?;
        let (cut, log) = self.log.ok_or_else(|| missing("the log"))?;
        let catalogue = self.catalogue.ok_or_else(|| missing("keyspaces"))?;
        let young = self.young.ok_or_else(|| missing("young segments"))?;
        let levels = self.levels.ok_or_else(|| missing("levels"))?;
        let (file_pages, regions) = self.regions.ok_or_else(|| missing("regions"))?;
        let cut = Cut { sequence, ..cut };
        let catalogue = Arc::new(catalogue);
        let contents = Contents { epoch, catalogue, young, levels, cut };
        let segments = || contents.segments().map(|segment| &**segment);
        segment::check_sums(segments())?;
        check_apart(segments())?;
        check_limits(&contents, &counters)?;
        let packed = self.packed;
        if packed > epoch {
            return Err(Problem(format!("it is packed up to a later state, {packed}")));
        }
        Ok(Manifest { contents, counters, log, regions, file_pages, packed })
    }
}

/// Segments are told apart by their numbers; and what two of them name would be freed by one.
fn check_apart<'a>(segments: impl Iterator<Item = &'a Segment>) -> Parsed<()> {
    let (mut numbers, mut roots) = (BTreeSet::new(), BTreeSet::new());
    for segment in segments {
        let number = segment.number;
        if !numbers.insert(number) {
            return Err(Problem(format!("two segments have the number {number}")));
        }
        for tree in segment.points.iter().chain(&segment.ranges) {
            let page = tree.reference.page;
            if !roots.insert(page) {
                return Err(Problem(format!("segment {number}: its root {page} is another's too")));
            }
        }
    }
    Ok(())
}

/// A number at or above its limit would be given out a second time.
fn check_limits(contents: &Contents, counters: &Counters) -> Parsed<()> {
    let check_given = |name: &str, number: u64, next: u64| match number < next {
        true => Ok(()),
        false => Err(Problem(format!("{name} {number} is not below {next}, the next one"))),
    };
    let check = |name: &str, number: u64, limit: u64| match number <= limit {
        true => Ok(()),
        false => Err(Problem(format!("{name} {number} is above its limit {limit}"))),
    };
    let keyspace_limit = u64::from(counters.keyspace_limit);
    check("epoch", contents.epoch.0, counters.epoch_limit)?;
    check("the cut's sequence number", contents.cut.sequence.0, counters.sequence_limit)?;
    let clean = counters.clean.as_ref();
    let next_keyspace = clean.map_or(counters.keyspace_limit, |exact| exact.next_keyspace);
    for (number, _) in contents.catalogue.iter() {
        check_given("keyspace", u64::from(number.0), u64::from(next_keyspace))?;
    }
    let next_segment = clean.map_or(counters.segment_limit, |exact| exact.next_segment);
    for segment in contents.segments() {
        check_given("segment", segment.number, next_segment)?;
    }
    let Some(exact) = &counters.clean else { return Ok(()) };
    check("the last sequence number", exact.last_sequence, counters.sequence_limit)?;
    check("the cut's sequence number", contents.cut.sequence.0, exact.last_sequence)?;
    check("the next stamp", exact.next_stamp, counters.stamp_limit)?;
    check("the next keyspace", u64::from(exact.next_keyspace), keyspace_limit)?;
    check("the next segment", exact.next_segment, counters.segment_limit)
}

fn read_counters(input: &mut Input<'_>) -> Parsed<(Epoch, SequenceNumber, Counters)> {
    let epoch = Epoch(input.varint("the epoch")?);
    let sequence = SequenceNumber(input.varint("the cut's sequence number")?);
    let mut counters = Counters {
        sequence_limit: input.varint("the limit of sequence numbers")?,
        epoch_limit: input.varint("the limit of epochs")?,
        stamp_limit: input.varint("the limit of stamps")?,
        keyspace_limit: input.varint_u32("the limit of keyspaces")?,
        segment_limit: input.varint("the limit of segments")?,
        clean: None,
    };
    if input.flag("the mark of a clean close")? {
        counters.clean = Some(ExactCounters {
            last_sequence: input.varint("the last sequence number")?,
            next_stamp: input.varint("the next stamp")?,
            next_keyspace: input.varint_u32("the next keyspace")?,
            next_segment: input.varint("the next segment")?,
        });
    }
    Ok((epoch, sequence, counters))
}

fn read_log(input: &mut Input<'_>) -> Parsed<(Cut, LogSection)> {
    let position = LogPosition(input.varint("the cut's position")?);
    let chain = input.u32("the cut's chain")?;
    let durable = LogPosition(input.varint("the position on disk")?);
    let first_position = LogPosition(input.varint("the first block's position")?);
    if first_position > position {
        return Err(Problem(format!("the log begins at {first_position}, its cut is {position}")));
    }
    let count = input.count("the number of blocks", Block::ENCODED_BYTES_MIN)?;
    let mut blocks = Vec::with_capacity(count);
    for _ in 0..count {
        blocks.push(input.block("a block of the log")?);
    }
    let cut = Cut { sequence: SequenceNumber::default(), position, chain };
    Ok((cut, LogSection { durable, first_position, blocks }))
}

fn read_catalogue(input: &mut Input<'_>) -> Parsed<Catalogue> {
    let count = input.count("the number of keyspaces", KEYSPACE_BYTES_MIN)?;
    let mut catalogue = Catalogue::default();
    let mut names = BTreeSet::new();
    let mut last = None;
    for _ in 0..count {
        let number = input.keyspace_after(&mut last)?;
        let name = std::str::from_utf8(input.bytes("a keyspace's name")?)
            .map_err(|_| Problem(format!("the name of keyspace {number} is not UTF-8")))?;
        let settings = settings::read(input.bytes("a keyspace's options")?)
            .map_err(|Problem(detail)| Problem(format!("keyspace {number}: {detail}")))?;
        let dropped = input.flag("the mark of a dropped keyspace")?;
        if dropped && !name.is_empty() {
            return Err(Problem(format!("the dropped keyspace {number} has a name")));
        }
        if !dropped && !names.insert(name) {
            return Err(Problem(format!("the name of keyspace {number} is another's too")));
        }
        catalogue.insert(number, KeyspaceEntry { name: name.to_owned(), settings, dropped });
    }
    Ok(catalogue)
}

fn read_young(input: &mut Input<'_>) -> Parsed<Vec<Arc<Segment>>> {
    let segments = read_segments(input)?;
    if segments.len() > YOUNG_COUNT_MAX {
        return Err(Problem(format!("{} young segments are too many", segments.len())));
    }
    for segment in &segments {
        if !segment.is_young() {
            return Err(Problem(format!("segment {} has no sequence numbers", segment.number)));
        }
        // Nothing would ever be merged out of it.
        if segment.keyspaces.is_empty() {
            return Err(Problem(format!("segment {} is of no keyspace", segment.number)));
        }
    }
    Ok(segments)
}

fn read_segments(input: &mut Input<'_>) -> Parsed<Vec<Arc<Segment>>> {
    let count = input.count("the number of segments", segment::SEGMENT_BYTES_MIN)?;
    let mut segments = Vec::with_capacity(count);
    for _ in 0..count {
        segments.push(Arc::new(segment::read(input)?));
    }
    Ok(segments)
}

fn read_levels(input: &mut Input<'_>) -> Parsed<BTreeMap<KeyspaceNumber, Arc<Levels>>> {
    let count = input.count("the number of keyspaces with levels", LEVELS_BYTES_MIN)?;
    let mut all = BTreeMap::new();
    let mut last = None;
    for _ in 0..count {
        let keyspace = input.keyspace_after(&mut last)?;
        let within = |Problem(detail)| Problem(format!("keyspace {keyspace}: {detail}"));
        all.insert(keyspace, Arc::new(read_levels_of(input).map_err(within)?));
    }
    Ok(all)
}

fn read_levels_of(input: &mut Input<'_>) -> Parsed<Levels> {
    let count = input.count("the number of levels", 1)?;
    if count > LEVEL_COUNT_MAX {
        return Err(Problem(format!("{count} levels are too many")));
    }
    let mut levels = Vec::with_capacity(count);
    for _ in 0..count {
        levels.push(read_segments(input)?);
    }
    let levels = Levels::new(levels);
    let segment_count = levels.iter().count();
    if segment_count > LEVELS_SEGMENT_COUNT_MAX {
        return Err(Problem(format!("{segment_count} segments are too many")));
    }
    let young = |segment: &&Arc<Segment>| segment.is_young() || !segment.keyspaces.is_empty();
    if let Some(segment) = levels.iter().find(young) {
        return Err(Problem(format!("segment {} is a young one", segment.number)));
    }
    if levels.levels.last().is_some_and(|level| level.len() > 1) {
        return Err(Problem("the last level has more than one segment".into()));
    }
    Ok(levels)
}

fn read_regions(input: &mut Input<'_>) -> Parsed<(u64, Vec<RegionEntry>)> {
    let file_pages = input.varint("the number of pages")?;
    input.check_pages("the file's length", 0, file_pages)?;
    let count = input.count("the number of regions", RegionEntry::ENCODED_BYTES_MIN)?;
    let mut regions = Vec::with_capacity(count);
    for _ in 0..count {
        regions.push(input.region("a region")?);
    }
    Ok((file_pages, regions))
}
