//! Leaves: their entries against what the parent, the sidecar and the state say.

use std::collections::BTreeMap;

use super::read::Unread;
use super::sidecar::Listed;
use super::walk::{Claim, Tree, Walk, Walked};
use crate::error::Structure;
use crate::page::node_header::FLAG_SPARE;
use crate::page::{FLAG_NUMBERS, FLAG_WIDE_SLOTS, Frame, NodeKind};
use crate::segment::descriptor::Segment;
use crate::segment::filter::{key_hash, may_contain};
use crate::segment::key_range::KeyRange;
use crate::segment::node::TreeKind;
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::range_tombstone::{RangeValue, check_leaf};
use crate::segment::sorted_block::{BlockShape, EntryKind, KindSet, SortedBlock};
use crate::segment::{BlockProblem, COMPOSITE_KEY_BYTES_MAX};
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

/// A leaf that is to be checked.
pub struct LeafCheck<'a> {
    pub tree: &'a Tree<'a>,
    pub claim: &'a Claim,
    pub range: &'a KeyRange,
    /// The lines of its own filter.
    pub filter: Option<&'a [u8]>,
    /// Its overflow values in the sidecar; `None` for a leaf without a parent.
    pub listed: Option<&'a Listed>,
}

/// What is kept over the leaves of one segment.
pub struct Leaves {
    young_filter: Option<Vec<u8>>,
    /// The end of the last range tombstone of this tree.
    last_end: Option<Option<Vec<u8>>>,
    entries: BTreeMap<KeyspaceNumber, u64>,
    key: Vec<u8>,
}

/// A value in blocks of its own that a leaf names.
struct Value {
    key: Vec<u8>,
    keyspace: KeyspaceNumber,
    reference: OverflowReference,
    /// Its key is not promoted, and is asked for.
    lives: bool,
}

/// What the entries of one leaf add up to.
#[derive(Default)]
struct LeafSums {
    tombstones: u64,
    overflow_pages: u64,
    values: Vec<Value>,
    /// Problems are told once for each leaf and kind.
    told: Vec<&'static str>,
}

impl Leaves {
    pub fn new(young_filter: Option<Vec<u8>>) -> Leaves {
        Leaves { young_filter, last_end: None, entries: BTreeMap::new(), key: Vec::new() }
    }

    pub fn begin_tree(&mut self) {
        self.last_end = None;
    }

    /// Checks one leaf and its overflow values; its own block has been met.
    pub fn check(&mut self, walk: &mut Walk<'_>, check: &LeafCheck<'_>) -> Walked {
        let (tree, claim) = (check.tree, check.claim);
        let page = claim.reference.page;
        let frame = match walk.read(&claim.reference, NodeKind::Leaf, tree.keyspace) {
            Ok(frame) => frame,
            Err(Unread::Damaged) => {
                self.meet_listed(walk, check);
                return Ok(());
            }
            Err(Unread::Suspect) => return walk.again(tree, check.range),
        };
        walk.counts.leaves += 1;
        match self.check_content(walk, check, &frame) {
            Ok(sums) => self.check_overflow(walk, check, sums),
            Err(problem) => {
                walk.counts.unreadable += 1;
                walk.problem(Structure::Leaf, page, tree.keyspace, problem.0);
                self.meet_listed(walk, check);
                Ok(())
            }
        }
    }

