//! `verify`: every checksum, order, count and reference of the last durable state, its maps, and
//! the log behind it.
//!
//! Beside a process that writes the file it reads the state once: what that process has replaced
//! before it was read is judged as of newer states, and free space is not judged. Where even that
//! was replaced again and again it says so, with exit status 1: it has not seen that all is well.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sapwood::log::operation::operations;
use sapwood::log::record::RecordKind;
use sapwood::merge::verify::{Meanwhile, Problem, VerifyReport, verify_written};
use sapwood::page::file_header::Slots;
use serde::Serialize;

use crate::Outcome;
use crate::file::{
    DurableFile, NOT_THE_NEWEST, NewestState, looked_at, open_storage, slots, steadily,
};
use crate::output::{self, line};
use crate::units;

#[derive(Serialize)]
struct Verified {
    /// Nothing that was judged is wrong.
    clean: bool,
    /// Everything could be judged, but for free space.
    complete: bool,
    /// Another process made a newer state durable meanwhile.
    written_meanwhile: bool,
    /// Whether the free maps were compared with what is in use.
    space_checked: bool,
    /// Nodes and values that newer states replaced before they were read.
    replaced: u64,
    /// Those that were replaced so often that they were not judged.
    given_up: u64,
    epoch: u64,
    segments: u64,
    nodes: u64,
    leaves: u64,
    entries: u64,
    overflow_values: u64,
    log_records: u64,
    bytes_read: u64,
    seconds: f64,
    file_pages: u64,
    live_pages: u64,
    referenced_pages: u64,
    free_pages: u64,
    unreadable_nodes: u64,
    problem_count: u64,
    problems: Vec<Found>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    page: Option<u64>,
    structure: Option<String>,
    keyspace: Option<String>,
    text: String,
}

