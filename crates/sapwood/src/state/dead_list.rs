//! What is dead in the current state but still held by an older one.
//!
//! A held state is one that was replaced and is still referenced. Each has a list of the blocks
//! that died after it. When a hold ends, its list passes to the next older hold, less what was born
//! after that one: the rest is free (as ZFS does with its dead lists; Bonwick and Moore, "ZFS: The
//! Last Word in File Systems", dead lists of snapshots). Each list is kept in parts, one for each
//! older hold after which something in it was born, so that whole parts pass on, and births need
//! not be kept.
//!
//! When the lists take more memory than they may, *pieces* of the longest parts go to the file
//! (`merge/lists` does it). A piece passes on unread; when its hold has ended it waits until a step
//! reads it back.
//!
//! *Guarantees*: E1: a block with birth `b` and death `d` that is not free is in the list of the
//! newest held state `h` with `b <= h < d`, or in a piece whose hold has ended and that waits to be
//! read (E8). *Threads*: ends of holds arrive over a channel, so that dropping a state takes no
//! lock.

mod piece;
#[cfg(test)]
mod tests;

use piece::Piece;
pub use piece::{PieceContent, PieceName, decode_piece, encode_piece};

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use crate::error::Error;
use crate::page::{Block, Charge, MemoryBudget, MemoryPart, NodeRef};
use crate::sync::{Arc, LockRank, OrderedMutex, channel};
use crate::types::Epoch;

/// A block that a state no longer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The block.
    pub block: Block,
    /// The state that it was born in; 0: it never was in one.
    pub birth: Epoch,
    /// It is a value's, not a node.
    pub is_value: bool,
}

impl Dead {
    /// A node.
    pub fn node(block: Block, birth: Epoch) -> Dead {
        Dead { block, birth, is_value: false }
    }

    /// A block of a value.
    pub fn value(block: Block, birth: Epoch) -> Dead {
        Dead { block, birth, is_value: true }
    }
}

/// The rank of the lock over the held states.
pub const DEAD_LISTS: LockRank = LockRank::new(45, "dead lists");

/// How many bytes and pages the lists hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldStats {
    /// States that are held.
    pub states: u64,
    /// Dead blocks in their lists.
    pub blocks: u64,
    /// The pages of those blocks.
    pub pages: u64,
    /// Pages of the nodes that hold pieces of the lists.
    pub list_pages: u64,
}

/// When lists go to the file, and in what pieces.
#[derive(Clone, Debug)]
pub struct ListLimits {
    /// Bytes that blocks of the lists may take in memory.
    pub bytes_max: u64,
    /// Blocks of a piece. A part with fewer stays in memory.
    pub piece_blocks: RangeInclusive<usize>,
}

/// Blocks of one piece, at the longest.
const PIECE_BLOCKS_MAX: usize = 4096;
/// At the least: so few take no less memory as a piece.
const PIECE_BLOCKS_MIN: usize = 32;

impl ListLimits {
    /// A sixteenth of the budget, unless so many bytes are said.
    pub fn new(budget: &MemoryBudget, bytes_max: Option<u64>) -> ListLimits {
        let bytes_max = bytes_max.unwrap_or(budget.total() / 16);
        ListLimits { bytes_max, piece_blocks: PIECE_BLOCKS_MIN..=PIECE_BLOCKS_MAX }
    }
}

/// A piece that somebody writes, or reads back.
#[derive(Clone, Debug)]
pub struct PieceOut {
    /// Its name.
    pub name: PieceName,
    /// What it names, or where that is written.
    pub content: PieceContent,
}

/// What is dead and not free yet, as of one moment.
#[derive(Debug)]
pub struct DeadBlocks {
    /// What is in memory, with the nodes of the pieces.
    pub blocks: Vec<Block>,
    /// The pieces, none of which goes while this lives.
    pub written: Vec<NodeRef>,
    _looking: Arc<()>,
}

/// All held states with their dead lists.
#[derive(Debug)]
pub struct HeldStates {
    held: OrderedMutex<Held>,
    released: channel::Receiver<Epoch>,
    releases: channel::Sender<Epoch>,
}

/// Blocks of one list that were born after the same held state and not after the next one.
#[derive(Debug, Default)]
struct Part {
    /// Those that are in no piece.
    blocks: Vec<Block>,
    pieces: Vec<PieceName>,
    /// Of the pieces too.
    block_count: u64,
    pages: u64,
}

