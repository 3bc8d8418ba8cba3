//! Replay: finding the records behind a state's cut, and where the log ends.
//!
//! *Assumes*: nothing of what the list's blocks hold. *Guarantees*: L4 of [`super`]; two replays
//! without a write between them end at the same place; at most one record and 256 KiB are in
//! memory, and what `prefix_sums` says where many bytes behind a break claim to be records.
//! False claims are no damage, and cost time in proportion to what lies behind the break: it is
//! read twice more at most, and hashed two times more than `CLAIMED_LAPS_MAX`; and for each place
//! with a right position word, one in 8 bytes at most, a KiB is read, two are hashed, and one
//! checksum is moved over the length claimed. (Of a log beyond a GiB these pieces are longer.)
//! *Format*: section 5. *Threads*: the one that opens the database.

use crate::error::{Corruption, Result, Structure};
use crate::types::{Epoch, LogPosition, SequenceNumber};

use super::prefix_sums::PrefixSums;
use super::record::{ALIGNMENT, CHECKED_FROM_BYTES, HEADER_BYTES, RawHeader, Record, RecordKind};
use super::ring::{Ring, RingList};
use super::stream::BlockStream;

/// How much is read in one call, in bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// How often over the bytes behind a break are hashed as parts of what claims to be a record, until
/// prefix sums tell which claims are true. Without bytes that were made so it never comes to that:
/// true records lie behind one another, and nothing else looks like one by chance.
pub(super) const CLAIMED_LAPS_MAX: u64 = 8;

/// Where replay begins: what a state says of the log.
#[derive(Clone, Debug)]
pub struct ReplayStart {
    /// The state's generation.
    pub generation: u64,
    /// The log's blocks.
    pub list: RingList,
    /// The end of the last record that the state's segments hold.
    pub cut: LogPosition,
    /// That record's crc field.
    pub chain: u32,
    /// Up to where the state knew the log to be on disk.
    pub durable: LogPosition,
    /// The sequence number of the last commit before the cut.
    pub sequence: SequenceNumber,
    /// What checksums start from.
    pub seed: u32,
}

/// What whoever is shown a record says to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It was applied.
    Continue,
    /// Blocks that it names are not what it says, so the log ends before it.
    EndsLog,
}

/// Where a record names the state that was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateNamed {
    /// In a part of the log that is known to be on disk.
    OnDisk,
    /// In the log, or behind a break in it, where what lay between was lost. The record was written
    /// once the state's slot was on disk, so that is; the record itself may be in the system's
    /// cache only.
    Somewhere,
    /// Nowhere: the slot, too, may be in the cache only.
    Nowhere,
}

/// Where a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayEnd {
    /// The end of the last good record.
    pub position: LogPosition,
    /// That record's crc field.
    pub chain: u32,
    /// The highest position known to be on disk.
    pub durable: LogPosition,
    /// The last state that a record named: epoch and generation.
    pub last_state_durable: Option<(Epoch, u64)>,
    /// True when that is the state that was replayed.
    pub state_is_recorded: bool,
    /// Whether that state's slot is known to be on disk.
    pub state_named: StateNamed,
    /// Where records lie behind the end, as after a crash. The writer erases them before it goes
    /// on.
    pub stale: Vec<LogPosition>,
}

impl ReplayEnd {
    /// As if nothing stood behind the cut.
    pub fn without_log(start: &ReplayStart) -> ReplayEnd {
        ReplayEnd {
            position: start.cut,
            chain: start.chain,
            durable: start.cut,
            last_state_durable: None,
            state_is_recorded: false,
            state_named: StateNamed::Nowhere,
            stale: Vec::new(),
        }
    }
}

