use super::*;
use crate::workload::Step;

#[test]
fn seeds_of_a_few_lives_find_nothing() {
    let mut totals = Totals::default();
    for seed in 0..25 {
        match run_seed(seed) {
            Ok(run) => totals.add(&run),
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(totals.copies > 0 && totals.kills > 0 && totals.power_cuts > 0, "{totals}");
}

#[test]
fn a_seed_does_the_same_again() {
    let first = run_seed(7).map_err(|failure| failure.to_string());
    assert_eq!(first, run_seed(7).map_err(|failure| failure.to_string()));
}

#[test]
fn of_the_cuts_a_third_come_after_a_kill_a_reopen_and_one_synced_commit() {
    let mut totals = Totals::default();
    for seed in 0..60 {
        match run(Plan::of_cuts(seed)) {
            Ok(run) => totals.add(&run),
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(totals.cuts_after_kill_and_sync * 3 >= totals.power_cuts, "{totals}");
    assert!(totals.cuts_with_unsynced_writes * 2 > totals.power_cuts, "{totals}");
    let kinds = [
        totals.cuts_that_lose_all,
        totals.cuts_that_lose_none,
        totals.cuts_that_keep_the_oldest,
        totals.cuts_that_tear_and_reorder,
    ];
    assert!(kinds.iter().all(|&count| count > 0), "{totals}");
    assert_eq!(kinds.iter().sum::<u64>(), totals.power_cuts);
    assert!(totals.verifications >= totals.power_cuts + totals.copies, "{totals}");
}

/// A close that fails has closed the database none the less: there is nothing to read then.
#[test]
fn a_close_that_fails_as_it_was_to_is_no_finding() {
    let left = Left::new();
    let mut crashing = Crashing::calm(&left);
    crashing.has_faults = true;
    let mut driver = Driver::new(&crashing, Setup::tiny());
    let (mut model, mut totals) = (Model::default(), Totals::default());
    let mut random = Random::from_seed(1);
    assert!(driver.open().is_ok());
    assert!(driver.commit_one_synced(&mut model, &mut totals).is_ok());
    crashing.storage.fail_sync_and_drop_cache();
    let stop = driver.step(Step::Reopen, &mut model, &mut totals, &mut random);
    assert!(matches!(stop, Err(Stop::Ended)), "{stop:?}");
}
