//! Many committers at once.

use std::thread;
use std::time::Duration;

use super::*;
use crate::error::Error;
use crate::storage::SyncGate;
use crate::sync::{Clock, Mutex, channel};

#[test]
fn committers_that_wait_share_one_sync() {
    let (storage, image, writer) = new_log(&[block(1, 64)], PAGE);
    let (begun, has_begun) = channel::unbounded();
    let (go, may_go) = channel::unbounded();
    storage.set_gate(begun, may_go);
    let before = storage.sync_counts().0;
    thread::scope(|scope| {
        let first = commit(&writer, 1, 10);
        let writer = &writer;
        scope.spawn(move || writer.sync_to(first.end).unwrap());
        has_begun.recv().unwrap();
        // While the first sync is under way others append without waiting for it.
        let ends = (2..=9).map(|sequence| commit(writer, sequence, 10).end).collect::<Vec<_>>();
        assert_eq!(writer.positions().durable, first.position);
        for end in ends {
            scope.spawn(move || writer.sync_to(end).unwrap());
        }
        go.send(()).unwrap();
        has_begun.recv().unwrap();
        go.send(()).unwrap();
    });
    assert_eq!(storage.sync_counts().0 - before, 2);
    assert_eq!(writer.counters().largest_group, 8);
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), (1..=9).collect::<Vec<_>>());
}

#[test]
fn whoever_waits_for_a_sync_that_fails_learns_the_cause() {
    let (storage, _, writer) = new_log(&[block(1, 64)], PAGE);
    let (begun, has_begun) = channel::unbounded();
    let (go, may_go) = channel::unbounded();
    storage.set_gate(begun, may_go);
    storage.fail_sync_after(0);
    let failures = Mutex::new(0);
    thread::scope(|scope| {
        for sequence in 1..=4 {
            let end = commit(&writer, sequence, 10).end;
            let (writer, failures) = (&writer, &failures);
            scope.spawn(move || match writer.sync_to(end) {
                Err(Error::Stopped(cause)) if matches!(*cause, Error::Io { .. }) => {
                    *failures.lock() += 1;
                }
                other => panic!("{other:?}"),
            });
        }
        has_begun.recv().unwrap();
        go.send(()).unwrap();
    });
    assert_eq!(*failures.lock(), 4);
}

#[test]
fn buffered_commits_go_on_beside_a_data_sync_and_are_not_counted_as_synced() {
    let (storage, image, writer) = new_log(&[block(1, 4096)], PAGE);
    let (begun, has_begun) = channel::unbounded();
    let (go, may_go) = channel::unbounded();
    storage.set_gate(begun, may_go);
    thread::scope(|scope| {
        let first = commit(&writer, 1, 2_000_000);
        let writer = &writer;
        let leader = scope.spawn(move || writer.sync_to(first.end).unwrap());
        has_begun.recv().unwrap();
        let second = commit(writer, 2, 10);
        writer.write_to(second.end).unwrap();
        assert_eq!(writer.positions().written, second.end);
        go.send(()).unwrap();
        leader.join().unwrap();
        assert_eq!(writer.positions().durable, first.end);
        scope.spawn(move || writer.sync_to(second.end).unwrap());
        has_begun.recv().unwrap();
        go.send(()).unwrap();
    });
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [1, 2]);
}

