//! Opens and creates databases.

use std::path::Path;
use std::time::Duration;

use crate::database::Database;
use crate::error::{Error, Result};
use crate::merge::step::fit_into_memory;
use crate::options::{Durability, Options};
use crate::page::Layout;
use crate::page::file_header::{is_unborn, newest_first, read_slots};
use crate::state::{create, recovery};
use crate::storage::{FileOpenOptions, FileStorage, MemoryStorage, Storage};
use crate::sync::{Arc, Clock};

/// Opens a database with options; see [`Database::builder`].
///
/// | option | default | when it counts |
/// |---|---|---|
/// | [`page_size`](Builder::page_size) | 4 KiB | fixed when the file is created |
/// | [`reserved_bytes`](Builder::reserved_bytes) | 0 | fixed when the file is created |
/// | [`region_bytes`](Builder::region_bytes) | 128 MiB | fixed when the file is created |
/// | [`memory_budget`](Builder::memory_budget) | 256 MiB | at each open |
/// | [`durability`](Builder::durability) | [`Durability::Sync`] | at each open |
/// | [`sync_interval`](Builder::sync_interval) | 1 second | at each open |
/// | [`merge_threads`](Builder::merge_threads) | 2, or 1 on a single core | at each open |
/// | [`leaf_bytes`](Builder::leaf_bytes) | 8 KiB | at each open, for new nodes |
/// | [`max_file_bytes`](Builder::max_file_bytes) | none | at each open |
/// | [`reserve_bytes`](Builder::reserve_bytes) | by the data, some 2.4 MiB at most | at each open |
/// | [`max_transaction_history_bytes`](Self::max_transaction_history_bytes) | \* | at each open |
/// | [`memory_map`](Builder::memory_map) | false | at each open |
/// | [`create`](Builder::create) | true | at each open |
/// | [`read_only`](Builder::read_only) | false | at each open |
/// | [`without_log`](Builder::without_log) | false | at each open |
///
/// \* an eighth of the file, a quarter of the memory budget at least.
///
/// # Examples
/// ```
/// use sapwood::{Database, Durability};
/// # fn main() -> sapwood::Result<()> {
/// let db = Database::builder()
///     .memory_budget(64 << 20)
///     .durability(Durability::Buffered)
///     .open_in_memory()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it opens"]
pub struct Builder {
    options: Options,
    page_size: Option<u32>,
    reserved_bytes: Option<u16>,
    region_bytes: Option<u64>,
    clock: Clock,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::new()
    }
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            options: Options::default(),
            page_size: None,
            reserved_bytes: None,
            region_bytes: None,
            clock: Clock::real(),
        }
    }

    /// All memory that the database takes, in bytes: memtables, caches, filters, merge buffers and
    /// the rest. 256 MiB unless set; 4 MiB at least.
    ///
    /// The maps of free pages take an eighth of it at most, so that a file has up to 2,000 times as
    /// much, with pages of 4 KiB: a write that would need a longer one gives [`Error::NoSpace`].
    ///
    /// # Errors
    /// `open` of a longer file gives [`Error::InvalidOption`], which says how much is enough.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().memory_budget(64 << 20).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_budget(mut self, bytes: u64) -> Builder {
        self.options.memory_budget = bytes;
        self
    }

    /// Bytes of a page: a power of two from 1 KiB to 64 KiB, 4 KiB unless set. Fixed when the file
    /// is created.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().page_size(8192).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn page_size(mut self, bytes: u32) -> Builder {
        self.page_size = Some(bytes);
        self
    }

    /// Bytes at the end of each page that nothing is written to: a multiple of 8 up to 256, 0
    /// unless set. Fixed when the file is created.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().reserved_bytes(32).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserved_bytes(mut self, bytes: u16) -> Builder {
        self.reserved_bytes = Some(bytes);
        self
    }

    /// Bytes of a region, a stretch of the file with a free map of its own: a power of two, of 64
    /// to 4,194,304 pages and 128 KiB at least; 128 MiB unless set. Fixed when the file is created.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().region_bytes(16 << 20).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn region_bytes(mut self, bytes: u64) -> Builder {
        self.region_bytes = Some(bytes);
        self
    }

    /// What commits do that do not say. [`Durability::Sync`] unless set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// use sapwood::{Database, Durability};
    ///
    /// let db = Database::builder().durability(Durability::Buffered).open_in_memory()?;
    /// db.keyspace("fruit")?.put("fig", "sweet")?; // a buffered commit
    /// # Ok(())
    /// # }
    /// ```
    pub fn durability(mut self, durability: Durability) -> Builder {
        self.options.durability = durability;
        self
    }

    /// How long a [`Durability::Buffered`] commit waits for its sync at most: 1 millisecond to 24
    /// hours, one second unless set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// use std::time::Duration;
    ///
    /// let builder = sapwood::Database::builder().sync_interval(Duration::from_millis(100));
    /// let db = builder.open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync_interval(mut self, interval: Duration) -> Builder {
        self.options.sync_interval = interval;
        self
    }

    /// Threads for flushes and merges, 64 at most; unless set, two, or one on a single processor.
    /// With 0 there are none: then the application calls
    /// [`Database::run_step`], and a commit that must wait for room runs steps itself.
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
    pub fn merge_threads(mut self, count: usize) -> Builder {
        self.options.merge_threads = count;
        self
    }

    /// Bytes of a leaf before compression, up to 64 KiB; rounded up to whole pages. 8 KiB unless
    /// set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().leaf_bytes(16 << 10).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn leaf_bytes(mut self, bytes: u32) -> Builder {
        self.options.leaf_bytes = bytes;
        self
    }

    /// How long the file may grow, in bytes. A write that would need more gives [`Error::NoSpace`]
    /// and changes nothing; deletions and merges go on in the [reserve](Builder::reserve_bytes).
    /// 4 MiB at least; no limit unless set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().max_file_bytes(64 << 20).open_in_memory()?;
    /// db.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_file_bytes(mut self, bytes: u64) -> Builder {
        self.options.max_file_bytes = Some(bytes);
        self
    }

    /// So many bytes of the file are kept free for the time when the device, or
    /// [`max_file_bytes`](Builder::max_file_bytes), is full: deletions, merges and durable states
    /// go on in them, so that space can be freed. Unless set: about 0.9 MiB in an empty database,
    /// more by 13/8 of what its segments take, 2.4 MiB at most (with leaves of 8 KiB); and twice
    /// what the last durable state took, which is much with thousands of keyspaces. When writes
    /// pause, at most an eighth of the segments. At most half the limit. 0: none, and a full device
    /// can stop deletions, too.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let builder = sapwood::Database::builder().max_file_bytes(64 << 20);
    /// let db = builder.reserve_bytes(4 << 20).open_in_memory()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserve_bytes(mut self, bytes: u64) -> Builder {
        self.options.reserve_bytes = Some(bytes);
        self
    }

    /// How much may be kept in the file for open transactions, in bytes; an eighth of the file
    /// unless set, and then at least a quarter of the memory budget.
    ///
    /// While a transaction is open, what others commit is kept in the form in which its commit can
    /// look for conflicts, also when it has been overwritten or merged since:
    /// [`TransactionStats::kept_bytes`](crate::TransactionStats::kept_bytes). Above this limit,
    /// and when what lists it takes more than a sixteenth of the memory budget, it is let go at
    /// once, for the oldest transactions first: those read on, and their commit fails with
    /// [`Error::Conflict`], unless they have written nothing.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder()
    ///     .max_transaction_history_bytes(64 << 20)
    ///     .open_in_memory()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_transaction_history_bytes(mut self, bytes: u64) -> Builder {
        self.options.max_transaction_history_bytes = Some(bytes);
        self
    }

    /// Whether nodes are read in place, in a memory map of the file. False unless set.
    ///
    /// The checks are the same. A node that is stored plain
    /// ([`Compression::None`](crate::Compression::None), or too small to be compressed) then takes
    /// next to nothing of the memory budget: its bytes are in the system's cache, which is counted
    /// nowhere. Values are copied when they are handed out. docs/options.md says when it pays.
    ///
    /// For files that nobody else touches: when a mapped part cannot be read, or the file is cut by
    /// another program, the system ends the process instead of returning an error, and bytes that
    /// rot after they were checked are not seen. Without effect where there is no map: in memory,
    /// and on other systems than 64-bit Linux, Android, macOS and FreeBSD.
    ///
    /// # Examples
    /// ```
    /// use sapwood::Database;
    /// # fn main() -> sapwood::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("garden.sapwood");
    /// let db = Database::builder().memory_map(true).memory_budget(32 << 20).open(&path)?;
    /// db.keyspace("fruit")?.put("fig", "sweet")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn memory_map(mut self, memory_map: bool) -> Builder {
        self.options.memory_map = memory_map;
        self
    }

    /// Whether a file that is not there is made. True unless set.
    ///
    /// # Examples
    /// ```
    /// let builder = sapwood::Database::builder().create(false);
    /// let refused = builder.open("no/such/file.sapwood");
    /// assert!(matches!(refused, Err(sapwood::Error::NotFound(_))));
    /// ```
    pub fn create(mut self, create: bool) -> Builder {
        self.options.create = create;
        self
    }

    /// Whether the database is only read. False unless set.
    ///
    /// With true not a byte of the file is written and no file is made, so a file without write
    /// permission will do, or one on a medium that takes no writes. The lock is shared: any number
    /// of processes and handles may have the file open so, and none for writing meanwhile. Every
    /// call that would write gives [`Error::ReadOnly`]; transactions that only read can be
    /// committed, and [`Database::compact_to`] writes its copy. Nothing is merged, so
    /// [`Database::run_step`] and [`Database::wait_until_idle`] have nothing to do.
    ///
    /// What a process left in the log that did not close the database is replayed into memory and
    /// stays there: if it does not fit three quarters of the memory budget, the open fails with
    /// [`Error::InvalidOption`], which names the budget that is enough.
    ///
    /// # Examples
    /// ```
    /// use sapwood::{Database, Error};
    /// # fn main() -> sapwood::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("garden.sapwood");
    /// # let db = Database::open(&path)?;
    /// # db.keyspace("fruit")?.put("fig", "sweet")?;
    /// # db.close()?;
    /// let db = Database::builder().read_only(true).open(&path)?;
    /// let beside = Database::builder().read_only(true).open(&path)?;
    /// let fruit = db.keyspace("fruit")?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweet");
    /// assert!(matches!(fruit.put("fig", "sour"), Err(Error::ReadOnly)));
    /// assert!(matches!(Database::open(&path), Err(Error::Locked { .. })));
    /// # drop(beside);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_only(mut self, read_only: bool) -> Builder {
        self.options.read_only = read_only;
        self
    }

    /// With true what was committed since the last durable state is left out: the log is not read.
    /// For a file of which the log is damaged; goes with [`Builder::read_only`] alone
    /// ([`Error::InvalidOption`]). Default: false.
    ///
    /// # Examples
    /// ```
    /// # use sapwood::Database;
    /// # fn main() -> sapwood::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("garden.sapwood");
    /// # let db = Database::open(&path)?;
    /// # db.keyspace("fruit")?.put("fig", "sweet")?;
    /// # db.close()?;
    /// let db = Database::builder().read_only(true).without_log(true).open(&path)?;
    /// let fruit = db.existing_keyspace("fruit")?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_log(mut self, without_log: bool) -> Builder {
        self.options.without_log = without_log;
        self
    }

    /// How much one step of a merge writes, in bytes.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn step_bytes(mut self, bytes: u64) -> Builder {
        self.options.step_bytes = bytes;
        self
    }

    /// How much of its writes a transaction keeps in memory, in bytes.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn transaction_bytes(mut self, bytes: u64) -> Builder {
        self.options.transaction_bytes = Some(bytes);
        self
    }

    /// How much memory the lists of dead blocks may take, in bytes.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn dead_list_bytes(mut self, bytes: u64) -> Builder {
        self.options.dead_list_bytes = Some(bytes);
        self
    }

    /// How many dead keys a scan joins that it walks over in a row.
    #[cfg(any(test, feature = "internals"))]
    #[doc(hidden)]
    pub fn join_keys_min(mut self, count: u64) -> Builder {
        self.options.join_keys_min = count;
        self
    }

    /// How many write stamps may be given out before the next durable state.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn stamps_ahead(mut self, count: u64) -> Builder {
        self.options.stamps_ahead = count;
        self
    }

    /// The log's length when little is written, in bytes.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn log_bytes_min(mut self, bytes: u64) -> Builder {
        self.options.log_bytes_min = bytes;
        self
    }

    /// The clock that everything goes by.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn clock(mut self, clock: Clock) -> Builder {
        self.clock = clock;
        self
    }

    /// Opens the database in the file at `path`, and makes it when there is none.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotAFile`], [`Error::Locked`], [`Error::NotADatabase`],
    /// [`Error::UnsupportedVersion`], [`Error::UnknownFeature`], [`Error::Corruption`];
    /// [`Error::InvalidOption`] when an option is out of range or contradicts the file; and
    /// [`Error::Io`] (a folder that is not there, too) or [`Error::NoSpace`] from the system.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("new.sapwood");
    /// let refused = sapwood::Database::builder().create(false).open(&path);
    /// assert!(matches!(refused, Err(sapwood::Error::NotFound(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(self, path: impl AsRef<Path>) -> Result<Database> {
        self.validate()?;
        let file_options =
            FileOpenOptions { create: self.options.create, read_only: self.options.read_only };
        let (storage, _) = FileStorage::open(path, &file_options)?;
        self.open_storage(Arc::new(storage))
    }

    /// Makes a database in memory, which is gone when it is closed.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let fruit = db.keyspace("fruit")?;
    /// fruit.put("fig", "sweet")?;
    /// assert_eq!(fruit.get("fig")?.unwrap(), "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_in_memory(self) -> Result<Database> {
        self.validate()?;
        if self.options.read_only {
            let detail = "a database in memory is new, so there is nothing to read; leave it out";
            return Err(Error::InvalidOption { option: "read_only", detail: detail.to_owned() });
        }
        self.open_storage(Arc::new(MemoryStorage::new()))
    }

    /// Opens the database in `storage`, and makes it when that is empty. Whoever made the storage
    /// locks it.
    ///
    /// # Errors
    /// As [`Builder::open`].
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// use std::sync::Arc;
    ///
    /// use sapwood::{Database, MemoryStorage};
    ///
    /// let storage = Arc::new(MemoryStorage::new());
    /// let db = Database::builder().open_on(storage.clone())?;
    /// db.keyspace("fruit")?.put("fig", "sweet")?;
    /// db.close()?;
    /// let db = Database::builder().create(false).open_on(storage)?;
    /// assert!(db.keyspace("fruit")?.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_on(self, storage: Arc<dyn Storage>) -> Result<Database> {
        self.validate()?;
        self.open_storage(storage)
    }

    fn may_create(&self) -> bool {
        self.options.create && !self.options.read_only
    }

    /// The options for a new file.
    fn options_new(&self) -> Options {
        let mut options = self.options.clone();
        options.page_size = self.page_size.unwrap_or(options.page_size);
        options.reserved_bytes = self.reserved_bytes.unwrap_or(options.reserved_bytes);
        options.region_bytes = self.region_bytes.unwrap_or(options.region_bytes);
        options
    }

    fn validate(&self) -> Result<()> {
        self.options_new().validate()
    }

    fn open_storage(self, storage: Arc<dyn Storage>) -> Result<Database> {
        let opened = self.open_or_create(storage.clone());
        opened.map_err(|error| error.in_file(|| storage.name()))
    }

    fn open_or_create(self, storage: Arc<dyn Storage>) -> Result<Database> {
        let core = if is_unborn(&*storage)? {
            let file = storage.name();
            if !self.may_create() {
                return Err(Error::NotFound(file.into()));
            }
            let core = create::create(storage, self.options_new(), self.clock)?;
            tracing::info!(target: "sapwood::open", %file, "database created");
            core
        } else {
            let options = self.options_existing(&*storage)?;
            let core = recovery::open(storage, options, self.clock)?;
            fit_into_memory(&core);
            core
        };
        Database::start(core)
    }

    /// The options for a file that is there: what it was created with, unless that is contradicted.
    fn options_existing(&self, storage: &dyn Storage) -> Result<Options> {
        let slots = newest_first(read_slots(storage)?, &storage.name())?;
        let Some(slot) = slots.first() else {
            return Err(Error::NotADatabase(storage.name().into()));
        };
        let Layout { page_size, reserved_bytes, region_bytes, .. } = slot.layout()?;
        check_fixed("page_size", self.page_size, page_size)?;
        check_fixed("reserved_bytes", self.reserved_bytes, reserved_bytes)?;
        check_fixed("region_bytes", self.region_bytes, region_bytes)?;
        let options = Options { page_size, reserved_bytes, region_bytes, ..self.options.clone() };
        options.validate()?;
        Ok(options)
    }
}

fn check_fixed<T: PartialEq + std::fmt::Display>(
    option: &'static str,
    asked: Option<T>,
    found: T,
) -> Result<()> {
    match asked {
        Some(asked) if asked != found => {
            let detail = format!(
                "{asked} was asked for, but the file was created with {found}, which is fixed; \
                 leave the option out"
            );
            Err(Error::InvalidOption { option, detail })
        }
        _ => Ok(()),
    }
}
