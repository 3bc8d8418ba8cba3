//! fjall: an LSM-tree in a folder of many files.
//!
//! *Buffered*: `PersistMode::Buffer` hands the journal's bytes to the system: they survive the
//! death of the process; a power cut loses what the system had not written. *Durable*:
//! `PersistMode::SyncData`, an `fdatasync` of the journal.
//!
//! *Memory*: fjall's budget is for cached blocks alone, and write buffers come on top. Its
//! documents recommend 8 to 64 MiB for one; here one that fills and one that is flushed are taken
//! off the budget. Filters and indexes that are not pinned live in the cache. All else is as it
//! comes: LZ4 from the third level down, filters of 10 bits and more.

use std::path::Path;
use std::thread;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::{Engine, Reader, Settings, Wish};
use crate::Outcome;
use crate::pairs::{Key, Value};

const WRITE_BUFFER_BYTES_MAX: u64 = 64 << 20;

pub struct Adapter {
    database: Database,
    keyspace: Keyspace,
    mode: PersistMode,
}

impl Adapter {
    pub fn open(dir: &Path, settings: Settings) -> Outcome<Adapter> {
        let write_buffer_bytes = (settings.memory_bytes / 4).min(WRITE_BUFFER_BYTES_MAX);
        let cache_bytes = settings.memory_bytes - 2 * write_buffer_bytes;
        let database = Database::builder(dir.join("fjall")).cache_size(cache_bytes).open()?;
        let keyspace = database.keyspace("pairs", || {
            KeyspaceCreateOptions::default().max_memtable_size(write_buffer_bytes)
        })?;
        let mode = match settings.wish {
            Wish::Buffered => PersistMode::Buffer,
            Wish::Durable => PersistMode::SyncData,
        };
        Ok(Adapter { database, keyspace, mode })
    }
}

impl Engine for Adapter {
    fn commit(&self, pairs: &[(Key, Value)]) -> Outcome<()> {
        let mut batch = self.database.batch().durability(Some(self.mode));
        for (key, value) in pairs {
            batch.insert(&self.keyspace, key.as_slice(), value.as_slice());
        }
        Ok(batch.commit()?)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    /// fjall has no call that waits: flushes and compactions count as done when none was seen for
    /// a while. What is in the write buffer stays there.
    fn settle(&self) -> Outcome<()> {
        let mut quiet_count = 0;
        while quiet_count < 10 {
            thread::sleep(Duration::from_millis(10));
            let busy =
                self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0;
            quiet_count = if busy { 0 } else { quiet_count + 1 };
        }
        Ok(())
    }

    fn reader(&self) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(View { snapshot: self.database.snapshot(), keyspace: &self.keyspace }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.sync()
    }
}

struct View<'a> {
    snapshot: Snapshot,
    keyspace: &'a Keyspace,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, seen: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let value = self.snapshot.get(self.keyspace, key)?;
        if let Some(value) = &value {
            seen(value);
        }
        Ok(value.is_some())
    }

    fn scan(&mut self, seen: &mut dyn FnMut(&[u8], &[u8])) -> Outcome<()> {
        for pair in self.snapshot.iter(self.keyspace) {
            let (key, value) = pair.into_inner()?;
            seen(&key, &value);
        }
        Ok(())
    }
}
