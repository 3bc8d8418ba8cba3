mod written;

use std::collections::BTreeSet;

use super::*;
use crate::options::Options;
use crate::page::{
    Block, Codec, Counted, Layout, MemoryBudget, NodeKind, NodeSpec, NodeWriter, PageOptions,
};
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::{Bounds, KeyspaceShare, Segment, TreeRoot, composite_key};
use crate::segment::filter::{build, key_hash, lines_for};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::leaf_writer::{LeafOptions, LeafOverflow, NewEntry};
use crate::segment::node::read_parent;
use crate::segment::overflow::write_value;
use crate::segment::parent_writer::Lowest;
use crate::segment::range_tombstone::Fragment;
use crate::segment::segment_filter::SegmentFilter;
use crate::segment::segment_writer::{FilterOptions, SegmentWriter};
use crate::segment::sorted_block::EntryKind;
use crate::segment::tree_edit::{TreeEdit, entries_of};
use crate::state::catalogue::{Catalogue, CatalogueChange};
use crate::state::{Cut, Levels};
use crate::storage::{MemoryStorage, Storage};
use crate::sync::{Arc, Clock};
use crate::types::{Epoch, KeyspaceNumber, LogPosition, PageNumber, SequenceNumber};

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);
const SEED: u64 = 77;

struct File {
    pages: Arc<PageManager>,
    storage: MemoryStorage,
}

fn file() -> File {
    let storage = MemoryStorage::new();
    let layout = Layout::new(1024, 8, 1024 * 1024, [9; 16]).unwrap();
    let options = PageOptions {
        storage: Arc::new(storage.clone()),
        layout,
        budget: Arc::new(MemoryBudget::new(8 << 20)),
        max_file_bytes: None,
    };
    File { pages: PageManager::create(options, 1 << 20).unwrap(), storage }
}

fn key(index: u32) -> Vec<u8> {
    format!("key {index:06} of some length").into_bytes()
}

impl File {
    /// A tree of `count` keys, every 97th with an overflow value and every tenth deleted; numbered
    /// and
    /// composite when `young`.
    fn points(&self, count: u32, young: bool, epoch: u64) -> (TreeRoot, Vec<u64>) {
        let named = if young { KeyspaceNumber::MANY } else { KEYSPACE };
        let options = LeafOptions {
            leaf_bytes: 1024,
            codec: Codec::Plain,
            base_number: young.then_some(100),
            keyspace: named,
        };
        let filter = FilterOptions { seed: SEED, bits_per_key: if young { 0 } else { 10 } };
        let mut nodes = NodeWriter::new(self.pages.clone(), 64);
        let mut writer = SegmentWriter::new(options, filter, Vec::new());
        let mut hashes = Vec::new();
        for index in 0..count {
            let bare = key(index);
            let hash = key_hash(self.pages.layout().filter_seed(), KEYSPACE, &bare);
            hashes.push(hash);
            let mut stored = bare.clone();
            if young {
                composite_key(KEYSPACE, &bare, &mut stored);
            }
            let (mut kind, mut value, mut overflow) = (EntryKind::Put, vec![7; 20], None);
            if index % 97 == 5 {
                let written =
                    write_value(&self.pages, KEYSPACE, Codec::Plain, &vec![index as u8; 5000]);
                let reference = written.unwrap();
                self.reference(reference.blocks.iter().copied());
                value.clear();
                reference.encode(&mut value);
                kind = EntryKind::PutOverflow;
                overflow = Some(LeafOverflow { birth: Epoch(0), blocks: reference.blocks });
            } else if index % 10 == 3 {
                (kind, value) = (EntryKind::Delete, Vec::new());
            }
            let number = if young { 100 + u64::from(index % 50) } else { 0 };
            let entry = NewEntry { kind, key: &stored, number, value: &value, hash };
            writer.push(&mut nodes, &entry, overflow).unwrap();
        }
        let lowest = writer.finish(&mut nodes, true).unwrap();
        self.reference(nodes.finish().unwrap().blocks);
        let change = TreeEdit::new(&self.pages, named, Epoch(epoch)).build(lowest).unwrap();
        self.reference(change.born);
        (change.root.unwrap(), hashes)
    }

