//! F4: what steps are granted is there for each of them, whoever asks when.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sapwood::page::Block;
use sapwood::state::Core;
use sapwood::state::reserve::{Grant, grant};
use sapwood::sync::preempt::set_hook;
use sapwood::{Error, Result};

use crate::Full;

/// A full database with nothing in memory, and something to merge.
fn full_and_flushed(seed: u64) -> Full {
    let mut full = Full::new(seed);
    full.fill();
    full.database.flush().unwrap();
    full
}

/// The most pages that a step may read.
fn most_granted(core: &Core) -> u64 {
    let is_granted = |pages: &u64| matches!(grant(core, *pages), Ok(Some(_)));
    (1..4000).rev().find(is_granted).expect("one page may be read")
}

#[test]
fn what_many_steps_are_granted_is_there_for_all_of_them() {
    let mut full = full_and_flushed(11);
    full.delete(1000);
    let read_pages = 60;
    let ask = |_| grant(&full.core, read_pages).unwrap();
    let grants: Vec<Grant> = (0..1000).map_while(ask).collect();
    assert!(grants.len() > 2, "{} steps have room", grants.len());
    let allocator = full.core.pages.allocator();
    let take = |_: &Grant| (0..read_pages).map(|_| allocator.allocate(1, 0).unwrap());
    let taken: Vec<Block> = grants.iter().flat_map(take).collect();
    // And the memtable has its own.
    full.database.flush().unwrap();
    taken.into_iter().for_each(|block| full.core.pages.free(block));
    drop(grants);
    full.database.wait_until_idle().unwrap();
    full.check();
}

/// Two ask for all that there is; the other comes at each moment of the one.
#[test]
fn two_who_ask_at_once_are_not_granted_the_same_pages_and_neither_is_refused() {
    let full = full_and_flushed(12);
    let most = most_granted(&full.core);
    let mut others_granted = 0;
    for point in 0..1000 {
        let (core, left) = (full.core.clone(), Cell::new(point));
        let others: Rc<RefCell<Option<Result<Option<Grant>>>>> = Rc::default();
        let answer = others.clone();
        let before = set_hook(Some(Rc::new(move || {
            left.set(left.get() - 1);
            if left.get() == -1 {
                *answer.borrow_mut() = Some(grant(&core, most));
            }
        })));
        let own = grant(&full.core, most);
        set_hook(before);
        let Some(others) = others.take() else {
            assert!(point > 2, "it takes {point} locks");
            assert!(others_granted > 0, "nobody came before it");
            return;
        };
        let (own, others) = (own.unwrap(), others.unwrap());
        others_granted += u64::from(others.is_some());
        assert!(own.is_some() != others.is_some(), "point {point}: {own:?} and {others:?}");
    }
    panic!("a grant takes locks without end");
}

/// It would give back a moment later what another lacks.
#[test]
fn a_step_is_not_refused_for_what_another_holds() {
    let mut full = full_and_flushed(13);
    full.delete(1000);
    full.database.flush().unwrap();
    let held = grant(&full.core, most_granted(&full.core)).unwrap();
    assert!(held.is_some());
    let mut steps = 0;
    while full.database.run_step().unwrap() {
        steps += 1;
        assert!(steps < 100, "it goes on without room");
    }
    drop(held);
    assert!(full.database.run_step().unwrap(), "there was something to merge");
    full.run_steps();
    full.check();
    let refused = grant(&full.core, 1 << 20).unwrap_err();
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
}
