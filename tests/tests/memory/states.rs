//! What states take: that of the database itself is in the budget, and what only snapshots keep is
//! shown as held by the application.

use sapwood::{Database, Durability, Keyspace, Snapshot};

use crate::counted_bytes;
#[cfg(target_os = "linux")]
use crate::process::{folder, is_alone, memory};

const KEYSPACES: usize = 400;

fn make_keyspaces(database: &Database) -> Vec<Keyspace> {
    (0..KEYSPACES).map(|n| database.keyspace(&format!("keyspace {n}")).unwrap()).collect()
}

/// Each state has another segment of each keyspace than the one before.
fn change_all(database: &Database, keyspaces: &[Keyspace], round: usize) -> Snapshot {
    for keyspace in keyspaces {
        keyspace.put(format!("key {}", round % 5), format!("value {round}")).unwrap();
    }
    database.wait_until_idle().unwrap();
    database.snapshot().unwrap()
}

fn held(database: &Database) -> u64 {
    database.stats().unwrap().memory.held_by_application
}

/// States, with their segments, were counted nowhere: a thousand keyspaces and a hundred snapshots
/// took more than the smallest budget.
#[test]
#[cfg(target_os = "linux")]
fn what_held_states_take_is_what_the_process_takes() {
    if !is_alone("states::what_held_states_take_is_what_the_process_takes") {
        return;
    }
    let builder = Database::builder().memory_budget(64 << 20).merge_threads(0);
    let database = builder.durability(Durability::Memory).open(folder().join("database")).unwrap();
    let keyspaces = make_keyspaces(&database);
    let all = || counted_bytes(&database) + held(&database);
    // What the allocator has at hand is used first.
    let mut snapshots: Vec<_> = (0..5).map(|n| change_all(&database, &keyspaces, n)).collect();
    let (counted_before, taken_before) = (all(), memory("RssAnon:"));
    snapshots.extend((5..45).map(|n| change_all(&database, &keyspaces, n)));
    let (counted, taken) = (all() - counted_before, memory("RssAnon:") - taken_before);
    let said = format!("{counted} counted, {taken} taken: {}", database.stats().unwrap());
    println!("{said}");
    assert!((taken * 4 / 5..=taken * 5 / 4).contains(&counted), "{said}");
}

#[test]
fn states_that_only_snapshots_hold_are_the_applications_until_they_go() {
    let builder = Database::builder().memory_budget(64 << 20).merge_threads(0);
    let database = builder.open_in_memory().unwrap();
    let keyspaces = make_keyspaces(&database);
    drop(change_all(&database, &keyspaces, 0));
    database.wait_until_idle().unwrap();
    let states = || database.stats().unwrap().memory.states;
    let (at_rest, held_at_rest) = (states(), held(&database));
    assert!(at_rest as usize > KEYSPACES * 300, "{at_rest}");
    let snapshots: Vec<_> = (1..11).map(|n| change_all(&database, &keyspaces, n)).collect();
    assert!(states() <= 3 * at_rest, "{}", states());
    let each = held(&database) as usize / KEYSPACES / snapshots.len();
    assert!((300..1200).contains(&each), "{each} bytes of each keyspace and snapshot");
    drop(snapshots);
    database.wait_until_idle().unwrap();
    assert!(held(&database) <= held_at_rest, "{}", held(&database));
    assert!(states() <= at_rest + at_rest / 8, "{} of {at_rest}", states());
}
