//! A database file as it lies: header slots, the last durable state, a page manager that never
//! writes.
//!
//! *Guarantees*: nothing is written and no lock is taken, so it works beside a process that has the
//! file
//! open; that process may go on to overwrite what is read here.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use sapwood::log::reader::ReplayStart;
use sapwood::log::ring::RingList;
use sapwood::log::stream::BlockStream;
use sapwood::merge::verify::StateOwners;
use sapwood::page::file_header::{Slots, read_slots};
use sapwood::page::{Block, MemoryBudget, OpenedState, PageManager, PageOptions, StateLocation};
use sapwood::segment::descriptor::Segment;
use sapwood::state::Contents;
use sapwood::state::recovery::{ReadState, read_newest_state};
use sapwood::storage::{FileStorage, Storage};

/// What reading nodes may take.
const BUDGET_BYTES: u64 = 64 << 20;

/// See the module.
pub struct DurableFile {
    /// The file.
    pub storage: Arc<dyn Storage>,
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

impl DurableFile {
    /// Reads the newest durable state.
    pub fn open(path: &Path) -> Result<DurableFile, Box<dyn Error>> {
        DurableFile::over(open_storage(path)?)
    }

    /// The same over a file that is open.
    pub fn over(storage: Arc<dyn Storage>) -> Result<DurableFile, Box<dyn Error>> {
        let read = read_newest_state(&*storage, true)?;
        let bytes = storage.length()?;
        let options = PageOptions {
            storage: storage.clone(),
            layout: read.layout,
            budget: Arc::new(MemoryBudget::new(BUDGET_BYTES)),
            max_file_bytes: None,
        };
        let in_file = bytes / u64::from(read.layout.page_size);
        let mut state = OpenedState {
            file_pages: read.manifest.file_pages.max(in_file),
            regions: read.manifest.regions.clone(),
            next_stamp: read.manifest.counters.stamp_limit,
            stamp_limit: read.manifest.counters.stamp_limit,
        };
        let (pages, maps_problem) = match PageManager::open(options.clone(), &state) {
            Ok(pages) => (pages, None),
            Err(problem) => {
                // Nodes can be read without the maps.
                state.regions = Vec::new();
                (PageManager::open(options, &state)?, Some(problem))
            }
        };
        Ok(DurableFile { storage, read, pages, maps_problem, bytes })
    }

    /// The state.
    pub fn contents(&self) -> &Contents {
        &self.read.manifest.contents
    }

    /// The blocks of the log and of the encoded state.
    pub fn owners(&self) -> StateOwners {
        let state = match &self.read.slot.state {
            StateLocation::Inline(_) => Vec::new(),
            StateLocation::Blocks { blocks, .. } => blocks.clone(),
        };
        StateOwners { log: self.read.manifest.log.blocks.clone(), state }
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

    /// True when a process has written a newer durable state since.
    pub fn has_changed(&self) -> bool {
        read_newest_state(&*self.storage, true)
            .map_or(true, |now| now.slot.generation != self.read.slot.generation)
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

    /// Every segment, with the keyspace (none for young ones) and the name of its level.
    pub fn segments(&self) -> Vec<(Option<u32>, String, Arc<Segment>)> {
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
