//! Integers, checksums and filters, written from docs/format.md. Slices may panic: the input is
//! right.

/// 1: CRC-32 as in zlib, going on from `start`.
pub fn crc(start: u32, bytes: &[u8]) -> u32 {
    let mut sum = !start;
    for &byte in bytes {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(sum & 1));
        }
    }
    !sum
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Reads forwards.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        head
    }
    pub fn u8(&mut self) -> u8 {
        self.bytes(1)[0]
    }
    pub fn u16(&mut self) -> u16 {
        u16_at(self.bytes(2), 0)
    }
    pub fn u32(&mut self) -> u32 {
        u32_at(self.bytes(4), 0)
    }
    pub fn u64(&mut self) -> u64 {
        u64_at(self.bytes(8), 0)
    }
    pub fn varint(&mut self) -> u64 {
        let (mut number, mut shift) = (0u64, 0);
        loop {
            let byte = self.u8();
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                assert!(byte != 0 || shift == 0, "a varint longer than it must be");
                return number;
            }
            shift += 7;
        }
    }
    pub fn sized(&mut self) -> &'a [u8] {
        let length = self.varint() as usize;
        self.bytes(length)
    }
    pub fn blocks(&mut self) -> Vec<(u64, u64)> {
        let count = self.varint();
        (0..count).map(|_| (self.varint(), self.varint())).collect()
    }
}

/// 4.4: whether the lines of a filter say that a key may be there.
pub fn filter_has(lines: &[u8], identity: u64, seed: u64, keyspace: u32, key: &[u8]) -> bool {
    let file_seed = identity ^ u64::from(keyspace).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = twox_hash::XxHash3_64::oneshot_with_seed(file_seed, key);
    let h = (hash ^ seed).wrapping_mul(0x9fb2_1c65_1e98_df25);
    let h = h ^ (h >> 32);
    let line = (((h >> 32) * (lines.len() as u64 / 64)) >> 32) as usize;
    let g = h.wrapping_mul(0xd6e8_feb8_6659_fd93);
    (0..6).all(|i| {
        let bit = ((g >> (10 + 9 * i)) % 512) as usize;
        lines[line * 64 + bit / 8] & 1 << (bit % 8) != 0
    })
}