impl Part {
    fn push(&mut self, block: Block) {
        self.blocks.push(block);
        self.block_count += 1;
        self.pages += u64::from(block.pages);
    }

    fn append(&mut self, mut other: Part) {
        if self.blocks.len() < other.blocks.len() {
            std::mem::swap(&mut self.blocks, &mut other.blocks);
        }
        self.blocks.append(&mut other.blocks);
        self.pieces.append(&mut other.pieces);
        self.block_count += other.block_count;
        self.pages += other.pages;
    }

    fn block_bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
    }

    /// Takes some blocks out for a piece, in the order of the file.
    fn cut(&mut self, blocks_max: usize) -> Vec<Block> {
        let rest = self.blocks.len().saturating_sub(blocks_max);
        let mut blocks = match rest {
            0 => std::mem::take(&mut self.blocks),
            _ => self.blocks.split_off(rest),
        };
        self.blocks.shrink_to(2 * rest);
        blocks.shrink_to_fit();
        blocks.sort_unstable();
        blocks
    }

    fn memory_bytes(&self) -> usize {
        PART_BYTES + self.block_bytes() + self.pieces.capacity() * size_of::<PieceName>()
    }
}

/// About what a part takes beside its blocks, in bytes.
const PART_BYTES: usize = 3 * size_of::<(Option<Epoch>, Part)>() / 2;

/// Parts by the newest hold that is older than their births; `None`: there is none.
type DeadList = BTreeMap<Option<Epoch>, Part>;

#[derive(Debug)]
struct Held {
    lists: BTreeMap<Epoch, DeadList>,
    pieces: BTreeMap<PieceName, Piece>,
    next_piece: u64,
    /// Pieces whose holds have ended, to be read back.
    ended: VecDeque<PieceName>,
    /// What the pieces take in memory.
    piece_bytes: usize,
    /// Pages of the nodes of written pieces.
    list_pages: u64,
    limits: ListLimits,
    /// Shared by whoever looks at the pieces.
    looking: Arc<()>,
    charge: Charge,
}

impl Held {
    /// The newest hold before a state.
    fn before(&self, epoch: Epoch) -> Option<Epoch> {
        self.lists.range(..epoch).next_back().map(|(epoch, _)| *epoch)
    }

    /// Puts a dead block where it belongs, or says that it is free.
    fn dispose(&mut self, dead: Dead, death: Epoch) -> Option<Block> {
        let born_after = self.before(dead.birth);
        match self.lists.range_mut(..death).next_back() {
            Some((epoch, list)) if *epoch >= dead.birth => {
                list.entry(born_after).or_default().push(dead.block);
                None
            }
            _ => Some(dead.block),
        }
    }

    /// A hold has ended: its list passes on. What is free is added to `free`.
    fn end(&mut self, epoch: Epoch, free: &mut Vec<Block>) {
        // A state that was never replaced is the current one of a database that closes.
        let Some(list) = self.lists.remove(&epoch) else { return };
        let older = self.before(epoch);
        for (born_after, part) in list {
            match older.and_then(|older| self.lists.get_mut(&older)) {
                // It lived when the older one was current.
                Some(list) if born_after != older => {
                    list.entry(born_after).or_default().append(part);
                }
                _ => {
                    free.extend(part.blocks);
                    self.ended.extend(part.pieces);
                }
            }
        }
        // What was born after the hold that has ended was born after the one before it.
        for list in self.lists.range_mut(epoch..).map(|(_, list)| list) {
            if let Some(part) = list.remove(&Some(epoch)) {
                list.entry(older).or_default().append(part);
            }
        }
    }

    fn recharge(&mut self) {
        let parts = self.lists.values().flat_map(BTreeMap::values);
        let bytes = parts.map(Part::memory_bytes).sum::<usize>() + self.piece_bytes;
        self.charge.set(bytes as u64);
    }

    /// What pieces could make less: the parts themselves stay in memory.
    fn block_bytes(&self) -> usize {
        let parts = self.lists.values().flat_map(BTreeMap::values);
        let pieces = self.piece_bytes - self.pieces.len() * Piece::OWN_BYTES;
        parts.map(Part::block_bytes).sum::<usize>() + pieces
    }

