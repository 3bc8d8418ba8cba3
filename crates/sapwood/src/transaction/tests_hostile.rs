//! Nodes and states with right checksums that say what no writer writes: whoever reads them comes
//! to an end, takes no more memory than their pages, and writes over nothing that is in use.

use super::PendingWrites;
use super::commit::commit;
use super::tests_rules::{Engine, key, open, options, with_many_parents};
use crate::error::{Error, Result};
use crate::estimate::estimate;
use crate::merge::compact::compact;
use crate::merge::overflow_walk::overflow_blocks;
use crate::merge::ranges::Fragments;
use crate::merge::step::{sync, wait_until_idle};
use crate::merge::stretch::{Side, end_after, load_stretch, lowest_beside};
use crate::merge::verify::{Activity, verify_with};
use crate::options::{Durability, Options};
use crate::page::file_header::SLOT_BYTES;
use crate::page::{
    Block, Codec, Counted, FLAG_NUMBERS, NodeKind, NodeRef, NodeSpec, StateLocation,
};
use crate::segment::bounded_ranges::BoundedRanges;
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::{KeyspaceShare, Segment, TreeRoot, composite_key};
use crate::segment::filter::LINE_BYTES;
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::merge_cursor::MergeCursor;
use crate::segment::node::{Caching, TreeKind, read_leaf, read_parent};
use crate::segment::overflow_reference::OverflowListItem;
use crate::segment::parent::{Below, Child, FilterSlot, ParentBuilder};
use crate::segment::parent_writer::parent_spec;
use crate::segment::range_tombstone::encode_value;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_block_builder::SortedBlockBuilder;
use crate::segment::tree_cursor::TreeCursor;
use crate::segment::tree_diff::add_differing;
use crate::state::backlog::PromotedLeaves;
use crate::state::damaged::Work;
use crate::state::durable::{Purpose, make_durable};
use crate::state::lookup::{Answer, ask_segment};
use crate::state::manifest::encode;
use crate::state::recovery::{self, ReadState, read_newest_state};
use crate::state::sources::sources;
use crate::state::state::{Levels, State};
use crate::state::view::View;
use crate::state::{Core, ReadPoint, SnapshotHold};
use crate::storage::{SimulatedStorage, Storage};
use crate::sync::atomic::Ordering;
use crate::sync::{Arc, Clock};
use crate::types::{COUNT_MAX, Epoch, KeyspaceNumber, PageNumber, SequenceNumber};

/// A tree of three heights more, in which each upper parent names one child, the one below it, four
/// times: a walk that follows them meets everything 64 times, and with more heights for ever.
fn with_shared_children(engine: &Engine, root: &TreeRoot) -> TreeRoot {
    let pages = &engine.core.pages;
    let first = read_parent(pages, &root.reference, engine.keyspace, root.height).unwrap();
    let mut separator = Vec::new();
    first.view().separator(0, &mut separator).unwrap();
    let mut root = root.clone();
    for height in root.height + 1..=root.height + 3 {
        let own_pages = u64::from(root.reference.pages);
        let below =
            Below::Parent { pages: root.pages - own_pages, leaves: root.leaves, overflow: true };
        let child = Child {
            reference: root.reference,
            entries: root.entries,
            tombstones: root.tombstones,
            birth: Some(root.birth),
            below,
            filter: None,
            dictionary: None,
            unused: 0,
        };
        let mut builder = ParentBuilder::new(height);
        builder.push(&separator, &child);
        for index in 1..4 {
            // They lie behind every key, those of each height behind those of the heights below.
            builder.push(&[0xff, height, index], &child);
        }
        let mut content = Vec::new();
        let info = builder.finish(&mut content).unwrap();
        let spec = parent_spec(height, engine.keyspace, info.wide);
        root.reference = pages.put_unwritten(&spec, &content).unwrap();
        root.height = height;
        root.entries *= 4;
        root.leaves *= 4;
        root.pages = root.pages * 4 + u64::from(root.reference.pages);
    }
    root
}

/// Puts another tree in place of the last level's.
fn change_last_level(engine: &Engine, points: TreeRoot) {
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap().clone();
    let segment = Segment { points: Some(points), bounds: None, ..(*last).clone() };
    let mut contents = (**state).clone();
    let levels = vec![vec![Arc::new(segment)]];
    contents.levels.insert(engine.keyspace, Arc::new(Levels::new(levels)));
    let hostile_state = State::new(
        contents,
        PromotedLeaves::default(),
        engine.core.pages.budget(),
        engine.core.held.releases(),
    );
    engine.core.change_view(|view| View {
        active: view.active.clone(),
        sealed: view.sealed.clone(),
        state: hostile_state,
    });
}

