//! The filter over a whole young segment: read at the first need, then kept within the budget. And
//! the pieces in which the filters of a level's leaves lie.
//!
//! *Assumes*: nothing of its nodes. *Guarantees*: it never denies a key of its segment. What is
//! damaged, cannot be read, or has no room in memory denies nothing, and is no error; of a piece it
//! is one. Neither holds more than its pages.
//! *Format*: docs/format.md, section 4.4. *Threads*: any; nobody waits for a read of another: two
//! may read at once, and what one of them has read is kept.

use super::BlockProblem;
use super::filter::{LINE_BYTES, may_contain};
use super::node::ParentNode;
use super::parent::FilterSlot;
use crate::error::{Corruption, Error, Result, Structure};
use crate::page::{
    Charge, Codec, Frame, MemoryBudget, MemoryPart, NodeKind, NodeRef, NodeSpec, NodeWriter,
    PageManager,
};
use crate::sync::{Arc, OnceLock};
use crate::types::KeyspaceNumber;

/// Filters take at most this part of the budget together.
const BUDGET_PART: u64 = 8;

/// What is known of a filter's content.
#[derive(Debug)]
enum Known {
    /// Its lines. They count for the budget until the last segment that has them is gone.
    Lines(Vec<u8>, #[allow(dead_code, reason = "held for its drop")] Charge),
    /// It is damaged, and is not read again.
    Damaged,
}

/// See the module. In a segment of a level: what the filters of its leaves are mixed with.
#[derive(Clone, Debug)]
pub struct SegmentFilter {
    /// What the hashes are mixed with; the same for the leaves' filters of a level's segment.
    pub seed: u64,
    /// The nodes whose contents, put together, are its lines. Empty for a segment of a level.
    pub nodes: Vec<NodeRef>,
    /// Shared by all values of one segment in the states that have it.
    known: Arc<OnceLock<Known>>,
}

impl SegmentFilter {
    /// A filter that lies in these nodes, and is read when it is needed first.
    pub fn new(seed: u64, nodes: Vec<NodeRef>) -> SegmentFilter {
        SegmentFilter { seed, nodes, known: Arc::default() }
    }

    /// What it takes in memory beside itself and its lines, in bytes.
    pub(super) fn own_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<NodeRef>()
    }

    /// Writes a filter; its lines stay in memory when there is room.
    ///
    /// # Errors
    /// When a node cannot be written.
    pub fn write(nodes: &mut NodeWriter, seed: u64, lines: Vec<u8>) -> Result<SegmentFilter> {
        let spec = NodeSpec {
            kind: NodeKind::YoungFilter,
            height: 0,
            flags: 0,
            keyspace: KeyspaceNumber::MANY,
            codec: Codec::Plain,
        };
        let layout = nodes.manager().layout();
        // Several of them fit a region, however small.
        let most = usize::try_from(layout.region_bytes / 8).unwrap_or(usize::MAX);
        let most = most.min(layout.window_content_bytes()) / LINE_BYTES * LINE_BYTES;
        let pieces = lines.chunks(most.max(LINE_BYTES));
        let written = pieces.map(|piece| nodes.append(&spec, piece, false));
        let filter = SegmentFilter::new(seed, written.collect::<Result<_>>()?);
        if let Some(charge) = room_for_filter(nodes.manager().budget(), lines.len() as u64) {
            // Set once: the cell is new.
            let _ = filter.known.set(Known::Lines(lines, charge));
        }
        Ok(filter)
    }

    /// True when the key of this hash is certainly not in the segment's tree of points. Reads the
    /// filter when it is not in memory and there is room for it.
    pub fn denies(&self, pages: &PageManager, hash: u64) -> bool {
        if self.nodes.is_empty() {
            return false;
        }
        if self.known.get().is_none() {
            self.load(pages);
        }
        self.denies_at_hand(hash)
    }

    /// The same without reading: false when the filter is not in memory.
    pub fn denies_at_hand(&self, hash: u64) -> bool {
        match self.known.get() {
            Some(Known::Lines(lines, _)) => !may_contain(lines, self.seed, hash),
            _ => false,
        }
    }

