//! What a database must hold: the reference that engines are compared with.
//!
//! *Guarantees*: a [`State`] is the content of a database after some prefix of the commit order.
//! [`Model`] is that order, with what is known of how far it has come: written, and on disk. Its
//! oracle ([`Model::find_prefix`]) accepts a recovered content only when it is such a prefix, and
//! one that holds every commit that had to survive.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use sapwood::Durability;

/// The content of one keyspace.
pub type Map = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// A range of keys, by owned bounds.
pub type KeyRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Pairs of one keyspace, from either end.
pub type Pairs<'a> = Box<dyn DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Arc<[u8]>)> + 'a>;

/// The content of a whole database: keyspaces by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The living keyspaces.
    pub keyspaces: BTreeMap<String, Map>,
}

/// One change that a commit makes.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// A key gets a value.
    Put {
        /// The keyspace's name.
        keyspace: String,
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Arc<[u8]>,
    },
    /// A key goes.
    Delete {
        /// The keyspace's name.
        keyspace: String,
        /// The key.
        key: Vec<u8>,
    },
    /// All keys of a range go.
    DeleteRange {
        /// The keyspace's name.
        keyspace: String,
        /// The keys.
        range: KeyRange,
    },
    /// A keyspace is made.
    Create(String),
    /// A keyspace goes, with what it holds.
    Drop(String),
    /// A keyspace gets another name.
    Rename {
        /// The name until now.
        old: String,
        /// The name from now on.
        new: String,
    },
}

impl Change {
    /// Bytes of its key and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Change::Put { key, value, .. } => key.len() + value.len(),
            Change::Delete { key, .. } => key.len(),
            _ => 0,
        }
    }
}

/// Whether a range holds no key whatever, so that a `BTreeMap` would refuse it.
#[must_use]
pub fn is_empty_range(range: &KeyRange) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start >= end,
    }
}

/// The keys that begin with `prefix`.
#[must_use]
pub fn prefix_range(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (Bound::Included(prefix.to_vec()), Bound::Excluded(end));
        }
    }
    (Bound::Included(prefix.to_vec()), Bound::Unbounded)
}

impl State {
    /// Applies one change. A change of a keyspace that is not there does nothing.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put { keyspace, key, value } => {
                if let Some(map) = self.keyspaces.get_mut(keyspace) {
                    map.insert(key.clone(), Arc::clone(value));
                }
            }
            Change::Delete { keyspace, key } => {
                if let Some(map) = self.keyspaces.get_mut(keyspace) {
                    map.remove(key);
                }
            }
            Change::DeleteRange { keyspace, range } => {
                if let Some(map) = self.keyspaces.get_mut(keyspace) {
                    delete_range(map, range);
                }
            }
            Change::Create(name) => {
                self.keyspaces.entry(name.clone()).or_default();
            }
            Change::Drop(name) => {
                self.keyspaces.remove(name);
            }
            Change::Rename { old, new } => {
                if let Some(map) = self.keyspaces.remove(old) {
                    self.keyspaces.insert(new.clone(), map);
                }
            }
        }
    }

    /// Applies changes in their order.
    pub fn apply_all(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply(change);
        }
    }

    /// The pairs of a range of a keyspace, ascending; none when there is no such keyspace.
    pub fn range<'a>(&'a self, keyspace: &str, range: &KeyRange) -> Pairs<'a> {
        match self.keyspaces.get(keyspace) {
            Some(map) if !is_empty_range(range) => Box::new(map.range(range.clone())),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// How the content differs from another, in a few words; `None` when it does not.
    #[must_use]
    pub fn difference(&self, other: &State) -> Option<String> {
        let names: Vec<_> = self.keyspaces.keys().collect();
        let other_names: Vec<_> = other.keyspaces.keys().collect();
        if names != other_names {
            return Some(format!("keyspaces {names:?} against {other_names:?}"));
        }
        self.keyspaces.iter().zip(other.keyspaces.values()).find_map(|((name, map), other)| {
            map_difference(map, other).map(|detail| format!("keyspace {name:?}: {detail}"))
        })
    }
}

