use super::*;

#[test]
fn seeds_of_a_few_lives_find_nothing() {
    let mut totals = Totals::default();
    for seed in 0..40 {
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
