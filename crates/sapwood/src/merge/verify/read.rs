//! Reading the pieces of a state: nodes and overflow values.
//!
//! *Guarantees*: what cannot be read is noted as a problem, unless a newer durable state is there:
//! then it is a suspect, which that state is asked for.

use super::again::{Newer, Piece, Suspect};
use super::problem::Problem;
use super::walk::{Tree, Walk, Walked};
use crate::error::{Corruption, Error, Result};
use crate::page::node_image::verify_node_counted;
use crate::page::{Frame, NodeKind, NodeRef};
use crate::segment::overflow::verify_value;
use crate::segment::overflow_reference::OverflowReference;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

/// What became of a piece that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is damaged, and that is noted.
    Damaged,
    /// A newer state is there, which may have replaced it: it is the last suspect.
    Suspect,
}

impl Walk<'_> {
    /// Reads a node; when that fails the problem is noted, or it is a suspect.
    pub fn read(
        &mut self,
        reference: &NodeRef,
        kind: NodeKind,
        keyspace: KeyspaceNumber,
    ) -> std::result::Result<Arc<Frame>, Unread> {
        let piece = Piece::Node(*reference);
        let error = match self.known_problem(&piece) {
            Some(problem) => return Err(self.damaged(problem)),
            None => match self.read_from_file(reference, kind) {
                Ok(frame) => {
                    self.counts.nodes += 1;
                    return Ok(frame);
                }
                Err(error) => error.met_in(keyspace),
            },
        };
        Err(self.failed(piece, &error, reference.page))
    }

    fn damaged(&mut self, problem: Problem) -> Unread {
        self.counts.unreadable += 1;
        self.problems.push(problem);
        Unread::Damaged
    }

    fn failed(&mut self, piece: Piece, error: &Error, page: PageNumber) -> Unread {
        let problem = Problem::at(error, page);
        match self.newer() {
            Newer::Same => self.damaged(problem),
            Newer::State(_) | Newer::TooFast => {
                self.suspects.push(Suspect { piece, problem });
                Unread::Suspect
            }
        }
    }

    fn read_from_file(&mut self, reference: &NodeRef, kind: NodeKind) -> Result<Arc<Frame>> {
        if self.unwritten.contains(&reference.page) {
            return self.pages.read_node_uncached(reference, kind);
        }
        let layout = self.pages.layout();
        let damaged =
            |detail: String| Corruption::new(kind.structure(), detail).at_page(reference.page);
        self.pages.check_block(reference.block()).map_err(damaged)?;
        if reference.pages > layout.node_pages_max() {
            return Err(damaged(format!("no node has {} pages", reference.pages)).into());
        }
        let mut bytes = vec![0; layout.bytes_of(reference.pages)];
        let storage = self.pages.storage();
        storage.read_at(layout.offset_of(reference.page), &mut bytes).map_err(|error| {
            Error::io(format!("reading page {}", reference.page), storage.name(), error)
        })?;
        self.counts.bytes_read += bytes.len() as u64;
        let counted_in = Some(self.pages.budget());
        verify_node_counted(layout, reference, kind, bytes, counted_in).map(Arc::new)
    }

    /// Meets the blocks of the overflow value of `key` in a tree, and reads it.
    pub fn overflow_value(
        &mut self,
        tree: &Tree<'_>,
        key: &[u8],
        keyspace: KeyspaceNumber,
        reference: &OverflowReference,
        birth: Epoch,
    ) -> Walked {
        self.counts.overflow_values += 1;
        let mut is_needed = true;
        for &block in &reference.blocks {
            is_needed &= self.meet(block, birth, NodeKind::OverflowValue, keyspace);
        }
        if self.values && is_needed {
            self.counts.bytes_read += self.pages.layout().stream_bytes(reference.pages());
            let page = reference.blocks.first().map_or(PageNumber(0), |block| block.first);
            let piece = Piece::Value { page, stamp: reference.stamp, checksum: reference.checksum };
            if let Some(problem) = self.known_problem(&piece) {
                self.problems.push(problem);
            } else if let Err(error) = self.read_value(keyspace, reference)
                && self.failed_value(piece, &error, page) == Unread::Suspect
            {
                self.again_value(tree, key, keyspace)?;
            }
        }
        self.advance(reference.pages())
    }

    /// Values are no nodes that hide others.
    fn failed_value(&mut self, piece: Piece, error: &Error, page: PageNumber) -> Unread {
        let unreadable = self.counts.unreadable;
        let outcome = self.failed(piece, error, page);
        self.counts.unreadable = unreadable;
        outcome
    }

    /// Reads a value, which names its keyspace, or none.
    fn read_value(
        &mut self,
        keyspace: KeyspaceNumber,
        reference: &OverflowReference,
    ) -> Result<()> {
        let mut names = [KeyspaceNumber::MANY, keyspace];
        if self.values_name_keyspace {
            names.reverse();
        }
        let Err(first) = verify_value(self.pages, names[0], reference) else { return Ok(()) };
        let Err(second) = verify_value(self.pages, names[1], reference) else {
            self.values_name_keyspace = !self.values_name_keyspace;
            return Ok(());
        };
        // Of the two, one may only have stumbled over the name.
        let stumbled = matches!(&first, Error::Corruption(c) if c.detail.contains("of keyspace"));
        Err(if stumbled { second } else { first })
    }
}
