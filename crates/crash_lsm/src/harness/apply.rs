//! What each step of a workload does, and what it must give.

use std::ops::Bound;

use sapwood::sync::{Arc, Random};
use sapwood::{Cursor, Durability, Error, Isolation, Seek, Transaction};

use super::Totals;
use super::driver::{Driver, Kept, Outcome, Stop};
use crate::access::{self, Writes};
use crate::model::{Change, KeyRange, Map, Model, is_empty_range, show};
use crate::setup::draw_keyspace_options;
use crate::workload::{Move, Step, Via};

fn found<T>(detail: String) -> Outcome<T> {
    Err(Stop::Found(detail))
}

impl Driver<'_> {
    pub(crate) fn apply(
        &mut self,
        step: Step,
        model: &mut Model,
        totals: &mut Totals,
        random: &mut Random,
    ) -> Outcome {
        match step {
            Step::Commit { changes, durability, via: Via::Batch } => {
                self.commit_batch(changes, durability, model, totals)
            }
            Step::Commit { changes, durability, via: Via::Transaction(isolation) } => {
                let transaction = self.database()?.begin(isolation);
                let transaction = self.check("begin", transaction)?;
                self.commit_transaction(transaction, changes, durability, model, totals, false)
            }
            Step::Overlapping { isolation, keyspace, read, changes, between, durability } => {
                let parts = Overlap { isolation, keyspace, read, changes, between, durability };
                self.overlap(parts, model, totals)
            }
            Step::Catalogue(change) => self.change_catalogue_with(change, model, Some(random)),
            Step::Get { keyspace, keys } => self.get(&keyspace, &keys, model),
            Step::Scan { keyspace, range, backwards, limit } => {
                self.scan(&keyspace, &range, backwards, limit, model)
            }
            Step::Walk { keyspace, moves } => self.walk(&keyspace, &moves, model),
            Step::TakeSnapshot => self.take_snapshot(model),
            Step::ReadSnapshot(index) => self.read_snapshot(index),
            Step::DropSnapshot(index) => {
                self.kept.remove(index);
                Ok(())
            }
            Step::Sync => self.make_durable("sync", model, sapwood::Database::sync),
            Step::Flush => self.make_durable("flush", model, sapwood::Database::flush),
            Step::RunSteps(count) => self.run_steps(count, model),
            Step::RunAllSteps => self.run_steps(u64::MAX, model),
            Step::PassTime(milliseconds) => {
                self.pass_time(milliseconds);
                Ok(())
            }
            Step::PassInterval => {
                self.pass_interval();
                self.run_steps(u64::MAX, model)
            }
            Step::Compact => {
                let compacted = self.database()?.compact();
                self.check("compact", compacted)
            }
            Step::Verify => self.verify("in between"),
            Step::ReadAll => {
                let content = self.dump()?;
                content.difference(model.state()).map_or(Ok(()), found)
            }
            Step::Reopen => self.reopen(model, random),
        }
    }

    pub(crate) fn commit_batch(
        &mut self,
        changes: Vec<Change>,
        durability: Durability,
        model: &mut Model,
        totals: &mut Totals,
    ) -> Outcome {
        let mut batch = self.database()?.batch();
        let filled = self.fill(&mut batch, &changes);
        self.check("filling a batch", filled?)?;
        self.begin(model, changes);
        let result = batch.commit_with(durability);
        self.finish("commit of a batch", model, durability, result)?;
        totals.add_commit(durability);
        Ok(())
    }

    fn fill(&self, writes: &mut impl Writes, changes: &[Change]) -> Outcome<sapwood::Result<()>> {
        for change in changes {
            let (Change::Put { keyspace, .. }
            | Change::Delete { keyspace, .. }
            | Change::DeleteRange { keyspace, .. }) = change
            else {
                continue;
            };
            let handle = self.handle(keyspace)?;
            if let Err(error) = writes.change(&handle, change) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn commit_transaction(
        &mut self,
        mut transaction: Transaction,
        changes: Vec<Change>,
        durability: Durability,
        model: &mut Model,
        totals: &mut Totals,
        must_conflict: bool,
    ) -> Outcome {
        let filled = self.fill(&mut transaction, &changes);
        self.check("writing in a transaction", filled?)?;
        self.check_own_writes(&mut transaction, &changes)?;
        self.begin(model, changes);
        match transaction.commit_with(durability) {
            Err(Error::Conflict) => {
                model.forget();
                self.crashing.know(model.knowledge());
                totals.false_conflicts += u64::from(!must_conflict);
                Ok(())
            }
            Ok(()) if must_conflict => found("a commit went through that must conflict".to_owned()),
            result => {
                self.finish("commit of a transaction", model, durability, result)?;
                totals.add_commit(durability);
                Ok(())
            }
        }
    }

    /// A transaction sees what it wrote.
    fn check_own_writes(&mut self, transaction: &mut Transaction, changes: &[Change]) -> Outcome {
        for change in changes.iter().rev().take(8) {
            let Some((keyspace, key)) = point(change) else {
                return Ok(());
            };
            let handle = self.handle(keyspace)?;
            let seen = transaction.get(&handle, key);
            let seen = self.check("get in a transaction", seen)?;
            let last = changes.iter().rev().find(|other| point(other) == Some((keyspace, key)));
            let expected = match last {
                Some(Change::Put { value, .. }) => Some(&**value),
                _ => None,
            };
            if seen.as_deref() != expected {
                return found(format!("a transaction does not see its own {change:?}"));
            }
        }
        Ok(())
    }

    fn overlap(&mut self, parts: Overlap, model: &mut Model, totals: &mut Totals) -> Outcome {
        let before = model.state().clone();
        let transaction = self.database()?.begin(parts.isolation);
        let transaction = self.check("begin", transaction)?;
        let handle = self.handle(&parts.keyspace)?;
        let seen = transaction.range(&handle, parts.read.clone()).and_then(access::collect);
        let seen = self.check("range in a transaction", seen)?;
        compare_range(&seen, before.range(&parts.keyspace, &parts.read), "a transaction's range")?;
        let must_conflict = parts.must_conflict();
        self.commit_batch(parts.between, parts.durability, model, totals)?;
        let again = transaction.range(&handle, parts.read.clone()).and_then(access::collect);
        let again = self.check("range in a transaction", again)?;
        if again != seen {
            return found("a transaction's range changed under it".to_owned());
        }
        let (changes, durability) = (parts.changes, parts.durability);
        self.commit_transaction(transaction, changes, durability, model, totals, must_conflict)
    }

    pub(crate) fn change_catalogue(&mut self, change: Change, model: &mut Model) -> Outcome {
        self.change_catalogue_with(change, model, None)
    }

    /// What a change of the catalogue asks for is the database's default durability; the model
    /// promises itself nothing of it.
    fn change_catalogue_with(
        &mut self,
        change: Change,
        model: &mut Model,
        random: Option<&mut Random>,
    ) -> Outcome {
        self.begin(model, vec![change.clone()]);
        let options = random.map(draw_keyspace_options).unwrap_or_default();
        let database = self.database()?;
        let result = match &change {
            Change::Create(name) => database.keyspace_with(name, options).map(Some),
            Change::Drop(name) => database.drop_keyspace(name).map(|()| None),
            Change::Rename { old, new } => database.rename_keyspace(old, new).map(|()| None),
            _ => Ok(None),
        };
        let (handle, result) = match result {
            Ok(handle) => (handle, Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.finish("a change of keyspaces", model, Durability::Memory, result)?;
        match change {
            Change::Create(name) => {
                if let Some(handle) = handle {
                    self.handles.entry(name).or_insert(handle);
                }
            }
            Change::Drop(name) => self.check_dropped(&name)?,
            Change::Rename { old, new } => {
                if let Some(handle) = self.handles.remove(&old) {
                    self.handles.insert(new, handle);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_dropped(&mut self, name: &str) -> Outcome {
        let Some(handle) = self.handles.remove(name) else {
            return Ok(());
        };
        match handle.get(b"any") {
            Err(Error::KeyspaceDropped(_)) => Ok(()),
            other => found(format!("a dropped keyspace gives {other:?}")),
        }
    }

    fn get(&mut self, name: &str, keys: &[Vec<u8>], model: &Model) -> Outcome {
        let handle = self.handle(name)?;
        let empty = Map::new();
        let map = model.state().keyspaces.get(name).unwrap_or(&empty);
        for key in keys {
            let value = self.check("get", handle.get(key))?;
            let expected = map.get(key).map(|value| &**value);
            if value.as_deref() != expected {
                let value = value.as_deref().map(show);
                return found(format!("{} is {value:?}, not {:?}", show(key), expected.map(show)));
            }
            if self.check("contains", handle.contains(key))? != expected.is_some() {
                return found(format!("contains and get differ for {}", show(key)));
            }
        }
        Ok(())
    }

    fn scan(
        &mut self,
        name: &str,
        range: &KeyRange,
        backwards: bool,
        limit: usize,
        model: &Model,
    ) -> Outcome {
        let handle = self.handle(name)?;
        let pairs = self.check("range", handle.range(range.clone()))?;
        let expected = model.state().range(name, range);
        if backwards {
            compare_pairs(self.collect(pairs.rev().take(limit))?, expected.rev().take(limit))
        } else {
            compare_pairs(self.collect(pairs.take(limit))?, expected.take(limit))
        }
    }

    fn collect(&mut self, pairs: impl Iterator<Item = Pair>) -> Outcome<Vec<(Vec<u8>, Vec<u8>)>> {
        let owned: sapwood::Result<Vec<_>> =
            pairs.map(|pair| pair.map(|(key, value)| (key.into_vec(), value.into_vec()))).collect();
        self.check("a scan", owned)
    }

    fn walk(&mut self, name: &str, moves: &[Move], model: &Model) -> Outcome {
        let handle = self.handle(name)?;
        let mut cursor = self.check("cursor", handle.cursor())?;
        let empty = Map::new();
        let map = model.state().keyspaces.get(name).unwrap_or(&empty);
        let mut at: Option<Vec<u8>> = None;
        for one in moves {
            let Some(next) = expected_move(map, at.as_deref(), one) else {
                continue;
            };
            let valid = move_cursor(&mut cursor, one, at.as_deref());
            let valid = self.check("a cursor's move", valid)?;
            if cursor.key() != next.as_deref() || valid != next.is_some() || valid != cursor.valid()
            {
                let seen = cursor.key().map(show);
                let next = next.as_deref().map(show);
                return found(format!("cursor after {one:?} from {at:?}: {seen:?}, not {next:?}"));
            }
            if let Some(key) = &next {
                let value = self.check("a cursor's value", cursor.value())?;
                let length = cursor.value_len();
                let expected = map.get(key).map(|value| &**value).unwrap_or_default();
                if value.as_slice() != expected || length != Some(expected.len() as u64) {
                    return found(format!("a cursor's value of {} is wrong", show(key)));
                }
            }
            at = next;
        }
        Ok(())
    }

    fn take_snapshot(&mut self, model: &Model) -> Outcome {
        let snapshot = self.database()?.snapshot();
        let snapshot = self.check("snapshot", snapshot)?;
        let state = model.state().clone();
        self.kept.push(Kept { snapshot, handles: self.handles.clone(), state });
        Ok(())
    }

    /// What a snapshot sees does not change; a keyspace dropped since gives that error, and nothing
    /// else.
    fn read_snapshot(&mut self, index: usize) -> Outcome {
        let Some(kept) = self.kept.get(index) else {
            return Ok(());
        };
        let mut results = Vec::new();
        for (name, handle) in &kept.handles {
            let expected = kept.state.keyspaces.get(name).cloned().unwrap_or_default();
            let seen = access::dump_snapshot(&kept.snapshot, handle);
            results.push((name.clone(), seen, expected));
        }
        for (name, seen, expected) in results {
            match seen {
                Err(Error::KeyspaceDropped(_)) => {}
                seen => {
                    let seen = self.check("reading a snapshot", seen)?;
                    let pairs = expected.iter();
                    compare_range(&seen, pairs, &format!("a snapshot of {name:?}"))?;
                }
            }
        }
        Ok(())
    }

    fn make_durable(
        &mut self,
        what: &str,
        model: &mut Model,
        call: impl FnOnce(&sapwood::Database) -> sapwood::Result<()>,
    ) -> Outcome {
        let result = call(self.database()?);
        self.check(what, result)?;
        model.all_durable();
        if !self.crashing.is_over() {
            self.crashing.know(model.knowledge());
        }
        Ok(())
    }

    fn run_steps(&mut self, count: u64, model: &mut Model) -> Outcome {
        // Far more steps than anything here gives rise to: a step that never ends is a finding.
        for _ in 0..count.min(100_000) {
            let step = self.database()?.run_step();
            let was_due = self.check("run_step", step)?;
            self.step_was_run(model);
            if !was_due {
                return Ok(());
            }
        }
        if count == u64::MAX { found("steps are due for ever".to_owned()) } else { Ok(()) }
    }

    fn reopen(&mut self, model: &mut Model, random: &mut Random) -> Outcome {
        self.let_go();
        let database = self.database.take();
        if let Some(database) = database {
            let closed = database.close();
            self.check("close", closed)?;
        }
        model.all_durable();
        if !self.crashing.is_over() {
            self.crashing.know(model.knowledge());
        }
        self.setup = self.setup.redraw(random);
        self.open()?;
        let content = self.dump()?;
        if let Some(text) = content.difference(model.state()) {
            return found(format!("after a clean reopen: {text}"));
        }
        self.verify("after a clean reopen")?;
        let state = model.state().clone();
        self.refresh_handles(&state)
    }
}

type Pair = sapwood::Result<(sapwood::Key, sapwood::Value)>;

/// The parts of [`Step::Overlapping`].
struct Overlap {
    isolation: Isolation,
    keyspace: String,
    read: KeyRange,
    changes: Vec<Change>,
    between: Vec<Change>,
    durability: Durability,
}

impl Overlap {
    /// Whether what was committed between touches what the transaction wrote, or, where that
    /// counts, read.
    fn must_conflict(&self) -> bool {
        let points = self.between.iter().filter_map(point);
        let serializable = self.isolation == Isolation::Serializable;
        let reads = |keyspace: &str, key: &[u8]| {
            serializable && keyspace == self.keyspace && contains(&self.read, key)
        };
        points.into_iter().any(|(keyspace, key)| {
            reads(keyspace, key)
                || self.changes.iter().any(|change| match change {
                    Change::DeleteRange { keyspace: other, range } => {
                        other == keyspace && contains(range, key)
                    }
                    change => point(change) == Some((keyspace, key)),
                })
        })
    }
}

fn contains(range: &KeyRange, key: &[u8]) -> bool {
    use std::ops::RangeBounds;
    let bound = |bound: &Bound<Vec<u8>>| bound.clone();
    !is_empty_range(range) && (bound(&range.0), bound(&range.1)).contains(&key.to_vec())
}

fn point(change: &Change) -> Option<(&str, &[u8])> {
    match change {
        Change::Put { keyspace, key, .. } | Change::Delete { keyspace, key } => {
            Some((keyspace, key))
        }
        _ => None,
    }
}

/// Where a move leads; `None` when the move is not made (from nowhere there is no next, and the
/// current key is none).
fn expected_move(map: &Map, at: Option<&[u8]>, one: &Move) -> Option<Option<Vec<u8>>> {
    let owned = |key: Option<(&Vec<u8>, &Arc<[u8]>)>| key.map(|(key, _)| key.clone());
    let after = |key: &[u8]| (Bound::Excluded(key.to_vec()), Bound::Unbounded);
    let before = |key: &[u8]| (Bound::Unbounded, Bound::Excluded(key.to_vec()));
    let seek = |key: &[u8], mode: Seek| match mode {
        Seek::Equal => owned(map.get_key_value(key)),
        Seek::AtOrAfter => owned(map.range(key.to_vec()..).next()),
        Seek::AtOrBefore => owned(map.range(..=key.to_vec()).next_back()),
    };
    Some(match one {
        Move::First => owned(map.first_key_value()),
        Move::Last => owned(map.last_key_value()),
        Move::Next => owned(map.range::<Vec<u8>, _>(after(at?)).next()),
        Move::Prev => owned(map.range::<Vec<u8>, _>(before(at?)).next_back()),
        Move::Seek(key, mode) => seek(key, *mode),
        Move::SeekHere(mode) => seek(at?, *mode),
    })
}

fn move_cursor(cursor: &mut Cursor, one: &Move, at: Option<&[u8]>) -> sapwood::Result<bool> {
    match one {
        Move::First => cursor.first(),
        Move::Last => cursor.last(),
        Move::Next => cursor.next(),
        Move::Prev => cursor.prev(),
        Move::Seek(key, mode) => cursor.seek(key, *mode),
        Move::SeekHere(mode) => cursor.seek(at.unwrap_or_default(), *mode),
    }
}

fn compare_pairs<'a>(
    seen: Vec<(Vec<u8>, Vec<u8>)>,
    expected: impl Iterator<Item = (&'a Vec<u8>, &'a Arc<[u8]>)>,
) -> Outcome {
    let mut seen = seen.into_iter();
    for (key, value) in expected {
        match seen.next() {
            Some((at, given)) if at == *key && given == **value => {}
            Some((at, _)) if at == *key => {
                return found(format!("a scan gives {} another value", show(key)));
            }
            other => {
                let other = other.map(|(key, _)| show(&key));
                return found(format!("a scan gives {other:?}, not {}", show(key)));
            }
        }
    }
    seen.next().map_or(Ok(()), |(key, _)| found(format!("a scan gives {} too", show(&key))))
}

fn compare_range<'a>(
    seen: &Map,
    expected: impl Iterator<Item = (&'a Vec<u8>, &'a Arc<[u8]>)>,
    what: &str,
) -> Outcome {
    let expected: Map = expected.map(|(key, value)| (key.clone(), Arc::clone(value))).collect();
    if *seen == expected {
        return Ok(());
    }
    let missing = expected.keys().find(|key| !seen.contains_key(*key)).map(|key| show(key));
    let extra = seen.keys().find(|key| !expected.contains_key(*key)).map(|key| show(key));
    found(format!("{what} is wrong: missing {missing:?}, too much {extra:?}, or a value differs"))
}
