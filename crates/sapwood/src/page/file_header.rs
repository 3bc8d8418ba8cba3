//! The two header slots at the start of the file, each a unit of its own.
//!
//! *Assumes*: nothing of the bytes.
//! *Guarantees*: a slot that counts has mark, checksum, version, number and every field in range;
//! writing one slot touches nothing of the other.
//! *Format*: `docs/format.md` section 2.1.

use std::path::PathBuf;

use crate::codec::{ReadProblem, Reader};
use crate::error::{Corruption, Error, Result, Structure};
use crate::storage::{Storage, SyncGate};
use crate::types::{COUNT_MAX, Epoch, PageNumber};

use super::block::Block;
use super::layout::Layout;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4096;
/// The newest format version that this library reads, and the one that it writes.
pub const FORMAT_VERSION: u32 = 1;
/// The longest state that a slot holds.
pub const INLINE_STATE_BYTES_MAX: usize = SLOT_BYTES - INLINE_STATE_AT;
/// The most blocks that a state may lie in.
pub const STATE_BLOCKS_MAX: usize = 9;

/// What a write may be torn at.
const SECTOR_BYTES: usize = 512;
const MARK: [u8; 8] = *b"Sapwood\n";
/// What the first unit begins with while a database is being made; zeros follow.
const MAKING_MARK: [u8; 8] = *b"Sapling\n";
/// How long a file is while that mark is written to it: a length that no other file of zeros has.
const MAKING_BYTES: u64 = 7_919;
const CRC_AT: usize = 8;
const INLINE_STATE_AT: usize = 256;
const FEATURES_KNOWN: u64 = 0;

/// Where the encoded state is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateLocation {
    /// In the slot itself.
    Inline(Vec<u8>),
    /// In a node over some blocks.
    Blocks {
        /// Bytes of the encoded state.
        length: u32,
        /// Its checksum, from 0.
        checksum: u32,
        /// The node's write stamp.
        stamp: u32,
        /// The blocks, in the order of the stream.
        blocks: Vec<Block>,
    },
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSlot {
    /// Counts durable states, from 1; also says which slot this is.
    pub generation: u64,
    /// The file's identity.
    pub identity: [u8; 16],
    /// Bytes of a page.
    pub page_size: u32,
    /// Reserved bytes of each page.
    pub reserved_bytes: u16,
    /// Bytes of a region.
    pub region_bytes: u64,
    /// Features that may be ignored.
    pub features_ignorable: u64,
    /// Features that may be read but not written when unknown.
    pub features_read_only: u64,
    /// Features that must be known.
    pub features_required: u64,
    /// The file's length in pages when the slot was written.
    pub file_pages: u64,
    /// The state's epoch.
    pub epoch: Epoch,
    /// Where the state is.
    pub state: StateLocation,
}

/// Why a slot does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotProblem {
    /// The file ends before it does.
    Truncated,
    /// It does not begin with the mark.
    NoMark,
    /// Its checksum is wrong.
    BadChecksum,
    /// It was written by a newer version.
    UnsupportedVersion(u32),
    /// It lies in the other slot's place.
    WrongSlot,
    /// Its checksum is right, but a field is out of range.
    Invalid(String),
}

impl From<ReadProblem> for SlotProblem {
    fn from(_: ReadProblem) -> SlotProblem {
        SlotProblem::Truncated
    }
}

impl std::fmt::Display for SlotProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SlotProblem::Truncated => f.write_str("the file ends before its end"),
            SlotProblem::NoMark => f.write_str("no mark"),
            SlotProblem::BadChecksum => f.write_str("wrong checksum"),
            SlotProblem::UnsupportedVersion(version) => write!(f, "format version {version}"),
            SlotProblem::WrongSlot => f.write_str("it belongs in the other slot"),
            SlotProblem::Invalid(detail) => f.write_str(detail),
        }
    }
}

impl HeaderSlot {
    /// A slot of generation `generation` without features.
    pub fn new(
        layout: &Layout,
        generation: u64,
        epoch: Epoch,
        file_pages: u64,
        state: StateLocation,
    ) -> HeaderSlot {
        HeaderSlot {
            generation,
            identity: layout.identity,
            page_size: layout.page_size,
            reserved_bytes: layout.reserved_bytes,
            region_bytes: layout.region_bytes,
            features_ignorable: 0,
            features_read_only: 0,
            features_required: 0,
            file_pages,
            epoch,
            state,
        }
    }

    /// Which slot it is written to.
    pub fn slot_number(&self) -> u16 {
        (self.generation % 2) as u16
    }

