//! What comes of a transaction beside every kind of change that another commit can make: each cell
//! of one table, which `docs/transactions.md` shows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

#[path = "outcomes/table.rs"]
mod table;

use crash_lsm::access;
use crash_lsm::fixtures::run_all_steps;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::Arc;
use sapwood::{Database, Error, Isolation, Keyspace, Result, Transaction, Value};
use table::{ABSENT, CHANGES, Cell, Change, DROPPED, MINE, OLD, THEIRS, Use, cells, markdown};

const BOTH: [Isolation; 2] = [Isolation::Snapshot, Isolation::Serializable];

/// So much a transaction of these tests keeps in memory.
const TRANSACTION_BYTES: u64 = 1 << 10;

/// What happens between the other's commit and that of the transaction.
const SETTLEMENTS: [&str; 3] = ["nothing", "a flush", "a flush and a promotion"];

/// What a cell must not depend on.
#[derive(Clone, Copy, Debug)]
struct Circumstances {
    /// Where the keys lie at first: in memory, or in the last level.
    merged_before: bool,
    /// Of [`SETTLEMENTS`].
    settlement: usize,
    /// Whether the transaction itself is large: it has spilled, and commits by reference.
    large: bool,
    /// Whether it used the key before the other commit came, or after it.
    used_first: bool,
}

fn all_circumstances() -> Vec<Circumstances> {
    let mut all = Vec::new();
    for settlement in 0..SETTLEMENTS.len() {
        for bits in 0..8 {
            let [merged_before, large, used_first] = [1, 2, 4].map(|bit| bits & bit != 0);
            all.push(Circumstances { merged_before, settlement, large, used_first });
        }
    }
    all
}

struct Scene {
    storage: Arc<MemoryStorage>,
    database: Database,
    /// The keyspace of the key, and one beside it.
    keyspace: Keyspace,
    other: Keyspace,
    /// The key that both use.
    key: &'static str,
}

fn open(storage: &Arc<MemoryStorage>) -> Database {
    let builder = Setup::tiny().builder().transaction_bytes(TRANSACTION_BYTES);
    builder.open_on(storage.clone()).unwrap()
}

fn settle(database: &Database, settlement: usize) {
    if settlement > 0 {
        database.flush().unwrap();
    }
    if settlement > 1 {
        database.compact().unwrap();
        run_all_steps(database).unwrap();
    }
}

/// More than a transaction keeps in memory, away from every other key.
fn fill(transaction: &mut Transaction, keyspace: &Keyspace, prefix: &str) {
    for number in 0..30 {
        transaction.put(keyspace, format!("{prefix}{number}"), [b'v'; 50]).unwrap();
    }
    assert!(!format!("{transaction:?}").contains("pending_segments: 0"), "{transaction:?}");
}

fn text(value: Option<Value>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(&value).into_owned())
}

impl Scene {
    fn new(cell: Cell, circumstances: Circumstances) -> Scene {
        let storage = Arc::new(MemoryStorage::new());
        let database = open(&storage);
        let (keyspace, other) =
            (database.keyspace("a").unwrap(), database.keyspace("other").unwrap());
        for key in ["j", "k", "l"] {
            keyspace.put(key, OLD).unwrap();
        }
        settle(&database, if circumstances.merged_before { 2 } else { 0 });
        let key = if cell.used.is_of_present_key() { "k" } else { "q" };
        Scene { storage, database, keyspace, other, key }
    }

    /// What the transaction does with the key. What it reads is as it was when it began.
    fn use_key(&self, used: Use, transaction: &mut Transaction) -> Result<()> {
        let (keyspace, key) = (&self.keyspace, self.key);
        let range = |transaction: &Transaction, from: &str, to: &str| {
            transaction.range(keyspace, from..to).unwrap().map(|pair| pair.unwrap().0).collect()
        };
        match used {
            Use::ReadPresent => {
                assert_eq!(text(transaction.get(keyspace, key)?).as_deref(), Some(OLD));
            }
            Use::ReadAbsent => assert_eq!(transaction.get(keyspace, key)?, None),
            Use::ReadRange => {
                let keys: Vec<_> = range(transaction, "jj", "l");
                assert_eq!(keys, ["k"]);
            }
            Use::ReadEmptyRange => {
                let keys: Vec<_> = range(transaction, "p", "r");
                assert!(keys.is_empty(), "{keys:?}");
            }
            Use::Wrote => transaction.put(keyspace, key, MINE)?,
            Use::Deleted => transaction.delete(keyspace, key)?,
            Use::DeletedRange => transaction.delete_range(keyspace, "jj".."l")?,
            Use::Created => {
                assert!(!transaction.contains(keyspace, key)?);
                transaction.put(keyspace, key, MINE)?;
            }
            Use::UsedOthers => {
                assert_eq!(text(transaction.get(keyspace, "j")?).as_deref(), Some(OLD));
                transaction.put(keyspace, "z", MINE)?;
            }
        }
        Ok(())
    }