    fn check_content(
        &mut self,
        walk: &mut Walk<'_>,
        check: &LeafCheck<'_>,
        frame: &Frame,
    ) -> Result<LeafSums, BlockProblem> {
        let (tree, claim) = (check.tree, check.claim);
        let (header, page) = (frame.header(), claim.reference.page);
        let numbered = header.flags & FLAG_NUMBERS != 0;
        if header.keyspace != tree.keyspace || header.height != 0 {
            let text = format!("it is of keyspace {}, not {}", header.keyspace, tree.keyspace);
            walk.problem(Structure::Leaf, page, tree.keyspace, text);
        }
        // A commit by reference has one number, which its segment has and its leaves have not.
        let one_commit = tree.segment.sequences.is_some_and(|(first, last)| first == last);
        let expected = numbered == tree.segment.is_young() || one_commit;
        if !expected || header.flags & FLAG_SPARE != 0 {
            let text = "its entries have numbers where there are none, or the other way round";
            walk.problem(Structure::Leaf, page, tree.keyspace, text);
        }
        let wide = header.flags & FLAG_WIDE_SLOTS != 0;
        let block = BlockShape::parse(frame.content(), numbered, wide)?.view(frame.content());
        let kinds = match tree.kind {
            TreeKind::Points => KindSet::POINTS,
            TreeKind::Ranges => KindSet::RANGES,
        };
        block.check(kinds, COMPOSITE_KEY_BYTES_MAX)?;
        if tree.kind == TreeKind::Ranges {
            check_leaf(&block)?;
        }
        let mut sums = LeafSums::default();
        let file_seed = walk.pages.layout().filter_seed();
        for index in 0..block.len() {
            self.entry(file_seed, check, &block, index, &mut sums)?;
        }
        walk.counts.entries += block.len() as u64;
        for text in &sums.told {
            walk.problem(Structure::Leaf, page, tree.keyspace, *text);
        }
        let counts = [
            ("entries", claim.entries, block.len() as u64),
            ("tombstones", claim.tombstones, sums.tombstones),
            ("pages of overflow values", claim.pages_below, sums.overflow_pages),
            ("leaves", claim.leaves, 1),
        ];
        for (name, said, found) in counts {
            if said != found {
                let text = format!("{name}: it has {found}, it should be {said}");
                walk.problem(Structure::Leaf, page, tree.keyspace, text);
            }
        }
        if claim.overflow.is_some_and(|said| said == sums.values.is_empty()) {
            let text = "its parent is wrong about whether it has overflow values";
            walk.problem(Structure::Leaf, page, tree.keyspace, text);
        }
        Ok(sums)
    }

    fn entry(
        &mut self,
        file_seed: u64,
        check: &LeafCheck<'_>,
        block: &SortedBlock<'_>,
        index: usize,
        sums: &mut LeafSums,
    ) -> Result<(), BlockProblem> {
        let (tree, segment) = (check.tree, check.tree.segment);
        let entry = block.entry(index)?;
        let key = &mut self.key;
        block.copy_key(index, key)?;
        sums.tell(!check.range.contains(key), "a key lies outside the range of its leaf");
        if let Some(bounds) = &segment.bounds {
            let above = !bounds.open_end && bounds.greatest < *key;
            sums.tell(*key < bounds.least || above, "a key lies outside the segment's bounds");
        }
        let (keyspace, bare) = match (segment.is_young(), key.split_first_chunk::<4>()) {
            (false, _) => (tree.keyspace, key.as_slice()),
            (true, Some((number, bare))) => (KeyspaceNumber(u32::from_be_bytes(*number)), bare),
            (true, None) => return Err(BlockProblem("a composite key has no keyspace")),
        };
        if let Some((first, last)) = segment.sequences {
            let absent = segment.share_of(keyspace).is_none();
            sums.tell(absent, "a key of a keyspace that the segment does not have");
            let inside = !block.is_numbered() || (first.0..=last.0).contains(&entry.number);
            sums.tell(!inside, "an entry's number lies outside the segment's");
        }
        *self.entries.entry(keyspace).or_insert(0) += 1;
        match entry.kind {
            EntryKind::Delete => sums.tombstones += 1,
            EntryKind::PutOverflow => {
                let reference = OverflowReference::decode(entry.value)?;
                let pages = reference.pages();
                sums.overflow_pages = sums.overflow_pages.saturating_add(pages);
                let is_wanted = tree.wanted.is_none_or(|wanted| wanted.contains(key));
                let lives = is_wanted && !tree.promoted.contains(key);
                let key = if lives { key.clone() } else { Vec::new() };
                sums.values.push(Value { key, keyspace, reference, lives });
            }
            _ => {}
        }
        if tree.kind == TreeKind::Ranges {
            sums.tombstones += 1;
            let base = block.is_numbered().then_some(block.base_number());
            self.range(segment, keyspace, &RangeValue::decode(entry.value, base)?, sums);
            return Ok(());
        }
        let hash = key_hash(file_seed, keyspace, bare);
        let denied = |lines: &[u8]| !may_contain(lines, segment.filter.seed, hash);
        sums.tell(check.filter.is_some_and(denied), "its filter denies one of its keys");
        let of_segment = self.young_filter.as_deref();
        sums.tell(of_segment.is_some_and(denied), "the segment's filter denies one of its keys");
        Ok(())
    }