    /// The sizes that it names, checked.
    pub fn layout(&self) -> Result<Layout> {
        Layout::new(self.page_size, self.reserved_bytes, self.region_bytes, self.identity)
    }

    /// Refuses a file whose unknown features forbid this use of it.
    pub fn check_features(&self, file: &str, read_only: bool) -> Result<()> {
        let unknown = |bits: u64, allowed| {
            Err(Error::UnknownFeature { file: PathBuf::from(file), bits, allowed })
        };
        let required = self.features_required & !FEATURES_KNOWN;
        if required != 0 {
            return unknown(required, "neither read nor written");
        }
        let for_writing = self.features_read_only & !FEATURES_KNOWN;
        if for_writing != 0 && !read_only {
            return unknown(for_writing, "read but not written");
        }
        Ok(())
    }

    /// Refuses a file that is shorter than when this slot was written.
    pub fn check_length(&self, file_bytes: u64) -> Result<()> {
        let expected = self.file_pages.saturating_mul(u64::from(self.page_size));
        if file_bytes < expected {
            return Err(Corruption::new(
                Structure::FileHeader,
                format!(
                    "the file was cut: it has {file_bytes} bytes, {expected} when last written"
                ),
            )
            .into());
        }
        Ok(())
    }

    /// The slot's bytes.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut unit = Vec::with_capacity(SLOT_BYTES);
        unit.extend_from_slice(&MARK);
        unit.extend_from_slice(&[0; 4]);
        unit.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        unit.extend_from_slice(&self.generation.to_le_bytes());
        unit.extend_from_slice(&self.identity);
        unit.extend_from_slice(&self.page_size.to_le_bytes());
        unit.extend_from_slice(&self.reserved_bytes.to_le_bytes());
        unit.extend_from_slice(&self.slot_number().to_le_bytes());
        unit.extend_from_slice(&self.region_bytes.to_le_bytes());
        unit.extend_from_slice(&self.features_ignorable.to_le_bytes());
        unit.extend_from_slice(&self.features_read_only.to_le_bytes());
        unit.extend_from_slice(&self.features_required.to_le_bytes());
        unit.extend_from_slice(&self.file_pages.to_le_bytes());
        unit.extend_from_slice(&self.epoch.0.to_le_bytes());
        let (length, checksum, stamp, blocks, inline): (u32, u32, u32, &[Block], &[u8]) =
            match &self.state {
                StateLocation::Inline(state) => {
                    assert!(state.len() <= INLINE_STATE_BYTES_MAX, "the state does not fit a slot");
                    (state.len() as u32, crc32fast::hash(state), 0, &[], state)
                }
                StateLocation::Blocks { length, checksum, stamp, blocks } => {
                    assert!((1..=STATE_BLOCKS_MAX).contains(&blocks.len()), "blocks of a state");
                    (*length, *checksum, *stamp, blocks, &[])
                }
            };
        unit.extend_from_slice(&length.to_le_bytes());
        unit.extend_from_slice(&checksum.to_le_bytes());
        unit.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
        unit.extend_from_slice(&stamp.to_le_bytes());
        for block in blocks {
            unit.extend_from_slice(&block.first.0.to_le_bytes());
            unit.extend_from_slice(&block.pages.to_le_bytes());
            unit.extend_from_slice(&[0; 4]);
        }
        unit.resize(INLINE_STATE_AT, 0);
        unit.extend_from_slice(inline);
        unit.resize(SLOT_BYTES, 0);
        let crc = crc32fast::hash(&unit);
        let mut bytes = [0; SLOT_BYTES];
        bytes.copy_from_slice(&unit);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The slot in a unit's bytes. Features and the file's length are not looked at.
    pub fn decode(unit: &[u8]) -> std::result::Result<HeaderSlot, SlotProblem> {
        let unit = unit.get(..SLOT_BYTES).ok_or(SlotProblem::Truncated)?;
        let mut reader = Reader::new(unit);
        if reader.array::<8>() != Ok(MARK) {
            return Err(SlotProblem::NoMark);
        }
        let (before, rest) = unit.split_at_checked(CRC_AT).ok_or(SlotProblem::Truncated)?;
        let covered = rest.get(4..).ok_or(SlotProblem::Truncated)?;
        let crc = reader.u32()?;
        let mut hasher = crc32fast::Hasher::new();
        for part in [before, &[0; 4], covered] {
            hasher.update(part);
        }
        if hasher.finalize() != crc {
            return Err(SlotProblem::BadChecksum);
        }
        let version = reader.u32()?;
        if version != FORMAT_VERSION {
            return Err(SlotProblem::UnsupportedVersion(version));
        }
        Self::parse(&mut reader)
    }

