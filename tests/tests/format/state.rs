//! The state, written from docs/format.md. The numbers in comments are its sections.

use std::collections::BTreeMap;

use crate::bytes::{Input, u32_at, u64_at};
use crate::log::Log;
use crate::reader::{File, Keyspace, Map, NodeReference, Numbers, Result};
use crate::segment::{Filters, Segment};

impl Keyspace {
    /// 6.3: one that holds nothing.
    pub fn new(file: &mut File<'_>, name: Option<String>, options: &[u8]) -> Keyspace {
        let [codec, level, filter_bits, value_codec, value_level, ..] = options else {
            panic!("{} bytes of options", options.len());
        };
        assert!(*codec < 2 && *value_codec < 2, "codecs 0 and 1");
        assert!((*codec > 0 || *level == 0) && (*value_codec > 0 || *value_level == 0));
        let has_filter = *filter_bits > 0;
        let mut saw_of = |what: &str, is_so: bool| {
            let with = if is_so { "with" } else { "without" };
            file.saw(format!("keyspace {with} {what}"));
        };
        saw_of("filters", has_filter);
        saw_of("compressed leaves", *codec > 0);
        saw_of("compressed values", *value_codec > 0);
        Keyspace { name, has_filter, map: Map::new(), numbers: Numbers::new() }
    }
}

