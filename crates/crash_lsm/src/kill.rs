//! A real process on a real file, killed in the middle of its commits, round after round.
//!
//! [`commit_for_ever`] is what the process does that is killed; [`run`] starts it, kills it, opens
//! what it left and compares that with what it had acknowledged.
//!
//! *Assumes*: the program that is started calls [`commit_for_ever`] with the arguments it gets.
//! *Guarantees*: a commit counts as acknowledged when its line has left the process, which is
//! before the thread's next commit.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sapwood::sync::{Clock, Random, thread};
use sapwood::{Database, Durability, Isolation, Keyspace};
use serde::Serialize;

use crate::access;

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The thread that made it.
    pub thread: u64,
    /// The key that it put.
    pub key: u64,
    /// What it asked for.
    pub durability: Durability,
}

impl Commit {
    /// Reads a line of the killed process; `None` when it is none.
    #[must_use]
    pub fn parse(line: &str) -> Option<Commit> {
        let mut words = line.split(' ');
        let thread = words.next()?.parse().ok()?;
        let key = words.next()?.parse().ok()?;
        let durability = match words.next()? {
            "s" => Durability::Sync,
            "b" => Durability::Buffered,
            "m" => Durability::Memory,
            _ => return None,
        };
        words.next().is_none().then_some(Commit { thread, key, durability })
    }

    /// The number behind a key of a thread's keyspace.
    #[must_use]
    pub fn key_of(key: &[u8]) -> u64 {
        key.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
    }

    /// The key of this commit in the keyspace that all threads use.
    #[must_use]
    pub fn common_key(&self) -> Vec<u8> {
        format!("{:08}/{}", self.key, self.thread).into_bytes()
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durability = match self.durability {
            Durability::Sync => 's',
            Durability::Buffered => 'b',
            Durability::Memory => 'm',
        };
        write!(f, "{} {} {durability}", self.thread, self.key)
    }
}

/// The value that a thread puts for a key: now and then a large one.
#[must_use]
pub fn value_of(thread: u64, key: u64) -> Vec<u8> {
    let mut random = Random::from_seed((thread << 40) ^ key);
    let length = if random.one_in(50) { random.below(60_000) } else { random.below(200) };
    let mut value = vec![0; length as usize];
    random.fill(&mut value);
    value
}

/// Commits from several threads into a file until the process is killed, and says on the standard
/// output what was acknowledged: a line is `THREAD KEY D`, with D `s`, `b` or `m` for the
/// durability.
///
/// Each thread has a keyspace of its own, `thread N`, and puts the keys 0, 1, 2.. (8 bytes,
/// big-endian) with values that follow from thread and key, two keyspaces a commit.
///
/// # Errors
/// What a commit failed with.
pub fn commit_for_ever(file: &Path, threads: u64, seed: u64) -> sapwood::Result<()> {
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(1);
    // A thread that gets no time for long is not given up, however small the file is.
    let database = builder.max_transaction_history_bytes(1 << 40).open(file)?;
    let mut running = Vec::new();
    for thread in 0..threads {
        let database = database.clone();
        let spawned = thread::spawn(&format!("committer {thread}"), move || {
            commit_as(&database, thread, seed ^ thread)
        });
        let name = file.display().to_string();
        running.push(spawned.map_err(|error| sapwood::Error::io("spawn", name, error))?);
    }
    for thread in running {
        match thread.join() {
            Ok(result) => result?,
            Err(_) => return Err(sapwood::Error::Cancelled),
        }
    }
    Ok(())
}

fn commit_as(database: &Database, thread: u64, seed: u64) -> sapwood::Result<()> {
    let own = database.keyspace(&format!("thread {thread}"))?;
    let common = database.keyspace("common")?;
    let mut random = Random::from_seed(seed);
    let mut key = own.last()?.map_or(0, |(key, _)| Commit::key_of(&key) + 1);
    loop {
        let durability = match random.below(8) {
            0 => Durability::Sync,
            1..=3 => Durability::Memory,
            _ => Durability::Buffered,
        };
        let commit = Commit { thread, key, durability };
        match random.below(4) {
            0 => commit_transaction(database, &own, &common, commit)?,
            _ => commit_batch(database, &own, &common, commit)?,
        }
        // One write a line, so that lines of several threads do not mix.
        let line = format!("{commit}\n");
        let written = io::stdout().lock().write_all(line.as_bytes());
        if written.and_then(|()| io::stdout().flush()).is_err() {
            return Ok(());
        }
        key += 1;
    }
}

