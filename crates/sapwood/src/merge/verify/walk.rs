//! The walk over all segments of a state.
//!
//! *Guarantees*: only a cancelled walk ends early. A node is met before what lies below it.

use std::collections::HashSet;

use super::again::{Newest, Suspect};
use super::blocks::LiveBlock;
use super::leaf::{LeafCheck, Leaves};
use super::problem::{Problem, Problems};
use super::read::Unread;
use super::sidecar::Sidecar;
use crate::error::Structure;
use crate::page::{Block, BlockList, FLAG_WIDE_SLOTS, NodeKind, NodeRef, PageManager, PageSet};
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::node::TreeKind;
use crate::segment::parent::{Child, Parent, ParentShape};
use crate::segment::segment_filter::node_bytes_max;
use crate::segment::tree_edit::{leaves_below, pages_below};
use crate::state::Contents;
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

/// The caller has cancelled.
#[derive(Debug)]
pub struct Cancelled;

/// How a walk goes on.
pub type Walked = Result<(), Cancelled>;

/// What a walk has met.
#[derive(Debug, Default)]
pub struct WalkCounts {
    pub nodes: u64,
    pub leaves: u64,
    pub entries: u64,
    pub overflow_values: u64,
    pub bytes_read: u64,
    pub unreadable: u64,
    /// Pieces that could not be read and may have been replaced by a newer state, and for how many
    /// of them no state was found that stayed for long enough.
    pub replaced: u64,
    pub given_up: u64,
    /// What they are if a state references them still; not more than are listed of problems.
    pub unjudged: Vec<Problem>,
    pub live: PageSet,
}

/// See the module.
pub struct Walk<'a> {
    pub pages: &'a PageManager,
    /// Read every chunk of overflow values too.
    pub values: bool,
    pub problems: &'a mut Problems,
    pub progress: &'a mut dyn FnMut(u64, u64) -> bool,
    found: &'a mut dyn FnMut(&LiveBlock),
    pub counts: WalkCounts,
    /// Nodes that are in memory only.
    pub unwritten: HashSet<PageNumber>,
    /// What was named before when it was met.
    met_twice: BlockList,
    epoch: Epoch,
    pub pages_done: u64,
    pub pages_total: u64,
    /// The last overflow value that was read names its keyspace in its header.
    pub values_name_keyspace: bool,
    /// The generation of the state, and who knows of newer ones, where there may be some.
    pub newest: Option<(u64, &'a mut Newest<'a>)>,
    /// What older states could not read.
    pub known: Vec<Suspect>,
    /// What this one could not read, although a newer one is there.
    pub suspects: Vec<Suspect>,
    /// How many states were walked before this one.
    pub states: usize,
}

/// One tree, with what its nodes are checked against.
pub struct Tree<'a> {
    pub segment: &'a Segment,
    pub kind: TreeKind,
    /// What its nodes name.
    pub keyspace: KeyspaceNumber,
    /// What lies in here is dead.
    pub promoted: &'a KeyRanges,
    /// When not all of it is walked: what is.
    pub wanted: Option<&'a KeyRange>,
}

/// What the parent, or the state, says of a node.
#[derive(Clone, Debug)]
pub struct Claim {
    pub reference: NodeRef,
    pub height: u8,
    pub birth: Epoch,
    pub entries: u64,
    pub tombstones: u64,
    /// Pages below it; of a leaf, those of its overflow values.
    pub pages_below: u64,
    pub leaves: u64,
    pub overflow: Option<bool>,
}

impl Claim {
    fn of_root(root: &TreeRoot) -> Claim {
        Claim {
            reference: root.reference,
            height: root.height,
            birth: root.birth,
            entries: root.entries,
            tombstones: root.tombstones,
            pages_below: root.pages.saturating_sub(u64::from(root.reference.pages)),
            leaves: root.leaves,
            overflow: None,
        }
    }

