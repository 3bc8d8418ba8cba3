//! Taking integers and runs of bytes from a slice that is not trusted, and putting them.
//!
//! *Assumes*: nothing of the input. *Guarantees*: no panic and no allocation; `None` when the input
//! ends too early or a varint is not in its shortest form. *Format*: section 1. *Threads*: none.

/// What is left of a slice that is being decoded.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Begins at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What has not been taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a varint.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte without bits would be a longer form of the same number.
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    /// Takes a varint length and that many bytes.
    pub fn run(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        self.take(length)
    }
}

/// Puts a varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Puts a varint length and the bytes.
pub fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_comes_back_and_no_prefix_of_it_parses(shift in 0u32..64, bits: u64) {
            let value = bits >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut input = Input::new(&bytes);
            prop_assert_eq!(input.varint(), Some(value));
            prop_assert!(input.is_empty());
            for end in 0..bytes.len() {
                prop_assert_eq!(Input::new(&bytes[..end]).varint(), None);
            }
        }
    }

    #[test]
    fn a_longer_form_and_a_number_over_64_bits_are_refused() {
        assert_eq!(Input::new(&[0]).varint(), Some(0));
        assert_eq!(Input::new(&[0x80, 0]).varint(), None);
        assert_eq!(Input::new(&[0xff, 0x80, 0]).varint(), None);
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(Input::new(&most).varint(), Some(u64::MAX));
        most[9] = 2;
        assert_eq!(Input::new(&most).varint(), None);
        assert_eq!(Input::new(&[0xff; 11]).varint(), None);
    }

    #[test]
    fn a_run_longer_than_the_input_is_refused() {
        assert_eq!(Input::new(&[2, 7, 8]).run(), Some(&[7u8, 8][..]));
        assert_eq!(Input::new(&[3, 7, 8]).run(), None);
        let mut huge = Vec::new();
        put_varint(&mut huge, u64::MAX);
        assert_eq!(Input::new(&huge).run(), None);
    }
}
