//! Fuzz targets for Sapwood.
//!
//! Each target is a function `fn(&[u8])` of this library, which compiles with nothing but Rust; a
//! test runs it over the committed corpus and over bytes from a fixed seed. Its binary in
//! `fuzz_targets` only hands libFuzzer's bytes on, and needs the feature `libfuzzer` and a C++
//! compiler:
//!
//! ```text
//! cargo fuzz run --features libfuzzer <target>
//! ```
//!
//! Without libFuzzer `cargo run --bin random <target> <runs>` brings random bytes.
//!
//! A target must give an error or a value for any bytes: a panic, an overflow, or memory out of
//! proportion to the input is a finding. What passes a parser's own check must besides keep what
//! the check promises. What was found is kept in `corpus/<target>`.
//!
//! | target | bytes are taken as | section of `docs/format.md` |
//! |---|---|---|
//! | [`sorted_block`] | the content of a leaf | 4 |
//! | [`parent`] | the content of a parent | 4 |
//! | [`range_tombstone`] | the value of a range tombstone | 4 |
//! | [`overflow`] | an overflow reference, and an overflow list | 4 |
//! | [`header_slot`] | a header slot, and the fields of one with right checksums | 2 |
//! | [`free_map`] | the content of a free map | 2 |
//! | [`node`] | the pages of a node, and the content of one with a right checksum | 3 |
//! | [`log`] | the blocks of a log, and the payloads of records with right checksums | 5 |
//! | [`operations`] | the payload of a commit | 5 |
//! | [`state`] | an encoded state, a segment, options | 6 |
//! | [`any_file`] | a file, which is opened, read, verified, written to and merged | all |
//! | [`changed_file`] | changes to a valid file, whose checksums are put right | all |
//! | [`history`] | operations, reopens, crashes and failing I/O, compared with a model | |

#![forbid(unsafe_code)]

mod file;
mod history;
mod parsers;
mod random;

pub use file::{any_file, changed_file};
pub use history::history;
pub use parsers::{free_map, header_slot, log, node, operations, state};
pub use random::{Random, bytes_for};

use sapwood::segment::COMPOSITE_KEY_BYTES_MAX;
use sapwood::segment::overflow_reference::{OverflowList, OverflowReference};
use sapwood::segment::parent::Parent;
use sapwood::segment::range_tombstone::RangeValue;
use sapwood::segment::sorted_block::{KindSet, SortedBlock};

/// A target: what is done with bytes that may be anything.
pub type Target = fn(&[u8]);

/// All targets, with their names.
pub const TARGETS: [(&str, Target); 13] = [
    ("sorted_block", sorted_block),
    ("parent", parent),
    ("range_tombstone", range_tombstone),
    ("overflow", overflow),
    ("header_slot", header_slot),
    ("free_map", free_map),
    ("node", node),
    ("log", log),
    ("operations", operations),
    ("state", state),
    ("any_file", any_file),
    ("changed_file", changed_file),
    ("history", history),
];

/// A sorted block: walks and searches it, whether or not it passes its check.
///
/// The first byte says whether entries have numbers, whether slots are wide, and which kinds of
/// entries are allowed.
pub fn sorted_block(bytes: &[u8]) {
    let Some((&choice, content)) = bytes.split_first() else {
        return;
    };
    let kinds = [KindSet::POINTS, KindSet::CHILDREN, KindSet::RANGES];
    let kinds = kinds[usize::from(choice >> 2) % kinds.len()];
    let Ok(block) = SortedBlock::parse(content, choice & 1 != 0, choice & 2 != 0) else {
        return;
    };
    let sound = block.check(kinds, COMPOSITE_KEY_BYTES_MAX).is_ok();
    let mut key = Vec::new();
    for index in 0..block.len() {
        let copied = block.copy_key(index, &mut key);
        let entry = block.entry(index);
        let (Ok(()), Ok(entry)) = (copied, entry) else {
            assert!(!sound, "an entry of a sound block cannot be read");
            continue;
        };
        let found = block.lower_bound_at(&key, entry.number);
        let order = block.compare_key(index, &key);
        if sound {
            assert_eq!(found, (index, true), "a key of a sound block is not found");
            assert_eq!(order, Ok(std::cmp::Ordering::Equal));
            assert!(block.lower_bound(&key).0 <= index);
        }
    }
}

