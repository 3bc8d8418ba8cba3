//! Random edits keep the shape of a tree.

use crate::lab::{Lab, builder, key, value};
use sapwood::merge::stretch::{Side, Stretch, load_stretch, lowest_beside};
use sapwood::page::{
    Block, BlockList, Codec, Layout, MemoryBudget, NodeKind, NodeRef, NodeWriter, PageManager,
    PageOptions,
};
use sapwood::segment::coverage::child_range;
use sapwood::segment::descriptor::{LEAVES_PER_LOWEST_PARENT_MAX, TreeRoot};
use sapwood::segment::key_range::KeyRange;
use sapwood::segment::leaf_writer::LeafOptions;
use sapwood::segment::node::read_parent;
use sapwood::segment::parent::{Below, Child, UPPER_CHILDREN_MAX};
use sapwood::segment::parent_writer::{LeafEntry, Lowest, is_under_third};
use sapwood::segment::segment_writer::{FilterOptions, SegmentWriter};
use sapwood::segment::tree_edit::{TreeChange, TreeEdit};
use sapwood::storage::MemoryStorage;
use sapwood::sync::atomic::Ordering;
use sapwood::sync::{Arc, Random};
use sapwood::{Epoch, KeyspaceNumber, PageNumber};

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);

/// The nodes of one height, from left to right: the lengths of each one's separators.
type Row = Vec<Vec<usize>>;

/// The parents of a tree, from the root down.
pub struct Shape {
    rows: Vec<Row>,
    pub blocks: Vec<Block>,
    /// Where the leaves lie.
    pub leaf_blocks: Vec<Block>,
    leaves: u64,
}

impl Shape {
    pub fn of(pages: &PageManager, keyspace: KeyspaceNumber, root: &TreeRoot) -> Shape {
        let mut shape =
            Shape { rows: Vec::new(), blocks: Vec::new(), leaf_blocks: Vec::new(), leaves: 0 };
        let mut nodes = vec![root.reference];
        for height in (1..=root.height).rev() {
            let (mut row, mut below) = (Row::new(), Vec::new());
            for reference in &nodes {
                // It says so itself when it is not of this height.
                let node = read_parent(pages, reference, keyspace, height).unwrap();
                shape.blocks.push(reference.block());
                let mut lengths = Vec::new();
                for index in 0..node.view().len() {
                    let child = node.view().child(index).unwrap();
                    let is_leaf = matches!(child.below, Below::Leaf { .. });
                    assert_eq!(is_leaf, height == 1, "all leaves have one depth");
                    let mut separator = Vec::new();
                    node.view().separator(index, &mut separator).unwrap();
                    lengths.push(separator.len());
                    below.push(child.reference);
                }
                row.push(lengths);
            }
            shape.rows.push(row);
            nodes = below;
        }
        shape.leaves = nodes.len() as u64;
        shape.leaf_blocks = nodes.iter().map(|leaf| leaf.block()).collect();
        shape
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        for (depth, row) in self.rows.iter().enumerate() {
            let is_lowest = depth + 1 == self.rows.len();
            let most = if is_lowest { LEAVES_PER_LOWEST_PARENT_MAX } else { UPPER_CHILDREN_MAX };
            for (index, lengths) in row.iter().enumerate() {
                let place = format!("node {index} of {} at depth {depth}", row.len());
                if lengths.len() < 2 {
                    return Some(format!("{place} has {} children", lengths.len()));
                }
                if lengths.len() > most {
                    return Some(format!("{place} has {} children", lengths.len()));
                }
                if row.len() > 1 && is_under_third(lengths.iter().copied(), most) {
                    return Some(format!("{place} has {} children only", lengths.len()));
                }
            }
        }
        None
    }

    fn height(&self) -> usize {
        self.rows.len()
    }
}

/// The height of a fresh build of so many leaves with short separators.
fn fresh_height(leaves: u64) -> usize {
    let (mut nodes, mut height) = (leaves, 0);
    while nodes > 1 {
        let most = if height == 0 { LEAVES_PER_LOWEST_PARENT_MAX } else { UPPER_CHILDREN_MAX };
        nodes = nodes.div_ceil(most as u64);
        height += 1;
    }
    height
}

/// A tree whose leaves are names only: edits read and write parents.
struct Tree {
    pages: Arc<PageManager>,
    root: Option<TreeRoot>,
    random: Random,
    epoch: u64,
    /// Leaves named so far.
    named: u64,
    /// Separators are made so long at their end.
    padding: usize,
}

