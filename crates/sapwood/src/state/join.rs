//! Joins tombstones that a scan has walked over, so that the next one does not walk there again.
//!
//! *Assumes*: the scan read the committed entries at its number, and nothing of a transaction's
//! own. *Guarantees*: J1 (see the memtable): a joined range has the scan's own number, and goes
//! only into the memtable to which that belongs, while that one takes writes. Nobody waits.
//! In a database that is only read nothing is joined. *Threads*: any.

use super::core::Core;
use super::snapshot::ReadPoint;
use crate::segment::KEY_BYTES_MAX;
use crate::sync::Arc;
use crate::types::KeyspaceNumber;

/// Between each two neighbouring `borders`, which ascend, a scan of `point` found nothing live.
pub fn join_tombstones(
    core: &Core,
    point: &ReadPoint,
    keyspace: KeyspaceNumber,
    borders: &[Vec<u8>],
) {
    // O4: nothing would ever take it out of the memtable.
    if core.options.read_only {
        return;
    }
    let Some(slot) = point.memtables.first().filter(|slot| slot.reaches(point.at)) else {
        return;
    };
    for pair in borders.windows(2) {
        let [start, end] = pair else { continue };
        // What lies just behind the longest key is no bound.
        if start.len().max(end.len()) > KEY_BYTES_MAX {
            continue;
        }
        // A commit at work is not waited for: the next scan comes by here again. The lock is let go
        // in between, so that no commit waits for long.
        let Some(_order) = core.commit_order.try_lock() else { return };
        if !Arc::ptr_eq(&core.view().active, slot) {
            return;
        }
        slot.table.join(keyspace, start, end, point.at);
    }
}
