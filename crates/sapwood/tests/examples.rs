//! The examples run, and the README shows the first of them.

#[path = "../examples/batch_and_durability.rs"]
mod batch_and_durability;
#[path = "../examples/index.rs"]
mod index;
#[path = "../examples/large_values.rs"]
mod large_values;
#[path = "../examples/many_keyspaces.rs"]
mod many_keyspaces;
#[path = "../examples/queue.rs"]
mod queue;
#[path = "../examples/quick_start.rs"]
mod quick_start;
#[path = "../examples/snapshots_and_cursors.rs"]
mod snapshots_and_cursors;
#[path = "../examples/time_series.rs"]
mod time_series;
#[path = "../examples/transactions.rs"]
mod transactions;

#[test]
fn quick_start_runs() {
    quick_start::main().unwrap();
}

#[test]
fn batch_and_durability_runs() {
    batch_and_durability::main().unwrap();
}

#[test]
fn transactions_runs() {
    transactions::main().unwrap();
}

#[test]
fn snapshots_and_cursors_runs() {
    snapshots_and_cursors::main().unwrap();
}

#[test]
fn index_runs() {
    index::main().unwrap();
}

#[test]
fn large_values_runs() {
    large_values::main().unwrap();
}

#[test]
fn many_keyspaces_runs() {
    many_keyspaces::main().unwrap();
}

#[test]
fn queue_runs() {
    queue::main().unwrap();
}

#[test]
fn time_series_runs() {
    time_series::main().unwrap();
}

/// A new example is run by a test here.
#[test]
fn every_example_is_run() {
    let tests = include_str!("examples.rs");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    #[allow(clippy::disallowed_methods)]
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(tests.contains(&format!("    {name}::main().unwrap();")), "{name}");
    }
}

#[test]
fn the_readme_shows_the_quick_start() {
    let readme = include_str!("../../../README.md");
    let shown = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    // It differs in its path, which here is one that goes away.
    let code: String = include_str!("../examples/quick_start.rs")
        .lines()
        .skip_while(|line| !line.starts_with("use "))
        .filter(|line| !line.contains("folder"))
        .map(|line| line.replace("open(path)", "open(\"garden.sapwood\")") + "\n")
        .collect();
    let code = code.replace("pub fn main", "fn main").replace("{\n\n", "{\n");
    assert_eq!(shown.trim_end(), code.trim_end());
}
