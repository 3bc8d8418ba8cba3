//! `page N`: one page, decoded, whatever it is.

use std::io::Write;
use std::process::ExitCode;

use sapwood::PageNumber;
use sapwood::page::free_map::FreeMap;
use sapwood::page::node_image::{pages_to_stream, verify_node};
use sapwood::page::{
    Block, FLAG_NUMBERS, FLAG_WIDE_SLOTS, Frame, NodeHeader, NodeKind, NodeRef, SlotProblem,
};
use sapwood::segment::overflow_reference::{OverflowList, OverflowReference};
use sapwood::segment::parent::ParentShape;
use sapwood::segment::range_tombstone::RangeValue;
use sapwood::segment::sorted_block::{BlockShape, EntryKind};
use sapwood::storage::Storage;
use serde::Serialize;

use crate::Outcome;
use crate::args::PageArguments;
use crate::file::{DurableFile, open_storage, page_block, slots, steadily};
use crate::output::{self, line};
use crate::units;
use crate::whole::{self, LongValue};

#[derive(Default, Serialize)]
struct Page {
    page: u64,
    /// What it is.
    what: String,
    /// Names and what they are.
    fields: Vec<(String, String)>,
    /// Entries, children and the like, a line each.
    lines: Vec<String>,
    /// How many lines there would be.
    line_count: usize,
    /// How many of them are kept.
    #[serde(skip)]
    limit: usize,
    /// What is wrong with it.
    problem: Option<String>,
    /// Why no state can be read, or not all of it.
    #[serde(skip)]
    state_problem: Option<String>,
    /// Its first bytes.
    head_hex: String,
}

type Looked = Result<Page, Box<dyn std::error::Error>>;

impl Page {
    fn field(&mut self, name: &str, value: impl ToString) {
        self.fields.push((name.to_owned(), value.to_string()));
    }

    /// Adds a line; beyond the limit it is only counted, since there may be very many.
    fn add_line(&mut self, text: impl FnOnce() -> String) {
        if self.lines.len() < self.limit {
            self.lines.push(text());
        }
        self.line_count += 1;
    }
}

pub fn run(arguments: &PageArguments, json: bool) -> Outcome {
    let storage = open_storage(&arguments.file)?;
    let look = || match DurableFile::over(storage.clone()) {
        Ok(file) => page_of(&file, arguments),
        Err(error) => bare_page(&*storage, arguments, &*error),
    };
    let is_sound = |page: &Page| page.problem.is_none() && page.state_problem.is_none();
    let page = steadily(&*storage, look, is_sound)?;
    if json {
        output::json(&page)?;
    } else {
        print(&page)?;
    }
    let mut status = ExitCode::SUCCESS;
    for problem in page.problem.iter().chain(&page.state_problem) {
        eprintln!("diag_lsm: {problem}");
        status = ExitCode::FAILURE;
    }
    Ok(status)
}

fn page_of(file: &DurableFile, arguments: &PageArguments) -> Looked {
    let mut number = file.read.layout.region_start(0);
    number.0 = arguments.page;
    let in_file = file.bytes / u64::from(file.read.layout.page_size);
    if arguments.page >= in_file {
        let last = in_file.saturating_sub(1);
        return Err(format!("the file has {in_file} pages; the last is {last}").into());
    }
    let raw = file.pages.read_page_raw(number)?;
    let mut page = Page { page: arguments.page, limit: arguments.limit, ..Page::default() };
    page.head_hex = units::hex(raw.get(..64).unwrap_or(&raw));
    if arguments.page < u64::from(file.read.layout.header_pages()) {
        header_slots(file, &mut page);
    } else {
        node(file, &raw, &mut page);
    }
    Ok(page)
}

