//! The disk of one life: it ends the life at an operation, and takes copies at others.
//!
//! *Guarantees*: with each ending and each copy goes what was known just before that operation. At
//! a synced write they come before it, or while its bytes are on their way.

use std::io::ErrorKind;

use sapwood::storage::{CrashPlan, FaultKind, OperationKind, SimulatedStorage};
use sapwood::sync::{Arc, Mutex, Random};

use crate::model::{Ending, Knowledge};

/// What a power cut does to the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutKind {
    LosesAll,
    LosesNone,
    KeepsOldest,
    TearsAndReorders,
}

/// A power cut that ended a life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub kind: CutKind,
    /// Writes that were not synced then.
    pub unsynced_count: usize,
}

/// How many copies may wait to be compared; more are not taken.
const COPIES_WAITING_MAX: usize = 3;

/// What a life leaves behind.
#[derive(Debug)]
pub(crate) struct Left {
    pub storage: SimulatedStorage,
    /// `None` after a clean close, and before the first life.
    pub ending: Option<Ending>,
    /// The power cut, when that was the ending.
    pub cut: Option<Cut>,
    /// What was known when the life ended.
    pub knowledge: Knowledge,
}

impl Left {
    pub(crate) fn new() -> Left {
        let knowledge = Knowledge::default();
        Left { storage: SimulatedStorage::new(), ending: None, cut: None, knowledge }
    }
}

/// The disk of one life.
#[derive(Debug)]
pub(crate) struct Crashing {
    pub storage: SimulatedStorage,
    shared: Arc<Mutex<Shared>>,
    pub has_faults: bool,
}

#[derive(Debug)]
struct Shared {
    random: Random,
    knowledge: Knowledge,
    /// After so many more operations the life ends.
    until_end: u64,
    until_copy: u64,
    copy_gap: u64,
    copies: Vec<(SimulatedStorage, Knowledge)>,
    /// In so many cases of a hundred it ends with a kill; else with a power cut.
    kill_percent: u64,
    left: Option<Left>,
    /// Operations do not bring the end nearer.
    end_is_held: bool,
    /// The synced write that has begun counts when its bytes are on their way.
    counts_in_the_middle: bool,
}

impl Crashing {
    /// The disk that an earlier life left, with an end and copies at operations that are drawn now.
    pub(crate) fn new(left: &Left, random: &mut Random, end_bits: u64, may_fail: bool) -> Crashing {
        let until_end = 1 + draw_gap(random, end_bits);
        let copy_gap = 1 + draw_gap(random, 10);
        // What a kill left in the cache is lost by a power cut soon after, if at all.
        let kill_percent = if left.ending == Some(Ending::Kill) { 25 } else { 60 };
        let shared = Shared {
            random: Random::from_seed(random.next_u64()),
            knowledge: left.knowledge,
            until_end,
            until_copy: 1 + random.below(copy_gap),
            copy_gap,
            copies: Vec::new(),
            kill_percent,
            left: None,
            end_is_held: false,
            counts_in_the_middle: false,
        };
        let has_faults = may_fail && random.one_in(2);
        let crashing = Crashing {
            storage: left.storage.clone(),
            shared: Arc::new(Mutex::new(shared)),
            has_faults,
        };
        crashing.listen();
        if has_faults {
            crashing.plan_fault(random);
        }
        crashing
    }

    /// The same without any end or copy.
    pub(crate) fn calm(left: &Left) -> Crashing {
        let crashing = Crashing::new(left, &mut Random::from_seed(0), 1, false);
        crashing.storage.clear_on_operation();
        crashing
    }

    fn plan_fault(&self, random: &mut Random) {
        self.storage.set_seed(random.next_u64());
        let nth = 1 + draw_gap(random, 12);
        let other = ErrorKind::Other;
        // Write-back that found no space is told by the sync; no later one writes it.
        let of_sync = if random.one_in(3) { ErrorKind::StorageFull } else { other };
        match random.below(3) {
            0 => self.storage.fail_sync_and_drop_cache_with(of_sync),
            1 => self.storage.fail_at(FaultKind::Write, nth, random.one_in(2), other),
            _ => self.storage.fail_at(FaultKind::Sync, nth, random.one_in(2), of_sync),
        }
    }

