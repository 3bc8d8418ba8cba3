use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::codec::Reader;
use crate::error::Error;
use crate::page::{Codec, Counted, NodeRef};
use crate::segment::descriptor::{Bounds, KeyspaceShare, TreeRoot};
use crate::segment::key_range::{KeyRange, KeyRanges};
use crate::segment::segment_filter::SegmentFilter;
use crate::state::catalogue::KeyspaceSettings;
use crate::types::{COUNT_MAX, PageNumber};

const PAGES: u64 = 1 << 30;

fn node() -> impl Strategy<Value = NodeRef> {
    (0..PAGES - 300, 1u32..300, any::<u32>(), any::<u32>()).prop_map(
        |(page, pages, stamp, checksum)| NodeRef { page: PageNumber(page), pages, stamp, checksum },
    )
}

fn tree() -> impl Strategy<Value = TreeRoot> {
    (node(), 0u8..9, any::<u64>(), 0u64..1 << 50, 0u64..1 << 40).prop_map(
        |(reference, height, birth, entries, pages)| TreeRoot {
            reference,
            height,
            birth: Epoch(birth),
            entries,
            tombstones: entries / 3,
            pages,
            leaves: pages / 2,
        },
    )
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..6)
}

fn bounds() -> impl Strategy<Value = Bounds> {
    (key(), key(), any::<bool>()).prop_map(|(a, b, open_end)| Bounds {
        least: a.clone().min(b.clone()),
        greatest: a.max(b),
        open_end,
    })
}

fn promoted() -> impl Strategy<Value = Arc<KeyRanges>> {
    vec((key(), option::of(key())), 0..5).prop_map(|ranges| {
        let range = |(start, end)| KeyRange { start, end };
        let ranges: KeyRanges = ranges.into_iter().map(range).collect();
        let is_whole = ranges.covers(&KeyRange::all());
        Arc::new(if is_whole { KeyRanges::new() } else { ranges })
    })
}

fn shares() -> impl Strategy<Value = Vec<KeyspaceShare>> {
    btree_map(0u32..50, (0u64..1 << 40, 0u64..1 << 50), 1..4).prop_map(|shares| {
        let share = |(keyspace, (entries, bytes))| KeyspaceShare {
            keyspace: KeyspaceNumber(keyspace),
            entries,
            bytes,
        };
        shares.into_iter().map(share).collect()
    })
}

fn segment(young: bool) -> impl Strategy<Value = Arc<Segment>> {
    let trees = prop_oneof![
        tree().prop_map(|points| (Some(points), None)),
        tree().prop_map(|ranges| (None, Some(ranges))),
        (tree(), tree()).prop_map(|(points, ranges)| (Some(points), Some(ranges))),
    ];
    let filter = (any::<u64>(), vec(node(), 0..3));
    let sequences = (1u64..1000, 0u64..1000);
    (0u64..1 << 40, trees, filter, option::of(bounds()), sequences, promoted(), shares()).prop_map(
        move |(
            number,
            (points, ranges),
            (seed, nodes),
            bounds,
            (first, more),
            promoted,
            shares,
        )| {
            let sequences = (SequenceNumber(first), SequenceNumber(first + more));
            Arc::new(Segment {
                number,
                points,
                ranges,
                filter: SegmentFilter::new(seed, nodes),
                bounds,
                sequences: young.then_some(sequences),
                promoted,
                keyspaces: Arc::new(Counted::new(if young { shares } else { Vec::new() })),
                counted: Counted::default(),
            })
        },
    )
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::Plain), (-128i32..128).prop_map(|level| Codec::Zstd { level })]
}

fn settings() -> impl Strategy<Value = KeyspaceSettings> {
    (codec(), codec(), any::<u8>()).prop_map(|(codec, value_codec, filter_bits)| KeyspaceSettings {
        codec,
        value_codec,
        filter_bits,
    })
}

