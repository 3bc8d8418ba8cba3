//! What the process that is killed and the test that kills it agree on.

use std::fmt;

use sapwood::Durability;
use sapwood::sync::Random;

/// A commit that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The thread that made it.
    pub thread: u64,
    /// The key that it put.
    pub key: u64,
    /// What it asked for.
    pub durability: Durability,
}

impl Commit {
    /// Reads a line of the killed process; `None` when the line was cut off.
    #[must_use]
    pub fn parse(line: &str) -> Option<Commit> {
        let mut words = line.split(' ');
        let thread = words.next()?.parse().ok()?;
        let key = words.next()?.parse().ok()?;
        let durability = match words.next()? {
            "s" => Durability::Sync,
            "b" => Durability::Buffered,
            "m" => Durability::Memory,
            _ => return None,
        };
        words.next().is_none().then_some(Commit { thread, key, durability })
    }

    /// The number behind a key of a thread's keyspace.
    #[must_use]
    pub fn key_of(key: &[u8]) -> u64 {
        key.iter().fold(0, |number, &byte| (number << 8) | u64::from(byte))
    }

    /// The key of this commit in the keyspace that all threads use.
    #[must_use]
    pub fn common_key(&self) -> Vec<u8> {
        format!("{:08}/{}", self.key, self.thread).into_bytes()
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let durability = match self.durability {
            Durability::Sync => 's',
            Durability::Buffered => 'b',
            Durability::Memory => 'm',
        };
        write!(f, "{} {} {durability}", self.thread, self.key)
    }
}

/// The value that a thread puts for a key: now and then a large one.
#[must_use]
pub fn value_of(thread: u64, key: u64) -> Vec<u8> {
    let mut random = Random::from_seed((thread << 40) ^ key);
    let length = if random.one_in(50) { random.below(60_000) } else { random.below(200) };
    let mut value = vec![0; length as usize];
    random.fill(&mut value);
    value
}
