//! Dead lists against a model that forgets nothing.

use super::*;
use crate::codec::ReadProblem;
use crate::sync::{Clock, Random};
use crate::types::PageNumber;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn block(number: u64) -> Block {
    Block::new(PageNumber(number), 1)
}

fn states() -> HeldStates {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    HeldStates::new(&budget, ListLimits::new(&budget, None))
}

#[test]
fn an_old_hold_does_not_keep_younger_dead_blocks() {
    let held = states();
    held.replaced(Epoch(5), Vec::new);
    held.replaced(Epoch(6), || vec![Dead::node(block(1), Epoch(3))]);
    held.replaced(Epoch(7), || vec![Dead::node(block(2), Epoch(7))]);
    held.releases().send(Epoch(7)).unwrap();
    assert_eq!(held.collect(), vec![block(2)], "no older state had it");
    held.releases().send(Epoch(6)).unwrap();
    assert_eq!(held.collect(), vec![], "state 5 still uses block 1");
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), vec![block(1)]);
}

#[test]
fn a_block_that_never_was_in_a_state_waits_for_every_reader_of_its_memtable() {
    let held = states();
    held.replaced(Epoch(5), || vec![Dead::node(block(1), Epoch(0))]);
    assert!(held.collect().is_empty());
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), vec![block(1)]);
}

#[test]
fn a_late_death_goes_to_the_hold_that_needs_it() {
    let held = states();
    for epoch in 3..9 {
        held.replaced(Epoch(epoch), Vec::new);
    }
    let dead = Dead::node(block(1), Epoch(4));
    assert_eq!(held.dispose(dead, Epoch(6)), None);
    for (epoch, free) in [(8, 0), (5, 0), (3, 0), (4, 1)] {
        held.releases().send(Epoch(epoch)).unwrap();
        assert_eq!(held.collect().len(), free, "after the end of {epoch}");
    }
    assert_eq!(held.dispose(dead, Epoch(4)), Some(block(1)), "born and dead between holds");
}

proptest! {
    /// Blocks are born and die at random; holds end in random order. After each end exactly
    /// those blocks are free that no remaining hold lies within the life of.
    #[test]
    fn blocks_are_free_exactly_when_no_hold_needs_them(
        lives in prop::collection::vec((1u64..20, 1u64..10), 1..60),
        order in Just((1u64..30).collect::<Vec<_>>()).prop_shuffle()
    ) {
        let held = states();
        let lives: Vec<(u64, u64)> = lives.into_iter().map(|(b, l)| (b, b + l)).collect();
        for epoch in 1u64..30 {
            let died = lives.iter().enumerate().filter(|(_, life)| life.1 == epoch + 1);
            let died = died.map(|(i, life)| Dead::node(block(i as u64), Epoch(life.0)));
            held.replaced(Epoch(epoch), || died.collect());
        }
        let mut holds: BTreeSet<u64> = (1..30).collect();
        let mut free = BTreeSet::new();
        for epoch in order {
            holds.remove(&epoch);
            held.releases().send(Epoch(epoch)).unwrap();
            for freed in held.collect() {
                prop_assert!(free.insert(freed.first.0), "freed twice");
            }
            for (i, (birth, death)) in lives.iter().enumerate() {
                let needed = holds.range(*birth..*death).next().is_some();
                prop_assert_eq!(free.contains(&(i as u64)), !needed);
            }
        }
    }
}

/// A block that died: with its birth and death.
type Life = (u64, Epoch, Epoch);

/// What happens in a history of states.
#[derive(Clone, Debug)]
enum Act {
    /// The current state is replaced; blocks born so long before it die.
    Replace(Vec<u64>),
    /// The hold at this place of those that are left ends.
    End(prop::sample::Index),
    /// A block is said to have died so many states ago, born so long before that.
    Late(u64, u64),
    /// A piece is written or read back, or fails to be.
    Step(Way, bool),
    /// The same, but it is not done yet.
    Begin(Way),
    /// One that was begun is done, or fails.
    Done(prop::sample::Index, bool),
}

/// What a step does when there is both.
#[derive(Clone, Copy, Debug)]
enum Way {
    Write,
    Read,
}

