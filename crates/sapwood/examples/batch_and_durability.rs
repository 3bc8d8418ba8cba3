//! What a commit costs: one by one or in batches, on disk at once or a moment later.
//!
//! `cargo run --release -p sapwood --example batch_and_durability`

// An example measures time; the library asks its own clock.
#![allow(clippy::disallowed_methods)]

use std::time::Instant;

use sapwood::{Database, Durability};

const COMMITS: u32 = 100;
const EVENTS_PER_COMMIT: u32 = 100;

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let db = Database::open(folder.path().join("events.sapwood"))?;
    let events = db.keyspace("events")?;
    let totals = db.keyspace("totals")?;

    let mut number: u32 = 0;
    for durability in [Durability::Sync, Durability::Buffered, Durability::Memory] {
        let began = Instant::now();
        for _ in 0..COMMITS {
            // The events and their total are there together, or not at all.
            let mut batch = db.batch();
            for _ in 0..EVENTS_PER_COMMIT {
                // Big-endian numbers order as the numbers do.
                batch.put(&events, number.to_be_bytes(), format!("event {number}"))?;
                number += 1;
            }
            batch.put(&totals, "events", number.to_string())?;
            batch.commit_with(durability)?;
        }
        let each = began.elapsed() / COMMITS;
        println!("{durability:?}: {EVENTS_PER_COMMIT} events a commit, {each:?} each");
    }

    // The commits above keep one order: this takes all of them to the disk.
    db.sync()?;

    // A single put is a commit of one, with the durability that the database was opened with.
    let began = Instant::now();
    events.put(number.to_be_bytes(), "the last event")?;
    println!("one more event alone, on disk: {:?}", began.elapsed());

    println!("{} events in all", events.iter()?.count());
    db.close()?;
    Ok(())
}
