//! The table of outcomes: what is declared, what the promise says, and how the document shows it.

use sapwood::Isolation;

/// What another commit did to the key while the transaction was open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Put,
    Delete,
    DeleteRange,
    LargePut,
    LargeDelete,
    LargeDeleteRange,
    Dropped,
    Renamed,
}

/// The columns, as the document names them.
pub const CHANGES: [(Change, &str); 8] = [
    (Change::Put, "`put`"),
    (Change::Delete, "`delete`"),
    (Change::DeleteRange, "`delete_range`"),
    (Change::LargePut, "`put`, in a large transaction"),
    (Change::LargeDelete, "`delete`, in a large one"),
    (Change::LargeDeleteRange, "`delete_range`, in a large one"),
    (Change::Dropped, "`drop_keyspace`"),
    (Change::Renamed, "`rename_keyspace`"),
];

/// What the transaction did with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    ReadPresent,
    ReadAbsent,
    ReadRange,
    ReadEmptyRange,
    Wrote,
    Deleted,
    DeletedRange,
    Created,
    UsedOthers,
}

impl Use {
    /// Whether the key is there before.
    pub fn is_of_present_key(self) -> bool {
        !matches!(self, Use::ReadAbsent | Use::ReadEmptyRange | Use::Created)
    }

    fn reads_key(self) -> bool {
        use Use::{Created, ReadAbsent, ReadEmptyRange, ReadPresent, ReadRange};
        matches!(self, ReadPresent | ReadAbsent | ReadRange | ReadEmptyRange | Created)
    }

    fn writes_key(self) -> bool {
        matches!(self, Use::Wrote | Use::Deleted | Use::DeletedRange | Use::Created)
    }

    /// Whether it writes to the keyspace of the key.
    pub fn writes_there(self) -> bool {
        self.writes_key() || self == Use::UsedOthers
    }

    /// What the key has when the transaction has committed onto `before`.
    fn result(self, before: &'static str) -> &'static str {
        match self {
            Use::Wrote | Use::Created => MINE,
            Use::Deleted | Use::DeletedRange => ABSENT,
            _ => before,
        }
    }
}

/// What the key has, and the words for it in the document.
pub const OLD: &str = "as before";
pub const THEIRS: &str = "theirs";
pub const MINE: &str = "mine";
pub const ABSENT: &str = "absent";
pub const DROPPED: &str = "dropped";

/// A row: what the transaction did, how the document says so, and for each change whether its
/// commit is a conflict: `x`, or goes through: `-`. In the order of [`CHANGES`].
type Row = (Use, &'static str, &'static str);

const SNAPSHOT: [Row; 9] = [
    (Use::ReadPresent, "read it, there was one", "--- --- - -"),
    (Use::ReadAbsent, "read it, there was none", "--- --- - -"),
    (Use::ReadRange, "read a range that held it", "--- --- - -"),
    (Use::ReadEmptyRange, "read a range around it that was empty", "--- --- - -"),
    (Use::Wrote, "put it", "xxx xxx x -"),
    (Use::Deleted, "deleted it", "xxx xxx x -"),
    (Use::DeletedRange, "deleted a range that held it", "xxx xxx x -"),
    (Use::Created, "read it, there was none, and put it", "xxx xxx x -"),
    (Use::UsedOthers, "read and put other keys of the keyspace", "--- --- x -"),
];

const SERIALIZABLE: [Row; 9] = [
    (Use::ReadPresent, "read it, there was one", "xxx xxx x -"),
    (Use::ReadAbsent, "read it, there was none", "xxx xxx x -"),
    (Use::ReadRange, "read a range that held it", "xxx xxx x -"),
    (Use::ReadEmptyRange, "read a range around it that was empty", "xxx xxx x -"),
    (Use::Wrote, "put it", "xxx xxx x -"),
    (Use::Deleted, "deleted it", "xxx xxx x -"),
    (Use::DeletedRange, "deleted a range that held it", "xxx xxx x -"),
    (Use::Created, "read it, there was none, and put it", "xxx xxx x -"),
    (Use::UsedOthers, "read and put other keys of the keyspace", "--- --- x -"),
];

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    pub isolation: Isolation,
    pub used: Use,
    pub change: Change,
    pub conflicts: bool,
}

impl Cell {
    /// What the key has after the other's commit alone.
    fn changed(self) -> &'static str {
        match self.change {
            Change::Put | Change::LargePut => THEIRS,
            Change::Dropped => DROPPED,
            Change::Renamed if self.used.is_of_present_key() => OLD,
            _ => ABSENT,
        }
    }

    /// What the key has in the end.
    pub fn after(self) -> &'static str {
        match self.changed() {
            DROPPED => DROPPED,
            changed if self.conflicts => changed,
            changed => self.used.result(changed),
        }
    }

    /// Whether the promise asks for a conflict. Snapshot isolation: the first committer of a key
    /// wins, and nobody commits to a keyspace that is gone. Serializable: nothing that was read has
    /// changed. A deletion is a write, also of what is not there.
    pub fn promised(self) -> bool {
        let reads = self.isolation == Isolation::Serializable && self.used.reads_key();
        match self.change {
            Change::Renamed => false,
            Change::Dropped => reads || self.used.writes_there(),
            _ => reads || self.used.writes_key(),
        }
    }
}

fn rows(isolation: Isolation) -> &'static [Row] {
    match isolation {
        Isolation::Snapshot => &SNAPSHOT,
        Isolation::Serializable => &SERIALIZABLE,
    }
}

fn row_cells(isolation: Isolation, row: &Row) -> Vec<Cell> {
    let marks: Vec<char> = row.2.chars().filter(|mark| *mark != ' ').collect();
    assert_eq!(marks.len(), CHANGES.len(), "{row:?}");
    let cell = |(mark, (change, _)): (&char, &(Change, &str))| {
        assert!("x-".contains(*mark), "{row:?}");
        Cell { isolation, used: row.0, change: *change, conflicts: *mark == 'x' }
    };
    marks.iter().zip(&CHANGES).map(cell).collect()
}

/// All cells of one isolation.
pub fn cells(isolation: Isolation) -> Vec<Cell> {
    rows(isolation).iter().flat_map(|row| row_cells(isolation, row)).collect()
}

/// The table of one isolation, as the document has it.
pub fn markdown(isolation: Isolation) -> String {
    let mut lines = vec!["| the transaction |".to_owned(), "|---|".to_owned()];
    for (_, name) in CHANGES {
        lines[0] += &format!(" {name} |");
        lines[1] += "---|";
    }
    for row in rows(isolation) {
        let mut line = format!("| {} |", row.1);
        for cell in row_cells(isolation, row) {
            let verdict = if cell.conflicts { "**conflict**" } else { "commits" };
            line += &format!(" {verdict}, {} |", cell.after());
        }
        lines.push(line);
    }
    lines.join("\n") + "\n"
}