    fn ranges(&self, fragments: &[Fragment], young: bool, epoch: u64) -> TreeRoot {
        let named = if young { KeyspaceNumber::MANY } else { KEYSPACE };
        let mut nodes = NodeWriter::new(self.pages.clone(), 1);
        let base = young.then_some(100);
        let lowest =
            crate::merge::ranges::write_ranges_tree(&mut nodes, named, base, 1024, fragments)
                .unwrap();
        self.reference(nodes.finish().unwrap().blocks);
        let change = TreeEdit::new(&self.pages, named, Epoch(epoch)).build(lowest).unwrap();
        self.reference(change.born);
        change.root.unwrap()
    }

    fn reference(&self, blocks: impl IntoIterator<Item = Block>) {
        blocks.into_iter().for_each(|block| self.pages.allocator().reference(block));
    }

    fn level_segment(&self, count: u32) -> Segment {
        let (points, _) = self.points(count, false, 4);
        Segment {
            number: 8,
            points: Some(points),
            ranges: None,
            filter: filter(Vec::new()),
            bounds: Some(Bounds { least: key(0), greatest: key(count - 1), open_end: false }),
            sequences: None,
            promoted: Arc::new(KeyRanges::new()),
            keyspaces: Arc::default(),
            counted: Counted::default(),
        }
    }

    fn young_segment(&self, count: u32) -> Segment {
        let (points, hashes) = self.points(count, true, 4);
        let mut nodes = NodeWriter::new(self.pages.clone(), 1);
        let mut lines = Vec::new();
        build(&hashes, SEED, lines_for(hashes.len() as u64, 10), &mut lines).unwrap();
        let spec = NodeSpec {
            kind: NodeKind::YoungFilter,
            height: 0,
            flags: 0,
            keyspace: KeyspaceNumber::MANY,
            codec: Codec::Plain,
        };
        let pieces = lines.chunks(960);
        let filters = pieces.map(|piece| nodes.append(&spec, piece, false).unwrap()).collect();
        self.reference(nodes.finish().unwrap().blocks);
        let composite = |bare: &[u8]| {
            let mut out = Vec::new();
            composite_key(KEYSPACE, bare, &mut out);
            out
        };
        let fragments: Vec<Fragment> = (0..count / 2)
            .map(|index| Fragment {
                start: composite(&key(index * 2)),
                end: Some(composite(&key(index * 2 + 1))),
                numbers: vec![149, 120],
            })
            .collect();
        let ranges = self.ranges(&fragments, true, 4);
        let share =
            KeyspaceShare { keyspace: KEYSPACE, entries: u64::from(count + count / 2), bytes: 1 };
        Segment {
            number: 9,
            points: Some(points),
            ranges: Some(ranges),
            filter: filter(filters),
            bounds: Some(Bounds {
                least: composite(&key(0)),
                greatest: composite(&key(count - 1)),
                open_end: false,
            }),
            sequences: Some((SequenceNumber(100), SequenceNumber(149))),
            promoted: Arc::new(KeyRanges::new()),
            keyspaces: Arc::new(Counted::new(vec![share])),
            counted: Counted::default(),
        }
    }

    fn verify(&self, contents: &Contents) -> VerifyReport {
        let owners = StateOwners::default();
        verify_state(&self.pages, contents, Some(&owners), &mut |_, _| true).unwrap()
    }

    fn flip(&self, offset: u64) {
        let mut byte = [0];
        self.storage.read_at(offset, &mut byte).unwrap();
        self.storage.write_at(offset, &[byte[0] ^ 4]).unwrap();
    }
}

fn filter(nodes: Vec<crate::page::NodeRef>) -> SegmentFilter {
    SegmentFilter::new(SEED, nodes)
}

