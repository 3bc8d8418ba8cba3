//! The iterator over a range of entries, from both ends.

use std::fmt;
use std::iter::FusedIterator;

use crate::bytes::{Key, Value};
use crate::error::Result;
use crate::scan::{Ahead, Direction, Entry, From, Limits, SCAN_ENTRIES, Scan, Walker};
use crate::segment::key_range::{KeyRange, is_before_end};
use crate::transaction::reads::Walk;

/// An iterator over the entries of a range, in the order of keys, from both ends.
///
/// It sees the instant at which it was made (or that of its snapshot or transaction), whatever is
/// committed meanwhile. Between calls it holds a few entries that it has read ahead. After an error
/// it ends. While it lives, it keeps the file open, even after a close.
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let trees = db.keyspace("trees")?;
/// for (name, height) in [("alder", "25"), ("beech", "40"), ("cedar", "40"), ("dogwood", "5")] {
///     trees.put(name, height)?;
/// }
///
/// let mut range = trees.range("b"..)?;
/// let (first, _) = range.next().unwrap()?;
/// let (last, height) = range.next_back().unwrap()?;
/// assert_eq!((first, last, height), ("beech".into(), "dogwood".into(), "5".into()));
/// assert_eq!(range.count(), 1, "the two ends meet");
/// # Ok(())
/// # }
/// ```
pub struct Range {
    /// `None` once it has ended: nothing is held any more.
    open: Option<Box<Open>>,
}

/// A range that has not ended.
struct Open {
    scan: Scan,
    front: End,
    back: End,
    /// What neither end has handed out, once [`Open::leave_out_other`] has looked.
    left: KeyRange,
}

/// One end of a range.
#[derive(Default)]
struct End {
    /// Made when this end is first asked.
    walker: Option<Walker>,
    /// What a serializable transaction has passed from this end.
    walk: Option<Walk>,
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").field("ended", &self.open.is_none()).finish_non_exhaustive()
    }
}

impl Open {
    /// The next entry of one end, when it was read ahead and the other end was never used.
    #[inline]
    fn ahead(&mut self, direction: Direction) -> Option<Result<Entry>> {
        let (end, other) = match direction {
            Direction::Forward => (&mut self.front, &self.back),
            Direction::Backward => (&mut self.back, &self.front),
        };
        if self.scan.reads.is_some() || other.walker.is_some() || !self.scan.shared.is_open() {
            return None;
        }
        end.walker.as_mut()?.pop()
    }

    /// The next pair from the front, when it is at hand and a plain one.
    #[inline]
    fn pair_ahead(&mut self) -> Option<(Key, Value)> {
        // A walker by runs is there only while nothing is noted, and goes on so only until the
        // other end is used.
        if !self.scan.shared.is_open() {
            return None;
        }
        self.front.walker.as_mut()?.pop_pair()
    }

    /// Brings `left` up to what the other end has handed out; false when that was the last entry.
    /// A serializable transaction's ends keep it themselves: it needs to know exactly how far they
    /// have come, even where nothing lies.
    fn leave_out_other(&mut self, direction: Direction) -> Result<bool> {
        let other = match direction {
            Direction::Forward => &mut self.back,
            Direction::Backward => &mut self.front,
        };
        let Some(walker) = other.walker.as_mut().filter(|_| self.scan.reads.is_none()) else {
            return Ok(true);
        };
        walker.batches_from_now_on()?;
        // Nothing lies between the entry handed out last and the next one.
        let (key, is_left) = match walker.batch.front() {
            Some(next) => (next.key.as_slice(), true),
            None if walker.exhausted => return Ok(false),
            None => (walker.last(), false),
        };
        let bound = match direction {
            Direction::Forward => self.left.end.get_or_insert_default(),
            Direction::Backward => &mut self.left.start,
        };
        bound.clear();
        bound.extend_from_slice(key);
        if is_left == (direction == Direction::Forward) {
            bound.push(0);
        }
        Ok(true)
    }

    fn next_front(&mut self, entries: usize) -> Result<Option<Entry>> {
        self.scan.shared.check_open()?;
        if !self.leave_out_other(Direction::Forward)? {
            return Ok(None);
        }
        // The other end needs to know what lies ahead of this one, and reads are noted one by one.
        let by_runs = self.back.walker.is_none() && self.scan.reads.is_none();
        let Open { scan, front: End { walker, walk }, left, .. } = self;
        let limits = Limits { start: &left.start, end: left.end.as_deref() };
        let walker = match walker {
            Some(walker) => walker,
            None => {
                *walk = scan.begin_walk(&left.start);
                let new = Walker::new(scan.clone());
                let new = walker.insert(if by_runs { new.by_runs() } else { new });
                new.begin(From::At(&left.start), entries, limits)?;
                new
            }
        };
        // What lies behind the limit was fetched before the back end handed it out.
        let entry = walker.next(limits)?;
        let entry = entry.filter(|entry| is_before_end(&entry.key, left.end.as_deref()));
        match (&entry, walk) {
            (Some(entry), Some(walk)) => walk.reach(&entry.key),
            (None, Some(walk)) => walk.reach_end(left.end.as_deref()),
            (_, None) => {}
        }
        if scan.reads.is_some()
            && let Some(entry) = &entry
        {
            left.start.clear();
            left.start.extend_from_slice(&entry.key);
            left.start.push(0);
        }
        Ok(entry)
    }

