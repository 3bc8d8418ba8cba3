//! What is dead in the current state but still held by an older one.
//!
//! A held state is one that was replaced and is still referenced. Each has a list of the blocks
//! that died after it. When a hold ends, its list passes to the next older hold, less what was born
//! after that one: the rest is free (as ZFS does with its dead lists; Bonwick and Moore, "ZFS: The
//! Last Word in File Systems", dead lists of snapshots). Each list is kept in parts, one for each
//! older hold after which something in it was born, so that whole parts pass on, and births need
//! not be kept.
//!
//! When the lists take more memory than they may, *pieces* of them go to the file (`merge/lists`
//! does it). A piece of one long part belongs to the part: it passes on unread, and when its hold
//! has ended it waits until a step reads it back. Of the short parts of a list most go into one
//! *mixed* piece, which keeps in memory neither the parts nor their number. It belongs to the list
//! and passes on with it. It is *due* when some of it is free or would be counted as what the hold
//! alone keeps; then it waits too, and what of it is not free comes back into parts.
//!
//! A piece says of its blocks after which hold they were born, as it was when the piece was cut.
//! That is enough: holds only go, and new ones are newer than all. So the holds that are left, up
//! to that of the list, are all those that a block can still have.
//!
//! *Guarantees*: E1: a block with birth `b` and death `d` that is not free is in the list of the
//! newest held state `h` with `b <= h < d`, or in a piece that is due and waits to be read (E8).
//! *Threads*: ends of holds arrive over a channel, so that dropping a state takes no lock.

mod parts;
mod piece;
#[cfg(test)]
mod tests;

use parts::{DeadList, Mix, Part};
use piece::Piece;
pub use piece::{Group, PieceContent, PieceName, decode_piece, encode_piece};

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
    /// Bytes that the lists may take in memory, beside what stays there in any case.
    pub bytes_max: u64,
    /// Bytes of each list that stay in any case: no piece is made for so little.
    pub list_bytes: u64,
    /// Blocks of a piece. A part with fewer gets none of its own.
    pub piece_blocks: RangeInclusive<usize>,
}

/// Blocks of one piece, at the longest.
const PIECE_BLOCKS_MAX: usize = 4096;
/// At the least: so few take no less memory as a piece.
const PIECE_BLOCKS_MIN: usize = 32;
/// About what the newest parts of a list take, which no piece takes up.
const LIST_BYTES: u64 = 2048;
/// Longer parts than so many in a piece have pieces of their own, which are read once.
const LONG_PARTS_MAX: usize = 8;

impl ListLimits {
    /// A sixteenth of the budget, and what stays; unless so many bytes are said.
    pub fn new(budget: &MemoryBudget, bytes_max: Option<u64>) -> ListLimits {
        let (bytes_max, list_bytes) = match bytes_max {
            Some(bytes_max) => (bytes_max, 0),
            None => (budget.total() / 16, LIST_BYTES),
        };
        ListLimits { bytes_max, list_bytes, piece_blocks: PIECE_BLOCKS_MIN..=PIECE_BLOCKS_MAX }
    }

