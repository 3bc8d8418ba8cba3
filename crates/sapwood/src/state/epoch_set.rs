//! A set of states, by their numbers: mostly one behind the other, so that runs are kept.
//!
//! *Threads*: none.

use std::collections::BTreeMap;

use crate::types::Epoch;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct EpochSet {
    /// The last of each run by its first.
    runs: BTreeMap<Epoch, Epoch>,
}

impl EpochSet {
    /// Adds one.
    pub fn insert(&mut self, epoch: Epoch) {
        if self.contains(epoch) {
            return;
        }
        let before = self.runs.range(..epoch).next_back().map(|(first, last)| (*first, *last));
        let first = before.filter(|(_, last)| last.next() == epoch).map_or(epoch, |run| run.0);
        let last = self.runs.remove(&epoch.next()).unwrap_or(epoch);
        self.runs.insert(first, last);
    }

    /// Whether it has that one.
    pub fn contains(&self, epoch: Epoch) -> bool {
        self.runs.range(..=epoch).next_back().is_some_and(|(_, last)| *last >= epoch)
    }

    /// Forgets all up to one.
    pub fn forget_up_to(&mut self, epoch: Epoch) {
        let kept = self.runs.split_off(&epoch.next());
        let run = self.runs.pop_last().filter(|(_, last)| *last > epoch);
        self.runs = kept;
        self.runs.extend(run.map(|(_, last)| (epoch.next(), last)));
    }

    /// How many it has.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last.0 - first.0 + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sync::Random;

    #[test]
    fn behaves_as_a_set_and_keeps_runs() {
        let mut random = Random::from_seed(3);
        for _ in 0..200 {
            let (mut set, mut model) = (EpochSet::default(), BTreeSet::new());
            for _ in 0..60 {
                let epoch = random.below(50);
                if random.one_in(12) {
                    set.forget_up_to(Epoch(epoch));
                    model.retain(|own| *own > epoch);
                } else {
                    set.insert(Epoch(epoch));
                    model.insert(epoch);
                }
                assert_eq!(set.count(), model.len() as u64);
                (0..52).for_each(|n| assert_eq!(set.contains(Epoch(n)), model.contains(&n)));
                let firsts = model.iter().filter(|n| **n == 0 || !model.contains(&(**n - 1)));
                assert_eq!(set.runs.len(), firsts.count());
            }
        }
    }
}