    fn next_back(&mut self, entries: usize) -> Result<Option<Entry>> {
        self.scan.shared.check_open()?;
        if !self.leave_out_other(Direction::Backward)? {
            return Ok(None);
        }
        let Open { scan, back: End { walker, walk }, left, .. } = self;
        let limits = Limits { start: &left.start, end: left.end.as_deref() };
        let walker = match walker {
            Some(walker) => walker,
            None => {
                let new = walker.insert(Walker::new(scan.clone()));
                let from = left.end.as_deref().map_or(From::End, From::Before);
                new.begin(from, entries, limits)?;
                new
            }
        };
        let entry = walker.next(limits)?;
        let entry = entry.filter(|entry| entry.key.as_slice() >= left.start.as_slice());
        let reached = entry.as_ref().map_or(left.start.as_slice(), |entry| &entry.key);
        if walk.is_none() {
            *walk = scan.begin_walk(reached);
            if let Some(walk) = walk {
                walk.reach_end(left.end.as_deref());
            }
        }
        if let Some(walk) = walk {
            walk.reach_start(reached);
        }
        if scan.reads.is_some()
            && let Some(entry) = &entry
        {
            let end = left.end.get_or_insert_default();
            end.clear();
            end.extend_from_slice(&entry.key);
        }
        Ok(entry)
    }
}

impl Range {
    /// The keys alone, from where both ends stand. Values are neither read nor copied, those in
    /// blocks of their own included.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let photos = db.keyspace("photos")?;
    /// photos.put("2023/tree", vec![0; 100_000])?;
    /// photos.put("2024/lake", vec![1; 100_000])?;
    /// photos.put("2024/moon", vec![2; 100_000])?;
    /// let newest_first: Vec<_> = photos.prefix("2024/")?.keys().rev().collect::<Result<_, _>>()?;
    /// assert_eq!(newest_first, ["2024/moon", "2024/lake"]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn keys(mut self) -> Keys {
        if let Some(open) = &mut self.open {
            open.scan.keys_only = true;
            for walker in [&mut open.front, &mut open.back].into_iter().flat_map(|e| &mut e.walker)
            {
                walker.scan.keys_only = true;
            }
        }
        Keys { range: self }
    }

    pub(crate) fn new(scan: Scan, left: KeyRange) -> Range {
        let open = Open { scan, front: End::default(), back: End::default(), left };
        Range { open: (!open.left.is_empty()).then(|| Box::new(open)) }
    }

    /// The next entry of one end, its value perhaps not read; not more than `entries` are fetched
    /// at first. After the last, and after an error, nothing is held.
    #[inline]
    fn entry(&mut self, direction: Direction, entries: usize) -> Option<Result<Entry>> {
        let open = self.open.as_mut()?;
        let entry = match (open.ahead(direction), direction) {
            (Some(Ok(entry)), _) => return Some(Ok(entry)),
            (Some(error), _) => error.map(Some),
            (None, Direction::Forward) => open.next_front(entries),
            (None, Direction::Backward) => open.next_back(entries),
        };
        let entry = entry.transpose();
        if !matches!(entry, Some(Ok(_))) {
            self.open = None;
        }
        entry
    }

    /// As `next` or `next_back`, and not more is fetched than `entries` at first.
    pub(crate) fn step(
        &mut self,
        direction: Direction,
        entries: usize,
    ) -> Option<Result<(Key, Value)>> {
        let Entry { key, value } = match self.entry(direction, entries)? {
            Ok(entry) => entry,
            Err(error) => return Some(Err(error)),
        };
        let value = match value {
            Ahead::Value(value) => Ok(value),
            value => self.open.as_ref()?.scan.value(&value),
        };
        if value.is_err() {
            self.open = None;
        }
        Some(value.map(|value| (key, value)))
    }
}

impl Iterator for Range {
    type Item = Result<(Key, Value)>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(pair) = self.open.as_mut().and_then(|open| open.pair_ahead()) {
            return Some(Ok(pair));
        }
        self.step(Direction::Forward, SCAN_ENTRIES)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Direction::Backward, SCAN_ENTRIES)
    }
}

impl FusedIterator for Range {}

/// An iterator over the keys of a range, from both ends: see [`Range::keys`].
///
/// # Examples
/// ```
/// # fn main() -> sapwood::Result<()> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let keyspace = db.keyspace("a")?;
/// keyspace.put("key", "a value that is not read")?;
/// let mut keys = keyspace.iter()?.keys();
/// assert_eq!(&*keys.next().unwrap()?, b"key");
/// assert!(keys.next().is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Keys {
    range: Range,
}

impl Keys {
    fn key(&mut self, direction: Direction) -> Option<Result<Key>> {
        Some(self.range.entry(direction, SCAN_ENTRIES)?.map(|entry| entry.key))
    }
}

impl Iterator for Keys {
    type Item = Result<Key>;

    fn next(&mut self) -> Option<Self::Item> {
        self.key(Direction::Forward)
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.key(Direction::Backward)
    }
}

impl FusedIterator for Keys {}