/// A page of a file of which no state can be read: what its own bytes say.
fn bare_page(
    storage: &dyn Storage,
    arguments: &PageArguments,
    error: &dyn std::error::Error,
) -> Looked {
    let found = slots(storage)?;
    let page_size = found.iter().flatten().map(|slot| slot.page_size).next();
    let page_size = u64::from(page_size.unwrap_or(arguments.page_size));
    let (bytes, in_file) = (storage.length()?, storage.length()? / page_size);
    if arguments.page >= in_file {
        return Err(format!("{error}; of {page_size} bytes each it has {in_file} pages").into());
    }
    let mut page = Page { page: arguments.page, limit: arguments.limit, ..Page::default() };
    page.problem = Some(error.to_string());
    // The longest page is no longer than this.
    let mut raw = vec![0; page_size.min(bytes).min(1 << 16) as usize];
    storage.read_at(arguments.page * page_size, &mut raw)?;
    page.head_hex = units::hex(raw.get(..64).unwrap_or(&raw));
    page.what = match NodeHeader::decode(&raw) {
        Ok((header, checksum)) if header.page.0 == arguments.page => {
            page.field("height", header.height);
            page.field("keyspace", format!("#{}", header.keyspace));
            page.field("stamp", header.stamp);
            page.field("checksum", format!("{checksum:#010x}"));
            page.field("stored", units::bytes(u64::from(header.stored_bytes)));
            header.kind.structure().to_string()
        }
        _ if raw.iter().all(|byte| *byte == 0) => "zeros".into(),
        _ => "no first page of a node".into(),
    };
    Ok(page)
}

/// The header as it was before the state was read, so that a newer one is no damage.
fn header_slots(file: &DurableFile, page: &mut Page) {
    page.what = "header slots".into();
    let problems = file.header_problems(&file.slots);
    page.problem = (!problems.is_empty()).then(|| problems.join("; "));
    for (index, slot) in file.slots.iter().enumerate() {
        let name = format!("slot {index}");
        match slot {
            Ok(slot) => {
                let text = format!("generation {}, state {}", slot.generation, slot.epoch);
                page.field(&name, text);
            }
            Err(SlotProblem::NoMark) => page.field(&name, "not written"),
            Err(problem) => page.field(&name, problem),
        }
    }
}

/// Whether the page is of the free map that the state names for its region: the other one of the
/// two is an older map, or is being written.
fn is_named_map(file: &DurableFile, region: u64, number: PageNumber) -> bool {
    let index = usize::try_from(region).unwrap_or(usize::MAX);
    let entry = file.read.manifest.regions.get(index);
    entry.is_some_and(|entry| entry.node_ref(&file.read.layout, region).block().contains(number))
}

/// Whose the page is, by the state and its map; false when it is nobody's, so that its bytes are
/// not what anybody relies on, and may be in the middle of a write.
fn owner(file: &DurableFile, page: &mut Page) -> bool {
    let (mut is_owned, mut is_value) = (true, false);
    let block = page_block(file, page.page);
    let number = block.first;
    let region = file.read.layout.region_of(number);
    let owners = file.owners();
    let found = if owners.log.iter().any(|block| block.contains(number)) {
        "the log".to_owned()
    } else if owners.state.iter().any(|block| block.contains(number)) {
        "the state".to_owned()
    } else if number < file.read.layout.first_allottable(region) {
        is_owned = is_named_map(file, region, number);
        format!("the free maps of region {region}")
    } else if file.maps_problem.is_none() && !file.pages.allocator().is_referenced(block) {
        is_owned = false;
        "free in the durable state".to_owned()
    } else {
        match file.live_blocks() {
            Ok(blocks) => match blocks.range(..=number).next_back() {
                Some((_, live)) if live.block.contains(number) => {
                    let (first, last) = (live.block.first, live.block.last());
                    let what = live.what.structure();
                    is_value = live.what == NodeKind::OverflowValue;
                    format!("{what}, pages {first} to {last}, born in state {}", live.birth)
                }
                _ => {
                    is_owned = false;
                    "nobody".to_owned()
                }
            },
            Err(error) => {
                page.state_problem = Some(error.to_string());
                format!("unknown, since the state cannot be walked: {error}")
            }
        }
    };
    page.field("owner", found);
    if is_value {
        whole_value(file, number, page);
    }
    whole_states(file, number, page);
    is_owned
}

/// What is right or wrong with the whole value of which the page is a part.
fn whole_value(file: &DurableFile, number: PageNumber, page: &mut Page) {
    let value = match LongValue::at(file, number) {
        Ok(Some(value)) => value,
        Ok(None) => {
            page.problem = Some("no leaf names a value here".into());
            return;
        }
        Err(error) => {
            page.state_problem = Some(error.to_string());
            return;
        }
    };
    let (keyspace, key) = (file.keyspace_name(value.keyspace.0), units::key(&value.key));
    page.field("value", format!("of the key {key:?} in {keyspace}"));
    page.field("its length", units::bytes(value.reference.length));
    match value.verify(&file.pages) {
        Ok(()) => page.field("all of it", "its checksums are right"),
        Err(error) => page.problem = Some(error.to_string()),
    }
}

