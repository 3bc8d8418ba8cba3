//! What the page manager has read and written.

use crate::sync::atomic::{AtomicU64, Ordering};

use super::node_header::NodeKind;

/// Counts since the open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageCounters {
    /// Nodes written, by [`NodeKind::index`].
    pub nodes_written: [u64; NodeKind::ALL.len()],
    /// Bytes of whole pages written for them, by [`NodeKind::index`].
    pub node_bytes_written: [u64; NodeKind::ALL.len()],
    /// Nodes read from the storage, by [`NodeKind::index`].
    pub nodes_read: [u64; NodeKind::ALL.len()],
    /// How many of all kinds were read in place.
    pub nodes_in_place: u64,
    /// Bytes read from the storage, streams included.
    pub bytes_read: u64,
    /// Bytes written to streams: overflow values.
    pub stream_bytes_written: u64,
    /// Nodes found in memory.
    pub cache_hits: u64,
    /// Nodes not found in memory.
    pub cache_misses: u64,
}

impl PageCounters {
    /// All bytes written but the log's: nodes and streams.
    pub fn bytes_written(&self) -> u64 {
        self.node_bytes_written.iter().sum::<u64>() + self.stream_bytes_written
    }
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    nodes_written: [AtomicU64; NodeKind::ALL.len()],
    node_bytes_written: [AtomicU64; NodeKind::ALL.len()],
    nodes_read: [AtomicU64; NodeKind::ALL.len()],
    nodes_in_place: AtomicU64,
    bytes_read: AtomicU64,
    stream_bytes_written: AtomicU64,
}

fn add(counters: &[AtomicU64], kind: NodeKind, by: u64) {
    if let Some(counter) = counters.get(kind.index()) {
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Counters {
    pub(super) fn node_written(&self, kind: NodeKind, bytes: usize) {
        add(&self.nodes_written, kind, 1);
        add(&self.node_bytes_written, kind, bytes as u64);
    }

    pub(super) fn node_read(&self, kind: NodeKind, bytes: usize) {
        add(&self.nodes_read, kind, 1);
        self.stream_read(bytes);
    }

    pub(super) fn node_read_in_place(&self, kind: NodeKind) {
        add(&self.nodes_read, kind, 1);
        self.nodes_in_place.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn stream_read(&self, bytes: usize) {
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn stream_written(&self, bytes: usize) {
        self.stream_bytes_written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> PageCounters {
        let all = |counters: &[AtomicU64; NodeKind::ALL.len()]| {
            std::array::from_fn(|index| {
                counters.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
            })
        };
        PageCounters {
            nodes_written: all(&self.nodes_written),
            node_bytes_written: all(&self.node_bytes_written),
            nodes_read: all(&self.nodes_read),
            nodes_in_place: self.nodes_in_place.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            stream_bytes_written: self.stream_bytes_written.load(Ordering::Relaxed),
            ..PageCounters::default()
        }
    }
}
