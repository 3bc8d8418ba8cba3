//! Reads the source tree and says what is untidy: style kept by a test and not by reviewers.
//!
//! Each rule is a function from text to findings, and has beside it a test that shows it failing on
//! a bad sample. To change a limit or a floor, change the constants at the top of its module.

#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/functions.rs"]
mod functions;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/limits.rs"]
mod limits;
#[path = "tidy/lines.rs"]
mod lines;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/paths.rs"]
mod paths;
#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/public_face.rs"]
mod public_face;
#[path = "tidy/routes.rs"]
mod routes;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/tree.rs"]
mod tree;

use tree::Source;

/// Fails with all findings at once, so that one run is enough to mend them.
fn expect_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

fn in_every_file(rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    tree::rust_files("").iter().flat_map(rule).collect()
}

fn in_the_engine(rule: impl Fn(&Source) -> Vec<String>) -> Vec<String> {
    tree::rust_files(tree::ENGINE).iter().flat_map(rule).collect()
}

#[test]
fn lines_are_short_and_clean() {
    expect_none(&in_every_file(lines::findings));
}

#[test]
fn functions_fit_a_screen() {
    expect_none(&in_every_file(functions::findings));
}

#[test]
fn no_floor_imports_a_higher_one() {
    let exports = floors::Exports::read(&tree::read(&format!("{}/lib.rs", tree::ENGINE)));
    expect_none(&in_the_engine(|source| floors::findings(source, &exports)));
}

#[test]
fn locks_threads_time_and_files_have_one_door() {
    expect_none(&in_the_engine(names::findings));
}

#[test]
fn every_file_of_the_engine_is_a_module() {
    expect_none(&modules::findings(&tree::rust_files(tree::ENGINE)));
}

#[test]
fn every_file_of_the_routes_exists() {
    let page = tree::read("docs/architecture.md");
    expect_none(&routes::findings(&page, tree::exists));
}

#[test]
fn every_public_item_has_an_example() {
    expect_none(&public_face::without_example(&tree::rust_files(tree::ENGINE)));
}

#[test]
fn every_structure_with_public_fields_may_get_more_of_them() {
    expect_none(&public_face::exhaustive(&tree::rust_files(tree::ENGINE)));
}

#[test]
fn every_option_stands_in_the_table() {
    let page = tree::read("docs/options.md");
    expect_none(&public_face::options_not_in(&page, &tree::rust_files(tree::ENGINE)));
}

#[test]
fn every_promise_names_tests_that_exist_or_says_that_they_come_later() {
    let page = tree::read("docs/architecture.md");
    let tests = promises::tests(&tree::rust_files(""));
    expect_none(&promises::findings(&page, &tests, tree::exists));
}

#[test]
fn every_limit_names_a_test_or_a_constant_that_exists() {
    let page = tree::read("docs/limits.md");
    let tests = promises::tests(&tree::rust_files(""));
    let read = |path: &str| tree::exists(path).then(|| tree::read(path));
    expect_none(&limits::findings(&page, &tests, read));
}

#[test]
fn every_patch_of_the_rules_applies_and_names_a_test() {
    let patches: Vec<rules::Patch> = tree::names("tests/rules", ".patch")
        .into_iter()
        .map(|name| rules::Patch { text: tree::read(&format!("tests/rules/{name}.patch")), name })
        .collect();
    let tests = rules::test_names(&tree::rust_files(""));
    let page = tree::read("docs/testing.md");
    expect_none(&rules::findings(&patches, &tests, &page, tree::read));
    expect_none(&rules::without_patch(&patches, &tree::read("docs/architecture.md"), &page));
}
