//! What others do in the middle of everything else: steps of the background, as merge threads make
//! them, snapshots, reads of them, and compactions; by one thread, so that the seed says where.
//!
//! Wherever the thread is about to take a lock, and holds none, something may be done first: while
//! a step reads its sources, between its plan and its install, in the middle of a scan, of a
//! commit, or of what is done in the middle itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use sapwood::sync::Random;
use sapwood::sync::preempt::set_hook;
use sapwood::{Database, Keyspace, Snapshot};

use super::Totals;
use crate::access;
use crate::model::Map;

/// So deep steps may interrupt one another: as many merge threads there might be, and one.
const DEPTH_MAX: u32 = 3;
/// At most so many steps interrupt one call.
const STEPS_MAX: u64 = 200;
/// So many snapshots that were taken in the middle of something are kept.
const SNAPSHOTS_MAX: usize = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Meanwhile {
    random: RefCell<Random>,
    /// At one of so many points something is done.
    one_in: u64,
    depth: Cell<u32>,
    steps: Cell<u64>,
    made: Cell<Totals>,
    snapshots: RefCell<Vec<Seen>>,
    finding: RefCell<Option<String>>,
}

/// A snapshot, and what was read in it before.
#[derive(Clone, Debug)]
struct Seen {
    snapshot: Snapshot,
    content: BTreeMap<String, (Keyspace, Option<Map>)>,
}

impl Meanwhile {
    pub(crate) fn new(seed: u64, one_in: u64) -> Rc<Meanwhile> {
        Rc::new(Meanwhile {
            random: RefCell::new(Random::from_seed(seed)),
            one_in,
            depth: Cell::new(0),
            steps: Cell::new(0),
            made: Cell::default(),
            snapshots: RefCell::default(),
            finding: RefCell::default(),
        })
    }

    /// What was done in the middle of something.
    pub(crate) fn made(&self) -> Totals {
        self.made.get()
    }

    /// What was wrong in a snapshot that was taken in the middle of something.
    pub(crate) fn take_finding(&self) -> Option<String> {
        self.finding.take()
    }

    /// Drops the snapshots.
    pub(crate) fn let_go(&self) {
        drop(self.snapshots.take());
    }

    fn count(&self, change: impl FnOnce(&mut Totals)) {
        let mut made = self.made.get();
        change(&mut made);
        self.made.set(made);
    }

    fn come_between(&self, database: &Database) {
        let depth = self.depth.get();
        let is_now = self.random.borrow_mut().one_in(self.one_in);
        if !is_now || depth >= DEPTH_MAX || self.steps.get() >= STEPS_MAX {
            return;
        }
        self.depth.set(depth + 1);
        self.steps.set(self.steps.get() + 1);
        let what = self.random.borrow_mut().below(16);
        match what {
            0 | 1 => self.take_snapshot(database),
            2 | 3 => self.read_snapshot(),
            4 => self.drop_snapshot(),
            5 => self.compact(database),
            _ => self.run_steps(database),
        }
        self.depth.set(depth);
    }

    fn run_steps(&self, database: &Database) {
        let (seals, steps) = {
            let mut random = self.random.borrow_mut();
            (random.one_in(2), 1 + random.below(4))
        };
        if seals && let Ok(core) = database.core() {
            // As a commit does that finds the memtable full.
            let order = core.commit_order.lock();
            core.seal();
            drop(order);
        }
        for _ in 0..steps {
            // An error is the step's own, as a merge thread's would be: whoever is interrupted
            // meets what follows of it.
            if let Ok(true) = database.run_step() {
                self.count(|made| made.steps_between += 1);
            }
        }
    }

    fn take_snapshot(&self, database: &Database) {
        if self.snapshots.borrow().len() >= SNAPSHOTS_MAX {
            return;
        }
        let (Ok(names), Ok(snapshot)) = (database.keyspaces(), database.snapshot()) else { return };
        let handles = names.into_iter().filter_map(|name| {
            let handle = database.existing_keyspace(&name).ok()?;
            Some((name, (handle, None)))
        });
        let seen = Seen { snapshot, content: handles.collect() };
        self.snapshots.borrow_mut().push(seen);
        self.count(|made| made.snapshots_between += 1);
    }

    /// What a snapshot sees never changes. The first read of a keyspace says what that is.
    fn read_snapshot(&self) {
        let count = self.snapshots.borrow().len() as u64;
        if count == 0 {
            return;
        }
        let index = self.random.borrow_mut().below(count) as usize;
        let Some(seen) = self.snapshots.borrow().get(index).cloned() else { return };
        for (name, (handle, before)) in seen.content {
            // An error is that of a disk that fails, or of a keyspace that was dropped.
            let Ok(now) = access::dump_snapshot(&seen.snapshot, &handle) else { continue };
            match before {
                Some(before) if before != now => {
                    let number = seen.snapshot.sequence();
                    let text = format!(
                        "a snapshot of {number:?} saw {} keys in {name:?}, and sees {} now",
                        before.len(),
                        now.len()
                    );
                    self.finding.borrow_mut().get_or_insert(text);
                }
                Some(_) => {}
                None => {
                    let mut snapshots = self.snapshots.borrow_mut();
                    let same = snapshots
                        .iter_mut()
                        .find(|other| other.snapshot.sequence() == seen.snapshot.sequence());
                    if let Some((_, first)) = same.and_then(|same| same.content.get_mut(&name)) {
                        first.get_or_insert(now);
                    }
                }
            }
        }
    }

    fn drop_snapshot(&self) {
        let count = self.snapshots.borrow().len() as u64;
        if count > 0 {
            let index = self.random.borrow_mut().below(count) as usize;
            let gone = self.snapshots.borrow_mut().swap_remove(index);
            drop(gone);
        }
    }

    /// Some steps of a compaction, unless it would wait for what it interrupts.
    fn compact(&self, database: &Database) {
        let (Ok(core), Ok(names)) = (database.core(), database.keyspaces()) else { return };
        let flush_is_out = core.background.jobs.lock().flush_is_out;
        if flush_is_out || !core.background.reservations.is_empty() || names.is_empty() {
            return;
        }
        let (index, mut reports) = {
            let mut random = self.random.borrow_mut();
            (random.below(names.len() as u64) as usize, 2 + random.below(6))
        };
        let Some(Ok(keyspace)) = names.get(index).map(|name| database.existing_keyspace(name))
        else {
            return;
        };
        let mut progress = |_: u64, _: u64| {
            reports -= 1;
            reports > 0
        };
        self.count(|made| made.compactions_between += 1);
        // What it fails with is its own, as with a step.
        let _ = keyspace.compact(access::EVERYTHING, &mut progress);
    }
}

/// Lets steps come between until it is dropped.
pub(crate) struct Hooked;

impl Hooked {
    pub(crate) fn new(meanwhile: &Rc<Meanwhile>, database: &Database) -> Hooked {
        meanwhile.steps.set(0);
        let (meanwhile, database) = (meanwhile.clone(), database.clone());
        set_hook(Some(Rc::new(move || meanwhile.come_between(&database))));
        Hooked
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        // What the hook holds is dropped with nothing hooked.
        let hook = set_hook(None);
        drop(hook);
    }
}
