//! The laws of the allocator.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::codec::Reader;
use crate::error::Error;
use crate::storage::Storage;
use crate::sync::atomic::Ordering;
use crate::types::PageNumber;

use super::super::allocator::AllocatorParts;
use super::super::free_map::FreeMap;
use super::super::stamps::StampCounter;
use super::*;

fn parts(storage: &Arc<TestStorage>, layout: Layout, max_pages: Option<u64>) -> AllocatorParts {
    AllocatorParts {
        layout,
        storage: Arc::clone(storage) as Arc<dyn Storage>,
        stamps: Arc::new(StampCounter::new(1, u64::MAX)),
        budget: Arc::new(MemoryBudget::new(1 << 20)),
        max_file_bytes: max_pages.map(|pages| pages * 1024),
    }
}

fn fresh(layout: Layout, max_pages: Option<u64>) -> (Allocator, Arc<TestStorage>) {
    let storage = Arc::new(TestStorage::default());
    let file_pages = layout.first_allottable(0).0;
    storage.set_length(file_pages * 1024).unwrap();
    (Allocator::open(parts(&storage, layout, max_pages), file_pages, &[]).unwrap(), storage)
}

fn block(first: u64, pages: u32) -> Block {
    Block::new(PageNumber(first), pages)
}

fn pages_of(list: &BlockList) -> BTreeSet<u64> {
    list.iter().flat_map(|block| block.first.0..block.end().0).collect()
}

/// Writes a capture and makes it durable; what an open of that state finds is returned.
fn make_durable(
    allocator: &Allocator,
    storage: &Arc<TestStorage>,
    layout: Layout,
    extra: &[Block],
) -> Allocator {
    let captured = allocator.capture(extra);
    let file_pages = captured.file_pages();
    let entries = allocator.write_captured(&captured).unwrap();
    allocator.captured_durable(captured);
    let mut encoded = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut encoded));
    let mut reader = Reader::new(&encoded);
    let decoded: Vec<_> =
        entries.iter().map(|_| RegionEntry::decode(&mut reader).unwrap()).collect();
    assert_eq!(decoded, entries);
    Allocator::open(parts(storage, layout, None), file_pages, &entries).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u32, u32),
    AllocateBlock(u32, u32),
    Free(usize),
    Reference(usize),
    ReferenceSome(usize),
    Dereference(usize),
    Capture(Option<usize>, bool),
    Shrink,
    LeafPages(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u32..20, 1u32..40).prop_map(|(pages, hint)| Step::Allocate(pages, hint)),
        4 => (1u32..8, 1u32..62).prop_map(|(min, wanted)| Step::AllocateBlock(min, wanted)),
        5 => any::<usize>().prop_map(Step::Free),
        4 => any::<usize>().prop_map(Step::Reference),
        2 => (1usize..5).prop_map(Step::ReferenceSome),
        2 => any::<usize>().prop_map(Step::Dereference),
        1 => (any::<Option<usize>>(), any::<bool>()).prop_map(|(own, ok)| Step::Capture(own, ok)),
        1 => Just(Step::Shrink),
        1 => (1u32..9).prop_map(Step::LeafPages),
    ];
    prop::collection::vec(step, 1..60)
}

/// Blocks that are given out, and whether each is referenced.
type Held = Vec<(Block, bool)>;

