//! The sequences of events that would lose data, each as a test.

use super::*;
use crate::error::Error;

const BLOCKS: &[Block] = &[Block { first: PageNumber(1), pages: 64 }];

#[test]
fn a_sync_covers_an_earlier_memory_commit() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    commit(&writer, 1, 10);
    writer.sync_to(commit(&writer, 2, 10).end).unwrap();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [1, 2]);
}

#[test]
fn a_sync_covers_what_was_only_handed_to_the_system() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    writer.write_to(commit(&writer, 1, 600).end).unwrap();
    writer.write_to(commit(&writer, 2, 600).end).unwrap();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [0u64; 0]);
    let before = storage.sync_counts();
    writer.sync_to(commit(&writer, 3, 10).end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0 + 1, before.1), "one data-synced write");
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [1, 2, 3]);
}

#[test]
fn a_sync_after_reopen_covers_what_lay_in_the_cache_only() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    for sequence in 1..=4 {
        writer.sync_to(commit(&writer, sequence, 100).end).unwrap();
    }
    for sequence in 5..=9 {
        writer.write_to(commit(&writer, sequence, 100).end).unwrap();
    }
    drop(writer);
    let (_, end) = replayed(&storage, &image, PAGE).unwrap();
    assert!(end.durable < end.position, "what was replayed is not taken for durable");
    let ring = Ring::new(&image.list, u64::from(PAGE)).unwrap();
    let start = LogStart::after_replay(end);
    let writer = LogWriter::open(stream_over(&storage, PAGE), ring, SEED, start);
    writer.sync_to(commit(&writer, 10, 10).end).unwrap();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), (1..=10).collect::<Vec<_>>());
}

#[test]
fn an_open_makes_the_stretch_that_may_be_lost_durable_even_when_it_is_long() {
    let (storage, image, writer) = new_log(&[block(1, 4096)], PAGE);
    for sequence in 1..=30 {
        writer.write_to(commit(&writer, sequence, 100_000).end).unwrap();
    }
    drop(writer);
    let writer = reopen(&storage, &image, PAGE);
    assert_eq!(writer.positions().durable, writer.positions().end);
    assert_eq!(sequences(&storage.harshest_power_cut(), &image).len(), 30);
}

#[test]
fn more_than_a_mebibyte_is_made_durable_by_a_data_sync() {
    let (storage, image, writer) = new_log(&[block(1, 4096)], PAGE);
    let before = storage.sync_counts();
    for sequence in 1..=12 {
        commit(&writer, sequence, 100_000);
    }
    writer.sync_to(writer.positions().end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0, before.1 + 1));
    assert_eq!(sequences(&storage.harshest_power_cut(), &image).len(), 12);
    writer.sync_to(commit(&writer, 13, 10).end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0 + 1, before.1 + 1), "then directly again");
    assert_eq!(sequences(&storage.harshest_power_cut(), &image).len(), 13);
}

#[test]
fn buffered_commits_beyond_a_mebibyte_are_not_kept_in_memory() {
    let (storage, image, writer) = new_log(&[block(1, 4096)], PAGE);
    let before = storage.sync_counts();
    for sequence in 1..=12 {
        writer.write_to(commit(&writer, sequence, 100_000).end).unwrap();
    }
    writer.sync_to(commit(&writer, 13, 10).end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0, before.1 + 1));
    assert_eq!(sequences(&storage.harshest_power_cut(), &image).len(), 13);
}

#[test]
fn a_record_that_names_unsynced_blocks_takes_a_data_sync_of_the_file() {
    let (storage, _, writer) = new_log(BLOCKS, PAGE);
    let before = storage.sync_counts();
    let append = |sequence, blocks| {
        let payload = payload(sequence, 10);
        writer.append(RecordKind::Commit, SequenceNumber(sequence), blocks, &[&payload]).unwrap()
    };
    append(1, NamedBlocks::Unsynced);
    writer.sync_to(append(2, NamedBlocks::None).end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0, before.1 + 1));
    writer.sync_to(append(3, NamedBlocks::OnDisk).end).unwrap();
    assert_eq!(storage.sync_counts(), (before.0 + 1, before.1 + 1));
}

