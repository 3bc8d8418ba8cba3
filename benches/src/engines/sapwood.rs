//! Sapwood: this project.
//!
//! *Buffered*: `Durability::Buffered` hands the log's bytes to the system before the commit returns
//! and syncs them within a second: a power cut loses that second. *Durable*: `Durability::Sync`.
//!
//! *Memory*: one budget for everything. Compression as it comes: zstd in the last level.

use std::path::Path;

use sapwood::{Batch, Database, Durability, Keyspace, Snapshot};

use super::{Engine, Reader, Settings, Wish};
use crate::Outcome;
use crate::pairs::{Key, Value};

pub struct Adapter {
    database: Database,
    keyspace: Keyspace,
    durability: Durability,
}

impl Adapter {
    pub fn open(dir: &Path, settings: Settings) -> Outcome<Adapter> {
        let database = Database::builder()
            .memory_budget(settings.memory_bytes)
            .open(dir.join("pairs.sapwood"))?;
        let keyspace = database.keyspace("pairs")?;
        let durability = match settings.wish {
            Wish::Buffered => Durability::Buffered,
            Wish::Durable => Durability::Sync,
        };
        Ok(Adapter { database, keyspace, durability })
    }
}

impl Engine for Adapter {
    fn commit(&self, pairs: &[(Key, Value)]) -> Outcome<()> {
        let mut batch: Batch = self.database.batch();
        for (key, value) in pairs {
            batch.put(&self.keyspace, key, value)?;
        }
        Ok(batch.commit_with(self.durability)?)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.database.sync()?)
    }

    fn syncs_by_itself(&self) -> bool {
        true
    }

    fn settle(&self) -> Outcome<()> {
        Ok(self.database.wait_until_idle()?)
    }

    fn reader(&self) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(View { snapshot: self.database.snapshot()?, keyspace: &self.keyspace }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        Ok(self.database.close()?)
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
        for pair in self.snapshot.iter(self.keyspace)? {
            let (key, value) = pair?;
            seen(&key, &value);
        }
        Ok(())
    }
}
