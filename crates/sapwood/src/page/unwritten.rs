//! Nodes that live in memory until a durable state needs them on disk, or until they are freed before.
//!
//! *Guarantees*: U1: the pages of a node are not given back while it is being written, so that the write
//! never lands on what another owner has put there.

use std::collections::BTreeMap;

use crate::sync::{Arc, Mutex};
use crate::types::PageNumber;

use super::block::Block;
use super::budget::{Charge, MemoryBudget, MemoryPart};
use super::frame::Frame;
use super::node_ref::NodeRef;

/// One node: to be read from memory, and as it will lie in its pages.
#[derive(Clone, Debug)]
pub(super) struct UnwrittenNode {
    pub(super) frame: Arc<Frame>,
    pub(super) image: Arc<Vec<u8>>,
}

#[derive(Debug)]
struct Inner {
    nodes: BTreeMap<u64, UnwrittenNode>,
    /// Pages that a running write pass may still write to.
    writing: Vec<Block>,
    /// Blocks that were freed meanwhile and overlap those.
    deferred: Vec<Block>,
    charge: Charge,
}

#[derive(Debug)]
pub(super) struct Unwritten {
    inner: Mutex<Inner>,
}

impl Unwritten {
    pub(super) fn new(budget: &Arc<MemoryBudget>) -> Unwritten {
        Unwritten {
            inner: Mutex::new(Inner {
                nodes: BTreeMap::new(),
                writing: Vec::new(),
                deferred: Vec::new(),
                charge: budget.charge(MemoryPart::Other, 0),
            }),
        }
    }

    pub(super) fn put(&self, node: UnwrittenNode) {
        let mut inner = self.inner.lock();
        inner.charge.add(weight(&node));
        let replaced = inner.nodes.insert(node.frame.page().0, node);
        assert!(replaced.is_none(), "two nodes that were not written share a page");
    }

    pub(super) fn get(&self, reference: &NodeRef) -> Option<Arc<Frame>> {
        let inner = self.inner.lock();
        let node = inner.nodes.get(&reference.page.0)?;
        (node.frame.reference() == *reference).then(|| Arc::clone(&node.frame))
    }

    pub(super) fn count(&self) -> usize {
        self.inner.lock().nodes.len()
    }

    /// Takes note that a pass writes all nodes now present, and returns them in the order of their pages.
    pub(super) fn begin_writing(&self) -> Vec<UnwrittenNode> {
        let mut inner = self.inner.lock();
        assert!(inner.writing.is_empty(), "one write pass at a time");
        let nodes: Vec<_> = inner.nodes.values().cloned().collect();
        inner.writing = nodes.iter().map(|node| node.frame.reference().block()).collect();
        nodes
    }

    /// Ends the pass, forgets what it wrote, and returns the blocks that may be given back now.
    pub(super) fn end_writing(&self, written: &[UnwrittenNode]) -> Vec<Block> {
        let mut inner = self.inner.lock();
        inner.writing.clear();
        for node in written {
            let page = node.frame.page().0;
            let same = inner
                .nodes
                .get(&page)
                .is_some_and(|present| Arc::ptr_eq(&present.frame, &node.frame));
            if same {
                inner.nodes.remove(&page);
                inner.charge.sub(weight(node));
            }
        }
        std::mem::take(&mut inner.deferred)
    }

    /// Forgets the nodes that begin in a block which is to be freed. False when the block must wait for
    /// the end of a write pass; it is kept until then.
    pub(super) fn forget(&self, block: Block) -> bool {
        let mut inner = self.inner.lock();
        let pages: Vec<u64> =
            inner.nodes.range(block.first.0..block.end().0).map(|(&page, _)| page).collect();
        for page in pages {
            if let Some(node) = inner.nodes.remove(&page) {
                inner.charge.sub(weight(&node));
            }
        }
        let busy = inner.writing.iter().any(|writing| writing.overlaps(block));
        if busy {
            inner.deferred.push(block);
        }
        !busy
    }

    /// The pages of all nodes present.
    pub(super) fn pages(&self) -> Vec<PageNumber> {
        self.inner.lock().nodes.keys().map(|&page| PageNumber(page)).collect()
    }
}

fn weight(node: &UnwrittenNode) -> u64 {
    (node.frame.weight_bytes() + node.image.capacity()) as u64
}
