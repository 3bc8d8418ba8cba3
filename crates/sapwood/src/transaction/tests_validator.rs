//! What comes while a commit is on its way to its place: how much is asked for, and what is found.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::commit::{commit, create_keyspace, drop_keyspace};
use super::commit_by_reference::commit_by_reference;
use super::layers::Layers;
use super::tests_rules::{Engine, key};
use super::validate::Validation;
use super::validator::FEW;
use super::{PendingWrites, ReadSet};
use crate::error::{Error, Result};
use crate::merge::step;
use crate::options::Durability;
use crate::page::MemoryPart;
use crate::segment::key_range::KeyRange;
use crate::state::catalogue::KeyspaceSettings;
use crate::state::{Core, SnapshotHold};
use crate::sync::Arc;
use crate::sync::atomic::Ordering;
use crate::sync::preempt::set_hook;
use crate::types::{KeyspaceNumber, SequenceNumber};

/// Begins a transaction; returns its name and its number.
fn begin(core: &Core) -> (u64, SequenceNumber) {
    let name = core.transactions.begin(core.clock.now());
    let began = SnapshotHold::take(core).number();
    core.transactions.began_at(name, began);
    (name, began)
}

fn put(core: &Arc<Core>, keyspace: KeyspaceNumber, keys: impl IntoIterator<Item = u32>) {
    let mut writes = PendingWrites::new();
    keys.into_iter().for_each(|number| writes.put(keyspace, &key(number), b"beside"));
    commit(core, &writes, Durability::Memory, None).unwrap();
}

fn put_by_reference(core: &Arc<Core>, keyspace: KeyspaceNumber, keys: &[u32]) {
    let mut layers = Layers::new(core.pages.budget());
    keys.iter().for_each(|number| layers.top().put(keyspace, &key(*number), b"beside"));
    let validation = Validation { began: core.last_placed(), reads: None };
    commit_by_reference(core, &mut layers, Durability::Memory, &validation).unwrap();
}

/// Runs something, and `meanwhile` at each point where another thread may come in between, with the
/// number of the point.
fn beside<R>(meanwhile: impl Fn(u32) + 'static, run: impl FnOnce() -> R) -> (R, u32) {
    let (points, is_busy) = (Rc::new(Cell::new(0)), Cell::new(false));
    let counted = points.clone();
    set_hook(Some(Rc::new(move || {
        if !is_busy.replace(true) {
            counted.set(counted.get() + 1);
            meanwhile(counted.get());
            is_busy.set(false);
        }
    })));
    let result = run();
    set_hook(None);
    (result, points.get())
}

/// Commits one key of its own beside what it has used, in memory or by reference.
fn commit_one(
    core: &Arc<Core>,
    keyspace: KeyspaceNumber,
    validation: &Validation<'_>,
    by_reference: bool,
) -> Result<SequenceNumber> {
    if by_reference {
        let mut layers = Layers::new(core.pages.budget());
        layers.top().put(keyspace, b"mine", b"mine");
        commit_by_reference(core, &mut layers, Durability::Memory, validation)
    } else {
        let mut writes = PendingWrites::new();
        writes.put(keyspace, b"mine", b"mine");
        commit(core, &writes, Durability::Memory, Some(validation))
    }
}

fn reads_of(keyspace: KeyspaceNumber, keys: impl IntoIterator<Item = u32>) -> ReadSet {
    let mut reads = ReadSet::new(usize::MAX);
    keys.into_iter().for_each(|number| reads.add_key(keyspace, &key(number)));
    reads
}

fn create(core: &Arc<Core>, name: &str) {
    create_keyspace(core, name, KeyspaceSettings::default(), Durability::Memory).unwrap();
}

/// What a transaction has read that has no room for any of it.
fn everything() -> ReadSet {
    let mut reads = ReadSet::new(0);
    reads.add_key(KeyspaceNumber(1), b"k");
    assert!(reads.is_everything());
    reads
}

