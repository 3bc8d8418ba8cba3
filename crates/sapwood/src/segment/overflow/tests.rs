use std::io;

use proptest::prelude::*;

use super::*;
use crate::page::{MemoryBudget, PageOptions};
use crate::storage::{FaultKind, OperationKind, SimulatedStorage, Storage};
use crate::sync::Arc;
use crate::types::PageNumber;

const KEYSPACE: KeyspaceNumber = KeyspaceNumber(7);
const ZSTD: Codec = Codec::Zstd { level: 1 };

struct File {
    pages: Arc<PageManager>,
    storage: SimulatedStorage,
}

fn file_with(page_size: u32, reserved_bytes: u16, region_pages: u64, most: Option<u64>) -> File {
    let storage = SimulatedStorage::new();
    let region_bytes = u64::from(page_size) * region_pages;
    let layout = Layout::new(page_size, reserved_bytes, region_bytes, [3; 16]).unwrap();
    let options = PageOptions {
        storage: Arc::new(storage.clone()),
        layout,
        budget: Arc::new(MemoryBudget::new(8 << 20)),
        max_file_bytes: most,
    };
    File { pages: PageManager::create(options, 1 << 20).unwrap(), storage }
}

/// Pages of 1 KiB, of which 1,000 bytes are used, 64 to a region.
fn tiny_file() -> File {
    file_with(1024, 24, 64, None)
}

impl File {
    fn write(&self, codec: Codec, value: &[u8]) -> OverflowReference {
        let reference = write_value(&self.pages, KEYSPACE, codec, value).unwrap();
        let mut bytes = Vec::new();
        reference.encode(&mut bytes);
        OverflowReference::decode(&bytes).unwrap()
    }

    fn read(&self, reference: &OverflowReference) -> Result<Vec<u8>> {
        OverflowReader::open(&*self.pages, KEYSPACE, reference)?.read_all(u64::MAX)
    }

    fn flip(&self, offset: u64, bit: u32) {
        let mut byte = [0];
        self.storage.read_at(offset, &mut byte).unwrap();
        self.storage.write_at(offset, &[byte[0] ^ 1 << bit]).unwrap();
    }

    fn given_pages(&self) -> u64 {
        self.pages.allocator().stats().given_pages
    }

    /// The place in the file of a byte of the stream.
    fn place(&self, reference: &OverflowReference, mut offset: u64) -> u64 {
        let layout = self.pages.layout();
        let usable = layout.usable_bytes() as u64;
        for block in blocks_of(reference) {
            if offset < layout.stream_bytes(block.pages.into()) {
                let page = PageNumber(block.first.0 + offset / usable);
                return layout.offset_of(page) + offset % usable;
            }
            offset -= layout.stream_bytes(block.pages.into());
        }
        panic!("the stream is shorter");
    }
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 * 2 + 1;
    let mut step = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| step()).collect()
}

fn damage<T>(result: Result<T>) -> Corruption {
    match result {
        Err(Error::Corruption(corruption)) => {
            assert_eq!(corruption.structure, Structure::Overflow);
            assert_eq!(corruption.keyspace, Some(KEYSPACE));
            *corruption
        }
        other => panic!("expected damage, found {:?}", other.map(drop)),
    }
}