/// The root of the last level, before and after it has become a hostile one.
fn with_hostile_level(engine: &Engine) -> (TreeRoot, TreeRoot) {
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap().clone();
    let root = last.points.clone().unwrap();
    assert!(root.height > 1);
    let hostile = with_shared_children(engine, &root);
    change_last_level(engine, hostile.clone());
    (root, hostile)
}

/// An entry of a leaf: its key, and its number where the leaf has such.
type Entry = (u32, Option<u64>);

fn leaf_of(engine: &Engine, kind: EntryKind, entries: &[Entry]) -> Child {
    let numbered = entries[0].1.is_some();
    let mut builder = SortedBlockBuilder::new(numbered, 0);
    let mut value = Vec::new();
    if kind == EntryKind::RangeDelete {
        encode_value(None, None, &[], &mut value);
    }
    for (number, version) in entries {
        builder.push(kind, &key(*number), version.unwrap_or(0), &value);
    }
    let mut content = Vec::new();
    builder.finish(&mut content);
    let spec = NodeSpec {
        kind: NodeKind::Leaf,
        height: 0,
        flags: if numbered { FLAG_NUMBERS } else { 0 },
        keyspace: engine.keyspace,
        codec: Codec::Plain,
    };
    Child {
        reference: engine.core.pages.put_unwritten(&spec, &content).unwrap(),
        entries: entries.len() as u64,
        tombstones: 0,
        birth: None,
        below: Below::Leaf { overflow_pages: 0 },
        filter: None,
        dictionary: None,
        unused: 0,
    }
}

/// A lowest parent as a tree.
fn tree_of(engine: &Engine, children: &[(Vec<u8>, Child)], lists: &[NodeRef]) -> TreeRoot {
    tree_beside(engine, children, &[], lists)
}

/// The same with pieces of filters beside it.
fn tree_beside(
    engine: &Engine,
    children: &[(Vec<u8>, Child)],
    pieces: &[NodeRef],
    lists: &[NodeRef],
) -> TreeRoot {
    let mut builder = ParentBuilder::new(1);
    for piece in pieces {
        builder.push_piece(*piece);
    }
    lists.iter().for_each(|list| builder.push_overflow_list(*list));
    for (separator, child) in children {
        builder.push(separator, child);
    }
    let mut content = Vec::new();
    let info = builder.finish(&mut content).unwrap();
    let spec = parent_spec(1, engine.keyspace, info.wide);
    let reference = engine.core.pages.put_unwritten(&spec, &content).unwrap();
    let beside = pieces.iter().chain(lists).map(|node| u64::from(node.pages));
    let leaves = children.iter().map(|(_, child)| match child.below {
        Below::Leaf { overflow_pages } => {
            overflow_pages.saturating_add(u64::from(child.reference.pages))
        }
        Below::Parent { .. } => 0,
    });
    let below = beside.chain(leaves).fold(0, u64::saturating_add);
    TreeRoot {
        reference,
        height: 1,
        birth: engine.core.state().epoch,
        entries: children.iter().map(|(_, child)| child.entries).sum(),
        tombstones: 0,
        pages: below.saturating_add(u64::from(reference.pages)),
        leaves: children.len() as u64,
    }
}

/// Leaves with separators at every tenth key.
fn tree_of_leaves(engine: &Engine, kind: EntryKind, leaves: &[&[Entry]]) -> TreeRoot {
    let children = leaves.iter().enumerate().map(|(index, entries)| {
        let separator = if index == 0 { Vec::new() } else { key(index as u32 * 10) };
        (separator, leaf_of(engine, kind, entries))
    });
    tree_of(engine, &children.collect::<Vec<_>>(), &[])
}

/// An engine with a last level of one keyspace.
fn with_last_level() -> Engine {
    let mut engine = Engine::new();
    engine.put(0..200, &[1; 30]);
    engine.flush();
    wait_until_idle(&engine.core).unwrap();
    let state = engine.core.state();
    assert!(state.levels_of(engine.keyspace).unwrap().last().unwrap().points.is_some());
    engine
}

