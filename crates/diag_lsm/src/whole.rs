//! What a page is a part of, judged as a whole: a value in blocks of its own, or an encoded state.
//!
//! *Assumes*: a walk over the state's blocks has found that it can be read.
//! *Guarantees*: a value is one that the state's readers see, so that no block of it is used again
//! while that state is the newest.

use sapwood::page::state_node::read_state;
use sapwood::page::{HeaderSlot, NodeRef, PageManager, StateLocation};
use sapwood::segment::coverage::child_range;
use sapwood::segment::key_range::{KeyRange, KeyRanges};
use sapwood::segment::node::{Caching, TreeKind, read_leaf_at, read_parent_at};
use sapwood::segment::overflow::verify_value;
use sapwood::segment::overflow_reference::OverflowReference;
use sapwood::segment::sorted_block::EntryKind;
use sapwood::{Error, KeyspaceNumber, PageNumber};

use crate::file::DurableFile;

/// A value in blocks of its own.
#[derive(Debug)]
pub struct LongValue {
    /// Its keyspace.
    pub keyspace: KeyspaceNumber,
    /// Its key.
    pub key: Vec<u8>,
    /// Where it lies, as its leaf says.
    pub reference: OverflowReference,
}

impl LongValue {
    /// The value of which a page is a part.
    ///
    /// # Errors
    /// When a node on the way cannot be read.
    pub fn at(file: &DurableFile, page: PageNumber) -> sapwood::Result<Option<LongValue>> {
        for (keyspace, _, segment) in file.segments() {
            let Some(root) = &segment.points else { continue };
            let named = keyspace.map_or(KeyspaceNumber::MANY, KeyspaceNumber);
            let search = Search { pages: &file.pages, promoted: &segment.promoted, named, page };
            let found = search.visit(&root.reference, root.height, &KeyRange::all())?;
            let Some((key, reference)) = found else { continue };
            // In a young segment the number of the keyspace stands before each key.
            let lead = key.split_first_chunk::<4>().filter(|_| keyspace.is_none());
            let (keyspace, key) = match lead {
                Some((number, key)) => (KeyspaceNumber(u32::from_be_bytes(*number)), key.to_vec()),
                None => (named, key),
            };
            return Ok(Some(LongValue { keyspace, key, reference }));
        }
        Ok(None)
    }

    /// Checks all of it.
    ///
    /// # Errors
    /// When something cannot be read or is damaged.
    pub fn verify(&self, pages: &PageManager) -> sapwood::Result<()> {
        // Its header names the keyspace, or none.
        match verify_value(pages, KeyspaceNumber::MANY, &self.reference) {
            Err(Error::Corruption(corruption)) if corruption.detail.contains("of keyspace") => {
                verify_value(pages, self.keyspace, &self.reference)
            }
            outcome => outcome,
        }
    }
}

struct Search<'a> {
    pages: &'a PageManager,
    promoted: &'a KeyRanges,
    named: KeyspaceNumber,
    page: PageNumber,
}

type FoundValue = sapwood::Result<Option<(Vec<u8>, OverflowReference)>>;

impl Search<'_> {
    fn visit(&self, reference: &NodeRef, height: u8, range: &KeyRange) -> FoundValue {
        // What is dead may have been written over.
        if self.promoted.covers(range) {
            return Ok(None);
        }
        if height == 0 {
            return self.leaf(reference, range);
        }
        let node = read_parent_at(self.pages, reference, self.named, height, range)?;
        for index in 0..node.view().len() {
            let child = node.view().child(index).map_err(|problem| node.damage(problem))?;
            if child.has_overflow() {
                let below = child_range(&node, index, range)?;
                let found = self.visit(&child.reference, height - 1, &below)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    fn leaf(&self, reference: &NodeRef, range: &KeyRange) -> FoundValue {
        let (kind, how) = (TreeKind::Points, Caching::Pass);
        let leaf = read_leaf_at(self.pages, reference, self.named, kind, how, range)?;
        let block = leaf.view();
        let mut key = Vec::new();
        for index in 0..block.len() {
            let entry = block.entry(index).map_err(|problem| leaf.damage(problem))?;
            if entry.kind != EntryKind::PutOverflow {
                continue;
            }
            let value = OverflowReference::decode(entry.value);
            let value = value.map_err(|problem| leaf.damage(problem))?;
            block.copy_key(index, &mut key).map_err(|problem| leaf.damage(problem))?;
            let is_here = value.blocks.iter().any(|block| block.contains(self.page));
            if is_here && !self.promoted.contains(&key) {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

/// An encoded state that a header slot names.
#[derive(Debug)]
pub struct NamedState {
    /// The slot.
    pub slot_index: usize,
    /// Whether it is the newest of the header's: the blocks of an older one may be used again.
    pub is_newest: bool,
    /// What is wrong with it.
    pub problem: Option<Error>,
}

/// The states of which a page is a part.
pub fn states_at(file: &DurableFile, page: PageNumber) -> Vec<NamedState> {
    let generation = |slot: usize| file.slots.get(slot)?.as_ref().ok().map(|slot| slot.generation);
    let newest = generation(0).max(generation(1));
    let named = |(slot_index, slot): (usize, &HeaderSlot)| {
        let StateLocation::Blocks { blocks, .. } = &slot.state else { return None };
        blocks.iter().any(|block| block.contains(page)).then(|| NamedState {
            slot_index,
            is_newest: Some(slot.generation) == newest,
            problem: read_state(&file.read.layout, &*file.storage, slot).err(),
        })
    };
    let slots = file.slots.iter().enumerate();
    slots.filter_map(|(index, slot)| Some((index, slot.as_ref().ok()?))).filter_map(named).collect()
}