    fn of_child(child: &Child, height: u8, birth: Epoch) -> Claim {
        Claim {
            reference: child.reference,
            height,
            birth,
            entries: child.entries,
            tombstones: child.tombstones,
            pages_below: pages_below(child),
            leaves: leaves_below(child),
            overflow: Some(child.has_overflow()),
        }
    }
}

impl<'a> Walk<'a> {
    pub fn new(
        pages: &'a PageManager,
        contents: &Contents,
        values: bool,
        problems: &'a mut Problems,
        progress: &'a mut dyn FnMut(u64, u64) -> bool,
        found: &'a mut dyn FnMut(&LiveBlock),
    ) -> Walk<'a> {
        let levels = contents.levels.values().flat_map(|levels| levels.iter());
        let segments = contents.young.iter().chain(levels);
        Walk {
            pages,
            values,
            problems,
            progress,
            found,
            counts: WalkCounts::default(),
            // Taken after the state: what is not here any more is in the file.
            unwritten: pages.unwritten_pages().into_iter().collect(),
            met_twice: BlockList::new(),
            epoch: contents.epoch,
            pages_done: 0,
            pages_total: segments.map(|segment| segment.pages()).fold(0, u64::saturating_add),
            values_name_keyspace: true,
            newest: None,
            known: Vec::new(),
            suspects: Vec::new(),
            states: 0,
        }
    }

    /// Notes a problem in a node.
    pub fn problem(
        &mut self,
        structure: Structure,
        page: PageNumber,
        keyspace: KeyspaceNumber,
        text: impl Into<String>,
    ) {
        let keyspace = (keyspace != KeyspaceNumber::MANY).then_some(keyspace);
        let text = text.into();
        self.problems.push(Problem {
            structure: Some(structure),
            page: Some(page),
            keyspace,
            text,
        });
    }

    /// Notes a problem of a segment as a whole.
    pub fn segment_problem(&mut self, keyspace: KeyspaceNumber, text: String) {
        let keyspace = (keyspace != KeyspaceNumber::MANY).then_some(keyspace);
        self.problems.push(Problem {
            structure: Some(Structure::State),
            page: None,
            keyspace,
            text,
        });
    }

    /// Counts a block as in use. False when it need not be read: what is named again and again was
    /// told of, and read twice.
    pub fn meet(
        &mut self,
        block: Block,
        birth: Epoch,
        what: NodeKind,
        keyspace: KeyspaceNumber,
    ) -> bool {
        if birth > self.epoch || birth.0 == 0 {
            let text = format!("born in state {birth}, but this is state {}", self.epoch);
            self.problem(what.structure(), block.first, keyspace, text);
        }
        if let Err(detail) = self.pages.check_block(block) {
            self.problem(what.structure(), block.first, keyspace, detail);
            return true;
        }
        let mut is_needed = true;
        if self.counts.live.intersects(block) {
            is_needed = !self.met_twice.intersects(block);
            self.met_twice.insert_any(block);
            let text = format!("one of its {} pages is used twice in this state", block.pages);
            self.problem(what.structure(), block.first, keyspace, text);
        }
        self.counts.live.insert_any(block);
        (self.found)(&LiveBlock { block, birth, what });
        is_needed
    }

    /// Says how far the walk is.
    pub fn advance(&mut self, pages: u64) -> Walked {
        self.pages_done = self.pages_done.saturating_add(pages);
        let done = self.pages_done.min(self.pages_total);
        if (self.progress)(done, self.pages_total) { Ok(()) } else { Err(Cancelled) }
    }

    /// Checks a node and all that lives below it. `separator` is what its own parent has for it.
    fn visit(
        &mut self,
        tree: &Tree<'_>,
        leaves: &mut Leaves,
        claim: &Claim,
        range: &KeyRange,
        separator: Option<&[u8]>,
    ) -> Walked {
        let kind = if claim.height == 0 { NodeKind::Leaf } else { NodeKind::Parent };
        let is_needed = self.meet(claim.reference.block(), claim.birth, kind, tree.keyspace);
        if claim.height == 0 {
            if !is_needed {
                return self.advance(u64::from(claim.reference.pages));
            }
            let check = LeafCheck { tree, claim, range, filter: None, listed: None };
            self.advance(u64::from(claim.reference.pages))?;
            return leaves.check(self, &check);
        }
        let read = self.read(&claim.reference, kind, tree.keyspace);
        self.advance(u64::from(claim.reference.pages))?;
        let frame = match read {
            Ok(frame) => frame,
            Err(Unread::Damaged) => return Ok(()),
            Err(Unread::Suspect) => return self.again(tree, range),
        };
        let (header, page) = (frame.header(), claim.reference.page);
        if header.keyspace != tree.keyspace || header.height != claim.height {
            let text = format!(
                "it has height {} and keyspace {}, its parent says {} and {}",
                header.height, header.keyspace, claim.height, tree.keyspace
            );
            self.problem(Structure::Parent, page, tree.keyspace, text);
        }
        let wide = header.flags & FLAG_WIDE_SLOTS != 0;
        let shape = ParentShape::parse(frame.content(), claim.height, wide);
        let checked = shape.and_then(|shape| {
            let parent = shape.view(frame.content());
            parent.check()?;
            let children = children_of(&parent, range)?;
            Ok((parent, children))
        });
        match checked {
            Ok((parent, children)) => {
                if !self.check_separators(tree, page, range, separator, &children) {
                    // What it names may belong to others, and lead around for ever.
                    self.counts.unreadable += 1;
                    return Ok(());
                }
                self.parent(tree, leaves, claim, range, &parent, &children)
            }
            Err(problem) => {
                self.counts.unreadable += 1;
                self.problem(Structure::Parent, page, tree.keyspace, problem.0);
                Ok(())
            }
        }
    }

    fn parent(
        &mut self,
        tree: &Tree<'_>,
        leaves: &mut Leaves,
        claim: &Claim,
        range: &KeyRange,
        parent: &Parent<'_>,
        children: &[(Child, KeyRange, Vec<u8>)],
    ) -> Walked {
        let page = claim.reference.page;
        let mut sidecar = Sidecar::default();
        if claim.height == 1 {
            sidecar.read(self, tree, claim, parent);
            self.advance(sidecar.pages)?;
            if !self.suspects.is_empty() {
                return self.again(tree, range);
            }
        } else if children.len() == 1 {
            self.problem(Structure::Parent, page, tree.keyspace, "an upper parent with one child");
        }
        self.check_sums(tree, claim, children, sidecar.pages);
        for (index, (child, child_range, separator)) in children.iter().enumerate() {
            let birth = child.birth.unwrap_or(claim.birth);
            if birth > claim.birth {
                let text = format!("child {index} is born in {birth}, after {}", claim.birth);
                self.problem(Structure::Parent, page, tree.keyspace, text);
            }
            let is_wanted = tree.wanted.is_none_or(|wanted| wanted.overlaps(child_range));
            if !is_wanted || tree.promoted.covers(child_range) {
                continue;
            }
            let child_claim = Claim::of_child(child, claim.height - 1, birth);
            if claim.height > 1 {
                self.visit(tree, leaves, &child_claim, child_range, Some(separator))?;
                continue;
            }
            let is_needed =
                self.meet(child.reference.block(), birth, NodeKind::Leaf, tree.keyspace);
            self.advance(u64::from(child.reference.pages))?;
            if !is_needed {
                continue;
            }
            let filter = sidecar.filter_of(self, tree, claim, index, child);
            let listed = sidecar.listed(index);
            let check = LeafCheck {
                tree,
                claim: &child_claim,
                range: child_range,
                filter: filter.as_deref(),
                listed: Some(&listed),
            };
            leaves.check(self, &check)?;
        }
        Ok(())
    }

    /// Whether they lie where the node's own place is.
    fn check_separators(
        &mut self,
        tree: &Tree<'_>,
        page: PageNumber,
        range: &KeyRange,
        separator: Option<&[u8]>,
        children: &[(Child, KeyRange, Vec<u8>)],
    ) -> bool {
        let Some((_, _, first)) = children.first() else { return true };
        let mut is_in_place = true;
        // A root's own is nowhere said.
        if separator.is_some_and(|separator| separator != first) {
            let text = "its first separator is not the one that its own parent has for it";
            self.problem(Structure::Parent, page, tree.keyspace, text);
            is_in_place = false;
        }
        if children.iter().any(|(_, _, separator)| !range.contains(separator)) {
            let text = "a separator lies outside the node's own range";
            self.problem(Structure::Parent, page, tree.keyspace, text);
            is_in_place = false;
        }
        is_in_place
    }

    /// The counts of the children make those of the parent.
    fn check_sums(
        &mut self,
        tree: &Tree<'_>,
        claim: &Claim,
        children: &[(Child, KeyRange, Vec<u8>)],
        sidecar_pages: u64,
    ) {
        let sum = |part: fn(&Child) -> u64| {
            children.iter().map(|(child, ..)| part(child)).fold(0, u64::saturating_add)
        };
        let pages =
            sum(|child| u64::from(child.reference.pages).saturating_add(pages_below(child)));
        let sums = [
            ("entries", claim.entries, sum(|child| child.entries)),
            ("tombstones", claim.tombstones, sum(|child| child.tombstones)),
            ("pages below", claim.pages_below, pages.saturating_add(sidecar_pages)),
            ("leaves", claim.leaves, sum(leaves_below)),
        ];
        let page = claim.reference.page;
        for (name, said, found) in sums {
            if said != found {
                let text = format!("{name}: its children have {found}, it should be {said}");
                self.problem(Structure::Parent, page, tree.keyspace, text);
            }
        }
        let overflow = children.iter().any(|(child, ..)| child.has_overflow());
        if claim.overflow.is_some_and(|said| said != overflow) {
            let text = "its parent is wrong about overflow values below it";
            self.problem(Structure::Parent, page, tree.keyspace, text);
        }
    }
}

