//! What a commit does, as its record carries it.
//!
//! *Assumes*: keys are within their limit; keyspace options and overflow references are bytes that
//! their own modules encode. *Guarantees*: operations come back in the order in which they were
//! put; a payload is decoded to its last byte or gives an error. *Format*: section 5. *Threads*:
//! none.

use crate::codec::{Read, ReadProblem, Reader, put_length_prefixed, put_varint};
use crate::error::{Corruption, Error, Result, Structure};
use crate::segment::KEY_BYTES_MAX;
use crate::types::KeyspaceNumber;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const PUT_OVERFLOW: u8 = 3;
const DELETE_RANGE: u8 = 4;
const CREATE_KEYSPACE: u8 = 5;
const DROP_KEYSPACE: u8 = 6;
const RENAME_KEYSPACE: u8 = 7;

/// One operation of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOperation<'a> {
    /// A pair.
    Put {
        /// Where.
        keyspace: KeyspaceNumber,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// A point tombstone.
    Delete {
        /// Where.
        keyspace: KeyspaceNumber,
        /// The key.
        key: &'a [u8],
    },
    /// A pair whose value lies in blocks of its own.
    PutOverflow {
        /// Where.
        keyspace: KeyspaceNumber,
        /// The key.
        key: &'a [u8],
        /// The encoded reference.
        reference: &'a [u8],
    },
    /// A range tombstone.
    DeleteRange {
        /// Where.
        keyspace: KeyspaceNumber,
        /// The first key covered.
        start: &'a [u8],
        /// The first key behind it that is not covered; none: to the keyspace's end.
        end: Option<&'a [u8]>,
    },
    /// A new keyspace.
    CreateKeyspace {
        /// Its number.
        keyspace: KeyspaceNumber,
        /// Its name.
        name: &'a str,
        /// Its encoded options.
        options: &'a [u8],
    },
    /// The end of a keyspace.
    DropKeyspace {
        /// Its number.
        keyspace: KeyspaceNumber,
    },
    /// Another name for a keyspace.
    RenameKeyspace {
        /// Its number.
        keyspace: KeyspaceNumber,
        /// Its new name.
        name: &'a str,
    },
}

/// Collects the operations of one commit. It can be cleared and used again.
#[derive(Clone, Debug, Default)]
pub struct CommitEncoder {
    operations: Vec<u8>,
    count: u64,
    has_data: bool,
    longest_put: usize,
}

impl CommitEncoder {
    /// An encoder without operations.
    pub fn new() -> CommitEncoder {
        CommitEncoder::default()
    }

    /// Forgets the operations, keeps the memory.
    pub fn clear(&mut self) {
        self.operations.clear();
        self.count = 0;
        self.has_data = false;
        self.longest_put = 0;
    }

    /// How many operations there are.
    pub fn operation_count(&self) -> u64 {
        self.count
    }

    /// True when a pair, or a new keyspace, is among them.
    pub fn has_data(&self) -> bool {
        self.has_data
    }

