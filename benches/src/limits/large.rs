//! Transactions far larger than memory.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sapwood::{Database, Durability, Isolation, Keyspace, Transaction};

use super::{Bound, Figure, Run, mib, micros, reset_peak, resident_mib, value};
use crate::Outcome;
use crate::pairs::Random;

/// Puts of the large transaction.
const PUTS: u64 = 20_000_000;
/// The file's name where a process is killed.
const VICTIM: &str = "victim.sapwood";

fn put(
    transaction: &mut Transaction,
    keyspace: &Keyspace,
    random: &mut Random,
    count: u64,
) -> Outcome<()> {
    for _ in 0..count {
        let key = [random.next().to_be_bytes(), random.next().to_be_bytes()].concat();
        transaction.put(keyspace, key, value(random))?;
    }
    Ok(())
}

/// Commits of one pair, one a millisecond, until told to stop: how long each took, in microseconds,
/// ascending.
fn commit_beside(database: &Database, stop: &AtomicBool) -> sapwood::Result<Vec<f64>> {
    let keyspace = database.keyspace("others")?;
    let (mut random, mut times) = (Random::new(9), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
        let mut batch = database.batch();
        batch.put(&keyspace, random.next().to_be_bytes(), value(&mut random))?;
        let begin = Instant::now();
        batch.commit_with(Durability::Buffered)?;
        times.push(micros(begin.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

impl Run {
    fn note_times(&mut self, when: &str, times: &[f64]) {
        let at = |part: f64| {
            let index = (times.len() as f64 * part) as usize;
            times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
        };
        for (name, part) in [("median", 0.5), ("99th of 100", 0.99), ("longest", 1.0)] {
            self.note("transaction", format!("other commits {when}, {name}"), at(part), "us");
        }
    }

    pub(super) fn transaction(&mut self) -> Outcome<()> {
        let count = PUTS / self.divisor;
        let (database, keyspace, path) = self.open("transaction", Database::builder())?;
        let beside = |seconds: u64| -> Outcome<Vec<f64>> {
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let running = scope.spawn(|| commit_beside(&database, &stop));
                std::thread::sleep(Duration::from_secs(seconds));
                stop.store(true, Ordering::Relaxed);
                Ok(running.join().map_err(|_| "a committer panicked")??)
            })
        };
        let alone = beside(5)?;
        reset_peak();
        let log_end = |database: &Database| -> sapwood::Result<u64> {
            Ok(database.core()?.log.positions().end.0)
        };
        let log_before = log_end(&database)?;
        let stop = AtomicBool::new(false);
        let (puts, commit, times) = std::thread::scope(|scope| -> Outcome<_> {
            let running = scope.spawn(|| commit_beside(&database, &stop));
            let large = || -> Outcome<_> {
                let begin = Instant::now();
                let mut transaction = database.begin(Isolation::Snapshot)?;
                put(&mut transaction, &keyspace, &mut Random::new(7), count)?;
                let puts = begin.elapsed().as_secs_f64();
                let begin = Instant::now();
                transaction.commit_with(Durability::Sync)?;
                Ok((puts, begin.elapsed()))
            };
            let result = large();
            stop.store(true, Ordering::Relaxed);
            let times = running.join().map_err(|_| "a committer panicked")??;
            let (puts, commit) = result?;
            Ok((puts, commit, times))
        })?;
        let (peak, _) = resident_mib();
        let logged = log_end(&database)? - log_before;
        let file = std::fs::metadata(&path)?.len();
        let begin = Instant::now();
        database.wait_until_idle()?;
        let settle = begin.elapsed().as_secs_f64();
        self.note("transaction", format!("{count} puts in one transaction"), puts, "s");
        self.note("transaction", "its commit", micros(commit) / 1e3, "ms");
        self.note_times("before it", &alone);
        self.note_times("beside it", &times);
        self.note("transaction", "peak memory (budget 256 MiB)", peak, "MiB");
        self.bound(Bound::AtMost(1.2 * 256.0));
        self.note("transaction", "written to the log, others' commits too", mib(logged), "MiB");
        self.bound(Bound::AtMost(mib(200 * times.len() as u64 + (1 << 20))));
        self.note("transaction", "the file at the commit", mib(file), "MiB");
        self.note("transaction", "until all is merged", settle, "s");
        let file = std::fs::metadata(&path)?.len();
        self.note("transaction", "the file then", mib(file), "MiB");
        if keyspace.count::<&[u8]>(..)? != count {
            return Err("entries are missing".into());
        }
        Ok(database.close()?)
    }

    pub(super) fn savepoint(&mut self) -> Outcome<()> {
        let count = PUTS / self.divisor;
        let (database, keyspace, _) = self.open("savepoint", Database::builder())?;
        let mut transaction = database.begin(Isolation::Snapshot)?;
        let mut random = Random::new(7);
        put(&mut transaction, &keyspace, &mut random, count / 2)?;
        let savepoint = transaction.savepoint();
        put(&mut transaction, &keyspace, &mut random, count - count / 2)?;
        let begin = Instant::now();
        transaction.rollback_to(&savepoint)?;
        let rollback = micros(begin.elapsed()) / 1e3;
        transaction.commit_with(Durability::Sync)?;
        database.wait_until_idle()?;
        // Exactly what came before the savepoint is left: its count, and each of its keys.
        let mut random = Random::new(7);
        for _ in 0..count / 2 {
            let key = [random.next().to_be_bytes(), random.next().to_be_bytes()].concat();
            let expected = value(&mut random);
            if keyspace.get(&key)?.as_deref() != Some(&expected) {
                return Err(format!("{key:?} has another value, or none").into());
            }
        }
        let left = keyspace.count::<&[u8]>(..)?;
        if left != count / 2 {
            return Err(format!("{left} entries are left of {}", count / 2).into());
        }
        self.note("savepoint", format!("back to the middle of {count} puts"), rollback, "ms");
        self.note("savepoint", "entries that are left, each as it was", left as f64, "");
        let problems = database.verify(&mut ())?.problem_count;
        self.note("savepoint", "problems that verify finds", problems as f64, "");
        self.bound(Bound::AtMost(0.0));
        Ok(database.close()?)
    }

    /// Puts until it is killed, and says when it has come half-way.
    pub(super) fn victim(&self, dir: &Path) -> Outcome<Vec<Figure>> {
        let database = Database::open(dir.join(VICTIM))?;
        let keyspace = database.keyspace("limits")?;
        keyspace.put("before", "it")?;
        database.sync()?;
        let mut transaction = database.begin(Isolation::Snapshot)?;
        let mut random = Random::new(7);
        put(&mut transaction, &keyspace, &mut random, PUTS / self.divisor / 2)?;
        println!("half");
        std::io::stdout().flush()?;
        put(&mut transaction, &keyspace, &mut random, PUTS)?;
        Err("it was not killed".into())
    }

    pub(super) fn killed(&mut self) -> Outcome<()> {
        let dir = self.dir.path().to_owned();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["limits", "--cases", "victim", "--divisor", &self.divisor.to_string(), "--dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        child.kill()?;
        child.wait()?;
        if line != "half\n" {
            return Err(format!("the process that was to be killed said {line:?}").into());
        }
        let path = dir.join(VICTIM);
        let file = std::fs::metadata(&path)?.len();
        let begin = Instant::now();
        let database = Database::open(&path)?;
        let open = micros(begin.elapsed()) / 1e3;
        let keyspace = database.keyspace("limits")?;
        let visible = keyspace.count::<&[u8]>(..)? - 1;
        let stats = database.stats()?;
        // A file that is opened and only read is left as it is.
        keyspace.put("after", "it")?;
        database.wait_until_idle()?;
        let at_rest = std::fs::metadata(&path)?.len();
        let problems = database.verify(&mut ())?.problem_count;
        self.note("killed", "the file when it was killed", mib(file), "MiB");
        self.note("killed", "open", open, "ms");
        self.note("killed", "entries of it that are visible", visible as f64, "");
        self.bound(Bound::AtMost(0.0));
        let in_use = stats.file_bytes - stats.free_bytes;
        self.note("killed", "in use after the open", mib(in_use), "MiB");
        self.bound(Bound::AtMost(3.0));
        self.note("killed", "the file at rest after the next write", mib(at_rest), "MiB");
        self.bound(Bound::AtMost(3.0));
        self.note("killed", "problems that verify finds", problems as f64, "");
        self.bound(Bound::AtMost(0.0));
        Ok(database.close()?)
    }
}