/// At most so many blocks die at once, of at most such an age.
fn acts(blocks: usize, age: u64, acts: usize) -> impl Strategy<Value = Vec<Act>> {
    let way = || prop_oneof![Just(Way::Write), Just(Way::Read)];
    let fails = || prop::bool::weighted(0.2);
    let act = prop_oneof![
        4 => prop::collection::vec(0u64..age, 0..blocks).prop_map(Act::Replace),
        3 => any::<prop::sample::Index>().prop_map(Act::End),
        1 => (1u64..6, 1u64..6).prop_map(|(ago, length)| Act::Late(ago, length)),
        4 => (way(), fails()).prop_map(|(way, fails)| Act::Step(way, fails)),
        1 => way().prop_map(Act::Begin),
        1 => (any::<prop::sample::Index>(), fails()).prop_map(|(at, fails)| Act::Done(at, fails)),
    ];
    prop::collection::vec(act, 1..acts)
}

/// Every hold beside every block that died, none of them forgotten.
#[derive(Default)]
struct Model {
    holds: BTreeSet<Epoch>,
    dead: BTreeMap<u64, Life>,
    next: u64,
}

impl Model {
    fn die(&mut self, birth: u64, death: u64) -> Dead {
        let number = self.next;
        self.next += 1;
        self.dead.insert(number, (number, Epoch(birth), Epoch(death)));
        Dead::node(block(number), Epoch(birth))
    }

    fn holders(&self, (_, birth, death): Life) -> usize {
        self.holds.range(birth..death).count()
    }

    /// The blocks that nobody holds any more are forgotten.
    fn let_go(&mut self) -> BTreeSet<u64> {
        let lives: Vec<Life> = self.dead.values().copied().collect();
        let free = lives.into_iter().filter(|life| self.holders(*life) == 0);
        let free: BTreeSet<u64> = free.map(|(number, ..)| number).collect();
        self.dead.retain(|number, _| !free.contains(number));
        free
    }

    fn alone(&self, hold: Epoch) -> u64 {
        let lives = self.dead.values();
        let alone =
            lives.filter(|life| life.1 <= hold && hold < life.2 && self.holders(**life) == 1);
        alone.count() as u64
    }
}

/// Nodes that lists were written to, by their page.
#[derive(Default)]
struct Nodes {
    written: BTreeMap<u64, Vec<u8>>,
    next: u64,
    /// What was begun, and whether it is to be read.
    out: Vec<(PieceOut, Way)>,
    read: u64,
}

/// The first page of nodes: no block of a history lies there.
const NODES_FROM: u64 = 1 << 40;

impl Nodes {
    /// Writes or reads one piece, or fails to; what is free then.
    fn step(&mut self, held: &HeldStates, way: Way, fails: bool) -> Vec<Block> {
        match self.begin(held, way) {
            Some((out, way)) => self.done(held, &out, way, fails),
            None => Vec::new(),
        }
    }

    fn begin(&mut self, held: &HeldStates, way: Way) -> Option<(PieceOut, Way)> {
        let write = || held.begin_writing().map(|out| (out, Way::Write));
        let read = || held.begin_reading().map(|out| (out, Way::Read));
        match way {
            Way::Write => write().or_else(read),
            Way::Read => read().or_else(write),
        }
    }

    fn done(&mut self, held: &HeldStates, out: &PieceOut, way: Way, fails: bool) -> Vec<Block> {
        if fails {
            held.not_done(out.name);
            return Vec::new();
        }
        match (way, &out.content) {
            (Way::Write, PieceContent::Memory(groups)) => {
                let page = NODES_FROM + self.next;
                self.next += 1;
                self.written.insert(page, encode_piece(groups));
                let page = PageNumber(page);
                held.written(out.name, NodeRef { page, pages: 1, stamp: 0, checksum: 0 });
                Vec::new()
            }
            (Way::Write, PieceContent::Written(_)) => panic!("it was written"),
            (Way::Read, PieceContent::Memory(groups)) => held.given_back(out.name, groups).unwrap(),
            (Way::Read, PieceContent::Written(node)) => {
                self.read += 1;
                let groups = decode_piece(&self.written.remove(&node.page.0).unwrap()).unwrap();
                held.given_back(out.name, &groups).unwrap()
            }
        }
    }

    /// Everything that can be done is; what is free then.
    fn all_steps(&mut self, held: &HeldStates) -> Vec<Block> {
        let mut free = Vec::new();
        for (out, way) in std::mem::take(&mut self.out) {
            free.extend(self.done(held, &out, way, false));
        }
        for _ in 0..10_000 {
            match self.begin(held, Way::Read) {
                Some((out, way)) => free.extend(self.done(held, &out, way, false)),
                None => return free,
            }
        }
        panic!("there is no end to it");
    }