/// The same for the encoded states of which the page is a part.
fn whole_states(file: &DurableFile, number: PageNumber, page: &mut Page) {
    for state in whole::states_at(file, number) {
        let name = format!("state of slot {}", state.slot_index);
        match state.problem {
            None => page.field(&name, "its checksum is right"),
            Some(error) if state.is_newest => page.problem = Some(error.to_string()),
            Some(error) => page.field(&name, format!("{error}; its pages may be in use again")),
        }
    }
}

fn node(file: &DurableFile, raw: &[u8], page: &mut Page) {
    let layout = &file.read.layout;
    let mut stream = raw.to_vec();
    pages_to_stream(layout, &mut stream);
    let decoded = NodeHeader::decode(&stream).ok();
    // A block of the log or the middle of a node may look like anything.
    let Some((header, checksum)) = decoded.filter(|(header, _)| header.page.0 == page.page) else {
        page.what = if raw.iter().all(|byte| *byte == 0) {
            "zeros".into()
        } else {
            "no first page of a node".into()
        };
        owner(file, page);
        return;
    };
    page.what = match header.kind {
        NodeKind::FilterPiece => "filter piece".into(),
        NodeKind::OverflowList => "overflow list".into(),
        kind => kind.structure().to_string(),
    };
    let is_owned = owner(file, page);
    page.field("height", header.height);
    page.field(
        "keyspace",
        match header.keyspace.0 {
            u32::MAX => "several or none".to_owned(),
            number => file.keyspace_name(number),
        },
    );
    page.field("stamp", header.stamp);
    page.field("checksum", format!("{checksum:#010x}"));
    page.field("flags", format!("{:#06x}", header.flags));
    page.field("stored", units::bytes(u64::from(header.stored_bytes)));
    page.field("content", units::bytes(u64::from(header.raw_bytes)));
    if matches!(header.kind, NodeKind::OverflowValue | NodeKind::State) {
        // Their streams may go over several blocks, which the node itself does not know: they were
        // judged with their owner.
        return;
    }
    let read = read_node(file, &header, checksum).and_then(|frame| {
        page.field("pages", frame.reference().pages);
        content(file, &frame, page)
    });
    match read {
        Ok(()) => {}
        Err(problem) if is_owned => page.problem = Some(problem),
        Err(problem) => page.field("no whole node", problem),
    }
}

fn read_node(file: &DurableFile, header: &NodeHeader, checksum: u32) -> Result<Frame, String> {
    let layout = &file.read.layout;
    let pages = layout.node_pages(header.stored_bytes as usize);
    let reference = NodeRef { page: header.page, pages, stamp: header.stamp, checksum };
    if pages > layout.node_pages_max()
        || reference.block().end().0 * u64::from(layout.page_size) > file.bytes
    {
        return Err(format!("{pages} pages are not there"));
    }
    let mut bytes = vec![0; layout.bytes_of(pages)];
    let offset = layout.offset_of(header.page);
    file.storage.read_at(offset, &mut bytes).map_err(|error| error.to_string())?;
    verify_node(layout, &reference, header.kind, bytes).map_err(|error| error.to_string())
}

