//! Range tombstones: the value of their entries, and the algebra of fragments that merges use.
//!
//! A fragment is a range with the numbers of the tombstones that cover all of it. The fragments of
//! one source are disjoint and ascend; a sweep over several sources cuts them where any begins or
//! ends.
//!
//! *Assumes*: the fragments of each source ascend and do not overlap (a wrong source gives a wrong
//! answer, never a panic or an endless loop).
//!
//! *Format*: docs/format.md, section 4.3.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::cmp::Ordering;
use std::convert::Infallible;

use super::sorted_block::SortedBlock;
use super::{BlockProblem, COMPOSITE_KEY_BYTES_MAX};
use crate::codec::{Reader, put_varint};

#[cfg(test)]
mod tests;

const FLAG_NO_END: u8 = 1;

/// Appends the value of a range tombstone's entry to `out`. `numbers` descend, none below
/// `base_number`; `base_number` is `None` where entries carry no numbers, and `numbers` empty.
pub fn encode_value(
    end: Option<&[u8]>,
    base_number: Option<u64>,
    numbers: &[u64],
    out: &mut Vec<u8>,
) {
    out.push(if end.is_none() { FLAG_NO_END } else { 0 });
    let end = end.unwrap_or_default();
    put_varint(out, end.len() as u64);
    out.extend_from_slice(end);
    match base_number {
        Some(base_number) => {
            assert!(!numbers.is_empty(), "a fragment with numbers has at least one");
            assert!(numbers.is_sorted_by(|a, b| a > b), "a fragment's numbers descend");
            put_varint(out, numbers.len() as u64);
            for number in numbers {
                assert!(*number >= base_number, "a fragment's number is below the base number");
                put_varint(out, number.saturating_sub(base_number));
            }
        }
        None => assert!(numbers.is_empty(), "a fragment without numbers has some"),
    }
}

/// The value of a range tombstone's entry.
#[derive(Clone, Copy, Debug)]
pub struct RangeValue<'a> {
    /// The first key that is not covered; `None`: all keys to the end of the keyspace are.
    pub end: Option<&'a [u8]>,
    numbers: Reader<'a>,
    number_count: usize,
    base_number: u64,
}

impl<'a> RangeValue<'a> {
    /// Reads and checks the value that fills `value`; `base_number` is that of the block when its
    /// entries carry numbers.
    pub fn decode(
        value: &'a [u8],
        base_number: Option<u64>,
    ) -> Result<RangeValue<'a>, BlockProblem> {
        let mut reader = Reader::new(value);
        let flags = reader.u8()?;
        if flags & !FLAG_NO_END != 0 {
            return Err(BlockProblem("a range tombstone has unknown flags"));
        }
        let end = reader.length_prefixed()?;
        // It may become the start of what lies behind, which is a key.
        if end.len() > COMPOSITE_KEY_BYTES_MAX {
            return Err(BlockProblem("a range tombstone's end is longer than keys may be"));
        }
        let end = match flags & FLAG_NO_END {
            0 => Some(end),
            _ if end.is_empty() => None,
            _ => return Err(BlockProblem("a range tombstone without end has an end key")),
        };
        let Some(base_number) = base_number else {
            reader.finish()?;
            return Ok(RangeValue { end, numbers: reader, number_count: 0, base_number: 0 });
        };
        let number_count = reader.varint_length()?;
        if number_count == 0 || number_count > reader.rest().len() {
            return Err(BlockProblem("the count of a range tombstone's numbers is impossible"));
        }
        let range = RangeValue { end, numbers: reader, number_count, base_number };
        let mut before = None;
        for _ in 0..number_count {
            let delta = reader.varint()?;
            if before.is_some_and(|before| delta >= before) {
                return Err(BlockProblem("a range tombstone's numbers do not descend"));
            }
            if base_number.checked_add(delta).is_none() {
                return Err(BlockProblem("a range tombstone's number exceeds 64 bits"));
            }
            before = Some(delta);
        }
        reader.finish()?;
        Ok(range)
    }

    /// The numbers of the tombstones that cover the range, the highest first; none where entries
    /// carry no numbers.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + use<'a> {
        let mut reader = self.numbers;
        let base_number = self.base_number;
        // All were read once by `decode`.
        (0..self.number_count)
            .map_while(move |_| reader.varint().ok())
            .map(move |delta| base_number.saturating_add(delta))
    }

    /// The highest number at or below `number`: the tombstone that a reader at `number` sees here.
    pub fn newest_at(&self, number: u64) -> Option<u64> {
        self.numbers().find(|n| *n <= number)
    }
}

