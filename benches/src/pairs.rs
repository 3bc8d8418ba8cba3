//! The data: keys of 16 bytes, values of 100 bytes of which half can be compressed away.
//!
//! Pair `i` of a database has the key `mix(2 i)`, 8 bytes big-endian, followed by 8 bytes that are
//! mixed from it. `mix` is a bijection, so no two pairs share a key, and the keys `mix(2 i + 1)`
//! are all absent and lie between the present ones. A value is 50 bytes from a generator seeded by
//! its key, twice: the way in which LevelDB's `db_bench` makes values with a ratio of one half.

pub const KEY_BYTES: usize = 16;
pub const VALUE_BYTES: usize = 100;
const VALUE_FRESH_BYTES: usize = 50;

pub type Key = [u8; KEY_BYTES];
pub type Value = [u8; VALUE_BYTES];

/// The finalizer of SplitMix64: a bijection of the 64-bit numbers.
pub const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// SplitMix64: small, fast, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `limit`, which is not 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        ((self.next() as u128 * limit as u128) >> 64) as u64
    }
}

/// The number from which the key of pair `pair_index` is made; rising numbers make rising keys.
pub const fn present(pair_index: u64) -> u64 {
    mix(2 * pair_index)
}

/// The number from which a key is made that is in no database.
pub const fn absent(index: u64) -> u64 {
    mix(2 * index + 1)
}

pub fn key(number: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&number.to_be_bytes());
    tail.copy_from_slice(&mix(number ^ 0x5a5a_5a5a_5a5a_5a5a).to_be_bytes());
    key
}

pub fn value(number: u64) -> Value {
    let mut random = Random::new(number);
    let mut value = [0; VALUE_BYTES];
    let (fresh, copy) = value.split_at_mut(VALUE_FRESH_BYTES);
    for part in fresh.chunks_mut(8) {
        part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
    }
    copy.copy_from_slice(fresh);
    value
}

/// What a scan adds up: every byte of a key or a value.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

/// The sum of all bytes of all keys and values of a database with `pair_count` pairs.
pub fn sum_of_all(pair_count: u64) -> u64 {
    (0..pair_count).map(present).map(|number| sum(&key(number)) + sum(&value(number))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_their_numbers() {
        assert!(key(1) < key(2));
        assert!(key(255) < key(256));
    }

    #[test]
    fn present_and_absent_keys_differ() {
        let mut numbers: Vec<u64> = (0..10_000).flat_map(|i| [present(i), absent(i)]).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 20_000);
    }

    #[test]
    fn the_second_half_of_a_value_repeats_the_first() {
        let value = value(7);
        assert_eq!(value[..50], value[50..]);
        assert!(value[..50].iter().any(|&byte| byte != value[0]));
    }

    #[test]
    fn numbers_below_a_limit_reach_all_of_them() {
        let mut random = Random::new(1);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[usize::try_from(random.below(10)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 10]);
    }
}
