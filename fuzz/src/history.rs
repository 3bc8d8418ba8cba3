//! A history of operations with reopens, crashes and failing I/O, against a model.

use std::io::ErrorKind;
use std::ops::Bound;
use std::sync::Arc as StdArc;

use crash_lsm::access;
use crash_lsm::model::{Change, State};
use crash_lsm::setup::Setup;
use sapwood::storage::{CrashPlan, FaultKind, SimulatedStorage};
use sapwood::sync::Arc;
use sapwood::{Database, Durability};

const NAME: &str = "a";
const OPERATIONS_MAX: usize = 400;

/// Each operation takes three bytes: which, and two for what it needs.
///
/// Commits are synced, so that whatever was acknowledged must be there after a crash; of a commit
/// that failed all or nothing must be.
pub fn history(bytes: &[u8]) {
    let mut run = Run::new();
    for operation in bytes.chunks_exact(3).take(OPERATIONS_MAX) {
        let [which, a, b] = *operation else { continue };
        run.act(which, a, b);
    }
    run.reopen(CrashPlan::KeepNone);
}

struct Run {
    storage: SimulatedStorage,
    database: Option<Database>,
    state: State,
    /// What a commit that failed would have made of the state.
    maybe: Option<State>,
}

impl Run {
    fn new() -> Run {
        let storage = SimulatedStorage::new();
        let mut run = Run { storage, database: None, state: State::default(), maybe: None };
        run.open();
        run.state.apply(&Change::Create(NAME.into()));
        run
    }

    fn open(&mut self) {
        let setup = Setup { durability: Durability::Sync, ..Setup::tiny() };
        let database = setup.open_on(Arc::new(self.storage.clone()));
        let database = database.unwrap_or_else(|error| panic!("it does not open: {error}"));
        if let Err(error) = database.keyspace(NAME) {
            panic!("its keyspace is lost: {error}");
        }
        self.database = Some(database);
    }

    fn act(&mut self, which: u8, a: u8, b: u8) {
        let key = |n: u8| format!("key {:03}", n % 200).into_bytes();
        let keyspace = || NAME.to_owned();
        match which % 16 {
            0..=4 => {
                let length = if b >= 250 { 3000 } else { usize::from(b) };
                let value = StdArc::from(vec![a; length]);
                self.commit(vec![Change::Put { keyspace: keyspace(), key: key(a), value }]);
            }
            5 | 6 => self.commit(vec![Change::Delete { keyspace: keyspace(), key: key(a) }]),
            7 => {
                let range =
                    (Bound::Included(key(a)), Bound::Excluded(key(a.saturating_add(b % 9))));
                self.commit(vec![Change::DeleteRange { keyspace: keyspace(), range }]);
            }
            8 => {
                let changes = (0..b).map(|n| Change::Put {
                    keyspace: keyspace(),
                    key: key(a.wrapping_add(n.wrapping_mul(3))),
                    value: StdArc::from(vec![n; 40]),
                });
                self.commit(changes.collect());
            }
            9 => self.try_to(Database::flush),
            10 => self.try_to(|database| database.run_step().map(drop)),
            11 => self.try_to(Database::compact),
            12 => self.check(),
            13 => self.reopen(CrashPlan::KeepNone),
            14 => self.reopen(CrashPlan::Random(u64::from(a) << 8 | u64::from(b))),
            _ => {
                let kinds = [FaultKind::Write, FaultKind::Sync, FaultKind::Any];
                let kind = kinds[usize::from(a) % kinds.len()];
                self.storage.fail_at(kind, u64::from(b % 16), a >= 128, ErrorKind::Other);
            }
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        let Some(database) = &self.database else { return };
        let Ok(keyspace) = database.keyspace(NAME) else { return };
        let mut batch = database.batch();
        for change in &changes {
            let put = match change {
                Change::Put { key, value, .. } => batch.put(&keyspace, key, value),
                Change::Delete { key, .. } => batch.delete(&keyspace, key),
                Change::DeleteRange { range, .. } => batch.delete_range(&keyspace, range.clone()),
                _ => Ok(()),
            };
            if put.is_err() {
                return;
            }
        }
        let outcome = batch.commit_with(Durability::Sync);
        let mut after = self.state.clone();
        after.apply_all(&changes);
        match outcome {
            Ok(()) => {
                // Not every failure is one of the log: the one before was whole or not at all.
                if let Some(mut maybe) = self.maybe.take() {
                    maybe.apply_all(&changes);
                    let found = access::dump(database);
                    if found.is_ok_and(|found| found.difference(&maybe).is_none()) {
                        after = maybe;
                    }
                }
                self.state = after;
            }
            // The first one that fails stops the log; those after it were never written.
            Err(_) if self.maybe.is_none() => self.maybe = Some(after),
            Err(_) => {}
        }
    }

    fn try_to(&self, act: impl FnOnce(&Database) -> sapwood::Result<()>) {
        if let Some(database) = &self.database {
            let _ = act(database);
        }
    }

    /// What can be read is what was acknowledged.
    fn check(&mut self) {
        let Some(database) = &self.database else { return };
        let found = access::dump(database).and_then(|found| {
            let back = access::dump_back(database)?;
            assert_eq!(found.difference(&back), None, "forwards and backwards");
            Ok(found)
        });
        if let Ok(found) = found {
            assert_eq!(found.difference(&self.state), None, "in use");
        }
    }

    /// Power fails, and the file is opened again.
    fn reopen(&mut self, plan: CrashPlan) {
        let after = self.storage.crash_with(plan);
        drop(self.database.take());
        self.storage = after;
        self.open();
        let Some(database) = &self.database else { return };
        match access::dump(database) {
            Ok(found) => {
                let expected = self.maybe.take().filter(|maybe| found.difference(maybe).is_none());
                let expected = expected.unwrap_or_else(|| self.state.clone());
                assert_eq!(found.difference(&expected), None, "after a crash");
                self.state = expected;
            }
            Err(error) => panic!("nothing can be read after a crash: {error}"),
        }
        match database.verify(&mut ()) {
            Ok(report) => assert!(report.is_clean(), "{report}"),
            Err(error) => panic!("it cannot be verified: {error}"),
        }
    }
}
