//! `space`: whose each part of the file is, as a map of characters, a paragraph to a region.
//!
//! Dead blocks that wait for readers (zombies) are known only to the process that has the file
//! open; here they count as free, as they are in the durable state.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;

use sapwood::log::operation::{LogOperation, operations};
use sapwood::log::record::RecordKind;
use sapwood::page::{Block, BlockList, NodeKind};
use sapwood::segment::overflow_reference::OverflowReference;
use sapwood::segment::young_blocks::add_blocks;
use sapwood::state::by_reference;
use serde::Serialize;

use crate::Outcome;
use crate::args::SpaceArguments;
use crate::file::{DurableFile, look_steadily};
use crate::output::{self, Table, line};
use crate::units;

/// Whose a page is, with its character in the map and its name.
const OWNERS: [(char, &str); 10] = [
    ('.', "free"),
    ('H', "header and free maps"),
    ('l', "leaves"),
    ('p', "parents"),
    ('f', "filters and sidecars"),
    ('o', "overflow values"),
    ('g', "log"),
    ('s', "state"),
    ('n', "limbo: named by the log only"),
    ('?', "used, but by nothing"),
];
const FREE: usize = 0;
const HEADER: usize = 1;
const LOG: usize = 6;
const STATE: usize = 7;
const NAMED: usize = 8;
const UNKNOWN: usize = 9;

#[derive(Serialize)]
struct Space {
    page_size: u32,
    file_pages: u64,
    free_pages: u64,
    free_runs: u64,
    longest_free_run: u64,
    fragmentation: f64,
    pages: BTreeMap<&'static str, u64>,
    pages_per_character: u64,
    regions: Vec<String>,
    problems: Vec<String>,
}