/// Changes that no key and no range of the transaction says anything of, and whether each is one of
/// a key.
#[test]
fn what_has_read_everything_fails_when_a_key_was_changed_since_and_not_when_nothing_was() {
    type Change = fn(&mut Engine);
    let changes: [(Change, bool); 6] = [
        (|_| (), false),
        (|engine| engine.put([7], b"in memory"), true),
        (|engine| engine.young([7], b"flushed"), true),
        (|engine| put_by_reference(&engine.core, engine.keyspace, &[7]), true),
        (
            |engine| {
                put_by_reference(&engine.core, engine.keyspace, &[7]);
                step::wait_until_idle(&engine.core).unwrap();
            },
            true,
        ),
        (
            |engine| {
                create(&engine.core, "b");
                drop_keyspace(&engine.core, "b", Durability::Memory).unwrap();
            },
            true,
        ),
    ];
    let runs = changes.iter().flat_map(|change| [(change, false), (change, true)]);
    for ((change, is_of_key), by_reference) in runs {
        let mut engine = Engine::new();
        engine.put([1], b"in memory, before");
        engine.young([2], b"flushed, before");
        put_by_reference(&engine.core, engine.keyspace, &[3]);
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        change(&mut engine);
        let reads = everything();
        let validation = Validation { began, reads: Some(&reads) };
        let result = commit_one(&core, keyspace, &validation, by_reference);
        assert_eq!(result.as_ref().is_err_and(Error::is_conflict), *is_of_key, "{result:?}");
        assert_eq!(result.is_ok(), !is_of_key);
        core.end_transaction(name);
    }
}

/// At each point at which another may come in between, one commits.
#[test]
fn what_has_read_everything_sees_what_is_committed_during_its_validation() {
    for (at, by_reference) in (1..40).flat_map(|at| [(at, false), (at, true)]) {
        let engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        let reads = everything();
        let validation = Validation { began, reads: Some(&reads) };
        let (other, placed) = (core.clone(), Rc::new(Cell::new(SequenceNumber(0))));
        let of_other = placed.clone();
        let (result, points) = beside(
            move |point| {
                if point == at {
                    put(&other, keyspace, [7]);
                    of_other.set(other.last_placed());
                }
            },
            || commit_one(&core, keyspace, &validation, by_reference),
        );
        match result {
            Ok(number) => assert!(points < at || placed.get() > number, "{at}"),
            Err(error) => assert!(error.is_conflict() && points >= at, "{at}: {error}"),
        }
        core.end_transaction(name);
    }
}

fn validations(core: &Core) -> u64 {
    core.counters.validations.load(Ordering::Relaxed)
}

/// At each point, the last of them right before the commit lock, somebody commits.
#[test]
fn under_the_commit_lock_what_was_read_is_not_asked_for_again() {
    for by_reference in [false, true] {
        let mut engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        engine.put([60_000], b"before its commit");
        let reads = reads_of(keyspace, 0..50_000);
        let validation = Validation { began, reads: Some(&reads) };
        let before = validations(&core);
        let other = core.clone();
        let (result, points) = beside(
            move |point| put(&other, keyspace, [70_000 + point]),
            || commit_one(&core, keyspace, &validation, by_reference),
        );
        result.unwrap();
        assert!(points > 4, "{points} points");
        assert_eq!(validations(&core) - before, 1, "by reference: {by_reference}");
        core.end_transaction(name);
        assert_eq!(core.pages.budget().part(MemoryPart::ReadSets), 0);
    }
}

/// One range may hold all that there is: under the lock it would be walked for one key of others.
#[test]
fn under_the_commit_lock_a_range_that_was_read_is_not_walked_again() {
    for by_reference in [false, true] {
        let mut engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        engine.put(0..1_000, b"read");
        let (name, began) = begin(&core);
        engine.put([60_000], b"before its commit");
        let mut reads = ReadSet::new(usize::MAX);
        reads.add_range(keyspace, &KeyRange::new(key(0), Some(key(50_000))));
        let validation = Validation { began, reads: Some(&reads) };
        let before = validations(&core);
        let other = core.clone();
        let (result, points) = beside(
            move |point| put(&other, keyspace, [70_000 + point]),
            || commit_one(&core, keyspace, &validation, by_reference),
        );
        result.unwrap();
        assert!(points > 4, "{points} points");
        assert_eq!(validations(&core) - before, 1, "by reference: {by_reference}");
        core.end_transaction(name);
    }
}

