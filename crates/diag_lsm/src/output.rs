//! What is printed: JSON, aligned columns, lines of name and value; and progress on a terminal.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// So often the time of busy work is shown.
const TICK: Duration = Duration::from_millis(200);

/// Standard output, locked and buffered.
pub fn out() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let mut out = out();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Whether an error says that nobody reads our output any more.
pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.kind() == io::ErrorKind::BrokenPipe;
        }
        if let Some(error) = error.downcast_ref::<serde_json::Error>() {
            return error.io_error_kind() == Some(io::ErrorKind::BrokenPipe);
        }
        cause = error.source();
    }
    false
}

/// Columns, aligned; numbers to the right.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    left: usize,
    /// Numbers among the first columns.
    numbers: Vec<usize>,
}

impl Table {
    /// A table of these columns, of which the first `left` are text.
    pub fn new(left: usize, heads: &[&str]) -> Table {
        let heads = heads.iter().map(|head| (*head).to_owned()).collect();
        Table { rows: vec![heads], left, numbers: Vec::new() }
    }

    /// The same, but for these of the first columns, which are numbers.
    #[must_use]
    pub fn with_numbers_at(mut self, columns: &[usize]) -> Table {
        self.numbers = columns.to_vec();
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = " ".repeat(width - cell.chars().count());
                let is_text = index < self.left && !self.numbers.contains(&index);
                let cell = if is_text { cell.clone() + &pad } else { pad + cell };
                line.push_str(&cell);
                line.push_str("  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A line of a name and what it is.
pub fn line(out: &mut impl Write, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    writeln!(out, "{name:<20} {value}")
}

/// Progress on a terminal; elsewhere nothing is shown.
pub fn progress(total: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let template = format!("{what} {{bar:40}} {{percent:>3}} % {{eta}} left");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

/// The same towards a total that is asked for only where it is shown; without one, how long the
/// work has lasted.
pub fn progress_towards(total: impl FnOnce() -> Option<u64>, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match total() {
        Some(total) if total > 0 => progress(total, what),
        _ => busy(what),
    }
}

/// The same for work that does not say how far it is: how long it has lasted.
pub fn busy(what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let template = format!("{what} {{spinner}} {{elapsed}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}
