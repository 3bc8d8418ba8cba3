//! Tests of the whole log, over a storage that knows what a power cut can take away.

mod claims;
mod damage;
mod durability;
mod group;
mod model;
pub(super) mod storage;

use crate::error::Result;
use crate::page::Block;
use crate::sync::Arc;
use crate::types::{Epoch, LogPosition, PageNumber, SequenceNumber};

use super::operation::CommitEncoder;
use super::reader::{ReplayEnd, ReplayStart, Visit, replay};
use super::record::{NamedBlocks, RecordKind};
use super::ring::{Ring, RingList};
use super::stream::{BlockStream, prepare_blocks};
use super::writer::{AppendError, Appended, LogStart, LogWriter};

use storage::TestStorage;

const PAGE: u32 = 1024;
const SEED: u32 = 0x5eed;

/// A block of `pages` pages from `first` on.
fn block(first: u64, pages: u32) -> Block {
    Block { first: PageNumber(first), pages }
}

fn stream_over(storage: &Arc<TestStorage>, usable: u32) -> BlockStream {
    BlockStream::new(Arc::clone(storage) as Arc<dyn crate::storage::Storage>, PAGE, usable)
}

/// What a state says of a log that has no records.
fn empty_image(blocks: &[Block]) -> ReplayStart {
    ReplayStart {
        generation: 1,
        list: RingList { start: LogPosition(0), blocks: blocks.to_vec() },
        cut: LogPosition(0),
        chain: 0,
        durable: LogPosition(0),
        sequence: SequenceNumber(0),
        seed: SEED,
    }
}

/// A fresh log over `blocks` whose first state is recorded.
fn new_log(blocks: &[Block], usable: u32) -> (Arc<TestStorage>, ReplayStart, LogWriter) {
    let storage = TestStorage::empty();
    let stream = stream_over(&storage, usable);
    prepare_blocks(&stream, blocks).unwrap();
    stream.sync_data().unwrap();
    let image = empty_image(blocks);
    let ring = Ring::new(&image.list, u64::from(usable)).unwrap();
    let writer = LogWriter::open(stream, ring, SEED, LogStart::empty(LogPosition(0)));
    writer.record_state(Epoch(1), 1).unwrap();
    (storage, image, writer)
}

type Commits = Vec<(u64, Vec<u8>)>;

/// What replay gives: the commits, and where it ended.
fn replayed(
    storage: &Arc<TestStorage>,
    image: &ReplayStart,
    usable: u32,
) -> Result<(Commits, ReplayEnd)> {
    let mut commits = Vec::new();
    let end = replay(&stream_over(storage, usable), image, &mut |record| {
        if record.kind.is_commit() {
            commits.push((record.sequence.0, record.payload.to_vec()));
        }
        Ok(Visit::Continue)
    })?;
    Ok((commits, end))
}

/// The sequence numbers that a replay shows.
fn sequences(storage: &Arc<TestStorage>, image: &ReplayStart) -> Vec<u64> {
    let (commits, _) = replayed(storage, image, PAGE).unwrap();
    commits.into_iter().map(|(sequence, _)| sequence).collect()
}

/// Opens a log as a database does after the death of its process or a power cut.
fn reopen(storage: &Arc<TestStorage>, image: &ReplayStart, usable: u32) -> LogWriter {
    let (_, end) = replayed(storage, image, usable).unwrap();
    let recorded = end.state_is_recorded;
    let ring = Ring::new(&image.list, u64::from(usable)).unwrap();
    let start = LogStart::after_replay(end);
    let writer = LogWriter::open(stream_over(storage, usable), ring, SEED, start);
    writer.make_tail_durable().unwrap();
    if !recorded {
        writer.record_state(Epoch(image.generation), image.generation).unwrap();
    }
    writer
}

/// A commit of one put whose value has `size` bytes.
fn payload(sequence: u64, size: usize) -> Vec<u8> {
    let mut encoder = CommitEncoder::new();
    let value = (0..size).map(|i| (sequence as usize * 31 + i) as u8).collect::<Vec<_>>();
    encoder.put(crate::types::KeyspaceNumber(7), &sequence.to_be_bytes(), &value);
    [&encoder.head(1_000 + sequence)[..], encoder.encoded_operations()].concat()
}

fn try_commit(
    writer: &LogWriter,
    sequence: u64,
    size: usize,
) -> std::result::Result<Appended, AppendError> {
    let payload = payload(sequence, size);
    let (head, rest) = payload.split_at(8);
    writer.append(RecordKind::Commit, SequenceNumber(sequence), NamedBlocks::None, &[head, rest])
}

fn commit(writer: &LogWriter, sequence: u64, size: usize) -> Appended {
    try_commit(writer, sequence, size).unwrap()
}
