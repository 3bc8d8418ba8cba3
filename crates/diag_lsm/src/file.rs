//! A database file as it lies: header slots, the last durable state, a page manager that never
//! writes.
//!
//! *Guarantees*: nothing is written and no lock is taken, so it works beside a process that has the
//! file open; that process may go on to overwrite what is read here, but not before it has written
//! a newer durable state and a header slot that says so. So what cannot be read is damage only
//! while the header stays as it was ([`steadily`]).

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use sapwood::log::reader::{ReplayEnd, ReplayStart, Visit, replay};
use sapwood::log::record::Record;
use sapwood::log::ring::RingList;
use sapwood::log::stream::BlockStream;
use sapwood::merge::verify::{LiveBlocks, Newer, NewerState, StateOwners, walk_blocks_with};
use sapwood::page::file_header::{Slots, read_slots};
use sapwood::page::{
    Block, MemoryBudget, OpenedState, PageManager, PageOptions, RegionEntry, SlotProblem,
    StateLocation, budget_for_maps,
};
use sapwood::segment::descriptor::Segment;
use sapwood::state::Contents;
use sapwood::state::recovery::{ReadState, read_newest_state};
use sapwood::storage::{FileStorage, Storage};

use crate::output;

/// How often a file is read again that another process has changed meanwhile.
pub const ATTEMPTS: usize = 10;
/// What is said when that was not enough.
const MOVING: &str = "another process changes the file faster than it can be read here: what is \
                      said to be wrong with it may only have been replaced; try again, or run \
                      `verify`, which tells the two apart";

/// What is said when a header slot names a newer state than could be read.
pub const NOT_THE_NEWEST: &str = "the newest state cannot be read; this is the one before it";

/// A segment behind its keyspace (none for young ones) and the name of its level.
pub type PlacedSegment = (Option<u32>, String, Arc<Segment>);

/// What reading nodes may take.
const BUDGET_BYTES: u64 = 64 << 20;

/// See the module.
pub struct DurableFile {
    /// The file.
    pub storage: Arc<dyn Storage>,
    /// The header before the state was read.
    pub slots: Slots,
    /// The newest state that can be read.
    pub read: ReadState,
    /// For reading its nodes.
    pub pages: Arc<PageManager>,
    /// Why the free maps are not there.
    pub maps_problem: Option<sapwood::Error>,
    /// The file's length.
    pub bytes: u64,
}

/// Opens a file for looking, without lock.
pub fn open_storage(path: &Path) -> sapwood::Result<Arc<dyn Storage>> {
    Ok(Arc::new(FileStorage::open_unlocked_read_only(path)?))
}

/// Both header slots.
pub fn slots(storage: &dyn Storage) -> sapwood::Result<Slots> {
    read_slots(storage)
}

/// Looks at the newest durable state; when that failed, or what was found is not sound, and the
/// header has changed since, looks again. So a problem that is handed on is one of a state that
/// stayed; where none did, what was found last is handed on, and that is said.
pub fn steadily<T>(
    storage: &dyn Storage,
    look: impl FnMut() -> Result<T, Box<dyn Error>>,
    is_sound: impl Fn(&T) -> bool,
) -> Result<T, Box<dyn Error>> {
    let (outcome, is_steady) = looked_at(storage, look, is_sound)?;
    if !is_steady {
        eprintln!("diag_lsm: {MOVING}");
    }
    outcome
}

/// What a look gives.
type Look<T> = Result<T, Box<dyn Error>>;

/// The same, with whether it is of a state that stayed.
///
/// # Errors
/// When the header cannot be read.
pub fn looked_at<T>(
    storage: &dyn Storage,
    mut look: impl FnMut() -> Look<T>,
    is_sound: impl Fn(&T) -> bool,
) -> sapwood::Result<(Look<T>, bool)> {
    let mut attempt = 0;
    loop {
        // The log may name what lies in pages by which the file has grown since it was opened.
        let seen = || Ok::<_, sapwood::Error>((slots(storage)?, storage.length().ok()));
        let before = seen()?;
        let outcome = look();
        let failed = match &outcome {
            Ok(found) => !is_sound(found),
            Err(error) => error.is::<sapwood::Error>(),
        };
        if !failed || seen()? == before {
            return Ok((outcome, true));
        }
        attempt += 1;
        if attempt == ATTEMPTS {
            return Ok((outcome, false));
        }
    }
}

/// [`steadily`], at a file that is opened anew each time.
pub fn look_steadily<T>(
    path: &Path,
    mut look: impl FnMut(&DurableFile) -> Result<T, Box<dyn Error>>,
    is_sound: impl Fn(&T) -> bool,
) -> Result<T, Box<dyn Error>> {
    let storage = open_storage(path)?;
    steadily(&*storage, || look(&DurableFile::over(storage.clone())?), is_sound)
}

