use proptest::prelude::*;

use super::zstd_codec::Contexts;
use super::*;
use crate::page::MemoryPart;

fn compressed(level: i32, raw: &[u8], out: &mut Vec<u8>) -> bool {
    compress(Codec::Zstd { level }, raw, out, None).unwrap()
}

fn decompressed(
    stored: &[u8],
    raw_bytes: usize,
) -> std::result::Result<Vec<u8>, DecompressProblem> {
    decompress(CODEC_ZSTD, stored, raw_bytes, None)
}

proptest! {
    #[test]
    fn contents_come_back(raw in prop::collection::vec(0u8..4, 0..5000), level in 1i32..6) {
        let mut stored = vec![9, 9];
        prop_assert!(compressed(level, &raw, &mut stored));
        prop_assert_eq!(&stored[..2], &[9, 9]);
        prop_assert_eq!(decompressed(&stored[2..], raw.len()), Ok(raw.clone()));
        prop_assert!(decompressed(&stored[2..], raw.len() + 1).is_err());
        if !raw.is_empty() {
            prop_assert!(decompressed(&stored[2..], raw.len() - 1).is_err());
        }
    }

    #[test]
    fn other_bytes_are_errors_of_the_right_length(
        stored in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        if let Ok(raw) = decompressed(&stored, 100) {
            prop_assert_eq!(raw.len(), 100);
        }
    }
}

#[test]
fn truncations_and_unknown_codecs_are_errors() {
    let mut stored = Vec::new();
    compressed(3, &[7; 4000], &mut stored);
    for length in 0..stored.len() {
        assert!(decompressed(&stored[..length], 4000).is_err());
    }
    let unknown = decompress(2, &stored, 4000, None);
    assert_eq!(unknown, Err(DecompressProblem::UnknownCodec(2)));
}

#[test]
fn a_context_counts_for_the_database_that_used_it_last() {
    let contexts = Contexts::new();
    let [first, second] = [(); 2].map(|()| Arc::new(MemoryBudget::new(64 << 20)));
    let counted = || [&first, &second].map(|budget| budget.part(MemoryPart::Compression));
    let raw: Vec<u8> = (0..8000_u32).map(|n| (n * n) as u8).collect();
    let compress = |level, raw: &[u8], counted_in| {
        let mut stored = Vec::new();
        assert!(contexts.compress(level, raw, &mut stored, counted_in).unwrap());
        stored
    };
    let stored = compress(1, &raw, Some(&first));
    let [compressor, nothing] = counted();
    assert!(compressor > 10_000 && nothing == 0, "{compressor}");
    assert_eq!(contexts.decompress(&stored, raw.len(), Some(&first)).unwrap(), raw);
    let decompressor = counted()[0] - compressor;
    assert!(decompressor > 10_000, "{decompressor}");
    // The same contexts again: nothing is counted twice.
    compress(1, &raw, Some(&first));
    assert!(contexts.decompress(&stored[1..], raw.len(), Some(&first)).is_err());
    assert_eq!(counted(), [compressor + decompressor, 0]);
    compress(1, &raw, Some(&second));
    assert_eq!(counted(), [decompressor, compressor]);
    // Nobody's use leaves it where it counts.
    assert_eq!(contexts.decompress(&stored, raw.len(), None).unwrap(), raw);
    assert_eq!(counted(), [decompressor, compressor]);
    // It grows with what it is used for.
    compress(19, &vec![7; 128 << 10], Some(&second));
    assert!(counted()[1] > 2 * compressor, "{:?}", counted());
    drop(contexts);
    assert_eq!(counted(), [0, 0]);
}
