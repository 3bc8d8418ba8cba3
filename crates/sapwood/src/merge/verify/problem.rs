//! What was found to be wrong, up to a bound.

use std::fmt;

use crate::error::{Error, Structure};
use crate::types::{KeyspaceNumber, PageNumber};

/// So many problems are kept; the others are counted.
pub const PROBLEMS_MAX: usize = 1000;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What was being looked at; `None` for an error of the system.
    pub structure: Option<Structure>,
    /// The first page of the node or of the run of pages.
    pub page: Option<PageNumber>,
    /// The keyspace that the node belongs to, where there is one.
    pub keyspace: Option<KeyspaceNumber>,
    /// What was found, and what was expected.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.page {
            Some(page) => write!(f, "page {page}")?,
            None => f.write_str("the file")?,
        }
        if let Some(structure) = self.structure {
            write!(f, ", {structure}")?;
        }
        if let Some(keyspace) = self.keyspace {
            write!(f, " of keyspace {keyspace}")?;
        }
        write!(f, ": {}", self.text)
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Problem {
        match error {
            Error::Corruption(corruption) => Problem {
                structure: Some(corruption.structure),
                page: corruption.page,
                keyspace: corruption.keyspace,
                text: corruption.detail.clone(),
            },
            error => {
                Problem { structure: None, page: None, keyspace: None, text: error.to_string() }
            }
        }
    }
}

impl Problem {
    /// A problem that somebody else than a check of the segments found.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    pub fn new(structure: Option<Structure>, page: Option<PageNumber>, text: String) -> Problem {
        Problem { structure, page, keyspace: None, text }
    }

    /// An error of reading what begins at `page` is a problem there.
    pub(super) fn at(error: &Error, page: PageNumber) -> Problem {
        let mut problem = Problem::from(error);
        problem.page.get_or_insert(page);
        problem
    }
}

/// The problems so far.
#[derive(Debug, Default)]
pub(super) struct Problems {
    pub list: Vec<Problem>,
    pub count: u64,
}

impl Problems {
    /// Adds a problem, unless it is known: what lies in several states is looked at in each.
    pub fn push(&mut self, problem: Problem) {
        if self.list.contains(&problem) {
            return;
        }
        self.count += 1;
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        }
    }
}