fn commit_batch(
    database: &Database,
    own: &Keyspace,
    common: &Keyspace,
    commit: Commit,
) -> sapwood::Result<()> {
    let value = value_of(commit.thread, commit.key);
    let mut batch = database.batch();
    batch.put(own, commit.key.to_be_bytes(), &value)?;
    batch.put(common, commit.common_key(), &value)?;
    batch.commit_with(commit.durability)
}

fn commit_transaction(
    database: &Database,
    own: &Keyspace,
    common: &Keyspace,
    commit: Commit,
) -> sapwood::Result<()> {
    let value = value_of(commit.thread, commit.key);
    // No other thread writes these keys: a conflict is an error.
    let mut transaction = database.begin(Isolation::Snapshot)?;
    transaction.put(own, commit.key.to_be_bytes(), &value)?;
    transaction.put(common, commit.common_key(), &value)?;
    transaction.commit_with(commit.durability)
}

/// How many rounds, of what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that is started; it gets `arguments`, the file, the number of threads, a seed.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// The database file, which must not be there.
    pub file: PathBuf,
    /// Rounds.
    pub rounds: u64,
    /// Threads that commit.
    pub threads: u64,
    /// What the commits, and the times until each kill, follow from.
    pub seed: u64,
}

/// What the rounds did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KillTotals {
    /// Processes that were killed, and databases that were opened and compared after it.
    pub rounds: u64,
    /// Commits with `Sync` whose acknowledgement was read.
    pub commits_sync: u64,
    /// Commits with `Buffered` whose acknowledgement was read.
    pub commits_buffered: u64,
    /// Commits with `Memory` whose acknowledgement was read.
    pub commits_memory: u64,
    /// Of those, commits that were there after the kill.
    pub found: u64,
    /// Of those, commits that were not: all of `Memory`.
    pub memory_commits_lost: u64,
    /// Commits that were there though their acknowledgement was not read.
    pub found_unacknowledged: u64,
    /// Databases of which everything was checked.
    pub verifications: u64,
}

impl KillTotals {
    /// Every count with its name.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, u64); 8] {
        [
            ("kills, each with a reopen", self.rounds),
            ("commits acknowledged, Sync", self.commits_sync),
            ("commits acknowledged, Buffered", self.commits_buffered),
            ("commits acknowledged, Memory", self.commits_memory),
            ("  of all those there after the kill", self.found),
            ("  of Memory lost", self.memory_commits_lost),
            ("there without acknowledgement", self.found_unacknowledged),
            ("verifications", self.verifications),
        ]
    }
}

/// Makes the rounds, and shows the totals after each.
///
/// # Errors
/// What was lost, half there or damaged; or why a round could not be made.
pub fn run(plan: &Plan, progress: &mut dyn FnMut(&KillTotals)) -> Result<KillTotals, String> {
    let mut totals = KillTotals::default();
    let mut counts = BTreeMap::new();
    for round in 0..plan.rounds {
        let name = |text: String| format!("round {round}, seed {}: {text}", plan.seed);
        let commits = kill_one(plan, plan.seed.wrapping_add(round)).map_err(name)?;
        for commit in &commits {
            match commit.durability {
                Durability::Sync => totals.commits_sync += 1,
                Durability::Buffered => totals.commits_buffered += 1,
                Durability::Memory => totals.commits_memory += 1,
            }
        }
        compare(plan, &commits, &mut counts, &mut totals).map_err(name)?;
        totals.rounds += 1;
        progress(&totals);
    }
    Ok(totals)
}