    /// The size of the operations so far, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        self.operations.len()
    }

    /// The bytes of the longest pair, but for values that lie in blocks of their own.
    pub fn longest_put(&self) -> usize {
        self.longest_put
    }

    /// How much memory they take.
    pub fn memory_bytes(&self) -> usize {
        self.operations.capacity()
    }

    /// Appends a pair.
    pub fn put(&mut self, keyspace: KeyspaceNumber, key: &[u8], value: &[u8]) {
        self.has_data = true;
        self.longest_put = self.longest_put.max(key.len() + value.len());
        self.begin(PUT, keyspace);
        put_length_prefixed(&mut self.operations, key);
        put_length_prefixed(&mut self.operations, value);
    }

    /// Appends a point tombstone.
    pub fn delete(&mut self, keyspace: KeyspaceNumber, key: &[u8]) {
        self.begin(DELETE, keyspace);
        put_length_prefixed(&mut self.operations, key);
    }

    /// Appends a pair whose value lies in blocks of its own.
    pub fn put_overflow(&mut self, keyspace: KeyspaceNumber, key: &[u8], reference: &[u8]) {
        self.has_data = true;
        self.begin(PUT_OVERFLOW, keyspace);
        put_length_prefixed(&mut self.operations, key);
        put_length_prefixed(&mut self.operations, reference);
    }

    /// Appends a range tombstone; without `end` it reaches to the keyspace's end.
    pub fn delete_range(&mut self, keyspace: KeyspaceNumber, start: &[u8], end: Option<&[u8]>) {
        self.begin(DELETE_RANGE, keyspace);
        put_length_prefixed(&mut self.operations, start);
        self.operations.push(u8::from(end.is_some()));
        if let Some(end) = end {
            put_length_prefixed(&mut self.operations, end);
        }
    }

    /// Appends the creation of a keyspace, with its encoded options.
    pub fn create_keyspace(&mut self, keyspace: KeyspaceNumber, name: &str, options: &[u8]) {
        self.has_data = true;
        self.begin(CREATE_KEYSPACE, keyspace);
        put_length_prefixed(&mut self.operations, name.as_bytes());
        put_length_prefixed(&mut self.operations, options);
    }

    /// Appends the end of a keyspace.
    pub fn drop_keyspace(&mut self, keyspace: KeyspaceNumber) {
        self.begin(DROP_KEYSPACE, keyspace);
    }

    /// Appends another name for a keyspace.
    pub fn rename_keyspace(&mut self, keyspace: KeyspaceNumber, name: &str) {
        self.begin(RENAME_KEYSPACE, keyspace);
        put_length_prefixed(&mut self.operations, name.as_bytes());
    }

    fn begin(&mut self, kind: u8, keyspace: KeyspaceNumber) {
        self.count += 1;
        self.operations.push(kind);
        put_varint(&mut self.operations, u64::from(keyspace.0));
    }

    /// The number of operations, which goes before them.
    pub fn encoded_count(&self) -> Vec<u8> {
        let mut count = Vec::with_capacity(10);
        put_varint(&mut count, self.count);
        count
    }

    /// The operations, without time and number.
    pub fn encoded_operations(&self) -> &[u8] {
        &self.operations
    }

    /// The operations, read back.
    pub fn operations(&self) -> Operations<'_> {
        Operations { input: Reader::new(&self.operations), left: self.count, failed: false }
    }

    /// What goes before the operations in the payload of a commit at `commit_time` (milliseconds
    /// since 1970). The payload is this and then [`CommitEncoder::encoded_operations`].
    pub fn head(&self, commit_time: u64) -> Vec<u8> {
        let mut head = Vec::with_capacity(18);
        head.extend_from_slice(&commit_time.to_le_bytes());
        put_varint(&mut head, self.count);
        head
    }
}

/// The operations of a commit's payload, in their order.
pub fn operations(payload: &[u8]) -> Result<Operations<'_>> {
    let mut input = Reader::new(payload);
    input.u64().map_err(|_| damaged("commit time"))?;
    Operations::new(input.rest())
}

/// An iterator over operations. Fused: an error is its last item.
#[derive(Clone, Debug)]
pub struct Operations<'a> {
    input: Reader<'a>,
    left: u64,
    failed: bool,
}

impl<'a> Operations<'a> {
    /// Begins at the number of operations (behind the segments of a commit by reference, say).
    pub fn new(bytes: &'a [u8]) -> Result<Operations<'a>> {
        let mut input = Reader::new(bytes);
        let left = input.varint().map_err(|_| damaged("number of operations"))?;
        Ok(Operations { input, left, failed: false })
    }

    fn take(&mut self) -> Read<LogOperation<'a>> {
        let input = &mut self.input;
        let kind = input.u8()?;
        let keyspace = KeyspaceNumber(input.varint_u32()?);
        if keyspace == KeyspaceNumber::MANY {
            return Err(ReadProblem::OutOfRange);
        }
        Ok(match kind {
            PUT => {
                LogOperation::Put { keyspace, key: key(input)?, value: input.length_prefixed()? }
            }
            DELETE => LogOperation::Delete { keyspace, key: key(input)? },
            PUT_OVERFLOW => LogOperation::PutOverflow {
                keyspace,
                key: key(input)?,
                reference: input.length_prefixed()?,
            },
            DELETE_RANGE => {
                let start = key(input)?;
                let end = match input.u8()? {
                    0 => None,
                    1 => Some(key(input)?),
                    _ => return Err(ReadProblem::OutOfRange),
                };
                LogOperation::DeleteRange { keyspace, start, end }
            }
            CREATE_KEYSPACE => LogOperation::CreateKeyspace {
                keyspace,
                name: name(input)?,
                options: input.length_prefixed()?,
            },
            DROP_KEYSPACE => LogOperation::DropKeyspace { keyspace },
            RENAME_KEYSPACE => LogOperation::RenameKeyspace { keyspace, name: name(input)? },
            _ => return Err(ReadProblem::OutOfRange),
        })
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<LogOperation<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.left == 0 {
            self.failed = true;
            return (!self.input.is_empty()).then(|| Err(damaged("end of the operations")));
        }
        self.left -= 1;
        let operation = self.take().map_err(|_| damaged("operation"));
        self.failed = operation.is_err();
        Some(operation)
    }
}

