//! Filters that say of most absent keys that they are absent: blocked Bloom filters, whose lines of 64
//! bytes each hold all bits of a key.
//!
//! *Guarantees*: a filter never denies a key that it was built from; the builder proves that before it
//! hands the filter out. A filter of a wrong length denies nothing.
//!
//! *Format*: docs/format.md, section 4.4.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use twox_hash::XxHash3_64;

use super::BlockProblem;
use crate::types::KeyspaceNumber;

/// The length of a line, in bytes.
pub const LINE_BYTES: usize = 64;

const LINE_BITS: u64 = 512;

/// The bits of a line that are set for each key.
const BITS_PER_PROBE: u32 = 6;

/// The hash of a bare key, computed once for a lookup and asked of every filter. `file_seed` is the
/// first word of the file's identity.
#[inline]
pub fn key_hash(file_seed: u64, keyspace: KeyspaceNumber, key: &[u8]) -> u64 {
    let of_keyspace = u64::from(keyspace.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    XxHash3_64::oneshot_with_seed(file_seed ^ of_keyspace, key)
}

/// A key's place in any filter of one segment.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    line: u32,
    bits: u64,
}

impl Probe {
    /// The place of the key with that hash, in a segment with that filter seed.
    #[inline]
    pub fn new(segment_seed: u64, hash: u64) -> Probe {
        let mixed = (hash ^ segment_seed).wrapping_mul(0x9fb2_1c65_1e98_df25);
        let mixed = mixed ^ (mixed >> 32);
        Probe {
            line: (mixed >> 32) as u32,
            bits: mixed.wrapping_mul(0xd6e8_feb8_6659_fd93),
        }
    }

    /// The index of the key's line among `line_count` lines.
    #[inline]
    pub fn line_index(self, line_count: u32) -> u32 {
        ((u64::from(self.line) * u64::from(line_count)) >> 32) as u32
    }

    #[inline]
    fn positions(self) -> impl Iterator<Item = (u64, u8)> {
        (0..BITS_PER_PROBE).map(move |i| {
            let bit = (self.bits >> (10 + 9 * i)) % LINE_BITS;
            (bit / 8, 1 << (bit % 8))
        })
    }

    /// False when the key is not among those of the line.
    #[inline]
    pub fn is_in(self, line: &[u8; LINE_BYTES]) -> bool {
        self.positions()
            .all(|(byte, mask)| line.get(byte as usize).is_none_or(|b| b & mask != 0))
    }

    #[inline]
    fn add_to(self, line: &mut [u8; LINE_BYTES]) {
        for (byte, mask) in self.positions() {
            if let Some(to) = line.get_mut(byte as usize) {
                *to |= mask;
            }
        }
    }
}

/// False when the key with that hash is certainly not among those that the filter was built from.
#[inline]
pub fn may_contain(lines: &[u8], segment_seed: u64, hash: u64) -> bool {
    let (lines, odd) = lines.as_chunks::<LINE_BYTES>();
    let probe = Probe::new(segment_seed, hash);
    let Ok(line_count) = u32::try_from(lines.len()) else {
        return true;
    };
    match lines.get(probe.line_index(line_count) as usize) {
        Some(line) if odd.is_empty() => probe.is_in(line),
        _ => true,
    }
}

/// The number of lines for `key_count` keys with `bits_per_key` bits each; at least one.
pub fn lines_for(key_count: u64, bits_per_key: u8) -> u32 {
    let lines = key_count
        .saturating_mul(u64::from(bits_per_key))
        .div_ceil(LINE_BITS)
        .max(1);
    u32::try_from(lines).unwrap_or(u32::MAX)
}

/// Collects the hashes of a filter's keys.
#[derive(Debug, Default)]
pub struct FilterBuilder {
    hashes: Vec<u64>,
}

impl FilterBuilder {
    /// A builder without keys.
    pub fn new() -> FilterBuilder {
        FilterBuilder::default()
    }

    /// Adds a key by its hash. Versions of one key that follow one another count once.
    pub fn push(&mut self, hash: u64) {
        if self.hashes.last() != Some(&hash) {
            self.hashes.push(hash);
        }
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// True when there are no keys.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Drops all keys, keeping the buffer.
    pub fn clear(&mut self) {
        self.hashes.clear();
    }

    /// Appends the filter of all keys to `out`; returns its number of lines. The keys stay.
    ///
    /// # Errors
    /// When the filter that was built denies one of its keys.
    pub fn build(
        &self,
        segment_seed: u64,
        bits_per_key: u8,
        out: &mut Vec<u8>,
    ) -> Result<u32, BlockProblem> {
        let line_count = lines_for(self.hashes.len() as u64, bits_per_key);
        build(&self.hashes, segment_seed, line_count, out)?;
        Ok(line_count)
    }
}

/// Appends a filter of `line_count` lines with the keys of those hashes to `out`.
///
/// # Errors
/// When the filter that was built denies one of its keys.
pub fn build(
    hashes: &[u64],
    segment_seed: u64,
    line_count: u32,
    out: &mut Vec<u8>,
) -> Result<(), BlockProblem> {
    let start = out.len();
    out.resize(start.saturating_add(line_count as usize * LINE_BYTES), 0);
    let filter = out.get_mut(start..).unwrap_or_default();
    let (lines, _) = filter.as_chunks_mut::<LINE_BYTES>();
    for hash in hashes {
        let probe = Probe::new(segment_seed, *hash);
        if let Some(line) = lines.get_mut(probe.line_index(line_count) as usize) {
            probe.add_to(line);
        }
    }
    let filter = out.get(start..).unwrap_or_default();
    if hashes
        .iter()
        .all(|hash| may_contain(filter, segment_seed, *hash))
    {
        Ok(())
    } else {
        Err(BlockProblem("a filter denies a key that it was built from"))
    }
}