/// For reading the nodes of a state, which can be done without its regions' maps.
fn open_pages(
    storage: &Arc<dyn Storage>,
    read: &ReadState,
    regions: Vec<RegionEntry>,
) -> sapwood::Result<Arc<PageManager>> {
    let in_file = storage.length().unwrap_or(0) / u64::from(read.layout.page_size);
    let file_pages = read.manifest.file_pages.max(in_file);
    // Whoever looks into a file wants to see it, however long it is.
    let budget_bytes = BUDGET_BYTES.max(budget_for_maps(&read.layout, file_pages));
    let options = PageOptions {
        storage: storage.clone(),
        layout: read.layout,
        budget: Arc::new(MemoryBudget::new(budget_bytes)),
        max_file_bytes: None,
    };
    let counters = &read.manifest.counters;
    let state = OpenedState {
        file_pages,
        regions,
        next_stamp: counters.stamp_limit,
        stamp_limit: counters.stamp_limit,
    };
    PageManager::open(options, &state)
}

/// The newest durable state, again and again.
pub struct NewestState {
    storage: Arc<dyn Storage>,
    /// The header with which it was read.
    slots: Slots,
    /// It, unless it is the one that the file was opened with.
    state: Option<Arc<NewerState>>,
}

impl NewestState {
    /// Begins with the state that was read.
    pub fn after(file: &DurableFile) -> NewestState {
        NewestState { storage: file.storage.clone(), slots: file.slots.clone(), state: None }
    }

    /// The newest one, when it is not of this generation.
    pub fn other_than(&mut self, generation: u64) -> Newer {
        for _ in 0..ATTEMPTS {
            // What the header says now is what the last reading knew.
            let Ok(now) = slots(&*self.storage) else { return Newer::Same };
            if now == self.slots {
                return match &self.state {
                    Some(state) if state.generation != generation => Newer::State(state.clone()),
                    _ => Newer::Same,
                };
            }
            match self.read() {
                Ok(state) => (self.slots, self.state) = (now, Some(Arc::new(state))),
                // It is damaged: what was read is the newest that can be.
                Err(_) if slots(&*self.storage).is_ok_and(|after| after == now) => {
                    return Newer::Same;
                }
                Err(_) => {}
            }
        }
        Newer::TooFast
    }

    fn read(&self) -> sapwood::Result<NewerState> {
        let read = read_newest_state(&*self.storage, true)?;
        let pages = open_pages(&self.storage, &read, Vec::new())?;
        let (generation, contents) = (read.slot.generation, read.manifest.contents);
        Ok(NewerState { generation, pages, contents })
    }
}

impl DurableFile {
    /// Reads the newest durable state.
    pub fn open(path: &Path) -> Result<DurableFile, Box<dyn Error>> {
        DurableFile::over(open_storage(path)?)
    }

    /// The same over a file that is open.
    pub fn over(storage: Arc<dyn Storage>) -> Result<DurableFile, Box<dyn Error>> {
        let slots = slots(&*storage)?;
        let read = read_newest_state(&*storage, true)?;
        let bytes = storage.length()?;
        let regions = read.manifest.regions.clone();
        let (pages, maps_problem) = match open_pages(&storage, &read, regions) {
            Ok(pages) => (pages, None),
            Err(problem) => (open_pages(&storage, &read, Vec::new())?, Some(problem)),
        };
        Ok(DurableFile { storage, slots, read, pages, maps_problem, bytes })
    }

    /// The state.
    pub fn contents(&self) -> &Contents {
        &self.read.manifest.contents
    }

