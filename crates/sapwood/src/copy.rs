//! Writes a clean new file with what one instant shows.
//!
//! *Guarantees*: the file has its name only when it is complete and on disk; what fails or is
//! cancelled leaves none. Values are copied piece by piece, so that memory does not grow with them.
//! The source is only read: it works beside writers, and for a database that has stopped writing.
//! *Threads*: one owner; the source's calls may come from anywhere meanwhile.

use std::path::Path;

use crate::error::{Error, Result};
use crate::merge::build::LevelBuilder;
use crate::merge::{pack, step};
use crate::options::{Durability, Options};
use crate::page::budget::MAPS_PART;
use crate::page::{Charge, MemoryBudget, MemoryPart, budget_for_maps};
use crate::progress::Progress;
use crate::scan::{Ahead, Entry, From, Limits, Scan, Walker};
use crate::segment::overflow::OverflowReader;
use crate::segment::overflow_reference::OverflowReference;
use crate::shared::Shared;
use crate::state::catalogue::{Catalogue, KeyspaceEntry};
use crate::state::keyspaces_fit::{memory_bytes, memory_bytes_max};
use crate::state::{Core, SnapshotHold, create};
use crate::storage::NewFile;
use crate::sync::Arc;
use crate::transaction::commit::create_keyspace;
use crate::types::KeyspaceNumber;

/// The new file's share of the source's memory budget, and the least that it takes.
const BUDGET_PARTS: u64 = 16;
const BUDGET_BYTES_MIN: u64 = 4 << 20;
/// Entries that a scan fetches at once.
const BATCH_ENTRIES: usize = 64;
/// Progress is reported after about so many bytes.
const REPORT_BYTES: u64 = 64 << 10;

/// Copies what is visible now to a new file at `path`.
///
/// # Errors
/// `AlreadyExists`, `Cancelled`, `Closed`; or what reading or writing failed with.
pub(crate) fn copy_to(
    shared: &Arc<Shared>,
    path: &Path,
    progress: &mut dyn Progress,
) -> Result<()> {
    shared.check_open()?;
    let (file, storage) = NewFile::begin(path)?;
    let (hold, catalogue) = shared.read(instant)?;
    let target = shared.read(|core| {
        create::create(Arc::new(storage), target_options(&core.options), core.clock.clone())
    })?;
    let _taken = shared.read(|core| Ok(charge_target(core, &catalogue)))?;
    let total = shared.read(|core| Ok(bytes_of(core, &hold)))?;
    let mut copy =
        Copy { shared, hold: Arc::new(hold), target, progress, total, reported: 0, values: 0 };
    copy.report(true)?;
    for (number, new) in copy.make_keyspaces(&catalogue)? {
        copy.keyspace(number, new)?;
    }
    let Copy { target, progress, total, .. } = copy;
    pack::note_full(&target);
    step::close(&target)?;
    drop(target);
    if !progress.report(total, total) {
        return Err(Error::Cancelled);
    }
    file.finish()
}

/// The source's cache gives way to what the copy takes: its budget, and beside that its maps, those
/// of its states, and what is known of keyspaces.
fn charge_target(core: &Core, catalogue: &Catalogue) -> [Charge; 3] {
    let file_pages = core.pages.allocator().file_pages();
    let maps_bytes = budget_for_maps(core.pages.layout(), file_pages) / MAPS_PART;
    // Of a small budget it takes more than that; but it is seldom full.
    let own = target_options(&core.options).memory_budget;
    let charge = |part, bytes| core.pages.budget().charge(part, bytes);
    [
        charge(MemoryPart::MergeBuffers, own.min(core.options.memory_budget / 4)),
        charge(MemoryPart::FreeMaps, maps_bytes / 2 * 3),
        charge(MemoryPart::Other, memory_bytes(catalogue)),
    ]
}

fn target_options(source: &Options) -> Options {
    Options {
        memory_budget: (source.memory_budget / BUDGET_PARTS).max(BUDGET_BYTES_MIN),
        log_bytes_min: source.log_bytes_min.min(BUDGET_BYTES_MIN / 4),
        step_bytes: source.step_bytes.min(BUDGET_BYTES_MIN),
        durability: Durability::Memory,
        merge_threads: 0,
        // It may become as long as its source.
        maps_bytes: Some(MemoryBudget::of(source).maps_bytes_max()),
        keyspaces_bytes: Some(memory_bytes_max(source)),
        max_file_bytes: None,
        read_only: false,
        memory_map: false,
        ..source.clone()
    }
}

/// A snapshot, and the keyspaces that there were at its instant.
fn instant(core: &Arc<Core>) -> Result<(SnapshotHold, Arc<Catalogue>)> {
    loop {
        if core.has_stopped() {
            return Ok((SnapshotHold::take(core), core.visible_catalogue()));
        }
        let order = core.commit_order.lock();
        let catalogue = core.catalogue.load_full();
        let last = core.commit_numbers().0;
        drop(order);
        // Its newest change is visible, as all before the number that comes next.
        match core.publisher.wait_for(crate::types::SequenceNumber(last.0 - 1)) {
            Ok(()) => {}
            Err(Error::Stopped(_)) => continue,
            Err(error) => return Err(error),
        }
        let hold = SnapshotHold::take(core);
        let _order = core.commit_order.lock();
        if Arc::ptr_eq(&catalogue, &core.catalogue.load_full()) {
            return Ok((hold, catalogue));
        }
    }
}

