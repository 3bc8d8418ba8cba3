//! Dead lists against a model that forgets nothing.

use super::*;
use crate::types::PageNumber;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn block(number: u64) -> Block {
    Block::new(PageNumber(number), 1)
}

fn states() -> HeldStates {
    HeldStates::new(&Arc::new(MemoryBudget::new(1 << 20)))
}

#[test]
fn an_old_hold_does_not_keep_younger_dead_blocks() {
    let held = states();
    held.replaced(Epoch(5), Vec::new());
    held.replaced(Epoch(6), vec![Dead { block: block(1), birth: Epoch(3) }]);
    held.replaced(Epoch(7), vec![Dead { block: block(2), birth: Epoch(7) }]);
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
    held.replaced(Epoch(5), vec![Dead { block: block(1), birth: Epoch(0) }]);
    assert!(held.collect().is_empty());
    held.releases().send(Epoch(5)).unwrap();
    assert_eq!(held.collect(), vec![block(1)]);
}

#[test]
fn a_late_death_goes_to_the_hold_that_needs_it() {
    let held = states();
    for epoch in 3..9 {
        held.replaced(Epoch(epoch), Vec::new());
    }
    let dead = Dead { block: block(1), birth: Epoch(4) };
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
            let died = died.map(|(i, life)| Dead {
                block: block(i as u64), birth: Epoch(life.0),
            });
            held.replaced(Epoch(epoch), died.collect());
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
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => prop::collection::vec(0u64..12, 0..6).prop_map(Act::Replace),
        3 => any::<prop::sample::Index>().prop_map(Act::End),
        1 => (1u64..6, 1u64..6).prop_map(|(ago, length)| Act::Late(ago, length)),
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
        Dead { block: block(number), birth: Epoch(birth) }
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

proptest! {
    /// States are replaced, holds end and blocks die late, in any order: at each moment the lists
    /// are those of the model, and so is what each hold alone keeps.
    #[test]
    fn any_history_frees_what_nobody_holds_and_knows_what_each_alone_keeps(acts in acts()) {
        let held = states();
        let mut model = Model::default();
        let mut epoch = 5;
        for act in acts {
            let mut free = BTreeSet::new();
            match act {
                Act::Replace(ages) => {
                    let births = ages.iter().map(|age| (epoch - 1).max(*age) - age);
                    let died = births.map(|birth| model.die(birth, epoch + 1));
                    held.replaced(Epoch(epoch), died.collect());
                    model.holds.insert(Epoch(epoch));
                    epoch += 1;
                }
                Act::End(index) if !model.holds.is_empty() => {
                    let hold = *index.get(&model.holds.iter().copied().collect::<Vec<_>>());
                    model.holds.remove(&hold);
                    held.releases().send(hold).unwrap();
                    free.extend(held.collect().iter().map(|block| block.first.0));
                }
                Act::End(_) => {}
                Act::Late(ago, length) => {
                    let death = epoch - ago.min(epoch);
                    let dead = model.die(death - length.min(death), death);
                    let block = held.dispose(dead, Epoch(death));
                    free.extend(block.map(|block| block.first.0));
                }
            }
            prop_assert_eq!(free, model.let_go());
            let mut blocks: Vec<u64> = held.blocks().iter().map(|block| block.first.0).collect();
            blocks.sort_unstable();
            prop_assert_eq!(blocks, model.dead.keys().copied().collect::<Vec<_>>());
            let stats = held.stats();
            prop_assert_eq!(stats.blocks, model.dead.len() as u64);
            prop_assert_eq!(stats.pages, model.dead.len() as u64);
            prop_assert_eq!(stats.states, model.holds.len() as u64);
            for hold in &model.holds {
                prop_assert_eq!(held.pages_alone(*hold), model.alone(*hold), "hold {}", hold);
            }
        }
    }
}
