//! Each promise in `docs/architecture.md` names tests that exist, in the file that it says, or says
//! that it is still to come.

use std::collections::BTreeSet;

use crate::tree::Source;

const HEADING: &str = "## 11. Must hold";

/// What the page shortens.
const SHORT: [(&str, &str); 2] = [("S/", "crates/sapwood/src/"), ("T/", "tests/tests/")];

/// A test, and the files that have one of that name.
pub type Tests = BTreeSet<(String, String)>;

/// The tests of all files, by name and path.
pub fn tests(sources: &[Source]) -> Tests {
    let of = |source: &Source| {
        let names = crate::rules::test_names(std::slice::from_ref(source));
        names.into_iter().map(|name| (name, source.path.clone())).collect::<Vec<_>>()
    };
    sources.iter().flat_map(of).collect()
}

/// `exists` says whether there is a file at a path from the root of the repository.
pub fn findings(page: &str, tests: &Tests, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let rows: Vec<&str> = page
        .lines()
        .skip_while(|line| *line != HEADING)
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| ") && !line.starts_with("| promise "))
        .collect();
    if rows.is_empty() {
        return vec![format!("docs/architecture.md: no promise under the heading {HEADING:?}")];
    }
    rows.into_iter().flat_map(|row| row_findings(row, tests, &exists)).collect()
}

/// Tests are followed by the file that has them, in brackets.
fn row_findings(row: &str, tests: &Tests, exists: &impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let &[promise, shown] = cells.as_slice() else {
        return vec![format!("docs/architecture.md: a row that has not two cells: {row}")];
    };
    let mut found = |what: String| {
        findings.push(format!("docs/architecture.md, {promise:?}: {what}"));
    };
    let (mut waiting, mut named) = (Vec::<String>::new(), 0);
    for word in shown.split('`').skip(1).step_by(2) {
        if is_path(word) {
            let path = full(word);
            if !exists(&path) {
                found(format!("{path} does not exist"));
            }
            for name in waiting.drain(..) {
                if !tests.contains(&(name.clone(), path.clone())) {
                    found(format!("{path} has no test {name}"));
                }
            }
        } else if is_test_name(word) {
            named += 1;
            waiting.push(word.to_owned());
        }
    }
    for name in waiting {
        found(format!("no file is said for the test {name}"));
    }
    let has_file = shown.contains("all of `");
    if named == 0 && !has_file && !shown.contains("later") {
        found("it names no test and does not say that one comes later".to_owned());
    }
    findings
}

fn is_path(word: &str) -> bool {
    word.ends_with(".rs") && word.contains('/')
}

/// Two words at least: `verify` and the like are no names of tests.
fn is_test_name(word: &str) -> bool {
    word.matches('_').count() >= 2
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// A path as the pages shorten it, from the root of the repository.
pub fn full(path: &str) -> String {
    for (short, long) in SHORT {
        if let Some(rest) = path.strip_prefix(short) {
            return format!("{long}{rest}");
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests_of_the_rule {
    use super::*;

    fn found(row: &str) -> Vec<String> {
        let page = format!("## 11. Must hold\n\n| promise | tests |\n|---|---|\n{row}\n\n## 12.\n");
        let tests = [("it_is_so_indeed".to_owned(), "tests/tests/a.rs".to_owned())].into();
        findings(&page, &tests, |path| path == "tests/tests/a.rs" || path == "tests/tests/b.rs")
    }

    #[test]
    fn what_exists_and_what_comes_later_is_no_finding() {
        assert_eq!(found("| so | `it_is_so_indeed` (`T/a.rs`) |"), Vec::<String>::new());
        assert_eq!(found("| so | later |"), Vec::<String>::new());
        assert_eq!(found("| so | all of `T/b.rs` |"), Vec::<String>::new());
    }

    #[test]
    fn what_is_missing_or_elsewhere_is_named() {
        assert_eq!(found("| so | `it_is_so_indeed` (`T/b.rs`) |").len(), 1);
        assert_eq!(found("| so | `it_is_so_indeed` (`T/c.rs`) |").len(), 2);
        assert_eq!(found("| so | `it_is_not_so` (`T/a.rs`) |").len(), 1);
        assert_eq!(found("| so | `it_is_so_indeed` |").len(), 1);
        assert_eq!(found("| so | as everybody knows |").len(), 1);
        assert_eq!(found("| so |").len(), 1);
        assert_eq!(findings("", &Tests::new(), |_| true).len(), 1);
    }
}
