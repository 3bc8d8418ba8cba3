//! A mapped piece of a file, on the systems whose maps show at once what is written to the file.
//!
//! *Assumes*: as [`super`], which alone uses it. *Guarantees*: the only slices that are made are
//! those asked for. Elsewhere nothing is mapped. *Threads*: any.
#![allow(unsafe_code)]

#[cfg(all(
    target_pointer_width = "64",
    any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd")
))]
mod offered {
    use std::fs::File;
    use std::io;

    use memmap2::{MmapOptions, MmapRaw};

    /// See the module.
    #[derive(Debug)]
    pub(in super::super) struct Piece(MmapRaw);

    impl Piece {
        /// Maps what lies in the file.
        pub(in super::super) fn map(file: &File, start: u64, length: usize) -> io::Result<Piece> {
            MmapOptions::new().offset(start).len(length).map_raw_read_only(file).map(Piece)
        }

        pub(in super::super) fn len(&self) -> usize {
            self.0.len()
        }

        /// Bytes of it; none where there are not so many.
        pub(in super::super) fn bytes(&self, start: usize, length: usize) -> &[u8] {
            match start.checked_add(length) {
                // SAFETY: the range lies in the map, which lives as long as `self`. Its pages are
                // in the file, since the caller holds a pin and looked at the limit behind it: the
                // engine does not cut the file there (M2). Nor does it write there (M1): the block
                // is referenced by a state that is held. Other processes are kept out by the lock;
                // who ignores it is what the application has accepted with `memory_map(true)`.
                Some(end) if end <= self.len() => unsafe {
                    std::slice::from_raw_parts(self.0.as_ptr().add(start), length)
                },
                _ => &[],
            }
        }
    }
}

#[cfg(not(all(
    target_pointer_width = "64",
    any(target_os = "linux", target_os = "android", target_os = "macos", target_os = "freebsd")
)))]
mod offered {
    use std::fs::File;
    use std::io;

    /// There is none.
    #[derive(Debug)]
    pub(in super::super) enum Piece {}

    impl Piece {
        pub(in super::super) fn map(_: &File, _: u64, _: usize) -> io::Result<Piece> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(in super::super) fn len(&self) -> usize {
            match *self {}
        }

        pub(in super::super) fn bytes(&self, _: usize, _: usize) -> &[u8] {
            match *self {}
        }
    }
}

pub(super) use offered::Piece;