impl Tree {
    fn new(seed: u64, padding: usize) -> Tree {
        let layout = Layout::new(1024, 0, 16 << 20, [9; 16]).unwrap();
        let options = PageOptions {
            storage: Arc::new(MemoryStorage::new()),
            layout,
            budget: Arc::new(MemoryBudget::new(64 << 20)),
            max_file_bytes: None,
        };
        let pages = PageManager::create(options, 1 << 40).unwrap();
        // What leaves are said to take lies in the file.
        let block = pages.allocator().allocate(8000, 8000).unwrap();
        pages.allocator().free(block);
        let random = Random::from_seed(seed);
        Tree { pages, root: None, random, epoch: 1, named: 0, padding }
    }

    fn leaf(&mut self, number: u64) -> LeafEntry {
        self.named += 1;
        let mut separator = number.to_be_bytes().to_vec();
        // Not of equal bytes only, which a parent would store once.
        separator.resize(8 + self.padding, number as u8);
        let reference = NodeRef { page: PageNumber(self.named), pages: 1, stamp: 1, checksum: 1 };
        let child = Child {
            reference,
            entries: 1,
            tombstones: 0,
            birth: None,
            below: Below::Leaf { overflow_pages: 0 },
            filter: None,
            dictionary: None,
            unused: 0,
        };
        LeafEntry { separator, child, filter: Vec::new(), overflow: Vec::new() }
    }

    fn writer(separator: Vec<u8>) -> SegmentWriter {
        let options = LeafOptions {
            leaf_bytes: 1024,
            codec: Codec::Plain,
            base_number: None,
            keyspace: KEYSPACE,
        };
        SegmentWriter::new(options, FilterOptions { seed: 0, bits_per_key: 0 }, separator)
    }

    fn take(&mut self, change: TreeChange, died: impl Iterator<Item = Block>) {
        died.chain(change.died.iter().map(|(block, _)| *block))
            .for_each(|block| self.pages.free(block));
        self.root = change.root;
        self.epoch += 1;
    }

    fn build(&mut self, count: u64) {
        let mut nodes = NodeWriter::new(self.pages.clone(), 64);
        let mut writer = Tree::writer(Vec::new());
        for number in 0..count {
            let leaf = self.leaf(number << 40);
            writer.reuse(&mut nodes, leaf).unwrap();
        }
        let lowest = writer.finish(&mut nodes, true).unwrap();
        nodes.finish().unwrap();
        let tree = TreeEdit::new(&self.pages, KEYSPACE, Epoch(self.epoch));
        let change = tree.build(lowest).unwrap();
        self.take(change, std::iter::empty());
    }

    /// Leaves of a stretch go, come, or stay, as a promotion may have it.
    fn edited(&mut self, leaves: Vec<LeafEntry>, range: &KeyRange, grow: bool) -> Vec<LeafEntry> {
        let mut leaves = leaves;
        match self.random.below(4) {
            // Now and then all of them.
            0 | 1 if !grow => {
                let keep = self.random.below(12);
                leaves.retain(|_| self.random.below(10) < keep);
            }
            0 if self.random.one_in(8) => leaves.truncate(self.random.below(2) as usize),
            _ => {
                let of = |key: &[u8]| {
                    let mut bytes = [0; 8];
                    key.iter().take(8).zip(&mut bytes).for_each(|(from, to)| *to = *from);
                    u64::from_be_bytes(bytes)
                };
                let from = of(&range.start);
                let to = range.end.as_deref().map_or(from + (100 << 40), of);
                let most = if grow { 60 } else { 12 };
                for _ in 0..self.random.below(most) {
                    if to > from + 1 {
                        let number = from + 1 + self.random.below(to - from - 1);
                        leaves.push(self.leaf(number));
                    }
                }
                leaves.sort_by(|a, b| a.separator.cmp(&b.separator));
                leaves.dedup_by(|a, b| a.separator == b.separator);
            }
        }
        leaves
    }

    fn edit(&mut self, grow: bool) {
        let Some(root) = self.root.clone() else { return self.build(200) };
        let start = self.random.below(self.named << 40).to_be_bytes().to_vec();
        let wanted = KeyRange::new(start, None);
        let pages_max = if self.random.one_in(20) { self.random.below(2000) } else { 1 };
        let mut goes_on = |_: &KeyRange| Ok(true);
        let pages = &self.pages;
        let stretch = load_stretch(pages, KEYSPACE, &root, &wanted, pages_max, &mut goes_on);
        let mut stretch = stretch.unwrap();
        let leaves = std::mem::take(&mut stretch.leaves);
        let leaves = match stretch.lone_leaf {
            true => (0..5).map(|number| self.leaf(number << 40)).collect(),
            false => self.edited(leaves, &stretch.range, grow),
        };
        self.replace(&root, &stretch, leaves);
    }

