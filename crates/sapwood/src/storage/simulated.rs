//! A disk that can lose power, fail and fill up, for tests; everything follows from a seed.
//!
//! *Assumes*: nothing.
//! *Guarantees*: what the medium is assumed to do (docs/durability.md), and no more. A crash may
//! lose, reorder and tear (at 512 bytes of the file) whatever was not synced; it changes no byte
//! outside of what was written, and none that was synced since. `write_sync_at` syncs its own bytes
//! and the length that they need; older writes to other places stay unsynced.
//! *Threads*: any. Clones are the same disk. One lock inside, not held while a callback runs.
//!
//! After `crash` or `kill` the old handles fail every operation: threads of the old database that
//! live on cannot reach the new disk, which is a copy.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod disk;
mod faults;
mod in_place;

use std::fmt;
use std::io;

use self::disk::Disk;
use self::faults::{Faults, Verdict};
use self::in_place::InPlace;
use super::{Advice, Mapped, Storage, end_of};
use crate::sync::{Arc, Mutex, Random};

/// No simulated file grows beyond it, whatever its capacity: a test that asks for more is in error.
const LENGTH_MAX_BYTES: u64 = 1 << 40;

/// What a storage is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// `read_at`
    Read,
    /// `write_at`
    Write,
    /// `write_sync_at`
    WriteSync,
    /// `sync_data`
    Sync,
    /// `set_length`; the new length stands as the operation's length.
    SetLength,
    /// `allocate`
    Allocate,
    /// `write_back`
    WriteBack,
    /// `advise`
    Advise,
    /// `punch`
    Punch,
    /// `sync_directory`
    SyncDirectory,
}

/// One operation, as a callback sees it before it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// How many operations came before it on this disk.
    pub index: u64,
    /// What is asked for.
    pub kind: OperationKind,
    /// Where.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// One operation in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceEntry {
    /// What was asked for.
    pub kind: OperationKind,
    /// Where.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// Which operations a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Reads.
    Read,
    /// Writes, synced ones too.
    Write,
    /// Syncs: of the file and of the directory, and synced writes.
    Sync,
    /// Changes of length.
    SetLength,
    /// Reservations.
    Allocate,
    /// Every operation, hints too.
    Any,
}

/// What of the unsynced operations is on the disk after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPlan {
    /// Nothing.
    KeepNone,
    /// Everything: the same as if a sync had come just before.
    KeepAll,
    /// The oldest so many, whole.
    KeepPrefix(usize),
    /// Those whose bits are set, whole and in order; the lowest bit is for the oldest, and the
    /// highest one for all from the 64th on.
    KeepSome(u64),
    /// Any of them, in any order, whole or torn.
    Random(u64),
}

type Callback = Arc<dyn Fn(&Operation) + Send + Sync>;

/// A handle of a simulated disk with one file.
#[derive(Clone)]
pub struct SimulatedStorage {
    shared: Arc<Mutex<Shared>>,
    in_place: Arc<InPlace>,
}

struct Shared {
    disk: Disk,
    faults: Faults,
    random: Random,
    /// The handles are dead: the disk was taken away.
    gone: bool,
    capacity_bytes: u64,
    operation_count: u64,
    trace: Option<Vec<TraceEntry>>,
    callback: Option<Callback>,
    /// Called in the middle of synced writes.
    under_way: Option<Callback>,
}

impl SimulatedStorage {
    /// An empty file on a disk without limit.
    #[must_use]
    pub fn new() -> SimulatedStorage {
        SimulatedStorage::from_disk(Disk::default(), u64::MAX)
    }

    /// A file that holds `bytes`, all of them durable.
    #[must_use]
    pub fn from_image(bytes: Vec<u8>) -> SimulatedStorage {
        SimulatedStorage::from_disk(Disk::from_image(&bytes), u64::MAX)
    }

