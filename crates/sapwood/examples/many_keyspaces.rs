//! A thousand keyspaces, as for a thousand documents: each can be dropped at once, and one commit
//! may write to any of them.
//!
//! `cargo run -p sapwood --example many_keyspaces`

// An example measures time; the library asks its own clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use sapwood::{Database, Durability, Keyspace, Result};

const KEYSPACES: usize = 1000;
const ENTRIES: usize = 20;

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("documents.sapwood");
    // To make a keyspace is a commit. A thousand that each wait for the disk take seconds; these
    // wait for the one sync below.
    let builder = Database::builder().durability(Durability::Memory);
    let db = builder.clone().open(&path)?;
    let begin = Instant::now();
    let documents: Vec<Keyspace> = (0..KEYSPACES)
        .map(|number| db.keyspace(&format!("document {number:04}")))
        .collect::<Result<_>>()?;
    db.sync()?;
    show("made", documents.len(), begin);

    // A batch may write to all of them: it is visible, and on disk, whole.
    let begin = Instant::now();
    for entry in 0..ENTRIES {
        let mut batch = db.batch();
        for document in &documents {
            batch.put(document, format!("line {entry:02}"), "All work and no play")?;
        }
        batch.commit()?;
    }
    db.sync()?;
    show("entries written", KEYSPACES * ENTRIES, begin);

    // The list of keyspaces is read at the open; their entries are not.
    db.close()?;
    let begin = Instant::now();
    let db = builder.open(&path)?;
    show("there after a reopen", db.keyspaces()?.len(), begin);

    // A dropped keyspace takes no time for its entries; who still reads it in a snapshot goes on.
    let snapshot = db.snapshot()?;
    let kept = db.keyspace("document 0500")?;
    let begin = Instant::now();
    for name in db.keyspaces()?.iter().skip(KEYSPACES / 2) {
        db.drop_keyspace(name)?;
    }
    show("dropped", KEYSPACES / 2, begin);
    println!("{:<24} {:>8}", "in the snapshot", snapshot.count::<&[u8]>(&kept, ..)?);
    assert!(kept.get("line 00").is_err());
    drop(snapshot);

    let begin = Instant::now();
    db.wait_until_idle()?;
    show("left", db.keyspaces()?.len(), begin);
    let stats = db.stats()?;
    println!("{:<24} {:>8} KiB", "in use", (stats.file_bytes - stats.free_bytes) >> 10);
    db.close()?;
    Ok(())
}

fn show(what: &str, count: usize, begin: Instant) {
    println!("{what:<24} {count:>8} {:>9.1} ms", begin.elapsed().as_secs_f64() * 1e3);
}