/// A commit by reference walks what came since it looked, under the commit lock. What it has looked
/// at is sealed, so that one key of others does not bring all that lay beside it into the walk.
#[test]
fn what_comes_after_the_look_of_a_commit_by_reference_lies_by_itself() {
    let mut beside_the_last = 0;
    for at in 1.. {
        let mut engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        engine.put(0..1_000, b"before its commit");
        let (other, number) = (core.clone(), Rc::new(Cell::new(None)));
        let of_other = number.clone();
        let validation = Validation { began, reads: None };
        let (result, _) = beside(
            move |point| {
                if point == at {
                    put(&other, keyspace, [70_000]);
                    of_other.set(Some(other.last_placed()));
                }
            },
            || commit_one(&core, keyspace, &validation, true),
        );
        let placed = result.unwrap();
        core.end_transaction(name);
        let Some(number) = number.get().filter(|number| *number < placed) else { break };
        let view = core.view();
        let slot = view.memtables().find(|slot| slot.last_sequence() == Some(number));
        beside_the_last = slot.unwrap().table.entry_count();
    }
    // At the last of these points it has looked, and has not its place yet.
    assert_eq!(beside_the_last, 1, "entries are walked under the commit lock");
}

#[test]
fn under_the_commit_lock_what_was_written_is_not_asked_for_again() {
    for is_range in [false, true] {
        let mut engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        engine.put([60_000], b"before its commit");
        let mut writes = PendingWrites::new();
        if is_range {
            writes.delete_range(keyspace, KeyRange::new(key(0), Some(key(50_000))));
        } else {
            (0..1_000).for_each(|number| writes.put(keyspace, &key(number), b"mine"));
        }
        let validation = Validation { began, reads: None };
        let before = validations(&core);
        let other = core.clone();
        let (result, _) = beside(
            move |point| put(&other, keyspace, [70_000 + point]),
            || commit(&core, &writes, Durability::Memory, Some(&validation)),
        );
        result.unwrap();
        assert_eq!(validations(&core) - before, 1);
        core.end_transaction(name);
    }
}

/// What comes each time is more than may be looked at under the lock, and more than is listed.
#[test]
fn a_commit_gets_its_place_though_much_comes_whenever_it_has_looked() {
    for (count, is_listed) in [(2 * FEW as u32, true), (6_000, false)] {
        for by_reference in [false, true] {
            for conflicts in [false, true] {
                let mut engine = Engine::new();
                let (core, keyspace) = (engine.core.clone(), engine.keyspace);
                let (name, began) = begin(&core);
                engine.put([60_000], b"before its commit");
                let reads = reads_of(keyspace, 0..1_000);
                let validation = Validation { began, reads: Some(&reads) };
                let before = validations(&core);
                let (other, done) = (core.clone(), Cell::new(0));
                let (result, _) = beside(
                    move |_| {
                        let nth = done.get();
                        // The first look has begun: what comes now is not in it.
                        if validations(&other) > before && nth < 40 {
                            done.set(nth + 1);
                            let mine = (conflicts && nth == 6).then_some(999);
                            let from = 100_000 + nth * count;
                            put(&other, keyspace, mine.into_iter().chain(from..from + count));
                        }
                    },
                    || commit_one(&core, keyspace, &validation, by_reference),
                );
                let what = format!("{count} keys, by reference: {by_reference}, {conflicts}");
                match result {
                    Err(Error::Conflict) => assert!(conflicts, "{what}"),
                    result => assert!(result.is_ok() && !conflicts, "{what}: {result:?}"),
                }
                let whole = validations(&core) - before;
                // One by reference has so many points that the list may be too short for all.
                let is_known = !conflicts && !by_reference;
                assert!(!is_known || (whole == 1) == is_listed, "{what}: {whole} times");
                core.end_transaction(name);
                assert_eq!(core.pages.budget().part(MemoryPart::ReadSets), 0, "{what}");
            }
        }
    }
}