    fn from_disk(disk: Disk, capacity_bytes: u64) -> SimulatedStorage {
        let shared = Shared {
            disk,
            faults: Faults::default(),
            random: Random::from_seed(0),
            gone: false,
            capacity_bytes,
            operation_count: 0,
            trace: None,
            callback: None,
            under_way: None,
        };
        let in_place = Arc::new(InPlace::default());
        SimulatedStorage { shared: Arc::new(Mutex::new(shared)), in_place }
    }

    /// Sets what the random part of failing writes follows from.
    pub fn set_seed(&self, seed: u64) {
        self.shared.lock().random = Random::from_seed(seed);
    }

    /// Cuts the power, and gives the disk as the next start finds it. This handle and its clones
    /// are dead from here on.
    #[must_use]
    pub fn crash(&self, random: &mut Random) -> SimulatedStorage {
        self.crash_with(CrashPlan::Random(random.next_u64()))
    }

    /// The same, with a plan of what is kept.
    #[must_use]
    pub fn crash_with(&self, plan: CrashPlan) -> SimulatedStorage {
        let mut shared = self.shared.lock();
        shared.gone = true;
        SimulatedStorage::from_disk(shared.disk.after_crash(plan), shared.capacity_bytes)
    }

    /// What a crash would leave now; this disk goes on.
    #[must_use]
    pub fn crash_copy(&self, plan: CrashPlan) -> SimulatedStorage {
        let shared = self.shared.lock();
        SimulatedStorage::from_disk(shared.disk.after_crash(plan), shared.capacity_bytes)
    }

    /// Ends the process but not the machine: everything written is there, and what was not synced
    /// still is not. This handle and its clones are dead from here on.
    #[must_use]
    pub fn kill(&self) -> SimulatedStorage {
        let mut shared = self.shared.lock();
        shared.gone = true;
        SimulatedStorage::from_disk(shared.disk.clone(), shared.capacity_bytes)
    }

