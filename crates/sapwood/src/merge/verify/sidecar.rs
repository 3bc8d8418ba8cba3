//! The sidecar of a lowest parent: filter pieces and overflow lists.

use super::walk::{Claim, Tree, Walk};
use crate::error::Structure;
use crate::page::{Frame, NodeKind, NodeRef};
use crate::segment::filter::LINE_BYTES;
use crate::segment::overflow_reference::{ListedPages, OverflowList, OverflowListItem};
use crate::segment::parent::{Child, Parent, SidecarReferences};
use crate::sync::Arc;

/// What stands beside a lowest parent.
#[derive(Default)]
pub struct Sidecar {
    /// `None` where one could not be read.
    pieces: Vec<Option<Arc<Frame>>>,
    items: Vec<OverflowListItem>,
    /// Every list could be read.
    complete: bool,
    pub pages: u64,
}

/// The overflow values of one leaf, as the list has them.
pub struct Listed {
    pub items: Vec<OverflowListItem>,
    pub complete: bool,
}

impl Sidecar {
    /// Reads pieces and lists; those that may have been replaced are suspects then.
    pub fn read(
        &mut self,
        walk: &mut Walk<'_>,
        tree: &Tree<'_>,
        claim: &Claim,
        parent: &Parent<'_>,
    ) {
        self.complete = true;
        for piece in references(&parent.pieces()) {
            let frame = self.read_node(walk, tree, claim, &piece, NodeKind::FilterPiece);
            self.pieces.push(frame);
        }
        let said_pages = parent.overflow_pages().unwrap_or(u64::MAX);
        let mut listed = ListedPages::new(said_pages, walk.pages.file_pages());
        for list in references(&parent.overflow_lists()) {
            let frame = self.read_node(walk, tree, claim, &list, NodeKind::OverflowList);
            let Some(frame) = frame else {
                self.complete = false;
                continue;
            };
            for item in OverflowList::new(frame.content()) {
                match item.and_then(|item| listed.take(&item).map(|()| item)) {
                    Ok(item) if (item.child_index as usize) < parent.len() => self.items.push(item),
                    Ok(item) => {
                        let text =
                            format!("it names leaf {}, which is not there", item.child_index);
                        walk.problem(Structure::Sidecar, list.page, tree.keyspace, text);
                    }
                    Err(problem) => {
                        self.complete = false;
                        walk.problem(Structure::Sidecar, list.page, tree.keyspace, problem.0);
                        break;
                    }
                }
            }
        }
    }

    fn read_node(
        &mut self,
        walk: &mut Walk<'_>,
        tree: &Tree<'_>,
        claim: &Claim,
        reference: &NodeRef,
        kind: NodeKind,
    ) -> Option<Arc<Frame>> {
        self.pages = self.pages.saturating_add(u64::from(reference.pages));
        walk.meet(reference.block(), claim.birth, kind, tree.keyspace);
        let frame = walk.read(reference, kind, tree.keyspace).ok()?;
        if frame.header().keyspace != tree.keyspace {
            let text = format!("it says that it is of keyspace {}", frame.header().keyspace);
            walk.problem(Structure::Sidecar, reference.page, tree.keyspace, text);
        }
        Some(frame)
    }

    /// The lines of a leaf's filter, if it has one that can be read.
    pub fn filter_of(
        &self,
        walk: &mut Walk<'_>,
        tree: &Tree<'_>,
        claim: &Claim,
        index: usize,
        child: &Child,
    ) -> Option<Vec<u8>> {
        let slot = child.filter?;
        let frame = self.pieces.get(slot.piece as usize)?.as_ref()?;
        let start = (slot.first_line as usize).saturating_mul(LINE_BYTES);
        let length = (slot.lines as usize).saturating_mul(LINE_BYTES);
        let lines = frame.content().get(start..start.saturating_add(length));
        if lines.is_none() {
            let text = format!("the filter of leaf {index} lies outside its piece");
            walk.problem(Structure::Parent, claim.reference.page, tree.keyspace, text);
        }
        lines.map(<[u8]>::to_vec)
    }

    /// The overflow values of a leaf.
    pub fn listed(&self, index: usize) -> Listed {
        let items = self.items.iter().filter(|item| item.child_index as usize == index);
        Listed { items: items.cloned().collect(), complete: self.complete }
    }
}

fn references(of: &SidecarReferences<'_>) -> Vec<NodeRef> {
    // A parent that was checked has only references that can be decoded.
    (0..of.len()).filter_map(|index| of.get(index).ok()).collect()
}
