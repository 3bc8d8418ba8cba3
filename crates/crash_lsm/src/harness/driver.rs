//! One life of a database, beside the model.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use sapwood::state::dead_list::ListLimits;
use sapwood::storage::SimulatedStorage;
use sapwood::sync::{Arc, Clock, FakeClock, Random};
use sapwood::{Database, Durability, Error, Keyspace, Snapshot};

use super::Totals;
use super::disk::{Crashing, Left};
use super::meanwhile::{Hooked, Meanwhile};
use crate::access;
use crate::model::{Change, Ending, Knowledge, Model, State};
use crate::setup::Setup;
use crate::workload::Step;

/// What the builder has when it is told nothing.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Why a life goes no further.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It ended as it was to.
    Ended,
    /// Something is wrong.
    Found(String),
}

pub(crate) type Outcome<T = ()> = Result<T, Stop>;

/// A snapshot, and what it must see for ever.
pub(crate) struct Kept {
    pub snapshot: Snapshot,
    pub handles: BTreeMap<String, Keyspace>,
    pub state: State,
}

/// The database of one life.
pub(crate) struct Driver<'a> {
    pub crashing: &'a Crashing,
    pub setup: Setup,
    pub database: Option<Database>,
    pub handles: BTreeMap<String, Keyspace>,
    pub kept: Vec<Kept>,
    /// A write or sync failed: writes are refused from here on.
    pub is_stopped: bool,
    was_closed: bool,
    verifications: u64,
    clock: Clock,
    hand: FakeClock,
    meanwhile: Option<Rc<Meanwhile>>,
    lists_were_written: bool,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(crashing: &'a Crashing, setup: Setup) -> Driver<'a> {
        let (clock, hand) = Clock::fake();
        Driver {
            crashing,
            setup,
            database: None,
            handles: BTreeMap::new(),
            kept: Vec::new(),
            is_stopped: false,
            was_closed: false,
            verifications: 0,
            clock,
            hand,
            meanwhile: None,
            lists_were_written: false,
        }
    }

    /// Has steps of the background come between what the workload's steps do.
    pub(crate) fn preempt(&mut self, seed: u64, one_in: u64) {
        self.meanwhile = Some(Meanwhile::new(seed, one_in));
    }

    /// How often everything was checked.
    pub(crate) fn verifications(&self) -> u64 {
        self.verifications
    }

    pub(crate) fn snapshot_count(&self) -> usize {
        self.kept.len()
    }

    /// What a call of the database gave. Its error ends the life when that was to end, is
    /// found fault with when nothing was made to fail.
    pub(crate) fn check<T>(&mut self, what: &str, result: sapwood::Result<T>) -> Outcome<T> {
        match result {
            Ok(value) => Ok(value),
            Err(_) if self.crashing.is_over() => Err(Stop::Ended),
            Err(Error::Io { .. } | Error::NoSpace { .. } | Error::Stopped(_))
                if self.crashing.has_faults =>
            {
                self.is_stopped = true;
                Err(Stop::Ended)
            }
            Err(error) => Err(Stop::Found(format!("{what}: {error}"))),
        }
    }

    pub(crate) fn database(&self) -> Outcome<&Database> {
        self.database.as_ref().ok_or_else(|| Stop::Found("no database is open".to_owned()))
    }

    /// Opens what is there and finds the prefix that it holds.
    pub(crate) fn open_and_compare(&mut self, model: &mut Model, left: &Left) -> Outcome {
        self.open()?;
        let found = self.dump()?;
        let allowed = match left.ending {
            Some(ending) => left.knowledge.allowed(ending),
            None => left.knowledge.begun..=left.knowledge.begun,
        };
        let what = match left.ending {
            Some(ending) => format!("after {ending:?}"),
            None => "after a clean close".to_owned(),
        };
        let prefix = model
            .find_prefix(&found, allowed)
            .map_err(|text| Stop::Found(format!("{what}: {text}")))?;
        model.recovered(prefix, left.ending.unwrap_or(Ending::Kill), self.clock.now());
        self.crashing.know(model.knowledge());
        self.verify(&what)?;
        self.refresh_handles(model.state())
    }

    pub(crate) fn open(&mut self) -> Outcome {
        let storage = Arc::new(self.crashing.storage.clone());
        let opened = self.setup.builder().clock(self.clock.clone()).open_on(storage);
        let database = self.check("open", opened)?;
        if let Some(bytes_max) = self.setup.dead_list_bytes {
            let core = database.core();
            // Little is dead in a run, so that pieces are short, and mixed ones of a few blocks.
            let limits = ListLimits { bytes_max, list_bytes: 0, piece_blocks: 1..=32 };
            self.check("open", core)?.held.set_limits(limits);
        }
        self.database = Some(database);
        Ok(())
    }

    pub(crate) fn dump(&mut self) -> Outcome<State> {
        let forwards = access::dump(self.database()?);
        let forwards = self.check("reading everything", forwards)?;
        let backwards = access::dump_back(self.database()?);
        let backwards = self.check("reading everything backwards", backwards)?;
        match backwards.difference(&forwards) {
            None => Ok(forwards),
            Some(text) => Err(Stop::Found(format!("backwards it reads otherwise: {text}"))),
        }
    }

    pub(crate) fn verify(&mut self, when: &str) -> Outcome {
        let finding = access::verify(self.database()?);
        self.verifications += 1;
        match self.check("verify", finding)? {
            None => Ok(()),
            // A step in between may have been the operation that ended the life.
            Some(_) if self.crashing.is_over() => Err(Stop::Ended),
            Some(finding) => Err(Stop::Found(format!("verify {when}: {finding}"))),
        }
    }

    pub(crate) fn refresh_handles(&mut self, state: &State) -> Outcome {
        self.handles.clear();
        for name in state.keyspaces.keys() {
            let handle = self.database()?.existing_keyspace(name);
            let handle = self.check("opening a keyspace", handle)?;
            self.handles.insert(name.clone(), handle);
        }
        Ok(())
    }

    pub(crate) fn handle(&self, name: &str) -> Outcome<Keyspace> {
        let missing = || Stop::Found(format!("the harness has no handle of {name:?}"));
        self.handles.get(name).cloned().ok_or_else(missing)
    }

    /// Begins a commit in the model and says so to the disk.
    pub(crate) fn begin(&self, model: &mut Model, changes: Vec<Change>) {
        model.begin(changes);
        self.crashing.know(model.knowledge());
    }

    /// Takes the database's answer to the commit that was begun.
    pub(crate) fn finish(
        &mut self,
        what: &str,
        model: &mut Model,
        durability: Durability,
        result: sapwood::Result<()>,
    ) -> Outcome {
        if let Err(Error::Stopped(_)) = &result
            && self.is_stopped
        {
            model.forget();
        }
        self.check(what, result)?;
        model.acknowledge(durability, self.clock.now());
        if !self.crashing.is_over() {
            self.crashing.know(model.knowledge());
        }
        Ok(())
    }

    /// After a process was killed, what was replayed may lie in the cache only: one synced commit
    /// must take it along.
    pub(crate) fn commit_one_synced(&mut self, model: &mut Model, totals: &mut Totals) -> Outcome {
        let name = "made after a kill".to_owned();
        if !model.state().keyspaces.contains_key(&name) {
            self.change_catalogue(Change::Create(name.clone()), model)?;
        }
        let value = totals.kills.to_le_bytes();
        let change =
            Change::Put { keyspace: name, key: b"kills".to_vec(), value: Arc::from(&value[..]) };
        self.commit_batch(vec![change], Durability::Sync, model, totals)
    }

    /// Does a step.
    pub(crate) fn step(
        &mut self,
        step: Step,
        model: &mut Model,
        totals: &mut Totals,
        random: &mut Random,
    ) -> Outcome {
        let shown = step.clone();
        // A close begins when all other steps have ended, and an open before the first.
        let hooked = match (&self.meanwhile, &self.database, &step) {
            (_, _, Step::Reopen) | (None, ..) | (_, None, _) => None,
            (Some(meanwhile), Some(database), _) => Some(Hooked::new(meanwhile, database)),
        };
        let applied = self.apply(step, model, totals, random);
        drop(hooked);
        let finding = self.meanwhile.as_ref().and_then(|meanwhile| meanwhile.take_finding());
        let applied = match finding {
            Some(finding) => Err(Stop::Found(finding)),
            None => applied,
        };
        self.note_lists();
        let outcome = match applied {
            Err(Stop::Ended) if self.is_stopped && !self.crashing.is_over() => {
                totals.failed_writes += 1;
                // A close that failed has closed the database none the less.
                if self.database.is_some() { self.check_reads_go_on(model) } else { applied }
            }
            other => other,
        };
        outcome.map_err(|stop| match stop {
            Stop::Found(detail) => {
                let step = format!("{shown:?}");
                Stop::Found(format!("{detail}, in {}", step.chars().take(300).collect::<String>()))
            }
            Stop::Ended => Stop::Ended,
        })
    }

    /// After a failed write the content is what was acknowledged, and a write gives the cause.
    fn check_reads_go_on(&mut self, model: &Model) -> Outcome {
        let found = access::dump(self.database()?);
        let found =
            found.map_err(|error| Stop::Found(format!("reading after a failed write: {error}")))?;
        if let Some(text) = found.difference(model.state()) {
            return Err(Stop::Found(format!("after a failed write: {text}")));
        }
        Err(Stop::Ended)
    }

    /// Opens the copies that were taken, and compares.
    pub(crate) fn check_copies(&self, model: &Model, totals: &mut Totals) -> Outcome {
        for (storage, knowledge) in self.crashing.take_copies() {
            totals.verifications += self.check_copy(storage, knowledge, model)?;
            totals.copies += 1;
        }
        if self.crashing.is_over() { Err(Stop::Ended) } else { Ok(()) }
    }

    /// Gives how often the copy was verified.
    fn check_copy(
        &self,
        storage: SimulatedStorage,
        knowledge: Knowledge,
        model: &Model,
    ) -> Outcome<u64> {
        let left = Left { storage, ending: Some(Ending::PowerCut), cut: None, knowledge };
        let calm = Crashing::calm(&left);
        let mut driver = Driver::new(&calm, self.setup);
        let mut model = model.clone();
        driver.open_and_compare(&mut model, &left)?;
        Ok(driver.verifications)
    }

    /// Closes the database; nothing that was committed may be lost then.
    pub(crate) fn close(&mut self, model: &mut Model) -> Outcome {
        self.let_go();
        if let Some(database) = self.database.take() {
            let closed = database.close();
            self.check("close", closed)?;
        }
        model.all_durable();
        if !self.crashing.is_over() {
            self.crashing.know(model.knowledge());
            self.was_closed = true;
        }
        Ok(())
    }

    /// Lets more than the sync interval pass.
    pub(crate) fn pass_interval(&self) {
        self.hand.advance(SYNC_INTERVAL * 2);
    }

    /// Lets some time pass.
    pub(crate) fn pass_time(&self, milliseconds: u64) {
        self.hand.advance(Duration::from_millis(milliseconds));
    }

    /// A step of the background was run.
    pub(crate) fn step_was_run(&self, model: &mut Model) {
        model.timed_sync(self.clock.now(), SYNC_INTERVAL);
        if !self.crashing.is_over() {
            self.crashing.know(model.knowledge());
        }
    }

    fn note_lists(&mut self) {
        let core = self.database.as_ref().map(Database::core);
        if let Some(Ok(core)) = core {
            self.lists_were_written |= core.held.stats().list_pages > 0;
        }
    }

    pub(crate) fn let_go(&mut self) {
        self.kept.clear();
        self.handles.clear();
        if let Some(meanwhile) = &self.meanwhile {
            meanwhile.let_go();
        }
    }

    /// Ends the life.
    pub(crate) fn end(mut self, totals: &mut Totals) -> Left {
        let left = self.crashing.end(self.was_closed);
        self.let_go();
        drop(self.database.take());
        totals.verifications += self.verifications;
        totals.lives_with_written_lists += u64::from(self.lists_were_written);
        if let Some(meanwhile) = &self.meanwhile {
            totals.add(&meanwhile.made());
        }
        match (left.ending, left.cut) {
            (Some(Ending::PowerCut), Some(cut)) => totals.add_cut(cut),
            (Some(_), _) => totals.kills += 1,
            (None, _) => totals.closes += 1,
        }
        left
    }
}