    /// As a promotion step does it, with the same parts.
    fn replace(&mut self, root: &TreeRoot, stretch: &Stretch, leaves: Vec<LeafEntry>) {
        let mut replaced = stretch.range.clone();
        let mut died: Vec<Block> = stretch.died.iter().map(|dead| dead.block).collect();
        let mut nodes = NodeWriter::new(self.pages.clone(), 8);
        let mut writer = Tree::writer(stretch.range.start.clone());
        for leaf in leaves {
            writer.reuse(&mut nodes, leaf).unwrap();
        }
        if replaced != KeyRange::all() && writer.is_under_third(&mut nodes).unwrap() {
            let end = replaced.end.clone();
            let beside = |border: &[u8], side| {
                let found = lowest_beside(&self.pages, KEYSPACE, root, border, side).unwrap();
                found.map(|found| found.into_stretch(&self.pages, KEYSPACE).unwrap())
            };
            if let Some(behind) = end.and_then(|end| beside(&end, Side::Behind)) {
                died.extend(behind.died.iter().map(|dead| dead.block));
                let leaves = behind.leaves.into_iter();
                leaves.for_each(|leaf| writer.reuse(&mut nodes, leaf).unwrap());
                replaced.end = behind.range.end;
            } else if let Some(before) = beside(&replaced.start, Side::Before) {
                died.extend(before.died.iter().map(|dead| dead.block));
                writer.prepend(before.leaves);
                replaced.start = before.range.start;
            }
        }
        let whole = replaced == KeyRange::all();
        let lowest = writer.finish(&mut nodes, whole).unwrap();
        nodes.finish().unwrap();
        let tree = TreeEdit::new(&self.pages, KEYSPACE, Epoch(self.epoch));
        let change = match lowest {
            lowest if whole && root.height >= 2 => tree.rebuild(root, lowest),
            lowest if whole => tree.build(lowest),
            Lowest::Parents(new) => {
                tree.replace(root, &replaced.start, replaced.end.as_deref(), new)
            }
            Lowest::Leaf(_) => unreachable!("a lone leaf is a whole tree"),
        };
        self.take(change.unwrap(), died.into_iter());
    }

    fn check(&self) -> Option<Shape> {
        let root = self.root.as_ref()?;
        let shape = Shape::of(&self.pages, KEYSPACE, root);
        assert_eq!(shape.fault(), None, "after {} edits", self.epoch);
        assert_eq!(shape.leaves, root.leaves);
        let mut used = BlockList::new();
        shape.blocks.iter().for_each(|block| used.insert(*block));
        let given = self.pages.allocator().given_list();
        assert_eq!(given.difference(&used), BlockList::new(), "leaked");
        assert_eq!(used.difference(&given), BlockList::new(), "in use, but free");
        Some(shape)
    }
}

#[test]
fn a_hundred_thousand_random_edits_keep_the_shape_of_a_tree() {
    let mut tree = Tree::new(1, 0);
    let mut highest = 0;
    for turn in 0..100_000 {
        // It grows and shrinks by turns, each several times through a height.
        tree.edit(turn % 20_000 < 4_000);
        if turn % 500 == 0
            && let Some(shape) = tree.check()
        {
            let most = fresh_height(shape.leaves) + 1;
            assert!(shape.height() <= most, "{} leaves: {}", shape.leaves, shape.height());
            highest = highest.max(shape.height());
        }
    }
    assert!(highest >= 3, "the tree never was higher than {highest}");
}

#[test]
fn with_long_separators_high_trees_keep_their_shape() {
    let mut highest = 0;
    for seed in 0..2 {
        let mut tree = Tree::new(seed, 9000);
        for turn in 0..300 {
            tree.edit(turn % 100 < 30);
            if let Some(shape) = tree.check() {
                highest = highest.max(shape.height());
            }
        }
    }
    assert!(highest >= 4, "the tree never was higher than {highest}");
}

/// Such a parent kept the few children for itself, since only its own parent's children were asked
/// for more.
#[test]
fn an_upper_parent_that_is_replaced_by_few_children_takes_in_those_of_another_parent() {
    let mut tree = Tree::new(1, 9000);
    tree.build(1500);
    let children = {
        let root = tree.root.as_ref().unwrap();
        assert!(root.height >= 4);
        read_parent(&tree.pages, &root.reference, KEYSPACE, root.height).unwrap().view().len()
    };
    for child in 0..children {
        for left in [1, 3, 4, 9] {
            let mut tree = Tree::new(1, 9000);
            tree.build(1500);
            let root = tree.root.clone().unwrap();
            let node = read_parent(&tree.pages, &root.reference, KEYSPACE, root.height).unwrap();
            // All that lies under one child of the root.
            let range = child_range(&node, child, &KeyRange::all()).unwrap();
            let mut goes_on = |parent: &KeyRange| Ok(parent.overlaps(&range));
            let pages = &tree.pages;
            let stretch = load_stretch(pages, KEYSPACE, &root, &range, u64::MAX, &mut goes_on);
            let stretch = stretch.unwrap();
            assert_eq!(stretch.range, range);
            let leaves = stretch.leaves[..left].to_vec();
            tree.replace(&root, &stretch, leaves);
            tree.check();
        }
    }
}

