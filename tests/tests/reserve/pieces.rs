//! F7: what must be written in a full file takes what there is, and no more than it must.

use sapwood::log::record::STATE_DURABLE_BYTES;
use sapwood::page::Block;
use sapwood::state::Core;
use sapwood::state::durable::{Purpose, make_durable};
use sapwood::state::reserve::{Brings, grant, has_room, set_short};
use sapwood::storage::{SimulatedStorage, Storage};
use sapwood::sync::Arc;
use sapwood::{Database, Durability};

use crate::{Full, RESERVE_PAGES};

/// Takes all free pages but those of every second run of so many. What was taken.
fn crumble(core: &Core, run_pages: u32) -> Vec<Block> {
    let allocator = core.pages.allocator();
    let free: Vec<Block> = std::iter::from_fn(|| allocator.allocate(1, 0).ok()).collect();
    let is_left = |block: &Block| (block.first.0 / u64::from(run_pages)).is_multiple_of(2);
    let (left, taken): (Vec<Block>, Vec<Block>) = free.into_iter().partition(is_left);
    left.into_iter().for_each(|block| core.pages.free(block));
    taken
}

fn give_back(core: &Core, taken: Vec<Block>) {
    taken.into_iter().for_each(|block| core.pages.free(block));
}

#[test]
fn a_durable_state_takes_its_pages_in_pieces() {
    let mut full = Full::new(31);
    full.storage.set_capacity(u64::MAX);
    for n in 0..60 {
        full.database.keyspace(&format!("{n:0100}")).unwrap();
    }
    full.database.flush().unwrap();
    full.storage.set_capacity(full.storage.length().unwrap());
    let core = full.core.clone();
    assert!(core.durable.own_blocks().first().unwrap().pages > 5, "the state is short");
    let taken = crumble(&core, 1);
    let generation = core.durable.generation();
    make_durable(&core, Purpose::Running).unwrap();
    assert!(core.durable.generation() > generation);
    assert_eq!(core.durable.own_blocks().first().unwrap().pages, 1);
    give_back(&core, taken);
    full.check();
}

#[test]
fn the_log_takes_shorter_blocks_where_there_are_no_longer_ones() {
    let builder = Database::builder().memory_budget(8 << 20).merge_threads(0);
    let builder = builder.page_size(4 << 10).durability(Durability::Buffered);
    let storage = SimulatedStorage::new();
    let database = builder.open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for n in 0..1000_u64 {
        keyspace.put(n.to_be_bytes(), [7; 1000]).unwrap();
    }
    database.wait_until_idle().unwrap();
    let core = database.core().unwrap();
    core.pages.allocator().ensure_free(1000).unwrap();
    storage.set_capacity(storage.length().unwrap());
    let taken = crumble(&core, 16);
    let needed = core.log.available() + (100 << 10);
    core.durable.want_room(needed);
    make_durable(&core, Purpose::Running).unwrap();
    assert!(core.log.available() >= needed, "{} bytes of {needed}", core.log.available());
    give_back(&core, taken);
}

/// From here on there is room for no data: takes what is free beside the reserve.
fn tighten(full: &Full) -> Vec<Block> {
    full.storage.set_capacity(full.storage.length().unwrap());
    let allocator = full.core.pages.allocator();
    let mut taken = Vec::new();
    while has_room(&full.core, Brings::Data, 0) {
        taken.push(allocator.allocate(1, 0).unwrap());
    }
    taken
}

/// Half full, after space was short, with nothing to merge.
fn half_full(seed: u64) -> Full {
    let mut full = Full::new(seed);
    full.fill();
    full.delete(1500);
    full.database.wait_until_idle().unwrap();
    full.keys.sort();
    full
}

