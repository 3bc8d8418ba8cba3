//! Walks the pairs of a keyspace past what cannot be read.
//!
//! *Assumes*: the database is open, and nothing writes to it.
//! *Guarantees*: pairs come in order, each once. Where a node cannot be read the walk goes on
//! behind it, with the next key at which any leaf of the keyspace begins, so that newer pairs
//! between the same keys are left out too; where a value cannot be read, with the next pair. Each
//! such place is told on standard error and counted. What is left out may have hidden or replaced
//! older pairs, so that what comes from a damaged file is a copy to judge, not a backup.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::path::Path;
use std::process::ExitCode;

use sapwood::segment::coverage::child_range;
use sapwood::segment::descriptor::TreeRoot;
use sapwood::segment::key_range::KeyRange;
use sapwood::segment::node::read_parent_at;
use sapwood::{Cursor, Keyspace, KeyspaceNumber, Seek, Value, ValueStream};

use crate::database::KeyBounds;
use crate::file::DurableFile;
use crate::units;

/// What to walk.
#[derive(Debug)]
pub struct Walk<'a> {
    /// The file, for finding where its leaves begin.
    pub path: &'a Path,
    /// The keyspace.
    pub keyspace: &'a Keyspace,
    /// The keys.
    pub bounds: &'a KeyBounds,
    /// From the last to the first.
    pub reverse: bool,
    /// Whether values are read.
    pub values: bool,
}

/// A value that a walk has found.
pub enum Found {
    /// It is in memory.
    Whole(Value),
    /// It is too long for the engine to hand it out whole.
    Long(Box<ValueStream>),
}

impl Found {
    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Found::Whole(value) => value.len() as u64,
            Found::Long(stream) => stream.len(),
        }
    }

    /// All of it, in memory that the engine does not count.
    pub fn bytes(&mut self) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Found::Whole(value) => Ok(Cow::Borrowed(value)),
            Found::Long(stream) => {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Writes it as it is read.
    pub fn write_to(&mut self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Found::Whole(value) => out.write_all(value),
            Found::Long(stream) => io::copy(stream, out).map(drop),
        }
    }
}

/// The value of a key, however long it is.
pub fn find(keyspace: &Keyspace, key: &[u8]) -> sapwood::Result<Option<Found>> {
    match keyspace.get(key) {
        Ok(value) => Ok(value.map(Found::Whole)),
        Err(sapwood::Error::ValueTooLarge { .. }) => long(keyspace, key),
        Err(error) => Err(error),
    }
}

fn long(keyspace: &Keyspace, key: &[u8]) -> sapwood::Result<Option<Found>> {
    Ok(keyspace.get_stream(key)?.map(|stream| Found::Long(Box::new(stream))))
}