/// A commit by reference is not listed: what was used is asked for again, and outside of the lock.
#[test]
fn a_commit_by_reference_during_a_validation_is_seen_by_it() {
    for by_reference in [false, true] {
        for conflicts in [false, true] {
            let mut engine = Engine::new();
            let (core, keyspace) = (engine.core.clone(), engine.keyspace);
            let (name, began) = begin(&core);
            engine.put([60_000], b"before its commit");
            let reads = reads_of(keyspace, 0..1_000);
            let validation = Validation { began, reads: Some(&reads) };
            let (other, before) = (core.clone(), validations(&core));
            let done = Cell::new(false);
            let (result, _) = beside(
                move |_| {
                    // The first look has begun: what comes now is not in it.
                    if validations(&other) > before && !done.replace(true) {
                        put(&other, keyspace, [2_999]);
                        put_by_reference(&other, keyspace, &[if conflicts { 999 } else { 2_000 }]);
                        put(&other, keyspace, [3_000]);
                    }
                },
                || commit_one(&core, keyspace, &validation, by_reference),
            );
            assert_eq!(matches!(result, Err(Error::Conflict)), conflicts, "{result:?}");
            assert!(validations(&core) > before + 1);
            core.end_transaction(name);
        }
    }
}

/// Of what comes right before the commit lock, it is not known under it what it has changed. So all
/// is asked for again, but not there.
#[test]
fn all_that_was_used_is_never_asked_for_under_the_commit_lock() {
    for (by_reference, nth) in (0..32).map(|n| (n >= 16, n % 16)) {
        let mut engine = Engine::new();
        let (core, keyspace) = (engine.core.clone(), engine.keyspace);
        let (name, began) = begin(&core);
        engine.put([60_000], b"before its commit");
        let reads = reads_of(keyspace, 0..1_000);
        let validation = Validation { began, reads: Some(&reads) };
        let other = core.clone();
        let (before, last) = (Cell::new(validations(&core)), Cell::new(core.last_placed()));
        let (looks, under_lock) = (Cell::new(0), Rc::new(Cell::new(None)));
        let found = under_lock.clone();
        let (result, _) = beside(
            move |_| {
                let now = validations(&other);
                if other.last_placed() > last.get() && found.get().is_none() {
                    // It has its place. There was no such point while the lock was held.
                    found.set(Some(now - before.get()));
                }
                looks.set(looks.get() + u32::from(now > 0));
                if looks.get() == nth + 1 {
                    put_by_reference(&other, keyspace, &[2_000]);
                }
                before.set(validations(&other));
                last.set(other.last_placed());
            },
            || commit_one(&core, keyspace, &validation, by_reference),
        );
        result.unwrap();
        assert_eq!(under_lock.get(), Some(0), "at point {nth}, by reference: {by_reference}");
        core.end_transaction(name);
    }
}

/// What somebody does beside a transaction.
#[derive(Clone, Debug)]
enum Other {
    /// In the keyspace of that index.
    Put(usize, Vec<u32>),
    Delete(usize, Vec<u32>),
    DeleteRange(usize, u32, Option<u32>),
    /// Of the second keyspace.
    Drop,
    ByReference(usize, Vec<u32>, Option<(u32, u32)>),
    Create,
    Flush,
    /// More than is listed, behind all keys that are used.
    Much,
}

const KEYS: u32 = 30;

fn keys() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..KEYS, 1..4)
}

fn range() -> impl Strategy<Value = (u32, u32)> {
    (0..KEYS, 0u32..6).prop_map(|(from, length)| (from, from + length))
}

fn other() -> impl Strategy<Value = Other> {
    let keyspace = 0usize..2;
    prop_oneof![
        4 => (keyspace.clone(), keys()).prop_map(|(of, keys)| Other::Put(of, keys)),
        2 => (keyspace.clone(), keys()).prop_map(|(of, keys)| Other::Delete(of, keys)),
        2 => (keyspace.clone(), range(), prop::bool::weighted(0.9)).prop_map(
            |(of, (from, to), ends)| Other::DeleteRange(of, from, ends.then_some(to))
        ),
        1 => Just(Other::Drop),
        2 => (keyspace, keys(), prop::option::of(range()))
            .prop_map(|(of, keys, range)| Other::ByReference(of, keys, range)),
        1 => Just(Other::Create),
        1 => Just(Other::Flush),
        1 => Just(Other::Much),
    ]
}

