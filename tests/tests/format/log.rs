//! The log, written from docs/format.md. The numbers in comments are its sections.

use crate::bytes::{Input, crc, u32_at, u64_at};
use crate::reader::{File, Keyspace, Result};
use crate::segment::Segment;
use crate::state::Event;

/// 6.2.
pub struct Log {
    cut: u64,
    cut_sequence: u64,
    chain: u32,
    on_disk: u64,
    first: u64,
    pub blocks: Vec<(u64, u64)>,
}

impl Log {
    pub fn read(section: &[u8], cut_sequence: u64) -> Log {
        let mut input = Input(section);
        let (cut, chain) = (input.varint(), input.u32());
        let (on_disk, first) = (input.varint(), input.varint());
        let log = Log { cut, cut_sequence, chain, on_disk, first, blocks: input.blocks() };
        assert!(input.0.is_empty() && first <= cut);
        log
    }

    /// Where each block ends in the stream.
    fn ends(&self, file: &mut File<'_>) -> Vec<usize> {
        if self.blocks.windows(2).any(|pair| pair[1].0 < pair[0].0) {
            file.saw("blocks of the log in another order than the file's");
        }
        let usable_bytes = file.usable_bytes;
        let mut end = 0;
        let add = |block: &(u64, u64)| {
            end += block.1 as usize * usable_bytes;
            end
        };
        self.blocks.iter().map(add).collect()
    }

    /// 5: what follows the cut.
    pub fn replay(&self, file: &mut File<'_>) -> Result<()> {
        let ends = self.ends(file);
        let stream = file.stream(&self.blocks);
        let start = (self.cut - self.first) as usize;
        assert!(start <= ends[0], "the first block holds the cut");
        let (mut at, mut before, mut sequence) = (start, self.chain, self.cut_sequence);
        let mut on_disk = self.on_disk;
        while let Some(record) = record_at(file, &stream, at, self.first) {
            let (kind, padding) = (record[20], usize::from(record[22]));
            let own_sequence = u64_at(record, 32);
            let is_commit = matches!(kind, 1 | 2);
            let is_next = if is_commit { own_sequence > sequence } else { own_sequence == 0 };
            if u32_at(record, 16) != before || !is_next {
                break;
            }
            assert!(record[21] < 2 && record[23] == 0 && padding < 8);
            assert!(u64_at(record, 24) <= self.first + at as u64);
            assert!(record[record.len() - padding..].iter().all(|&byte| byte == 0));
            file.saw(format!("log record of kind {kind}"));
            if ends.iter().any(|&end| at < end && end < at + record.len()) {
                file.saw("log record over the end of a block");
            }
            if is_commit {
                sequence = own_sequence;
                file.contents.log_commit_count += 1;
            }
            let payload = &record[40..record.len() - padding];
            match kind {
                1 => commit(file, payload, sequence, record[21] == 1)?,
                2 => {
                    assert_eq!(record[21], 1, "its segments were on disk before it");
                    commit_by_reference(file, payload, sequence)?;
                }
                3 => assert_eq!(payload.len(), 16),
                4 | 5 => {}
                _ => return Err(format!("a record of kind {kind}")),
            }
            on_disk = on_disk.max(u64_at(record, 24));
            before = u32_at(record, 0);
            at += record.len();
        }
        // The break is the end, unless something says that more was on disk.
        for place in (at..stream.len()).step_by(8) {
            if let Some(record) = record_at(file, &stream, place, self.first) {
                on_disk = on_disk.max(u64_at(record, 24));
            }
        }
        let end = self.first + at as u64;
        if on_disk > end {
            return Err(format!("the log breaks at {end}, and was on disk up to {on_disk}"));
        }
        Ok(())
    }
}

/// 5: a record with a right length, position and crc.
fn record_at<'a>(file: &File<'_>, stream: &'a [u8], at: usize, first: u64) -> Option<&'a [u8]> {
    let head = stream.get(at..at + 40)?;
    let length = u32_at(head, 4) as usize;
    let may_be = u64_at(head, 8) == first + at as u64 && length >= 40 && length.is_multiple_of(8);
    let record = stream.get(at..at + length).filter(|_| may_be)?;
    (crc(file.seed, &record[4..]) == u32_at(record, 0)).then_some(record)
}

/// 5: a deletion of a range hides nothing of its own commit.
fn commit(file: &mut File<'_>, payload: &[u8], sequence: u64, on_disk: bool) -> Result<()> {
    let mut input = Input(payload);
    let _time = input.u64();
    let (mut ranges, mut others) = (Vec::new(), Vec::new());
    for _ in 0..input.varint() {
        let (kind, number) = (input.u8(), input.varint());
        file.saw(format!("operation {kind}"));
        match kind {
            1 => {
                let event = Event::Put(input.sized().to_vec(), input.sized().to_vec());
                others.push((number, event));
            }
            2 => others.push((number, Event::Delete(input.sized().to_vec()))),
            3 => {
                let key = input.sized().to_vec();
                let value = file.overflow(input.sized(), number)?;
                assert_eq!(value.birth, 0);
                for (first, pages) in value.blocks {
                    file.own(first, pages, "an overflow value that the log names")?;
                }
                let named = if on_disk { "was" } else { "may not have been" };
                file.saw(format!("value that {named} on disk before its log record"));
                if value.is_streamed {
                    file.saw("streamed value in a log record");
                }
                others.push((number, Event::Put(key, value.bytes)));
            }
            4 => {
                let start = input.sized().to_vec();
                let end = (input.u8() == 1).then(|| input.sized().to_vec());
                file.saw(if end.is_some() { "range with an end" } else { "range without an end" });
                ranges.push((number, Event::Range(start, end)));
            }
            5..=7 => catalogue_change(file, kind, number, &mut input),
            _ => return Err(format!("operation {kind}")),
        }
    }
    assert!(input.0.is_empty());
    for (number, event) in ranges.into_iter().chain(others) {
        file.apply(number, Some(sequence), event);
    }
    Ok(())
}

fn catalogue_change(file: &mut File<'_>, kind: u8, number: u64, input: &mut Input<'_>) {
    if kind == 6 {
        assert!(file.keyspaces.remove(&number).is_some());
        return;
    }
    let name = Some(String::from_utf8(input.sized().to_vec()).unwrap());
    if kind == 5 {
        let keyspace = Keyspace::new(file, name, input.sized());
        assert!(file.keyspaces.insert(number, keyspace).is_none());
    } else {
        file.keyspaces.get_mut(&number).unwrap().name = name;
    }
}

/// 5: all that its segments say has the number of the record.
fn commit_by_reference(file: &mut File<'_>, payload: &[u8], sequence: u64) -> Result<()> {
    let mut input = Input(payload);
    let _time = input.u64();
    let count = input.varint();
    assert!(count > 0);
    let segments: Vec<_> = (0..count).map(|_| Segment::of_record(&mut input, sequence)).collect();
    assert_eq!(input.varint(), 0, "operations beside the segments");
    assert!(input.0.is_empty());
    if count > 1 {
        file.saw("several segments of one log record");
    }
    for segment in segments.iter().rev() {
        let filter = segment.young_filter(file)?;
        for (of, event) in segment.events(file, None, &filter)? {
            assert_eq!(of, sequence);
            let (number, event) = event.into_bare();
            file.apply(number, Some(sequence), event);
        }
    }
    Ok(())
}
