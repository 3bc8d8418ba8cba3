//! `info`: header, options, keyspaces and sizes by level.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use sapwood::page::file_header::Slots;
use sapwood::page::{Codec, StateLocation};
use sapwood::segment::descriptor::Segment;
use serde::Serialize;

use crate::Outcome;
use crate::file::{DurableFile, open_storage, slots, steadily};
use crate::output::{self, Table, line};
use crate::units;

#[derive(Default, Serialize)]
struct Info {
    file_bytes: u64,
    slots: Vec<Slot>,
    /// Why no state can be read.
    problem: Option<String>,
    /// What is damaged of the header beside the state that was read.
    #[serde(skip)]
    header_problems: Vec<String>,
    #[serde(flatten)]
    state: Option<State>,
}

impl Info {
    fn is_sound(&self) -> bool {
        let has_maps = |state: &State| state.free_map_problem.is_none();
        self.slots.iter().all(|slot| slot.problem.is_none())
            && self.header_problems.is_empty()
            && self.state.as_ref().is_some_and(has_maps)
    }

    /// Everything that cannot be read. A slot that does not count is not among it by itself: a
    /// crash may have torn it.
    fn problems(&self) -> impl Iterator<Item = &String> {
        let of_maps = self.state.as_ref().and_then(|state| state.free_map_problem.as_ref());
        self.problem.iter().chain(&self.header_problems).chain(of_maps)
    }
}