/// What comes, and at which point. Much comes once: memtables have room for that.
fn meanwhile() -> impl Strategy<Value = Vec<(u32, Other)>> {
    prop::collection::vec((1u32..12, other()), 0..5).prop_map(|mut all| {
        let mut is_first = true;
        all.retain(|(_, other)| !matches!(other, Other::Much) || std::mem::take(&mut is_first));
        all
    })
}

/// What a transaction has used: keys by keyspace, each as it is or as a part of a range.
type Used = BTreeSet<(usize, u32)>;

impl Other {
    /// True when it changes something that was used.
    fn changes(&self, used: &Used) -> bool {
        let any = |of: usize, is_changed: &dyn Fn(u32) -> bool| {
            used.iter().any(|(used_of, number)| *used_of == of && is_changed(*number))
        };
        match self {
            Other::Put(of, keys) | Other::Delete(of, keys) => any(*of, &|n| keys.contains(&n)),
            Other::DeleteRange(of, from, to) => {
                any(*of, &|n| *from <= n && to.is_none_or(|to| n < to))
            }
            Other::Drop => any(1, &|_| true),
            Other::ByReference(of, keys, range) => any(*of, &|n| {
                keys.contains(&n) || range.is_some_and(|(from, to)| from <= n && n < to)
            }),
            Other::Create | Other::Flush | Other::Much => false,
        }
    }
}

/// Does it, and says whether it was done, and under which number.
fn make(core: &Arc<Core>, keyspaces: [KeyspaceNumber; 2], other: &Other) -> Option<SequenceNumber> {
    let mut writes = PendingWrites::new();
    let done = match other {
        Other::Put(of, keys) => {
            keys.iter().for_each(|number| writes.put(keyspaces[*of], &key(*number), b"beside"));
            commit(core, &writes, Durability::Memory, None).map(drop)
        }
        Other::Delete(of, keys) => {
            keys.iter().for_each(|number| writes.delete(keyspaces[*of], &key(*number)));
            commit(core, &writes, Durability::Memory, None).map(drop)
        }
        Other::DeleteRange(of, from, to) => {
            writes.delete_range(keyspaces[*of], KeyRange::new(key(*from), to.map(key)));
            commit(core, &writes, Durability::Memory, None).map(drop)
        }
        Other::Drop => drop_keyspace(core, "b", Durability::Memory),
        Other::ByReference(of, keys, range) => {
            let mut layers = Layers::new(core.pages.budget());
            if let Some((from, to)) = range {
                let range = KeyRange::new(key(*from), Some(key(*to)));
                layers.top().delete_range(keyspaces[*of], range);
            }
            let keyspace = keyspaces[*of];
            keys.iter().for_each(|number| layers.top().put(keyspace, &key(*number), b"beside"));
            let validation = Validation { began: core.last_placed(), reads: None };
            commit_by_reference(core, &mut layers, Durability::Memory, &validation).map(drop)
        }
        Other::Create => {
            let name = format!("further {}", core.last_placed());
            create_keyspace(core, &name, KeyspaceSettings::default(), Durability::Memory).map(drop)
        }
        Other::Flush => {
            let order = core.commit_order.lock();
            core.seal();
            drop(order);
            step::flush_sealed(core).map(drop)
        }
        Other::Much => {
            put(core, keyspaces[0], 100_000..106_000);
            Ok(())
        }
    };
    match done {
        Ok(()) => Some(core.last_placed()),
        // The second one is gone.
        Err(Error::KeyspaceDropped(_) | Error::UnknownKeyspace(_) | Error::Conflict) => None,
        Err(error) => panic!("{other:?}: {error}"),
    }
}

/// What a transaction has read or written: keys, and ranges.
type Uses = (Vec<(usize, u32)>, Vec<(usize, (u32, u32))>);

fn uses() -> impl Strategy<Value = Uses> {
    let keys = prop::collection::vec((0usize..2, 0..KEYS), 0..4);
    (keys, prop::collection::vec((0usize..2, range()), 0..2))
}