/// All children with their ranges and separators.
fn children_of(
    parent: &Parent<'_>,
    range: &KeyRange,
) -> Result<Vec<(Child, KeyRange, Vec<u8>)>, crate::segment::BlockProblem> {
    let mut separators = Vec::with_capacity(parent.len());
    for index in 0..parent.len() {
        let mut separator = Vec::new();
        parent.separator(index, &mut separator)?;
        separators.push(separator);
    }
    let mut children = Vec::with_capacity(parent.len());
    for (index, separator) in separators.iter().enumerate() {
        // Readers go to the first child with whatever lies before the second.
        let start = if index == 0 { range.start.clone() } else { separator.clone() };
        let end = separators.get(index + 1).cloned().or_else(|| range.end.clone());
        children.push((parent.child(index)?, KeyRange { start, end }, separator.clone()));
    }
    Ok(children)
}

/// Walks all segments of a state.
pub fn walk_contents(walk: &mut Walk<'_>, contents: &Contents) -> Walked {
    let mut newer: Option<&Segment> = None;
    for segment in &contents.young {
        check_young(walk, contents, segment, newer);
        newer = Some(segment);
        walk_segment(walk, segment, KeyspaceNumber::MANY)?;
    }
    for (keyspace, levels) in &contents.levels {
        if contents.catalogue.get(*keyspace).is_none() {
            walk.segment_problem(*keyspace, "levels of a keyspace that there is not".into());
        }
        for segment in levels.iter() {
            if segment.is_young() {
                let text = format!("segment {} of a level has sequence numbers", segment.number);
                walk.segment_problem(*keyspace, text);
            }
            walk_segment(walk, segment, *keyspace)?;
        }
    }
    Ok(())
}

