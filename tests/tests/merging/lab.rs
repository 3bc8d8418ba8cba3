//! A database beside a model, every install of which is checked.

use std::collections::BTreeMap;
use std::time::Duration;

use sapwood::Result;
use sapwood::merge::verify::{Activity, DeathCheck, DeathFindings, verify_with};
use sapwood::page::Block;
use sapwood::state::Core;
use sapwood::storage::Storage;
use sapwood::sync::{Arc, Clock, FakeClock, Mutex, Random};
use sapwood::{Builder, Compression, Database, Durability, Keyspace, KeyspaceOptions};

/// What a keyspace should hold.
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The smallest options; time stands still, so that writes pause only when the test says so.
pub fn builder() -> (Builder, FakeClock) {
    let (clock, hand) = Clock::fake();
    let builder = Database::builder()
        .page_size(1 << 10)
        .region_bytes(1 << 20)
        .leaf_bytes(1 << 10)
        .memory_budget(4 << 20)
        .step_bytes(64 << 10)
        .log_bytes_min(64 << 10)
        .durability(Durability::Memory)
        .merge_threads(0)
        .clock(clock);
    (builder, hand)
}

/// See the module.
pub struct Lab {
    pub database: Database,
    pub core: Arc<Core>,
    pub hand: FakeClock,
    pub keyspaces: Vec<(Keyspace, Map)>,
    pub findings: Arc<Mutex<DeathFindings>>,
    /// Pages that the test has taken for itself.
    pub taken: Vec<Block>,
    named: u32,
}

impl Lab {
    pub fn in_memory() -> Lab {
        let (builder, hand) = builder();
        Lab::of(builder.open_in_memory().unwrap(), hand)
    }

    /// The file need not grow for a reserve.
    pub fn without_reserve() -> Lab {
        let (builder, hand) = builder();
        Lab::of(builder.reserve_bytes(0).open_in_memory().unwrap(), hand)
    }

    /// What was committed survives the end of the process.
    pub fn open_on(storage: Arc<dyn Storage>) -> Lab {
        Lab::open_with(builder(), storage)
    }

    pub fn open_with((builder, hand): (Builder, FakeClock), storage: Arc<dyn Storage>) -> Lab {
        let builder = builder.durability(Durability::Buffered);
        Lab::of(builder.open_on(storage).unwrap(), hand)
    }

    pub fn of(database: Database, hand: FakeClock) -> Lab {
        let core = database.core().unwrap();
        let findings = DeathCheck::start(&core);
        Lab { database, core, hand, keyspaces: Vec::new(), findings, taken: Vec::new(), named: 0 }
    }

    pub fn create(&mut self) -> usize {
        self.named += 1;
        let options = KeyspaceOptions::default().compression(Compression::None);
        let name = format!("keyspace {}", self.named);
        let keyspace = self.database.keyspace_with(&name, options).unwrap();
        self.keyspaces.push((keyspace, Map::new()));
        self.keyspaces.len() - 1
    }

    pub fn put(&mut self, index: usize, key: &[u8], value: &[u8]) {
        let (keyspace, map) = &mut self.keyspaces[index];
        keyspace.put(key, value).unwrap();
        map.insert(key.to_vec(), value.to_vec());
    }

    pub fn delete(&mut self, index: usize, key: &[u8]) {
        let (keyspace, map) = &mut self.keyspaces[index];
        keyspace.delete(key).unwrap();
        map.remove(key);
    }

    pub fn delete_range(&mut self, index: usize, start: &[u8], end: &[u8]) {
        let (keyspace, map) = &mut self.keyspaces[index];
        keyspace.delete_range(start.to_vec()..end.to_vec()).unwrap();
        map.retain(|key, _| key.as_slice() < start || key.as_slice() >= end);
    }

    /// Writes pause.
    pub fn pause(&self) {
        self.hand.advance(Duration::from_secs(2));
    }

    pub fn run_all(&self) {
        while self.database.run_step().unwrap() {}
    }

    pub fn compare(&self) {
        for (keyspace, map) in &self.keyspaces {
            let found: Result<Map> = keyspace
                .iter()
                .unwrap()
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect();
            assert!(found.unwrap() == *map, "the content is not the model's");
        }
    }

    /// Nothing was found by the check of installs, and the whole state is sound.
    pub fn check(&self) {
        let problems = self.findings.lock().problems.clone();
        assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems[0]);
        let report = verify_with(&self.core, Activity::Unknown, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report}");
    }

    /// Beside [`Lab::check`], no page is without an owner: no step is under way.
    pub fn check_at_rest(&self) {
        self.check();
        let report = verify_with(&self.core, Activity::Quiet, &mut |_, _| true).unwrap();
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.unowned_pages, 0);
    }
}

/// A key of many.
pub fn key(number: u64) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// A value of so many bytes that does not shrink.
pub fn value(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut value = vec![0; bytes];
    random.fill(&mut value);
    value
}
