//! A database on a file system that is really full, round after round.
//!
//! [`fill_and_park`] is what a process does that is killed: it writes until there is no space, and
//! says what was acknowledged; [`run`] starts it, kills it, opens the file on the full device,
//! compares, deletes, and writes again.
//!
//! *Assumes*: nobody else writes to the file system meanwhile. *Guarantees*: what must be there
//! follows from the lines of the process and from what the round did itself; a write that failed
//! must have changed nothing.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sapwood::sync::{Clock, Random};
use sapwood::{Database, Durability, Error, Isolation, Keyspace, Snapshot};
use serde::Serialize;

use crate::access;

/// What is being written when the space ends, by round.
const MOMENTS: [&str; 7] =
    ["small", "large", "transaction", "stream", "merges", "ranges and snapshots", "one length"];

/// Lengths of values of which a leaf holds few, and wastes much.
const WASTEFUL_BYTES: [u64; 5] = [2050, 2750, 4200, 5000, 8300];

const KEYSPACE_NAME: &str = "pairs";

/// Length and version of each value, by key.
type Model = BTreeMap<u64, (u64, u64)>;

/// How many rounds, where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program that is started; it gets `arguments`, the file, the round and the seed.
    pub program: PathBuf,
    /// Its first arguments.
    pub arguments: Vec<String>,
    /// The database file, which must not be there.
    pub file: PathBuf,
    /// Rounds.
    pub rounds: u64,
    /// What the writes follow from.
    pub seed: u64,
}

/// What one round did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FullRound {
    /// Its number.
    pub round: u64,
    /// What was being written when the space ended.
    pub moment: &'static str,
    /// Bytes of the file when it was full.
    pub file_bytes: u64,
    /// Bytes of keys and values in it then.
    pub data_bytes: u64,
    /// Pairs in it then.
    pub pairs: u64,
    /// Deletions on the full device, all acknowledged but those.
    pub deleted: u64,
    /// Deletions that were refused while a snapshot held what they would have freed.
    pub held: u64,
    /// Bytes that could be written afterwards, until it was full again.
    pub again_bytes: u64,
    /// How long the deletions and the merges behind them took.
    pub milliseconds: u64,
    /// The longest that one deletion took, in milliseconds.
    pub slowest_deletion: u64,
    /// Deletions that took more than five seconds.
    pub stalled: u64,
}

/// A deletion that takes longer is counted as stalled.
const STALL: Duration = Duration::from_secs(5);

fn builder(round: u64, threads: usize) -> sapwood::Builder {
    // A memtable of a twelfth of the device, and one that holds more than all of it.
    let budget = if round.is_multiple_of(2) { 8 << 20 } else { 256 << 20 };
    let builder = Database::builder().memory_budget(budget).merge_threads(threads);
    builder.durability(Durability::Buffered)
}

fn value_of(key: u64, version: u64, length: u64) -> Vec<u8> {
    let mut value = vec![0; length as usize];
    Random::from_seed(key ^ version.rotate_left(32)).fill(&mut value);
    value
}

/// Writes to a database, and notes what was acknowledged.
struct Writer<'a> {
    database: &'a Database,
    keyspace: Keyspace,
    model: &'a mut Model,
    random: Random,
    /// Says each acknowledged change: `p KEY LENGTH VERSION`, `d FIRST END`.
    say: &'a mut dyn FnMut(String) -> Result<(), String>,
    snapshots: Vec<Snapshot>,
    /// The length of all values, where all have the same.
    length: u64,
    /// Why the first deletion was refused, and how things stood.
    refusal: Option<String>,
}