    /// Commits the change beside the transaction.
    fn change(&self, change: Change) {
        let (keyspace, key) = (&self.keyspace, self.key);
        let end = format!("{key}~");
        let large = |write: &dyn Fn(&mut Transaction)| {
            let mut transaction = self.database.begin(Isolation::Snapshot).unwrap();
            write(&mut transaction);
            fill(&mut transaction, keyspace, "x");
            transaction.commit().unwrap();
        };
        match change {
            Change::Put => keyspace.put(key, THEIRS).unwrap(),
            Change::Delete => keyspace.delete(key).unwrap(),
            Change::DeleteRange => keyspace.delete_range(key..&*end).unwrap(),
            Change::LargePut => large(&|t| t.put(keyspace, key, THEIRS).unwrap()),
            Change::LargeDelete => large(&|t| t.delete(keyspace, key).unwrap()),
            Change::LargeDeleteRange => {
                large(&|t| t.delete_range(keyspace, key..&*end).unwrap());
            }
            Change::Dropped => self.database.drop_keyspace("a").unwrap(),
            Change::Renamed => self.database.rename_keyspace("a", "b").unwrap(),
        }
    }

    /// What is there, before and after a close.
    fn check(self, cell: Cell, committed: bool) {
        let name = if cell.change == Change::Renamed { "b" } else { "a" };
        let Scene { storage, database, key, .. } = self;
        let check = |database: &Database| {
            let after = match database.existing_keyspace(name) {
                Ok(keyspace) => text(keyspace.get(key).unwrap()).unwrap_or(ABSENT.to_owned()),
                Err(Error::UnknownKeyspace(_)) => DROPPED.to_owned(),
                Err(error) => panic!("{error}"),
            };
            assert_eq!(after, cell.after());
            let mark = database.existing_keyspace("other").unwrap().get("mark").unwrap();
            assert_eq!(mark.is_some(), committed, "a transaction is there whole or not at all");
            assert_eq!(access::verify(database).unwrap(), None);
        };
        check(&database);
        database.close().unwrap();
        check(&open(&storage));
    }
}

fn run(cell: Cell, circumstances: Circumstances) {
    let scene = Scene::new(cell, circumstances);
    let mut transaction = scene.database.begin(cell.isolation).unwrap();
    // One that writes nothing never conflicts: this is what makes it a writing one, and shows
    // whether it has committed.
    transaction.put(&scene.other, "mark", MINE).unwrap();
    if circumstances.large {
        fill(&mut transaction, &scene.other, "filler");
    }
    if circumstances.used_first {
        scene.use_key(cell.used, &mut transaction).unwrap();
    }
    scene.change(cell.change);
    settle(&scene.database, circumstances.settlement);
    if !circumstances.used_first {
        let used = scene.use_key(cell.used, &mut transaction);
        if cell.change == Change::Dropped && cell.used.writes_there() {
            // Nothing is left to write to, and the write says so.
            assert!(matches!(used, Err(Error::KeyspaceDropped(_))), "{used:?}");
            return;
        }
        used.unwrap();
    }
    let committed = match transaction.commit() {
        Ok(()) => true,
        Err(Error::Conflict) => false,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(!committed, cell.conflicts, "a conflict, and whether there should be one");
    scene.check(cell, committed);
}

/// Runs every cell of an isolation under all circumstances, and names all that are not as declared.
fn run_table(isolation: Isolation) {
    let mut findings = Vec::new();
    for cell in cells(isolation) {
        for circumstances in all_circumstances() {
            let result = std::panic::catch_unwind(|| run(cell, circumstances));
            if result.is_err() {
                let settlement = SETTLEMENTS[circumstances.settlement];
                findings.push(format!("{cell:?} {circumstances:?}: {settlement}"));
            }
        }
    }
    assert!(findings.is_empty(), "{} of them:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn under_snapshot_isolation_each_cell_is_as_declared() {
    run_table(Isolation::Snapshot);
}

#[test]
fn serializable_each_cell_is_as_declared() {
    run_table(Isolation::Serializable);
}

#[test]
fn what_is_declared_is_what_is_promised() {
    for isolation in BOTH {
        let cells = cells(isolation);
        assert_eq!(cells.len(), 9 * CHANGES.len());
        for cell in cells {
            assert_eq!(cell.conflicts, cell.promised(), "{cell:?}");
        }
    }
}

/// With `OUTCOMES=write` in the environment it first writes the tables into the document.
#[test]
fn the_document_shows_the_tables_as_declared() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/transactions.md");
    let mut document = std::fs::read_to_string(path).unwrap();
    if std::env::var("OUTCOMES").is_ok_and(|value| value == "write") {
        for isolation in BOTH {
            let (begin, end) = place_in(&document, isolation);
            document.replace_range(begin..end, &markdown(isolation));
        }
        std::fs::write(path, &document).unwrap();
    }
    for isolation in BOTH {
        let (begin, end) = place_in(&document, isolation);
        assert_eq!(document[begin..end], markdown(isolation), "OUTCOMES=write writes it anew");
    }
}

/// Where the table of an isolation stands.
fn place_in(document: &str, isolation: Isolation) -> (usize, usize) {
    let mark = |what| format!("<!-- outcomes under {isolation:?}: {what} -->\n");
    let (begin, end) = (mark("begin"), mark("end"));
    (document.find(&begin).unwrap() + begin.len(), document.find(&end).unwrap())
}
