//! Random numbers from a seed, so that whatever a test drew can be drawn again.
//!
//! The generator is xoshiro256++ (Blackman and Vigna, "Scrambled linear pseudorandom number
//! generators", 2021), its state filled by SplitMix64 (Steele, Lea and Flood, "Fast splittable
//! pseudorandom number generators", 2014). Good for tests, salts and jitter; not for secrets.
//!
//! *Assumes*: nothing.
//! *Guarantees*: the same seed gives the same numbers on every platform and in every version.

use std::hash::{BuildHasher, RandomState};

/// A generator of random numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub fn from_seed(seed: u64) -> Random {
        let mut splitmix = seed;
        // SplitMix64 never gives four zeros in a row, the one state that xoshiro cannot leave.
        Random { state: std::array::from_fn(|_| next_splitmix(&mut splitmix)) }
    }

    /// A sequence that differs from run to run and from call to call.
    #[must_use]
    pub fn from_entropy() -> Random {
        // std seeds each hasher's keys from the operating system, and changes them with each call.
        Random::from_seed(RandomState::new().hash_one(0x5361_7077_6f6f_6421_u64))
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A number from 0 to `limit - 1`, each as likely as the others; 0 when `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            return 0;
        }
        // Lemire's method ("Fast random integer generation in an interval", 2019): the upper half
        // of draw * limit is the number; the few lower halves that would favour some are refused.
        let refused_below = limit.wrapping_neg() % limit;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(limit);
            if product as u64 >= refused_below {
                return (product >> 64) as u64;
            }
        }
    }

    /// True once in `n` draws, on average.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let draw = self.next_u64().to_le_bytes();
            for (to, from) in chunk.iter_mut().zip(draw) {
                *to = from;
            }
        }
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

fn next_splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_published_numbers() {
        let mut state = 1_234_567;
        let drawn: Vec<u64> = (0..3).map(|_| next_splitmix(&mut state)).collect();
        assert_eq!(
            drawn,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn xoshiro_gives_the_published_numbers() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let drawn: Vec<u64> = (0..4).map(|_| random.next_u64()).collect();
        assert_eq!(drawn, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn same_seed_gives_the_same_numbers_and_another_seed_others() {
        let draw = |seed| {
            let mut random = Random::from_seed(seed);
            (0..20).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn entropy_differs_from_call_to_call() {
        assert_ne!(Random::from_entropy().next_u64(), Random::from_entropy().next_u64());
    }

    #[test]
    fn below_stays_below_and_reaches_every_number_evenly() {
        let mut random = Random::from_seed(1);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
        assert_eq!(random.below(0), 0);
        assert_eq!(random.below(1), 0);
        for _ in 0..100 {
            assert!(random.below(u64::MAX) < u64::MAX);
        }
    }

    #[test]
    fn fill_reaches_every_byte_of_every_length() {
        let mut random = Random::from_seed(2);
        for length in 0..40 {
            let mut union = vec![0_u8; length];
            for _ in 0..20 {
                let mut bytes = vec![0; length];
                random.fill(&mut bytes);
                union.iter_mut().zip(bytes).for_each(|(all, byte)| *all |= byte);
            }
            assert!(union.iter().all(|&byte| byte != 0), "length {length}");
        }
    }

    #[test]
    fn shuffle_keeps_the_items_and_changes_their_order() {
        let mut random = Random::from_seed(3);
        let mut items: Vec<u32> = (0..50).collect();
        random.shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
