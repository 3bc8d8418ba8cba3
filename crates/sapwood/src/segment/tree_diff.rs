//! Where two trees of one keyspace differ: the ranges of keys below the leaves that only one of
//! them has.
//!
//! Both trees are gone down height by height. The nodes of one height come in the order of their
//! keys from both at once, and those that both have are left out as they come: what is kept at a
//! time is what differs, not what lies below it.
//!
//! *Assumes*: the blocks of both trees are held, but for those that lie whole in the masked ranges
//! of their tree, which hold nothing any more. *Guarantees*: outside of the ranges, and of what is
//! masked in one of them, both trees have the same entries. Nodes that both have are not read, nor
//! what lies below them; nor is what is masked. *Threads*: any.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::bounded_ranges::{BoundedRanges, TooMany, bytes_of};
use super::coverage::child_range;
use super::descriptor::TreeRoot;
use super::key_range::{KeyRange, KeyRanges};
use super::node::{ParentNode, read_parent_at};
use crate::error::Result;
use crate::page::{NodeRef, PageManager};
use crate::types::KeyspaceNumber;

/// The root of a tree, if there is one, and the ranges in which it holds nothing any more.
pub type Tree<'a> = (Option<&'a TreeRoot>, &'a KeyRanges);

/// A node, and the keys that may lie below it.
type Node = (KeyRange, NodeRef);

/// The nodes of one height of a tree that the other tree does not have.
struct Side<'a> {
    nodes: Vec<Node>,
    height: u8,
    masked: &'a KeyRanges,
}

/// The nodes of one tree, or their children, in order.
struct Nodes<'a> {
    nodes: IntoIter<Node>,
    /// How the children are read; `None` when the nodes themselves are wanted.
    below: Option<Below<'a>>,
    /// The parent whose children come, its range, and the next of them.
    open: Option<(ParentNode, KeyRange, usize)>,
}

struct Below<'a> {
    pages: &'a PageManager,
    keyspace: KeyspaceNumber,
    height: u8,
    range: &'a KeyRange,
}

impl<'a> Side<'a> {
    fn new((root, masked): Tree<'a>) -> Side<'a> {
        let nodes = root.map(|root| (KeyRange::all(), root.reference)).into_iter().collect();
        Side { nodes, height: root.map_or(0, |root| root.height), masked }
    }

    fn take(&mut self) -> Nodes<'a> {
        let nodes = std::mem::take(&mut self.nodes).into_iter();
        Nodes { nodes, below: None, open: None }
    }

    /// The children of its nodes, which are parents.
    fn descend(
        &mut self,
        pages: &'a PageManager,
        keyspace: KeyspaceNumber,
        range: &'a KeyRange,
    ) -> Nodes<'a> {
        let below = Below { pages, keyspace, height: self.height, range };
        self.height -= 1;
        Nodes { below: Some(below), ..self.take() }
    }
}

impl Nodes<'_> {
    fn next_node(&mut self) -> Result<Option<Node>> {
        let Some(below) = &self.below else { return Ok(self.nodes.next()) };
        loop {
            if let Some((parent, range, index)) = &mut self.open
                && *index < parent.view().len()
            {
                let keys = child_range(parent, *index, range)?;
                let reference = parent.child_reference(*index)?;
                *index += 1;
                if keys.overlaps(below.range) {
                    return Ok(Some((keys, reference)));
                }
                continue;
            }
            let Some((range, reference)) = self.nodes.next() else { return Ok(None) };
            let (keyspace, height) = (below.keyspace, below.height);
            let parent = read_parent_at(below.pages, &reference, keyspace, height, &range)?;
            self.open = Some((parent, range, 0));
        }
    }
}

impl Iterator for Nodes<'_> {
    type Item = Result<Node>;

    fn next(&mut self) -> Option<Result<Node>> {
        self.next_node().transpose()
    }
}

/// From which tree a node comes.
#[derive(Clone, Copy)]
enum Which {
    A,
    B,
}

/// The next node that only one of two sequences has.
fn next_differing(
    a: &mut Peekable<Nodes<'_>>,
    b: &mut Peekable<Nodes<'_>>,
) -> Option<Result<(Which, Node)>> {
    loop {
        let from = match (a.peek(), b.peek()) {
            (None, None) => return None,
            (Some(_), None) | (Some(Err(_)), _) => Which::A,
            (None, Some(_)) | (_, Some(Err(_))) => Which::B,
            (Some(Ok((of_a, node_a))), Some(Ok((of_b, node_b)))) => {
                match of_a.start.cmp(&of_b.start) {
                    Ordering::Equal if name(node_a) == name(node_b) => {
                        a.next();
                        b.next();
                        continue;
                    }
                    Ordering::Greater => Which::B,
                    Ordering::Equal | Ordering::Less => Which::A,
                }
            }
        };
        let next = match from {
            Which::A => a.next(),
            Which::B => b.next(),
        };
        return next.map(|node| node.map(|node| (from, node)));
    }
}

/// What tells a node from every other that was ever written.
fn name(node: &NodeRef) -> (u64, u32, u32) {
    (node.page.0, node.stamp, node.checksum)
}

/// Adds the ranges, within `range`, below leaves of either tree that the other does not have; also
/// full when the nodes of one height that differ take more memory than `found` may. Complexity: the
/// nodes that differ.
///
/// # Errors
/// When a parent cannot be read.
pub fn add_differing(
    pages: &PageManager,
    keyspace: KeyspaceNumber,
    (a, b): (Tree<'_>, Tree<'_>),
    range: &KeyRange,
    found: &mut BoundedRanges,
) -> Result<std::result::Result<(), TooMany>> {
    let (mut a, mut b) = (Side::new(a), Side::new(b));
    // The roots are compared as they are.
    let mut are_roots = true;
    loop {
        let height = a.height.max(b.height);
        let goes_down = |side: &Side<'_>| !are_roots && side.height == height;
        let [of_a, of_b] = [&mut a, &mut b].map(|side| match goes_down(side) {
            true => side.descend(pages, keyspace, range),
            false => side.take(),
        });
        are_roots = false;
        let are_leaves = a.height == 0 && b.height == 0;
        let (mut of_a, mut of_b) = (of_a.peekable(), of_b.peekable());
        let mut bytes = 0;
        while let Some(next) = next_differing(&mut of_a, &mut of_b) {
            let (from, (keys, node)) = next?;
            let side = match from {
                Which::A => &mut a,
                Which::B => &mut b,
            };
            if side.masked.covers(&keys) {
                continue;
            }
            if !are_leaves {
                bytes += bytes_of(&keys) + size_of_val(&node);
                side.nodes.push((keys, node));
            } else if let Some(keys) = keys.intersection(range)
                && found.insert(keys).is_err()
            {
                return Ok(Err(TooMany));
            }
            if bytes > found.bytes_max() {
                return Ok(Err(TooMany));
            }
        }
        if are_leaves {
            return Ok(Ok(()));
        }
    }
}