/// What a check gives.
struct Checked {
    report: VerifyReport,
    meanwhile: Meanwhile,
    /// `None`: the log was not judged.
    log_records: Option<u64>,
    notes: Vec<String>,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub fn run(path: &Path, json: bool) -> Outcome {
    let began = Instant::now();
    let storage = open_storage(path)?;
    let file = steadily(&*storage, || DurableFile::over(storage.clone()), |_| true)?;
    let checked = check(&file)?;
    let verified = verified(&file, checked, began.elapsed());
    if json {
        output::json(&verified)?;
    } else {
        print(&verified)?;
    }
    let is_well = verified.clean && verified.complete;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(file: &DurableFile) -> Result<Checked> {
    let bar = output::progress(0, "verifying");
    let owners = file.maps_problem.is_none().then(|| file.owners());
    let mut newest = NewestState::after(file);
    let (mut report, mut meanwhile) = verify_written(
        &file.pages,
        file.contents(),
        owners.as_ref(),
        file.read.slot.generation,
        &mut |generation| newest.other_than(generation),
        &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            true
        },
    )?;
    bar.finish_and_clear();
    let mut notes = Vec::new();
    let log_records = check_log(file, &mut report, &mut notes)?;
    let now = slots(&*file.storage)?;
    meanwhile.moved |= now != file.slots;
    if !meanwhile.moved {
        check_slots(file, &now, &mut report, &mut notes);
        if let Some(problem) = &file.maps_problem {
            report.add(Problem::from(problem));
        }
    }
    Ok(Checked { report, meanwhile, log_records, notes })
}

/// Reads the records behind the state's cut, or behind that of the newest state when the writer
/// has let go of those; how many there are.
fn check_log(
    file: &DurableFile,
    report: &mut VerifyReport,
    notes: &mut Vec<String>,
) -> Result<Option<u64>> {
    let read = |file: &DurableFile| {
        file.read_log(|records: &mut u64, record| {
            *records += 1;
            if record.kind == RecordKind::Commit {
                operations(record.payload)?.try_for_each(|operation| operation.map(drop))?;
            }
            Ok(())
        })
    };
    let (mut log, mut is_steady) = (Ok(read(file)), true);
    if log.as_ref().is_ok_and(|(_, replayed)| replayed.is_err()) && file.has_changed() {
        let storage = &file.storage;
        let look = || Ok(read(&DurableFile::over(storage.clone())?));
        (log, is_steady) = looked_at(&**storage, look, |(_, replayed)| replayed.is_ok())?;
    }
    let (problem, records) = match log {
        Ok((records, Ok(_))) => return Ok(Some(records)),
        Ok((records, Err(error))) => (Problem::from(&error), records),
        Err(error) if is_steady => return Err(error),
        Err(error) => (Problem::new(None, None, error.to_string()), 0),
    };
    if is_steady {
        report.add(problem);
        return Ok(Some(records));
    }
    notes.push("the log was written over each time while it was read, so not judged".into());
    notes.push(format!("not judged: {problem}"));
    Ok(None)
}

/// A slot that does not count may be one that a crash has torn; after a clean close it is damage.
fn check_slots(
    file: &DurableFile,
    slots: &Slots,
    report: &mut VerifyReport,
    notes: &mut Vec<String>,
) {
    for (index, problem) in file.bad_slots(slots) {
        if file.is_closed_cleanly() {
            report.add(Problem::new(
                Some(sapwood::Structure::FileHeader),
                Some(file.read.layout.region_start(0)),
                format!("header slot {index}: {problem}"),
            ));
        } else {
            notes.push(format!("header slot {index} does not count ({problem}), as after a crash"));
        }
    }
    if file.is_behind(slots) {
        report.add(Problem::new(Some(sapwood::Structure::State), None, NOT_THE_NEWEST.into()));
    }
}

/// What is said of a file that was written meanwhile.
fn tell_meanwhile(report: &VerifyReport, meanwhile: &Meanwhile, notes: &mut Vec<String>) {
    if !meanwhile.moved {
        return;
    }
    let epoch = report.epoch;
    notes.push(format!("another process wrote the file meanwhile: this is of state {epoch}"));
    if !report.space_checked {
        notes.push("free space was not judged, since it is newer than what was read".into());
    }
    if meanwhile.replaced > 0 {
        let count = units::count(meanwhile.replaced);
        notes.push(format!("replaced before they were read, so judged by newer states: {count}"));
    }
    if meanwhile.given_up > 0 {
        let count = units::count(meanwhile.given_up);
        notes.push(format!("replaced again and again, so not judged: {count}"));
        let unjudged = meanwhile.unjudged.iter();
        notes.extend(unjudged.map(|problem| format!("not judged: {problem}")));
    }
}

fn verified(file: &DurableFile, checked: Checked, took: Duration) -> Verified {
    let Checked { report, meanwhile, log_records, mut notes } = checked;
    tell_meanwhile(&report, &meanwhile, &mut notes);
    let problems = report.problems.iter().map(|problem| Found {
        page: problem.page.map(|page| page.0),
        structure: problem.structure.map(|structure| structure.to_string()),
        keyspace: problem.keyspace.map(|keyspace| file.keyspace_name(keyspace.0)),
        text: problem.text.clone(),
    });
    Verified {
        clean: report.is_clean(),
        complete: meanwhile.given_up == 0 && log_records.is_some(),
        written_meanwhile: meanwhile.moved,
        space_checked: report.space_checked,
        replaced: meanwhile.replaced,
        given_up: meanwhile.given_up,
        epoch: report.epoch.0,
        segments: report.segments,
        nodes: report.nodes,
        leaves: report.leaves,
        entries: report.entries,
        overflow_values: report.overflow_values,
        log_records: log_records.unwrap_or(0),
        bytes_read: report.bytes_read,
        seconds: took.as_secs_f64(),
        file_pages: report.file_pages,
        live_pages: report.live_pages,
        referenced_pages: report.referenced_pages,
        free_pages: report.free_pages,
        unreadable_nodes: report.unreadable_nodes,
        problem_count: report.problem_count,
        problems: problems.collect(),
        notes,
    }
}

fn print(verified: &Verified) -> std::io::Result<()> {
    let mut out = output::out();
    line(&mut out, "state", verified.epoch)?;
    line(&mut out, "segments", units::count(verified.segments))?;
    line(&mut out, "nodes", units::count(verified.nodes))?;
    line(&mut out, "leaves", units::count(verified.leaves))?;
    line(&mut out, "entries", units::count(verified.entries))?;
    line(&mut out, "overflow values", units::count(verified.overflow_values))?;
    line(&mut out, "log records", units::count(verified.log_records))?;
    let took = units::time(Duration::from_secs_f64(verified.seconds));
    line(&mut out, "read", format!("{} in {took}", units::bytes(verified.bytes_read)))?;
    line(&mut out, "pages in use", units::count(verified.live_pages))?;
    if verified.space_checked {
        line(&mut out, "pages free", units::count(verified.free_pages))?;
    }
    for note in &verified.notes {
        writeln!(out, "note: {note}")?;
    }
    for problem in &verified.problems {
        let place = problem.page.map_or("the file".to_owned(), |page| format!("page {page}"));
        let what = problem.structure.as_ref().map_or(String::new(), |what| format!(", {what}"));
        let keyspace = &problem.keyspace;
        let of = keyspace.as_ref().map_or(String::new(), |name| format!(" of keyspace {name:?}"));
        writeln!(out, "{place}{what}{of}: {}", problem.text)?;
    }
    match verified.problem_count {
        0 if verified.complete => writeln!(out, "nothing is wrong")?,
        0 => writeln!(
            out,
            "nothing is wrong with what could be judged beside the process that writes; the rest \
             is listed above: try again, or close the database there first"
        )?,
        1 => writeln!(out, "1 problem")?,
        count if count > verified.problems.len() as u64 => {
            writeln!(out, "{count} problems; the first {} are listed", verified.problems.len())?;
        }
        count => writeln!(out, "{count} problems")?,
    }
    out.flush()
}

/// What is wrong with a file, in words: for other commands.
pub fn problems(path: &Path) -> Result<Vec<String>> {
    let file = DurableFile::open(path)?;
    let report = check(&file)?.report;
    Ok(report.problems.iter().map(ToString::to_string).collect())
}
