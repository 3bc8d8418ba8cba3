//! Bytes for targets where nobody else brings any.

/// Xorshift: the same bytes on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Bytes that follow from `seed`.
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        // Below a `usize`.
        (self.next() % limit as u64) as usize
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }
}

/// Bytes as a target likes them: parsers few and small ones, histories many.
pub fn bytes_for(target: &str, random: &mut Random) -> Vec<u8> {
    let free = matches!(target, "changed_file" | "history");
    let length_max = match target {
        "history" => 600,
        "changed_file" => 16,
        "header_slot" | "node" | "log" => 400,
        _ => 64,
    };
    let length = random.below(length_max);
    (0..length)
        .map(|_| if free { random.byte() } else { [0, 1, 2, 255, random.byte()][random.below(5)] })
        .collect()
}
