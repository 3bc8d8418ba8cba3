//! What the records of the log behind the cut make: memtables, blocks that the log names, the
//! catalogue.
//!
//! *Assumes*: records come in order, each checked against its checksum. *Guarantees*: nothing is
//! written. *Threads*: one, before anything else runs.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::apply::{self, Target};
use super::by_reference;
use super::catalogue::{Catalogue, CatalogueChange};
use super::log_named::LogNamed;
use super::manifest::Manifest;
use super::pending_blocks::PendingBlocks;
use super::replay_buffer::ReplayBuffer;
use super::state::{Contents, Cut};
use super::view::{ByReference, MemtableSlot};
use crate::error::{Corruption, Error, Result, Structure};
use crate::log::operation::operations;
use crate::log::reader::Visit;
use crate::log::record::{Record, RecordKind};
use crate::memtable::{ChunkPool, Memtable, Operation};
use crate::options::Options;
use crate::page::{Block, BlockList, PageManager};
use crate::segment::leaf_waste::LeafWaste;
use crate::segment::overflow::verify_value;
use crate::storage::Storage;
use crate::sync::Arc;
use crate::types::{Epoch, KeyspaceNumber, LogPosition};

/// The parts of the memory budget that replay may take when nothing can be flushed (O3).
const REPLAY_BUDGET_PARTS: (u64, u64) = (3, 4);

/// What replay has taken of the memory budget.
struct ReplayMemory {
    /// What memtables may take together; no limit where they can be flushed.
    bytes_max: u64,
    /// What those before the active one take.
    sealed_bytes: u64,
    /// More is needed: replay goes on only to learn how much.
    only_counts: bool,
}

impl ReplayMemory {
    fn new(options: &Options) -> ReplayMemory {
        let (some, all) = REPLAY_BUDGET_PARTS;
        let bytes_max = match options.read_only {
            true => options.memory_budget / all * some,
            false => u64::MAX,
        };
        ReplayMemory { bytes_max, sealed_bytes: 0, only_counts: false }
    }

    /// The budget of which `bytes` are what replay may take, in whole MiB.
    fn budget_for(bytes: u64) -> u64 {
        let (some, all) = REPLAY_BUDGET_PARTS;
        (bytes.div_ceil(some).saturating_mul(all)).next_multiple_of(1 << 20)
    }
}

/// What replay has built so far.
pub(super) struct Replayed<'a> {
    pages: &'a Arc<PageManager>,
    pool: &'a Arc<ChunkPool>,
    contents: &'a Contents,
    waste: LeafWaste,
    /// The state that was opened.
    since: Epoch,
    /// A memtable is sealed when it has grown to this.
    bytes_max: usize,
    memory: ReplayMemory,
    /// What the newest memtable lacks still.
    buffer: ReplayBuffer,
    pub catalogue: Catalogue,
    /// Oldest first; the last one is active.
    pub slots: Vec<Arc<MemtableSlot>>,
    pub log_named: LogNamed,
    pub pending: Arc<PendingBlocks>,
    /// Behind the last commit.
    pub last: Cut,
    /// Up to where the log is known to be on disk.
    durable: LogPosition,
    /// The highest number that a keyspace was given.
    pub keyspace_most: KeyspaceNumber,
    /// The names of the living keyspaces.
    names: BTreeSet<String>,
    /// The numbers of segments, and what they must lie below.
    segments: BTreeSet<u64>,
    segment_limit: u64,
}

/// A page that a commit names twice would be read for each time.
fn check_apart(blocks: &[Block]) -> Result<()> {
    let mut met = BlockList::new();
    for block in blocks {
        if met.intersects(*block) {
            let detail = format!("a record names some of {} pages twice", block.pages);
            return Err(Corruption::new(Structure::Log, detail).at_page(block.first).into());
        }
        met.insert_any(*block);
    }
    Ok(())
}

