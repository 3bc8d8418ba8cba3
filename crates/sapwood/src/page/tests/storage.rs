//! A file in memory that counts, and can be full.

use std::io;

use crate::storage::{Advice, Storage};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

#[derive(Debug)]
pub(crate) struct TestStorage {
    pub(crate) bytes: Mutex<Vec<u8>>,
    /// The file gets no longer than this.
    pub(crate) length_max: AtomicU64,
    pub(crate) longest_write: AtomicUsize,
    pub(crate) write_count: AtomicUsize,
    pub(crate) sync_write_count: AtomicUsize,
    /// So many writes succeed before all fail.
    pub(crate) writes_left: AtomicUsize,
    /// Called before each write, with its offset.
    pub(crate) before_write: Mutex<Option<Hook>>,
}

pub(crate) struct Hook(pub(crate) Box<dyn FnMut(u64) + Send>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl Default for TestStorage {
    fn default() -> TestStorage {
        TestStorage {
            bytes: Mutex::default(),
            length_max: AtomicU64::new(u64::MAX),
            longest_write: AtomicUsize::new(0),
            write_count: AtomicUsize::new(0),
            sync_write_count: AtomicUsize::new(0),
            writes_left: AtomicUsize::new(usize::MAX),
            before_write: Mutex::new(None),
        }
    }
}

impl TestStorage {
    pub(crate) fn flip_bit(&self, bit: u64) {
        self.bytes.lock()[(bit / 8) as usize] ^= 1 << (bit % 8);
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        if length > self.length_max.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.bytes.lock();
        let length = bytes.len().max(length as usize);
        bytes.resize(length, 0);
        Ok(())
    }
}

impl Storage for TestStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.lock();
        let part = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(hook) = self.before_write.lock().as_mut() {
            (hook.0)(offset);
        }
        if self.writes_left.load(Ordering::Relaxed) == 0 {
            return Err(io::Error::other("broken"));
        }
        self.writes_left.fetch_sub(1, Ordering::Relaxed);
        self.write_count.fetch_add(1, Ordering::Relaxed);
        self.longest_write.fetch_max(bytes.len(), Ordering::Relaxed);
        self.extend(offset + bytes.len() as u64)?;
        self.bytes.lock()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.sync_write_count.fetch_add(1, Ordering::Relaxed);
        self.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.extend(length)?;
        self.bytes.lock().truncate(length as usize);
        Ok(())
    }

    fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        self.extend(offset + length)
    }

    fn write_back(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn advise(&self, _offset: u64, _length: u64, _advice: Advice) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "test".into()
    }
}