/// Walks over all that can be read, or to the first error.
fn walk(engine: &Engine, is_forward: bool) -> Result<Vec<Vec<u8>>> {
    let point = SnapshotHold::take(&engine.core).read_point(&engine.core);
    let sources = sources(&engine.core.pages, &point, engine.keyspace);
    let mut cursor = MergeCursor::new(sources, point.at.0);
    if is_forward { cursor.seek_first() } else { cursor.seek_last() }?;
    let mut found = Vec::new();
    while cursor.valid() {
        found.push(cursor.key().to_vec());
        if is_forward { cursor.next() } else { cursor.previous() }?;
    }
    Ok(found)
}

fn is_damage<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.is_corruption())
}

/// Parents that name each other's children would lead whoever goes down around for ever.
#[test]
fn children_that_several_parents_name_end_every_walk() {
    let engine = with_many_parents();
    let (root, hostile) = with_hostile_level(&engine);
    let (core, keyspace) = (&engine.core, engine.keyspace);
    let (pages, all, none) = (&core.pages, KeyRange::all(), KeyRanges::new());
    let everything: KeyRanges = [KeyRange::all()].into_iter().collect();

    assert!(is_damage(&walk(&engine, true)));
    assert!(is_damage(&walk(&engine, false)));
    let mut goes_on = |_: &KeyRange| Ok(true);
    assert!(is_damage(&load_stretch(pages, keyspace, &hostile, &all, u64::MAX, &mut goes_on)));
    assert!(is_damage(&newly_covered(pages, keyspace, &hostile, &none, &everything)));
    assert!(is_damage(&overflow_blocks(pages, &hostile, keyspace, &none, &everything)));
    assert!(is_damage(&end_after(pages, keyspace, &hostile, &none, &all, root.pages + 10)));
    let trees = ((Some(&root), &none), (Some(&hostile), &none));
    let mut found = BoundedRanges::new(1 << 20);
    assert!(is_damage(&add_differing(pages, keyspace, trees, &all, &mut found)));
    let edges = KeyRange::new([0xff], Some(vec![0xff, 0xff]));
    assert!(is_damage(&estimate(core, &ReadPoint::latest(core), keyspace, &edges)));

    let report = verify_with(core, Activity::Quiet, &mut |_, _| true).unwrap();
    let text = report.to_string();
    assert!(text.contains("the one that its own parent has for it"), "{text}");
    assert!(report.nodes < 2 * (root.leaves + 1000), "{} nodes were checked", report.nodes);

    assert!(is_damage(&compact(core, None, &mut |_, _| true)));
    assert!(is_damage(&wait_until_idle(core)));
}

/// Behind a range tombstone a cursor seeks its end. A leaf there with keys before it was covered
/// again, and the cursor sought the same end for ever.
#[test]
fn a_leaf_with_keys_before_its_place_ends_a_walk() {
    let mut engine = with_last_level();
    let leaves: [&[Entry]; 3] = [&[(1, None), (5, None)], &[(3, None)], &[(25, None)]];
    change_last_level(&engine, tree_of_leaves(&engine, EntryKind::Put, &leaves));
    assert!(is_damage(&walk(&engine, true)));
    assert!(is_damage(&walk(&engine, false)));
    let mut writes = PendingWrites::new();
    writes.delete_range(engine.keyspace, KeyRange::new(key(0), Some(key(8))));
    commit(&engine.core, &writes, Durability::Buffered, None).unwrap();
    assert!(is_damage(&walk(&engine, true)));
    // A step that takes them up handed descending keys to a leaf.
    engine.young((0..30).step_by(4), &[2; 30]);
    assert!(is_damage(&compact(&engine.core, None, &mut |_, _| true)));
    assert!(is_damage(&wait_until_idle(&engine.core)));
}

