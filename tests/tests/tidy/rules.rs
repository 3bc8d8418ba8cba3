//! The patches of `tests/rules` still take out what they say, name tests that exist, and stand in
//! the table of `docs/testing.md`; and each rule of `docs/architecture.md` has one, or is named
//! among those that have none.

use std::collections::BTreeSet;

use crate::tree::Source;

/// A patch of `tests/rules`: its file's name without the ending, and its text.
pub struct Patch {
    pub name: String,
    pub text: String,
}

impl Patch {
    fn field(&self, field: &str) -> Option<&str> {
        let mut head = self.text.lines().take_while(|line| !line.starts_with("---"));
        head.find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
    }

    fn test(&self) -> Option<&str> {
        self.field("Test")?.split(' ').next_back()
    }

    /// Its row in `docs/testing.md`; `tests/rules/run --table` prints all of them.
    fn row(&self) -> Option<String> {
        let (rule, otherwise) = (self.field("Rule")?, self.field("Otherwise")?);
        Some(format!("| {rule} | {otherwise} | `{}` | `{}` |", self.test()?, self.name))
    }

    /// The file that it changes, and for each of its hunks the lines that it wants there.
    fn hunks(&self) -> Option<(&str, Vec<String>)> {
        let file = self.text.lines().find_map(|line| line.strip_prefix("--- a/"))?;
        let mut hunks: Vec<String> = Vec::new();
        for line in self.text.lines().skip_while(|line| !line.starts_with("@@")) {
            match (line.chars().next(), hunks.last_mut()) {
                (Some('@'), _) => hunks.push(String::new()),
                (Some(' ' | '-'), Some(hunk)) => {
                    hunk.push_str(&line[1..]);
                    hunk.push('\n');
                }
                _ => {}
            }
        }
        (!hunks.is_empty()).then_some((file, hunks))
    }
}

