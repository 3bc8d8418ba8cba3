//! Space that snapshots hold, at its limits: what must be held comes from walks of all states.

use std::time::Instant;

use sapwood::merge::verify::{HeldCheck, HeldLook};
use sapwood::{Database, Durability, Keyspace};

use super::{Bound, Run, mib, micros, ordered, resident_mib};
use crate::Outcome;
use crate::pairs::Random;

/// Bytes of a value.
const VALUE_BYTES: usize = 16;
/// Puts of one batch.
const BATCH: u64 = 1000;

fn put(
    database: &Database,
    keyspace: &Keyspace,
    random: &mut Random,
    numbers: impl Iterator<Item = u64>,
) -> Outcome<()> {
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let mut batch = database.batch();
        for number in numbers.by_ref().take(BATCH as usize) {
            let mut value = [b'v'; VALUE_BYTES];
            value[..8].copy_from_slice(&random.next().to_le_bytes());
            batch.put(keyspace, ordered(number), value)?;
        }
        batch.commit_with(Durability::Buffered)?;
    }
    Ok(())
}

/// Compares what is held with the trees; the memory that the engine counts is noted in `memory`.
fn look(database: &Database, check: &mut HeldCheck, memory: &mut u64) -> Outcome<HeldLook> {
    let core = database.core()?;
    let look = check.look(&core)?;
    if let Some(problem) = look.problems.first() {
        return Err(problem.clone().into());
    }
    *memory = (*memory).max(core.pages.budget().used());
    Ok(look)
}

/// A file at rest may be longer than what it holds by a tenth and so much.
const SLACK_MIB: f64 = 0.25;

impl Run {
    pub(super) fn snapshots(&mut self) -> Outcome<()> {
        const CASE: &str = "snapshots";
        let (keys, writes) = (1_000_000 / self.divisor, 100_000 / self.divisor);
        let budget = 64 << 20;
        let builder = Database::builder().memory_budget(budget).merge_threads(0);
        let (database, keyspace, _) = self.open(CASE, builder)?;
        let mut random = Random::new(5);
        put(&database, &keyspace, &mut random, 0..keys)?;
        database.wait_until_idle()?;
        let before = self.file_mib(CASE)?;
        let (mut check, mut memory, mut snapshots) = (HeldCheck::default(), 0, Vec::new());
        let begin = Instant::now();
        for _ in 0..100 {
            let numbers: Vec<u64> = (0..writes).map(|_| random.next() % keys).collect();
            put(&database, &keyspace, &mut random, numbers.into_iter())?;
            snapshots.push(database.snapshot()?);
            database.flush()?;
            while database.run_step()? {}
            database.flush()?;
            memory = memory.max(database.core()?.pages.budget().used());
        }
        let full = look(&database, &mut check, &mut memory)?;
        let held_mib = |pages: u64| pages as f64 / 256.0;
        self.note(CASE, "100 snapshots, writes and merges", begin.elapsed().as_secs_f64(), "s");
        self.note(CASE, "the file before", before, "MiB");
        self.note(CASE, "the file with all of them", self.file_mib(CASE)?, "MiB");
        self.note(CASE, "in use by the current state", held_mib(full.live_pages), "MiB");
        self.note(
            CASE,
            "held by snapshots alone, as the trees say",
            held_mib(full.held_pages),
            "MiB",
        );
        self.note_file(CASE, &database, &full)?;
        let (mut last, mut drops) = (full.held_pages, Vec::new());
        while !snapshots.is_empty() {
            let index = (random.next() % snapshots.len() as u64) as usize;
            let alone = look(&database, &mut check, &mut memory)?.alone_pages;
            let begin = Instant::now();
            drop(snapshots.remove(index));
            drops.push(micros(begin.elapsed()));
            let held = loop {
                let held = look(&database, &mut check, &mut memory)?;
                if alone.get(index).is_some_and(|alone| held.held_pages == last - alone) {
                    break held;
                }
                if !database.run_step()? {
                    let held = held.held_pages;
                    return Err(format!("{held} pages are held, of {last} {alone:?} go").into());
                }
            };
            last = held.held_pages;
            self.note_file(CASE, &database, &held)?;
        }
        database.wait_until_idle()?;
        drops.sort_by(f64::total_cmp);
        self.note(CASE, "the drop of one, median", drops[drops.len() / 2], "us");
        self.note(CASE, "the file at rest without them", self.file_mib(CASE)?, "MiB");
        self.bound(Bound::AtMost(before * 1.1 + SLACK_MIB));
        self.note(CASE, "memory that the engine counts, of 64 MiB", mib(memory), "MiB");
        self.bound(Bound::AtMost(mib(budget)));
        Ok(database.close()?)
    }

