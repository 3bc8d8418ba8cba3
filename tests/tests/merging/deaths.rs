//! What an install hands over as dead is what the next state does not use any more, block for
//! block.

use crate::lab::{Lab, builder, key, value};
use sapwood::Isolation;
use sapwood::page::NodeKind;
use sapwood::sync::atomic::Ordering;
use sapwood::sync::{Clock, Random, thread};

/// Keys of a history are drawn from so many.
const KEYS: u64 = 1500;

/// A random history: everything that makes installs.
struct History {
    lab: Lab,
    random: Random,
    snapshots: Vec<sapwood::Snapshot>,
    transactions: Vec<sapwood::Transaction>,
}

impl History {
    fn new(seed: u64) -> History {
        let mut lab = Lab::in_memory();
        lab.create();
        lab.create();
        let random = Random::from_seed(seed);
        let mut history = History { lab, random, snapshots: Vec::new(), transactions: Vec::new() };
        history.load();
        history
    }

    /// A last level that is large beside what comes after.
    fn load(&mut self) {
        for number in 0..KEYS {
            let bytes = value(&mut self.random, 80);
            self.lab.put(0, &key(number * 2), &bytes);
        }
        self.lab.database.flush().unwrap();
        self.lab.database.wait_until_idle().unwrap();
    }

    fn value(&mut self) -> Vec<u8> {
        let bytes = match self.random.below(40) {
            // One that the flush puts in blocks of its own, and one that the commit does.
            0 | 1 => 3000 + self.random.below(3000),
            2 => 70_000,
            _ => self.random.below(120),
        };
        value(&mut self.random, bytes as usize)
    }

    fn some_key(&mut self) -> Vec<u8> {
        let few = self.random.one_in(3);
        key(if few { self.random.below(40) } else { self.random.below(2 * KEYS + 200) })
    }

    fn write_some(&mut self) {
        let index = self.random.below(self.lab.keyspaces.len() as u64) as usize;
        for _ in 0..1 + self.random.below(30) {
            let key = self.some_key();
            match self.random.below(4) {
                0 => self.lab.delete(index, &key),
                _ => {
                    let value = self.value();
                    self.lab.put(index, &key, &value);
                }
            }
        }
    }

    /// Keys behind all others: a run in final form.
    fn append(&mut self, round: u64) {
        for number in 0..100 {
            let value = self.value();
            self.lab.put(0, format!("z {round:06} {number:06}").as_bytes(), &value);
        }
    }

    fn delete_range(&mut self) {
        let index = self.random.below(self.lab.keyspaces.len() as u64) as usize;
        let start = self.random.below(2 * KEYS);
        let most = if self.random.one_in(4) { KEYS } else { 60 };
        let length = 1 + self.random.below(most);
        self.lab.delete_range(index, &key(start), &key(start + length));
    }

    fn replace_keyspace(&mut self) {
        if self.lab.keyspaces.len() > 3 {
            let (keyspace, _) = self.lab.keyspaces.remove(1);
            self.lab.database.drop_keyspace(&keyspace.name()).unwrap();
        } else {
            let index = self.lab.create();
            for number in 0..200 {
                let value = self.value();
                self.lab.put(index, &key(number), &value);
            }
        }
    }

    fn hold_or_let_go(&mut self) {
        match self.random.below(4) {
            0 => self.snapshots.push(self.lab.database.snapshot().unwrap()),
            1 if !self.snapshots.is_empty() => {
                let index = self.random.below(self.snapshots.len() as u64) as usize;
                self.snapshots.swap_remove(index);
            }
            2 => {
                let begun = self.lab.database.begin(Isolation::Serializable);
                self.transactions.push(begun.unwrap());
            }
            _ => self.transactions.clear(),
        }
    }

    fn go_on(&mut self, round: u64) {
        match self.random.below(32) {
            0..=11 => self.write_some(),
            12..=20 => {
                self.write_some();
                self.lab.database.flush().unwrap();
            }
            21..=24 => {
                for _ in 0..self.random.below(12) {
                    self.lab.database.run_step().unwrap();
                }
            }
            25 => self.append(round),
            26 | 27 => self.delete_range(),
            28 => self.replace_keyspace(),
            29 | 30 => self.hold_or_let_go(),
            _ => match self.random.below(3) {
                0 => self.lab.database.compact().unwrap(),
                _ => {
                    self.lab.pause();
                    self.lab.run_all();
                }
            },
        }
    }

