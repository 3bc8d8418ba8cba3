//! Random histories of appends, durable states and crashes against a list of what must be there.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Ask {
    Memory,
    Buffered,
    Sync,
}

#[derive(Clone, Copy, Debug)]
enum Crash {
    No,
    Kill,
    Power(u64),
}

/// How far a state gets.
#[derive(Clone, Copy, Debug)]
enum Reach {
    Abandoned,
    Planned,
    Slot,
    RecordWritten,
    Installed,
}

#[derive(Clone, Debug)]
enum Action {
    Append(usize, Ask),
    State { back: usize, grow: u32, drop: usize, between: usize, reach: Reach, crash: Crash },
    Crash(Crash),
}

fn crash() -> impl Strategy<Value = Crash> {
    let power = any::<u64>().prop_map(Crash::Power);
    prop_oneof![3 => Just(Crash::No), 1 => Just(Crash::Kill), 2 => power]
}

fn action() -> impl Strategy<Value = Action> {
    let ask = prop_oneof![Just(Ask::Memory), Just(Ask::Buffered), Just(Ask::Sync)];
    let reach = prop_oneof![
        1 => Just(Reach::Abandoned),
        1 => Just(Reach::Planned),
        1 => Just(Reach::Slot),
        1 => Just(Reach::RecordWritten),
        3 => Just(Reach::Installed),
    ];
    prop_oneof![
        12 => (0usize..700, ask).prop_map(|(size, ask)| Action::Append(size, ask)),
        4 => (0usize..6, 0u32..3, 0usize..3, 0usize..3, reach, crash()).prop_map(
            |(back, grow, drop, between, reach, crash)| Action::State {
                back, grow, drop, between, reach, crash
            }
        ),
        2 => crash().prop_map(Action::Crash),
    ]
}

struct Commit {
    sequence: u64,
    end: u64,
    chain: u32,
    payload: Vec<u8>,
}

struct Model {
    usable: u32,
    storage: Arc<TestStorage>,
    /// The state that an open takes, and the one before it.
    image: ReplayStart,
    before: Option<ReplayStart>,
    writer: LogWriter,
    commits: Vec<Commit>,
    next_sequence: u64,
    next_page: u64,
    /// What a power cut and what a kill must leave.
    synced_until: u64,
    written_until: u64,
}

impl Model {
    fn new(usable: u32) -> Model {
        let (storage, image, writer) = new_log(&[block(1, 2), block(5, 1), block(8, 3)], usable);
        Model {
            usable,
            storage,
            image,
            before: None,
            writer,
            commits: Vec::new(),
            next_sequence: 1,
            next_page: 20,
            synced_until: 0,
            written_until: 0,
        }
    }

    fn append(&mut self, size: usize, ask: Ask) -> bool {
        let sequence = self.next_sequence;
        let appended = match try_commit(&self.writer, sequence, size) {
            Ok(appended) => appended,
            Err(AppendError::Full(_)) => return false,
            Err(AppendError::Failed(error)) => panic!("{error}"),
        };
        let (end, chain) = self.writer.cut_here();
        assert_eq!(end, appended.end);
        self.next_sequence += 1;
        self.commits.push(Commit { sequence, end: end.0, chain, payload: payload(sequence, size) });
        match ask {
            Ask::Memory => {}
            Ask::Buffered => {
                self.writer.write_to(end).unwrap();
                self.written_until = end.0;
            }
            Ask::Sync => {
                self.writer.sync_to(end).unwrap();
                self.synced_until = end.0;
                self.written_until = end.0;
            }
        }
        true
    }

    /// Replay from `image` over `storage` gives a prefix of the commits behind its cut, all of
    /// those that end at or before `until` included. Gives the number of commits.
    fn check(&self, storage: &Arc<TestStorage>, image: &ReplayStart, until: u64) -> usize {
        let (found, end) = replayed(storage, image, self.usable).unwrap();
        let again = replayed(storage, image, self.usable).unwrap();
        assert_eq!(again, (found.clone(), end), "two opens find the same end");
        let first = self.commits.partition_point(|commit| commit.end <= image.cut.0);
        for (index, (sequence, payload)) in found.iter().enumerate() {
            let expected = &self.commits[first + index];
            assert_eq!((*sequence, payload), (expected.sequence, &expected.payload));
        }
        let required = self.commits.partition_point(|commit| commit.end <= until);
        assert!(first + found.len() >= required, "{} of {required}", first + found.len());
        first + found.len()
    }