impl<'a> Writer<'a> {
    fn new(
        database: &'a Database,
        keyspace: Keyspace,
        model: &'a mut Model,
        seed: u64,
        say: &'a mut dyn FnMut(String) -> Result<(), String>,
    ) -> Writer<'a> {
        Writer {
            database,
            keyspace,
            model,
            random: Random::from_seed(seed),
            say,
            snapshots: Vec::new(),
            length: WASTEFUL_BYTES[(seed % WASTEFUL_BYTES.len() as u64) as usize],
            refusal: None,
        }
    }

    fn draw(&mut self, length_max: u64) -> (u64, u64, u64) {
        let key = self.random.below(1 << 40);
        (key, self.random.below(length_max), self.random.below(1 << 30))
    }

    fn acknowledged(&mut self, (key, length, version): (u64, u64, u64)) -> Result<(), String> {
        self.model.insert(key, (length, version));
        (self.say)(format!("p {key} {length} {version}"))
    }

    /// One write; false when there was no space.
    fn write(&mut self, moment: usize) -> Result<bool, String> {
        match moment {
            1 => self.put(400_000),
            2 => self.transaction(),
            3 if self.random.one_in(3) => self.stream(),
            5 if self.random.one_in(40) => self.delete_range(),
            6 => self.put_of_one_length(),
            _ => {
                let length_max = if self.random.one_in(50) { 20_000 } else { 1500 };
                self.put(length_max)
            }
        }
    }

    fn put(&mut self, length_max: u64) -> Result<bool, String> {
        let pair = self.draw(length_max);
        self.put_pair(pair)
    }

    fn put_of_one_length(&mut self) -> Result<bool, String> {
        let (key, _, version) = self.draw(1);
        self.put_pair((key, self.length, version))
    }

    fn put_pair(&mut self, pair: (u64, u64, u64)) -> Result<bool, String> {
        let value = value_of(pair.0, pair.2, pair.1);
        match unless_full(self.keyspace.put(pair.0.to_be_bytes(), value))? {
            Some(()) => self.acknowledged(pair).map(|()| true),
            None => Ok(false),
        }
    }

    /// More than is kept in memory, so that it fails at a write or at its commit.
    fn transaction(&mut self) -> Result<bool, String> {
        let pairs: Vec<_> = (0..600).map(|_| self.draw(3000)).collect();
        let mut transaction = self.database.begin(Isolation::Snapshot).map_err(text)?;
        for pair in &pairs {
            let value = value_of(pair.0, pair.2, pair.1);
            let put = transaction.put(&self.keyspace, pair.0.to_be_bytes(), value);
            if unless_full(put)?.is_none() {
                return Ok(false);
            }
        }
        if unless_full(transaction.commit())?.is_none() {
            return Ok(false);
        }
        pairs.into_iter().try_for_each(|pair| self.acknowledged(pair)).map(|()| true)
    }

    fn stream(&mut self) -> Result<bool, String> {
        let pair = self.draw(1 << 20);
        let value = value_of(pair.0, pair.2, pair.1);
        match unless_full(self.keyspace.put_stream(pair.0.to_be_bytes(), value.as_slice()))? {
            Some(_) => self.acknowledged(pair).map(|()| true),
            None => Ok(false),
        }
    }

    /// A sixteenth of the keys, beside a snapshot that keeps them.
    fn delete_range(&mut self) -> Result<bool, String> {
        self.snapshots.push(self.database.snapshot().map_err(text)?);
        let first = self.random.below(1 << 40);
        let end = first + (1 << 36);
        let deleted = self.keyspace.delete_range(first.to_be_bytes()..end.to_be_bytes());
        if unless_full(deleted)?.is_none() {
            return Ok(false);
        }
        self.model.retain(|key, _| *key < first || *key >= end);
        (self.say)(format!("d {first} {end}")).map(|()| true)
    }

    /// Deletes three of four keys; how many deletions were refused.
    fn delete_most(&mut self, shown: &mut FullRound) -> Result<u64, String> {
        let (mut refused, clock) = (0, Clock::real());
        self.refusal = None;
        for key in self.model.keys().copied().collect::<Vec<_>>() {
            if self.random.one_in(4) {
                continue;
            }
            let begun = clock.now();
            let outcome = self.keyspace.delete(key.to_be_bytes());
            let took = clock.now().saturating_sub(begun);
            shown.slowest_deletion = shown.slowest_deletion.max(took.as_millis() as u64);
            shown.stalled += u64::from(took > STALL);
            match outcome {
                Ok(()) => {
                    self.model.remove(&key);
                    (self.say)(format!("d {key} {}", key + 1))?;
                    shown.deleted += 1;
                }
                Err(error @ Error::NoSpace { .. }) => {
                    refused += 1;
                    let stats = self.database.stats().map_err(text)?;
                    self.refusal.get_or_insert_with(|| format!("{error}\n{stats}"));
                }
                Err(error) => return Err(text(error)),
            }
        }
        Ok(refused)
    }

    /// The same, when none may be refused.
    fn delete_most_of_all(&mut self, shown: &mut FullRound) -> Result<(), String> {
        match self.delete_most(shown)? {
            0 => Ok(()),
            refused => {
                let (deleted, refusal) = (shown.deleted, self.refusal.take().unwrap_or_default());
                Err(format!("{refused} deletions were refused, {deleted} were not: {refusal}"))
            }
        }
    }
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// `None` when there was no space.
fn unless_full<T>(result: sapwood::Result<T>) -> Result<Option<T>, String> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::NoSpace { .. }) => Ok(None),
        Err(error) => Err(text(error)),
    }
}