fn catalogue() -> impl Strategy<Value = Catalogue> {
    let names = btree_set("[a-zé]{0,5}", 3);
    (names, vec((0u32..1000, settings(), any::<bool>()), 3)).prop_map(|(names, entries)| {
        let mut catalogue = Catalogue::default();
        for (name, (number, settings, dropped)) in names.into_iter().zip(entries) {
            let name = if dropped { String::new() } else { name };
            catalogue.insert(KeyspaceNumber(number), KeyspaceEntry { name, settings, dropped });
        }
        catalogue
    })
}

fn levels() -> impl Strategy<Value = Arc<Levels>> {
    let upper = vec(vec(segment(false), 0..3), 0..3);
    (upper, vec(segment(false), 0..2)).prop_map(|(mut levels, last)| {
        levels.push(last);
        Arc::new(Levels::new(levels))
    })
}

fn contents() -> impl Strategy<Value = Contents> {
    let cut =
        (0u64..1 << 40, 0u64..1 << 40, any::<u32>()).prop_map(|(sequence, position, chain)| Cut {
            sequence: SequenceNumber(sequence),
            position: LogPosition(position),
            chain,
        });
    let levels = btree_map((0u32..1000).prop_map(KeyspaceNumber), levels(), 0..3);
    (0u64..1 << 40, catalogue(), vec(segment(true), 0..4), levels, cut).prop_map(
        |(epoch, catalogue, young, levels, cut)| {
            let (epoch, catalogue) = (Epoch(epoch), Arc::new(catalogue));
            Contents { epoch, catalogue, young, levels, cut }
        },
    )
}

fn counters() -> impl Strategy<Value = Counters> {
    let limit = || (1u64 << 40)..u64::MAX;
    let exact = (1u64 << 40..1 << 41, 0u64..1 << 40, Just(1000u32), 1u64 << 40..1 << 41).prop_map(
        |(last_sequence, next_stamp, next_keyspace, next_segment)| ExactCounters {
            last_sequence,
            next_stamp,
            next_keyspace,
            next_segment,
        },
    );
    ((limit(), limit(), limit(), 1000u32.., limit()), option::of(exact)).prop_map(
        |((sequence, epoch_limit, stamp_limit, keyspace_limit, segment_limit), clean)| Counters {
            sequence_limit: sequence.max(1 << 41),
            epoch_limit,
            stamp_limit,
            keyspace_limit,
            segment_limit: segment_limit.max(1 << 41),
            clean,
        },
    )
}

fn manifest() -> impl Strategy<Value = Manifest> {
    let block = (0..PAGES - 300, 1u32..300)
        .prop_map(|(first, pages)| Block { first: PageNumber(first), pages });
    let region = (0u8..2, any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        |(home, stamp, checksum, free_pages)| RegionEntry { home, stamp, checksum, free_pages },
    );
    let log = (any::<u64>(), 0u64..1 << 40, vec(block, 0..4));
    (contents(), counters(), log, vec(region, 0..4), 0..=PAGES).prop_map(
        |(contents, counters, (durable, back, blocks), regions, file_pages)| {
            let first_position = LogPosition(contents.cut.position.0.saturating_sub(back));
            let log = LogSection { durable: LogPosition(durable), first_position, blocks };
            // A state that is cut before a section that may be absent is a state.
            Manifest { contents, counters, log, regions, file_pages, packed: Epoch(0) }
        },
    )
}

fn leaf_root(page: u64) -> TreeRoot {
    TreeRoot {
        reference: NodeRef { page: PageNumber(page), pages: 2, stamp: 7, checksum: 0x1234_5678 },
        height: 0,
        birth: Epoch(5),
        entries: 90,
        tombstones: 3,
        pages: 2,
        leaves: 1,
    }
}

