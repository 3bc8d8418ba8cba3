//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::usage;

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
    /// Makes a new database.
    Create(CreateArguments),
    /// Loads pairs from a folder, a file or standard input.
    Import(ImportArguments),
    /// Writes all pairs to a folder, a file or standard output. How many they were is printed; on
    /// standard error when the pairs go to standard output, with --json in one line there.
    Export(ExportArguments),
    /// Prints the value of a key; exit status 1 when there is none.
    Get(KeyArguments),
    /// Sets the value of a key.
    Put(PutArguments),
    /// Deletes a key.
    Delete(KeyArguments),
    /// Prints the pairs of a range.
    Scan(ScanArguments),
    /// Counts the keys of a range.
    Count(RangeArguments),
    /// Merges everything, or a range of a keyspace, into one segment for each keyspace; or writes
    /// a clean new file.
    Compact(CompactArguments),
    /// Loads pairs, reads and scans them, and says how fast that was.
    Bench(BenchArguments),
}

/// Of `create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The database file, which must not be there, or be empty.
    pub file: PathBuf,
    /// Bytes of a page, a power of two from 1024 to 65536.
    #[arg(long, default_value_t = 4096, value_parser = usage::page_size)]
    pub page_size: u32,
    /// Bytes at the end of each page that stay unused, a multiple of 8 up to 256.
    #[arg(long, default_value_t = 0, value_parser = usage::reserved_bytes)]
    pub reserved_bytes: u16,
    /// Names of keyspaces to make.
    #[arg(long, default_value = "default", value_parser = usage::new_name)]
    pub keyspace: Vec<String>,
    /// Level of zstd, from 1 to 22; 0 stores plain.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i32).range(0..=22))]
    pub compression: i32,
    /// Filter bits for each key, at most 32.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=32))]
    pub filter_bits: u8,
}

/// A database file and a keyspace in it.
#[derive(Debug, Args)]
pub struct KeyspaceArguments {
    /// The database file.
    pub file: PathBuf,
    /// The keyspace.
    #[arg(long, default_value = "default")]
    pub keyspace: String,
    /// Memory budget in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    pub budget: u64,
}

/// Of `import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// Where to.
    #[command(flatten)]
    pub to: KeyspaceArguments,
    /// The folder or file to read; standard input when it is left out or `-`. In a folder the
    /// database itself is left out.
    pub from: Option<PathBuf>,
    /// How the pairs are written; told from the source's name when it is left out.
    #[arg(long, value_enum)]
    pub form: Option<Form>,
    /// Read the sources that Cargo has fetched, and ask the new database some questions.
    #[arg(long, conflicts_with_all = ["from", "form"])]
    pub cargo_sources: bool,
}

/// Of `export`.
#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Where from.
    #[command(flatten)]
    pub from: KeyspaceArguments,
    /// The folder or file to write; standard output when it is left out or `-`.
    pub to: Option<PathBuf>,
    /// How the pairs are written. When it is left out: what the target's name tells; else JSON
    /// lines for --json on standard output, and TSV.
    #[arg(long, value_enum)]
    pub form: Option<Form>,
}

/// A key.
#[derive(Debug, Args)]
pub struct KeyArguments {
    /// Where.
    #[command(flatten)]
    pub at: KeyspaceArguments,
    /// The key.
    pub key: String,
    /// The key is given in hexadecimal.
    #[arg(long)]
    pub hex: bool,
}

/// Of `put`.
#[derive(Debug, Args)]
pub struct PutArguments {
    /// Where.
    #[command(flatten)]
    pub at: KeyspaceArguments,
    /// The key.
    pub key: String,
    /// The value; standard input when it is left out.
    pub value: Option<String>,
    /// Key and value are given in hexadecimal; from standard input the value comes as it is.
    #[arg(long)]
    pub hex: bool,
}