fn contents(young: Option<Segment>, level: Option<Segment>) -> Contents {
    let mut catalogue = Catalogue::default();
    let settings = Default::default();
    catalogue.apply(&CatalogueChange::Create(KEYSPACE, "default".into(), settings));
    let levels =
        level.map(|segment| (KEYSPACE, Arc::new(Levels::new(vec![vec![Arc::new(segment)]]))));
    Contents {
        epoch: Epoch(6),
        catalogue: Arc::new(catalogue),
        young: young.into_iter().map(Arc::new).collect(),
        levels: levels.into_iter().collect(),
        cut: Cut { sequence: SequenceNumber(149), position: LogPosition(0), chain: 0 },
    }
}

fn texts(report: &VerifyReport) -> Vec<&str> {
    report.problems.iter().map(|problem| problem.text.as_str()).collect()
}

#[test]
fn a_tree_that_lost_its_first_lowest_parents_is_sound() {
    let file = file();
    let mut segment = file.level_segment(15_000);
    let root = segment.points.unwrap();
    assert_eq!(root.height, 2);
    let node = read_parent(&file.pages, &root.reference, KEYSPACE, 2).unwrap();
    let separators: Vec<_> =
        entries_of(&node, root.birth).unwrap().into_iter().map(|entry| entry.separator).collect();
    let edit = TreeEdit::new(&file.pages, KEYSPACE, Epoch(5));
    let change = edit.replace(&root, b"", Some(&separators[3]), Vec::new()).unwrap();
    file.reference(change.born);
    let root = change.root.unwrap();
    segment.points = Some(root.clone());
    let report = file.verify(&contents(None, Some(segment.clone())));
    // What died is unowned: nobody has given it back.
    let about_keys = |text: &&str| text.contains("separator") || text.contains("key");
    assert_eq!(texts(&report).into_iter().filter(about_keys).collect::<Vec<_>>(), [""; 0]);
    // The root's first separator may be any key that nothing lies below; a child's may not.
    let node = read_parent(&file.pages, &root.reference, KEYSPACE, 2).unwrap();
    let mut entries = entries_of(&node, Epoch(5)).unwrap();
    assert_eq!(entries[0].separator, separators[3]);
    entries[1].separator.push(0);
    let edit = TreeEdit::new(&file.pages, KEYSPACE, Epoch(5));
    let change = edit.build(Lowest::Parents(entries)).unwrap();
    file.reference(change.born);
    segment.points = change.root;
    let report = file.verify(&contents(None, Some(segment)));
    assert!(texts(&report).iter().any(|text| text.contains("first separator")));
}

#[test]
fn sound_segments_are_clean_and_counted() {
    let file = file();
    let state = contents(Some(file.young_segment(500)), Some(file.level_segment(3000)));
    // Before and after the upper parents are written.
    for _ in 0..2 {
        let report = file.verify(&state);
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.entries, 3000 + 500 + 250);
        assert_eq!(report.overflow_values, 31 + 6);
        assert_eq!(report.segments, 2);
        assert_eq!(report.live_pages, report.referenced_pages);
        let claimed: u64 = state.young[0].pages() + state.levels[&KEYSPACE].last().unwrap().pages();
        assert_eq!(report.live_pages, claimed);
        assert!(report.to_string().contains("nothing is wrong"));
        file.pages.write_unwritten().unwrap();
    }
}

#[test]
fn a_flipped_bit_in_any_block_is_found_at_its_page() {
    let file = file();
    let state = contents(Some(file.young_segment(300)), Some(file.level_segment(900)));
    file.pages.write_unwritten().unwrap();
    let blocks = walk_blocks(&file.pages, &state).unwrap();
    let kinds: BTreeSet<NodeKind> = blocks.values().map(|live| live.what).collect();
    assert_eq!(kinds.len(), 6, "all kinds of nodes: {kinds:?}");
    for (index, live) in blocks.values().enumerate() {
        let start = file.pages.layout().offset_of(live.block.first);
        let offset = start + (index as u64 * 37) % 1016;
        file.flip(offset);
        let report = file.verify(&state);
        let named = report.problems.iter().any(|problem| problem.page == Some(live.block.first));
        assert!(named, "{live:?} at {offset}: {report}");
        file.flip(offset);
    }
    assert!(file.verify(&state).is_clean());
}

