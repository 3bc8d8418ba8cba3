//! The codecs of node contents.
//!
//! *Assumes*: nothing of the stored bytes.
//! *Guarantees*: decompression yields exactly the length asked for, or an error.
//! *Format*: `docs/format.md` section 3, codec numbers.
//! *Threads*: contexts are kept in a pool for all threads; its lock is held to take or return one.

use crate::error::{Error, Result};

/// How a content is to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Codec {
    /// As it is.
    #[default]
    Plain,
    /// With zstd; as it is, in a build without it.
    Zstd {
        /// zstd's level.
        level: i32,
    },
}

/// The number of [`Codec::Plain`] in node headers.
pub const CODEC_PLAIN: u8 = 0;
/// The number of [`Codec::Zstd`] in node headers.
pub const CODEC_ZSTD: u8 = 1;

impl Codec {
    /// What levels are stored with unless their keyspace says otherwise: zstd at level 1 where it is built
    /// in.
    pub fn default_for_levels() -> Codec {
        if cfg!(feature = "zstd") { Codec::Zstd { level: 1 } } else { Codec::Plain }
    }

    /// Its number in node headers.
    pub fn id(self) -> u8 {
        match self {
            Codec::Plain => CODEC_PLAIN,
            Codec::Zstd { .. } => CODEC_ZSTD,
        }
    }
}

/// Why a stored content could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecompressProblem {
    /// The bytes are not what the codec makes, or of another length.
    Malformed(String),
    /// No codec of this number is known.
    UnknownCodec(u8),
    /// This build lacks the codec.
    NotBuilt,
}

impl DecompressProblem {
    /// The error for a build that lacks the codec, which is no fault of the file.
    pub fn not_built() -> Error {
        Error::InvalidOption {
            option: "feature zstd",
            detail:
                "this build of sapwood was made without the feature `zstd`, but the file holds \
                     nodes compressed with it; build with the feature"
                    .into(),
        }
    }
}

/// Compresses `raw` to the end of `out`. False, with `out` as it was, when the codec stores as is.
pub fn compress(codec: Codec, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    match codec {
        Codec::Plain => Ok(false),
        Codec::Zstd { level } => zstd_codec::compress(level, raw, out),
    }
}

/// Decompresses what `codec_id` stored; the result has `raw_bytes` bytes, which the caller has
/// bounded.
pub fn decompress(
    codec_id: u8,
    stored: &[u8],
    raw_bytes: usize,
) -> std::result::Result<Vec<u8>, DecompressProblem> {
    let raw = match codec_id {
        CODEC_PLAIN => stored.to_vec(),
        CODEC_ZSTD => zstd_codec::decompress(stored, raw_bytes)?,
        other => return Err(DecompressProblem::UnknownCodec(other)),
    };
    if raw.len() != raw_bytes {
        return Err(DecompressProblem::Malformed(format!(
            "the content has {} bytes, its header says {raw_bytes}",
            raw.len()
        )));
    }
    Ok(raw)
}

#[cfg(feature = "zstd")]
mod zstd_codec {
    use zstd::bulk::{Compressor, Decompressor};
    use zstd::zstd_safe;

    use crate::error::{Error, Result};
    use crate::sync::Mutex;

    use super::DecompressProblem;

    /// More contexts than this are not kept when nobody uses them.
    const KEPT_CONTEXTS: usize = 16;

    struct Pooled {
        level: i32,
        context: Compressor<'static>,
    }

    static COMPRESSORS: Mutex<Vec<Pooled>> = Mutex::new(Vec::new());
    static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

    fn refused(error: std::io::Error) -> Error {
        Error::io("compressing", "a node in memory", error)
    }