    /// The fields behind the version.
    fn parse(reader: &mut Reader<'_>) -> std::result::Result<HeaderSlot, SlotProblem> {
        let invalid = |detail: &str| Err(SlotProblem::Invalid(detail.into()));
        let (generation, identity) = (reader.u64()?, reader.array()?);
        let (page_size, reserved_bytes) = (reader.u32()?, reader.u16()?);
        let (slot_number, region_bytes) = (reader.u16()?, reader.u64()?);
        let features = [reader.u64()?, reader.u64()?, reader.u64()?];
        let (file_pages, epoch) = (reader.u64()?, Epoch(reader.u64()?));
        let (length, checksum) = (reader.u32()?, reader.u32()?);
        let (block_count, zero, stamp) = (reader.u16()?, reader.u16()?, reader.u32()?);
        let mut blocks = Vec::new();
        for block_index in 0..STATE_BLOCKS_MAX {
            let (first, pages, zero) = (PageNumber(reader.u64()?), reader.u32()?, reader.u32()?);
            let in_use = block_index < usize::from(block_count);
            if zero != 0 || in_use != (pages > 0) || (!in_use && first.0 != 0) {
                return invalid("a block of the state is not one");
            }
            if in_use {
                blocks.push(Block { first, pages });
            }
        }
        if zero != 0 || usize::from(block_count) > STATE_BLOCKS_MAX {
            return invalid("a field that is never so");
        }
        if !(1..=COUNT_MAX).contains(&generation) {
            return invalid("a generation that no state has");
        }
        if u64::from(slot_number) != generation % 2 {
            return Err(SlotProblem::WrongSlot);
        }
        let layout = match Layout::new(page_size, reserved_bytes, region_bytes, identity) {
            Ok(layout) => layout,
            Err(error) => return invalid(&error.to_string()),
        };
        if file_pages > layout.max_pages() {
            return invalid("more pages than a file can have");
        }
        let state = if block_count == 0 {
            let Ok(state) = reader.bytes(length as usize) else {
                return invalid("the state is longer than the slot");
            };
            if stamp != 0 || crc32fast::hash(state) != checksum {
                return invalid("the state in the slot has another checksum");
            }
            StateLocation::Inline(state.to_vec())
        } else {
            for block in &blocks {
                if let Err(detail) = layout.check_block(*block, file_pages) {
                    return invalid(&detail);
                }
            }
            StateLocation::Blocks { length, checksum, stamp, blocks }
        };
        if reader.rest().iter().any(|&byte| byte != 0) {
            return invalid("bytes behind the state are not zero");
        }
        let [features_ignorable, features_read_only, features_required] = features;
        Ok(HeaderSlot {
            generation,
            identity,
            page_size,
            reserved_bytes,
            region_bytes,
            features_ignorable,
            features_read_only,
            features_required,
            file_pages,
            epoch,
            state,
        })
    }
}

/// What reading both slots gives.
pub type Slots = [SlotRead; 2];

type SlotRead = std::result::Result<HeaderSlot, SlotProblem>;
type Unit = [u8; SLOT_BYTES];

/// Reads both slots. An error only when reading fails; a file that is too short has no slots.
pub fn read_slots(storage: &dyn Storage) -> Result<Slots> {
    Ok([read_unit(storage, 0)?.1, read_unit(storage, 1)?.1])
}

/// The bytes at a slot's place, and what they are.
fn read_unit(storage: &dyn Storage, slot_number: u16) -> Result<(Unit, SlotRead)> {
    let mut unit = [0; SLOT_BYTES];
    let offset = u64::from(slot_number) * SLOT_BYTES as u64;
    match storage.read_at(offset, &mut unit) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Ok((unit, Err(SlotProblem::Truncated)));
        }
        Err(error) => {
            let operation = format!("reading header slot {slot_number}");
            return Err(Error::io(operation, storage.name(), error));
        }
    }
    let slot = HeaderSlot::decode(&unit).and_then(|slot| {
        if slot.slot_number() == slot_number { Ok(slot) } else { Err(SlotProblem::WrongSlot) }
    });
    Ok((unit, slot))
}

