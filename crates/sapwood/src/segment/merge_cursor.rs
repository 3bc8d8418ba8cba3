//! One sorted view over several sources, newest first: what a reader sees.
//!
//! *Assumes*: sources are given in order of precedence: a version in an earlier source hides those
//! in later ones, and so does its range tombstone; where there are numbers, a range tombstone hides
//! only lower numbers of its own source. *Guarantees*: of each key the newest version at or below
//! the reader's number, unless it is deleted. Next and previous may be mixed freely. After an error
//! the cursor is invalid.
//!
//! *Threads*: one owner.

use std::cmp::Ordering;
use std::ops::Range;

use super::leaf_run::LeafRun;
use super::sorted_block::EntryKind;
use super::sorted_source::{Cover, SortedSource};
use crate::error::Result;
use crate::page::Frame;
use crate::sync::Arc;

/// The first eight bytes of a key as a number, so that most keys compare without being touched.
pub fn key_head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            key.iter().fold(0, |head, byte| head << 8 | u64::from(*byte))
                << (8 * (8 - key.len().min(8)) as u32 % 64)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

/// A version copied out of a source that has moved on.
#[derive(Clone, Debug, Default)]
struct Copied {
    kind: Option<EntryKind>,
    number: u64,
    value: Vec<u8>,
}

/// Where the current value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Current {
    Nowhere,
    /// In the source of this index, which stands on it.
    Source(usize),
    /// In `copied`.
    Copied,
}

/// Dead keys that the last move walked over, and the border that it leaves at each so many.
const DEAD_KEYS_A_MARK: u64 = 4096;

/// The stretch that the last move of a cursor walked over without finding a live entry.
#[derive(Clone, Debug, Default)]
pub struct DeadStretch {
    /// How many keys were stepped over one by one.
    keys: u64,
    /// The first of them, each so many further, and the last.
    marks: Vec<Vec<u8>>,
    last: Vec<u8>,
}

impl DeadStretch {
    fn clear(&mut self) {
        if self.keys > 0 {
            self.keys = 0;
            self.marks.clear();
        }
    }

    fn add(&mut self, key: &[u8]) {
        if self.keys.is_multiple_of(DEAD_KEYS_A_MARK) {
            self.marks.push(key.to_vec());
        }
        self.keys += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// How many keys were stepped over one by one.
    pub fn keys(&self) -> u64 {
        self.keys
    }
}

/// The merging cursor.
#[derive(Debug)]
pub struct MergeCursor<S> {
    sources: Vec<S>,
    /// Heads of the sources' keys; meaningless where a source is not valid.
    heads: Vec<u64>,
    /// Versions above it do not exist for this reader.
    at: u64,
    direction: Direction,
    current: Current,
    key: Vec<u8>,
    copied: Copied,
    any_ranges: bool,
    dead: DeadStretch,
    /// Going forward: the one source that had the current key, when the next source's key was
    /// above.
    alone: Option<usize>,
}

impl<S: SortedSource> MergeCursor<S> {
    /// A cursor over `sources`, newest first, for a reader at number `at`. It stands nowhere.
    pub fn new(sources: Vec<S>, at: u64) -> MergeCursor<S> {
        MergeCursor {
            heads: vec![0; sources.len()],
            any_ranges: sources.iter().any(SortedSource::has_ranges),
            sources,
            dead: DeadStretch::default(),
            at,
            direction: Direction::Forward,
            current: Current::Nowhere,
            key: Vec::new(),
            copied: Copied::default(),
            alone: None,
        }
    }

    /// True when the cursor stands on a live entry.
    pub fn valid(&self) -> bool {
        self.current != Current::Nowhere
    }

    /// Its key; empty when not valid.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Put, or put with overflow.
    pub fn kind(&self) -> EntryKind {
        match self.current {
            Current::Source(index) => self.sources[index].kind(),
            _ => self.copied.kind.unwrap_or(EntryKind::Delete),
        }
    }

