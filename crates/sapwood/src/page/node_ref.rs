//! How one node names another: where it lies, and what it must say of itself.
//!
//! *Format*: `docs/format.md` section 3, as references stand in the state.

use crate::codec::{Read, ReadProblem, Reader, put_varint};
use crate::types::PageNumber;

use super::block::{Block, PAGES_MAX};

/// Where a node lies, with its write stamp and checksum: 64 bits that a lost, stale or misdirected
/// write does not meet by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeRef {
    /// The first page.
    pub page: PageNumber,
    /// How many pages.
    pub pages: u32,
    /// The write stamp.
    pub stamp: u32,
    /// The checksum.
    pub checksum: u32,
}

impl NodeRef {
    /// The fewest bytes that an encoded reference takes.
    pub const ENCODED_BYTES_MIN: usize = 10;

    /// The node's pages.
    pub const fn block(&self) -> Block {
        Block { first: self.page, pages: self.pages }
    }

    /// Appends the reference as it stands in the state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.page.0);
        put_varint(out, u64::from(self.pages));
        out.extend_from_slice(&self.stamp.to_le_bytes());
        out.extend_from_slice(&self.checksum.to_le_bytes());
    }

    /// Takes a reference from the reader. Whether it lies in the file is asked when it is read.
    pub fn decode(reader: &mut Reader<'_>) -> Read<NodeRef> {
        let page = PageNumber(reader.varint()?);
        let pages = reader.varint_u32()?;
        let (stamp, checksum) = (reader.u32()?, reader.u32()?);
        let reference = NodeRef { page, pages, stamp, checksum };
        if pages == 0 || reference.block().end().0 > PAGES_MAX {
            return Err(ReadProblem::OutOfRange);
        }
        Ok(reference)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn references_come_back_and_no_truncation_does(
            page in 0u64..1 << 47, pages in 1u32.., stamp: u32, checksum: u32,
        ) {
            let reference = NodeRef { page: PageNumber(page), pages, stamp, checksum };
            let mut bytes = Vec::new();
            reference.encode(&mut bytes);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(NodeRef::decode(&mut reader), Ok(reference));
            prop_assert_eq!(reader.finish(), Ok(()));
            for length in 0..bytes.len() {
                prop_assert!(NodeRef::decode(&mut Reader::new(&bytes[..length])).is_err());
            }
        }
    }

    #[test]
    fn empty_and_impossible_references_are_refused() {
        for (page, pages) in [(5, 0), (1 << 48, 1), (u64::MAX, 2)] {
            let mut bytes = Vec::new();
            NodeRef { page: PageNumber(page), pages, stamp: 1, checksum: 2 }.encode(&mut bytes);
            let refused = NodeRef::decode(&mut Reader::new(&bytes));
            assert_eq!(refused, Err(ReadProblem::OutOfRange));
        }
    }
}
