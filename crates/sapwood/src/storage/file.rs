//! The database's file: opened under a lock, read and written at positions.
//!
//! *Assumes*: the file system keeps advisory locks, and syncs when it is asked to
//! (docs/durability.md says what each system is asked).
//! *Guarantees*: at most one handle has the file open for writing, over all processes and within
//! one; read-only handles share it among themselves. What is opened is a regular file. When it was
//! deleted, replaced or cut by somebody else, or this process was forked, the next sync or change
//! of its length fails and says so.
//! *Threads*: any; there is no lock inside.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::map::{FileMap, Mapped};
use super::platform::{self, DataSyncedWrite};
use super::watch::Watch;
use super::{Advice, Storage, end_of};
use crate::error::{Error, Result};
use crate::sync::Clock;

/// How often the lock is asked for before the file counts as in use, and the pause between.
const LOCK_ATTEMPTS: u32 = 6;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOpenOptions {
    /// Make the file when there is none. Without effect on a read-only open.
    pub create: bool,
    /// Open for reading, beside other readers.
    pub read_only: bool,
}

/// A file of the operating system.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    path: PathBuf,
    /// Where the file's entry lies, symbolic links followed.
    directory: PathBuf,
    writable: bool,
    data_synced_write: DataSyncedWrite,
    watch: Watch,
    map: FileMap,
}

impl FileStorage {
    /// Opens the file and locks it, exclusively, or shared when read-only. The second value is true
    /// when the file is new: made by this call, or made earlier and still empty, as one is whose
    /// maker died between the two.
    ///
    /// # Errors
    /// `NotFound`, `NotAFile`, `Locked`, or `Io` with the system's reason.
    pub fn open(path: impl AsRef<Path>, options: &FileOpenOptions) -> Result<(FileStorage, bool)> {
        let path = path.as_ref();
        let storage = FileStorage::open_unlocked(path, options)?;
        storage.lock(options.read_only)?;
        let created = options.create && storage.writable && {
            let length = storage.length();
            length.map_err(|error| Error::io("reading the length", storage.name(), error))? == 0
        };
        Ok((storage, created))
    }

    /// Takes the lock, shared or exclusive.
    ///
    /// A process that another thread has just forked holds a copy of our own former lock until it
    /// runs its program, so the lock is asked for a few times before the file counts as in use.
    fn lock(&self, shared: bool) -> Result<()> {
        let clock = Clock::real();
        for attempt in 1.. {
            let locked = if shared { self.file.try_lock_shared() } else { self.file.try_lock() };
            match locked {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS => {
                    clock.sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => return Err(self.in_use(shared)),
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io("locking the file", self.name(), error));
                }
            }
        }
        Ok(())
    }

    /// The error when the lock was refused. Whoever wanted it for itself and can have it shared was
    /// kept out by readers; what it takes here goes with this handle.
    fn in_use(&self, shared: bool) -> Error {
        let beside_readers = !shared && self.file.try_lock_shared().is_ok();
        let open_for = if beside_readers { "read-only" } else { "for writing" };
        Error::Locked { file: self.path.clone(), open_for }
    }

    /// Opens the file for reading without any lock, so also while a database has it open. What is
    /// read may be changing meanwhile. On Windows reads fail while another handle has the lock.
    ///
    /// # Errors
    /// `NotFound`, `NotAFile`, or `Io` with the system's reason.
    pub fn open_unlocked_read_only(path: impl AsRef<Path>) -> Result<FileStorage> {
        let options = FileOpenOptions { create: false, read_only: true };
        FileStorage::open_unlocked(path.as_ref(), &options)
    }

    #[allow(clippy::disallowed_methods)] // files are opened here
    fn open_unlocked(path: &Path, options: &FileOpenOptions) -> Result<FileStorage> {
        let create = options.create && !options.read_only;
        // Before the open, since opening a device can have effects of its own; and again after it,
        // since the path may lead elsewhere by then.
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(metadata) => return Err(not_a_file(path, platform::kind_of(&metadata))),
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(open_error(path, false, error)),
        }
        let mut open = OpenOptions::new();
        open.read(true).write(!options.read_only).create(create).truncate(false);
        platform::never_wait(&mut open);
        let file = open.open(path).map_err(|error| {
            let error = if options.read_only { error } else { explain_refusal(error) };
            open_error(path, create, error)
        })?;
        let metadata = file.metadata().map_err(|error| open_error(path, false, error))?;
        if !metadata.is_file() {
            return Err(not_a_file(path, platform::kind_of(&metadata)));
        }
        Ok(FileStorage {
            file,
            path: path.to_owned(),
            directory: directory_of(path),
            writable: !options.read_only,
            data_synced_write: DataSyncedWrite::default(),
            watch: Watch::new(metadata.len()),
            map: FileMap::default(),
        })
    }

    fn assert_writable(&self) -> io::Result<()> {
        if self.writable {
            return self.watch.check_process();
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file was opened read-only"))
    }

    /// The same, and the file is still what it was: for calls that cost more than the question.
    fn assert_unchanged(&self) -> io::Result<()> {
        self.assert_writable()?;
        self.watch.check_file(|| self.file.metadata())
    }
}

