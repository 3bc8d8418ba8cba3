//! Checksums of any stretch of the log, for a price that does not depend on its length.
//!
//! What lies behind a break of the log may have been made to look like records, each of which
//! claims to be as long as the log. To compute all their checksums takes a time that grows with
//! the square of its length. CRC is linear: the sum of a stretch follows from the sums of what
//! lies before its two ends, and the first of them moved by its length (`crc32_combine` by Mark
//! Adler, in zlib, explains it). So one pass keeps the sums up to places at a fixed distance, and
//! a stretch costs what lies between such a place and each of its ends.
//!
//! *Assumes*: nothing writes to the log meanwhile; if something does, sums are wrong, no more.
//! *Guarantees*: the same number as [`super::record`] computes. Memory grows with what the file
//! holds: four bytes for each KiB, [`SUMS_COUNT_MAX`] of them at most, and two stretches of a KiB.
//! A sum reads and hashes two such stretches at most and multiplies some sixty polynomials of 32
//! bits; a log of more than a GiB has longer ones. *Threads*: the one that opens the database.

use crc32fast::Hasher;

use crate::error::{Corruption, Result, Structure};
use crate::types::LogPosition;

use super::ring::Ring;
use super::stream::BlockStream;

/// The distance from one sum that is kept to the next, unless there were too many: in bytes.
pub const SPACING_BYTES_MIN: u64 = 1024;
/// How many sums are kept at most: 4 MiB, and as much again while there may be more to come.
pub const SUMS_COUNT_MAX: u64 = 1 << 20;
/// How much the pass reads in one call, in bytes.
const PIECE_BYTES: u64 = 64 * 1024;

/// The sums up to places in a log, from one place to its end.
pub struct PrefixSums<'a> {
    log: Log<'a>,
    start: u64,
    spacing: u64,
    /// The sum of what lies between the start and each multiple of the spacing behind it.
    sums: Vec<u32>,
    /// What was read last for the beginning of a stretch, and for an end.
    at_start: Stretch,
    at_end: Stretch,
    hashed_bytes: u64,
}

/// What lies between two places with sums.
#[derive(Default)]
struct Stretch {
    index: Option<usize>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Log<'a> {
    stream: &'a BlockStream,
    ring: &'a Ring,
}

impl<'a> PrefixSums<'a> {
    /// Reads the log from `start` to its end.
    ///
    /// # Errors
    /// What the storage gives, and `Corruption` where it ends before the log does.
    pub fn new(stream: &'a BlockStream, ring: &'a Ring, start: LogPosition) -> Result<Self> {
        let left = ring.available(start);
        let spacing = left.div_ceil(SUMS_COUNT_MAX).next_power_of_two().max(SPACING_BYTES_MIN);
        PrefixSums::with_spacing(Log { stream, ring }, start.0, spacing)
    }

    fn with_spacing(log: Log<'a>, start: u64, spacing: u64) -> Result<Self> {
        let end = log.ring.end_position().0;
        let (mut sums, mut hasher) = (vec![0], Hasher::new());
        let (mut position, mut bytes) = (start, Vec::new());
        let mut next = start.saturating_add(spacing);
        // Nothing is reserved: a list may name more than the file holds.
        while position < end {
            let count = (end - position).min(next - position).min(PIECE_BYTES);
            log.read(position, count, &mut bytes)?;
            hasher.update(&bytes);
            position += count;
            if position == next {
                sums.push(hasher.clone().finalize());
                next = next.saturating_add(spacing);
            }
        }
        let hashed_bytes = end.saturating_sub(start);
        let (at_start, at_end) = (Stretch::default(), Stretch::default());
        Ok(PrefixSums { log, start, spacing, sums, at_start, at_end, hashed_bytes })
    }

