//! Segments as the state and the log name them, written from docs/format.md. The numbers in
//! comments are its sections.

use crate::bytes::Input;
use crate::reader::{File, NodeReference, Result};
use crate::state::Event;
use crate::tree::{Entry, Walk};

/// From a key to before another, or to the end of all.
pub type Range = (Vec<u8>, Option<Vec<u8>>);

/// 6.4.
pub struct Root {
    pub reference: NodeReference,
    pub height: u8,
    pub birth: u64,
    pub entries: u64,
    pub tombstones: u64,
    pub pages: u64,
    pub leaves: u64,
}

/// 6.4: the least key and the greatest; none when a range reaches to the end of all keys.
type Bounds = (Vec<u8>, Option<Vec<u8>>);

/// Where a segment was named.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Level,
    Young,
    Log,
}

/// 6.4.
pub struct Segment {
    place: Place,
    points: Option<Root>,
    ranges: Option<Root>,
    pub seed: u64,
    filter_nodes: Vec<NodeReference>,
    bounds: Option<Bounds>,
    /// The first and the last; 0 in levels.
    pub numbers: (u64, u64),
    promoted: Vec<Range>,
}

/// 4.4: where the filters of a segment are.
pub enum Filters {
    InLeaves,
    OfSegment(Vec<u8>),
    None,
}

fn root(input: &mut Input<'_>) -> Root {
    let (reference, height) = (NodeReference::read(input), input.u8());
    let (birth, entries, tombstones) = (input.varint(), input.varint(), input.varint());
    let (pages, leaves) = (input.varint(), input.varint());
    Root { reference, height, birth, entries, tombstones, pages, leaves }
}

impl Segment {
    /// 6.5.
    pub fn of_level(input: &mut Input<'_>) -> Segment {
        let segment = Segment::read(input, Place::Level);
        assert!(segment.numbers == (0, 0) && segment.filter_nodes.is_empty());
        segment
    }

    /// 6.4.
    pub fn of_state(input: &mut Input<'_>) -> Segment {
        let segment = Segment::read(input, Place::Young);
        assert!(segment.numbers.0 > 0);
        segment
    }

    /// 5: one of a commit by reference, which has the number of its record.
    pub fn of_record(input: &mut Input<'_>, sequence: u64) -> Segment {
        let mut segment = Segment::read(input, Place::Log);
        assert!(segment.numbers == (0, 0) && segment.promoted.is_empty());
        assert!(segment.points.iter().chain(&segment.ranges).all(|root| root.birth == 0));
        segment.numbers = (sequence, sequence);
        segment
    }

    /// 6.4.
    fn read(input: &mut Input<'_>, place: Place) -> Segment {
        input.varint();
        let flags = input.u8();
        assert!(flags & !0xf == 0 && flags & 3 != 0 && flags & 0b1100 != 0b1000);
        let points = (flags & 1 != 0).then(|| root(input));
        let ranges = (flags & 2 != 0).then(|| root(input));
        let filter_kind = input.varint();
        let seed = input.u64();
        let filter_nodes: Vec<_> =
            (0..input.varint()).map(|_| NodeReference::read(input)).collect();
        assert!(filter_kind == 1 || filter_nodes.is_empty());
        let bounds = (flags & 4 != 0).then(|| {
            let (least, greatest) = (input.sized().to_vec(), input.sized().to_vec());
            (least, (flags & 8 == 0).then_some(greatest))
        });
        let numbers = (input.varint(), input.varint());
        assert!(numbers.0 <= numbers.1);
        let promoted = (0..input.varint())
            .map(|_| {
                let has_end = input.u8() & 1 != 0;
                let start = input.sized().to_vec();
                (start, has_end.then(|| input.sized().to_vec()))
            })
            .collect();
        let keyspaces: Vec<_> =
            (0..input.varint()).map(|_| [input.varint(), input.varint(), input.varint()]).collect();
        assert!(keyspaces.is_sorted_by(|one, other| one[0] < other[0]));
        assert_eq!(keyspaces.is_empty(), place == Place::Level);
        Segment { place, points, ranges, seed, filter_nodes, bounds, numbers, promoted }
    }

