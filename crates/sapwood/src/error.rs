//! The one error type of the crate.
//!
//! Each message says what happened, where, and, where it is not plain, what can be done. Keys and
//! values are never part of a message: they may be secret.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::types::{Epoch, KeyspaceNumber, PageNumber};

/// What every fallible call of this crate returns.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// fn count(keyspace: &sapwood::Keyspace) -> sapwood::Result<u64> {
///     keyspace.count::<&str>(..)
/// }
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// assert_eq!(count(&db.keyspace("fruit")?)?, 0);
/// # Ok(())
/// # }
/// ```
pub type Result<T> = std::result::Result<T, Error>;

/// The part of the file that a [`Corruption`] was found in.
///
/// # Examples
/// ```
/// assert_eq!(sapwood::Structure::FreeMap.to_string(), "free map");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Structure {
    /// One of the two slots at the start of the file.
    FileHeader,
    /// The encoded state that a header slot names.
    State,
    /// A leaf of a segment.
    Leaf,
    /// A parent of a segment.
    Parent,
    /// The filters and overflow lists beside a lowest parent.
    Sidecar,
    /// A filter over a whole young segment.
    Filter,
    /// A value that lies in blocks of its own.
    Overflow,
    /// A region's map of free pages.
    FreeMap,
    /// A record of the log.
    Log,
    /// A compression dictionary.
    Dictionary,
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Structure::FileHeader => "file header",
            Structure::State => "state",
            Structure::Leaf => "leaf",
            Structure::Parent => "parent",
            Structure::Sidecar => "sidecar",
            Structure::Filter => "filter",
            Structure::Overflow => "overflow value",
            Structure::FreeMap => "free map",
            Structure::Log => "log",
            Structure::Dictionary => "dictionary",
        })
    }
}

/// Bytes of the file that are not what they must be.
///
/// An application knows its keyspaces by name; [`Keyspace::number`](crate::Keyspace::number) and
/// [`KeyspaceStats::number`](crate::KeyspaceStats::number) say which has the number given here.
///
/// # Examples
/// ```
/// use sapwood::{Corruption, Structure};
///
/// let damage = Corruption::new(Structure::Leaf, "its checksum is wrong");
/// assert_eq!(damage.to_string(), "damaged leaf: its checksum is wrong");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The structure that was being read.
    pub structure: Structure,
    /// The first page of the node, where there is one.
    pub page: Option<PageNumber>,
    /// The keyspace that the node belongs to, where it is known.
    pub keyspace: Option<KeyspaceNumber>,
    /// The file, as it was named at open. Every call of a database says it.
    pub file: Option<PathBuf>,
    /// What was found, and what was expected instead.
    pub detail: String,
}

impl Corruption {
    /// Damage in `structure`, with what was found.
    ///
    /// # Examples
    /// ```
    /// use sapwood::{Corruption, Structure};
    ///
    /// let damage = Corruption::new(Structure::Log, "a record ends early");
    /// assert_eq!(damage.page, None);
    /// ```
    pub fn new(structure: Structure, detail: impl Into<String>) -> Corruption {
        let detail = detail.into();
        Corruption { structure, page: None, keyspace: None, file: None, detail }
    }

    /// The same, with the page where it lies.
    ///
    /// # Examples
    /// ```
    /// use sapwood::{Corruption, PageNumber, Structure};
    ///
    /// let damage = Corruption::new(Structure::Leaf, "torn").at_page(PageNumber(7));
    /// assert_eq!(damage.to_string(), "damaged leaf at page 7: torn");
    /// ```
    #[must_use]
    pub fn at_page(mut self, page: PageNumber) -> Corruption {
        self.page = Some(page);
        self
    }