    fn crash(&mut self, crash: Crash) {
        let until = match crash {
            Crash::No => return,
            Crash::Kill => self.written_until,
            Crash::Power(seed) => {
                let mut state = seed | 1;
                self.storage = self.storage.power_cut(|below| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as usize % below
                });
                self.synced_until
            }
        };
        let until = until.max(self.image.cut.0);
        if let Some(before) = &self.before {
            self.check(&self.storage, before, until);
        }
        let left = self.check(&self.storage, &self.image, until);
        self.commits.truncate(left);
        self.writer = reopen(&self.storage, &self.image, self.usable);
        // An open records the state that it took: from then on the one before is not needed.
        self.before = None;
        self.next_sequence += 100;
        let end = self.writer.positions().end.0;
        (self.synced_until, self.written_until) = (end, end);
    }

    fn make_state(&mut self, back: usize, grow: u32, drop: usize) -> Option<ReplayStart> {
        let after = self.commits.partition_point(|commit| commit.end <= self.image.cut.0);
        let at = self.commits.len().saturating_sub(back);
        let mut next = self.image.clone();
        if at > after {
            let commit = &self.commits[at - 1];
            next.cut = LogPosition(commit.end);
            (next.chain, next.sequence) = (commit.chain, SequenceNumber(commit.sequence));
        }
        let new = (grow > 0).then(|| block(self.next_page, grow));
        self.next_page += u64::from(grow) + 1;
        let stream = stream_over(&self.storage, self.usable);
        prepare_blocks(&stream, new.as_slice()).unwrap();
        next.generation += 1;
        next.list = self.writer.plan_list(next.cut, new.as_slice(), drop).ok()?;
        next.durable = self.writer.positions().durable;
        Some(next)
    }

    fn state(
        &mut self,
        (back, grow, drop): (usize, u32, usize),
        between: usize,
        reach: Reach,
        crash: Crash,
    ) {
        let Some(next) = self.make_state(back, grow, drop) else {
            return;
        };
        for size in 0..between {
            self.append(size * 300, Ask::Buffered);
        }
        match reach {
            Reach::Abandoned => return self.writer.abandon_list(),
            Reach::Planned => {
                self.crash(Crash::Kill);
                return;
            }
            Reach::Slot | Reach::RecordWritten | Reach::Installed => {}
        }
        // What the segments hold is durable with the slot, whether the log is or not.
        self.writer.write_to(self.writer.positions().end).unwrap();
        self.written_until = self.writer.positions().end.0;
        self.storage_sync();
        self.before = Some(std::mem::replace(&mut self.image, next));
        let generation = self.image.generation;
        match reach {
            Reach::Slot => {
                return self.crash(if matches!(crash, Crash::No) { Crash::Kill } else { crash });
            }
            Reach::RecordWritten => {
                let appended = self.writer.append_state_durable(Epoch(generation), generation);
                self.append(100, Ask::Memory);
                self.writer.write_to(appended.unwrap().end).unwrap();
                // The state before may not be taken any more when the record is there.
                self.before = None;
                return self.crash(if matches!(crash, Crash::No) { Crash::Kill } else { crash });
            }
            _ => {}
        }
        let dropped = self.writer.record_state(Epoch(generation), generation).unwrap();
        self.before = None;
        for dropped in dropped {
            // Others use it at once.
            let garbage = vec![0xa5; (dropped.pages * PAGE) as usize];
            let storage: &dyn crate::storage::Storage = &*self.storage;
            storage.write_sync_at(dropped.first.0 * u64::from(PAGE), &garbage).unwrap();
        }
        self.crash(crash);
    }

    fn storage_sync(&mut self) {
        let written = self.writer.positions().written;
        crate::storage::Storage::sync_data(&*self.storage).unwrap();
        self.writer.note_file_synced(written);
        self.synced_until = self.synced_until.max(written.0);
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Append(size, ask) => {
                let fits = self.append(size, ask)
                    || (0..6).any(|grow| {
                        self.state((0, grow, 0), 0, Reach::Installed, Crash::No);
                        self.append(size, ask)
                    });
                assert!(fits, "durable states and new blocks make room");
            }
            Action::State { back, grow, drop, between, reach, crash } => {
                self.state((back, grow, drop), between, reach, crash);
            }
            Action::Crash(crash) => self.crash(crash),
        }
        self.check(&self.storage, &self.image, self.written_until);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn every_crash_replays_what_was_acknowledged_and_nothing_needed_is_overwritten(
        actions in prop::collection::vec(action(), 1..60),
        reserve in prop::sample::select(vec![0u32, 24]),
    ) {
        let mut model = Model::new(PAGE - reserve);
        for action in &actions {
            model.run(action);
        }
    }
}

#[test]
fn a_hundred_laps_over_a_small_ring_keep_every_list_one_lap_long() {
    let mut model = Model::new(PAGE);
    for lap in 0..600 {
        model.run(&Action::Append(900, Ask::Buffered));
        let pages = model.image.list.blocks.iter().map(|block| block.pages).sum::<u32>();
        assert!(pages <= 9, "{pages} pages in lap {lap}");
    }
    assert!(model.writer.positions().end.0 > 90 * 6 * u64::from(PAGE));
}
