//! What all handles of one database share, and how it is closed.
//!
//! *Guarantees*: no call that was begun after `close` reaches the core; `close` waits for the
//! writing calls that were begun before. Handles do not keep the file open once it is closed; what
//! walks or streams does, until it is dropped.
//! *Threads*: any.

use std::fmt;

use crate::error::{Error, Result};
use crate::merge::compact::compact;
use crate::merge::step;
use crate::merge::worker::Workers;
use crate::options::Durability;
use crate::progress::Progress;
use crate::segment::KEY_BYTES_MAX;
use crate::segment::key_range::KeyRange;
use crate::segment::overflow::OverflowReader;
use crate::segment::overflow_reference::OverflowReference;
use crate::state::Core;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::ThreadId;
use crate::sync::{Arc, ArcSwapOption, Mutex, RwLock, RwLockReadGuard, thread};
use crate::types::KeyspaceNumber;

/// See the module.
pub(crate) struct Shared {
    core: ArcSwapOption<Core>,
    /// Said before the core is taken away; a cheaper question.
    closed: AtomicBool,
    /// Held shared by calls that change the file, so that a close can wait for them.
    changing: RwLock<()>,
    workers: Mutex<Option<Workers>>,
    /// Their threads.
    worker_ids: Vec<ThreadId>,
    /// What commits do that do not say.
    pub durability: Durability,
    /// Larger values are not handed out whole.
    value_bytes_max: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Starts the merge threads of an opened core.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(core: Arc<Core>) -> Result<Arc<Shared>> {
        let workers = Workers::start(&core)?;
        Ok(Arc::new(Shared {
            durability: core.options.durability,
            value_bytes_max: core.options.memory_budget / 8,
            core: ArcSwapOption::new(Some(core)),
            closed: AtomicBool::new(false),
            changing: RwLock::new(()),
            worker_ids: workers.thread_ids(),
            workers: Mutex::new(Some(workers)),
        }))
    }

    /// Runs a call that reads. Damage that it meets gets the file's name here.
    ///
    /// # Errors
    /// `Closed`, or what the call returns.
    pub fn read<T>(&self, run: impl FnOnce(&Arc<Core>) -> Result<T>) -> Result<T> {
        match &*self.core.load() {
            Some(core) => run(core).map_err(|error| error.in_file(|| core.pages.storage().name())),
            None => Err(Error::Closed),
        }
    }

    /// The error of what read outside of a call: damage gets the file's name.
    ///
    /// # Errors
    /// The one given; `Closed`.
    pub fn fail<T>(&self, error: Error) -> Result<T> {
        self.read(|_| Err(error))
    }

    /// Runs a call that changes the file. Never from within another one: a close could come
    /// between.
    ///
    /// # Errors
    /// As [`Shared::read`]; `ReadOnly` (O1).
    pub fn change<T>(&self, run: impl FnOnce(&Arc<Core>) -> Result<T>) -> Result<T> {
        let _changing = self.changing.read();
        self.read(|core| match core.options.read_only {
            true => Err(Error::ReadOnly),
            false => run(core),
        })
    }

    /// The same for background work, of which there is none in a database that is only read.
    ///
    /// # Errors
    /// As [`Shared::read`].
    pub fn work<T: Default>(&self, run: impl FnOnce(&Arc<Core>) -> Result<T>) -> Result<T> {
        match self.change(run) {
            Err(Error::ReadOnly) => Ok(T::default()),
            result => result,
        }
    }

    /// False once the database is closed.
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        if self.is_open() { Ok(()) } else { Err(Error::Closed) }
    }

    /// Compacts a range of a keyspace, or everything. A close cancels it. Progress is reported
    /// between steps, and outside of what a close waits for: the application may use the database
    /// there, and close it.
    ///
    /// # Errors
    /// `Cancelled`, `Closed`; or what a step failed with.
    pub fn compact(
        &self,
        only: Option<(KeyspaceNumber, KeyRange)>,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let mut changing = self.changing.read();
        let mut report = |done, total| {
            self.is_open()
                && RwLockReadGuard::unlocked(&mut changing, || progress.report(done, total))
                && self.is_open()
        };
        match self.read(|core| compact(core, only, &mut report)) {
            Err(Error::Cancelled) => Err(self.check_open().err().unwrap_or(Error::Cancelled)),
            result => result,
        }
    }

    /// True in a thread that runs steps: it may be in the middle of one, so it cannot close.
    pub fn is_worker_thread(&self) -> bool {
        self.worker_ids.contains(&thread::current_id())
    }

    /// Ends all calls and threads, and closes the file properly.
    ///
    /// # Errors
    /// `Closed` when it is already; `OtherProcess`; else what the last steps return.
    pub fn close(&self) -> Result<()> {
        self.closed.store(true, Ordering::Release);
        let core = self.core.swap(None).ok_or(Error::Closed)?;
        if !core.pages.storage().is_of_this_process() {
            // Threads of the other process may hold locks here for ever: nothing is waited for, and
            // nothing dropped that could wait.
            let file = core.pages.storage().name();
            std::mem::forget(core);
            return Err(Error::OtherProcess(file.into()));
        }
        // Calls that are under way may wait for the threads, so those are stopped after them.
        drop(self.changing.write());
        if let Some(workers) = self.workers.lock().take() {
            workers.stop();
        }
        step::close(&core).map_err(|error| error.in_file(|| core.pages.storage().name()))?;
        let file = core.pages.storage().name();
        tracing::info!(target: "sapwood::open", %file, "database closed");
        Ok(())
    }

    /// Reads a value that lies in blocks of its own.
    ///
    /// # Errors
    /// `ValueTooLarge`; or when it cannot be read or is damaged.
    pub fn read_overflow(
        &self,
        core: &Core,
        keyspace: KeyspaceNumber,
        reference: &OverflowReference,
    ) -> Result<Vec<u8>> {
        let limit = self.value_bytes_max;
        if reference.length > limit {
            let length = reference.length;
            return Err(Error::ValueTooLarge { length, limit, instead: "get_stream" });
        }
        OverflowReader::open(&*core.pages, keyspace, reference)?.read_all(limit)
    }
}

/// # Errors
/// `KeyTooLong`.
pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyTooLong { length: key.len(), limit: KEY_BYTES_MAX });
    }
    Ok(())
}