    /// The same, with the keyspace that it belongs to.
    ///
    /// # Examples
    /// ```
    /// use sapwood::{Corruption, KeyspaceNumber, Structure};
    ///
    /// let damage = Corruption::new(Structure::Leaf, "torn").in_keyspace(KeyspaceNumber(3));
    /// assert_eq!(damage.to_string(), "damaged leaf of keyspace 3: torn");
    /// ```
    #[must_use]
    pub fn in_keyspace(mut self, keyspace: KeyspaceNumber) -> Corruption {
        self.keyspace = Some(keyspace);
        self
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "damaged {}", self.structure)?;
        if let Some(page) = self.page {
            write!(f, " at page {page}")?;
        }
        if let Some(keyspace) = self.keyspace {
            write!(f, " of keyspace {keyspace}")?;
        }
        if let Some(file) = &self.file {
            write!(f, " in {}", file.display())?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Everything that can go wrong.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// # let db = sapwood::Database::builder().open_in_memory()?;
/// use sapwood::Error;
///
/// match db.existing_keyspace("fruit") {
///     Err(Error::UnknownKeyspace(name)) => println!("there is no {name}"),
///     Err(error) => return Err(error),
///     Ok(_) => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on the file.
    #[error("{operation} failed on {file}: {source}")]
    Io {
        /// What was attempted, such as "reading 4096 bytes at offset 8192".
        operation: String,
        /// The file, as it was named at open.
        file: String,
        /// The cause.
        source: Arc<io::Error>,
    },
    /// Bytes of the file are wrong. Other parts can still be read.
    #[error("{0}; copy the file away, then run `diag_lsm verify` on it to learn what is affected")]
    Corruption(Box<Corruption>),
    /// The file exists but was not written by Sapwood.
    #[error("{0} is not a Sapwood database: neither header slot carries its mark")]
    NotADatabase(PathBuf),
    /// The file was written by a newer format version.
    #[error(
        "{file} has format version {found}, this library reads up to {supported}; \
         use a newer library"
    )]
    UnsupportedVersion {
        /// The file.
        file: PathBuf,
        /// The version in its header.
        found: u32,
        /// The newest version that this library reads.
        supported: u32,
    },
    /// The file uses a feature that this library does not know.
    #[error("{file} uses unknown features {bits:#x}, so it can be {allowed}; use a newer library")]
    UnknownFeature {
        /// The file.
        file: PathBuf,
        /// The unknown bits.
        bits: u64,
        /// What can still be done: "read but not written", or "neither read nor written".
        allowed: &'static str,
    },
    /// An option contradicts what the file was created with, or is out of range.
    #[error("option {option}: {detail}")]
    InvalidOption {
        /// The option's name.
        option: &'static str,
        /// What is wrong with it and what is allowed.
        detail: String,
    },
    /// The path does not lead to a regular file.
    #[error("{path}: {detail}")]
    NotAFile {
        /// The path as given.
        path: PathBuf,
        /// What is there instead.
        detail: String,
    },
    /// There is no file, or nothing is in it yet, and no database was to be created.
    #[error(
        "{0} does not exist, or nothing is in it yet; open it with create(true) to make a new \
         database"
    )]
    NotFound(PathBuf),
    /// There is something where a new file was to be made.
    #[error("{0} exists already; give a path at which there is nothing")]
    AlreadyExists(PathBuf),
    /// Another process, or another handle of this one, has the file open in a way that excludes
    /// this one: of those that write there is one, and none beside those that read.
    #[error(
        "{file} is in use by another process or handle, which has it open {open_for}; \
         close that first"
    )]
    Locked {
        /// The file.
        file: PathBuf,
        /// What the other one does with it: "for writing" or "read-only".
        open_for: &'static str,
    },
    /// No space is left for a write. Nothing acknowledged is lost; deletes work in a reserve, but
    /// for the cases that `docs/limits.md` names.
    #[error("no space left for {file} ({operation}); free space on the device, or delete data")]
    NoSpace {
        /// What was attempted.
        operation: String,
        /// The file.
        file: String,
    },
    /// An earlier write or sync failed, so what is on disk is not known: only reads go on.
    #[error("writing stopped after an earlier failure; reopen the database. The failure: {0}")]
    Stopped(Arc<Error>),
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
    /// The database was opened by the process from which this one was forked. Here it can be read
    /// as far as no thread of the other was in the way; nothing is written, and a close lets go.
    #[error(
        "{0} was opened by another process, from which this one was forked, and nothing was \
         written here; fork before opening"
    )]
    OtherProcess(PathBuf),
    /// The call would write, and the database was opened read-only.
    #[error(
        "the database was opened read-only, and this call would write; \
         open it without read_only(true) to write"
    )]
    ReadOnly,
    /// The key is longer than a key may be.
    #[error("a key of {length} bytes is too long: the limit is {limit}")]
    KeyTooLong {
        /// The length of the key, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The name is longer than a keyspace's may be.
    #[error("a keyspace name of {length} bytes is too long: the limit is {limit}")]
    NameTooLong {
        /// The length of the name, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The value is too large to be handed out or taken in whole.
    #[error("a value of {length} bytes is too large for this call (limit {limit}); use {instead}")]
    ValueTooLarge {
        /// The length of the value, in bytes.
        length: u64,
        /// The limit, in bytes.
        limit: u64,
        /// The call that takes such a value.
        instead: &'static str,
    },
    /// The writes of one batch, or of one call of a keyspace, take more than a quarter of the
    /// memory budget. A transaction may be larger.
    #[error(
        "writes of {bytes} bytes are too many for one commit: the limit is {limit}; use a \
         transaction, put_stream for a large value, or a larger memory budget"
    )]
    TransactionTooLarge {
        /// The size of the writes, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another commit changed what this transaction wrote or read. Begin it again.
    #[error("another commit changed what this transaction uses; begin it again")]
    Conflict,
    /// The savepoint is another transaction's, or was undone by a rollback to an earlier one.
    #[error("the savepoint belongs to another transaction, or was rolled back; take a new one")]
    InvalidSavepoint,
    /// There is no keyspace of that name.
    #[error("there is no keyspace named {0:?}")]
    UnknownKeyspace(String),
    /// A keyspace of that name exists already.
    #[error("a keyspace named {0:?} exists already")]
    KeyspaceExists(String),
    /// The keyspace behind this handle was dropped.
    #[error("keyspace {0:?} was dropped")]
    KeyspaceDropped(String),
    /// The handle belongs to another database.
    #[error("keyspace {0:?} belongs to another database")]
    ForeignKeyspace(String),
    /// The range's start lies after its end.
    #[error("the range's start lies after its end")]
    InvalidRange,
    /// A long call was cancelled by its caller.
    #[error("cancelled")]
    Cancelled,
    /// A merge found that what it wrote does not add up, and stopped before installing it.
    #[error(
        "merging stopped at state {epoch}: {detail}; the data is unchanged, please report this"
    )]
    MergeMismatch {
        /// The state that was being merged.
        epoch: Epoch,
        /// The counts that differ.
        detail: String,
    },
    /// A commit or a step of merging panicked; what a step had made is not installed.
    #[error(
        "{work} panicked at state {epoch}, and writing has stopped; what was committed is safe: \
         open the database again, and please report this"
    )]
    WorkPanicked {
        /// Which work.
        work: &'static str,
        /// The state of that moment.
        epoch: Epoch,
    },
    /// The application's own error, with which its closure gave up a
    /// [`transact`](crate::Database::transact) or a [`try_update`](crate::Keyspace::try_update).
    /// Its message and source are those of that error, which `downcast_ref` gives back. See
    /// [`Error::application`].
    #[error(transparent)]
    Application(Arc<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of the application's own, so that a closure can give up with it: nothing is
    /// committed, it is not called again, and who called gets this very error.
    ///
    /// # Examples
    /// ```
    /// use std::num::ParseIntError;
    ///
    /// use sapwood::Error;
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// let result = db.transact(|transaction| {
    ///     let count: u32 = "many".parse().map_err(Error::application)?;
    ///     transaction.put(&fruit, "fig", count.to_string())
    /// });
    /// match result {
    ///     Err(Error::Application(error)) => {
    ///         assert!(error.downcast_ref::<ParseIntError>().is_some());
    ///     }
    ///     other => panic!("{other:?}"),
    /// }
    /// assert!(!fruit.contains("fig")?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn application(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Application(Arc::from(error.into()))
    }

    /// Wraps an error of the operating system with what was attempted and where.
    ///
    /// # Examples
    /// ```
    /// use std::io;
    ///
    /// let full = io::Error::from(io::ErrorKind::StorageFull);
    /// assert!(sapwood::Error::io("writing", "a.sapwood", full).is_no_space());
    /// ```
    pub fn io(operation: impl Into<String>, file: impl Into<String>, source: io::Error) -> Error {
        let (operation, file) = (operation.into(), file.into());
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Error::NoSpace { operation, file },
            _ => Error::Io { operation, file, source: Arc::new(source) },
        }
    }

    /// True when another attempt of the same transaction may succeed.
    ///
    /// # Examples
    /// ```
    /// assert!(sapwood::Error::Conflict.is_conflict());
    /// assert!(!sapwood::Error::Closed.is_conflict());
    /// ```
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Conflict)
    }

    /// True when the device is full, the file may not grow, or its state would name too much. When
    /// writing has [`Stopped`](Error::Stopped) for that, it helps to reopen the database only.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// match fruit.put("fig", "sweet") {
    ///     Err(error) if error.is_no_space() => println!("delete something, and try again"),
    ///     result => result?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        match self {
            Error::NoSpace { .. } => true,
            Error::Stopped(cause) => cause.is_no_space(),
            _ => false,
        }
    }

    /// True when bytes of the file are wrong.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// # for name in ["apple", "fig", "plum"] {
    /// #     fruit.put(name, "ripe")?;
    /// # }
    /// for pair in fruit.iter()? {
    ///     match pair {
    ///         Err(error) if error.is_corruption() => println!("{error}"),
    ///         pair => drop(pair?),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Corruption(_))
    }

    /// Names the keyspace in which damage was met, whatever a damaged node says of itself; `MANY`
    /// is none.
    #[must_use]
    pub(crate) fn met_in(self, keyspace: KeyspaceNumber) -> Error {
        match self {
            Error::Corruption(corruption) if keyspace != KeyspaceNumber::MANY => {
                corruption.in_keyspace(keyspace).into()
            }
            error => error,
        }
    }

    /// Names the file in which damage was met, unless it is named already.
    #[cold]
    #[must_use]
    pub(crate) fn in_file(mut self, name: impl FnOnce() -> String) -> Error {
        if let Error::Corruption(corruption) = &mut self {
            corruption.file.get_or_insert_with(|| name().into());
        }
        self
    }
}

impl From<Corruption> for Error {
    fn from(corruption: Corruption) -> Error {
        Error::Corruption(Box::new(corruption))
    }
}
