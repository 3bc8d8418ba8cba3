//! Values as streams: written and read piece by piece, never whole in memory.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use crate::bytes::Value;
use crate::error::{Error, Result};
use crate::keyspace::{Keyspace, value_of};
use crate::page::{Held, PageManager};
use crate::scan::OwnLayer;
use crate::segment::overflow::{CHUNK_BYTES, OverflowReader};
use crate::shared::{Shared, check_key};
use crate::snapshot::Snapshot;
use crate::state::lookup::{self, Found};
use crate::state::{BlocksHold, Core, ReadPoint, SnapshotHold};
use crate::sync::Arc;
use crate::transaction::Transaction;
use crate::transaction::commit::{OVERFLOW_AT_COMMIT_BYTES, commit_value};
use crate::transaction::value_writer::ValueWriter;
use crate::types::KeyspaceNumber;

/// A value that is read as a stream: [`Read`] and [`Seek`].
///
/// It sees the instant at which it was made. At most one piece of the value, of 128 KiB, is in
/// memory, and 32 bytes for each such piece of its length; each is checked before any byte of it is
/// handed out. What it reads is kept in the file for as long as it lives, also when the key is
/// overwritten or deleted meanwhile.
///
/// Once the database is closed, reading gives an error that carries [`Error::Closed`]. While it
/// lives, it keeps the file open, even after a close.
///
/// # Examples
/// ```
/// use std::io::{Read, Seek, SeekFrom};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let db = sapwood::Database::builder().open_in_memory()?;
/// let films = db.keyspace("films")?;
/// films.put_stream("short", std::io::repeat(7).take(1_000_000))?;
///
/// let mut film = films.get_stream("short")?.ok_or("it was put just now")?;
/// assert_eq!(film.len(), 1_000_000);
/// film.seek(SeekFrom::End(-3))?;
/// let mut end = Vec::new();
/// film.read_to_end(&mut end)?;
/// assert_eq!(end, [7, 7, 7]);
/// # Ok(())
/// # }
/// ```
pub struct ValueStream {
    shared: Arc<Shared>,
    source: Source,
    position: u64,
}

/// Keeps what a stream reads: of the database, and of a transaction's own.
pub(crate) struct Hold {
    pub _committed: Arc<SnapshotHold>,
    /// Where the value was found. A snapshot beside memtables holds no state, and before their
    /// flush the value may be copied elsewhere.
    pub _blocks: Option<BlocksHold>,
    pub _own: Vec<OwnLayer>,
}

enum Source {
    Whole(Value),
    Chunks {
        reader: OverflowReader<Arc<PageManager>>,
        /// Keeps the value's blocks from reuse.
        _hold: Hold,
        /// The chunk that was read last, and its index.
        chunk: Option<(u64, Vec<u8>)>,
        /// What the reader takes, and the largest chunk.
        held: Held,
    },
}

impl fmt::Debug for ValueStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("ValueStream");
        out.field("length", &self.len()).field("position", &self.position).finish_non_exhaustive()
    }
}

impl ValueStream {
    /// The value's length, in bytes.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put_stream("fig", &b"sweet"[..])?;
    /// assert_eq!(fruit.get_stream("fig")?.unwrap().len(), 5);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Whole(value) => value.len() as u64,
            Source::Chunks { reader, .. } => reader.len(),
        }
    }

    /// True when the value has no bytes.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put_stream("fig", std::io::empty())?;
    /// assert!(fruit.get_stream("fig")?.unwrap().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn find(
        shared: &Arc<Shared>,
        hold: Arc<SnapshotHold>,
        keyspace: KeyspaceNumber,
        key: &[u8],
    ) -> Result<Option<ValueStream>> {
        shared.read(|core| {
            let point = hold.read_point(core);
            let Some(found) = lookup::get(core, &point, keyspace, key)? else {
                return Ok(None);
            };
            let blocks = Some(point.hold_blocks());
            let hold = Hold { _committed: hold.clone(), _blocks: blocks, _own: Vec::new() };
            ValueStream::of_found(shared, core, keyspace, found, hold).map(Some)
        })
    }

    /// What a lookup found, which `hold` holds.
    pub(crate) fn of_found(
        shared: &Arc<Shared>,
        core: &Core,
        keyspace: KeyspaceNumber,
        found: Found,
        hold: Hold,
    ) -> Result<ValueStream> {
        match found {
            Found::Overflow(reference) => {
                let reader = OverflowReader::open(core.pages.clone(), keyspace, &reference)?;
                let mut held = Held::new(core.pages.budget());
                held.follow(reader.memory_bytes());
                let source = Source::Chunks { reader, _hold: hold, chunk: None, held };
                Ok(ValueStream { shared: shared.clone(), source, position: 0 })
            }
            found => Ok(ValueStream::whole(shared, value_of(shared, core, keyspace, found)?)),
        }
    }

    /// A value that is in memory.
    pub(crate) fn whole(shared: &Arc<Shared>, value: Value) -> ValueStream {
        ValueStream { shared: shared.clone(), source: Source::Whole(value), position: 0 }
    }

    /// What lies at the position, as far as it is at hand; empty at the end.
    fn at_hand(&mut self) -> Result<&[u8]> {
        self.shared.check_open()?;
        match &mut self.source {
            Source::Whole(value) => {
                let at = usize::try_from(self.position).unwrap_or(usize::MAX);
                Ok(value.get(at..).unwrap_or_default())
            }
            Source::Chunks { reader, chunk, held, .. } => {
                if self.position >= reader.len() {
                    return Ok(&[]);
                }
                let index = self.position / CHUNK_BYTES as u64;
                if chunk.as_ref().is_none_or(|(at, _)| *at != index) {
                    // The one before goes first: never two in memory.
                    *chunk = None;
                    let bytes = reader
                        .read_chunk(usize::try_from(index).unwrap_or(usize::MAX))
                        .or_else(|error| self.shared.fail(error))?;
                    held.follow_up(reader.memory_bytes() + bytes.capacity());
                    *chunk = Some((index, bytes));
                }
                let skip = (self.position % CHUNK_BYTES as u64) as usize;
                let bytes = chunk.as_ref().and_then(|(_, bytes)| bytes.get(skip..));
                Ok(bytes.unwrap_or_default())
            }
        }
    }
}

