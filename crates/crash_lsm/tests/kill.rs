//! A real process on a real file, killed while four threads commit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use crash_lsm::kill::{Plan, run};

#[test]
fn every_acknowledged_commit_but_those_in_memory_survives_twenty_kills() {
    let file = std::env::temp_dir().join(format!("sapwood kill {}.db", std::process::id()));
    let _ = std::fs::remove_file(&file);
    let plan = Plan {
        program: PathBuf::from(env!("CARGO_BIN_EXE_crash_lsm")),
        arguments: vec!["kill-target".to_owned()],
        file: file.clone(),
        rounds: 20,
        threads: 4,
        seed: 0,
    };
    let totals = run(&plan, &mut |_| ()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!((totals.rounds, totals.verifications), (20, 20));
    assert!(totals.commits_sync > 100 && totals.commits_buffered > 500, "{totals:?}");
    let acknowledged = totals.commits_sync + totals.commits_buffered + totals.commits_memory;
    assert_eq!(totals.found + totals.memory_commits_lost, acknowledged);
}