#[derive(Serialize)]
struct Slot {
    slot: usize,
    generation: Option<u64>,
    epoch: Option<u64>,
    state_bytes: Option<u64>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct State {
    format_version: u32,
    identity: String,
    page_size: u32,
    reserved_bytes: u16,
    region_bytes: u64,
    generation: u64,
    epoch: u64,
    sequence: u64,
    closed_cleanly: bool,
    free_pages: Option<u64>,
    free_map_problem: Option<String>,
    log_bytes: u64,
    log_cut: u64,
    keyspaces: Vec<Keyspace>,
    young: Level,
}

#[derive(Serialize)]
struct Keyspace {
    number: u32,
    name: String,
    dropped: bool,
    compression: String,
    value_compression: String,
    filter_bits: u8,
    levels: Vec<Level>,
}

/// Sums over the segments of one level, promoted parts included.
#[derive(Default, Serialize)]
struct Level {
    name: String,
    segments: u64,
    entries: u64,
    tombstones: u64,
    bytes: u64,
}

impl Level {
    fn add(&mut self, segment: &Segment, page_size: u64) {
        let trees = segment.points.iter().chain(&segment.ranges);
        let tombstones = units::sum(trees.map(|tree| tree.tombstones));
        let bytes = segment.pages().saturating_mul(page_size);
        self.segments += 1;
        self.entries = self.entries.saturating_add(segment.entries());
        self.tombstones = self.tombstones.saturating_add(tombstones);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

pub fn run(path: &Path, json: bool) -> Outcome {
    let storage = open_storage(path)?;
    let look = || {
        let found = slots(&*storage)?;
        let file_bytes = storage.length()?;
        let mut info = Info { file_bytes, slots: slot_list(&found), ..Info::default() };
        match DurableFile::over(storage.clone()) {
            Ok(file) => {
                info.state = Some(state(&file));
                info.header_problems = file.header_problems(&found);
            }
            Err(error) => info.problem = Some(error.to_string()),
        }
        Ok(info)
    };
    let info = steadily(&*storage, look, Info::is_sound)?;
    if json {
        output::json(&info)?;
    } else {
        print(&info)?;
    }
    let mut status = ExitCode::SUCCESS;
    for problem in info.problems() {
        eprintln!("diag_lsm: {problem}");
        status = ExitCode::FAILURE;
    }
    Ok(status)
}

fn slot_list(found: &Slots) -> Vec<Slot> {
    let slot = |(slot, found): (usize, &Result<sapwood::page::HeaderSlot, _>)| match found {
        Ok(header) => Slot {
            slot,
            generation: Some(header.generation),
            epoch: Some(header.epoch.0),
            state_bytes: Some(match &header.state {
                StateLocation::Inline(state) => state.len() as u64,
                StateLocation::Blocks { length, .. } => u64::from(*length),
            }),
            problem: None,
        },
        Err(problem) => {
            let problem: &sapwood::page::SlotProblem = problem;
            let problem = Some(problem.to_string());
            Slot { slot, generation: None, epoch: None, state_bytes: None, problem }
        }
    };
    found.iter().enumerate().map(slot).collect()
}

fn codec(codec: Codec) -> String {
    match codec {
        Codec::Plain => "none".into(),
        Codec::Zstd { level } => format!("zstd {level}"),
    }
}

fn state(file: &DurableFile) -> State {
    let slot = &file.read.slot;
    let page_size = u64::from(slot.page_size);
    let level = |name: &str, segments: &mut dyn Iterator<Item = &Segment>| {
        let mut sum = Level { name: name.to_owned(), ..Level::default() };
        segments.for_each(|segment| sum.add(segment, page_size));
        sum
    };
    let contents = file.contents();
    let keyspaces = contents.catalogue.iter().map(|(number, entry)| {
        let mut of_keyspace = Vec::new();
        if let Some(levels) = contents.levels_of(number) {
            let count = levels.levels.len();
            for (index, segments) in levels.levels.iter().enumerate() {
                let name = if index + 1 == count { "last".into() } else { (index + 1).to_string() };
                of_keyspace.push(level(&name, &mut segments.iter().map(|segment| &**segment)));
            }
        }
        Keyspace {
            number: number.0,
            name: entry.name.clone(),
            dropped: entry.dropped,
            compression: codec(entry.settings.codec),
            value_compression: codec(entry.settings.value_codec),
            filter_bits: entry.settings.filter_bits,
            levels: of_keyspace,
        }
    });
    State {
        format_version: sapwood::page::file_header::FORMAT_VERSION,
        identity: units::hex(&slot.identity),
        page_size: slot.page_size,
        reserved_bytes: slot.reserved_bytes,
        region_bytes: slot.region_bytes,
        generation: slot.generation,
        epoch: contents.epoch.0,
        sequence: contents.cut.sequence.0,
        closed_cleanly: file.is_closed_cleanly(),
        free_pages: file.maps_problem.is_none().then(|| file.pages.allocator().stats().free_pages),
        free_map_problem: file.maps_problem.as_ref().map(ToString::to_string),
        log_bytes: file.log_bytes(),
        log_cut: contents.cut.position.0,
        keyspaces: keyspaces.collect(),
        young: level("young", &mut contents.young.iter().map(|segment| &**segment)),
    }
}

fn print(info: &Info) -> std::io::Result<()> {
    let mut out = output::out();
    line(&mut out, "file", units::bytes(info.file_bytes))?;
    for slot in &info.slots {
        let name = format!("header slot {}", slot.slot);
        match (&slot.problem, slot.generation, slot.epoch) {
            (Some(problem), ..) => line(&mut out, &name, problem)?,
            (None, Some(generation), Some(epoch)) => {
                let bytes = units::bytes(slot.state_bytes.unwrap_or(0));
                let text = format!("generation {generation}, state {epoch} of {bytes}");
                line(&mut out, &name, text)?;
            }
            _ => {}
        }
    }
    let Some(state) = &info.state else { return out.flush() };
    line(&mut out, "format version", state.format_version)?;
    line(&mut out, "identity", &state.identity)?;
    line(&mut out, "page size", units::bytes(u64::from(state.page_size)))?;
    line(&mut out, "reserved per page", units::bytes(u64::from(state.reserved_bytes)))?;
    line(&mut out, "region", units::bytes(state.region_bytes))?;
    line(&mut out, "closed cleanly", if state.closed_cleanly { "yes" } else { "no" })?;
    line(&mut out, "last commit in it", units::count(state.sequence))?;
    line(&mut out, "log", units::bytes(state.log_bytes))?;
    match (state.free_pages, &state.free_map_problem) {
        (Some(free), _) => {
            let bytes = free.saturating_mul(u64::from(state.page_size));
            line(&mut out, "free", units::bytes(bytes))?;
        }
        (None, problem) => line(&mut out, "free", problem.as_deref().unwrap_or("unknown"))?,
    }
    writeln!(out)?;
    keyspace_table(state).print(&mut out)?;
    out.flush()
}

/// A row to each level of a keyspace, and one to the young segments, which all of them share.
fn keyspace_table(state: &State) -> Table {
    let heads = [
        "keyspace",
        "number",
        "compression",
        "values",
        "filter bits",
        "level",
        "segments",
        "entries",
        "tombstones",
        "size",
    ];
    let mut table = Table::new(6, &heads).with_numbers_at(&[1, 4]);
    let mut rows = |first: [String; 5], level: &Level| {
        let mut row = first.to_vec();
        row.push(level.name.clone());
        row.extend([level.segments, level.entries, level.tombstones].map(units::count));
        row.push(units::bytes(level.bytes));
        table.row(row);
    };
    if state.young.segments > 0 {
        rows(["(all)", "-", "none", "-", "-"].map(str::to_owned), &state.young);
    }
    for keyspace in &state.keyspaces {
        let name = if keyspace.dropped {
            format!("#{} (dropped)", keyspace.number)
        } else {
            keyspace.name.clone()
        };
        let first = || {
            let (codec, value_codec) = (&keyspace.compression, &keyspace.value_compression);
            let (number, bits) = (keyspace.number.to_string(), keyspace.filter_bits.to_string());
            [name.clone(), number, codec.clone(), value_codec.clone(), bits]
        };
        if keyspace.levels.is_empty() {
            rows(first(), &Level { name: "-".into(), ..Level::default() });
        }
        keyspace.levels.iter().for_each(|level| rows(first(), level));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sapwood::page::{Counted, NodeRef};
    use sapwood::segment::descriptor::TreeRoot;
    use sapwood::segment::segment_filter::SegmentFilter;
    use sapwood::{Epoch, PageNumber};

    use super::*;

    /// The sums of a level overflowed when a damaged file had the numbers for it.
    #[test]
    fn a_level_is_summed_up_whatever_a_file_says_of_its_segments() {
        let reference = NodeRef { page: PageNumber(8), pages: 1, stamp: 1, checksum: 0 };
        let root = |count: u64| TreeRoot {
            reference,
            height: 0,
            birth: Epoch(1),
            entries: count,
            tombstones: count,
            pages: count,
            leaves: 1,
        };
        let segment = |count: u64| Segment {
            number: 1,
            points: Some(root(count)),
            ranges: Some(root(count)),
            filter: SegmentFilter::new(0, Vec::new()),
            bounds: None,
            sequences: None,
            promoted: Arc::default(),
            keyspaces: Arc::default(),
            counted: Counted::default(),
        };
        let mut level = Level::default();
        level.add(&segment(3), 1024);
        assert_eq!((level.entries, level.tombstones, level.bytes), (6, 6, 6 * 1024));
        level.add(&segment(u64::MAX), 1024);
        level.add(&segment(u64::MAX - 1), 1024);
        assert_eq!((level.segments, level.entries), (3, u64::MAX));
        assert_eq!((level.tombstones, level.bytes), (u64::MAX, u64::MAX));
    }
}
