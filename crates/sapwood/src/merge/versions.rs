//! What a flush keeps for snapshots: what the versions of one key may take, which lie in one leaf;
//! and the numbers of range tombstones.
//!
//! *Assumes*: a memtable has at most as many versions of a key that snapshots see as
//! [`registered_max`] says, and the newest; [`seal_before_too_many`] sees to it.
//! *Guarantees*: S4: such a leaf is a node that has a place in every region, and at most of the
//! length that a node may have. G6: who reads what was flushed finds the tombstone that it would
//! have found before.
//! *Threads*: a flush; and committers, who hold the commit lock.

use crate::memtable::Fragment;
use crate::page::Layout;
use crate::page::layout::NODE_HEADER_BYTES;
use crate::segment::COMPOSITE_KEY_BYTES_MAX;
use crate::segment::overflow::OVERFLOW_BYTES_ALWAYS;
use crate::state::Core;
use crate::types::SequenceNumber;

/// So many numbers of snapshots at most are registered beside one memtable that takes writes. Each
/// is a place in a leaf for each key that is written all the while.
const REGISTERED_MAX: usize = 4096;
/// The values that a key's versions have in a leaf take so much together, but for short ones.
const VALUE_BYTES_MAX: usize = OVERFLOW_BYTES_ALWAYS;
/// What an entry takes beside key and value: head, slot, kind, number, lengths.
const ENTRY_BYTES: usize = 32;
/// What a reference takes beside its blocks.
const REFERENCE_BYTES: usize = 32;
/// What a reference takes for a block of few pages.
const BLOCK_BYTES: usize = 8;
/// What it takes for any block: two varints.
const LONG_BLOCK_BYTES: usize = 16;

/// The longest reference to a value that could have stayed in a leaf: each of its pages may lie
/// alone.
fn reference_bytes_max(layout: &Layout) -> usize {
    let pages = layout.node_pages(OVERFLOW_BYTES_ALWAYS + BLOCK_BYTES);
    REFERENCE_BYTES + BLOCK_BYTES * pages as usize
}

/// How many numbers may be registered beside a memtable that takes writes, and in which commits
/// name so much.
pub fn registered_max(layout: &Layout, names_bytes: usize) -> usize {
    let once = COMPOSITE_KEY_BYTES_MAX + VALUE_BYTES_MAX + NODE_HEADER_BYTES + names_bytes;
    let each = ENTRY_BYTES + reference_bytes_max(layout);
    (layout.content_bytes_max().saturating_sub(once) / each).saturating_sub(1).min(REGISTERED_MAX)
}

/// What a reference to so many blocks takes at most, where that is more than is kept for each
/// version: a value of many pieces may be what a file has room for that cannot grow.
fn names_bytes(layout: &Layout, blocks: usize) -> usize {
    let bytes = REFERENCE_BYTES + blocks.saturating_mul(LONG_BLOCK_BYTES);
    if bytes <= reference_bytes_max(layout) { 0 } else { bytes }
}

/// How many blocks the values of one key may lie in that a commit puts: those that are written, or
/// the pages of the longest value that goes to blocks with its flush.
pub fn blocks_named(core: &Core, written: usize, longest_put: usize) -> usize {
    let is_long = longest_put > OVERFLOW_BYTES_ALWAYS;
    let pages = if is_long { core.pages.layout().node_pages(longest_put) } else { 0 };
    written.max(pages as usize)
}

/// Seals the memtable that takes writes when the next commit, with values in so many blocks, might
/// be one version too many for a leaf. The commit lock is held.
pub fn seal_before_too_many(core: &Core, blocks: usize) {
    let view = core.view();
    let layout = core.pages.layout();
    let registered = view.active.home.registered_count();
    // Commits that are not visible yet may be registered one by one when they are.
    let next = core.commit_numbers().0.0;
    let first = view.active.first_sequence().map_or(next, |first| first.0);
    let waiting = next.saturating_sub(first.max(core.visible().0.saturating_add(1)));
    let count = registered.saturating_add(usize::try_from(waiting).unwrap_or(usize::MAX));
    let names = view.active.owes.names_bytes().saturating_add(names_bytes(layout, blocks));
    if count >= registered_max(layout, names) {
        core.seal();
    }
}

/// A commit with values in so many blocks has its place in the memtable that takes writes. The
/// commit lock is held.
pub fn note_names(core: &Core, blocks: usize) {
    core.view().active.owes.add_names(names_bytes(core.pages.layout(), blocks));
}

/// What is left in a leaf for the values of one key's versions.
#[derive(Debug)]
pub struct RoomInLeaf {
    left: usize,
    /// So short a value takes no more than a reference to it might.
    short: usize,
}

impl RoomInLeaf {
    /// For all versions of a key, from the newest on.
    pub fn new(layout: &Layout) -> RoomInLeaf {
        RoomInLeaf { left: VALUE_BYTES_MAX, short: reference_bytes_max(layout) }
    }

    /// True when a value of so many bytes, which wants no blocks of its own, stays in the leaf. The
    /// newest does.
    pub fn takes(&mut self, value_bytes: usize) -> bool {
        match self.left.checked_sub(value_bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => value_bytes <= self.short,
        }
    }
}

