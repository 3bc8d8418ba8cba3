//! The file at rest, when most was deleted or all was overwritten, beside what `compact_to` writes.

use std::time::Instant;

use sapwood::{Database, Durability, Keyspace};

use super::{Bound, Run, micros, value};
use crate::Outcome;
use crate::pairs::{Random, mix};

/// Operations of one batch.
const BATCH: u64 = 1000;

/// The keys in an order that is not theirs: number to key by a bijection.
fn scattered(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(number).to_be_bytes());
    key
}

fn put_all(database: &Database, keyspace: &Keyspace, count: u64, round: u64) -> Outcome<()> {
    let mut random = Random::new(round);
    for first in (0..count).step_by(BATCH as usize) {
        let mut batch = database.batch();
        for number in first..count.min(first + BATCH) {
            batch.put(keyspace, scattered(number), value(&mut random))?;
        }
        batch.commit_with(Durability::Buffered)?;
    }
    Ok(())
}

impl Run {
    /// Of 1 and of 10 million pairs nine tenths are deleted one by one.
    pub(super) fn deleted(&mut self) -> Outcome<()> {
        const CASE: &str = "deleted";
        for count in [1_000_000 / self.divisor, 10_000_000 / self.divisor] {
            let name = format!("{CASE}-{count}");
            let (database, keyspace, _) = self.open(&name, Database::builder())?;
            put_all(&database, &keyspace, count, 1)?;
            database.wait_until_idle()?;
            let full = self.file_mib(&name)?;
            self.note(CASE, format!("file of {count} pairs"), full, "MiB");
            let begin = Instant::now();
            for first in (0..count).step_by(BATCH as usize) {
                let mut batch = database.batch();
                for number in (first..count.min(first + BATCH)).filter(|n| n % 10 != 0) {
                    batch.delete(&keyspace, scattered(number))?;
                }
                batch.commit_with(Durability::Buffered)?;
            }
            let delete = begin.elapsed().as_secs_f64();
            self.note(CASE, "nine tenths of them deleted", delete, "s");
            self.at_rest(CASE, &database, &name)?;
            // A check that is cancelled half-way.
            match database.verify(&mut |done, total| done * 2 < total) {
                Err(sapwood::Error::Cancelled) => {}
                other => return Err(format!("a cancelled check says {other:?}").into()),
            }
            let left = keyspace.count::<&[u8]>(..)?;
            if left != count.div_ceil(10) {
                return Err(format!("{left} entries are left of {count}").into());
            }
            database.close()?;
        }
        Ok(())
    }

    /// A million pairs, ten times over.
    pub(super) fn overwritten(&mut self) -> Outcome<()> {
        const CASE: &str = "overwritten";
        let count = 1_000_000 / self.divisor;
        let (database, keyspace, _) = self.open(CASE, Database::builder())?;
        put_all(&database, &keyspace, count, 1)?;
        database.wait_until_idle()?;
        let full = self.file_mib(CASE)?;
        self.note(CASE, format!("file of {count} pairs"), full, "MiB");
        for round in 2..12 {
            put_all(&database, &keyspace, count, round)?;
        }
        self.at_rest(CASE, &database, CASE)?;
        Ok(database.close()?)
    }

    /// The file when nothing is left to do, and what `compact_to` makes of it.
    fn at_rest(&mut self, case: &str, database: &Database, name: &str) -> Outcome<()> {
        let begin = Instant::now();
        database.wait_until_idle()?;
        let settle = micros(begin.elapsed()) / 1e3;
        let problems = database.verify(&mut ())?.problem_count;
        let compact = format!("{name}-compact");
        database.compact_to(self.dir.path().join(&compact), &mut ())?;
        let (file, least) = (self.file_mib(name)?, self.file_mib(&compact)?);
        std::fs::remove_file(self.dir.path().join(&compact))?;
        self.note(case, "until it is at rest", settle, "ms");
        self.note(case, "the file then", file, "MiB");
        self.note(case, "what compact_to writes", least, "MiB");
        self.note(case, "the file in parts of that", file / least, "");
        self.bound(Bound::AtMost(1.25));
        self.note(case, "problems that verify finds", problems as f64, "");
        self.bound(Bound::AtMost(0.0));
        Ok(())
    }
}