    /// The blocks that the state's segments use, for which every node is read; with progress.
    pub fn live_blocks(&self) -> sapwood::Result<LiveBlocks> {
        let bar = output::progress(0, "looking for what is used");
        let blocks = walk_blocks_with(&self.pages, self.contents(), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            true
        });
        bar.finish_and_clear();
        blocks
    }

    /// The blocks of the log and of the encoded state.
    pub fn owners(&self) -> StateOwners {
        let state = match &self.read.slot.state {
            StateLocation::Inline(_) => Vec::new(),
            StateLocation::Blocks { blocks, .. } => blocks.clone(),
        };
        StateOwners { log: self.read.manifest.log.blocks.clone(), state }
    }

    /// Shows every record behind the cut to `visit`, which gathers in a `T`; when the log breaks,
    /// what was gathered until there, and why. A log grows while its state stays: it is broken
    /// where it breaks twice.
    pub fn read_log<T: Default>(
        &self,
        visit: impl Fn(&mut T, &Record<'_>) -> sapwood::Result<()>,
    ) -> (T, sapwood::Result<ReplayEnd>) {
        let (stream, start) = self.log();
        let mut broke_at = None;
        let bar = output::progress(self.log_bytes(), "reading the log");
        loop {
            let (mut gathered, mut end) = (T::default(), start.cut);
            let replayed = replay(&stream, &start, &mut |record| {
                end = record.end;
                bar.set_position(end.0.saturating_sub(start.cut.0));
                visit(&mut gathered, record)?;
                Ok(Visit::Continue)
            });
            // Each time it is another place, the log has got longer, which its list bounds.
            if replayed.is_ok() || broke_at == Some(end) {
                bar.finish_and_clear();
                return (gathered, replayed);
            }
            broke_at = Some(end);
        }
    }

    /// The bytes of the log's blocks.
    pub fn log_bytes(&self) -> u64 {
        let blocks = &self.read.manifest.log.blocks;
        let pages: u64 = blocks.iter().map(|block| u64::from(block.pages)).sum();
        pages.saturating_mul(u64::from(self.read.layout.page_size))
    }

    /// The log, with where to begin to read it.
    pub fn log(&self) -> (BlockStream, ReplayStart) {
        let layout = &self.read.layout;
        // At most a page.
        let usable = layout.usable_bytes() as u32;
        let stream = BlockStream::new(self.storage.clone(), layout.page_size, usable);
        let manifest = &self.read.manifest;
        let list =
            RingList { start: manifest.log.first_position, blocks: manifest.log.blocks.clone() };
        let cut = manifest.contents.cut;
        let start = ReplayStart {
            generation: self.read.slot.generation,
            list,
            cut: cut.position,
            chain: cut.chain,
            durable: manifest.log.durable,
            sequence: cut.sequence,
            seed: layout.seed(),
        };
        (stream, start)
    }

    /// True when a close has written the state. Without one, a header slot that does not count may
    /// be one that a crash has torn; after it, it is damage.
    pub fn is_closed_cleanly(&self) -> bool {
        self.read.manifest.counters.clean.is_some()
    }

    /// The header slots that do not count, and why, but for one that was never written.
    pub fn bad_slots<'a>(&self, slots: &'a Slots) -> Vec<(usize, &'a SlotProblem)> {
        let is_first = self.read.slot.generation == 1;
        let bad =
            slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.as_ref().err()?)));
        bad.filter(|(_, problem)| !(is_first && **problem == SlotProblem::NoMark)).collect()
    }

    /// True when a header slot names a newer state than the one that could be read.
    pub fn is_behind(&self, slots: &Slots) -> bool {
        let newest = slots.iter().flatten().map(|slot| slot.generation).max();
        newest.is_some_and(|newest| newest > self.read.slot.generation)
    }

    /// What is damaged of the header and of what it names, in words.
    pub fn header_problems(&self, slots: &Slots) -> Vec<String> {
        let mut problems = Vec::new();
        if self.is_closed_cleanly() {
            let bad = self.bad_slots(slots).into_iter();
            problems.extend(bad.map(|(slot, problem)| format!("header slot {slot}: {problem}")));
        }
        if self.is_behind(slots) {
            problems.push(NOT_THE_NEWEST.into());
        }
        problems
    }

    /// True when a process has written a newer durable state since.
    pub fn has_changed(&self) -> bool {
        slots(&*self.storage).map_or(true, |now| now != self.slots)
    }

    /// The name of a keyspace, or its number when it has none.
    pub fn keyspace_name(&self, number: u32) -> String {
        let mut entries = self.contents().catalogue.iter();
        match entries.find(|(found, _)| found.0 == number) {
            Some((_, entry)) if !entry.dropped => entry.name.clone(),
            Some(_) => format!("#{number} (dropped)"),
            None => format!("#{number}"),
        }
    }

    /// Every segment of the state.
    pub fn segments(&self) -> Vec<PlacedSegment> {
        let contents = self.contents();
        let mut all: Vec<_> =
            contents.young.iter().map(|young| (None, "young".to_owned(), young.clone())).collect();
        for (keyspace, levels) in &contents.levels {
            let count = levels.levels.len();
            for (index, level) in levels.levels.iter().enumerate() {
                let name = if index + 1 == count { "last".into() } else { (index + 1).to_string() };
                let segments = level.iter();
                all.extend(segments.map(|s| (Some(keyspace.0), name.clone(), s.clone())));
            }
        }
        all
    }
}

/// A block of one page, for asking whose it is.
pub fn page_block(file: &DurableFile, page: u64) -> Block {
    let mut first = file.read.layout.region_start(0);
    first.0 = page;
    Block { first, pages: 1 }
}
