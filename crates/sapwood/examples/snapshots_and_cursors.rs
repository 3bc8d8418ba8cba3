//! One instant that stays, and a cursor that walks over it both ways.
//!
//! `cargo run -p sapwood --example snapshots_and_cursors`

use sapwood::{Cursor, Database, Seek};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::builder().open_in_memory()?;
    let trees = db.keyspace("trees")?;
    for (name, height) in [("ash", "35"), ("birch", "25"), ("elm", "40"), ("oak", "30")] {
        trees.put(name, height)?;
    }

    // A snapshot costs the same at any size, and sees no later commit.
    let before = db.snapshot()?;
    trees.delete("elm")?;
    trees.put("oak", "31")?;
    println!(
        "now: {} trees; in the snapshot: {}",
        trees.count("a"..)?,
        before.count(&trees, "a"..)?
    );

    // Iterators are snapshots of their own, and go from both ends.
    let mut all = before.iter(&trees)?;
    if let (Some(first), Some(last)) = (all.next(), all.next_back()) {
        println!("first {:?}, last {:?}", first?.0, last?.0);
    }

    // A cursor seeks, and goes on either way from there.
    let mut cursor = before.cursor(&trees)?;
    cursor.seek("cedar", Seek::AtOrAfter)?;
    show("at or after cedar", &cursor)?;
    cursor.prev()?;
    show("the one before", &cursor)?;
    cursor.seek("elm", Seek::Equal)?;
    show("elm, deleted since", &cursor)?;
    cursor.last()?;
    show("the last", &cursor)?;
    let more = cursor.next()?;
    println!("behind the last: {more}");

    // What a snapshot sees takes space in the file until it and its cursors are dropped.
    drop((before, all, cursor));
    db.close()?;
    Ok(())
}

fn show(what: &str, cursor: &Cursor) -> sapwood::Result<()> {
    let key = String::from_utf8_lossy(cursor.key().unwrap_or_default()).into_owned();
    println!("{what}: {key}, {:?} m", cursor.value()?);
    Ok(())
}
