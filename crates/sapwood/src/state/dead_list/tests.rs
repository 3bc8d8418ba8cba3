//! Dead lists against a model that forgets nothing.

use super::*;
use crate::sync::Clock;
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
    Step(bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => prop::collection::vec(0u64..12, 0..6).prop_map(Act::Replace),
        3 => any::<prop::sample::Index>().prop_map(Act::End),
        1 => (1u64..6, 1u64..6).prop_map(|(ago, length)| Act::Late(ago, length)),
        4 => prop::bool::weighted(0.2).prop_map(Act::Step),
    ];
    prop::collection::vec(act, 1..80)
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
}

/// The first page of nodes: no block of a history lies there.
const NODES_FROM: u64 = 1 << 40;

impl Nodes {
    /// Writes or reads one piece, or fails to; what is free then.
    fn step(&mut self, held: &HeldStates, fails: bool) -> Vec<Block> {
        if let Some(out) = held.begin_writing() {
            let PieceContent::Memory(blocks) = &out.content else { panic!("it was written") };
            if fails {
                held.not_done(out.name);
                return Vec::new();
            }
            let page = NODES_FROM + self.next;
            self.next += 1;
            self.written.insert(page, encode_piece(blocks));
            let page = PageNumber(page);
            held.written(out.name, NodeRef { page, pages: 1, stamp: 0, checksum: 0 });
        } else if let Some(out) = held.begin_reading() {
            if fails {
                held.not_done(out.name);
                return Vec::new();
            }
            assert!(held.given_back(out.name));
            return match out.content {
                PieceContent::Memory(blocks) => blocks.to_vec(),
                PieceContent::Written(node) => {
                    decode_piece(&self.written.remove(&node.page.0).unwrap()).unwrap()
                }
            };
        }
        Vec::new()
    }

    /// All blocks that are not free yet, in order, and how many nodes there are.
    fn blocks(&self, held: &HeldStates) -> (Vec<u64>, usize) {
        let dead = held.blocks();
        let mut blocks = dead.blocks.clone();
        blocks.retain(|block| block.first.0 < NODES_FROM);
        let written = dead.written.iter().map(|node| &self.written[&node.page.0]);
        blocks.extend(written.flat_map(|bytes| decode_piece(bytes).unwrap()));
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
            Act::Step(fails) => free.extend(numbers(&nodes.step(&held, fails))),
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
        for hold in &model.holds {
            prop_assert_eq!(held.pages_alone(*hold), model.alone(*hold), "hold {}", hold);
        }
    }
    for _ in 0..1000 {
        for number in numbers(&nodes.step(&held, false)) {
            prop_assert!(waiting.remove(&number), "{} is needed, or was free", number);
        }
    }
    prop_assert!(waiting.is_empty(), "{:?} never come back", waiting);
    prop_assert!(held.begin_writing().is_none(), "more could be written");
    Ok(())
}

proptest! {
    /// States are replaced, holds end and blocks die late, in any order: at each moment the lists
    /// are those of the model, and so is what each hold alone keeps.
    #[test]
    fn any_history_frees_what_nobody_holds_and_knows_what_each_alone_keeps(acts in acts()) {
        let budget = MemoryBudget::new(1 << 20);
        check_history(acts, &ListLimits::new(&budget, None))?;
    }

    /// The same when nearly everything is written, some of it after a failure, and read back.
    #[test]
    fn any_history_is_the_same_when_lists_go_to_the_file_and_come_back(
        acts in acts(),
        bytes_max in 0u64..1000,
        least in 1usize..4,
        more in 0usize..4,
    ) {
        check_history(acts, &ListLimits { bytes_max, piece_blocks: least..=least + more })?;
    }

    #[test]
    fn a_piece_is_decoded_as_it_was_encoded(
        gaps in prop::collection::vec((0u64..1 << 30, 1u32..=u32::MAX), 0..50),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut end = 0;
        let blocks: Vec<Block> = gaps
            .into_iter()
            .map(|(gap, pages)| {
                let block = Block::new(PageNumber(end + gap), pages);
                end = block.end().0;
                block
            })
            .collect();
        let bytes = encode_piece(&blocks);
        prop_assert_eq!(decode_piece(&bytes).unwrap(), blocks);
        prop_assert!(decode_piece(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn any_bytes_are_an_error_or_blocks_in_order(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        if let Ok(blocks) = decode_piece(&bytes) {
            prop_assert!(blocks.windows(2).all(|two| two[0].end() <= two[1].first));
            prop_assert!(blocks.iter().all(|block| block.pages > 0));
        }
    }
}

#[test]
fn a_piece_stays_while_somebody_looks_at_it() {
    let budget = Arc::new(MemoryBudget::new(1 << 20));
    let held = HeldStates::new(&budget, ListLimits { bytes_max: 0, piece_blocks: 1..=8 });
    held.replaced(Epoch(5), || vec![Dead::node(block(1), Epoch(3))]);
    let mut nodes = Nodes::default();
    nodes.step(&held, false);
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), []);
    let looking = held.blocks();
    assert_eq!(looking.written.len(), 1);
    assert!(held.begin_reading().is_none(), "it would be gone before it is read");
    drop(looking);
    let out = held.begin_reading().unwrap();
    let looking = held.blocks();
    assert!(!held.given_back(out.name), "somebody has begun to look at it");
    drop(looking);
    assert_eq!(nodes.step(&held, false), [block(1)]);
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
