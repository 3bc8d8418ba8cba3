//! A stream of bytes over the usable parts of a block's pages.
//!
//! *Assumes*: blocks come from a state, so they may be wrong: offsets are computed with checks.
//! *Guarantees*: one write per call, whatever is reserved; reserved bytes between two written ones
//! are written as zeros. *Format*: section 1, "stream over pages". *Threads*: any.

use std::io;

use crate::error::{Corruption, Error, Result, Structure};
use crate::page::Block;
use crate::storage::{Storage, SyncGate};
use crate::sync::Arc;
use crate::types::PageNumber;

/// How much is written in one call when blocks are prepared, in bytes.
const PREPARE_CALL_BYTES: usize = 256 * 1024;

/// The file as blocks of pages, of which each gives only its usable bytes.
#[derive(Clone, Debug)]
pub struct BlockStream {
    storage: Arc<dyn Storage>,
    page_bytes: u64,
    usable_bytes: u64,
    /// What syncs go through.
    sync_gate: Option<Arc<SyncGate>>,
}

impl BlockStream {
    /// A stream over pages of `page_bytes`, of which the first `usable_bytes` are used.
    pub fn new(storage: Arc<dyn Storage>, page_bytes: u32, usable_bytes: u32) -> BlockStream {
        assert!(usable_bytes > 0 && usable_bytes <= page_bytes, "usable part of a page");
        assert!(usable_bytes.is_multiple_of(8), "records are aligned to 8 bytes");
        let (page_bytes, usable_bytes) = (u64::from(page_bytes), u64::from(usable_bytes));
        BlockStream { storage, page_bytes, usable_bytes, sync_gate: None }
    }

    /// The same, with syncs that go through `sync_gate`.
    pub fn through(self, sync_gate: &Arc<SyncGate>) -> BlockStream {
        BlockStream { sync_gate: Some(sync_gate.clone()), ..self }
    }

    /// Waits for the syncs of others that have begun by now: what a synced write has said holds
    /// then.
    ///
    /// # Errors
    /// When one has failed, of these or before.
    pub fn settle(&self) -> Result<()> {
        let settled = self.sync_gate.as_ref().map_or(Ok(()), |gate| gate.settle());
        settled.map_err(|cause| Error::io("syncing the log", self.storage.name(), cause))
    }

    /// The file.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The usable bytes of a page.
    pub fn usable_bytes(&self) -> u64 {
        self.usable_bytes
    }

    /// The page of `block` in which the stream's `offset` lies.
    pub fn page_at(&self, block: Block, offset: u64) -> PageNumber {
        PageNumber(block.first.0.saturating_add(offset / self.usable_bytes))
    }

    /// Fills `buffer` from the stream over `block`, from `offset` on.
    pub fn read(&self, block: Block, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = self.file_offset(block, offset, buffer.len())?;
        if self.usable_bytes == self.page_bytes {
            return self.read_file(block, start, buffer);
        }
        let mut raw = vec![0; self.raw_bytes(offset, buffer.len())];
        self.read_file(block, start, &mut raw)?;
        let (mut source, mut target, mut offset) = (&raw[..], buffer, offset);
        while !target.is_empty() {
            let count = self.in_page(offset, target.len());
            let (Some((from, after)), Some((to, rest))) =
                (source.split_at_checked(count), target.split_at_mut_checked(count))
            else {
                return Err(outside(block));
            };
            to.copy_from_slice(from);
            source = after.get(self.reserved()..).unwrap_or_default();
            target = rest;
            offset += count as u64;
        }
        Ok(())
    }

    /// Writes `bytes` to the stream over `block`, from `offset` on.
    pub fn write(&self, block: Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(block, offset, bytes, "writing", |at, raw| self.storage.write_at(at, raw))
    }

    /// The same, and on disk when it returns, if [`BlockStream::settle`] then says so too.
    pub fn write_sync(&self, block: Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.put(block, offset, bytes, "writing and syncing", |at, raw| match &self.sync_gate {
            Some(gate) => gate.run_unsettled(|| self.storage.write_sync_at(at, raw)),
            None => self.storage.write_sync_at(at, raw),
        })
    }

    /// Puts everything that was written so far on disk.
    pub fn sync_data(&self) -> Result<()> {
        let synced = match &self.sync_gate {
            Some(gate) => gate.run(|| self.storage.sync_data()),
            None => self.storage.sync_data(),
        };
        synced.map_err(|cause| Error::io("syncing the data", self.storage.name(), cause))
    }

