//! The first steps: open a database, write, read, scan, close.
//!
//! `cargo run -p sapwood --example quick_start`

use sapwood::{Database, Durability};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("garden.sapwood");

    // One file; it is made when there is none.
    let db = Database::open(path)?;

    // A keyspace is an ordered map of its own. Keys and values are bytes.
    let plants = db.keyspace("plants")?;
    plants.put("fern", "shade")?;
    plants.put("rose", "sun")?;
    if let Some(place) = plants.get("rose")? {
        println!("rose likes {}", text(&place));
    }

    // Writes to several keyspaces become visible, and durable, together.
    let places = db.keyspace("places")?;
    let mut batch = db.batch();
    batch.put(&plants, "moss", "shade")?;
    batch.put(&places, "shade", "north wall")?;
    batch.commit_with(Durability::Sync)?;

    // Ranges go both ways.
    for entry in plants.range("a".."s")?.rev() {
        let (name, place) = entry?;
        println!("{} likes {}", text(&name), text(&place));
    }

    db.close()?;
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