/// Shows every record behind the cut to `visitor`, in order.
///
/// # Errors
/// `Corruption` when the log breaks before the highest position known to be on disk, when a record
/// names a later state as durable than the one that is replayed, or when a record with a right
/// checksum cannot be decoded; whatever `visitor` and the storage give.
pub fn replay(
    stream: &BlockStream,
    start: &ReplayStart,
    visitor: &mut dyn FnMut(&Record<'_>) -> Result<Visit>,
) -> Result<ReplayEnd> {
    replay_within(stream, start, visitor, CLAIMED_LAPS_MAX).map(|(end, _)| end)
}

/// The same with another bound in the place of [`CLAIMED_LAPS_MAX`]; says how many bytes it hashed.
pub(super) fn replay_within(
    stream: &BlockStream,
    start: &ReplayStart,
    visitor: &mut dyn FnMut(&Record<'_>) -> Result<Visit>,
    claimed_laps_max: u64,
) -> Result<(ReplayEnd, u64)> {
    let ring = Ring::new(&start.list, stream.usable_bytes())?;
    let aligned = start.cut.0.is_multiple_of(ALIGNMENT as u64);
    if !aligned || start.cut < ring.start_position() || start.cut > ring.end_position() {
        let detail = format!("the log's cut {} does not lie in its blocks", start.cut);
        return Err(Corruption::new(Structure::State, detail).into());
    }
    let mut replay = Replay {
        window: Window::new(stream, &ring, start.cut),
        claimed_laps_max,
        seed: start.seed,
        generation: start.generation,
        position: start.cut.0,
        chain: start.chain,
        sequence: start.sequence,
        durable: start.durable.0.max(start.cut.0),
        last_state_durable: None,
        recorded_until: 0,
        is_named_behind: false,
    };
    while replay.step(visitor)? {}
    replay.end()
}

struct Replay<'a> {
    window: Window<'a>,
    claimed_laps_max: u64,
    seed: u32,
    generation: u64,
    /// The end of the last good record.
    position: u64,
    chain: u32,
    sequence: SequenceNumber,
    /// The highest position that anything read so far says is on disk.
    durable: u64,
    last_state_durable: Option<(Epoch, u64)>,
    /// The end of the record that names that one.
    recorded_until: u64,
    /// A record behind the break names the state that is replayed.
    is_named_behind: bool,
}

impl Replay<'_> {
    /// Follows the chain by one record; false at a break.
    fn step(&mut self, visitor: &mut dyn FnMut(&Record<'_>) -> Result<Visit>) -> Result<bool> {
        let Some((header, bytes)) = self.window.record_at(self.position, self.seed)? else {
            return Ok(false);
        };
        if header.chain != self.chain || !header.may_follow(self.sequence) {
            return Ok(false);
        }
        let record = Record::decode(&header, bytes)?;
        if record.kind == RecordKind::StateDurable {
            let named = record.state_durable()?;
            if named.1 > self.generation {
                let detail = format!(
                    "generation {} can be read, but the log says that {} was durable",
                    self.generation, named.1
                );
                return Err(Corruption::new(Structure::State, detail).into());
            }
            self.last_state_durable = Some(named);
            self.recorded_until = record.end.0;
        }
        if record.kind != RecordKind::Padding && visitor(&record)? == Visit::EndsLog {
            return Ok(false);
        }
        if record.kind.is_commit() {
            self.sequence = record.sequence;
        }
        self.durable = self.durable.max(record.durable.0);
        self.position = record.end.0;
        self.chain = record.crc;
        Ok(true)
    }

    fn end(mut self) -> Result<(ReplayEnd, u64)> {
        let (stale, durable_behind) = self.records_behind()?;
        self.durable = self.durable.max(durable_behind);
        if self.durable > self.position {
            let (ring, known) = (self.window.ring, self.durable);
            let detail = format!(
                "no record follows at position {}, but up to {known} it was on disk",
                self.position
            );
            let mut damage = Corruption::new(Structure::Log, detail);
            if let Some((block, offset)) = ring.locate(LogPosition(self.position)) {
                damage = damage.at_page(self.window.stream.page_at(block, offset));
            }
            return Err(damage.into());
        }
        let is_recorded = self.last_state_durable.is_some_and(|(_, g)| g == self.generation);
        let end = ReplayEnd {
            position: LogPosition(self.position),
            chain: self.chain,
            durable: LogPosition(self.durable),
            last_state_durable: self.last_state_durable,
            state_is_recorded: is_recorded,
            state_named: match is_recorded {
                true if self.recorded_until <= self.durable => StateNamed::OnDisk,
                false if !self.is_named_behind => StateNamed::Nowhere,
                _ => StateNamed::Somewhere,
            },
            stale,
        };
        Ok((end, self.window.hashed_bytes))
    }

    /// Looks for records with a right checksum at or behind the break: where they are, and the
    /// highest position that they knew to be on disk.
    fn records_behind(&mut self) -> Result<(Vec<LogPosition>, u64)> {
        let (mut found, mut durable) = (Vec::new(), 0);
        let mut position = self.position;
        let left = self.window.left(position);
        let mut claims = Claims {
            stream: self.window.stream,
            ring: self.window.ring,
            budget: left.saturating_mul(self.claimed_laps_max),
            sums: None,
        };
        while let Some(candidate) = self.window.candidate_from(position)? {
            position = candidate + ALIGNMENT as u64;
            let Some(header) = self.window.header_at(candidate)? else {
                continue;
            };
            if !claims.are_worth_reading(&header, candidate, self.seed)? {
                continue;
            }
            if let Some((header, bytes)) = self.window.record_at(candidate, self.seed)? {
                let record = Record::decode(&header, bytes);
                let named = record.and_then(|record| record.state_named());
                self.is_named_behind |= named.is_ok_and(|named| named == Some(self.generation));
                found.push(LogPosition(candidate));
                durable = durable.max(header.durable.0);
                position = candidate + u64::from(header.length);
            }
        }
        self.window.hashed_bytes += claims.sums.map_or(0, |sums| sums.hashed_bytes());
        Ok((found, durable))
    }
}

/// Bounds what is spent on places that claim to be records.
struct Claims<'a> {
    stream: &'a BlockStream,
    ring: &'a Ring,
    /// How many bytes may still be hashed for claims that may be false.
    budget: u64,
    /// The sums from the first place on for which the budget was too small.
    sums: Option<PrefixSums<'a>>,
}

