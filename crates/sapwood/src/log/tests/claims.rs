//! What replay makes of bytes behind a break that were made to look like records.
//!
//! An application that knows where its value comes to lie in the log can fill it with headers that
//! have the right position and claim to be as long as the log. While its record is whole nobody
//! looks inside. A crash in the middle of its write tears it: then it lies behind the break, where
//! replay looks for records at every place.

use proptest::prelude::*;

use super::super::prefix_sums::SPACING_BYTES_MIN;
use super::super::reader::{CLAIMED_LAPS_MAX, StateNamed, replay_within};
use super::super::record::{HEADER_BYTES, RecordHead, encode_record};
use super::*;

const PAGES: u32 = 256;
const BLOCKS: &[Block] = &[Block { first: PageNumber(1), pages: PAGES }];
const LOG_BYTES: u64 = PAGE as u64 * PAGES as u64;

/// Makes 16 bytes the beginning of a record at `position` that is `length` bytes long.
fn claim(bytes: &mut [u8], position: u64, length: u64) {
    bytes[..4].copy_from_slice(&0xbad_c4c5_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[8..16].copy_from_slice(&position.to_le_bytes());
}

/// Lengths of claims that follow no pattern, up to the end of the log.
fn claimed_length(position: u64) -> u64 {
    let most = (LOG_BYTES - position) / 8;
    (most - position.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (most / 2 + 1)) * 8
}

/// A value that, `offset` bytes into the log, is nothing but claims; and how much they claim.
fn crafted(offset: u64, size: usize) -> (Vec<u8>, u64) {
    let (mut value, mut claimed) = (vec![0; size], 0);
    for (index, bytes) in value.chunks_exact_mut(16).enumerate() {
        let position = offset + 16 * index as u64;
        let length = claimed_length(position);
        claim(bytes, position, length);
        claimed += if length < HEADER_BYTES as u64 { 0 } else { length };
    }
    (value, claimed)
}

fn replayed_within(
    storage: &Arc<TestStorage>,
    image: &ReplayStart,
    usable: u32,
    laps_max: u64,
) -> Result<(Commits, ReplayEnd, u64)> {
    let mut commits = Vec::new();
    let mut visit = |record: &super::super::record::Record<'_>| {
        if record.kind.is_commit() {
            commits.push((record.sequence.0, record.payload.to_vec()));
        }
        Ok(Visit::Continue)
    };
    let (end, hashed) = replay_within(&stream_over(storage, usable), image, &mut visit, laps_max)?;
    Ok((commits, end, hashed))
}

#[test]
fn bytes_that_claim_to_be_records_everywhere_do_not_hold_replay_up() {
    let (crafted, claimed) = crafted(0, LOG_BYTES as usize);
    assert!(claimed > 1000 * CLAIMED_LAPS_MAX * LOG_BYTES / 10, "{claimed} bytes are claimed");
    let storage = TestStorage::holding([vec![0; PAGE as usize], crafted].concat());
    let image = empty_image(BLOCKS);
    let outcome = replayed_within(&storage, &image, PAGE, CLAIMED_LAPS_MAX);
    let (commits, end, hashed) = outcome.unwrap();
    assert!(commits.is_empty() && end.stale.is_empty());
    assert_eq!((end.position, end.state_named), (image.cut, StateNamed::Nowhere));
    // What the reader's header promises.
    let claims = LOG_BYTES / 16;
    let hashed_max = (CLAIMED_LAPS_MAX + 2) * LOG_BYTES + claims * 2 * SPACING_BYTES_MIN;
    assert!(hashed <= hashed_max, "{hashed} of {hashed_max} hashed");
    assert!(hashed >= CLAIMED_LAPS_MAX * LOG_BYTES / 2, "only {hashed}");
    let read_max = 3 * LOG_BYTES + claims * SPACING_BYTES_MIN;
    assert!(storage.read_bytes() <= read_max, "{} of {read_max} read", storage.read_bytes());
}

/// A log whose second commit was torn in the middle of its write, and is full of claims.
fn torn_and_crafted(
    behind: impl FnOnce(&LogWriter, Appended),
) -> (Arc<TestStorage>, ReplayStart, Appended) {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    let first = commit(&writer, 1, 100);
    writer.sync_to(first.end).unwrap();
    let (value, claimed) = crafted(first.end.0 + HEADER_BYTES as u64, 30_000);
    assert!(claimed > CLAIMED_LAPS_MAX * LOG_BYTES, "{claimed} bytes are claimed");
    let number = SequenceNumber(2);
    let second = writer.append(RecordKind::Commit, number, NamedBlocks::None, &[&value]).unwrap();
    assert_eq!(second.position, first.end);
    writer.write_to(second.end).unwrap();
    behind(&writer, second);
    let mut bytes = storage.bytes();
    let end = (u64::from(PAGE) + second.end.0) as usize;
    bytes[end - 512..end].fill(0);
    (TestStorage::holding(bytes), image, second)
}

#[test]
fn a_torn_record_that_was_made_to_look_like_records_cuts_the_log() {
    let (storage, image, second) = torn_and_crafted(|_, _| ());
    let (commits, end) = replayed(&storage, &image, PAGE).unwrap();
    assert_eq!(commits, [(1, payload(1, 100))]);
    assert_eq!(end.position, second.position);
    assert!(end.stale.is_empty() && end.state_is_recorded);
    // The log goes on there.
    let writer = reopen(&storage, &image, PAGE);
    writer.sync_to(commit(&writer, 3, 40_000).end).unwrap();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [1, 3]);
}