/// The engine's error, when one has come out of a stream.
fn of_stream<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a sapwood::Error> {
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// Whether a walk goes on.
pub type Visited = Result<bool, Box<dyn Error>>;

impl Walk<'_> {
    /// Calls `visit` with each pair until it gives false. Returns in how many places something
    /// could not be read.
    pub fn run(
        &self,
        visit: &mut dyn FnMut(&[u8], Option<Found>) -> Visited,
    ) -> Result<u64, Box<dyn Error>> {
        let mut cursor = self.keyspace.cursor()?;
        let mut borders: Option<BTreeSet<Vec<u8>>> = None;
        let mut problems = 0;
        // The last key that was read, or the border where the walk was taken up again.
        let mut at: Option<Vec<u8>> = None;
        let mut found = self.begin(&mut cursor);
        loop {
            match found {
                Ok(true) => {}
                Ok(false) => return Ok(problems),
                Err(error) if error.is_corruption() => {
                    let borders = match &mut borders {
                        Some(borders) => borders,
                        None => borders.insert(leaf_borders(self.path, &self.keyspace.name())?),
                    };
                    let next = self.border_behind(borders, at.as_deref());
                    if self.reverse {
                        let (found, goes_on) = self.slice(next.as_deref(), at.as_deref(), visit)?;
                        problems += found;
                        if !goes_on {
                            return Ok(problems);
                        }
                    } else {
                        eprintln!("diag_lsm: {error}");
                        problems += 1;
                    }
                    let Some(next) = next else { return Ok(problems) };
                    found = self.take_up(&mut cursor, &next);
                    at = Some(next);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let key = cursor.key().unwrap_or_default().to_vec();
            if self.is_past(&key) {
                return Ok(problems);
            }
            match self.value(&cursor) {
                Ok(value) => {
                    if !hand_over(visit, &key, value, &mut problems)? {
                        return Ok(problems);
                    }
                }
                Err(error) if error.is_corruption() => {
                    tell(&key, &error);
                    problems += 1;
                }
                Err(error) => return Err(error.into()),
            }
            at = Some(key);
            found = if self.reverse { cursor.prev() } else { cursor.next() };
        }
    }

    /// Visits backwards what can be read forwards from a border up to where the walk is. Backwards
    /// alone the last key behind a damaged leaf is not to be had: an older version of it may lie in
    /// that leaf. Returns the problems, and whether the walk goes on.
    fn slice(
        &self,
        border: Option<&[u8]>,
        at: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Option<Found>) -> Visited,
    ) -> Result<(u64, bool), Box<dyn Error>> {
        let start = match (border, &self.bounds.0) {
            (Some(border), Bound::Included(start)) if border < start.as_slice() => start.clone(),
            (Some(border), _) => border.to_vec(),
            (None, Bound::Included(start)) => start.clone(),
            (None, _) => Vec::new(),
        };
        let end = match at {
            Some(at) => Bound::Excluded(at.to_vec()),
            None => self.bounds.1.clone(),
        };
        let bounds = (Bound::Included(start), end);
        let forwards = Walk { bounds: &bounds, reverse: false, ..*self };
        let mut pairs = Vec::new();
        let mut problems = forwards.run(&mut |key, value| {
            pairs.push((key.to_vec(), value));
            Ok(true)
        })?;
        for (key, value) in pairs.into_iter().rev() {
            if !hand_over(visit, &key, value, &mut problems)? {
                return Ok((problems, false));
            }
        }
        Ok((problems, true))
    }

    fn value(&self, cursor: &Cursor) -> sapwood::Result<Option<Found>> {
        if !self.values {
            return Ok(None);
        }
        match cursor.value() {
            Ok(value) => Ok(Some(Found::Whole(value))),
            Err(sapwood::Error::ValueTooLarge { .. }) => {
                long(self.keyspace, cursor.key().unwrap_or_default())
            }
            Err(error) => Err(error),
        }
    }

    fn begin(&self, cursor: &mut Cursor) -> sapwood::Result<bool> {
        match (self.reverse, &self.bounds.0, &self.bounds.1) {
            (false, Bound::Included(key) | Bound::Excluded(key), _) => {
                cursor.seek(key, Seek::AtOrAfter)
            }
            (false, Bound::Unbounded, _) => cursor.first(),
            (true, _, Bound::Unbounded) => cursor.last(),
            (true, _, Bound::Included(key) | Bound::Excluded(key)) => self.take_up(cursor, key),
        }
    }

    /// To the first key at or behind a border, or backwards to the last one before it.
    fn take_up(&self, cursor: &mut Cursor, border: &[u8]) -> sapwood::Result<bool> {
        if !self.reverse {
            return cursor.seek(border, Seek::AtOrAfter);
        }
        let found = cursor.seek(border, Seek::AtOrBefore)?;
        if found && cursor.key() == Some(border) { cursor.prev() } else { Ok(found) }
    }

    /// Whether a key lies behind the end of the walk.
    fn is_past(&self, key: &[u8]) -> bool {
        match (self.reverse, &self.bounds.0, &self.bounds.1) {
            (false, _, Bound::Excluded(end)) => key >= end.as_slice(),
            (false, _, Bound::Included(end)) => key > end.as_slice(),
            (true, Bound::Included(start) | Bound::Excluded(start), _) => key < start.as_slice(),
            _ => false,
        }
    }

    /// The next border in the direction of the walk.
    fn border_behind(&self, borders: &BTreeSet<Vec<u8>>, at: Option<&[u8]>) -> Option<Vec<u8>> {
        let of = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => Some(key.clone()),
            Bound::Unbounded => None,
        };
        if self.reverse {
            let from = at.map(<[u8]>::to_vec).or_else(|| of(&self.bounds.1));
            let to = from.map_or(Bound::Unbounded, Bound::Excluded);
            return borders.range((Bound::Unbounded, to)).next_back().cloned();
        }
        let from = at.map(<[u8]>::to_vec).or_else(|| of(&self.bounds.0)).unwrap_or_default();
        borders.range((Bound::Excluded(from), Bound::Unbounded)).next().cloned()
    }
}