/// What there are gaps for in the last level goes to a young segment: the parents that are written
/// around runs have no place when merges have taken of the reserve what they may.
#[test]
fn a_flush_takes_no_more_than_is_owed_while_space_is_short() {
    let mut full = Full::new(32);
    full.storage.set_capacity(u64::MAX);
    let (value, short_value) = (full.value(700), full.value(80));
    // Parents of long separators are long.
    let places = 300;
    for _ in 0..places * 32 {
        let mut key = full.value(200);
        for last in [3, 7] {
            key.push(last);
            full.keyspace.put(&key, &value).unwrap();
            full.keys.push(key.clone());
            key.pop();
        }
    }
    full.database.wait_until_idle().unwrap();
    full.keys.sort();
    set_short(&full.core, true);
    // A leaf's worth into each lowest parent.
    for key in full.keys.clone().iter().step_by(64) {
        for n in 0..4_u8 {
            let key = [key.as_slice(), &[n]].concat();
            full.keyspace.put(&key, &short_value).unwrap();
            full.keys.push(key);
        }
    }
    set_short(&full.core, true);
    full.storage.set_capacity(full.storage.length().unwrap());
    let allocator = full.core.pages.allocator();
    let mut taken = Vec::new();
    while grant(&full.core, 1).is_ok() {
        taken.push(allocator.allocate(1, 0).unwrap());
    }
    full.database.flush().unwrap();
    give_back(&full.core, taken);
    full.check();
}

#[test]
fn the_log_does_not_grow_in_the_reserve_when_it_can_wait() {
    let mut full = half_full(33);
    let log_blocks = |full: &Full| full.core.log.placed_blocks().len();
    let before = log_blocks(&full);
    let value = full.value(1000);
    for n in 0..700_u64 {
        full.keyspace.put((n << 32).to_be_bytes(), &value).unwrap();
        full.keys.push((n << 32).to_be_bytes().to_vec());
    }
    assert_eq!(log_blocks(&full), before);
    let taken = tighten(&full);
    make_durable(&full.core, Purpose::Running).unwrap();
    assert_eq!(log_blocks(&full), before);
    full.database.flush().unwrap();
    let room = full.room();
    assert!(room >= RESERVE_PAGES - 32, "{room} pages are left");
    give_back(&full.core, taken);
    full.check();
}

/// Puts until the log has room for fewer than so many bytes, but for one record of a state.
fn fill_log(full: &mut Full, left_bytes: u64) {
    let available = |full: &Full| full.core.log.available();
    let mut record_bytes = 0;
    for n in 0_u64.. {
        let before = available(full);
        if before < left_bytes {
            return;
        }
        let most = before.saturating_sub(record_bytes + left_bytes * 3 / 4);
        let value = full.value(if n == 0 { 0 } else { most.min(1000) });
        let key = (n << 32).to_be_bytes();
        full.keyspace.put(key, &value).unwrap();
        full.keys.push(key.to_vec());
        record_bytes = before - available(full) - value.len() as u64;
    }
}

/// What the next states' records need comes out of the reserve, and nothing else with it.
#[test]
fn the_log_takes_one_block_of_the_reserve_when_it_has_no_room_for_the_next_state() {
    let mut full = half_full(37);
    let log_blocks = |full: &Full| full.core.log.placed_blocks().len();
    let before = log_blocks(&full);
    fill_log(&mut full, 4 * STATE_DURABLE_BYTES);
    assert!(before > 4 && log_blocks(&full) == before, "the log has grown before");
    let taken = tighten(&full);
    make_durable(&full.core, Purpose::Running).unwrap();
    assert_eq!(log_blocks(&full), before + 1);
    give_back(&full.core, taken);
    full.check();
}

#[test]
fn a_record_that_waits_takes_no_more_of_the_reserve_than_it_needs() {
    let mut full = half_full(38);
    let log_blocks = |full: &Full| full.core.log.placed_blocks().len();
    let before = log_blocks(&full);
    fill_log(&mut full, 4 << 10);
    let taken = tighten(&full);
    full.core.durable.want_room(16 << 10);
    make_durable(&full.core, Purpose::Running).unwrap();
    assert!(full.core.log.available() >= 16 << 10);
    assert!(log_blocks(&full) <= before + 2, "{} and {before} blocks", log_blocks(&full));
    give_back(&full.core, taken);
    full.check();
}

/// With room for it, so that the test of the log that does not grow is one.
#[test]
fn the_log_grows_when_it_is_half_full_and_there_is_room() {
    let mut full = half_full(33);
    let log_blocks = |full: &Full| full.core.log.placed_blocks().len();
    let before = log_blocks(&full);
    let value = full.value(1000);
    for n in 0..700_u64 {
        full.keyspace.put((n << 32).to_be_bytes(), &value).unwrap();
    }
    make_durable(&full.core, Purpose::Running).unwrap();
    assert!(log_blocks(&full) > before);
}
