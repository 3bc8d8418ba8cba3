//! Merging that is as far behind as it may be, or cannot go on in one place: what waits stays
//! bounded, and what is sound goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::ErrorKind;
use std::time::Duration;

use crash_lsm::access;
use crash_lsm::hooked::HookedStorage;
use sapwood::storage::{OperationKind, SimulatedStorage};
use sapwood::sync::atomic::Ordering;
use sapwood::sync::{Arc, Clock, Random};
use sapwood::{Builder, Database, Durability, Error, Isolation};

fn builder() -> Builder {
    Database::builder().memory_budget(4 << 20).durability(Durability::Memory)
}

fn key(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// Commits `commits` batches of so many random pairs of 100 bytes; the most young segments that
/// waited.
fn most_young(database: &Database, keyspaces: u64, commits: u64, puts: u64) -> usize {
    let keyspaces: Vec<_> =
        (0..keyspaces).map(|index| database.keyspace(&format!("k {index}")).unwrap()).collect();
    let core = database.core().unwrap();
    let mut random = Random::from_seed(3);
    let mut most = 0;
    for _ in 0..commits {
        let mut batch = database.batch();
        for _ in 0..puts {
            let keyspace = &keyspaces[random.below(keyspaces.len() as u64) as usize];
            let mut value = [0; 100];
            random.fill(&mut value);
            batch.put(keyspace, key(random.next_u64()), value).unwrap();
        }
        batch.commit().unwrap();
        most = most.max(core.state().young.len());
    }
    most
}

/// Each commit made one step, and that was the flush of the one before: no promotion ever came.
#[test]
fn without_threads_a_flush_pays_for_no_merging() {
    let database = builder().merge_threads(0).open_in_memory().unwrap();
    let most = most_young(&database, 1, 160, 600);
    assert!(most < 40, "{most} young segments");
    database.wait_until_idle().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// Each promotion moves the little that one keyspace has of each young segment, and was counted as
/// a whole step.
#[test]
fn many_small_keyspaces_let_no_more_wait_than_one_large_one() {
    for merge_threads in [0, 1] {
        let database = builder().merge_threads(merge_threads).open_in_memory().unwrap();
        let most = most_young(&database, 300, 120, 600);
        assert!(most < 45, "{merge_threads} threads: {most} young segments");
    }
}

/// Segments of large transactions were counted only once they were in the state, and little bytes
/// bring many of them.
#[test]
fn large_transactions_of_little_data_let_no_more_wait_than_others() {
    let database = builder().merge_threads(0).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let core = database.core().unwrap();
    let value = vec![7; 64 << 10];
    let mut most = 0;
    for number in 0..150 {
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        transaction.put_stream(&keyspace, key(number % 7), &value[..]).unwrap();
        transaction.commit().unwrap();
        let view = core.view();
        most = most.max(view.state.young.len() + view.sealed.len());
    }
    assert!(most < 64, "{most} segments");
}

/// Each `flush` makes a young segment, however little there is in it, and one step takes away the
/// share of one keyspace.
#[test]
fn a_flush_after_each_commit_lets_no_more_wait_than_others() {
    let database = builder().merge_threads(0).open_in_memory().unwrap();
    let keyspaces: Vec<_> =
        (0..40).map(|index| database.keyspace(&format!("k {index}")).unwrap()).collect();
    let core = database.core().unwrap();
    let mut most = 0;
    for round in 0..200 {
        let mut batch = database.batch();
        for keyspace in &keyspaces {
            batch.put(keyspace, key(round % 7), [6; 100]).unwrap();
        }
        batch.commit().unwrap();
        database.flush().unwrap();
        most = most.max(core.state().young.len());
    }
    assert!(most < 64, "{most} segments");
}

/// A leaf of the last level that cannot be read failed every flush of which a run was to go beside
/// it: the memtable stayed, and with it what all other keyspaces wrote. When the wrong bit was that
/// of the keyspace of which it says to be, another one was left out, in vain.
#[test]
fn a_flush_goes_on_where_a_run_would_meet_what_cannot_be_read() {
    flush_beside_a_wrong_bit(300);
    flush_beside_a_wrong_bit(23);
}

fn flush_beside_a_wrong_bit(byte: u64) {
    let storage = SimulatedStorage::new();
    let builder = || builder().merge_threads(0).leaf_bytes(4096);
    let root = {
        let database = builder().open_on(Arc::new(storage.clone())).unwrap();
        let core = database.core().unwrap();
        for name in ["broken", "sound"] {
            let keyspace = database.keyspace(name).unwrap();
            for number in 0..2000 {
                keyspace.put(key(number), [1; 100]).unwrap();
            }
        }
        database.wait_until_idle().unwrap();
        let state = core.state();
        let last = state.levels.values().next().unwrap().last().unwrap();
        let root = last.points.as_ref().unwrap();
        assert!(root.height > 0);
        let page = root.reference.page.0;
        drop((state, core));
        database.close().unwrap();
        page
    };
    let storage = SimulatedStorage::from_image(storage.image());
    storage.flip_bit(root * 4096 + byte, 2);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let names = ["broken", "sound"].map(|name| database.existing_keyspace(name).unwrap());
    for keyspace in &names {
        for number in 2000..4000 {
            keyspace.put(key(number), [2; 100]).unwrap();
        }
    }
    database.flush().unwrap();
    let core = database.core().unwrap();
    assert!(core.view().sealed.is_empty() && core.view().active.is_empty());
    assert_eq!(names[0].get(key(3000)).unwrap().unwrap(), [2; 100]);
    assert_eq!(names[1].count::<&[u8]>(..).unwrap(), 4000);
    let error = names[0].count::<&[u8]>(..).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("keyspace 1"), "{error}");
    // And those that follow begin without.
    names[0].put(key(5000), "more").unwrap();
    names[1].put(key(5000), "more").unwrap();
    database.flush().unwrap();
    assert_eq!(names[1].count::<&[u8]>(..).unwrap(), 4001);
}

/// A closed database of the keyspaces "broken", of which the root of the last level has a wrong
/// bit, and "sound"; and the root's page.
fn with_a_broken_root(builder: impl Fn() -> Builder) -> (Vec<u8>, u64) {
    let storage = SimulatedStorage::new();
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("broken").unwrap();
    for number in 0..2000 {
        keyspace.put(key(number), [1; 100]).unwrap();
    }
    database.keyspace("sound").unwrap().put(key(1 << 40), "first").unwrap();
    database.wait_until_idle().unwrap();
    let state = database.core().unwrap().state();
    let last = state.levels.values().next().unwrap().last().unwrap();
    let root = last.points.as_ref().unwrap().reference.page.0;
    drop(state);
    database.close().unwrap();
    let storage = SimulatedStorage::from_image(storage.image());
    storage.flip_bit(root * 4096 + 300, 2);
    (storage.image(), root)
}

/// The set of young segments that holds something of a keyspace which cannot be merged stayed the
/// one that is merged: no other keyspace's went down any more, and in the end no commit went in.
#[test]
fn other_keyspaces_are_merged_on_while_one_cannot_be() {
    let builder = || builder().merge_threads(0).leaf_bytes(4096);
    let (image, root) = with_a_broken_root(builder);
    let storage = SimulatedStorage::from_image(image);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let [broken, sound] = ["broken", "sound"].map(|name| database.existing_keyspace(name).unwrap());
    let core = database.core().unwrap();
    let mut model = 0;
    for round in 0..200_u64 {
        // As much of the damaged one as does not stop everything.
        if round < 8 {
            broken.put(key(round), "new").unwrap();
        }
        for number in 0..5 {
            sound.put(key(number << 32 | round), [9; 100]).unwrap();
            model += 1;
        }
        database.flush().unwrap();
        while database.run_step().unwrap_or(false) {}
        assert!(core.state().young.len() < 40, "{round}");
    }
    assert_eq!(sound.count::<&[u8]>(..).unwrap(), 1 + model);
    for number in 0..8 {
        assert_eq!(broken.get(key(number)).unwrap().unwrap(), "new");
    }
    assert!(broken.get(key(100)).unwrap_err().is_corruption());
    sound.compact::<&[u8]>(.., &mut ()).unwrap();
    database.close().unwrap_err();
    // It is repaired, and what waited goes down in its order.
    let storage = SimulatedStorage::from_image(storage.image());
    storage.flip_bit(root * 4096 + 300, 2);
    let database = builder().open_on(Arc::new(storage)).unwrap();
    database.wait_until_idle().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
    let broken = database.existing_keyspace("broken").unwrap();
    assert_eq!(broken.count::<&[u8]>(..).unwrap(), 2000);
    assert_eq!(broken.get(key(3)).unwrap().unwrap(), "new");
}

/// What waited to be merged of a damaged keyspace counted in everybody's debt: in the end every
/// commit gave its error, to whatever keyspace. Now those alone that write to it are refused.
#[test]
fn only_commits_to_a_damaged_keyspace_are_refused() {
    for merge_threads in [0, 1] {
        let builder = || builder().merge_threads(merge_threads).leaf_bytes(4096);
        let (image, root) = with_a_broken_root(builder);
        let storage = SimulatedStorage::from_image(image);
        let (mut to_broken, mut to_sound, mut refused) = (0_u64, 0_u64, 0);
        for open in 0..3 {
            let database = builder().open_on(Arc::new(storage.clone())).unwrap();
            let [broken, sound] =
                ["broken", "sound"].map(|name| database.existing_keyspace(name).unwrap());
            let core = database.core().unwrap();
            for round in 0..60_u64 {
                for number in 0..5 {
                    sound.put(key(number << 32 | to_sound), [9; 100]).unwrap();
                }
                to_sound += 1;
                let mut batch = database.batch();
                batch.put(&broken, key(to_broken), "new").unwrap();
                batch.put(&sound, key(9 << 32 | to_broken), "beside").unwrap();
                match batch.commit() {
                    Ok(_) => to_broken += 1,
                    Err(error) => {
                        assert!(error.is_corruption(), "{error}");
                        refused += 1;
                    }
                }
                database.flush().unwrap();
                assert!(core.state().young.len() < 60, "{open} {round}");
            }
            assert_eq!(sound.count::<&[u8]>(..).unwrap(), 1 + 5 * to_sound + to_broken);
            // Each way to commit is refused alike.
            if open == 2 {
                check_every_commit_is_refused(&database);
            }
            database.close().unwrap_err();
        }
        assert!(refused > 100 && to_broken > 5, "{refused} refused, {to_broken} taken");
        let storage = SimulatedStorage::from_image(storage.image());
        storage.flip_bit(root * 4096 + 300, 2);
        let database = builder().open_on(Arc::new(storage)).unwrap();
        database.wait_until_idle().unwrap();
        assert_eq!(access::verify(&database).unwrap(), None);
        let broken = database.existing_keyspace("broken").unwrap();
        broken.put(key(1 << 50), "after").unwrap();
        for number in 0..to_broken {
            assert_eq!(broken.get(key(number)).unwrap().unwrap(), "new");
        }
        assert_eq!(broken.count::<&[u8]>(..).unwrap(), 2001);
    }
}

/// What the system refuses to read was taken for something that may pass as long as nobody waited
/// for merging: every flush failed, and with it what all other keyspaces wrote.
#[test]
fn a_flush_goes_on_where_the_system_refuses_to_read() {
    let builder = || builder().merge_threads(0).leaf_bytes(4096);
    let (image, root) = with_a_broken_root(builder);
    let memory = SimulatedStorage::from_image(image);
    let storage = HookedStorage::new(Arc::new(memory.clone()), move |kind, offset| {
        let is_refused = kind == OperationKind::Read && offset == root * 4096;
        if is_refused { Err(ErrorKind::Other.into()) } else { Ok(()) }
    });
    let database = builder().open_on(Arc::new(storage)).unwrap();
    for name in ["broken", "sound"] {
        let keyspace = database.existing_keyspace(name).unwrap();
        for number in 2000..2500 {
            keyspace.put(key(number), [2; 100]).unwrap();
        }
    }
    assert!(matches!(database.flush().unwrap_err(), Error::Io { .. }), "it may pass");
    database.flush().unwrap();
    let sound = database.existing_keyspace("sound").unwrap();
    assert_eq!(sound.count::<&[u8]>(..).unwrap(), 501);
    database.close().unwrap();
    let database = builder().open_on(Arc::new(memory)).unwrap();
    let sound = database.existing_keyspace("sound").unwrap();
    assert_eq!(sound.count::<&[u8]>(..).unwrap(), 501);
}

/// Each step failed in the dropped keyspace before it was made in the other one: the commits that
/// waited for merging got that error.
#[test]
fn commits_that_wait_for_merging_get_no_error_of_another_keyspace() {
    let builder = || builder().merge_threads(1).leaf_bytes(4096).step_bytes(64 << 10);
    let (image, _) = with_a_broken_root(builder);
    let storage = SimulatedStorage::from_image(image);
    let database = builder().open_on(Arc::new(storage)).unwrap();
    let broken = database.existing_keyspace("broken").unwrap();
    for number in 0..20 {
        broken.put(key(number), "new").unwrap();
        database.flush().unwrap();
    }
    database.drop_keyspace("broken").unwrap();
    let sound = database.existing_keyspace("sound").unwrap();
    let mut random = Random::from_seed(4);
    for _ in 0..60 {
        let mut batch = database.batch();
        for _ in 0..4_000 {
            batch.put(&sound, key(random.next_u64()), [7; 100]).unwrap();
        }
        batch.commit().unwrap();
    }
    let core = database.core().unwrap();
    assert!(core.counters.stalls.load(Ordering::Relaxed) > 10, "nobody waited");
    assert_eq!(sound.count::<&[u8]>(..).unwrap(), 1 + 60 * 4_000);
}

/// The error of the damaged keyspace came before the durable state that would have given back what
/// was deleted in another: nothing went in any more.
#[test]
fn a_full_file_takes_again_what_was_deleted_beside_a_damaged_keyspace() {
    for merge_threads in [0, 1] {
        let (clock, hand) = Clock::fake();
        let builder =
            || builder().merge_threads(merge_threads).leaf_bytes(4096).clock(clock.clone());
        let (image, _) = with_a_broken_root(builder);
        let storage = SimulatedStorage::from_image(image);
        let builder = builder().max_file_bytes(12 << 20);
        let database = builder.open_on(Arc::new(storage)).unwrap();
        database.drop_keyspace("broken").unwrap();
        let sound = database.existing_keyspace("sound").unwrap();
        let mut random = Random::from_seed(9);
        for round in 0..3 {
            let mut count = 0;
            let error = loop {
                let mut value = [0; 1000];
                random.fill(&mut value);
                // What failed is tried again each time.
                hand.advance(Duration::from_secs(100));
                match sound.put(key(count), value) {
                    Ok(()) => count += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::NoSpace { .. }), "{round}: {error}");
            assert!(count > 2_000, "{round}: {count}");
            for number in 0..count {
                sound.delete(key(number)).unwrap();
            }
        }
    }
}

/// Merging of what cannot be read was tried for ever, five times a second: each time all that comes
/// before it was written, and given back.
#[test]
fn what_cannot_be_merged_is_left_alone_and_the_rest_comes_to_rest() {
    let (clock, hand) = Clock::fake();
    let builder = || builder().merge_threads(0).leaf_bytes(4096).clock(clock.clone());
    let (image, _) = with_a_broken_root(builder);
    let storage = SimulatedStorage::from_image(image);
    let database = builder().open_on(Arc::new(storage.clone())).unwrap();
    let [broken, sound] = ["broken", "sound"].map(|name| database.existing_keyspace(name).unwrap());
    for number in 0..2_000 {
        broken.put(key(number), "new").unwrap();
        sound.put(key(number), [3; 500]).unwrap();
    }
    let mut tried = 0;
    for _ in 0..600 {
        hand.advance(Duration::from_secs(1));
        while match database.run_step() {
            Ok(made) => made,
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                tried += 1;
                false
            }
        } {}
    }
    assert!((3..30).contains(&tried), "tried {tried} times");
    let core = database.core().unwrap();
    assert!(core.durable.is_settled(&core.state(), &core.log.positions()));
    // Whoever asks for it has it tried.
    assert!(database.wait_until_idle().unwrap_err().is_corruption());
    assert!(database.wait_until_idle().unwrap_err().is_corruption());
    database.close().unwrap_err();
}