#[test]
fn what_a_promotion_kills_is_the_difference_of_the_walks() {
    let file = file();
    let segment = file.level_segment(3000);
    let root = segment.points.clone().unwrap();
    let before = contents(None, Some(segment.clone()));
    let blocks = walk_blocks(&file.pages, &before).unwrap();
    assert!(difference(&blocks, &blocks).is_empty());
    let all: KeyRanges = [KeyRange::new(key(200), Some(key(2345)))].into_iter().collect();
    let died = newly_covered(&file.pages, KEYSPACE, &root, &KeyRanges::new(), &all).unwrap().nodes;
    let after = contents(None, Some(Segment { promoted: Arc::new(all.clone()), ..segment }));
    let rest = walk_blocks(&file.pages, &after).unwrap();
    let gone = difference(&blocks, &rest);
    assert!(difference(&rest, &blocks).is_empty());
    // Values move on with their keys, which the coverage of nodes does not count.
    let nodes = gone.iter().filter(|live| live.what != NodeKind::OverflowValue);
    let nodes: BTreeSet<_> = nodes.map(|live| (live.block, live.birth)).collect();
    assert_eq!(nodes, died.iter().copied().collect());
    assert!(nodes.len() > 20);
    let moved = (200..2345).filter(|index| index % 97 == 5).count();
    let values = gone.iter().filter(|live| live.what == NodeKind::OverflowValue);
    assert_eq!(values.count(), moved);
    // The dead are not read: damage there is nobody's.
    for live in &gone {
        file.pages.allocator().dereference(live.block);
        file.flip(file.pages.layout().offset_of(live.block.first));
    }
    let report = file.verify(&after);
    assert!(report.is_clean(), "{report}");
    assert_eq!(live_blocks(&file.pages, &after).unwrap().page_count(), report.live_pages);
}

#[test]
fn leaked_and_missing_pages_are_reported() {
    let file = file();
    let state = contents(None, Some(file.level_segment(500)));
    let leaked = file.pages.allocator().allocate(3, 3).unwrap();
    file.reference([leaked]);
    let report = file.verify(&state);
    assert_eq!(report.problem_count, 1, "{report}");
    assert_eq!(report.problems[0].page, Some(leaked.first));
    assert!(report.problems[0].text.contains("leaked"));
    file.pages.allocator().dereference(leaked);
    let blocks = walk_blocks(&file.pages, &state).unwrap();
    let live = blocks.values().nth(7).unwrap();
    file.pages.allocator().dereference(live.block);
    let report = file.verify(&state);
    assert_eq!(report.problem_count, 1, "{report}");
    assert!(report.problems[0].text.contains("free in the map"));
    // A leaf that the log uses too.
    file.reference([live.block]);
    let owners = StateOwners { log: vec![live.block], state: Vec::new() };
    let report = verify_state(&file.pages, &state, Some(&owners), &mut |_, _| true).unwrap();
    assert_eq!(report.problem_count, 1, "{report}");
    assert_eq!(report.problems[0].page, Some(live.block.first));
}