    pub(super) fn compress(level: i32, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        let start = out.len();
        let room = zstd_safe::compress_bound(raw.len());
        // The level of a context is changed only when it must be: it costs a reset of its tables.
        let pooled = {
            let mut pool = COMPRESSORS.lock();
            match pool.iter().rposition(|pooled| pooled.level == level) {
                Some(index) => Some(pool.swap_remove(index)),
                None => pool.pop(),
            }
        };
        let mut pooled = match pooled {
            Some(pooled) => pooled,
            None => Pooled { level, context: Compressor::new(level).map_err(refused)? },
        };
        if pooled.level != level {
            pooled.context.set_compression_level(level).map_err(refused)?;
            pooled.level = level;
        }
        out.resize(start + room, 0);
        let target = out.get_mut(start..).unwrap_or_default();
        let written = pooled.context.compress_to_buffer(raw, target);
        let mut pool = COMPRESSORS.lock();
        if pool.len() < KEPT_CONTEXTS {
            pool.push(pooled);
        }
        drop(pool);
        match written {
            Ok(length) => {
                out.truncate(start + length);
                Ok(true)
            }
            Err(error) => {
                out.truncate(start);
                Err(refused(error))
            }
        }
    }

    pub(super) fn decompress(
        stored: &[u8],
        raw_bytes: usize,
    ) -> std::result::Result<Vec<u8>, DecompressProblem> {
        let malformed =
            |error: std::io::Error| DecompressProblem::Malformed(format!("zstd says: {error}"));
        let pooled = DECOMPRESSORS.lock().pop();
        let mut context = match pooled {
            Some(context) => context,
            None => Decompressor::new().map_err(malformed)?,
        };
        let mut raw = Vec::with_capacity(raw_bytes);
        let result = context.decompress_to_buffer(stored, &mut raw);
        let mut pool = DECOMPRESSORS.lock();
        if pool.len() < KEPT_CONTEXTS {
            pool.push(context);
        }
        drop(pool);
        result.map_err(malformed)?;
        Ok(raw)
    }
}

#[cfg(not(feature = "zstd"))]
mod zstd_codec {
    use super::{DecompressProblem, Result};

    #[allow(clippy::unnecessary_wraps)]
    pub(super) fn compress(_level: i32, _raw: &[u8], _out: &mut Vec<u8>) -> Result<bool> {
        Ok(false)
    }

    pub(super) fn decompress(
        _stored: &[u8],
        _raw_bytes: usize,
    ) -> std::result::Result<Vec<u8>, DecompressProblem> {
        Err(DecompressProblem::NotBuilt)
    }
}

#[cfg(all(test, feature = "zstd"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn contents_come_back(raw in prop::collection::vec(0u8..4, 0..5000), level in 1i32..6) {
            let mut stored = vec![9, 9];
            let codec = Codec::Zstd { level };
            prop_assert!(compress(codec, &raw, &mut stored).unwrap());
            prop_assert_eq!(&stored[..2], &[9, 9]);
            prop_assert_eq!(decompress(CODEC_ZSTD, &stored[2..], raw.len()), Ok(raw.clone()));
            prop_assert!(decompress(CODEC_ZSTD, &stored[2..], raw.len() + 1).is_err());
            if !raw.is_empty() {
                prop_assert!(decompress(CODEC_ZSTD, &stored[2..], raw.len() - 1).is_err());
            }
        }

        #[test]
        fn other_bytes_are_errors_of_the_right_length(
            stored in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            if let Ok(raw) = decompress(CODEC_ZSTD, &stored, 100) {
                prop_assert_eq!(raw.len(), 100);
            }
        }
    }

    #[test]
    fn truncations_and_unknown_codecs_are_errors() {
        let mut stored = Vec::new();
        compress(Codec::Zstd { level: 3 }, &[7; 4000], &mut stored).unwrap();
        for length in 0..stored.len() {
            assert!(decompress(CODEC_ZSTD, &stored[..length], 4000).is_err());
        }
        assert_eq!(decompress(2, &stored, 4000), Err(DecompressProblem::UnknownCodec(2)));
    }
}