/// The exit status of a command that has gone past problems.
pub fn status(problems: u64) -> ExitCode {
    match problems {
        0 => ExitCode::SUCCESS,
        1 => {
            eprintln!("diag_lsm: in one place something could not be read and was left out");
            ExitCode::FAILURE
        }
        _ => {
            eprintln!(
                "diag_lsm: in {problems} places something could not be read and was left out"
            );
            ExitCode::FAILURE
        }
    }
}

/// Shows a pair. A long value is read only now; when it is damaged the walk goes on behind it.
fn hand_over(
    visit: &mut dyn FnMut(&[u8], Option<Found>) -> Visited,
    key: &[u8],
    value: Option<Found>,
    problems: &mut u64,
) -> Visited {
    match visit(key, value) {
        Err(error) => match of_stream(&*error) {
            Some(damage) if damage.is_corruption() => {
                tell(key, damage);
                *problems += 1;
                Ok(true)
            }
            _ => Err(error),
        },
        outcome => outcome,
    }
}

fn tell(key: &[u8], error: &sapwood::Error) {
    eprintln!("diag_lsm: the value of key {:?}: {error}", units::key(key));
}

/// The keys at which the leaves of a keyspace begin in the last durable state, and the parents that
/// cannot be read.
fn leaf_borders(path: &Path, name: &str) -> Result<BTreeSet<Vec<u8>>, Box<dyn Error>> {
    let file = DurableFile::open(path)?;
    let mut borders = BTreeSet::new();
    let Some((number, _)) = file.contents().catalogue.find(name) else { return Ok(borders) };
    for (keyspace, _, segment) in file.segments() {
        if keyspace.is_some_and(|keyspace| keyspace != number.0) {
            continue;
        }
        // In a young segment the number of the keyspace stands before each key.
        let (named, lead) = match keyspace {
            Some(_) => (number, Vec::new()),
            None => (KeyspaceNumber::MANY, number.0.to_be_bytes().to_vec()),
        };
        for root in segment.points.iter().chain(&segment.ranges) {
            let mut search = Search { file: &file, named, lead: &lead, borders: &mut borders };
            search.tree(root);
        }
    }
    Ok(borders)
}

struct Search<'a> {
    file: &'a DurableFile,
    named: KeyspaceNumber,
    lead: &'a [u8],
    borders: &'a mut BTreeSet<Vec<u8>>,
}

impl Search<'_> {
    fn tree(&mut self, root: &TreeRoot) {
        self.visit(&root.reference, root.height, &KeyRange::all());
    }

    fn visit(&mut self, reference: &sapwood::page::NodeRef, height: u8, range: &KeyRange) {
        let own = KeyRange::of_prefix(self.lead);
        if !range.overlaps(&own) {
            return;
        }
        for edge in [Some(&range.start), range.end.as_ref()].into_iter().flatten() {
            self.borders.extend(edge.strip_prefix(self.lead).map(<[u8]>::to_vec));
        }
        if height == 0 {
            return;
        }
        // What cannot be read is passed over as a whole.
        let node = read_parent_at(&self.file.pages, reference, self.named, height, range);
        let Ok(node) = node else { return };
        for index in 0..node.view().len() {
            if let (Ok(child), Ok(below)) =
                (node.view().child(index), child_range(&node, index, range))
            {
                self.visit(&child.reference, height - 1, &below);
            }
        }
    }
}
