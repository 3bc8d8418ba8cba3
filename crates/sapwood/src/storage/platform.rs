//! What each system does differently for a file.
//!
//! *Assumes*: ranges that `storage::end_of` accepted, and not empty where a length is given.
//! *Guarantees*: what docs/durability.md says of each call on each system. Interrupted calls go on.
//! *Threads*: any; no call uses the file's cursor for its own position.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use super::Advice;

#[cfg(not(any(unix, windows)))]
compile_error!("Sapwood needs positioned reads and writes: unix or windows");

#[cfg(target_os = "linux")]
pub(super) use linux::{DataSyncedWrite, advise, allocate, punch, rename_new};
#[cfg(not(target_os = "linux"))]
pub(super) use other::{DataSyncedWrite, advise, allocate, punch, rename_new};
#[cfg(unix)]
pub(super) use unix::{
    is_nameless, kind_of, never_wait, read_exact_at, sync_directory, write_all_at,
};
#[cfg(windows)]
pub(super) use windows::{
    is_nameless, kind_of, never_wait, read_exact_at, sync_directory, write_all_at,
};

/// Gives a file another name unless something has it: what comes between is replaced.
#[allow(clippy::disallowed_methods)] // files are named here
fn rename_absent(from: &Path, to: &Path) -> io::Result<()> {
    if to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    std::fs::rename(from, to)
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};

    use super::*;

    pub(in super::super) fn read_exact_at(
        file: &File,
        offset: u64,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        file.read_exact_at(buffer, offset)
    }

    pub(in super::super) fn write_all_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Opening a pipe or a terminal by mistake must neither wait nor adopt it. Regular files are
    /// not affected.
    pub(in super::super) fn never_wait(options: &mut OpenOptions) {
        use rustix::fs::OFlags;
        options.custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32);
    }

    #[allow(clippy::disallowed_methods)] // files are opened here
    pub(in super::super) fn sync_directory(directory: &Path) -> io::Result<()> {
        use io::ErrorKind::{NotFound, PermissionDenied, ResourceBusy};
        let opened = File::open(directory).map_err(|error| match error.kind() {
            NotFound | PermissionDenied => error,
            // For want of descriptors, say.
            _ => io::Error::new(ResourceBusy, error),
        })?;
        match opened.sync_all() {
            // Some network file systems refuse to sync a directory: they write entries through.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            result => result,
        }
    }

    /// Whether no directory has the file any more.
    pub(in super::super) fn is_nameless(metadata: &Metadata) -> bool {
        metadata.nlink() == 0
    }

    /// What is there instead of a regular file.
    pub(in super::super) fn kind_of(metadata: &Metadata) -> &'static str {
        let kind = metadata.file_type();
        if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a named pipe"
        } else if kind.is_socket() {
            "a socket"
        } else if kind.is_block_device() {
            "a block device"
        } else if kind.is_char_device() {
            "a character device"
        } else {
            "something unknown"
        }
    }
}

#[cfg(windows)]
mod windows {
    use std::os::windows::fs::FileExt;

    use super::*;

