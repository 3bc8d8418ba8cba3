//! Nodes with right checksums that say what no writer writes: whoever reads them comes to an end,
//! and takes no more memory than their pages.

use super::tests_rules::{Engine, with_many_parents};
use crate::error::Result;
use crate::estimate::estimate;
use crate::merge::compact::compact;
use crate::merge::overflow_walk::overflow_blocks;
use crate::merge::step::wait_until_idle;
use crate::merge::stretch::{end_after, load_stretch};
use crate::merge::verify::{Activity, verify_with};
use crate::segment::bounded_ranges::BoundedRanges;
use crate::segment::coverage::newly_covered;
use crate::segment::descriptor::{Segment, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::merge_cursor::MergeCursor;
use crate::segment::node::read_parent;
use crate::segment::parent::{Below, Child, ParentBuilder};
use crate::segment::parent_writer::parent_spec;
use crate::segment::tree_diff::add_differing;
use crate::state::backlog::PromotedLeaves;
use crate::state::sources::sources;
use crate::state::state::{Levels, State};
use crate::state::view::View;
use crate::state::{ReadPoint, SnapshotHold};
use crate::sync::Arc;

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

/// The root of the last level, before and after it has become a hostile one.
fn with_hostile_level(engine: &Engine) -> (TreeRoot, TreeRoot) {
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap().clone();
    let root = last.points.clone().unwrap();
    assert!(root.height > 1);
    let hostile = with_shared_children(engine, &root);
    let segment = Segment { points: Some(hostile.clone()), bounds: None, ..(*last).clone() };
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
    (root, hostile)
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

    let point = SnapshotHold::take(core).read_point(core);
    for is_forward in [true, false] {
        let mut cursor = MergeCursor::new(sources(pages, &point, keyspace), point.at.0);
        let mut outcome = if is_forward { cursor.seek_first() } else { cursor.seek_last() };
        while outcome.is_ok() && cursor.valid() {
            outcome = if is_forward { cursor.next() } else { cursor.previous() };
        }
        assert!(is_damage(&outcome), "{outcome:?}");
    }

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
