//! What replay makes of logs that are torn, stale or damaged.

use proptest::prelude::*;

use super::super::record::{RecordHead, encode_record};
use super::*;
use crate::error::{Error, Structure};
use crate::sync::Mutex;
use crate::types::COUNT_MAX;

const BLOCKS: &[Block] = &[Block { first: PageNumber(1), pages: 12 }];

/// A log of six commits, the first three of them known to be on disk, with where each begins.
fn six() -> (Arc<TestStorage>, ReplayStart, Vec<Appended>) {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    let mut appended = Vec::new();
    for sequence in 1..=6 {
        appended.push(commit(&writer, sequence, 200));
        if sequence == 3 {
            writer.sync_to(appended[2].end).unwrap();
        }
    }
    writer.write_to(appended[5].end).unwrap();
    (storage, image, appended)
}

/// The log's byte at `position`, with some bits turned over.
fn flipped(storage: &TestStorage, position: u64, bits: u8) -> Arc<TestStorage> {
    let mut bytes = storage.bytes();
    bytes[(u64::from(PAGE) + position) as usize] ^= bits;
    TestStorage::holding(bytes)
}

#[test]
fn a_break_before_the_durable_position_is_damage_that_names_its_page() {
    let (storage, image, appended) = six();
    let damaged = flipped(&storage, appended[1].position.0 + 50, 1);
    let Err(Error::Corruption(found)) = replayed(&damaged, &image, PAGE) else {
        panic!("damage is found by what the records behind it say");
    };
    let page = 1 + appended[1].position.0 / u64::from(PAGE);
    assert_eq!((found.structure, found.page), (Structure::Log, Some(PageNumber(page))));
    assert!(found.detail.contains(&appended[1].position.to_string()), "{}", found.detail);
}

#[test]
fn a_break_behind_the_durable_position_cuts_the_log() {
    let (storage, image, appended) = six();
    let torn = flipped(&storage, appended[4].position.0 + 50, 1);
    let (commits, end) = replayed(&torn, &image, PAGE).unwrap();
    assert_eq!(commits.len(), 4);
    assert_eq!((end.position, end.durable), (appended[4].position, appended[2].end));
    assert_eq!(end.stale, [appended[5].position]);
}

#[test]
fn a_break_before_the_position_that_the_state_knows_is_damage() {
    let (storage, mut image, appended) = six();
    let torn = flipped(&storage, appended[5].position.0 + 50, 1);
    assert_eq!(sequences(&torn, &image), [1, 2, 3, 4, 5]);
    image.durable = appended[5].position;
    assert_eq!(sequences(&torn, &image), [1, 2, 3, 4, 5]);
    image.durable = appended[5].end;
    assert!(replayed(&torn, &image, PAGE).unwrap_err().is_corruption());
}

#[test]
fn a_record_whose_blocks_do_not_match_ends_the_log_or_is_damage() {
    let (storage, image, _) = six();
    let stream = stream_over(&storage, PAGE);
    let run = |bad: u64| {
        replay(&stream, &image, &mut |record| {
            let ends = record.sequence.0 == bad;
            Ok(if ends { Visit::EndsLog } else { Visit::Continue })
        })
    };
    assert!(run(3).unwrap_err().is_corruption());
    let end = run(4).unwrap();
    assert_eq!(end.position, end.durable);
    assert_eq!(end.stale.len(), 3);
}

#[test]
fn every_truncation_keeps_whole_records_or_is_damage() {
    let (storage, image, appended) = six();
    for position in (0..appended[5].end.0).step_by(3) {
        let mut bytes = storage.bytes();
        bytes[(u64::from(PAGE) + position) as usize..].fill(0);
        let whole = appended.iter().filter(|appended| appended.end.0 <= position).count();
        // The tail of a record may be zero already: then nothing was cut off.
        match replayed(&TestStorage::holding(bytes), &image, PAGE) {
            Ok((commits, _)) => assert!(commits.len() == whole || commits.len() == whole + 1),
            Err(error) => assert!(error.is_corruption() && position < appended[2].end.0),
        }
    }
    let mut image = image;
    image.list.blocks = vec![block(1, 20)];
    let replayed = replay(&stream_over(&storage, PAGE), &image, &mut |_| Ok(Visit::Continue));
    let error = replayed.unwrap_err();
    assert!(error.is_corruption(), "a list beyond the end of the file: {error}");
}

#[test]
fn every_flipped_bit_cuts_the_log_there_or_is_damage() {
    let (storage, image, appended) = six();
    let (all, _) = replayed(&storage, &image, PAGE).unwrap();
    for position in 0..appended[5].end.0 {
        let bits = 1 << (position % 8);
        let before = appended.iter().filter(|appended| appended.end.0 <= position).count();
        match replayed(&flipped(&storage, position, bits), &image, PAGE) {
            Ok((commits, _)) => {
                assert!(position >= appended[2].end.0, "damage at {position} is not seen");
                assert_eq!(commits, all[..before]);
            }
            Err(error) => {
                assert!(error.is_corruption());
                assert!(position < appended[2].end.0, "{error} by a flip at {position}");
            }
        }
    }
}

