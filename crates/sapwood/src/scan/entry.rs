//! What a walk hands out: a key, and a value that may lie elsewhere still.
//!
//! *Guarantees*: short values are copies; longer ones hold their leaf's frame, and those in blocks
//! of their own are read when they are asked for.

use super::Merged;
use crate::bytes::{Key, Value};
use crate::error::{Error, Result, Structure};
use crate::segment::leaf_run::LiveEntry;
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::sorted_block::EntryKind;
use crate::state::lookup::COPY_BYTES_MAX;

/// The value of an entry that was read ahead.
#[derive(Clone, Debug)]
pub(crate) enum Ahead {
    Value(Value),
    /// It is read when it is asked for.
    // Rare, and large.
    Overflow(Box<OverflowReference>),
}

impl Ahead {
    fn overflow(reference: &[u8]) -> Result<Ahead> {
        let reference = OverflowReference::decode(reference);
        let reference = reference.map_err(|p| Error::from(p.corruption(Structure::Overflow)))?;
        Ok(Ahead::Overflow(Box::new(reference)))
    }

    /// The value's length, in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Ahead::Value(value) => value.len() as u64,
            Ahead::Overflow(reference) => reference.length,
        }
    }
}

/// An entry that was read ahead.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: Key,
    pub value: Ahead,
}

impl Entry {
    pub(super) fn copy(cursor: &Merged, keys_only: bool) -> Result<Entry> {
        let value = match cursor.kind() {
            _ if keys_only => Ahead::Value(Value::default()),
            EntryKind::PutOverflow => Ahead::overflow(cursor.value())?,
            _ => match cursor.value_frame() {
                Some((frame, range)) if range.len() > COPY_BYTES_MAX => {
                    Ahead::Value(Value::from_frame(frame.clone(), range))
                }
                _ => Ahead::Value(Value::from(cursor.value())),
            },
        };
        Ok(Entry { key: Key::from(cursor.key()), value })
    }

    #[inline]
    pub(super) fn from_run(live: &LiveEntry<'_>, keys_only: bool) -> Result<Entry> {
        let bytes = live.entry.value;
        let value = if keys_only {
            Ahead::Value(Value::default())
        } else if live.entry.kind == EntryKind::PutOverflow {
            Ahead::overflow(bytes)?
        } else if bytes.len() > COPY_BYTES_MAX {
            let (frame, range) = live.value_frame();
            Ahead::Value(Value::from_frame(frame.clone(), range))
        } else {
            Ahead::Value(Value::from(bytes))
        };
        Ok(Entry { key: live.with_key_pieces(Key::join), value })
    }

    /// Memory beside its own size, in bytes.
    pub(super) fn boxed_bytes(&self) -> usize {
        let value = match &self.value {
            Ahead::Value(value) => value.boxed_bytes(),
            Ahead::Overflow(reference) => memory_of(reference),
        };
        self.key.boxed_bytes() + value
    }

    /// What it counts for in a batch.
    pub(super) fn bytes(&self) -> usize {
        let value = match &self.value {
            Ahead::Value(value) => value.len(),
            // The value is not here, but the blocks that it lies in may be many.
            Ahead::Overflow(reference) => memory_of(reference),
        };
        self.key.len() + value
    }
}

fn memory_of(reference: &OverflowReference) -> usize {
    size_of_val(reference) + size_of_val(&*reference.blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Block;
    use crate::types::PageNumber;

    /// They counted for nothing, so that a batch of keys without bytes had no end.
    #[test]
    fn values_in_blocks_of_their_own_count_with_what_names_them() {
        let blocks = vec![Block::new(PageNumber(9), 1); 1000];
        let reference = OverflowReference { blocks, ..OverflowReference::default() };
        let value = Ahead::Overflow(Box::new(reference));
        let entry = Entry { key: Key::from(&b""[..]), value };
        assert!(entry.bytes() >= 1000 * size_of::<Block>());
        assert!(entry.boxed_bytes() >= 1000 * size_of::<Block>());
    }
}