fn bytes_of(model: &Model) -> u64 {
    model.values().map(|(length, _)| length + 8).sum()
}

/// Compares all that is there with what must be.
fn compare(keyspace: &Keyspace, model: &Model, when: &str) -> Result<(), String> {
    let mut found = keyspace.iter().map_err(text)?;
    for (key, (length, version)) in model {
        let pair = found.next().ok_or_else(|| format!("{when}: from {key} on all is lost"))?;
        let (found_key, value) = pair.map_err(|error| format!("{when}: {error}"))?;
        if found_key != key.to_be_bytes()[..] {
            return Err(format!("{when}: {key} is not there, but {found_key:?}"));
        }
        if value != value_of(*key, *version, *length)[..] {
            return Err(format!("{when}: {key} has another value"));
        }
    }
    match found.next() {
        None => Ok(()),
        Some(pair) => Err(format!("{when}: there is more: {pair:?}")),
    }
}

fn check(database: &Database, when: &str) -> Result<(), String> {
    let finding = access::verify(database).map_err(|error| format!("{when}: {error}"))?;
    finding.map_or(Ok(()), |finding| Err(format!("{when}: {finding}")))
}

/// What the killed process does: opens the file, writes until there is no space, reads, says
/// `full`, and waits.
///
/// # Errors
/// Anything but `NoSpace`, and what is not as it must be.
pub fn fill_and_park(file: &Path, round: u64, seed: u64) -> Result<(), String> {
    let database = builder(round, 2).open(file).map_err(text)?;
    let keyspace = database.keyspace(KEYSPACE_NAME).map_err(text)?;
    let mut out = std::io::stdout().lock();
    let mut say = |line: String| writeln!(out, "{line}").map_err(text);
    let mut model = Model::new();
    let keys = keyspace.clone();
    let seed = seed ^ (round << 32);
    let mut writer = Writer::new(&database, keyspace, &mut model, seed, &mut say);
    let moment = round as usize % MOMENTS.len();
    while writer.write(moment)? {
        if moment == 4 && writer.random.one_in(200) {
            unless_full(database.flush())?;
        }
    }
    // Reads go on.
    for (key, (length, version)) in writer.model.iter().take(200) {
        let value = keys.get_stream(key.to_be_bytes()).map_err(text)?;
        let mut bytes = Vec::new();
        value.ok_or("a key is lost")?.read_to_end(&mut bytes).map_err(text)?;
        if bytes != value_of(*key, *version, *length) {
            return Err(format!("{key} has another value"));
        }
    }
    (writer.say)("full".to_owned())?;
    out.flush().map_err(text)?;
    loop {
        Clock::real().sleep(Duration::from_secs(1));
    }
}

/// Starts the process, waits until it is full, kills it; `model` is then what must be there.
fn fill(plan: &Plan, round: u64, model: &mut Model) -> Result<(), String> {
    let mut child = Command::new(&plan.program)
        .args(&plan.arguments)
        .arg(&plan.file)
        .args([round.to_string(), plan.seed.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting {}: {error}", plan.program.display()))?;
    let output = child.stdout.take().ok_or("the process has no output")?;
    let read = read_lines(output, model);
    let killed = child.kill().and_then(|()| child.wait());
    read?;
    killed.map(|_| ()).map_err(|error| format!("killing the process: {error}"))
}

fn read_lines(output: impl Read, model: &mut Model) -> Result<(), String> {
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("reading the process's output: {error}"))?;
        let wrong = || format!("no change: {line:?}");
        let mut words = line.split(' ');
        let kind = words.next().ok_or_else(wrong)?;
        let numbers: Vec<u64> = words.map(str::parse).collect::<Result<_, _>>().map_err(text)?;
        match (kind, numbers.as_slice()) {
            ("p", [key, length, version]) => drop(model.insert(*key, (*length, *version))),
            ("d", [first, end]) => model.retain(|key, _| key < first || key >= end),
            ("full", []) => return Ok(()),
            _ => return Err(wrong()),
        }
    }
    Err("the process ended by itself".to_owned())
}

