//! The options of a keyspace as bytes, in the state and in the log.
//!
//! *Format*: docs/format.md, section 6.3.

use super::input::{Input, Parsed, Problem};
use crate::error::Result;
use crate::page::Codec;
use crate::page::compress::{CODEC_PLAIN, CODEC_ZSTD};
use crate::state::catalogue::KeyspaceSettings;

/// The options of a keyspace, without a length before them.
pub fn encode_settings(settings: &KeyspaceSettings) -> Vec<u8> {
    let [codec, level] = codec_bytes(settings.codec);
    let [value_codec, value_level] = codec_bytes(settings.value_codec);
    vec![codec, level, settings.filter_bits, value_codec, value_level]
}

/// The options that were encoded as `bytes`; what a newer version put behind them is skipped.
///
/// # Errors
/// `Corruption` of the state, when they are cut short or name an unknown codec.
pub fn decode_settings(bytes: &[u8]) -> Result<KeyspaceSettings> {
    read(bytes).map_err(Problem::into_error)
}

pub(super) fn read(bytes: &[u8]) -> Parsed<KeyspaceSettings> {
    let mut input = Input::new(bytes, 0);
    let codec = read_codec(&mut input)?;
    let filter_bits = input.u8("the filter bits")?;
    let value_codec = read_codec(&mut input)?;
    Ok(KeyspaceSettings { codec, value_codec, filter_bits })
}

/// Levels beyond a signed byte are beyond all that zstd tells apart by more than speed.
fn codec_bytes(codec: Codec) -> [u8; 2] {
    match codec {
        Codec::Plain => [CODEC_PLAIN, 0],
        Codec::Zstd { level } => {
            let level = level.clamp(i32::from(i8::MIN), i32::from(i8::MAX)) as i8;
            [CODEC_ZSTD, level.to_le_bytes()[0]]
        }
    }
}

fn read_codec(input: &mut Input<'_>) -> Parsed<Codec> {
    let (id, level) = (input.u8("a codec")?, input.u8("a codec's level")?);
    match (id, level) {
        (CODEC_PLAIN, 0) => Ok(Codec::Plain),
        (CODEC_ZSTD, level) => Ok(Codec::Zstd { level: i32::from(i8::from_le_bytes([level])) }),
        _ => Err(Problem(format!("codec {id} with level {level} is unknown"))),
    }
}