    /// The checksum of what lies between two positions that are not before the start, nor behind
    /// the end of the log, when it starts from `seed`.
    ///
    /// # Errors
    /// What the storage gives, and `Corruption` for other positions.
    pub fn checksum(&mut self, seed: u32, from: LogPosition, to: LogPosition) -> Result<u32> {
        let before = self.sum_to(from, false)?;
        let whole = self.sum_to(to, true)?;
        let Some(length) = to.0.checked_sub(from.0) else {
            return Err(outside(to));
        };
        // sum(to) is sum(from), moved, and the stretch's own; and a sum that starts from a seed is
        // the seed, moved, and the sum that starts from nothing.
        Ok(moved(seed ^ before, length) ^ whole)
    }

    /// How much was hashed so far.
    pub fn hashed_bytes(&self) -> u64 {
        self.hashed_bytes
    }

    /// The sum of what lies between the start and `position`.
    fn sum_to(&mut self, position: LogPosition, is_end: bool) -> Result<u32> {
        let behind = position.0.checked_sub(self.start).ok_or_else(|| outside(position))?;
        let index = (behind / self.spacing) as usize;
        let sum = *self.sums.get(index).ok_or_else(|| outside(position))?;
        // Ends leap, and beginnings go forward only, so that those read each stretch once.
        let stretch = if is_end { &mut self.at_end } else { &mut self.at_start };
        if stretch.index != Some(index) {
            let from = position.0 - behind % self.spacing;
            let count = self.spacing.min(self.log.ring.available(LogPosition(from)));
            stretch.index = None;
            self.log.read(from, count, &mut stretch.bytes)?;
            stretch.index = Some(index);
        }
        let part = stretch.bytes.get(..(behind % self.spacing) as usize);
        let part = part.ok_or_else(|| outside(position))?;
        self.hashed_bytes += part.len() as u64;
        let mut hasher = Hasher::new_with_initial(sum);
        hasher.update(part);
        Ok(hasher.finalize())
    }
}

impl Log<'_> {
    /// Fills `bytes` with `count` bytes of the log, which may lie in several blocks.
    fn read(&self, position: u64, count: u64, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.resize(count as usize, 0);
        let (mut position, mut rest) = (position, &mut bytes[..]);
        while !rest.is_empty() {
            let place = LogPosition(position);
            let (block, offset, run) = self.ring.run_at(place).ok_or_else(|| outside(place))?;
            let count = run.min(rest.len() as u64);
            let Some((part, behind)) = rest.split_at_mut_checked(count as usize) else {
                return Err(outside(place));
            };
            self.stream.read(block, offset, part)?;
            rest = behind;
            position += count;
        }
        Ok(())
    }
}

/// What a checksum becomes when `count` zeros follow, as far as it comes from what was before them.
fn moved(checksum: u32, count: u64) -> u32 {
    let mut hasher = Hasher::new_with_initial(checksum);
    hasher.combine(&Hasher::new_with_initial_len(0, count));
    hasher.finalize()
}