    /// How many changes a crash could lose.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.shared.lock().disk.pending_count()
    }

    /// How many operations this disk was asked for, failed ones too.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.shared.lock().operation_count
    }

    /// Makes the `nth` operation of a kind from now on fail (1 is the next one), or with `once`
    /// false that one and all after it. A failing write may have written a part; a failing sync
    /// leaves unsynced what was so. Faults add up.
    pub fn fail_at(&self, kind: FaultKind, nth: u64, once: bool, error: io::ErrorKind) {
        self.shared.lock().faults.add(kind, nth, once, error);
    }

    /// Makes the next sync (or synced write) fail, and lose what it was to sync: reads show it
    /// until the crash, later syncs leave it out. So do systems that mark pages clean after a
    /// failure.
    pub fn fail_sync_and_drop_cache(&self) {
        self.fail_sync_and_drop_cache_with(io::ErrorKind::Other);
    }

    /// The same, and the system says why: to some, what they could not write back for lack of
    /// space is just that.
    pub fn fail_sync_and_drop_cache_with(&self, error: io::ErrorKind) {
        self.shared.lock().faults.drop_cache_at_next_sync(error);
    }

    /// Forgets all faults that have not happened yet, or go on happening.
    pub fn clear_faults(&self) {
        self.shared.lock().faults = Faults::default();
    }

    /// Sets the size of the disk: whatever makes the file longer fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: u64) {
        self.shared.lock().capacity_bytes = bytes;
    }

    /// Damages one bit (0 is the lowest) of the medium. Beyond the end it does nothing.
    pub fn flip_bit(&self, offset: u64, bit: u32) {
        self.shared.lock().disk.flip_bit(offset, bit);
    }

    /// Puts other bytes on the medium; what would lie beyond the end is left out.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.shared.lock().disk.overwrite(offset, bytes);
    }

    /// The file as reads see it.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.shared.lock().disk.image()
    }

    /// The file as it is when a crash loses everything that it can.
    #[must_use]
    pub fn durable_image(&self) -> Vec<u8> {
        self.shared.lock().disk.durable_image()
    }

    /// Begins a trace of the operations.
    pub fn start_trace(&self) {
        self.shared.lock().trace = Some(Vec::new());
    }

    /// Takes what was traced since the start or the last call; empty without a start.
    #[must_use]
    pub fn take_trace(&self) -> Vec<TraceEntry> {
        self.shared.lock().trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Has `callback` called before each operation, on the thread that asks for it and without a
    /// lock held. It may crash the disk, then the operation fails. What it asks of this same disk
    /// calls it again.
    pub fn on_operation(&self, callback: Box<dyn Fn(&Operation) + Send + Sync>) {
        self.shared.lock().callback = Some(Arc::from(callback));
    }

    /// Has `callback` called in the middle of each synced write, on the thread that asks for it and
    /// without a lock held: the bytes are on their way, and a crash may lose or tear them.
    pub fn on_synced_write(&self, callback: Box<dyn Fn(&Operation) + Send + Sync>) {
        self.shared.lock().under_way = Some(Arc::from(callback));
    }

    /// Ends both.
    pub fn clear_on_operation(&self) {
        let mut shared = self.shared.lock();
        (shared.callback, shared.under_way) = (None, None);
    }

    /// What is common to all operations: count, trace, callback, death, faults; then `act`, under
    /// the lock, with what the faults say.
    fn operate<T>(
        &self,
        kind: OperationKind,
        offset: u64,
        length: u64,
        act: impl FnOnce(&mut Shared, Verdict) -> io::Result<T>,
    ) -> io::Result<T> {
        let callback = {
            let mut shared = self.shared.lock();
            shared.assert_there()?;
            let operation = Operation { index: shared.operation_count, kind, offset, length };
            shared.operation_count += 1;
            if let Some(trace) = &mut shared.trace {
                trace.push(TraceEntry { kind, offset, length });
            }
            shared.callback.clone().map(|callback| (callback, operation))
        };
        if let Some((callback, operation)) = callback {
            callback(&operation);
        }
        let mut shared = self.shared.lock();
        shared.assert_there()?;
        let verdict = shared.faults.judge(kind);
        act(&mut shared, verdict)
    }
}

impl Default for SimulatedStorage {
    fn default() -> SimulatedStorage {
        SimulatedStorage::new()
    }
}

fn full(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, format!("simulated disk: {detail}"))
}

impl Shared {
    fn assert_there(&self) -> io::Result<()> {
        if self.gone {
            let message = "simulated disk: this handle ended with its process";
            return Err(io::Error::other(message));
        }
        Ok(())
    }

    /// The largest length that the file may have. What it has already it keeps.
    fn length_max(&self) -> u64 {
        self.capacity_bytes.min(LENGTH_MAX_BYTES).max(self.disk.length())
    }

    /// Writes as much as a write that fails for `error` leaves behind, of at most `limit` bytes.
    fn write_part(&mut self, offset: u64, bytes: &[u8], limit: u64, error: io::Error) -> io::Error {
        let count = self.random.below(limit.min(bytes.len() as u64) + 1);
        if let Some(part) = bytes.get(..count as usize) {
            self.disk.write(offset, part);
        }
        error
    }

    /// What writes of both kinds check before they write everything.
    fn begin_write(&mut self, offset: u64, bytes: &[u8], verdict: &Verdict) -> io::Result<()> {
        let end = end_of(offset, bytes.len() as u64)?;
        if let Verdict::Fail(kind) = *verdict {
            return Err(self.write_part(offset, bytes, u64::MAX, faults::error(kind)));
        }
        let length_max = self.length_max();
        if end > length_max && !bytes.is_empty() {
            let fits = length_max.saturating_sub(offset);
            return Err(self.write_part(offset, bytes, fits, full("no space for a write")));
        }
        Ok(())
    }

    fn grow(&mut self, length: u64) -> io::Result<()> {
        if length > self.length_max() {
            return Err(full("no space for this length"));
        }
        self.disk.set_length(length);
        Ok(())
    }
}

