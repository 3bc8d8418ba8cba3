//! Nodes with right checksums that say what no writer writes: whoever reads them comes to an end,
//! and takes no more memory than their pages.

use super::tests_rules::with_many_parents;
use crate::page::NodeRef;
use crate::segment::node::read_parent;
use crate::segment::tree_cursor::check_reach;

/// Parents that name what belongs to others would lead a walk over the same leaves for ever.
#[test]
fn a_parent_out_of_its_place_ends_a_walk() {
    let engine = with_many_parents();
    let state = engine.core.state();
    let last = state.levels_of(engine.keyspace).unwrap().last().unwrap();
    let root = last.points.as_ref().unwrap();
    let read = |reference: &NodeRef, height| {
        read_parent(&engine.core.pages, reference, engine.keyspace, height).unwrap()
    };
    let above = read(&root.reference, root.height);
    let children = above.view().len().min(3);
    assert!(root.height > 1 && children > 1);
    let pairs = (0..children).flat_map(|index| (0..children).map(move |child| (index, child)));
    for (index, child) in pairs {
        let node = read(&above.child_reference(child).unwrap(), root.height - 1);
        let path = [(read(&root.reference, root.height), index)];
        assert_eq!(check_reach(&path, &node).is_ok(), index == child, "{child} for {index}");
    }
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
