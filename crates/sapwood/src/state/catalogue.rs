//! The keyspaces as of one moment: numbers, names, options.
//!
//! *Guarantees*: numbers and names are unique; a number is never used again.

use std::collections::BTreeMap;

use crate::page::counted::in_map;
use crate::page::{ALLOCATION_BYTES, Codec, Counted, MemoryBudget, MemoryPart};
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// The options of one keyspace that the file keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceSettings {
    /// How the leaves of its levels are stored.
    pub codec: Codec,
    /// How the chunks of its overflow values are stored.
    pub value_codec: Codec,
    /// Filter bits for each key; 0: no filters.
    pub filter_bits: u8,
}

impl Default for KeyspaceSettings {
    fn default() -> KeyspaceSettings {
        KeyspaceSettings {
            codec: Codec::default_for_levels(),
            value_codec: Codec::default_for_levels(),
            filter_bits: 10,
        }
    }
}

/// What is known of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceEntry {
    /// Its name; empty once it is dropped.
    pub name: String,
    /// Its options.
    pub settings: KeyspaceSettings,
    /// Dropped, but its segments are not all gone.
    pub dropped: bool,
}

/// All keyspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalogue {
    entries: BTreeMap<KeyspaceNumber, KeyspaceEntry>,
    /// What it takes in memory, from when somebody keeps it.
    counted: Counted,
}

/// A change of the catalogue, as a commit makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogueChange {
    /// A new keyspace.
    Create(KeyspaceNumber, String, KeyspaceSettings),
    /// A keyspace goes, with all that it holds.
    Drop(KeyspaceNumber),
    /// A keyspace gets another name.
    Rename(KeyspaceNumber, String),
}

impl Catalogue {
    /// All keyspaces by number, dropped ones included.
    pub fn iter(&self) -> impl Iterator<Item = (KeyspaceNumber, &KeyspaceEntry)> {
        self.entries.iter().map(|(number, entry)| (*number, entry))
    }

    /// Counts what it takes in memory for a part of the budget, unless it is counted; returns it.
    pub fn count_for(&self, budget: &Arc<MemoryBudget>, part: MemoryPart) -> u64 {
        self.counted.count(budget, part, |()| {
            let names = self.entries.values().map(|entry| entry.name.len() + ALLOCATION_BYTES);
            let entry = size_of::<(KeyspaceNumber, KeyspaceEntry)>();
            size_of::<Catalogue>() + names.sum::<usize>() + in_map(self.entries.len(), entry)
        })
    }

    /// How many there are, dropped ones included.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The keyspace of that number.
    pub fn get(&self, number: KeyspaceNumber) -> Option<&KeyspaceEntry> {
        self.entries.get(&number)
    }

    /// The living keyspace of that name.
    pub fn find(&self, name: &str) -> Option<(KeyspaceNumber, &KeyspaceEntry)> {
        self.iter().find(|(_, entry)| !entry.dropped && entry.name == name)
    }

    /// The settings of a keyspace; the defaults for one that is gone.
    pub fn settings(&self, number: KeyspaceNumber) -> KeyspaceSettings {
        self.get(number).map(|entry| entry.settings).unwrap_or_default()
    }

    /// Adds an entry as it was read from the file.
    pub fn insert(&mut self, number: KeyspaceNumber, entry: KeyspaceEntry) {
        self.entries.insert(number, entry);
    }

    /// The living ones.
    pub fn live(&self) -> Catalogue {
        let live = self.iter().filter(|(_, entry)| !entry.dropped);
        let entries = live.map(|(number, entry)| (number, entry.clone())).collect();
        Catalogue { entries, counted: Counted::default() }
    }

    /// Forgets a dropped keyspace of which nothing is left.
    pub fn remove(&mut self, number: KeyspaceNumber) {
        self.entries.remove(&number);
    }

    /// Makes a change. Changes of numbers that are not there do nothing: replay may meet them
    /// again.
    pub fn apply(&mut self, change: &CatalogueChange) {
        match change {
            CatalogueChange::Create(number, name, settings) => {
                let entry =
                    KeyspaceEntry { name: name.clone(), settings: *settings, dropped: false };
                self.entries.insert(*number, entry);
            }
            CatalogueChange::Drop(number) => {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.dropped = true;
                    entry.name.clear();
                }
            }
            CatalogueChange::Rename(number, name) => {
                if let Some(entry) = self.entries.get_mut(number)
                    && !entry.dropped
                {
                    entry.name.clone_from(name);
                }
            }
        }
    }
}
