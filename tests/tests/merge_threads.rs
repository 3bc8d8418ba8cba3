//! Merge threads beside one another and beside writers: what is planned in one state is done in a
//! later one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use crash_lsm::access;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Random};
use sapwood::{Database, Durability};

/// Small leaves and steps, so that flushes and promotions of two threads meet in one tree often.
#[test]
fn threads_that_flush_and_promote_in_one_tree_lose_nothing_and_find_no_damage() {
    for seed in 0..3 {
        let builder = Database::builder().memory_budget(4 << 20).merge_threads(2).leaf_bytes(1024);
        let builder = builder.page_size(1024).region_bytes(1 << 20).step_bytes(256 << 10);
        let builder = builder.durability(Durability::Buffered);
        let database = builder.open_on(Arc::new(MemoryStorage::new())).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut random = Random::from_seed(seed);
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for round in 0..2 {
            for _ in 0..8000 {
                let key = random.next_u64().to_be_bytes();
                let mut value = vec![0; random.below(2000) as usize];
                random.fill(&mut value);
                keyspace.put(key, &value).unwrap();
                pairs.insert(key.to_vec(), value);
            }
            let keys: Vec<Vec<u8>> = pairs.keys().cloned().collect();
            for key in keys.iter().filter(|_| random.below(3) > 0) {
                keyspace.delete(key).unwrap();
                pairs.remove(key);
            }
            database.wait_until_idle().unwrap();
            let mut found = keyspace.iter().unwrap();
            for (key, value) in &pairs {
                let (k, v) = found.next().expect("a pair is missing").unwrap();
                assert!(k.as_slice() == key && v.as_slice() == value, "seed {seed}, round {round}");
            }
            assert!(found.next().is_none(), "seed {seed}, round {round}: there are more");
            assert_eq!(access::verify(&database).unwrap(), None, "seed {seed}, round {round}");
        }
    }
}