/// Says in an empty file that a database is being made in it; on disk when this returns. Whatever
/// is written before slot 1 of the first state would otherwise look like somebody else's file, or
/// like a database that has lost both slots, after a crash. The length comes first, on disk before
/// the mark: of a mark whose write was cut short anything may be left. And before that, nothing:
/// what an earlier making has left where slot 1 goes would not be zeros beside a torn mark. Of the
/// two lengths any may be on disk after a crash: the earlier mark is whole then, or all are zeros.
/// So that there are but two, what an earlier making has left on its way to the disk goes first:
/// one of its lengths, come last, would leave zeros that are no mark's.
pub fn write_making_mark(storage: &dyn Storage) -> Result<()> {
    storage
        .sync_data()
        .and_then(|()| storage.set_length(0))
        .and_then(|()| storage.set_length(MAKING_BYTES))
        .and_then(|()| storage.sync_data())
        .and_then(|()| storage.write_sync_at(0, &MAKING_MARK))
        .map_err(|error| Error::io("making a new file", storage.name(), error))
}

/// True when no database was ever complete in the file: it is empty, or making one was cut short.
/// Nothing else may count as that, since it is written over: neither another program's file, short
/// or beginning with zeros as it may be, nor a database that has lost both slots.
pub fn is_unborn(storage: &dyn Storage) -> Result<bool> {
    let failed = |error| Error::io("reading the header", storage.name(), error);
    let length = storage.length().map_err(failed)?;
    if length == 0 {
        return Ok(true);
    }
    let mut units = vec![0; 2 * SLOT_BYTES];
    units.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    storage.read_at(0, &mut units).map_err(failed)?;
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if length == MAKING_BYTES && units.get(SECTOR_BYTES..).is_some_and(zero) {
        return Ok(true);
    }
    let Some((first, second)) = units.split_at_checked(SLOT_BYTES) else {
        return Ok(false);
    };
    // Whatever a torn write has left in the slot: nobody else's file begins with such a unit.
    let torn = match HeaderSlot::decode(second) {
        Err(SlotProblem::UnsupportedVersion(_)) | Ok(_) => false,
        Err(_) => true,
    };
    Ok(is_making(first) && torn)
}

/// True of the first unit of a file in which a database is being made.
fn is_making(unit: &[u8]) -> bool {
    unit.strip_prefix(&MAKING_MARK).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
}

/// True when the place of the other slot holds neither a slot nor the mark of a making: it was
/// being written over, for which `slot` had to be on disk.
pub fn is_alone(storage: &dyn Storage, slot: &HeaderSlot) -> Result<bool> {
    let other = 1 - slot.slot_number();
    let (unit, found) = read_unit(storage, other)?;
    Ok(found.is_err() && !(other == 0 && is_making(&unit)))
}

/// The slots that count, the newest first; at least one.
pub fn newest_first(slots: Slots, file: &str) -> Result<Vec<HeaderSlot>> {
    for slot in &slots {
        // A newer library has written here: what the other slot says is out of date.
        if let Err(SlotProblem::UnsupportedVersion(found)) = slot {
            return Err(Error::UnsupportedVersion {
                file: PathBuf::from(file),
                found: *found,
                supported: FORMAT_VERSION,
            });
        }
    }
    let mut good = Vec::new();
    let mut problems = Vec::new();
    for slot in slots {
        match slot {
            Ok(slot) => good.push(slot),
            Err(problem) => problems.push(problem),
        }
    }
    if let [one, other] = good.as_slice() {
        let of_one_file = one.identity == other.identity
            && (one.page_size, one.reserved_bytes, one.region_bytes)
                == (other.page_size, other.reserved_bytes, other.region_bytes);
        if !of_one_file {
            let detail = "the two slots are of different files";
            return Err(Corruption::new(Structure::FileHeader, detail).into());
        }
    }
    if good.is_empty() {
        let marked = problems
            .iter()
            .any(|problem| !matches!(problem, SlotProblem::NoMark | SlotProblem::Truncated));
        if !marked {
            return Err(Error::NotADatabase(PathBuf::from(file)));
        }
        let both: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let detail = format!("neither slot counts: {}", both.join("; "));
        return Err(Corruption::new(Structure::FileHeader, detail).into());
    }
    good.sort_by_key(|slot| std::cmp::Reverse(slot.generation));
    Ok(good)
}

/// Writes a slot to its place; on disk when this returns.
pub fn write_slot(storage: &dyn Storage, gate: &SyncGate, slot: &HeaderSlot) -> Result<()> {
    let offset = u64::from(slot.slot_number()) * SLOT_BYTES as u64;
    gate.run(|| storage.write_sync_at(offset, &slot.encode())).map_err(|error| {
        Error::io(format!("writing header slot {}", slot.slot_number()), storage.name(), error)
    })
}