/// Checks the values of a leaf of a ranges tree, whose entries have been checked already: each
/// range covers something, none begins before the end of the one before, and numbers agree.
pub fn check_leaf(block: &SortedBlock<'_>) -> Result<(), BlockProblem> {
    let base_number = block.is_numbered().then_some(block.base_number());
    let mut end_before: Option<Option<&[u8]>> = None;
    for index in 0..block.len() {
        let entry = block.entry(index)?;
        let range = RangeValue::decode(entry.value, base_number)?;
        if block.is_numbered() && range.numbers().next() != Some(entry.number) {
            return Err(BlockProblem("a range tombstone's entry lacks its highest number"));
        }
        if let Some(end) = range.end
            && block.compare_key(index, end)?.is_ge()
        {
            return Err(BlockProblem("a range tombstone covers nothing"));
        }
        match end_before.replace(range.end) {
            Some(Some(end)) if block.compare_key(index, end)?.is_ge() => {}
            None => {}
            _ => return Err(BlockProblem("range tombstones overlap")),
        }
    }
    Ok(())
}

/// A range of keys that is covered as a whole by the same tombstones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The first key covered.
    pub start: Vec<u8>,
    /// The first key not covered any more; `None`: there is no end.
    pub end: Option<Vec<u8>>,
    /// The numbers of the tombstones, descending; empty where there are no numbers.
    pub numbers: Vec<u64>,
}

impl Fragment {
    /// True when it covers `key`.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// True when one that begins at `start` with these numbers is the same tombstones' further on.
    pub fn goes_on_in(&self, start: &[u8], numbers: &[u64]) -> bool {
        self.end.as_deref() == Some(start) && self.numbers == numbers
    }

    /// How much memory it takes, without its numbers; an estimate.
    pub fn memory_bytes(&self) -> usize {
        // The heap's own share of two allocations.
        let keys = self.start.len().saturating_add(self.end.as_ref().map_or(0, Vec::len));
        keys.saturating_add(const { size_of::<Fragment>() + 2 * 16 })
    }

    /// True when it covers no key at all.
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= self.start.as_slice())
    }
}

/// Compares two ends of ranges; no end is the greatest.
pub fn compare_ends(a: Option<&[u8]>, b: Option<&[u8]>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.cmp(b),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

/// The part of `fragment` that lies in `start..end`, if there is any.
pub fn clip(fragment: &Fragment, start: &[u8], end: Option<&[u8]>) -> Option<Fragment> {
    let start = fragment.start.as_slice().max(start);
    let own_end = fragment.end.as_deref();
    let end = if compare_ends(own_end, end).is_le() { own_end } else { end };
    if end.is_some_and(|end| end <= start) {
        return None;
    }
    Some(Fragment {
        start: start.to_vec(),
        end: end.map(<[u8]>::to_vec),
        numbers: fragment.numbers.clone(),
    })
}

/// A fragment that covers the stretch that a sweep stands on, with the rank of its source.
#[derive(Clone, Copy, Debug)]
pub struct Cover<'a> {
    /// The index of the source; the newest source comes first.
    pub rank: usize,
    /// The fragment.
    pub fragment: &'a Fragment,
}

