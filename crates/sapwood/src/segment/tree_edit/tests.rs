//! Edits of trees of several heights against a map from separators to lowest parents.

use std::collections::BTreeMap;

use super::*;
use crate::page::{Layout, MemoryBudget, PageOptions};
use crate::storage::MemoryStorage;
use crate::sync::{Arc, Random};
use crate::types::PageNumber;

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);

/// So long that five separators fill a parent; all but the end is alike, so that nodes stay short.
const SEPARATOR_BYTES: usize = 14_000;

/// The greatest number of a separator.
const NUMBER_MAX: u64 = 1 << 32;

fn separator(number: u64) -> Vec<u8> {
    match number {
        // Of the first lowest parent.
        0 => Vec::new(),
        _ => format!("{number:0>SEPARATOR_BYTES$}").into_bytes(),
    }
}

/// A lowest parent that is nowhere: edits do not read it.
fn lowest(number: u64, name: u32) -> ParentEntry {
    let page = PageNumber((1 << 20) + u64::from(name));
    let reference = NodeRef { page, pages: 1, stamp: name, checksum: name };
    let child = Child {
        reference,
        entries: u64::from(name),
        tombstones: 1,
        birth: None,
        below: Below::Parent { pages: 3, leaves: 2, overflow: false },
        filter: None,
        dictionary: None,
        unused: 0,
    };
    ParentEntry { separator: separator(number), child }
}

struct Tree {
    pages: Arc<PageManager>,
    random: Random,
    epoch: u64,
    root: Option<TreeRoot>,
    /// The lowest parents: the numbers of their separators, and their names.
    model: BTreeMap<u64, u32>,
    name: u32,
    /// Upper parents and their births.
    uppers: BTreeMap<Block, Epoch>,
    heights: [u32; 8],
}

impl Tree {
    fn new(seed: u64) -> Tree {
        let options = PageOptions {
            storage: Arc::new(MemoryStorage::new()),
            layout: Layout::new(1024, 0, 1 << 20, [9; 16]).unwrap(),
            budget: Arc::new(MemoryBudget::new(8 << 20)),
            max_file_bytes: None,
        };
        Tree {
            pages: PageManager::create(options, 1 << 20).unwrap(),
            random: Random::from_seed(seed),
            epoch: 10,
            root: None,
            model: BTreeMap::new(),
            name: 0,
            uppers: BTreeMap::new(),
            heights: [0; 8],
        }
    }

    /// New lowest parents in place of those from one number to before another.
    fn draw(&mut self, start: u64, end: u64, count: u64) -> Vec<ParentEntry> {
        self.model.retain(|number, _| !(start..end).contains(number));
        let mut numbers = vec![start];
        numbers.extend((1..count).map(|_| start + 1 + self.random.below(end - start)));
        numbers.retain(|number| *number < end);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.truncate(count as usize);
        let mut new = Vec::new();
        for number in numbers {
            self.name += 1;
            self.model.insert(number, self.name);
            new.push(lowest(number, self.name));
        }
        new
    }

    fn rebuild(&mut self, count: u64) {
        let new = Lowest::Parents(self.draw(0, NUMBER_MAX, count));
        self.epoch += 1;
        let edit = TreeEdit::new(&self.pages, KEYSPACE, Epoch(self.epoch));
        let change = match &self.root {
            Some(root) => edit.rebuild(root, new).unwrap(),
            None => edit.build(new).unwrap(),
        };
        self.take(change);
    }

    /// Makes some replacements in one edit; each takes in at most so many lowest parents, and puts
    /// at most so many in their place.
    fn replace(&mut self, ranges: usize, goes_max: u64, comes_max: u64) {
        let Some(root) = self.root.clone() else { return };
        let numbers: Vec<u64> = self.model.keys().copied().collect();
        let mut at = self.random.below(numbers.len() as u64) as usize;
        let mut replacements = Vec::new();
        while replacements.len() < ranges && at < numbers.len() {
            let goes = 1 + self.random.below(goes_max) as usize;
            let (first, end) = (numbers[at], numbers.get(at + goes).copied());
            // All keys below the first separator belong to the first lowest parent.
            let start = if at == 0 { 0 } else { first };
            let count = self.random.below(comes_max + 1);
            let new = self.draw(start, end.unwrap_or(NUMBER_MAX), count);
            let end = end.map(separator);
            replacements.push(Replacement { start: separator(start), end, new });
            at += goes + self.random.below(12) as usize;
        }
        self.heights[usize::from(root.height)] += 1;
        self.epoch += 1;
        let edit = TreeEdit::new(&self.pages, KEYSPACE, Epoch(self.epoch));
        let change = edit.replace_all(&root, replacements).unwrap();
        self.take(change);
    }