fn young_sample() -> Segment {
    let share =
        |keyspace| KeyspaceShare { keyspace: KeyspaceNumber(keyspace), entries: 9, bytes: 99 };
    Segment {
        number: 3,
        points: Some(leaf_root(40)),
        ranges: Some(leaf_root(50)),
        filter: SegmentFilter::new(17, vec![leaf_root(60).reference]),
        bounds: Some(Bounds { least: b"aa".to_vec(), greatest: b"m".to_vec(), open_end: false }),
        sequences: Some((SequenceNumber(4), SequenceNumber(9))),
        promoted: Arc::new(KeyRanges::from_iter([
            KeyRange::new(*b"b", Some(b"c".to_vec())),
            KeyRange::new(*b"d", Some(b"e".to_vec())),
            KeyRange::new(*b"x", None),
        ])),
        keyspaces: Arc::new(Counted::new(vec![share(1), share(2)])),
        counted: Counted::default(),
    }
}

fn level_sample(number: u64) -> Segment {
    Segment {
        number,
        points: Some(leaf_root(70 + 10 * number)),
        ranges: None,
        filter: SegmentFilter::new(1, Vec::new()),
        bounds: Some(Bounds { least: b"a".to_vec(), greatest: b"".to_vec(), open_end: true }),
        sequences: None,
        promoted: Arc::default(),
        keyspaces: Arc::default(),
        counted: Counted::default(),
    }
}

/// One that has something of everything.
fn sample() -> Manifest {
    let mut catalogue = Catalogue::default();
    let settings = KeyspaceSettings {
        codec: Codec::Zstd { level: -3 },
        value_codec: Codec::Plain,
        filter_bits: 10,
    };
    for (number, name) in [(1, "one"), (2, "two"), (4, "")] {
        let entry = KeyspaceEntry { name: name.into(), settings, dropped: name.is_empty() };
        catalogue.insert(KeyspaceNumber(number), entry);
    }
    let levels = Levels::new(vec![
        vec![Arc::new(level_sample(5)), Arc::new(level_sample(4))],
        vec![Arc::new(level_sample(2))],
    ]);
    let cut = Cut { sequence: SequenceNumber(9), position: LogPosition(800), chain: 0xfeed };
    let region = RegionEntry { home: 1, stamp: 3, checksum: 9, free_pages: 100 };
    Manifest {
        contents: Contents {
            epoch: Epoch(12),
            catalogue: Arc::new(catalogue),
            young: vec![Arc::new(young_sample())],
            levels: BTreeMap::from([(KeyspaceNumber(1), Arc::new(levels))]),
            cut,
        },
        counters: Counters {
            sequence_limit: 1000,
            epoch_limit: 100,
            stamp_limit: 5000,
            keyspace_limit: 5,
            segment_limit: 64,
            clean: Some(ExactCounters {
                last_sequence: 11,
                next_stamp: 4000,
                next_keyspace: 5,
                next_segment: 6,
            }),
        },
        log: LogSection {
            durable: LogPosition(900),
            first_position: LogPosition(400),
            blocks: vec![Block::new(PageNumber(20), 4)],
        },
        regions: vec![region],
        file_pages: 200,
        packed: Epoch(0),
    }
}

fn problem_of(result: Result<Manifest>) -> String {
    match result {
        Err(Error::Corruption(corruption)) => {
            assert_eq!(corruption.structure, crate::error::Structure::State);
            corruption.detail
        }
        other => panic!("expected damage, found {other:?}"),
    }
}

/// The damage found in the sample after a change that no encoder may see.
#[track_caller]
fn refused(change: impl FnOnce(&mut Manifest), expected: &str) {
    let mut manifest = sample();
    change(&mut manifest);
    let detail = problem_of(decode(&encode_sections(&manifest), 200));
    assert!(detail.contains(expected), "{detail:?} does not say {expected:?}");
}