/// Deletes a range of keys.
pub fn delete_range(map: &mut Map, range: &KeyRange) {
    if is_empty_range(range) {
        return;
    }
    let keys: Vec<_> = map.range(range.clone()).map(|(key, _)| key.clone()).collect();
    for key in keys {
        map.remove(&key);
    }
}

fn map_difference(map: &Map, other: &Map) -> Option<String> {
    if let Some(key) = map.keys().find(|key| !other.contains_key(*key)) {
        return Some(format!("{} is there and should not be", show(key)));
    }
    if let Some(key) = other.keys().find(|key| !map.contains_key(*key)) {
        return Some(format!("{} is missing", show(key)));
    }
    map.iter().zip(other.values()).find(|((_, value), other)| value != other).map(
        |((key, value), other)| {
            format!("{} is {}, should be {}", show(key), show(value), show(other))
        },
    )
}

/// Bytes for a message: the beginning, and how many there are.
#[must_use]
pub fn show(bytes: &[u8]) -> String {
    let head: String = bytes
        .iter()
        .take(24)
        .flat_map(|&byte| std::ascii::escape_default(byte))
        .map(char::from)
        .collect();
    if bytes.len() > 24 {
        format!("{head}.. ({} bytes)", bytes.len())
    } else {
        format!("\"{head}\"")
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.keyspaces.iter().map(|(name, map)| (name, map.len()));
        f.debug_map().entries(counts).finish()
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Put { keyspace, key, value } => {
                write!(f, "put {keyspace} {} = {}", show(key), show(value))
            }
            Change::Delete { keyspace, key } => write!(f, "delete {keyspace} {}", show(key)),
            Change::DeleteRange { keyspace, range } => {
                let bound = |bound: &Bound<Vec<u8>>| match bound {
                    Bound::Unbounded => "-".to_owned(),
                    Bound::Included(key) => format!("[{}]", show(key)),
                    Bound::Excluded(key) => format!("({})", show(key)),
                };
                write!(f, "delete range {keyspace} {}..{}", bound(&range.0), bound(&range.1))
            }
            Change::Create(name) => write!(f, "create {name}"),
            Change::Drop(name) => write!(f, "drop {name}"),
            Change::Rename { old, new } => write!(f, "rename {old} to {new}"),
        }
    }
}

/// Commits that are kept though no crash may go back before them.
const HISTORY_KEPT: usize = 32;

/// What ended a database's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The process was killed; the system went on.
    Kill,
    /// The system lost its power.
    PowerCut,
}

/// How far the commit order had come at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knowledge {
    /// Commits that began: what is recovered is a prefix of at most so many.
    pub begun: usize,
    /// Commits that a killed process must not lose.
    pub written: usize,
    /// Commits that a power cut must not lose.
    pub durable: usize,
}

impl Knowledge {
    /// What is known when the next process begins, before it has looked at anything. (It may end
    /// before it does, too.)
    #[must_use]
    pub fn after(self, ending: Option<Ending>) -> Knowledge {
        match ending {
            Some(Ending::PowerCut) => Knowledge { written: self.durable, ..self },
            Some(Ending::Kill) | None => self,
        }
    }

    /// The prefixes that are right after an ending at that moment.
    #[must_use]
    pub fn allowed(&self, ending: Ending) -> std::ops::RangeInclusive<usize> {
        match ending {
            Ending::Kill => self.written..=self.begun,
            Ending::PowerCut => self.durable..=self.begun,
        }
    }
}

/// The commit order of one database, and its content at the end of it.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The content before the first of `commits`.
    base: State,
    /// How many commits `base` stands for.
    base_count: usize,
    commits: Vec<Vec<Change>>,
    /// The content after the last commit.
    state: State,
    knowledge: Knowledge,
    /// When prefixes were written that no sync is known to cover, oldest first.
    unsynced: Vec<(Duration, usize)>,
}

impl Model {
    /// The content after all commits.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How far the order has come.
    #[must_use]
    pub fn knowledge(&self) -> Knowledge {
        self.knowledge
    }

