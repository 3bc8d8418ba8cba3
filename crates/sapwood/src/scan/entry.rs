//! What a walk hands out: a key, and a value that may lie elsewhere still.
//!
//! *Guarantees*: short values are copies; longer ones hold their leaf's frame, and those in blocks
//! of their own are read when they are asked for.

use super::Merged;
use crate::bytes::{Key, Value};
use crate::error::{Error, Result, Structure};
use crate::page::Frame;
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
    /// The value that a reference names, which lies in a leaf's frame, if it lies in one.
    fn overflow(reference: &[u8], frame: Option<&Frame>) -> Result<Ahead> {
        let reference = OverflowReference::decode(reference).map_err(|problem| match frame {
            Some(frame) => {
                let damage = problem.corruption(Structure::Leaf).at_page(frame.page());
                Error::from(damage).met_in(frame.header().keyspace)
            }
            None => problem.corruption(Structure::Overflow).into(),
        })?;
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
            EntryKind::PutOverflow => {
                let frame = cursor.value_frame().map(|(frame, _)| &**frame);
                Ahead::overflow(cursor.value(), frame)?
            }
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
            Ahead::overflow(bytes, Some(live.value_frame().0))?
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
    use crate::Database;
    use crate::page::{Block, Codec, NodeKind, NodeSpec};
    use crate::segment::leaf_run::LeafRun;
    use crate::segment::node::{Caching, TreeKind, read_leaf};
    use crate::segment::sorted_block_builder::SortedBlockBuilder;
    use crate::types::PageNumber;

    /// It named neither a page nor the keyspace.
    #[test]
    fn a_reference_that_is_none_is_damage_of_the_leaf_that_has_it() {
        let database = Database::builder().merge_threads(0).open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let shared = keyspace.shared();
        let number = keyspace.number_in(shared).unwrap();
        let pages = shared.read(|core| Ok(core.pages.clone())).unwrap();
        let mut builder = SortedBlockBuilder::new(false, 0);
        builder.push(EntryKind::PutOverflow, b"k", 0, &[0xff]);
        let mut content = Vec::new();
        builder.finish(&mut content);
        let (kind, codec) = (NodeKind::Leaf, Codec::Plain);
        let spec = NodeSpec { kind, height: 0, flags: 0, keyspace: number, codec };
        let reference = pages.put_unwritten(&spec, &content).unwrap();
        let leaf = read_leaf(&pages, &reference, number, TreeKind::Points, Caching::Keep).unwrap();
        let mut run = LeafRun::new(&leaf, 0..1, 0);
        let live = run.next_live().unwrap().unwrap();
        match Entry::from_run(&live, false) {
            Err(Error::Corruption(damage)) => {
                assert_eq!((damage.page, damage.keyspace), (Some(reference.page), Some(number)));
            }
            other => panic!("no damage: {other:?}"),
        }
    }

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