/// The same with keys behind it, which a promoted range skips to and back.
#[test]
fn a_leaf_with_keys_behind_its_place_ends_a_walk() {
    let mut engine = with_last_level();
    let leaves: [&[Entry]; 3] = [&[(1, None), (35, None)], &[(15, None)], &[(25, None)]];
    let root = tree_of_leaves(&engine, EntryKind::Put, &leaves);
    change_last_level(&engine, root.clone());
    assert!(is_damage(&walk(&engine, true)));
    assert!(is_damage(&walk(&engine, false)));
    let masked: KeyRanges = [KeyRange::new(key(10), Some(key(30)))].into_iter().collect();
    let (pages, keyspace, kind) = (&engine.core.pages, engine.keyspace, TreeKind::Points);
    let cursor = TreeCursor::new(pages.clone(), root.clone(), keyspace, kind, Caching::Keep);
    let mut cursor = cursor.masked(Arc::new(masked.clone()));
    let mut outcome = cursor.seek_first();
    while outcome.is_ok() && cursor.valid() {
        outcome = cursor.next();
    }
    assert!(is_damage(&outcome), "{outcome:?}");
    let covered: KeyRanges = [KeyRange::new(key(2), Some(key(10)))].into_iter().collect();
    let has_values = Below::Leaf { overflow_pages: 1 };
    let first = Child { below: has_values, ..leaf_of(&engine, EntryKind::Put, leaves[0]) };
    let list = list_of(&engine, &[(0, Block::new(PageNumber(100), 1))]);
    let second = leaf_of(&engine, EntryKind::Put, leaves[1]);
    let with_values = tree_of(&engine, &[(Vec::new(), first), (key(10), second)], &[list]);
    let none = KeyRanges::new();
    assert!(is_damage(&overflow_blocks(pages, &with_values, keyspace, &none, &covered)));
    engine.young((0..30).step_by(4), &[2; 30]);
    assert!(is_damage(&compact(&engine.core, None, &mut |_, _| true)));
}

/// A flush that puts a run into final form reads the leaf that it falls into.
#[test]
fn a_run_beside_a_leaf_that_is_out_of_its_place_is_damage() {
    let mut engine = with_last_level();
    let leaves: [&[Entry]; 3] = [&[(1, None), (5, None)], &[(900, None)], &[(1000, None)]];
    change_last_level(&engine, tree_of_leaves(&engine, EntryKind::Put, &leaves));
    engine.put(11..20, &[2; 600]);
    // What cannot go there goes to a young segment.
    engine.flush();
    assert!(engine.core.background.damaged.has((engine.keyspace, Work::Run)));
}

/// What begins a range tombstone lies in its leaf's place too.
#[test]
fn range_tombstones_that_begin_beside_their_leaf_are_damage() {
    let engine = with_last_level();
    let leaves: [&[Entry]; 2] = [&[(1, None), (15, None)], &[(12, None)]];
    let root = tree_of_leaves(&engine, EntryKind::RangeDelete, &leaves);
    let (pages, keyspace) = (&engine.core.pages, engine.keyspace);
    let fragments = Fragments::new(pages, &root, keyspace, None, Caching::Keep);
    assert!(is_damage(&fragments.and_then(Iterator::collect::<Result<Vec<_>>>)));
}

/// Two versions of one key, which only young segments have, came twice into the leaf that a step
/// wrote.
#[test]
fn a_leaf_of_a_level_that_has_numbers_is_damage() {
    let mut engine = with_last_level();
    let leaves: [&[Entry]; 2] = [&[(1, Some(7)), (1, Some(6)), (5, Some(3))], &[(11, None)]];
    change_last_level(&engine, tree_of_leaves(&engine, EntryKind::Put, &leaves));
    assert!(is_damage(&walk(&engine, true)));
    engine.young((0..30).step_by(4), &[2; 30]);
    assert!(is_damage(&compact(&engine.core, None, &mut |_, _| true)));
}

/// Items in lists cost a few bytes each, and tens of times that in memory.
#[test]
fn lists_that_name_more_than_their_leaves_have_are_damage() {
    let engine = with_last_level();
    let (pages, keyspace) = (&engine.core.pages, engine.keyspace);
    let read = |said_pages: u64, named: u32| {
        let block = Block::new(PageNumber(100), 1);
        let items: Vec<(u32, Block)> = (0..named).map(|_| (0, block)).collect();
        let children = [1, 15].map(|number| Child {
            below: Below::Leaf { overflow_pages: said_pages },
            ..leaf_of(&engine, EntryKind::Put, &[(number, None)])
        });
        let children = [Vec::new(), key(10)].into_iter().zip(children).collect::<Vec<_>>();
        let root = tree_of(&engine, &children, &[list_of(&engine, &items)]);
        let all = KeyRange::all();
        let stretch =
            load_stretch(pages, keyspace, &root, &all, u64::MAX, &mut |_| Ok(true)).map(|_| ());
        let (none, everything) = (KeyRanges::new(), [all].into_iter().collect());
        let blocks = overflow_blocks(pages, &root, keyspace, &none, &everything).map(|_| ());
        [stretch, blocks]
    };
    assert!(read(4, 8).iter().all(Result::is_ok));
    assert!(read(4, 9).iter().all(is_damage));
    // Nor do they name more than lies in the file, whatever the leaves say.
    let file_pages = u32::try_from(pages.file_pages()).unwrap();
    assert!(read(u64::MAX, file_pages + 1).iter().all(is_damage));
}