    fn listen(&self) {
        let (shared, storage) = (Arc::clone(&self.shared), self.storage.clone());
        self.storage.on_operation(Box::new(move |operation| {
            // A read changes nothing: an end there is the same as one at the next write.
            if operation.kind == OperationKind::Read {
                return;
            }
            let mut shared = shared.lock();
            if shared.left.is_some() {
                return;
            }
            let is_synced = operation.kind == OperationKind::WriteSync;
            shared.counts_in_the_middle = is_synced && shared.random.one_in(2);
            if !shared.counts_in_the_middle {
                shared.count(&storage);
            }
        }));
        let (shared, storage) = (Arc::clone(&self.shared), self.storage.clone());
        self.storage.on_synced_write(Box::new(move |_| {
            let mut shared = shared.lock();
            if std::mem::take(&mut shared.counts_in_the_middle) && shared.left.is_none() {
                shared.count(&storage);
            }
        }));
    }

    /// Says whether the end is held up from here on.
    pub(crate) fn hold_end(&self, held: bool) {
        self.shared.lock().end_is_held = held;
    }

    /// Says what is known from here on.
    pub(crate) fn know(&self, knowledge: Knowledge) {
        self.shared.lock().knowledge = knowledge;
    }

    /// Whether the life has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.lock().left.is_some()
    }

    /// The copies that wait.
    pub(crate) fn take_copies(&self) -> Vec<(SimulatedStorage, Knowledge)> {
        std::mem::take(&mut self.shared.lock().copies)
    }

    /// Ends the life, if that has not happened.
    pub(crate) fn end(&self, was_closed: bool) -> Left {
        // It holds the disk that holds it: neither would ever go.
        self.storage.clear_on_operation();
        let mut shared = self.shared.lock();
        if let Some(left) = shared.left.take() {
            return left;
        }
        if was_closed {
            // The next life's handles must not be those of this one.
            let storage = self.storage.kill();
            return Left { storage, ending: None, cut: None, knowledge: shared.knowledge };
        }
        shared.ending(&self.storage)
    }
}

impl Shared {
    fn count(&mut self, storage: &SimulatedStorage) {
        self.until_end -= u64::from(!self.end_is_held);
        self.until_copy -= 1;
        if self.until_end == 0 && storage.pending_count() == 0 && !self.random.one_in(4) {
            // There is more to lose a little later.
            self.until_end = 1 + self.random.below(4);
        }
        if self.until_end == 0 {
            self.left = Some(self.ending(storage));
            return;
        }
        if self.until_copy == 0 {
            self.until_copy = 1 + self.random.below(2 * self.copy_gap);
            if self.copies.len() < COPIES_WAITING_MAX {
                let (plan, _) = self.crash_plan(storage);
                self.copies.push((storage.crash_copy(plan), self.knowledge));
            }
        }
    }

    /// Ends the life.
    fn ending(&mut self, storage: &SimulatedStorage) -> Left {
        let knowledge = self.knowledge;
        if self.random.below(100) < self.kill_percent {
            let storage = storage.kill();
            return Left { storage, ending: Some(Ending::Kill), cut: None, knowledge };
        }
        let (plan, kind) = self.crash_plan(storage);
        let cut = Some(Cut { kind, unsynced_count: storage.pending_count() });
        let storage = storage.crash_with(plan);
        Left { storage, ending: Some(Ending::PowerCut), cut, knowledge }
    }

    fn crash_plan(&mut self, storage: &SimulatedStorage) -> (CrashPlan, CutKind) {
        match self.random.below(8) {
            0 => (CrashPlan::KeepNone, CutKind::LosesAll),
            1 => (CrashPlan::KeepAll, CutKind::LosesNone),
            2 => {
                let count = storage.pending_count() as u64;
                let kept = self.random.below(count + 1) as usize;
                (CrashPlan::KeepPrefix(kept), CutKind::KeepsOldest)
            }
            _ => (CrashPlan::Random(self.random.next_u64()), CutKind::TearsAndReorders),
        }
    }
}

/// A number below `2^bits`; small and large ones are alike likely.
fn draw_gap(random: &mut Random, bits: u64) -> u64 {
    let bits = random.below(bits + 1);
    random.below(1 << bits)
}
