//! What runs did, counted.

use std::fmt;

use sapwood::Durability;
use serde::Serialize;

use super::disk::{Cut, CutKind};

/// Counts of what was done in one run or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Runs.
    pub runs: u64,
    /// Steps of workloads.
    pub steps: u64,
    /// Operations in those: changes, reads of a key, scans, moves of cursors.
    pub operations: u64,
    /// Acknowledged commits that asked for `Sync`.
    pub commits_sync: u64,
    /// Acknowledged commits that asked for `Buffered`.
    pub commits_buffered: u64,
    /// Acknowledged commits that asked for `Memory`.
    pub commits_memory: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Power cuts that ended a life.
    pub power_cuts: u64,
    /// Of those, cuts that lost whatever was not synced.
    pub cuts_that_lose_all: u64,
    /// Cuts that lost nothing.
    pub cuts_that_lose_none: u64,
    /// Cuts that kept only the oldest of the writes that were not synced.
    pub cuts_that_keep_the_oldest: u64,
    /// Cuts of which each write that was not synced was kept, lost or torn by itself, the younger
    /// perhaps without the older.
    pub cuts_that_tear_and_reorder: u64,
    /// Cuts of any kind at which there were writes that were not synced.
    pub cuts_with_unsynced_writes: u64,
    /// Cuts of any kind in a life that began after a kill and made a synced commit first.
    pub cuts_after_kill_and_sync: u64,
    /// Copies of what a power cut would have left, opened and compared.
    pub copies: u64,
    /// Databases of which everything was checked: each that was opened, and some in between.
    pub verifications: u64,
    /// Clean closes.
    pub closes: u64,
    /// Commits that failed with a conflict though nothing that they used had changed.
    pub false_conflicts: u64,
    /// Lives in which a write or sync failed.
    pub failed_writes: u64,
    /// Steps of the background that came in the middle of something else.
    pub steps_between: u64,
    /// Snapshots that were taken there.
    pub snapshots_between: u64,
    /// Compactions that were begun there.
    pub compactions_between: u64,
    /// Lives in which dead lists went to the file.
    pub lives_with_written_lists: u64,
}

impl Totals {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Totals) {
        let other = other.counts().map(|(_, count)| count);
        for (count, more) in self.counts_mut().into_iter().zip(other) {
            *count += more;
        }
    }

    /// True when there were so many power cuts, and at least a third of them after a kill, a reopen
    /// and one synced commit.
    #[must_use]
    pub fn has_cuts(&self, count: u64) -> bool {
        self.power_cuts >= count && self.cuts_after_kill_and_sync * 3 >= self.power_cuts
    }

    pub(crate) fn add_commit(&mut self, durability: Durability) {
        match durability {
            Durability::Sync => self.commits_sync += 1,
            Durability::Buffered => self.commits_buffered += 1,
            Durability::Memory => self.commits_memory += 1,
        }
    }

    pub(crate) fn add_cut(&mut self, cut: Cut) {
        self.power_cuts += 1;
        match cut.kind {
            CutKind::LosesAll => self.cuts_that_lose_all += 1,
            CutKind::LosesNone => self.cuts_that_lose_none += 1,
            CutKind::KeepsOldest => self.cuts_that_keep_the_oldest += 1,
            CutKind::TearsAndReorders => self.cuts_that_tear_and_reorder += 1,
        }
        self.cuts_with_unsynced_writes += u64::from(cut.unsynced_count > 0);
    }

    /// Every count with its name; indented ones are a part of what stands above.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 23] {
        let mut copy = *self;
        let names = [
            "runs",
            "steps",
            "operations",
            "commits, Sync",
            "commits, Buffered",
            "commits, Memory",
            "kills",
            "power cuts",
            "  all unsynced writes lost",
            "  none of them lost",
            "  only the oldest kept",
            "  lost, torn and reordered",
            "  with unsynced writes",
            "  after kill, reopen and one Sync",
            "copies of a cut opened",
            "verifications",
            "clean closes",
            "false conflicts",
            "lives with failed writes",
            "steps in the middle of others",
            "snapshots in the middle of others",
            "compactions in the middle of others",
            "lives with written dead lists",
        ];
        let mut counts = copy.counts_mut().into_iter();
        names.map(|name| (name, counts.next().map_or(0, |count| *count)))
    }

    fn counts_mut(&mut self) -> [&mut u64; 23] {
        [
            &mut self.runs,
            &mut self.steps,
            &mut self.operations,
            &mut self.commits_sync,
            &mut self.commits_buffered,
            &mut self.commits_memory,
            &mut self.kills,
            &mut self.power_cuts,
            &mut self.cuts_that_lose_all,
            &mut self.cuts_that_lose_none,
            &mut self.cuts_that_keep_the_oldest,
            &mut self.cuts_that_tear_and_reorder,
            &mut self.cuts_with_unsynced_writes,
            &mut self.cuts_after_kill_and_sync,
            &mut self.copies,
            &mut self.verifications,
            &mut self.closes,
            &mut self.false_conflicts,
            &mut self.failed_writes,
            &mut self.steps_between,
            &mut self.snapshots_between,
            &mut self.compactions_between,
            &mut self.lives_with_written_lists,
        ]
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts();
        let parts = counts.iter().map(|(name, count)| format!("{} {count}", name.trim_start()));
        f.write_str(&parts.collect::<Vec<_>>().join("; "))
    }
}