#[test]
fn a_record_behind_bytes_that_were_made_to_look_like_records_is_found() {
    let (storage, image, second) = torn_and_crafted(|writer, _| {
        writer.write_to(commit(writer, 3, 5_000).end).unwrap();
        writer.write_to(commit(writer, 4, 10).end).unwrap();
    });
    let (commits, end) = replayed(&storage, &image, PAGE).unwrap();
    assert_eq!((commits.len(), end.position), (1, second.position));
    assert_eq!((end.stale.len(), end.stale[0]), (2, second.end));
    // One that knows that the torn one was on disk tells that this is damage, no crash.
    let (storage, image, _) = torn_and_crafted(|writer, second| {
        writer.sync_to(second.end).unwrap();
        writer.write_to(commit(writer, 3, 5_000).end).unwrap();
    });
    let error = replayed(&storage, &image, PAGE).unwrap_err();
    assert!(error.to_string().contains("it was on disk"), "{error}");
    // One that names the state says that its slot is on disk.
    let (storage, image, _) = torn_and_crafted(|writer, second| {
        let named = crate::log::record::state_durable_payload(Epoch(2), 2);
        let kind = RecordKind::StateDurable;
        let end = writer.append(kind, SequenceNumber(0), NamedBlocks::None, &[&named]).unwrap().end;
        assert!(end > second.end);
        writer.write_to(end).unwrap();
    });
    let (_, end) = replayed(&storage, &ReplayStart { generation: 2, ..image }, PAGE).unwrap();
    assert_eq!(end.state_named, StateNamed::Somewhere);
}

/// What a place behind the break holds.
#[derive(Clone, Debug)]
enum Piece {
    Noise(usize),
    Claim {
        length: u64,
    },
    /// A right record with as many bytes of claims in it, or of right records.
    Record {
        size: usize,
        holds: Holds,
        durable: u64,
        names: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Holds {
    Noise,
    Claims,
    Records,
}

fn piece() -> impl Strategy<Value = Piece> {
    let holds = prop_oneof![Just(Holds::Noise), Just(Holds::Claims), Just(Holds::Records)];
    let record = (0usize..2_500, holds, 0u64..3, any::<bool>());
    prop_oneof![
        (1usize..60).prop_map(Piece::Noise),
        (5u64..1_200).prop_map(|words| Piece::Claim { length: words * 8 }),
        record.prop_map(|(size, holds, durable, names)| {
            Piece::Record { size, holds, durable: durable * 8, names }
        }),
    ]
}

fn append_record(log: &mut Vec<u8>, durable: u64, kind: RecordKind, payload: &[u8]) {
    let head = RecordHead {
        position: LogPosition(log.len() as u64),
        chain: 9,
        kind,
        blocks: NamedBlocks::None,
        durable: LogPosition(durable),
        sequence: SequenceNumber(0),
    };
    encode_record(log, SEED, &head, &[payload]).unwrap();
}

fn append(log: &mut Vec<u8>, piece: &Piece) {
    let position = log.len() as u64;
    match *piece {
        Piece::Noise(words) => log.extend((0..words * 8).map(|i| (i * 7) as u8)),
        Piece::Claim { length } => {
            log.resize(log.len() + 16, 0);
            claim(&mut log[position as usize..], position, length);
        }
        Piece::Record { names: true, durable, .. } => {
            let named = crate::log::record::state_durable_payload(Epoch(1), 1);
            append_record(log, durable, RecordKind::StateDurable, &named);
        }
        Piece::Record { size, holds, durable, .. } => {
            let mut inner = vec![0; position as usize + HEADER_BYTES];
            let outer = inner.len();
            while inner.len() < outer + size {
                match holds {
                    Holds::Noise => append(&mut inner, &Piece::Noise(3)),
                    Holds::Claims => append(&mut inner, &Piece::Claim { length: 4_000 }),
                    Holds::Records => append_record(&mut inner, 0, RecordKind::Opened, &[3; 20]),
                }
            }
            append_record(log, durable, RecordKind::Commit, &inner[outer..]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn prefix_sums_find_the_records_that_reading_them_finds(
        pieces in prop::collection::vec(piece(), 1..40),
        sizes in prop::collection::vec(1u32..60, 2..6),
        reserves in any::<bool>(),
        damaged in prop::collection::vec((0usize..60_000, any::<u8>()), 0..3),
        starts_well in any::<bool>(),
    ) {
        let usable = if reserves { PAGE - 16 } else { PAGE };
        let mut log = Vec::new();
        if !starts_well {
            append(&mut log, &Piece::Noise(2));
        }
        pieces.iter().for_each(|piece| append(&mut log, piece));
        for (at, value) in damaged {
            if let Some(byte) = log.get_mut(at) {
                *byte = value;
            }
        }
        // What the blocks have no room for is left out.
        let (mut blocks, mut file, mut rest) = (Vec::new(), vec![0; PAGE as usize], &log[..]);
        for pages in sizes {
            blocks.push(block((file.len() / PAGE as usize) as u64, pages));
            for _ in 0..pages {
                let (part, behind) = rest.split_at(rest.len().min(usable as usize));
                file.extend_from_slice(part);
                file.resize(file.len() + PAGE as usize - part.len(), 0);
                rest = behind;
            }
            file.resize(file.len() + PAGE as usize, 0xee);
        }
        let (storage, image) = (TestStorage::holding(file), empty_image(&blocks));
        let by = |laps_max| {
            let outcome = replayed_within(&storage, &image, usable, laps_max);
            outcome.map(|(commits, end, _)| (commits, end)).map_err(|error| error.to_string())
        };
        let read = by(u64::MAX);
        prop_assert_eq!(&by(0), &read);
        prop_assert_eq!(&by(1), &read);
        prop_assert_eq!(&by(CLAIMED_LAPS_MAX), &read);
    }
}
