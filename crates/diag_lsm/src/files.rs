//! Files below a folder, and the keys that they have in a database: the path from the folder on,
//! its parts with slashes between. And which of them is the database itself.
//!
//! *Guarantees*: no two files have one key, no two keys one file, and no key leads out of the
//! folder: what would is refused. Where names of files are bytes (on Unix) every name is a key.
//! A file is known under each of its names; elsewhere than on Unix hard links are not seen through.

use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// What takes the key and the path of each file.
pub type Take<'a> = dyn FnMut(&[u8], &Path) -> Result<(), Box<dyn Error>> + 'a;

/// Shows every regular file below a folder to `take`.
///
/// # Errors
/// When a folder cannot be read or a name cannot be a key; and those of `take`.
pub fn each_below(folder: &Path, take: &mut Take<'_>) -> Result<(), Box<dyn Error>> {
    let mut waiting: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(next) = waiting.pop() {
        let at = |error| format!("{}: {error}", next.display());
        let entries = fs::read_dir(&next).map_err(at)?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(at)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Links are not followed: they may lead in a circle.
            let kind = entry.file_type().map_err(at)?;
            let path = entry.path();
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                take(&key_of(path.strip_prefix(folder)?)?, &path)?;
            }
        }
    }
    Ok(())
}

/// The bytes of all files below a folder; `None` when that cannot be told.
pub fn bytes_below(folder: &Path) -> Option<u64> {
    let mut bytes = 0;
    let counted = each_below(folder, &mut |_, path| {
        bytes += fs::metadata(path)?.len();
        Ok(())
    });
    counted.ok().map(|()| bytes)
}

/// The key of a path from the folder on.
///
/// # Errors
/// When a name is no text, where names are not bytes.
fn key_of(path: &Path) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    for part in path {
        if !key.is_empty() {
            key.push(b'/');
        }
        let name = bytes_of(part);
        key.extend_from_slice(name.ok_or_else(|| format!("the name {path:?} is no text"))?);
    }
    Ok(key)
}

/// The path of a key from the folder on; `None` when no file can have it.
pub fn path_of(key: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(name_of(key)?);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    // `a//b` would be the file of `a/b`.
    let is_its_own = key_of(&path).is_ok_and(|found| found == key);
    (is_inside && is_its_own && !key.is_empty() && !key.contains(&0)).then_some(path)
}

/// Whether two paths lead to one file, which need not be there.
#[cfg(unix)]
pub fn is_same(one: &Path, other: &Path) -> bool {
    identity(fs::metadata(one)).is_some_and(|found| Some(found) == identity(fs::metadata(other)))
}

#[cfg(not(unix))]
pub fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    real(one).is_some_and(|found| Some(found) == real(other))
}

/// Whether standard input or output is this file.
#[cfg(unix)]
pub fn is_stream_of(stream: &impl std::os::fd::AsFd, path: &Path) -> bool {
    let file = stream.as_fd().try_clone_to_owned().map(fs::File::from);
    let opened = identity(file.and_then(|file| file.metadata()));
    opened.is_some_and(|found| Some(found) == identity(fs::metadata(path)))
}

// Where the lock of an open database is not only advice, the system refuses it by itself.
#[cfg(not(unix))]
pub fn is_stream_of<T>(_stream: &T, _path: &Path) -> bool {
    false
}

/// What no other file has at the same time: its device, and its number there.
#[cfg(unix)]
fn identity(found: std::io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    found.ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

// Elsewhere not every name is bytes, nor are all bytes names.
#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)]
fn bytes_of(name: &OsStr) -> Option<&[u8]> {
    use std::os::unix::ffi::OsStrExt;
    Some(name.as_bytes())
}

#[cfg(not(unix))]
fn bytes_of(name: &OsStr) -> Option<&[u8]> {
    name.to_str().map(str::as_bytes)
}

#[cfg(unix)]
#[allow(clippy::unnecessary_wraps)]
fn name_of(bytes: &[u8]) -> Option<&OsStr> {
    use std::os::unix::ffi::OsStrExt;
    Some(OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn name_of(bytes: &[u8]) -> Option<&OsStr> {
    std::str::from_utf8(bytes).ok().map(OsStr::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_path_of_one_file_inside_the_folder_or_of_none() {
        for key in ["a", "a/b", " ", "a b/.c", "...", "grün"] {
            let path = path_of(key.as_bytes()).unwrap();
            assert_eq!(key_of(&path).unwrap(), key.as_bytes());
        }
        for key in ["", "/", "/a", "a/", "a//b", "./a", "a/.", "..", "a/../b", "a\0b"] {
            assert_eq!(path_of(key.as_bytes()), None, "{key:?}");
        }
        assert_eq!(path_of(b"a/\xff").is_some(), cfg!(unix));
    }

    #[test]
    fn a_file_is_the_same_under_each_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "content").unwrap();
        fs::write(path("other"), "content").unwrap();
        fs::create_dir(path("folder")).unwrap();
        assert!(is_same(&path("file"), &path("folder/../file")));
        assert!(!is_same(&path("file"), &path("other")));
        assert!(!is_same(&path("absent"), &path("absent")));
        #[cfg(unix)]
        {
            fs::hard_link(path("file"), path("hard")).unwrap();
            std::os::unix::fs::symlink(path("file"), path("soft")).unwrap();
            std::os::unix::fs::symlink(path("absent"), path("broken")).unwrap();
            for (name, is_it) in [("hard", true), ("soft", true), ("broken", false)] {
                assert_eq!(is_same(&path("file"), &path(name)), is_it, "{name}");
                assert_eq!(is_same(&path(name), &path("file")), is_it, "{name}");
            }
        }
    }

    #[test]
    fn the_bytes_of_a_folder_are_those_of_all_files_below_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::create_dir(folder.path().join("empty")).unwrap();
        for (name, length) in [("one", 100_000), ("a/two", 20), ("a/b/three", 3), ("a/none", 0)] {
            fs::write(folder.path().join(name), vec![0; length]).unwrap();
        }
        assert_eq!(bytes_below(folder.path()), Some(100_023));
        assert_eq!(bytes_below(&folder.path().join("absent")), None);
    }
}
