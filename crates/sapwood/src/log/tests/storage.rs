//! A file in memory that keeps apart what the system has and what is on disk.

use std::io;

use crate::storage::{Advice, Storage};
use crate::sync::{Arc, Mutex, channel};

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Contents {
    /// What a read sees.
    cached: Vec<u8>,
    /// What every power cut leaves.
    durable: Vec<u8>,
    /// Writes that a power cut may or may not leave, sector by sector.
    pending: Vec<(usize, Vec<u8>)>,
    writes_until_failure: Option<u64>,
    syncs_until_failure: Option<u64>,
    synced_writes: u64,
    data_syncs: u64,
    read_bytes: u64,
}

#[derive(Debug, Default)]
pub struct TestStorage {
    contents: Mutex<Contents>,
    /// When set, every synced call says that it has begun, then waits until it may go on.
    gate: Mutex<Option<(channel::Sender<()>, channel::Receiver<()>)>>,
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if target.len() < offset + bytes.len() {
        target.resize(offset + bytes.len(), 0);
    }
    target[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn count_down(left: &mut Option<u64>) -> bool {
    match left {
        Some(0) => true,
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

impl TestStorage {
    pub fn empty() -> Arc<TestStorage> {
        Arc::default()
    }

    pub fn holding(bytes: Vec<u8>) -> Arc<TestStorage> {
        let storage = TestStorage::empty();
        storage.contents.lock().cached = bytes.clone();
        storage.contents.lock().durable = bytes;
        storage
    }

    /// What a reader sees.
    pub fn bytes(&self) -> Vec<u8> {
        self.contents.lock().cached.clone()
    }

    /// The file after a power cut that took everything that it could.
    pub fn harshest_power_cut(&self) -> Arc<TestStorage> {
        TestStorage::holding(self.contents.lock().durable.clone())
    }

    /// The file after a power cut that left of each sector the durable bytes and some number of the
    /// pending writes to it; `choose` is asked for numbers below its argument.
    pub fn power_cut(&self, mut choose: impl FnMut(usize) -> usize) -> Arc<TestStorage> {
        let contents = self.contents.lock();
        let mut bytes = contents.durable.clone();
        bytes.resize(contents.cached.len(), 0);
        for start in (0..bytes.len()).step_by(SECTOR) {
            let end = (start + SECTOR).min(bytes.len());
            let touching = contents
                .pending
                .iter()
                .filter(|(offset, written)| *offset < end && offset + written.len() > start);
            let touching = touching.collect::<Vec<_>>();
            let kept = choose(touching.len() + 1);
            for (offset, written) in &touching[..kept] {
                let (from, to) = ((*offset).max(start), (offset + written.len()).min(end));
                bytes[from..to].copy_from_slice(&written[from - offset..to - offset]);
            }
        }
        TestStorage::holding(bytes)
    }

    pub fn fail_write_after(&self, writes: u64) {
        self.contents.lock().writes_until_failure = Some(writes);
    }

    pub fn fail_sync_after(&self, syncs: u64) {
        self.contents.lock().syncs_until_failure = Some(syncs);
    }

    /// Synced writes and data syncs so far.
    pub fn sync_counts(&self) -> (u64, u64) {
        let contents = self.contents.lock();
        (contents.synced_writes, contents.data_syncs)
    }

    /// How much was read so far.
    pub fn read_bytes(&self) -> u64 {
        self.contents.lock().read_bytes
    }

    pub fn set_gate(&self, begun: channel::Sender<()>, go_on: channel::Receiver<()>) {
        *self.gate.lock() = Some((begun, go_on));
    }

    fn pass_gate(&self) {
        let gate = self.gate.lock().clone();
        if let Some((begun, go_on)) = gate {
            begun.send(()).unwrap();
            go_on.recv().unwrap();
        }
    }
}

impl Storage for TestStorage {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut contents = self.contents.lock();
        contents.read_bytes += buffer.len() as u64;
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = contents.cached.get(offset..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut contents = self.contents.lock();
        let failed = count_down(&mut contents.writes_until_failure);
        // A write that fails has written some of its bytes.
        let bytes = if failed { &bytes[..bytes.len() / 2] } else { bytes };
        put(&mut contents.cached, offset as usize, bytes);
        contents.pending.push((offset as usize, bytes.to_vec()));
        if failed { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    fn write_sync_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.pass_gate();
        let mut contents = self.contents.lock();
        let contents = &mut *contents;
        let start = offset as usize;
        put(&mut contents.cached, start, bytes);
        if count_down(&mut contents.syncs_until_failure) {
            contents.pending.push((start, bytes.to_vec()));
            return Err(io::Error::from_raw_os_error(5));
        }
        contents.synced_writes += 1;
        put(&mut contents.durable, start, bytes);
        // What was pending for these bytes cannot come back over them.
        for (other, written) in &mut contents.pending {
            let (from, to) = (start.max(*other), (start + bytes.len()).min(*other + written.len()));
            if from < to {
                written[from - *other..to - *other]
                    .copy_from_slice(&bytes[from - start..to - start]);
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pass_gate();
        let mut contents = self.contents.lock();
        if count_down(&mut contents.syncs_until_failure) {
            return Err(io::Error::from_raw_os_error(5));
        }
        contents.data_syncs += 1;
        for (offset, written) in std::mem::take(&mut contents.pending) {
            put(&mut contents.durable, offset, &written);
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.contents.lock().cached.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.contents.lock().cached.resize(length as usize, 0);
        Ok(())
    }

    fn allocate(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_back(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn advise(&self, _: u64, _: u64, _: Advice) -> io::Result<()> {
        Ok(())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "test".into()
    }
}
