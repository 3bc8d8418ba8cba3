//! The handle of a whole database.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::batch::Batch;
use crate::builder::Builder;
use crate::copy::copy_to;
use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::merge::step;
use crate::merge::verify::{VerifyReport, verify};
use crate::options::{Compression, Isolation, KeyspaceOptions};
use crate::page::Codec;
use crate::progress::Progress;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::state::Core;
use crate::state::catalogue::KeyspaceSettings;
use crate::stats::Stats;
use crate::sync::{Arc, Random, thread};
use crate::transaction::Transaction;
use crate::transaction::commit::{create_keyspace, drop_keyspace, rename_keyspace};
use crate::types::{KeyspaceNumber, SequenceNumber};

/// How often [`Database::transact`] runs its closure at most.
const TRANSACT_ATTEMPTS: u32 = 16;
/// The longest pause before the second attempt; it doubles for each further one.
const TRANSACT_PAUSE: Duration = Duration::from_micros(50);
/// Behind so many attempts the pause grows no more.
const TRANSACT_DOUBLINGS_MAX: u32 = 8;

/// An open database: one file, or memory.
///
/// Clones are handles of the same database; all may be used from any thread. When the last one is
/// dropped, the database is closed as by [`Database::close`], and what fails is logged: keyspaces,
/// snapshots, iterators and the rest do not keep it open, and give [`Error::Closed`] afterwards.
/// Keys and values that were handed out stay readable. What reads on by itself (iterators, cursors,
/// value streams) keeps the file open, and locked, until it is dropped: to open it before that
/// gives [`Error::Locked`]. When the last one is dropped in a merge thread, by a
/// [`Storage`](crate::Storage) of the application's own or a subscriber of `tracing`, a thread of
/// its own closes the database, once the step has ended and after the drop: until then the file is
/// locked, and a process that ends before loses what it committed with
/// [`Durability::Memory`](crate::Durability::Memory).
///
/// # Examples
/// ```
/// use sapwood::Database;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("forest.sapwood");
/// let db = Database::open(&path)?;
/// let trees = db.keyspace("trees")?;
/// trees.put("oak", "Quercus")?;
/// assert_eq!(trees.get("oak")?.unwrap(), "Quercus");
/// db.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    guard: Arc<Guard>,
}

/// Closes the database when the last handle is dropped.
struct Guard {
    shared: Arc<Shared>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.shared.is_open() {
            return;
        }
        if !self.shared.is_worker_thread() {
            return close_dropped(&self.shared);
        }
        // Somebody whom a step has called dropped it: the step must end first.
        let shared = self.shared.clone();
        if let Err(error) = thread::spawn("sapwood-close", move || close_dropped(&shared)) {
            // Dropped here it would wait for this very step: the file stays open, as it is.
            std::mem::forget(self.shared.clone());
            let name = self.shared.read(|core| Ok(core.pages.storage().name()));
            tell_failed_close(&Error::io("starting a thread", name.unwrap_or_default(), error));
        }
    }
}

fn close_dropped(shared: &Shared) {
    match shared.close() {
        Ok(()) | Err(Error::Closed | Error::OtherProcess(_)) => {}
        Err(error) => tell_failed_close(&error),
    }
}

fn tell_failed_close(error: &Error) {
    tracing::error!(target: "sapwood::failure", %error, "closing a dropped database failed");
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("open", &self.shared().is_open()).finish_non_exhaustive()
    }
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::None => Codec::Plain,
        Compression::Zstd(level) => Codec::Zstd { level },
    }
}

fn settings(options: &KeyspaceOptions) -> KeyspaceSettings {
    KeyspaceSettings {
        codec: codec(options.compression),
        value_codec: codec(options.value_compression),
        filter_bits: options.filter_bits,
    }
}

impl Database {
    pub(crate) fn start(core: Arc<Core>) -> Result<Database> {
        Ok(Database { guard: Arc::new(Guard { shared: Shared::start(core)? }) })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.guard.shared
    }