    /// The entry's value.
    pub fn value(&self) -> &[u8] {
        match self.current {
            Current::Source(index) => self.sources[index].value(),
            _ => &self.copied.value,
        }
    }

    /// The frame that the value lies in, when it lies in one.
    pub fn value_frame(&self) -> Option<(&Arc<Frame>, Range<usize>)> {
        match self.current {
            Current::Source(index) => self.sources[index].value_frame(),
            _ => None,
        }
    }

    /// What the last move walked over.
    pub fn dead(&self) -> &DeadStretch {
        &self.dead
    }

    /// Borders, ascending, between which the last move found nothing live: from one dead key that
    /// it stepped over to the next, and to the live entry where it ended.
    pub fn dead_borders(&self) -> Vec<Vec<u8>> {
        let successor = |key: &[u8]| key.iter().copied().chain([0]).collect::<Vec<u8>>();
        let mut borders = self.dead.marks.clone();
        match self.direction {
            Direction::Forward if self.valid() => borders.push(self.key.clone()),
            Direction::Forward => borders.push(successor(&self.dead.last)),
            Direction::Backward => {
                borders.iter_mut().for_each(|key| key.push(0));
                match self.valid() {
                    true => borders.push(successor(&self.key)),
                    false => borders.push(self.dead.last.clone()),
                }
                borders.reverse();
            }
        }
        borders.dedup();
        borders
    }

    fn invalidate(&mut self) {
        self.current = Current::Nowhere;
        self.key.clear();
        self.alone = None;
    }

    fn guarded(&mut self, run: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let result = run(self);
        if result.is_err() {
            self.invalidate();
        }
        result
    }

    fn refresh(&mut self, index: usize) {
        self.heads[index] = key_head(self.sources[index].key());
    }

    fn compare(&self, a: usize, b: usize) -> Ordering {
        self.heads[a]
            .cmp(&self.heads[b])
            .then_with(|| self.sources[a].key().cmp(self.sources[b].key()))
    }

    /// The source with the least key (going forward) or the greatest, the newest among equals; and
    /// whether no other source has that key.
    fn front(&self) -> Option<(usize, bool)> {
        let mut front: Option<usize> = None;
        let mut alone = true;
        for index in 0..self.sources.len() {
            if !self.sources[index].valid() {
                continue;
            }
            let Some(best) = front else {
                front = Some(index);
                continue;
            };
            let order = match self.direction {
                Direction::Forward => self.compare(index, best),
                Direction::Backward => self.compare(best, index),
            };
            match order {
                Ordering::Less => {
                    front = Some(index);
                    alone = true;
                }
                Ordering::Equal => alone = false,
                Ordering::Greater => {}
            }
        }
        front.map(|index| (index, alone))
    }

    /// The entries from where the cursor stands, going forward, that lie before `end`, as far as
    /// one source alone decides over them and has them at hand. `None` says nothing of what comes.
    pub fn run(&self, end: Option<&[u8]>) -> Option<LeafRun> {
        let index = self.alone.filter(|index| {
            self.direction == Direction::Forward && self.current == Current::Source(*index)
        })?;
        let source = self.sources.get(index)?;
        if self.any_ranges {
            // Without numbers a source's ranges hide nothing of itself.
            let newer = self.sources.get(..index).unwrap_or_default();
            let hides = newer.iter().any(SortedSource::has_ranges);
            if hides || source.numbered() && source.has_ranges() {
                return None;
            }
        }
        let others = self.sources.iter().enumerate();
        let others = others.filter(|(other, source)| *other != index && source.valid());
        let end = others.map(|(_, source)| source.key()).chain(end).min();
        source.run(end).map(|run| run.at(self.at))
    }

    /// Stands on an entry of the run, which is live.
    ///
    /// # Errors
    /// When the leaf is damaged.
    pub fn stand_in_run(&mut self, index_in_leaf: usize) -> Result<()> {
        let Current::Source(index) = self.current else {
            return Ok(());
        };
        self.guarded(|this| {
            this.sources[index].stand_in_run(index_in_leaf)?;
            this.refresh(index);
            this.key.clear();
            this.key.extend_from_slice(this.sources[index].key());
            Ok(())
        })
    }

