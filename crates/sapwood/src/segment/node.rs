//! Leaves and parents as checked frames.
//!
//! *Assumes*: the page manager has verified identity and checksum. *Guarantees*: a frame that is
//! handed out has been checked whole once: its order, kinds and lengths are right, so that search
//! in it finds what is there.

use std::cmp::Ordering;

use super::key_range::KeyRange;
use super::overflow_reference::{ListedPages, OverflowList, OverflowListItem};
use super::parent::{Parent, ParentShape};
use super::sorted_block::{BlockShape, KindSet, SortedBlock};
use super::{BlockProblem, COMPOSITE_KEY_BYTES_MAX};
use crate::error::{Corruption, Error, Result, Structure};
use crate::page::{FLAG_NUMBERS, FLAG_WIDE_SLOTS, Frame, NodeKind, NodeRef, PageManager};
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

type BlockResult<T> = std::result::Result<T, BlockProblem>;

/// Whether a read leaves its mark in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// What is read is kept.
    Keep,
    /// What is read is kept when it is met again: for long walks.
    InPassing,
    /// A hit is used, but what is read is not kept: for merges.
    Pass,
}

/// What leaves of a tree hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeKind {
    /// Puts and point tombstones.
    Points,
    /// Range tombstones.
    Ranges,
}

impl TreeKind {
    fn kinds(self) -> KindSet {
        match self {
            TreeKind::Points => KindSet::POINTS,
            TreeKind::Ranges => KindSet::RANGES,
        }
    }

    /// What a frame of such a leaf was looked through as.
    fn checked(self) -> u8 {
        match self {
            TreeKind::Points => 1,
            TreeKind::Ranges => 2,
        }
    }
}

/// What a frame was looked through as, when it was a parent.
const CHECKED_PARENT: u8 = 3;

/// A leaf in memory.
#[derive(Clone, Debug)]
pub struct LeafNode {
    frame: Arc<Frame>,
    shape: BlockShape,
}

/// A parent in memory.
#[derive(Clone, Debug)]
pub struct ParentNode {
    frame: Arc<Frame>,
    shape: ParentShape,
}

/// A problem in a node that has been found to be of the keyspace that it names.
fn damage(frame: &Frame, structure: Structure, problem: BlockProblem) -> Error {
    let header = frame.header();
    let corruption = problem.corruption(structure).at_page(header.page);
    Error::from(corruption).met_in(header.keyspace)
}

fn read(
    pages: &PageManager,
    reference: &NodeRef,
    kind: NodeKind,
    how: Caching,
) -> Result<Arc<Frame>> {
    match how {
        Caching::Keep => pages.read_node(reference, kind),
        Caching::InPassing => pages.read_node_in_passing(reference, kind),
        Caching::Pass => pages.read_node_uncached(reference, kind),
    }
}

fn check_place(
    frame: &Frame,
    structure: Structure,
    keyspace: KeyspaceNumber,
    height: u8,
) -> Result<()> {
    let header = frame.header();
    if header.keyspace == keyspace && header.height == height {
        return Ok(());
    }
    let found = format!(
        "found height {} of keyspace {}, expected height {height} of keyspace {keyspace}",
        header.height, header.keyspace
    );
    Err(Error::from(Corruption::new(structure, found).at_page(header.page)).met_in(keyspace))
}

/// Reads a leaf of a tree of `keyspace`.
///
/// # Errors
/// When it cannot be read or is damaged.
pub fn read_leaf(
    pages: &PageManager,
    reference: &NodeRef,
    keyspace: KeyspaceNumber,
    kind: TreeKind,
    how: Caching,
) -> Result<LeafNode> {
    let frame =
        read(pages, reference, NodeKind::Leaf, how).map_err(|error| error.met_in(keyspace))?;
    let bits = frame.header().flags;
    let shape =
        BlockShape::parse(frame.content(), bits & FLAG_NUMBERS != 0, bits & FLAG_WIDE_SLOTS != 0)
            .map_err(|problem| damage(&frame, Structure::Leaf, problem))?;
    // Who asked before may have named it in another tree.
    check_place(&frame, Structure::Leaf, keyspace, 0)?;
    if bits & FLAG_NUMBERS != 0 && keyspace != KeyspaceNumber::MANY {
        let problem = BlockProblem("a leaf of a level has numbers");
        return Err(damage(&frame, Structure::Leaf, problem));
    }
    if !frame.is_checked_as(kind.checked()) {
        shape
            .view(frame.content())
            .check(kind.kinds(), COMPOSITE_KEY_BYTES_MAX)
            .map_err(|problem| damage(&frame, Structure::Leaf, problem))?;
        frame.set_checked_as(kind.checked());
    }
    Ok(LeafNode { frame, shape })
}