fn change_young(manifest: &mut Manifest, change: impl FnOnce(&mut Segment)) {
    change(Arc::make_mut(&mut manifest.contents.young[0]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn states_come_back_and_no_truncation_does(manifest in manifest(), at: prop::sample::Index) {
        let bytes = encode(&manifest);
        prop_assert_eq!(decode(&bytes, PAGES).unwrap(), manifest);
        prop_assert!(decode(&bytes[..at.index(bytes.len())], PAGES).is_err());
    }

    #[test]
    fn settings_come_back_and_what_follows_them_is_skipped(settings in settings()) {
        let mut bytes = encode_settings(&settings);
        for length in 0..bytes.len() {
            prop_assert!(decode_settings(&bytes[..length]).is_err());
        }
        bytes.extend([1, 2, 3]);
        prop_assert_eq!(decode_settings(&bytes).unwrap(), settings);
    }

    #[test]
    fn a_segment_alone_comes_back_and_the_reader_stands_behind_it(
        young in segment(true), deep in segment(false),
    ) {
        let mut bytes = Vec::new();
        encode_segment(&young, &mut bytes);
        encode_segment(&deep, &mut bytes);
        bytes.push(9);
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(&decode_segment(&mut reader, PAGES).unwrap(), &*young);
        prop_assert_eq!(&decode_segment(&mut reader, PAGES).unwrap(), &*deep);
        prop_assert_eq!(reader.rest(), &[9]);
    }

    #[test]
    fn any_bytes_are_errors_or_states(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, PAGES);
        let _ = decode_segment(&mut Reader::new(&bytes), PAGES);
        let _ = decode_settings(&bytes);
    }
}

#[test]
fn every_truncation_of_a_state_is_an_error() {
    let bytes = encode(&sample());
    assert_eq!(decode(&bytes, 200).unwrap(), sample());
    for length in 0..bytes.len() {
        problem_of(decode(&bytes[..length], 200));
    }
}

#[test]
fn every_flipped_bit_gives_an_error_or_another_state_that_comes_back() {
    let bytes = encode(&sample());
    let (mut errors, mut others, mut same) = (0, 0, 0);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match decode(&bytes, 200) {
            Err(_) => errors += 1,
            Ok(other) => {
                assert_eq!(decode(&encode(&other), 200).unwrap(), other);
                others += 1;
                same += usize::from(other == sample());
            }
        }
    }
    assert!(errors > 100 && others > 100, "{errors} errors, {others} other states");
    // A filter without nodes may be of kind 0 or 1: that of each of the three segments in levels.
    assert_eq!(same, 3);
}

#[test]
fn pages_must_lie_in_the_file() {
    let bytes = encode(&sample());
    assert!(problem_of(decode(&bytes, 199)).contains("file's length"));
    assert!(problem_of(decode(&bytes, 61)).contains("a filter node"));
    assert!(problem_of(decode(&bytes, 23)).contains("a block of the log"));
    refused(|m| m.log.blocks[0].pages = 0, "is out of range");
    refused(|m| m.log.blocks[0].first = PageNumber(u64::MAX), "block of the log");
    let beyond = |segment: &mut Segment| {
        segment.points.as_mut().unwrap().reference.page = PageNumber(199);
    };
    refused(|m| change_young(m, beyond), "segment 3: a root reaches from page 199 to 201");
    let mut far = sample();
    far.log.blocks[0].first = PageNumber(1 << 48);
    problem_of(decode(&encode_sections(&far), u64::MAX));
}

#[test]
fn keys_and_ranges_out_of_order_or_too_long_are_refused() {
    let bounds = |least: &[u8], greatest: &[u8]| {
        let (least, greatest) = (least.to_vec(), greatest.to_vec());
        Some(Bounds { least, greatest, open_end: false })
    };
    refused(|m| change_young(m, |s| s.bounds = bounds(b"b", b"a")), "before its least");
    let long = vec![7; 16_389];
    refused(|m| change_young(m, |s| s.bounds = bounds(b"", &long)), "too long for a key");
    let mut longest = sample();
    change_young(&mut longest, |s| s.bounds = bounds(b"", &long[1..]));
    assert_eq!(decode(&encode(&longest), 200).unwrap(), longest);

    // The sample's ranges are b..c, d..e and x.. without end: each is made to begin too early.
    let bytes = encode(&sample());
    let at = bytes.windows(5).position(|w| w == [1, 1, b'd', 1, b'e']).unwrap();
    for (offset, byte) in [(2, b'b'), (2, b'a'), (4, b'd'), (4, b'a'), (4, b'z')] {
        let mut bytes = bytes.clone();
        bytes[at + offset] = byte;
        assert!(problem_of(decode(&bytes, 200)).contains("promoted ranges are not in order"));
    }
}

