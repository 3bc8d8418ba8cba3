//! Walks the pairs of a keyspace past what cannot be read.
//!
//! *Assumes*: the database is open, and nothing writes to it.
//! *Guarantees*: pairs come in order, each once. Where a node cannot be read, the walk goes on at
//! the next key at which any leaf of the keyspace begins; what lies before that key is read from
//! its other end. Newer pairs between the keys of a damaged leaf are left out with it. Where a
//! value cannot be read, the walk goes on with the next pair. Each damage that hides something of
//! the range is told on standard error and counted, once. What is left out may have hidden or
//! replaced older pairs, so that what comes from a damaged file is a copy to judge, not a backup.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::path::Path;
use std::process::ExitCode;

use sapwood::segment::KEY_BYTES_MAX;
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

/// What takes the pairs.
pub type Visit<'a> = dyn FnMut(&[u8], Option<Found>) -> Visited + 'a;

/// What has been told on standard error.
#[derive(Debug, Default)]
struct Told {
    /// Of damaged nodes: a walk meets one at each border that lies in it.
    texts: BTreeSet<String>,
    count: u64,
}

impl Told {
    fn node(&mut self, error: &sapwood::Error) {
        let text = error.to_string();
        if !self.texts.contains(&text) {
            eprintln!("diag_lsm: {text}");
            self.texts.insert(text);
            self.count += 1;
        }
    }

    fn value(&mut self, key: &[u8], error: &sapwood::Error) {
        eprintln!("diag_lsm: the value of key {:?}: {error}", units::key(key));
        self.count += 1;
    }
}

/// How far a walk has come without going past a damaged node.
enum Ended {
    /// To the end of its range, or as far as was wanted.
    Done,
    /// To damage, behind this key.
    At(sapwood::Error, Option<Vec<u8>>),
}

