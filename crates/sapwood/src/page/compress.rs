//! The codecs of node contents.
//!
//! *Assumes*: nothing of the stored bytes.
//! *Guarantees*: decompression yields exactly the length asked for, or an error.
//! Contexts of zstd are kept from one use to the next, for all databases of the process. Each
//! counts for the budget of the database that used it last, until another one uses it or it is
//! dropped.
//! *Format*: `docs/format.md` section 3, codec numbers.
//! *Threads*: contexts are kept in a pool for all threads; its lock is held to take or return one.

use crate::error::{Error, Result};
use crate::sync::Arc;

use super::budget::MemoryBudget;

/// Where a context counts from its use on; `None` for tools, which have no database: it counts
/// where it did.
pub type CountedIn<'a> = Option<&'a Arc<MemoryBudget>>;

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
    /// What levels are stored with unless their keyspace says otherwise: zstd at level 1 where it
    /// is built in.
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
pub fn compress(
    codec: Codec,
    raw: &[u8],
    out: &mut Vec<u8>,
    counted_in: CountedIn<'_>,
) -> Result<bool> {
    match codec {
        Codec::Plain => Ok(false),
        Codec::Zstd { level } => zstd_codec::CONTEXTS.compress(level, raw, out, counted_in),
    }
}

/// Decompresses what `codec_id` stored; the result has `raw_bytes` bytes, which the caller has
/// bounded.
pub fn decompress(
    codec_id: u8,
    stored: &[u8],
    raw_bytes: usize,
    counted_in: CountedIn<'_>,
) -> std::result::Result<Vec<u8>, DecompressProblem> {
    let raw = match codec_id {
        CODEC_PLAIN => stored.to_vec(),
        CODEC_ZSTD => zstd_codec::CONTEXTS.decompress(stored, raw_bytes, counted_in)?,
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
    use zstd::bulk::Compressor;
    use zstd::zstd_safe::{self, DCtx};

    use crate::error::{Error, Result};
    use crate::page::budget::{Charge, MemoryPart};
    use crate::sync::{Arc, Mutex};

    use super::{CountedIn, DecompressProblem};

    /// More contexts than this are not kept when nobody uses them.
    const KEPT_CONTEXTS: usize = 16;

    /// A context for as long as it lives.
    struct Pooled<C> {
        context: C,
        /// What it takes, for who used it last.
        charge: Option<Charge>,
    }

    struct Leveled {
        level: i32,
        compressor: Compressor<'static>,
    }

    /// Contexts that nobody uses at the moment.
    pub(super) struct Contexts {
        compressors: Mutex<Vec<Pooled<Leveled>>>,
        decompressors: Mutex<Vec<Pooled<DCtx<'static>>>>,
    }

    /// Those of the process.
    pub(super) static CONTEXTS: Contexts = Contexts::new();

    fn refused(error: std::io::Error) -> Error {
        Error::io("compressing", "a node in memory", error)
    }

    impl<C> Pooled<C> {
        fn new(context: C) -> Pooled<C> {
            Pooled { context, charge: None }
        }

        /// It was used, and takes so many bytes now.
        fn count(&mut self, counted_in: CountedIn<'_>, bytes: usize) {
            let (Some(budget), bytes) = (counted_in, bytes as u64) else { return };
            match &mut self.charge {
                Some(charge) if Arc::ptr_eq(charge.budget(), budget) => charge.set(bytes),
                charge => *charge = Some(budget.charge(MemoryPart::Compression, bytes)),
            }
        }

        /// Keeps it, if not too many are kept.
        fn keep_in(self, pool: &Mutex<Vec<Pooled<C>>>) {
            let mut kept = pool.lock();
            if kept.len() < KEPT_CONTEXTS {
                kept.push(self);
            } else {
                // What it counted for is told so.
                drop(kept);
                drop(self);
            }
        }
    }

    impl Contexts {
        pub(super) const fn new() -> Contexts {
            Contexts { compressors: Mutex::new(Vec::new()), decompressors: Mutex::new(Vec::new()) }
        }

        /// A context of that level. To change that costs a reset of its tables.
        fn compressor(&self, level: i32) -> Result<Pooled<Leveled>> {
            let kept = {
                let mut pool = self.compressors.lock();
                match pool.iter().rposition(|pooled| pooled.context.level == level) {
                    Some(index) => Some(pool.swap_remove(index)),
                    None => pool.pop(),
                }
            };
            let Some(mut pooled) = kept else {
                let compressor = Compressor::new(level).map_err(refused)?;
                return Ok(Pooled::new(Leveled { level, compressor }));
            };
            if pooled.context.level != level {
                pooled.context.compressor.set_compression_level(level).map_err(refused)?;
                pooled.context.level = level;
            }
            Ok(pooled)
        }

        pub(super) fn compress(
            &self,
            level: i32,
            raw: &[u8],
            out: &mut Vec<u8>,
            counted_in: CountedIn<'_>,
        ) -> Result<bool> {
            let start = out.len();
            let room = zstd_safe::compress_bound(raw.len());
            let mut pooled = self.compressor(level)?;
            out.resize(start + room, 0);
            let target = out.get_mut(start..).unwrap_or_default();
            let written = pooled.context.compressor.compress_to_buffer(raw, target);
            let bytes = pooled.context.compressor.context_mut().sizeof();
            pooled.count(counted_in, bytes);
            pooled.keep_in(&self.compressors);
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
            &self,
            stored: &[u8],
            raw_bytes: usize,
            counted_in: CountedIn<'_>,
        ) -> std::result::Result<Vec<u8>, DecompressProblem> {
            let malformed =
                |problem: &str| DecompressProblem::Malformed(format!("zstd says: {problem}"));
            let kept = self.decompressors.lock().pop();
            let mut pooled = match kept {
                Some(pooled) => pooled,
                None => {
                    let context = DCtx::try_create();
                    Pooled::new(context.ok_or_else(|| malformed("no memory for a context"))?)
                }
            };
            let mut raw = Vec::with_capacity(raw_bytes);
            let result = pooled.context.decompress(&mut raw, stored);
            let bytes = pooled.context.sizeof();
            pooled.count(counted_in, bytes);
            pooled.keep_in(&self.decompressors);
            result.map_err(|code| malformed(zstd_safe::get_error_name(code)))?;
            Ok(raw)
        }
    }
}

#[cfg(not(feature = "zstd"))]
mod zstd_codec {
    use super::{CountedIn, DecompressProblem, Result};

    pub(super) struct Contexts;

    pub(super) static CONTEXTS: Contexts = Contexts;

    impl Contexts {
        #[allow(clippy::unnecessary_wraps)]
        pub(super) fn compress(
            &self,
            _level: i32,
            _raw: &[u8],
            _out: &mut Vec<u8>,
            _counted_in: CountedIn<'_>,
        ) -> Result<bool> {
            Ok(false)
        }

        pub(super) fn decompress(
            &self,
            _stored: &[u8],
            _raw_bytes: usize,
            _counted_in: CountedIn<'_>,
        ) -> std::result::Result<Vec<u8>, DecompressProblem> {
            Err(DecompressProblem::NotBuilt)
        }
    }
}

#[cfg(test)]
#[cfg(feature = "zstd")]
mod tests;