/// The names of all test functions.
pub fn test_names(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in sources {
        let mut is_test = false;
        for line in source.code.lines().map(str::trim) {
            is_test |= line == "#[test]";
            if let Some(rest) = line.strip_prefix("fn ").filter(|_| is_test) {
                names.extend(rest.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

/// `read` gives a file's text by its path from the root of the repository.
pub fn findings(
    patches: &[Patch],
    tests: &BTreeSet<String>,
    page: &str,
    read: impl Fn(&str) -> String,
) -> Vec<String> {
    let mut findings = Vec::new();
    for patch in patches {
        let mut found = |what: &str| findings.push(format!("{}.patch: {what}", patch.name));
        match patch.row() {
            Some(row) if !page.contains(&row) => {
                found(&format!("docs/testing.md lacks the row\n{row}"));
            }
            Some(_) => {}
            None => found("it begins with lines Rule, Otherwise and Test"),
        }
        if patch.test().is_some_and(|test| !tests.contains(test)) {
            found("the test that it names does not exist");
        }
        let Some((file, hunks)) = patch.hunks() else {
            found("it changes nothing");
            continue;
        };
        let text = read(file);
        for hunk in hunks {
            match text.matches(&hunk).count() {
                1 => {}
                0 => found(&format!("it no longer applies: {file} lacks\n{hunk}")),
                _ => found(&format!("{file} has more than once\n{hunk}")),
            }
        }
    }
    findings
}

/// What `docs/testing.md` says before the rules that no patch takes out.
const WITHOUT: &str = "- Rules without a patch of their own: ";

/// The rules that a line of `docs/architecture.md` states: "C1. Text", and further ones within it.
fn stated(line: &str) -> Vec<&str> {
    let is_label = |word: &str| {
        let (letter, digits) = word.split_at_checked(1).unwrap_or(("", ""));
        let is_letter = letter.chars().all(|c| c.is_ascii_uppercase());
        is_letter && !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
    };
    let sentences = line.split_inclusive(". ");
    sentences.filter_map(|sentence| sentence.strip_suffix(". ")).filter(|of| is_label(of)).collect()
}

/// Rules of `architecture` that neither a patch takes out nor `page` names as having none; and
/// those that it names although there is a patch.
pub fn without_patch(patches: &[Patch], architecture: &str, page: &str) -> Vec<String> {
    let taken_out = |label: &str| {
        patches.iter().any(|patch| {
            let rule = patch.field("Rule").and_then(|rule| rule.strip_prefix(label));
            rule.is_some_and(|rest| rest.starts_with(':') || rest.starts_with(' '))
        })
    };
    let without = page.lines().find_map(|line| line.strip_prefix(WITHOUT)).unwrap_or_default();
    let named: BTreeSet<&str> =
        without.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() > 1).collect();
    let mut findings = Vec::new();
    let labels: BTreeSet<&str> = architecture.lines().flat_map(stated).collect();
    if labels.is_empty() {
        findings.push("docs/architecture.md states no rule".to_owned());
    }
    for label in labels {
        match (taken_out(label), named.contains(label)) {
            (true, false) | (false, true) => {}
            (false, false) => findings.push(format!("no patch takes out {label}")),
            (true, true) => findings.push(format!("docs/testing.md: {label} has a patch")),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Rule: a\nOtherwise: b\nTest: -p sapwood --lib shows_it\n--- a/x.rs\n\
        +++ b/x.rs\n@@ -1,3 +1,2 @@\n one\n-two\n three\n";
    const ROW: &str = "| a | b | `shows_it` | `name` |";

    fn found(text: &str, file: &str, page: &str, test: &str) -> Vec<String> {
        let patch = Patch { name: "name".to_owned(), text: text.to_owned() };
        findings(&[patch], &[test.to_owned()].into(), page, |_| file.to_owned())
    }

    #[test]
    fn a_patch_that_applies_and_is_described_is_no_finding() {
        assert!(found(TEXT, "zero\none\ntwo\nthree\n", ROW, "shows_it").is_empty());
    }

    #[test]
    fn each_thing_that_goes_stale_is_a_finding() {
        let file = "one\ntwo\nthree\n";
        assert_eq!(found(TEXT, "one\n2\nthree\n", ROW, "shows_it").len(), 1);
        assert_eq!(found(TEXT, &file.repeat(2), ROW, "shows_it").len(), 1);
        assert_eq!(found(TEXT, file, "", "shows_it").len(), 1);
        assert_eq!(found(TEXT, file, ROW, "shows_something_else").len(), 1);
        assert_eq!(found("Rule: a\n", file, ROW, "shows_it").len(), 2);
    }

    #[test]
    fn rules_are_found_where_a_line_or_a_sentence_begins_with_their_name() {
        assert_eq!(stated("V1. One thing. V2. Another, as of (C1)."), ["V1", "V2"]);
        assert!(stated("as I3 says. It is so. (P2 too. )").is_empty());
    }

    #[test]
    fn a_rule_without_patch_is_a_finding_unless_it_is_named() {
        let rules = "A1. One.\nA12. Another.\n";
        let patch = |rule: &str| Patch { name: String::new(), text: format!("Rule: {rule}\n") };
        let found = |patches: &[Patch], page: &str| without_patch(patches, rules, page).len();
        assert_eq!(found(&[patch("A1: x"), patch("A12 for y: x")], ""), 0);
        assert_eq!(found(&[patch("A12: x")], ""), 1);
        let page = format!("{WITHOUT}A1, since so.\n");
        assert_eq!(found(&[patch("A12: x")], &page), 0);
        assert_eq!(found(&[patch("A1: x"), patch("A12: x")], &page), 1);
        assert_eq!(without_patch(&[], "", "").len(), 1);
    }

    #[test]
    fn only_functions_marked_so_are_tests() {
        let source = Source::new("a.rs", "#[test]\n#[ignore]\nfn a() {}\nfn b() {}\n");
        assert_eq!(test_names(&[source]), ["a".to_owned()].into());
    }
}
