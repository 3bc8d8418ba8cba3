//! The manager, its cache and its writers together.

use proptest::prelude::*;

use crate::sync::Mutex;
use crate::sync::atomic::Ordering;
use crate::types::{KeyspaceNumber, PageNumber};

use super::super::cache::Cache;
use super::super::manager::WRITE_BYTES_MAX;
use super::super::stamps::{StampCounter, StampUse};
use super::storage::Hook;
use super::*;

fn big_layout(reserved_bytes: u16) -> Layout {
    Layout::new(4096, reserved_bytes, 4 << 20, IDENTITY).unwrap()
}

fn given_pages(manager: &PageManager) -> u64 {
    manager.allocator().given_list().page_count()
}

/// A damaged file may name blocks of most of the file again and again: the cache was searched page
/// by page for each.
#[test]
fn nothing_is_freed_once_the_maps_are_not_sound() {
    let (manager, _) = manager_over(tiny_layout(0));
    let block = manager.allocator().allocate(2, 2).unwrap();
    let given = || manager.allocator().stats().given_pages;
    let before = given();
    manager.free(Block::new(PageNumber(block.first.0 + 1), 2));
    assert!(manager.allocator().check_sound().is_err());
    manager.free(block);
    assert_eq!(given(), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn nodes_of_a_writer_come_back(
        contents in prop::collection::vec((0usize..20_000, any::<u32>(), any::<bool>()), 0..60),
        reserved in 0u16..3, hint in 0u64..300, zstd: bool,
    ) {
        let (manager, storage) = manager_over(big_layout(reserved * 64));
        let codec = if zstd { Codec::Zstd { level: 1 } } else { Codec::Plain };
        let spec = leaf_spec(codec);
        let mut writer = NodeWriter::new(Arc::clone(&manager), hint);
        let mut nodes = Vec::new();
        for (length, seed, repetitive) in contents {
            let content = if repetitive { vec![seed as u8; length] } else { noise(length, seed) };
            if seed % 3 == 0 {
                let stored = writer.compress_candidate(&spec, &content).unwrap();
                let reference = writer.append(&spec, &content, false).unwrap();
                prop_assert_eq!(reference.pages, writer.node_pages(stored));
                nodes.push((reference, content));
            } else {
                nodes.push((writer.append(&spec, &content, seed % 2 == 0).unwrap(), content));
            }
        }
        let written = writer.finish().unwrap();
        let used: BlockList = nodes.iter().map(|(reference, _)| reference.block()).collect();
        prop_assert_eq!(used.iter().collect::<Vec<_>>(), written.blocks);
        prop_assert_eq!(used.page_count() * 4096, written.bytes);
        prop_assert_eq!(manager.counters().bytes_written(), written.bytes);
        prop_assert_eq!(manager.counters().nodes_written[0], nodes.len() as u64);
        prop_assert_eq!(manager.allocator().given_list(), used);
        prop_assert!(storage.longest_write.load(Ordering::Relaxed) <= WRITE_BYTES_MAX);
        for (reference, content) in &nodes {
            let frame = manager.read_node_uncached(reference, NodeKind::Leaf).unwrap();
            prop_assert_eq!(frame.content(), &content[..]);
        }
        manager.cache().clear();
        for (reference, content) in &nodes {
            let frame = manager.read_node(reference, NodeKind::Leaf).unwrap();
            prop_assert_eq!(frame.content(), &content[..]);
        }
        prop_assert_eq!(manager.budget().part(MemoryPart::MergeBuffers), 0);
    }
}

#[test]
fn a_writer_that_is_dropped_or_fails_leaks_nothing() {
    let (manager, storage) = manager_over(big_layout(0));
    let mut writer = NodeWriter::new(Arc::clone(&manager), 1000);
    assert_eq!(manager.allocator().stats().blocks_asked, 0);
    for seed in 0..500 {
        writer.append(&leaf_spec(Codec::Plain), &noise(9000, seed), seed % 7 == 0).unwrap();
    }
    assert!(given_pages(&manager) >= 1500);
    drop(writer);
    assert_eq!(given_pages(&manager), 0);
    assert_eq!(manager.cache().used(), 0);

    storage.writes_left.store(3, Ordering::Relaxed);
    let mut writer = NodeWriter::new(Arc::clone(&manager), 1000);
    let mut seeds = 0..;
    let failed = seeds
        .find_map(|seed| writer.append(&leaf_spec(Codec::Plain), &noise(9000, seed), false).err())
        .unwrap();
    assert!(failed.to_string().contains("broken"), "{failed}");
    drop(writer);
    assert_eq!(given_pages(&manager), 0);

    let mut writer = NodeWriter::new(Arc::clone(&manager), 1000);
    writer.append(&leaf_spec(Codec::Plain), &[1], false).unwrap();
    assert!(writer.finish().is_err());
    assert_eq!(given_pages(&manager), 0);
    assert_eq!(manager.budget().part(MemoryPart::MergeBuffers), 0);
}

#[test]
fn a_writer_stops_at_a_full_device_and_leaks_nothing() {
    let (manager, storage) = manager_over(tiny_layout(0));
    storage.length_max.store(150 << 10, Ordering::Relaxed);
    let mut writer = NodeWriter::new(Arc::clone(&manager), 500);
    let error = (0..)
        .find_map(|seed| writer.append(&leaf_spec(Codec::Plain), &noise(3000, seed), false).err());
    assert!(error.unwrap().is_no_space());
    drop(writer);
    assert_eq!(given_pages(&manager), 0);
    assert!(manager.allocator().allocate(50, 50).is_ok());
}

#[cfg(feature = "zstd")]
#[test]
fn stored_content_is_moved_without_compressing_it_again() {
    let (manager, _) = manager_over(big_layout(64));
    let spec = leaf_spec(Codec::Zstd { level: 1 });
    let content = vec![7; 9000];
    let mut stored = Vec::new();
    assert!(compress::compress(spec.codec, &content, &mut stored, None).unwrap());
    let mut writer = NodeWriter::new(Arc::clone(&manager), 1);
    let moved = writer.append_stored(&spec, &stored, content.len()).unwrap();
    let again = writer.append(&spec, &content, true).unwrap();
    // Readable before it is on disk.
    assert_eq!(manager.read_node(&again, NodeKind::Leaf).unwrap().content(), content);
    writer.finish().unwrap();
    assert_eq!(manager.read_node(&moved, NodeKind::Leaf).unwrap().content(), content);
    assert_eq!((moved.pages, again.pages), (1, 1));
}

#[test]
fn a_candidate_serves_only_the_content_that_it_was_made_of() {
    let (manager, _) = manager_over(big_layout(0));
    let spec = leaf_spec(Codec::Zstd { level: 1 });
    let mut writer = NodeWriter::new(Arc::clone(&manager), 1);
    writer.compress_candidate(&spec, &[1; 9000]).unwrap();
    let other = writer.append(&spec, &[2; 9000], false).unwrap();
    writer.compress_candidate(&spec, &[3; 9000]).unwrap();
    let plain = writer.append(&leaf_spec(Codec::Plain), &[3; 9000], false).unwrap();
    writer.finish().unwrap();
    assert_eq!(manager.read_node(&other, NodeKind::Leaf).unwrap().content(), [2; 9000]);
    assert_eq!(plain.pages, 3);
}

#[test]
fn references_that_no_node_can_have_are_errors() {
    let (manager, _) = manager_over(tiny_layout(0));
    let mut writer = NodeWriter::new(Arc::clone(&manager), 1);
    let good = writer.append(&leaf_spec(Codec::Plain), b"x", false).unwrap();
    writer.finish().unwrap();
    let file_pages = manager.allocator().file_pages();
    for (page, pages) in [
        (0, 1),
        (8, 1),
        (good.page.0, 0),
        (good.page.0, 2),
        (good.page.0, u32::MAX),
        (u64::MAX, 1),
        (u64::MAX, u32::MAX),
        (file_pages, 1),
        (63, 2),
        (1 << 47, 1),
    ] {
        let reference = NodeRef { page: PageNumber(page), pages, ..good };
        let result = manager.read_node(&reference, NodeKind::Leaf);
        assert!(result.is_err_and(|error| error.is_corruption()), "{page} {pages}");
    }
    assert!(manager.read_node(&good, NodeKind::Parent).is_err());
    assert!(manager.read_node(&good, NodeKind::Leaf).is_ok());
    // Also when it is in the cache.
    assert!(manager.read_node(&good, NodeKind::Parent).is_err());
    let raw = manager.read_page_raw(good.page).unwrap();
    assert_eq!((raw.len(), raw[0], raw[32]), (1024, 1, b'x'));
    assert!(manager.read_page_raw(PageNumber(file_pages)).is_err());
    assert!(manager.read_page_raw(PageNumber(u64::MAX)).is_err());
    let beyond = [Block::new(PageNumber(u64::MAX - 3), 9)];
    assert!(manager.read_stream(&beyond, 0, &mut [0; 10]).is_err());
}

#[test]
fn an_old_frame_is_never_found_for_a_new_node_of_the_same_page() {
    let (manager, _) = manager_over(tiny_layout(0));
    let write = |content: &[u8]| {
        let mut writer = NodeWriter::new(Arc::clone(&manager), 1);
        let reference = writer.append(&leaf_spec(Codec::Plain), content, true).unwrap();
        writer.finish().unwrap();
        reference
    };
    let old = write(b"old");
    let held = manager.read_node(&old, NodeKind::Leaf).unwrap();
    manager.free(old.block());
    let new = loop {
        let new = write(b"new");
        if new.page == old.page {
            break new;
        }
    };
    // A late reader puts the old frame back.
    manager.cache().insert(Arc::clone(&held));
    assert_eq!(manager.read_node(&new, NodeKind::Leaf).unwrap().content(), b"new");
    assert!(manager.read_node(&old, NodeKind::Leaf).is_err());
    assert_eq!(held.content(), b"old");
}

#[test]
fn unwritten_nodes_are_read_from_memory_and_later_from_the_file() {
    for reserved in [0, 64] {
        let (manager, storage) = manager_over(tiny_layout(reserved));
        let spec = NodeSpec { codec: Codec::Zstd { level: 1 }, ..parent_spec() };
        let contents: Vec<_> = (0..20).map(|seed| noise(700 * seed, seed as u32)).collect();
        let mut contents = contents;
        contents.push(vec![1; 5000]);
        let references: Vec<_> =
            contents.iter().map(|content| manager.put_unwritten(&spec, content).unwrap()).collect();
        assert_eq!(storage.write_count.load(Ordering::Relaxed), 0);
        let check = || {
            for (reference, content) in references.iter().zip(&contents) {
                let frame = manager.read_node(reference, NodeKind::Parent).unwrap();
                assert_eq!(frame.content(), &content[..]);
                assert_eq!(frame.header().keyspace, KeyspaceNumber(7));
            }
            manager.cache().clear();
        };
        check();
        check();
        assert_eq!(references[20].pages == 1, cfg!(feature = "zstd"));
        manager.free(references[3].block());
        assert!(manager.read_node(&references[3], NodeKind::Parent).is_err());
        let replaced = manager.put_unwritten(&spec, &contents[3]).unwrap();
        let mut references = references.clone();
        references[3] = replaced;
        let used = manager.budget().part(MemoryPart::Other);
        assert!(used > 100_000);
        assert_eq!(manager.write_unwritten().unwrap(), 21);
        assert_eq!(manager.unwritten_count(), 0);
        assert_eq!(manager.budget().part(MemoryPart::Other), 0);
        manager.cache().clear();
        for (reference, content) in references.iter().zip(&contents) {
            let frame = manager.read_node(reference, NodeKind::Parent).unwrap();
            assert_eq!(frame.content(), &content[..]);
        }
        assert_eq!(manager.write_unwritten().unwrap(), 0);
    }
}

#[test]
fn unwritten_nodes_are_kept_when_writing_fails() {
    let (manager, storage) = manager_over(tiny_layout(0));
    let references: Vec<_> =
        (0..5).map(|seed| manager.put_unwritten(&parent_spec(), &[seed; 99]).unwrap()).collect();
    storage.writes_left.store(2, Ordering::Relaxed);
    assert!(manager.write_unwritten().is_err());
    assert_eq!(manager.unwritten_count(), 5);
    storage.writes_left.store(100, Ordering::Relaxed);
    assert_eq!(manager.write_unwritten().unwrap(), 5);
    manager.cache().clear();
    for (reference, seed) in references.iter().zip(0..) {
        let frame = manager.read_node(reference, NodeKind::Parent).unwrap();
        assert_eq!(frame.content(), [seed; 99]);
    }
}

/// A node is freed between the moment at which a pass chose to write it and the write. Were its
/// pages given out at once, the late write would destroy what their new owner has put there.
#[test]
fn pages_of_a_node_freed_while_it_is_written_are_given_back_after_the_write() {
    let (manager, storage) = manager_over(tiny_layout(0));
    let first = manager.put_unwritten(&parent_spec(), &[1; 50]).unwrap();
    let second = manager.put_unwritten(&parent_spec(), &[2; 50]).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (weak, seen_here) = (Arc::downgrade(&manager), Arc::clone(&seen));
    let mut once = true;
    *storage.before_write.lock() = Some(Hook(Box::new(move |_| {
        if std::mem::take(&mut once) {
            let manager = weak.upgrade().unwrap();
            manager.free(second.block());
            seen_here.lock().push(manager.allocator().is_given(second.block()));
        }
    })));
    manager.write_unwritten().unwrap();
    *storage.before_write.lock() = None;
    assert_eq!(*seen.lock(), [true]);
    assert!(!manager.allocator().is_given(second.block()));
    assert!(manager.allocator().is_given(first.block()));
}

#[test]
fn stamps_stop_at_their_limit() {
    let storage = Arc::new(TestStorage::default());
    let manager = PageManager::create(options(&storage, tiny_layout(0)), 4).unwrap();
    assert_eq!([1, 2, 3].map(|_| manager.next_stamp().unwrap()), [1, 2, 3]);
    assert_eq!((manager.stamp_counter(), manager.stamp_limit()), (4, 4));
    let over = manager.next_stamp().unwrap_err();
    assert!(over.is_no_space() && over.to_string().contains("write stamp"), "{over}");
    assert!(manager.put_unwritten(&leaf_spec(Codec::Plain), b"x").is_err());
    assert_eq!(manager.allocator().given_list().page_count(), 0);
    manager.set_stamp_limit(5);
    assert_eq!(manager.next_stamp().unwrap(), 4);
}

/// Ordinary nodes leave some to the durable state that brings new ones.
#[test]
fn the_last_stamps_before_a_limit_are_for_durable_states() {
    let stamps = StampCounter::new(1, 81);
    let took = |wanted_for| (0..).take_while(|_| stamps.next_stamp(wanted_for).is_some()).count();
    assert!(!stamps.are_low());
    assert_eq!((took(StampUse::Node), stamps.are_low()), (70, true));
    assert_eq!((took(StampUse::DurableState), stamps.value()), (10, 81));
    stamps.set_limit(stamps.value() + 80);
    assert!(!stamps.are_low());
    assert_eq!((took(StampUse::Node), stamps.value()), (70, 151));
}

#[test]
fn a_reopened_file_gives_the_same_nodes() {
    let (manager, storage) = manager_over(tiny_layout(64));
    let mut writer = NodeWriter::new(Arc::clone(&manager), 5);
    let reference = writer.append(&leaf_spec(Codec::Plain), &noise(2500, 4), false).unwrap();
    for block in writer.finish().unwrap().blocks {
        manager.allocator().reference(block);
    }
    let captured = manager.allocator().capture(&[]);
    let regions = manager.allocator().write_captured(&captured).unwrap();
    let file_pages = captured.file_pages();
    manager.allocator().captured_durable(captured);
    let state = OpenedState { file_pages, regions, next_stamp: 50, stamp_limit: 100 };
    let opened = PageManager::open(options(&storage, tiny_layout(64)), &state).unwrap();
    let frame = opened.read_node(&reference, NodeKind::Leaf).unwrap();
    assert_eq!(frame.content(), noise(2500, 4));
    assert_eq!(opened.next_stamp().unwrap(), 50);
    assert_eq!(opened.allocator().given_list(), manager.allocator().given_list());
    assert_eq!(opened.counters().nodes_read[NodeKind::Leaf.index()], 1);
    assert_eq!((opened.counters().cache_hits, opened.counters().cache_misses), (0, 1));
    assert_eq!(opened.storage().length().unwrap(), file_pages * 1024);
}

fn frame_of(page: u64, bytes: usize) -> Arc<Frame> {
    let reference = NodeRef { page: PageNumber(page), pages: 1, stamp: 1, checksum: 2 };
    let raw_bytes = bytes as u32;
    let header = NodeHeader {
        kind: NodeKind::Leaf,
        height: 0,
        flags: 0,
        page: PageNumber(page),
        stamp: 1,
        keyspace: KeyspaceNumber(1),
        stored_bytes: raw_bytes,
        raw_bytes,
    };
    Arc::new(Frame::new(reference, header, vec![0; bytes], 0))
}

#[test]
fn the_cache_keeps_to_its_capacity_and_gives_way_to_other_parts() {
    let budget = Arc::new(MemoryBudget::new(4 << 20));
    let cache = Cache::new(Arc::clone(&budget));
    for page in 0..5000 {
        cache.insert(frame_of(page, 4096));
        assert!(cache.used() <= 4 << 20);
    }
    assert!(cache.used() > 3 << 20);
    assert_eq!(budget.part(MemoryPart::Cache), cache.used());
    cache.set_capacity(1 << 20);
    assert!(cache.used() <= 1 << 20);
    cache.insert(frame_of(1, 1 << 20));
    assert!(cache.get(&frame_of(1, 1).reference()).is_none());
    cache.clear();
    assert_eq!(budget.part(MemoryPart::Cache), 0);

    let (manager, _) = manager_over(tiny_layout(0));
    for page in 0..3000 {
        manager.cache().insert(frame_of(page, 4096));
    }
    let before = manager.cache().used();
    let charge = manager.budget().charge(MemoryPart::Memtables, 6 << 20);
    assert!(before > 6 << 20 && manager.cache().used() <= 2 << 20);
    assert!(manager.budget().used() <= 8 << 20);
    drop(charge);
    assert!(manager.cache().capacity() > 7 << 20);
}

/// A value of many GiB was looked for in the cache page by page, by whoever found it free.
#[test]
fn of_a_long_block_the_frames_that_begin_in_it_are_forgotten_and_no_others() {
    let budget = Arc::new(MemoryBudget::new(64 << 20));
    let cache = Cache::new(Arc::clone(&budget));
    for pages in [10, 2048, 2049, 100_000, u32::MAX] {
        for page in (0..9000).step_by(3) {
            cache.insert(frame_of(page, 100));
        }
        cache.remove_in(Block::new(PageNumber(3000), pages));
        let end = 3000 + u64::from(pages);
        for page in (0..9000).step_by(3) {
            let is_left = cache.get(&frame_of(page, 1).reference()).is_some();
            assert_eq!(is_left, !(3000..end).contains(&page), "{page}");
        }
        assert_eq!(budget.part(MemoryPart::Cache), cache.used());
    }
}

#[test]
fn nodes_that_are_used_survive_a_scan() {
    let cache = Cache::new(Arc::new(MemoryBudget::new(4 << 20)));
    let hot: Vec<_> = (0..200).map(|page| frame_of(page, 4096)).collect();
    for frame in &hot {
        cache.insert(Arc::clone(frame));
        cache.get(&frame.reference());
        cache.get(&frame.reference());
    }
    for page in 1000..2500 {
        cache.insert(frame_of(page, 4096));
    }
    let kept = hot.iter().filter(|frame| cache.get(&frame.reference()).is_some()).count();
    assert!(kept > 180, "{kept} of 200");
}

#[test]
fn threads_may_use_one_manager_together() {
    let (manager, _) = manager_over(big_layout(0));
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let manager = &manager;
            scope.spawn(move || {
                for round in 0..20 {
                    let mut writer = NodeWriter::new(Arc::clone(manager), 20);
                    let content = noise(5000, thread * 1000 + round);
                    let nodes: Vec<_> = (0..10)
                        .map(|_| writer.append(&leaf_spec(Codec::Plain), &content, false).unwrap())
                        .collect();
                    let kept = manager.put_unwritten(&parent_spec(), &content).unwrap();
                    let written = writer.finish().unwrap();
                    manager.write_unwritten().unwrap();
                    for node in nodes {
                        let frame = manager.read_node(&node, NodeKind::Leaf).unwrap();
                        assert_eq!(frame.content(), &content[..]);
                    }
                    let frame = manager.read_node(&kept, NodeKind::Parent).unwrap();
                    assert_eq!(frame.content(), &content[..]);
                    manager.free(kept.block());
                    written.blocks.into_iter().for_each(|block| manager.free(block));
                }
            });
        }
    });
    assert_eq!(given_pages(&manager), 0);
}