    /// True when its lines are in memory.
    pub fn is_at_hand(&self) -> bool {
        matches!(self.known.get(), Some(Known::Lines(..)))
    }

    /// Reads the filter, if there is room. After an I/O error the next need tries again.
    fn load(&self, pages: &PageManager) {
        let each = self.nodes.iter().map(|node| node_bytes_max(pages, node));
        let bytes_max = each.fold(0, u64::saturating_add);
        let Some(mut charge) = room_for_filter(pages.budget(), bytes_max) else { return };
        // Losing a race drops what was read, with its charge.
        let _ = match self.read_lines(pages) {
            Ok(lines) => {
                charge.set(lines.len() as u64);
                self.known.set(Known::Lines(lines, charge))
            }
            Err(Error::Corruption(corruption)) => {
                tracing::warn!(
                    target: "sapwood::filter",
                    %corruption,
                    "a damaged filter: its segment is searched"
                );
                self.known.set(Known::Damaged)
            }
            Err(error) => {
                tracing::debug!(
                    target: "sapwood::filter",
                    %error,
                    "a filter was not read: its segment is searched"
                );
                Ok(())
            }
        };
    }

    fn read_lines(&self, pages: &PageManager) -> Result<Vec<u8>> {
        let mut lines = Vec::new();
        for node in &self.nodes {
            let damaged = |detail| Corruption::new(Structure::Filter, detail).at_page(node.page);
            let frame = pages.read_node_uncached(node, NodeKind::YoungFilter)?;
            let (header, content) = (frame.header(), frame.content());
            if header.keyspace != KeyspaceNumber::MANY || header.height != 0 {
                return Err(damaged("it is not one of a young segment").into());
            }
            if content.is_empty() || content.len() % LINE_BYTES != 0 {
                return Err(damaged("it is not made of whole lines").into());
            }
            if content.len() as u64 > node_bytes_max(pages, node) {
                return Err(damaged("it holds more than its pages do").into());
            }
            lines.extend_from_slice(content);
        }
        // What it takes is what is counted.
        lines.shrink_to_fit();
        Ok(lines)
    }
}

/// Counts a filter of `bytes` bytes, if there is room for it beside those that are in memory.
pub fn room_for_filter(budget: &Arc<MemoryBudget>, bytes: u64) -> Option<Charge> {
    budget.charge_if_room(MemoryPart::Filters, bytes, budget.total() / BUDGET_PART)
}

impl PartialEq for SegmentFilter {
    fn eq(&self, other: &SegmentFilter) -> bool {
        self.seed == other.seed && self.nodes == other.nodes
    }
}

/// What a node of a filter holds at most, in bytes: they are stored plain.
pub fn node_bytes_max(pages: &PageManager, node: &NodeRef) -> u64 {
    u64::from(node.pages) * u64::from(pages.layout().page_size)
}

/// Reads the piece beside a lowest parent of `keyspace` in which a leaf's filter lies.
///
/// # Errors
/// When it cannot be read, is not there, or holds more than its pages.
pub fn read_piece(
    pages: &PageManager,
    parent: &ParentNode,
    slot: FilterSlot,
    keyspace: KeyspaceNumber,
) -> Result<Arc<Frame>> {
    let piece = parent.view().pieces().get(slot.piece as usize).map_err(|p| parent.damage(p))?;
    let frame = parent.read_beside(pages, &piece, NodeKind::FilterPiece)?;
    if frame.content().len() as u64 > node_bytes_max(pages, &piece) {
        let problem = BlockProblem("a filter piece holds more than its pages do");
        return Err(piece_damage(&frame, keyspace, problem));
    }
    Ok(frame)
}

/// That a leaf's filter does not lie where its parent says.
pub fn outside_piece(piece: &Frame, keyspace: KeyspaceNumber) -> Error {
    piece_damage(piece, keyspace, BlockProblem("a leaf's filter lies outside its piece"))
}

fn piece_damage(piece: &Frame, keyspace: KeyspaceNumber, problem: BlockProblem) -> Error {
    let corruption = problem.corruption(Structure::Sidecar).at_page(piece.page());
    corruption.in_keyspace(keyspace).into()
}
