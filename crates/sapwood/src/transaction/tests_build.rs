//! Levels that are built bottom-up, in parts.

use crate::merge::build::LevelBuilder;
use crate::merge::step;
use crate::merge::verify::verify;
use crate::options::{Durability, Options};
use crate::page::Codec;
use crate::segment::node::Caching;
use crate::segment::segment_source::SegmentSource;
use crate::segment::sorted_source::SortedSource;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::create;
use crate::storage::MemoryStorage;
use crate::sync::Arc;
use crate::sync::Clock;
use crate::transaction::commit::create_keyspace;

/// Parts of a few lowest parents, and a last one of any size.
#[test]
fn parts_come_to_one_tree_with_every_entry() {
    for count in [0, 1, 3_000, 30_000_u32] {
        let storage = Arc::new(MemoryStorage::new());
        let core = create::create(storage, Options::default(), Clock::real()).unwrap();
        let settings =
            KeyspaceSettings { codec: Codec::Plain, value_codec: Codec::Plain, filter_bits: 10 };
        let number = create_keyspace(&core, "a", settings, Durability::Memory).unwrap();
        step::flush(&core).unwrap();
        let mut builder = LevelBuilder::new(&core, number).part_leaves(150);
        for n in 0..count {
            let long = vec![7; if n % 1000 == 3 { 50_000 } else { 200 }];
            builder.push(&n.to_be_bytes(), &long).unwrap();
        }
        builder.finish().unwrap();
        let state = core.state();
        let levels = state.levels_of(number);
        assert_eq!(levels.map_or(0, |levels| levels.iter().count()), usize::from(count > 0));
        let mut read = 0;
        if let Some(last) = levels.and_then(|levels| levels.last()) {
            let mut source = SegmentSource::new(&core.pages, last, number, Caching::Pass);
            source.seek(&[]).unwrap();
            while source.valid() {
                assert_eq!(source.key(), u32::to_be_bytes(read));
                read += 1;
                source.next().unwrap();
            }
        }
        assert_eq!(read, count);
        let mut quiet = |_: u64, _: u64| true;
        let report = verify(&core, &mut quiet).unwrap();
        assert!(report.is_clean(), "{count}: {:?}", report.problems);
    }
}

/// A part may have millions of values: what is kept of each until its install would be more than
/// the budget.
#[test]
fn values_that_lie_side_by_side_are_kept_as_few_runs() {
    let storage = Arc::new(MemoryStorage::new());
    let core = create::create(storage, Options::default(), Clock::real()).unwrap();
    let settings =
        KeyspaceSettings { codec: Codec::Plain, value_codec: Codec::Plain, filter_bits: 10 };
    let number = create_keyspace(&core, "a", settings, Durability::Memory).unwrap();
    step::flush(&core).unwrap();
    let mut builder = LevelBuilder::new(&core, number);
    for n in 0..3_000_u32 {
        builder.push(&n.to_be_bytes(), &[7; 8_100]).unwrap();
    }
    assert!((1..30).contains(&builder.value_runs()), "{} runs", builder.value_runs());
    builder.finish().unwrap();
    let report = verify(&core, &mut |_, _| true).unwrap();
    assert!(report.is_clean(), "{:?}", report.problems);
}