fn check_against(allocator: &Allocator, held: &Held, layout: Layout) {
    let given: BlockList = held.iter().map(|(block, _)| *block).collect();
    let referenced: BlockList =
        held.iter().filter(|(_, referenced)| *referenced).map(|(block, _)| *block).collect();
    assert_eq!(allocator.given_list(), given);
    assert_eq!(allocator.referenced_list(), referenced);
    let stats = allocator.stats();
    let fixed: u64 = (0..stats.region_count).map(|r| u64::from(layout.fixed_pages(r))).sum();
    assert_eq!(stats.given_pages, given.page_count() + fixed);
    assert_eq!(stats.free_pages, stats.file_pages - stats.given_pages);
    assert_eq!(allocator.room_pages(), allocator.counted_room_pages());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn blocks_never_overlap_and_captures_hold_exactly_what_is_referenced(steps in steps()) {
        let layout = tiny_layout(0);
        let (allocator, storage) = fresh(layout, None);
        let mut held: Held = Vec::new();
        for step in steps {
            match step {
                Step::Allocate(pages, hint) => {
                    let block = allocator.allocate(pages, hint).unwrap();
                    prop_assert_eq!(block.pages, pages);
                    prop_assert!(layout.check_block(block, allocator.file_pages()).is_ok());
                    prop_assert!(held.iter().all(|(other, _)| !other.overlaps(block)));
                    held.push((block, false));
                }
                Step::AllocateBlock(min, wanted) => {
                    let block = allocator.allocate_block(min, wanted).unwrap();
                    prop_assert!((min..=wanted.max(min)).contains(&block.pages));
                    prop_assert!(layout.check_block(block, allocator.file_pages()).is_ok());
                    prop_assert!(held.iter().all(|(other, _)| !other.overlaps(block)));
                    held.push((block, false));
                }
                Step::Free(index) if !held.is_empty() => {
                    let (block, referenced) = held.swap_remove(index % held.len());
                    if referenced {
                        allocator.dereference(block);
                    }
                    allocator.free(block);
                }
                Step::Reference(index) if !held.is_empty() => {
                    let index = index % held.len();
                    let (block, referenced) = &mut held[index];
                    if !std::mem::replace(referenced, true) {
                        allocator.reference(*block);
                    }
                }
                Step::ReferenceSome(each) => {
                    let others = held.iter_mut().filter(|(_, referenced)| !referenced);
                    let mut pages = PageSet::new();
                    for (block, referenced) in others.step_by(each) {
                        pages.insert_any(*block);
                        *referenced = true;
                    }
                    allocator.reference_all(&pages);
                }
                Step::Dereference(index) if !held.is_empty() => {
                    let index = index % held.len();
                    let (block, referenced) = &mut held[index];
                    if std::mem::replace(referenced, false) {
                        allocator.dereference(*block);
                    }
                }
                Step::Capture(own, ok) => {
                    let extra: Vec<Block> = own
                        .and_then(|index| held.get(index % held.len().max(1)))
                        .filter(|(_, referenced)| !referenced)
                        .map(|(block, _)| *block)
                        .into_iter()
                        .collect();
                    if ok {
                        let opened = make_durable(&allocator, &storage, layout, &extra);
                        let expected =
                            allocator.referenced_list().union(&extra.into_iter().collect());
                        prop_assert_eq!(opened.given_list(), expected.clone());
                        prop_assert_eq!(opened.referenced_list(), expected);
                    } else {
                        let captured = allocator.capture(&extra);
                        allocator.captured_failed(captured);
                    }
                }
                Step::Shrink => {
                    if let Some(file_pages) = allocator.shrink_to_used() {
                        allocator.cut_file().unwrap();
                        prop_assert_eq!(storage.length().unwrap(), file_pages * 1024);
                        let last = held.iter().map(|(block, _)| block.end().0).max();
                        let least = layout.first_allottable(0).0;
                        prop_assert_eq!(file_pages, last.unwrap_or(0).max(least));
                    }
                }
                Step::LeafPages(pages) => allocator.set_leaf_pages(pages),
                _ => {}
            }
            check_against(&allocator, &held, layout);
            prop_assert!(storage.length().unwrap() >= allocator.file_pages() * 1024);
        }
        let opened = make_durable(&allocator, &storage, layout, &[]);
        prop_assert_eq!(pages_of(&opened.given_list()), pages_of(&allocator.referenced_list()));
    }
}

#[test]
fn what_was_freed_is_given_out_again_before_the_file_grows() {
    let layout = tiny_layout(0);
    let (allocator, _) = fresh(layout, None);
    let blocks: Vec<_> = (0..40).map(|_| allocator.allocate(10, 10).unwrap()).collect();
    let file_pages = allocator.file_pages();
    for block in &blocks {
        allocator.free(*block);
    }
    for _ in 0..40 {
        allocator.allocate(10, 10).unwrap();
    }
    assert_eq!(allocator.file_pages(), file_pages);
    let stats = allocator.stats();
    assert_eq!((stats.blocks_asked, stats.blocks_returned), (80, 40));
}