#[test]
fn records_of_an_earlier_time_behind_the_end_never_come_back() {
    let (storage, image, appended) = six();
    // The fourth is lost, the fifth and the sixth are left.
    let torn = flipped(&storage, appended[3].position.0 + 50, 1);
    let writer = reopen(&torn, &image, PAGE);
    // A record of the same length takes the place of the fourth: the fifth does not follow it.
    let again = commit(&writer, 104, 200);
    assert_eq!(again.end, appended[3].end);
    writer.sync_to(again.end).unwrap();
    assert_eq!(sequences(&torn.harshest_power_cut(), &image), [1, 2, 3, 104]);
    let (_, end) = replayed(&torn, &image, PAGE).unwrap();
    assert!(end.stale.is_empty());
}

#[test]
fn a_lost_record_that_is_written_again_does_not_bring_back_what_followed_it() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    let first = commit(&writer, 1, 100);
    let second = commit(&writer, 2, 100);
    writer.write_to(second.end).unwrap();
    let torn = flipped(&storage, first.position.0 + 50, 1);
    let writer = reopen(&torn, &image, PAGE);
    // The very same record again, as it happens to the one that names a state.
    writer.sync_to(commit(&writer, 1, 100).end).unwrap();
    assert_eq!(sequences(&torn, &image), [1]);
    assert_eq!(sequences(&torn.harshest_power_cut(), &image), [1]);
}

#[test]
fn records_of_an_earlier_lap_never_parse() {
    let (storage, mut image, writer) = new_log(&[block(1, 2), block(10, 2)], PAGE);
    for lap in 0..40u64 {
        let mut end = LogPosition(0);
        for step in 1..=3 {
            end = commit(&writer, lap * 3 + step, 500).end;
        }
        writer.sync_to(end).unwrap();
        assert_eq!(sequences(&storage, &image).last(), Some(&(lap * 3 + 3)));
        (image.cut, image.chain) = writer.cut_here();
        (image.generation, image.sequence) = (lap + 2, SequenceNumber(lap * 3 + 3));
        image.list = writer.plan_list(image.cut, &[], 0).unwrap();
        writer.record_state(Epoch(lap + 2), lap + 2).unwrap();
        let (commits, end) = replayed(&storage, &image, PAGE).unwrap();
        assert!(commits.is_empty() && end.stale.is_empty() && end.state_is_recorded);
    }
}

#[test]
fn records_of_another_file_never_parse() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    writer.sync_to(commit(&writer, 1, 100).end).unwrap();
    assert_eq!(sequences(&storage, &image), [1]);
    let image = ReplayStart { seed: SEED ^ 1, ..image };
    assert!(sequences(&storage, &image).is_empty());
}

#[test]
fn padding_is_passed_over_and_an_open_is_shown() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    let none = SequenceNumber(0);
    commit(&writer, 1, 10);
    writer.append(RecordKind::Padding, none, NamedBlocks::None, &[&[0; 123]]).unwrap();
    let time = 77u64.to_le_bytes();
    writer.append(RecordKind::Opened, none, NamedBlocks::None, &[&time]).unwrap();
    writer.sync_to(commit(&writer, 2, 10).end).unwrap();
    let mut shown = Vec::new();
    replay(&stream_over(&storage, PAGE), &image, &mut |record| {
        shown.push((record.kind, record.sequence.0));
        if record.kind == RecordKind::Opened {
            assert_eq!(record.commit_time().unwrap(), 77);
        }
        Ok(Visit::Continue)
    })
    .unwrap();
    let expected = [
        (RecordKind::StateDurable, 0),
        (RecordKind::Commit, 1),
        (RecordKind::Opened, 0),
        (RecordKind::Commit, 2),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_record_longer_than_a_piece_crosses_blocks_and_reserved_bytes() {
    let blocks = [block(1, 300), block(500, 7), block(600, 900)];
    let (storage, image, writer) = new_log(&blocks, PAGE - 16);
    writer.sync_to(commit(&writer, 1, 700_000).end).unwrap();
    writer.sync_to(commit(&writer, 2, 3).end).unwrap();
    let (commits, _) = replayed(&storage.harshest_power_cut(), &image, PAGE - 16).unwrap();
    assert_eq!(commits, [(1, payload(1, 700_000)), (2, payload(2, 3))]);
    for page in storage.bytes().chunks(PAGE as usize) {
        assert!(page.iter().skip(PAGE as usize - 16).all(|&byte| byte == 0), "reserved bytes");
    }
}

#[test]
fn a_commit_whose_number_does_not_rise_is_a_break() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    commit(&writer, 5, 10);
    let second = commit(&writer, 5, 10);
    writer.write_to(second.end).unwrap();
    let (commits, end) = replayed(&storage, &image, PAGE).unwrap();
    assert_eq!((commits.len(), end.position), (1, second.position));
}

