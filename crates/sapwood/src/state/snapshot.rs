//! Snapshots: a number and what it is read from.
//!
//! *Guarantees*: a snapshot sees one instant for ever; taking one costs the same at any size of the
//! database, dropping one does no I/O and takes no lock that a merge holds.
//! *Threads*: any.

use super::core::Core;
use super::held_snapshots::{Listing, WeakPlace};
use super::state::State;
use super::view::{Home, MemtableSlot, View};
use crate::sync::Arc;
use crate::types::SequenceNumber;

/// What a reader reads, for the length of one call: it holds memtables.
#[derive(Clone, Debug)]
pub struct ReadPoint {
    /// Newest first.
    pub memtables: Vec<Arc<MemtableSlot>>,
    /// What lies below them.
    pub state: Arc<State>,
    /// Versions above it are not seen.
    pub at: SequenceNumber,
}

/// What holds blocks that were named when something was read, for as long as it lives. It holds no
/// memtable.
#[derive(Debug)]
pub struct BlocksHold {
    _state: Arc<State>,
    /// A value that came to a leaf with the flush of one of the memtables is as old as that leaf.
    _homes: Vec<Arc<Home>>,
}

impl ReadPoint {
    /// Holds the blocks that what it reads may name.
    pub fn hold_blocks(&self) -> BlocksHold {
        let homes = self.memtables.iter().map(|slot| slot.home.clone()).collect();
        BlocksHold { _state: self.state.clone(), _homes: homes }
    }
}

/// A snapshot. Dropping is cheap.
#[derive(Debug)]
pub struct SnapshotHold {
    number: SequenceNumber,
    place: Place,
    _listing: Listing,
}

#[derive(Debug)]
enum Place {
    /// It belongs to a memtable that was not flushed when it was taken.
    Home(Arc<Home>),
    /// Everything it sees was in this state when it was taken.
    State(Arc<State>),
}

impl Drop for SnapshotHold {
    fn drop(&mut self) {
        if let Place::Home(home) = &self.place {
            home.unregister(self.number);
        }
    }
}

impl SnapshotHold {
    /// The last commit that it sees.
    pub fn number(&self) -> SequenceNumber {
        self.number
    }

    /// Takes a snapshot of the newest visible commit.
    pub fn take(core: &Core) -> SnapshotHold {
        loop {
            let view = core.view();
            let number = core.visible();
            // Between the two loads a newer view may have come, whose commits the number counts.
            if !Arc::ptr_eq(&view, &core.view()) {
                continue;
            }
            let Some(slot) = view.memtables().find(|slot| slot.reaches(number)) else {
                return SnapshotHold::at(core, number, Place::State(view.state.clone()));
            };
            if slot.register(number) {
                return SnapshotHold::at(core, number, Place::Home(slot.home.clone()));
            }
        }
    }

    fn at(core: &Core, number: SequenceNumber, place: Place) -> SnapshotHold {
        let weak = match &place {
            Place::Home(home) => WeakPlace::Home(Arc::downgrade(home)),
            Place::State(state) => WeakPlace::State(Arc::downgrade(state)),
        };
        let listing = core.snapshots.list(number, core.clock.now(), weak);
        SnapshotHold { number, place, _listing: listing }
    }

    /// What to read for this snapshot right now.
    pub fn read_point(&self, core: &Core) -> ReadPoint {
        let home = match &self.place {
            Place::State(state) => {
                return ReadPoint { memtables: Vec::new(), state: state.clone(), at: self.number };
            }
            Place::Home(home) => home,
        };
        // The view is loaded before the home is asked: without a state in the home, that view still
        // has the memtable.
        let view = core.view();
        if let Some(state) = home.state() {
            return ReadPoint { memtables: Vec::new(), state: state.clone(), at: self.number };
        }
        let memtables = memtables_from(&view, home);
        assert!(!memtables.is_empty(), "a memtable that is not flushed is in every view");
        ReadPoint { memtables, state: view.state.clone(), at: self.number }
    }

    /// True when what is read has not changed since `point` was made, apart from merges.
    pub fn still_reads(&self, point: &ReadPoint) -> bool {
        match &self.place {
            Place::State(_) => true,
            Place::Home(home) => home.state().is_none() != point.memtables.is_empty(),
        }
    }
}

/// The memtable with that home and those sealed before it.
fn memtables_from(view: &View, home: &Arc<Home>) -> Vec<Arc<MemtableSlot>> {
    view.memtables().skip_while(|slot| !Arc::ptr_eq(&slot.home, home)).cloned().collect()
}

impl ReadPoint {
    /// Everything visible now, for one call.
    pub fn latest(core: &Core) -> ReadPoint {
        let view = core.view();
        let at = core.visible();
        ReadPoint::of_view(&view, at)
    }

    /// What a view holds of the commits up to `at`; it must hold all of them.
    pub fn of_view(view: &View, at: SequenceNumber) -> ReadPoint {
        // A commit by reference has one number, which its entries do not carry.
        let is_seen = |slot: &&Arc<MemtableSlot>| match &slot.by_reference {
            Some(commit) => commit.number <= at,
            None => !slot.table.is_empty(),
        };
        let memtables = view.memtables().filter(is_seen).cloned().collect();
        ReadPoint { memtables, state: view.state.clone(), at }
    }
}