/// A parent; the first byte is its height, and its top bit says whether slots are wide.
pub fn parent(bytes: &[u8]) {
    let Some((&choice, content)) = bytes.split_first() else {
        return;
    };
    let Ok(parent) = Parent::parse(content, choice & 0x7f, choice & 0x80 != 0) else {
        return;
    };
    let sound = parent.check().is_ok();
    let mut key = Vec::new();
    for index in 0..parent.len() {
        let child = parent.child(index);
        let reference = parent.child_reference(index);
        let separated = parent.separator(index, &mut key);
        if sound {
            assert!(child.is_ok() && reference.is_ok() && separated.is_ok());
            assert_eq!(parent.child_for(&key), index, "a separator leads to another child");
        }
    }
    for references in [parent.pieces(), parent.overflow_lists()] {
        for index in 0..references.len() {
            assert!(references.get(index).is_ok() || !sound);
        }
    }
}

/// The value of a range tombstone; the first byte says whether it has numbers, and with 2 their
/// base is near the end of the numbers.
pub fn range_tombstone(bytes: &[u8]) {
    let Some((&choice, value)) = bytes.split_first() else {
        return;
    };
    let base_number = match choice % 3 {
        0 => None,
        1 => Some(7),
        _ => Some(u64::MAX - 7),
    };
    let Ok(range) = RangeValue::decode(value, base_number) else {
        return;
    };
    let numbers: Vec<u64> = range.numbers().collect();
    assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "the numbers do not descend");
    assert_eq!(range.newest_at(u64::MAX), numbers.first().copied());
}

/// The same bytes as an overflow reference and as an overflow list.
pub fn overflow(bytes: &[u8]) {
    if let Ok(reference) = OverflowReference::decode(bytes) {
        assert_eq!(OverflowReference::decode_length(bytes), Ok(reference.length));
        let mut again = Vec::new();
        reference.encode(&mut again);
        assert_eq!(again, bytes, "a reference has two forms");
    }
    let mut again = Vec::new();
    let mut whole = true;
    for item in OverflowList::new(bytes) {
        match item {
            Ok(item) => item.encode(&mut again),
            Err(_) => whole = false,
        }
    }
    assert!(!whole || again == bytes, "a list has two forms");
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood::segment::sorted_block::EntryKind;
    use sapwood::segment::sorted_block_builder::SortedBlockBuilder;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_target_takes_what_was_found_before() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        for (name, target) in TARGETS {
            let Ok(entries) = fs::read_dir(corpus.join(name)) else {
                continue;
            };
            for entry in entries {
                target(&fs::read(entry.unwrap().path()).unwrap());
            }
        }
    }

    #[test]
    fn every_target_takes_any_bytes() {
        let mut random = Random::new(0x5eed);
        for (name, target) in TARGETS {
            target(&[]);
            let runs = match name {
                "changed_file" => 60,
                "history" => 12,
                "log" => 2000,
                _ => 20_000,
            };
            for _ in 0..runs {
                target(&bytes_for(name, &mut random));
            }
        }
    }

    /// The bytes that the target takes, for a valid block of entries with numbers.
    fn valid_block() -> Vec<u8> {
        let mut builder = SortedBlockBuilder::new(true, 100);
        for index in 0..40_u64 {
            let key = format!("customer/{:03}", index / 2);
            let number = 300 - index;
            if index % 5 == 0 {
                builder.push(EntryKind::Delete, key.as_bytes(), number, b"");
            } else {
                builder.push(EntryKind::Put, key.as_bytes(), number, &index.to_le_bytes());
            }
        }
        let mut bytes = vec![1];
        builder.finish(&mut bytes);
        bytes
    }

    #[test]
    fn a_valid_block_passes_its_check() {
        let bytes = valid_block();
        let block = SortedBlock::parse(&bytes[1..], true, false).unwrap();
        block.check(KindSet::POINTS, COMPOSITE_KEY_BYTES_MAX).unwrap();
        sorted_block(&bytes);
    }

    #[test]
    fn a_damaged_block_gives_errors_only() {
        let valid = valid_block();
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            let mut bytes = valid.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(bytes.len());
                bytes[at] = random.byte();
            }
            sorted_block(&bytes);
            parent(&bytes);
        }
    }
}
