//! Builds sorted blocks from entries that come in order.
//!
//! Keys and values are copied once into a buffer that is reused; the common prefix is cut when a
//! block is finished, since only then the last key is known. The first entries can be finished
//! alone, and the others stay for the next block.
//!
//! *Assumes*: entries come in the block's order (a program error otherwise, which panics).
//! *Guarantees*: what it writes passes
//! [`SortedBlock::check`](super::sorted_block::SortedBlock::check).
//!
//! *Format*: docs/format.md, section 4.1. *Threads*: one owner.

use super::COMPOSITE_KEY_BYTES_MAX;
use super::sorted_block::{EntryKind, HEAD_BYTES, cut_head};
use crate::codec::{put_varint, varint_bytes};

/// The most entries that a block holds.
pub const BLOCK_ENTRIES_MAX: usize = u16::MAX as usize;

/// The largest block whose slots are narrow, in bytes.
const NARROW_BYTES_MAX: usize = u16::MAX as usize;

/// What a finished block's node header has to say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// The slots take four bytes each.
    pub wide: bool,
    /// The number of entries.
    pub count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Where the key begins in the buffer; the value follows it.
    offset: u32,
    key_bytes: u32,
    value_bytes: u32,
    kind: EntryKind,
    /// The number less the base number.
    delta: u64,
}

/// Sums over the pending entries, from which the block's length is estimated.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    prefix_bytes: usize,
    key_bytes: usize,
    key_bytes_least: usize,
    key_bytes_most: usize,
    /// Kinds, numbers, value lengths and values: what the prefix does not change.
    fixed_bytes: usize,
}

/// Builds one sorted block after the other.
#[derive(Debug)]
pub struct SortedBlockBuilder {
    numbered: bool,
    base_number: u64,
    /// Keys and values, one entry after the other.
    buffer: Vec<u8>,
    pending: Vec<Pending>,
    sums: Sums,
}

impl SortedBlockBuilder {
    /// A builder of blocks whose entries carry numbers, none below `base_number`; or of blocks
    /// without.
    pub fn new(numbered: bool, base_number: u64) -> SortedBlockBuilder {
        SortedBlockBuilder {
            numbered,
            base_number,
            buffer: Vec::new(),
            pending: Vec::new(),
            sums: Sums::default(),
        }
    }

    /// Makes the builder empty and ready for another kind of block, keeping its buffers.
    pub fn reset(&mut self, numbered: bool, base_number: u64) {
        self.clear();
        self.numbered = numbered;
        self.base_number = base_number;
    }

