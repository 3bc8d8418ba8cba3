//! Medians with their spread, and how each engine does beside the best peer.

use std::fmt::Write as _;

use serde::Serialize;

use crate::Outcome;
use crate::compare::{Metric, Plan, Sample};
use crate::engines::Name;

/// One line: a metric and every engine's figures.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    pub more_is_better: bool,
    pub cells: Vec<Cell>,
}

/// One engine's figures for a metric.
#[derive(Debug, Serialize)]
pub struct Cell {
    pub engine: Name,
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
    /// Above 1 the engine does better than the best of the peers; 2 means twice as fast, or half
    /// as large. A peer is any engine but Sapwood. `None` where that says nothing.
    pub to_best_peer: Option<f64>,
}

pub fn rows(samples: &[Sample], engines: &[Name]) -> Vec<Row> {
    let mut metrics: Vec<Metric> = Vec::new();
    for sample in samples {
        if !metrics.contains(&sample.metric) {
            metrics.push(sample.metric);
        }
    }
    // Rates first, then what the loads left behind.
    metrics.sort_by_key(|metric| match metric {
        Metric::Rate(_) => 0,
        Metric::Settle(_) => 1,
        Metric::DiskBytes(_) => 2,
    });
    metrics.into_iter().map(|metric| row(metric, samples, engines)).collect()
}

fn row(metric: Metric, samples: &[Sample], engines: &[Name]) -> Row {
    let (name, unit, more_is_better) = match metric {
        Metric::Rate(workload) => (format!("{workload:?}"), "per s", true),
        Metric::Settle(workload) => (format!("{workload:?}, settling"), "s", false),
        Metric::DiskBytes(workload) => (format!("{workload:?}, size"), "bytes", false),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for &engine in engines {
        let wanted = |sample: &&Sample| sample.metric == metric && sample.engine == engine;
        let mut figures: Vec<f64> = samples.iter().filter(wanted).map(|s| s.figure).collect();
        figures.sort_by(f64::total_cmp);
        if let (Some(&least), Some(&greatest)) = (figures.first(), figures.last()) {
            let median = median(&figures);
            cells.push(Cell { engine, median, least, greatest, to_best_peer: None });
        }
    }
    if !matches!(metric, Metric::Settle(_)) {
        compare(&mut cells, more_is_better);
    }
    Row { name, unit, more_is_better, cells }
}

fn compare(cells: &mut [Cell], more_is_better: bool) {
    let peers = cells.iter().filter(|cell| cell.engine != Name::Sapwood).map(|cell| cell.median);
    let best = if more_is_better { peers.reduce(f64::max) } else { peers.reduce(f64::min) };
    let Some(best) = best else { return };
    for cell in cells {
        let ratio = if more_is_better { cell.median / best } else { best / cell.median };
        cell.to_best_peer = Some(ratio);
    }
}

/// The middle of sorted figures; the mean of the two in the middle when their number is even.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

pub fn json(plan: &Plan, rows: &[Row]) -> Outcome<String> {
    #[derive(Serialize)]
    struct Report<'a> {
        sizes: &'a crate::Sizes,
        rounds: u32,
        rows: &'a [Row],
    }
    let report = Report { sizes: &plan.sizes, rounds: plan.rounds, rows };
    Ok(serde_json::to_string_pretty(&report)?)
}

pub fn table(plan: &Plan, rows: &[Row]) -> String {
    let mut lines = vec![heading(&plan.engines)];
    lines.extend(rows.iter().map(|row| line(row, &plan.engines)));
    let mut text = aligned(&lines);
    let sizes = &plan.sizes;
    let _ = writeln!(
        text,
        "\n{} pairs of 16 + 100 bytes, {} reads, {} durable commits, {} MiB of memory (LMDB: the \
         page cache), median of {} rounds (least..greatest).\n\
         x: to the best peer (any engine but sapwood); above 1 is better, in sizes too.",
        sizes.pairs, sizes.reads, sizes.commits, sizes.memory_mib, plan.rounds
    );
    text
}

fn heading(engines: &[Name]) -> Vec<String> {
    let mut cells = vec!["workload".to_owned(), "unit".to_owned()];
    for engine in engines {
        cells.extend([engine.text().to_owned(), String::new(), "x".to_owned()]);
    }
    cells
}

fn line(row: &Row, engines: &[Name]) -> Vec<String> {
    let mut cells = vec![row.name.clone(), row.unit.to_owned()];
    for &engine in engines {
        match row.cells.iter().find(|cell| cell.engine == engine) {
            Some(cell) => cells.extend([
                short(cell.median),
                format!("({}..{})", short(cell.least), short(cell.greatest)),
                cell.to_best_peer.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            ]),
            None => cells.extend(["-".to_owned(), String::new(), String::new()]),
        }
    }
    cells
}

/// The first column to the left, all others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let column_count = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..column_count).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut whole = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(whole, "{cell:<width$}"),
                _ => write!(whole, "  {cell:>width$}"),
            };
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    }
    text
}

/// Three digits and a letter for the thousands.
fn short(figure: f64) -> String {
    let (scaled, letter) = match figure {
        f if f >= 1e9 => (f / 1e9, "G"),
        f if f >= 1e6 => (f / 1e6, "M"),
        f if f >= 1e3 => (f / 1e3, "k"),
        f => (f, ""),
    };
    match scaled {
        f if f >= 100.0 => format!("{f:.0}{letter}"),
        f if f >= 10.0 => format!("{f:.1}{letter}"),
        f => format!("{f:.2}{letter}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;

    fn samples(metric: Metric, engine: Name, figures: &[f64]) -> Vec<Sample> {
        figures.iter().map(|&figure| Sample { metric, engine, figure }).collect()
    }

    #[test]
    fn the_median_and_the_ratio_to_the_best_peer_are_shown() {
        let metric = Metric::Rate(Workload::Scan);
        let mut all = samples(metric, Name::Sapwood, &[300.0, 100.0, 200.0]);
        all.extend(samples(metric, Name::Redb, &[50.0]));
        all.extend(samples(metric, Name::Lmdb, &[400.0, 400.0]));
        let rows = rows(&all, &[Name::Sapwood, Name::Redb, Name::Lmdb]);
        let cells = &rows[0].cells;
        assert_eq!((cells[0].least, cells[0].median, cells[0].greatest), (100.0, 200.0, 300.0));
        assert_eq!(cells[0].to_best_peer, Some(0.5));
        assert_eq!(cells[1].to_best_peer, Some(0.125));
        assert_eq!(cells[2].to_best_peer, Some(1.0));
    }

    #[test]
    fn a_smaller_file_has_a_ratio_above_one() {
        let metric = Metric::DiskBytes(Workload::RandomLoad);
        let mut all = samples(metric, Name::Sapwood, &[100.0]);
        all.extend(samples(metric, Name::Redb, &[250.0]));
        let rows = rows(&all, &[Name::Sapwood, Name::Redb]);
        assert_eq!(rows[0].cells[0].to_best_peer, Some(2.5));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(short(0.5), "0.50");
        assert_eq!(short(12.34), "12.3");
        assert_eq!(short(1_234_567.0), "1.23M");
    }

    #[test]
    fn columns_are_aligned() {
        let lines = [vec!["a".to_owned(), "10".to_owned()], vec!["abc".to_owned(), "9".to_owned()]];
        assert_eq!(aligned(&lines), "a    10\nabc   9\n");
    }
}