    fn put(
        &self,
        block: Block,
        offset: u64,
        bytes: &[u8],
        verb: &str,
        write: impl Fn(u64, &[u8]) -> io::Result<()>,
    ) -> Result<()> {
        let start = self.file_offset(block, offset, bytes.len())?;
        let outcome = if self.usable_bytes == self.page_bytes {
            write(start, bytes)
        } else {
            write(start, &self.spread(offset, bytes))
        };
        outcome.map_err(|cause| {
            let operation = format!("{verb} {} bytes of the log at offset {start}", bytes.len());
            Error::io(operation, self.storage.name(), cause)
        })
    }

    /// `bytes` as they lie in the file, with zeros where pages have reserved bytes.
    fn spread(&self, mut offset: u64, mut bytes: &[u8]) -> Vec<u8> {
        let mut raw = Vec::with_capacity(self.raw_bytes(offset, bytes.len()));
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(self.in_page(offset, bytes.len()));
            raw.extend_from_slice(part);
            offset += part.len() as u64;
            bytes = rest;
            if !bytes.is_empty() {
                raw.resize(raw.len() + self.reserved(), 0);
            }
        }
        raw
    }

    fn reserved(&self) -> usize {
        (self.page_bytes - self.usable_bytes) as usize
    }

    /// How many of `count` bytes from `offset` on lie in the same page.
    fn in_page(&self, offset: u64, count: usize) -> usize {
        count.min((self.usable_bytes - offset % self.usable_bytes) as usize)
    }

    /// The bytes of file that `count` bytes of stream from `offset` on stretch over.
    fn raw_bytes(&self, offset: u64, count: usize) -> usize {
        let borders =
            (offset % self.usable_bytes + (count as u64).saturating_sub(1)) / self.usable_bytes;
        count + borders as usize * self.reserved()
    }

    /// Where `offset` lies in the file, once it is sure that `count` bytes from there on do too.
    fn file_offset(&self, block: Block, offset: u64, count: usize) -> Result<u64> {
        let inside = offset
            .checked_add(count as u64)
            .is_some_and(|end| end <= u64::from(block.pages) * self.usable_bytes);
        // The end of the block must be an offset, too.
        let end = block.first.0.checked_add(u64::from(block.pages));
        if !inside || end.and_then(|end| end.checked_mul(self.page_bytes)).is_none() {
            return Err(outside(block));
        }
        let page = block.first.0 + offset / self.usable_bytes;
        Ok(page * self.page_bytes + offset % self.usable_bytes)
    }

    fn read_file(&self, block: Block, start: u64, buffer: &mut [u8]) -> Result<()> {
        self.storage.read_at(start, buffer).map_err(|cause| {
            if cause.kind() == io::ErrorKind::UnexpectedEof {
                let detail = format!("the file ends inside its block of {} pages", block.pages);
                return Corruption::new(Structure::Log, detail).at_page(block.first).into();
            }
            let operation = format!("reading {} bytes of the log at offset {start}", buffer.len());
            Error::io(operation, self.storage.name(), cause)
        })
    }
}

fn outside(block: Block) -> Error {
    let detail = format!("it reaches outside its block of {} pages", block.pages);
    Corruption::new(Structure::Log, detail).at_page(block.first).into()
}

/// Fills blocks with zeros, as must be done before a list names them: a synced write into written
/// blocks moves no other data and no metadata. They are on disk with the next data sync.
pub fn prepare_blocks(stream: &BlockStream, blocks: &[Block]) -> Result<()> {
    let zeros = vec![0; PREPARE_CALL_BYTES];
    for &block in blocks {
        let mut offset = stream.file_offset(block, 0, 0)?;
        let mut left = u64::from(block.pages) * stream.page_bytes;
        while left > 0 {
            let count = left.min(zeros.len() as u64);
            let part = zeros.get(..count as usize).unwrap_or(&zeros);
            stream.storage.write_at(offset, part).map_err(|cause| {
                let operation = format!("preparing {count} bytes of log at offset {offset}");
                Error::io(operation, stream.storage.name(), cause)
            })?;
            offset += count;
            left -= count;
        }
    }
    Ok(())
}
