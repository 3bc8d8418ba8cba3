//! Range tombstones that come into a level: only what they touch is read and written, and the tree
//! is the one that it would be when written whole.

use std::collections::BTreeMap;

use crate::lab::{Lab, builder, key, value};
use crate::shape::Shape;
use sapwood::merge::add_ranges::RangesEdit;
use sapwood::merge::ranges::Fragments;
use sapwood::page::{Block, BlockList, Layout, MemoryBudget, NodeKind, PageManager, PageOptions};
use sapwood::segment::descriptor::TreeRoot;
use sapwood::segment::node::Caching;
use sapwood::segment::range_tombstone::{Fragment, union_ranges};
use sapwood::storage::{CrashPlan, FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Random};
use sapwood::{Durability, Epoch, Error, KeyspaceNumber};

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);

const LEAF_BYTES: usize = 1024;

/// A ranges tree beside what it should hold.
struct Tree {
    storage: SimulatedStorage,
    pages: Arc<PageManager>,
    root: Option<TreeRoot>,
    model: Vec<Fragment>,
    epoch: u64,
    /// The birth of each page.
    births: BTreeMap<u64, u64>,
    /// Keys are made so long at their end.
    padding: usize,
    random: Random,
}

fn pages_of(blocks: &[Block]) -> impl Iterator<Item = u64> + '_ {
    blocks.iter().flat_map(|block| block.first.0..block.end().0)
}

impl Tree {
    fn new(seed: u64, padding: usize, budget_bytes: u64) -> Tree {
        let layout = Layout::new(1024, 0, 16 << 20, [9; 16]).unwrap();
        let storage = SimulatedStorage::new();
        let options = PageOptions {
            storage: Arc::new(storage.clone()),
            layout,
            budget: Arc::new(MemoryBudget::new(budget_bytes)),
            max_file_bytes: None,
        };
        Tree {
            storage,
            pages: PageManager::create(options, 1 << 40).unwrap(),
            root: None,
            model: Vec::new(),
            epoch: 1,
            births: BTreeMap::new(),
            padding,
            random: Random::from_seed(seed),
        }
    }

    fn key(&self, number: u64) -> Vec<u8> {
        let mut key = format!("{number:08}").into_bytes();
        key.resize(8 + self.padding, b'k');
        key
    }

    fn fragment(&self, start: u64, end: Option<u64>) -> Fragment {
        let end = end.map(|end| self.key(end));
        Fragment { start: self.key(start), end, numbers: Vec::new() }
    }

    fn try_add(&mut self, fragments: &[Fragment]) -> sapwood::Result<()> {
        let (pages, epoch) = (&self.pages, Epoch(self.epoch));
        let edit = RangesEdit { pages, keyspace: KEYSPACE, leaf_bytes: LEAF_BYTES, epoch };
        let change = edit.add(self.root.as_ref(), fragments)?;
        let died = change.died.iter().map(|dead| (dead.block, dead.birth));
        for (block, birth) in died.chain(change.tree.died.iter().copied()) {
            for page in pages_of(&[block]) {
                assert_eq!(self.births.remove(&page), Some(birth.0), "page {page} dies");
            }
            self.pages.free(block);
        }
        for page in pages_of(&change.written).chain(pages_of(&change.tree.born)) {
            assert_eq!(self.births.insert(page, self.epoch), None, "page {page} is born");
        }
        self.root = change.tree.root;
        self.model = union_ranges(&[fragments, &self.model]);
        self.epoch += 1;
        Ok(())
    }

    fn add(&mut self, fragments: &[Fragment]) {
        self.try_add(fragments).unwrap();
    }

    /// Every other number of a range: nothing touches anything.
    fn add_apart(&mut self, from: u64, count: u64) {
        let fragments: Vec<Fragment> =
            (0..count).map(|n| self.fragment(from + 4 * n, Some(from + 4 * n + 2))).collect();
        self.add(&fragments);
    }