    /// All blocks that are not free yet, in order, and how many nodes there are.
    fn blocks(&self, held: &HeldStates) -> (Vec<u64>, usize) {
        let dead = held.blocks();
        let mut blocks = dead.blocks.clone();
        blocks.retain(|block| block.first.0 < NODES_FROM);
        let written = dead.written.iter().map(|node| &self.written[&node.page.0]);
        let groups = written.flat_map(|bytes| decode_piece(bytes).unwrap());
        blocks.extend(groups.flat_map(|group| group.blocks));
        let mut pages: Vec<u64> = blocks.iter().map(|block| block.first.0).collect();
        pages.sort_unstable();
        (pages, dead.written.len())
    }
}

fn numbers(blocks: &[Block]) -> impl Iterator<Item = u64> + '_ {
    blocks.iter().map(|block| block.first.0)
}

fn check_history(acts: Vec<Act>, limits: &ListLimits) -> Result<(), TestCaseError> {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let held = HeldStates::new(&budget, limits.clone());
    let (mut model, mut nodes) = (Model::default(), Nodes::default());
    let mut epoch = 5;
    // What was let go, and waits in a list that was written.
    let mut waiting = BTreeSet::new();
    for act in acts {
        let mut free = BTreeSet::new();
        match act {
            Act::Replace(ages) => {
                let births = ages.iter().map(|age| (epoch - 1).max(*age) - age);
                let died = births.map(|birth| model.die(birth, epoch + 1));
                held.replaced(Epoch(epoch), || died.collect());
                model.holds.insert(Epoch(epoch));
                epoch += 1;
            }
            Act::End(index) if !model.holds.is_empty() => {
                let hold = *index.get(&model.holds.iter().copied().collect::<Vec<_>>());
                model.holds.remove(&hold);
                held.releases().send(hold).unwrap();
                free.extend(numbers(&held.collect()));
            }
            Act::End(_) => {}
            Act::Late(ago, length) => {
                let death = epoch - ago.min(epoch);
                let dead = model.die(death - length.min(death), death);
                free.extend(numbers(held.dispose(dead, Epoch(death)).as_slice()));
            }
            Act::Step(way, fails) => free.extend(numbers(&nodes.step(&held, way, fails))),
            Act::Begin(way) => {
                let begun = nodes.begin(&held, way);
                nodes.out.extend(begun);
            }
            Act::Done(index, fails) if !nodes.out.is_empty() => {
                let (out, way) = nodes.out.swap_remove(index.index(nodes.out.len()));
                free.extend(numbers(&nodes.done(&held, &out, way, fails)));
            }
            Act::Done(..) => {}
        }
        waiting.extend(model.let_go());
        for number in free {
            prop_assert!(waiting.remove(&number), "{} is needed, or was free", number);
        }
        let never_written = limits.bytes_max > 1 << 15;
        prop_assert!(waiting.is_empty() || !never_written, "{waiting:?} are not free at once");
        let expected: BTreeSet<u64> = model.dead.keys().chain(&waiting).copied().collect();
        let (blocks, written) = nodes.blocks(&held);
        prop_assert_eq!(blocks, expected.iter().copied().collect::<Vec<_>>());
        let stats = held.stats();
        let count = expected.len() as u64;
        prop_assert_eq!((stats.blocks, stats.pages), (count, count));
        prop_assert_eq!(stats.states, model.holds.len() as u64);
        prop_assert_eq!(stats.list_pages, written as u64);
        prop_assert_eq!(nodes.written.len(), written);
        let something_waits = !held.held.lock().due.is_empty();
        for hold in &model.holds {
            let (known, alone) = (held.pages_alone(*hold), model.alone(*hold));
            prop_assert!(known == alone || something_waits && known < alone, "hold {}", hold);
        }
    }
    for number in numbers(&nodes.all_steps(&held)) {
        prop_assert!(waiting.remove(&number), "{} is needed, or was free", number);
    }
    prop_assert!(waiting.is_empty(), "{:?} never come back", waiting);
    for hold in &model.holds {
        prop_assert_eq!(held.pages_alone(*hold), model.alone(*hold), "hold {}", hold);
    }
    for hold in std::mem::take(&mut model.holds) {
        held.releases().send(hold).unwrap();
    }
    waiting.extend(model.let_go());
    let mut free = held.collect();
    free.extend(nodes.all_steps(&held));
    for number in numbers(&free) {
        prop_assert!(waiting.remove(&number), "{} was free", number);
    }
    prop_assert!(waiting.is_empty(), "{:?} never come back", waiting);
    prop_assert_eq!(held.stats(), HeldStats::default());
    prop_assert_eq!(held.held.lock().memory_bytes(), 0);
    prop_assert!(nodes.written.is_empty() && held.blocks().blocks.is_empty());
    Ok(())
}

