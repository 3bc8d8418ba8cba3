use super::*;

fn message(change: impl FnOnce(&mut Options)) -> String {
    let mut options = Options::default();
    change(&mut options);
    options.validate().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_valid_and_as_documented() {
    let options = Options::default();
    options.validate().unwrap();
    assert_eq!(options.memory_budget, 268_435_456);
    assert_eq!(options.page_size, 4096);
    assert_eq!(options.region_bytes, 134_217_728);
    assert_eq!(options.durability, Durability::Sync);
    assert!((1..=2).contains(&options.merge_threads));
    assert!(options.create && !options.read_only);
    KeyspaceOptions::default().validate().unwrap();
}

#[test]
fn a_small_budget_is_refused_and_the_least_one_works_with_the_defaults() {
    assert_eq!(
        message(|o| o.memory_budget = 4_194_303),
        "option memory_budget: 4194303 bytes are too few: at least 4194304 are needed"
    );
    let options = Options { memory_budget: 4_194_304, ..Options::default() };
    options.validate().unwrap();
}

#[test]
fn page_sizes_are_powers_of_two_within_the_format() {
    for page_size in [0, 512, 4095, 5000, 131_072] {
        assert_eq!(
            message(|o| o.page_size = page_size),
            format!("option page_size: {page_size} is not a power of two from 1024 to 65536")
        );
    }
    for shift in 10..=16 {
        let options = Options { page_size: 1 << shift, ..Options::default() };
        options.validate().unwrap();
    }
}

#[test]
fn reserved_bytes_are_multiples_of_eight_up_to_256() {
    for reserved_bytes in [4, 260, 264, u16::MAX] {
        assert_eq!(
            message(|o| o.reserved_bytes = reserved_bytes),
            format!("option reserved_bytes: {reserved_bytes} is not a multiple of 8 up to 256")
        );
    }
    let options = Options { reserved_bytes: 256, page_size: 1024, ..Options::default() };
    options.validate().unwrap();
}

#[test]
fn regions_are_powers_of_two_of_at_least_64_pages() {
    let refused = "is not a power of two that makes 64 to 4194304 pages of 4096 bytes";
    for region_bytes in [0, 63 * 4096, 131_072, 65 * 4096, 1 << 35, u64::MAX] {
        assert_eq!(
            message(|o| o.region_bytes = region_bytes),
            format!("option region_bytes: {region_bytes} {refused}")
        );
    }
    let options = Options { region_bytes: 64 * 4096, ..Options::default() };
    options.validate().unwrap();
}

#[test]
fn leaves_are_rounded_up_to_whole_pages_and_limited() {
    for leaf_bytes in [0, 65_537, u32::MAX] {
        assert_eq!(
            message(|o| o.leaf_bytes = leaf_bytes),
            format!(
                "option leaf_bytes: {leaf_bytes} is out of range: 1 to 65536 are allowed, and \
                 rounded up to whole pages"
            )
        );
    }
    for (leaf_bytes, page_size, rounded) in
        [(1, 4096, 4096), (8192, 4096, 8192), (8193, 4096, 12_288), (8192, 65_536, 65_536)]
    {
        let options = Options { leaf_bytes, page_size, ..Options::default() };
        options.validate().unwrap();
        assert_eq!(options.leaf_pages_bytes(), rounded);
    }
}

#[test]
fn threads_and_the_sync_interval_are_limited() {
    assert_eq!(
        message(|o| o.merge_threads = 65),
        "option merge_threads: 65 threads are too many: the limit is 64"
    );
    assert_eq!(
        message(|o| o.sync_interval = Duration::ZERO),
        "option sync_interval: 0ns is out of range: 1 millisecond to 24 hours are allowed"
    );
    assert!(message(|o| o.sync_interval = Duration::MAX).starts_with("option sync_interval: "));
    let options = Options { merge_threads: 0, ..Options::default() };
    options.validate().unwrap();
}

#[test]
fn steps_the_log_and_the_file_fit_each_other() {
    assert_eq!(
        message(|o| o.step_bytes = 1000),
        "option step_bytes: 1000 is out of range: 65536 up to the memory budget (268435456) are \
         allowed"
    );
    assert_eq!(
        message(|o| o.log_bytes_min = u64::MAX),
        "option log_bytes_min: 18446744073709551615 is out of range: 65536 up to half the memory \
         budget (134217728) are allowed"
    );
    assert_eq!(
        message(|o| o.max_file_bytes = Some(4_194_303)),
        "option max_file_bytes: 4194303 bytes are too few: at least 4194304 (four times the \
         log's) fit"
    );
    let options = Options { max_file_bytes: Some(4_194_304), ..Options::default() };
    options.validate().unwrap();
}

#[test]
fn keyspace_options_keep_what_was_set_and_refuse_what_is_out_of_range() {
    let options = KeyspaceOptions::default().compression(Compression::None).filter_bits(33);
    assert_eq!(options.compression, Compression::None);
    assert_eq!(
        options.validate().unwrap_err().to_string(),
        "option filter_bits: 33 bits for each key is too much: the limit is 32"
    );
    options.filter_bits(32).validate().unwrap();
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_levels_are_1_to_22_for_keys_and_for_values() {
    for level in [0, 23, -1] {
        let options = KeyspaceOptions::default().value_compression(Compression::Zstd(level));
        assert_eq!(
            options.validate().unwrap_err().to_string(),
            format!("option value_compression: {level} is no zstd level: the levels are 1 to 22")
        );
    }
    let options = KeyspaceOptions::default().compression(Compression::Zstd(23));
    assert!(options.validate().unwrap_err().to_string().starts_with("option compression: "));
    KeyspaceOptions::default().compression(Compression::Zstd(22)).validate().unwrap();
}

#[cfg(not(feature = "zstd"))]
#[test]
fn zstd_is_refused_where_it_was_left_out() {
    let options = KeyspaceOptions::default().compression(Compression::Zstd(1));
    assert_eq!(
        options.validate().unwrap_err().to_string(),
        "option compression: zstd was left out of this build; enable the crate's feature \"zstd\""
    );
}