    fn check(&self) -> Shape {
        let root = self.root.as_ref().unwrap();
        let found = Fragments::new(&self.pages, root, KEYSPACE, None, Caching::Pass).unwrap();
        let found: Vec<_> = found.map(Result::unwrap).collect();
        assert!(found == self.model, "other fragments than the model's");
        assert_eq!((root.entries, root.tombstones), (found.len() as u64, found.len() as u64));
        let shape = Shape::of(&self.pages, KEYSPACE, root);
        assert_eq!(shape.fault(), None, "after {} edits", self.epoch);
        assert_eq!(root.leaves, shape.leaf_blocks.len() as u64);
        let mut used = BlockList::new();
        shape.blocks.iter().chain(&shape.leaf_blocks).for_each(|block| used.insert(*block));
        let given = self.pages.allocator().given_list();
        assert_eq!(given.difference(&used), BlockList::new(), "leaked");
        assert_eq!(used.difference(&given), BlockList::new(), "in use, but free");
        assert_eq!(root.pages, pages_of(&used.iter().collect::<Vec<_>>()).count() as u64);
        shape
    }

    /// Fragments side by side, as a step may bring them: some touch, at the borders too.
    fn some_fragments(&mut self, keys: u64, wide: bool) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        let mut at = self.random.below(keys);
        let many = if self.random.one_in(30) { 200 } else { 6 };
        for _ in 0..1 + self.random.below(many) {
            let length = if wide && self.random.one_in(60) { keys / 20 } else { 4 };
            let end = at + 1 + self.random.below(length);
            if wide && self.random.one_in(4000) {
                fragments.push(self.fragment(at, None));
                break;
            }
            fragments.push(self.fragment(at, Some(end)));
            at = end + self.random.below(3);
        }
        union_ranges(&[&fragments])
    }
}

#[test]
fn random_range_tombstones_give_the_tree_that_would_be_written_whole() {
    let mut heights = [0; 4];
    for (seed, padding, keys) in [(1, 0, 60_000), (2, 400, 4_000), (3, 400, 40_000), (4, 40, 900)] {
        let mut tree = Tree::new(seed, padding, 64 << 20);
        if seed == 3 {
            // A tree with upper parents below its root, which nothing swallows.
            tree.add_apart(0, 10_500);
        }
        for turn in 0..if seed == 3 { 600 } else { 1500 } {
            let fragments = tree.some_fragments(keys, seed != 3);
            tree.add(&fragments);
            if turn % 10 == 0 {
                tree.check();
                heights[usize::from(tree.root.as_ref().unwrap().height)] += 1;
            }
        }
    }
    assert!(heights[1..].iter().all(|count| *count > 50), "{heights:?}");
}

#[test]
fn a_fragment_is_joined_with_those_that_it_touches_in_other_leaves_and_parents() {
    let mut tree = Tree::new(1, 400, 64 << 20);
    tree.add_apart(0, 1000);
    // The gaps are filled, one by one, from the middle outwards: each touches two.
    for number in 0..499 {
        for at in [2002 + 4 * number, 1998 - 4 * number] {
            let fragment = tree.fragment(at, Some(at + 2));
            tree.add(&[fragment]);
            tree.check();
        }
    }
    assert!(tree.model.len() <= 3, "{} fragments", tree.model.len());
    // One that reaches over everything, and has no end.
    tree.add_apart(10_000, 300);
    let fragment = tree.fragment(0, None);
    tree.add(&[fragment]);
    tree.check();
    assert_eq!(tree.model.len(), 1);
}

