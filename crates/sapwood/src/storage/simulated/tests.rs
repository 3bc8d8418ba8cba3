//! What the simulated disk keeps, loses and refuses.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::storage::PIN_BYTES;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::thread;

fn read(storage: &SimulatedStorage, offset: u64, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xee; length];
    storage.read_at(offset, &mut buffer).unwrap();
    buffer
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    WriteSync(u64, Vec<u8>),
    Sync,
    SetLength(u64),
    Allocate(u64, u64),
    Punch(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..900);
    prop_oneof![
        6 => (0_u64..2_500, bytes()).prop_map(|(offset, bytes)| Step::Write(offset, bytes)),
        2 => (0_u64..2_500, bytes()).prop_map(|(offset, bytes)| Step::WriteSync(offset, bytes)),
        1 => Just(Step::Sync),
        2 => (0_u64..3_500).prop_map(Step::SetLength),
        1 => (0_u64..3_000, 0_u64..800).prop_map(|(offset, length)| Step::Allocate(offset, length)),
        1 => (0_u64..3_500, 0_u64..1_500).prop_map(|(offset, length)| Step::Punch(offset, length)),
    ]
}

fn perform(storage: &SimulatedStorage, step: &Step) {
    match step {
        Step::Write(offset, bytes) => storage.write_at(*offset, bytes),
        Step::WriteSync(offset, bytes) => storage.write_sync_at(*offset, bytes),
        Step::Sync => storage.sync_data(),
        Step::SetLength(length) => storage.set_length(*length),
        Step::Allocate(offset, length) => storage.allocate(*offset, *length),
        Step::Punch(offset, length) => storage.punch(*offset, *length),
    }
    .unwrap();
}

const MODEL_BYTES: usize = 4_000;

/// What a crash may leave, kept byte by byte and without any list of changes.
struct Model {
    newest: Vec<u8>,
    /// What each byte may be when no unsynced write covers it.
    candidates: Vec<BTreeSet<u8>>,
    /// Whether an unsynced write covers it: then a torn sector may hold anything.
    unsynced: Vec<bool>,
    length_min: usize,
    length_max: usize,
}

impl Model {
    fn new() -> Model {
        Model {
            newest: Vec::new(),
            candidates: vec![BTreeSet::new(); MODEL_BYTES],
            unsynced: vec![false; MODEL_BYTES],
            length_min: 0,
            length_max: 0,
        }
    }

    fn may_be_zero(&mut self, range: std::ops::Range<usize>) {
        self.candidates[range].iter_mut().for_each(|set| {
            set.insert(0);
        });
    }