#[test]
fn a_hint_gets_a_long_run_and_not_crumbs() {
    let layout = Layout::new(1024, 0, 1 << 20, IDENTITY).unwrap();
    let (allocator, _) = fresh(layout, None);
    let blocks: Vec<_> = (0..100).map(|_| allocator.allocate(4, 4).unwrap()).collect();
    for index in [5, 20, 21, 22, 23, 24, 25, 26, 27, 60] {
        allocator.free(blocks[index]);
    }
    let rest = allocator.file_pages() - blocks[99].end().0;
    if rest > 0 {
        allocator.allocate(rest as u32, 1).unwrap();
    }
    let long = allocator.allocate_block(4, 32).unwrap();
    assert_eq!(long, block(blocks[20].first.0, 32));
    assert!(allocator.stats().fragmentation() > 0.4);
    // Only crumbs are left: they are used before the file grows.
    let file_pages = allocator.file_pages();
    let crumb = allocator.allocate_block(2, 32).unwrap();
    assert_eq!((crumb.pages, allocator.file_pages()), (4, file_pages));
}

#[test]
fn a_block_as_long_as_a_region_allows_is_found_and_a_longer_one_refused() {
    let layout = tiny_layout(0);
    let (allocator, _) = fresh(layout, None);
    assert_eq!(layout.block_pages_max(), 62);
    // Region 0 has only 54 pages: it is passed over, and its pages can be used later.
    let long = allocator.allocate(62, 62).unwrap();
    assert_eq!(long, block(66, 62));
    assert!(allocator.allocate(63, 63).is_err());
    assert_eq!(allocator.allocate_block(1, 1000).unwrap(), block(10, 54));
}

#[test]
fn the_file_grows_in_steps_that_double() {
    let layout = Layout::new(1024, 0, 16 << 20, IDENTITY).unwrap();
    let (allocator, storage) = fresh(layout, None);
    let mut lengths = vec![storage.length().unwrap()];
    for _ in 0..16_300 {
        allocator.allocate(1, 1).unwrap();
        let length = storage.length().unwrap();
        if lengths.last() != Some(&length) {
            lengths.push(length);
        }
    }
    let grown: Vec<_> = lengths.windows(2).map(|pair| (pair[1] - pair[0]) >> 10).collect();
    assert_eq!(grown[..4], [256, 512, 1024, 2048]);
    // The region's border cuts a step short.
    assert_eq!(*lengths.last().unwrap(), 16 << 20);
}

#[test]
fn a_full_device_and_a_full_file_are_no_space() {
    let layout = tiny_layout(0);
    let (allocator, storage) = fresh(layout, None);
    storage.length_max.store(30 * 1024, Ordering::Relaxed);
    // The step does not fit, but what is needed does.
    let block = allocator.allocate(15, 15).unwrap();
    assert!(allocator.allocate(10, 10).unwrap_err().is_no_space());
    allocator.free(block);
    assert!(allocator.allocate(10, 10).is_ok());

    let (allocator, storage) = fresh(layout, Some(100));
    let mut given = 0;
    let error = loop {
        match allocator.allocate(3, 3) {
            Ok(block) => given += block.pages,
            Err(error) => break error,
        }
    };
    assert!(error.is_no_space());
    assert!(given >= 54 + 34 - 3 && storage.length().unwrap() <= 100 * 1024, "{given}");
    allocator.set_max_file_bytes(Some(200 * 1024));
    assert!(allocator.allocate(3, 3).is_ok());
}

