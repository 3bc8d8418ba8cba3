//! Many overflow values below one lowest parent: what is said of them takes several lists, of which
//! none is longer than what lies free side by side on a device that is full.

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use sapwood::merge::overflow_walk::overflow_blocks;
use sapwood::merge::stretch::load_stretch;
use sapwood::page::{Block, Layout, MemoryBudget, NodeRef, NodeWriter, PageManager, PageOptions};
use sapwood::segment::descriptor::{LEAVES_PER_LOWEST_PARENT_MAX, TreeRoot};
use sapwood::segment::key_range::{KeyRange, KeyRanges};
use sapwood::segment::leaf_writer::LeafOverflow;
use sapwood::segment::node::read_parent;
use sapwood::segment::parent::{Below, Child};
use sapwood::segment::parent_writer::{LeafEntry, write_lowest_parent};
use sapwood::segment::segment_filter::SegmentFilter;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Random};
use sapwood::{Compression, Database, Epoch, KeyspaceNumber, KeyspaceOptions, PageNumber};

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(3);

fn pages(page_bytes: u32, region_bytes: u64) -> Arc<PageManager> {
    let options = PageOptions {
        storage: Arc::new(MemoryStorage::new()),
        layout: Layout::new(page_bytes, 0, region_bytes, [9; 16]).unwrap(),
        budget: Arc::new(MemoryBudget::new(64 << 20)),
        max_file_bytes: None,
    };
    PageManager::create(options, 1 << 40).unwrap()
}

/// A leaf that nobody reads, with so many values.
fn leaf(number: u64, values: u64) -> LeafEntry {
    let value = |index: u64| LeafOverflow {
        birth: Epoch(index % 3),
        blocks: vec![Block::new(PageNumber(1 << 30 | number << 16 | index), 1)],
    };
    let reference = NodeRef { page: PageNumber(1000 + number), pages: 16, stamp: 1, checksum: 1 };
    let below = Below::Leaf { overflow_pages: values };
    LeafEntry {
        separator: if number == 0 { Vec::new() } else { number.to_be_bytes().to_vec() },
        child: Child {
            reference,
            entries: values,
            tombstones: 0,
            birth: Some(Epoch(1)),
            below,
            filter: None,
            dictionary: None,
            unused: 0,
        },
        filter: Vec::new(),
        overflow: (0..values).map(value).collect(),
    }
}

/// With leaves of 64 KiB a lowest parent may have more values below it than a node has room to
/// name: the merge that wrote it panicked.
#[test]
fn values_of_full_leaves_are_named_in_several_lists() {
    for (page_bytes, region_bytes, values) in [
        (4096, 128 << 20, 2300),
        (1024, 128 << 10, 2300),
        (65536, 4 << 20, 2300),
        (4096, 8 << 20, 1),
    ] {
        let pages = pages(page_bytes, region_bytes);
        let count = LEAVES_PER_LOWEST_PARENT_MAX as u64;
        let leaves: Vec<LeafEntry> = (0..count).map(|number| leaf(number, values)).collect();
        // What lists name lies in the file, beside them.
        while pages.file_pages() < count * (16 + values) * 5 / 4 {
            pages.allocator().allocate(16, 0).unwrap();
        }
        let mut nodes = NodeWriter::new(pages.clone(), 64);
        let written = write_lowest_parent(&mut nodes, KEYSPACE, &leaves).unwrap();
        nodes.finish().unwrap();
        let reference = written.child.reference;
        let parent = read_parent(&pages, &reference, KEYSPACE, 1).unwrap();
        let lists = parent.view().overflow_lists();
        assert_eq!(lists.len() > 1, values > 1);
        let mut sidecar_pages = 0;
        for index in 0..lists.len() {
            let list = lists.get(index).unwrap();
            assert!(list.pages <= pages.layout().window_pages(), "{} pages", list.pages);
            sidecar_pages += u64::from(list.pages);
        }
        let below = Below::Parent {
            pages: count * (16 + values) + sidecar_pages,
            leaves: count,
            overflow: true,
        };
        assert_eq!(written.child.below, below);

        // Who reads them finds each value once, with its leaf.
        let root = TreeRoot {
            reference,
            height: 1,
            birth: Epoch(1),
            entries: count * values,
            tombstones: 0,
            pages: u64::from(reference.pages) + count * (16 + values) + sidecar_pages,
            leaves: count,
        };
        let whole = KeyRange::all();
        let stretch =
            load_stretch(&pages, KEYSPACE, &root, &whole, u64::MAX, &mut |_| Ok(true)).unwrap();
        assert_eq!(stretch.leaves.len(), leaves.len());
        for (found, leaf) in stretch.leaves.iter().zip(&leaves) {
            assert!(found.overflow == leaf.overflow, "other values");
        }
        let own = u64::from(reference.pages);
        assert_eq!(stretch.pages(), count * 16 + own + sidecar_pages);
        let mut all = KeyRanges::new();
        all.insert(whole);
        let dead = overflow_blocks(&pages, &root, KEYSPACE, &KeyRanges::new(), &all).unwrap();
        let blocks = leaves.iter().flat_map(|leaf| &leaf.overflow).flat_map(|value| &value.blocks);
        assert!(dead.iter().map(|dead| &dead.block).eq(blocks), "other blocks");
    }
}

