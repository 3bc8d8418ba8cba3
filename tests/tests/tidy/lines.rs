//! Rules for single lines, and the length of files.

use crate::tree::Source;

const COLUMNS_MAX: usize = 100;
const LINES_MAX: usize = 1_000;

/// Macros that mark code as unfinished; they may stand in text, not in code.
const UNFINISHED: [&str; 3] = ["todo!", "unimplemented!", "dbg!"];
/// Words that mark a place as unfinished, in comments too. Put together so that this is not one.
const MARKERS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];

pub fn findings(source: &Source) -> Vec<String> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: &str| {
        findings.push(format!("{}:{line}: {what}", source.path));
    };
    let line_count = source.text.lines().count();
    if line_count > LINES_MAX {
        find(line_count, &format!("more than {LINES_MAX} lines: split the file"));
    }
    let tests_from = source.tests_from();
    for (index, text) in source.text.split('\n').enumerate() {
        let line = index + 1;
        if text.chars().count() > COLUMNS_MAX {
            find(line, &format!("more than {COLUMNS_MAX} columns"));
        }
        if text.contains('\t') {
            find(line, "a tab");
        }
        if text.contains('\r') {
            find(line, "a carriage return");
        }
        if text.ends_with(' ') {
            find(line, "a blank at the end");
        }
        if !text.is_ascii() && line < tests_from {
            find(line, "a character outside ASCII");
        }
        for marker in MARKERS.iter().filter(|marker| has_word(text, marker)) {
            find(line, &format!("{marker}: do it, or write down where it will be done"));
        }
    }
    for (index, code) in source.code.lines().enumerate() {
        for unfinished in UNFINISHED.iter().filter(|name| has_word(code, name)) {
            find(index + 1, &format!("{unfinished} is left over"));
        }
    }
    if !source.text.is_empty() && (!source.text.ends_with('\n') || source.text.ends_with("\n\n")) {
        find(line_count, "the file does not end with one line end");
    }
    findings
}

/// True when `word` stands in `text` and is not the end of a longer word, or the start of one.
fn has_word(text: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !joins(before) && (word.ends_with('!') || !joins(after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        findings(&Source::new(path, text))
    }

    #[test]
    fn each_fault_of_a_line_is_found() {
        for text in [
            format!("// {}\n", "a".repeat(98)),
            "\tfn a() {}\n".to_owned(),
            "fn a() {} \n".to_owned(),
            "fn a() {}\r\n".to_owned(),
            "// caf\u{e9}\n".to_owned(),
            format!("// {}: later\n", MARKERS[0]),
            format!("// {} later\n", MARKERS[1]),
            "fn a() { todo!() }\n".to_owned(),
            "fn a() { unimplemented!() }\n".to_owned(),
            "fn a() { dbg!(1); }\n".to_owned(),
            "fn a() {}".to_owned(),
            "fn a() {}\n\n".to_owned(),
        ] {
            assert_eq!(found("crates/sapwood/src/a.rs", &text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn clean_lines_pass() {
        let text = format!("// {}\nconst A: &str = \"todo!\";\n", "a".repeat(97));
        assert_eq!(found("crates/sapwood/src/a.rs", &text), Vec::<String>::new());
        assert_eq!(found("crates/sapwood/src/a.rs", "const WXXXY: u8 = 1;\n").len(), 0);
    }

    #[test]
    fn tests_may_hold_any_character() {
        let text = "#[cfg(test)]\nmod tests {\n    // caf\u{e9}\n}\n";
        assert_eq!(found("crates/sapwood/src/a.rs", text).len(), 0);
        assert_eq!(found("tests/tests/a.rs", "// caf\u{e9}\n").len(), 0);
    }

    #[test]
    fn a_long_file_is_found() {
        assert_eq!(found("a.rs", &"//\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(found("a.rs", &"//\n".repeat(LINES_MAX)).len(), 0);
    }
}