/// Reads a leaf at its place: those above it leave it the keys of `range`.
///
/// What is read this way, leaf after leaf, ascends, whatever the file holds.
///
/// # Errors
/// When it cannot be read, is damaged, or belongs to another place.
pub fn read_leaf_at(
    pages: &PageManager,
    reference: &NodeRef,
    keyspace: KeyspaceNumber,
    kind: TreeKind,
    how: Caching,
    range: &KeyRange,
) -> Result<LeafNode> {
    let node = read_leaf(pages, reference, keyspace, kind, how)?;
    node.check_range(&range.start, range.end.as_deref())?;
    Ok(node)
}

/// Reads a parent of a tree of `keyspace`.
///
/// # Errors
/// When it cannot be read, is damaged, or has another height.
pub fn read_parent(
    pages: &PageManager,
    reference: &NodeRef,
    keyspace: KeyspaceNumber,
    height: u8,
) -> Result<ParentNode> {
    let frame =
        pages.read_node(reference, NodeKind::Parent).map_err(|error| error.met_in(keyspace))?;
    let wide = frame.header().flags & FLAG_WIDE_SLOTS != 0;
    check_place(&frame, Structure::Parent, keyspace, height)?;
    let shape = ParentShape::parse(frame.content(), height, wide)
        .map_err(|problem| damage(&frame, Structure::Parent, problem))?;
    if !frame.is_checked_as(CHECKED_PARENT) {
        shape
            .view(frame.content())
            .check()
            .map_err(|problem| damage(&frame, Structure::Parent, problem))?;
        frame.set_checked_as(CHECKED_PARENT);
    }
    Ok(ParentNode { frame, shape })
}

/// Reads a parent at its place: those above it leave it the keys of `range`.
///
/// Two nodes of one height never have a place in common, so whoever goes down this way meets each
/// parent once at most, whatever the file holds.
///
/// # Errors
/// When it cannot be read, is damaged, or belongs to another place.
pub fn read_parent_at(
    pages: &PageManager,
    reference: &NodeRef,
    keyspace: KeyspaceNumber,
    height: u8,
    range: &KeyRange,
) -> Result<ParentNode> {
    let node = read_parent(pages, reference, keyspace, height)?;
    node.check_range(&range.start, range.end.as_deref())?;
    Ok(node)
}

/// Where the place of a node begins or ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Border<'a> {
    /// At a key.
    Key(&'a [u8]),
    /// At a separator of a parent above, by its index: nothing is copied.
    Separator(&'a ParentNode, usize),
}

impl<'a> Border<'a> {
    /// Nothing lies before the empty key.
    fn of_start(start: &'a [u8]) -> Option<Border<'a>> {
        (!start.is_empty()).then_some(Border::Key(start))
    }

    /// How the key at `index` of a block stands to it.
    fn compare(self, block: &SortedBlock<'_>, index: usize) -> BlockResult<Ordering> {
        match self {
            Border::Key(key) => block.compare_key(index, key),
            Border::Separator(parent, above) => {
                SortedBlock::compare_entries((block, index), (parent.view().block(), above))
            }
        }
    }
}

/// Whether the keys of a block lie between two borders, where there are such: the first one as
/// `begins` says, the last one before the end.
fn lies_between(
    block: &SortedBlock<'_>,
    begins: fn(Ordering) -> bool,
    start: Option<Border<'_>>,
    end: Option<Border<'_>>,
) -> BlockResult<bool> {
    let last = block.len().saturating_sub(1);
    Ok(start.map_or(Ok(true), |start| start.compare(block, 0).map(begins))?
        && end.map_or(Ok(true), |end| end.compare(block, last).map(Ordering::is_lt))?)
}

impl LeafNode {
    /// Its entries.
    pub fn view(&self) -> SortedBlock<'_> {
        self.shape.view(self.frame.content())
    }

    /// The frame that holds it.
    pub fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }

    /// A problem in it as an error that names its place.
    pub fn damage(&self, problem: BlockProblem) -> Error {
        damage(&self.frame, Structure::Leaf, problem)
    }

    /// Checks that its keys lie where those above it say: none before `start`, all before `end`.
    /// Of a ranges tree it is where its range tombstones begin; the last may end further on.
    ///
    /// # Errors
    /// When they do not.
    pub fn check_range(&self, start: &[u8], end: Option<&[u8]>) -> Result<()> {
        self.check_between(Border::of_start(start), end.map(Border::Key))
    }

    /// The same between two borders, where there are such.
    pub(super) fn check_between(
        &self,
        start: Option<Border<'_>>,
        end: Option<Border<'_>>,
    ) -> Result<()> {
        match lies_between(&self.view(), Ordering::is_ge, start, end) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.damage(BlockProblem("its keys lie beside its place"))),
            Err(problem) => Err(self.damage(problem)),
        }
    }
}