/// Each number is one that may be; their sum is none.
#[test]
fn what_children_say_may_add_up_to_more_than_a_number_holds() {
    let mut engine = with_last_level();
    let parents = [0, 10].map(|first| {
        let leaf = leaf_of(&engine, EntryKind::Put, &[(first + 1, None)]);
        let most = u64::MAX - 7;
        let (child, separator) = (Child { entries: most, tombstones: most, ..leaf }, key(first));
        let next = Child { ..leaf_of(&engine, EntryKind::Put, &[(first + 6, None)]) };
        let root = tree_of(&engine, &[(separator.clone(), child), (key(first + 5), next)], &[]);
        let below = Below::Parent { pages: 1 << 63, leaves: 2, overflow: false };
        (separator, Child { reference: root.reference, below, birth: None, ..child })
    });
    let mut builder = ParentBuilder::new(2);
    parents.iter().for_each(|(separator, child)| builder.push(separator, child));
    let mut content = Vec::new();
    let info = builder.finish(&mut content).unwrap();
    let spec = parent_spec(2, engine.keyspace, info.wide);
    let reference = engine.core.pages.put_unwritten(&spec, &content).unwrap();
    let leaf = (Vec::new(), leaf_of(&engine, EntryKind::Put, &[(1, None)]));
    let root = TreeRoot { reference, height: 2, ..tree_of(&engine, &[leaf], &[]) };
    let (pages, keyspace, all) = (&engine.core.pages, engine.keyspace, KeyRange::all());
    let stretch = load_stretch(pages, keyspace, &root, &all, u64::MAX, &mut |_| Ok(true)).unwrap();
    assert_eq!(stretch.leaves.len(), 4);
    change_last_level(&engine, TreeRoot { pages: u64::MAX, entries: u64::MAX, ..root });
    engine.young([3, 17], &[2; 30]);
    // It may be told that it does not add up, or go unseen.
    _ = compact(&engine.core, None, &mut |_, _| true);
    _ = wait_until_idle(&engine.core);
}

/// A list of overflow values: the index of each one's leaf, and its block.
fn list_of(engine: &Engine, items: &[(u32, Block)]) -> NodeRef {
    let mut content = Vec::new();
    for (child_index, block) in items {
        let (child_index, birth, blocks) = (*child_index, Epoch(0), vec![*block]);
        OverflowListItem { child_index, birth, blocks }.encode(&mut content);
    }
    let spec = NodeSpec {
        kind: NodeKind::OverflowList,
        height: 0,
        flags: 0,
        keyspace: engine.keyspace,
        codec: Codec::Plain,
    };
    engine.core.pages.put_unwritten(&spec, &content).unwrap()
}

/// A piece of filters.
fn piece_of(engine: &Engine, codec: Codec, content: &[u8]) -> NodeRef {
    let kind = NodeKind::FilterPiece;
    let spec = NodeSpec { kind, height: 0, flags: 0, keyspace: engine.keyspace, codec };
    engine.core.pages.put_unwritten(&spec, content).unwrap()
}

/// A leaf with one key, and its filter in a piece.
fn tree_with_filter(engine: &Engine, first: u32, piece: NodeRef, slot: FilterSlot) -> TreeRoot {
    let leaf = leaf_of(engine, EntryKind::Put, &[(first + 1, None)]);
    let child = Child { filter: Some(slot), ..leaf };
    tree_beside(engine, &[(key(first), child)], &[piece], &[])
}

