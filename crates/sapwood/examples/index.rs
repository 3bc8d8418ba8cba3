//! People by number, and an index by city that is never out of step: both change in one
//! transaction.
//!
//! `cargo run -p sapwood --example index`

use sapwood::{Database, Keyspace, Result, Transaction};

struct People {
    db: Database,
    by_number: Keyspace,
    /// Keys are the city, a zero byte, and the number; there are no values.
    by_city: Keyspace,
}

/// No city has a zero byte, so that "York" and "Yorkshire" do not mix.
fn city_key(city: &[u8], number: u32) -> Vec<u8> {
    [city, &[0], &number.to_be_bytes()[..]].concat()
}

impl People {
    /// Serializable, as `transact` is: the old city is read, and what is deleted depends on it. Two
    /// that move the same person at once would leave two places in the index otherwise.
    fn lives_in(&self, number: u32, city: &str) -> Result<()> {
        self.db.transact(|transaction| {
            self.forget_place(transaction, number)?;
            transaction.put(&self.by_number, number.to_be_bytes(), city)?;
            transaction.put(&self.by_city, city_key(city.as_bytes(), number), "")
        })
    }

    fn leaves(&self, number: u32) -> Result<()> {
        self.db.transact(|transaction| {
            self.forget_place(transaction, number)?;
            transaction.delete(&self.by_number, number.to_be_bytes())
        })
    }

    fn forget_place(&self, transaction: &mut Transaction, number: u32) -> Result<()> {
        match transaction.get(&self.by_number, number.to_be_bytes())? {
            Some(old) => transaction.delete(&self.by_city, city_key(&old, number)),
            None => Ok(()),
        }
    }

    /// Only keys are read: what is in the index is all that is asked for.
    fn of(&self, city: &str) -> Result<usize> {
        let prefix = [city.as_bytes(), &[0]].concat();
        let keys = self.by_city.prefix(prefix)?.keys();
        keys.map(|key| key.map(|_| 1)).sum()
    }
}

pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let builder = Database::builder().durability(sapwood::Durability::Buffered);
    let db = builder.open(folder.path().join("people.sapwood"))?;
    let (by_number, by_city) = (db.keyspace("people")?, db.keyspace("people by city")?);
    let people = People { db, by_number, by_city };

    let cities = ["York", "Yorkshire", "Leeds", "Hull"];
    for number in 0..400_u32 {
        people.lives_in(number, cities[number as usize % cities.len()])?;
    }
    for number in (0..400).step_by(8) {
        people.lives_in(number, "Leeds")?;
    }
    for number in (3..400).step_by(8) {
        people.leaves(number)?;
    }

    println!("{:<12} {:>6}", "city", "people");
    for city in cities {
        println!("{city:<12} {:>6}", people.of(city)?);
    }
    // In a snapshot both agree, whoever writes meanwhile.
    let snapshot = people.db.snapshot()?;
    let (all, indexed) = (
        snapshot.count::<&[u8]>(&people.by_number, ..)?,
        snapshot.count::<&[u8]>(&people.by_city, ..)?,
    );
    println!("{:<12} {all:>6}", "all");
    assert_eq!(all, indexed);
    people.db.close()?;
    Ok(())
}
