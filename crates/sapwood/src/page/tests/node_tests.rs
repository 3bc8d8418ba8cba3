//! Nodes and streams as they lie in pages.

use proptest::prelude::*;

use crate::error::Error;
use crate::types::{KeyspaceNumber, PageNumber};

use super::super::node_image::{
    ContentLengths, append_node, choose_stored, node_checksum, verify_node,
};
use super::super::stream::{read_stream, stream_capacity, write_stream};
use super::*;

fn node_with(layout: &Layout, codec: Codec, content: &[u8]) -> (NodeRef, Vec<u8>) {
    let mut scratch = Vec::new();
    let codec_id = choose_stored(layout, codec, content, &mut scratch, None).unwrap();
    let stored = if codec_id == 0 { content } else { &scratch };
    let lengths = ContentLengths { stored_bytes: stored.len(), raw_bytes: content.len() };
    let header = leaf_spec(codec).header(PageNumber(20), 99, codec_id, lengths);
    let mut image = Vec::new();
    let reference = append_node(layout, &header, stored, &mut image);
    assert_eq!(image.len(), layout.bytes_of(reference.pages));
    (reference, image)
}

proptest! {
    #[test]
    fn contents_come_back_whatever_the_reserved_bytes(
        length in 0usize..6000, seed: u32, reserved in 0u16..3, zstd: bool, repetitive: bool,
    ) {
        let layout = tiny_layout(reserved * 64);
        let content = if repetitive { vec![seed as u8; length] } else { noise(length, seed) };
        let codec = if zstd { Codec::Zstd { level: 1 } } else { Codec::Plain };
        let (reference, image) = node_with(&layout, codec, &content);
        let frame = verify_node(&layout, &reference, NodeKind::Leaf, image).unwrap();
        prop_assert_eq!(frame.content(), &content[..]);
        prop_assert_eq!(frame.reference(), reference);
        prop_assert_eq!(frame.header().keyspace, KeyspaceNumber(7));
        prop_assert_eq!(frame.header().flags & 0xf0, FLAG_NUMBERS);
        prop_assert!(frame.weight_bytes() >= content.len());
    }

    #[test]
    fn streams_come_back_over_several_blocks(
        reserved in 0u16..3, offset in 0u64..3000, length in 0usize..7000, seed: u32, sync: bool,
    ) {
        let layout = tiny_layout(reserved * 64);
        let storage = TestStorage::default();
        let blocks = [(30u64, 3u32), (12, 1), (40, 7)];
        let blocks = blocks.map(|(first, pages)| Block::new(PageNumber(first), pages));
        let capacity = stream_capacity(&layout, &blocks);
        prop_assert_eq!(capacity, 11 * layout.usable_bytes() as u64);
        storage.bytes.lock().resize(64 << 10, 0);
        let bytes = noise(length.min((capacity - offset) as usize), seed);
        write_stream(&layout, &storage, &blocks, offset, &bytes, sync).unwrap();
        let mut all = vec![0; capacity as usize];
        read_stream(&layout, &storage, &blocks, 0, &mut all).unwrap();
        let mut expected = vec![0; capacity as usize];
        expected[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        prop_assert_eq!(&all, &expected);
        let mut part = vec![0; bytes.len()];
        read_stream(&layout, &storage, &blocks, offset, &mut part).unwrap();
        prop_assert_eq!(part, bytes);
        let file = storage.bytes.lock();
        for (index, page) in file.chunks(1024).enumerate() {
            let inside = blocks.iter().any(|block| block.contains(PageNumber(index as u64)));
            let zero_from = if inside { layout.usable_bytes() } else { 0 };
            prop_assert!(page[zero_from..].iter().all(|&byte| byte == 0));
        }
        prop_assert!(read_stream(&layout, &storage, &blocks, capacity, &mut [0]).is_err());
    }
}

#[test]
fn every_flipped_bit_of_a_node_is_seen() {
    for (reserved, codec) in [(0, Codec::Plain), (64, Codec::Plain), (64, Codec::Zstd { level: 1 })]
    {
        let layout = tiny_layout(reserved);
        let mut content = vec![5; 1000];
        content.extend(noise(1000, 3));
        let (reference, image) = node_with(&layout, codec, &content);
        assert!(reference.pages > 1);
        for bit in 0..image.len() * 8 {
            let mut damaged = image.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = verify_node(&layout, &reference, NodeKind::Leaf, damaged);
            let Err(Error::Corruption(corruption)) = result else {
                panic!("bit {bit} of {} was not seen", image.len() * 8)
            };
            assert_eq!(corruption.page, Some(PageNumber(20)));
        }
    }
}

#[test]
fn every_truncated_node_is_an_error() {
    let layout = tiny_layout(64);
    let (reference, image) = node_with(&layout, Codec::Plain, &noise(2500, 1));
    for length in 0..image.len() {
        let cut = image[..length].to_vec();
        assert!(verify_node(&layout, &reference, NodeKind::Leaf, cut).is_err(), "{length}");
    }
}

#[test]
fn lost_stale_and_misdirected_writes_are_seen() {
    let layout = tiny_layout(0);
    let (reference, image) = node_with(&layout, Codec::Plain, &[1; 500]);
    let verify = |reference: &NodeRef, kind, image: &[u8]| {
        verify_node(&layout, reference, kind, image.to_vec()).map(|_| ())
    };
    assert!(verify(&reference, NodeKind::Leaf, &image).is_ok());
    assert!(verify(&reference, NodeKind::FilterPiece, &image).is_err());
    assert!(verify(&reference, NodeKind::Leaf, &[0; 1024]).is_err());
    let stale = NodeRef { stamp: 98, ..reference };
    assert!(verify(&stale, NodeKind::Leaf, &image).is_err());
    let other = NodeRef { checksum: !reference.checksum, ..reference };
    assert!(verify(&other, NodeKind::Leaf, &image).is_err());
    let misdirected = NodeRef { page: PageNumber(21), ..reference };
    assert!(verify(&misdirected, NodeKind::Leaf, &image).is_err());
    let another_file = Layout::new(1024, 0, 64 << 10, [9; 16]).unwrap();
    assert!(verify_node(&another_file, &reference, NodeKind::Leaf, image).is_err());
}

#[test]
fn the_checksum_is_the_formats() {
    let layout = tiny_layout(0);
    let (reference, image) = node_with(&layout, Codec::Plain, b"content");
    let mut covered = image[..32 + 7].to_vec();
    covered[4..8].fill(0);
    let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(&IDENTITY));
    hasher.update(&covered);
    assert_eq!(reference.checksum, hasher.finalize());
    assert_eq!(image[4..8], reference.checksum.to_le_bytes());
    assert_eq!(image[..4], [1, 0, 0x10, 0]);
    assert_eq!(
        image[8..32],
        [20, 0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0, 7, 0, 0, 0]
    );
    let (header, checksum) = NodeHeader::decode(&image).unwrap();
    assert_eq!(node_checksum(&layout, &header, b"content"), checksum);
}

