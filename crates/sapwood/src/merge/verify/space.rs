//! Whose each page is: what the walk found against the maps, and the maps against all owners.
//!
//! *Guarantees*: what is reported of a database at work was so in every one of several looks.

use std::time::Duration;

use super::Activity;
use super::problem::{Problem, Problems};
use crate::error::{Error, Structure};
use crate::merge::lists::visit_dead_blocks;
use crate::page::{Block, BlockList, Charge, MemoryPart, PageManager, PageSet};
use crate::state::{Core, State};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;

/// How often a database at work is looked at before a difference counts.
const LOOKS: usize = 8;
/// The pause between two looks. Together they are longer than most commits hold new blocks.
const PAUSE: Duration = Duration::from_millis(20);

/// What a durable state uses beside its segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateOwners {
    /// The blocks of the log.
    pub log: Vec<Block>,
    /// The blocks of the encoded state.
    pub state: Vec<Block>,
}

/// The current state, with the map that belongs to it.
#[derive(Debug)]
pub struct Moment {
    pub state: Arc<State>,
    pub referenced: PageSet,
    pub log: Vec<Block>,
}

impl Moment {
    /// Takes both under the install lock, and the log's list beside them: a durable state changes
    /// the map before its list is in force, and takes that back when it fails.
    pub fn take(core: &Core) -> Moment {
        let own = core.durable.hold_own_blocks();
        let _install = core.install_order.lock();
        let referenced = core.pages.allocator().referenced_set();
        Moment { state: core.state(), referenced, log: own.log() }
    }
}

fn report(problems: &mut Problems, pages: &BlockList, text: &str) {
    for run in pages.iter() {
        problems.push(Problem {
            structure: Some(Structure::FreeMap),
            page: Some(run.first),
            keyspace: None,
            text: format!("{} pages from {} to {}: {text}", run.pages, run.first, run.last()),
        });
    }
}

/// So many sets of pages are held at a time.
const SETS: u64 = 3;

/// The memory that checking a file takes: a bit for each page in each set.
pub fn charge_sets(pages: &PageManager) -> Charge {
    pages.budget().charge(MemoryPart::Other, SETS * pages.file_pages() / 8)
}

/// Compares what the walk found, and `others`, with the map. With unreadable nodes the walk is not
/// complete, so pages that it did not meet are no problem.
pub fn check_referenced(
    live: PageSet,
    referenced: &PageSet,
    others: &[Block],
    unreadable: u64,
    problems: &mut Problems,
) {
    let mut used = live;
    for block in others {
        let both = used.within(*block);
        report(problems, &both, "used by a segment and by the log or the state");
        used.insert_any(*block);
    }
    report(problems, &used.difference(referenced), "in use, but free in the map");
    if unreadable == 0 {
        let leaked = referenced.difference(&used);
        report(problems, &leaked, "leaked: used in the map, but by nothing");
    }
}

fn intersection(a: &BlockList, b: &BlockList) -> BlockList {
    a.difference(&a.difference(b))
}

/// What one look at the owners of all given pages shows.
#[derive(Default)]
struct Look {
    /// Owned, but not given out.
    missing: BlockList,
    /// Given out, but owned by nobody.
    unowned: BlockList,
    /// Owned twice.
    double: BlockList,
    held_pages: u64,
    /// Why a list of dead blocks could not be read.
    unreadable: Option<Error>,
}

impl Look {
    fn take(core: &Core) -> Look {
        let at_rest = core.durable.hold_own_blocks();
        let own = at_rest.all();
        let install = core.install_order.lock();
        let allocator = core.pages.allocator();
        let held = core.held.blocks();
        let of_transactions = core.transactions.held_blocks();
        let pending = core.pending.blocks();
        let named = core.log_named.blocks();
        let named_dead = core.log_named.dead_blocks();
        let mut owned = allocator.referenced_set();
        let given = allocator.given_set();
        drop((install, at_rest));
        let mut look = Look::default();
        let is_referenced =
            |block: &&Block| owned.within(**block).page_count() == u64::from(block.pages);
        let own: Vec<Block> = own.iter().filter(|block| !is_referenced(block)).copied().collect();
        let mut own_once = |block: Block| {
            look.held_pages += u64::from(block.pages);
            if owned.intersects(block) {
                look.double = look.double.union(&owned.within(block));
            }
            owned.insert_any(block);
        };
        // What is written of them is read outside the lock, and stays there until it is.
        let unreadable = visit_dead_blocks(&core.pages, &held, &mut own_once).err();
        let dead = of_transactions.iter().map(|dead| &dead.block);
        dead.chain(&named_dead).chain(&pending).chain(&own).for_each(|block| own_once(*block));
        look.unreadable = unreadable;
        // What the log names is besides in a memtable, in the state, or dead already.
        named.iter().for_each(|block| owned.insert_any(*block));
        look.missing = owned.difference(&given);
        look.unowned = given.difference(&owned);
        look
    }

    fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unowned.is_empty() && self.double.is_empty()
    }

    /// What both looks show.
    fn and(self, other: &Look) -> Look {
        Look {
            missing: intersection(&self.missing, &other.missing),
            unowned: intersection(&self.unowned, &other.unowned),
            double: intersection(&self.double, &other.double),
            held_pages: other.held_pages,
            unreadable: other.unreadable.clone(),
        }
    }
}

/// True when no step is under way or waits to be gone on with.
fn is_quiet(core: &Core) -> bool {
    let background = &core.background;
    let jobs = background.jobs.lock();
    let flushing = jobs.flush.is_some() || jobs.flush_is_out;
    drop(jobs);
    !flushing
        && background.reservations.is_empty()
        && background.running.load(Ordering::Acquire) == 0
}

/// Checks that every given page has one owner, and every owned page is given. Returns the pages
/// that
/// are held for something else than the current state, and whether steps were under way.
pub fn check_owners(
    core: &Core,
    activity: Activity,
    unowned_pages: &mut u64,
    problems: &mut Problems,
) -> (u64, bool) {
    core.collect_released();
    let mut quiet = is_quiet(core);
    let mut look = Look::take(core);
    for _ in 1..LOOKS {
        if look.is_clean() {
            break;
        }
        core.clock.sleep(PAUSE);
        quiet &= is_quiet(core);
        look = look.and(&Look::take(core));
    }
    quiet &= is_quiet(core);
    report(problems, &look.missing, "needed, but it may be given out again");
    report(problems, &look.double, "it has two owners");
    if let Some(error) = &look.unreadable {
        let (structure, text) = (Some(Structure::State), format!("a list of dead blocks: {error}"));
        problems.push(Problem { structure, page: None, keyspace: None, text });
    }
    *unowned_pages = look.unowned.page_count();
    if activity == Activity::Quiet || activity == Activity::Unknown && quiet {
        report(problems, &look.unowned, "leaked: given out, but owned by nothing");
    }
    (look.held_pages, activity != Activity::Quiet && !quiet)
}
