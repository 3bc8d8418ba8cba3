//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks inside a Sapwood database file, loads it, checks it and measures it.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Arguments {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Header, options, keyspaces and sizes by level.
    Info(FileArgument),
    /// Every segment: level, entries, tombstones, size, fill.
    Segments(FileArgument),
    /// The shape of a segment's trees, by depth.
    Tree(TreeArguments),
    /// One page, decoded, whatever it is.
    Page(PageArguments),
    /// Whose each part of the file is, as a map.
    Space(SpaceArguments),
    /// The records of the log behind the durable state.
    Log(LogArguments),
    /// Checks everything; exit status 1 when anything is wrong.
    Verify(FileArgument),
}

/// A database file.
#[derive(Debug, Args)]
pub struct FileArgument {
    /// The database file.
    pub file: PathBuf,
}

/// Of `tree`.
#[derive(Debug, Args)]
pub struct TreeArguments {
    /// The database file.
    pub file: PathBuf,
    /// The number of the segment; all of them when it is left out.
    pub segment: Option<u64>,
}

/// Of `page`.
#[derive(Debug, Args)]
pub struct PageArguments {
    /// The database file.
    pub file: PathBuf,
    /// The page's number.
    pub page: u64,
    /// How many entries of a node to print.
    #[arg(long, default_value_t = 40)]
    pub limit: usize,
}

/// Of `space`.
#[derive(Debug, Args)]
pub struct SpaceArguments {
    /// The database file.
    pub file: PathBuf,
    /// Characters to a line of the map.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(8..=512))]
    pub width: u64,
}

/// Of `log`.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// The database file.
    pub file: PathBuf,
    /// How many records to print.
    #[arg(long, default_value_t = 1000)]
    pub limit: usize,
}

/// How pairs are written in a stream of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A folder: paths are keys, contents are values.
    Folder,
    /// Each line is a key; the value is empty.
    Lines,
    /// Key, tab, value; `\t`, `\n`, `\r` and `\\` are escaped.
    Tsv,
    /// Two fields to a row, quoted where needed.
    Csv,
    /// An object to a line, with `key` and `value` (or `key_hex` and `value_hex`).
    Jsonl,
}