impl ParentNode {
    /// Its children.
    pub fn view(&self) -> Parent<'_> {
        self.shape.view(self.frame.content())
    }

    /// Its height, at least 1.
    pub fn height(&self) -> u8 {
        self.frame.header().height
    }

    /// Checks that its separators lie where those above it say: the first at `start`, all before
    /// `end`. No separator lies before what begins the tree: that may begin anywhere.
    ///
    /// # Errors
    /// When they do not.
    pub fn check_range(&self, start: &[u8], end: Option<&[u8]>) -> Result<()> {
        self.check_between(Border::of_start(start), end.map(Border::Key))
    }

    /// The same between two borders, where there are such.
    pub(super) fn check_between(
        &self,
        start: Option<Border<'_>>,
        end: Option<Border<'_>>,
    ) -> Result<()> {
        match lies_between(self.view().block(), Ordering::is_eq, start, end) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.damage(BlockProblem("its separators lie beside its place"))),
            Err(problem) => Err(self.damage(problem)),
        }
    }

    /// What names it.
    pub fn reference(&self) -> NodeRef {
        self.frame.reference()
    }

    /// A problem in it as an error that names its place.
    pub fn damage(&self, problem: BlockProblem) -> Error {
        damage(&self.frame, Structure::Parent, problem)
    }

    /// Reads a node that stands beside it: a list or a piece of filters.
    pub fn read_beside(
        &self,
        pages: &PageManager,
        reference: &NodeRef,
        kind: NodeKind,
    ) -> Result<Arc<Frame>> {
        let keyspace = self.frame.header().keyspace;
        pages.read_node(reference, kind).map_err(|error| error.met_in(keyspace))
    }

    /// Hands out what the overflow lists beside a lowest parent name, until `visit` says false.
    ///
    /// # Errors
    /// When a list cannot be read, is damaged, or names more than the leaves have; and those of
    /// `visit`.
    pub fn visit_overflow(
        &self,
        pages: &PageManager,
        visit: &mut dyn FnMut(OverflowListItem) -> Result<bool>,
    ) -> Result<()> {
        let view = self.view();
        let lists = view.overflow_lists();
        if lists.is_empty() {
            return Ok(());
        }
        let said_pages = view.overflow_pages().map_err(|p| self.damage(p))?;
        let mut listed = ListedPages::new(said_pages, pages.file_pages());
        for index in 0..lists.len() {
            let list = lists.get(index).map_err(|p| self.damage(p))?;
            let frame = self.read_beside(pages, &list, NodeKind::OverflowList)?;
            for item in OverflowList::new(frame.content()) {
                let item = item.map_err(|p| self.damage(p))?;
                listed.take(&item).map_err(|p| self.damage(p))?;
                if !visit(item)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The reference to a child.
    pub fn child_reference(&self, index: usize) -> Result<NodeRef> {
        self.view().child_reference(index).map_err(|p| self.damage(p))
    }
}
