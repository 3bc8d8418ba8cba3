//! Drives a database and the model side by side, and ends its process at a random operation.
//!
//! A run is a chain of *lives*. In each the workload goes on until an operation on the storage that
//! was chosen beforehand: there the power is cut, or the process is killed; the next life opens
//! what is left. Besides, copies of what a power cut would leave are taken at other operations,
//! opened and compared, while the life goes on. What had to survive is what was known at exactly
//! that operation.
//!
//! *Guarantees*: no threads, no other source of chance than the seed. A [`Failure`] names the seed,
//! the life and the step.
//! *Threads*: the one that calls.

mod apply;
mod disk;
mod driver;
mod meanwhile;
mod totals;

use std::fmt;

use sapwood::sync::Random;

use self::disk::{Crashing, Left};
use self::driver::{Driver, Stop};
pub use self::totals::Totals;
use crate::model::{Ending, Model};
use crate::setup::Setup;
use crate::workload::{Shape, Workload};

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What everything follows from.
    pub seed: u64,
    /// How many lives.
    pub lives: u64,
    /// How many steps each life has, when nothing ends it before.
    pub steps: u64,
    /// Whether lives end by crashes, and copies are taken; otherwise each ends with a clean close.
    pub crashes: bool,
    /// Lives end within 2 to the power of this many operations on the disk.
    pub end_bits: u64,
    /// Whether lives may end while the file is being made, too.
    pub creation: bool,
    /// Whether writes and syncs fail, too.
    pub faults: bool,
    /// Whether each step is printed, for a closer look.
    pub trace: bool,
    /// At one of so many locks a step of the background comes in between; 0: at none.
    pub preempt_one_in: u64,
    /// The options; drawn when not given.
    pub setup: Option<Setup>,
    /// What the steps are drawn from; drawn itself when not given.
    pub shape: Option<Shape>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Plan {
        let mut random = Random::from_seed(seed ^ 0x5eed);
        Plan {
            seed,
            lives: 1 + random.below(4),
            steps: 10 << random.below(6),
            crashes: true,
            end_bits: 16,
            creation: random.one_in(8),
            faults: random.one_in(4),
            trace: false,
            preempt_one_in: Plan::draw_preempt(seed),
            setup: None,
            shape: None,
        }
    }

    /// Half of the seeds have steps come in between, some at each second lock, some seldom.
    fn draw_preempt(seed: u64) -> u64 {
        let mut random = Random::from_seed(seed ^ 0x93ee);
        if random.one_in(2) { 0 } else { 2 << random.below(10) }
    }

    /// A plan of several lives that end early, so that many power cuts come of it.
    #[must_use]
    pub fn of_cuts(seed: u64) -> Plan {
        let mut random = Random::from_seed(seed ^ 0xc075);
        let lives = 4 + random.below(5);
        Plan { lives, steps: 20 << random.below(5), end_bits: 9, ..Plan::of_seed(seed) }
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed that shows it again.
    pub seed: u64,
    /// Which life, from 0.
    pub life: u64,
    /// Which step of that life, from 0.
    pub step: u64,
    /// The options of that life.
    pub setup: Setup,
    /// What was wrong.
    pub detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, life, step, setup, detail } = self;
        write!(f, "seed {seed}, life {life}, step {step}: {detail} ({setup:?})")
    }
}

impl std::error::Error for Failure {}

/// Runs the plan of a seed.
///
/// # Errors
/// What the run found.
pub fn run_seed(seed: u64) -> Result<Totals, Failure> {
    run(Plan::of_seed(seed))
}

/// Runs a plan.
///
/// # Errors
/// What the run found.
pub fn run(plan: Plan) -> Result<Totals, Failure> {
    let mut random = Random::from_seed(plan.seed);
    let setup = plan.setup.unwrap_or_else(|| Setup::draw(&mut random));
    let shape = plan.shape.unwrap_or_else(|| Shape::draw(&mut random));
    let mut run = Run {
        plan,
        setup,
        workload: Workload::new(random.next_u64(), shape),
        random,
        model: Model::default(),
        totals: Totals { runs: 1, ..Totals::default() },
    };
    let mut left = Left::new();
    if !plan.creation {
        run.create(&left)?;
    }
    for life in 0..plan.lives {
        left = run.live(life, left)?;
    }
    run.reopen_at_last(left)?;
    Ok(run.totals)
}

