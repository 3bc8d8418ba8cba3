//! The log, written from docs/format.md. The numbers in comments are its sections.

use crate::bytes::{Input, crc, u32_at, u64_at};
use crate::reader::{Event, File, Keyspace, Map, Result, has_filter};

/// 6.2.
pub struct Log {
    cut: u64,
    chain: u32,
    first: u64,
    pub blocks: Vec<(u64, u64)>,
}

impl Log {
    pub fn read(section: &[u8]) -> Log {
        let mut input = Input(section);
        let (cut, chain) = (input.varint(), input.u32());
        let (_on_disk, first) = (input.varint(), input.varint());
        let log = Log { cut, chain, first, blocks: input.blocks() };
        assert!(input.0.is_empty());
        log
    }

    /// 5: what follows the cut.
    pub fn replay(&self, file: &mut File<'_>) -> Result<()> {
        let stream = file.stream(&self.blocks);
        let mut at = (self.cut - self.first) as usize;
        let (mut before, mut position, mut sequence) = (self.chain, self.cut, 0);
        while at + 40 <= stream.len() {
            let length = u32_at(&stream, at + 4) as usize;
            if !(40..=stream.len() - at).contains(&length) {
                break;
            }
            let record = &stream[at..at + length];
            let is_next = crc(file.seed, &record[4..]) == u32_at(record, 0)
                && u64_at(record, 8) == position
                && u32_at(record, 16) == before;
            if !is_next {
                break;
            }
            let (kind, padding) = (record[20], usize::from(record[22]));
            assert!(record[21] < 2 && record[23] == 0 && length.is_multiple_of(8) && padding < 8);
            assert!(u64_at(record, 24) <= position);
            file.saw(format!("log record of kind {kind}"));
            if record[21] == 1 {
                file.saw("log record whose blocks were on disk");
            }
            let payload = &record[40..length - padding];
            if kind == 1 {
                assert!(u64_at(record, 32) > sequence, "numbers rise");
                sequence = u64_at(record, 32);
                file.contents.log_commit_count += 1;
                commit(file, payload)?;
            } else {
                assert!(matches!(kind, 3 | 4), "kind {kind}");
                assert_eq!(u64_at(record, 32), 0);
            }
            before = u32_at(record, 0);
            at += length;
            position += length as u64;
        }
        Ok(())
    }
}

fn commit(file: &mut File<'_>, payload: &[u8]) -> Result<()> {
    let mut input = Input(payload);
    let _time = input.u64();
    for _ in 0..input.varint() {
        let (kind, number) = (input.u8(), input.varint());
        file.saw(format!("operation {kind}"));
        match kind {
            1 => {
                let event = Event::Put(input.sized().to_vec(), input.sized().to_vec());
                file.apply(number, event);
            }
            2 => file.apply(number, Event::Delete(input.sized().to_vec())),
            3 => {
                let key = input.sized().to_vec();
                let (value, _) = file.overflow(input.sized())?;
                file.apply(number, Event::Put(key, value));
            }
            4 => {
                let start = input.sized().to_vec();
                let end = (input.u8() == 1).then(|| input.sized().to_vec());
                file.saw(if end.is_some() { "range with an end" } else { "range without an end" });
                file.apply(number, Event::Range(start, end));
            }
            5 => {
                let name = Some(String::from_utf8(input.sized().to_vec()).unwrap());
                let has_filter = has_filter(input.sized());
                let keyspace = Keyspace { name, has_filter, map: Map::new() };
                assert!(file.keyspaces.insert(number, keyspace).is_none());
            }
            6 => assert!(file.keyspaces.remove(&number).is_some()),
            7 => {
                let name = String::from_utf8(input.sized().to_vec()).unwrap();
                file.keyspaces.get_mut(&number).unwrap().name = Some(name);
            }
            _ => return Err(format!("operation {kind}")),
        }
    }
    assert!(input.0.is_empty());
    Ok(())
}
