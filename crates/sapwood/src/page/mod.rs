//! Floor 2: the page manager.
//!
//! It owns the storage, gives blocks out and takes them back, writes and reads nodes with identity,
//! stamp and checksum, withholds the reserved bytes of each page, and caches verified nodes.
//!
//! *Assumes*: of the medium, what `docs/format.md` section 0 says; of the bytes, nothing.
//! *Guarantees*: a node that is read is the one that its reference names, or there is an error; no
//! page has two owners. It never asks what a snapshot holds: higher floors decide, and call `free`.
//! *Format*: `docs/format.md` sections 1 to 3.
//! *Threads*: everything is shared; see [`manager`].

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
// Some of what is exported here is for tools alone.
#![cfg_attr(not(feature = "internals"), allow(unused_imports))]

pub mod allocator;
pub mod block;
pub mod block_list;
pub mod budget;
pub mod cache;
pub mod compress;
pub mod counted;
pub mod counters;
pub mod file_header;
pub mod frame;
pub mod free_map;
pub mod held;
pub mod layout;
pub mod manager;
pub mod node_header;
pub mod node_image;
pub mod node_ref;
pub mod node_writer;
pub mod page_set;
pub mod region_entry;
mod regions;
mod seen;
pub mod share;
pub mod stamps;
pub mod state_node;
pub mod stream;
mod unwritten;

#[cfg(test)]
mod tests;

pub use allocator::{Allocator, AllocatorStats, CapturedMaps, Extent};
pub use block::Block;
pub use block_list::BlockList;
pub use budget::{Charge, MemoryBudget, MemoryPart, StateNeed};
pub use compress::Codec;
pub use counted::{ALLOCATION_BYTES, Counted};
pub use counters::PageCounters;
pub use file_header::{HeaderSlot, SlotProblem, StateLocation};
pub use frame::Frame;
pub use held::Held;
pub use layout::{Layout, NODE_CONTENT_BYTES_MAX, NODE_HEADER_BYTES};
pub use manager::{OpenedState, PageManager, PageOptions};
pub use node_header::{FLAG_NUMBERS, FLAG_WIDE_SLOTS, NodeHeader, NodeKind};
pub use node_image::NodeSpec;
pub use node_ref::NodeRef;
pub use node_writer::{NodeWriter, Written};
pub use page_set::PageSet;
pub use region_entry::RegionEntry;
pub use regions::budget_for_maps;
pub use share::Share;
