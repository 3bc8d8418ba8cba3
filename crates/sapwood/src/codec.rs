//! Varints, and a bounded reader over bytes that are not trusted: what every decoder begins with.
//!
//! *Assumes*: nothing of the bytes. *Guarantees*: no read goes beyond the bytes given, none panics
//! or allocates; a varint has one form only. *Format*: `docs/format.md` section 1. *Threads*: none.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::fmt;

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadProblem {
    /// The bytes end inside it.
    CutShort,
    /// A varint is above 64 bits or not in its shortest form.
    BadVarint,
    /// Its value is none that can be.
    OutOfRange,
    /// Bytes follow what should be the last field.
    NotAtEnd,
}

impl ReadProblem {
    /// The problem in words.
    pub const fn text(self) -> &'static str {
        match self {
            ReadProblem::CutShort => "a field goes beyond the end",
            ReadProblem::BadVarint => "a varint is too long or not in its shortest form",
            ReadProblem::OutOfRange => "a field is out of range",
            ReadProblem::NotAtEnd => "bytes follow the last field",
        }
    }
}

impl fmt::Display for ReadProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What reading gives.
pub type Read<T> = Result<T, ReadProblem>;

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

/// Appends a varint length and the bytes.
#[inline]
pub fn put_length_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes fields from the front of a slice. After a problem it stands anywhere.
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

    /// The number of bytes not read yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// True when everything has been read.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(ReadProblem::CutShort)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(ReadProblem::CutShort)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// The next byte.
    #[inline]
    pub fn u8(&mut self) -> Read<u8> {
        let (first, rest) = self.rest.split_first().ok_or(ReadProblem::CutShort)?;
        self.rest = rest;
        Ok(*first)
    }

    /// The next two bytes as an integer.
    #[inline]
    pub fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes as an integer.
    #[inline]
    pub fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes as an integer.
    #[inline]
    pub fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next varint.
    #[inline]
    pub fn varint(&mut self) -> Read<u64> {
        match self.rest.split_first() {
            Some((&first, rest)) if first < 0x80 => {
                self.rest = rest;
                Ok(u64::from(first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Read<u64> {
        let mut value = 0_u64;
        let mut shift = 0_u32;
        loop {
            let byte = self.u8()?;
            // The tenth byte holds bit 63 alone.
            if shift == 63 && byte > 1 {
                return Err(ReadProblem::BadVarint);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // A last byte without bits would be a longer form of the same number.
                return if byte == 0 && shift > 0 {
                    Err(ReadProblem::BadVarint)
                } else {
                    Ok(value)
                };
            }
            shift = shift.saturating_add(7);
        }
    }

    /// The next varint, which must fit 32 bits.
    #[inline]
    pub fn varint_u32(&mut self) -> Read<u32> {
        u32::try_from(self.varint()?).map_err(|_| ReadProblem::OutOfRange)
    }

    /// The next varint as a length in bytes; whether so many follow is seen when they are taken.
    #[inline]
    pub fn varint_length(&mut self) -> Read<usize> {
        usize::try_from(self.varint()?).map_err(|_| ReadProblem::CutShort)
    }

    /// A varint length, then that many bytes.
    #[inline]
    pub fn length_prefixed(&mut self) -> Read<&'a [u8]> {
        let length = self.varint_length()?;
        self.bytes(length)
    }

    /// A varint count of things that take at least `least_bytes` each: a problem when so many
    /// cannot be left, so that the count may size an allocation.
    pub fn varint_count(&mut self, least_bytes: usize) -> Read<usize> {
        let count = self.varint_length()?;
        let most = self.rest.len().checked_div(least_bytes).unwrap_or(self.rest.len());
        if count <= most { Ok(count) } else { Err(ReadProblem::CutShort) }
    }

    /// Fails unless everything has been read.
    #[inline]
    pub fn finish(self) -> Read<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(ReadProblem::NotAtEnd) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back_in_the_length_foretold_and_no_truncation_does(
            value: u64, shift in 0_u32..64,
        ) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
            for end in 0..out.len() {
                let cut = Reader::new(&out[..end]).varint();
                prop_assert_eq!(cut, Err(ReadProblem::CutShort));
            }
        }

        #[test]
        fn whatever_is_read_is_in_its_shortest_form(
            bytes in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.remaining()]);
            }
        }
    }

    #[test]
    fn longer_forms_and_more_than_64_bits_are_refused() {
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(Reader::new(&most).varint(), Ok(u64::MAX));
        let mut two_to_the_64 = [0x80; 10];
        two_to_the_64[9] = 2;
        let eleven = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x00];
        for bad in
            [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &eleven, &[0xff; 12], &two_to_the_64[..]]
        {
            assert_eq!(Reader::new(bad).varint(), Err(ReadProblem::BadVarint), "{bad:?}");
        }
    }

    #[test]
    fn counts_and_lengths_never_exceed_what_is_left() {
        assert_eq!(Reader::new(&[3, 1, 2]).length_prefixed(), Err(ReadProblem::CutShort));
        assert_eq!(Reader::new(&[2, 1, 2]).length_prefixed(), Ok(&[1u8, 2][..]));
        assert_eq!(Reader::new(&[2, 1, 2, 3]).varint_count(2), Err(ReadProblem::CutShort));
        assert_eq!(Reader::new(&[1, 1, 2, 3]).varint_count(2), Ok(1));
        assert_eq!(Reader::new(&[0xff, 0xff, 0x7f]).varint_u32(), Ok(0x1f_ffff));
        let mut reader = Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x10]);
        assert_eq!(reader.varint_u32(), Err(ReadProblem::OutOfRange));
    }
}