impl Claims<'_> {
    /// False when the record at `position` is known to be none. When the budget is spent, true
    /// only when it is one: then it may be read whole, as the search goes on behind it.
    fn are_worth_reading(&mut self, header: &RawHeader, position: u64, seed: u32) -> Result<bool> {
        let length = u64::from(header.length);
        match self.budget.checked_sub(length) {
            Some(rest) => {
                self.budget = rest;
                return Ok(true);
            }
            // Not for shorter ones either: from here on it is one way for all.
            None => self.budget = 0,
        }
        let sums = match &mut self.sums {
            Some(sums) => sums,
            none => none.insert(PrefixSums::new(self.stream, self.ring, LogPosition(position))?),
        };
        let from = LogPosition(position + CHECKED_FROM_BYTES as u64);
        let checksum = sums.checksum(seed, from, LogPosition(position + length))?;
        Ok(header.has_checksum(checksum))
    }
}

/// A stretch of the log in memory.
struct Window<'a> {
    stream: &'a BlockStream,
    ring: &'a Ring,
    start: u64,
    bytes: Vec<u8>,
    /// How much was hashed so far.
    hashed_bytes: u64,
}

impl<'a> Window<'a> {
    fn new(stream: &'a BlockStream, ring: &'a Ring, start: LogPosition) -> Window<'a> {
        Window { stream, ring, start: start.0, bytes: Vec::new(), hashed_bytes: 0 }
    }

    fn left(&self, position: u64) -> u64 {
        self.ring.available(LogPosition(position))
    }

    /// The bytes from `position` to where the window ends, at least `count`; `None` when the list
    /// ends before. `position` never falls below one that was asked for with a break between.
    fn fill(&mut self, position: u64, count: usize) -> Result<Option<&[u8]>> {
        if (count as u64) > self.left(position) {
            return Ok(None);
        }
        if position < self.start || position > self.start + self.bytes.len() as u64 {
            self.bytes.clear();
            self.start = position;
        }
        if position + count as u64 > self.start + self.bytes.len() as u64 {
            self.bytes.drain(..(position - self.start) as usize);
            self.start = position;
            while self.bytes.len() < count {
                self.read_piece()?;
            }
        }
        Ok(self.bytes.get((position - self.start) as usize..))
    }

    /// Reads on by a piece, so that memory grows only with what the file really holds.
    fn read_piece(&mut self) -> Result<()> {
        let held = self.bytes.len();
        let end = LogPosition(self.start + held as u64);
        let Some((block, offset, run)) = self.ring.run_at(end) else {
            return Err(
                Corruption::new(Structure::Log, format!("no block holds position {end}")).into()
            );
        };
        self.bytes.resize(held + run.min(PIECE_BYTES as u64) as usize, 0);
        let target = self.bytes.get_mut(held..).unwrap_or_default();
        let outcome = self.stream.read(block, offset, target);
        if outcome.is_err() {
            self.bytes.truncate(held);
        }
        outcome
    }

    fn header_at(&mut self, position: u64) -> Result<Option<RawHeader>> {
        let left = self.left(position);
        let header =
            self.fill(position, HEADER_BYTES)?.and_then(|bytes| RawHeader::read(bytes).ok());
        Ok(header.filter(|header| header.may_lie_at(LogPosition(position), left)))
    }

    /// The record at `position`, when there is one with right length, position and checksum.
    fn record_at(&mut self, position: u64, seed: u32) -> Result<Option<(RawHeader, &[u8])>> {
        let Some(header) = self.header_at(position)? else {
            return Ok(None);
        };
        let length = header.length as usize;
        self.hashed_bytes += length as u64;
        let bytes = self.fill(position, length)?.and_then(|bytes| bytes.get(..length));
        Ok(bytes.filter(|bytes| header.is_right_for(seed, bytes)).map(|bytes| (header, bytes)))
    }

    /// The first place from `position` on where a record's position field would be right.
    fn candidate_from(&mut self, mut position: u64) -> Result<Option<u64>> {
        loop {
            let Some(bytes) = self.fill(position, HEADER_BYTES)? else {
                return Ok(None);
            };
            let words = bytes.get(8..).unwrap_or_default().chunks_exact(8);
            let mut place = position;
            for word in words {
                if Some(place) == word.first_chunk().map(|word| u64::from_le_bytes(*word)) {
                    return Ok(Some(place));
                }
                place += ALIGNMENT as u64;
            }
            // Never back: at least four words fit behind the first one.
            position = place;
        }
    }
}