    fn take(&mut self, change: TreeChange) {
        for (block, birth) in &change.died {
            assert_eq!(self.uppers.remove(block), Some(*birth), "{block:?} died");
            self.pages.free(*block);
        }
        for block in &change.born {
            let before = self.uppers.insert(*block, Epoch(self.epoch));
            assert!(before.is_none(), "{block:?} was born twice");
        }
        self.root = change.root;
        self.check();
    }

    fn check(&self) {
        let (mut found, mut uppers) = (Vec::new(), BTreeMap::new());
        if let Some(root) = &self.root {
            if root.height > 1 {
                self.walk(root, root.reference, root.birth, root.height, &mut found, &mut uppers);
                let names: u64 = self.model.values().map(|name| u64::from(*name)).sum();
                assert_eq!(root.entries, names);
                assert_eq!(root.leaves, 2 * self.model.len() as u64);
                let upper_pages: u64 = uppers.keys().map(|block| u64::from(block.pages)).sum();
                assert_eq!(root.pages, 4 * self.model.len() as u64 + upper_pages);
            } else {
                found.push((None, root.reference.stamp));
            }
        }
        assert_eq!(uppers, self.uppers, "what is reachable was born and has not died");
        assert_eq!(found.len(), self.model.len());
        for ((there, name), (number, wanted)) in found.iter().zip(&self.model) {
            assert_eq!(name, wanted);
            assert!(there.as_ref().is_none_or(|there| *there == separator(*number)));
        }
    }

    fn walk(
        &self,
        root: &TreeRoot,
        reference: NodeRef,
        birth: Epoch,
        height: u8,
        found: &mut Vec<(Option<Vec<u8>>, u32)>,
        uppers: &mut BTreeMap<Block, Epoch>,
    ) {
        let node = read_parent(&self.pages, &reference, KEYSPACE, height).unwrap();
        assert!(uppers.insert(reference.block(), birth).is_none(), "a node has one parent");
        let children = entries_of(&node, birth).unwrap();
        assert!(children.len() > 1, "an upper parent with one child");
        assert!(height == root.height || !is_too_small(&children), "{} children", children.len());
        for entry in children {
            let (reference, birth) = (entry.child.reference, entry.child.birth.unwrap());
            match height {
                2 => found.push((Some(entry.separator), reference.stamp)),
                _ => self.walk(root, reference, birth, height - 1, found, uppers),
            }
        }
    }
}

#[test]
fn edits_of_trees_of_up_to_five_heights_agree_with_a_map() {
    let mut heights = [0; 8];
    for seed in 0..3 {
        let mut tree = Tree::new(seed);
        tree.rebuild(300);
        assert!(tree.root.as_ref().is_some_and(|root| root.height >= 4), "{:?}", tree.root);
        for round in 0..90 {
            let ranges = 1 + tree.random.below(9) as usize;
            match (tree.random.below(12), round / 30) {
                (0, _) => {
                    let count = tree.random.below(200);
                    tree.rebuild(count);
                }
                // It shrinks, it grows, it stays.
                (1, _) => tree.replace(1, 150, 3),
                (_, 0) => tree.replace(ranges, 8, 2),
                (_, 1) => tree.replace(ranges, 2, 12),
                _ => tree.replace(ranges, 6, 6),
            }
            if tree.root.is_none() {
                tree.rebuild(40);
            }
        }
        (0..8).for_each(|height| heights[height] += tree.heights[height]);
    }
    println!("edits by height: {heights:?}");
    assert!(heights[3..6].iter().all(|edits| *edits > 5), "edits by height: {heights:?}");
}

#[test]
fn a_tree_is_rebuilt_from_and_to_any_height() {
    let mut tree = Tree::new(1);
    for count in [1, 300, 2, 30, 1, 0, 130, 7, 600, 1] {
        tree.rebuild(count);
    }
}
