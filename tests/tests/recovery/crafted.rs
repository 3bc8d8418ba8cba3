//! A value that was made to look like records of the log, and is in the record that a kill tears,
//! is torn like any other. An open refused the file as damaged, since more claimed to be records
//! behind the break than a log can hold.

use super::*;

const VALUE_BYTES: usize = 2_000;
const CLAIMED_BYTES: u32 = 256 * 1024;
/// A fresh database's log is not longer.
const LOG_BYTES_MAX: usize = 2 << 20;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Where `value` lies in the log of a file, and the record that holds it: its place in the file,
/// its length, and its position in the log.
fn record_of(image: &[u8], value: &[u8]) -> (usize, usize, usize, u64) {
    let lies_at = |at: &usize| image[*at..].starts_with(value);
    let at = (0..image.len()).find(lies_at).expect("the value lies in the log");
    let holds = |start: &usize| {
        (at + value.len()..at + value.len() + 100)
            .contains(&(start + u32_at(image, start + 4) as usize))
    };
    let start = (at - 100..at - 40).rev().filter(|start| start % 8 == 0).find(holds).unwrap();
    let position = u64::from_le_bytes(image[start + 8..start + 16].try_into().unwrap());
    (at, start, u32_at(image, start + 4) as usize, position)
}

/// A database with one commit that was acknowledged, its image, and that behind one more commit.
fn committed(value: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let storage = SimulatedStorage::new();
    let database = Database::builder().open_on(Arc::new(storage.clone())).unwrap();
    let keyspace = database.keyspace("a").unwrap();
    let put = |key: &str, value: &[u8]| {
        let mut batch = database.batch();
        batch.put(&keyspace, key, value).unwrap();
        batch.commit_with(Durability::Sync).unwrap();
    };
    put("acknowledged", b"yes");
    let before = storage.image();
    put("crafted", value);
    (before, storage.image())
}

#[test]
fn a_value_that_looks_like_records_is_torn_like_any_other() {
    // Where it comes to lie is the same in every file.
    let plain = vec![0xa7; VALUE_BYTES];
    let (_, image) = committed(&plain);
    let (at, start, _, position) = record_of(&image, &plain);
    let mut value = vec![0; VALUE_BYTES];
    let skipped = (start.wrapping_sub(at)) % 8;
    for (index, bytes) in value[skipped..].chunks_exact_mut(16).enumerate() {
        let place = position + (at + skipped - start + 16 * index) as u64;
        bytes[4..8].copy_from_slice(&CLAIMED_BYTES.to_le_bytes());
        bytes[8..].copy_from_slice(&place.to_le_bytes());
    }
    assert!(VALUE_BYTES / 16 * CLAIMED_BYTES as usize > 8 * LOG_BYTES_MAX);
    let (before, image) = committed(&value);
    assert!(image.len() < LOG_BYTES_MAX + (1 << 20), "the file is {} bytes long", image.len());
    let (found, start, length, _) = record_of(&image, &value);
    assert_eq!(found, at);

    // A kill leaves the sectors that were written by then.
    for sector in (start..start + length).step_by(512).skip(1) {
        let torn_at = sector / 512 * 512;
        let mut torn = image.clone();
        torn[torn_at..start + length].copy_from_slice(&before[torn_at..start + length]);
        let storage = SimulatedStorage::from_image(torn);
        let open = || Database::builder().open_on(Arc::new(storage.clone())).unwrap();
        let database = open();
        let keyspace = database.keyspace("a").unwrap();
        assert_eq!(keyspace.get("acknowledged").unwrap().as_deref(), Some(&b"yes"[..]));
        assert!(keyspace.get("crafted").unwrap().is_none());
        keyspace.put("next", "one").unwrap();
        database.sync().unwrap();
        drop((keyspace, database));
        let database = open();
        let keyspace = database.keyspace("a").unwrap();
        assert_eq!(keyspace.get("next").unwrap().as_deref(), Some(&b"one"[..]));
    }
}
