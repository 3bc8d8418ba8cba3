//! The examples run, and the README shows the first of them.

#[path = "../examples/batch_and_durability.rs"]
mod batch_and_durability;
#[path = "../examples/quick_start.rs"]
mod quick_start;
#[path = "../examples/snapshots_and_cursors.rs"]
mod snapshots_and_cursors;
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
