//! Handles used in wrong ways: after the close, from inside callbacks, by callbacks that panic,
//! with ranges turned round and options out of range. Each is an error with a text, and the
//! database is sound afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "misuse_handles/callbacks.rs"]
mod callbacks;
#[path = "misuse_handles/closed.rs"]
mod closed;
#[path = "misuse_handles/limits.rs"]
mod limits;
#[path = "misuse_handles/ranges.rs"]
mod ranges;

use crash_lsm::access;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::Arc;
use sapwood::{Database, Durability, Error, Keyspace};

/// A database in memory that can be opened again.
struct Bed {
    storage: Arc<MemoryStorage>,
}

impl Bed {
    fn new() -> (Bed, Database, Keyspace) {
        let bed = Bed { storage: Arc::new(MemoryStorage::new()) };
        let database = bed.open();
        let keyspace = database.keyspace("a").unwrap();
        // Some in segments, and changes of the same keys in memory.
        for step in [1, 7] {
            for number in (0..300).step_by(step) {
                keyspace.put(format!("{number:03}"), vec![b'v'; 100]).unwrap();
            }
            if step == 1 {
                database.flush().unwrap();
            }
        }
        keyspace.put("large", vec![b'v'; 100_000]).unwrap();
        (bed, database, keyspace)
    }

    fn open(&self) -> Database {
        let setup = Setup { durability: Durability::Buffered, ..Setup::tiny() };
        setup.open_on(self.storage.clone()).unwrap()
    }

    /// Everything that [`Bed::new`] has put is there and sound, after a close too.
    fn check(&self, database: Database) {
        check_content(&database);
        assert_eq!(access::verify(&database).unwrap(), None);
        // Nothing waits for what a callback left behind.
        database.wait_until_idle().unwrap();
        database.close().unwrap();
        self.check_closed();
    }

    /// The same when it was closed.
    fn check_closed(&self) {
        let database = self.open();
        check_content(&database);
        assert_eq!(access::verify(&database).unwrap(), None);
        database.close().unwrap();
    }
}

fn check_content(database: &Database) {
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.count("000"..="299").unwrap(), 300);
    assert_eq!(keyspace.get("large").unwrap().unwrap().len(), 100_000);
}

fn assert_closed(what: &str, error: &Error) {
    assert!(matches!(error, Error::Closed), "{what}: {error:?}");
    assert_eq!(error.to_string(), "the database is closed", "{what}");
}