impl std::iter::FusedIterator for Operations<'_> {}

fn key<'a>(input: &mut Reader<'a>) -> Read<&'a [u8]> {
    let key = input.length_prefixed()?;
    if key.len() > KEY_BYTES_MAX { Err(ReadProblem::OutOfRange) } else { Ok(key) }
}

fn name<'a>(input: &mut Reader<'a>) -> Read<&'a str> {
    std::str::from_utf8(input.length_prefixed()?).map_err(|_| ReadProblem::OutOfRange)
}

fn damaged(what: &str) -> Error {
    Corruption::new(Structure::Log, format!("a commit's {what} cannot be decoded")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> CommitEncoder {
        let (first, second) = (KeyspaceNumber(0), KeyspaceNumber(300));
        let mut encoder = CommitEncoder::new();
        encoder.put(first, b"key", b"value");
        encoder.delete(second, b"");
        encoder.put_overflow(first, b"large", b"reference");
        encoder.delete_range(second, b"a", Some(b"b"));
        encoder.delete_range(second, b"c", None);
        encoder.create_keyspace(second, "name", b"options");
        encoder.drop_keyspace(first);
        encoder.rename_keyspace(second, "other");
        encoder
    }

    fn payload(encoder: &CommitEncoder) -> Vec<u8> {
        [&encoder.head(5)[..], encoder.encoded_operations()].concat()
    }

    #[test]
    fn every_operation_comes_back_in_order() {
        let payload = payload(&example());
        let found = operations(&payload).unwrap().collect::<Result<Vec<_>>>().unwrap();
        let (first, second) = (KeyspaceNumber(0), KeyspaceNumber(300));
        let expected = [
            LogOperation::Put { keyspace: first, key: b"key", value: b"value" },
            LogOperation::Delete { keyspace: second, key: b"" },
            LogOperation::PutOverflow { keyspace: first, key: b"large", reference: b"reference" },
            LogOperation::DeleteRange { keyspace: second, start: b"a", end: Some(b"b") },
            LogOperation::DeleteRange { keyspace: second, start: b"c", end: None },
            LogOperation::CreateKeyspace { keyspace: second, name: "name", options: b"options" },
            LogOperation::DropKeyspace { keyspace: first },
            LogOperation::RenameKeyspace { keyspace: second, name: "other" },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn every_truncation_and_every_byte_too_many_is_an_error_and_the_last_item() {
        let whole = payload(&example());
        let mut longer = whole.clone();
        longer.push(0);
        let cut = (0..whole.len()).map(|end| whole[..end].to_vec());
        for bytes in cut.chain([longer]) {
            let Ok(mut found) = operations(&bytes) else {
                continue;
            };
            assert!(found.by_ref().any(|operation| operation.is_err()), "{} bytes", bytes.len());
            assert!(found.next().is_none());
        }
    }

    #[test]
    fn flipped_bits_never_panic_and_never_read_past_the_end() {
        let whole = payload(&example());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = operations(&bytes) {
                assert!(found.count() <= whole.len());
            }
        }
    }

    #[test]
    fn keyspace_numbers_that_mean_none_and_keys_too_long_are_refused() {
        let one = |fill: &dyn Fn(&mut CommitEncoder)| {
            let mut encoder = CommitEncoder::new();
            fill(&mut encoder);
            operations(&payload(&encoder)).unwrap().all(|operation| operation.is_ok())
        };
        assert!(one(&|encoder| encoder.delete(KeyspaceNumber(1), &[0; KEY_BYTES_MAX])));
        assert!(!one(&|encoder| encoder.delete(KeyspaceNumber(1), &[0; KEY_BYTES_MAX + 1])));
        assert!(!one(&|encoder| encoder.drop_keyspace(KeyspaceNumber::MANY)));
    }
}
