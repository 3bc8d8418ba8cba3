//! What the versions of one key may take that a flush keeps: they lie in one leaf.
//!
//! *Assumes*: a memtable has at most as many versions of a key that snapshots see as
//! [`registered_max`] says, and the newest; [`seal_before_too_many`] sees to it.
//! *Guarantees*: S4: such a leaf is a node that has a place in every region, and at most of the
//! length that a node may have.
//! *Threads*: a flush; and committers, who hold the commit lock.

use crate::page::Layout;
use crate::page::layout::NODE_HEADER_BYTES;
use crate::segment::COMPOSITE_KEY_BYTES_MAX;
use crate::segment::overflow::OVERFLOW_BYTES_ALWAYS;
use crate::state::Core;

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

/// The longest reference to a value that could have stayed in a leaf: each of its pages may lie
/// alone.
fn reference_bytes_max(layout: &Layout) -> usize {
    let pages = layout.node_pages(OVERFLOW_BYTES_ALWAYS + BLOCK_BYTES);
    REFERENCE_BYTES + BLOCK_BYTES * pages as usize
}

/// How many numbers may be registered beside a memtable that takes writes.
pub fn registered_max(layout: &Layout) -> usize {
    let once = COMPOSITE_KEY_BYTES_MAX + VALUE_BYTES_MAX + NODE_HEADER_BYTES;
    let each = ENTRY_BYTES + reference_bytes_max(layout);
    (layout.content_bytes_max().saturating_sub(once) / each).saturating_sub(1).min(REGISTERED_MAX)
}

/// Seals the memtable that takes writes when the next commit might be one version too many for a
/// leaf. The commit lock is held.
pub fn seal_before_too_many(core: &Core) {
    let view = core.view();
    let registered = view.active.home.registered_count();
    // Commits that are not visible yet may be registered one by one when they are.
    let next = core.commit_numbers().0.0;
    let first = view.active.first_sequence().map_or(next, |first| first.0);
    let waiting = next.saturating_sub(first.max(core.visible().0.saturating_add(1)));
    let count = registered.saturating_add(usize::try_from(waiting).unwrap_or(usize::MAX));
    if count >= registered_max(core.pages.layout()) {
        core.seal();
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::layout::NODE_CONTENT_BYTES_MAX;

    #[test]
    fn as_many_versions_as_may_come_fit_a_node_of_every_region() {
        for page_bits in 10..=16 {
            for region_bits in (page_bits + 6).max(17)..=27 {
                for reserved_bytes in [0, 256] {
                    let (page_bytes, region_bytes) = (1 << page_bits, 1 << region_bits);
                    let layout =
                        Layout::new(page_bytes, reserved_bytes, region_bytes, [1; 16]).unwrap();
                    let count = registered_max(&layout);
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
