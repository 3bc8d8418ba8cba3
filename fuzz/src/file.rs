//! Targets for whole files: any bytes, and a valid file that was changed and whose checksums were
//! put right again, so that what it says contradicts itself where no checksum tells.

use std::sync::OnceLock;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::Arc;
use sapwood::{Compression, Database, Durability, KeyspaceOptions};

const PAGE_BYTES: usize = 1024;
const SLOT_BYTES: usize = 4096;
const INLINE_STATE_AT: usize = 256;
const NODE_HEADER_BYTES: usize = 32;
const KIND_FREE_MAP: u8 = 7;

/// Opens the bytes as a file; when that goes well reads everything, verifies, writes and merges.
pub fn any_file(bytes: &[u8]) {
    use_file(bytes);
}

/// Changes to a valid file. Each takes five bytes: what is changed (a node, a record of the log,
/// the state), where in it (2), how, and the new byte.
pub fn changed_file(bytes: &[u8]) {
    let mut image = Image::new(base().clone());
    for change in bytes.chunks_exact(5).take(6) {
        let [what, at_low, at_high, how, value] = *change else { continue };
        let at = usize::from(u16::from_le_bytes([at_low, at_high]));
        image.change(usize::from(what), at, how, value);
    }
    use_file(&image.bytes);
}

/// Whatever comes of it is right, but for a panic.
fn use_file(bytes: &[u8]) {
    let storage = Arc::new(MemoryStorage::from_image(bytes));
    let Ok(database) = Setup::tiny().open_on(storage) else { return };
    let _ = access::dump(&database);
    let _ = access::dump_back(&database);
    let _ = database.verify(&mut ());
    let _ = write_and_merge(&database);
    let _ = access::dump(&database);
    let _ = database.close();
}

fn write_and_merge(database: &Database) -> sapwood::Result<()> {
    for name in database.keyspaces()? {
        let keyspace = database.existing_keyspace(&name)?;
        let _ = keyspace.get("00150")?;
        for n in [0, 3, 150, 900] {
            keyspace.put(format!("{n:05}"), "changed")?;
        }
        keyspace.delete_range("00100".."00120")?;
        keyspace.put("large", vec![b'm'; 5000])?;
    }
    database.flush()?;
    run_all_steps(database)?;
    database.compact()
}

/// A file with levels, young segments, tombstones, overflow values, filters and a log; its nodes
/// are plain.
fn base() -> &'static Vec<u8> {
    static BASE: OnceLock<Vec<u8>> = OnceLock::new();
    BASE.get_or_init(|| make_base().unwrap_or_else(|error| panic!("{error}")))
}

fn make_base() -> sapwood::Result<Vec<u8>> {
    let storage = Arc::new(MemoryStorage::new());
    let database = Setup::tiny().open_on(Arc::clone(&storage) as _)?;
    let plain = KeyspaceOptions::default()
        .compression(Compression::None)
        .value_compression(Compression::None);
    let keyspace = database.keyspace_with("a", plain)?;
    let put = |from: u32, count: u32, step: usize| {
        let mut batch = database.batch();
        for n in (from..from + count).step_by(step) {
            batch.put(&keyspace, format!("{n:05}"), format!("value {n}"))?;
        }
        batch.commit_with(Durability::Buffered)
    };
    put(0, 2500, 1)?;
    keyspace.put("00050", vec![b'l'; 3000])?;
    database.compact()?;
    put(100, 300, 2)?;
    keyspace.put("large", vec![b'l'; 9000])?;
    keyspace.delete_range("00020".."00030")?;
    database.flush()?;
    put(200, 40, 5)?;
    keyspace.delete("00150")?;
    database.keyspace("other")?.put("b", "c")?;
    database.sync()?;
    let image = storage.image();
    drop(database);
    Ok(image)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// What has a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Node { at: usize, bytes: usize },
    Record { at: usize, bytes: usize },
    Slot { at: usize },
}

struct Image {
    bytes: Vec<u8>,
    seed: u32,
    parts: Vec<Part>,
}

impl Image {
    fn new(bytes: Vec<u8>) -> Image {
        let seed = crc32fast::hash(&bytes[24..40]);
        let mut image = Image { bytes, seed, parts: Vec::new() };
        for at in (2 * SLOT_BYTES..image.bytes.len()).step_by(8) {
            if at.is_multiple_of(PAGE_BYTES)
                && let Some(node) = image.node_at(at)
            {
                image.parts.push(node);
            }
            let length = u32_at(&image.bytes, at + 4) as usize;
            if (40..4096).contains(&length)
                && let Some(record) = image.bytes.get(at + 4..at + length)
                && image.sum(record) == u32_at(&image.bytes, at)
            {
                image.parts.push(Part::Record { at, bytes: length });
            }
        }
        image.parts.extend([Part::Slot { at: 0 }, Part::Slot { at: SLOT_BYTES }]);
        image
    }

