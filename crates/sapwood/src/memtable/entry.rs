//! How an entry's bytes lie in the arena: a header, the key, the value. In memory only.
//!
//! *Guarantees* that decoding any bytes gives an entry inside them or nothing, and never panics.

use super::{Operation, SequenceNumber};

/// Sequence number (8 bytes), key length (4), kind in the upper 2 bits and value length (4).
pub(super) const HEADER_BYTES: usize = 16;

const KIND_SHIFT: u32 = 30;
const VALUE_BYTES_MASK: u32 = (1 << KIND_SHIFT) - 1;
const KIND_PUT: u32 = 1;
const KIND_PUT_OVERFLOW: u32 = 2;
const KIND_DELETE: u32 = 3;

/// One version of a key, as it lies in the arena.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) sequence: SequenceNumber,
    pub(super) key: &'a [u8],
    value: &'a [u8],
    kind: u32,
}

impl<'a> Entry<'a> {
    /// The entry at the front of `bytes`.
    #[inline]
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (sequence, lengths) = header.split_first_chunk::<8>()?;
        let (key_bytes, value_word) = lengths.split_first_chunk::<4>()?;
        let value_word = u32::from_le_bytes(*value_word.first_chunk::<4>()?);
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_bytes) as usize)?;
        let value = rest.get(..(value_word & VALUE_BYTES_MASK) as usize)?;
        let sequence = SequenceNumber(u64::from_le_bytes(*sequence));
        Some(Entry { sequence, key, value, kind: value_word >> KIND_SHIFT })
    }

    pub(super) fn operation(&self) -> Operation<'a> {
        match self.kind {
            KIND_PUT => Operation::Put(self.value),
            KIND_PUT_OVERFLOW => Operation::PutOverflow(self.value),
            _ => Operation::Delete,
        }
    }
}

/// The header of an entry, and the bytes that follow its key.
pub(super) fn encode_header<'a>(
    key: &[u8],
    sequence: SequenceNumber,
    operation: Operation<'a>,
) -> ([u8; HEADER_BYTES], &'a [u8]) {
    let (kind, value) = match operation {
        Operation::Put(value) => (KIND_PUT, value),
        Operation::PutOverflow(value) => (KIND_PUT_OVERFLOW, value),
        Operation::Delete => (KIND_DELETE, [].as_slice()),
    };
    assert!(
        key.len() <= VALUE_BYTES_MASK as usize && value.len() <= VALUE_BYTES_MASK as usize,
        "a key or value this long belongs elsewhere"
    );
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&sequence.0.to_le_bytes());
    header[8..12].copy_from_slice(&(key.len() as u32).to_le_bytes());
    header[12..].copy_from_slice(&(kind << KIND_SHIFT | value.len() as u32).to_le_bytes());
    (header, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(key: &[u8], sequence: u64, operation: Operation<'_>) -> Vec<u8> {
        let (header, value) = encode_header(key, SequenceNumber(sequence), operation);
        [&header, key, value].concat()
    }

    #[test]
    fn entries_come_back_as_they_went_in_and_no_truncation_gives_one() {
        let operations = [
            Operation::Put(b"value"),
            Operation::Put(b""),
            Operation::PutOverflow(b"reference"),
            Operation::Delete,
        ];
        for operation in operations {
            for key in [b"".as_slice(), b"key"] {
                let bytes = encode(key, 77, operation);
                let entry = Entry::decode(&bytes).unwrap();
                assert_eq!(entry.sequence, SequenceNumber(77));
                assert_eq!((entry.key, entry.operation()), (key, operation));
                for length in 0..bytes.len() {
                    assert!(Entry::decode(&bytes[..length]).is_none());
                }
            }
        }
    }
}
