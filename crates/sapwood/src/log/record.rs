//! Records: the units in which the log is written, checked and replayed.
//!
//! *Assumes*: nothing of the bytes that are decoded. *Guarantees*: a header is believed only with
//! its record's checksum; what is decoded without error was written by this code or a newer one.
//! *Format*: section 5. *Threads*: none.

use crate::codec::{Read, Reader};
use crate::error::{Corruption, Error, Result, Structure};
use crate::types::{COUNT_MAX, Epoch, LogPosition, SequenceNumber};

/// The size of a record's header.
pub const HEADER_BYTES: usize = 40;
/// Records begin at multiples of this and are as long as a multiple of it.
pub const ALIGNMENT: usize = 8;
/// The size of a record that names a durable state.
pub const STATE_DURABLE_BYTES: u64 = HEADER_BYTES as u64 + 16;
/// What the checksum covers: the record from here on.
pub const CHECKED_FROM_BYTES: usize = 4;

const BLOCKS_ON_DISK: u8 = 1;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// A commit with its operations.
    Commit,
    /// A commit whose data lies in segments.
    CommitByReference,
    /// A state is durable and may be relied on.
    StateDurable,
    /// Nothing: room that is passed over.
    Padding,
    /// The database was opened.
    Opened,
}

impl RecordKind {
    fn tag(self) -> u8 {
        match self {
            RecordKind::Commit => 1,
            RecordKind::CommitByReference => 2,
            RecordKind::StateDurable => 3,
            RecordKind::Padding => 4,
            RecordKind::Opened => 5,
        }
    }

    fn from_tag(tag: u8) -> Option<RecordKind> {
        Some(match tag {
            1 => RecordKind::Commit,
            2 => RecordKind::CommitByReference,
            3 => RecordKind::StateDurable,
            4 => RecordKind::Padding,
            5 => RecordKind::Opened,
            _ => return None,
        })
    }

    /// True for what takes a place in the commit order, and so has a sequence number.
    pub fn is_commit(self) -> bool {
        matches!(self, RecordKind::Commit | RecordKind::CommitByReference)
    }
}

/// Whether a record names blocks outside the log, and what is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBlocks {
    /// It names none.
    None,
    /// They were on disk before the record is appended: replay need not check them.
    OnDisk,
    /// They were written, but only a data sync of the file makes them durable.
    Unsynced,
}

/// What a record's header is made from.
#[derive(Clone, Copy, Debug)]
pub struct RecordHead {
    /// Where the record begins.
    pub position: LogPosition,
    /// The crc field of the record before it.
    pub chain: u32,
    /// What it says.
    pub kind: RecordKind,
    /// What blocks it names.
    pub blocks: NamedBlocks,
    /// Up to where the log is known to be on disk.
    pub durable: LogPosition,
    /// Its place in the commit order, or 0.
    pub sequence: SequenceNumber,
}

/// The length of the record that holds a payload, or `None` when no record is that long.
pub fn record_bytes(payload_bytes: usize) -> Option<u32> {
    let length = payload_bytes.checked_add(HEADER_BYTES)?.checked_next_multiple_of(ALIGNMENT)?;
    u32::try_from(length).ok()
}