/// What a synced write has said holds once the other syncs of the file have said so too: who only
/// hands over does not wait for those.
#[test]
fn buffered_commits_go_on_while_a_synced_one_waits_for_a_sync_of_the_file() {
    let (storage, gate) = (TestStorage::empty(), Arc::new(SyncGate::new(Clock::real())));
    let stream = stream_over(&storage, PAGE).through(&gate);
    let image = empty_image(&[block(1, 64)]);
    prepare_blocks(&stream, &image.list.blocks).unwrap();
    stream.sync_data().unwrap();
    let ring = Ring::new(&image.list, u64::from(PAGE)).unwrap();
    let writer = LogWriter::open(stream, ring, SEED, LogStart::empty(LogPosition(0)));
    writer.record_state(Epoch(1), 1).unwrap();
    let (begun, has_begun) = channel::bounded(0);
    let (go, may_go) = channel::bounded::<()>(0);
    thread::scope(|scope| {
        let (gate, writer, go) = (&gate, &writer, go);
        scope.spawn(move || {
            let sync = || {
                begun.send(()).unwrap();
                may_go.recv().unwrap();
                Ok(())
            };
            gate.run(sync).unwrap();
        });
        has_begun.recv().unwrap();
        let first = commit(writer, 1, 10);
        let leader = scope.spawn(move || writer.sync_to(first.end).unwrap());
        let clock = Clock::real();
        while writer.positions().written < first.end {
            assert!(clock.now() < Duration::from_secs(10), "it waits for the other sync");
            thread::yield_now();
        }
        let second = commit(writer, 2, 10);
        writer.write_to(second.end).unwrap();
        assert!(writer.positions().durable < first.end);
        go.send(()).unwrap();
        leader.join().unwrap();
        assert_eq!(writer.positions().durable, first.end);
    });
}

/// A data sync of the file, for another reason, may have brought those bytes to the disk before:
/// but while they are written again a power cut may tear them, and what lies behind is lost too.
#[test]
fn nothing_is_durable_behind_bytes_that_are_being_written_again() {
    let (storage, image, writer) = new_log(&[block(1, 64)], PAGE);
    let (begun, has_begun) = channel::unbounded();
    let (go, may_go) = channel::unbounded();
    storage.set_gate(begun, may_go);
    thread::scope(|scope| {
        let first = commit(&writer, 1, 10);
        writer.write_to(first.end).unwrap();
        let before = writer.positions().durable;
        let writer = &writer;
        let leader = scope.spawn(move || writer.sync_to(first.end).unwrap());
        has_begun.recv().unwrap();
        let second = commit(writer, 2, 10);
        writer.write_to(second.end).unwrap();
        writer.note_file_synced(second.end);
        assert_eq!(writer.positions().durable, before);
        go.send(()).unwrap();
        leader.join().unwrap();
        assert_eq!(writer.positions().durable, first.end);
        // It has ended: a sync that begins now counts.
        writer.note_file_synced(second.end);
        assert_eq!(writer.positions().durable, second.end);
    });
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [1]);
}

/// A sync that has failed may have been told of what another one, which says that all is well, was
/// to bring to the disk; or it has torn what it wrote again.
#[test]
fn nothing_becomes_durable_once_the_log_has_stopped() {
    let (_storage, _image, writer) = new_log(&[block(1, 64)], PAGE);
    let first = commit(&writer, 1, 10);
    writer.write_to(first.end).unwrap();
    let before = writer.positions().durable;
    writer.stop(Arc::new(Error::Closed));
    writer.note_file_synced(first.end);
    assert_eq!(writer.positions().durable, before);
    assert!(writer.sync_to(first.end).is_err());
}

#[test]
fn threads_of_every_durability_leave_one_order_and_lose_no_sync() {
    let (storage, image, writer) = new_log(&[block(1, 700), block(900, 700)], PAGE);
    let order = Mutex::new(0u64);
    let synced = Mutex::new(0u64);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (writer, order, synced) = (&writer, &order, &synced);
            scope.spawn(move || {
                for round in 0..400 {
                    let (sequence, end) = {
                        let mut last = order.lock();
                        *last += 1;
                        (*last, commit(writer, *last, 300 + round % 50).end)
                    };
                    match (round + thread) % 3 {
                        0 => writer.sync_to(end).unwrap(),
                        1 => writer.write_to(end).unwrap(),
                        _ => {}
                    }
                    if (round + thread) % 3 == 0 {
                        let mut synced = synced.lock();
                        *synced = (*synced).max(sequence);
                    }
                }
            });
        }
    });
    let found = sequences(&storage.harshest_power_cut(), &image);
    assert!(found.len() as u64 >= *synced.lock());
    assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>());
    let counters = writer.counters();
    assert_eq!(counters.records, 1601);
    assert!(counters.synced_records >= *synced.lock());
}