#[test]
fn keyspaces_must_rise_and_have_names_of_their_own() {
    let bytes = encode(&sample());
    let at = bytes.windows(4).position(|w| w == [3, b't', b'w', b'o']).unwrap();
    let broken = |offset: usize, with: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at + offset..][..with.len()].copy_from_slice(with);
        problem_of(decode(&bytes, 200))
    };
    assert!(broken(1, b"one").contains("another's too"));
    assert!(broken(1, &[0xff]).contains("not UTF-8"));
    assert!(broken(0, &[3, b'o', b'n', b'e']).contains("another's too"));
    let number = at.checked_sub(1).unwrap();
    assert_eq!(bytes[number], 2);
    for low in [0, 1] {
        let mut bytes = bytes.clone();
        bytes[number] = low;
        assert!(problem_of(decode(&bytes, 200)).contains("follows keyspace 1"));
    }
    refused(|m| change_young(m, |s| Arc::make_mut(&mut s.keyspaces).swap(0, 1)), "follows");
    let many = |s: &mut Segment| Arc::make_mut(&mut s.keyspaces)[1].keyspace = KeyspaceNumber::MANY;
    refused(|m| change_young(m, many), "is no keyspace's number");
    refused(|m| m.packed = Epoch(13), "packed up to a later state");
    refused(
        |m| {
            let catalogue = Arc::make_mut(&mut m.contents.catalogue);
            let one = catalogue.get(KeyspaceNumber(1)).unwrap().clone();
            catalogue.insert(KeyspaceNumber(1), KeyspaceEntry { dropped: true, ..one });
        },
        "the dropped keyspace 1 has a name",
    );
}

#[test]
fn numbers_that_would_be_given_again_are_refused() {
    refused(|m| m.counters.epoch_limit = 11, "epoch 12");
    refused(|m| m.counters.sequence_limit = 8, "sequence number 9");
    let after_crash = |change: fn(&mut Counters)| {
        move |m: &mut Manifest| {
            m.counters.clean = None;
            change(&mut m.counters);
        }
    };
    refused(after_crash(|c| c.keyspace_limit = 4), "keyspace 4 is not below 4");
    refused(after_crash(|c| c.segment_limit = 5), "segment 5 is not below 5");
    let exact = |change: fn(&mut ExactCounters)| {
        move |m: &mut Manifest| change(m.counters.clean.as_mut().unwrap())
    };
    refused(exact(|exact| exact.last_sequence = 1001), "last sequence number 1001");
    refused(exact(|exact| exact.last_sequence = 8), "limit 8");
    refused(exact(|exact| exact.next_stamp = 5001), "next stamp 5001");
    refused(exact(|exact| exact.next_keyspace = 6), "next keyspace 6");
    refused(exact(|exact| exact.next_segment = 65), "next segment 65");
    refused(exact(|exact| exact.next_keyspace = 4), "keyspace 4 is not below 4");
    refused(exact(|exact| exact.next_segment = 5), "segment 5 is not below 5");
}

/// The next number of each overflowed, in the install, the durable state or the record after it.
#[test]
fn counters_that_could_overflow_are_damage() {
    sample().check_counters(COUNT_MAX).unwrap();
    let counters: [fn(&mut Manifest) -> &mut u64; 6] = [
        |m| &mut m.counters.sequence_limit,
        |m| &mut m.counters.epoch_limit,
        |m| &mut m.counters.stamp_limit,
        |m| &mut m.counters.segment_limit,
        |m| &mut m.contents.cut.position.0,
        |m| &mut m.log.durable.0,
    ];
    for counter in counters {
        let mut manifest = sample();
        for most in [COUNT_MAX / 2, COUNT_MAX] {
            *counter(&mut manifest) = most;
            manifest.check_counters(most).unwrap();
            *counter(&mut manifest) += 1;
            let refused = manifest.check_counters(most).map(|()| manifest.clone());
            assert!(problem_of(refused).contains("have reached"));
        }
    }
}