fn outside(position: LogPosition) -> crate::error::Error {
    Corruption::new(Structure::Log, format!("no sum is known up to position {position}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::ring::RingList;
    use crate::log::tests::storage::TestStorage;
    use crate::page::Block;
    use crate::sync::Arc;
    use crate::types::PageNumber;
    use proptest::prelude::*;

    const PAGE: u32 = 512;

    /// A file of nothing but noise, the log in it, and the log's bytes one after the other.
    fn noise(sizes: &[u32], usable: u32, start: u64) -> (BlockStream, Ring, Vec<u8>) {
        let mut blocks = Vec::new();
        let mut place = 1;
        // Later blocks lie before earlier ones, with holes between.
        for &pages in sizes.iter().rev() {
            blocks.insert(0, Block { first: PageNumber(place), pages });
            place += u64::from(pages) + 1;
        }
        let mut state = 7u32;
        let mut bytes = Vec::new();
        bytes.resize_with((place * u64::from(PAGE)) as usize, || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let mut log = Vec::new();
        for block in &blocks {
            for page in block.first.0..block.first.0 + u64::from(block.pages) {
                let at = (page * u64::from(PAGE)) as usize;
                log.extend_from_slice(&bytes[at..at + usable as usize]);
            }
        }
        let stream = BlockStream::new(TestStorage::holding(bytes), PAGE, usable);
        let list = RingList { start: LogPosition(start), blocks };
        let ring = Ring::new(&list, u64::from(usable)).unwrap();
        (stream, ring, log)
    }

    fn direct(seed: u32, bytes: &[u8]) -> u32 {
        let mut hasher = Hasher::new_with_initial(seed);
        hasher.update(bytes);
        hasher.finalize()
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_bytes(
            sizes in prop::collection::vec(1u32..12, 1..6),
            reserves in any::<bool>(),
            start in 0u64..1_000,
            skip_part in 0usize..1_000,
            spacing in prop_oneof![Just(1u64), 2u64..40, 500u64..600, Just(1_024), Just(1 << 40)],
            stretches in prop::collection::vec((any::<u32>(), 0usize..=1_000, 0usize..=1_000), 20),
            seed in any::<u32>(),
        ) {
            let start = start * 8;
            let usable = if reserves { PAGE - 16 } else { PAGE };
            let (stream, ring, bytes) = noise(&sizes, usable, start);
            let skipped = bytes.len() * skip_part / 1_000;
            let first = start + skipped as u64;
            let bytes = &bytes[skipped..];
            let log = Log { stream: &stream, ring: &ring };
            let mut sums = PrefixSums::with_spacing(log, first, spacing).unwrap();
            let ends = [(seed, 0, 0), (seed, 0, 1_000), (seed, 1_000, 1_000)];
            for (seed, one, other) in stretches.into_iter().chain(ends) {
                let (one, other) = (bytes.len() * one / 1_000, bytes.len() * other / 1_000);
                let (from, to) = (one.min(other), one.max(other));
                let place = |offset: usize| LogPosition(first + offset as u64);
                let sum = sums.checksum(seed, place(from), place(to)).unwrap();
                prop_assert_eq!(sum, direct(seed, &bytes[from..to]), "{} to {}", from, to);
            }
        }
    }

    #[test]
    fn every_stretch_of_a_small_log_has_its_sum() {
        let (stream, ring, bytes) = noise(&[1, 2], PAGE - 16, 64);
        for spacing in [1, 7, 8, 496, 1_024, 5_000] {
            let log = Log { stream: &stream, ring: &ring };
            let mut sums = PrefixSums::with_spacing(log, 64, spacing).unwrap();
            for from in (0..=bytes.len()).step_by(31) {
                for to in (from..=bytes.len()).step_by(17).chain([from, bytes.len()]) {
                    let place = |offset: usize| LogPosition(64 + offset as u64);
                    let sum = sums.checksum(5, place(from), place(to)).unwrap();
                    assert_eq!(sum, direct(5, &bytes[from..to]), "{from} to {to} by {spacing}");
                }
            }
        }
    }

    #[test]
    fn other_positions_and_files_that_are_too_short_are_errors() {
        let (stream, ring, bytes) = noise(&[3, 1], PAGE, 64);
        let end = 64 + bytes.len() as u64;
        let mut sums = PrefixSums::new(&stream, &ring, LogPosition(72)).unwrap();
        let mut sum = |from, to| sums.checksum(0, LogPosition(from), LogPosition(to));
        assert!(sum(72, end).is_ok());
        assert!(sum(71, end).unwrap_err().is_corruption());
        assert!(sum(72, end + 1).unwrap_err().is_corruption());
        assert!(sum(72, u64::MAX).unwrap_err().is_corruption());
        assert!(sum(80, 79).unwrap_err().is_corruption());
        let blocks = vec![Block { first: PageNumber(1), pages: u32::MAX }];
        let ring = Ring::new(&RingList { start: LogPosition(0), blocks }, u64::from(PAGE)).unwrap();
        let short = Arc::clone(stream.storage());
        let stream = BlockStream::new(short, PAGE, PAGE);
        let error = PrefixSums::new(&stream, &ring, LogPosition(0)).err().unwrap();
        assert!(error.is_corruption(), "{error}");
    }
}