#[test]
fn values_of_all_lengths_come_back() {
    let chunk = CHUNK_BYTES;
    for file in [tiny_file(), file_with(4096, 0, 4096, None), file_with(65536, 256, 64, None)] {
        for length in [0, 1, 959, 960, 961, 5000, chunk - 1, chunk, chunk + 1, 3 * chunk + 17] {
            for (codec, value) in
                [(ZSTD, noise(length)), (ZSTD, vec![5; length]), (Codec::Plain, vec![5; length])]
            {
                let reference = file.write(codec, &value);
                assert_eq!(file.read(&reference).unwrap(), value);
                verify_value(&file.pages, KEYSPACE, &reference).unwrap();
                let reader =
                    OverflowReader::open(Arc::clone(&file.pages), KEYSPACE, &reference).unwrap();
                assert_eq!(reader.len(), length as u64);
                assert_eq!(reader.chunk_count(), length.div_ceil(chunk));
                for (part, index) in value.chunks(chunk).zip(0..) {
                    assert_eq!(reader.read_chunk(index).unwrap(), part);
                }
                assert!(reader.read_chunk(reader.chunk_count()).unwrap().is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn values_come_back_with_their_pages_counted_exactly(
        length in 0usize..300_000, alphabet in 1u8..=255, reserved in 0u16..4,
    ) {
        let file = file_with(1024, reserved * 8, 64, None);
        let value: Vec<u8> = noise(length).iter().map(|byte| byte % alphabet).collect();
        let before = file.given_pages();
        let reference = file.write(ZSTD, &value);
        prop_assert_eq!(file.read(&reference).unwrap(), value);
        let plain = (length as u64 + head_bytes(length as u64))
            .div_ceil(file.pages.layout().usable_bytes() as u64);
        prop_assert!(reference.pages() <= plain);
        blocks_of(&reference).for_each(|block| file.pages.free(block));
        // What stays are the homes of the maps of regions that the value made necessary.
        let regions = file.pages.allocator().stats().region_count;
        prop_assert!(file.given_pages() <= before + 2 * regions);
    }
}

#[test]
fn chunks_are_compressed_only_when_that_saves_a_page() {
    let file = tiny_file();
    assert_eq!(file.write(ZSTD, &[5; 400_000]).pages(), 1);
    assert_eq!(file.write(Codec::Plain, &[5; 4000]).pages(), 5);
    assert_eq!(file.write(ZSTD, &[5; 4000]).pages(), 1);
    let reader = |reference: &OverflowReference| {
        OverflowReader::open(Arc::clone(&file.pages), KEYSPACE, reference).unwrap()
    };
    let one_page = file.write(ZSTD, &[5; 500]);
    assert!(!reader(&one_page).chunks[0].compressed);
    // Of a value that is half noise only that half is stored as it is.
    let mixed = [noise(CHUNK_BYTES), vec![5; CHUNK_BYTES]].concat();
    let reference = file.write(ZSTD, &mixed);
    let flags: Vec<bool> = reader(&reference).chunks.iter().map(|chunk| chunk.compressed).collect();
    assert_eq!(flags, [false, true]);
    assert_eq!(file.read(&reference).unwrap(), mixed);
}

#[test]
fn a_value_longer_than_a_region_lies_in_few_blocks() {
    let file = tiny_file();
    let value = noise(300_000);
    let reference = file.write(Codec::Plain, &value);
    assert!((5..12).contains(&reference.blocks.len()), "{} blocks", reference.blocks.len());
    assert_eq!(reference.pages(), 301);
    let roomy = file_with(4096, 0, 4096, None);
    assert_eq!(roomy.write(Codec::Plain, &value).blocks.len(), 1);
}

#[test]
fn crumbs_are_used_when_nothing_longer_is_free() {
    // One region of 64 pages, of which every second free one stays taken.
    let file = file_with(1024, 0, 64, Some(64 << 10));
    let mut singles = Vec::new();
    while let Ok(block) = file.pages.allocator().allocate(1, 1) {
        singles.push(block);
    }
    singles.sort();
    singles.iter().step_by(2).for_each(|block| file.pages.free(*block));
    let value = noise(8000);
    let reference = file.write(Codec::Plain, &value);
    assert_eq!(reference.blocks.len(), 8);
    assert_eq!(file.read(&reference).unwrap(), value);
    let before = file.given_pages();
    let error = write_value(&file.pages, KEYSPACE, Codec::Plain, &noise(40_000)).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(file.given_pages(), before);
}

#[test]
fn writes_are_short_and_a_failed_one_gives_all_blocks_back() {
    let file = file_with(4096, 96, 4096, None);
    file.storage.start_trace();
    let value = noise(2_000_000);
    let reference = file.write(Codec::Plain, &value);
    let trace = file.storage.take_trace();
    let writes: Vec<_> = trace.iter().filter(|entry| entry.kind == OperationKind::Write).collect();
    assert!(writes.len() >= 8);
    assert!(writes.iter().all(|write| write.length <= 256 << 10 && write.offset % 4096 == 0));
    assert_eq!(file.read(&reference).unwrap(), value);

    let before = file.given_pages();
    file.storage.fail_at(FaultKind::Write, 4, true, io::ErrorKind::Other);
    assert!(write_value(&file.pages, KEYSPACE, Codec::Plain, &value).is_err());
    assert_eq!(file.given_pages(), before);
    file.storage.clear_faults();
    assert_eq!(file.read(&file.write(Codec::Plain, &value)).unwrap(), value);
}

#[test]
fn the_last_page_is_filled_with_zeros() {
    let file = tiny_file();
    file.pages.free(file.pages.allocator().allocate(20, 20).unwrap());
    let start = file.pages.layout().first_allottable(0);
    let junk = vec![0xff; file.storage.length().unwrap() as usize - 1024 * start.0 as usize];
    file.storage.write_at(1024 * start.0, &junk).unwrap();
    let new = file.write(Codec::Plain, &[0xee; 4100]);
    let end = file.place(&new, 32 + 8 + 4100);
    let image = file.storage.image();
    assert!(image[end as usize - 1] == 0xee);
    assert!(image[end as usize..][..1000 - 140].iter().all(|&byte| byte == 0));
}

#[test]
fn every_flipped_bit_of_header_table_and_chunks_is_seen() {
    let file = tiny_file();
    for value in [noise(1500), [vec![1; 2000], noise(900)].concat()] {
        let reference = file.write(ZSTD, &value);
        let reader = OverflowReader::open(&*file.pages, KEYSPACE, &reference).unwrap();
        let stored: usize = reader.chunks.iter().map(|chunk| chunk.stored_bytes).sum();
        for offset in 0..(40 + stored as u64) {
            let place = file.place(&reference, offset);
            for bit in [offset as u32 % 8, (offset as u32 + 5) % 8] {
                file.flip(place, bit);
                damage(file.read(&reference));
                assert!(verify_value(&file.pages, KEYSPACE, &reference).is_err());
                file.flip(place, bit);
            }
        }
        // No reader meets what lies behind the chunks; a check does.
        let capacity = stream_capacity(file.pages.layout(), &reference.blocks);
        assert!(capacity > 40 + stored as u64);
        for offset in 40 + stored as u64..capacity {
            let place = file.place(&reference, offset);
            file.flip(place, offset as u32 % 8);
            let found = damage(verify_value(&file.pages, KEYSPACE, &reference));
            assert!(found.detail.contains("does not end in zeros"), "{found}");
            file.flip(place, offset as u32 % 8);
        }
        assert_eq!(file.read(&reference).unwrap(), value);
        verify_value(&file.pages, KEYSPACE, &reference).unwrap();
    }
}

#[test]
fn a_page_too_many_is_found_by_a_check() {
    let file = tiny_file();
    let mut reference = file.write(Codec::Plain, &noise(1500));
    reference.blocks.last_mut().unwrap().pages += 1;
    let found = damage(verify_value(&file.pages, KEYSPACE, &reference));
    assert!(found.detail.contains("a page or more"), "{found}");
}

#[test]
fn a_damaged_chunk_leaves_the_others_readable() {
    let file = tiny_file();
    let value = noise(3 * CHUNK_BYTES);
    let reference = file.write(Codec::Plain, &value);
    file.flip(file.place(&reference, (40 + CHUNK_BYTES + CHUNK_BYTES / 2) as u64), 3);
    let reader = OverflowReader::open(&*file.pages, KEYSPACE, &reference).unwrap();
    assert!(damage(reader.read_chunk(1)).detail.contains("chunk 1: checksum"));
    assert_eq!(reader.read_chunk(0).unwrap(), value[..CHUNK_BYTES]);
    assert_eq!(reader.read_chunk(2).unwrap(), value[2 * CHUNK_BYTES..]);
    assert!(verify_value(&file.pages, KEYSPACE, &reference).is_err());
}

#[test]
fn references_that_do_not_fit_what_lies_there_are_damage() {
    let file = tiny_file();
    let right = file.write(Codec::Plain, &noise(3000));
    let with = |change: &dyn Fn(&mut OverflowReference)| {
        let mut reference = right.clone();
        change(&mut reference);
        damage(file.read(&reference)).detail
    };
    let beyond = file.pages.allocator().file_pages();
    type Change<'a> = &'a dyn Fn(&mut OverflowReference);
    let cases: [(&str, Change<'_>); 11] = [
        ("do not fit", &|r| r.length = u64::MAX),
        ("do not fit", &|r| r.table_offset = u64::MAX),
        ("do not fit", &|r| r.length = 1 << 40),
        ("a table of 8 bytes", &|r| r.length = CHUNK_BYTES as u64 + 1),
        ("is stored in", &|r| r.length = 3001),
        ("is stored in", &|r| r.length = 2999),
        ("another write", &|r| r.stamp += 1),
        ("another write", &|r| r.checksum ^= 1),
        ("not inside", &|r| r.blocks[0].first = PageNumber(beyond)),
        ("belongs to the header", &|r| r.blocks[0].first = PageNumber(2)),
        ("more than the file's", &|r| r.blocks = vec![r.blocks[0]; 1000]),
    ];
    for (expected, change) in cases {
        let detail = with(change);
        assert!(detail.contains(expected), "{detail:?} does not say {expected:?}");
    }
    with(&|r| r.blocks[0].first.0 += 1);
    with(&|r| r.blocks[0].pages -= 1);
    with(&|r| r.blocks.clear());
    let other = OverflowReader::open(&*file.pages, KeyspaceNumber(8), &right).unwrap_err();
    assert!(other.is_corruption());
}

#[test]
fn a_table_behind_the_chunks_is_read_too() {
    let file = tiny_file();
    let value = noise(CHUNK_BYTES + 3000);
    let layout = file.pages.layout();
    let (stamp, mut table) = (file.pages.next_stamp().unwrap(), Vec::new());
    for (chunk, index) in value.chunks(CHUNK_BYTES).zip(0..) {
        table.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        table.extend_from_slice(&chunk_crc(layout, stamp, index, chunk).to_le_bytes());
    }
    let taken = take_blocks(&file.pages, 200).unwrap();
    let header = NodeHeader {
        kind: NodeKind::OverflowValue,
        height: 0,
        flags: 0,
        page: taken.blocks[0].first,
        stamp,
        keyspace: KEYSPACE,
        stored_bytes: 16,
        raw_bytes: 16,
    };
    let checksum = node_checksum(layout, &header, &table);
    let table_offset = value.len() as u64 + 5;
    let tail = [&header.encode(checksum)[..], &table].concat();
    file.pages.write_stream(&taken.blocks, 0, &value, false).unwrap();
    file.pages.write_stream(&taken.blocks, table_offset, &tail, false).unwrap();
    let blocks = taken.keep();
    let length = value.len() as u64;
    let reference =
        OverflowReference { length, stamp, checksum, table_offset, birth: Epoch(0), blocks };
    assert_eq!(file.read(&reference).unwrap(), value);
}

#[test]
fn a_value_above_the_limit_is_not_read() {
    let file = tiny_file();
    let reference = file.write(ZSTD, &[1; 5000]);
    let reader = OverflowReader::open(&*file.pages, KEYSPACE, &reference).unwrap();
    assert_eq!(reader.read_all(5000).unwrap().len(), 5000);
    let error = reader.read_all(4999).unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { length: 5000, limit: 4999, .. }), "{error}");
}

#[test]
fn chunks_are_told_apart_by_stamp_index_and_file() {
    let layout = |identity| Layout::new(1024, 0, 64 << 10, [identity; 16]).unwrap();
    let crc = |identity, stamp, index| chunk_crc(&layout(identity), stamp, index, b"chunk");
    let all = [crc(1, 1, 1), crc(1, 1, 2), crc(1, 2, 1), crc(2, 1, 1)];
    for (index, a) in all.iter().enumerate() {
        assert!(all.iter().skip(index + 1).all(|b| a != b));
    }
    // The same by the definition: a crc that goes on from another is that of both together.
    let mut whole = crc32fast::Hasher::new_with_initial(layout(1).seed());
    whole.update(&[1, 0, 0, 0, 2, 0, 0, 0]);
    whole.update(b"chunk");
    assert_eq!(crc(1, 1, 2), whole.finalize());
}

#[test]
fn values_go_to_overflow_when_that_wastes_little() {
    assert!(!wants_overflow(0, 4096));
    assert!(!wants_overflow(3000, 4096));
    // 4,096 less header and table fill a page; one byte more takes a second one.
    assert!(wants_overflow(4056, 4096));
    assert!(!wants_overflow(4057, 4096));
    // The least that fills eight ninths of it.
    assert!(wants_overflow(3641, 4096) && !wants_overflow(3640, 4096));
    assert!(!wants_overflow(32_767, 65_536));
    assert!(wants_overflow(32_768, 65_536));
    assert!(wants_overflow(usize::MAX, 4096));
}

/// What names a value lies in one leaf: the flush of a value in very many pieces panicked.
#[test]
fn a_value_is_not_cut_into_more_pieces_than_a_leaf_can_name() {
    let file = file_with(1024, 24, 64, Some(8 << 20));
    let mut held = Vec::new();
    while let Ok(block) = file.pages.allocator().allocate_block(1, 1) {
        held.push(block);
    }
    let most = blocks_max(file.pages.layout());
    assert!(held.len() > 3 * most, "{} pages, and {most}", held.len());
    // No two free pages lie side by side.
    for block in held.iter().step_by(2) {
        file.pages.free(*block);
    }
    let given = file.given_pages();
    assert_eq!(
        take_blocks(&file.pages, most as u32).map(|taken| taken.blocks.len()).ok(),
        Some(most)
    );
    let refused = take_blocks(&file.pages, most as u32 + 1).map(|_| ());
    assert!(refused.is_err_and(|error| error.is_no_space()));
    assert_eq!(file.given_pages(), given);
}
