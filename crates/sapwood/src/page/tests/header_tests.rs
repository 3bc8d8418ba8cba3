//! Header slots and the state's node.

use proptest::prelude::*;

use crate::error::Error;
use crate::storage::{Storage, SyncGate};
use crate::sync::Clock;
use crate::types::{COUNT_MAX, Epoch, PageNumber};

use super::super::file_header::{
    INLINE_STATE_BYTES_MAX, SLOT_BYTES, Slots, newest_first, read_slots, write_slot,
};
use super::super::state_node::{read_state, write_state};
use super::*;

fn slot(generation: u64, state: StateLocation) -> HeaderSlot {
    HeaderSlot::new(&tiny_layout(64), generation, Epoch(44), 200, state)
}

fn in_blocks() -> StateLocation {
    let blocks = (0..9).map(|index| Block::new(PageNumber(10 + 2 * index), 2)).collect();
    StateLocation::Blocks { length: 5000, checksum: 6, stamp: 7, blocks }
}

proptest! {
    #[test]
    fn slots_come_back(
        generation in 1u64..=COUNT_MAX,
        length in 0..=INLINE_STATE_BYTES_MAX,
        seed: u32,
    ) {
        for state in [StateLocation::Inline(noise(length, seed)), in_blocks()] {
            let slot = slot(generation, state);
            prop_assert_eq!(HeaderSlot::decode(&slot.encode()), Ok(slot));
        }
    }
}