/// A piece that each of many small parents named as its own was taken up for each.
#[test]
fn a_stretch_takes_up_no_more_filters_than_its_pages_hold() {
    let engine = with_last_level();
    let (pages, keyspace, all) = (&engine.core.pages, engine.keyspace, KeyRange::all());
    let piece = piece_of(&engine, Codec::Plain, &[0; 64 << 10]);
    let slot = FilterSlot { piece: 0, first_line: 0, lines: (64 << 10) / LINE_BYTES as u32 };
    let roots = (0..100).map(|index| tree_with_filter(&engine, index * 10, piece, slot));
    let roots: Vec<TreeRoot> = roots.collect();
    let above = |pages_said: u64| {
        let mut builder = ParentBuilder::new(2);
        for (index, root) in (0..).zip(&roots) {
            let below = Below::Parent { pages: pages_said, leaves: 1, overflow: false };
            let leaf = leaf_of(&engine, EntryKind::Put, &[(1, None)]);
            builder.push(&key(index * 10), &Child { reference: root.reference, below, ..leaf });
        }
        let mut content = Vec::new();
        let info = builder.finish(&mut content).unwrap();
        let spec = parent_spec(2, keyspace, info.wide);
        let reference = pages.put_unwritten(&spec, &content).unwrap();
        TreeRoot { reference, height: 2, ..roots[0].clone() }
    };
    // Each is a leaf and 65 pages of its piece. What is said to be less is counted as less.
    for pages_said in [0, 1, 65] {
        let root = above(pages_said);
        for goes_on in [false, true] {
            let mut goes_on = |_: &KeyRange| Ok(goes_on);
            let error = load_stretch(pages, keyspace, &root, &all, 1, &mut goes_on).unwrap_err();
            let Error::Corruption(damage) = error else { panic!("{error}") };
            assert_eq!(damage.page, Some(roots[0].reference.page));
        }
        let border = lowest_beside(pages, keyspace, &root, &key(10), Side::Behind);
        assert!(is_damage(&border.unwrap().unwrap().into_stretch(pages, keyspace)));
    }
    let root = above(66);
    let load = |pages_max| {
        load_stretch(pages, keyspace, &root, &all, pages_max, &mut |_: &KeyRange| Ok(true))
    };
    for (pages_max, parents) in [(1, 1), (66, 1), (67, 2), (200, 4)] {
        let stretch = load(pages_max).unwrap();
        assert_eq!(stretch.leaves.len(), parents as usize, "of {pages_max} pages");
        assert_eq!(stretch.range.end, Some(key(parents * 10)));
        assert!(stretch.leaves.iter().all(|leaf| leaf.filter.len() == 64 << 10));
    }
    // All of them would be more than the file.
    assert!(pages.file_pages() < 100 * 66);
    assert!(is_damage(&load(u64::MAX)));
}

/// A leaf whose one entry has a value that is none.
fn leaf_with_bad_value(engine: &Engine, keyspace: KeyspaceNumber, kind: EntryKind) -> TreeRoot {
    let mut tree_key = key(1);
    if keyspace == KeyspaceNumber::MANY {
        composite_key(engine.keyspace, &key(1), &mut tree_key);
    }
    let mut builder = SortedBlockBuilder::new(false, 0);
    builder.push(kind, &tree_key, 0, &[0xff]);
    let mut content = Vec::new();
    builder.finish(&mut content);
    let (node, codec) = (NodeKind::Leaf, Codec::Plain);
    let spec = NodeSpec { kind: node, height: 0, flags: 0, keyspace, codec };
    let reference = engine.core.pages.put_unwritten(&spec, &content).unwrap();
    let birth = engine.core.state().epoch;
    TreeRoot { reference, height: 0, birth, entries: 1, tombstones: 0, pages: 1, leaves: 1 }
}

fn place_of<T: std::fmt::Debug>(result: Result<T>) -> (Option<PageNumber>, Option<KeyspaceNumber>) {
    match result {
        Err(Error::Corruption(damage)) => (damage.page, damage.keyspace),
        other => panic!("no damage: {other:?}"),
    }
}