/// True when somebody sees a version that range tombstones may hide: a registered number (they
/// ascend) from its own on and below that of the newer version, or, when there is none, whoever
/// reads from now on. What is hidden from one of them is hidden from all later ones, so only the
/// first is asked.
pub fn is_seen(
    number: SequenceNumber,
    newer: Option<SequenceNumber>,
    registered: &[SequenceNumber],
    is_hidden: impl FnOnce(SequenceNumber) -> bool,
) -> bool {
    let first = registered.get(registered.partition_point(|at| *at < number)).copied();
    let limit = newer.unwrap_or(SequenceNumber::MAX);
    let later = newer.is_none().then_some(SequenceNumber::MAX);
    first.filter(|at| *at < limit).or(later).is_some_and(|at| !is_hidden(at))
}

/// The numbers of a fragment that anybody may tell apart: the newest and, for each registered
/// number (ascending), the newest at or below it. They descend.
pub fn numbers_seen(fragment: &Fragment, registered: &[SequenceNumber]) -> Vec<u64> {
    let mut kept = vec![fragment.newest().0];
    let mut least = fragment.newest();
    // Readers from `least` on see it, or a newer one.
    let reader_below = |least: SequenceNumber| {
        let count = registered.partition_point(|at| *at < least);
        registered.get(count.checked_sub(1)?).copied()
    };
    while let Some(seen) = reader_below(least).and_then(|at| fragment.newest_at(at)) {
        kept.push(seen.0);
        least = seen;
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::memtable::{ChunkPool, Memtable};
    use crate::page::layout::NODE_CONTENT_BYTES_MAX;
    use crate::sync::{Arc, Random};
    use crate::types::KeyspaceNumber;

    #[test]
    fn the_numbers_that_are_kept_are_those_that_readers_find() {
        let mut random = Random::from_seed(1);
        for _ in 0..300 {
            let table = Memtable::new(Arc::new(ChunkPool::new(0)));
            for number in 1..100 {
                if random.one_in(3) {
                    let keyspace = KeyspaceNumber(0);
                    table.insert_range_delete(keyspace, b"a", None, SequenceNumber(number));
                }
            }
            let deletes = table.range_deletes();
            let Some(fragment) = deletes.iter().next() else { continue };
            let some = |_: &u64| random.one_in(8);
            let registered: Vec<_> = (0..100).filter(some).map(SequenceNumber).collect();
            let kept = numbers_seen(fragment, &registered);
            let at = |at: SequenceNumber| fragment.sequences().find(|number| *number <= at);
            let readers = registered.iter().copied().chain([SequenceNumber::MAX]);
            let mut seen: Vec<_> = readers.filter_map(at).map(|number| number.0).collect();
            seen.dedup();
            seen.reverse();
            assert_eq!(kept, seen);
        }
    }

    #[test]
    fn the_first_reader_of_a_version_speaks_for_all() {
        let mut random = Random::from_seed(2);
        let mut numbers = |share| -> Vec<SequenceNumber> {
            (1..100).filter(|_| random.one_in(share)).map(SequenceNumber).collect()
        };
        for share in (1..40).chain(1..40) {
            let (tombstones, registered) = (numbers(30), numbers(share));
            let versions = numbers(5);
            for (index, number) in versions.iter().enumerate() {
                let newer = versions.get(index + 1).copied();
                let is_hidden = |at| tombstones.iter().any(|of| *number < *of && *of <= at);
                let later = newer.is_none().then_some(SequenceNumber::MAX);
                let below = |at: &SequenceNumber| newer.is_none_or(|newer| *at < newer);
                let readers = registered.iter().copied().filter(|at| *at >= *number && below(at));
                let expected = readers.chain(later).any(|at| !is_hidden(at));
                let asked = Cell::new(0);
                let ask = |at| {
                    asked.set(asked.get() + 1);
                    is_hidden(at)
                };
                assert_eq!(is_seen(*number, newer, &registered, ask), expected);
                assert!(asked.get() <= 1, "{} numbers asked for", asked.get());
            }
        }
    }

    #[test]
    fn as_many_versions_as_may_come_fit_a_node_of_every_region() {
        for page_bits in 10..=16 {
            for region_bits in (page_bits + 6).max(17)..=27 {
                for reserved_bytes in [0, 256] {
                    let (page_bytes, region_bytes) = (1 << page_bits, 1 << region_bits);
                    let layout =
                        Layout::new(page_bytes, reserved_bytes, region_bytes, [1; 16]).unwrap();
                    let count = registered_max(&layout, 0);
                    assert!(count >= 80, "{count} with pages of 2^{page_bits}, 2^{region_bits}");
                    let mut room = RoomInLeaf::new(&layout);
                    let values = [OVERFLOW_BYTES_ALWAYS - 1].into_iter();
                    let short = reference_bytes_max(&layout);
                    let values = values.chain(std::iter::repeat_n(short, count));
                    // A value that is longer goes elsewhere, and leaves a reference.
                    let bytes: usize = values
                        .map(|bytes| {
                            assert!(room.takes(bytes) && !room.takes(VALUE_BYTES_MAX - 1));
                            bytes + ENTRY_BYTES
                        })
                        .sum();
                    let content = bytes + COMPOSITE_KEY_BYTES_MAX;
                    let pages = layout.node_pages(content);
                    assert!(content <= NODE_CONTENT_BYTES_MAX && pages <= layout.block_pages_max());
                }
            }
        }
    }
}
