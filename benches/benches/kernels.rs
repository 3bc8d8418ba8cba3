//! The hot kernels, each alone: what is done to every node and every key.
//!
//! The sizes are those of the engine: a page of 8 KiB stands for a leaf.

// A benchmark that cannot be set up has nobody to give an error to.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LEAF_BYTES: usize = 8 << 10;

/// A leaf-like block: sorted keys that share prefixes, values of which half repeat.
fn leaf_like_block() -> Vec<u8> {
    let mut block = Vec::with_capacity(LEAF_BYTES);
    let mut word = 1_u64;
    let mut number = 0_u64;
    while block.len() < LEAF_BYTES {
        number += 1;
        block.extend_from_slice(format!("customer/{number:07}").as_bytes());
        let mut fresh = [0; 48];
        for part in fresh.chunks_mut(8) {
            // Xorshift: what zstd cannot shorten.
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            part.copy_from_slice(&word.to_le_bytes());
        }
        block.extend_from_slice(&fresh);
        block.extend_from_slice(&fresh);
    }
    block.truncate(LEAF_BYTES);
    block
}

fn checksums(criterion: &mut Criterion) {
    let block = leaf_like_block();
    let mut group = criterion.benchmark_group("checksum of 8 KiB");
    group.throughput(Throughput::Bytes(LEAF_BYTES as u64));
    group.bench_function("crc32", |bench| {
        bench.iter(|| crc32fast::hash(black_box(&block)));
    });
    group.bench_function("xxh3", |bench| {
        bench.iter(|| twox_hash::XxHash3_64::oneshot(black_box(&block)));
    });
    group.finish();
}

fn key_hash(criterion: &mut Criterion) {
    let key = *b"customer/0000042";
    criterion.bench_function("xxh3 of a 16-byte key", |bench| {
        bench.iter(|| twox_hash::XxHash3_64::oneshot_with_seed(7, black_box(&key)));
    });
}

fn compression(criterion: &mut Criterion) {
    let block = leaf_like_block();
    let mut room = vec![0; 2 * LEAF_BYTES];
    let mut compressor = zstd::bulk::Compressor::new(1).expect("a zstd context");
    let mut decompressor = zstd::bulk::Decompressor::new().expect("a zstd context");
    let packed = compressor.compress(&block).expect("a block that zstd takes");
    assert!(packed.len() < block.len() * 2 / 3, "the block is not half compressible");

    let mut group = criterion.benchmark_group("zstd level 1 of 8 KiB");
    group.throughput(Throughput::Bytes(LEAF_BYTES as u64));
    group.bench_function("compress", |bench| {
        bench.iter(|| compressor.compress_to_buffer(black_box(&block), &mut room));
    });
    group.bench_function("decompress", |bench| {
        bench.iter(|| decompressor.decompress_to_buffer(black_box(&packed), &mut room));
    });
    group.finish();
}

criterion_group!(kernels, checksums, key_hash, compression);
criterion_main!(kernels);