/// Walks over the fragments of several sources, the newest source first, and calls `visit` for each
/// longest stretch that the same fragments cover, ascending, with those fragments by rank.
/// Stretches that nothing covers are left out.
pub fn sweep<'a>(
    sources: &[&'a [Fragment]],
    mut visit: impl FnMut(&'a [u8], Option<&'a [u8]>, &[Cover<'a>]),
) {
    let mut left: Vec<&'a [Fragment]> = sources.to_vec();
    let mut covers: Vec<Cover<'a>> = Vec::with_capacity(sources.len());
    let mut position: Option<&'a [u8]> = None;
    loop {
        covers.clear();
        let mut next_start: Option<&'a [u8]> = None;
        // The nearest end of a cover; `None` inside: it has none.
        let mut nearest_end: Option<Option<&'a [u8]>> = None;
        for (rank, source) in left.iter_mut().enumerate() {
            while source.first().is_some_and(|f| is_behind(f, position)) {
                *source = source.get(1..).unwrap_or_default();
            }
            let Some(fragment) = source.first() else {
                continue;
            };
            let start = fragment.start.as_slice();
            if position.is_some_and(|position| start <= position) {
                covers.push(Cover { rank, fragment });
                let end = fragment.end.as_deref();
                nearest_end = match nearest_end {
                    Some(nearest) if compare_ends(nearest, end).is_le() => Some(nearest),
                    _ => Some(end),
                };
            } else if next_start.is_none_or(|next| start < next) {
                next_start = Some(start);
            }
        }
        let (Some(start), Some(nearest_end)) = (position, nearest_end) else {
            match next_start {
                Some(next) => position = Some(next),
                None => return,
            }
            continue;
        };
        let end =
            if compare_ends(next_start, nearest_end).is_lt() { next_start } else { nearest_end };
        visit(start, end, &covers);
        match end {
            Some(end) => position = Some(end),
            None => return,
        }
    }
}

/// True when nothing of the fragment lies at or after `position`.
fn is_behind(fragment: &Fragment, position: Option<&[u8]>) -> bool {
    fragment.is_empty()
        || position
            .is_some_and(|position| fragment.end.as_deref().is_some_and(|end| end <= position))
}

/// The union of several sources: disjoint fragments, each with the numbers of all that cover it,
/// descending and each once. Neighbours that touch and have the same numbers are joined.
pub fn merge_fragments(sources: &[&[Fragment]]) -> Vec<Fragment> {
    let mut merged: Vec<Fragment> = Vec::new();
    let mut numbers = Vec::new();
    sweep(sources, |start, end, covers| {
        numbers.clear();
        numbers.extend(covers.iter().flat_map(|cover| &cover.fragment.numbers));
        numbers.sort_unstable_by(|a: &u64, b| b.cmp(a));
        numbers.dedup();
        append(&mut merged, start, end, &numbers);
    });
    merged
}

/// What several sources cover together, without numbers, as few fragments as possible.
pub fn union_ranges(sources: &[&[Fragment]]) -> Vec<Fragment> {
    let streams = sources.iter().map(|source| source.iter().cloned().map(Ok::<_, Infallible>));
    Union::new(streams).map(|Ok(fragment)| fragment).collect()
}

/// What several streams of fragments cover together, without numbers, as few fragments as possible,
/// in order. Of each stream one fragment is held.
#[derive(Debug)]
pub struct Union<S> {
    /// Each with its next fragment, once that was asked for.
    streams: Vec<(S, Option<Fragment>)>,
    has_begun: bool,
}

impl<S, E> Union<S>
where
    S: Iterator<Item = Result<Fragment, E>>,
{
    /// The union of streams whose fragments ascend and do not overlap.
    pub fn new(streams: impl Iterator<Item = S>) -> Union<S> {
        Union { streams: streams.map(|stream| (stream, None)).collect(), has_begun: false }
    }

    fn begin(&mut self) -> Result<(), E> {
        self.has_begun = true;
        self.streams.iter_mut().try_for_each(advance)
    }

    /// The stretch that begins first, with all that overlaps or touches it.
    fn next_joined(&mut self) -> Result<Option<Fragment>, E> {
        let mut joined: Option<Fragment> = None;
        loop {
            let waiting = self.streams.iter_mut().filter(|(_, next)| next.is_some());
            let first = waiting.min_by(|(_, a), (_, b)| start_of(a).cmp(&start_of(b)));
            let Some(first) = first else { return Ok(joined) };
            let Some(next) = &mut first.1 else { return Ok(joined) };
            match &mut joined {
                None => {
                    let (start, end) = (std::mem::take(&mut next.start), next.end.take());
                    joined = Some(Fragment { start, end, numbers: Vec::new() });
                }
                Some(Fragment { end, .. })
                    if end.as_deref().is_some_and(|end| end < next.start.as_slice()) =>
                {
                    return Ok(joined);
                }
                Some(Fragment { end, .. }) => {
                    if compare_ends(end.as_deref(), next.end.as_deref()).is_lt() {
                        *end = next.end.take();
                    }
                }
            }
            advance(first)?;
        }
    }
}

fn start_of(fragment: &Option<Fragment>) -> Option<&[u8]> {
    fragment.as_ref().map(|fragment| fragment.start.as_slice())
}

/// Reads the next fragment of a stream that covers something.
fn advance<S, E>((stream, next): &mut (S, Option<Fragment>)) -> Result<(), E>
where
    S: Iterator<Item = Result<Fragment, E>>,
{
    *next = None;
    for fragment in stream {
        let fragment = fragment?;
        if !fragment.is_empty() {
            *next = Some(fragment);
            break;
        }
    }
    Ok(())
}

impl<S, E> Iterator for Union<S>
where
    S: Iterator<Item = Result<Fragment, E>>,
{
    type Item = Result<Fragment, E>;

    /// Ends behind an error.
    fn next(&mut self) -> Option<Result<Fragment, E>> {
        let begun = if self.has_begun { Ok(()) } else { self.begin() };
        let next = begun.and_then(|()| self.next_joined());
        if next.is_err() {
            self.streams.clear();
        }
        next.transpose()
    }
}

fn append(merged: &mut Vec<Fragment>, start: &[u8], end: Option<&[u8]>, numbers: &[u64]) {
    match merged.last_mut() {
        Some(last) if last.end.as_deref() == Some(start) && last.numbers == numbers => {
            last.end = end.map(<[u8]>::to_vec);
        }
        _ => merged.push(Fragment {
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            numbers: numbers.to_vec(),
        }),
    }
}
