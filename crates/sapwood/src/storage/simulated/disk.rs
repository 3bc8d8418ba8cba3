//! The content of a simulated disk: what is durable, and what is still on its way.
//!
//! *Assumes*: ranges that `storage::end_of` accepted.
//! *Guarantees*:
//! D1. Unless a failed sync lost something, `durable` with all of `pending`, in order, is
//!     `current`.
//! D2. No pending change touches a byte that was synced after it, nor cuts the file before one.
//! D3. A crash changes only bytes inside pending changes, and each sector of one as a whole.

use std::io;
use std::ops::Range;

use super::CrashPlan;
use crate::storage::sparse::SparseBytes;
use crate::sync::{Arc, Random};

/// What the device writes whole or not at all, counted from the start of the file.
const SECTOR_BYTES: u64 = 512;

type Content = SparseBytes<4096>;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// As reads see it: the system's cache over the device.
    current: Content,
    /// As it is on the device, if nothing pending gets there.
    durable: Content,
    pending: Vec<Change>,
}

/// A change that a crash may lose.
#[derive(Clone, Debug)]
enum Change {
    Write {
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// What of this range lies before the end becomes zeros.
    Zero(Range<u64>),
    SetLength(u64),
}

/// What a torn write left of one sector.
enum Fate {
    Written,
    Old,
    Zeros,
    Garbage,
}

impl Disk {
    pub(super) fn from_image(bytes: &[u8]) -> Disk {
        let mut content = Content::default();
        content.write(0, bytes);
        Disk { current: content.clone(), durable: content, pending: Vec::new() }
    }

    pub(super) fn length(&self) -> u64 {
        self.current.length()
    }

    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn image(&self) -> Vec<u8> {
        self.current.to_vec()
    }

    pub(super) fn durable_image(&self) -> Vec<u8> {
        self.durable.to_vec()
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.current.read(offset, buffer)
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.current.write(offset, bytes);
            self.pending.push(Change::Write { offset, bytes: bytes.into() });
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length != self.current.length() {
            self.current.set_length(length);
            self.pending.push(Change::SetLength(length));
        }
    }

    /// Writes zeros over what of the range lies before the end.
    pub(super) fn zero(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.current.length());
        if offset < end {
            self.current.zero(offset, end - offset);
            self.pending.push(Change::Zero(offset..end));
        }
    }

    /// Makes everything pending durable.
    pub(super) fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// Writes, and makes these bytes alone durable, with the length that they need.
    pub(super) fn write_sync(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.current.write(offset, bytes);
        self.durable.write(offset, bytes);
        self.shield(offset..offset + bytes.len() as u64);
    }