/// A range of keys.
#[derive(Debug, Args)]
pub struct RangeArguments {
    /// Where.
    #[command(flatten)]
    pub at: KeyspaceArguments,
    /// The first key.
    #[arg(long, conflicts_with = "prefix")]
    pub start: Option<String>,
    /// The first key behind the range.
    #[arg(long, conflicts_with = "prefix")]
    pub end: Option<String>,
    /// Only keys that begin so.
    #[arg(long)]
    pub prefix: Option<String>,
    /// Keys are given in hexadecimal.
    #[arg(long)]
    pub hex: bool,
}

/// Of `compact`.
#[derive(Debug, Args)]
pub struct CompactArguments {
    /// The database file.
    pub file: PathBuf,
    /// Write what is in the database file to this one, which must not be there; the former is only
    /// read.
    #[arg(long, conflicts_with_all = ["keyspace", "start", "end", "prefix"])]
    pub to: Option<PathBuf>,
    /// Only this keyspace.
    #[arg(long)]
    pub keyspace: Option<String>,
    /// The first key of the range.
    #[arg(long, conflicts_with = "prefix", requires = "keyspace")]
    pub start: Option<String>,
    /// The first key behind the range.
    #[arg(long, conflicts_with = "prefix", requires = "keyspace")]
    pub end: Option<String>,
    /// Only keys that begin so.
    #[arg(long, requires = "keyspace")]
    pub prefix: Option<String>,
    /// Keys are given in hexadecimal.
    #[arg(long)]
    pub hex: bool,
    /// Memory budget in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    pub budget: u64,
}

/// Of `scan`.
#[derive(Debug, Args)]
pub struct ScanArguments {
    /// Which keys.
    #[command(flatten)]
    pub range: RangeArguments,
    /// At most so many.
    #[arg(long)]
    pub limit: Option<usize>,
    /// From the last to the first.
    #[arg(long)]
    pub reverse: bool,
    /// Without values.
    #[arg(long)]
    pub keys_only: bool,
}

/// In which order a load writes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Each key at a random place.
    Random,
    /// The same keys, ascending: what a fresh build of the same data takes.
    Ascending,
    /// Ascending, each the one before plus one.
    Sorted,
    /// Each the one before less one.
    Descending,
    /// A thousand ascending series in turn: a key is its series, then its place in it.
    Clustered,
}

/// Of `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// The database file, which must not be there.
    pub file: PathBuf,
    /// How many pairs to write, at least 1.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// The order of their keys.
    #[arg(long, value_enum, default_value_t = Order::Random)]
    pub order: Order,
    /// Bytes of a key, at least 8.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(8..=16384))]
    pub key_bytes: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Pairs to a commit.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub batch: u64,
    /// Memory budget in MiB.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(4..=1 << 20))]
    pub budget: u64,
    /// When a commit counts as done.
    #[arg(long, value_enum, default_value_t = CommitKind::Buffered)]
    pub durability: CommitKind,
    /// Point reads after the load.
    #[arg(long, default_value_t = 100_000)]
    pub reads: u64,
    /// Pairs to scan after the load.
    #[arg(long, default_value_t = 1_000_000)]
    pub scan: u64,
    /// Bytes of a page, a power of two from 1024 to 65536.
    #[arg(long, default_value_t = 4096, value_parser = usage::page_size)]
    pub page_size: u32,
    /// Store nodes and values plain.
    #[arg(long)]
    pub plain: bool,
    /// Read nodes in place, in a memory map of the file.
    #[arg(long)]
    pub memory_map: bool,
    /// Verify the file at the end.
    #[arg(long)]
    pub verify: bool,
    /// Keep the file, which is removed otherwise, also when something fails.
    #[arg(long)]
    pub keep: bool,
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitKind {
    /// On disk.
    Sync,
    /// With the operating system.
    Buffered,
    /// Visible.
    Memory,
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
    /// Bytes of a page, for a file whose header cannot be read.
    #[arg(long, default_value_t = 4096, value_parser = usage::page_size)]
    pub page_size: u32,
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
