//! A node in memory: verified, decompressed, never changed.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::types::PageNumber;

use super::node_header::NodeHeader;
use super::node_ref::NodeRef;

/// A verified node. Shared behind `Arc`, and immutable.
#[derive(Debug)]
pub struct Frame {
    reference: NodeRef,
    header: NodeHeader,
    /// Holds the content from `content_start` on, `raw_bytes` of it.
    bytes: Vec<u8>,
    content_start: usize,
    /// The floor above has looked through the content and found it sound.
    checked: AtomicBool,
}

impl Frame {
    /// A frame whose content lies in `bytes` from `content_start` on.
    pub(super) fn new(
        reference: NodeRef,
        header: NodeHeader,
        bytes: Vec<u8>,
        content_start: usize,
    ) -> Frame {
        assert!(bytes.len() >= content_start + header.raw_bytes as usize);
        Frame { reference, header, bytes, content_start, checked: AtomicBool::new(false) }
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

    /// True when [`Frame::set_checked`] was called: the content need not be looked through again.
    pub fn is_checked(&self) -> bool {
        self.checked.load(Ordering::Relaxed)
    }

    /// Remembers that the content was looked through and found sound.
    pub fn set_checked(&self) {
        self.checked.store(true, Ordering::Relaxed);
    }

    /// How much memory the frame takes.
    pub fn weight_bytes(&self) -> usize {
        self.bytes.capacity() + size_of::<Frame>()
    }
}