/// Appends a record whose payload is `parts`, one after the other, to `out`, and gives its crc
/// field. `None`, and nothing appended, when it is too long to be a record.
pub fn encode_record(
    out: &mut Vec<u8>,
    seed: u32,
    head: &RecordHead,
    parts: &[&[u8]],
) -> Option<u32> {
    let payload_bytes = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = record_bytes(payload_bytes)?;
    let padding = length as usize - HEADER_BYTES - payload_bytes;
    let flags = if head.blocks == NamedBlocks::OnDisk { BLOCKS_ON_DISK } else { 0 };
    out.reserve(length as usize);
    let start = out.len();
    out.extend_from_slice(&[0; CHECKED_FROM_BYTES]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&head.position.0.to_le_bytes());
    out.extend_from_slice(&head.chain.to_le_bytes());
    out.extend_from_slice(&[head.kind.tag(), flags, padding as u8, 0]);
    out.extend_from_slice(&head.durable.0.to_le_bytes());
    out.extend_from_slice(&head.sequence.0.to_le_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.resize(start + length as usize, 0);
    let crc = checksum(seed, out.get(start + CHECKED_FROM_BYTES..)?);
    out.get_mut(start..start + CHECKED_FROM_BYTES)?.copy_from_slice(&crc.to_le_bytes());
    Some(crc)
}

fn checksum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// A header as it was read: not to be believed before its record's checksum is.
#[derive(Clone, Copy, Debug)]
pub struct RawHeader {
    crc: u32,
    /// The length of the record with header and padding.
    pub length: u32,
    position: u64,
    /// The crc field of the record before it.
    pub chain: u32,
    kind: u8,
    flags: u8,
    padding: u8,
    zero: u8,
    /// Up to where the log was known to be on disk.
    pub durable: LogPosition,
    sequence: u64,
}

impl RawHeader {
    /// Reads a header, unless there are too few bytes.
    pub fn read(bytes: &[u8]) -> Read<RawHeader> {
        let mut input = Reader::new(bytes);
        Ok(RawHeader {
            crc: input.u32()?,
            length: input.u32()?,
            position: input.u64()?,
            chain: input.u32()?,
            kind: input.u8()?,
            flags: input.u8()?,
            padding: input.u8()?,
            zero: input.u8()?,
            durable: LogPosition(input.u64()?),
            sequence: input.u64()?,
        })
    }

    /// True when it says that it lies at `position`, with a length that `left` bytes can hold.
    pub fn may_lie_at(&self, position: LogPosition, left: u64) -> bool {
        self.position == position.0
            && self.length as usize >= HEADER_BYTES
            && (self.length as usize).is_multiple_of(ALIGNMENT)
            && u64::from(self.length) <= left
    }

    /// True when the checksum is right for the whole record, header included.
    pub fn is_right_for(&self, seed: u32, record: &[u8]) -> bool {
        record.len() == self.length as usize
            && record
                .get(CHECKED_FROM_BYTES..)
                .is_some_and(|checked| self.has_checksum(checksum(seed, checked)))
    }

    /// True when `checksum` is that of the record from [`CHECKED_FROM_BYTES`] on.
    pub fn has_checksum(&self, checksum: u32) -> bool {
        self.crc == checksum
    }

    /// True when it may follow a commit numbered `last`.
    pub fn may_follow(&self, last: SequenceNumber) -> bool {
        match RecordKind::from_tag(self.kind) {
            Some(kind) if kind.is_commit() => self.sequence > last.0,
            Some(_) => self.sequence == 0,
            None => true,
        }
    }
}

/// A record whose checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it begins.
    pub position: LogPosition,
    /// Where the next one begins.
    pub end: LogPosition,
    /// Its crc field, which the next record repeats.
    pub crc: u32,
    /// What it says.
    pub kind: RecordKind,
    /// True when the blocks that it names need no check.
    pub blocks_on_disk: bool,
    /// Up to where the log was known to be on disk when it was written.
    pub durable: LogPosition,
    /// Its place in the commit order; 0 when it is no commit.
    pub sequence: SequenceNumber,
    /// What it carries.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// Decodes a whole record whose checksum was found right.
    ///
    /// # Errors
    /// `Corruption` for what no version 1 writer writes.
    pub fn decode(header: &RawHeader, bytes: &'a [u8]) -> Result<Record<'a>> {
        let position = LogPosition(header.position);
        let wrong = |what: &str| malformed(position, what);
        let kind = RecordKind::from_tag(header.kind)
            .ok_or_else(|| wrong(&format!("its kind {} is unknown", header.kind)))?;
        if header.flags & !BLOCKS_ON_DISK != 0 || header.zero != 0 {
            return Err(wrong("it uses unknown flags"));
        }
        if header.durable > position {
            return Err(wrong("it says that more was on disk than had been written"));
        }
        if header.sequence > COUNT_MAX {
            return Err(wrong("its sequence number is beyond all"));
        }
        let padding_bytes = usize::from(header.padding);
        let (payload, padding) = bytes
            .get(HEADER_BYTES..)
            .filter(|_| padding_bytes < ALIGNMENT)
            .and_then(|body| body.split_at_checked(body.len().checked_sub(padding_bytes)?))
            .ok_or_else(|| wrong("it has more padding than a record can have"))?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(wrong("its padding is not zero"));
        }
        let end = position.0.checked_add(u64::from(header.length));
        Ok(Record {
            position,
            end: LogPosition(end.ok_or_else(|| wrong("it ends behind all positions"))?),
            crc: header.crc,
            kind,
            blocks_on_disk: header.flags & BLOCKS_ON_DISK != 0,
            durable: header.durable,
            sequence: SequenceNumber(header.sequence),
            payload,
        })
    }

    /// The state that a record of kind [`RecordKind::StateDurable`] names: epoch and generation.
    pub fn state_durable(&self) -> Result<(Epoch, u64)> {
        let mut input = Reader::new(self.payload);
        match (input.u64(), input.u64(), input.is_empty()) {
            (Ok(epoch), Ok(generation), true) => Ok((Epoch(epoch), generation)),
            _ => Err(malformed(self.position, "it does not name one state")),
        }
    }

    /// The generation of the state that the record names, if it is of that kind.
    pub fn state_named(&self) -> Result<Option<u64>> {
        match self.kind {
            RecordKind::StateDurable => {
                self.state_durable().map(|(_, generation)| Some(generation))
            }
            _ => Ok(None),
        }
    }

    /// The time at which a commit or an open happened, in milliseconds since 1970.
    pub fn commit_time(&self) -> Result<u64> {
        Reader::new(self.payload).u64().map_err(|_| malformed(self.position, "it carries no time"))
    }
}

/// The payload of a record that names a durable state.
pub fn state_durable_payload(epoch: Epoch, generation: u64) -> [u8; 16] {
    let mut payload = [0; 16];
    let (first, second) = payload.split_at_mut(8);
    first.copy_from_slice(&epoch.0.to_le_bytes());
    second.copy_from_slice(&generation.to_le_bytes());
    payload
}

/// Damage in the record at `position`.
pub fn malformed(position: LogPosition, what: &str) -> Error {
    Corruption::new(Structure::Log, format!("record at position {position}: {what}")).into()
}