/// The next commit after an open would have got a number beyond all that 64 bits hold.
#[test]
fn a_commit_whose_number_is_beyond_all_is_damage() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    let commit = |number| {
        let number = SequenceNumber(number);
        writer.append(RecordKind::Commit, number, NamedBlocks::None, &[&[0; 20]]).unwrap()
    };
    commit(COUNT_MAX);
    writer.write_to(commit(COUNT_MAX + 1).end).unwrap();
    let replayed = replay(&stream_over(&storage, PAGE), &image, &mut |_| Ok(Visit::Continue));
    let error = replayed.unwrap_err();
    assert!(error.to_string().contains("its sequence number is beyond all"), "{error}");
}

#[test]
fn lists_that_cannot_be_are_refused() {
    let list = |start, blocks: &[Block]| {
        let list = RingList { start: LogPosition(start), blocks: blocks.to_vec() };
        Ring::new(&list, u64::from(PAGE))
    };
    assert!(list(8, &[block(9, 4), block(3, 6)]).is_ok());
    assert!(list(8, &[]).is_err());
    assert!(list(8, &[block(9, 0)]).is_err());
    assert!(list(4, &[block(9, 4)]).is_err());
    assert!(list(8, &[block(9, 4), block(3, 7)]).is_err());
    assert!(list(u64::MAX - 7, &[block(9, 4)]).is_err());
    assert!(list(0, &[block(u64::MAX, 4), block(u64::MAX - 2, 1)]).is_ok());
    let mut image = empty_image(&[block(u64::MAX - 2, 4)]);
    assert!(replayed(&TestStorage::empty(), &image, PAGE).unwrap_err().is_corruption());
    image.cut = LogPosition(4);
    assert!(replayed(&TestStorage::empty(), &image, PAGE).unwrap_err().is_corruption());
    image.cut = LogPosition(8 * u64::from(PAGE));
    assert!(replayed(&TestStorage::empty(), &image, PAGE).unwrap_err().is_corruption());
}

#[test]
fn a_record_that_does_not_follow_the_one_before_it_is_a_break() {
    for chain_is_right in [true, false] {
        let mut bytes = vec![0; PAGE as usize];
        let mut chain = 0;
        for sequence in 1..=2 {
            let head = RecordHead {
                position: LogPosition(bytes.len() as u64 - u64::from(PAGE)),
                chain: if chain_is_right { chain } else { 0 },
                kind: RecordKind::Commit,
                blocks: NamedBlocks::None,
                durable: LogPosition(0),
                sequence: SequenceNumber(sequence),
            };
            chain = encode_record(&mut bytes, SEED, &head, &[b"payload"]).unwrap();
        }
        bytes.resize(13 * PAGE as usize, 0);
        let storage = TestStorage::holding(bytes);
        let expected = if chain_is_right { 2 } else { 1 };
        assert_eq!(sequences(&storage, &empty_image(BLOCKS)).len(), expected);
    }
}

#[test]
fn a_right_checksum_over_what_no_writer_writes_is_damage() {
    let (position, chain, durable) = (LogPosition(0), 0, LogPosition(0));
    let head = |kind, sequence| RecordHead {
        position,
        chain,
        kind,
        blocks: NamedBlocks::None,
        durable,
        sequence: SequenceNumber(sequence),
    };
    let outcome = |record: &[u8]| {
        let mut bytes = vec![0; PAGE as usize];
        bytes.extend_from_slice(record);
        bytes.resize(13 * PAGE as usize, 0);
        replayed(&TestStorage::holding(bytes), &empty_image(BLOCKS), PAGE)
    };
    let mut record = Vec::new();
    encode_record(&mut record, SEED, &head(RecordKind::Commit, 1), &[b"payload"]).unwrap();
    assert_eq!(outcome(&record).unwrap().0, [(1, b"payload".to_vec())]);
    let last = record.len() - 1;
    // Kind, flags, padding length, the zero byte, the durable position, and the padding itself.
    for (at, value) in [(20, 9), (21, 4), (22, 8), (23, 1), (24, 8), (last, 1)] {
        let mut changed = record.clone();
        changed[at] = value;
        let mut hasher = crc32fast::Hasher::new_with_initial(SEED);
        hasher.update(&changed[4..]);
        changed[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        assert!(outcome(&changed).unwrap_err().is_corruption(), "byte {at}");
    }
    let mut short = Vec::new();
    encode_record(&mut short, SEED, &head(RecordKind::StateDurable, 0), &[&[1; 8]]).unwrap();
    assert!(outcome(&short).unwrap_err().is_corruption());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_damage_gives_a_prefix_or_an_error(
        changes in prop::collection::vec((0u64..2_000, any::<u8>()), 1..8),
    ) {
        static SIX: Mutex<Option<(Arc<TestStorage>, ReplayStart)>> = Mutex::new(None);
        let (storage, image) = SIX.lock().get_or_insert_with(|| {
            let (storage, image, _) = six();
            (storage, image)
        }).clone();
        let (all, _) = replayed(&storage, &image, PAGE).unwrap();
        let mut bytes = storage.bytes();
        for (position, value) in changes {
            bytes[(u64::from(PAGE) + position) as usize] = value;
        }
        if let Ok((commits, _)) = replayed(&TestStorage::holding(bytes), &image, PAGE) {
            prop_assert!(all.starts_with(&commits));
        }
    }
}