    /// Notes the length of the file beside what is held, and sees that it is the sum of its parts.
    fn note_file(&mut self, case: &str, database: &Database, look: &HeldLook) -> Outcome<()> {
        let stats = database.stats()?;
        let core = database.core()?;
        let layout = core.pages.layout();
        let page_bytes = u64::from(layout.page_size);
        let file_pages = stats.file_bytes / page_bytes;
        let fixed = |region| u64::from(layout.fixed_pages(region));
        let fixed: u64 = (0..layout.region_count(file_pages)).map(fixed).sum();
        let free = stats.free_bytes / page_bytes;
        let parts = [look.live_pages, look.held_pages, look.own_pages, free, fixed];
        if parts.iter().sum::<u64>() != file_pages {
            let names = "in use, held, log and state, free, maps";
            return Err(format!("the file has {file_pages} pages, not {parts:?} ({names})").into());
        }
        let (held, lists) = (look.held_pages * page_bytes, stats.memory.dead_lists);
        let what = format!(
            "{:>3} left: held {:.1} MiB, lists {} KiB; the file",
            look.alone_pages.len(),
            mib(held),
            lists >> 10
        );
        self.note(case, what, mib(stats.file_bytes), "MiB");
        Ok(())
    }

    pub(super) fn overwrites(&mut self) -> Outcome<()> {
        const CASE: &str = "overwrites";
        let (keys, rounds) = (1000, 100_000 / self.divisor);
        let (database, keyspace, _) = self.open(CASE, Database::builder())?;
        let mut random = Random::new(6);
        put(&database, &keyspace, &mut random, 0..keys)?;
        database.wait_until_idle()?;
        let before = self.file_mib(CASE)?;
        let snapshot = database.snapshot()?;
        let (begin, mut longest, mut memory) = (Instant::now(), 0.0f64, 0);
        for round in 0..rounds {
            put(&database, &keyspace, &mut random, 0..keys)?;
            if round % (rounds / 20).max(1) == 0 {
                longest = longest.max(self.file_mib(CASE)?);
                memory = memory.max(database.core()?.pages.budget().used());
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        database.wait_until_idle()?;
        database.flush()?;
        let look = look(&database, &mut HeldCheck::default(), &mut memory)?;
        self.note(CASE, format!("{rounds} overwrites of each of {keys} keys"), seconds, "s");
        self.note(CASE, "the file before", before, "MiB");
        self.note(CASE, "the longest file meanwhile", longest, "MiB");
        self.note(CASE, "the file at rest under the snapshot", self.file_mib(CASE)?, "MiB");
        self.note(CASE, "pages that the snapshot holds", look.held_pages as f64, "pages");
        drop(snapshot);
        database.wait_until_idle()?;
        let after = self.file_mib(CASE)?;
        self.note(CASE, "the file at rest without it", after, "MiB");
        // What would save less than a twentieth is left where it is.
        self.bound(Bound::AtMost(before * 17.0 / 16.0));
        self.note(CASE, "memory that the engine counts, of 256 MiB", mib(memory), "MiB");
        self.bound(Bound::AtMost(256.0));
        self.note(CASE, "peak memory of the process", resident_mib().0, "MiB");
        self.bound(Bound::AtMost(1.2 * 256.0));
        Ok(database.close()?)
    }
}
