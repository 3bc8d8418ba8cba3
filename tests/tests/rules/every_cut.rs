//! Every power cut of a short history: before each operation on the disk and in the middle of each
//! synced write, with each choice of what was not synced.

use sapwood::storage::{CrashPlan, Operation, OperationKind, SimulatedStorage};
use sapwood::sync::atomic::{AtomicU64, Ordering};
use sapwood::sync::{Arc, Mutex};

/// All choices are tried where no more than so many writes wait; else each write alone is
/// lost, and what came first is kept.
const CHOICES_OF_MAX: usize = 6;

/// A file as a power cut has left it.
pub struct Left {
    pub storage: SimulatedStorage,
    /// The operation and what became of the writes.
    pub what: String,
    /// What `done` was.
    pub done: u64,
}

/// Does `act`, and has each file that a power cut may leave meanwhile looked at. `torn` is how
/// often, at each place, the writes are besides torn, lost and reordered by chance.
pub fn every_cut(
    storage: &SimulatedStorage,
    torn: u64,
    done: &Arc<AtomicU64>,
    act: impl FnOnce(),
    mut check: impl FnMut(&Left),
) {
    let left = Arc::new(Mutex::new(Vec::new()));
    let look = |when: &'static str| {
        let (of, done, left) = (storage.clone(), Arc::clone(done), Arc::clone(&left));
        move |operation: &Operation| {
            if operation.kind == OperationKind::Read {
                return;
            }
            let done = done.load(Ordering::SeqCst);
            let random = (0..torn).map(|n| CrashPlan::Random(operation.index * 1000 + n));
            for plan in choices(of.pending_count()).into_iter().chain(random) {
                let what = format!("{when} {operation:?}, {plan:?}");
                left.lock().push(Left { storage: of.crash_copy(plan), what, done });
            }
        }
    };
    storage.on_operation(Box::new(look("before")));
    storage.on_synced_write(Box::new(look("in the middle of")));
    act();
    storage.clear_on_operation();
    let left = std::mem::take(&mut *left.lock());
    assert!(left.len() > 10, "{} power cuts", left.len());
    left.iter().for_each(&mut check);
}

fn choices(pending_count: usize) -> Vec<CrashPlan> {
    if pending_count <= CHOICES_OF_MAX {
        return (0..1_u64 << pending_count).map(CrashPlan::KeepSome).collect();
    }
    let bits = pending_count.min(64);
    let all_but_one = (0..bits).map(|n| CrashPlan::KeepSome(!(1 << n)));
    let first = (0..pending_count).map(CrashPlan::KeepPrefix);
    all_but_one.chain(first).chain([CrashPlan::KeepAll]).collect()
}
