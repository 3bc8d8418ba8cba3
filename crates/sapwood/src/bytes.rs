//! What reads hand out: [`Key`] and [`Value`], which dereference to `[u8]`.
//!
//! *Assumes*: a frame never changes, and its memory stays while it is held. *Guarantees*: the bytes
//! stay readable for as long as the handle lives, also after the database is closed; a handle holds
//! at most one node's frame, never a state, so that it keeps nothing in the file.
//!
//! *Threads*: both can be sent and shared.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, Range};

use crate::page::Frame;
use crate::state::lookup::COPY_BYTES_MAX;
use crate::sync::Arc;

#[cfg(test)]
mod tests;

/// What fits beside its length into the room that the other shapes take anyway.
const INLINE_BYTES_MAX: usize = 22;

/// How many bytes `Debug` shows.
const DEBUG_BYTES_MAX: usize = 64;

/// A few bytes in place. Bytes behind the length are zero.
#[derive(Clone, Copy)]
struct Inline {
    length: u8,
    bytes: [u8; INLINE_BYTES_MAX],
}

impl Inline {
    /// `None` when they are too many.
    fn new(from: &[u8]) -> Option<Inline> {
        let mut bytes = [0; INLINE_BYTES_MAX];
        bytes.get_mut(..from.len())?.copy_from_slice(from);
        let length = u8::try_from(from.len()).ok()?;
        Some(Inline { length, bytes })
    }

    /// `None` when they are too many.
    #[inline]
    fn join(pieces: [&[u8]; 3]) -> Option<Inline> {
        let mut bytes = [0; INLINE_BYTES_MAX];
        let mut left = bytes.as_mut_slice();
        for piece in pieces {
            let (taken, rest) = left.split_at_mut_checked(piece.len())?;
            taken.copy_from_slice(piece);
            left = rest;
        }
        let length = INLINE_BYTES_MAX - left.len();
        Some(Inline { length: u8::try_from(length).ok()?, bytes })
    }

    #[inline]
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// A key that was read: a copy, in place when it is short.
///
/// It dereferences to `[u8]`, compares and hashes like it, and stays valid for as long as it lives.
///
/// # Examples
/// ```
/// use sapwood::Key;
///
/// let key = Key::from("apple");
/// assert_eq!(key, "apple");
/// assert!(key.starts_with(b"app"));
/// assert!(key < Key::from("pear"));
/// ```
#[derive(Clone)]
pub struct Key(KeyBytes);

#[derive(Clone)]
enum KeyBytes {
    Inline(Inline),
    Boxed(Box<[u8]>),
}

impl Key {
    /// The key that is made up of these pieces.
    #[inline]
    pub(crate) fn join(pieces: [&[u8]; 3]) -> Key {
        Key(match Inline::join(pieces) {
            Some(inline) => KeyBytes::Inline(inline),
            None => KeyBytes::Boxed(pieces.concat().into_boxed_slice()),
        })
    }

    /// The bytes.
    ///
    /// # Examples
    /// ```
    /// assert_eq!(sapwood::Key::from("apple").as_slice(), b"apple");
    /// ```
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            KeyBytes::Inline(inline) => inline.as_slice(),
            KeyBytes::Boxed(boxed) => boxed,
        }
    }

    /// Memory beside its own size, in bytes.
    pub(crate) fn boxed_bytes(&self) -> usize {
        match &self.0 {
            KeyBytes::Inline(_) => 0,
            KeyBytes::Boxed(boxed) => boxed.len(),
        }
    }

    /// The bytes as a vector; without a copy where they have memory of their own.
    ///
    /// # Examples
    /// ```
    /// assert_eq!(sapwood::Key::from("apple").into_vec(), b"apple".to_vec());
    /// ```
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            KeyBytes::Inline(inline) => inline.as_slice().to_vec(),
            KeyBytes::Boxed(boxed) => boxed.into_vec(),
        }
    }
}

impl From<&[u8]> for Key {
    #[inline]
    fn from(bytes: &[u8]) -> Key {
        Key(match Inline::new(bytes) {
            Some(inline) => KeyBytes::Inline(inline),
            None => KeyBytes::Boxed(bytes.into()),
        })
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Key {
        Key(match Inline::new(&bytes) {
            Some(inline) => KeyBytes::Inline(inline),
            None => KeyBytes::Boxed(bytes.into_boxed_slice()),
        })
    }
}

/// A value that was read: a copy when it is small, otherwise the cached node that it lies in is
/// held.
///
/// It dereferences to `[u8]`, compares and hashes like it, and stays valid for as long as it lives.
/// Cloning one never copies more than about 1 KiB. A large value that is kept for long is best
/// turned into a vector, so that the memory of its node can be used again.
///
/// # Examples
/// ```
/// use sapwood::Value;
///
/// let value = Value::from(b"ring".to_vec());
/// assert_eq!(value, b"ring");
/// assert_eq!(value.len(), 4);
/// assert_eq!(value.into_vec(), b"ring".to_vec());
/// ```
#[derive(Clone)]
pub struct Value(ValueBytes);

#[derive(Clone)]
enum ValueBytes {
    Inline(Inline),
    Boxed(Box<[u8]>),
    Shared(Arc<Vec<u8>>),
    /// The bytes `start..end` of the frame's content, which lie in it.
    Frame {
        frame: Arc<Frame>,
        start: u32,
        end: u32,
    },
}

impl Value {
    /// The value that lies at `range` in the content of `frame`. A short one is copied, and so is
    /// one that lies in the file itself, which may be another there when the value is looked at.
    ///
    /// # Panics
    /// When the range does not lie in the content: whoever read the node has checked that.
    pub(crate) fn from_frame(frame: Arc<Frame>, range: Range<usize>) -> Value {
        let bytes = frame.content().get(range.clone());
        assert!(bytes.is_some(), "a value lies outside of its node");
        let bytes = bytes.unwrap_or_default();
        match (u32::try_from(range.start), u32::try_from(range.end)) {
            (Ok(start), Ok(end)) if bytes.len() > COPY_BYTES_MAX && !frame.is_in_place() => {
                Value(ValueBytes::Frame { frame, start, end })
            }
            _ => Value::from(bytes),
        }
    }