#[test]
fn only_changed_regions_are_written_and_never_over_the_durable_home() {
    let layout = tiny_layout(0);
    let (allocator, storage) = fresh(layout, None);
    let first = allocator.allocate(40, 40).unwrap();
    let second = allocator.allocate(60, 60).unwrap();
    let own = allocator.allocate(1, 1).unwrap();
    assert_eq!([first, second, own].map(|block| layout.region_of(block.first)), [0, 1, 0]);
    allocator.reference(first);
    allocator.reference(second);
    let captured = allocator.capture(&[own]);
    assert_eq!(captured.changed_count(), 2);
    let durable = allocator.write_captured(&captured).unwrap();
    allocator.captured_durable(captured);
    assert_eq!(durable[1].free_pages, allocator.file_pages() - 64 - 62);

    // Region 0 counts as changed: its map on disk has the old state's own block.
    let captured = allocator.capture(&[]);
    assert_eq!(captured.changed_count(), 1);
    let homes = |entries: &[RegionEntry]| entries.iter().map(|e| e.home).collect::<Vec<_>>();
    let entries = allocator.write_captured(&captured).unwrap();
    assert_eq!((homes(&durable), homes(&entries)), (vec![0, 0], vec![1, 0]));
    // The new state fails: the old one still opens.
    allocator.captured_failed(captured);
    let file_pages = allocator.file_pages();
    let opened = Allocator::open(parts(&storage, layout, None), file_pages, &durable).unwrap();
    assert_eq!(opened.given_list(), [first, second, own].into_iter().collect());
    let captured = allocator.capture(&[]);
    assert_eq!(captured.changed_count(), 1);
    allocator.captured_failed(captured);
}

#[test]
fn a_region_that_comes_back_does_not_write_over_the_durable_home() {
    let layout = tiny_layout(0);
    let (allocator, storage) = fresh(layout, None);
    let first = allocator.allocate(54, 54).unwrap();
    let second = allocator.allocate(62, 62).unwrap();
    allocator.reference(first);
    allocator.reference(second);
    let captured = allocator.capture(&[]);
    let durable = allocator.write_captured(&captured).unwrap();
    let file_pages = captured.file_pages();
    allocator.captured_durable(captured);
    allocator.dereference(second);
    allocator.free(second);
    assert_eq!(allocator.shrink_to_used(), Some(64));
    let again = allocator.allocate(62, 62).unwrap();
    assert_eq!(again, second);
    allocator.reference(again);
    let captured = allocator.capture(&[]);
    let entries = allocator.write_captured(&captured).unwrap();
    assert_eq!((durable[1].home, entries[1].home), (0, 1));
    Allocator::open(parts(&storage, layout, None), file_pages, &durable).unwrap();
    Allocator::open(parts(&storage, layout, None), file_pages, &entries).unwrap();
}

#[test]
fn a_capture_that_failed_leaves_its_maps_changed() {
    let (allocator, _storage) = fresh(tiny_layout(0), None);
    let block = allocator.allocate(20, 20).unwrap();
    allocator.reference(block);
    for _ in 0..2 {
        let captured = allocator.capture(&[]);
        assert_eq!(captured.changed_count(), 1);
        allocator.captured_failed(captured);
    }
}

#[test]
fn every_flipped_bit_of_a_map_and_wrong_entries_are_errors() {
    let layout = tiny_layout(64);
    let (allocator, storage) = fresh(layout, None);
    let block = allocator.allocate(20, 20).unwrap();
    allocator.reference(block);
    let captured = allocator.capture(&[]);
    let entries = allocator.write_captured(&captured).unwrap();
    let file_pages = allocator.file_pages();
    let open = |file_pages, entries: &[RegionEntry]| {
        Allocator::open(parts(&storage, layout, None), file_pages, entries).map(|_| ())
    };
    assert!(open(file_pages, &entries).is_ok());
    let home = layout.map_home(0, entries[0].home);
    for bit in 0..u64::from(home.pages) * 8192 {
        storage.flip_bit(home.first.0 * 8192 + bit);
        assert!(open(file_pages, &entries).unwrap_err().is_corruption(), "bit {bit}");
        storage.flip_bit(home.first.0 * 8192 + bit);
    }
    // Pages beyond the end are not used; a second region that the file has no room for; another
    // home.
    assert!(open(block.end().0 - 1, &entries).is_err());
    assert!(open(9, &[]).is_err());
    assert!(open(file_pages, &[entries[0], entries[0]]).is_err());
    assert!(open(file_pages, &[RegionEntry { home: 1, ..entries[0] }]).is_err());
    assert!(open(file_pages, &[RegionEntry { stamp: 77, ..entries[0] }]).is_err());
}

