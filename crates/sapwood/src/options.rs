//! What a database, a keyspace, a commit and a transaction can be told.
//!
//! *Guarantees*: options that `validate` let through contradict neither each other nor the limits
//! of the file format. What was fixed when the file was created is compared at open, not here.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::thread::available_parallelism;

#[cfg(test)]
mod tests;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The smallest memory budget.
const MEMORY_BUDGET_BYTES_MIN: u64 = 4 * MIB;
const PAGE_BYTES_MIN: u32 = 1 << 10;
const PAGE_BYTES_MAX: u32 = 1 << 16;
const RESERVED_BYTES_MAX: u16 = 256;
const REGION_PAGES_MIN: u64 = 64;
/// Below it a node of the longest keys would not fit.
const REGION_BYTES_MIN: u64 = 128 << 10;
/// With more pages, a region's free map would not fit a node.
const REGION_PAGES_MAX: u64 = 1 << 22;
const LEAF_BYTES_MAX: u32 = 1 << 16;
const MERGE_THREADS_MAX: usize = 64;
/// Less would spin.
const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(1);
const SYNC_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
const STEP_BYTES_MIN: u64 = 64 * KIB;
const LOG_BYTES_MIN: u64 = 64 * KIB;
/// What the least reserve takes beside leaves, and how many of them: see `state::reserve`.
const RESERVE_REST_BYTES: u64 = 1600 * KIB;
const RESERVE_LEAVES: u64 = 112;
/// Of 2^32 stamps, after which they begin again, each open after a crash may skip so many.
const STAMPS_AHEAD: u64 = 1 << 20;
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = 1..=22;
/// Above it, further bits make no fewer false positives.
const FILTER_BITS_MAX: u8 = 32;

/// When a commit counts as done.
///
/// Commits keep one order, whatever each of them asks for: a [`Durability::Sync`] commit takes
/// every earlier one to the disk with it, and after a crash the database holds a prefix of that
/// order.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// use sapwood::Durability;
///
/// let mut batch = db.batch();
/// batch.put(&db.keyspace("fruit")?, "fig", "sweet")?;
/// batch.commit_with(Durability::Buffered)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// The commit is on disk when `commit` returns. It survives a power failure.
    #[default]
    Sync,
    /// The commit is with the operating system when `commit` returns. It survives the death of the
    /// process; a sync that covers it begins at most one sync interval later (one second, unless
    /// the builder was told otherwise), or, without merge threads, with the next call of
    /// [`Database::run_step`](crate::Database::run_step) behind that.
    Buffered,
    /// The commit is visible when `commit` returns, and waits in memory for the next `Buffered` or
    /// `Sync` commit, flush or sync, which takes it along. The death of the process loses it.
    Memory,
}

/// What a transaction is protected from.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// use sapwood::Isolation;
///
/// let transaction = db.begin(Isolation::Serializable)?;
/// transaction.rollback();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// The transaction reads one instant, and its commit fails with [`Error::Conflict`] when
    /// another commit since then changed a key that it writes.
    Snapshot,
    /// As `Snapshot`, and the commit fails also when another commit changed anything that the
    /// transaction has read: keys that were absent and ranges that were empty included.
    #[default]
    Serializable,
}

/// How nodes or values are stored.
///
/// What does not shrink is stored plain in either case.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// use sapwood::{Compression, KeyspaceOptions};
///
/// let options = KeyspaceOptions::default().compression(Compression::None);
/// db.keyspace_with("photos", options)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Plain.
    None,
    /// Zstandard, with a level from 1 (fast) to 22 (small). It takes the crate's feature `zstd`.
    Zstd(i32),
}

impl Compression {
    fn validate(self, option: &'static str) -> Result<()> {
        let Compression::Zstd(level) = self else {
            return Ok(());
        };
        if cfg!(not(feature = "zstd")) {
            let detail = "zstd was left out of this build; enable the crate's feature \"zstd\"";
            return Err(invalid(option, detail));
        }
        check(ZSTD_LEVELS.contains(&level), option, || {
            format!("{level} is no zstd level: the levels are 1 to 22")
        })
    }
}