/// Starts the process, lets it work for some milliseconds, kills it, and gives what it had
/// acknowledged by then.
fn kill_one(plan: &Plan, seed: u64) -> Result<Vec<Commit>, String> {
    let mut child = Command::new(&plan.program)
        .args(&plan.arguments)
        .arg(&plan.file)
        .args([plan.threads.to_string(), seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting {}: {error}", plan.program.display()))?;
    let output = child.stdout.take().ok_or("the process has no output")?;
    let reader = thread::spawn("reader", move || read_commits(output));
    let reader = reader.map_err(|error| format!("starting a thread: {error}"))?;
    let milliseconds = 20 + Random::from_seed(seed).below(150);
    Clock::real().sleep(Duration::from_millis(milliseconds));
    let ended = child.try_wait();
    let killed = child.kill().and_then(|()| child.wait());
    let commits = reader.join().map_err(|_| "reading its output panicked")??;
    killed.map_err(|error| format!("killing the process: {error}"))?;
    match ended {
        Ok(None) => Ok(commits),
        Ok(Some(status)) => Err(format!("the process ended by itself, {status}")),
        Err(error) => Err(format!("asking for the process: {error}")),
    }
}

fn read_commits(output: impl Read) -> Result<Vec<Commit>, String> {
    let (mut commits, mut line) = (Vec::new(), String::new());
    let mut output = BufReader::new(output);
    loop {
        line.clear();
        let read = output.read_line(&mut line);
        if read.map_err(|error| format!("reading the process's output: {error}"))? == 0 {
            return Ok(commits);
        }
        // What was cut off in the middle was acknowledged, but by whom is not known.
        if let Some(whole) = line.strip_suffix('\n') {
            let commit = Commit::parse(whole);
            commits.push(commit.ok_or_else(|| format!("no commit: {whole:?}"))?);
        }
    }
}

/// Opens what the killed process left, and compares. `counts` is how many commits of each thread
/// are there.
fn compare(
    plan: &Plan,
    commits: &[Commit],
    counts: &mut BTreeMap<u64, u64>,
    totals: &mut KillTotals,
) -> Result<(), String> {
    let text = |error: sapwood::Error| error.to_string();
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
    let database = builder.open(&plan.file).map_err(text)?;
    if let Some(finding) = access::verify(&database).map_err(text)? {
        return Err(finding);
    }
    totals.verifications += 1;
    let common = database.keyspace("common").map_err(text)?;
    let mut in_all = 0;
    for thread in 0..plan.threads {
        let there = count_commits(&database, &common, thread).map_err(text)??;
        let before = counts.insert(thread, there).unwrap_or_default();
        let of_thread = || commits.iter().filter(|commit| commit.thread == thread);
        // The order is one: what was written took along all that its own thread did before.
        let written = of_thread().filter(|commit| commit.durability != Durability::Memory);
        let least = written.map(|commit| commit.key + 1).max().unwrap_or(before);
        if there < least {
            return Err(format!("thread {thread} has {there} commits, must have {least}"));
        }
        let found = of_thread().filter(|commit| commit.key < there).count() as u64;
        totals.found += found;
        totals.memory_commits_lost += of_thread().count() as u64 - found;
        totals.found_unacknowledged += (there - before).saturating_sub(found);
        in_all += there;
    }
    let in_common = common.count::<&[u8]>(..).map_err(text)?;
    if in_common != in_all {
        return Err(format!("half a commit: {in_common} pairs of all, {in_all} of the threads"));
    }
    database.close().map_err(text)
}

/// How many commits of a thread are there: all from 0 on, whole and with their values.
fn count_commits(
    database: &Database,
    common: &Keyspace,
    thread: u64,
) -> sapwood::Result<Result<u64, String>> {
    let keyspace = database.keyspace(&format!("thread {thread}"))?;
    let mut next = 0;
    for pair in keyspace.iter()? {
        let (key, value) = pair?;
        let found = Commit::key_of(&key);
        if found != next {
            return Ok(Err(format!("thread {thread} has {found} and not {next}: a hole")));
        }
        let commit = Commit { thread, key: next, durability: Durability::Sync };
        let other = common.get(commit.common_key())?;
        let expected = value_of(thread, next);
        if other.is_none() {
            return Ok(Err(format!("thread {thread}, key {next}: half a commit")));
        }
        if value != expected[..] || other.is_none_or(|other| other != expected[..]) {
            return Ok(Err(format!("thread {thread}, key {next}: a wrong value")));
        }
        next += 1;
    }
    Ok(Ok(next))
}
