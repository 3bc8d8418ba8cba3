//! Many commits, many threads, reopening, scans while merges run.

use crash_lsm::access;
use crash_lsm::fixtures::{ARRANGEMENTS, KeyChange, arrange, result_of, run_all_steps, tiny};
use crash_lsm::model::Map;
use crash_lsm::setup::Setup;
use sapwood::storage::MemoryStorage;
use sapwood::sync::{Arc, Random, thread};
use sapwood::{Database, Durability, Seek};

use super::{check_content, delete, in_every_arrangement, put, puts};

#[test]
fn five_thousand_commits_of_eleven_overlapping_keys_end_with_the_last_values() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    for round in 0..5000u32 {
        let mut batch = database.batch();
        for key in 0..11 {
            batch.put(&keyspace, format!("{key}"), format!("{round}")).unwrap();
        }
        batch.commit_with(Durability::Buffered).unwrap();
        if round % 100 == 0 {
            database.flush().unwrap();
        }
        if round % 10 == 0 {
            database.run_step().unwrap();
        }
    }
    run_all_steps(&database).unwrap();
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), 11);
    for pair in keyspace.iter().unwrap() {
        assert_eq!(pair.unwrap().1, b"4999");
    }
}

#[test]
fn value_and_tombstone_and_neighbour_survive_a_reopen() {
    for arrangement in ARRANGEMENTS {
        let storage = Arc::new(MemoryStorage::new());
        let setup = Setup::tiny();
        {
            let database = setup.open_on(Arc::clone(&storage) as _).unwrap();
            let keyspace = database.keyspace("a").unwrap();
            let mut changes = puts(["a", "b", "c", "d"]);
            changes.push(delete("b"));
            arrange(&database, &keyspace, arrangement, &changes).unwrap();
            database.close().unwrap();
        }
        let database = setup.open_on(storage).unwrap();
        let keyspace = database.existing_keyspace("a").unwrap();
        assert_eq!(keyspace.get("a").unwrap().unwrap(), b"value of a");
        assert_eq!(keyspace.get("b").unwrap(), None, "{arrangement:?}");
        let mut cursor = keyspace.cursor().unwrap();
        assert!(cursor.seek("b", Seek::AtOrBefore).unwrap());
        assert_eq!(cursor.key(), Some(&b"a"[..]));
    }
}

#[test]
fn a_database_opened_twenty_times_over_keeps_everything() {
    let storage = Arc::new(MemoryStorage::new());
    let mut expected = Map::new();
    for round in 0..20u32 {
        let database = Setup::tiny().open_on(Arc::clone(&storage) as _).unwrap();
        let keyspace = database.keyspace("a").unwrap();
        check_content(&keyspace, &expected);
        let changes: Vec<KeyChange> = (0..50)
            .map(|n| put(format!("{:04}", (n * 37 + round * 11) % 400), format!("{round} {n}")))
            .collect();
        arrange(&database, &keyspace, ARRANGEMENTS[round as usize % 5], &changes).unwrap();
        expected.extend(result_of(&changes));
        database.close().unwrap();
    }
}

fn from_many_threads(threads: u64, merge_threads: usize) {
    let database = Setup::tiny().builder().merge_threads(merge_threads).open_in_memory().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let running: Vec<_> = (0..threads)
        .map(|number| {
            let (database, keyspace) = (database.clone(), keyspace.clone());
            thread::spawn(&format!("writer {number}"), move || {
                let mut random = Random::from_seed(number);
                for n in 0..600u64 {
                    let mut batch = database.batch();
                    let length = if n % 50 == 0 { 1000 } else { random.below(100) };
                    batch
                        .put(&keyspace, format!("{n:04}/{number}"), vec![b'v'; length as usize])
                        .unwrap();
                    batch.put(&keyspace, format!("{number}/last"), n.to_be_bytes()).unwrap();
                    batch.commit_with(Durability::Buffered).unwrap();
                    if n % 100 == 0 {
                        let snapshot = database.snapshot().unwrap();
                        let last =
                            snapshot.get(&keyspace, format!("{number}/last")).unwrap().unwrap();
                        assert_eq!(last, n.to_be_bytes());
                    }
                }
            })
            .unwrap()
        })
        .collect();
    for thread in running {
        thread.join().unwrap();
    }
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), threads * 601);
    database.flush().unwrap();
    database.wait_until_idle().unwrap();
    assert_eq!(keyspace.count::<&[u8]>(..).unwrap(), threads * 601);
    for number in 0..threads {
        let last = keyspace.get(format!("{number}/last")).unwrap().unwrap();
        assert_eq!(last, 599u64.to_be_bytes());
    }
    database.close().unwrap();
}

