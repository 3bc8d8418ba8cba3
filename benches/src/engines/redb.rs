//! redb: a copy-on-write B-tree in one file.
//!
//! *Buffered*: redb knows only `Durability::None`, which keeps a commit in memory until the next
//! immediate one: the death of the process loses it too. So redb is asked for less than the others
//! here, and its figures for buffered loads are too good by what a write of each commit would cost.
//! *Durable*: `Durability::Immediate`, in one phase with checksums, the default: one `fdatasync` a
//! commit.
//!
//! *Memory*: `set_cache_size` covers pages read and pages not yet written. No compression.

use std::path::Path;

use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Engine, Reader, Settings, Wish};
use crate::Outcome;
use crate::pairs::{Key, Value};

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pairs");

pub struct Adapter {
    database: Database,
    durability: Durability,
}

impl Adapter {
    pub fn open(dir: &Path, settings: Settings) -> Outcome<Adapter> {
        let database = Database::builder()
            .set_cache_size(usize::try_from(settings.memory_bytes)?)
            .create(dir.join("pairs.redb"))?;
        let durability = match settings.wish {
            Wish::Buffered => Durability::None,
            Wish::Durable => Durability::Immediate,
        };
        let adapter = Adapter { database, durability };
        // Readers need the table to be there.
        adapter.commit_as(Durability::Immediate, &[])?;
        Ok(adapter)
    }

    fn commit_as(&self, durability: Durability, pairs: &[(Key, Value)]) -> Outcome<()> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut table = transaction.open_table(PAIRS)?;
            for (key, value) in pairs {
                table.insert(key.as_slice(), value.as_slice())?;
            }
        }
        Ok(transaction.commit()?)
    }
}

impl Engine for Adapter {
    fn commit(&self, pairs: &[(Key, Value)]) -> Outcome<()> {
        self.commit_as(self.durability, pairs)
    }

    fn sync(&self) -> Outcome<()> {
        self.commit_as(Durability::Immediate, &[])
    }

    fn reader(&self) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(View { table: self.database.begin_read()?.open_table(PAIRS)? }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.sync()
    }
}

struct View {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Reader for View {
    fn get(&mut self, key: &Key, seen: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let value = self.table.get(key.as_slice())?;
        if let Some(value) = &value {
            seen(value.value());
        }
        Ok(value.is_some())
    }

    fn scan(&mut self, seen: &mut dyn FnMut(&[u8], &[u8])) -> Outcome<()> {
        for pair in self.table.iter()? {
            let (key, value) = pair?;
            seen(key.value(), value.value());
        }
        Ok(())
    }
}