impl Default for Compression {
    /// Zstandard at level 1, or plain where the crate was built without it.
    fn default() -> Compression {
        if cfg!(feature = "zstd") { Compression::Zstd(1) } else { Compression::None }
    }
}

/// The options of one keyspace. They are kept in the file when the keyspace is created, and
/// [`Keyspace::options`](crate::Keyspace::options) reads them back.
///
/// # Examples
/// ```
/// use sapwood::{Compression, KeyspaceOptions};
///
/// // Values that are compressed already, and keys that are always asked for by range.
/// let photos = KeyspaceOptions::default()
///     .value_compression(Compression::None)
///     .filter_bits(0);
/// assert_ne!(photos, KeyspaceOptions::default());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceOptions {
    /// See [`KeyspaceOptions::compression`](KeyspaceOptions::compression()).
    pub compression: Compression,
    /// See [`KeyspaceOptions::value_compression`](KeyspaceOptions::value_compression()).
    pub value_compression: Compression,
    /// See [`KeyspaceOptions::filter_bits`](KeyspaceOptions::filter_bits()).
    pub filter_bits: u8,
}

impl Default for KeyspaceOptions {
    fn default() -> KeyspaceOptions {
        KeyspaceOptions {
            compression: Compression::default(),
            value_compression: Compression::default(),
            filter_bits: 10,
        }
    }
}

impl KeyspaceOptions {
    /// How keys, and the values that lie beside them, are stored below the youngest segments.
    /// [`Compression::default`] unless set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// use sapwood::{Compression, KeyspaceOptions};
    ///
    /// db.keyspace_with("photos", KeyspaceOptions::default().compression(Compression::None))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> KeyspaceOptions {
        self.compression = compression;
        self
    }

    /// How large values, which lie in blocks of their own, are stored. [`Compression::default`]
    /// unless set.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// use sapwood::{Compression, KeyspaceOptions};
    ///
    /// let options = KeyspaceOptions::default().value_compression(Compression::None);
    /// db.keyspace_with("photos", options)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn value_compression(mut self, compression: Compression) -> KeyspaceOptions {
        self.value_compression = compression;
        self
    }

    /// Filter bits for each key; 10 unless set, at most 32. More bits spare more reads for keys
    /// that are absent, and take more memory. 0 makes no filters: right when keys are read by range
    /// only.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// use sapwood::KeyspaceOptions;
    ///
    /// db.keyspace_with("by_range", KeyspaceOptions::default().filter_bits(0))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn filter_bits(mut self, bits: u8) -> KeyspaceOptions {
        self.filter_bits = bits;
        self
    }

    /// Checks the options against each other and the format.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], with what is allowed.
    pub(crate) fn validate(&self) -> Result<()> {
        self.compression.validate("compression")?;
        self.value_compression.validate("value_compression")?;
        let bits = self.filter_bits;
        check(bits <= FILTER_BITS_MAX, "filter_bits", || {
            format!("{bits} bits for each key is too much: the limit is {FILTER_BITS_MAX}")
        })
    }
}