#[test]
fn every_read_and_write_of_an_edit_may_fail_and_the_edit_is_made_again() {
    // Nothing stays in the cache: each node is read from the file.
    let prepared = || {
        let mut tree = Tree::new(1, 400, 0);
        tree.add_apart(0, 600);
        tree.pages.write_unwritten().unwrap();
        // It touches fragments of two lowest parents, and gets new leaves.
        let fragments: Vec<_> =
            (0..60).map(|n| tree.fragment(1002 + 4 * n, Some(1003 + 4 * n))).collect();
        (tree, fragments)
    };
    for (counted, kind) in
        [(OperationKind::Read, FaultKind::Read), (OperationKind::Write, FaultKind::Write)]
    {
        let (mut tree, fragments) = prepared();
        let total = Arc::new(AtomicU64::new(0));
        let counter = total.clone();
        tree.storage.on_operation(Box::new(move |operation| {
            if operation.kind == counted {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }));
        tree.add(&fragments);
        tree.storage.clear_on_operation();
        let total = total.load(Ordering::Relaxed);
        assert!(total > 0, "no {counted:?}");
        for nth in 1..=total {
            let (mut tree, fragments) = prepared();
            let before = (tree.pages.allocator().given_list(), tree.model.clone());
            tree.storage.fail_at(kind, nth, true, std::io::ErrorKind::Other);
            let error = tree.try_add(&fragments).unwrap_err();
            tree.storage.clear_faults();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert_eq!((tree.pages.allocator().given_list(), tree.model.clone()), before);
            tree.check();
            tree.add(&fragments);
            tree.check();
        }
    }
}

#[test]
fn one_edit_costs_the_same_beside_a_hundred_and_a_hundred_thousand_fragments() {
    let mut all = Vec::new();
    for count in [100, 10_000, 100_000] {
        let mut tree = Tree::new(1, 0, 64 << 20);
        tree.add_apart(0, count);
        // Behind all others, as steps go on; leaves and parents get full now and then.
        let (mut least, mut most) = ([u64::MAX; 3], [0; 3]);
        for turn in 0..40 {
            tree.pages.write_unwritten().unwrap();
            let before = tree.pages.counters();
            let at = count * 4 + 100 + turn * 10;
            let fragments = [tree.fragment(at, Some(at + 1)), tree.fragment(at + 5, Some(at + 9))];
            tree.add(&fragments);
            let after = tree.pages.counters();
            let written = |kind: NodeKind| {
                after.nodes_written[kind.index()] - before.nodes_written[kind.index()]
            };
            let leaf = NodeKind::Leaf;
            let read = after.nodes_read[leaf.index()] - before.nodes_read[leaf.index()];
            for (index, counted) in
                [written(leaf), written(NodeKind::Parent), read].iter().enumerate()
            {
                least[index] = least[index].min(*counted);
                most[index] = most[index].max(*counted);
            }
            // One upper parent for each height above the lowest.
            let upper = u64::from(tree.root.as_ref().unwrap().height).saturating_sub(1);
            assert_eq!(tree.pages.unwritten_count() as u64, upper, "{count}: upper parents");
        }
        tree.check();
        assert!(most[0] <= 2 && most[1] <= 2 && most[2] <= 2, "{count}: up to {most:?}");
        all.push(least);
    }
    assert_eq!(all[0][..2], [1, 1], "one leaf and its parent");
    assert!(all.iter().all(|least| *least == all[0]), "{all:?}");
}

/// What the last promotion step into the level above the last writes, when earlier steps have
/// brought so many range tombstones there: leaves, lowest parents.
fn nodes_of_one_step(range_deletes: u64) -> [u64; 2] {
    let (builder, hand) = builder();
    let mut lab = Lab::of(builder.open_in_memory().unwrap(), hand);
    *lab.core.install_check.lock() = None;
    lab.create();
    let mut random = Random::from_seed(4);
    // The last level is so large that young segments go to one above it.
    for number in 0..40_000 {
        let bytes = value(&mut random, 150);
        lab.put(0, &key(1_000_000 + number), &bytes);
    }
    lab.database.wait_until_idle().unwrap();
    let mut at = 0;
    while lab.core.state().young.len() < 8 {
        for _ in 0..range_deletes / 8 {
            lab.delete_range(0, &key(at), &key(at + 3));
            at += 5;
        }
        let young = lab.core.state().young.len() as u64;
        for number in 0..100 {
            let bytes = value(&mut random, 150);
            lab.put(0, &key(1_000_000 + number * 400 + young), &bytes);
        }
        lab.delete_range(0, &key(1_039_000 + young * 10), &key(1_039_000 + young * 10 + 5));
        lab.database.flush().unwrap();
    }
    let promotions = || lab.core.counters.promotions.load(Ordering::Relaxed);
    let ranges = || {
        let state = lab.core.state();
        let above = state.levels.values().next().unwrap().levels[0].first().cloned();
        above.and_then(|above| above.ranges.clone()).map_or(0, |root| root.entries)
    };
    let mut last = None;
    while !lab.core.state().young.is_empty() {
        let (promoted, had, before) = (promotions(), ranges(), lab.core.pages.counters());
        assert!(lab.database.run_step().unwrap());
        if promotions() > promoted {
            last = Some((had, ranges(), before, lab.core.pages.counters()));
        }
    }
    let (had, has, before, after) = last.unwrap();
    assert!(had >= range_deletes / 8 * 8, "{had} came before");
    assert_eq!(has, had + 8, "the last step brings its own");
    lab.compare();
    lab.check();
    let written =
        |kind: NodeKind| after.nodes_written[kind.index()] - before.nodes_written[kind.index()];
    [written(NodeKind::Leaf), written(NodeKind::Parent)]
}

#[test]
fn a_step_costs_the_same_beside_a_hundred_and_ten_thousand_range_tombstones_of_its_level() {
    let (few, many) = (nodes_of_one_step(104), nodes_of_one_step(10_000));
    // The one leaf in which the last fragments lie may just have become full.
    assert!(few[0].abs_diff(many[0]) <= 1 && few[1] == many[1], "{few:?}, {many:?}");
}

/// Short histories of range deletes with long keys, so that ranges trees are high.
struct History {
    lab: Lab,
    random: Random,
    snapshots: Vec<sapwood::Snapshot>,
    /// Edits of a ranges tree with parents.
    edits: u64,
    highest: u8,
}

const KEYS: u64 = 2500;

fn lab_on(durability: Durability, storage: &SimulatedStorage) -> Lab {
    let (builder, hand) = builder();
    let builder = builder.durability(durability);
    Lab::of(builder.open_on(Arc::new(storage.clone())).unwrap(), hand)
}

impl History {
    fn new(lab: Lab, seed: u64) -> History {
        let random = Random::from_seed(seed);
        let mut history = History { lab, random, snapshots: Vec::new(), edits: 0, highest: 0 };
        history.lab.create();
        for number in 0..KEYS {
            let bytes = value(&mut history.random, 400);
            history.lab.put(0, &History::key(number * 10), &bytes);
        }
        history.lab.database.wait_until_idle().unwrap();
        history
    }

    fn key(number: u64) -> Vec<u8> {
        let mut key = key(number);
        key.resize(300, b'k');
        key
    }

    fn write_some(&mut self) {
        for _ in 0..40 + self.random.below(30) {
            let start = self.random.below(KEYS * 10);
            let most = if self.random.one_in(20) { 400 } else { 14 };
            let length = 1 + self.random.below(most);
            match self.random.below(4) {
                0 | 1 => {
                    let bytes = value(&mut self.random, 650);
                    self.lab.put(0, &History::key(start), &bytes);
                }
                2 => {
                    // One that begins where this one ends.
                    let (start, end) = (History::key(start), History::key(start + length));
                    self.lab.delete_range(0, &start, &end);
                    self.lab.delete_range(0, &end, &[&end[..], b"k"].concat());
                }
                _ => {
                    let (start, end) = (History::key(start), History::key(start + length));
                    self.lab.delete_range(0, &start, &end);
                }
            }
        }
        self.lab.database.flush().unwrap();
    }

    /// The ranges trees above the last level.
    fn ranges(&self) -> Vec<TreeRoot> {
        let state = self.lab.core.state();
        let levels = state.levels.values().flat_map(|levels| levels.iter());
        levels.filter_map(|segment| segment.ranges.clone()).collect()
    }

    fn step(&mut self) -> bool {
        let before = self.ranges();
        let stepped = self.lab.database.run_step().unwrap();
        let after = self.ranges();
        self.highest = after.iter().map(|root| root.height).max().unwrap_or(0).max(self.highest);
        // One that was there before has grown.
        let has_grown = before.len() == after.len() && before != after;
        self.edits += u64::from(has_grown && after.iter().any(|root| root.height > 0));
        for root in &after {
            let keyspace = *self.lab.core.state().levels.keys().next().unwrap();
            let shape = Shape::of(&self.lab.core.pages, keyspace, root);
            assert_eq!(shape.fault(), None);
        }
        stepped
    }
}

#[test]
fn random_histories_of_range_deletes_are_right_at_each_install() {
    let (mut edits, mut highest) = (0, 0);
    for seed in 0..3 {
        let mut history = History::new(lab_on(Durability::Memory, &SimulatedStorage::new()), seed);
        for round in 0..40 {
            history.write_some();
            match history.random.below(12) {
                0 => history.snapshots.push(history.lab.database.snapshot().unwrap()),
                1 => history.snapshots.clear(),
                2 if round > 20 => history.lab.database.wait_until_idle().unwrap(),
                _ => {}
            }
            for _ in 0..history.random.below(9) {
                history.step();
            }
            let findings = history.lab.findings.lock();
            assert_eq!(findings.problems.first(), None, "seed {seed}, round {round}");
            drop(findings);
            if round % 10 == 0 {
                history.lab.compare();
            }
        }
        history.snapshots.clear();
        history.lab.compare();
        history.lab.check();
        history.lab.database.wait_until_idle().unwrap();
        history.lab.compare();
        history.lab.check_at_rest();
        edits += history.edits;
        highest = highest.max(history.highest);
    }
    assert!(edits > 30 && highest >= 2, "{edits} edits of trees up to a height of {highest}");
}

#[test]
fn a_snapshot_and_a_cursor_keep_the_ranges_tree_that_steps_replace() {
    let mut history = History::new(lab_on(Durability::Memory, &SimulatedStorage::new()), 9);
    while history.lab.core.state().young.len() < 8 {
        history.write_some();
    }
    // Between any two steps somebody begins to hold the state of the moment.
    let mut held = Vec::new();
    let expected: Vec<_> = history.lab.keyspaces[0].1.clone().into_iter().collect();
    while !history.lab.core.state().young.is_empty() && history.step() {
        let snapshot = history.lab.database.snapshot().unwrap();
        let cursor = snapshot.cursor(&history.lab.keyspaces[0].0).unwrap();
        held.push((snapshot, cursor));
    }
    assert!(history.edits > 1 && held.len() > 3, "{} edits", history.edits);
    let keyspace = history.lab.keyspaces[0].0.clone();
    let gone = History::key(0);
    history.lab.delete_range(0, &gone, b"z");
    history.lab.database.wait_until_idle().unwrap();
    for (snapshot, cursor) in &mut held {
        let pairs = snapshot.iter(&keyspace).unwrap();
        let pairs = pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
        assert!(pairs.collect::<sapwood::Result<Vec<_>>>().unwrap() == expected);
        cursor.first().unwrap();
        assert_eq!(cursor.key().map(<[u8]>::to_vec).as_ref(), expected.first().map(|(key, _)| key));
    }
    drop(held);
    history.lab.database.wait_until_idle().unwrap();
    history.lab.compare();
    history.lab.check_at_rest();
}

#[test]
fn a_crash_between_a_step_and_the_next_durable_state_loses_and_leaks_nothing() {
    let storage = SimulatedStorage::new();
    let mut history = History::new(lab_on(Durability::Sync, &storage), 5);
    while history.lab.core.state().young.len() < 8 {
        history.write_some();
    }
    let expected: Vec<_> = history.lab.keyspaces[0].1.clone().into_iter().collect();
    let name = history.lab.keyspaces[0].0.name();
    let mut steps = 0;
    while !history.lab.core.state().young.is_empty() && history.step() {
        steps += 1;
        for plan in [CrashPlan::KeepNone, CrashPlan::KeepAll, CrashPlan::Random(steps)] {
            let lab = lab_on(Durability::Sync, &storage.crash_copy(plan));
            let database = lab.database.clone();
            let keyspace = database.existing_keyspace(&name).unwrap();
            let pairs = keyspace.iter().unwrap();
            let pairs = pairs.map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())));
            assert!(pairs.collect::<sapwood::Result<Vec<_>>>().unwrap() == expected);
            lab.check_at_rest();
            // What was half merged goes on.
            if steps % 4 == 1 {
                database.wait_until_idle().unwrap();
                assert_eq!(keyspace.iter().unwrap().count(), expected.len());
                lab.check_at_rest();
            }
        }
    }
    assert!(history.edits > 1, "{} edits", history.edits);
}