fn check_every_commit_is_refused(database: &Database) {
    let broken = database.existing_keyspace("broken").unwrap();
    let is_refused = |committed: sapwood::Result<()>| {
        assert!(committed.unwrap_err().is_corruption());
    };
    is_refused(broken.put("a", "b"));
    is_refused(broken.delete("a"));
    is_refused(broken.put_if_absent("another", "b").map(drop));
    is_refused(broken.put_stream("a", &[1; 100_000][..]).map(drop));
    for isolation in [Isolation::Snapshot, Isolation::Serializable] {
        for bytes in [10, 1 << 20] {
            let mut transaction = database.begin(isolation).unwrap();
            for number in 0..(bytes / 1000).max(1) {
                transaction.put(&broken, key(number), vec![3; bytes.min(1000) as usize]).unwrap();
            }
            is_refused(transaction.commit());
        }
    }
}

/// A dropped keyspace of which something cannot be read never leaves: nothing of it was due,
/// nothing failed, and so nothing else was ever due either.
#[test]
fn other_keyspaces_are_merged_on_when_a_damaged_one_was_dropped() {
    let builder = || builder().merge_threads(0).leaf_bytes(4096);
    let (image, _) = with_a_broken_root(builder);
    let storage = SimulatedStorage::from_image(image);
    let database = builder().open_on(Arc::new(storage)).unwrap();
    // What was written to it waits above its levels, and is not waited for.
    let broken = database.existing_keyspace("broken").unwrap();
    for number in 0..18 {
        broken.put(key(number), "new").unwrap();
        database.flush().unwrap();
    }
    database.drop_keyspace("broken").unwrap();
    let sound = database.existing_keyspace("sound").unwrap();
    let core = database.core().unwrap();
    for round in 0..200_u64 {
        for number in 0..5 {
            sound.put(key(number << 32 | round), [9; 100]).unwrap();
        }
        database.flush().unwrap();
        while database.run_step().unwrap_or(false) {}
        assert!(core.state().young.len() < 40, "{round}");
    }
    assert_eq!(sound.count::<&[u8]>(..).unwrap(), 1001);
    sound.compact::<&[u8]>(.., &mut ()).unwrap();
    database.close().unwrap_err();
}
