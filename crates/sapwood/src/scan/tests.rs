use super::*;
use crate::merge::debt::Pressure;
use crate::merge::plan::next_plan;
use crate::merge::promote::promote;
use crate::state::durable::{Purpose, make_durable};
use crate::{Database, Durability};

fn shared_of(keyspace: &crate::Keyspace) -> Arc<Shared> {
    keyspace.shared().clone()
}

/// Leaves and parents that merges replace while the cursor is open must wait for it: the snapshot
/// itself holds no state as long as its memtable is not flushed.
#[test]
fn a_cursor_over_memtables_comes_with_a_hold_on_the_state_that_it_reads() {
    let builder = Database::builder().merge_threads(0).memory_budget(4 << 20).page_size(1024);
    let database = builder.open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for round in 0..3_u8 {
        for n in 0..2000_u32 {
            keyspace.put(format!("{:05}", n * 3 + u32::from(round)), [round; 40]).unwrap();
        }
        database.flush().unwrap();
    }
    let mut batch = database.batch();
    batch.put(&keyspace, "zzz", "in memory").unwrap();
    batch.commit_with(Durability::Buffered).unwrap();
    let shared = shared_of(&keyspace);
    let core = shared.read(|core| Ok(core.clone())).unwrap();
    let number = keyspace.number_in(&shared).unwrap();
    let scan = Scan::new(&shared, number, Arc::new(SnapshotHold::take(&core)));
    let before = core.state().epoch;
    let (mut cursor, point) = scan.open(&core);
    assert!(point.is_some(), "the memtable is not flushed");
    cursor.seek_first().unwrap();
    // Everything but the memtable is merged, made durable twice over, and its place used again.
    let pressure = Pressure::Quiet;
    while let Some(plan) = next_plan(&core, pressure).unwrap() {
        promote(&core, plan).unwrap();
    }
    for _ in 0..2 {
        make_durable(&core, Purpose::Running).unwrap();
    }
    assert!(core.state().epoch > before, "nothing was merged");
    core.collect_released();
    assert!(core.held.stats().pages > 0, "the state that is read is not held");
    let mut count = 0;
    while cursor.valid() {
        count += 1;
        cursor.next().unwrap();
    }
    assert_eq!(count, 6001);
    drop((cursor, point));
    core.collect_released();
    assert_eq!(core.held.stats().pages, 0);
}
