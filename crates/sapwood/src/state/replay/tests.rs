//! Records that no writer writes, with checksums that are right.

use super::*;
use crate::log::operation::CommitEncoder;
use crate::page::{Codec, Counted, Layout, MemoryBudget, NodeRef, PageOptions};
use crate::segment::descriptor::{KeyspaceShare, Segment, TreeRoot};
use crate::segment::overflow::write_value;
use crate::segment::segment_filter::SegmentFilter;
use crate::state::catalogue::{KeyspaceEntry, KeyspaceSettings};
use crate::state::manifest::encode_settings;
use crate::storage::MemoryStorage;
use crate::types::{PageNumber, SequenceNumber};

struct Log {
    pages: Arc<PageManager>,
    pool: Arc<ChunkPool>,
    manifest: Manifest,
}

/// A log behind a state of the keyspaces 1, "one", and 2, "two", and a dropped one, 3.
fn log() -> Log {
    let layout = Layout::new(1024, 8, 1024 * 1024, [9; 16]).unwrap();
    let options = PageOptions {
        storage: Arc::new(MemoryStorage::new()),
        layout,
        budget: Arc::new(MemoryBudget::new(8 << 20)),
        max_file_bytes: None,
    };
    let mut catalogue = Catalogue::default();
    for (number, name) in [(1, "one"), (2, "two"), (3, "")] {
        let settings = KeyspaceSettings::default();
        let entry = KeyspaceEntry { name: name.into(), settings, dropped: name.is_empty() };
        catalogue.insert(KeyspaceNumber(number), entry);
    }
    let mut manifest = Manifest::default();
    manifest.contents.catalogue = Arc::new(catalogue);
    manifest.counters.segment_limit = 50;
    Log {
        pages: PageManager::create(options, 1 << 20).unwrap(),
        pool: Arc::new(ChunkPool::new(1 << 20)),
        manifest,
    }
}

impl Log {
    /// What replay says of commits, one after the other.
    fn replay(&self, commits: &[(RecordKind, Vec<u8>)]) -> Result<()> {
        let options = Options::default();
        let mut replayed = Replayed::new(&self.pages, &self.pool, &options, &self.manifest);
        for ((kind, payload), number) in commits.iter().zip(1..) {
            let record = Record {
                position: LogPosition(100 * number),
                end: LogPosition(100 * number + 100),
                crc: 0,
                kind: *kind,
                blocks_on_disk: *kind == RecordKind::CommitByReference,
                durable: LogPosition(0),
                sequence: SequenceNumber(number),
                payload,
            };
            assert_eq!(replayed.visit(&record)?, Visit::Continue);
        }
        Ok(())
    }

    #[track_caller]
    fn refuses(&self, commits: &[(RecordKind, Vec<u8>)], expected: &str) {
        match self.replay(commits) {
            Err(Error::Corruption(damage)) => {
                assert_eq!(damage.structure, Structure::Log);
                assert!(damage.detail.contains(expected), "{}", damage.detail);
            }
            other => panic!("expected damage, found {other:?}"),
        }
    }
}

fn commit(fill: impl FnOnce(&mut CommitEncoder)) -> (RecordKind, Vec<u8>) {
    let mut encoder = CommitEncoder::new();
    fill(&mut encoder);
    let mut payload = encoder.head(0);
    payload.extend_from_slice(encoder.encoded_operations());
    (RecordKind::Commit, payload)
}

fn create(number: u32, name: &str) -> (RecordKind, Vec<u8>) {
    let options = encode_settings(&KeyspaceSettings::default());
    commit(|encoder| encoder.create_keyspace(KeyspaceNumber(number), name, &options))
}

fn rename(number: u32, name: &str) -> (RecordKind, Vec<u8>) {
    commit(|encoder| encoder.rename_keyspace(KeyspaceNumber(number), name))
}

fn drop_keyspace(number: u32) -> (RecordKind, Vec<u8>) {
    commit(|encoder| encoder.drop_keyspace(KeyspaceNumber(number)))
}

/// They went into the catalogue as they came, and the state that was made next could not be read.
#[test]
fn changes_that_give_a_number_or_a_name_to_two_keyspaces_are_damage() {
    let log = log();
    log.replay(&[
        drop_keyspace(1),
        create(4, "one"),
        rename(2, "2"),
        create(6, "two"),
        rename(6, "two"),
        // Of what is gone nothing is said.
        rename(1, "two"),
    ])
    .unwrap();
    for commits in [
        vec![create(4, "one")],
        vec![create(2, "three")],
        vec![create(3, "of a dropped one")],
        vec![create(5, "five"), drop_keyspace(5), create(5, "again")],
        vec![rename(1, "two")],
        vec![create(4, "four"), rename(2, "four")],
        vec![rename(2, "2"), rename(1, "one"), create(4, "2")],
    ] {
        log.refuses(&commits, "the number or name of another");
    }
}

/// Each was read, and its checksums looked at, before it was seen that its blocks are in use.
#[test]
fn a_value_that_a_commit_names_twice_is_damage_before_it_is_read() {
    let log = log();
    let written = write_value(&log.pages, KeyspaceNumber(1), Codec::Plain, &[7; 5000]).unwrap();
    let mut reference = Vec::new();
    written.encode(&mut reference);
    // As a writer that stopped left it: the free map does not know the value.
    log.pages.write_unwritten().unwrap();
    written.blocks.iter().for_each(|block| log.pages.allocator().free(*block));
    let put = |keys: &[&[u8]]| {
        commit(|encoder| {
            for key in keys {
                encoder.put_overflow(KeyspaceNumber(1), key, &reference);
            }
        })
    };
    log.refuses(&[put(&[b"a", b"b"])], "names some of 5 pages twice");
    log.replay(&[put(&[b"a"])]).unwrap();
}

fn by_reference(numbers: impl Iterator<Item = u64>) -> (RecordKind, Vec<u8>) {
    let root = |number| TreeRoot {
        reference: NodeRef { page: PageNumber(1), pages: 1, stamp: 1, checksum: 1 },
        height: 0,
        birth: Epoch(0),
        entries: number,
        tombstones: 0,
        pages: 1,
        leaves: 1,
    };
    let named = |number| {
        let share = KeyspaceShare { keyspace: KeyspaceNumber(1), entries: 1, bytes: 1 };
        Arc::new(Segment {
            number,
            points: Some(root(number)),
            ranges: None,
            filter: SegmentFilter::new(0, Vec::new()),
            bounds: None,
            sequences: None,
            promoted: Arc::default(),
            keyspaces: Arc::new(Counted::new(vec![share])),
            counted: Counted::default(),
        })
    };
    let segments: Vec<_> = numbers.map(named).collect();
    (RecordKind::CommitByReference, by_reference::encode(0, &segments))
}

/// So many found no place in any state, and the first write after the open waited for ever.
#[test]
fn a_commit_that_names_too_many_segments_is_damage() {
    let log = log();
    let most = by_reference::SEGMENTS_MAX as u64;
    log.refuses(&[by_reference(1..most + 2)], "names too many segments");
}

/// Merges tell segments apart by their numbers.
#[test]
fn a_commit_that_names_a_segment_that_is_not_new_is_damage() {
    let log = log();
    log.refuses(&[by_reference([7, 7].into_iter())], "names segment 7, which is not new");
    log.refuses(&[by_reference([50].into_iter())], "names segment 50, which is not new");
}
