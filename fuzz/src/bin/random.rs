//! Runs a target on random bytes, where libFuzzer cannot be had: `random <target> <runs> [seed]`.
//!
//! Bytes that make it panic are kept in `artifacts`; the runs go on. The exit code says whether
//! there were any.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::{env, fs};

use sapwood_fuzz::{Random, TARGETS, bytes_for};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let [_, name, runs, rest @ ..] = &arguments[..] else {
        eprintln!("random <target> <runs> [seed]");
        return ExitCode::FAILURE;
    };
    let Some((_, target)) = TARGETS.iter().find(|(other, _)| other == name) else {
        eprintln!("no target {name}");
        return ExitCode::FAILURE;
    };
    let runs: u64 = runs.parse().unwrap_or(1000);
    let first: u64 = rest.first().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut found = 0;
    for seed in first..first + runs {
        let bytes = bytes_for(name, &mut Random::new(seed));
        if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
            found += 1;
            let path = format!("artifacts/{name}-{seed}");
            let kept = fs::create_dir_all("artifacts").and_then(|()| fs::write(&path, &bytes));
            eprintln!("FOUND: seed {seed}, {path}: {kept:?}");
        }
    }
    println!("{name}: {runs} runs, {found} found");
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
