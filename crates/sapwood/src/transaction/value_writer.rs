//! A value that is written as it comes, long before the commit that puts it.
//!
//! *Guarantees*: V1: between two calls its blocks stand among those of pending transactions
//! (`state/pending_blocks`), so that a check of the file finds their owner; during a call they
//! count as work under way. V2: a value that is not committed gives its blocks back when it is
//! dropped, also while a panic unwinds; a close does that for it.
//! *Threads*: one owner.

use crate::error::Result;
use crate::merge::step::{begin_writing, make_durable_when_due_and_room};
use crate::merge::throttle::admit;
use crate::page::Block;
use crate::segment::overflow_reference::OverflowReference;
use crate::segment::overflow_writer::OverflowWriter;
use crate::state::Core;
use crate::state::pending_blocks::BlocksName;
use crate::state::reserve::{Brings, kept_by_data};
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// Blocks of values that are given back with it.
#[derive(Debug)]
pub(super) struct Owned {
    core: Arc<Core>,
    name: BlocksName,
}

impl Owned {
    /// Owns these blocks of values.
    pub(super) fn new(core: &Arc<Core>, blocks: Vec<Block>) -> Owned {
        Owned { core: core.clone(), name: core.pending.add(Vec::new(), blocks) }
    }

    /// Its blocks are these from now on.
    pub(super) fn set(&self, blocks: &[Block]) {
        self.core.pending.set_values(self.name, blocks);
    }

    /// Somebody else owns the blocks now.
    pub(super) fn release(self) {
        self.core.pending.take(self.name);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // After a close, or when somebody else owns them by now, there are none.
        for block in self.core.pending.take(self.name).iter() {
            self.core.free(block);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ValueWriter {
    writer: Option<OverflowWriter>,
    owned: Owned,
}

impl Drop for ValueWriter {
    fn drop(&mut self) {
        // They are given back by their name.
        self.writer.take().map(OverflowWriter::into_blocks);
    }
}

impl ValueWriter {
    /// Begins a value of a keyspace.
    ///
    /// # Errors
    /// When nothing may be written.
    pub fn begin(core: &Arc<Core>, keyspace: KeyspaceNumber) -> Result<ValueWriter> {
        core.check_writable()?;
        begin_writing(core)?;
        let codec = core.catalogue.load().settings(keyspace).value_codec;
        make_durable_when_due_and_room(core)?;
        admit(core, Brings::Data, 0)?;
        let writer = Some(OverflowWriter::new(&core.pages, keyspace, codec));
        Ok(ValueWriter { writer, owned: Owned::new(core, Vec::new()) })
    }

    /// The length of what was pushed, in bytes.
    pub fn length(&self) -> u64 {
        self.writer.as_ref().map_or(0, OverflowWriter::len)
    }

    /// Adds bytes to the value's end. The database is open.
    ///
    /// # Errors
    /// When no pages can be had, or a write fails; then nothing more can be done with it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let core = &self.owned.core;
        core.check_writable()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        // What is owed changes while the value comes.
        writer.leave_free(kept_by_data(core));
        let _running = core.background.begin_running();
        let pushed = writer.push(bytes);
        self.owned.set(writer.blocks());
        pushed
    }

    /// Ends the value, which has at least one byte. The database is open.
    ///
    /// # Errors
    /// As [`ValueWriter::push`].
    pub fn finish(mut self) -> Result<WrittenValue> {
        let Owned { core, name } = &self.owned;
        let core = core.clone();
        let _running = core.background.begin_running();
        // Until the end the writer owns them.
        core.pending.take(*name);
        let reference = self.writer.take().map(OverflowWriter::finish).transpose()?;
        let reference = reference.unwrap_or_default();
        let owned = Owned::new(&core, reference.blocks.clone());
        Ok(WrittenValue { reference, owned })
    }
}

/// A value that was written whole. Dropped, it gives its blocks back.
#[derive(Debug)]
pub struct WrittenValue {
    reference: OverflowReference,
    owned: Owned,
}

impl WrittenValue {
    /// As if a value had been written into these blocks.
    #[cfg(test)]
    pub(super) fn in_blocks(core: &Arc<Core>, blocks: Vec<Block>) -> WrittenValue {
        let owned = Owned::new(core, blocks.clone());
        let reference = OverflowReference { length: 1, blocks, ..OverflowReference::default() };
        WrittenValue { reference, owned }
    }

    /// Where it lies.
    pub fn reference(&self) -> &OverflowReference {
        &self.reference
    }

    /// Where it lies; its blocks are the caller's now.
    pub fn into_reference(self) -> OverflowReference {
        self.owned.release();
        self.reference
    }

    /// Where it lies, and what owns its blocks.
    pub(super) fn into_parts(self) -> (OverflowReference, Owned) {
        (self.reference, self.owned)
    }
}
