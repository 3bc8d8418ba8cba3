//! The snapshots that are held, for whoever wants to know what keeps space from being free.
//!
//! *Guarantees*: a snapshot is listed for as long as it is held; the list holds neither states nor
//! memtables. *Threads*: any; one short lock, held for a few instructions when one is taken or
//! dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::core::Core;
use super::state::State;
use super::view::Home;
use crate::page::counted::in_map;
use crate::page::{Held, MemoryBudget};
use crate::sync::thread::ThreadId;
use crate::sync::{Arc, LockRank, OrderedMutex, Weak, thread};
use crate::types::SequenceNumber;

/// The rank of the lock.
pub const HELD_SNAPSHOTS: LockRank = LockRank::new(52, "snapshots that are held");

/// See the module.
#[derive(Debug)]
pub struct HeldSnapshots {
    listed: OrderedMutex<Listed>,
}

#[derive(Debug)]
struct Listed {
    next: u64,
    /// In the order in which they were taken.
    snapshots: BTreeMap<u64, Taken>,
    /// What they take is the application's.
    held: Held,
}

impl Listed {
    fn recount(&mut self) {
        self.held.follow(self.snapshots.len() * SNAPSHOT_BYTES);
    }
}

/// What a snapshot takes in memory, here and in the application's handle, in bytes, about.
const SNAPSHOT_BYTES: usize = in_map(1, size_of::<(u64, Taken)>()) + 128;

/// Where the data of a snapshot is, without holding it.
#[derive(Clone, Debug)]
pub enum WeakPlace {
    /// A home, which has a state or will have one.
    Home(Weak<Home>),
    /// The state that was current.
    State(Weak<State>),
}

#[derive(Clone, Debug)]
struct Taken {
    number: SequenceNumber,
    since: Duration,
    by: ThreadId,
    place: WeakPlace,
}

/// What is known of a snapshot that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSnapshot {
    /// The last commit that it sees.
    pub number: SequenceNumber,
    /// When it was taken, by the clock.
    pub since: Duration,
    /// The thread that took it.
    pub by: ThreadId,
    /// Pages that would be free if it alone went.
    pub pages_alone: u64,
}

/// A place in the list, until it is dropped.
#[derive(Debug)]
pub struct Listing {
    snapshots: Arc<HeldSnapshots>,
    name: u64,
}

impl HeldSnapshots {
    /// None is held.
    pub fn new(budget: &Arc<MemoryBudget>) -> HeldSnapshots {
        let listed = Listed { next: 0, snapshots: BTreeMap::new(), held: Held::new(budget) };
        HeldSnapshots { listed: OrderedMutex::new(HELD_SNAPSHOTS, listed) }
    }

    /// Lists a snapshot that was taken just now, by the calling thread.
    pub fn list(
        self: &Arc<Self>,
        number: SequenceNumber,
        since: Duration,
        place: WeakPlace,
    ) -> Listing {
        let by = thread::current_id();
        let mut listed = self.listed.lock();
        let name = listed.next;
        listed.next += 1;
        listed.snapshots.insert(name, Taken { number, since, by, place });
        listed.recount();
        Listing { snapshots: Arc::clone(self), name }
    }

    /// All that are held, the oldest first.
    pub fn held(&self, core: &Core) -> Vec<HeldSnapshot> {
        self.oldest(core, usize::MAX)
    }

    /// How many are held.
    pub fn count(&self) -> usize {
        self.listed.lock().snapshots.len()
    }

    /// So many of them at most, the oldest first.
    pub fn oldest(&self, core: &Core, count: usize) -> Vec<HeldSnapshot> {
        let taken: Vec<Taken> =
            self.listed.lock().snapshots.values().take(count).cloned().collect();
        let held = taken.into_iter().map(|taken| HeldSnapshot {
            number: taken.number,
            since: taken.since,
            by: taken.by,
            pages_alone: taken.place.held_alone().map_or(0, |s| core.held.pages_alone(s.epoch)),
        });
        held.collect()
    }

    /// The states that snapshots hold; one that several hold comes several times.
    pub fn states(&self) -> Vec<Arc<State>> {
        let places: Vec<WeakPlace> =
            self.listed.lock().snapshots.values().map(|taken| taken.place.clone()).collect();
        places.iter().filter_map(WeakPlace::state).collect()
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        let mut listed = self.snapshots.listed.lock();
        listed.snapshots.remove(&self.name);
        listed.recount();
    }
}

impl WeakPlace {
    /// The state that is held, if it is a state already.
    fn state(&self) -> Option<Arc<State>> {
        match self {
            WeakPlace::State(state) => state.upgrade(),
            WeakPlace::Home(home) => home.upgrade()?.state().cloned(),
        }
    }

    /// The same, if nothing else holds it.
    fn held_alone(&self) -> Option<Arc<State>> {
        match self {
            WeakPlace::State(state) => {
                state.upgrade().filter(|state| Arc::strong_count(state) == 2)
            }
            WeakPlace::Home(home) => {
                let home = home.upgrade()?;
                let state = home.state()?;
                // The snapshot holds the home, and the home the state.
                let alone = Arc::strong_count(&home) == 2 && Arc::strong_count(state) == 1;
                alone.then(|| Arc::clone(state))
            }
        }
    }
}
