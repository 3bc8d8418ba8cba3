//! A bounded reader that says what it was reading when the bytes are wrong.

use crate::codec::{Read, Reader};
use crate::error::{Corruption, Error, Structure};
use crate::page::block::PAGES_MAX;
use crate::page::{Block, NodeRef, RegionEntry};
use crate::segment::COMPOSITE_KEY_BYTES_MAX;
use crate::types::KeyspaceNumber;

/// What is wrong with an encoded state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem(pub(super) String);

pub(super) type Parsed<T> = Result<T, Problem>;

impl Problem {
    pub(super) fn into_error(self) -> Error {
        Corruption::new(Structure::State, self.0).into()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Input<'a> {
    reader: Reader<'a>,
    /// How many bytes there were at the start.
    total_bytes: usize,
    /// Pages from here on are not in the file.
    page_count: u64,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8], page_count: u64) -> Input<'a> {
        Input::over(Reader::new(bytes), page_count)
    }

    pub(super) fn over(reader: Reader<'a>, page_count: u64) -> Input<'a> {
        let total_bytes = reader.remaining();
        Input { reader, total_bytes, page_count: page_count.min(PAGES_MAX) }
    }

    pub(super) fn into_reader(self) -> Reader<'a> {
        self.reader
    }

    pub(super) fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    pub(super) fn end(&self, what: &str) -> Parsed<()> {
        match self.reader.remaining() {
            0 => Ok(()),
            left => Err(Problem(format!("{left} bytes follow {what}"))),
        }
    }

    /// What `read` takes, or what could not be read, where and why.
    fn take<T>(&mut self, what: &str, read: impl FnOnce(&mut Reader<'a>) -> Read<T>) -> Parsed<T> {
        let at = self.total_bytes.saturating_sub(self.reader.remaining());
        read(&mut self.reader).map_err(|why| Problem(format!("{what} at byte {at}: {why}")))
    }

    pub(super) fn u8(&mut self, what: &str) -> Parsed<u8> {
        self.take(what, Reader::u8)
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self, what: &str) -> Parsed<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Problem(format!("{what} is {other}, neither 0 nor 1"))),
        }
    }

    pub(super) fn u32(&mut self, what: &str) -> Parsed<u32> {
        self.take(what, Reader::u32)
    }

    pub(super) fn u64(&mut self, what: &str) -> Parsed<u64> {
        self.take(what, Reader::u64)
    }

    pub(super) fn varint(&mut self, what: &str) -> Parsed<u64> {
        self.take(what, Reader::varint)
    }

    pub(super) fn varint_u32(&mut self, what: &str) -> Parsed<u32> {
        self.take(what, Reader::varint_u32)
    }

    /// A varint count of things of at least `least_bytes` each, of which so many can be left.
    pub(super) fn count(&mut self, what: &str, least_bytes: usize) -> Parsed<usize> {
        self.take(what, |reader| reader.varint_count(least_bytes))
    }

    /// A varint length and that many bytes.
    pub(super) fn bytes(&mut self, what: &str) -> Parsed<&'a [u8]> {
        self.take(what, Reader::length_prefixed)
    }

    /// A key, composite or bare.
    pub(super) fn key(&mut self, what: &str) -> Parsed<Vec<u8>> {
        let key = self.bytes(what)?;
        if key.len() > COMPOSITE_KEY_BYTES_MAX {
            return Err(Problem(format!("{what} has {} bytes, too long for a key", key.len())));
        }
        Ok(key.to_vec())
    }

    /// Whether pages from `first` to before `end` can be in the file.
    pub(super) fn check_pages(&self, what: &str, first: u64, end: u64) -> Parsed<()> {
        if end <= self.page_count {
            return Ok(());
        }
        let count = self.page_count;
        Err(Problem(format!(
            "{what} reaches from page {first} to {end} in a file of {count} pages"
        )))
    }

    pub(super) fn node(&mut self, what: &str) -> Parsed<NodeRef> {
        let node = self.take(what, NodeRef::decode)?;
        self.check_pages(what, node.page.0, node.block().end().0)?;
        Ok(node)
    }

    pub(super) fn block(&mut self, what: &str) -> Parsed<Block> {
        let block = self.take(what, Block::decode)?;
        self.check_pages(what, block.first.0, block.end().0)?;
        Ok(block)
    }

    pub(super) fn region(&mut self, what: &str) -> Parsed<RegionEntry> {
        self.take(what, RegionEntry::decode)
    }

    /// A keyspace's number, which must be above the last one.
    pub(super) fn keyspace_after(
        &mut self,
        last: &mut Option<KeyspaceNumber>,
    ) -> Parsed<KeyspaceNumber> {
        let number = KeyspaceNumber(self.varint_u32("a keyspace's number")?);
        if number == KeyspaceNumber::MANY {
            return Err(Problem(format!("{number} is no keyspace's number")));
        }
        match last.replace(number) {
            Some(last) if last >= number => {
                Err(Problem(format!("keyspace {number} follows keyspace {last}")))
            }
            _ => Ok(number),
        }
    }
}
