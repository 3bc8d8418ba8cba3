//! What older states must hold, computed from walks of all of them: for tests that compare it with
//! the dead lists.
//!
//! *Assumes*: nothing of births and deaths: which pages a state uses comes from its trees. No step
//! is under way. *Guarantees*: what does not agree is said, not thrown.

use std::collections::{BTreeMap, HashMap};

use super::blocks::live_blocks;
use crate::error::Result;
use crate::merge::lists::visit_dead_blocks;
use crate::page::BlockList;
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::types::Epoch;

/// Each state is walked once, however often is looked.
#[derive(Debug, Default)]
pub struct HeldCheck {
    walked: BTreeMap<Epoch, BlockList>,
    /// How many of the walked states use a page.
    uses: HashMap<u64, u32>,
}

/// What was seen at one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldLook {
    /// Pages that the current state uses.
    pub live_pages: u64,
    /// Pages that only older states use.
    pub held_pages: u64,
    /// Pages of the log, of the encoded state, of lists that went to the file, and those that only
    /// the log names.
    pub own_pages: u64,
    /// For each snapshot, the oldest first: pages that it alone uses.
    pub alone_pages: Vec<u64>,
    /// What does not agree with the trees.
    pub problems: Vec<String>,
}

fn pages(list: &BlockList) -> impl Iterator<Item = u64> + '_ {
    list.iter().flat_map(|block| block.first.0..block.end().0)
}

impl HeldCheck {
    /// Compares dead lists, the map of pages given out, and what each snapshot is said to keep,
    /// with the trees of all states that somebody holds.
    ///
    /// # Errors
    /// When a state cannot be walked.
    pub fn look(&mut self, core: &Core) -> Result<HeldLook> {
        core.collect_released();
        let current = core.state();
        let snapshots = core.snapshots.states();
        let others = core.durable.state().into_iter().chain([current.clone()]);
        let states: Vec<Arc<State>> = snapshots.iter().cloned().chain(others).collect();
        let mut look = HeldLook::default();
        if core.snapshots.held(core).len() != snapshots.len() {
            look.problems.push("a snapshot has no state: its memtable is not flushed".to_owned());
        }
        self.walk(core, &states)?;
        self.compare_lists(core, &current, &mut look)?;
        self.compare_map(core, &mut look);
        let holders = |epoch| states.iter().filter(|state| state.epoch == epoch).count();
        look.alone_pages = snapshots
            .iter()
            .map(|state| if holders(state.epoch) == 1 { self.alone(state.epoch) } else { 0 })
            .collect();
        drop((states, snapshots, current));
        let said: Vec<u64> = core.snapshots.held(core).iter().map(|of| of.pages_alone).collect();
        if said != look.alone_pages {
            let text = format!("each alone keeps {:?} pages, not {said:?}", look.alone_pages);
            look.problems.push(text);
        }
        Ok(look)
    }

    /// Walks what is new, and forgets what is held no more.
    fn walk(&mut self, core: &Core, states: &[Arc<State>]) -> Result<()> {
        for state in states {
            if !self.walked.contains_key(&state.epoch) {
                let list = live_blocks(&core.pages, state)?;
                pages(&list).for_each(|page| *self.uses.entry(page).or_insert(0) += 1);
                self.walked.insert(state.epoch, list);
            }
        }
        let is_held = |epoch: &Epoch| states.iter().any(|state| state.epoch == *epoch);
        let gone: Vec<Epoch> = self.walked.keys().copied().filter(|e| !is_held(e)).collect();
        for list in gone.iter().filter_map(|epoch| self.walked.remove(epoch)) {
            for page in pages(&list) {
                if let Some(uses) = self.uses.get_mut(&page) {
                    *uses -= 1;
                }
            }
        }
        self.uses.retain(|_, uses| *uses > 0);
        Ok(())
    }

    fn alone(&self, epoch: Epoch) -> u64 {
        let list = self.walked.get(&epoch);
        let alone = |page: &u64| self.uses.get(page) == Some(&1);
        list.map_or(0, |list| pages(list).filter(alone).count() as u64)
    }

    /// The dead lists hold what some older state uses and the current one does not.
    fn compare_lists(&self, core: &Core, current: &State, look: &mut HeldLook) -> Result<()> {
        let Some(live) = self.walked.get(&current.epoch) else { return Ok(()) };
        let dead = core.held.blocks();
        let mut lists = BlockList::new();
        dead.written.iter().for_each(|node| lists.insert(node.block()));
        let mut blocks = Vec::new();
        visit_dead_blocks(&core.pages, &dead, |block| blocks.push(block))?;
        let named = blocks.into_iter().filter(|block| !lists.contains(*block));
        let mut listed: Vec<u64> = named.flat_map(|block| block.first.0..block.end().0).collect();
        let mut held: Vec<u64> = self.uses.keys().copied().collect();
        held.retain(|page| !live.contains_page(crate::types::PageNumber(*page)));
        (look.live_pages, look.held_pages) = (live.page_count(), held.len() as u64);
        held.sort_unstable();
        listed.sort_unstable();
        if held != listed {
            let (held, listed) = (held.len(), listed.len());
            look.problems.push(format!("{held} pages must be held, the lists have {listed}"));
        }
        let pages = core.held.stats().pages;
        if pages != look.held_pages {
            look.problems.push(format!("{} held pages are counted as {pages}", look.held_pages));
        }
        let pages = core.held.stats().list_pages;
        if pages != lists.page_count() {
            let lists = lists.page_count();
            look.problems.push(format!("{lists} pages of lists are counted as {pages}"));
        }
        Ok(())
    }

    /// What is given out is what some state uses, the log, and the encoded state.
    fn compare_map(&self, core: &Core, look: &mut HeldLook) {
        let mut owned = BlockList::new();
        let own = core.durable.own_blocks();
        let named = core.log_named.blocks();
        own.iter().chain(&named).for_each(|block| owned.insert_any(*block));
        let given = core.pages.allocator().given_list();
        let states = |page: &u64| !owned.contains_page(crate::types::PageNumber(*page));
        let used = self.uses.keys().copied().filter(states).count() as u64
            + owned.page_count()
            + core.held.stats().list_pages;
        look.own_pages = used.saturating_sub(self.uses.len() as u64);
        if given.page_count() != used {
            let given = given.page_count();
            look.problems.push(format!("{given} pages are given out, {used} are needed"));
        }
    }
}