    /// Blocks of a part that is never mixed with others.
    fn long(&self) -> usize {
        (self.piece_blocks.end() / LONG_PARTS_MAX).max(*self.piece_blocks.start())
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

#[derive(Debug)]
struct Held {
    lists: BTreeMap<Epoch, DeadList>,
    pieces: BTreeMap<PieceName, Piece>,
    next_piece: u64,
    /// Pieces to be read back. They belong to no list any more.
    due: VecDeque<PieceName>,
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
                list.part(born_after).push(dead.block);
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
        for (born_after, part) in list.parts {
            match older.and_then(|older| self.lists.get_mut(&older)) {
                // It lived when the older one was current.
                Some(list) if born_after != older => {
                    list.part(born_after).append(part);
                }
                _ => {
                    free.extend(part.blocks);
                    self.due.extend(part.pieces);
                }
            }
        }
        self.pass_on(list.mixed, older);
        // What was born after the hold that has ended was born after the one before it.
        for list in self.lists.range_mut(epoch..).map(|(_, list)| list) {
            if let Some(part) = list.parts.remove(&Some(epoch)) {
                list.part(older).append(part);
            }
        }
        // The next newer one has another hold before it.
        let newer = self.lists.range_mut(epoch..).next();
        let of_newer = newer.map(|(epoch, list)| (*epoch, std::mem::take(&mut list.mixed)));
        if let Some((newer, mixed)) = of_newer {
            self.pass_on(mixed, Some(newer));
        }
    }

    /// Gives mixed pieces to a list. They wait to be read instead when some of their blocks were
    /// born after the hold before the list's: those are what the hold alone keeps, or free.
    fn pass_on(&mut self, mixed: Vec<PieceName>, to: Option<Epoch>) {
        let before = to.and_then(|list| self.before(list));
        let is_due =
            |name: &PieceName| self.pieces.get(name).is_none_or(|piece| before <= piece.newest);
        match to.and_then(|list| self.lists.get_mut(&list)) {
            None => self.due.extend(mixed),
            Some(list) => {
                let (due, stays): (Vec<PieceName>, Vec<PieceName>) =
                    mixed.into_iter().partition(is_due);
                self.due.extend(due);
                if list.mixed.is_empty() { list.mixed = stays } else { list.mixed.extend(stays) }
            }
        }
    }

    /// Puts blocks of a piece that was cut from `list` where they belong now; returns those that
    /// are free.
    fn put_back(&mut self, list: Epoch, groups: &[Group]) -> Vec<Block> {
        let mut free = Vec::new();
        for group in groups {
            let newest = |epoch| self.lists.range(..=epoch).next_back().map(|(epoch, _)| *epoch);
            let born_after = group.born_after.and_then(newest);
            match self.lists.range_mut(..=list).next_back() {
                Some((hold, list)) if Some(*hold) > group.born_after => {
                    list.part(born_after).extend(&group.blocks);
                }
                _ => free.extend_from_slice(&group.blocks),
            }
        }
        free
    }

    fn memory_bytes(&self) -> usize {
        self.lists.values().map(DeadList::memory_bytes).sum::<usize>() + self.piece_bytes
    }

    /// What cuts make less: not what pieces take themselves, nor the little of each list. Were that
    /// to count, small pieces would be made for ever, each of which adds to it.
    fn bytes_to_cut(&self) -> u64 {
        let lists = self.lists.values().map(|list| list.memory_bytes() as u64);
        let long: u64 = lists.map(|bytes| bytes.saturating_sub(self.limits.list_bytes)).sum();
        long + (self.piece_bytes - self.pieces.len() * Piece::OWN_BYTES) as u64
    }

    fn recharge(&mut self) {
        self.charge.set(self.memory_bytes() as u64);
    }

    /// The short parts of one list that together take the most memory.
    fn best_mix(&self) -> Option<Mix> {
        let mut before = None;
        let mixes = self.lists.iter().filter_map(|(epoch, list)| {
            let older = before.replace(*epoch);
            list.mix(*epoch, older, &self.limits)
        });
        mixes.max_by_key(|mix| mix.bytes)
    }

    /// Makes a piece of the longest part or of short ones, if there is anything to make one of.
    fn cut(&mut self) -> Option<PieceName> {
        let mix = self.best_mix();
        let limits = &self.limits;
        let goes_alone = |part: &Part| {
            let mixed_bytes = mix.map_or(0, |mix| mix.bytes);
            let is_long = part.blocks.len() >= limits.long();
            part.blocks.len() >= *limits.piece_blocks.start()
                && (is_long || part.block_bytes() >= mixed_bytes)
        };
        let parts = self.lists.iter_mut().flat_map(|(list, DeadList { parts, .. })| {
            parts.iter_mut().map(|(born_after, part)| (*list, *born_after, part))
        });
        let longest = parts.max_by_key(|(_, _, part)| part.blocks.len());
        let name = PieceName(self.next_piece);
        let piece = match longest.filter(|(_, _, part)| goes_alone(part)) {
            Some((list, born_after, part)) => {
                part.pieces.push(name);
                let blocks = part.cut(*limits.piece_blocks.end());
                Piece::new(list, vec![Group { born_after, blocks }])
            }
            None => {
                let mix = mix?;
                let list = self.lists.get_mut(&mix.list)?;
                list.mixed.push(name);
                Piece::new(mix.list, list.cut(mix, limits))
            }
        };
        self.next_piece += 1;
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
            due: VecDeque::new(),
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
        let mut list = DeadList::default();
        for dead in died {
            list.part(held.before(dead.birth)).push(dead.block);
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
        let parts = held.lists.values().flat_map(|list| list.parts.values());
        let mut blocks: Vec<Block> = parts.flat_map(|part| part.blocks.iter().copied()).collect();
        let mut written = Vec::new();
        for piece in held.pieces.values() {
            match &piece.content {
                PieceContent::Memory(own) => {
                    own.iter().for_each(|group| blocks.extend_from_slice(&group.blocks));
                }
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
        let parts = || held.lists.values().flat_map(|list| list.parts.values());
        // Other pieces count in their parts.
        let mixed = || held.lists.values().flat_map(|list| &list.mixed);
        let apart = || held.due.iter().chain(mixed()).filter_map(|name| held.pieces.get(name));
        let blocks = |sum: u64| sum + apart().map(|piece| piece.blocks).sum::<u64>();
        let pages = |sum: u64| sum + apart().map(|piece| piece.pages).sum::<u64>();
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
        if held.bytes_to_cut() <= held.limits.bytes_max {
            return None;
        }
        // One whose write has failed comes first.
        let in_memory = |piece: &&Piece| matches!(piece.content, PieceContent::Memory(_));
        let mut pieces = held.pieces.iter();
        let failed = pieces.find(|(_, piece)| in_memory(piece) && !piece.is_out);
        let name = failed.map(|(name, _)| *name).or_else(|| held.cut())?;
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
        held.due.retain(|other| *other != name);
        drop(held);
        tracing::error!(
            target: "sapwood::storage",
            %error,
            "a list of dead blocks is damaged; an open frees what it names"
        );
    }

    /// A piece that is due, to be read back; none while somebody looks at the pieces.
    /// [`HeldStates::given_back`] or [`HeldStates::not_done`] comes after.
    pub fn begin_reading(&self) -> Option<PieceOut> {
        let mut held = self.held.lock();
        if Arc::strong_count(&held.looking) > 1 {
            return None;
        }
        // The next one is another, should this one fail.
        for _ in 0..held.due.len() {
            let name = held.due.pop_front()?;
            held.due.push_back(name);
            if let Some(out) = held.take_out(name) {
                return Some(out);
            }
        }
        None
    }

    /// The piece was read. The caller frees what is returned, and the piece's node, unless the
    /// answer is `None` because somebody has begun to look at it.
    pub fn given_back(&self, name: PieceName, groups: &[Group]) -> Option<Vec<Block>> {
        let mut guard = self.held.lock();
        let held = &mut *guard;
        if Arc::strong_count(&held.looking) > 1 {
            if let Some(piece) = held.pieces.get_mut(&name) {
                piece.is_out = false;
            }
            return None;
        }
        let mut free = Vec::new();
        if let Some(piece) = held.pieces.remove(&name) {
            held.piece_bytes -= piece.memory_bytes();
            if let PieceContent::Written(node) = piece.content {
                held.list_pages -= u64::from(node.pages);
            }
            free = held.put_back(piece.list, groups);
        }
        // It was put behind all others when it was begun with.
        if let Some(index) = held.due.iter().rposition(|other| *other == name) {
            held.due.remove(index);
        }
        held.recharge();
        Some(free)
    }

    /// The pages that would be free if the hold on one state, and no other, ended.
    pub fn pages_alone(&self, epoch: Epoch) -> u64 {
        let held = self.held.lock();
        let part = held.lists.get(&epoch).and_then(|list| list.parts.get(&held.before(epoch)));
        part.map_or(0, |part| part.pages)
    }
}