fn not_a_file(path: &Path, what: &str) -> Error {
    let detail = format!("this is {what}, not a regular file; give the path of the file itself");
    Error::NotAFile { path: path.to_owned(), detail }
}

/// Says of a file that must not be written what can be done with it.
fn explain_refusal(error: io::Error) -> io::Error {
    match error.kind() {
        kind @ (io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            let detail = format!("{error}; with read_only(true) it may be readable");
            io::Error::new(kind, detail)
        }
        _ => error,
    }
}

/// What a failed open means. `create` says that the file was to be made.
fn open_error(path: &Path, create: bool, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound if create => {
            let cause = io::Error::new(error.kind(), "its directory does not exist");
            Error::io("creating the file", path.display().to_string(), cause)
        }
        io::ErrorKind::NotFound => Error::NotFound(path.to_owned()),
        io::ErrorKind::IsADirectory => not_a_file(path, "a directory"),
        _ => Error::io("opening the file", path.display().to_string(), error),
    }
}

/// The directory of the file itself, so that a link to it or a later change of the working
/// directory does not matter.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match resolved.parent() {
        Some(parent) if parent.as_os_str() != OsStr::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

impl Storage for FileStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        end_of(offset, buffer.len() as u64)?;
        let result = platform::read_exact_at(&self.file, offset, buffer);
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let length = self.length().unwrap_or_default();
                io::Error::new(error.kind(), format!("the file has only {length} bytes"))
            }
            _ => error,
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.assert_writable()?;
        let end = end_of(offset, bytes.len() as u64)?;
        platform::write_all_at(&self.file, offset, bytes)?;
        self.watch.reaches(end);
        Ok(())
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.assert_unchanged()?;
        let end = end_of(offset, bytes.len() as u64)?;
        self.data_synced_write.write(&self.file, offset, bytes)?;
        self.watch.reaches(end);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.writable {
            self.assert_unchanged()?;
        }
        // fdatasync, F_FULLFSYNC or FlushFileBuffers: std chooses the strongest of each system.
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.assert_unchanged()?;
        end_of(length, 0)?;
        if length < self.length()? {
            return self.map.cut(length, || {
                self.watch.has_length(length);
                self.file.set_len(length)
            });
        }
        self.file.set_len(length)?;
        self.watch.reaches(length);
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.assert_unchanged()?;
        let end = end_of(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        // Without reservation at least the length stands, and writes find out about the space.
        if !platform::allocate(&self.file, offset, length)? && self.length()? < end {
            self.file.set_len(end)?;
        }
        self.watch.reaches(end);
        Ok(())
    }

    fn write_back(&self, _offset: u64, _length: u64) -> io::Result<()> {
        // Linux has sync_file_range, but rustix does not offer it. The advice `DontNeed` starts
        // write-back as well, but drops the clean pages of the range, which readers may be using.
        Ok(())
    }

    fn advise(&self, offset: u64, length: u64, advice: Advice) -> io::Result<()> {
        end_of(offset, length)?;
        // To the system a length of 0 means all that follows.
        if length == 0 { Ok(()) } else { platform::advise(&self.file, offset, length, advice) }
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.assert_writable()?;
        end_of(offset, length)?;
        if length == 0 { Ok(()) } else { platform::punch(&self.file, offset, length) }
    }

    fn sync_directory(&self) -> io::Result<()> {
        platform::sync_directory(&self.directory)
    }

    fn map(&self, offset: u64, length: usize) -> Option<Mapped> {
        self.map.get(&self.file, offset, length)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn is_of_this_process(&self) -> bool {
        self.watch.is_of_this_process()
    }
}

#[cfg(test)]
mod tests;