    /// What a failed synced write leaves: its bytes show, and nothing will write them, nor what was
    /// written to their place before.
    pub(super) fn write_and_lose(&mut self, offset: u64, bytes: &[u8]) {
        self.current.write(offset, bytes);
        let lost = offset..offset + bytes.len() as u64;
        let mut kept = Vec::with_capacity(self.pending.len());
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => push_outside(&mut kept, offset, &bytes, &lost),
                Change::Zero(range) => push_zeros_outside(&mut kept, &range, &lost),
                change @ Change::SetLength(_) => kept.push(change),
            }
        }
        self.pending = kept;
    }

    /// What a failed sync leaves: everything pending shows, and nothing will write it.
    pub(super) fn lose_pending(&mut self) {
        self.pending.clear();
    }

    pub(super) fn overwrite(&mut self, offset: u64, bytes: &[u8]) {
        let room = self.current.length().saturating_sub(offset);
        let count = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.write_sync(offset, bytes.get(..count).unwrap_or_default());
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u32) {
        let mut byte = [0];
        if offset < self.length() && self.read(offset, &mut byte).is_ok() {
            self.overwrite(offset, &byte.map(|byte| byte ^ 1_u8.rotate_left(bit)));
        }
    }

    /// Takes `synced` out of every pending change, so that none of them undoes it (D2).
    fn shield(&mut self, synced: Range<u64>) {
        let mut kept = Vec::with_capacity(self.pending.len());
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Write { offset, bytes } => {
                    push_outside(&mut kept, offset, &bytes, &synced);
                }
                Change::Zero(range) => push_zeros_outside(&mut kept, &range, &synced),
                // The file was cut before the synced bytes, and these made it longer again: of the
                // cut stays that what lay between became zeros, and that nothing lies behind.
                Change::SetLength(length) if length < synced.end => {
                    push_zeros_outside(&mut kept, &(length..synced.end), &synced);
                    kept.push(Change::SetLength(synced.end));
                }
                change @ Change::SetLength(_) => kept.push(change),
            }
        }
        self.pending = kept;
    }

    /// The disk as the next start finds it.
    pub(super) fn after_crash(&self, plan: CrashPlan) -> Disk {
        let mut content = self.durable.clone();
        if let CrashPlan::Random(seed) = plan {
            self.apply_some(&mut content, &mut Random::from_seed(seed));
        }
        for (change, index) in self.pending.iter().zip(0_usize..) {
            let is_kept = match plan {
                CrashPlan::KeepNone | CrashPlan::Random(_) => false,
                CrashPlan::KeepAll => true,
                CrashPlan::KeepPrefix(count) => index < count,
                CrashPlan::KeepSome(bits) => (bits >> index.min(63)) & 1 == 1,
            };
            if is_kept {
                change.apply(&mut content);
            }
        }
        Disk { current: content.clone(), durable: content, pending: Vec::new() }
    }

    /// Applies any of the pending changes, in any order, whole or torn.
    fn apply_some(&self, content: &mut Content, random: &mut Random) {
        let mut order: Vec<&Change> = self.pending.iter().collect();
        // Mostly in order, sometimes not; and anything from hardly a change to nearly all.
        if random.one_in(2) {
            random.shuffle(&mut order);
        }
        let kept_of_eight = random.below(9);
        for change in order {
            if random.below(8) >= kept_of_eight {
                continue;
            }
            match change {
                Change::Write { offset, bytes } if random.one_in(2) => {
                    tear(content, *offset, bytes, random);
                }
                Change::Zero(range) if random.one_in(2) => {
                    let sector = random.below((range.end - range.start) / SECTOR_BYTES + 1);
                    let border = range.start / SECTOR_BYTES * SECTOR_BYTES + sector * SECTOR_BYTES;
                    let border = border.clamp(range.start, range.end);
                    Change::Zero(range.start..border).apply(content);
                }
                _ => change.apply(content),
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Change::Write { offset, bytes } => content.write(*offset, bytes),
            Change::Zero(range) => content.zero(range.start, range.end - range.start),
            Change::SetLength(length) => content.set_length(*length),
        }
    }
}

/// Adds the parts of a zeroed range that lie before and behind `hole`.
fn push_zeros_outside(changes: &mut Vec<Change>, range: &Range<u64>, hole: &Range<u64>) {
    let before = range.start..range.end.min(hole.start);
    let behind = range.start.max(hole.end)..range.end;
    let parts = [before, behind].into_iter().filter(|part| !part.is_empty());
    changes.extend(parts.map(Change::Zero));
}

/// Adds the parts of a write that lie before and behind `hole`.
fn push_outside(changes: &mut Vec<Change>, offset: u64, bytes: &Arc<[u8]>, hole: &Range<u64>) {
    let index = |position: u64| {
        usize::try_from(position.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len())
    };
    let (before, behind) = (index(hole.start), index(hole.end));
    if before == bytes.len() || behind == 0 {
        changes.push(Change::Write { offset, bytes: Arc::clone(bytes) });
        return;
    }
    for part in [0..before, behind..bytes.len()] {
        let start = offset + part.start as u64;
        if let Some(part) = bytes.get(part).filter(|part| !part.is_empty()) {
            changes.push(Change::Write { offset: start, bytes: part.into() });
        }
    }
}

/// Applies a write sector by sector, each with a fate of its own.
fn tear(content: &mut Content, offset: u64, bytes: &[u8], random: &mut Random) {
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let room = SECTOR_BYTES - at % SECTOR_BYTES;
        let (sector, others) = rest.split_at(rest.len().min(room as usize));
        match fate(random) {
            Fate::Written => content.write(at, sector),
            Fate::Old => {}
            Fate::Zeros => content.write(at, &vec![0; sector.len()]),
            Fate::Garbage => {
                let mut garbage = vec![0; sector.len()];
                random.fill(&mut garbage);
                content.write(at, &garbage);
            }
        }
        at += sector.len() as u64;
        rest = others;
    }
}

fn fate(random: &mut Random) -> Fate {
    match random.below(32) {
        0 => Fate::Garbage,
        1..4 => Fate::Zeros,
        4..16 => Fate::Old,
        _ => Fate::Written,
    }
}
