//! LMDB, through heed: a copy-on-write B-tree in a mapped file.
//!
//! *Buffered*: `MDB_NOSYNC` without `MDB_WRITEMAP`. Every commit is written to the system, so it
//! survives the death of the process. After a power cut the last commits are lost and, where the
//! file system reorders writes, the database may be damaged: a larger loss than the others risk,
//! but the next level up (`MDB_NOMETASYNC`) syncs the data of every commit, which the others do
//! not. *Durable*: no flag, so that data and then the meta page are synced.
//!
//! *Memory*: LMDB has no cache of its own: the system's page cache holds the file, however large,
//! so no budget limits it. No compression, and no checksums.

#![allow(unsafe_code)]

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, RoTxn, WithoutTls};

use super::{Engine, Reader, Settings, Wish};
use crate::Outcome;
use crate::pairs::{Key, Value};

/// Address space only; the file grows as it is written.
const MAP_BYTES: u64 = 64 << 30;

type Pairs<'a> = Database<'a, Bytes, Bytes>;

pub struct Adapter {
    env: Env<WithoutTls>,
    pairs: Pairs<'static>,
}

impl Adapter {
    pub fn open(dir: &Path, settings: Settings) -> Outcome<Adapter> {
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(usize::try_from(MAP_BYTES)?);
        if settings.wish == Wish::Buffered {
            // SAFETY: the flag gives up order on disk, not memory safety: without `WRITE_MAP` the
            // map is read-only, and the folder is new and this comparison's own, so that a file
            // damaged by an earlier power cut is never opened.
            unsafe { options.flags(EnvFlags::NO_SYNC) };
        }
        // SAFETY: the folder belongs to this process alone while it is open, and no other code in
        // it opens or changes the file: what the map shows changes only through LMDB.
        let env = unsafe { options.open(dir)? };
        let pairs = env
            .create_databases_and_commit(env.write_txn()?, |opener, transaction| {
                opener
                    .create_database(transaction, None)
                    .map(CommitOrAbort::<Pairs<'_>, ()>::Commit)
            })?
            .commit()
            .ok_or("the database was not created")?;
        Ok(Adapter { env, pairs })
    }
}

impl Engine for Adapter {
    fn commit(&self, pairs: &[(Key, Value)]) -> Outcome<()> {
        let mut transaction = self.env.write_txn()?;
        for (key, value) in pairs {
            self.pairs.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn sync(&self) -> Outcome<()> {
        Ok(self.env.force_sync()?)
    }

    fn reader(&self) -> Outcome<Box<dyn Reader + '_>> {
        Ok(Box::new(View { transaction: self.env.read_txn()?, pairs: self.pairs }))
    }

    fn close(self: Box<Self>) -> Outcome<()> {
        self.sync()?;
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct View<'a> {
    transaction: RoTxn<'a, WithoutTls>,
    pairs: Pairs<'static>,
}

impl Reader for View<'_> {
    fn get(&mut self, key: &Key, seen: &mut dyn FnMut(&[u8])) -> Outcome<bool> {
        let value = self.pairs.get(&self.transaction, key)?;
        if let Some(value) = value {
            seen(value);
        }
        Ok(value.is_some())
    }

    fn scan(&mut self, seen: &mut dyn FnMut(&[u8], &[u8])) -> Outcome<()> {
        for pair in self.pairs.iter(&self.transaction)? {
            let (key, value) = pair?;
            seen(key, value);
        }
        Ok(())
    }
}
