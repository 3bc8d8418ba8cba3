//! Walks the pairs of a keyspace past what cannot be read.
//!
//! *Assumes*: the database is open, and nothing writes to it.
//! *Guarantees*: pairs come in order, each once. Where a node cannot be read the walk goes on
//! behind it, with the next key at which any leaf of the keyspace begins, so that newer pairs
//! between the same keys are left out too; where a value cannot be read, with the next pair. Each
//! such place is told on standard error and counted. What is left out may have hidden or replaced
//! older pairs, so that what comes from a damaged file is a copy to judge, not a backup.

use std::collections::BTreeSet;
use std::error::Error;
use std::ops::Bound;
use std::path::Path;
use std::process::ExitCode;

use sapwood::segment::coverage::child_range;
use sapwood::segment::descriptor::TreeRoot;
use sapwood::segment::key_range::KeyRange;
use sapwood::segment::node::read_parent;
use sapwood::{Cursor, Keyspace, KeyspaceNumber, Seek, Value};

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

/// Whether a walk goes on.
pub type Visited = Result<bool, Box<dyn Error>>;

impl Walk<'_> {
    /// Calls `visit` with each pair until it gives false. Returns in how many places something
    /// could not be read.
    pub fn run(
        &self,
        visit: &mut dyn FnMut(&[u8], Option<Value>) -> Visited,
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
                    if !visit(&key, value)? {
                        return Ok(problems);
                    }
                }
                Err(error) if is_of_one_value(&error) => {
                    eprintln!("diag_lsm: the value of key {:?}: {error}", units::key(&key));
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
        visit: &mut dyn FnMut(&[u8], Option<Value>) -> Visited,
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
        let problems = forwards.run(&mut |key, value| {
            pairs.push((key.to_vec(), value));
            Ok(true)
        })?;
        for (key, value) in pairs.into_iter().rev() {
            if !visit(&key, value)? {
                return Ok((problems, false));
            }
        }
        Ok((problems, true))
    }

    fn value(&self, cursor: &Cursor) -> sapwood::Result<Option<Value>> {
        self.values.then(|| cursor.value()).transpose()
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

fn is_of_one_value(error: &sapwood::Error) -> bool {
    error.is_corruption() || matches!(error, sapwood::Error::ValueTooLarge { .. })
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
        let Ok(node) = read_parent(&self.file.pages, reference, self.named, height) else { return };
        for index in 0..node.view().len() {
            if let (Ok(child), Ok(below)) =
                (node.view().child(index), child_range(&node, index, range))
            {
                self.visit(&child.reference, height - 1, &below);
            }
        }
    }
}
