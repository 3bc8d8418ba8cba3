//! Nodes with right checksums that say what no writer writes: whoever reads them comes to an end,
//! and takes no more memory than their pages.

use super::PendingWrites;
use super::commit::commit;
use super::tests_rules::{Engine, key, with_many_parents};
use crate::error::Result;
use crate::estimate::estimate;
use crate::merge::compact::compact;
use crate::merge::overflow_walk::overflow_blocks;
use crate::merge::ranges::Fragments;
use crate::merge::step::wait_until_idle;
use crate::merge::stretch::{end_after, load_stretch};
use crate::merge::verify::{Activity, verify_with};
use crate::options::Durability;
use crate::page::{Block, Codec, FLAG_NUMBERS, NodeKind, NodeRef, NodeSpec};
use crate::segment::bounded_ranges::BoundedRanges;
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::merge_cursor::MergeCursor;
use crate::segment::node::{Caching, TreeKind, read_leaf, read_parent};
use crate::segment::overflow_reference::OverflowListItem;
use crate::segment::parent::{Below, Child, ParentBuilder};
use crate::segment::parent_writer::parent_spec;
use crate::segment::range_tombstone::encode_value;
use crate::segment::sorted_block::EntryKind;
use crate::segment::sorted_block_builder::SortedBlockBuilder;
use crate::segment::tree_cursor::TreeCursor;
use crate::segment::tree_diff::add_differing;
use crate::state::backlog::PromotedLeaves;
use crate::state::damaged::Work;
use crate::state::sources::sources;
use crate::state::state::{Levels, State};
use crate::state::view::View;
use crate::state::{ReadPoint, SnapshotHold};
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, PageNumber};

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
    contents.levels.insert(engine.keyspace, Arc::new(Levels { levels }));
    let hostile_state =
        State::new(contents, PromotedLeaves::default(), engine.core.held.releases());
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
    }
}

/// A lowest parent as a tree.
fn tree_of(engine: &Engine, children: &[(Vec<u8>, Child)], lists: &[NodeRef]) -> TreeRoot {
    let mut builder = ParentBuilder::new(1);
    lists.iter().for_each(|list| builder.push_overflow_list(*list));
    for (separator, child) in children {
        builder.push(separator, child);
    }
    let mut content = Vec::new();
    let info = builder.finish(&mut content).unwrap();
    let spec = parent_spec(1, engine.keyspace, info.wide);
    let reference = engine.core.pages.put_unwritten(&spec, &content).unwrap();
    let below = children.iter().map(|(_, child)| u64::from(child.reference.pages)).sum::<u64>();
    TreeRoot {
        reference,
        height: 1,
        birth: engine.core.state().epoch,
        entries: children.iter().map(|(_, child)| child.entries).sum(),
        tombstones: 0,
        pages: u64::from(reference.pages) + below,
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
    use super::super::tests_rules::Engine;
    use crate::page::{Codec, MemoryPart, NodeKind, NodeSpec, NodeWriter};
    use crate::segment::segment_filter::SegmentFilter;
    use crate::types::KeyspaceNumber;

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
}