fn content(file: &DurableFile, frame: &Frame, page: &mut Page) -> Result<(), String> {
    match frame.header().kind {
        NodeKind::Leaf => leaf(frame, page).map_err(|problem| problem.to_string()),
        NodeKind::Parent => parent(frame, page).map_err(|problem| problem.to_string()),
        NodeKind::FilterPiece | NodeKind::YoungFilter => {
            let set: u64 = frame.content().iter().map(|byte| u64::from(byte.count_ones())).sum();
            page.field("lines", frame.content().len() / 64);
            page.field("bits set", units::percent(set, frame.content().len() as u64 * 8));
            Ok(())
        }
        NodeKind::OverflowList => {
            for item in OverflowList::new(frame.content()) {
                let item = item.map_err(|problem| problem.to_string())?;
                page.add_line(|| {
                    let blocks = blocks(&item.blocks);
                    format!("leaf {} birth {} blocks {blocks}", item.child_index, item.birth)
                });
            }
            Ok(())
        }
        NodeKind::FreeMap => {
            let map = FreeMap::decode(frame.content())?;
            page.field("region", map.region_index());
            page.field("pages of it", map.page_count());
            page.field("used", map.used());
            let start = file.read.layout.region_start(map.region_index()).0;
            for (first, pages) in map.used_runs() {
                let first = start.saturating_add(u64::from(first));
                let end = first.saturating_add(u64::from(pages));
                page.add_line(|| format!("used {first} to {}", end.saturating_sub(1)));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn blocks(blocks: &[Block]) -> String {
    let each = blocks.iter().map(|block| format!("{}+{}", block.first, block.pages));
    each.collect::<Vec<_>>().join(" ")
}

type Checked = Result<(), sapwood::segment::BlockProblem>;

fn leaf(frame: &Frame, page: &mut Page) -> Checked {
    let bits = frame.header().flags;
    let (numbered, wide) = (bits & FLAG_NUMBERS != 0, bits & FLAG_WIDE_SLOTS != 0);
    let block = BlockShape::parse(frame.content(), numbered, wide)?.view(frame.content());
    page.field("entries", block.len());
    page.field("prefix", units::key(block.prefix()));
    let mut key = Vec::new();
    for index in 0..block.len() {
        let entry = block.entry(index)?;
        block.copy_key(index, &mut key)?;
        let what = match entry.kind {
            EntryKind::Put => format!("put {}", units::bytes(entry.value.len() as u64)),
            EntryKind::Delete => "delete".into(),
            EntryKind::PutOverflow => {
                let reference = OverflowReference::decode(entry.value)?;
                let length = units::bytes(reference.length);
                format!("put {length} in blocks {}", blocks(&reference.blocks))
            }
            EntryKind::RangeDelete => {
                let base = numbered.then_some(block.base_number());
                let range = RangeValue::decode(entry.value, base)?;
                match range.end {
                    Some(end) => format!("delete up to {}", key_and_hex(end)),
                    None => "delete up to the end".into(),
                }
            }
            EntryKind::Child => "child".into(),
        };
        let number = if numbered { format!(" @{}", entry.number) } else { String::new() };
        page.add_line(|| format!("{}{number} {what}", key_and_hex(&key)));
    }
    Ok(())
}

fn key_and_hex(key: &[u8]) -> String {
    format!("{:?} ({})", units::key(key), units::hex(key))
}

fn parent(frame: &Frame, page: &mut Page) -> Checked {
    let header = frame.header();
    let wide = header.flags & FLAG_WIDE_SLOTS != 0;
    let parent = ParentShape::parse(frame.content(), header.height, wide)?.view(frame.content());
    page.field("children", parent.len());
    for (name, list) in
        [("filter pieces", parent.pieces()), ("overflow lists", parent.overflow_lists())]
    {
        let mut pages = Vec::new();
        for index in 0..list.len() {
            pages.push(list.get(index)?.page.to_string());
        }
        if !pages.is_empty() {
            page.field(name, format!("at {}", pages.join(", ")));
        }
    }
    let mut separator = Vec::new();
    for index in 0..parent.len() {
        let child = parent.child(index)?;
        parent.separator(index, &mut separator)?;
        let birth = child.birth.map_or(String::new(), |birth| format!(", born in {birth}"));
        page.add_line(|| {
            format!(
                "{} page {}+{}, {} entries, {} tombstones{birth}",
                key_and_hex(&separator),
                child.reference.page,
                child.reference.pages,
                child.entries,
                child.tombstones
            )
        });
    }
    Ok(())
}

fn print(page: &Page) -> std::io::Result<()> {
    let mut out = output::out();
    line(&mut out, "page", page.page)?;
    line(&mut out, "what", &page.what)?;
    for (name, value) in &page.fields {
        line(&mut out, name, value)?;
    }
    line(&mut out, "first bytes", &page.head_hex)?;
    if let Some(problem) = &page.problem {
        line(&mut out, "problem", problem)?;
    }
    for text in &page.lines {
        writeln!(out, "  {text}")?;
    }
    if page.line_count > page.lines.len() {
        writeln!(out, "  ... {} in all (--limit shows more)", page.line_count)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of very many entries with long keys was laid out whole before most of it was cut off.
    #[test]
    fn lines_beyond_the_limit_are_counted_and_not_made() {
        let mut page = Page { limit: 2, ..Page::default() };
        let mut made = 0;
        for _ in 0..5 {
            page.add_line(|| {
                made += 1;
                String::new()
            });
        }
        assert_eq!((page.lines.len(), page.line_count, made), (2, 5, 2));
    }
}