    /// Begins a commit. It is the last of the order; it may survive from here on, and counts as
    /// part of the content only after [`Model::acknowledge`].
    pub fn begin(&mut self, changes: Vec<Change>) {
        self.commits.push(changes);
        self.knowledge.begun = self.base_count + self.commits.len();
    }

    /// The commit that was begun last returned without an error, at a time of the database's clock.
    pub fn acknowledge(&mut self, durability: Durability, now: Duration) {
        if let Some(changes) = self.commits.last() {
            self.state.apply_all(changes);
        }
        match durability {
            Durability::Sync => self.all_durable(),
            Durability::Buffered => {
                self.knowledge.written = self.knowledge.begun;
                self.unsynced.push((now, self.knowledge.begun));
            }
            Durability::Memory => {}
        }
    }

    /// The commit that was begun last certainly did not happen.
    pub fn forget(&mut self) {
        self.commits.pop();
        self.knowledge.begun = self.base_count + self.commits.len();
    }

    /// Everything so far was synced.
    pub fn all_durable(&mut self) {
        let begun = self.knowledge.begun;
        self.knowledge = Knowledge { begun, written: begun, durable: begun };
        self.unsynced.clear();
    }

    /// Whoever makes the timed syncs had a turn at this time: what was written more than `interval`
    /// before it is on disk.
    pub fn timed_sync(&mut self, now: Duration, interval: Duration) {
        while let Some(&(at, prefix)) = self.unsynced.first()
            && at + interval <= now
        {
            self.knowledge.durable = self.knowledge.durable.max(prefix);
            self.unsynced.remove(0);
        }
    }

    /// Drops the history that no crash can go back to, but for a little that explains losses.
    pub fn forget_history(&mut self) {
        let count = (self.knowledge.durable - self.base_count).saturating_sub(HISTORY_KEPT);
        for changes in self.commits.drain(..count) {
            self.base.apply_all(&changes);
        }
        self.base_count += count;
    }

    /// The content after a prefix of the commits.
    #[must_use]
    pub fn state_at(&self, prefix: usize) -> State {
        let mut state = self.base.clone();
        for changes in self.commits.iter().take(prefix.saturating_sub(self.base_count)) {
            state.apply_all(changes);
        }
        state
    }

