//! Variable-length integers, and a reader over bytes that are not trusted.
//!
//! *Guarantees*: no read goes beyond the bytes given; a varint has one form only.
//! *Format*: `docs/format.md` section 1.

/// The most bytes that a varint takes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as unsigned LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes `value` takes.
pub fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Takes bytes from the front of a slice; each read is `None` when they do not suffice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    /// A reader over all of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, total: bytes.len() }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*taken)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next varint; `None` also when it is not in its shortest form or above 64 bits.
    pub fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for byte_index in 0..VARINT_BYTES_MAX {
            let byte = *self.rest.get(byte_index)?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * byte_index as u32;
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && byte_index > 0 {
                    return None;
                }
                self.rest = self.rest.get(byte_index + 1..)?;
                return Some(value);
            }
        }
        None
    }

    /// The next varint, when it fits 32 bits.
    pub fn varint_u32(&mut self) -> Option<u32> {
        self.varint().and_then(|value| u32::try_from(value).ok())
    }

    /// The next varint as a length: `None` when fewer bytes than that are left behind it.
    pub fn varint_len(&mut self) -> Option<usize> {
        let length = usize::try_from(self.varint()?).ok()?;
        (length <= self.rest.len()).then_some(length)
    }

    /// A varint length and that many bytes.
    pub fn varint_bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.varint_len()?;
        self.bytes(length)
    }

    /// A varint count of things that take at least `least_bytes` each: `None` when so many cannot
    /// be left, so that the count may size an allocation.
    pub fn varint_count(&mut self, least_bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.rest.len() / least_bytes.max(1)).then_some(count)
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// How many bytes have been taken.
    pub fn position(&self) -> usize {
        self.total - self.rest.len()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// `None` when anything is left.
    pub fn expect_end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back_and_no_truncation_does(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varint_len(value));
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Some(value));
            prop_assert_eq!(reader.expect_end(), Some(()));
            for length in 0..bytes.len() {
                prop_assert_eq!(Reader::new(&bytes[..length]).varint(), None);
            }
        }

        #[test]
        fn whatever_is_read_is_in_its_shortest_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new(&bytes);
            if let Some(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..reader.position()]);
            }
        }
    }

    #[test]
    fn long_forms_and_overflow_are_refused() {
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), None);
        assert_eq!(Reader::new(&[0xff, 0x80, 0x00]).varint(), None);
        let mut most = vec![0xff; 9];
        most.push(1);
        assert_eq!(Reader::new(&most).varint(), Some(u64::MAX));
        most[9] = 2;
        assert_eq!(Reader::new(&most).varint(), None);
        most[9] = 0x81;
        most.push(0);
        assert_eq!(Reader::new(&most).varint(), None);
    }

    #[test]
    fn counts_and_lengths_never_exceed_what_is_left() {
        assert_eq!(Reader::new(&[3, 1, 2]).varint_bytes(), None);
        assert_eq!(Reader::new(&[2, 1, 2]).varint_bytes(), Some(&[1u8, 2][..]));
        assert_eq!(Reader::new(&[2, 1, 2, 3]).varint_count(2), None);
        assert_eq!(Reader::new(&[1, 1, 2, 3]).varint_count(2), Some(1));
    }
}