#[test]
fn thousands_of_promotions_keep_the_shape_of_the_last_level() {
    let mut lab = Lab::in_memory();
    *lab.core.install_check.lock() = None;
    lab.create();
    let mut random = Random::from_seed(5);
    for number in 0..16_000 {
        let bytes = value(&mut random, 400);
        lab.put(0, &key(number * 4), &bytes);
    }
    lab.database.wait_until_idle().unwrap();
    let mut checked = 0;
    for round in 0..450 {
        let start = random.below(64_000);
        match random.below(3) {
            // About as much as two lowest parents hold.
            0 => lab.delete_range(0, &key(start), &key(start + random.below(1200))),
            1 => (start..start + 40).for_each(|number| {
                let bytes = value(&mut random, 400);
                lab.put(0, &key(number), &bytes);
            }),
            _ => {
                for _ in 0..20 {
                    let bytes = value(&mut random, 400);
                    lab.put(0, &key(random.below(64_000)), &bytes);
                }
            }
        }
        lab.database.flush().unwrap();
        if round % 3 == 0 {
            lab.database.wait_until_idle().unwrap();
            let state = lab.core.state();
            let (keyspace, levels) = state.levels.iter().next().unwrap();
            let root = levels.last().unwrap().points.clone().unwrap();
            let shape = Shape::of(&lab.core.pages, *keyspace, &root);
            assert_eq!(shape.fault(), None, "round {round}");
            assert!(shape.height() <= fresh_height(shape.leaves) + 1);
            checked += 1;
        }
    }
    assert!(checked > 140);
    let promotions = lab.core.counters.promotions.load(Ordering::Relaxed);
    assert!(promotions > 2000, "{promotions} promotions");
    lab.compare();
    lab.check_at_rest();
}

/// Nodes that one promotion of one key writes and makes, into a level of so many leaves: leaves,
/// lowest parents, filter pieces, and upper parents.
fn nodes_of_one_promotion(leaves: u64) -> ([u64; 4], u8) {
    let (builder, hand) = builder();
    // A step may write far more than the one parent that it needs.
    let mut lab = Lab::of(builder.step_bytes(1 << 20).open_in_memory().unwrap(), hand);
    *lab.core.install_check.lock() = None;
    lab.create();
    let keyspace = lab.keyspaces[0].0.clone();
    // One to a leaf, in order: all go to the last level in their final form.
    for number in 0..leaves {
        keyspace.put(key(number), [number as u8; 600]).unwrap();
    }
    lab.database.wait_until_idle().unwrap();
    keyspace.put(key(leaves / 2), [0; 600]).unwrap();
    lab.database.flush().unwrap();
    lab.pause();
    let promotions = || lab.core.counters.promotions.load(Ordering::Relaxed);
    // It is small beside the last level, so it goes to one above it first: the last one counts.
    let mut before = lab.core.pages.counters();
    for count in 1..=2 {
        let promoted = promotions();
        while promotions() == promoted {
            lab.core.pages.write_unwritten().unwrap();
            before = lab.core.pages.counters();
            assert!(lab.database.run_step().unwrap(), "promotion {count} is missing");
        }
    }
    let after = lab.core.pages.counters();
    let written =
        |kind: NodeKind| after.nodes_written[kind.index()] - before.nodes_written[kind.index()];
    let unwritten = lab.core.pages.unwritten_count() as u64;
    let state = lab.core.state();
    assert!(state.young.is_empty());
    // An earlier form rewrote all lowest parents from the first one on, step by step.
    assert_eq!(state.levels.values().next().unwrap().iter().count(), 1, "it is in the last level");
    let root = state.levels.values().next().unwrap().last().unwrap().points.clone().unwrap();
    assert!(root.leaves >= leaves && root.leaves < leaves + leaves / 50, "{}", root.leaves);
    let counts = [
        written(NodeKind::Leaf),
        written(NodeKind::Parent),
        written(NodeKind::FilterPiece),
        unwritten,
    ];
    (counts, root.height)
}

#[test]
fn one_promoted_leaf_costs_the_same_in_a_thousand_and_a_hundred_thousand_leaves() {
    let (few, few_height) = nodes_of_one_promotion(1_000);
    let (many, many_height) = nodes_of_one_promotion(100_000);
    assert!(many_height > few_height);
    assert_eq!(few[..2], [1, 1], "one leaf and its parent");
    assert_eq!(few[..3], many[..3]);
    // One upper parent for each height.
    assert_eq!(few[3], u64::from(few_height) - 1);
    assert_eq!(many[3], u64::from(many_height) - 1);
}