    /// What all parts of the open database share. Whoever keeps it keeps the file open.
    ///
    /// # Errors
    /// [`Error::Closed`].
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn core(&self) -> Result<Arc<Core>> {
        self.shared().read(|core| Ok(core.clone()))
    }

    /// Opens the database in the file at `path`, and makes it when there is none. It takes up to
    /// 256 MiB of memory; [`Database::builder`] has more to choose.
    ///
    /// # Errors
    /// As [`Builder::open`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("garden.sapwood");
    /// let db = sapwood::Database::open(&path)?;
    /// db.keyspace("fruit")?.put("fig", "sweet")?;
    /// db.close()?;
    /// assert!(sapwood::Database::open(&path)?.keyspace("fruit")?.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Database> {
        Database::builder().open(path)
    }

    /// Opens a database with options.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// use sapwood::{Database, Durability};
    ///
    /// let builder = Database::builder().memory_budget(32 << 20).durability(Durability::Buffered);
    /// let db = builder.open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The keyspace of that name; it is created, with the default options, when there is none.
    ///
    /// # Errors
    /// [`Error::Closed`]; when it has to be created, [`Error::NameTooLong`] and as for a commit.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// let fruit = db.keyspace("fruit")?;
    /// assert_eq!(fruit.name(), "fruit");
    /// assert_eq!(db.keyspaces()?, ["fruit"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_with(name, KeyspaceOptions::default())
    }

    /// The keyspace of that name; it is created with these options when there is none. One that
    /// exists keeps its own.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], and as [`Database::keyspace`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::{Compression, KeyspaceOptions};
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let options = KeyspaceOptions::default().compression(Compression::None);
    /// let photos = db.keyspace_with("photos", options)?;
    /// assert_eq!(photos.name(), "photos");
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        options.validate()?;
        let number = loop {
            match self.shared().read(|core| find(core, name)) {
                Err(Error::UnknownKeyspace(_)) => {}
                found => break found?,
            }
            let created = self.shared().change(|core| {
                create_keyspace(core, name, settings(&options), self.shared().durability)
            });
            match created {
                // Somebody else was faster, and may drop it again.
                Err(Error::KeyspaceExists(_)) => {}
                created => break created?,
            }
        };
        Ok(Keyspace::new(self.shared(), number, name))
    }

    /// The keyspace of that name.
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`] when there is none; [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// assert!(matches!(db.existing_keyspace("a"), Err(sapwood::Error::UnknownKeyspace(_))));
    /// db.keyspace("a")?;
    /// assert!(db.existing_keyspace("a").is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn existing_keyspace(&self, name: &str) -> Result<Keyspace> {
        let number = self.shared().read(|core| find(core, name))?;
        Ok(Keyspace::new(self.shared(), number, name))
    }

    /// The names of all keyspaces, sorted.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// db.keyspace("trees")?;
    /// db.keyspace("fruit")?;
    /// assert_eq!(db.keyspaces()?, ["fruit", "trees"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn keyspaces(&self) -> Result<Vec<String>> {
        self.shared().read(|core| {
            let catalogue = core.visible_catalogue();
            let live = catalogue.iter().filter(|(_, entry)| !entry.dropped);
            let mut names: Vec<String> = live.map(|(_, entry)| entry.name.clone()).collect();
            names.sort_unstable();
            Ok(names)
        })
    }

    /// Drops a keyspace with all that it holds. Snapshots that were taken before still see it; its
    /// handles give [`Error::KeyspaceDropped`].
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`], and as for a commit.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let old = db.keyspace("old")?;
    /// db.drop_keyspace("old")?;
    /// assert!(matches!(old.get("key"), Err(sapwood::Error::KeyspaceDropped(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.shared().change(|core| {
            // The one that has the name at its place in the order: this only spares an unknown one
            // the wait for a place.
            find(core, name)?;
            drop_keyspace(core, name, self.shared().durability)
        })
    }

    /// Gives a keyspace another name. Its handles go on, under the new name.
    ///
    /// # Errors
    /// [`Error::UnknownKeyspace`]; [`Error::KeyspaceExists`] when the new name is taken;
    /// [`Error::NameTooLong`]; and as for a commit.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("draft")?;
    /// db.rename_keyspace("draft", "final")?;
    /// assert_eq!(keyspace.name(), "final");
    /// assert_eq!(db.keyspaces()?, ["final"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rename_keyspace(&self, old: &str, new: &str) -> Result<()> {
        self.shared().change(|core| {
            find(core, old)?;
            rename_keyspace(core, old, new, self.shared().durability)
        })
    }

    /// An empty batch of writes.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let mut batch = db.batch();
    /// batch.put(&fruit, "fig", "sweet")?;
    /// batch.delete(&fruit, "lemon")?;
    /// batch.commit()?;
    /// assert!(fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self.shared())
    }

    /// A snapshot of this moment.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let before = db.snapshot()?;
    /// fruit.put("fig", "sweet")?;
    /// assert!(!before.contains(&fruit, "fig")?);
    /// assert!(fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(self.shared())
    }

    /// Begins a transaction that sees this moment. [`Database::transact`] is simpler.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// use sapwood::Isolation;
    ///
    /// let mut transaction = db.begin(Isolation::Serializable)?;
    /// transaction.put(&fruit, "fig", "sweet")?;
    /// assert!(!fruit.contains("fig")?);
    /// transaction.commit()?;
    /// assert!(fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn begin(&self, isolation: Isolation) -> Result<Transaction> {
        Transaction::begin(self.shared(), isolation)
    }

    /// Runs `run` in a serializable transaction and commits it. On a conflict all is done again, up
    /// to 16 times in all, after short random pauses; so `run` should have no other effects. When
    /// it returns an error, or panics, nothing is committed. To give up with an error of the
    /// application's own there is [`Error::application`]: it is returned as it is, and not retried.
    ///
    /// One transaction inside another is a second one: it does not see what the first has written,
    /// and commits by itself, even if the first does not. When it changes what the first one uses,
    /// that is a conflict at every attempt; so are writes beside the transaction, as by
    /// [`Keyspace::put`]. Everything that belongs together goes through the transaction given.
    ///
    /// # Errors
    /// What `run` returns; [`Error::Conflict`] when every attempt met one; and as
    /// [`Transaction::commit`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::Error;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let counters = db.keyspace("counters")?;
    /// let visits = db.transact(|transaction| {
    ///     let mut visits = [0; 8];
    ///     if let Some(before) = transaction.get(&counters, "visits")? {
    ///         visits = before[..].try_into().map_err(Error::application)?;
    ///     }
    ///     let visits = u64::from_le_bytes(visits) + 1;
    ///     transaction.put(&counters, "visits", visits.to_le_bytes())?;
    ///     Ok(visits)
    /// })?;
    /// assert_eq!(visits, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn transact<T>(&self, mut run: impl FnMut(&mut Transaction) -> Result<T>) -> Result<T> {
        let mut random = None;
        for attempt in 1.. {
            let mut transaction = self.begin(Isolation::Serializable)?;
            let result = match run(&mut transaction) {
                Ok(value) => transaction.commit().map(|()| value),
                Err(error) => Err(error),
            };
            match result {
                Err(Error::Conflict) if attempt < TRANSACT_ATTEMPTS => {}
                result => return result,
            }
            // What it conflicts with may have its place and wait for the disk: no attempt sees it
            // before that, and each would meet it again.
            let clock = self.shared().read(|core| {
                let next = core.commit_numbers().0.0;
                core.publisher.wait_for(SequenceNumber(next.saturating_sub(1)))?;
                Ok(core.clock.clone())
            })?;
            let random = random.get_or_insert_with(Random::from_entropy);
            let longest = TRANSACT_PAUSE * (1 << (attempt - 1).min(TRANSACT_DOUBLINGS_MAX));
            let pause = random.below(longest.as_micros() as u64);
            clock.sleep(Duration::from_micros(pause));
        }
        Err(Error::Conflict)
    }

    /// Waits until everything that was committed so far is on disk, whatever durability it was
    /// committed with.
    ///
    /// # Errors
    /// [`Error::Stopped`] when it cannot be; [`Error::NoSpace`] when the first write after a crash
    /// finds none; [`Error::ReadOnly`]; [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// use sapwood::Durability;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().durability(Durability::Memory).open_in_memory()?;
    /// let numbers = db.keyspace("numbers")?;
    /// for number in 0..1000_u32 {
    ///     numbers.put(number.to_be_bytes(), "")?;
    /// }
    /// db.sync()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync(&self) -> Result<()> {
        self.shared().change(step::sync)
    }

    /// Writes what is in memory to segments, and makes that state durable: an open after it has
    /// nothing to replay.
    ///
    /// # Errors
    /// As [`Database::sync`]; [`Error::NoSpace`]; [`Error::Corruption`] or [`Error::Io`] when
    /// something that it needs cannot be read.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// db.flush()?;
    /// assert!(db.stats()?.flushes > 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn flush(&self) -> Result<()> {
        self.shared().change(step::flush)
    }

    /// Waits until no merge is due. It does not keep others from writing, so that there may be more
    /// to do when it returns.
    ///
    /// # Errors
    /// [`Error::Stopped`] or [`Error::MergeMismatch`] when merging has stopped; [`Error::NoSpace`]
    /// when it needs more; [`Error::Corruption`] or [`Error::Io`] when something cannot be read;
    /// [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// db.wait_until_idle()?;
    /// assert_eq!(db.stats()?.young_segments, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_until_idle(&self) -> Result<()> {
        self.shared().work(step::wait_until_idle)
    }

    /// Runs one bounded step of background work, the timed sync included. False when there was
    /// nothing to do, as in a database that is only read. For databases that were opened with
    /// `merge_threads(0)`; with threads it only helps them.
    ///
    /// # Errors
    /// As [`Database::wait_until_idle`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().merge_threads(0).open_in_memory()?;
    /// db.keyspace("fruit")?.put("fig", "sweet")?;
    /// while db.run_step()? {}
    /// # Ok(())
    /// # }
    /// ```
    pub fn run_step(&self) -> Result<bool> {
        self.shared().work(step::run_step)
    }

    /// Merges everything into one segment for each keyspace, without tombstones. Others may read
    /// and write meanwhile; what they write may stand above it when this returns. See
    /// [`Database::compact_with`].
    ///
    /// # Errors
    /// As [`Database::flush`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// db.compact()?;
    /// let levels = &db.stats()?.keyspaces[0].levels;
    /// assert_eq!(levels.iter().map(|level| level.segments).sum::<u64>(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact(&self) -> Result<()> {
        self.compact_with(&mut ())
    }

    /// The same in steps, of which `progress` is told: bytes that were merged, and how many there
    /// were in all. It can be cancelled between them, and what was merged until then stays so.
    /// Blocks that a snapshot still needs are free when it is dropped.
    /// [`Keyspace::compact`] takes a part.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `progress` asks for that, and as [`Database::flush`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// db.keyspace("a")?.put("key", "value")?;
    /// db.compact_with(&mut |done: u64, total: u64| {
    ///     println!("{done} of {total} bytes");
    ///     true
    /// })?;
    /// let cancelled = db.compact_with(&mut |_done: u64, _total: u64| false);
    /// assert!(matches!(cancelled, Err(sapwood::Error::Cancelled)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact_with(&self, progress: &mut dyn Progress) -> Result<()> {
        self.shared().compact(None, progress)
    }

    /// Writes what this moment shows to a new file at `path`: all keyspaces with their names and
    /// options, each as one segment, and nothing else. Others may read and write meanwhile. The new
    /// file is on disk when this returns; when it fails or is cancelled, there is none. A process
    /// that dies meanwhile leaves a part of it beside `path`, under a name that ends in `.part`.
    /// `progress` is told bytes.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when there is something at `path`; [`Error::Cancelled`] when
    /// `progress` asks for that; [`Error::Closed`], also when the database is closed meanwhile;
    /// what reading this file or writing the new one failed with.
    ///
    /// # Examples
    /// ```
    /// use sapwood::Database;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("copy.sapwood");
    /// let db = Database::builder().open_in_memory()?;
    /// db.keyspace("trees")?.put("oak", "Quercus")?;
    /// db.compact_to(&path, &mut ())?;
    /// let copy = Database::open(&path)?;
    /// assert_eq!(copy.keyspace("trees")?.get("oak")?.unwrap(), "Quercus");
    /// # Ok(())
    /// # }
    /// ```
    pub fn compact_to(&self, path: impl AsRef<Path>, progress: &mut dyn Progress) -> Result<()> {
        copy_to(self.shared(), path.as_ref(), progress)
    }

    /// Checks everything that this moment's state consists of: checksums, order, counts,
    /// references, and that each page has one owner. Damage is in the report; the check goes on
    /// beside readers and writers.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when `progress` asks for that; [`Error::Closed`], also when the
    /// database is closed meanwhile.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// db.keyspace("a")?.put("key", "value")?;
    /// db.flush()?;
    /// let report = db.verify(&mut ())?;
    /// assert_eq!(report.problem_count, 0);
    /// let cancelled = db.verify(&mut |_done: u64, _total: u64| false);
    /// assert!(matches!(cancelled, Err(sapwood::Error::Cancelled)));
    /// # Ok(())
    /// # }
    /// ```
    pub fn verify(&self, progress: &mut dyn Progress) -> Result<VerifyReport> {
        let shared = self.shared();
        let mut report = |done, total| shared.is_open() && progress.report(done, total);
        match shared.read(|core| verify(core, &mut report)) {
            Err(Error::Cancelled) => Err(shared.check_open().err().unwrap_or(Error::Cancelled)),
            result => result,
        }
    }

    /// Numbers about this moment.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// let stats = db.stats()?;
    /// assert!(stats.commits > 0);
    /// println!("{stats}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn stats(&self) -> Result<Stats> {
        self.shared().read(|core| Ok(Stats::gather(core)))
    }

    /// Closes the database: waits for calls that are under way, ends all threads, flushes, and
    /// makes the last state durable. All handles give [`Error::Closed`] from now on; dropping them
    /// takes nothing more. Iterators, cursors and value streams that are still there keep the file
    /// locked until they are dropped. What transactions that are still there have written to the
    /// file is free at the next open.
    ///
    /// What is inside the application's own code meanwhile (a closure, a reader, a progress
    /// report), where this may be called too, is not waited for: that call ends with
    /// [`Error::Closed`] once it is back, and a compaction or a check keeps the file until then.
    ///
    /// # Errors
    /// When the last steps fail: what was committed is in the log then, as after a crash. When
    /// merging had stopped before, its error, though the file was closed cleanly.
    /// [`Error::OtherProcess`] in a process that was forked from the one that opened it.
    /// [`Error::Closed`] when another handle has closed it.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// keyspace.put("key", "value")?;
    /// let value = keyspace.get("key")?.unwrap();
    /// db.close()?;
    /// assert!(matches!(keyspace.get("key"), Err(sapwood::Error::Closed)));
    /// assert_eq!(value, "value");
    /// # Ok(())
    /// # }
    /// ```
    pub fn close(self) -> Result<()> {
        self.shared().close()
    }
}

/// # Errors
/// `UnknownKeyspace`.
fn find(core: &Arc<Core>, name: &str) -> Result<KeyspaceNumber> {
    // What is on its way nobody is told of, and nobody waits for (K4).
    let catalogue = core.visible_catalogue();
    let found = catalogue.find(name).map(|(number, _)| number);
    found.ok_or_else(|| Error::UnknownKeyspace(name.to_owned()))
}
