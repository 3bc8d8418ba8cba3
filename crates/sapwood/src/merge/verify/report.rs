//! What a check found.

use std::fmt;

use super::problem::{Problem, Problems};
use super::walk::WalkCounts;
use crate::page::PageManager;
use crate::state::Contents;
use crate::types::Epoch;

/// The outcome of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// The state that was checked.
    pub epoch: Epoch,
    /// Segments of all keyspaces, young ones included.
    pub segments: u64,
    /// Nodes that were read.
    pub nodes: u64,
    /// Leaves among them.
    pub leaves: u64,
    /// Entries in those leaves, tombstones and overwritten versions included.
    pub entries: u64,
    /// Values that lie in blocks of their own.
    pub overflow_values: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Nodes that could not be read, with all that lies below them.
    pub unreadable_nodes: u64,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the file.
    pub file_pages: u64,
    /// Pages of nodes and overflow values that the walk found in use.
    pub live_pages: u64,
    /// Pages that the maps say the state and the log use.
    pub referenced_pages: u64,
    /// Pages that may be given out.
    pub free_pages: u64,
    /// Pages that are dead and wait for a reader, a durable state or the log.
    pub held_pages: u64,
    /// Pages that are given out and that nothing accounts for.
    pub unowned_pages: u64,
    /// Whether the maps were compared with what is in use.
    pub space_checked: bool,
    /// Whether steps may have been under way, so that pages without owner are no problem.
    pub busy: bool,
    /// What is wrong, at most as many findings as a report holds.
    pub problems: Vec<Problem>,
    /// How much is wrong in all.
    pub problem_count: u64,
}

impl VerifyReport {
    pub(super) fn new(pages: &PageManager, contents: &Contents, counts: &WalkCounts) -> Self {
        let stats = pages.allocator().stats();
        let levels = contents.levels.values().map(|levels| levels.iter().count()).sum::<usize>();
        VerifyReport {
            epoch: contents.epoch,
            segments: (contents.young.len() + levels) as u64,
            nodes: counts.nodes,
            leaves: counts.leaves,
            entries: counts.entries,
            overflow_values: counts.overflow_values,
            bytes_read: counts.bytes_read,
            unreadable_nodes: counts.unreadable,
            page_size: pages.layout().page_size,
            file_pages: stats.file_pages,
            live_pages: counts.live.page_count(),
            free_pages: stats.free_pages,
            ..VerifyReport::default()
        }
    }

    pub(super) fn take(&mut self, problems: Problems) {
        self.problems = problems.list;
        self.problem_count = problems.count;
    }

    /// Adds a problem that was found elsewhere, such as in the log or in a header slot.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn add(&mut self, problem: Problem) {
        let list = std::mem::take(&mut self.problems);
        let mut problems = Problems { list, count: self.problem_count };
        problems.push(problem);
        self.take(problems);
    }

    /// True when nothing is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("state", self.epoch.0),
            ("segments", self.segments),
            ("nodes", self.nodes),
            ("leaves", self.leaves),
            ("entries", self.entries),
            ("overflow values", self.overflow_values),
            ("bytes read", self.bytes_read),
            ("pages of the file", self.file_pages),
            ("pages in use", self.live_pages),
            ("pages referenced", self.referenced_pages),
            ("pages held", self.held_pages),
            ("pages free", self.free_pages),
        ];
        for (name, number) in lines {
            writeln!(f, "{name:<18} {number:>16}")?;
        }
        if self.unowned_pages > 0 {
            let why = if self.busy { "steps may be under way" } else { "leaked" };
            writeln!(f, "{:<18} {:>16}  ({why})", "pages unowned", self.unowned_pages)?;
        }
        if !self.space_checked {
            writeln!(f, "the free maps could not be compared")?;
        }
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        match self.problem_count {
            0 => f.write_str("nothing is wrong"),
            count if count > self.problems.len() as u64 => {
                write!(f, "{count} problems, of which the first {} are listed", self.problems.len())
            }
            1 => f.write_str("1 problem"),
            count => write!(f, "{count} problems"),
        }
    }
}