impl File<'_> {
    /// 6.
    pub fn state(&mut self, state: &[u8]) -> Result<()> {
        let mut sections = BTreeMap::new();
        let (mut input, mut last) = (Input(state), 0);
        while !input.0.is_empty() {
            let tag = input.u8();
            assert!(tag > last, "tags rise");
            last = tag;
            sections.insert(tag, input.sized());
        }
        if let Some(packed) = sections.remove(&129) {
            // 6.8: at most the state's own epoch, which comes first of all.
            assert!(Input(packed).varint() <= Input(sections[&1]).varint());
            self.saw("how far leaves are packed");
        }
        assert_eq!(sections.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let cut_sequence = self.counters(sections[&1]);
        self.catalogue(sections[&3]);
        // From the oldest to the newest: levels from the deepest, in each from the oldest.
        self.levels(sections[&5])?;
        self.young(sections[&4])?;
        let log = Log::read(sections[&2], cut_sequence);
        for &(first, pages) in &log.blocks {
            self.own(first, pages, "the log")?;
        }
        self.regions(sections[&6])?;
        log.replay(self)
    }

    /// 6.1: the sequence number of the cut.
    fn counters(&mut self, section: &[u8]) -> u64 {
        let mut input = Input(section);
        let (epoch, sequence) = (input.varint(), input.varint());
        let limits: Vec<u64> = (0..5).map(|_| input.varint()).collect();
        assert!(sequence <= limits[0] && epoch <= limits[1]);
        match input.u8() {
            0 => {}
            1 => {
                self.saw("clean close");
                assert!(sequence <= input.varint());
                let next: Vec<u64> = (0..3).map(|_| input.varint()).collect();
                assert!(next.iter().zip(&limits[2..]).all(|(next, limit)| next <= limit));
            }
            other => panic!("{other} is neither 0 nor 1"),
        }
        assert!(input.0.is_empty());
        sequence
    }

    /// 6.3.
    fn catalogue(&mut self, section: &[u8]) {
        let mut input = Input(section);
        let mut last = None;
        for _ in 0..input.varint() {
            let number = input.varint();
            assert!(last.replace(number).is_none_or(|last| last < number), "by number");
            let name = String::from_utf8(input.sized().to_vec()).unwrap();
            let options = input.sized();
            let is_dropped = input.u8() == 1;
            if is_dropped {
                assert!(name.is_empty());
                self.saw("dropped keyspace");
            }
            let keyspace = Keyspace::new(self, (!is_dropped).then_some(name), options);
            self.keyspaces.insert(number, keyspace);
        }
        assert!(input.0.is_empty());
    }

    /// 6.5.
    fn levels(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        for _ in 0..input.varint() {
            let number = input.varint();
            let mut in_order = Vec::new();
            let mut used_levels = 0;
            let (level_count, mut last_count) = (input.varint(), 0);
            assert!(level_count <= 64);
            for _ in 0..level_count {
                last_count = input.varint();
                used_levels += u64::from(last_count > 0);
                if last_count > 1 {
                    self.saw("level of several segments");
                }
                in_order.extend((0..last_count).map(|_| Segment::of_level(&mut input)));
            }
            assert!(last_count <= 1, "segments of the last level");
            if used_levels > 1 {
                self.saw("several levels");
            }
            self.saw("levels");
            for segment in in_order.iter().rev() {
                for (_, event) in segment.events(self, Some(number), &Filters::InLeaves)? {
                    self.apply(number, None, event);
                }
            }
        }
        assert!(input.0.is_empty());
        Ok(())
    }

    /// 6.4. Keys are composite. Of two entries the one with the higher number counts; of two of one
    /// commit that of the newer segment.
    fn young(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        let count = input.varint();
        assert!(count <= 4096);
        let segments: Vec<_> = (0..count).map(|_| Segment::of_state(&mut input)).collect();
        assert!(input.0.is_empty());
        let (mut events, mut before) = (Vec::new(), (0, 0));
        for segment in segments.iter().rev() {
            self.saw("young segments");
            let is_of_same_commit = segment.numbers == before && before.0 == before.1;
            if is_of_same_commit {
                self.saw("several young segments of one commit");
            }
            assert!(is_of_same_commit || segment.numbers.0 > before.1, "the newer, the higher");
            before = segment.numbers;
            let filter = segment.young_filter(self)?;
            events.extend(segment.events(self, None, &filter)?);
        }
        // Stable: those of one number stay as they are.
        events.sort_by_key(|(sequence, _)| *sequence);
        for (sequence, event) in events {
            let (number, event) = event.into_bare();
            self.apply(number, Some(sequence), event);
        }
        Ok(())
    }

    /// What a commit says, whose number levels do not tell.
    pub fn apply(&mut self, number: u64, sequence: Option<u64>, event: Event) {
        let Some(keyspace) = self.keyspaces.get_mut(&number) else { return };
        let Keyspace { map, numbers, .. } = keyspace;
        match event {
            Event::Put(key, value) => {
                match sequence {
                    Some(sequence) => numbers.insert(key.clone(), sequence),
                    None => numbers.remove(&key),
                };
                map.insert(key, value);
            }
            Event::Delete(key) => {
                numbers.remove(&key);
                map.remove(&key);
            }
            Event::Range(start, end) => {
                let stays = |key: &Vec<u8>| *key < start || end.as_ref().is_some_and(|e| key >= e);
                numbers.retain(|key, _| stays(key));
                map.retain(|key, _| stays(key));
            }
        }
    }

    /// 6.6 and 2.2: the maps say what the state uses, and nothing else.
    fn regions(&mut self, section: &[u8]) -> Result<()> {
        let mut input = Input(section);
        let file_pages = input.varint();
        assert!(file_pages < 1 << 48);
        let count = input.varint();
        let in_region = self.region_pages;
        if count > 1 {
            self.saw("several regions");
        }
        if !file_pages.is_multiple_of(in_region) {
            self.saw("region that is not whole");
        }
        assert_eq!(count, file_pages.div_ceil(in_region));
        let home_pages = (32 + 16 + in_region / 8).div_ceil(self.usable_bytes as u64);
        for region in 0..count {
            let home = input.u8();
            let (stamp, checksum, free) = (input.u32(), input.u32(), input.varint());
            let start = region * in_region;
            let header_pages =
                if region == 0 { 8192_u64.div_ceil(self.page_bytes as u64) } else { 0 };
            self.own(start, header_pages, "the header")?;
            self.own(start + header_pages, 2 * home_pages, "a free map's homes")?;
            let page = start + header_pages + u64::from(home) * home_pages;
            let reference = NodeReference { page, pages: home_pages, stamp, checksum };
            let content = self.node(reference, 7, None)?.content;
            self.saw(format!("free map in home {home}"));
            let head = (u64_at(&content, 0), u64::from(u32_at(&content, 8)));
            assert_eq!(head, (region, in_region));
            let is_used = |page: u64| content[16 + (page / 8) as usize] >> (page % 8) & 1 == 1;
            let used = (0..in_region).filter(|&page| is_used(page)).count() as u64;
            assert_eq!(used, u64::from(u32_at(&content, 12)));
            for page in 0..in_region {
                let owner = self.owners.get(&(start + page));
                if is_used(page) != owner.is_some() {
                    return Err(format!("page {}: {owner:?}, and the map", start + page));
                }
            }
            assert_eq!(free, in_region.min(file_pages - start) - used);
        }
        assert!(input.0.is_empty());
        Ok(())
    }
}

/// One thing that a segment or a commit says.
pub enum Event {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Range(Vec<u8>, Option<Vec<u8>>),
}

impl Event {
    /// 4: the keyspace in front of its keys, and the rest.
    pub fn into_bare(self) -> (u64, Event) {
        let split = |key: &[u8]| {
            (u64::from(u32::from_be_bytes(key[..4].try_into().unwrap())), key[4..].to_vec())
        };
        match self {
            Event::Put(key, value) => {
                let (number, key) = split(&key);
                (number, Event::Put(key, value))
            }
            Event::Delete(key) => {
                let (number, key) = split(&key);
                (number, Event::Delete(key))
            }
            Event::Range(start, end) => {
                let (number, start) = split(&start);
                // The end of a keyspace is the next keyspace's number alone.
                let end = end.map(|end| split(&end)).filter(|(other, _)| *other == number);
                (number, Event::Range(start, end.map(|(_, end)| end)))
            }
        }
    }
}