/// It named no keyspace, or not even a page.
#[test]
fn damage_that_a_lookup_meets_names_its_place() {
    let engine = with_last_level();
    let (pages, keyspace, many) = (&engine.core.pages, engine.keyspace, KeyspaceNumber::MANY);
    let state = engine.core.state();
    let last = state.levels_of(keyspace).unwrap().last().unwrap().clone();
    let of_trees = |points, ranges| Segment { points, ranges, ..(*last).clone() };
    let ask = |segment: Segment| -> Result<Answer> {
        ask_segment(pages, &Arc::new(segment), keyspace, &key(1), 0, SequenceNumber::MAX)
    };
    for (kind, named) in [EntryKind::PutOverflow, EntryKind::RangeDelete]
        .into_iter()
        .flat_map(|kind| [(kind, keyspace), (kind, many)])
    {
        let root = leaf_with_bad_value(&engine, named, kind);
        let place = (Some(root.reference.page), Some(keyspace));
        let mut segment = match kind {
            EntryKind::PutOverflow => of_trees(Some(root), None),
            _ => of_trees(None, Some(root)),
        };
        if named == many {
            segment.sequences = Some((SequenceNumber(1), SequenceNumber(1)));
            let share = KeyspaceShare { keyspace, entries: 1, bytes: 1 };
            segment.keyspaces = Arc::new(Counted::new(vec![share]));
        }
        assert_eq!(place_of(ask(segment)), place, "{kind:?} in a tree of keyspace {named}");
    }
    // A piece that is another node, and one that is too short.
    let leaf = leaf_of(&engine, EntryKind::Put, &[(1, None)]).reference;
    let short = piece_of(&engine, Codec::Plain, &[0; 2 * LINE_BYTES]);
    let slot = FilterSlot { piece: 0, first_line: 2, lines: 1 };
    for piece in [leaf, short] {
        let root = tree_with_filter(&engine, 0, piece, slot);
        let place = (Some(piece.page), Some(keyspace));
        assert_eq!(place_of(ask(of_trees(Some(root.clone()), None))), place);
        let all = KeyRange::all();
        let stretch = load_stretch(pages, keyspace, &root, &all, u64::MAX, &mut |_| Ok(true));
        assert_eq!(place_of(stretch), place);
    }
}

/// A file whose newest state is what `change` makes of one that the engine wrote.
fn with_changed_state(change: &dyn Fn(&mut ReadState)) -> SimulatedStorage {
    let mut engine = Engine::new();
    engine.young(0..10, b"value");
    make_durable(&engine.core, Purpose::Running).unwrap();
    let storage = engine.storage.clone();
    drop(engine);
    let mut read = read_newest_state(&storage, true).unwrap();
    read.slot.generation += 1;
    change(&mut read);
    read.slot.state = StateLocation::Inline(encode(&read.manifest));
    let offset = u64::from(read.slot.slot_number()) * SLOT_BYTES as u64;
    storage.write_sync_at(offset, &read.slot.encode()).unwrap();
    storage
}

fn open_with(storage: &SimulatedStorage, options: Options) -> Result<Arc<Core>> {
    recovery::open(Arc::new(storage.clone()), options, Clock::fake().0)
}

fn to_read() -> Options {
    Options { read_only: true, ..options() }
}

/// Where a state says how far something has been counted.
type Counter = fn(&mut ReadState) -> &mut u64;

/// What such a file's first writer wrote was refused by every open after it.
#[test]
fn a_file_that_has_counted_far_is_read_and_not_written() {
    let most = COUNT_MAX / 2;
    let counters: [(&str, Counter); 5] = [
        ("sequence numbers", |read| &mut read.manifest.counters.sequence_limit),
        ("epochs", |read| &mut read.manifest.counters.epoch_limit),
        ("stamps", |read| &mut read.manifest.counters.stamp_limit),
        ("segments", |read| &mut read.manifest.counters.segment_limit),
        ("generations", |read| &mut read.slot.generation),
    ];
    for (name, counter) in counters {
        let with = |reached| with_changed_state(&|read| *counter(read) = reached);
        let storage = with(most);
        let core = open(&storage);
        let (keyspace, model) = (KeyspaceNumber(1), Default::default());
        let mut engine = Engine { storage: storage.clone(), core, keyspace, model };
        engine.young([1], b"more");
        make_durable(&engine.core, Purpose::Running).unwrap();
        drop(engine);
        assert!(open_with(&storage, to_read()).is_ok(), "{name}");
        for reached in [most + 1, COUNT_MAX] {
            let storage = with(reached);
            let error = open_with(&storage, options()).unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains(name), "{name}: {error}");
            assert!(open_with(&storage, to_read()).is_ok(), "{name}");
        }
    }
}

/// The same of a commit that only the log has.
#[test]
fn a_log_that_has_counted_far_is_read_and_not_written() {
    let with = |number| {
        let mut engine = Engine::new();
        engine.core.numbers.next_sequence.store(number, Ordering::Release);
        engine.put([1], b"value");
        sync(&engine.core).unwrap();
        engine.storage.clone()
    };
    let most = COUNT_MAX / 2;
    assert!(open_with(&with(most), options()).is_ok());
    let storage = with(most + 1);
    let error = open_with(&storage, options()).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("sequence numbers"), "{error}");
    assert!(open_with(&storage, to_read()).is_ok());
}