proptest! {
    /// States are replaced, holds end and blocks die late, in any order: at each moment the lists
    /// are those of the model, and so is what each hold alone keeps.
    #[test]
    fn any_history_frees_what_nobody_holds_and_knows_what_each_alone_keeps(
        acts in acts(6, 12, 80),
    ) {
        let budget = MemoryBudget::new(1 << 20);
        check_history(acts, &ListLimits::new(&budget, None))?;
    }

    /// The same when nearly everything is written, some of it after a failure, and read back.
    #[test]
    fn any_history_is_the_same_when_lists_go_to_the_file_and_come_back(
        acts in acts(6, 12, 80),
        bytes_max in 0u64..1000,
        least in 1usize..4,
        more in 0usize..4,
    ) {
        let piece_blocks = least..=least + more;
        check_history(acts, &ListLimits { bytes_max, list_bytes: 0, piece_blocks })?;
    }

    /// The same when parts are short and many of them share a piece.
    #[test]
    fn any_history_is_the_same_when_short_parts_share_pieces(
        acts in acts(24, 60, 120),
        bytes_max in 0u64..1000,
        least in 2usize..40,
        more in 0usize..100,
    ) {
        let piece_blocks = least..=least + more;
        check_history(acts, &ListLimits { bytes_max, list_bytes: 0, piece_blocks })?;
    }

    #[test]
    fn a_piece_is_decoded_as_it_was_encoded(
        gaps in prop::collection::vec((0u64..1 << 30, 1u32..=u32::MAX, 0u64..4), 1..50),
        oldest in prop::option::of(1u64..),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut end = 0;
        let mut groups: BTreeMap<Option<Epoch>, Vec<Block>> = BTreeMap::new();
        for (gap, pages, group) in gaps {
            let block = Block::new(PageNumber(end + gap), pages);
            end = block.end().0;
            let born_after = match group {
                0 => oldest.map(Epoch),
                _ => Some(Epoch(oldest.unwrap_or(1).saturating_add(group))),
            };
            groups.entry(born_after).or_default().push(block);
        }
        let groups = groups.into_iter().map(|(born_after, blocks)| Group { born_after, blocks });
        let groups: Vec<Group> = groups.collect();
        let bytes = encode_piece(&groups);
        prop_assert_eq!(decode_piece(&bytes).unwrap(), groups);
        prop_assert!(decode_piece(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_or_blocks_in_order(
        // Small numbers are more often something.
        bytes in prop::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..60),
    ) {
        if let Ok(groups) = decode_piece(&bytes) {
            prop_assert!(groups.windows(2).all(|two| two[0].born_after < two[1].born_after));
            let mut all = BTreeSet::new();
            for Group { blocks, .. } in &groups {
                prop_assert!(blocks.windows(2).all(|two| two[0].end() <= two[1].first));
                prop_assert!(!blocks.is_empty() && blocks.iter().all(|block| block.pages > 0));
                all.extend(blocks.iter().map(|block| (block.first, block.end())));
            }
            let all: Vec<(PageNumber, PageNumber)> = all.into_iter().collect();
            prop_assert_eq!(all.len(), groups.iter().map(|group| group.blocks.len()).sum());
            prop_assert!(all.windows(2).all(|two| two[0].1 <= two[1].0));
        }
    }
}

#[test]
fn groups_of_one_age_without_blocks_or_of_the_same_pages_are_refused() {
    let decoded = |bytes: &[u8]| decode_piece(bytes).map(|groups| groups.len());
    assert_eq!(decoded(&[2, 0, 1, 8, 2, 7, 1, 10, 1]), Ok(2));
    let refused = Err(ReadProblem::OutOfRange);
    assert_eq!(decoded(&[2, 7, 1, 8, 2, 7, 1, 10, 1]), refused, "the same age");
    assert_eq!(decoded(&[2, 7, 1, 8, 2, 0, 1, 10, 1]), refused, "an older one behind");
    assert_eq!(decoded(&[2, 0, 0, 7, 2, 10, 1, 1, 1]), refused, "no blocks");
    assert_eq!(decoded(&[2, 0, 1, 8, 2, 7, 1, 9, 1]), refused, "page 9 twice");
    assert_eq!(decoded(&[200, 200, 1, 0, 1, 8, 2]), Err(ReadProblem::CutShort), "too many");
}

#[test]
fn a_piece_stays_while_somebody_looks_at_it() {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let held =
        HeldStates::new(&budget, ListLimits { bytes_max: 0, list_bytes: 0, piece_blocks: 1..=8 });
    held.replaced(Epoch(5), || vec![Dead::node(block(1), Epoch(3))]);
    let mut nodes = Nodes::default();
    nodes.step(&held, Way::Write, false);
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), []);
    let looking = held.blocks();
    assert_eq!(looking.written.len(), 1);
    assert!(held.begin_reading().is_none(), "it would be gone before it is read");
    drop(looking);
    let out = held.begin_reading().unwrap();
    let looking = held.blocks();
    assert_eq!(held.given_back(out.name, &[]), None, "somebody has begun to look at it");
    drop(looking);
    assert_eq!(nodes.step(&held, Way::Write, false), [block(1)]);
}