impl Read for ValueStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut bytes = self.at_hand().map_err(io::Error::other)?;
        let count = bytes.read(buffer)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for ValueStream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.len().checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        let before_start =
            || io::Error::new(io::ErrorKind::InvalidInput, "a seek to before the value's start");
        self.position = position.ok_or_else(before_start)?;
        Ok(self.position)
    }
}

/// Fills `buffer` from a reader up to `length`; less only at its end.
fn fill(reader: &mut impl Read, buffer: &mut Vec<u8>, length: usize) -> Result<()> {
    buffer.clear();
    let failed = |error| Error::io("reading the value to put", "the reader that was given", error);
    reader.take(length as u64).read_to_end(buffer).map_err(failed)?;
    Ok(())
}

/// What a reader has given.
enum Given {
    /// It is put as any other value.
    Short(Vec<u8>),
    /// It lies in blocks of its own.
    Long(Box<ValueWriter>),
}

/// Reads to the end, and writes what is long as it comes. The reader is never called from within a
/// call that a close waits for: it may use the database itself.
fn take_in(keyspace: &Keyspace, reader: &mut impl Read) -> Result<Given> {
    let mut buffer = Vec::new();
    fill(reader, &mut buffer, OVERFLOW_AT_COMMIT_BYTES)?;
    if buffer.len() < OVERFLOW_AT_COMMIT_BYTES {
        return Ok(Given::Short(buffer));
    }
    let mut value = keyspace.change(ValueWriter::begin)?;
    let mut asked = OVERFLOW_AT_COMMIT_BYTES;
    while !buffer.is_empty() {
        keyspace.change(|_, _| value.push(&buffer))?;
        // A reader that has said that it is at its end may wait for more when it is asked again.
        if buffer.len() < asked {
            break;
        }
        asked = CHUNK_BYTES;
        fill(reader, &mut buffer, asked)?;
    }
    Ok(Given::Long(Box::new(value)))
}

impl Keyspace {
    /// Puts what a reader gives under a key, in place of the value that it had, and returns how
    /// many bytes it gave. The value is written as it comes: about a quarter of a megabyte of it is
    /// in memory at a time.
    ///
    /// It becomes visible whole, when the call returns. Other calls go on meanwhile. When the
    /// reader fails or panics, nothing is put, and the space is free again at once.
    ///
    /// # Errors
    /// [`Error::Io`] with what the reader returned; as [`Keyspace::put`].
    ///
    /// # Examples
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let db = sapwood::Database::open("library.sapwood")?;
    /// let films = db.keyspace("films")?;
    /// films.put_stream("metropolis", std::fs::File::open("metropolis.mkv")?)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_stream(&self, key: impl AsRef<[u8]>, mut reader: impl Read) -> Result<u64> {
        let key = key.as_ref();
        check_key(key)?;
        match take_in(self, &mut reader)? {
            Given::Short(bytes) => {
                self.put(key, &bytes)?;
                Ok(bytes.len() as u64)
            }
            Given::Long(value) => {
                let length = value.length();
                let durability = self.shared().durability;
                self.change(|core, number| commit_value(core, number, key, *value, durability))?;
                Ok(length)
            }
        }
    }

    /// The value of a key as a stream, whatever its length.
    ///
    /// # Errors
    /// As [`Keyspace::get`], without its limit. Damage in the value comes as an error of the
    /// stream's reads.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// use std::io::Read;
    ///
    /// fruit.put_stream("fig", &b"sweet"[..])?;
    /// let mut read = String::new();
    /// let mut stream = fruit.get_stream("fig")?.unwrap();
    /// stream.read_to_string(&mut read).unwrap();
    /// assert_eq!(read, "sweet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_stream(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueStream>> {
        let key = key.as_ref();
        check_key(key)?;
        let (hold, number) =
            self.read(|core, number| Ok((Arc::new(SnapshotHold::take(core)), number)))?;
        ValueStream::find(self.shared(), hold, number, key)
    }
}