fn note((keys, ranges): &Uses, used: &mut Used) {
    used.extend(keys.iter().copied());
    for (of, (from, to)) in ranges {
        used.extend((*from..*to).map(|number| (*of, number)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// It fails exactly when something that it has used was changed before it had its place,
    /// wherever in its commit that came, and however the change was made.
    #[test]
    fn a_commit_fails_exactly_when_something_it_has_used_was_changed_before_its_place(
        (read, written) in (prop::option::weighted(0.8, uses()), uses()),
        (uses_much, by_reference) in (prop::bool::weighted(0.8), prop::bool::weighted(0.3)),
        earlier in prop::collection::vec(other(), 0..2),
        meanwhile in meanwhile(),
    ) {
        let engine = Engine::new();
        let core = engine.core.clone();
        let settings = KeyspaceSettings::default();
        let new = |name| create_keyspace(&core, name, settings, Durability::Memory).unwrap();
        let keyspaces = [engine.keyspace, new("b")];
        let apart = new("apart");
        keyspaces.iter().for_each(|keyspace| put(&core, *keyspace, 0..KEYS));
        // What is in a run counts as changed as a whole.
        engine.flush();
        let (name, began) = begin(&core);
        let done = Rc::new(RefCell::new(Vec::new()));
        for other in earlier {
            let number = make(&core, keyspaces, &other);
            done.borrow_mut().extend(number.map(|number| (number, other)));
        }

        let mut used = Used::new();
        let mut reads = read.as_ref().map(|_| ReadSet::new(usize::MAX));
        if let (Some(reads), Some(read)) = (&mut reads, &read) {
            read.0.iter().for_each(|(of, number)| reads.add_key(keyspaces[*of], &key(*number)));
            for (of, (from, to)) in &read.1 {
                reads.add_range(keyspaces[*of], &KeyRange::new(key(*from), Some(key(*to))));
            }
            note(read, &mut used);
            let more = if uses_much { FEW as u32 + 1 } else { 0 };
            (0..more).for_each(|number| reads.add_key(apart, &key(number)));
        }
        let mut layers = Layers::new(core.pages.budget());
        for (of, (from, to)) in &written.1 {
            let range = KeyRange::new(key(*from), Some(key(*to)));
            layers.top().delete_range(keyspaces[*of], range);
        }
        for (of, number) in &written.0 {
            layers.top().put(keyspaces[*of], &key(*number), b"mine");
        }
        note(&written, &mut used);
        layers.top().put(apart, b"mine", b"mine");
        let validation = Validation { began, reads: reads.as_ref() };

        // So that there is something to look at.
        put(&core, apart, [900_000]);
        let (other, list) = (core.clone(), done.clone());
        let (before, point) = (validations(&core), Cell::new(0));
        let last = Cell::new(core.last_placed());
        let (result, _) = beside(
            move |_| {
                // Before it looks it may be flushing, and once it has its place it has to become
                // visible: whoever waits for either would wait for ever.
                if validations(&other) == before || other.last_placed() > last.get() {
                    return;
                }
                point.set(point.get() + 1);
                for (_, what) in meanwhile.iter().filter(|(at, _)| *at == point.get()) {
                    let number = make(&other, keyspaces, what);
                    list.borrow_mut().extend(number.map(|number| (number, what.clone())));
                }
                last.set(other.last_placed());
            },
            || match by_reference {
                true => commit_by_reference(&core, &mut layers, Durability::Memory, &validation),
                false => {
                    let writes = layers.take_memory();
                    commit(&core, &writes, Durability::Memory, Some(&validation))
                }
            },
        );
        let place = match result {
            Ok(number) => number,
            Err(Error::Conflict) => SequenceNumber::MAX,
            Err(error) => panic!("{error}"),
        };
        let done = done.borrow();
        let before = done.iter().filter(|(number, _)| *number < place);
        let is_changed = before.clone().any(|(_, other)| other.changes(&used));
        prop_assert_eq!(place == SequenceNumber::MAX, is_changed, "{:?} of {:?}", &*done, used);
        core.end_transaction(name);
        prop_assert_eq!(core.pages.budget().part(MemoryPart::ReadSets), 0);
    }
}