#[test]
fn wrong_sums_bounds_births_seeds_and_numbers_are_reported() {
    let file = file();
    let (young, level) = (file.young_segment(300), file.level_segment(900));
    let clean = contents(Some(young.clone()), Some(level.clone()));
    assert!(file.verify(&clean).is_clean());
    let expect = |change: &dyn Fn(&mut Segment, &mut Segment), text: &str| {
        let (mut young, mut level) = (young.clone(), level.clone());
        change(&mut young, &mut level);
        let report = file.verify(&contents(Some(young), Some(level)));
        assert!(texts(&report).iter().any(|found| found.contains(text)), "{text}: {report}");
    };
    expect(&|_, level| level.points.as_mut().unwrap().entries += 1, "entries: its children have");
    expect(&|_, level| level.points.as_mut().unwrap().tombstones -= 1, "tombstones:");
    expect(&|_, level| level.points.as_mut().unwrap().pages += 1, "pages below:");
    expect(&|_, level| level.points.as_mut().unwrap().leaves += 1, "leaves:");
    expect(&|_, level| level.points.as_mut().unwrap().height += 1, "height");
    expect(&|_, level| level.points.as_mut().unwrap().birth = Epoch(7), "born in state 7");
    expect(&|_, level| level.filter.seed += 1, "its filter denies one of its keys");
    expect(&|young, _| young.filter.seed += 1, "the segment's filter denies one of its keys");
    expect(&|_, level| level.bounds.as_mut().unwrap().greatest = key(700), "outside the segment's");
    expect(&|_, level| level.bounds.as_mut().unwrap().least = key(1), "outside the segment's");
    let numbers = |first, last| Some((SequenceNumber(first), SequenceNumber(last)));
    expect(&|young, _| young.sequences = numbers(101, 149), "number lies outside");
    expect(&|young, _| young.sequences = numbers(100, 148), "number lies outside");
    expect(&|young, _| young.sequences = numbers(100, 160), "the cut is 149");
    expect(&|young, _| Arc::make_mut(&mut young.keyspaces)[0].entries += 1, "the state says");
    expect(&|young, _| Arc::make_mut(&mut young.keyspaces).clear(), "does not have");
    expect(&|_, level| level.sequences = numbers(1, 2), "of a level has sequence numbers");
    expect(&|young, _| young.points = None, "leaked");
    let mut wrong = clean.clone();
    wrong.levels = [(KeyspaceNumber(4), wrong.levels[&KEYSPACE].clone())].into();
    let report = file.verify(&wrong);
    assert!(texts(&report).iter().any(|text| text.contains("keyspace that there is not")));
    assert!(texts(&report).iter().any(|text| text.contains("and keyspace 3")), "{report}");
}

#[test]
fn young_segments_that_are_out_of_order_are_reported() {
    let file = file();
    let young = Arc::new(file.young_segment(50));
    let mut state = contents(None, None);
    state.young = vec![young.clone(), young];
    let report = file.verify(&state);
    assert!(texts(&report).iter().any(|text| text.contains("not older")), "{report}");
    assert!(texts(&report).iter().any(|text| text.contains("used twice")), "{report}");
}

#[test]
fn many_problems_are_counted_and_the_first_are_kept() {
    let file = file();
    let mut segment = file.level_segment(9000);
    segment.filter.seed += 1;
    segment.bounds.as_mut().unwrap().greatest = Vec::new();
    let mut state = contents(None, Some(segment));
    state.epoch = Epoch(3);
    let report = file.verify(&state);
    assert_eq!(report.problems.len(), PROBLEMS_MAX);
    assert!(report.problem_count > PROBLEMS_MAX as u64);
    assert!(report.to_string().contains("of which the first 1000"));
}