pub fn run(arguments: &SpaceArguments, json: bool) -> Outcome {
    let look = |file: &DurableFile| Ok(space(file, arguments.width));
    let space = look_steadily(&arguments.file, look, |space| space.problems.is_empty())?;
    if json {
        output::json(&space)?;
    } else {
        print(&space, arguments.width as usize)?;
    }
    for problem in &space.problems {
        eprintln!("diag_lsm: {problem}");
    }
    Ok(if space.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The owner of every run of pages: first page, end, owner; later ones go before earlier ones.
fn runs(file: &DurableFile, problems: &mut Vec<String>) -> Vec<(u64, u64, usize)> {
    let mut runs = Vec::new();
    let mut push = |block: Block, owner| runs.push((block.first.0, block.end().0, owner));
    if let Some(problem) = &file.maps_problem {
        problems.push(problem.to_string());
    }
    for block in file.pages.allocator().referenced_list().iter() {
        push(block, UNKNOWN);
    }
    let pages = &file.pages;
    let (named, replayed) = file.read_log(|named: &mut Vec<Block>, record| {
        if record.kind == RecordKind::CommitByReference {
            let mut found = BlockList::new();
            let segments = by_reference::decode(record, pages.allocator().file_pages())?;
            segments.iter().try_for_each(|segment| add_blocks(pages, segment, &mut found))?;
            named.extend(found.iter());
        }
        if record.kind == RecordKind::Commit {
            for operation in operations(record.payload)? {
                if let LogOperation::PutOverflow { reference, .. } = operation?
                    && let Ok(reference) = OverflowReference::decode(reference)
                {
                    named.extend(reference.blocks);
                }
            }
        }
        Ok(())
    });
    problems.extend(replayed.err().map(|error| error.to_string()));
    named.iter().for_each(|block| push(*block, NAMED));
    match file.live_blocks() {
        Ok(blocks) => {
            for live in blocks.values() {
                let owner = match live.what {
                    NodeKind::Leaf => 2,
                    NodeKind::Parent => 3,
                    NodeKind::OverflowValue => 5,
                    _ => 4,
                };
                push(live.block, owner);
            }
        }
        Err(error) => problems.push(error.to_string()),
    }
    let owners = file.owners();
    owners.log.iter().for_each(|block| push(*block, LOG));
    owners.state.iter().for_each(|block| push(*block, STATE));
    let layout = &file.read.layout;
    for region in 0..layout.region_count(file.pages.allocator().file_pages()) {
        let start = layout.region_start(region);
        push(Block::new(start, layout.fixed_pages(region)), HEADER);
    }
    runs
}

fn space(file: &DurableFile, width: u64) -> Space {
    let mut problems = Vec::new();
    let layout = &file.read.layout;
    let stats = file.pages.allocator().stats();
    let file_pages = stats.file_pages;
    let runs = runs(file, &mut problems);
    let region_pages = u64::from(layout.region_pages());
    let largest = file_pages.min(region_pages);
    // About twelve lines to a region.
    let pages_per_character = largest.div_ceil(width * 12).max(1);
    // What a character stands for: pages by owner, told by the last run that has them.
    let mut owner_of: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for (first, end, owner) in runs {
        cover(&mut owner_of, first, end.min(file_pages), owner);
    }
    let mut totals = [0_u64; OWNERS.len()];
    let region_count = layout.region_count(file_pages);
    let mut regions = Vec::new();
    for region in 0..region_count {
        let start = region * region_pages;
        let pages = region_pages.min(file_pages - start);
        let mut map = String::new();
        for bucket in 0..pages.div_ceil(pages_per_character) {
            let first = start + bucket * pages_per_character;
            let end = (first + pages_per_character).min(start + pages);
            let counts = count(&owner_of, first, end);
            let most = (1..OWNERS.len()).rev().max_by_key(|owner| counts[*owner]).unwrap_or(FREE);
            let owner = if counts[FREE] >= counts[most] { FREE } else { most };
            map.push(OWNERS[owner].0);
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
        regions.push(map);
    }
    Space {
        page_size: layout.page_size,
        file_pages,
        free_pages: stats.free_pages,
        free_runs: stats.free_run_count,
        longest_free_run: stats.longest_free_run,
        fragmentation: (stats.fragmentation() * 1000.0).round() / 1000.0,
        pages: OWNERS.iter().zip(totals).map(|((_, name), total)| (*name, total)).collect(),
        pages_per_character,
        regions,
        problems,
    }
}

/// Puts a run over what was there.
fn cover(owner_of: &mut BTreeMap<u64, (u64, usize)>, first: u64, end: u64, owner: usize) {
    if first >= end {
        return;
    }
    let before = owner_of.range(..first).next_back().map(|(at, run)| (*at, *run));
    if let Some((at, (old_end, old))) = before
        && old_end > first
    {
        owner_of.insert(at, (first, old));
        if old_end > end {
            owner_of.insert(end, (old_end, old));
        }
    }
    let inside: Vec<u64> = owner_of.range(first..end).map(|(at, _)| *at).collect();
    for at in inside {
        if let Some((old_end, old)) = owner_of.remove(&at)
            && old_end > end
        {
            owner_of.insert(end, (old_end, old));
        }
    }
    owner_of.insert(first, (end, owner));
}

/// The pages from `first` to before `end`, by owner.
fn count(owner_of: &BTreeMap<u64, (u64, usize)>, first: u64, end: u64) -> [u64; OWNERS.len()] {
    let mut counts = [0; OWNERS.len()];
    let before = owner_of.range(..first).next_back();
    for (at, (run_end, owner)) in before.into_iter().chain(owner_of.range(first..end)) {
        let (from, to) = ((*at).max(first), (*run_end).min(end));
        counts[*owner] += to.saturating_sub(from);
    }
    counts[FREE] = (end - first) - counts[1..].iter().sum::<u64>();
    counts
}

fn print(space: &Space, width: usize) -> std::io::Result<()> {
    let mut out = output::out();
    let bytes = |pages: u64| units::bytes(pages * u64::from(space.page_size));
    line(&mut out, "file", bytes(space.file_pages))?;
    line(
        &mut out,
        "free",
        format!(
            "{} in {} runs, the longest {}, fragmentation {:.3}",
            bytes(space.free_pages),
            units::count(space.free_runs),
            bytes(space.longest_free_run),
            space.fragmentation
        ),
    )?;
    writeln!(out)?;
    let mut table = Table::new(2, &["", "", "pages", "size", "share"]);
    for (character, name) in OWNERS {
        let pages = space.pages.get(name).copied().unwrap_or(0);
        table.row(vec![
            character.to_string(),
            name.to_owned(),
            units::count(pages),
            bytes(pages),
            units::percent(pages, space.file_pages),
        ]);
    }
    table.print(&mut out)?;
    writeln!(out, "(what only snapshots of a process that has the file open need is free here)")?;
    writeln!(out, "\neach character: {}", bytes(space.pages_per_character))?;
    for (index, region) in space.regions.iter().enumerate() {
        writeln!(out, "region {index}")?;
        let characters: Vec<char> = region.chars().collect();
        for row in characters.chunks(width) {
            writeln!(out, "  {}", row.iter().collect::<String>())?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_runs_lie_over_earlier_ones() {
        let mut owners = BTreeMap::new();
        let mut model = [FREE; 60];
        for step in 0..200_u64 {
            let (first, owner) = (step * 37 % 50, (step % 9 + 1) as usize);
            let end = first + step * 13 % 11;
            cover(&mut owners, first, end, owner);
            model[first as usize..end as usize].fill(owner);
            let counts = count(&owners, 5, 43);
            let expected = |owner| model[5..43].iter().filter(|found| **found == owner).count();
            assert!((0..OWNERS.len()).all(|owner| counts[owner] == expected(owner) as u64));
        }
    }
}