    fn end(mut self) -> Lab {
        self.snapshots.clear();
        self.transactions.clear();
        self.lab.database.flush().unwrap();
        self.lab.compare();
        self.lab.database.wait_until_idle().unwrap();
        self.lab.compare();
        self.lab.check_at_rest();
        self.lab
    }
}

#[test]
fn what_installs_hand_over_is_the_difference_of_the_walks_in_random_histories() {
    let mut died = [0; NodeKind::ALL.len()];
    let (mut unborn, mut promotions, mut installs) = (0, 0, 0);
    for seed in 0..16 {
        let mut history = History::new(seed);
        for round in 0..220 {
            history.go_on(round);
            let findings = history.lab.findings.lock();
            let problem = findings.problems.first();
            assert_eq!(problem, None, "seed {seed}, round {round}");
        }
        let lab = history.end();
        let findings = lab.findings.lock();
        died.iter_mut().zip(findings.died).for_each(|(sum, count)| *sum += count);
        unborn += findings.died_unborn;
        installs += findings.installs;
        promotions += lab.core.counters.promotions.load(Ordering::Relaxed);
    }
    assert!(installs > 1500 && promotions > 300, "{installs} installs, {promotions} promotions");
    for kind in [
        NodeKind::Leaf,
        NodeKind::Parent,
        NodeKind::FilterPiece,
        NodeKind::OverflowList,
        NodeKind::YoungFilter,
        NodeKind::OverflowValue,
    ] {
        assert!(died[kind.index()] > 50, "{kind:?}: {died:?}");
    }
    assert!(unborn > 20, "{unborn} values died before they were in a state");
}

#[test]
fn what_installs_hand_over_is_right_while_the_file_is_made_smaller() {
    let mut lab = Lab::in_memory();
    let mut random = Random::from_seed(2);
    lab.create();
    lab.create();
    for number in 0..6000 {
        let bytes = value(&mut random, if number % 100 == 9 { 5000 } else { 150 });
        lab.put((number % 2) as usize, &key(number), &bytes);
    }
    lab.database.flush().unwrap();
    lab.database.wait_until_idle().unwrap();
    // What stays lies all over the file.
    for number in (0..6000).filter(|number| number % 9 != 1 && number % 100 != 9) {
        lab.delete((number % 2) as usize, &key(number));
    }
    lab.database.flush().unwrap();
    let promotions = || lab.core.counters.promotions.load(Ordering::Relaxed);
    let pages = || lab.core.pages.allocator().file_pages();
    lab.pause();
    let (mut moves, mut before) = (0, pages());
    loop {
        let (promoted, installs) = (promotions(), lab.findings.lock().installs);
        if !lab.database.run_step().unwrap() {
            break;
        }
        // An evacuation is an install that is no promotion.
        let installed = lab.findings.lock().installs - installs;
        moves += installed - (promotions() - promoted).min(installed);
        before = before.max(pages());
    }
    assert!(moves > 2, "{moves} installs moved nodes");
    assert!(pages() * 3 < before * 2, "{before} pages before, {} after", pages());
    lab.compare();
    lab.check_at_rest();
}

#[test]
fn what_installs_hand_over_is_right_when_threads_merge() {
    let (builder, hand) = builder();
    let builder = builder.clock(Clock::real()).merge_threads(2);
    let mut lab = Lab::of(builder.open_in_memory().unwrap(), hand);
    for _ in 0..3 {
        lab.create();
    }
    let writers: Vec<_> = (0..3u64)
        .map(|seed| {
            let (keyspace, mut map) = lab.keyspaces.remove(0);
            let writer = thread::spawn("writer", move || {
                let mut random = Random::from_seed(seed);
                for round in 0..2500u64 {
                    let key = key(random.below(900));
                    if random.one_in(4) {
                        keyspace.delete(&key).unwrap();
                        map.remove(&key);
                    } else {
                        let bytes = value(&mut random, if round % 90 == 1 { 4000 } else { 300 });
                        keyspace.put(&key, &bytes).unwrap();
                        map.insert(key, bytes);
                    }
                }
                (keyspace, map)
            });
            writer.unwrap()
        })
        .collect();
    // Many small flushes, beside the writers and the threads.
    while writers.iter().any(|writer| !writer.is_finished()) {
        lab.database.flush().unwrap();
    }
    for writer in writers {
        lab.keyspaces.push(writer.join().unwrap());
    }
    lab.database.wait_until_idle().unwrap();
    lab.compare();
    lab.check();
    assert!(lab.core.counters.promotions.load(Ordering::Relaxed) > 5);
}