/// A filter of a young segment lies in nodes that find a place where a leaf does.
#[test]
fn filters_of_young_segments_are_cut_at_a_window() {
    for (page_bytes, region_bytes) in [(4096, 128 << 20), (1024, 128 << 10), (65536, 128 << 20)] {
        let pages = pages(page_bytes, region_bytes);
        let mut nodes = NodeWriter::new(pages.clone(), 64);
        let lines = vec![0xff; 300_032];
        let filter = SegmentFilter::write(&mut nodes, 7, lines).unwrap();
        nodes.finish().unwrap();
        let window = pages.layout().window_pages();
        assert!(filter.nodes.iter().all(|node| node.pages <= window), "{:?}", filter.nodes);
        // What is read again is the same: it denies nothing.
        let read = SegmentFilter::new(7, filter.nodes.clone());
        assert!(!read.denies(&pages, 1) && read.is_at_hand());
    }
}

/// What tells of the values of a whole database lies in several lists, in the smallest regions too.
#[test]
fn many_values_of_their_own_below_one_parent_come_and_go() {
    let builder = Database::builder().page_size(1024).leaf_bytes(64 << 10).merge_threads(0);
    let builder = builder.region_bytes(128 << 10).memory_budget(16 << 20);
    let database = builder.open_in_memory().unwrap();
    let options = KeyspaceOptions::default().compression(Compression::None);
    let keyspace = database.keyspace_with("a", options).unwrap();
    let count = 20_000u32;
    let value = |number: u32, round: u32| {
        let mut value = vec![0; 950];
        Random::from_seed(u64::from(number) << 8 | u64::from(round)).fill(&mut value);
        value
    };
    let settle = || {
        database.flush().unwrap();
        run_all_steps(&database).unwrap();
        database.wait_until_idle().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
    };
    for number in 0..count {
        keyspace.put(number.to_be_bytes(), value(number, 0)).unwrap();
    }
    settle();
    let core = database.core().unwrap();
    let state = core.state();
    let root = state.levels.values().next().unwrap().last().unwrap().points.clone().unwrap();
    let number = state.levels.keys().next().copied().unwrap();
    assert_eq!(root.height, 1, "all of it lies below one parent");
    let parent = read_parent(&core.pages, &root.reference, number, 1).unwrap();
    assert!(parent.view().overflow_lists().len() > 1);
    drop((state, parent));

    let snapshot = database.snapshot().unwrap();
    for number in (0..count).step_by(7) {
        keyspace.put(number.to_be_bytes(), value(number, 1)).unwrap();
    }
    keyspace.delete_range(5000u32.to_be_bytes()..9000u32.to_be_bytes()).unwrap();
    settle();
    let is_left = |number: u32| !(5000..9000).contains(&number);
    for number in 0..count {
        let key = number.to_be_bytes();
        let seen = snapshot.get(&keyspace, key).unwrap().unwrap();
        assert!(*seen == *value(number, 0), "{number}");
        let newest = keyspace.get(key).unwrap();
        let round = u32::from(number % 7 == 0);
        let expected = is_left(number).then(|| value(number, round));
        assert!(newest.map(|value| value.to_vec()) == expected, "{number}");
    }
    drop(snapshot);
    settle();
    database.compact().unwrap();
    settle();
    keyspace.delete_range::<&[u8]>(..).unwrap();
    settle();
    let (live, held) = access::live_and_held_bytes(&database).unwrap();
    assert!(live + held < 1 << 20, "{live} bytes live and {held} held");
}