    /// Makes a piece of the longest part, if that is long enough.
    fn cut_longest(&mut self) -> Option<PieceName> {
        let parts = self.lists.values_mut().flat_map(BTreeMap::values_mut);
        let longest = parts.max_by_key(|part| part.blocks.len())?;
        if longest.blocks.len() < *self.limits.piece_blocks.start() {
            return None;
        }
        let blocks = longest.cut(*self.limits.piece_blocks.end());
        let name = PieceName(self.next_piece);
        self.next_piece += 1;
        longest.pieces.push(name);
        let piece = Piece {
            blocks: blocks.len() as u64,
            pages: blocks.iter().map(|block| u64::from(block.pages)).sum(),
            content: PieceContent::Memory(Arc::new(blocks)),
            is_out: false,
        };
        self.piece_bytes += piece.memory_bytes();
        self.pieces.insert(name, piece);
        Some(name)
    }

    fn take_out(&mut self, name: PieceName) -> Option<PieceOut> {
        let piece = self.pieces.get_mut(&name).filter(|piece| !piece.is_out)?;
        piece.is_out = true;
        Some(PieceOut { name, content: piece.content.clone() })
    }
}

impl HeldStates {
    /// No held states; the lists count against `budget`.
    pub fn new(budget: &Arc<MemoryBudget>, limits: ListLimits) -> HeldStates {
        let (releases, released) = channel::unbounded();
        let held = Held {
            lists: BTreeMap::new(),
            pieces: BTreeMap::new(),
            next_piece: 0,
            ended: VecDeque::new(),
            piece_bytes: 0,
            list_pages: 0,
            limits,
            looking: Arc::default(),
            charge: budget.charge(MemoryPart::DeadLists, 0),
        };
        HeldStates { held: OrderedMutex::new(DEAD_LISTS, held), released, releases }
    }

    /// Changes when lists go to the file.
    #[cfg(feature = "internals")]
    pub fn set_limits(&self, limits: ListLimits) {
        self.held.lock().limits = limits;
    }

    /// Where states tell that their last reference is gone.
    pub fn releases(&self) -> channel::Sender<Epoch> {
        self.releases.clone()
    }

    /// State `replaced` gives way to the next one; `died` says what the next one no longer uses,
    /// without what others keep. They may be done with that at once: it waits until `replaced`
    /// counts as held. Called before anyone can see the next state.
    pub fn replaced(&self, replaced: Epoch, died: impl FnOnce() -> Vec<Dead>) {
        let mut held = self.held.lock();
        let newest = held.lists.keys().next_back().copied();
        assert!(newest.is_none_or(|epoch| epoch < replaced), "states are replaced in their order");
        let died = died();
        debug_assert!(died.iter().all(|dead| dead.birth <= replaced), "what dies was there");
        let mut list = DeadList::new();
        for dead in died {
            list.entry(held.before(dead.birth)).or_default().push(dead.block);
        }
        held.lists.insert(replaced, list);
        held.recharge();
    }

    /// Adds a block that died with the install of `death`, at any later time. It is returned when
    /// it is free.
    pub fn dispose(&self, dead: Dead, death: Epoch) -> Option<Block> {
        self.held.lock().dispose(dead, death)
    }

    /// Takes note of the holds that have ended; returns the blocks that are free now.
    pub fn collect(&self) -> Vec<Block> {
        if self.released.is_empty() {
            return Vec::new();
        }
        let mut held = self.held.lock();
        let mut free = Vec::new();
        while let Ok(epoch) = self.released.try_recv() {
            held.end(epoch, &mut free);
        }
        held.recharge();
        free
    }

