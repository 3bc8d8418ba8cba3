//! `log`: the records behind the durable state's cut.

use std::io::Write;
use std::process::ExitCode;

use sapwood::log::operation::{LogOperation, operations};
use sapwood::log::record::{Record, RecordKind};
use serde::Serialize;

use crate::Outcome;
use crate::args::LogArguments;
use crate::file::{DurableFile, look_steadily};
use crate::output::{self, Table, line};
use crate::units;

#[derive(Serialize)]
struct Log {
    cut: u64,
    end: Option<u64>,
    durable: Option<u64>,
    blocks: usize,
    bytes: u64,
    record_count: u64,
    records: Vec<Row>,
    problem: Option<String>,
}

#[derive(Serialize)]
struct Row {
    position: u64,
    bytes: u64,
    kind: &'static str,
    sequence: Option<u64>,
    operations: Option<u64>,
    milliseconds_since_1970: Option<u64>,
    detail: String,
}

pub fn run(arguments: &LogArguments, json: bool) -> Outcome {
    let look = |file: &DurableFile| Ok(read(file, arguments.limit));
    let log = look_steadily(&arguments.file, look, |log| log.problem.is_none())?;
    if json {
        output::json(&log)?;
    } else {
        print(&log)?;
    }
    match &log.problem {
        None => Ok(ExitCode::SUCCESS),
        Some(problem) => {
            eprintln!("diag_lsm: {problem}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read(file: &DurableFile, limit: usize) -> Log {
    let ((records, record_count), ended) =
        file.read_log(|(records, count): &mut (Vec<Row>, u64), record| {
            *count += 1;
            if records.len() < limit {
                records.push(row(record));
            }
            Ok(())
        });
    Log {
        cut: file.contents().cut.position.0,
        end: ended.as_ref().ok().map(|end| end.position.0),
        durable: ended.as_ref().ok().map(|end| end.durable.0),
        blocks: file.read.manifest.log.blocks.len(),
        bytes: file.log_bytes(),
        record_count,
        records,
        problem: ended.as_ref().err().map(ToString::to_string),
    }
}

fn row(record: &Record<'_>) -> Row {
    let mut row = Row {
        position: record.position.0,
        bytes: record.end.0.saturating_sub(record.position.0),
        kind: match record.kind {
            RecordKind::Commit => "commit",
            RecordKind::CommitByReference => "commit by reference",
            RecordKind::StateDurable => "state is durable",
            RecordKind::Padding => "padding",
            RecordKind::Opened => "opened",
        },
        sequence: record.kind.is_commit().then_some(record.sequence.0),
        operations: None,
        milliseconds_since_1970: None,
        detail: String::new(),
    };
    match record.kind {
        RecordKind::Commit => {
            row.milliseconds_since_1970 = record.commit_time().ok();
            match operations(record.payload) {
                Ok(operations) => count(&mut row, operations),
                Err(error) => row.detail = error.to_string(),
            }
        }
        RecordKind::StateDurable => match record.state_durable() {
            Ok((epoch, generation)) => {
                row.detail = format!("state {epoch}, generation {generation}");
            }
            Err(error) => row.detail = error.to_string(),
        },
        _ => row.milliseconds_since_1970 = record.commit_time().ok(),
    }
    row
}

fn count<'a>(row: &mut Row, operations: impl Iterator<Item = sapwood::Result<LogOperation<'a>>>) {
    let mut counts =
        [("put", 0), ("overflow", 0), ("delete", 0), ("range delete", 0), ("keyspace", 0)];
    let mut total = 0;
    for operation in operations {
        let index = match operation {
            Ok(LogOperation::Put { .. }) => 0,
            Ok(LogOperation::PutOverflow { .. }) => 1,
            Ok(LogOperation::Delete { .. }) => 2,
            Ok(LogOperation::DeleteRange { .. }) => 3,
            Ok(_) => 4,
            Err(error) => {
                row.detail = error.to_string();
                return;
            }
        };
        counts[index].1 += 1;
        total += 1;
    }
    row.operations = Some(total);
    let parts = counts.iter().filter(|(_, count)| *count > 0);
    let parts: Vec<_> = parts.map(|(name, count)| format!("{count} {name}")).collect();
    row.detail = parts.join(", ");
}

fn print(log: &Log) -> std::io::Result<()> {
    let mut out = output::out();
    line(&mut out, "log", format!("{} in {} blocks", units::bytes(log.bytes), log.blocks))?;
    line(&mut out, "cut of the state", log.cut)?;
    if let Some(end) = log.end {
        line(&mut out, "end", end)?;
    }
    line(&mut out, "records", units::count(log.record_count))?;
    if !log.records.is_empty() {
        writeln!(out)?;
        let mut table =
            Table::new(1, &["kind", "position", "size", "commit", "operations", "what"]);
        for row in &log.records {
            table.row(vec![
                row.kind.to_owned(),
                row.position.to_string(),
                units::bytes(row.bytes),
                row.sequence.map_or("-".into(), |number| number.to_string()),
                row.operations.map_or("-".into(), |number| number.to_string()),
                row.detail.clone(),
            ]);
        }
        table.print(&mut out)?;
    }
    if log.record_count > log.records.len() as u64 {
        writeln!(out, "... (--limit shows more)")?;
    }
    out.flush()
}
