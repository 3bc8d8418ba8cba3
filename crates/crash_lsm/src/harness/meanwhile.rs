//! Steps of the background in the middle of everything else, as merge threads make them; by one
//! thread, so that the seed says where.
//!
//! Wherever the thread is about to take a lock, and holds none, some step may be made first: while
//! another step reads its sources, between its plan and its install, in the middle of a scan, of a
//! commit, or of a step that was made in the middle itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sapwood::Database;
use sapwood::sync::Random;
use sapwood::sync::preempt::set_hook;

/// So deep steps may interrupt one another: as many merge threads there might be, and one.
const DEPTH_MAX: u32 = 3;
/// At most so many steps interrupt one call.
const STEPS_MAX: u64 = 200;

/// See the module.
#[derive(Debug)]
pub(crate) struct Meanwhile {
    random: RefCell<Random>,
    /// At one of so many points something is done.
    one_in: u64,
    depth: Cell<u32>,
    steps: Cell<u64>,
    made: Cell<u64>,
}

impl Meanwhile {
    pub(crate) fn new(seed: u64, one_in: u64) -> Rc<Meanwhile> {
        Rc::new(Meanwhile {
            random: RefCell::new(Random::from_seed(seed)),
            one_in,
            depth: Cell::new(0),
            steps: Cell::new(0),
            made: Cell::new(0),
        })
    }

    /// How many steps were made in the middle of something.
    pub(crate) fn made(&self) -> u64 {
        self.made.get()
    }

    fn come_between(&self, database: &Database) {
        let depth = self.depth.get();
        let is_now = self.random.borrow_mut().one_in(self.one_in);
        if !is_now || depth >= DEPTH_MAX || self.steps.get() >= STEPS_MAX {
            return;
        }
        self.depth.set(depth + 1);
        self.steps.set(self.steps.get() + 1);
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
                self.made.set(self.made.get() + 1);
            }
        }
        self.depth.set(depth);
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
