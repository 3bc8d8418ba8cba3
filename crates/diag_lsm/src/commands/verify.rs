//! `verify`: every checksum, order, count and reference of the last durable state, its maps, and
//! the log
//! behind it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sapwood::log::operation::operations;
use sapwood::log::record::RecordKind;
use sapwood::merge::verify::{Problem, VerifyReport, verify_state};
use sapwood::page::SlotProblem;
use serde::Serialize;

use crate::Outcome;
use crate::file::{DurableFile, look_steadily, slots};
use crate::output::{self, line};
use crate::units;

#[derive(Serialize)]
struct Verified {
    clean: bool,
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

pub fn run(path: &Path, json: bool) -> Outcome {
    let began = Instant::now();
    let verified = look_steadily(
        path,
        |file| {
            let mut notes = Vec::new();
            let (report, log_records) = check(file, &mut notes)?;
            Ok(verified(file, report, log_records, notes, began.elapsed()))
        },
        |verified| verified.clean,
    )?;
    if json {
        output::json(&verified)?;
    } else {
        print(&verified)?;
    }
    Ok(if verified.clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(
    file: &DurableFile,
    notes: &mut Vec<String>,
) -> Result<(VerifyReport, u64), Box<dyn std::error::Error>> {
    let bar = output::progress(0, "verifying");
    let owners = file.maps_problem.is_none().then(|| file.owners());
    let mut report =
        verify_state(&file.pages, file.contents(), owners.as_ref(), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
            true
        })?;
    bar.finish_and_clear();
    if let Some(problem) = &file.maps_problem {
        report.add(Problem::from(problem));
    }
    check_slots(file, &mut report, notes)?;
    let (records, replayed) = file.read_log(|records: &mut u64, record| {
        *records += 1;
        if record.kind == RecordKind::Commit {
            operations(record.payload)?.try_for_each(|operation| operation.map(drop))?;
        }
        Ok(())
    });
    if let Err(error) = replayed {
        report.add(Problem::from(&error));
    }
    Ok((report, records))
}

/// A slot that does not count may be one that a crash has torn; after a clean close it is damage.
fn check_slots(
    file: &DurableFile,
    report: &mut VerifyReport,
    notes: &mut Vec<String>,
) -> sapwood::Result<()> {
    let clean = file.read.manifest.counters.clean.is_some();
    for (index, slot) in slots(&*file.storage)?.iter().enumerate() {
        let Err(problem) = slot else { continue };
        if *problem == SlotProblem::NoMark && file.read.slot.generation == 1 {
            continue;
        }
        if clean {
            report.add(Problem {
                structure: Some(sapwood::Structure::FileHeader),
                page: Some(file.read.layout.region_start(0)),
                keyspace: None,
                text: format!("header slot {index}: {problem}"),
            });
        } else {
            notes.push(format!("header slot {index} does not count ({problem}), as after a crash"));
        }
    }
    let newest = slots(&*file.storage)?.into_iter().flatten().map(|slot| slot.generation).max();
    if newest.is_some_and(|newest| newest > file.read.slot.generation) && !file.has_changed() {
        report.add(Problem {
            structure: Some(sapwood::Structure::State),
            page: None,
            keyspace: None,
            text: "the newest state cannot be read; this is the one before it".into(),
        });
    }
    Ok(())
}

fn verified(
    file: &DurableFile,
    report: VerifyReport,
    log_records: u64,
    notes: Vec<String>,
    took: Duration,
) -> Verified {
    let problems = report.problems.iter().map(|problem| Found {
        page: problem.page.map(|page| page.0),
        structure: problem.structure.map(|structure| structure.to_string()),
        keyspace: problem.keyspace.map(|keyspace| file.keyspace_name(keyspace.0)),
        text: problem.text.clone(),
    });
    Verified {
        clean: report.is_clean(),
        epoch: report.epoch.0,
        segments: report.segments,
        nodes: report.nodes,
        leaves: report.leaves,
        entries: report.entries,
        overflow_values: report.overflow_values,
        log_records,
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
    line(&mut out, "pages free", units::count(verified.free_pages))?;
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
        0 => writeln!(out, "nothing is wrong")?,
        1 => writeln!(out, "1 problem")?,
        count if count > verified.problems.len() as u64 => {
            writeln!(out, "{count} problems; the first {} are listed", verified.problems.len())?;
        }
        count => writeln!(out, "{count} problems")?,
    }
    out.flush()
}

/// What is wrong with a file, in words: for other commands.
pub fn problems(path: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let file = DurableFile::open(path)?;
    let (report, _) = check(&file, &mut Vec::new())?;
    Ok(report.problems.iter().map(ToString::to_string).collect())
}