#[test]
fn every_flipped_bit_and_every_truncation_of_a_slot_is_seen() {
    for slot in [slot(5, StateLocation::Inline(noise(3000, 1))), slot(6, in_blocks())] {
        let unit = slot.encode();
        for bit in 0..unit.len() * 8 {
            let mut damaged = unit;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(HeaderSlot::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..unit.len() {
            assert_eq!(HeaderSlot::decode(&unit[..length]), Err(SlotProblem::Truncated));
        }
    }
}

/// Fields out of range under a right checksum: a crafted file.
#[test]
fn fields_out_of_range_are_seen_under_a_right_checksum() {
    let unit = slot(6, in_blocks()).encode();
    let inline = slot(6, StateLocation::Inline(vec![1; 100])).encode();
    let with = |unit: &[u8; SLOT_BYTES], at: usize, bytes: &[u8]| {
        let mut unit = *unit;
        unit[at..at + bytes.len()].copy_from_slice(bytes);
        unit[8..12].fill(0);
        let crc = crc32fast::hash(&unit);
        unit[8..12].copy_from_slice(&crc.to_le_bytes());
        HeaderSlot::decode(&unit)
    };
    assert!(with(&unit, 24, &[8; 16]).is_ok());
    assert_eq!(with(&unit, 12, &[2]), Err(SlotProblem::UnsupportedVersion(2)));
    assert_eq!(with(&unit, 46, &[1]), Err(SlotProblem::WrongSlot));
    for (at, bytes) in [
        (16, &[0u8; 8][..]), // generation 0
        (23, &[0x41]),       // one whose next may overflow
        (40, &[0, 0, 0, 0]),
        (44, &[3]),
        (48, &[0; 8]),
        (80, &[0xff; 8]),
        (80, &[20, 0]), // blocks beyond the file's end
        (104, &[10]),
        (104, &[8]),
        (106, &[1]),
        (112, &[0]), // a block over the header
        (112, &[0xff; 8]),
        (120, &[0; 4]),
        (120, &[60]), // across a region's border
        (124, &[1]),
        (300, &[1]),
    ] {
        let result = with(&unit, at, bytes);
        assert!(matches!(result, Err(SlotProblem::Invalid(_))), "{at} {bytes:?} {result:?}");
    }
    for (at, bytes) in
        [(96, &[101u8][..]), (96, &[0xff; 4]), (100, &[0; 4]), (108, &[1]), (112, &[1])]
    {
        let result = with(&inline, at, bytes);
        assert!(matches!(result, Err(SlotProblem::Invalid(_))), "{at} {bytes:?} {result:?}");
    }
}

#[test]
fn the_newest_slot_that_counts_comes_first() {
    let storage = TestStorage::default();
    let gate = SyncGate::new(Clock::real());
    storage.set_length(8192).unwrap();
    let inline = || StateLocation::Inline(vec![3; 10]);
    let order = |storage: &TestStorage| {
        let slots = newest_first(read_slots(storage).unwrap(), "file")?;
        crate::Result::Ok(slots.iter().map(|slot| slot.generation).collect::<Vec<_>>())
    };
    assert!(matches!(order(&storage), Err(Error::NotADatabase(_))));
    write_slot(&storage, &gate, &slot(7, inline())).unwrap();
    assert_eq!(order(&storage).unwrap(), [7]);
    write_slot(&storage, &gate, &slot(8, inline())).unwrap();
    assert_eq!(order(&storage).unwrap(), [8, 7]);
    write_slot(&storage, &gate, &slot(9, inline())).unwrap();
    assert_eq!(order(&storage).unwrap(), [9, 8]);
    // A torn write of slot 1 leaves slot 0.
    storage.bytes.lock()[4096 + 512..8192].fill(0xee);
    assert_eq!(order(&storage).unwrap(), [8]);
    storage.flip_bit(8 * 40);
    assert!(order(&storage).unwrap_err().is_corruption());
    // The same slot in both places: the second does not count.
    write_slot(&storage, &gate, &slot(8, inline())).unwrap();
    let copy = storage.bytes.lock()[..4096].to_vec();
    storage.bytes.lock()[4096..8192].copy_from_slice(&copy);
    assert_eq!(order(&storage).unwrap(), [8]);
    storage.set_length(5000).unwrap();
    assert_eq!(order(&storage).unwrap(), [8]);
    storage.set_length(0).unwrap();
    assert!(matches!(order(&storage), Err(Error::NotADatabase(_))));
}

#[test]
fn a_newer_version_and_mixed_files_are_refused() {
    let good = || Ok(slot(8, StateLocation::Inline(Vec::new())));
    let newer: Slots = [good(), Err(SlotProblem::UnsupportedVersion(2))];
    assert!(matches!(newest_first(newer, "f"), Err(Error::UnsupportedVersion { found: 2, .. })));
    let mut other = slot(9, StateLocation::Inline(Vec::new()));
    other.identity = [1; 16];
    assert!(newest_first([good(), Ok(other)], "f").unwrap_err().is_corruption());
}

#[test]
fn unknown_features_and_cut_files_are_refused() {
    let mut slot = slot(8, StateLocation::Inline(Vec::new()));
    slot.features_ignorable = 1;
    assert!(slot.check_features("f", false).is_ok());
    slot.features_read_only = 2;
    assert!(slot.check_features("f", false).is_err());
    assert!(slot.check_features("f", true).is_ok());
    slot.features_required = 4;
    let refused = slot.check_features("f", true);
    assert!(matches!(refused, Err(Error::UnknownFeature { bits: 4, .. })));
    assert!(slot.check_length(200 * 1024).is_ok());
    assert!(slot.check_length(200 * 1024 - 1).is_err());
    assert_eq!(slot.layout().unwrap(), tiny_layout(64));
}

#[test]
fn a_state_in_blocks_comes_back_and_every_flipped_bit_of_it_is_seen() {
    let layout = tiny_layout(64);
    let storage = TestStorage::default();
    storage.set_length(200 * 1024).unwrap();
    let blocks = [Block::new(PageNumber(20), 1), Block::new(PageNumber(12), 2)];
    let state = noise(2000, 8);
    let location = write_state(&layout, &storage, &blocks, 5, &state).unwrap();
    let slot = slot(8, location);
    assert_eq!(read_state(&layout, &storage, &slot).unwrap(), state);
    let stream_bits = (32 + 2000) * 8;
    for bit in 0..stream_bits {
        let (byte, usable) = (bit / 8, layout.usable_bytes());
        let page = [20, 12, 13][byte / usable];
        let bit = (page * 1024 + byte % usable) as u64 * 8 + bit as u64 % 8;
        storage.flip_bit(bit);
        assert!(read_state(&layout, &storage, &slot).is_err(), "bit {bit}");
        storage.flip_bit(bit);
    }
    for length in 0..21 {
        storage.set_length(length * 1024).unwrap();
        assert!(read_state(&layout, &storage, &slot).is_err());
    }
}