impl Walk<'_> {
    /// Calls `visit` with each pair until it gives false. Returns how many damages have left
    /// something out.
    pub fn run(&self, visit: &mut Visit<'_>) -> Result<u64, Box<dyn Error>> {
        let mut cursor = self.keyspace.cursor()?;
        let mut borders: Option<BTreeSet<Vec<u8>>> = None;
        let mut told = Told::default();
        // What is still to be walked.
        let mut rest = self.bounds.clone();
        loop {
            let walk = Walk { bounds: &rest, ..*self };
            let ended = walk.straight(&mut cursor, &mut told, visit)?;
            let Ended::At(error, last) = ended else { return Ok(told.count) };
            if let Some(last) = last {
                *self.near(&mut rest) = Bound::Excluded(last);
            }
            let borders = match &mut borders {
                Some(borders) => borders,
                None => borders.insert(leaf_borders(self.path, &self.keyspace.name())?),
            };
            let border = self.next_border(borders, &rest);
            let (stretch, behind) = self.parted(rest, border);
            let goes_on = self.other_way(&stretch, &error, &mut told, visit)?;
            let Some(behind) = behind.filter(|_| goes_on) else { return Ok(told.count) };
            rest = behind;
        }
    }

    /// Visits what lies before the first node that cannot be read.
    fn straight(
        &self,
        cursor: &mut Cursor,
        told: &mut Told,
        visit: &mut Visit<'_>,
    ) -> Result<Ended, Box<dyn Error>> {
        let mut last = None;
        let mut found = self.begin(cursor);
        loop {
            match found {
                Ok(true) => {}
                Ok(false) => return Ok(Ended::Done),
                Err(error) if error.is_corruption() => return Ok(Ended::At(error, last)),
                Err(error) => return Err(error.into()),
            }
            let key = cursor.key().unwrap_or_default().to_vec();
            if self.is_past(&key) {
                return Ok(Ended::Done);
            }
            match self.value(cursor) {
                Ok(value) => {
                    if !hand_over(visit, &key, value, told)? {
                        return Ok(Ended::Done);
                    }
                }
                Err(error) if error.is_corruption() => told.value(&key, &error),
                Err(error) => return Err(error.into()),
            }
            last = Some(key);
            found = if self.reverse { cursor.prev() } else { cursor.next() };
        }
    }

    /// Visits what can be read of a stretch from its other end, in the walk's own order. No leaf
    /// begins within it, so that each tree has but one there. The walk itself may have failed
    /// because of another: the one behind the stretch, which may lie out of the range; or, going
    /// backwards, the one before it, in which an older version of a key may lie. `met` is what it
    /// failed with: damage hides something only when the other way fails too.
    fn other_way(
        &self,
        stretch: &KeyBounds,
        met: &sapwood::Error,
        told: &mut Told,
        visit: &mut Visit<'_>,
    ) -> Visited {
        let back = Walk { bounds: stretch, reverse: !self.reverse, ..*self };
        let mut pairs = Vec::new();
        let mut gather = |key: &[u8], value: Option<Found>| -> Visited {
            pairs.push((key.to_vec(), value));
            Ok(true)
        };
        let ended = back.straight(&mut self.keyspace.cursor()?, told, &mut gather)?;
        if let Ended::At(error, _) = &ended {
            told.node(met);
            told.node(error);
        }
        for (key, value) in pairs.into_iter().rev() {
            if !hand_over(visit, &key, value, told)? {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// To the first pair in the direction of the walk, or to one that lies past its end.
    fn begin(&self, cursor: &mut Cursor) -> sapwood::Result<bool> {
        if !self.reverse {
            return match &self.bounds.0 {
                Bound::Included(key) => cursor.seek(key, Seek::AtOrAfter),
                Bound::Excluded(key) => {
                    let next = [key.as_slice(), b"\0"].concat();
                    cursor.seek(next, Seek::AtOrAfter)
                }
                Bound::Unbounded => cursor.first(),
            };
        }
        match &self.bounds.1 {
            Bound::Included(key) => cursor.seek(key, Seek::AtOrBefore),
            Bound::Excluded(key) => match greatest_before(key) {
                Some(key) => cursor.seek(key, Seek::AtOrBefore),
                None => Ok(false),
            },
            Bound::Unbounded => cursor.last(),
        }
    }

    /// Whether a key lies behind the end of the walk.
    fn is_past(&self, key: &[u8]) -> bool {
        match (self.reverse, &self.bounds.0, &self.bounds.1) {
            (false, _, Bound::Excluded(end)) => key >= end.as_slice(),
            (false, _, Bound::Included(end)) => key > end.as_slice(),
            (true, Bound::Included(start), _) => key < start.as_slice(),
            (true, Bound::Excluded(start), _) => key <= start.as_slice(),
            _ => false,
        }
    }

    /// The end of a range at which the walk begins.
    fn near<'a>(&self, bounds: &'a mut KeyBounds) -> &'a mut Bound<Vec<u8>> {
        if self.reverse { &mut bounds.1 } else { &mut bounds.0 }
    }

    /// Parts a range at a border, which belongs to what lies behind it: what the walk comes to
    /// first, and the rest.
    fn parted(&self, range: KeyBounds, at: Option<Vec<u8>>) -> (KeyBounds, Option<KeyBounds>) {
        let Some(at) = at else { return (range, None) };
        let (start, end) = range;
        let before = (start, Bound::Excluded(at.clone()));
        let behind = (Bound::Included(at), end);
        if self.reverse { (behind, Some(before)) } else { (before, Some(behind)) }
    }

    /// The next border in the direction of the walk, within what is still to be walked.
    fn next_border(&self, borders: &BTreeSet<Vec<u8>>, rest: &KeyBounds) -> Option<Vec<u8>> {
        let (start, end) = (key_of(&rest.0).unwrap_or_default(), key_of(&rest.1));
        let border = if self.reverse {
            let before = end.map_or(Bound::Unbounded, Bound::Excluded);
            borders.range::<[u8], _>((Bound::Unbounded, before)).next_back()
        } else {
            borders.range::<[u8], _>((Bound::Excluded(start), Bound::Unbounded)).next()
        };
        let is_within = |at: &[u8]| at > start && end.is_none_or(|end| at < end);
        border.filter(|border| is_within(border)).cloned()
    }
}

/// The key at an end of a range.
fn key_of(bound: &Bound<Vec<u8>>) -> Option<&[u8]> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) => Some(key),
        Bound::Unbounded => None,
    }
}

/// The last of all keys before one, so that no node is read that begins there; `None` when there is
/// none.
fn greatest_before(key: &[u8]) -> Option<Vec<u8>> {
    let mut before = key.to_vec();
    let last = before.pop()?;
    if let Some(less) = last.checked_sub(1) {
        before.push(less);
        before.resize(KEY_BYTES_MAX, u8::MAX);
    }
    Some(before)
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
fn hand_over(visit: &mut Visit<'_>, key: &[u8], value: Option<Found>, told: &mut Told) -> Visited {
    match visit(key, value) {
        Err(error) => match of_stream(&*error) {
            Some(damage) if damage.is_corruption() => {
                told.value(key, damage);
                Ok(true)
            }
            _ => Err(error),
        },
        outcome => outcome,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_before_another_is_the_last_that_there_can_be() {
        assert_eq!(greatest_before(b""), None);
        assert_eq!(greatest_before(b"\0"), Some(Vec::new()));
        assert_eq!(greatest_before(b"a\0"), Some(b"a".to_vec()));
        let before = greatest_before(b"ab").unwrap();
        assert!(before.starts_with(b"aa\xff") && before.ends_with(b"\xff"));
        assert_eq!(before.len(), KEY_BYTES_MAX);
        // An end of a range may be longer than a key.
        let end = vec![b'e'; KEY_BYTES_MAX + 5];
        assert_eq!(greatest_before(&end).unwrap(), end[..KEY_BYTES_MAX]);
    }
}