/// Lengths that no writer makes, under a right checksum: a crafted file.
#[test]
fn lengths_that_do_not_fit_are_errors_even_under_a_right_checksum() {
    let layout = tiny_layout(0);
    for (codec_id, stored_bytes, raw_bytes) in [
        (0, 10, 11),
        (1, 10, u32::MAX),
        (1, 10, 100),
        (2, 10, 10),
        (0, u32::MAX, u32::MAX),
        (3, 0, 0),
    ] {
        let header = NodeHeader {
            kind: NodeKind::Leaf,
            height: 0,
            flags: codec_id,
            page: PageNumber(20),
            stamp: 1,
            keyspace: KeyspaceNumber(1),
            stored_bytes,
            raw_bytes,
        };
        let stored = &[3; 10][..(stored_bytes as usize).min(10)];
        let checksum = node_checksum(&layout, &header, stored);
        let mut image = header.encode(checksum).to_vec();
        image.extend_from_slice(stored);
        image.resize(1024, 0);
        let reference = NodeRef { page: PageNumber(20), pages: 1, stamp: 1, checksum };
        let result = verify_node(&layout, &reference, NodeKind::Leaf, image);
        let built = codec_id != 1 || cfg!(feature = "zstd");
        let seen = result.is_err_and(|error| error.is_corruption() == built || !built);
        assert!(seen, "{codec_id} {raw_bytes}");
    }
}

#[cfg(feature = "zstd")]
#[test]
fn content_is_compressed_only_when_that_saves_a_page() {
    let layout = tiny_layout(0);
    let choose = |content: &[u8]| {
        choose_stored(&layout, Codec::Zstd { level: 1 }, content, &mut Vec::new(), None).unwrap()
    };
    assert_eq!(choose(&[1; 900]), 0);
    assert_eq!(choose(&[1; 1200]), compress::CODEC_ZSTD);
    assert_eq!(choose(&noise(5000, 1)), 0);
}

#[cfg(not(feature = "zstd"))]
#[test]
fn a_build_without_the_codec_says_so() {
    let layout = tiny_layout(0);
    let lengths = ContentLengths { stored_bytes: 9, raw_bytes: 2000 };
    let header = leaf_spec(Codec::Plain).header(PageNumber(20), 1, compress::CODEC_ZSTD, lengths);
    let mut image = Vec::new();
    let reference = append_node(&layout, &header, &[1; 9], &mut image);
    let error = verify_node(&layout, &reference, NodeKind::Leaf, image).unwrap_err();
    assert!(error.to_string().contains("feature `zstd`"), "{error}");
}