#[test]
fn two_threads_that_write_at_once_lose_nothing() {
    from_many_threads(2, 1);
}

#[test]
fn ten_threads_that_write_at_once_lose_nothing() {
    from_many_threads(10, 2);
}

#[test]
fn scans_while_merges_run_see_one_instant() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut changes: Vec<KeyChange> = (0..2000).map(|n| put(format!("{n:05}"), "0")).collect();
    arrange(&database, &keyspace, ARRANGEMENTS[3], &changes).unwrap();
    for round in 1..6u32 {
        let expected = result_of(&changes);
        let mut forwards = keyspace.iter().unwrap();
        let mut backwards = keyspace.iter().unwrap().rev();
        let (mut front, mut back) = (Map::new(), Map::new());
        let next: Vec<_> =
            (0..2000).step_by(3).map(|n| put(format!("{n:05}"), format!("{round}"))).collect();
        for some in next.chunks(70) {
            for _ in 0..200 {
                let take = |pair: Option<sapwood::Result<_>>, into: &mut Map| {
                    let Some(pair) = pair else { return };
                    let (key, value): (sapwood::Key, sapwood::Value) = pair.unwrap();
                    into.insert(key.into_vec(), Arc::from(value.as_slice()));
                };
                take(forwards.next(), &mut front);
                take(backwards.next(), &mut back);
            }
            crash_lsm::fixtures::write(&database, &keyspace, some).unwrap();
            database.flush().unwrap();
            for _ in 0..3 {
                database.run_step().unwrap();
            }
        }
        front.extend(access::collect(forwards).unwrap());
        for pair in backwards {
            let (key, value) = pair.unwrap();
            back.insert(key.into_vec(), Arc::from(value.as_slice()));
        }
        assert!(front == expected, "round {round}, forwards");
        assert!(back == expected, "round {round}, backwards");
        changes.extend(next);
    }
}

#[test]
fn large_values_in_tiny_regions_come_and_go() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let mut random = Random::from_seed(3);
    let mut expected = Map::new();
    for round in 0..400u32 {
        let key = format!("{}", random.below(40)).into_bytes();
        if random.one_in(3) {
            keyspace.delete(&key).unwrap();
            expected.remove(&key);
        } else {
            let mut value = vec![0; random.below(60_000) as usize];
            random.fill(&mut value);
            keyspace.put(&key, &value).unwrap();
            expected.insert(key, Arc::from(value));
        }
        if round % 20 == 19 {
            database.flush().unwrap();
        }
        if round % 3 == 0 {
            database.run_step().unwrap();
        }
    }
    check_content(&keyspace, &expected);
    run_all_steps(&database).unwrap();
    check_content(&keyspace, &expected);
    assert_eq!(access::verify(&database).unwrap(), None);
}

#[test]
fn random_ranges_agree_with_the_model_in_both_directions() {
    let mut random = Random::from_seed(9);
    let changes: Vec<_> = (0..4000)
        .map(|_| {
            let key = format!("{:05}", random.below(3000));
            if random.one_in(4) { delete(key) } else { put(key, format!("{}", random.next_u64())) }
        })
        .collect();
    in_every_arrangement(&changes, |_, keyspace, arrangement| {
        let expected = result_of(&changes);
        let mut random = Random::from_seed(10);
        for _ in 0..150 {
            let a = random.below(3100);
            let b = a + random.below(200);
            let (start, end) = (format!("{a:05}").into_bytes(), format!("{b:05}").into_bytes());
            let part: Map = expected
                .range(start.clone()..end.clone())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let range = start..end;
            assert_eq!(access::collect(keyspace.range(range.clone()).unwrap()).unwrap(), part);
            let back = access::collect_back(keyspace.range(range.clone()).unwrap()).unwrap();
            assert_eq!(back, part, "{arrangement:?}");
            assert_eq!(keyspace.count(range).unwrap(), part.len() as u64);
        }
    });
}

#[test]
fn a_handle_may_outlive_the_scan_that_borrowed_its_key() {
    let database = tiny().unwrap();
    let keyspace = database.keyspace("a").unwrap();
    keyspace.put("a", "1").unwrap();
    keyspace.put("b", "2").unwrap();
    let mut kept = Vec::new();
    for pair in keyspace.iter().unwrap() {
        kept.push(pair.unwrap());
    }
    drop(keyspace);
    Database::close(database).unwrap();
    assert_eq!(kept[0].0, b"a");
    assert_eq!(kept[1].1, b"2");
}