#[test]
fn a_walk_reports_its_progress_and_can_be_cancelled() {
    let file = file();
    let state = contents(None, Some(file.level_segment(900)));
    let (mut last, mut calls) = ((0, 0), 0);
    let report = verify_state(&file.pages, &state, None, &mut |done, total| {
        assert!(done >= last.0 && done <= total);
        last = (done, total);
        calls += 1;
        true
    });
    assert!(report.unwrap().is_clean());
    assert_eq!(last.0, last.1);
    assert!(calls > 10);
    let mut left = 5;
    let cancelled = verify_state(&file.pages, &state, None, &mut |_, _| {
        left -= 1;
        left > 0
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn a_new_database_is_clean_and_a_lost_block_in_it_is_found() {
    let storage = Arc::new(MemoryStorage::new());
    let options = Options { merge_threads: 0, ..Options::default() };
    let core = crate::state::create::create(storage, options, Clock::real()).unwrap();
    let check = |activity| verify_with(&core, activity, &mut |_, _| true).unwrap();
    let report = check(Activity::Quiet);
    assert!(report.is_clean(), "{report}");
    let lost = core.pages.allocator().allocate(2, 2).unwrap();
    let report = check(Activity::Busy);
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.unowned_pages, 2);
    let report = check(Activity::Quiet);
    assert_eq!(report.problem_count, 1, "{report}");
    assert_eq!(report.problems[0].page, Some(lost.first));
    core.pages.free(lost);
    // A page of the log that the map has lost.
    let log = core.durable.own_blocks().pop().unwrap();
    core.pages.allocator().dereference(log);
    assert!(!check(Activity::Quiet).is_clean());
}

/// Each of the entries that name one value had it read anew.
#[test]
fn a_value_that_many_entries_name_is_read_twice_at_most() {
    let file = file();
    let value = write_value(&file.pages, KEYSPACE, Codec::Plain, &vec![7; 50_000]).unwrap();
    file.reference(value.blocks.iter().copied());
    let mut encoded = Vec::new();
    value.encode(&mut encoded);
    let options = LeafOptions {
        leaf_bytes: 1024,
        codec: Codec::Plain,
        base_number: None,
        keyspace: KEYSPACE,
    };
    let filter_options = FilterOptions { seed: SEED, bits_per_key: 10 };
    let mut nodes = NodeWriter::new(file.pages.clone(), 64);
    let mut writer = SegmentWriter::new(options, filter_options, Vec::new());
    for index in 0..200 {
        let key = key(index);
        let hash = key_hash(file.pages.layout().filter_seed(), KEYSPACE, &key);
        let kind = EntryKind::PutOverflow;
        let entry = NewEntry { kind, key: &key, number: 0, value: &encoded, hash };
        let overflow = LeafOverflow { birth: Epoch(0), blocks: value.blocks.clone() };
        writer.push(&mut nodes, &entry, Some(overflow)).unwrap();
    }
    let lowest = writer.finish(&mut nodes, true).unwrap();
    file.reference(nodes.finish().unwrap().blocks);
    let change = TreeEdit::new(&file.pages, KEYSPACE, Epoch(4)).build(lowest).unwrap();
    file.reference(change.born);
    file.pages.write_unwritten().unwrap();
    let segment = Segment { points: change.root, ..file.level_segment(1) };
    let state = contents(None, Some(Segment { bounds: None, ..segment }));
    let report = file.verify(&state);
    assert_eq!(report.overflow_values, 200);
    assert!(texts(&report).iter().any(|text| text.contains("used twice")), "{report}");
    assert!(report.bytes_read < 200_000, "{} bytes", report.bytes_read);
}

/// A parent whose children are all one leaf had it read for each.
#[test]
fn a_leaf_that_many_parents_name_is_read_twice_at_most() {
    let file = file();
    let segment = file.level_segment(900);
    file.pages.write_unwritten().unwrap();
    let once = file.verify(&contents(None, Some(segment.clone())));
    let mut state = contents(None, None);
    let same = (0..20).map(|number| Arc::new(Segment { number, ..segment.clone() })).collect();
    state.levels.insert(KEYSPACE, Arc::new(Levels::new(vec![same])));
    let report = file.verify(&state);
    assert_eq!(report.leaves, 2 * once.leaves, "{report}");
}

#[test]
fn hostile_references_never_panic() {
    let file = file();
    let state = contents(Some(file.young_segment(60)), Some(file.level_segment(300)));
    file.pages.write_unwritten().unwrap();
    // Every reference of the state is turned a little.
    for bit in 0..20 {
        let mut level = (**state.levels[&KEYSPACE].last().unwrap()).clone();
        let root = level.points.as_mut().unwrap();
        root.reference.page = PageNumber(root.reference.page.0 ^ (1 << bit));
        let report = file.verify(&contents(None, Some(level.clone())));
        assert!(!report.is_clean());
        level.points.as_mut().unwrap().reference.pages = u32::MAX >> bit;
        assert!(!file.verify(&contents(None, Some(level))).is_clean());
    }
}