    fn set_length(&mut self, length: usize) {
        let (short, long) = (length.min(self.newest.len()), length.max(self.newest.len()));
        self.may_be_zero(short..long);
        self.newest.resize(length, 0);
        self.length_min = self.length_min.min(length);
        self.length_max = self.length_max.max(length);
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Write(_, bytes) | Step::WriteSync(_, bytes) if bytes.is_empty() => {}
            Step::Write(offset, bytes) | Step::WriteSync(offset, bytes) => {
                let start = *offset as usize;
                let end = start + bytes.len();
                if end > self.newest.len() {
                    let length_min = self.length_min;
                    self.set_length(end);
                    self.length_min = length_min;
                }
                self.newest[start..end].copy_from_slice(bytes);
                let synced = matches!(step, Step::WriteSync(..));
                for (index, &byte) in (start..end).zip(bytes) {
                    if synced {
                        self.candidates[index].clear();
                    }
                    self.candidates[index].insert(byte);
                    self.unsynced[index] = !synced;
                }
                if synced {
                    self.length_min = self.length_min.max(end);
                }
            }
            Step::Sync => {
                for index in 0..MODEL_BYTES {
                    self.candidates[index] = self.newest.get(index).copied().into_iter().collect();
                    self.unsynced[index] = false;
                }
                (self.length_min, self.length_max) = (self.newest.len(), self.newest.len());
            }
            Step::SetLength(length) => self.set_length(*length as usize),
            Step::Allocate(offset, length) => {
                let end = (offset + length) as usize;
                if *length > 0 && end > self.newest.len() {
                    let length_min = self.length_min;
                    self.set_length(end);
                    self.length_min = length_min;
                }
            }
            Step::Punch(offset, length) => {
                let end = self.newest.len().min((offset + length) as usize);
                if (*offset as usize) < end {
                    self.newest[*offset as usize..end].fill(0);
                    self.may_be_zero(*offset as usize..end);
                }
            }
        }
    }

    fn check_crashed(&self, image: &[u8]) -> Result<(), TestCaseError> {
        prop_assert!(image.len() >= self.length_min, "{} of {}", image.len(), self.length_min);
        prop_assert!(image.len() <= self.length_max, "{} of {}", image.len(), self.length_max);
        for (index, byte) in image.iter().enumerate() {
            let allowed = self.unsynced[index] || self.candidates[index].contains(byte);
            prop_assert!(allowed, "byte {index} is {byte}, not of {:?}", self.candidates[index]);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn crash_keeps_what_was_synced_and_changes_only_what_was_written(
        steps in prop::collection::vec(step(), 1..14),
        seeds in prop::collection::vec(any::<u64>(), 8),
    ) {
        let storage = SimulatedStorage::new();
        let mut model = Model::new();
        for step in &steps {
            perform(&storage, step);
            model.perform(step);
            prop_assert_eq!(&storage.image(), &model.newest);
            prop_assert_eq!(storage.length().unwrap(), model.newest.len() as u64);
            for &seed in &seeds {
                model.check_crashed(&storage.crash_copy(CrashPlan::Random(seed)).image())?;
            }
            for count in 0..=storage.pending_count() {
                model.check_crashed(&storage.crash_copy(CrashPlan::KeepPrefix(count)).image())?;
            }
            prop_assert_eq!(&storage.crash_copy(CrashPlan::KeepAll).image(), &model.newest);
        }
        storage.sync_data().unwrap();
        prop_assert_eq!(storage.pending_count(), 0);
        prop_assert_eq!(storage.crash_with(CrashPlan::KeepNone).image(), model.newest);
    }

    #[test]
    fn same_seed_gives_the_same_disk(steps in prop::collection::vec(step(), 1..14), seed: u64) {
        let run = || {
            let storage = SimulatedStorage::new();
            steps.iter().for_each(|step| perform(&storage, step));
            storage.crash(&mut Random::from_seed(seed)).image()
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn torn_write_has_each_sector_written_old_zero_or_seldom_garbage_as_a_whole() {
    // Starts and ends inside sectors: the outer parts of those belong to nobody.
    let (offset, length) = (100, 64 * 512);
    let storage = SimulatedStorage::from_image(vec![1; length + 1_000]);
    storage.write_at(offset as u64, &vec![2; length]).unwrap();
    let mut counts = [0_u32; 4];
    for seed in 0..200 {
        let image = storage.crash_copy(CrashPlan::Random(seed)).image();
        assert!(image[..offset].iter().all(|&byte| byte == 1));
        assert!(image[offset + length..].iter().all(|&byte| byte == 1));
        let mut start = offset;
        while start < offset + length {
            let end = ((start / 512 + 1) * 512).min(offset + length);
            let sector = &image[start..end];
            let whole = |value| sector.iter().all(|&byte| byte == value);
            let fate = [whole(2), whole(1), whole(0), true].iter().position(|&is| is);
            counts[fate.unwrap()] += 1;
            start = end;
        }
    }
    assert!(counts.iter().all(|&count| count > 20), "{counts:?}");
    assert!(counts[3] * 10 < counts[0], "garbage is the exception: {counts:?}");
}

#[test]
fn crash_may_reorder_writes() {
    let storage = SimulatedStorage::from_image(vec![0; 10]);
    storage.write_at(0, b"a").unwrap();
    storage.write_at(1, b"b").unwrap();
    let outcomes: BTreeSet<_> =
        (0..100).map(|seed| storage.crash_copy(CrashPlan::Random(seed)).image()).collect();
    for outcome in [b"\0\0", b"a\0", b"\0b", b"ab"] {
        assert!(outcomes.iter().any(|image| image.starts_with(outcome)), "{outcome:?}");
    }
}

#[test]
fn synced_write_leaves_older_writes_elsewhere_unsynced() {
    let storage = SimulatedStorage::new();
    storage.write_at(0, b"older").unwrap();
    storage.write_sync_at(5, b"synced").unwrap();
    assert_eq!(storage.pending_count(), 1);
    assert_eq!(storage.crash_with(CrashPlan::KeepNone).image(), b"\0\0\0\0\0synced");
}

#[test]
fn older_overlapping_write_does_not_undo_a_synced_one() {
    let storage = SimulatedStorage::new();
    storage.write_at(0, b"aaaaaaaaaa").unwrap();
    storage.write_sync_at(3, b"SSS").unwrap();
    assert_eq!(storage.pending_count(), 2, "the parts before and behind");
    for seed in 0..200 {
        let image = storage.crash_copy(CrashPlan::Random(seed)).image();
        assert_eq!(&image[3..6], b"SSS", "seed {seed}");
    }
    storage.write_at(3, b"bbb").unwrap();
    let image = storage.crash_with(CrashPlan::KeepAll).image();
    assert_eq!(image, b"aaabbbaaaa", "a newer one may");
}

#[test]
fn cut_before_a_synced_write_does_not_cut_it_off() {
    let storage = SimulatedStorage::from_image(vec![7; 2_000]);
    storage.set_length(100).unwrap();
    storage.write_sync_at(1_000, b"synced").unwrap();
    let lengths: BTreeSet<_> = (0..100)
        .map(|seed| {
            let image = storage.crash_copy(CrashPlan::Random(seed)).image();
            assert_eq!(&image[1_000..1_006], b"synced", "seed {seed}");
            image.len()
        })
        .collect();
    assert_eq!(lengths, BTreeSet::from([1_006, 2_000]), "the cut itself may be lost");
}

#[test]
fn killed_process_loses_nothing_but_a_power_cut_after_it_may() {
    let storage = SimulatedStorage::new();
    storage.write_sync_at(0, b"one").unwrap();
    storage.write_at(3, b"two").unwrap();
    let reopened = storage.kill();
    assert_eq!(reopened.image(), b"onetwo");
    assert_eq!(reopened.crash_with(CrashPlan::KeepNone).image(), b"one");
}

#[test]
fn old_handles_fail_after_crash_and_kill_and_do_not_reach_the_new_disk() {
    type End = fn(&SimulatedStorage) -> SimulatedStorage;
    let ends: [End; 2] = [|old| old.crash_with(CrashPlan::KeepAll), SimulatedStorage::kill];
    for end in ends {
        let old = SimulatedStorage::from_image(b"kept".to_vec());
        let clone = old.clone();
        let new = end(&old);
        let results = [
            clone.read_at(0, &mut [0]),
            clone.write_at(0, b"x"),
            clone.write_sync_at(0, b"x"),
            clone.sync_data(),
            clone.length().map(drop),
            clone.set_length(0),
            clone.allocate(0, 100),
            clone.write_back(0, 1),
            clone.advise(0, 1, Advice::WillNeed),
            clone.punch(0, 1),
            clone.sync_directory(),
        ];
        for result in results {
            let message = result.unwrap_err().to_string();
            assert_eq!(message, "simulated disk: this handle ended with its process");
        }
        new.write_at(0, b"K").unwrap();
        assert_eq!(new.image(), b"Kept");
        assert_eq!(clone.image(), b"kept", "it can still be looked at");
    }
}

#[test]
fn fault_hits_the_nth_operation_of_its_kind_once() {
    let storage = SimulatedStorage::from_image(vec![0; 8]);
    storage.fail_at(FaultKind::Read, 2, true, io::ErrorKind::TimedOut);
    storage.write_at(0, b"x").unwrap();
    read(&storage, 0, 1);
    assert_eq!(storage.read_at(0, &mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
    read(&storage, 0, 1);
}

#[test]
fn lasting_fault_ends_when_it_is_cleared() {
    let storage = SimulatedStorage::new();
    storage.fail_at(FaultKind::Any, 2, false, io::ErrorKind::Other);
    storage.set_length(4).unwrap();
    for _ in 0..3 {
        assert!(storage.set_length(5).is_err());
        assert!(storage.advise(0, 1, Advice::Random).is_err());
    }
    assert_eq!(storage.length().unwrap(), 4);
    storage.clear_faults();
    storage.set_length(5).unwrap();
    assert_eq!(storage.operations(), 8, "failed ones count");
}

#[test]
fn each_kind_of_fault_hits_its_operations_only() {
    use OperationKind::{Allocate, Read, SetLength, Sync, SyncDirectory, Write, WriteSync};
    let cases: [(FaultKind, &[OperationKind]); 5] = [
        (FaultKind::Read, &[Read]),
        (FaultKind::Write, &[Write, WriteSync]),
        (FaultKind::Sync, &[WriteSync, Sync, SyncDirectory]),
        (FaultKind::SetLength, &[SetLength]),
        (FaultKind::Allocate, &[Allocate]),
    ];
    for (kind, expected) in cases {
        let storage = SimulatedStorage::from_image(vec![0; 8]);
        storage.fail_at(kind, 1, false, io::ErrorKind::Other);
        let results = [
            (Read, storage.read_at(0, &mut [0])),
            (Write, storage.write_at(0, b"x")),
            (WriteSync, storage.write_sync_at(0, b"x")),
            (Sync, storage.sync_data()),
            (SyncDirectory, storage.sync_directory()),
            (SetLength, storage.set_length(9)),
            (Allocate, storage.allocate(0, 10)),
        ];
        let failed = results.iter().filter(|(_, result)| result.is_err());
        assert_eq!(failed.map(|(kind, _)| *kind).collect::<Vec<_>>(), expected, "{kind:?}");
    }
}

#[test]
fn failed_write_leaves_some_prefix_unsynced() {
    let mut lengths = BTreeSet::new();
    for seed in 0..50 {
        let storage = SimulatedStorage::new();
        storage.set_seed(seed);
        storage.fail_at(FaultKind::Write, 1, true, io::ErrorKind::Other);
        assert!(storage.write_sync_at(0, b"abc").is_err());
        let image = storage.image();
        assert!(b"abc".starts_with(&image), "{image:?}");
        lengths.insert(image.len());
        assert_eq!(storage.durable_image(), b"", "not even a synced write is on disk");
    }
    assert_eq!(lengths, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn failed_sync_leaves_the_bytes_unsynced_and_a_later_one_takes_them() {
    let storage = SimulatedStorage::new();
    storage.write_at(0, b"abc").unwrap();
    storage.fail_at(FaultKind::Sync, 1, true, io::ErrorKind::Other);
    assert!(storage.sync_data().is_err());
    assert_eq!(storage.durable_image(), b"");
    storage.sync_data().unwrap();
    assert_eq!(storage.durable_image(), b"abc");
}

#[test]
fn sync_that_drops_the_cache_loses_bytes_that_reads_still_show() {
    let storage = SimulatedStorage::from_image(b"old".to_vec());
    storage.write_at(0, b"new").unwrap();
    storage.fail_sync_and_drop_cache();
    assert!(storage.sync_data().is_err());
    assert_eq!(storage.image(), b"new");
    storage.write_at(3, b"+").unwrap();
    storage.sync_data().unwrap();
    assert_eq!(storage.image(), b"new+");
    assert_eq!(storage.kill().crash_with(CrashPlan::KeepAll).image(), b"old+");
}

#[test]
fn synced_write_that_drops_the_cache_loses_only_its_own_bytes() {
    let storage = SimulatedStorage::new();
    storage.write_at(0, b"ab").unwrap();
    storage.fail_sync_and_drop_cache();
    assert!(storage.write_sync_at(2, b"cd").is_err());
    assert_eq!(storage.image(), b"abcd");
    assert_eq!(storage.crash_with(CrashPlan::KeepAll).image(), b"ab");
}

#[test]
fn synced_write_that_drops_the_cache_loses_what_was_written_there_before() {
    let storage = SimulatedStorage::from_image(b"......".to_vec());
    storage.write_at(0, b"abcdef").unwrap();
    storage.fail_sync_and_drop_cache();
    assert!(storage.write_sync_at(2, b"cd").is_err());
    storage.sync_data().unwrap();
    assert_eq!(storage.image(), b"abcdef");
    assert_eq!(storage.crash_with(CrashPlan::KeepAll).image(), b"ab..ef");
}

#[test]
fn a_crash_keeps_those_that_it_is_told_to_keep() {
    let storage = SimulatedStorage::from_image(vec![0; 80]);
    for offset in 0..80 {
        storage.write_at(offset, &[1]).unwrap();
    }
    let kept = storage.crash_copy(CrashPlan::KeepSome(1 << 63 | 5)).image();
    let expected: Vec<u8> = (0..80).map(|n| u8::from(n == 0 || n == 2 || n >= 63)).collect();
    assert_eq!(kept, expected);
    assert_eq!(storage.crash_copy(CrashPlan::KeepSome(u64::MAX)).image(), storage.image());
}

#[test]
fn a_crash_in_the_middle_of_a_synced_write_may_lose_or_tear_it() {
    let storage = SimulatedStorage::from_image(vec![1; 2048]);
    let copies = Arc::new(Mutex::new(Vec::new()));
    let (into, of) = (Arc::clone(&copies), storage.clone());
    storage.on_synced_write(Box::new(move |operation| {
        assert_eq!((operation.index, operation.offset, operation.length), (0, 0, 2048));
        let plans = (0..100).map(CrashPlan::Random).chain([CrashPlan::KeepNone]);
        into.lock().extend(plans.map(|plan| of.crash_copy(plan).image()));
    }));
    storage.write_sync_at(0, &[2; 2048]).unwrap();
    assert_eq!(storage.crash_copy(CrashPlan::KeepNone).image(), vec![2; 2048]);
    storage.clear_on_operation();
    storage.write_sync_at(0, &[3; 2048]).unwrap();
    let copies = copies.lock();
    let has = |value: u8| move |image: &&Vec<u8>| image.contains(&value);
    assert_eq!(copies.last(), Some(&vec![1; 2048]));
    assert!(copies.iter().filter(has(1)).any(|image| image.contains(&2)), "none is torn");
    assert!(copies.iter().any(|image| *image == vec![2; 2048]), "none is whole");
    assert!(copies.iter().any(|image| image.contains(&0)), "none has zeros");
}

#[test]
fn full_disk_refuses_growth_and_nothing_else() {
    let storage = SimulatedStorage::from_image(vec![1; 10]);
    storage.set_capacity(12);
    let kinds = [
        storage.write_at(10, b"xyz"),
        storage.write_sync_at(11, b"xy"),
        storage.set_length(13),
        storage.allocate(0, 13),
    ]
    .map(|result| result.unwrap_err().kind());
    assert_eq!(kinds, [io::ErrorKind::StorageFull; 4]);
    assert!(storage.length().unwrap() <= 12, "a part of the failed writes may be there");
    storage.write_at(0, &[2; 12]).unwrap();
    storage.set_capacity(5);
    storage.write_at(0, &[3; 12]).unwrap();
    storage.set_length(4).unwrap();
    let reopened = storage.kill();
    let error = reopened.write_at(0, &[4; 6]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "the disk keeps its size");
    reopened.set_capacity(u64::MAX);
    reopened.write_at(0, &[4; 6]).unwrap();
}

#[test]
fn absurd_lengths_are_refused_without_taking_memory() {
    let storage = SimulatedStorage::new();
    assert!(storage.write_at(u64::MAX, b"x").is_err());
    assert!(storage.set_length(u64::MAX).is_err());
    assert!(storage.allocate(1 << 62, 1 << 61).is_err());
    storage.set_length(1 << 40).unwrap();
    storage.punch(0, 1 << 40).unwrap();
    let crashed = storage.crash(&mut Random::from_seed(1));
    assert!([0, 1 << 40].contains(&crashed.length().unwrap()));
}

#[test]
fn damage_is_seen_at_once_and_stays_after_a_crash() {
    let storage = SimulatedStorage::from_image(vec![0; 8]);
    storage.write_at(0, b"written!").unwrap();
    storage.flip_bit(0, 3);
    storage.overwrite(6, b"zz beyond the end");
    storage.flip_bit(100, 0);
    let expected = [b'w' ^ 8, b'r', b'i', b't', b't', b'e', b'z', b'z'];
    assert_eq!(storage.image(), expected);
    storage.sync_data().unwrap();
    assert_eq!(storage.crash_with(CrashPlan::KeepNone).image(), expected);
}

#[test]
fn trace_lists_the_operations_in_order() {
    let storage = SimulatedStorage::new();
    storage.set_length(1).unwrap();
    assert!(storage.take_trace().is_empty(), "not asked for yet");
    storage.start_trace();
    storage.write_at(5, b"abc").unwrap();
    storage.sync_data().unwrap();
    let entry = |kind, offset, length| TraceEntry { kind, offset, length };
    let expected = [entry(OperationKind::Write, 5, 3), entry(OperationKind::Sync, 0, 0)];
    assert_eq!(storage.take_trace(), expected);
    assert!(storage.take_trace().is_empty());
}

#[test]
fn callback_sees_each_operation_before_it_happens_and_may_look_at_the_disk() {
    let storage = SimulatedStorage::new();
    type Seen = Vec<(Operation, Vec<u8>)>;
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let (inside, log) = (storage.clone(), Arc::clone(&seen));
    storage.on_operation(Box::new(move |operation| {
        log.lock().push((*operation, inside.image()));
    }));
    storage.write_at(0, b"a").unwrap();
    storage.write_at(1, b"b").unwrap();
    storage.clear_on_operation();
    storage.write_at(2, b"c").unwrap();
    let operation =
        |index| Operation { index, kind: OperationKind::Write, offset: index, length: 1 };
    let expected = vec![(operation(0), b"".to_vec()), (operation(1), b"a".to_vec())];
    assert_eq!(*seen.lock(), expected);
}

#[test]
fn callback_may_cut_the_power_before_any_operation() {
    let storage = SimulatedStorage::new();
    let crashed: Arc<Mutex<Option<SimulatedStorage>>> = Arc::default();
    let (inside, result) = (storage.clone(), Arc::clone(&crashed));
    storage.on_operation(Box::new(move |operation| {
        if operation.index == 1 {
            *result.lock() = Some(inside.crash_with(CrashPlan::KeepAll));
        }
    }));
    storage.write_at(0, b"a").unwrap();
    assert!(storage.write_at(1, b"b").is_err());
    assert_eq!(crashed.lock().take().unwrap().image(), b"a");
}

#[test]
fn threads_share_one_disk() {
    let storage = SimulatedStorage::new();
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    storage.on_operation(Box::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    }));
    let workers: Vec<_> = (0..4_u8)
        .map(|worker| {
            let storage: Arc<dyn Storage> = Arc::new(storage.clone());
            let work = move || {
                for round in 0..100 {
                    storage.write_at(round * 4 + u64::from(worker), &[worker]).unwrap();
                }
            };
            thread::spawn("sapwood-test", work).unwrap()
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert_eq!(storage.image(), [0, 1, 2, 3].repeat(100));
    assert_eq!((storage.operations(), calls.load(Ordering::Relaxed)), (400, 400));
}

#[test]
fn what_is_read_in_place_is_not_cut_off() {
    let storage = SimulatedStorage::from_image(vec![7; 100]);
    let mapped = storage.map(40, 20).unwrap();
    assert_eq!(&*mapped, &[7; 20]);
    assert!(storage.map(90, 11).is_none());
    storage.write_at(60, b"beside").unwrap();
    storage.write_at(30, b"beside it.").unwrap();
    // A file that is mapped knows its users by the MiB.
    storage.set_length(2 * PIN_BYTES).unwrap();
    for length in [59, 60, PIN_BYTES - 1] {
        assert_eq!(storage.set_length(length).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    }
    storage.set_length(PIN_BYTES).unwrap();
    drop(mapped);
    storage.set_length(10).unwrap();
}

#[test]
#[should_panic(expected = "are written while somebody reads them in place")]
fn a_write_to_what_is_read_in_place_panics() {
    let storage = SimulatedStorage::from_image(vec![7; 100]);
    let _mapped = storage.map(40, 20).unwrap();
    storage.write_at(59, b"xy").unwrap();
}