#[test]
fn memory_commits_say_when_a_mebibyte_is_buffered() {
    let (_, _, writer) = new_log(&[block(1, 4096)], PAGE);
    let appended = (1..=11).map(|sequence| commit(&writer, sequence, 100_000)).collect::<Vec<_>>();
    let full = appended.iter().position(|appended| appended.buffer_is_full);
    assert_eq!(full, Some(10));
    writer.write_to(appended[10].end).unwrap();
    assert!(!commit(&writer, 12, 10).buffer_is_full);
}

#[test]
fn the_record_of_a_state_fits_into_a_log_that_is_full() {
    let (storage, mut image, writer) = new_log(&[block(1, 1), block(4, 1)], PAGE);
    let mut sequence = 1;
    while try_commit(&writer, sequence, 0).is_ok() {
        sequence += 1;
    }
    let refused = try_commit(&writer, sequence, 0);
    assert!(matches!(refused, Err(AppendError::Full(full)) if full.needed > full.available));
    let (cut, chain) = writer.cut_here();
    image.list = writer.plan_list(cut, &[], 0).unwrap();
    (image.cut, image.chain, image.generation) = (cut, chain, 2);
    image.sequence = SequenceNumber(sequence - 1);
    assert_eq!(image.list.blocks, [block(4, 1), block(1, 1)]);
    assert_eq!(writer.record_state(Epoch(2), 2).unwrap(), []);
    writer.sync_to(commit(&writer, sequence, 100).end).unwrap();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [sequence]);
}

#[test]
fn a_list_without_room_for_the_next_state_is_refused_and_blocks_help() {
    let (_, image, writer) = new_log(&[block(1, 1)], PAGE);
    let mut sequence = 1;
    while try_commit(&writer, sequence, 0).is_ok() {
        sequence += 1;
    }
    let (cut, _) = writer.cut_here();
    assert!(matches!(writer.plan_list(cut, &[], 0), Err(AppendError::Full(_))));
    let list = writer.plan_list(cut, &[block(9, 1)], 0).unwrap();
    assert_eq!((list.start, list.blocks), (image.list.start, vec![block(1, 1), block(9, 1)]));
}

#[test]
fn nothing_is_written_to_the_new_order_before_its_record_is_durable() {
    let (storage, mut image, writer) = new_log(&[block(1, 1), block(4, 1)], PAGE);
    commit(&writer, 1, 1100);
    let (cut, chain) = writer.cut_here();
    prepare_blocks(&stream_over(&storage, PAGE), &[block(7, 8)]).unwrap();
    stream_over(&storage, PAGE).sync_data().unwrap();
    let list = writer.plan_list(cut, &[block(7, 8)], 0).unwrap();
    let mut last = 1;
    while try_commit(&writer, last + 1, 100).is_ok() {
        last += 1;
    }
    writer.sync_to(writer.positions().end).unwrap();
    // The slot is torn: the state before still has its whole log.
    let all = (1..=last).collect::<Vec<_>>();
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), all);
    writer.record_state(Epoch(2), 2).unwrap();
    assert!(try_commit(&writer, last + 1, 5_000).is_ok());
    (image.list, image.cut, image.chain, image.generation) = (list, cut, chain, 2);
    image.sequence = SequenceNumber(1);
    writer.sync_to(writer.positions().end).unwrap();
    assert_eq!(
        sequences(&storage.harshest_power_cut(), &image),
        (2..=last + 1).collect::<Vec<_>>()
    );
}

#[test]
fn after_an_open_whose_state_no_record_names_that_record_comes_first() {
    let (storage, mut image, writer) = new_log(&[block(1, 1), block(4, 1)], PAGE);
    commit(&writer, 1, 1100);
    (image.cut, image.chain) = writer.cut_here();
    image.list = writer.plan_list(image.cut, &[], 0).unwrap();
    (image.generation, image.sequence) = (2, SequenceNumber(1));
    writer.sync_to(writer.positions().end).unwrap();
    drop(writer);
    let (_, end) = replayed(&storage, &image, PAGE).unwrap();
    assert!(!end.state_is_recorded);
    let ring = Ring::new(&image.list, u64::from(PAGE)).unwrap();
    let writer =
        LogWriter::open(stream_over(&storage, PAGE), ring, SEED, LogStart::after_replay(end));
    assert!(matches!(try_commit(&writer, 101, 0), Err(AppendError::Full(_))));
    writer.record_state(Epoch(2), 2).unwrap();
    writer.sync_to(commit(&writer, 101, 0).end).unwrap();
    let (_, end) = replayed(&storage.harshest_power_cut(), &image, PAGE).unwrap();
    assert_eq!(end.last_state_durable, Some((Epoch(2), 2)));
    assert!(end.state_is_recorded);
}