impl Snapshot {
    /// The value of a key as a stream, whatever its length.
    ///
    /// # Errors
    /// As [`Snapshot::get`], without its limit.
    ///
    /// # Examples
    /// ```
    /// # fn main() -> sapwood::Result<()> {
    /// # let db = sapwood::Database::builder().open_in_memory()?;
    /// # let fruit = db.keyspace("fruit")?;
    /// fruit.put_stream("fig", &b"sweet"[..])?;
    /// let before = db.snapshot()?;
    /// fruit.delete("fig")?;
    /// assert_eq!(before.get_stream(&fruit, "fig")?.unwrap().len(), 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_stream(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<ValueStream>> {
        let key = key.as_ref();
        check_key(key)?;
        let number = keyspace.number_in(self.shared())?;
        ValueStream::find(self.shared(), self.hold().clone(), number, key)
    }
}

impl Transaction {
    /// Puts what a reader gives under a key, in place of the value that it had, and returns how
    /// many bytes it gave: see [`Keyspace::put_stream`].
    ///
    /// Nobody else sees it before the commit. A value of 64 KiB or more is written to the file as
    /// it comes; its space is free again when it is rolled back, to a savepoint too. When the
    /// reader fails or panics, nothing is put, and the transaction goes on as it was.
    ///
    /// # Errors
    /// [`Error::Io`] with what the reader returned; as [`Transaction::put`].
    ///
    /// # Examples
    /// ```
    /// use std::io::Read;
    /// # fn main() -> sapwood::Result<()> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let (films, titles) = (db.keyspace("films")?, db.keyspace("titles")?);
    /// let length = db.transact(|transaction| {
    ///     transaction.put(&titles, "1", "Seven")?;
    ///     transaction.put_stream(&films, "1", std::io::repeat(7).take(1_000_000))
    /// })?;
    /// assert_eq!(films.get_stream("1")?.unwrap().len(), length);
    /// # Ok(())
    /// # }
    /// ```
    pub fn put_stream(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        mut reader: impl Read,
    ) -> Result<u64> {
        let key = key.as_ref();
        check_key(key)?;
        keyspace.number_in(self.shared())?;
        match take_in(keyspace, &mut reader)? {
            Given::Short(bytes) => {
                self.put(keyspace, key, &bytes)?;
                Ok(bytes.len() as u64)
            }
            Given::Long(value) => {
                let length = value.length();
                self.put_value(keyspace, key, *value)?;
                Ok(length)
            }
        }
    }

    /// The value of a key as a stream, whatever its length. It sees the writes that were made
    /// before it was, and may outlive the transaction.
    ///
    /// # Errors
    /// As [`Transaction::get`], without its limit.
    ///
    /// # Examples
    /// ```
    /// use std::io::Read;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let db = sapwood::Database::builder().open_in_memory()?;
    /// let keyspace = db.keyspace("a")?;
    /// let mut transaction = db.begin(sapwood::Isolation::Snapshot)?;
    /// transaction.put(&keyspace, "b", "12")?;
    /// let mut read = String::new();
    /// if let Some(mut stream) = transaction.get_stream(&keyspace, "b")? {
    ///     stream.read_to_string(&mut read)?;
    /// }
    /// assert_eq!(read, "12");
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_stream(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<ValueStream>> {
        let shared = self.shared();
        self.find(
            keyspace,
            key.as_ref(),
            |own| ValueStream::whole(shared, Value::from(own)),
            |core, number, found, point| {
                let hold = self.stream_hold(number, point.map(ReadPoint::hold_blocks));
                ValueStream::of_found(shared, core, number, found, hold)
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Database, Isolation};

    /// So many bytes, and then the end, once: as a terminal, which goes on behind it.
    struct EndsOnce {
        left: usize,
        has_ended: bool,
    }

    impl Read for EndsOnce {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!buffer.is_empty());
            let count = self.left.min(buffer.len());
            if count == 0 && std::mem::replace(&mut self.has_ended, true) {
                return Err(io::Error::other("it was read on behind its end"));
            }
            buffer[..count].fill(7);
            self.left -= count;
            Ok(count)
        }
    }

    #[test]
    fn a_reader_that_has_ended_is_not_asked_again() {
        let builder = Database::builder().merge_threads(0).memory_budget(4 << 20);
        let database = builder.open_in_memory().unwrap();
        let keyspace = database.keyspace("a").unwrap();
        let mut transaction = database.begin(Isolation::Snapshot).unwrap();
        let first = OVERFLOW_AT_COMMIT_BYTES;
        let borders = [0, first, first + CHUNK_BYTES, first + 2 * CHUNK_BYTES];
        let lengths = borders.iter().flat_map(|border| [*border, border + 1, border + 70_000]);
        for length in lengths.chain([first - 1, first + CHUNK_BYTES - 1]) {
            let reader = || EndsOnce { left: length, has_ended: false };
            assert_eq!(keyspace.put_stream("k", reader()).unwrap(), length as u64);
            assert_eq!(transaction.put_stream(&keyspace, "t", reader()).unwrap(), length as u64);
        }
    }
}