/// About what a snapshot takes in a file.
fn bytes_of(core: &Core, hold: &SnapshotHold) -> u64 {
    let point = hold.read_point(core);
    let levels = point.state.levels.values().flat_map(|levels| levels.iter());
    let segments = point.state.young.iter().chain(levels).map(|segment| segment.pages());
    let pages = segments.fold(0, u64::saturating_add);
    let memory: usize = point.memtables.iter().map(|slot| slot.table.bytes()).sum();
    let page_bytes = u64::from(core.pages.layout().page_size);
    pages.saturating_mul(page_bytes).saturating_add(memory as u64)
}

struct Copy<'a> {
    shared: &'a Arc<Shared>,
    hold: Arc<SnapshotHold>,
    target: Arc<Core>,
    progress: &'a mut dyn Progress,
    /// About what will be written, in bytes.
    total: u64,
    /// What was written at the last report.
    reported: u64,
    /// Bytes of values since the last look at what was written.
    values: u64,
}

impl Copy<'_> {
    /// Says how far it has come, when that has changed enough.
    fn report(&mut self, always: bool) -> Result<()> {
        self.values = 0;
        let written = self.target.pages.counters().bytes_written();
        if !always && written < self.reported + REPORT_BYTES {
            return Ok(());
        }
        self.reported = written;
        // The end is reported when the file is complete.
        let done = written.min(self.total.saturating_sub(1));
        match self.progress.report(done, self.total) {
            true => Ok(()),
            false => Err(Error::Cancelled),
        }
    }

    /// Makes the keyspaces; each with its number here and there.
    fn make_keyspaces(
        &self,
        catalogue: &Catalogue,
    ) -> Result<Vec<(KeyspaceNumber, KeyspaceNumber)>> {
        let live = catalogue.iter().filter(|(_, entry)| !entry.dropped);
        let made = live.map(|(number, KeyspaceEntry { name, settings, .. })| {
            let durability = Durability::Memory;
            let new = create_keyspace(&self.target, name, *settings, durability)?;
            Ok((number, new))
        });
        let made = made.collect::<Result<Vec<_>>>()?;
        // A state must know them before it has segments of theirs.
        step::flush(&self.target)?;
        Ok(made)
    }

    fn keyspace(&mut self, number: KeyspaceNumber, new: KeyspaceNumber) -> Result<()> {
        let mut builder = LevelBuilder::new(&self.target, new);
        let (shared, hold) = (self.shared.clone(), self.hold.clone());
        let (own, reads, keys_only) = (Vec::new(), None, false);
        let scan = Scan { shared, keyspace: number, hold, own, reads, keys_only };
        let mut walker = Walker::new(scan).by_runs();
        walker.begin(From::At(&[]), BATCH_ENTRIES, Limits::NONE)?;
        loop {
            while let Some(Entry { key, value }) = walker.pop().transpose()? {
                match value {
                    Ahead::Value(value) => builder.push(&key, &value)?,
                    Ahead::Overflow(reference) => {
                        self.value(number, &reference, &key, &mut builder)?;
                    }
                }
            }
            self.report(false)?;
            step::make_durable_when_due(&self.target)?;
            if walker.exhausted {
                return builder.finish();
            }
            walker.go_on(Limits::NONE)?;
        }
    }

    fn value(
        &mut self,
        keyspace: KeyspaceNumber,
        reference: &OverflowReference,
        key: &[u8],
        builder: &mut LevelBuilder,
    ) -> Result<()> {
        let shared = self.shared;
        let pages = shared.read(|core| Ok(core.pages.clone()))?;
        let reader = OverflowReader::open(&*pages, keyspace, reference);
        let reader = reader.or_else(|error| shared.fail(error))?;
        let mut writer = builder.value_writer().expect_pages(reference.pages());
        for chunk_index in 0..reader.chunk_count() {
            shared.check_open()?;
            let chunk = reader.read_chunk(chunk_index).or_else(|error| shared.fail(error))?;
            writer.push(&chunk)?;
            self.values += chunk.len() as u64;
            if self.values >= REPORT_BYTES {
                self.report(false)?;
                step::make_durable_when_due(&self.target)?;
            }
        }
        builder.push_reference(key, writer.finish()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sixteenth of the budget would be enough for maps of a sixteenth of the file.
    #[test]
    fn a_copy_may_be_as_long_as_its_source() {
        for memory_budget in [4 << 20, 64 << 20, 1 << 30] {
            let source = Options { memory_budget, ..Options::default() };
            let target = target_options(&source);
            assert!(target.memory_budget <= source.memory_budget);
            let maps_bytes = |options: &Options| MemoryBudget::of(options).maps_bytes_max();
            assert_eq!(maps_bytes(&target), maps_bytes(&source));
            assert_eq!(memory_bytes_max(&target), memory_bytes_max(&source));
        }
    }
}