#[test]
fn claims_are_checked_and_taken_out_of_what_is_free() {
    let layout = tiny_layout(0);
    let (allocator, storage) = fresh(layout, None);
    let known = allocator.allocate(10, 10).unwrap();
    allocator.reference(known);
    let captured = allocator.capture(&[]);
    let entries = allocator.write_captured(&captured).unwrap();
    // After the state the file grew into the next regions, the last of them too short for anything.
    storage.set_length(129 * 1024).unwrap();
    let allocator = Allocator::open(parts(&storage, layout, None), 129, &entries).unwrap();
    assert_eq!(allocator.file_pages(), 128);
    for wrong in [
        block(known.end().0 - 1, 2),
        block(2, 1),
        block(127, 3),
        block(60, 10),
        block(64, 3),
        block(90, 0),
        block(u64::MAX, 2),
    ] {
        assert!(allocator.claim(wrong).unwrap_err().is_corruption(), "{wrong:?}");
    }
    allocator.claim(block(70, 8)).unwrap();
    allocator.claim(block(66, 4)).unwrap();
    assert!(allocator.claim(block(77, 1)).is_err());
    assert!(allocator.is_given(block(66, 12)) && !allocator.is_given(block(66, 13)));
    assert!(!allocator.is_referenced(block(66, 1)) && allocator.is_referenced(known));
    assert!(!allocator.is_given(block(u64::MAX, 2)) && !allocator.is_given(block(0, 1)));
    let rest: u32 = std::iter::from_fn(|| {
        (allocator.stats().free_pages > 0).then(|| allocator.allocate_block(1, 64).unwrap().pages)
    })
    .sum();
    assert_eq!(rest, 128 - 10 - 10 - 2 - 12);
}

#[test]
fn the_maps_count_in_the_budget() {
    let layout = tiny_layout(0);
    let storage = Arc::new(TestStorage::default());
    let parts = parts(&storage, layout, None);
    let budget = Arc::clone(&parts.budget);
    let allocator = Allocator::open(parts, 10, &[]).unwrap();
    let before = budget.part(MemoryPart::FreeMaps);
    assert!(before > 0);
    allocator.allocate(60, 60).unwrap();
    allocator.allocate(60, 60).unwrap();
    assert_eq!(budget.part(MemoryPart::FreeMaps), 3 * before);
    // Copies for a state in the making count besides.
    let captured = allocator.capture(&[]);
    assert_eq!(captured.changed_count(), 3);
    let copy = FreeMap::new(0, layout.region_pages(), 0).weight_bytes();
    assert_eq!(budget.part(MemoryPart::FreeMaps), 3 * before + 3 * copy);
    allocator.captured_failed(captured);
    assert_eq!(budget.part(MemoryPart::FreeMaps), 3 * before);
    drop(allocator);
    assert_eq!(budget.used(), 0);
}

