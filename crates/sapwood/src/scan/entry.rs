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
            Ahead::Overflow(reference) => size_of_val(&**reference),
        };
        self.key.boxed_bytes() + value
    }

    /// What it counts for in a batch.
    pub(super) fn bytes(&self) -> usize {
        let value = match &self.value {
            Ahead::Value(value) => value.len(),
            Ahead::Overflow(_) => 0,
        };
        self.key.len() + value
    }
}