    /// 4: the number of an entry; one that carries none has its segment's.
    pub fn number_of(&self, entry: &Entry) -> Result<u64> {
        let (first, last) = self.numbers;
        match entry.number {
            Some(number) if (first..=last).contains(&number) => Ok(number),
            None if first == last => Ok(first),
            number => Err(format!("number {number:?} in a segment of {first} to {last}")),
        }
    }

    /// In what such an entry lies.
    pub fn name_of(&self, entry: &Entry) -> &'static str {
        match (self.place, entry.number) {
            (Place::Level, _) => "a level",
            (Place::Young, Some(_)) => "a young segment",
            (Place::Young, None) => "a commit by reference in the state",
            (Place::Log, _) => "a commit by reference in the log",
        }
    }

    /// 6.4: whether a stretch of keys lies in the bounds; without an end it reaches to that of all.
    pub fn is_in_bounds(&self, from: &[u8], to: Option<&[u8]>) -> bool {
        let Some((least, greatest)) = &self.bounds else { return true };
        let reaches = match (to, greatest) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(to), Some(greatest)) => to <= greatest.as_slice(),
        };
        least.as_slice() <= from && reaches
    }

    /// 4.4: the lines of a young segment.
    pub fn young_filter(&self, file: &mut File<'_>) -> Result<Filters> {
        let mut lines = Vec::new();
        for &node in &self.filter_nodes {
            file.own(node.page, node.pages, "a young segment's filter")?;
            lines.extend(file.node(node, 9, None)?.content);
        }
        if self.filter_nodes.len() > 1 {
            file.saw("filter of several nodes");
        }
        Ok(if lines.is_empty() { Filters::None } else { Filters::OfSegment(lines) })
    }

    /// What the segment says, in the order in which it counts: by number, ranges before points; and
    /// nothing of what has moved on.
    pub fn events(
        &self,
        file: &mut File<'_>,
        keyspace: Option<u64>,
        filters: &Filters,
    ) -> Result<Vec<(u64, Event)>> {
        let place = if keyspace.is_some() { "level" } else { "young segment" };
        if !self.promoted.is_empty() {
            file.saw(format!("promoted ranges of a {place}"));
        }
        match (&self.points, &self.ranges) {
            (None, _) => file.saw(format!("{place} without points")),
            (_, None) => file.saw(format!("{place} without ranges")),
            _ => file.saw(format!("{place} with points and ranges")),
        }
        if self.bounds.as_ref().is_some_and(|bounds| bounds.1.is_none()) {
            file.saw("bounds with an open end");
        }
        let mut events = Vec::new();
        for (root, is_points) in [(&self.ranges, false), (&self.points, true)] {
            let Some(root) = root else { continue };
            let mut walk = Walk::new(self, keyspace, filters, is_points);
            walk.root(file, root)?;
            events.append(&mut walk.events);
        }
        // Stable: of one number, ranges stay before points.
        events.sort_by_key(|(number, _)| *number);
        Ok(events)
    }

    pub fn is_promoted(&self, key: &[u8]) -> bool {
        self.promoted.iter().any(|(start, end)| {
            start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice())
        })
    }

    /// Whether a whole range has moved on.
    pub fn has_moved(&self, range: &Range) -> bool {
        self.promoted.iter().any(|(start, end)| {
            let reaches = match (end, &range.1) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(other)) => end >= other,
            };
            *start <= range.0 && reaches
        })
    }

    /// The parts of a range that have not moved on.
    pub fn unpromoted(&self, start: Vec<u8>, end: Option<Vec<u8>>) -> Vec<Range> {
        let mut parts = vec![(start, end)];
        for (from, to) in &self.promoted {
            let mut left = Vec::new();
            for (start, end) in parts {
                let before_end = match &end {
                    Some(end) if end < from => end.clone(),
                    _ => from.clone(),
                };
                if start < before_end {
                    left.push((start.clone(), Some(before_end)));
                }
                if let Some(to) = to {
                    let start = start.max(to.clone());
                    if end.as_ref().is_none_or(|end| start < *end) {
                        left.push((start, end));
                    }
                }
            }
            parts = left;
        }
        parts
    }
}