/// Makes the rounds, and shows each when it has ended.
///
/// # Errors
/// What was lost, refused or damaged.
pub fn run(
    plan: &Plan,
    show: &mut dyn FnMut(&FullRound) -> Result<(), String>,
) -> Result<(), String> {
    let mut model = Model::new();
    for round in 0..plan.rounds {
        let named = |error: String| {
            let moment = MOMENTS[round as usize % MOMENTS.len()];
            format!("round {round} ({moment}), seed {}: {error}", plan.seed)
        };
        show(&one_round(plan, round, &mut model).map_err(named)?)?;
    }
    Ok(())
}

/// Waits until all is merged; where that fails, says how things stood.
fn merge(database: &Database) -> Result<(), String> {
    let stood = |error| match database.stats() {
        Ok(stats) => format!("{error}\n{stats}"),
        Err(second) => format!("{error}; stats: {second}"),
    };
    database.wait_until_idle().map_err(stood)
}

fn one_round(plan: &Plan, round: u64, model: &mut Model) -> Result<FullRound, String> {
    fill(plan, round, model)?;
    let mut shown = FullRound {
        round,
        moment: MOMENTS[round as usize % MOMENTS.len()],
        ..FullRound::default()
    };
    shown.file_bytes = std::fs::metadata(&plan.file).map_err(text)?.len();
    (shown.pairs, shown.data_bytes) = (model.len() as u64, bytes_of(model));
    let threads = (round % 3) as usize;
    let database = builder(round / 2, threads).open(&plan.file).map_err(text)?;
    let keyspace = database.existing_keyspace(KEYSPACE_NAME).map_err(text)?;
    compare(&keyspace, model, "opened after a kill when it was full")?;
    let mut say = |_| Ok(());
    let keys = keyspace.clone();
    let seed = plan.seed ^ round;
    let mut writer = Writer::new(&database, keyspace, model, seed, &mut say);
    let clock = Clock::real();
    if round % 4 == 3 {
        let snapshot = database.snapshot().map_err(text)?;
        shown.held = writer.delete_most(&mut shown)?;
        drop(snapshot);
    }
    writer.delete_most_of_all(&mut shown)?;
    merge(&database).map_err(|error| format!("merging after deletions: {error}"))?;
    shown.milliseconds = clock.now().as_millis() as u64;
    compare(&keys, writer.model, "after deletions")?;
    check(&database, "after deletions")?;
    let before = bytes_of(writer.model);
    while writer.write(0)? {}
    shown.again_bytes = bytes_of(writer.model) - before;
    if shown.again_bytes * 4 < shown.data_bytes {
        return Err(format!("only {} bytes fitted after deletions", shown.again_bytes));
    }
    compare(&keys, writer.model, "full again")?;
    if round % 5 == 4 {
        drop((writer.snapshots, keys, database));
    } else {
        drop((writer.snapshots, keys));
        unless_full(database.close())?;
    }
    let database = builder(round, 0).open(&plan.file).map_err(text)?;
    let keyspace = database.existing_keyspace(KEYSPACE_NAME).map_err(text)?;
    compare(&keyspace, model, "opened again when it was full")?;
    check(&database, "opened again when it was full")?;
    // The next round begins with a quarter.
    let mut say = |_| Ok(());
    let seed = plan.seed ^ !round;
    let mut writer = Writer::new(&database, keyspace, model, seed, &mut say);
    writer.delete_most_of_all(&mut shown).map_err(|error| format!("after a reopen: {error}"))?;
    merge(&database).map_err(|error| format!("merging after a reopen: {error}"))?;
    database.close().map_err(text)?;
    Ok(shown)
}
