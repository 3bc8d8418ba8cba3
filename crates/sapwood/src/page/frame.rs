//! A node in memory, or in place in a mapped file: verified, decompressed, never changed.

use std::ops::Deref;

use crate::storage::Mapped;
use crate::sync::atomic::{AtomicU8, Ordering};
use crate::sync::{Arc, OnceLock};
use crate::types::PageNumber;

use super::budget::MemoryBudget;
use super::node_header::NodeHeader;
use super::node_ref::NodeRef;

/// The bytes of a node.
#[derive(Debug)]
pub enum NodeBytes {
    /// Read, decompressed or just made.
    Owned(Vec<u8>),
    /// In a mapped file.
    InPlace(Mapped),
}

impl Deref for NodeBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            NodeBytes::Owned(bytes) => bytes,
            NodeBytes::InPlace(mapped) => mapped,
        }
    }
}

impl From<Vec<u8>> for NodeBytes {
    fn from(bytes: Vec<u8>) -> NodeBytes {
        NodeBytes::Owned(bytes)
    }
}

/// A verified node. Shared behind `Arc`, and immutable.
#[derive(Debug)]
pub struct Frame {
    reference: NodeRef,
    header: NodeHeader,
    /// Holds the content from `content_start` on, `raw_bytes` of it.
    bytes: NodeBytes,
    content_start: usize,
    /// As what the floor above has looked through the content and found it sound; 0: it has not.
    checked: AtomicU8,
    /// Where it counts as held by the application; empty while the cache has it.
    held: OnceLock<Arc<MemoryBudget>>,
    /// It counts elsewhere as long as it lives.
    counts_elsewhere: bool,
}

impl Frame {
    /// A frame whose content lies in `bytes` from `content_start` on.
    pub(super) fn new(
        reference: NodeRef,
        header: NodeHeader,
        bytes: impl Into<NodeBytes>,
        content_start: usize,
    ) -> Frame {
        let bytes = bytes.into();
        assert!(bytes.len() >= content_start + header.raw_bytes as usize);
        let (checked, held) = (AtomicU8::new(0), OnceLock::new());
        Frame { reference, header, bytes, content_start, checked, held, counts_elsewhere: false }
    }

    /// The same, which never counts as held by the application: the engine itself keeps it.
    pub(super) fn counted_elsewhere(mut self) -> Frame {
        self.counts_elsewhere = true;
        self
    }

    /// From now on it lives only as long as somebody outside of the cache holds it, which will not
    /// have it again, and counts so until it is dropped.
    pub(super) fn count_as_held(&self, budget: &Arc<MemoryBudget>) {
        if !self.counts_elsewhere && self.held.set(Arc::clone(budget)).is_ok() {
            budget.hold(self.weight_bytes() as u64);
        }
    }

    /// The node's header.
    pub fn header(&self) -> &NodeHeader {
        &self.header
    }

    /// What names this node.
    pub fn reference(&self) -> NodeRef {
        self.reference
    }

    /// The node's first page.
    pub fn page(&self) -> PageNumber {
        self.reference.page
    }

    /// The content, decompressed.
    pub fn content(&self) -> &[u8] {
        let end = self.content_start + self.header.raw_bytes as usize;
        self.bytes.get(self.content_start..end).unwrap_or_default()
    }

    /// True when [`Frame::set_checked_as`] was called last with the same: the content need not be
    /// looked through again.
    pub fn is_checked_as(&self, what: u8) -> bool {
        self.checked.load(Ordering::Relaxed) == what
    }

    /// Remembers that the content was looked through, as what, and found sound. Not 0.
    pub fn set_checked_as(&self, what: u8) {
        self.checked.store(what, Ordering::Relaxed);
    }

    /// True when the content lies in the file itself: then it must not be held longer than the
    /// block is referenced (M1).
    pub fn is_in_place(&self) -> bool {
        matches!(self.bytes, NodeBytes::InPlace(_))
    }

    /// How much memory the frame takes. What lies in a mapped file is the system's.
    pub fn weight_bytes(&self) -> usize {
        let own = match &self.bytes {
            NodeBytes::Owned(bytes) => bytes.capacity(),
            NodeBytes::InPlace(_) => 0,
        };
        own + size_of::<Frame>()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(budget) = self.held.get() {
            budget.let_go(self.weight_bytes() as u64);
        }
    }
}
