//! What a range delete costs: the same over a thousand pairs and over a hundred thousand, until it
//! is in a segment. Merging it down reads the parents of the leaves that it covers, in bounded
//! steps, and of the leaves those at its ends; that their pages are free afterwards reads none.

use std::time::Duration;

use crate::lab::{builder, key};
use sapwood::merge::lists::lists_step;
use sapwood::page::NodeKind;
use sapwood::state::Core;
use sapwood::sync::{Arc, FakeClock};
use sapwood::{Compression, Database, Keyspace, KeyspaceOptions};

const PAIRS: u64 = 110_000;
/// Where what is deleted begins.
const FROM: u64 = 5000;

/// What a piece of work asked for; nothing was in the cache when it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    log_records: u64,
    log_bytes: u64,
    leaves_read: u64,
    parents_read: u64,
    /// Filters, lists, values.
    others_read: u64,
    leaves_written: u64,
    parents_written: u64,
}

struct Bed {
    database: Database,
    core: Arc<Core>,
    keyspace: Keyspace,
    hand: FakeClock,
}

impl Bed {
    /// All pairs in the last level, and nothing left to do.
    fn new() -> Bed {
        let (builder, hand) = builder();
        let database = builder.open_in_memory().unwrap();
        let options = KeyspaceOptions::default().compression(Compression::None);
        let keyspace = database.keyspace_with("a", options).unwrap();
        for start in (0..PAIRS).step_by(500) {
            let mut batch = database.batch();
            for number in start..start + 500 {
                batch.put(&keyspace, key(number), [number as u8; 80]).unwrap();
            }
            batch.commit().unwrap();
        }
        database.wait_until_idle().unwrap();
        let core = database.core().unwrap();
        let bed = Bed { database, core, keyspace, hand };
        assert!(bed.core.state().young.is_empty() && bed.leaves() > PAIRS / 20);
        bed
    }

    /// Leaves of the last level.
    fn leaves(&self) -> u64 {
        let state = self.core.state();
        let levels = state.levels.values().next().unwrap();
        levels.last().and_then(|last| last.points.as_ref()).map_or(0, |root| root.leaves)
    }

    fn cost_of(&self, work: impl FnOnce()) -> Cost {
        self.core.pages.cache().clear();
        let counters = || (self.core.pages.counters(), self.core.log.counters());
        let before = counters();
        work();
        let after = counters();
        let read =
            |kind: NodeKind| after.0.nodes_read[kind.index()] - before.0.nodes_read[kind.index()];
        let written = |kind: NodeKind| {
            after.0.nodes_written[kind.index()] - before.0.nodes_written[kind.index()]
        };
        let others = NodeKind::ALL.into_iter();
        let others = others.filter(|kind| !matches!(kind, NodeKind::Leaf | NodeKind::Parent));
        Cost {
            log_records: after.1.records - before.1.records,
            log_bytes: after.1.record_bytes - before.1.record_bytes,
            leaves_read: read(NodeKind::Leaf),
            parents_read: read(NodeKind::Parent),
            others_read: others.map(read).sum(),
            leaves_written: written(NodeKind::Leaf),
            parents_written: written(NodeKind::Parent),
        }
    }
}

/// The parts of the life of a range delete over so many pairs.
#[derive(Debug)]
struct Life {
    /// The call, commit and all.
    call: Cost,
    flush: Cost,
    /// Merging, step by step.
    steps: Vec<Cost>,
    /// What a snapshot from before held is free.
    giving_back: Cost,
    /// Leaves that the last level has lost.
    leaves_gone: u64,
    freed_bytes: u64,
}

fn life_of_a_delete_over(pairs: u64) -> Life {
    let bed = Bed::new();
    let leaves = bed.leaves();
    let snapshot = bed.database.snapshot().unwrap();
    let range = key(FROM)..key(FROM + pairs);
    let call = bed.cost_of(|| bed.keyspace.delete_range(range).unwrap());
    let flush = bed.cost_of(|| bed.database.flush().unwrap());
    bed.hand.advance(Duration::from_secs(2));
    let mut steps = Vec::new();
    loop {
        let mut is_made = false;
        steps.push(bed.cost_of(|| is_made = bed.database.run_step().unwrap()));
        if !is_made {
            break;
        }
    }
    // Otherwise the durable state before keeps some of it.
    bed.database.flush().unwrap();
    assert!(bed.core.state().young.is_empty(), "it was merged away");
    assert_eq!(bed.keyspace.count::<&[u8]>(..).unwrap(), PAIRS - pairs);
    let free = || bed.database.stats().unwrap().free_bytes;
    let before = free();
    let giving_back = bed.cost_of(|| {
        drop(snapshot);
        bed.core.collect_released();
        while lists_step(&bed.core).unwrap() {}
    });
    let freed_bytes = free() - before;
    Life { call, flush, steps, giving_back, leaves_gone: leaves - bed.leaves(), freed_bytes }
}

#[test]
fn a_range_delete_costs_the_same_over_a_thousand_pairs_and_over_a_hundred_thousand() {
    let (few, many) = (life_of_a_delete_over(1000), life_of_a_delete_over(100_000));
    assert!(many.leaves_gone > 80 * few.leaves_gone, "{} leaves", many.leaves_gone);
    assert_eq!((few.call, few.flush), (many.call, many.flush));
    let Cost { log_records, log_bytes, .. } = few.call;
    assert!(log_records == 1 && log_bytes < 100, "{:?}", few.call);
    assert_eq!(few.call, Cost { log_records, log_bytes, ..Cost::default() });
    // The record of the durable state, and the leaf with the range tombstone.
    let Cost { log_records, log_bytes, .. } = few.flush;
    assert!(log_records == 1 && log_bytes < 100, "{:?}", few.flush);
    let one_leaf = Cost { log_records, log_bytes, leaves_written: 1, ..Cost::default() };
    assert_eq!(few.flush, one_leaf);
    for life in [&few, &many] {
        let sum = |count: fn(&Cost) -> u64| life.steps.iter().map(count).sum::<u64>();
        let steps = life.steps.len() as u64;
        let read = sum(|step| step.leaves_read);
        // In each step the leaf with the range tombstone, and one at an end of the range.
        assert!(read <= 2 * steps + 4, "{read} leaves in {steps} steps");
        let parents = sum(|step| step.parents_read);
        assert!(parents <= 6 * steps, "{parents} parents in {steps} steps");
        assert!(sum(|step| step.leaves_written) <= 4, "what stays is not written anew");
        let Cost { leaves_read, parents_read, others_read, .. } = life.giving_back;
        assert_eq!((leaves_read, parents_read), (0, 0));
        // What is long lies in the file, in pieces, and is read back.
        assert!(others_read <= 1 + life.leaves_gone / 1000, "{others_read} nodes");
        assert!(life.freed_bytes >= life.leaves_gone << 10, "{} bytes", life.freed_bytes);
    }
}