    /// Checks a range tombstone that begins at `self.key`.
    fn range(
        &mut self,
        segment: &Segment,
        keyspace: KeyspaceNumber,
        value: &RangeValue<'_>,
        sums: &mut LeafSums,
    ) {
        let overlap = match &self.last_end {
            None => false,
            Some(None) => true,
            Some(Some(end)) => *end > self.key,
        };
        sums.tell(overlap, "range tombstones overlap");
        self.last_end = Some(value.end.map(<[u8]>::to_vec));
        if let Some(bounds) = &segment.bounds
            && !bounds.open_end
        {
            let outside = value.end.is_none_or(|end| end > bounds.greatest.as_slice());
            sums.tell(outside, "a range tombstone ends outside the segment's bounds");
        }
        if let Some((first, last)) = segment.sequences {
            let inside = value.numbers().all(|number| (first.0..=last.0).contains(&number));
            sums.tell(!inside, "a range tombstone's number lies outside the segment's");
            let next = keyspace.0.saturating_add(1).to_be_bytes();
            let outside = value.end.is_none_or(|end| end > next.as_slice());
            sums.tell(outside, "a range tombstone reaches into another keyspace");
        }
    }

    /// Compares the overflow values of a leaf with the sidecar's list, and checks those that live.
    fn check_overflow(
        &mut self,
        walk: &mut Walk<'_>,
        check: &LeafCheck<'_>,
        sums: LeafSums,
    ) -> Walked {
        let (tree, claim) = (check.tree, check.claim);
        let birth_of = |birth: Epoch| if birth.0 == 0 { claim.birth } else { birth };
        if let Some(listed) = check.listed.filter(|listed| listed.complete) {
            let listed = listed.items.iter().map(|item| (birth_of(item.birth), &item.blocks));
            let named = sums.values.iter().map(|value| &value.reference);
            let named = named.map(|value| (birth_of(value.birth), &value.blocks));
            if !listed.eq(named) {
                let text = "its overflow values are not those that its parent's list has";
                walk.problem(Structure::Sidecar, claim.reference.page, tree.keyspace, text);
            }
        }
        for value in sums.values.iter().filter(|value| value.lives) {
            let birth = birth_of(value.reference.birth);
            if birth > claim.birth {
                let page =
                    value.reference.blocks.first().map_or(PageNumber(0), |block| block.first);
                let text = format!("born in {birth}, after the leaf, born in {}", claim.birth);
                walk.problem(Structure::Overflow, page, value.keyspace, text);
            }
            walk.overflow_value(tree, &value.key, value.keyspace, &value.reference, birth)?;
        }
        Ok(())
    }

    /// Meets the blocks that the sidecar lists for a leaf that cannot be read.
    fn meet_listed(&mut self, walk: &mut Walk<'_>, check: &LeafCheck<'_>) {
        let (tree, claim) = (check.tree, check.claim);
        let Some(listed) = check.listed.filter(|_| !tree.promoted.overlaps(check.range)) else {
            return;
        };
        for item in &listed.items {
            let birth = if item.birth.0 == 0 { claim.birth } else { item.birth };
            for &block in &item.blocks {
                walk.meet(block, birth, NodeKind::OverflowValue, tree.keyspace);
            }
        }
    }

    /// Compares the entries that a young segment has of each keyspace with what the state says.
    pub fn check_shares(&self, walk: &mut Walk<'_>, segment: &Segment) {
        for share in segment.keyspaces.iter() {
            let found = self.entries.get(&share.keyspace).copied().unwrap_or(0);
            if found != share.entries {
                let text = format!(
                    "segment {} has {found} entries of keyspace {}, the state says {}",
                    segment.number, share.keyspace, share.entries
                );
                walk.segment_problem(KeyspaceNumber::MANY, text);
            }
        }
    }
}

impl LeafSums {
    fn tell(&mut self, wrong: bool, text: &'static str) {
        if wrong && !self.told.contains(&text) {
            self.told.push(text);
        }
    }
}
