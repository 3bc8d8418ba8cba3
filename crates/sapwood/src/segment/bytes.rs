//! A bounded reader over bytes that are not trusted, and varints.
//!
//! *Guarantees*: nothing is read beyond the end; a varint that is not in its shortest form or does
//! not fit 64 bits is an error.
//!
//! *Format*: docs/format.md, section 1.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::BlockProblem;

const CUT_SHORT: BlockProblem = BlockProblem("a field goes beyond the end");
const BAD_VARINT: BlockProblem = BlockProblem("a varint is too long or not in its shortest form");

/// The number of bytes that `value` takes as a varint.
#[inline]
pub const fn varint_bytes(value: u64) -> usize {
    // Seven bits a byte; bit 0 always counts.
    ((value | 1).ilog2().saturating_add(7) / 7) as usize
}

/// Appends `value` as a varint.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// The bytes not read yet.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// True when everything has been read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], BlockProblem> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlockProblem> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, BlockProblem> {
        let (first, rest) = self.rest.split_first().ok_or(CUT_SHORT)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next two bytes as an integer.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, BlockProblem> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes as an integer.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, BlockProblem> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes as an integer.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, BlockProblem> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next varint.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, BlockProblem> {
        match self.rest.split_first() {
            Some((&first, rest)) if first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, BlockProblem> {
        let mut value = 0_u64;
        let mut shift = 0_u32;
        loop {
            let byte = self.u8()?;
            // The tenth byte holds bit 63 alone.
            if shift == 63 && byte > 1 {
                return Err(BAD_VARINT);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(BAD_VARINT) } else { Ok(value) };
            }
            shift = shift.saturating_add(7);
        }
    }

    /// The next varint, which must fit 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Result<u32, BlockProblem> {
        u32::try_from(self.varint()?).map_err(|_| BlockProblem("a number exceeds 32 bits"))
    }

    /// The next varint as a length of bytes that must follow.
    #[inline]
    pub fn varint_length(&mut self) -> Result<usize, BlockProblem> {
        usize::try_from(self.varint()?).map_err(|_| CUT_SHORT)
    }

    /// A varint length, then that many bytes.
    #[inline]
    pub fn length_prefixed(&mut self) -> Result<&'a [u8], BlockProblem> {
        let length = self.varint_length()?;
        self.bytes(length)
    }

    /// Fails unless everything has been read.
    #[inline]
    pub fn finish(self) -> Result<(), BlockProblem> {
        if self.rest.is_empty() { Ok(()) } else { Err(BlockProblem("bytes follow the last field")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_return_in_the_length_foretold(value: u64, shift in 0_u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
            for end in 0..out.len() {
                prop_assert!(Reader::new(&out[..end]).varint().is_err());
            }
        }
    }

    #[test]
    fn longer_forms_and_more_than_64_bits_are_refused() {
        let eleven = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        for bad in [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &eleven, &[0xff; 12]] {
            assert!(Reader::new(bad).varint().is_err(), "{bad:?}");
        }
        let mut two_to_the_64 = [0x80; 10];
        two_to_the_64[9] = 2;
        assert!(Reader::new(&two_to_the_64).varint().is_err());
    }
}
