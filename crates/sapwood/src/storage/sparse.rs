//! A growable array of bytes in chunks, the content of the storages that are not files.
//!
//! *Assumes*: that lengths were checked by `storage::end_of`.
//! *Guarantees*: what was never written reads as zero and takes no memory. A clone shares chunks
//! until one side writes to them, so it costs a reference for each chunk.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::collections::BTreeMap;
use std::io;

use crate::sync::Arc;

/// Bytes in chunks of `CHUNK`.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseBytes<const CHUNK: usize> {
    /// By the chunk's number. A missing one is all zeros; bytes behind `length` are zeros.
    chunks: BTreeMap<u64, Arc<[u8; CHUNK]>>,
    length: u64,
}

/// A part of a range that lies in one chunk.
struct Piece {
    chunk: u64,
    start: usize,
    length: usize,
}

/// Cuts `length` bytes at `offset` into pieces, in order.
fn pieces(chunk_bytes: usize, offset: u64, length: u64) -> impl Iterator<Item = Piece> {
    let chunk_bytes = chunk_bytes as u64;
    let (mut at, end) = (offset, offset.saturating_add(length));
    std::iter::from_fn(move || {
        let start = at % chunk_bytes;
        let length = (chunk_bytes - start).min(end - at);
        let chunk = at / chunk_bytes;
        at += length;
        // Both are at most `chunk_bytes`, which was a usize.
        (length > 0).then_some(Piece { chunk, start: start as usize, length: length as usize })
    })
}

impl<const CHUNK: usize> SparseBytes<CHUNK> {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `offset`.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = super::end_of(offset, buffer.len() as u64)?;
        if end > self.length && !buffer.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{} bytes at offset {offset} asked for, the file has {}",
                    buffer.len(),
                    self.length
                ),
            ));
        }
        let mut rest = buffer;
        for piece in pieces(CHUNK, offset, rest.len() as u64) {
            let (part, others) = rest.split_at_mut(piece.length);
            rest = others;
            let chunk = self.chunks.get(&piece.chunk);
            match chunk.and_then(|chunk| chunk.get(piece.start..piece.start + piece.length)) {
                Some(from) => part.copy_from_slice(from),
                None => part.fill(0),
            }
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`, growing where needed.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in pieces(CHUNK, offset, bytes.len() as u64) {
            let (part, others) = rest.split_at(piece.length);
            rest = others;
            let chunk = self.chunks.entry(piece.chunk).or_insert_with(|| Arc::new([0; CHUNK]));
            let range = piece.start..piece.start + piece.length;
            if let Some(to) = Arc::make_mut(chunk).get_mut(range) {
                to.copy_from_slice(part);
            }
        }
        if !bytes.is_empty() {
            self.length = self.length.max(offset + bytes.len() as u64);
        }
    }

    /// Makes what of the range lies before the end zero, and gives whole chunks back.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.length);
        self.clear(offset, end.saturating_sub(offset));
    }

    /// Cuts, or extends with zeros.
    pub(super) fn set_length(&mut self, length: u64) {
        if length < self.length {
            self.clear(length, self.length - length);
        }
        self.length = length;
    }

    /// The bytes as one array.
    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or(0)];
        // The whole is always inside.
        let _ = self.read(0, &mut bytes);
        bytes
    }

    fn clear(&mut self, offset: u64, length: u64) {
        let Some(end) = offset.checked_add(length).filter(|_| length > 0) else {
            return;
        };
        // Only chunks that exist are visited: the range may be a large hole.
        let (first, last) = (offset / CHUNK as u64, (end - 1) / CHUNK as u64);
        let mut emptied = Vec::new();
        for (&number, chunk) in self.chunks.range_mut(first..=last) {
            let start = number * CHUNK as u64;
            let (from, to) = (offset.max(start) - start, end.min(start + CHUNK as u64) - start);
            if from == 0 && to == CHUNK as u64 {
                emptied.push(number);
            } else if let Some(part) = Arc::make_mut(chunk).get_mut(from as usize..to as usize) {
                part.fill(0);
            }
        }
        for number in emptied {
            self.chunks.remove(&number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Zero(u64, u64),
        SetLength(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u64..100, prop::collection::vec(1_u8.., 0..60))
                .prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
            1 => (0_u64..120, 0_u64..60).prop_map(|(o, l)| Step::Zero(o, l)),
            1 => (0_u64..160).prop_map(Step::SetLength),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_one_array(steps in prop::collection::vec(step(), 1..40)) {
            let mut model: Vec<u8> = Vec::new();
            let mut sparse = SparseBytes::<16>::default();
            for step in steps {
                let earlier = (sparse.clone(), model.clone());
                match step {
                    Step::Write(offset, bytes) => {
                        sparse.write(offset, &bytes);
                        let end = offset as usize + bytes.len();
                        if !bytes.is_empty() {
                            model.resize(model.len().max(end), 0);
                            model[offset as usize..end].copy_from_slice(&bytes);
                        }
                    }
                    Step::Zero(offset, length) => {
                        sparse.zero(offset, length);
                        let end = model.len().min((offset + length) as usize);
                        if (offset as usize) < end {
                            model[offset as usize..end].fill(0);
                        }
                    }
                    Step::SetLength(length) => {
                        sparse.set_length(length);
                        model.resize(length as usize, 0);
                    }
                }
                prop_assert_eq!(sparse.length(), model.len() as u64);
                prop_assert_eq!(&sparse.to_vec(), &model);
                prop_assert_eq!(earlier.0.to_vec(), earlier.1, "a clone changed");
            }
        }

        #[test]
        fn reads_any_part(offset in 0_u64..100, length in 0_usize..100) {
            let bytes: Vec<u8> = (0..100).collect();
            let mut sparse = SparseBytes::<16>::default();
            sparse.write(0, &bytes);
            let mut buffer = vec![0xff; length];
            let result = sparse.read(offset, &mut buffer);
            if length == 0 {
                prop_assert!(result.is_ok());
            } else if offset as usize + length <= 100 {
                prop_assert!(result.is_ok());
                prop_assert_eq!(&buffer, &bytes[offset as usize..offset as usize + length]);
            } else {
                prop_assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            }
        }
    }

    #[test]
    fn holes_take_no_memory() {
        let mut sparse = SparseBytes::<16>::default();
        sparse.set_length(1 << 60);
        sparse.write(1 << 50, b"far");
        assert_eq!(sparse.chunks.len(), 1);
        sparse.zero(0, 1 << 60);
        assert!(sparse.chunks.is_empty());
        assert_eq!(sparse.length(), 1 << 60);
    }
}