#[test]
fn sums_that_nobody_could_add_are_refused() {
    let points = |change: fn(&mut TreeRoot)| {
        move |m: &mut Manifest| change_young(m, |s| change(s.points.as_mut().unwrap()))
    };
    refused(points(|tree| tree.entries = u64::MAX), "beyond all files");
    refused(points(|tree| tree.pages = u64::MAX), "beyond all files");
    refused(points(|tree| tree.tombstones = 91), "91 tombstones of 90 entries");
    refused(points(|tree| tree.leaves = 3), "3 leaves of 2 pages");
    let share = |s: &mut Segment| Arc::make_mut(&mut s.keyspaces)[0].bytes = 1 << 63;
    refused(|m| change_young(m, share), "beyond all files");
}

#[test]
fn segments_must_be_where_they_belong() {
    refused(|m| change_young(m, |s| s.sequences = None), "no sequence numbers");
    let backwards = Some((SequenceNumber(5), SequenceNumber(4)));
    refused(|m| change_young(m, |s| s.sequences = backwards), "sequence numbers are 5 to 4");
    refused(|m| change_young(m, |s| (s.points, s.ranges) = (None, None)), "it has neither tree");
    let levels = |change: fn(&mut Vec<Vec<Arc<Segment>>>)| {
        move |m: &mut Manifest| {
            let levels = m.contents.levels.get_mut(&KeyspaceNumber(1)).unwrap();
            change(&mut Arc::make_mut(levels).levels);
        }
    };
    let young = |levels: &mut Vec<Vec<_>>| levels[0].push(Arc::new(young_sample()));
    refused(levels(young), "keyspace 1: segment 3 is a young one");
    refused(levels(|levels| levels.truncate(1)), "more than one segment");
    refused(levels(|levels| levels.resize(65, Vec::new())), "65 levels are too many");
    let young = Arc::new(young_sample());
    let crowd = std::iter::repeat_n(young, YOUNG_COUNT_MAX + 1).collect();
    refused(|m| m.contents.young = crowd, "4097 young segments are too many");
    refused(|m| m.log.first_position = LogPosition(801), "its cut is 800");
}

/// Segments that no merge would ever take away, so that commits wait for ever; that two would free;
/// that are told apart by nothing; or more than anybody looks through.
#[test]
fn segments_that_no_writer_leaves_are_refused() {
    refused(|m| change_young(m, |s| s.keyspaces = Arc::default()), "segment 3 is of no keyspace");
    let all = || Arc::new(KeyRanges::from_iter([KeyRange::all()]));
    refused(|m| change_young(m, |s| s.promoted = all()), "segment 3: nothing is left of it");
    let level = |change: fn(&mut Levels)| {
        move |m: &mut Manifest| {
            change(Arc::make_mut(m.contents.levels.get_mut(&KeyspaceNumber(1)).unwrap()));
        }
    };
    let promoted = |levels: &mut Levels| {
        let all = Arc::new(KeyRanges::from_iter([KeyRange::all()]));
        Arc::make_mut(&mut levels.levels[1][0]).promoted = all;
    };
    refused(level(promoted), "segment 2: nothing is left of it");
    let same_number = |levels: &mut Levels| Arc::make_mut(&mut levels.levels[1][0]).number = 3;
    refused(level(same_number), "two segments have the number 3");
    let same_root = |levels: &mut Levels| {
        Arc::make_mut(&mut levels.levels[1][0]).points = young_sample().ranges;
    };
    refused(level(same_root), "segment 2: its root 50 is another's too");
    let own_root = |s: &mut Segment| s.ranges = s.points.clone();
    refused(|m| change_young(m, own_root), "segment 3: its root 40 is another's too");
    let crowd = |levels: &mut Levels| {
        levels.levels[0] = vec![levels.levels[1][0].clone(); LEVELS_SEGMENT_COUNT_MAX];
    };
    refused(level(crowd), "4097 segments are too many");
}

