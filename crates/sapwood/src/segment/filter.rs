//! Filters that say of most absent keys that they are absent: blocked Bloom filters, whose lines of
//! 64 bytes each hold all bits of a key.
//!
//! *Guarantees*: a filter never denies a key that it was built from; the builder proves that before
//! it hands the filter out. A filter of a wrong length denies nothing.
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
        Probe { line: (mixed >> 32) as u32, bits: mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) }
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
        self.positions().all(|(byte, mask)| line.get(byte as usize).is_none_or(|b| b & mask != 0))
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
    let lines = key_count.saturating_mul(u64::from(bits_per_key)).div_ceil(LINE_BITS).max(1);
    u32::try_from(lines).unwrap_or(u32::MAX)
}

/// A filter that is filled key by key, when their number is known beforehand.
#[derive(Debug)]
pub struct FilterLines {
    lines: Vec<u8>,
    segment_seed: u64,
}

impl FilterLines {
    /// A filter without keys.
    pub fn new(segment_seed: u64, line_count: u32) -> FilterLines {
        FilterLines { lines: vec![0; line_count as usize * LINE_BYTES], segment_seed }
    }

    /// Adds a key by its hash.
    pub fn add(&mut self, hash: u64) {
        let (lines, _) = self.lines.as_chunks_mut::<LINE_BYTES>();
        let probe = Probe::new(self.segment_seed, hash);
        let line_count = u32::try_from(lines.len()).unwrap_or(u32::MAX);
        if let Some(line) = lines.get_mut(probe.line_index(line_count) as usize) {
            probe.add_to(line);
        }
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<u8> {
        self.lines
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
    if hashes.iter().all(|hash| may_contain(filter, segment_seed, *hash)) {
        Ok(())
    } else {
        Err(BlockProblem("a filter denies a key that it was built from"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_key_of_the_filter_is_denied(
            keys in vec(vec(any::<u8>(), 0..30), 1..300), file_seed: u64, segment_seed: u64,
            keyspace: u32, bits_per_key in 0_u8..20,
        ) {
            let hash = |key: &Vec<u8>| key_hash(file_seed, KeyspaceNumber(keyspace), key);
            let hashes: Vec<u64> = keys.iter().map(hash).collect();
            let mut lines = b"before".to_vec();
            let line_count = lines_for(hashes.len() as u64, bits_per_key);
            build(&hashes, segment_seed, line_count, &mut lines).unwrap();
            prop_assert_eq!(lines.len() - 6, line_count as usize * LINE_BYTES);
            for key in &keys {
                prop_assert!(may_contain(&lines[6..], segment_seed, hash(key)));
            }
            let mut filled = FilterLines::new(segment_seed, line_count);
            keys.iter().for_each(|key| filled.add(hash(key)));
            prop_assert_eq!(&filled.into_lines(), &lines[6..]);
        }

        /// Section 4.4 of the format, written down once more, with wider arithmetic.
        #[test]
        fn the_bits_are_those_of_the_format(hash: u64, seed: u64, line_count in 1_u32..50) {
            let modulus = 1_u128 << 64;
            let h = u128::from(hash ^ seed) * 0x9fb2_1c65_1e98_df25 % modulus;
            let h = h ^ (h >> 32);
            let line = ((h >> 32) * u128::from(line_count)) >> 32;
            let g = h * 0xd6e8_feb8_6659_fd93 % modulus;
            let mut expected = vec![0_u8; line_count as usize * 64];
            for i in 0..6 {
                let bit = (g >> (10 + 9 * i)) % 512;
                expected[line as usize * 64 + bit as usize / 8] |= 1 << (bit % 8);
            }
            let mut built = Vec::new();
            build(&[hash], seed, line_count, &mut built).unwrap();
            prop_assert_eq!(built, expected);
        }
    }

    #[test]
    fn few_absent_keys_pass_at_ten_bits_a_key() {
        const PROBES: u64 = 100_000;
        let hash = |n: u64| key_hash(11, KeyspaceNumber(3), &n.to_be_bytes());
        // One filter of many lines, as in young segments; and many of few, as beside leaves.
        for (filters, keys) in [(1, 20_000), (200, 130)] {
            let mut passed = 0;
            for filter in 0..filters {
                let hashes: Vec<u64> = (0..keys).map(|n| hash(filter << 32 | n)).collect();
                let mut lines = Vec::new();
                build(&hashes, filter, lines_for(keys, 10), &mut lines).unwrap();
                passed += (0..PROBES / filters)
                    .filter(|n| may_contain(&lines, filter, hash(1 << 60 | filter << 32 | n)))
                    .count();
            }
            let rate = passed as f64 / PROBES as f64;
            assert!(rate < 0.015, "{rate} of absent keys pass with {keys} keys a filter");
            assert!(rate > 0.001, "{rate} is too good to be true");
        }
    }

    #[test]
    fn a_filter_of_a_wrong_length_denies_nothing() {
        for length in [0, 1, 63, 65, 100] {
            assert!((0..100).all(|hash| may_contain(&vec![0; length], 1, hash)));
        }
        assert!(!may_contain(&[0; 64], 1, 1));
    }

    #[test]
    fn another_keyspace_file_or_segment_gives_other_bits() {
        let hash = key_hash(1, KeyspaceNumber(1), b"key");
        assert_ne!(hash, key_hash(1, KeyspaceNumber(2), b"key"));
        assert_ne!(hash, key_hash(2, KeyspaceNumber(1), b"key"));
        assert_ne!(Probe::new(1, hash).bits, Probe::new(2, hash).bits);
    }
}