    fn sum(&self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.seed);
        hasher.update(bytes);
        hasher.finalize()
    }

    fn node_at(&self, at: usize) -> Option<Part> {
        let stored = u32_at(&self.bytes, at + 24) as usize;
        let bytes = NODE_HEADER_BYTES + stored.min(1 << 20);
        let node = self.bytes.get(at..at + bytes)?;
        (self.node_sum(node) == u32_at(node, 4)).then_some(Part::Node { at, bytes })
    }

    fn node_sum(&self, node: &[u8]) -> u32 {
        let mut copy = node.to_vec();
        put_u32(&mut copy, 4, 0);
        self.sum(&copy)
    }

    /// The bytes of a part that may be changed.
    fn content(&self, part: Part) -> std::ops::Range<usize> {
        match part {
            Part::Node { at, bytes } => at..at + bytes,
            Part::Record { at, bytes } => at + 20..at + bytes,
            // Lengths and numbers of the slot, and the state behind them.
            Part::Slot { at } => {
                let state = u32_at(&self.bytes, at + 96) as usize;
                at + INLINE_STATE_AT..at + INLINE_STATE_AT + state.min(3840)
            }
        }
    }

    fn change(&mut self, what: usize, at: usize, how: u8, value: u8) {
        // The slots are few and matter most.
        let parts = self.parts.len();
        let index = if what >= 224 { parts - 1 - what % 2 } else { what % parts };
        let part = self.parts[index];
        let range = self.content(part);
        if range.is_empty() {
            return;
        }
        let at = range.start + at % range.len();
        let old = self.bytes[at];
        let new = match how % 4 {
            0 => value,
            1 => old ^ 1 << (value % 8),
            2 => old.wrapping_add(1),
            _ => old.wrapping_sub(1),
        };
        self.bytes[at] = new;
        if self.bytes[range.start] == KIND_FREE_MAP && matches!(part, Part::Node { .. }) {
            let bits = &self.bytes[range.start + NODE_HEADER_BYTES + 16..range.end];
            let used = bits.iter().map(|byte| byte.count_ones()).sum();
            put_u32(&mut self.bytes, range.start + NODE_HEADER_BYTES + 12, used);
        }
        self.repair(part, 0);
    }

    /// Puts the checksum of a part right, and what repeats it.
    fn repair(&mut self, part: Part, depth: u32) {
        match part {
            Part::Slot { at } => {
                let state = self.content(part);
                let sum = crc32fast::hash(&self.bytes[state]);
                put_u32(&mut self.bytes, at + 100, sum);
                put_u32(&mut self.bytes, at + 8, 0);
                let sum = crc32fast::hash(&self.bytes[at..at + SLOT_BYTES]);
                put_u32(&mut self.bytes, at + 8, sum);
            }
            Part::Record { at, bytes } => {
                let sum = self.sum(&self.bytes[at + 4..at + bytes]);
                put_u32(&mut self.bytes, at, sum);
                let next = self.parts.iter().copied().find(
                    |part| matches!(part, Part::Record { at: next, .. } if *next == at + bytes),
                );
                if let Some(next) = next
                    && let Part::Record { at, .. } = next
                {
                    put_u32(&mut self.bytes, at + 16, sum);
                    self.repair(next, depth);
                }
            }
            Part::Node { at, bytes } => {
                let stamp = u32_at(&self.bytes, at + 16);
                let old = u32_at(&self.bytes, at + 4);
                let sum = self.node_sum(&self.bytes[at..at + bytes]);
                put_u32(&mut self.bytes, at + 4, sum);
                if sum != old && depth < 8 {
                    self.repair_references(stamp, old, sum, depth);
                }
            }
        }
    }

    /// A reference holds the stamp, and then the checksum.
    fn repair_references(&mut self, stamp: u32, old: u32, new: u32, depth: u32) {
        let before = [stamp.to_le_bytes(), old.to_le_bytes()].concat();
        for part in self.parts.clone() {
            let range = self.content(part);
            let found: Vec<usize> = self.bytes[range.clone()]
                .windows(8)
                .enumerate()
                .filter(|(_, window)| *window == before)
                .map(|(index, _)| range.start + index + 4)
                .collect();
            for &at in &found {
                put_u32(&mut self.bytes, at, new);
            }
            if !found.is_empty() {
                self.repair(part, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sapwood::page::NodeKind;
    use std::collections::BTreeSet;

    #[test]
    fn the_base_has_every_kind_of_part_and_is_right() {
        let image = Image::new(base().clone());
        let kinds: BTreeSet<u8> = image
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Node { at, .. } => Some(image.bytes[*at]),
                _ => None,
            })
            .collect();
        let wanted = [NodeKind::Leaf, NodeKind::Parent, NodeKind::FilterPiece];
        assert!(wanted.iter().all(|kind| kinds.contains(&(*kind as u8))), "{kinds:?}");
        let records = image.parts.iter().filter(|part| matches!(part, Part::Record { .. }));
        assert!(records.count() > 3);
        assert!(u32_at(&image.bytes, 96) > 0 && image.bytes[104] == 0, "the state is in the slot");
        let storage = Arc::new(MemoryStorage::from_image(&image.bytes));
        let database = Setup::tiny().open_on(storage).unwrap();
        assert!(database.verify(&mut ()).unwrap().is_clean());
    }

    /// A change whose checksums are right is read as if it had been written so.
    #[test]
    fn repaired_changes_pass_every_checksum() {
        let mut read = 0;
        for what in 0..200 {
            let mut image = Image::new(base().clone());
            let part = image.parts[what % image.parts.len()];
            let Part::Node { at, bytes } = part else { continue };
            if image.bytes[at] != 1 {
                continue;
            }
            // The last byte of a leaf is one of a value.
            image.bytes[at + bytes - 1] ^= 1;
            image.repair(part, 0);
            let storage = Arc::new(MemoryStorage::from_image(&image.bytes));
            let database = Setup::tiny().open_on(storage).unwrap();
            read += u32::from(access::dump(&database).is_ok());
            let report = database.verify(&mut ()).unwrap();
            assert!(!report.problems.iter().any(|p| p.to_string().contains("checksum")));
        }
        assert!(read > 30, "{read}");
    }
}