    /// To the first live entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_first(&mut self) -> Result<()> {
        self.seek(&[])
    }

    /// To the first live entry at or after `key`.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| {
            this.direction = Direction::Forward;
            for index in 0..this.sources.len() {
                this.sources[index].seek(key)?;
                this.refresh(index);
            }
            this.settle_forward()
        })
    }

    /// To the last live entry before `key`.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_before(&mut self, key: &[u8]) -> Result<()> {
        self.guarded(|this| {
            this.direction = Direction::Backward;
            for index in 0..this.sources.len() {
                this.sources[index].seek_before(key)?;
                this.refresh(index);
            }
            this.settle_backward()
        })
    }

    /// To the last live entry.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn seek_last(&mut self) -> Result<()> {
        self.guarded(|this| {
            this.direction = Direction::Backward;
            for index in 0..this.sources.len() {
                this.sources[index].seek_last()?;
                this.refresh(index);
            }
            this.settle_backward()
        })
    }

    /// To the next live entry; invalid behind the last.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn next(&mut self) -> Result<()> {
        if !self.valid() {
            return Ok(());
        }
        self.guarded(|this| {
            if this.direction == Direction::Backward {
                let mut after = std::mem::take(&mut this.key);
                after.push(0);
                let result = this.seek(&after);
                return result;
            }
            match this.alone {
                Some(index) => this.step_past(index)?,
                None => this.leave_key()?,
            }
            this.settle_forward()
        })
    }

    /// To the live entry before; invalid before the first.
    ///
    /// # Errors
    /// When a node cannot be read.
    pub fn previous(&mut self) -> Result<()> {
        if !self.valid() {
            return Ok(());
        }
        self.guarded(|this| {
            if this.direction == Direction::Forward {
                let key = std::mem::take(&mut this.key);
                return this.seek_before(&key);
            }
            this.settle_backward()
        })
    }

    /// Moves one source, which stands on the current key, behind all its versions.
    fn step_past(&mut self, index: usize) -> Result<()> {
        let source = &mut self.sources[index];
        source.next()?;
        if source.numbered() {
            while source.valid() && source.key() == self.key {
                source.next()?;
            }
        }
        self.refresh(index);
        Ok(())
    }

    /// Moves every source that stands on the current key behind it.
    fn leave_key(&mut self) -> Result<()> {
        for index in 0..self.sources.len() {
            if self.sources[index].valid() && self.sources[index].key() == self.key {
                self.step_past(index)?;
            }
        }
        Ok(())
    }

    /// Stands on the first live entry at or behind where the sources stand.
    fn settle_forward(&mut self) -> Result<()> {
        self.dead.clear();
        loop {
            let Some((front, alone)) = self.front() else {
                self.invalidate();
                return Ok(());
            };
            self.key.clear();
            self.key.extend_from_slice(self.sources[front].key());
            self.alone = alone.then_some(front);
            let found = self.newest_forward(front, alone)?;
            let cover =
                self.hiding_cover(found.map(|index| (index, self.sources[index].number())))?;
            if let Some((rank, cover)) = cover {
                self.dead.add(&self.key);
                self.leave_key()?;
                self.skip_covered(rank, &cover)?;
                continue;
            }
            match found {
                Some(index) if self.sources[index].kind() != EntryKind::Delete => {
                    self.current = Current::Source(index);
                    return Ok(());
                }
                _ => {
                    self.dead.add(&self.key);
                    self.leave_key()?;
                }
            }
        }
    }

    /// The source that holds the newest version of the current key that the reader may see. Sources
    /// before it have left the key or stand on it.
    fn newest_forward(&mut self, front: usize, alone: bool) -> Result<Option<usize>> {
        let last = if alone { front + 1 } else { self.sources.len() };
        for index in front..last {
            let source = &mut self.sources[index];
            if !source.valid() || source.key() != self.key {
                continue;
            }
            while source.number() > self.at && source.valid() && source.key() == self.key {
                source.next()?;
            }
            if source.valid() && source.key() == self.key {
                return Ok(Some(index));
            }
            self.refresh(index);
        }
        Ok(None)
    }

    /// The range tombstone that hides a version of the current key, with the index of its source.
    fn hiding_cover(&mut self, found: Option<(usize, u64)>) -> Result<Option<(usize, Cover)>> {
        if !self.any_ranges {
            return Ok(None);
        }
        let Some((found, number)) = found else {
            return Ok(None);
        };
        for index in 0..=found {
            if !self.sources[index].has_ranges() {
                continue;
            }
            if let Some(cover) = self.sources[index].cover(&self.key, self.at)?
                && (index < found || cover.number > number)
            {
                return Ok(Some((index, cover)));
            }
        }
        Ok(None)
    }

    /// Moves the sources that a range tombstone of the source `rank` hides behind its end.
    fn skip_covered(&mut self, rank: usize, cover: &Cover) -> Result<()> {
        for index in rank + 1..self.sources.len() {
            if !self.sources[index].valid() {
                continue;
            }
            match (self.direction, &cover.range.end) {
                (Direction::Forward, Some(end)) => {
                    if self.sources[index].key() < end.as_slice() {
                        self.sources[index].seek(end)?;
                    }
                }
                (Direction::Forward, None) => {
                    self.sources[index].seek_last()?;
                    if self.sources[index].valid() {
                        // Behind the last entry: nothing of this source is left to see.
                        while self.sources[index].valid() {
                            self.sources[index].next()?;
                        }
                    }
                }
                (Direction::Backward, _) => {
                    if self.sources[index].key() >= cover.range.start.as_slice() {
                        self.sources[index].seek_before(&cover.range.start)?;
                    }
                }
            }
            self.refresh(index);
        }
        Ok(())
    }

    /// Stands on the last live entry at or before where the sources stand. Each source that has the
    /// key is moved before it, and the newest version is copied.
    fn settle_backward(&mut self) -> Result<()> {
        self.dead.clear();
        loop {
            let Some((front, _)) = self.front() else {
                self.invalidate();
                return Ok(());
            };
            self.key.clear();
            self.key.extend_from_slice(self.sources[front].key());
            self.copied.kind = None;
            let mut found = None;
            for index in 0..self.sources.len() {
                if !self.sources[index].valid() || self.sources[index].key() != self.key {
                    continue;
                }
                let seen = self.walk_versions_backward(index, found.is_none())?;
                if seen && found.is_none() {
                    found = Some(index);
                }
                self.refresh(index);
            }
            let cover = self.hiding_cover(found.map(|index| (index, self.copied.number)))?;
            if let Some((rank, cover)) = cover {
                self.dead.add(&self.key);
                self.skip_covered(rank, &cover)?;
                continue;
            }
            if found.is_some() && self.copied.kind != Some(EntryKind::Delete) {
                self.current = Current::Copied;
                return Ok(());
            }
            self.dead.add(&self.key);
        }
    }

    /// Moves a source before all versions of the current key; they come oldest first. With `copy`,
    /// keeps the newest one that the reader may see. True when there is one.
    fn walk_versions_backward(&mut self, index: usize, copy: bool) -> Result<bool> {
        let source = &mut self.sources[index];
        let mut seen = false;
        while source.valid() && source.key() == self.key {
            if source.number() <= self.at {
                seen = true;
                if copy {
                    self.copied.kind = Some(source.kind());
                    self.copied.number = source.number();
                    self.copied.value.clear();
                    self.copied.value.extend_from_slice(source.value());
                }
            }
            source.previous()?;
            if !source.numbered() {
                break;
            }
        }
        Ok(seen)
    }
}
