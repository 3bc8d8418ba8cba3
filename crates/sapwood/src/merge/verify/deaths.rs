//! Checks for every install that what it says was born and died is what the two states say: block
//! for block, birth for birth.
//!
//! *Assumes*: nothing of how an install finds its dead: both sets come from walks of whole states,
//! and from the memtable that is flushed. *Guarantees*: what does not agree is kept, not thrown.

use std::collections::BTreeSet;

use super::blocks::{LiveBlocks, difference, walk_blocks};
use crate::error::Result;
use crate::memtable::Operation;
use crate::page::{Block, BlockList, NodeKind};
use crate::segment::overflow_reference::OverflowReference;
use crate::state::dead_list::Dead;
use crate::state::install_check::{InstallCheck, Installing};
use crate::state::view::MemtableSlot;
use crate::state::{Contents, Core};
use crate::sync::{Arc, Mutex};
use crate::types::{Epoch, PageNumber};

/// What was seen so far.
#[derive(Clone, Debug, Default)]
pub struct DeathFindings {
    /// What does not agree.
    pub problems: Vec<String>,
    /// Installs that were looked at.
    pub installs: u64,
    /// Nodes and values that died, by [`NodeKind::index`].
    pub died: [u64; NodeKind::ALL.len()],
    /// Values that died before they were in a state.
    pub died_unborn: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct DeathCheck {
    findings: Arc<Mutex<DeathFindings>>,
    /// The walk of the state installed last.
    last: Option<(Epoch, LiveBlocks)>,
    /// What the last install handed over, and what the map has beside the state's blocks.
    dead: Vec<Dead>,
    others: BlockList,
}

impl DeathCheck {
    /// Checks every install of a database from now on; what is found is in the result.
    pub fn start(core: &Core) -> Arc<Mutex<DeathFindings>> {
        let check = DeathCheck::default();
        let findings = check.findings.clone();
        let _order = core.install_order.lock();
        *core.install_check.lock() = Some(Box::new(check));
        findings
    }

    fn walk_base(&mut self, core: &Core, base: &Contents) -> Result<LiveBlocks> {
        match self.last.take() {
            Some((epoch, blocks)) if epoch == base.epoch => Ok(blocks),
            _ => walk_blocks(&core.pages, base),
        }
    }

    fn compare(&mut self, core: &Core, installing: &Installing<'_>) -> Result<()> {
        let before = self.walk_base(core, installing.base)?;
        let after = walk_blocks(&core.pages, installing.next)?;
        let epoch = installing.next.epoch;
        let mut findings = self.findings.lock();
        let mut say = |text: String| findings.problems.push(format!("state {epoch}: {text}"));
        let key = |dead: &Dead| (dead.block.first, dead.block.pages, dead.birth);
        let gone = difference(&before, &after);
        let mut expected: Vec<_> =
            gone.iter().map(|live| (live.block.first, live.block.pages, live.birth)).collect();
        let named = match installing.flushed {
            Some(slot) => blocks_of_memtable(slot)?,
            None => Vec::new(),
        };
        let unborn: Vec<&Block> =
            named.iter().filter(|block| !after.contains_key(&block.first)).collect();
        expected.extend(unborn.iter().map(|block| (block.first, block.pages, Epoch(0))));
        let mut said: Vec<_> = installing.died.iter().map(key).collect();
        expected.sort_unstable();
        said.sort_unstable();
        let wanted: BTreeSet<_> = expected.iter().copied().collect();
        let given: BTreeSet<_> = said.iter().copied().collect();
        if wanted.len() != expected.len() || given.len() != said.len() {
            say(format!("a block dies twice: {said:?}"));
        }
        for dead in wanted.difference(&given) {
            let what = before.get(&dead.0).map(|live| live.what);
            say(format!("{dead:?}, {what:?}, dies, but the install does not say so"));
        }
        for dead in given.difference(&wanted) {
            let (was, is) = (before.get(&dead.0), after.get(&dead.0));
            say(format!("{dead:?} does not die: it was {was:?} and is {is:?}"));
        }
        let born = difference(&after, &before);
        for live in born.iter().filter(|live| live.birth != epoch) {
            say(format!("{live:?} is new, and was born before"));
        }
        let born = list(born.iter().map(|live| live.block));
        let said_born = list(installing.born.iter().copied());
        for (one, other, text) in [
            (&born, &said_born, "new in the state, but the install does not say so"),
            (&said_born, &born, "said to be born, but nothing references them"),
        ] {
            let pages = one.difference(other);
            if !pages.is_empty() {
                say(format!("{:?}: {text}", pages.iter().collect::<Vec<_>>()));
            }
        }
        findings.installs += 1;
        findings.died_unborn += unborn.len() as u64;
        for live in &gone {
            if let Some(count) = findings.died.get_mut(live.what.index()) {
                *count += 1;
            }
        }
        drop(findings);
        let referenced = core.pages.allocator().referenced_list();
        self.others = referenced.difference(&list(before.values().map(|live| live.block)));
        self.dead.clone_from(&installing.died);
        self.last = Some((epoch, after));
        Ok(())
    }
}

impl InstallCheck for DeathCheck {
    fn before(&mut self, core: &Core, installing: &Installing<'_>) {
        if let Err(error) = self.compare(core, installing) {
            let text = format!("state {}: {error}", installing.next.epoch);
            self.findings.lock().problems.push(text);
            self.last = None;
        }
    }

    fn after(&mut self, core: &Core) {
        let Some((epoch, live)) = &self.last else { return };
        let mut problems = Vec::new();
        let referenced = core.pages.allocator().referenced_list();
        let others = referenced.difference(&list(live.values().map(|live| live.block)));
        if others != self.others {
            let more = others.difference(&self.others);
            let less = self.others.difference(&others);
            problems.push(format!("the map and the state disagree: {more:?} more, {less:?} less"));
        }
        // What has just died is in no piece yet.
        let held = core.held.blocks().blocks;
        let kept = core.transactions.held_blocks();
        let held: BTreeSet<(PageNumber, u32)> = held
            .iter()
            .chain(kept.iter().map(|dead| &dead.block))
            .map(|block| (block.first, block.pages))
            .collect();
        // The state that is replaced is still held by the install itself: all wait for its end.
        for dead in &self.dead {
            if !held.contains(&(dead.block.first, dead.block.pages)) {
                problems.push(format!("{dead:?} is neither held nor may it be free yet"));
            }
        }
        let problems = problems.into_iter().map(|text| format!("state {epoch}: {text}"));
        self.findings.lock().problems.extend(problems);
    }
}

fn list(blocks: impl Iterator<Item = Block>) -> BlockList {
    let mut list = BlockList::new();
    blocks.for_each(|block| list.insert_any(block));
    list
}

/// The blocks of all values that a memtable's commits wrote, whatever came of them.
fn blocks_of_memtable(slot: &MemtableSlot) -> Result<Vec<Block>> {
    let mut cursor = slot.table.cursor();
    let mut blocks = Vec::new();
    cursor.first();
    while cursor.valid() {
        if let Operation::PutOverflow(value) = cursor.operation() {
            let reference = OverflowReference::decode(value)
                .map_err(|problem| problem.corruption(crate::error::Structure::Overflow))?;
            blocks.extend_from_slice(&reference.blocks);
        }
        cursor.next();
    }
    Ok(blocks)
}
