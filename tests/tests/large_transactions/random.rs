//! Random transactions beside a model, across spills, savepoints, commits and opens.

use std::ops::Bound;

use sapwood::sync::Random;
use sapwood::{Error, Isolation, Keyspace, Result, Savepoint, Transaction};

use crash_lsm::fixtures::run_all_steps;

use crate::{Map, assert_clean, contents, difference, made, open};

/// A transaction with its own model of each keyspace.
struct Life {
    random: Random,
    keyspaces: Vec<Keyspace>,
    maps: Vec<Map>,
    /// Savepoints with what was there then.
    savepoints: Vec<(Savepoint, Vec<Map>)>,
    /// Iterators that were opened at some time, with what they must give.
    kept: Vec<(sapwood::Range, Map)>,
}

impl Life {
    fn key(&mut self) -> Vec<u8> {
        format!("{:04}", self.random.below(400)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.random.below(60) {
            0 => 70_000,
            1 | 2 => 3000,
            _ => self.random.below(80) as usize,
        };
        let mut value = vec![0; length];
        self.random.fill(&mut value);
        value
    }

    fn write(&mut self, transaction: &mut Transaction) {
        let index = self.random.below(self.keyspaces.len() as u64) as usize;
        let keyspace = self.keyspaces[index].clone();
        match self.random.below(40) {
            0..=27 => {
                let (key, value) = (self.key(), self.value());
                transaction.put(&keyspace, &key, &value).unwrap();
                self.maps[index].insert(key, value);
            }
            28..=36 => {
                let key = self.key();
                transaction.delete(&keyspace, &key).unwrap();
                self.maps[index].remove(&key);
            }
            _ => {
                let (mut start, mut end) = (self.key(), self.key());
                if start > end {
                    std::mem::swap(&mut start, &mut end);
                }
                if !self.random.one_in(4) {
                    end = format!("{}~", String::from_utf8_lossy(&start)).into_bytes();
                }
                transaction.delete_range(&keyspace, start.as_slice()..end.as_slice()).unwrap();
                self.maps[index].retain(|key, _| *key < start || *key >= end);
            }
        }
    }

    fn check(&mut self, transaction: &Transaction) {
        for (keyspace, map) in self.keyspaces.iter().zip(&self.maps) {
            let own = |pair: Result<(sapwood::Key, sapwood::Value)>| {
                let (key, value) = pair.unwrap();
                (key.to_vec(), value.to_vec())
            };
            let forward: Map = transaction.iter(keyspace).unwrap().map(own).collect();
            assert!(forward == *map, "{}", difference(&forward, map));
            let backward: Map = transaction.iter(keyspace).unwrap().rev().map(own).collect();
            assert!(backward == *map, "backward: {}", difference(&backward, map));
            assert_eq!(transaction.count::<&[u8]>(keyspace, ..).unwrap(), map.len() as u64);
        }
        for _ in 0..20 {
            let key = self.key();
            let index = self.random.below(self.keyspaces.len() as u64) as usize;
            let found = transaction.get(&self.keyspaces[index], &key).unwrap();
            let expected = self.maps[index].get(&key);
            assert_eq!(found.as_deref(), expected.map(Vec::as_slice));
            let mut cursor = transaction.cursor(&self.keyspaces[index]).unwrap();
            cursor.seek(&key, sapwood::Seek::AtOrAfter).unwrap();
            let mut next = self.maps[index].range(key.clone()..);
            assert_eq!(cursor.key(), next.next().map(|(key, _)| key.as_slice()));
            if cursor.valid() {
                cursor.prev().unwrap();
                let before = (Bound::Unbounded, Bound::Excluded(key));
                let before = self.maps[index].range(before).next_back();
                assert_eq!(cursor.key(), before.map(|(key, _)| key.as_slice()));
            }
        }
    }

    fn keep_iterator(&mut self, transaction: &Transaction) {
        let index = self.random.below(self.keyspaces.len() as u64) as usize;
        let iterator = transaction.iter(&self.keyspaces[index]).unwrap();
        self.kept.push((iterator, self.maps[index].clone()));
    }

    fn check_kept(&mut self) {
        for (iterator, map) in self.kept.drain(..) {
            let found: Map = iterator
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap())
                .collect();
            assert!(found == map, "an iterator: {}", difference(&found, &map));
        }
    }

    /// Writes, goes back to savepoints, and looks.
    fn run(&mut self, transaction: &mut Transaction, steps: u64) {
        for step in 0..steps {
            self.write(transaction);
            if self.random.one_in(40) {
                self.savepoints.push((transaction.savepoint(), self.maps.clone()));
            }
            if self.random.one_in(90) && !self.savepoints.is_empty() {
                let index = self.random.below(self.savepoints.len() as u64) as usize;
                transaction.rollback_to(&self.savepoints[index].0).unwrap();
                for (void, _) in self.savepoints.drain(index + 1..) {
                    let error = transaction.rollback_to(&void).unwrap_err();
                    assert!(matches!(error, Error::InvalidSavepoint), "{error}");
                }
                self.maps.clone_from(&self.savepoints[index].1);
            }
            if self.random.one_in(60) && !self.savepoints.is_empty() {
                let index = self.random.below(self.savepoints.len() as u64) as usize;
                self.savepoints.remove(index);
            }
            if self.random.one_in(150) {
                self.keep_iterator(transaction);
            }
            if step % 64 == 0 {
                self.check(transaction);
            }
        }
        self.check(transaction);
    }
}

#[test]
fn random_transactions_read_what_they_wrote_across_spills_savepoints_and_commits() {
    for seed in 0..12 {
        let (storage, database, keyspace) = made();
        let other = database.keyspace("b").unwrap();
        let keyspaces = vec![keyspace, other];
        let mut maps = vec![Map::new(), Map::new()];
        let mut random = Random::from_seed(seed);
        for round in 0..4 {
            let mut life = Life {
                random: Random::from_seed(seed * 100 + round),
                keyspaces: keyspaces.clone(),
                maps: maps.clone(),
                savepoints: Vec::new(),
                kept: Vec::new(),
            };
            let mut transaction = database.begin(Isolation::Serializable).unwrap();
            let steps = 200 + random.below(900);
            life.run(&mut transaction, steps);
            assert_clean(&database);
            match random.below(4) {
                0 => drop(transaction),
                _ => {
                    transaction.commit().unwrap();
                    maps.clone_from(&life.maps);
                }
            }
            assert_clean(&database);
            if random.one_in(2) {
                run_all_steps(&database).unwrap();
            }
            for (keyspace, map) in keyspaces.iter().zip(&maps) {
                assert!(contents(keyspace) == *map, "{}", difference(&contents(keyspace), map));
            }
            life.check_kept();
            assert_clean(&database);
        }
        drop(keyspaces);
        let killed = storage.kill();
        drop(database);
        let database = open(&killed).unwrap();
        for (name, map) in ["a", "b"].iter().zip(&maps) {
            let keyspace = database.keyspace(name).unwrap();
            assert!(contents(&keyspace) == *map, "{}", difference(&contents(&keyspace), map));
        }
        assert_clean(&database);
        run_all_steps(&database).unwrap();
        assert_clean(&database);
        database.close().unwrap();
        let database = open(&killed).unwrap();
        for (name, map) in ["a", "b"].iter().zip(&maps) {
            assert!(contents(&database.keyspace(name).unwrap()) == *map);
        }
        assert_clean(&database);
    }
}
