//! Verify on a database at work: commits, flushes and merges go on while states are checked.

use super::PendingWrites;
use super::commit::{commit, create_keyspace};
use crate::merge::step::{run_step, wait_until_idle};
use crate::merge::verify::{Activity, difference, verify, verify_with, walk_blocks};
use crate::options::{Durability, Options};
use crate::segment::key_range::KeyRange;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::create;
use crate::storage::MemoryStorage;
use crate::sync::{Arc, Clock, Random};

fn number_key(number: u32) -> Vec<u8> {
    format!("key {number:08}").into_bytes()
}

/// Commits, flushes and merges with small memtables; each state is checked on the way.
#[test]
fn every_state_of_a_database_at_work_is_clean() {
    let storage = Arc::new(MemoryStorage::new());
    let options = Options {
        merge_threads: 0,
        memory_budget: 4 << 20,
        step_bytes: 64 << 10,
        page_size: 1024,
        ..Options::default()
    };
    let core = create::create(storage, options, Clock::real()).unwrap();
    let settings = KeyspaceSettings::default();
    let keyspace = create_keyspace(&core, "a", settings, Durability::Memory).unwrap();
    let mut random = Random::from_seed(7);
    for round in 0..60_u64 {
        let mut writes = PendingWrites::new();
        for _ in 0..200 {
            let number = random.below(20_000) as u32;
            match random.below(50) {
                0 => writes.put(keyspace, &number_key(number), &vec![3; 9000]),
                1 if round % 4 == 0 => {
                    let range = KeyRange::new(number_key(number), Some(number_key(number + 40)));
                    writes.delete_range(keyspace, range);
                }
                2..5 => writes.delete(keyspace, &number_key(number)),
                _ => writes.put(keyspace, &number_key(number), &[round as u8; 60]),
            }
        }
        commit(&core, &writes, Durability::Memory, None).unwrap();
        for _ in 0..random.below(6) {
            run_step(&core).unwrap();
        }
        if round % 10 == 9 {
            let report = verify(&core, &mut |_, _| true).unwrap();
            assert!(report.is_clean(), "round {round}: {report}");
        }
    }
    let before = walk_blocks(&core.pages, &core.state()).unwrap();
    wait_until_idle(&core).unwrap();
    let report = verify_with(&core, Activity::Quiet, &mut |_, _| true).unwrap();
    assert!(report.is_clean(), "{report}");
    assert!(report.entries > 1000 && report.unowned_pages == 0);
    let after = walk_blocks(&core.pages, &core.state()).unwrap();
    assert!(!difference(&before, &after).is_empty());
}
