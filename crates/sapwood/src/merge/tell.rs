//! Tells `tracing` how a database stands, when a step, a `flush` or a `compact` has made a state
//! durable: which snapshots are held, and what [`Stats`](crate::Stats) has of cache, log, debt and
//! syncs. Nothing is told of states that commits have made durable for room, in the log or in the
//! file, nor of those before the first write.
//!
//! *Guarantees*: nothing is looked up for events that nobody wants; no I/O. At most 16 snapshots
//! are looked at; what is held for all is a sum over each part of each dead list, made under their
//! lock. None of the locks that have a rank is held while somebody is told; a `flush` or `compact`
//! of the application's is then still a call under way, for which a close waits. *Threads*: any
//! that makes a step or such a call.

use crate::state::Core;

use super::debt::Debt;

/// So many snapshots are told, the oldest ones: what keeps most is seldom the youngest.
const SNAPSHOTS_MAX: usize = 16;

/// See the module.
pub fn tell(core: &Core) {
    if tracing::enabled!(target: "sapwood::snapshot", tracing::Level::DEBUG) {
        tell_snapshots(core);
    }
    if tracing::enabled!(target: "sapwood::stats", tracing::Level::DEBUG) {
        tell_stats(core);
    }
}

fn tell_snapshots(core: &Core) {
    let page_bytes = u64::from(core.pages.layout().page_size);
    let now = core.clock.now();
    for held in core.snapshots.oldest(core, SNAPSHOTS_MAX) {
        let micros = now.saturating_sub(held.since).as_micros() as u64;
        let alone_bytes = held.pages_alone * page_bytes;
        tracing::debug!(
            target: "sapwood::snapshot",
            sequence = held.number.0,
            micros,
            thread = ?held.by,
            alone_bytes,
            "a snapshot is held"
        );
    }
}

fn tell_stats(core: &Core) {
    let pages = core.pages.counters();
    let held = core.held.stats();
    let state = core.state();
    let log = core.log.positions();
    let debt = Debt::of(core.backlog(), core.memtable_bytes(), core.memtable_bytes_max());
    let syncs = core.sync_gate.counts();
    tracing::debug!(
        target: "sapwood::stats",
        snapshots = core.snapshots.count() as u64,
        held_bytes = held.pages * u64::from(core.pages.layout().page_size),
        cache_hits = pages.cache_hits,
        cache_misses = pages.cache_misses,
        unflushed_bytes = log.end.0.saturating_sub(state.cut.position.0),
        unsynced_bytes = log.end.0.saturating_sub(log.durable.0),
        available_bytes = core.log.available(),
        debt = debt.felt(),
        memory = debt.memory,
        young = debt.young,
        above = debt.above,
        syncs = syncs.count,
        micros = syncs.total.as_micros() as u64,
        longest_micros = syncs.longest.as_micros() as u64,
        "how the database stands"
    );
}