impl Storage for SimulatedStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = buffer.len() as u64;
        self.operate(OperationKind::Read, offset, length, |shared, verdict| {
            verdict.into_result()?;
            shared.disk.read(offset, buffer)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.operate(OperationKind::Write, offset, length, |shared, verdict| {
            self.in_place.assert_unused(offset, length);
            shared.begin_write(offset, bytes, &verdict)?;
            shared.disk.write(offset, bytes);
            Ok(())
        })
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        let kind = OperationKind::WriteSync;
        let under_way = self.operate(kind, offset, length, |shared, verdict| {
            self.in_place.assert_unused(offset, length);
            shared.begin_write(offset, bytes, &verdict)?;
            if let Verdict::DropCache(_) = verdict {
                shared.disk.write_and_lose(offset, bytes);
                return verdict.into_result().map(|()| None);
            }
            shared.disk.write(offset, bytes);
            let index = shared.operation_count.saturating_sub(1);
            let operation = Operation { index, kind, offset, length };
            Ok(shared.under_way.clone().map(|callback| (callback, operation)))
        })?;
        if let Some((callback, operation)) = under_way {
            callback(&operation);
        }
        let mut shared = self.shared.lock();
        shared.assert_there()?;
        shared.disk.write_sync(offset, bytes);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(OperationKind::Sync, 0, 0, |shared, verdict| {
            if let Verdict::DropCache(_) = verdict {
                shared.disk.lose_pending();
            }
            verdict.into_result()?;
            shared.disk.sync();
            Ok(())
        })
    }

    fn length(&self) -> io::Result<u64> {
        let shared = self.shared.lock();
        shared.assert_there()?;
        Ok(shared.disk.length())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.operate(OperationKind::SetLength, 0, length, |shared, verdict| {
            verdict.into_result()?;
            end_of(length, 0)?;
            if length < shared.disk.length() {
                self.in_place.check_cut(length)?;
            }
            shared.grow(length)
        })
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.operate(OperationKind::Allocate, offset, length, |shared, verdict| {
            verdict.into_result()?;
            let end = end_of(offset, length)?;
            if length > 0 && end > shared.disk.length() { shared.grow(end) } else { Ok(()) }
        })
    }

    fn write_back(&self, offset: u64, length: u64) -> io::Result<()> {
        self.operate(OperationKind::WriteBack, offset, length, |_, verdict| verdict.into_result())
    }

    fn advise(&self, offset: u64, length: u64, _advice: Advice) -> io::Result<()> {
        self.operate(OperationKind::Advise, offset, length, |_, verdict| verdict.into_result())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.operate(OperationKind::Punch, offset, length, |shared, verdict| {
            verdict.into_result()?;
            end_of(offset, length)?;
            self.in_place.assert_unused(offset, length);
            shared.disk.zero(offset, length);
            Ok(())
        })
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.operate(OperationKind::SyncDirectory, 0, 0, |_, verdict| verdict.into_result())
    }

    /// A copy, and a watch over what it was made of. It counts as no operation and never fails, as
    /// a look into a map.
    fn map(&self, offset: u64, length: usize) -> Option<Mapped> {
        // Before the copy is made, so that no write comes between.
        let held = self.in_place.hold(offset, length as u64);
        let mut bytes = vec![0; length];
        let shared = self.shared.lock();
        shared.assert_there().and_then(|()| shared.disk.read(offset, &mut bytes)).ok()?;
        Some(Mapped::watched(bytes, Box::new(held)))
    }

    fn name(&self) -> String {
        "simulated".to_owned()
    }
}

impl fmt::Debug for SimulatedStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.shared.lock();
        f.debug_struct("SimulatedStorage")
            .field("length", &shared.disk.length())
            .field("pending", &shared.disk.pending_count())
            .field("operations", &shared.operation_count)
            .field("gone", &shared.gone)
            .finish()
    }
}

#[cfg(test)]
mod tests;