    pub(in super::super) fn read_exact_at(
        file: &File,
        mut offset: u64,
        mut buffer: &mut [u8],
    ) -> io::Result<()> {
        while !buffer.is_empty() {
            match file.seek_read(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    buffer = buffer.get_mut(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(in super::super) fn write_all_at(
        file: &File,
        mut offset: u64,
        mut bytes: &[u8],
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            match file.seek_write(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = bytes.get(count..).unwrap_or_default();
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(in super::super) fn never_wait(_options: &mut OpenOptions) {}

    /// NTFS journals directory entries, and there is no call that syncs one alone.
    #[allow(clippy::unnecessary_wraps)] // the other systems can fail
    pub(in super::super) fn sync_directory(_directory: &Path) -> io::Result<()> {
        Ok(())
    }

    /// A file that is open keeps its name here.
    pub(in super::super) fn is_nameless(_metadata: &Metadata) -> bool {
        false
    }

    /// What is there instead of a regular file.
    pub(in super::super) fn kind_of(metadata: &Metadata) -> &'static str {
        if metadata.is_dir() { "a directory" } else { "something unknown" }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::IoSlice;
    use std::num::NonZeroU64;

    use rustix::fs::{CWD, FallocateFlags, RenameFlags, fadvise, fallocate, renameat_with};
    use rustix::io::{Errno, ReadWriteFlags, pwritev2, retry_on_intr};

    use super::*;
    use crate::sync::atomic::{AtomicBool, Ordering};

    /// Writes with a data sync of their own, as long as kernel and file system have them.
    #[derive(Debug, Default)]
    pub(in super::super) struct DataSyncedWrite {
        missing: AtomicBool,
    }

    impl DataSyncedWrite {
        /// As on a file system that has none.
        #[cfg(test)]
        pub(in super::super) fn without() -> DataSyncedWrite {
            DataSyncedWrite { missing: AtomicBool::new(true) }
        }

        pub(in super::super) fn write(
            &self,
            file: &File,
            offset: u64,
            bytes: &[u8],
        ) -> io::Result<()> {
            if !self.missing.load(Ordering::Relaxed) {
                match write_data_synced(file, offset, bytes) {
                    // Kernels before 4.7 know the call but not the flag, and say INVAL.
                    Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => {}
                    result => return Ok(result?),
                }
            }
            write_all_at(file, offset, bytes)?;
            file.sync_data()?;
            // Remembered only now: had the write been wrong in itself, this would have failed too.
            self.missing.store(true, Ordering::Relaxed);
            Ok(())
        }
    }

    fn write_data_synced(file: &File, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let slices = [IoSlice::new(bytes)];
            let count = retry_on_intr(|| pwritev2(file, &slices, offset, ReadWriteFlags::DSYNC))?;
            if count == 0 {
                return Err(Errno::IO);
            }
            bytes = bytes.get(count..).unwrap_or_default();
            offset += count as u64;
        }
        Ok(())
    }

    /// Mode 0: reserves and extends at once, so that later writes change no length.
    pub(in super::super) fn allocate(file: &File, offset: u64, length: u64) -> io::Result<bool> {
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), offset, length)) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name that nothing has, in one step.
    pub(in super::super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // Some file systems do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_absent(from, to),
            result => Ok(result?),
        }
    }

    pub(in super::super) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| fallocate(file, flags, offset, length)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            result => Ok(result?),
        }
    }

    /// The kernel takes `Sequential` and `Random` for the whole open file, whatever the range; the
    /// other two are for the range.
    pub(in super::super) fn advise(
        file: &File,
        offset: u64,
        length: u64,
        advice: Advice,
    ) -> io::Result<()> {
        let advice = match advice {
            Advice::Sequential => rustix::fs::Advice::Sequential,
            Advice::Random => rustix::fs::Advice::Random,
            Advice::WillNeed => rustix::fs::Advice::WillNeed,
            Advice::DontNeed => rustix::fs::Advice::DontNeed,
        };
        Ok(fadvise(file, offset, NonZeroU64::new(length), advice)?)
    }
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps)] // Linux can fail
mod other {
    use super::*;

    /// A write and a data sync of the whole file, for want of a narrower call.
    #[derive(Debug, Default)]
    pub(in super::super) struct DataSyncedWrite;

    impl DataSyncedWrite {
        pub(in super::super) fn write(
            &self,
            file: &File,
            offset: u64,
            bytes: &[u8],
        ) -> io::Result<()> {
            write_all_at(file, offset, bytes)?;
            file.sync_data()
        }
    }

    pub(in super::super) fn allocate(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
        Ok(false)
    }

    pub(in super::super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        rename_absent(from, to)
    }

    pub(in super::super) fn punch(_file: &File, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    pub(in super::super) fn advise(
        _file: &File,
        _offset: u64,
        _length: u64,
        _advice: Advice,
    ) -> io::Result<()> {
        Ok(())
    }
}
