//! Wrong usage: what the grammar of the command line does not see by itself.
//!
//! *Guarantees*: it is told before a file is opened or made, with exit status 2.

use std::error::Error;
use std::fmt;

use sapwood::segment::KEY_BYTES_MAX;

/// The longest name of a keyspace that can be made, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// Arguments that are right each by itself and make no sense together.
#[derive(Debug)]
pub struct WrongUsage(String);

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for WrongUsage {}

/// Wrong usage, with what is wrong and what would be right.
pub fn wrong(text: impl Into<String>) -> Box<dyn Error> {
    Box::new(WrongUsage(text.into()))
}

/// The bytes of a page.
///
/// # Errors
/// With what is allowed.
pub fn page_size(text: &str) -> Result<u32, String> {
    let bytes = text.parse().ok().filter(|bytes: &u32| bytes.is_power_of_two());
    let bytes = bytes.filter(|bytes| (1 << 10..=1 << 16).contains(bytes));
    bytes.ok_or_else(|| "it is a power of two from 1024 to 65536".into())
}

/// The bytes at the end of a page that stay unused.
///
/// # Errors
/// With what is allowed.
pub fn reserved_bytes(text: &str) -> Result<u16, String> {
    let bytes = text.parse().ok().filter(|bytes: &u16| bytes.is_multiple_of(8) && *bytes <= 256);
    bytes.ok_or_else(|| "it is a multiple of 8 up to 256".into())
}

/// The name of a keyspace that is to be made, or may have to be. (A file may hold longer ones,
/// which are not for the commands that would make what is not there.)
///
/// # Errors
/// With what is allowed.
pub fn new_name(text: &str) -> Result<String, String> {
    if text.len() > NAME_BYTES_MAX {
        let length = text.len();
        return Err(format!("a name of {length} bytes is too long: the limit is {NAME_BYTES_MAX}"));
    }
    Ok(text.to_owned())
}

/// A key.
///
/// # Errors
/// With what is allowed.
pub fn key(key: &[u8]) -> Result<(), String> {
    let length = key.len();
    if length > KEY_BYTES_MAX {
        return Err(format!("a key of {length} bytes is too long: the limit is {KEY_BYTES_MAX}"));
    }
    Ok(())
}
