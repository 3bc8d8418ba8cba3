//! What every engine can do here, and which engines there are.
//!
//! To measure another engine, add a file with an adapter, a name and a line in [`open`].

use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::pairs::{Key, Value};

#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "sapwood")]
mod sapwood;

/// The durability that a workload asks of every commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Survives the death of the process; on disk about a second later.
    Buffered,
    /// On disk when the commit returns.
    Durable,
}

/// How a database is opened; it is created where it is absent.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Memory for everything that the engine lets itself be told.
    pub memory_bytes: u64,
    /// What the commits of this process will ask for.
    pub wish: Wish,
}

/// One open database with one keyspace, used from several threads.
pub trait Engine: Sync {
    /// Commits the pairs, whole or not at all, with the durability named at open.
    fn commit(&self, pairs: &[(Key, Value)]) -> Outcome<()>;
    /// Puts everything committed so far on disk.
    fn sync(&self) -> Outcome<()>;
    /// True when `Wish::Buffered` commits reach the disk within a second without calls of `sync`.
    fn syncs_by_itself(&self) -> bool {
        false
    }
    /// Waits until work that the engine has put off is done.
    fn settle(&self) -> Outcome<()> {
        Ok(())
    }
    /// A reader of one instant.
    fn reader(&self) -> Outcome<Box<dyn Reader + '_>>;
    /// Closes the database, and says what failed in doing so.
    fn close(self: Box<Self>) -> Outcome<()>;
}

/// Reads one instant of a database, in one thread.
pub trait Reader {
    /// Shows the value of `key` to `seen`; false when there is none.
    fn get(&mut self, key: &Key, seen: &mut dyn FnMut(&[u8])) -> Outcome<bool>;
    /// Shows every pair in the order of the keys.
    fn scan(&mut self, seen: &mut dyn FnMut(&[u8], &[u8])) -> Outcome<()>;
}

/// The engines, in the order of the report's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    Sapwood,
    Fjall,
    Redb,
    Lmdb,
}

impl Name {
    pub const fn text(self) -> &'static str {
        match self {
            Name::Sapwood => "sapwood",
            Name::Fjall => "fjall",
            Name::Redb => "redb",
            Name::Lmdb => "lmdb",
        }
    }
}

/// The engines that this build contains.
pub fn compiled() -> Vec<Name> {
    [
        (Name::Sapwood, cfg!(feature = "sapwood")),
        (Name::Fjall, cfg!(feature = "fjall")),
        (Name::Redb, cfg!(feature = "redb")),
        (Name::Lmdb, cfg!(feature = "lmdb")),
    ]
    .into_iter()
    .filter_map(|(name, there)| there.then_some(name))
    .collect()
}

/// Opens the database of an engine in the folder `dir`, which exists.
pub fn open(name: Name, dir: &Path, settings: Settings) -> Outcome<Box<dyn Engine>> {
    match name {
        #[cfg(feature = "sapwood")]
        Name::Sapwood => Ok(Box::new(sapwood::Adapter::open(dir, settings)?)),
        #[cfg(feature = "fjall")]
        Name::Fjall => Ok(Box::new(fjall::Adapter::open(dir, settings)?)),
        #[cfg(feature = "redb")]
        Name::Redb => Ok(Box::new(redb::Adapter::open(dir, settings)?)),
        #[cfg(feature = "lmdb")]
        Name::Lmdb => Ok(Box::new(lmdb::Adapter::open(dir, settings)?)),
        #[allow(unreachable_patterns, reason = "reached when a feature is off")]
        other => Err(format!("{} is not compiled in", other.text()).into()),
    }
}
