//! Every option below, at and above its limits. What is refused says what is allowed and leaves no
//! file; what is let through works.

use std::time::Duration;

use crash_lsm::access;
use sapwood::storage::MemoryStorage;
use sapwood::sync::Arc;
use sapwood::{Builder, Compression, Database, Error, KeyspaceOptions};

/// The smallest of everything, so that each case is quick.
fn small() -> Builder {
    Database::builder().merge_threads(0).memory_budget(4 << 20).region_bytes(1 << 20)
}

/// Refused, with the option's name and all of `words`, and without a file.
fn refused(builder: Builder, option: &str, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.db");
    let in_memory = builder.clone().open_in_memory().unwrap_err();
    let on_storage = builder.clone().open_on(Arc::new(MemoryStorage::new())).unwrap_err();
    let error = builder.open(&path).unwrap_err();
    for error in [in_memory, on_storage, error] {
        match &error {
            Error::InvalidOption { option: named, .. } => assert_eq!(*named, option, "{error}"),
            error => panic!("{option}: {error}"),
        }
        let text = error.to_string();
        assert!(text.starts_with(&format!("option {option}: ")), "{text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{text:?} lacks {word:?}"));
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{option}");
}

/// Let through, and the database works, before and after a close.
fn taken(what: &str, builder: Builder) {
    let storage = Arc::new(MemoryStorage::new());
    let open =
        || builder.clone().open_on(storage.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let database = open();
    let keyspace = database.keyspace("a").unwrap();
    for number in 0..300 {
        keyspace.put(format!("{number:03}"), vec![b'v'; 100]).unwrap();
    }
    keyspace.put("large", vec![b'v'; 100_000]).unwrap();
    keyspace.put(vec![b'z'; 16_384], "the longest key").unwrap();
    database.flush().unwrap();
    database.compact().unwrap();
    keyspace.delete("000").unwrap();
    database.close().unwrap();
    let database = open();
    let keyspace = database.existing_keyspace("a").unwrap();
    assert_eq!(keyspace.count::<&str>(..).unwrap(), 301, "{what}");
    assert_eq!(access::verify(&database).unwrap(), None, "{what}");
    database.close().unwrap();
}

#[test]
fn each_option_of_a_database_is_refused_beyond_its_limits() {
    let words = ["power of two", "1024", "65536"];
    for bytes in [0, 1, 512, 1023, 1025, 4095, 1 << 17, u32::MAX] {
        refused(small().page_size(bytes), "page_size", &words);
    }
    for bytes in [1, 7, 9, 257, 264, u16::MAX] {
        refused(small().reserved_bytes(bytes), "reserved_bytes", &["multiple of 8", "256"]);
    }
    for bytes in [0, 1, (1 << 20) - 1, (1 << 20) + 1, 1 << 17, 1 << 35, 1 << 63, u64::MAX] {
        refused(small().region_bytes(bytes), "region_bytes", &["power of two", "64", "4194304"]);
    }
    let fits_pages_only = small().page_size(1024).region_bytes(64 << 10);
    refused(fits_pages_only, "region_bytes", &["too small", "131072"]);
    for bytes in [0, 1, (4 << 20) - 1] {
        refused(small().memory_budget(bytes), "memory_budget", &["at least 4194304"]);
    }
    for bytes in [0, (64 << 10) + 1, u32::MAX] {
        refused(small().leaf_bytes(bytes), "leaf_bytes", &["1 to 65536"]);
    }
    for interval in
        [Duration::ZERO, Duration::from_micros(999), Duration::from_secs(86_401), Duration::MAX]
    {
        refused(small().sync_interval(interval), "sync_interval", &["1 millisecond to 24 hours"]);
    }
    for count in [65, usize::MAX] {
        refused(small().merge_threads(count), "merge_threads", &["the limit is 64"]);
    }
    for bytes in [0, 1, (4 << 20) - 1] {
        refused(small().max_file_bytes(bytes), "max_file_bytes", &["at least 4194304"]);
    }
    // The least at leaves of 8 KiB.
    let least = (1600 << 10) + 112 * (8 << 10);
    for bytes in [1, least - 1] {
        refused(small().reserve_bytes(bytes), "reserve_bytes", &["too few", &least.to_string()]);
    }
    let file_bytes = 8 << 20;
    for bytes in [file_bytes / 2 + 1, file_bytes, u64::MAX] {
        let builder = small().max_file_bytes(file_bytes).reserve_bytes(bytes);
        refused(builder, "reserve_bytes", &["0, or at most 4194304, half of max_file_bytes"]);
    }
    // Half of the shortest file is less than the least reserve.
    let builder = small().max_file_bytes(4 << 20).reserve_bytes(least);
    refused(builder, "reserve_bytes", &["more than 2097152", &least.to_string(), "only 0 is"]);
    let in_memory = small().read_only(true).open_in_memory().unwrap_err();
    assert!(in_memory.to_string().contains("a database in memory is new"), "{in_memory}");
}

#[test]
fn each_option_of_a_database_works_at_its_limits() {
    taken("the smallest page", small().page_size(1 << 10));
    taken("the largest page", small().page_size(1 << 16).region_bytes(64 << 16));
    taken("the most reserved bytes", small().page_size(1 << 10).reserved_bytes(256));
    taken("the smallest region", small().page_size(1 << 10).region_bytes(128 << 10));
    taken("the largest region", small().page_size(1 << 10).region_bytes(1 << 32));
    taken("the smallest budget", small().memory_budget(4 << 20));
    taken("the largest budget", small().memory_budget(usize::MAX as u64));
    taken("the smallest leaf", small().page_size(1 << 10).leaf_bytes(1));
    taken("the largest leaf", small().leaf_bytes(64 << 10));
    taken("the shortest interval", small().sync_interval(Duration::from_millis(1)));
    taken("the longest interval", small().sync_interval(Duration::from_secs(24 * 60 * 60)));
    taken("no thread", small().merge_threads(0));
    taken("the most threads", small().merge_threads(64));
    taken("the shortest file", small().max_file_bytes(4 << 20));
    taken("the longest file", small().max_file_bytes(u64::MAX));
    taken("no reserve", small().reserve_bytes(0));
    taken("no reserve in the shortest file", small().max_file_bytes(4 << 20).reserve_bytes(0));
    let least = (1600 << 10) + 112 * (8 << 10);
    taken("the least reserve", small().reserve_bytes(least));
    taken("half of the file", small().max_file_bytes(16 << 20).reserve_bytes(8 << 20));
    taken("no history", small().max_transaction_history_bytes(0));
    taken("all history", small().max_transaction_history_bytes(u64::MAX));
}

#[test]
fn each_option_of_a_keyspace_is_refused_beyond_its_limits_and_works_at_them() {
    let database = small().open_in_memory().unwrap();
    let options = KeyspaceOptions::default;
    for level in [i32::MIN, -1, 0, 23, i32::MAX] {
        let zstd = Compression::Zstd(level);
        for (options, option) in [
            (options().compression(zstd), "compression"),
            (options().value_compression(zstd), "value_compression"),
        ] {
            let error = database.keyspace_with("refused", options).unwrap_err().to_string();
            assert!(error.starts_with(&format!("option {option}: {level} is no")), "{error}");
            assert!(error.contains("1 to 22"), "{error}");
        }
    }
    for bits in [33, u8::MAX] {
        let refused = database.keyspace_with("refused", options().filter_bits(bits)).unwrap_err();
        let text = refused.to_string();
        assert!(text.starts_with("option filter_bits: ") && text.contains("limit is 32"), "{text}");
    }
    assert!(database.keyspaces().unwrap().is_empty(), "nothing was made");
    let taken = [
        options().compression(Compression::None).value_compression(Compression::None),
        options().compression(Compression::Zstd(1)).value_compression(Compression::Zstd(22)),
        options().compression(Compression::Zstd(22)).value_compression(Compression::Zstd(1)),
        options().filter_bits(0),
        options().filter_bits(32),
    ];
    for (index, options) in taken.into_iter().enumerate() {
        let keyspace = database.keyspace_with(&format!("{index}"), options).unwrap();
        for number in 0..100 {
            keyspace.put(format!("{number:03}"), vec![b'v'; 100]).unwrap();
        }
        keyspace.put("large", vec![b'v'; 100_000]).unwrap();
        database.flush().unwrap();
        assert!(keyspace.get("0505").unwrap().is_none());
        assert_eq!(keyspace.count::<&str>(..).unwrap(), 101);
        assert_eq!(keyspace.get("large").unwrap().unwrap().len(), 100_000);
    }
    database.compact().unwrap();
    assert_eq!(access::verify(&database).unwrap(), None);
}

/// A name goes into every durable state and into memory at each open.
#[test]
fn a_keyspace_name_is_refused_above_its_limit_and_any_text_below_it_is_a_name() {
    let storage = Arc::new(MemoryStorage::new());
    let database = small().open_on(storage.clone()).unwrap();
    for length in [1025, 65_536, 20 << 20] {
        let long = "n".repeat(length);
        database.keyspace("old").unwrap();
        for error in [
            database.keyspace(&long).unwrap_err(),
            database.keyspace_with(&long, KeyspaceOptions::default()).unwrap_err(),
            database.rename_keyspace("old", &long).unwrap_err(),
        ] {
            let expected =
                format!("a keyspace name of {length} bytes is too long: the limit is 1024");
            assert_eq!(error.to_string(), expected);
        }
        assert!(matches!(database.existing_keyspace(&long), Err(Error::UnknownKeyspace(_))));
    }
    database.drop_keyspace("old").unwrap();
    let names =
        ["", " ", "\0", "a/b", "名前", &"n".repeat(1024), &"é".repeat(512)].map(str::to_owned);
    for name in &names {
        database.keyspace(name).unwrap().put("name", name).unwrap();
    }
    database.close().unwrap();
    let database = small().open_on(storage).unwrap();
    let mut sorted = names.to_vec();
    sorted.sort();
    let mut listed = database.keyspaces().unwrap();
    listed.sort();
    assert_eq!(listed, sorted);
    for name in &names {
        let keyspace = database.existing_keyspace(name).unwrap();
        assert_eq!(keyspace.get("name").unwrap().unwrap(), name.as_str());
    }
}