#[test]
fn an_older_state_than_the_log_names_is_damage() {
    let (storage, image, writer) = new_log(&[block(1, 8), block(20, 8)], PAGE);
    commit(&writer, 1, 100);
    let (cut, _) = writer.cut_here();
    writer.plan_list(cut, &[], 0).unwrap();
    writer.record_state(Epoch(2), 2).unwrap();
    assert!(replayed(&storage, &image, PAGE).unwrap_err().is_corruption());
}

#[test]
fn blocks_ahead_are_dropped_and_the_log_stays_before_them() {
    let (storage, mut image, writer) = new_log(&[block(1, 2), block(10, 80), block(100, 9)], PAGE);
    commit(&writer, 1, 100);
    let (cut, chain) = writer.cut_here();
    prepare_blocks(&stream_over(&storage, PAGE), &[block(120, 1)]).unwrap();
    stream_over(&storage, PAGE).sync_data().unwrap();
    let list = writer.plan_list(cut, &[block(120, 1)], 2).unwrap();
    assert_eq!(list.blocks, [block(1, 2), block(10, 80), block(120, 1)], "the second is too near");
    assert!(matches!(try_commit(&writer, 2, 84_000), Err(AppendError::Full(_))));
    assert_eq!(writer.record_state(Epoch(2), 2).unwrap(), [block(100, 9)]);
    writer.sync_to(commit(&writer, 2, 84_000).end).unwrap();
    (image.list, image.cut, image.chain, image.generation) = (list, cut, chain, 2);
    image.sequence = SequenceNumber(1);
    assert_eq!(sequences(&storage.harshest_power_cut(), &image), [2]);
}

#[test]
fn a_failed_sync_stops_the_log_for_ever() {
    for long in [10, 2_000_000] {
        let (storage, _, writer) = new_log(&[block(1, 4096)], PAGE);
        let durable = writer.positions().durable;
        let appended = commit(&writer, 1, long);
        storage.fail_sync_after(0);
        assert!(matches!(writer.sync_to(appended.end), Err(Error::Stopped(_))));
        assert_eq!(writer.positions().durable, durable);
        let syncs = storage.sync_counts();
        let bytes = storage.bytes();
        assert!(matches!(writer.sync_to(appended.end), Err(Error::Stopped(_))));
        assert!(matches!(writer.write_to(appended.end), Err(Error::Stopped(_))));
        assert!(matches!(try_commit(&writer, 2, 1), Err(AppendError::Failed(Error::Stopped(_)))));
        assert_eq!((storage.sync_counts(), storage.bytes()), (syncs, bytes), "nothing is written");
    }
}

/// Who had waited for another's sync woke when something had failed elsewhere, and said that its
/// commit was refused, though all saw it.
#[test]
fn what_is_on_disk_stays_so_when_the_log_stops() {
    let (_, _, writer) = new_log(BLOCKS, PAGE);
    let appended = commit(&writer, 1, 100);
    writer.sync_to(appended.end).unwrap();
    writer.stop(Arc::new(Error::Closed));
    writer.sync_to(appended.end).unwrap();
    assert!(matches!(writer.write_to(appended.end), Err(Error::Stopped(_))));
    assert!(matches!(try_commit(&writer, 2, 1), Err(AppendError::Failed(Error::Stopped(_)))));
}

#[test]
fn a_write_that_fails_part_way_stops_the_log_like_a_failed_sync() {
    let (storage, image, writer) = new_log(BLOCKS, PAGE);
    writer.sync_to(commit(&writer, 1, 100).end).unwrap();
    storage.fail_write_after(0);
    let cause = writer.write_to(commit(&writer, 2, 100).end).unwrap_err();
    assert!(cause.to_string().contains("writing"), "{cause}");
    assert!(writer.check().is_err());
    assert!(writer.plan_list(LogPosition(0), &[], 0).is_err());
    assert_eq!(sequences(&storage, &image), [1], "half of a record is none");
}

#[test]
fn a_failure_elsewhere_stops_the_log_too() {
    let (_, _, writer) = new_log(BLOCKS, PAGE);
    writer.stop(Arc::new(Error::Cancelled));
    assert!(matches!(try_commit(&writer, 1, 1), Err(AppendError::Failed(Error::Stopped(_)))));
}