/// Everything that a database is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// All memory of the database, in bytes: memtables, caches, filters, merge buffers, read
    /// sets, maps.
    pub memory_budget: u64,
    /// Bytes of a page; fixed when the file is created.
    pub page_size: u32,
    /// Bytes at the end of each page that nothing is written to; fixed when the file is created.
    pub reserved_bytes: u16,
    /// Bytes of a region; fixed when the file is created.
    pub region_bytes: u64,
    /// Bytes of a leaf before compression. See [`Options::leaf_pages_bytes`].
    pub leaf_bytes: u32,
    /// What commits do that do not say.
    pub durability: Durability,
    /// How long a `Buffered` commit waits for its sync at most.
    pub sync_interval: Duration,
    /// Threads for flushes and merges; with 0 the application runs the steps itself.
    pub merge_threads: usize,
    /// Whether a file that is not there is made.
    pub create: bool,
    /// Whether nodes are read in place where the storage offers that.
    pub memory_map: bool,
    /// Whether nothing may be written.
    pub read_only: bool,
    /// Whether only the last durable state is read, and nothing of the log.
    pub without_log: bool,
    /// How much one step of a merge writes.
    pub step_bytes: u64,
    /// How much of its writes a transaction keeps in memory; `None`: a quarter of a memtable.
    pub transaction_bytes: Option<u64>,
    /// How much memory the lists of dead blocks may take; `None`: a sixteenth of the budget.
    pub dead_list_bytes: Option<u64>,
    /// How much memory free maps may take, which bounds the file; `None`: an eighth of the budget.
    pub maps_bytes: Option<u64>,
    /// How much memory what is known of keyspaces may be expected to take; `None`: an eighth of the
    /// budget, and 4 MiB at least.
    pub keyspaces_bytes: Option<u64>,
    /// So many dead keys that a scan walks over in a row are joined.
    pub join_keys_min: u64,
    /// So many write stamps may be given out before the next durable state.
    pub stamps_ahead: u64,
    /// How much is kept on disk for the validation of open transactions; `None`: an eighth of the
    /// file, at least a memtable.
    pub max_transaction_history_bytes: Option<u64>,
    /// How long the file may grow; `None`: as far as the device has space.
    pub max_file_bytes: Option<u64>,
    /// What is kept free in the file, in bytes; `None`: by what lies in it.
    pub reserve_bytes: Option<u64>,
    /// The log's length when little is written.
    pub log_bytes_min: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            memory_budget: 256 * MIB,
            page_size: 4096,
            reserved_bytes: 0,
            region_bytes: 128 * MIB,
            leaf_bytes: 8192,
            durability: Durability::default(),
            sync_interval: Duration::from_secs(1),
            merge_threads: available_parallelism().map_or(1, |cores| cores.get().min(2)),
            create: true,
            memory_map: false,
            read_only: false,
            without_log: false,
            step_bytes: 4 * MIB,
            transaction_bytes: None,
            dead_list_bytes: None,
            maps_bytes: None,
            keyspaces_bytes: None,
            join_keys_min: 64,
            stamps_ahead: STAMPS_AHEAD,
            max_transaction_history_bytes: None,
            max_file_bytes: None,
            reserve_bytes: None,
            log_bytes_min: MIB,
        }
    }
}

impl Options {
    /// Checks the options against each other and the format.
    ///
    /// # Errors
    /// [`Error::InvalidOption`], with what is allowed.
    pub(crate) fn validate(&self) -> Result<()> {
        self.validate_layout()?;
        self.validate_memory()?;
        self.validate_file()?;
        check(self.read_only || !self.without_log, "without_log", || {
            "what the log holds would be lost with the first write; say read_only(true), too".into()
        })?;
        let interval = self.sync_interval;
        check(
            (SYNC_INTERVAL_MIN..=SYNC_INTERVAL_MAX).contains(&interval),
            "sync_interval",
            || format!("{interval:?} is out of range: 1 millisecond to 24 hours are allowed"),
        )?;
        let threads = self.merge_threads;
        check(threads <= MERGE_THREADS_MAX, "merge_threads", || {
            format!("{threads} threads are too many: the limit is {MERGE_THREADS_MAX}")
        })
    }

    /// The leaf size in whole pages, in bytes: [`Options::leaf_bytes`] rounded up.
    pub(crate) fn leaf_pages_bytes(&self) -> u32 {
        self.leaf_bytes.next_multiple_of(self.page_size.max(1))
    }

    /// The least reserve with which a full file of any size can be emptied.
    pub(crate) fn least_reserve_bytes(&self) -> u64 {
        RESERVE_REST_BYTES + RESERVE_LEAVES * u64::from(self.leaf_pages_bytes())
    }