/// An eighth of a mebibyte takes the maps of some hundred of the smallest regions.
#[test]
fn a_file_is_as_long_as_the_budget_has_room_for_its_maps() {
    let layout = tiny_layout(0);
    let storage = Arc::new(TestStorage::default());
    let parts = |budget: &Arc<MemoryBudget>, max_pages| {
        let parts = parts(&storage, layout, max_pages);
        AllocatorParts { budget: Arc::clone(budget), ..parts }
    };
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let allocator = Allocator::open(parts(&budget, None), 10, &[]).unwrap();
    let first = allocator.allocate(60, 60).unwrap();
    let error = loop {
        if let Err(error) = allocator.allocate(60, 60) {
            break error;
        }
    };
    let says = error.to_string();
    assert!(error.is_no_space() && says.contains("set a larger memory_budget"), "{says}");
    let maps = budget.part(MemoryPart::FreeMaps);
    let file_pages = allocator.file_pages();
    let region = maps / file_pages.div_ceil(u64::from(layout.region_pages()));
    assert!(maps <= 1 << 17 && maps + region > 1 << 17, "{maps}");
    assert!(says.contains(&(file_pages.next_multiple_of(64) * 1024).to_string()), "{says}");
    assert_eq!(allocator.file_bytes_max(), file_pages.next_multiple_of(64) * 1024);
    // What is freed is given out as ever, and no option lets the file be longer.
    allocator.free(first);
    assert!(allocator.allocate(60, 60).is_ok());
    allocator.set_max_file_bytes(Some(1 << 40));
    let says = allocator.allocate(60, 60).unwrap_err().to_string();
    assert!(says.contains("set a larger memory_budget"), "{says}");
    drop(allocator);

    // With less it does not open, and the error names what is enough, to read it too.
    let little = Arc::new(MemoryBudget::new(1 << 19));
    let error = Allocator::open(parts(&little, None), file_pages, &[]).unwrap_err();
    let enough = budget_for_maps(&layout, file_pages);
    assert_eq!(enough, 1 << 20);
    let says = error.to_string();
    assert!(says.starts_with("option memory_budget: "), "{says}");
    assert!(says.ends_with(&format!("set it to {enough} at least")), "{says}");
    let without = Allocator::without_maps(parts(&little, None), file_pages, error);
    assert!(matches!(without, Err(Error::InvalidOption { option: "memory_budget", .. })));
    assert_eq!(little.used(), 0);
    assert!(Allocator::open(parts(&budget, None), file_pages, &[]).is_ok());
    // The option that is nearer is named.
    let max_pages = Some(file_pages - 1);
    let allocator = Allocator::open(parts(&budget, max_pages), file_pages - 1, &[]).unwrap();
    let error = loop {
        if let Err(error) = allocator.allocate(60, 60) {
            break error;
        }
    };
    assert_eq!(allocator.file_bytes_max(), (file_pages - 1) * 1024);
    let max_file_bytes = format!("max_file_bytes is {}", (file_pages - 1) * 1024);
    assert!(error.to_string().contains(&max_file_bytes), "{error}");
}

#[test]
fn what_contradicts_the_maps_changes_nothing_and_stops_allotting() {
    type Act = fn(&Allocator, Block);
    let twice: [(&str, Act); 10] = [
        ("freed", |allocator, block| {
            allocator.free(block);
            allocator.free(block);
        }),
        ("freed", |allocator, block| {
            allocator.reference(block);
            allocator.free(block);
        }),
        ("referenced anew", |allocator, block| {
            allocator.reference(block);
            allocator.reference(block);
        }),
        ("referenced anew", |allocator, block| allocator.reference(Block::new(block.end(), 1))),
        ("referenced anew", |allocator, block| {
            allocator.reference(Block::new(block.last(), 1));
            allocator.reference_all(&[block].into_iter().collect());
            assert!(!allocator.is_referenced(Block::new(block.first, 1)));
        }),
        ("referenced anew", |allocator, block| {
            allocator.reference_all(&[Block::new(block.first, 4)].into_iter().collect());
            assert!(!allocator.is_referenced(block));
        }),
        ("referenced anew", |allocator, _| {
            allocator.reference_all(&[Block::new(PageNumber(1 << 40), 1)].into_iter().collect());
        }),
        ("not needed", |allocator, block| allocator.dereference(block)),
        ("not needed", |allocator, block| allocator.dereference(Block::new(block.first, u32::MAX))),
        ("freed", |allocator, _| allocator.free(Block::new(PageNumber(1), 1))),
    ];
    for (what, act) in twice {
        let (allocator, _) = fresh(tiny_layout(0), None);
        let block = allocator.allocate(3, 3).unwrap();
        allocator.check_sound().unwrap();
        act(&allocator, block);
        let error = allocator.check_sound().unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains(what), "{error}");
        assert_eq!(allocator.allocate(1, 1).unwrap_err().to_string(), error.to_string());
    }
}

/// It was an error of reading, as if the device had failed.
#[test]
fn a_map_beyond_the_files_end_is_damage() {
    let layout = tiny_layout(0);
    let (allocator, storage) = fresh(layout, None);
    let captured = allocator.capture(&[]);
    let file_pages = captured.file_pages();
    let mut entries = allocator.write_captured(&captured).unwrap();
    entries.push(entries[0]);
    let opened = Allocator::open(parts(&storage, layout, None), file_pages, &entries);
    match opened.map(drop) {
        Err(Error::Corruption(damage)) => {
            assert_eq!(damage.structure, crate::error::Structure::FreeMap);
        }
        other => panic!("expected damage, found {other:?}"),
    }
}
