//! Each row of `docs/limits.md` names a test or a constant that exists, in the file that it says.

use crate::promises::{Tests, full};

/// `read` gives the text of a file, and nothing when there is none.
pub fn findings(page: &str, tests: &Tests, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what |"))
        .collect();
    let mut findings: Vec<String> =
        rows.iter().flat_map(|row| row_findings(row, tests, &read)).collect();
    if rows.len() < 2 {
        findings.push("docs/limits.md: there are no limits".to_owned());
    }
    findings
}

/// Names are followed by the file that has them, in brackets.
fn row_findings(row: &str, tests: &Tests, read: &impl Fn(&str) -> Option<String>) -> Vec<String> {
    let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
    let &[what, _, _, shown] = cells.as_slice() else {
        return vec![format!("docs/limits.md: a row that has not four cells: {row}")];
    };
    let mut findings = Vec::new();
    let mut found = |problem: String| findings.push(format!("docs/limits.md, {what}: {problem}"));
    let (mut waiting, mut named) = (Vec::<&str>::new(), 0);
    for word in shown.split('`').skip(1).step_by(2) {
        if !word.ends_with(".rs") {
            waiting.push(word);
            continue;
        }
        let path = full(word);
        let text = read(&path).unwrap_or_default();
        for name in waiting.drain(..) {
            named += 1;
            let is_constant = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            let exists = match is_constant {
                true => text.contains(&format!("const {name}: ")),
                false => tests.contains(&(name.to_owned(), path.clone())),
            };
            if !exists {
                found(format!("{path} has no {name}"));
            }
        }
    }
    waiting.iter().for_each(|name| found(format!("no file is said for {name}")));
    if named == 0 {
        found("nothing shows it".to_owned());
    }
    findings
}

#[cfg(test)]
mod tests_of_the_rule {
    use super::*;

    fn found(shown: &str) -> usize {
        let page =
            format!("| what | limit | beyond | by |\n| a | 1 | | {shown} |\n| b | 2 | | |\n");
        let tests = [("it_is_so".to_owned(), "tests/tests/a.rs".to_owned())].into();
        let read =
            |path: &str| (path == "crates/sapwood/src/b.rs").then(|| "const B_MAX: u8".into());
        // The last row shows nothing.
        findings(&page, &tests, read).len() - 1
    }

    #[test]
    fn tests_and_constants_that_exist_are_no_finding() {
        assert_eq!(found("`it_is_so` (`T/a.rs`), `B_MAX` (`S/b.rs`)"), 0);
    }

    #[test]
    fn what_is_missing_or_elsewhere_is_named() {
        assert_eq!(found("`it_is_so` (`T/b.rs`)"), 1);
        assert_eq!(found("`B_MIN` (`S/b.rs`)"), 1);
        assert_eq!(found("`B_MAX` (`S/c.rs`)"), 1);
        assert_eq!(found("`B_MAX`"), 2);
        assert_eq!(found("everybody"), 1);
        assert_eq!(found("a | b"), 1);
        assert_eq!(findings("", &Tests::new(), |_| None).len(), 1);
    }
}