/// A hundred holds, each of which keeps a block of each age, in as few parts as can be.
fn mixed_lists() -> (HeldStates, Nodes) {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let held = HeldStates::new(&budget, ListLimits::new(&budget, Some(0)));
    let mut nodes = Nodes::default();
    for hold in 1..=100 {
        replace(&held, hold);
        assert_eq!(nodes.all_steps(&held), []);
    }
    (held, nodes)
}

/// A block dies of each age that there is, with the number of its birth and its last hold.
fn replace(held: &HeldStates, hold: u64) {
    let died = |birth| Dead::node(block(birth << 20 | hold), Epoch(birth));
    held.replaced(Epoch(hold), || (1..=hold).map(died).collect());
}

#[test]
fn a_mixed_piece_stays_while_somebody_looks_at_it() {
    let (held, mut nodes) = mixed_lists();
    let end = |hold| {
        held.releases().send(Epoch(hold)).unwrap();
        held.collect()
    };
    let mut holds: Vec<u64> = (1..=100).collect();
    while held.held.lock().due.is_empty() {
        end(holds.remove(holds.len() / 2));
    }
    let looking = held.blocks();
    assert!(held.begin_reading().is_none(), "it would be gone before it is read");
    drop(looking);
    let before = held.stats();
    let out = held.begin_reading().unwrap();
    let PieceContent::Written(node) = out.content else { panic!("it is in memory") };
    let groups = decode_piece(&nodes.written[&node.page.0]).unwrap();
    assert!(groups.len() > 1);
    let looking = held.blocks();
    assert_eq!(held.given_back(out.name, &groups), None, "somebody has begun to look at it");
    assert_eq!((held.stats(), looking.written.contains(&node)), (before, true));
    drop(looking);
    nodes.all_steps(&held);
    assert!(held.stats().blocks <= before.blocks && !nodes.written.contains_key(&node.page.0));
}

/// What is free of pairs of a birth and a last hold when these holds are left, of so many.
fn free_pairs(holds: &BTreeSet<u64>, count: u64) -> u64 {
    let ends = holds.iter().copied().chain([count + 1]);
    let gaps = ends.scan(0, |last, end| Some(end - std::mem::replace(last, end) - 1));
    gaps.map(|gap| gap * (gap + 1) / 2).sum()
}

/// Each hold alone keeps the pairs whose birth lies behind the hold before, and whose last hold
/// lies before the next one.
fn check_alone(held: &HeldStates, holds: &BTreeSet<u64>, count: u64) {
    let ends: Vec<u64> = [0].into_iter().chain(holds.iter().copied()).chain([count + 1]).collect();
    for hold in ends.windows(3) {
        let alone = (hold[1] - hold[0]) * (hold[2] - hold[1]);
        assert_eq!(held.pages_alone(Epoch(hold[1])), alone, "hold {}", hold[1]);
    }
}