    fn validate_layout(&self) -> Result<()> {
        let page = self.page_size;
        check(
            page.is_power_of_two() && (PAGE_BYTES_MIN..=PAGE_BYTES_MAX).contains(&page),
            "page_size",
            || format!("{page} is not a power of two from {PAGE_BYTES_MIN} to {PAGE_BYTES_MAX}"),
        )?;
        let reserved = self.reserved_bytes;
        check(
            reserved.is_multiple_of(8) && reserved <= RESERVED_BYTES_MAX,
            "reserved_bytes",
            || format!("{reserved} is not a multiple of 8 up to {RESERVED_BYTES_MAX}"),
        )?;
        let region = self.region_bytes;
        let pages = region / u64::from(page);
        check(
            region.is_power_of_two() && (REGION_PAGES_MIN..=REGION_PAGES_MAX).contains(&pages),
            "region_bytes",
            || {
                format!(
                    "{region} is not a power of two that makes {REGION_PAGES_MIN} to \
                     {REGION_PAGES_MAX} pages of {page} bytes"
                )
            },
        )?;
        // A node of the longest keys must fit beside the fixed pages.
        check(region >= REGION_BYTES_MIN, "region_bytes", || {
            format!("{region} is too small: at least {REGION_BYTES_MIN} bytes are needed")
        })?;
        let leaf = self.leaf_bytes;
        check((1..=LEAF_BYTES_MAX).contains(&leaf), "leaf_bytes", || {
            format!(
                "{leaf} is out of range: 1 to {LEAF_BYTES_MAX} are allowed, and rounded up to \
                 whole pages"
            )
        })
    }

    fn validate_memory(&self) -> Result<()> {
        let budget = self.memory_budget;
        check(budget >= MEMORY_BUDGET_BYTES_MIN, "memory_budget", || {
            format!("{budget} bytes are too few: at least {MEMORY_BUDGET_BYTES_MIN} are needed")
        })?;
        check(usize::try_from(budget).is_ok(), "memory_budget", || {
            format!("{budget} bytes are more than this system can address")
        })?;
        let step = self.step_bytes;
        check((STEP_BYTES_MIN..=budget).contains(&step), "step_bytes", || {
            format!(
                "{step} is out of range: {STEP_BYTES_MIN} up to the memory budget ({budget}) are \
                 allowed"
            )
        })
    }

    fn validate_file(&self) -> Result<()> {
        let log = self.log_bytes_min;
        // The log grows to two memtables, each a quarter of the budget.
        let log_max = self.memory_budget / 2;
        check((LOG_BYTES_MIN..=log_max).contains(&log), "log_bytes_min", || {
            format!(
                "{log} is out of range: {LOG_BYTES_MIN} up to half the memory budget ({log_max}) \
                 are allowed"
            )
        })?;
        // Beside the log, the first segments and the reserve for deletes and merges must fit.
        let file_min = log.saturating_mul(4);
        let max = self.max_file_bytes.unwrap_or(u64::MAX);
        check(max >= file_min, "max_file_bytes", || {
            format!("{max} bytes are too few: at least {file_min} (four times the log's) fit")
        })?;
        self.validate_reserve()
    }

    fn validate_reserve(&self) -> Result<()> {
        let asked = match self.reserve_bytes {
            None | Some(0) => return Ok(()),
            Some(asked) => asked,
        };
        let least = self.least_reserve_bytes();
        check(asked >= least, "reserve_bytes", || {
            format!("{asked} bytes are too few to be of use: 0, or at least {least}, are allowed")
        })?;
        let Some(file) = self.max_file_bytes else { return Ok(()) };
        let most = file / 2;
        check(asked <= most, "reserve_bytes", || match least <= most {
            true => format!(
                "{asked} bytes are too many: 0, or at most {most}, half of max_file_bytes, are \
                 allowed"
            ),
            false => format!(
                "{asked} bytes are more than {most}, half of max_file_bytes, and at least {least} \
                 are of use: only 0 is allowed"
            ),
        })
    }
}

fn invalid(option: &'static str, detail: impl Into<String>) -> Error {
    Error::InvalidOption { option, detail: detail.into() }
}

fn check(valid: bool, option: &'static str, detail: impl FnOnce() -> String) -> Result<()> {
    if valid { Ok(()) } else { Err(invalid(option, detail())) }
}
