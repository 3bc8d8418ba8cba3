//! What a merging cursor merges: sorted sources of versions of keys.
//!
//! *Guarantees*: entries come in order, in both directions. After an error a source is invalid.
//! *Threads*: one owner.

use std::ops::Range;

use super::key_range::KeyRange;
use super::leaf_run::LeafRun;
use super::node::LeafNode;
use super::sorted_block::EntryKind;
use crate::error::Result;
use crate::page::Frame;
use crate::sync::Arc;

/// A sorted sequence of versions of keys, newest version of a key first.
pub trait SortedSource {
    /// True when the source stands on an entry.
    fn valid(&self) -> bool;
    /// The bare key; empty when not valid.
    fn key(&self) -> &[u8];
    /// The number; 0 where entries carry none.
    fn number(&self) -> u64;
    /// What the entry says.
    fn kind(&self) -> EntryKind;
    /// The entry's value.
    fn value(&self) -> &[u8];
    /// The frame that the value lies in and where, when it may be handed out without a copy.
    fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)>;
    /// To the next entry; invalid behind the last.
    fn next(&mut self) -> Result<()>;
    /// To the entry before; invalid before the first.
    fn previous(&mut self) -> Result<()>;
    /// To the newest version of the first key at or after `key`.
    fn seek(&mut self, key: &[u8]) -> Result<()>;
    /// To the last entry before every version of `key`.
    fn seek_before(&mut self, key: &[u8]) -> Result<()>;
    /// To the last entry.
    fn seek_last(&mut self) -> Result<()>;
    /// True when entries carry numbers, so that a key may have several versions.
    fn numbered(&self) -> bool;
    /// True when there are range tombstones.
    fn has_ranges(&self) -> bool;
    /// The range tombstone over `key` with the highest number at or below `at`.
    fn cover(&mut self, key: &[u8], at: u64) -> Result<Option<Cover>>;
    /// The entries from where the source stands that lie before `end`, as far as they lie at hand
    /// in one leaf; `None` when the source has no leaves.
    fn run(&self, _end: Option<&[u8]>) -> Option<LeafRun> {
        None
    }
    /// Stands on an entry of the run that was handed out last.
    fn stand_in_run(&mut self, _index: usize) -> Result<()> {
        Ok(())
    }
}

/// Where a value of a leaf lies in its content.
pub(super) fn range_in(leaf: &LeafNode, value: &[u8]) -> Range<usize> {
    // The value is a part of the content, so the distance of the two is its offset.
    let start = value.as_ptr().addr().wrapping_sub(leaf.frame().content().as_ptr().addr());
    let start = if value.is_empty() { 0 } else { start };
    start..start + value.len()
}

/// A range tombstone that covers a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// What it covers.
    pub range: KeyRange,
    /// Its number; 0 where entries carry none.
    pub number: u64,
}

/// Implements [`SortedSource`] for an enum whose variants hold one each, by asking whichever is
/// there.
macro_rules! sorted_source_of_variants {
    ($name:ident { $($variant:ident),+ }) => {
        impl $crate::segment::sorted_source::SortedSource for $name {
            fn valid(&self) -> bool {
                match self { $($name::$variant(source) => source.valid(),)+ }
            }

            fn key(&self) -> &[u8] {
                match self { $($name::$variant(source) => source.key(),)+ }
            }

            fn number(&self) -> u64 {
                match self { $($name::$variant(source) => source.number(),)+ }
            }

            fn kind(&self) -> $crate::segment::sorted_block::EntryKind {
                match self { $($name::$variant(source) => source.kind(),)+ }
            }

            fn value(&self) -> &[u8] {
                match self { $($name::$variant(source) => source.value(),)+ }
            }

            fn value_frame(
                &self,
            ) -> Option<(&$crate::sync::Arc<$crate::page::Frame>, std::ops::Range<usize>)> {
                match self { $($name::$variant(source) => source.value_frame(),)+ }
            }

            fn next(&mut self) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.next(),)+ }
            }

            fn previous(&mut self) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.previous(),)+ }
            }

            fn seek(&mut self, key: &[u8]) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.seek(key),)+ }
            }

            fn seek_before(&mut self, key: &[u8]) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.seek_before(key),)+ }
            }

            fn seek_last(&mut self) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.seek_last(),)+ }
            }

            fn numbered(&self) -> bool {
                match self { $($name::$variant(source) => source.numbered(),)+ }
            }

            fn has_ranges(&self) -> bool {
                match self { $($name::$variant(source) => source.has_ranges(),)+ }
            }

            fn cover(
                &mut self,
                key: &[u8],
                at: u64,
            ) -> $crate::error::Result<Option<$crate::segment::sorted_source::Cover>> {
                match self { $($name::$variant(source) => source.cover(key, at),)+ }
            }

            fn run(&self, end: Option<&[u8]>) -> Option<$crate::segment::leaf_run::LeafRun> {
                match self { $($name::$variant(source) => source.run(end),)+ }
            }

            fn stand_in_run(&mut self, index: usize) -> $crate::error::Result<()> {
                match self { $($name::$variant(source) => source.stand_in_run(index),)+ }
            }
        }
    };
}

pub(crate) use sorted_source_of_variants;