/// A thousand holds, each of which keeps a block of each age, end in random order. Returns what
/// the lists took of memory at the most, and how many pieces were read back for each end.
fn end_a_thousand_holds(budget_bytes: u64, bytes_max: Option<u64>) -> (u64, f64) {
    const HOLDS: u64 = 1000;
    let budget = Arc::new(MemoryBudget::new(budget_bytes));
    let held = HeldStates::new(&budget, ListLimits::new(&budget, bytes_max));
    let (mut nodes, mut random) = (Nodes::default(), Random::from_seed(1));
    let memory = || budget.part(MemoryPart::DeadLists);
    let mut most = 0;
    for hold in 1..=HOLDS {
        replace(&held, hold);
        assert_eq!(nodes.all_steps(&held), []);
        most = most.max(memory());
    }
    assert!(most < 7 << 20, "{most} bytes");
    let mut order: Vec<u64> = (1..=HOLDS).collect();
    random.shuffle(&mut order);
    let mut holds: BTreeSet<u64> = order.iter().copied().collect();
    let mut free = BTreeSet::new();
    for hold in order {
        holds.remove(&hold);
        held.releases().send(Epoch(hold)).unwrap();
        for freed in held.collect().into_iter().chain(nodes.all_steps(&held)) {
            let (birth, last) = (freed.first.0 >> 20, freed.first.0 & 0xf_ffff);
            assert_eq!(holds.range(birth..=last).next(), None, "it is needed");
            assert!(free.insert((birth, last)), "freed twice");
        }
        assert_eq!(free.len() as u64, free_pairs(&holds, HOLDS));
        check_alone(&held, &holds, HOLDS);
        most = most.max(memory());
    }
    assert_eq!((held.stats(), memory()), (HeldStats::default(), 0));
    (most, nodes.read as f64 / HOLDS as f64)
}

/// Half a million parts of one block would take 90 MB.
#[test]
fn the_lists_of_a_thousand_holds_are_small_and_come_back_in_few_pieces() {
    let (most, read) = end_a_thousand_holds(1 << 30, Some(0));
    assert!(most < 1 << 20, "{most} bytes");
    assert!(read < 6.0, "{read} pieces are read back for each hold that ends");
    // A sixteenth of the budget, 2 KiB for each, and little for each piece.
    let (most, read) = end_a_thousand_holds(64 << 20, None);
    assert!(most <= (4 << 20) + (2 << 20) + (1 << 19), "{most} bytes");
    assert!(read < 2.5, "{read} pieces are read back for each hold that ends");
}

/// After each install the newest of eight holds has a block more of each age.
#[test]
fn what_no_piece_can_make_less_makes_none() {
    let budget = Arc::new(MemoryBudget::new(1 << 30));
    let limits = ListLimits { list_bytes: 2048, ..ListLimits::new(&budget, Some(32 << 10)) };
    let held = HeldStates::new(&budget, limits);
    let mut nodes = Nodes::default();
    for hold in 1..=8 {
        replace(&held, hold);
    }
    nodes.all_steps(&held);
    for install in 9..=30_008 {
        let died = |birth| Dead::node(block(birth << 20 | install), Epoch(birth));
        held.replaced(Epoch(install), || (1..=8).map(died).collect());
        held.releases().send(Epoch(install)).unwrap();
        held.collect();
        assert_eq!(nodes.all_steps(&held), []);
    }
    // Of 240,000 blocks. They take more than the share by then.
    let pieces = held.held.lock().pieces.len();
    assert!(pieces * Piece::OWN_BYTES > 32 << 10);
    assert!((1..2000).contains(&pieces), "{pieces} pieces");
}

/// What died with the install that replaces the state comes back while that is being noted.
#[test]
fn what_others_give_back_while_a_state_is_replaced_waits_for_its_end() {
    let held = states();
    let given_back = std::thread::scope(|scope| {
        let mut running = None;
        held.replaced(Epoch(5), || {
            let dispose = || held.dispose(Dead::node(block(1), Epoch(3)), Epoch(6));
            running = Some(scope.spawn(dispose));
            // Time for it to go wrong.
            Clock::real().sleep(std::time::Duration::from_millis(50));
            Vec::new()
        });
        running.unwrap().join().unwrap()
    });
    assert_eq!(given_back, None, "state 5 is still held");
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), [block(1)]);
}
