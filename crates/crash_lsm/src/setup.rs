//! The options that a run opens its database with, drawn from its seed.
//!
//! *Guarantees*: a setup is always valid. What was fixed when the file was created stays the same
//! in [`Setup::redraw`]; everything else may change there.

use sapwood::storage::Storage;
use sapwood::sync::{Arc, Random};
use sapwood::{Builder, Compression, Database, Durability, KeyspaceOptions, Result};

/// The least memory budget that a database takes.
pub const BUDGET_BYTES_MIN: u64 = 4 << 20;

/// Options of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Reserved bytes of each page.
    pub reserved_bytes: u16,
    /// Bytes of a region.
    pub region_bytes: u64,
    /// Bytes of a leaf.
    pub leaf_bytes: u32,
    /// The memory budget.
    pub budget_bytes: u64,
    /// What a transaction keeps of its writes in memory; `None`: what the engine gives it.
    pub transaction_bytes: Option<u64>,
    /// What commits do that do not say.
    pub durability: Durability,
    /// So many dead keys that a scan walks over in a row are joined.
    pub join_keys_min: u64,
    /// Whether nodes are read in place; the simulated disk then sees to it that nobody writes
    /// there.
    pub memory_map: bool,
    /// What lists of dead blocks may take of memory, before they go to the file in short pieces;
    /// `None`: what the engine gives them.
    pub dead_list_bytes: Option<u64>,
}

impl Setup {
    /// The smallest of everything: many pages, leaves, levels and regions with little data.
    #[must_use]
    pub fn tiny() -> Setup {
        Setup {
            page_bytes: 1 << 10,
            reserved_bytes: 0,
            region_bytes: 128 << 10,
            leaf_bytes: 1 << 10,
            budget_bytes: BUDGET_BYTES_MIN,
            transaction_bytes: None,
            durability: Durability::Buffered,
            join_keys_min: 2,
            memory_map: false,
            dead_list_bytes: None,
        }
    }

    /// Draws a setup; small ones are likelier.
    pub fn draw(random: &mut Random) -> Setup {
        let page_bytes = 1u32 << (10 + random.below(7).saturating_sub(3));
        let reserved_bytes = if random.one_in(3) { 8 * (1 + random.below(32)) as u16 } else { 0 };
        // A region must hold the longest nodes: those of four of the longest keys.
        let region_pages = 128u64 << random.below(4);
        let region_bytes = (region_pages * u64::from(page_bytes)).max(256 << 10);
        let setup = Setup { page_bytes, reserved_bytes, region_bytes, ..Setup::tiny() };
        setup.redraw(random)
    }

    /// Draws again what may differ from one open to the next.
    #[must_use]
    pub fn redraw(self, random: &mut Random) -> Setup {
        let leaf_bytes = self.page_bytes << random.below(3);
        let budget_bytes = BUDGET_BYTES_MIN << (random.below(6) / 4);
        // Most transactions of a run are small, so that they spill only when little is kept.
        let transaction_bytes = (!random.one_in(3)).then(|| 1 << random.below(14));
        let durability = draw_durability(random);
        let leaf_bytes = leaf_bytes.min(1 << 16);
        let join_keys_min = 1 << random.below(7);
        let redrawn = Setup { leaf_bytes, budget_bytes, transaction_bytes, durability, ..self };
        // Three of seven each, without a draw of their own.
        let memory_map = [1, 8, 64].contains(&join_keys_min);
        let dead_list_bytes = [2, 8, 32].contains(&join_keys_min).then_some(64);
        Setup { join_keys_min, memory_map, dead_list_bytes, ..redrawn }
    }

    /// A builder with these options, without merge threads.
    pub fn builder(&self) -> Builder {
        let builder = Database::builder();
        let builder = match self.transaction_bytes {
            Some(bytes) => builder.transaction_bytes(bytes),
            None => builder,
        };
        builder
            .page_size(self.page_bytes)
            .reserved_bytes(self.reserved_bytes)
            .region_bytes(self.region_bytes)
            .leaf_bytes(self.leaf_bytes)
            .memory_budget(self.budget_bytes)
            .join_keys_min(self.join_keys_min)
            .memory_map(self.memory_map)
            .durability(self.durability)
            .merge_threads(0)
    }

    /// Opens a database on a storage.
    ///
    /// # Errors
    /// Those of the open.
    pub fn open_on(&self, storage: Arc<dyn Storage>) -> Result<Database> {
        self.builder().open_on(storage)
    }
}

/// Draws a durability; all three are likely.
pub fn draw_durability(random: &mut Random) -> Durability {
    match random.below(5) {
        0 | 1 => Durability::Memory,
        2 | 3 => Durability::Buffered,
        _ => Durability::Sync,
    }
}

/// Draws the options of a keyspace.
pub fn draw_keyspace_options(random: &mut Random) -> KeyspaceOptions {
    let compression = if random.one_in(2) {
        Compression::None
    } else {
        Compression::Zstd(1 + random.below(3) as i32)
    };
    let filter_bits = [0, 4, 10, 20][random.below(4) as usize];
    KeyspaceOptions::default().compression(compression).filter_bits(filter_bits)
}
