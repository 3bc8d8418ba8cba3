//! Many databases in one process, with the options that `docs/limits.md` names for it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sapwood::{Database, Durability, Keyspace};

const COUNT: u32 = 200;
/// What each may have in memory for pairs that are few, by its own count.
const MEMORY_BYTES_MAX: u64 = 256 << 10;
/// The file of an empty database, with its log and its reserve.
const FILE_BYTES_MAX: u64 = 3 << 20;

/// Threads of this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[cfg(not(target_os = "linux"))]
fn threads() -> usize {
    0
}

fn check(keyspace: &Keyspace, database: u32, keys: u32) {
    let found: Vec<_> = keyspace.iter().unwrap().map(Result::unwrap).collect();
    assert_eq!(found.len(), keys as usize, "database {database}");
    for (number, (key, value)) in (0..keys).zip(found) {
        assert_eq!(*key, number.to_be_bytes());
        assert_eq!(*value, *format!("{number} of {database}").as_bytes());
    }
}

#[test]
fn two_hundred_databases_in_one_process_are_small_and_each_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u32| folder.path().join(format!("{number}.db"));
    let file_bytes = |number| std::fs::metadata(path(number)).unwrap().len();
    let open = |number| {
        let builder = Database::builder().memory_budget(4 << 20).merge_threads(0);
        let database = builder.durability(Durability::Buffered).open(path(number)).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        (database, keyspace)
    };
    let before = threads();
    let databases: Vec<_> = (0..COUNT).map(open).collect();
    assert_eq!(threads(), before, "nobody asked for threads");
    for (number, bytes) in (0..COUNT).map(|number| (number, file_bytes(number))) {
        assert!(bytes < FILE_BYTES_MAX, "database {number} is empty and takes {bytes} bytes");
    }
    for key in 0..20_u32 {
        for (number, (_, keyspace)) in (0..).zip(&databases) {
            keyspace.put(key.to_be_bytes(), format!("{key} of {number}")).unwrap();
        }
    }
    for (number, (database, keyspace)) in (0..).zip(&databases) {
        check(keyspace, number, 20);
        while database.run_step().unwrap() {}
        let used = database.core().unwrap().pages.budget().used();
        assert!(used < MEMORY_BYTES_MAX, "database {number} has {used} bytes in memory");
    }
    // Half of them are closed, and the others go on.
    for (number, (database, keyspace)) in (0..).zip(databases) {
        if number % 2 == 0 {
            drop(keyspace);
            database.close().unwrap();
        } else {
            keyspace.put(20_u32.to_be_bytes(), format!("20 of {number}")).unwrap();
        }
    }
    for number in 0..COUNT {
        let (database, keyspace) = open(number);
        check(&keyspace, number, 20 + number % 2);
        drop(keyspace);
        database.close().unwrap();
        let bytes = file_bytes(number);
        assert!(bytes < FILE_BYTES_MAX, "database {number} takes {bytes} bytes");
    }
}