fn check_young(
    walk: &mut Walk<'_>,
    contents: &Contents,
    segment: &Segment,
    newer: Option<&Segment>,
) {
    let number = segment.number;
    let mut problem = |text: String| walk.segment_problem(KeyspaceNumber::MANY, text);
    let Some((first, last)) = segment.sequences else {
        problem(format!("young segment {number} has no sequence numbers"));
        return;
    };
    if first > last || last > contents.cut.sequence {
        let cut = contents.cut.sequence;
        problem(format!("young segment {number} has commits {first} to {last}, the cut is {cut}"));
    }
    if let Some((newer_first, _)) = newer.and_then(|newer| newer.sequences)
        // A commit by reference may have several, all of its one number.
        && (newer_first < last || newer_first == last && first != last)
    {
        problem(format!("young segment {number} is not older than the one before it"));
    }
    for share in segment.keyspaces.iter() {
        if contents.catalogue.get(share.keyspace).is_none() {
            let keyspace = share.keyspace;
            problem(format!("young segment {number} has keyspace {keyspace}, which there is not"));
        }
    }
}

fn walk_segment(walk: &mut Walk<'_>, segment: &Segment, keyspace: KeyspaceNumber) -> Walked {
    if segment.points.is_none() && segment.ranges.is_none() {
        walk.segment_problem(keyspace, format!("segment {} has no tree", segment.number));
    }
    let unread = |walk: &Walk<'_>| (walk.counts.unreadable, walk.counts.replaced);
    let mut leaves = Leaves::new(read_young_filter(walk, segment, keyspace)?);
    let before = unread(walk);
    visit_trees(walk, segment, keyspace, &mut leaves, None)?;
    if segment.promoted.is_empty() && unread(walk) == before {
        leaves.check_shares(walk, segment);
    }
    Ok(())
}

