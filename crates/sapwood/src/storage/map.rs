//! Bytes of a file in place: what a storage hands out, and how the real file keeps them there.
//!
//! *Assumes*: nobody writes to bytes that are handed out (M1), and nobody else cuts the file.
//! *Guarantees*: M2, M3: what is handed out lies before the end of the file, which is not cut there
//! while it is held; everything else is not handed out, and read with a positioned read.
//! *Threads*: any. One lock orders changes of the length and of the map; whoever finds its piece
//! mapped takes none but a shared one.

mod system;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;

use self::system::Piece;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{Arc, Mutex, RwLock};

/// What is mapped in one go. What crosses the border of two is not handed out.
pub(super) const PIECE_BYTES: u64 = 64 << 20;
/// What one count of pins is for: a cut keeps or takes so much.
pub const PIN_BYTES: u64 = 1 << 20;
const PINS: usize = (PIECE_BYTES / PIN_BYTES) as usize;

/// Bytes of a file in place. They stay there while this is held.
pub struct Mapped(Source);

enum Source {
    File {
        piece: Arc<Piece>,
        start: usize,
        length: usize,
        _pin: Pin,
    },
    /// A copy, for a storage that watches whether somebody changes what it was made of.
    Watched {
        bytes: Vec<u8>,
        _watch: Box<dyn Send + Sync>,
    },
}

impl Mapped {
    /// Bytes whose place in a file is watched until `watch` is dropped.
    pub(super) fn watched(bytes: Vec<u8>, watch: Box<dyn Send + Sync>) -> Mapped {
        Mapped(Source::Watched { bytes, _watch: watch })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::File { piece, start, length, .. } => piece.bytes(*start, *length),
            Source::Watched { bytes, .. } => bytes,
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("length", &self.len()).finish_non_exhaustive()
    }
}

/// One piece of the file: mapped as far as the file reached, and how often each MiB is in use. The
/// map may be made anew; the counts are for all of them.
#[derive(Debug)]
struct Slot {
    piece: RwLock<Option<Arc<Piece>>>,
    pins: [AtomicU32; PINS],
}

impl Slot {
    fn new() -> Slot {
        Slot { piece: RwLock::new(None), pins: std::array::from_fn(|_| AtomicU32::new(0)) }
    }
}

/// A use of the MiB in which some bytes end.
struct Pin {
    slot: Arc<Slot>,
    index: usize,
}

impl Pin {
    fn new(slot: Arc<Slot>, index: usize) -> Pin {
        if let Some(pins) = slot.pins.get(index) {
            pins.fetch_add(1, Ordering::SeqCst);
        }
        Pin { slot, index }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(pins) = self.slot.pins.get(self.index) {
            pins.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// The map of one open file.
#[derive(Debug, Default)]
pub(super) struct FileMap {
    slots: RwLock<Vec<Arc<Slot>>>,
    /// What ends behind it is not handed out.
    limit: AtomicU64,
    /// Held while the limit, the file's length or a piece changes.
    changing: Mutex<()>,
}

impl FileMap {
    /// The bytes in place; `None` when they cannot be had so.
    pub(super) fn get(&self, file: &File, offset: u64, length: usize) -> Option<Mapped> {
        let end = offset.checked_add(length as u64).filter(|end| *end > offset)?;
        let last = end - 1;
        let slot_index = offset / PIECE_BYTES;
        if slot_index != last / PIECE_BYTES {
            return None;
        }
        if end > self.limit.load(Ordering::SeqCst) && !self.reaches(file, end) {
            return None;
        }
        let slot = self.slot(usize::try_from(slot_index).ok()?)?;
        // Both are less than a piece.
        let pin_index = (last % PIECE_BYTES / PIN_BYTES) as usize;
        let pin = Pin::new(slot.clone(), pin_index);
        // Behind the pin: a cut lowers the limit before it looks at the pins.
        if end > self.limit.load(Ordering::SeqCst) {
            return None;
        }
        let piece = self.piece(file, &slot, slot_index * PIECE_BYTES, end)?;
        let start = (offset % PIECE_BYTES) as usize;
        Some(Mapped(Source::File { piece, start, length, _pin: pin }))
    }

    /// Looks whether the file has grown.
    fn reaches(&self, file: &File, end: u64) -> bool {
        let _changing = self.changing.lock();
        let Ok(metadata) = file.metadata() else { return false };
        self.limit.store(metadata.len(), Ordering::SeqCst);
        end <= metadata.len()
    }

    /// The slot of a piece that the file reaches into.
    fn slot(&self, slot_index: usize) -> Option<Arc<Slot>> {
        if let Some(slot) = self.slots.read().get(slot_index) {
            return Some(slot.clone());
        }
        let mut slots = self.slots.write();
        while slots.len() <= slot_index {
            slots.push(Arc::new(Slot::new()));
        }
        slots.get(slot_index).cloned()
    }

    /// The piece that begins at `start`, mapped up to `end` at least.
    fn piece(&self, file: &File, slot: &Slot, start: u64, end: u64) -> Option<Arc<Piece>> {
        let needed = end - start;
        let fits = |piece: &&Arc<Piece>| piece.len() as u64 >= needed;
        if let Some(piece) = slot.piece.read().as_ref().filter(fits) {
            return Some(piece.clone());
        }
        let _changing = self.changing.lock();
        let mut current = slot.piece.write();
        if let Some(piece) = current.as_ref().filter(fits) {
            return Some(piece.clone());
        }
        let there = self.limit.load(Ordering::SeqCst).saturating_sub(start).min(PIECE_BYTES);
        if there < needed {
            return None;
        }
        match Piece::map(file, start, there as usize) {
            Ok(piece) => {
                let piece = Arc::new(piece);
                *current = Some(piece.clone());
                Some(piece)
            }
            Err(error) => {
                tracing::debug!(
                    target: "sapwood::storage",
                    %error,
                    "a part of the file cannot be mapped"
                );
                None
            }
        }
    }

    /// Has the file cut at `length`, unless what lies there is in use: then `ResourceBusy`.
    pub(super) fn cut(&self, length: u64, cut: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _changing = self.changing.lock();
        let before = self.limit.load(Ordering::SeqCst);
        self.limit.store(before.min(length), Ordering::SeqCst);
        let slots = self.slots.read();
        if slots.iter().zip(0..).any(|(slot, index)| is_pinned(slot, index, length)) {
            self.limit.store(before, Ordering::SeqCst);
            let detail = "a node is being read in place there";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, detail));
        }
        for (slot, index) in slots.iter().zip(1u64..) {
            if index * PIECE_BYTES > length {
                *slot.piece.write() = None;
            }
        }
        cut()
    }
}

/// Whether anything of the slot is in use that may end behind `length`.
fn is_pinned(slot: &Slot, slot_index: u64, length: u64) -> bool {
    let ends = (1u64..).map(|pin_index| slot_index * PIECE_BYTES + pin_index * PIN_BYTES);
    slot.pins.iter().zip(ends).any(|(pins, end)| end > length && pins.load(Ordering::SeqCst) > 0)
}

#[cfg(test)]
mod tests;