impl<'a> Replayed<'a> {
    /// Nothing was replayed yet.
    pub fn new(
        pages: &'a Arc<PageManager>,
        pool: &'a Arc<ChunkPool>,
        options: &Options,
        manifest: &'a Manifest,
    ) -> Replayed<'a> {
        let memory = ReplayMemory::new(options);
        // What is never flushed lies in one memtable best: each further one costs chunks.
        let budget = options.memory_budget;
        let bytes_max = if options.read_only { memory.bytes_max } else { budget / 4 };
        let (cut, since) = (manifest.contents.cut, manifest.contents.epoch);
        let (live, all) = (
            manifest.contents.catalogue.live(),
            manifest.contents.catalogue.iter().map(|(n, _)| n),
        );
        Replayed {
            contents: &manifest.contents,
            waste: LeafWaste::new(pages.layout(), options.leaf_pages_bytes() as usize),
            since,
            pages,
            pool,
            bytes_max: bytes_max as usize,
            memory,
            buffer: ReplayBuffer::new(budget),
            slots: vec![MemtableSlot::new(Memtable::new(pool.clone()), cut, since)],
            log_named: LogNamed::new(pages.budget()),
            pending: Arc::new(PendingBlocks::new(pages.budget())),
            last: cut,
            durable: manifest.log.durable,
            keyspace_most: all.last().unwrap_or(KeyspaceNumber(0)),
            names: live.iter().map(|(_, entry)| entry.name.clone()).collect(),
            catalogue: live,
            segments: manifest.contents.segments().map(|segment| segment.number).collect(),
            segment_limit: manifest.counters.segment_limit,
        }
    }

    /// Makes a change of the catalogue, which must leave each number and each name to one keyspace.
    fn change_catalogue(&mut self, slot: &MemtableSlot, change: &CatalogueChange) -> Result<()> {
        let (number, name) = match change {
            CatalogueChange::Create(number, name, _) => (*number, Some(name)),
            CatalogueChange::Drop(number) => (*number, None),
            CatalogueChange::Rename(number, name) => (*number, Some(name)),
        };
        let is_new = matches!(change, CatalogueChange::Create(..));
        let is_numbered = !is_new || number > self.keyspace_most;
        let old = self.catalogue.get(number).map(|entry| &entry.name);
        let is_known = old.is_some_and(|old| self.names.remove(old));
        // What is not there any more is not renamed.
        let is_named =
            name.is_none_or(|name| !is_new && !is_known || self.names.insert(name.clone()));
        if !is_numbered || !is_named {
            let detail = format!("a record gives keyspace {number} the number or name of another");
            return Err(Corruption::new(Structure::Log, detail).into());
        }
        if is_new {
            self.keyspace_most = number;
        }
        apply::note(slot, &mut self.catalogue, std::slice::from_ref(change));
        Ok(())
    }

    /// Takes up one record.
    ///
    /// # Errors
    /// When it cannot be decoded, or what it names not be read.
    pub fn visit(&mut self, record: &Record<'_>) -> Result<Visit> {
        self.durable = self.durable.max(record.durable);
        match record.kind {
            RecordKind::Commit => self.commit(record),
            RecordKind::CommitByReference => self.commit_by_reference(record),
            RecordKind::StateDurable | RecordKind::Padding | RecordKind::Opened => {
                Ok(Visit::Continue)
            }
        }
    }

    fn commit(&mut self, record: &Record<'_>) -> Result<Visit> {
        let applied = apply::inspect(operations(record.payload)?)?;
        let named = applied.named_blocks();
        // What was on disk before its record need not be read; the rest may have been lost with the
        // power.
        if !record.blocks_on_disk && record.end > self.durable {
            check_apart(&named)?;
            for (keyspace, reference) in &applied.named {
                // What cannot be read at all may be whole: only damage ends the log.
                match verify_value(self.pages, *keyspace, reference) {
                    Err(Error::Corruption(_)) => return Ok(Visit::EndsLog),
                    checked => checked?,
                }
            }
        }
        for block in &named {
            self.pages.allocator().claim(*block)?;
        }
        self.log_named.add(record.end, &named);
        if !record.blocks_on_disk {
            self.log_named.add_uncertain(record.end, &named);
        }
        let slot = match self.slots.last() {
            Some(slot) if slot.table.bytes() + self.buffer.bytes() < self.bytes_max => slot.clone(),
            _ => self.seal(),
        };
        let buffer = &mut self.buffer;
        let mut insert = |keyspace: KeyspaceNumber, key: &[u8], operation: Operation<'_>| {
            buffer.add(&slot.table, keyspace, key, record.sequence, operation);
        };
        let operations = operations(record.payload)?;
        let target = Target { slot: &slot, contents: self.contents, waste: &self.waste };
        apply::insert(target, record.sequence, operations, &mut insert)?;
        for change in &applied.changes {
            self.change_catalogue(&slot, change)?;
        }
        self.last = Cut { sequence: record.sequence, position: record.end, chain: record.crc };
        let bytes = slot.table.bytes() + self.buffer.bytes();
        if self.memory.sealed_bytes + bytes as u64 > self.memory.bytes_max {
            self.memory.only_counts = true;
        }
        Ok(Visit::Continue)
    }

    /// Brings the newest memtable up to the last record: before it is sealed, and at the end.
    pub fn insert_buffered(&mut self) {
        if let Some(slot) = self.slots.last() {
            self.buffer.insert_all(&slot.table);
        }
    }

    /// # Errors
    /// When what was replayed takes more memory than it may.
    pub fn check_memory(&self, storage: &dyn Storage) -> Result<()> {
        if !self.memory.only_counts {
            return Ok(());
        }
        let active = self.slots.last().map_or(0, |slot| slot.table.bytes() as u64);
        let bytes = self.memory.sealed_bytes + active;
        let detail = format!(
            "the log of {} takes {bytes} bytes of memory when it is replayed, and a read-only open \
             keeps all of them there; set it to {} at least, or open the file once for writing",
            storage.name(),
            ReplayMemory::budget_for(bytes)
        );
        Err(Error::InvalidOption { option: "memory_budget", detail })
    }

    /// Adopts what a transaction wrote beforehand, in its place between the memtables (P9).
    fn commit_by_reference(&mut self, record: &Record<'_>) -> Result<Visit> {
        let file_pages = self.pages.allocator().file_pages();
        let segments = by_reference::decode(record, file_pages)?;
        for segment in &segments {
            let number = segment.number;
            if number >= self.segment_limit || !self.segments.insert(number) {
                let detail =
                    format!("a commit by reference names segment {number}, which is not new");
                return Err(Corruption::new(Structure::Log, detail).into());
            }
        }
        let blocks = self.pending.add(by_reference::claim(self.pages, &segments)?, Vec::new());
        self.insert_buffered();
        match self.slots.last() {
            Some(last) if last.is_empty() => drop(self.slots.pop()),
            Some(last) => {
                // Never set before, as in `seal`.
                let _ = last.cut.set(self.last);
                self.memory.sealed_bytes += last.table.bytes() as u64;
            }
            None => {}
        }
        self.last = Cut { sequence: record.sequence, position: record.end, chain: record.crc };
        let segments = segments.into_iter().map(Arc::new).collect();
        let commit = ByReference { number: record.sequence, segments, blocks };
        let table = || Memtable::new(self.pool.clone());
        self.slots.push(MemtableSlot::of_commit(table(), commit, self.last, self.since));
        self.slots.push(MemtableSlot::new(table(), self.last, self.since));
        Ok(Visit::Continue)
    }

    fn seal(&mut self) -> Arc<MemtableSlot> {
        self.insert_buffered();
        if let Some(full) = self.slots.last() {
            // Never set before: only here, once for each.
            let _ = full.cut.set(self.last);
            self.memory.sealed_bytes += full.table.bytes() as u64;
        }
        if self.memory.only_counts {
            self.slots.clear();
        }
        let slot = MemtableSlot::new(Memtable::new(self.pool.clone()), self.last, self.since);
        self.slots.push(slot.clone());
        slot
    }
}