struct Run {
    plan: Plan,
    setup: Setup,
    workload: Workload,
    random: Random,
    model: Model,
    totals: Totals,
}

impl Run {
    fn failure(&self, life: u64, step: u64, detail: String) -> Failure {
        Failure { seed: self.plan.seed, life, step, setup: self.setup, detail }
    }

    fn trace(&self, text: &str) {
        if self.plan.trace {
            println!("{text}");
        }
    }

    /// Makes the file, with nothing going wrong.
    fn create(&self, left: &Left) -> Result<(), Failure> {
        let crashing = Crashing::calm(left);
        let mut driver = Driver::new(&crashing, self.setup);
        match driver.open().and_then(|()| driver.close(&mut Model::default())) {
            Err(Stop::Found(detail)) => {
                Err(self.failure(0, 0, format!("making the file: {detail}")))
            }
            Ok(()) | Err(Stop::Ended) => Ok(()),
        }
    }

    /// One life: opens what the last one left, compares, works, and ends.
    fn live(&mut self, life: u64, left: Left) -> Result<Left, Failure> {
        self.setup = self.setup.redraw(&mut self.random);
        let crashing = if self.plan.crashes {
            {
                let may_fail = self.plan.faults && life > 0;
                Crashing::new(&left, &mut self.random, self.plan.end_bits, may_fail)
            }
        } else {
            Crashing::calm(&left)
        };
        crashing.know(left.knowledge.after(left.ending));
        let mut driver = Driver::new(&crashing, self.setup);
        if self.plan.preempt_one_in > 0 {
            driver.preempt(self.plan.seed ^ life, self.plan.preempt_one_in);
        }
        let (mut step, mut synced_after_kill) = (0, false);
        let was_killed = left.ending == Some(Ending::Kill);
        // Mostly the power fails only after that commit: it must have taken along what was
        // replayed. Sometimes it fails in the middle of it.
        crashing.hold_end(was_killed && !self.random.one_in(8));
        let outcome = driver.open_and_compare(&mut self.model, &left).and_then(|()| {
            if was_killed {
                driver.commit_one_synced(&mut self.model, &mut self.totals)?;
                synced_after_kill = true;
            }
            crashing.hold_end(false);
            while step < self.plan.steps {
                let next = self.workload.next_step(self.model.state(), driver.snapshot_count());
                self.totals.operations += next.operation_count();
                self.trace(&format!("step {step}: {next:?}"));
                driver.step(next, &mut self.model, &mut self.totals, &mut self.random)?;
                driver.check_copies(&self.model, &mut self.totals)?;
                self.model.forget_history();
                self.totals.steps += 1;
                step += 1;
            }
            driver.close(&mut self.model)
        });
        let known = self.model.knowledge();
        self.trace(&format!("life {life}, begun after {:?}, ends: {known:?}", left.ending));
        if let Err(Stop::Found(detail)) = outcome {
            return Err(self.failure(life, step, detail));
        }
        let left = driver.end(&mut self.totals);
        if synced_after_kill && left.cut.is_some() {
            self.totals.cuts_after_kill_and_sync += 1;
        }
        Ok(left)
    }

    /// Nothing may be wrong with what the last life left.
    fn reopen_at_last(&mut self, left: Left) -> Result<(), Failure> {
        let crashing = Crashing::calm(&left);
        let mut driver = Driver::new(&crashing, self.setup);
        let outcome = driver.open_and_compare(&mut self.model, &left);
        self.totals.verifications += driver.verifications();
        match outcome {
            Err(Stop::Found(detail)) => Err(self.failure(self.plan.lives, 0, detail)),
            Ok(()) | Err(Stop::Ended) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
