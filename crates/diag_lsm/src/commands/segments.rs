//! `segments`: every segment, with what its parents and some of its leaves show.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sapwood::segment::descriptor::Segment;
use serde::Serialize;

use crate::Outcome;
use crate::file::{DurableFile, look_steadily};
use crate::output::{self, Table};
use crate::shape::{leaf_count, shape};
use crate::units;

#[derive(Serialize)]
struct Row {
    number: u64,
    keyspace: Option<String>,
    level: String,
    entries: u64,
    tombstones: u64,
    pages: u64,
    bytes: u64,
    height: u8,
    leaves: u64,
    leaf_fill_percent: Option<f64>,
    leaves_per_parent: Option<f64>,
    promoted_ranges: u64,
    first_commit: Option<u64>,
    last_commit: Option<u64>,
    least_key: Option<String>,
    greatest_key: Option<String>,
    unreadable_nodes: u64,
    first_error: Option<String>,
}

pub fn run(path: &Path, json: bool) -> Outcome {
    let is_sound = |rows: &Vec<Row>| rows.iter().all(|row| row.unreadable_nodes == 0);
    let rows = look_steadily(path, |file| Ok(rows(file)), is_sound)?;
    if json {
        output::json(&rows)?;
    } else {
        print(&rows)?;
    }
    for error in rows.iter().filter_map(|row| row.first_error.as_ref()) {
        eprintln!("diag_lsm: {error}");
    }
    let unreadable: u64 = rows.iter().map(|row| row.unreadable_nodes).sum();
    Ok(if unreadable == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn rows(file: &DurableFile) -> Vec<Row> {
    let page_size = u64::from(file.read.layout.page_size);
    let segments = file.segments();
    let bar = output::progress(leaf_count(&segments), "looking at leaves");
    let row = |(keyspace, level, segment): &(Option<u32>, String, Arc<Segment>)| {
        let trees = || segment.points.iter().chain(&segment.ranges);
        let points = segment.points.as_ref();
        let depths = points
            .map(|root| shape(&file.pages, root, *keyspace, &segment.promoted, &bar))
            .unwrap_or_default();
        let leaves = depths.iter().find(|depth| depth.height == 0);
        let lowest = depths.iter().find(|depth| depth.height == 1);
        let ratio = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Row {
            number: segment.number,
            keyspace: keyspace.map(|number| file.keyspace_name(number)),
            level: level.clone(),
            entries: segment.entries(),
            tombstones: units::sum(trees().map(|tree| tree.tombstones)),
            pages: segment.pages(),
            bytes: segment.pages().saturating_mul(page_size),
            height: trees().map(|tree| tree.height).max().unwrap_or(0),
            leaves: units::sum(trees().map(|tree| tree.leaves)),
            leaf_fill_percent: leaves
                .and_then(|depth| ratio(depth.used_bytes, depth.usable_bytes))
                .map(|share| (share * 1000.0).round() / 10.0),
            leaves_per_parent: lowest.and_then(|depth| ratio(depth.children, depth.nodes)),
            promoted_ranges: segment.promoted.len() as u64,
            first_commit: segment.sequences.map(|(first, _)| first.0),
            last_commit: segment.sequences.map(|(_, last)| last.0),
            least_key: segment.bounds.as_ref().map(|bounds| units::key(&bounds.least)),
            greatest_key: segment.bounds.as_ref().map(|bounds| units::key(&bounds.greatest)),
            unreadable_nodes: depths.iter().map(|depth| depth.unreadable).sum(),
            first_error: depths.iter().find_map(|depth| depth.first_error.clone()),
        }
    };
    let rows = segments.iter().map(row).collect();
    bar.finish_and_clear();
    rows
}

fn print(rows: &[Row]) -> std::io::Result<()> {
    let mut table = Table::new(
        2,
        &[
            "keyspace",
            "level",
            "number",
            "entries",
            "tombstones",
            "size",
            "height",
            "leaves",
            "leaf fill",
            "leaves/parent",
            "promoted",
        ],
    );
    for row in rows {
        table.row(vec![
            row.keyspace.clone().unwrap_or_else(|| "(all)".into()),
            row.level.clone(),
            row.number.to_string(),
            units::count(row.entries),
            units::count(row.tombstones),
            units::bytes(row.bytes),
            row.height.to_string(),
            units::count(row.leaves),
            row.leaf_fill_percent.map_or("-".into(), |fill| format!("{fill:.1} %")),
            row.leaves_per_parent.map_or("-".into(), |count| format!("{count:.1}")),
            row.promoted_ranges.to_string(),
        ]);
    }
    let mut out = output::out();
    table.print(&mut out)?;
    out.flush()
}