    /// The bytes.
    ///
    /// # Examples
    /// ```
    /// assert_eq!(sapwood::Value::from(b"ring".to_vec()).as_slice(), b"ring");
    /// ```
    #[must_use]
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        match &self.0 {
            ValueBytes::Inline(inline) => inline.as_slice(),
            ValueBytes::Boxed(boxed) => boxed,
            ValueBytes::Shared(shared) => shared,
            ValueBytes::Frame { frame, start, end } => {
                frame.content().get(*start as usize..*end as usize).unwrap_or_default()
            }
        }
    }

    /// Memory beside its own size, in bytes; that of a frame counts by itself.
    pub(crate) fn boxed_bytes(&self) -> usize {
        match &self.0 {
            ValueBytes::Inline(_) | ValueBytes::Frame { .. } => 0,
            ValueBytes::Boxed(boxed) => boxed.len(),
            ValueBytes::Shared(shared) => shared.len(),
        }
    }

    /// The bytes as a vector; without a copy where they have memory of their own that no clone
    /// shares.
    ///
    /// # Examples
    /// ```
    /// let value = sapwood::Value::from(b"ring".to_vec());
    /// assert_eq!(value.into_vec(), b"ring".to_vec());
    /// ```
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            ValueBytes::Boxed(boxed) => boxed.into_vec(),
            ValueBytes::Shared(shared) => Arc::unwrap_or_clone(shared),
            ValueBytes::Inline(_) | ValueBytes::Frame { .. } => self.as_slice().to_vec(),
        }
    }
}

impl From<&[u8]> for Value {
    #[inline]
    fn from(bytes: &[u8]) -> Value {
        Value(match Inline::new(bytes) {
            Some(inline) => ValueBytes::Inline(inline),
            None if bytes.len() <= COPY_BYTES_MAX => ValueBytes::Boxed(bytes.into()),
            None => ValueBytes::Shared(Arc::new(bytes.to_vec())),
        })
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value(match Inline::new(&bytes) {
            Some(inline) => ValueBytes::Inline(inline),
            None if bytes.len() <= COPY_BYTES_MAX => ValueBytes::Boxed(bytes.into_boxed_slice()),
            None => ValueBytes::Shared(Arc::new(bytes)),
        })
    }
}

/// The comparisons of `$name` with another type that gives bytes, both ways round.
macro_rules! equals {
    ($name:ident, $($other:ty),*) => {$(
        impl PartialEq<$other> for $name {
            fn eq(&self, other: &$other) -> bool {
                let other: &[u8] = other.as_ref();
                self.as_slice() == other
            }
        }

        impl PartialEq<$name> for $other {
            fn eq(&self, other: &$name) -> bool {
                other == self
            }
        }
    )*};
}

/// What both types do as `[u8]` does it.
macro_rules! acts_as_bytes {
    ($name:ident) => {
        impl Deref for $name {
            type Target = [u8];

            #[inline]
            fn deref(&self) -> &[u8] {
                self.as_slice()
            }
        }

        impl AsRef<[u8]> for $name {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self.as_slice()
            }
        }

        impl Borrow<[u8]> for $name {
            #[inline]
            fn borrow(&self) -> &[u8] {
                self.as_slice()
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name::from(&[][..])
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &$name) -> bool {
                self.as_slice() == other.as_slice()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &$name) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &$name) -> Ordering {
                self.as_slice().cmp(other.as_slice())
            }
        }

        // `Borrow` asks for the hash of the slice itself.
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_slice().hash(state);
            }
        }

        equals!($name, [u8], &[u8], Vec<u8>, str, &str, String);

        impl<const N: usize> PartialEq<[u8; N]> for $name {
            fn eq(&self, other: &[u8; N]) -> bool {
                self.as_slice() == other
            }
        }

        impl<const N: usize> PartialEq<&[u8; N]> for $name {
            fn eq(&self, other: &&[u8; N]) -> bool {
                self.as_slice() == *other
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> $name {
                $name::from(text.as_bytes())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> $name {
                $name::from(text.into_bytes())
            }
        }

        impl From<Box<[u8]>> for $name {
            fn from(bytes: Box<[u8]>) -> $name {
                $name::from(bytes.into_vec())
            }
        }

        impl<const N: usize> From<&[u8; N]> for $name {
            fn from(bytes: &[u8; N]) -> $name {
                $name::from(bytes.as_slice())
            }
        }

        impl From<$name> for Vec<u8> {
            fn from(bytes: $name) -> Vec<u8> {
                bytes.into_vec()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_escaped(self, f)
            }
        }
    };
}

acts_as_bytes!(Key);
acts_as_bytes!(Value);

/// Writes `b"..."`, and of what is long the first bytes and the length.
fn write_escaped(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match bytes.get(..DEBUG_BYTES_MAX) {
        Some(shown) if shown.len() < bytes.len() => {
            write!(f, "b\"{}\"... ({} bytes)", shown.escape_ascii(), bytes.len())
        }
        _ => write!(f, "b\"{}\"", bytes.escape_ascii()),
    }
}

const _: () = assert!(size_of::<Key>() == 24 && size_of::<Value>() == 24 || usize::BITS != 64);