    /// The epochs that are held, oldest first.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.held.lock().lists.keys().copied().collect()
    }

    /// Every dead block that is not free yet, and the nodes that hold lists.
    pub fn blocks(&self) -> DeadBlocks {
        let held = self.held.lock();
        let parts = held.lists.values().flat_map(BTreeMap::values);
        let mut blocks: Vec<Block> = parts.flat_map(|part| part.blocks.iter().copied()).collect();
        let mut written = Vec::new();
        for piece in held.pieces.values() {
            match &piece.content {
                PieceContent::Memory(own) => blocks.extend_from_slice(own),
                PieceContent::Written(node) => {
                    blocks.push(node.block());
                    written.push(*node);
                }
            }
        }
        DeadBlocks { blocks, written, _looking: Arc::clone(&held.looking) }
    }

    /// How much is held. What waits to be read back counts too.
    pub fn stats(&self) -> HeldStats {
        let held = self.held.lock();
        let parts = || held.lists.values().flat_map(BTreeMap::values);
        let ended = || held.ended.iter().filter_map(|name| held.pieces.get(name));
        let blocks = |sum: u64| sum + ended().map(|piece| piece.blocks).sum::<u64>();
        let pages = |sum: u64| sum + ended().map(|piece| piece.pages).sum::<u64>();
        HeldStats {
            states: held.lists.len() as u64,
            blocks: blocks(parts().map(|part| part.block_count).sum()),
            pages: pages(parts().map(|part| part.pages).sum()),
            list_pages: held.list_pages,
        }
    }

    /// A piece to write, when the lists take too much memory. [`HeldStates::written`] or
    /// [`HeldStates::not_done`] comes after.
    pub fn begin_writing(&self) -> Option<PieceOut> {
        let mut held = self.held.lock();
        if held.block_bytes() as u64 <= held.limits.bytes_max {
            return None;
        }
        // One whose write has failed comes first.
        let in_memory = |piece: &&Piece| matches!(piece.content, PieceContent::Memory(_));
        let mut pieces = held.pieces.iter();
        let failed = pieces.find(|(_, piece)| in_memory(piece) && !piece.is_out);
        let name = failed.map(|(name, _)| *name).or_else(|| held.cut_longest())?;
        held.recharge();
        held.take_out(name)
    }

    /// The piece is written: memory lets go of its blocks.
    pub fn written(&self, name: PieceName, node: NodeRef) {
        let mut guard = self.held.lock();
        let held = &mut *guard;
        let Some(piece) = held.pieces.get_mut(&name) else { return };
        held.piece_bytes -= piece.memory_bytes();
        piece.content = PieceContent::Written(node);
        piece.is_out = false;
        held.piece_bytes += piece.memory_bytes();
        held.list_pages += u64::from(node.pages);
        held.recharge();
    }

    /// What was begun with a piece has failed, and can be begun again.
    pub fn not_done(&self, name: PieceName) {
        if let Some(piece) = self.held.lock().pieces.get_mut(&name) {
            piece.is_out = false;
        }
    }

    /// A piece is damaged: what it names stays given out until the next open.
    pub fn set_aside(&self, name: PieceName, error: &Error) {
        let mut held = self.held.lock();
        held.ended.retain(|other| *other != name);
        drop(held);
        tracing::error!(
            target: "sapwood::storage",
            %error,
            "a list of dead blocks is damaged; an open frees what it names"
        );
    }

    /// A piece whose hold has ended, to be read back; none while somebody looks at the pieces.
    /// [`HeldStates::given_back`] or [`HeldStates::not_done`] comes after.
    pub fn begin_reading(&self) -> Option<PieceOut> {
        let mut held = self.held.lock();
        if Arc::strong_count(&held.looking) > 1 {
            return None;
        }
        // The next one is another, should this one fail.
        for _ in 0..held.ended.len() {
            let name = held.ended.pop_front()?;
            held.ended.push_back(name);
            if let Some(out) = held.take_out(name) {
                return Some(out);
            }
        }
        None
    }

    /// The piece was read: the caller frees what it names, and its node, unless the answer is false
    /// because somebody has begun to look at it.
    pub fn given_back(&self, name: PieceName) -> bool {
        let mut guard = self.held.lock();
        let held = &mut *guard;
        if Arc::strong_count(&held.looking) > 1 {
            if let Some(piece) = held.pieces.get_mut(&name) {
                piece.is_out = false;
            }
            return false;
        }
        if let Some(piece) = held.pieces.remove(&name) {
            held.piece_bytes -= piece.memory_bytes();
            if let PieceContent::Written(node) = piece.content {
                held.list_pages -= u64::from(node.pages);
            }
        }
        held.ended.retain(|other| *other != name);
        held.recharge();
        true
    }

    /// The pages that would be free if the hold on one state, and no other, ended.
    pub fn pages_alone(&self, epoch: Epoch) -> u64 {
        let held = self.held.lock();
        let part = held.lists.get(&epoch).and_then(|list| list.get(&held.before(epoch)));
        part.map_or(0, |part| part.pages)
    }
}