/// Walks a part of a segment's trees.
pub fn walk_trees(
    walk: &mut Walk<'_>,
    segment: &Segment,
    keyspace: KeyspaceNumber,
    wanted: &KeyRange,
) -> Walked {
    visit_trees(walk, segment, keyspace, &mut Leaves::new(None), Some(wanted))
}

fn visit_trees(
    walk: &mut Walk<'_>,
    segment: &Segment,
    keyspace: KeyspaceNumber,
    leaves: &mut Leaves,
    wanted: Option<&KeyRange>,
) -> Walked {
    let none = KeyRanges::new();
    let trees = [
        (&segment.points, TreeKind::Points, &*segment.promoted),
        // Range tombstones reach over the borders of leaves: their tree dies as one.
        (&segment.ranges, TreeKind::Ranges, &none),
    ];
    for (root, kind, promoted) in trees {
        let Some(root) = root else { continue };
        let tree = Tree { segment, kind, keyspace, promoted, wanted };
        leaves.begin_tree();
        if promoted.covers(&KeyRange::all()) {
            let text = format!("segment {} is promoted whole, but still here", segment.number);
            walk.segment_problem(keyspace, text);
            continue;
        }
        walk.visit(&tree, leaves, &Claim::of_root(root), &KeyRange::all(), None)?;
    }
    Ok(())
}

/// The lines of a young segment's filter.
fn read_young_filter(
    walk: &mut Walk<'_>,
    segment: &Segment,
    keyspace: KeyspaceNumber,
) -> Result<Option<Vec<u8>>, Cancelled> {
    let roots = segment.points.iter().chain(&segment.ranges);
    let birth = roots.map(|root| root.birth).min().unwrap_or(Epoch(0));
    let mut lines = Vec::new();
    let mut whole = !segment.filter.nodes.is_empty();
    for node in &segment.filter.nodes {
        walk.meet(node.block(), birth, NodeKind::YoungFilter, keyspace);
        match walk.read(node, NodeKind::YoungFilter, keyspace) {
            Ok(frame) if frame.content().len() as u64 > node_bytes_max(walk.pages, node) => {
                let text = "it holds more than its pages do".to_owned();
                walk.problem(Structure::Filter, node.page, keyspace, text);
                whole = false;
            }
            Ok(frame) => lines.extend_from_slice(frame.content()),
            Err(_) => whole = false,
        }
    }
    if !walk.suspects.is_empty() {
        walk.again_filter(segment.number)?;
    }
    Ok(whole.then_some(lines))
}
