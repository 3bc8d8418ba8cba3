//! Tests of the page manager over a small storage of their own.

mod allocator_tests;
mod header_tests;
mod manager_tests;
mod node_tests;
mod storage;

use crate::sync::Arc;
use crate::types::KeyspaceNumber;

use super::*;
pub(super) use storage::TestStorage;

pub(super) const IDENTITY: [u8; 16] = *b"identity of file";

/// 64 pages of 1 KiB to a region.
pub(super) fn tiny_layout(reserved_bytes: u16) -> Layout {
    Layout::new(1024, reserved_bytes, 64 << 10, IDENTITY).unwrap()
}

pub(super) fn options(storage: &Arc<TestStorage>, layout: Layout) -> PageOptions {
    PageOptions {
        storage: Arc::clone(storage) as Arc<dyn crate::storage::Storage>,
        layout,
        budget: Arc::new(MemoryBudget::new(8 << 20)),
        max_file_bytes: None,
    }
}

pub(super) fn manager_over(layout: Layout) -> (Arc<PageManager>, Arc<TestStorage>) {
    let storage = Arc::new(TestStorage::default());
    let manager = PageManager::create(options(&storage, layout), 1 << 20).unwrap();
    (manager, storage)
}

pub(super) fn leaf_spec(codec: Codec) -> NodeSpec {
    NodeSpec {
        kind: NodeKind::Leaf,
        height: 0,
        flags: FLAG_NUMBERS,
        keyspace: KeyspaceNumber(7),
        codec,
    }
}

pub(super) fn parent_spec() -> NodeSpec {
    NodeSpec { kind: NodeKind::Parent, height: 2, flags: 0, ..leaf_spec(Codec::Plain) }
}

/// Bytes that do not compress.
pub(super) fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) * 2 + 1;
    let step = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}