    /// Drops all entries, keeping the buffers.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.pending.clear();
        self.sums = Sums::default();
    }

    /// True when there are no entries.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// The number that entries' numbers are relative to.
    pub fn base_number(&self) -> u64 {
        self.base_number
    }

    /// The first key, if there is one.
    pub fn first_key(&self) -> Option<&[u8]> {
        self.pending.first().map(|entry| self.key_of(entry))
    }

    /// The last key, if there is one.
    pub fn last_key(&self) -> Option<&[u8]> {
        self.pending.last().map(|entry| self.key_of(entry))
    }

    /// The key at `index`, which must be below `len`.
    pub fn key(&self, index: usize) -> &[u8] {
        self.key_of(&self.pending[index])
    }

    /// The value at `index`, which must be below `len`.
    pub fn value(&self, index: usize) -> &[u8] {
        let entry = &self.pending[index];
        let start = (entry.offset + entry.key_bytes) as usize;
        &self.buffer[start..start + entry.value_bytes as usize]
    }

    /// The value at `index`, to be changed in place before the block is finished.
    pub fn value_mut(&mut self, index: usize) -> &mut [u8] {
        let entry = &self.pending[index];
        let start = (entry.offset + entry.key_bytes) as usize;
        &mut self.buffer[start..start + entry.value_bytes as usize]
    }

    fn key_of(&self, entry: &Pending) -> &[u8] {
        let start = entry.offset as usize;
        &self.buffer[start..start + entry.key_bytes as usize]
    }

    /// Adds an entry. Its key must be above the last one, or equal with a lower number; `number` is
    /// 0 in a block without numbers; the value of a deletion is empty.
    pub fn push(&mut self, kind: EntryKind, key: &[u8], number: u64, value: &[u8]) {
        assert!(key.len() <= COMPOSITE_KEY_BYTES_MAX, "a key is longer than keys may be");
        assert!(self.pending.len() < BLOCK_ENTRIES_MAX, "a sorted block is full");
        assert!(kind != EntryKind::Delete || value.is_empty(), "a deletion has no value");
        assert!(
            if self.numbered { number >= self.base_number } else { number == 0 },
            "an entry's number is below the block's base number, or has no place"
        );
        let delta = if self.numbered { number - self.base_number } else { 0 };
        let prefix_bytes = self.extended_prefix(key, delta);
        let offset = self.buffer.len();
        let end = offset + key.len() + value.len();
        assert!(u32::try_from(end).is_ok(), "a sorted block exceeds 4 GiB");
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value);
        let entry = Pending {
            offset: offset as u32,
            key_bytes: key.len() as u32,
            value_bytes: value.len() as u32,
            kind,
            delta,
        };
        self.pending.push(entry);
        add_to_sums(&mut self.sums, &entry, self.numbered, prefix_bytes);
    }

    /// The length of the common prefix when `key` is added, which must lie behind the last entry.
    fn extended_prefix(&self, key: &[u8], delta: u64) -> usize {
        let Some(last) = self.pending.last() else {
            return key.len();
        };
        let last_key = self.key_of(last);
        let common = common_bytes(last_key, key);
        let order = last_key[common..].first().cmp(&key[common..].first());
        assert!(
            order.then(delta.cmp(&last.delta)).is_lt(),
            "entries of a sorted block must come in ascending order"
        );
        // Keys ascend, so what all share is the least that neighbours share.
        self.sums.prefix_bytes.min(common)
    }

    /// An upper bound of the bytes that `finish` would write, in O(1). It is exact when all keys
    /// have four bytes or more beyond the common prefix and suffixes are shorter than 128 bytes;
    /// otherwise at most five bytes an entry too high.
    pub fn estimated_bytes(&self) -> usize {
        if self.pending.is_empty() { 0 } else { self.block_bytes(self.len(), &self.sums) }
    }

    /// The same for the first `count` entries alone, in O(`count`). `count` must not exceed `len`.
    pub fn estimated_bytes_of_first(&self, count: usize) -> usize {
        if count == 0 { 0 } else { self.block_bytes(count, &self.sum(&self.pending[..count])) }
    }

    fn sum(&self, entries: &[Pending]) -> Sums {
        let mut sums = Sums::default();
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let prefix_bytes = common_bytes(self.key_of(first), self.key_of(last));
            for entry in entries {
                add_to_sums(&mut sums, entry, self.numbered, prefix_bytes);
            }
        }
        sums
    }

    fn block_bytes(&self, count: usize, sums: &Sums) -> usize {
        let suffix_bytes = sums.key_bytes - count * sums.prefix_bytes;
        let least = sums.key_bytes_least - sums.prefix_bytes;
        // A suffix shorter than its head leaves nothing in the heap; as many bytes as the shortest
        // lacks are allowed to each.
        let lacking = HEAD_BYTES.saturating_sub(least);
        let rests = (suffix_bytes + count * lacking).saturating_sub(count * HEAD_BYTES);
        let lengths = count * varint_bytes((sums.key_bytes_most - sums.prefix_bytes) as u64);
        let heap_bytes = sums.fixed_bytes + lengths + rests;
        let narrow =
            self.header_bytes() + count * (HEAD_BYTES + 2) + sums.prefix_bytes + heap_bytes;
        if narrow > NARROW_BYTES_MAX { narrow + count * 2 } else { narrow }
    }

    fn header_bytes(&self) -> usize {
        if self.numbered { 16 } else { 8 }
    }

    /// Appends the block of all entries to `out` and drops them. There must be at least one.
    pub fn finish(&mut self, out: &mut Vec<u8>) -> BlockInfo {
        self.finish_first(self.len(), out)
    }

    /// Appends the block of the first `count` entries to `out`, at least one and at most all, and
    /// keeps the others for the next block.
    pub fn finish_first(&mut self, count: usize, out: &mut Vec<u8>) -> BlockInfo {
        self.finish_first_behind(0, count, out)
    }

    /// Appends the block of the first `count` entries to `out`, at least one and at most all, and
    /// keeps all of them: the caller may find that the block does not fit, and try with fewer.
    pub fn write_first(&self, count: usize, out: &mut Vec<u8>) -> BlockInfo {
        assert!(count > 0 && count <= self.len(), "a sorted block has at least one entry");
        BlockInfo { wide: self.write_block(0, count, out), count }
    }

    /// Drops the first `count` entries, at most all.
    pub fn discard_first(&mut self, count: usize) {
        if count >= self.len() {
            self.clear();
        } else {
            self.drop_first(count);
        }
    }

    /// The same for a block that follows `lead_bytes` other bytes of its node's content, which
    /// count when slots are made wide.
    pub(super) fn finish_first_behind(
        &mut self,
        lead_bytes: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) -> BlockInfo {
        assert!(count > 0 && count <= self.len(), "a sorted block has at least one entry");
        let wide = self.write_block(lead_bytes, count, out);
        if count == self.len() {
            self.clear();
        } else {
            self.drop_first(count);
        }
        BlockInfo { wide, count }
    }

    fn write_block(&self, lead_bytes: usize, count: usize, out: &mut Vec<u8>) -> bool {
        let entries = &self.pending[..count];
        let first_key = self.key(0);
        let prefix = &first_key[..common_bytes(first_key, self.key(count - 1))];
        let start = out.len();
        out.extend_from_slice(&(count as u16).to_le_bytes());
        out.extend_from_slice(&(prefix.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        if self.numbered {
            out.extend_from_slice(&self.base_number.to_le_bytes());
        }
        for entry in entries {
            let (head, _) = cut_head(&self.key_of(entry)[prefix.len()..]);
            out.extend_from_slice(&head.to_le_bytes());
        }
        let slots_at = out.len();
        out.resize(slots_at + count * 2, 0);
        out.extend_from_slice(prefix);
        let heap_at = out.len();
        for (index, entry) in entries.iter().enumerate() {
            // Too large for two bytes only when the slots are written again as wide ones.
            let slot = (out.len() - heap_at) as u16;
            out[slots_at + index * 2..][..2].copy_from_slice(&slot.to_le_bytes());
            self.write_entry(entry, prefix.len(), out);
        }
        let heap_bytes = (out.len() - heap_at) as u32;
        out[start + 4..start + 8].copy_from_slice(&heap_bytes.to_le_bytes());
        let wide = lead_bytes + (out.len() - start) > NARROW_BYTES_MAX;
        if wide {
            self.widen_slots(entries, prefix.len(), slots_at, out);
        }
        wide
    }

    fn write_entry(&self, entry: &Pending, prefix_bytes: usize, out: &mut Vec<u8>) {
        let suffix_bytes = entry.key_bytes as usize - prefix_bytes;
        out.push(entry.kind as u8);
        put_varint(out, suffix_bytes as u64);
        if self.numbered {
            put_varint(out, entry.delta);
        }
        if entry.kind != EntryKind::Delete {
            put_varint(out, u64::from(entry.value_bytes));
        }
        // The rest of the key and the value lie side by side in the buffer.
        let value_at = (entry.offset + entry.key_bytes) as usize;
        let rest_at = value_at - suffix_bytes.saturating_sub(HEAD_BYTES);
        out.extend_from_slice(&self.buffer[rest_at..value_at + entry.value_bytes as usize]);
    }

    fn widen_slots(
        &self,
        entries: &[Pending],
        prefix_bytes: usize,
        slots_at: usize,
        out: &mut Vec<u8>,
    ) {
        let narrow_end = slots_at + entries.len() * 2;
        let old_len = out.len();
        out.resize(old_len + entries.len() * 2, 0);
        out.copy_within(narrow_end..old_len, slots_at + entries.len() * 4);
        let mut slot = 0_u32;
        for (index, entry) in entries.iter().enumerate() {
            out[slots_at + index * 4..][..4].copy_from_slice(&slot.to_le_bytes());
            let suffix_bytes = entry.key_bytes as usize - prefix_bytes;
            let bytes = fixed_bytes(entry, self.numbered)
                + varint_bytes(suffix_bytes as u64)
                + suffix_bytes.saturating_sub(HEAD_BYTES);
            slot += bytes as u32;
        }
    }

    fn drop_first(&mut self, count: usize) {
        let cut = self.pending[count].offset;
        self.buffer.drain(..cut as usize);
        self.pending.drain(..count);
        for entry in &mut self.pending {
            entry.offset -= cut;
        }
        self.sums = self.sum(&self.pending);
    }
}

/// The bytes of an entry in the heap that do not depend on the prefix.
fn fixed_bytes(entry: &Pending, numbered: bool) -> usize {
    let number = if numbered { varint_bytes(entry.delta) } else { 0 };
    let value = match entry.kind {
        EntryKind::Delete => 0,
        _ => varint_bytes(u64::from(entry.value_bytes)) + entry.value_bytes as usize,
    };
    1 + number + value
}

/// Adds an entry to the sums; `prefix_bytes` is what it shares with all before it.
fn add_to_sums(sums: &mut Sums, entry: &Pending, numbered: bool, prefix_bytes: usize) {
    let key_bytes = entry.key_bytes as usize;
    // Kinds count as fixed bytes, so that there are none before the first entry only.
    let least = if sums.fixed_bytes == 0 { key_bytes } else { sums.key_bytes_least };
    sums.prefix_bytes = prefix_bytes;
    sums.key_bytes += key_bytes;
    sums.key_bytes_least = least.min(key_bytes);
    sums.key_bytes_most = sums.key_bytes_most.max(key_bytes);
    sums.fixed_bytes += fixed_bytes(entry, numbered);
}

/// The number of bytes at the start that `a` and `b` share.
pub(super) fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let (chunks_a, _) = a.as_chunks::<8>();
    let (chunks_b, _) = b.as_chunks::<8>();
    let equal_chunks = chunks_a.iter().zip(chunks_b).take_while(|(x, y)| x == y).count();
    let start = equal_chunks * 8;
    start + a[start..].iter().zip(&b[start..]).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests;