    /// The longest allowed prefix whose content is `found`. What was begun and is forgotten is in
    /// none, also where a life had ended before it was known not to have happened.
    ///
    /// # Errors
    /// What differs from the longest one, when `found` is no allowed prefix.
    pub fn find_prefix(
        &self,
        found: &State,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, String> {
        let last = self.knowledge.begun.min(*allowed.end());
        let allowed = *allowed.start()..=last.max(*allowed.start());
        let mut state = self.state_at(*allowed.start());
        let mut best = None;
        for prefix in allowed.clone() {
            if prefix > *allowed.start()
                && let Some(changes) = self.commits.get(prefix - 1 - self.base_count)
            {
                state.apply_all(changes);
            }
            if state == *found {
                best = Some(prefix);
            }
        }
        best.ok_or_else(|| self.explain(found, &allowed))
    }

    fn explain(&self, found: &State, allowed: &std::ops::RangeInclusive<usize>) -> String {
        let to_least = found.difference(&self.state_at(*allowed.start())).unwrap_or_default();
        let to_most = found.difference(&self.state_at(*allowed.end())).unwrap_or_default();
        let lost = (self.base_count..*allowed.start())
            .rev()
            .find(|&prefix| self.state_at(prefix) == *found)
            .map(|prefix| format!("it is prefix {prefix}, so commits were lost; "))
            .unwrap_or_default();
        format!(
            "the content is no prefix of {allowed:?}; {lost}against the least: {to_least}; \
             against the greatest: {to_most}"
        )
    }

    /// Goes back to a prefix that a recovery found, when the clock stood at `now`.
    pub fn recovered(&mut self, prefix: usize, ending: Ending, now: Duration) {
        self.commits.truncate(prefix - self.base_count);
        self.state = self.state_at(prefix);
        self.knowledge.begun = prefix;
        // Nothing more is on disk than before: what an open found may lie in the cache only, and a
        // sync that covers it begins within the interval.
        self.knowledge = self.knowledge.after(Some(ending));
        self.knowledge.written = prefix;
        self.unsynced = vec![(now, prefix)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn put(key: &str, value: &str) -> Vec<Change> {
        vec![Change::Put {
            keyspace: "a".to_owned(),
            key: key.as_bytes().to_vec(),
            value: Arc::from(value.as_bytes()),
        }]
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.begin(vec![Change::Create("a".to_owned())]);
        model.acknowledge(Durability::Sync, Duration::ZERO);
        for (key, durability) in
            [("1", Durability::Memory), ("2", Durability::Buffered), ("3", Durability::Memory)]
        {
            model.begin(put(key, "v"));
            model.acknowledge(durability, Duration::from_millis(100));
        }
        model
    }

    /// A commit that was refused after the end of the life that had heard of it: counted as one
    /// that was found, it would have been another one's number.
    #[test]
    fn what_was_forgotten_is_in_no_prefix() {
        let mut model = model();
        model.begin(put("4", "v"));
        let allowed = model.knowledge().allowed(Ending::Kill);
        model.forget();
        let found = model.state_at(4);
        assert_eq!(model.find_prefix(&found, allowed), Ok(4));
    }

    #[test]
    fn kill_must_keep_what_was_written_and_power_cut_what_was_synced() {
        let model = model();
        assert_eq!(model.knowledge().allowed(Ending::Kill), 3..=4);
        assert_eq!(model.knowledge().allowed(Ending::PowerCut), 1..=4);
    }

    #[test]
    fn what_was_written_an_interval_ago_must_survive_a_power_cut_and_nothing_younger() {
        let mut model = model();
        model.begin(put("4", "v"));
        model.acknowledge(Durability::Buffered, Duration::from_millis(200));
        model.timed_sync(Duration::from_millis(1099), SECOND);
        assert_eq!(model.knowledge().allowed(Ending::PowerCut), 1..=5);
        model.timed_sync(Duration::from_millis(1100), SECOND);
        assert_eq!(model.knowledge().allowed(Ending::PowerCut), 3..=5);
        model.recovered(4, Ending::Kill, Duration::ZERO);
        assert_eq!(model.knowledge().allowed(Ending::PowerCut), 3..=4);
        model.timed_sync(SECOND, SECOND);
        assert_eq!(model.knowledge().allowed(Ending::PowerCut), 4..=4);
    }

    #[test]
    fn oracle_takes_prefixes_and_refuses_holes_and_losses() {
        let model = model();
        let range = model.knowledge().allowed(Ending::Kill);
        assert_eq!(model.find_prefix(&model.state_at(3), range.clone()), Ok(3));
        assert_eq!(model.find_prefix(&model.state_at(4), range.clone()), Ok(4));
        let lost = model.find_prefix(&model.state_at(2), range.clone());
        assert!(lost.is_err_and(|text| text.contains("commits were lost")));
        let mut hole = model.state_at(4);
        hole.apply(&Change::Delete { keyspace: "a".to_owned(), key: b"2".to_vec() });
        let hole = model.find_prefix(&hole, range);
        assert!(hole.is_err_and(|text| text.contains("\"2\" is missing")));
    }

    #[test]
    fn forgotten_history_changes_no_answer() {
        let mut model = model();
        model.timed_sync(SECOND + Duration::from_millis(100), SECOND);
        let before = model.state_at(4);
        model.forget_history();
        assert_eq!(model.state_at(4), before);
        assert_eq!(model.find_prefix(&before, 3..=4), Ok(4));
        model.recovered(3, Ending::PowerCut, Duration::ZERO);
        assert_eq!(model.state(), &model.state_at(3));
    }

    #[test]
    fn prefix_of_highest_bytes_has_no_end() {
        assert_eq!(prefix_range(&[7, 255]).1, Bound::Excluded(vec![8]));
        assert_eq!(prefix_range(&[255, 255]).1, Bound::Unbounded);
        assert_eq!(prefix_range(&[]).1, Bound::Unbounded);
    }
}
