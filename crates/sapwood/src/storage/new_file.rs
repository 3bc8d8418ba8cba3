//! A file that gets its name only when it is complete.
//!
//! *Guarantees*: until [`NewFile::finish`] nothing has the name; whoever does not come so far
//! leaves no file, unless the process dies: then one under a temporary name beside it. What has the
//! name already is never replaced. *Threads*: one owner.

use std::io;
use std::path::{Path, PathBuf};

use super::file::{FileOpenOptions, FileStorage, directory_of};
use super::platform;
use crate::error::{Error, Result};
use crate::sync::Random;

/// See the module.
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    is_finished: bool,
}

impl NewFile {
    /// Makes an empty file beside `target`, under a temporary name.
    ///
    /// # Errors
    /// `AlreadyExists` when there is something at `target`; or as [`FileStorage::open`].
    pub fn begin(target: &Path) -> Result<(NewFile, FileStorage)> {
        check_absent(target)?;
        let mut name = target.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:016x}.part", Random::from_entropy().next_u64()));
        let temporary = target.with_file_name(name);
        let options = FileOpenOptions { create: true, read_only: false };
        let (storage, is_new) = FileStorage::open(&temporary, &options)?;
        if !is_new {
            return Err(Error::AlreadyExists(temporary));
        }
        Ok((NewFile { target: target.to_owned(), temporary, is_finished: false }, storage))
    }

    /// Gives the file its name, on disk too. It is complete, synced and closed.
    ///
    /// # Errors
    /// `AlreadyExists` when something has come to `target` meanwhile; or `Io`. There is no file
    /// then.
    pub fn finish(mut self) -> Result<()> {
        let name = self.target.display().to_string();
        match platform::rename_new(&self.temporary, &self.target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists(self.target.clone()));
            }
            Err(error) => return Err(Error::io("naming the file", name, error)),
        }
        // What fails from here on takes the file away under its new name.
        self.temporary.clone_from(&self.target);
        let synced = platform::sync_directory(&directory_of(&self.target));
        synced.map_err(|error| Error::io("syncing the directory", name, error))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for NewFile {
    #[allow(clippy::disallowed_methods)] // files are made and removed here
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.temporary) {
            let file = self.temporary.display();
            tracing::warn!(
                target: "sapwood::storage",
                %error,
                %file,
                "an incomplete file could not be removed"
            );
        }
    }
}

fn check_absent(target: &Path) -> Result<()> {
    match target.symlink_metadata() {
        Ok(_) => Err(Error::AlreadyExists(target.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("looking for the file", target.display().to_string(), error)),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // files are looked at here
mod tests {
    use super::*;
    use crate::storage::Storage;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new");
        let (file, storage) = NewFile::begin(&target).unwrap();
        storage.write_at(0, b"contents").unwrap();
        drop(storage);
        assert!(!target.exists());
        file.finish().unwrap();
        assert_eq!(names(folder.path()), ["new"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"contents");
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(NewFile::begin(&folder.path().join("new")).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("new");
        let (file, storage) = NewFile::begin(&target).unwrap();
        drop(storage);
        std::fs::write(&target, b"another").unwrap();
        assert!(matches!(file.finish(), Err(Error::AlreadyExists(_))));
        assert!(matches!(NewFile::begin(&target), Err(Error::AlreadyExists(_))));
        assert_eq!(names(folder.path()), ["new"]);
        assert_eq!(std::fs::read(&target).unwrap(), b"another");
    }

    #[test]
    fn without_its_folder_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(NewFile::begin(&folder.path().join("none").join("new")).is_err());
    }
}