/// The first write went over the header, or over what came to lie there later.
#[test]
fn a_log_that_lies_where_none_can_lie_is_damage() {
    let core = open(&with_changed_state(&|_| ()));
    let is_free = |block: &Block| {
        core.pages.check_block(*block).is_ok() && !core.pages.allocator().is_given(*block)
    };
    let mut blocks = (0..core.pages.file_pages()).map(|page| Block::new(PageNumber(page), 1));
    let free = blocks.find(is_free).unwrap();
    for (block, found) in [
        (Block::new(PageNumber(0), 2), "belongs to the header"),
        (free, "does not know the log's blocks"),
    ] {
        let storage =
            with_changed_state(&|read| *read.manifest.log.blocks.last_mut().unwrap() = block);
        for options in [options(), to_read()] {
            let error = open_with(&storage, options).unwrap_err();
            assert!(error.is_corruption() && error.to_string().contains(found), "{error}");
        }
        // Without the log nothing of it matters.
        assert!(open_with(&storage, Options { without_log: true, ..to_read() }).is_ok());
    }
}

/// A node in memory was looked through for the tree that named it first.
#[test]
fn a_leaf_that_trees_of_two_kinds_name_is_looked_through_for_each() {
    let mut engine = Engine::new();
    engine.young([1, 2], b"young");
    let state = engine.core.state();
    let root = state.young[0].points.as_ref().unwrap();
    assert_eq!(root.height, 0);
    let (pages, many) = (&engine.core.pages, KeyspaceNumber::MANY);
    let read = |keyspace, kind| read_leaf(pages, &root.reference, keyspace, kind, Caching::Keep);
    assert!(read(many, TreeKind::Points).is_ok());
    assert!(is_damage(&read(engine.keyspace, TreeKind::Points)));
    assert!(is_damage(&read(many, TreeKind::Ranges)));
    assert!(read(many, TreeKind::Points).is_ok());
}

#[cfg(feature = "zstd")]
mod compressed {
    use super::*;
    use crate::page::{MemoryPart, NodeWriter};
    use crate::segment::segment_filter::SegmentFilter;

    /// A few bytes on disk that say that they are a MiB, named by a filter many times.
    #[test]
    fn a_filter_that_holds_more_than_its_pages_is_damaged() {
        let engine = Engine::new();
        let pages = &engine.core.pages;
        let mut nodes = NodeWriter::new(pages.clone(), 1);
        let spec = NodeSpec {
            kind: NodeKind::YoungFilter,
            height: 0,
            flags: 0,
            keyspace: KeyspaceNumber::MANY,
            codec: Codec::Zstd { level: 1 },
        };
        let node = nodes.append(&spec, &[0; 256 << 10], false).unwrap();
        nodes.finish().unwrap();
        assert!(u64::from(node.pages) * 1024 < 16 << 10, "{} pages", node.pages);
        let filter = SegmentFilter::new(1, vec![node; 4]);
        assert!(!filter.denies(pages, 7) && !filter.is_at_hand());
        assert!(pages.budget().part(MemoryPart::Filters) == 0);
    }

    /// The same of a piece, of which each leaf that it is for takes its part along.
    #[test]
    fn a_filter_piece_that_holds_more_than_its_pages_is_damage() {
        let engine = with_last_level();
        let (pages, keyspace, all) = (&engine.core.pages, engine.keyspace, KeyRange::all());
        let state = engine.core.state();
        let last = state.levels_of(keyspace).unwrap().last().unwrap().clone();
        let slot = FilterSlot { piece: 0, first_line: 0, lines: 4096 };
        let read = |codec| {
            let piece = piece_of(&engine, codec, &[0; 256 << 10]);
            let root = tree_with_filter(&engine, 0, piece, slot);
            let stretch = load_stretch(pages, keyspace, &root, &all, u64::MAX, &mut |_| Ok(true));
            let segment = Arc::new(Segment { points: Some(root), ranges: None, ..(*last).clone() });
            let number = SequenceNumber::MAX;
            let answer = ask_segment(pages, &segment, keyspace, &key(1), 0, number);
            [stretch.map(|_| ()), answer.map(|_| ())]
        };
        assert!(read(Codec::Plain).iter().all(Result::is_ok));
        assert!(read(Codec::Zstd { level: 1 }).iter().all(is_damage));
    }
}