/// A filter is read whole, node after node: one that names a node again and again was as long as it
/// liked.
#[test]
fn a_filter_of_more_pages_than_the_file_has_is_refused() {
    let repeat = |m: &mut Manifest, count: usize| {
        change_young(m, |s| s.filter.nodes = vec![s.filter.nodes[0]; count]);
    };
    let mut most = sample();
    repeat(&mut most, 100);
    assert_eq!(decode(&encode(&most), 200).unwrap(), most);
    refused(|m| repeat(m, 101), "a filter of nodes that lie side by side");
}

#[test]
fn unknown_sections_are_skipped_from_128_on_only() {
    let with = |tag: u8| {
        let mut bytes = encode(&sample());
        bytes.extend([tag, 2, 0xaa, 0xbb]);
        decode(&bytes, 200)
    };
    assert_eq!(with(128).unwrap(), sample());
    assert_eq!(with(255).unwrap(), sample());
    for tag in [7, 10, 127] {
        assert!(problem_of(with(tag)).contains("its tag is unknown"));
    }
    for tag in [0, 1, 6] {
        assert!(problem_of(with(tag)).contains("follows section 6"));
    }
    let mut inner = encode(&sample());
    inner.insert(0, 0);
    problem_of(decode(&inner, 200));
}

#[test]
fn how_far_leaves_are_packed_is_a_section_of_its_own() {
    let packed = Manifest { packed: Epoch(10), ..sample() };
    let (with, without) = (encode(&packed), encode(&sample()));
    assert_eq!(with.strip_prefix(without.as_slice()).unwrap(), [129, 1, 10]);
    assert_eq!(decode(&with, 200).unwrap(), packed);
    problem_of(decode(&[without, vec![129, 2, 10, 0]].concat(), 200));
}

#[test]
fn every_known_section_must_be_there_and_end_where_it_says() {
    let bytes = encode(&sample());
    let mut reader = Reader::new(&bytes);
    let mut sections = Vec::new();
    while reader.remaining() > 0 {
        sections.push((reader.u8().unwrap(), reader.length_prefixed().unwrap()));
    }
    assert_eq!(sections.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for changed in 1..=6 {
        let (mut without, mut longer) = (Vec::new(), Vec::new());
        for (tag, content) in &sections {
            let more: &[u8] = if *tag == changed { &[0] } else { &[] };
            put_section(&mut longer, *tag, |out| out.extend([content, more].concat()));
            if *tag != changed {
                put_section(&mut without, *tag, |out| out.extend_from_slice(content));
            }
        }
        assert!(problem_of(decode(&without, 200)).contains("has no section of"));
        assert!(problem_of(decode(&longer, 200)).contains("follow"));
    }
}

#[test]
fn counts_that_cannot_be_are_refused_before_anything_is_allotted() {
    // Each is a section that consists of one enormous count.
    for (tag, name) in [(3, "keyspaces"), (4, "segments"), (5, "keyspaces with levels")] {
        let mut bytes = Vec::new();
        put_section(&mut bytes, tag, |out| put_varint(out, u64::MAX >> 1));
        let detail = problem_of(decode(&bytes, 200));
        assert!(detail.contains(&format!("the number of {name}")), "{detail}");
    }
}

#[test]
fn unknown_codecs_and_flags_are_refused() {
    assert!(decode_settings(&[2, 0, 10, 0, 0]).is_err());
    assert!(decode_settings(&[0, 1, 10, 0, 0]).is_err());
    assert!(decode_settings(&[0, 0, 10, 1, 0xfd]).is_ok());
    let mut bytes = Vec::new();
    encode_segment(&young_sample(), &mut bytes);
    assert_eq!(bytes[1], 7);
    for flags in [0x17, 0x87, 0x0b] {
        bytes[1] = flags;
        assert!(decode_segment(&mut Reader::new(&bytes), 200).is_err());
    }
}
